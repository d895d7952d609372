/*
 * Calls that few programs make (tests/clients/corners.c): under the shim they answer as without it, a store into a borrower reaches
 * nobody, and whoever reads one gets its owner's.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SHARED "--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB "
#define OWNER "owner 07070707, borrower 07070707\n"

/* `prefix` is of the shell; NULL `options`: without the shim. Its output, and nothing is said. */
static char *corners(const char *options, const char *what)
{
	char command[2048], program[512], kernels[512], folder[512];
	struct process process;

	snprintf(program, sizeof(program), "%s", built("tests/clients/corners"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(folder, sizeof(folder), "%s", built("softcuda"));
	if (options)
		snprintf(command, sizeof(command), "kvshare-run exec --device host %s-- %s %s %s", options, program,
			what, kernels);
	else
		snprintf(command, sizeof(command), "LD_LIBRARY_PATH=%s %s %s %s", folder, program, what, kernels);
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	process = run_shell(command, 60);
	if (process.status || strstr(process.err, "kvshare: "))
		fail_msg("%s: status %d: %s", command, process.status, process.err);
	free(process.err);
	return process.out;
}

static void assert_prints(const char *options, const char *what, const char *expected)
{
	char *got = corners(options, what);

	assert_string_equal(got, expected);
	free(got);
}

/* PyTorch's gather and index_put have one kernel, of different names in the long form. */
static void a_gather_reads_the_owner(void **state)
{
	(void)state;
	assert_prints(
		NULL, "gather", "client_index_elementwise_kernel reads 09090909\nowner 07070707, borrower 09090909\n");
	assert_prints(SHARED, "gather", "client_index_elementwise_kernel reads 07070707\n" OWNER);
}

static void a_word_that_a_writer_only_reads_stays(void **state)
{
	char file[] = "/tmp/kvshare-corners-XXXXXX", options[256];
	static const char writers[] =
		"{\"kvshare_writers\": 1, \"writers\": [{\"kernel\": \"client_index_copy\", \"parameter\": 0, "
		"\"offset\": 24}], \"not_shareable\": []}";
	int out = mkstemp(file);

	(void)state;
	assert_true(out >= 0);
	assert_int_equal(write(out, writers, strlen(writers)), strlen(writers));
	close(out);
	snprintf(options, sizeof(options), SHARED "--writers %s ", file);
	assert_prints(options, "copy", "client_index_copy reads 07070707\n" OWNER);
	assert_prints(SHARED "--writer client_index_copy:0+24 ", "copy", "client_index_copy reads 07070707\n" OWNER);
	unlink(file);
}

static void a_capture_of_the_threads_stream_is_seen(void **state)
{
	char *plain = corners(NULL, "capture");

	(void)state;
	assert_non_null(strstr(plain, "begin 0\nlaunch 0\nend 0\n"));
	*strstr(plain, "owner") = '\0';
	for (int sync = 0; sync < 2; sync++) {
		char *got = corners(sync ? "--sync " SHARED : SHARED, "capture");

		*strstr(got, "owner") = '\0';
		assert_string_equal(got, plain);
		free(got);
	}
	free(plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_gather_reads_the_owner),
		cmocka_unit_test(a_word_that_a_writer_only_reads_stays),
		cmocka_unit_test(a_capture_of_the_threads_stream_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
