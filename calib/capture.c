/*
 * calib/capture.c: the unshared model's K, V and hidden states on the samples, and the distances between its layers.
 *
 * K and V are summed in double straight from the cache's regions, a batch at a time, so memory does not grow with the
 * number of samples. The hidden states of every sample are kept, since each trial is compared with them.
 */
#include "measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static size_t layer_elements(const struct kvs_capture *capture)
{
	return (size_t)capture->tokens * capture->kv_heads * capture->head_dim;
}

static int allocate(struct kvs_capture *capture)
{
	size_t mean = layer_elements(capture) * capture->layers;
	size_t hidden = (size_t)capture->samples * capture->tokens * capture->hidden_size;

	capture->k = calloc(mean, sizeof(*capture->k));
	capture->v = calloc(mean, sizeof(*capture->v));
	capture->hidden = malloc(sizeof(*capture->hidden) * hidden);
	if (capture->k && capture->v && capture->hidden)
		return 0;
	return kvs_fail(-ENOMEM, "no memory for the mean K and V of %d layers and the hidden states of %d samples",
		capture->layers, capture->samples);
}

static int add_batch(kvs_engine *engine, const struct kvs_batch *batch, struct kvs_capture *capture)
{
	size_t size = layer_elements(capture);
	int err = 0;

	for (int l = 0; l < capture->layers && !err; l++) {
		for (int s = 0; s < batch->sequences && !err; s++) {
			err = kvs_engine_add_k(engine, l, s * batch->tokens, batch->tokens, capture->k + l * size);
			if (!err)
				err = kvs_engine_add_v(
					engine, l, s * batch->tokens, batch->tokens, capture->v + l * size);
		}
	}
	return err;
}

static int finish_means(struct kvs_capture *capture)
{
	size_t size = layer_elements(capture);

	for (size_t i = 0; i < size * capture->layers; i++) {
		capture->k[i] /= capture->samples;
		capture->v[i] /= capture->samples;
		if (!isfinite(capture->k[i]) || !isfinite(capture->v[i]))
			return kvs_fail(-EIO, "layer %zu's K or V is not a number: the model's weights may be damaged",
				i / size);
	}
	return 0;
}

static int run_samples(kvs_engine *engine, const struct kvs_calib_text *text, const struct kvs_calib_progress *progress,
	struct kvs_capture *capture)
{
	int together = kvs_engine_batch_rows(engine) / text->sample_tokens;
	struct kvs_batch batch = {.tokens = text->sample_tokens};
	int err = 0;

	for (int s = 0; s < text->samples && !err; s += batch.sequences) {
		size_t row = (size_t)s * text->sample_tokens;
		batch.sequences = text->samples - s < together ? text->samples - s : together;
		batch.ids = text->ids + row;
		err = calib_tell(progress, "capturing", s, text->samples);
		if (!err)
			err = kvs_engine_run_batch(engine, &batch);
		if (!err)
			err = kvs_engine_batch_hidden(engine, capture->hidden + row * capture->hidden_size);
		if (!err)
			err = add_batch(engine, &batch, capture);
	}
	return err;
}

int kvs_capture_run(kvs_engine *engine, const struct kvs_calib_text *text, const struct kvs_calib_progress *progress,
	struct kvs_capture *out)
{
	const struct kvs_config *config = kvs_engine_config(engine);
	int err;

	*out = (struct kvs_capture){.layers = config->layers,
		.samples = text->samples,
		.tokens = text->sample_tokens,
		.kv_heads = config->kv_heads,
		.head_dim = config->head_dim,
		.hidden_size = config->hidden};
	err = allocate(out);
	if (!err)
		err = kvs_engine_set_plan(engine, NULL);
	if (!err)
		err = run_samples(engine, text, progress, out);
	if (!err)
		err = finish_means(out);
	if (err == -ECANCELED)
		kvs_fail(err, "stopped while capturing, before there was a plan");
	if (err)
		kvs_capture_clear(out);
	return err;
}

void kvs_capture_drop_means(struct kvs_capture *capture)
{
	free(capture->k);
	free(capture->v);
	capture->k = capture->v = NULL;
}

void kvs_capture_clear(struct kvs_capture *capture)
{
	kvs_capture_drop_means(capture);
	free(capture->hidden);
	*capture = (struct kvs_capture){0};
}

/* ---- distances ---- */

static double distance(const double *a, const double *b, size_t vectors, int dim, enum kvs_distance kind)
{
	double all = 0, norms = 0;

	for (size_t n = 0; n < vectors; n++) {
		double squares = 0;
		for (int d = 0; d < dim; d++, a++, b++)
			squares += (*a - *b) * (*a - *b);
		all += squares;
		norms += sqrt(squares);
	}
	return kind == KVS_DISTANCE_PAPER ? sqrt(all) : norms / vectors;
}

void kvs_capture_distances(const struct kvs_capture *capture, enum kvs_distance kind, double *k, double *v)
{
	size_t size = layer_elements(capture), vectors = (size_t)capture->tokens * capture->kv_heads;

	for (int i = 0; i < capture->layers; i++) {
		for (int j = 0; j < capture->layers; j++) {
			size_t at = (size_t)i * capture->layers + j;
			k[at] = distance(
				capture->k + i * size, capture->k + j * size, vectors, capture->head_dim, kind);
			v[at] = distance(
				capture->v + i * size, capture->v + j * size, vectors, capture->head_dim, kind);
		}
	}
}
