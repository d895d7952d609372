/*
 * tests/profiler/cupti_stage.c: child processes that the library observes, and what their trace says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#if __has_include(<cupti.h>)
#include "cupti_stage.h"

#include "../support/process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

char trace_path[64];
static char said_path[64];

int new_files(void **state)
{
	int fd;

	(void)state;
	strcpy(trace_path, "/tmp/kvs-cupti-XXXXXX");
	fd = mkstemp(trace_path);
	if (fd >= 0)
		close(fd);
	strcpy(said_path, "/tmp/kvs-cupti-said-XXXXXX");
	fd = mkstemp(said_path);
	if (fd >= 0)
		close(fd);
	return fd < 0;
}

int remove_files(void **state)
{
	(void)state;
	return unlink(trace_path) || unlink(said_path);
}

void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "child: %s (%s)\n", what, kvs_error());
	_exit(99);
}

/* LeakSanitizer calls this. It cannot work in the children, which exit while threads are running. */
static bool is_child;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return is_child;
}

const struct cupti_fake *fake;
kvs_cu *cu;

void load_fake(const char *variant)
{
	char name[64];
	void *library;

	snprintf(name, sizeof(name), "tests/profiler/fake-cupti/%s/libcupti.so.13", variant);
	library = dlopen(built(name), RTLD_NOW);
	must(library, dlerror());
	fake = ((__typeof__(cupti_fake) *)dlsym(library, "cupti_fake"))();
}

void inject(void)
{
	void *library = dlopen(built("libkvshare-cupti.so"), RTLD_NOW | RTLD_LOCAL);
	int (*initialize)(void);

	must(library, "the library cannot be loaded");
	initialize = (int (*)(void))dlsym(library, "InitializeInjection");
	must(initialize, "the library has no InitializeInjection");
	must(initialize() == 1, "InitializeInjection says no");
	must(initialize() == 1, "InitializeInjection says no the second time");
}

unsigned calls_made[KVS_FN_COUNT];

/* Passes a call of softcuda on to the fake, with the arguments as CUPTI has them. */
static void as_callback(void *arg, const struct kvs_cu_call *call)
{
	static __thread uint64_t correlation;
	union {
		cuMemAlloc_v2_params alloc;
		cuMemFree_v2_params free;
		cuMemAllocHost_v2_params alloc_host;
		cuMemFreeHost_params free_host;
		cuMemAddressReserve_params reserve;
		cuMemAddressFree_params unreserve;
		cuMemCreate_params create;
		cuMemRelease_params release;
		cuMemMap_params map;
		cuMemUnmap_params unmap;
		cuMemSetAccess_params access;
	} p = {0};
	CUresult result = call->result;
	CUpti_CallbackData data = {.callbackSite = call->after ? CUPTI_API_EXIT : CUPTI_API_ENTER,
		.functionParams = &p,
		.functionReturnValue = &result,
		.context = cu ? cu->context : NULL,
		.correlationData = &correlation};
	CUpti_CallbackId id = 0;

#define ARG(type, i) (*(type *)call->args[i])
	(void)arg;
	correlation = call->after ? correlation : 0;
	switch (call->function) {
	case KVS_FN_cuMemAlloc:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2;
		p.alloc = (cuMemAlloc_v2_params){ARG(CUdeviceptr *, 0), ARG(size_t, 1)};
		break;
	case KVS_FN_cuMemFree:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemFree_v2;
		p.free = (cuMemFree_v2_params){ARG(CUdeviceptr, 0)};
		break;
	case KVS_FN_cuMemAllocHost:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemAllocHost_v2;
		p.alloc_host = (cuMemAllocHost_v2_params){ARG(void **, 0), ARG(size_t, 1)};
		break;
	case KVS_FN_cuMemFreeHost:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemFreeHost;
		p.free_host = (cuMemFreeHost_params){ARG(void *, 0)};
		break;
	case KVS_FN_cuMemAddressReserve:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemAddressReserve;
		p.reserve = (cuMemAddressReserve_params){
			ARG(CUdeviceptr *, 0), ARG(size_t, 1), ARG(size_t, 2), ARG(CUdeviceptr, 3), 0};
		break;
	case KVS_FN_cuMemAddressFree:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemAddressFree;
		p.unreserve = (cuMemAddressFree_params){ARG(CUdeviceptr, 0), ARG(size_t, 1)};
		break;
	case KVS_FN_cuMemCreate:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemCreate;
		p.create = (cuMemCreate_params){ARG(CUmemGenericAllocationHandle *, 0), ARG(size_t, 1), NULL, 0};
		break;
	case KVS_FN_cuMemRelease:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemRelease;
		p.release = (cuMemRelease_params){ARG(CUmemGenericAllocationHandle, 0)};
		break;
	case KVS_FN_cuMemMap:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemMap;
		p.map = (cuMemMap_params){
			ARG(CUdeviceptr, 0), ARG(size_t, 1), ARG(size_t, 2), ARG(CUmemGenericAllocationHandle, 3), 0};
		break;
	case KVS_FN_cuMemUnmap:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemUnmap;
		p.unmap = (cuMemUnmap_params){ARG(CUdeviceptr, 0), ARG(size_t, 1)};
		break;
	case KVS_FN_cuMemSetAccess:
		id = CUPTI_DRIVER_TRACE_CBID_cuMemSetAccess;
		p.access = (cuMemSetAccess_params){
			ARG(CUdeviceptr, 0), ARG(size_t, 1), ARG(const CUmemAccessDesc *, 2), ARG(size_t, 3)};
		break;
	default:
		return;
	}
	if (fake && fake->call(CUPTI_CB_DOMAIN_DRIVER_API, id, &data) && call->after)
		calls_made[call->function]++;
}

void open_driver(void)
{
	kvs_cu_observer *observer;

	must(!kvs_cu_open("host", &cu), "no softcuda");
	must(!kvs_cu_observe(cu, NULL, 0, as_callback, NULL, &observer), "not observed");
}

void set_stage(void)
{
	setenv("KVSHARE_PROFILE", trace_path, 1);
	unsetenv("KVSHARE_CUPTI");
	setenv("CUDA_INJECTION64_PATH", built("libkvshare-cupti.so"), 1);
	load_fake("full");
	open_driver();
	must(dlopen(built("libkvshare-cupti.so"), RTLD_NOW | RTLD_NOLOAD), "the driver did not load the library");
}

int in_child(void (*what)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		int fd = open(said_path, O_WRONLY | O_TRUNC);
		dup2(fd, STDERR_FILENO);
		close(fd);
		is_child = true;
		what();
		exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

const char *said(void)
{
	static char text[4096];
	FILE *file = fopen(said_path, "r");
	size_t got = fread(text, 1, sizeof(text) - 1, file);

	fclose(file);
	text[got] = '\0';
	return text;
}

void check_said(const char *part, int lines)
{
	const char *text = said();
	int found = 0;

	for (const char *c = text; *c; c++)
		found += *c == '\n';
	if ((part && !strstr(text, part)) || found != lines)
		fail_msg("%d lines: %s", found, text);
}

/* ---- what a trace says ---- */

static void hear(struct story *story, const struct kvs_event *event)
{
	if (!story->health.events++) {
		story->first = *event;
		story->pid = event->pid;
	}
	story->wrong_pids += event->pid != story->pid;
	story->processes += event->type == KVS_EVENT_PROCESS;
	story->devices += event->type == KVS_EVENT_DEVICE;
	story->copies += event->type == KVS_EVENT_COPY;
	story->spans += event->type == KVS_EVENT_SPAN;
	story->labels += event->type == KVS_EVENT_LABEL;
	if (event->type == KVS_EVENT_PROCESS)
		snprintf(story->device, sizeof(story->device), "%s", event->process.device);
	if (event->type == KVS_EVENT_KERNEL) {
		story->kernels++;
		story->last_kernel_ns = event->time_ns;
	}
	if (event->type == KVS_EVENT_EXIT) {
		story->exits++;
		story->status = event->exit.status;
	}
	if (event->type != KVS_EVENT_CALL)
		return;
	story->calls++;
	story->slow += event->call.duration_ns > 10000000000ull;
	for (int f = 0; f < KVS_FN_COUNT; f++) {
		const char *name = kvs_cu_function_name(f);
		if (strncmp(name, event->call.function, strlen(name)) == 0 &&
			(event->call.function[strlen(name)] == '_' || !event->call.function[strlen(name)]))
			story->functions[f]++;
	}
	if (event->call.result)
		return;
	story->created += !strcmp(event->call.function, "cuMemCreate") ? event->call.bytes : 0;
	story->mapped += !strcmp(event->call.function, "cuMemMap") ? event->call.bytes : 0;
	story->unmapped += !strcmp(event->call.function, "cuMemUnmap") ? event->call.bytes : 0;
	story->allocated += !strcmp(event->call.function, "cuMemAlloc_v2") ? event->call.bytes : 0;
}

struct story read_trace(bool whole)
{
	struct story story = {0};
	kvs_trace_reader *reader;
	struct kvs_event event;

	if (kvs_trace_read(trace_path, &reader))
		fail_msg("%s", kvs_error());
	while (kvs_trace_next(reader, &event, NULL) > 0)
		hear(&story, &event);
	kvs_trace_get_health(reader, &story.health);
	kvs_trace_reader_close(reader);
	if (whole)
		assert_int_equal(story.health.damaged_bytes + story.health.missing_chunks, 0);
	return story;
}

/* ---- a run ---- */

void put_kernels(unsigned count)
{
	CUpti_ActivityKernel9 record = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, .streamId = 7, .name = "decode"};

	for (unsigned i = 0; i < count; i++) {
		record.start = fake->clock();
		record.end = record.start + 10;
		must(fake->record(&record, sizeof(record)), "kernels are not watched");
	}
}

void use_memory(void)
{
	CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, cu->device}};
	CUmemGenericAllocationHandle handles[2];
	CUdeviceptr range, at, too_much;
	void *host;

	must(!cu->cuMemAddressReserve(&range, MAPS * GRANULE, 0, 0, 0), "reserve");
	must(!cu->cuMemCreate(&handles[0], GRANULE, &prop, 0), "create");
	must(!cu->cuMemCreate(&handles[1], GRANULE, &prop, 0), "create");
	for (int i = 0; i < MAPS; i++)
		must(!cu->cuMemMap(range + i * GRANULE, GRANULE, 0, handles[i % 2], 0), "map");
	must(!cu->cuMemAlloc(&at, 1000), "alloc");
	must(cu->cuMemAlloc(&too_much, (size_t)1 << 60), "a large allocation succeeds");
	must(!cu->cuMemAllocHost(&host, 4096), "alloc host");
	must(!cu->cuMemFreeHost(host), "free host");
	must(!cu->cuMemFree(at), "free");
	must(!cu->cuMemUnmap(range, MAPS * GRANULE), "unmap");
	must(!cu->cuMemRelease(handles[0]), "release");
	must(!cu->cuMemAddressFree(range, MAPS * GRANULE), "unreserve");
}
#endif
