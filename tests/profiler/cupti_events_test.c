/*
 * tests/profiler/cupti_events_test.c: every record and callback of CUPTI becomes the right event. The records are the
 * toolkit's own structs, built here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#if __has_include(<cupti.h>)
#include "../../profiler/cupti/callbacks.h"
#include "../../profiler/cupti/records.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define NOW 5000

/* ---- one record ---- */

static struct prof_cupti_records records = {.pid = 77, .system_threads = true, .lock = PTHREAD_MUTEX_INITIALIZER};

/* Gives an event of type 0 if there is none. Noise follows the record, as the new fields of a later version would. */
static struct prof_cupti_event convert(const void *record, size_t bytes)
{
	static struct prof_cupti_event out;
	uint8_t *longer = malloc(bytes + 256);

	memset(longer, 0xa5, bytes + 256);
	memcpy(longer, record, bytes);
	memset(&out, 0x5a, sizeof(out));
	if (!prof_cupti_record(&records, (const CUpti_Activity *)longer, NOW, &out))
		out.event.type = 0;
	free(longer);
	return out;
}

#define CONVERT(record) convert(&(record), sizeof(record))

static void kernels_become_events(void **state)
{
	CUpti_ActivityKernel9 record = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
		.start = 1000,
		.end = 1250,
		.streamId = 7,
		.name = "_Z6kernelPf"};
	struct kvs_event event = CONVERT(record).event;

	(void)state;
	assert_int_equal(event.type, KVS_EVENT_KERNEL);
	assert_int_equal(event.pid, 77);
	assert_int_equal(event.tid, 0);
	assert_int_equal(event.time_ns, 1000);
	assert_int_equal(event.kernel.duration_ns, 250);
	assert_int_equal(event.kernel.stream, 7);
	assert_int_equal(event.kernel.layer, -1);
	assert_string_equal(event.kernel.name, "_Z6kernelPf");

	record.start = record.end = 0; /* CUPTI: "timing information could not be collected" */
	record.name = NULL;
	event = CONVERT(record).event;
	assert_int_equal(event.type, KVS_EVENT_KERNEL);
	assert_int_equal(event.time_ns, NOW);
	assert_int_equal(event.kernel.duration_ns, 0);
	assert_string_equal(event.kernel.name, "");

	record.start = 1000; /* flushed while it ran */
	event = CONVERT(record).event;
	assert_int_equal(event.time_ns, 1000);
	assert_int_equal(event.kernel.duration_ns, 0);
	record.start = 0;
	record.end = 1250;
	event = CONVERT(record).event;
	assert_int_equal(event.time_ns, NOW);
	assert_int_equal(event.kernel.duration_ns, 0);
}

/* The structs of this toolkit, if they are newer than the ones that records.c uses. */
static void the_newest_kernel_is_read_as_well(void **state)
{
	(void)state;
#if CUPTI_API_VERSION >= 130000
	CUpti_ActivityKernel10 record = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
		.start = 1,
		.end = 3,
		.streamId = 9,
		.graphId = 4,
		.name = "k"};
	struct kvs_event event = CONVERT(record).event;

	assert_string_equal(event.kernel.name, "k");
	assert_int_equal(event.kernel.stream, 9);
	assert_int_equal(event.kernel.duration_ns, 2);
	CUpti_ActivityMemcpy6 copy = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY,
		.copyKind = CUPTI_ACTIVITY_MEMCPY_KIND_HTOD,
		.bytes = 5,
		.start = 1,
		.end = 4,
		.streamId = 6};
	event = CONVERT(copy).event;
	assert_int_equal(event.copy.bytes, 5);
	assert_int_equal(event.copy.stream, 6);
	CUpti_ActivitySynchronization2 wait = {.kind = CUPTI_ACTIVITY_KIND_SYNCHRONIZATION,
		.type = CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE,
		.start = 3,
		.end = 8};
	event = CONVERT(wait).event;
	assert_int_equal(event.call.duration_ns, 5);
#else
	skip();
#endif
}

static void copies_and_fills_become_events(void **state)
{
	static const enum kvs_copy_kind kinds[] = {KVS_COPY_OTHER, KVS_COPY_HTOD, KVS_COPY_DTOH, KVS_COPY_HTOD,
		KVS_COPY_DTOH, KVS_COPY_DTOD, KVS_COPY_DTOD, KVS_COPY_DTOD, KVS_COPY_DTOD, KVS_COPY_OTHER,
		KVS_COPY_PTOP, KVS_COPY_OTHER};
	CUpti_ActivityMemcpy5 copy = {
		.kind = CUPTI_ACTIVITY_KIND_MEMCPY, .bytes = 1ull << 40, .start = 10, .end = 30, .streamId = 3};
	CUpti_ActivityMemcpyPtoP4 between = {
		.kind = CUPTI_ACTIVITY_KIND_MEMCPY2, .bytes = 8, .start = 11, .end = 12, .streamId = 4};
	CUpti_ActivityMemset4 fill = {
		.kind = CUPTI_ACTIVITY_KIND_MEMSET, .value = 1, .bytes = 9, .start = 0, .end = 0, .streamId = 5};
	struct kvs_event event;

	(void)state;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		copy.copyKind = i;
		event = CONVERT(copy).event;
		assert_int_equal(event.type, KVS_EVENT_COPY);
		assert_int_equal(event.copy.kind, kinds[i]);
		assert_int_equal(event.time_ns, 10);
		assert_true(event.copy.bytes == 1ull << 40);
		assert_int_equal(event.copy.duration_ns, 20);
		assert_int_equal(event.copy.stream, 3);
	}
	event = CONVERT(between).event;
	assert_int_equal(event.copy.kind, KVS_COPY_PTOP);
	assert_int_equal(event.copy.bytes, 8);
	assert_int_equal(event.copy.stream, 4);
	event = CONVERT(fill).event;
	assert_int_equal(event.copy.kind, KVS_COPY_FILL);
	assert_int_equal(event.copy.bytes, 9);
	assert_int_equal(event.time_ns, NOW);
	assert_int_equal(event.copy.duration_ns, 0);
	assert_int_equal(event.copy.stream, 5);
}

static void waits_become_calls(void **state)
{
	static const char *const functions[] = {
		NULL, "cuEventSynchronize", "cuStreamWaitEvent", "cuStreamSynchronize", "cuCtxSynchronize", NULL};
	CUpti_ActivitySynchronization record = {
		.kind = CUPTI_ACTIVITY_KIND_SYNCHRONIZATION, .start = 100, .end = 99, .streamId = 3};

	(void)state;
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		record.type = i;
		struct kvs_event event = CONVERT(record).event;
		assert_int_equal(event.type, functions[i] ? KVS_EVENT_CALL : 0);
		if (!functions[i])
			continue;
		assert_string_equal(event.call.function, functions[i]);
		assert_int_equal(event.time_ns, 100);
		assert_int_equal(event.call.duration_ns, 0); /* the end is before the start */
		assert_true(event.call.address == KVS_EVENT_NONE && event.call.bytes == KVS_EVENT_NONE);
		assert_true(event.call.handle == KVS_EVENT_NONE && !event.call.result && !event.call.frame_count);
	}
	record.type = 1 << 20;
	assert_int_equal(CONVERT(record).event.type, 0);
}

static void overheads_become_spans(void **state)
{
	CUpti_ActivityOverhead3 record = {.kind = CUPTI_ACTIVITY_KIND_OVERHEAD,
		.objectKind = CUPTI_ACTIVITY_OBJECT_THREAD,
		.objectId.pt = {77, 78},
		.start = 5,
		.end = 7};

	(void)state;
	for (int kind = 0; kind <= 12; kind++) {
		record.overheadKind = kind < 2 ? kind : (kind - 1) << 16;
		struct kvs_event event = CONVERT(record).event;
		assert_int_equal(event.type, KVS_EVENT_SPAN);
		assert_int_equal(event.span.kind, KVS_SPAN_OVERHEAD);
		assert_int_equal(event.tid, 78);
		assert_int_equal(event.span.duration_ns, 2);
		assert_int_equal(!strcmp(event.span.name, "overhead"), kind == 0 || kind > 9);
	}
	record.objectKind = CUPTI_ACTIVITY_OBJECT_STREAM;
	assert_int_equal(CONVERT(record).event.tid, 0);
	record.objectKind = CUPTI_ACTIVITY_OBJECT_THREAD;
	records.system_threads = false;
	assert_int_equal(CONVERT(record).event.tid, 0);
	records.system_threads = true;
}

static struct prof_cupti_event marker(uint32_t flags, uint32_t id, uint64_t at, const char *name)
{
	CUpti_ActivityMarker2 record = {.kind = CUPTI_ACTIVITY_KIND_MARKER,
		.flags = flags,
		.timestamp = at,
		.id = id,
		.objectKind = CUPTI_ACTIVITY_OBJECT_THREAD,
		.objectId.pt = {77, 79},
		.name = name,
		.domain = id == 5 ? "NCCL" : NULL};

	return CONVERT(record);
}

static void check_span(struct prof_cupti_event got, const char *name, uint64_t start, uint64_t ns)
{
	assert_int_equal(got.event.type, KVS_EVENT_SPAN);
	assert_int_equal(got.event.span.kind, KVS_SPAN_RANGE);
	assert_string_equal(got.name, name);
	assert_int_equal(got.event.time_ns, start);
	assert_int_equal(got.event.span.duration_ns, ns);
	assert_int_equal(got.event.tid, 79);
}

#define START CUPTI_ACTIVITY_FLAG_MARKER_START
#define END CUPTI_ACTIVITY_FLAG_MARKER_END

static void ranges_have_two_ends(void **state)
{
	(void)state;
	assert_int_equal(marker(START, 1, 100, "outer").event.type, 0);
	assert_int_equal(marker(START, 2, 110, "inner").event.type, 0);
	assert_int_equal(marker(END, 5, 190, NULL).event.type, 0); /* the buffer with the end came first */
	check_span(marker(END, 2, 120, NULL), "inner", 110, 10);
	check_span(marker(CUPTI_ACTIVITY_FLAG_MARKER_INSTANTANEOUS, 3, 115, "moment"), "moment", 115, 0);
	check_span(marker(CUPTI_ACTIVITY_FLAG_MARKER_INSTANTANEOUS, 3, 115, NULL), "", 115, 0);
	check_span(marker(START, 5, 150, "reduce"), "NCCL: reduce", 150, 40);
	check_span(marker(END, 1, 130, NULL), "outer", 100, 30);
	assert_int_equal(marker(START, 6, 200, "lost").event.type, 0);
	assert_int_equal(marker(START, 6, 300, "again").event.type, 0);
	check_span(marker(END, 6, 310, NULL), "again", 300, 10);
	assert_int_equal(marker(0, 7, 310, "neither").event.type, 0);
	assert_int_equal(records.open.count, 0);
}

static void a_long_name_is_cut(void **state)
{
	char name[3 * PROF_MAX_STRING];

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(marker(START, 5, 1, name).event.type, 0);
	assert_int_equal(strlen(marker(END, 5, 2, NULL).name), PROF_MAX_STRING);
}

static void ranges_that_never_end_cost_a_bounded_room(void **state)
{
	(void)state;
	for (uint32_t id = 1; id <= 100000; id++)
		assert_int_equal(marker(START, id, id, "open").event.type, 0);
	assert_in_range(records.open.count, 1000, 65536);
	check_span(marker(END, 1000, 2000, NULL), "open", 1000, 1000);
	prof_cupti_records_clear(&records);
	assert_int_equal(records.open.count, 0);
}

/* Kinds that are not enabled, kinds of later versions, and nonsense. */
static void other_kinds_are_passed_over(void **state)
{
	union {
		uint64_t align;
		uint8_t bytes[1024];
	} record;

	(void)state;
	for (unsigned kind = 0; kind < CUPTI_ACTIVITY_KIND_COUNT + 1000u; kind++) {
		const CUpti_ActivityKind head = kind;
		bool known = kind == CUPTI_ACTIVITY_KIND_KERNEL;
		for (size_t i = 0; prof_cupti_kinds[i]; i++)
			known |= prof_cupti_kinds[i] == kind;
		memset(&record, known ? 0 : 0xff, sizeof(record));
		memcpy(&record, &head, sizeof(head));
		enum kvs_event_type type = CONVERT(record).event.type;
		assert_true(known || type == 0);
	}
	assert_int_equal(records.open.count, 0);
}

/* ---- one call ---- */

static struct kvs_event call_of(CUpti_CallbackDomain domain, CUpti_CallbackId id, const void *params, int result)
{
	CUpti_CallbackData data = {
		.callbackSite = CUPTI_API_EXIT, .functionParams = params, .functionReturnValue = &result};
	const struct prof_cupti_function *function = prof_cupti_function_of(domain, id);
	struct kvs_event event;

	assert_non_null(function);
	memset(&event, 0x5a, sizeof(event));
	prof_cupti_call(function, &data, &event);
	assert_int_equal(event.type, KVS_EVENT_CALL);
	assert_int_equal(event.call.result, result);
	assert_int_equal(event.call.frame_count, 0);
	return event;
}

static void check_call(struct kvs_event event, const char *function, uint64_t address, uint64_t bytes, uint64_t handle)
{
	assert_string_equal(event.call.function, function);
	if (event.call.address != address || event.call.bytes != bytes || event.call.handle != handle)
		fail_msg("%s: address %#lx, bytes %lu, handle %#lx", function, event.call.address, event.call.bytes,
			event.call.handle);
}

#define NONE KVS_EVENT_NONE
/* The same call, successful and failed: a failed call has no outputs. */
#define CHECK(domain, cbid, params_of, name, fails, address, bytes, handle, failed_address, failed_handle, ...)        \
	do {                                                                                                           \
		params_of##_params params = {__VA_ARGS__};                                                             \
		check_call(call_of(domain, cbid, &params, 0), name, address, bytes, handle);                           \
		check_call(call_of(domain, cbid, &params, fails), name, failed_address, bytes, failed_handle);         \
	} while (0)
#define DRIVER(name, ...) CHECK(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_##name, name, #name, 2, __VA_ARGS__)
#define RUNTIME(name, driver, ...)                                                                                     \
	CHECK(CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_RUNTIME_TRACE_CBID_##name, name, driver, 2, __VA_ARGS__)

/* The driver makes rows longer; where it fails it says nothing of them. */
static void rows_are_as_long_as_the_driver_made_them(void **state)
{
	CUdeviceptr at = 0x7000;
	size_t pitch = 512;
	cuMemAllocPitch_v2_params driver = {&at, &pitch, 100, 3, 4};
	cudaMallocPitch_v3020_params runtime = {(void **)&at, &pitch, 100, 3};
	const CUpti_CallbackDomain domains[] = {CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_CB_DOMAIN_RUNTIME_API};
	const CUpti_CallbackId numbers[] = {
		CUPTI_DRIVER_TRACE_CBID_cuMemAllocPitch_v2, CUPTI_RUNTIME_TRACE_CBID_cudaMallocPitch_v3020};

	(void)state;
	for (int i = 0; i < 2; i++) {
		void *params = i ? (void *)&runtime : (void *)&driver;
		check_call(call_of(domains[i], numbers[i], params, 0), "cuMemAllocPitch_v2", 0x7000, 1536, NONE);
		check_call(call_of(domains[i], numbers[i], params, 2), "cuMemAllocPitch_v2", NONE, 300, NONE);
	}
}

static void each_call_has_its_arguments(void **state)
{
	CUdeviceptr at = 0x7000, *where = &at;
	void *host = (void *)0x8000, **host_at = &host;
	CUmemGenericAllocationHandle handle = 42, *made = &handle;
	CUmemoryPool pool = (CUmemoryPool)0x9000, *pool_made = &pool;
	CUstream stream = NULL;
	size_t pitch = 100;

	(void)state;
	DRIVER(cuMemAlloc_v2, 0x7000, 10, NONE, NONE, NONE, where, 10);
	DRIVER(cuMemAllocPitch_v2, 0x7000, 300, NONE, NONE, NONE, where, &pitch, 100, 3, 4);
	DRIVER(cuMemAllocManaged, 0x7000, 10, NONE, NONE, NONE, where, 10, 1);
	DRIVER(cuMemAllocAsync, 0x7000, 10, NONE, NONE, NONE, where, 10, stream);
	DRIVER(cuMemAllocAsync_ptsz, 0x7000, 10, NONE, NONE, NONE, where, 10, stream);
	DRIVER(cuMemAllocFromPoolAsync, 0x7000, 10, NONE, NONE, NONE, where, 10, pool, stream);
	DRIVER(cuMemAllocFromPoolAsync_ptsz, 0x7000, 10, NONE, NONE, NONE, where, 10, pool, stream);
	DRIVER(cuMemAllocHost_v2, 0x8000, 10, NONE, NONE, NONE, host_at, 10);
	DRIVER(cuMemHostAlloc, 0x8000, 10, NONE, NONE, NONE, host_at, 10, 0);
	CHECK(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemHostAlloc_v2, cuMemHostAlloc, "cuMemHostAlloc",
		2, 0x8000, 10, NONE, NONE, NONE, host_at, 10, 0);
	DRIVER(cuMemFree_v2, 0x7000, NONE, NONE, 0x7000, NONE, at);
	DRIVER(cuMemFreeAsync, 0x7000, NONE, NONE, 0x7000, NONE, at, stream);
	DRIVER(cuMemFreeAsync_ptsz, 0x7000, NONE, NONE, 0x7000, NONE, at, stream);
	DRIVER(cuMemFreeHost, 0x8000, NONE, NONE, 0x8000, NONE, host);
	DRIVER(cuMemAddressReserve, 0x7000, 10, NONE, NONE, NONE, where, 10, 2, 3, 4);
	DRIVER(cuMemAddressFree, 0x7000, 10, NONE, 0x7000, NONE, at, 10);
	DRIVER(cuMemCreate, NONE, 10, 42, NONE, NONE, made, 10, NULL, 0);
	DRIVER(cuMemRelease, NONE, NONE, 42, NONE, 42, handle);
	DRIVER(cuMemMap, 0x7000, 10, 42, 0x7000, 42, at, 10, 0, handle, 0);
	DRIVER(cuMemUnmap, 0x7000, 10, NONE, 0x7000, NONE, at, 10);
	DRIVER(cuMemSetAccess, 0x7000, 10, NONE, 0x7000, NONE, at, 10, NULL, 1);
	DRIVER(cuMemRetainAllocationHandle, NONE, NONE, 42, NONE, NONE, made, host);
	DRIVER(cuMemImportFromShareableHandle, NONE, NONE, 42, NONE, NONE, made, NULL, 0);
	DRIVER(cuMemPoolCreate, NONE, NONE, 0x9000, NONE, NONE, pool_made, NULL);
	DRIVER(cuMemPoolDestroy, NONE, NONE, 0x9000, NONE, 0x9000, pool);
	DRIVER(cuMemPoolTrimTo, NONE, 10, 0x9000, NONE, 0x9000, pool, 10);
	RUNTIME(cudaMalloc_v3020, "cuMemAlloc_v2", 0x8000, 10, NONE, NONE, NONE, host_at, 10);
	RUNTIME(cudaMallocPitch_v3020, "cuMemAllocPitch_v2", 0x8000, 300, NONE, NONE, NONE, host_at, &pitch, 100, 3);
	RUNTIME(cudaMallocManaged_v6000, "cuMemAllocManaged", 0x8000, 10, NONE, NONE, NONE, host_at, 10, 1);
	RUNTIME(cudaMallocAsync_v11020, "cuMemAllocAsync", 0x8000, 10, NONE, NONE, NONE, host_at, 10, stream);
	RUNTIME(cudaMallocAsync_ptsz_v11020, "cuMemAllocAsync_ptsz", 0x8000, 10, NONE, NONE, NONE, host_at, 10, stream);
	RUNTIME(cudaMallocFromPoolAsync_v11020, "cuMemAllocFromPoolAsync", 0x8000, 10, NONE, NONE, NONE, host_at, 10,
		pool, stream);
	RUNTIME(cudaMallocFromPoolAsync_ptsz_v11020, "cuMemAllocFromPoolAsync_ptsz", 0x8000, 10, NONE, NONE, NONE,
		host_at, 10, pool, stream);
	RUNTIME(cudaMallocHost_v3020, "cuMemAllocHost_v2", 0x8000, 10, NONE, NONE, NONE, host_at, 10);
	RUNTIME(cudaHostAlloc_v3020, "cuMemHostAlloc", 0x8000, 10, NONE, NONE, NONE, host_at, 10, 0);
	RUNTIME(cudaFree_v3020, "cuMemFree_v2", 0x8000, NONE, NONE, 0x8000, NONE, host);
	RUNTIME(cudaFreeAsync_v11020, "cuMemFreeAsync", 0x8000, NONE, NONE, 0x8000, NONE, host, stream);
	RUNTIME(cudaFreeAsync_ptsz_v11020, "cuMemFreeAsync_ptsz", 0x8000, NONE, NONE, 0x8000, NONE, host, stream);
	RUNTIME(cudaFreeHost_v3020, "cuMemFreeHost", 0x8000, NONE, NONE, 0x8000, NONE, host);
}

/* The caller may pass NULL for an output, and CUPTI may give no arguments at all. */
static void calls_without_arguments_are_recorded(void **state)
{
	cuMemAlloc_v2_params alloc = {NULL, 10};
	cuMemCreate_params create = {NULL, 10, NULL, 0};

	(void)state;
	check_call(call_of(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2, &alloc, 0),
		"cuMemAlloc_v2", NONE, 10, NONE);
	check_call(call_of(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemCreate, &create, 0), "cuMemCreate",
		NONE, 10, NONE);
	for (size_t i = 0; i < prof_cupti_function_count; i++)
		check_call(call_of(prof_cupti_functions[i].domain, prof_cupti_functions[i].id, NULL, 0),
			prof_cupti_functions[i].name, NONE, NONE, NONE);
	assert_null(prof_cupti_function_of(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel));
	assert_null(prof_cupti_function_of(CUPTI_CB_DOMAIN_RESOURCE, CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2));
}

/* NVIDIA's libcupti, where it can be loaded, has the same names for our callback ids. */
static void cupti_knows_the_functions_by_our_names(void **state)
{
	void *library = dlopen("/usr/local/cuda/lib64/libcupti.so", RTLD_NOW);
	__typeof__(cuptiGetCallbackName) *name_of =
		library ? (__typeof__(name_of))dlsym(library, "cuptiGetCallbackName") : NULL;

	(void)state;
	for (size_t i = 0; i < prof_cupti_function_count && name_of; i++) {
		const struct prof_cupti_function *function = &prof_cupti_functions[i];
		const char *name = NULL;
		if (name_of(function->domain, function->id, &name))
			continue; /* no driver */
		if (function->domain == CUPTI_CB_DOMAIN_DRIVER_API)
			assert_int_equal(strncmp(name, function->name, strcspn(function->name, "_")), 0);
		else
			assert_int_equal(strncmp(name, "cuda", 4), 0);
	}
	if (!name_of)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernels_become_events),
		cmocka_unit_test(the_newest_kernel_is_read_as_well),
		cmocka_unit_test(copies_and_fills_become_events),
		cmocka_unit_test(waits_become_calls),
		cmocka_unit_test(overheads_become_spans),
		cmocka_unit_test(ranges_have_two_ends),
		cmocka_unit_test(a_long_name_is_cut),
		cmocka_unit_test(ranges_that_never_end_cost_a_bounded_room),
		cmocka_unit_test(other_kinds_are_passed_over),
		cmocka_unit_test(each_call_has_its_arguments),
		cmocka_unit_test(rows_are_as_long_as_the_driver_made_them),
		cmocka_unit_test(calls_without_arguments_are_recorded),
		cmocka_unit_test(cupti_knows_the_functions_by_our_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	puts("built without cupti.h");
	return 77;
}
#endif
