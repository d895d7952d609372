/*
 * tools/preload/profile.c: tells the profiler what the shim does, where KVSHARE_PROFILE names a trace: the calls that make and
 * share blocks, the program's own allocations, and which memory is K or V of which layer.
 *
 * Calls of the engine's table are heard through its observer; those of the program pass by hooks, which tell them here.
 */
#include "preload.h"

#include "../../profiler/profiler.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static kvs_trace *trace; /* NULL: nobody listens; open until the process ends, as other threads may add to it */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void add(struct kvs_event *event)
{
	event->pid = getpid();
	event->tid = syscall(SYS_gettid);
	if (!event->time_ns)
		event->time_ns = clock_ns(CLOCK_MONOTONIC);
	kvs_trace_add(trace, event);
}

/* ---- the engine's calls ---- */

/* Which argument is what in the functions that the report follows; -1: none. `out`: it is a pointer to the result. */
static const struct shape {
	enum kvs_cu_function function;
	const char *name;
	int address, bytes, handle;
	bool out;
} shapes[] = {
	{KVS_FN_cuMemAddressReserve, "cuMemAddressReserve", 0, 1, -1, true},
	{KVS_FN_cuMemAddressFree, "cuMemAddressFree", 0, 1, -1, false},
	{KVS_FN_cuMemCreate, "cuMemCreate", -1, 1, 0, true},
	{KVS_FN_cuMemRelease, "cuMemRelease", -1, -1, 0, false},
	{KVS_FN_cuMemMap, "cuMemMap", 0, 1, 3, false},
	{KVS_FN_cuMemUnmap, "cuMemUnmap", 0, 1, -1, false},
	{KVS_FN_cuMemSetAccess, "cuMemSetAccess", 0, 1, -1, false},
};
#define SHAPE_COUNT (sizeof(shapes) / sizeof(*shapes))

/* Addresses, sizes and handles are all 64 bits wide. */
static uint64_t argument(const struct kvs_cu_call *call, int index, bool out)
{
	if (index < 0 || (out && call->result))
		return KVS_EVENT_NONE;
	return out ? **(uint64_t *const *)call->args[index] : *(const uint64_t *)call->args[index];
}

static void hear(void *arg, const struct kvs_cu_call *call)
{
	const struct shape *shape = shapes;
	struct kvs_event event = {.type = KVS_EVENT_CALL, .time_ns = call->start_ns};

	(void)arg;
	if (!call->after)
		return;
	while (shape->function != call->function)
		shape++;
	event.call.function = shape->name;
	event.call.duration_ns = call->nanoseconds;
	event.call.result = call->result;
	event.call.address = argument(call, shape->address, shape->out && shape->address == 0);
	event.call.bytes = argument(call, shape->bytes, false);
	event.call.handle = argument(call, shape->handle, shape->out && shape->handle == 0);
	add(&event);
}

void shim_profile_engine(kvs_cu *cu)
{
	enum kvs_cu_function functions[SHAPE_COUNT];
	kvs_cu_observer *observer; /* ends with the table */

	if (!trace)
		return;
	for (size_t i = 0; i < SHAPE_COUNT; i++)
		functions[i] = shapes[i].function;
	if (kvs_cu_observe(cu, functions, SHAPE_COUNT, hear, NULL, &observer))
		shim_say("the trace lacks what is shared: %s", kvs_error());
}

/* ---- what the hooks tell ---- */

void shim_profile_call(const char *function, CUresult result, CUdeviceptr address, size_t bytes, uint64_t start_ns)
{
	struct kvs_event event = {.type = KVS_EVENT_CALL,
		.time_ns = start_ns,
		.call = {.function = function,
			.duration_ns = clock_ns(CLOCK_MONOTONIC) - start_ns,
			.result = result,
			.address = address,
			.bytes = bytes ? bytes : KVS_EVENT_NONE,
			.handle = KVS_EVENT_NONE}};

	if (trace)
		add(&event);
}

uint64_t shim_profile_time(void)
{
	return trace ? clock_ns(CLOCK_MONOTONIC) : 0;
}

void shim_profile_label(CUdeviceptr address, size_t bytes, enum kvs_k_or_v which, int layer, int owner)
{
	struct kvs_event event = {.type = KVS_EVENT_LABEL,
		.label = {address, bytes, which == KVS_V ? KVS_MEMORY_V : KVS_MEMORY_K, layer, owner}};

	if (trace)
		add(&event);
}

void shim_profile_sink(CUdeviceptr address, size_t bytes)
{
	struct kvs_event event = {.type = KVS_EVENT_LABEL, .label = {address, bytes, KVS_MEMORY_SINK, -1, -1}};

	if (trace)
		add(&event);
}

/* ---- beginning and end ---- */

static void introduce(void)
{
	char command[512];
	struct kvs_event event = {.type = KVS_EVENT_PROCESS,
		.process = {.source = KVS_SOURCE_OURS,
			.command = command,
			.device = "",
			.parent = getppid(),
			.wall_ns = clock_ns(CLOCK_REALTIME),
			/* softcuda takes pages; NVIDIA's driver does not say. */
			.unit_bytes = shim_real_symbol(NULL, "softcuda_get_counters") ? sysconf(_SC_PAGESIZE) : 0}};

	kvs_process_command(getpid(), command, sizeof(command));
	add(&event);
}

static void stop(void)
{
	struct kvs_event event = {.type = KVS_EVENT_EXIT, .exit = {.status = -1}};

	add(&event);
	if (kvs_trace_flush(trace))
		shim_say("the trace is not whole: %s", kvs_error());
}

static void start(void)
{
	const char *path = getenv("KVSHARE_PROFILE"), *limit = getenv("KVSHARE_PROFILE_MAX_BYTES");
	const struct kvs_trace_options options = {.append = true, .max_bytes = limit ? strtoull(limit, NULL, 10) : 0};

	if (!path || !*path)
		return;
	if (kvs_trace_open(path, &options, &trace)) {
		shim_say("nothing is recorded: %s", kvs_error());
		return;
	}
	introduce();
	atexit(stop);
}

void shim_profile_start(void)
{
	pthread_once(&once, start);
}
