/*
 * tests/profiler/kill_test.c: whoever is killed at whatever moment, the other one goes on, and the trace can be read: 50 times a
 * target, 50 times the profiler, several at once, as they wait most of the time. Of a killed target nothing is missing: softcuda's
 * tally, which outlives it, knows; of a killed profiler at most the last moment. A target that stands still for its probes
 * when the profiler is killed must not stand for ever.
 *
 * KVS_TEST_SEED repeats a run.
 */
#include "watched.h"

#include "../../driver/cu.h"
#include "../../driver/softcuda/softcuda.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 50
#define AT_ONCE 10
#define LONGEST_MS 400 /* loading our programs takes half of it */
#define PATIENCE_MS 20000
#define FLUSH_MS 200 /* of a trace that nobody says anything about */
#define FETCH_MS 200 /* the profiler fetches what the kernel keeps for it at least that often */

/* One profiler with its target, each with files of its own. */
struct pair {
	pid_t profiler, target;
	bool the_profiler; /* is killed; else its target */
	unsigned after_ms;
	int status; /* of the profiler */
	char trace[96], tally[96];
};

static char folder[] = "/tmp/kvshare-kill-XXXXXX";

static void start(struct pair *pair, const char *mode, const char *rounds)
{
	char client[512];

	unlink(pair->trace);
	unlink(pair->tally);
	pair->target = 0;
	pair->status = 0;
	pair->profiler = fork();
	assert_true(pair->profiler >= 0);
	if (pair->profiler)
		return;
	snprintf(client, sizeof(client), "%s", built("tests/profiler/watched_client"));
	if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
		_exit(127);
	/* It looks for leaks from a process of its own, which would be killed in the target's place: then it waits for ever. */
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
	setenv("SOFTCUDA_TALLY", pair->tally, 1);
	execl(built("kvshare-run"), "kvshare-run", "profile", "--source", "ebpf", "-o", pair->trace, "--", client,
		getenv("KVSHARE_SOFTCUDA"), mode, rounds, NULL);
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

/* Orphans are this program's children, as it is their subreaper. false: somebody never ended. */
static bool wait_for_all(struct pair *pairs, int count)
{
	for (int ms = 0; ms < PATIENCE_MS; ms += 10) {
		int ended;
		pid_t who;
		while ((who = waitpid(-1, &ended, WNOHANG)) > 0)
			for (int i = 0; i < count; i++)
				if (who == pairs[i].profiler)
					pairs[i].status = ended;
		if (who < 0)
			return true; /* none is left */
		usleep(10000);
	}
	return false;
}

/* Calls that softcuda has counted; 0 where it has not come so far. */
static uint64_t tallied(const struct pair *pair, const char *function)
{
	int fd = open(pair->tally, O_RDONLY);
	struct softcuda_tally *tally = MAP_FAILED;
	struct stat st;
	uint64_t calls = 0;

	if (fd >= 0 && !fstat(fd, &st) && st.st_size == sizeof(*tally))
		tally = mmap(NULL, sizeof(*tally), PROT_READ, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (tally == MAP_FAILED)
		return 0;
	for (int i = 0; i < SOFTCUDA_TALLY_ROWS; i++)
		if (tally->rows[i].state == 2 && !strcmp(tally->rows[i].function, function))
			calls = tally->rows[i].calls;
	munmap(tally, sizeof(*tally));
	return calls;
}

/* Gives how many calls of the function are in it; all of it must be readable. */
static uint64_t traced(const struct pair *pair, const char *function)
{
	kvs_trace_reader *reader;
	struct kvs_event event;
	uint64_t calls = 0;
	struct stat st;
	int more;

	if (stat(pair->trace, &st) || !st.st_size)
		return 0; /* it was killed before it began, or took the empty trace away with it */
	if (kvs_trace_read(pair->trace, &reader))
		fail_msg("%s", kvs_error());
	while ((more = kvs_trace_next(reader, &event, NULL)) > 0)
		calls += event.type == KVS_EVENT_CALL && !strcmp(event.call.function, function);
	assert_int_equal(more, 0);
	kvs_trace_reader_close(reader);
	return calls;
}

static void check(const struct pair *pair)
{
	static const char *const functions[] = {"cuMemAlloc_v2", "cuMemcpyHtoD_v2", "cuCtxSynchronize", "cuMemFree_v2"};

	/* The target's, or 0 where it had ended; 1 where there was nothing yet to be watched. */
	if (!pair->the_profiler && pair->target &&
		(!WIFEXITED(pair->status) ||
			(WEXITSTATUS(pair->status) != 128 + SIGKILL && WEXITSTATUS(pair->status) > 1)))
		fail_msg("after %u ms: the profiler of a killed program ended with %x", pair->after_ms, pair->status);
	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		uint64_t told = traced(pair, functions[i]), made = tallied(pair, functions[i]);
		/* The call that it was killed in was made, and never returned. */
		if (told > made || (!pair->the_profiler && made > told + 1))
			fail_msg("after %u ms: %lu calls of %s are in the trace, %lu were made", pair->after_ms, told,
				functions[i], made);
	}
}

static void kill_one(struct pair *pair)
{
	pair->target = only_child_of(pair->profiler);
	if (pair->the_profiler || pair->target)
		kill(pair->the_profiler ? pair->profiler : pair->target, SIGKILL);
}

/* Or nothing would be killed that matters. */
static void unharmed_all_is_told(void **state)
{
	struct pair *pair = *state;

	start(pair, "rounds", "300");
	pair->status = -1;
	assert_true(wait_for_all(pair, 1));
	assert_int_equal(pair->status, 0);
	assert_int_equal(traced(pair, "cuMemAlloc_v2"), 300);
	assert_int_equal(tallied(pair, "cuMemAlloc_v2"), 300);
}

static void kill_several(struct pair *pairs, bool the_profiler, unsigned *seed)
{
	bool done[AT_ONCE] = {false};

	for (int i = 0; i < AT_ONCE; i++) {
		pairs[i].the_profiler = the_profiler;
		pairs[i].after_ms = (unsigned)rand_r(seed) % LONGEST_MS;
		start(&pairs[i], "rounds", "300");
	}
	for (unsigned ms = 0; ms < LONGEST_MS; ms++, usleep(1000))
		for (int i = 0; i < AT_ONCE; i++)
			if (!done[i] && ms >= pairs[i].after_ms) {
				kill_one(&pairs[i]);
				done[i] = true;
			}
	if (!wait_for_all(pairs, AT_ONCE)) {
		for (int i = 0; i < AT_ONCE; i++)
			if (pairs[i].target)
				kill(pairs[i].target, SIGKILL);
		fail_msg("a process never ended");
	}
	for (int i = 0; i < AT_ONCE; i++)
		check(&pairs[i]);
}

static unsigned new_seed(void)
{
	const char *given = getenv("KVS_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);

	print_message("KVS_TEST_SEED=%u\n", seed);
	return seed;
}

static void kill_at_random_moments(struct pair *pairs, bool the_profiler)
{
	unsigned seed = new_seed();

	for (int i = 0; i < ROUNDS; i += AT_ONCE)
		kill_several(pairs, the_profiler, &seed);
}

static void a_killed_profiler_leaves_a_trace_and_a_program_that_goes_on(void **state)
{
	kill_at_random_moments(*state, true);
}

static void wait_until_it_calls(const struct pair *pair)
{
	for (int ms = 0; ms < PATIENCE_MS && !tallied(pair, "cuMemAlloc_v2"); ms += 10)
		usleep(10000);
	assert_true(tallied(pair, "cuMemAlloc_v2") > 0);
}

/* What was called before the last flush, and the fetch before that, is in the file; the target runs on until it is killed too. */
static void a_killed_profiler_has_told_all_but_the_last_moment(void **state)
{
	enum { FEW = 4 };
	struct pair *pairs = *state;
	uint64_t before[FEW];
	unsigned seed = new_seed();

	for (int i = 0; i < FEW; i++) {
		pairs[i].the_profiler = true;
		start(&pairs[i], "forever", "0");
	}
	for (int i = 0; i < FEW; i++)
		wait_until_it_calls(&pairs[i]);
	usleep(1000 * ((unsigned)rand_r(&seed) % 400));
	for (int i = 0; i < FEW; i++)
		before[i] = tallied(&pairs[i], "cuMemAlloc_v2");
	usleep(1000 * (FLUSH_MS + FETCH_MS + 300)); /* and what a crowded machine takes to do it */
	for (int i = 0; i < FEW; i++)
		kill_one(&pairs[i]);
	usleep(20000);
	for (int i = 0; i < FEW; i++)
		if (pairs[i].target)
			kill(pairs[i].target, SIGKILL);
	assert_true(wait_for_all(pairs, FEW));
	for (int i = 0; i < FEW; i++) {
		uint64_t told = traced(&pairs[i], "cuMemAlloc_v2");
		if (told + 1 < before[i])
			fail_msg("%lu calls were made before the last %d ms, %lu are in the trace", before[i],
				FLUSH_MS + FETCH_MS, told);
		check(&pairs[i]);
	}
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
static bool kill_the_profiler_while_it_stands(struct pair *pair)
{
	bool stood = false;
	int status;

	start(pair, "rounds", "300");
	while (!stood && !waitpid(pair->profiler, &status, WNOHANG)) {
		pair->target = pair->target ? pair->target : only_child_of(pair->profiler);
		stood = pair->target && stands_still(pair->target);
	}
	if (stood)
		kill(pair->profiler, SIGKILL);
	if (!wait_for_all(pair, 1)) {
		kill(pair->target, SIGKILL);
		fail_msg("a program stands still for ever");
	}
	return stood;
}

static void a_program_that_stands_for_its_probes_goes_on_without_a_profiler(void **state)
{
	int stood = 0;

	for (int i = 0; i < 100 && stood < 5; i++)
		stood += kill_the_profiler_while_it_stands(*state);
	assert_true(stood > 0);
}

static void a_killed_program_leaves_a_trace_and_a_profiler_that_ends(void **state)
{
	kill_at_random_moments(*state, false);
}

static int set_up(void **state)
{
	static struct pair pairs[AT_ONCE];

	if (!mkdtemp(folder))
		return -1;
	for (int i = 0; i < AT_ONCE; i++) {
		snprintf(pairs[i].trace, sizeof(pairs[i].trace), "%s/trace.%d", folder, i);
		snprintf(pairs[i].tally, sizeof(pairs[i].tally), "%s/tally.%d", folder, i);
	}
	*state = pairs;
	return prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static int remove_folder(void **state)
{
	struct pair *pairs = *state;

	for (int i = 0; i < AT_ONCE; i++) {
		unlink(pairs[i].trace);
		unlink(pairs[i].tally);
	}
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unharmed_all_is_told),
		cmocka_unit_test(a_killed_profiler_leaves_a_trace_and_a_program_that_goes_on),
		cmocka_unit_test(a_killed_profiler_has_told_all_but_the_last_moment),
		cmocka_unit_test(a_program_that_stands_for_its_probes_goes_on_without_a_profiler),
		cmocka_unit_test(a_killed_program_leaves_a_trace_and_a_profiler_that_ends),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, set_up, remove_folder);
}
