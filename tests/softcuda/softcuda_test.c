/*
 * What softcuda promises beyond the rules that the conformance tests check on every driver: counters, failures on
 * demand, hazards, faults that the process outlives, memory that is really given back, and its answers for features
 * that it lacks.
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define THREADS 64

struct fixture {
	kvs_cu *cu;
	size_t granule;
	CUmemAllocationProp properties;
	softcuda_get_counters_fn *get_counters;
	softcuda_fail_nth_fn *fail_nth;
	softcuda_failed_fn *failed;
	softcuda_reset_fn *reset;
};

static struct fixture *fixture;

static int fixture_open(void **state)
{
	static struct fixture f;
	void *library;

	(void)state;
	if (kvs_cu_open("host", &f.cu)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	library = f.cu->library;
	f.get_counters = (softcuda_get_counters_fn *)dlsym(library, SOFTCUDA_GET_COUNTERS);
	f.fail_nth = (softcuda_fail_nth_fn *)dlsym(library, SOFTCUDA_FAIL_NTH);
	f.failed = (softcuda_failed_fn *)dlsym(library, SOFTCUDA_FAILED);
	f.reset = (softcuda_reset_fn *)dlsym(library, SOFTCUDA_RESET);
	f.properties = (CUmemAllocationProp){
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location.type = CU_MEM_LOCATION_TYPE_DEVICE};
	fixture = &f;
	return f.cu->cuMemGetAllocationGranularity(&f.granule, &f.properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
}

/* Everything is given back, whatever a test left behind; then the table is closed. */
static int fixture_close(void **state)
{
	(void)state;
	fixture->reset();
	unsetenv("SOFTCUDA_TIMEOUT");
	kvs_cu_close(fixture->cu);
	return 0;
}

static struct softcuda_counters counters(void)
{
	struct softcuda_counters now;

	fixture->get_counters(&now);
	return now;
}

static CUmodule module_load(void)
{
	const char *build = getenv("BUILD");
	struct stat file;
	char path[512];
	CUmodule module;
	void *bytes;
	int fd;

	snprintf(path, sizeof(path), "%s/tests/softcuda/softcuda_kernels.so", build ? build : "build");
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &file), 0);
	bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(bytes != MAP_FAILED);
	assert_int_equal(fixture->cu->cuModuleLoadData(&module, bytes), CUDA_SUCCESS);
	munmap(bytes, (size_t)file.st_size);
	close(fd);
	return module;
}

static CUfunction function_get(CUmodule module, const char *name)
{
	CUfunction function;

	assert_int_equal(fixture->cu->cuModuleGetFunction(&function, module, name), CUDA_SUCCESS);
	return function;
}

static CUresult launch(CUfunction function, unsigned blocks, CUstream stream, void **params)
{
	return fixture->cu->cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, stream, params, NULL);
}

static void nothing_leaks_from_a_round_of_everything(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUmemGenericAllocationHandle handle;
	struct softcuda_counters now;
	CUdeviceptr range, memory;
	CUmodule module;
	CUstream stream;
	CUevent event;
	void *host;

	(void)state;
	assert_int_equal(cu->cuMemAddressReserve(&range, fixture->granule, 0, 0, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemCreate(&handle, fixture->granule, &fixture->properties, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemMap(range, fixture->granule, 0, handle, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAlloc(&memory, 100), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAllocHost(&host, 100), CUDA_SUCCESS);
	assert_int_equal(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	assert_int_equal(cu->cuEventCreate(&event, 0), CUDA_SUCCESS);
	module = module_load();
	now = counters();
	assert_int_equal(now.reservations, 1);
	assert_int_equal(now.handles, 1);
	assert_int_equal(now.mappings, 1);
	assert_int_equal(now.allocations, 1);
	assert_int_equal(now.host_allocations, 1);
	assert_int_equal(now.streams, 1);
	assert_int_equal(now.events, 1);
	assert_int_equal(now.modules, 1);
	assert_true(now.physical_bytes > fixture->granule);
	assert_int_equal(cu->cuModuleUnload(module), CUDA_SUCCESS);
	assert_int_equal(cu->cuEventDestroy(event), CUDA_SUCCESS);
	assert_int_equal(cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemFreeHost(host), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemFree(memory), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemRelease(handle), CUDA_SUCCESS);
	assert_int_equal(counters().handles, 1); /* its mapping holds it */
	assert_int_equal(cu->cuMemUnmap(range, fixture->granule), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAddressFree(range, fixture->granule), CUDA_SUCCESS);
	now = counters();
	assert_int_equal(now.reservations + now.handles + now.mappings + now.allocations + now.host_allocations, 0);
	assert_int_equal(now.streams + now.events + now.modules + now.physical_bytes + now.hazards + now.faults, 0);
}

static void a_stale_handle_is_refused_for_ever(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUmemGenericAllocationHandle stale, fresh;

	(void)state;
	assert_int_equal(cu->cuMemCreate(&stale, fixture->granule, &fixture->properties, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemRelease(stale), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemCreate(&fresh, fixture->granule, &fixture->properties, 0), CUDA_SUCCESS);
	assert_int_not_equal(stale, fresh);
	assert_int_equal(cu->cuMemRelease(stale), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu->cuMemRelease(fresh), CUDA_SUCCESS);
}

static void memory_runs_out_at_the_limit_and_comes_back(void **state)
{
	const kvs_cu *cu = fixture->cu;
	size_t most = cu->memory_bytes / fixture->granule * fixture->granule, free_bytes, total;
	CUmemGenericAllocationHandle handle, second;

	(void)state;
	assert_int_equal(
		cu->cuMemCreate(&handle, most + fixture->granule, &fixture->properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cu->cuMemCreate(&handle, 4 * fixture->granule, &fixture->properties, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemCreate(&second, most, &fixture->properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cu->cuMemGetInfo(&free_bytes, &total), CUDA_SUCCESS);
	assert_int_equal(total - free_bytes, 4 * fixture->granule);
	assert_int_equal(cu->cuMemRelease(handle), CUDA_SUCCESS);
	assert_int_equal(counters().physical_bytes, 0);
}

static void the_nth_call_of_a_function_fails_once(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUdeviceptr a, b;

	(void)state;
	fixture->fail_nth("cuMemAlloc", 2, CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cu->cuMemAlloc(&a, 64), CUDA_SUCCESS);
	assert_false(fixture->failed());
	assert_int_equal(cu->cuMemAlloc(&b, 64), CUDA_ERROR_OUT_OF_MEMORY);
	assert_true(fixture->failed());
	assert_int_equal(cu->cuMemAlloc(&b, 64), CUDA_SUCCESS);
	assert_int_equal(counters().allocations, 2);
	/* cuMemAllocHost begins with the same letters and is another function. */
	fixture->fail_nth("cuMemAlloc", 1, CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cu->cuMemFree(a), CUDA_SUCCESS);
	assert_false(fixture->failed());
	fixture->fail_nth(NULL, 1, CUDA_ERROR_UNKNOWN);
	assert_int_equal(cu->cuMemFree(b), CUDA_ERROR_UNKNOWN);
	assert_int_equal(cu->cuMemFree(b), CUDA_SUCCESS);
}

static void all_blocks_of_a_large_grid_run_once(void **state)
{
	enum { BLOCKS = 3000 };
	const kvs_cu *cu = fixture->cu;
	CUfunction add = function_get(module_load(), "softcuda_add");
	static int values[BLOCKS * THREADS];
	CUdeviceptr memory;
	int addend = 3;
	void *params[] = {&memory, &addend};

	(void)state;
	assert_int_equal(cu->cuMemAlloc(&memory, sizeof(values)), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemsetD32Async(memory, 4, BLOCKS * THREADS, NULL), CUDA_SUCCESS);
	assert_int_equal(launch(add, BLOCKS, NULL, params), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(values, memory, sizeof(values)), CUDA_SUCCESS);
	for (int i = 0; i < BLOCKS * THREADS; i++)
		assert_int_equal(values[i], 7);
}

/* A block of 1024 runs, and so does one of every shape that holds as many; one more is refused. */
static void a_block_has_at_most_1024_threads(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUfunction add = function_get(module_load(), "softcuda_add");
	CUdeviceptr memory;
	int addend = 1;
	void *params[] = {&memory, &addend};

	(void)state;
	assert_int_equal(cu->cuMemAlloc(&memory, 1024 * sizeof(int)), CUDA_SUCCESS);
	assert_int_equal(cu->cuLaunchKernel(add, 1, 1, 1, 1024, 1, 1, 0, NULL, params, NULL), CUDA_SUCCESS);
	assert_int_equal(cu->cuLaunchKernel(add, 1, 1, 1, 16, 1, 64, 0, NULL, params, NULL), CUDA_SUCCESS);
	assert_int_equal(cu->cuLaunchKernel(add, 1, 1, 1, 41, 25, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu->cuLaunchKernel(add, 1, 1, 1, 1, 1, 65, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu->cuCtxSynchronize(), CUDA_SUCCESS);
}

/* The launch has its own copy: what the caller does with the arguments afterwards has no effect. */
static void arguments_are_taken_at_the_call(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUfunction add = function_get(module_load(), "softcuda_add");
	int addend = 1, value = 0;
	CUdeviceptr memory, target;
	void *params[] = {&target, &addend};

	(void)state;
	assert_int_equal(cu->cuMemAlloc(&memory, THREADS * sizeof(int)), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemsetD32Async(memory, 0, THREADS, NULL), CUDA_SUCCESS);
	for (int i = 0; i < 100; i++) {
		target = memory;
		addend = i;
		assert_int_equal(launch(add, 1, NULL, params), CUDA_SUCCESS);
		target = 0;
		addend = -1;
	}
	assert_int_equal(cu->cuMemcpyDtoH(&value, memory, sizeof(value)), CUDA_SUCCESS);
	assert_int_equal(value, 99 * 100 / 2);
}

static void a_fault_loses_the_context_and_not_the_process(void **state)
{
	const kvs_cu *cu = fixture->cu;
	CUfunction add = function_get(module_load(), "softcuda_add");
	CUdeviceptr range, memory;
	int addend = 1;
	void *params[] = {&range, &addend};

	(void)state;
	assert_int_equal(cu->cuMemAlloc(&memory, 64), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAddressReserve(&range, fixture->granule, 0, 0, 0), CUDA_SUCCESS);
	assert_int_equal(launch(add, 1, NULL, params), CUDA_SUCCESS);
	assert_int_equal(cu->cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(launch(add, 1, NULL, params), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cu->cuMemsetD8(memory, 0, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(counters().faults, 1);
	assert_int_equal(cu->cuMemFree(memory), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAddressFree(range, fixture->granule), CUDA_SUCCESS);
	assert_int_equal(counters().physical_bytes, 0);
}

/* A kernel that runs until `memory` holds something else than 0, with that limit. The watchdog looks out already, for another. */
static CUdeviceptr spin_with_timeout(const char *seconds)
{
	const kvs_cu *cu = fixture->cu;
	CUdeviceptr memory;
	void *params[] = {&memory};
	CUfunction spin;

	setenv("SOFTCUDA_TIMEOUT", seconds, 1);
	fixture->reset(); /* reads the environment again; the context is gone with it */
	assert_int_equal(cu->cuDevicePrimaryCtxRetain(&fixture->cu->context, cu->device), CUDA_SUCCESS);
	assert_int_equal(cu->cuCtxSetCurrent(cu->context), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemAlloc(&memory, 64), CUDA_SUCCESS);
	spin = function_get(module_load(), "softcuda_spin");
	for (int value = 1; value >= 0; value--) { /* the first ends at once */
		assert_int_equal(cu->cuMemsetD8(memory, value, 64), CUDA_SUCCESS);
		assert_int_equal(launch(spin, 1, NULL, params), CUDA_SUCCESS);
		usleep(value * 50000);
	}
	return memory;
}

static void an_endless_kernel_is_ended(void **state)
{
	(void)state;
	spin_with_timeout("1");
	assert_int_equal(fixture->cu->cuCtxSynchronize(), CUDA_ERROR_LAUNCH_TIMEOUT);
}

/* The kernel reads it meanwhile, which is the point: nothing for ThreadSanitizer. */
__attribute__((noinline, no_sanitize("thread"))) static void write_now(int *at)
{
	*(volatile int *)at = 1;
}

/* As by Ctrl-Z, that long after the kernel began: it would be a pity about the hours before. */
static void assert_outlives_a_stop(const char *seconds)
{
	CUdeviceptr memory = spin_with_timeout("3");
	struct timespec back;
	char command[128];

	clock_gettime(CLOCK_MONOTONIC, &back);
	back.tv_sec += 5;
	snprintf(command, sizeof(command), "(sleep %s; kill -STOP %d; sleep 5; kill -CONT %d) >/dev/null 2>&1 &",
		seconds, (int)getpid(), (int)getpid());
	assert_int_equal(system(command), 0);
	/* A fixed time, as the stop may come before this line: most of it stopped. */
	assert_int_equal(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &back, NULL), 0);
	usleep(1200000); /* the watchdog looks again */
	write_now((int *)(uintptr_t)memory);
	assert_int_equal(fixture->cu->cuCtxSynchronize(), CUDA_SUCCESS);
}

static void time_in_which_the_process_is_stopped_does_not_count(void **state)
{
	(void)state;
	assert_outlives_a_stop("0.5");
	assert_outlives_a_stop("0"); /* the watchdog has not looked at the kernel yet */
}

typedef CUresult memcpy_2d_fn(const CUDA_MEMCPY2D *);

static void rows_are_copied_with_their_pitches(void **state)
{
	const kvs_cu *cu = fixture->cu;
	memcpy_2d_fn *memcpy_2d = (memcpy_2d_fn *)dlsym(cu->library, "cuMemcpy2D_v2");
	unsigned char from[4 * 8];
	CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = from,
		.srcPitch = 8,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstPitch = 16,
		.dstXInBytes = 2,
		.dstY = 1,
		.WidthInBytes = 5,
		.Height = 4};
	unsigned char all[5 * 16];

	(void)state;
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (unsigned char)(i + 1);
	assert_int_equal(cu->cuMemAlloc(&copy.dstDevice, sizeof(all)), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemsetD8(copy.dstDevice, 0, sizeof(all)), CUDA_SUCCESS);
	assert_int_equal(memcpy_2d(&copy), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(all, copy.dstDevice, sizeof(all)), CUDA_SUCCESS);
	for (size_t row = 0; row < 4; row++)
		assert_memory_equal(all + (row + 1) * 16 + 2, from + row * 8, 5);
	assert_int_equal(all[16 + 7], 0);
}

/*
 * Launches an addition of 1 to `memory` on a stream that does not wait for the default stream, and returns the first
 * element after it. `add` was loaded before: a late copy is not held back for as long as that may take on a busy machine.
 */
static int added_beside_the_default_stream(CUfunction add, CUdeviceptr memory)
{
	const kvs_cu *cu = fixture->cu;
	int addend = 1, value = -1;
	void *params[] = {&memory, &addend};
	CUstream stream;

	assert_int_equal(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	assert_int_equal(launch(add, 1, stream, params), CUDA_SUCCESS);
	assert_int_equal(cu->cuStreamSynchronize(stream), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(&value, memory, sizeof(value)), CUDA_SUCCESS);
	assert_int_equal(cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	return value;
}

static void late_copies_set(const char *value)
{
	setenv("SOFTCUDA_LATE_COPIES", value, 1);
	fixture->reset();
	assert_int_equal(
		fixture->cu->cuDevicePrimaryCtxRetain(&fixture->cu->context, fixture->cu->device), CUDA_SUCCESS);
	assert_int_equal(fixture->cu->cuCtxSetCurrent(fixture->cu->context), CUDA_SUCCESS);
}

/* A launch that does not wait for the copy's last bytes adds to old ones, and the late ones overwrite its result. */
static void a_late_copy_arrives_when_it_is_waited_for(void **state)
{
	const kvs_cu *cu = fixture->cu;
	char *before = getenv("SOFTCUDA_LATE_COPIES") ? strdup(getenv("SOFTCUDA_LATE_COPIES")) : NULL;
	size_t bytes = 1 << 20, last = bytes - THREADS * sizeof(int);
	int *values = calloc(1, bytes);
	CUdeviceptr memory;
	CUfunction add;

	(void)state;
	for (size_t i = 0; i < bytes / sizeof(*values); i++)
		values[i] = 7;
	for (int late = 0; late < 2; late++) {
		late_copies_set(late ? "1" : "0");
		add = function_get(module_load(), "softcuda_add");
		assert_int_equal(cu->cuMemAlloc(&memory, bytes), CUDA_SUCCESS);
		assert_int_equal(cu->cuMemsetD8(memory, 0, bytes), CUDA_SUCCESS);
		assert_int_equal(cu->cuCtxSynchronize(), CUDA_SUCCESS);
		assert_int_equal(cu->cuMemcpyHtoD(memory, values, bytes), CUDA_SUCCESS);
		assert_int_equal(added_beside_the_default_stream(add, memory + last), late ? 7 : 8);
		assert_int_equal(cu->cuMemcpyHtoD(memory, values, bytes), CUDA_SUCCESS);
		assert_int_equal(cu->cuStreamSynchronize(NULL), CUDA_SUCCESS);
		assert_int_equal(added_beside_the_default_stream(add, memory + last), 8);
		assert_int_equal(cu->cuMemcpyHtoD(memory, values, 64), CUDA_SUCCESS);
		assert_int_equal(cu->cuMemFree(memory), CUDA_SUCCESS); /* waits, so it is no hazard */
		assert_int_equal(counters().hazards, 0);
	}
	if (before)
		setenv("SOFTCUDA_LATE_COPIES", before, 1);
	else
		unsetenv("SOFTCUDA_LATE_COPIES");
	free(before);
	free(values);
}

typedef CUresult export_fn(void *, CUmemGenericAllocationHandle, CUmemAllocationHandleType, unsigned long long);
typedef CUresult import_fn(CUmemGenericAllocationHandle *, void *, CUmemAllocationHandleType);

/* The importer needs a reference of its own, and a file that is none of ours is refused. */
static void an_exported_handle_comes_back_as_the_same_memory(void **state)
{
	const kvs_cu *cu = fixture->cu;
	const CUmemAllocationHandleType type = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	export_fn *export = (export_fn *)dlsym(cu->library, "cuMemExportToShareableHandle");
	import_fn *import = (import_fn *)dlsym(cu->library, "cuMemImportFromShareableHandle");
	CUmemAllocationProp properties = fixture->properties;
	CUmemGenericAllocationHandle handle, imported, plain;
	int fd, foreign = memfd_create("foreign", 0);

	(void)state;
	assert_int_equal(ftruncate(foreign, (off_t)fixture->granule), 0);
	assert_int_equal(cu->cuMemCreate(&plain, fixture->granule, &properties, 0), CUDA_SUCCESS);
	assert_int_equal(export(&fd, plain, type, 0), CUDA_ERROR_INVALID_VALUE);
	properties.requestedHandleTypes = type;
	assert_int_equal(cu->cuMemCreate(&handle, fixture->granule, &properties, 0), CUDA_SUCCESS);
	assert_int_equal(export(&fd, handle, type, 0), CUDA_SUCCESS);
	assert_int_equal(import(&imported, (void *)(intptr_t)fd, type), CUDA_SUCCESS);
	assert_int_equal(counters().handles, 2);
	assert_int_equal(counters().physical_bytes, 2 * fixture->granule);
	assert_int_equal(import(&plain, (void *)(intptr_t)foreign, type), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu->cuMemRelease(handle), CUDA_SUCCESS);
	assert_int_equal(counters().handles, 2);
	assert_int_equal(cu->cuMemRelease(imported), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemRelease(plain), CUDA_SUCCESS);
	assert_int_equal(counters().physical_bytes, 0);
	close(foreign);
	close(fd);
}

typedef __typeof__(cuLaunchCooperativeKernel) cooperative_fn;

static CUresult meet(CUdeviceptr memory, int blocks, int skipper)
{
	cooperative_fn *launch_together = (cooperative_fn *)dlsym(fixture->cu->library, "cuLaunchCooperativeKernel");
	CUfunction function = function_get(module_load(), "softcuda_meet");
	CUdeviceptr seen = memory + sizeof(int);
	void *params[] = {&memory, &seen, &skipper};
	CUresult result = launch_together(function, (unsigned)blocks, 1, 1, THREADS, 1, 1, 0, NULL, params);

	return result ? result : fixture->cu->cuCtxSynchronize();
}

static void blocks_of_a_cooperative_grid_wait_for_each_other(void **state)
{
	enum { BLOCKS = 24 };
	const kvs_cu *cu = fixture->cu;
	int values[1 + BLOCKS];
	CUdeviceptr memory;

	(void)state;
	assert_int_equal(cu->cuMemAlloc(&memory, sizeof(values)), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemsetD8(memory, 0, sizeof(values)), CUDA_SUCCESS);
	assert_int_equal(meet(memory, 100000, -1), CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
	assert_int_equal(meet(memory, BLOCKS, -1), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(values, memory, sizeof(values)), CUDA_SUCCESS);
	for (int i = 0; i <= BLOCKS; i++)
		assert_int_equal(values[i], BLOCKS);
	assert_int_equal(meet(memory, BLOCKS, 3), CUDA_ERROR_LAUNCH_FAILED); /* reported, not hung */
}

static void hold(void *gate)
{
	while (!__atomic_load_n((int *)gate, __ATOMIC_ACQUIRE))
		usleep(100);
}

/* The address stands inside a struct argument; the launch waits behind a host function, so it is surely pending. */
static void an_unmap_under_a_pending_launch_is_a_hazard(void **state)
{
	const kvs_cu *cu = fixture->cu;
	struct {
		CUdeviceptr where;
		int value;
	} pair = {.value = 5};
	CUfunction store = function_get(module_load(), "softcuda_store_pair");
	CUmemAccessDesc access = {
		.location = fixture->properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	void *params[] = {&pair};
	CUdeviceptr range;
	CUstream stream;
	int gate = 0;

	(void)state;
	assert_int_equal(cu->cuMemAddressReserve(&range, fixture->granule, 0, 0, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemCreate(&handle, fixture->granule, &fixture->properties, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemMap(range, fixture->granule, 0, handle, 0), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemSetAccess(range, fixture->granule, &access, 1), CUDA_SUCCESS);
	assert_int_equal(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	assert_int_equal(cu->cuLaunchHostFunc(stream, hold, &gate), CUDA_SUCCESS);
	pair.where = range + 128;
	assert_int_equal(launch(store, 1, stream, params), CUDA_SUCCESS);
	assert_int_equal(counters().hazards, 0);
	assert_int_equal(cu->cuMemUnmap(range, fixture->granule), CUDA_SUCCESS);
	assert_int_equal(counters().hazards, 1);
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	assert_int_equal(cu->cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
}

static CUresult inside = CUDA_SUCCESS;

static void call_inside(void *data)
{
	int count;

	(void)data;
	inside = fixture->cu->cuDeviceGetCount(&count);
}

static void a_host_function_may_not_call_the_driver(void **state)
{
	(void)state;
	assert_int_equal(fixture->cu->cuLaunchHostFunc(NULL, call_inside, NULL), CUDA_SUCCESS);
	assert_int_equal(fixture->cu->cuCtxSynchronize(), CUDA_SUCCESS);
	assert_int_equal(inside, CUDA_ERROR_NOT_PERMITTED);
}

static void what_is_no_module_is_refused(void **state)
{
	static const char text[64] = "no module";
	static const char ptx[64] = ".version 8.0\n.target sm_80\n";
	static const unsigned fatbin[16] = {0xba55ed50};
	CUmodule module;

	(void)state;
	assert_int_equal(fixture->cu->cuModuleLoadData(&module, text), CUDA_ERROR_INVALID_IMAGE);
	assert_int_equal(fixture->cu->cuModuleLoadData(&module, ptx), CUDA_ERROR_NO_BINARY_FOR_GPU);
	assert_int_equal(fixture->cu->cuModuleLoadData(&module, fatbin), CUDA_ERROR_NO_BINARY_FOR_GPU);
}

typedef CUresult get_proc_address_fn(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
typedef CUresult get_export_table_fn(const void **, const CUuuid *);

static void functions_are_found_by_base_name_and_version(void **state)
{
	void *library = fixture->cu->library, *found;
	get_proc_address_fn *get = (get_proc_address_fn *)dlsym(library, "cuGetProcAddress_v2");
	get_export_table_fn *table_get = (get_export_table_fn *)dlsym(library, "cuGetExportTable");
	CUdriverProcAddressQueryResult status;
	const CUuuid id = {{0}};
	const void *table;

	(void)state;
	assert_int_equal(get("cuMemAlloc", &found, 12000, 0, &status), CUDA_SUCCESS);
	assert_ptr_equal(found, dlsym(library, "cuMemAlloc_v2"));
	assert_int_equal(get("cuCtxCreate", &found, 11030, 0, &status), CUDA_SUCCESS);
	assert_ptr_equal(found, dlsym(library, "cuCtxCreate_v2"));
	assert_int_equal(get("cuCtxCreate", &found, 11040, 0, &status), CUDA_SUCCESS);
	assert_ptr_equal(found, dlsym(library, "cuCtxCreate_v3"));
	assert_int_equal(get("cuMemMap", &found, 10000, 0, &status), CUDA_SUCCESS);
	assert_null(found);
	assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
	assert_int_equal(get("cuNoSuchThing", &found, 12000, 0, &status), CUDA_SUCCESS);
	assert_null(found);
	assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
	assert_int_equal(get("cuInit", &found, CUDA_VERSION + 10, 0, &status), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(table_get(&table, &id), CUDA_ERROR_NOT_FOUND);
}

/* Such a name is there for programs that bind every function; it is not handed out, and can be made to fail. */
static void a_function_that_is_absent_says_so(void **state)
{
	void *library = fixture->cu->library, *found = library;
	get_proc_address_fn *get = (get_proc_address_fn *)dlsym(library, "cuGetProcAddress_v2");
	__typeof__(cuMipmappedArrayDestroy) *destroy =
		(__typeof__(cuMipmappedArrayDestroy) *)dlsym(library, "cuMipmappedArrayDestroy");
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;
	struct softcuda_counters before = counters();

	(void)state;
	assert_non_null(destroy);
	assert_int_equal(destroy(NULL), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(counters().calls, before.calls + 1);
	fixture->fail_nth("cuMipmappedArrayDestroy", 1, CUDA_ERROR_UNKNOWN);
	assert_int_equal(destroy(NULL), CUDA_ERROR_UNKNOWN);
	assert_int_equal(get("cuMipmappedArrayDestroy", &found, 12000, 0, &status), CUDA_SUCCESS);
	assert_null(found);
	assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
	/* Nor is a form for per-thread default streams of one, or an older form than the version that was asked for. */
	assert_int_equal(
		get("cuGraphicsMapResources", &found, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status),
		CUDA_SUCCESS);
	assert_null(found);
	assert_int_equal(get("cuMemAlloc", &found, 2000, 0, &status), CUDA_SUCCESS);
	assert_null(found);
	assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
}

static void every_result_has_a_name_and_a_text(void **state)
{
	const char *name, *text;

	(void)state;
	assert_int_equal(fixture->cu->cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name), CUDA_SUCCESS);
	assert_string_equal(name, "CUDA_ERROR_ILLEGAL_ADDRESS");
	assert_int_equal(fixture->cu->cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text), CUDA_SUCCESS);
	assert_string_equal(text, "out of memory");
	assert_int_equal(fixture->cu->cuGetErrorName((CUresult)12345, &name), CUDA_ERROR_INVALID_VALUE);
	assert_null(name);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)
	const struct CMUnitTest tests[] = {
		CASE(nothing_leaks_from_a_round_of_everything),
		CASE(a_stale_handle_is_refused_for_ever),
		CASE(memory_runs_out_at_the_limit_and_comes_back),
		CASE(the_nth_call_of_a_function_fails_once),
		CASE(all_blocks_of_a_large_grid_run_once),
		CASE(a_block_has_at_most_1024_threads),
		CASE(arguments_are_taken_at_the_call),
		CASE(a_fault_loses_the_context_and_not_the_process),
		CASE(an_endless_kernel_is_ended),
		CASE(time_in_which_the_process_is_stopped_does_not_count),
		CASE(an_unmap_under_a_pending_launch_is_a_hazard),
		CASE(rows_are_copied_with_their_pitches),
		CASE(a_late_copy_arrives_when_it_is_waited_for),
		CASE(an_exported_handle_comes_back_as_the_same_memory),
		CASE(blocks_of_a_cooperative_grid_wait_for_each_other),
		CASE(a_host_function_may_not_call_the_driver),
		CASE(what_is_no_module_is_refused),
		CASE(functions_are_found_by_base_name_and_version),
		CASE(a_function_that_is_absent_says_so),
		CASE(every_result_has_a_name_and_a_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
