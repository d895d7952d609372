/*
 * tests/profiler/profile_test.c: what `kvshare-run profile` writes down is what programs did: counted by softcuda, by bpftrace, and
 * by the programs themselves; whatever they fork, load and end with.
 */
#include "watched.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define GENERATE "kvshare-run generate -m " MODEL " -p 'Anna put the red key' -n 8 --device host"

static char folder[64], trace[96];

static int folder_make(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/kvshare-watched-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(trace, sizeof(trace), "%s/trace", folder);
	return setenv("TRACE", trace, 1) || setenv("CLIENT", built("tests/profiler/watched_client"), 1) ||
	       setenv("FOLDER", folder, 1);
}

static int folder_remove(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static struct process run(const char *command, int status)
{
	struct process process = run_shell(command, 120);

	if (process.status != status)
		fail_msg("`%s` ended with %d: %s%s", command, process.status, process.out, process.err);
	return process;
}

/* Runs the command, which writes $TRACE, and reads that. */
static struct watched *profile(const char *command)
{
	struct process process = run(command, 0);

	process_free(&process);
	return watched_read(trace);
}

static void assert_calls(const struct watched *watched, uint32_t pid, const char *name, uint64_t calls, uint64_t bytes)
{
	const struct watched_function *function = watched_function(watched, pid, name);

	if (!function || function->calls != calls || function->bytes != bytes || function->failures)
		fail_msg("%s: %lu calls with %lu bytes, %lu failed; there were %lu with %lu", name,
			function ? function->calls : 0, function ? function->bytes : 0,
			function ? function->failures : 0, calls, bytes);
}

static void assert_rounds(const struct watched *watched, uint32_t pid, unsigned rounds)
{
	assert_calls(watched, pid, "cuMemAlloc_v2", rounds, 4096 * rounds);
	assert_calls(watched, pid, "cuMemcpyHtoD_v2", rounds, 4096 * rounds);
	assert_calls(watched, pid, "cuMemcpyDtoH_v2", rounds, 2048 * rounds);
	assert_calls(watched, pid, "cuCtxSynchronize", rounds, 0);
	assert_calls(watched, pid, "cuMemFree_v2", rounds, 0);
}

/* ---- calls ---- */

static void every_call_is_told_once_with_what_it_was_about(void **state)
{
	struct process process =
		run("kvshare-run profile --source ebpf -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA rounds 200", 0);
	struct watched *watched = watched_read(trace);

	(void)state;
	assert_string_equal(process.out, "1000\n"); /* as softcuda counts them */
	assert_rounds(watched, 0, 200);
	assert_int_equal(watched_all(watched, "cu"), 1000 + 2); /* cuInit, cuDevicePrimaryCtxRetain */
	assert_int_equal(watched->lost, 0);
	assert_int_equal(watched->process_count, 1);
	assert_int_equal(watched->processes[0].status, 0);
	assert_non_null(strstr(watched->processes[0].command, "watched_client"));
	assert_non_null(strstr(watched->processes[0].command, " rounds 200"));
	free(watched);
	process_free(&process);
}

static void an_allocation_tells_where_it_was_called_from(void **state)
{
	struct watched *watched =
		profile("kvshare-run profile --source ebpf -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA rounds 1");

	(void)state;
	assert_true(watched->frames >= 3); /* run_round, run_rounds, main */
	assert_non_null(strstr(watched->module, "watched_client"));
	free(watched);
}

static void calls_of_all_threads_are_told(void **state)
{
	struct watched *watched =
		profile("kvshare-run profile --source ebpf -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA threads 100");

	(void)state;
	assert_rounds(watched, 0, 400);
	assert_int_equal(watched->tid_count, 5);
	free(watched);
}

static void a_driver_that_is_loaded_late_is_watched_from_its_first_call(void **state)
{
	struct watched *watched =
		profile("kvshare-run profile --source ebpf -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA late 20");

	(void)state;
	assert_rounds(watched, 0, 20);
	assert_calls(watched, 0, "cuInit", 1, 0);
	free(watched);
}

/*
 * One that only forked keeps its parent's name; one that became another program is told with its own. The shell, which asks nothing
 * of CUDA, comes last: it was asked for.
 */
static void children_are_watched_from_birth(void **state)
{
	struct watched *watched = profile(
		"kvshare-run profile --source ebpf -o $TRACE -- sh -c '$CLIENT $KVSHARE_SOFTCUDA family 10; exit 0'");
	const struct watched_process *parent = &watched->processes[0], *forked = parent + 1, *other = parent + 2,
				     *shell = parent + 3;
	const struct watched_function *refused;

	(void)state;
	assert_int_equal(watched->process_count, 4);
	assert_int_equal(parent->parent, shell->pid);
	assert_int_equal(forked->parent, parent->pid);
	assert_int_equal(other->parent, parent->pid);
	assert_string_equal(forked->command, parent->command);
	assert_non_null(strstr(other->command, " rounds 10"));
	assert_rounds(watched, parent->pid, 10);
	assert_rounds(watched, other->pid, 10);
	refused = watched_function(watched, forked->pid, "cuMemAlloc_v2");
	assert_non_null(refused);
	assert_int_equal(refused->failures, 1);
	assert_int_equal(shell->status, 0);
	assert_int_equal(parent->status, 0);
	assert_int_equal(WEXITSTATUS(forked->status), 3);
	assert_int_equal(other->status, 0);
	free(watched);
}

/* "FUNCTION RESULT ADDRESS BYTES HANDLE", as the program prints it. */
static void describe(const struct kvs_event *event, char *out, size_t bytes)
{
	const uint64_t values[] = {event->call.address, event->call.bytes, event->call.handle};
	size_t used = (size_t)snprintf(out, bytes, "%s %d", event->call.function, event->call.result);

	for (int i = 0; i < 3; i++)
		used += (size_t)(values[i] == KVS_EVENT_NONE ? snprintf(out + used, bytes - used, " -")
							     : snprintf(out + used, bytes - used, " %lx", values[i]));
}

static void addresses_bytes_and_handles_are_those_of_the_calls(void **state)
{
	struct process process = run(
		"export LD_LIBRARY_PATH=$(dirname $KVSHARE_SOFTCUDA); kvshare-run profile --source ebpf -o $TRACE -- "
		"$(dirname $CLIENT)/watched_calls",
		0);
	char *rest = process.out, *line, told[256];
	struct watched *watched = watched_read(trace);
	kvs_trace_reader *reader;
	struct kvs_event event;
	int calls = 0;

	(void)state;
	assert_int_equal(watched->devices, 1); /* cuMemGetInfo */
	free(watched);
	assert_int_equal(kvs_trace_read(trace, &reader), 0);
	while (kvs_trace_next(reader, &event, NULL) > 0) {
		if (event.type != KVS_EVENT_CALL)
			continue;
		line = strsep(&rest, "\n");
		describe(&event, told, sizeof(told));
		assert_non_null(line);
		assert_string_equal(told, line);
		calls++;
	}
	kvs_trace_reader_close(reader);
	assert_true(calls > 60);
	assert_string_equal(rest ? rest : "", "");
	process_free(&process);
}

/* ---- the engine, beside bpftrace ---- */

/* "@calls[uprobe:FILE:FUNCTION]: NUMBER" */
static void assert_same(const struct watched *watched, const char *line)
{
	const struct watched_function *function;
	char what[16], probe[512], *name;
	unsigned long counted;
	uint64_t written;

	if (sscanf(line, "@%15[a-z][%511[^]]]: %lu", what, probe, &counted) != 3)
		return;
	name = strrchr(probe, ':') + 1;
	function = watched_function(watched, 0, name);
	written = !function ? 0 : strcmp(what, "bytes") ? function->calls : function->bytes;
	if (written != counted)
		fail_msg("%s: %lu %s are in the trace, bpftrace counted %lu", name, written, what, counted);
}

#define BPFTRACE(command) "tests/profiler/bpftrace_counts.sh kvshare-run profile --source ebpf -o $TRACE -- " command

static struct watched *beside_bpftrace(const char *command, int least_lines)
{
	struct process process;
	struct watched *watched;
	char *rest, *line;
	int lines = 0;

	if (system("command -v bpftrace >/dev/null")) {
		print_message("bpftrace is not here: apt-get install bpftrace\n");
		skip();
	}
	process = run(command, 0);
	watched = watched_read(trace);
	rest = strstr(process.out, "@");
	if (!rest)
		fail_msg("bpftrace says: %s%s", process.out, process.err);
	while ((line = strsep(&rest, "\n"))) {
		lines += *line == '@';
		assert_same(watched, line);
	}
	assert_true(lines >= least_lines);
	process_free(&process);
	return watched;
}

static void counts_and_bytes_are_those_of_bpftrace(void **state)
{
	struct watched *watched = beside_bpftrace(BPFTRACE(GENERATE), 12);

	(void)state;
	assert_true(watched_calls(watched, "cuLaunchKernel") > 100);
	free(watched);
}

static void counts_and_bytes_of_clients_are_those_of_bpftrace(void **state)
{
	struct watched *watched = beside_bpftrace(
		BPFTRACE("sh -c 'export SOFTCUDA_STRICT=0 LD_LIBRARY_PATH=$FOLDER; cd ${BUILD:-build}/tests; "
			 "clients/vector_add softcuda/softcuda_kernels.so && clients/leaks && "
			 "clients/calls queries 8388608 4 && clients/calls threads 8388608 4 "
			 "softcuda/softcuda_kernels.so'"),
		10);

	(void)state;
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 8);
	assert_true(watched_calls(watched, "cuLaunchKernel") > 0);
	free(watched);
}

static int64_t peak_of(const char *source)
{
	char command[512];
	struct process process;
	int64_t peak;
	json_t *report;

	snprintf(command, sizeof(command), "kvshare-run profile --source %s -o $TRACE -- " GENERATE " --no-premap -q",
		source);
	process = run(command, 0);
	report = run_json("kvshare-run report --json $TRACE");
	peak = json_integer_value(json_object_get(json_object_get(report, "memory"), "peak_physical_bytes"));
	json_decref(report);
	process_free(&process);
	return peak;
}

/* What kvshare says of itself is compared with softcuda's counters in ours_test. */
static void the_peak_is_what_kvshare_itself_says(void **state)
{
	(void)state;
	assert_true(
		peak_of("ebpf") > 4 << 20); /* K and V in blocks of 64 KiB, and workspace; weights stay in their file */
	assert_int_equal(peak_of("ebpf"), peak_of("ours"));
	assert_int_equal(peak_of("auto"), peak_of("ours"));
}

static void what_is_watched_does_what_it_does_unwatched(void **state)
{
	struct process alone = run(GENERATE " -q", 0);
	struct process watched = run("kvshare-run profile -o $TRACE -- " GENERATE " -q", 0);

	(void)state;
	assert_string_equal(alone.out, watched.out);
	process_free(&alone);
	process_free(&watched);
}

/* ---- devices ---- */

/* The device is /dev/null's twin under another name; the path that is opened does not exist. Counts are told while it runs, too. */
static void opens_and_ioctls_of_the_kernel_driver_are_counted(void **state)
{
	struct watched *watched;

	(void)state;
	watched = profile(
		"mknod $FOLDER/nvidia-test c 1 3 && kvshare-run profile --source ebpf -o $TRACE -- python3 -c '\n"
		"import fcntl, os, time\n"
		"null = os.open(os.environ[\"FOLDER\"] + \"/nvidia-test\", os.O_RDONLY)\n"
		"for i in range(7):\n"
		"    try: fcntl.ioctl(null, 0x4601)\n"
		"    except OSError: pass\n"
		"    time.sleep(0.3)\n"
		"for i in range(3):\n"
		"    try: os.open(\"/dev/nvidia-kvshare-test\", os.O_RDONLY)\n"
		"    except OSError: pass\n'");
	assert_int_equal(watched_calls(watched, "ioctl(nvidia-test)"), 7);
	assert_int_equal(watched_function(watched, 0, "ioctl(nvidia-test)")->failures, 7);
	assert_int_equal(watched_calls(watched, "open(nvidia-kvshare-test)"), 3);
	assert_int_equal(watched_function(watched, 0, "open(nvidia-kvshare-test)")->failures, 3);
	free(watched);
}

/* ---- the command ---- */

static void the_exit_status_is_the_programs_own(void **state)
{
	static const struct {
		const char *command;
		int status;
	} cases[] = {{"sh -c 'exit 7'", 7}, {"sh -c 'kill -TERM $$'", 128 + 15}, {"true", 0}, {"/nowhere/program", 127},
		{"/dev/null", 126}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		static const char *const sources[] = {"ebpf", "ours", "auto"};
		for (size_t s = 0; s < sizeof(sources) / sizeof(*sources); s++) {
			char command[256];
			snprintf(command, sizeof(command), "kvshare-run profile --source %s -o $TRACE -- %s",
				sources[s], cases[i].command);
			struct process process = run(command, cases[i].status);
			assert_string_equal(process.out, "");
			assert_int_equal(access(trace, F_OK) != 0, cases[i].status == 126 || cases[i].status == 127);
			process_free(&process);
		}
	}
}

static void a_program_without_cuda_is_said_to_be_one(void **state)
{
	struct process process = run("kvshare-run profile --source ebpf -o $TRACE -- true", 0);

	(void)state;
	assert_non_null(strstr(process.err, "no process mapped libcuda.so.1"));
	assert_non_null(strstr(process.err, "the trace is in"));
	process_free(&process);
}

static void cupti_finds_its_library_and_nvtx_its(void **state)
{
	char library[4096], line[4200];
	struct process process;

	(void)state;
	if (!realpath(built("libkvshare-cupti.so"), library)) {
		process = run("kvshare-run profile --source cupti -o $TRACE -- true", 1);
		assert_non_null(strstr(process.err, "libkvshare-cupti.so is not beside"));
		process_free(&process);
		skip();
	}
	setenv("FAKE", built("tests/profiler/fake-cupti/full"), 1);
	process =
		run("LD_LIBRARY_PATH=$PWD/$FAKE kvshare-run profile --source cupti --max-size 1M -o $TRACE -- env", 0);
	snprintf(line, sizeof(line), "CUDA_INJECTION64_PATH=%s\n", library);
	assert_non_null(strstr(process.out, line));
	snprintf(line, sizeof(line), "/%s/libcupti.so.13\n", getenv("FAKE"));
	assert_non_null(strstr(process.out, line));
	assert_non_null(strstr(process.out, "NVTX_INJECTION64_PATH=/"));
	snprintf(line, sizeof(line), "KVSHARE_PROFILE=%s\n", trace);
	assert_non_null(strstr(process.out, line));
	assert_non_null(strstr(process.out, "KVSHARE_PROFILE_MAX_BYTES=1048576\n"));
	process_free(&process);
}

/* The program is not harmed: it goes on. */
static void a_driver_that_is_none_is_named(void **state)
{
	struct process process =
		run("cp $(ldd $(command -v kvshare-run) | awk '/libz.so/ {print $3}') $FOLDER/libcuda.so.1 && "
		    "kvshare-run profile --source ebpf -o $TRACE -- env LD_PRELOAD=$FOLDER/libcuda.so.1 echo done",
			0);

	(void)state;
	assert_string_equal(process.out, "done\n");
	assert_non_null(
		strstr(process.err, "a driver could not be watched: no functions of the CUDA driver are in it"));
	process_free(&process);
}

/* Ctrl-C at a terminal reaches both; the program decides. */
static void an_interrupt_is_the_programs_to_answer(void **state)
{
	char up[128];
	int status;
	pid_t child = fork();

	(void)state;
	snprintf(up, sizeof(up), "%s/up", folder);
	if (!child) {
		setpgid(0, 0);
		execl(built("kvshare-run"), "kvshare-run", "profile", "-o", trace, "--", "sh", "-c",
			"trap 'exit 9' INT; touch $FOLDER/up; while :; do sleep 0.1; done", NULL);
		_exit(127);
	}
	for (int i = 0; i < 300 && access(up, F_OK); i++)
		usleep(100000);
	kill(-child, SIGINT);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 9);
	free(watched_read(trace));
}

static void a_trace_is_no_longer_than_asked(void **state)
{
	struct process process = run(
		"kvshare-run profile --source ebpf --max-size 4K -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA rounds 2000",
		0);
	struct watched *watched = watched_read(trace);
	FILE *file = fopen(trace, "r");

	(void)state;
	assert_non_null(file);
	fseek(file, 0, SEEK_END);
	assert_true(ftell(file) <= 4096);
	fclose(file);
	assert_true(watched->lost > 0);
	assert_non_null(strstr(process.err, "events were lost"));
	free(watched);
	process_free(&process);
}

/* ---- namespaces ---- */

/* The driver lies where the profiler cannot see it, as in a container. */
static void a_driver_in_another_mount_namespace_is_watched(void **state)
{
	struct watched *watched = profile(
		"cp $KVSHARE_SOFTCUDA $FOLDER/driver && mkdir -p $FOLDER/hidden && "
		"kvshare-run profile --source ebpf -o $TRACE -- unshare -m sh -ec 'mount -t tmpfs none $FOLDER/hidden; "
		"cp $FOLDER/driver $FOLDER/hidden/libcuda.so.1; exec $CLIENT $FOLDER/hidden/libcuda.so.1 rounds 5'");

	(void)state;
	assert_rounds(watched, 0, 5);
	free(watched);
}

/* Processes have the numbers of the namespace that the profiler itself is in. */
static void processes_are_numbered_as_the_profiler_sees_them(void **state)
{
	struct watched *watched = profile(
		"unshare -pf --mount-proc kvshare-run profile --source ebpf -o $TRACE -- $CLIENT $KVSHARE_SOFTCUDA "
		"threads 5");

	(void)state;
	assert_rounds(watched, 0, 20);
	assert_true(watched->processes[0].pid < 100);
	for (size_t i = 0; i < watched->tid_count; i++)
		assert_in_range(watched->tids[i], 1, 100);
	free(watched);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_is_told_once_with_what_it_was_about),
		cmocka_unit_test(an_allocation_tells_where_it_was_called_from),
		cmocka_unit_test(calls_of_all_threads_are_told),
		cmocka_unit_test(a_driver_that_is_loaded_late_is_watched_from_its_first_call),
		cmocka_unit_test(children_are_watched_from_birth),
		cmocka_unit_test(addresses_bytes_and_handles_are_those_of_the_calls),
		cmocka_unit_test(counts_and_bytes_are_those_of_bpftrace),
		cmocka_unit_test(counts_and_bytes_of_clients_are_those_of_bpftrace),
		cmocka_unit_test(the_peak_is_what_kvshare_itself_says),
		cmocka_unit_test(what_is_watched_does_what_it_does_unwatched),
		cmocka_unit_test(opens_and_ioctls_of_the_kernel_driver_are_counted),
		cmocka_unit_test(the_exit_status_is_the_programs_own),
		cmocka_unit_test(a_program_without_cuda_is_said_to_be_one),
		cmocka_unit_test(cupti_finds_its_library_and_nvtx_its),
		cmocka_unit_test(a_driver_that_is_none_is_named),
		cmocka_unit_test(an_interrupt_is_the_programs_to_answer),
		cmocka_unit_test(a_trace_is_no_longer_than_asked),
		cmocka_unit_test(a_driver_in_another_mount_namespace_is_watched),
		cmocka_unit_test(processes_are_numbered_as_the_profiler_sees_them),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
