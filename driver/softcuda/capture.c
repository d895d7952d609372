/*
 * driver/softcuda/capture.c: captures: which streams take part, the nodes that their next work will depend on, and what may not
 * be done meanwhile. The driver's calls are in capture_calls.c.
 *
 * A capture begins in one stream; others join it by waiting for an event that was recorded in it. "When an invalid
 * operation is attempted during stream capture, any associated capture graphs are invalidated" (Programming Guide,
 * Invalidation): a capture then stays until it is ended, and all use of its streams fails.
 */
#include "capture_state.h"

#include <stdlib.h>

static struct sc_capture *captures; /* list by next; guarded by sc_lock */
static atomic_uint active;          /* how many: work outside of captures looks at no more than this */
static uint64_t last_id;
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

bool sc_captures_are_active(void)
{
	return atomic_load_explicit(&active, memory_order_acquire) != 0;
}

CUstreamCaptureMode sc_capture_mode_exchange(CUstreamCaptureMode mode)
{
	CUstreamCaptureMode before = thread_mode;

	thread_mode = mode;
	return before;
}

static bool stream_join(struct sc_capture *capture, struct sc_stream *stream)
{
	struct sc_stream **grown = realloc(capture->streams, (capture->count + 1) * sizeof(*grown));

	if (!grown)
		return false;
	capture->streams = grown;
	capture->streams[capture->count++] = stream;
	atomic_fetch_add(&stream->references, 1);
	stream->capture = capture;
	stream->frontier.count = 0;
	return true;
}

CUresult sc_capture_new(struct sc_stream *stream, CUstreamCaptureMode mode, struct sc_graph *graph, bool own)
{
	struct sc_capture *capture = calloc(1, sizeof(*capture));

	if (!capture || !stream_join(capture, stream)) {
		free(capture);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	capture->id = ++last_id;
	capture->mode = mode;
	capture->thread = pthread_self();
	capture->origin = stream;
	capture->graph = graph;
	capture->owns_graph = own;
	graph->is_capturing = true;
	capture->next = captures;
	captures = capture;
	atomic_fetch_add(&active, 1);
	return CUDA_SUCCESS;
}

/* Its streams are ordinary ones again; the graph is the caller's. */
void sc_capture_end(struct sc_capture *capture)
{
	struct sc_capture **link;

	for (link = &captures; *link != capture; link = &(*link)->next)
		;
	*link = capture->next;
	for (size_t i = 0; i < capture->count; i++) {
		capture->streams[i]->capture = NULL;
		capture->streams[i]->frontier.count = 0;
	}
	atomic_fetch_sub(&active, 1);
}

/* The second half of ending it, without sc_lock, as the last reference of a stream may be among these. */
void sc_capture_free(struct sc_capture *capture)
{
	for (size_t i = 0; i < capture->count; i++)
		sc_stream_put(capture->streams[i]);
	free(capture->streams);
	free(capture);
}

void sc_captures_reset(void)
{
	struct sc_capture *capture;

	do {
		pthread_mutex_lock(&sc_lock);
		capture = captures;
		if (capture) {
			sc_capture_end(capture);
			if (capture->owns_graph)
				sc_graph_free(capture->graph);
		}
		pthread_mutex_unlock(&sc_lock);
		if (capture)
			sc_capture_free(capture);
	} while (capture);
	thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
}

/* ---- what is forbidden ---- */

/*
 * "When any stream in the same context is being captured, and it was not created with cudaStreamNonBlocking, any attempted use of
 * the legacy stream is invalid" (Programming Guide).
 */
bool sc_capture_of_blocking(const struct sc_context *context, bool invalidate)
{
	bool found = false;

	for (struct sc_capture *capture = captures; capture; capture = capture->next) {
		for (size_t i = 0; i < capture->count; i++) {
			if (capture->streams[i]->context != context || !capture->streams[i]->blocking)
				continue;
			found = true;
			capture->is_invalid |= invalidate;
		}
	}
	return found;
}

static CUresult check(struct sc_stream *stream, bool *capturing)
{
	*capturing = stream->capture != NULL;
	if (*capturing)
		return stream->capture->is_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
	if (stream == stream->context->legacy && sc_capture_of_blocking(stream->context, true))
		return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	return CUDA_SUCCESS;
}

CUresult sc_capture_check(struct sc_stream *stream, bool *capturing)
{
	CUresult error;

	*capturing = false;
	if (!sc_captures_are_active())
		return CUDA_SUCCESS;
	pthread_mutex_lock(&sc_lock);
	error = check(stream, capturing);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult sc_capture_refuse(struct sc_stream *stream)
{
	bool capturing;
	CUresult error = sc_capture_check(stream, &capturing);

	if (error || !capturing)
		return error;
	sc_capture_break(stream);
	return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

/* cuThreadExchangeStreamCaptureMode() says which captures forbid this thread calls that they would miss. */
static bool forbids(const struct sc_capture *capture)
{
	bool ours = pthread_equal(capture->thread, pthread_self());

	if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
		return false;
	if (ours)
		return capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
	return thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

CUresult sc_capture_unsafe(void)
{
	CUresult error = CUDA_SUCCESS;

	if (!sc_captures_are_active())
		return CUDA_SUCCESS;
	pthread_mutex_lock(&sc_lock);
	for (struct sc_capture *capture = captures; capture; capture = capture->next) {
		if (!forbids(capture))
			continue;
		capture->is_invalid = true;
		error = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/*
 * "It is invalid to synchronize or query the execution status of a stream which is being captured [...]. It is also invalid to
 * query the execution status of or synchronize a broader handle which encompasses an active stream capture" (Guide).
 */
CUresult sc_capture_sync(struct sc_stream *stream)
{
	CUresult error = sc_capture_refuse(stream);

	return error ? error : sc_capture_unsafe();
}

CUresult sc_capture_sync_all(struct sc_context *context)
{
	CUresult error = CUDA_SUCCESS;

	if (!sc_captures_are_active())
		return CUDA_SUCCESS;
	pthread_mutex_lock(&sc_lock);
	for (struct sc_capture *capture = captures; capture; capture = capture->next) {
		for (size_t i = 0; i < capture->count; i++) {
			if (capture->streams[i]->context != context)
				continue;
			capture->is_invalid = true;
			error = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
		}
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

void sc_capture_break(struct sc_stream *stream)
{
	pthread_mutex_lock(&sc_lock);
	if (stream->capture)
		stream->capture->is_invalid = true;
	pthread_mutex_unlock(&sc_lock);
}

void sc_capture_invalidate(uint64_t capture_id)
{
	pthread_mutex_lock(&sc_lock);
	for (struct sc_capture *capture = captures; capture; capture = capture->next)
		capture->is_invalid |= capture->id == capture_id;
	pthread_mutex_unlock(&sc_lock);
}

/* A stream that is destroyed takes the capture that began in it along. */
void sc_capture_lose(struct sc_stream *stream)
{
	struct sc_capture *capture, *gone = NULL;

	if (!sc_captures_are_active())
		return;
	pthread_mutex_lock(&sc_lock);
	capture = stream->capture;
	if (capture && capture->origin == stream) {
		gone = capture;
		sc_capture_end(capture);
		if (capture->owns_graph)
			sc_graph_free(capture->graph);
		else
			capture->graph->is_capturing = false;
	} else if (capture) {
		capture->is_invalid = true;
	}
	pthread_mutex_unlock(&sc_lock);
	if (gone)
		sc_capture_free(gone);
}

/* ---- work ---- */

static CUresult node_capture(struct sc_stream *stream, struct sc_work *work)
{
	struct sc_node *node;
	CUresult error = sc_node_add(stream->capture->graph, work, &node);

	for (size_t i = 0; i < stream->frontier.count && !error; i++) {
		struct sc_node *from = sc_object_find(SC_NODE, stream->frontier.keys[i]);

		if (from) /* it may have been removed from the graph, which is nobody's fault but the program's */
			error = sc_node_depend(node, from, NULL);
	}
	if (!error) {
		stream->frontier.count = 0;
		error = sc_keys_add(&stream->frontier, node->key) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (error)
		stream->capture->is_invalid = true;
	return error;
}

CUresult sc_work_submit(struct sc_stream *stream, struct sc_work *work, uint64_t *ticket)
{
	CUresult error = CUDA_SUCCESS;
	bool capturing = false;

	if (ticket)
		*ticket = 0;
	if (sc_captures_are_active()) {
		pthread_mutex_lock(&sc_lock);
		error = check(stream, &capturing);
		if (!error && capturing)
			error = node_capture(stream, work);
		else if (error)
			sc_work_free(work);
		pthread_mutex_unlock(&sc_lock);
	}
	return error || capturing ? error : sc_stream_submit(stream, work->op, ticket);
}

CUresult sc_capture_record(struct sc_stream *stream, uint64_t *capture_id, struct sc_keys *nodes)
{
	CUresult error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;

	pthread_mutex_lock(&sc_lock);
	if (stream->capture && !stream->capture->is_invalid) {
		*capture_id = stream->capture->id;
		error = sc_keys_copy(nodes, &stream->frontier) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

static struct sc_capture *capture_with_id(uint64_t id)
{
	struct sc_capture *capture = captures;

	while (capture && capture->id != id)
		capture = capture->next;
	return capture;
}

static CUresult wait_for_nodes(struct sc_stream *stream, struct sc_capture *capture, const struct sc_keys *nodes)
{
	if (capture->is_invalid)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (stream == stream->context->legacy) { /* it cannot be captured */
		capture->is_invalid = true;
		return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	}
	if (stream->capture && stream->capture != capture) {
		stream->capture->is_invalid = capture->is_invalid = true;
		return CUDA_ERROR_STREAM_CAPTURE_MERGE;
	}
	if (!stream->capture && !stream_join(capture, stream))
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t i = 0; i < nodes->count; i++) {
		if (!sc_keys_add(&stream->frontier, nodes->keys[i]))
			return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return CUDA_SUCCESS;
}

/* An event of a capture that was ended stands for nothing that could be waited for. */
CUresult sc_capture_wait(struct sc_stream *stream, uint64_t capture_id, const struct sc_keys *nodes)
{
	struct sc_capture *capture;
	CUresult error;

	pthread_mutex_lock(&sc_lock);
	capture = capture_with_id(capture_id);
	error = capture ? wait_for_nodes(stream, capture, nodes) : CUDA_ERROR_CAPTURED_EVENT;
	if (!capture && stream->capture)
		stream->capture->is_invalid = true;
	pthread_mutex_unlock(&sc_lock);
	return error;
}
