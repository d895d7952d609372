/*
 * vmm/valid.c: checks every invariant of the manager, and counts everything again that it keeps counters of.
 *
 * It asks the driver nothing, and takes the turn, since the counts of a slot agree only between operations. Every
 * message names one object and the rule that it breaks.
 */
#include "manager.h"

#include <errno.h>

struct tally {
	size_t held, mapped, borrowed, sunk, virtual_bytes;
};

static bool broken(const char *what, const struct vmm_slot *slot)
{
	kvs_fail(-EINVAL,
		"invalid: %s (slot %zu of the region at %#llx: %zu bytes used; %zu, %zu, %zu blocks held, mapped, "
		"granted)",
		what, vmm_slot_index(slot), (unsigned long long)slot->region->base, slot->used_bytes, slot->held_blocks,
		slot->mapped_blocks, slot->granted_blocks);
	return false;
}

static bool slot_counts_are_valid(const struct vmm_slot *slot)
{
	const kvs_region *region = slot->region;

	if (slot->granted_blocks > slot->mapped_blocks)
		return broken("access is granted past what is mapped", slot);
	if (slot->mapped_blocks > region->slot_blocks || slot->held_blocks > region->slot_blocks)
		return broken("there are more blocks than the slot has room for", slot);
	if (slot->used_bytes > region->stride)
		return broken("more is used than the slot has room for", slot);
	if (slot->retire_epoch > region->vmm->epoch)
		return broken("its epoch has not begun", slot);
	if (slot->claimed_bytes)
		return broken("it is claimed, but nobody resizes it", slot);
	return true;
}

static bool owner_slot_is_valid(const struct vmm_slot *slot)
{
	const kvs_region *region = slot->region;

	if (slot->mapped_blocks > slot->held_blocks)
		return broken("more is mapped than held", slot);
	if (!region->damaged &&
		(slot->granted_blocks < vmm_slot_needed(slot) || slot->granted_blocks < slot->mapped_blocks))
		return broken("bytes that are used or mapped cannot be accessed", slot);
	if (slot->ready_bytes > slot->granted_blocks * region->vmm->block_bytes ||
		(!region->damaged && slot->ready_bytes < slot->used_bytes))
		return broken("the bytes that are ready are not those that can be accessed", slot);
	if (slot->held_blocks > vmm_slot_wanted(slot) && !slot->queued[VMM_QUEUE_SURPLUS])
		return broken("it has a surplus that nobody will trim", slot);
	for (size_t i = 0; i < slot->held_blocks; i++) {
		const struct vmm_block *block = vmm_slot_blocks(slot)[i];

		if (!block || block->slot != slot || block->index != i)
			return broken("a block does not name this slot as its holder", slot);
	}
	return true;
}

static bool borrower_slot_is_valid(const struct vmm_slot *slot)
{
	const kvs_region *region = slot->region;
	const struct vmm_slot *owner = &region->owner->slots[vmm_slot_index(slot)];

	if (slot->held_blocks || slot->used_bytes)
		return broken("a borrower has memory of its own", slot);
	if (slot->mapped_blocks > owner->held_blocks)
		return broken("a borrower maps more than its owner holds", slot);
	if (!region->damaged && slot->granted_blocks * region->vmm->block_bytes < owner->ready_bytes)
		return broken("a borrower maps less than its owner may use", slot);
	if (slot->ready_bytes)
		return broken("a borrower is ready for a size of its own", slot);
	if (slot->queued[VMM_QUEUE_SURPLUS] || slot->queued[VMM_QUEUE_PREMAP])
		return broken("a borrower waits for work on its own", slot);
	return true;
}

static bool sink_slot_is_valid(const struct vmm_slot *slot)
{
	const kvs_region *region = slot->region;
	const struct vmm_block *block = vmm_slot_blocks(slot)[0];

	if (region->owner || region->borrowers || region->cache || region->slot_count != 1)
		return broken("a sink shares, or is one of several slots", slot);
	if (slot->held_blocks != 1 || block->slot != slot || block->index)
		return broken("a sink does not hold the one block", slot);
	if (slot->granted_blocks != region->slot_blocks || slot->used_bytes != region->stride)
		return broken("a sink is not mapped whole", slot);
	return true;
}

static bool borrowers_are_valid(const kvs_region *region)
{
	if (region->borrowers && region->owner)
		return broken("a borrower has borrowers", region->slots);
	for (const kvs_region *borrower = region->borrowers; borrower; borrower = borrower->next_borrower)
		if (borrower->owner != region || borrower->stride != region->stride ||
			borrower->slot_count != region->slot_count)
			return broken("its list of borrowers has a region that does not borrow from it", region->slots);
	if (region->owner) {
		const kvs_region *other = region->owner->borrowers;

		while (other && other != region)
			other = other->next_borrower;
		if (!other)
			return broken("it is not in its owner's list of borrowers", region->slots);
	}
	return true;
}

static bool region_is_valid(const kvs_region *region, struct tally *tally)
{
	if (!borrowers_are_valid(region))
		return false;
	for (unsigned i = 0; i < region->slot_count; i++) {
		const struct vmm_slot *slot = &region->slots[i];

		if (slot->region != region || !slot_counts_are_valid(slot))
			return false;
		if (region->owner      ? !borrower_slot_is_valid(slot)
			: region->sink ? !sink_slot_is_valid(slot)
				       : !owner_slot_is_valid(slot))
			return false;
		tally->held += slot->held_blocks;
		tally->mapped += slot->mapped_blocks;
		tally->borrowed += region->owner ? slot->mapped_blocks : 0;
		tally->sunk += region->sink ? slot->mapped_blocks : 0;
	}
	return true;
}

static bool space_is_valid(const kvs_space *space, struct tally *tally)
{
	CUdeviceptr end = space->base; /* of the previous region */

	for (const kvs_region *region = space->regions; region; region = region->next) {
		CUdeviceptr region_end = region->base + region->slot_count * region->stride;

		if (region->space != space || region->base < end || region_end > space->base + space->bytes ||
			(region->base - space->base) % space->vmm->granule_bytes)
			return broken("it does not lie in its space, after the previous region", region->slots);
		if (!region_is_valid(region, tally))
			return false;
		end = region_end;
	}
	tally->virtual_bytes += space->bytes;
	return true;
}

/*
 * A borrower has an owner of the same cache and kind, in a lower layer; an owner is exactly as large as the cache's
 * tokens.
 */
static bool cache_region_is_valid(const kvs_cache *cache, size_t i)
{
	const kvs_region *region = cache->regions[i];
	size_t token_bytes = i % 2 == KVS_K ? cache->shape.k_token_bytes : cache->shape.v_token_bytes;
	bool owner_found = !region->owner;

	if (region->cache != cache)
		return broken("it does not name its cache", region->slots);
	for (size_t other = i % 2; other < i && !owner_found; other += 2)
		owner_found = cache->regions[other] == region->owner;
	if (!owner_found)
		return broken("its owner is not a lower layer's", region->slots);
	for (unsigned slot = 0; slot < region->slot_count && !region->owner; slot++)
		if (region->slots[slot].used_bytes != cache->tokens[slot] * token_bytes)
			return broken("its size is not the cache's", &region->slots[slot]);
	return true;
}

static bool caches_are_valid(const kvs_vmm *vmm)
{
	for (const kvs_cache *cache = vmm->caches; cache; cache = cache->next)
		for (size_t i = 0; i < (size_t)cache->shape.layers * 2; i++)
			if (!cache_region_is_valid(cache, i))
				return false;
	return true;
}

static bool count_is(const char *what, size_t said, size_t counted)
{
	if (said != counted)
		kvs_fail(-EINVAL, "invalid: %s is %zu, counted %zu", what, said, counted);
	return said == counted;
}

static bool free_list_is_valid(const kvs_vmm *vmm)
{
	size_t count = 0;

	for (const struct vmm_block *block = vmm->free_blocks; block; block = block->next, count++) {
		if (block->slot) {
			kvs_fail(-EINVAL, "invalid: a free block belongs to a slot");
			return false;
		}
	}
	if (count > vmm->free_list_bytes / vmm->block_bytes) {
		kvs_fail(-EINVAL, "invalid: %zu free blocks, more than %zu bytes", count, vmm->free_list_bytes);
		return false;
	}
	return count_is("the number of free blocks", vmm->free_count, count);
}

static bool epochs_are_valid(const kvs_vmm *vmm)
{
	uint64_t last = vmm->completed_epoch;

	for (const struct vmm_retirement *pending = vmm->pending; pending; pending = pending->next) {
		if (pending->epoch <= last) {
			kvs_fail(-EINVAL, "invalid: epoch %llu is after %llu", (unsigned long long)pending->epoch,
				(unsigned long long)last);
			return false;
		}
		last = pending->epoch;
	}
	return count_is("the last epoch", vmm->epoch, last);
}

static bool is_valid(const kvs_vmm *vmm)
{
	struct tally tally = {0};

	for (const kvs_space *space = vmm->spaces; space; space = space->next)
		if (!space_is_valid(space, &tally))
			return false;
	if (!caches_are_valid(vmm))
		return false;
	if (vmm->held_count + vmm->free_count > vmm->peak_count ||
		vmm->peak_count > vmm->budget_bytes / vmm->block_bytes) {
		kvs_fail(-EINVAL, "invalid: %zu blocks held and %zu free, a peak of %zu, a budget of %zu bytes",
			vmm->held_count, vmm->free_count, vmm->peak_count, vmm->budget_bytes);
		return false;
	}
	return count_is("the number of blocks held", vmm->held_count, tally.held) &&
	       count_is("the number of blocks mapped", vmm->mapped_count, tally.mapped) &&
	       count_is("the number of blocks borrowed", vmm->borrowed_count, tally.borrowed) &&
	       count_is("the number of blocks mapped in sinks", vmm->sunk_count, tally.sunk) &&
	       count_is("the address space in bytes", vmm->virtual_bytes, tally.virtual_bytes) &&
	       free_list_is_valid(vmm) && epochs_are_valid(vmm);
}

bool kvs_vmm_is_valid(kvs_vmm *vmm)
{
	bool valid;

	vmm_begin(vmm); /* while another thread has the turn, invariants may not hold */
	valid = is_valid(vmm);
	vmm_end(vmm);
	return valid;
}
