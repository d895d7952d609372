/*
 * tests/clients/rates.c: times calls of CUDA's driver API, as a program that knows nothing of kvshare makes them: launches that
 * touch no KV cache, launches that store into the last layer of a slab of two layers, allocations with their frees.
 *
 * usage: rates MODULE. Prints nanoseconds a call: the median of many short rounds, whose work is waited for outside.
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 101
#define CALLS 64
#define LAYER_BYTES ((size_t)2 << 20) /* K, and V, of a layer */
#define WIDTH 32

static CUfunction project, store;
static CUdeviceptr x, row, cache;

static void check(CUresult result, const char *what)
{
	if (!result)
		return;
	fprintf(stderr, "rates: %s: error %d\n", what, result);
	exit(1);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void launch_plain(void)
{
	unsigned seed = 1;
	int width = 1;
	CUdeviceptr out = x + 1024;

	check(cuLaunchKernel(project, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x, &out, &seed, &width}, NULL),
		"cuLaunchKernel");
}

static void launch_store(void)
{
	int width = 1;
	CUdeviceptr k = cache + 2 * LAYER_BYTES;

	check(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x, &row, &k, &width}, NULL),
		"cuLaunchKernel");
}

static void allocate(void)
{
	CUdeviceptr memory;

	check(cuMemAlloc(&memory, 65536), "cuMemAlloc");
	check(cuMemFree(memory), "cuMemFree");
}

static void measure(const char *name, void (*call)(void))
{
	double times[ROUNDS];

	for (int round = 0; round < ROUNDS; round++) {
		double start = now_ns();

		for (int i = 0; i < CALLS; i++)
			call();
		times[round] = (now_ns() - start) / CALLS;
		check(cuCtxSynchronize(), "cuCtxSynchronize");
	}
	qsort(times, ROUNDS, sizeof(*times), compare);
	printf("%s %.1f\n", name, times[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
	CUcontext context;
	CUdevice device;
	CUmodule module;

	if (argc != 2)
		return 2;
	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuModuleLoad(&module, argv[1]), "cuModuleLoad");
	check(cuModuleGetFunction(&project, module, "client_project"), "client_project");
	check(cuModuleGetFunction(&store, module, "client_set_rows"), "client_set_rows");
	check(cuMemAlloc(&cache, 4 * LAYER_BYTES), "cuMemAlloc");
	check(cuMemAlloc(&x, 4096), "cuMemAlloc");
	row = x + 2048;
	check(cuMemsetD8(x, 0, 4096), "cuMemsetD8");
	measure("launch", launch_plain);
	measure("store", launch_store);
	measure("allocate", allocate);
	return 0;
}
