/*
 * At the limits: a call that releases something and fails is made again, mapping ahead takes nothing from others, and
 * memory that was given up waits for its last use even if its region is split meanwhile.
 */
#include "fixture.h"

#include <semaphore.h>

/* One block is used and released, and the first call of `function` fails. */
static void give_back_although(const char *function, enum kvs_vmm_call call)
{
	const struct kvs_vmm_options options = {.no_free_list = true};
	struct fixture f = fixture_open(&options);
	struct kvs_vmm_stats stats;
	kvs_region *region;

	fixture_check(kvs_region_reserve(f.vmm, 2 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, f.block));
	f.fail_nth(function, 1, CUDA_ERROR_UNKNOWN);
	fixture_check(kvs_region_resize(region, 0, 0));
	fixture_check(kvs_vmm_settle(f.vmm));
	kvs_region_free(region);
	assert_true(f.failed());
	assert_int_equal(fixture_counters(&f).mappings, 0);
	assert_int_equal(fixture_counters(&f).handles, 0);
	assert_int_equal(fixture_counters(&f).reservations, 0);
	stats = fixture_stats(&f);
	assert_int_equal(stats.calls[call].calls, 2);
	assert_int_equal(stats.calls[call].failures, 1);
	fixture_close(&f);
}

static void giving_back_is_tried_again(void **state)
{
	(void)state;
	give_back_although("cuMemUnmap", KVS_CALL_UNMAP);
	give_back_although("cuMemRelease", KVS_CALL_RELEASE);
	give_back_although("cuMemAddressFree", KVS_CALL_ADDRESS_FREE);
}

/* Two slots want a block ahead, and the budget allows one: the first slot gets and keeps it. */
static void mapping_ahead_takes_nothing_from_others(void **state)
{
	struct kvs_vmm_options options = {.premap = true};
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_stats stats;
	kvs_region *region;

	(void)state;
	options.budget_bytes = 4 * f.block;
	fixture_close(&f);
	f = fixture_open(&options);
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 2, &region));
	fixture_check(kvs_region_resize(region, 0, 2 * f.block));
	fixture_check(kvs_vmm_settle(f.vmm));
	fixture_check(kvs_region_resize(region, 1, f.block));
	fixture_check(kvs_vmm_settle(f.vmm));
	stats = fixture_stats(&f);
	assert_int_equal(stats.physical_bytes, 4 * f.block);
	assert_int_equal(stats.calls[KVS_CALL_UNMAP].calls, 0);
	fixture_check(kvs_region_resize(region, 0, 3 * f.block)); /* the slot has it already */
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_MAP].calls, stats.calls[KVS_CALL_MAP].calls);
	kvs_region_free(region);
	fixture_close(&f);
}

/* The peak is the most held at any time, even if less is held later and blocks are created again. */
static void the_peak_stays(void **state)
{
	const struct kvs_vmm_options options = {.no_free_list = true};
	struct fixture f = fixture_open(&options);
	kvs_region *region;

	(void)state;
	fixture_check(kvs_region_reserve(f.vmm, 8 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 8 * f.block));
	fixture_check(kvs_region_resize(region, 0, 0));
	fixture_check(kvs_vmm_settle(f.vmm));
	fixture_check(kvs_region_resize(region, 0, 2 * f.block));
	assert_int_equal(fixture_stats(&f).peak_bytes, 8 * f.block);
	kvs_region_free(region);
	fixture_close(&f);
}

static void CUDA_CB wait_for_permission(void *semaphore)
{
	sem_wait(semaphore);
}

/* Blocks that work on a stream may still use belong to the other part after a split, and may still be in use there. */
static void a_split_forgets_no_use(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *region, *rest;
	kvs_space *space;
	CUstream stream;
	sem_t semaphore;

	(void)state;
	sem_init(&semaphore, 0, 0);
	assert_int_equal(f.cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(f.vmm, stream));
	fixture_check(kvs_space_reserve(f.vmm, 4 * f.block, &space));
	assert_int_equal(
		kvs_region_create(space, f.block / 2, f.block, 1, &region), -EINVAL); /* no granule starts there */
	fixture_check(kvs_region_create(space, 0, 4 * f.block, 1, &region));
	fixture_check(kvs_region_resize(region, 0, 4 * f.block));
	assert_int_equal(f.cu->cuLaunchHostFunc(stream, wait_for_permission, &semaphore), CUDA_SUCCESS);
	fixture_check(kvs_region_resize(region, 0, f.block));
	fixture_check(kvs_region_split(region, 2 * f.block, &rest));
	fixture_check(kvs_region_resize(region, 0, 0)); /* trims what has retired */
	assert_int_equal(fixture_stats(&f).physical_bytes, 4 * f.block);
	sem_post(&semaphore);
	fixture_check(kvs_vmm_settle(f.vmm));
	assert_int_equal(fixture_stats(&f).physical_bytes, 0);
	kvs_region_free(rest);
	kvs_region_free(region);
	kvs_space_free(space);
	kvs_vmm_detach_stream(f.vmm, stream);
	assert_int_equal(f.cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	sem_destroy(&semaphore);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(giving_back_is_tried_again),
		cmocka_unit_test(mapping_ahead_takes_nothing_from_others),
		cmocka_unit_test(the_peak_stays),
		cmocka_unit_test(a_split_forgets_no_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
