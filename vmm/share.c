/*
 * vmm/share.c: a borrower maps its owner's blocks, read-only, at its own addresses.
 *
 * The borrower keeps its address range, so its own blocks have to be unmapped before the owner's can be mapped. They are
 * held until that has succeeded, and mapped again if it fails.
 */
#include "manager.h"

#include <errno.h>

static int check_share(const kvs_region *borrower, const kvs_region *owner)
{
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

	for (unsigned i = 0; i < region->slot_count && !err; i++)
		err = vmm_slot_unmap(&region->slots[i], 0);
	return err;
}

/* Everything that the owner has mapped. */
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

		while (slot->held_blocks)
			vmm_block_release(region->vmm, vmm_slot_blocks(slot)[--slot->held_blocks]);
		slot->used_bytes = 0;
	}
}

/* Undo a share that failed: as far as the driver lets us, the region maps its own blocks again. */
static void map_own_again(kvs_region *region)
{
	bool clear = !unmap_all(region);

	region->owner = NULL;
	for (unsigned i = 0; i < region->slot_count && clear; i++)
		clear = !vmm_slot_map(&region->slots[i], region->slots[i].held_blocks);
	region->damaged |= !clear;
}

static int begin_share(kvs_region *borrower, kvs_region *owner)
{
	int err = vmm_region_is_mapped(borrower) ? vmm_retire_wait(borrower->vmm) : 0;

	if (err)
		return err;
	err = unmap_all(borrower);
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
	int err;

	pthread_mutex_lock(&borrower->vmm->lock);
	err = check_share(borrower, owner);
	if (!err)
		err = begin_share(borrower, owner);
	pthread_mutex_unlock(&borrower->vmm->lock);
	return err;
}

static int end_share(kvs_region *borrower)
{
	int err = vmm_region_is_mapped(borrower) ? vmm_retire_wait(borrower->vmm) : 0;

	if (err)
		return err;
	err = unmap_all(borrower);
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
	int err;

	pthread_mutex_lock(&borrower->vmm->lock);
	err = borrower->owner ? end_share(borrower) : kvs_fail(-EINVAL, "the region does not borrow");
	pthread_mutex_unlock(&borrower->vmm->lock);
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
