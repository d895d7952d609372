/*
 * tests/profiler/attach_test.c: a process that runs is watched within a second, and left as it was: it runs on, and no probe, program
 * or link of ours is left in the kernel. What cannot be watched is said in one line.
 */
#include "watched.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], trace[96];

static int folder_make(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/kvshare-attached-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(trace, sizeof(trace), "%s/trace", folder);
	return setenv("TRACE", trace, 1) || setenv("FOLDER", folder, 1) ||
	       setenv("CLIENT", built("tests/profiler/watched_client"), 1);
}

static int folder_remove(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* ---- targets ---- */

struct target {
	pid_t pid;
	FILE *out;
};

static struct target target_start_on(const char *driver, const char *mode, const char *rounds)
{
	struct target target;
	int out[2];

	assert_int_equal(pipe(out), 0);
	target.pid = fork();
	assert_true(target.pid >= 0);
	if (!target.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* where the test fails */
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl(built("tests/profiler/watched_client"), "watched_client", driver, mode, rounds, NULL);
		_exit(127);
	}
	close(out[1]);
	target.out = fdopen(out[0], "r");
	assert_non_null(target.out);
	return target;
}

static struct target target_start(const char *mode, const char *rounds)
{
	return target_start_on(getenv("KVSHARE_SOFTCUDA"), mode, rounds);
}

static void target_wait_until_ready(const struct target *target)
{
	char line[32] = "";

	assert_non_null(fgets(line, sizeof(line), target->out));
	assert_string_equal(line, "ready\n");
}

/* Gives its status. */
static int target_end(struct target *target, int signal)
{
	int status;

	if (signal)
		kill(target->pid, signal);
	assert_int_equal(waitpid(target->pid, &status, 0), target->pid);
	fclose(target->out);
	return status;
}

static struct process attach(pid_t pid, const char *options, int status)
{
	char command[512];
	struct process process;

	snprintf(command, sizeof(command), "kvshare-run attach -p %d -o $TRACE %s", pid, options);
	process = run_shell(command, 60);
	if (process.status != status)
		fail_msg("`%s` ended with %d: %s", command, process.status, process.err);
	assert_string_equal(process.out, "");
	return process;
}

/* ---- the kernel ---- */

/* Programs of the kernel with names of ours. A link (`bpftool link`) holds its program, so that none is left where no program is. */
static int ours_in_the_kernel(void)
{
	struct process process =
		run_shell("bpftool prog show | grep -cE 'name (call_begins|call_ends|process_|thread_exits|"
			  "system_call_|find_target)'; true",
			60);
	int count = atoi(process.out);

	process_free(&process);
	return count;
}

/* The code that is mapped; the page that the kernel itself adds for its probes stays until the process ends. */
static char *code_of(pid_t pid)
{
	char command[128];
	struct process process;

	snprintf(command, sizeof(command), "grep -v uprobes /proc/%d/maps | grep ' r-xp '", pid);
	process = run_shell(command, 60);
	assert_int_equal(process.status, 0);
	free(process.err);
	return process.out;
}

/* A sum (FNV-1a) of the bytes of the driver's code as the process has them: a probe is a breakpoint there. */
static uint64_t driver_sum(pid_t pid)
{
	char name[64], line[512], *driver = NULL, *all = code_of(pid), *rest = all, *code;
	uint64_t start, end, sum = 14695981039346656037u;
	FILE *memory;

	while (!driver && (driver = strsep(&rest, "\n")))
		driver = strstr(driver, "libcuda.so") ? driver : NULL;
	snprintf(line, sizeof(line), "%s", driver ? driver : "");
	free(all);
	assert_int_equal(sscanf(line, "%lx-%lx", &start, &end), 2);
	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	memory = fopen(name, "r");
	code = malloc(end - start);
	assert_non_null(memory);
	assert_non_null(code);
	assert_int_equal(fseek(memory, (long)start, SEEK_SET), 0);
	assert_int_equal(fread(code, 1, end - start, memory), end - start);
	fclose(memory);
	for (uint64_t i = 0; i < end - start; i++)
		sum = (sum ^ (unsigned char)code[i]) * 1099511628211u;
	free(code);
	return sum;
}

/* ---- tests ---- */

static void a_process_is_watched_and_left_as_it_was(void **state)
{
	struct target target = target_start("forever", "0");
	struct process process;
	struct watched *watched;
	char *before, *after;
	uint64_t sum;
	int ours = ours_in_the_kernel(), left;

	(void)state;
	target_wait_until_ready(&target);
	before = code_of(target.pid);
	sum = driver_sum(target.pid);
	process = attach(target.pid, "--seconds 1", 0);
	after = code_of(target.pid);
	assert_string_equal(before, after);
	assert_true(driver_sum(target.pid) == sum);
	left = ours_in_the_kernel();
	for (int i = 0; i < 300 && left > ours; i++) {
		usleep(100000); /* the kernel takes a moment to free them, and tests beside this one have theirs */
		left = ours_in_the_kernel();
	}
	assert_true(left <= ours);
	assert_non_null(strstr(process.err, "watching process"));
	watched = watched_read(trace);
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 10);
	assert_true(watched_function(watched, target.pid, "cuMemAlloc_v2")->bytes ==
		    4096 * watched_calls(watched, "cuMemAlloc_v2"));
	assert_int_equal(watched->process_count, 1);
	assert_int_equal(watched->processes[0].pid, target.pid);
	assert_int_equal(watched->processes[0].parent, getpid());
	assert_int_equal(watched->processes[0].status, -1);
	free(watched);

	/* It runs on, and can be watched again. */
	process_free(&process);
	process = attach(target.pid, "--seconds 1", 0);
	watched = watched_read(trace);
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 10);
	free(watched);
	free(before);
	free(after);
	process_free(&process);
	assert_int_equal(WTERMSIG(target_end(&target, SIGTERM)), SIGTERM);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static kvs_watch *watch_open(pid_t pid, kvs_trace **out, const struct kvs_watch_options *options)
{
	kvs_watch *watch = NULL;

	if (kvs_trace_open(trace, NULL, out) || kvs_watch_open(pid, *out, options, &watch))
		fail_msg("%s", kvs_error());
	return watch;
}

/* How long it took from attaching to the first event, in ms. */
static uint64_t first_event_ms(void)
{
	struct target target = target_start("forever", "0");
	struct kvs_watch_state seen = {0};
	kvs_trace *out;
	kvs_watch *watch = NULL;
	uint64_t begin, took;

	target_wait_until_ready(&target);
	begin = now_ms();
	watch = watch_open(target.pid, &out, NULL);
	while (!seen.events && now_ms() < begin + 10000) {
		assert_int_equal(kvs_watch_poll(watch, 20), 1);
		kvs_watch_get_state(watch, &seen);
	}
	took = now_ms() - begin;
	assert_true(seen.events > 0);
	kvs_watch_close(watch);
	kvs_trace_close(out);
	target_end(&target, SIGKILL);
	unlink(trace);
	return took;
}

/* The best of a few: on a machine with more work than processors somebody else may have the second. */
static void events_come_within_a_second(void **state)
{
	uint64_t best = first_event_ms();

	(void)state;
	for (int i = 0; i < 4 && best >= 1000; i++) {
		uint64_t took = first_event_ms();
		best = took < best ? took : best;
	}
	print_message("the first event came after %d ms\n", (int)best);
	assert_true(best < 1000);
}

/* What the kernel has no room for is counted: nothing is missing without a word. */
static void a_ring_that_is_too_small_counts_what_it_loses(void **state)
{
	static const struct kvs_watch_options options = {.ring_bytes = 4096};
	struct target target = target_start("late", "2000");
	struct kvs_watch_state seen;
	struct watched *watched;
	kvs_trace *out;
	kvs_watch *watch = NULL;

	(void)state;
	watch = watch_open(target.pid, &out, &options);
	do { /* slow enough to be overrun */
		usleep(300000);
	} while (kvs_watch_poll(watch, 0) > 0);
	kvs_watch_stop(watch);
	kvs_watch_get_state(watch, &seen);
	kvs_watch_close(watch);
	assert_int_equal(kvs_trace_close(out), 0);
	watched = watched_read(trace);
	assert_true(seen.lost > 0);
	assert_int_equal(watched->lost, seen.lost);
	assert_int_equal(watched_all(watched, "cu"), seen.events);
	assert_true(seen.ended);
	free(watched);
	assert_int_equal(target_end(&target, 0), 0);
}

static void a_driver_that_comes_later_is_watched(void **state)
{
	struct target target;
	struct process process;
	struct watched *watched;

	(void)state;
	setenv("LATE_MS", "3000", 1); /* on a crowded machine it takes long to attach */
	target = target_start("late", "3000");
	unsetenv("LATE_MS");
	process = attach(target.pid, "", 0);
	watched = watched_read(trace);
	assert_non_null(strstr(process.err, "has not mapped libcuda.so.1 yet"));
	assert_non_null(strstr(process.err, "has ended with status 0"));
	assert_true(watched_calls(watched, "cuMemFree_v2") > 0);
	assert_int_equal(watched->processes[0].status, 0);
	free(watched);
	process_free(&process);
	assert_int_equal(target_end(&target, 0), 0);
}

/* As after an upgrade: what lies at its path by now is another file. */
static void a_driver_whose_file_was_replaced_is_watched(void **state)
{
	char driver[128];
	struct target target;
	struct process process;
	struct watched *watched;

	(void)state;
	snprintf(driver, sizeof(driver), "%s/libcuda.so.1", folder);
	process = run_shell("cp $KVSHARE_SOFTCUDA $FOLDER/libcuda.so.1", 60);
	process_free(&process);
	target = target_start_on(driver, "forever", "0");
	target_wait_until_ready(&target);
	process = run_shell("rm $FOLDER/libcuda.so.1 && cp /bin/true $FOLDER/libcuda.so.1", 60);
	assert_int_equal(process.status, 0);
	process_free(&process);
	process = attach(target.pid, "--seconds 1.5", 0);
	watched = watched_read(trace);
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 10);
	free(watched);
	process_free(&process);
	target_end(&target, SIGTERM);
}

/* As one in a container: its driver lies where nobody else sees it, and another file at the same path here. */
static void a_process_in_another_mount_namespace_is_watched(void **state)
{
	struct process process =
		run_shell("mkdir -p $FOLDER/hidden && cp $KVSHARE_SOFTCUDA $FOLDER/driver && cp /bin/true "
			  "$FOLDER/hidden/libcuda.so.1 && "
			  "mkfifo $FOLDER/up && { unshare -m sh -ec 'mount -t tmpfs none $FOLDER/hidden; "
			  "cp $FOLDER/driver $FOLDER/hidden/libcuda.so.1; "
			  "exec $CLIENT $FOLDER/hidden/libcuda.so.1 forever 0' >$FOLDER/up & } && target=$! && read "
			  "ready <$FOLDER/up && "
			  "kvshare-run attach -p $target --seconds 1.5 -o $TRACE; code=$?; kill $target; exit $code",
			60);
	struct watched *watched;

	(void)state;
	if (process.status)
		fail_msg("%d: %s", process.status, process.err);
	watched = watched_read(trace);
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 10);
	free(watched);
	process_free(&process);
}

static void a_process_that_is_killed_is_told_of(void **state)
{
	struct target target = target_start("forever", "0");
	struct process process;
	char command[256];

	(void)state;
	target_wait_until_ready(&target);
	snprintf(command, sizeof(command),
		"kvshare-run attach -p %d -o $TRACE 2>$FOLDER/said & attach=$!; "
		"until grep -q watching $FOLDER/said; do sleep 0.1; done; "
		"kill -KILL %d; wait $attach; code=$?; cat $FOLDER/said >&2; exit $code",
		target.pid, target.pid);
	process = run_shell(command, 60);
	assert_int_equal(process.status, 0);
	assert_non_null(strstr(process.err, "was ended by signal 9"));
	process_free(&process);
	target_end(&target, 0);
}

static void a_profiler_that_is_killed_leaves_nothing(void **state)
{
	struct target target = target_start("forever", "0");
	struct watched *watched;
	uint64_t sum;
	pid_t profiler;

	(void)state;
	target_wait_until_ready(&target);
	sum = driver_sum(target.pid);
	profiler = fork();
	if (!profiler) {
		char pid[16];
		snprintf(pid, sizeof(pid), "%d", target.pid);
		execl(built("kvshare-run"), "kvshare-run", "attach", "-p", pid, "-o", trace, NULL);
		_exit(127);
	}
	for (int i = 0; i < 300 && driver_sum(target.pid) == sum; i++)
		usleep(100000);
	assert_true(driver_sum(target.pid) != sum); /* there are probes now */
	sleep(1);
	kill(profiler, SIGKILL);
	waitpid(profiler, NULL, 0);
	for (int i = 0; i < 300 && driver_sum(target.pid) != sum; i++)
		usleep(100000);
	assert_true(driver_sum(target.pid) == sum);
	watched = watched_read(trace);
	assert_true(watched_calls(watched, "cuMemAlloc_v2") > 10);
	free(watched);
	assert_int_equal(WTERMSIG(target_end(&target, SIGTERM)), SIGTERM);
}

static void what_cannot_be_watched_is_said_in_one_line(void **state)
{
	/* Nobody's process, the kernel's, no number of one, and somebody's who is not root. */
	static const struct {
		const char *command, *said;
		int status;
	} cases[] = {
		{"kvshare-run attach -p 2147483647 -o $TRACE", "there is no process 2147483647", 1},
		{"kvshare-run attach -p $(pgrep -x kthreadd) -o $TRACE", "runs no program", 1},
		{"kvshare-run attach -p 0 -o $TRACE", "a whole number from 1", 2},
		{"chmod 755 $FOLDER; setpriv --reuid 65534 --clear-groups $(command -v kvshare-run) attach -p $$ -o "
		 "$TRACE",
			"needs root, or CAP_BPF and CAP_PERFMON", 1},
		{"setpriv --reuid 65534 --clear-groups $(command -v kvshare-run) profile --source ebpf -o $TRACE -- "
		 "true",
			"needs root, or CAP_BPF and CAP_PERFMON", 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct process process;
		unlink(trace);
		process = run_shell(cases[i].command, 60);
		if (process.status != cases[i].status || !strstr(process.err, cases[i].said) || process.out[0])
			fail_msg("%s: status %d: %s", cases[i].command, process.status, process.err);
		assert_int_equal(access(trace, F_OK), -1);
		process_free(&process);
	}
}

static void a_process_that_has_ended_is_no_process(void **state)
{
	pid_t child = fork();
	kvs_watch *watch = NULL;
	kvs_trace *out;

	(void)state;
	if (!child)
		_exit(0);
	usleep(200000); /* it waits for us to ask for its status */
	assert_int_equal(kvs_trace_open(trace, NULL, &out), 0);
	assert_int_equal(kvs_watch_open(child, out, NULL, &watch), -ESRCH);
	kvs_trace_close(out);
	waitpid(child, NULL, 0);
}

static void a_process_without_cuda_is_said_to_have_none(void **state)
{
	struct process process = run_shell(
		"sleep 30 & kvshare-run attach -p $! --seconds 0.5 -o $TRACE; code=$?; kill $!; exit $code", 60);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_non_null(strstr(process.err, "has not mapped libcuda.so.1 yet"));
	assert_non_null(strstr(process.err, "no process mapped libcuda.so.1"));
	process_free(&process);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_is_watched_and_left_as_it_was),
		cmocka_unit_test(events_come_within_a_second),
		cmocka_unit_test(a_ring_that_is_too_small_counts_what_it_loses),
		cmocka_unit_test(a_driver_that_comes_later_is_watched),
		cmocka_unit_test(a_driver_whose_file_was_replaced_is_watched),
		cmocka_unit_test(a_process_in_another_mount_namespace_is_watched),
		cmocka_unit_test(a_process_that_is_killed_is_told_of),
		cmocka_unit_test(a_profiler_that_is_killed_leaves_nothing),
		cmocka_unit_test(what_cannot_be_watched_is_said_in_one_line),
		cmocka_unit_test(a_process_that_has_ended_is_no_process),
		cmocka_unit_test(a_process_without_cuda_is_said_to_have_none),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
