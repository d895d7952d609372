/*
 * profiler/diff.c: two reports side by side, such as of a run with sharing and one without: bytes, tokens a second, time by class
 * of kernel and by function of the driver. All forms of output come from one list of rows (report/diff_page.c is the page).
 */
#include "diff.h"

#include "../driver/cu.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CALLS_SHOWN 10 /* in text */
#define MOST_ROWS 4096      /* names of a real trace are hundreds; a hostile one must not take for ever */

const char *const prof_diff_sections[] = {"memory", "phases", "kernels", "calls"};
static const char *const unit_names[] = {"bytes", "ns", "tokens/s"};

/* ---- rows ---- */

/* Adds to the row of that name; there is none yet the first time. */
static void add(struct prof_diff *d, enum prof_diff_section section, enum prof_diff_unit unit, const char *name,
	int side, double value)
{
	struct prof_diff_row *row = NULL;

	for (size_t i = 0; i < d->count && !row; i++)
		if (d->rows[i].section == section && d->rows[i].unit == unit && !strcmp(d->rows[i].name, name))
			row = &d->rows[i];
	if (!row && d->count == MOST_ROWS)
		return;
	if (!row) {
		struct prof_diff_row *larger = realloc(d->rows, (d->count + 1) * sizeof(*larger));
		if (!larger) {
			d->bad = true;
			return;
		}
		d->rows = larger;
		row = &d->rows[d->count++];
		*row = (struct prof_diff_row){section, unit, name, {0, 0}};
	}
	row->values[side] += value;
}

static void add_memory(struct prof_diff *d, int side)
{
	const kvs_report *r = d->reports[side];
	const struct prof_totals *peak = &r->peak;

	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "peak physical", side, peak->physical);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "saved by sharing", side, peak->saved);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "KV", side, peak->by_kind[KVS_MEMORY_K] + peak->by_kind[KVS_MEMORY_V]);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "weights", side, peak->by_kind[KVS_MEMORY_WEIGHTS]);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "mapped", side, peak->mapped);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "virtual", side, peak->reserved);
	add(d, PROF_DIFF_MEMORY, PROF_BYTES, "untracked", side, prof_untracked(r));
}

static void add_times(struct prof_diff *d, int side)
{
	const kvs_report *r = d->reports[side];

	for (size_t i = 0; i < r->phase_names.intern.count; i++) {
		const struct prof_phase *p = r->phases[i];
		add(d, PROF_DIFF_PHASES, PROF_NANOSECONDS, p->name, side, p->duration.total_ns);
		if (p->tokens && p->duration.total_ns)
			add(d, PROF_DIFF_PHASES, PROF_TOKENS_PER_S, p->name, side,
				1e9 * p->tokens / p->duration.total_ns);
	}
	for (size_t i = 0; i < r->kernel_names.intern.count; i++)
		add(d, PROF_DIFF_KERNELS, PROF_NANOSECONDS, prof_kernel_class(r->kernels[i]->name), side,
			r->kernels[i]->latency.total_ns);
	for (size_t i = 0; i < r->function_names.intern.count; i++)
		add(d, PROF_DIFF_CALLS, PROF_NANOSECONDS, r->functions[i]->name, side,
			r->functions[i]->latency.total_ns);
}

/* Kernels and calls: the longest first. Memory and phases stay as they were added. */
static bool comes_before(const struct prof_diff_row *a, const struct prof_diff_row *b)
{
	if (a->section != b->section)
		return a->section < b->section;
	return a->section >= PROF_DIFF_KERNELS && fmax(a->values[0], a->values[1]) > fmax(b->values[0], b->values[1]);
}

/* By insertion, which leaves equals in their order; rows are few. */
static void sort(struct prof_diff *d)
{
	for (size_t i = 1; i < d->count; i++) {
		struct prof_diff_row row = d->rows[i];
		size_t at = i;
		for (; at && comes_before(&row, &d->rows[at - 1]); at--)
			d->rows[at] = d->rows[at - 1];
		d->rows[at] = row;
	}
}

int prof_diff_make(struct prof_diff *d, const kvs_report *a, const kvs_report *b)
{
	*d = (struct prof_diff){0};
	d->reports[0] = a;
	d->reports[1] = b;
	for (int side = 0; side < 2; side++) {
		add_memory(d, side);
		add_times(d, side);
	}
	sort(d);
	if (!d->bad)
		return 0;
	prof_diff_clear(d);
	return kvs_fail(-ENOMEM, "no memory for a comparison");
}

void prof_diff_clear(struct prof_diff *d)
{
	free(d->rows);
	*d = (struct prof_diff){0};
}

/* ---- text ---- */

const char *prof_diff_value(enum prof_diff_unit unit, double value, char *out)
{
	uint64_t whole = value < 0x1p63 ? (uint64_t)value : INT64_MAX;

	if (unit == PROF_BYTES)
		return prof_size_text(whole, out);
	if (unit == PROF_NANOSECONDS)
		return prof_duration_text(whole, out);
	snprintf(out, PROF_UNIT_TEXT, "%.1f tok/s", value);
	return out;
}

static void print_row(const struct prof_diff_row *row, FILE *to)
{
	char name[64], a[PROF_UNIT_TEXT], b[PROF_UNIT_TEXT];

	fprintf(to, "  %-32s %14s %14s", kvs_visible(row->name, name, sizeof(name)),
		prof_diff_value(row->unit, row->values[0], a), prof_diff_value(row->unit, row->values[1], b));
	if (row->values[0] > 0 && row->values[1] > 0)
		fprintf(to, " %8.3f", row->values[1] / row->values[0]);
	fputc('\n', to);
}

static void print_rows(const struct prof_diff *d, FILE *to)
{
	char a[120], b[120];
	unsigned calls = 0;

	fprintf(to, "A  %s\nB  %s\n%-34s %14s %14s %8s\n", kvs_visible(d->reports[0]->path, a, sizeof(a)),
		kvs_visible(d->reports[1]->path, b, sizeof(b)), "", "A", "B", "B/A");
	for (size_t i = 0; i < d->count; i++) {
		const struct prof_diff_row *row = &d->rows[i];
		if (row->section == PROF_DIFF_CALLS && ++calls > MOST_CALLS_SHOWN)
			continue;
		if (row->section == PROF_DIFF_MEMORY && row->values[0] == 0 && row->values[1] == 0)
			continue;
		if (!i || row->section != d->rows[i - 1].section)
			fprintf(to, "%s\n", prof_diff_sections[row->section]);
		print_row(row, to);
	}
	if (calls > MOST_CALLS_SHOWN)
		fprintf(to, "  %u more (--json has them)\n", calls - MOST_CALLS_SHOWN);
}

int kvs_report_diff_text(const kvs_report *a, const kvs_report *b, char **text)
{
	struct prof_diff d;
	size_t bytes;
	int err = prof_diff_make(&d, a, b);
	FILE *to = err ? NULL : open_memstream(text, &bytes);

	if (!err && !to)
		err = kvs_fail(-ENOMEM, "no memory for a comparison");
	if (!err) {
		print_rows(&d, to);
		if (fclose(to)) {
			free(*text);
			err = kvs_fail(-ENOMEM, "no memory for a comparison");
		}
	}
	prof_diff_clear(&d);
	return err;
}

/* ---- JSON ---- */

static json_t *section_of(const struct prof_diff *d, enum prof_diff_section section)
{
	json_t *list = json_array();
	char name[1100];

	for (size_t i = 0; i < d->count; i++) {
		const struct prof_diff_row *row = &d->rows[i];
		if (row->section == section)
			json_array_append_new(
				list, json_pack("{s:s,s:s,s:f,s:f}", "name", kvs_visible(row->name, name, sizeof(name)),
					      "unit", unit_names[row->unit], "a", row->values[0], "b", row->values[1]));
	}
	return list;
}

int kvs_report_diff_json(const kvs_report *a, const kvs_report *b, char **text)
{
	struct prof_diff d;
	char path_a[2048], path_b[2048];
	json_t *root = NULL;
	int err = prof_diff_make(&d, a, b);

	if (!err)
		root = json_pack("{s:i,s:s,s:s}", "kvshare_diff", 1, "a", kvs_visible(a->path, path_a, sizeof(path_a)),
			"b", kvs_visible(b->path, path_b, sizeof(path_b)));
	for (int s = 0; s < PROF_DIFF_SECTIONS && root; s++)
		json_object_set_new(root, prof_diff_sections[s], section_of(&d, s));
	prof_diff_clear(&d);
	if (err)
		return err;
	*text = json_object_size(root) == 3 + PROF_DIFF_SECTIONS ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	return *text ? 0 : kvs_fail(-ENOMEM, "no memory for a comparison");
}
