/*
 * driver/softcuda/graph_calls.c: the driver's calls on the structure of graphs: nodes, edges, copies.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

CUresult CUDAAPI cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_graph *graph;

	if (error)
		return error;
	if (!phGraph || flags)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	error = sc_graph_new(true, &graph);
	if (!error)
		*phGraph = (CUgraph)(uintptr_t)graph->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* A child graph is its node's. */
CUresult CUDAAPI cuGraphDestroy(CUgraph hGraph)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_graph *graph;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(hGraph);
	if (!graph)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (graph->parent || graph->is_capturing)
		error = CUDA_ERROR_INVALID_VALUE;
	else
		sc_graph_free(graph);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_graph *graph, *copy;

	if (error)
		return error;
	if (!phGraphClone)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(originalGraph);
	error = graph ? sc_graph_copy(graph, true, &copy) : CUDA_ERROR_INVALID_HANDLE;
	if (!error)
		*phGraphClone = (CUgraph)(uintptr_t)copy->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

static struct sc_node *node_from(const struct sc_graph *graph, uint64_t origin)
{
	for (size_t i = 0; i < graph->count; i++) {
		if (graph->nodes[i]->origin == origin)
			return graph->nodes[i];
	}
	return NULL;
}

CUresult CUDAAPI cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode, CUgraph hClonedGraph)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_graph *graph;
	struct sc_node *node;

	if (error)
		return error;
	if (!phNode)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(hClonedGraph);
	node = graph ? node_from(graph, sc_key(hOriginalNode)) : NULL;
	if (node)
		*phNode = (CUgraphNode)(uintptr_t)node->key;
	pthread_mutex_unlock(&sc_lock);
	return node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- lists ---- */

/*
 * How the driver gives lists: without an array it tells how many there are; else it fills in as many as asked for, clears
 * what is too much, and tells how many it gave.
 */
struct list {
	CUgraphNode *first, *second; /* either may be NULL */
	CUgraphEdgeData *data; /* NULL: "the edges must all have default (zeroed) edge data" (cuGraphGetEdges_v2) */
	size_t asked, found;
	bool lossy;
};

static void list_add(
	struct list *list, const struct sc_node *first, const struct sc_node *second, const CUgraphEdgeData *edge)
{
	if (list->found < list->asked && list->data)
		list->data[list->found] = *edge;
	else if (list->found < list->asked && edge && (edge->type || edge->from_port))
		list->lossy = true;
	if (list->found < list->asked && list->first)
		list->first[list->found] = (CUgraphNode)(uintptr_t)first->key;
	if (list->found < list->asked && list->second)
		list->second[list->found] = (CUgraphNode)(uintptr_t)second->key;
	list->found++;
}

static CUresult list_end(struct list *list, size_t *count)
{
	for (size_t i = list->found; i < list->asked; i++) {
		if (list->first)
			list->first[i] = NULL;
		if (list->second)
			list->second[i] = NULL;
		if (list->data)
			list->data[i] = (CUgraphEdgeData){0};
	}
	*count = (list->first || list->second) && list->found > list->asked ? list->asked : list->found;
	return list->lossy ? CUDA_ERROR_LOSSY_QUERY : CUDA_SUCCESS;
}

static struct list list_begin(CUgraphNode *first, CUgraphNode *second, CUgraphEdgeData *data, const size_t *count)
{
	return (struct list){.first = first, .second = second, .data = data, .asked = first || second ? *count : 0};
}

static CUresult nodes_list(const char *call, CUgraph handle, CUgraphNode *nodes, size_t *count, bool roots)
{
	CUresult error = sc_enter_alive(call);
	struct sc_graph *graph;
	struct list list;

	if (error)
		return error;
	if (!count)
		return CUDA_ERROR_INVALID_VALUE;
	list = list_begin(nodes, NULL, NULL, count);
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(handle);
	for (size_t i = 0; graph && i < graph->count; i++) {
		if (!roots || !graph->nodes[i]->from_count)
			list_add(&list, graph->nodes[i], NULL, NULL);
	}
	pthread_mutex_unlock(&sc_lock);
	if (!graph)
		return CUDA_ERROR_INVALID_HANDLE;
	return list_end(&list, count);
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
	return nodes_list(__func__, hGraph, nodes, numNodes, false);
}

CUresult CUDAAPI cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
	return nodes_list(__func__, hGraph, rootNodes, numRootNodes, true);
}

static CUresult edges_list(
	const char *call, CUgraph handle, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *count)
{
	CUresult error = sc_enter_alive(call);
	struct sc_graph *graph;
	struct list list;

	if (error)
		return error;
	if (!count || !from != !to || (data && !from))
		return CUDA_ERROR_INVALID_VALUE;
	list = list_begin(from, to, data, count);
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(handle);
	for (size_t i = 0; graph && i < graph->count; i++) {
		for (size_t d = 0; d < graph->nodes[i]->from_count; d++)
			list_add(&list, graph->nodes[i]->from[d], graph->nodes[i], &graph->nodes[i]->edges[d]);
	}
	pthread_mutex_unlock(&sc_lock);
	if (!graph)
		return CUDA_ERROR_INVALID_HANDLE;
	return list_end(&list, count);
}

CUresult CUDAAPI cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
	return edges_list(__func__, hGraph, from, to, NULL, numEdges);
}

/* The nodes that it depends on, or those that depend on it. */
static CUresult neighbours_list(
	const char *call, CUgraphNode handle, CUgraphNode *nodes, CUgraphEdgeData *data, size_t *count, bool behind)
{
	CUresult error = sc_enter_alive(call);
	struct sc_node *node;
	struct list list;

	if (error)
		return error;
	if (!count || (data && !nodes))
		return CUDA_ERROR_INVALID_VALUE;
	list = list_begin(nodes, NULL, data, count);
	pthread_mutex_lock(&sc_lock);
	node = sc_node_find(handle);
	for (size_t i = 0; node && !behind && i < node->from_count; i++)
		list_add(&list, node->from[i], NULL, &node->edges[i]);
	for (size_t i = 0; node && behind && i < node->graph->count; i++) {
		if (sc_node_depends(node->graph->nodes[i], node))
			list_add(&list, node->graph->nodes[i], NULL, sc_node_edge(node->graph->nodes[i], node));
	}
	pthread_mutex_unlock(&sc_lock);
	if (!node)
		return CUDA_ERROR_INVALID_HANDLE;
	return list_end(&list, count);
}

CUresult CUDAAPI cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies, size_t *numDependencies)
{
	return neighbours_list(__func__, hNode, dependencies, NULL, numDependencies, false);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes, size_t *numDependentNodes)
{
	return neighbours_list(__func__, hNode, dependentNodes, NULL, numDependentNodes, true);
}

CUresult CUDAAPI cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_node *node;

	if (error)
		return error;
	if (!type)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	node = sc_node_find(hNode);
	if (node)
		*type = node->work.type;
	pthread_mutex_unlock(&sc_lock);
	return node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* ---- changes ---- */

/* "data matching edgeData" (cuGraphRemoveDependencies_v2) */
static bool edge_is(const CUgraphEdgeData *edge, const CUgraphEdgeData *data)
{
	return edge->type == (data ? data->type : 0) && edge->from_port == (data ? data->from_port : 0);
}

/* Is there this edge already, or, as is asked of removals, is there not? All are checked before any is changed. */
static CUresult edges_check(struct sc_graph *graph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *data, size_t count, bool wanted)
{
	for (size_t i = 0; i < count; i++) {
		struct sc_node *first = sc_node_find(from[i]), *second = sc_node_find(to[i]);
		const CUgraphEdgeData *edge;

		if (!first || !second || first->graph != graph || second->graph != graph || first == second)
			return CUDA_ERROR_INVALID_VALUE;
		edge = sc_node_edge(second, first);
		if (!edge == wanted || (wanted && !edge_is(edge, data ? &data[i] : NULL)))
			return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

static CUresult edges_change(const char *call, CUgraph handle, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *data, size_t count, bool add)
{
	CUresult error = sc_enter_alive(call);
	struct sc_graph *graph;

	if (error)
		return error;
	if (count && (!from || !to))
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	graph = sc_graph_find(handle);
	error = graph ? edges_check(graph, from, to, data, count, !add) : CUDA_ERROR_INVALID_HANDLE;
	for (size_t i = 0; i < count && !error; i++) {
		if (add)
			error = sc_node_depend(sc_node_find(to[i]), sc_node_find(from[i]), data ? &data[i] : NULL);
		else
			sc_node_sever(sc_node_find(to[i]), sc_node_find(from[i]));
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuGraphAddDependencies(
	CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t numDependencies)
{
	return edges_change(__func__, hGraph, from, to, NULL, numDependencies, true);
}

CUresult CUDAAPI cuGraphRemoveDependencies(
	CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t numDependencies)
{
	return edges_change(__func__, hGraph, from, to, NULL, numDependencies, false);
}

#if CUDA_VERSION >= 12030
/* Edges with data are those of programmatic launches, which run one after another here. */
CUresult CUDAAPI cuGraphGetEdges_v2(
	CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edgeData, size_t *numEdges)
{
	return edges_list(__func__, hGraph, from, to, edgeData, numEdges);
}

CUresult CUDAAPI cuGraphNodeGetDependencies_v2(
	CUgraphNode hNode, CUgraphNode *dependencies, CUgraphEdgeData *edgeData, size_t *numDependencies)
{
	return neighbours_list(__func__, hNode, dependencies, edgeData, numDependencies, false);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes_v2(
	CUgraphNode hNode, CUgraphNode *dependentNodes, CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
	return neighbours_list(__func__, hNode, dependentNodes, edgeData, numDependentNodes, true);
}

CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *edgeData, size_t numDependencies)
{
	return edges_change(__func__, hGraph, from, to, edgeData, numDependencies, true);
}

CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *edgeData, size_t numDependencies)
{
	return edges_change(__func__, hGraph, from, to, edgeData, numDependencies, false);
}
#endif

/* "All operations other than destroy and node removal are permitted on the graph" while it is captured into. */
CUresult CUDAAPI cuGraphDestroyNode(CUgraphNode hNode)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_node *node;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	node = sc_node_find(hNode);
	if (!node)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (node->graph->is_capturing)
		error = CUDA_ERROR_INVALID_VALUE;
	else
		sc_node_free(node);
	pthread_mutex_unlock(&sc_lock);
	return error;
}
