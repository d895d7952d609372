/*
 * profiler/report/memory.c: memory over time, stacked by kind, below a line that says what would be held without sharing.
 *
 * Areas are painted from the tallest to the lowest, each from its height down to the ground, so that none needs the edge of
 * the one below. A value holds until the next point: memory goes in steps.
 */
#include "page.h"

#include "../../chart/chart.h"

#include <math.h>

#define UNITS 10000 /* of the plot's own box, both ways */
#define PLOT_TOP 18
#define PLOT_HEIGHT 240
#define PHASE_TOP (PLOT_TOP + PLOT_HEIGHT + 6)
#define PHASE_HEIGHT 20
#define HEIGHT (PHASE_TOP + PHASE_HEIGHT + 22)

/* From the ground up: the cache on top, beside what sharing saved of it. */
static const enum kvs_memory_kind order[KVS_MEMORY_KINDS] = {KVS_MEMORY_WEIGHTS, KVS_MEMORY_ACTIVATIONS,
	KVS_MEMORY_WORKSPACE, KVS_MEMORY_UNKNOWN, KVS_MEMORY_PROFILER, KVS_MEMORY_SINK, KVS_MEMORY_K, KVS_MEMORY_V};

struct scale {
	uint64_t start_ns, end_ns;
	struct kvs_axis bytes; /* in units of `unit` */
	double unit, top;      /* top: bytes at the upper end */
};

static double x_of(const struct scale *scale, uint64_t time_ns)
{
	double span = scale->end_ns > scale->start_ns ? scale->end_ns - scale->start_ns : 1;
	double at = ((double)time_ns - scale->start_ns) / span;

	return at < 0 ? 0 : at > 1 ? 1 : at;
}

static int y_of(const struct scale *scale, double bytes)
{
	return UNITS - (int)lround(UNITS * bytes / scale->top);
}

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

/* ---- scales ---- */

static struct scale scale_of(const kvs_report *r)
{
	struct scale scale = {r->start_ns, r->end_ns, kvs_axis_empty(false, false), 1, 1};

	for (unsigned i = 0; i < r->series->count; i++)
		if (r->series->points[i].time_ns)
			scale.top = fmax(scale.top, height_of(&r->series->points[i].totals, KVS_MEMORY_KINDS));
	while (scale.top / scale.unit >= 1024)
		scale.unit *= 1024;
	kvs_axis_widen(&scale.bytes, 0);
	kvs_axis_widen(&scale.bytes, 1.02 * scale.top / scale.unit); /* so that the top line is seen */
	kvs_axis_round(&scale.bytes);
	scale.top = scale.bytes.high * scale.unit;
	return scale;
}

static void print_y_ticks(struct prof_page *page, const struct scale *scale)
{
	char text[PROF_UNIT_TEXT];

	for (int i = 1; i <= kvs_axis_steps(&scale->bytes); i++) {
		double at = scale->bytes.low + i * scale->bytes.step;
		double y = PLOT_TOP + PLOT_HEIGHT * (1 - kvs_axis_part(&scale->bytes, at));
		fprintf(page->to,
			"<line class=\"grid\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"tick\" x=\"2\" "
			"y=\"%.1f\">%s</text>\n",
			y, y, y - 3, prof_size_text((uint64_t)fmin(at * scale->unit, 0x1p63), text));
	}
}

/* The axis ends where the trace does, and not at a round number. */
static void print_x_ticks(struct prof_page *page, const struct scale *scale)
{
	double seconds = fmax(1e-9 * (scale->end_ns - scale->start_ns), 1e-6);
	struct kvs_axis axis = kvs_axis_empty(false, false);
	char text[32];

	kvs_axis_widen(&axis, 0);
	kvs_axis_widen(&axis, seconds);
	kvs_axis_round(&axis);
	for (int i = 0; i <= kvs_axis_steps(&axis) && i * axis.step <= 0.97 * seconds; i++) {
		kvs_axis_tick(&axis, i, text, sizeof(text));
		fprintf(page->to, "<text class=\"tick\" x=\"%.2f%%\" y=\"%d\"%s>%s s</text>\n",
			100 * i * axis.step / seconds, HEIGHT - 4, i ? " text-anchor=\"middle\"" : "", text);
	}
}

/* ---- areas ---- */

/* A path in steps; a corner only where the height changes. */
static void print_steps(struct prof_page *page, const struct scale *scale, int kind)
{
	const struct prof_series *series = page->report->series;
	int last = UNITS;

	fprintf(page->to, "M0 %d", UNITS);
	for (unsigned i = 0; i < series->count; i++) {
		const struct prof_point *point = &series->points[i];
		int y = point->time_ns ? y_of(scale, height_of(&point->totals, kind)) : last;
		if (y != last)
			fprintf(page->to, "H%dV%d", (int)(UNITS * x_of(scale, point->time_ns)), y);
		last = y;
	}
	fprintf(page->to, "H%d", UNITS);
}

static bool is_ever_held(const kvs_report *r, enum kvs_memory_kind kind)
{
	for (unsigned i = 0; i < r->series->count; i++)
		if (r->series->points[i].totals.by_kind[kind])
			return true;
	return false;
}

static void print_areas(struct prof_page *page, const struct scale *scale)
{
	fprintf(page->to,
		"<svg y=\"%d\" width=\"100%%\" height=\"%d\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\">\n",
		PLOT_TOP, PLOT_HEIGHT, UNITS, UNITS);
	if (page->report->peak.saved) {
		fputs("<path class=\"unshared\" d=\"", page->to);
		print_steps(page, scale, KVS_MEMORY_KINDS);
		fprintf(page->to, "V%dZ\"/>\n", UNITS);
	}
	for (int k = KVS_MEMORY_KINDS - 1; k >= 0; k--) {
		if (!is_ever_held(page->report, order[k]))
			continue;
		fprintf(page->to, "<path class=\"k%d\" d=\"", order[k]);
		print_steps(page, scale, k);
		fprintf(page->to, "V%dZ\"/>\n", UNITS);
	}
	if (page->report->peak.saved) {
		fputs("<path class=\"unshared-line\" d=\"", page->to);
		print_steps(page, scale, KVS_MEMORY_KINDS);
		fputs("\"/>\n", page->to);
	}
	fputs("</svg>\n", page->to);
}

/* ---- peak and phases ---- */

static void print_peak(struct prof_page *page, const struct scale *scale)
{
	const kvs_report *r = page->report;
	double x, y;

	if (!r->peak_event)
		return;
	x = 100 * x_of(scale, r->peak_ns);
	y = PLOT_TOP + PLOT_HEIGHT * (1 - r->peak.physical / scale->top);
	fprintf(page->to,
		"<line class=\"peak\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%d\" y2=\"%d\"/><circle class=\"peak\" "
		"cx=\"%.2f%%\" cy=\"%.1f\" r=\"4\"/><text class=\"peak\" x=\"%.2f%%\" dx=\"%d\" y=\"12\" "
		"text-anchor=\"%s\">peak ",
		x, x, 4, PLOT_TOP + PLOT_HEIGHT, x, y, x, x > 50 ? -6 : 6, x > 50 ? "end" : "start");
	prof_page_size(page, r->peak.physical);
	fputs("</text>\n", page->to);
}

static void print_phase(struct prof_page *page, const struct scale *scale, size_t first, uint64_t end_ns)
{
	const struct prof_phase_mark *mark = &page->report->marks[first];
	double x = 100 * x_of(scale, mark->time_ns), width = 100 * x_of(scale, end_ns) - x;

	if (width < 0.1)
		return;
	fprintf(page->to,
		"<svg class=\"phase\" x=\"%.2f%%\" y=\"%d\" width=\"%.2f%%\" height=\"%d\"><rect width=\"100%%\" "
		"height=\"100%%\" class=\"p%u\"/>",
		x, PHASE_TOP, width, PHASE_HEIGHT, (mark->phase - 1) % 6);
	fputs("<text x=\"4\" y=\"14\">", page->to);
	prof_page_name(page, page->report->phases[mark->phase - 1]->name);
	fputs("</text><title>", page->to);
	prof_page_name(page, page->report->phases[mark->phase - 1]->name);
	fprintf(page->to, ", %.3f s to %.3f s</title></svg>\n", prof_page_s(page, mark->time_ns),
		prof_page_s(page, end_ns));
}

/* Marks of one name that follow each other are one band; the pause between them is too short to be seen. */
static void print_phases(struct prof_page *page, const struct scale *scale)
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
static void print_points(struct prof_page *page, const struct scale *scale)
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
	struct scale scale = scale_of(page->report);

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
		PLOT_TOP, PLOT_HEIGHT, HEIGHT);
	print_areas(page, &scale);
	print_y_ticks(page, &scale);
	print_x_ticks(page, &scale);
	print_peak(page, &scale);
	print_phases(page, &scale);
	fputs("</svg>\n</div>\n<p class=\"readout\" id=\"plot-readout\" aria-live=\"polite\">&nbsp;</p>\n", page->to);
	print_points(page, &scale);
	prof_page_end(page);
}
