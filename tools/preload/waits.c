/*
 * tools/preload/waits.c: waiting for the work that may use memory which is about to go. Nobody may wait for a context while one of its
 * streams is captured, so captures are counted; what the program frees meanwhile goes later.
 */
#include "preload.h"

static atomic_int captures;

bool shim_is_captured(void)
{
	return atomic_load_explicit(&captures, memory_order_acquire) > 0;
}

CUresult shim_context_wait(CUcontext context)
{
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuCtxPushCurrent_v2 || !driver->cuCtxPopCurrent_v2 || !driver->cuCtxSynchronize)
		return SHIM_ABSENT;
	result = driver->cuCtxPushCurrent_v2(context);
	if (result)
		return result;
	result = shim_fault_check(driver->cuCtxSynchronize(), NULL);
	driver->cuCtxPopCurrent_v2(&context);
	return result;
}

bool shim_is_lost(CUresult error)
{
	switch (error) {
	case CUDA_ERROR_DEINITIALIZED: /* the program ends */
	case CUDA_ERROR_ECC_UNCORRECTABLE:
	case CUDA_ERROR_NVLINK_UNCORRECTABLE:
	case CUDA_ERROR_ILLEGAL_ADDRESS:
	case CUDA_ERROR_LAUNCH_TIMEOUT:
	case CUDA_ERROR_CONTEXT_IS_DESTROYED:
	case CUDA_ERROR_ASSERT:
	case CUDA_ERROR_HARDWARE_STACK_ERROR:
	case CUDA_ERROR_ILLEGAL_INSTRUCTION:
	case CUDA_ERROR_MISALIGNED_ADDRESS:
	case CUDA_ERROR_INVALID_ADDRESS_SPACE:
	case CUDA_ERROR_INVALID_PC:
	case CUDA_ERROR_LAUNCH_FAILED:
	case CUDA_ERROR_UNKNOWN:
		return true;
	default:
		return false;
	}
}

/* ---- captures ---- */

static CUresult begun(CUresult result)
{
	if (!result)
		atomic_fetch_add(&captures, 1);
	return result;
}

/* One that was invalidated, or not joined, has ended too. */
static CUresult ended(CUresult result)
{
	if (result == CUDA_SUCCESS || result == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ||
		result == CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
		atomic_fetch_sub(&captures, 1);
	return result;
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamBeginCapture ? begun(driver->cuStreamBeginCapture(hStream)) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamBeginCapture_ptsz(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamBeginCapture_ptsz ? begun(driver->cuStreamBeginCapture_ptsz(hStream)) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamBeginCapture_v2 ? begun(driver->cuStreamBeginCapture_v2(hStream, mode)) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamBeginCapture_v2_ptsz ? begun(driver->cuStreamBeginCapture_v2_ptsz(hStream, mode))
						    : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCaptureToGraph)
		return SHIM_ABSENT;
	return begun(driver->cuStreamBeginCaptureToGraph(
		hStream, hGraph, dependencies, dependencyData, numDependencies, mode));
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCaptureToGraph_ptsz)
		return SHIM_ABSENT;
	return begun(driver->cuStreamBeginCaptureToGraph_ptsz(
		hStream, hGraph, dependencies, dependencyData, numDependencies, mode));
}

CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamEndCapture ? ended(driver->cuStreamEndCapture(hStream, phGraph)) : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamEndCapture_ptsz ? ended(driver->cuStreamEndCapture_ptsz(hStream, phGraph)) : SHIM_ABSENT;
}

void shim_waits_forget(void)
{
	atomic_store(&captures, 0);
}
