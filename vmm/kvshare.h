/*
 * kvshare.h: KV caches whose layers share physical GPU memory (libkvshare.so).
 *
 * Simple calls first: a kvs_cache holds one K and one V region for each layer of a model, shared as a plan says. Below
 * it, for who wants other shapes, regions and sharing one by one; then plans; then what can be asked of all of it.
 *
 *   kvs_cu *cu;          kvs_cu_open("auto", &cu);
 *   kvs_vmm *vmm;        kvs_vmm_create(cu, NULL, &vmm);
 *   kvs_plan *plan;      kvs_plan_parse("0,1,2,1", &plan);
 *   kvs_cache *cache;    kvs_cache_create(vmm, &(kvs_cache_shape){.layers = 4, .slots = 1, .ctx_tokens = 4096,
 *                                .k_token_bytes = 2048, .v_token_bytes = 2048}, plan, &cache);
 *   kvs_cache_resize(cache, 0, 100);            // room for 100 tokens in every layer of sequence 0
 *   CUdeviceptr k3 = kvs_cache_k(cache, 3, 0);  // reads the physical memory of layer 1
 *
 * Words. A *granule* is the driver's smallest unit of physical memory; a *block* is one cuMemCreate handle, a whole
 * number of granules; a *region* is one reserved address range, cut into *slots* of equal stride, one sequence each. A
 * *borrower* is a region that maps its *owner*'s blocks, read-only.
 *
 * Threads: calls on one kvs_vmm and what belongs to it are serialised by a lock inside; create and free are not, and a
 * region must not be freed while another thread uses it. Every function that returns int returns 0 or a negative errno
 * and then leaves a message in kvs_error() (cu.h); nothing prints, nothing exits. Multi-block operations are all or
 * nothing: after an error what was there before is there still.
 */
#ifndef KVSHARE_H
#define KVSHARE_H

#include "cu.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvs_vmm kvs_vmm;
typedef struct kvs_region kvs_region;
typedef struct kvs_cache kvs_cache;
typedef struct kvs_plan kvs_plan;

/* ---- the memory manager ---- */

struct kvs_vmm_options {
	size_t block_bytes;     /* size of a block; rounded up to granules; 0: one granule */
	size_t budget_bytes;    /* most physical memory to hold, free list included; 0: no limit */
	size_t free_list_bytes; /* most to keep in free blocks for reuse; 0: default of 64 blocks; SIZE_MAX: no limit */
	bool no_free_list;      /* give every block back at once */
	bool premap;            /* a worker thread maps the next block of a slot once half of its last one is used */
};

/* `options` may be NULL: one-granule blocks, no budget, default free list, no premapping. `cu` must outlive it. */
int kvs_vmm_create(kvs_cu *cu, const struct kvs_vmm_options *options, kvs_vmm **out);
/* Waits for attached streams, then gives everything back. Every region must have been freed. NULL is fine. */
void kvs_vmm_free(kvs_vmm *vmm);

size_t kvs_vmm_granule_bytes(const kvs_vmm *vmm);
size_t kvs_vmm_block_bytes(const kvs_vmm *vmm);

/*
 * Tell the manager that work on `stream` may use any of its regions. Memory that is given up (shrink, share, unshare,
 * free) is unmapped or reused only after an event, recorded behind the work that attached streams had at that moment,
 * has completed: the driver itself does not wait. With no stream attached the legacy default stream stands in.
 * -ENOMEM. Detach waits for nothing: the caller has synchronised the stream, or destroys it after kvs_vmm_free().
 */
int kvs_vmm_attach_stream(kvs_vmm *vmm, CUstream stream);
void kvs_vmm_detach_stream(kvs_vmm *vmm, CUstream stream);

/* Unmap what has retired, wait until the premapping worker has nothing to do, and give back free blocks over the limit. */
int kvs_vmm_settle(kvs_vmm *vmm);

/* ---- regions ---- */

/*
 * Reserve `slots` slots of at least `slot_bytes` each (the stride is rounded up to whole blocks). Nothing is mapped.
 * -EINVAL (0 slots, 0 bytes, overflow), -ENOMEM (no address space).
 */
int kvs_region_reserve(kvs_vmm *vmm, size_t slot_bytes, unsigned slots, kvs_region **out);
/* Ends sharing, waits for the last use, unmaps and frees. An owner must have no borrowers left (assert). NULL is fine. */
void kvs_region_free(kvs_region *region);

CUdeviceptr kvs_region_address(const kvs_region *region, unsigned slot);
size_t kvs_region_slot_stride(const kvs_region *region); /* bytes */
unsigned kvs_region_slots(const kvs_region *region);
/* Bytes of `slot` that may be used: what the last resize asked for (a borrower answers with its owner's). */
size_t kvs_region_slot_bytes(const kvs_region *region, unsigned slot);

/*
 * Make the first `bytes` bytes of `slot` usable, growing or shrinking it, with every borrower. Growing maps missing
 * blocks; new memory is not cleared. Shrinking takes effect at once, and its blocks go back once their last use retired.
 * -EINVAL (slot or size past the region; the region is a borrower), -ENOMEM (budget or device memory), -EIO.
 */
int kvs_region_resize(kvs_region *region, unsigned slot, size_t bytes);

/*
 * Map `borrower` onto the physical blocks of `owner`, now and as the owner grows or shrinks. The borrower becomes
 * read-only to kernels; what it held before is unmapped once its last use has retired (this call waits for that).
 * Both must belong to the same kvs_vmm and have the same slots and stride; an owner may not itself borrow, a borrower may
 * not have borrowers. -EINVAL, -ENOMEM, -EIO: nothing has changed. CUDA Programming Guide, "Virtual Aliasing Support":
 * writer and reader of one block must be different launches, ordered by a stream or event.
 */
int kvs_region_share(kvs_region *borrower, kvs_region *owner);
/* The borrower is empty and writable again. Waits for its last use. -EINVAL (does not borrow), -EIO. */
int kvs_region_unshare(kvs_region *borrower);
/* Whom this region borrows from, or NULL. */
kvs_region *kvs_region_owner(const kvs_region *region);

/* ---- plans ---- */

/* What a plan says of the model that it was made for; a plan made by hand has none (architecture NULL). */
struct kvs_plan_model {
	const char *architecture; /* config.json's model_type */
	int layers, kv_heads, head_dim;
	const char *fingerprint; /* of config and weights, hex; NULL: unknown */
};

/* Every layer owns its K and V. -EINVAL (layers < 1 or > KVS_PLAN_MAX_LAYERS). */
#define KVS_PLAN_MAX_LAYERS 4096
int kvs_plan_identity(int layers, kvs_plan **out);
/* From "0,1,2,1": the owner of each layer, for K and V alike. -EINVAL with the place and the reason. */
int kvs_plan_parse(const char *owners, kvs_plan **out);
/* From a file: plan JSON ("kvshare_plan": 1), DESIGN section 5. Unknown keys are kept and saved again. -ENOENT, -EINVAL, -EIO. */
int kvs_plan_load(const char *path, kvs_plan **out);
/* -ENOMEM, or what kvs_file_write() answers. */
int kvs_plan_save(const kvs_plan *plan, const char *path);
/* What kvs_plan_save() writes, as text that the caller frees. -ENOMEM. */
int kvs_plan_text(const kvs_plan *plan, char **json);
/* From explicit maps of `layers` entries each. -EINVAL unless owner[l] <= l and owner[owner[l]] == owner[l] for both. */
int kvs_plan_create(int layers, const int *k_owners, const int *v_owners, kvs_plan **out);
/* All of it: the maps, the model, and whatever else its file said. -ENOMEM. */
int kvs_plan_copy(const kvs_plan *plan, kvs_plan **out);
void kvs_plan_free(kvs_plan *plan);

int kvs_plan_layers(const kvs_plan *plan);
enum kvs_k_or_v { KVS_K, KVS_V };
/* The layer whose K (or V) `layer` reads: its own number, or a lower one's. -EINVAL (the plan has no such layer). */
int kvs_plan_owner(const kvs_plan *plan, int layer, enum kvs_k_or_v which);
/* Record the model a plan is for (copied). */
int kvs_plan_set_model(kvs_plan *plan, const struct kvs_plan_model *model);
/* Is this plan for that model? -EINVAL with both sides named; layers must agree always, the rest where the plan knows it. */
int kvs_plan_check(const kvs_plan *plan, const struct kvs_plan_model *model);

/*
 * What a search tells of itself in a plan, "calibration" in the file: one JSON object, copied. -EINVAL (not an object),
 * -ENOMEM.
 */
int kvs_plan_set_calibration(kvs_plan *plan, const char *json);
/* That object as text, which the caller frees. -ENOENT where the plan has none, -ENOMEM. */
int kvs_plan_calibration(const kvs_plan *plan, char **json);

/* ---- caches ---- */

struct kvs_cache_shape {
	int layers;
	unsigned slots;       /* sequences */
	size_t ctx_tokens;    /* room of one sequence */
	size_t k_token_bytes; /* K of one token in one layer: kv_heads * head_dim * element size */
	size_t v_token_bytes;
};

/*
 * Regions for K and V of every layer, `[slot][token][kv_head][head_dim]`, shared as `plan` says (NULL: none shared).
 * Nothing is mapped yet. -EINVAL (shape, plan of another number of layers), -ENOMEM, -EIO.
 */
int kvs_cache_create(kvs_vmm *vmm, const struct kvs_cache_shape *shape, const kvs_plan *plan, kvs_cache **out);
void kvs_cache_free(kvs_cache *cache);
/* Room for `tokens` tokens of sequence `slot` in every layer, K and V: all of it or, on error, nothing changed. */
int kvs_cache_resize(kvs_cache *cache, unsigned slot, size_t tokens);
size_t kvs_cache_tokens(const kvs_cache *cache, unsigned slot);
CUdeviceptr kvs_cache_k(const kvs_cache *cache, int layer, unsigned slot); /* [token][kv_head][head_dim] */
CUdeviceptr kvs_cache_v(const kvs_cache *cache, int layer, unsigned slot);
kvs_region *kvs_cache_k_region(const kvs_cache *cache, int layer);
kvs_region *kvs_cache_v_region(const kvs_cache *cache, int layer);

/* ---- what can be asked ---- */

enum kvs_vmm_call { /* the driver calls that are counted and timed */
	KVS_CALL_RESERVE,
	KVS_CALL_CREATE,
	KVS_CALL_MAP,
	KVS_CALL_SET_ACCESS,
	KVS_CALL_UNMAP,
	KVS_CALL_RELEASE,
	KVS_CALL_ADDRESS_FREE,
	KVS_CALL_COUNT
};
#define KVS_LATENCY_BUCKETS 32

struct kvs_call_stats {
	uint64_t calls, failures, total_ns;
	/* [b] counts calls that took 2^b to 2^(b+1)-1 ns; the last takes the rest */
	uint64_t latency[KVS_LATENCY_BUCKETS];
};

struct kvs_vmm_stats {
	size_t granule_bytes, block_bytes;
	size_t virtual_bytes;  /* reserved address space */
	size_t mapped_bytes;   /* address space with memory behind it, a shared block counted once for each mapping */
	size_t physical_bytes; /* device memory held in mapped blocks, each counted once */
	size_t free_bytes;     /* device memory held in the free list */
	size_t shared_bytes;   /* mapped_bytes of borrowers */
	size_t unshared_bytes; /* what the same regions would hold with no sharing: = mapped_bytes */
	size_t saved_bytes;    /* unshared_bytes - physical_bytes */
	size_t peak_bytes;     /* most physical_bytes + free_bytes so far */
	struct kvs_call_stats calls[KVS_CALL_COUNT];
};

void kvs_vmm_get_stats(kvs_vmm *vmm, struct kvs_vmm_stats *out);
const char *kvs_vmm_call_name(enum kvs_vmm_call call); /* "cuMemCreate" */

/* Walks every invariant of the manager; on false a sentence is in kvs_error(). For tests and debug builds. */
bool kvs_vmm_is_valid(kvs_vmm *vmm);

#ifdef __cplusplus
}
#endif
#endif
