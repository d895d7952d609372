/*
 * profiler/report/diff_page.c: two traces on one HTML page, such as of a run with sharing and one without: what was measured in
 * turn, memory of both on one axis, both KV maps, and every row of the comparison.
 */
#include "../diff.h"
#include "page.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS 60 /* of a table */
#define MOST_CARDS 12
#define CHART_HEIGHT (PROF_PLOT_TOP + PROF_PLOT_HEIGHT + 22)

struct pair {
	struct prof_page page;
	struct prof_diff diff;
	const char *names[2];
	const struct kvs_diff_page *given;
};

static const char *const side_letters[] = {"a", "b"};

/* ---- figures ---- */

static void print_value(struct pair *pair, const struct prof_diff_row *row, int side)
{
	char text[PROF_UNIT_TEXT];

	fputs(prof_diff_value(row->unit, row->values[side], text), pair->page.to);
}

static bool has_ratio(const struct prof_diff_row *row)
{
	return row->values[0] > 0 && row->values[1] > 0;
}

/* The place of a row in the JSON: "memory.0". */
static void row_path(const struct prof_diff *diff, size_t at, char *out, size_t bytes)
{
	size_t first = at;

	while (first && diff->rows[first - 1].section == diff->rows[at].section)
		first--;
	snprintf(out, bytes, "%s.%zu", prof_diff_sections[diff->rows[at].section], at - first);
}

/* ---- head ---- */

static void print_run(struct pair *pair, int side)
{
	const kvs_report *r = pair->diff.reports[side];
	FILE *to = pair->page.to;

	fprintf(to, "<p class=\"run\"><i class=\"side-%s\"></i><b>", side_letters[side]);
	prof_page_name(&pair->page, pair->names[side]);
	fputs("</b> <code>", to);
	prof_page_name(&pair->page, r->process_count ? r->processes[0]->command : r->path);
	fputs("</code> · ", to);
	prof_page_time(&pair->page, r->end_ns - r->start_ns);
	fputs(" · ", to);
	prof_page_count(&pair->page, r->health.events);
	fputs(" events</p>\n", to);
}

static void print_verdict(struct pair *pair)
{
	const uint64_t a = pair->diff.reports[0]->peak.physical, b = pair->diff.reports[1]->peak.physical;
	FILE *to = pair->page.to;

	fputs("<p class=\"verdict\">At its peak ", to);
	prof_page_name(&pair->page, pair->names[1]);
	fputs(" held <b>", to);
	prof_page_size(&pair->page, b);
	if (a == b) {
		fputs("</b>, as much as ", to);
	} else {
		fprintf(to, "</b>, <b class=\"%s\">", b < a ? "saved" : "bad");
		prof_page_size(&pair->page, a > b ? a - b : b - a);
		if (a)
			fprintf(to, " (%.1f&nbsp;%%)", 100.0 * fabs((double)a - (double)b) / a);
		fprintf(to, " %s</b> than ", b < a ? "less" : "more");
	}
	prof_page_name(&pair->page, pair->names[0]);
	fputs(".</p>\n", to);
}

static void print_card(struct pair *pair, size_t at)
{
	const struct prof_diff_row *row = &pair->diff.rows[at];
	bool better = has_ratio(row) && row->unit == PROF_BYTES && row->values[1] < row->values[0];
	FILE *to = pair->page.to;
	char path[64];

	row_path(&pair->diff, at, path, sizeof(path));
	fprintf(to, "<div class=\"card%s\"><dt>", better ? " accent" : "");
	prof_page_name(&pair->page, row->name);
	fprintf(to, "</dt><dd><span class=\"big\" data-json=\"%s.b\" data-value=\"%.17g\">", path, row->values[1]);
	print_value(pair, row, 1);
	fputs("</span><small>", to);
	prof_page_name(&pair->page, pair->names[0]);
	fprintf(to, ": <span data-json=\"%s.a\" data-value=\"%.17g\">", path, row->values[0]);
	print_value(pair, row, 0);
	fputs("</span>", to);
	if (has_ratio(row))
		fprintf(to, "; ratio %.3f", row->values[1] / row->values[0]);
	fputs("</small></dd></div>\n", to);
}

/* Memory that either had; and speeds, unless there are better ones. */
static bool has_card(const struct pair *pair, const struct prof_diff_row *row)
{
	if (row->section == PROF_DIFF_MEMORY)
		return row->values[0] > 0 || row->values[1] > 0;
	return row->unit == PROF_TOKENS_PER_S && !pair->given;
}

static void print_head(struct pair *pair)
{
	FILE *to = pair->page.to;
	unsigned cards = 0;

	prof_page_head(&pair->page, "kvshare: two runs, ", pair->diff.reports[1]->path);
	fputs("<header><h1>Two runs side by side</h1>\n", to);
	print_run(pair, 0);
	print_run(pair, 1);
	print_verdict(pair);
	fputs("<dl class=\"cards\">\n", to);
	for (size_t i = 0; i < pair->diff.count && cards < MOST_CARDS; i++) {
		if (!has_card(pair, &pair->diff.rows[i]))
			continue;
		print_card(pair, i);
		cards++;
	}
	fputs("</dl>\n</header>\n", to);
}

/* ---- what was measured beside the traces ---- */

static void print_measured_row(struct pair *pair, const struct kvs_measured *m)
{
	FILE *to = pair->page.to;

	fputs("<tr><th scope=\"row\">", to);
	prof_page_name(&pair->page, m->name);
	for (int side = 0; side < 2; side++)
		fprintf(to, "</%s><td class=\"n\">%.*f %s", side ? "td" : "th", m->digits, m->values[side], m->unit);
	if (isnan(m->ratio))
		fprintf(to, "</td><td class=\"n\">%+.*f</td><td></td></tr>\n", m->digits, m->values[1] - m->values[0]);
	else
		fprintf(to, "</td><td class=\"n\">%.3f</td><td class=\"n\">%.3f to %.3f</td></tr>\n", m->ratio,
			m->least, m->largest);
}

static void print_names(struct pair *pair)
{
	for (int side = 0; side < 2; side++) {
		fprintf(pair->page.to, "<th scope=\"col\" class=\"n\"><i class=\"side-%s\"></i>", side_letters[side]);
		prof_page_name(&pair->page, pair->names[side]);
		fputs("</th>", pair->page.to);
	}
}

static void print_measured(struct pair *pair)
{
	if (!pair->given || !pair->given->measured_count)
		return;
	prof_page_begin(&pair->page, "measured", "Measured in turn", true);
	fprintf(pair->page.to,
		"<p>Rounds: %u, each of both runs, without a trace. A ratio is the median of those within "
		"the rounds; beside it the least and the largest.</p>\n<table><thead><tr><th scope=\"col\"></th>",
		pair->given->rounds);
	print_names(pair);
	fputs("<th scope=\"col\" class=\"n\">ratio</th><th scope=\"col\" class=\"n\">of the "
	      "rounds</th></tr></thead><tbody>\n",
		pair->page.to);
	for (size_t i = 0; i < pair->given->measured_count; i++)
		print_measured_row(pair, &pair->given->measured[i]);
	fputs("</tbody></table>\n", pair->page.to);
	prof_page_end(&pair->page);
}

/* ---- memory over time ---- */

/* Both begin at 0. */
static uint64_t length_of(const struct pair *pair)
{
	uint64_t length = 1;

	for (int side = 0; side < 2; side++) {
		const kvs_report *r = pair->diff.reports[side];
		length = r->end_ns - r->start_ns > length ? r->end_ns - r->start_ns : length;
	}
	return length;
}

static double most_held(const struct pair *pair)
{
	double most = 0;

	for (int side = 0; side < 2; side++)
		most = fmax(most, pair->diff.reports[side]->peak.physical);
	return most;
}

static void print_line(struct pair *pair, const struct prof_scale *scale, int side)
{
	const kvs_report *r = pair->diff.reports[side];
	FILE *to = pair->page.to;
	int last = PROF_UNITS;

	fprintf(to, "<path class=\"line side-%s\" d=\"M0 %d", side_letters[side], PROF_UNITS);
	for (unsigned i = 0; i < r->series->count; i++) {
		const struct prof_point *point = &r->series->points[i];
		int y = point->time_ns ? prof_scale_y(scale, point->totals.physical) : last;
		if (y != last)
			fprintf(to, "H%dV%d", (int)(PROF_UNITS * prof_scale_x(scale, point->time_ns - r->start_ns)), y);
		last = y;
	}
	fprintf(to, "H%d\"/>\n", (int)(PROF_UNITS * prof_scale_x(scale, r->end_ns - r->start_ns)));
}

/* What the side held at that time; *at: the next point, from which the search goes on. */
static uint64_t held_at(const kvs_report *r, uint64_t since_ns, unsigned *at, uint64_t *held)
{
	while (*at < r->series->count) {
		const struct prof_point *point = &r->series->points[*at];
		if (point->time_ns && point->time_ns - r->start_ns > since_ns)
			break;
		if (point->time_ns)
			*held = point->totals.physical;
		++*at;
	}
	return since_ns > r->end_ns - r->start_ns ? 0 : *held;
}

/* What the script reads out below the pointer: seconds, and what each held. */
static void print_points(struct pair *pair, const struct prof_scale *scale)
{
	unsigned at[2] = {0, 0};
	uint64_t held[2] = {0, 0};
	FILE *to = pair->page.to;

	fprintf(to, "<script type=\"application/json\" id=\"points\">{\"pair\":true,\"seconds\":%.9f,\"points\":[",
		1e-9 * scale->end_ns);
	for (unsigned i = 0; i <= 500; i++) {
		/* In integers: a damaged trace may end so late that a product, or a double, goes beyond them. */
		uint64_t time_ns = scale->end_ns / 500 * i + scale->end_ns % 500 * i / 500;
		fprintf(to, "%s[%.6f", i ? "," : "", 1e-9 * time_ns);
		for (int side = 0; side < 2; side++)
			fprintf(to, ",%llu",
				(unsigned long long)held_at(pair->diff.reports[side], time_ns, &at[side], &held[side]));
		fputs("]", to);
	}
	fputs("]}</script>\n", to);
}

static void print_legend(struct pair *pair)
{
	fputs("<ul class=\"legend\" id=\"sides\">\n", pair->page.to);
	for (int side = 0; side < 2; side++) {
		fprintf(pair->page.to, "<li><i class=\"side-%s\"></i><span>", side_letters[side]);
		prof_page_name(&pair->page, pair->names[side]);
		fputs("</span>, peak <b>", pair->page.to);
		prof_page_size(&pair->page, pair->diff.reports[side]->peak.physical);
		fputs("</b></li>\n", pair->page.to);
	}
	fputs("</ul>\n", pair->page.to);
}

static void print_memory(struct pair *pair)
{
	struct prof_scale scale = prof_scale_make(0, length_of(pair), most_held(pair));
	FILE *to = pair->page.to;

	prof_page_begin(&pair->page, "memory", "Physical memory over time", true);
	print_legend(pair);
	fprintf(to,
		"<div class=\"plot\" id=\"plot\" tabindex=\"0\" role=\"group\" aria-label=\"Physical memory of both "
		"runs over "
		"time; arrow keys move through it\" data-top=\"%d\" data-height=\"%d\">\n<svg class=\"chart\" "
		"width=\"100%%\" height=\"%d\" role=\"img\" aria-label=\"Physical memory of both runs over time\">\n",
		PROF_PLOT_TOP, PROF_PLOT_HEIGHT, CHART_HEIGHT);
	prof_scale_ticks(&pair->page, &scale, CHART_HEIGHT);
	fprintf(to, "<svg y=\"%d\" width=\"100%%\" height=\"%d\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\">\n",
		PROF_PLOT_TOP, PROF_PLOT_HEIGHT, PROF_UNITS, PROF_UNITS);
	print_line(pair, &scale, 0);
	print_line(pair, &scale, 1);
	fputs("</svg>\n</svg>\n</div>\n<p class=\"readout\" id=\"plot-readout\" aria-live=\"polite\">&nbsp;</p>\n", to);
	print_points(pair, &scale);
	prof_page_end(&pair->page);
}

/* ---- rows ---- */

static double largest(const struct prof_diff *diff, enum prof_diff_section section, enum prof_diff_unit unit)
{
	double most = 0;

	for (size_t i = 0; i < diff->count; i++)
		if (diff->rows[i].section == section && diff->rows[i].unit == unit)
			most = fmax(most, fmax(diff->rows[i].values[0], diff->rows[i].values[1]));
	return most;
}

static void print_row(struct pair *pair, const struct prof_diff_row *row)
{
	double most = largest(&pair->diff, row->section, row->unit);
	FILE *to = pair->page.to;

	fputs("<tr><th scope=\"row\">", to);
	prof_page_name(&pair->page, row->name);
	fputs("</th>", to);
	for (int side = 0; side < 2; side++) {
		fprintf(to, "<td class=\"n\" data-n=\"%.17g\">", row->values[side]);
		print_value(pair, row, side);
		fputs("</td>", to);
	}
	if (has_ratio(row))
		fprintf(to, "<td class=\"n\" data-n=\"%.6f\">%.3f</td>", row->values[1] / row->values[0],
			row->values[1] / row->values[0]);
	else
		fputs("<td class=\"n\" data-n=\"-1\"></td>", to);
	fputs("<td class=\"bar\"><svg width=\"100%\" height=\"15\" aria-hidden=\"true\">", to);
	for (int side = 0; side < 2; side++)
		fprintf(to, "<rect class=\"side-%s\" y=\"%d\" width=\"%.2f%%\" height=\"6\"/>", side_letters[side],
			1 + 7 * side, most > 0 ? 100 * row->values[side] / most : 0);
	fputs("</svg></td></tr>\n", to);
}

static void print_section(struct pair *pair, enum prof_diff_section section, const char *title)
{
	const char *id = prof_diff_sections[section];
	FILE *to = pair->page.to;
	size_t shown = 0, rest = 0;
	char table[32];

	snprintf(table, sizeof(table), "diff-%s", id);
	prof_page_begin(&pair->page, table, title, false);
	fprintf(to,
		"<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"%s\"><table class=\"sortable\" "
		"id=\"%s-table\"><thead><tr><th scope=\"col\">name</th>",
		title, id);
	print_names(pair);
	fputs("<th scope=\"col\" class=\"n\">ratio</th><th scope=\"col\" data-fixed>side by "
	      "side</th></tr></thead>\n<tbody>\n",
		to);
	for (size_t i = 0; i < pair->diff.count; i++) {
		const struct prof_diff_row *row = &pair->diff.rows[i];
		if (row->section != section)
			continue;
		if (shown == MOST_ROWS || !prof_page_has_room(&pair->page)) {
			rest++;
			continue;
		}
		print_row(pair, row);
		shown++;
	}
	fputs("</tbody></table></div>\n", to);
	if (!shown)
		fputs("<p class=\"note\">Neither trace has any.</p>\n", to);
	prof_page_rest(&pair->page, rest, 0);
	prof_page_end(&pair->page);
}

/* ---- the page ---- */

static int print_map(struct pair *pair, int side)
{
	static const char *const ids[] = {"kv-a", "kv-b"};
	char title[64];
	int err;

	snprintf(title, sizeof(title), "KV map of %s", pair->names[side]);
	pair->page.report = pair->diff.reports[side];
	err = prof_page_kv_map(&pair->page, ids[side], title);
	pair->page.report = pair->diff.reports[0];
	return err;
}

static void print_caveats(struct pair *pair)
{
	prof_page_begin(&pair->page, "caveats", "What to know about these figures", false);
	fputs("<ul>\n", pair->page.to);
	for (int side = 0; side < 2; side++) {
		pair->page.report = pair->diff.reports[side];
		prof_page_health(&pair->page);
	}
	fputs("<li>A ratio is the second run's figure by the first's. Times are those of one traced run each, and "
	      "include what "
	      "tracing costs.</li>\n<li>Each run begins at 0 s.</li>\n<li>1 KiB is 1024 bytes.</li>\n</ul>\n",
		pair->page.to);
	prof_page_end(&pair->page);
}

static int print_page(struct pair *pair)
{
	int err = 0;

	print_head(pair);
	fputs("<main>\n", pair->page.to);
	print_measured(pair);
	print_memory(pair);
	for (int side = 0; side < 2 && !err; side++)
		err = print_map(pair, side);
	print_section(pair, PROF_DIFF_MEMORY, "Memory at the peak");
	print_section(pair, PROF_DIFF_PHASES, "Phases");
	print_section(pair, PROF_DIFF_KERNELS, "Kernel time by class");
	print_section(pair, PROF_DIFF_CALLS, "Calls of the driver");
	print_caveats(pair);
	fputs("</main>\n", pair->page.to);
	prof_page_foot(&pair->page);
	return err;
}

int kvs_report_diff_html(const kvs_report *a, const kvs_report *b, const struct kvs_diff_page *given, char **text)
{
	struct pair pair = {.names = {"A", "B"}, .given = given};
	size_t bytes;
	int err = prof_diff_make(&pair.diff, a, b);

	if (err)
		return err;
	for (int side = 0; given && side < 2; side++)
		pair.names[side] = given->names[side];
	pair.page.report = a;
	pair.page.to = open_memstream(text, &bytes);
	if (!pair.page.to) {
		prof_diff_clear(&pair.diff);
		return kvs_fail(-ENOMEM, "no memory for the report");
	}
	err = print_page(&pair);
	prof_diff_clear(&pair.diff);
	if (fclose(pair.page.to) || err) {
		free(*text);
		*text = NULL;
		return kvs_fail(-ENOMEM, "no memory for the report");
	}
	return 0;
}
