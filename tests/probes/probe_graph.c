/*
 * Stream capture and graphs; the functions are looked up once, as a driver may have none of them.
 */
#include "probe_graph.h"

static struct {
	__typeof__(cuStreamBeginCapture) *begin;
	__typeof__(cuStreamEndCapture) *end;
	__typeof__(cuGraphInstantiate) *instantiate;
	__typeof__(cuGraphLaunch) *launch;
	__typeof__(cuGraphExecDestroy) *exec_destroy;
	__typeof__(cuGraphDestroy) *destroy;
} call;

bool graph_is_supported(void)
{
	call.begin = driver_function(cuStreamBeginCapture);
	call.end = driver_function(cuStreamEndCapture);
	call.instantiate = driver_function(cuGraphInstantiate);
	call.launch = driver_function(cuGraphLaunch);
	call.exec_destroy = driver_function(cuGraphExecDestroy);
	call.destroy = driver_function(cuGraphDestroy);
	return call.begin && call.end && call.instantiate && call.launch && call.exec_destroy && call.destroy;
}

CUresult graph_capture(
	struct graph *graph, CUstream stream, CUresult (*record)(CUstream stream, void *argument), void *argument)
{
	CUresult result = call.begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), ended;

	*graph = (struct graph){0};
	if (result)
		return result;
	result = record(stream, argument);
	ended = call.end(stream, &graph->graph);
	if (!result)
		result = ended;
	if (!result)
		result = call.instantiate(&graph->exec, graph->graph, 0);
	if (result)
		graph_free(graph);
	return result;
}

CUresult graph_replay(const struct graph *graph, CUstream stream)
{
	return call.launch(graph->exec, stream);
}

void graph_free(struct graph *graph)
{
	if (graph->exec)
		must(call.exec_destroy(graph->exec));
	if (graph->graph)
		must(call.destroy(graph->graph));
	*graph = (struct graph){0};
}
