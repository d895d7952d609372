/*
 * tools/preload/graph_copy.c: hooks of calls that make or change nodes of graphs that copy or clear memory, and of the calls
 * that take a node of any type. A node cannot be cut into parts as a copy in a stream is: one that stores to several tensors,
 * some of which borrow, goes to the shadow of the allocation.
 */
#include "launch.h"

#include <stdlib.h>

#include "split.h"

/* False: refused. The rows of all layers of a box are one run of rows. */
static bool box_redirect(CUdeviceptr start, size_t pitch, size_t width, size_t rows, CUdeviceptr *base)
{
	static atomic_bool told;
	CUdeviceptr moved;

	pitch = rows > 1 ? pitch : width;
	if (!shim_box_move(start, pitch, width, rows, &moved) &&
		!shim_cache_shadow(start, (rows - 1) * pitch + width, &moved)) {
		if (!atomic_exchange(&told, true))
			shim_say("a node of a graph stores to several layers at once, some of which borrow, and cannot "
				 "be "
				 "led elsewhere: it is refused; a node for each layer would do");
		return false;
	}
	*base += moved - start;
	return true;
}

static bool memcpy_redirect(CUDA_MEMCPY3D *copy)
{
	CUDA_MEMCPY3D tight = *copy;
	CUdeviceptr start;
	size_t rows;

	if ((copy->dstMemoryType != CU_MEMORYTYPE_DEVICE && copy->dstMemoryType != CU_MEMORYTYPE_UNIFIED) ||
		!copy->WidthInBytes || !copy->Height || !copy->Depth)
		return true;
	shim_tighten_3d(&tight);
	rows = (tight.Depth - 1) * tight.dstHeight + tight.Height;
	start = tight.dstDevice + (tight.dstZ * tight.dstHeight + tight.dstY) * tight.dstPitch + tight.dstXInBytes;
	return box_redirect(start, tight.dstPitch, tight.WidthInBytes, rows, &copy->dstDevice);
}

static bool memset_redirect(CUdeviceptr *to, size_t pitch, size_t element, size_t width, size_t height)
{
	if (!element || !width || !height || width > SIZE_MAX / element) /* the driver has the answer */
		return true;
	return box_redirect(*to, pitch, width * element, height, to);
}

/* ---- copies ---- */

CUresult CUDAAPI cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddMemcpyNode) *plain = shim_real()->cuGraphAddMemcpyNode;
	CUDA_MEMCPY3D copy;

	if (!plain || !copyParams)
		return plain ? plain(phGraphNode, hGraph, dependencies, numDependencies, copyParams, ctx) : SHIM_ABSENT;
	copy = *copyParams;
	return memcpy_redirect(&copy) ? plain(phGraphNode, hGraph, dependencies, numDependencies, &copy, ctx)
				      : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult CUDAAPI cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphMemcpyNodeSetParams) *plain = shim_real()->cuGraphMemcpyNodeSetParams;
	CUDA_MEMCPY3D copy;

	if (!plain || !nodeParams)
		return plain ? plain(hNode, nodeParams) : SHIM_ABSENT;
	copy = *nodeParams;
	return memcpy_redirect(&copy) ? plain(hNode, &copy) : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult CUDAAPI cuGraphExecMemcpyNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecMemcpyNodeSetParams) *plain = shim_real()->cuGraphExecMemcpyNodeSetParams;
	CUDA_MEMCPY3D copy;
	CUresult result;

	if (!plain || !copyParams)
		return plain ? plain(hGraphExec, hNode, copyParams, ctx) : SHIM_ABSENT;
	copy = *copyParams;
	result = memcpy_redirect(&copy) ? plain(hGraphExec, hNode, &copy, ctx) : CUDA_ERROR_NOT_SUPPORTED;
	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, &copy, ctx);
	return result;
}

/* ---- memsets ---- */

static bool set_redirect(CUDA_MEMSET_NODE_PARAMS *set)
{
	return memset_redirect(&set->dst, set->pitch, set->elementSize, set->width, set->height);
}

CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddMemsetNode) *plain = shim_real()->cuGraphAddMemsetNode;
	CUDA_MEMSET_NODE_PARAMS set;

	if (!plain || !memsetParams)
		return plain ? plain(phGraphNode, hGraph, dependencies, numDependencies, memsetParams, ctx)
			     : SHIM_ABSENT;
	set = *memsetParams;
	return set_redirect(&set) ? plain(phGraphNode, hGraph, dependencies, numDependencies, &set, ctx)
				  : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult CUDAAPI cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphMemsetNodeSetParams) *plain = shim_real()->cuGraphMemsetNodeSetParams;
	CUDA_MEMSET_NODE_PARAMS set;

	if (!plain || !nodeParams)
		return plain ? plain(hNode, nodeParams) : SHIM_ABSENT;
	set = *nodeParams;
	return set_redirect(&set) ? plain(hNode, &set) : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult CUDAAPI cuGraphExecMemsetNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecMemsetNodeSetParams) *plain = shim_real()->cuGraphExecMemsetNodeSetParams;
	CUDA_MEMSET_NODE_PARAMS set;
	CUresult result;

	if (!plain || !memsetParams)
		return plain ? plain(hGraphExec, hNode, memsetParams, ctx) : SHIM_ABSENT;
	set = *memsetParams;
	result = set_redirect(&set) ? plain(hGraphExec, hNode, &set, ctx) : CUDA_ERROR_NOT_SUPPORTED;
	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, &set, ctx);
	return result;
}

/* ---- nodes of any type ---- */

/* What a node is given in the place of the program's parameters. */
struct any {
	struct shim_launch launch;
	bool launched; /* it is a kernel's, so `launch` has begun */
	CUgraphNodeParams node;
	CUstreamBatchMemOpParams *words; /* freed at the end; NULL: none of ours */
	CUgraphNodeParams
		*params; /* for the driver; those of other types are the program's, as some have results in them */
};

static CUresult any_begin(struct any *any, CUgraphNodeParams *params)
{
	CUDA_KERNEL_NODE_PARAMS_v3 *kernel = &any->node.kernel;
	CUDA_MEMSET_NODE_PARAMS_v2 *set = &any->node.memset;
	CUresult result = CUDA_SUCCESS;
	bool fits = true;

	any->launched = false;
	any->words = NULL;
	any->params = params;
	if (!params ||
		(params->type != CU_GRAPH_NODE_TYPE_KERNEL && params->type != CU_GRAPH_NODE_TYPE_MEMCPY &&
			params->type != CU_GRAPH_NODE_TYPE_MEMSET && params->type != CU_GRAPH_NODE_TYPE_BATCH_MEM_OP))
		return CUDA_SUCCESS;
	any->node = *params;
	any->params = &any->node;
	if (params->type == CU_GRAPH_NODE_TYPE_MEMCPY) {
		fits = memcpy_redirect(&any->node.memcpy.copyParams);
	} else if (params->type == CU_GRAPH_NODE_TYPE_MEMSET) {
		fits = memset_redirect(&set->dst, set->pitch, set->elementSize, set->width, set->height);
	} else if (params->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) {
		CUDA_BATCH_MEM_OP_NODE_PARAMS words = {
			.count = params->memOp.count, .paramArray = params->memOp.paramArray};

		result = shim_words_begin(&words, &any->words);
		any->node.memOp.paramArray = words.paramArray;
	} else {
		any->launched = true;
		result = shim_launch_begin(&any->launch, kernel->func ? kernel->func : (CUfunction)kernel->kern,
			kernel->kernelParams, kernel->extra);
		kernel->kernelParams = any->launch.params;
		kernel->extra = any->launch.extra;
	}
	return fits ? result : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult any_end(struct any *any, CUresult result)
{
	if (any->launched)
		shim_launch_end(&any->launch);
	free(any->words);
	return result;
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, CUgraphNodeParams *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddNode) *plain = shim_real()->cuGraphAddNode;
	struct any any;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	result = any_begin(&any, nodeParams);
	if (!result)
		result = plain(phGraphNode, hGraph, dependencies, numDependencies, any.params);
	return any_end(&any, result);
}

CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUgraphNodeParams *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddNode_v2) *plain = shim_real()->cuGraphAddNode_v2;
	CUgraphEdgeData *edges = NULL;
	struct any any;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	result = any_begin(&any, nodeParams);
	if (!result && any.launched && any.launch.shared && shim_edges_any_early(dependencyData, numDependencies)) {
		edges = shim_edges_plain(dependencyData, numDependencies);
		result = edges ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (!result)
		result = plain(
			phGraphNode, hGraph, dependencies, edges ? edges : dependencyData, numDependencies, any.params);
	free(edges);
	return any_end(&any, result);
}

CUresult CUDAAPI cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphNodeSetParams) *plain = shim_real()->cuGraphNodeSetParams;
	struct any any;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	result = any_begin(&any, nodeParams);
	if (!result)
		result = plain(hNode, any.params);
	return any_end(&any, result);
}

CUresult CUDAAPI cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecNodeSetParams) *plain = shim_real()->cuGraphExecNodeSetParams;
	struct any any;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	result = any_begin(&any, nodeParams);
	if (!result)
		result = plain(hGraphExec, hNode, any.params);
	if (!result && shim_settings()->probe_path && any.launched)
		shim_probe_node_set(hGraphExec, hNode, &any.launch);
	if (!result && any.params->type == CU_GRAPH_NODE_TYPE_GRAPH)
		shim_probe_child_set(hGraphExec, hNode, any.params->graph.graph);
	else if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, any.params);
	return any_end(&any, result);
}
