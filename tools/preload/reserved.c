/*
 * tools/preload/reserved.c: caches in addresses that the program reserves, and maps memory to itself (own.c).
 */
#include "cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Reservations made while no context was current: which cache they are of shows when there is one. */
static struct waiting {
	CUdeviceptr address;
	size_t bytes;
} * waiting;
static size_t waiting_count;

static bool reservation_place(CUdeviceptr address, size_t bytes)
{
	struct shim_cache *cache;
	int number, err;

	if (shim_is_skipped(bytes))
		return true;
	err = shim_place_find(bytes, &cache, &number);
	if (!err) {
		cache->allocations[number].reserved = address;
		cache->allocations[number].reserved_bytes = bytes;
	} else if (err != -ECANCELED && err != -ENODEV) {
		shim_cache_failure(err, bytes);
		shim_stray_add(address);
		shim_cache_publish();
	}
	return err != -ENODEV;
}

/* In the order in which they were made. */
static void waiting_place(void)
{
	size_t placed = 0;

	while (placed < waiting_count && reservation_place(waiting[placed].address, waiting[placed].bytes))
		placed++;
	if (placed)
		memmove(waiting, waiting + placed, (waiting_count -= placed) * sizeof(*waiting));
}

static void waiting_remove(CUdeviceptr address)
{
	size_t left = 0;

	for (size_t i = 0; i < waiting_count; i++)
		if (waiting[i].address != address)
			waiting[left++] = waiting[i];
	waiting_count = left;
}

static void waiting_add(CUdeviceptr address, size_t bytes)
{
	struct waiting *grown = realloc(waiting, (waiting_count + 1) * sizeof(*waiting));

	if (!grown)
		return;
	waiting = grown;
	waiting[waiting_count++] = (struct waiting){address, bytes};
}

void shim_cache_reserve(CUdeviceptr address, size_t bytes)
{
	if (!shim_layout_fits(&shim_settings()->layout, bytes))
		return;
	pthread_mutex_lock(&shim_cache_lock);
	waiting_place();
	if (waiting_count || !reservation_place(address, bytes))
		waiting_add(address, bytes);
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
	if (waiting_count)
		waiting_place();
	allocation = reserved_find(from, to, &cache, &number);
	if (allocation && mapped && !allocation->mapped_bytes)
		allocation = NULL;
	pthread_mutex_unlock(&shim_cache_lock);
	return allocation != NULL;
}

static int reserved_live(struct shim_allocation *allocation)
{
	int err;

	allocation->freed = false;
	err = shim_cache_publish();
	if (err)
		return err;
	atomic_fetch_add(&shim_live, 1);
	shim_cache_note();
	return 0;
}

/* The first mapping brings all of the part that is ours: what is not mapped yet will be. What others still read of it is there. */
static int reserved_open(struct shim_cache *cache, int number)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	size_t granule = kvs_vmm_granule_bytes(cache->device->vmm);
	int err;

	if (allocation->space && !allocation->freed)
		return 0;
	if (allocation->space) {
		err = shim_allocation_refill(cache, number);
		return err ? err : reserved_live(allocation);
	}
	err = cache->given_up ? -ECANCELED
			      : shim_allocation_open(cache, number, allocation->reserved_bytes / granule * granule);
	if (!err)
		err = reserved_live(allocation);
	if (!err)
		return 0;
	if (allocation->space) {
		shim_allocation_empty(cache, number);
		shim_allocation_close(cache, number);
	}
	shim_cache_refused(cache, number);
	return err;
}

/* The cache is of one device, and so is the memory that is mapped to it, or it is not shared. */
static int device_check(struct shim_cache *cache, int number, CUdevice device)
{
	if (device == cache->device->cu->device)
		return 0;
	shim_cache_refused(cache, number);
	return kvs_fail(
		-EINVAL, "memory of device %d is mapped to a cache of device %d", device, cache->device->cu->device);
}

bool shim_cache_map(CUdeviceptr from, CUdeviceptr to, CUdevice device, CUresult *error)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	int number, err = -ECANCELED;

	shim_stats_start();
	pthread_mutex_lock(&shim_cache_lock);
	allocation = reserved_find(&from, &to, &cache, &number);
	if (allocation && !allocation->space)
		err = device_check(cache, number, device);
	if (allocation && (allocation->space || !err))
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

bool shim_cache_unreserve(CUdeviceptr address, size_t bytes)
{
	bool later = false;

	pthread_mutex_lock(&shim_cache_lock);
	waiting_remove(address);
	shim_stray_gone(address);
	for (struct shim_cache *cache = shim_caches, *next; cache; cache = next) {
		next = cache->next;
		for (int i = 0; i < cache->allocation_count; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];
			if (!allocation->reserved || allocation->reserved != address ||
				allocation->reserved_bytes != bytes || allocation->left)
				continue;
			allocation->left = later = allocation->space != NULL;
			if (!later)
				*allocation = (struct shim_allocation){0};
			shim_cache_settle(cache, false);
			goto out_unlock;
		}
	}
out_unlock:
	pthread_mutex_unlock(&shim_cache_lock);
	return later;
}
