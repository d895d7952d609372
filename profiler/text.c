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

static void print_peak(const kvs_report *r, FILE *to)
{
	char a[PROF_UNIT_TEXT], b[PROF_UNIT_TEXT], c[PROF_UNIT_TEXT];
	uint64_t nvml, beyond;

	fprintf(to, "peak       %s physical, %s of addresses mapped; sharing saved %s\n",
		prof_size_text(r->peak.physical, a), prof_size_text(r->peak.mapped, b),
		prof_size_text(r->peak.saved, c));
	fprintf(to, "           KV %s, weights %s",
		prof_size_text(r->peak.by_kind[KVS_MEMORY_K] + r->peak.by_kind[KVS_MEMORY_V], a),
		prof_size_text(r->peak.by_kind[KVS_MEMORY_WEIGHTS], b));
	fprintf(to, ", the rest %s",
		prof_size_text(r->peak.physical - r->peak.by_kind[KVS_MEMORY_K] - r->peak.by_kind[KVS_MEMORY_V] -
				       r->peak.by_kind[KVS_MEMORY_WEIGHTS],
			a));
	if (prof_unfilled(&r->peak, KVS_MEMORY_KINDS))
		fprintf(to, "; %s of all that are unfilled, inside of blocks",
			prof_size_text(prof_unfilled(&r->peak, KVS_MEMORY_KINDS), a));
	if (prof_nvml(r, &nvml, &beyond))
		fprintf(to, "; %s by NVML, %s of it told by no call", prof_size_text(nvml, a),
			prof_size_text(beyond, b));
	fprintf(to, "\n");
}

static void print_holders(const struct prof_holders *holders, const char *label, FILE *to)
{
	char a[PROF_UNIT_TEXT];

	for (size_t i = 0; i < holders->count && i < MOST_HOLDERS; i++) {
		const struct prof_holder *h = &holders->list[i];
		fprintf(to, "%-10s %s, %s", i ? "" : label, prof_size_text(h->bytes, a), kvs_memory_kind_name(h->kind));
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
	char a[PROF_UNIT_TEXT], b[PROF_UNIT_TEXT], c[PROF_UNIT_TEXT];

	if (!sorted)
		return -ENOMEM;
	if (count)
		memcpy(sorted, r->functions, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), slower);
	for (size_t i = 0; i < count && i < MOST_CALLS; i++) {
		const struct prof_histogram *h = &sorted[i]->latency;
		fprintf(to, "%-10s %s: %llu, %s in all, half within %s, 99 %% within %s", i ? "" : "calls",
			sorted[i]->name, (unsigned long long)h->count, prof_duration_text(h->total_ns, a),
			prof_duration_text(prof_histogram_quantile(h, 0.5), b),
			prof_duration_text(prof_histogram_quantile(h, 0.99), c));
		if (sorted[i]->failures)
			fprintf(to, ", %llu failed", (unsigned long long)sorted[i]->failures);
		fprintf(to, "\n");
	}
	free(sorted);
	return 0;
}

/* Of the largest leak, where a stack was taken. */
static void print_place(const kvs_report *r, const struct prof_holder *holder, FILE *to)
{
	const struct prof_stack *stack = holder->stack ? r->stacks[holder->stack - 1] : NULL;
	char place[PROF_FRAME_TEXT], shown[PROF_FRAME_TEXT], size[PROF_UNIT_TEXT];

	if (!stack)
		return;
	prof_frame_text(r, &stack->frames[prof_stack_place(r, stack)], place);
	fprintf(to, "; %s at %s", prof_size_text(holder->bytes, size), kvs_visible(place, shown, sizeof(shown)));
}

static void print_faults(const kvs_report *r, FILE *to)
{
	uint64_t leaked = 0, findings = 0;
	char a[PROF_UNIT_TEXT];

	for (size_t i = 0; i < r->leaks.count; i++)
		leaked += r->leaks.list[i].bytes;
	for (size_t i = 0; i < r->process_count; i++)
		findings += r->processes[i]->account.finding_count;
	if (leaked) {
		fprintf(to, "leaked     %s, in %zu place%s", prof_size_text(leaked, a), r->leaks.count,
			r->leaks.count == 1 ? "" : "s");
		print_place(r, &r->leaks.list[0], to);
		fprintf(to, "\n");
	}
	if (findings)
		fprintf(to,
			"faults     %llu: memory used after it was given back, given back or mapped twice (--json has "
			"them)\n",
			(unsigned long long)findings);
	if (r->health.lost_events || r->health.damaged_bytes || r->health.missing_chunks)
		fprintf(to, "incomplete %llu events were lost, %llu chunks are missing, %s of the trace are damaged\n",
			(unsigned long long)r->health.lost_events, (unsigned long long)r->health.missing_chunks,
			prof_size_text(r->health.damaged_bytes, a));
}

int kvs_report_text(const kvs_report *r, char **text)
{
	size_t bytes;
	char a[PROF_UNIT_TEXT], name[160];
	FILE *to = open_memstream(text, &bytes);
	int err;

	if (!to)
		return kvs_fail(-ENOMEM, "no memory for the report");
	fprintf(to, "%s: %llu events in %s", kvs_visible(r->path, name, sizeof(name)),
		(unsigned long long)r->health.events, prof_duration_text(r->end_ns - r->start_ns, a));
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
