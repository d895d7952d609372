/*
 * tools/preload/contexts.c: hooks of cuInit, and of contexts, with which all memory goes. The first forms of these calls are those of
 * CUDA 10 and older.
 */
#include "preload.h"

/* What a program has retained of a device's primary context, to know when it is about to go. */
#define MAX_DEVICES 64
static atomic_int retained[MAX_DEVICES];

CUresult CUDAAPI cuInit(unsigned int flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	const struct shim_real *driver = shim_real();

	if (!driver->cuInit)
		return SHIM_ABSENT;
	if (shim_settings()->broken && shim_settings()->strict)
		return CUDA_ERROR_INVALID_VALUE; /* the reason has been said */
	if (!shim_is_disabled()) {
		shim_stats_start();
		shim_profile_start();
	}
	return driver->cuInit(flags);
}

/* The primary context of a device; while it is not there, nobody makes it to ask. */
static bool primary_get(CUdevice device, CUcontext *out)
{
	const struct shim_real *driver = shim_real();
	unsigned flags;
	int active;

	return driver->cuDevicePrimaryCtxGetState && !driver->cuDevicePrimaryCtxGetState(device, &flags, &active) &&
	       active && !driver->cuDevicePrimaryCtxRetain(out, device);
}

/* One that cuCtxDestroy refuses, so its memory stays. */
static bool is_primary(CUcontext context)
{
	const struct shim_real *driver = shim_real();
	CUcontext primary, popped;
	CUdevice device;
	bool found;

	if (!driver->cuCtxPushCurrent_v2 || driver->cuCtxPushCurrent_v2(context))
		return false;
	found = !driver->cuCtxGetDevice(&device);
	driver->cuCtxPopCurrent_v2(&popped);
	if (!found || !primary_get(device, &primary))
		return false;
	driver->cuDevicePrimaryCtxRelease_v2(device);
	return primary == context;
}

/* What runs in it may still use its memory. */
static void context_leave(CUcontext context)
{
	bool waits;

	shim_captures_end(context);
	shim_cache_free_late();
	waits = shim_wait_begin();
	if (shim_cache_any() && waits)
		shim_context_wait(context);
	shim_cache_free_context(context);
	shim_wait_end(waits);
}

static CUresult context_destroy(CUcontext ctx, __typeof__(cuCtxDestroy) *call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	CUresult result;

	if (!call)
		return SHIM_ABSENT;
	if (ctx && !shim_settings()->off && !is_primary(ctx))
		context_leave(ctx);
	result = call(ctx);
	shim_kernels_stale();
	return result;
}

CUresult CUDAAPI cuCtxDestroy_v2(CUcontext ctx)
{
	return context_destroy(ctx, shim_real()->cuCtxDestroy_v2);
}

CUresult CUDAAPI cuCtxDestroy(CUcontext ctx)
{
	return context_destroy(ctx, shim_real()->cuCtxDestroy);
}

static bool is_counted(CUdevice device)
{
	return device >= 0 && device < MAX_DEVICES;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	const struct shim_real *driver = shim_real();
	CUresult result = driver->cuDevicePrimaryCtxRetain ? driver->cuDevicePrimaryCtxRetain(pctx, dev) : SHIM_ABSENT;

	if (!result && is_counted(dev))
		atomic_fetch_add(&retained[dev], 1);
	return result;
}

/* The primary context of a device, while somebody still retains it. */
static void primary_leave(CUdevice device)
{
	CUcontext context;

	if (shim_settings()->off || !primary_get(device, &context))
		return;
	context_leave(context);
	shim_real()->cuDevicePrimaryCtxRelease_v2(device);
}

static CUresult primary_release(CUdevice dev, __typeof__(cuDevicePrimaryCtxRelease) *call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	CUresult result;

	if (!call)
		return SHIM_ABSENT;
	if (is_counted(dev) && atomic_load(&retained[dev]) > 0 && atomic_fetch_sub(&retained[dev], 1) == 1)
		primary_leave(dev);
	result = call(dev);
	shim_kernels_stale();
	return result;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
	return primary_release(dev, shim_real()->cuDevicePrimaryCtxRelease_v2);
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice dev)
{
	return primary_release(dev, shim_real()->cuDevicePrimaryCtxRelease);
}

static CUresult primary_reset(CUdevice dev, __typeof__(cuDevicePrimaryCtxReset) *call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	CUresult result;

	if (!call)
		return SHIM_ABSENT;
	primary_leave(dev);
	result = call(dev);
	shim_kernels_stale();
	return result;
}

CUresult CUDAAPI cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
	return primary_reset(dev, shim_real()->cuDevicePrimaryCtxReset_v2);
}

CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice dev)
{
	return primary_reset(dev, shim_real()->cuDevicePrimaryCtxReset);
}
