/*
 * kvshare.h: KV caches whose layers share physical GPU memory (libkvshare.so).
 *
 * Simple calls first: a kvs_cache holds the K and the V of every layer of a model, shared as a plan says. Below it, for
 * callers that want other shapes: regions, shared one by one; spaces, for several regions in one range of addresses;
 * and sinks. Then plans, and statistics.
 *
 *   kvs_cu *cu;          kvs_cu_open("auto", &cu);
 *   kvs_vmm *vmm;        kvs_vmm_create(cu, NULL, &vmm);
 *   kvs_plan *plan;      kvs_plan_parse("0,1,2,1", &plan);
 *   kvs_cache *cache;    kvs_cache_create(vmm, &(kvs_cache_shape){.layers = 4, .slots = 1, .ctx_tokens = 4096,
 *                                .k_token_bytes = 2048, .v_token_bytes = 2048}, plan, &cache);
 *   kvs_cache_resize(cache, 0, 100);            // room for 100 tokens in every layer of sequence 0
 *   CUdeviceptr k3 = kvs_cache_k(cache, 3, 0);  // reads the physical memory of layer 1
 *
 * Words. A *granule* is the driver's smallest unit of physical memory (2 MiB on today's GPUs; it is asked for, not
 * assumed). A *block* is one cuMemCreate handle of a whole number of granules. A *space* is one reserved range of
 * addresses. A *region* is a part of a space, cut into *slots* of equal stride, one sequence each, each with memory
 * mapped from its start as the sequence grows. A *borrower* is a region that maps the blocks of another, its *owner*,
 * and can only be read. A *sink* is a region in which every page is the same block. All sizes and offsets are bytes.
 *
 * Errors. A function that returns int returns 0 or a negative errno, and in the latter case leaves a message in
 * kvs_error() (cu.h). Nothing prints, nothing exits. An operation on many blocks and regions is all or nothing:
 * everything is unchanged on failure. The errors of each call are listed; -EIO stands for a failure of the driver that
 * has no errno of its own, such as a context that a kernel has ended.
 *
 * Threads. All calls on one manager and its objects may be made from several threads at once, each with the context of
 * `cu` current (kvs_cu_bind()). A call waits while another changes mappings; queries, and resizes within the mapped
 * memory, do not wait. Calls that wait for the device (share, unshare, free, settle) let all others go on. Do not free
 * an object that another thread still uses.
 *
 * Ownership. The object that create, reserve, parse, load and copy put into their last argument is the caller's to
 * free, with the function of the same prefix. free(NULL) is legal. Order: borrowers before owners, regions before their
 * space, all of them before the manager, the manager before `cu`.
 */
#ifndef KVSHARE_H
#define KVSHARE_H

#include "cu.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvs_vmm kvs_vmm;
typedef struct kvs_space kvs_space;
typedef struct kvs_region kvs_region;
typedef struct kvs_cache kvs_cache;
typedef struct kvs_plan kvs_plan;

/* ---- the memory manager ---- */

struct kvs_vmm_options {
	size_t block_bytes;     /* size of a block; rounded up to granules; 0: one granule */
	size_t budget_bytes;    /* limit of the physical memory held, free list included; 0: no limit */
	size_t free_list_bytes; /* limit of the free blocks kept for reuse; 0: default of 64 blocks; SIZE_MAX: no limit */
	bool no_free_list;      /* release every block at once */
	bool premap;            /* a worker thread maps the next block of a slot once half of its last one is used */
	bool write_borrowed;    /* borrowers are not read-only: whoever writes last, others read */
};

/*
 * A manager of memory on the device of `cu`, which must outlive it. `options` may be NULL: blocks of one granule, no
 * budget, the default free list, no premapping. -EINVAL (block size), -ENOMEM, -EIO; -EAGAIN (no thread for
 * premapping).
 */
int kvs_vmm_create(kvs_cu *cu, const struct kvs_vmm_options *options, kvs_vmm **out);
/* Waits for attached streams, then frees everything. Every space, region and cache must have been freed (assert). */
void kvs_vmm_free(kvs_vmm *vmm);

size_t kvs_vmm_granule_bytes(const kvs_vmm *vmm);
size_t kvs_vmm_block_bytes(const kvs_vmm *vmm);

/*
 * Tell the manager that work on `stream` may use any of its regions. Memory that is given up (shrink, share, unshare,
 * free) is unmapped or reused only after the work that attached streams had at that moment has completed, as an event
 * on each of them shows: the driver itself does not wait. If no stream is attached, the legacy default stream stands
 * in. -ENOMEM. Detaching waits for nothing: the caller must have synchronised the stream, unless nothing on it uses the
 * memory.
 */
int kvs_vmm_attach_stream(kvs_vmm *vmm, CUstream stream);
void kvs_vmm_detach_stream(kvs_vmm *vmm, CUstream stream);

/*
 * Wait until the premapping worker has nothing to do and the present work of attached streams is over; then unmap
 * memory that was given up, and release free blocks over the limit. -EIO.
 */
int kvs_vmm_settle(kvs_vmm *vmm);

/* ---- caches ---- */

struct kvs_cache_shape {
	int layers;
	unsigned slots;       /* sequences */
	size_t ctx_tokens;    /* room of one sequence */
	size_t k_token_bytes; /* K of one token in one layer: kv_heads * head_dim * element size */
	size_t v_token_bytes;
};

/*
 * Regions for K and V of every layer, `[slot][token][kv_head][head_dim]`, shared as `plan` says (NULL: none shared; the
 * plan is not kept). Nothing is mapped yet. -EINVAL (a shape with a 0 or an overflow, a plan of another number of
 * layers), -ENOMEM, -EIO.
 */
int kvs_cache_create(kvs_vmm *vmm, const struct kvs_cache_shape *shape, const kvs_plan *plan, kvs_cache **out);
/* Waits for the last use of its memory. */
void kvs_cache_free(kvs_cache *cache);
/*
 * Make room for `tokens` tokens of sequence `slot` in K and V of every layer; unchanged on failure. New memory is not
 * cleared; tokens that fit keep their place. -EINVAL (slot, or more than ctx_tokens), -ENOMEM (budget or device
 * memory), -EIO.
 */
int kvs_cache_resize(kvs_cache *cache, unsigned slot, size_t tokens);
/* The number of tokens in the last resize of `slot`; 0 if the cache has no such slot. */
size_t kvs_cache_tokens(const kvs_cache *cache, unsigned slot);
/* The address of K (or V) of `layer` for sequence `slot`, `[token][kv_head][head_dim]`; 0 for no such layer or slot. */
CUdeviceptr kvs_cache_k(const kvs_cache *cache, int layer, unsigned slot);
CUdeviceptr kvs_cache_v(const kvs_cache *cache, int layer, unsigned slot);
/*
 * The region of K (or V) of `layer`, for queries; NULL for no such layer. It stays the cache's: resizing, sharing or
 * unsharing it alone is refused with -EINVAL, since all layers of a cache change together.
 */
kvs_region *kvs_cache_k_region(const kvs_cache *cache, int layer);
kvs_region *kvs_cache_v_region(const kvs_cache *cache, int layer);

/* ---- regions ---- */

/*
 * Reserve `slots` slots of at least `slot_bytes` each (the stride is rounded up to whole blocks), in a space of their
 * own that is freed with the region. Nothing is mapped. -EINVAL (0 slots, 0 bytes, overflow), -ENOMEM (no address
 * space), -EIO.
 */
int kvs_region_reserve(kvs_vmm *vmm, size_t slot_bytes, unsigned slots, kvs_region **out);
/*
 * Ends sharing, waits for the last use, unmaps and frees. An owner must have no borrowers left, and the region of a
 * cache is freed by the cache (assert).
 */
void kvs_region_free(kvs_region *region);

/* The address of `slot`, which never changes; 0 for no such slot. */
CUdeviceptr kvs_region_address(const kvs_region *region, unsigned slot);
size_t kvs_region_slot_stride(const kvs_region *region);
unsigned kvs_region_slots(const kvs_region *region);
/* The usable bytes of `slot`: those of the last resize, in a borrower of its owner's; 0 for no such slot. */
size_t kvs_region_slot_bytes(const kvs_region *region, unsigned slot);

/*
 * Make the first `bytes` bytes of `slot` usable, growing or shrinking it together with every borrower. Growing maps
 * missing blocks; new memory is not cleared. Shrinking takes effect at once, and the blocks are released once their
 * last use has retired. Never waits for the device. -EINVAL (slot or size past the region; a borrower, a sink, a
 * cache's region), -ENOMEM (budget or device memory), -EIO.
 */
int kvs_region_resize(kvs_region *region, unsigned slot, size_t bytes);

/*
 * Map `borrower` onto the physical blocks of `owner`, now and as the owner grows or shrinks. The borrower becomes
 * read-only to kernels; its former content is lost, and is unmapped once its last use has retired, for which this call
 * waits. Launch nothing that uses `borrower` from another thread meanwhile. Both must belong to the same kvs_vmm and
 * have the same slots and stride; an owner may not itself borrow, a borrower may not have borrowers. -EINVAL (one of
 * these; a sink, a cache's region), -ENOMEM, -EIO: nothing has changed. CUDA Programming Guide, "Virtual Aliasing
 * Support": writer and reader of one block must be different launches, ordered by a stream or event.
 */
int kvs_region_share(kvs_region *borrower, kvs_region *owner);
/* Leaves the borrower empty and writable. Waits for its last use. -EINVAL (does not borrow; a cache's region), -EIO. */
int kvs_region_unshare(kvs_region *borrower);
/* The region that this one borrows from, or NULL. */
kvs_region *kvs_region_owner(const kvs_region *region);

/* ---- spaces: several regions in one range of addresses ---- */

/*
 * Reserve `bytes` bytes of addresses, rounded up to granules, to create regions in. Nothing is mapped. For memory whose
 * layout somebody else decides: a slab with K and V of all layers at offsets of their own, or an allocation of another
 * program. -EINVAL (0 bytes, overflow), -ENOMEM (no address space), -EIO.
 */
int kvs_space_reserve(kvs_vmm *vmm, size_t bytes, kvs_space **out);
/*
 * The same of addresses that somebody else has reserved, and gives back: `address` and `bytes` are multiples of the granule, and
 * nothing is mapped there. kvs_space_free() leaves them reserved. -EINVAL, -ENOMEM.
 */
int kvs_space_adopt(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, kvs_space **out);
/* No region may be left in it (assert). */
void kvs_space_free(kvs_space *space);
CUdeviceptr kvs_space_address(const kvs_space *space);
size_t kvs_space_bytes(const kvs_space *space);

/*
 * A region as from kvs_region_reserve(), but `offset` bytes into a space, which it does not own. Addresses between
 * regions have nothing mapped. A tensor that does not start and end at a granule has to leave the pages at its ends to
 * a region between it and its neighbour. -EINVAL (offset not a multiple of the granule, past the space's end, on
 * another region; or as kvs_region_reserve()), -ENOMEM.
 */
int kvs_region_create(kvs_space *space, size_t offset, size_t slot_bytes, unsigned slots, kvs_region **out);

/*
 * Cut a region of one slot in two at `at` bytes, a multiple of the block: `region` keeps the part before, `rest` is a
 * new region of the part after, with its content and the size in use. Makes no call of the driver and does not wait for
 * the device, so memory that was mapped as a whole and is in use can be shared in parts once its layout is known.
 * -EINVAL (`at`; a region that shares, is a cache's, a sink, has several slots, or came from kvs_region_reserve()),
 * -ENOMEM.
 */
int kvs_region_split(kvs_region *region, size_t at, kvs_region **rest);

/*
 * A region of `bytes` bytes, rounded up to blocks, that is mapped whole at once: every block of addresses onto the same
 * physical block, for reading and writing. It takes stores that nobody will read, such as those to a borrower. It
 * cannot be resized or shared, and its content is meaningless. -EINVAL as kvs_region_create(), -ENOMEM, -EIO.
 */
int kvs_region_create_sink(kvs_space *space, size_t offset, size_t bytes, kvs_region **out);

/* ---- plans ---- */

/* The model that a plan was made for; a plan made by hand names none (architecture NULL). */
struct kvs_plan_model {
	const char *architecture; /* config.json's model_type */
	int layers, kv_heads, head_dim;
	const char *fingerprint; /* of config and weights, hex; NULL: unknown */
};

#define KVS_PLAN_MAX_LAYERS 4096
/* Every layer owns its K and V. -EINVAL (layers < 1 or > KVS_PLAN_MAX_LAYERS), -ENOMEM. */
int kvs_plan_identity(int layers, kvs_plan **out);
/* From "0,1,2,1": the owner of each layer, for both K and V. -EINVAL with the place and the reason, -ENOMEM. */
int kvs_plan_parse(const char *owners, kvs_plan **out);
/*
 * From a plan file (docs/plans.md). Unknown keys are kept and saved again. -ENOENT, -EINVAL with file and field,
 * -ENOMEM, -EIO.
 */
int kvs_plan_load(const char *path, kvs_plan **out);
/* -ENOMEM, or the errors of kvs_file_write(). */
int kvs_plan_save(const kvs_plan *plan, const char *path);
/* The content of kvs_plan_save()'s file, as text that the caller frees. -ENOMEM. */
int kvs_plan_text(const kvs_plan *plan, char **json);
/*
 * From explicit maps of `layers` entries each. -EINVAL unless owner[l] <= l and owner[owner[l]] == owner[l] for both;
 * -ENOMEM.
 */
int kvs_plan_create(int layers, const int *k_owners, const int *v_owners, kvs_plan **out);
/* A full copy: the maps, the model, and the other keys of its file. -ENOMEM. */
int kvs_plan_copy(const kvs_plan *plan, kvs_plan **out);
void kvs_plan_free(kvs_plan *plan);

int kvs_plan_layers(const kvs_plan *plan);
enum kvs_k_or_v { KVS_K, KVS_V };
/* The number of the layer whose K (or V) `layer` reads: itself or a lower one. -EINVAL (no such layer). */
int kvs_plan_owner(const kvs_plan *plan, int layer, enum kvs_k_or_v which);
/* Record the model a plan is for (copied). -EINVAL (another number of layers), -ENOMEM. */
int kvs_plan_set_model(kvs_plan *plan, const struct kvs_plan_model *model);
/*
 * Whether a plan is for this model: -EINVAL with both values. Layers must always agree, the rest if the plan names it.
 */
int kvs_plan_check(const kvs_plan *plan, const struct kvs_plan_model *model);

/*
 * Record how the plan was found, "calibration" in the file: a JSON object as text (copied). -EINVAL (no object),
 * -ENOMEM.
 */
int kvs_plan_set_calibration(kvs_plan *plan, const char *json);
/* That object as text, which the caller frees. -ENOENT (the plan has none), -ENOMEM. */
int kvs_plan_calibration(const kvs_plan *plan, char **json);

/* ---- statistics ---- */

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
	/* [b] counts calls that took 2^b to 2^(b+1)-1 ns; the last bucket takes all that were longer */
	uint64_t latency[KVS_LATENCY_BUCKETS];
};

struct kvs_vmm_stats {
	size_t granule_bytes, block_bytes;
	size_t virtual_bytes;  /* reserved address space */
	size_t mapped_bytes;   /* mapped address space: a shared block is counted once for each mapping */
	size_t physical_bytes; /* device memory held in mapped blocks, each counted once */
	size_t free_bytes;     /* device memory held in the free list */
	size_t shared_bytes;   /* mapped_bytes of borrowers */
	size_t unshared_bytes; /* device memory of the same regions if nothing were shared: mapped_bytes - sink_bytes */
	size_t saved_bytes;    /* unshared_bytes - physical_bytes */
	size_t peak_bytes;     /* maximum of physical_bytes + free_bytes so far */
	size_t sink_bytes;     /* mapped_bytes of sinks */
	struct kvs_call_stats calls[KVS_CALL_COUNT];
};

void kvs_vmm_get_stats(kvs_vmm *vmm, struct kvs_vmm_stats *out);
const char *kvs_vmm_call_name(enum kvs_vmm_call call); /* "cuMemCreate" */

/* Checks every invariant of the manager; if false, kvs_error() names the broken one. For tests and debug builds. */
bool kvs_vmm_is_valid(kvs_vmm *vmm);

#ifdef __cplusplus
}
#endif
#endif
