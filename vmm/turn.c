/*
 * vmm/turn.c: the lock and the turn, by which threads take it in turns to change a manager (manager.h).
 *
 * The premapping worker stands back while anybody waits for the turn, so it is woken when nobody does.
 */
#include "manager.h"

void vmm_turn_take(kvs_vmm *vmm)
{
	vmm->turn_waiters++;
	while (vmm->turn_taken)
		pthread_cond_wait(&vmm->turn_free, &vmm->lock);
	vmm->turn_waiters--;
	vmm->turn_taken = true;
}

void vmm_turn_give(kvs_vmm *vmm)
{
	vmm->turn_taken = false;
	if (vmm->turn_waiters)
		pthread_cond_signal(&vmm->turn_free);
	else if (vmm->queues[VMM_QUEUE_PREMAP].head)
		pthread_cond_signal(&vmm->premap_wanted);
}

void vmm_begin(kvs_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	vmm_turn_take(vmm);
}

void vmm_end(kvs_vmm *vmm)
{
	vmm_turn_give(vmm);
	pthread_mutex_unlock(&vmm->lock);
}
