/* Caches: all layers or none, whatever is tried with one of them; and memory that waits for the work that uses it. */
#include "fixture.h"

#include <limits.h>
#include <semaphore.h>

enum { LAYERS = 4 };

/* A token takes a block in K and a block in V of each layer; layer 3 borrows. */
static kvs_cache *make_cache(const struct fixture *f)
{
	const struct kvs_cache_shape shape = {
		.layers = LAYERS, .slots = 2, .ctx_tokens = 4, .k_token_bytes = f->block, .v_token_bytes = f->block};
	kvs_cache *cache;
	kvs_plan *plan;

	fixture_check(kvs_plan_parse("0,1,2,1", &plan));
	fixture_check(kvs_cache_create(f->vmm, &shape, plan, &cache));
	kvs_plan_free(plan);
	return cache;
}

static void what_a_cache_has_not_is_nothing(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_cache *cache = make_cache(&f);

	(void)state;
	fixture_check(kvs_cache_resize(cache, 1, 4));
	assert_int_equal(kvs_cache_tokens(cache, 1), 4);
	assert_int_equal(kvs_cache_tokens(cache, 2), 0);
	assert_int_equal(kvs_cache_tokens(cache, UINT_MAX), 0);
	assert_int_not_equal(kvs_cache_k(cache, LAYERS - 1, 1), 0);
	assert_int_equal(kvs_cache_k(cache, LAYERS, 0), 0);
	assert_int_equal(kvs_cache_v(cache, -1, 0), 0);
	assert_int_equal(kvs_cache_k(cache, 0, 2), 0);
	assert_int_equal(kvs_cache_v(cache, 0, UINT_MAX), 0);
	assert_null(kvs_cache_k_region(cache, LAYERS));
	assert_null(kvs_cache_v_region(cache, -1));
	assert_int_equal(kvs_region_address(kvs_cache_k_region(cache, 0), 2), 0);
	assert_int_equal(kvs_region_slot_bytes(kvs_cache_k_region(cache, 0), 2), 0);
	assert_int_equal(kvs_cache_resize(cache, 2, 1), -EINVAL);
	assert_int_equal(kvs_cache_resize(cache, 0, 5), -EINVAL);
	assert_int_equal(kvs_cache_resize(cache, 0, SIZE_MAX), -EINVAL);
	kvs_cache_free(cache);
	fixture_close(&f);
}

static void a_layer_of_a_cache_is_not_changed_alone(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_cache *cache = make_cache(&f);
	kvs_region *outside;

	(void)state;
	fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 2, &outside));
	fixture_check(kvs_cache_resize(cache, 0, 3));
	fixture_write(&f, kvs_cache_k(cache, 1, 0) + 2 * f.block, 21);
	assert_int_equal(kvs_region_unshare(kvs_cache_k_region(cache, 3)), -EINVAL);
	assert_non_null(strstr(kvs_error(), "cache"));
	assert_int_equal(kvs_region_share(kvs_cache_k_region(cache, 1), kvs_cache_k_region(cache, 0)), -EINVAL);
	assert_int_equal(kvs_region_share(kvs_cache_k_region(cache, 0), kvs_cache_k_region(cache, 2)), -EINVAL);
	assert_int_equal(kvs_region_share(outside, kvs_cache_k_region(cache, 0)), -EINVAL);
	assert_int_equal(kvs_region_share(kvs_cache_k_region(cache, 0), outside), -EINVAL);
	assert_int_equal(kvs_region_resize(kvs_cache_v_region(cache, 0), 0, 0), -EINVAL);
	assert_non_null(strstr(kvs_error(), "kvs_cache_resize"));
	assert_int_equal(fixture_read(&f, kvs_cache_k(cache, 3, 0) + 2 * f.block), 21);
	fixture_check(kvs_cache_resize(cache, 0, 1));
	fixture_assert_valid(&f);
	kvs_region_free(outside);
	kvs_cache_free(cache);
	fixture_close(&f);
}

/* Six regions own their memory, and the budget ends in the middle of them. */
static void a_cache_that_does_not_fit_stays_as_it_is(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_options options = {.budget_bytes = 15 * f.block};
	kvs_cache *cache;

	(void)state;
	fixture_close(&f);
	f = fixture_open(&options);
	cache = make_cache(&f);
	fixture_check(kvs_cache_resize(cache, 0, 2));
	fixture_write(&f, kvs_cache_v(cache, 1, 0) + f.block, 22);
	assert_int_equal(kvs_cache_resize(cache, 0, 3), -ENOMEM);
	assert_int_equal(kvs_cache_tokens(cache, 0), 2);
	for (int layer = 0; layer < LAYERS; layer++)
		assert_int_equal(kvs_region_slot_bytes(kvs_cache_k_region(cache, layer), 0), 2 * f.block);
	assert_int_equal(fixture_stats(&f).physical_bytes, 12 * f.block);
	assert_int_equal(fixture_read(&f, kvs_cache_v(cache, 3, 0) + f.block), 22);
	fixture_assert_valid(&f);
	fixture_check(kvs_cache_resize(cache, 0, 1)); /* and it can still shrink, to let another sequence in */
	fixture_check(kvs_vmm_settle(f.vmm));
	fixture_check(kvs_cache_resize(cache, 1, 1));
	kvs_cache_free(cache);
	fixture_close(&f);
}

static void CUDA_CB wait_for_permission(void *semaphore)
{
	sem_wait(semaphore);
}

static void what_a_cache_gives_up_waits_for_the_work_in_flight(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_cache *cache = make_cache(&f);
	CUstream stream;
	sem_t semaphore;

	(void)state;
	sem_init(&semaphore, 0, 0);
	assert_int_equal(f.cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(f.vmm, stream));
	fixture_check(kvs_cache_resize(cache, 0, 3));
	assert_int_equal(f.cu->cuLaunchHostFunc(stream, wait_for_permission, &semaphore), CUDA_SUCCESS);
	fixture_check(kvs_cache_resize(cache, 0, 1));
	assert_int_equal(kvs_cache_tokens(cache, 0), 1);
	fixture_check(kvs_cache_resize(cache, 1, 1)); /* maps, and would trim retired blocks */
	assert_int_equal(fixture_stats(&f).physical_bytes, 6 * (3 + 1) * f.block);
	sem_post(&semaphore);
	fixture_check(kvs_vmm_settle(f.vmm));
	assert_int_equal(fixture_stats(&f).physical_bytes, 6 * (1 + 1) * f.block);
	kvs_cache_free(cache);
	kvs_vmm_detach_stream(f.vmm, stream);
	assert_int_equal(f.cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	sem_destroy(&semaphore);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_cache_has_not_is_nothing),
		cmocka_unit_test(a_layer_of_a_cache_is_not_changed_alone),
		cmocka_unit_test(a_cache_that_does_not_fit_stays_as_it_is),
		cmocka_unit_test(what_a_cache_gives_up_waits_for_the_work_in_flight),
	};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
