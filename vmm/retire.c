/*
 * vmm/retire.c: memory that was given up is released only when the work that may still use it is over.
 *
 * The driver does not wait for kernels in flight when it unmaps. Giving memory up therefore starts an epoch: an event
 * on each attached stream, after its present work. A slot remembers the epoch of its last shrinking, and is trimmed at
 * the start of a later operation, once that epoch has completed. Epochs complete in order, as the events of each stream
 * do. Operations that wait for an epoch hold neither lock nor turn meanwhile, so that other threads go on, even if the
 * work that is waited for depends on them.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

/* Without the lock, or with nobody else there. */
static void retirement_destroy(kvs_vmm *vmm, struct vmm_retirement *retirement)
{
	for (size_t i = 0; i < retirement->capacity; i++)
		KVS_CU_GIVE_BACK(vmm->cu->cuEventDestroy, retirement->events[i]);
	free(retirement);
}

/* Without the lock. */
static int retirement_create(kvs_vmm *vmm, size_t count, struct vmm_retirement **out)
{
	struct vmm_retirement *retirement = calloc(1, sizeof(*retirement) + count * sizeof(retirement->events[0]));

	if (!retirement)
		return kvs_fail(-ENOMEM, "no host memory for %zu events", count);
	for (; retirement->capacity < count; retirement->capacity++) {
		CUresult result =
			vmm->cu->cuEventCreate(&retirement->events[retirement->capacity], CU_EVENT_DISABLE_TIMING);

		if (result) {
			retirement_destroy(vmm, retirement);
			return kvs_cu_fail(vmm->cu, result, "an event after the last use of memory that is given up");
		}
	}
	*out = retirement;
	return 0;
}

/* An idle one with room for `count` events, or NULL. Smaller ones, from before streams were attached, are freed. */
static struct vmm_retirement *retirement_reuse(kvs_vmm *vmm, size_t count)
{
	struct vmm_retirement *retirement;

	while ((retirement = vmm->idle_retirements)) {
		vmm->idle_retirements = retirement->next;
		if (retirement->capacity >= count)
			return retirement;
		pthread_mutex_unlock(&vmm->lock);
		retirement_destroy(vmm, retirement);
		pthread_mutex_lock(&vmm->lock);
	}
	return NULL;
}

static void retirement_put_back(kvs_vmm *vmm, struct vmm_retirement *retirement)
{
	retirement->next = vmm->idle_retirements;
	vmm->idle_retirements = retirement;
}

/* Without the lock: the turn keeps the streams as they are. */
static int record(const kvs_vmm *vmm, struct vmm_retirement *retirement, size_t count)
{
	static const CUstream legacy_default;
	const CUstream *streams = vmm->stream_count ? vmm->streams : &legacy_default;

	for (size_t i = 0; i < count; i++) {
		CUresult result = vmm->cu->cuEventRecord(retirement->events[i], streams[i]);

		if (result)
			return kvs_cu_fail(vmm->cu, result, "recording the last use of memory that is given up");
	}
	retirement->count = count;
	return 0;
}

int vmm_retire_mark(kvs_vmm *vmm)
{
	size_t count = vmm->stream_count ? vmm->stream_count : 1;
	struct vmm_retirement *retirement = retirement_reuse(vmm, count);
	int err = 0;

	pthread_mutex_unlock(&vmm->lock);
	if (!retirement)
		err = retirement_create(vmm, count, &retirement);
	if (!err)
		err = record(vmm, retirement, count);
	pthread_mutex_lock(&vmm->lock);
	if (err) {
		if (retirement)
			retirement_put_back(vmm, retirement);
		return err;
	}
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
	if (!oldest->waiters)
		retirement_put_back(vmm, oldest);
}

static CUresult query_events(const kvs_vmm *vmm, const struct vmm_retirement *retirement)
{
	CUresult result = CUDA_SUCCESS;

	for (size_t i = 0; i < retirement->count && !result; i++)
		result = vmm->cu->cuEventQuery(retirement->events[i]);
	return result;
}

/*
 * Each call is tried twice, for the reason in stats.c; a context that fails twice is lost, and runs nothing any more.
 */
static CUresult wait_events(const kvs_vmm *vmm, const struct vmm_retirement *retirement)
{
	CUresult first = CUDA_SUCCESS;

	for (size_t i = 0; i < retirement->count; i++) {
		CUevent event = retirement->events[i];
		CUresult result =
			vmm->cu->cuEventSynchronize(event) ? vmm->cu->cuEventSynchronize(event) : CUDA_SUCCESS;

		first = first ? first : result;
	}
	return first;
}

typedef CUresult ask_fn(const kvs_vmm *vmm, const struct vmm_retirement *retirement);

/*
 * Asks the driver about the oldest epoch, without the lock. Meanwhile other threads may ask too, and complete it; the
 * last one to ask puts it back.
 */
static CUresult ask_oldest(kvs_vmm *vmm, ask_fn *ask, bool complete_always)
{
	struct vmm_retirement *oldest = vmm->pending;
	CUresult result;

	oldest->waiters++;
	pthread_mutex_unlock(&vmm->lock);
	result = ask(vmm, oldest);
	pthread_mutex_lock(&vmm->lock);
	oldest->waiters--;
	if (vmm->completed_epoch >= oldest->epoch) {
		if (!oldest->waiters)
			retirement_put_back(vmm, oldest);
		return CUDA_SUCCESS;
	}
	if (!result || complete_always)
		complete_oldest(vmm);
	return result;
}

/* "Not ready" ends the loop, and so does an error: only waiting can tell whether that is one for good. */
void vmm_retire_poll(kvs_vmm *vmm)
{
	while (vmm->pending && !ask_oldest(vmm, query_events, false))
		;
}

/* If no event could be recorded, the whole context is waited for. */
static CUresult wait_context(kvs_vmm *vmm, uint64_t epoch)
{
	CUresult result;

	pthread_mutex_unlock(&vmm->lock);
	result = vmm->cu->cuCtxSynchronize() ? vmm->cu->cuCtxSynchronize() : CUDA_SUCCESS;
	pthread_mutex_lock(&vmm->lock);
	while (vmm->completed_epoch < epoch)
		complete_oldest(vmm);
	return result;
}

static CUresult wait_epoch(kvs_vmm *vmm, uint64_t epoch)
{
	CUresult first = CUDA_SUCCESS;

	while (vmm->completed_epoch < epoch) {
		CUresult result = ask_oldest(vmm, wait_events, true);

		first = first ? first : result;
	}
	return first;
}

int vmm_retire_wait(kvs_vmm *vmm)
{
	bool marked = !vmm_retire_mark(vmm);
	uint64_t epoch = vmm->epoch;
	CUresult result;

	vmm_turn_give(vmm);
	result = marked ? wait_epoch(vmm, epoch) : wait_context(vmm, epoch);
	vmm_turn_take(vmm);
	return result ? kvs_cu_fail(vmm->cu, result, "waiting for the last use of memory that is given up") : 0;
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
		slot->next[VMM_QUEUE_SURPLUS] = waiting.head; /* still in use, or the driver refused to unmap it */
		waiting.head = slot;
	}
	while ((slot = waiting.head)) {
		waiting.head = slot->next[VMM_QUEUE_SURPLUS];
		vmm_queue_push(vmm, VMM_QUEUE_SURPLUS, slot);
	}
	return freed;
}

static size_t trim_region(kvs_region *region)
{
	size_t freed = 0;

	for (unsigned i = 0; i < region->slot_count && !region->owner; i++) {
		struct vmm_slot *slot = &region->slots[i];

		if (slot->retire_epoch <= region->vmm->completed_epoch)
			freed += vmm_slot_trim(slot, vmm_slot_needed(slot));
	}
	return freed;
}

/* Releases the blocks that were mapped ahead, in every slot. Returns their number. */
static size_t trim_premapped(kvs_vmm *vmm)
{
	size_t freed = 0;

	for (const kvs_space *space = vmm->spaces; space; space = space->next)
		for (kvs_region *region = space->regions; region; region = region->next)
			freed += trim_region(region);
	return freed;
}

int vmm_block_acquire(struct vmm_slot *slot, size_t index, struct vmm_block **out)
{
	kvs_vmm *vmm = slot->region->vmm;

	for (;;) {
		int err = vmm_block_take(slot, index, out);

		if (err != -ENOMEM)
			return err;
		vmm_retire_poll(vmm);
		if (!vmm_trim_retired(vmm) && !trim_premapped(vmm))
			return err;
	}
}
