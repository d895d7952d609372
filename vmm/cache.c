/*
 * vmm/cache.c: the KV cache of a model: a region for K and one for V of each layer, shared as a plan says.
 *
 * Both tensors of all layers grow together, by tokens, all or none. To keep it so, the regions of a cache are resized,
 * shared and freed by the cache alone.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

enum { TENSORS = KVS_V + 1 }; /* of a layer */

static size_t region_count(const kvs_cache *cache)
{
	return (size_t)cache->shape.layers * TENSORS;
}

static kvs_region **region_of(const kvs_cache *cache, int layer, enum kvs_k_or_v which)
{
	return &cache->regions[layer * TENSORS + (int)which];
}

static size_t token_bytes(const kvs_cache *cache, enum kvs_k_or_v which)
{
	return which == KVS_K ? cache->shape.k_token_bytes : cache->shape.v_token_bytes;
}

static int check_shape(const struct kvs_cache_shape *shape, const kvs_plan *plan)
{
	size_t bytes;

	if (shape->layers < 1 || shape->layers > KVS_PLAN_MAX_LAYERS)
		return kvs_fail(
			-EINVAL, "a cache of %d layers; it can have 1 to %d", shape->layers, KVS_PLAN_MAX_LAYERS);
	if (!shape->slots || !shape->ctx_tokens || !shape->k_token_bytes || !shape->v_token_bytes)
		return kvs_fail(-EINVAL,
			"a cache of %u slots, %zu tokens, %zu and %zu bytes for K and V of a token: none may be 0",
			shape->slots, shape->ctx_tokens, shape->k_token_bytes, shape->v_token_bytes);
	if (__builtin_mul_overflow(shape->ctx_tokens, shape->k_token_bytes, &bytes) ||
		__builtin_mul_overflow(shape->ctx_tokens, shape->v_token_bytes, &bytes))
		return kvs_fail(-EINVAL, "a context of %zu tokens of %zu and %zu bytes: more than an address can say",
			shape->ctx_tokens, shape->k_token_bytes, shape->v_token_bytes);
	if (plan && kvs_plan_layers(plan) != shape->layers)
		return kvs_fail(
			-EINVAL, "the plan has %d layers, the cache has %d", kvs_plan_layers(plan), shape->layers);
	return 0;
}

static int share_layer(kvs_cache *cache, const kvs_plan *plan, int layer, enum kvs_k_or_v which)
{
	int owner = plan ? kvs_plan_owner(plan, layer, which) : layer, err;

	if (owner == layer)
		return 0;
	vmm_begin(cache->vmm);
	err = vmm_share_begin(*region_of(cache, layer, which), *region_of(cache, owner, which));
	vmm_end(cache->vmm);
	return err;
}

static int reserve_layer(kvs_cache *cache, const kvs_plan *plan, int layer)
{
	for (int which = KVS_K; which < TENSORS; which++) {
		kvs_region **region = region_of(cache, layer, which);
		size_t bytes = cache->shape.ctx_tokens * token_bytes(cache, which);
		int err = kvs_region_reserve(cache->vmm, bytes, cache->shape.slots, region);

		if (err)
			return err;
		(*region)->cache = cache;
		err = share_layer(cache, plan, layer, which);
		if (err)
			return err;
	}
	return 0;
}

static void cache_link(kvs_cache *cache)
{
	kvs_vmm *vmm = cache->vmm;

	pthread_mutex_lock(&vmm->lock);
	cache->next = vmm->caches;
	if (vmm->caches)
		vmm->caches->prev = cache;
	vmm->caches = cache;
	pthread_mutex_unlock(&vmm->lock);
}

static void cache_unlink(kvs_cache *cache)
{
	if (cache->prev)
		cache->prev->next = cache->next;
	else if (cache->vmm->caches == cache)
		cache->vmm->caches = cache->next;
	if (cache->next)
		cache->next->prev = cache->prev;
}

/* Even after a failure, *out can be given to kvs_cache_free(). */
static int cache_alloc(kvs_vmm *vmm, const struct kvs_cache_shape *shape, kvs_cache **out)
{
	kvs_cache *cache = calloc(1, sizeof(*cache));

	if (cache) {
		cache->vmm = vmm;
		cache->shape = *shape;
		cache->regions = calloc(region_count(cache), sizeof(*cache->regions));
		cache->tokens = calloc(shape->slots, sizeof(*cache->tokens));
	}
	*out = cache;
	if (cache && cache->regions && cache->tokens)
		return 0;
	return kvs_fail(-ENOMEM, "no host memory for a cache of %d layers and %u slots", shape->layers, shape->slots);
}

int kvs_cache_create(kvs_vmm *vmm, const struct kvs_cache_shape *shape, const kvs_plan *plan, kvs_cache **out)
{
	kvs_cache *cache = NULL;
	int err = check_shape(shape, plan);

	if (!err)
		err = cache_alloc(vmm, shape, &cache);
	for (int layer = 0; layer < shape->layers && !err; layer++)
		err = reserve_layer(cache, plan, layer);
	if (err) {
		kvs_cache_free(cache);
		return err;
	}
	cache_link(cache);
	*out = cache;
	return 0;
}

/* From the last layer down: an owner lies below its borrowers. */
static void remove_regions(kvs_cache *cache)
{
	bool mapped = false;

	for (size_t i = 0; i < region_count(cache); i++)
		mapped |= cache->regions[i] && vmm_region_is_mapped(cache->regions[i]);
	if (mapped)
		vmm_retire_wait(cache->vmm); /* an error means that nothing runs any more */
	for (size_t i = region_count(cache); i--;)
		if (cache->regions[i])
			vmm_region_remove(cache->regions[i]);
}

void kvs_cache_free(kvs_cache *cache)
{
	if (!cache)
		return;
	if (cache->regions) {
		vmm_begin(cache->vmm);
		remove_regions(cache);
		cache_unlink(cache);
		vmm_end(cache->vmm);
		for (size_t i = 0; i < region_count(cache); i++)
			if (cache->regions[i])
				vmm_region_dealloc(cache->regions[i]);
	}
	free(cache->regions);
	free(cache->tokens);
	free(cache);
}

int kvs_cache_resize(kvs_cache *cache, unsigned slot, size_t tokens)
{
	struct vmm_resize resize = {.regions = cache->regions,
		.count = region_count(cache),
		.slot = slot,
		.tokens = tokens,
		.token_bytes = {cache->shape.k_token_bytes, cache->shape.v_token_bytes},
		.borrowers_follow = true};

	if (slot >= cache->shape.slots)
		return kvs_fail(-EINVAL, "slot %u of a cache of %u", slot, cache->shape.slots);
	if (tokens > cache->shape.ctx_tokens)
		return kvs_fail(-EINVAL, "%zu tokens in a context of %zu", tokens, cache->shape.ctx_tokens);
	resize.tokens_now = &cache->tokens[slot];
	return vmm_resize_all(cache->vmm, &resize);
}

size_t kvs_cache_tokens(const kvs_cache *cache, unsigned slot)
{
	size_t tokens;

	if (slot >= cache->shape.slots)
		return 0;
	pthread_mutex_lock(&cache->vmm->lock);
	tokens = cache->tokens[slot];
	pthread_mutex_unlock(&cache->vmm->lock);
	return tokens;
}

static kvs_region *region_at(const kvs_cache *cache, int layer, enum kvs_k_or_v which)
{
	return layer >= 0 && layer < cache->shape.layers ? *region_of(cache, layer, which) : NULL;
}

static CUdeviceptr address_at(const kvs_cache *cache, int layer, enum kvs_k_or_v which, unsigned slot)
{
	const kvs_region *region = region_at(cache, layer, which);

	return region ? kvs_region_address(region, slot) : 0;
}

CUdeviceptr kvs_cache_k(const kvs_cache *cache, int layer, unsigned slot)
{
	return address_at(cache, layer, KVS_K, slot);
}

CUdeviceptr kvs_cache_v(const kvs_cache *cache, int layer, unsigned slot)
{
	return address_at(cache, layer, KVS_V, slot);
}

kvs_region *kvs_cache_k_region(const kvs_cache *cache, int layer)
{
	return region_at(cache, layer, KVS_K);
}

kvs_region *kvs_cache_v_region(const kvs_cache *cache, int layer)
{
	return region_at(cache, layer, KVS_V);
}
