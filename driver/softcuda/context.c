/*
 * driver/softcuda/context.c: contexts: the primary one and those that a program creates.
 *
 * A context owns streams, events, modules and allocations; it can be lost (a fault), after which its calls give the
 * fault's error and only what frees and destroys still works. Memory of the VMM family belongs to no context.
 */
#include "capture.h"
#include "memory.h"

#include <stdlib.h>

static pthread_mutex_t primary_lock = PTHREAD_MUTEX_INITIALIZER; /* guards these two; taken before any other */
static struct sc_context *primary;
static unsigned primary_flags;

static CUresult context_create(unsigned flags, struct sc_context **out)
{
	struct sc_context *context = calloc(1, sizeof(*context));
	CUresult error;

	if (!context)
		return CUDA_ERROR_OUT_OF_MEMORY;
	context->references = 1;
	context->flags = flags;
	sc_limits_init(context);
	pthread_mutex_init(&context->order, NULL);
	pthread_cond_init(&context->stream_left, NULL);
	error = sc_stream_create(context, CU_STREAM_DEFAULT, 0, &context->legacy);
	if (error) {
		pthread_cond_destroy(&context->stream_left);
		pthread_mutex_destroy(&context->order);
		free(context);
		return error;
	}
	pthread_mutex_lock(&sc_lock);
	context->key = sc_object_add(SC_CONTEXT, context);
	pthread_mutex_unlock(&sc_lock);
	*out = context;
	return CUDA_SUCCESS;
}

/* A stream of the context that the program still holds, taken from it. */
static struct sc_stream *stream_take(struct sc_context *context)
{
	struct sc_stream *stream;
	size_t cursor = 0;

	pthread_mutex_lock(&sc_lock);
	while ((stream = sc_object_next(SC_STREAM, &cursor))) {
		if (stream->context == context) {
			sc_object_remove(SC_STREAM, stream->key);
			break;
		}
	}
	pthread_mutex_unlock(&sc_lock);
	return stream;
}

/* The context is already out of the registry: nobody finds it any more. */
static void context_destroy(struct sc_context *context)
{
	struct sc_stream *stream;

	sc_context_drain(context);
	while ((stream = stream_take(context)))
		sc_stream_close(stream);
	sc_stream_close(context->legacy);
	pthread_mutex_lock(&context->order);
	while (context->streams)
		pthread_cond_wait(&context->stream_left, &context->order);
	pthread_mutex_unlock(&context->order);
	pthread_mutex_lock(&sc_lock);
	sc_events_free_of(context);
	sc_modules_free_of(context);
	sc_arrays_free_of(context);
	sc_ranges_free_of(context);
	pthread_mutex_unlock(&sc_lock);
	pthread_cond_destroy(&context->stream_left);
	pthread_mutex_destroy(&context->order);
	free(context);
}

void sc_contexts_reset(void)
{
	struct sc_context *context;

	for (;;) {
		size_t cursor = 0;

		pthread_mutex_lock(&sc_lock);
		context = sc_object_next(SC_CONTEXT, &cursor);
		if (context)
			sc_object_remove(SC_CONTEXT, context->key);
		pthread_mutex_unlock(&sc_lock);
		if (!context)
			break;
		context_destroy(context);
	}
	pthread_mutex_lock(&primary_lock);
	primary = NULL;
	primary_flags = 0;
	pthread_mutex_unlock(&primary_lock);
	sc_current_reset();
}

/* ---- the primary context ---- */

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!pctx || dev != 0)
		return pctx ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&primary_lock);
	if (primary)
		primary->references++;
	else
		error = context_create(primary_flags, &primary);
	if (!error)
		*pctx = (CUcontext)(uintptr_t)primary->key;
	pthread_mutex_unlock(&primary_lock);
	return error;
}

static void context_forget(struct sc_context *context)
{
	pthread_mutex_lock(&sc_lock);
	sc_object_remove(SC_CONTEXT, context->key);
	pthread_mutex_unlock(&sc_lock);
	context_destroy(context);
}

/* Drops one reference of the primary context, or all of them. */
static CUresult primary_release(CUdevice device, bool all)
{
	struct sc_context *gone = NULL;
	CUresult error = CUDA_SUCCESS;

	if (device != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	pthread_mutex_lock(&primary_lock);
	if (!primary) {
		error = all ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
	} else if (all || --primary->references == 0) {
		gone = primary;
		primary = NULL;
	}
	pthread_mutex_unlock(&primary_lock);
	if (gone)
		context_forget(gone);
	return error;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	return error ? error : primary_release(dev, false);
}

CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	return error ? error : primary_release(dev, true);
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	pthread_mutex_lock(&primary_lock);
	primary_flags = flags;
	if (primary)
		primary->flags = flags;
	pthread_mutex_unlock(&primary_lock);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	if (!flags || !active)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&primary_lock);
	*flags = primary_flags;
	*active = primary != NULL;
	pthread_mutex_unlock(&primary_lock);
	return CUDA_SUCCESS;
}

/* ---- created contexts ---- */

static CUresult create_and_push(CUcontext *pctx, unsigned flags, CUdevice device)
{
	struct sc_context *context;
	CUresult error;

	if (!pctx || flags & ~(unsigned)CU_CTX_FLAGS_MASK)
		return CUDA_ERROR_INVALID_VALUE;
	if (device != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	error = context_create(flags, &context);
	if (error)
		return error;
	if (!sc_current_push(context->key)) {
		context_forget(context);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*pctx = (CUcontext)(uintptr_t)context->key;
	return CUDA_SUCCESS;
}

#undef cuCtxCreate
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev);
CUresult CUDAAPI cuCtxCreate_v3(
	CUcontext *pctx, CUexecAffinityParam *affinity, int count, unsigned int flags, CUdevice dev);

CUresult CUDAAPI cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	return error ? error : create_and_push(pctx, flags, dev);
}

CUresult CUDAAPI cuCtxCreate_v3(
	CUcontext *pctx, CUexecAffinityParam *affinity, int count, unsigned int flags, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (affinity || count)
		return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
	return create_and_push(pctx, flags, dev);
}

#if CUDA_VERSION >= 12050
CUresult CUDAAPI cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *params, unsigned int flags, CUdevice dev);

CUresult CUDAAPI cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *params, unsigned int flags, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (params && (params->execAffinityParams || params->numExecAffinityParams))
		return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
	if (params && params->cigParams)
		return CUDA_ERROR_NOT_SUPPORTED;
	return create_and_push(pctx, flags, dev);
}
#endif

CUresult CUDAAPI cuCtxDestroy(CUcontext ctx)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_context *context;
	bool is_primary;
	uint64_t key;

	if (error)
		return error;
	pthread_mutex_lock(&primary_lock);
	is_primary = primary && primary->key == sc_key(ctx);
	pthread_mutex_unlock(&primary_lock);
	if (is_primary)
		return CUDA_ERROR_INVALID_CONTEXT; /* it is released, not destroyed */
	pthread_mutex_lock(&sc_lock);
	context = sc_object_remove(SC_CONTEXT, sc_key(ctx));
	pthread_mutex_unlock(&sc_lock);
	if (!context)
		return CUDA_ERROR_INVALID_CONTEXT;
	if (sc_current_key() == sc_key(ctx))
		sc_current_pop(&key);
	context_destroy(context);
	return CUDA_SUCCESS;
}

/* ---- the stack ---- */

static bool context_exists(CUcontext ctx)
{
	bool exists;

	pthread_mutex_lock(&sc_lock);
	exists = sc_object_find(SC_CONTEXT, sc_key(ctx)) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return exists;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext ctx)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!context_exists(ctx))
		return CUDA_ERROR_INVALID_CONTEXT;
	return sc_current_push(sc_key(ctx)) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *pctx)
{
	CUresult error = sc_enter_initialized(__func__);
	uint64_t key;

	if (error)
		return error;
	if (!sc_current_pop(&key))
		return CUDA_ERROR_INVALID_CONTEXT;
	if (pctx)
		*pctx = (CUcontext)(uintptr_t)key;
	return CUDA_SUCCESS;
}

/* Replaces the top of the stack; NULL takes it away. */
CUresult CUDAAPI cuCtxSetCurrent(CUcontext ctx)
{
	CUresult error = sc_enter_initialized(__func__);
	uint64_t key;

	if (error)
		return error;
	if (!ctx) {
		sc_current_pop(&key);
		return CUDA_SUCCESS;
	}
	if (!context_exists(ctx))
		return CUDA_ERROR_INVALID_CONTEXT;
	sc_current_replace(sc_key(ctx));
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *pctx)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!pctx)
		return CUDA_ERROR_INVALID_VALUE;
	*pctx = (CUcontext)(uintptr_t)sc_current_key();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);

	if (error)
		return error;
	if (!device)
		return CUDA_ERROR_INVALID_VALUE;
	*device = 0;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetFlags(unsigned int *flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!flags)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = context->flags;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!version)
		return CUDA_ERROR_INVALID_VALUE;
	if (ctx && !context_exists(ctx))
		return CUDA_ERROR_INVALID_CONTEXT;
	*version = 3020; /* what every driver since CUDA 3.2 says */
	return CUDA_SUCCESS;
}

static CUresult synchronize_current(const char *call)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(call, &context);

	if (error)
		return error;
	error = sc_capture_sync_all(context);
	if (error)
		return error;
	sc_context_drain(context);
	return sc_context_error(context);
}

#undef cuCtxSynchronize
CUresult CUDAAPI cuCtxSynchronize(void)
{
	return synchronize_current(__func__);
}

#if CUDA_VERSION >= 13000
/* "If the specified context is NULL, the API will operate on the current context." */
CUresult CUDAAPI cuCtxSynchronize_v2(CUcontext ctx)
{
	CUresult error;
	uint64_t key;

	if (!ctx)
		return synchronize_current(__func__);
	if (!context_exists(ctx))
		return CUDA_ERROR_INVALID_CONTEXT;
	if (!sc_current_push(sc_key(ctx)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	error = synchronize_current(__func__);
	sc_current_pop(&key);
	return error;
}
#endif
