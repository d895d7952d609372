/*
 * tools/preload/hooks.h: the driver functions that the shim stands in front of, by the exact names of their symbols.
 *
 * A name here is an exported function of ours, a member of struct shim_real (the driver's own), a row of the table that
 * maps one to the other, and a line of preload.map; tests/preload/hooks_test.sh checks that they agree. A _ptsz or
 * _ptds form is the same function for a caller whose default stream is its thread's own.
 */
#ifndef SHIM_HOOKS_H
#define SHIM_HOOKS_H

/* What cuda.h declares is what we export; all else is hidden (-fvisibility). */
#pragma GCC visibility push(default)
#include <cuda.h>

/* clang-format off */
#define SHIM_HOOKS(F)                                                                                                  \
	F(cuInit) F(cuGetProcAddress) F(cuGetProcAddress_v2)                                                           \
	F(cuMemAlloc_v2) F(cuMemAllocPitch_v2) F(cuMemFree_v2)                                                         \
	F(cuMemAllocAsync) F(cuMemAllocAsync_ptsz) F(cuMemFreeAsync) F(cuMemFreeAsync_ptsz)                            \
	F(cuMemAllocFromPoolAsync) F(cuMemAllocFromPoolAsync_ptsz)                                                     \
	F(cuMemAddressReserve) F(cuMemAddressFree) F(cuMemCreate) F(cuMemRelease) F(cuMemMap) F(cuMemUnmap)            \
	F(cuMemSetAccess) F(cuMemGetAccess) F(cuMemRetainAllocationHandle) F(cuMemGetAllocationPropertiesFromHandle)   \
	F(cuMulticastBindMem) F(cuMemMapArrayAsync) F(cuMemMapArrayAsync_ptsz)                                         \
	F(cuMemExportToShareableHandle)                                                                                \
	F(cuCtxDestroy_v2) F(cuDevicePrimaryCtxRetain) F(cuDevicePrimaryCtxRelease_v2) F(cuDevicePrimaryCtxReset_v2)   \
	F(cuCtxDestroy) F(cuDevicePrimaryCtxRelease) F(cuDevicePrimaryCtxReset) F(cuStreamDestroy) F(cuStreamDestroy_v2) \
	F(cuStreamBeginCapture) F(cuStreamBeginCapture_ptsz) F(cuStreamBeginCapture_v2) F(cuStreamBeginCapture_v2_ptsz) \
	F(cuStreamBeginCaptureToGraph) F(cuStreamBeginCaptureToGraph_ptsz)                                             \
	F(cuStreamEndCapture) F(cuStreamEndCapture_ptsz)                                                               \
	F(cuMemPoolGetAttribute) F(cuMemPoolSetAttribute) F(cuMemPoolCreate) F(cuMemPoolDestroy) F(cuMemPoolExportPointer)                \
	F(cuMemPoolSetAccess) F(cuCtxEnablePeerAccess) F(cuMemGetHandleForAddressRange)                                \
	F(cuMemGetAddressRange_v2) F(cuPointerGetAttribute) F(cuPointerGetAttributes) F(cuIpcGetMemHandle)             \
	F(cuLaunchKernel) F(cuLaunchKernel_ptsz) F(cuLaunchKernelEx) F(cuLaunchKernelEx_ptsz)                          \
	F(cuLaunchCooperativeKernel) F(cuLaunchCooperativeKernel_ptsz) F(cuModuleUnload) F(cuLibraryUnload)            \
	F(cuMemsetD8_v2) F(cuMemsetD8_v2_ptds) F(cuMemsetD16_v2) F(cuMemsetD16_v2_ptds)                                \
	F(cuMemsetD32_v2) F(cuMemsetD32_v2_ptds)                                                                       \
	F(cuMemsetD8Async) F(cuMemsetD8Async_ptsz) F(cuMemsetD16Async) F(cuMemsetD16Async_ptsz)                        \
	F(cuMemsetD32Async) F(cuMemsetD32Async_ptsz)                                                                   \
	F(cuMemsetD2D8_v2) F(cuMemsetD2D8_v2_ptds) F(cuMemsetD2D16_v2) F(cuMemsetD2D16_v2_ptds)                        \
	F(cuMemsetD2D32_v2) F(cuMemsetD2D32_v2_ptds)                                                                   \
	F(cuMemsetD2D8Async) F(cuMemsetD2D8Async_ptsz) F(cuMemsetD2D16Async) F(cuMemsetD2D16Async_ptsz)                \
	F(cuMemsetD2D32Async) F(cuMemsetD2D32Async_ptsz)                                                               \
	F(cuMemcpy) F(cuMemcpy_ptds) F(cuMemcpyAsync) F(cuMemcpyAsync_ptsz)                                            \
	F(cuMemcpyHtoD_v2) F(cuMemcpyHtoD_v2_ptds) F(cuMemcpyHtoDAsync_v2) F(cuMemcpyHtoDAsync_v2_ptsz)                \
	F(cuMemcpyDtoD_v2) F(cuMemcpyDtoD_v2_ptds) F(cuMemcpyDtoDAsync_v2) F(cuMemcpyDtoDAsync_v2_ptsz)                \
	F(cuMemcpyDtoH_v2) F(cuMemcpyDtoH_v2_ptds) F(cuMemcpyDtoHAsync_v2) F(cuMemcpyDtoHAsync_v2_ptsz)               \
	F(cuMemcpy2D_v2) F(cuMemcpy2D_v2_ptds) F(cuMemcpy2DUnaligned_v2) F(cuMemcpy2DUnaligned_v2_ptds)                \
	F(cuMemcpy2DAsync_v2) F(cuMemcpy2DAsync_v2_ptsz)                                                               \
	F(cuMemcpy3D_v2) F(cuMemcpy3D_v2_ptds) F(cuMemcpy3DAsync_v2) F(cuMemcpy3DAsync_v2_ptsz)                        \
	F(cuMemcpy3DPeer) F(cuMemcpy3DPeer_ptds) F(cuMemcpy3DPeerAsync) F(cuMemcpy3DPeerAsync_ptsz)                    \
	F(cuMemcpyPeer) F(cuMemcpyPeer_ptds) F(cuMemcpyPeerAsync) F(cuMemcpyPeerAsync_ptsz)                            \
	F(cuMemcpyAtoD_v2) F(cuMemcpyAtoD_v2_ptds)                                                                     \
	F(cuMemcpyBatchAsync) F(cuMemcpyBatchAsync_ptsz) F(cuMemcpyBatchAsync_v2) F(cuMemcpyBatchAsync_v2_ptsz)        \
	F(cuMemcpy3DBatchAsync) F(cuMemcpy3DBatchAsync_ptsz) F(cuMemcpy3DBatchAsync_v2) F(cuMemcpy3DBatchAsync_v2_ptsz) \
	F(cuStreamWriteValue32) F(cuStreamWriteValue32_ptsz) F(cuStreamWriteValue32_v2) F(cuStreamWriteValue32_v2_ptsz)  \
	F(cuStreamWriteValue64) F(cuStreamWriteValue64_ptsz) F(cuStreamWriteValue64_v2) F(cuStreamWriteValue64_v2_ptsz)  \
	F(cuStreamBatchMemOp) F(cuStreamBatchMemOp_ptsz) F(cuStreamBatchMemOp_v2) F(cuStreamBatchMemOp_v2_ptsz)          \
	F(cuTensorMapEncodeTiled) F(cuTensorMapEncodeIm2col) F(cuTensorMapEncodeIm2colWide)                            \
	F(cuTensorMapReplaceAddress)                                                                                   \
	F(cuCtxSynchronize) F(cuStreamSynchronize) F(cuStreamSynchronize_ptsz) F(cuEventSynchronize)     \
	F(cuStreamQuery) F(cuStreamQuery_ptsz) F(cuEventQuery) F(cuGetErrorName) F(cuGetErrorString) \
	F(cuGraphInstantiate) F(cuGraphInstantiate_v2) F(cuGraphExecUpdate)                                            \
	F(cuGraphAddKernelNode) F(cuGraphKernelNodeSetParams) F(cuGraphExecKernelNodeSetParams)                        \
	F(cuGraphAddKernelNode_v2) F(cuGraphKernelNodeSetParams_v2) F(cuGraphExecKernelNodeSetParams_v2)               \
	F(cuGraphAddNode) F(cuGraphAddNode_v2) F(cuGraphNodeSetParams) F(cuGraphExecNodeSetParams)                     \
	F(cuGraphAddMemcpyNode) F(cuGraphMemcpyNodeSetParams) F(cuGraphExecMemcpyNodeSetParams)                        \
	F(cuGraphAddMemsetNode) F(cuGraphMemsetNodeSetParams) F(cuGraphExecMemsetNodeSetParams)                        \
	F(cuGraphInstantiateWithFlags) F(cuGraphInstantiateWithParams) F(cuGraphInstantiateWithParams_ptsz)            \
	F(cuGraphLaunch) F(cuGraphLaunch_ptsz) F(cuGraphExecUpdate_v2) F(cuGraphDestroy) F(cuGraphExecDestroy)            \
	F(cuGraphAddBatchMemOpNode) F(cuGraphBatchMemOpNodeSetParams) F(cuGraphExecBatchMemOpNodeSetParams)            \
	F(cuGraphExecChildGraphNodeSetParams) F(cuGraphExecHostNodeSetParams)                                          \
	F(cuGraphExecEventRecordNodeSetEvent) F(cuGraphExecEventWaitNodeSetEvent)                                      \
	F(cuGraphAddDependencies_v2) F(cuGraphRemoveDependencies_v2)

/* Others of the driver's that the shim calls, and does not stand in front of. */
#define SHIM_CALLS(F)                                                                                                  \
	F(cuCtxGetCurrent) F(cuCtxGetDevice) F(cuStreamGetCtx) F(cuCtxPushCurrent_v2) F(cuCtxPopCurrent_v2) F(cuDevicePrimaryCtxGetState)   \
	F(cuDeviceGetMemPool) F(cuDeviceGetDefaultMemPool) F(cuFuncGetName) F(cuFuncGetParamInfo) F(cuKernelGetName)                                \
	F(cuKernelGetParamInfo) F(cuStreamIsCapturing) F(cuStreamIsCapturing_ptsz) F(cuEventRecord)                    \
	F(cuMemGetAllocationGranularity) F(cuMemGetInfo_v2) F(cuArray3DGetDescriptor_v2) F(cuGraphGetNodes) F(cuGraphNodeGetType) F(cuGraphNodeSetEnabled)             \
	F(cuGraphNodeGetEnabled) F(cuGraphKernelNodeGetParams_v2) F(cuGraphNodeGetDependencies_v2)  \
	F(cuGraphClone) F(cuGraphNodeFindInClone) F(cuGraphDestroyNode) F(cuGraphChildGraphNodeGetGraph)

/* cuda.h hides these behind newer forms, or declares them only for callers with a default stream of their own. */
#undef cuGetProcAddress
#undef cuCtxDestroy
#undef cuDevicePrimaryCtxRelease
#undef cuDevicePrimaryCtxReset
#undef cuStreamDestroy
#undef cuGraphAddNode
#undef cuStreamBeginCapture
#undef cuGraphInstantiate
#undef cuGraphExecUpdate
#undef cuGraphAddKernelNode
#undef cuGraphKernelNodeSetParams
#undef cuGraphExecKernelNodeSetParams
#undef cuStreamWriteValue32
#undef cuStreamWriteValue64
#undef cuStreamBatchMemOp
#undef cuMemcpyBatchAsync
#undef cuMemcpy3DBatchAsync
#define SHIM_PTSZ(F)                                                                                                   \
	F(cuMemAllocAsync) F(cuMemFreeAsync) F(cuMemAllocFromPoolAsync) F(cuLaunchKernel) F(cuLaunchKernelEx)          \
	F(cuLaunchCooperativeKernel) F(cuMemsetD8Async) F(cuMemsetD16Async) F(cuMemsetD32Async)                        \
	F(cuMemsetD2D8Async) F(cuMemsetD2D16Async) F(cuMemsetD2D32Async) F(cuMemcpyAsync) F(cuMemcpyHtoDAsync_v2)      \
	F(cuMemcpy3DAsync_v2) F(cuMemcpy3DPeerAsync) F(cuMemcpyPeerAsync)                                             \
	F(cuMemcpyDtoDAsync_v2) F(cuMemcpy2DAsync_v2) F(cuMemcpyDtoHAsync_v2) F(cuStreamSynchronize)  \
	F(cuStreamQuery) F(cuStreamIsCapturing) F(cuStreamWriteValue32) F(cuStreamWriteValue32_v2)                      \
	F(cuStreamWriteValue64) F(cuStreamWriteValue64_v2) F(cuStreamBatchMemOp) F(cuStreamBatchMemOp_v2) F(cuGraphLaunch) F(cuGraphInstantiateWithParams) F(cuMemcpyBatchAsync)                        \
	F(cuMemcpyBatchAsync_v2) F(cuMemcpy3DBatchAsync) F(cuMemcpy3DBatchAsync_v2)                                  \
	F(cuStreamBeginCapture) F(cuStreamBeginCapture_v2) F(cuStreamBeginCaptureToGraph) F(cuStreamEndCapture)        \
	F(cuMemMapArrayAsync)
#define SHIM_PTDS(F)                                                                                                   \
	F(cuMemsetD8_v2) F(cuMemsetD16_v2) F(cuMemsetD32_v2) F(cuMemsetD2D8_v2) F(cuMemsetD2D16_v2)                    \
	F(cuMemsetD2D32_v2) F(cuMemcpy) F(cuMemcpyHtoD_v2) F(cuMemcpyDtoD_v2) F(cuMemcpyDtoH_v2) F(cuMemcpy2D_v2)      \
	F(cuMemcpy2DUnaligned_v2) F(cuMemcpy3D_v2) F(cuMemcpy3DPeer) F(cuMemcpyPeer)           \
	F(cuMemcpyAtoD_v2)
/* clang-format on */

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags);
CUresult CUDAAPI cuCtxDestroy(CUcontext ctx);
CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice dev);
CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice dev);
CUresult CUDAAPI cuStreamDestroy(CUstream hStream);
CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream);
CUresult CUDAAPI cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUgraphNodeParams *nodeParams);
CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUgraphNodeParams *nodeParams);
CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, size_t *failIdx, CUstream hStream);
CUresult CUDAAPI cuMemcpy3DBatchAsync(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx, unsigned long long flags, CUstream hStream);
CUresult CUDAAPI cuGraphInstantiate(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize);
CUresult CUDAAPI cuGraphInstantiate_v2(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize);
CUresult CUDAAPI cuGraphExecUpdate(
	CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out);
CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams);
CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams);
CUresult CUDAAPI cuGraphExecKernelNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams);
CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags);
CUresult CUDAAPI cuStreamWriteValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags);
CUresult CUDAAPI cuStreamBatchMemOp(
	CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags);
#define SHIM_DECLARE_PTSZ(name) __typeof__(name) name##_ptsz;
#define SHIM_DECLARE_PTDS(name) __typeof__(name) name##_ptds;
SHIM_PTSZ(SHIM_DECLARE_PTSZ)
SHIM_PTDS(SHIM_DECLARE_PTDS)
#undef SHIM_DECLARE_PTSZ
#undef SHIM_DECLARE_PTDS
#pragma GCC visibility pop

#endif
