/*
 * The cost of a trace: bytes and nanoseconds for each event that is written, then the time and the memory of a report, in a
 * process of its own. The events are those of an inference engine that allocates much: launches and kernels of 64 layers,
 * blocks that are created, mapped twice, unmapped and released, with stacks, and phases.
 * usage: profiler_bench [EVENTS]; 1000000 if not said
 */
#include "../../driver/cu.h"
#include "../../profiler/profiler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LAYERS = 64, LIVE_BLOCKS = 4096, FLUSH_EVERY = 10000 };
#define BLOCK (2ul << 20)
#define NONE KVS_EVENT_NONE

static kvs_trace *trace;
static uint64_t event_ns = 1000000, added;

static void check(int err)
{
	if (err) {
		fprintf(stderr, "profiler_bench: %s\n", kvs_error());
		exit(1);
	}
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- writing ---- */

static void add(struct kvs_event *event)
{
	event->pid = 100;
	event->tid = 100 + added % 3;
	event->time_ns = event_ns += 700;
	kvs_trace_add(trace, event);
	if (++added % FLUSH_EVERY == 0) /* faster than a disk, events would be lost */
		check(kvs_trace_flush(trace));
}

static void call(const char *function, uint64_t address, uint64_t bytes, uint64_t handle)
{
	static struct kvs_frame frames[] = {
		{"/usr/lib/libengine.so", 0x1234}, {"/usr/lib/libengine.so", 0x9000}, {"/usr/bin/serve", 0x100}};
	struct kvs_event event = {.type = KVS_EVENT_CALL,
		.call = {.function = function,
			.duration_ns = 300 + added * 7919 % 90000,
			.address = address,
			.bytes = bytes,
			.handle = handle}};

	if (bytes != NONE) { /* one place in the program of two hundred */
		frames[0].offset = 0x1000 + added % 200;
		event.call.frames = frames;
		event.call.frame_count = 3;
	}
	add(&event);
}

static void add_block(uint64_t number)
{
	uint64_t slot = number % LIVE_BLOCKS, owner = 0x100000000000 + slot * BLOCK,
		 borrower = 0x200000000000 + slot * BLOCK;

	if (number >= LIVE_BLOCKS) {
		call("cuMemUnmap", owner, BLOCK, NONE);
		call("cuMemUnmap", borrower, BLOCK, NONE);
		call("cuMemRelease", NONE, NONE, number - LIVE_BLOCKS + 1);
	}
	call("cuMemCreate", NONE, BLOCK, number + 1);
	call("cuMemMap", owner, BLOCK, number + 1);
	call("cuMemMap", borrower, BLOCK, number + 1);
}

static void add_step(uint64_t step)
{
	struct kvs_event event = {.type = KVS_EVENT_PHASE, .phase = {"decode", 1}};

	add(&event);
	for (int layer = 0; layer < LAYERS; layer++) {
		call("cuLaunchKernel", NONE, NONE, 0x5000 + layer);
		event = (struct kvs_event){.type = KVS_EVENT_KERNEL,
			.kernel = {layer % 2 ? "gemm_bf16" : "attention_decode", 20000, 1, layer}};
		add(&event);
	}
	for (uint64_t b = 0; b < 8; b++)
		add_block(8 * step + b);
}

static void label(uint64_t address, int layer, int owner)
{
	struct kvs_event event = {
		.type = KVS_EVENT_LABEL, .label = {address, LIVE_BLOCKS / LAYERS * BLOCK, KVS_MEMORY_K, layer, owner}};

	add(&event);
}

static void write_trace(const char *path, uint64_t events)
{
	struct kvs_event process = {
		.type = KVS_EVENT_PROCESS, .process = {.source = KVS_SOURCE_OURS, .command = "serve", .device = "gpu"}};
	double start;
	struct stat status;

	check(kvs_trace_open(path, NULL, &trace));
	start = now_s();
	add(&process);
	for (int layer = 0; layer < LAYERS; layer++) {
		uint64_t offset = LIVE_BLOCKS / LAYERS * BLOCK * layer;
		label(0x100000000000 + offset, layer, -1);
		label(0x200000000000 + offset, LAYERS + layer, layer);
	}
	for (uint64_t step = 0; added < events; step++)
		add_step(step);
	check(kvs_trace_close(trace));
	check(stat(path, &status) ? kvs_fail(-1, "no trace") : 0);
	printf("trace: %llu events, %.1f bytes and %.0f ns for each\n", (unsigned long long)added,
		(double)status.st_size / added, 1e9 * (now_s() - start) / added);
}

/* ---- reading ---- */

static const char *const forms[] = {"text", "json", "html", "perfetto"};

static void make_form(const kvs_report *report, int form)
{
	struct kvs_left_out left_out;
	char *text;
	double start = now_s();

	check(form == 0     ? kvs_report_text(report, &text)
		: form == 1 ? kvs_report_json(report, &text)
		: form == 2 ? kvs_report_html(report, &text)
			    : kvs_report_perfetto(report, &text, &left_out));
	printf("%s: %.2f s, %.1f MB\n", forms[form], now_s() - start, 1e-6 * strlen(text));
	free(text);
}

static void read_trace(const char *path, int form)
{
	kvs_report *report;
	double start = now_s(), cpu = (double)clock() / CLOCKS_PER_SEC;

	check(kvs_report_make(path, &report));
	if (form == 0)
		printf("report: %.2f s for a million events, %.2f cpu-seconds\n", 1e6 * (now_s() - start) / added,
			1e6 * ((double)clock() / CLOCKS_PER_SEC - cpu) / added);
	make_form(report, form);
	kvs_report_free(report);
}

/* In a child, whose peak of memory is its own. */
static void read_in_child(const char *path, int form)
{
	struct rusage usage;
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		read_trace(path, form);
		fflush(stdout);
		_exit(0);
	}
	check(child < 0 || wait4(child, &status, 0, &usage) < 0 || status ? kvs_fail(-1, "the report failed") : 0);
	printf("%s: %.0f MiB at most\n", forms[form], usage.ru_maxrss / 1024.0);
}

int main(int argc, char **argv)
{
	uint64_t events = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
	char path[] = "/tmp/kvs-profiler-bench-XXXXXX";
	int fd = mkstemp(path);

	check(fd < 0 ? kvs_fail(-1, "no file in /tmp") : 0);
	close(fd);
	write_trace(path, events);
	for (int form = 0; form < 4; form++)
		read_in_child(path, form);
	unlink(path);
	return 0;
}
