/*
 * tests/clients/calls.c: asks the driver all that a careful program asks, and prints the answers, with addresses relative to
 * its own allocation, so that two runs can be compared word for word.
 *
 * usage: calls queries|find|threads|fork|copies|behind|others|bound BYTES LAYERS [MODULE]
 *   queries  sizes, addresses, attributes and errors of an allocation of BYTES bytes
 *   find     which file each way of finding a function leads to
 *   threads  eight threads, each with a cache of LAYERS layers in BYTES bytes: what each layer shows after all were written
 *   copies   what layers 0 and 2, and the edge between 1 and 2, show after each kind of copy and memset into layer 2
 *   behind   what layer 3 shows after copies that begin in layer 2
 *   others   what each way to give an allocation to another device or process answers
 *   bound    what binding memory of its own a second time answers, where a cache is mapped and where not
 *   fork     a child that calls the driver, and one that becomes another program
 */
#define _GNU_SOURCE /* dladdr, RTLD_NEXT */
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS 4

static size_t bytes;
static int layers;
static CUcontext context;

static void check(CUresult result, const char *what)
{
	if (result == CUDA_SUCCESS)
		return;
	fprintf(stderr, "calls: %s: %d\n", what, result);
	exit(1);
}

static void context_make(void)
{
	CUdevice device;

	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
}

/* ---- queries ---- */

static void attributes_print(CUdeviceptr memory, size_t at)
{
	static const CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
		CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_IS_MANAGED,
		CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
		CU_POINTER_ATTRIBUTE_RANGE_SIZE, CU_POINTER_ATTRIBUTE_MAPPED, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS,
		CU_POINTER_ATTRIBUTE_MAPPING_SIZE, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR,
		CU_POINTER_ATTRIBUTE_HOST_POINTER};

	for (size_t i = 0; i < sizeof(asked) / sizeof(*asked); i++) {
		uint64_t one = 0, many = 0;
		CUpointer_attribute attribute = asked[i];
		void *data[] = {&many};
		CUresult result = cuPointerGetAttribute(&one, attribute, memory + at);

		cuPointerGetAttributes(1, &attribute, data, memory + at);
		if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
			one = one == (uintptr_t)context;
		else if (one >= memory && one < memory + bytes)
			one -= memory;
		if (many >= memory && many < memory + bytes)
			many -= memory;
		printf("attribute %d at %zu: %d, %llu%s\n", attribute, at, result, (unsigned long long)one,
			attribute == CU_POINTER_ATTRIBUTE_CONTEXT || one == many ? "" : ", and otherwise of several");
	}
}

static void range_print(CUdeviceptr memory, size_t at)
{
	CUdeviceptr base = 0;
	size_t size = 0;
	CUresult result = cuMemGetAddressRange(&base, &size, memory + at);

	printf("range at %zu: %d, %lld, %zu; base alone %d, size alone %d\n", at, result,
		result ? 0 : (long long)(base - memory), size, cuMemGetAddressRange(&base, NULL, memory + at),
		cuMemGetAddressRange(NULL, &size, memory + at));
}

/* Stores through each kind of memset and copy, over the edges of the layers; then the sum of all that is there. */
static void stores_print(CUdeviceptr memory)
{
	size_t part = bytes / layers / 2, width = 64, pitch = 4096;
	unsigned char *host = malloc(bytes);
	uint64_t sum = 0;
	CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = host,
		.srcPitch = width,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = memory,
		.dstPitch = pitch,
		.dstY = part / pitch - 1,
		.WidthInBytes = width,
		.Height = 4};

	for (size_t i = 0; i < bytes; i++)
		host[i] = (unsigned char)(i * 7 + i / 4096);
	printf("stores: %d", cuMemsetD8(memory, 1, bytes));
	printf(" %d", cuMemcpyHtoD(memory + part / 2, host, bytes - part));
	printf(" %d", cuMemsetD32(memory + part - 64, 0x01020304, 32));
	printf(" %d", cuMemsetD16Async(memory + 2 * part - 64, 0x0506, 64, NULL));
	printf(" %d", cuMemsetD2D8(memory + part - pitch, pitch, 7, width, 4));
	printf(" %d", cuMemcpyDtoD(memory, memory + part, part / 2));
	printf(" %d", cuMemcpyAsync(memory + part - 32, memory, 64, NULL));
	printf(" %d", cuMemcpy2D(&box));
	printf(" %d\n", cuCtxSynchronize());
	memset(host, 0, bytes);
	check(cuMemcpyDtoH(host, memory, bytes), "cuMemcpyDtoH");
	for (size_t i = 0; i < bytes; i++)
		sum = sum * 31 + host[i];
	printf("sum of all layers: %llu\n", (unsigned long long)sum);
	free(host);
}

static void pool_print(CUmemoryPool pool)
{
	for (int attribute = CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT; attribute <= CU_MEMPOOL_ATTR_USED_MEM_HIGH;
		attribute++) {
		cuuint64_t size = 0;
		CUresult result = cuMemPoolGetAttribute(pool, attribute, &size);

		printf("pool attribute %d: %d, %llu\n", attribute, result, (unsigned long long)size);
	}
}

/* A pool's sizes, before and after an allocation, its free, and a new mark; and what else it is asked. */
static void pools(CUstream stream, int own)
{
	const CUmemPoolProps props = {
		.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	CUmemoryPool pool, of = NULL;
	CUdeviceptr memory, small;
	cuuint64_t zero = 0;

	check(own ? cuMemPoolCreate(&pool, &props) : cuDeviceGetDefaultMemPool(&pool, 0), "a pool");
	check(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero), "cuMemPoolSetAttribute");
	check(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero), "cuMemPoolSetAttribute");
	check(own ? cuMemAllocFromPoolAsync(&small, 4096, pool, stream) : cuMemAllocAsync(&small, 4096, stream),
		"4096");
	pool_print(pool);
	check(own ? cuMemAllocFromPoolAsync(&memory, bytes, pool, stream) : cuMemAllocAsync(&memory, bytes, stream),
		"all");
	pool_print(pool);
	printf("the pool of an address: %d",
		cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, memory + 64));
	printf(", %d\n", of == pool);
	check(cuMemFreeAsync(memory, stream), "cuMemFreeAsync");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	pool_print(pool);
	check(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero), "cuMemPoolSetAttribute");
	check(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero), "cuMemPoolSetAttribute");
	check(cuMemFreeAsync(small, stream), "cuMemFreeAsync");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	pool_print(pool);
	if (own)
		check(cuMemPoolDestroy(pool), "cuMemPoolDestroy");
}

/* Free memory falls by no more than the program took, and comes back; the device stays as large as it is. */
static void room_print(void)
{
	size_t before, taken, after, total[3];
	CUdeviceptr memory;

	check(cuMemGetInfo(&before, &total[0]), "cuMemGetInfo");
	check(cuMemAlloc(&memory, bytes), "cuMemAlloc");
	check(cuMemGetInfo(&taken, &total[1]), "cuMemGetInfo");
	check(cuMemFree(memory), "cuMemFree");
	check(cuMemGetInfo(&after, &total[2]), "cuMemGetInfo");
	printf("room: %d %d %d\n", before > taken && before - taken <= bytes, after == before,
		total[0] == total[1] && total[1] == total[2]);
}

static void queries(void)
{
	CUdeviceptr memory = 0, none = 0;
	CUresult before = cuMemAlloc(&none, bytes);
	CUstream stream;
	size_t pitch;

	printf("before cuInit: %d\n", before);
	context_make();
	printf("no place for the address: %d; no bytes: %d\n", cuMemAlloc(NULL, bytes), cuMemAlloc(&none, 0));
	printf("too much: %d\n", cuMemAlloc(&none, SIZE_MAX / 2));
	check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
	for (int round = 0; round < 3; round++) {
		if (round == 2) {
			check(cuMemAllocPitch(&memory, &pitch, 500, bytes / 512, 4), "cuMemAllocPitch");
			printf("rows of 500 bytes: pitch %zu\n", pitch);
		} else {
			check(round ? cuMemAllocAsync(&memory, bytes, stream) : cuMemAlloc(&memory, bytes),
				"an allocation");
		}
		check(cuStreamSynchronize(stream), "cuStreamSynchronize");
		range_print(memory, 0);
		range_print(memory, bytes / 2 + 1);
		range_print(memory, bytes - 1);
		attributes_print(memory, 0);
		attributes_print(memory, bytes - 8);
		stores_print(memory);
		printf("free inside: %d\n", cuMemFree(memory + 64));
		printf("free: %d\n", round == 1 ? cuMemFreeAsync(memory, stream) : cuMemFree(memory));
		check(cuStreamSynchronize(stream), "cuStreamSynchronize");
		printf("free again: %d\n", cuMemFree(memory));
		range_print(memory, 0);
	}
	for (int own = 0; own < 2; own++)
		pools(stream, own);
	room_print();
	printf("free of nothing: %d\n", cuMemFree(0));
	check(cuMemAllocPitch(&none, &pitch, 100, 3, 4), "cuMemAllocPitch");
	printf("pitch %zu, free %d\n", pitch, cuMemFree(none));
	check(cuMemAllocPitch(&none, &pitch, 1000, bytes / 512, 4), "cuMemAllocPitch");
	printf("rows of 1000 bytes: pitch %zu, free %d\n", pitch, cuMemFree(none));
	printf("no pitch: %d; no rows: %d; odd elements: %d\n", cuMemAllocPitch(&none, NULL, 500, bytes / 512, 4),
		cuMemAllocPitch(&none, &pitch, 500, 0, 4), cuMemAllocPitch(&none, &pitch, 500, bytes / 512, 3));
	printf("no function: %d\n", cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
	printf("no config: %d\n", cuLaunchKernelEx(NULL, NULL, NULL, NULL));
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

/* ---- copies ---- */

static size_t part; /* of K, and of V, of one layer */
static CUdeviceptr cache, source;

/* After a store of `value` into the start of K of layer 2. */
static void shown_print(const char *name, CUresult result)
{
	unsigned char owner[2], borrower[2], edge;

	check(cuCtxSynchronize(), name);
	check(cuMemcpyDtoH(owner, cache, 2), name);
	check(cuMemcpyDtoH(borrower, cache + 4 * part, 2), name);
	check(cuMemcpyDtoH(&edge, cache + 4 * part - 4096, 1), name);
	printf("%s: %d, layer 0 %02x %02x, layer 2 %02x %02x, last row of layer 1 %02x\n", name, result, owner[0],
		owner[1], borrower[0], borrower[1], edge);
	check(cuMemsetD8(cache, 0x11, bytes), name);
	check(cuCtxSynchronize(), name); /* a memset waits for nobody, and the stream to come does not wait for it */
}

/* Two slices of two rows; with `before`, the first slice ends the layer before. */
static CUDA_MEMCPY3D box_of(int before)
{
	return (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = source,
		.srcPitch = 4096,
		.srcHeight = 2,
		.srcZ = 1,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = cache + 4 * part - 16 * 4096,
		.dstPitch = 4096,
		.dstHeight = 2,
		.dstZ = before ? 7 : 8,
		.WidthInBytes = 64,
		.Height = 2,
		.Depth = 2};
}

static void boxes(CUstream stream)
{
	for (int before = 0; before < 2; before++) {
		CUDA_MEMCPY3D box = box_of(before);
		CUDA_MEMCPY3D_PEER peer;

		memcpy(&peer, &box, sizeof(peer));
		peer.srcContext = peer.dstContext = context;
		shown_print("3D", cuMemcpy3D(&box));
		shown_print("3D async", cuMemcpy3DAsync(&box, stream));
		shown_print("3D peer", cuMemcpy3DPeer(&peer));
		shown_print("3D peer async", cuMemcpy3DPeerAsync(&peer, stream));
	}
}

/* Two copies, each with an order of access of its own: one into layer 2, one into layer 0. */
static CUresult batch(CUdeviceptr to, CUstream stream)
{
	CUdeviceptr tos[] = {to, cache}, froms[] = {source, source + 4096};
	size_t sizes[] = {8192, 2}, starts[] = {0, 1};
	CUmemcpyAttributes attributes[] = {{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM},
		{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL}};

	return cuMemcpyBatchAsync(tos, froms, sizes, 2, attributes, starts, 2, stream);
}

/* The first form, which programs of CUDA 12 have; the last copy has no destination. */
static CUresult batch_first(CUdeviceptr to, CUstream stream, size_t count, size_t *failed)
{
	CUresult (*form)(CUdeviceptr *, CUdeviceptr *, size_t *, size_t, CUmemcpyAttributes *, size_t *, size_t,
		size_t *, CUstream);
	CUdeviceptr tos[] = {to, 0}, froms[] = {source, source};
	size_t sizes[] = {8192, 64}, start = 0;
	CUmemcpyAttributes attributes = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};

	*(void **)&form = dlsym(RTLD_DEFAULT, "cuMemcpyBatchAsync");
	return form(tos, froms, sizes, count, &attributes, &start, 1, failed, stream);
}

/* As box_of(); and a copy into layer 0. */
static CUresult batch_of_boxes(CUdeviceptr to, CUstream stream)
{
	CUDA_MEMCPY3D_BATCH_OP op[2] = {{.src = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER,
						 .op.ptr = {.ptr = source, .rowLength = 4096, .layerHeight = 2}},
		.dst = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER,
			.op.ptr = {.ptr = to, .rowLength = 4096, .layerHeight = 2}},
		.extent = {64, 2, 2},
		.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM}};

	op[1] = op[0];
	op[1].dst.op.ptr.ptr = cache;
	op[1].extent = (CUextent3D){2, 1, 1};
	return cuMemcpy3DBatchAsync(2, op, 0, stream);
}

static CUresult batch_of_a_wide_row(CUdeviceptr to, CUstream stream)
{
	CUDA_MEMCPY3D_BATCH_OP op = {.src = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = source}},
		.dst = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = to}},
		.extent = {8192, 1, 1},
		.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};

	return cuMemcpy3DBatchAsync(1, &op, 0, stream);
}

static CUarray array_make(void)
{
	const CUDA_ARRAY_DESCRIPTOR descriptor = {
		.Width = 8192, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 1};
	CUarray array;

	check(cuArrayCreate(&array, &descriptor), "cuArrayCreate");
	check(cuMemcpyDtoA(array, 0, source, 8192), "cuMemcpyDtoA");
	return array;
}

static void batches(CUstream stream)
{
	CUdeviceptr to = cache + 4 * part;
	CUarray array = array_make();
	size_t failed = 7;

	for (int before = 0; before < 2; before++) {
		shown_print("from an array", cuMemcpyAtoD(to - before * 4096, array, 0, 8192));
		shown_print("batch", batch(to - before * 4096, stream));
		shown_print("first form", batch_first(to - before * 4096, stream, 1, &failed));
		shown_print("boxes", batch_of_boxes(to - before * 8192, stream));
		shown_print("wide row", batch_of_a_wide_row(to - before * 4096, stream));
		printf("a batch that fails: %d", batch_first(to - before * 4096, stream, 2, &failed));
		printf(", %zd\n", (ssize_t)failed);
	}
	printf("no batch: %d\n", cuMemcpyBatchAsync(NULL, NULL, NULL, 1, NULL, NULL, 1, stream));
	printf("no stream: %d\n", batch(to, CU_STREAM_LEGACY));
	check(cuArrayDestroy(array), "cuArrayDestroy");
}

static void behind_print(const char *name, CUresult result)
{
	unsigned char first;

	check(cuCtxSynchronize(), name);
	check(cuMemcpyDtoH(&first, cache + 6 * part, 1), name);
	printf("%s: %d, layer 3 %02x\n", name, result, first);
	check(cuMemsetD8(cache, 0x11, bytes), name);
	check(cuCtxSynchronize(), name);
}

static void source_make(CUstream *stream)
{
	context_make();
	part = bytes / layers / 2;
	check(cuStreamCreate(stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
	check(cuMemAlloc(&cache, bytes), "cuMemAlloc");
	check(cuMemAlloc(&source, 1 << 20), "cuMemAlloc");
	for (int row = 0; row < 8; row++) /* 64 bytes of each count */
		check(cuMemsetD8(source + row * 4096, (unsigned char)(0x22 + row), 4096), "cuMemsetD8");
	check(cuMemsetD8(cache, 0x11, bytes), "cuMemsetD8");
	check(cuCtxSynchronize(), "cuCtxSynchronize");
}

/* Copies that begin in layer 2 and end in layer 3. */
static void behind(void)
{
	CUdeviceptr edge;
	CUstream stream;

	source_make(&stream);
	edge = cache + 6 * part;
	behind_print("peer", cuMemcpyPeer(edge - 4096, context, source, context, 8192));
	behind_print("from an array", cuMemcpyAtoD(edge - 4096, array_make(), 0, 8192));
	behind_print("batch", batch(edge - 4096, stream));
	behind_print("boxes", batch_of_boxes(edge - 8192, stream));
	behind_print("wide row", batch_of_a_wide_row(edge - 4096, stream));
	check(cuMemFree(cache), "cuMemFree");
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

static void copies(void)
{
	CUdeviceptr to;
	CUstream stream;

	source_make(&stream);
	to = cache + 4 * part;
	for (int before = 0; before < 2; before++) {
		shown_print("peer", cuMemcpyPeer(to - before * 4096, context, source, context, 8192));
		shown_print(
			"peer async", cuMemcpyPeerAsync(to - before * 4096, context, source, context, 8192, stream));
		shown_print("2D 8", cuMemsetD2D8(to - before * 4096, 4096, 0x33, 64, 3));
		shown_print("2D 16", cuMemsetD2D16(to - before * 4096, 4096, 0x3333, 32, 3));
		shown_print("2D 32", cuMemsetD2D32(to - before * 4096, 4096, 0x33333333, 16, 3));
		shown_print("2D 8 async", cuMemsetD2D8Async(to - before * 4096, 4096, 0x33, 64, 3, stream));
		shown_print("2D 16 async", cuMemsetD2D16Async(to - before * 4096, 4096, 0x3333, 32, 3, stream));
		shown_print("2D 32 async", cuMemsetD2D32Async(to - before * 4096, 4096, 0x33333333, 16, 3, stream));
	}
	boxes(stream);
	batches(stream);
	printf("no box: %d %d\n", cuMemcpy3D(NULL), cuMemcpy3DPeer(NULL));
	check(cuMemFree(cache), "cuMemFree");
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

/* ---- others: what gives the memory to another device or process ---- */

static void others(void)
{
	const CUmemPoolProps props = {
		.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	CUmemPoolPtrExportData exported;
	CUdeviceptr memory, plain;
	CUipcMemHandle handle;
	CUmemoryPool pool;
	int fd;

	context_make();
	check(cuMemAlloc(&plain, 1 << 20), "cuMemAlloc");
	check(cuMemPoolCreate(&pool, &props), "cuMemPoolCreate");
	check(cuMemAllocFromPoolAsync(&memory, bytes, pool, NULL), "cuMemAllocFromPoolAsync");
	printf("plain: %d %d %d\n",
		cuMemGetHandleForAddressRange(&fd, plain, 1 << 20, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0),
		cuMemPoolExportPointer(&exported, plain), cuIpcGetMemHandle(&handle, plain));
	printf("cache: %d %d %d\n",
		cuMemGetHandleForAddressRange(&fd, memory, bytes, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0),
		cuMemPoolExportPointer(&exported, memory), cuIpcGetMemHandle(&handle, memory));
	printf("peers: %d %d\n", cuCtxEnablePeerAccess(context, 0), cuMemPoolSetAccess(pool, NULL, 0));
	check(cuMemFree(memory), "cuMemFree");
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

/* ---- bound: where else memory goes that is mapped to a cache, and memory that is not ---- */

static void bound(void)
{
	const CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	CUmemGenericAllocationHandle handle[2];
	CUarrayMapInfo info = {
		.memOperationType = CU_MEM_OPERATION_TYPE_MAP, .memHandleType = CU_MEM_HANDLE_TYPE_GENERIC};
	CUdeviceptr memory;

	context_make();
	check(cuMemAddressReserve(&memory, bytes, 0, 0, 0), "cuMemAddressReserve");
	for (int i = 0; i < 2; i++)
		check(cuMemCreate(&handle[i], bytes, &prop, 0), "cuMemCreate");
	check(cuMemMap(memory, bytes, 0, handle[0], 0), "cuMemMap");
	for (int i = 1; i >= 0; i--) {
		info.memHandle.memHandle = handle[i];
		printf("%s: %d %d\n", i ? "plain" : "cache", cuMulticastBindMem(1, 0, handle[i], 0, bytes, 0),
			cuMemMapArrayAsync(&info, 1, NULL));
		fflush(stdout);
		check(cuMemRelease(handle[i]), "cuMemRelease");
	}
	check(cuMemUnmap(memory, bytes), "cuMemUnmap");
	check(cuMemAddressFree(memory, bytes), "cuMemAddressFree");
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

/* ---- find ---- */

static void found_print(const char *way, const char *name, void *function)
{
	Dl_info info = {0};
	const char *file;

	if (!function || !dladdr(function, &info)) {
		printf("%s %s: none\n", way, name);
		return;
	}
	file = strrchr(info.dli_fname, '/');
	printf("%s %s: %s in %s\n", way, name, info.dli_sname ? info.dli_sname : "?", file ? file + 1 : info.dli_fname);
}

static void find(void)
{
	static const char *const names[] = {"cuMemAlloc_v2", "cuLaunchKernel", "cuLaunchKernel_ptsz", "cuMemFree_v2",
		"cuDeviceGet", "cuGetProcAddress", "cuGetProcAddress_v2", "cuNoSuchFunction"};
	static const char *const bases[] = {
		"cuMemAlloc", "cuLaunchKernel", "cuMemcpyHtoDAsync", "cuDeviceGet", "cuGetProcAddress"};
	void *library = dlopen("libcuda.so.1", RTLD_NOW), *libc = dlopen("libc.so.6", RTLD_NOW), *function;
	void *(*by_version)(void *, const char *, const char *) = NULL;
	CUdriverProcAddressQueryResult status;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		found_print("dlsym", names[i], dlsym(library, names[i]));
		found_print("default", names[i], dlsym(RTLD_DEFAULT, names[i]));
		found_print("libc", names[i], dlsym(libc, names[i]));
	}
	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		for (unsigned flags = 0; flags < 3; flags++) {
			function = NULL;
			check(cuGetProcAddress(bases[i], &function, 12040, flags, &status), "cuGetProcAddress");
			found_print("address", bases[i], function);
		}
		function = NULL;
		check(cuGetProcAddress(bases[i], &function, 12040, 0, NULL), "cuGetProcAddress");
		found_print("address, no status", bases[i], function);
	}
	printf("a name that is none: %d\n", cuGetProcAddress("cuNoSuchFunction", &function, 12040, 0, &status));
	*(void **)&by_version = dlsym(libc, "dlvsym");
	printf("dlvsym by dlsym: %s\n", by_version && by_version(libc, "malloc", "GLIBC_2.2.5") ? "works" : "none");
	printf("libm by RTLD_NEXT: %s\n", dlsym(RTLD_NEXT, "cuMemAlloc_v2") ? "some" : "none");
	dlsym(library, "cuNoSuchFunction");
	printf("dlerror: %s\n", dlerror() ? "some" : "none");
}

/* ---- threads ---- */

static void *thread_run(void *arg)
{
	size_t part = bytes / layers / 2;
	uint8_t base = (uint8_t)(uintptr_t)arg, *shown = arg;
	CUdeviceptr memory;
	CUstream stream;

	base = *shown;
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
	for (int round = 0; round < ROUNDS; round++) {
		check(cuMemAlloc(&memory, bytes), "cuMemAlloc");
		for (int i = 0; i < 2 * layers; i++)
			check(cuMemsetD8Async(memory + i * part, (unsigned char)(base + i), part, stream),
				"cuMemsetD8Async");
		for (int i = 0; i < 2 * layers; i++)
			check(cuMemcpyDtoHAsync(&shown[i], memory + (i + 1) * part - 1, 1, stream),
				"cuMemcpyDtoHAsync");
		check(cuStreamSynchronize(stream), "cuStreamSynchronize");
		check(cuMemFree(memory), "cuMemFree");
		for (int i = 0; round + 1 < ROUNDS && i < 2 * layers; i++)
			shown[i] = 0;
	}
	check(cuStreamDestroy(stream), "cuStreamDestroy");
	return NULL;
}

static void threads(void)
{
	static uint8_t shown[THREADS][256];
	pthread_t thread[THREADS];

	context_make();
	for (int i = 0; i < THREADS; i++) {
		shown[i][0] = (uint8_t)(20 * i);
		if (pthread_create(&thread[i], NULL, thread_run, shown[i]))
			exit(1);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		for (int layer = 0; layer < 2 * layers; layer++)
			printf("%d%c", (uint8_t)(shown[i][layer] - 20 * i), layer + 1 < 2 * layers ? ' ' : '\n');
	}
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

/* ---- fork ---- */

static void child_wait(const char *what, pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child)
		exit(1);
	printf("%s: status %d\n", what, status);
}

static void fork_both(char **argv)
{
	CUdeviceptr memory, other;
	pid_t child;

	context_make();
	check(cuMemAlloc(&memory, bytes), "cuMemAlloc");
	fflush(stdout);
	child = fork();
	if (!child) {
		printf("child: cuInit %d, cuMemAlloc %d, cuMemFree %d\n", cuInit(0), cuMemAlloc(&other, bytes),
			cuMemFree(memory));
		exit(0);
	}
	child_wait("a child", child);
	fflush(stdout);
	child = fork();
	if (!child) {
		execl("/proc/self/exe", argv[0], "threads", argv[2], argv[3], NULL);
		exit(1);
	}
	child_wait("another program", child);
	printf("parent: cuMemsetD8 %d, ", cuMemsetD8(memory, 1, bytes));
	printf("cuMemFree %d\n", cuMemFree(memory));
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	bytes = strtoull(argv[2], NULL, 10);
	layers = atoi(argv[3]);
	if (!strcmp(argv[1], "queries"))
		queries();
	else if (!strcmp(argv[1], "find"))
		find();
	else if (!strcmp(argv[1], "copies"))
		copies();
	else if (!strcmp(argv[1], "others"))
		others();
	else if (!strcmp(argv[1], "bound"))
		bound();
	else if (!strcmp(argv[1], "behind"))
		behind();
	else if (!strcmp(argv[1], "threads"))
		threads();
	else
		fork_both(argv);
	return 0;
}
