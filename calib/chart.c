/*
 * calib/chart.c: line charts as SVG.
 *
 * A chart has axes with round numbers, a grid, one line with dots for each series, and a legend beside it if there are
 * several. Colours are Okabe and Ito's, which colour-blind people can tell apart; when they repeat, the line is dashed.
 */
#include "calib.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 720
#define HEIGHT 440
#define LEFT 80
#define RIGHT 24
#define TOP 44
#define BOTTOM 56
#define LEGEND_WIDTH 250
#define COLOURS 8
#define MOST_SERIES (2 * COLOURS)

static const char *const colours[COLOURS] = {
	"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"};

/* `low` and `high` are in the axis's own measure: logarithms to base 10 with `log`. */
struct axis {
	double low, high, step;
	bool log, whole; /* whole: steps of 1 at least */
};

static double along(const struct axis *axis, double value)
{
	return axis->log ? log10(value) : value;
}

static void widen(struct axis *axis, double value)
{
	double at = along(axis, value);

	if (!isfinite(at))
		return;
	axis->low = fmin(axis->low, at);
	axis->high = fmax(axis->high, at);
}

/* At most six steps or so of 1, 2 or 5 times a power of ten, from below the least value to above the largest. */
static void round_axis(struct axis *axis)
{
	double span, power;

	if (axis->low > axis->high)
		axis->low = axis->high = 0;
	if (axis->log) {
		double margin = 0.05 * fmax(axis->high - axis->low, 1);
		axis->low -= margin;
		axis->high += margin;
		return;
	}
	if (axis->low == axis->high) {
		double around = axis->low ? fabs(axis->low) / 2 : 1;
		axis->low -= around;
		axis->high += around;
	}
	span = (axis->high - axis->low) / 6;
	power = pow(10, floor(log10(span)));
	if (axis->whole && power < 1)
		span = power = 1;
	axis->step = power * (span / power <= 1 ? 1 : span / power <= 2 ? 2 : span / power <= 5 ? 5 : 10);
	axis->low = floor(axis->low / axis->step + 1e-9) * axis->step;
	axis->high = ceil(axis->high / axis->step - 1e-9) * axis->step;
}

static double x_of(const struct axis *axis, double value)
{
	return LEFT + (along(axis, value) - axis->low) / (axis->high - axis->low) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axis *axis, double value)
{
	return HEIGHT - BOTTOM - (along(axis, value) - axis->low) / (axis->high - axis->low) * (HEIGHT - TOP - BOTTOM);
}

static bool is_seen(const struct axis *x, const struct axis *y, double x_value, double y_value)
{
	return isfinite(along(x, x_value)) && isfinite(along(y, y_value));
}

static void print_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '<' || *text == '>' || *text == '&')
			fputs(*text == '<' ? "&lt;" : *text == '>' ? "&gt;" : "&amp;", out);
		else
			fputc(*text, out);
	}
}

static void print_text(FILE *out, double x, double y, const char *attributes, const char *text)
{
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
	print_escaped(out, text);
	fputs("</text>\n", out);
}

static void print_line(FILE *out, double x1, double y1, double x2, double y2)
{
	fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x1, y1, x2, y2);
}

static int steps_of(const struct axis *axis)
{
	return (int)lround((axis->high - axis->low) / axis->step);
}

/* The rounding of `low + i * step` must not show as 0.30000000000000004 or -0. */
static void format_tick(const struct axis *axis, int i, char *text, size_t size)
{
	int digits = (int)fmax(0, -floor(log10(axis->step) + 1e-9));
	double value = axis->low + i * axis->step;

	snprintf(text, size, "%.*f", digits, fabs(value) < axis->step / 2 ? 0.0 : value);
}

static void print_x_line(FILE *out, double at, const char *text)
{
	print_line(out, at, TOP, at, HEIGHT - BOTTOM);
	print_text(out, at, HEIGHT - BOTTOM + 18, "text-anchor=\"middle\"", text);
}

static void print_y_line(FILE *out, double at, const char *text)
{
	print_line(out, LEFT, at, WIDTH - RIGHT, at);
	print_text(out, LEFT - 8, at + 4, "text-anchor=\"end\"", text);
}

/* 1, 2 and 5 times the powers of ten. */
static void print_log_lines(FILE *out, const struct axis *y)
{
	static const double steps[] = {1, 2, 5};
	char text[32];

	for (int power = (int)floor(y->low); power <= y->high; power++) {
		for (int i = 0; i < 3; i++) {
			double value = steps[i] * pow(10, power);
			if (along(y, value) < y->low || along(y, value) > y->high)
				continue;
			snprintf(text, sizeof(text), "%g", value);
			print_y_line(out, y_of(y, value), text);
		}
	}
}

static void print_grid(FILE *out, const struct axis *x, const struct axis *y)
{
	char text[32];

	for (int i = 0; i <= steps_of(x); i++) {
		format_tick(x, i, text, sizeof(text));
		print_x_line(out, x_of(x, x->low + i * x->step), text);
	}
	if (y->log) {
		print_log_lines(out, y);
		return;
	}
	for (int i = 0; i <= steps_of(y); i++) {
		format_tick(y, i, text, sizeof(text));
		print_y_line(out, y_of(y, y->low + i * y->step), text);
	}
}

static void print_labels(FILE *out, const struct kvs_chart *chart)
{
	char turned[96];
	double middle = (TOP + HEIGHT - BOTTOM) / 2.0;

	print_text(out, LEFT, 26, "font-size=\"16\" font-weight=\"bold\"", chart->title);
	print_text(out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14, "text-anchor=\"middle\"", chart->x_label);
	snprintf(turned, sizeof(turned), "text-anchor=\"middle\" transform=\"rotate(-90 18 %.1f)\"", middle);
	print_text(out, 18, middle, turned, chart->y_label);
}

/* A bar from the lowest to the highest value, if they are known. */
static void print_spread(FILE *out, const struct kvs_series *series, size_t i, const char *colour, const struct axis *x,
	const struct axis *y)
{
	double at;

	if (!series->low || !is_seen(x, y, series->x[i], series->low[i]) ||
		!is_seen(x, y, series->x[i], series->high[i]))
		return;
	at = x_of(x, series->x[i]);
	fprintf(out, "<path stroke=\"%s\" d=\"M%.1f %.1fV%.1fm-4 0h8M%.1f %.1fh8\"/>\n", colour, at,
		y_of(y, series->low[i]), y_of(y, series->high[i]), at - 4, y_of(y, series->low[i]));
}

static void print_points(
	FILE *out, const struct kvs_series *series, const char *colour, const struct axis *x, const struct axis *y)
{
	for (size_t i = 0; i < series->count; i++) {
		if (!is_seen(x, y, series->x[i], series->y[i]))
			continue;
		print_spread(out, series, i, colour, x, y);
		fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>", x_of(x, series->x[i]),
			y_of(y, series->y[i]), colour);
		print_escaped(out, series->name);
		fprintf(out, ": %g, %g</title></circle>\n", series->x[i], series->y[i]);
	}
}

static const char *dash_of(size_t index)
{
	return index < COLOURS ? "none" : "6 4";
}

static void print_series(
	FILE *out, const struct kvs_chart *chart, size_t index, const struct axis *x, const struct axis *y)
{
	const struct kvs_series *series = &chart->series[index];
	const char *colour = colours[index % COLOURS];
	bool pen_down = false;

	fprintf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\" d=\"", colour,
		dash_of(index));
	for (size_t i = 0; i < series->count; i++) {
		bool there = is_seen(x, y, series->x[i], series->y[i]);
		if (there)
			fprintf(out, "%c%.1f %.1f", pen_down ? 'L' : 'M', x_of(x, series->x[i]), y_of(y, series->y[i]));
		pen_down = there;
	}
	fputs("\"/>\n", out);
	print_points(out, series, colour, x, y);
}

static bool has_points(const struct kvs_series *series)
{
	for (size_t i = 0; i < series->count; i++)
		if (isfinite(series->x[i]) && isfinite(series->y[i]))
			return true;
	return false;
}

static void print_legend(FILE *out, const struct kvs_chart *chart)
{
	double y = TOP + 10;

	for (size_t i = 0; i < chart->series_count; i++) {
		if (!has_points(&chart->series[i]))
			continue;
		fprintf(out, "<path stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\" d=\"M%d %.1fh24\"/>\n",
			colours[i % COLOURS], dash_of(i), WIDTH, y);
		print_text(out, WIDTH + 32, y + 4, "text-anchor=\"start\"", chart->series[i].name);
		y += 20;
	}
}

static void print_chart(FILE *out, const struct kvs_chart *chart)
{
	struct axis x = {INFINITY, -INFINITY, 1, false, chart->whole_x},
		    y = {INFINITY, -INFINITY, 1, chart->log_y, false};
	int width = WIDTH + (chart->series_count > 1 ? LEGEND_WIDTH : 0);

	for (size_t s = 0; s < chart->series_count; s++) {
		for (size_t i = 0; i < chart->series[s].count; i++) {
			if (!is_seen(&x, &y, chart->series[s].x[i], chart->series[s].y[i]))
				continue;
			widen(&x, chart->series[s].x[i]);
			widen(&y, chart->series[s].y[i]);
			if (chart->series[s].low) {
				widen(&y, chart->series[s].low[i]);
				widen(&y, chart->series[s].high[i]);
			}
		}
	}
	round_axis(&x);
	round_axis(&y);
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
		"fill=\"#fff\"/>\n",
		width, HEIGHT, width, HEIGHT);
	print_grid(out, &x, &y);
	print_labels(out, chart);
	for (size_t s = 0; s < chart->series_count; s++)
		if (has_points(&chart->series[s]))
			print_series(out, chart, s, &x, &y);
	if (chart->series_count > 1)
		print_legend(out, chart);
	fputs("</svg>\n", out);
}

int kvs_chart_write(const struct kvs_chart *chart, const char *path)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out;
	int err;

	if (chart->series_count > MOST_SERIES)
		return kvs_fail(-EINVAL, "a chart of %zu lines; the limit is %d", chart->series_count, MOST_SERIES);
	out = open_memstream(&text, &bytes);
	if (!out)
		return kvs_fail(-ENOMEM, "no memory for a chart");
	print_chart(out, chart);
	err = fclose(out) ? kvs_fail(-ENOMEM, "no memory for a chart") : kvs_file_write(path, text, bytes);
	free(text);
	return err;
}
