/*
 * chart/chart.h: charts as SVG, and what charts are made of: axes with round numbers, colours, text.
 *
 * Colours are Okabe and Ito's, which colour-blind people can tell apart. chart/ stands on driver/ alone, for messages and files.
 */
#ifndef KVS_CHART_H
#define KVS_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- axes (axis.c) ---- */

/* `low` and `high` are in the axis's own measure: of a logarithmic one, powers of ten. */
struct kvs_axis {
	double low, high, step;
	bool log, whole; /* whole: steps of 1 at least */
};
/* One that nothing is on yet. */
struct kvs_axis kvs_axis_empty(bool log, bool whole);
/* Makes room for a value; what has no place on the axis (NAN, 0 on a logarithmic one) changes nothing. */
void kvs_axis_widen(struct kvs_axis *axis, double value);
/* About six steps of 1, 2 or 5 times a power of ten, from below the least value to above the largest. */
void kvs_axis_round(struct kvs_axis *axis);
/* A value in the axis's own measure; not finite where it has no place. */
double kvs_axis_along(const struct kvs_axis *axis, double value);
/* Where it lies: 0 at `low`, 1 at `high`. */
double kvs_axis_part(const struct kvs_axis *axis, double value);
int kvs_axis_steps(
	const struct kvs_axis *axis); /* after kvs_axis_round(); ticks are 0 to this one, at low + i * step */
/* The number at tick i, with as many digits as the steps need. */
void kvs_axis_tick(const struct kvs_axis *axis, int i, char *text, size_t bytes);

/* Text for SVG or HTML, in content or between quotes. */
void kvs_chart_escape(FILE *to, const char *text);

/* ---- line charts (line.c) ---- */

struct kvs_series {
	const char *name;
	const double *x, *y; /* [count]; NAN leaves a gap */
	size_t count;
	const double *low, *high; /* [count]: a spread around y; NULL: none */
};
struct kvs_chart {
	const char *title, *x_label, *y_label;
	const struct kvs_series *series;
	size_t series_count; /* at most 16; one without points is not drawn, but its colour goes to no other */
	bool log_y;          /* values that are not above 0 leave a gap then */
	bool whole_x;        /* x are whole numbers: ticks are too */
};
/* A line chart as SVG. -EINVAL, -ENOMEM, or the errors of kvs_file_write(). */
int kvs_chart_write(const struct kvs_chart *chart, const char *path);

#ifdef __cplusplus
}
#endif
#endif
