/*
 * driver/softcuda/exec_update.c: changes of executable graphs: the parameters of a node, whether it runs, or all nodes at once.
 * A change puts new work in the place of the old, which launches that are under way still hold.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "graph.h"
#include "launch.h"

#include <stdlib.h>

/* The copy of the node, also in child graphs. */
static struct sc_node *node_from(const struct sc_graph *graph, uint64_t origin)
{
	struct sc_node *found = NULL;

	for (size_t i = 0; i < graph->count && !found; i++) {
		struct sc_node *node = graph->nodes[i];

		if (node->origin == origin)
			found = node;
		else if (node->work.child)
			found = node_from(node->work.child, origin);
	}
	return found;
}

/* "hNode must not have been removed from the original graph." */
static CUresult node_find(CUgraphExec exec, CUgraphNode handle, struct sc_node **out)
{
	struct sc_graph *graph = sc_exec_graph(exec);

	*out = graph && sc_node_find(handle) ? node_from(graph, sc_key(handle)) : NULL;
	if (*out)
		return CUDA_SUCCESS;
	return graph ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
}

static void work_replace(struct sc_node *node, struct sc_work *work)
{
	sc_work_free(&node->work);
	node->work = *work;
	if (node->work.child)
		node->work.child->parent = node;
}

/* Takes `work`; `error` is that of making it. */
static CUresult set(CUresult error, CUgraphExec exec, CUgraphNode handle, struct sc_work *work)
{
	struct sc_node *node;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = node_find(exec, handle, &node);
	if (!error && node->work.type != work->type)
		error = CUDA_ERROR_INVALID_VALUE;
	if (!error && work->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP && !sc_words_are_alike(node->work.op, work->op))
		error = CUDA_ERROR_INVALID_VALUE; /* "count or type of operations [...] may not be modified" */
	if (error)
		sc_work_free(work);
	else
		work_replace(node, work);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

static CUresult enter(const char *call)
{
	struct sc_context *context;

	return sc_enter_context(call, &context);
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams_v2(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	bool cooperative = false;
	struct sc_work work;
	struct sc_node *node;
	CUresult error = enter(__func__);

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	if (!node_find(hGraphExec, hNode, &node) && node->work.type == CU_GRAPH_NODE_TYPE_KERNEL)
		cooperative = sc_launch_is_cooperative(node->work.op);
	pthread_mutex_unlock(&sc_lock);
	return set(sc_work_of_kernel(nodeParams, cooperative, &work), hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	CUDA_KERNEL_NODE_PARAMS_v2 params;

	if (p)
		params = (CUDA_KERNEL_NODE_PARAMS_v2){p->func, p->gridDimX, p->gridDimY, p->gridDimZ, p->blockDimX,
			p->blockDimY, p->blockDimZ, p->sharedMemBytes, p->kernelParams, p->extra, NULL, NULL};
	return cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, p ? &params : NULL);
}

CUresult CUDAAPI cuGraphExecMemcpyNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	(void)ctx;
	if (!error)
		error = sc_work_of_memcpy(copyParams, &work);
	return set(error, hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecMemsetNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	(void)ctx;
	if (!error)
		error = sc_work_of_memset(memsetParams, &work);
	return set(error, hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecHostNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_host(nodeParams, &work);
	return set(error, hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecBatchMemOpNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_words(nodeParams, &work);
	return set(error, hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, &work);
	return set(error, hGraphExec, hNode, &work);
}

CUresult CUDAAPI cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, &work);
	return set(error, hGraphExec, hNode, &work);
}

/* ---- nodes that do not run ---- */

static CUresult enabled(const char *call, CUgraphExec exec, CUgraphNode handle, const unsigned *set_to, unsigned *get)
{
	CUresult error = sc_enter_alive(call);
	struct sc_node *node;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = node_find(exec, handle, &node);
	if (!error && node->work.type > CU_GRAPH_NODE_TYPE_MEMSET)
		error = CUDA_ERROR_INVALID_VALUE; /* "Currently only kernel, memset and memcpy nodes are supported." */
	if (!error && set_to)
		node->disabled = !*set_to;
	if (!error && get)
		*get = !node->disabled;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
	return enabled(__func__, hGraphExec, hNode, &isEnabled, NULL);
}

CUresult CUDAAPI cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int *isEnabled)
{
	CUresult error = enabled(__func__, hGraphExec, hNode, NULL, isEnabled);

	return !error && !isEnabled ? CUDA_ERROR_INVALID_VALUE : error;
}

/* ---- all nodes at once ---- */

struct difference {
	CUgraphExecUpdateResult result;
	const struct sc_node *node, *from;
};

static bool differ(struct difference *out, CUgraphExecUpdateResult result, const struct sc_node *node)
{
	out->result = result;
	out->node = node;
	return true;
}

/* Nodes are paired by their place in the graph, and so are the nodes that they depend on; marks are places. */
static bool node_differs(const struct sc_node *old, const struct sc_node *new, struct difference *out)
{
	if (old->work.type != new->work.type)
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, new);
	if (old->from_count != new->from_count)
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, new);
	for (size_t i = 0; i < new->from_count; i++) {
		if (old->from[i]->mark != new->from[i]->mark) {
			out->from = new->from[i];
			return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, new);
		}
	}
	/* "A cooperative node cannot be updated to a non-cooperative node, and vice-versa." */
	if (new->work.type == CU_GRAPH_NODE_TYPE_KERNEL &&
		sc_launch_is_cooperative(old->work.op) != sc_launch_is_cooperative(new->work.op))
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED, new);
	/* "Changing either the source or destination memory type [...] is not supported." */
	if (new->work.type == CU_GRAPH_NODE_TYPE_MEMCPY &&
		(old->work.params.memcpy.srcMemoryType != new->work.params.memcpy.srcMemoryType ||
			old->work.params.memcpy.dstMemoryType != new->work.params.memcpy.dstMemoryType))
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED, new);
	if (new->work.type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP && !sc_words_are_alike(old->work.op, new->work.op))
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED, new);
	return false;
}

static bool graph_differs(const struct sc_graph *old, const struct sc_graph *new, struct difference *out)
{
	bool differs = false;

	if (old->count != new->count)
		return differ(out, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, NULL);
	for (size_t i = 0; i < new->count; i++)
		old->nodes[i]->mark = new->nodes[i]->mark = i;
	for (size_t i = 0; i < new->count && !differs; i++) {
		differs = node_differs(old->nodes[i], new->nodes[i], out);
		if (!differs && new->nodes[i]->work.child)
			differs = graph_differs(old->nodes[i]->work.child, new->nodes[i]->work.child, out);
	}
	return differs;
}

/* The nodes keep the handles that they are known by. */
static void works_exchange(struct sc_graph *graph, struct sc_graph *fresh)
{
	for (size_t i = 0; i < graph->count; i++) {
		struct sc_work *old = &graph->nodes[i]->work, *new = &fresh->nodes[i]->work, kept = *old;

		if (old->child) {
			works_exchange(old->child, new->child);
			continue;
		}
		*old = *new;
		*new = kept;
	}
}

static CUresult update(CUgraphExec exec_handle, CUgraph handle, struct difference *out)
{
	struct sc_graph *exec = sc_exec_graph(exec_handle), *graph = sc_graph_find(handle), *fresh;
	CUresult error;

	out->result = CU_GRAPH_EXEC_UPDATE_ERROR;
	if (!exec || !graph)
		return CUDA_ERROR_INVALID_HANDLE;
	if (graph_differs(exec, graph, out))
		return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
	error = sc_graph_copy(graph, false, &fresh);
	if (error)
		return error;
	works_exchange(exec, fresh);
	sc_graph_free(fresh);
	out->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
	return CUDA_SUCCESS;
}

static CUresult update_call(const char *call, CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResult *result,
	CUgraphNode *node, CUgraphNode *from)
{
	struct difference difference = {0};
	CUresult error = sc_enter_alive(call);

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = update(exec, graph, &difference);
	*result = difference.result;
	*node = difference.node ? (CUgraphNode)(uintptr_t)difference.node->key : NULL;
	*from = difference.from ? (CUgraphNode)(uintptr_t)difference.from->key : NULL;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuGraphExecUpdate(
	CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out)
{
	CUgraphExecUpdateResult result = CU_GRAPH_EXEC_UPDATE_ERROR;
	CUgraphNode node = NULL, from = NULL;
	CUresult error = update_call(__func__, hGraphExec, hGraph, &result, &node, &from);

	if (hErrorNode_out)
		*hErrorNode_out = node;
	if (updateResult_out)
		*updateResult_out = result;
	return error;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
	CUgraphExecUpdateResultInfo info = {.result = CU_GRAPH_EXEC_UPDATE_ERROR};
	CUresult error = update_call(__func__, hGraphExec, hGraph, &info.result, &info.errorNode, &info.errorFromNode);

	if (resultInfo)
		*resultInfo = info;
	return error;
}

/* "the topology of childGraph, as well as the node insertion order, must match that of the graph contained in hNode" */
CUresult CUDAAPI cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph)
{
	struct difference difference = {0};
	CUresult error = enter(__func__);
	struct sc_graph *child, *fresh;
	struct sc_node *node;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	child = sc_graph_find(childGraph);
	error = child ? node_find(hGraphExec, hNode, &node) : CUDA_ERROR_INVALID_HANDLE;
	if (!error &&
		(node->work.type != CU_GRAPH_NODE_TYPE_GRAPH || graph_differs(node->work.child, child, &difference)))
		error = CUDA_ERROR_INVALID_VALUE;
	if (!error)
		error = sc_graph_copy(child, false, &fresh);
	if (!error) {
		works_exchange(node->work.child, fresh);
		sc_graph_free(fresh);
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

#if CUDA_VERSION >= 12020
CUresult CUDAAPI cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = nodeParams ? sc_work_of_any(nodeParams, &work) : CUDA_ERROR_INVALID_VALUE;
	return set(error, hGraphExec, hNode, &work);
}
#endif
