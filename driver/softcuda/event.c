/*
 * driver/softcuda/event.c: events: the last recorded position in a stream's queue, and when the stream passed it.
 *
 * A recording is an object of its own, shared by the event and the queue entry that stamps the time: recording an event
 * again does not affect waits for the older recording.
 */
#include "capture.h"

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
	struct recording *last; /* NULL before the first; guarded by sc_lock, as what follows */
	uint64_t capture_id;    /* it was last recorded in this capture, behind these nodes; 0: in no capture */
	struct sc_keys nodes;
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

static void event_free(struct event *event)
{
	recording_put(event->last);
	free(event->nodes.keys);
	free(event);
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

bool sc_event_exists(CUevent handle)
{
	bool exists;

	pthread_mutex_lock(&sc_lock);
	exists = sc_object_find(SC_EVENT, sc_key(handle)) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return exists;
}

/* The capture that it was last recorded in; 0: none. */
static uint64_t capture_of(CUevent handle)
{
	struct event *event;
	uint64_t id;

	pthread_mutex_lock(&sc_lock);
	event = sc_object_find(SC_EVENT, sc_key(handle));
	id = event ? event->capture_id : 0;
	pthread_mutex_unlock(&sc_lock);
	return id;
}

/*
 * May the host ask for it, or wait? "The operation is not permitted on an event which was last recorded in a capturing
 * stream" (CUDA_ERROR_CAPTURED_EVENT).
 */
static CUresult query_check(CUevent handle)
{
	uint64_t id = capture_of(handle);

	if (!id)
		return sc_capture_unsafe();
	sc_capture_invalidate(id);
	return CUDA_ERROR_CAPTURED_EVENT;
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
	event_free(event);
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
		event_free(event);
	}
}

CUresult sc_event_record(CUevent handle, struct sc_stream *stream)
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
			event->capture_id = 0;
			recording = older;
		} else {
			error = CUDA_ERROR_INVALID_HANDLE;
		}
		pthread_mutex_unlock(&sc_lock);
	}
	recording_put(recording);
	return error;
}

/* In a stream that captures, it stands for the nodes that what comes next would wait for. */
static CUresult record_captured(CUevent handle, struct sc_stream *stream)
{
	struct sc_keys nodes = {0}, older = {0};
	uint64_t capture_id;
	CUresult error = sc_capture_record(stream, &capture_id, &nodes);
	struct event *event;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	event = sc_object_find(SC_EVENT, sc_key(handle));
	if (event) {
		older = event->nodes;
		event->nodes = nodes;
		event->capture_id = capture_id;
	} else {
		older = nodes;
		error = CUDA_ERROR_INVALID_HANDLE;
	}
	pthread_mutex_unlock(&sc_lock);
	free(older.keys);
	return error;
}

static CUresult record(struct sc_context *context, CUevent handle, CUstream stream_handle, bool external)
{
	struct sc_stream *stream = sc_stream_get(context, stream_handle);
	struct sc_work work;
	bool capturing;
	CUresult error;

	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_check(stream, &capturing);
	if (!error && !capturing) {
		error = sc_event_record(handle, stream);
	} else if (!error && external) {
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_EVENT_RECORD, handle, &work);
		if (!error)
			error = sc_work_submit(stream, &work, NULL);
	} else if (!error) {
		error = record_captured(handle, stream);
	}
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	return record(context, hEvent, hStream, flags & CU_EVENT_RECORD_EXTERNAL);
}

CUresult CUDAAPI cuEventRecord(CUevent hEvent, CUstream hStream)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : record(context, hEvent, hStream, false);
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
	error = query_check(hEvent);
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
	error = query_check(hEvent);
	if (error)
		return error;
	recording = recording_get(hEvent, &found, &flags);
	if (recording)
		sc_stream_wait(recording->stream, recording->ticket);
	recording_put(recording);
	return found ? sc_context_error(context) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult sc_event_wait(struct sc_stream *stream, CUevent handle)
{
	CUresult error = CUDA_SUCCESS;
	unsigned flags;
	bool found;
	struct recording *recording = recording_get(handle, &found, &flags);

	if (!found)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (recording) /* an event that was never recorded has nothing to wait for */
		error = sc_stream_submit_wait(stream, recording->stream, recording->ticket);
	recording_put(recording);
	return error;
}

/* The event's nodes, copied; the caller frees the keys. */
static CUresult nodes_get(CUevent handle, uint64_t *capture_id, struct sc_keys *nodes, bool *recorded)
{
	CUresult error = CUDA_SUCCESS;
	struct event *event;

	pthread_mutex_lock(&sc_lock);
	event = sc_object_find(SC_EVENT, sc_key(handle));
	if (!event)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (event->capture_id && !sc_keys_copy(nodes, &event->nodes))
		error = CUDA_ERROR_OUT_OF_MEMORY;
	*capture_id = event ? event->capture_id : 0;
	*recorded = event && event->last;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/*
 * "It is invalid to wait on a non-captured event from a stream which is being captured without specifying the
 * cudaEventWaitExternal flag" (Programming Guide, prohibited and unhandled operations).
 */
static CUresult wait_in_capture(struct sc_stream *stream, CUevent handle, bool capturing, bool external)
{
	struct sc_keys nodes = {0};
	struct sc_work work;
	uint64_t capture_id;
	bool recorded;
	CUresult error = nodes_get(handle, &capture_id, &nodes, &recorded);

	if (!error && external && capturing) {
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_WAIT_EVENT, handle, &work);
		if (!error)
			error = sc_work_submit(stream, &work, NULL);
	} else if (!error && capture_id) {
		error = sc_capture_wait(stream, capture_id, &nodes);
	} else if (!error && capturing && recorded) {
		sc_capture_break(stream);
		error = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
	} else if (!error && !capturing) {
		error = sc_event_wait(stream, handle);
	}
	free(nodes.keys);
	return error;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_stream *stream;
	bool capturing;

	if (error)
		return error;
	if (Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	stream = sc_stream_get(context, hStream);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_check(stream, &capturing);
	if (!error)
		error = wait_in_capture(stream, hEvent, capturing, Flags & CU_EVENT_WAIT_EXTERNAL);
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

	if (capture_of(handle))
		error = CUDA_ERROR_CAPTURED_EVENT;
	else if (!recording || flags & CU_EVENT_DISABLE_TIMING)
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
