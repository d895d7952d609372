/*
 * tests/gpu/cupti_test.c: libkvshare-cupti.so with NVIDIA's driver and libcupti: a trace has every kernel that was launched and
 * every call that maps memory, and CUPTI takes little device memory.
 *
 * The program runs itself as a workload that counts its own calls (kvs_cu_observe), with and without the library.
 * KVS_TEST_DEVICE is the device; on the host there is nothing to test. What CUPTI costs is printed, not judged.
 */
#include "../../attn/attn.h"
#include "../../profiler/profiler.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define LAUNCHES 2000
#define BLOCKS 20
#define MIB ((size_t)1 << 20)
#define MOST_DEVICE_MIB 4 /* that CUPTI may take */

static const char *device;

/* ---- the workload ---- */

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "workload: %s: %s\n", what, kvs_error());
	exit(99);
}

static unsigned counts[KVS_FN_COUNT];

static void count_call(void *arg, const struct kvs_cu_call *call)
{
	(void)arg;
	counts[call->function] += call->after;
}

/* Each block is mapped twice. */
static void map_memory(kvs_cu *cu)
{
	CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, cu->device}};
	CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handles[BLOCKS];
	CUdeviceptr range;
	size_t granule;

	must(!cu->cuMemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM), "granularity");
	must(!cu->cuMemAddressReserve(&range, 2 * BLOCKS * granule, 0, 0, 0), "reserve");
	for (int i = 0; i < BLOCKS; i++) {
		must(!cu->cuMemCreate(&handles[i], granule, &prop, 0), "create");
		must(!cu->cuMemMap(range + i * granule, granule, 0, handles[i], 0), "map");
		must(!cu->cuMemMap(range + (BLOCKS + i) * granule, granule, 0, handles[i], 0), "map");
	}
	must(!cu->cuMemSetAccess(range, 2 * BLOCKS * granule, &access, 1), "set access");
	must(!cu->cuMemUnmap(range, 2 * BLOCKS * granule), "unmap");
	for (int i = 0; i < BLOCKS; i++)
		must(!cu->cuMemRelease(handles[i]), "release");
	must(!cu->cuMemAddressFree(range, 2 * BLOCKS * granule), "unreserve");
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static double launch_kernels(kvs_stream *stream, kvs_tensor x, kvs_tensor row)
{
	double start = now_us();

	for (int i = 0; i < LAUNCHES; i++)
		must(!kvs_add_row(stream, x, row), "launch");
	must(!kvs_stream_synchronize(stream), "synchronize");
	return (now_us() - start) / LAUNCHES;
}

static int work(void)
{
	kvs_tensor x = {.dtype = KVS_F32, .rows = 4, .cols = 256}, row = {.dtype = KVS_F32, .rows = 1, .cols = 256};
	kvs_cu_observer *observer;
	size_t available, total;
	kvs_stream *stream;
	kvs_cu *cu;
	double us;

	must(!kvs_cu_open(device, &cu), "open");
	must(!kvs_cu_observe(cu, NULL, 0, count_call, NULL, &observer), "observe");
	must(!kvs_stream_open(cu, &stream), "stream");
	must(!cu->cuMemAlloc(&x.data, 4 * 256 * 4) && !cu->cuMemAlloc(&row.data, 256 * 4), "alloc");
	must(!cu->cuMemsetD8(x.data, 0, 4 * 256 * 4) && !cu->cuMemsetD8(row.data, 0, 256 * 4), "fill");
	launch_kernels(stream, x, row); /* the first launches set things up */
	us = launch_kernels(stream, x, row);
	map_memory(cu);
	must(!cu->cuMemGetInfo(&available, &total), "free memory");
	must(!cu->cuMemFree(x.data) && !cu->cuMemFree(row.data), "free");
	kvs_stream_close(stream);
	must(!kvs_cu_unobserve(observer), "unobserve");
	printf("used %zu\nus %f\n", total - available, us);
	for (int f = 0; f < KVS_FN_COUNT; f++)
		if (counts[f])
			printf("calls %s %u\n", kvs_cu_function_name(f), counts[f]);
	kvs_cu_close(cu);
	return 0;
}

/* ---- running it ---- */

struct outcome {
	unsigned calls[KVS_FN_COUNT]; /* as the workload counted them */
	double us;                    /* per launch */
	size_t used;                  /* device memory */
	char error[512];              /* the last line of stderr */
};

static char library[PATH_MAX], trace_path[64];
static struct outcome plain, watched;

/* In the bundle, or in the build folder. */
static bool find_library(void)
{
	char built[PATH_MAX];

	snprintf(built, sizeof(built), "%s/libkvshare-cupti.so", getenv("BUILD") ? getenv("BUILD") : "build");
	return realpath("lib/libkvshare-cupti.so", library) || realpath(built, library);
}

static void read_line(const char *line, struct outcome *out)
{
	char name[64];
	unsigned count;

	if (sscanf(line, "used %zu", &out->used) == 1 || sscanf(line, "us %lf", &out->us) == 1)
		return;
	if (sscanf(line, "calls %63s %u", name, &count) == 2) {
		for (int f = 0; f < KVS_FN_COUNT; f++)
			if (!strcmp(name, kvs_cu_function_name(f)))
				out->calls[f] = count;
	} else {
		snprintf(out->error, sizeof(out->error), "%.*s", (int)strcspn(line, "\n"), line);
	}
}

/* Returns the workload's exit status. */
static int run_workload(const char *environment, struct outcome *out)
{
	char self[PATH_MAX] = "", command[4 * PATH_MAX], line[512];
	FILE *output;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return -1;
	snprintf(command, sizeof(command), "%s exec '%s' workload 2>&1", environment, self);
	output = popen(command, "r");
	while (output && fgets(line, sizeof(line), output))
		read_line(line, out);
	return output ? pclose(output) : -1;
}

static int run_watched(void)
{
	char environment[2 * PATH_MAX];

	snprintf(environment, sizeof(environment), "CUDA_INJECTION64_PATH='%s' KVSHARE_PROFILE='%s'", library,
		trace_path);
	return run_workload(environment, &watched);
}

/* ---- what the trace has ---- */

static struct {
	struct kvs_trace_health health;
	unsigned calls[KVS_FN_COUNT];
	unsigned processes, kernels, others, timed, fills, exits, samples;
	uint64_t kernel_ns, first_ns, last_ns; /* of our kernels */
	char device[128], other[128];
} found;

static void note_kernel(const struct kvs_event *event)
{
	if (strncmp(event->kernel.name, "kvs_", 4) != 0) {
		found.others++;
		snprintf(found.other, sizeof(found.other), "%s", event->kernel.name);
		return;
	}
	found.kernels++;
	found.timed += event->kernel.duration_ns > 0;
	found.kernel_ns += event->kernel.duration_ns;
	found.first_ns = found.first_ns ? found.first_ns : event->time_ns;
	found.last_ns = event->time_ns;
}

/* Names in the trace have versions, those of the table have none. */
static void note_call(const struct kvs_event *event)
{
	for (int f = 0; f < KVS_FN_COUNT; f++) {
		const char *name = kvs_cu_function_name(f);
		size_t length = strlen(name);
		if (!strncmp(event->call.function, name, length) &&
			(!event->call.function[length] || event->call.function[length] == '_'))
			found.calls[f]++;
	}
}

static void read_trace(void)
{
	kvs_trace_reader *reader;
	struct kvs_event event;

	if (kvs_trace_read(trace_path, &reader))
		fail_msg("%s", kvs_error());
	while (kvs_trace_next(reader, &event, NULL) > 0) {
		if (event.type == KVS_EVENT_PROCESS) {
			found.processes++;
			snprintf(found.device, sizeof(found.device), "%s", event.process.device);
		} else if (event.type == KVS_EVENT_KERNEL) {
			note_kernel(&event);
		} else if (event.type == KVS_EVENT_CALL) {
			note_call(&event);
		}
		found.fills += event.type == KVS_EVENT_COPY && event.copy.kind == KVS_COPY_FILL;
		found.exits += event.type == KVS_EVENT_EXIT;
		found.samples += event.type == KVS_EVENT_DEVICE;
	}
	kvs_trace_get_health(reader, &found.health);
	kvs_trace_reader_close(reader);
}

static void every_kernel_is_there(void **state)
{
	(void)state;
	print_message("%u kernels of ours, %u others (%s), %u fills\n", found.kernels, found.others, found.other,
		found.fills);
	assert_int_equal(watched.calls[KVS_FN_cuLaunchKernel], 2 * LAUNCHES);
	assert_int_equal(found.kernels, watched.calls[KVS_FN_cuLaunchKernel]);
	assert_int_equal(found.timed, found.kernels);
	assert_int_equal(found.health.lost_events + found.health.damaged_bytes, 0);
}

/* The clock of the records is CLOCK_MONOTONIC, as that of the calls. */
static void times_are_those_of_this_machine(void **state)
{
	uint64_t now = now_us() * 1e3;

	(void)state;
	print_message(
		"%.3f us per kernel on the device\n", found.kernel_ns / 1e3 / (found.kernels ? found.kernels : 1));
	assert_true(found.first_ns < found.last_ns && found.last_ns < now);
	assert_true(now - found.first_ns < 600000000000ull);
}

static void every_call_that_maps_is_there(void **state)
{
	static const enum kvs_cu_function exact[] = {KVS_FN_cuMemAddressReserve, KVS_FN_cuMemAddressFree,
		KVS_FN_cuMemCreate, KVS_FN_cuMemRelease, KVS_FN_cuMemMap, KVS_FN_cuMemUnmap, KVS_FN_cuMemSetAccess};
	/* cuBLAS allocates too, which the workload does not count. */
	static const enum kvs_cu_function least[] = {KVS_FN_cuMemAlloc, KVS_FN_cuMemFree};

	(void)state;
	for (size_t i = 0; i < sizeof(exact) / sizeof(*exact); i++) {
		print_message("%s: %u\n", kvs_cu_function_name(exact[i]), found.calls[exact[i]]);
		assert_int_equal(found.calls[exact[i]], watched.calls[exact[i]]);
	}
	for (size_t i = 0; i < sizeof(least) / sizeof(*least); i++) {
		print_message("%s: %u, of which %u ours\n", kvs_cu_function_name(least[i]), found.calls[least[i]],
			watched.calls[least[i]]);
		assert_true(found.calls[least[i]] >= watched.calls[least[i]]);
	}
	assert_int_equal(watched.calls[KVS_FN_cuMemMap], 2 * BLOCKS);
}

static void the_process_is_described(void **state)
{
	(void)state;
	assert_true(found.processes >= 1 && found.exits == 1 && found.samples >= 1);
	assert_string_not_equal(found.device, "");
}

static void cupti_takes_little_of_the_device(void **state)
{
	double taken = ((double)watched.used - (double)plain.used) / MIB;

	(void)state;
	print_message("device memory in use: %.1f MiB without CUPTI, %.1f MiB with it\n", (double)plain.used / MIB,
		(double)watched.used / MIB);
	print_message("a launch takes %.3f us without CUPTI, %.3f us with it (%+.1f %%)\n", plain.us, watched.us,
		100 * (watched.us / plain.us - 1));
	assert_true(taken <= MOST_DEVICE_MIB);
}

static int skip_all(const char *reason)
{
	printf("%s\n", reason);
	return 77;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kernel_is_there),
		cmocka_unit_test(times_are_those_of_this_machine),
		cmocka_unit_test(every_call_that_maps_is_there),
		cmocka_unit_test(the_process_is_described),
		cmocka_unit_test(cupti_takes_little_of_the_device),
	};
	int failed, fd;

	device = getenv("KVS_TEST_DEVICE") ? getenv("KVS_TEST_DEVICE") : "host";
	if (argc > 1 && !strcmp(argv[1], "workload"))
		return work();
	if (!strcmp(device, "host"))
		return skip_all("CUPTI works with NVIDIA's driver alone");
	if (!find_library())
		return skip_all("libkvshare-cupti.so was not built: there was no cupti.h");
	snprintf(trace_path, sizeof(trace_path), "/tmp/kvs-cupti-XXXXXX");
	fd = mkstemp(trace_path);
	if (fd < 0 || close(fd) || run_workload("", &plain) || run_watched()) {
		fprintf(stderr, "the workload failed: %s%s\n", plain.error, watched.error);
		return 1;
	}
	if (strstr(watched.error, "there is no libcupti")) {
		unlink(trace_path);
		return skip_all(watched.error);
	}
	print_message("%s\n", watched.error); /* of the library, if it printed anything */
	read_trace();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(trace_path);
	return failed;
}
