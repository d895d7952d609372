/*
 * tools/preload/order.c: which of the program's allocations is which place of a cache.
 *
 * A layout knows the allocations of a cache by their sizes and their order alone. Where one allocation is the whole cache, each that
 * fits is one. Where several are, an error of one place would show layers each other's content, so these rules decide, in each
 * context by itself, and whoever breaks one gets plain memory:
 *
 *   1. A cache begins when no allocation that could be of one lives: neither a place of a cache nor a stray. (`skip` come first.)
 *   2. The next allocation that fits takes the first free place, if the free ones are the last ones of the cache, or only one.
 *   3. Any other is a stray. While one lives, nothing takes a place.
 *   4. A stray beside a cache that is not whole means that nobody knows any more who is who: that cache is given up. So is one whose
 *      allocation could not be backed, as that is a stray then. Nothing takes a place of it any more.
 *
 * A place or a stray lives until the program frees it. So a cache that is freed whole is made again from the first place on,
 * whatever became of the one before.
 */
#include "cache.h"

#include <errno.h>
#include <stdlib.h>

/* What has come in a context; apart from shim_device, which may fail to come about. */
struct order {
	struct order *next;
	CUcontext context;
	int skipped; /* of the layout's skip */
	CUdeviceptr *strays;
	size_t stray_count, stray_room;
	bool lost; /* a stray that nobody could note: it lives for ever */
};
static struct order *orders;
static struct order *volatile forgotten; /* by a child of fork(): it is no leak */
static atomic_bool any_plain;            /* some place or stray is, or was, plain memory */

static struct order *order_get(void)
{
	const struct shim_real *driver = shim_real();
	CUcontext context = NULL;
	struct order *order;

	if (!driver->cuCtxGetCurrent || driver->cuCtxGetCurrent(&context) || !context)
		return NULL;
	for (order = orders; order && order->context != context;)
		order = order->next;
	if (order || !(order = calloc(1, sizeof(*order))))
		return order;
	order->context = context;
	order->next = orders;
	return orders = order;
}

void shim_order_free(CUcontext context)
{
	for (struct order **link = &orders; *link;) {
		struct order *order = *link;

		if (order->context != context) {
			link = &order->next;
			continue;
		}
		*link = order->next;
		free(order->strays);
		free(order);
	}
}

void shim_order_forget(void)
{
	forgotten = orders;
	orders = NULL;
	atomic_store(&any_plain, false);
}

/* ---- those that come before ---- */

bool shim_is_skipping(void)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	const struct order *order = layout->skip ? order_get() : NULL;

	return order && order->skipped < layout->skip;
}

bool shim_is_skipped(size_t bytes)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	struct order *order = layout->skip ? order_get() : NULL;

	if (!order || order->skipped >= layout->skip)
		return false;
	order->skipped += shim_layout_fits_at(layout, 0, bytes);
	return true;
}

/* ---- places ---- */

bool shim_is_live(const struct shim_allocation *allocation)
{
	return allocation->reserved ? !allocation->left : allocation->base && !allocation->freed;
}

static int live_count(const struct shim_cache *cache)
{
	int count = 0;

	for (int i = 0; i < cache->allocation_count; i++)
		count += shim_is_live(&cache->allocations[i]);
	return count;
}

/* Rule 2. -1: nothing can take a place. */
static int place_next(const struct shim_cache *cache, size_t bytes)
{
	int first = -1, last = -1, free_count = cache->allocation_count - live_count(cache);
	const struct shim_allocation *place;

	for (int i = 0; i < cache->allocation_count; i++) {
		if (shim_is_live(&cache->allocations[i]))
			last = i;
		else if (first < 0)
			first = i;
	}
	if (cache->given_up || first < 0 || (free_count > 1 && first < last))
		return -1;
	/* What is still borrowed comes back as it is; what is still in use does not. */
	place = &cache->allocations[first];
	return place->space && (place->late || place->reserved || place->bytes != bytes) ? -1 : first;
}

/* The caches of a context: how many there are, and one that is not whole. What is freed whole is a cache no more. */
static int caches_of(CUcontext context, struct shim_cache **part)
{
	int count = 0;

	*part = NULL;
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next) {
		int live = cache->device->context == context ? live_count(cache) : 0;

		count += live > 0;
		if (live && (live < cache->allocation_count || cache->given_up))
			*part = cache;
	}
	return count;
}

static int stray(int count, const struct shim_cache *part)
{
	if (!count)
		return kvs_fail(-EBUSY, "another allocation that is as large lives, and is plain memory");
	if (!part)
		return kvs_fail(-EEXIST,
			"it is as large as a layer's, but the cache of its context is whole; no other begins "
			"while it lives");
	return kvs_fail(-EBUSY,
		"which layers it is of cannot be told, as a part of its cache is plain memory, or freed and made "
		"again in another order");
}

int shim_place_find(size_t bytes, struct shim_cache **out, int *number)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	bool alone = shim_layout_allocations(layout) == 1;
	struct order *order = order_get();
	struct shim_device *device;
	struct shim_cache *part;
	int count = caches_of(order ? order->context : NULL, &part), err;

	if (!order)
		return kvs_fail(-ENODEV, "no context is current");
	*number = 0;
	if (!alone) {
		if (order->lost || order->stray_count || (count && !part))
			return stray(count, part);
		*number = part ? place_next(part, bytes) : 0;
		if (*number < 0)
			return stray(count, part);
		if (!shim_layout_fits_at(layout, *number, bytes))
			return -ECANCELED; /* as large as one of a cache's, but not the one that comes next */
		if ((*out = part))
			return 0;
	}
	err = shim_device_get(&device);
	return err ? err : shim_cache_create(device, out);
}

/* ---- memory that is not ours ---- */

/* Rules 3 and 4. */
void shim_stray_add(CUdeviceptr address)
{
	struct order *order = order_get();
	struct shim_cache *part;

	if (!order || shim_layout_allocations(&shim_settings()->layout) == 1)
		return;
	atomic_store(&any_plain, true);
	if (order->stray_count == order->stray_room) {
		size_t room = 2 * order->stray_room + 16;
		CUdeviceptr *grown = realloc(order->strays, room * sizeof(*grown));

		order->lost |= !grown;
		if (grown) {
			order->strays = grown;
			order->stray_room = room;
		}
	}
	if (order->stray_count < order->stray_room)
		order->strays[order->stray_count++] = address;
	if (caches_of(order->context, &part) && part && !part->given_up)
		shim_cache_give_up(part);
}

void shim_place_plain(struct shim_cache *cache, int number, CUdeviceptr address)
{
	cache->allocations[number] = (struct shim_allocation){.base = address, .plain = true};
	atomic_store(&any_plain, true);
}

static bool stray_remove(CUdeviceptr address)
{
	for (struct order *order = orders; order; order = order->next) {
		for (size_t i = 0; i < order->stray_count; i++) {
			if (order->strays[i] != address)
				continue;
			order->strays[i] = order->strays[--order->stray_count];
			return true;
		}
	}
	return false;
}

static bool place_remove(CUdeviceptr address)
{
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];

			if (!allocation->plain || allocation->reserved || allocation->base != address)
				continue;
			*allocation = (struct shim_allocation){0};
			shim_cache_settle(cache, false);
			return true;
		}
	}
	return false;
}

void shim_stray_gone(CUdeviceptr address)
{
	stray_remove(address);
}

bool shim_cache_left(CUdeviceptr address)
{
	bool left;

	if (!atomic_load_explicit(&any_plain, memory_order_acquire))
		return false;
	pthread_mutex_lock(&shim_cache_lock);
	left = stray_remove(address) || place_remove(address);
	pthread_mutex_unlock(&shim_cache_lock);
	return left;
}

void shim_cache_back(CUdeviceptr address)
{
	pthread_mutex_lock(&shim_cache_lock);
	shim_stray_add(address);
	pthread_mutex_unlock(&shim_cache_lock);
}
