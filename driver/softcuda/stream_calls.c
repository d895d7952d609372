/*
 * driver/softcuda/stream_calls.c: the driver's calls on streams.
 */
#include "capture.h"

#include <stdlib.h>

enum { PRIORITY_LEAST = 0, PRIORITY_GREATEST = -5 };

/* A thread's own default stream (CU_STREAM_PER_THREAD) in the context that it used last. */
struct thread_stream {
	uint64_t context_key, stream_key;
};

static pthread_key_t thread_stream_key;
static pthread_once_t thread_stream_once = PTHREAD_ONCE_INIT;

static void stream_forget(uint64_t key)
{
	struct sc_stream *stream;

	pthread_mutex_lock(&sc_lock);
	stream = sc_object_remove(SC_STREAM, key);
	pthread_mutex_unlock(&sc_lock);
	if (stream)
		sc_stream_close(stream);
}

static void thread_stream_free(void *value)
{
	stream_forget(((struct thread_stream *)value)->stream_key);
	free(value);
}

static void thread_stream_init(void)
{
	pthread_key_create(&thread_stream_key, thread_stream_free);
}

static struct sc_stream *stream_with_key(uint64_t key)
{
	struct sc_stream *stream;

	pthread_mutex_lock(&sc_lock);
	stream = sc_object_find(SC_STREAM, key);
	if (stream)
		atomic_fetch_add(&stream->references, 1);
	pthread_mutex_unlock(&sc_lock);
	return stream;
}

static CUresult stream_add(struct sc_context *context, unsigned flags, int priority, uint64_t *key)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_create(context, flags, priority, &stream);

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	*key = stream->key = sc_object_add(SC_STREAM, stream);
	pthread_mutex_unlock(&sc_lock);
	if (*key)
		return CUDA_SUCCESS;
	sc_stream_close(stream);
	return CUDA_ERROR_OUT_OF_MEMORY;
}

static struct sc_stream *thread_stream_get(struct sc_context *context)
{
	struct thread_stream *own;

	pthread_once(&thread_stream_once, thread_stream_init);
	own = pthread_getspecific(thread_stream_key);
	if (!own) {
		own = calloc(1, sizeof(*own));
		if (!own || pthread_setspecific(thread_stream_key, own)) {
			free(own);
			return NULL;
		}
	}
	if (own->context_key != context->key) {
		stream_forget(own->stream_key);
		own->context_key = own->stream_key = 0;
		if (stream_add(context, CU_STREAM_DEFAULT, PRIORITY_LEAST, &own->stream_key))
			return NULL;
		own->context_key = context->key;
	}
	return stream_with_key(own->stream_key);
}

struct sc_stream *sc_stream_get(struct sc_context *context, CUstream handle)
{
	if (handle == NULL && sc_is_default_per_thread())
		handle = CU_STREAM_PER_THREAD;
	if (handle == NULL || handle == CU_STREAM_LEGACY) {
		atomic_fetch_add(&context->legacy->references, 1);
		return context->legacy;
	}
	return handle == CU_STREAM_PER_THREAD ? thread_stream_get(context) : stream_with_key(sc_key(handle));
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key;

	if (error)
		return error;
	if (!phStream || flags & ~(unsigned)CU_STREAM_NON_BLOCKING)
		return CUDA_ERROR_INVALID_VALUE;
	if (priority > PRIORITY_LEAST)
		priority = PRIORITY_LEAST;
	if (priority < PRIORITY_GREATEST)
		priority = PRIORITY_GREATEST;
	error = stream_add(context, flags, priority, &key);
	if (!error)
		*phStream = (CUstream)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key;

	if (error)
		return error;
	if (!phStream || Flags & ~(unsigned)CU_STREAM_NON_BLOCKING)
		return CUDA_ERROR_INVALID_VALUE;
	error = stream_add(context, Flags, PRIORITY_LEAST, &key);
	if (!error)
		*phStream = (CUstream)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuStreamDestroy(CUstream hStream)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_stream *stream;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	stream = sc_object_remove(SC_STREAM, sc_key(hStream));
	pthread_mutex_unlock(&sc_lock);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	sc_stream_close(stream);
	return CUDA_SUCCESS;
}

CUresult sc_stream_enter(const char *function, CUstream handle, struct sc_stream **stream)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	if (error)
		return error;
	*stream = sc_stream_get(context, handle);
	return *stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream hStream)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	error = sc_capture_sync(stream);
	if (!error)
		error = sc_stream_synchronize(stream);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamQuery(CUstream hStream)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	error = sc_capture_sync(stream);
	if (!error)
		error = sc_stream_is_idle(stream) ? sc_context_error(stream->context) : CUDA_ERROR_NOT_READY;
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamGetPriority(CUstream hStream, int *priority)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	if (priority)
		*priority = stream->priority;
	sc_stream_put(stream);
	return priority ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	if (flags)
		*flags = stream->flags;
	sc_stream_put(stream);
	return flags ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuStreamGetId(CUstream hStream, unsigned long long *streamId)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	if (streamId)
		*streamId = stream->id;
	sc_stream_put(stream);
	return streamId ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	if (pctx)
		*pctx = (CUcontext)(uintptr_t)stream->context->key;
	sc_stream_put(stream);
	return pctx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (leastPriority)
		*leastPriority = PRIORITY_LEAST;
	if (greatestPriority)
		*greatestPriority = PRIORITY_GREATEST;
	return CUDA_SUCCESS;
}
