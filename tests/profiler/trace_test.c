/*
 * tests/profiler/trace_test.c: what is written into a trace comes out of it; what is damaged costs itself and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../driver/cu.h"
#include "../../profiler/profiler.h"

/* A child of a program with threads can start none under ThreadSanitizer. */
#if defined(__SANITIZE_THREAD__)
#define THREADS_AFTER_FORK false
#elif defined(__has_feature)
#define THREADS_AFTER_FORK (!__has_feature(thread_sanitizer))
#else
#define THREADS_AFTER_FORK true
#endif

static char path[64];

static int new_path(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/kvs-trace-XXXXXX");
	fd = mkstemp(path);
	close(fd);
	return fd < 0;
}

static int remove_path(void **state)
{
	(void)state;
	return unlink(path);
}

static kvs_trace *open_trace(const struct kvs_trace_options *options)
{
	kvs_trace *trace;

	assert_int_equal(kvs_trace_open(path, options, &trace), 0);
	return trace;
}

static kvs_trace_reader *open_reader(void)
{
	kvs_trace_reader *reader;

	if (kvs_trace_read(path, &reader))
		fail_msg("%s", kvs_error());
	return reader;
}

static struct kvs_event call(const char *function, uint64_t at)
{
	return (struct kvs_event){.type = KVS_EVENT_CALL,
		.pid = 7,
		.tid = 8,
		.time_ns = at,
		.call = {.function = function,
			.duration_ns = at % 1000,
			.address = at << 21,
			.bytes = 2097152,
			.handle = KVS_EVENT_NONE}};
}

/* How many events the trace gives; what else it says is in `health`. */
static uint64_t count_events(struct kvs_trace_health *health)
{
	kvs_trace_reader *reader = open_reader();
	struct kvs_event event;
	uint64_t events = 0;
	int got;

	while ((got = kvs_trace_next(reader, &event, NULL)) > 0)
		events++;
	assert_int_equal(got, 0);
	kvs_trace_get_health(reader, health);
	assert_int_equal(health->events, events);
	kvs_trace_reader_close(reader);
	return events;
}

static void every_kind_of_event_comes_back(void **state)
{
	struct kvs_frame frames[] = {{"/bin/program", 0x1234}, {"", UINT64_MAX}};
	struct kvs_event events[] = {
		{.type = KVS_EVENT_PROCESS,
			.pid = 7,
			.tid = 7,
			.time_ns = 1000,
			.process = {KVS_SOURCE_OURS, "program -x", "softcuda", 6, 13000, UINT64_MAX, 1, 4096}},
		{.type = KVS_EVENT_CALL,
			.pid = 7,
			.tid = UINT32_MAX,
			.link = UINT32_MAX,
			.time_ns = 900,
			.call = {"cuMemCreate", 17, 2, KVS_EVENT_NONE, 2097152, 0, frames, 2}},
		{.type = KVS_EVENT_CALL,
			.pid = 7,
			.tid = 9,
			.time_ns = UINT64_MAX,
			.call = {"cuMemMap", UINT64_MAX, -1, 0, KVS_EVENT_NONE, 5, NULL, 0}},
		{.type = KVS_EVENT_CALLS,
			.pid = 7,
			.tid = 9,
			.time_ns = 0,
			.calls = {"cuLaunchKernel", 1, 99, {[0] = 1, [5] = UINT64_MAX, [KVS_LATENCIES - 1] = 3}}},
		{.type = KVS_EVENT_KERNEL, .pid = 7, .time_ns = 5, .kernel = {"decode", 12, 3, -1}},
		{.type = KVS_EVENT_LABEL, .pid = 7, .time_ns = 6, .label = {1 << 21, 4096, KVS_MEMORY_V, 15, 3}},
		{.type = KVS_EVENT_PHASE, .pid = 7, .time_ns = 7, .phase = {"prefill", 512}},
		{.type = KVS_EVENT_DEVICE, .pid = 7, .time_ns = 8, .device = {1, 2}},
		{.type = KVS_EVENT_EXIT, .pid = 7, .time_ns = 9, .exit = {-1}},
		{.type = KVS_EVENT_COPY, .pid = 7, .time_ns = 10, .copy = {KVS_COPY_FILL, UINT64_MAX, 11, UINT32_MAX}},
		{.type = KVS_EVENT_SPAN, .pid = 7, .tid = 9, .time_ns = 11, .span = {KVS_SPAN_RANGE, "forward", 77}},
		{.type = KVS_EVENT_USE, .pid = 7, .tid = 9, .time_ns = 12, .use = {KVS_MEMORY_V, UINT64_MAX}},
		{.type = KVS_EVENT_NVML, .pid = 7, .time_ns = 13, .nvml = {UINT64_MAX}},
	};
	const size_t count = sizeof(events) / sizeof(events[0]);
	kvs_trace *trace = open_trace(NULL);
	kvs_trace_reader *reader;
	struct kvs_event got;
	uint32_t writer = 0, first_writer;

	(void)state;
	for (size_t i = 0; i < count; i++)
		kvs_trace_add(trace, &events[i]);
	assert_int_equal(kvs_trace_close(trace), 0);
	reader = open_reader();
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < count; i++) {
			const struct kvs_event *want = &events[i];
			assert_int_equal(kvs_trace_next(reader, &got, &writer), 1);
			first_writer = i ? first_writer : writer;
			assert_int_equal(writer, first_writer);
			assert_int_equal(got.type, want->type);
			assert_int_equal(got.pid, want->pid);
			assert_int_equal(got.tid, want->tid);
			assert_true(got.time_ns == want->time_ns);
			assert_int_equal(got.link, want->link);
			switch (want->type) {
			case KVS_EVENT_PROCESS:
				assert_string_equal(got.process.command, want->process.command);
				assert_string_equal(got.process.device, want->process.device);
				got.process.command = want->process.command;
				got.process.device = want->process.device;
				assert_memory_equal(&got.process, &want->process, sizeof(got.process));
				break;
			case KVS_EVENT_CALL:
				assert_string_equal(got.call.function, want->call.function);
				assert_true(got.call.duration_ns == want->call.duration_ns);
				assert_int_equal(got.call.result, want->call.result);
				assert_true(got.call.address == want->call.address);
				assert_true(got.call.bytes == want->call.bytes);
				assert_true(got.call.handle == want->call.handle);
				assert_int_equal(got.call.frame_count, want->call.frame_count);
				for (unsigned f = 0; f < got.call.frame_count; f++) {
					assert_string_equal(got.call.frames[f].module, frames[f].module);
					assert_true(got.call.frames[f].offset == frames[f].offset);
				}
				break;
			case KVS_EVENT_CALLS:
				assert_string_equal(got.calls.function, want->calls.function);
				got.calls.function = want->calls.function;
				assert_memory_equal(&got.calls, &want->calls, sizeof(got.calls));
				break;
			case KVS_EVENT_KERNEL:
				assert_string_equal(got.kernel.name, want->kernel.name);
				assert_int_equal(got.kernel.layer, want->kernel.layer);
				assert_int_equal(got.kernel.stream, want->kernel.stream);
				assert_true(got.kernel.duration_ns == want->kernel.duration_ns);
				break;
			case KVS_EVENT_LABEL:
				assert_memory_equal(&got.label, &want->label, sizeof(got.label));
				break;
			case KVS_EVENT_PHASE:
				assert_string_equal(got.phase.name, want->phase.name);
				assert_true(got.phase.tokens == want->phase.tokens);
				break;
			case KVS_EVENT_DEVICE:
				assert_memory_equal(&got.device, &want->device, sizeof(got.device));
				break;
			case KVS_EVENT_COPY:
				assert_int_equal(got.copy.kind, want->copy.kind);
				assert_true(got.copy.bytes == want->copy.bytes);
				assert_true(got.copy.duration_ns == want->copy.duration_ns);
				assert_int_equal(got.copy.stream, want->copy.stream);
				break;
			case KVS_EVENT_SPAN:
				assert_int_equal(got.span.kind, want->span.kind);
				assert_string_equal(got.span.name, want->span.name);
				assert_true(got.span.duration_ns == want->span.duration_ns);
				break;
			case KVS_EVENT_USE:
				assert_int_equal(got.use.kind, want->use.kind);
				assert_true(got.use.bytes == want->use.bytes);
				break;
			case KVS_EVENT_NVML:
				assert_true(got.nvml.bytes == want->nvml.bytes);
				break;
			default:
				assert_int_equal(got.exit.status, want->exit.status);
			}
		}
		assert_int_equal(kvs_trace_next(reader, &got, NULL), 0);
		assert_int_equal(kvs_trace_rewind(reader), 0);
	}
	kvs_trace_reader_close(reader);
}

/* ---- many ---- */

#define THREADS 4
#define EVENTS 200000

static void *add_many(void *arg)
{
	for (uint64_t i = 0; i < EVENTS; i++) {
		struct kvs_event event = call(i % 3 ? "cuMemMap" : "cuMemUnmap", i * 1000);
		kvs_trace_add(arg, &event);
	}
	return NULL;
}

static void what_is_not_lost_is_there(void **state)
{
	struct kvs_trace_health health;
	kvs_trace *trace = open_trace(NULL);
	pthread_t threads[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, add_many, trace), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(kvs_trace_close(trace), 0);
	count_events(&health);
	assert_int_equal(health.events + health.lost_events, THREADS * EVENTS);
	assert_true(health.events > 0);
	assert_int_equal(health.damaged_bytes, 0);
	assert_int_equal(health.missing_chunks, 0);
}

static void several_processes_write_one_trace(void **state)
{
	struct kvs_trace_health health;
	kvs_trace *trace = open_trace(NULL);
	const int processes = THREADS_AFTER_FORK ? 5 : 0, each = 3000;

	(void)state;
	for (int i = 0; i < processes; i++) {
		if (fork() == 0) {
			kvs_trace *mine;
			alarm(60); /* whoever waits for the parent's thread, waits for ever */
			bool bad = kvs_trace_open(path, &(struct kvs_trace_options){.append = true}, &mine);
			for (int e = 0; e < each && !bad; e++) {
				struct kvs_event event = call("cuMemMap", e);
				event.pid = getpid();
				kvs_trace_add(mine, &event);
				kvs_trace_add(trace, &event); /* the parent's: not ours to write */
				if (e % 300 == 0)
					kvs_trace_flush(mine);
			}
			kvs_trace_flush(trace);
			bad = bad || kvs_trace_close(mine) || kvs_trace_close(trace);
			_exit(bad);
		}
	}
	for (int i = 0; i < processes; i++) {
		int status;
		assert_true(wait(&status) > 0 && status == 0);
	}
	assert_int_equal(kvs_trace_close(trace), 0);
	assert_int_equal(count_events(&health), processes * each);
	assert_int_equal(health.lost_events + health.damaged_bytes + health.missing_chunks, 0);
}

/* ---- limits ---- */

static void no_longer_than_its_limit(void **state)
{
	struct kvs_trace_options options = {.max_bytes = 100000};
	struct kvs_trace_health health;
	kvs_trace *trace = open_trace(&options);
	struct stat st;
	uint64_t added = 0;

	(void)state;
	for (int flush = 0; flush < 20; flush++) {
		for (int i = 0; i < 1000; i++, added++) {
			struct kvs_event event = call("cuMemMap", added * 77);
			kvs_trace_add(trace, &event);
		}
		kvs_trace_flush(trace);
	}
	assert_int_equal(kvs_trace_close(trace), -EFBIG);
	assert_int_equal(stat(path, &st), 0);
	assert_in_range(st.st_size, 50000, 100000);
	count_events(&health);
	assert_int_equal(health.events + health.lost_events, added);
	assert_int_equal(health.damaged_bytes, 0);
}

/* The limit of the process stands for a full disk. Room comes again, and what is written then can be read with its names. */
static void a_full_disk_costs_what_did_not_fit(void **state)
{
	struct rlimit old, limit;
	struct kvs_trace_health health;
	kvs_trace *trace = open_trace(NULL);
	kvs_trace_reader *reader;
	struct kvs_event event = call("cuMemMap", 1);
	int got;

	(void)state;
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){40, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &limit);
	kvs_trace_add(trace, &event);
	assert_true(kvs_trace_flush(trace) < 0);
	setrlimit(RLIMIT_FSIZE, &old);
	for (int i = 0; i < 3; i++) {
		kvs_trace_add(trace, &event);
		kvs_trace_flush(trace);
	}
	assert_true(kvs_trace_close(trace) < 0);
	count_events(&health);
	assert_int_equal(health.events + health.lost_events, 4);
	assert_true(health.events >= 2);
	reader = open_reader();
	for (unsigned i = 0; (got = kvs_trace_next(reader, &event, NULL)) > 0; i++)
		if (i == health.events - 1)
			assert_string_equal(event.call.function, "cuMemMap");
	kvs_trace_reader_close(reader);
}

static void only_traces_are_overwritten(void **state)
{
	kvs_trace *trace;
	int fd = open(path, O_WRONLY);

	(void)state;
	assert_int_equal(write(fd, "my thesis", 9), 9);
	close(fd);
	assert_int_equal(kvs_trace_open(path, NULL, &trace), -EINVAL);
	assert_non_null(strstr(kvs_error(), "not overwritten"));
	assert_int_equal(kvs_trace_open(path, &(struct kvs_trace_options){.append = true}, &trace), -EINVAL);
	assert_int_equal(kvs_trace_open("/tmp", NULL, &trace), -EISDIR);
	assert_int_equal(kvs_trace_open("/nowhere/trace", NULL, &trace), -ENOENT);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(kvs_trace_open(path, NULL, &trace), 0);
	assert_int_equal(kvs_trace_close(trace), 0);
	assert_int_equal(kvs_trace_open(path, NULL, &trace), 0);
	assert_int_equal(kvs_trace_close(trace), 0);
}

/* ---- damage ---- */

/* A trace of `chunks` chunks with 100 events each; its bytes. */
static unsigned char *sample(int chunks, size_t *bytes)
{
	kvs_trace *trace = open_trace(NULL);
	unsigned char *data;
	int fd;
	struct stat st;

	for (int c = 0; c < chunks; c++) {
		for (int i = 0; i < 100; i++) {
			struct kvs_event event = call(c == 0 ? "cuMemMap" : "cuMemUnmap", 1000 * c + i);
			kvs_trace_add(trace, &event);
		}
		assert_int_equal(kvs_trace_flush(trace), 0);
	}
	assert_int_equal(kvs_trace_close(trace), 0);
	fd = open(path, O_RDONLY);
	fstat(fd, &st);
	data = malloc(st.st_size);
	assert_int_equal(read(fd, data, st.st_size), st.st_size);
	close(fd);
	*bytes = st.st_size;
	return data;
}

static void put_file(const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	assert_int_equal(write(fd, data, bytes), bytes);
	close(fd);
}

static void a_torn_end_costs_one_chunk(void **state)
{
	struct kvs_trace_health health;
	size_t bytes;
	unsigned char *data = sample(4, &bytes);

	(void)state;
	for (size_t cut = 17; cut < bytes; cut += 13) {
		uint64_t events;
		put_file(data, cut);
		events = count_events(&health);
		assert_int_equal(events % 100, 0);
		assert_true(events >= 100 * (4 * cut / bytes > 1 ? 4 * cut / bytes - 1 : 0));
	}
	free(data);
}

static void a_flipped_byte_costs_one_chunk(void **state)
{
	struct kvs_trace_health health;
	size_t bytes;
	unsigned char *data = sample(4, &bytes);

	(void)state;
	for (size_t at = 16; at < bytes; at += 7) {
		data[at] ^= 0x55;
		put_file(data, bytes);
		data[at] ^= 0x55;
		assert_int_equal(count_events(&health), 300);
		assert_true(health.damaged_bytes > 0);
	}
	free(data);
}

static void a_chunk_that_is_not_there_is_noticed(void **state)
{
	struct kvs_trace_health health;
	kvs_trace_reader *reader;
	struct kvs_event event;
	size_t bytes, first;
	unsigned char *data = sample(3, &bytes);

	(void)state;
	first = 40 + (data[16 + 8] | data[16 + 9] << 8 | data[16 + 10] << 16);
	memmove(data + 16, data + 16 + first, bytes - 16 - first);
	put_file(data, bytes - first);
	assert_int_equal(count_events(&health), 200);
	assert_int_equal(health.missing_chunks, 1);
	assert_int_equal(health.damaged_bytes, 0);
	reader = open_reader();
	assert_int_equal(kvs_trace_next(reader, &event, NULL), 1);
	assert_string_equal(event.call.function, "cuMemUnmap"); /* told in the second chunk, under its own number */
	kvs_trace_reader_close(reader);
	free(data);
}

static void other_files_are_refused(void **state)
{
	kvs_trace_reader *reader;
	size_t bytes;
	unsigned char *data = sample(1, &bytes);

	(void)state;
	assert_int_equal(kvs_trace_read("/nowhere", &reader), -ENOENT);
	assert_int_equal(kvs_trace_read("/tmp", &reader), -EINVAL);
	put_file("kvstrac", 7);
	assert_int_equal(kvs_trace_read(path, &reader), -EINVAL);
	data[8] = 9;
	put_file(data, bytes);
	assert_int_equal(kvs_trace_read(path, &reader), -EINVAL);
	assert_non_null(strstr(kvs_error(), "version 9"));
	free(data);
}

/* ---- a process that is killed ---- */

/* Writes an event a millisecond until it is killed; the numbers go up, so that what is missing shows. */
static void write_for_ever(void)
{
	kvs_trace *trace;

	if (kvs_trace_open(path, &(struct kvs_trace_options){.append = true, .flush_ms = 50}, &trace))
		_exit(1);
	for (uint64_t i = 0;; i++) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		struct kvs_event event = call("cuMemMap", now.tv_sec * 1000000000ul + now.tv_nsec);
		event.call.bytes = i;
		kvs_trace_add(trace, &event);
		usleep(1000);
	}
}

static void killed_at_any_moment_the_trace_reads(void **state)
{
	(void)state;
	for (int i = 0; i < (THREADS_AFTER_FORK ? 25 : 0); i++) {
		struct kvs_trace_health health;
		kvs_trace_reader *reader;
		struct kvs_event event;
		struct timespec now;
		struct stat st;
		uint64_t events = 0, last = 0;
		pid_t child;

		assert_int_equal(truncate(path, 0), 0);
		child = fork();
		if (!child)
			write_for_ever();
		while (!stat(path, &st) && st.st_size < 200) {
			assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
			usleep(1000);
		}
		usleep(rand() % 60000);
		clock_gettime(CLOCK_MONOTONIC, &now);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		reader = open_reader();
		while (kvs_trace_next(reader, &event, NULL) > 0) {
			assert_int_equal(event.call.bytes, events++);
			last = event.time_ns;
		}
		kvs_trace_get_health(reader, &health);
		kvs_trace_reader_close(reader);
		assert_int_equal(health.lost_events, 0);
		/* The flush period, and what a busy machine adds to it. */
		assert_true(now.tv_sec * 1000000000ul + now.tv_nsec - last < 1000000000ul);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, new_path, remove_path)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_kind_of_event_comes_back),
		TEST(what_is_not_lost_is_there),
		TEST(several_processes_write_one_trace),
		TEST(no_longer_than_its_limit),
		TEST(a_full_disk_costs_what_did_not_fit),
		TEST(only_traces_are_overwritten),
		TEST(a_torn_end_costs_one_chunk),
		TEST(a_flipped_byte_costs_one_chunk),
		TEST(a_chunk_that_is_not_there_is_noticed),
		TEST(other_files_are_refused),
		TEST(killed_at_any_moment_the_trace_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
