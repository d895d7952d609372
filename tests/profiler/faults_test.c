/*
 * tests/profiler/faults_test.c: what tests/clients/leaks.c does wrong is found, in the function and on the line where it does it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "watched.h"

static char trace[] = "/tmp/kvshare-faults-XXXXXX";

static json_t *report(void)
{
	char command[512];
	struct process process;
	json_t *json;

	snprintf(command, sizeof(command),
		"B=${BUILD:-build}; export SOFTCUDA_STRICT=0 LD_LIBRARY_PATH=$B/softcuda; "
		"kvshare-run profile --source ebpf -o %s -- $B/tests/clients/leaks",
		trace);
	process = run_shell(command, 60);
	if (process.status || strcmp(process.out, "done\n"))
		fail_msg("%d: %s%s", process.status, process.out, process.err);
	process_free(&process);
	snprintf(command, sizeof(command), "kvshare-run report %s --json", trace);
	json = run_json(command);
	return json;
}

static const char *text(json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* The frame of `function` in the stack of `item`; NULL where functions have no names, as without elfutils. */
static json_t *frame_of(json_t *item, const char *function)
{
	json_t *stack = json_object_get(item, "stack");
	bool named = false;

	assert_true(json_array_size(stack) > 1);
	for (size_t i = 0; i < json_array_size(stack); i++) {
		json_t *frame = json_array_get(stack, i);
		named = named || *text(frame, "function");
		if (!strcmp(text(frame, "function"), function))
			return frame;
	}
	if (named)
		fail_msg("no %s in the stack", function);
	return NULL;
}

static void is_in(json_t *item, const char *function)
{
	json_t *frame = frame_of(item, function);

	if (!frame)
		return;
	assert_non_null(strstr(text(frame, "file"), "leaks.c"));
	assert_true(json_integer_value(json_object_get(frame, "line")) > 0);
}

static json_t *leak_of(json_t *json, json_int_t bytes)
{
	json_t *leaks = json_object_get(json, "leaks");

	for (size_t i = 0; i < json_array_size(leaks); i++)
		if (json_integer_value(json_object_get(json_array_get(leaks, i), "bytes")) == bytes)
			return json_array_get(leaks, i);
	fail_msg("no leak of %lld bytes", (long long)bytes);
	return NULL;
}

static void leaks_are_found_where_they_were_made(void **state)
{
	json_t *json = report();

	(void)state;
	assert_int_equal(json_array_size(json_object_get(json, "leaks")), 3);
	is_in(leak_of(json, 3 << 20), "leak_three_megabytes");
	is_in(leak_of(json, 5 << 20), "leak_in_a_loop");
	assert_int_equal(json_integer_value(json_object_get(leak_of(json, 5 << 20), "count")), 5);
	is_in(leak_of(json, 4 << 20), "leak_a_handle");
	json_decref(json);
}

static void wrong_uses_are_found_where_they_were_made(void **state)
{
	json_t *json = report(), *process = json_array_get(json_object_get(json, "processes"), 0);
	json_t *findings = json_object_get(process, "findings");

	(void)state;
	assert_int_equal(json_array_size(findings), 2);
	assert_string_equal(text(json_array_get(findings, 0), "what"), "mapped twice");
	is_in(json_array_get(findings, 0), "map_twice");
	assert_string_equal(text(json_array_get(findings, 1), "what"), "used after it was given back");
	is_in(json_array_get(findings, 1), "use_what_is_unmapped");
	json_decref(json);
}

static int make_trace(void **state)
{
	int fd = mkstemp(trace);

	(void)state;
	close(fd);
	return fd < 0;
}

static int remove_trace(void **state)
{
	(void)state;
	return unlink(trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaks_are_found_where_they_were_made),
		cmocka_unit_test(wrong_uses_are_found_where_they_were_made),
	};

	watched_or_skip();
	return cmocka_run_group_tests(tests, make_trace, remove_trace);
}
