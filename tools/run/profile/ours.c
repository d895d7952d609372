/*
 * tools/run/profile/ours.c: the source "ours": kvshare-run watches itself.
 *
 * The table of the driver is observed, so every call is seen with its arguments; the engine tells what its memory is for and
 * what it works at. softcuda, our driver, also tells when each kernel ran; on a GPU only CUPTI knows that.
 */
#include "profile.h"

#include "../../../profiler/profiler.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEVICE_PERIOD_NS 250000000 /* cuMemGetInfo asks the kernel driver: not for each token */

/* The layers of kernels that were launched and have not run yet, in order: softcuda tells of a kernel by name alone. */
struct launches {
	pthread_mutex_t lock;
	struct launch {
		CUstream stream;
		int layer;
		uint32_t link;
	} * list; /* a ring of `room` places */
	size_t room, first, count;
	uint32_t link; /* of the last one; numbers start again after 2^32 of them */
};

struct run_profile {
	kvs_trace *trace;
	kvs_cu unseen; /* the table before it was observed: for calls of the profile's own */
	kvs_cu_observer *observer;
	uint32_t pid;
	uint64_t device_ns; /* when the device's memory was asked for last */
	bool hears_kernels;
	int layer; /* that is being launched, -1: none; on the thread that calls the engine */
	struct launches launches;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static uint32_t thread_id(void)
{
	static __thread uint32_t id;

	if (!id)
		id = syscall(SYS_gettid);
	return id;
}

static void add(struct run_profile *p, struct kvs_event *event)
{
	event->pid = p->pid;
	event->tid = thread_id();
	if (!event->time_ns)
		event->time_ns = clock_ns(CLOCK_MONOTONIC);
	kvs_trace_add(p->trace, event);
}

/* What happens often is not set to zero first: an event has room for a histogram, half a KiB. */
static void begin(struct kvs_event *event, enum kvs_event_type type, uint32_t link, uint64_t time_ns)
{
	event->type = type;
	event->link = link;
	event->time_ns = time_ns;
}

#define ARG(call, type, i) (*(const type *)(call)->args[i])

/* ---- kernels ---- */

/* Gives the number by which the launch and its kernel are known. */
static uint32_t push_launch(struct launches *l, struct launch launch)
{
	pthread_mutex_lock(&l->lock);
	launch.link = ++l->link ? l->link : ++l->link;
	if (l->count == l->room) {
		size_t room = l->room ? 2 * l->room : 256;
		struct launch *larger = malloc(room * sizeof(*larger));
		for (size_t i = 0; larger && i < l->count; i++)
			larger[i] = l->list[(l->first + i) % l->room];
		if (larger) {
			free(l->list);
			l->list = larger;
			l->room = room;
			l->first = 0;
		}
	}
	if (l->count < l->room) /* else its kernel gets another's layer: memory is short, and the work goes on */
		l->list[(l->first + l->count++) % l->room] = launch;
	pthread_mutex_unlock(&l->lock);
	return launch.link;
}

/* The launch that was refused is the last. */
static void drop_launch(struct launches *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->count)
		l->count--;
	pthread_mutex_unlock(&l->lock);
}

static struct launch take_launch(struct launches *l, CUstream stream)
{
	struct launch launch = {stream, -1, 0};

	pthread_mutex_lock(&l->lock);
	if (l->count && l->list[l->first].stream == stream) {
		launch = l->list[l->first];
		l->first = (l->first + 1) % l->room;
		l->count--;
	}
	pthread_mutex_unlock(&l->lock);
	return launch;
}

static void hear_kernel(void *arg, const char *name, CUstream stream, uint64_t start_ns, uint64_t end_ns)
{
	struct run_profile *p = arg;
	struct launch launch = take_launch(&p->launches, stream);
	struct kvs_event event;

	begin(&event, KVS_EVENT_KERNEL, launch.link, start_ns);
	event.kernel = (__typeof__(event.kernel)){
		.name = strcmp(name, "a host function") ? name : "OpenBLAS gemm", /* the engine has no others */
		.duration_ns = end_ns - start_ns,
		.stream = (uintptr_t)stream,
		.layer = launch.layer};
	add(p, &event);
}

/* Before the call, as the kernel may run before it returns. Gives the link of a launch; 0: it is none. */
static uint32_t note_launch(struct run_profile *p, const struct kvs_cu_call *call)
{
	static __thread uint32_t link; /* of the launch that this thread is in */
	bool kernel = call->function == KVS_FN_cuLaunchKernel;

	if (!p->hears_kernels || (!kernel && call->function != KVS_FN_cuLaunchHostFunc))
		return 0;
	if (!call->after)
		link = push_launch(&p->launches, (struct launch){ARG(call, CUstream, kernel ? 8 : 0), p->layer, 0});
	else if (call->result)
		drop_launch(&p->launches);
	return link;
}

/* ---- calls ---- */

/* Names as the driver exports them: cuda.h makes cuMemAlloc a macro for cuMemAlloc_v2. */
#define TEXT_OF(symbol) #symbol
#define EXPORTED(name) [KVS_FN_##name] = TEXT_OF(name),
static const char *const exported[KVS_FN_COUNT] = {KVS_CU_FUNCTIONS(EXPORTED)};
#undef EXPORTED

/* What a call made, used or freed, as docs/trace.md has it for each function. */
static void describe(const struct kvs_cu_call *call, struct kvs_event *event)
{
	switch (call->function) {
	case KVS_FN_cuMemAlloc:
		event->call.address = *ARG(call, CUdeviceptr *, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemAllocHost:
		event->call.address = (uintptr_t)*ARG(call, void **, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemFree:
		event->call.address = ARG(call, CUdeviceptr, 0);
		break;
	case KVS_FN_cuMemHostRegister:
		event->call.address = (uintptr_t)ARG(call, void *, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemFreeHost:
	case KVS_FN_cuMemHostUnregister:
		event->call.address = (uintptr_t)ARG(call, void *, 0);
		break;
	case KVS_FN_cuMemAddressReserve:
		event->call.address = *ARG(call, CUdeviceptr *, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemAddressFree:
	case KVS_FN_cuMemUnmap:
	case KVS_FN_cuMemSetAccess:
		event->call.address = ARG(call, CUdeviceptr, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemCreate:
		event->call.handle = *ARG(call, CUmemGenericAllocationHandle *, 0);
		event->call.bytes = ARG(call, size_t, 1);
		break;
	case KVS_FN_cuMemRetainAllocationHandle:
		event->call.handle = *ARG(call, CUmemGenericAllocationHandle *, 0);
		break;
	case KVS_FN_cuMemRelease:
		event->call.handle = ARG(call, CUmemGenericAllocationHandle, 0);
		break;
	case KVS_FN_cuMemMap:
		event->call.address = ARG(call, CUdeviceptr, 0);
		event->call.bytes = ARG(call, size_t, 1);
		event->call.handle = ARG(call, CUmemGenericAllocationHandle, 3);
		break;
	case KVS_FN_cuMemcpyHtoD:
	case KVS_FN_cuMemcpyHtoDAsync:
	case KVS_FN_cuMemcpyDtoDAsync:
	case KVS_FN_cuMemsetD8:
	case KVS_FN_cuMemsetD8Async:
	case KVS_FN_cuMemsetD32Async:
		event->call.address = ARG(call, CUdeviceptr, 0);
		event->call.bytes = ARG(call, size_t, 2) * (call->function == KVS_FN_cuMemsetD32Async ? 4 : 1);
		break;
	case KVS_FN_cuMemcpyDtoH:
	case KVS_FN_cuMemcpyDtoHAsync:
		event->call.address = ARG(call, CUdeviceptr, 1);
		event->call.bytes = ARG(call, size_t, 2);
		break;
	case KVS_FN_cuLaunchKernel:
		event->call.handle = (uintptr_t)ARG(call, CUfunction, 0);
		break;
	default:
		break;
	}
}

/* What a call that failed gave out means nothing; what it was given is told all the same. */
static bool gives_out(enum kvs_cu_function function)
{
	return function == KVS_FN_cuMemAlloc || function == KVS_FN_cuMemAllocHost ||
	       function == KVS_FN_cuMemAddressReserve || function == KVS_FN_cuMemCreate ||
	       function == KVS_FN_cuMemRetainAllocationHandle;
}

static void tell_call(struct run_profile *p, const struct kvs_cu_call *call, uint32_t link)
{
	struct kvs_event event;

	begin(&event, KVS_EVENT_CALL, link, call->start_ns);
	event.call = (__typeof__(event.call)){.function = exported[call->function],
		.duration_ns = call->nanoseconds,
		.result = call->result,
		.address = KVS_EVENT_NONE,
		.bytes = KVS_EVENT_NONE,
		.handle = KVS_EVENT_NONE};
	if (!call->result || !gives_out(call->function))
		describe(call, &event);
	add(p, &event);
}

static void watch_call(void *arg, const struct kvs_cu_call *call)
{
	uint32_t link = note_launch(arg, call);

	if (call->after)
		tell_call(arg, call, link);
}

/* ---- what the engine tells ---- */

static void ask_device(struct run_profile *p)
{
	struct kvs_event event = {.type = KVS_EVENT_DEVICE};
	size_t free_bytes, total;

	p->device_ns = clock_ns(CLOCK_MONOTONIC);
	if (kvs_cu_enter(&p->unseen))
		return;
	if (!p->unseen.cuMemGetInfo(&free_bytes, &total)) {
		event.device.free_bytes = free_bytes;
		event.device.total_bytes = total;
		add(p, &event);
	}
	kvs_cu_leave(&p->unseen);
}

static void label(
	struct run_profile *p, const struct kvs_engine_note *note, enum kvs_memory_kind kind, int layer, int owner)
{
	struct kvs_event event = {.type = KVS_EVENT_LABEL,
		.label = {
			.address = note->address, .bytes = note->bytes, .kind = kind, .layer = layer, .owner = owner}};

	add(p, &event);
}

static void tell_use(struct run_profile *p, enum kvs_memory_kind kind, uint64_t bytes)
{
	struct kvs_event event = {.type = KVS_EVENT_USE, .use = {kind, bytes}};

	add(p, &event);
}

static void begin_phase(struct run_profile *p, const char *name, size_t tokens)
{
	struct kvs_event event = {.type = KVS_EVENT_PHASE, .phase = {.name = name, .tokens = tokens}};

	add(p, &event);
	if (event.time_ns - p->device_ns > DEVICE_PERIOD_NS)
		ask_device(p);
}

static void hear(void *arg, const struct kvs_engine_note *note)
{
	struct run_profile *p = arg;

	switch (note->kind) {
	case KVS_NOTE_WEIGHTS:
		label(p, note, KVS_MEMORY_WEIGHTS, -1, -1);
		break;
	case KVS_NOTE_ACTIVATIONS:
		label(p, note, KVS_MEMORY_ACTIVATIONS, -1, -1);
		break;
	case KVS_NOTE_K:
		label(p, note, KVS_MEMORY_K, note->layer, note->owner);
		break;
	case KVS_NOTE_V:
		label(p, note, KVS_MEMORY_V, note->layer, note->owner);
		break;
	case KVS_NOTE_K_USE:
		tell_use(p, KVS_MEMORY_K, note->bytes);
		break;
	case KVS_NOTE_V_USE:
		tell_use(p, KVS_MEMORY_V, note->bytes);
		break;
	case KVS_NOTE_LOAD:
		begin_phase(p, "load", 0);
		break;
	case KVS_NOTE_PREFILL:
		begin_phase(p, "prefill", note->tokens);
		break;
	case KVS_NOTE_DECODE:
		begin_phase(p, "decode", note->tokens);
		break;
	case KVS_NOTE_SCORE:
		begin_phase(p, "score", note->tokens);
		break;
	case KVS_NOTE_BATCH:
		begin_phase(p, "batch", note->tokens);
		break;
	case KVS_NOTE_IDLE:
		begin_phase(p, "", 0);
		break;
	case KVS_NOTE_LAYER:
		p->layer = note->layer;
		break;
	}
}

void run_profile_engine(struct run_profile *p, struct kvs_engine_options *options)
{
	if (!p)
		return;
	options->note = hear;
	options->note_arg = p;
}

/* ---- open and close ---- */

static void introduce(struct run_profile *p)
{
	char command[512];
	struct kvs_event event = {.type = KVS_EVENT_PROCESS,
		.process = {.source = KVS_SOURCE_OURS,
			.command = command,
			.device = p->unseen.name,
			.parent = getppid(),
			.driver_version = p->unseen.driver_version,
			.device_bytes = p->unseen.memory_bytes,
			.wall_ns = clock_ns(CLOCK_REALTIME),
			/* softcuda takes pages; a GPU's driver does not say. */
			.unit_bytes = p->unseen.kind == KVS_DEVICE_HOST ? sysconf(_SC_PAGESIZE) : 0}};

	kvs_process_command(getpid(), command, sizeof(command));
	add(p, &event);
}

static int close_profile(struct run_profile *p)
{
	int err;

	if (p->hears_kernels)
		kvs_cu_on_kernel(&p->unseen, NULL, NULL);
	err = kvs_trace_close(p->trace);
	pthread_mutex_destroy(&p->launches.lock);
	free(p->launches.list);
	free(p);
	return err;
}

int run_profile_open(const char *path, kvs_cu *cu, struct run_profile **out)
{
	struct kvs_trace_options options = {.append = !path};
	struct run_profile *p;
	int err;

	*out = NULL;
	if (!path)
		path = getenv("KVSHARE_PROFILE");
	if (!path || !*path)
		return 0;
	if (options.append && getenv("KVSHARE_PROFILE_MAX_BYTES")) /* as `profile` sets it: a number */
		options.max_bytes = strtoull(getenv("KVSHARE_PROFILE_MAX_BYTES"), NULL, 10);
	p = calloc(1, sizeof(*p));
	if (!p)
		return kvs_fail(-ENOMEM, "no memory for a profile");
	p->unseen = *cu;
	p->pid = getpid();
	err = kvs_trace_open(path, &options, &p->trace);
	if (err) {
		free(p);
		return err;
	}
	introduce(p);
	ask_device(p);
	p->layer = -1;
	pthread_mutex_init(&p->launches.lock, NULL);
	p->hears_kernels = !kvs_cu_on_kernel(cu, hear_kernel, p);
	err = kvs_cu_observe(cu, NULL, 0, watch_call, p, &p->observer);
	if (err) {
		close_profile(p);
		return err;
	}
	*out = p;
	return 0;
}

int run_profile_close(struct run_profile *p)
{
	struct kvs_event event = {.type = KVS_EVENT_EXIT, .exit = {.status = -1}};

	if (!p)
		return 0;
	kvs_cu_unobserve(p->observer);
	ask_device(p);
	add(p, &event);
	return close_profile(p);
}
