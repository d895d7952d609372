/* Regions: the driver calls of each operation, the state after it, and that memory waits for the work that uses it. */
#include "fixture.h"

#include "../support/process.h"

#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

static void growing_maps_whole_blocks_and_grants_once(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_stats stats;
	kvs_region *region;

	(void)state;
	fixture_check(kvs_region_reserve(f.vmm, 10 * f.block - 1, 2, &region));
	assert_int_equal(kvs_region_slot_stride(region), 10 * f.block);
	assert_int_equal(fixture_counters(&f).mappings, 0);
	fixture_check(kvs_region_resize(region, 1, 3 * f.block + 1));
	stats = fixture_stats(&f);
	assert_int_equal(stats.calls[KVS_CALL_CREATE].calls, 4);
	assert_int_equal(stats.calls[KVS_CALL_MAP].calls, 4);
	assert_int_equal(stats.calls[KVS_CALL_SET_ACCESS].calls, 1);
	assert_int_equal(stats.virtual_bytes, 20 * f.block);
	assert_int_equal(stats.physical_bytes, 4 * f.block);
	assert_int_equal(fixture_counters(&f).physical_bytes, 4 * f.block);
	fixture_check(kvs_region_resize(region, 1, 4 * f.block)); /* within what is mapped: no call */
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_SET_ACCESS].calls, 1);
	fixture_write(&f, kvs_region_address(region, 1) + 4 * f.block - 4, 7);
	assert_int_equal(kvs_region_slot_bytes(region, 0), 0);
	assert_int_equal(kvs_region_slot_bytes(region, 1), 4 * f.block);
	fixture_assert_valid(&f);
	kvs_region_free(region);
	fixture_close(&f);
}

static void shrunk_blocks_are_recycled_within_the_limit(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_options two_free = {.free_list_bytes = 2 * f.block};
	struct kvs_vmm_stats stats;
	kvs_region *region;

	(void)state;
	fixture_close(&f);
	f = fixture_open(&two_free);
	fixture_check(kvs_region_reserve(f.vmm, 8 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 8 * f.block));
	fixture_check(kvs_region_resize(region, 0, 3 * f.block));
	fixture_check(kvs_vmm_settle(f.vmm));
	stats = fixture_stats(&f);
	assert_int_equal(stats.physical_bytes, 3 * f.block);
	assert_int_equal(stats.free_bytes, 2 * f.block);
	assert_int_equal(stats.peak_bytes, 8 * f.block);
	assert_int_equal(stats.calls[KVS_CALL_UNMAP].calls, 1); /* five blocks in one call */
	assert_int_equal(stats.calls[KVS_CALL_RELEASE].calls, 3);
	fixture_check(kvs_region_resize(region, 0, 5 * f.block));
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_CREATE].calls, 8);
	kvs_region_free(region);
	fixture_close(&f);
}

static void hostile_arguments_are_refused(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *region, *other, *borrower, *two_slots;

	(void)state;
	assert_int_equal(kvs_region_reserve(f.vmm, 0, 1, &region), -EINVAL);
	assert_int_equal(kvs_region_reserve(f.vmm, 1, 0, &region), -EINVAL);
	assert_int_equal(kvs_region_reserve(f.vmm, SIZE_MAX, 1, &region), -EINVAL);
	assert_int_equal(kvs_region_reserve(f.vmm, SIZE_MAX / 4, 16, &region), -EINVAL);
	fixture_check(kvs_region_reserve(f.vmm, f.block, 1, &region));
	fixture_check(kvs_region_reserve(f.vmm, 2 * f.block, 1, &other));
	fixture_check(kvs_region_reserve(f.vmm, f.block, 1, &borrower));
	fixture_check(kvs_region_reserve(f.vmm, f.block, 2, &two_slots));
	assert_int_equal(kvs_region_share(two_slots, region), -EINVAL);
	assert_int_equal(kvs_region_share(region, two_slots), -EINVAL);
	kvs_region_free(two_slots);
	assert_int_equal(kvs_region_resize(region, 1, 1), -EINVAL);
	assert_int_equal(kvs_region_resize(region, 0, f.block + 1), -EINVAL);
	assert_int_equal(kvs_region_share(region, region), -EINVAL);
	assert_int_equal(kvs_region_share(region, other), -EINVAL);
	assert_int_equal(kvs_region_unshare(region), -EINVAL);
	fixture_check(kvs_region_share(borrower, region));
	assert_int_equal(kvs_region_resize(borrower, 0, 1), -EINVAL);
	assert_int_equal(kvs_region_share(region, borrower), -EINVAL);
	assert_int_equal(kvs_region_share(borrower, region), -EINVAL);
	kvs_region_free(borrower);
	kvs_region_free(other);
	kvs_region_free(region);
	fixture_close(&f);
}

static void a_borrower_reads_what_its_owner_writes(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *owner, *borrower;
	CUdeviceptr from, to;

	(void)state;
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 2, &owner));
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 2, &borrower));
	from = kvs_region_address(owner, 1);
	to = kvs_region_address(borrower, 1);
	fixture_check(kvs_region_resize(owner, 1, f.block));
	fixture_check(kvs_region_resize(borrower, 0, 3 * f.block)); /* lost by sharing */
	fixture_check(kvs_region_share(borrower, owner));
	assert_ptr_equal(kvs_region_owner(borrower), owner);
	assert_int_equal(kvs_region_slot_bytes(borrower, 0), 0);
	assert_int_equal(kvs_region_slot_bytes(borrower, 1), f.block);
	fixture_write(&f, from, 1);
	assert_int_equal(fixture_read(&f, to), 1);
	fixture_check(kvs_region_resize(owner, 1, 2 * f.block));
	fixture_write(&f, from + f.block, 2);
	assert_int_equal(fixture_read(&f, to + f.block), 2);
	assert_int_equal(fixture_stats(&f).physical_bytes, 2 * f.block);
	assert_int_equal(fixture_stats(&f).saved_bytes, 2 * f.block);
	fixture_assert_valid(&f);
	fixture_check(kvs_region_unshare(borrower));
	assert_null(kvs_region_owner(borrower));
	fixture_check(kvs_region_resize(borrower, 1, f.block));
	fixture_write(&f, to, 3); /* writable again, and its own */
	assert_int_equal(fixture_read(&f, from), 1);
	kvs_region_free(borrower);
	kvs_region_free(owner);
	fixture_close(&f);
}

/* A copy or a memset would be refused at the call; only a kernel's write faults. */
static CUresult write_by_kernel(const kvs_cu *cu, CUdeviceptr where)
{
	__typeof__(cuModuleLoad) *load = (__typeof__(load))kvs_cu_symbol_of_library(cu->library, "cuModuleLoad");
	int addend = 1;
	void *params[] = {&where, &addend};
	CUfunction function;
	CUmodule module;
	CUresult result = load(&module, built("tests/softcuda/softcuda_kernels.so"));

	if (!result)
		result = cu->cuModuleGetFunction(&function, module, "softcuda_add");
	return result ? result : cu->cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL);
}

/* In a child: the sticky error ends the context, and releasing everything must neither hang nor crash. */
static void a_write_through_a_borrower_is_an_illegal_address(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (!child) {
		struct fixture f = fixture_open(NULL);
		kvs_region *owner, *borrower;
		int code = 0;

		alarm(30);
		fixture_check(kvs_region_reserve(f.vmm, f.block, 1, &owner));
		fixture_check(kvs_region_reserve(f.vmm, f.block, 1, &borrower));
		fixture_check(kvs_region_resize(owner, 0, f.block));
		fixture_check(kvs_region_share(borrower, owner));
		code |= f.cu->cuMemsetD8(kvs_region_address(borrower, 0), 1, 16) != CUDA_ERROR_INVALID_VALUE;
		code |= write_by_kernel(f.cu, kvs_region_address(borrower, 0)) != CUDA_SUCCESS;
		code |= f.cu->cuCtxSynchronize() != CUDA_ERROR_ILLEGAL_ADDRESS;
		code |= (kvs_region_resize(owner, 0, 0) == 0) << 1;
		code |= (kvs_vmm_settle(f.vmm) == 0) << 2;
		code |= !kvs_vmm_is_valid(f.vmm) << 3;
		kvs_region_free(borrower);
		kvs_region_free(owner);
		kvs_vmm_free(f.vmm);
		_exit(code);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void CUDA_CB wait_for_permission(void *semaphore)
{
	sem_wait(semaphore);
}

static void memory_given_up_waits_for_the_work_in_flight(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *region;
	CUstream stream;
	sem_t semaphore;

	(void)state;
	sem_init(&semaphore, 0, 0);
	assert_int_equal(f.cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(f.vmm, stream));
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 4 * f.block));
	assert_int_equal(f.cu->cuLaunchHostFunc(stream, wait_for_permission, &semaphore), CUDA_SUCCESS);
	fixture_check(kvs_region_resize(region, 0, 2 * f.block));
	fixture_check(kvs_region_resize(region, 0, 1)); /* would trim, if anything had retired */
	assert_int_equal(kvs_region_slot_bytes(region, 0), 1);
	assert_int_equal(fixture_stats(&f).physical_bytes, 4 * f.block);
	fixture_check(kvs_region_resize(region, 0, 2 * f.block)); /* still mapped: used again */
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_MAP].calls, 4);
	sem_post(&semaphore);
	fixture_check(kvs_vmm_settle(f.vmm));
	assert_int_equal(fixture_stats(&f).physical_bytes, 2 * f.block);
	kvs_region_free(region);
	kvs_vmm_detach_stream(f.vmm, stream);
	assert_int_equal(f.cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	sem_destroy(&semaphore);
	fixture_close(&f);
}

/* Work on a detached stream is the caller's business: nothing is recorded on it, and nothing waits for it. */
static void a_detached_stream_is_left_alone(void **state)
{
	struct fixture f = fixture_open(NULL);
	CUstream kept, detached;
	kvs_region *region;
	sem_t semaphore;

	(void)state;
	sem_init(&semaphore, 0, 0);
	assert_int_equal(f.cu->cuStreamCreate(&kept, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	assert_int_equal(f.cu->cuStreamCreate(&detached, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(f.vmm, detached));
	fixture_check(kvs_vmm_attach_stream(f.vmm, kept));
	kvs_vmm_detach_stream(f.vmm, detached);
	kvs_vmm_detach_stream(f.vmm, detached); /* twice changes nothing */
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 4 * f.block));
	assert_int_equal(f.cu->cuLaunchHostFunc(detached, wait_for_permission, &semaphore), CUDA_SUCCESS);
	fixture_check(kvs_region_resize(region, 0, f.block));
	alarm(60);
	fixture_check(kvs_vmm_settle(f.vmm)); /* would hang if it waited for the stream */
	alarm(0);
	assert_int_equal(fixture_stats(&f).physical_bytes, f.block);
	sem_post(&semaphore);
	assert_int_equal(f.cu->cuStreamSynchronize(detached), CUDA_SUCCESS);
	assert_int_equal(f.cu->cuStreamDestroy(detached), CUDA_SUCCESS);
	fixture_check(kvs_region_resize(region, 0, 0));
	kvs_region_free(region);
	kvs_vmm_detach_stream(f.vmm, kept);
	assert_int_equal(f.cu->cuStreamDestroy(kept), CUDA_SUCCESS);
	sem_destroy(&semaphore);
	fixture_close(&f);
}

/* Every call is in its histogram, once; and a failure is a call too. */
static void calls_are_counted_and_timed(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_stats stats;
	kvs_region *region;

	(void)state;
	fixture_check(kvs_region_reserve(f.vmm, 8 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 5 * f.block));
	f.fail_nth("cuMemCreate", 1, CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(kvs_region_resize(region, 0, 6 * f.block), -ENOMEM);
	f.fail_nth(NULL, 0, CUDA_SUCCESS);
	kvs_region_free(region);
	stats = fixture_stats(&f);
	assert_int_equal(stats.calls[KVS_CALL_RESERVE].calls, 1);
	assert_int_equal(stats.calls[KVS_CALL_CREATE].calls, 6);
	assert_int_equal(stats.calls[KVS_CALL_CREATE].failures, 1);
	assert_int_equal(stats.calls[KVS_CALL_MAP].calls, 5);
	assert_int_equal(stats.calls[KVS_CALL_SET_ACCESS].calls, 1);
	assert_int_equal(stats.calls[KVS_CALL_UNMAP].calls, 1);
	assert_int_equal(stats.calls[KVS_CALL_ADDRESS_FREE].calls, 1);
	for (int call = 0; call < KVS_CALL_COUNT; call++) {
		const struct kvs_call_stats *one = &stats.calls[call];
		uint64_t counted = 0, least_ns = 0;

		for (int bucket = 0; bucket < KVS_LATENCY_BUCKETS; bucket++) {
			counted += one->latency[bucket];
			least_ns += one->latency[bucket] << bucket;
		}
		assert_int_equal(counted, one->calls);
		assert_true(one->total_ns >= (one->calls ? least_ns - one->calls : 0)); /* 0 ns counts as 1 */
		assert_true(!one->calls || one->total_ns > 0);
	}
	fixture_close(&f);
}

/* Several managers of one table, one of which is freed early: each counts its own calls, and none those of others. */
static void a_manager_counts_the_calls_that_it_makes(void **state)
{
	enum { MANAGERS = 12 };
	struct fixture f = fixture_open(NULL);
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = f.cu->device}};
	CUmemGenericAllocationHandle handle;
	kvs_vmm *managers[MANAGERS];
	struct kvs_vmm_stats stats;
	kvs_region *region;

	(void)state;
	for (size_t i = 0; i < MANAGERS; i++)
		fixture_check(kvs_vmm_create(f.cu, NULL, &managers[i]));
	kvs_vmm_free(managers[0]);
	assert_int_equal(f.cu->cuMemCreate(&handle, f.block, &prop, 0), CUDA_SUCCESS);
	assert_int_equal(f.cu->cuMemRelease(handle), CUDA_SUCCESS);
	for (size_t i = 1; i < MANAGERS; i++) {
		fixture_check(kvs_region_reserve(managers[i], MANAGERS * f.block, 1, &region));
		fixture_check(kvs_region_resize(region, 0, i * f.block));
		kvs_vmm_get_stats(managers[i], &stats);
		assert_int_equal(stats.calls[KVS_CALL_CREATE].calls, i);
		assert_int_equal(stats.calls[KVS_CALL_RELEASE].calls, 0);
		kvs_region_free(region);
		kvs_vmm_free(managers[i]);
	}
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_CREATE].calls, 0);
	fixture_close(&f);
}

static void the_budget_holds_and_says_so(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_options options = {.budget_bytes = 4 * f.block, .premap = true};
	kvs_region *region;

	(void)state;
	fixture_close(&f);
	f = fixture_open(&options);
	fixture_check(kvs_region_reserve(f.vmm, 8 * f.block, 2, &region));
	fixture_check(kvs_region_resize(region, 0, 3 * f.block));
	fixture_check(kvs_vmm_settle(f.vmm)); /* one is mapped ahead */
	assert_int_equal(fixture_stats(&f).physical_bytes, 4 * f.block);
	fixture_check(kvs_region_resize(region, 1, 1)); /* takes it */
	assert_int_equal(kvs_region_resize(region, 1, f.block + 1), -ENOMEM);
	assert_non_null(strstr(kvs_error(), "budget"));
	assert_int_equal(kvs_region_slot_bytes(region, 1), 1);
	fixture_check(kvs_region_resize(region, 0, 0));
	fixture_check(kvs_vmm_settle(f.vmm));
	fixture_check(kvs_region_resize(region, 1, 4 * f.block));
	kvs_region_free(region);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* First, as it forks, which CUDA allows only before a device is open. */
		cmocka_unit_test(a_write_through_a_borrower_is_an_illegal_address),
		cmocka_unit_test(growing_maps_whole_blocks_and_grants_once),
		cmocka_unit_test(shrunk_blocks_are_recycled_within_the_limit),
		cmocka_unit_test(hostile_arguments_are_refused),
		cmocka_unit_test(a_borrower_reads_what_its_owner_writes),
		cmocka_unit_test(memory_given_up_waits_for_the_work_in_flight),
		cmocka_unit_test(a_detached_stream_is_left_alone),
		cmocka_unit_test(calls_are_counted_and_timed),
		cmocka_unit_test(a_manager_counts_the_calls_that_it_makes),
		cmocka_unit_test(the_budget_holds_and_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
