/*
 * vmm/stats.c: the driver calls that manage memory, and the statistics of a manager.
 *
 * Every such call goes through one of the functions here, which releases the lock for the call and notes the manager
 * for its thread. One observer of each table counts and times the calls so noted; other calls through the same table
 * are not ours. Calls that release something are tried twice: the driver may answer any call with the error of earlier,
 * asynchronous work (the "notefnerr" of cuda.h) without having done it, and no caller could do better than to try
 * again.
 */
#include "manager.h"

#include <errno.h>
#include <stdlib.h>

static const enum kvs_cu_function functions[KVS_CALL_COUNT] = {
	[KVS_CALL_RESERVE] = KVS_FN_cuMemAddressReserve,
	[KVS_CALL_CREATE] = KVS_FN_cuMemCreate,
	[KVS_CALL_MAP] = KVS_FN_cuMemMap,
	[KVS_CALL_SET_ACCESS] = KVS_FN_cuMemSetAccess,
	[KVS_CALL_UNMAP] = KVS_FN_cuMemUnmap,
	[KVS_CALL_RELEASE] = KVS_FN_cuMemRelease,
	[KVS_CALL_ADDRESS_FREE] = KVS_FN_cuMemAddressFree,
};

/* A table has room for few observers, so its managers share one. */
struct watch {
	struct watch *next;
	kvs_cu *cu;
	kvs_cu_observer *observer;
	unsigned managers;
};

static pthread_mutex_t watches_lock = PTHREAD_MUTEX_INITIALIZER;
static struct watch *watches;

static __thread kvs_vmm *calling; /* the manager for which this thread calls the driver, or NULL */

static void count_call(struct kvs_call_stats *stats, const struct kvs_cu_call *call)
{
	int bucket = call->nanoseconds ? 63 - __builtin_clzll(call->nanoseconds) : 0;

	stats->calls++;
	stats->failures += call->result != CUDA_SUCCESS;
	stats->total_ns += call->nanoseconds;
	stats->latency[bucket < KVS_LATENCY_BUCKETS ? bucket : KVS_LATENCY_BUCKETS - 1]++;
}

static void observe(void *arg, const struct kvs_cu_call *call)
{
	kvs_vmm *vmm = calling;
	int which = 0;

	(void)arg;
	if (!vmm || !call->after)
		return;
	while (functions[which] != call->function)
		which++;
	pthread_mutex_lock(&vmm->lock);
	count_call(&vmm->calls[which], call);
	pthread_mutex_unlock(&vmm->lock);
}

/* With the lock of the watches. */
static int watch_create(kvs_cu *cu, struct watch **out)
{
	struct watch *watch = calloc(1, sizeof(*watch));
	int err = watch ? kvs_cu_observe(cu, functions, KVS_CALL_COUNT, observe, NULL, &watch->observer)
			: kvs_fail(-ENOMEM, "no host memory to watch the driver's calls");

	if (err) {
		free(watch);
		return err;
	}
	watch->cu = cu;
	watch->next = watches;
	watches = watch;
	*out = watch;
	return 0;
}

int vmm_watch(kvs_cu *cu)
{
	struct watch *watch;
	int err = 0;

	pthread_mutex_lock(&watches_lock);
	for (watch = watches; watch && watch->cu != cu; watch = watch->next)
		;
	if (!watch)
		err = watch_create(cu, &watch);
	if (!err)
		watch->managers++;
	pthread_mutex_unlock(&watches_lock);
	return err;
}

void vmm_unwatch(kvs_cu *cu)
{
	struct watch **link = &watches, *watch;

	pthread_mutex_lock(&watches_lock);
	while ((*link)->cu != cu)
		link = &(*link)->next;
	watch = *link;
	if (!--watch->managers) {
		*link = watch->next;
		kvs_cu_unobserve(watch->observer);
		free(watch);
	}
	pthread_mutex_unlock(&watches_lock);
}

static void begin_call(kvs_vmm *vmm)
{
	pthread_mutex_unlock(&vmm->lock);
	calling = vmm;
}

static CUresult end_call(kvs_vmm *vmm, CUresult result)
{
	calling = NULL;
	pthread_mutex_lock(&vmm->lock);
	return result;
}

CUresult vmm_call_reserve(kvs_vmm *vmm, CUdeviceptr *base, size_t bytes)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemAddressReserve(base, bytes, vmm->granule_bytes, 0, 0));
}

CUresult vmm_call_create(kvs_vmm *vmm, CUmemGenericAllocationHandle *handle)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemCreate(handle, vmm->block_bytes, &vmm->prop, 0));
}

CUresult vmm_call_map(kvs_vmm *vmm, CUdeviceptr address, CUmemGenericAllocationHandle handle)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemMap(address, vmm->block_bytes, 0, handle, 0));
}

CUresult vmm_call_set_access(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, CUmemAccess_flags access)
{
	CUmemAccessDesc desc = {.location = vmm->prop.location, .flags = access};

	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemSetAccess(address, bytes, &desc, 1));
}

static CUresult unmap_once(kvs_vmm *vmm, CUdeviceptr address, size_t bytes)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemUnmap(address, bytes));
}

CUresult vmm_call_unmap(kvs_vmm *vmm, CUdeviceptr address, size_t bytes)
{
	return unmap_once(vmm, address, bytes) ? unmap_once(vmm, address, bytes) : CUDA_SUCCESS;
}

static CUresult release_once(kvs_vmm *vmm, CUmemGenericAllocationHandle handle)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemRelease(handle));
}

CUresult vmm_call_release(kvs_vmm *vmm, CUmemGenericAllocationHandle handle)
{
	return release_once(vmm, handle) ? release_once(vmm, handle) : CUDA_SUCCESS;
}

static CUresult address_free_once(kvs_vmm *vmm, CUdeviceptr base, size_t bytes)
{
	begin_call(vmm);
	return end_call(vmm, vmm->cu->cuMemAddressFree(base, bytes));
}

CUresult vmm_call_address_free(kvs_vmm *vmm, CUdeviceptr base, size_t bytes)
{
	return address_free_once(vmm, base, bytes) ? address_free_once(vmm, base, bytes) : CUDA_SUCCESS;
}

void kvs_vmm_get_stats(kvs_vmm *vmm, struct kvs_vmm_stats *out)
{
	pthread_mutex_lock(&vmm->lock);
	*out = (struct kvs_vmm_stats){
		.granule_bytes = vmm->granule_bytes,
		.block_bytes = vmm->block_bytes,
		.virtual_bytes = vmm->virtual_bytes,
		.mapped_bytes = vmm->mapped_count * vmm->block_bytes,
		.physical_bytes = vmm->held_count * vmm->block_bytes,
		.free_bytes = vmm->free_count * vmm->block_bytes,
		.shared_bytes = vmm->borrowed_count * vmm->block_bytes,
		.peak_bytes = vmm->peak_count * vmm->block_bytes,
		.sink_bytes = vmm->sunk_count * vmm->block_bytes,
	};
	out->unshared_bytes = out->mapped_bytes - out->sink_bytes;
	out->saved_bytes = out->unshared_bytes > out->physical_bytes ? out->unshared_bytes - out->physical_bytes : 0;
	for (int call = 0; call < KVS_CALL_COUNT; call++)
		out->calls[call] = vmm->calls[call];
	pthread_mutex_unlock(&vmm->lock);
}

const char *kvs_vmm_call_name(enum kvs_vmm_call call)
{
	return (unsigned)call < KVS_CALL_COUNT ? kvs_cu_function_name(functions[call]) : "";
}
