/*
 * Random operations against a naive model: the usable size of each region, its owner, and its content. Runs for small,
 * usual and large granules, with and without premapping; KVS_TEST_SEED and KVS_TEST_OPERATIONS choose another seed and
 * length.
 */
#include "fixture.h"

#include <sys/wait.h>
#include <unistd.h>

enum { REGIONS = 8, SLOTS = 2, SLOT_BLOCKS = 5, LAYERS = 4, CTX_TOKENS = 6, IN_SLAB = REGIONS / 2 };

struct model_region {
	kvs_region *region;
	int owner;                          /* -1: it owns its memory */
	size_t bytes[SLOTS];                /* of an owner */
	uint32_t words[SLOTS][SLOT_BLOCKS]; /* the first word of each block that is used */
	bool written[SLOTS][SLOT_BLOCKS];
};

/*
 * A cache of which a token takes half a block in K and a block in V, and whose layer 3 borrows layer 1's K and layer
 * 0's V.
 */
struct model_cache {
	kvs_cache *cache;
	size_t tokens[SLOTS];
	uint32_t words[SLOTS][LAYERS][2]; /* at the start of K and V, once there are tokens; of owners */
};

struct model {
	struct fixture f;
	struct model_region regions[REGIONS]; /* the first IN_SLAB lie in one space, at their places */
	kvs_space *slab;
	struct model_cache cache;
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

static void reserve(struct model *m, int r)
{
	struct model_region *region = &m->regions[r];
	size_t slot_bytes = SLOT_BLOCKS * m->f.block;

	*region = (struct model_region){.owner = -1};
	if (r < IN_SLAB)
		fixture_check(
			kvs_region_create(m->slab, (size_t)r * SLOTS * slot_bytes, slot_bytes, SLOTS, &region->region));
	else
		fixture_check(kvs_region_reserve(m->f.vmm, slot_bytes, SLOTS, &region->region));
}

/* The model's memory is the budget: a resize past it must fail, and change nothing. */
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
	reserve(m, r);
}

static const int k_owners[LAYERS] = {0, 1, 2, 1}, v_owners[LAYERS] = {0, 1, 2, 0};

static void make_cache(struct model *m)
{
	const struct kvs_cache_shape shape = {.layers = LAYERS,
		.slots = SLOTS,
		.ctx_tokens = CTX_TOKENS,
		.k_token_bytes = m->f.block / 2,
		.v_token_bytes = m->f.block};
	kvs_plan *plan;

	fixture_check(kvs_plan_create(LAYERS, k_owners, v_owners, &plan));
	fixture_check(kvs_cache_create(m->f.vmm, &shape, plan, &m->cache.cache));
	kvs_plan_free(plan);
	memset(m->cache.tokens, 0, sizeof(m->cache.tokens));
}

static CUdeviceptr cache_address(const struct model *m, int layer, int which, unsigned slot)
{
	return which == KVS_K ? kvs_cache_k(m->cache.cache, layer, slot) : kvs_cache_v(m->cache.cache, layer, slot);
}

static void write_cache(struct model *m, unsigned slot)
{
	for (int i = 0; i < 2 * LAYERS; i++) {
		if ((i % 2 == KVS_K ? k_owners : v_owners)[i / 2] != i / 2)
			continue;
		m->cache.words[slot][i / 2][i % 2] = (uint32_t)next_random(m);
		fixture_write(&m->f, cache_address(m, i / 2, i % 2, slot), m->cache.words[slot][i / 2][i % 2]);
	}
}

static void read_cache(struct model *m, unsigned slot)
{
	assert_int_equal(kvs_cache_tokens(m->cache.cache, slot), m->cache.tokens[slot]);
	for (int i = 0; i < 2 * LAYERS && m->cache.tokens[slot]; i++) {
		int owner = (i % 2 == KVS_K ? k_owners : v_owners)[i / 2];

		assert_int_equal(
			fixture_read(&m->f, cache_address(m, i / 2, i % 2, slot)), m->cache.words[slot][owner][i % 2]);
	}
}

static void resize_cache(struct model *m)
{
	unsigned slot = (unsigned)(next_random(m) % SLOTS);
	size_t tokens = next_random(m) % (CTX_TOKENS + 1), before = m->cache.tokens[slot];
	int err = kvs_cache_resize(m->cache.cache, slot, tokens);

	if (err == -ENOMEM)
		assert_true(tokens > before);
	else
		fixture_check(err);
	if (!err)
		m->cache.tokens[slot] = tokens;
	if (!err && !before && tokens)
		write_cache(m, slot);
	read_cache(m, slot);
}

/* A cache's regions are its own: a call that would change one alone is refused, and changes nothing. */
static void meddle_with_cache(struct model *m)
{
	int layer = (int)(next_random(m) % LAYERS);
	kvs_region *mine = next_random(m) % 2 ? kvs_cache_k_region(m->cache.cache, layer)
					      : kvs_cache_v_region(m->cache.cache, layer);
	kvs_region *other = next_random(m) % 2 ? kvs_cache_k_region(m->cache.cache, (int)(next_random(m) % LAYERS))
					       : m->regions[next_random(m) % REGIONS].region;

	assert_int_equal(kvs_region_resize(mine, 0, next_random(m) % m->f.block), -EINVAL);
	assert_int_equal(kvs_region_unshare(mine), -EINVAL);
	assert_int_equal(kvs_region_share(mine, other), -EINVAL);
	assert_int_equal(kvs_region_share(other, mine), -EINVAL);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		read_cache(m, slot);
}

static void replace_cache(struct model *m)
{
	kvs_cache_free(m->cache.cache);
	make_cache(m);
}

static void sink_and_free(struct model *m)
{
	size_t bytes = (next_random(m) % SLOT_BLOCKS + 1) * m->f.block;
	kvs_region *sink;
	kvs_space *space;
	int err;

	fixture_check(kvs_space_reserve(m->f.vmm, bytes, &space));
	err = kvs_region_create_sink(space, 0, bytes, &sink);
	if (err != -ENOMEM)
		fixture_check(err);
	if (!err) {
		fixture_write(&m->f, kvs_region_address(sink, 0), 77);
		assert_int_equal(fixture_read(&m->f, kvs_region_address(sink, 0) + bytes - m->f.block), 77);
		fixture_assert_valid(&m->f);
		kvs_region_free(sink);
	}
	kvs_space_free(space);
}

/* An allocation that is mapped at once, cut in two at some block, its tail shared with its head if they are alike. */
static void adopt_and_free(struct model *m)
{
	size_t at = (next_random(m) % (SLOT_BLOCKS - 1) + 1) * m->f.block, bytes = SLOT_BLOCKS * m->f.block;
	kvs_region *head, *tail = NULL;
	kvs_space *space;
	int err;

	if (next_random(m) % 2)
		bytes = 2 * at;
	fixture_check(kvs_space_reserve(m->f.vmm, bytes, &space));
	fixture_check(kvs_region_create(space, 0, bytes, 1, &head));
	err = kvs_region_resize(head, 0, next_random(m) % 2 ? bytes : at);
	if (err != -ENOMEM)
		fixture_check(err);
	if (!err)
		fixture_write(&m->f, kvs_space_address(space) + at - 4, 99);
	fixture_check(kvs_region_split(head, at, &tail));
	fixture_assert_valid(&m->f);
	if (bytes == 2 * at)
		fixture_check(kvs_region_share(tail, head));
	if (!err)
		assert_int_equal(
			fixture_read(&m->f, kvs_space_address(space) + (bytes == 2 * at ? bytes : at) - 4), 99);
	fixture_assert_valid(&m->f);
	kvs_region_free(tail);
	kvs_region_free(head);
	kvs_space_free(space);
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

/* Rarely, as each of these is many calls. */
static void step_aside(struct model *m)
{
	switch (next_random(m) % 8) {
	case 0:
		replace_cache(m);
		break;
	case 1:
		sink_and_free(m);
		break;
	case 2:
		adopt_and_free(m);
		break;
	case 3:
		meddle_with_cache(m);
		break;
	default:
		resize_cache(m);
	}
}

static void step(struct model *m)
{
	int r = (int)(next_random(m) % REGIONS);
	struct model_region *region = &m->regions[r];

	if (next_random(m) % 8 == 0) {
		step_aside(m);
		return;
	}
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
	options.budget_bytes = REGIONS * SLOTS * SLOT_BLOCKS / 2 * m.f.block;
	options.free_list_bytes = 4 * m.f.block;
	fixture_close(&m.f);
	m.f = fixture_open(&options);
	fixture_check(kvs_space_reserve(m.f.vmm, (size_t)IN_SLAB * SLOTS * SLOT_BLOCKS * m.f.block, &m.slab));
	for (int r = 0; r < REGIONS; r++)
		reserve(&m, r);
	make_cache(&m);
	for (size_t i = 0; i < operations; i++) {
		step(&m);
		fixture_assert_valid(&m.f);
	}
	for (int r = 0; r < REGIONS; r++)
		if (m.regions[r].owner >= 0)
			end_share(&m.regions[r]);
	for (int r = 0; r < REGIONS; r++)
		kvs_region_free(m.regions[r].region);
	kvs_space_free(m.slab);
	kvs_cache_free(m.cache.cache);
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
