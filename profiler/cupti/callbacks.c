/*
 * profiler/cupti/callbacks.c: converts CUPTI's API callbacks to events, for all functions that allocate, map or free memory.
 *
 * Other functions have no callbacks, because each costs 0.5 us per call (docs/measurements/h200.md); launches show as kernels.
 * Runtime functions are in the list because CUPTI may not report the driver calls that the runtime makes; watch.c drops the
 * runtime's call if the driver's was reported.
 */
#include "callbacks.h"

/* ---- arguments ---- */

/* An output of a call: `at` may be NULL, and is not written by a failed call. */
/* clang-format off */
#define MADE(ok, at) ((ok) && (at) ? (uint64_t)*(at) : KVS_EVENT_NONE)

#define READER(function, ...)                                                                                          \
	static void read_##function(const void *params, bool ok, struct kvs_event *out)                                \
	{                                                                                                              \
		const function##_params *p = params;                                                                   \
		(void)ok;                                                                                              \
		__VA_ARGS__                                                                                            \
	}
/* Functions of one kind differ only in the names of their parameters. */
#define ALLOC_READER(function, where, size)                                                                            \
	READER(function, out->call.address = MADE(ok, p->where); out->call.bytes = (size);)
#define FREE_READER(function, where) READER(function, out->call.address = (uint64_t)p->where;)
#define RANGE_READER(function) READER(function, out->call.address = p->ptr; out->call.bytes = p->size;)
#define HANDLE_READER(function, value) READER(function, out->call.handle = (uint64_t)(value);)

ALLOC_READER(cuMemAlloc_v2, dptr, p->bytesize)
ALLOC_READER(cuMemAllocPitch_v2, dptr, (ok ? *p->pPitch : p->WidthInBytes) * p->Height)
ALLOC_READER(cuMemAllocManaged, dptr, p->bytesize)
ALLOC_READER(cuMemAllocAsync, dptr, p->bytesize)
ALLOC_READER(cuMemAllocAsync_ptsz, dptr, p->bytesize)
ALLOC_READER(cuMemAllocFromPoolAsync, dptr, p->bytesize)
ALLOC_READER(cuMemAllocFromPoolAsync_ptsz, dptr, p->bytesize)
ALLOC_READER(cuMemAllocHost_v2, pp, p->bytesize)
ALLOC_READER(cuMemHostAlloc, pp, p->bytesize)
FREE_READER(cuMemFree_v2, dptr)
FREE_READER(cuMemFreeAsync, dptr)
FREE_READER(cuMemFreeAsync_ptsz, dptr)
FREE_READER(cuMemFreeHost, p)
ALLOC_READER(cuMemAddressReserve, ptr, p->size)
RANGE_READER(cuMemAddressFree)
RANGE_READER(cuMemUnmap)
RANGE_READER(cuMemSetAccess)
HANDLE_READER(cuMemRelease, p->handle)
HANDLE_READER(cuMemRetainAllocationHandle, MADE(ok, p->handle))
HANDLE_READER(cuMemImportFromShareableHandle, MADE(ok, p->handle))
HANDLE_READER(cuMemPoolCreate, MADE(ok, p->pool))
HANDLE_READER(cuMemPoolDestroy, p->pool)
ALLOC_READER(cudaMalloc_v3020, devPtr, p->size)
ALLOC_READER(cudaMallocPitch_v3020, devPtr, (ok ? *p->pitch : p->width) * p->height)
ALLOC_READER(cudaMallocManaged_v6000, devPtr, p->size)
ALLOC_READER(cudaMallocAsync_v11020, devPtr, p->size)
ALLOC_READER(cudaMallocAsync_ptsz_v11020, devPtr, p->size)
ALLOC_READER(cudaMallocFromPoolAsync_v11020, ptr, p->size)
ALLOC_READER(cudaMallocFromPoolAsync_ptsz_v11020, ptr, p->size)
ALLOC_READER(cudaMallocHost_v3020, ptr, p->size)
ALLOC_READER(cudaHostAlloc_v3020, pHost, p->size)
FREE_READER(cudaFree_v3020, devPtr)
FREE_READER(cudaFreeAsync_v11020, devPtr)
FREE_READER(cudaFreeAsync_ptsz_v11020, devPtr)
FREE_READER(cudaFreeHost_v3020, ptr)

READER(cuMemCreate, out->call.handle = MADE(ok, p->handle); out->call.bytes = p->size;)
READER(cuMemMap, out->call.address = p->ptr; out->call.bytes = p->size; out->call.handle = p->handle;)
READER(cuMemPoolTrimTo, out->call.handle = (uint64_t)p->pool; out->call.bytes = p->minBytesToKeep;)

/* ---- the functions ---- */

#define DRIVER(name) {CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_##name, #name, read_##name}
#define RUNTIME(name, driver) {CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_RUNTIME_TRACE_CBID_##name, driver, read_##name}
const struct prof_cupti_function prof_cupti_functions[] = {
	DRIVER(cuMemAlloc_v2), DRIVER(cuMemAllocPitch_v2), DRIVER(cuMemAllocManaged),
	DRIVER(cuMemAllocAsync), DRIVER(cuMemAllocAsync_ptsz),
	DRIVER(cuMemAllocFromPoolAsync), DRIVER(cuMemAllocFromPoolAsync_ptsz),
	DRIVER(cuMemFree_v2), DRIVER(cuMemFreeAsync), DRIVER(cuMemFreeAsync_ptsz),
	DRIVER(cuMemAllocHost_v2), DRIVER(cuMemHostAlloc), DRIVER(cuMemFreeHost),
	/* CUPTI counts a second version of it, which the driver exports under the same name. */
	{CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemHostAlloc_v2, "cuMemHostAlloc", read_cuMemHostAlloc},
	DRIVER(cuMemAddressReserve), DRIVER(cuMemAddressFree), DRIVER(cuMemCreate), DRIVER(cuMemRelease),
	DRIVER(cuMemMap), DRIVER(cuMemUnmap), DRIVER(cuMemSetAccess),
	DRIVER(cuMemRetainAllocationHandle), DRIVER(cuMemImportFromShareableHandle),
	DRIVER(cuMemPoolCreate), DRIVER(cuMemPoolDestroy), DRIVER(cuMemPoolTrimTo),
	RUNTIME(cudaMalloc_v3020, "cuMemAlloc_v2"), RUNTIME(cudaMallocPitch_v3020, "cuMemAllocPitch_v2"),
	RUNTIME(cudaMallocManaged_v6000, "cuMemAllocManaged"),
	RUNTIME(cudaMallocAsync_v11020, "cuMemAllocAsync"), RUNTIME(cudaMallocAsync_ptsz_v11020, "cuMemAllocAsync_ptsz"),
	RUNTIME(cudaMallocFromPoolAsync_v11020, "cuMemAllocFromPoolAsync"),
	RUNTIME(cudaMallocFromPoolAsync_ptsz_v11020, "cuMemAllocFromPoolAsync_ptsz"),
	RUNTIME(cudaMallocHost_v3020, "cuMemAllocHost_v2"), RUNTIME(cudaHostAlloc_v3020, "cuMemHostAlloc"),
	RUNTIME(cudaFree_v3020, "cuMemFree_v2"), RUNTIME(cudaFreeAsync_v11020, "cuMemFreeAsync"),
	RUNTIME(cudaFreeAsync_ptsz_v11020, "cuMemFreeAsync_ptsz"), RUNTIME(cudaFreeHost_v3020, "cuMemFreeHost"),
};
/* clang-format on */
const size_t prof_cupti_function_count = sizeof(prof_cupti_functions) / sizeof(*prof_cupti_functions);

const struct prof_cupti_function *prof_cupti_function_of(CUpti_CallbackDomain domain, CUpti_CallbackId id)
{
	for (size_t i = 0; i < prof_cupti_function_count; i++)
		if (prof_cupti_functions[i].domain == domain && prof_cupti_functions[i].id == id)
			return &prof_cupti_functions[i];
	return NULL;
}

void prof_cupti_call(const struct prof_cupti_function *function, const CUpti_CallbackData *data, struct kvs_event *out)
{
	/* The runtime's error numbers are those of the driver, for errors of the driver. */
	int32_t result = data->functionReturnValue ? *(const int *)data->functionReturnValue : 0;

	*out = (struct kvs_event){.type = KVS_EVENT_CALL,
		.call = {.function = function->name,
			.result = result,
			.address = KVS_EVENT_NONE,
			.bytes = KVS_EVENT_NONE,
			.handle = KVS_EVENT_NONE}};
	if (data->functionParams)
		function->read(data->functionParams, !result, out);
}
