/*
 * profiler/export/csv.c: allocations as RAPIDS Memory Manager logs them, for tools that read such logs.
 *
 * A row is an allocation, a failed one or a free, in the order in which the calls were told. What cuMemCreate makes stands
 * there with its handle for a pointer. No source tells of the stream of an allocation: it is 0x0.
 */
#include "../report.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_ROWS 1000000

struct held {
	uint64_t bytes;
	unsigned references; /* of a handle */
};

struct csv {
	FILE *to;
	const kvs_report *report;
	struct prof_map processes; /* by pid, the map of what it holds by address or handle */
	uint64_t rows, left_out;
	int err;
};

static void print_row(
	struct csv *csv, const struct kvs_event *event, const char *action, uint64_t pointer, uint64_t bytes)
{
	uint64_t since = event->time_ns > csv->report->start_ns ? event->time_ns - csv->report->start_ns : 0;
	uint64_t us = since / 1000, s = us / 1000000;

	if (csv->rows == MOST_ROWS) {
		csv->left_out++;
		return;
	}
	csv->rows++;
	fprintf(csv->to, "%u,%02llu:%02llu:%02llu.%06llu,%s,0x%llx,%llu,0x0\n", event->tid,
		(unsigned long long)(s / 3600), (unsigned long long)(s / 60 % 60), (unsigned long long)(s % 60),
		(unsigned long long)(us % 1000000), action, (unsigned long long)pointer, (unsigned long long)bytes);
}

static struct prof_map *held_by(struct csv *csv, uint32_t pid)
{
	struct prof_map *map = prof_map_get(&csv->processes, pid);

	if (map)
		return map;
	map = calloc(1, sizeof(*map));
	if (!map || !prof_map_set(&csv->processes, pid, map, NULL)) {
		free(map);
		csv->err = kvs_fail(-ENOMEM, "no memory for the CSV");
		return NULL;
	}
	return map;
}

static void take(struct csv *csv, const struct kvs_event *event, uint64_t pointer)
{
	struct prof_map *map = held_by(csv, event->pid);
	struct held *held = calloc(1, sizeof(*held));
	void *old = NULL;

	if (event->call.bytes == KVS_EVENT_NONE || pointer == KVS_EVENT_NONE || !map || !held ||
		!prof_map_set(map, pointer, held, &old)) {
		free(held);
		return;
	}
	free(old);
	*held = (struct held){event->call.bytes, 1};
	print_row(csv, event, "allocate", pointer, held->bytes);
}

static void give_back(struct csv *csv, const struct kvs_event *event, uint64_t pointer)
{
	struct prof_map *map = held_by(csv, event->pid);
	struct held *held = map ? prof_map_get(map, pointer) : NULL;

	if (!held || --held->references)
		return;
	print_row(csv, event, "free", pointer, held->bytes);
	free(prof_map_remove(map, pointer));
}

static void retain(struct csv *csv, const struct kvs_event *event)
{
	struct prof_map *map = held_by(csv, event->pid);
	struct held *held = map ? prof_map_get(map, event->call.handle) : NULL;

	if (held)
		held->references++;
}

static void hear_event(void *arg, const struct prof_process *process, const struct kvs_event *event)
{
	struct csv *csv = arg;
	enum prof_call_class class;

	(void)process;
	if (event->type != KVS_EVENT_CALL)
		return;
	class = prof_call_class_of(event->call.function);
	if (event->call.result) {
		if (class == PROF_CALL_ALLOC || class == PROF_CALL_CREATE)
			print_row(csv, event, "allocate failure", 0,
				event->call.bytes == KVS_EVENT_NONE ? 0 : event->call.bytes);
		return;
	}
	if (class == PROF_CALL_ALLOC)
		take(csv, event, event->call.address);
	else if (class == PROF_CALL_CREATE)
		take(csv, event, event->call.handle);
	else if (class == PROF_CALL_RETAIN)
		retain(csv, event);
	else if (class == PROF_CALL_FREE)
		give_back(csv, event, event->call.address);
	else if (class == PROF_CALL_RELEASE)
		give_back(csv, event, event->call.handle);
}

static void hear_nothing(void *arg, const struct prof_process *process, uint64_t time_ns)
{
	(void)arg;
	(void)process;
	(void)time_ns;
}

static void hear_no_end(void *arg, const struct prof_process *process, const struct prof_lifetime *lifetime)
{
	(void)arg;
	(void)process;
	(void)lifetime;
}

static void free_held(void *map)
{
	prof_map_clear(map, free);
	free(map);
}

int kvs_report_csv(const kvs_report *report, char **text, struct kvs_left_out *left_out)
{
	size_t bytes;
	struct csv csv = {.report = report, .to = open_memstream(text, &bytes)};
	const struct prof_hooks hooks = {&csv, hear_event, hear_nothing, hear_no_end, NULL};
	kvs_report *again = NULL;
	int err;

	if (!csv.to)
		return kvs_fail(-ENOMEM, "no memory for the CSV");
	fputs("Thread,Time,Action,Pointer,Size,Stream\n", csv.to);
	err = prof_report_follow(report->path, &hooks, &again);
	kvs_report_free(again);
	prof_map_clear(&csv.processes, free_held);
	*left_out = (struct kvs_left_out){.rows = csv.left_out};
	err = err ? err : csv.err;
	if (fclose(csv.to) && !err)
		err = kvs_fail(-ENOMEM, "no memory for the CSV");
	if (err) {
		free(*text);
		*text = NULL;
	}
	return err;
}
