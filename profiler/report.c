/*
 * profiler/report.c: a report's life.
 */
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

kvs_report *prof_report_new(const char *trace)
{
	kvs_report *report = calloc(1, sizeof(*report));

	if (!report)
		return NULL;
	report->path = strdup(trace);
	report->series = calloc(1, sizeof(*report->series));
	report->marks = calloc(PROF_MAX_PHASES, sizeof(*report->marks));
	if (report->path && report->series && report->marks)
		return report;
	kvs_report_free(report);
	return NULL;
}

static void name_kernels(kvs_report *report)
{
	char plain[PROF_PLAIN_NAME];

	for (size_t i = 0; i < report->kernel_names.intern.count; i++) {
		struct prof_timing *kernel = report->kernels[i];
		uint32_t number = prof_names_add(&report->names, prof_demangle(kernel->symbol, plain, sizeof(plain)));
		if (number)
			kernel->name = prof_names_text(&report->names, number);
	}
}

int prof_report_follow(const char *trace, const struct prof_hooks *hooks, kvs_report **out)
{
	kvs_report *report = prof_report_new(trace);
	kvs_trace_reader *reader;
	int err;

	if (!report)
		return kvs_fail(-ENOMEM, "no memory for a report");
	err = kvs_trace_read(trace, &reader);
	if (!err) {
		err = prof_follow(report, reader, hooks);
		kvs_trace_reader_close(reader);
	}
	if (!err && !hooks) {
		name_kernels(report);
		err = prof_resolve(report);
	}
	if (!err && report->no_memory)
		err = kvs_fail(-ENOMEM, "no memory for all that %s tells of", trace);
	if (err)
		kvs_report_free(report);
	else
		*out = report;
	return err;
}

int kvs_report_make(const char *trace, kvs_report **out)
{
	return prof_report_follow(trace, NULL, out);
}

static void free_items(void **items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(items[i]);
	free(items);
}

void kvs_report_free(kvs_report *report)
{
	if (!report)
		return;
	for (size_t i = 0; i < report->process_count; i++)
		prof_account_clear(&report->processes[i]->account);
	free_items((void **)report->processes, report->process_count);
	free_items((void **)report->functions, report->functions ? report->function_names.intern.count : 0);
	free_items((void **)report->kernels, report->kernels ? report->kernel_names.intern.count : 0);
	free_items((void **)report->phases, report->phases ? report->phase_names.intern.count : 0);
	free_items((void **)report->spans, report->spans ? report->span_names.intern.count : 0);
	free_items((void **)report->stacks, report->stacks ? report->stack_keys.count : 0);
	prof_names_clear(&report->names);
	prof_names_clear(&report->function_names);
	prof_names_clear(&report->kernel_names);
	prof_names_clear(&report->phase_names);
	prof_names_clear(&report->span_names);
	prof_names_clear(&report->modules);
	prof_intern_clear(&report->stack_keys);
	free(report->at_peak.list);
	free(report->leaks.list);
	prof_kv_clear(&report->kv);
	free(report->series);
	free(report->marks);
	free(report->path);
	free(report);
}

/* Each process sees the memory of the whole device, so those of several must not be added. */
uint64_t prof_untracked(const kvs_report *report)
{
	uint64_t most = 0;

	for (size_t i = 0; i < report->process_count; i++)
		most = report->processes[i]->untracked > most ? report->processes[i]->untracked : most;
	return most;
}

/* NVML tells each process's own part, so these add up. */
bool prof_nvml(const kvs_report *report, uint64_t *bytes, uint64_t *untracked)
{
	bool asked = false;

	*bytes = *untracked = 0;
	for (size_t i = 0; i < report->process_count; i++) {
		asked |= report->processes[i]->nvml_asked;
		*bytes += report->processes[i]->nvml;
		*untracked += report->processes[i]->nvml_untracked;
	}
	return asked;
}

uint64_t prof_overhead(const kvs_report *report)
{
	uint64_t bytes = report->peak.by_kind[KVS_MEMORY_PROFILER];

	for (size_t i = 0; i < report->process_count; i++)
		bytes += report->processes[i]->overhead;
	return bytes;
}

uint64_t prof_unfilled(const struct prof_totals *totals, enum kvs_memory_kind kind)
{
	uint64_t bytes = 0;

	for (int k = 0; k < KVS_MEMORY_KINDS; k++)
		if (kind == KVS_MEMORY_KINDS || kind == (enum kvs_memory_kind)k)
			bytes += totals->by_kind[k] - totals->asked[k];
	return bytes;
}
