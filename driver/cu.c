/*
 * driver/cu.c: opens a device: finds a driver library, fills the function table from it and retains the primary
 * context; or adopts a driver and a context that somebody else opened.
 *
 * Symbols are looked up under the versioned names that cuda.h's macros give, so that each function has the table's
 * type; a driver that does not export such a name is asked through cuGetProcAddress before we give up.
 */
#include "cu.h"
#include "internal.h"
#include "softcuda/softcuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x) /* of what a macro expands to: cuMemAlloc gives "cuMemAlloc_v2" */

#define GPU_DRIVER "libcuda.so.1"

typedef CUresult get_proc_address_fn(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

static const struct {
	const char *base, *symbol;
	size_t offset; /* of the function's pointer in kvs_cu */
} functions[] = {
#define FUNCTION_ROW(name) {#name, TEXT(name), offsetof(kvs_cu, name)},
	KVS_CU_FUNCTIONS(FUNCTION_ROW)
#undef FUNCTION_ROW
};

void *kvs_cu_symbol_of_library(void *library, const char *name)
{
	return dlsym(library, name);
}

static void *symbol_find(const struct kvs_cu_driver *driver, const char *base, const char *symbol)
{
	get_proc_address_fn *get_proc_address;
	CUdriverProcAddressQueryResult status;
	void *found = driver->symbol(driver->arg, symbol);

	if (found)
		return found;
	get_proc_address = (get_proc_address_fn *)driver->symbol(driver->arg, "cuGetProcAddress_v2");
	if (!get_proc_address || get_proc_address(base, &found, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, &status))
		return NULL;
	return found;
}

/* The version is known before cuInit; 0 from a library that cannot tell. */
static int version_of(const struct kvs_cu_driver *driver)
{
	CUresult (*get_version)(int *) = (CUresult(*)(int *))driver->symbol(driver->arg, "cuDriverGetVersion");
	int version = 0;

	return get_version && !get_version(&version) ? version : 0;
}

/* `name` is what a message calls the driver. */
static int table_fill(kvs_cu *cu, const struct kvs_cu_driver *driver, const char *name)
{
	cu->driver_version = version_of(driver);
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		void *found = symbol_find(driver, functions[i].base, functions[i].symbol);

		if (!found)
			return kvs_fail(-ENODEV,
				"%s (driver version %d.%d) has no %s; kvshare needs the driver of CUDA 12.4 or newer",
				name, cu->driver_version / 1000, cu->driver_version % 1000 / 10, functions[i].symbol);
		memcpy((char *)cu + functions[i].offset, &found, sizeof(found));
	}
	return 0;
}

static int library_open(kvs_cu *cu, const char *path)
{
	struct kvs_cu_driver driver = {.symbol = kvs_cu_symbol_of_library};
	int err;

	/* A driver's threads and exit handlers outlive dlclose(), so its code must. */
	cu->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!cu->library)
		return kvs_fail(-ENODEV,
			cu->kind == KVS_DEVICE_CUDA
				? "no CUDA driver (%s); install NVIDIA's driver, or use the host device"
				: "softcuda does not load: %s",
			dlerror());
	driver.arg = cu->library;
	err = table_fill(cu, &driver, path);
	if (err) {
		dlclose(cu->library);
		cu->library = NULL;
	}
	return err;
}

static int device_describe(kvs_cu *cu)
{
	int major = 0, minor = 0;
	CUresult result = cu->cuDeviceGetName(cu->name, sizeof(cu->name), cu->device);

	if (!result)
		result = cu->cuDeviceTotalMem(&cu->memory_bytes, cu->device);
	if (!result)
		result = cu->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, cu->device);
	if (!result)
		result = cu->cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, cu->device);
	if (!result)
		result = cu->cuDeviceGetAttribute(
			&cu->multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, cu->device);
	if (!result)
		result = cu->cuDeviceGetAttribute(
			&cu->max_shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, cu->device);
	if (result)
		return kvs_cu_fail(cu, result, "cannot read the attributes of device %d", cu->device);
	cu->compute_capability = 10 * major + minor;
	return 0;
}

int kvs_cu_on_kernel(const kvs_cu *cu, kvs_cu_kernel_callback *callback, void *arg)
{
	softcuda_on_kernel_fn *tell =
		cu->library ? (softcuda_on_kernel_fn *)dlsym(cu->library, SOFTCUDA_ON_KERNEL) : NULL;

	if (!tell)
		return kvs_fail(-ENOTSUP, "%s does not tell when kernels run", cu->name);
	tell(callback, arg);
	return 0;
}

/* The problem that softcuda found in its settings; "": none, or another driver. */
static const char *problem_of(const kvs_cu *cu)
{
	softcuda_problem_fn *problem = (softcuda_problem_fn *)dlsym(cu->library, SOFTCUDA_PROBLEM);

	return problem ? problem() : "";
}

static int device_open(kvs_cu *cu, int ordinal)
{
	int count = 0, err;
	CUresult result = cu->cuInit(0);
	const char *problem = result ? problem_of(cu) : "";

	if (result)
		return kvs_cu_fail(
			cu, result, "the CUDA driver does not start (cuInit%s%s)", *problem ? ", " : "", problem);
	result = cu->cuDriverGetVersion(&cu->driver_version);
	if (!result)
		result = cu->cuDeviceGetCount(&count);
	if (result)
		return kvs_cu_fail(cu, result, "the CUDA driver does not tell its devices");
	if (ordinal >= count)
		return kvs_fail(-ENODEV, "device %d was asked for, the driver has %d (counted from 0)", ordinal, count);
	result = cu->cuDeviceGet(&cu->device, ordinal);
	if (result)
		return kvs_cu_fail(cu, result, "cannot get device %d", ordinal);
	err = device_describe(cu);
	if (err)
		return err;
	result = cu->cuDevicePrimaryCtxRetain(&cu->context, cu->device);
	if (result)
		return kvs_cu_fail(
			cu, result, "cannot retain the primary context of device %d (%s)", ordinal, cu->name);
	result = cu->cuCtxSetCurrent(cu->context);
	if (!result)
		return 0;
	err = kvs_cu_fail(cu, result, "cannot make the primary context of device %d current", ordinal);
	KVS_CU_GIVE_BACK(cu->cuDevicePrimaryCtxRelease, cu->device);
	return err;
}

/*
 * Once softcuda is loaded it answers to the GPU driver's name until the process ends, as that is its soname; so does one in
 * the loader's path, under `exec --device host`. For "auto" it is no GPU.
 */
static int refuse_softcuda(const kvs_cu *cu)
{
	if (!dlsym(cu->library, SOFTCUDA_ON_KERNEL))
		return 0;
	return kvs_fail(-ENODEV, GPU_DRIVER " is softcuda in this process, no GPU's driver");
}

/* `genuine`: not softcuda under the name of the GPU's driver. */
static int kind_open(enum kvs_device_kind kind, int ordinal, bool genuine, kvs_cu **out)
{
	char path[PATH_MAX] = GPU_DRIVER;
	kvs_cu *cu = calloc(1, sizeof(*cu));
	int err;

	if (!cu)
		return kvs_fail(-ENOMEM, "no memory for a device's table");
	cu->kind = kind;
	err = kind == KVS_DEVICE_HOST ? kvs_cu_find_softcuda(path, sizeof(path)) : 0;
	if (err)
		goto out_free;
	err = library_open(cu, path);
	if (err)
		goto out_free;
	err = genuine ? refuse_softcuda(cu) : 0;
	if (!err)
		err = device_open(cu, ordinal);
	if (err)
		goto out_close;
	*out = cu;
	return 0;

out_close:
	dlclose(cu->library);
out_free:
	free(cu);
	return err;
}

/* "cuda" or "cuda:N" */
static int ordinal_parse(const char *device, int *ordinal)
{
	char *end;
	long number;

	*ordinal = 0;
	if (!strcmp(device, "cuda"))
		return 0;
	if (strncmp(device, "cuda:", 5) || device[5] < '0' || device[5] > '9')
		return -EINVAL;
	errno = 0;
	number = strtol(device + 5, &end, 10);
	if (*end || errno || number > INT_MAX)
		return -EINVAL;
	*ordinal = (int)number;
	return 0;
}

int kvs_cu_open(const char *device, kvs_cu **out)
{
	int ordinal;

	*out = NULL;
	if (!strcmp(device, "host"))
		return kind_open(KVS_DEVICE_HOST, 0, false, out);
	if (!strcmp(device, "auto"))
		return kind_open(KVS_DEVICE_CUDA, 0, true, out) ? kind_open(KVS_DEVICE_HOST, 0, false, out) : 0;
	if (ordinal_parse(device, &ordinal))
		return kvs_fail(-EINVAL, "no such device: %s (auto, cuda, cuda:N or host)", device);
	return kind_open(KVS_DEVICE_CUDA, ordinal, false, out);
}

int kvs_cu_adopt(const struct kvs_cu_driver *driver, CUcontext context, CUdevice device, kvs_cu **out)
{
	kvs_cu *cu;
	int err;

	*out = NULL;
	if (!context)
		return kvs_fail(-EINVAL, "no context was given to adopt (NULL)");
	cu = calloc(1, sizeof(*cu));
	if (!cu)
		return kvs_fail(-ENOMEM, "no memory for a device's table");
	cu->adopted = true;
	cu->context = context;
	cu->device = device;
	cu->kind = driver->symbol(driver->arg, SOFTCUDA_GET_COUNTERS) ? KVS_DEVICE_HOST : KVS_DEVICE_CUDA;
	err = table_fill(cu, driver, "the driver to adopt");
	if (!err)
		err = device_describe(cu);
	if (err)
		free(cu);
	else
		*out = cu;
	return err;
}

/* Undoes kvs_cu_open(). */
static void context_give_back(kvs_cu *cu)
{
	CUcontext current = NULL;

	if (!cu->cuCtxGetCurrent(&current) && current == cu->context)
		cu->cuCtxSetCurrent(NULL);
	KVS_CU_GIVE_BACK(cu->cuDevicePrimaryCtxRelease, cu->device);
	dlclose(cu->library);
}

void kvs_cu_close(kvs_cu *cu)
{
	if (!cu)
		return;
	driver_forget_observers(cu);
	if (!cu->adopted)
		context_give_back(cu);
	free(cu);
}

/* ---- the current context ---- */

int kvs_cu_bind(const kvs_cu *cu)
{
	CUcontext current = NULL;
	CUresult result = cu->adopted ? cu->cuCtxGetCurrent(&current) : CUDA_SUCCESS;

	if (!result && current == cu->context)
		return 0;
	if (!result && current)
		return kvs_fail(-EBUSY,
			"this thread works in another context, which an adopted one does not replace; enter and leave "
			"it (kvs_cu_enter) instead of binding");
	if (!result)
		result = cu->cuCtxSetCurrent(cu->context);
	return result ? kvs_cu_fail(cu, result, "cannot make the device's context current") : 0;
}

int kvs_cu_enter(const kvs_cu *cu)
{
	CUresult result = cu->cuCtxPushCurrent(cu->context);

	return result ? kvs_cu_fail(cu, result, "cannot enter the device's context") : 0;
}

void kvs_cu_leave(const kvs_cu *cu)
{
	CUcontext left;

	cu->cuCtxPopCurrent(&left);
}
