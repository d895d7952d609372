/*
 * tests/clients/answers.c: programs of a few calls each, whose answers and memory must be the same whether layers share or not:
 * what is freed, when, from which context, and what the memory shows then. One that differs is a fault of the shim.
 *
 * usage: answers skip|retry|primary|reset|context|other|destroy|stream|relaxed|row|late|forks
 *        answers weights MODULE
 *   skip     two contexts with two allocations each before the cache's: what these show
 *   retry    an allocation before the cache's, which fails (SOFTCUDA_FAIL) and is tried again: what it shows
 *   primary  cuCtxDestroy of the primary context, which is refused; reset: the memory is gone with cuDevicePrimaryCtxReset
 *   context  in which context memory is, asked from another, and from none
 *   other    memory that is freed from another context than its own, while it is in use; destroy: with its context
 *   stream   memory that is freed in a stream that is gone, and then in one that is there
 *   relaxed  memory that is freed while a stream is captured
 *   row      a box of one row, and of two, over all layers
 *   late     tensors of their own, all filled by one stream while the last is allocated: what layers 0 and 2 show of K
 *   weights  two contexts with an allocation each before the cache's: a kernel that stores to it, and one that stores to the cache
 *   forks    children that ask for memory, of a process with a thread that does so all the time
 */
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BYTES (32 * MIB) /* four layers, K and V of 4 MiB each */
#define LAYER(i) ((size_t)(i)*8 * MIB)

static CUdevice device;
static CUcontext context;

static void check(CUresult result, const char *what)
{
	if (result == CUDA_SUCCESS)
		return;
	fprintf(stderr, "answers: %s: %d\n", what, result);
	exit(1);
}
#define CHECK(call) check(call, #call)

static void start(void)
{
	CHECK(cuDevicePrimaryCtxRetain(&context, device));
	CHECK(cuCtxSetCurrent(context));
}

static CUdeviceptr memory_make(void)
{
	CUdeviceptr memory;

	CHECK(cuMemAlloc(&memory, BYTES));
	return memory;
}

static unsigned byte_at(CUdeviceptr address)
{
	unsigned char byte;

	CHECK(cuMemcpyDtoH(&byte, address, 1));
	return byte;
}

/* What layers 0 and 2, one of which borrows in a cache, show of stores of their own. */
static void layers_print(CUdeviceptr memory)
{
	CHECK(cuMemsetD8(memory + LAYER(0), 1, 4 * MIB));
	CHECK(cuMemsetD8(memory + LAYER(2), 2, 4 * MIB));
	printf("layers %u %u\n", byte_at(memory + LAYER(0)), byte_at(memory + LAYER(2)));
}

static void skip(void)
{
	for (int i = 0; i < 2; i++) {
		CHECK(cuCtxCreate(&context, NULL, 0, device));
		layers_print(memory_make());
		layers_print(memory_make());
		CHECK(cuMemFree(memory_make()));
	}
}

static void retry(void)
{
	CUdeviceptr memory;

	start();
	if (cuMemAlloc(&memory, BYTES))
		memory = memory_make();
	layers_print(memory);
}

static void primary(void)
{
	CUdeviceptr memory;

	start();
	memory = memory_make();
	printf("destroy %d", cuCtxDestroy(context));
	printf(" set %d", cuMemsetD8(memory, 1, BYTES));
	printf(" wait %d", cuCtxSynchronize());
	printf(" shows %u", byte_at(memory));
	printf(" free %d\n", cuMemFree(memory));
}

static void reset(void)
{
	CUdeviceptr memory;

	start();
	memory = memory_make();
	CHECK(cuMemsetD8Async(memory, 1, BYTES, NULL));
	printf("reset %d", cuDevicePrimaryCtxReset(device));
	printf(" set %d\n", cuMemsetD8(memory, 1, 16));
}

static void context_of(void)
{
	CUcontext other, found = NULL;
	CUdeviceptr memory;

	CHECK(cuCtxCreate(&context, NULL, 0, device));
	memory = memory_make();
	CHECK(cuCtxCreate(&other, NULL, 0, device));
	for (int i = 0; i < 2; i++) {
		CUresult result = cuPointerGetAttribute(&found, CU_POINTER_ATTRIBUTE_CONTEXT, memory + MIB);

		printf("%d %s\n", result, found == context ? "its own" : found == other ? "the current" : "none");
		CHECK(cuCtxSetCurrent(NULL));
	}
}

/* The other context has nothing to wait for. */
static void freed_elsewhere(bool with_context)
{
	CUcontext other;
	CUdeviceptr memory;
	CUstream stream;

	CHECK(cuCtxCreate(&context, NULL, 0, device));
	memory = memory_make();
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	for (int i = 0; i < 20; i++)
		CHECK(cuMemsetD8Async(memory, 1, BYTES, stream));
	CHECK(cuCtxCreate(&other, NULL, 0, device));
	if (with_context) {
		printf("destroy %d\n", cuCtxDestroy(context));
		return;
	}
	printf("free %d", cuMemFree(memory));
	CHECK(cuCtxSetCurrent(context));
	printf(" wait %d\n", cuStreamSynchronize(stream));
}

static void in_a_stream(void)
{
	CUstream stream, gone;
	CUdeviceptr memory;

	start();
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	CHECK(cuMemAllocAsync(&memory, BYTES, stream));
	CHECK(cuStreamCreate(&gone, CU_STREAM_NON_BLOCKING));
	CHECK(cuStreamDestroy(gone));
	printf("free %d", cuMemFreeAsync(memory, gone));
	printf(" set %d", cuMemsetD8Async(memory, 1, BYTES, stream));
	printf(" wait %d", cuStreamSynchronize(stream));
	printf(" free %d\n", cuMemFreeAsync(memory, stream));
}

static void relaxed(void)
{
	size_t before, after, total;
	CUdeviceptr memory, async, small;
	CUstream stream, other;
	CUgraph graph;

	start();
	CHECK(cuMemAlloc(&small, 4096));
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
	CHECK(cuMemGetInfo(&before, &total));
	memory = memory_make();
	async = memory_make();
	CHECK(cuMemsetD8Async(memory, 1, BYTES, other));
	CHECK(cuStreamSynchronize(other));
	CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	CHECK(cuMemsetD8Async(small, 1, 4096, stream));
	printf("free %d %d", cuMemFree(memory), cuMemFreeAsync(async, other));
	printf(" end %d", cuStreamEndCapture(stream, &graph));
	printf(" again %d", cuMemFree(memory));
	CHECK(cuMemFree(small));
	CHECK(cuMemAlloc(&small, 4096));
	CHECK(cuMemGetInfo(&after, &total));
	printf(" left %d\n", before < after + MIB ? 0 : 1);
}

static void row(void)
{
	unsigned char *host = malloc(BYTES);
	CUdeviceptr memory;
	CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = host,
		.srcPitch = BYTES,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstPitch = BYTES,
		.WidthInBytes = BYTES,
		.Height = 1};
	CUDA_MEMCPY3D cube = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = host,
		.srcPitch = BYTES,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstPitch = BYTES,
		.WidthInBytes = BYTES,
		.Height = 1,
		.Depth = 1};

	start();
	cube.dstDevice = box.dstDevice = memory = memory_make();
	printf("set %d", cuMemsetD2D8(memory, BYTES, 5, BYTES, 1));
	printf(" %d", cuMemsetD2D32(memory + LAYER(1), LAYER(1), 0x06060606, LAYER(1) / 4, 2));
	printf(" shows %u %u\n", byte_at(memory), byte_at(memory + LAYER(1)));
	for (int i = 0; i < 2; i++) {
		for (size_t at = 0; at < BYTES; at++)
			host[at] = (unsigned char)((i + 1) * (at / MIB + 1));
		printf("copy %d", i ? cuMemcpy3D(&cube) : cuMemcpy2D(&box));
		for (size_t at = 0; at < 16 * MIB; at += 4 * MIB)
			printf(" %u", byte_at(memory + at + MIB));
		printf("\n");
	}
	free(host);
}

static void late(void)
{
	CUdeviceptr tensor[8];
	CUstream stream;

	start();
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	for (int i = 0; i < 8; i++) {
		CHECK(cuMemAlloc(&tensor[i], 4 * MIB));
		for (unsigned char value = 100; value; value--)
			CHECK(cuMemsetD8Async(tensor[0], value, 4 * MIB, stream));
	}
	CHECK(cuStreamSynchronize(stream));
	printf("layer 0 %u %u\n", byte_at(tensor[0]), byte_at(tensor[0] + 4 * MIB - 1));
	printf("layer 2 %u %u\n", byte_at(tensor[4]), byte_at(tensor[4] + 4 * MIB - 1));
}

/* Rows of two widths, whose pitch has to be asked for each time. */
static CUresult pitched(int i)
{
	CUdeviceptr memory;
	size_t pitch;
	CUresult result = cuMemAllocPitch(&memory, &pitch, i % 2 ? 4096 : 8192, 1, 4);

	if (!result)
		cuMemFree(memory);
	return result;
}

static atomic_bool enough;

static void *ask(void *arg)
{
	(void)arg;
	CHECK(cuCtxSetCurrent(context));
	for (int i = 0; !atomic_load(&enough); i++)
		CHECK(pitched(i));
	return NULL;
}

static void forks(void)
{
	int refused = 0, status;
	pthread_t thread;

	start();
	CHECK(pitched(0));
	pthread_create(&thread, NULL, ask, NULL);
	for (int i = 0; i < 60; i++) {
		pid_t child = fork();

		if (!child) {
			alarm(5);
			_exit(pitched(i) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
		}
		waitpid(child, &status, 0);
		refused += status == 0;
	}
	atomic_store(&enough, true);
	pthread_join(thread, NULL);
	printf("refused %d\n", refused);
}

static void stored(CUmodule module, const char *name, CUdeviceptr src, CUdeviceptr row, CUdeviceptr dst)
{
	CUfunction function;
	int width = 32;

	CHECK(cuModuleGetFunction(&function, module, name));
	CHECK(cuLaunchKernel(function, 1, 1, 1, width, 1, 1, 0, NULL, (void *[]){&src, &row, &dst, &width}, NULL));
	CHECK(cuCtxSynchronize());
}

static void weights(const char *path)
{
	CUdeviceptr first, cache, src, row;
	CUmodule module;

	for (int i = 0; i < 2; i++) {
		CHECK(cuCtxCreate(&context, NULL, 0, device));
		CHECK(cuModuleLoad(&module, path));
		CHECK(cuMemAlloc(&src, 4096));
		CHECK(cuMemsetD8(src, 1, 4096));
		CHECK(cuMemAlloc(&row, 8));
		CHECK(cuMemsetD8(row, 0, 8));
		first = memory_make();
		cache = memory_make();
		CHECK(cuMemsetD8(first, 0, BYTES));
		CHECK(cuMemsetD8(cache, 0, BYTES));
		stored(module, "client_hidden_store", src, row, first);
		stored(module, "client_set_rows", src, row, cache);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	CHECK(cuInit(0));
	CHECK(cuDeviceGet(&device, 0));
	if (!strcmp(what, "skip"))
		skip();
	else if (!strcmp(what, "retry"))
		retry();
	else if (!strcmp(what, "primary"))
		primary();
	else if (!strcmp(what, "reset"))
		reset();
	else if (!strcmp(what, "context"))
		context_of();
	else if (!strcmp(what, "other") || !strcmp(what, "destroy"))
		freed_elsewhere(!strcmp(what, "destroy"));
	else if (!strcmp(what, "stream"))
		in_a_stream();
	else if (!strcmp(what, "relaxed"))
		relaxed();
	else if (!strcmp(what, "row"))
		row();
	else if (!strcmp(what, "late"))
		late();
	else if (!strcmp(what, "forks"))
		forks();
	else if (!strcmp(what, "weights") && argc > 2)
		weights(argv[2]);
	else
		return 2;
	return 0;
}
