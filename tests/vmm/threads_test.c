/*
 * Calls from several threads, together with the premapping worker, leave a valid manager: each thread grows and shrinks
 * a pair of regions of its own, ends and begins their sharing, and has a slot of a common cache; another thread queries
 * all the time. Meant to run with ThreadSanitizer too.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 300, BLOCKS = 4, CTX_TOKENS = 32 };

struct job {
	struct fixture *f;
	kvs_region *owner, *borrower;
	kvs_cache *cache;
	int index;
	int err;
};

struct watcher {
	struct job *jobs;
	atomic_bool stop;
	int err;
};

static int share_again(struct job *job)
{
	int err = kvs_region_unshare(job->borrower);

	if (!err)
		err = kvs_region_resize(job->borrower, 0, job->f->block);
	return err ? err : kvs_region_share(job->borrower, job->owner);
}

static int resize_slot(struct job *job, int round)
{
	size_t tokens = (size_t)(round * 5 + job->index) % (CTX_TOKENS + 1);
	int err = kvs_cache_resize(job->cache, (unsigned)job->index, tokens);

	return !err && kvs_cache_tokens(job->cache, (unsigned)job->index) != tokens ? -EIO : err;
}

static void *grow_and_shrink(void *argument)
{
	struct job *job = argument;
	size_t block = job->f->block;

	job->err = kvs_cu_bind(job->f->cu);
	for (int round = 0; round < ROUNDS && !job->err; round++) {
		size_t bytes = (size_t)(round * 7 + job->index) % BLOCKS * block + block * 3 / 4;

		job->err = kvs_region_resize(job->owner, 0, bytes);
		if (!job->err && kvs_region_slot_bytes(job->borrower, 0) != bytes)
			job->err = -EIO;
		if (!job->err)
			job->err = resize_slot(job, round);
		if (!job->err && round % 16 == 0)
			job->err = kvs_vmm_settle(job->f->vmm);
		if (!job->err && round % 16 == 8)
			job->err = share_again(job);
		if (!job->err && !kvs_vmm_is_valid(job->f->vmm))
			job->err = -EINVAL;
	}
	return NULL;
}

static void *ask(void *argument)
{
	struct watcher *watcher = argument;
	struct kvs_vmm_stats stats;

	while (!watcher->stop && !watcher->err) {
		kvs_vmm_get_stats(watcher->jobs[0].f->vmm, &stats);
		if (stats.physical_bytes + stats.free_bytes > stats.peak_bytes)
			watcher->err = -EINVAL;
		for (int i = 0; i < THREADS; i++)
			if (kvs_region_owner(watcher->jobs[i].owner))
				watcher->err = -EINVAL;
	}
	return NULL;
}

static kvs_cache *make_cache(const struct fixture *f)
{
	const struct kvs_cache_shape shape = {.layers = 3,
		.slots = THREADS,
		.ctx_tokens = CTX_TOKENS,
		.k_token_bytes = f->block / 8,
		.v_token_bytes = f->block / 16};
	kvs_cache *cache;
	kvs_plan *plan;

	fixture_check(kvs_plan_parse("0,1,0", &plan));
	fixture_check(kvs_cache_create(f->vmm, &shape, plan, &cache));
	kvs_plan_free(plan);
	return cache;
}

static void threads_leave_a_valid_manager(void **state)
{
	struct fixture f = fixture_open(&(struct kvs_vmm_options){.premap = true});
	struct job jobs[THREADS];
	struct watcher watcher = {.jobs = jobs};
	pthread_t threads[THREADS + 1];
	kvs_cache *cache = make_cache(&f);

	(void)state;
	for (int i = 0; i < THREADS; i++) {
		jobs[i] = (struct job){.f = &f, .cache = cache, .index = i};
		fixture_check(kvs_region_reserve(f.vmm, BLOCKS * f.block, 1, &jobs[i].owner));
		fixture_check(kvs_region_reserve(f.vmm, BLOCKS * f.block, 1, &jobs[i].borrower));
		fixture_check(kvs_region_share(jobs[i].borrower, jobs[i].owner));
	}
	assert_int_equal(pthread_create(&threads[THREADS], NULL, ask, &watcher), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, grow_and_shrink, &jobs[i]), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	watcher.stop = true;
	pthread_join(threads[THREADS], NULL);
	assert_int_equal(watcher.err, 0);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(jobs[i].err, 0);
		kvs_region_free(jobs[i].borrower);
		kvs_region_free(jobs[i].owner);
	}
	kvs_cache_free(cache);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(threads_leave_a_valid_manager)};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
