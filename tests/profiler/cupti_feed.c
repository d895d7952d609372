/*
 * tests/profiler/cupti_feed.c: softcuda as a driver that CUPTI hears. Linked with softcuda's own objects, whose functions are
 * renamed to soft_..., it stands before those that allocate, map and free, and passes each call on to the fake libcupti
 * (cupti_fake.c) that the process has loaded, with the arguments as CUPTI has them. So the CUPTI source can be counted beside
 * the others in any program. build.mk renames what is listed here by FED.
 *
 * FEED_KERNELS=1: the fake also gets a record of each kernel; softcuda tells one listener alone.
 */
#include "../../driver/softcuda/state.h"
#include "cupti_fake.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static const struct cupti_fake *_Atomic fake;

#define MOST_NAMES 64

/* As with CUPTI, a name outlives its module; softcuda calls on one thread at a time. */
static const char *kept(const char *name)
{
	static char *names[MOST_NAMES];
	unsigned i = 0;

	while (i < MOST_NAMES && names[i] && strcmp(names[i], name))
		i++;
	if (i < MOST_NAMES && !names[i])
		names[i] = strdup(name);
	return i < MOST_NAMES ? names[i] : "one of many";
}

/* On softcuda's threads. */
static void feed_kernel(void *arg, const char *name, CUstream stream, uint64_t start_ns, uint64_t end_ns)
{
	const struct cupti_fake *to = arg;
	CUpti_ActivityKernel9 record = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
		.streamId = (uint32_t)(uintptr_t)stream,
		.start = start_ns,
		.end = end_ns,
		.name = kept(name)};

	to->record(&record, sizeof(record));
}

/* It is loaded by cuInit, with the library that subscribes. NULL: not yet, or nobody wants one. */
static const struct cupti_fake *find_fake(void)
{
	const char *path = getenv("KVSHARE_CUPTI");
	void *library = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
	__typeof__(cupti_fake) *controls = library ? (__typeof__(cupti_fake) *)dlsym(library, "cupti_fake") : NULL;

	if (!controls)
		return NULL;
	if (!atomic_exchange(&fake, controls()) && getenv("FEED_KERNELS"))
		softcuda_on_kernel(feed_kernel, (void *)controls());
	return controls();
}

struct fed {
	const struct cupti_fake *to;
	CUpti_CallbackId id;
	uint64_t correlation;
	CUresult result;
	CUpti_CallbackData data;
};

static void tell(struct fed *fed, CUpti_ApiCallbackSite site)
{
	fed->data.callbackSite = site;
	if (fed->to)
		fed->to->call(CUPTI_CB_DOMAIN_DRIVER_API, fed->id, &fed->data);
}

static void begin(struct fed *fed, CUpti_CallbackId id, const void *params)
{
	fed->to = atomic_load(&fake) ? atomic_load(&fake) : find_fake();
	fed->id = id;
	fed->data.functionParams = params;
	fed->data.functionReturnValue = &fed->result;
	fed->data.correlationData = &fed->correlation;
	fed->data.context = (CUcontext)sc_context_current();
	tell(fed, CUPTI_API_ENTER);
}

/* clang-format off */
#define FED(name, parameters, ...)                                                                                     \
	CUresult CUDAAPI soft_##name parameters;                                                                       \
	CUresult CUDAAPI name parameters                                                                               \
	{                                                                                                              \
		name##_params p = {__VA_ARGS__};                                                                       \
		struct fed fed = {0};                                                                                  \
                                                                                                                       \
		begin(&fed, CUPTI_DRIVER_TRACE_CBID_##name, &p);                                                       \
		fed.result = soft_##name(__VA_ARGS__);                                                                 \
		tell(&fed, CUPTI_API_EXIT);                                                                            \
		return fed.result;                                                                                     \
	}

FED(cuMemAlloc_v2, (CUdeviceptr *out, size_t bytes), out, bytes)
FED(cuMemAllocPitch_v2, (CUdeviceptr *out, size_t *pitch, size_t width, size_t rows, unsigned element), out, pitch, width,
	rows, element)
FED(cuMemAllocManaged, (CUdeviceptr *out, size_t bytes, unsigned flags), out, bytes, flags)
FED(cuMemAllocAsync, (CUdeviceptr *out, size_t bytes, CUstream stream), out, bytes, stream)
FED(cuMemAllocFromPoolAsync, (CUdeviceptr *out, size_t bytes, CUmemoryPool pool, CUstream stream), out, bytes, pool, stream)
FED(cuMemFree_v2, (CUdeviceptr address), address)
FED(cuMemFreeAsync, (CUdeviceptr address, CUstream stream), address, stream)
FED(cuMemAllocHost_v2, (void **out, size_t bytes), out, bytes)
FED(cuMemHostAlloc, (void **out, size_t bytes, unsigned flags), out, bytes, flags)
FED(cuMemFreeHost, (void *address), address)
FED(cuMemAddressReserve, (CUdeviceptr *out, size_t bytes, size_t alignment, CUdeviceptr hint, unsigned long long flags), out,
	bytes, alignment, hint, flags)
FED(cuMemAddressFree, (CUdeviceptr address, size_t bytes), address, bytes)
FED(cuMemCreate, (CUmemGenericAllocationHandle *out, size_t bytes, const CUmemAllocationProp *prop, unsigned long long flags),
	out, bytes, prop, flags)
FED(cuMemRelease, (CUmemGenericAllocationHandle handle), handle)
FED(cuMemMap,
	(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags),
	address, bytes, offset, handle, flags)
FED(cuMemUnmap, (CUdeviceptr address, size_t bytes), address, bytes)
FED(cuMemSetAccess, (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count), address, bytes, access,
	count)
FED(cuMemRetainAllocationHandle, (CUmemGenericAllocationHandle *out, void *address), out, address)
/* clang-format on */
