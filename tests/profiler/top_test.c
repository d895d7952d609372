/*
 * tests/profiler/top_test.c: `kvshare-run top` shows what a process holds and saves while it runs, ends with it, and hears keys.
 */
#include "watched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GENERATE                                                                                                       \
	"kvshare-run generate -q -m tests/models/storyworld-3m --device host -f $F -n 1200 --ctx 2000 --ignore-eos "   \
	"--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 "

static void has(const struct process *process, const char *text)
{
	if (!strstr(process->out, text))
		fail_msg("no %s in: %s%s", text, process->out, process->err);
}

/*
 * A driver that is loaded while top watches has its probes some milliseconds later, on a busy machine more. The cache comes with the
 * prompt, which waits for that. The text is long enough for several of top's rounds on a fast machine, and a block has room for all of
 * it, so that the same is saved from the first round to the last.
 */
static void memory_and_what_sharing_saves_are_shown(void **state)
{
	struct process process =
		run_shell("export SOFTCUDA_GRANULARITY=2M F=$(mktemp -u); mkfifo $F; (sleep 2; echo Anna >$F) & "
			  "(sleep 1; exec " GENERATE
			  ") >&2 2>&1 & kvshare-run top -p $! -d 0.2; wait $!; status=$?; rm $F; exit $status",
			120);

	(void)state;
	if (process.status)
		fail_msg("%d: %s", process.status, process.err);
	has(&process, "PHYSICAL");
	has(&process, "16.0M"); /* saved */
	has(&process, "cuLaunchKernel");
	has(&process, "(ended)");
	assert_null(strchr(process.out, '+'));
	assert_null(strchr(process.out, '\033')); /* no terminal, no drawing */
	process_free(&process);
}

/* Who had the driver when watching began may have held memory, which nobody saw; who loads it later may not. */
static void memory_of_before_is_marked(void **state)
{
	struct process process =
		run_shell("F=$(mktemp); $BUILD/tests/profiler/watched_client $KVSHARE_SOFTCUDA forever >$F & P=$!; "
			  "for i in $(seq 200); do grep -q ready $F && break; sleep 0.05; done; rm $F; date +%H:%M "
			  ">&2; kvshare-run top -p "
			  "$P -d 0.3 -n 2; "
			  "status=$?; date +%H:%M >&2; kill $P; exit $status",
			60);
	char since[32];

	(void)state;
	if (process.status)
		fail_msg("%d: %s", process.status, process.err);
	has(&process, "1 process holds ");
	if (!strstr(process.out, "0B+ ") && !strstr(process.out, "4.0K+ ")) /* between its rounds, and in one */
		fail_msg("no + in: %s", process.out);
	has(&process, "+ and what it held before");
	snprintf(since, sizeof(since), ", counted since %.5s", process.err);
	if (!strstr(process.out, since)) {
		snprintf(since, sizeof(since), ", counted since %.5s", process.err + 6);
		has(&process, since);
	}
	process_free(&process);
}

/* Without -p it waits for programs, takes in one that begins later, and leaves out what has ended. */
static void newcomers_are_found(void **state)
{
	struct process process = run_shell(
		"O=$(mktemp); kvshare-run top -d 0.3 >$O & T=$!; "
		"last() { awk '/^kvshare-run top/ { text = \"\" } { text = text $0 \"\\n\" } END { print text }' $O; "
		"}; "
		"shows() { last | grep -q \"$1\"; }; lacks() { ! shows \"$1\"; }; "
		"wait_till() { for i in $(seq 400); do \"$@\" && return; sleep 0.05; done; echo \"never: $*\" >&2; "
		"last >&2; }; "
		"wait_till shows '^ *PID '; $BUILD/tests/profiler/watched_client $KVSHARE_SOFTCUDA forever >&2 & P=$!; "
		"wait_till shows \"^ *$P .*watched_client\"; kill $P; wait_till lacks \"^ *$P \"; "
		"kill -INT $T; wait $T; status=$?; rm $O; exit $status",
		60);

	(void)state;
	if (process.status || strstr(process.err, "never: "))
		fail_msg("%d: %s", process.status, process.err);
	assert_string_equal(process.out, "");
	process_free(&process);
}

/* What NVML says stands beside what calls tell; and who is not watched is listed. */
static void nvml_has_a_column_and_tells_of_others(void **state)
{
	struct process process = run_shell(
		"export FAKE_NVML=$(mktemp) KVSHARE_NVML=${BUILD:-build}/tests/profiler/fake-nvml/libnvidia-ml.so.1; "
		"F=$(mktemp); $BUILD/tests/profiler/watched_client $KVSHARE_SOFTCUDA forever >$F & P=$!; "
		"for i in $(seq 200); do grep -q ready $F && break; sleep 0.05; done; rm $F; "
		"printf '0 %d 104857600\n1 %d 3145728\n1 %d 5242880\n0 99999999 18446744073709551615\n' $P $P $$ "
		">$FAKE_NVML; kvshare-run top -d 0.3 -n 2; status=$?; kill $P; rm $FAKE_NVML; exit $status",
		60);

	(void)state;
	if (process.status)
		fail_msg("%d: %s", process.status, process.err);
	has(&process, "PEAK      NVML    CALLS/s");
	has(&process, "    103.0M ");
	has(&process, "OTHERS ON THE GPU");
	has(&process, "      5.0M  ");
	assert_null(strstr(process.out, "99999999"));
	process_free(&process);
}

/* On a terminal (util-linux's script makes one) the screen is drawn, and q ends it. */
static void keys_are_heard_on_a_terminal(void **state)
{
	struct process process = run_shell(
		"command -v script >&2 || exit 77; T=$(mktemp); sleep 20 & P=$!; "
		"(sleep 1; printf c; sleep 1; printf q) | timeout 15 script -qec \"kvshare-run top -d 0.3 -p $P\" $T; "
		"status=$?; rm $T; kill $P; exit $status",
		60);

	(void)state;
	if (process.status == 77)
		skip();
	if (process.status)
		fail_msg("%d: %s%s", process.status, process.out, process.err);
	has(&process, "\033[H");
	has(&process, "q end");
	process_free(&process);
}

static void refuses(const char *command, int status, const char *message)
{
	struct process process = run_shell(command, 60);

	if (process.status != status || !strstr(process.err, message))
		fail_msg("%s: %d: %s", command, process.status, process.err);
	process_free(&process);
}

static void what_cannot_be_watched_is_named(void **state)
{
	(void)state;
	refuses("kvshare-run top -p 99999999", 1, "99999999");
	refuses("kvshare-run top -d 0", 2, "--delay");
	refuses("kvshare-run top 17", 2, "-p");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_and_what_sharing_saves_are_shown),
		cmocka_unit_test(memory_of_before_is_marked),
		cmocka_unit_test(newcomers_are_found),
		cmocka_unit_test(nvml_has_a_column_and_tells_of_others),
		cmocka_unit_test(keys_are_heard_on_a_terminal),
		cmocka_unit_test(what_cannot_be_watched_is_named),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
