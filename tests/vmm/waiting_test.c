/*
 * While one thread waits for the device, all others go on with resizes, queries and settling, even if the work that is
 * waited for itself waits for them.
 */
#include "fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS = 4 };

/* A stream whose work waits for a semaphore, and a thread that waits for that work in a call of the manager. */
struct scene {
	struct fixture f;
	kvs_region *used, *owner, *other;
	kvs_cache *cache;
	CUstream stream;
	sem_t permission;
	pthread_t thread;
	int (*wait)(struct scene *s);
	int err;
};

static void CUDA_CB wait_for_permission(void *semaphore)
{
	sem_wait(semaphore);
}

static int settle(struct scene *s)
{
	return kvs_vmm_settle(s->f.vmm);
}

static int share(struct scene *s)
{
	return kvs_region_share(s->used, s->owner);
}

static int share_then_unshare(struct scene *s)
{
	int err = kvs_region_unshare(s->other);

	return err ? err : kvs_region_share(s->other, s->owner);
}

static int free_region(struct scene *s)
{
	kvs_region_free(s->used);
	s->used = NULL;
	return 0;
}

static int free_cache(struct scene *s)
{
	kvs_cache_free(s->cache);
	s->cache = NULL;
	return 0;
}

static void *wait_in_thread(void *argument)
{
	struct scene *s = argument;

	s->err = kvs_cu_bind(s->f.cu);
	if (!s->err)
		s->err = s->wait(s);
	return NULL;
}

static void scene_open(struct scene *s, int (*wait)(struct scene *s))
{
	const struct kvs_cache_shape shape = {
		.layers = 2, .slots = 1, .ctx_tokens = 8, .k_token_bytes = 64, .v_token_bytes = 64};

	*s = (struct scene){.f = fixture_open(NULL), .wait = wait};
	sem_init(&s->permission, 0, 0);
	assert_int_equal(s->f.cu->cuStreamCreate(&s->stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(s->f.vmm, s->stream));
	fixture_check(kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &s->used));
	fixture_check(kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &s->owner));
	fixture_check(kvs_region_reserve(s->f.vmm, BLOCKS * s->f.block, 1, &s->other));
	fixture_check(kvs_cache_create(s->f.vmm, &shape, NULL, &s->cache));
	fixture_check(kvs_cache_resize(s->cache, 0, 1));
	fixture_check(kvs_region_resize(s->used, 0, 1));
	fixture_check(kvs_region_resize(s->owner, 0, 1));
	fixture_check(kvs_region_share(s->other, s->owner));
	fixture_write(&s->f, kvs_region_address(s->used, 0), 9);
	fixture_write(&s->f, kvs_region_address(s->owner, 0), 8);
	assert_int_equal(s->f.cu->cuLaunchHostFunc(s->stream, wait_for_permission, &s->permission), CUDA_SUCCESS);
	assert_int_equal(pthread_create(&s->thread, NULL, wait_in_thread, s), 0);
	usleep(100000); /* it waits by now; if it does not, the test is only weaker */
}

static void scene_close(struct scene *s)
{
	kvs_region_free(s->other);
	kvs_region_free(s->used);
	kvs_region_free(s->owner);
	kvs_cache_free(s->cache);
	kvs_vmm_detach_stream(s->f.vmm, s->stream);
	assert_int_equal(s->f.cu->cuStreamDestroy(s->stream), CUDA_SUCCESS);
	sem_destroy(&s->permission);
	fixture_close(&s->f);
}

/* The work on the stream ends only after these calls have returned: if one waited for it, the test would hang. */
static void others_go_on_while(int (*wait)(struct scene *s))
{
	struct kvs_vmm_stats stats;
	kvs_region *region;
	struct scene s;

	alarm(60);
	scene_open(&s, wait);
	kvs_vmm_get_stats(s.f.vmm, &stats);
	fixture_assert_valid(&s.f);
	fixture_check(kvs_region_resize(s.owner, 0, 3 * s.f.block));
	fixture_check(kvs_region_resize(s.owner, 0, 2 * s.f.block));
	fixture_check(kvs_region_resize(s.owner, 0, 3 * s.f.block));
	assert_int_equal(kvs_region_slot_bytes(s.owner, 0), 3 * s.f.block);
	fixture_check(kvs_region_reserve(s.f.vmm, s.f.block, 1, &region));
	kvs_region_free(region);
	if (wait != free_cache) {
		fixture_check(kvs_cache_resize(s.cache, 0, 8));
		fixture_check(kvs_cache_resize(s.cache, 0, 0));
	}
	fixture_write(&s.f, kvs_region_address(s.owner, 0) + 2 * s.f.block, 8);
	assert_int_equal(stats.physical_bytes, 6 * s.f.block);
	sem_post(&s.permission);
	pthread_join(s.thread, NULL);
	fixture_check(s.err);
	scene_close(&s);
	alarm(0);
}

static void others_go_on_while_one_waits(void **state)
{
	(void)state;
	others_go_on_while(settle);
	others_go_on_while(share);
	others_go_on_while(share_then_unshare);
	others_go_on_while(free_region);
	others_go_on_while(free_cache);
}

/* Checks made before the wait are made again: the region that should borrow has become an owner meanwhile. */
static void a_share_looks_again_after_its_wait(void **state)
{
	kvs_region *third;
	struct scene s;

	(void)state;
	alarm(60);
	scene_open(&s, share);
	fixture_check(kvs_region_reserve(s.f.vmm, BLOCKS * s.f.block, 1, &third));
	fixture_check(kvs_region_share(third, s.used));
	sem_post(&s.permission);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.err, -EINVAL);
	fixture_assert_valid(&s.f);
	assert_int_equal(fixture_read(&s.f, kvs_region_address(third, 0)), 9);
	kvs_region_free(third);
	scene_close(&s);
	alarm(0);
}

/* ---- the worker has nothing left to do ---- */

struct crowd {
	struct fixture f;
	kvs_region *held, *free, *rest;
	kvs_space *space;
	sem_t inside, permission; /* of the call that holds the turn */
	int err;
};

static void hold_the_turn(void *arg, const struct kvs_cu_call *call)
{
	struct crowd *c = arg;

	if (call->after)
		return;
	sem_post(&c->inside);
	sem_wait(&c->permission);
}

static void *grow_held(void *arg)
{
	struct crowd *c = arg;

	kvs_cu_bind(c->f.cu);
	fixture_check(kvs_region_resize(c->held, 0, BLOCKS * c->f.block));
	return NULL;
}

static void *settle_it(void *arg)
{
	struct crowd *c = arg;

	kvs_cu_bind(c->f.cu);
	c->err = kvs_vmm_settle(c->f.vmm);
	return NULL;
}

static void *split_free(void *arg)
{
	struct crowd *c = arg;

	kvs_cu_bind(c->f.cu);
	fixture_check(kvs_region_split(c->free, c->f.block, &c->rest));
	return NULL;
}

/*
 * A slot waits to be mapped ahead, somebody waits until nothing does, and its region is cut off behind what it has before the
 * worker had its turn: then there is nothing to map, and whoever waits must hear of it.
 */
static void settling_ends_when_what_it_waits_for_is_taken_away(void **state)
{
	static const enum kvs_cu_function create[] = {KVS_FN_cuMemCreate};
	struct kvs_vmm_options options = {.premap = true, .no_free_list = true};
	struct crowd c = {.f = fixture_open(&options)};
	pthread_t grower, settler, splitter;
	kvs_cu_observer *observer;

	(void)state;
	alarm(60);
	sem_init(&c.inside, 0, 0);
	sem_init(&c.permission, 0, 0);
	fixture_check(kvs_region_reserve(c.f.vmm, BLOCKS * c.f.block, 1, &c.held));
	fixture_check(kvs_space_reserve(c.f.vmm, BLOCKS * c.f.block, &c.space));
	fixture_check(kvs_region_create(c.space, 0, BLOCKS * c.f.block, 1, &c.free));
	fixture_check(kvs_region_resize(c.free, 0, 1));
	fixture_check(kvs_vmm_settle(c.f.vmm));
	assert_int_equal(kvs_cu_observe(c.f.cu, create, 1, hold_the_turn, &c, &observer), 0);
	assert_int_equal(pthread_create(&grower, NULL, grow_held, &c), 0);
	sem_wait(&c.inside);
	fixture_check(kvs_region_resize(
		c.free, 0, c.f.block * 3 / 4)); /* asks for the next block; nobody has the turn for it */
	assert_int_equal(pthread_create(&splitter, NULL, split_free, &c), 0);
	assert_int_equal(pthread_create(&settler, NULL, settle_it, &c), 0);
	usleep(200000);                  /* both wait */
	for (int i = 0; i < BLOCKS; i++) /* all of the region, so that nothing of it is to be mapped ahead */
		sem_post(&c.permission);
	pthread_join(splitter, NULL);
	pthread_join(settler, NULL);
	pthread_join(grower, NULL);
	assert_int_equal(c.err, 0);
	assert_int_equal(kvs_cu_unobserve(observer), 0);
	kvs_region_free(c.rest);
	kvs_region_free(c.free);
	kvs_space_free(c.space);
	kvs_region_free(c.held);
	fixture_close(&c.f);
	alarm(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(others_go_on_while_one_waits),
		cmocka_unit_test(a_share_looks_again_after_its_wait),
		cmocka_unit_test(settling_ends_when_what_it_waits_for_is_taken_away),
	};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
