/*
 * tools/preload/kernels.c: the kernels that the program launches: name, role and parameters, found once for each.
 *
 * Found again without a lock. A record is never freed, because another thread may be reading it; a module that is unloaded, or
 * a context that goes, makes all of them stale, as the driver may give a handle to another function. Stale ones are taken out
 * of their chain when another comes into it, and go on leading into it.
 */
#include "preload.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024
#define MAX_PARAMS 4096 /* more than fit in the 32 KiB that CUDA allows */

static _Atomic(struct shim_kernel *) buckets[BUCKETS];
static atomic_uint generation;
static struct shim_kernel *retired; /* keeps those that are out of the chains reachable */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t bucket_of(CUfunction function)
{
	return ((uintptr_t)function * UINT64_C(0x9e3779b97f4a7c15)) >> 54;
}

/* The runtime launches a CUkernel in the place of a CUfunction. */
static const char *name_get(CUfunction function)
{
	const struct shim_real *driver = shim_real();
	const char *name = NULL;

	if (driver->cuFuncGetName && !driver->cuFuncGetName(&name, function))
		return name;
	if (driver->cuKernelGetName && !driver->cuKernelGetName(&name, (CUkernel)function))
		return name;
	return NULL;
}

static bool param_get(CUfunction function, size_t index, struct shim_param *out)
{
	const struct shim_real *driver = shim_real();

	if (driver->cuFuncGetParamInfo && !driver->cuFuncGetParamInfo(function, index, &out->offset, &out->bytes))
		return true;
	return driver->cuKernelGetParamInfo &&
	       !driver->cuKernelGetParamInfo((CUkernel)function, index, &out->offset, &out->bytes);
}

static struct shim_kernel *kernel_create(CUfunction function)
{
	unsigned now = atomic_load(&generation); /* before all that is asked, which may become stale meanwhile */
	const char *name = name_get(function);
	struct shim_param param;
	struct shim_kernel *kernel;
	size_t count = 0;

	if (!name || !shim_real()->cuFuncGetParamInfo)
		return NULL;
	while (count < MAX_PARAMS && param_get(function, count, &param))
		count++;
	kernel = calloc(1, sizeof(*kernel) + count * sizeof(*kernel->param));
	if (kernel)
		kernel->name = strdup(name);
	if (!kernel || !kernel->name) {
		free(kernel);
		return NULL;
	}
	kernel->function = function;
	kernel->generation = now;
	kernel->role = shim_role_of(name, &kernel->written);
	for (kernel->param_count = 0; kernel->param_count < count; kernel->param_count++) {
		param_get(function, kernel->param_count, &kernel->param[kernel->param_count]);
		param = kernel->param[kernel->param_count];
		if (param.offset + param.bytes > kernel->param_bytes)
			kernel->param_bytes = param.offset + param.bytes;
	}
	return kernel;
}

static struct shim_kernel *kernel_find(CUfunction function)
{
	struct shim_kernel *kernel = atomic_load_explicit(&buckets[bucket_of(function)], memory_order_acquire);
	unsigned now = atomic_load_explicit(&generation, memory_order_relaxed);

	while (kernel && (kernel->function != function || kernel->generation != now))
		kernel = atomic_load_explicit(&kernel->next, memory_order_acquire);
	return kernel;
}

/* Those that may have faulted stay, to be named. */
static void stale_retire(_Atomic(struct shim_kernel *) *link)
{
	unsigned now = atomic_load(&generation);
	struct shim_kernel *kernel;

	while ((kernel = atomic_load(link))) {
		if (kernel->generation == now || atomic_load(&kernel->touched)) {
			link = &kernel->next;
			continue;
		}
		atomic_store_explicit(link, atomic_load(&kernel->next), memory_order_release);
		kernel->retired = retired;
		retired = kernel;
	}
}

struct shim_kernel *shim_kernel_of(CUfunction function)
{
	struct shim_kernel *kernel = kernel_find(function);
	size_t bucket = bucket_of(function);

	if (kernel)
		return kernel;
	pthread_mutex_lock(&lock);
	kernel = kernel_find(function);
	if (!kernel) {
		kernel = kernel_create(function);
		if (kernel) {
			stale_retire(&buckets[bucket]);
			atomic_store(&kernel->next, atomic_load(&buckets[bucket]));
			atomic_store_explicit(&buckets[bucket], kernel, memory_order_release);
		}
	}
	pthread_mutex_unlock(&lock);
	return kernel;
}

void shim_kernels_stale(void)
{
	atomic_fetch_add(&generation, 1);
}

void shim_kernels_forget(void)
{
	pthread_mutex_init(&lock, NULL);
}

void shim_kernels_touched(void (*tell)(void *arg, const struct shim_kernel *kernel), void *arg)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct shim_kernel *kernel = atomic_load(&buckets[i]); kernel; kernel = atomic_load(&kernel->next))
			if (atomic_load(&kernel->touched))
				tell(arg, kernel);
}
