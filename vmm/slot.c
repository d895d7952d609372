/*
 * vmm/slot.c: one slot of an owner, grown and trimmed together with the same slot of each borrower.
 *
 * Mapping takes one driver call for each block, since a handle can only be mapped whole. Granting access is the
 * expensive part: 21 to 27 us on an H200 for each mapping in its range, whatever the size of a block. It takes one call
 * for each new run of blocks, and so does unmapping.
 */
#include "manager.h"

#include <errno.h>

size_t vmm_slot_index(const struct vmm_slot *slot)
{
	return (size_t)(slot - slot->region->slots);
}

struct vmm_block **vmm_slot_blocks(const struct vmm_slot *slot)
{
	return slot->region->blocks + vmm_slot_index(slot) * slot->region->slot_blocks;
}

static struct vmm_slot *owner_slot(struct vmm_slot *slot)
{
	return slot->region->owner ? &slot->region->owner->slots[vmm_slot_index(slot)] : slot;
}

static CUdeviceptr block_address(const struct vmm_slot *slot, size_t index)
{
	const kvs_region *region = slot->region;

	return region->base + vmm_slot_index(slot) * region->stride + index * region->vmm->block_bytes;
}

static size_t kept_bytes(const struct vmm_slot *slot)
{
	return slot->used_bytes > slot->claimed_bytes ? slot->used_bytes : slot->claimed_bytes;
}

size_t vmm_slot_needed(const struct vmm_slot *slot)
{
	size_t block_bytes = slot->region->vmm->block_bytes, bytes = kept_bytes(slot);

	return bytes / block_bytes + (bytes % block_bytes != 0);
}

size_t vmm_slot_wanted(const struct vmm_slot *slot)
{
	const kvs_vmm *vmm = slot->region->vmm;
	size_t needed = vmm_slot_needed(slot);
	size_t room = needed * vmm->block_bytes - kept_bytes(slot);

	if (!vmm->premap || !needed || needed == slot->region->slot_blocks)
		return needed;
	return room < vmm->block_bytes / 2 ? needed + 1 : needed;
}

void vmm_slot_set_ready(struct vmm_slot *slot, size_t blocks)
{
	const kvs_vmm *vmm = slot->region->vmm;

	slot->ready_bytes = blocks * vmm->block_bytes;
	/* The number of bytes past which vmm_slot_wanted() counts another block, as long as there is room for one. */
	if (vmm->premap && blocks && blocks < slot->region->slot_blocks)
		slot->ahead_bytes = slot->ready_bytes - vmm->block_bytes / 2;
	else
		slot->ahead_bytes = SIZE_MAX;
}

static int grant(struct vmm_slot *slot, size_t target)
{
	kvs_region *region = slot->region;
	size_t bytes = (target - slot->granted_blocks) * region->vmm->block_bytes;
	bool read_only = region->owner && !region->vmm->write_borrowed;
	CUresult result = vmm_call_set_access(region->vmm, block_address(slot, slot->granted_blocks), bytes,
		read_only ? CU_MEM_ACCESS_FLAGS_PROT_READ : CU_MEM_ACCESS_FLAGS_PROT_READWRITE);

	if (result)
		return kvs_cu_fail(region->vmm->cu, result, "access to %zu bytes at %#llx", bytes,
			(unsigned long long)block_address(slot, slot->granted_blocks));
	slot->granted_blocks = target;
	return 0;
}

int vmm_slot_map(struct vmm_slot *slot, size_t target)
{
	kvs_vmm *vmm = slot->region->vmm;
	struct vmm_block **blocks = vmm_slot_blocks(owner_slot(slot));

	while (slot->mapped_blocks < target) {
		CUdeviceptr address = block_address(slot, slot->mapped_blocks);
		size_t index = slot->region->sink ? 0 : slot->mapped_blocks;
		CUresult result = vmm_call_map(vmm, address, blocks[index]->handle);

		if (result)
			return kvs_cu_fail(vmm->cu, result, "mapping a block of %zu bytes at %#llx", vmm->block_bytes,
				(unsigned long long)address);
		slot->mapped_blocks++;
		vmm->mapped_count++;
		vmm->borrowed_count += slot->region->owner != NULL;
		vmm->sunk_count += slot->region->sink;
	}
	return slot->granted_blocks < target ? grant(slot, target) : 0;
}

void vmm_slot_forget(struct vmm_slot *slot, size_t keep)
{
	kvs_vmm *vmm = slot->region->vmm;
	size_t count = slot->mapped_blocks - keep;

	slot->mapped_blocks = keep;
	if (slot->granted_blocks > keep)
		slot->granted_blocks = keep;
	vmm->mapped_count -= count;
	vmm->borrowed_count -= slot->region->owner ? count : 0;
	vmm->sunk_count -= slot->region->sink ? count : 0;
}

int vmm_slot_unmap(struct vmm_slot *slot, size_t keep)
{
	kvs_vmm *vmm = slot->region->vmm;
	size_t count = slot->mapped_blocks > keep ? slot->mapped_blocks - keep : 0;
	CUresult result;

	if (!count)
		return 0;
	result = vmm_call_unmap(vmm, block_address(slot, keep), count * vmm->block_bytes);
	if (result)
		return kvs_cu_fail(vmm->cu, result, "unmapping %zu bytes at %#llx", count * vmm->block_bytes,
			(unsigned long long)block_address(slot, keep));
	vmm_slot_forget(slot, keep);
	return 0;
}

size_t vmm_slot_trim(struct vmm_slot *slot, size_t keep)
{
	kvs_vmm *vmm = slot->region->vmm;
	size_t before = slot->held_blocks, index = vmm_slot_index(slot);

	/* First, so that no other thread resizes into the blocks while the driver unmaps them. */
	if (slot->ready_bytes > keep * vmm->block_bytes)
		vmm_slot_set_ready(slot, keep);
	/* A block that could not be unmapped everywhere stays held, and is trimmed another time. */
	for (kvs_region *borrower = slot->region->borrowers; borrower; borrower = borrower->next_borrower) {
		struct vmm_slot *mirror = &borrower->slots[index];

		vmm_slot_unmap(mirror, keep);
		keep = mirror->mapped_blocks > keep ? mirror->mapped_blocks : keep;
	}
	vmm_slot_unmap(slot, keep);
	keep = slot->mapped_blocks > keep ? slot->mapped_blocks : keep;
	while (slot->held_blocks > keep)
		vmm_block_release(vmm, vmm_slot_blocks(slot)[--slot->held_blocks]);
	return before - slot->held_blocks;
}

int vmm_slot_grow(struct vmm_slot *slot, size_t target, vmm_block_source *source)
{
	size_t before = slot->held_blocks, index = vmm_slot_index(slot);
	int err = 0;

	while (!err && slot->held_blocks < target) {
		err = source(slot, slot->held_blocks, &vmm_slot_blocks(slot)[slot->held_blocks]);
		slot->held_blocks += !err;
	}
	if (!err)
		err = vmm_slot_map(slot, target);
	for (kvs_region *borrower = slot->region->borrowers; borrower && !err; borrower = borrower->next_borrower)
		err = vmm_slot_map(&borrower->slots[index], target);
	if (err)
		vmm_slot_trim(slot, before);
	else if (slot->ready_bytes < target * slot->region->vmm->block_bytes)
		vmm_slot_set_ready(slot, target);
	return err;
}

void vmm_queue_push(kvs_vmm *vmm, enum vmm_queue_kind kind, struct vmm_slot *slot)
{
	struct vmm_queue *queue = &vmm->queues[kind];

	if (slot->queued[kind])
		return;
	slot->queued[kind] = true;
	slot->next[kind] = NULL;
	if (queue->tail)
		queue->tail->next[kind] = slot;
	else
		queue->head = slot;
	queue->tail = slot;
}

struct vmm_slot *vmm_queue_pop(kvs_vmm *vmm, enum vmm_queue_kind kind)
{
	struct vmm_queue *queue = &vmm->queues[kind];
	struct vmm_slot *slot = queue->head;

	if (!slot)
		return NULL;
	queue->head = slot->next[kind];
	if (!queue->head)
		queue->tail = NULL;
	slot->queued[kind] = false;
	return slot;
}

void vmm_queue_remove_region(kvs_vmm *vmm, const kvs_region *region)
{
	for (int kind = 0; kind < VMM_QUEUE_COUNT; kind++) {
		struct vmm_slot *slot = vmm->queues[kind].head;

		vmm->queues[kind] = (struct vmm_queue){NULL, NULL};
		while (slot) {
			struct vmm_slot *next = slot->next[kind];

			slot->queued[kind] = false;
			if (slot->region != region)
				vmm_queue_push(vmm, kind, slot);
			slot = next;
		}
	}
	/* The worker, which finds nothing to do now, does not tell those that wait for that. */
	if (!vmm->queues[VMM_QUEUE_PREMAP].head)
		pthread_cond_broadcast(&vmm->premap_idle);
}
