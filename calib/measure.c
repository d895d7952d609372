/*
 * calib/measure.c: how far a plan takes the model from its unshared self: cosine of hidden states on the samples, loss
 * on the windows.
 *
 * Both run the text in batches as large as the engine allows, and sum in double.
 */
#include "measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int calib_tell(const struct kvs_calib_progress *progress, const char *what, size_t done, size_t total)
{
	if (!progress || !progress->step || progress->step(progress->arg, what, done, total))
		return 0;
	return kvs_fail(-ECANCELED, "stopped while %s", what);
}

int calib_not_a_number(const char *what)
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

/* The sums that a cosine needs: of each sample's cosine, or of the hidden states themselves. */
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

static int compare_samples(kvs_engine *engine, kvs_rerun *rerun, const struct kvs_calib_text *text,
	const struct kvs_capture *capture, float *hidden, struct similarity *sum)
{
	struct kvs_batch batch = {.tokens = text->sample_tokens};
	int last = kvs_engine_config(engine)->layers - 1, err = 0;

	for (int s = 0; s < text->samples && !err; s += batch.sequences) {
		batch.sequences = sequences_at(engine, s, text->samples, text->sample_tokens);
		batch.ids = text->ids + (size_t)s * text->sample_tokens;
		batch.first = rerun ? s * text->sample_tokens : 0;
		err = rerun ? kvs_rerun_batch(rerun, &batch, last) : kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_hidden(engine, hidden);
		for (int i = 0; i < batch.sequences && !err; i++)
			add_sample(sum, capture->hidden + (s + i) * sum->size, hidden + i * sum->size);
	}
	return err;
}

int kvs_measure_cosine(kvs_engine *engine, kvs_rerun *rerun, const struct kvs_calib_text *text,
	const struct kvs_capture *capture, const kvs_plan *plan, enum kvs_cosine kind, double *cosine)
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
		err = compare_samples(engine, rerun, text, capture, hidden, &sum);
	if (!err)
		*cosine = finish(&sum, text->samples);
	if (!err && !isfinite(*cosine))
		err = calib_not_a_number("cosine of the hidden states");
	free(hidden);
	free(means);
	return err;
}

/* ---- loss ---- */

struct kvs_batch calib_window_batch(const kvs_engine *engine, const struct kvs_calib_text *text, int first)
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
		batch = calib_window_batch(engine, text, w);
		err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_score(engine, text->window_targets + at, losses + at, NULL);
	}
	for (size_t i = 0; i < count && !err; i++)
		sum += losses[i];
	if (!nll_of)
		free(losses);
	if (!err && !isfinite(sum))
		err = calib_not_a_number("loss");
	*nll = sum / count;
	return err;
}
