/*
 * tests/clients/corners.c: calls that few programs make, each with a slab of four layers, K and V of 4 MiB, layer by layer; the
 * third layer's K is the borrower where layers share. It prints what the driver answers, and the first words of that K
 * and of the first layer's.
 *
 * usage: corners WHAT MODULE
 */
#define _GNU_SOURCE
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

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {{"gather", gather_by_index}, {"copy", gather_by_copy}, {"capture", capture_of_the_threads_stream}};
	CUcontext context;

	if (argc != 3)
		return 2;
	check(cuInit(0));
	check(cuDevicePrimaryCtxRetain(&context, 0));
	check(cuCtxSetCurrent(context));
	check(cuModuleLoad(&module, argv[2]));
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
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(argv[1], all[i].name))
			all[i].run();
	words_print();
	return 0;
}
