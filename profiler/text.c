/*
 * profiler/text.c: the summary for a terminal.
 */
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_HOLDERS 3
#define MOST_CALLS 3

static const char *size_of(uint64_t bytes, char *out)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = bytes;
	int unit = 0;

	for (; value >= 1024 && unit < 5; unit++)
		value /= 1024;
	snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}

static const char *duration_of(uint64_t ns, char *out)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double value = ns;
	int unit = 0;

	for (; value >= 1000 && unit < 3; unit++)
		value /= 1000;
	snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}

static void print_peak(const kvs_report *r, FILE *to)
{
	char a[32], b[32], c[32];

	fprintf(to, "peak       %s physical, %s of addresses mapped; sharing saved %s\n", size_of(r->peak.physical, a),
		size_of(r->peak.mapped, b), size_of(r->peak.saved, c));
	fprintf(to, "           KV %s, weights %s",
		size_of(r->peak.by_kind[KVS_MEMORY_K] + r->peak.by_kind[KVS_MEMORY_V], a),
		size_of(r->peak.by_kind[KVS_MEMORY_WEIGHTS], b));
	fprintf(to, ", the rest %s\n",
		size_of(r->peak.physical - r->peak.by_kind[KVS_MEMORY_K] - r->peak.by_kind[KVS_MEMORY_V] -
				r->peak.by_kind[KVS_MEMORY_WEIGHTS],
			a));
}

static void print_holders(const struct prof_holders *holders, const char *label, FILE *to)
{
	char a[32];

	for (size_t i = 0; i < holders->count && i < MOST_HOLDERS; i++) {
		const struct prof_holder *h = &holders->list[i];
		fprintf(to, "%-10s %s, %s", i ? "" : label, size_of(h->bytes, a), kvs_memory_kind_name(h->kind));
		if (h->layer >= 0)
			fprintf(to, " of layer %d", h->layer);
		fprintf(to, ", %u by %s", h->count, h->function);
		if (i + 1 == MOST_HOLDERS && holders->count > MOST_HOLDERS)
			fprintf(to, "; %zu more", holders->count - MOST_HOLDERS);
		fprintf(to, "\n");
	}
}

static int slower(const void *left, const void *right)
{
	const struct prof_timing *a = *(struct prof_timing *const *)left, *b = *(struct prof_timing *const *)right;

	return a->latency.total_ns > b->latency.total_ns ? -1 : a->latency.total_ns < b->latency.total_ns;
}

static int print_calls(const kvs_report *r, FILE *to)
{
	size_t count = r->function_names.intern.count;
	struct prof_timing **sorted = malloc((count + 1) * sizeof(*sorted));
	char a[32], b[32], c[32];

	if (!sorted)
		return -ENOMEM;
	if (count)
		memcpy(sorted, r->functions, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), slower);
	for (size_t i = 0; i < count && i < MOST_CALLS; i++) {
		const struct prof_histogram *h = &sorted[i]->latency;
		fprintf(to, "%-10s %s: %llu, %s in all, half within %s, 99 %% within %s", i ? "" : "calls",
			sorted[i]->name, (unsigned long long)h->count, duration_of(h->total_ns, a),
			duration_of(prof_histogram_quantile(h, 0.5), b),
			duration_of(prof_histogram_quantile(h, 0.99), c));
		if (sorted[i]->failures)
			fprintf(to, ", %llu failed", (unsigned long long)sorted[i]->failures);
		fprintf(to, "\n");
	}
	free(sorted);
	return 0;
}

static void print_faults(const kvs_report *r, FILE *to)
{
	uint64_t leaked = 0, findings = 0;
	char a[32];

	for (size_t i = 0; i < r->leaks.count; i++)
		leaked += r->leaks.list[i].bytes;
	for (size_t i = 0; i < r->process_count; i++)
		findings += r->processes[i]->account.finding_count;
	if (leaked)
		fprintf(to, "leaked     %s, in %zu places\n", size_of(leaked, a), r->leaks.count);
	if (findings)
		fprintf(to,
			"faults     %llu: memory used after it was given back, given back or mapped twice (--json has "
			"them)\n",
			(unsigned long long)findings);
	if (r->health.lost_events || r->health.damaged_bytes || r->health.missing_chunks)
		fprintf(to, "incomplete %llu events were lost, %llu chunks are missing, %s of the trace are damaged\n",
			(unsigned long long)r->health.lost_events, (unsigned long long)r->health.missing_chunks,
			size_of(r->health.damaged_bytes, a));
}

int kvs_report_text(const kvs_report *r, char **text)
{
	size_t bytes;
	char a[32], name[160];
	FILE *to = open_memstream(text, &bytes);
	int err;

	if (!to)
		return kvs_fail(-ENOMEM, "no memory for the report");
	fprintf(to, "%s: %llu events in %s", kvs_visible(r->path, name, sizeof(name)),
		(unsigned long long)r->health.events, duration_of(r->end_ns - r->start_ns, a));
	for (size_t i = 0; i < r->process_count && i < 1; i++)
		fprintf(to, " of %s", kvs_visible(r->processes[i]->command, name, 80));
	if (r->process_count > 1)
		fprintf(to, " and %zu more processes", r->process_count - 1);
	fprintf(to, "\n");
	print_peak(r, to);
	print_holders(&r->at_peak, "held by", to);
	err = print_calls(r, to);
	print_faults(r, to);
	if (fclose(to) || err) {
		free(*text);
		return kvs_fail(-ENOMEM, "no memory for the report");
	}
	return 0;
}
