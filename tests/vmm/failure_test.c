/*
 * Any driver call may fail: each operation then works or changes nothing, and nothing is leaked. For every function
 * that the manager uses, and for all together, the Nth call fails, for every N until none is left to fail.
 */
#include "fixture.h"

enum { BLOCKS = 3, LAYERS = 4 };

struct scene {
	struct fixture f;
	kvs_region *owner, *borrower;
	kvs_cache *cache;
	kvs_space *space;
	bool injected; /* whether the failure happened; set by an operation that lets the driver work again */
};

typedef int scene_operation(struct scene *s);

static int grow(struct scene *s)
{
	return kvs_region_resize(s->owner, 0, 3 * s->f.block);
}

static int shrink(struct scene *s)
{
	return kvs_region_resize(s->owner, 0, 1);
}

static int shrink_and_settle(struct scene *s)
{
	int err = shrink(s);

	return err ? err : kvs_vmm_settle(s->f.vmm);
}

static int share_again(struct scene *s)
{
	kvs_region *region;
	int err = kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &region);

	if (err)
		return err;
	err = kvs_region_resize(region, 0, 2 * s->f.block);
	if (!err)
		err = kvs_region_share(region, s->owner);
	if (err && kvs_region_slot_bytes(region, 0)) {
		assert_null(kvs_region_owner(region));
		s->injected = s->f.failed();
		s->f.fail_nth(NULL, 0, CUDA_SUCCESS);
		fixture_write(&s->f, kvs_region_address(region, 0) + s->f.block, 5); /* still mapped, still writable */
	}
	kvs_region_free(region);
	return err;
}

static int end_share(struct scene *s)
{
	return kvs_region_unshare(s->borrower);
}

static int grow_cache(struct scene *s)
{
	int err = kvs_cache_resize(s->cache, 0, 3);

	assert_int_equal(kvs_cache_tokens(s->cache, 0), err ? 1 : 3);
	for (int layer = 0; layer < LAYERS; layer++)
		assert_int_equal(
			kvs_region_slot_bytes(kvs_cache_v_region(s->cache, layer), 0), (err ? 1 : 3) * s->f.block);
	return err;
}

/* Some layers borrow, and one is larger than the others: all keep their size until all can change. */
static int shrink_cache(struct scene *s)
{
	int err = kvs_cache_resize(s->cache, 0, 0);

	assert_int_equal(kvs_cache_tokens(s->cache, 0), err ? 1 : 0);
	for (int layer = 0; layer < LAYERS; layer++)
		assert_int_equal(kvs_region_slot_bytes(kvs_cache_v_region(s->cache, layer), 0), err ? s->f.block : 0);
	return err;
}

static int make_sink(struct scene *s)
{
	kvs_region *sink;
	int err = kvs_region_create_sink(s->space, s->f.block, 3 * s->f.block, &sink);

	if (!err)
		kvs_region_free(sink);
	return err;
}

/* A space with a region that is mapped at once, split, and shared with itself, like an allocation that is adopted. */
static int adopt(struct scene *s)
{
	kvs_region *head = NULL, *tail = NULL;
	kvs_space *space;
	int err = kvs_space_reserve(s->f.vmm, 4 * s->f.block, &space);

	if (err)
		return err;
	err = kvs_region_create(space, 0, 4 * s->f.block, 1, &head);
	if (!err)
		err = kvs_region_resize(head, 0, 4 * s->f.block);
	if (!err)
		err = kvs_region_split(head, 2 * s->f.block, &tail);
	if (!err)
		err = kvs_region_share(tail, head);
	fixture_assert_valid(&s->f);
	kvs_region_free(tail);
	kvs_region_free(head);
	kvs_space_free(space);
	return err;
}

static int make_cache(struct scene *s)
{
	kvs_cache *cache;
	int err = kvs_cache_create(s->f.vmm,
		&(struct kvs_cache_shape){
			.layers = 2, .slots = 1, .ctx_tokens = 4, .k_token_bytes = 8, .v_token_bytes = 8},
		NULL, &cache);

	if (!err)
		kvs_cache_free(cache);
	return err;
}

static void scene_open(struct scene *s)
{
	kvs_plan *plan;

	s->f = fixture_open(NULL);
	s->injected = false;
	fixture_check(kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &s->owner));
	fixture_check(kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &s->borrower));
	fixture_check(kvs_region_share(s->borrower, s->owner));
	fixture_check(kvs_region_resize(s->owner, 0, 2 * s->f.block));
	fixture_write(&s->f, kvs_region_address(s->owner, 0), 42);
	fixture_check(kvs_plan_parse("0,1,1,0", &plan));
	fixture_check(kvs_cache_create(s->f.vmm,
		&(struct kvs_cache_shape){.layers = LAYERS,
			.slots = 1,
			.ctx_tokens = 4,
			.k_token_bytes = s->f.block / 2,
			.v_token_bytes = s->f.block},
		plan, &s->cache));
	kvs_plan_free(plan);
	fixture_check(kvs_cache_resize(s->cache, 0, 1));
	fixture_check(kvs_space_reserve(s->f.vmm, 4 * s->f.block, &s->space));
	fixture_check(kvs_vmm_settle(s->f.vmm));
}

static void scene_close(struct scene *s)
{
	s->f.fail_nth(NULL, 0, CUDA_SUCCESS);
	kvs_region_free(s->borrower);
	kvs_region_free(s->owner);
	kvs_cache_free(s->cache);
	kvs_space_free(s->space);
	fixture_close(&s->f);
}

static void assert_unchanged(struct scene *s, const struct kvs_vmm_stats *before, size_t reservations)
{
	struct kvs_vmm_stats after;

	s->f.fail_nth(NULL, 0, CUDA_SUCCESS);
	fixture_check(kvs_vmm_settle(s->f.vmm));
	after = fixture_stats(&s->f);
	assert_int_equal(after.mapped_bytes, before->mapped_bytes);
	assert_int_equal(after.physical_bytes, before->physical_bytes);
	assert_int_equal(after.virtual_bytes, before->virtual_bytes);
	assert_int_equal(fixture_counters(&s->f).reservations, reservations);
	assert_int_equal(kvs_region_slot_bytes(s->owner, 0), 2 * s->f.block);
	assert_int_equal(fixture_read(&s->f, kvs_region_address(s->borrower, 0)), 42);
}

/* Returns whether the Nth call was reached. */
static bool fail_once(scene_operation *operation, const char *function, size_t nth)
{
	struct scene s;
	struct kvs_vmm_stats before;
	size_t reservations;
	bool injected;
	int err;

	scene_open(&s);
	before = fixture_stats(&s.f);
	reservations = fixture_counters(&s.f).reservations;
	s.f.fail_nth(function, nth, CUDA_ERROR_OUT_OF_MEMORY);
	err = operation(&s);
	injected = s.injected || s.f.failed();
	fixture_assert_valid(&s.f);
	assert_true(injected || !err);
	if (err) {
		assert_true(strlen(kvs_error()) > 0);
		if (operation != shrink_and_settle)
			assert_unchanged(&s, &before, reservations);
	}
	/* The operation succeeds once the driver works again. */
	s.f.fail_nth(NULL, 0, CUDA_SUCCESS);
	if (operation != end_share || err)
		fixture_check(operation(&s));
	fixture_check(kvs_vmm_settle(s.f.vmm));
	fixture_assert_valid(&s.f);
	assert_int_equal(fixture_stats(&s.f).physical_bytes + fixture_stats(&s.f).free_bytes,
		fixture_counters(&s.f).physical_bytes);
	scene_close(&s);
	return injected;
}

static void fail_everywhere(scene_operation *operation)
{
	static const char *const functions[] = {"*", "cuMemAddressReserve", "cuMemCreate", "cuMemMap", "cuMemSetAccess",
		"cuMemUnmap", "cuMemRelease", "cuMemAddressFree", "cuEventCreate", "cuEventRecord", "cuEventQuery",
		"cuEventSynchronize", "cuCtxSynchronize"};

	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++)
		for (size_t nth = 1; fail_once(operation, functions[i], nth); nth++)
			;
}

static void growing_survives_every_failure(void **state)
{
	(void)state;
	fail_everywhere(grow);
}

static void shrinking_survives_every_failure(void **state)
{
	(void)state;
	fail_everywhere(shrink);
	fail_everywhere(shrink_and_settle);
}

static void sharing_survives_every_failure(void **state)
{
	(void)state;
	fail_everywhere(share_again);
	fail_everywhere(end_share);
}

static void caches_survive_every_failure(void **state)
{
	(void)state;
	fail_everywhere(grow_cache);
	fail_everywhere(shrink_cache);
	fail_everywhere(make_cache);
}

static void spaces_and_sinks_survive_every_failure(void **state)
{
	(void)state;
	fail_everywhere(make_sink);
	fail_everywhere(adopt);
}

/* Everything is released even if each release fails once. */
static void freeing_survives_every_failure(void **state)
{
	bool injected = true;

	(void)state;
	for (size_t nth = 1; injected; nth++) {
		struct scene s;

		scene_open(&s);
		s.f.fail_nth("*", nth, CUDA_ERROR_UNKNOWN);
		kvs_region_free(s.borrower);
		kvs_region_free(s.owner);
		kvs_cache_free(s.cache);
		kvs_space_free(s.space);
		injected = s.f.failed();
		fixture_close(&s.f);
	}
}

/* The worker that maps ahead has nobody to tell: what it began with is taken back, and the slot grows on demand. */
static void mapping_ahead_survives_every_failure(void **state)
{
	static const char *const functions[] = {"cuMemCreate", "cuMemMap", "cuMemSetAccess"};
	struct kvs_vmm_options options = {.premap = true, .no_free_list = true};

	(void)state;
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		struct fixture f = fixture_open(&options);
		kvs_region *region;

		fixture_check(kvs_region_reserve(f.vmm, 4 * f.block, 1, &region));
		fixture_check(kvs_region_resize(region, 0, 1));
		fixture_check(kvs_vmm_settle(f.vmm));
		f.fail_nth(functions[i], 1, CUDA_ERROR_OUT_OF_MEMORY);
		fixture_check(kvs_region_resize(region, 0, f.block * 3 / 4)); /* asks the worker for the next block */
		fixture_check(kvs_vmm_settle(f.vmm));
		assert_true(f.failed());
		f.fail_nth(NULL, 0, CUDA_SUCCESS);
		fixture_assert_valid(&f);
		assert_int_equal(fixture_stats(&f).mapped_bytes, f.block);
		assert_int_equal(fixture_counters(&f).physical_bytes, f.block);
		fixture_check(kvs_region_resize(region, 0, 2 * f.block));
		kvs_region_free(region);
		fixture_close(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(growing_survives_every_failure),
		cmocka_unit_test(shrinking_survives_every_failure),
		cmocka_unit_test(sharing_survives_every_failure),
		cmocka_unit_test(caches_survive_every_failure),
		cmocka_unit_test(spaces_and_sinks_survive_every_failure),
		cmocka_unit_test(freeing_survives_every_failure),
		cmocka_unit_test(mapping_ahead_survives_every_failure),
	};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
