/*
 * profiler/bpf/counts.c: the kernel's counters only ever grow, so nothing is lost between two looks at them; the trace gets the
 * differences.
 */
#include "counts.h"

#include "functions.h"

#include <bpf/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(PROF_LATENCIES == KVS_LATENCIES, "the kernel counts what a trace can hold");

static struct prof_counted *find_or_add(struct prof_process *process, const struct prof_count_key *key)
{
	struct prof_counted *counted;

	for (size_t i = 0; i < process->counted_count; i++)
		if (!memcmp(&process->counted[i].key, key, sizeof(*key)))
			return &process->counted[i];
	counted = realloc(process->counted, (process->counted_count + 1) * sizeof(*counted));
	if (!counted)
		return NULL;
	process->counted = counted;
	counted += process->counted_count++;
	*counted = (struct prof_counted){.key = *key};
	return counted;
}

static void name_function(const struct prof_count_key *key, char *out, size_t bytes)
{
	const char *name = prof_function_name(key->function);

	if (key->function == PROF_OPEN || key->function == PROF_IOCTL)
		snprintf(out, bytes, "%s(%.*s)", key->function == PROF_OPEN ? "open" : "ioctl", PROF_DEVICE_NAME,
			key->device);
	else
		snprintf(out, bytes, "%s", name ? name : "");
}

/* The difference of `now` to what was told, as an event; false where there is none. */
static bool difference(struct prof_counted *counted, const struct prof_count *now, struct kvs_event *event)
{
	uint64_t calls = 0;

	event->calls.failures = now->failures - counted->told.failures;
	event->calls.total_ns = now->total_ns - counted->told.total_ns;
	for (int i = 0; i < PROF_LATENCIES; i++) {
		event->calls.latency[i] = now->latency[i] - counted->told.latency[i];
		calls += event->calls.latency[i];
	}
	counted->told = *now;
	return calls;
}

static void tell(struct prof_processes *all, struct prof_process *process, const struct prof_count_key *key,
	const struct prof_count *now, kvs_trace *trace, uint64_t time_ns)
{
	struct prof_counted *counted = find_or_add(process, key);
	struct kvs_event event = {.type = KVS_EVENT_CALLS, .pid = process->pid, .time_ns = time_ns};
	char name[64];

	if (!counted || !difference(counted, now, &event))
		return;
	name_function(key, name, sizeof(name));
	event.calls.function = name;
	prof_process_tell(all, process, trace);
	kvs_trace_add(trace, &event);
}

void prof_counts_tell(
	int map, struct prof_processes *all, struct prof_process *process, kvs_trace *trace, uint64_t time_ns)
{
	struct prof_count_key key, *before = NULL;
	struct prof_count now;

	while (!bpf_map_get_next_key(map, before, &key)) {
		struct prof_process *of = prof_process_find(all, key.process);
		if (of && (!process || of == process) && !bpf_map_lookup_elem(map, &key, &now))
			tell(all, of, &key, &now, trace, time_ns);
		before = &key;
	}
}

void prof_counts_forget(int map, struct prof_process *process)
{
	for (size_t i = 0; i < process->counted_count; i++)
		bpf_map_delete_elem(map, &process->counted[i].key);
	process->counted_count = 0;
}
