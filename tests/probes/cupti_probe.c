/*
 * What CUPTI tells of memory, and what it takes itself.
 *
 * Each way to get memory is done some times with memory records (CUPTI_ACTIVITY_KIND_MEMORY2) and driver callbacks on. `records`
 * counts allocations and releases that the records tell of, `callbacks` the calls that the callbacks saw. The rows of cost launch
 * an empty kernel; `device_kib` is what the driver's free memory lost when CUPTI was switched on. Needs libcupti at run time and
 * its header when it is built.
 */
#include "probe.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<cupti.h>)
#include <cupti.h>

#define TIMES 20
#define LAUNCHES 2000
#define BUFFER_BYTES (1 << 20)

/* clang-format off */
#define CUPTI_FUNCTIONS(F)                                                                                             \
	F(cuptiSubscribe)                                                                                              \
	F(cuptiUnsubscribe) F(cuptiEnableDomain) F(cuptiActivityRegisterCallbacks) F(cuptiActivityEnable)              \
		F(cuptiActivityDisable) F(cuptiActivityFlushAll) F(cuptiActivityGetNextRecord)                         \
			F(cuptiActivitySetAttribute)
/* clang-format on */
#define CUPTI_MEMBER(name) static __typeof__(name) *p_##name;
CUPTI_FUNCTIONS(CUPTI_MEMBER)

static size_t allocations, releases, kernels, callbacks;
static const char *watched; /* callbacks count calls whose name starts so */

static void must_cupti(CUptiResult result, const char *what)
{
	if (result != CUPTI_SUCCESS)
		probe_fail("CUPTI: %s: error %d", what, (int)result);
}

static void CUPTIAPI on_call(void *arg, CUpti_CallbackDomain domain, CUpti_CallbackId id, const void *data)
{
	const CUpti_CallbackData *call = data;

	(void)arg, (void)domain, (void)id;
	if (call->callbackSite == CUPTI_API_ENTER && watched && !strncmp(call->functionName, watched, strlen(watched)))
		callbacks++;
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *bytes, size_t *records)
{
	*bytes = BUFFER_BYTES;
	*records = 0;
	*buffer = aligned_alloc(8, BUFFER_BYTES);
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid)
{
	CUpti_Activity *record = NULL;

	(void)context, (void)stream, (void)bytes;
	while (p_cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
		if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
			kernels++;
		if (record->kind != CUPTI_ACTIVITY_KIND_MEMORY2)
			continue;
		if (((CUpti_ActivityMemory4 *)record)->memoryOperationType ==
			CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION)
			allocations++;
		else
			releases++;
	}
	free(buffer);
}

static bool library_open(void)
{
	static const char *const names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so",
		"/usr/local/cuda/extras/CUPTI/lib64/libcupti.so", "/usr/local/cuda/lib64/libcupti.so"};
	void *library = NULL;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !library; i++)
		library = dlopen(names[i], RTLD_NOW | RTLD_NODELETE);
#define CUPTI_LOAD(name)                                                                                               \
	p_##name = library ? (__typeof__(name) *)dlsym(library, #name) : NULL;                                         \
	if (!p_##name)                                                                                                 \
		return false;
	CUPTI_FUNCTIONS(CUPTI_LOAD)
	return true;
}

/* ---- ways to get memory ---- */

static void by_alloc(void)
{
	CUdeviceptr at;

	must(cu->cuMemAlloc(&at, granule));
	must(cu->cuMemFree(at));
}

static void by_host(void)
{
	void *at;

	must(cu->cuMemAllocHost(&at, 1 << 16));
	must(cu->cuMemFreeHost(at));
}

static void by_async(void)
{
	__typeof__(cuMemAllocAsync) *alloc = driver_function(cuMemAllocAsync);
	__typeof__(cuMemFreeAsync) *release = driver_function(cuMemFreeAsync);
	CUdeviceptr at;

	if (!alloc || !release)
		return;
	must(alloc(&at, granule, NULL));
	must(release(at, NULL));
	must(cu->cuCtxSynchronize());
}

static void by_create(void)
{
	must(cu->cuMemRelease(handle_new(granule)));
}

static void by_map(void)
{
	struct range r = range_new(granule);

	range_free(&r);
}

static void memory_row(const char *what, const char *function, void (*once)(void))
{
	allocations = releases = callbacks = 0;
	watched = function;
	for (int i = 0; i < TIMES; i++)
		once();
	must_cupti(p_cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flush");
	watched = NULL;
	probe_row("%s\t%s\t%d\t%zu\t%zu\t%zu", what, function, TIMES, allocations, releases, callbacks);
}

/* ---- what it costs ---- */

static double launch_us(CUfunction nothing)
{
	double samples[5];

	for (int round = 0; round < 5; round++) {
		double start = now_us();
		for (int i = 0; i < LAUNCHES; i++)
			must(launch(nothing, 1, 32, NULL, (void *[]){&(CUdeviceptr){0}, &(unsigned){0}, &(size_t){0}}));
		must(cu->cuCtxSynchronize());
		samples[round] = (now_us() - start) / LAUNCHES;
	}
	return percentile(samples, 5, 50);
}

static void cost_row(const char *what, double us, size_t free_before, size_t seen)
{
	long long kib = ((long long)free_before - (long long)free_memory()) / 1024;

	probe_row("%s\tcuLaunchKernel\t%d\t%zu\t\t\t%.3f\t%lld", what, 5 * LAUNCHES, seen, us, kib);
}

static void run(void)
{
	CUpti_SubscriberHandle subscriber;
	CUfunction fill = probe_kernel("probe_fill");
	size_t free_before, host_pinned = 1, bytes = sizeof(host_pinned);
	double us;

	(void)launch_us(fill); /* whatever the first launches set up is not CUPTI's */
	free_before = free_memory();
	us = launch_us(fill);
	cost_row("launches, no CUPTI", us, free_before, 0);
	if (cu->kind == KVS_DEVICE_HOST || !library_open()) {
		probe_row(cu->kind == KVS_DEVICE_HOST ? "CUPTI sees NVIDIA's driver alone" : "no libcupti here");
		return;
	}
	must_cupti(p_cuptiSubscribe(&subscriber, on_call, NULL), "subscribe (is another profiler there?)");
	must_cupti(p_cuptiEnableDomain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API), "driver callbacks");
	cost_row("launches, driver callbacks", launch_us(fill), free_before, 0);
	must_cupti(
		p_cuptiActivitySetAttribute(CUPTI_ACTIVITY_ATTR_MEM_ALLOCATION_TYPE_HOST_PINNED, &bytes, &host_pinned),
		"host-pinned buffers");
	must_cupti(p_cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "buffers");
	must_cupti(p_cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMORY2), "memory records");

	memory_row("cuMemAlloc, cuMemFree", "cuMemAlloc", by_alloc);
	memory_row("cuMemAllocHost, cuMemFreeHost", "cuMemAllocHost", by_host);
	memory_row("cuMemAllocAsync, cuMemFreeAsync", "cuMemAllocAsync", by_async);
	memory_row("cuMemCreate, cuMemRelease", "cuMemCreate", by_create);
	memory_row("reserve, create, map, set-access and back", "cuMemMap", by_map);

	must_cupti(p_cuptiEnableDomain(0, subscriber, CUPTI_CB_DOMAIN_DRIVER_API), "callbacks off");
	must_cupti(p_cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "kernel records");
	kernels = 0;
	us = launch_us(fill);
	must_cupti(p_cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flush");
	cost_row("launches, kernel records", us, free_before, kernels);
	must_cupti(p_cuptiUnsubscribe(subscriber), "unsubscribe");
}
#else
static void run(void)
{
	probe_row("built without cupti.h");
}
#endif

static const char *const columns[] = {
	"what", "function", "times", "records", "release_records", "callbacks", "us_each", "device_kib", NULL};
static const struct probe probe = {
	.name = "cupti",
	.question = "Which memory do CUPTI's records and callbacks show, and what does CUPTI cost?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
