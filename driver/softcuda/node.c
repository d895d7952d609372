/*
 * driver/softcuda/node.c: the driver's calls that add nodes to graphs, and read and set their parameters.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "graph.h"

#include "launch.h"

#include <string.h>

/* The start of all calls here: a context, as parameters are checked against what it has. */
static CUresult enter(const char *call)
{
	struct sc_context *context;

	return sc_enter_context(call, &context);
}

/* "dependencies may not have any duplicate entries"; all must be nodes of the graph. */
static CUresult dependencies_check(const struct sc_graph *graph, const CUgraphNode *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct sc_node *node = sc_node_find(nodes[i]);

		if (!node || node->graph != graph)
			return CUDA_ERROR_INVALID_VALUE;
		for (size_t j = 0; j < i; j++) {
			if (nodes[j] == nodes[i])
				return CUDA_ERROR_INVALID_VALUE;
		}
	}
	return CUDA_SUCCESS;
}

static CUresult add_locked(CUgraphNode *out, CUgraph handle, const CUgraphNode *nodes, const CUgraphEdgeData *data,
	size_t count, struct sc_work *work)
{
	struct sc_graph *graph = sc_graph_find(handle);
	CUresult error = graph ? dependencies_check(graph, nodes, count) : CUDA_ERROR_INVALID_HANDLE;
	struct sc_node *node;

	if (error) {
		sc_work_free(work);
		return error;
	}
	error = sc_node_add(graph, work, &node);
	for (size_t i = 0; i < count && !error; i++) {
		error = sc_node_depend(node, sc_node_find(nodes[i]), data ? &data[i] : NULL);
		if (error)
			sc_node_free(node);
	}
	if (!error)
		*out = (CUgraphNode)(uintptr_t)node->key;
	return error;
}

/* Adds a node with this work, which it takes; `error` is that of making the work. */
static CUresult add_edges(CUresult error, CUgraphNode *out, CUgraph graph, const CUgraphNode *nodes,
	const CUgraphEdgeData *data, size_t count, struct sc_work *work)
{
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	if (!out || (count && !nodes)) {
		sc_work_free(work);
		error = CUDA_ERROR_INVALID_VALUE;
	} else {
		error = add_locked(out, graph, nodes, data, count, work);
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

static CUresult add(
	CUresult error, CUgraphNode *out, CUgraph graph, const CUgraphNode *nodes, size_t count, struct sc_work *work)
{
	return add_edges(error, out, graph, nodes, NULL, count, work);
}

/* The first form had no kernels and contexts. */
static CUDA_KERNEL_NODE_PARAMS_v2 kernel_params_of(const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	return (CUDA_KERNEL_NODE_PARAMS_v2){p->func, p->gridDimX, p->gridDimY, p->gridDimZ, p->blockDimX, p->blockDimY,
		p->blockDimZ, p->sharedMemBytes, p->kernelParams, p->extra, NULL, NULL};
}

CUresult CUDAAPI cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_kernel(nodeParams, false, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	CUDA_KERNEL_NODE_PARAMS_v2 params;

	if (nodeParams)
		params = kernel_params_of(nodeParams);
	return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, nodeParams ? &params : NULL);
}

CUresult CUDAAPI cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	(void)ctx;
	if (!error)
		error = sc_work_of_memcpy(copyParams, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	(void)ctx;
	if (!error)
		error = sc_work_of_memset(memsetParams, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_host(nodeParams, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_words(nodeParams, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddEmptyNode(
	CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies, size_t numDependencies)
{
	struct sc_work work = {.type = CU_GRAPH_NODE_TYPE_EMPTY};

	return add(enter(__func__), phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult CUDAAPI cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, &work);
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

/* "The node executes an embedded child graph. The child graph is cloned in this call." */
CUresult CUDAAPI cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUgraph childGraph)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error) {
		pthread_mutex_lock(&sc_lock);
		error = sc_work_of_child(childGraph, &work);
		pthread_mutex_unlock(&sc_lock);
	}
	return add(error, phGraphNode, hGraph, dependencies, numDependencies, &work);
}

#if CUDA_VERSION >= 12030
static CUresult add_any(const char *call, CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *data, size_t count, const CUgraphNodeParams *params)
{
	struct sc_work work;
	CUresult error = enter(call);

	if (!error)
		error = params ? sc_work_of_any(params, &work) : CUDA_ERROR_INVALID_VALUE;
	return add_edges(error, node, graph, dependencies, data, count, &work);
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUgraphNodeParams *nodeParams)
{
	return add_any(__func__, phGraphNode, hGraph, dependencies, NULL, numDependencies, nodeParams);
}

CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUgraphNodeParams *nodeParams)
{
	return add_any(__func__, phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}
#endif

/* ---- parameters ---- */

/* The node of this type; on success sc_lock is held. */
static CUresult node_enter(const char *call, CUgraphNode handle, CUgraphNodeType type, struct sc_node **node)
{
	CUresult error = sc_enter_alive(call);

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	*node = sc_node_find(handle);
	if (*node && (*node)->work.type == type)
		return CUDA_SUCCESS;
	error = *node ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* The node's work becomes this, which is taken; `error` is that of making it. */
static CUresult set(CUresult error, CUgraphNode handle, struct sc_work *work)
{
	struct sc_node *node;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	node = sc_node_find(handle);
	if (node && node->work.type == work->type) {
		struct sc_work older = node->work;

		node->work = *work;
		if (node->work.child)
			node->work.child->parent = node;
		*work = older;
	} else {
		error = node ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
	}
	sc_work_free(work);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct sc_node *node;
	CUresult error = node_enter(__func__, hNode, CU_GRAPH_NODE_TYPE_KERNEL, &node);

	if (error)
		return error;
	if (nodeParams)
		sc_launch_describe(node->work.op, nodeParams);
	pthread_mutex_unlock(&sc_lock);
	return nodeParams ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	CUDA_KERNEL_NODE_PARAMS_v2 p;
	CUresult error = cuGraphKernelNodeGetParams_v2(hNode, nodeParams ? &p : NULL);

	if (!error)
		*nodeParams = (CUDA_KERNEL_NODE_PARAMS_v1){p.func, p.gridDimX, p.gridDimY, p.gridDimZ, p.blockDimX,
			p.blockDimY, p.blockDimZ, p.sharedMemBytes, p.kernelParams, p.extra};
	return error;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	struct sc_node *node;
	CUresult error = node_enter(__func__, hNode, CU_GRAPH_NODE_TYPE_KERNEL, &node);
	bool cooperative;

	if (error)
		return error;
	cooperative = sc_launch_is_cooperative(node->work.op);
	pthread_mutex_unlock(&sc_lock);
	return set(sc_work_of_kernel(nodeParams, cooperative, &work), hNode, &work);
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	CUDA_KERNEL_NODE_PARAMS_v2 params;

	if (nodeParams)
		params = kernel_params_of(nodeParams);
	return cuGraphKernelNodeSetParams_v2(hNode, nodeParams ? &params : NULL);
}

/* What a call asks of a node of one type: the bytes of its parameters. */
static CUresult params_get(const char *call, CUgraphNode handle, CUgraphNodeType type, void *out, size_t bytes)
{
	struct sc_node *node;
	CUresult error = node_enter(call, handle, type, &node);

	if (error)
		return error;
	if (out)
		memcpy(out, &node->work.params, bytes);
	pthread_mutex_unlock(&sc_lock);
	return out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
	return params_get(__func__, hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams, sizeof(*nodeParams));
}

CUresult CUDAAPI cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_memcpy(nodeParams, &work);
	return set(error, hNode, &work);
}

CUresult CUDAAPI cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
	return params_get(__func__, hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams, sizeof(*nodeParams));
}

CUresult CUDAAPI cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_memset(nodeParams, &work);
	return set(error, hNode, &work);
}

CUresult CUDAAPI cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
	return params_get(__func__, hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams, sizeof(*nodeParams));
}

CUresult CUDAAPI cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_host(nodeParams, &work);
	return set(error, hNode, &work);
}

/* "The paramArray returned in nodeParams_out is owned by the node." */
CUresult CUDAAPI cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode, CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
	struct sc_node *node;
	CUresult error = node_enter(__func__, hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &node);

	if (error)
		return error;
	if (nodeParams_out)
		*nodeParams_out = *sc_words_params(node->work.op);
	pthread_mutex_unlock(&sc_lock);
	return nodeParams_out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_words(nodeParams, &work);
	return set(error, hNode, &work);
}

/* "This call does not clone the graph. [...] the node retains ownership of the graph" */
CUresult CUDAAPI cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
	struct sc_node *node;
	CUresult error = node_enter(__func__, hNode, CU_GRAPH_NODE_TYPE_GRAPH, &node);

	if (error)
		return error;
	if (phGraph)
		*phGraph = (CUgraph)(uintptr_t)node->work.child->key;
	pthread_mutex_unlock(&sc_lock);
	return phGraph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult event_get(const char *call, CUgraphNode handle, CUgraphNodeType type, CUevent *out)
{
	struct sc_node *node;
	CUresult error = node_enter(call, handle, type, &node);

	if (error)
		return error;
	if (out)
		*out = (CUevent)(uintptr_t)node->work.event;
	pthread_mutex_unlock(&sc_lock);
	return out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
	return event_get(__func__, hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}

CUresult CUDAAPI cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
	return event_get(__func__, hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}

CUresult CUDAAPI cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, &work);
	return set(error, hNode, &work);
}

CUresult CUDAAPI cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = sc_work_of_event(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, &work);
	return set(error, hNode, &work);
}

#if CUDA_VERSION >= 12020
CUresult CUDAAPI cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
	struct sc_work work;
	CUresult error = enter(__func__);

	if (!error)
		error = nodeParams ? sc_work_of_any(nodeParams, &work) : CUDA_ERROR_INVALID_VALUE;
	return set(error, hNode, &work);
}
#endif
