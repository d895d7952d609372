/*
 * driver/softcuda/procaddress.c: finding a driver function by its base name and the CUDA version that the caller was
 * built for: the newest form of the function that this version knew.
 */
#define CUDA_ENABLE_DEPRECATED /* some of what we offer */
#include "state.h"

#include <string.h>

/* The forms that cuda.h's macros hide behind newer ones. */
#undef cuCtxCreate
#undef cuEventElapsedTime
#undef cuGetProcAddress
#undef cuMemHostRegister
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev);
CUresult CUDAAPI cuCtxCreate_v3(
	CUcontext *pctx, CUexecAffinityParam *affinity, int count, unsigned int flags, CUdevice dev);
CUresult CUDAAPI cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd);
CUresult CUDAAPI cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd);
CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags);
CUresult CUDAAPI cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
	CUdriverProcAddressQueryResult *symbolStatus);
CUresult CUDAAPI cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags);

static const struct function {
	const char *base;
	int version; /* of CUDA that brought this form of it, as cudaTypedefs.h has it */
	void *address;
} functions[] = {
	/* clang-format off */
	{"cuCtxCreate", 3020, (void *)cuCtxCreate_v2},
	{"cuCtxCreate", 11040, (void *)cuCtxCreate_v3},
#if CUDA_VERSION >= 12050
	{"cuCtxCreate", 12050, (void *)cuCtxCreate_v4},
#endif
	{"cuCtxDestroy", 4000, (void *)cuCtxDestroy_v2},
	{"cuCtxGetApiVersion", 3020, (void *)cuCtxGetApiVersion},
	{"cuCtxGetCurrent", 4000, (void *)cuCtxGetCurrent},
	{"cuCtxGetDevice", 2000, (void *)cuCtxGetDevice},
	{"cuCtxGetFlags", 7000, (void *)cuCtxGetFlags},
	{"cuCtxGetStreamPriorityRange", 5050, (void *)cuCtxGetStreamPriorityRange},
	{"cuCtxPopCurrent", 4000, (void *)cuCtxPopCurrent_v2},
	{"cuCtxPushCurrent", 4000, (void *)cuCtxPushCurrent_v2},
	{"cuCtxSetCurrent", 4000, (void *)cuCtxSetCurrent},
	{"cuCtxSynchronize", 2000, (void *)cuCtxSynchronize},
	{"cuDeviceCanAccessPeer", 4000, (void *)cuDeviceCanAccessPeer},
	{"cuDeviceComputeCapability", 2000, (void *)cuDeviceComputeCapability},
	{"cuDeviceGet", 2000, (void *)cuDeviceGet},
	{"cuDeviceGetAttribute", 2000, (void *)cuDeviceGetAttribute},
	{"cuDeviceGetCount", 2000, (void *)cuDeviceGetCount},
	{"cuDeviceGetDefaultMemPool", 11020, (void *)cuDeviceGetDefaultMemPool},
	{"cuDeviceGetMemPool", 11020, (void *)cuDeviceGetMemPool},
	{"cuDeviceGetName", 2000, (void *)cuDeviceGetName},
	{"cuDeviceGetPCIBusId", 4010, (void *)cuDeviceGetPCIBusId},
	{"cuDeviceGetUuid", 11040, (void *)cuDeviceGetUuid_v2},
	{"cuDevicePrimaryCtxGetState", 7000, (void *)cuDevicePrimaryCtxGetState},
	{"cuDevicePrimaryCtxRelease", 11000, (void *)cuDevicePrimaryCtxRelease_v2},
	{"cuDevicePrimaryCtxReset", 11000, (void *)cuDevicePrimaryCtxReset_v2},
	{"cuDevicePrimaryCtxRetain", 7000, (void *)cuDevicePrimaryCtxRetain},
	{"cuDevicePrimaryCtxSetFlags", 11000, (void *)cuDevicePrimaryCtxSetFlags_v2},
	{"cuDeviceTotalMem", 3020, (void *)cuDeviceTotalMem_v2},
	{"cuDriverGetVersion", 2020, (void *)cuDriverGetVersion},
	{"cuEventCreate", 2000, (void *)cuEventCreate},
	{"cuEventDestroy", 4000, (void *)cuEventDestroy_v2},
	{"cuEventElapsedTime", 2000, (void *)cuEventElapsedTime},
	{"cuEventElapsedTime", 12080, (void *)cuEventElapsedTime_v2},
	{"cuEventQuery", 2000, (void *)cuEventQuery},
	{"cuEventRecord", 2000, (void *)cuEventRecord},
	{"cuEventRecordWithFlags", 11010, (void *)cuEventRecordWithFlags},
	{"cuEventSynchronize", 2000, (void *)cuEventSynchronize},
	{"cuFuncGetAttribute", 2020, (void *)cuFuncGetAttribute},
	{"cuFuncGetModule", 11000, (void *)cuFuncGetModule},
	{"cuFuncGetName", 12030, (void *)cuFuncGetName},
	{"cuFuncGetParamInfo", 12040, (void *)cuFuncGetParamInfo},
	{"cuFuncSetAttribute", 9000, (void *)cuFuncSetAttribute},
	{"cuGetErrorName", 6000, (void *)cuGetErrorName},
	{"cuGetErrorString", 6000, (void *)cuGetErrorString},
	{"cuGetExportTable", 3000, (void *)cuGetExportTable},
	{"cuGetProcAddress", 11030, (void *)cuGetProcAddress},
	{"cuGetProcAddress", 12000, (void *)cuGetProcAddress_v2},
	{"cuInit", 2000, (void *)cuInit},
	{"cuKernelGetFunction", 12000, (void *)cuKernelGetFunction},
	{"cuLaunchCooperativeKernel", 9000, (void *)cuLaunchCooperativeKernel},
	{"cuLaunchHostFunc", 10000, (void *)cuLaunchHostFunc},
	{"cuLaunchKernel", 4000, (void *)cuLaunchKernel},
	{"cuLaunchKernelEx", 11060, (void *)cuLaunchKernelEx},
	{"cuLibraryGetKernel", 12000, (void *)cuLibraryGetKernel},
	{"cuLibraryLoadData", 12000, (void *)cuLibraryLoadData},
	{"cuLibraryUnload", 12000, (void *)cuLibraryUnload},
	{"cuMemAddressFree", 10020, (void *)cuMemAddressFree},
	{"cuMemAddressReserve", 10020, (void *)cuMemAddressReserve},
	{"cuMemAllocAsync", 11020, (void *)cuMemAllocAsync},
	{"cuMemAllocFromPoolAsync", 11020, (void *)cuMemAllocFromPoolAsync},
	{"cuMemAllocHost", 3020, (void *)cuMemAllocHost_v2},
	{"cuMemAllocPitch", 3020, (void *)cuMemAllocPitch_v2},
	{"cuMemAlloc", 3020, (void *)cuMemAlloc_v2},
	{"cuMemCreate", 10020, (void *)cuMemCreate},
	{"cuMemExportToShareableHandle", 10020, (void *)cuMemExportToShareableHandle},
	{"cuMemFreeAsync", 11020, (void *)cuMemFreeAsync},
	{"cuMemFreeHost", 2000, (void *)cuMemFreeHost},
	{"cuMemFree", 3020, (void *)cuMemFree_v2},
	{"cuMemGetAccess", 10020, (void *)cuMemGetAccess},
	{"cuMemGetAddressRange", 3020, (void *)cuMemGetAddressRange_v2},
	{"cuMemGetAllocationGranularity", 10020, (void *)cuMemGetAllocationGranularity},
	{"cuMemGetAllocationPropertiesFromHandle", 10020, (void *)cuMemGetAllocationPropertiesFromHandle},
	{"cuMemGetInfo", 3020, (void *)cuMemGetInfo_v2},
	{"cuMemHostAlloc", 2020, (void *)cuMemHostAlloc},
	{"cuMemHostGetDevicePointer", 3020, (void *)cuMemHostGetDevicePointer_v2},
	{"cuMemHostGetFlags", 2030, (void *)cuMemHostGetFlags},
	{"cuMemHostRegister", 6050, (void *)cuMemHostRegister_v2},
	{"cuMemHostUnregister", 4000, (void *)cuMemHostUnregister},
	{"cuMemImportFromShareableHandle", 10020, (void *)cuMemImportFromShareableHandle},
	{"cuMemMap", 10020, (void *)cuMemMap},
	{"cuMemPoolCreate", 11020, (void *)cuMemPoolCreate},
	{"cuMemPoolDestroy", 11020, (void *)cuMemPoolDestroy},
	{"cuMemPoolGetAttribute", 11020, (void *)cuMemPoolGetAttribute},
	{"cuMemPoolSetAttribute", 11020, (void *)cuMemPoolSetAttribute},
	{"cuMemPoolTrimTo", 11020, (void *)cuMemPoolTrimTo},
	{"cuMemRelease", 10020, (void *)cuMemRelease},
	{"cuMemRetainAllocationHandle", 11000, (void *)cuMemRetainAllocationHandle},
	{"cuMemSetAccess", 10020, (void *)cuMemSetAccess},
	{"cuMemUnmap", 10020, (void *)cuMemUnmap},
	{"cuMemcpy", 4000, (void *)cuMemcpy},
	{"cuMemcpy2DAsync", 3020, (void *)cuMemcpy2DAsync_v2},
	{"cuMemcpy2DUnaligned", 3020, (void *)cuMemcpy2DUnaligned_v2},
	{"cuMemcpy2D", 3020, (void *)cuMemcpy2D_v2},
	{"cuMemcpyAsync", 4000, (void *)cuMemcpyAsync},
	{"cuMemcpyDtoDAsync", 3020, (void *)cuMemcpyDtoDAsync_v2},
	{"cuMemcpyDtoD", 3020, (void *)cuMemcpyDtoD_v2},
	{"cuMemcpyDtoHAsync", 3020, (void *)cuMemcpyDtoHAsync_v2},
	{"cuMemcpyDtoH", 3020, (void *)cuMemcpyDtoH_v2},
	{"cuMemcpyHtoDAsync", 3020, (void *)cuMemcpyHtoDAsync_v2},
	{"cuMemcpyHtoD", 3020, (void *)cuMemcpyHtoD_v2},
	{"cuMemsetD16Async", 3020, (void *)cuMemsetD16Async},
	{"cuMemsetD16", 3020, (void *)cuMemsetD16_v2},
	{"cuMemsetD2D16Async", 3020, (void *)cuMemsetD2D16Async},
	{"cuMemsetD2D16", 3020, (void *)cuMemsetD2D16_v2},
	{"cuMemsetD2D32Async", 3020, (void *)cuMemsetD2D32Async},
	{"cuMemsetD2D32", 3020, (void *)cuMemsetD2D32_v2},
	{"cuMemsetD2D8Async", 3020, (void *)cuMemsetD2D8Async},
	{"cuMemsetD2D8", 3020, (void *)cuMemsetD2D8_v2},
	{"cuMemsetD32Async", 3020, (void *)cuMemsetD32Async},
	{"cuMemsetD32", 3020, (void *)cuMemsetD32_v2},
	{"cuMemsetD8Async", 3020, (void *)cuMemsetD8Async},
	{"cuMemsetD8", 3020, (void *)cuMemsetD8_v2},
	{"cuModuleGetFunction", 2000, (void *)cuModuleGetFunction},
	{"cuModuleGetGlobal", 3020, (void *)cuModuleGetGlobal_v2},
	{"cuModuleLoad", 2000, (void *)cuModuleLoad},
	{"cuModuleLoadData", 2000, (void *)cuModuleLoadData},
	{"cuModuleLoadDataEx", 2010, (void *)cuModuleLoadDataEx},
	{"cuModuleUnload", 2000, (void *)cuModuleUnload},
	{"cuOccupancyMaxActiveBlocksPerMultiprocessor", 6050, (void *)cuOccupancyMaxActiveBlocksPerMultiprocessor},
	{"cuPointerGetAttribute", 4000, (void *)cuPointerGetAttribute},
	{"cuPointerGetAttributes", 7000, (void *)cuPointerGetAttributes},
	{"cuStreamAddCallback", 5000, (void *)cuStreamAddCallback},
	{"cuStreamCreate", 2000, (void *)cuStreamCreate},
	{"cuStreamCreateWithPriority", 5050, (void *)cuStreamCreateWithPriority},
	{"cuStreamDestroy", 4000, (void *)cuStreamDestroy_v2},
	{"cuStreamGetCtx", 9020, (void *)cuStreamGetCtx},
	{"cuStreamGetFlags", 5050, (void *)cuStreamGetFlags},
	{"cuStreamGetId", 12000, (void *)cuStreamGetId},
	{"cuStreamGetPriority", 5050, (void *)cuStreamGetPriority},
	{"cuStreamIsCapturing", 10000, (void *)cuStreamIsCapturing},
	{"cuStreamQuery", 2000, (void *)cuStreamQuery},
	{"cuStreamSynchronize", 2000, (void *)cuStreamSynchronize},
	{"cuStreamWaitEvent", 3020, (void *)cuStreamWaitEvent},
	/* clang-format on */
};

static CUdriverProcAddressQueryResult function_find(const char *base, int version, void **address)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
	int newest = -1;

	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		const struct function *function = &functions[i];

		if (strcmp(function->base, base))
			continue;
		if (function->version > version && status != CU_GET_PROC_ADDRESS_SUCCESS)
			status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
		if (function->version <= version && function->version > newest) {
			status = CU_GET_PROC_ADDRESS_SUCCESS;
			newest = function->version;
			*address = function->address;
		}
	}
	return status;
}

/*
 * A symbol that is not there is no error: *pfn is NULL. There are no forms for per-thread default streams; a caller
 * that asks for one gets the legacy form, as cuda.h says, which waits for more and never for less.
 */
static CUresult address_get(
	const char *symbol, void **pfn, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
	const cuuint64_t known = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
	CUdriverProcAddressQueryResult found;

	if (!symbol || !pfn || flags & ~known || version > CUDA_VERSION)
		return CUDA_ERROR_INVALID_VALUE;
	*pfn = NULL;
	found = function_find(symbol, version, pfn);
	if (status)
		*status = found;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	CUresult error = sc_enter(__func__);

	return error ? error : address_get(symbol, pfn, cudaVersion, flags, NULL);
}

CUresult CUDAAPI cuGetProcAddress_v2(
	const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)
{
	CUresult error = sc_enter(__func__);

	return error ? error : address_get(symbol, pfn, cudaVersion, flags, symbolStatus);
}

/* The tables behind this call are undocumented; programs that need one, as the CUDA runtime does, cannot run here. */
CUresult CUDAAPI cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
	CUresult error = sc_enter(__func__);

	if (error)
		return error;
	if (!ppExportTable || !pExportTableId)
		return CUDA_ERROR_INVALID_VALUE;
	*ppExportTable = NULL;
	return CUDA_ERROR_NOT_FOUND;
}
