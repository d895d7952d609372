/*
 * A KV cache of four layers in which layer 3 reads layer 1's memory: made, grown, looked at and given back.
 *
 *   cc cache.c $(pkg-config --cflags --libs kvshare) -o cache && ./cache
 */
#include <kvshare.h>

#include <stdio.h>

static int use_cache(kvs_cu *cu, kvs_vmm *vmm, kvs_cache *cache)
{
	struct kvs_vmm_stats stats;
	unsigned written = 0x5eed, read = 0;
	int err = kvs_cache_resize(cache, 0, 1000); /* room for 1000 tokens of sequence 0, in every layer */

	if (err)
		return err;
	/* Layer 1 owns; layer 3 sees what is written there, at an address of its own. */
	if (cu->cuMemcpyHtoD(kvs_cache_k(cache, 1, 0), &written, sizeof written) ||
		cu->cuMemcpyDtoH(&read, kvs_cache_k(cache, 3, 0), sizeof read))
		return kvs_fail(-1, "copying failed");
	kvs_vmm_get_stats(vmm, &stats);
	printf("layer 3 reads %#x; %zu of %zu bytes held, %zu saved\n", read, stats.physical_bytes,
		stats.unshared_bytes, stats.saved_bytes);
	return read == written ? 0 : kvs_fail(-1, "layer 3 does not see layer 1");
}

int main(void)
{
	const struct kvs_cache_shape shape = {
		.layers = 4, .slots = 1, .ctx_tokens = 4096, .k_token_bytes = 2048, .v_token_bytes = 2048};
	kvs_cu *cu = NULL;
	kvs_vmm *vmm = NULL;
	kvs_plan *plan = NULL;
	kvs_cache *cache = NULL;
	int err = kvs_cu_open("auto", &cu);

	if (!err)
		err = kvs_vmm_create(cu, &(struct kvs_vmm_options){.premap = true}, &vmm);
	if (!err)
		err = kvs_plan_parse("0,1,2,1", &plan);
	if (!err)
		err = kvs_cache_create(vmm, &shape, plan, &cache);
	if (!err)
		err = use_cache(cu, vmm, cache);
	if (err)
		fprintf(stderr, "cache: %s\n", kvs_error());
	kvs_cache_free(cache);
	kvs_plan_free(plan);
	kvs_vmm_free(vmm);
	kvs_cu_close(cu);
	return err ? 1 : 0;
}
