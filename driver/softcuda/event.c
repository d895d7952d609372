/*
 * driver/softcuda/event.c: events: the last recorded position in a stream's queue, and when the stream passed it.
 *
 * A recording is an object of its own, shared by the event and the queue entry that stamps the time: recording an event
 * again does not affect waits for the older recording.
 */
#include "stream.h"

#include <stdlib.h>

struct recording {
	atomic_uint references;
	struct sc_stream *stream;
	uint64_t ticket;
	atomic_uint_fast64_t time_ns;
};

struct event {
	uint64_t key;
	unsigned flags;
	struct sc_context *context;
	struct recording *last; /* NULL before the first; guarded by sc_lock */
};

struct record_op {
	struct sc_op op;
	struct recording *recording;
};

static void recording_put(struct recording *recording)
{
	if (!recording || atomic_fetch_sub(&recording->references, 1) != 1)
		return;
	sc_stream_put(recording->stream);
	free(recording);
}

static void record_run(struct sc_op *op, struct sc_stream *stream)
{
	(void)stream;
	atomic_store(&((struct record_op *)op)->recording->time_ns, sc_now_ns());
}

static void record_release(struct sc_op *op)
{
	recording_put(((struct record_op *)op)->recording);
	free(op);
}

/* The event's last recording, referenced, or NULL; *found tells whether there is such an event. */
static struct recording *recording_get(CUevent handle, bool *found, unsigned *flags)
{
	struct recording *recording = NULL;
	struct event *event;

	pthread_mutex_lock(&sc_lock);
	event = sc_object_find(SC_EVENT, sc_key(handle));
	*found = event != NULL;
	if (event) {
		*flags = event->flags;
		recording = event->last;
	}
	if (recording)
		atomic_fetch_add(&recording->references, 1);
	pthread_mutex_unlock(&sc_lock);
	return recording;
}

CUresult CUDAAPI cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
	const unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct event *event;
	uint64_t key;

	if (error)
		return error;
	if (!phEvent || Flags & ~(known | CU_EVENT_INTERPROCESS))
		return CUDA_ERROR_INVALID_VALUE;
	if (Flags & CU_EVENT_INTERPROCESS)
		return CUDA_ERROR_NOT_SUPPORTED;
	event = calloc(1, sizeof(*event));
	if (!event)
		return CUDA_ERROR_OUT_OF_MEMORY;
	event->flags = Flags;
	event->context = context;
	pthread_mutex_lock(&sc_lock);
	key = event->key = sc_object_add(SC_EVENT, event);
	pthread_mutex_unlock(&sc_lock);
	if (!key) {
		free(event);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*phEvent = (CUevent)(uintptr_t)key;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent hEvent)
{
	CUresult error = sc_enter_initialized(__func__);
	struct event *event;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	event = sc_object_remove(SC_EVENT, sc_key(hEvent));
	pthread_mutex_unlock(&sc_lock);
	if (!event)
		return CUDA_ERROR_INVALID_HANDLE;
	recording_put(event->last);
	free(event);
	return CUDA_SUCCESS;
}

void sc_events_free_of(struct sc_context *context)
{
	struct event *event;
	size_t cursor = 0;

	while ((event = sc_object_next(SC_EVENT, &cursor))) {
		if (event->context != context)
			continue;
		sc_object_remove(SC_EVENT, event->key);
		recording_put(event->last);
		free(event);
	}
}

static CUresult event_record(CUevent handle, struct sc_stream *stream)
{
	struct recording *recording = calloc(1, sizeof(*recording)), *older = NULL;
	struct record_op *op = calloc(1, sizeof(*op));
	struct event *event;
	CUresult error;

	if (!recording || !op) {
		free(recording);
		free(op);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	atomic_init(&recording->references, 2); /* the queue entry's and ours */
	recording->stream = stream;
	atomic_fetch_add(&stream->references, 1);
	op->recording = recording;
	op->op.what = "cuEventRecord";
	op->op.run = record_run;
	op->op.release = record_release;
	error = sc_stream_submit(stream, &op->op, &recording->ticket);
	if (!error) {
		pthread_mutex_lock(&sc_lock);
		event = sc_object_find(SC_EVENT, sc_key(handle));
		if (event) {
			older = event->last;
			event->last = recording;
			recording = older;
		} else {
			error = CUDA_ERROR_INVALID_HANDLE;
		}
		pthread_mutex_unlock(&sc_lock);
	}
	recording_put(recording);
	return error;
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_stream *stream;

	if (error)
		return error;
	if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	stream = sc_stream_get(context, hStream);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = event_record(hEvent, stream);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuEventRecord(CUevent hEvent, CUstream hStream)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_stream *stream;

	if (error)
		return error;
	stream = sc_stream_get(context, hStream);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = event_record(hEvent, stream);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuEventQuery(CUevent hEvent)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct recording *recording;
	unsigned flags;
	bool found, passed;

	if (error)
		return error;
	recording = recording_get(hEvent, &found, &flags);
	passed = !recording || sc_stream_reached(recording->stream, recording->ticket);
	recording_put(recording);
	if (!found)
		return CUDA_ERROR_INVALID_HANDLE;
	return passed ? sc_context_error(context) : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuEventSynchronize(CUevent hEvent)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct recording *recording;
	unsigned flags;
	bool found;

	if (error)
		return error;
	recording = recording_get(hEvent, &found, &flags);
	if (recording)
		sc_stream_wait(recording->stream, recording->ticket);
	recording_put(recording);
	return found ? sc_context_error(context) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct recording *recording;
	struct sc_stream *stream;
	unsigned flags;
	bool found;

	if (error)
		return error;
	if (Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	stream = sc_stream_get(context, hStream);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	recording = recording_get(hEvent, &found, &flags);
	if (!found)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (recording) /* an event that was never recorded has nothing to wait for */
		error = sc_stream_submit_wait(stream, recording->stream, recording->ticket);
	recording_put(recording);
	sc_stream_put(stream);
	return error;
}

/* When the recording was passed; an event without a time cannot tell. */
static CUresult time_of(CUevent handle, uint64_t *time_ns)
{
	CUresult error = CUDA_SUCCESS;
	unsigned flags = 0;
	bool found;
	struct recording *recording = recording_get(handle, &found, &flags);

	if (!recording || flags & CU_EVENT_DISABLE_TIMING)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (!sc_stream_reached(recording->stream, recording->ticket))
		error = CUDA_ERROR_NOT_READY;
	else
		*time_ns = atomic_load(&recording->time_ns);
	recording_put(recording);
	return error;
}

static CUresult elapsed_time(const char *function, float *milliseconds, CUevent start, CUevent end)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);
	uint64_t start_ns = 0, end_ns = 0;

	if (error)
		return error;
	if (!milliseconds)
		return CUDA_ERROR_INVALID_VALUE;
	error = time_of(start, &start_ns);
	if (!error)
		error = time_of(end, &end_ns);
	if (!error)
		*milliseconds = (float)((double)(int64_t)(end_ns - start_ns) / 1e6);
	return error;
}

/* The second version differs on a GPU by its resolution alone. */
#undef cuEventElapsedTime
CUresult CUDAAPI cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd);
CUresult CUDAAPI cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd);

CUresult CUDAAPI cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
	return elapsed_time(__func__, pMilliseconds, hStart, hEnd);
}

CUresult CUDAAPI cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
	return elapsed_time(__func__, pMilliseconds, hStart, hEnd);
}
