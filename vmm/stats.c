/*
 * vmm/stats.c: the driver calls that manage memory, counted and timed, and what can be asked of a manager.
 *
 * Every such call of the manager goes through one of the functions here. What gives something back is tried twice: the
 * driver may answer any call with the error of earlier, asynchronous work (the "notefnerr" of cuda.h) without having done
 * it, and nobody up the stack could do better than to try again.
 */
#include "manager.h"

#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t begin_call(kvs_vmm *vmm)
{
	pthread_mutex_unlock(&vmm->lock);
	return now_ns();
}

static CUresult end_call(kvs_vmm *vmm, enum kvs_vmm_call call, uint64_t start_ns, CUresult result)
{
	struct kvs_call_stats *stats = &vmm->calls[call];
	uint64_t ns = now_ns() - start_ns;
	int bucket = ns ? 63 - __builtin_clzll(ns) : 0;

	pthread_mutex_lock(&vmm->lock);
	stats->calls++;
	stats->failures += result != CUDA_SUCCESS;
	stats->total_ns += ns;
	stats->latency[bucket < KVS_LATENCY_BUCKETS ? bucket : KVS_LATENCY_BUCKETS - 1]++;
	return result;
}

CUresult vmm_call_reserve(kvs_vmm *vmm, CUdeviceptr *base, size_t bytes)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(
		vmm, KVS_CALL_RESERVE, start_ns, vmm->cu->cuMemAddressReserve(base, bytes, vmm->granule_bytes, 0, 0));
}

CUresult vmm_call_create(kvs_vmm *vmm, CUmemGenericAllocationHandle *handle)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_CREATE, start_ns, vmm->cu->cuMemCreate(handle, vmm->block_bytes, &vmm->prop, 0));
}

CUresult vmm_call_map(kvs_vmm *vmm, CUdeviceptr address, CUmemGenericAllocationHandle handle)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_MAP, start_ns, vmm->cu->cuMemMap(address, vmm->block_bytes, 0, handle, 0));
}

CUresult vmm_call_set_access(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, CUmemAccess_flags access)
{
	CUmemAccessDesc desc = {.location = vmm->prop.location, .flags = access};
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_SET_ACCESS, start_ns, vmm->cu->cuMemSetAccess(address, bytes, &desc, 1));
}

static CUresult unmap_once(kvs_vmm *vmm, CUdeviceptr address, size_t bytes)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_UNMAP, start_ns, vmm->cu->cuMemUnmap(address, bytes));
}

CUresult vmm_call_unmap(kvs_vmm *vmm, CUdeviceptr address, size_t bytes)
{
	return unmap_once(vmm, address, bytes) ? unmap_once(vmm, address, bytes) : CUDA_SUCCESS;
}

static CUresult release_once(kvs_vmm *vmm, CUmemGenericAllocationHandle handle)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_RELEASE, start_ns, vmm->cu->cuMemRelease(handle));
}

CUresult vmm_call_release(kvs_vmm *vmm, CUmemGenericAllocationHandle handle)
{
	return release_once(vmm, handle) ? release_once(vmm, handle) : CUDA_SUCCESS;
}

static CUresult address_free_once(kvs_vmm *vmm, CUdeviceptr base, size_t bytes)
{
	uint64_t start_ns = begin_call(vmm);

	return end_call(vmm, KVS_CALL_ADDRESS_FREE, start_ns, vmm->cu->cuMemAddressFree(base, bytes));
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
	static const char *const names[KVS_CALL_COUNT] = {
		[KVS_CALL_RESERVE] = "cuMemAddressReserve",
		[KVS_CALL_CREATE] = "cuMemCreate",
		[KVS_CALL_MAP] = "cuMemMap",
		[KVS_CALL_SET_ACCESS] = "cuMemSetAccess",
		[KVS_CALL_UNMAP] = "cuMemUnmap",
		[KVS_CALL_RELEASE] = "cuMemRelease",
		[KVS_CALL_ADDRESS_FREE] = "cuMemAddressFree",
	};

	return (unsigned)call < KVS_CALL_COUNT ? names[call] : "";
}
