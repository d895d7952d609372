/*
 * calib/compensate/compensate.c: refits the output projection of layers that borrow K and V.
 *
 * A borrower's attention yields other values than its own K and V would; W_o was trained for those. Ridge regression finds
 * the W_o that takes the residual from where it is, with all sharing and refits of the layers below, to where the original
 * model has it behind this layer's attention. So each layer also makes up for a part of the damage below it.
 *
 * Two passes for a layer, one of the original model and one of the compensated one, both only up to that layer, in the
 * batches of the samples. The original's targets are taken first, for all borrowers: [borrower][token][hidden] floats on
 * the host. Sums are float64 and in the order of the tokens, so the result does not depend on the size of a batch
 * but for the engine's own rounding.
 */
#include "../measure.h"
#include "lapack.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_TOKENS_PER_COLUMN 2 /* with fewer, the fit follows the sample and not the text */
#define SUM_ROWS 64               /* that are made float64 at a time */

struct fit {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	const kvs_plan *plan;
	const struct kvs_calib_progress *progress;
	struct calib_lapack *lapack;
	int hidden, heads_dim; /* heads * head_dim */
	size_t tokens;
	float *targets;                   /* [borrower][token][hidden]: the original's residual behind the attention */
	float *before, *after, *attended; /* [token][hidden] twice, [token][heads_dim] */
	double *ff, *ft;                  /* F'F [heads_dim][heads_dim], F'T [heads_dim][hidden] */
	double *rows_f, *rows_t;          /* [SUM_ROWS][heads_dim], [SUM_ROWS][hidden] */
	size_t done, total;
};

static bool borrows(const kvs_plan *plan, int layer)
{
	return kvs_plan_owner(plan, layer, KVS_K) != layer || kvs_plan_owner(plan, layer, KVS_V) != layer;
}

/* ---- passes ---- */

static struct kvs_batch batch_at(const struct fit *fit, int sample)
{
	int together = kvs_engine_batch_rows(fit->engine) / fit->text->sample_tokens,
	    left = fit->text->samples - sample;

	return (struct kvs_batch){.ids = fit->text->ids + (size_t)sample * fit->text->sample_tokens,
		.sequences = left < together ? left : together,
		.tokens = fit->text->sample_tokens};
}

/* All samples up to the attention of `layer`; each of the outputs may be NULL. */
static int run_to(struct fit *fit, int layer, float *before, float *attended, float *after)
{
	struct kvs_batch batch;
	int err = 0;

	for (int s = 0; s < fit->text->samples && !err; s += batch.sequences) {
		size_t row = (size_t)s * fit->text->sample_tokens;
		struct kvs_tap tap = {.before = before ? before + row * fit->hidden : NULL,
			.attended = attended ? attended + row * fit->heads_dim : NULL,
			.after = after ? after + row * fit->hidden : NULL};
		batch = batch_at(fit, s);
		err = calib_tell(fit->progress, "compensating", fit->done, fit->total);
		if (!err)
			err = kvs_engine_tap(fit->engine, &batch, layer, &tap);
		fit->done += batch.sequences;
	}
	return err;
}

static int take_targets(struct fit *fit, const struct kvs_compensation *out)
{
	int err = kvs_engine_set_plan(fit->engine, NULL);

	for (size_t i = 0; i < out->count && !err; i++)
		err = run_to(fit, out->refits[i].layer, NULL, NULL, fit->targets + i * fit->tokens * fit->hidden);
	return err ? err : kvs_engine_set_plan(fit->engine, fit->plan);
}

/* ---- one layer ---- */

/* F'F and F'T, with T = target - before. */
static void sum_products(struct fit *fit, const float *target)
{
	memset(fit->ff, 0, sizeof(*fit->ff) * fit->heads_dim * fit->heads_dim);
	memset(fit->ft, 0, sizeof(*fit->ft) * fit->heads_dim * fit->hidden);
	for (size_t first = 0; first < fit->tokens; first += SUM_ROWS) {
		int rows = fit->tokens - first < SUM_ROWS ? (int)(fit->tokens - first) : SUM_ROWS;
		const float *f = fit->attended + first * fit->heads_dim;
		for (size_t i = 0; i < (size_t)rows * fit->heads_dim; i++)
			fit->rows_f[i] = f[i];
		for (size_t i = 0; i < (size_t)rows * fit->hidden; i++)
			fit->rows_t[i] = (double)target[first * fit->hidden + i] - fit->before[first * fit->hidden + i];
		calib_lapack_add_products(
			fit->lapack, fit->rows_f, fit->heads_dim, fit->rows_f, fit->heads_dim, rows, fit->ff);
		calib_lapack_add_products(
			fit->lapack, fit->rows_f, fit->heads_dim, fit->rows_t, fit->hidden, rows, fit->ft);
	}
}

/* W_o = (solution of the normal equations)'. */
static int solve(struct fit *fit, double ridge, float *values)
{
	int err = calib_lapack_solve_ridge(fit->lapack, fit->ff, fit->heads_dim, fit->ft, fit->hidden, ridge);

	for (int r = 0; r < fit->hidden && !err; r++)
		for (int c = 0; c < fit->heads_dim; c++)
			values[(size_t)r * fit->heads_dim + c] = (float)fit->ft[(size_t)c * fit->hidden + r];
	return err;
}

static double mean_square(const float *a, const float *b, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
	return sum / count;
}

static int refit_layer(struct fit *fit, const float *target, double ridge, struct kvs_refit *refit)
{
	size_t count = fit->tokens * fit->hidden;
	int err = run_to(fit, refit->layer, fit->before, fit->attended, fit->after);

	if (err)
		return err;
	refit->before = mean_square(target, fit->after, count);
	if (!isfinite(refit->before))
		return calib_not_a_number("residual");
	sum_products(fit, target);
	err = solve(fit, ridge, refit->values);
	if (!err)
		err = kvs_engine_set_matrix(fit->engine, refit->name, refit->rows, refit->cols, refit->values);
	if (!err)
		err = run_to(fit, refit->layer, NULL, NULL, fit->after);
	if (!err)
		refit->after = mean_square(target, fit->after, count);
	return err;
}

/* ---- set up ---- */

static int check(const struct fit *fit, double ridge)
{
	const struct kvs_config *config = kvs_engine_config(fit->engine);
	size_t least = (size_t)LEAST_TOKENS_PER_COLUMN * fit->heads_dim;

	if (config->o_bias)
		return kvs_fail(-EINVAL, "compensation refits W_o, and here o_proj has a bias too: not supported yet");
	if (!(ridge > 0) || !isfinite(ridge))
		return kvs_fail(-EINVAL, "a ridge of %g: it must be above 0", ridge);
	if (!fit->text->held_back)
		return kvs_fail(-EINVAL,
			"compensation is checked on text after the samples, and there is none: give more "
			"text or fewer --samples");
	if (fit->tokens < least)
		return kvs_fail(-EINVAL,
			"compensation fits matrices of %d columns, which takes %zu tokens or more, and the samples "
			"have "
			"%zu: raise --samples or --sample-tokens",
			fit->heads_dim, least, fit->tokens);
	return 0;
}

static int list_borrowers(struct fit *fit, struct kvs_compensation *out)
{
	int layers = kvs_plan_layers(fit->plan);

	out->refits = calloc(layers, sizeof(*out->refits));
	if (!out->refits)
		return kvs_fail(-ENOMEM, "no memory for the refits of %d layers", layers);
	for (int l = 0; l < layers; l++) {
		struct kvs_refit *refit = &out->refits[out->count];
		if (!borrows(fit->plan, l))
			continue;
		*refit = (struct kvs_refit){.layer = l, .rows = fit->hidden, .cols = fit->heads_dim};
		snprintf(refit->name, sizeof(refit->name), "model.layers.%d.self_attn.o_proj.weight", l);
		refit->values = malloc(sizeof(*refit->values) * fit->hidden * fit->heads_dim);
		if (!refit->values)
			return kvs_fail(-ENOMEM, "no memory for %s", refit->name);
		out->count++;
	}
	fit->total = 3 * out->count * fit->text->samples;
	return 0;
}

static int allocate(struct fit *fit, size_t borrowers)
{
	size_t n = fit->tokens, hidden = fit->hidden, heads_dim = fit->heads_dim;

	fit->targets = malloc(sizeof(float) * (borrowers * n * hidden + 1));
	fit->before = malloc(sizeof(float) * n * hidden);
	fit->after = malloc(sizeof(float) * n * hidden);
	fit->attended = malloc(sizeof(float) * n * heads_dim);
	fit->ff = malloc(sizeof(double) * heads_dim * heads_dim);
	fit->ft = malloc(sizeof(double) * heads_dim * hidden);
	fit->rows_f = malloc(sizeof(double) * SUM_ROWS * heads_dim);
	fit->rows_t = malloc(sizeof(double) * SUM_ROWS * hidden);
	if (!fit->targets || !fit->before || !fit->after || !fit->attended || !fit->ff || !fit->ft || !fit->rows_f ||
		!fit->rows_t)
		return kvs_fail(-ENOMEM, "no memory for the sums of %zu tokens in %zu layers", n, borrowers);
	return 0;
}

static void clear(struct fit *fit)
{
	calib_lapack_close(fit->lapack);
	free(fit->targets);
	free(fit->before);
	free(fit->after);
	free(fit->attended);
	free(fit->ff);
	free(fit->ft);
	free(fit->rows_f);
	free(fit->rows_t);
}

static int set_up(struct fit *fit, double ridge, struct kvs_compensation *out)
{
	const struct kvs_config *config = kvs_engine_config(fit->engine);
	int err;

	fit->hidden = config->hidden;
	fit->heads_dim = config->heads * config->head_dim;
	fit->tokens = (size_t)fit->text->samples * fit->text->sample_tokens;
	err = check(fit, ridge);
	if (!err)
		err = calib_lapack_open(&fit->lapack);
	if (!err)
		err = list_borrowers(fit, out);
	return err ? err : allocate(fit, out->count);
}

int kvs_compensate(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_plan *plan, double ridge,
	const struct kvs_calib_progress *progress, struct kvs_compensation *out)
{
	struct fit fit = {.engine = engine, .text = text, .plan = plan, .progress = progress};
	int err;

	*out = (struct kvs_compensation){.ridge = ridge};
	err = set_up(&fit, ridge, out);
	if (!err)
		err = kvs_measure_nll(engine, text, plan, NULL, &out->plain_nll);
	if (!err)
		err = take_targets(&fit, out);
	for (size_t i = 0; i < out->count && !err; i++)
		err = refit_layer(&fit, fit.targets + i * fit.tokens * fit.hidden, ridge, &out->refits[i]);
	if (!err)
		err = kvs_measure_nll(engine, text, plan, NULL, &out->nll);
	out->tokens = (int)fit.tokens;
	out->applied = !err && out->count && out->nll < out->plain_nll;
	clear(&fit);
	if (err)
		kvs_compensation_clear(out);
	return err;
}

void kvs_compensation_clear(struct kvs_compensation *compensation)
{
	for (size_t i = 0; i < compensation->count; i++)
		free(compensation->refits[i].values);
	free(compensation->refits);
	*compensation = (struct kvs_compensation){0};
}
