/*
 * tests/clients/refusals.c: programs that make calls which the driver refuses, and that end things in unusual ways: the answers must
 * be the same whether layers share or not, and so must be what the memory shows.
 *
 * usage: refusals WHAT [MODULE] [FORM]
 *   mapping      calls for memory that a program maps itself, of memory from cuMemAlloc
 *   captures     streams whose capture ends with an error, or that go while they are captured, before memory is freed: what is left of it
 *   captured     memory that is made and freed while a stream is captured, in each mode
 *   threads      memory that is made and freed while another thread captures its own stream, again and again
 *   pools        memory from streams and pools that are not there
 *   segments     memory that it maps itself to a reservation of a cache's size, by calls that are wrong, and then by the right ones
 *   filling      such memory until the device has no more (SOFTCUDA_MEMORY), before any of it is mapped
 *   tight        boxes without a pitch, from the end of one layer into the next
 *   old          all memory of a context goes by the first form of a call: cuCtxDestroy, cuDevicePrimaryCtxRelease or ...Reset
 *   leaving      stores a row to layer 0 (MODULE), and ends by FORM: _exit, term (SIGTERM), or exit
 *   environment  the program writes over its environment, then a kernel stores to layer 0 (MODULE)
 */
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BYTES (32 * MIB) /* four layers, K and V of 4 MiB each */
#define LAYER(i) ((size_t)(i)*8 * MIB)

static CUdevice device;
static CUcontext context;
static const char *module_path, *form;

static void check(CUresult result, const char *what)
{
	if (result == CUDA_SUCCESS)
		return;
	fprintf(stderr, "refusals: %s: %d\n", what, result);
	exit(1);
}
#define CHECK(call) check(call, #call)
/* What the call answers is a part of the output. */
#define SHOW(call) printf("%s: %d\n", #call, call)

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
	unsigned char byte = 0;

	SHOW(cuMemcpyDtoH(&byte, address, 1));
	return byte;
}

static void mapping(void)
{
	CUmemLocation here = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
	CUmemAccessDesc access = {.location = here, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	unsigned long long flags;
	CUdeviceptr memory;

	start();
	memory = memory_make();
	CHECK(cuMemsetD8(memory, 5, BYTES));
	for (size_t at = 0; at < BYTES; at += LAYER(2)) { /* an owner, and its borrower */
		CUdeviceptr part = memory + at;

		SHOW(cuMemRetainAllocationHandle(&handle, (void *)(uintptr_t)(part + 4096)));
		SHOW(cuMemGetAccess(&flags, &here, part));
		SHOW(cuMemSetAccess(part, 4 * MIB, &access, 1));
		SHOW(cuMemSetAccess(part - 2 * MIB, 4 * MIB, &access, 1));
		SHOW(cuMemUnmap(part, 4 * MIB));
		SHOW(cuMemAddressFree(part, 4 * MIB));
		printf("shows %u\n", byte_at(part));
	}
	SHOW(cuMemUnmap(memory, BYTES));
	SHOW(cuMemAddressFree(memory, BYTES));
	SHOW(cuMemFree(memory));
}

static size_t free_mib(void)
{
	size_t bytes, total;

	CHECK(cuMemGetInfo(&bytes, &total));
	return bytes / MIB;
}

/* One that ends with an error: another stream has not come back to it, or a call has made it invalid. */
static void capture_fail(bool joins)
{
	CUstream stream, other;
	CUdeviceptr memory, small;
	CUevent event;
	CUgraph graph;

	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
	CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	CHECK(cuMemAlloc(&memory, 4096));
	CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	if (joins)
		SHOW(cuMemAlloc(&small, 4096));
	SHOW(cuEventRecord(event, stream));
	SHOW(cuStreamWaitEvent(other, event, 0));
	SHOW(cuMemsetD8Async(memory, 1, 4096, other));
	SHOW(cuStreamEndCapture(stream, &graph));
	SHOW(cuStreamSynchronize(other));
	SHOW(cuMemFree(memory));
}

/* What is freed while a stream is captured may go later, but not never. */
static void captures(void)
{
	CUcontext other;
	CUstream stream;
	size_t before;

	start();
	before = free_mib();
	for (int i = 0; i < 2; i++) {
		capture_fail(i);
		SHOW(cuMemFree(memory_make()));
		printf("left %zu\n", before - free_mib());
	}
	for (int i = 0; i < 4; i++) {
		if (i % 2)
			CHECK(cuCtxCreate(&other, NULL, 0, device));
		CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
		CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
		if (i % 2)
			SHOW(cuCtxDestroy(other));
		else
			SHOW(cuStreamDestroy(stream));
		CHECK(cuCtxSetCurrent(context));
		SHOW(cuMemFree(memory_make()));
		printf("left %zu\n", before - free_mib());
	}
}

static void captured(void)
{
	CUdeviceptr before[4], async[4], memory;
	CUstream stream;
	CUgraph graph;

	start();
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	for (int mode = CU_STREAM_CAPTURE_MODE_GLOBAL; mode <= CU_STREAM_CAPTURE_MODE_RELAXED; mode++) {
		before[mode] = memory_make();
		CHECK(cuMemAllocAsync(&async[mode], BYTES, stream));
		CHECK(cuStreamSynchronize(stream));
		printf("mode %d\n", mode);
		for (int call = 0; call < 4; call++) {
			CHECK(cuStreamBeginCapture(stream, mode));
			if (call == 0)
				SHOW(cuMemAlloc(&memory, BYTES));
			else if (call == 1)
				SHOW(cuMemFree(before[mode]));
			else if (call == 2)
				SHOW(cuMemFreeAsync(async[mode], stream));
			SHOW(cuStreamEndCapture(stream, &graph));
		}
		SHOW(cuMemFreeAsync(async[mode], stream));
	}
}

static atomic_bool enough;
static atomic_int failed_captures;

static void *capture_again(void *arg)
{
	CUstream stream;
	CUgraph graph;

	(void)arg;
	CHECK(cuCtxSetCurrent(context));
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	while (!atomic_load(&enough)) {
		if (cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) ||
			cuStreamEndCapture(stream, &graph))
			atomic_fetch_add(&failed_captures, 1);
		else
			CHECK(cuGraphDestroy(graph));
	}
	return NULL;
}

static void threads(void)
{
	pthread_t thread;
	size_t before;
	int failed = 0;

	start();
	before = free_mib();
	pthread_create(&thread, NULL, capture_again, NULL);
	for (int i = 0; i < 15; i++)
		failed += cuMemFree(memory_make()) != CUDA_SUCCESS;
	atomic_store(&enough, true);
	pthread_join(thread, NULL);
	SHOW(cuMemFree(memory_make()));
	printf("failed %d %d left %zu\n", failed, atomic_load(&failed_captures), before - free_mib());
}

static void pools(void)
{
	CUmemPoolProps properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	CUdeviceptr memory;
	CUmemoryPool pool;
	CUstream stream;

	start();
	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	CHECK(cuMemPoolCreate(&pool, &properties));
	SHOW(cuMemAllocFromPoolAsync(&memory, BYTES, pool, stream));
	SHOW(cuMemFreeAsync(memory, stream));
	SHOW(cuMemAllocFromPoolAsync(&memory, BYTES, NULL, stream));
	SHOW(cuMemPoolDestroy(pool));
	SHOW(cuMemAllocFromPoolAsync(&memory, BYTES, pool, stream));
	SHOW(cuStreamDestroy(stream));
	SHOW(cuMemAllocAsync(&memory, BYTES, stream));
	SHOW(cuMemAllocAsync(&memory, BYTES, (CUstream)(uintptr_t)0x123450));
	SHOW(cuMemAllocAsync(&memory, BYTES, NULL));
	SHOW(cuMemFreeAsync(memory, NULL));
}

static const CUmemAllocationProp own = {
	.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
static const CUmemAccessDesc both_ways = {
	.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

static void segments(void)
{
	CUmemGenericAllocationHandle one, two;
	CUdeviceptr base;

	start();
	CHECK(cuMemAddressReserve(&base, BYTES, 0, 0, 0));
	CHECK(cuMemCreate(&one, 4 * MIB, &own, 0));
	CHECK(cuMemCreate(&two, 4 * MIB, &own, 0));
	SHOW(cuMemMap(base, 2 * MIB, 0, one, 0));
	SHOW(cuMemMap(base, 4 * MIB, 2 * MIB, one, 0));
	SHOW(cuMemMap(base + MIB, 4 * MIB, 0, one, 0));
	SHOW(cuMemMap(base, 4 * MIB, 0, one, 1));
	SHOW(cuMemMap(base, 4 * MIB, 0, one, 0));
	SHOW(cuMemMap(base, 4 * MIB, 0, two, 0));
	SHOW(cuMemMap(base + 2 * MIB, 4 * MIB, 0, two, 0));
	SHOW(cuMemSetAccess(base, 8 * MIB, &both_ways, 1));
	SHOW(cuMemSetAccess(base, 4 * MIB, &both_ways, 0));
	SHOW(cuMemSetAccess(base, 4 * MIB, &both_ways, 1));
	SHOW(cuMemUnmap(base, 2 * MIB));
	SHOW(cuMemUnmap(base + 2 * MIB, 2 * MIB));
	SHOW(cuMemUnmap(base, 8 * MIB));
	SHOW(cuMemAddressFree(base, BYTES));
	SHOW(cuMemsetD8(base, 7, 4 * MIB));
	printf("shows %u\n", byte_at(base));
	SHOW(cuMemRelease(one));
	SHOW(cuMemRelease(one));
	SHOW(cuMemUnmap(base, 4 * MIB));
	SHOW(cuMemMap(base, 4 * MIB, 0, two, 0));
	SHOW(cuMemRelease(two));
	SHOW(cuMemUnmap(base, 4 * MIB));
	SHOW(cuMemAddressFree(base, BYTES / 2));
	SHOW(cuMemAddressFree(base, BYTES));
	SHOW(cuMemAddressFree(base, BYTES));
}

static void filling(void)
{
	CUmemGenericAllocationHandle handle[16];
	CUdeviceptr base;
	int count = 0;

	start();
	CHECK(cuMemAddressReserve(&base, BYTES, 0, 0, 0));
	while (count < 16 && !cuMemCreate(&handle[count], 4 * MIB, &own, 0))
		count++;
	printf("created %d\n", count);
	for (int i = 0; i < count; i++)
		SHOW(cuMemMap(base + (size_t)i * 4 * MIB, 4 * MIB, 0, handle[i], 0));
}

/* Rows of 256 bytes, one behind the other. `memory` is the start of a layer. */
static void tight_box(CUdeviceptr memory, CUdeviceptr from, bool flat)
{
	CUDA_MEMCPY2D box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = from,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = memory - 1024,
		.WidthInBytes = 256,
		.Height = 8};
	CUDA_MEMCPY3D cube = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = from,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = memory - 1024,
		.WidthInBytes = 256,
		.Height = 2,
		.Depth = 4};

	if (flat)
		SHOW(cuMemcpy2D(&box));
	else
		SHOW(cuMemcpy3D(&cube));
	SHOW(cuCtxSynchronize());
}

/* Into layer 1, an owner, from its neighbour; and into layer 2, whose rows in layer 1 are seen. */
static void tight(void)
{
	CUdeviceptr memory, from;

	start();
	memory = memory_make();
	CHECK(cuMemAlloc(&from, 4096));
	CHECK(cuMemsetD8(memory, 0, BYTES));
	for (int flat = 0; flat < 2; flat++) {
		for (unsigned char i = 0; i < 16; i++)
			CHECK(cuMemsetD8(from + i * 128, (unsigned char)(50 + 30 * flat + i), 128));
		tight_box(memory + 8 * MIB, from, flat);
		printf("shows %u\n", byte_at(memory + 8 * MIB + 1023));
		tight_box(memory + 16 * MIB, from, flat);
		printf("shows %u\n", byte_at(memory + 16 * MIB - 1024));
		printf("shows %u\n", byte_at(memory + 4 * MIB));
	}
}

static void old(void)
{
	bool of_context = !strcmp(form, "cuCtxDestroy");
	size_t before;
	union {
		void *found;
		CUresult (*device)(CUdevice);
		CUresult (*context)(CUcontext);
	} call = {dlsym(RTLD_DEFAULT, form)};

	start();
	before = free_mib();
	for (int i = 0; i < 3; i++) {
		CUcontext other;

		if (of_context)
			CHECK(cuCtxCreate(&other, NULL, 0, device));
		CHECK(cuMemsetD8(memory_make(), 1, BYTES));
		printf("%s: %d\n", form, of_context ? call.context(other) : call.device(device));
		if (!of_context)
			CHECK(cuDevicePrimaryCtxRetain(&context, device));
		CHECK(cuCtxSetCurrent(context));
		printf("left %zu\n", before - free_mib());
	}
}

static void stored(const char *name, CUdeviceptr dst)
{
	CUdeviceptr src, row;
	CUfunction function;
	CUmodule module;
	int width = 32;

	CHECK(cuModuleLoad(&module, module_path));
	CHECK(cuMemAlloc(&src, 4096));
	CHECK(cuMemsetD8(src, 9, 4096));
	CHECK(cuMemAlloc(&row, 8));
	CHECK(cuMemsetD8(row, 0, 8));
	CHECK(cuModuleGetFunction(&function, module, name));
	SHOW(cuLaunchKernel(function, 1, 1, 1, width, 1, 1, 0, NULL, (void *[]){&src, &row, &dst, &width}, NULL));
	SHOW(cuCtxSynchronize());
}

/* As programs do that change their title; the environment itself may be elsewhere by then. */
static void environment(void)
{
	extern char **environ;
	CUdeviceptr memory;

	start();
	memory = memory_make();
	CHECK(cuMemsetD8(memory, 5, BYTES));
	for (char **entry = environ; *entry; entry++)
		if (!strncmp(*entry, "KVSHARE_", 8))
			memset(*entry, 'x', strlen(*entry));
	stored("client_hidden_store", memory + LAYER(2));
	printf("layer 0 shows %u\n", byte_at(memory));
}

static void leaving(void)
{
	start();
	stored("client_set_rows", memory_make());
	if (!strcmp(form, "_exit"))
		_exit(0);
	if (!strcmp(form, "term"))
		raise(SIGTERM);
}

static const struct {
	const char *name;
	void (*run)(void);
} programs[] = {
	{"mapping", mapping},
	{"captures", captures},
	{"captured", captured},
	{"threads", threads},
	{"pools", pools},
	{"segments", segments},
	{"filling", filling},
	{"tight", tight},
	{"old", old},
	{"leaving", leaving},
	{"environment", environment},
};

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	module_path = argc > 2 ? argv[2] : "";
	form = argc > 3 ? argv[3] : "";
	CHECK(cuInit(0));
	CHECK(cuDeviceGet(&device, 0));
	for (size_t i = 0; i < sizeof(programs) / sizeof(*programs); i++)
		if (!strcmp(programs[i].name, argv[1])) {
			programs[i].run();
			return 0;
		}
	return 2;
}
