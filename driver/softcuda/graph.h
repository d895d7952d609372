/*
 * driver/softcuda/graph.h: graphs: nodes of work, and which waits for which.
 *
 * A node's work is an entry of a stream (struct sc_op) that no stream holds; running a graph runs copies of them. All
 * functions need sc_lock held, unless it says otherwise.
 */
#ifndef SOFTCUDA_GRAPH_H
#define SOFTCUDA_GRAPH_H

#include "stream.h"

/* What a node does, and the parameters that the driver's calls read and set. */
struct sc_work {
	CUgraphNodeType type;
	/* Of a kernel, copy, memset, host function or words; a kernel's and words' parameters are in there. */
	struct sc_op *op;
	union {
		CUDA_MEMCPY3D memcpy;
		CUDA_MEMSET_NODE_PARAMS memset;
		CUDA_HOST_NODE_PARAMS host;
	} params;
	struct sc_graph *child;
	uint64_t event; /* of a node that records or awaits one: its key */
};

struct sc_node {
	uint64_t key;    /* 0: in a graph that no program sees */
	uint64_t origin; /* the key of the node that it is a copy of */
	struct sc_graph *graph;
	struct sc_work work;
	struct sc_node **from;  /* the nodes that it depends on, in the order in which that was said */
	CUgraphEdgeData *edges; /* of each of these; all run one after another, whatever their edges say */
	size_t from_count;
	bool disabled;
	size_t mark; /* for whoever walks the graph */
};

struct sc_graph {
	uint64_t key;           /* 0: no program sees it */
	struct sc_node *parent; /* whose child graph it is, or NULL */
	struct sc_node **nodes; /* in the order in which they came */
	size_t count, capacity;
	bool is_capturing; /* a capture adds to it */
};

/* Freeing needs sc_lock for a child graph, as copying does. */
void sc_work_free(struct sc_work *work);
CUresult sc_work_copy(const struct sc_work *from, bool visible, struct sc_work *to);

CUresult sc_graph_new(bool visible, struct sc_graph **out);
void sc_graph_free(struct sc_graph *graph);
CUresult sc_graph_copy(const struct sc_graph *graph, bool visible, struct sc_graph **out);
/* The nodes so that each comes after those it depends on; false: there is a circle. `order` has room for all. */
bool sc_graph_sort(const struct sc_graph *graph, struct sc_node **order);
void sc_graphs_reset(void);
void sc_execs_reset(void);

/* Takes `work`, on failure too. */
CUresult sc_node_add(struct sc_graph *graph, struct sc_work *work, struct sc_node **out);
/* Does nothing if it does already. `edge` NULL: an edge like any other. */
CUresult sc_node_depend(struct sc_node *node, struct sc_node *on, const CUgraphEdgeData *edge);
bool sc_node_depends(const struct sc_node *node, const struct sc_node *on);
/* The edge's data; NULL: it does not depend on it. */
const CUgraphEdgeData *sc_node_edge(const struct sc_node *node, const struct sc_node *on);
void sc_node_sever(struct sc_node *node, struct sc_node *from);
void sc_node_free(struct sc_node *node);

/* Work from the driver's parameters, checked (work.c). They need sc_lock not to be held, but for the child graph. */
CUresult sc_work_of_kernel(const CUDA_KERNEL_NODE_PARAMS_v2 *p, bool cooperative, struct sc_work *out);
CUresult sc_work_of_memcpy(const CUDA_MEMCPY3D *p, struct sc_work *out);
CUresult sc_work_of_memset(const CUDA_MEMSET_NODE_PARAMS *p, struct sc_work *out);
CUresult sc_work_of_host(const CUDA_HOST_NODE_PARAMS *p, struct sc_work *out);
CUresult sc_work_of_words(const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, struct sc_work *out);
CUresult sc_work_of_event(CUgraphNodeType type, CUevent event, struct sc_work *out);
CUresult sc_work_of_child(CUgraph graph, struct sc_work *out);
#if CUDA_VERSION >= 12020
CUresult sc_work_of_any(const CUgraphNodeParams *p, struct sc_work *out); /* needs sc_lock not to be held */
#endif

/* The program's handles. */
struct sc_graph *sc_graph_find(CUgraph graph);
struct sc_node *sc_node_find(CUgraphNode node);

struct sc_graph *sc_exec_graph(CUgraphExec exec); /* what it runs from now on (exec.c) */

/* Keys. */
bool sc_keys_add(struct sc_keys *keys, uint64_t key); /* false: no memory */
bool sc_keys_copy(struct sc_keys *to, const struct sc_keys *from);

/* Events in graphs (event.c); need sc_lock not to be held. */
bool sc_event_exists(CUevent event);
CUresult sc_event_record(CUevent event, struct sc_stream *stream);
CUresult sc_event_wait(struct sc_stream *stream, CUevent event);
CUresult sc_host_op(CUhostFn function, void *data, struct sc_op **out);

/* Batches of words in graphs (memop.c). The parameters are the work's; alike: the same operations in the same order. */
CUresult sc_words_op(const CUDA_BATCH_MEM_OP_NODE_PARAMS *params, struct sc_op **out);
const CUDA_BATCH_MEM_OP_NODE_PARAMS *sc_words_params(const struct sc_op *op);
bool sc_words_are_alike(const struct sc_op *a, const struct sc_op *b);

#endif
