/*
 * driver/softcuda/exec.c: executable graphs: a copy of the graph, and its launches.
 *
 * A launch is one entry of a stream, which runs the work of all nodes in an order that their dependencies allow. It holds the
 * work that the graph had when it was launched: "The modifications only affect future launches" (cuGraphExecKernelNodeSetParams).
 * Launches of one executable graph are put one behind the other, so that work can be shared between them.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "capture.h"
#include "launch.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

struct exec {
	uint64_t key;
	cuuint64_t flags;
	struct sc_graph *graph;
	struct sc_stream *last; /* of the last launch, referenced, or NULL */
	uint64_t last_ticket;
};

/* A launch: what it runs, in order. */
struct graph_op {
	struct sc_op op;
	uint64_t unmap_serial;
	size_t count;
	struct sc_op *work[];
};

static struct exec *exec_find(CUgraphExec exec)
{
	return sc_object_find(SC_EXEC, sc_key(exec));
}

static void exec_free(struct exec *exec)
{
	if (exec->key)
		sc_object_remove(SC_EXEC, exec->key);
	sc_graph_free(exec->graph);
	if (exec->last)
		sc_stream_put(exec->last);
	free(exec);
}

struct sc_graph *sc_exec_graph(CUgraphExec handle)
{
	struct exec *exec = exec_find(handle);

	return exec ? exec->graph : NULL;
}

void sc_execs_reset(void)
{
	struct exec *exec;
	size_t cursor = 0;

	while ((exec = sc_object_next(SC_EXEC, &cursor)))
		exec_free(exec);
}

/* ---- instantiating ---- */

/* Is there an order, here and in all child graphs? */
static bool can_be_ordered(const struct sc_graph *graph)
{
	struct sc_node **order = calloc(graph->count ? graph->count : 1, sizeof(*order));
	bool ordered = order && sc_graph_sort(graph, order);

	free(order);
	for (size_t i = 0; i < graph->count && ordered; i++) {
		if (graph->nodes[i]->work.child)
			ordered = can_be_ordered(graph->nodes[i]->work.child);
	}
	return ordered;
}

static CUresult exec_new(CUgraph handle, cuuint64_t flags, struct exec **out)
{
	struct sc_graph *graph = sc_graph_find(handle);
	struct exec *exec;
	CUresult error;

	if (!graph)
		return CUDA_ERROR_INVALID_HANDLE;
	if (graph->is_capturing || !can_be_ordered(graph))
		return CUDA_ERROR_INVALID_VALUE;
	exec = calloc(1, sizeof(*exec));
	if (!exec)
		return CUDA_ERROR_OUT_OF_MEMORY;
	exec->flags = flags;
	error = sc_graph_copy(graph, false, &exec->graph);
	if (!error)
		exec->key = sc_object_add(SC_EXEC, exec);
	if (!error && !exec->key)
		error = CUDA_ERROR_OUT_OF_MEMORY;
	if (error)
		exec_free(exec);
	else
		*out = exec;
	return error;
}

/* Launches from the device are not here; nor is memory that a graph allocates, so there is nothing to free for it. */
static CUresult instantiate(const char *call, CUgraphExec *out, CUgraph graph, cuuint64_t flags)
{
	const cuuint64_t known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
				 CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH |
				 CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
	CUresult error = sc_enter_alive(call);
	struct exec *exec;

	if (error)
		return error;
	if (!out || flags & ~known)
		return CUDA_ERROR_INVALID_VALUE;
	if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
		return CUDA_ERROR_NOT_SUPPORTED;
	pthread_mutex_lock(&sc_lock);
	error = exec_new(graph, flags, &exec);
	if (!error)
		*out = (CUgraphExec)(uintptr_t)exec->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* The first two forms could explain a failure in words. */
static CUresult instantiate_old(
	const char *call, CUgraphExec *out, CUgraph graph, CUgraphNode *node, char *text, size_t bytes)
{
	CUresult error = instantiate(call, out, graph, 0);

	if (node)
		*node = NULL;
	if (text && bytes)
		*text = '\0';
	return error;
}

CUresult CUDAAPI cuGraphInstantiate(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	return instantiate_old(__func__, phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult CUDAAPI cuGraphInstantiate_v2(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	return instantiate_old(__func__, phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
	CUresult error = instantiate(__func__, phGraphExec, hGraph, flags);

	return error;
}

CUresult CUDAAPI cuGraphInstantiateWithParams(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	CUresult error =
		instantiate(__func__, phGraphExec, hGraph, instantiateParams ? instantiateParams->flags : ~0ull);

	if (!instantiateParams)
		return error;
	instantiateParams->hErrNode_out = NULL;
	instantiateParams->result_out = error ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
	return error;
}

CUresult CUDAAPI cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct exec *exec;

	if (error)
		return error;
	if (!flags)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	exec = exec_find(hGraphExec);
	if (exec)
		*flags = exec->flags;
	pthread_mutex_unlock(&sc_lock);
	return exec ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* Launches that are under way hold their work. */
CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	CUresult error = sc_enter_initialized(__func__);
	struct exec *exec;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	exec = exec_find(hGraphExec);
	if (exec)
		exec_free(exec);
	pthread_mutex_unlock(&sc_lock);
	return exec ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* ---- launching ---- */

static void graph_run(struct sc_op *op, struct sc_stream *stream)
{
	struct graph_op *launch = (struct graph_op *)op;

	for (size_t i = 0; i < launch->count; i++) {
		struct sc_op *work = launch->work[i];

		if (work->bind)
			work->bind(work, stream, launch->unmap_serial);
		sc_op_run(work, stream);
	}
}

static void graph_release(struct sc_op *op)
{
	struct graph_op *launch = (struct graph_op *)op;

	for (size_t i = 0; i < launch->count; i++)
		sc_op_put(launch->work[i]);
	free(launch);
}

static bool graph_touches(const struct sc_op *op, uintptr_t base, size_t size)
{
	const struct graph_op *launch = (const struct graph_op *)op;

	for (size_t i = 0; i < launch->count; i++) {
		if (launch->work[i]->touches && launch->work[i]->touches(launch->work[i], base, size))
			return true;
	}
	return false;
}

static size_t work_count(const struct sc_graph *graph)
{
	size_t count = 0;

	for (size_t i = 0; i < graph->count; i++) {
		const struct sc_work *work = &graph->nodes[i]->work;

		count += work->child ? work_count(work->child) : 1;
	}
	return count;
}

/* The events that a launch waits for, and records. */
struct events {
	struct sc_keys waits, records;
};

static CUresult work_collect(const struct sc_graph *graph, struct graph_op *launch, struct events *events)
{
	struct sc_node **order = calloc(graph->count ? graph->count : 1, sizeof(*order));
	CUresult error = order && sc_graph_sort(graph, order) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;

	for (size_t i = 0; i < graph->count && !error; i++) {
		const struct sc_work *work = &order[i]->work;
		bool noted = true;

		if (order[i]->disabled)
			continue;
		if (work->child)
			error = work_collect(work->child, launch, events);
		if (work->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT)
			noted = sc_keys_add(&events->waits, work->event);
		if (work->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD)
			noted = sc_keys_add(&events->records, work->event);
		if (!noted)
			error = CUDA_ERROR_OUT_OF_MEMORY;
		if (work->op) {
			atomic_fetch_add(&work->op->shares, 1);
			launch->work[launch->count++] = work->op;
		}
	}
	free(order);
	return error;
}

static CUresult launch_create(CUgraphExec handle, struct graph_op **out, struct events *events)
{
	struct exec *exec = exec_find(handle);
	struct graph_op *launch;
	CUresult error;

	if (!exec)
		return CUDA_ERROR_INVALID_HANDLE;
	launch = calloc(1, sizeof(*launch) + work_count(exec->graph) * sizeof(*launch->work));
	if (!launch)
		return CUDA_ERROR_OUT_OF_MEMORY;
	launch->op.what = "cuGraphLaunch";
	launch->op.run = graph_run;
	launch->op.release = graph_release;
	launch->op.touches = graph_touches;
	launch->unmap_serial = sc_unmap_serial();
	error = work_collect(exec->graph, launch, events);
	if (error)
		graph_release(&launch->op);
	else
		*out = launch;
	return error;
}

/* "Each launch is ordered behind both any previous work in hStream and any previous launches of hGraphExec." */
static CUresult wait_for_last(CUgraphExec handle, struct sc_stream *stream)
{
	struct sc_stream *last = NULL;
	CUresult error = CUDA_SUCCESS;
	uint64_t ticket = 0;
	struct exec *exec;

	pthread_mutex_lock(&sc_lock);
	exec = exec_find(handle);
	if (exec && exec->last) {
		last = exec->last;
		ticket = exec->last_ticket;
		atomic_fetch_add(&last->references, 1);
	}
	pthread_mutex_unlock(&sc_lock);
	if (last) {
		error = sc_stream_submit_wait(stream, last, ticket);
		sc_stream_put(last);
	}
	return error;
}

static void remember_last(CUgraphExec handle, struct sc_stream *stream, uint64_t ticket)
{
	struct sc_stream *older = NULL;
	struct exec *exec;

	pthread_mutex_lock(&sc_lock);
	exec = exec_find(handle);
	if (exec) {
		older = exec->last;
		exec->last = stream;
		exec->last_ticket = ticket;
		atomic_fetch_add(&stream->references, 1);
	}
	pthread_mutex_unlock(&sc_lock);
	if (older)
		sc_stream_put(older);
}

/*
 * An event that the graph waits for is waited for before all of it, and one that it records is recorded behind all of it: later
 * than the nodes say, and never earlier.
 */
static CUresult launch_submit(
	struct sc_stream *stream, CUgraphExec exec, struct graph_op *launch, struct events *events)
{
	CUresult error = wait_for_last(exec, stream);
	uint64_t ticket = 0;

	for (size_t i = 0; i < events->waits.count && !error; i++)
		error = sc_event_wait(stream, (CUevent)(uintptr_t)events->waits.keys[i]);
	if (error) {
		graph_release(&launch->op);
		return error;
	}
	error = sc_stream_submit(stream, &launch->op, &ticket);
	if (!error)
		remember_last(exec, stream, ticket);
	for (size_t i = 0; i < events->records.count && !error; i++)
		error = sc_event_record((CUevent)(uintptr_t)events->records.keys[i], stream);
	return error;
}

static pthread_mutex_t launching = PTHREAD_MUTEX_INITIALIZER; /* so that launches of one graph have one order */

CUresult CUDAAPI cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
{
	struct events events = {0};
	struct graph_op *launch;
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	error = sc_capture_refuse(stream);
	if (!error) {
		pthread_mutex_lock(&launching);
		pthread_mutex_lock(&sc_lock);
		error = launch_create(hGraphExec, &launch, &events);
		pthread_mutex_unlock(&sc_lock);
		if (!error)
			error = launch_submit(stream, hGraphExec, launch, &events);
		pthread_mutex_unlock(&launching);
	}
	free(events.waits.keys);
	free(events.records.keys);
	sc_stream_put(stream);
	return error;
}

/* There is nowhere to upload it to. */
CUresult CUDAAPI cuGraphUpload(CUgraphExec hGraphExec, CUstream hStream)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);
	bool found;

	if (error)
		return error;
	sc_stream_put(stream);
	pthread_mutex_lock(&sc_lock);
	found = exec_find(hGraphExec) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
