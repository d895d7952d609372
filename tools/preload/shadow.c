/*
 * tools/preload/shadow.c: a second range of addresses for an allocation, for stores that reach several layers in one piece and
 * cannot be cut into parts. There the owners' blocks are what they are in the allocation, and all of a borrower is the
 * sink's block; so one node of a graph, with one destination, stores where its parts would have.
 *
 * It is made when it is first needed, takes addresses but no memory, and goes with the allocation.
 */
#include "cache.h"

/* What the shadow shows at `offset`: an address of the block. */
static CUdeviceptr block_at(const struct shim_cache *cache, int number, size_t offset)
{
	for (int i = 0; i < 2 * cache->layers; i++) {
		const struct shim_tensor *tensor = &cache->tensors[i];

		if (tensor->place.allocation == number && shim_borrows(tensor) && tensor->region &&
			offset - tensor->place.offset < kvs_region_slot_stride(tensor->region))
			return kvs_region_address(cache->sink, 0);
	}
	return cache->allocations[number].base + offset;
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

static bool shadow_open(struct shim_cache *cache, int number)
{
	const struct shim_real *driver = shim_real();
	struct shim_allocation *allocation = &cache->allocations[number];
	size_t block = kvs_vmm_block_bytes(cache->device->vmm), bytes = kvs_space_bytes(allocation->space), at = 0;
	const CUmemAccessDesc access = {.location = {CU_MEM_LOCATION_TYPE_DEVICE, cache->device->cu->device},
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr start;
	CUresult result;

	if (!cache->sink || !driver->cuMemRetainAllocationHandle ||
		driver->cuMemAddressReserve(&start, bytes, block, 0, 0))
		return false;
	for (result = CUDA_SUCCESS; !result && at < bytes; at += result ? 0 : block)
		result = block_map(start + at, block_at(cache, number, at), block);
	if (!result)
		result = driver->cuMemSetAccess(start, bytes, &access, 1);
	if (result)
		addresses_free(start, at, bytes);
	else
		allocation->shadow = start;
	return !result;
}

void shim_shadow_close(struct shim_allocation *allocation)
{
	size_t bytes = allocation->shadow ? kvs_space_bytes(allocation->space) : 0;

	if (bytes)
		addresses_free(allocation->shadow, bytes, bytes);
	allocation->shadow = 0;
}

bool shim_cache_shadow(CUdeviceptr address, size_t bytes, CUdeviceptr *moved)
{
	bool done = false;

	pthread_mutex_lock(&shim_cache_lock);
	for (struct shim_cache *cache = shim_caches; cache && !done; cache = cache->next) {
		for (int i = 0; i < cache->allocation_count && !done; i++) {
			struct shim_allocation *allocation = &cache->allocations[i];

			if (!allocation->base || allocation->freed || allocation->reserved ||
				address - allocation->base >= allocation->bytes ||
				bytes > allocation->bytes - (address - allocation->base))
				continue;
			done = allocation->shadow || shadow_open(cache, i);
			*moved = allocation->shadow + (address - allocation->base);
		}
	}
	pthread_mutex_unlock(&shim_cache_lock);
	return done;
}
