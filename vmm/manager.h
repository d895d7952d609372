/*
 * vmm/manager.h: what the files of the memory manager share. Private to vmm/: names that start with vmm_ never leave this
 * folder, names that start with kvs_ are kvshare.h's.
 *
 * The state of a slot is three counts of blocks, each true of the driver at every moment: `held` >= `mapped` >=
 * `granted`. Growing raises them one driver call at a time, trimming lowers them in reverse, and a call that fails leaves
 * them where the driver is; so undoing is trimming, and what could not be undone is tried again later instead of being
 * forgotten. What the caller may use (`used_bytes`) is a fourth number, which the driver never hears of.
 *
 * Two things keep threads apart. The *lock* guards every field and is held for moments: no call of the driver is made with
 * it. The *turn* belongs to one thread at a time, for as long as it changes what is mapped. Everything here is written
 * with the lock, and all but `used_bytes`, the queues and the list of pending retirements with the turn as well; so
 * whoever has the turn may let go of the lock for a driver call and find the rest as it was. Resizing within what is
 * mapped, and asking, take the lock alone. Nobody waits for the device with either of them.
 *
 * Functions are called with the lock held. Those under "turn" need the turn too, and let go of the lock while they call
 * the driver.
 */
#ifndef VMM_MANAGER_H
#define VMM_MANAGER_H

#include "kvshare.h"

#include <pthread.h>

/* One cuMemCreate handle. `slot` and `index` say who holds it; slot NULL: it lies in the free list. */
struct vmm_block {
	CUmemGenericAllocationHandle handle;
	struct vmm_slot *slot;
	size_t index;
	struct vmm_block *next; /* in the free list */
};

enum vmm_queue_kind {
	VMM_QUEUE_SURPLUS, /* slots that shrank and may have blocks to give back */
	VMM_QUEUE_PREMAP,  /* slots that the worker should map ahead */
	VMM_QUEUE_COUNT
};

struct vmm_slot {
	kvs_region *region;
	size_t used_bytes;     /* of an owner; a borrower's is its owner's */
	size_t claimed_bytes;  /* what a resize under way is about to use: nobody may trim that; else 0 */
	size_t claimed_from;   /* `held_blocks` when that resize began */
	size_t ready_bytes;    /* may be used with no call of the driver: accessible here and in every borrower */
	size_t ahead_bytes;    /* a slot that uses more than this wants its next block mapped ahead; SIZE_MAX: never */
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
	bool of_region; /* kvs_region_reserve() made it, and its region's end is its own */
};

struct kvs_region {
	kvs_vmm *vmm;
	kvs_space *space;
	kvs_region *prev, *next; /* in space->regions, by rising address */
	kvs_region *owner;       /* NULL: it owns what it maps */
	kvs_cache *cache;        /* the cache that it belongs to, which alone resizes and frees it; or NULL */
	kvs_region *borrowers, *next_borrower;
	CUdeviceptr base;
	size_t stride;      /* bytes of a slot */
	size_t slot_blocks; /* blocks of a slot */
	unsigned slot_count;
	bool sink;    /* one block, slots[0]'s, is mapped all over it */
	bool damaged; /* the driver failed an undo: fewer blocks may be mapped than are used */
	struct vmm_slot *slots;
	struct vmm_block **blocks; /* [slot][block], filled to held_blocks */
};

/* Events behind the work that attached streams had when something was given up. */
struct vmm_retirement {
	struct vmm_retirement *next;
	uint64_t epoch;
	unsigned
		waiters; /* threads that wait for its events, without the lock; it is not reused before they are through */
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
	size_t free_count, held_count; /* blocks */
	size_t mapped_count;           /* mappings, and of these */
	size_t borrowed_count, sunk_count;
	size_t peak_count; /* of free_count + held_count */
	size_t virtual_bytes;

	CUstream *streams;
	size_t stream_count;
	struct vmm_retirement *pending, **pending_tail; /* oldest first */
	struct vmm_retirement *idle_retirements;
	uint64_t epoch, completed_epoch; /* last one marked, last one that all work is past */

	struct vmm_queue queues[VMM_QUEUE_COUNT];
	bool premap, stop;
	pthread_t worker;
	pthread_cond_t premap_wanted, premap_idle;

	struct kvs_call_stats calls[KVS_CALL_COUNT];
};

/* ---- turn.c ---- */

void vmm_turn_take(kvs_vmm *vmm); /* lets go of the lock until the turn is free */
void vmm_turn_give(kvs_vmm *vmm);
void vmm_begin(kvs_vmm *vmm); /* takes the lock and the turn */
void vmm_end(kvs_vmm *vmm);   /* gives both back */

/* ---- stats.c ---- */

/* Count the calls of managers on this table, for one manager more or less. Without the lock. What kvs_cu_observe() answers. */
int vmm_watch(kvs_cu *cu);
void vmm_unwatch(kvs_cu *cu);

/* The driver calls that are counted and timed; turn. */

CUresult vmm_call_reserve(kvs_vmm *vmm, CUdeviceptr *base, size_t bytes);
CUresult vmm_call_create(kvs_vmm *vmm, CUmemGenericAllocationHandle *handle);
CUresult vmm_call_map(kvs_vmm *vmm, CUdeviceptr address, CUmemGenericAllocationHandle handle);
CUresult vmm_call_set_access(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, CUmemAccess_flags access);
/* These three give something back, and are tried twice: see stats.c. */
CUresult vmm_call_unmap(kvs_vmm *vmm, CUdeviceptr address, size_t bytes);
CUresult vmm_call_release(kvs_vmm *vmm, CUmemGenericAllocationHandle handle);
CUresult vmm_call_address_free(kvs_vmm *vmm, CUdeviceptr base, size_t bytes);

/* ---- block.c; turn ---- */

/* A block for block `index` of `slot`: from the free list or new, within the budget. -ENOMEM, -EIO. */
int vmm_block_take(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Back to the free list, or to the driver where that is full. The block must have retired. */
void vmm_block_release(kvs_vmm *vmm, struct vmm_block *block);
void vmm_block_drain(kvs_vmm *vmm); /* empties the free list */

/* ---- slot.c: a slot with its borrowers' slots of the same index ---- */

size_t vmm_slot_needed(const struct vmm_slot *slot); /* blocks that are used, or claimed by a resize under way */
size_t vmm_slot_wanted(const struct vmm_slot *slot); /* the same, and one mapped ahead where premapping wants it */
size_t vmm_slot_index(const struct vmm_slot *slot);
struct vmm_block **vmm_slot_blocks(const struct vmm_slot *slot);

/* Note that `blocks` blocks can be used with no call of the driver. */
void vmm_slot_set_ready(struct vmm_slot *slot, size_t blocks);

/* turn */
typedef int vmm_block_source(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Map blocks up to `target` in an owner's slot and each borrower's. All or nothing. */
int vmm_slot_grow(struct vmm_slot *slot, size_t target, vmm_block_source *source);
/* Give up all blocks from `keep` on, in borrowers and owner, which must have retired. Returns how many went back. */
size_t vmm_slot_trim(struct vmm_slot *slot, size_t keep);
/* Map what the owner holds up to `target` into this one slot, which borrows or owns. On failure some may be mapped. */
int vmm_slot_map(struct vmm_slot *slot, size_t target);
/* Unmap this one slot down to `keep` blocks, in one call. On failure nothing has changed. */
int vmm_slot_unmap(struct vmm_slot *slot, size_t keep);
/* Count no more than `keep` blocks as mapped, whatever the driver holds. */
void vmm_slot_forget(struct vmm_slot *slot, size_t keep);

void vmm_queue_push(kvs_vmm *vmm, enum vmm_queue_kind kind, struct vmm_slot *slot);
struct vmm_slot *vmm_queue_pop(kvs_vmm *vmm, enum vmm_queue_kind kind); /* NULL: empty */
void vmm_queue_remove_region(kvs_vmm *vmm, const kvs_region *region);   /* from every queue */

/* ---- resize.c ---- */

/* Slot `slot` of several regions, to be resized together: region i to `tokens` tokens of token_bytes[i % 2] bytes each. */
struct vmm_resize {
	kvs_region *const *regions;
	size_t count;
	unsigned slot;
	size_t tokens, token_bytes[2];
	size_t *tokens_now;    /* set to `tokens` in the moment in which it holds for all regions; or NULL */
	bool borrowers_follow; /* a borrower among the regions is passed over; else it is refused with -EINVAL */
};

/* All of it or, on error, nothing. Without the lock. The slot must have been checked. -EINVAL, -ENOMEM, -EIO. */
int vmm_resize_all(kvs_vmm *vmm, const struct vmm_resize *resize);

/* ---- space.c; turn ---- */

/* Reserve `bytes`, a multiple of the granule, for `space`, which the caller has allocated. */
int vmm_space_reserve(kvs_vmm *vmm, size_t bytes, kvs_space *space);
/* Whether a region of `bytes` bytes can lie at `offset`: -EINVAL. */
int vmm_space_check(const kvs_space *space, size_t offset, size_t bytes);
void vmm_space_link(kvs_space *space, kvs_region *region); /* puts it among the space's regions */
void vmm_space_unlink(kvs_region *region);
void vmm_space_release(kvs_space *space); /* gives the addresses back; `space` itself stays */

/* ---- region.c; turn ---- */

/* A region with nothing mapped, in no space yet. -ENOMEM. */
int vmm_region_alloc(kvs_vmm *vmm, size_t stride, unsigned slots, kvs_region **out);
/* Whether anything of the region is mapped. */
bool vmm_region_is_mapped(const kvs_region *region);
/* Strike a borrower from its owner's list; `owner` still names it. */
void vmm_region_unlink_borrower(kvs_region *region);
/* Unmap it, give its blocks back and forget it: all that freeing does but wait and free `region` itself. */
void vmm_region_remove(kvs_region *region);
void vmm_region_dealloc(kvs_region *region); /* the struct, and its space's where that is its own */

/* ---- share.c; turn ---- */

/* Map a region that has nothing mapped onto `owner`, whatever kvs_region_share() refuses. All or nothing. */
int vmm_share_begin(kvs_region *borrower, kvs_region *owner);

/* ---- retire.c; turn ---- */

/* Start an epoch: an event on each attached stream. On failure nothing was marked. */
int vmm_retire_mark(kvs_vmm *vmm);
void vmm_retire_poll(kvs_vmm *vmm); /* learns what has completed; never blocks */
/*
 * Wait until all work that attached streams have now, and every epoch so far, is over. Lets go of turn and lock meanwhile:
 * what was checked before must be checked again. An error says that the context is lost: then all work is over too.
 */
int vmm_retire_wait(kvs_vmm *vmm);
void vmm_retire_free(kvs_vmm *vmm);

/* Give up the surplus that has retired. Returns how many blocks went back. */
size_t vmm_trim_retired(kvs_vmm *vmm);
/* vmm_block_take(), but gives back what has retired and what was mapped ahead where memory is short. */
int vmm_block_acquire(struct vmm_slot *slot, size_t index, struct vmm_block **out);

/* ---- premap.c ---- */

int vmm_premap_start(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_stop(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_request(struct vmm_slot *slot); /* asks for a block ahead, if the slot wants one */
void vmm_premap_wait(kvs_vmm *vmm);             /* until the worker's queue is empty; without the turn */

#endif
