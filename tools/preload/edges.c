/*
 * tools/preload/edges.c: edges of graphs for programmatic launches: a node that is handed shared memory waits for the whole of the
 * node before it, as aliases of one block are not coherent within a dependent launch (see config_of() in launch.c).
 */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

static bool is_early(const CUgraphEdgeData *edge)
{
	return edge->type == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC ||
	       edge->from_port != CU_GRAPH_KERNEL_NODE_PORT_DEFAULT;
}

bool shim_edges_any_early(const CUgraphEdgeData *edges, size_t count)
{
	for (size_t i = 0; edges && i < count; i++)
		if (is_early(&edges[i]))
			return true;
	return false;
}

CUgraphEdgeData *shim_edges_plain(const CUgraphEdgeData *edges, size_t count)
{
	CUgraphEdgeData *plain = malloc(count * sizeof(*plain));

	for (size_t i = 0; plain && i < count; i++) {
		plain[i] = edges[i];
		if (is_early(&edges[i])) {
			plain[i].type = CU_GRAPH_DEPENDENCY_TYPE_DEFAULT;
			plain[i].from_port = CU_GRAPH_KERNEL_NODE_PORT_DEFAULT;
		}
	}
	return plain;
}

/* By one table: another thread may free the last cache meanwhile. */
struct look {
	const struct shim_ranges *ranges;
	bool shared;
};

static void word_look(void *arg, size_t param, size_t offset, CUdeviceptr word, size_t map_bytes)
{
	(void)param;
	(void)offset;
	(void)map_bytes;
	struct look *look = arg;

	look->shared |= shim_range_find(look->ranges, word) != NULL;
}

/* A kernel node that was handed shared memory, in the parameters that it has now. A sink is not shared: nobody reads it. */
static bool is_shared(CUgraphNode node)
{
	const struct shim_real *driver = shim_real();
	CUDA_KERNEL_NODE_PARAMS params = {0};
	struct shim_launch launch = {0};
	CUgraphNodeType type;
	struct look look = {.ranges = shim_ranges()};

	if (!look.ranges || !driver->cuGraphNodeGetType || driver->cuGraphNodeGetType(node, &type) ||
		type != CU_GRAPH_NODE_TYPE_KERNEL || !driver->cuGraphKernelNodeGetParams_v2 ||
		driver->cuGraphKernelNodeGetParams_v2(node, &params))
		return false;
	launch.kernel = shim_kernel_of(params.func ? params.func : (CUfunction)params.kern);
	launch.params = params.kernelParams;
	launch.extra = params.extra;
	if (launch.kernel)
		shim_launch_words(&launch, word_look, &look);
	return look.shared;
}

CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *edgeData, size_t numDependencies)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphAddDependencies_v2) *plain = shim_real()->cuGraphAddDependencies_v2;
	CUgraphEdgeData *edges;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	if (!shim_ranges() || !to || !shim_edges_any_early(edgeData, numDependencies))
		return plain(hGraph, from, to, edgeData, numDependencies);
	edges = shim_edges_plain(edgeData, numDependencies);
	if (!edges)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t i = 0; i < numDependencies; i++)
		if (!is_shared(to[i]))
			edges[i] = edgeData[i];
	result = plain(hGraph, from, to, edges, numDependencies);
	free(edges);
	return result;
}

/* The edge's data as the graph has it: that of the program, or what it became when the edge was added. */
static CUresult edge_remove(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edge)
{
	__typeof__(cuGraphRemoveDependencies_v2) *plain = shim_real()->cuGraphRemoveDependencies_v2;
	CUresult result = plain(graph, from, to, edge, 1);

	if (result == CUDA_ERROR_INVALID_VALUE && is_early(edge)) {
		CUgraphEdgeData other = *edge;

		other.type = CU_GRAPH_DEPENDENCY_TYPE_DEFAULT;
		other.from_port = CU_GRAPH_KERNEL_NODE_PORT_DEFAULT;
		result = plain(graph, from, to, &other, 1);
	}
	return result;
}

CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *edgeData, size_t numDependencies)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphRemoveDependencies_v2) *plain = shim_real()->cuGraphRemoveDependencies_v2;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	result = plain(hGraph, from, to, edgeData, numDependencies);
	if (result != CUDA_ERROR_INVALID_VALUE || !from || !to || !shim_ranges() ||
		!shim_edges_any_early(edgeData, numDependencies))
		return result;
	result = CUDA_SUCCESS;
	for (size_t i = 0; !result && i < numDependencies; i++)
		result = edge_remove(hGraph, &from[i], &to[i], &edgeData[i]);
	return result;
}
