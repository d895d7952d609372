/*
 * Random operations against a naive model: what each region may use, whose memory it reads, and what is written there. Run
 * for small, usual and large granules, with and without premapping; KVS_TEST_SEED and KVS_TEST_OPERATIONS take others.
 */
#include "fixture.h"

#include <sys/wait.h>
#include <unistd.h>

enum { REGIONS = 8, SLOTS = 2, SLOT_BLOCKS = 5 };

struct model_region {
	kvs_region *region;
	int owner;                          /* -1: its own */
	size_t bytes[SLOTS];                /* of an owner */
	uint32_t words[SLOTS][SLOT_BLOCKS]; /* the first word of each block that is used */
	bool written[SLOTS][SLOT_BLOCKS];
};

struct model {
	struct fixture f;
	struct model_region regions[REGIONS];
	uint64_t seed;
};

static uint64_t next_random(struct model *m)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 7;
	m->seed ^= m->seed << 17;
	return m->seed;
}

static bool has_borrowers(const struct model *m, int r)
{
	for (int i = 0; i < REGIONS; i++)
		if (m->regions[i].region && m->regions[i].owner == r)
			return true;
	return false;
}

static struct model_region *owner_of(struct model *m, struct model_region *region)
{
	return region->owner < 0 ? region : &m->regions[region->owner];
}

static void reserve(struct model *m, struct model_region *region)
{
	*region = (struct model_region){.owner = -1};
	fixture_check(kvs_region_reserve(m->f.vmm, SLOT_BLOCKS * m->f.block, SLOTS, &region->region));
}

/* The model's memory is what the budget allows: a resize past it must fail, and change nothing. */
static void resize(struct model *m, struct model_region *region)
{
	unsigned slot = (unsigned)(next_random(m) % SLOTS);
	size_t bytes = next_random(m) % (SLOT_BLOCKS * m->f.block + 1);
	int err = kvs_region_resize(region->region, slot, bytes);

	if (region->owner >= 0) {
		assert_int_equal(err, -EINVAL);
		return;
	}
	if (err == -ENOMEM) {
		assert_true(bytes > region->bytes[slot]);
		return;
	}
	fixture_check(err);
	for (size_t block = 0; block < SLOT_BLOCKS; block++)
		if (block * m->f.block + sizeof(uint32_t) > bytes)
			region->written[slot][block] = false;
	region->bytes[slot] = bytes;
}

static void write_some(struct model *m, struct model_region *region)
{
	unsigned slot = (unsigned)(next_random(m) % SLOTS);
	size_t block = next_random(m) % SLOT_BLOCKS;

	if (region->owner >= 0 || block * m->f.block + sizeof(uint32_t) > region->bytes[slot])
		return;
	region->words[slot][block] = (uint32_t)next_random(m);
	region->written[slot][block] = true;
	fixture_write(&m->f, kvs_region_address(region->region, slot) + block * m->f.block, region->words[slot][block]);
}

static void read_all(struct model *m, struct model_region *region)
{
	struct model_region *owner = owner_of(m, region);

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		assert_int_equal(kvs_region_slot_bytes(region->region, slot), owner->bytes[slot]);
		for (size_t block = 0; block < SLOT_BLOCKS; block++)
			if (owner->written[slot][block])
				assert_int_equal(fixture_read(&m->f,
							 kvs_region_address(region->region, slot) + block * m->f.block),
					owner->words[slot][block]);
	}
}

static void share(struct model *m, int borrower, int owner)
{
	struct model_region *region = &m->regions[borrower];
	bool legal =
		borrower != owner && region->owner < 0 && m->regions[owner].owner < 0 && !has_borrowers(m, borrower);
	int err = kvs_region_share(region->region, m->regions[owner].region);

	assert_int_equal(err, legal ? 0 : -EINVAL);
	if (!legal)
		return;
	*region = (struct model_region){.region = region->region, .owner = owner};
}

static void end_share(struct model_region *region)
{
	int err = kvs_region_unshare(region->region);

	assert_int_equal(err, region->owner < 0 ? -EINVAL : 0);
	region->owner = -1;
}

static void replace(struct model *m, int r)
{
	if (has_borrowers(m, r))
		return;
	kvs_region_free(m->regions[r].region);
	reserve(m, &m->regions[r]);
}

static void settle(struct model *m)
{
	struct kvs_vmm_stats stats;

	fixture_check(kvs_vmm_settle(m->f.vmm));
	stats = fixture_stats(&m->f);
	assert_int_equal(stats.physical_bytes + stats.free_bytes, fixture_counters(&m->f).physical_bytes);
	assert_int_equal(stats.mapped_bytes - stats.shared_bytes, stats.physical_bytes);
	assert_int_equal(stats.mapped_bytes, fixture_counters(&m->f).mappings * m->f.block);
}

static void step(struct model *m)
{
	int r = (int)(next_random(m) % REGIONS);
	struct model_region *region = &m->regions[r];

	switch (next_random(m) % 16) {
	case 0:
		share(m, r, (int)(next_random(m) % REGIONS));
		break;
	case 1:
		end_share(region);
		break;
	case 2:
		replace(m, r);
		break;
	case 3:
		settle(m);
		break;
	case 4 ... 8:
		write_some(m, region);
		break;
	case 9:
		read_all(m, region);
		break;
	default:
		resize(m, region);
	}
}

static void run(uint64_t seed, size_t operations, bool premap)
{
	struct model m = {.seed = seed};
	struct kvs_vmm_options options = {.premap = premap};

	m.f = fixture_open(NULL);
	options.budget_bytes = REGIONS * SLOTS * SLOT_BLOCKS / 3 * m.f.block;
	options.free_list_bytes = 4 * m.f.block;
	fixture_close(&m.f);
	m.f = fixture_open(&options);
	for (int r = 0; r < REGIONS; r++)
		reserve(&m, &m.regions[r]);
	for (size_t i = 0; i < operations; i++) {
		step(&m);
		fixture_assert_valid(&m.f);
	}
	for (int r = 0; r < REGIONS; r++)
		if (m.regions[r].owner >= 0)
			end_share(&m.regions[r]);
	for (int r = 0; r < REGIONS; r++)
		kvs_region_free(m.regions[r].region);
	fixture_close(&m.f);
}

static size_t from_environment(const char *name, size_t otherwise)
{
	return getenv(name) ? strtoull(getenv(name), NULL, 0) : otherwise;
}

static void random_operations_agree_with_a_naive_model(void **state)
{
	size_t seed = from_environment("KVS_TEST_SEED", 20261123),
	       operations = from_environment("KVS_TEST_OPERATIONS", 80000);

	(void)state;
	print_message("KVS_TEST_SEED=%zu\n", seed);
	run(seed, operations, false);
	run(seed + 1, operations / 4, true);
}

/* softcuda reads its granularity once, so each has a process of its own. */
static void random_operations_agree_at(const char *granularity)
{
	pid_t child = fork();
	int status;

	if (!child) {
		setenv("SOFTCUDA_GRANULARITY", granularity, 1);
		run(from_environment("KVS_TEST_SEED", 20261123), 1000, false);
		run(from_environment("KVS_TEST_SEED", 20261123), 1000, true);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void random_operations_agree_at_every_granularity(void **state)
{
	(void)state;
	random_operations_agree_at("64K");
	random_operations_agree_at("2M");
	random_operations_agree_at("4M");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_agree_at_every_granularity),
		cmocka_unit_test(random_operations_agree_with_a_naive_model),
	};

	setenv("SOFTCUDA_GRANULARITY", "64K", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
