/*
 * tests/profiler/report_test.c: what a report says of a trace whose story is known.
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

static char path[64];
static kvs_trace *trace;
static uint64_t now;
static size_t report_bytes; /* of the last JSON */
static char summary[4096];  /* of the last report */
static struct kvs_frame here[] = {{"/bin/program", 0x1000}};

static int begin(void **state)
{
	(void)state;
	strcpy(path, "/tmp/kvs-report-XXXXXX");
	close(mkstemp(path));
	now = 1000000;
	return kvs_trace_open(path, NULL, &trace);
}

static int end(void **state)
{
	(void)state;
	return unlink(path);
}

/* ---- the story ---- */

static void add(struct kvs_event event)
{
	event.pid = event.pid ? event.pid : 7;
	event.tid = 7;
	event.time_ns = now += 1000;
	kvs_trace_add(trace, &event);
	if (now % 100000 == 0) /* or events are lost on a slow machine, which is another test */
		assert_int_equal(kvs_trace_flush(trace), 0);
}

static void process(uint32_t pid, enum kvs_source source)
{
	add((struct kvs_event){.type = KVS_EVENT_PROCESS,
		.pid = pid,
		.process = {.source = source, .command = "program", .device = "gpu"}});
}

static void call(const char *function, uint64_t address, uint64_t bytes, uint64_t handle, int result)
{
	add((struct kvs_event){.type = KVS_EVENT_CALL,
		.call = {.function = function,
			.duration_ns = 100,
			.address = address,
			.bytes = bytes,
			.handle = handle,
			.result = result,
			.frames = here,
			.frame_count = 1}});
}

static void label(uint64_t address, uint64_t bytes, enum kvs_memory_kind kind, int layer, int owner)
{
	add((struct kvs_event){.type = KVS_EVENT_LABEL, .label = {address, bytes, kind, layer, owner}});
}

/* Layer 0's K in two blocks, and layer 1's mapped onto them. */
static void share_two_blocks(void)
{
	call("cuMemAddressReserve", 0x10000000, 8 * MIB, NONE, 0);
	call("cuMemAddressReserve", 0x20000000, 8 * MIB, NONE, 0);
	label(0x10000000, 8 * MIB, KVS_MEMORY_K, 0, -1);
	label(0x20000000, 8 * MIB, KVS_MEMORY_K, 1, 0);
	for (uint64_t b = 0; b < 2; b++) {
		call("cuMemCreate", NONE, 2 * MIB, 100 + b, 0);
		call("cuMemMap", 0x10000000 + b * 2 * MIB, 2 * MIB, 100 + b, 0);
		call("cuMemMap", 0x20000000 + b * 2 * MIB, 2 * MIB, 100 + b, 0);
	}
}

static json_t *report(void)
{
	kvs_report *made;
	char *text;
	json_t *json;

	assert_int_equal(kvs_trace_close(trace), 0);
	if (kvs_report_make(path, &made))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_report_json(made, &text), 0);
	json = json_loads(text, 0, NULL);
	assert_non_null(json);
	report_bytes = strlen(text);
	free(text);
	assert_int_equal(kvs_report_text(made, &text), 0);
	unsigned lines = 0;
	for (const char *at = text; *at; at++)
		lines += *at == '\n';
	assert_in_range(lines, 2, 12);
	snprintf(summary, sizeof(summary), "%s", text);
	free(text);
	kvs_report_free(made);
	return json;
}

static json_int_t integer(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	if (!json_is_integer(value))
		fail_msg("no number %s", key);
	return json_integer_value(value);
}

static json_t *memory(json_t *json)
{
	return json_object_get(json, "memory");
}

/* ---- memory ---- */

static void a_shared_block_is_there_once(void **state)
{
	json_t *json, *map;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	share_two_blocks();
	json = report();
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 4 * MIB);
	assert_int_equal(integer(memory(json), "mapped_bytes"), 8 * MIB);
	assert_int_equal(integer(memory(json), "virtual_bytes"), 16 * MIB);
	assert_int_equal(integer(memory(json), "saved_bytes"), 4 * MIB);
	assert_int_equal(integer(memory(json), "kv_bytes"), 4 * MIB);
	map = json_object_get(json, "kv_map");
	assert_int_equal(json_array_size(map), 2);
	assert_int_equal(integer(json_array_get(map, 1), "owner"), 0);
	assert_true(json_equal(
		json_object_get(json_array_get(map, 0), "blocks"), json_object_get(json_array_get(map, 1), "blocks")));
	assert_int_equal(json_array_size(json_object_get(json_array_get(map, 0), "blocks")), 2);
	json_decref(json);
}

static void a_released_handle_lives_while_it_is_mapped(void **state)
{
	json_t *json, *leaks;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	share_two_blocks();
	call("cuMemRelease", NONE, NONE, 100, 0);
	call("cuMemRelease", NONE, NONE, 101, 0);
	call("cuMemCreate", NONE, 2 * MIB, 100, 0); /* the number is used again, while the old one is mapped */
	call("cuMemUnmap", 0x20000000, 4 * MIB, NONE, 0);
	call("cuMemUnmap", 0x10000000, 2 * MIB, NONE, 0);
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
	json = report();
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 6 * MIB);
	leaks = json_object_get(json, "leaks"); /* what layer 0 has mapped still, and the new one */
	assert_int_equal(json_array_size(leaks), 2);
	assert_int_equal(
		integer(json_array_get(leaks, 0), "bytes") + integer(json_array_get(leaks, 1), "bytes"), 4 * MIB);
	json_decref(json);
}

static void a_sink_saves_nothing(void **state)
{
	json_t *json;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	call("cuMemAddressReserve", 0x10000000, 8 * MIB, NONE, 0);
	call("cuMemCreate", NONE, 2 * MIB, 5, 0);
	for (uint64_t b = 0; b < 3; b++)
		call("cuMemMap", 0x10000000 + b * 2 * MIB, 2 * MIB, 5, 0);
	label(0x10000000, 8 * MIB, KVS_MEMORY_SINK, -1, -1);
	call("cuMemMap", 0x10000000 + 6 * MIB, 2 * MIB, 5, 0);
	call("cuMemAlloc_v2", 0x30000000, 1, NONE, 0); /* the peak is behind the label */
	json = report();
	assert_int_equal(integer(memory(json), "saved_bytes"), 0);
	assert_int_equal(integer(memory(json), "mapped_bytes"), 8 * MIB + 1);
	json_decref(json);
}

static void use(enum kvs_memory_kind kind, uint64_t bytes)
{
	add((struct kvs_event){.type = KVS_EVENT_USE, .use = {kind, bytes}});
}

/* Of two blocks of 2 MiB 3 MiB hold tokens, and an allocation of 5000 bytes takes two pages; of V nothing was told. */
static void granules_that_are_not_full_are_counted(void **state)
{
	json_t *json, *asked, *held;

	(void)state;
	add((struct kvs_event){.type = KVS_EVENT_PROCESS,
		.process = {.source = KVS_SOURCE_OURS, .command = "program", .device = "gpu", .unit_bytes = 4096}});
	share_two_blocks();
	use(KVS_MEMORY_K, 1 * MIB);
	use(KVS_MEMORY_K, 3 * MIB);
	use(KVS_MEMORY_WORKSPACE, 8 * MIB); /* more than there is */
	call("cuMemAddressReserve", 0x30000000, 2 * MIB, NONE, 0);
	label(0x30000000, 2 * MIB, KVS_MEMORY_V, 0, -1);
	call("cuMemCreate", NONE, 2 * MIB, 200, 0);
	call("cuMemMap", 0x30000000, 2 * MIB, 200, 0);
	call("cuMemAlloc_v2", 0x40000000, 5000, NONE, 0);
	label(0x40000000, 5000, KVS_MEMORY_WEIGHTS, -1, -1);
	use(KVS_MEMORY_K, 3 * MIB + 1000); /* as much memory, and later */
	call("cuMemFree_v2", 0x40000000, NONE, NONE, 0);
	use(KVS_MEMORY_K, 0); /* past the peak */
	json = report();
	assert_non_null(strstr(summary, "; 1.0 MiB of all that are unfilled, inside of blocks"));
	asked = json_object_get(memory(json), "asked_by_kind");
	held = json_object_get(memory(json), "by_kind");
	assert_int_equal(integer(asked, "K"), 3 * MIB + 1000);
	assert_int_equal(integer(held, "K"), 4 * MIB);
	assert_int_equal(integer(asked, "V"), integer(held, "V"));
	assert_int_equal(integer(asked, "weights"), 5000);
	assert_int_equal(integer(held, "weights"), 8192);
	assert_int_equal(integer(asked, "workspace"), 0);
	assert_int_equal(integer(memory(json), "unfilled_bytes"), MIB - 1000 + 8192 - 5000);
	json_decref(json);
}

/* CUPTI tells of its buffers without an address; each process has its own. The driver counts them, so they are not untracked. */
static void the_profilers_own_memory_is_counted(void **state)
{
	json_t *json;

	(void)state;
	process(7, KVS_SOURCE_CUPTI);
	process(8, KVS_SOURCE_CUPTI);
	label(0, 3 * MIB, KVS_MEMORY_PROFILER, -1, -1);
	label(0, 2 * MIB, KVS_MEMORY_PROFILER, -1, -1); /* the most counts */
	add((struct kvs_event){.type = KVS_EVENT_LABEL, .pid = 8, .label = {0, MIB, KVS_MEMORY_PROFILER, -1, -1}});
	call("cuMemAlloc_v2", 0x1000, 4 * MIB, NONE, 0);
	add((struct kvs_event){.type = KVS_EVENT_DEVICE, .device = {.free_bytes = 90 * MIB, .total_bytes = 100 * MIB}});
	json = report();
	assert_int_equal(integer(memory(json), "profiler_bytes"), 4 * MIB);
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 4 * MIB);
	assert_int_equal(integer(memory(json), "untracked_bytes"), 10 * MIB - 4 * MIB - 3 * MIB);
	assert_int_equal(integer(json_object_get(json, "overhead"), "bytes"), 4 * MIB);
	json_decref(json);
}

/* It tells each process's own memory, so what is beyond that of calls adds up over processes, at the moment of each answer. */
static void what_nvml_says_is_compared_with_calls(void **state)
{
	json_t *json;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	process(8, KVS_SOURCE_OURS);
	add((struct kvs_event){.type = KVS_EVENT_NVML, .nvml = {3 * MIB}}); /* a context */
	call("cuMemAlloc_v2", 0x1000, 4 * MIB, NONE, 0);
	add((struct kvs_event){.type = KVS_EVENT_NVML, .nvml = {9 * MIB}});
	add((struct kvs_event){.type = KVS_EVENT_NVML, .nvml = {4 * MIB}}); /* the most counts */
	add((struct kvs_event){.type = KVS_EVENT_NVML, .pid = 8, .nvml = {MIB}});
	json = report();
	assert_int_equal(integer(memory(json), "nvml_bytes"), 10 * MIB);
	assert_int_equal(integer(memory(json), "nvml_untracked_bytes"), 5 * MIB + MIB);
	assert_int_equal(integer(json_array_get(json_object_get(json, "processes"), 0), "nvml_bytes"), 9 * MIB);
	json_decref(json);
}

static void without_nvml_there_is_no_figure(void **state)
{
	json_t *json;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	call("cuMemAlloc_v2", 0x1000, 4 * MIB, NONE, 0);
	json = report();
	assert_true(json_is_null(json_object_get(memory(json), "nvml_bytes")));
	assert_true(json_is_null(json_object_get(memory(json), "nvml_untracked_bytes")));
	json_decref(json);
}

static void the_peak_is_the_moment_with_most_memory(void **state)
{
	json_t *json, *holders;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	call("cuMemAlloc_v2", 0x1000, 10 * MIB, NONE, 0);
	label(0x1000, 10 * MIB, KVS_MEMORY_WEIGHTS, -1, -1);
	call("cuMemAllocAsync_ptsz", 0x10000000, 20 * MIB, NONE, 0);
	call("cuMemFreeAsync_ptsz", 0x10000000, NONE, NONE, 0);
	call("cuMemAlloc_v2", 0x20000000, 15 * MIB, NONE, 0);
	call("cuMemAlloc_v2", 0x30000000, 50 * MIB, NONE, 2); /* refused */
	call("cuMemAllocHost_v2", 0x40000000, 90 * MIB, NONE, 0);
	json = report();
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 30 * MIB);
	assert_int_equal(integer(json_object_get(memory(json), "by_kind"), "weights"), 10 * MIB);
	assert_int_equal(integer(memory(json), "host_bytes"), 0); /* at the peak */
	holders = json_object_get(json, "at_peak");
	assert_int_equal(json_array_size(holders), 2);
	assert_int_equal(integer(json_array_get(holders, 0), "bytes"), 20 * MIB);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(holders, 0), "function")), "cuMemAllocAsync_ptsz");
	assert_int_equal(json_array_size(json_object_get(json_array_get(holders, 0), "stack")), 1);
	json_decref(json);
}

/* Points are joined as time goes on; the highest is always kept. */
static void an_early_peak_stays_in_the_series(void **state)
{
	json_t *json, *series;
	uint64_t top = 0;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	call("cuMemAlloc_v2", 0x1000, 100 * MIB, NONE, 0);
	call("cuMemFree_v2", 0x1000, NONE, NONE, 0);
	for (int i = 0; i < 3000; i++) {
		now += 100000;
		call(i % 2 ? "cuMemFree_v2" : "cuMemAlloc_v2", 0x1000, i % 2 ? NONE : 1, NONE, 0);
	}
	json = report();
	series = json_object_get(json, "series");
	for (size_t i = 0; i < json_array_size(series); i++) {
		uint64_t bytes = integer(json_array_get(series, i), "physical_bytes");
		top = bytes > top ? bytes : top;
	}
	assert_int_equal(top, 100 * MIB);
	json_decref(json);
}

/* A thread told of its cuMemRelease behind another's cuMemCreate, which got the same number because of it. */
static void calls_count_in_the_order_in_which_they_happened(void **state)
{
	struct kvs_event create = {.type = KVS_EVENT_CALL,
				 .pid = 7,
				 .tid = 1,
				 .time_ns = 2000,
				 .call = {.function = "cuMemCreate",
					 .duration_ns = 10,
					 .address = NONE,
					 .bytes = 2 * MIB,
					 .handle = 1}},
			 release = {.type = KVS_EVENT_CALL,
				 .pid = 7,
				 .tid = 1,
				 .time_ns = 4000,
				 .call = {.function = "cuMemRelease",
					 .duration_ns = 900,
					 .address = NONE,
					 .bytes = NONE,
					 .handle = 1}};
	json_t *json;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	kvs_trace_add(trace, &create);
	create.tid = 2;
	create.time_ns = 4500; /* ends before the release returns, and after it took place */
	kvs_trace_add(trace, &create);
	kvs_trace_add(trace, &release);
	now = 10000000;
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
	json = report();
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 2 * MIB);
	assert_int_equal(integer(json_array_get(json_object_get(json, "leaks"), 0), "count"), 1);
	json_decref(json);
}

static void faults_of_a_program_are_found(void **state)
{
	json_t *json, *findings;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	share_two_blocks();
	call("cuMemMap", 0x10000000, 2 * MIB, 101, 1);
	call("cuMemUnmap", 0x20000000, 4 * MIB, NONE, 0); /* two mappings, and the first of them is used */
	call("cuMemcpyHtoD_v2", 0x20000000 + 100, 16, NONE, 700);
	call("cuMemcpyHtoD_v2", 0x10000000 + 100, 16, NONE, 0);
	call("cuMemUnmap", 0x20000000, 2 * MIB, NONE, 1);
	call("cuMemMap", 0x20000000, 2 * MIB, 100, 0);
	call("cuMemcpyHtoD_v2", 0x20000000 + 100, 16, NONE, 0); /* it is mapped again */
	json = report();
	findings = json_object_get(json_array_get(json_object_get(json, "processes"), 0), "findings");
	assert_int_equal(json_array_size(findings), 3);
	assert_string_equal(json_string_value(json_object_get(json_array_get(findings, 0), "what")), "mapped twice");
	assert_string_equal(json_string_value(json_object_get(json_array_get(findings, 1), "what")),
		"used after it was given back");
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(findings, 2), "what")), "given back twice");
	json_decref(json);
}

/* ---- time ---- */

static void two_sources_tell_of_each_call_once(void **state)
{
	kvs_trace *second;
	struct kvs_event event = {.type = KVS_EVENT_PROCESS,
		.pid = 7,
		.time_ns = 5,
		.process = {.source = KVS_SOURCE_EBPF, .command = "x", .device = ""}};
	json_t *json, *api;

	(void)state;
	assert_int_equal(kvs_trace_open(path, &(struct kvs_trace_options){.append = true}, &second), 0);
	kvs_trace_add(second, &event);
	event = (struct kvs_event){.type = KVS_EVENT_CALL,
		.pid = 7,
		.time_ns = 9,
		.call = {.function = "cuMemAlloc_v2", .address = 0x1000, .bytes = MIB, .handle = NONE}};
	kvs_trace_add(second, &event);
	assert_int_equal(kvs_trace_close(second), 0);
	process(7, KVS_SOURCE_OURS);
	call("cuMemAlloc_v2", 0x1000, MIB, NONE, 0);
	json = report();
	api = json_object_get(json, "api");
	assert_int_equal(json_array_size(api), 1);
	assert_int_equal(integer(json_array_get(api, 0), "n"), 1);
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), MIB);
	json_decref(json);
}

/* The kernel sees kvshare ask the driver, and may tell of it before the calls that kvshare itself tells of. */
static void what_another_source_hears_of_the_device_is_not_untracked(void **state)
{
	kvs_trace *second;
	struct kvs_event event = {.type = KVS_EVENT_PROCESS,
		.pid = 7,
		.time_ns = 5,
		.process = {.source = KVS_SOURCE_EBPF, .command = "x", .device = ""}};
	json_t *json;

	(void)state;
	assert_int_equal(kvs_trace_open(path, &(struct kvs_trace_options){.append = true}, &second), 0);
	kvs_trace_add(second, &event);
	event = (struct kvs_event){.type = KVS_EVENT_DEVICE,
		.pid = 7,
		.time_ns = now + 10000,
		.device = {.free_bytes = 90 * MIB, .total_bytes = 100 * MIB}};
	kvs_trace_add(second, &event);
	assert_int_equal(kvs_trace_close(second), 0);
	process(7, KVS_SOURCE_OURS);
	call("cuMemAlloc_v2", 0x1000, 4 * MIB, NONE, 0);
	add((struct kvs_event){.type = KVS_EVENT_DEVICE, .device = {.free_bytes = 95 * MIB, .total_bytes = 100 * MIB}});
	json = report();
	assert_int_equal(integer(memory(json), "untracked_bytes"), MIB);
	json_decref(json);
}

static void quantiles_are_near_the_truth(void **state)
{
	json_t *json, *api;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	for (uint64_t i = 1; i <= 1000; i++)
		add((struct kvs_event){.type = KVS_EVENT_CALL,
			.call = {.function = "cuStreamSynchronize",
				.duration_ns = 1000 * i,
				.address = NONE,
				.bytes = NONE,
				.handle = NONE,
				.result = i % 100 == 0}});
	json = report();
	api = json_array_get(json_object_get(json, "api"), 0);
	assert_int_equal(integer(api, "n"), 1000);
	assert_int_equal(integer(api, "failures"), 10);
	assert_int_equal(integer(api, "total_ns"), 500500000);
	assert_in_range(integer(api, "p50_ns"), 500000 * 15 / 16, 500000 * 17 / 16);
	assert_in_range(integer(api, "p99_ns"), 990000 * 15 / 16, 1000000);
	assert_int_equal(integer(api, "max_ns"), 1000000);
	json_decref(json);
}

static void phases_and_kernels_add_up(void **state)
{
	json_t *json, *phases, *kernels;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {"prefill", 10}});
	for (int i = 0; i < 3; i++) {
		add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {"decode", 1}});
		for (int layer = 0; layer < 2; layer++)
			add((struct kvs_event){
				.type = KVS_EVENT_KERNEL, .kernel = {"kvs_attention_decode", 500, 1, layer}});
	}
	add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {"", 0}});
	json = report();
	phases = json_object_get(json, "phases");
	assert_int_equal(json_array_size(phases), 2);
	assert_int_equal(integer(json_array_get(phases, 1), "n"), 3);
	assert_int_equal(integer(json_array_get(phases, 1), "tokens"), 3);
	assert_int_equal(integer(json_array_get(phases, 1), "total_ns"), 9000);
	kernels = json_object_get(json, "kernels");
	assert_int_equal(json_array_size(kernels), 2);
	assert_int_equal(integer(json_array_get(kernels, 0), "n"), 3);
	assert_int_equal(integer(json_array_get(kernels, 1), "layer"), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(kernels, 0), "class")), "attention");
	json_decref(json);
}

static void kernel(const char *name)
{
	add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {name, 500, 1, -1}});
}

/* CUPTI gives names as the compiler made them. One of them stands for a name of 2^40 parts. */
static void names_of_kernels_are_readable(void **state)
{
	static const char bomb[] =
		"_Z1f1aIiiE1bIS0_S0_E1cIS2_S2_E1dIS4_S4_E1eIS6_S6_E1fIS8_S8_E1gISA_SA_E1hISC_SC_E1iISE_SE_E1jISG_SG_E1k"
		"ISI_SI_E1lISK_SK_E1mISM_SM_E1nISO_SO_E1oISQ_SQ_E1pISS_SS_E1qISU_SU_E1rISW_SW_E1sISY_SY_E1tIS10_S10_E1u"
		"IS12_S12_E1vIS14_S14_E1wIS16_S16_E1xIS18_S18_E1yIS1A_S1A_E1zIS1C_S1C_E1AIS1E_S1E_E1BIS1G_S1G_E1CIS1I_"
		"S1I_E1DIS1K_S1K_E1EIS1M_S1M_E1FIS1O_S1O_E1GIS1Q_S1Q_E1HIS1S_S1S_E1IIS1U_S1U_E1JIS1W_S1W_E1KIS1Y_S1Y_E1"
		"LIS20_S20_E1MIS22_S22_E1NIS24_S24_E1OIS26_S26_E";
	static const struct {
		const char *symbol, *name, *class;
	} expected[] = {
		{"_Z9vectorAddPKfS0_Pfi", "vectorAdd(float const*, float const*, float*, int)", "other"},
		{"_ZN7cutlass6KernelI4GemmEEvNT_6ParamsE", "void cutlass::Kernel<Gemm>(Gemm::Params)", "gemm"},
		{"kvs_attention_decode", "kvs_attention_decode", "attention"},
		{"_Zbroken", "_Zbroken", "other"},
		{bomb, bomb, "other"},
	};
	const size_t count = sizeof(expected) / sizeof(*expected);
	json_t *json, *kernels;

	(void)state;
#ifndef PROF_LIBIBERTY
	skip();
#endif
	process(7, KVS_SOURCE_CUPTI);
	for (size_t i = 0; i < count; i++)
		kernel(expected[i].symbol);
	json = report();
	kernels = json_object_get(json, "kernels");
	assert_int_equal(json_array_size(kernels), count);
	for (size_t i = 0; i < count; i++) {
		json_t *got = json_array_get(kernels, i);
		assert_string_equal(json_string_value(json_object_get(got, "name")), expected[i].name);
		assert_string_equal(json_string_value(json_object_get(got, "symbol")), expected[i].symbol);
		assert_string_equal(json_string_value(json_object_get(got, "class")), expected[i].class);
	}
	json_decref(json);
}

/* Random calls against a plain count of what is held; many more than are held back, and than the series has points. */
static void random_stories_add_up(void **state)
{
	static uint64_t sizes[200];
	uint64_t held = 0, most = 0;
	unsigned seed = getenv("KVS_SEED") ? strtoul(getenv("KVS_SEED"), NULL, 10) : (unsigned long)getpid();
	json_t *json, *series;

	(void)state;
	print_message("KVS_SEED=%u\n", seed);
	srand(seed);
	process(7, KVS_SOURCE_OURS);
	for (int i = 0; i < 20000; i++) {
		unsigned which = rand() % 200;
		now += rand() % 1000000;
		if (sizes[which]) {
			call("cuMemFree_v2", which * (1ul << 32), NONE, NONE, 0);
			held -= sizes[which];
			sizes[which] = 0;
		} else {
			sizes[which] = 1 + rand() % 1000000;
			call("cuMemAlloc_v2", which * (1ul << 32), sizes[which], NONE, 0);
			held += sizes[which];
		}
		most = held > most ? held : most;
	}
	json = report();
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), most);
	series = json_object_get(json, "series");
	assert_in_range(json_array_size(series), 400, 1024);
	uint64_t top = 0;
	for (size_t i = 0; i < json_array_size(series); i++) {
		uint64_t bytes = integer(json_array_get(series, i), "physical_bytes");
		top = bytes > top ? bytes : top;
	}
	assert_int_equal(top, most);
	uint64_t sum = 0;
	for (size_t i = 0; i < json_array_size(json_object_get(json, "at_peak")); i++)
		sum += integer(json_array_get(json_object_get(json, "at_peak"), i), "bytes");
	assert_int_equal(sum, most);
	json_decref(json);
}

/* What is listed and what is left out are together what there is. */
static void is_cut(json_t *json, const char *key, size_t count)
{
	size_t listed = json_array_size(json_object_get(json, key));

	assert_in_range(listed, 10, count - 1);
	assert_int_equal(listed + integer(json_object_get(json, "left_out"), key), count);
}

/* Many of everything, with the longest names. */
static void a_hostile_trace_makes_a_short_report(void **state)
{
	static char name[1025];
	static struct kvs_frame frames[KVS_MAX_FRAMES];
	json_t *json, *leaks;
	uint64_t before = UINT64_MAX;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	memset(name, '\1', sizeof(name) - 1); /* each is shown as four characters, and escaped as five */
	for (unsigned f = 0; f < KVS_MAX_FRAMES; f++)
		frames[f].module = name;
	for (unsigned i = 0; i < 4000; i++) {
		snprintf(name, 16, "%015u", i);
		name[15] = '\1';
		process(100 + i, KVS_SOURCE_EBPF);
		add((struct kvs_event){
			.type = KVS_EVENT_PROCESS, .pid = 100 + i, .process = {.command = name, .device = name}});
		add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {name, 500 + i, 1, -1}});
		add((struct kvs_event){.type = KVS_EVENT_PHASE, .phase = {name, 1}});
		add((struct kvs_event){.type = KVS_EVENT_SPAN, .span = {KVS_SPAN_RANGE, name, 5}});
		call(name, NONE, NONE, NONE, 0);
		if (i % 8 == 0)
			assert_int_equal(kvs_trace_flush(trace), 0);
	}
	for (unsigned i = 0; i < 1000; i++) {
		struct kvs_event event = {.type = KVS_EVENT_CALL,
			.call = {"cuMemAlloc_v2", 1, 0, (1ul << 40) + i * MIB, 1000 + i, NONE, frames, KVS_MAX_FRAMES}};
		for (unsigned f = 0; f < KVS_MAX_FRAMES; f++)
			frames[f].offset = 100 * i + f;
		add(event);
		event.call.address = (1ul << 50) + i * MIB;
		add(event);
		event.call.function = "cuMemFree_v2";
		add(event); /* and once more, which is a finding with a stack */
		event.call.result = 1;
		add(event);
	}
	call("cuMemCreate", NONE, 4096, 5, 0);
	label(1ul << 45, 1ul << 40, KVS_MEMORY_K, 0, -1);
	for (uint64_t b = 0; b < 70000; b++)
		call("cuMemMap", (1ul << 45) + b * 4096, 4096, 5, 0);
	add((struct kvs_event){.type = KVS_EVENT_EXIT, .exit = {0}});
	json = report();
	assert_in_range(report_bytes, 20 * MIB, 100 * 1000 * 1000);
	is_cut(json, "processes", 4001);
	is_cut(json, "kernels", 4000);
	assert_int_equal(json_array_size(json_object_get(json, "phases")), 1024 + 1);
	is_cut(json, "api", 4000 + 4);
	is_cut(json, "leaks", 1001);
	is_cut(json, "at_peak", 1001);
	assert_in_range(integer(json_object_get(json, "left_out"), "findings"), 1, 1000);
	leaks = json_object_get(json, "leaks");
	for (size_t i = 0; i < json_array_size(leaks); i++) {
		assert_true((uint64_t)integer(json_array_get(leaks, i), "bytes") <= before);
		before = integer(json_array_get(leaks, i), "bytes");
	}
	assert_int_equal(integer(json_array_get(json_object_get(json, "kernels"), 0), "total_ns"), 500 + 3999);
	assert_int_equal(integer(json_array_get(json_object_get(json, "kv_map"), 0), "blocks_left_out"), 70000 - 65536);
	json_decref(json);
}

/* Each takes memory for its histogram, so there is an end to it. */
static void too_many_names_are_taken_together(void **state)
{
	json_t *json, *kernels, *others;

	(void)state;
	process(7, KVS_SOURCE_OURS);
	for (int layer = 0; layer < 9000; layer++)
		add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {"kernel", 500, 1, layer}});
	add((struct kvs_event){.type = KVS_EVENT_KERNEL, .kernel = {"kernel", 500, 1, 3}}); /* this one has a place */
	json = report();
	kernels = json_object_get(json, "kernels");
	assert_int_equal(json_array_size(kernels), 8192 + 1);
	assert_int_equal(integer(json_array_get(kernels, 3), "n"), 2);
	others = json_array_get(kernels, 8192);
	assert_string_equal(json_string_value(json_object_get(others, "name")), "all others");
	assert_int_equal(integer(others, "n"), 9000 - 8192);
	assert_true(json_is_null(json_object_get(others, "layer")));
	json_decref(json);
}

static void an_empty_trace_makes_a_report(void **state)
{
	json_t *json;

	(void)state;
	json = report();
	assert_int_equal(integer(json, "events"), 0);
	assert_int_equal(integer(memory(json), "peak_physical_bytes"), 0);
	json_decref(json);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_shared_block_is_there_once),
		TEST(a_released_handle_lives_while_it_is_mapped),
		TEST(a_sink_saves_nothing),
		TEST(granules_that_are_not_full_are_counted),
		TEST(the_profilers_own_memory_is_counted),
		TEST(what_nvml_says_is_compared_with_calls),
		TEST(without_nvml_there_is_no_figure),
		TEST(the_peak_is_the_moment_with_most_memory),
		TEST(an_early_peak_stays_in_the_series),
		TEST(calls_count_in_the_order_in_which_they_happened),
		TEST(faults_of_a_program_are_found),
		TEST(two_sources_tell_of_each_call_once),
		TEST(what_another_source_hears_of_the_device_is_not_untracked),
		TEST(quantiles_are_near_the_truth),
		TEST(phases_and_kernels_add_up),
		TEST(names_of_kernels_are_readable),
		TEST(random_stories_add_up),
		TEST(a_hostile_trace_makes_a_short_report),
		TEST(too_many_names_are_taken_together),
		TEST(an_empty_trace_makes_a_report),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
