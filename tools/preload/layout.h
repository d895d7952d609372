/*
 * tools/preload/layout.h: where the K and the V of each layer lie in the allocations of a program.
 *
 *   slab     one allocation for all layers, order kv (K and V of layer 0, of layer 1, ...) or kkvv (all K, then all V)
 *   tensors  a run of equal allocations, one for each K and each V, in the same orders
 *   halves   a run of equal allocations, one for each layer: K, then V
 *
 * The shim reads short forms only, so that it needs no other library; `kvshare-run exec` makes them from JSON.
 */
#ifndef SHIM_LAYOUT_H
#define SHIM_LAYOUT_H

#include "../../vmm/kvshare.h"

enum shim_layout_kind { SHIM_SLAB, SHIM_TENSORS, SHIM_HALVES };
enum shim_layout_order { SHIM_KV, SHIM_KKVV };

struct shim_layout {
	enum shim_layout_kind kind;
	enum shim_layout_order order;
	int layers;
	size_t k_bytes, v_bytes; /* of one layer */
	size_t stride_bytes;     /* slab in order kv: from layer to layer */
	size_t offset_bytes;     /* slab: of the first K */
	size_t size_bytes;       /* slab: of the allocation; 0: any that is large enough, and not much larger */
	int skip;                /* so many allocations of the same size come before */
};

/* From "slab:layers=16,k=4MiB,v=4MiB". -EINVAL with the place and the reason. */
int shim_layout_parse(const char *text, struct shim_layout *out);

/* A plan's two maps. */
struct shim_owners {
	int layers;
	int k[KVS_PLAN_MAX_LAYERS], v[KVS_PLAN_MAX_LAYERS];
};
/* From "0,1,2,1"; `v` may be NULL: as K. -EINVAL with the reason. */
int shim_owners_parse(const char *k, const char *v, struct shim_owners *out);
int shim_owner(const struct shim_owners *owners, int layer, enum kvs_k_or_v which);

/* -EINVAL unless the owners are as many, and what they share are whole granules. 0: the granule is not known yet. */
int shim_layout_check(const struct shim_layout *layout, const struct shim_owners *owners, size_t granule_bytes);

/* The number of allocations that make up one cache, and whether one of `bytes` bytes can be among them. */
int shim_layout_allocations(const struct shim_layout *layout);
bool shim_layout_fits(const struct shim_layout *layout, size_t bytes);

/* A tensor's place: the number of its allocation, from 0, and its offset there. */
struct shim_place {
	int allocation;
	size_t offset, bytes;
};
struct shim_place shim_layout_place(const struct shim_layout *layout, enum kvs_k_or_v which, int layer);

#endif
