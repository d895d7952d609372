/*
 * driver/softcuda/capture_calls.c: the driver's calls that begin and end captures, and tell about them.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "capture_state.h"

#include <string.h>

static CUresult begin_check(const struct sc_stream *stream, CUstreamCaptureMode mode)
{
	if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	if (stream == stream->context->legacy) /* "Capture may not be initiated if stream is CU_STREAM_LEGACY" */
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	return stream->capture ? CUDA_ERROR_ILLEGAL_STATE : CUDA_SUCCESS;
}

static CUresult begin(const char *call, CUstream handle, CUstreamCaptureMode mode)
{
	struct sc_stream *stream;
	struct sc_graph *graph = NULL;
	CUresult error = sc_stream_enter(call, handle, &stream);

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = begin_check(stream, mode);
	if (!error)
		error = sc_graph_new(true, &graph);
	if (!error) {
		error = sc_capture_new(stream, mode, graph, true);
		if (error)
			sc_graph_free(graph);
	}
	pthread_mutex_unlock(&sc_lock);
	sc_stream_put(stream);
	return error;
}

/* The first form had no modes. */
CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream)
{
	return begin(__func__, hStream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	return begin(__func__, hStream, mode);
}

/* The next node of the stream will depend on these. */
static CUresult frontier_add(struct sc_stream *stream, const CUgraphNode *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct sc_node *node = sc_node_find(nodes[i]);

		if (!node || node->graph != stream->capture->graph)
			return CUDA_ERROR_INVALID_VALUE;
	}
	for (size_t i = 0; i < count; i++) {
		if (!sc_keys_add(&stream->frontier, sc_key(nodes[i])))
			return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return CUDA_SUCCESS;
}

#if CUDA_VERSION >= 12030
/* "placing new nodes into an existing graph" */
CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	struct sc_capture *gone = NULL;
	struct sc_stream *stream;
	struct sc_graph *graph;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	(void)dependencyData; /* of programmatic launches, which run one after another here */
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(hGraph);
	error = graph ? begin_check(stream, mode) : CUDA_ERROR_INVALID_HANDLE;
	if (!error && (graph->is_capturing || (numDependencies && !dependencies)))
		error = CUDA_ERROR_INVALID_VALUE;
	if (!error)
		error = sc_capture_new(stream, mode, graph, false);
	if (!error) {
		error = frontier_add(stream, dependencies, numDependencies);
		if (error) {
			gone = stream->capture;
			graph->is_capturing = false;
			sc_capture_end(gone);
		}
	}
	pthread_mutex_unlock(&sc_lock);
	if (gone)
		sc_capture_free(gone);
	sc_stream_put(stream);
	return error;
}
#endif

/* ---- the end ---- */

/* Marks the node and all that it depends on. */
static void mark_behind(struct sc_node *node)
{
	if (!node || node->mark)
		return;
	node->mark = 1;
	for (size_t i = 0; i < node->from_count; i++)
		mark_behind(node->from[i]);
}

/* Does all work of the streams that joined lie behind the stream that the capture began in? */
static bool is_joined(const struct sc_capture *capture)
{
	for (size_t i = 0; i < capture->graph->count; i++)
		capture->graph->nodes[i]->mark = 0;
	for (size_t i = 0; i < capture->origin->frontier.count; i++)
		mark_behind(sc_object_find(SC_NODE, capture->origin->frontier.keys[i]));
	for (size_t s = 0; s < capture->count; s++) {
		const struct sc_keys *frontier = &capture->streams[s]->frontier;

		for (size_t i = 0; i < frontier->count; i++) {
			const struct sc_node *node = sc_object_find(SC_NODE, frontier->keys[i]);

			if (node && !node->mark)
				return false;
		}
	}
	return true;
}

/* Whether the capture can end here, and with what. *ends: it does. */
static CUresult end_check(struct sc_stream *stream, bool *ends)
{
	const struct sc_capture *capture = stream->capture;

	*ends = false;
	if (!capture)
		return CUDA_ERROR_ILLEGAL_STATE;
	if (capture->origin != stream)
		return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
	if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
		return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
	*ends = true;
	if (capture->is_invalid)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	return is_joined(capture) ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
}

/* "If capture was invalidated [...] then a NULL graph will be returned." */
CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	struct sc_capture *capture = NULL;
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);
	bool ends;

	if (error)
		return error;
	if (!phGraph) {
		sc_stream_put(stream);
		return CUDA_ERROR_INVALID_VALUE;
	}
	*phGraph = NULL;
	pthread_mutex_lock(&sc_lock);
	error = end_check(stream, &ends);
	if (ends) {
		capture = stream->capture;
		sc_capture_end(capture);
		capture->graph->is_capturing = false;
		if (!error)
			*phGraph = (CUgraph)(uintptr_t)capture->graph->key;
		else if (capture->owns_graph)
			sc_graph_free(capture->graph);
	}
	pthread_mutex_unlock(&sc_lock);
	if (capture)
		sc_capture_free(capture);
	sc_stream_put(stream);
	return error;
}

/* ---- what a stream captures ---- */

struct info {
	CUstreamCaptureStatus status;
	cuuint64_t id;
	CUgraph graph;
	const CUgraphNode *nodes;
	size_t count;
};

/*
 * "If called on CU_STREAM_LEGACY (the "null stream") while a stream not created with CU_STREAM_NON_BLOCKING is capturing,
 * returns CUDA_ERROR_STREAM_CAPTURE_IMPLICIT."
 */
static CUresult info_get(const char *call, CUstream handle, struct info *info)
{
	const struct sc_capture *capture;
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(call, handle, &stream);

	if (error)
		return error;
	memset(info, 0, sizeof(*info));
	pthread_mutex_lock(&sc_lock);
	capture = stream->capture;
	if (stream == stream->context->legacy && sc_capture_of_blocking(stream->context, false)) {
		error = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	} else if (capture) {
		info->status =
			capture->is_invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
		info->id = capture->id;
		info->graph = (CUgraph)(uintptr_t)capture->graph->key;
		info->nodes = (const CUgraphNode *)stream->frontier.keys;
		info->count = stream->frontier.count;
	}
	pthread_mutex_unlock(&sc_lock);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
	struct info info;
	CUresult error = info_get(__func__, hStream, &info);

	if (error)
		return error;
	if (!captureStatus)
		return CUDA_ERROR_INVALID_VALUE;
	*captureStatus = info.status;
	return CUDA_SUCCESS;
}

static CUresult info_tell(const char *call, CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id,
	CUgraph *graph, const CUgraphNode **nodes, size_t *count)
{
	struct info info;
	CUresult error = info_get(call, handle, &info);

	if (error)
		return error;
	if (!status)
		return CUDA_ERROR_INVALID_VALUE;
	*status = info.status;
	if (info.status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
		return CUDA_SUCCESS;
	if (id)
		*id = info.id;
	if (graph)
		*graph = info.graph;
	if (nodes)
		*nodes = info.nodes;
	if (count)
		*count = info.count;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out)
{
	return info_tell(__func__, hStream, captureStatus_out, id_out, NULL, NULL, NULL);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
	cuuint64_t *id_out, CUgraph *graph_out, const CUgraphNode **dependencies_out, size_t *numDependencies_out)
{
	return info_tell(
		__func__, hStream, captureStatus_out, id_out, graph_out, dependencies_out, numDependencies_out);
}

#if CUDA_VERSION >= 12030
/* No edge has data here; "this is a parallel array" of zeros is what NULL means, too. */
CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out,
	cuuint64_t *id_out, CUgraph *graph_out, const CUgraphNode **dependencies_out,
	const CUgraphEdgeData **edgeData_out, size_t *numDependencies_out)
{
	CUresult error = info_tell(
		__func__, hStream, captureStatus_out, id_out, graph_out, dependencies_out, numDependencies_out);

	if (!error && edgeData_out)
		*edgeData_out = NULL;
	return error;
}
#endif

static CUresult dependencies_update(
	const char *call, CUstream handle, const CUgraphNode *nodes, size_t count, unsigned flags)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(call, handle, &stream);
	size_t before;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	before = stream->frontier.count;
	if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (count && !nodes))
		error = CUDA_ERROR_INVALID_VALUE;
	else if (!stream->capture)
		error = CUDA_ERROR_ILLEGAL_STATE;
	else if (stream->capture->is_invalid)
		error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (!error && flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
		stream->frontier.count = 0;
	if (!error)
		error = frontier_add(stream, nodes, count);
	if (error && stream->capture)
		stream->frontier.count = before;
	pthread_mutex_unlock(&sc_lock);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies(
	CUstream hStream, CUgraphNode *dependencies, size_t numDependencies, unsigned int flags)
{
	return dependencies_update(__func__, hStream, dependencies, numDependencies, flags);
}

#if CUDA_VERSION >= 12030
CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, unsigned int flags)
{
	(void)dependencyData;
	return dependencies_update(__func__, hStream, dependencies, numDependencies, flags);
}
#endif

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!mode || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	*mode = sc_capture_mode_exchange(*mode);
	return CUDA_SUCCESS;
}
