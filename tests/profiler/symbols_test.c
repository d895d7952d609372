/*
 * tests/profiler/symbols_test.c: frames of this very program come out with function, file and line; those of files that are no
 * programs come out as they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../driver/cu.h"
#include "../../profiler/profiler.h"

#define MIB (1ul << 20)
#define TRACE "/tmp/kvs-symbols.trace"

/* The file and the offset in it of an address, as whoever takes stacks finds them. */
static struct kvs_frame frame_at(void *address)
{
	static char paths[4][512];
	static unsigned count;
	char *path = paths[count++ % 4], line[1024], of_line[512];
	unsigned long start, end, offset;
	struct kvs_frame frame = {"", (uintptr_t)address};
	FILE *maps = fopen("/proc/self/maps", "r");

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %511s", &start, &end, &offset, of_line) == 4 &&
			(uintptr_t)address >= start && (uintptr_t)address < end) {
			strcpy(path, of_line);
			frame = (struct kvs_frame){path, (uintptr_t)address - start + offset};
		}
	}
	fclose(maps);
	return frame;
}

static int line_of_call;

/* Where its call returns to. */
__attribute__((noinline)) static void *here(void)
{
	return __builtin_return_address(0);
}

__attribute__((noinline)) static struct kvs_frame leak_here(void)
{
	void *address;

	line_of_call = __LINE__ + 1;
	address = here();
	return frame_at(address);
}

/* The innermost `count` frames of the one leak. */
static json_t *frames_of(struct kvs_frame *frames, unsigned count, char *text, size_t bytes)
{
	kvs_trace *trace;
	kvs_report *report;
	char *out;
	struct kvs_event event = {.type = KVS_EVENT_CALL,
		.pid = 7,
		.time_ns = 5,
		.call = {.function = "cuMemAlloc_v2",
			.address = 0x1000,
			.bytes = MIB,
			.handle = KVS_EVENT_NONE,
			.frames = frames,
			.frame_count = count}};
	json_t *json, *found;

	assert_int_equal(kvs_trace_open(TRACE, NULL, &trace), 0);
	kvs_trace_add(trace, &event);
	kvs_trace_add(trace, &(struct kvs_event){.type = KVS_EVENT_EXIT, .pid = 7, .time_ns = 9});
	assert_int_equal(kvs_trace_close(trace), 0);
	if (kvs_report_make(TRACE, &report))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_report_text(report, &out), 0);
	snprintf(text, bytes, "%s", out);
	free(out);
	assert_int_equal(kvs_report_json(report, &out), 0);
	json = json_loads(out, 0, NULL);
	free(out);
	kvs_report_free(report);
	unlink(TRACE);
	found = json_incref(json_object_get(json_array_get(json_object_get(json, "leaks"), 0), "stack"));
	assert_int_equal(json_array_size(found), count);
	json_decref(json);
	return found;
}

static const char *string(json_t *frames, unsigned i, const char *key)
{
	return json_string_value(json_object_get(json_array_get(frames, i), key));
}

static void a_leak_has_function_file_and_line(void **state)
{
	struct kvs_frame frames[] = {{"/usr/lib/libcuda.so.1", 0x10}, leak_here()};
	char text[2048], expected[64];
	json_t *found = frames_of(frames, 2, text, sizeof(text));
	const char *file = string(found, 1, "file");

	(void)state;
	assert_string_equal(string(found, 1, "function"), "leak_here");
	assert_non_null(file);
	assert_string_equal(file + strlen(file) - strlen("symbols_test.c"), "symbols_test.c");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(found, 1), "line")), line_of_call);
	snprintf(expected, sizeof(expected), "1.0 MiB at leak_here (symbols_test.c:%d)", line_of_call);
	assert_non_null(strstr(text, expected)); /* and not the driver, which is the innermost frame */
	json_decref(found);
}

static void names_of_cpp_are_readable(void **state)
{
	void *library = dlopen("libstdc++.so.6", RTLD_NOW);
	struct kvs_frame frame;
	char text[2048];
	json_t *found;

	(void)state;
	if (!library)
		skip();
	frame = frame_at((char *)dlsym(library, "_ZSt9terminatev") + 1);
	found = frames_of(&frame, 1, text, sizeof(text));
	assert_string_equal(string(found, 0, "function"), "std::terminate()");
	json_decref(found);
	dlclose(library);
}

/* None of these may be read, let alone waited for. */
static void what_is_no_program_has_no_names(void **state)
{
	struct kvs_frame frames[] = {{"/dev/zero", 1}, {"/tmp/kvs-symbols.fifo", 1}, {"/tmp", 1}, {"relative", 1},
		{"/nowhere/at/all", 1}, {"/etc/passwd", 1}, {"", 1}, {"/proc/self/exe", UINT64_MAX},
		{"/proc/self/exe", 0}};
	unsigned count = sizeof(frames) / sizeof(*frames);
	char text[2048];
	json_t *found;

	(void)state;
	unlink("/tmp/kvs-symbols.fifo");
	assert_int_equal(mkfifo("/tmp/kvs-symbols.fifo", 0600), 0);
	found = frames_of(frames, count, text, sizeof(text));
	for (unsigned i = 0; i < count; i++) {
		assert_true(json_is_null(json_object_get(json_array_get(found, i), "function")));
		assert_true(json_is_null(json_object_get(json_array_get(found, i), "line")));
	}
	json_decref(found);
	unlink("/tmp/kvs-symbols.fifo");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_leak_has_function_file_and_line),
		cmocka_unit_test(names_of_cpp_are_readable),
		cmocka_unit_test(what_is_no_program_has_no_names),
	};

#ifndef PROF_LIBDW
	(void)tests;
	puts("built without elfutils (libdw-dev): names of functions are not read");
	return 77;
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
