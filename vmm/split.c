/*
 * vmm/split.c: a region of one slot becomes two, in place and with its content.
 *
 * The driver is not called: each block is a mapping of its own, so only its holder changes. Work in flight is not
 * disturbed, and both parts inherit the epoch until which blocks past their size may be in use.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int check_split(const kvs_region *region, size_t at)
{
	if (region->cache || region->sink || region->owner || region->borrowers || region->slot_count != 1)
		return kvs_fail(-EINVAL,
			"only a region of one slot can be split, and none that shares, is a sink or is a "
			"cache's");
	if (region->space->of_region)
		return kvs_fail(-EINVAL, "a region that has its space to itself cannot be split: kvs_region_create() "
					 "makes those that can");
	if (!at || at >= region->stride || at % region->vmm->block_bytes)
		return kvs_fail(-EINVAL, "a region of %zu bytes split at %zu: not at a block of %zu bytes within it",
			region->stride, at, region->vmm->block_bytes);
	return 0;
}

static size_t past(size_t count, size_t at)
{
	return count > at ? count - at : 0;
}

/* Moves the part of `from` past its first `bytes` bytes, which are `blocks` blocks, to `to`. */
static void move_tail(struct vmm_slot *from, struct vmm_slot *to, size_t bytes, size_t blocks)
{
	to->used_bytes = past(from->used_bytes, bytes);
	to->held_blocks = past(from->held_blocks, blocks);
	to->mapped_blocks = past(from->mapped_blocks, blocks);
	to->granted_blocks = past(from->granted_blocks, blocks);
	to->retire_epoch = from->retire_epoch;
	vmm_slot_set_ready(to, past(from->ready_bytes, bytes) / to->region->vmm->block_bytes);
	for (size_t i = 0; i < to->held_blocks; i++) {
		struct vmm_block *block = vmm_slot_blocks(from)[blocks + i];

		block->slot = to;
		block->index = i;
		vmm_slot_blocks(to)[i] = block;
	}
	from->used_bytes -= to->used_bytes;
	from->held_blocks -= to->held_blocks;
	from->mapped_blocks -= to->mapped_blocks;
	from->granted_blocks -= to->granted_blocks;
}

static void queue_surplus(struct vmm_slot *slot)
{
	if (slot->held_blocks > vmm_slot_wanted(slot))
		vmm_queue_push(slot->region->vmm, VMM_QUEUE_SURPLUS, slot);
}

static void split(kvs_region *region, size_t at, kvs_region *rest)
{
	size_t blocks = at / region->vmm->block_bytes;
	struct vmm_slot *slot = &region->slots[0];
	size_t ready_blocks = slot->ready_bytes / region->vmm->block_bytes;

	vmm_queue_remove_region(region->vmm, region);
	move_tail(slot, &rest->slots[0], at, blocks);
	region->stride = at;
	region->slot_blocks = blocks;
	vmm_slot_set_ready(slot, ready_blocks < blocks ? ready_blocks : blocks);
	rest->base = region->base + at;
	vmm_space_link(region->space, rest);
	queue_surplus(slot);
	queue_surplus(&rest->slots[0]);
}

int kvs_region_split(kvs_region *region, size_t at, kvs_region **rest)
{
	kvs_vmm *vmm = region->vmm;
	kvs_region *new_region = NULL;
	int err;

	vmm_begin(vmm);
	err = check_split(region, at);
	if (!err)
		err = vmm_region_alloc(vmm, region->stride - at, 1, &new_region);
	if (!err) {
		new_region->damaged = region->damaged;
		split(region, at, new_region);
		*rest = new_region;
	}
	vmm_end(vmm);
	return err;
}
