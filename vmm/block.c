/*
 * vmm/block.c: physical blocks: one cuMemCreate handle each, recycled through a free list with a limit, within a
 * budget.
 *
 * Creating a block is expensive (10 to 200 us) where the driver has to clear memory, so a block that is given up is
 * kept for the next growth, and its memory is not cleared. The budget counts every block that exists, in use or free.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

static int check_budget(const kvs_vmm *vmm)
{
	size_t count = vmm->held_count + vmm->free_count + 1;

	if (count <= vmm->budget_bytes / vmm->block_bytes)
		return 0;
	return kvs_fail(-ENOMEM,
		"a block of %zu bytes does not fit: %zu bytes are held of a budget of %zu%s; end sequences or raise "
		"the budget",
		vmm->block_bytes, (count - 1) * vmm->block_bytes, vmm->budget_bytes,
		vmm->pending ? " (some wait for work in flight: kvs_vmm_settle() waits for it)" : "");
}

static int block_create(kvs_vmm *vmm, struct vmm_block **out)
{
	struct vmm_block *block;
	CUresult result;
	int err = check_budget(vmm);

	if (err)
		return err;
	block = calloc(1, sizeof(*block));
	if (!block)
		return kvs_fail(-ENOMEM, "no host memory for a block of device memory");
	result = vmm_call_create(vmm, &block->handle);
	if (result) {
		free(block);
		return kvs_cu_fail(vmm->cu, result, "a block of %zu bytes, with %zu bytes held", vmm->block_bytes,
			(vmm->held_count + vmm->free_count) * vmm->block_bytes);
	}
	*out = block;
	return 0;
}

int vmm_block_take(struct vmm_slot *slot, size_t index, struct vmm_block **out)
{
	kvs_vmm *vmm = slot->region->vmm;
	struct vmm_block *block = vmm->free_blocks;

	if (block) {
		vmm->free_blocks = block->next;
		vmm->free_count--;
	} else {
		int err = block_create(vmm, &block);

		if (err)
			return err;
	}
	block->slot = slot;
	block->index = index;
	block->next = NULL;
	vmm->held_count++;
	if (vmm->peak_count < vmm->held_count + vmm->free_count)
		vmm->peak_count = vmm->held_count + vmm->free_count;
	*out = block;
	return 0;
}

static void block_destroy(kvs_vmm *vmm, struct vmm_block *block)
{
	vmm_call_release(vmm, block->handle);
	free(block);
}

void vmm_block_release(kvs_vmm *vmm, struct vmm_block *block)
{
	vmm->held_count--;
	if (vmm->free_count >= vmm->free_list_bytes / vmm->block_bytes) {
		block_destroy(vmm, block);
		return;
	}
	block->slot = NULL;
	block->next = vmm->free_blocks;
	vmm->free_blocks = block;
	vmm->free_count++;
}

void vmm_block_drain(kvs_vmm *vmm)
{
	while (vmm->free_blocks) {
		struct vmm_block *block = vmm->free_blocks;

		vmm->free_blocks = block->next;
		vmm->free_count--;
		block_destroy(vmm, block);
	}
}
