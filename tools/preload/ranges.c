/*
 * tools/preload/ranges.c: the addresses of shared memory, for hooks that look at every launch and copy.
 *
 * They are read without a lock: a change publishes a new table. An old one goes when no hook that was inside at that moment still is.
 * For that, each thread has a mark, which a hook sets to the tables' present age when it begins and clears when it ends, by plain
 * stores. The fence that this takes is on the other side: membarrier() makes all threads of the process pass one, so each either
 * shows its mark or will find the new table. A system without that call keeps the old tables.
 */
#include "preload.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* So many old ones may wait, so that not every change calls the system. */
#define MOST_OLD 32

_Atomic(struct shim_ranges *) shim_ranges_now;
_Atomic uint64_t shim_ranges_age = 1;
static struct shim_ranges *old; /* newest first */
static size_t old_count;

/* ---- threads inside hooks ---- */

SHIM_INITIAL_EXEC _Thread_local struct shim_reader *shim_reader;
static _Thread_local struct shim_reader nobody; /* of a thread that gets no mark */
static _Atomic(struct shim_reader *) readers;   /* one that its thread has left is another's */
static atomic_bool unknown;                     /* some thread has no mark: nothing old can go */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void reader_leave(void *arg)
{
	struct shim_reader *reader = arg;

	shim_reader = NULL; /* hooks that a later destructor calls have one again */
	atomic_store_explicit(&reader->inside, 0, memory_order_release);
	atomic_store_explicit(&reader->taken, false, memory_order_release);
}

static void key_make(void)
{
	if (pthread_key_create(&key, reader_leave))
		atomic_store(&unknown, true);
}

static struct shim_reader *reader_take(void)
{
	struct shim_reader *reader = atomic_load(&readers);
	bool taken = false;

	for (; reader; reader = reader->next, taken = false)
		if (atomic_compare_exchange_strong(&reader->taken, &taken, true))
			return reader;
	reader = aligned_alloc(64, sizeof(*reader));
	if (!reader)
		return NULL;
	*reader = (struct shim_reader){.taken = true, .next = atomic_load(&readers)};
	while (!atomic_compare_exchange_weak(&readers, &reader->next, reader))
		;
	return reader;
}

struct shim_reader *shim_reader_make(void)
{
	struct shim_reader *reader;

	pthread_once(&once, key_make);
	reader = atomic_load(&unknown) ? NULL : reader_take();
	if (reader && pthread_setspecific(key, reader)) {
		atomic_store(&reader->taken, false);
		reader = NULL;
	}
	if (!reader) {
		atomic_store(&unknown, true);
		reader = &nobody;
	}
	return shim_reader = reader;
}

static bool fence(void)
{
	if (!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		return true;
	return !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) &&
	       !syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

/* The age of the oldest table that a hook may have. */
static uint64_t oldest_in_use(void)
{
	uint64_t oldest = UINT64_MAX;

	for (struct shim_reader *reader = atomic_load(&readers); reader; reader = reader->next) {
		uint64_t inside = atomic_load_explicit(&reader->inside, memory_order_acquire);

		if (inside && inside < oldest)
			oldest = inside;
	}
	return oldest;
}

static void old_free(void)
{
	struct shim_ranges **link = &old;
	uint64_t oldest;

	if (old_count <= MOST_OLD || !fence() || atomic_load(&unknown))
		return;
	oldest = oldest_in_use();
	while (*link) {
		struct shim_ranges *ranges = *link;

		if (ranges->age >= oldest) {
			link = &ranges->older;
			continue;
		}
		*link = ranges->older;
		free(ranges);
		old_count--;
	}
}

/* ---- tables ---- */

const struct shim_range *shim_range_next(const struct shim_ranges *ranges, CUdeviceptr address)
{
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (ranges->range[middle].base + ranges->range[middle].bytes <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < ranges->count ? &ranges->range[low] : NULL;
}

static int by_base(const void *a, const void *b)
{
	CUdeviceptr left = ((const struct shim_range *)a)->base, right = ((const struct shim_range *)b)->base;

	return (left > right) - (left < right);
}

static struct shim_ranges *table_make(const struct shim_range *range, size_t count)
{
	struct shim_ranges *ranges = calloc(1, sizeof(*ranges) + count * sizeof(*range));

	if (!ranges)
		return NULL;
	memcpy(ranges->range, range, count * sizeof(*range));
	qsort(ranges->range, count, sizeof(*range), by_base);
	ranges->count = count;
	ranges->low = ranges->range[0].base;
	ranges->high = ranges->range[count - 1].base + ranges->range[count - 1].bytes;
	return ranges;
}

int shim_ranges_publish(const struct shim_range *range, size_t count)
{
	struct shim_ranges *ranges = count ? table_make(range, count) : NULL, *before;

	if (count && !ranges)
		return kvs_fail(-ENOMEM, "no memory for the table of shared memory");
	before = atomic_exchange(&shim_ranges_now, ranges);
	if (before) {
		/* Who comes in from now on is younger, and finds the new one. */
		before->age = atomic_fetch_add(&shim_ranges_age, 1);
		before->older = old;
		old = before;
		old_count++;
		old_free();
	}
	return 0;
}

/* The other threads are not in the child, and so in no hook. */
void shim_ranges_forget(void)
{
	for (struct shim_reader *reader = atomic_load(&readers); reader; reader = reader->next) {
		if (reader == shim_reader)
			continue;
		atomic_store(&reader->inside, 0);
		atomic_store(&reader->taken, false);
	}
	shim_ranges_publish(NULL, 0);
}
