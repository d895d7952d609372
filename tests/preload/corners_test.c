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

static void words_of_a_stream_leave_the_owner(void **state)
{
	static const char answers[] = "stores 0 0 0 0 0 0, the list as it was, waited 0\n";
	char expected[256];

	(void)state;
	snprintf(expected, sizeof(expected), "%sowner 07070707, borrower 00000005\n", answers);
	assert_prints(NULL, "signal", expected);
	snprintf(expected, sizeof(expected), "%s" OWNER, answers);
	assert_prints(SHARED, "signal", expected);
	snprintf(expected, sizeof(expected), "%sowner 00000005, borrower 00000005\n", answers);
	assert_prints(SHARED, "signal-owner", expected);
}

static void words_of_nodes_leave_the_owner(void **state)
{
	static const char answers[] = "add 0 0, set 0 0, set 0 0, waited 0, the list as it was\n";
	char expected[256];

	(void)state;
	snprintf(expected, sizeof(expected), "%sowner 07070707, borrower 00000003\n", answers);
	assert_prints(NULL, "words", expected);
	snprintf(expected, sizeof(expected), "%s" OWNER, answers);
	assert_prints(SHARED, "words", expected);
}

static void nodes_of_the_first_form_leave_the_owner(void **state)
{
	static const char answers[] = "add 0\nrun 0 0\nset 0\nrun 0 0\nset 0\nrun 0 0\nset 0\nrun 0 0\nset 0\n";
	char expected[256];

	(void)state;
	snprintf(expected, sizeof(expected), "%sowner 07070707, borrower 00000000\n", answers);
	assert_prints(NULL, "nodes", expected);
	snprintf(expected, sizeof(expected), "%s" OWNER, answers);
	assert_prints(SHARED, "nodes", expected);
}

/* Three stores to K: to the first layer's, the third's, and the second's, where an update has put it. */
static void probe_looks_into_executables_of_the_first_form(void **state)
{
	char command[2048], program[512], kernels[512];
	struct process process;

	(void)state;
	snprintf(program, sizeof(program), "%s", built("tests/clients/corners"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(command, sizeof(command),
		"kvshare-run probe --device host --layout slab:layers=4,k=4MiB,v=4MiB -- %s executables %s", program,
		kernels);
	process = run_shell(command, 60);
	assert_int_equal(process.status, 0);
	assert_string_equal(process.err, "");
	assert_non_null(strstr(process.out, " k              2       0       3         3  client_set_rows\n"));
	process_free(&process);
}

/* Aliases are not coherent within a launch that starts before the one ahead has ended. */
static void dependent_launches_wait_where_memory_is_shared(void **state)
{
	(void)state;
	assert_prints(NULL, "dependent",
		"memory of no layer: 1, of a borrower: 1, with many attributes: 1, of an owner: 1\n"
		"owner 07070707, borrower 00000000\n");
	assert_prints(SHARED, "dependent",
		"memory of no layer: 1, of a borrower: 0, with many attributes: 0, of an owner: 0\n" OWNER);
}

/* Without the shim all of it is 0 then; no memory but that of the layer that is meant is touched. */
static void a_store_by_an_offset_reaches_the_layer_that_it_is_for(void **state)
{
	(void)state;
	assert_prints(NULL, "offset",
		"behind by 4 MiB: 00000000\nbehind by 8 MiB: 00000000\nowner 07070707, borrower 09090909\n");
	assert_prints(SHARED, "offset", "behind by 4 MiB: 01010101\nbehind by 8 MiB: 01010101\n" OWNER);
	assert_prints("--owners 0,1,0,3 --layout slab:layers=4,k=4MiB,v=4MiB ", "offset",
		"behind by 4 MiB: 01010101\nbehind by 8 MiB: 00000000\n" OWNER);
}

static void an_unknown_writer_is_named_whatever_call_tells_of_it(void **state)
{
	char command[2048];
	struct process process;

	(void)state;
	snprintf(command, sizeof(command), "kvshare-run exec --device host " SHARED "-- %s hidden %s",
		built("tests/clients/corners"), "$KERNELS");
	setenv("KERNELS", built("tests/clients/decoder_kernels.so"), 1);
	process = run_shell(command, 60);
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.err, "these were handed such memory: client_hidden_store"));
	process_free(&process);
}

/* Their handles may come back as others'. */
static void functions_are_asked_for_again_after_a_context(void **state)
{
	(void)state;
	assert_prints(SHARED, "kept", "known functions are kept\n" OWNER);
	assert_prints(SHARED, "destroy", "known functions are asked for again\n" OWNER);
	assert_prints(SHARED, "release", "known functions are asked for again\n" OWNER);
}

/* The driver of CUDA 12.3 and older: a name that differs, in a copy of ours, is a name that is not there. */
static void nothing_is_shared_where_parameters_are_not_told(void **state)
{
	char command[4096], client[512], kernels[512], driver[512], shim[512];
	struct process process;

	(void)state;
	snprintf(client, sizeof(client), "%s", built("tests/clients/corners"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(driver, sizeof(driver), "%s", built("softcuda/libcuda.so.1"));
	snprintf(shim, sizeof(shim), "%s", built("libkvshare-preload.so"));
	for (int last = 0; last < 2; last++) {
		snprintf(command, sizeof(command),
			"folder=$(mktemp -d); sed s/cuFuncGetParamInfo/cuFuncGetParamNone/g %s >$folder/libcuda.so.1; "
			"LD_LIBRARY_PATH=$folder LD_PRELOAD=%s KVSHARE_OWNERS=0,1,0,1 KVSHARE_POLICY=%s "
			"KVSHARE_LAYOUT=slab:layers=4,k=4MiB,v=4MiB %s signal %s; status=$?; rm -r $folder; "
			"exit $status",
			driver, shim, last ? "last" : "owner", client, kernels);
		process = run_shell(command, 60);
		assert_int_equal(process.status, 0);
		assert_non_null(strstr(process.out,
			last ? "owner 00000005, borrower 00000005\n" : "owner 07070707, borrower 00000005\n"));
		assert_true(last == !strstr(process.err, "cuFuncGetParamInfo"));
		process_free(&process);
	}
}

/* Only the first of the two pointers is the destination: what is read through the other is the owner's. */
static void copies_and_fills_by_kernels_store_in_the_sink(void **state)
{
	(void)state;
	assert_prints(
		NULL, "fill", "out 09090909\nowner 07070707, borrower 03030303\nowner 07070707, borrower 00000000\n");
	assert_prints(SHARED, "fill", "out 07070707\n" OWNER OWNER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_gather_reads_the_owner),
		cmocka_unit_test(copies_and_fills_by_kernels_store_in_the_sink),
		cmocka_unit_test(a_word_that_a_writer_only_reads_stays),
		cmocka_unit_test(a_capture_of_the_threads_stream_is_seen),
		cmocka_unit_test(words_of_a_stream_leave_the_owner),
		cmocka_unit_test(words_of_nodes_leave_the_owner),
		cmocka_unit_test(nodes_of_the_first_form_leave_the_owner),
		cmocka_unit_test(probe_looks_into_executables_of_the_first_form),
		cmocka_unit_test(dependent_launches_wait_where_memory_is_shared),
		cmocka_unit_test(a_store_by_an_offset_reaches_the_layer_that_it_is_for),
		cmocka_unit_test(an_unknown_writer_is_named_whatever_call_tells_of_it),
		cmocka_unit_test(functions_are_asked_for_again_after_a_context),
		cmocka_unit_test(nothing_is_shared_where_parameters_are_not_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
