/*
 * vmm/retire.c: memory that was given up goes back only when the work that may still use it is over.
 *
 * The driver does not wait for kernels in flight when it unmaps. Giving something up therefore starts an epoch: an event on
 * each attached stream, behind the work it has at that moment. A slot remembers the epoch of its last shrinking, and is
 * trimmed at the start of a later operation, once that epoch has completed; no operation blocks on it but those that say
 * so. Epochs complete in order, as each stream's events do.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

static void retirement_destroy(kvs_vmm *vmm, struct vmm_retirement *retirement)
{
	for (size_t i = 0; i < retirement->capacity; i++)
		KVS_CU_GIVE_BACK(vmm->cu->cuEventDestroy(retirement->events[i]));
	free(retirement);
}

/* With room for `count` events: an idle one, or a new one. */
static int retirement_take(kvs_vmm *vmm, size_t count, struct vmm_retirement **out)
{
	struct vmm_retirement *retirement;

	while ((retirement = vmm->idle_retirements)) {
		vmm->idle_retirements = retirement->next;
		if (retirement->capacity >= count) {
			*out = retirement;
			return 0;
		}
		retirement_destroy(vmm, retirement); /* from before streams were attached */
	}
	retirement = calloc(1, sizeof *retirement + count * sizeof retirement->events[0]);
	if (!retirement)
		return kvs_fail(-ENOMEM, "no host memory for %zu events", count);
	for (; retirement->capacity < count; retirement->capacity++) {
		CUresult result =
			vmm->cu->cuEventCreate(&retirement->events[retirement->capacity], CU_EVENT_DISABLE_TIMING);

		if (result) {
			retirement_destroy(vmm, retirement);
			return kvs_cu_fail(vmm->cu, result, "an event behind the last use of memory that is given up");
		}
	}
	*out = retirement;
	return 0;
}

static void retirement_put_back(kvs_vmm *vmm, struct vmm_retirement *retirement)
{
	retirement->next = vmm->idle_retirements;
	vmm->idle_retirements = retirement;
}

int vmm_retire_mark(kvs_vmm *vmm)
{
	static const CUstream legacy_default;
	const CUstream *streams = vmm->stream_count ? vmm->streams : &legacy_default;
	size_t count = vmm->stream_count ? vmm->stream_count : 1;
	struct vmm_retirement *retirement = NULL;
	int err = retirement_take(vmm, count, &retirement);

	if (err)
		return err;
	for (size_t i = 0; i < count; i++) {
		CUresult result = vmm->cu->cuEventRecord(retirement->events[i], streams[i]);

		if (result) {
			retirement_put_back(vmm, retirement);
			return kvs_cu_fail(vmm->cu, result, "recording the last use of memory that is given up");
		}
	}
	retirement->count = count;
	retirement->epoch = ++vmm->epoch;
	retirement->next = NULL;
	*vmm->pending_tail = retirement;
	vmm->pending_tail = &retirement->next;
	return 0;
}

static void complete_oldest(kvs_vmm *vmm)
{
	struct vmm_retirement *oldest = vmm->pending;

	vmm->pending = oldest->next;
	if (!vmm->pending)
		vmm->pending_tail = &vmm->pending;
	vmm->completed_epoch = oldest->epoch;
	retirement_put_back(vmm, oldest);
}

static bool is_over(const kvs_vmm *vmm, const struct vmm_retirement *retirement)
{
	for (size_t i = 0; i < retirement->count; i++)
		if (vmm->cu->cuEventQuery(retirement->events[i]))
			return false; /* not ready; or an error, which only waiting can tell from "not ready" for good */
	return true;
}

void vmm_retire_poll(kvs_vmm *vmm)
{
	while (vmm->pending && is_over(vmm, vmm->pending))
		complete_oldest(vmm);
}

/* Waiting is tried twice, for the reason that stats.c gives; a context that fails twice is lost, and runs nothing any more. */
static CUresult wait_stream(const kvs_vmm *vmm, CUstream stream)
{
	return vmm->cu->cuStreamSynchronize(stream) ? vmm->cu->cuStreamSynchronize(stream) : CUDA_SUCCESS;
}

static CUresult wait_event(const kvs_vmm *vmm, CUevent event)
{
	return vmm->cu->cuEventSynchronize(event) ? vmm->cu->cuEventSynchronize(event) : CUDA_SUCCESS;
}

int vmm_retire_wait(kvs_vmm *vmm)
{
	CUresult first = CUDA_SUCCESS, result;

	for (size_t i = 0; i < vmm->stream_count; i++) {
		result = wait_stream(vmm, vmm->streams[i]);
		first = first ? first : result;
	}
	if (!vmm->stream_count)
		first = wait_stream(vmm, NULL);
	while (vmm->pending) {
		for (size_t i = 0; i < vmm->pending->count; i++) {
			result = wait_event(vmm, vmm->pending->events[i]);
			first = first ? first : result;
		}
		complete_oldest(vmm);
	}
	return first ? kvs_cu_fail(vmm->cu, first, "waiting for the last use of memory that is given up") : 0;
}

void vmm_retire_free(kvs_vmm *vmm)
{
	while (vmm->idle_retirements) {
		struct vmm_retirement *retirement = vmm->idle_retirements;

		vmm->idle_retirements = retirement->next;
		retirement_destroy(vmm, retirement);
	}
}

size_t vmm_trim_retired(kvs_vmm *vmm)
{
	struct vmm_queue waiting = {NULL, NULL};
	struct vmm_slot *slot;
	size_t freed = 0;

	while ((slot = vmm_queue_pop(vmm, VMM_QUEUE_SURPLUS))) {
		size_t wanted = vmm_slot_wanted(slot);

		if (slot->retire_epoch <= vmm->completed_epoch)
			freed += vmm_slot_trim(slot, wanted);
		if (slot->held_blocks <= wanted)
			continue;
		slot->next[VMM_QUEUE_SURPLUS] = waiting.head; /* still in use, or the driver would not unmap it */
		waiting.head = slot;
	}
	while ((slot = waiting.head)) {
		waiting.head = slot->next[VMM_QUEUE_SURPLUS];
		vmm_queue_push(vmm, VMM_QUEUE_SURPLUS, slot);
	}
	return freed;
}

size_t vmm_trim_premapped(kvs_vmm *vmm)
{
	size_t freed = 0;

	for (kvs_region *region = vmm->regions; region; region = region->next) {
		for (unsigned i = 0; i < region->slot_count; i++) {
			struct vmm_slot *slot = &region->slots[i];

			if (!region->owner && slot->retire_epoch <= vmm->completed_epoch)
				freed += vmm_slot_trim(slot, vmm_slot_needed(slot));
		}
	}
	return freed;
}
