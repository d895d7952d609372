/*
 * What a program is answered when it frees memory, destroys contexts, captures and copies is the same whether its layers share or not.
 * tests/clients/answers.c says what each of these programs does.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SLAB "slab:layers=4,k=4MiB,v=4MiB"

static struct process plain(const char *what)
{
	char command[1024], folder[512];

	snprintf(folder, sizeof(folder), "%s", built("softcuda"));
	snprintf(command, sizeof(command), "LD_LIBRARY_PATH=%s %s %s", folder, built("tests/clients/answers"), what);
	return run_shell(command, 60);
}

static struct process shared(const char *before, const char *layout, const char *what)
{
	char command[2048];

	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	snprintf(command, sizeof(command),
		"file=$(mktemp -u); %s kvshare-run exec --device host --stats $file --owners 0,1,0,1 --layout %s -- "
		"%s %s; status=$?; grep -q '\"saved_bytes\": [1-9]' $file || echo nothing is shared; rm -f $file; exit "
		"$status",
		before, layout, built("tests/clients/answers"), what);
	return run_shell(command, 60);
}

/* The driver says on stderr who touched memory that had gone, and the shim what it could not share. */
static void assert_answers(const char *layout, const char *what, const char *expected)
{
	struct process got = shared("", layout, what);

	if (got.status || *got.err || strcmp(got.out, expected))
		fail_msg("%s: status %d, stderr \"%s\", answers\n%s, not\n%s", what, got.status, got.err, got.out,
			expected);
	process_free(&got);
}

static void assert_as_plain(const char *layout, const char *what)
{
	struct process without = plain(what);

	assert_int_equal(without.status, 0);
	assert_true(*without.out);
	assert_answers(layout, what, without.out);
	process_free(&without);
}

static void what_is_freed_and_when_is_as_without_the_shim(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "primary");
	assert_as_plain(SLAB, "reset");
	assert_as_plain(SLAB, "destroy");
	assert_as_plain(SLAB, "stream");
	assert_as_plain(SLAB, "relaxed");
}

/* softcuda does not wait for other contexts, so without the shim it cannot say what is right. */
static void a_free_waits_for_the_context_of_the_memory(void **state)
{
	(void)state;
	assert_answers(SLAB, "other", "free 0 wait 0\n");
}

static void memory_is_of_the_context_that_it_was_made_in(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "context");
}

static void a_row_may_lie_in_several_layers(void **state)
{
	(void)state;
	assert_as_plain(SLAB, "row");
}

/* Each context has its own; one that fails is none of them. */
static void allocations_before_the_cache_share_nothing(void **state)
{
	struct process got = shared("SOFTCUDA_FAIL=cuMemAlloc:1:2", SLAB ",skip=1", "retry");

	(void)state;
	assert_as_plain(SLAB ",skip=2", "skip");
	assert_string_equal(got.out, "layers 1 2\nnothing is shared\n");
	process_free(&got);
}

/* A borrower then goes on with what it showed last: what was on its way to its owner. */
static void a_cache_that_is_given_up_waits_for_its_owners(void **state)
{
	struct process got = shared("SOFTCUDA_FAIL=cuMemMap:14:2", "tensors:layers=4,bytes=4MiB", "late");

	(void)state;
	assert_non_null(strstr(got.err, "kvshare: an allocation"));
	assert_memory_equal(got.out, "layer 0 1 1\nlayer 2 1 1\n", 24);
	process_free(&got);
}

/* Kernels that store to what comes before the cache, in any context, are none of its writers. */
static void probe_counts_them_in_each_context(void **state)
{
	char command[1024], kernels[512];
	struct process got;

	(void)state;
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(command, sizeof(command), "kvshare-run probe --device host --layout " SLAB ",skip=1 -- %s weights %s",
		built("tests/clients/answers"), kernels);
	got = run_shell(command, 60);
	assert_int_equal(got.status, 0);
	assert_non_null(strstr(got.out, "client_set_rows"));
	assert_null(strstr(got.out, "client_hidden_store"));
	process_free(&got);
}

/* Another thread of the parent has the lock of the moment, and is not in the child to give it back. */
static void a_child_waits_for_no_lock_of_its_parents(void **state)
{
	struct process got = shared("", SLAB, "forks");

	(void)state;
	assert_string_equal(got.out, "refused 60\nnothing is shared\n");
	process_free(&got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_freed_and_when_is_as_without_the_shim),
		cmocka_unit_test(a_free_waits_for_the_context_of_the_memory),
		cmocka_unit_test(memory_is_of_the_context_that_it_was_made_in),
		cmocka_unit_test(a_row_may_lie_in_several_layers),
		cmocka_unit_test(allocations_before_the_cache_share_nothing),
		cmocka_unit_test(probe_counts_them_in_each_context),
		cmocka_unit_test(a_cache_that_is_given_up_waits_for_its_owners),
		cmocka_unit_test(a_child_waits_for_no_lock_of_its_parents),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
