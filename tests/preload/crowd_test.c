/*
 * Programs with several threads under a plan (tests/clients/crowd.c): all of them launch, copy, allocate and load modules at once, each in
 * a stream of its own, and each prints what it prints when the program itself hands it the owners' pointers.
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

#define LAYOUT "--owners 0,1,0,1 --layout slab:layers=4,k=2MiB,v=2MiB "

/* `options` of exec. Nothing is said. */
static char *crowd(const char *options, const char *what)
{
	char command[2048], program[512], kernels[512];
	struct process process;

	snprintf(program, sizeof(program), "%s", built("tests/clients/crowd"));
	snprintf(kernels, sizeof(kernels), "%s", built("tests/clients/decoder_kernels.so"));
	snprintf(command, sizeof(command), "kvshare-run exec --device host %s-- %s %s %s", options, program, what,
		kernels);
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* the shim is first, and links it too */
	process = run_shell(command, 120);
	if (process.status || strstr(process.err, "kvshare: "))
		fail_msg("%s: status %d: %s", command, process.status, process.err);
	free(process.err);
	return process.out;
}

static void assert_as_with_owners(const char *what)
{
	char with_owners[256], *shared = crowd(LAYOUT, what), *oracle, *plain = crowd("", what);

	snprintf(with_owners, sizeof(with_owners), "owners=0,1,0,1 %s", what);
	oracle = crowd("", with_owners);
	assert_string_equal(shared, oracle);
	assert_string_not_equal(plain, oracle); /* else this shows nothing */
	free(shared);
	free(oracle);
	free(plain);
}

static void threads_with_caches_of_their_own_share_layers(void **state)
{
	(void)state;
	assert_as_with_owners("cache=own");
}

static void threads_share_the_layers_of_one_cache(void **state)
{
	(void)state;
	assert_as_with_owners("cache=one threads=8");
}

static void threads_capture_while_others_allocate(void **state)
{
	(void)state;
	assert_as_with_owners("cache=own graph=capture threads=8 rounds=6");
	assert_as_with_owners("cache=one graph=capture threads=8");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_with_caches_of_their_own_share_layers),
		cmocka_unit_test(threads_share_the_layers_of_one_cache),
		cmocka_unit_test(threads_capture_while_others_allocate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
