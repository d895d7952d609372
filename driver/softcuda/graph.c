/*
 * driver/softcuda/graph.c: the structure of graphs. The driver's calls on it are in graph_calls.c.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

bool sc_keys_add(struct sc_keys *keys, uint64_t key)
{
	for (size_t i = 0; i < keys->count; i++) {
		if (keys->keys[i] == key)
			return true;
	}
	if (keys->count == keys->capacity) {
		size_t capacity = keys->capacity ? 2 * keys->capacity : 4;
		uint64_t *grown = realloc(keys->keys, capacity * sizeof(*grown));

		if (!grown)
			return false;
		keys->keys = grown;
		keys->capacity = capacity;
	}
	keys->keys[keys->count++] = key;
	return true;
}

bool sc_keys_copy(struct sc_keys *to, const struct sc_keys *from)
{
	to->count = 0;
	for (size_t i = 0; i < from->count; i++) {
		if (!sc_keys_add(to, from->keys[i]))
			return false;
	}
	return true;
}

struct sc_graph *sc_graph_find(CUgraph graph)
{
	return sc_object_find(SC_GRAPH, sc_key(graph));
}

struct sc_node *sc_node_find(CUgraphNode node)
{
	return sc_object_find(SC_NODE, sc_key(node));
}

/* ---- graphs ---- */

CUresult sc_graph_new(bool visible, struct sc_graph **out)
{
	struct sc_graph *graph = calloc(1, sizeof(*graph));

	if (graph && visible)
		graph->key = sc_object_add(SC_GRAPH, graph);
	if (!graph || (visible && !graph->key)) {
		free(graph);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*out = graph;
	return CUDA_SUCCESS;
}

static void node_destroy(struct sc_node *node)
{
	if (node->key)
		sc_object_remove(SC_NODE, node->key);
	sc_work_free(&node->work);
	free(node->from);
	free(node->edges);
	free(node);
}

void sc_graph_free(struct sc_graph *graph)
{
	if (!graph)
		return;
	for (size_t i = 0; i < graph->count; i++)
		node_destroy(graph->nodes[i]);
	if (graph->key)
		sc_object_remove(SC_GRAPH, graph->key);
	free(graph->nodes);
	free(graph);
}

void sc_graphs_reset(void)
{
	struct sc_graph *graph;
	size_t cursor = 0;

	/* A child goes with its parent, which may come later in the walk. */
	while ((graph = sc_object_next(SC_GRAPH, &cursor))) {
		if (!graph->parent) {
			sc_graph_free(graph);
			cursor = 0;
		}
	}
}

CUresult sc_graph_copy(const struct sc_graph *graph, bool visible, struct sc_graph **out)
{
	struct sc_graph *copy = NULL;
	CUresult error = sc_graph_new(visible, &copy);

	for (size_t i = 0; i < graph->count && !error; i++) {
		struct sc_node *from = graph->nodes[i], *node;
		struct sc_work work;

		from->mark = i;
		error = sc_work_copy(&from->work, visible, &work);
		if (!error)
			error = sc_node_add(copy, &work, &node);
		if (!error) {
			node->origin = from->key ? from->key : from->origin;
			node->disabled = from->disabled;
		}
	}
	for (size_t i = 0; i < graph->count && !error; i++) {
		for (size_t d = 0; d < graph->nodes[i]->from_count && !error; d++)
			error = sc_node_depend(copy->nodes[i], copy->nodes[graph->nodes[i]->from[d]->mark],
				&graph->nodes[i]->edges[d]);
	}
	if (error)
		sc_graph_free(copy);
	else
		*out = copy;
	return error;
}

/* Rounds over the nodes, each time taking those whose dependencies were taken: graphs mostly come in order. */
bool sc_graph_sort(const struct sc_graph *graph, struct sc_node **order)
{
	size_t taken = 0, before;

	for (size_t i = 0; i < graph->count; i++)
		graph->nodes[i]->mark = 0;
	do {
		before = taken;
		for (size_t i = 0; i < graph->count; i++) {
			struct sc_node *node = graph->nodes[i];
			size_t left = node->from_count;

			for (size_t d = 0; d < node->from_count; d++)
				left -= node->from[d]->mark;
			if (!node->mark && !left) {
				node->mark = 1;
				order[taken++] = node;
			}
		}
	} while (taken != before && taken < graph->count);
	return taken == graph->count;
}

/* ---- nodes ---- */

static bool nodes_grow(struct sc_graph *graph)
{
	size_t capacity = graph->capacity ? 2 * graph->capacity : 16;
	struct sc_node **grown = realloc(graph->nodes, capacity * sizeof(*grown));

	if (!grown)
		return false;
	graph->nodes = grown;
	graph->capacity = capacity;
	return true;
}

CUresult sc_node_add(struct sc_graph *graph, struct sc_work *work, struct sc_node **out)
{
	struct sc_node *node = calloc(1, sizeof(*node));

	if (!node || (graph->count == graph->capacity && !nodes_grow(graph))) {
		sc_work_free(work);
		free(node);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	node->work = *work;
	node->graph = graph;
	if (graph->key)
		node->key = sc_object_add(SC_NODE, node);
	if (graph->key && !node->key) {
		node_destroy(node);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (node->work.child)
		node->work.child->parent = node;
	graph->nodes[graph->count++] = node;
	*out = node;
	return CUDA_SUCCESS;
}

const CUgraphEdgeData *sc_node_edge(const struct sc_node *node, const struct sc_node *on)
{
	for (size_t i = 0; i < node->from_count; i++) {
		if (node->from[i] == on)
			return &node->edges[i];
	}
	return NULL;
}

bool sc_node_depends(const struct sc_node *node, const struct sc_node *on)
{
	return sc_node_edge(node, on) != NULL;
}

CUresult sc_node_depend(struct sc_node *node, struct sc_node *on, const CUgraphEdgeData *edge)
{
	struct sc_node **grown;
	CUgraphEdgeData *edges;

	if (sc_node_depends(node, on))
		return CUDA_SUCCESS;
	grown = realloc(node->from, (node->from_count + 1) * sizeof(*grown));
	if (!grown)
		return CUDA_ERROR_OUT_OF_MEMORY;
	node->from = grown;
	edges = realloc(node->edges, (node->from_count + 1) * sizeof(*edges));
	if (!edges)
		return CUDA_ERROR_OUT_OF_MEMORY;
	node->edges = edges;
	node->edges[node->from_count] = edge ? *edge : (CUgraphEdgeData){0};
	node->from[node->from_count++] = on;
	return CUDA_SUCCESS;
}

void sc_node_sever(struct sc_node *node, struct sc_node *from)
{
	size_t kept = 0;

	for (size_t i = 0; i < node->from_count; i++) {
		if (node->from[i] == from)
			continue;
		node->edges[kept] = node->edges[i];
		node->from[kept++] = node->from[i];
	}
	node->from_count = kept;
}

void sc_node_free(struct sc_node *node)
{
	struct sc_graph *graph = node->graph;
	size_t kept = 0;

	for (size_t i = 0; i < graph->count; i++) {
		sc_node_sever(graph->nodes[i], node);
		if (graph->nodes[i] != node)
			graph->nodes[kept++] = graph->nodes[i];
	}
	graph->count = kept;
	node_destroy(node);
}
