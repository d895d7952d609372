/*
 * tests/profiler/cupti_test.c: libkvshare-cupti.so as a whole, with softcuda and a fake libcupti (cupti_fake.c): it records
 * everything, and does no harm. tests/gpu/cupti_test.c runs it with NVIDIA's driver.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#if __has_include(<cupti.h>)
#include "../../driver/softcuda/softcuda.h"
#include "../support/process.h"
#include "cupti_stage.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check_counts(const struct story *story)
{
	static const struct {
		enum kvs_cu_function function;
		unsigned count;
	} want[] = {{KVS_FN_cuMemAddressReserve, 1}, {KVS_FN_cuMemCreate, 2}, {KVS_FN_cuMemMap, MAPS},
		{KVS_FN_cuMemAlloc, 2}, {KVS_FN_cuMemAllocHost, 1}, {KVS_FN_cuMemFreeHost, 1}, {KVS_FN_cuMemFree, 1},
		{KVS_FN_cuMemUnmap, 1}, {KVS_FN_cuMemRelease, 1}, {KVS_FN_cuMemAddressFree, 1}};
	unsigned sum = 0;

	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
		assert_int_equal(story->functions[want[i].function], want[i].count);
		sum += want[i].count;
	}
	assert_int_equal(story->calls, sum);
	assert_true(story->created == 2 * GRANULE && story->mapped == MAPS * GRANULE &&
		    story->unmapped == MAPS * GRANULE && story->allocated == 1000);
}

static void run_and_leave(void)
{
	softcuda_get_counters_fn *counters;
	struct softcuda_counters now;
	unsigned sum = 0;

	set_stage();
	use_memory();
	put_kernels(1000);
	counters = (softcuda_get_counters_fn *)dlsym(cu->library, SOFTCUDA_GET_COUNTERS);
	counters(&now);
	must(now.handles == 1 && now.mappings == 0 && now.allocations == 0, "softcuda counts otherwise");
	for (int f = 0; f < KVS_FN_COUNT; f++)
		sum += calls_made[f];
	must(sum == 14, "calls are not watched");
	must(fake->attribute(CUPTI_ACTIVITY_ATTR_MEM_ALLOCATION_TYPE_HOST_PINNED) == 1, "buffers are on the device");
	must(fake->attribute(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT) *
				fake->attribute(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE) <=
			16 << 20,
		"CUPTI may take much memory");
	must(!*fake->complaint(), fake->complaint());
	exit(3);
}

static void a_run_is_recorded_in_full(void **state)
{
	struct story story;
	struct timespec now;
	int status = in_child(run_and_leave);

	(void)state;
	check_said(NULL, 0);
	assert_int_equal(WEXITSTATUS(status), 3);
	story = read_trace(true);
	assert_int_equal(story.processes, 1);
	assert_int_equal(story.first.type, KVS_EVENT_PROCESS);
	assert_int_equal(story.first.process.source, KVS_SOURCE_CUPTI);
	assert_int_equal(story.first.process.parent, getpid());
	assert_true(story.first.process.driver_version >= 12000 && story.first.process.device_bytes > GRANULE);
	assert_string_not_equal(story.device, "");
	check_counts(&story);
	assert_int_equal(story.kernels, 1000);
	clock_gettime(CLOCK_MONOTONIC, &now);
	assert_in_range(story.last_kernel_ns, (now.tv_sec - 600) * 1000000000ull, (now.tv_sec + 1) * 1000000000ull);
	assert_true(story.devices >= 1);
	assert_int_equal(story.labels, 0); /* CUPTI's buffers are in host memory */
	assert_int_equal(story.exits, 1);
	assert_int_equal(story.status, status);
	assert_int_equal(story.health.lost_events + story.wrong_pids + story.slow, 0);
}

#define START CUPTI_ACTIVITY_FLAG_MARKER_START
#define END CUPTI_ACTIVITY_FLAG_MARKER_END

/* All enabled kinds reach the trace; MEMORY2 is not enabled. */
static void put_every_kind(void)
{
	CUpti_ActivityMemcpy5 copy = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY, .start = 1, .end = 2};
	CUpti_ActivityMemset4 fill = {.kind = CUPTI_ACTIVITY_KIND_MEMSET, .start = 1, .end = 2};
	CUpti_ActivityMemcpyPtoP4 between = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY2, .start = 1, .end = 2};
	CUpti_ActivitySynchronization wait = {.kind = CUPTI_ACTIVITY_KIND_SYNCHRONIZATION, .type = 3, .start = 1};
	CUpti_ActivityOverhead3 overhead = {.kind = CUPTI_ACTIVITY_KIND_OVERHEAD, .start = 1};
	CUpti_ActivityMarker2 start = {.kind = CUPTI_ACTIVITY_KIND_MARKER, .flags = START, .id = 1, .name = "range"};
	CUpti_ActivityMarker2 end = {.kind = CUPTI_ACTIVITY_KIND_MARKER, .flags = END, .id = 1};
	CUpti_ActivityMemory memory = {.kind = CUPTI_ACTIVITY_KIND_MEMORY2};
	struct {
		CUpti_ActivityKind kind;
		uint64_t noise[20];
	} newer = {CUPTI_ACTIVITY_KIND_COUNT + 5, {~0ull}};

	set_stage();
	must(fake->record(&copy, sizeof(copy)) && fake->record(&fill, sizeof(fill)), "copies");
	must(fake->record(&between, sizeof(between)) && fake->record(&wait, sizeof(wait)), "copies, waits");
	must(fake->record(&overhead, sizeof(overhead)) && fake->record(&start, sizeof(start)), "overhead, ranges");
	must(fake->record(&newer, sizeof(newer)), "the fake takes no record of a later CUPTI");
	fake->deliver();
	must(fake->record(&end, sizeof(end)), "ranges");
	must(!fake->record(&memory, sizeof(memory)), "memory records are asked for");
}

static void every_kind_is_enabled_and_recorded(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(put_every_kind), 0);
	story = read_trace(true);
	assert_int_equal(story.copies, 3);
	assert_int_equal(story.spans, 2);
	assert_int_equal(story.functions[KVS_FN_cuStreamSynchronize], 1);
	assert_int_equal(story.calls, 1);
	assert_int_equal(story.processes, 1);
	assert_int_equal(story.first.type, KVS_EVENT_PROCESS);
}

/* Whether or not CUPTI reports the driver call within a runtime call, it is one allocation. */
static void call_the_runtime(bool with_driver, int result)
{
	uint64_t outer = 0, inner = 0;
	void *made = (void *)0x7700000;
	CUdeviceptr at = 0x7700000;
	cudaMalloc_v3020_params runtime = {&made, 4096};
	cuMemAlloc_v2_params driver = {&at, 4096};
	CUpti_CallbackData of_runtime = {
		.functionParams = &runtime, .functionReturnValue = &result, .correlationData = &outer};
	CUpti_CallbackData of_driver = {
		.functionParams = &driver, .functionReturnValue = &result, .correlationData = &inner};

	of_runtime.callbackSite = of_driver.callbackSite = CUPTI_API_ENTER;
	fake->call(CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_RUNTIME_TRACE_CBID_cudaMalloc_v3020, &of_runtime);
	if (with_driver)
		fake->call(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2, &of_driver);
	of_runtime.callbackSite = of_driver.callbackSite = CUPTI_API_EXIT;
	if (with_driver)
		fake->call(CUPTI_CB_DOMAIN_DRIVER_API, CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2, &of_driver);
	fake->call(CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_RUNTIME_TRACE_CBID_cudaMalloc_v3020, &of_runtime);
}

static void call_the_runtime_both_ways(void)
{
	set_stage();
	for (int i = 0; i < 3; i++) {
		call_the_runtime(true, 0);
		call_the_runtime(false, 0);
		call_the_runtime(true, 2);
		call_the_runtime(false, 2);
	}
}

static void an_allocation_of_the_runtime_counts_once(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(call_the_runtime_both_ways), 0);
	story = read_trace(true);
	assert_int_equal(story.calls, 12);
	assert_int_equal(story.functions[KVS_FN_cuMemAlloc], 12);
	assert_int_equal(story.allocated, 6 * 4096);
}

/* Records before there is a context, then a call in one. */
static void begin_without_a_context(void)
{
	set_stage();
	put_kernels(1);
	fake->deliver();
	use_memory();
}

static void the_device_is_known_later(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(begin_without_a_context), 0);
	story = read_trace(true);
	assert_int_equal(story.first.type, KVS_EVENT_PROCESS);
	assert_int_equal(story.first.process.device_bytes, 0);
	assert_int_equal(story.processes, 2);
	assert_string_not_equal(story.device, "");
	check_counts(&story);
}

/* As a user has it: nothing of kvshare's is in the program. */
static void profile_runs_any_program_with_the_library(void **state)
{
	char command[2048];
	struct process process;
	struct story story;

	(void)state;
	/* LeakSanitizer cannot look where threads run at exit. */
	snprintf(command, sizeof(command),
		"export ASAN_OPTIONS=detect_leaks=0; B=%s; LD_LIBRARY_PATH=$B/softcuda "
		"KVSHARE_CUPTI=$B/tests/profiler/fake-cupti/full/libcupti.so.13 "
		"kvshare-run "
		"profile --source cupti -o %s -- $B/tests/clients/vector_add $B/tests/softcuda/softcuda_kernels.so",
		built(""), trace_path);
	process = run_shell(command, 60);
	if (process.status || !strstr(process.out, "PASS"))
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	process_free(&process);
	story = read_trace(true);
	assert_int_equal(story.processes, 1);
	assert_int_equal(story.first.process.source, KVS_SOURCE_CUPTI);
	assert_int_equal(story.exits, 1);
}

/* ---- a profiler that cannot work ---- */

static void with_incumbent(void)
{
	setenv("KVSHARE_PROFILE", trace_path, 1);
	unsetenv("KVSHARE_CUPTI");
	load_fake("full");
	fake->incumbent("CUPTI for PyTorch");
	inject();
	open_driver();
	use_memory();
	must(!*fake->complaint(), fake->complaint());
}

static uint64_t trace_bytes(void)
{
	struct stat st;

	assert_int_equal(stat(trace_path, &st), 0);
	return st.st_size;
}

static void another_profiler_is_named_and_left_alone(void **state)
{
	(void)state;
	assert_int_equal(in_child(with_incumbent), 0);
	check_said("another profiler is active already: CUPTI for PyTorch", 1);
	assert_int_equal(trace_bytes(), 0);
}

static const char *variant, *failing;

static void with_variant(void)
{
	setenv("KVSHARE_PROFILE", trace_path, 1);
	unsetenv("KVSHARE_CUPTI");
	load_fake(variant);
	if (failing)
		fake->refuse(failing, CUPTI_ERROR_NOT_INITIALIZED);
	inject();
	open_driver();
	use_memory();
	if (strcmp(variant, "broken") && !failing)
		put_kernels(3);
	must(!*fake->complaint(), fake->complaint());
	exit(4);
}

static void an_old_libcupti_will_do(void **state)
{
	(void)state;
	variant = "old";
	failing = NULL;
	assert_int_equal(WEXITSTATUS(in_child(with_variant)), 4);
	check_said(NULL, 0);
	assert_int_equal(read_trace(true).kernels, 3);
}

static void a_missing_function_is_named(void **state)
{
	(void)state;
	variant = "broken";
	failing = NULL;
	assert_int_equal(WEXITSTATUS(in_child(with_variant)), 4);
	check_said("libcupti lacks cuptiActivityGetNumDroppedRecords", 1);
	assert_int_equal(trace_bytes(), 0);
}

/* If these fail, nothing is recorded, the reason is printed, and the program runs on. */
static void what_cupti_refuses_is_reported(void **state)
{
	static const char *const functions[] = {
		"cuptiSubscribe_v2", "cuptiActivityRegisterCallbacks", "cuptiActivityRegisterTimestampCallback"};

	(void)state;
	variant = "full";
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		failing = functions[i];
		assert_int_equal(WEXITSTATUS(in_child(with_variant)), 4);
		check_said("CUPTI_ERROR_NOT_INITIALIZED (CUPTI's error ", 1);
	}
	failing = NULL;
}

/* If these fail, the rest is recorded. */
static void the_rest_is_recorded(void **state)
{
	static const char *const functions[] = {
		"cuptiEnableCallback", "cuptiActivityEnable", "cuptiActivityFlushAll", "cuptiActivityGetNextRecord"};

	(void)state;
	variant = "full";
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		failing = functions[i];
		assert_int_equal(WEXITSTATUS(in_child(with_variant)), 4);
		check_said(NULL, 0);
		assert_int_equal(read_trace(true).exits, i + 1);
	}
	failing = NULL;
}

/* As with confidential computing: CUPTI's buffers are in device memory, which is reported. */
static void without_pinned_buffers(void)
{
	setenv("KVSHARE_PROFILE", trace_path, 1);
	unsetenv("KVSHARE_CUPTI");
	load_fake("full");
	fake->refuse("cuptiActivitySetAttribute", CUPTI_ERROR_NOT_SUPPORTED);
	inject();
	fake->refuse(NULL, CUPTI_SUCCESS);
	put_kernels(1);
}

static void memory_of_the_profiler_is_reported(void **state)
{
	kvs_trace_reader *reader;
	struct kvs_event event;
	unsigned labels = 0;

	(void)state;
	assert_int_equal(in_child(without_pinned_buffers), 0);
	assert_int_equal(kvs_trace_read(trace_path, &reader), 0);
	while (kvs_trace_next(reader, &event, NULL) > 0) {
		if (event.type != KVS_EVENT_LABEL)
			continue;
		labels++;
		assert_int_equal(event.label.kind, KVS_MEMORY_PROFILER);
		assert_int_equal(event.label.address, 0);
		assert_in_range(event.label.bytes, 1 << 20, 4 << 20);
	}
	kvs_trace_reader_close(reader);
	assert_int_equal(labels, 1);
}

static const char *profile, *library_name;

static void with_names(void)
{
	if (profile)
		setenv("KVSHARE_PROFILE", profile, 1);
	else
		unsetenv("KVSHARE_PROFILE");
	setenv("KVSHARE_CUPTI", library_name, 1);
	inject();
	open_driver();
	use_memory();
	exit(5);
}

static void what_is_missing_is_reported(void **state)
{
	static char fake_path[512];
	static const struct {
		const char *profile, *library, *says;
	} cases[] = {
		{NULL, "/nowhere/libcupti.so.13", "KVSHARE_PROFILE does not name a trace"},
		{"", "/nowhere/libcupti.so.13", "KVSHARE_PROFILE does not name a trace"},
		{trace_path, "/nowhere/libcupti.so.13", "KVSHARE_CUPTI=/nowhere/libcupti.so.13 cannot be loaded"},
		{"/nowhere/trace", fake_path, "/nowhere/trace: No such file or directory"},
		{"/etc/passwd", fake_path, "/etc/passwd is there and is no trace"},
	};

	(void)state;
	snprintf(fake_path, sizeof(fake_path), "%s", built("tests/profiler/fake-cupti/full/libcupti.so.13"));
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		profile = cases[i].profile;
		library_name = cases[i].library;
		assert_int_equal(WEXITSTATUS(in_child(with_names)), 5);
		check_said(cases[i].says, 1);
		assert_int_equal(trace_bytes(), 0);
	}
}

/* NVIDIA's libcupti does not work with softcuda; the program must run all the same. */
static void the_real_libcupti_does_no_harm_on_softcuda(void **state)
{
	(void)state;
	if (access("/usr/local/cuda/lib64/libcupti.so", R_OK))
		skip();
	profile = trace_path;
	library_name = "/usr/local/cuda/lib64/libcupti.so";
	assert_int_equal(WEXITSTATUS(in_child(with_names)), 5);
	print_message("%s", said());
}

/* ---- the end of a process ---- */

static void live_on(void)
{
	set_stage();
	for (;;) { /* a buffer would be full after 3 seconds */
		put_kernels(1);
		usleep(10000);
	}
}

/* Events older than both flush periods, CUPTI's and the trace's, are in the file. */
static void a_killed_process_loses_the_last_moments_only(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct timespec now;
		pid_t child = fork();
		if (!child)
			live_on();
		for (int wait_ms = 0; trace_bytes() < 200 && wait_ms < 60000; wait_ms += 10)
			usleep(10000);
		usleep(1500000 + 37000 * i);
		clock_gettime(CLOCK_MONOTONIC, &now);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		struct story story = read_trace(true);
		assert_true(story.kernels > 0);
		/* the periods are 200 ms together; the machine may be busy */
		assert_true(now.tv_sec * 1000000000ull + now.tv_nsec - story.last_kernel_ns < 1000000000ull);
		assert_int_equal(story.health.lost_events + story.exits, 0);
		assert_int_equal(truncate(trace_path, 0), 0);
	}
}

static CUdeviceptr kept;

static void free_late(void)
{
	cu->cuMemFree(kept);
}

/* The program's handler was registered first, so it runs after ours. */
static void leave_memory_to_a_handler(void)
{
	atexit(free_late);
	set_stage();
	must(!cu->cuMemAlloc(&kept, GRANULE), "alloc");
}

static void what_is_freed_at_exit_is_recorded(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(leave_memory_to_a_handler), 0);
	story = read_trace(true);
	assert_int_equal(story.functions[KVS_FN_cuMemAlloc], 1);
	assert_int_equal(story.functions[KVS_FN_cuMemFree], 1);
	assert_int_equal(story.exits, 1);
	assert_int_equal(story.status, 0);
}

static unsigned flushes_at_fork;
static bool is_forked;

/* Runs after the library's handler. */
static void check_that_cupti_was_not_called(void)
{
	if (is_forked && fake->flushes() != flushes_at_fork)
		_exit(98);
}

static void fork_once(int exit_status)
{
	pid_t child = fork();
	int status;

	if (!child) {
		is_forked = true;
		flushes_at_fork = fake->flushes();
		put_kernels(100);
		fake->deliver();
		call_the_runtime(true, 0);
		exit(exit_status);
	}
	must(waitpid(child, &status, 0) == child && status == exit_status << 8, "the child failed");
}

static void fork_twice(void)
{
	atexit(check_that_cupti_was_not_called);
	set_stage();
	put_kernels(10);
	fork_once(0);
	fork_once(7);
	put_kernels(1);
	use_memory();
}

static void a_child_leaves_its_parents_trace_alone(void **state)
{
	struct story story;

	(void)state;
	alarm(60); /* nobody may hang */
	assert_int_equal(in_child(fork_twice), 0);
	alarm(0);
	check_said(NULL, 0);
	story = read_trace(true);
	check_counts(&story);
	/* The children inherited CUPTI's buffer, and must not write it again. */
	assert_int_equal(story.kernels, 11);
	assert_int_equal(story.exits, 1);
	assert_int_equal(story.wrong_pids, 0);
}

static void several_processes(void)
{
	for (int i = 0; i < 4; i++) {
		if (!fork()) {
			set_stage();
			use_memory();
			put_kernels(25);
			exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
}

static void several_processes_share_a_trace(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(several_processes), 0);
	story = read_trace(true);
	assert_int_equal(story.processes, 4);
	assert_int_equal(story.kernels, 100);
	assert_int_equal(story.functions[KVS_FN_cuMemMap], 4 * MAPS);
	assert_int_equal(story.exits, 4);
}

/* ---- what is lost ---- */

static void lose_records(void)
{
	set_stage();
	put_kernels(10);
	fake->drop(12345);
	fake->tear();
}

static void lost_records_are_counted(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(lose_records), 0);
	story = read_trace(true);
	assert_int_equal(story.kernels, 9);
	assert_int_equal(story.health.lost_events, 12345 + 1);
}

/* RLIMIT_FSIZE makes writing fail, as a full disk does. */
static void fill_the_disk(void)
{
	struct rlimit limit;

	set_stage();
	use_memory();
	getrlimit(RLIMIT_FSIZE, &limit);
	limit.rlim_cur = 4096;
	setrlimit(RLIMIT_FSIZE, &limit);
	for (int i = 0; i < 20; i++) {
		put_kernels(1000);
		usleep(20000);
	}
	exit(6);
}

static void a_full_disk_is_reported_once(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(WEXITSTATUS(in_child(fill_the_disk)), 6);
	check_said("the trace cannot be written", 1);
	story = read_trace(false);
	assert_in_range(trace_bytes(), 16, 4096);
	assert_true(story.kernels < 20000);
}

static void limit_the_trace(void)
{
	setenv("KVSHARE_PROFILE_MAX_BYTES", "20000", 1);
	set_stage();
	for (int i = 0; i < 60; i++) {
		put_kernels(100);
		usleep(10000);
	}
}

static void no_longer_than_its_limit(void **state)
{
	struct story story;

	(void)state;
	assert_int_equal(in_child(limit_the_trace), 0);
	check_said("the trace cannot be written: File too large", 1);
	assert_in_range(trace_bytes(), 1000, 20000);
	story = read_trace(false);
	assert_true(story.health.lost_events > 0);
	assert_in_range(story.kernels + story.health.lost_events, 6000, 6010);
}

static void give_up(void)
{
	CUpti_StateData state = {.notification = {CUPTI_ERROR_UNKNOWN, "the GPU fell off the bus"}};
	unsigned flushes;

	set_stage();
	put_kernels(1);
	usleep(300000);
	must(fake->call(CUPTI_CB_DOMAIN_STATE, CUPTI_CBID_STATE_FATAL_ERROR, &state), "errors are not heard of");
	usleep(150000);
	flushes = fake->flushes();
	must(flushes > 0, "nothing was flushed");
	usleep(400000);
	must(fake->flushes() == flushes, "CUPTI is called after it ended");
	use_memory();
}

static void after_a_fatal_error_cupti_is_left_alone(void **state)
{
	(void)state;
	assert_int_equal(in_child(give_up), 0);
	check_said("CUPTI had a fatal error", 1);
	assert_int_equal(read_trace(true).kernels, 1);
}

/* ---- the file ---- */

static void nothing_else_is_exported(void **state)
{
	char command[1024], line[256];
	unsigned names = 0;
	FILE *symbols;

	(void)state;
	snprintf(command, sizeof(command), "nm -D --defined-only %s", built("libkvshare-cupti.so"));
	symbols = popen(command, "r");
	assert_non_null(symbols);
	while (fgets(line, sizeof(line), symbols)) {
		names++;
		assert_non_null(strstr(line, " T InitializeInjection\n"));
	}
	pclose(symbols);
	assert_int_equal(names, 1);
}

#define WHOLE(name) cmocka_unit_test_setup_teardown(name, new_files, remove_files)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WHOLE(a_run_is_recorded_in_full),
		WHOLE(every_kind_is_enabled_and_recorded),
		WHOLE(an_allocation_of_the_runtime_counts_once),
		WHOLE(the_device_is_known_later),
		WHOLE(profile_runs_any_program_with_the_library),
		WHOLE(another_profiler_is_named_and_left_alone),
		WHOLE(an_old_libcupti_will_do),
		WHOLE(a_missing_function_is_named),
		WHOLE(what_cupti_refuses_is_reported),
		WHOLE(the_rest_is_recorded),
		WHOLE(memory_of_the_profiler_is_reported),
		WHOLE(what_is_missing_is_reported),
		WHOLE(the_real_libcupti_does_no_harm_on_softcuda),
		WHOLE(a_killed_process_loses_the_last_moments_only),
		WHOLE(what_is_freed_at_exit_is_recorded),
		WHOLE(a_child_leaves_its_parents_trace_alone),
		WHOLE(several_processes_share_a_trace),
		WHOLE(lost_records_are_counted),
		WHOLE(a_full_disk_is_reported_once),
		WHOLE(no_longer_than_its_limit),
		WHOLE(after_a_fatal_error_cupti_is_left_alone),
		cmocka_unit_test(nothing_else_is_exported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	puts("built without cupti.h");
	return 77;
}
#endif
