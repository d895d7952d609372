/*
 * tests/profiler/exports_test.c: the exports are what their formats ask for, and say of a known story what the report says.
 *
 * Chrome's trace events: each counter goes forward in time, slices of one track lie in or behind each other, each 'b' has its 'e',
 * each track has a name. RMM's log: what was allocated and freed adds up. Speedscope: weights are the bytes that were held.
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

#include "../../driver/cu.h"
#include "../../profiler/profiler.h"

#define DECODE "_Z20kvs_attention_decodeIfEvPT_"
#ifdef PROF_LIBIBERTY
#define DECODE_NAME "void kvs_attention_decode<float>(float*)"
#else
#define DECODE_NAME DECODE
#endif
#define MIB (1ul << 20)
#define NONE KVS_EVENT_NONE

static char path[64];
static kvs_trace *trace;
static uint64_t now;

static int begin(void **state)
{
	(void)state;
	strcpy(path, "/tmp/kvs-exports-XXXXXX");
	close(mkstemp(path));
	now = 1000000;
	return kvs_trace_open(path, NULL, &trace);
}

static int end(void **state)
{
	(void)state;
	return unlink(path);
}

static void add(struct kvs_event event)
{
	event.pid = 7;
	event.tid = event.tid ? event.tid : 7;
	event.time_ns = event.time_ns ? event.time_ns : (now += 1000);
	kvs_trace_add(trace, &event);
}

static void call(const char *function, uint64_t address, uint64_t bytes, uint64_t handle, int result)
{
	static const struct kvs_frame frames[] = {{"/bin/inner", 1}, {"/bin/\"outer\\", 2}};

	add((struct kvs_event){.type = KVS_EVENT_CALL,
		.call = {.function = function,
			.duration_ns = 100,
			.address = address,
			.bytes = bytes,
			.handle = handle,
			.result = result,
			.frames = frames,
			.frame_count = 2}});
}

static void launch(uint32_t link)
{
	add((struct kvs_event){.type = KVS_EVENT_CALL,
		.link = link,
		.call = {.function = "cuLaunchKernel",
			.duration_ns = 100,
			.address = NONE,
			.bytes = NONE,
			.handle = 1}});
}

static void kernel(uint64_t time_ns, uint64_t duration_ns, uint32_t stream, uint32_t link)
{
	add((struct kvs_event){.type = KVS_EVENT_KERNEL,
		.link = link,
		.time_ns = time_ns,
		.kernel = {DECODE, duration_ns, stream, 3}});
}

/* Two layers on one block, an allocation that leaks, one that is refused, kernels that overlap, a phase that does not end. */
static void tell_story(void)
{
	add((struct kvs_event){.type = KVS_EVENT_PROCESS,
		.process = {.source = KVS_SOURCE_OURS, .command = "pro\"gram\\ \x01", .device = "gpu"}});
	add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {"load", 0}});
	call("cuMemAddressReserve", 0x10000000, 2 * MIB, NONE, 0);
	call("cuMemAddressReserve", 0x20000000, 2 * MIB, NONE, 0);
	add((struct kvs_event){.type = KVS_EVENT_LABEL, .label = {0x10000000, 2 * MIB, KVS_MEMORY_K, 3, -1}});
	add((struct kvs_event){.type = KVS_EVENT_LABEL, .label = {0x20000000, 2 * MIB, KVS_MEMORY_K, 4, 3}});
	call("cuMemCreate", NONE, 2 * MIB, 5, 0);
	call("cuMemMap", 0x10000000, 2 * MIB, 5, 0);
	call("cuMemMap", 0x20000000, 2 * MIB, 5, 0);
	call("cuMemAlloc_v2", 0x30000000, 4 * MIB, NONE, 0);
	call("cuMemAlloc_v2", NONE, 90 * MIB, NONE, 2);
	add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {"decode", 1}});
	launch(1);
	launch(2);
	kernel(now + 1000, 5000, 1, 1);
	kernel(now + 2000, 9000, 1, 3); /* overlaps; it is told of before its launch */
	kernel(now + 2000, 300, 2, 0);
	launch(3);
	kernel(now - 5000, 10, 3, 2); /* before its launch: a clock that is wrong */
	launch(4);                    /* what it launched was lost */
	add((struct kvs_event){
		.type = KVS_EVENT_COPY, .copy = {.kind = KVS_COPY_HTOD, .bytes = 64, .duration_ns = 50, .stream = 2}});
	add((struct kvs_event){.type = KVS_EVENT_SPAN, .tid = 9, .span = {KVS_SPAN_RANGE, "step", 70}});
	now += 100000;
	call("cuMemUnmap", 0x20000000, 2 * MIB, NONE, 0);
	call("cuMemUnmap", 0x10000000, 2 * MIB, NONE, 0);
	call("cuMemRelease", NONE, NONE, 5, 0);
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
}

static kvs_report *report(void)
{
	kvs_report *made;

	assert_int_equal(kvs_trace_close(trace), 0);
	if (kvs_report_make(path, &made))
		fail_msg("%s", kvs_error());
	return made;
}

/* ---- Chrome's trace events ---- */

struct track {
	double ends[64]; /* of the slices that are open, the outermost first */
	unsigned depth;
};

static const char *text(json_t *event, const char *key)
{
	return json_string_value(json_object_get(event, key));
}

static double number(json_t *event, const char *key)
{
	json_t *value = json_object_get(event, key);

	if (!json_is_number(value))
		fail_msg("no number %s", key);
	return json_number_value(value);
}

static int by_start(const void *left, const void *right)
{
	json_t *a = *(json_t *const *)left, *b = *(json_t *const *)right;
	double x = number(a, "tid") - number(b, "tid");

	if (x == 0)
		x = number(a, "ts") - number(b, "ts");
	if (x == 0) /* the outer one first */
		x = number(b, "dur") - number(a, "dur");
	return x < 0 ? -1 : x > 0;
}

/* Of one process. A microsecond has three digits, so half a nanosecond is nothing. */
static void slices_nest(json_t *events)
{
	size_t count = 0;
	json_t **slices = calloc(json_array_size(events) + 1, sizeof(*slices)), *event;
	size_t i;

	json_array_foreach(events, i, event) if (!strcmp(text(event, "ph"), "X")) slices[count++] = event;
	assert_true(count > 0);
	qsort(slices, count, sizeof(*slices), by_start);
	struct track track = {.depth = 0};
	for (i = 0; i < count; i++) {
		double start = number(slices[i], "ts"), finish = start + number(slices[i], "dur");
		if (i && number(slices[i], "tid") != number(slices[i - 1], "tid"))
			track.depth = 0;
		while (track.depth && track.ends[track.depth - 1] <= start + 0.0005)
			track.depth--;
		if (track.depth && finish > track.ends[track.depth - 1] + 0.0005)
			fail_msg("%s at %f overlaps", text(slices[i], "name"), start);
		assert_true(track.depth < 64);
		track.ends[track.depth++] = finish;
	}
	free(slices);
}

static void counters_go_forward(json_t *events, const char *name, double most, double last)
{
	double time = -1, top = 0, value = -1;
	json_t *event;
	size_t i;

	json_array_foreach(events, i, event)
	{
		if (strcmp(text(event, "ph"), "C") != 0 || strcmp(text(event, "name"), name) != 0)
			continue;
		assert_true(number(event, "ts") >= time);
		time = number(event, "ts");
		value = number(json_object_get(event, "args"), "bytes");
		top = value > top ? value : top;
	}
	assert_true(top == most);
	assert_true(value == last);
}

static unsigned count_of(json_t *events, const char *phase)
{
	unsigned count = 0;
	json_t *event;
	size_t i;

	json_array_foreach(events, i, event) count += !strcmp(text(event, "ph"), phase);
	return count;
}

/* An 'e' of the same name and id, behind it. */
static void lifetimes_pair(json_t *events)
{
	json_t *event, *other;
	size_t i, k;

	json_array_foreach(events, i, event)
	{
		unsigned ends = 0;
		if (strcmp(text(event, "ph"), "b") != 0)
			continue;
		json_array_foreach(events, k, other) ends +=
			!strcmp(text(other, "ph"), "e") && !strcmp(text(other, "id"), text(event, "id")) &&
			!strcmp(text(other, "name"), text(event, "name")) && number(other, "ts") >= number(event, "ts");
		assert_int_equal(ends, 1);
	}
	assert_int_equal(count_of(events, "b"), count_of(events, "e"));
}

static json_t *named(json_t *events, const char *phase, const char *name)
{
	json_t *event;
	size_t i;

	json_array_foreach(events, i,
		event) if (!strcmp(text(event, "ph"), phase) && !strcmp(text(event, "name"), name)) return event;
	fail_msg("no %s of phase %s", name, phase);
	return NULL;
}

static void every_track_has_a_name(json_t *events)
{
	json_t *event, *other;
	size_t i, k;

	json_array_foreach(events, i, event)
	{
		bool found = strcmp(text(event, "ph"), "X") != 0;
		json_array_foreach(events, k, other) found |=
			!strcmp(text(other, "name"), "thread_name") && number(other, "tid") == number(event, "tid");
		assert_true(found);
	}
}

/* The slice of a track around a moment, the innermost. */
static json_t *slice_around(json_t *events, json_t *end)
{
	json_t *event, *best = NULL;
	size_t i;

	json_array_foreach(events, i, event)
	{
		double from = !strcmp(text(event, "ph"), "X") ? number(event, "ts") : 0, at = number(end, "ts");
		if (strcmp(text(event, "ph"), "X") || number(event, "tid") != number(end, "tid") ||
			number(event, "pid") != number(end, "pid") || at < from || at > from + number(event, "dur"))
			continue;
		if (!best || from >= number(best, "ts"))
			best = event;
	}
	if (!best)
		fail_msg("%s of a flow at %f lies in no slice", text(end, "ph"), number(end, "ts"));
	return best;
}

/* Each 's' has one 'f' of its name, category and id behind it, and both lie in slices that `fit` says belong together. */
static void flows_pair(json_t *events, const char *name, unsigned count, void (*fit)(json_t *from, json_t *to))
{
	json_t *event, *other;
	size_t i, k;
	unsigned found = 0;

	json_array_foreach(events, i, event)
	{
		unsigned ends = 0;
		if (strcmp(text(event, "ph"), "s") || strcmp(text(event, "name"), name))
			continue;
		found++;
		json_array_foreach(events, k, other)
		{
			if (strcmp(text(other, "ph"), "f") || number(other, "id") != number(event, "id"))
				continue;
			ends++;
			assert_string_equal(text(other, "name"), name);
			assert_string_equal(text(other, "cat"), text(event, "cat"));
			assert_string_equal(text(other, "bp"), "e");
			assert_true(number(other, "ts") >= number(event, "ts"));
			fit(slice_around(events, event), slice_around(events, other));
		}
		assert_int_equal(ends, 1);
	}
	assert_int_equal(found, count);
}

static void a_launch_and_its_kernel(json_t *from, json_t *to)
{
	assert_string_equal(text(from, "name"), "cuLaunchKernel");
	assert_int_equal(number(from, "tid"), 7);
	assert_string_equal(text(to, "cat"), "kernel");
	/* Of the first launch the kernel of 5 us, of the third that of 9 us. */
	assert_true(number(to, "dur") == 5 || number(to, "dur") == 9);
	assert_true((number(to, "dur") == 9) == (number(from, "ts") > number(to, "ts") - 1.5));
}

static void a_block_and_who_borrows_it(json_t *from, json_t *to)
{
	assert_string_equal(text(from, "name"), "cuMemMap");
	assert_string_equal(text(json_object_get(from, "args"), "address"), "0x10000000");
	assert_string_equal(text(to, "name"), "cuMemMap");
	assert_string_equal(text(json_object_get(to, "args"), "address"), "0x20000000");
}

static void chrome_events_tell_the_story(void **state)
{
	kvs_report *made;
	struct kvs_left_out left_out;
	char *out;
	json_t *json, *events;

	(void)state;
	tell_story();
	made = report();
	assert_int_equal(kvs_report_perfetto(made, &out, &left_out), 0);
	json = json_loads(out, 0, NULL);
	assert_non_null(json);
	events = json_object_get(json, "traceEvents");
	slices_nest(events);
	lifetimes_pair(events);
	every_track_has_a_name(events);
	counters_go_forward(events, "physical", 6 * MIB, 0);
	counters_go_forward(events, "mapped", 8 * MIB, 0);
	counters_go_forward(events, "kv", 2 * MIB, 0);
	counters_go_forward(events, "saved", 2 * MIB, 0);
	flows_pair(events, "launch", 2, a_launch_and_its_kernel);
	flows_pair(events, "share", 1, a_block_and_who_borrows_it);
	assert_int_equal(count_of(events, "s"), 3);
	assert_int_equal(count_of(events, "f"), 3);
	assert_int_equal(count_of(events, "b"), 2);
	assert_int_equal(number(json_object_get(named(events, "b", "K of layer 3"), "args"), "bytes"), 2 * MIB);
	assert_int_equal(number(json_object_get(named(events, "X", DECODE_NAME), "args"), "layer"), 3);
	assert_string_equal(text(named(events, "X", "step"), "cat"), "range");
	assert_string_equal(text(named(events, "X", "load"), "cat"), "phase");
	assert_string_equal(text(named(events, "X", "decode"), "cat"), "phase");
	assert_string_equal(
		text(json_object_get(named(events, "M", "process_name"), "args"), "name"), "pro\"gram\\ \\x01");
	assert_int_equal(left_out.slices + left_out.lifetimes, 0);
	json_decref(json);
	free(out);
	kvs_report_free(made);
}

/* The longest slices stay, and what is missing is said. */
static void a_long_trace_is_bounded(void **state)
{
	kvs_report *made;
	struct kvs_left_out left_out;
	char *out;
	json_t *json, *events;

	(void)state;
	for (unsigned i = 0; i < 400000; i++) {
		add((struct kvs_event){.type = KVS_EVENT_CALL,
			.call = {.function = "cuLaunchKernel",
				.duration_ns = i % 1000 ? 100 : 900,
				.address = NONE,
				.bytes = NONE,
				.handle = NONE}});
		if (i % 10 == 0) { /* 40000 allocations, one of them larger */
			uint64_t address = 0x100000000 + i * MIB;
			call("cuMemAlloc_v2", address, i == 5000 ? MIB : 512, NONE, 0);
			call("cuMemFree_v2", address, NONE, NONE, 0);
		}
		if (i % 20000 == 0)
			assert_int_equal(kvs_trace_flush(trace), 0);
	}
	made = report();
	assert_int_equal(kvs_report_perfetto(made, &out, &left_out), 0);
	assert_in_range(strlen(out), 10 * MIB, 100 * MIB);
	json = json_loads(out, 0, NULL);
	events = json_object_get(json, "traceEvents");
	assert_in_range(count_of(events, "X"), 200000, 300000);
	assert_int_equal(left_out.slices, 480000 - count_of(events, "X"));
	assert_int_equal(left_out.lifetimes, 20000);
	assert_int_equal(number(json_object_get(json, "otherData"), "slices_left_out"), left_out.slices);
	unsigned longest = 0;
	json_t *event;
	size_t i;
	json_array_foreach(events, i, event) longest += !strcmp(text(event, "ph"), "X") && number(event, "dur") == 0.9;
	assert_int_equal(longest, 400);
	counters_go_forward(events, "physical", MIB, 0);
	json_decref(json);
	free(out);
	kvs_report_free(made);
}

/* JSON's whole numbers end at 2^63, and figures of a trace do not. */
static void numbers_of_any_size_are_written(void **state)
{
	kvs_report *made;
	struct kvs_left_out left_out;
	char *out;
	json_t *json;

	(void)state;
	kvs_trace_lost(trace, UINT64_MAX - 5);
	call("cuMemcpyHtoD_v2", 0x1000, UINT64_MAX - 1, NONE, 0);
	call("cuMemAlloc_v2", 0x1000, UINT64_MAX - 0x2000, NONE, 0);
	made = report();
	assert_int_equal(kvs_report_perfetto(made, &out, &left_out), 0);
	json = json_loads(out, 0, NULL);
	assert_non_null(json);
	json_decref(json);
	free(out);
	assert_int_equal(kvs_report_diff_text(made, made, &out), 0);
	assert_non_null(strstr(out, "8192.0 PiB"));
	free(out);
	kvs_report_free(made);
}

/* ---- RMM's log, speedscope ---- */

static void rows_add_up(void **state)
{
	kvs_report *made;
	struct kvs_left_out left_out;
	char *out, action[32];
	unsigned long long bytes, held = 0, most = 0;
	unsigned failures = 0;

	(void)state;
	tell_story();
	made = report();
	assert_int_equal(kvs_report_csv(made, &out, &left_out), 0);
	assert_memory_equal(out, "Thread,Time,Action,Pointer,Size,Stream\n", 39);
	for (const char *line = strchr(out, '\n') + 1; *line; line = strchr(line, '\n') + 1) {
		assert_int_equal(
			sscanf(line, "7,00:00:00.000%*3[0-9],%31[a-z ],0x%*[0-9a-f],%llu,0x0\n", action, &bytes), 2);
		held += strcmp(action, "allocate") ? 0 : bytes;
		held -= strcmp(action, "free") ? 0 : bytes;
		failures += !strcmp(action, "allocate failure") && bytes == 90 * MIB;
		most = held > most ? held : most;
	}
	assert_int_equal(most, 6 * MIB);
	assert_int_equal(held, 4 * MIB);
	assert_int_equal(failures, 1);
	free(out);
	kvs_report_free(made);
}

static void stacks_weigh_what_was_held(void **state)
{
	kvs_report *made;
	char *out;
	json_t *json, *profile, *frames, *sample, *weight, *index;
	size_t i, k;
	json_int_t sum = 0;

	(void)state;
	tell_story();
	made = report();
	assert_int_equal(kvs_report_speedscope(made, &out), 0);
	json = json_loads(out, 0, NULL);
	frames = json_object_get(json_object_get(json, "shared"), "frames");
	assert_int_equal(json_array_size(json_object_get(json, "profiles")), 2);
	profile = json_array_get(json_object_get(json, "profiles"), 0);
	json_array_foreach(json_object_get(profile, "weights"), i, weight) sum += json_integer_value(weight);
	assert_int_equal(sum, 6 * MIB);
	assert_int_equal(json_integer_value(json_object_get(profile, "endValue")), sum);
	json_array_foreach(json_object_get(profile, "samples"), i, sample)
	{
		json_array_foreach(sample, k, index)
			assert_in_range(json_integer_value(index), 0, json_array_size(frames) - 1);
		assert_string_equal(text(json_array_get(frames, json_integer_value(json_array_get(sample, 0))), "name"),
			"\"outer\\+0x2");
	}
	assert_string_equal(text(json_array_get(json_object_get(json, "profiles"), 1), "name"), "held at the end");
	json_decref(json);
	free(out);
	kvs_report_free(made);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(chrome_events_tell_the_story),
		TEST(a_long_trace_is_bounded),
		TEST(numbers_of_any_size_are_written),
		TEST(rows_add_up),
		TEST(stacks_weigh_what_was_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
