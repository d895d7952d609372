/*
 * Programs that know nothing of kvshare, under the shim: every answer of the driver is the one that they get without it,
 * whichever way they found the function; threads and children of fork() included. Layers that borrow show their owners.
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

#define BYTES "33554432" /* of four layers, K and V of 4 MiB each */
#define LAYERS "4"
#define LAYOUT "--layout slab:layers=4,k=4MiB,v=4MiB "
#define SHARED "--owners 0,1,0,1 " LAYOUT
/* The last two layers lie the other way round, and the last one borrows from the one behind it. */
#define ODD                                                                                                            \
	"--owners 0,1,2,2 --layout explicit:size=18MiB,size=16MiB,k=0:6MiB:4MiB:2:8MiB,k=1:12MiB:4MiB:2:-8MiB,"        \
	"v=0:2MiB:4MiB:2:8MiB,v=1:8MiB:4MiB:2:-8MiB "
#define TENSORS "--owners 0,1,0,1 --layout tensors:layers=4,bytes=4MiB "

/* That a layout is none of the program's is said at its end; nothing else is. */
static bool says_what_it_should(const char *options, const char *program, const char *err)
{
	const char *said = strstr(err, "kvshare: ");

	if (!options || strcmp(options, TENSORS) || !strstr(program, " queries "))
		return !said;
	return said && strstr(said, "kvshare: no KV cache was shared") == said && !strstr(said + 1, "kvshare: ");
}

/* `program` with `options` of exec; NULL: without the shim. The output; its end is cut where the next run starts. */
static char *output_of(const char *options, const char *program)
{
	char command[2048], folder[512];
	struct process process;

	snprintf(folder, sizeof(folder), "%s", built("softcuda"));
	if (options)
		snprintf(command, sizeof(command), "kvshare-run exec --device host %s-- %s", options, program);
	else
		snprintf(command, sizeof(command), "LD_LIBRARY_PATH=%s %s", folder, program);
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	process = run_shell(command, 300);
	if (process.status || !says_what_it_should(options, program, process.err))
		fail_msg("%s: status %d: %s", command, process.status, process.err);
	free(process.err);
	return process.out;
}

static char *calls(const char *options, const char *what)
{
	char program[512];

	snprintf(program, sizeof(program), "%s %s " BYTES " " LAYERS, built("tests/clients/calls"), what);
	return output_of(options, program);
}

static char *decoder(const char *options, const char *what)
{
	char kernels[512], program[1024];

	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(program, sizeof(program), "%s %s %s", built("tests/clients/decoder"), what, kernels);
	return output_of(options, program);
}

static void assert_same(char *got, char *expected)
{
	assert_string_equal(got, expected);
	free(got);
	free(expected);
}

/* The content of layers is not the same where they share: the lines about it are left out. */
static char *without_sums(char *text)
{
	for (char *line = text; (line = strstr(line, "sum of all layers"));)
		memmove(line, strchr(line, '\n') + 1, strlen(strchr(line, '\n')));
	return text;
}

static void answers_are_those_without_the_shim(void **state)
{
	(void)state;
	assert_same(calls("", "queries"), calls(NULL, "queries"));
	assert_same(calls("--owners 0,1,2,3 " LAYOUT, "queries"), calls(NULL, "queries"));
	assert_same(calls(TENSORS, "queries"), calls(NULL, "queries"));
}

/* With --strict it fails where layers should share and none did; --strict does not fail where none should. */
static void strict_fails_where_nothing_was_shared(void **state)
{
	static const struct {
		const char *options;
		int status;
	} rows[] = {{TENSORS, 1}, {SHARED, 0}, {"--owners 0,1,2,3 " LAYOUT, 0}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		char command[2048];
		struct process process;

		snprintf(command, sizeof(command),
			"kvshare-run exec --strict --device host %s-- %s queries " BYTES " " LAYERS, rows[i].options,
			built("tests/clients/calls"));
		process = run_shell(command, 300);
		assert_int_equal(process.status, rows[i].status);
		assert_int_equal(strstr(process.err, "kvshare: no KV cache was shared") != NULL, rows[i].status);
		process_free(&process);
	}
}

static void shared_memory_answers_as_a_plain_allocation(void **state)
{
	char *shared = calls(SHARED, "queries"), *plain = calls(NULL, "queries");

	(void)state;
	assert_non_null(strstr(plain, "sum of all layers"));
	assert_same(without_sums(shared), without_sums(plain));
}

/* Layer 2 borrows from layer 0, so it shows what layer 0 has, and what is stored there reaches nobody; layer 1 gets its row. */
static void copies_into_a_borrower_leave_its_owner(void **state)
{
	char *shared = calls(SHARED, "copies"), *plain = calls(NULL, "copies"), *unshared = calls("", "copies");
	size_t count = 0;

	(void)state;
	assert_same(unshared, strdup(plain));
	for (char *line = plain; (line = strstr(line, ", layer 0 ")); count++, line = strchr(line, '\n'))
		memcpy(strstr(line, ", layer 2 ") + strlen(", layer 2 "), line + strlen(", layer 0 "), 5);
	assert_int_equal(count, 34);
	assert_same(shared, plain);
}

/* Layer 3 is its own; layer 2, before it, borrows. */
static void copies_that_begin_in_a_borrower_go_on_behind_it(void **state)
{
	(void)state;
	assert_same(calls("--owners 0,1,0,3 " LAYOUT, "behind"), calls(NULL, "behind"));
}

/* What would let another device or process write an owner's memory is refused, and said; other memory is passed. */
static void nobody_else_is_given_memory_that_layers_share(void **state)
{
	static const char *const said[] = {"another device (cuMemGetHandleForAddressRange)",
		"another process (cuMemPoolExportPointer)", "another process (cuIpcGetMemHandle)"};
	char command[1024], *plain, *shared;
	struct process process;

	(void)state;
	snprintf(command, sizeof(command), "kvshare-run exec --device host " SHARED "-- %s others " BYTES " " LAYERS,
		built("tests/clients/calls"));
	process = run_shell(command, 60);
	assert_int_equal(process.status, 0);
	for (size_t i = 0; i < sizeof(said) / sizeof(*said); i++)
		assert_non_null(strstr(process.err, said[i]));
	plain = calls(NULL, "others");
	shared = strstr(process.out, "cache: 801 1 1\n");
	assert_non_null(shared);
	assert_memory_equal(process.out, plain, (size_t)(shared - process.out)); /* "plain: ..." */
	assert_string_equal(strstr(process.out, "peers: "), strstr(plain, "peers: "));
	free(plain);
	process_free(&process);
}

/* "way name: symbol in file", with the file of each hook where the driver's would be. */
static void hooks_are_found_each_way_and_nothing_else_is(void **state)
{
	static const char ours[] = " in libkvshare-preload.so", theirs[] = " in libcuda.so.1";
	char *got = calls("", "find"), *expected = calls(NULL, "find");
	char *line = got, *plain = expected;
	int hooked = 0;

	(void)state;
	while (*line && *plain) {
		size_t length = strcspn(line, "\n"), plain_length = strcspn(plain, "\n");
		char *at = memmem(line, length, ours, strlen(ours));
		bool same = length == plain_length && !strncmp(line, plain, length);

		if (at) {
			same = !strncmp(line, plain, at - line) &&
			       !strncmp(plain + (at - line), theirs, strlen(theirs));
			hooked++;
		}
		if (!same)
			fail_msg("with the shim \"%.*s\", without \"%.*s\"", (int)length, line, (int)plain_length,
				plain);
		if (!at && strstr(line, "cuMemAlloc_v2 in") && strstr(line, "cuMemAlloc_v2 in") < line + length)
			fail_msg("not hooked: %.*s", (int)length, line);
		line += length + (line[length] != 0);
		plain += plain_length + (plain[plain_length] != 0);
	}
	assert_int_equal(*line | *plain, 0);
	assert_true(hooked >= 20);
	free(got);
	free(expected);
}

static void threads_have_caches_of_their_own(void **state)
{
	char *shared = calls(SHARED, "threads");

	(void)state;
	for (const char *line = shared; *line; line = strchr(line, '\n') + 1)
		assert_memory_equal(line, "0 1 2 3 0 1 2 3\n", 16);
	assert_int_equal(strlen(shared), 8 * 16);
	free(shared);
}

static void children_are_as_without_the_shim(void **state)
{
	char *shared = calls(SHARED, "fork"), *plain = calls(NULL, "fork");

	(void)state;
	assert_non_null(strstr(plain, "child: cuInit 3, cuMemAlloc 3, cuMemFree 3\na child: status 0\n"));
	assert_non_null(strstr(shared, "child: cuInit 3, cuMemAlloc 3, cuMemFree 3\na child: status 0\n"));
	assert_non_null(
		strstr(shared, "0 1 2 3 0 1 2 3\nanother program: status 0\nparent: cuMemsetD8 0, cuMemFree 0\n"));
	free(shared);
	free(plain);
}

/* decoder_test.sh has all the forms; these are the ones that the mutants are tried on. */
static void borrowers_read_their_owners(void **state)
{
	(void)state;
	assert_same(decoder(SHARED, "tokens=4"), decoder(NULL, "tokens=4 owners=0,1,0,1"));
	assert_same(decoder(SHARED, "tokens=4 store=struct"), decoder(NULL, "tokens=4 owners=0,1,0,1"));
	assert_same(decoder(SHARED, "tokens=4 store=struct launch=extra"), decoder(NULL, "tokens=4 owners=0,1,0,1"));
	assert_same(decoder(TENSORS, "tokens=4 layout=tensors launch=ex"), decoder(NULL, "tokens=4 owners=0,1,0,1"));
	assert_same(decoder("--policy last " SHARED, "tokens=4 store=fused"),
		decoder(NULL, "tokens=4 owners=0,1,0,1 policy=last"));
	assert_same(decoder(ODD, "tokens=4 layout=odd"), decoder(NULL, "tokens=4 owners=0,1,2,2"));
}

/* stats_test.sh has all the ways to end; as above, these are for the mutants. */
static void statistics_outlive_a_signal_and_are_no_childs(void **state)
{
	static const struct {
		const char *way;
		int status;
		bool written;
	} ends[] = {{"term", 143, true}, {"_exit", 0, true}, {"handler", 3, true}, {"child", 137, false}};

	(void)state;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		char command[2048];
		struct process process;

		snprintf(command, sizeof(command),
			"file=$(mktemp -u); kvshare-run exec --device host --stats $file " SHARED "-- %s " BYTES
			" %s; status=$?; [ ! -e $file ] || grep -c '\"saved_bytes\": 14680064,' $file; rm -f $file; "
			"exit $status",
			built("tests/clients/ends"), ends[i].way);
		process = run_shell(command, 60);
		assert_int_equal(process.status, ends[i].status);
		assert_string_equal(process.out, ends[i].written ? "1\n" : "");
		free(process.out);
		free(process.err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_are_those_without_the_shim),
		cmocka_unit_test(strict_fails_where_nothing_was_shared),
		cmocka_unit_test(shared_memory_answers_as_a_plain_allocation),
		cmocka_unit_test(copies_into_a_borrower_leave_its_owner),
		cmocka_unit_test(copies_that_begin_in_a_borrower_go_on_behind_it),
		cmocka_unit_test(nobody_else_is_given_memory_that_layers_share),
		cmocka_unit_test(hooks_are_found_each_way_and_nothing_else_is),
		cmocka_unit_test(threads_have_caches_of_their_own),
		cmocka_unit_test(children_are_as_without_the_shim),
		cmocka_unit_test(borrowers_read_their_owners),
		cmocka_unit_test(statistics_outlive_a_signal_and_are_no_childs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
