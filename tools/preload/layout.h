/*
 * tools/preload/layout.h: where the K and the V of each layer lie in the allocations of a program.
 *
 *   slab     one allocation for all layers, order kv (K and V of layer 0, of layer 1, ...) or kkvv (all K, then all V)
 *   tensors  a run of equal allocations, one for each K and each V, in the same orders
 *   halves   a run of equal allocations, one for each layer: K, then V
 *   explicit the sizes of all allocations, and the place of each K and V in them (explicit.c)
 *
 * With memory=reserved an allocation is a range of addresses that the program reserves (cuMemAddressReserve), and to which it maps
 * memory of its own (own.c).
 *
 * The shim reads short forms only, so that it needs no other library; `kvshare-run exec` makes them from JSON.
 */
#ifndef SHIM_LAYOUT_H
#define SHIM_LAYOUT_H

#include "../../vmm/kvshare.h"

enum shim_layout_kind { SHIM_SLAB, SHIM_TENSORS, SHIM_HALVES, SHIM_EXPLICIT };
enum shim_layout_order { SHIM_KV, SHIM_KKVV };

/* A tensor's place: the number of its allocation, from 0, and its offset there. */
struct shim_place {
	int allocation;
	size_t offset, bytes;
};

/* What an explicit layout names. */
struct shim_places {
	int allocations, layers[2];
	size_t bytes[2 * KVS_PLAN_MAX_LAYERS];        /* [allocations] */
	struct shim_place at[2][KVS_PLAN_MAX_LAYERS]; /* [K, V][layers] */
};

struct shim_layout {
	enum shim_layout_kind kind;
	enum shim_layout_order order;
	int layers;
	size_t k_bytes, v_bytes;    /* of one layer; explicit: of the largest */
	size_t stride_bytes;        /* slab in order kv: from layer to layer */
	size_t offset_bytes;        /* slab: of the first K */
	size_t size_bytes;          /* slab: of the allocation; 0: any that is large enough, and not much larger */
	bool reserved;              /* allocations are ranges that the program reserves, and maps memory to itself */
	int skip;                   /* so many allocations of the same size come before; explicit: of the first size */
	struct shim_places *places; /* explicit; else NULL */
};

/*
 * From "slab:layers=16,k=4MiB,v=4MiB"; shim_layout_clear() frees what an explicit one names. -EINVAL with the place and the
 * reason, -ENOMEM.
 */
int shim_layout_parse(const char *text, struct shim_layout *out);
void shim_layout_clear(struct shim_layout *layout);
/* A number with one of the suffixes B, K, KiB, M, MiB, G, GiB; -EINVAL, without a message. */
int shim_bytes_parse(const char *text, size_t length, size_t *out);

/* A plan's two maps. */
struct shim_owners {
	int layers;
	int k[KVS_PLAN_MAX_LAYERS], v[KVS_PLAN_MAX_LAYERS];
};
/* From "0,1,2,1"; `v` may be NULL: as K. -EINVAL with the reason. */
int shim_owners_parse(const char *k, const char *v, struct shim_owners *out);
int shim_owner(const struct shim_owners *owners, int layer, enum kvs_k_or_v which);
bool shim_owners_share(const struct shim_owners *owners); /* whether any layer has another's K or V */

/* -EINVAL unless the owners are as many, and what they share are whole granules. 0: the granule is not known yet. */
int shim_layout_check(const struct shim_layout *layout, const struct shim_owners *owners, size_t granule_bytes);

/* The number of allocations that make up one cache, and whether one of `bytes` bytes can be among them, or be that `number`. */
int shim_layout_allocations(const struct shim_layout *layout);
bool shim_layout_fits(const struct shim_layout *layout, size_t bytes);
bool shim_layout_fits_at(const struct shim_layout *layout, int number, size_t bytes);

struct shim_place shim_layout_place(const struct shim_layout *layout, enum kvs_k_or_v which, int layer);

/* ---- explicit.c, for layout.c ---- */

/* Takes one field; -ENOENT, without a message: it is none of an explicit layout's own. */
int shim_explicit_field(
	struct shim_places *places, const char *key, size_t key_length, const char *value, size_t length);
/* All fields are there. On success `out` has `places`. */
int shim_explicit_make(struct shim_places *places, size_t layers, size_t skip, struct shim_layout *out);
/* A tensor that shares, alone, and with its owner. */
int shim_explicit_check(const struct shim_layout *layout, enum kvs_k_or_v which, int layer, size_t granule);
int shim_explicit_pair(const struct shim_layout *layout, enum kvs_k_or_v which, int layer, int owner);

#endif
