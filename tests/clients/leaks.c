/*
 * tests/clients/leaks.c: a plain program on CUDA's driver API that does what programs do wrong: three leaks, addresses that are
 * mapped twice, memory that is used after it was unmapped. tests/profiler/faults_test.c looks whether the profiler finds
 * each, in the function that did it.
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB (1ul << 20)

/* So that each fault has a function of its own, whatever the optimiser thinks. */
#define APART __attribute__((noinline))

static CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location.type = CU_MEM_LOCATION_TYPE_DEVICE};

static void check(CUresult result, const char *what)
{
	if (!result)
		return;
	fprintf(stderr, "%s: %d\n", what, result);
	exit(1);
}

APART static CUdeviceptr allocate(size_t bytes)
{
	CUdeviceptr memory;

	check(cuMemAlloc(&memory, bytes), "cuMemAlloc");
	return memory;
}

APART static void leak_three_megabytes(void)
{
	CUdeviceptr kept = allocate(1 * MIB), lost = allocate(3 * MIB);

	check(lost ? cuMemFree(kept) : 1, "cuMemFree");
}

APART static void leak_in_a_loop(void)
{
	/* volatile: an unrolled loop would be five places. */
	for (volatile int i = 0; i < 5; i++)
		allocate(1 * MIB);
}

APART static void leak_a_handle(void)
{
	CUmemGenericAllocationHandle handle;

	check(cuMemCreate(&handle, 4 * MIB, &prop, 0), "cuMemCreate");
}

APART static void map_twice(CUdeviceptr at, CUmemGenericAllocationHandle handle)
{
	CUresult result = cuMemMap(at, 2 * MIB, 0, handle, 0);

	if (!result)
		exit(1); /* that must not be possible */
}

APART static void use_what_is_unmapped(CUdeviceptr at)
{
	cuMemsetD8(at, 1, 100); /* the driver's answer is not looked at, as is usual */
}

APART static void map_and_unmap(void)
{
	CUmemGenericAllocationHandle handle;
	CUdeviceptr at;

	check(cuMemCreate(&handle, 2 * MIB, &prop, 0), "cuMemCreate");
	check(cuMemAddressReserve(&at, 2 * MIB, 0, 0, 0), "cuMemAddressReserve");
	check(cuMemMap(at, 2 * MIB, 0, handle, 0), "cuMemMap");
	map_twice(at, handle);
	check(cuMemUnmap(at, 2 * MIB), "cuMemUnmap");
	use_what_is_unmapped(at);
	check(cuMemAddressFree(at, 2 * MIB), "cuMemAddressFree");
	check(cuMemRelease(handle), "cuMemRelease");
}

int main(void)
{
	CUdevice device;
	CUcontext context;

	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	leak_three_megabytes();
	leak_in_a_loop();
	leak_a_handle();
	map_and_unmap();
	puts("done");
	return 0;
}
