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

/* The memory manager of one context of the program's. */
struct device {
	struct device *next;
	CUcontext context;
	kvs_cu *cu;
	kvs_vmm *vmm;
};

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
};

struct cache {
	struct cache *next;
	struct device *device;
	kvs_space *sink_space;
	kvs_region *sink;
	bool given_up; /* an allocation could not be backed, so nothing is shared in this cache */
	int layers, allocation_count;
	struct tensor *tensors;         /* [2 * layers], K and V of layer 0, of layer 1, ... */
	struct allocation *allocations; /* [allocation_count] */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct device *devices;
static struct cache *caches;
static int skipped;
static bool warned;
static atomic_int live; /* allocations that are ours, for hooks that need not look if there is none */

/* ---- devices ---- */

static int device_create(CUcontext context, CUdevice device, struct device **out)
{
	const struct kvs_cu_driver driver = {.symbol = shim_real_symbol};
	const struct kvs_vmm_options options = {.no_free_list = true, .write_borrowed = shim_settings()->last};
	struct device *created = calloc(1, sizeof(*created));
	int err;

	if (!created)
		return kvs_fail(-ENOMEM, "no memory for a device");
	created->context = context;
	err = kvs_cu_adopt(&driver, context, device, &created->cu);
	if (err)
		goto out_free;
	shim_profile_engine(created->cu);
	err = kvs_vmm_create(created->cu, &options, &created->vmm);
	if (err)
		goto out_close;
	created->next = devices;
	devices = created;
	*out = created;
	return 0;

out_close:
	kvs_cu_close(created->cu);
out_free:
	free(created);
	return err;
}

/* The device of the calling thread's context. */
static int device_get(struct device **out)
{
	const struct shim_real *driver = shim_real();
	CUcontext context = NULL;
	CUdevice device;

	if (!driver->cuCtxGetCurrent || driver->cuCtxGetCurrent(&context) || !context ||
		driver->cuCtxGetDevice(&device))
		return kvs_fail(-ENODEV, "no context is current");
	for (*out = devices; *out && (*out)->context != context;)
		*out = (*out)->next;
	return *out ? 0 : device_create(context, device, out);
}

static void device_free(struct device *device)
{
	struct device **link = &devices;

	while (*link != device)
		link = &(*link)->next;
	*link = device->next;
	kvs_vmm_free(device->vmm);
	kvs_cu_close(device->cu);
	free(device);
}

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
static int cache_create(struct device *device, struct cache **out)
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

static int allocation_fill(struct cache *cache, int number)
{
	struct allocation *allocation = &cache->allocations[number];
	size_t at = 0, end = kvs_space_bytes(allocation->space);
	int err = owners_fill(cache, allocation, number);
	struct tensor *tensor;

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
	*allocation = (struct allocation){0};
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

	if (!err)
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
		left |= allocation->space || (cache->given_up && !allocation->plain);
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

	for (struct device *device = devices; device; device = device->next) {
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

/* A cache of this device whose next allocation, the first place that is free, can have `bytes` bytes. */
static struct cache *cache_with_room(const struct device *device, size_t bytes, int *number)
{
	for (struct cache *cache = caches; cache; cache = cache->next) {
		if (cache->device != device)
			continue;
		for (*number = 0; *number < cache->allocation_count; ++*number)
			if (!cache->allocations[*number].space && !cache->allocations[*number].plain)
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

static int allocate(size_t bytes, CUdeviceptr *out)
{
	struct device *device;
	struct cache *cache = NULL;
	int number, err = device_get(&device);

	if (err)
		return err;
	cache = cache_with_room(device, bytes, &number);
	if (!cache && !shim_layout_fits_at(&shim_settings()->layout, 0, bytes))
		return -ECANCELED; /* as large as one of a cache's, but not the one that comes next */
	if (!cache)
		err = cache_create(device, &cache);
	if (err)
		return err;
	if (!cache->given_up && !tensor_next(cache, number, 0)) {
		cache->allocations[number].plain = true; /* nothing in it is shared */
		return -ECANCELED;
	}
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

bool shim_cache_allocate(size_t bytes, CUdeviceptr *out, CUresult *error)
{
	const struct shim_settings *settings = shim_settings();
	bool done = false;
	int err;

	*error = CUDA_SUCCESS;
	if (settings->off || !bytes || !shim_layout_fits(&settings->layout, bytes))
		return false;
	shim_stats_start();
	pthread_mutex_lock(&lock);
	if (skipped < settings->layout.skip) {
		skipped += shim_layout_fits_at(&settings->layout, 0, bytes);
		goto out_unlock;
	}
	err = allocate(bytes, out);
	done = !err;
	if (err == -ECANCELED || err == -ENODEV) /* one that stays plain; a call that the driver will refuse */
		goto out_unlock;
	if (err && !warned)
		shim_say(
			"an allocation of %zu bytes stays as it is, its layers are not shared: %s", bytes, kvs_error());
	warned |= err != 0;
	if (err && settings->strict)
		*error = err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_SUPPORTED;
out_unlock:
	pthread_mutex_unlock(&lock);
	return done;
}

static struct allocation *allocation_find(CUdeviceptr address, struct cache **owner)
{
	for (struct cache *cache = caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct allocation *allocation = &cache->allocations[i];

			*owner = cache;
			if (allocation->base && !allocation->freed && address - allocation->base < allocation->bytes)
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
	for (struct device *device = devices, *next; device; device = next) {
		next = device->next;
		if (device->context == context)
			device_free(device);
	}
	pthread_mutex_unlock(&lock);
}

/* The child has one thread, no context, and locks in whatever state they were. */
void shim_cache_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	devices = NULL;
	caches = NULL;
	atomic_store(&live, 0);
	shim_ranges_forget();
}
