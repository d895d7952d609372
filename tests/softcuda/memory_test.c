/*
 * softcuda's memory, checked as a GPU's driver checks it: an allocation ends where the program's size ends; freeing
 * waits for pending work, and reports work that still used the memory; memory cannot be registered twice.
 */
#include "../../driver/cu.h"
#include "../../driver/softcuda/softcuda.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
	kvs_cu *cu;
	softcuda_get_counters_fn *get_counters;
	softcuda_reset_fn *reset;
	CUresult (*register_host)(void *, size_t, unsigned int);
	CUresult (*unregister_host)(void *);
} on;

static int open_device(void **state)
{
	(void)state;
	setenv("SOFTCUDA_STRICT", "0", 1); /* a hazard is expected here: it is counted, and not told */
	if (kvs_cu_open("host", &on.cu)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	on.get_counters = (softcuda_get_counters_fn *)dlsym(on.cu->library, SOFTCUDA_GET_COUNTERS);
	on.reset = (softcuda_reset_fn *)dlsym(on.cu->library, SOFTCUDA_RESET);
	on.register_host = (CUresult(*)(void *, size_t, unsigned int))dlsym(on.cu->library, "cuMemHostRegister_v2");
	on.unregister_host = (CUresult(*)(void *))dlsym(on.cu->library, "cuMemHostUnregister");
	return !on.get_counters || !on.reset || !on.register_host || !on.unregister_host;
}

static int close_device(void **state)
{
	(void)state;
	on.reset();
	kvs_cu_close(on.cu);
	return 0;
}

static size_t hazards(void)
{
	struct softcuda_counters counters;

	on.get_counters(&counters);
	return counters.hazards;
}

/* The page goes on past these bytes: only the driver's own table knows where they end. */
static void a_copy_past_the_end_of_an_allocation_is_refused(void **state)
{
	char host[200] = {0};
	CUdeviceptr memory;

	(void)state;
	assert_int_equal(on.cu->cuMemAlloc(&memory, 100), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemcpyHtoD(memory, host, 100), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemcpyDtoH(host, memory + 50, 50), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemcpyHtoD(memory, host, 101), CUDA_ERROR_INVALID_VALUE);
}

static void CUDA_CB take_a_while(void *done)
{
	usleep(50000);
	__atomic_store_n((int *)done, 1, __ATOMIC_RELEASE);
}

/* "cudaFree synchronizes across all streams" (Programming Guide); a memset that waits there still wants the memory. */
static void freeing_waits_and_tells_of_a_pending_use(void **state)
{
	CUdeviceptr memory, other;
	CUstream stream;
	size_t before = hazards();
	int done = 0;

	(void)state;
	assert_int_equal(on.cu->cuMemAlloc(&memory, 4096), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemAlloc(&other, 4096), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuLaunchHostFunc(stream, take_a_while, &done), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemsetD8Async(memory, 1, 4096, stream), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemFree(other), CUDA_SUCCESS);
	assert_int_equal(__atomic_load_n(&done, __ATOMIC_ACQUIRE), 1);
	assert_int_equal(hazards(), before); /* nothing used that one */
	assert_int_equal(on.cu->cuLaunchHostFunc(stream, take_a_while, &done), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemsetD8Async(memory, 1, 4096, stream), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemFree(memory), CUDA_SUCCESS);
	assert_int_equal(hazards(), before + 1);
	assert_int_equal(on.cu->cuStreamDestroy(stream), CUDA_SUCCESS);
}

static void host_memory_is_registered_once(void **state)
{
	char *memory = aligned_alloc(4096, 3 * 4096);

	(void)state;
	assert_non_null(memory);
	assert_int_equal(on.register_host(memory, 2 * 4096, 0), CUDA_SUCCESS);
	assert_int_equal(on.register_host(memory, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
	assert_int_equal(on.register_host(memory + 4096, 2 * 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
	assert_int_equal(on.register_host(memory + 2 * 4096, 4096, 0), CUDA_SUCCESS);
	assert_int_equal(on.unregister_host(memory), CUDA_SUCCESS);
	assert_int_equal(on.unregister_host(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	assert_int_equal(on.unregister_host(memory + 2 * 4096), CUDA_SUCCESS);
	free(memory);
}

/* Pages of [at, at + bytes) that this process's page tables have. */
static size_t pages_present(CUdeviceptr at, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), present = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	assert_true(fd >= 0);
	for (CUdeviceptr end = at + bytes; at < end; at += page) {
		assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)(at / page * sizeof(entry))), sizeof(entry));
		present += entry >> 63;
	}
	close(fd);
	return present;
}

/* Filling page tables costs by the page: once for each block, however often it is mapped. */
static void pages_are_populated_for_one_mapping_of_a_block(void **state)
{
	CUmemAllocationProp properties = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location.type = CU_MEM_LOCATION_TYPE_DEVICE};
	CUmemAccessDesc access = {.location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	size_t granule, pages;
	CUdeviceptr at;

	(void)state;
	assert_int_equal(
		on.cu->cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM), 0);
	pages = granule / (size_t)sysconf(_SC_PAGESIZE);
	assert_int_equal(on.cu->cuMemCreate(&handle, granule, &properties, 0), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemAddressReserve(&at, 3 * granule, 0, 0, 0), CUDA_SUCCESS);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(on.cu->cuMemMap(at + i * granule, granule, 0, handle, 0), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemSetAccess(at + granule, 2 * granule, &access, 1), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemSetAccess(at, granule, &access, 1), CUDA_SUCCESS);
#ifdef MADV_POPULATE_WRITE
	assert_int_equal(pages_present(at + granule, granule), pages);
#endif
	assert_int_equal(pages_present(at, granule), 0);
	assert_int_equal(pages_present(at + 2 * granule, granule), 0);
	/* The others are there when they are used, and a block whose populated mapping has gone is populated again. */
	assert_int_equal(on.cu->cuMemsetD8(at, 1, granule), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuCtxSynchronize(), CUDA_SUCCESS);
	assert_int_equal(pages_present(at, granule), pages);
	assert_int_equal(on.cu->cuMemUnmap(at, 3 * granule), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemMap(at, granule, 0, handle, 0), CUDA_SUCCESS);
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
	assert_int_equal(on.cu->cuMemSetAccess(at, granule, &access, 1), CUDA_SUCCESS);
#ifdef MADV_POPULATE_WRITE
	assert_int_equal(pages_present(at, granule), pages);
#endif
	assert_int_equal(on.cu->cuMemUnmap(at, granule), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemAddressFree(at, 3 * granule), CUDA_SUCCESS);
	assert_int_equal(on.cu->cuMemRelease(handle), CUDA_SUCCESS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_copy_past_the_end_of_an_allocation_is_refused, open_device, close_device),
		cmocka_unit_test_setup_teardown(freeing_waits_and_tells_of_a_pending_use, open_device, close_device),
		cmocka_unit_test_setup_teardown(
			pages_are_populated_for_one_mapping_of_a_block, open_device, close_device),
		cmocka_unit_test_setup_teardown(host_memory_is_registered_once, open_device, close_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
