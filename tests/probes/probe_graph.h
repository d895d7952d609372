/*
 * tests/probes/probe_graph.h: capturing and replaying graphs, by functions that a driver may lack.
 */
#ifndef KVS_PROBE_GRAPH_H
#define KVS_PROBE_GRAPH_H

#include "probe.h"

/* Does the driver have stream capture and graphs? All below ask for it. */
bool graph_is_supported(void);

/* Capture what `record` puts into `stream`; on success the caller owes graph_free(). */
struct graph {
	CUgraph graph;
	CUgraphExec exec;
};
CUresult graph_capture(
	struct graph *graph, CUstream stream, CUresult (*record)(CUstream stream, void *argument), void *argument);
CUresult graph_replay(const struct graph *graph, CUstream stream);
void graph_free(struct graph *graph);

#endif
