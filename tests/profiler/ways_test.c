/*
 * tests/profiler/ways_test.c: probes see the same calls in every way in which kernels of different age have them, and tell a
 * program's calls from those that the driver makes itself.
 */
#include "watched.h"

#include "../../driver/cu.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW_US 20000

static char trace[] = "/tmp/kvshare-ways-XXXXXX";

/* ---- the program ---- */

static jmp_buf back;

static void leave(void)
{
	longjmp(back, 1);
}

static void *find(void *driver, const char *name)
{
	void *function = dlsym(driver, name);

	if (!function)
		_exit(EXIT_FAILURE);
	return function;
}

static void make_calls(void *driver)
{
	int (*allocate)(uint64_t *, uint64_t) = find(driver, "cuMemAlloc_v2");
	int (*allocate_pitch)(uint64_t *, uint64_t *, uint64_t, uint64_t, unsigned) =
		find(driver, "cuMemAllocPitch_v2");
	int (*release)(uint64_t) = find(driver, "cuMemFree_v2");
	int (*copy)(uint64_t, uint64_t, uint64_t, void *) = find(driver, "cuMemcpyAsync");
	int (*copy_too)(uint64_t, uint64_t, uint64_t, void *) = find(driver, "cuMemcpyAsync_ptsz");
	int (*wait_for)(void (*)(void)) = find(driver, "cuStreamSynchronize");
	int (*launch)(unsigned, unsigned) = find(driver, "cuLaunchKernel");
	uint64_t address, pitch;

	for (int i = 0; i < 3; i++)
		allocate(&address, 100);
	allocate_pitch(&address, &pitch, 10, 5, 4);
	copy(1, 2, 30, NULL);
	copy_too(1, 2, 40, NULL);
	release(3); /* calls itself three times */
	for (volatile int i = 0; i < 2; i++)
		if (!setjmp(back))
			wait_for(leave); /* never returns */
	release(0);
	wait_for(NULL);
	for (unsigned i = 0; i < 10; i++)
		launch(i < 4, i == 9 ? SLOW_US : 0);
}

static pid_t start(int ready, int go)
{
	pid_t child = fork();
	char byte = 0;

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	void *driver = dlopen(built("tests/profiler/odd/libcuda.so.1"), RTLD_NOW);
	if (!driver || write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1)
		_exit(EXIT_FAILURE);
	make_calls(driver);
	_exit(EXIT_SUCCESS);
}

/* ---- the tests ---- */

static struct watched *watch(unsigned as_before)
{
	const struct kvs_watch_options options = {.as_before = as_before};
	int ready[2], go[2];
	kvs_trace *out;
	kvs_watch *watch = NULL;
	char byte = 0;
	pid_t child;

	assert_int_equal(pipe(ready) | pipe(go), 0);
	child = start(ready[1], go[0]);
	close(ready[1]); /* so that a child that fails is noticed */
	assert_int_equal(read(ready[0], &byte, 1), 1);
	if (kvs_trace_open(trace, NULL, &out) || kvs_watch_open(child, out, &options, &watch))
		fail_msg("%s", kvs_error());
	assert_int_equal(write(go[1], &byte, 1), 1);
	while (kvs_watch_poll(watch, 1000) > 0)
		continue;
	kvs_watch_close(watch);
	assert_int_equal(kvs_trace_close(out), 0);
	waitpid(child, NULL, 0);
	close(ready[0]);
	close(go[0]);
	close(go[1]);
	return watched_read(trace);
}

/* Counts may be told in several pieces. */
static void check_slow_launch(void)
{
	kvs_trace_reader *reader;
	struct kvs_event event;
	uint64_t slow = 0, total_ns = 0;

	assert_int_equal(kvs_trace_read(trace, &reader), 0);
	while (kvs_trace_next(reader, &event, NULL) > 0) {
		if (event.type != KVS_EVENT_CALLS || strcmp(event.calls.function, "cuLaunchKernel"))
			continue;
		total_ns += event.calls.total_ns;
		for (int b = 24; b < KVS_LATENCIES; b++) /* from 2^24 ns, 16.8 ms */
			slow += event.calls.latency[b];
	}
	kvs_trace_reader_close(reader);
	assert_true(slow >= 1);
	assert_true(total_ns >= SLOW_US * 1000);
}

static void check(unsigned as_before)
{
	struct watched *watched = watch(as_before);
	const struct watched_function *launches;

	/* The inner calls of an allocation and of a free are the driver's own. */
	assert_int_equal(watched_calls(watched, "cuMemAlloc_v2"), 3);
	assert_int_equal(watched_function(watched, 0, "cuMemAlloc_v2")->bytes, 300);
	assert_int_equal(watched_calls(watched, "cuMemAllocPitch_v2"), 1);
	assert_int_equal(watched_function(watched, 0, "cuMemAllocPitch_v2")->bytes, 60);
	assert_int_equal(watched_calls(watched, "cuMemFree_v2"), 2);
	assert_int_equal(
		watched_function(watched, 0, "cuMemFree_v2")->failures, 1); /* gives how often it called itself */
	/* Two names of one function are one function, and one call. */
	assert_int_equal(watched_calls(watched, "cuMemcpyAsync"), 2);
	assert_int_equal(watched_function(watched, 0, "cuMemcpyAsync")->bytes, 70);
	assert_int_equal(watched_calls(watched, "cuMemcpyAsync_ptsz"), 0);
	/* What never returned is no call; those behind it are. */
	assert_int_equal(watched_calls(watched, "cuStreamSynchronize"), 1);
	launches = watched_function(watched, 0, "cuLaunchKernel");
	assert_non_null(launches);
	assert_int_equal(launches->calls, 10);
	assert_int_equal(launches->failures, 4);
	assert_int_equal(watched->lost, 0);
	assert_int_equal(watched->processes[0].status, 0);
	free(watched);
	check_slow_launch();
}

static void probes_of_one_program_for_both_ends(void **state)
{
	(void)state;
	check(0);
}

static void probes_all_at_once(void **state)
{
	(void)state;
	check(1);
}

static void probes_one_by_one(void **state)
{
	(void)state;
	check(2);
}

static int make_trace(void **state)
{
	int fd = mkstemp(trace);

	(void)state;
	close(fd);
	return fd < 0;
}

static int remove_trace(void **state)
{
	(void)state;
	return unlink(trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probes_of_one_program_for_both_ends),
		cmocka_unit_test(probes_all_at_once),
		cmocka_unit_test(probes_one_by_one),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, make_trace, remove_trace);
}
