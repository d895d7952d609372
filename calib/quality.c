/*
 * calib/quality.c: a changed model compared with the unshared one on the same tokens: loss, agreement on the likeliest
 * token, and the divergence of the distributions.
 *
 * Of the unshared model the last residuals are kept, not the logits, which are much larger: the head computes them
 * again when they are needed.
 */
#include "measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* ---- the unshared model ---- */

struct kvs_reference {
	float *residual; /* [windows * window_tokens][hidden] of the unshared model */
	size_t rows;
	double nll;
};

void kvs_reference_free(kvs_reference *reference)
{
	if (!reference)
		return;
	free(reference->residual);
	free(reference);
}

static int fill_reference(kvs_engine *engine, const struct kvs_calib_text *text,
	const struct kvs_calib_progress *progress, kvs_reference *reference, float *nll)
{
	size_t hidden = kvs_engine_config(engine)->hidden;
	struct kvs_batch batch;
	double sum = 0;
	int err = kvs_engine_set_plan(engine, NULL);

	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		size_t at = (size_t)w * text->window_tokens;
		batch = calib_window_batch(engine, text, w);
		err = calib_tell(progress, "measuring", at, reference->rows);
		if (!err)
			err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_residual(engine, reference->residual + at * hidden);
		if (!err)
			err = kvs_engine_batch_score(engine, text->window_targets + at, nll + at, NULL);
	}
	for (size_t i = 0; i < reference->rows && !err; i++)
		sum += nll[i];
	reference->nll = sum / reference->rows;
	return err || isfinite(sum) ? err : calib_not_a_number("loss");
}

int kvs_reference_create(kvs_engine *engine, const struct kvs_calib_text *text,
	const struct kvs_calib_progress *progress, kvs_reference **out)
{
	kvs_reference *reference = calloc(1, sizeof(*reference));
	size_t rows = (size_t)text->windows * text->window_tokens;
	float *nll = malloc(sizeof(*nll) * rows);
	int err = 0;

	if (reference)
		reference->residual = malloc(sizeof(*reference->residual) * rows * kvs_engine_config(engine)->hidden);
	if (!reference || !nll || !reference->residual) {
		err = kvs_fail(-ENOMEM, "no memory for the hidden states of %zu tokens", rows);
	} else {
		reference->rows = rows;
		err = fill_reference(engine, text, progress, reference, nll);
	}
	free(nll);
	if (err) {
		kvs_reference_free(reference);
		return err;
	}
	*out = reference;
	return 0;
}

double kvs_reference_nll(const kvs_reference *reference)
{
	return reference->nll;
}

/* ---- comparing ---- */

struct likely {
	double log_sum;
	int top;
};

double calib_log_sum(const float *logits, int vocab)
{
	double most = -INFINITY, sum = 0;

	for (int i = 0; i < vocab; i++)
		most = logits[i] > most ? logits[i] : most;
	for (int i = 0; i < vocab; i++)
		sum += exp(logits[i] - most);
	return most + log(sum);
}

static struct likely look_at(const float *logits, int vocab)
{
	struct likely out = {.log_sum = calib_log_sum(logits, vocab)};

	for (int i = 1; i < vocab; i++)
		if (logits[i] > logits[out.top])
			out.top = i;
	return out;
}

static void compare_token(
	struct calib_comparison *c, const float *full, const float *changed, int vocab, int32_t target)
{
	struct likely a = look_at(full, vocab), b = look_at(changed, vocab);

	for (int i = 0; i < vocab; i++) {
		double log_p = full[i] - a.log_sum, log_q = changed[i] - b.log_sum;
		c->kl += exp(log_p) * (log_p - log_q);
	}
	c->agreed += a.top == b.top;
	c->nll += b.log_sum - changed[target];
}

int calib_comparison_begin(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const struct kvs_calib_progress *progress, struct calib_comparison *out)
{
	size_t size = (size_t)CALIB_COMPARED_ROWS * kvs_engine_config(engine)->vocab;

	*out = (struct calib_comparison){.engine = engine, .text = text, .reference = reference, .progress = progress};
	out->full = malloc(sizeof(*out->full) * 2 * size);
	if (!out->full)
		return kvs_fail(-ENOMEM, "no memory for logits");
	out->changed = out->full + size;
	return 0;
}

int calib_comparison_add(struct calib_comparison *c, int rows)
{
	const struct kvs_config *config = kvs_engine_config(c->engine);
	const float *residual = c->reference->residual + c->tokens * config->hidden;
	int err = kvs_engine_head(c->engine, residual, rows, c->full);

	for (int i = 0; i < rows && !err; i++)
		compare_token(c, c->full + (size_t)i * config->vocab, c->changed + (size_t)i * config->vocab,
			config->vocab, c->text->window_targets[c->tokens + i]);
	c->tokens += rows;
	return err ? err : calib_tell(c->progress, "measuring", c->tokens, c->reference->rows);
}

int calib_comparison_end(struct calib_comparison *c, int err, struct kvs_quality *out)
{
	free(c->full);
	if (!err && !isfinite(c->nll + c->kl))
		err = calib_not_a_number("loss");
	if (err)
		return err;
	*out = (struct kvs_quality){.nll = c->nll / c->tokens,
		.full_nll = c->reference->nll,
		.top1_agreement = (double)c->agreed / c->tokens,
		.kl = c->kl / c->tokens,
		.tokens = c->tokens};
	return 0;
}

/* ---- a plan ---- */

static int compare_batch(struct calib_comparison *c, const struct kvs_batch *batch)
{
	int rows = batch->sequences * batch->tokens, err = 0;

	for (int row = 0, now; row < rows && !err; row += now) {
		now = rows - row < CALIB_COMPARED_ROWS ? rows - row : CALIB_COMPARED_ROWS;
		err = kvs_engine_batch_logits(c->engine, row, now, c->changed);
		if (!err)
			err = calib_comparison_add(c, now);
	}
	return err;
}

int kvs_measure_quality(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const kvs_plan *plan, const struct kvs_calib_progress *progress, struct kvs_quality *out)
{
	struct calib_comparison comparison;
	struct kvs_batch batch;
	int err = calib_comparison_begin(engine, text, reference, progress, &comparison);

	if (!err)
		err = kvs_engine_set_plan(engine, plan);
	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		batch = calib_window_batch(engine, text, w);
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = compare_batch(&comparison, &batch);
	}
	return calib_comparison_end(&comparison, err, out);
}
