/*
 * vmm/resize.c: the one way in which slots grow and shrink, a slot of one region as well as a cache's slot in all of
 * its regions.
 *
 * First every slot that must grow grows, which can fail and is then undone; then the last use of memory that is given
 * up is marked, which can fail too; then the sizes change, which cannot. A resize within the mapped memory is the last
 * step alone, and needs only the lock.
 */
#include "manager.h"

#include <errno.h>

static struct vmm_slot *slot_of(const struct vmm_resize *resize, size_t i)
{
	return &resize->regions[i]->slots[resize->slot];
}

static size_t bytes_of(const struct vmm_resize *resize, size_t i)
{
	return resize->tokens * resize->token_bytes[i % 2];
}

static bool follows(const struct vmm_resize *resize, size_t i)
{
	return resize->regions[i]->owner != NULL;
}

/* Nothing to map, nothing to give up: each slot grows into blocks that are ready, or keeps its size. */
static bool is_within(const struct vmm_resize *resize)
{
	for (size_t i = 0; i < resize->count; i++) {
		const struct vmm_slot *slot = slot_of(resize, i);
		size_t bytes = bytes_of(resize, i);

		if (follows(resize, i) && !resize->borrowers_follow)
			return false;
		if (!follows(resize, i) && (bytes < slot->used_bytes || bytes > slot->ready_bytes))
			return false;
	}
	return true;
}

static size_t blocks_in(const kvs_vmm *vmm, size_t bytes)
{
	return bytes / vmm->block_bytes + (bytes % vmm->block_bytes != 0);
}

static bool gives_up(const kvs_vmm *vmm, const struct vmm_resize *resize)
{
	for (size_t i = 0; i < resize->count; i++)
		if (!follows(resize, i) &&
			blocks_in(vmm, bytes_of(resize, i)) < blocks_in(vmm, slot_of(resize, i)->used_bytes))
			return true;
	return false;
}

static void set_sizes(const kvs_vmm *vmm, const struct vmm_resize *resize)
{
	for (size_t i = 0; i < resize->count; i++) {
		struct vmm_slot *slot = slot_of(resize, i);
		size_t bytes = bytes_of(resize, i);

		if (follows(resize, i))
			continue;
		if (bytes < slot->used_bytes && blocks_in(vmm, bytes) < blocks_in(vmm, slot->used_bytes))
			slot->retire_epoch = vmm->epoch;
		slot->used_bytes = bytes;
		if (bytes > slot->ahead_bytes)
			vmm_premap_request(slot);
	}
	if (resize->tokens_now)
		*resize->tokens_now = resize->tokens;
}

/*
 * Until the sizes are set, claims keep the blocks of slots that have grown from being trimmed as surplus when a later
 * slot is short of memory.
 */
static int grow_all(const kvs_vmm *vmm, const struct vmm_resize *resize)
{
	int err = 0;

	for (size_t i = 0; i < resize->count; i++) {
		slot_of(resize, i)->claimed_bytes = follows(resize, i) ? 0 : bytes_of(resize, i);
		slot_of(resize, i)->claimed_from = slot_of(resize, i)->held_blocks;
	}
	for (size_t i = 0; i < resize->count && !err; i++) {
		size_t blocks = blocks_in(vmm, bytes_of(resize, i));

		if (!follows(resize, i) && slot_of(resize, i)->ready_bytes < bytes_of(resize, i))
			err = vmm_slot_grow(slot_of(resize, i), blocks, vmm_block_acquire);
	}
	return err;
}

/*
 * Ends the claims, and after a failure releases the blocks that slots had grown by. Blocks that are left over then, or
 * given up, are trimmed when their last use is over.
 */
static void end_claims(kvs_vmm *vmm, const struct vmm_resize *resize, bool failed)
{
	for (size_t i = 0; i < resize->count; i++)
		slot_of(resize, i)->claimed_bytes = 0;
	for (size_t i = 0; i < resize->count; i++) {
		struct vmm_slot *slot = slot_of(resize, i);
		size_t needed = vmm_slot_needed(slot);

		if (failed && slot->held_blocks > slot->claimed_from)
			vmm_slot_trim(slot, needed > slot->claimed_from ? needed : slot->claimed_from);
		if (slot->held_blocks > vmm_slot_wanted(slot))
			vmm_queue_push(vmm, VMM_QUEUE_SURPLUS, slot);
	}
}

static int resize_mapping(kvs_vmm *vmm, const struct vmm_resize *resize)
{
	int err;

	vmm_retire_poll(vmm);
	vmm_trim_retired(vmm);
	err = grow_all(vmm, resize);
	if (!err && gives_up(vmm, resize))
		err = vmm_retire_mark(vmm);
	if (!err)
		set_sizes(vmm, resize);
	end_claims(vmm, resize, err != 0);
	return err;
}

static int check(const struct vmm_resize *resize)
{
	for (size_t i = 0; i < resize->count; i++) {
		if (follows(resize, i) && !resize->borrowers_follow)
			return kvs_fail(-EINVAL, "a borrower cannot be resized: it follows its owner");
		if (bytes_of(resize, i) > resize->regions[i]->stride)
			return kvs_fail(
				-EINVAL, "%zu bytes in a slot of %zu", bytes_of(resize, i), resize->regions[i]->stride);
	}
	return 0;
}

int vmm_resize_all(kvs_vmm *vmm, const struct vmm_resize *resize)
{
	int err;

	pthread_mutex_lock(&vmm->lock);
	if (is_within(resize)) {
		set_sizes(vmm, resize);
		pthread_mutex_unlock(&vmm->lock);
		return 0;
	}
	vmm_turn_take(vmm);
	err = check(resize);
	if (!err)
		err = resize_mapping(vmm, resize);
	vmm_end(vmm);
	return err;
}
