/*
 * calib/measure.c: how far a plan takes the model from what it was: cosine of hidden states on the samples; loss, top-1
 * agreement and KL on the windows.
 */
#include "calib.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOGIT_ROWS 64

static int not_a_number(const char *what)
{
	return kvs_fail(-EIO, "the %s is not a number: the model's weights may be damaged", what);
}

static int sequences_at(const kvs_engine *engine, int first, int count, int tokens)
{
	int together = kvs_engine_batch_rows(engine) / tokens;

	return count - first < together ? count - first : together;
}

/* ---- cosine ---- */

struct dots {
	double ab, aa, bb;
};

static void add_dots(struct dots *dots, double a, double b)
{
	dots->ab += a * b;
	dots->aa += a * a;
	dots->bb += b * b;
}

static double cosine_of(const struct dots *dots)
{
	return dots->ab / sqrt(dots->aa * dots->bb);
}

/* What a cosine needs of the samples so far: the sum of each sample's, or the sums of the states themselves. */
struct similarity {
	double cosines;
	double *full, *shared; /* [token][hidden], for KVS_COSINE_PAPER */
	size_t size;
};

static void add_sample(struct similarity *sum, const float *full, const float *shared)
{
	struct dots dots = {0};

	for (size_t i = 0; i < sum->size; i++) {
		if (sum->full) {
			sum->full[i] += full[i];
			sum->shared[i] += shared[i];
		} else {
			add_dots(&dots, full[i], shared[i]);
		}
	}
	if (!sum->full)
		sum->cosines += cosine_of(&dots);
}

static double finish(const struct similarity *sum, int samples)
{
	struct dots dots = {0};

	if (!sum->full)
		return sum->cosines / samples;
	for (size_t i = 0; i < sum->size; i++)
		add_dots(&dots, sum->full[i], sum->shared[i]);
	return cosine_of(&dots);
}

static int compare_samples(kvs_engine *engine, const struct kvs_calib_text *text, const struct kvs_capture *capture,
	float *hidden, struct similarity *sum)
{
	struct kvs_batch batch = {.tokens = text->sample_tokens};
	int err = 0;

	for (int s = 0; s < text->samples && !err; s += batch.sequences) {
		batch.sequences = sequences_at(engine, s, text->samples, text->sample_tokens);
		batch.ids = text->ids + (size_t)s * text->sample_tokens;
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_hidden(engine, hidden);
		for (int i = 0; i < batch.sequences && !err; i++)
			add_sample(sum, capture->hidden + (s + i) * sum->size, hidden + i * sum->size);
	}
	return err;
}

int kvs_measure_cosine(kvs_engine *engine, const struct kvs_calib_text *text, const struct kvs_capture *capture,
	const kvs_plan *plan, enum kvs_cosine kind, double *cosine)
{
	struct similarity sum = {.size = (size_t)capture->tokens * capture->hidden_size};
	int rows = sequences_at(engine, 0, text->samples, text->sample_tokens) * text->sample_tokens;
	float *hidden = malloc(sizeof(*hidden) * rows * capture->hidden_size);
	double *means = kind == KVS_COSINE_PAPER ? calloc(2 * sum.size, sizeof(*means)) : NULL;
	int err = 0;

	if (!hidden || (kind == KVS_COSINE_PAPER && !means))
		err = kvs_fail(-ENOMEM, "no memory for hidden states");
	if (means) {
		sum.full = means;
		sum.shared = means + sum.size;
	}
	if (!err)
		err = kvs_engine_set_plan(engine, plan);
	if (!err)
		err = compare_samples(engine, text, capture, hidden, &sum);
	if (!err)
		*cosine = finish(&sum, text->samples);
	if (!err && !isfinite(*cosine))
		err = not_a_number("cosine of the hidden states");
	free(hidden);
	free(means);
	return err;
}

/* ---- loss ---- */

/* Windows `first` and on as a batch of as many as go through together. */
static struct kvs_batch window_batch(const kvs_engine *engine, const struct kvs_calib_text *text, int first)
{
	return (struct kvs_batch){.ids = text->window_ids + (size_t)first * text->window_tokens,
		.sequences = sequences_at(engine, first, text->windows, text->window_tokens),
		.tokens = text->window_tokens};
}

int kvs_measure_nll(
	kvs_engine *engine, const struct kvs_calib_text *text, const kvs_plan *plan, float *nll_of, double *nll)
{
	size_t count = (size_t)text->windows * text->window_tokens;
	float *losses = nll_of ? nll_of : malloc(sizeof(*losses) * count);
	struct kvs_batch batch;
	double sum = 0;
	int err = losses ? 0 : kvs_fail(-ENOMEM, "no memory for %zu losses", count);

	if (!err)
		err = kvs_engine_set_plan(engine, plan);
	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		size_t at = (size_t)w * text->window_tokens;
		batch = window_batch(engine, text, w);
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_score(engine, text->window_targets + at, losses + at, NULL);
	}
	for (size_t i = 0; i < count && !err; i++)
		sum += losses[i];
	if (!nll_of)
		free(losses);
	if (!err && !isfinite(sum))
		err = not_a_number("loss");
	*nll = sum / count;
	return err;
}

/* ---- quality against the unshared model ---- */

struct kvs_reference {
	float *residual; /* [windows * window_tokens][hidden] of the unshared model, from which its logits come again */
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

static int fill_reference(kvs_engine *engine, const struct kvs_calib_text *text, kvs_reference *reference, float *nll)
{
	size_t hidden = kvs_engine_config(engine)->hidden;
	struct kvs_batch batch;
	double sum = 0;
	int err = kvs_engine_set_plan(engine, NULL);

	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		size_t at = (size_t)w * text->window_tokens;
		batch = window_batch(engine, text, w);
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_residual(engine, reference->residual + at * hidden);
		if (!err)
			err = kvs_engine_batch_score(engine, text->window_targets + at, nll + at, NULL);
	}
	for (size_t i = 0; i < reference->rows && !err; i++)
		sum += nll[i];
	reference->nll = sum / reference->rows;
	return err || isfinite(sum) ? err : not_a_number("loss");
}

int kvs_reference_create(kvs_engine *engine, const struct kvs_calib_text *text, kvs_reference **out)
{
	kvs_reference *reference = calloc(1, sizeof(*reference));
	size_t rows = (size_t)text->windows * text->window_tokens;
	float *nll = malloc(sizeof(*nll) * rows);
	int err = 0;

	if (reference)
		reference->residual = malloc(sizeof(float) * rows * kvs_engine_config(engine)->hidden);
	if (!reference || !nll || !reference->residual) {
		err = kvs_fail(-ENOMEM, "no memory for the hidden states of %zu tokens", rows);
	} else {
		reference->rows = rows;
		err = fill_reference(engine, text, reference, nll);
	}
	free(nll);
	if (err) {
		kvs_reference_free(reference);
		return err;
	}
	*out = reference;
	return 0;
}

struct likely {
	double log_sum; /* log of the sum of exp(logit) */
	int top;
};

static struct likely look_at(const float *logits, int vocab)
{
	struct likely out = {0};
	double sum = 0;

	for (int i = 1; i < vocab; i++)
		if (logits[i] > logits[out.top])
			out.top = i;
	for (int i = 0; i < vocab; i++)
		sum += exp((double)logits[i] - logits[out.top]);
	out.log_sum = logits[out.top] + log(sum);
	return out;
}

/* One token: its loss, whether both agree, and KL(full || shared), added to the sums. */
static void compare_token(const float *full, const float *shared, int vocab, int32_t target, struct kvs_quality *sums)
{
	struct likely a = look_at(full, vocab), b = look_at(shared, vocab);
	double kl = 0;

	for (int i = 0; i < vocab; i++) {
		double log_p = full[i] - a.log_sum, log_q = shared[i] - b.log_sum;
		kl += exp(log_p) * (log_p - log_q);
	}
	sums->kl += kl;
	sums->top1_agreement += a.top == b.top;
	sums->nll += b.log_sum - shared[target];
}

/* `logits` has room for LOGIT_ROWS rows twice. */
static int compare_batch(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const struct kvs_batch *batch, size_t at, float *logits, struct kvs_quality *sums)
{
	int vocab = kvs_engine_config(engine)->vocab, rows = batch->sequences * batch->tokens, err = 0;
	size_t hidden = kvs_engine_config(engine)->hidden;
	float *shared = logits + (size_t)LOGIT_ROWS * vocab;

	for (int row = 0, now; row < rows && !err; row += now) {
		now = rows - row < LOGIT_ROWS ? rows - row : LOGIT_ROWS;
		err = kvs_engine_batch_logits(engine, row, now, shared);
		if (!err)
			err = kvs_engine_head(engine, reference->residual + (at + row) * hidden, now, logits);
		for (int i = 0; i < now && !err; i++)
			compare_token(logits + (size_t)i * vocab, shared + (size_t)i * vocab, vocab,
				text->window_targets[at + row + i], sums);
	}
	return err;
}

int kvs_measure_quality(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const kvs_plan *plan, struct kvs_quality *out)
{
	float *logits = malloc(sizeof(*logits) * 2 * LOGIT_ROWS * kvs_engine_config(engine)->vocab);
	struct kvs_quality sums = {0};
	struct kvs_batch batch;
	int err = logits ? 0 : kvs_fail(-ENOMEM, "no memory for logits");

	if (!err)
		err = kvs_engine_set_plan(engine, plan);
	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		batch = window_batch(engine, text, w);
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = compare_batch(
				engine, text, reference, &batch, (size_t)w * text->window_tokens, logits, &sums);
	}
	free(logits);
	if (!err && !isfinite(sums.nll + sums.kl))
		err = not_a_number("loss");
	*out = (struct kvs_quality){.nll = sums.nll / reference->rows,
		.full_nll = reference->nll,
		.top1_agreement = sums.top1_agreement / reference->rows,
		.kl = sums.kl / reference->rows,
		.tokens = reference->rows};
	return err;
}
