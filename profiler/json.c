/*
 * profiler/json.c: a report as JSON. Keys are added, never renamed: docs/profiler.md lists them.
 *
 * A trace may name millions of things, so each list has a budget of bytes. It ends when that is spent, and "left_out" counts the
 * rest. Holders come the largest first; of kernels and functions the longest stay.
 */
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LIST_BYTES (4 << 20)
#define HOLDER_BYTES (16 << 20) /* those have stacks */
#define MOST_BLOCKS 65536       /* of one range of the KV map */

/* jansson fails on a NULL object, so a missing part shows in the whole. Text of other programs may be no UTF-8. */
static json_t *string_of(const char *text)
{
	char shown[2048];

	return json_string(kvs_visible(text, shown, sizeof(shown)));
}

static json_t *number(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *layer_of(int layer)
{
	return layer < 0 ? json_null() : json_integer(layer);
}

static json_t *address_of(uint64_t address)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)address);
	return json_string(text);
}

/* `make` gives each item; NULL where there is no memory. */
static json_t *list_of(const void *owner, size_t count, json_t *(*make)(const void *owner, size_t i))
{
	json_t *list = json_array();

	for (size_t i = 0; i < count && list; i++) {
		if (json_array_append_new(list, make(owner, i))) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

/* Items until *budget is spent; *left_out: how many did not fit. */
static json_t *bounded_list(
	const void *owner, size_t count, json_t *(*make)(const void *owner, size_t i), size_t *budget, size_t *left_out)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < count && list; i++) {
		json_t *item = make(owner, i);
		size_t bytes = item ? json_dumpb(item, NULL, 0, JSON_INDENT(2) | JSON_ENCODE_ANY) : 0;
		if (bytes > *budget) {
			json_decref(item);
			break;
		}
		*budget -= bytes;
		if (json_array_append_new(list, item)) {
			json_decref(list);
			list = NULL;
		}
	}
	*left_out = count - i;
	return list;
}

/* Puts the list into the report, and the number of items that it has no room for beside it. */
static bool put_list(json_t *root, const char *key, const void *owner, size_t count,
	json_t *(*make)(const void *owner, size_t i), size_t budget)
{
	size_t left_out;
	json_t *list = bounded_list(owner, count, make, &budget, &left_out);

	return list && !json_object_set_new(root, key, list) &&
	       (!left_out || !json_object_set_new(json_object_get(root, "left_out"), key, number(left_out)));
}

/* ---- memory ---- */

static json_t *kinds_of(const uint64_t *bytes)
{
	json_t *kinds = json_object();
	bool bad = !kinds;

	for (int k = 0; k < KVS_MEMORY_KINDS && !bad; k++)
		bad = json_object_set_new(kinds, kvs_memory_kind_name(k), number(bytes[k])) != 0;
	if (!bad)
		return kinds;
	json_decref(kinds);
	return NULL;
}

static json_t *number_if(bool known, uint64_t value)
{
	return known ? number(value) : json_null();
}

static json_t *memory_of(const kvs_report *r)
{
	uint64_t nvml, nvml_untracked;
	bool asked = prof_nvml(r, &nvml, &nvml_untracked);

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "nvml_bytes",
		number_if(asked, nvml), "nvml_untracked_bytes", number_if(asked, nvml_untracked), "peak_physical_bytes",
		number(r->peak.physical), "peak_s", json_real(r->peak_event ? 1e-9 * (r->peak_ns - r->start_ns) : 0),
		"virtual_bytes", number(r->peak.reserved), "mapped_bytes", number(r->peak.mapped), "saved_bytes",
		number(r->peak.saved), "kv_bytes",
		number(r->peak.by_kind[KVS_MEMORY_K] + r->peak.by_kind[KVS_MEMORY_V]), "host_bytes",
		number(r->peak.host), "untracked_bytes", number(prof_untracked(r)), "profiler_bytes",
		number(prof_overhead(r)), "unfilled_bytes", number(prof_unfilled(&r->peak, KVS_MEMORY_KINDS)),
		"by_kind", kinds_of(r->peak.by_kind), "asked_by_kind", kinds_of(r->peak.asked));
}

static json_t *name_of(const kvs_report *r, uint32_t number)
{
	return number ? string_of(prof_names_text(&r->names, number)) : json_null();
}

static json_t *frame_of(const void *owner, size_t i)
{
	const kvs_report *r = ((const void *const *)owner)[0];
	const struct prof_frame *frame = &((const struct prof_stack *)((const void *const *)owner)[1])->frames[i];

	return json_pack("{s:o,s:o,s:o,s:o,s:o}", "module", string_of(prof_names_text(&r->modules, frame->module)),
		"offset", address_of(frame->offset), "function", name_of(r, frame->function), "file",
		name_of(r, frame->file), "line", frame->line ? json_integer(frame->line) : json_null());
}

static json_t *stack_of(const kvs_report *r, uint32_t stack)
{
	const void *owner[] = {r, stack ? r->stacks[stack - 1] : NULL};

	return stack ? list_of(owner, r->stacks[stack - 1]->count, frame_of) : json_array();
}

static json_t *holder_of(const kvs_report *r, const struct prof_holder *h)
{
	return json_pack("{s:i,s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "pid", (int)r->processes[h->process]->pid, "kind",
		kvs_memory_kind_name(h->kind), "layer", layer_of(h->layer), "function", string_of(h->function), "count",
		number(h->count), "bytes", number(h->bytes), "since_s",
		json_real(1e-9 * ((double)h->born_ns - r->start_ns)), "stack", stack_of(r, h->stack));
}

static json_t *peak_holder(const void *owner, size_t i)
{
	const kvs_report *r = owner;

	return holder_of(r, &r->at_peak.list[i]);
}

static json_t *leak(const void *owner, size_t i)
{
	const kvs_report *r = owner;

	return holder_of(r, &r->leaks.list[i]);
}

static json_t *block_of(const void *owner, size_t i)
{
	return number(((const struct prof_kv_range *)owner)->blocks[i]);
}

static json_t *kv_range(const void *owner, size_t i)
{
	const kvs_report *r = owner;
	const struct prof_kv_range *range = &r->kv.list[i];

	size_t shown = range->block_count < MOST_BLOCKS ? range->block_count : MOST_BLOCKS;

	return json_pack("{s:i,s:o,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "pid", (int)r->processes[range->process]->pid,
		"layer", layer_of(range->layer), "which", range->is_v ? "V" : "K", "owner", layer_of(range->owner),
		"address", address_of(range->address), "virtual_bytes", number(range->bytes), "mapped_bytes",
		number(range->mapped), "block_bytes", number(range->first_block_bytes), "blocks",
		list_of(range, shown, block_of), "blocks_left_out", number(range->block_count - shown));
}

/* ---- time ---- */

static json_t *timing_of(const struct prof_timing *t)
{
	const struct prof_histogram *h = &t->latency;

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "name", string_of(t->name), "n", number(h->count), "total_ns",
		number(h->total_ns), "p50_ns", number(prof_histogram_quantile(h, 0.5)), "p99_ns",
		number(prof_histogram_quantile(h, 0.99)), "max_ns", number(h->max_ns), "failures", number(t->failures));
}

static json_t *function_of(const void *owner, size_t i)
{
	return timing_of(((struct prof_timing *const *)owner)[i]);
}

static json_t *kernel_of(const void *owner, size_t i)
{
	const struct prof_timing *t = ((struct prof_timing *const *)owner)[i];
	json_t *kernel = timing_of(t);

	json_object_del(kernel, "failures");
	if (!kernel || json_object_set_new(kernel, "layer", layer_of(t->layer)) ||
		json_object_set_new(kernel, "symbol", string_of(t->symbol)) ||
		json_object_set_new(kernel, "class", json_string(prof_kernel_class(t->name)))) {
		json_decref(kernel);
		return NULL;
	}
	return kernel;
}

static int by_time(const void *left, const void *right)
{
	const struct prof_timing *a = *(struct prof_timing *const *)left, *b = *(struct prof_timing *const *)right;

	return a->latency.total_ns > b->latency.total_ns ? -1 : a->latency.total_ns < b->latency.total_ns;
}

/* As they were first seen; where not all have room, those of most time come first. */
static bool put_timings(json_t *root, const char *key, struct prof_timing *const *timings, size_t count,
	json_t *(*make)(const void *owner, size_t i))
{
	struct prof_timing **sorted;
	bool done = put_list(root, key, timings, count, make, LIST_BYTES);

	if (!done || !json_object_get(json_object_get(root, "left_out"), key))
		return done;
	sorted = malloc(count * sizeof(*sorted));
	if (!sorted)
		return false;
	memcpy(sorted, timings, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), by_time);
	done = put_list(root, key, sorted, count, make, LIST_BYTES);
	free(sorted);
	return done;
}

static json_t *phase_of(const void *owner, size_t i)
{
	const struct prof_phase *p = ((const kvs_report *)owner)->phases[i];

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}", "name", string_of(p->name), "n", number(p->duration.count),
		"tokens", number(p->tokens), "total_ns", number(p->duration.total_ns), "p50_ns",
		number(prof_histogram_quantile(&p->duration, 0.5)), "p99_ns",
		number(prof_histogram_quantile(&p->duration, 0.99)));
}

static json_t *copies_of(const void *owner, size_t i)
{
	const struct prof_copies *c = &((const kvs_report *)owner)->copies[i];

	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o}", "kind", prof_copy_name(i), "n", number(c->duration.count),
		"bytes", number(c->bytes), "total_ns", number(c->duration.total_ns), "p50_ns",
		number(prof_histogram_quantile(&c->duration, 0.5)), "p99_ns",
		number(prof_histogram_quantile(&c->duration, 0.99)));
}

static json_t *span_of(const void *owner, size_t i)
{
	const struct prof_span *s = ((const kvs_report *)owner)->spans[i];

	return json_pack("{s:o,s:s,s:o,s:o,s:o}", "name", string_of(s->name), "kind", prof_span_name(s->kind), "n",
		number(s->count), "total_ns", number(s->total_ns), "max_ns", number(s->max_ns));
}

static json_t *overhead_of(const kvs_report *r)
{
	return json_pack("{s:o,s:o}", "ns", number(r->overhead_ns), "bytes", number(prof_overhead(r)));
}

static json_t *point_of(const void *owner, size_t i)
{
	const kvs_report *r = owner;
	const struct prof_point *p = &r->series->points[i];

	if (!p->time_ns)
		return json_null();
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}", "s", json_real(1e-9 * ((double)p->time_ns - r->start_ns)),
		"physical_bytes", number(p->totals.physical), "virtual_bytes", number(p->totals.reserved),
		"mapped_bytes", number(p->totals.mapped), "saved_bytes", number(p->totals.saved), "by_kind",
		kinds_of(p->totals.by_kind));
}

/* ---- processes ---- */

static json_t *finding_of(const void *owner, size_t i)
{
	const kvs_report *r = ((const void *const *)owner)[0];
	const struct prof_process *p = ((const void *const *)owner)[1];
	const struct prof_finding *f = &p->account.findings[i];

	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o}", "what", prof_finding_name(f->kind), "function",
		string_of(f->function), "address", address_of(f->address), "count", number(f->count), "s",
		json_real(1e-9 * ((double)f->time_ns - r->start_ns)), "stack", stack_of(r, f->stack));
}

static json_t *process_of(const void *owner, size_t i)
{
	const kvs_report *r = owner;
	const struct prof_process *p = r->processes[i];

	return json_pack("{s:i,s:i,s:o,s:o,s:s,s:i,s:o,s:o,s:o,s:o,s:o,s:o}", "pid", (int)p->pid, "parent",
		(int)p->parent, "command", string_of(p->command), "device", string_of(p->device), "source",
		prof_source_name(p->source), "driver_version", (int)p->driver_version, "device_bytes",
		number(p->device_bytes), "peak_physical_bytes", number(p->peak.physical), "saved_bytes",
		number(p->peak.saved), "untracked_bytes", number(p->untracked), "nvml_bytes",
		number_if(p->nvml_asked, p->nvml), "status",
		p->ended && p->status >= 0 ? json_integer(p->status) : json_null());
}

/* Those of all processes have one budget. */
static bool put_findings(const kvs_report *r, json_t *root)
{
	size_t budget = LIST_BYTES, all_left_out = 0, left_out, i;
	json_t *process;

	json_array_foreach(json_object_get(root, "processes"), i, process)
	{
		const void *both[] = {r, r->processes[i]};
		if (json_object_set_new(process, "findings",
			    bounded_list(both, r->processes[i]->account.finding_count, finding_of, &budget, &left_out)))
			return false;
		all_left_out += left_out;
	}
	return !all_left_out ||
	       !json_object_set_new(json_object_get(root, "left_out"), "findings", number(all_left_out));
}

static json_t *trace_of(const kvs_report *r)
{
	return json_pack("{s:o,s:o,s:o,s:o}", "path", string_of(r->path), "bytes", number(r->health.file_bytes),
		"damaged_bytes", number(r->health.damaged_bytes), "missing_chunks", number(r->health.missing_chunks));
}

/* A point that nothing fell into says nothing. */
static json_t *series_of(const kvs_report *r)
{
	json_t *series = list_of(r, r->series->count, point_of);

	for (size_t i = json_array_size(series); i-- > 0;)
		if (json_is_null(json_array_get(series, i)))
			json_array_remove(series, i);
	return series;
}

static bool put_lists(const kvs_report *r, json_t *root)
{
	return put_list(root, "processes", r, r->process_count, process_of, LIST_BYTES) && put_findings(r, root) &&
	       put_list(root, "phases", r, r->phase_names.intern.count, phase_of, LIST_BYTES) &&
	       put_timings(root, "api", r->functions, r->function_names.intern.count, function_of) &&
	       put_timings(root, "kernels", r->kernels, r->kernel_names.intern.count, kernel_of) &&
	       put_list(root, "copies", r, KVS_COPY_KINDS, copies_of, LIST_BYTES) &&
	       put_list(root, "spans", r, r->span_names.intern.count, span_of, LIST_BYTES) &&
	       put_list(root, "at_peak", r, r->at_peak.count, peak_holder, HOLDER_BYTES) &&
	       put_list(root, "leaks", r, r->leaks.count, leak, HOLDER_BYTES) &&
	       put_list(root, "kv_map", r, r->kv.count, kv_range, LIST_BYTES) &&
	       !json_object_set_new(root, "series", series_of(r));
}

int kvs_report_json(const kvs_report *r, char **text)
{
	json_t *root = json_pack("{s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:{}}", "kvshare_report", 1, "trace", trace_of(r),
		"events", number(r->health.events), "dropped", number(r->health.lost_events), "seconds",
		json_real(1e-9 * (r->end_ns - r->start_ns)), "memory", memory_of(r), "overhead", overhead_of(r),
		"left_out");

	*text = root && put_lists(r, root) ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	return *text ? 0 : kvs_fail(-ENOMEM, "no memory for the JSON report");
}
