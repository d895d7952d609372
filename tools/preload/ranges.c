/*
 * tools/preload/ranges.c: the addresses of shared memory, for hooks that look at every launch and copy.
 *
 * They are read without a lock: a change publishes a new table, and the old ones stay, as a reader may be in one. A
 * program changes its caches a few times in its life.
 */
#include "preload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Atomic(struct shim_ranges *) shim_ranges_now;
static struct shim_ranges *newest; /* keeps the old ones reachable */

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

int shim_ranges_publish(const struct shim_range *range, size_t count)
{
	struct shim_ranges *ranges = calloc(1, sizeof(*ranges) + count * sizeof(*range));

	if (!ranges)
		return kvs_fail(-ENOMEM, "no memory for the table of shared memory");
	if (count)
		memcpy(ranges->range, range, count * sizeof(*range));
	qsort(ranges->range, count, sizeof(*range), by_base);
	ranges->count = count;
	if (count) {
		ranges->low = ranges->range[0].base;
		ranges->high = ranges->range[count - 1].base + ranges->range[count - 1].bytes;
	}
	ranges->older = newest;
	newest = ranges;
	atomic_store_explicit(&shim_ranges_now, ranges, memory_order_release);
	return 0;
}

void shim_ranges_forget(void)
{
	atomic_store(&shim_ranges_now, NULL);
}
