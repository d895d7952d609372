/*
 * vmm/manager.h: what the files of the memory manager share. Private to vmm/: names that start with vmm_ never leave this
 * folder, names that start with kvs_ are kvshare.h's.
 *
 * The state of a slot is three counts of blocks, each true of the driver at every moment: `held` >= `mapped` >=
 * `granted`. Growing raises them one driver call at a time, trimming lowers them in reverse, and a call that fails leaves
 * them where the driver is; so undoing is trimming, and what could not be undone is tried again later instead of being
 * forgotten. What the caller may use (`used_bytes`) is a fourth number, which the driver never hears of.
 *
 * Every function here is called with the manager's lock held unless it says otherwise.
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
	VMM_QUEUE_PREMAP,  /* slots that the worker shall map ahead */
	VMM_QUEUE_COUNT
};

struct vmm_slot {
	kvs_region *region;
	size_t used_bytes;     /* of an owner; a borrower's is its owner's */
	size_t held_blocks;    /* physical blocks that this slot owns; 0 in a borrower */
	size_t mapped_blocks;  /* mapped from the slot's start */
	size_t granted_blocks; /* of these, with access set */
	uint64_t retire_epoch; /* blocks past `used_bytes` may be in use until this epoch has completed */
	struct vmm_slot *next[VMM_QUEUE_COUNT];
	bool queued[VMM_QUEUE_COUNT];
};

struct vmm_queue {
	struct vmm_slot *head, *tail;
};

struct kvs_region {
	kvs_vmm *vmm;
	kvs_region *prev, *next; /* in vmm->regions */
	kvs_region *owner;       /* NULL: it owns what it maps */
	kvs_region *borrowers, *next_borrower;
	CUdeviceptr base;
	size_t stride;      /* bytes of a slot */
	size_t slot_blocks; /* blocks of a slot */
	unsigned slot_count;
	bool damaged; /* the driver failed an undo: fewer blocks may be mapped than are used */
	struct vmm_slot *slots;
	struct vmm_block **blocks; /* [slot][block], filled to held_blocks */
};

/* Events behind the work that attached streams had when something was given up. */
struct vmm_retirement {
	struct vmm_retirement *next;
	uint64_t epoch;
	size_t capacity, count;
	CUevent events[];
};

struct kvs_vmm {
	kvs_cu *cu;
	pthread_mutex_t lock;
	CUmemAllocationProp prop;
	size_t granule_bytes, block_bytes;
	size_t budget_bytes;    /* SIZE_MAX: no limit */
	size_t free_list_bytes; /* SIZE_MAX: no limit */
	kvs_region *regions;

	struct vmm_block *free_blocks;
	size_t free_count, held_count, mapped_count, borrowed_count; /* blocks; mapped_count includes borrowed_count */
	size_t peak_count;                                           /* of free_count + held_count */
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

/* ---- stats.c: the driver calls that are counted and timed ---- */

CUresult vmm_call_reserve(kvs_vmm *vmm, CUdeviceptr *base, size_t bytes);
CUresult vmm_call_create(kvs_vmm *vmm, CUmemGenericAllocationHandle *handle);
CUresult vmm_call_map(kvs_vmm *vmm, CUdeviceptr address, CUmemGenericAllocationHandle handle);
CUresult vmm_call_set_access(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, CUmemAccess_flags access);
/* These three give something back, and are tried twice: see stats.c. */
CUresult vmm_call_unmap(kvs_vmm *vmm, CUdeviceptr address, size_t bytes);
CUresult vmm_call_release(kvs_vmm *vmm, CUmemGenericAllocationHandle handle);
CUresult vmm_call_address_free(kvs_vmm *vmm, CUdeviceptr base, size_t bytes);

/* ---- block.c ---- */

/* A block for block `index` of `slot`: from the free list or new, within the budget. -ENOMEM, -EIO. */
int vmm_block_take(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* The same, but first gives back what has retired and what was mapped ahead where memory is short. */
int vmm_block_acquire(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Back to the free list, or to the driver where that is full. The block must have retired. */
void vmm_block_release(kvs_vmm *vmm, struct vmm_block *block);
void vmm_block_drain(kvs_vmm *vmm); /* empties the free list */

/* ---- slot.c: a slot with its borrowers' slots of the same index ---- */

size_t vmm_slot_needed(const struct vmm_slot *slot); /* blocks that used_bytes takes */
size_t vmm_slot_wanted(const struct vmm_slot *slot); /* the same, and one mapped ahead where premapping wants it */
size_t vmm_slot_index(const struct vmm_slot *slot);
struct vmm_block **vmm_slot_blocks(const struct vmm_slot *slot);

typedef int vmm_block_source(struct vmm_slot *slot, size_t index, struct vmm_block **out);
/* Map blocks up to `target` in an owner's slot and each borrower's. All or nothing. */
int vmm_slot_grow(struct vmm_slot *slot, size_t target, vmm_block_source *source);
/* Give up all blocks from `keep` on, in borrowers and owner. Returns how many blocks went back. */
size_t vmm_slot_trim(struct vmm_slot *slot, size_t keep);
/* Map what the owner holds up to `target` into this one slot, which borrows or owns. On failure some may be mapped. */
int vmm_slot_map(struct vmm_slot *slot, size_t target);
/* Unmap this one slot down to `keep` blocks, in one call. On failure nothing has changed. */
int vmm_slot_unmap(struct vmm_slot *slot, size_t keep);

void vmm_queue_push(kvs_vmm *vmm, enum vmm_queue_kind kind, struct vmm_slot *slot);
struct vmm_slot *vmm_queue_pop(kvs_vmm *vmm, enum vmm_queue_kind kind); /* NULL: empty */
void vmm_queue_remove_region(kvs_vmm *vmm, const kvs_region *region);   /* from every queue */

/* ---- region.c ---- */

/* Checks what kvs_region_resize() refuses with -EINVAL. */
int vmm_region_check_resize(const kvs_region *region, unsigned slot, size_t bytes);
/* Whether a resize takes blocks out of use: then vmm_retire_mark() must have succeeded before it. */
bool vmm_region_gives_up(const kvs_region *region, unsigned slot, size_t bytes);
/* The resize itself, after both. Making a slot smaller cannot fail. */
int vmm_region_set_bytes(kvs_region *region, unsigned slot, size_t bytes);

/* Whether anything of the region is mapped. */
bool vmm_region_is_mapped(const kvs_region *region);
/* Strike a borrower from its owner's list; `owner` still names it. */
void vmm_region_unlink_borrower(kvs_region *region);

/* ---- retire.c ---- */

/* Start an epoch: an event on each attached stream. On failure nothing was marked. */
int vmm_retire_mark(kvs_vmm *vmm);
void vmm_retire_poll(kvs_vmm *vmm); /* learns what has completed; never blocks */
/* Wait until all work that attached streams have now, and every epoch, is over. An error says that the context is lost: then it is over too. */
int vmm_retire_wait(kvs_vmm *vmm);
void vmm_retire_free(kvs_vmm *vmm);

/* Give up the surplus that has retired. Returns how many blocks went back. */
size_t vmm_trim_retired(kvs_vmm *vmm);
/* Give up blocks that were mapped ahead, of every slot. Returns how many went back. */
size_t vmm_trim_premapped(kvs_vmm *vmm);

/* ---- premap.c ---- */

int vmm_premap_start(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_stop(kvs_vmm *vmm);             /* without the lock */
void vmm_premap_request(struct vmm_slot *slot); /* asks for a block ahead, if the slot wants one */
void vmm_premap_wait(kvs_vmm *vmm);             /* until the worker has nothing to do; lets go of the lock meanwhile */

#endif
