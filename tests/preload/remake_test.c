/*
 * Programs that free a cache and make it again, in another order, in part, or beside other memory of its size (tests/clients/remake.c):
 * a tensor shows what was stored to it, or to its owner by the plan; never another's. So it stays when memory cannot be had.
 */
#include "../support/process.h"

#include <linux/membarrier.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define TENSORS "tensors:layers=4,bytes=2MiB"
#define OWNERS "0,1,0,1"
#define OWN "1 2 3 4 5 6 7 8\n"
#define SHARED "1 2 3 4 1 2 3 4\n"

/* Without kvshare-run, as there are many runs. `fail` is one of SOFTCUDA_FAIL, or empty. */
static struct process remake(
	const char *owners, const char *layout, const char *fail, const char *before, const char *what)
{
	char command[4096], driver[512], shim[512];

	snprintf(driver, sizeof(driver), "%s", built("softcuda"));
	snprintf(shim, sizeof(shim), "%s", built("libkvshare-preload.so"));
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	snprintf(command, sizeof(command),
		"LD_LIBRARY_PATH=%s LD_PRELOAD=%s KVSHARE_OWNERS=%s KVSHARE_LAYOUT=%s SOFTCUDA_FAIL=%s %s %s %s",
		driver, shim, owners, layout, fail, before, built("tests/clients/remake"), what);
	return run_shell(command, 60);
}

/* `message`: a part of what is said; NULL: nothing is. */
static void assert_shows(
	const char *owners, const char *fail, const char *what, const char *expected, const char *message)
{
	struct process got = remake(owners, TENSORS, fail, "", what);
	bool said = message ? strstr(got.err, message) != NULL : !*got.err;

	if (got.status || !said || strcmp(got.out, expected))
		fail_msg("%s: status %d, stderr \"%s\", output\n%s, not\n%s", what, got.status, got.err, got.out,
			expected);
	process_free(&got);
}

/* Eight of 1 MiB take 8 MiB; four blocks of 2 MiB and a sink would take 10. */
static void tensors_that_would_take_more_are_not_shared(void **state)
{
	struct process got = remake(OWNERS, "tensors:layers=4,bytes=1MiB", "", "", "small");

	(void)state;
	assert_int_equal(got.status, 0);
	assert_string_equal(got.out, OWN);
	assert_non_null(strstr(got.err, "tensors of 1048576 bytes would take more memory shared"));
	process_free(&got);
	got = remake("0,0,0,0", "tensors:layers=4,bytes=1MiB", "", "", "small");
	assert_string_equal(got.out, "1 2 1 2 1 2 1 2\n");
	process_free(&got);
}

static void memory_of_the_size_of_a_layer_is_no_layer(void **state)
{
	(void)state;
	assert_shows(OWNERS, "", "scratch", OWN "99\n" SHARED, "the cache of its context is whole");
	assert_shows(OWNERS, "", "between", SHARED, NULL);
}

/* It takes the place that is free, whether that shares or not. */
static void one_that_is_made_again_has_its_place(void **state)
{
	(void)state;
	assert_shows(OWNERS, "", "alone", SHARED SHARED, NULL);
	assert_shows("0,1,1,1", "", "alone", "1 2 3 4 3 4 3 4\n1 2 3 4 3 4 3 4\n", NULL);
}

static void an_order_that_nobody_can_tell_shares_nothing(void **state)
{
	(void)state;
	assert_shows(OWNERS, "", "order", SHARED OWN SHARED, "layers it is of cannot be told");
	assert_shows(OWNERS, "", "moved", OWN SHARED, "layers it is of cannot be told");
}

static void caches_do_not_share_with_each_other(void **state)
{
	(void)state;
	assert_shows(OWNERS, "", "two", OWN "11 12 13 14 15 16 17 18\n" SHARED, "the cache of its context is whole");
}

/* 8 MiB of owners' tensors and the sink's block do not fit; the program may go on with what it has. */
static void who_runs_out_of_memory_keeps_what_there_is(void **state)
{
	struct process got = remake("0,0,2,2", TENSORS, "", "SOFTCUDA_MEMORY=8M", "short");
	struct process strict = remake("0,0,2,2", TENSORS, "", "SOFTCUDA_MEMORY=8M KVSHARE_STRICT=1", "short");

	(void)state;
	assert_int_equal(got.status, 0);
	assert_string_equal(got.out, "1 2 1 2 5\n11 12 11 12 15\n");
	assert_string_equal(got.err, "");
	assert_int_equal(strict.status, 0);
	assert_string_equal(strict.out, got.out);
	process_free(&got);
	process_free(&strict);
}

/* A borrower's memory is there before its share goes, and if not, the share stays. */
static void no_borrower_is_lost(void **state)
{
	struct process got = remake(OWNERS, TENSORS, "cuMemMap:8:2", "SOFTCUDA_MEMORY=14M", "rounds");

	(void)state;
	assert_int_equal(got.status, 0);
	assert_string_equal(got.out, "1 2 3 4 1 2 7 8\n" SHARED SHARED);
	assert_non_null(strstr(got.err, "go on sharing"));
	process_free(&got);
}

/* Giving up needs memory too: a borrower that gets none of its own shows its owner's, as before. */
static void each_call_that_fails_while_a_cache_is_given_up(void **state)
{
	static const char *const calls[] = {"cuMemCreate:%d:2", "cuMemMap:%d:2", "cuMemSetAccess:%d:2"};
	char fail[64];

	(void)state;
	for (int i = 0; i < 3; i++) {
		for (int nth = 6; nth < 14; nth++) {
			struct process got;
			unsigned k2, v2, k3, v3;

			snprintf(fail, sizeof(fail), calls[i], nth);
			got = remake(OWNERS, TENSORS, fail, "", "order");
			if (got.status || sscanf(got.out, "%*[^\n] 1 2 3 4 %u %u %u %u", &k2, &v2, &k3, &v3) != 4 ||
				k2 != 5 || (v2 != 2 && v2 != 6) || k3 != 7 || (v3 != 4 && v3 != 8))
				fail_msg("%s: status %d, %s%s", fail, got.status, got.out, got.err);
			process_free(&got);
		}
	}
}

static void graphs_keep_their_stores(void **state)
{
	(void)state;
	assert_shows(OWNERS, "", "graph", "17 18 19 20 17 18 19 20\n", NULL);
	assert_shows(OWNERS, "cuMemMap:8:2", "graph", "17 18 19 20 17 18 0 0\n", "graphs may hold their addresses");
	assert_shows(OWNERS, "cuMemMap:8:2", "relaxed", "end 0\n1 2 3 4 1 2 7 8\n", "graphs may hold their addresses");
}

/* What lies behind a tensor in its last granule would be its owner's. */
static void what_lies_behind_a_tensor_is_the_programs(void **state)
{
	struct process got = remake(OWNERS, "tensors:layers=4,bytes=5MiB,size=7MiB", "", "", "tail");

	(void)state;
	assert_string_equal(got.out, OWN);
	assert_non_null(strstr(got.err, "6291456 bytes a layer would align it"));
	process_free(&got);
	got = remake(OWNERS, "tensors:layers=4,bytes=4MiB,size=7MiB", "", "", "tail");
	assert_string_equal(got.out, OWN);
	assert_string_equal(got.err, "");
	process_free(&got);
}

static bool has_membarrier(void)
{
	long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

	return commands > 0 && commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED;
}

/* Sixteen tables of shared memory a cycle. Without the call the shim cannot tell when they may go; a sanitizer keeps what is freed. */
static void a_process_does_not_grow_with_its_caches(void **state)
{
	struct process got;
	long kib = 0;

	(void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip();
#endif
	if (!has_membarrier())
		skip();
	got = remake(OWNERS, TENSORS, "", "", "cycles");
	assert_int_equal(sscanf(got.out, "%ld KiB more", &kib), 1);
	assert_string_equal(got.err, "");
	assert_in_range(kib + 4096, 0, 4096 + 256);
	process_free(&got);
}

/* At most the round in which the call failed shares nothing; *failed: there was one. */
static void assert_rounds(const char *call, int nth, bool *failed)
{
	char fail[64];
	struct process got;
	int own = 0;

	snprintf(fail, sizeof(fail), "%s:%d:2", call, nth);
	got = remake(OWNERS, TENSORS, fail, "", "rounds");
	for (const char *line = got.out; *line; line += strlen(OWN)) {
		bool is_own = !strncmp(line, OWN, strlen(OWN));

		own += is_own;
		if (!is_own && strncmp(line, SHARED, strlen(SHARED)) != 0)
			fail_msg("%s: %s%s", fail, got.out, got.err);
	}
	if (got.status || own > 1 || strlen(got.out) != 3 * strlen(OWN))
		fail_msg("%s: status %d, %s%s", fail, got.status, got.out, got.err);
	*failed |= own > 0;
	process_free(&got);
}

/* Each is called 5 to 9 times a round. */
static void each_call_that_fails_leaves_right_output_in_all_rounds(void **state)
{
	static const char *const calls[] = {"cuMemAddressReserve", "cuMemCreate", "cuMemMap", "cuMemSetAccess"};
	static const char *const ends[] = {"cuMemUnmap", "cuMemRelease", "cuMemAddressFree"};
	bool failed;

	(void)state;
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		failed = false;
		for (int nth = 1; nth <= 18; nth++)
			assert_rounds(calls[i], nth, &failed);
		assert_true(failed);
	}
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
		for (int nth = 1; nth <= 18; nth += 3)
			assert_rounds(ends[i], nth, &failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_of_the_size_of_a_layer_is_no_layer),
		cmocka_unit_test(tensors_that_would_take_more_are_not_shared),
		cmocka_unit_test(one_that_is_made_again_has_its_place),
		cmocka_unit_test(an_order_that_nobody_can_tell_shares_nothing),
		cmocka_unit_test(caches_do_not_share_with_each_other),
		cmocka_unit_test(who_runs_out_of_memory_keeps_what_there_is),
		cmocka_unit_test(no_borrower_is_lost),
		cmocka_unit_test(each_call_that_fails_while_a_cache_is_given_up),
		cmocka_unit_test(graphs_keep_their_stores),
		cmocka_unit_test(what_lies_behind_a_tensor_is_the_programs),
		cmocka_unit_test(a_process_does_not_grow_with_its_caches),
		cmocka_unit_test(each_call_that_fails_leaves_right_output_in_all_rounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
