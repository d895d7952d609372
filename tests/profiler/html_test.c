/*
 * tests/profiler/html_test.c: the HTML report as text: its figures are the JSON's, nothing of a trace becomes markup, and it
 * stays small whatever the trace. The page of two traces must be as safe and as small.
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

#define MIB (1ul << 20)
#define NONE KVS_EVENT_NONE
#define MOST_BYTES (2 << 20)

static char path[64];
static kvs_trace *trace;
static uint64_t now;

static int begin(void **state)
{
	(void)state;
	strcpy(path, "/tmp/kvs-html-XXXXXX");
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
	event.pid = event.tid = 7;
	event.time_ns = now += 1000;
	kvs_trace_add(trace, &event);
	if (now % 100000 == 0) /* or events are lost, which is another test */
		assert_int_equal(kvs_trace_flush(trace), 0);
}

static void call(const char *function, uint64_t address, uint64_t bytes, uint64_t handle,
	const struct kvs_frame *frames, unsigned frame_count)
{
	add((struct kvs_event){.type = KVS_EVENT_CALL,
		.call = {.function = function,
			.duration_ns = 100,
			.address = address,
			.bytes = bytes,
			.handle = handle,
			.frames = frames,
			.frame_count = frame_count}});
}

static void process(const char *command, const char *device)
{
	add((struct kvs_event){.type = KVS_EVENT_PROCESS,
		.process = {.source = KVS_SOURCE_OURS, .command = command, .device = device}});
}

/* A layer's K of so many blocks; of `owner`'s blocks where that is not negative. */
static void add_layer(int layer, int owner, unsigned blocks)
{
	uint64_t address = (uint64_t)(layer + 1) << 36;

	call("cuMemAddressReserve", address, blocks * 2 * MIB, NONE, NULL, 0);
	add((struct kvs_event){
		.type = KVS_EVENT_LABEL, .label = {address, blocks * 2 * MIB, KVS_MEMORY_K, layer, owner}});
	for (unsigned b = 0; b < blocks; b++) {
		uint64_t handle = 1 + (uint64_t)(owner >= 0 ? owner : layer) * 100000 + b;
		if (owner < 0)
			call("cuMemCreate", NONE, 2 * MIB, handle, NULL, 0);
		call("cuMemMap", address + b * 2 * MIB, 2 * MIB, handle, NULL, 0);
	}
}

/* Whatever the trace. */
static void check_pair(const kvs_report *report)
{
	char *page;

	assert_int_equal(kvs_report_diff_html(report, report, NULL, &page), 0);
	assert_in_range(strlen(page), 10000, MOST_BYTES);
	assert_non_null(strstr(page, "</html>"));
	assert_null(strstr(page, "alert(1)</"));
	assert_null(strstr(page, "<b on"));
	assert_null(strchr(page, 1));
	free(page);
}

/* The page; and the JSON, unless that is NULL. */
static char *html(json_t **json)
{
	kvs_report *report;
	char *page, *text;

	assert_int_equal(kvs_trace_close(trace), 0);
	if (kvs_report_make(path, &report))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_report_html(report, &page), 0);
	check_pair(report);
	if (json) {
		assert_int_equal(kvs_report_json(report, &text), 0);
		*json = json_loads(text, 0, NULL);
		assert_non_null(*json);
		free(text);
	}
	kvs_report_free(report);
	return page;
}

/* "memory.saved_bytes" */
static json_t *at(json_t *object, const char *keys)
{
	char word[64];

	for (; object && *keys; keys += strspn(keys, ".")) {
		size_t length = strcspn(keys, ".");
		snprintf(word, sizeof(word), "%.*s", (int)length, keys);
		object = json_object_get(object, word);
		keys += length;
	}
	return object;
}

static void every_card_is_a_figure_of_the_json(void **state)
{
	json_t *json;
	char *page, keys[64];
	unsigned long long value;
	unsigned cards = 0;

	(void)state;
	process("program", "gpu");
	for (int layer = 0; layer < 4; layer++)
		add_layer(layer, layer == 3 ? 1 : -1, 3);
	call("cuMemAlloc_v2", 0x1000, MIB, NONE, NULL, 0);
	add((struct kvs_event){.type = KVS_EVENT_SPAN, .span = {KVS_SPAN_OVERHEAD, "flush", 12345}});
	add((struct kvs_event){.type = KVS_EVENT_DEVICE, .device = {.free_bytes = MIB, .total_bytes = 100 * MIB}});
	add((struct kvs_event){.type = KVS_EVENT_LABEL, .label = {0, 3 * MIB, KVS_MEMORY_PROFILER, -1, -1}});
	add((struct kvs_event){.type = KVS_EVENT_USE, .use = {KVS_MEMORY_K, 13 * MIB}});
	kvs_trace_lost(trace, 42);
	page = html(&json);
	for (const char *c = page; (c = strstr(c, "data-json=\"")); c++) {
		assert_int_equal(sscanf(c, "data-json=\"%63[a-z_.]\" data-value=\"%llu\"", keys, &value), 2);
		if (!json_is_integer(at(json, keys)))
			fail_msg("the JSON has no %s", keys);
		if ((json_int_t)value != json_integer_value(at(json, keys)))
			fail_msg("%s: %llu on the page", keys, value);
		cards++;
	}
	assert_int_equal(cards, 8);
	assert_int_equal(json_integer_value(at(json, "memory.saved_bytes")), 6 * MIB);
	assert_int_equal(json_integer_value(at(json, "memory.untracked_bytes")), 99 * MIB - 19 * MIB);
	assert_int_equal(json_integer_value(at(json, "overhead.ns")), 12345);
	assert_int_equal(json_integer_value(at(json, "overhead.bytes")), 3 * MIB);
	assert_int_equal(json_integer_value(at(json, "memory.unfilled_bytes")), 5 * MIB);
	assert_non_null(strstr(page, "inside of blocks: all K"));
	assert_non_null(strstr(page, "as told; 3.0 MiB of the device"));
	assert_int_equal(json_integer_value(at(json, "dropped")), 42);
	assert_non_null(strstr(page, "<b class=\"saved\">6.0 MiB saved</b>"));
	assert_non_null(strstr(page, "42 events were lost"));
	assert_non_null(strstr(page, "1 of 4 layers read the blocks of another layer"));
	json_decref(json);
	free(page);
}

/* Wherever a trace may name something. */
static void nothing_of_a_trace_becomes_markup(void **state)
{
	static const char evil[] = "</script><script>alert(1)</script><b onclick=\"x\" title='y'>&\x01\xff";
	static const struct kvs_frame frames[] = {{evil, 1}, {evil, 2}};
	char *page;
	unsigned scripts = 0;

	(void)state;
	process(evil, evil);
	call(evil, NONE, NONE, NONE, frames, 2);
	call("cuMemAlloc_v2", 0x1000, MIB, NONE, frames, 2);
	add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {evil, 500, 1, 0}});
	add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {evil, 1}});
	add((struct kvs_event){.type = KVS_EVENT_SPAN, .span = {KVS_SPAN_RANGE, evil, 5}});
	call("cuMemcpyHtoD_v2", 0x1000, 16, NONE, frames, 2);
	call("cuMemFree_v2", 0x1000, NONE, NONE, frames, 2);
	call("cuMemcpyHtoD_v2", 0x1000, 16, NONE, frames, 2);
	call("cuMemAlloc_v2", 0x9000, MIB, NONE, frames, 2);
	now += 100000;
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
	page = html(NULL);
	assert_non_null(strstr(page, "&lt;script&gt;alert(1)"));
	assert_null(strstr(page, "alert(1)</"));
	assert_null(strstr(page, "<b on"));
	assert_null(strchr(page, 1));
	assert_null(strchr(page, 0xff));
	for (const char *c = page; (c = strstr(c, "<script")); c++)
		scripts++;
	assert_int_equal(scripts, 2); /* the points, and the page's own */
	free(page);
}

/* Of many layers with many blocks each is seen, a cell for several blocks. */
static void a_large_map_is_whole(void **state)
{
	char *page, row[64];

	(void)state;
	process("program", "gpu");
	for (int layer = 0; layer < 160; layer++)
		add_layer(layer, layer % 2 ? layer - 1 : -1, 300);
	page = html(NULL);
	assert_non_null(strstr(page, "80 of 160 layers read the blocks of another layer"));
	assert_non_null(strstr(page, "A cell is 12 blocks."));
	for (int layer = 0; layer < 160; layer++) { /* its last cell */
		snprintf(row, sizeof(row), "data-h=\"%d\" data-b=\"288\" data-e=\"299\"", layer / 2 * 300 + 288);
		assert_non_null(strstr(page, row));
	}
	assert_non_null(strstr(page, "<span>of 158</span>"));
	free(page);
}

/* Many of everything, with names as long as they get and full of what must be escaped. */
static void a_page_stays_small(void **state)
{
	static char name[1025];
	static struct kvs_frame frames[KVS_MAX_FRAMES];
	char *page;

	(void)state;
	process("program", "gpu");
	for (int layer = 0; layer < 200; layer++)
		add_layer(layer, layer % 2 ? layer - 1 : -1, 300);
	for (unsigned i = 0; i < 3000; i++) {
		memset(name, '\'', sizeof(name) - 1);
		for (unsigned f = 0; f < KVS_MAX_FRAMES; f++) {
			frames[f].module = name;
			frames[f].offset = 100 * i + f;
		}
		name[10 + i % 100] = 'a' + i % 26;
		name[200 + i / 100] = 'b';
		call("cuMemAlloc_v2", (1ul << 50) + i * MIB, MIB, NONE, frames, KVS_MAX_FRAMES);
		call(name, NONE, NONE, NONE, NULL, 0);
		add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {name, 500, 1, i}});
		add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {name, 1}});
		add((struct kvs_event){.type = KVS_EVENT_SPAN, .span = {KVS_SPAN_RANGE, name, 5}});
		now += 100000;
	}
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
	page = html(NULL);
	assert_in_range(strlen(page), 400000, MOST_BYTES);
	assert_non_null(strstr(page, "</html>"));
	assert_non_null(strstr(page, "are not shown; the JSON has them"));
	free(page);
}

static void an_empty_trace_makes_a_page(void **state)
{
	char *page;

	(void)state;
	page = html(NULL);
	assert_non_null(strstr(page, "No device memory was seen."));
	assert_non_null(strstr(page, "</html>"));
	free(page);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_card_is_a_figure_of_the_json),
		TEST(nothing_of_a_trace_becomes_markup),
		TEST(a_large_map_is_whole),
		TEST(a_page_stays_small),
		TEST(an_empty_trace_makes_a_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
