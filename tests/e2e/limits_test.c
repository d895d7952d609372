/*
 * tests/e2e/limits_test.c: kvshare-run under limits of address space, file size, open files and threads: each run
 * works, or exits with 1 and a message. None hangs, none is killed by a signal.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define GENERATE "kvshare-run -m " MODEL " -p Anna -n 2 -q --ctx 64"
#define HANG_S 60

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ADDRESS_SPACE_IS_THE_SANITIZERS true /* terabytes of it */
#else
#define ADDRESS_SPACE_IS_THE_SANITIZERS false
#endif

/* Returns whether it worked. */
static bool works_or_says_why(const char *command)
{
	struct process process = run_shell(command, HANG_S);
	bool works = process.status == 0;

	if (!works && (process.status != 1 || !strstr(process.err, "kvshare-run: ")))
		fail_msg("%s: status %d: %s", command, process.status, process.err);
	process_free(&process);
	return works;
}

static void address_space_runs_out_with_a_message(void **state)
{
	static const int kilobytes[] = {
		100000, 200000, 300000, 400000, 500000, 600000, 700000, 1000000, 1300000, 2000000};
	char command[256];

	(void)state;
	if (ADDRESS_SPACE_IS_THE_SANITIZERS)
		skip();
	for (size_t i = 0; i < sizeof(kilobytes) / sizeof(*kilobytes); i++) {
		snprintf(command, sizeof(command), "ulimit -v %d; " GENERATE, kilobytes[i]);
		works_or_says_why(command);
		snprintf(command, sizeof(command), "ulimit -v %d; kvshare-run doctor || echo kvshare-run: >&2",
			kilobytes[i]);
		works_or_says_why(command);
	}
	snprintf(command, sizeof(command), "ulimit -v %ld; " GENERATE, 1000000 * (1 + sysconf(_SC_NPROCESSORS_ONLN)));
	assert_true(works_or_says_why(command)); /* there is room, so it is not refused */
}

/* In blocks of 512 bytes, sh's unit. Device memory is a file, too. */
static void file_size_runs_out_with_a_message(void **state)
{
	static const char *const commands[] = {
		GENERATE,
		"kvshare-run plan convert --owners 0,1,1 --to vllm -o $T/plan",
		"kvshare-run plan convert --owners 0,1,1 --to vllm",
		"kvshare-run calibrate -m " MODEL " --text " MODEL "/calib.txt --samples 2 --sample-tokens 8 "
		"--held-tokens 16 --method kvsharer --share 1 -o $T/p",
	};
	static const int blocks[] = {0, 1, 16, 1000, 100000};

	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		bool worked = false;
		for (size_t j = 0; j < sizeof(blocks) / sizeof(*blocks); j++) {
			char command[512];
			/* The message goes through a pipe, which has no size. */
			snprintf(command, sizeof(command),
				"bash -c 'set -o pipefail; T=$(mktemp -d); { ulimit -f %d; %s; } 2>&1 >$T/out | cat "
				">&2; "
				"status=$?; rm -r $T; exit $status'",
				blocks[j], commands[i]);
			worked = works_or_says_why(command);
		}
		if (!worked)
			fail_msg("%s: not even with %d blocks", commands[i], blocks[4]);
	}
}

static void open_files_run_out_with_a_message(void **state)
{
	bool worked = false;
	char command[256];

	(void)state;
	for (int files = 8; files <= 32; files++) /* with fewer the program itself cannot be loaded */ {
		snprintf(command, sizeof(command), "ulimit -n %d; " GENERATE, files);
		worked = works_or_says_why(command);
	}
	assert_true(worked);
}

/* Root has no limit of processes, so there the program runs as nobody. The limit counts threads. */
static void threads_run_out_with_a_message(void **state)
{
	bool worked = false;
	char command[512];

	(void)state;
	for (int threads = 1; threads <= 12; threads++) {
		snprintf(command, sizeof(command),
			"run=\"ulimit -u %d; exec kvshare-run -m " MODEL " -p Anna -n 2 -q --ctx 64\"; "
			"if [ $(id -u) = 0 ]; then exec setpriv --reuid=54321 --clear-groups sh -c \"$run\"; else exec "
			"sh "
			"-c \"$run\"; fi",
			threads);
		worked = works_or_says_why(command);
	}
	assert_true(worked);
}

/* Threads get stacks of their own size, and the main thread needs little; with 32 KiB no program starts. */
static void a_small_stack_is_enough(void **state)
{
	static const char *const commands[] = {GENERATE, "kvshare-run doctor",
		"kvshare-run calibrate -m " MODEL " --text " MODEL "/calib.txt --samples 2 --sample-tokens 8 "
		"--held-tokens 16 --share 1 -q -o -"};
	static const int kilobytes[] = {100, 128, 200};
	char command[512];

	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		for (size_t j = 0; j < sizeof(kilobytes) / sizeof(*kilobytes); j++) {
			snprintf(command, sizeof(command), "ulimit -s %d; %s", kilobytes[j], commands[i]);
			assert_true(works_or_says_why(command));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(address_space_runs_out_with_a_message),
		cmocka_unit_test(file_size_runs_out_with_a_message),
		cmocka_unit_test(open_files_run_out_with_a_message),
		cmocka_unit_test(threads_run_out_with_a_message),
		cmocka_unit_test(a_small_stack_is_enough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
