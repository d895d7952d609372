/*
 * calib/study_charts.c: what a study found, as pictures: what each method costs over memory, and over what it was searched on.
 */
#include "study.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LOSS_LABEL "loss above the unshared model's, nats a token"

enum over { OVER_MEMORY, OVER_SAMPLES, OVER_PARTS };
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
	{"parts.svg", "By the place in the calibration text", "part of the text", LOSS_LABEL, OVER_PARTS, OF_LOSS},
};

/* Points of up to KVS_STUDY_METHODS lines. */
struct lines {
	struct kvs_series series[KVS_STUDY_METHODS];
	double x[KVS_STUDY_METHODS][KVS_STUDY_MOST_RATES], y[KVS_STUDY_METHODS][KVS_STUDY_MOST_RATES],
		low[KVS_STUDY_METHODS][KVS_STUDY_MOST_RATES], high[KVS_STUDY_METHODS][KVS_STUDY_MOST_RATES];
	size_t count;
};

static void add_line(struct lines *lines, enum kvs_study_method method, size_t points, bool spread)
{
	size_t i = lines->count++;

	lines->series[i] = (struct kvs_series){kvs_study_titles[method], lines->x[i], lines->y[i], points,
		spread ? lines->low[i] : NULL, spread ? lines->high[i] : NULL};
}

static double value_of(const struct kvs_study *study, const struct kvs_study_mean *mean, enum measure measure)
{
	switch (measure) {
	case OF_KL:
		return mean->kl;
	case OF_TOP1:
		return 100 * mean->top1_agreement;
	default:
		return kvs_study_cost(study, mean);
	}
}

static void draw_over_memory(const struct kvs_study *study, enum measure measure, struct lines *lines)
{
	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		size_t at = lines->count;
		bool spread = false;
		if (!kvs_study_has(study, m, 0))
			continue;
		for (int p = 0; p < study->share_count; p++) {
			struct kvs_study_mean mean = kvs_study_mean(study, m, 0, p);
			lines->x[at][p] = 100.0 * mean.token_bytes / kvs_study_token_bytes(study, 0, false);
			lines->y[at][p] = value_of(study, &mean, measure);
			lines->low[at][p] = mean.least - study->full_nll;
			lines->high[at][p] = mean.most - study->full_nll;
			spread |= mean.count > 1;
		}
		add_line(lines, m, study->share_count, spread && measure == OF_LOSS);
	}
}

/* At the middle number of layers. */
static void draw_over_texts(const struct kvs_study *study, bool by_part, struct lines *lines)
{
	static const int by_samples[] = {1, 0, 2}, by_place[] = {0, 3, 4}; /* texts, ascending */

	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		size_t at = lines->count;
		if (!kvs_study_varies(m, by_part) || !kvs_study_has(study, m, 0))
			continue;
		for (int i = 0; i < 3; i++) {
			int text = by_part ? by_place[i] : by_samples[i];
			struct kvs_study_mean mean = kvs_study_mean(study, m, text, study->share_count / 2);
			lines->x[at][i] = by_part ? i + 1 : study->texts[text].samples;
			lines->y[at][i] = kvs_study_cost(study, &mean);
		}
		add_line(lines, m, 3, false);
	}
}

/* What differs by more than a factor of 30 is told apart only on a logarithmic axis, which takes it all above 0. */
static bool wants_log(const struct lines *lines)
{
	double least = INFINITY, most = -INFINITY;

	for (size_t s = 0; s < lines->count; s++) {
		for (size_t i = 0; i < lines->series[s].count; i++) {
			least = fmin(least, lines->y[s][i]);
			most = fmax(most, lines->y[s][i]);
		}
	}
	return least > 0 && most > 30 * least;
}

static int draw(const struct kvs_study *study, const struct figure *figure, const char *dir)
{
	struct lines lines = {.count = 0};
	struct kvs_chart chart = {.x_label = figure->x_label, .y_label = figure->y_label, .series = lines.series};
	char title[96], *path;
	int err;

	if (figure->over == OVER_MEMORY) {
		snprintf(title, sizeof(title), "%s", figure->title);
		draw_over_memory(study, figure->measure, &lines);
	} else {
		snprintf(title, sizeof(title), "%s, %d of %d layers sharing", figure->title,
			study->shares[study->share_count / 2], study->layers);
		draw_over_texts(study, figure->over == OVER_PARTS, &lines);
	}
	chart.title = title;
	chart.series_count = lines.count;
	chart.log_y = wants_log(&lines);
	if (asprintf(&path, "%s/%s", dir, figure->file) < 0)
		return kvs_fail(-ENOMEM, "no memory for a path");
	err = kvs_chart_write(&chart, path);
	free(path);
	return err;
}

int kvs_study_draw(const struct kvs_study *study, const char *dir)
{
	int err = 0;

	for (size_t i = 0; i < sizeof(figures) / sizeof(*figures) && !err; i++)
		err = draw(study, &figures[i], dir);
	return err;
}
