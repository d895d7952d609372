/*
 * tools/preload/shadow.c: where stores meant for borrowers go, if an allocation holds more than one tensor: a second range of
 * addresses for all of it. There the owners' blocks are what they are in the allocation, and all of a borrower is the sink's
 * block. So a kernel that goes from K to V by an offset, and one node of a graph that stores to several layers, reach what
 * they would have reached in parts, and never memory that lies behind a sink.
 *
 * It takes addresses but no memory, and goes with the allocation's content.
 */
#include "cache.h"

#include <errno.h>

/* What the shadow shows at `offset`: an address of the block. */
static CUdeviceptr block_at(const struct shim_cache *cache, int number, size_t offset)
{
	for (int i = 0; i < 2 * cache->layers; i++) {
		const struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && shim_borrows(tensor) && tensor->region &&
			offset - tensor->place.offset < kvs_region_slot_stride(tensor->region))
			return kvs_region_address(cache->sink, 0);
	}
	return kvs_space_address(cache->allocations[number].space) + offset;
}

static CUresult block_map(CUdeviceptr at, CUdeviceptr shown, size_t bytes)
{
	const struct shim_real *driver = shim_real();
	CUmemGenericAllocationHandle block;
	CUresult result = driver->cuMemRetainAllocationHandle(&block, (void *)(uintptr_t)shown);

	if (result)
		return result;
	result = driver->cuMemMap(at, bytes, 0, block, 0);
	driver->cuMemRelease(block); /* the mapping keeps it */
	return result;
}

/* Unmaps what is mapped up to `mapped`, and gives the addresses back. */
static void addresses_free(CUdeviceptr start, size_t mapped, size_t bytes)
{
	const struct shim_real *driver = shim_real();

	if (mapped)
		driver->cuMemUnmap(start, mapped);
	driver->cuMemAddressFree(start, bytes);
}

static CUresult shadow_map(struct shim_cache *cache, int number, struct shim_shadow *shadow)
{
	const struct shim_real *driver = shim_real();
	size_t block = kvs_vmm_block_bytes(cache->device->vmm), at = 0;
	const CUmemAccessDesc access = {.location = {CU_MEM_LOCATION_TYPE_DEVICE, cache->device->cu->device},
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUresult result = driver->cuMemAddressReserve(&shadow->start, shadow->bytes, block, 0, 0);

	if (result)
		return result;
	for (; !result && at < shadow->bytes; at += result ? 0 : block)
		result = block_map(shadow->start + at, block_at(cache, number, shadow->first + at), block);
	if (!result)
		result = driver->cuMemSetAccess(shadow->start, shadow->bytes, &access, 1);
	if (result)
		addresses_free(shadow->start, at, shadow->bytes);
	return result;
}

/* Whether something borrows that is not all there is. */
static bool is_needed(struct shim_cache *cache, int number, size_t first, size_t end)
{
	for (int i = 0; cache->sink && i < 2 * cache->layers; i++) {
		const struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && shim_borrows(tensor) && tensor->region)
			return kvs_region_slot_stride(tensor->region) < end - first;
	}
	return false;
}

int shim_shadow_open(struct shim_cache *cache, int number)
{
	struct shim_shadow shadow = {0};
	CUresult result;
	size_t end;

	shim_extent_of(cache, number, &shadow.first, &end);
	if (!is_needed(cache, number, shadow.first, end))
		return 0;
	if (!shim_real()->cuMemRetainAllocationHandle)
		return kvs_fail(-ENOTSUP, "the driver has no cuMemRetainAllocationHandle");
	shadow.bytes = end - shadow.first;
	result = shadow_map(cache, number, &shadow);
	if (result)
		return kvs_fail(result == CUDA_ERROR_OUT_OF_MEMORY ? -ENOMEM : -EIO,
			"cannot map where borrowers' stores of %zu bytes go: CUDA error %d", shadow.bytes, result);
	cache->allocations[number].shadow = shadow;
	return 0;
}

void shim_shadow_close(struct shim_allocation *allocation)
{
	struct shim_shadow *shadow = &allocation->shadow;

	if (shadow->bytes)
		addresses_free(shadow->start, shadow->bytes, shadow->bytes);
	*shadow = (struct shim_shadow){0};
}

CUdeviceptr shim_tensor_sink(const struct shim_cache *cache, const struct shim_tensor *tensor)
{
	const struct shim_shadow *shadow = &cache->allocations[tensor->place.allocation].shadow;

	if (!shim_borrows(tensor) || !cache->sink)
		return 0;
	return shadow->bytes ? shadow->start + (tensor->place.offset - shadow->first)
			     : kvs_region_address(cache->sink, 0);
}

bool shim_cache_shadow(CUdeviceptr address, size_t bytes, CUdeviceptr *moved)
{
	bool done = false;

	pthread_mutex_lock(&shim_cache_lock);
	for (struct shim_cache *cache = shim_caches; cache && !done; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count && !done; i++) {
			const struct shim_allocation *allocation = &cache->allocations[i];
			const struct shim_shadow *shadow = &allocation->shadow;
			CUdeviceptr at = address - allocation->base - shadow->first;

			if (allocation->freed || at >= shadow->bytes || bytes > shadow->bytes - at)
				continue;
			*moved = shadow->start + at;
			done = true;
		}
	}
	pthread_mutex_unlock(&shim_cache_lock);
	return done;
}
