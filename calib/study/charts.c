/*
 * calib/study/charts.c: the results of a study as charts: the cost of each method against memory, and against the text
 * that it was searched on.
 *
 * Each chart of a study has a line for every method, in the same colour everywhere, so that charts can be compared.
 */
#include "study.h"

#include "../../chart/chart.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LOSS_LABEL "loss above the unshared model's, nats a token"

enum over { OVER_MEMORY, OVER_SAMPLES, OVER_SOURCES };
enum measure { OF_LOSS, OF_KL, OF_TOP1 };

static const struct figure {
	const char *file, *title, *x_label, *y_label;
	enum over over;
	enum measure measure;
} figures[] = {
	{"loss.svg", "What sharing costs", "KV memory, % of the unshared model's", LOSS_LABEL, OVER_MEMORY, OF_LOSS},
	{"kl.svg", "How far the distributions are apart", "KV memory, % of the unshared model's",
		"KL to the unshared model, nats a token", OVER_MEMORY, OF_KL},
	{"top1.svg", "How often the likeliest token is the same", "KV memory, % of the unshared model's",
		"top-1 agreement, %", OVER_MEMORY, OF_TOP1},
	{"samples.svg", "By the number of samples", "samples", LOSS_LABEL, OVER_SAMPLES, OF_LOSS},
	{"texts.svg", "By the text that was searched on", "text", LOSS_LABEL, OVER_SOURCES, OF_LOSS},
};

#define MOST_POINTS (KVS_STUDY_MOST_RATES > STUDY_CUTS ? KVS_STUDY_MOST_RATES : STUDY_CUTS)

/* A series for each method; those without points are not drawn, but keep their colour. */
struct lines {
	struct kvs_series series[KVS_STUDY_METHODS];
	double x[KVS_STUDY_METHODS][MOST_POINTS], y[KVS_STUDY_METHODS][MOST_POINTS],
		low[KVS_STUDY_METHODS][MOST_POINTS], high[KVS_STUDY_METHODS][MOST_POINTS];
};

static void add_line(struct lines *lines, enum kvs_study_method m, size_t points, bool spread)
{
	lines->series[m] = (struct kvs_series){.name = study_titles[m],
		.x = lines->x[m],
		.y = lines->y[m],
		.count = points,
		.low = spread ? lines->low[m] : NULL,
		.high = spread ? lines->high[m] : NULL};
}

static double value_of(const struct kvs_study *study, const struct study_mean *mean, enum measure measure)
{
	switch (measure) {
	case OF_KL:
		return mean->kl;
	case OF_TOP1:
		return 100 * mean->top1_agreement;
	default:
		return study_cost(study, mean);
	}
}

/* If the filter rejects nothing, random plans with and without it are the same: one line is enough then. */
static bool says_more(const struct kvs_study *study, enum kvs_study_method m)
{
	if (m != KVS_STUDY_THRESHOLD)
		return true;
	for (int p = 0; p < study->share_count; p++) {
		struct study_mean with = study_mean(study, KVS_STUDY_THRESHOLD, 0, p),
				  without = study_mean(study, KVS_STUDY_RANDOM, 0, p);
		if (with.count && (with.nll != without.nll || with.most != without.most))
			return true;
	}
	return false;
}

static void draw_over_memory(const struct kvs_study *study, enum measure measure, struct lines *lines)
{
	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		bool spread = false;
		if (!study_has(study, m, 0) || !says_more(study, m))
			continue;
		for (int p = 0; p < study->share_count; p++) {
			struct study_mean mean = study_mean(study, m, 0, p);
			lines->x[m][p] = 100.0 * mean.token_bytes / study_token_bytes(study, 0, false);
			lines->y[m][p] = value_of(study, &mean, measure);
			lines->low[m][p] = mean.least - study->full_nll;
			lines->high[m][p] = mean.most - study->full_nll;
			spread |= mean.count > 1;
		}
		add_line(lines, m, study->share_count, spread && measure == OF_LOSS);
	}
}

/* At the middle number of layers. */
static void draw_over_cuts(const struct kvs_study *study, bool by_source, struct lines *lines)
{
	int cuts[STUDY_CUTS], count = study_series(study, by_source, cuts);

	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		if (!study_varies(study, m) || !study_has(study, m, 0))
			continue;
		for (int i = 0; i < count; i++) {
			struct study_mean mean = study_mean(study, m, cuts[i], study->share_count / 2);
			lines->x[m][i] = by_source ? study->cuts[cuts[i]].source + 1 : study->cuts[cuts[i]].samples;
			lines->y[m][i] = study_cost(study, &mean);
		}
		add_line(lines, m, count, false);
	}
}

/* A method's plans alone and with each fit. */
static void draw_fits(const struct kvs_study *study, enum kvs_study_method m, struct lines *lines)
{
	_Static_assert((int)KVS_STUDY_FITS <= (int)KVS_STUDY_METHODS, "a line for each fit");
	for (int f = 0; f < KVS_STUDY_FITS; f++) {
		if (!study_has_fit(study, m, f, 0))
			continue;
		for (int p = 0; p < study->share_count; p++) {
			struct study_mean mean = study_mean_of(study, m, f, 0, p);
			lines->x[f][p] = 100.0 * mean.token_bytes / study_token_bytes(study, 0, false);
			lines->y[f][p] = study_cost(study, &mean);
		}
		add_line(lines, f, study->share_count, false);
		lines->series[f].name = study_fit_titles[f];
	}
}

/* Values that differ by more than a factor of 30 need a logarithmic axis, which is possible if all are above 0. */
static bool wants_log(const struct lines *lines)
{
	double least = INFINITY, most = -INFINITY;

	for (size_t s = 0; s < KVS_STUDY_METHODS; s++) {
		const struct kvs_series *series = &lines->series[s];
		for (size_t i = 0; i < series->count; i++) {
			least = fmin(least, fmin(series->y[i], series->low ? series->low[i] : INFINITY));
			most = fmax(most, series->y[i]);
		}
	}
	return least > 0 && most > 30 * least;
}

static int write_chart(struct kvs_chart *chart, const struct lines *lines, const char *dir, const char *file)
{
	char *path;
	int err;

	chart->series = lines->series;
	chart->series_count = KVS_STUDY_METHODS;
	chart->log_y = wants_log(lines);
	if (asprintf(&path, "%s/%s", dir, file) < 0)
		return kvs_fail(-ENOMEM, "no memory for a path");
	err = kvs_chart_write(chart, path);
	free(path);
	return err;
}

static int draw_compensated(const struct kvs_study *study, enum kvs_study_method m, const char *dir)
{
	struct lines lines = {0};
	struct kvs_chart chart = {.x_label = "KV memory, % of the unshared model's", .y_label = LOSS_LABEL};
	char title[96], file[64];

	snprintf(title, sizeof(title), "With refitted matrices: %s", study_titles[m]);
	snprintf(file, sizeof(file), "compensated-%s.svg", kvs_study_method_name(m));
	chart.title = title;
	draw_fits(study, m, &lines);
	return write_chart(&chart, &lines, dir, file);
}

static int draw(const struct kvs_study *study, const struct figure *figure, const char *dir)
{
	struct lines lines = {0};
	struct kvs_chart chart = {
		.x_label = figure->x_label, .y_label = figure->y_label, .whole_x = figure->over != OVER_MEMORY};
	char title[96];

	if (figure->over == OVER_MEMORY) {
		snprintf(title, sizeof(title), "%s", figure->title);
		draw_over_memory(study, figure->measure, &lines);
	} else {
		snprintf(title, sizeof(title), "%s, %d of %d layers sharing", figure->title,
			study->shares[study->share_count / 2], study->layers);
		draw_over_cuts(study, figure->over == OVER_SOURCES, &lines);
	}
	chart.title = title;
	return write_chart(&chart, &lines, dir, figure->file);
}

int study_draw(const struct kvs_study *study, const char *dir)
{
	int err = 0;

	for (size_t i = 0; i < sizeof(figures) / sizeof(*figures) && !err; i++)
		if (figures[i].over == OVER_MEMORY ||
			study_compares(study, KVS_STUDY_ALONE, figures[i].over == OVER_SOURCES))
			err = draw(study, &figures[i], dir);
	for (int m = 0; m < KVS_STUDY_METHODS && !err; m++)
		if (study_is_compensated(study, m))
			err = draw_compensated(study, m, dir);
	return err;
}
