/*
 * tools/preload/cache.c: allocations of the program that make up KV caches, backed by blocks that its layers share.
 *
 * A cache is a row of allocations, and a row of tensors in them. Each allocation is a space; each tensor that borrows or
 * lends is a region of it, and what lies between is regions that share nothing. All borrowers of a cache have one sink, a
 * range as large as the largest of them, in a single block; with the policy `last` there is none, as they write their owners. An owner that the program frees before its borrowers
 * keeps its memory until they are gone.
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct tensor {
	enum kvs_k_or_v which;
	int layer, owner; /* the layer that it borrows from, or its own */
	struct shim_place place;
	bool lends;
	kvs_region *region; /* NULL: not there yet, or shares nothing and is a part of a gap */
};

struct allocation {
	kvs_space *space; /* NULL: not there */
	CUdeviceptr base;
	size_t bytes;      /* as the program asked */
	bool freed;        /* by the program; what others borrow is still there */
	bool plain;        /* the program got memory that is not ours */
	kvs_region **gaps; /* [gap_count], between the tensors that share */
	size_t gap_count;
	/* Of memory that the program maps itself: what it has reserved, and how much of the part that is ours it has mapped. */
	CUdeviceptr reserved; /* 0: none */
	size_t reserved_bytes, mapped_bytes;
	bool left; /* it has freed the reservation; so shall we, once nobody borrows from it */
};

struct cache {
	struct cache *next;
	struct shim_device *device;
	kvs_space *sink_space;
	kvs_region *sink;
	bool given_up; /* an allocation could not be backed, so nothing is shared in this cache */
	int layers, allocation_count;
	struct tensor *tensors;         /* [2 * layers], K and V of layer 0, of layer 1, ... */
	struct allocation *allocations; /* [allocation_count] */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cache *caches, *volatile forgotten;
static int skipped;
static bool warned;
static atomic_int live; /* allocations that are ours, for hooks that need not look if there is none */

/* ---- a cache ---- */

static struct tensor *tensor_of(struct cache *cache, enum kvs_k_or_v which, int layer)
{
	return &cache->tensors[2 * layer + (which == KVS_V)];
}

static bool borrows(const struct tensor *tensor)
{
	return tensor->owner != tensor->layer;
}

static void sink_free(struct cache *cache)
{
	kvs_region_free(cache->sink);
	kvs_space_free(cache->sink_space);
	cache->sink = NULL;
	cache->sink_space = NULL;
}

static void cache_free(struct cache *cache)
{
	struct cache **link = &caches;

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
static int sink_create(struct cache *cache, const struct shim_settings *settings)
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

static void tensors_place(struct cache *cache, const struct shim_settings *settings)
{
	for (int i = 0; i < 2 * cache->layers; i++) {
		struct tensor *tensor = &cache->tensors[i];

		tensor->which = i % 2 ? KVS_V : KVS_K;
		tensor->layer = i / 2;
		tensor->owner = shim_owner(&settings->owners, tensor->layer, tensor->which);
		tensor->place = shim_layout_place(&settings->layout, tensor->which, tensor->layer);
		if (borrows(tensor))
			tensor_of(cache, tensor->which, tensor->owner)->lends = true;
	}
}

/* An empty cache: the program's allocations come into it one by one. */
static int cache_create(struct shim_device *device, struct cache **out)
{
	const struct shim_settings *settings = shim_settings();
	struct cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return kvs_fail(-ENOMEM, "no memory for a cache");
	cache->device = device;
	cache->layers = settings->layout.layers;
	cache->allocation_count = shim_layout_allocations(&settings->layout);
	cache->tensors = calloc(2 * (size_t)cache->layers, sizeof(*cache->tensors));
	cache->allocations = calloc((size_t)cache->allocation_count, sizeof(*cache->allocations));
	if (!cache->tensors || !cache->allocations) {
		cache_free(cache);
		return kvs_fail(-ENOMEM, "no memory for a cache");
	}
	tensors_place(cache, settings);
	cache->next = caches;
	caches = cache;
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
static int gap_fill(struct allocation *allocation, size_t from, size_t to)
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
static int owners_fill(struct cache *cache, struct allocation *allocation, int number)
{
	int err = 0;

	for (int i = 0; !err && i < 2 * cache->layers; i++) {
		struct tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && tensor->lends)
			err = whole_region(
				allocation->space, tensor->place.offset, tensor->place.bytes, &tensor->region);
	}
	return err;
}

static int borrower_fill(struct cache *cache, struct allocation *allocation, struct tensor *tensor)
{
	struct tensor *owner = tensor_of(cache, tensor->which, tensor->owner);
	int err;

	if (!owner->region)
		return kvs_fail(
			-EINVAL, "layer %d is allocated before layer %d, its owner", tensor->layer, tensor->owner);
	err = kvs_region_create(allocation->space, tensor->place.offset, tensor->place.bytes, 1, &tensor->region);
	return err ? err : kvs_region_share(tensor->region, owner->region);
}

/* The tensor that shares and lies at or behind `from`, the first of them. */
static struct tensor *tensor_next(struct cache *cache, int number, size_t from)
{
	struct tensor *best = NULL;

	for (int i = 0; i < 2 * cache->layers; i++) {
		struct tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && (borrows(tensor) || tensor->lends) &&
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
static void extent_of(struct cache *cache, int number, size_t *first, size_t *end)
{
	const struct allocation *allocation = &cache->allocations[number];
	size_t granule = kvs_vmm_granule_bytes(cache->device->vmm);
	struct tensor *tensor = tensor_next(cache, number, 0);

	*first = 0;
	*end = allocation->reserved ? 0 : kvs_space_bytes(allocation->space);
	if (allocation->reserved && tensor)
		*first = tensor->place.offset;
	for (; allocation->reserved && tensor; tensor = tensor_next(cache, number, tensor->place.offset + 1))
		*end = up(tensor->place.offset + tensor->place.bytes, granule);
	if (allocation->reserved && *end > allocation->reserved_bytes)
		*end = allocation->reserved_bytes;
}

static int allocation_fill(struct cache *cache, int number)
{
	struct allocation *allocation = &cache->allocations[number];
	int err = owners_fill(cache, allocation, number);
	struct tensor *tensor;
	size_t at, end;

	extent_of(cache, number, &at, &end);

	while (!err && (tensor = tensor_next(cache, number, at))) {
		err = gap_fill(allocation, at, tensor->place.offset);
		if (!err && borrows(tensor))
			err = borrower_fill(cache, allocation, tensor);
		if (!err)
			at = tensor->place.offset + kvs_region_slot_stride(tensor->region);
	}
	return err ? err : gap_fill(allocation, at, end);
}

/* Frees what nobody borrows any more; true: nothing is left. */
static bool allocation_empty(struct cache *cache, int number)
{
	struct allocation *allocation = &cache->allocations[number];
	bool lent = false;

	for (int i = 2 * cache->layers - 1; i >= 0; i--) {
		struct tensor *tensor = &cache->tensors[i];
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

static void allocation_close(struct cache *cache, int number)
{
	struct allocation *allocation = &cache->allocations[number];

	kvs_space_free(allocation->space);
	free(allocation->gaps);
	if (allocation->left)
		shim_real()->cuMemAddressFree(allocation->reserved, allocation->reserved_bytes);
	if (allocation->left || !allocation->reserved)
		*allocation = (struct allocation){0};
	else
		*allocation = (struct allocation){
			.reserved = allocation->reserved, .reserved_bytes = allocation->reserved_bytes};
}

/* Tells the profiler whose memory each tensor shows. */
static void allocation_label(const struct cache *cache, int number)
{
	CUdeviceptr base = cache->allocations[number].base;

	for (int i = 0; base && i < 2 * cache->layers; i++) {
		const struct tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number)
			shim_profile_label(base + tensor->place.offset, tensor->place.bytes, tensor->which,
				tensor->layer, tensor->owner);
	}
}

static int allocation_open(struct cache *cache, int number, size_t bytes)
{
	struct allocation *allocation = &cache->allocations[number];
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
		allocation_empty(cache, number);
		allocation_close(cache, number);
		return err;
	}
	allocation->base = kvs_space_address(allocation->space);
	allocation->bytes = bytes;
	allocation_label(cache, number);
	return 0;
}

/*
 * What the program has freed goes as soon as nobody borrows it; then the cache itself. One that was given up stays until
 * all its allocations have come, so that none of them starts another.
 */
static void cache_settle(struct cache *cache, bool end)
{
	bool left = false;

	for (int i = cache->allocation_count - 1; i >= 0; i--) {
		struct allocation *allocation = &cache->allocations[i];

		if (allocation->space && allocation->freed && allocation_empty(cache, i))
			allocation_close(cache, i);
		left |= allocation->space || allocation->reserved || (cache->given_up && !allocation->plain);
	}
	if (!left || end)
		cache_free(cache);
}

/* Memory of its own for a borrower, with the content that it showed. */
static int tensor_unshare(struct cache *cache, struct tensor *tensor)
{
	const kvs_cu *cu = cache->device->cu;
	const kvs_region *owner = kvs_region_owner(tensor->region);
	int err = kvs_region_unshare(tensor->region);

	if (!err)
		err = kvs_region_resize(tensor->region, 0, kvs_region_slot_stride(tensor->region));
	if (!err && cu->cuMemcpyDtoDAsync(kvs_region_address(tensor->region, 0), kvs_region_address(owner, 0),
			    kvs_region_slot_stride(owner), NULL))
		err = kvs_fail(-EIO, "cannot copy what layer %d shared", tensor->layer);
	if (!err)
		tensor->owner = tensor->layer;
	return err;
}

/* A part of the cache is plain memory, and a cache that is shared in part is neither of what was asked for. */
static void cache_give_up(struct cache *cache)
{
	cache->given_up = true;
	for (int i = 0; i < 2 * cache->layers; i++) {
		struct tensor *tensor = &cache->tensors[i];

		if (tensor->region && kvs_region_owner(tensor->region) && tensor_unshare(cache, tensor))
			shim_say("layer %d goes on sharing: %s", tensor->layer, kvs_error());
	}
	for (int i = 0; i < cache->allocation_count; i++)
		allocation_label(cache, i);
	for (int i = 0; i < 2 * cache->layers; i++)
		if (cache->tensors[i].region && kvs_region_owner(cache->tensors[i].region))
			return; /* its stores still need the sink */
	if (cache->sink_space && !cache->device->cu->cuCtxSynchronize())
		sink_free(cache);
}

/* ---- what the hooks see ---- */

static size_t ranges_of(const struct cache *cache, struct shim_range *out)
{
	size_t count = 0;

	for (int i = 0; i < 2 * cache->layers; i++) {
		const struct tensor *tensor = &cache->tensors[i];
		const struct allocation *allocation = &cache->allocations[tensor->place.allocation];

		if (!tensor->region || !allocation->base || allocation->freed)
			continue;
		out[count++] = (struct shim_range){allocation->base + tensor->place.offset, tensor->place.bytes,
			borrows(tensor) && cache->sink ? kvs_region_address(cache->sink, 0) : 0};
	}
	return count;
}

static int ranges_update(void)
{
	size_t most = 0, count = 0;
	struct shim_range *range;
	int err;

	for (struct cache *cache = caches; cache; cache = cache->next)
		most += 2 * (size_t)cache->layers;
	range = malloc((most + 1) * sizeof(*range));
	if (!range)
		return kvs_fail(-ENOMEM, "no memory for the table of shared memory");
	for (struct cache *cache = caches; cache; cache = cache->next)
		count += ranges_of(cache, range + count);
	err = shim_ranges_publish(range, count);
	free(range);
	return err;
}

static void memory_note(void)
{
	struct shim_memory memory = {0};

	for (struct shim_device *device = shim_devices; device; device = device->next) {
		struct kvs_vmm_stats stats;

		kvs_vmm_get_stats(device->vmm, &stats);
		memory.physical_bytes += stats.physical_bytes;
		memory.saved_bytes += stats.saved_bytes;
	}
	for (struct cache *cache = caches; cache; cache = cache->next) {
		memory.sink_bytes += !cache->sink ? 0 : kvs_vmm_block_bytes(cache->device->vmm);
		for (int i = 0; i < cache->allocation_count; i++)
			memory.virtual_bytes += cache->allocations[i].bytes;
	}
	shim_stats_note(&memory);
}

static bool is_free(const struct allocation *allocation)
{
	return !allocation->space && !allocation->plain && !allocation->reserved;
}

/* A cache of this device whose next allocation, the first place that is free, can have `bytes` bytes. */
static struct cache *cache_with_room(const struct shim_device *device, size_t bytes, int *number)
{
	for (struct cache *cache = caches; cache; cache = cache->next) {
		if (cache->device != device)
			continue;
		for (*number = 0; *number < cache->allocation_count; ++*number)
			if (is_free(&cache->allocations[*number]))
				break;
		if (*number < cache->allocation_count && shim_layout_fits_at(&shim_settings()->layout, *number, bytes))
			return cache;
	}
	*number = 0;
	return NULL;
}

/* The allocation that was just refused is one of the cache's all the same: those after it keep their numbers. */
static void refused(struct cache *cache, int number)
{
	cache->allocations[number].plain = true;
	if (!cache->given_up)
		cache_give_up(cache);
	ranges_update();
	cache_settle(cache, false);
}

/* The place of an allocation of `bytes` bytes. -ECANCELED: it is none of a cache's, or nothing in it is shared. */
static int place_find(size_t bytes, struct cache **out, int *number)
{
	struct shim_device *device;
	int err = shim_device_get(&device);

	if (err)
		return err;
	*out = cache_with_room(device, bytes, number);
	if (!*out && !shim_layout_fits_at(&shim_settings()->layout, 0, bytes))
		return -ECANCELED; /* as large as one of a cache's, but not the one that comes next */
	if (!*out)
		err = cache_create(device, out);
	if (err)
		return err;
	if (!(*out)->given_up && !tensor_next(*out, *number, 0)) {
		(*out)->allocations[*number].plain = true;
		return -ECANCELED;
	}
	return 0;
}

static int allocate(size_t bytes, CUdeviceptr *out)
{
	struct cache *cache;
	int number, err = place_find(bytes, &cache, &number);

	if (err)
		return err;
	if (!cache->given_up)
		err = allocation_open(cache, number, bytes);
	if (!err && !cache->given_up)
		err = ranges_update();
	if (err || cache->given_up) {
		if (cache->allocations[number].space) {
			allocation_empty(cache, number);
			allocation_close(cache, number);
		}
		refused(cache, number);
		return err ? err : -ECANCELED;
	}
	*out = cache->allocations[number].base;
	atomic_fetch_add(&live, 1);
	memory_note();
	return 0;
}

/* Whether those that come before the cache's have not all been there yet; this is one. */
static bool is_skipped(size_t bytes)
{
	const struct shim_layout *layout = &shim_settings()->layout;

	if (skipped >= layout->skip)
		return false;
	skipped += shim_layout_fits_at(layout, 0, bytes);
	return true;
}

/* What the program gets where its memory could not be backed: plain memory, or with --strict an error. */
static CUresult failure_of(int err, size_t bytes)
{
	if (!err || err == -ECANCELED || err == -ENODEV) /* one that stays plain; a call that the driver will refuse */
		return CUDA_SUCCESS;
	if (!warned)
		shim_say(
			"an allocation of %zu bytes stays as it is, its layers are not shared: %s", bytes, kvs_error());
	warned = true;
	if (!shim_settings()->strict)
		return CUDA_SUCCESS;
	return err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_SUPPORTED;
}

bool shim_cache_allocate(size_t bytes, CUdeviceptr *out, CUresult *error)
{
	const struct shim_settings *settings = shim_settings();
	bool done = false;
	int err;

	*error = CUDA_SUCCESS;
	if (settings->off || settings->layout.reserved || !bytes || !shim_layout_fits(&settings->layout, bytes))
		return false;
	shim_stats_start();
	pthread_mutex_lock(&lock);
	if (!is_skipped(bytes)) {
		err = allocate(bytes, out);
		done = !err;
		*error = failure_of(err, bytes);
	}
	pthread_mutex_unlock(&lock);
	return done;
}

static struct allocation *allocation_find(CUdeviceptr address, struct cache **owner)
{
	for (struct cache *cache = caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct allocation *allocation = &cache->allocations[i];

			*owner = cache;
			if (allocation->base && !allocation->freed && !allocation->reserved &&
				address - allocation->base < allocation->bytes)
				return allocation;
		}
	}
	return NULL;
}

bool shim_cache_any(void)
{
	return atomic_load_explicit(&live, memory_order_acquire) > 0;
}

bool shim_cache_find(CUdeviceptr address, CUdeviceptr *base, size_t *bytes)
{
	struct allocation *allocation;
	struct cache *cache;

	if (!shim_cache_any())
		return false;
	pthread_mutex_lock(&lock);
	allocation = allocation_find(address, &cache);
	if (allocation) {
		*base = allocation->base;
		*bytes = allocation->bytes;
	}
	pthread_mutex_unlock(&lock);
	return allocation != NULL;
}

bool shim_cache_free(CUdeviceptr address)
{
	struct allocation *allocation;
	struct cache *cache;
	bool ours;

	pthread_mutex_lock(&lock);
	allocation = allocation_find(address, &cache);
	ours = allocation && allocation->base == address;
	if (ours) {
		allocation->freed = true;
		atomic_fetch_sub(&live, 1);
		ranges_update();
		cache_settle(cache, false);
	}
	pthread_mutex_unlock(&lock);
	return ours;
}

/* ---- memory that the program maps itself (own.c) ---- */

void shim_cache_reserve(CUdeviceptr address, size_t bytes)
{
	const struct shim_settings *settings = shim_settings();
	struct cache *cache;
	int number;

	if (!shim_layout_fits(&settings->layout, bytes))
		return;
	pthread_mutex_lock(&lock);
	if (!is_skipped(bytes) && !place_find(bytes, &cache, &number)) {
		cache->allocations[number].reserved = address;
		cache->allocations[number].reserved_bytes = bytes;
	}
	pthread_mutex_unlock(&lock);
}

/* The reservation whose part that is ours has addresses of [*from, *to), which becomes what they have in common. */
static struct allocation *reserved_find(CUdeviceptr *from, CUdeviceptr *to, struct cache **owner, int *number)
{
	for (struct cache *cache = caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct allocation *allocation = &cache->allocations[i];
			size_t first, end;

			if (!allocation->reserved || allocation->left || allocation->plain)
				continue;
			extent_of(cache, i, &first, &end);
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
	const struct allocation *allocation;
	struct cache *cache;
	int number;

	pthread_mutex_lock(&lock);
	allocation = reserved_find(from, to, &cache, &number);
	if (allocation && mapped && !allocation->mapped_bytes)
		allocation = NULL;
	pthread_mutex_unlock(&lock);
	return allocation != NULL;
}

/* The first mapping brings all of the part that is ours: what is not mapped yet will be. */
static int reserved_open(struct cache *cache, int number)
{
	struct allocation *allocation = &cache->allocations[number];
	size_t granule = kvs_vmm_granule_bytes(cache->device->vmm);
	int err;

	if (allocation->space && allocation->freed)
		return kvs_fail(-EBUSY, "other layers still read what was unmapped");
	if (allocation->space)
		return 0;
	err = cache->given_up ? -ECANCELED
			      : allocation_open(cache, number, allocation->reserved_bytes / granule * granule);
	if (!err)
		err = ranges_update();
	if (!err) {
		atomic_fetch_add(&live, 1);
		memory_note();
		return 0;
	}
	if (allocation->space) {
		allocation_empty(cache, number);
		allocation_close(cache, number);
	}
	refused(cache, number);
	return err;
}

bool shim_cache_map(CUdeviceptr from, CUdeviceptr to, CUresult *error)
{
	struct allocation *allocation;
	struct cache *cache;
	int number, err = -ECANCELED;

	shim_stats_start();
	pthread_mutex_lock(&lock);
	allocation = reserved_find(&from, &to, &cache, &number);
	if (allocation)
		err = reserved_open(cache, number);
	if (!err)
		allocation->mapped_bytes += to - from;
	*error = failure_of(err, to - from);
	pthread_mutex_unlock(&lock);
	return !err;
}

void shim_cache_unmap(CUdeviceptr from, CUdeviceptr to)
{
	struct allocation *allocation;
	struct cache *cache;
	int number;

	pthread_mutex_lock(&lock);
	allocation = reserved_find(&from, &to, &cache, &number);
	if (allocation && allocation->space) {
		allocation->mapped_bytes -= to - from < allocation->mapped_bytes ? to - from : allocation->mapped_bytes;
		if (!allocation->mapped_bytes) {
			allocation->freed = true;
			atomic_fetch_sub(&live, 1);
			ranges_update();
			cache_settle(cache, false);
		}
	}
	pthread_mutex_unlock(&lock);
}

bool shim_cache_unreserve(CUdeviceptr address)
{
	bool later = false;

	pthread_mutex_lock(&lock);
	for (struct cache *cache = caches, *next; cache; cache = next) {
		next = cache->next;
		for (int i = 0; i < cache->allocation_count; i++) {
			struct allocation *allocation = &cache->allocations[i];
			if (!allocation->reserved || allocation->reserved != address || allocation->left)
				continue;
			allocation->left = later = allocation->space != NULL;
			if (!later)
				*allocation = (struct allocation){.plain = allocation->plain};
			cache_settle(cache, false);
			goto out_unlock;
		}
	}
out_unlock:
	pthread_mutex_unlock(&lock);
	return later;
}

void shim_cache_free_context(CUcontext context)
{
	pthread_mutex_lock(&lock);
	for (struct cache *cache = caches, *next; cache; cache = next) {
		next = cache->next;
		for (int i = 0; cache->device->context == context && i < cache->allocation_count; i++) {
			if (cache->allocations[i].base && !cache->allocations[i].freed)
				atomic_fetch_sub(&live, 1);
			cache->allocations[i].freed = true;
		}
		if (cache->device->context == context)
			cache_settle(cache, true);
	}
	ranges_update();
	shim_devices_free(context);
	pthread_mutex_unlock(&lock);
}

/* The child has one thread, no context, and locks in whatever state they were. */
void shim_cache_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	forgotten = caches; /* each has its device; they cannot be freed, and are no leak */
	shim_devices = NULL;
	caches = NULL;
	atomic_store(&live, 0);
	shim_ranges_forget();
}
