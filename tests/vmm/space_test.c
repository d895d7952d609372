/* Spaces: regions at chosen places of one reservation, as other programs need them, and sinks. */
#include "fixture.h"

/*
 * A slab that another program laid out: K and V of each layer one after the other, at offsets that it computes itself.
 */
static void a_slab_of_all_layers_shares_like_regions_of_their_own(void **state)
{
	enum { LAYERS = 4 };
	const int owners[LAYERS] = {0, 1, 2, 1};
	struct fixture f = fixture_open(NULL);
	const size_t tensor = 3 * f.block;
	kvs_region *regions[2 * LAYERS];
	kvs_space *slab;

	(void)state;
	fixture_check(kvs_space_reserve(f.vmm, 2 * LAYERS * tensor, &slab));
	assert_int_equal(kvs_space_bytes(slab), 2 * LAYERS * tensor);
	for (size_t i = 0; i < 2 * LAYERS; i++) {
		fixture_check(kvs_region_create(slab, i * tensor, tensor, 1, &regions[i]));
		assert_int_equal(kvs_region_address(regions[i], 0), kvs_space_address(slab) + i * tensor);
		if (owners[i / 2] == (int)i / 2)
			fixture_check(kvs_region_resize(regions[i], 0, tensor));
		else
			fixture_check(kvs_region_share(regions[i], regions[2 * owners[i / 2] + i % 2]));
	}
	fixture_write(&f, kvs_space_address(slab) + 3 * tensor + 4, 11); /* V of layer 1 */
	assert_int_equal(fixture_read(&f, kvs_space_address(slab) + 7 * tensor + 4), 11);
	assert_int_equal(fixture_stats(&f).virtual_bytes, 2 * LAYERS * tensor);
	assert_int_equal(fixture_stats(&f).mapped_bytes, 2 * LAYERS * tensor);
	assert_int_equal(fixture_stats(&f).physical_bytes, 2 * 3 * tensor);
	assert_int_equal(fixture_counters(&f).physical_bytes, 2 * 3 * tensor);
	assert_int_equal(fixture_counters(&f).reservations, 1);
	fixture_assert_valid(&f);
	for (size_t i = 2 * LAYERS; i--;)
		kvs_region_free(regions[i]);
	kvs_space_free(slab);
	fixture_close(&f);
}

/* Addresses that a program has reserved itself: they are still its own afterwards. */
static void a_range_of_somebody_elses_is_left_reserved(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *owner, *borrower;
	kvs_space *space;
	CUdeviceptr base;

	(void)state;
	assert_int_equal(f.cu->cuMemAddressReserve(&base, 4 * f.block, 0, 0, 0), CUDA_SUCCESS);
	assert_int_equal(kvs_space_adopt(f.vmm, base + 1, f.block, &space), -EINVAL);
	assert_int_equal(kvs_space_adopt(f.vmm, base, f.block + 1, &space), -EINVAL);
	assert_int_equal(kvs_space_adopt(f.vmm, base, 0, &space), -EINVAL);
	fixture_check(kvs_space_adopt(f.vmm, base, 4 * f.block, &space));
	assert_int_equal(kvs_space_address(space), base);
	fixture_check(kvs_region_create(space, 0, f.block, 1, &owner));
	fixture_check(kvs_region_create(space, 2 * f.block, f.block, 1, &borrower));
	fixture_check(kvs_region_resize(owner, 0, f.block));
	fixture_check(kvs_region_share(borrower, owner));
	fixture_write(&f, base, 5);
	assert_int_equal(fixture_read(&f, base + 2 * f.block), 5);
	fixture_assert_valid(&f);
	kvs_region_free(borrower);
	kvs_region_free(owner);
	kvs_space_free(space);
	assert_int_equal(fixture_stats(&f).virtual_bytes, 0);
	assert_int_equal(fixture_counters(&f).reservations, 1);
	assert_int_equal(f.cu->cuMemAddressFree(base, 4 * f.block), CUDA_SUCCESS);
	fixture_close(&f);
}

/* Tensors that end within a granule: whole granules are shared, those common to two tensors stay private. */
static void what_straddles_a_granule_stays_private(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *first, *between, *second;
	kvs_space *slab;

	(void)state;
	fixture_check(kvs_space_reserve(f.vmm, 5 * f.block - f.block / 2, &slab)); /* two tensors of 2 1/4 granules */
	assert_int_equal(kvs_space_bytes(slab), 5 * f.block);
	fixture_check(kvs_region_create(slab, 3 * f.block, f.block, 1, &second));
	fixture_check(kvs_region_create(slab, 0, f.block, 1, &first));
	fixture_check(kvs_region_create(slab, f.block, 2 * f.block, 1, &between));
	fixture_check(kvs_region_resize(first, 0, f.block));
	fixture_check(kvs_region_resize(between, 0, 2 * f.block));
	fixture_check(kvs_region_share(second, first));
	fixture_write(&f, kvs_space_address(slab), 3);
	assert_int_equal(fixture_read(&f, kvs_space_address(slab) + 3 * f.block), 3);
	assert_int_equal(fixture_stats(&f).physical_bytes, 3 * f.block);
	fixture_assert_valid(&f);
	kvs_region_free(second);
	kvs_region_free(first);
	kvs_region_free(between);
	kvs_space_free(slab);
	fixture_close(&f);
}

static void a_region_lies_in_its_space_and_on_no_other(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *region, *other;
	kvs_space *space;

	(void)state;
	assert_int_equal(kvs_space_reserve(f.vmm, 0, &space), -EINVAL);
	assert_int_equal(kvs_space_reserve(f.vmm, SIZE_MAX, &space), -EINVAL);
	fixture_check(kvs_space_reserve(f.vmm, 8 * f.block, &space));
	fixture_check(kvs_region_create(space, 2 * f.block, f.block, 3, &region));
	assert_int_equal(kvs_region_create(space, 1, f.block, 1, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "granule"));
	assert_int_equal(kvs_region_create(space, 7 * f.block, f.block + 1, 1, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "does not fit"));
	assert_int_equal(kvs_region_create(space, SIZE_MAX - f.block + 1, f.block, 1, &other), -EINVAL);
	assert_int_equal(kvs_region_create(space, 0, SIZE_MAX / 2, 4, &other), -EINVAL);
	assert_int_equal(kvs_region_create(space, 4 * f.block, f.block, 1, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "lies at"));
	assert_int_equal(kvs_region_create(space, f.block, f.block, 2, &other), -EINVAL);
	assert_int_equal(kvs_region_create(space, 0, 8 * f.block, 1, &other), -EINVAL);
	fixture_check(kvs_region_create(space, 5 * f.block, f.block, 3, &other)); /* right after it */
	fixture_assert_valid(&f);
	kvs_region_free(region);
	fixture_check(kvs_region_create(space, 0, f.block, 5, &region)); /* its place is free again */
	kvs_region_free(region);
	kvs_region_free(other);
	kvs_space_free(space);
	kvs_space_free(NULL);
	fixture_close(&f);
}

/* Blocks of several granules: a region may start at any granule, and is a whole number of blocks. */
static void offsets_are_granules_and_sizes_are_blocks(void **state)
{
	struct fixture f = fixture_open(NULL);
	struct kvs_vmm_options options = {.block_bytes = 4 * f.block};
	size_t granule = f.block;
	kvs_region *region;
	kvs_space *space;

	(void)state;
	fixture_close(&f);
	f = fixture_open(&options);
	fixture_check(kvs_space_reserve(f.vmm, 9 * granule, &space));
	assert_int_equal(kvs_region_create(space, granule, 8 * granule + 1, 1, &region), -EINVAL);
	fixture_check(kvs_region_create(space, granule, 5 * granule, 1, &region));
	assert_int_equal(kvs_region_slot_stride(region), 8 * granule);
	fixture_check(kvs_region_resize(region, 0, 8 * granule));
	fixture_write(&f, kvs_region_address(region, 0) + 8 * granule - 4, 1);
	fixture_assert_valid(&f);
	kvs_region_free(region);
	kvs_space_free(space);
	fixture_close(&f);
}

static void a_sink_is_one_block_all_over(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *sink, *beside;
	struct kvs_vmm_stats stats;
	kvs_space *space;

	(void)state;
	fixture_check(kvs_space_reserve(f.vmm, 9 * f.block, &space));
	fixture_check(kvs_region_create_sink(space, f.block, 7 * f.block - 5, &sink));
	fixture_check(kvs_region_create(space, 0, f.block, 1, &beside));
	assert_int_equal(kvs_region_slot_bytes(sink, 0), 7 * f.block);
	stats = fixture_stats(&f);
	assert_int_equal(stats.physical_bytes, f.block);
	assert_int_equal(stats.mapped_bytes, 7 * f.block);
	assert_int_equal(stats.sink_bytes, 7 * f.block);
	assert_int_equal(stats.unshared_bytes, 0);
	assert_int_equal(stats.saved_bytes, 0);
	assert_int_equal(stats.calls[KVS_CALL_SET_ACCESS].calls, 1);
	assert_int_equal(fixture_counters(&f).physical_bytes, f.block);
	for (uint32_t i = 0; i < 7; i++) { /* writable everywhere, with the same content everywhere */
		fixture_write(&f, kvs_region_address(sink, 0) + i * f.block, i + 1);
		assert_int_equal(fixture_read(&f, kvs_region_address(sink, 0) + (6 - i) * f.block), i + 1);
	}
	fixture_assert_valid(&f);
	assert_int_equal(kvs_region_resize(sink, 0, f.block), -EINVAL);
	assert_int_equal(kvs_region_share(sink, beside), -EINVAL);
	assert_int_equal(kvs_region_share(beside, sink), -EINVAL);
	assert_int_equal(kvs_region_unshare(sink), -EINVAL);
	kvs_region_free(sink);
	assert_int_equal(fixture_stats(&f).mapped_bytes, 0);
	kvs_region_free(beside);
	kvs_space_free(space);
	fixture_close(&f);
}

/* An allocation of another program: mapped at once, and cut up with its content when its layout is known. */
static void a_region_is_split_where_it_lies(void **state)
{
	struct fixture f = fixture_open(NULL);
	kvs_region *whole, *rest, *tail;
	struct kvs_vmm_stats before;
	kvs_space *space;

	(void)state;
	fixture_check(kvs_space_reserve(f.vmm, 6 * f.block, &space));
	fixture_check(kvs_region_create(space, 0, 6 * f.block, 1, &whole));
	fixture_check(kvs_region_resize(whole, 0, 5 * f.block + 1));
	for (uint32_t i = 0; i < 6; i++)
		fixture_write(&f, kvs_space_address(space) + i * f.block, 100 + i);
	before = fixture_stats(&f);
	assert_int_equal(kvs_region_split(whole, 0, &rest), -EINVAL);
	assert_int_equal(kvs_region_split(whole, f.block + 1, &rest), -EINVAL);
	assert_int_equal(kvs_region_split(whole, 6 * f.block, &rest), -EINVAL);
	fixture_check(kvs_region_split(whole, 2 * f.block, &rest));
	fixture_check(kvs_region_split(rest, 2 * f.block, &tail));
	fixture_assert_valid(&f);
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_MAP].calls, before.calls[KVS_CALL_MAP].calls);
	assert_int_equal(fixture_stats(&f).calls[KVS_CALL_UNMAP].calls, 0);
	assert_int_equal(fixture_stats(&f).physical_bytes, before.physical_bytes);
	assert_int_equal(kvs_region_slot_stride(whole), 2 * f.block);
	assert_int_equal(kvs_region_slot_bytes(whole, 0), 2 * f.block);
	assert_int_equal(kvs_region_slot_bytes(rest, 0), 2 * f.block);
	assert_int_equal(kvs_region_slot_bytes(tail, 0), f.block + 1);
	assert_int_equal(kvs_region_address(tail, 0), kvs_space_address(space) + 4 * f.block);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(fixture_read(&f, kvs_space_address(space) + i * f.block), 100 + i);
	fixture_check(kvs_region_share(rest, whole));
	assert_int_equal(kvs_region_split(whole, f.block, &tail), -EINVAL); /* shared already */
	assert_int_equal(fixture_read(&f, kvs_space_address(space) + 3 * f.block), 101);
	assert_int_equal(fixture_stats(&f).physical_bytes, 4 * f.block);
	fixture_assert_valid(&f);
	kvs_region_free(tail);
	kvs_region_free(rest);
	kvs_region_free(whole);
	kvs_space_free(space);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slab_of_all_layers_shares_like_regions_of_their_own),
		cmocka_unit_test(a_range_of_somebody_elses_is_left_reserved),
		cmocka_unit_test(what_straddles_a_granule_stays_private),
		cmocka_unit_test(a_region_lies_in_its_space_and_on_no_other),
		cmocka_unit_test(offsets_are_granules_and_sizes_are_blocks),
		cmocka_unit_test(a_sink_is_one_block_all_over),
		cmocka_unit_test(a_region_is_split_where_it_lies),
	};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
