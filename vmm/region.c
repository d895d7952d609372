/*
 * vmm/region.c: one reserved address range, cut into slots of equal stride, each backed from its start as it grows.
 *
 * Growing maps at once; shrinking only lowers a number, and what lies past it is trimmed when its last use has retired, or
 * used again if the slot grows first.
 */
#include "manager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static int region_alloc(kvs_vmm *vmm, size_t stride, unsigned slots, kvs_region **out)
{
	size_t slot_blocks = stride / vmm->block_bytes;
	kvs_region *region = calloc(1, sizeof *region);

	if (!region)
		goto out_fail;
	region->slots = calloc(slots, sizeof *region->slots);
	if (!region->slots)
		goto out_free_region;
	region->blocks = calloc(slots * slot_blocks, sizeof *region->blocks);
	if (!region->blocks)
		goto out_free_slots;
	region->vmm = vmm;
	region->stride = stride;
	region->slot_blocks = slot_blocks;
	region->slot_count = slots;
	for (unsigned i = 0; i < slots; i++)
		region->slots[i].region = region;
	*out = region;
	return 0;

out_free_slots:
	free(region->slots);
out_free_region:
	free(region);
out_fail:
	return kvs_fail(-ENOMEM, "no host memory for the %zu blocks of a region", slots * slot_blocks);
}

static void region_dealloc(kvs_region *region)
{
	free(region->blocks);
	free(region->slots);
	free(region);
}

static void region_link(kvs_region *region)
{
	kvs_vmm *vmm = region->vmm;

	region->next = vmm->regions;
	if (vmm->regions)
		vmm->regions->prev = region;
	vmm->regions = region;
	vmm->virtual_bytes += region->slot_count * region->stride;
}

static void region_unlink(kvs_region *region)
{
	kvs_vmm *vmm = region->vmm;

	if (region->prev)
		region->prev->next = region->next;
	else
		vmm->regions = region->next;
	if (region->next)
		region->next->prev = region->prev;
	vmm->virtual_bytes -= region->slot_count * region->stride;
}

int kvs_region_reserve(kvs_vmm *vmm, size_t slot_bytes, unsigned slots, kvs_region **out)
{
	size_t block_bytes = vmm->block_bytes, stride, bytes;
	kvs_region *region = NULL;
	CUresult result;
	int err;

	if (!slot_bytes || !slots)
		return kvs_fail(
			-EINVAL, "a region of %u slots of %zu bytes: both must be more than 0", slots, slot_bytes);
	if (__builtin_add_overflow(slot_bytes, block_bytes - 1, &stride) ||
		__builtin_mul_overflow(stride -= stride % block_bytes, slots, &bytes))
		return kvs_fail(
			-EINVAL, "a region of %u slots of %zu bytes: more than an address can say", slots, slot_bytes);
	err = region_alloc(vmm, stride, slots, &region);
	if (err)
		return err;
	pthread_mutex_lock(&vmm->lock);
	result = vmm_call_reserve(vmm, &region->base, bytes);
	if (!result)
		region_link(region);
	pthread_mutex_unlock(&vmm->lock);
	if (result) {
		region_dealloc(region);
		return kvs_cu_fail(
			vmm->cu, result, "reserving %zu bytes of addresses (%u slots of %zu)", bytes, slots, stride);
	}
	*out = region;
	return 0;
}

void vmm_region_unlink_borrower(kvs_region *region)
{
	kvs_region **link = &region->owner->borrowers;

	while (*link != region)
		link = &(*link)->next_borrower;
	*link = region->next_borrower;
}

/* What the driver refuses to unmap, even asked twice, is left to it: the handles are released, so that nothing else holds it. */
static void slot_tear_down(struct vmm_slot *slot)
{
	kvs_vmm *vmm = slot->region->vmm;

	if (vmm_slot_unmap(slot, 0)) {
		vmm->mapped_count -= slot->mapped_blocks;
		vmm->borrowed_count -= slot->region->owner ? slot->mapped_blocks : 0;
		slot->mapped_blocks = slot->granted_blocks = 0;
	}
	while (slot->held_blocks)
		vmm_block_release(vmm, vmm_slot_blocks(slot)[--slot->held_blocks]);
}

bool vmm_region_is_mapped(const kvs_region *region)
{
	for (unsigned i = 0; i < region->slot_count; i++)
		if (region->slots[i].mapped_blocks)
			return true;
	return false;
}

void kvs_region_free(kvs_region *region)
{
	kvs_vmm *vmm;

	if (!region)
		return;
	assert(!region->borrowers);
	vmm = region->vmm;
	pthread_mutex_lock(&vmm->lock);
	if (vmm_region_is_mapped(region))
		vmm_retire_wait(vmm); /* an error says that nothing runs any more */
	vmm_queue_remove_region(vmm, region);
	for (unsigned i = 0; i < region->slot_count; i++)
		slot_tear_down(&region->slots[i]);
	if (region->owner)
		vmm_region_unlink_borrower(region);
	vmm_call_address_free(vmm, region->base, region->slot_count * region->stride);
	region_unlink(region);
	pthread_mutex_unlock(&vmm->lock);
	region_dealloc(region);
}

CUdeviceptr kvs_region_address(const kvs_region *region, unsigned slot)
{
	return region->base + slot * region->stride;
}

size_t kvs_region_slot_stride(const kvs_region *region)
{
	return region->stride;
}

unsigned kvs_region_slots(const kvs_region *region)
{
	return region->slot_count;
}

size_t kvs_region_slot_bytes(const kvs_region *region, unsigned slot)
{
	size_t bytes;

	pthread_mutex_lock(&region->vmm->lock);
	bytes = (region->owner ? region->owner : region)->slots[slot].used_bytes;
	pthread_mutex_unlock(&region->vmm->lock);
	return bytes;
}

int vmm_region_check_resize(const kvs_region *region, unsigned slot, size_t bytes)
{
	if (region->owner)
		return kvs_fail(-EINVAL, "a borrower cannot be resized: it is as large as its owner");
	if (slot >= region->slot_count)
		return kvs_fail(-EINVAL, "slot %u of a region of %u", slot, region->slot_count);
	if (bytes > region->stride)
		return kvs_fail(-EINVAL, "%zu bytes in a slot of %zu", bytes, region->stride);
	return 0;
}

bool vmm_region_gives_up(const kvs_region *region, unsigned slot, size_t bytes)
{
	const struct vmm_slot *now = &region->slots[slot];
	struct vmm_slot then = {.region = now->region, .used_bytes = bytes};

	return vmm_slot_needed(&then) < vmm_slot_needed(now);
}

int vmm_region_set_bytes(kvs_region *region, unsigned slot, size_t bytes)
{
	struct vmm_slot *target = &region->slots[slot];
	size_t before = target->used_bytes;
	int err = 0;

	if (vmm_region_gives_up(region, slot, bytes))
		target->retire_epoch = region->vmm->epoch;
	target->used_bytes = bytes;
	if (bytes > before)
		err = vmm_slot_grow(target, vmm_slot_needed(target), vmm_block_acquire);
	if (err)
		target->used_bytes = before;
	if (target->held_blocks > vmm_slot_wanted(target))
		vmm_queue_push(region->vmm, VMM_QUEUE_SURPLUS, target);
	vmm_premap_request(target);
	return err;
}

int kvs_region_resize(kvs_region *region, unsigned slot, size_t bytes)
{
	kvs_vmm *vmm = region->vmm;
	int err;

	pthread_mutex_lock(&vmm->lock);
	err = vmm_region_check_resize(region, slot, bytes);
	if (err)
		goto out_unlock;
	vmm_retire_poll(vmm);
	vmm_trim_retired(vmm);
	if (vmm_region_gives_up(region, slot, bytes))
		err = vmm_retire_mark(vmm);
	if (!err)
		err = vmm_region_set_bytes(region, slot, bytes);
out_unlock:
	pthread_mutex_unlock(&vmm->lock);
	return err;
}
