/*
 * tools/preload/request.c: what the hooks ask of the caches: memory for an allocation, whose an address is, and that something goes.
 */
#include "cache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

atomic_int shim_live;
static struct shim_cache *volatile forgotten;
static struct shim_device *volatile forgotten_devices;
static atomic_bool late;  /* some allocation is */
static char failure[512]; /* why the allocation that is being made is not of a cache; "": it is not that */

static size_t ranges_of(const struct shim_cache *cache, struct shim_range *out)
{
	size_t count = 0;

	for (int i = 0; i < 2 * cache->layers; i++) {
		const struct shim_tensor *tensor = &cache->tensors[i];
		const struct shim_allocation *allocation = &cache->allocations[tensor->place.allocation];

		if (!tensor->region || !allocation->base || allocation->freed)
			continue;
		out[count++] = (struct shim_range){
			allocation->base + tensor->place.offset, tensor->place.bytes, shim_tensor_sink(cache, tensor)};
	}
	return count;
}

int shim_cache_publish(void)
{
	size_t most = 0, count = 0;
	struct shim_range *range;
	int err;

	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next)
		most += 2 * (size_t)cache->layers;
	range = malloc((most + 1) * sizeof(*range));
	if (!range)
		return kvs_fail(-ENOMEM, "no memory for the table of shared memory");
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next)
		count += ranges_of(cache, range + count);
	err = shim_ranges_publish(range, count);
	free(range);
	return err;
}

/* What the program would take for an allocation that is ours. */
static size_t plain_bytes(struct shim_cache *cache, int number)
{
	const struct shim_allocation *allocation = &cache->allocations[number];
	size_t first = 0, end = 0;

	if (!allocation->reserved)
		return allocation->space ? allocation->bytes : 0;
	if (allocation->space)
		shim_extent_of(cache, number, &first, &end);
	return end - first;
}

void shim_cache_note(void)
{
	struct shim_memory memory = {0};
	size_t alone = 0;

	for (struct shim_device *device = shim_devices; device; device = device->next) {
		struct kvs_vmm_stats stats;

		kvs_vmm_get_stats(device->vmm, &stats);
		memory.physical_bytes += stats.physical_bytes;
	}
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next) {
		memory.sink_bytes += !cache->sink ? 0 : kvs_vmm_block_bytes(cache->device->vmm);
		for (int i = 0; i < cache->allocation_count; i++) {
			memory.virtual_bytes += cache->allocations[i].bytes;
			alone += plain_bytes(cache, i);
		}
	}
	memory.saved_bytes = alone > memory.physical_bytes ? alone - memory.physical_bytes : 0;
	shim_stats_note(&memory);
}

/* The allocation's memory is the program's own: its cache is not what was asked for. */
void shim_cache_refused(struct shim_cache *cache, int number)
{
	cache->allocations[number].plain = true;
	if (!cache->given_up)
		shim_cache_give_up(cache);
	shim_cache_publish();
	shim_cache_settle(cache, false);
}

/* Backs a place; on failure it is as before. */
static int place_open(struct shim_cache *cache, int number, size_t bytes)
{
	struct shim_allocation *allocation = &cache->allocations[number];
	int err =
		allocation->space ? shim_allocation_refill(cache, number) : shim_allocation_open(cache, number, bytes);

	if (err)
		return err;
	allocation->freed = false;
	err = shim_cache_publish();
	allocation->freed = err != 0;
	return err;
}

static int allocate(size_t bytes, CUdeviceptr *out)
{
	struct shim_cache *cache;
	int number, err = shim_place_find(bytes, &cache, &number);

	if (err)
		return err;
	/* One that shares nothing takes its place when the driver has made it. */
	err = shim_tensor_next(cache, number, 0) ? place_open(cache, number, bytes) : -ECANCELED;
	if (err) {
		shim_cache_settle(cache, false);
		return err;
	}
	*out = cache->allocations[number].base;
	atomic_fetch_add(&shim_live, 1);
	shim_cache_note();
	return 0;
}

/* Each kind of reason is told once. */
static void plain_tell(int err, size_t bytes, const char *why)
{
	static bool told[2];

	if (!told[err == -EEXIST])
		shim_say("an allocation of %zu bytes stays as it is, its layers are not shared: %s", bytes, why);
	told[err == -EEXIST] = true;
}

/* What the program gets where its memory could not be backed: plain memory, or with --strict an error. */
CUresult shim_cache_failure(int err, size_t bytes)
{
	if (!err || err == -ECANCELED || err == -ENODEV) /* one that stays plain; a call that the driver will refuse */
		return CUDA_SUCCESS;
	plain_tell(err, bytes, kvs_error());
	if (!shim_settings()->strict || err == -EEXIST) /* none of a cache's, as far as anybody can tell */
		return CUDA_SUCCESS;
	return err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_SUPPORTED;
}

bool shim_cache_allocate(size_t bytes, CUdeviceptr *out, CUresult *error)
{
	const struct shim_settings *settings = shim_settings();
	int err = -ECANCELED;

	*error = CUDA_SUCCESS;
	if (settings->off || settings->layout.reserved || !bytes || !shim_layout_fits(&settings->layout, bytes))
		return false;
	shim_stats_start();
	pthread_mutex_lock(&shim_cache_lock);
	if (!shim_is_skipping())
		err = allocate(bytes, out);
	if (settings->strict)
		*error = shim_cache_failure(err, bytes);
	snprintf(failure, sizeof(failure), "%s", err && err != -ECANCELED ? kvs_error() : "");
	pthread_mutex_unlock(&shim_cache_lock);
	return !err;
}

/* Why is known from shim_cache_allocate(), and told now, as only now the program has plain memory. */
static void place_passed(CUdeviceptr address, size_t bytes)
{
	bool alone = shim_layout_allocations(&shim_settings()->layout) == 1;
	struct shim_cache *cache;
	int number, err = alone ? -EBUSY : shim_place_find(bytes, &cache, &number);

	if (err == -ECANCELED)
		return;
	if (!err && !shim_tensor_next(cache, number, 0)) {
		shim_place_plain(cache, number, address);
		return;
	}
	if (*failure)
		plain_tell(err, bytes, failure);
	if (!err)
		shim_cache_settle(cache, false);
	shim_stray_add(address);
	shim_cache_publish();
}

void shim_cache_passed(CUdeviceptr address, size_t bytes)
{
	const struct shim_settings *settings = shim_settings();

	if (settings->off || settings->layout.reserved || !shim_layout_fits(&settings->layout, bytes))
		return;
	pthread_mutex_lock(&shim_cache_lock);
	if (!shim_is_skipped(bytes) && address)
		place_passed(address, bytes);
	*failure = '\0';
	pthread_mutex_unlock(&shim_cache_lock);
}

static struct shim_allocation *allocation_find(CUdeviceptr address, struct shim_cache **owner)
{
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];

			*owner = cache;
			if (shim_is_live(allocation) && !allocation->plain && !allocation->reserved &&
				address - allocation->base < allocation->bytes)
				return allocation;
		}
	}
	return NULL;
}

bool shim_cache_any(void)
{
	return atomic_load_explicit(&shim_live, memory_order_acquire) > 0;
}

bool shim_cache_find(CUdeviceptr address, CUdeviceptr *base, size_t *bytes)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;

	if (!shim_cache_any())
		return false;
	pthread_mutex_lock(&shim_cache_lock);
	allocation = allocation_find(address, &cache);
	if (allocation) {
		*base = allocation->base;
		*bytes = allocation->bytes;
	}
	pthread_mutex_unlock(&shim_cache_lock);
	return allocation != NULL;
}

void shim_cache_set_pool(CUdeviceptr address, CUmemoryPool pool)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = allocation_find(address, &cache);
	if (allocation)
		allocation->pool = pool;
	pthread_mutex_unlock(&shim_cache_lock);
	shim_pool_note(pool);
}

size_t shim_cache_pool_bytes(CUmemoryPool pool)
{
	size_t bytes = 0;

	pthread_mutex_lock(&shim_cache_lock);
	for (struct shim_cache *cache = shim_caches; cache; cache = cache->next)
		for (int i = 0; i < cache->allocation_count; i++)
			if (cache->allocations[i].base && !cache->allocations[i].freed &&
				cache->allocations[i].pool == pool)
				bytes += cache->allocations[i].bytes;
	pthread_mutex_unlock(&shim_cache_lock);
	return bytes;
}

CUmemoryPool shim_cache_pool(CUdeviceptr address)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	CUmemoryPool pool;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = allocation_find(address, &cache);
	pool = allocation ? allocation->pool : NULL;
	pthread_mutex_unlock(&shim_cache_lock);
	return pool;
}

CUcontext shim_cache_context(CUdeviceptr address)
{
	struct shim_cache *cache;
	CUcontext context;

	pthread_mutex_lock(&shim_cache_lock);
	context = allocation_find(address, &cache) ? cache->device->context : NULL;
	pthread_mutex_unlock(&shim_cache_lock);
	return context;
}

bool shim_cache_free(CUdeviceptr address)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	bool ours;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = allocation_find(address, &cache);
	ours = allocation && allocation->base == address;
	if (ours) {
		allocation->freed = true;
		atomic_fetch_sub(&shim_live, 1);
		shim_cache_publish();
		shim_cache_settle(cache, false);
	}
	pthread_mutex_unlock(&shim_cache_lock);
	return ours;
}

bool shim_cache_free_later(CUdeviceptr address)
{
	struct shim_allocation *allocation;
	struct shim_cache *cache;
	bool ours;

	pthread_mutex_lock(&shim_cache_lock);
	allocation = allocation_find(address, &cache);
	ours = allocation && allocation->base == address;
	if (ours) {
		allocation->freed = allocation->late = true;
		atomic_store(&late, true);
		atomic_fetch_sub(&shim_live, 1);
		shim_cache_publish();
	}
	pthread_mutex_unlock(&shim_cache_lock);
	return ours;
}

void shim_cache_free_late(void)
{
	if (!atomic_load_explicit(&late, memory_order_acquire) || !shim_wait_begin())
		return;
	pthread_mutex_lock(&shim_cache_lock);
	atomic_store(&late, false);
	for (struct shim_cache *cache = shim_caches, *next; cache; cache = next) {
		bool some = false;

		next = cache->next;
		for (int i = 0; i < cache->allocation_count; i++)
			some |= cache->allocations[i].late;
		if (some && shim_context_wait(cache->device->context)) {
			atomic_store(&late, true);
			continue;
		}
		for (int i = 0; i < cache->allocation_count; i++)
			cache->allocations[i].late = false;
		if (some)
			shim_cache_settle(cache, false);
	}
	pthread_mutex_unlock(&shim_cache_lock);
	shim_wait_end(true);
}

void shim_cache_free_context(CUcontext context)
{
	pthread_mutex_lock(&shim_cache_lock);
	for (struct shim_cache *cache = shim_caches, *next; cache; cache = next) {
		next = cache->next;
		for (int i = 0; cache->device->context == context && i < cache->allocation_count; i++) {
			if (cache->allocations[i].space && !cache->allocations[i].freed)
				atomic_fetch_sub(&shim_live, 1);
			cache->allocations[i].freed = true;
			cache->allocations[i].late = false;
		}
		if (cache->device->context == context)
			shim_cache_settle(cache, true);
	}
	shim_cache_publish();
	shim_devices_free(context);
	shim_order_free(context);
	pthread_mutex_unlock(&shim_cache_lock);
}

/* The child has one thread, no context, and locks in whatever state they were. */
void shim_cache_forget(void)
{
	pthread_mutex_init(&shim_cache_lock, NULL);
	forgotten = shim_caches; /* they cannot be freed, and are no leak */
	forgotten_devices = shim_devices;
	shim_devices = NULL;
	shim_caches = NULL;
	shim_order_forget();
	atomic_store(&shim_live, 0);
	atomic_store(&late, false);
	shim_ranges_forget();
}
