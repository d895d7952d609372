/*
 * profiler/cupti/process.c: describes this process, its device and the device's memory.
 *
 * The driver is the libcuda.so.1 that the process has already loaded. No function is called that initializes it or waits.
 */
#include "process.h"

#include <cuda.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* clang-format off */
#define DRIVER_FUNCTIONS(F)                                                                                            \
	F(cuDriverGetVersion) F(cuCtxGetDevice) F(cuDeviceGetName) F(cuDeviceTotalMem) F(cuMemGetInfo)
/* clang-format on */

static struct {
#define MEMBER(name) __typeof__(name) *name;
	DRIVER_FUNCTIONS(MEMBER)
#undef MEMBER
	bool is_there, softcuda;
} driver;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

#define AS_TEXT(name) #name
#define NAME_OF(name) AS_TEXT(name) /* cuda.h's macros add the version */
static void find_driver(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);

	if (!library)
		return;
	driver.is_there = true;
#define FIND(name)                                                                                                     \
	driver.name = (__typeof__(name) *)dlsym(library, NAME_OF(name));                                               \
	driver.is_there &= driver.name != NULL;
	DRIVER_FUNCTIONS(FIND)
#undef FIND
	driver.softcuda = dlsym(library, "softcuda_get_counters") != NULL;
}

static bool has_driver(void)
{
	pthread_once(&driver_once, find_driver);
	return driver.is_there;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

uint64_t prof_cupti_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

void prof_cupti_describe_process(struct prof_cupti_process *out, bool has_context)
{
	struct kvs_event *event = &out->event;
	int version = 0;
	size_t bytes = 0;
	CUdevice device;

	kvs_process_command(getpid(), out->command, sizeof(out->command));
	out->device[0] = '\0';
	if (has_context && has_driver() && !driver.cuCtxGetDevice(&device)) {
		if (driver.cuDeviceGetName(out->device, sizeof(out->device), device))
			out->device[0] = '\0';
		if (driver.cuDeviceTotalMem(&bytes, device))
			bytes = 0;
		if (driver.cuDriverGetVersion(&version))
			version = 0;
	}
	*event = (struct kvs_event){.type = KVS_EVENT_PROCESS,
		.pid = getpid(),
		.tid = getpid(),
		.time_ns = clock_ns(CLOCK_MONOTONIC),
		.process = {.source = KVS_SOURCE_CUPTI,
			.command = out->command,
			.device = out->device,
			.parent = getppid(),
			.driver_version = version,
			.device_bytes = bytes,
			.wall_ns = clock_ns(CLOCK_REALTIME),
			/* softcuda takes pages; NVIDIA's driver does not say. */
			.unit_bytes = has_driver() && driver.softcuda ? (uint64_t)sysconf(_SC_PAGESIZE) : 0}};
}

bool prof_cupti_device_memory(struct kvs_event *out)
{
	size_t available = 0, total = 0;

	if (!has_driver() || driver.cuMemGetInfo(&available, &total))
		return false;
	*out = (struct kvs_event){.type = KVS_EVENT_DEVICE,
		.pid = getpid(),
		.tid = gettid(),
		.time_ns = clock_ns(CLOCK_MONOTONIC),
		.device = {.free_bytes = available, .total_bytes = total}};
	return true;
}
