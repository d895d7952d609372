#include "watched.h"

#include "../../driver/cu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void watched_or_skip(void)
{
	if (!kvs_watch_check())
		return;
	puts(kvs_error());
	exit(getenv("KVS_TEST_EBPF") ? EXIT_FAILURE : 77);
}

static struct watched_function *function_of(struct watched *watched, uint32_t pid, const char *name)
{
	struct watched_function *function;

	for (size_t i = 0; i < watched->function_count; i++)
		if (watched->functions[i].pid == pid && !strcmp(watched->functions[i].name, name))
			return &watched->functions[i];
	assert_true(watched->function_count < WATCHED_FUNCTIONS);
	function = &watched->functions[watched->function_count++];
	function->pid = pid;
	snprintf(function->name, sizeof(function->name), "%s", name);
	return function;
}

static void add_process(struct watched *watched, const struct kvs_event *event)
{
	struct watched_process *process = &watched->processes[watched->process_count++];

	assert_true(watched->process_count <= sizeof(watched->processes) / sizeof(watched->processes[0]));
	assert_int_equal(event->process.source, KVS_SOURCE_EBPF);
	process->pid = event->pid;
	process->parent = event->process.parent;
	process->status = -2;
	snprintf(process->command, sizeof(process->command), "%s", event->process.command);
}

/* Whatever a process does comes behind its KVS_EVENT_PROCESS and before its KVS_EVENT_EXIT. */
static struct watched_process *alive(struct watched *watched, uint32_t pid)
{
	for (size_t i = 0; i < watched->process_count; i++)
		if (watched->processes[i].pid == pid && watched->processes[i].status == -2)
			return &watched->processes[i];
	fail_msg("process %u does something and is not there", pid);
	return NULL;
}

static void add_tid(struct watched *watched, uint32_t tid)
{
	for (size_t i = 0; i < watched->tid_count; i++)
		if (watched->tids[i] == tid)
			return;
	assert_true(watched->tid_count < sizeof(watched->tids) / sizeof(watched->tids[0]));
	watched->tids[watched->tid_count++] = tid;
}

static void add_call(struct watched *watched, const struct kvs_event *event)
{
	const uint32_t pids[] = {0, event->pid};

	for (int i = 0; i < 2; i++) {
		struct watched_function *function = function_of(watched, pids[i], event->call.function);
		function->calls++;
		function->failures += event->call.result != 0;
		function->bytes += event->call.bytes == KVS_EVENT_NONE ? 0 : event->call.bytes;
	}
	add_tid(watched, event->tid);
	if (event->call.frame_count > 1 && !watched->frames) {
		watched->frames = event->call.frame_count;
		snprintf(watched->module, sizeof(watched->module), "%s", event->call.frames[0].module);
	}
}

static void add_calls(struct watched *watched, const struct kvs_event *event)
{
	const uint32_t pids[] = {0, event->pid};

	for (int i = 0; i < 2; i++) {
		struct watched_function *function = function_of(watched, pids[i], event->calls.function);
		for (int b = 0; b < KVS_LATENCIES; b++)
			function->calls += event->calls.latency[b];
		function->failures += event->calls.failures;
	}
}

static void add(struct watched *watched, const struct kvs_event *event)
{
	if (event->type == KVS_EVENT_PROCESS) {
		add_process(watched, event);
		return;
	}
	struct watched_process *process = alive(watched, event->pid);
	if (event->type == KVS_EVENT_CALL)
		add_call(watched, event);
	else if (event->type == KVS_EVENT_CALLS)
		add_calls(watched, event);
	else if (event->type == KVS_EVENT_EXIT)
		process->status = event->exit.status;
	else if (event->type == KVS_EVENT_DEVICE)
		watched->devices++;
}

struct watched *watched_read(const char *trace)
{
	struct watched *watched = calloc(1, sizeof(*watched));
	struct kvs_trace_health health;
	kvs_trace_reader *reader;
	struct kvs_event event;
	int more;

	assert_non_null(watched);
	if (kvs_trace_read(trace, &reader))
		fail_msg("%s", kvs_error());
	while ((more = kvs_trace_next(reader, &event, NULL)) > 0)
		add(watched, &event);
	assert_int_equal(more, 0);
	kvs_trace_get_health(reader, &health);
	assert_int_equal(health.damaged_bytes, 0);
	watched->lost = health.lost_events;
	kvs_trace_reader_close(reader);
	return watched;
}

const struct watched_function *watched_function(const struct watched *watched, uint32_t pid, const char *function)
{
	for (size_t i = 0; i < watched->function_count; i++)
		if (watched->functions[i].pid == pid && !strcmp(watched->functions[i].name, function))
			return &watched->functions[i];
	return NULL;
}

uint64_t watched_calls(const struct watched *watched, const char *name)
{
	const struct watched_function *function = watched_function(watched, 0, name);

	return function ? function->calls : 0;
}

uint64_t watched_all(const struct watched *watched, const char *beginning)
{
	uint64_t calls = 0;

	for (size_t i = 0; i < watched->function_count; i++)
		if (!watched->functions[i].pid && !strncmp(watched->functions[i].name, beginning, strlen(beginning)))
			calls += watched->functions[i].calls;
	return calls;
}
