/*
 * tests/clients/vector_add.c: a plain program on CUDA's driver API: built against cuda.h, linked with -lcuda, with
 * nothing of kvshare in it. It runs on whichever libcuda.so.1 the loader finds.
 *
 * usage: vector_add MODULE; prints PASS and exits with 0 if the device's sums are right.
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 4096

static void check(CUresult result, const char *what)
{
	const char *name = "?";

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "%s: %s (%d)\n", what, name, result);
	exit(1);
}

static void sums_check(const int *values)
{
	for (int i = 0; i < COUNT; i++) {
		if (values[i] != i + 5) {
			fprintf(stderr, "values[%d] is %d\n", i, values[i]);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	int values[COUNT], addend = 5;
	CUdevice device;
	CUcontext context;
	CUmodule module;
	CUfunction add;
	CUstream stream;
	CUdeviceptr memory;
	void *params[] = {&memory, &addend};
	char name[100];

	if (argc != 2)
		return 2;
	for (int i = 0; i < COUNT; i++)
		values[i] = i;
	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDeviceGetName(name, sizeof(name), device), "cuDeviceGetName");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuModuleLoad(&module, argv[1]), "cuModuleLoad");
	check(cuModuleGetFunction(&add, module, "softcuda_add"), "cuModuleGetFunction");
	check(cuStreamCreate(&stream, CU_STREAM_DEFAULT), "cuStreamCreate");
	check(cuMemAllocAsync(&memory, sizeof(values), stream), "cuMemAllocAsync");
	check(cuMemcpyHtoDAsync(memory, values, sizeof(values), stream), "cuMemcpyHtoDAsync");
	check(cuLaunchKernel(add, COUNT / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL), "cuLaunchKernel");
	check(cuMemcpyDtoHAsync(values, memory, sizeof(values), stream), "cuMemcpyDtoHAsync");
	check(cuMemFreeAsync(memory, stream), "cuMemFreeAsync");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	sums_check(values);
	check(cuStreamDestroy(stream), "cuStreamDestroy");
	check(cuModuleUnload(module), "cuModuleUnload");
	check(cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");
	printf("PASS on %s\n", name);
	return 0;
}
