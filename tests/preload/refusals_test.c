/*
 * Programs that make calls which the driver refuses, and that end things in unusual ways (tests/clients/refusals.c), are answered the
 * same whether their layers share or not.
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

#include <cmocka.h>

#define SLAB "--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB "

#define RESERVED "--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB,size=32MiB,memory=reserved "

/* `what`: a program's name, and for some the form of a call. `before` is of the shell, NULL `options`: without the shim. */
static struct process refusals(const char *before, const char *options, const char *what)
{
	char command[4096], client[512], kernels[1024], driver[512], program[64] = "";
	const char *form = strchr(what, ' ');

	snprintf(program, sizeof(program), "%.*s", form ? (int)(form - what) : 63, what);
	snprintf(client, sizeof(client), "%s", built("tests/clients/refusals"));
	snprintf(kernels, sizeof(kernels), "%s%s", built("tests/clients/decoder_kernels.so"), form ? form : "");
	snprintf(driver, sizeof(driver), "%s", built("softcuda"));
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	if (options)
		snprintf(command, sizeof(command),
			"file=$(mktemp -u); %s kvshare-run exec --device host --stats $file %s -- %s %s %s; "
			"status=$?; grep -q '\"saved_bytes\": [1-9]' $file || echo nothing is shared; rm -f $file; "
			"exit $status",
			before, options, client, program, kernels);
	else
		snprintf(command, sizeof(command), "%s LD_LIBRARY_PATH=%s %s %s %s", before, driver, client, program,
			kernels);
	return run_shell(command, 60);
}

static void assert_as_plain_with(const char *before, const char *options, const char *what)
{
	struct process plain = refusals(before, NULL, what), shared = refusals(before, options, what);

	assert_int_equal(plain.status, 0);
	assert_true(*plain.out);
	if (shared.status || *shared.err || strcmp(shared.out, plain.out))
		fail_msg("%s: status %d, stderr \"%s\", answers\n%s, not\n%s", what, shared.status, shared.err,
			shared.out, plain.out);
	process_free(&plain);
	process_free(&shared);
}

static void assert_as_plain(const char *options, const char *what)
{
	assert_as_plain_with("", options, what);
}

/* What is behind it is mapped, and would be given away or lost: a borrower's that could be written is its owner's. */
static void memory_from_cuMemAlloc_is_no_mapping(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "mapping");
}

static void a_capture_ends_with_its_stream_and_context(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "captures");
}

/* In some modes the driver refuses what would make a graph miss it, and the capture has failed. */
static void a_capture_forbids_what_it_forbids(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "captured");
}

/* The shim waits where the driver need not, and no capture may begin meanwhile. */
static void another_thread_may_capture(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "threads");
}

static void streams_and_pools_have_to_be_there(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "pools");
}

/* A call that is refused leaves all as it was, so that the right one after it goes through. */
static void segments_of_its_own_are_mapped_by_the_drivers_rules(void **state)
{
	(void)state;
	assert_as_plain(RESERVED, "segments");
	assert_as_plain_with("SOFTCUDA_MEMORY=24M", RESERVED, "filling");
}

/* Not a refusal, but as rarely written: without a pitch rows follow each other. */
static void boxes_need_no_pitch(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "tight");
}

static void memory_goes_with_its_context_by_first_forms(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "old cuCtxDestroy");
	assert_as_plain(SLAB, "old cuDevicePrimaryCtxRelease");
	assert_as_plain(SLAB, "old cuDevicePrimaryCtxReset");
}

static void the_environment_may_be_written_over(void **state)
{
	struct process got = refusals("", SLAB "--writer client_hidden_store", "environment");

	(void)state;
	assert_string_equal(got.err, "");
	assert_non_null(strstr(got.out, "cuCtxSynchronize(): 0\n"));
	assert_non_null(strstr(got.out, "layer 0 shows 5\n"));
	assert_null(strstr(got.out, "nothing is shared"));
	process_free(&got);
}

/* Its parent has device memory too, and ends last; `command` is `inspect` or `probe` with options. */
static void assert_finds(const char *command, const char *form, const char *finding)
{
	char line[4096], client[512], kernels[512], parent[512];
	struct process got;

	snprintf(client, sizeof(client), "%s", built("tests/clients/refusals"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(parent, sizeof(parent), "%s", built("tests/clients/ends"));
	snprintf(line, sizeof(line), "kvshare-run %s -- sh -c '%s leaving %s %s; %s 65536 return'", command, client,
		kernels, form, parent);
	got = run_shell(line, 60);
	if (!strstr(got.out, finding) || !strstr(got.err, "kvshare-run: 2 processes have used device memory"))
		fail_msg(
			"%s: %s: status %d, stdout \"%s\", stderr \"%s\"", command, form, got.status, got.out, got.err);
	process_free(&got);
}

/* Servers end by a signal, and children of Python's multiprocessing by _exit. */
static void children_are_inspected_however_they_end(void **state)
{
	static const char *const forms[] = {"exit", "_exit", "term"};

	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		assert_finds("inspect --device host", forms[i], "32.00 MiB");
		assert_finds("probe --device host --layout slab:layers=4,k=4MiB,v=4MiB", forms[i], "client_set_rows");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_from_cuMemAlloc_is_no_mapping),
		cmocka_unit_test(a_capture_ends_with_its_stream_and_context),
		cmocka_unit_test(a_capture_forbids_what_it_forbids),
		cmocka_unit_test(another_thread_may_capture),
		cmocka_unit_test(streams_and_pools_have_to_be_there),
		cmocka_unit_test(segments_of_its_own_are_mapped_by_the_drivers_rules),
		cmocka_unit_test(boxes_need_no_pitch),
		cmocka_unit_test(memory_goes_with_its_context_by_first_forms),
		cmocka_unit_test(children_are_inspected_however_they_end),
		cmocka_unit_test(the_environment_may_be_written_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
