/*
 * Calls every kind of function of the driver that is told one by one, and prints for each what a trace must say of it:
 * FUNCTION RESULT ADDRESS BYTES HANDLE, with - where the call has none.
 */
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

#define NONE UINT64_MAX
#define TEXT(name) TEXT_OF(name)
#define TEXT_OF(name) #name

static void put(uint64_t value)
{
	if (value == NONE)
		printf(" -");
	else
		printf(" %llx", (unsigned long long)value);
}

static void tell(const char *function, CUresult result, uint64_t address, uint64_t bytes, uint64_t handle)
{
	printf("%s %d", function, result);
	put(address);
	put(bytes);
	put(handle);
	putchar('\n');
}

/* What the call writes is read behind it. */
#define CALL(function, arguments, address, bytes, handle)                                                              \
	do {                                                                                                           \
		CUresult result = function arguments;                                                                  \
		tell(TEXT(function), result, (uint64_t)(address), (uint64_t)(bytes), (uint64_t)(handle));              \
	} while (0)

static char data[1 << 16];
static CUdevice device;
static CUcontext context;
static CUstream stream;

static void call_startup(void)
{
	size_t free_bytes, total_bytes;

	CALL(cuInit, (0), NONE, NONE, NONE);
	cuDeviceGet(&device, 0);
	CALL(cuDevicePrimaryCtxRetain, (&context, device), NONE, NONE, NONE);
	cuCtxSetCurrent(context);
	CALL(cuMemGetInfo, (&free_bytes, &total_bytes), NONE, NONE, NONE);
	CALL(cuStreamCreate, (&stream, CU_STREAM_NON_BLOCKING), NONE, NONE, stream);
}

static void call_allocations(void)
{
	CUdeviceptr plain, pitched, asynchronous, pooled;
	CUmemoryPool pool;
	size_t pitch;
	void *host, *pinned;

	cuDeviceGetDefaultMemPool(&pool, device);
	CALL(cuMemAlloc, (&plain, 10000), plain, 10000, NONE);
	CALL(cuMemAllocPitch, (&pitched, &pitch, 100, 7, 4), pitched, 7 * pitch, NONE);
	CALL(cuMemAllocAsync, (&asynchronous, 3000, stream), asynchronous, 3000, NONE);
	CALL(cuMemAllocFromPoolAsync, (&pooled, 2000, pool, stream), pooled, 2000, NONE);
	CALL(cuMemHostAlloc, (&host, 5000, 0), host, 5000, NONE);
	CALL(cuMemAllocHost, (&pinned, 6000), pinned, 6000, NONE);
	CALL(cuMemHostRegister, (data, 4096, 0), data, 4096, NONE);
	CALL(cuMemHostUnregister, (data), data, NONE, NONE);
	CALL(cuMemAlloc, (&plain, 0), NONE, 0, NONE); /* refused: there is no address */
	CALL(cuMemFreeAsync, (asynchronous, stream), asynchronous, NONE, NONE);
	CALL(cuMemFreeAsync, (pooled, stream), pooled, NONE, NONE);
	CALL(cuMemFreeHost, (host), host, NONE, NONE);
	CALL(cuMemFreeHost, (pinned), pinned, NONE, NONE);
	CALL(cuMemFree, (pitched), pitched, NONE, NONE);
	CALL(cuMemFree, (1), 1, NONE, NONE); /* refused */
}

static void call_copies(void)
{
	CUDA_MEMCPY2D flat = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = data,
		.srcPitch = 64,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstPitch = 64,
		.WidthInBytes = 50,
		.Height = 3};
	CUDA_MEMCPY3D box = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = data,
		.dstMemoryType = CU_MEMORYTYPE_HOST,
		.dstHost = data + 4096,
		.srcPitch = 64,
		.srcHeight = 4,
		.dstPitch = 64,
		.dstHeight = 4,
		.WidthInBytes = 50,
		.Height = 3,
		.Depth = 2};
	CUdeviceptr to, from;

	cuMemAlloc(&to, 1 << 16);
	tell("cuMemAlloc_v2", 0, to, 1 << 16, NONE);
	cuMemAlloc(&from, 1 << 16);
	tell("cuMemAlloc_v2", 0, from, 1 << 16, NONE);
	flat.dstDevice = to;
	CALL(cuMemcpyHtoD, (to, data, 1001), to, 1001, NONE);
	CALL(cuMemcpyDtoH, (data, to, 1002), data, 1002, NONE);
	CALL(cuMemcpyDtoD, (to, from, 1003), to, 1003, NONE);
	CALL(cuMemcpy, (to, from, 1004), to, 1004, NONE);
	CALL(cuMemcpyHtoDAsync, (to, data, 1005, stream), to, 1005, NONE);
	CALL(cuMemcpyDtoHAsync, (data, to, 1006, stream), data, 1006, NONE);
	CALL(cuMemcpyDtoDAsync, (to, from, 1007, stream), to, 1007, NONE);
	CALL(cuMemcpyAsync, (to, from, 1008, stream), to, 1008, NONE);
	CALL(cuMemcpyPeer, (to, context, from, context, 1009), to, 1009, NONE);
	CALL(cuMemcpy2D, (&flat), NONE, 150, NONE);
	CALL(cuMemcpy2DUnaligned, (&flat), NONE, 150, NONE);
	CALL(cuMemcpy2DAsync, (&flat, stream), NONE, 150, NONE);
	CALL(cuMemcpy3D, (&box), NONE, 300, NONE);
	CALL(cuMemcpy3DAsync, (&box, stream), NONE, 300, NONE);
	CALL(cuMemsetD8, (to, 1, 100), to, 100, NONE);
	CALL(cuMemsetD16, (to, 1, 100), to, 200, NONE);
	CALL(cuMemsetD32, (to, 1, 100), to, 400, NONE);
	CALL(cuMemsetD2D8, (to, 64, 1, 20, 5), to, 100, NONE);
	CALL(cuMemsetD2D16, (to, 64, 1, 20, 5), to, 200, NONE);
	CALL(cuMemsetD2D32, (to, 128, 1, 20, 5), to, 400, NONE);
	CALL(cuMemsetD8Async, (to, 1, 100, stream), to, 100, NONE);
	CALL(cuMemsetD32Async, (to, 1, 100, stream), to, 400, NONE);
	CALL(cuMemsetD2D16Async, (to, 64, 1, 20, 5, stream), to, 200, NONE);
}

static void call_mappings(void)
{
	CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle, again;
	const size_t granule = 2 << 20;
	CUdeviceptr range;

	CALL(cuMemAddressReserve, (&range, 2 * granule, 0, 0, 0), range, 2 * granule, NONE);
	CALL(cuMemCreate, (&handle, granule, &prop, 0), NONE, granule, handle);
	CALL(cuMemMap, (range + granule, granule, 0, handle, 0), range + granule, granule, handle);
	CALL(cuMemSetAccess, (range + granule, granule, &access, 1), range + granule, granule, NONE);
	CALL(cuMemRetainAllocationHandle, (&again, (void *)(range + granule)), NONE, NONE, again);
	CALL(cuMemUnmap, (range + granule, granule), range + granule, granule, NONE);
	CALL(cuMemRelease, (again), NONE, NONE, again);
	CALL(cuMemRelease, (handle), NONE, NONE, handle);
	CALL(cuMemRelease, (handle), NONE, NONE, handle); /* refused */
	CALL(cuMemAddressFree, (range, 2 * granule), range, 2 * granule, NONE);
}

static void call_waits(void)
{
	CUevent event;

	CALL(cuEventCreate, (&event, 0), NONE, NONE, event);
	cuEventRecord(event, stream);
	CALL(cuEventSynchronize, (event), NONE, NONE, event);
	CALL(cuStreamSynchronize, (stream), NONE, NONE, stream);
	CALL(cuCtxSynchronize, (), NONE, NONE, NONE);
	CALL(cuEventDestroy, (event), NONE, NONE, event);
}

/* As a program calls it that was compiled for per-thread default streams. */
static void call_per_thread(void)
{
	CUresult (*copy)(CUdeviceptr, const void *, size_t, CUstream) = (CUresult(*)(
		CUdeviceptr, const void *, size_t, CUstream))dlsym(RTLD_DEFAULT, "cuMemcpyHtoDAsync_v2_ptsz");
	CUdeviceptr to;

	CALL(cuMemAlloc, (&to, 4096), to, 4096, NONE);
	if (copy)
		tell("cuMemcpyHtoDAsync_v2_ptsz", copy(to, data, 77, stream), to, 77, NONE);
	CALL(cuStreamSynchronize, (stream), NONE, NONE, stream);
	CALL(cuMemFree, (to), to, NONE, NONE);
}

int main(void)
{
	call_startup();
	call_allocations();
	call_copies();
	call_mappings();
	call_waits();
	call_per_thread();
	CALL(cuStreamDestroy, (stream), NONE, NONE, stream);
	return 0;
}
