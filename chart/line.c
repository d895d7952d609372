/*
 * chart/line.c: line charts as SVG.
 *
 * A chart has axes with round numbers, a grid, one line with dots for each series, and a legend beside it if there are
 * several. Colours are Okabe and Ito's, which colour-blind people can tell apart; when they repeat, the line is dashed.
 */
#include "chart.h"

#include "../driver/cu.h"

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

static double x_of(const struct kvs_axis *axis, double value)
{
	return LEFT + kvs_axis_part(axis, value) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct kvs_axis *axis, double value)
{
	return HEIGHT - BOTTOM - kvs_axis_part(axis, value) * (HEIGHT - TOP - BOTTOM);
}

static bool is_seen(const struct kvs_axis *x, const struct kvs_axis *y, double x_value, double y_value)
{
	return isfinite(kvs_axis_along(x, x_value)) && isfinite(kvs_axis_along(y, y_value));
}

static void print_text(FILE *out, double x, double y, const char *attributes, const char *text)
{
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
	kvs_chart_escape(out, text);
	fputs("</text>\n", out);
}

static void print_line(FILE *out, double x1, double y1, double x2, double y2)
{
	fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x1, y1, x2, y2);
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
static void print_log_lines(FILE *out, const struct kvs_axis *y)
{
	static const double steps[] = {1, 2, 5};
	char text[32];

	for (int power = (int)floor(y->low); power <= y->high; power++) {
		for (int i = 0; i < 3; i++) {
			double value = steps[i] * pow(10, power);
			if (kvs_axis_along(y, value) < y->low || kvs_axis_along(y, value) > y->high)
				continue;
			snprintf(text, sizeof(text), "%g", value);
			print_y_line(out, y_of(y, value), text);
		}
	}
}

static void print_grid(FILE *out, const struct kvs_axis *x, const struct kvs_axis *y)
{
	char text[32];

	for (int i = 0; i <= kvs_axis_steps(x); i++) {
		kvs_axis_tick(x, i, text, sizeof(text));
		print_x_line(out, x_of(x, x->low + i * x->step), text);
	}
	if (y->log) {
		print_log_lines(out, y);
		return;
	}
	for (int i = 0; i <= kvs_axis_steps(y); i++) {
		kvs_axis_tick(y, i, text, sizeof(text));
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
static void print_spread(FILE *out, const struct kvs_series *series, size_t i, const char *colour,
	const struct kvs_axis *x, const struct kvs_axis *y)
{
	double at;

	if (!series->low || !is_seen(x, y, series->x[i], series->low[i]) ||
		!is_seen(x, y, series->x[i], series->high[i]))
		return;
	at = x_of(x, series->x[i]);
	fprintf(out, "<path stroke=\"%s\" d=\"M%.1f %.1fV%.1fm-4 0h8M%.1f %.1fh8\"/>\n", colour, at,
		y_of(y, series->low[i]), y_of(y, series->high[i]), at - 4, y_of(y, series->low[i]));
}

static void print_points(FILE *out, const struct kvs_series *series, const char *colour, const struct kvs_axis *x,
	const struct kvs_axis *y)
{
	for (size_t i = 0; i < series->count; i++) {
		if (!is_seen(x, y, series->x[i], series->y[i]))
			continue;
		print_spread(out, series, i, colour, x, y);
		fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>", x_of(x, series->x[i]),
			y_of(y, series->y[i]), colour);
		kvs_chart_escape(out, series->name);
		fprintf(out, ": %g, %g</title></circle>\n", series->x[i], series->y[i]);
	}
}

static const char *dash_of(size_t index)
{
	return index < COLOURS ? "none" : "6 4";
}

static void print_series(
	FILE *out, const struct kvs_chart *chart, size_t index, const struct kvs_axis *x, const struct kvs_axis *y)
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
	struct kvs_axis x = kvs_axis_empty(false, chart->whole_x), y = kvs_axis_empty(chart->log_y, false);
	int width = WIDTH + (chart->series_count > 1 ? LEGEND_WIDTH : 0);

	for (size_t s = 0; s < chart->series_count; s++) {
		for (size_t i = 0; i < chart->series[s].count; i++) {
			if (!is_seen(&x, &y, chart->series[s].x[i], chart->series[s].y[i]))
				continue;
			kvs_axis_widen(&x, chart->series[s].x[i]);
			kvs_axis_widen(&y, chart->series[s].y[i]);
			if (chart->series[s].low) {
				kvs_axis_widen(&y, chart->series[s].low[i]);
				kvs_axis_widen(&y, chart->series[s].high[i]);
			}
		}
	}
	kvs_axis_round(&x);
	kvs_axis_round(&y);
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
