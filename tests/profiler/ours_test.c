/*
 * tests/profiler/ours_test.c: the trace of our own program says what the program says of itself, to the byte.
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

#include "../support/process.h"

#define GENERATE "kvshare-run generate -m tests/models/storyworld-3m --device host -p 'It had rained' -n 8 --ctx 2000 "
#define GENERATE_Q "kvshare-run generate -m tests/models/storyworld-3m --device host -p Anna -n 8 --ctx 64 -q"
#define OWNERS "--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 "
#define TRACE "/tmp/kvs-ours.trace"

static json_t *member(json_t *object, const char *path)
{
	char word[64];

	for (; *path; path += strspn(path, ".")) {
		size_t length = strcspn(path, ".");
		snprintf(word, sizeof(word), "%.*s", (int)length, path);
		object = json_object_get(object, word);
		path += length;
	}
	if (!object)
		fail_msg("no %s", word);
	return object;
}

static json_int_t number(json_t *object, const char *path)
{
	return json_integer_value(member(object, path));
}

static json_t *named(json_t *list, const char *name)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!strcmp(json_string_value(member(json_array_get(list, i), "name")), name))
			return json_array_get(list, i);
	return NULL;
}

static json_int_t calls(json_t *report, const char *name)
{
	json_t *function = named(member(report, "api"), name);

	return function ? number(function, "n") : 0;
}

/* [layer]: whose memory K and V of the layer lie in, as the plan has it. */
static void owners_are(json_t *map, const int *owners)
{
	assert_int_equal(json_array_size(map), 32);
	for (int i = 0; i < 32; i++) {
		json_t *range = json_array_get(map, i), *owner = member(range, "owner"),
		       *owned = json_array_get(map, 2 * owners[i / 2] + i % 2);
		assert_int_equal(number(range, "layer"), i / 2);
		if (owners[i / 2] == i / 2)
			assert_true(json_is_null(owner));
		else
			assert_int_equal(json_integer_value(owner), owners[i / 2]);
		assert_true(json_equal(member(range, "blocks"), member(owned, "blocks")));
	}
}

static void memory_agrees(const char *owners, json_int_t owning)
{
	static const int alone[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
			 shared[] = {0, 1, 2, 3, 4, 5, 2, 7, 8, 3, 10, 11, 1, 13, 5, 15};
	char command[512];
	json_t *run, *report;

	snprintf(command, sizeof(command), GENERATE "%s --no-premap --json --profile " TRACE, owners);
	run = run_json(command);
	report = run_json("kvshare-run report " TRACE " --json");
	assert_int_equal(number(report, "memory.kv_bytes"), number(run, "memory.kv_physical_bytes"));
	assert_int_equal(number(report, "memory.saved_bytes"),
		number(run, "memory.kv_unshared_bytes") - number(run, "memory.kv_physical_bytes"));
	assert_int_equal(
		number(report, "memory.saved_bytes") * owning, number(report, "memory.kv_bytes") * (16 - owning));
	/* K of a token takes kv_heads * head_dim values of two bytes; seven of the tokens that came out were put in again. */
	assert_int_equal(number(report, "memory.asked_by_kind.K"), owning * (number(run, "prompt_tokens") + 7) *
									   number(run, "model.kv_heads") *
									   number(run, "model.head_dim") * 2);
	assert_int_equal(number(report, "memory.asked_by_kind.V"), number(report, "memory.asked_by_kind.K"));
	assert_in_range(number(report, "memory.unfilled_bytes") - number(report, "memory.kv_bytes") +
				2 * number(report, "memory.asked_by_kind.K"),
		0, 8 * 4095); /* ends of the last pages of the few allocations */
	assert_in_range(number(report, "memory.by_kind.weights") - number(run, "memory.weights_bytes") +
				number(run, "memory.weights_mapped_bytes"),
		0, 4095);
	/* What nobody said anything about: a few KiB that the kernels' own code takes. */
	assert_in_range(number(report, "memory.by_kind.other"), 0, 1 << 20);
	assert_int_equal(number(report, "memory.untracked_bytes"), 0); /* softcuda agrees, page by page */
	assert_int_equal(json_array_size(member(report, "leaks")), 0);
	owners_are(member(report, "kv_map"), owning == 16 ? alone : shared);
	assert_int_equal(number(report, "dropped"), 0);
	json_decref(run);
	json_decref(report);
}

static void memory_agrees_with_the_engine_and_the_driver(void **state)
{
	(void)state;
	memory_agrees("", 16);
	memory_agrees(OWNERS, 12);
}

static void every_call_is_there(void **state)
{
	json_t *run = run_json(GENERATE OWNERS "--json --profile " TRACE),
	       *report = run_json("kvshare-run report " TRACE " --json");
	json_t *decode = named(member(report, "phases"), "decode"),
	       *prefill = named(member(report, "phases"), "prefill");

	(void)state;
	assert_int_equal(calls(report, "cuMemCreate"), calls(report, "cuMemRelease"));
	assert_int_equal(calls(report, "cuMemMap"), calls(report, "cuMemUnmap"));
	assert_int_equal(calls(report, "cuMemMap"), 32);
	assert_int_equal(calls(report, "cuMemCreate"), 24);
	assert_int_equal(calls(report, "cuMemAddressReserve"), 32);
	assert_int_equal(calls(report, "cuMemAlloc_v2"), calls(report, "cuMemFree_v2"));
	assert_true(calls(report, "cuLaunchKernel") > 100);
	assert_int_equal(number(decode, "n"), 7);
	assert_int_equal(number(decode, "tokens"), 7);
	assert_int_equal(number(prefill, "tokens"), number(run, "prompt_tokens"));
	json_decref(run);
	json_decref(report);
}

/* How many arrows of a name begin; exports_test looks at where. */
static json_int_t arrows(json_t *chrome, const char *name)
{
	json_t *event;
	size_t i;
	json_int_t count = 0;

	json_array_foreach(member(chrome, "traceEvents"), i, event) count +=
		!strcmp(json_string_value(member(event, "ph")), "s") &&
		!strcmp(json_string_value(member(event, "name")), name);
	return count;
}

/* softcuda tells of each kernel and each product that ran; a layer that shares projects no K and V, and so runs fewer kernels. */
static void every_launch_ran_and_has_its_layer(void **state)
{
	json_t *run = run_json(GENERATE OWNERS "--json --profile " TRACE),
	       *report = run_json("kvshare-run report " TRACE " --json"), *kernels = member(report, "kernels"), *chrome;
	json_int_t ran = 0, rope_of_owner = 0, rope_of_borrower = 0, attention[16] = {0};

	(void)state;
	for (size_t i = 0; i < json_array_size(kernels); i++) {
		json_t *kernel = json_array_get(kernels, i), *layer = member(kernel, "layer");
		const char *class = json_string_value(member(kernel, "class"));
		ran += number(kernel, "n");
		if (!strcmp(class, "attention"))
			attention[json_integer_value(layer)] += number(kernel, "n");
		if (!strcmp(class, "rope and append") && json_integer_value(layer) == 2)
			rope_of_owner += number(kernel, "total_ns");
		if (!strcmp(class, "rope and append") && json_integer_value(layer) == 6)
			rope_of_borrower += number(kernel, "total_ns");
	}
	assert_int_equal(ran, calls(report, "cuLaunchKernel") + calls(report, "cuLaunchHostFunc"));
	chrome = run_json("kvshare-run report " TRACE " --perfetto -");
	assert_int_equal(arrows(chrome, "launch"), ran);
	assert_int_equal(arrows(chrome, "share"), 8); /* K and V of four borrowers, a block each */
	json_decref(chrome);
	for (int layer = 1; layer < 16; layer++)
		assert_int_equal(attention[layer], attention[0]);
	assert_true(attention[0] >= 8); /* the prompt and seven steps; long contexts take a second launch */
	assert_true(rope_of_owner > 0 && rope_of_borrower > 0);
	json_decref(run);
	json_decref(report);
}

/* Each key of an object, and of what is in it, stands in the page as `key`. */
static void is_documented(json_t *value, const char *page)
{
	char quoted[80];
	const char *key;
	json_t *inner;
	size_t i;

	json_array_foreach(value, i, inner) is_documented(inner, page);
	json_object_foreach(value, key, inner)
	{
		snprintf(quoted, sizeof(quoted), "`%s`", key);
		if (!strstr(page, quoted))
			fail_msg("docs/profiler.md does not have %s", quoted);
		is_documented(inner, page);
	}
}

static void every_key_is_documented(void **state)
{
	struct process page = run_shell("cat docs/profiler.md", 10);
	json_t *report, *diff;

	(void)state;
	json_decref(run_json(GENERATE OWNERS "--json --profile " TRACE));
	report = run_json("kvshare-run report " TRACE " --json");
	diff = run_json("kvshare-run report --diff " TRACE " " TRACE " --json");
	is_documented(report, page.out);
	is_documented(diff, page.out);
	json_decref(report);
	json_decref(diff);
	process_free(&page);
}

static json_t *row_of(json_t *diff, const char *section, const char *name, const char *unit)
{
	json_t *row;
	size_t i;

	json_array_foreach(
		member(diff, section), i, row) if (!strcmp(json_string_value(member(row, "name")), name) &&
						   !strcmp(json_string_value(member(row, "unit")), unit)) return row;
	fail_msg("no %s in %s", name, section);
	return NULL;
}

static void two_runs_side_by_side(void **state)
{
	json_t *full = run_json(GENERATE "--no-premap --json --profile " TRACE),
	       *shared = run_json(GENERATE OWNERS "--no-premap --json --profile " TRACE "2"),
	       *diff = run_json("kvshare-run report --diff " TRACE " " TRACE "2 --json"), *row;
	struct process process = run_shell("kvshare-run report --diff " TRACE " " TRACE "2", 60);

	(void)state;
	row = row_of(diff, "memory", "KV", "bytes");
	assert_true(json_real_value(member(row, "a")) == (double)number(full, "memory.kv_physical_bytes"));
	assert_true(json_real_value(member(row, "b")) == (double)number(shared, "memory.kv_physical_bytes"));
	row = row_of(diff, "memory", "saved by sharing", "bytes");
	assert_true(json_real_value(member(row, "a")) == 0 && json_real_value(member(row, "b")) > 0);
	assert_true(json_real_value(member(row_of(diff, "phases", "decode", "tokens/s"), "a")) > 0);
	assert_true(json_real_value(member(row_of(diff, "kernels", "attention", "ns"), "b")) > 0);
	assert_true(json_real_value(member(row_of(diff, "calls", "cuMemCreate", "ns"), "b")) > 0);
	assert_int_equal(process.status, 0);
	assert_non_null(strstr(process.out, "saved by sharing"));
	assert_non_null(strstr(process.out, "0.750\n")); /* 12 of 16 layers */
	process_free(&process);
	unlink(TRACE "2");
	json_decref(full);
	json_decref(shared);
	json_decref(diff);
}

/* Each process adds to the one trace that the environment names; the text that is written is the same. */
static void two_processes_share_a_trace(void **state)
{
	json_t *report;
	struct process process =
		run_shell("rm -f " TRACE "; KVSHARE_PROFILE=" TRACE " && export KVSHARE_PROFILE; (" GENERATE
			  "-q && " GENERATE "-q) | sort | uniq -c | wc -l",
			120);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_int_equal(atoi(process.out), 1);
	process_free(&process);
	report = run_json("kvshare-run report " TRACE " --json");
	assert_int_equal(json_array_size(member(report, "processes")), 2);
	assert_int_equal(number(report, "memory.saved_bytes"), 0);
	assert_int_equal(calls(report, "cuMemMap"), 64);
	json_decref(report);
}

static void a_trace_that_cannot_be_written_stops_before_the_work(void **state)
{
	struct process process = run_shell(GENERATE "-q --profile /nowhere/trace", 60);

	(void)state;
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.err, "/nowhere/trace: No such file"));
	assert_string_equal(process.out, "");
	process_free(&process);
}

/* One line tells; the text comes whole, and the exit status is that of the work. The full disk is a file system of 16 KiB. */
static void a_full_disk_harms_nobody(void **state)
{
	struct process process = run_shell(
		"unshare -m sh -c 'mount -t tmpfs -o size=16k none /mnt && " GENERATE_Q " --profile /mnt/trace'", 60);

	(void)state;
	if (strstr(process.err, "unshare:") || strstr(process.err, "mount:")) {
		process_free(&process);
		skip(); /* not root */
	}
	assert_int_equal(process.status, 0);
	assert_non_null(strstr(process.err, "warning: the trace cannot be written: No space left"));
	assert_null(strstr(strstr(process.err, "warning") + 1, "warning"));
	assert_true(strlen(process.out) > 8);
	process_free(&process);
}

static int remove_trace(void **state)
{
	(void)state;
	unlink(TRACE);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_agrees_with_the_engine_and_the_driver),
		cmocka_unit_test(every_call_is_there),
		cmocka_unit_test(every_launch_ran_and_has_its_layer),
		cmocka_unit_test(every_key_is_documented),
		cmocka_unit_test(two_runs_side_by_side),
		cmocka_unit_test(two_processes_share_a_trace),
		cmocka_unit_test(a_trace_that_cannot_be_written_stops_before_the_work),
		cmocka_unit_test(a_full_disk_harms_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, remove_trace);
}
