/* Calls from several threads, with the premapping worker beside them, leave a valid manager; ThreadSanitizer looks on. */
#include "fixture.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 300, BLOCKS = 4 };

struct job {
	struct fixture *f;
	kvs_region *owner, *borrower;
	int index;
	int err;
};

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
		if (!job->err && round % 16 == 0)
			job->err = kvs_vmm_settle(job->f->vmm);
		if (!job->err && !kvs_vmm_is_valid(job->f->vmm))
			job->err = -EINVAL;
	}
	return NULL;
}

static void threads_leave_a_valid_manager(void **state)
{
	struct fixture f = fixture_open(&(struct kvs_vmm_options){.premap = true});
	pthread_t threads[THREADS];
	struct job jobs[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++) {
		jobs[i] = (struct job){.f = &f, .index = i};
		fixture_check(kvs_region_reserve(f.vmm, BLOCKS * f.block, 1, &jobs[i].owner));
		fixture_check(kvs_region_reserve(f.vmm, BLOCKS * f.block, 1, &jobs[i].borrower));
		fixture_check(kvs_region_share(jobs[i].borrower, jobs[i].owner));
		assert_int_equal(pthread_create(&threads[i], NULL, grow_and_shrink, &jobs[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(jobs[i].err, 0);
		kvs_region_free(jobs[i].borrower);
		kvs_region_free(jobs[i].owner);
	}
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(threads_leave_a_valid_manager)};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
