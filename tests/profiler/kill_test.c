/*
 * tests/profiler/kill_test.c: whoever is killed at whatever moment, the other one goes on, and the trace can be read. A target that
 * stands still for its probes when the profiler is killed must not stand for ever.
 *
 * KVS_TEST_SEED repeats a run.
 */
#include "watched.h"

#include "../../driver/cu.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 25
#define LONGEST_MS 300 /* loading our programs takes half of it */
#define PATIENCE_MS 20000

static char trace[] = "/tmp/kvshare-kill-XXXXXX";

static pid_t start(void)
{
	char client[512];
	pid_t child = fork();

	if (child)
		return child;
	snprintf(client, sizeof(client), "%s", built("tests/profiler/watched_client"));
	if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
		_exit(127);
	/* It looks for leaks from a process of its own, which would be killed in the target's place: then it waits for ever. */
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
	execl(built("kvshare-run"), "kvshare-run", "profile", "--source", "ebpf", "-o", trace, "--", client,
		getenv("KVSHARE_SOFTCUDA"), "rounds", "300", NULL);
	_exit(127);
}

/* 0: it has none, now. */
static pid_t only_child_of(pid_t pid)
{
	char name[64];
	int child = 0;
	FILE *children;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", pid, pid);
	children = fopen(name, "r");
	if (children && fscanf(children, "%d", &child) != 1)
		child = 0;
	if (children)
		fclose(children);
	return child;
}

/* Orphans are this program's children, as it is their subreaper. Gives the status of `pid`; false: somebody never ended. */
static bool wait_for_all(pid_t pid, int *status)
{
	for (int ms = 0; ms < PATIENCE_MS; ms += 10) {
		int ended;
		pid_t who;
		while ((who = waitpid(-1, &ended, WNOHANG)) > 0)
			if (who == pid)
				*status = ended;
		if (who < 0)
			return true; /* none is left */
		usleep(10000);
	}
	return false;
}

static void check_trace(void)
{
	kvs_trace_reader *reader;
	struct kvs_event event;
	struct stat st;
	int more;

	if (stat(trace, &st) || !st.st_size)
		return; /* it was killed before it began, or took the empty trace away with it */
	if (kvs_trace_read(trace, &reader))
		fail_msg("%s", kvs_error());
	while ((more = kvs_trace_next(reader, &event, NULL)) > 0)
		continue;
	assert_int_equal(more, 0);
	kvs_trace_reader_close(reader);
}

static void someone_is_killed(bool the_profiler, unsigned after_ms)
{
	pid_t profiler = start(), target;
	int status = 0;

	usleep(1000 * after_ms);
	target = only_child_of(profiler);
	if (the_profiler || target)
		kill(the_profiler ? profiler : target, SIGKILL);
	if (!wait_for_all(profiler, &status)) {
		kill(target, SIGKILL);
		fail_msg("after %u ms: a process never ended", after_ms);
	}
	/* The target's, or 0 where it had ended; 1 where there was nothing yet to be watched. */
	if (!the_profiler && target &&
		(!WIFEXITED(status) || (WEXITSTATUS(status) != 128 + SIGKILL && WEXITSTATUS(status) > 1)))
		fail_msg("after %u ms: the profiler of a killed program ended with %x", after_ms, status);
	check_trace();
}

/* Or nothing would be killed that matters. */
static void unharmed_all_is_told(void **state)
{
	pid_t profiler = start();
	struct watched *watched;
	int status = -1;

	(void)state;
	assert_true(wait_for_all(profiler, &status));
	assert_int_equal(status, 0);
	watched = watched_read(trace);
	assert_int_equal(watched_calls(watched, "cuMemAlloc_v2"), 300);
	free(watched);
}

static void kill_at_random_moments(bool the_profiler)
{
	const char *given = getenv("KVS_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);

	print_message("KVS_TEST_SEED=%u\n", seed);
	for (int i = 0; i < ROUNDS; i++)
		someone_is_killed(the_profiler, (unsigned)rand_r(&seed) % LONGEST_MS);
}

static void a_killed_profiler_leaves_a_trace_and_a_program_that_goes_on(void **state)
{
	(void)state;
	kill_at_random_moments(true);
}

static bool stands_still(pid_t pid)
{
	char name[64], state = 0;
	FILE *stat;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	stat = fopen(name, "r");
	if (stat && fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (stat)
		fclose(stat);
	return state == 'T';
}

/* Waits for the moment in which it does; false: it was not seen, as that is short. */
static bool kill_the_profiler_while_it_stands(void)
{
	pid_t profiler = start(), target = 0;
	bool stood = false;
	int status;

	while (!stood && !waitpid(profiler, &status, WNOHANG)) {
		target = target ? target : only_child_of(profiler);
		stood = target && stands_still(target);
	}
	if (stood)
		kill(profiler, SIGKILL);
	if (!wait_for_all(profiler, &status)) {
		kill(target, SIGKILL);
		fail_msg("a program stands still for ever");
	}
	return stood;
}

static void a_program_that_stands_for_its_probes_goes_on_without_a_profiler(void **state)
{
	int stood = 0;

	(void)state;
	for (int i = 0; i < 100 && stood < 5; i++)
		stood += kill_the_profiler_while_it_stands();
	assert_true(stood > 0);
}

static void a_killed_program_leaves_a_trace_and_a_profiler_that_ends(void **state)
{
	(void)state;
	kill_at_random_moments(false);
}

static int set_up(void **state)
{
	int fd = mkstemp(trace);

	(void)state;
	close(fd);
	return fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static int remove_trace(void **state)
{
	(void)state;
	unlink(trace);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unharmed_all_is_told),
		cmocka_unit_test(a_killed_profiler_leaves_a_trace_and_a_program_that_goes_on),
		cmocka_unit_test(a_program_that_stands_for_its_probes_goes_on_without_a_profiler),
		cmocka_unit_test(a_killed_program_leaves_a_trace_and_a_profiler_that_ends),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, set_up, remove_trace);
}
