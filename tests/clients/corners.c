/*
 * tests/clients/corners.c: calls that few programs make, each with a slab of four layers, K and V of 4 MiB, layer by layer; the
 * third layer's K is the borrower where layers share. It prints what the driver answers, and the first words of that K
 * and of the first layer's.
 *
 * usage: corners WHAT MODULE
 */
#define _GNU_SOURCE
#include "../../driver/softcuda/softcuda.h"

#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define WIDTH 32

static CUdeviceptr slab, borrower, other, row; /* other: memory that is no layer's; row: the number 0 */
static CUmodule module;
static CUstream stream;

static void check_at(CUresult result, int line)
{
	const char *name = "?";

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "corners: line %d: %s (%d)\n", line, name, result);
	exit(1);
}
#define check(call) check_at(call, __LINE__)

/* The form of a driver's function that cuda.h has no name for any more. */
static void *form(const char *name)
{
	void *found = dlsym(RTLD_DEFAULT, name);

	if (!found) {
		fprintf(stderr, "corners: no %s\n", name);
		exit(1);
	}
	return found;
}

static CUfunction kernel(const char *name)
{
	CUfunction found;

	check(cuModuleGetFunction(&found, module, name));
	return found;
}

static unsigned word_at(CUdeviceptr address)
{
	unsigned word;

	check(cuMemcpyDtoH(&word, address, sizeof(word)));
	return word;
}

static void words_print(void)
{
	check(cuCtxSynchronize());
	printf("owner %08x, borrower %08x\n", word_at(slab), word_at(borrower));
}

/* A kernel with all its parameters in one struct. */
static void copy_launch(const char *name, CUdeviceptr from, CUdeviceptr to)
{
	struct {
		CUdeviceptr from, row;
		int width;
		CUdeviceptr to;
	} copy = {from, row, WIDTH, to};

	check(cuLaunchKernel(kernel(name), 1, 1, 1, WIDTH, 1, 1, 0, stream, (void *[]){&copy}, NULL));
	check(cuCtxSynchronize());
}

/* Of a borrower: it gets what the layer's readers get. */
static void gather(const char *name)
{
	copy_launch(name, borrower, other);
	printf("%s reads %08x\n", name, word_at(other));
}

static void gather_by_index(void)
{
	gather("client_index_elementwise_kernel");
}

static void gather_by_copy(void)
{
	gather("client_index_copy");
}

/* As PyTorch copies and fills: a row of the borrower's comes out of it, another goes into it, and then zeros. */
static void copy_and_fill(void)
{
	struct {
		CUdeviceptr to, from;
	} out = {other, borrower}, in = {borrower, other};
	int n = WIDTH;
	char nothing = 0;
	float zero = 0;
	CUfunction copy = kernel("client_vectorized_elementwise_kernel_direct_copy_kernel_cuda");
	CUfunction fill = kernel("client_vectorized_elementwise_kernel_FillFunctor");

	check(cuLaunchKernel(copy, 1, 1, 1, WIDTH, 1, 1, 0, stream, (void *[]){&n, &nothing, &out}, NULL));
	check(cuCtxSynchronize());
	printf("out %08x\n", word_at(other));
	check(cuMemsetD8(other, 3, WIDTH * sizeof(float)));
	check(cuCtxSynchronize());
	check(cuLaunchKernel(copy, 1, 1, 1, WIDTH, 1, 1, 0, stream, (void *[]){&n, &nothing, &in}, NULL));
	words_print();
	check(cuLaunchKernel(fill, 1, 1, 1, WIDTH, 1, 1, 0, stream, (void *[]){&n, &zero, &borrower}, NULL));
}

/* Of the thread's own default stream, whose handle is NULL too: a launch and an allocation, which then belongs to the graph. */
static void capture_of_the_threads_stream(void)
{
	__typeof__(cuStreamBeginCapture) *begin = form("cuStreamBeginCapture_v2_ptsz");
	__typeof__(cuStreamEndCapture) *end = form("cuStreamEndCapture_ptsz");
	__typeof__(cuLaunchKernel) *launch = form("cuLaunchKernel_ptsz");
	__typeof__(cuMemAllocAsync) *allocate = form("cuMemAllocAsync_ptsz");
	CUfunction store = kernel("client_set_rows");
	CUdeviceptr memory;
	CUgraph graph;
	int width = WIDTH;

	printf("begin %d\n", begin(NULL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	printf("launch %d\n",
		launch(store, 1, 1, 1, WIDTH, 1, 1, 0, NULL, (void *[]){&other, &row, &borrower, &width}, NULL));
	printf("end %d\n", end(NULL, &graph));
	check(cuGraphDestroy(graph));
	printf("begin %d\n", begin(NULL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	printf("allocate %d\n", allocate(&memory, 32 * MIB, NULL));
	printf("end %d\n", end(NULL, &graph));
}

/* Words that the stream stores, by both forms of each call; `to` gets one from each. */
static void stream_stores(CUdeviceptr to)
{
	__typeof__(cuStreamWriteValue32) *first_32 = form("cuStreamWriteValue32");
	__typeof__(cuStreamWriteValue64) *first_64 = form("cuStreamWriteValue64");
	__typeof__(cuStreamBatchMemOp) *first_batch = form("cuStreamBatchMemOp");
	CUstreamBatchMemOpParams ops[] = {
		{.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = to, .value = 5}},
		{.waitValue = {.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32, .address = row, .value = 0}},
		{.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64, .address = to + 8, .value64 = 6}}};

	printf("stores %d", cuStreamWriteValue32(stream, to, 1, 0));
	printf(" %d", cuStreamWriteValue64(stream, to + 8, 2, 0));
	printf(" %d", first_32(stream, to, 3, 0));
	printf(" %d", first_64(stream, to + 8, 4, 0));
	printf(" %d", cuStreamBatchMemOp(stream, 3, ops, 0));
	printf(" %d, %s", first_batch(stream, 3, ops, 0),
		ops[0].writeValue.address == to ? "the list as it was, " : "");
	printf("waited %d\n", cuStreamSynchronize(stream));
}

/* Words that nodes store: as added, as changed, as changed in what was instantiated, by the calls for them and by those for any. */
static void words_of_nodes(void)
{
	CUstreamBatchMemOpParams op = {
		.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = borrower}};
	CUDA_BATCH_MEM_OP_NODE_PARAMS words = {NULL, 1, &op, 0};
	CUgraphNodeParams any = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, .memOp = {NULL, 1, &op, 0}};
	CUgraphNode node[2];
	CUgraphExec exec;
	CUgraph graph;

	check(cuCtxGetCurrent(&words.ctx));
	any.memOp.ctx = words.ctx;
	check(cuGraphCreate(&graph, 0));
	op.writeValue.value = 1;
	printf("add %d", cuGraphAddBatchMemOpNode(&node[0], graph, NULL, 0, &words));
	printf(" %d", cuGraphAddNode(&node[1], graph, &node[0], NULL, 1, &any));
	op.writeValue.value = 2;
	printf(", set %d", cuGraphBatchMemOpNodeSetParams(node[0], &words));
	printf(" %d", cuGraphNodeSetParams(node[1], &any));
	check(cuGraphInstantiate(&exec, graph, 0));
	check(cuGraphLaunch(exec, stream));
	op.writeValue.value = 3;
	printf(", set %d", cuGraphExecBatchMemOpNodeSetParams(exec, node[0], &words));
	printf(" %d", cuGraphExecNodeSetParams(exec, node[1], &any));
	check(cuGraphLaunch(exec, stream));
	printf(", waited %d%s\n", cuStreamSynchronize(stream),
		op.writeValue.address == borrower ? ", the list as it was" : "");
	check(cuGraphExecDestroy(exec));
	check(cuGraphDestroy(graph));
}

static void stream_stores_to_a_borrower(void)
{
	stream_stores(borrower);
}

static void stream_stores_to_an_owner(void)
{
	stream_stores(slab);
}

/* A node of a graph by the calls of CUDA 11, whose parameters end earlier: a store as it was made, set, and set in the executable. */
static void nodes_of_the_first_form(void)
{
	__typeof__(CUresult(CUgraphNode *, CUgraph, const CUgraphNode *, size_t,
		const CUDA_KERNEL_NODE_PARAMS_v1 *)) *add = form("cuGraphAddKernelNode");
	__typeof__(CUresult(CUgraphNode, const CUDA_KERNEL_NODE_PARAMS_v1 *)) *set = form("cuGraphKernelNodeSetParams");
	__typeof__(CUresult(CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS_v1 *)) *exec_set =
		form("cuGraphExecKernelNodeSetParams");
	CUdeviceptr to = borrower;
	int width = WIDTH;
	void *values[] = {&other, &row, &to, &width};
	const CUDA_KERNEL_NODE_PARAMS_v1 node = {.func = kernel("client_set_rows"),
		.gridDimX = 1,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = WIDTH,
		.blockDimY = 1,
		.blockDimZ = 1,
		.kernelParams = values};
	CUgraphNode handle;
	CUgraphExec exec;
	CUgraph graph;

	check(cuGraphCreate(&graph, 0));
	printf("add %d\n", add(&handle, graph, NULL, 0, &node));
	for (int i = 0; i < 2; i++) {
		check(cuGraphInstantiate(&exec, graph, 0));
		printf("run %d %d\n", cuGraphLaunch(exec, stream), cuStreamSynchronize(stream));
		to = borrower + 2 * MIB;
		printf("set %d\n", exec_set(exec, handle, &node));
		printf("run %d %d\n", cuGraphLaunch(exec, stream), cuStreamSynchronize(stream));
		check(cuGraphExecDestroy(exec));
		to = borrower + MIB;
		printf("set %d\n", set(handle, &node));
	}
	check(cuGraphDestroy(graph));
}

/* A graph of one store, to memory that holds something else each time. */
static CUgraph store_captured(unsigned content, CUdeviceptr to)
{
	CUgraph graph;
	int width = WIDTH;

	check(cuMemsetD32(other, content, WIDTH));
	check(cuCtxSynchronize());
	check(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	check(cuLaunchKernel(kernel("client_set_rows"), 1, 1, 1, WIDTH, 1, 1, 0, stream,
		(void *[]){&other, &row, &to, &width}, NULL));
	check(cuStreamEndCapture(stream, &graph));
	return graph;
}

static void executable_run(CUgraphExec exec)
{
	check(cuGraphLaunch(exec, stream));
	check(cuStreamSynchronize(stream));
}

/* Executable graphs made and updated by the calls of CUDA 11. */
static void executables_of_the_first_form(void)
{
	typedef CUresult instantiate(CUgraphExec *, CUgraph, CUgraphNode *, char *, size_t);
	instantiate *first = form("cuGraphInstantiate"), *second = form("cuGraphInstantiate_v2");
	CUresult (*update)(CUgraphExec, CUgraph, CUgraphNode *, CUgraphExecUpdateResult *) = form("cuGraphExecUpdate");
	CUgraphExecUpdateResult answer;
	CUgraphNode failed;
	CUgraphExec exec;

	check(first(&exec, store_captured(1, slab), NULL, NULL, 0));
	executable_run(exec);
	check(second(&exec, store_captured(2, borrower), NULL, NULL, 0));
	executable_run(exec);
	check(update(exec, store_captured(3, slab + 8 * MIB), &failed, &answer));
	executable_run(exec);
}

static CUresult store(const char *name, CUdeviceptr to)
{
	int width = WIDTH;
	CUresult result = cuLaunchKernel(
		kernel(name), 1, 1, 1, WIDTH, 1, 1, 0, stream, (void *[]){&other, &row, &to, &width}, NULL);

	return result ? result : cuCtxSynchronize();
}

static const char *kernels_path;

static void memory_make(void)
{
	check(cuModuleLoad(&module, kernels_path));
	check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	check(cuMemAlloc(&slab, 32 * MIB));
	check(cuMemAlloc(&other, MIB));
	borrower = slab + 16 * MIB;
	row = other + MIB / 2;
	check(cuMemsetD8(slab, 1, 32 * MIB));
	check(cuMemsetD8(other, 0, MIB));
	check(cuMemsetD32(borrower, 0x09090909, 1));
	check(cuMemsetD32(slab, 0x07070707, 1));
	check(cuCtxSynchronize());
}

/* The driver's calls that a store takes. */
static size_t calls_of_a_store(void)
{
	softcuda_get_counters_fn *get = form(SOFTCUDA_GET_COUNTERS);
	struct softcuda_counters before, after;

	get(&before);
	check(store("client_set_rows", borrower));
	get(&after);
	return after.calls - before.calls;
}

/* The handles of a context that goes may come back as others, so all are asked for again. */
static void functions_after(void (*what)(void))
{
	size_t asked = calls_of_a_store(), known = calls_of_a_store(), again;

	what();
	again = calls_of_a_store();
	printf("known functions are %s\n", asked == known   ? "always asked for"
					   : again == asked ? "asked for again"
					   : again == known ? "kept"
							    : "?");
}

static void nothing(void)
{
}

static void another_context_ends(void)
{
	CUcontext context;

	check(cuCtxCreate(&context, NULL, 0, 0));
	check(cuCtxDestroy(context));
}

static void primary_context_is_released(void)
{
	CUcontext context;

	check(cuDevicePrimaryCtxRetain(&context, 0));
	check(cuDevicePrimaryCtxRelease(0));
}

static void functions_are_kept(void)
{
	functions_after(nothing);
}

static void functions_after_a_context(void)
{
	functions_after(another_context_ends);
}

static void functions_after_a_release(void)
{
	functions_after(primary_context_is_released);
}

/* A kernel that is handed a layer's K, and stores behind it: into its V, and into the next layer's K. */
static void stores_by_an_offset(void)
{
	int width = WIDTH;

	for (size_t offset = 4 * MIB; offset <= 8 * MIB; offset += 4 * MIB) {
		long long number = (long long)(offset / (WIDTH * sizeof(float)));

		check(cuMemcpyHtoD(row, &number, sizeof(number)));
		check(cuCtxSynchronize()); /* the stream does not wait for the copy */
		check(cuLaunchKernel(kernel("client_set_rows"), 1, 1, 1, WIDTH, 1, 1, 0, stream,
			(void *[]){&other, &row, &borrower, &width}, NULL));
		check(cuCtxSynchronize());
		printf("behind by %zu MiB: %08x\n", offset / MIB, word_at(borrower + offset));
	}
}

/* A writer that nobody knows, of which a call tells that has nothing to do with it. */
static void an_unknown_writer(void)
{
	size_t left, total;
	int width = WIDTH;

	check(cuLaunchKernel(kernel("client_hidden_store"), 1, 1, 1, WIDTH, 1, 1, 0, stream,
		(void *[]){&other, &row, &borrower, &width}, NULL));
	for (;;)
		check(cuMemGetInfo(&left, &total));
}

static unsigned long early_launches(unsigned attribute_count, CUdeviceptr to)
{
	unsigned long (*early)(void) = form(SOFTCUDA_EARLY_LAUNCHES), before = early();
	CUlaunchAttribute attributes[40] = {{.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
		.value.programmaticStreamSerializationAllowed = 1}};
	const CUlaunchConfig config = {1, 1, 1, WIDTH, 1, 1, 0, stream, attributes, attribute_count};
	int width = WIDTH;

	for (unsigned i = 1; i < attribute_count; i++)
		attributes[i].id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
	check(cuLaunchKernelEx(&config, kernel("client_set_rows"), (void *[]){&other, &row, &to, &width}, NULL));
	check(cuStreamSynchronize(stream));
	return early() - before;
}

/* Launches that may start before the one ahead has ended. */
static void dependent_launches(void)
{
	printf("memory of no layer: %lu", early_launches(1, other + 64 * 1024));
	printf(", of a borrower: %lu", early_launches(1, borrower));
	printf(", with many attributes: %lu", early_launches(40, borrower));
	printf(", of an owner: %lu\n", early_launches(1, slab + MIB));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {{"gather", gather_by_index}, {"copy", gather_by_copy}, {"fill", copy_and_fill},
		{"capture", capture_of_the_threads_stream}, {"signal", stream_stores_to_a_borrower},
		{"signal-owner", stream_stores_to_an_owner}, {"words", words_of_nodes},
		{"nodes", nodes_of_the_first_form}, {"executables", executables_of_the_first_form},
		{"dependent", dependent_launches}, {"kept", functions_are_kept}, {"destroy", functions_after_a_context},
		{"release", functions_after_a_release}, {"offset", stores_by_an_offset}, {"hidden", an_unknown_writer}};
	CUcontext context;

	if (argc != 3)
		return 2;
	check(cuInit(0));
	check(cuDevicePrimaryCtxRetain(&context, 0));
	check(cuCtxSetCurrent(context));
	kernels_path = argv[2];
	memory_make();
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(argv[1], all[i].name))
			all[i].run();
	words_print();
	return 0;
}
