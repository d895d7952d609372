/*
 * tests/profiler/cost_test.c: a call that somebody watches costs at most three times as much more as it did when it was measured
 * (docs/measurements/host.md). It is CPU time, and the least of several tries counts: a machine that is busy adds to some of
 * them, code that became slower to all. One that is another make of machine may have other figures: KVS_TEST_COST=FACTOR.
 */
#include "call_cost.h"
#include "watched.h"

#include "../../driver/cu.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TRIES 7

static char trace[] = "/tmp/kvshare-cost-XXXXXX";

/* Nanoseconds that it takes more with `watched` than with `bare`: least of all tries so far is kept in *least. */
static void try_once(
	const struct call_server *bare, const struct call_server *watched, enum call_kind kind, double *least)
{
	double without = call_server_ask(bare, kind), with = call_server_ask(watched, kind);

	assert_true(without > 0 && with > 0);
	*least = with - without < *least ? with - without : *least;
}

static void check(const char *who, enum call_kind kind, double more_ns, double measured_ns)
{
	const char *given = getenv("KVS_TEST_COST");
	double most = (given ? atof(given) : 3) * measured_ns;

	print_message("%s, %s: +%.0f ns (measured: %.0f)\n", who, call_kind_names[kind], more_ns, measured_ns);
	if (more_ns > most)
		fail_msg("%s: %s takes %.0f ns more, at most %.0f are allowed", who, call_kind_names[kind], more_ns,
			most);
}

static void a_program_that_writes_a_trace_of_itself(void **state)
{
	static const double measured[] = {300, 300, 300}; /* it does not see system calls */
	struct call_server bare, watched;

	(void)state;
	assert_true(call_server_start(&bare, NULL) && call_server_start(&watched, trace));
	for (int kind = 0; kind < CALL_SYSTEM; kind++) {
		double least = 1e9;
		for (int i = 0; i < TRIES && least > measured[kind]; i++)
			try_once(&bare, &watched, kind, &least);
		check("ours", kind, least, measured[kind]);
	}
	call_server_end(&bare);
	call_server_end(&watched);
}

/* Through the kernel; the other one has the same driver, and is not watched. */
static void a_program_that_the_kernel_watches(void **state)
{
	static const double measured[CALL_KINDS] = {3600, 3700, 3200, 310};
	struct call_server bare, watched;
	kvs_trace *out;
	kvs_watch *watch = NULL;
	double without[CALL_KINDS], least;

	(void)state;
	if (kvs_watch_check()) {
		print_message("%s\n", kvs_error());
		if (getenv("KVS_TEST_EBPF"))
			fail();
		skip();
	}
	assert_true(call_server_start(&watched, NULL) && call_server_start(&bare, NULL));
	call_server_ask(&watched, CALL_TOLD); /* its driver is open now */
	for (int kind = 0; kind < CALL_KINDS; kind++) {
		without[kind] = call_server_ask(&bare, kind);
		for (int i = 1; i < TRIES; i++) {
			double once = call_server_ask(&bare, kind);
			without[kind] = once < without[kind] ? once : without[kind];
		}
	}
	if (kvs_trace_open(trace, NULL, &out) || kvs_watch_open(watched.pid, out, NULL, &watch))
		fail_msg("%s", kvs_error());
	for (int kind = 0; kind < CALL_KINDS; kind++) {
		least = 1e9;
		for (int i = 0; i < TRIES && least > measured[kind]; i++) {
			double once = call_server_ask(&watched, kind) - without[kind];
			least = once < least ? once : least;
			kvs_watch_poll(watch, 50);
		}
		check("the kernel", kind, least, measured[kind]);
	}
	kvs_watch_close(watch);
	kvs_trace_close(out);
	call_server_end(&bare);
	call_server_end(&watched);
}

static int make_trace(void **state)
{
	int fd = mkstemp(trace);

	(void)state;
	close(fd);
	signal(SIGPIPE, SIG_IGN);
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
		cmocka_unit_test(a_program_that_writes_a_trace_of_itself),
		cmocka_unit_test(a_program_that_the_kernel_watches),
	};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("sanitizers take time of their own");
	return 77;
#endif
	return cmocka_run_group_tests(tests, make_trace, remove_trace);
}
