/*
 * vmm/manager.h: the data and functions of the memory manager, for the files of vmm/. Private to vmm/: names that start
 * with vmm_ never leave this folder, names that start with kvs_ are kvshare.h's.
 *
 * The state of a slot is three counts of blocks, each true of the driver at every moment: `held` >= `mapped` >=
 * `granted`. Growing raises them one driver call at a time, trimming lowers them in reverse, and a call that fails
 * leaves them at the driver's own state. So undoing is trimming, and an undo that fails is tried again later instead of
 * being forgotten. The bytes that the caller may use (`used_bytes`) are a fourth number, which the driver never hears
 * of.
 *
 * Two things keep threads apart. The *lock* guards every field and is held only briefly: the driver is never called
 * with it held. The *turn* belongs to one thread at a time, for as long as it changes mappings. Every field is written
 * with the lock held, and all but `used_bytes`, the queues and the list of pending retirements with the turn as well.
 * So the holder of the turn may release the lock for a driver call and find the other fields unchanged. Resizes within
 * the mapped memory, and queries, take the lock alone. Nobody waits for the device with either of them.
 *
 * Functions are called with the lock held. Those under "turn" need the turn too, and release the lock while they call
 * the driver.
 */
#ifndef VMM_MANAGER_H
#define VMM_MANAGER_H

#include "kvshare.h"

#include <pthread.h>

/* One cuMemCreate handle. `slot` and `index` name its holder; slot NULL: it is in the free list. */
struct vmm_block {
	CUmemGenericAllocationHandle handle;
	struct vmm_slot *slot;
	size_t index;
	struct vmm_block *next; /* in the free list */
};

enum vmm_queue_kind {
	VMM_QUEUE_SURPLUS, /* slots that shrank and may have blocks to release */
	VMM_QUEUE_PREMAP,  /* slots that the worker should map ahead */
	VMM_QUEUE_COUNT
};

struct vmm_slot {
	kvs_region *region;
	size_t used_bytes;     /* of an owner; a borrower's is its owner's */
	size_t claimed_bytes;  /* bytes that a resize under way is about to use, and nobody may trim; else 0 */
	size_t claimed_from;   /* `held_blocks` when that resize began */
	size_t ready_bytes;    /* usable without a call of the driver: accessible here and in every borrower */
	size_t ahead_bytes;    /* past this many bytes in use, the next block is mapped ahead; SIZE_MAX: never */
	size_t held_blocks;    /* physical blocks that this slot owns; 0 in a borrower, 1 in a sink */
	size_t mapped_blocks;  /* mapped from the slot's start */
	size_t granted_blocks; /* of these, with access set */
	uint64_t retire_epoch; /* blocks past `used_bytes` may be in use until this epoch has completed */
	struct vmm_slot *next[VMM_QUEUE_COUNT];
	bool queued[VMM_QUEUE_COUNT];
};

struct vmm_queue {
	struct vmm_slot *head, *tail;
};

struct kvs_space {
	kvs_vmm *vmm;
	kvs_space *prev, *next; /* in vmm->spaces */
	CUdeviceptr base;
	size_t bytes;
	kvs_region *regions;
	bool adopted;   /* its addresses are somebody else's, who frees them */
	bool of_region; /* kvs_region_reserve() made it, and it is freed with its region */
};

struct kvs_region {
	kvs_vmm *vmm;
	kvs_space *space;
	kvs_region *prev, *next; /* in space->regions, by rising address */
	kvs_region *owner;       /* NULL: it owns its blocks */
	kvs_cache *cache;        /* the cache that it belongs to, and that alone resizes and frees it; or NULL */
	kvs_region *borrowers, *next_borrower;
	CUdeviceptr base;
	size_t stride;      /* bytes of a slot */
	size_t slot_blocks; /* blocks of a slot */
	unsigned slot_count;
	bool sink;    /* the one block of slots[0] is mapped all over it */
	bool damaged; /* an undo failed in the driver: fewer blocks may be mapped than are used */
	struct vmm_slot *slots;
	struct vmm_block **blocks; /* [slot][block], filled to held_blocks */
};

/* The events that complete once the work is over that attached streams had when memory was given up. */
struct vmm_retirement {
	struct vmm_retirement *next;
	uint64_t epoch;
	unsigned waiters; /* threads that wait for its events, without the lock; it is not reused before they return */
	size_t capacity, count;
	CUevent events[];
};

struct kvs_cache {
	kvs_vmm *vmm;
	kvs_cache *prev, *next; /* in vmm->caches */
	struct kvs_cache_shape shape;
	kvs_region **regions; /* [layer][KVS_K, KVS_V] */
	size_t *tokens;       /* [slot] */
};

struct kvs_vmm {
	kvs_cu *cu;
	pthread_mutex_t lock;
	bool turn_taken;
	unsigned turn_waiters;
	pthread_cond_t turn_free;
	CUmemAllocationProp prop;
	size_t granule_bytes, block_bytes;
	size_t budget_bytes;    /* SIZE_MAX: no limit */
	size_t free_list_bytes; /* SIZE_MAX: no limit */
	kvs_space *spaces;
	kvs_cache *caches;

	struct vmm_block *free_blocks;
	size_t free_count, held_count;     /* blocks */
	size_t mapped_count;               /* mappings */
	size_t borrowed_count, sunk_count; /* of these, in borrowers and in sinks */
	size_t peak_count;                 /* of free_count + held_count */
	size_t virtual_bytes;

	CUstream *streams;
	size_t stream_count;
	struct vmm_retirement *pending, **pending_tail; /* oldest first */
	struct vmm_retirement *idle_retirements;
	uint64_t epoch, completed_epoch; /* the last one marked, the last one whose work is over */

	struct vmm_queue queues[VMM_QUEUE_COUNT];
	bool premap, stop;
	bool write_borrowed; /* borrowers are writable */
	pthread_t worker;
	pthread_cond_t premap_wanted, premap_idle;

	struct kvs_call_stats calls[KVS_CALL_COUNT];
};

/* ---- turn.c ---- */

void vmm_turn_take(kvs_vmm *vmm); /* releases the lock while the turn is taken */
void vmm_turn_give(kvs_vmm *vmm);
void vmm_begin(kvs_vmm *vmm); /* takes the lock and the turn */
void vmm_end(kvs_vmm *vmm);   /* releases both */

/* ---- stats.c ---- */

/*
 * Count the calls of managers on this table, for one manager more or less. Without the lock. Errors as
 * kvs_cu_observe().
 */
int vmm_watch(kvs_cu *cu);
void vmm_unwatch(kvs_cu *cu);

/* The driver calls that are counted and timed; turn. */

CUresult vmm_call_reserve(kvs_vmm *vmm, CUdeviceptr *base, size_t bytes);
CUresult vmm_call_create(kvs_vmm *vmm, CUmemGenericAllocationHandle *handle);
CUresult vmm_call_map(kvs_vmm *vmm, CUdeviceptr address, CUmemGenericAllocationHandle handle);
CUresult vmm_call_set_access(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, CUmemAccess_flags access);
/* These three release something, and are tried twice: see stats.c. */
CUresult vmm_call_unmap(kvs_vmm *vmm, CUdeviceptr address, size_t bytes);
CUresult vmm_call_release(kvs_vmm *vmm, CUmemGenericAllocationHandle handle);
CUresult vmm_call_address_free(kvs_vmm *vmm, CUdeviceptr base, size_t bytes);

/* ---- block.c; turn ---- */

/* A block to be block `index` of `slot`: from the free list or new, within the budget. -ENOMEM, -EIO. */
int vmm_block_take(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Back to the free list, or to the driver if that is full. The last use of the block must be over. */
void vmm_block_release(kvs_vmm *vmm, struct vmm_block *block);
void vmm_block_drain(kvs_vmm *vmm); /* empties the free list */

/* ---- slot.c: a slot with its borrowers' slots of the same index ---- */

size_t vmm_slot_needed(const struct vmm_slot *slot); /* blocks in use, or claimed by a resize under way */
size_t vmm_slot_wanted(const struct vmm_slot *slot); /* these, and one ahead if premapping wants it */
size_t vmm_slot_index(const struct vmm_slot *slot);
struct vmm_block **vmm_slot_blocks(const struct vmm_slot *slot);

/* Note that `blocks` blocks can be used without a call of the driver. */
void vmm_slot_set_ready(struct vmm_slot *slot, size_t blocks);

/* turn */
typedef int vmm_block_source(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Map blocks up to `target` in an owner's slot and in each borrower's. All or nothing. */
int vmm_slot_grow(struct vmm_slot *slot, size_t target, vmm_block_source *source);
/*
 * Release all blocks from `keep` on, in borrowers and owner; their last use must be over. Returns the number released.
 */
size_t vmm_slot_trim(struct vmm_slot *slot, size_t keep);
/*
 * Map the owner's blocks up to `target` into this one slot, a borrower's or the owner's. On failure some may be mapped.
 */
int vmm_slot_map(struct vmm_slot *slot, size_t target);
/* Unmap this one slot down to `keep` blocks, in one call. Unchanged on failure. */
int vmm_slot_unmap(struct vmm_slot *slot, size_t keep);
/* Count at most `keep` blocks as mapped, whatever the driver has mapped. */
void vmm_slot_forget(struct vmm_slot *slot, size_t keep);

void vmm_queue_push(kvs_vmm *vmm, enum vmm_queue_kind kind, struct vmm_slot *slot);
struct vmm_slot *vmm_queue_pop(kvs_vmm *vmm, enum vmm_queue_kind kind); /* NULL: empty */
void vmm_queue_remove_region(kvs_vmm *vmm, const kvs_region *region);   /* from every queue */

/* ---- resize.c ---- */

/*
 * Slot `slot` of several regions, to be resized together: region i to `tokens` tokens of token_bytes[i % 2] bytes each.
 */
struct vmm_resize {
	kvs_region *const *regions;
	size_t count;
	unsigned slot;
	size_t tokens, token_bytes[2];
	size_t *tokens_now;    /* set to `tokens` at the moment when all regions have that size; or NULL */
	bool borrowers_follow; /* skip borrowers among the regions; else they are refused with -EINVAL */
};

/* All or nothing. Without the lock. The slot must have been checked. -EINVAL, -ENOMEM, -EIO. */
int vmm_resize_all(kvs_vmm *vmm, const struct vmm_resize *resize);

/* ---- space.c; turn ---- */

/* Reserve `bytes`, a multiple of the granule, for `space`, which the caller has allocated. */
int vmm_space_reserve(kvs_vmm *vmm, size_t bytes, kvs_space *space);
/* Whether a region of `bytes` bytes can lie at `offset`: -EINVAL. */
int vmm_space_check(const kvs_space *space, size_t offset, size_t bytes);
void vmm_space_link(kvs_space *space, kvs_region *region); /* puts it among the space's regions */
void vmm_space_unlink(kvs_region *region);
void vmm_space_release(kvs_space *space); /* frees the addresses; `space` itself stays */

/* ---- region.c; turn ---- */

/* A region with nothing mapped, in no space yet. -ENOMEM. */
int vmm_region_alloc(kvs_vmm *vmm, size_t stride, unsigned slots, kvs_region **out);
/* Whether anything of the region is mapped. */
bool vmm_region_is_mapped(const kvs_region *region);
/* Take a borrower out of its owner's list; its `owner` is unchanged. */
void vmm_region_unlink_borrower(kvs_region *region);
/* Unmap it, release its blocks and forget it: all of kvs_region_free() except waiting and freeing `region` itself. */
void vmm_region_remove(kvs_region *region);
void vmm_region_dealloc(kvs_region *region); /* frees the struct, and its space's if that is of_region */

/* ---- share.c; turn ---- */

/*
 * kvs_region_share() without its checks and without waiting: the last use of `borrower` must be over. All or nothing.
 */
int vmm_share_begin(kvs_region *borrower, kvs_region *owner);

/* ---- retire.c; turn ---- */

/* Start an epoch: an event on each attached stream. Unchanged on failure. */
int vmm_retire_mark(kvs_vmm *vmm);
void vmm_retire_poll(kvs_vmm *vmm); /* learns which epochs have completed; never waits */
/*
 * Wait until the present work of attached streams, and every epoch so far, is over. Releases turn and lock meanwhile,
 * so checks that were made before must be made again. An error means that the context is lost: then all work is over
 * too.
 */
int vmm_retire_wait(kvs_vmm *vmm);
void vmm_retire_free(kvs_vmm *vmm);

/* Release the surplus whose last use is over. Returns the number of blocks released. */
size_t vmm_trim_retired(kvs_vmm *vmm);
/* As vmm_block_take(), but when memory is short it first releases retired surplus and blocks that were mapped ahead. */
int vmm_block_acquire(struct vmm_slot *slot, size_t index, struct vmm_block **out);

/* ---- premap.c ---- */

int vmm_premap_start(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_stop(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_request(struct vmm_slot *slot); /* asks the worker for a block ahead, if the slot wants one */
void vmm_premap_wait(kvs_vmm *vmm);             /* until the worker's queue is empty; without the turn */

#endif
