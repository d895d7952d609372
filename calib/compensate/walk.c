/*
 * calib/compensate/walk.c: two models side by side, layer by layer: the original and the compensated one.
 *
 * Each layer is run on all samples before the next one is, so a fit of a layer sees the text as the layers below it leave it,
 * and the whole costs a few runs of the model, whatever the number of layers that are fitted. Between two layers the
 * residuals are in temporary files, and so are K and V of layers that others read: the engine's cache holds one batch.
 */
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- batches ---- */

static struct kvs_batch batch_at(const struct calib_walk *walk, int sample)
{
	int together = kvs_engine_batch_rows(walk->engine) / walk->text->sample_tokens;
	int left = walk->text->samples - sample;

	return (struct kvs_batch){.ids = walk->text->ids + (size_t)sample * walk->text->sample_tokens,
		.sequences = left < together ? left : together,
		.tokens = walk->text->sample_tokens};
}

/* Tells of the progress, and steps on to the batch of `sample`. */
static int next_batch(struct calib_walk *walk, int sample)
{
	int err = calib_tell(walk->progress, "compensating", walk->done, walk->total);

	walk->batch = batch_at(walk, sample);
	walk->done += walk->batch.sequences;
	return err;
}

static int rows_of(const struct kvs_batch *batch)
{
	return batch->sequences * batch->tokens;
}

/* ---- K and V ---- */

static size_t kv_record(const struct calib_walk *walk, int layer, bool is_v, size_t token)
{
	return (size_t)(2 * layer + is_v) * walk->text->samples * walk->text->sample_tokens + token;
}

/* The batch's K and V of `layer`, from the cache. */
static int read_kv(struct calib_walk *walk, int layer)
{
	return kvs_engine_read_kv(walk->engine, layer, 0, rows_of(&walk->batch), walk->k, walk->v);
}

static bool is_read(const struct calib_walk *walk, int layer)
{
	if (walk->pairs)
		return true;
	for (int l = layer + 1; l < walk->layers; l++)
		if (kvs_plan_owner(walk->plan, l, KVS_K) == layer || kvs_plan_owner(walk->plan, l, KVS_V) == layer)
			return true;
	return false;
}

/* Keeps what later layers read of this one, after it ran. */
static int keep_kv(struct calib_walk *walk, int layer, size_t token)
{
	int err, rows = rows_of(&walk->batch);

	if (!is_read(walk, layer))
		return 0;
	err = read_kv(walk, layer);
	if (!err)
		err = calib_spool_write(walk->kv, kv_record(walk, layer, false, token), rows, walk->k);
	return err ? err : calib_spool_write(walk->kv, kv_record(walk, layer, true, token), rows, walk->v);
}

/* Puts the K and V that `layer` reads of `owner` back into the cache; k and v hold them afterwards. */
static int put_kv(struct calib_walk *walk, int owner, size_t token)
{
	int rows = rows_of(&walk->batch);
	int err = calib_spool_read(walk->kv, kv_record(walk, owner, false, token), rows, walk->k);

	if (!err)
		err = calib_spool_read(walk->kv, kv_record(walk, owner, true, token), rows, walk->v);
	return err ? err : kvs_engine_write_kv(walk->engine, owner, 0, rows, walk->k, walk->v);
}

/*
 * The cache has room for a batch from the first run on. A layer's V may have another owner than its K; K comes last, as the
 * queries' fit takes it from `k`.
 */
static int put_borrowed(struct calib_walk *walk, int layer, size_t token)
{
	int k = kvs_plan_owner(walk->plan, layer, KVS_K), v = kvs_plan_owner(walk->plan, layer, KVS_V), err = 0;

	if (v != layer && v != k)
		err = put_kv(walk, v, token);
	return err || k == layer ? err : put_kv(walk, k, token);
}

/* ---- queries and keys, head by head ---- */

/* Rows of one head out of [rows][cols], every `stride`th, into a record of the spool. */
static int write_head(struct calib_walk *walk, struct calib_spool *spool, size_t record, const float *from, int cols,
	int head, int stride)
{
	int dim = kvs_engine_config(walk->engine)->head_dim, rows = walk->text->sample_tokens / stride;

	for (int r = 0; r < rows; r++)
		memcpy(walk->sequence + (size_t)r * dim,
			from + (size_t)((r + 1) * stride - 1) * cols + (size_t)head * dim, sizeof(float) * dim);
	return calib_spool_write(spool, record, 1, walk->sequence);
}

/* All heads of all sequences of the batch, whose first is sample `sample`. */
static int write_heads(
	struct calib_walk *walk, struct calib_spool *spool, int sample, const float *from, int cols, int stride)
{
	int heads = cols / kvs_engine_config(walk->engine)->head_dim, err = 0;

	for (int s = 0; s < walk->batch.sequences; s++)
		for (int h = 0; h < heads && !err; h++)
			err = write_head(walk, spool, (size_t)(sample + s) * heads + h,
				from + (size_t)s * walk->batch.tokens * cols, cols, h, stride);
	return err;
}

/* From rotated queries back to what the projection gave without its bias. A rotation may have an amplitude (YaRN). */
static void turn_back(const struct calib_walk *walk, const float *bias, float *queries)
{
	int dim = kvs_engine_config(walk->engine)->head_dim, half = dim / 2, rows = rows_of(&walk->batch);

	for (int r = 0; r < rows; r++) {
		const float *table = walk->rotations + (size_t)(r % walk->batch.tokens) * dim;
		for (int at = 0; at < walk->heads_dim; at += dim)
			for (int i = 0; i < half; i++) {
				double c = table[2 * i], s = table[2 * i + 1], square = c * c + s * s;
				float *x = queries + (size_t)r * walk->heads_dim + at + i, *y = x + half;
				double a = (*x * c + *y * s) / square, b = (*y * c - *x * s) / square;
				*x = a - (bias ? bias[at + i] : 0);
				*y = b - (bias ? bias[at + i + half] : 0);
			}
	}
}

/* ---- the two models ---- */

int calib_walk_original(struct calib_walk *walk, int layer, const struct calib_queries *queries)
{
	bool above = layer >= walk->first || walk->pairs, first = layer == 0;
	int tokens = walk->text->sample_tokens, err = kvs_engine_set_plan(walk->engine, NULL);

	for (int s = 0; s < walk->text->samples && !err; s += walk->batch.sequences) {
		size_t token = (size_t)s * tokens;
		struct kvs_layer_tap tap = {.queries = queries ? walk->attended : NULL,
			.middle = above ? walk->other : NULL,
			.residual = walk->reached};
		err = next_batch(walk, s);
		if (!err && !first)
			err = calib_spool_read(walk->original, token, rows_of(&walk->batch), walk->residual);
		if (!err && (walk->pairs ? !first : layer == walk->first))
			err = calib_spool_write(walk->compensated, token, rows_of(&walk->batch), walk->residual);
		if (!err)
			err = kvs_engine_run_layer(
				walk->engine, &walk->batch, layer, first ? NULL : walk->residual, &tap);
		if (!err && above)
			err = calib_spool_write(walk->middle, token, rows_of(&walk->batch), walk->other);
		if (!err)
			err = calib_spool_write(walk->original, token, rows_of(&walk->batch), walk->reached);
		if (!err && (!above || walk->pairs))
			err = keep_kv(walk, layer, token);
		if (!err && queries)
			err = read_kv(walk, layer);
		if (!err && queries)
			err = write_heads(walk, queries->wanted, s, walk->attended, walk->heads_dim, queries->stride);
		if (!err && queries)
			err = write_heads(walk, queries->own, s, walk->k, walk->kv_dim, 1);
	}
	return err ? err : kvs_engine_set_plan(walk->engine, walk->plan);
}

static int take_queries(struct calib_walk *walk, int sample, const struct calib_queries *queries)
{
	int err;

	turn_back(walk, queries->bias, walk->attended);
	err = write_heads(walk, queries->before, sample, walk->attended, walk->heads_dim, queries->stride);
	return err ? err : write_heads(walk, queries->keys, sample, walk->k, walk->kv_dim, 1);
}

static void hand_out(
	struct calib_walk *walk, int sample, void (*take)(void *arg, const struct calib_rows *rows), void *arg)
{
	for (int s = 0; s < walk->batch.sequences; s++) {
		size_t row = (size_t)s * walk->batch.tokens;
		take(arg, &(struct calib_rows){.part = calib_part_of(sample + s, walk->text->samples),
				  .rows = walk->batch.tokens,
				  .before = walk->residual + row * walk->hidden,
				  .reached = walk->reached + row * walk->hidden,
				  .target = walk->other + row * walk->hidden,
				  .attended = walk->attended + row * walk->heads_dim,
				  .gated = walk->gated + row * walk->ff,
				  .normed = walk->normed + row * walk->hidden});
	}
}

int calib_walk_compensated(struct calib_walk *walk, int layer, enum calib_at at, const struct calib_queries *queries,
	void (*take)(void *arg, const struct calib_rows *rows), void *arg)
{
	bool to_end = at == CALIB_AT_GATED || at == CALIB_AT_END;
	struct kvs_layer_tap tap = {.queries = at == CALIB_AT_QUERIES ? walk->attended : NULL,
		.attended = at == CALIB_AT_ATTENDED ? walk->attended : NULL,
		.normed = at == CALIB_AT_ATTENDED ? walk->normed : NULL,
		.middle = at == CALIB_AT_GATED ? walk->reached : NULL,
		.gated = at == CALIB_AT_GATED ? walk->gated : NULL,
		.residual = to_end ? walk->end : NULL};
	struct calib_spool *target = at == CALIB_AT_ATTENDED ? walk->middle : walk->original;
	int err = 0;

	for (int s = 0; s < walk->text->samples && !err; s += walk->batch.sequences) {
		size_t token = (size_t)s * walk->text->sample_tokens;
		int rows;
		err = next_batch(walk, s);
		rows = rows_of(&walk->batch);
		if (!err)
			err = calib_spool_read(walk->compensated, token, rows, walk->residual);
		if (!err && take)
			err = calib_spool_read(target, token, rows, walk->other);
		if (!err)
			err = put_borrowed(walk, layer, token);
		if (!err)
			err = kvs_engine_run_layer(walk->engine, &walk->batch, layer, walk->residual, &tap);
		if (!err && at == CALIB_AT_QUERIES)
			err = take_queries(walk, s, queries);
		if (!err && to_end)
			err = calib_spool_write(
				at == CALIB_AT_END ? walk->compensated : walk->next, token, rows, walk->end);
		if (!err && to_end)
			err = keep_kv(walk, layer, token);
		if (!err && take)
			hand_out(walk, s, take, arg);
	}
	walk->ended = !err && at == CALIB_AT_GATED;
	return err;
}

void calib_walk_step(struct calib_walk *walk)
{
	struct calib_spool *passed = walk->compensated;

	walk->compensated = walk->next;
	walk->next = passed;
	walk->ended = false;
	walk->done += walk->text->samples;
}

int calib_walk_above(struct calib_walk *walk, int layer, int sample)
{
	size_t token = (size_t)sample * walk->text->sample_tokens;
	struct kvs_layer_tap tap = {.residual = walk->residual};
	int err;

	walk->batch = batch_at(walk, sample);
	walk->batch.sequences = 1;
	err = calib_spool_read(walk->compensated, token, rows_of(&walk->batch), walk->residual);
	if (!err)
		err = put_borrowed(walk, layer, token);
	for (int l = layer; l < walk->layers && !err; l++)
		err = kvs_engine_run_layer(walk->engine, &walk->batch, l, walk->residual, &tap);
	return err;
}

/* ---- open and close ---- */

static int open_spools(struct calib_walk *walk)
{
	int err = calib_spool_open(walk->hidden, &walk->original);

	if (!err)
		err = calib_spool_open(walk->hidden, &walk->middle);
	if (!err)
		err = calib_spool_open(walk->hidden, &walk->compensated);
	if (!err)
		err = calib_spool_open(walk->hidden, &walk->next);
	return err ? err : calib_spool_open(walk->kv_dim, &walk->kv);
}

int calib_walk_open(struct calib_walk *walk)
{
	const struct kvs_config *config = kvs_engine_config(walk->engine);
	size_t rows = kvs_engine_batch_rows(walk->engine), row = sizeof(float) * rows;
	int err;

	walk->layers = config->layers;
	walk->hidden = config->hidden;
	walk->ff = config->ff;
	walk->heads_dim = config->heads * config->head_dim;
	walk->kv_dim = config->kv_heads * config->head_dim;
	for (walk->first = 0; walk->first < walk->layers && walk->plan && !calib_borrows(walk->plan, walk->first);)
		walk->first++;
	walk->residual = malloc(row * walk->hidden);
	walk->reached = malloc(row * walk->hidden);
	walk->other = malloc(row * walk->hidden);
	walk->end = malloc(row * walk->hidden);
	walk->normed = malloc(row * walk->hidden);
	walk->attended = malloc(row * walk->heads_dim);
	walk->gated = malloc(row * walk->ff);
	walk->k = malloc(row * walk->kv_dim);
	walk->v = malloc(row * walk->kv_dim);
	walk->sequence = malloc(sizeof(float) * walk->text->sample_tokens * config->head_dim);
	if (!walk->residual || !walk->reached || !walk->other || !walk->end || !walk->normed || !walk->attended ||
		!walk->gated || !walk->k || !walk->v || !walk->sequence)
		return kvs_fail(-ENOMEM, "no memory for batches of %zu tokens", rows);
	err = kvs_engine_rotations(walk->engine, &walk->rotations);
	return err ? err : open_spools(walk);
}

void calib_walk_close(struct calib_walk *walk)
{
	calib_spool_close(walk->original);
	calib_spool_close(walk->middle);
	calib_spool_close(walk->compensated);
	calib_spool_close(walk->next);
	calib_spool_close(walk->kv);
	free(walk->residual);
	free(walk->reached);
	free(walk->other);
	free(walk->end);
	free(walk->normed);
	free(walk->attended);
	free(walk->gated);
	free(walk->k);
	free(walk->v);
	free(walk->sequence);
	free(walk->rotations);
}
