/*
 * vmm/region.c: a part of a space, cut into slots of equal stride, each mapped from its start as it grows; and sinks,
 * regions in which every page is the same block.
 *
 * A region is created with nothing mapped, a sink with all that it will ever have. Freeing waits for the last use.
 */
#include "manager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int vmm_region_alloc(kvs_vmm *vmm, size_t stride, unsigned slots, kvs_region **out)
{
	size_t slot_blocks = stride / vmm->block_bytes;
	kvs_region *region = calloc(1, sizeof(*region));

	if (!region)
		goto out_fail;
	region->slots = calloc(slots, sizeof(*region->slots));
	if (!region->slots)
		goto out_free_region;
	region->blocks = calloc(slots * slot_blocks, sizeof(*region->blocks));
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

void vmm_region_dealloc(kvs_region *region)
{
	if (region->space && region->space->of_region)
		free(region->space);
	free(region->blocks);
	free(region->slots);
	free(region);
}

/* The stride of slots of at least `slot_bytes`, and the size of all of them. */
static int measure(const kvs_vmm *vmm, size_t slot_bytes, unsigned slots, size_t *stride, size_t *bytes)
{
	if (!slot_bytes || !slots)
		return kvs_fail(
			-EINVAL, "a region of %u slots of %zu bytes: both must be more than 0", slots, slot_bytes);
	if (__builtin_add_overflow(slot_bytes, vmm->block_bytes - 1, stride) ||
		__builtin_mul_overflow(*stride -= *stride % vmm->block_bytes, slots, bytes))
		return kvs_fail(
			-EINVAL, "a region of %u slots of %zu bytes: more than an address can say", slots, slot_bytes);
	return 0;
}

static void place(kvs_region *region, kvs_space *space, size_t offset)
{
	region->base = space->base + offset;
	vmm_space_link(space, region);
}

int kvs_region_reserve(kvs_vmm *vmm, size_t slot_bytes, unsigned slots, kvs_region **out)
{
	kvs_region *region = NULL;
	kvs_space *space;
	size_t stride, bytes;
	int err = measure(vmm, slot_bytes, slots, &stride, &bytes);

	if (err)
		return err;
	space = calloc(1, sizeof(*space));
	err = space ? vmm_region_alloc(vmm, stride, slots, &region) : kvs_fail(-ENOMEM, "no host memory for a space");
	if (err)
		goto out_free;
	vmm_begin(vmm);
	err = vmm_space_reserve(vmm, bytes, space);
	if (!err) {
		space->of_region = true;
		place(region, space, 0);
	}
	vmm_end(vmm);
	if (err)
		goto out_dealloc;
	*out = region;
	return 0;

out_dealloc:
	vmm_region_dealloc(region);
out_free:
	free(space);
	return err;
}

int kvs_region_create(kvs_space *space, size_t offset, size_t slot_bytes, unsigned slots, kvs_region **out)
{
	kvs_vmm *vmm = space->vmm;
	kvs_region *region = NULL;
	size_t stride, bytes;
	int err = measure(vmm, slot_bytes, slots, &stride, &bytes);

	if (!err)
		err = vmm_region_alloc(vmm, stride, slots, &region);
	if (err)
		return err;
	vmm_begin(vmm);
	err = vmm_space_check(space, offset, bytes);
	if (!err)
		place(region, space, offset);
	vmm_end(vmm);
	if (err)
		vmm_region_dealloc(region);
	else
		*out = region;
	return err;
}

void vmm_region_unlink_borrower(kvs_region *region)
{
	kvs_region **link = &region->owner->borrowers;

	while (*link != region)
		link = &(*link)->next_borrower;
	*link = region->next_borrower;
}

/*
 * A range that the driver refuses to unmap, even when asked twice, is left mapped: the handles are released, so that
 * nothing else holds the memory.
 */
static void slot_tear_down(struct vmm_slot *slot)
{
	kvs_vmm *vmm = slot->region->vmm;

	if (vmm_slot_unmap(slot, 0))
		vmm_slot_forget(slot, 0);
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

void vmm_region_remove(kvs_region *region)
{
	vmm_queue_remove_region(region->vmm, region);
	for (unsigned i = 0; i < region->slot_count; i++)
		slot_tear_down(&region->slots[i]);
	if (region->owner)
		vmm_region_unlink_borrower(region);
	vmm_space_unlink(region);
	if (region->space->of_region)
		vmm_space_release(region->space);
}

void kvs_region_free(kvs_region *region)
{
	kvs_vmm *vmm;

	if (!region)
		return;
	assert(!region->cache);
	vmm = region->vmm;
	vmm_begin(vmm);
	if (vmm_region_is_mapped(region))
		vmm_retire_wait(vmm); /* an error means that nothing runs any more */
	assert(!region->borrowers);
	vmm_region_remove(region);
	vmm_end(vmm);
	vmm_region_dealloc(region);
}

/* Maps one block everywhere. After a failure, vmm_region_remove() undoes the part that was done. */
static int fill_sink(kvs_region *region)
{
	struct vmm_slot *slot = &region->slots[0];
	int err = vmm_block_acquire(slot, 0, vmm_slot_blocks(slot));

	if (err)
		return err;
	slot->held_blocks = 1;
	err = vmm_slot_map(slot, region->slot_blocks);
	if (!err)
		slot->used_bytes = region->stride;
	return err;
}

int kvs_region_create_sink(kvs_space *space, size_t offset, size_t bytes, kvs_region **out)
{
	kvs_region *region;
	int err = kvs_region_create(space, offset, bytes, 1, &region);

	if (err)
		return err;
	vmm_begin(space->vmm);
	region->sink = true;
	err = fill_sink(region);
	if (err)
		vmm_region_remove(region);
	vmm_end(space->vmm);
	if (err)
		vmm_region_dealloc(region);
	else
		*out = region;
	return err;
}

CUdeviceptr kvs_region_address(const kvs_region *region, unsigned slot)
{
	return slot < region->slot_count ? region->base + slot * region->stride : 0;
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

	if (slot >= region->slot_count)
		return 0;
	pthread_mutex_lock(&region->vmm->lock);
	bytes = (region->owner ? region->owner : region)->slots[slot].used_bytes;
	pthread_mutex_unlock(&region->vmm->lock);
	return bytes;
}

int kvs_region_resize(kvs_region *region, unsigned slot, size_t bytes)
{
	const struct vmm_resize resize = {
		.regions = &region, .count = 1, .slot = slot, .tokens = bytes, .token_bytes = {1, 1}};

	if (region->cache)
		return kvs_fail(-EINVAL, "a region of a cache is resized by kvs_cache_resize(), with all the others");
	if (region->sink)
		return kvs_fail(-EINVAL, "a sink cannot be resized");
	if (slot >= region->slot_count)
		return kvs_fail(-EINVAL, "slot %u of a region of %u", slot, region->slot_count);
	return vmm_resize_all(region->vmm, &resize);
}
