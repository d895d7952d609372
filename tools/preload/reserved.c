/*
 * tools/preload/reserved.c: caches in addresses that the program reserves, and maps memory to itself (own.c).
 */
#include "cache.h"

#include <errno.h>

void shim_cache_reserve(CUdeviceptr address, size_t bytes)
{
	const struct shim_settings *settings = shim_settings();
	struct shim_cache *cache;
	int number;

	if (!shim_layout_fits(&settings->layout, bytes))
		return;
	pthread_mutex_lock(&shim_cache_lock);
	if (!shim_is_skipped(bytes) && !shim_place_find(bytes, &cache, &number)) {
		cache->allocations[number].reserved = address;
		cache->allocations[number].reserved_bytes = bytes;
	}
	pthread_mutex_unlock(&shim_cache_lock);
}

/* The reservation whose part that is ours has addresses of [*from, *to), which becomes what they have in common. */
static struct shim_allocation *reserved_find(CUdeviceptr *from, CUdeviceptr *to, struct shim_cache **owner, int *number)
{
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];
			size_t first, end;

			if (!allocation->reserved || allocation->left || allocation->plain)
				continue;
			shim_extent_of(cache, i, &first, &end);
			if (*from >= allocation->reserved + end || *to <= allocation->reserved + first || first == end)
				continue;
			*from = *from > allocation->reserved + first ? *from : allocation->reserved + first;
			*to = *to < allocation->reserved + end ? *to : allocation->reserved + end;
			*owner = cache;
			*number = i;
			return allocation;
		}
	}
	return NULL;
}

bool shim_cache_part(CUdeviceptr *from, CUdeviceptr *to, bool mapped)
{
	const struct shim_allocation *allocation;
	struct shim_cache *cache;
	int number;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = reserved_find(from, to, &cache, &number);
	if (allocation && mapped && !allocation->mapped_bytes)
		allocation = NULL;
	pthread_mutex_unlock(&shim_cache_lock);
	return allocation != NULL;
}

/* The first mapping brings all of the part that is ours: what is not mapped yet will be. */
static int reserved_open(struct shim_cache *cache, int number)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	size_t granule = kvs_vmm_granule_bytes(cache->device->vmm);
	int err;

	if (allocation->space && allocation->freed)
		return kvs_fail(-EBUSY, "other layers still read what was unmapped");
	if (allocation->space)
		return 0;
	err = cache->given_up ? -ECANCELED
			      : shim_allocation_open(cache, number, allocation->reserved_bytes / granule * granule);
	if (!err)
		err = shim_cache_publish();
	if (!err) {
		atomic_fetch_add(&shim_live, 1);
		shim_cache_note();
		return 0;
	}
	if (allocation->space) {
		shim_allocation_empty(cache, number);
		shim_allocation_close(cache, number);
	}
	shim_cache_refused(cache, number);
	return err;
}

bool shim_cache_map(CUdeviceptr from, CUdeviceptr to, CUresult *error)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	int number, err = -ECANCELED;

	shim_stats_start();
	pthread_mutex_lock(&shim_cache_lock);
	allocation = reserved_find(&from, &to, &cache, &number);
	if (allocation)
		err = reserved_open(cache, number);
	if (!err)
		allocation->mapped_bytes += to - from;
	*error = shim_cache_failure(err, to - from);
	pthread_mutex_unlock(&shim_cache_lock);
	return !err;
}

void shim_cache_unmap(CUdeviceptr from, CUdeviceptr to)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	int number;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = reserved_find(&from, &to, &cache, &number);
	if (allocation && allocation->space) {
		allocation->mapped_bytes -= to - from < allocation->mapped_bytes ? to - from : allocation->mapped_bytes;
		if (!allocation->mapped_bytes) {
			allocation->freed = true;
			atomic_fetch_sub(&shim_live, 1);
			shim_cache_publish();
			shim_cache_settle(cache, false);
		}
	}
	pthread_mutex_unlock(&shim_cache_lock);
}

bool shim_cache_unreserve(CUdeviceptr address)
{
	bool later = false;

	pthread_mutex_lock(&shim_cache_lock);
	for (struct shim_cache *cache = shim_caches, *next; cache; cache = next) {
		next = cache->next;
		for (int i = 0; i < cache->allocation_count; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];
			if (!allocation->reserved || allocation->reserved != address || allocation->left)
				continue;
			allocation->left = later = allocation->space != NULL;
			if (!later)
				*allocation = (struct shim_allocation){.plain = allocation->plain};
			shim_cache_settle(cache, false);
			goto out_unlock;
		}
	}
out_unlock:
	pthread_mutex_unlock(&shim_cache_lock);
	return later;
}
