/*
 * profiler/bpf/functions.c: a table of the driver's functions: where among its arguments each has an address, bytes or a handle.
 *
 * Arguments are numbered from 1. The driver also exports names of older interfaces (cuMemAlloc beside cuMemAlloc_v2): today's
 * programs never call them, and their arguments mean something else, so they are not here.
 */
#include "functions.h"

#include "../../driver/cu.h"

#include <string.h>

#define ARG(n) (n)
#define OUT(n) (0x10 | (n)) /* what argument n points to, read when the call has returned */
#define VALUE(place) ((place)&0xf)
#define IS_OUT(place) ((place)&0x10)

enum {
	STACK = 1,  /* where it was called from is told, too */
	COUNT = 2,  /* not told one by one: counted and timed in the kernel */
	DEVICE = 4, /* cuMemGetInfo */
};

struct function {
	const char *name, *per_thread; /* its form for per-thread default streams; NULL: it has none */
	uint8_t how, address, bytes, handle;
	uint8_t unit, rows; /* `bytes` counts units of so many bytes (0: of one); times an argument (0: once) */
	uint8_t pitch;      /* the argument where the driver says how long a row is in truth; 0: there is none */
	uint16_t box;       /* where in the structure that argument 1 points to width, height and depth are */
	uint8_t sides;      /* how many of them there are; 0: no such structure */
};

#define PTSZ(name) name, name "_ptsz"
#define PTDS(name) name, name "_ptds"
#define BOX2 .box = offsetof(CUDA_MEMCPY2D, WidthInBytes), .sides = 2
#define BOX3 .box = offsetof(CUDA_MEMCPY3D, WidthInBytes), .sides = 3
#define BOX3_PEER .box = offsetof(CUDA_MEMCPY3D_PEER, WidthInBytes), .sides = 3

/* clang-format off */
static const struct function functions[] = {
	{"cuMemAlloc_v2", .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{"cuMemAllocPitch_v2", .how = STACK, .address = OUT(1), .bytes = ARG(3), .rows = ARG(4), .pitch = 2},
	{"cuMemAllocManaged", .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{PTSZ("cuMemAllocAsync"), .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{PTSZ("cuMemAllocFromPoolAsync"), .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{"cuMemAllocHost_v2", .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{"cuMemHostAlloc", .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{"cuMemFree_v2", .address = ARG(1)},
	{PTSZ("cuMemFreeAsync"), .address = ARG(1)},
	{"cuMemFreeHost", .address = ARG(1)},
	{"cuMemHostRegister_v2", .how = STACK, .address = ARG(1), .bytes = ARG(2)},
	{"cuMemHostUnregister", .address = ARG(1)},
	{"cuMemPoolCreate", .how = STACK, .handle = OUT(1)},
	{"cuMemPoolDestroy", .handle = ARG(1)},
	{"cuMemPoolTrimTo", .handle = ARG(1)},
	{"cuMemGetInfo_v2", .how = DEVICE},

	{"cuMemAddressReserve", .how = STACK, .address = OUT(1), .bytes = ARG(2)},
	{"cuMemAddressFree", .address = ARG(1), .bytes = ARG(2)},
	{"cuMemCreate", .how = STACK, .bytes = ARG(2), .handle = OUT(1)},
	{"cuMemRelease", .handle = ARG(1)},
	{"cuMemRetainAllocationHandle", .how = STACK, .handle = OUT(1)},
	{"cuMemImportFromShareableHandle", .how = STACK, .handle = OUT(1)},
	{"cuMemExportToShareableHandle", .handle = ARG(2)},
	{"cuMemMap", .how = STACK, .address = ARG(1), .bytes = ARG(2), .handle = ARG(4)},
	{"cuMemUnmap", .address = ARG(1), .bytes = ARG(2)},
	{"cuMemSetAccess", .address = ARG(1), .bytes = ARG(2)},

	{PTDS("cuMemcpy"), .address = ARG(1), .bytes = ARG(3)},
	{PTSZ("cuMemcpyAsync"), .address = ARG(1), .bytes = ARG(3)},
	{PTDS("cuMemcpyHtoD_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTSZ("cuMemcpyHtoDAsync_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTDS("cuMemcpyDtoH_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTSZ("cuMemcpyDtoHAsync_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTDS("cuMemcpyDtoD_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTSZ("cuMemcpyDtoDAsync_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTDS("cuMemcpyPeer"), .address = ARG(1), .bytes = ARG(5)},
	{PTSZ("cuMemcpyPeerAsync"), .address = ARG(1), .bytes = ARG(5)},
	{PTDS("cuMemcpyDtoA_v2"), .bytes = ARG(4)},
	{PTDS("cuMemcpyAtoD_v2"), .address = ARG(1), .bytes = ARG(4)},
	{PTDS("cuMemcpyHtoA_v2"), .bytes = ARG(4)},
	{PTSZ("cuMemcpyHtoAAsync_v2"), .bytes = ARG(4)},
	{PTDS("cuMemcpyAtoH_v2"), .address = ARG(1), .bytes = ARG(4)},
	{PTSZ("cuMemcpyAtoHAsync_v2"), .address = ARG(1), .bytes = ARG(4)},
	{PTDS("cuMemcpyAtoA_v2"), .bytes = ARG(5)},
	{PTDS("cuMemcpy2D_v2"), BOX2},
	{PTDS("cuMemcpy2DUnaligned_v2"), BOX2},
	{PTSZ("cuMemcpy2DAsync_v2"), BOX2},
	{PTDS("cuMemcpy3D_v2"), BOX3},
	{PTSZ("cuMemcpy3DAsync_v2"), BOX3},
	{PTDS("cuMemcpy3DPeer"), BOX3_PEER},
	{PTSZ("cuMemcpy3DPeerAsync"), BOX3_PEER},
	{PTSZ("cuMemcpyBatchAsync"), .how = 0},
	{PTSZ("cuMemcpyBatchAsync_v2"), .how = 0},
	{PTDS("cuMemsetD8_v2"), .address = ARG(1), .bytes = ARG(3)},
	{PTDS("cuMemsetD16_v2"), .address = ARG(1), .bytes = ARG(3), .unit = 2},
	{PTDS("cuMemsetD32_v2"), .address = ARG(1), .bytes = ARG(3), .unit = 4},
	{PTDS("cuMemsetD2D8_v2"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5)},
	{PTDS("cuMemsetD2D16_v2"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5), .unit = 2},
	{PTDS("cuMemsetD2D32_v2"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5), .unit = 4},
	{PTSZ("cuMemsetD8Async"), .address = ARG(1), .bytes = ARG(3)},
	{PTSZ("cuMemsetD16Async"), .address = ARG(1), .bytes = ARG(3), .unit = 2},
	{PTSZ("cuMemsetD32Async"), .address = ARG(1), .bytes = ARG(3), .unit = 4},
	{PTSZ("cuMemsetD2D8Async"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5)},
	{PTSZ("cuMemsetD2D16Async"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5), .unit = 2},
	{PTSZ("cuMemsetD2D32Async"), .address = ARG(1), .bytes = ARG(4), .rows = ARG(5), .unit = 4},
	{PTSZ("cuMemPrefetchAsync"), .address = ARG(1), .bytes = ARG(2)},
	{PTSZ("cuMemPrefetchAsync_v2"), .address = ARG(1), .bytes = ARG(2)},

	{"cuCtxSynchronize", .how = 0},
	{"cuCtxSynchronize_v2", .how = 0},
	{PTSZ("cuStreamSynchronize"), .handle = ARG(1)},
	{"cuEventSynchronize", .handle = ARG(1)},
	{"cuStreamCreate", .handle = OUT(1)},
	{"cuStreamCreateWithPriority", .handle = OUT(1)},
	{"cuStreamDestroy_v2", .handle = ARG(1)},
	{"cuEventCreate", .handle = OUT(1)},
	{"cuEventDestroy_v2", .handle = ARG(1)},

	/* What takes long before the first token. */
	{"cuInit", .how = 0},
	{"cuDevicePrimaryCtxRetain", .how = 0},
	{"cuDevicePrimaryCtxRelease_v2", .how = 0},
	{"cuDevicePrimaryCtxReset_v2", .how = 0},
	{"cuCtxCreate_v2", .handle = OUT(1)},
	{"cuCtxCreate_v3", .handle = OUT(1)},
	{"cuCtxCreate_v4", .handle = OUT(1)},
	{"cuCtxDestroy_v2", .handle = ARG(1)},
	{"cuModuleLoad", .handle = OUT(1)},
	{"cuModuleLoadData", .handle = OUT(1)},
	{"cuModuleLoadDataEx", .handle = OUT(1)},
	{"cuModuleLoadFatBinary", .handle = OUT(1)},
	{"cuModuleUnload", .handle = ARG(1)},
	{"cuLibraryLoadData", .handle = OUT(1)},
	{"cuLibraryLoadFromFile", .handle = OUT(1)},
	{"cuLibraryUnload", .handle = ARG(1)},
	{"cuGraphInstantiateWithFlags", .handle = OUT(1)},
	{PTSZ("cuGraphInstantiateWithParams"), .handle = OUT(1)},

	{PTSZ("cuLaunchKernel"), .how = COUNT},
	{PTSZ("cuLaunchKernelEx"), .how = COUNT},
	{PTSZ("cuLaunchCooperativeKernel"), .how = COUNT},
	{PTSZ("cuLaunchHostFunc"), .how = COUNT},
	{PTSZ("cuGraphLaunch"), .how = COUNT},
	{PTSZ("cuEventRecord"), .how = COUNT},
	{PTSZ("cuEventRecordWithFlags"), .how = COUNT},
	{"cuEventQuery", .how = COUNT},
	{PTSZ("cuStreamQuery"), .how = COUNT},
	{PTSZ("cuStreamWaitEvent"), .how = COUNT},
};
/* clang-format on */

#define FUNCTIONS (sizeof(functions) / sizeof(*functions))

/* Numbers go 0, 2, 4, ...; the form for per-thread default streams has the odd one behind. */
static const struct function *function_of(unsigned number)
{
	return &functions[number / 2];
}

size_t prof_function_count(void)
{
	return 2 * FUNCTIONS;
}

const char *prof_function_name(unsigned function)
{
	if (function >= prof_function_count())
		return NULL;
	return function & 1 ? function_of(function)->per_thread : function_of(function)->name;
}

int prof_function_find(const char *name)
{
	for (size_t i = 0; i < FUNCTIONS; i++) {
		if (!strcmp(functions[i].name, name))
			return 2 * (int)i;
		if (functions[i].per_thread && !strcmp(functions[i].per_thread, name))
			return 2 * (int)i + 1;
	}
	return -1;
}

union prof_cookie prof_function_cookie(unsigned number)
{
	const struct function *function = function_of(number);
	union prof_cookie cookie = {.function = number};

	cookie.counted = function->how == COUNT;
	cookie.stack = function->how == STACK;
	cookie.inside = function->box;
	cookie.words = function->sides;
	if (function->how == DEVICE) {
		cookie.out = 1;
		cookie.out2 = 2;
	} else if (IS_OUT(function->address)) {
		cookie.out = VALUE(function->address);
	} else if (IS_OUT(function->handle)) {
		cookie.out = VALUE(function->handle);
	}
	if (function->pitch)
		cookie.out2 = function->pitch;
	return cookie;
}

static uint64_t value_of(const struct prof_call *call, uint8_t place)
{
	if (!place || (IS_OUT(place) && call->result))
		return KVS_EVENT_NONE;
	return IS_OUT(place) ? call->outs[0] : call->args[VALUE(place) - 1];
}

static uint64_t bytes_of(const struct prof_call *call, const struct function *function)
{
	uint64_t bytes = value_of(call, function->bytes);

	if (function->pitch && !call->result)
		bytes = call->outs[1];
	if (function->sides) {
		bytes = call->args[2];
		for (int side = 1; side < function->sides; side++)
			bytes *= call->args[2 + side];
	}
	if (function->unit)
		bytes *= function->unit;
	if (function->rows)
		bytes *= value_of(call, function->rows);
	return bytes;
}

void prof_function_event(const struct prof_call *call, struct kvs_event *out)
{
	const struct function *function = function_of(call->function);

	*out = (struct kvs_event){.type = KVS_EVENT_CALL,
		.pid = call->record.pid,
		.tid = call->record.tid,
		.time_ns = call->record.time_ns};
	out->call.function = prof_function_name(call->function);
	out->call.duration_ns = call->duration_ns;
	out->call.result = call->result;
	out->call.address = value_of(call, function->address);
	out->call.bytes = bytes_of(call, function);
	out->call.handle = value_of(call, function->handle);
}

bool prof_function_tells_device(const struct prof_call *call, struct kvs_event *out)
{
	if (function_of(call->function)->how != DEVICE || call->result)
		return false;
	*out = (struct kvs_event){.type = KVS_EVENT_DEVICE,
		.pid = call->record.pid,
		.tid = call->record.tid,
		.time_ns = call->record.time_ns + call->duration_ns};
	out->device.free_bytes = call->outs[0];
	out->device.total_bytes = call->outs[1];
	return true;
}
