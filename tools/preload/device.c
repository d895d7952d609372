/*
 * tools/preload/device.c: a memory manager for each context of the program's that has a cache. Who calls holds cache.c's lock.
 */
#include "preload.h"

#include <errno.h>
#include <stdlib.h>

struct shim_device *shim_devices;

static int device_create(CUcontext context, CUdevice device, struct shim_device **out)
{
	const struct kvs_cu_driver driver = {.symbol = shim_real_symbol};
	const struct kvs_vmm_options options = {.no_free_list = true, .write_borrowed = shim_settings()->last};
	struct shim_device *created = calloc(1, sizeof(*created));
	int err;

	if (!created)
		return kvs_fail(-ENOMEM, "no memory for a device");
	created->context = context;
	err = kvs_cu_adopt(&driver, context, device, &created->cu);
	if (err)
		goto out_free;
	shim_profile_engine(created->cu);
	err = kvs_vmm_create(created->cu, &options, &created->vmm);
	if (err)
		goto out_close;
	created->next = shim_devices;
	shim_devices = created;
	*out = created;
	return 0;

out_close:
	kvs_cu_close(created->cu);
out_free:
	free(created);
	return err;
}

/* The device of the calling thread's context. */
int shim_device_get(struct shim_device **out)
{
	const struct shim_real *driver = shim_real();
	CUcontext context = NULL;
	CUdevice device;

	if (!shim_settings()->last && !driver->cuFuncGetParamInfo)
		return kvs_fail(-ENOTSUP, "the driver does not tell the parameters of kernels (cuFuncGetParamInfo, "
					  "since CUDA 12.4), so none "
					  "could be kept from a borrower; --policy last needs no such thing");
	if (!driver->cuCtxGetCurrent || driver->cuCtxGetCurrent(&context) || !context ||
		driver->cuCtxGetDevice(&device))
		return kvs_fail(-ENODEV, "no context is current");
	for (*out = shim_devices; *out && (*out)->context != context;)
		*out = (*out)->next;
	return *out ? 0 : device_create(context, device, out);
}

static void device_free(struct shim_device *device)
{
	struct shim_device **link = &shim_devices;

	while (*link != device)
		link = &(*link)->next;
	*link = device->next;
	kvs_vmm_free(device->vmm);
	kvs_cu_close(device->cu);
	free(device);
}

void shim_devices_free(CUcontext context)
{
	for (struct shim_device *device = shim_devices, *next; device; device = next) {
		next = device->next;
		if (device->context == context)
			device_free(device);
	}
}
