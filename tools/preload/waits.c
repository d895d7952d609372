/*
 * tools/preload/waits.c: waiting for the work that may use memory which is about to go. Nobody may wait for a context while one of its
 * streams is captured, so captures are counted; what the program frees meanwhile goes later. A capture also ends with its stream, and
 * with its context.
 */
#include "preload.h"

#include <pthread.h>
#include <stdlib.h>

static atomic_int captures;
/*
 * Shared by those who wait; alone is who begins a capture, as a wait would invalidate it. One thread may share it twice: glibc lets
 * readers pass first.
 */
static pthread_rwlock_t waiting = PTHREAD_RWLOCK_INITIALIZER;

bool shim_is_captured(void)
{
	return atomic_load_explicit(&captures, memory_order_acquire) > 0;
}

bool shim_wait_begin(void)
{
	bool allowed;

	pthread_rwlock_rdlock(&waiting);
	allowed = !shim_is_captured();
	if (!allowed)
		pthread_rwlock_unlock(&waiting);
	return allowed;
}

void shim_wait_end(bool begun)
{
	if (begun)
		pthread_rwlock_unlock(&waiting);
}

static CUresult context_wait(CUcontext context)
{
	const struct shim_real *driver = shim_real();
	CUresult result = driver->cuCtxPushCurrent_v2(context);

	if (result)
		return result;
	result = shim_fault_check(driver->cuCtxSynchronize(), NULL);
	driver->cuCtxPopCurrent_v2(&context);
	return result;
}

CUresult shim_context_wait(CUcontext context)
{
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuCtxPushCurrent_v2 || !driver->cuCtxPopCurrent_v2 || !driver->cuCtxSynchronize)
		return SHIM_ABSENT;
	if (!shim_wait_begin())
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	result = context_wait(context);
	shim_wait_end(true);
	return result;
}

/* The driver refuses some calls in a capture, and makes it invalid; to one that takes no time it answers the same. */
CUresult shim_capture_refuses(void)
{
	const struct shim_real *driver = shim_real();
	CUdeviceptr small;
	CUresult result;

	if (!shim_is_captured() || !driver->cuMemAlloc_v2 || !driver->cuMemFree_v2)
		return CUDA_SUCCESS;
	result = driver->cuMemAlloc_v2(&small, 1);
	if (!result)
		driver->cuMemFree_v2(small);
	return shim_is_of_capture(result) ? result : CUDA_SUCCESS;
}

bool shim_is_of_capture(CUresult error)
{
	return error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || error == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ||
	       error == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
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

static struct capture {
	struct capture *next;
	CUstream stream;
	CUcontext context;
	pthread_t thread; /* CU_STREAM_PER_THREAD is another stream in each */
} * list;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static CUstream stream_of(CUstream stream, bool per_thread)
{
	return stream ? stream : per_thread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
}

/* Those of a stream, or of a context. */
static void captures_remove(CUstream stream, CUcontext context)
{
	if (!shim_is_captured())
		return;
	pthread_mutex_lock(&lock);
	for (struct capture **link = &list, *capture; (capture = *link);) {
		bool same =
			stream ? capture->stream == stream && (stream != CU_STREAM_PER_THREAD ||
								      pthread_equal(capture->thread, pthread_self()))
			       : capture->context == context;

		if (!same) {
			link = &capture->next;
			continue;
		}
		*link = capture->next;
		free(capture);
		atomic_fetch_sub(&captures, 1);
	}
	pthread_mutex_unlock(&lock);
}

void shim_captures_end(CUcontext context)
{
	captures_remove(NULL, context);
}

static CUcontext context_of(CUstream stream)
{
	const struct shim_real *driver = shim_real();
	CUcontext context = NULL;

	if (stream != CU_STREAM_PER_THREAD && driver->cuStreamGetCtx && !driver->cuStreamGetCtx(stream, &context))
		return context;
	return driver->cuCtxGetCurrent && !driver->cuCtxGetCurrent(&context) ? context : NULL;
}

/* Without memory it is counted, and never ends: what is freed from then on stays. */
static void capture_add(CUstream stream, bool per_thread)
{
	struct capture *capture;

	stream = stream_of(stream, per_thread);
	captures_remove(stream, NULL);
	capture = malloc(sizeof(*capture));
	pthread_mutex_lock(&lock);
	if (capture) {
		*capture = (struct capture){list, stream, context_of(stream), pthread_self()};
		list = capture;
	}
	atomic_fetch_add(&captures, 1);
	pthread_mutex_unlock(&lock);
}

/* Between the two the driver begins a capture. */
static void begin(void)
{
	pthread_rwlock_wrlock(&waiting);
}

static CUresult begun(CUresult result, CUstream stream, bool per_thread)
{
	if (!result)
		capture_add(stream, per_thread);
	pthread_rwlock_unlock(&waiting);
	return result;
}

/* One that was invalidated, or not joined, has ended too. */
static CUresult ended(CUresult result, CUstream stream, bool per_thread)
{
	if (result == CUDA_SUCCESS || result == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ||
		result == CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
		captures_remove(stream_of(stream, per_thread), NULL);
	return result;
}

/* Before it goes: its handle may come back as another stream's at once. */
static CUresult destroy(CUstream stream, __typeof__(cuStreamDestroy) *call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);

	if (!call)
		return SHIM_ABSENT;
	if (stream && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD) /* those stay */
		captures_remove(stream, NULL);
	return call(stream);
}

CUresult CUDAAPI cuStreamDestroy_v2(CUstream hStream)
{
	return destroy(hStream, shim_real()->cuStreamDestroy_v2);
}

CUresult CUDAAPI cuStreamDestroy(CUstream hStream)
{
	return destroy(hStream, shim_real()->cuStreamDestroy);
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCapture)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCapture(hStream), hStream, false);
}

CUresult CUDAAPI cuStreamBeginCapture_ptsz(CUstream hStream)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCapture_ptsz)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCapture_ptsz(hStream), hStream, true);
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCapture_v2)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCapture_v2(hStream, mode), hStream, false);
}

CUresult CUDAAPI cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCapture_v2_ptsz)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCapture_v2_ptsz(hStream, mode), hStream, true);
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCaptureToGraph)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCaptureToGraph(
			     hStream, hGraph, dependencies, dependencyData, numDependencies, mode),
		hStream, false);
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	if (!driver->cuStreamBeginCaptureToGraph_ptsz)
		return SHIM_ABSENT;
	begin();
	return begun(driver->cuStreamBeginCaptureToGraph_ptsz(
			     hStream, hGraph, dependencies, dependencyData, numDependencies, mode),
		hStream, true);
}

CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamEndCapture ? ended(driver->cuStreamEndCapture(hStream, phGraph), hStream, false)
					  : SHIM_ABSENT;
}

CUresult CUDAAPI cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CAPTURES);
	const struct shim_real *driver = shim_real();

	return driver->cuStreamEndCapture_ptsz ? ended(driver->cuStreamEndCapture_ptsz(hStream, phGraph), hStream, true)
					       : SHIM_ABSENT;
}

void shim_waits_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	waiting = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
	list = NULL;
	atomic_store(&captures, 0);
}
