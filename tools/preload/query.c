/*
 * tools/preload/query.c: what a program can ask about its memory: the answers are those for the allocation that it made,
 * not for the blocks behind it. Also hooks of calls that wait, which are where a kernel's fault shows.
 */
#include "preload.h"

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
	const struct shim_real *driver = shim_real();
	CUdeviceptr base;
	size_t bytes;

	if (!driver->cuMemGetAddressRange_v2)
		return SHIM_ABSENT;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_QUERIES);
	if (!shim_cache_find(dptr, &base, &bytes))
		return driver->cuMemGetAddressRange_v2(pbase, psize, dptr);
	if (pbase)
		*pbase = base;
	if (psize)
		*psize = bytes;
	return CUDA_SUCCESS;
}

/* Attributes that would show the blocks. `data` has the driver's answer already. */
static void attribute_correct(void *data, CUpointer_attribute attribute, CUdeviceptr base, size_t bytes)
{
	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
	case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
		*(CUdeviceptr *)data = base;
		break;
	case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
	case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
		*(size_t *)data = bytes;
		break;
	case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
		*(unsigned *)data = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
		break;
	case CU_POINTER_ATTRIBUTE_CONTEXT: /* memory of this kind belongs to none; an allocation to the one it was made in */
		*(CUcontext *)data = shim_cache_context(base);
		break;
	case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
		*(CUmemoryPool *)data = shim_cache_pool(base);
		break;
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: /* what would follow is refused */
	case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
		*(bool *)data = false;
		break;
	case CU_POINTER_ATTRIBUTE_BUFFER_ID: /* one for the whole allocation: that of its first block */
		shim_real()->cuPointerGetAttribute(data, attribute, base);
		break;
	default:
		break;
	}
}

CUresult CUDAAPI cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	const struct shim_real *driver = shim_real();
	CUdeviceptr base;
	CUresult result;
	size_t bytes;

	if (!driver->cuPointerGetAttribute)
		return SHIM_ABSENT;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_QUERIES);
	result = driver->cuPointerGetAttribute(data, attribute, ptr);
	if (!result && data && shim_cache_find(ptr, &base, &bytes))
		attribute_correct(data, attribute, base, bytes);
	return result;
}

CUresult CUDAAPI cuPointerGetAttributes(
	unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
	const struct shim_real *driver = shim_real();
	CUdeviceptr base;
	CUresult result;
	size_t bytes;

	if (!driver->cuPointerGetAttributes)
		return SHIM_ABSENT;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_QUERIES);
	result = driver->cuPointerGetAttributes(numAttributes, attributes, data, ptr);
	if (!result && shim_cache_find(ptr, &base, &bytes))
		for (unsigned i = 0; i < numAttributes; i++)
			attribute_correct(data[i], attributes[i], base, bytes);
	return result;
}

/* Another process would get the blocks without the rules that come with them. The driver answers so for all such memory. */
CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();
	CUdeviceptr base;
	size_t bytes;

	if (shim_cache_find(dptr, &base, &bytes)) {
		shim_say("the program shares its cache with another process (cuIpcGetMemHandle), which is refused for "
			 "memory that layers share");
		return CUDA_ERROR_INVALID_VALUE;
	}
	return driver->cuIpcGetMemHandle ? driver->cuIpcGetMemHandle(pHandle, dptr) : SHIM_ABSENT;
}

CUresult CUDAAPI cuCtxSynchronize(void)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WAITS);
	const struct shim_real *driver = shim_real();

	return driver->cuCtxSynchronize ? shim_fault_check(driver->cuCtxSynchronize(), NULL) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WAITS);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamSynchronize ? shim_fault_check(driver->cuStreamSynchronize(hStream), NULL) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamSynchronize_ptsz(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WAITS);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamSynchronize_ptsz ? shim_fault_check(driver->cuStreamSynchronize_ptsz(hStream), NULL)
						: SHIM_ABSENT;
}

CUresult CUDAAPI cuEventSynchronize(CUevent hEvent)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WAITS);
	const struct shim_real *driver = shim_real();

	return driver->cuEventSynchronize ? shim_fault_check(driver->cuEventSynchronize(hEvent), NULL) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamQuery(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POLLS);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamQuery ? shim_fault_check(driver->cuStreamQuery(hStream), NULL) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamQuery_ptsz(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POLLS);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamQuery_ptsz ? shim_fault_check(driver->cuStreamQuery_ptsz(hStream), NULL) : SHIM_ABSENT;
}

CUresult CUDAAPI cuEventQuery(CUevent hEvent)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POLLS);
	const struct shim_real *driver = shim_real();

	return driver->cuEventQuery ? shim_fault_check(driver->cuEventQuery(hEvent), NULL) : SHIM_ABSENT;
}
