/*
 * driver/softcuda/managed.c: managed memory. All device memory is memory of this machine, so managed memory is an ordinary
 * allocation that the host may use too, and where its pages should lie is nobody's concern.
 */
#include "capture.h"
#include "memory.h"

CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_range *range;

	if (error)
		return error;
	if (!dptr || !bytesize || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_capture_unsafe();
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = sc_range_allocate(bytesize, context, &range);
	if (!error) {
		range->managed = true;
		*dptr = range->base;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* All of it is managed memory. */
static CUresult range_check(CUdeviceptr address, size_t bytes)
{
	struct sc_range *range;
	bool inside;

	pthread_mutex_lock(&sc_lock);
	range = sc_range_find((uintptr_t)address);
	inside = range && range->managed && bytes && bytes <= range->base + range->size - (uintptr_t)address;
	pthread_mutex_unlock(&sc_lock);
	return inside ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult advise(const char *call, CUdeviceptr address, size_t bytes)
{
	CUresult error = sc_enter_alive(call);

	return error ? error : range_check(address, bytes);
}

static CUresult prefetch(const char *call, CUdeviceptr address, size_t bytes, CUstream handle)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(call, &context);
	struct sc_stream *stream;

	if (error)
		return error;
	stream = sc_stream_get(context, handle);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_refuse(stream);
	sc_stream_put(stream);
	return error ? error : range_check(address, bytes);
}

#undef cuMemAdvise
#undef cuMemPrefetchAsync
CUresult CUDAAPI cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device);
CUresult CUDAAPI cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location);
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream);
CUresult CUDAAPI cuMemPrefetchAsync_v2(
	CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags, CUstream hStream);

CUresult CUDAAPI cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
	(void)advice;
	(void)device;
	return advise(__func__, devPtr, count);
}

CUresult CUDAAPI cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location)
{
	(void)advice;
	(void)location;
	return advise(__func__, devPtr, count);
}

CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream)
{
	(void)dstDevice;
	return prefetch(__func__, devPtr, count, hStream);
}

CUresult CUDAAPI cuMemPrefetchAsync_v2(
	CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags, CUstream hStream)
{
	(void)location;
	(void)flags;
	return prefetch(__func__, devPtr, count, hStream);
}
