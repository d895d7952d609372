/*
 * The manager works in a context and with a driver that somebody else opened, and leaves both as they were. The owner
 * here is a program that uses the driver by itself, like a program under an LD_PRELOAD shim.
 */
#include "../../driver/softcuda/softcuda.h"
#include "../../vmm/kvshare.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The owner's own view of its driver: nothing of it goes through kvshare. */
static struct {
	void *library;
	CUresult (*init)(unsigned int);
	CUresult (*create)(CUcontext *, unsigned int, CUdevice);
	CUresult (*destroy)(CUcontext);
	CUresult (*get_current)(CUcontext *);
	CUresult (*set_current)(CUcontext);
	CUresult (*primary_state)(CUdevice, unsigned int *, int *);
	CUresult (*alloc)(CUdeviceptr *, size_t);
	CUresult (*free)(CUdeviceptr);
	softcuda_get_counters_fn *counters;
	CUcontext context;
} owner;

static void *symbol(const char *name)
{
	void *found = dlsym(owner.library, name);

	if (!found)
		fprintf(stderr, "softcuda has no %s\n", name);
	return found;
}

static int owner_open(void **state)
{
	(void)state;
	owner.library = dlopen(getenv("KVSHARE_SOFTCUDA"), RTLD_NOW | RTLD_LOCAL);
	if (!owner.library)
		return -1;
	owner.init = symbol("cuInit");
	owner.create = symbol("cuCtxCreate_v2");
	owner.destroy = symbol("cuCtxDestroy_v2");
	owner.get_current = symbol("cuCtxGetCurrent");
	owner.set_current = symbol("cuCtxSetCurrent");
	owner.primary_state = symbol("cuDevicePrimaryCtxGetState");
	owner.alloc = symbol("cuMemAlloc_v2");
	owner.free = symbol("cuMemFree_v2");
	owner.counters = symbol(SOFTCUDA_GET_COUNTERS);
	return owner.init(0) || owner.create(&owner.context, 0, 0);
}

static int owner_close(void **state)
{
	(void)state;
	return (int)owner.destroy(owner.context);
}

static CUcontext current(void)
{
	CUcontext context = NULL;

	assert_int_equal(owner.get_current(&context), 0);
	return context;
}

static kvs_cu *adopt(void)
{
	const struct kvs_cu_driver driver = {kvs_cu_symbol_of_library, owner.library};
	kvs_cu *cu;

	if (kvs_cu_adopt(&driver, owner.context, 0, &cu))
		fail_msg("%s", kvs_error());
	return cu;
}

static void assert_owner_works(void)
{
	CUdeviceptr address;
	unsigned int flags;
	int active = 1;

	assert_ptr_equal(current(), owner.context);
	assert_int_equal(owner.primary_state(0, &flags, &active), 0);
	assert_false(active);
	assert_int_equal(owner.alloc(&address, 1000), 0);
	assert_int_equal(owner.free(address), 0);
}

static void share_a_region(kvs_cu *cu)
{
	struct kvs_vmm_options options = {0};
	kvs_region *keys, *borrower;
	uint32_t word = 0;
	kvs_vmm *vmm;
	size_t granule;

	assert_int_equal(kvs_vmm_create(cu, &options, &vmm), 0);
	granule = kvs_vmm_granule_bytes(vmm);
	assert_int_equal(kvs_region_reserve(vmm, 4 * granule, 1, &keys), 0);
	assert_int_equal(kvs_region_reserve(vmm, 4 * granule, 1, &borrower), 0);
	assert_int_equal(kvs_region_resize(keys, 0, 2 * granule), 0);
	assert_int_equal(kvs_region_share(borrower, keys), 0);
	assert_int_equal(cu->cuMemsetD32Async(kvs_region_address(keys, 0), 0x5eed, 4, NULL), 0);
	assert_int_equal(cu->cuStreamSynchronize(NULL), 0);
	assert_int_equal(cu->cuMemcpyDtoH(&word, kvs_region_address(borrower, 0), sizeof(word)), 0);
	assert_int_equal(word, 0x5eed);
	kvs_region_free(borrower);
	kvs_region_free(keys);
	kvs_vmm_free(vmm);
}

static void the_manager_works_in_an_adopted_context(void **state)
{
	struct softcuda_counters before, after;
	kvs_cu *cu;

	(void)state;
	owner.counters(&before);
	cu = adopt();
	assert_int_equal(cu->kind, KVS_DEVICE_HOST);
	assert_true(cu->memory_bytes > 0 && *cu->name && cu->driver_version >= 12040);
	assert_int_equal(kvs_cu_bind(cu), 0);
	share_a_region(cu);
	assert_owner_works();
	kvs_cu_close(cu);
	assert_owner_works();
	owner.counters(&after);
	assert_int_equal(after.contexts, before.contexts);
	assert_int_equal(after.physical_bytes, before.physical_bytes);
	assert_int_equal(after.reservations, before.reservations);
}

/*
 * A shim's hooks come before the driver's functions; the table must hold what the resolver gave, not what dlsym finds.
 */
static int asked, hooked;

static CUresult CUDAAPI hook(size_t *free, size_t *total)
{
	hooked++;
	*free = *total = 1;
	return CUDA_SUCCESS;
}

static void *shim_symbol(void *arg, const char *name)
{
	asked++;
	return strcmp(name, "cuMemGetInfo_v2") ? dlsym(arg, name) : (void *)hook;
}

static void *symbol_without_cumemmap(void *arg, const char *name)
{
	return strcmp(name, "cuMemMap") && strncmp(name, "cuGetProcAddress", 16) ? dlsym(arg, name) : NULL;
}

static void the_resolver_has_the_word(void **state)
{
	struct kvs_cu_driver driver = {shim_symbol, owner.library};
	size_t free, total;
	kvs_cu *cu;
	int asked_before;

	(void)state;
	assert_int_equal(kvs_cu_adopt(&driver, owner.context, 0, &cu), 0);
	asked_before = asked;
	assert_int_equal(cu->cuMemGetInfo(&free, &total), 0);
	assert_int_equal(hooked, 1);
	assert_int_equal(asked, asked_before);
	kvs_cu_close(cu);

	driver.symbol = symbol_without_cumemmap;
	assert_int_equal(kvs_cu_adopt(&driver, owner.context, 0, &cu), -ENODEV);
	assert_non_null(strstr(kvs_error(), "cuMemMap"));
	assert_null(cu);
	assert_int_equal(kvs_cu_adopt(&driver, NULL, 0, &cu), -EINVAL);
	assert_owner_works();
}

static void binding_never_replaces_another_context(void **state)
{
	kvs_cu *cu = adopt();
	CUcontext other;

	(void)state;
	assert_int_equal(owner.create(&other, 0, 0), 0);
	assert_int_equal(kvs_cu_bind(cu), -EBUSY);
	assert_ptr_equal(current(), other);
	assert_int_equal(kvs_cu_enter(cu), 0);
	assert_ptr_equal(current(), owner.context);
	assert_int_equal(kvs_cu_enter(cu), 0);
	kvs_cu_leave(cu);
	assert_ptr_equal(current(), owner.context);
	kvs_cu_leave(cu);
	assert_ptr_equal(current(), other);
	kvs_cu_close(cu);
	assert_ptr_equal(current(), other);
	assert_int_equal(owner.destroy(other), 0);
	assert_owner_works();
}

static void *thread_of_ours(void *arg)
{
	kvs_cu *cu = arg;
	CUdeviceptr address;
	CUresult result = CUDA_ERROR_UNKNOWN;

	if (current() || kvs_cu_bind(cu) || current() != owner.context)
		return (void *)1;
	result = cu->cuMemAlloc(&address, 100);
	return result || cu->cuMemFree(address) ? (void *)1 : NULL;
}

static void *thread_of_the_owner(void *arg)
{
	kvs_cu *cu = arg;

	if (kvs_cu_enter(cu) || current() != owner.context)
		return (void *)1;
	kvs_cu_leave(cu);
	return current() ? (void *)1 : NULL;
}

static void threads_bind_or_enter(void **state)
{
	void *(*const bodies[])(void *) = {thread_of_ours, thread_of_the_owner};
	kvs_cu *cu = adopt();
	pthread_t thread;
	void *failed;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&thread, NULL, bodies[i], cu), 0);
		pthread_join(thread, &failed);
		assert_null(failed);
	}
	kvs_cu_close(cu);
	assert_owner_works();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_manager_works_in_an_adopted_context),
		cmocka_unit_test(the_resolver_has_the_word),
		cmocka_unit_test(binding_never_replaces_another_context),
		cmocka_unit_test(threads_bind_or_enter),
	};

	return cmocka_run_group_tests(tests, owner_open, owner_close);
}
