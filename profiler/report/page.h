/*
 * profiler/report/page.h: what the parts of the HTML report share. Internal to profiler/.
 *
 * The page is one file of at most 2 MB whatever the trace: each part has a budget of bytes, and says how much of its list
 * is missing. Charts are SVG without a viewBox, whose boxes are in per cent of the width and whose text is not stretched, so
 * that they can be read at any width. Figures stand in data-json="PATH" data-value="N", PATH as in the JSON report.
 */
#ifndef KVS_PROFILER_PAGE_H
#define KVS_PROFILER_PAGE_H

#include "../../chart/chart.h"
#include "../report.h"

#include <stdio.h>

#define PROF_PAGE_PART (110 << 10) /* bytes that a part may take */
#define PROF_PAGE_MAP (500 << 10)  /* the KV map */
#define PROF_PAGE_NAME 160         /* bytes of a name that are shown */

struct prof_page {
	const kvs_report *report;
	FILE *to;
	long part_start, part_bytes;
};

/* Text of a trace: control characters made visible, at most PROF_PAGE_NAME bytes, marks of HTML escaped. */
void prof_page_name(struct prof_page *page, const char *text);
void prof_page_size(struct prof_page *page, uint64_t bytes);
void prof_page_time(struct prof_page *page, uint64_t ns);
void prof_page_count(struct prof_page *page, uint64_t count); /* 12 345 */
/* A cell of a table: what is shown comes from `show`, and what it is sorted by is the number. */
void prof_page_cell(struct prof_page *page, uint64_t number, void (*show)(struct prof_page *, uint64_t));

/* Around each part: a <section> with a heading. `wide`: over the whole width of the page. */
void prof_page_begin(struct prof_page *page, const char *id, const char *title, bool wide);
void prof_page_end(struct prof_page *page);
/* Whether a list of this part may have one more item. */
bool prof_page_has_room(const struct prof_page *page);
/* Below a list: "12 more, 3.0 MiB in all, are not shown"; nothing where count is 0. bytes 0: not said. */
void prof_page_rest(struct prof_page *page, size_t count, uint64_t bytes);

/* Seconds since the start of the trace. */
double prof_page_s(const struct prof_page *page, uint64_t time_ns);

/* ---- charts of memory over time (scale.c) ---- */

#define PROF_UNITS 10000 /* of the plot's own box, both ways */
#define PROF_PLOT_TOP 18
#define PROF_PLOT_HEIGHT 240
#define PROF_PHASE_TOP (PROF_PLOT_TOP + PROF_PLOT_HEIGHT + 6)
#define PROF_PHASE_HEIGHT 20
#define PROF_CHART_HEIGHT (PROF_PHASE_TOP + PROF_PHASE_HEIGHT + 22)

struct prof_scale {
	uint64_t start_ns, end_ns;
	struct kvs_axis bytes; /* in units of `unit` */
	double unit, top;      /* top: bytes at the upper end */
};
struct prof_scale prof_scale_make(uint64_t start_ns, uint64_t end_ns, double most_bytes);
double prof_scale_x(const struct prof_scale *scale, uint64_t time_ns); /* 0 to 1 */
int prof_scale_y(const struct prof_scale *scale, double bytes);        /* in PROF_UNITS, downwards */
void prof_scale_ticks(struct prof_page *page, const struct prof_scale *scale, int bottom); /* bottom: of the chart */

/* ---- a page ---- */

/* Up to <body>; `title` is a name of ours, and `path` of a trace. */
void prof_page_head(struct prof_page *page, const char *title, const char *path);
/* The script, and the end of the page. */
void prof_page_foot(struct prof_page *page);

/* The parts; 0 or -ENOMEM. */
void prof_page_cards(struct prof_page *page);
void prof_page_caveats(struct prof_page *page);
void prof_page_health(struct prof_page *page); /* an item of a list: whether the trace is whole */
void prof_page_memory(struct prof_page *page);
int prof_page_kv_map(struct prof_page *page, const char *id, const char *title);
void prof_page_at_peak(struct prof_page *page);
void prof_page_leaks(struct prof_page *page);
void prof_page_findings(struct prof_page *page);
void prof_page_processes(struct prof_page *page);
int prof_page_stacks(struct prof_page *page);
int prof_page_kernels(struct prof_page *page);
int prof_page_calls(struct prof_page *page);
void prof_page_phases(struct prof_page *page);

#endif
