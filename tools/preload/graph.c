/*
 * tools/preload/graph.c: hooks of calls that make or change the kernel nodes of a graph. What is captured from a stream comes
 * through the hooks of launches, so all replays have the parameters that the shim gave them.
 */
#include "launch.h"

/* The node's parameters for the driver. */
static CUresult node_begin(struct shim_launch *launch, CUDA_KERNEL_NODE_PARAMS *node)
{
	CUresult result = shim_launch_begin(
		launch, node->func ? node->func : (CUfunction)node->kern, node->kernelParams, node->extra);

	node->kernelParams = launch->params;
	node->extra = launch->extra;
	return result;
}

CUresult CUDAAPI cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddKernelNode_v2) *plain = shim_real()->cuGraphAddKernelNode_v2;
	CUDA_KERNEL_NODE_PARAMS node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(phGraphNode, hGraph, dependencies, numDependencies, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin(&launch, &node);
	if (!result)
		result = plain(phGraphNode, hGraph, dependencies, numDependencies, &node);
	shim_launch_end(&launch);
	return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphKernelNodeSetParams_v2) *plain = shim_real()->cuGraphKernelNodeSetParams_v2;
	CUDA_KERNEL_NODE_PARAMS node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin(&launch, &node);
	if (!result)
		result = plain(hNode, &node);
	shim_launch_end(&launch);
	return result;
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams_v2(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecKernelNodeSetParams_v2) *plain = shim_real()->cuGraphExecKernelNodeSetParams_v2;
	CUDA_KERNEL_NODE_PARAMS node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hGraphExec, hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin(&launch, &node);
	if (!result)
		result = plain(hGraphExec, hNode, &node);
	if (!result && shim_settings()->probe_path)
		shim_probe_node_set(hGraphExec, hNode, &launch);
	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, &node);
	shim_launch_end(&launch);
	return result;
}

/* ---- the first forms, of CUDA 11: the same without kernels of libraries ---- */

static CUresult node_begin_v1(struct shim_launch *launch, CUDA_KERNEL_NODE_PARAMS_v1 *node)
{
	CUresult result = shim_launch_begin(launch, node->func, node->kernelParams, node->extra);

	node->kernelParams = launch->params;
	node->extra = launch->extra;
	return result;
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddKernelNode) *plain = shim_real()->cuGraphAddKernelNode;
	CUDA_KERNEL_NODE_PARAMS_v1 node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(phGraphNode, hGraph, dependencies, numDependencies, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin_v1(&launch, &node);
	if (!result)
		result = plain(phGraphNode, hGraph, dependencies, numDependencies, &node);
	shim_launch_end(&launch);
	return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphKernelNodeSetParams) *plain = shim_real()->cuGraphKernelNodeSetParams;
	CUDA_KERNEL_NODE_PARAMS_v1 node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin_v1(&launch, &node);
	if (!result)
		result = plain(hNode, &node);
	shim_launch_end(&launch);
	return result;
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecKernelNodeSetParams) *plain = shim_real()->cuGraphExecKernelNodeSetParams;
	CUDA_KERNEL_NODE_PARAMS_v1 node;
	struct shim_launch launch;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hGraphExec, hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = node_begin_v1(&launch, &node);
	if (!result)
		result = plain(hGraphExec, hNode, &node);
	if (!result && shim_settings()->probe_path)
		shim_probe_node_set(hGraphExec, hNode, &launch);
	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, &node);
	shim_launch_end(&launch);
	return result;
}
