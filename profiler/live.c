/*
 * profiler/live.c: the account of a trace that is still being written.
 */
#include "format.h"
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdlib.h>

struct kvs_live {
	kvs_report *report;
	struct prof_follow *follow;
	kvs_trace_reader *reader;
};

int kvs_live_open(const char *trace, kvs_live **out)
{
	kvs_live *live = calloc(1, sizeof(*live));
	int err = -ENOMEM;

	if (live) {
		live->report = prof_report_new(trace);
		live->follow = live->report ? prof_follow_open(live->report) : NULL;
	}
	if (live && live->follow)
		err = kvs_trace_read(trace, &live->reader);
	else
		kvs_fail(err, "no memory for following a trace");
	if (err)
		kvs_live_close(live);
	else
		*out = live;
	return err;
}

int kvs_live_update(kvs_live *live, uint64_t *done_bytes)
{
	uint64_t done;
	int err = prof_trace_go_on(live->reader, &done);

	if (!err)
		err = prof_follow_news(live->follow, live->reader);
	if (!err && live->report->no_memory)
		err = kvs_fail(-ENOMEM, "no memory for all that the trace tells of");
	if (!err && done_bytes)
		*done_bytes = done;
	return err;
}

size_t kvs_live_processes(const kvs_live *live)
{
	return live->report->process_count;
}

void kvs_live_get_process(const kvs_live *live, size_t index, struct kvs_live_process *out)
{
	const struct prof_process *p = live->report->processes[index];
	const struct prof_totals *now = &p->account.now;

	*out = (struct kvs_live_process){.pid = p->pid,
		.command = p->command,
		.ended = p->ended,
		.physical_bytes = now->physical,
		.mapped_bytes = now->mapped,
		.saved_bytes = now->saved,
		.kv_bytes = now->by_kind[KVS_MEMORY_K] + now->by_kind[KVS_MEMORY_V],
		.host_bytes = now->host,
		.peak_bytes = p->peak.physical,
		.calls = p->calls};
}

size_t kvs_live_functions(const kvs_live *live)
{
	return live->report->functions ? live->report->function_names.intern.count : 0;
}

void kvs_live_get_function(const kvs_live *live, size_t index, struct kvs_live_function *out)
{
	const struct prof_timing *f = live->report->functions[index];

	*out = (struct kvs_live_function){.name = f->name,
		.calls = f->latency.count,
		.failures = f->failures,
		.total_ns = f->latency.total_ns,
		.p99_ns = prof_histogram_quantile(&f->latency, 0.99)};
}

uint64_t kvs_live_lost(const kvs_live *live)
{
	return live->report->health.lost_events;
}

void kvs_live_close(kvs_live *live)
{
	if (!live)
		return;
	prof_follow_close(live->follow);
	kvs_trace_reader_close(live->reader);
	kvs_report_free(live->report);
	free(live);
}
