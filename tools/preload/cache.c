/*
 * tools/preload/cache.c: allocations of the program that make up KV caches, backed by blocks that its layers share.
 *
 * A cache is a row of allocations, and a row of tensors in them. Each allocation is a space; each tensor that borrows or
 * lends is a region of it, and what lies between is regions that share nothing. All borrowers of a cache have one sink, a
 * range as large as the largest of them, in a single block; those beside other tensors reach that block through their
 * allocation's shadow (shadow.c). With the policy `last` there is none, as they write their owners. An owner that the program
 * frees before its borrowers keeps its memory until they are gone. order.c says which allocations they are.
 */
#include "cache.h"

#include <errno.h>
#include <stdlib.h>

pthread_mutex_t shim_cache_lock = PTHREAD_MUTEX_INITIALIZER;
struct shim_cache *shim_caches;

/* ---- a cache ---- */

static struct shim_tensor *tensor_of(struct shim_cache *cache, enum kvs_k_or_v which, int layer)
{
	return &cache->tensors[2 * layer + (which == KVS_V)];
}

static void sink_free(struct shim_cache *cache)
{
	kvs_region_free(cache->sink);
	kvs_space_free(cache->sink_space);
	cache->sink = NULL;
	cache->sink_space = NULL;
}

static void cache_free(struct shim_cache *cache)
{
	struct shim_cache **link = &shim_caches;

	while (*link && *link != cache)
		link = &(*link)->next;
	if (*link)
		*link = cache->next;
	sink_free(cache);
	free(cache->tensors);
	free(cache->allocations);
	free(cache);
}

/* A cache's first allocation brings its sink. */
static int sink_create(struct shim_cache *cache, const struct shim_settings *settings)
{
	const struct shim_layout *layout = &settings->layout;
	size_t bytes = layout->k_bytes > layout->v_bytes ? layout->k_bytes : layout->v_bytes;
	int err = 0;

	if (cache->sink)
		return 0;
	err = shim_layout_check(layout, &settings->owners, kvs_vmm_granule_bytes(cache->device->vmm));
	if (err || settings->last)
		return err;
	if (!cache->sink_space)
		err = kvs_space_reserve(cache->device->vmm, bytes, &cache->sink_space);
	if (!err)
		err = kvs_region_create_sink(cache->sink_space, 0, bytes, &cache->sink);
	if (!err)
		shim_profile_sink(kvs_region_address(cache->sink, 0), kvs_space_bytes(cache->sink_space));
	return err;
}

static void tensors_place(struct shim_cache *cache, const struct shim_settings *settings)
{
	for (int i = 0; i < 2 * cache->layers; i++) {
		struct shim_tensor *tensor = &cache->tensors[i];

		tensor->which = i % 2 ? KVS_V : KVS_K;
		tensor->layer = i / 2;
		tensor->owner = shim_owner(&settings->owners, tensor->layer, tensor->which);
		tensor->place = shim_layout_place(&settings->layout, tensor->which, tensor->layer);
		if (shim_borrows(tensor))
			tensor_of(cache, tensor->which, tensor->owner)->lends = true;
	}
}

/* Grows with each capture that begins or ends, and with each node: any of them may have a borrower's address, or the sink's. */
static unsigned long graph_calls(void)
{
	return atomic_load(&shim_calls[SHIM_CAPTURES]) + atomic_load(&shim_calls[SHIM_NODES]);
}

/* An empty cache: the program's allocations come into it one by one. */
int shim_cache_create(struct shim_device *device, struct shim_cache **out)
{
	const struct shim_settings *settings = shim_settings();
	struct shim_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return kvs_fail(-ENOMEM, "no memory for a cache");
	cache->device = device;
	cache->graph_calls = graph_calls();
	cache->layers = settings->layout.layers;
	cache->allocation_count = shim_layout_allocations(&settings->layout);
	cache->tensors = calloc(2 * (size_t)cache->layers, sizeof(*cache->tensors));
	cache->allocations = calloc((size_t)cache->allocation_count, sizeof(*cache->allocations));
	if (!cache->tensors || !cache->allocations) {
		cache_free(cache);
		return kvs_fail(-ENOMEM, "no memory for a cache");
	}
	tensors_place(cache, settings);
	cache->next = shim_caches;
	shim_caches = cache;
	*out = cache;
	return 0;
}

/* ---- an allocation ---- */

static int whole_region(kvs_space *space, size_t offset, size_t bytes, kvs_region **out)
{
	int err = kvs_region_create(space, offset, bytes, 1, out);

	if (!err)
		err = kvs_region_resize(*out, 0, kvs_region_slot_stride(*out));
	return err;
}

/* Memory that shares nothing, from `from` to `to`. */
static int gap_fill(struct shim_allocation *allocation, size_t from, size_t to)
{
	int err;

	if (from == to)
		return 0;
	err = whole_region(allocation->space, from, to - from, &allocation->gaps[allocation->gap_count]);
	allocation->gap_count += allocation->gaps[allocation->gap_count] != NULL;
	return err;
}

/*
 * Owners come first, as they may lie behind their borrowers. An owner in another allocation is there already: its layer is
 * lower, and the order is that of layers within K and within V; of an explicit layout this has been checked.
 */
static int owners_fill(struct shim_cache *cache, struct shim_allocation *allocation, int number)
{
	int err = 0;

	for (int i = 0; !err && i < 2 * cache->layers; i++) {
		struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && tensor->lends && !tensor->region)
			err = whole_region(
				allocation->space, tensor->place.offset, tensor->place.bytes, &tensor->region);
	}
	return err;
}

static int borrower_fill(struct shim_cache *cache, struct shim_allocation *allocation, struct shim_tensor *tensor)
{
	struct shim_tensor *owner = tensor_of(cache, tensor->which, tensor->owner);
	int err;

	if (!owner->region)
		return kvs_fail(
			-EINVAL, "layer %d is allocated before layer %d, its owner", tensor->layer, tensor->owner);
	err = kvs_region_create(allocation->space, tensor->place.offset, tensor->place.bytes, 1, &tensor->region);
	return err ? err : kvs_region_share(tensor->region, owner->region);
}

/* The tensor that shares and lies at or behind `from`, the first of them. */
struct shim_tensor *shim_tensor_next(struct shim_cache *cache, int number, size_t from)
{
	struct shim_tensor *best = NULL;

	for (int i = 0; i < 2 * cache->layers; i++) {
		struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && (shim_borrows(tensor) || tensor->lends) &&
			tensor->place.offset >= from && (!best || tensor->place.offset < best->place.offset))
			best = tensor;
	}
	return best;
}

static size_t up(size_t bytes, size_t granule)
{
	return (bytes + granule - 1) / granule * granule;
}

/*
 * The part of an allocation that is ours: all of it; of a reservation, which may be as large as the device, what lies from the
 * first tensor that shares to the last. Empty: nothing in it is shared.
 */
void shim_extent_of(struct shim_cache *cache, int number, size_t *first, size_t *end)
{
	const struct shim_allocation *allocation = &cache->allocations[number];
	size_t granule = kvs_vmm_granule_bytes(cache->device->vmm);
	struct shim_tensor *tensor = shim_tensor_next(cache, number, 0);

	*first = 0;
	*end = allocation->reserved ? 0 : kvs_space_bytes(allocation->space);
	if (allocation->reserved && tensor)
		*first = tensor->place.offset;
	for (; allocation->reserved && tensor; tensor = shim_tensor_next(cache, number, tensor->place.offset + 1))
		*end = up(tensor->place.offset + tensor->place.bytes, granule);
	if (allocation->reserved && *end > allocation->reserved_bytes)
		*end = allocation->reserved_bytes;
}

static int allocation_fill(struct shim_cache *cache, int number)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	int err = owners_fill(cache, allocation, number);
	struct shim_tensor *tensor;
	size_t at, end;

	shim_extent_of(cache, number, &at, &end);

	while (!err && (tensor = shim_tensor_next(cache, number, at))) {
		err = gap_fill(allocation, at, tensor->place.offset);
		if (!err && shim_borrows(tensor))
			err = borrower_fill(cache, allocation, tensor);
		if (!err)
			at = tensor->place.offset + kvs_region_slot_stride(tensor->region);
	}
	if (!err)
		err = gap_fill(allocation, at, end);
	return err ? err : shim_shadow_open(cache, number);
}

/* Frees what nobody borrows any more; true: nothing is left. */
bool shim_allocation_empty(struct shim_cache *cache, int number)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	bool lent = false;

	shim_shadow_close(allocation);
	for (int i = 2 * cache->layers - 1; i >= 0; i--) {
		struct shim_tensor *tensor = &cache->tensors[i];
		bool in_use = false;

		if (tensor->place.allocation != number || !tensor->region)
			continue;
		for (int j = i + 1; j < 2 * cache->layers; j++)
			in_use |= cache->tensors[j].region &&
				  kvs_region_owner(cache->tensors[j].region) == tensor->region;
		lent |= in_use;
		if (in_use)
			continue;
		kvs_region_free(tensor->region);
		tensor->region = NULL;
	}
	while (allocation->gap_count)
		kvs_region_free(allocation->gaps[--allocation->gap_count]);
	return !lent;
}

void shim_allocation_close(struct shim_cache *cache, int number)
{
	struct shim_allocation *allocation = &cache->allocations[number];

	kvs_space_free(allocation->space);
	free(allocation->gaps);
	if (allocation->left)
		shim_real()->cuMemAddressFree(allocation->reserved, allocation->reserved_bytes);
	if (allocation->left || !allocation->reserved)
		*allocation = (struct shim_allocation){0};
	else
		*allocation = (struct shim_allocation){
			.reserved = allocation->reserved, .reserved_bytes = allocation->reserved_bytes};
}

int shim_allocation_refill(struct shim_cache *cache, int number)
{
	int err = allocation_fill(cache, number);

	if (err)
		shim_allocation_empty(cache, number);
	return err;
}

/* Tells the profiler whose memory each tensor shows. */
static void allocation_label(const struct shim_cache *cache, int number)
{
	const struct shim_allocation *allocation = &cache->allocations[number];
	CUdeviceptr base = allocation->plain ? 0 : allocation->base;

	for (int i = 0; base && i < 2 * cache->layers; i++) {
		const struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number)
			shim_profile_label(base + tensor->place.offset, tensor->place.bytes, tensor->which,
				tensor->layer, tensor->owner);
	}
}

int shim_allocation_open(struct shim_cache *cache, int number, size_t bytes)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	int err = sink_create(cache, shim_settings());

	if (!err && allocation->reserved)
		err = kvs_space_adopt(cache->device->vmm, allocation->reserved, bytes, &allocation->space);
	else if (!err)
		err = kvs_space_reserve(cache->device->vmm, bytes, &allocation->space);
	if (err)
		return err;
	allocation->gaps = calloc(2 * (size_t)cache->layers + 1, sizeof(kvs_region *));
	err = allocation->gaps ? allocation_fill(cache, number) : kvs_fail(-ENOMEM, "no memory for an allocation");
	if (err) {
		shim_allocation_empty(cache, number);
		shim_allocation_close(cache, number);
		return err;
	}
	allocation->base = kvs_space_address(allocation->space);
	allocation->bytes = bytes;
	allocation_label(cache, number);
	return 0;
}

/* What the program has freed goes as soon as nobody borrows it; then the cache itself. */
void shim_cache_settle(struct shim_cache *cache, bool end)
{
	bool left = false;

	for (int i = cache->allocation_count - 1; i >= 0; i--) {
		struct shim_allocation *allocation = &cache->allocations[i];

		if (allocation->space && allocation->freed && !allocation->late && shim_allocation_empty(cache, i))
			shim_allocation_close(cache, i);
		left |= allocation->space || shim_is_live(allocation);
	}
	if (!left || end)
		cache_free(cache);
}

/* ---- giving up ---- */

static bool is_borrowing(const struct shim_tensor *tensor)
{
	return tensor->region && kvs_region_owner(tensor->region);
}

/* Memory of its own for a borrower, with the content that it showed. On failure it goes on borrowing. */
static int tensor_unshare(struct shim_cache *cache, struct shim_tensor *tensor)
{
	const kvs_cu *cu = cache->device->cu;
	kvs_region *owner = kvs_region_owner(tensor->region);
	int err = kvs_region_unshare(tensor->region);

	if (err)
		return err;
	err = kvs_region_resize(tensor->region, 0, kvs_region_slot_stride(tensor->region));
	if (!err && cu->cuMemcpyDtoDAsync(kvs_region_address(tensor->region, 0), kvs_region_address(owner, 0),
			    kvs_region_slot_stride(owner), NULL))
		err = kvs_fail(-EIO, "cannot copy what layer %d shared", tensor->layer);
	if (err) {
		kvs_region_share(tensor->region, owner);
		return err;
	}
	tensor->owner = tensor->layer;
	tensor->lends = true; /* it stays a tensor apart */
	return 0;
}

/* Whether the device has memory for all borrowers: before one loses what it shows. */
static int room_check(struct shim_cache *cache)
{
	kvs_space *space = NULL;
	kvs_region *region = NULL;
	size_t bytes = 0;
	int err;

	for (int i = 0; i < 2 * cache->layers; i++)
		if (is_borrowing(&cache->tensors[i]))
			bytes += kvs_region_slot_stride(cache->tensors[i].region);
	if (!bytes)
		return 0;
	err = kvs_space_reserve(cache->device->vmm, bytes, &space);
	if (!err)
		err = whole_region(space, 0, bytes, &region);
	kvs_region_free(region);
	kvs_space_free(space);
	return err;
}

static int borrowers_unshare(struct shim_cache *cache)
{
	int err = 0;

	if (shim_is_captured() || graph_calls() != cache->graph_calls)
		return kvs_fail(-EBUSY, "graphs may hold their addresses");
	shim_context_wait(cache->device->context); /* any stream may still write what is copied now */
	err = room_check(cache);
	for (int i = 0; !err && i < 2 * cache->layers; i++)
		if (is_borrowing(&cache->tensors[i]))
			err = tensor_unshare(cache, &cache->tensors[i]);
	shim_context_wait(cache->device->context); /* the copies too */
	return err;
}

/*
 * A part of the cache is plain memory, and a cache that is shared in part is not what was asked for. So borrowers get their own, where
 * that is possible, and the sink goes when no launch can have its address any more; else they go on as they are, and it stays.
 */
void shim_cache_give_up(struct shim_cache *cache)
{
	bool shares = false;

	cache->given_up = true;
	if (borrowers_unshare(cache)) {
		for (int i = 0; i < 2 * cache->layers; i++)
			shares |= is_borrowing(&cache->tensors[i]);
		if (shares)
			shim_say("layers of its cache that share already go on sharing: %s", kvs_error());
	}
	for (int i = 0; i < cache->allocation_count; i++)
		allocation_label(cache, i);
	if (!shares && !shim_cache_publish() && !shim_is_captured() && !shim_context_wait(cache->device->context)) {
		for (int i = 0; i < cache->allocation_count; i++)
			shim_shadow_close(&cache->allocations[i]);
		sink_free(cache);
	}
	shim_cache_note(); /* what was saved is not any more */
}
