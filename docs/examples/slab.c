/*
 * Memory whose layout another program decides: one slab with K and V of four layers behind one another. It is mapped at
 * once, as that program expects; when its layout is known it is cut up where it lies, layer 3 is shared with layer 1, and
 * a sink takes the stores that are still made for layer 3.
 *
 *   cc slab.c $(pkg-config --cflags --libs kvshare) -o slab && ./slab
 */
#include <kvshare.h>

#include <stdio.h>

enum { TENSORS = 2 * 4, TENSOR_GRANULES = 4 };

/* From the slab's end, so that what is left is always the part before; tensors[0] is the slab to begin with. */
static int cut(kvs_region *tensors[TENSORS], size_t tensor_bytes)
{
	int err = 0;

	for (int i = TENSORS - 1; i > 0 && !err; i--)
		err = kvs_region_split(tensors[0], i * tensor_bytes, &tensors[i]);
	return err;
}

static int use_slab(kvs_cu *cu, kvs_vmm *vmm, kvs_region *tensors[TENSORS], size_t tensor_bytes)
{
	unsigned written = 0x5eed, read = 0;
	struct kvs_vmm_stats stats;
	int err = kvs_region_resize(tensors[0], 0, TENSORS * tensor_bytes); /* all of it, at once */

	if (!err)
		err = cut(tensors, tensor_bytes);
	if (!err)
		err = kvs_region_share(tensors[6], tensors[2]); /* K of layers 3 and 1 */
	if (!err)
		err = kvs_region_share(tensors[7], tensors[3]); /* V */
	if (err)
		return err;
	if (cu->cuMemcpyHtoD(kvs_region_address(tensors[2], 0), &written, sizeof written) ||
		cu->cuMemcpyDtoH(&read, kvs_region_address(tensors[6], 0), sizeof read))
		return kvs_fail(-1, "copying failed");
	kvs_vmm_get_stats(vmm, &stats);
	printf("layer 3 reads %#x; %zu of %zu bytes held, %zu of addresses in the sink\n", read, stats.physical_bytes,
		stats.unshared_bytes, stats.sink_bytes);
	return read == written ? 0 : kvs_fail(-1, "layer 3 does not see layer 1");
}

int main(void)
{
	kvs_region *tensors[TENSORS] = {NULL}, *sink = NULL;
	kvs_space *slab = NULL, *beside = NULL;
	size_t tensor_bytes = 0;
	kvs_cu *cu = NULL;
	kvs_vmm *vmm = NULL;
	int err = kvs_cu_open("auto", &cu);

	if (!err)
		err = kvs_vmm_create(cu, NULL, &vmm);
	if (!err) {
		tensor_bytes = TENSOR_GRANULES * kvs_vmm_granule_bytes(vmm);
		err = kvs_space_reserve(vmm, TENSORS * tensor_bytes, &slab);
	}
	if (!err)
		err = kvs_region_create(slab, 0, TENSORS * tensor_bytes, 1, &tensors[0]);
	if (!err)
		err = kvs_space_reserve(vmm, tensor_bytes, &beside);
	if (!err)
		err = kvs_region_create_sink(beside, 0, tensor_bytes, &sink); /* as large as what is stored to */
	if (!err)
		err = use_slab(cu, vmm, tensors, tensor_bytes);
	if (err)
		fprintf(stderr, "slab: %s\n", kvs_error());
	for (int i = TENSORS; i--;) /* borrowers before owners */
		kvs_region_free(tensors[i]);
	kvs_region_free(sink);
	kvs_space_free(slab);
	kvs_space_free(beside);
	kvs_vmm_free(vmm);
	kvs_cu_close(cu);
	return err ? 1 : 0;
}
