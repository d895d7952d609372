/*
 * vmm/cache.c: the KV cache of a model: a region for K and one for V of each layer, shared as a plan says.
 *
 * Both tensors of all layers grow together, by tokens, all of them or none.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

struct kvs_cache {
	kvs_vmm *vmm;
	struct kvs_cache_shape shape;
	kvs_region **regions; /* [layer][K, V] */
	size_t *tokens;       /* [slot] */
};

enum { K = KVS_K, V = KVS_V, TENSORS };

static kvs_region **region_of(const kvs_cache *cache, int layer, int tensor)
{
	return &cache->regions[layer * TENSORS + tensor];
}

static size_t token_bytes(const kvs_cache *cache, int tensor)
{
	return tensor == K ? cache->shape.k_token_bytes : cache->shape.v_token_bytes;
}

static int check_shape(const struct kvs_cache_shape *shape, const kvs_plan *plan)
{
	size_t bytes;

	if (shape->layers < 1 || shape->layers > KVS_PLAN_MAX_LAYERS)
		return kvs_fail(
			-EINVAL, "a cache of %d layers; 1 to %d are possible", shape->layers, KVS_PLAN_MAX_LAYERS);
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

static int reserve_layer(kvs_cache *cache, const kvs_plan *plan, int layer)
{
	for (int tensor = K; tensor < TENSORS; tensor++) {
		kvs_region **region = region_of(cache, layer, tensor);
		int owner = layer, err;

		if (plan)
			owner = kvs_plan_owner(plan, layer, tensor);
		err = kvs_region_reserve(
			cache->vmm, cache->shape.ctx_tokens * token_bytes(cache, tensor), cache->shape.slots, region);
		if (!err && owner != layer)
			err = kvs_region_share(*region, *region_of(cache, owner, tensor));
		if (err)
			return err;
	}
	return 0;
}

int kvs_cache_create(kvs_vmm *vmm, const struct kvs_cache_shape *shape, const kvs_plan *plan, kvs_cache **out)
{
	kvs_cache *cache;
	int err = check_shape(shape, plan);

	if (err)
		return err;
	cache = calloc(1, sizeof *cache);
	if (!cache)
		return kvs_fail(-ENOMEM, "no host memory for a cache");
	cache->vmm = vmm;
	cache->shape = *shape;
	cache->regions = calloc((size_t)shape->layers * TENSORS, sizeof *cache->regions);
	cache->tokens = calloc(shape->slots, sizeof *cache->tokens);
	if (!cache->regions || !cache->tokens)
		err = kvs_fail(
			-ENOMEM, "no host memory for a cache of %d layers and %u slots", shape->layers, shape->slots);
	for (int layer = 0; layer < shape->layers && !err; layer++)
		err = reserve_layer(cache, plan, layer);
	if (err) {
		kvs_cache_free(cache);
		return err;
	}
	*out = cache;
	return 0;
}

void kvs_cache_free(kvs_cache *cache)
{
	if (!cache)
		return;
	/* From the last layer down: an owner lies below its borrowers. */
	for (int i = cache->regions ? cache->shape.layers * TENSORS : 0; i--;)
		kvs_region_free(cache->regions[i]);
	free(cache->regions);
	free(cache->tokens);
	free(cache);
}

/* Resize those of the first `count` regions that own. `done` is how many were gone through before an error. */
static int resize_regions(kvs_cache *cache, unsigned slot, size_t tokens, int count, int *done)
{
	for (*done = 0; *done < count; ++*done) {
		kvs_region *region = cache->regions[*done];
		int err = region->owner
				  ? 0
				  : vmm_region_set_bytes(region, slot, tokens * token_bytes(cache, *done % TENSORS));

		if (err)
			return err;
	}
	return 0;
}

static bool gives_up(const kvs_cache *cache, unsigned slot, size_t tokens)
{
	for (int i = 0; i < cache->shape.layers * TENSORS; i++)
		if (!cache->regions[i]->owner &&
			vmm_region_gives_up(cache->regions[i], slot, tokens * token_bytes(cache, i % TENSORS)))
			return true;
	return false;
}

static int resize(kvs_cache *cache, unsigned slot, size_t tokens)
{
	int done, err;

	vmm_retire_poll(cache->vmm);
	vmm_trim_retired(cache->vmm);
	err = gives_up(cache, slot, tokens) ? vmm_retire_mark(cache->vmm) : 0;
	if (err)
		return err;
	err = resize_regions(cache, slot, tokens, cache->shape.layers * TENSORS, &done);
	if (err)
		resize_regions(cache, slot, cache->tokens[slot], done, &done);
	else
		cache->tokens[slot] = tokens;
	return err;
}

int kvs_cache_resize(kvs_cache *cache, unsigned slot, size_t tokens)
{
	int err;

	if (slot >= cache->shape.slots)
		return kvs_fail(-EINVAL, "slot %u of a cache of %u", slot, cache->shape.slots);
	if (tokens > cache->shape.ctx_tokens)
		return kvs_fail(-EINVAL, "%zu tokens in a context of %zu", tokens, cache->shape.ctx_tokens);
	pthread_mutex_lock(&cache->vmm->lock);
	err = resize(cache, slot, tokens);
	pthread_mutex_unlock(&cache->vmm->lock);
	return err;
}

size_t kvs_cache_tokens(const kvs_cache *cache, unsigned slot)
{
	size_t tokens;

	pthread_mutex_lock(&cache->vmm->lock);
	tokens = cache->tokens[slot];
	pthread_mutex_unlock(&cache->vmm->lock);
	return tokens;
}

CUdeviceptr kvs_cache_k(const kvs_cache *cache, int layer, unsigned slot)
{
	return kvs_region_address(*region_of(cache, layer, K), slot);
}

CUdeviceptr kvs_cache_v(const kvs_cache *cache, int layer, unsigned slot)
{
	return kvs_region_address(*region_of(cache, layer, V), slot);
}

kvs_region *kvs_cache_k_region(const kvs_cache *cache, int layer)
{
	return *region_of(cache, layer, K);
}

kvs_region *kvs_cache_v_region(const kvs_cache *cache, int layer)
{
	return *region_of(cache, layer, V);
}
