/*
 * profiler/report/memory.c: memory over time, stacked by kind, below a line that says what would be held without sharing.
 *
 * Areas are painted from the tallest to the lowest, each from its height down to the ground, so that none needs the edge of
 * the one below. A value holds until the next point: memory goes in steps.
 */
#include "page.h"

#include "../../chart/chart.h"

#include <math.h>

/* From the ground up: the cache on top, beside what sharing saved of it. */
static const enum kvs_memory_kind order[KVS_MEMORY_KINDS] = {KVS_MEMORY_WEIGHTS, KVS_MEMORY_ACTIVATIONS,
	KVS_MEMORY_WORKSPACE, KVS_MEMORY_UNKNOWN, KVS_MEMORY_PROFILER, KVS_MEMORY_SINK, KVS_MEMORY_K, KVS_MEMORY_V};

/* What lies below the top of `order[kind]`; KVS_MEMORY_KINDS: what would be held without sharing. */
static uint64_t height_of(const struct prof_totals *totals, int kind)
{
	uint64_t sum = 0;

	if (kind == KVS_MEMORY_KINDS)
		return totals->physical + totals->saved;
	for (int k = 0; k <= kind; k++)
		sum += totals->by_kind[order[k]];
	return sum;
}

static struct prof_scale scale_of(const kvs_report *r)
{
	double top = 0;

	for (unsigned i = 0; i < r->series->count; i++)
		if (r->series->points[i].time_ns)
			top = fmax(top, height_of(&r->series->points[i].totals, KVS_MEMORY_KINDS));
	return prof_scale_make(r->start_ns, r->end_ns, top);
}

/* ---- areas ---- */

/* A path in steps; a corner only where the height changes. */
static void print_steps(struct prof_page *page, const struct prof_scale *scale, int kind)
{
	const struct prof_series *series = page->report->series;
	int last = PROF_UNITS;

	fprintf(page->to, "M0 %d", PROF_UNITS);
	for (unsigned i = 0; i < series->count; i++) {
		const struct prof_point *point = &series->points[i];
		int y = point->time_ns ? prof_scale_y(scale, height_of(&point->totals, kind)) : last;
		if (y != last)
			fprintf(page->to, "H%dV%d", (int)(PROF_UNITS * prof_scale_x(scale, point->time_ns)), y);
		last = y;
	}
	fprintf(page->to, "H%d", PROF_UNITS);
}

static bool is_ever_held(const kvs_report *r, enum kvs_memory_kind kind)
{
	for (unsigned i = 0; i < r->series->count; i++)
		if (r->series->points[i].totals.by_kind[kind])
			return true;
	return false;
}

static void print_areas(struct prof_page *page, const struct prof_scale *scale)
{
	fprintf(page->to,
		"<svg y=\"%d\" width=\"100%%\" height=\"%d\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\">\n",
		PROF_PLOT_TOP, PROF_PLOT_HEIGHT, PROF_UNITS, PROF_UNITS);
	if (page->report->peak.saved) {
		fputs("<path class=\"unshared\" d=\"", page->to);
		print_steps(page, scale, KVS_MEMORY_KINDS);
		fprintf(page->to, "V%dZ\"/>\n", PROF_UNITS);
	}
	for (int k = KVS_MEMORY_KINDS - 1; k >= 0; k--) {
		if (!is_ever_held(page->report, order[k]))
			continue;
		fprintf(page->to, "<path class=\"k%d\" d=\"", order[k]);
		print_steps(page, scale, k);
		fprintf(page->to, "V%dZ\"/>\n", PROF_UNITS);
	}
	if (page->report->peak.saved) {
		fputs("<path class=\"unshared-line\" d=\"", page->to);
		print_steps(page, scale, KVS_MEMORY_KINDS);
		fputs("\"/>\n", page->to);
	}
	fputs("</svg>\n", page->to);
}

/* ---- peak and phases ---- */

static void print_peak(struct prof_page *page, const struct prof_scale *scale)
{
	const kvs_report *r = page->report;
	double x, y;

	if (!r->peak_event)
		return;
	x = 100 * prof_scale_x(scale, r->peak_ns);
	y = PROF_PLOT_TOP + PROF_PLOT_HEIGHT * (1 - r->peak.physical / scale->top);
	fprintf(page->to,
		"<line class=\"peak\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%d\" y2=\"%d\"/><circle class=\"peak\" "
		"cx=\"%.2f%%\" cy=\"%.1f\" r=\"4\"/><text class=\"peak\" x=\"%.2f%%\" dx=\"%d\" y=\"12\" "
		"text-anchor=\"%s\">peak ",
		x, x, 4, PROF_PLOT_TOP + PROF_PLOT_HEIGHT, x, y, x, x > 50 ? -6 : 6, x > 50 ? "end" : "start");
	prof_page_size(page, r->peak.physical);
	fputs("</text>\n", page->to);
}

static void print_phase(struct prof_page *page, const struct prof_scale *scale, size_t first, uint64_t end_ns)
{
	const struct prof_phase_mark *mark = &page->report->marks[first];
	double x = 100 * prof_scale_x(scale, mark->time_ns), width = 100 * prof_scale_x(scale, end_ns) - x;

	if (width < 0.1)
		return;
	fprintf(page->to,
		"<svg class=\"phase\" x=\"%.2f%%\" y=\"%d\" width=\"%.2f%%\" height=\"%d\"><rect width=\"100%%\" "
		"height=\"100%%\" class=\"p%u\"/>",
		x, PROF_PHASE_TOP, width, PROF_PHASE_HEIGHT, (mark->phase - 1) % 6);
	fputs("<text x=\"4\" y=\"14\">", page->to);
	prof_page_name(page, page->report->phases[mark->phase - 1]->name);
	fputs("</text><title>", page->to);
	prof_page_name(page, page->report->phases[mark->phase - 1]->name);
	fprintf(page->to, ", %.3f s to %.3f s</title></svg>\n", prof_page_s(page, mark->time_ns),
		prof_page_s(page, end_ns));
}

/* Marks of one name that follow each other are one band; the pause between them is too short to be seen. */
static void print_phases(struct prof_page *page, const struct prof_scale *scale)
{
	const kvs_report *r = page->report;
	unsigned next;

	for (unsigned i = 0; i < r->mark_count && prof_page_has_room(page); i = next) {
		uint64_t end = r->end_ns;
		for (next = i + 1; next < r->mark_count; next++) {
			bool pause = !r->marks[next].phase && next + 1 < r->mark_count &&
				     r->marks[next + 1].phase == r->marks[i].phase;
			if (r->marks[next].phase != r->marks[i].phase && !pause)
				break;
		}
		if (next < r->mark_count)
			end = r->marks[next].time_ns;
		if (r->marks[i].phase)
			print_phase(page, scale, i, end);
	}
}

/* ---- beside the chart ---- */

static void print_legend(struct prof_page *page)
{
	const kvs_report *r = page->report;

	fputs("<ul class=\"legend\" aria-label=\"At the peak\">\n", page->to);
	if (r->peak.saved) {
		fputs("<li><i class=\"unshared\"></i>saved by sharing <b>", page->to);
		prof_page_size(page, r->peak.saved);
		fputs("</b></li>\n", page->to);
	}
	for (int k = KVS_MEMORY_KINDS - 1; k >= 0; k--) {
		if (!is_ever_held(r, order[k]))
			continue;
		fprintf(page->to, "<li><i class=\"k%d\"></i>%s <b>", order[k], kvs_memory_kind_name(order[k]));
		prof_page_size(page, r->peak.by_kind[order[k]]);
		fputs("</b></li>\n", page->to);
	}
	fputs("</ul>\n", page->to);
}

/* What the script reads out below the pointer: seconds, physical, saved, and the kinds in the legend's order. */
static void print_points(struct prof_page *page, const struct prof_scale *scale)
{
	const struct prof_series *series = page->report->series;
	const char *before = "";

	fputs("<script type=\"application/json\" id=\"points\">{\"kinds\":[", page->to);
	for (int k = KVS_MEMORY_KINDS - 1; k >= 0; k--)
		fprintf(page->to, "\"%s\"%s", kvs_memory_kind_name(order[k]), k ? "," : "");
	fprintf(page->to, "],\"seconds\":%.9f,\"points\":[", 1e-9 * (scale->end_ns - scale->start_ns));
	for (unsigned i = 0; i < series->count; i++) {
		const struct prof_point *point = &series->points[i];
		if (!point->time_ns)
			continue;
		fprintf(page->to, "%s[%.6f,%llu,%llu", before, prof_page_s(page, point->time_ns),
			(unsigned long long)point->totals.physical, (unsigned long long)point->totals.saved);
		for (int k = KVS_MEMORY_KINDS - 1; k >= 0; k--)
			fprintf(page->to, ",%llu", (unsigned long long)point->totals.by_kind[order[k]]);
		fputs("]", page->to);
		before = ",";
	}
	fputs("]}</script>\n", page->to);
}

void prof_page_memory(struct prof_page *page)
{
	struct prof_scale scale = scale_of(page->report);

	prof_page_begin(page, "memory", "Memory over time", true);
	if (!page->report->peak_event) {
		fputs("<p class=\"note\">No device memory was seen.</p>\n", page->to);
		prof_page_end(page);
		return;
	}
	print_legend(page);
	fprintf(page->to,
		"<div class=\"plot\" id=\"plot\" tabindex=\"0\" role=\"group\" aria-label=\"Physical memory over time, "
		"by kind; "
		"arrow keys move through it\" data-top=\"%d\" data-height=\"%d\">\n<svg class=\"chart\" "
		"width=\"100%%\" "
		"height=\"%d\" role=\"img\" aria-label=\"Physical memory over time\">\n",
		PROF_PLOT_TOP, PROF_PLOT_HEIGHT, PROF_CHART_HEIGHT);
	print_areas(page, &scale);
	prof_scale_ticks(page, &scale, PROF_CHART_HEIGHT);
	print_peak(page, &scale);
	print_phases(page, &scale);
	fputs("</svg>\n</div>\n<p class=\"readout\" id=\"plot-readout\" aria-live=\"polite\">&nbsp;</p>\n", page->to);
	print_points(page, &scale);
	prof_page_end(page);
}
