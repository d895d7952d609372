/*
 * When does a driver read a kernel's parameters: at the call, at capture, or at replay? And can they be patched after?
 *
 * A kernel fills words with a value. In each row the value is 1 at the call and something is changed to 2 behind it; what the
 * kernel then wrote tells which the driver took. An interposer that patches pointers in the parameter array of a launch may
 * give its own short-lived copy only if the driver reads it at the call.
 */
#include "probe_graph.h"

enum { BEFORE = 1, AFTER = 2 };

/* The parameters of probe_fill, as an array of pointers and as one buffer. */
struct fill {
	CUdeviceptr out;
	unsigned value;
	unsigned long long count;
};
static CUdeviceptr words, other_words;
static CUstream stream;

static struct fill fill_of(unsigned value)
{
	return (struct fill){words, value, granule / 4};
}

static void row(const char *what, CUresult result)
{
	unsigned first = 0, second = 0;

	if (!result)
		result = cu->cuStreamSynchronize(stream);
	if (!result) {
		first = word_at(words);
		second = word_at(other_words);
	}
	probe_row("%s\t%s\t%u\t%u", what, error_name(result), first, second);
	must(cu->cuMemsetD32Async(words, 0, granule / 4, NULL));
	must(cu->cuMemsetD32Async(other_words, 0, granule / 4, NULL));
	must(cu->cuCtxSynchronize());
}

/* What is changed behind the call. */
enum change { CHANGE_VALUES, CHANGE_POINTERS, CHANGE_BUFFER };

static CUresult launch_and_change(CUstream on, void *change)
{
	struct fill fill = fill_of(BEFORE), after = {other_words, AFTER, granule / 4};
	void *params[] = {&fill.out, &fill.value, &fill.count};
	size_t bytes = sizeof(fill);
	void *extra[] = {
		CU_LAUNCH_PARAM_BUFFER_POINTER, &fill, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
	bool by_buffer = *(enum change *)change == CHANGE_BUFFER;
	CUresult result = cu->cuLaunchKernel(probe_kernel("probe_fill"), 4, 1, 1, 64, 1, 1, 0, on,
		by_buffer ? NULL : params, by_buffer ? extra : NULL);

	if (*(enum change *)change == CHANGE_POINTERS) {
		params[0] = &after.out;
		params[1] = &after.value;
	} else {
		fill = after;
	}
	/* The compiler must not see that nobody here reads them again. */
	__asm__ volatile("" ::"g"(&fill), "g"(params), "g"(&after) : "memory");
	return result;
}

/* The launch waits behind a gate when the change is made. */
static void ask_queued(const char *what, enum change change)
{
	struct gate gate = gate_new();
	CUresult result;

	must(gate_launch(&gate, stream, words, GATE_TOUCH_NOTHING));
	gate_await_start(&gate);
	result = launch_and_change(stream, &change);
	gate_open(&gate);
	row(what, result);
	gate_free(&gate);
}

static void ask_captured(const char *what, enum change change)
{
	struct graph graph;
	CUresult result = graph_capture(&graph, stream, launch_and_change, &change);

	if (!result)
		result = graph_replay(&graph, stream);
	row(what, result);
	graph_free(&graph);
}

/* ---- patching a graph that was made ---- */

struct node_functions {
	__typeof__(cuGraphGetNodes) *nodes;
	__typeof__(cuGraphKernelNodeGetParams) *get;
	__typeof__(cuGraphKernelNodeSetParams) *set;
	__typeof__(cuGraphExecKernelNodeSetParams) *exec_set;
};

static CUresult node_patch(const struct node_functions *call, const struct graph *graph, bool in_exec)
{
	struct fill after = {other_words, AFTER, granule / 4};
	void *params[] = {&after.out, &after.value, &after.count};
	CUDA_KERNEL_NODE_PARAMS node_params;
	CUgraphNode node;
	size_t count = 1;
	CUresult result = call->nodes(graph->graph, &node, &count);

	if (!result)
		result = call->get(node, &node_params);
	if (result)
		return result;
	if (!node_params.kernelParams || *(unsigned *)node_params.kernelParams[1] != BEFORE)
		return CUDA_ERROR_UNKNOWN; /* the node does not tell what was captured */
	node_params.kernelParams = params;
	return in_exec ? call->exec_set(graph->exec, node, &node_params) : call->set(node, &node_params);
}

static void ask_patched(const char *what, bool in_exec)
{
	struct node_functions call = {
		.nodes = driver_function(cuGraphGetNodes),
		.get = driver_function(cuGraphKernelNodeGetParams),
		.set = driver_function(cuGraphKernelNodeSetParams),
		.exec_set = driver_function(cuGraphExecKernelNodeSetParams),
	};
	enum change change = CHANGE_VALUES;
	struct graph graph;
	CUresult result = graph_capture(&graph, stream, launch_and_change, &change);

	if (!call.nodes || !call.get || !call.set || !call.exec_set)
		result = CUDA_ERROR_NOT_FOUND;
	if (!result)
		result = node_patch(&call, &graph, in_exec);
	if (!result)
		result = graph_replay(&graph, stream);
	row(what, result);
	graph_free(&graph);
}

static void run(void)
{
	struct range first = range_new(granule), second = range_new(granule);

	words = first.at;
	other_words = second.at;
	must(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	must(cu->cuMemsetD32Async(words, 0, granule / 4, NULL));
	must(cu->cuMemsetD32Async(other_words, 0, granule / 4, NULL));
	must(cu->cuCtxSynchronize());
	ask_queued("queued launch: values changed", CHANGE_VALUES);
	ask_queued("queued launch: pointers to values changed", CHANGE_POINTERS);
	ask_queued("queued launch: buffer (extra) changed", CHANGE_BUFFER);
	if (graph_is_supported()) {
		ask_captured("captured launch: values changed before replay", CHANGE_VALUES);
		ask_captured("captured launch: pointers to values changed before replay", CHANGE_POINTERS);
		ask_captured("captured launch: buffer (extra) changed before replay", CHANGE_BUFFER);
		ask_patched("cuGraphKernelNodeSetParams after instantiation", false);
		ask_patched("cuGraphExecKernelNodeSetParams after instantiation", true);
	} else {
		probe_row("captured launch\tnot supported here");
	}
	must(cu->cuStreamDestroy(stream));
	range_free(&first);
	range_free(&second);
}

static const char *const columns[] = {
	"changed_behind_the_call", "result", "at_first_address", "at_second_address", NULL};
static const struct probe probe = {
	.name = "graph_params",
	.question = "When are a kernel's parameters read (1: at the call, 2: later), and can a graph's be patched?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
