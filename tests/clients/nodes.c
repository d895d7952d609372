/*
 * tests/clients/nodes.c: a program that stores to its cache by nodes of graphs: copies, memsets and kernels, added and
 * changed by the calls for one type and by those for any, alone and in a child graph; and by captured copies and memsets.
 * Each store goes to a row of its own. It prints a digest of what each layer's K and V then hold.
 *
 * usage: nodes [owners=LIST] [whole|edges|mixed] MODULE
 *   owners=LIST  the program itself lets layers read the K and V of others: what sharing has to equal
 *   whole        in the place of all this, nodes that each store to a row of all tensors, and one that fills the whole cache
 *   mixed        one graph with nodes of all types, child graphs in child graphs, and a node that is disabled; its executable is changed
 *   edges        kernels that may begin before the one ahead has ended: prints the edges that the graph then has, and removes some
 */
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 4
#define TENSOR_BYTES ((size_t)2 << 20)
#define WIDTH 32
#define ROW_BYTES (WIDTH * sizeof(float))
#define SOURCE_ROWS 1024

enum way { TYPED, ANY, CHILD, WAYS };

static CUdeviceptr slab, source, zero;
static CUfunction set_rows;
static CUstream stream;
static int owner[LAYERS] = {0, 1, 2, 3};
static int whole;  /* a store is one to all tensors, from `tensor` on */
static size_t row; /* the next one to store to, of all tensors, and its content */

static void check_at(CUresult result, int line)
{
	const char *name = "?";

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "nodes: line %d: %s (%d)\n", line, name, result);
	exit(1);
}
#define check(call) check_at(call, __LINE__)

/* The values of a kernel's parameters, which have to stay until the node has been made. */
struct values {
	CUdeviceptr from, row, to;
	int width;
	void *list[4];
};

/* A store to the next row of a tensor, of another content each time. */
static CUgraphNodeParams store_of(CUgraphNodeType type, int tensor, struct values *values)
{
	CUgraphNodeParams node = {.type = type};
	CUdeviceptr to = slab + (size_t)tensor * TENSOR_BYTES + row * ROW_BYTES;
	CUdeviceptr from = source + (row * 8 + (size_t)tensor) % SOURCE_ROWS * ROW_BYTES;

	if (type == CU_GRAPH_NODE_TYPE_MEMCPY) {
		node.memcpy.copyParams = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
			.srcDevice = from,
			.dstMemoryType = CU_MEMORYTYPE_DEVICE,
			.srcPitch = ROW_BYTES / 2,
			.srcHeight = 1,
			.dstDevice = to - ROW_BYTES / 2,
			.dstZ = 1,
			.dstPitch = ROW_BYTES / 2,
			.dstHeight = 1,
			.WidthInBytes = ROW_BYTES / 2,
			.Height = 1,
			.Depth = 2};
	} else if (type == CU_GRAPH_NODE_TYPE_MEMSET) {
		node.memset = (CUDA_MEMSET_NODE_PARAMS_v2){.dst = to,
			.pitch = ROW_BYTES / 2,
			.value = (unsigned)(row * 8) + (unsigned)tensor,
			.elementSize = 4,
			.width = WIDTH / 2,
			.height = 2};
	} else {
		*values = (struct values){.from = from, .row = zero, .to = to, .width = WIDTH};
		memcpy(values->list, (void *[]){&values->from, &values->row, &values->to, &values->width},
			sizeof(values->list));
		node.kernel = (CUDA_KERNEL_NODE_PARAMS_v3){.func = set_rows,
			.gridDimX = 1,
			.gridDimY = 1,
			.gridDimZ = 1,
			.blockDimX = WIDTH,
			.blockDimY = 1,
			.blockDimZ = 1,
			.kernelParams = values->list};
	}
	if (whole && type == CU_GRAPH_NODE_TYPE_MEMCPY) {
		node.memcpy.copyParams = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
			.srcDevice = from,
			.dstMemoryType = CU_MEMORYTYPE_DEVICE,
			.srcPitch = ROW_BYTES,
			.dstDevice = to,
			.dstPitch = TENSOR_BYTES,
			.WidthInBytes = ROW_BYTES,
			.Height = 2 * LAYERS,
			.Depth = 1};
	} else if (whole) {
		node.memset.pitch = TENSOR_BYTES;
		node.memset.width = WIDTH;
		node.memset.height = 2 * LAYERS;
	}
	return node;
}

static CUDA_KERNEL_NODE_PARAMS kernel_of(const CUgraphNodeParams *node)
{
	return (CUDA_KERNEL_NODE_PARAMS){.func = node->kernel.func,
		.gridDimX = 1,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = WIDTH,
		.blockDimY = 1,
		.blockDimZ = 1,
		.kernelParams = node->kernel.kernelParams};
}

static CUDA_MEMSET_NODE_PARAMS memset_of(const CUgraphNodeParams *node)
{
	return (CUDA_MEMSET_NODE_PARAMS){node->memset.dst, node->memset.pitch, node->memset.value,
		node->memset.elementSize, node->memset.width, node->memset.height};
}

static void node_add(CUgraphNode *out, CUgraph graph, enum way way, CUgraphNodeParams *node, CUcontext context)
{
	const CUDA_KERNEL_NODE_PARAMS kernel = kernel_of(node);
	const CUDA_MEMSET_NODE_PARAMS set = memset_of(node);

	if (way == ANY)
		check(cuGraphAddNode(out, graph, NULL, NULL, 0, node));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMCPY)
		check(cuGraphAddMemcpyNode(out, graph, NULL, 0, &node->memcpy.copyParams, context));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMSET)
		check(cuGraphAddMemsetNode(out, graph, NULL, 0, &set, context));
	else
		check(cuGraphAddKernelNode(out, graph, NULL, 0, &kernel));
}

static void node_set(CUgraphNode handle, enum way way, CUgraphNodeParams *node)
{
	const CUDA_KERNEL_NODE_PARAMS kernel = kernel_of(node);
	const CUDA_MEMSET_NODE_PARAMS set = memset_of(node);

	if (way == ANY)
		check(cuGraphNodeSetParams(handle, node));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMCPY)
		check(cuGraphMemcpyNodeSetParams(handle, &node->memcpy.copyParams));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMSET)
		check(cuGraphMemsetNodeSetParams(handle, &set));
	else
		check(cuGraphKernelNodeSetParams(handle, &kernel));
}

static void exec_set(CUgraphExec exec, CUgraphNode handle, enum way way, CUgraphNodeParams *node, CUcontext context)
{
	const CUDA_KERNEL_NODE_PARAMS kernel = kernel_of(node);
	const CUDA_MEMSET_NODE_PARAMS set = memset_of(node);

	if (way == ANY)
		check(cuGraphExecNodeSetParams(exec, handle, node));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMCPY)
		check(cuGraphExecMemcpyNodeSetParams(exec, handle, &node->memcpy.copyParams, context));
	else if (node->type == CU_GRAPH_NODE_TYPE_MEMSET)
		check(cuGraphExecMemsetNodeSetParams(exec, handle, &set, context));
	else
		check(cuGraphExecKernelNodeSetParams(exec, handle, &kernel));
}

/* Runs the graph twice, as itself or as the child of another. */
static CUgraphExec graph_run(CUgraph graph, enum way way, CUgraph *outer, CUgraphNode *child)
{
	CUgraphExec exec;

	if (way == CHILD) {
		check(cuGraphCreate(outer, 0));
		check(cuGraphAddChildGraphNode(child, *outer, NULL, 0, graph));
	}
	check(cuGraphInstantiate(&exec, way == CHILD ? *outer : graph, 0));
	check(cuGraphLaunch(exec, stream));
	check(cuGraphLaunch(exec, stream));
	check(cuStreamSynchronize(stream));
	return exec;
}

static void exec_end(CUgraphExec exec, enum way way, CUgraph outer)
{
	check(cuStreamSynchronize(stream));
	check(cuGraphExecDestroy(exec));
	if (way == CHILD)
		check(cuGraphDestroy(outer));
}

/* Three rows: as added, as changed in the graph, as changed in what was instantiated. */
static void nodes_run(CUgraphNodeType type, enum way way, int tensor, CUcontext context)
{
	struct values values;
	CUgraph graph, outer = NULL;
	CUgraphNode handle, child = NULL;
	CUgraphExec exec;
	CUgraphNodeParams node = store_of(type, tensor, &values);
	size_t first = row;

	check(cuGraphCreate(&graph, 0));
	node_add(&handle, graph, way, &node, context);
	exec = graph_run(graph, way, &outer, &child);
	exec_end(exec, way, outer);
	row = first + 1;
	node = store_of(type, tensor, &values);
	node_set(handle, way, &node);
	exec = graph_run(graph, way, &outer, &child);
	row = first + 2;
	node = store_of(type, tensor, &values);
	if (way == CHILD) {
		node_set(handle, way, &node);
		check(cuGraphExecChildGraphNodeSetParams(exec, child, graph));
	} else {
		exec_set(exec, handle, way, &node, context);
	}
	check(cuGraphLaunch(exec, stream));
	exec_end(exec, way, outer);
	check(cuGraphDestroy(graph));
	row = first;
}

static void capture_run(int tensor)
{
	CUdeviceptr to = slab + (size_t)tensor * TENSOR_BYTES + row * ROW_BYTES;
	const CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = source,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = to + ROW_BYTES,
		.dstPitch = ROW_BYTES,
		.srcPitch = ROW_BYTES,
		.WidthInBytes = ROW_BYTES / 2,
		.Height = 2};
	CUgraph graph, outer = NULL;
	CUgraphNode child;
	CUgraphExec exec;

	check(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	check(cuMemsetD32Async(to, 77 + (unsigned)tensor, WIDTH, stream));
	check(cuMemcpyDtoDAsync(to + ROW_BYTES, source + (size_t)tensor * ROW_BYTES, ROW_BYTES, stream));
	check(cuMemcpy2DAsync(&box, stream));
	check(cuStreamEndCapture(stream, &graph));
	exec = graph_run(graph, CHILD, &outer, &child);
	exec_end(exec, CHILD, outer);
	check(cuGraphDestroy(graph));
}

static void all_run(CUcontext context)
{
	static const CUgraphNodeType types[] = {
		CU_GRAPH_NODE_TYPE_MEMCPY, CU_GRAPH_NODE_TYPE_MEMSET, CU_GRAPH_NODE_TYPE_KERNEL};

	row = 1;
	for (size_t i = 0; i < 3 * WAYS; i++, row += 3)
		for (int tensor = 0; tensor < 2 * LAYERS; tensor++)
			if (owner[tensor / 2] == tensor / 2)
				nodes_run(types[i / WAYS], (enum way)(i % WAYS), tensor, context);
	for (int tensor = 0; tensor < 2 * LAYERS; tensor++)
		if (owner[tensor / 2] == tensor / 2)
			capture_run(tensor);
	row += 3;
}

/* One line over all of it, then rows. */
static void whole_run(CUcontext context)
{
	const CUDA_MEMSET_NODE_PARAMS set = {slab, 0, 0x12345678, 4, 2 * LAYERS * TENSOR_BYTES / 4, 1};
	CUgraphNode handle, child;
	CUgraph graph, outer;
	CUresult result;

	check(cuGraphCreate(&graph, 0));
	result = cuGraphAddMemsetNode(&handle, graph, NULL, 0, &set, context);
	printf("whole %d\n", result);
	row = 1;
	if (!result) {
		exec_end(graph_run(graph, TYPED, &outer, &child), TYPED, NULL);
		for (int i = 0; i < 2 * WAYS; i++, row += 3)
			nodes_run(i < WAYS ? CU_GRAPH_NODE_TYPE_MEMCPY : CU_GRAPH_NODE_TYPE_MEMSET,
				(enum way)(i % WAYS), 0, context);
	}
	check(cuGraphDestroy(graph));
}

static void digests_print(void)
{
	unsigned char *content = malloc(TENSOR_BYTES);

	for (int tensor = 0; content && tensor < 2 * LAYERS; tensor++) {
		size_t from = 2 * (size_t)owner[tensor / 2] + tensor % 2;
		uint64_t digest = 14695981039346656037u;

		check(cuMemcpyDtoH(content, slab + from * TENSOR_BYTES, TENSOR_BYTES));
		for (size_t i = 0; i < row * ROW_BYTES; i++)
			digest = (digest ^ content[i]) * 1099511628211u;
		printf("%c %d: %016llx\n", tensor % 2 ? 'V' : 'K', tensor / 2, (unsigned long long)digest);
	}
	free(content);
}

static void memory_make(void)
{
	static float content[SOURCE_ROWS * WIDTH];

	for (size_t i = 0; i < SOURCE_ROWS * WIDTH; i++)
		content[i] = (float)i;
	check(cuMemAlloc(&slab, 2 * LAYERS * TENSOR_BYTES));
	check(cuMemAlloc(&source, sizeof(content)));
	check(cuMemAlloc(&zero, sizeof(long long)));
	check(cuMemsetD8(slab, 0, 2 * LAYERS * TENSOR_BYTES));
	check(cuMemsetD8(zero, 0, sizeof(long long)));
	check(cuMemcpyHtoD(source, content, sizeof(content)));
}

static void owners_read(const char *list)
{
	for (int layer = 0; layer < LAYERS && list; layer++) {
		owner[layer] = atoi(list);
		list = strchr(list, ',');
		list += list != NULL;
	}
}

/* Kernels that follow each other by edges of programmatic launches; the third touches no cache. */
static void edges_run(void)
{
	static const CUgraphEdgeData early = {
		.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
	static const int tensor[] = {4, 0, -1, 1, 4}; /* of each node */
	static const int ahead[] = {-1, 0, 1, -1, 0};
	const CUgraphEdgeData both[] = {early, early};
	CUgraphNode node[5], from[8], to[8];
	CUgraphEdgeData data[8];
	size_t count = 8;
	CUgraph graph;

	check(cuGraphCreate(&graph, 0));
	for (int i = 0; i < 5; i++) {
		struct values values;
		CUgraphNodeParams params = store_of(CU_GRAPH_NODE_TYPE_KERNEL, tensor[i] < 0 ? 0 : tensor[i], &values);

		if (tensor[i] < 0)
			values.to = source;
		check(cuGraphAddNode_v2(&node[i], graph, ahead[i] < 0 ? NULL : &node[ahead[i]],
			ahead[i] < 0 ? NULL : &early, ahead[i] >= 0, &params));
	}
	check(cuGraphAddDependencies_v2(
		graph, (CUgraphNode[]){node[1], node[0]}, (CUgraphNode[]){node[3], node[2]}, both, 2));
	check(cuGraphGetEdges_v2(graph, from, to, data, &count));
	for (size_t i = 0; i < count; i++)
		for (int a = 0; a < 5; a++)
			for (int b = 0; b < 5; b++)
				if (from[i] == node[a] && to[i] == node[b])
					printf("edge %d %d: %d %d\n", a, b, data[i].type, data[i].from_port);
	printf("remove %d\n", cuGraphRemoveDependencies_v2(graph, (CUgraphNode[]){node[1], node[0]},
				      (CUgraphNode[]){node[3], node[2]}, both, 2));
	count = 8;
	check(cuGraphGetEdges_v2(graph, from, to, data, &count));
	printf("edges %zu\n", count);
	check(cuGraphDestroy(graph));
}

/* ---- mixed ---- */

static int host_calls[2];

static void CUDA_CB host_call(void *count)
{
	++*(int *)count;
}

enum mixed { STORE, HOST, RECORD, WAIT, EMPTY, INNER, OFF, COPY, SET, MIXED };

/* A store by a kernel in a child graph of a child graph, and a memset beside it. */
static CUgraph inner_make(CUcontext context)
{
	struct values values;
	CUgraphNodeParams store = store_of(CU_GRAPH_NODE_TYPE_KERNEL, 3, &values);
	CUgraphNodeParams set = store_of(CU_GRAPH_NODE_TYPE_MEMSET, 2, NULL);
	CUgraph inner, graph;
	CUgraphNode node;

	check(cuGraphCreate(&inner, 0));
	node_add(&node, inner, TYPED, &store, context);
	check(cuGraphCreate(&graph, 0));
	check(cuGraphAddChildGraphNode(&node, graph, NULL, 0, inner));
	node_add(&node, graph, TYPED, &set, context);
	check(cuGraphDestroy(inner));
	return graph;
}

static void mixed_make(CUgraph graph, CUgraphNode *node, CUevent event, CUcontext context)
{
	static const struct {
		enum mixed node;
		CUgraphNodeType type;
		int tensor;
	} stores[] = {{STORE, CU_GRAPH_NODE_TYPE_KERNEL, 0}, {OFF, CU_GRAPH_NODE_TYPE_KERNEL, 4},
		{COPY, CU_GRAPH_NODE_TYPE_MEMCPY, 5}, {SET, CU_GRAPH_NODE_TYPE_MEMSET, 6}};
	const CUDA_HOST_NODE_PARAMS host = {host_call, &host_calls[0]};
	CUgraph inner = inner_make(context);

	for (size_t i = 0; i < sizeof(stores) / sizeof(*stores); i++) {
		struct values values;
		CUgraphNodeParams params = store_of(stores[i].type, stores[i].tensor, &values);

		node_add(&node[stores[i].node], graph, TYPED, &params, context);
	}
	check(cuGraphAddHostNode(&node[HOST], graph, &node[STORE], 1, &host));
	check(cuGraphAddEventRecordNode(&node[RECORD], graph, &node[HOST], 1, event));
	check(cuGraphAddEventWaitNode(&node[WAIT], graph, &node[RECORD], 1, event));
	check(cuGraphAddEmptyNode(&node[EMPTY], graph, &node[WAIT], 1));
	check(cuGraphAddChildGraphNode(&node[INNER], graph, &node[EMPTY], 1, inner));
	check(cuGraphDestroy(inner));
}

/* All that can be changed in an executable. */
static void mixed_change(CUgraphExec exec, const CUgraphNode *node, CUevent event, CUcontext context)
{
	static const CUgraphNodeType types[] = {
		CU_GRAPH_NODE_TYPE_KERNEL, CU_GRAPH_NODE_TYPE_MEMCPY, CU_GRAPH_NODE_TYPE_MEMSET};
	const CUDA_HOST_NODE_PARAMS host = {host_call, &host_calls[1]};
	const CUgraphNode changed[] = {node[STORE], node[COPY], node[SET]};
	CUgraph inner = inner_make(context);

	for (int i = 0; i < 3; i++) {
		struct values values;
		CUgraphNodeParams params = store_of(types[i], i ? 4 + i : 0, &values);

		exec_set(exec, changed[i], row % 2 ? ANY : TYPED, &params, context);
	}
	check(cuGraphExecHostNodeSetParams(exec, node[HOST], &host));
	check(cuGraphExecEventRecordNodeSetEvent(exec, node[RECORD], event));
	check(cuGraphExecEventWaitNodeSetEvent(exec, node[WAIT], event));
	check(cuGraphExecChildGraphNodeSetParams(exec, node[INNER], inner));
	check(cuGraphDestroy(inner));
}

static void mixed_run(CUcontext context)
{
	CUgraphNode node[MIXED], again[MIXED];
	CUgraphExecUpdateResultInfo info;
	CUgraph graph, other;
	CUgraphExec exec;
	CUevent event[2];

	for (int i = 0; i < 2; i++)
		check(cuEventCreate(&event[i], CU_EVENT_DEFAULT));
	check(cuGraphCreate(&graph, 0));
	check(cuGraphCreate(&other, 0));
	row = 1;
	mixed_make(graph, node, event[0], context);
	check(cuGraphInstantiate(&exec, graph, 0));
	check(cuGraphNodeSetEnabled(exec, node[OFF], 0));
	check(cuGraphLaunch(exec, stream));
	for (row = 2; row < 4; row++) {
		mixed_change(exec, node, event[1], context);
		check(cuGraphLaunch(exec, stream));
	}
	mixed_make(other, again, event[0], context);
	check(cuGraphExecUpdate(exec, other, &info));
	check(cuGraphLaunch(exec, stream));
	row++;
	mixed_change(exec, node, event[1], context);
	check(cuGraphLaunch(exec, stream));
	check(cuStreamSynchronize(stream));
	printf("host %d %d, events %d %d\n", host_calls[0], host_calls[1], cuEventQuery(event[0]),
		cuEventQuery(event[1]));
	row++;
	check(cuGraphExecDestroy(exec));
	check(cuGraphDestroy(graph));
	check(cuGraphDestroy(other));
}

int main(int argc, char **argv)
{
	const char *path = NULL;
	CUcontext context;
	CUmodule module;
	int edges = 0, mixed = 0;

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "owners=", 7))
			owners_read(argv[i] + 7);
		else if (!strcmp(argv[i], "whole"))
			whole = 1;
		else if (!strcmp(argv[i], "edges"))
			edges = 1;
		else if (!strcmp(argv[i], "mixed"))
			mixed = 1;
		else
			path = argv[i];
	}
	if (!path)
		return 2;
	check(cuInit(0));
	check(cuDevicePrimaryCtxRetain(&context, 0));
	check(cuCtxSetCurrent(context));
	check(cuModuleLoad(&module, path));
	check(cuModuleGetFunction(&set_rows, module, "client_set_rows"));
	check(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
	memory_make();
	if (whole)
		whole_run(context);
	else if (edges)
		edges_run();
	else if (mixed)
		mixed_run(context);
	else
		all_run(context);
	digests_print();
	check(cuStreamDestroy(stream));
	check(cuMemFree(slab));
	check(cuModuleUnload(module));
	check(cuDevicePrimaryCtxRelease(0));
	return 0;
}
