/*
 * Graphs that are made node by node: their structure, what a launch runs and in which order, and changes before and after they
 * were made executable. Quotations are from the comments of cuda.h (CUDA 13.0) at the function named. What the parameters of
 * nodes do after instantiation was seen on an NVIDIA H200 (docs/measurements/h200.md, graph_params).
 */
#include "conformance.h"

#include <string.h>
#include <unistd.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE

enum { WORDS = 256 };

static CUgraph graph_new(void)
{
	CUgraph graph = NULL;

	must(driver_function(cuGraphCreate)(&graph, 0));
	return graph;
}

static void graph_free(CUgraph graph)
{
	must(driver_function(cuGraphDestroy)(graph));
}

static CUgraphExec exec_new(CUgraph graph)
{
	CUgraphExec exec = NULL;

	must(driver_function(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	return exec;
}

static void run(CUgraphExec exec)
{
	must(driver_function(cuGraphLaunch)(exec, NULL));
	must(cu->cuCtxSynchronize());
}

static void exec_free(CUgraphExec exec)
{
	must(driver_function(cuGraphExecDestroy)(exec));
}

/* The arguments of conformance_fill and conformance_add. */
struct fill {
	CUdeviceptr out;
	unsigned value;
	unsigned long long count;
	void *pointers[3];
};

struct add {
	CUdeviceptr out, in;
	unsigned addend;
	unsigned long long count;
	void *pointers[4];
};

static CUDA_KERNEL_NODE_PARAMS kernel_params(const char *name, void **pointers)
{
	return (CUDA_KERNEL_NODE_PARAMS){.func = conformance_kernel(name),
		.gridDimX = 2,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = 64,
		.blockDimY = 1,
		.blockDimZ = 1,
		.kernelParams = pointers};
}

static CUDA_KERNEL_NODE_PARAMS fill_params(struct fill *fill, CUdeviceptr out, unsigned value)
{
	*fill = (struct fill){.out = out, .value = value, .count = WORDS};
	fill->pointers[0] = &fill->out;
	fill->pointers[1] = &fill->value;
	fill->pointers[2] = &fill->count;
	return kernel_params("conformance_fill", fill->pointers);
}

static CUDA_KERNEL_NODE_PARAMS add_params(struct add *add, CUdeviceptr out, CUdeviceptr in, unsigned addend)
{
	*add = (struct add){.out = out, .in = in, .addend = addend, .count = WORDS};
	add->pointers[0] = &add->out;
	add->pointers[1] = &add->in;
	add->pointers[2] = &add->addend;
	add->pointers[3] = &add->count;
	return kernel_params("conformance_add", add->pointers);
}

static CUgraphNode fill_node(CUgraph graph, const CUgraphNode *after, size_t count, CUdeviceptr out, unsigned value)
{
	struct fill fill;
	CUDA_KERNEL_NODE_PARAMS params = fill_params(&fill, out, value);
	CUgraphNode node = NULL;

	must(driver_function(cuGraphAddKernelNode)(&node, graph, after, count, &params));
	memset(&fill, 0xee, sizeof(fill)); /* "are copied during this call" */
	__asm__ volatile("" ::"g"(&fill) : "memory");
	return node;
}

static CUgraphNode add_node(
	CUgraph graph, const CUgraphNode *after, size_t count, CUdeviceptr out, CUdeviceptr in, unsigned addend)
{
	struct add add;
	CUDA_KERNEL_NODE_PARAMS params = add_params(&add, out, in, addend);
	CUgraphNode node = NULL;

	must(driver_function(cuGraphAddKernelNode)(&node, graph, after, count, &params));
	return node;
}

/* ---- structure ---- */

/* cuGraphGetNodes, cuGraphGetRootNodes, cuGraphGetEdges, cuGraphNodeGetDependencies, ...DependentNodes, ...GetType */
static void nodes_and_edges_can_be_listed(void **state)
{
	CUgraph graph = graph_new();
	CUgraphNode a, b, c, nodes[5], from[4], to[4];
	CUgraphNodeType type;
	size_t count = 0;

	(void)state;
	must(driver_function(cuGraphAddEmptyNode)(&a, graph, NULL, 0));
	must(driver_function(cuGraphAddEmptyNode)(&b, graph, &a, 1));
	must(driver_function(cuGraphAddEmptyNode)(&c, graph, (CUgraphNode[]){a, b}, 2));
	must(driver_function(cuGraphGetNodes)(graph, NULL, &count)); /* "nodes may be NULL" */
	assert_int_equal(count, 3);
	count = 5;
	memset(nodes, 0xee, sizeof(nodes));
	must(driver_function(cuGraphGetNodes)(graph, nodes, &count));
	assert_int_equal(count, 3);
	assert_null(nodes[3]); /* "the remaining entries in nodes will be set to NULL" */
	assert_null(nodes[4]);
	count = 5;
	must(driver_function(cuGraphGetRootNodes)(graph, nodes, &count));
	assert_int_equal(count, 1);
	assert_ptr_equal(nodes[0], a);
	count = 4;
	must(driver_function(cuGraphGetEdges)(graph, from, to, NULL, &count));
	assert_int_equal(count, 3);
	count = 5;
	must(driver_function(cuGraphNodeGetDependencies)(c, nodes, NULL, &count));
	assert_int_equal(count, 2);
	assert_true((nodes[0] == a && nodes[1] == b) || (nodes[0] == b && nodes[1] == a));
	count = 0;
	must(driver_function(cuGraphNodeGetDependentNodes)(a, NULL, NULL, &count));
	assert_int_equal(count, 2);
	must(driver_function(cuGraphNodeGetType)(b, &type));
	assert_int_equal(type, CU_GRAPH_NODE_TYPE_EMPTY);
	graph_free(graph);
}

static void dependencies_can_be_added_and_removed(void **state)
{
	CUgraph graph = graph_new(), other = graph_new();
	CUgraphNode a, b, strange;
	size_t count = 0;

	(void)state;
	must(driver_function(cuGraphAddEmptyNode)(&a, graph, NULL, 0));
	must(driver_function(cuGraphAddEmptyNode)(&b, graph, NULL, 0));
	must(driver_function(cuGraphAddEmptyNode)(&strange, other, NULL, 0));
	must(driver_function(cuGraphAddDependencies)(graph, &a, &b, NULL, 1));
	/* "Specifying an existing dependency will return an error." */
	must_refuse(driver_function(cuGraphAddDependencies)(graph, &a, &b, NULL, 1));
	must_refuse(driver_function(cuGraphAddDependencies)(graph, &a, &strange, NULL, 1));
	must(driver_function(cuGraphRemoveDependencies)(graph, &a, &b, NULL, 1));
	/* "Specifying an edge that does not exist in the graph" is an error */
	must_refuse(driver_function(cuGraphRemoveDependencies)(graph, &a, &b, NULL, 1));
	must_refuse(driver_function(cuGraphAddEmptyNode)(&strange, graph, (CUgraphNode[]){a, a}, 2)); /* duplicates */
	must(driver_function(cuGraphAddDependencies)(graph, &a, &b, NULL, 1));
	must(driver_function(cuGraphDestroyNode)(a)); /* "severs any dependencies of other nodes on hNode" */
	must(driver_function(cuGraphNodeGetDependencies)(b, NULL, NULL, &count));
	assert_int_equal(count, 0);
	must(driver_function(cuGraphGetNodes)(graph, NULL, &count));
	assert_int_equal(count, 1);
	graph_free(other);
	graph_free(graph);
}

/* cuGraphInstantiate: "The graph is validated for any structural constraints": a circle has no first node. */
/* cuGraphAddDependencies_v2, cuGraphGetEdges_v2, cuGraphRemoveDependencies_v2: edges of programmatic launches */
static void edges_have_data(void **state)
{
	static const CUgraphEdgeData early = {
		.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
	struct range out = range_new(1, RW);
	CUgraph graph = graph_new();
	CUgraphNode a = fill_node(graph, NULL, 0, out.at, 1), b = fill_node(graph, NULL, 0, out.at, 2), from, to;
	CUgraphEdgeData data = {0};
	size_t count = 1;

	(void)state;
	must(driver_function(cuGraphAddDependencies)(graph, &a, &b, &early, 1));
	must(driver_function(cuGraphGetEdges)(graph, &from, &to, &data, &count));
	assert_memory_equal(&data, &early, sizeof(data));
	/* "Attempting a lossy query via NULL edgeData will result in CUDA_ERROR_LOSSY_QUERY." */
	assert_int_equal(driver_function(cuGraphGetEdges)(graph, &from, &to, NULL, &count), CUDA_ERROR_LOSSY_QUERY);
	/* "an edge that does not exist in the graph, with data matching edgeData, results in an error"; NULL is "default (zeroed) data" */
	must_refuse(driver_function(cuGraphRemoveDependencies)(graph, &a, &b, NULL, 1));
	must(driver_function(cuGraphRemoveDependencies)(graph, &a, &b, &early, 1));
	must(driver_function(cuGraphGetEdges)(graph, NULL, NULL, NULL, &count));
	assert_int_equal(count, 0);
	graph_free(graph);
	range_free(&out);
}

static void a_circle_cannot_be_instantiated(void **state)
{
	CUgraph graph = graph_new();
	CUgraphNode a, b;
	CUgraphExec exec = NULL;
	CUresult added;

	(void)state;
	must(driver_function(cuGraphAddEmptyNode)(&a, graph, NULL, 0));
	must(driver_function(cuGraphAddEmptyNode)(&b, graph, &a, 1));
	added = driver_function(cuGraphAddDependencies)(graph, &b, &a, NULL, 1);
	record("an edge that closes a circle", added);
	if (!added)
		must_refuse(driver_function(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	graph_free(graph);
}

/* cuGraphClone: "The original graph may be modified after this call without affecting the clone." */
static void a_clone_is_a_graph_of_its_own(void **state)
{
	struct range memory = range_new(1, RW);
	CUgraph graph = graph_new(), clone = NULL;
	CUgraphNode node = fill_node(graph, NULL, 0, memory.at, 3), cloned = NULL;
	struct fill fill;
	CUDA_KERNEL_NODE_PARAMS changed = fill_params(&fill, memory.at, 4);
	CUgraphExec exec;

	(void)state;
	must(driver_function(cuGraphClone)(&clone, graph));
	must(driver_function(cuGraphNodeFindInClone)(&cloned, node, clone));
	assert_ptr_not_equal(cloned, node);
	must(driver_function(cuGraphKernelNodeSetParams)(node, &changed));
	graph_free(graph);
	exec = exec_new(clone);
	graph_free(clone);
	run(exec);
	assert_words(memory.at, WORDS * 4, 3);
	exec_free(exec);
	range_free(&memory);
}

/* ---- running ---- */

static void CUDA_CB count_up(void *counter)
{
	__atomic_fetch_add((int *)counter, 1, __ATOMIC_ACQ_REL);
}

/* Every kind of node, each behind the one before: the result is that of this order. */
static void a_launch_runs_all_nodes_in_the_order_of_their_dependencies(void **state)
{
	struct range memory = range_new(1, RW);
	CUdeviceptr a = memory.at, b = memory.at + 4096;
	unsigned *host = (unsigned *)gate_new(); /* pinned memory of some words */
	CUDA_MEMSET_NODE_PARAMS set = {.dst = a, .value = 5, .elementSize = 4, .width = WORDS, .height = 1};
	CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = b,
		.dstMemoryType = CU_MEMORYTYPE_HOST,
		.dstHost = host,
		.WidthInBytes = 8,
		.Height = 1,
		.Depth = 1};
	int called = 0;
	CUDA_HOST_NODE_PARAMS call = {count_up, &called};
	CUgraph graph = graph_new();
	CUgraphNode first, second, third, fourth;
	CUgraphExec exec;

	(void)state;
	/* Made from the last to the first, as the order of making must not matter. */
	must(driver_function(cuGraphAddHostNode)(&fourth, graph, NULL, 0, &call));
	must(driver_function(cuGraphAddMemcpyNode)(&third, graph, NULL, 0, &copy, cu->context));
	second = add_node(graph, NULL, 0, b, a, 2);
	must(driver_function(cuGraphAddMemsetNode)(&first, graph, NULL, 0, &set, cu->context));
	must(driver_function(cuGraphAddDependencies)(
		graph, (CUgraphNode[]){first, second, third}, (CUgraphNode[]){second, third, fourth}, NULL, 3));
	exec = exec_new(graph);
	run(exec);
	assert_int_equal(host[0], 7);
	assert_int_equal(host[1], 7);
	assert_int_equal(called, 1);
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	run(exec); /* and again, as often as one likes */
	assert_int_equal(host[0], 7);
	assert_int_equal(called, 2);
	exec_free(exec);
	graph_free(graph);
	gate_free(host);
	range_free(&memory);
}

/* cuGraphLaunch: "Each launch is ordered behind both any previous work in hStream and any previous launches of hGraphExec." */
static void launches_wait_for_their_stream_and_for_each_other(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream one = stream_new(CU_STREAM_NON_BLOCKING), other = stream_new(CU_STREAM_NON_BLOCKING);
	CUgraph graph = graph_new();
	unsigned *gate = gate_new();
	CUgraphExec exec;

	(void)state;
	add_node(graph, NULL, 0, memory.at, memory.at, 1);
	exec = exec_new(graph);
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(cu->cuCtxSynchronize());
	gate_launch(one, gate, 0);
	gate_await_start(gate);
	must(driver_function(cuGraphLaunch)(exec, one));
	must(driver_function(cuGraphLaunch)(exec, other));
	usleep(20000);
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(other)); /* behind the first launch, which waits for the gate */
	gate_open(gate);
	must(cu->cuStreamSynchronize(other));
	assert_words(memory.at, WORDS * 4, 2);
	exec_free(exec);
	graph_free(graph);
	must(cu->cuStreamDestroy(one));
	must(cu->cuStreamDestroy(other));
	gate_free(gate);
	range_free(&memory);
}

/* cuGraphAddChildGraphNode: "The child graph is cloned in this call." */
static void a_child_graph_runs_as_a_node(void **state)
{
	struct range memory = range_new(1, RW);
	CUdeviceptr a = memory.at, b = memory.at + 4096;
	CUgraph graph = graph_new(), child = graph_new(), inside = NULL;
	CUgraphNode first, nested = NULL;
	CUgraphExec exec;
	size_t count = 0;

	(void)state;
	add_node(child, NULL, 0, a, a, 1);
	first = fill_node(graph, NULL, 0, a, 20);
	must(driver_function(cuGraphAddChildGraphNode)(&nested, graph, &first, 1, child));
	fill_node(child, NULL, 0, b, 99); /* comes too late for the clone */
	add_node(graph, &nested, 1, b, a, 5);
	graph_free(child);
	must(driver_function(cuGraphChildGraphNodeGetGraph)(nested, &inside));
	must(driver_function(cuGraphGetNodes)(inside, NULL, &count));
	assert_int_equal(count, 1);
	exec = exec_new(graph);
	run(exec);
	assert_words(b, WORDS * 4, 26);
	exec_free(exec);
	graph_free(graph);
	range_free(&memory);
}

/* cuGraphAddEventRecordNode, cuGraphAddEventWaitNode */
static void events_in_graphs_are_recorded_and_awaited(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent ready = event_new(0), done = event_new(0), event = NULL;
	CUgraph graph = graph_new();
	unsigned *gate = gate_new();
	CUgraphNode wait, node, record_node;
	CUgraphExec exec;

	(void)state;
	must(driver_function(cuGraphAddEventWaitNode)(&wait, graph, NULL, 0, ready));
	node = add_node(graph, &wait, 1, memory.at, memory.at, 1);
	must(driver_function(cuGraphAddEventRecordNode)(&record_node, graph, &node, 1, done));
	must(driver_function(cuGraphEventRecordNodeGetEvent)(record_node, &event));
	assert_ptr_equal(event, done);
	exec = exec_new(graph);
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(cu->cuCtxSynchronize());
	gate_launch(stream, gate, 0);
	must(cu->cuEventRecord(ready, stream));
	gate_await_start(gate);
	must(driver_function(cuGraphLaunch)(exec, NULL));
	must_be(CUDA_ERROR_NOT_READY, cu->cuEventQuery(done));
	gate_open(gate);
	must(cu->cuEventSynchronize(done));
	assert_words(memory.at, WORDS * 4, 1);
	exec_free(exec);
	graph_free(graph);
	must(cu->cuEventDestroy(ready));
	must(cu->cuEventDestroy(done));
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
	range_free(&memory);
}

/* ---- parameters ---- */

/* cuGraphKernelNodeGetParams: "The params will contain either kernelParams or extra, according to which was most recently set" */
static void parameters_of_nodes_can_be_read_and_set(void **state)
{
	struct range memory = range_new(1, RW);
	CUgraph graph = graph_new();
	CUgraphNode node = fill_node(graph, NULL, 0, memory.at, 3), memset_node, host_node;
	struct {
		CUdeviceptr out;
		unsigned value;
		unsigned long long count;
	} packed = {memory.at, 8, WORDS};
	size_t bytes = sizeof(packed);
	void *extra[] = {
		CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
	CUDA_MEMSET_NODE_PARAMS set = {.dst = memory.at + 8192, .value = 1, .elementSize = 1, .width = 4, .height = 1},
				got;
	CUDA_HOST_NODE_PARAMS call = {count_up, &bytes}, call_got;
	CUDA_KERNEL_NODE_PARAMS params;
	CUgraphExec exec;

	(void)state;
	must(driver_function(cuGraphKernelNodeGetParams)(node, &params));
	assert_int_equal(params.gridDimX, 2);
	assert_int_equal(params.blockDimX, 64);
	assert_null(params.extra);
	assert_int_equal(*(unsigned *)params.kernelParams[1], 3);
	params.kernelParams = NULL;
	params.extra = extra;
	must(driver_function(cuGraphKernelNodeSetParams)(node, &params));
	must(driver_function(cuGraphKernelNodeGetParams)(node, &params));
	assert_true(params.kernelParams || params.extra);
	params.kernelParams = (void *[]){&packed, &packed, &packed};
	params.extra = extra;
	must_refuse(driver_function(cuGraphKernelNodeSetParams)(node, &params)); /* both */
	must(driver_function(cuGraphAddMemsetNode)(&memset_node, graph, NULL, 0, &set, cu->context));
	set.value = 2;
	must(driver_function(cuGraphMemsetNodeSetParams)(memset_node, &set));
	must(driver_function(cuGraphMemsetNodeGetParams)(memset_node, &got));
	assert_int_equal(got.value, 2);
	assert_int_equal(got.dst, set.dst);
	must(driver_function(cuGraphAddHostNode)(&host_node, graph, NULL, 0, &call));
	must(driver_function(cuGraphHostNodeGetParams)(host_node, &call_got));
	assert_ptr_equal(call_got.userData, &bytes);
	must_refuse(driver_function(cuGraphMemsetNodeGetParams)(host_node, &got));
	must(driver_function(cuGraphDestroyNode)(host_node));
	exec = exec_new(graph);
	run(exec);
	assert_words(memory.at, WORDS * 4, 8);
	assert_int_equal(word_at(memory.at + 8192), 0x02020202);
	exec_free(exec);
	graph_free(graph);
	range_free(&memory);
}

/*
 * cuGraphAddBatchMemOpNode: "When the node is added, the paramArray inside nodeParams is copied". cuGraphExecBatchMemOpNodeSetParams:
 * addresses and values may be modified, "count or type of operations [...] may not".
 */
static void a_batch_of_words_is_a_node(void **state)
{
	struct range memory = range_new(1, RW);
	CUstreamBatchMemOpParams list[] = {
		{.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = memory.at, .value = 1}},
		{.waitValue = {.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32, .address = memory.at, .value = 1}},
		{.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64, .address = memory.at + 8, .value64 = 2}}};
	CUDA_BATCH_MEM_OP_NODE_PARAMS words = {cu->context, 3, list, 0}, got;
	CUgraph graph = graph_new();
	CUgraphNode node;
	CUgraphExec exec;

	(void)state;
	must(driver_function(cuGraphAddBatchMemOpNode)(&node, graph, NULL, 0, &words));
	list[0].writeValue.value = 3;
	must(driver_function(cuGraphBatchMemOpNodeGetParams)(node, &got));
	assert_int_equal(got.count, 3);
	assert_int_equal(got.paramArray[0].writeValue.value, 1);
	exec = exec_new(graph);
	run(exec);
	assert_int_equal(word_at(memory.at), 1);
	assert_int_equal(word_at(memory.at + 8), 2);
	list[0].writeValue.address += 16; /* of three, and the wait is met still */
	must(driver_function(cuGraphExecBatchMemOpNodeSetParams)(exec, node, &words));
	run(exec);
	assert_int_equal(word_at(memory.at + 16), 3);
	words.count = 1;
	must_refuse(driver_function(cuGraphExecBatchMemOpNodeSetParams)(exec, node, &words));
	must(driver_function(cuGraphBatchMemOpNodeSetParams)(node, &words));
	must_refuse(driver_function(cuGraphAddBatchMemOpNode)(&node, graph, NULL, 0, NULL));
	words.paramArray = NULL;
	must_refuse(driver_function(cuGraphBatchMemOpNodeSetParams)(node, &words));
	exec_free(exec);
	exec = exec_new(graph);
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	run(exec);
	assert_int_equal(word_at(memory.at + 16), 3);
	assert_int_equal(word_at(memory.at + 8), 0);
	exec_free(exec);
	graph_free(graph);
	range_free(&memory);
}

/* H200; cuGraphExecKernelNodeSetParams: "Already enqueued or running launches of hGraphExec are not affected by this call." */
static void an_executable_graph_changes_for_future_launches_alone(void **state)
{
	struct range memory = range_new(1, RW);
	CUdeviceptr a = memory.at, b = memory.at + 4096, c = memory.at + 8192;
	CUgraph graph = graph_new();
	CUgraphNode node = fill_node(graph, NULL, 0, a, 1);
	CUgraphExec exec = exec_new(graph);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	unsigned *gate = gate_new(), on = 9;
	struct fill fill;
	CUDA_KERNEL_NODE_PARAMS params = fill_params(&fill, c, 3);

	(void)state;
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(cu->cuCtxSynchronize());
	must(driver_function(cuGraphKernelNodeSetParams)(node, &params)); /* of the graph, not of the executable one */
	gate_launch(stream, gate, 0);
	must(driver_function(cuGraphLaunch)(exec, stream));
	params = fill_params(&fill, b, 2);
	must(driver_function(cuGraphExecKernelNodeSetParams)(exec, node, &params));
	gate_open(gate);
	must(cu->cuStreamSynchronize(stream));
	assert_words(a, WORDS * 4, 1); /* as it was when it was launched */
	assert_int_equal(word_at(b), 0);
	run(exec);
	assert_words(b, WORDS * 4, 2);
	assert_int_equal(word_at(c), 0);
	/* cuGraphNodeSetEnabled: "a disabled node is functionally equivalent to an empty node" */
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(driver_function(cuGraphNodeSetEnabled)(exec, node, 0));
	must(driver_function(cuGraphNodeGetEnabled)(exec, node, &on));
	assert_int_equal(on, 0);
	run(exec);
	assert_int_equal(word_at(b), 0);
	exec_free(exec);
	graph_free(graph);
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
	range_free(&memory);
}

/* cuGraphExecUpdate: "Updates the node parameters [...] with the node parameters in a topologically identical graph" */
static void an_executable_graph_takes_the_parameters_of_another_graph(void **state)
{
	struct range memory = range_new(1, RW);
	CUgraph graph = graph_new(), same = graph_new(), larger = graph_new(), typed = graph_new();
	CUgraphNode first = fill_node(graph, NULL, 0, memory.at, 1), empty;
	CUgraphExecUpdateResultInfo info = {0};
	CUgraphExec exec;

	(void)state;
	add_node(graph, &first, 1, memory.at, memory.at, 10);
	exec = exec_new(graph);
	first = fill_node(same, NULL, 0, memory.at, 2);
	add_node(same, &first, 1, memory.at, memory.at, 20);
	must(driver_function(cuGraphExecUpdate)(exec, same, &info));
	assert_int_equal(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
	run(exec);
	assert_words(memory.at, WORDS * 4, 22);
	fill_node(larger, NULL, 0, memory.at, 3);
	must_be(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, driver_function(cuGraphExecUpdate)(exec, larger, &info));
	assert_int_equal(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
	assert_null(
		info.errorNode); /* "The count of nodes [...] differ, in which case resultInfo->errorNode is set to NULL" */
	first = fill_node(typed, NULL, 0, memory.at, 3);
	must(driver_function(cuGraphAddEmptyNode)(&empty, typed, &first, 1));
	must_be(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, driver_function(cuGraphExecUpdate)(exec, typed, &info));
	assert_int_equal(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED);
	assert_ptr_equal(info.errorNode, empty);
	run(exec); /* a refused update has changed nothing */
	assert_words(memory.at, WORDS * 4, 22);
	exec_free(exec);
	graph_free(graph);
	graph_free(same);
	graph_free(larger);
	graph_free(typed);
	range_free(&memory);
}

/* cuGraphInstantiateWithParams: "result_out will be set to CUDA_GRAPH_INSTANTIATE_SUCCESS" */
static void all_forms_of_instantiation_make_the_same(void **state)
{
	struct range memory = range_new(1, RW);
	CUgraph graph = graph_new();
	CUDA_GRAPH_INSTANTIATE_PARAMS params = {
		.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD, .result_out = CUDA_GRAPH_INSTANTIATE_ERROR};
	CUresult (*old)(CUgraphExec *, CUgraph, CUgraphNode *, char *, size_t) = driver_symbol("cuGraphInstantiate_v2");
	CUgraphNode node = NULL;
	char text[64] = "x";
	CUgraphExec exec = NULL;

	(void)state;
	add_node(graph, NULL, 0, memory.at, memory.at, 1);
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(driver_function(cuGraphInstantiateWithParams)(&exec, graph, &params));
	assert_int_equal(params.result_out, CUDA_GRAPH_INSTANTIATE_SUCCESS);
	must(driver_function(cuGraphUpload)(exec, NULL));
	run(exec);
	exec_free(exec);
	must(old(&exec, graph, &node, text, sizeof(text)));
	run(exec);
	exec_free(exec);
	must_refuse(driver_function(cuGraphInstantiateWithFlags)(&exec, graph, 1 << 30));
	assert_words(memory.at, WORDS * 4, 2);
	graph_free(graph);
	range_free(&memory);
}

/* CUDA_ERROR_ILLEGAL_ADDRESS: as for a launch, the fault of a node comes with the next synchronisation, and stays. */
static void a_fault_in_a_graph_is_as_one_in_a_launch(void **state)
{
	struct range memory;
	CUgraph graph;
	CUgraphExec exec;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READ);
	graph = graph_new();
	fill_node(graph, NULL, 0, memory.at, 1);
	exec = exec_new(graph);
	must(driver_function(cuGraphLaunch)(exec, NULL));
	must_fault(cu->cuCtxSynchronize());
	must_fault(driver_function(cuGraphLaunch)(exec, NULL));
}

/* softcuda tells of an unmap under a graph, too. */
static void an_unmap_under_a_graph_is_a_hazard(void **state)
{
	struct range memory = range_new(1, RW), other = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	size_t hazards = softcuda_counters_now().hazards;
	CUgraph graph = graph_new();
	unsigned *gate = gate_new();
	CUgraphNode node = NULL;
	CUDA_HOST_NODE_PARAMS call;
	CUgraphExec exec;
	int called = 0;

	(void)state;
	if (cu->kind != KVS_DEVICE_HOST)
		skip();
	call = (CUDA_HOST_NODE_PARAMS){count_up, &called};
	must(driver_function(cuGraphAddHostNode)(&node, graph, NULL, 0, &call));
	fill_node(graph, &node, 1, memory.at, 1);
	exec = exec_new(graph);
	gate_launch(stream, gate, 0);
	gate_await_start(gate);
	must(driver_function(cuGraphLaunch)(exec, stream));
	must(set_access(other.at, other.bytes, CU_MEM_ACCESS_FLAGS_PROT_READ));
	must(cu->cuMemUnmap(other.at, other.bytes));
	assert_int_equal(softcuda_counters_now().hazards, hazards); /* nothing uses that one */
	must(cu->cuMemUnmap(memory.at, memory.bytes));
	assert_int_equal(softcuda_counters_now().hazards, hazards + 1);
	map(memory.at, memory.bytes, memory.handle);
	must(set_access(memory.at, memory.bytes, RW));
	gate_open(gate);
	must(cu->cuCtxSynchronize());
	assert_words(memory.at, WORDS * 4, 1);
	map(other.at, other.bytes, other.handle);
	exec_free(exec);
	graph_free(graph);
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
	range_free(&memory);
	range_free(&other);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(nodes_and_edges_can_be_listed),
		conformance_test(dependencies_can_be_added_and_removed),
		conformance_test(edges_have_data),
		conformance_test(a_circle_cannot_be_instantiated),
		conformance_test(a_clone_is_a_graph_of_its_own),
		conformance_test(a_launch_runs_all_nodes_in_the_order_of_their_dependencies),
		conformance_test(launches_wait_for_their_stream_and_for_each_other),
		conformance_test(a_child_graph_runs_as_a_node),
		conformance_test(events_in_graphs_are_recorded_and_awaited),
		conformance_test(parameters_of_nodes_can_be_read_and_set),
		conformance_test(a_batch_of_words_is_a_node),
		conformance_test(an_executable_graph_changes_for_future_launches_alone),
		conformance_test(an_executable_graph_takes_the_parameters_of_another_graph),
		conformance_test(all_forms_of_instantiation_make_the_same),
		conformance_test(a_fault_in_a_graph_is_as_one_in_a_launch),
		conformance_test(an_unmap_under_a_graph_is_a_hazard),
	};

	return conformance_main(argc, argv, tests);
}
