/*
 * vmm/premap.c: a worker thread that maps the next block of a slot before it is needed, so that growing by a token
 * rarely waits for the driver.
 *
 * It works through a queue of slots, takes the turn for one slot at a time, and stands back while anybody else waits
 * for it. A resize that finds its blocks mapped needs no turn and never waits for the worker. The worker stays within
 * stride and budget and takes nothing from other slots; if it fails, nothing has changed, and the slot grows on demand.
 */
#include "manager.h"

#include <errno.h>

void vmm_premap_request(struct vmm_slot *slot)
{
	kvs_vmm *vmm = slot->region->vmm;

	if (!vmm->premap || slot->mapped_blocks >= vmm_slot_wanted(slot))
		return;
	if (!vmm->queues[VMM_QUEUE_PREMAP].head) /* else the worker is awake */
		pthread_cond_signal(&vmm->premap_wanted);
	vmm_queue_push(vmm, VMM_QUEUE_PREMAP, slot);
}

static void premap_one(kvs_vmm *vmm)
{
	struct vmm_slot *slot = vmm_queue_pop(vmm, VMM_QUEUE_PREMAP);

	if (slot)
		vmm_slot_grow(slot, vmm_slot_wanted(slot), vmm_block_take);
	vmm_retire_poll(vmm);
	vmm_trim_retired(vmm);
	if (!vmm->queues[VMM_QUEUE_PREMAP].head)
		pthread_cond_broadcast(&vmm->premap_idle);
}

static void *premap_run(void *argument)
{
	kvs_vmm *vmm = argument;

	kvs_cu_bind(vmm->cu); /* if this fails, so does each call, and slots grow on demand */
	pthread_mutex_lock(&vmm->lock);
	while (!vmm->stop) {
		if (!vmm->queues[VMM_QUEUE_PREMAP].head || vmm->turn_taken || vmm->turn_waiters) {
			pthread_cond_wait(&vmm->premap_wanted, &vmm->lock);
			continue;
		}
		vmm_turn_take(vmm);
		premap_one(vmm);
		vmm_turn_give(vmm);
	}
	pthread_mutex_unlock(&vmm->lock);
	return NULL;
}

int vmm_premap_start(kvs_vmm *vmm)
{
	int err = pthread_create(&vmm->worker, NULL, premap_run, vmm);

	return err ? kvs_fail(-err, "no thread for premapping") : 0;
}

void vmm_premap_stop(kvs_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	vmm->stop = true;
	pthread_cond_signal(&vmm->premap_wanted);
	pthread_mutex_unlock(&vmm->lock);
	pthread_join(vmm->worker, NULL);
}

void vmm_premap_wait(kvs_vmm *vmm)
{
	while (vmm->queues[VMM_QUEUE_PREMAP].head)
		pthread_cond_wait(&vmm->premap_idle, &vmm->lock);
}
