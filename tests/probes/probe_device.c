/*
 * Memory, kernels and gates of the probes. Kernels are loaded by the first use, so that probes without any run where there
 * is no image of them.
 */
#include "probe.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- memory ---- */

size_t free_memory(void)
{
	size_t available = 0, total = 0;

	must(cu->cuMemGetInfo(&available, &total));
	return available;
}

CUmemGenericAllocationHandle handle_new(size_t bytes)
{
	CUmemGenericAllocationHandle handle = 0;

	must(cu->cuMemCreate(&handle, bytes, &prop, 0));
	return handle;
}

CUdeviceptr reservation_new(size_t bytes)
{
	CUdeviceptr at = 0;

	must(cu->cuMemAddressReserve(&at, bytes, granule, 0, 0));
	return at;
}

CUresult set_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags)
{
	CUmemAccessDesc access = {.location = prop.location, .flags = flags};

	return cu->cuMemSetAccess(at, bytes, &access, 1);
}

const char *access_name(CUdeviceptr at)
{
	unsigned long long flags = 0;
	CUresult result = cu->cuMemGetAccess(&flags, &prop.location, at);

	if (result)
		return error_name(result);
	if (flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
		return "read-write";
	return flags == CU_MEM_ACCESS_FLAGS_PROT_READ ? "read" : "none";
}

static struct range range_map(CUmemGenericAllocationHandle handle, size_t bytes, CUmemAccess_flags access)
{
	struct range r = {.at = reservation_new(bytes), .bytes = bytes, .handle = handle};

	must(cu->cuMemMap(r.at, r.bytes, 0, handle, 0));
	must(set_access(r.at, r.bytes, access));
	return r;
}

struct range range_new(size_t bytes)
{
	return range_map(handle_new(bytes), bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
}

struct range range_alias(const struct range *of, CUmemAccess_flags access)
{
	return range_map(of->handle, of->bytes, access);
}

void range_unmap(const struct range *r)
{
	must(cu->cuCtxSynchronize());
	must(cu->cuMemUnmap(r->at, r->bytes));
	must(cu->cuMemAddressFree(r->at, r->bytes));
}

void range_free(const struct range *r)
{
	range_unmap(r);
	must(cu->cuMemRelease(r->handle));
}

unsigned word_at(CUdeviceptr at)
{
	unsigned word = 0;

	must(cu->cuCtxSynchronize());
	must(cu->cuMemcpyDtoH(&word, at, sizeof(word)));
	return word;
}

/* ---- kernels ---- */

/* The whole file with a NUL behind it, or NULL with errno set. The caller frees it. */
static void *file_read(const char *path)
{
	FILE *file = fopen(path, "rbe");
	char *bytes = NULL;
	long size;

	if (!file)
		return NULL;
	if (!fseek(file, 0, SEEK_END) && (size = ftell(file)) >= 0 && (bytes = calloc(1, size + 1))) {
		rewind(file);
		if (fread(bytes, 1, size, file) != (size_t)size) {
			free(bytes);
			bytes = NULL;
		}
	}
	fclose(file);
	return bytes;
}

static CUmodule module_load(void)
{
	char path[PATH_MAX + 64] = {0};
	CUmodule module = NULL;
	void *image;

	if (readlink("/proc/self/exe", path, PATH_MAX) < 0)
		probe_fail("/proc/self/exe: %s", strerror(errno));
	strcpy(strrchr(path, '/'), cu->kind == KVS_DEVICE_HOST ? "/probe_kernels.so" : "/probe_kernels.fatbin");
	image = file_read(path);
	if (!image)
		probe_fail("%s: %s (`make probes-gpu` builds the kernels for a GPU)", path, strerror(errno));
	must(cu->cuModuleLoadData(&module, image));
	free(image);
	return module;
}

CUfunction probe_kernel(const char *name)
{
	static CUmodule module;
	CUfunction function = NULL;

	if (!module)
		module = module_load();
	must(cu->cuModuleGetFunction(&function, module, name));
	return function;
}

CUresult launch(CUfunction function, unsigned blocks, unsigned threads, CUstream stream, void **params)
{
	return cu->cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, params, NULL);
}

CUresult launch_fill(CUstream stream, CUdeviceptr out, unsigned value, size_t words)
{
	unsigned long long count = words;
	void *params[] = {&out, &value, &count};

	return launch(probe_kernel("probe_fill"), 4, 64, stream, params);
}

/* ---- gates ---- */

enum { GATE_STARTED, GATE_OPEN, GATE_OUTCOME, GATE_WORDS };
enum { START_MS = 5000 };

struct gate gate_new(void)
{
	void *words = NULL;

	must(cu->cuMemAllocHost(&words, GATE_WORDS * sizeof(unsigned)));
	memset(words, 0, GATE_WORDS * sizeof(unsigned));
	return (struct gate){words};
}

CUresult gate_launch(const struct gate *gate, CUstream stream, CUdeviceptr word, enum gate_touch touch)
{
	/* Some seconds either way: a look costs a nanosecond on the host, near a microsecond (PCIe) on a GPU. */
	unsigned long long looks = cu->kind == KVS_DEVICE_HOST ? 4ull << 30 : 4ull << 20;
	unsigned *words = gate->words;
	int how = touch;
	void *params[] = {&words, &looks, &word, &how};

	memset(words, 0, GATE_WORDS * sizeof(*words));
	return launch(probe_kernel("probe_gate"), 1, 1, stream, params);
}

void gate_await_start(const struct gate *gate)
{
	for (int ms = 0; !__atomic_load_n(&gate->words[GATE_STARTED], __ATOMIC_ACQUIRE); ms++) {
		if (ms == START_MS)
			probe_fail("the gate's kernel has not started within %d ms", START_MS);
		sleep_ms(1);
	}
}

void gate_open(const struct gate *gate)
{
	__atomic_store_n(&gate->words[GATE_OPEN], 1, __ATOMIC_RELEASE);
}

void gate_free(struct gate *gate)
{
	must(cu->cuMemFreeHost(gate->words));
	gate->words = NULL;
}

/* ---- gates that open by themselves ---- */

struct gate_timer {
	struct gate gate;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t called_off;
	struct timespec at;
	bool is_called_off, has_opened;
};

static void *timer_run(void *argument)
{
	struct gate_timer *timer = argument;
	int err = 0;

	pthread_mutex_lock(&timer->lock);
	while (!timer->is_called_off && !err)
		err = pthread_cond_timedwait(&timer->called_off, &timer->lock, &timer->at);
	timer->has_opened = !timer->is_called_off;
	if (timer->has_opened)
		gate_open(&timer->gate);
	pthread_mutex_unlock(&timer->lock);
	return NULL;
}

struct gate_timer *gate_open_later(const struct gate *gate, unsigned ms)
{
	struct gate_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		probe_fail("no memory for a timer");
	timer->gate = *gate;
	pthread_mutex_init(&timer->lock, NULL);
	pthread_cond_init(&timer->called_off, NULL);
	clock_gettime(CLOCK_REALTIME, &timer->at);
	timer->at.tv_nsec += ms % 1000 * 1000000L;
	timer->at.tv_sec += ms / 1000 + timer->at.tv_nsec / 1000000000L;
	timer->at.tv_nsec %= 1000000000L;
	if (pthread_create(&timer->thread, NULL, timer_run, timer))
		probe_fail("cannot start a thread");
	return timer;
}

bool gate_timer_join(struct gate_timer *timer)
{
	bool in_time;

	pthread_mutex_lock(&timer->lock);
	timer->is_called_off = true;
	pthread_cond_signal(&timer->called_off);
	pthread_mutex_unlock(&timer->lock);
	pthread_join(timer->thread, NULL);
	in_time = !timer->has_opened;
	pthread_cond_destroy(&timer->called_off);
	pthread_mutex_destroy(&timer->lock);
	free(timer);
	return in_time;
}
