/*
 * vmm/share.c: a borrower maps its owner's blocks, read-only, at its own addresses.
 *
 * The borrower keeps its addresses, so its own blocks have to be unmapped before the owner's can be mapped. They are
 * held until that has succeeded, and mapped again if it fails.
 */
#include "manager.h"

#include <errno.h>

/* Refuses regions of caches, which share as their plan says, and sinks. */
static int check_kind(const kvs_region *region)
{
	if (region->cache)
		return kvs_fail(-EINVAL, "a region of a cache is shared by the cache's plan, not on its own");
	return region->sink ? kvs_fail(-EINVAL, "a sink neither borrows nor is borrowed from") : 0;
}

static int check_share(const kvs_region *borrower, const kvs_region *owner)
{
	int err = check_kind(borrower);

	if (!err)
		err = check_kind(owner);
	if (err)
		return err;
	if (borrower == owner)
		return kvs_fail(-EINVAL, "a region cannot borrow from itself");
	if (borrower->vmm != owner->vmm)
		return kvs_fail(-EINVAL, "borrower and owner belong to different managers");
	if (borrower->stride != owner->stride || borrower->slot_count != owner->slot_count)
		return kvs_fail(-EINVAL,
			"a borrower of %u slots of %zu bytes and an owner of %u slots of %zu: both must be equal",
			borrower->slot_count, borrower->stride, owner->slot_count, owner->stride);
	if (owner->owner)
		return kvs_fail(-EINVAL, "the owner itself borrows: share with its owner instead");
	if (borrower->owner)
		return kvs_fail(-EINVAL, "the borrower borrows already: unshare it first");
	if (borrower->borrowers)
		return kvs_fail(-EINVAL, "the borrower has borrowers of its own");
	return 0;
}

static int unmap_all(kvs_region *region)
{
	int err = 0;

	/* First, so that no other thread resizes into memory that is being unmapped. */
	for (unsigned i = 0; i < region->slot_count; i++)
		vmm_slot_set_ready(&region->slots[i], 0);
	for (unsigned i = 0; i < region->slot_count && !err; i++)
		err = vmm_slot_unmap(&region->slots[i], 0);
	return err;
}

/* Maps all that the owner has mapped. */
static int map_as_owner(kvs_region *borrower)
{
	int err = 0;

	for (unsigned i = 0; i < borrower->slot_count && !err; i++)
		err = vmm_slot_map(&borrower->slots[i], borrower->owner->slots[i].mapped_blocks);
	return err;
}

static void release_own(kvs_region *region)
{
	for (unsigned i = 0; i < region->slot_count; i++) {
		struct vmm_slot *slot = &region->slots[i];

		slot->used_bytes = 0;
		while (slot->held_blocks)
			vmm_block_release(region->vmm, vmm_slot_blocks(slot)[--slot->held_blocks]);
	}
}

/* Undoes a share that failed: the region maps its own blocks again, as far as the driver allows. */
static void map_own_again(kvs_region *region)
{
	bool clear = !unmap_all(region);

	region->owner = NULL;
	for (unsigned i = 0; i < region->slot_count && clear; i++) {
		struct vmm_slot *slot = &region->slots[i];

		clear = !vmm_slot_map(slot, slot->held_blocks);
		if (clear)
			vmm_slot_set_ready(slot, slot->held_blocks);
	}
	region->damaged |= !clear;
}

int vmm_share_begin(kvs_region *borrower, kvs_region *owner)
{
	int err = unmap_all(borrower);

	if (err) {
		map_own_again(borrower);
		return err;
	}
	borrower->owner = owner;
	err = map_as_owner(borrower);
	if (err) {
		map_own_again(borrower);
		return err;
	}
	vmm_queue_remove_region(borrower->vmm, borrower);
	release_own(borrower);
	borrower->next_borrower = owner->borrowers;
	owner->borrowers = borrower;
	return 0;
}

int kvs_region_share(kvs_region *borrower, kvs_region *owner)
{
	kvs_vmm *vmm = borrower->vmm;
	int err;

	vmm_begin(vmm);
	err = check_share(borrower, owner);
	if (!err && vmm_region_is_mapped(borrower)) {
		err = vmm_retire_wait(vmm);
		if (!err)
			err = check_share(borrower, owner); /* again: other threads had the turn */
	}
	if (!err)
		err = vmm_share_begin(borrower, owner);
	vmm_end(vmm);
	return err;
}

static int check_unshare(const kvs_region *borrower)
{
	return borrower->owner ? check_kind(borrower) : kvs_fail(-EINVAL, "the region does not borrow");
}

static int share_end(kvs_region *borrower)
{
	int err = unmap_all(borrower);

	if (err) {
		borrower->damaged |= map_as_owner(borrower) != 0;
		return err;
	}
	vmm_region_unlink_borrower(borrower);
	borrower->owner = NULL;
	return 0;
}

int kvs_region_unshare(kvs_region *borrower)
{
	kvs_vmm *vmm = borrower->vmm;
	int err;

	vmm_begin(vmm);
	err = check_unshare(borrower);
	if (!err && vmm_region_is_mapped(borrower)) {
		err = vmm_retire_wait(vmm);
		if (!err)
			err = check_unshare(borrower);
	}
	if (!err)
		err = share_end(borrower);
	vmm_end(vmm);
	return err;
}

kvs_region *kvs_region_owner(const kvs_region *region)
{
	kvs_region *owner;

	pthread_mutex_lock(&region->vmm->lock);
	owner = region->owner;
	pthread_mutex_unlock(&region->vmm->lock);
	return owner;
}
