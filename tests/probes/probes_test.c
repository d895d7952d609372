/*
 * Every probe runs on softcuda, ends by itself, and its table answers its question: the rows that must be there are, and
 * where softcuda's rules are known, with the answer that follows from them.
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

static char json_path[] = "/tmp/kvs-probe-XXXXXX";

/* Run a probe on softcuda; its JSON, which is also checked against what it printed. */
static json_t *probe_json(const char *name)
{
	char command[256], program[64];
	struct process process;
	json_error_t error;
	json_t *json;

	snprintf(program, sizeof(program), "tests/probes/%s_probe", name);
	snprintf(command, sizeof(command), "%s --device host --quick --json %s", built(program), json_path);
	process = run_shell(command, 60);
	if (process.status)
		fail_msg("`%s` exited %d: %s", command, process.status, process.err);
	json = json_load_file(json_path, 0, &error);
	if (!json)
		fail_msg("%s: %s", json_path, error.text);
	assert_string_equal(json_string_value(json_object_get(json, "probe")), name);
	assert_string_equal(json_string_value(json_object_get(json, "status")), "complete");
	assert_non_null(strstr(process.out, json_string_value(json_object_get(json, "question"))));
	process_free(&process);
	return json;
}

/* The first row whose cell `column` starts with `key`; fails the test where there is none. */
static json_t *row_of(json_t *json, const char *column, const char *key)
{
	size_t index;
	json_t *row;

	json_array_foreach(json_object_get(json, "rows"), index, row)
	{
		const char *cell = json_string_value(json_object_get(row, column));

		if (cell && !strncmp(cell, key, strlen(key)))
			return row;
	}
	fail_msg("no row with %s = %s", column, key);
	return NULL;
}

static void assert_cell(json_t *row, const char *column, const char *expected)
{
	const char *cell = json_string_value(json_object_get(row, column));

	assert_non_null(cell);
	assert_string_equal(cell, expected);
}

static double number(json_t *row, const char *column)
{
	json_t *cell = json_object_get(row, column);

	assert_true(json_is_number(cell));
	return json_number_value(cell);
}

static size_t row_count(json_t *json)
{
	return json_array_size(json_object_get(json, "rows"));
}

static void cost_times_each_operation_by_size_count_and_calls(void **state)
{
	static const char *const operations[] = {"create", "map", "set-access", "unmap", "release"};
	json_t *json = probe_json("cost");
	size_t index, one_call = 0;
	json_t *row;

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		row = row_of(json, "operation", operations[i]);
		assert_true(number(row, "median_us") > 0);
		assert_true(number(row, "p99_us") >= number(row, "median_us"));
	}
	json_array_foreach(json_object_get(json, "rows"), index, row) one_call +=
		!strcmp(json_string_value(json_object_get(row, "calls")), "one");
	assert_true(one_call >= 2); /* set-access and unmap */
	json_decref(json);
}

static void concurrency_finds_that_only_a_free_waits_for_a_kernel(void **state)
{
	json_t *json = probe_json("concurrency");

	(void)state;
	assert_cell(row_of(json, "call", "map"), "answer", "no");
	assert_cell(row_of(json, "call", "set-access"), "answer", "no");
	assert_cell(row_of(json, "call", "unmap"), "answer", "no");
	assert_cell(row_of(json, "call", "cuMemFree"), "answer", "yes");
	assert_true(number(row_of(json, "call", "64 maps"), "answer") > 0);
	json_decref(json);
}

static void unmap_under_a_kernel_that_uses_the_range_loses_the_context(void **state)
{
	json_t *json = probe_json("unmap");

	(void)state;
	assert_int_equal(row_count(json), 10);
	assert_cell(row_of(json, "kernel_and_change", "handed-not-used"), "context_after", "ok");
	assert_cell(row_of(json, "kernel_and_change", "reading"), "context_after", "ILLEGAL_ADDRESS");
	assert_cell(row_of(json, "kernel_and_change", "writing-made-read-only"), "kernel_end", "ILLEGAL_ADDRESS");
	assert_cell(row_of(json, "kernel_and_change", "reading-made-read-only"), "kernel_end", "ok");
	json_decref(json);
}

static void readonly_tells_the_error_of_each_way_to_write_and_what_is_left(void **state)
{
	json_t *json = probe_json("readonly");
	json_t *row = row_of(json, "write_by", "kernel");

	(void)state;
	assert_int_equal(row_count(json), 6);
	assert_cell(row, "call", "ok");
	assert_cell(row, "synchronize", "ILLEGAL_ADDRESS");
	assert_cell(row, "use_after_reset", "ok");
	assert_cell(row_of(json, "write_by", "copy-from-host"), "call", "INVALID_VALUE");
	row = row_of(json, "write_by", "read-only-reads");
	assert_cell(row, "synchronize", "ok");
	assert_int_equal(number(row, "word_after"), 1);
	json_decref(json);
}

static void mixed_reads_through_one_mapping_what_it_wrote_through_the_other(void **state)
{
	json_t *json = probe_json("mixed"), *row;
	size_t index, compared = 0;

	(void)state;
	json_array_foreach(json_object_get(json, "rows"), index, row)
	{
		assert_cell(row, "result", "ok");
		if (!json_object_get(row, "read"))
			continue;
		assert_int_equal(number(row, "read"), number(row, "written"));
		compared++;
	}
	assert_int_equal(compared, 5);
	json_decref(json);
}

static void alias_finds_no_stale_read_and_says_what_was_not_asked(void **state)
{
	json_t *json = probe_json("alias"), *row;
	size_t index, asked = 0;

	(void)state;
	json_array_foreach(json_object_get(json, "rows"), index, row)
	{
		if (!json_object_get(row, "stale"))
			continue;
		assert_cell(row, "result", "ok");
		assert_cell(row, "note", "");
		assert_true(number(row, "reads") > 0);
		assert_int_equal(number(row, "stale"), 0);
		asked++;
	}
	assert_int_equal(asked, 22);
	row_of(json, "written_and_read_in", "programmatic dependent launch");
	json_decref(json);
}

/* The table of an H200, row by row. */
static void prefix_maps_whole_handles_and_no_part_of_one(void **state)
{
	static const char *const parts[] = {"its first granule", "all but", "half a granule", "more than the handle",
		"its second granule", "its second half", "half a granule into it", "grow"};
	json_t *json = probe_json("prefix"), *row = row_of(json, "mapped", "the whole handle");

	(void)state;
	assert_cell(row, "map", "ok");
	assert_cell(row, "same_memory", "yes");
	assert_cell(row, "unmap", "ok");
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		assert_cell(row_of(json, "mapped", parts[i]), "map", "NOT_SUPPORTED");
	json_decref(json);
}

static void part_access_is_refused_and_changes_nothing(void **state)
{
	json_t *json = probe_json("part_access");
	json_t *row = row_of(json, "part_made_read_only", "the first granule of a mapping");

	(void)state;
	assert_cell(row, "set_access", "INVALID_VALUE");
	assert_cell(row, "access", "wwww");
	assert_cell(row_of(json, "part_made_read_only", "the first mapping"), "access", "rrww");
	assert_cell(row_of(json, "part_made_read_only", "write-1"), "kernel_write", "ok");
	json_decref(json);
}

static void block_id_is_the_same_where_the_memory_is(void **state)
{
	json_t *json = probe_json("block_id"), *row;
	size_t index, same = 0;

	(void)state;
	json_array_foreach(json_object_get(json, "rows"), index, row)
	{
		bool is_same = !strcmp(json_string_value(json_object_get(row, "id")), "same");

		assert_int_equal(is_same, strcmp(json_string_value(json_object_get(row, "same_memory")), "no") != 0);
		same += is_same;
	}
	assert_int_equal(same, 6);
	json_decref(json);
}

static void symbols_compares_every_function_for_both_flags(void **state)
{
	json_t *json = probe_json("symbols"), *row;
	size_t index, own = 0;

	(void)state;
	json_array_foreach(json_object_get(json, "rows"), index, row)
	{
		if (!strcmp(json_string_value(json_object_get(row, "function")), "cuCtxSynchronize"))
			continue; /* it got another form in CUDA 13.0, which knows its context */
		assert_cell(row, "legacy", "same");
		own += !strcmp(json_string_value(json_object_get(row, "per_thread")), "own");
	}
	assert_int_equal(own, 14); /* as on an H200 */
	assert_cell(row_of(json, "function", "cuMemAlloc"), "symbol", "cuMemAlloc_v2");
	row_of(json, "function", "cuLaunchKernel");
	json_decref(json);
}

static void graph_params_are_read_at_the_call(void **state)
{
	json_t *json = probe_json("graph_params"), *row;
	static const char *const ways[] = {"queued launch: values", "queued launch: pointers", "queued launch: buffer"};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		row = row_of(json, "changed_behind_the_call", ways[i]);
		assert_cell(row, "result", "ok");
		assert_int_equal(number(row, "at_first_address"), 1);
		assert_int_equal(number(row, "at_second_address"), 0);
	}
	row = row_of(json, "changed_behind_the_call", "captured launch: values");
	assert_int_equal(number(row, "at_first_address"), 1);
	row = row_of(json, "changed_behind_the_call", "cuGraphExecKernelNodeSetParams");
	assert_int_equal(number(row, "at_first_address"), 0);
	assert_int_equal(number(row, "at_second_address"), 2);
	json_decref(json);
}

static void granularity_is_told_for_each_kind_of_memory(void **state)
{
	json_t *json = probe_json("granularity"), *row = row_of(json, "memory", "device");

	(void)state;
	assert_int_equal(number(row, "minimum_bytes"),
		json_integer_value(json_object_get(json_object_get(json, "device"), "granule_bytes")));
	assert_cell(row, "create", "ok");
	assert_cell(row_of(json, "memory", "device, for fabric"), "minimum", "NOT_SUPPORTED");
	assert_cell(row_of(json, "memory", "a device that is not there"), "minimum", "INVALID_DEVICE");
	json_decref(json);
}

static void limits_count_up_to_their_bound(void **state)
{
	static const char *const kinds[] = {"handles of one granule", "reservations of one granule", "mappings of one"};
	json_t *json = probe_json("limits");

	(void)state;
	for (size_t i = 0; i < 3; i++)
		assert_true(number(row_of(json, "what", kinds[i]), "count") > 0);
	/* What a handle costs is told by the driver's own count of free memory. */
	assert_true(number(row_of(json, "what", kinds[0]), "memory_mib") > 0);
	assert_true(number(row_of(json, "what", kinds[2]), "memory_mib") == 0);
	json_decref(json);
}

static void uprobes_see_every_call_or_say_why_they_cannot(void **state)
{
	static const char *const ways[] = {"found by dlsym", "found by cuGetProcAddress", "on another thread"};
	json_t *json = probe_json("uprobe");

	(void)state;
	if (geteuid() || access("/sys/bus/event_source/devices/uprobe/type", R_OK)) {
		json_decref(json);
		skip();
	}
	for (size_t i = 0; i < 3; i++) {
		json_t *row = row_of(json, "function", ways[i]);

		assert_true(number(row, "hits") == number(row, "calls"));
	}
	json_decref(json);
}

static void cupti_is_not_asked_about_another_driver(void **state)
{
	json_t *json = probe_json("cupti");

	(void)state;
	assert_true(row_count(json) >= 1);
	json_decref(json);
}

/* ---- the harness ---- */

static void assert_exit(const char *name, const char *arguments, int status)
{
	char command[256], program[64];
	struct process process;

	snprintf(program, sizeof(program), "tests/probes/%s_probe", name);
	snprintf(command, sizeof(command), "%s %s", built(program), arguments);
	process = run_shell(command, 60);
	if (process.status != status)
		fail_msg("`%s` exited %d, must be %d: %s", command, process.status, status, process.err);
	process_free(&process);
}

static void a_device_that_is_not_there_is_skipped_and_a_wrong_option_refused(void **state)
{
	(void)state;
	assert_exit("cost", "--device cuda:99", 77);
	assert_exit("cost", "--device nonsense", 1);
	assert_exit("cost", "--no-such-option", 2);
	assert_exit("cost", "--limit 0", 2);
	assert_exit("cost", "--case kernel", 2); /* cost has no cases */
	assert_exit("cost", "--help", 0);
}

static void a_probe_that_runs_out_of_time_reports_what_it_saw(void **state)
{
	char arguments[128];
	json_t *json;

	(void)state;
	/* Its first rows come at once, and then, as it is not told to be quick, it goes on for many seconds. */
	snprintf(arguments, sizeof(arguments), "--device host --limit 3 --json %s", json_path);
	assert_exit("concurrency", arguments, 124);
	json = json_load_file(json_path, 0, NULL);
	assert_non_null(json);
	assert_cell(json, "status", "timed out");
	assert_true(row_count(json) > 0);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cost_times_each_operation_by_size_count_and_calls),
		cmocka_unit_test(concurrency_finds_that_only_a_free_waits_for_a_kernel),
		cmocka_unit_test(unmap_under_a_kernel_that_uses_the_range_loses_the_context),
		cmocka_unit_test(readonly_tells_the_error_of_each_way_to_write_and_what_is_left),
		cmocka_unit_test(mixed_reads_through_one_mapping_what_it_wrote_through_the_other),
		cmocka_unit_test(alias_finds_no_stale_read_and_says_what_was_not_asked),
		cmocka_unit_test(prefix_maps_whole_handles_and_no_part_of_one),
		cmocka_unit_test(part_access_is_refused_and_changes_nothing),
		cmocka_unit_test(block_id_is_the_same_where_the_memory_is),
		cmocka_unit_test(symbols_compares_every_function_for_both_flags),
		cmocka_unit_test(graph_params_are_read_at_the_call),
		cmocka_unit_test(granularity_is_told_for_each_kind_of_memory),
		cmocka_unit_test(limits_count_up_to_their_bound),
		cmocka_unit_test(uprobes_see_every_call_or_say_why_they_cannot),
		cmocka_unit_test(cupti_is_not_asked_about_another_driver),
		cmocka_unit_test(a_device_that_is_not_there_is_skipped_and_a_wrong_option_refused),
		cmocka_unit_test(a_probe_that_runs_out_of_time_reports_what_it_saw),
	};
	int failed, fd = mkstemp(json_path);

	if (fd < 0)
		return 1;
	close(fd);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(json_path);
	return failed ? 1 : 0;
}
