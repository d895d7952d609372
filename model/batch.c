/*
 * model/batch.c: batches of sequences with access to the inside: hidden states, K and V, starts from a middle layer.
 *
 * The sequences of a batch are side by side in slot 0, so that a few short ones take one block a layer and not one each.
 * Every token of that slot carries the generation of the run that wrote it, so that a caller that kept residuals
 * (calib/rerun.c) can tell whether K and V are still those of its own run.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BASE_SLOT 0

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

int kvs_engine_batch_rows(const kvs_engine *e)
{
	return e->chunk_tokens;
}

static int check_batch(const kvs_engine *e, const struct kvs_batch *batch)
{
	if (!e->share_by_pointer)
		return kvs_fail(-EINVAL, "batches take an engine with share_by_pointer");
	if (batch->sequences < 1 || batch->tokens < 1 || batch->first < 0)
		return kvs_fail(-EINVAL, "a batch of %d sequences of %d tokens at token %d", batch->sequences,
			batch->tokens, batch->first);
	if (batch->sequences > e->chunk_tokens / batch->tokens)
		return kvs_fail(-EINVAL, "a batch of %d sequences of %d tokens: %d rows go through at a time (--chunk)",
			batch->sequences, batch->tokens, e->chunk_tokens);
	if (batch->tokens > e->positions || batch->sequences * batch->tokens > e->ctx_tokens - batch->first)
		return kvs_fail(-EINVAL,
			"a batch of %d sequences of %d tokens at token %d: there is room for %d tokens in sequences of "
			"%d",
			batch->sequences, batch->tokens, batch->first, e->ctx_tokens, e->positions);
	return model_check_ids(e, batch->ids, (size_t)batch->sequences * batch->tokens, "token");
}

static int make_room(kvs_engine *e, int tokens)
{
	int err = tokens > e->lengths[BASE_SLOT] ? kvs_cache_resize(e->cache, BASE_SLOT, tokens) : 0;

	if (!err && tokens > e->lengths[BASE_SLOT]) {
		e->lengths[BASE_SLOT] = tokens;
		model_note_use(e);
	}
	return err;
}

static int embed(kvs_engine *e, const struct kvs_batch *batch)
{
	int rows = batch->sequences * batch->tokens, err = model_upload_ids(e, e->ids, batch->ids, rows);

	if (err)
		return err;
	return kvs_embed(
		e->stream, model_rows(e->residual, 0, rows), e->weights.embedding, model_rows(e->ids, 0, rows));
}

static int check_residuals(
	const kvs_engine *e, const struct kvs_residual *start, const struct kvs_residual *keep, int count)
{
	int above = start ? start->layer : 0;

	if (e->pass_tokens && (start || count))
		return kvs_fail(
			-EINVAL, "with the policy last all layers run: lower ones read what higher ones stored");
	if (above < 0 || above >= e->config.layers)
		return kvs_fail(-EINVAL, "a start at layer %d: the model has %d", above, e->config.layers);
	for (int i = 0; i < count; i++) {
		if (keep[i].layer <= above || keep[i].layer >= e->config.layers)
			return kvs_fail(-EINVAL, "a residual in front of layer %d: %d to %d are possible here",
				keep[i].layer, above + 1, e->config.layers - 1);
		above = keep[i].layer;
	}
	return 0;
}

/* ---- in several passes, for the policy `last` ---- */

static int copy_rows(kvs_engine *e, kvs_tensor to, kvs_tensor from)
{
	size_t bytes = (size_t)from.rows * from.cols * kvs_dtype_bytes(from.dtype);
	CUresult result = e->cu->cuMemcpyDtoDAsync(to.data, from.data, bytes, kvs_stream_handle(e->stream));

	return result ? kvs_cu_fail(e->cu, result, "copying %d rows of the residual", from.rows) : 0;
}

/* Tokens `start` .. `start` + `tokens` - 1 of each sequence; the earlier ones are in the slot. */
static int run_pass(kvs_engine *e, const struct kvs_batch *batch, int start, int tokens)
{
	int err = 0;

	for (int s = 0; s < batch->sequences && !err; s++)
		err = kvs_embed(e->stream, model_rows(e->residual, s * tokens, tokens), e->weights.embedding,
			model_rows(e->ids, s * batch->tokens + start, tokens));
	if (!err)
		err = model_run_layers(e, &(struct model_pass){.slot = BASE_SLOT,
						  .first = batch->first,
						  .sequences = batch->sequences,
						  .tokens = tokens,
						  .stride = batch->tokens,
						  .start = start});
	for (int s = 0; s < batch->sequences && !err; s++)
		err = copy_rows(e, model_rows(e->finished, s * batch->tokens + start, tokens),
			model_rows(e->residual, s * tokens, tokens));
	return err;
}

/* The residual is afterwards that of all rows, as after a single pass. */
static int run_passes(kvs_engine *e, const struct kvs_batch *batch)
{
	int rows = batch->sequences * batch->tokens, err = model_upload_ids(e, e->ids, batch->ids, rows);

	for (int start = 0, now; start < batch->tokens && !err; start += now) {
		now = smaller(batch->tokens - start, e->pass_tokens);
		err = run_pass(e, batch, start, now);
	}
	return err ? err : copy_rows(e, model_rows(e->residual, 0, rows), model_rows(e->finished, 0, rows));
}

/* ---- running ---- */

static int run_in_one(kvs_engine *e, const struct kvs_batch *batch, const struct kvs_residual *start,
	const struct kvs_residual *keep, int keep_count)
{
	int err = start ? 0 : embed(e, batch);

	if (err)
		return err;
	return model_run_layers(e, &(struct model_pass){.slot = BASE_SLOT,
					   .first = batch->first,
					   .sequences = batch->sequences,
					   .tokens = batch->tokens,
					   .stride = batch->tokens,
					   .from = start,
					   .keep = keep,
					   .keep_count = keep_count});
}

int kvs_engine_run_batch_from(kvs_engine *e, const struct kvs_batch *batch, const struct kvs_residual *start,
	const struct kvs_residual *keep, int keep_count)
{
	int err = check_batch(e, batch), rows = err ? 0 : batch->sequences * batch->tokens;

	if (!err)
		err = check_residuals(e, start, keep, keep_count);
	if (!err)
		err = make_room(e, batch->first + rows);
	if (err)
		return err;
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_BATCH, .tokens = rows});
	e->sequences = 0;
	model_stamp(e, BASE_SLOT, batch->first, rows);
	err = e->pass_tokens ? run_passes(e, batch) : run_in_one(e, batch, start, keep, keep_count);
	if (!err) {
		e->sequences = batch->sequences;
		e->sequence_tokens = batch->tokens;
	}
	return err;
}

int kvs_engine_run_batch(kvs_engine *e, const struct kvs_batch *batch)
{
	return kvs_engine_run_batch_from(e, batch, NULL, NULL, 0);
}

static int upload_rows(kvs_engine *e, kvs_tensor to, const float *from)
{
	size_t bytes = (size_t)to.rows * to.cols * sizeof(*from);
	CUresult result = e->cu->cuMemcpyHtoD(to.data, from, bytes);

	if (!result)
		result = e->cu->cuStreamSynchronize(NULL); /* the engine's stream does not wait for the last bytes */
	return result ? kvs_cu_fail(e->cu, result, "copying %zu bytes to the device", bytes) : 0;
}

/* ---- one layer from inside ---- */

/* The first `cols` elements of each of the rows, as f32; `from` may be of any float type. */
static int download_as_f32(kvs_engine *e, float *out, kvs_tensor from, int cols)
{
	size_t size = kvs_dtype_bytes(from.dtype), row_bytes = size * from.cols;
	char *raw = malloc(row_bytes * from.rows);
	CUresult result = CUDA_SUCCESS;
	int err = raw ? kvs_stream_synchronize(e->stream) : kvs_fail(-ENOMEM, "no memory for %d rows", from.rows);

	if (!err)
		result = e->cu->cuMemcpyDtoH(raw, from.data, row_bytes * from.rows);
	if (result)
		err = kvs_cu_fail(e->cu, result, "copying %d rows from the device", from.rows);
	for (int row = 0; row < from.rows && !err; row++)
		model_to_f32(out + (size_t)row * cols, raw + row * row_bytes, from.dtype, 0, cols);
	free(raw);
	return err;
}

/* Up to the last part that `out` asks for. */
static int run_parts(
	kvs_engine *e, int l, const struct model_pass *pass, kvs_tensor residual, const struct kvs_layer_tap *out)
{
	int rows = residual.rows, heads_dim = e->config.heads * e->config.head_dim;
	bool to_gated = out->gated || out->residual, to_middle = out->middle || to_gated;
	int err = model_run_heads(e, l, pass, residual);

	if (!err && out->normed)
		err = download_as_f32(e, out->normed, model_rows(e->normed, 0, rows), e->config.hidden);
	if (!err && out->queries)
		err = download_as_f32(e, out->queries, model_rows(e->qkv, 0, rows), heads_dim);
	if (!err && out->attended)
		err = download_as_f32(e, out->attended, model_rows(e->attended, 0, rows), heads_dim);
	if (!err && to_middle)
		err = model_add_heads(e, l, residual);
	if (!err && out->middle)
		err = download_as_f32(e, out->middle, residual, residual.cols);
	if (!err && to_gated)
		err = model_run_gate(e, l, residual);
	if (!err && out->gated)
		err = download_as_f32(e, out->gated, model_rows(e->gated, 0, rows), e->config.ff);
	if (!err && out->residual)
		err = model_add_gated(e, l, residual);
	return err || !out->residual ? err : download_as_f32(e, out->residual, residual, residual.cols);
}

int kvs_engine_run_layer(
	kvs_engine *e, const struct kvs_batch *batch, int layer, const float *residual, const struct kvs_layer_tap *out)
{
	int err = check_batch(e, batch), rows = err ? 0 : batch->sequences * batch->tokens;
	struct model_pass pass = {.slot = BASE_SLOT,
		.first = batch->first,
		.sequences = batch->sequences,
		.tokens = batch->tokens,
		.stride = batch->tokens};

	if (!err && e->pass_tokens)
		err = kvs_fail(-EINVAL, "one layer cannot be run alone with the policy last");
	if (!err && (layer < 0 || layer >= e->config.layers))
		err = kvs_fail(-EINVAL, "layer %d: the model has %d", layer, e->config.layers);
	if (!err)
		err = make_room(e, batch->first + rows);
	if (err)
		return err;
	e->sequences = 0;
	model_stamp(e, BASE_SLOT, batch->first, rows);
	err = residual ? kvs_stream_synchronize(e->stream) : embed(e, batch);
	if (!err && residual)
		err = upload_rows(e, model_rows(e->residual, 0, rows), residual);
	return err ? err : run_parts(e, layer, &pass, model_rows(e->residual, 0, rows), out);
}

int kvs_engine_rotations(const kvs_engine *e, float **table)
{
	return model_rope_table(&e->config, e->positions, table);
}

/* ---- results ---- */

static int check_ran(const kvs_engine *e)
{
	return e->sequences
		       ? 0
		       : kvs_fail(-EINVAL,
				 "there is no batch to read: the engine has run nothing yet, or something else since");
}

static int batch_rows(const kvs_engine *e)
{
	return e->sequences * e->sequence_tokens;
}

/* Any number of f32 rows, through the pinned buffer. */
static int download_rows(kvs_engine *e, float *out, kvs_tensor from)
{
	int most = (int)(e->pinned_bytes / (from.cols * sizeof(*out))), err = 0;

	for (int row = 0, rows; row < from.rows && !err; row += rows) {
		rows = from.rows - row < most ? from.rows - row : most;
		err = model_download(e, out + (size_t)row * from.cols, model_rows(from, row, rows));
	}
	return err;
}

int kvs_engine_batch_residual(kvs_engine *e, float *residual)
{
	int err = check_ran(e);

	return err ? err : download_rows(e, residual, model_rows(e->residual, 0, batch_rows(e)));
}

int kvs_engine_batch_hidden(kvs_engine *e, float *hidden)
{
	int rows = batch_rows(e), err = check_ran(e);

	for (int row = 0, now; row < rows && !err; row += now) {
		now = smaller(rows - row, e->score_rows);
		err = kvs_rmsnorm(e->stream, model_rows(e->hidden, 0, now), model_rows(e->residual, row, now),
			e->weights.final_norm, e->config.rms_eps);
		if (!err)
			err = download_rows(e, hidden + (size_t)row * e->config.hidden, model_rows(e->hidden, 0, now));
	}
	return err;
}

int kvs_engine_batch_logits(kvs_engine *e, int row, int rows, float *logits)
{
	int err = check_ran(e);

	if (!err && (row < 0 || rows < 0 || rows > batch_rows(e) - row))
		err = kvs_fail(-EINVAL, "logits of %d rows from row %d of a batch of %d", rows, row, batch_rows(e));
	for (int done = 0, now; done < rows && !err; done += now) {
		now = smaller(rows - done, e->score_rows);
		err = model_run_head(e, model_rows(e->residual, row + done, now));
		if (!err)
			err = download_rows(e, logits + (size_t)done * e->config.vocab, model_rows(e->logits, 0, now));
	}
	return err;
}

int kvs_engine_head(kvs_engine *e, const float *residual, int rows, float *logits)
{
	int err = kvs_stream_synchronize(e->stream);

	for (int done = 0, now; done < rows && !err; done += now) {
		now = smaller(rows - done, e->score_rows);
		err = upload_rows(e, model_rows(e->hidden, 0, now), residual + (size_t)done * e->config.hidden);
		if (!err)
			err = model_run_head(e, model_rows(e->hidden, 0, now));
		if (!err)
			err = download_rows(e, logits + (size_t)done * e->config.vocab, model_rows(e->logits, 0, now));
	}
	return err;
}

int kvs_engine_batch_score(kvs_engine *e, const int32_t *targets, float *nll, int32_t *top)
{
	int rows = batch_rows(e), err = check_ran(e);

	if (!err)
		err = model_check_ids(e, targets, rows, "target");
	for (int row = 0, now; row < rows && !err; row += now) {
		now = smaller(rows - row, e->score_rows);
		err = model_score_rows(e, row, now, targets + row, nll + row, top ? top + row : NULL);
	}
	return err;
}

/* ---- K and V ---- */

/* Waits for what the engine has begun. */
static int check_tokens(kvs_engine *e, int layer, int first, int tokens)
{
	if (layer >= 0 && layer < e->config.layers && first >= 0 && tokens >= 0 &&
		tokens <= e->lengths[BASE_SLOT] - first)
		return kvs_stream_synchronize(e->stream);
	return kvs_fail(-EINVAL, "K and V of layer %d, %d tokens from %d: there are %d layers of %d tokens", layer,
		tokens, first, e->config.layers, e->lengths[BASE_SLOT]);
}

/* In pieces that fit the processor's cache, so that there is no second copy of the tensor. */
static void add_elements(double *sum, const void *from, enum kvs_dtype dtype, size_t count)
{
	float piece[256];

	for (size_t done = 0, now; done < count; done += now) {
		now = count - done < 256 ? count - done : 256;
		model_to_f32(piece, from, dtype, done, now);
		for (size_t i = 0; i < now; i++)
			sum[done + i] += piece[i];
	}
}

static int add_kv(kvs_engine *e, bool is_k, int layer, int first, int tokens, double *sum)
{
	size_t count = kvs_kv_elements(e->kv) * tokens, size = kvs_dtype_bytes(e->kv.dtype);
	size_t most = e->pinned_bytes / size;
	CUdeviceptr from;
	int err = check_tokens(e, layer, first, tokens);

	if (err)
		return err;
	from = (is_k ? kvs_cache_k(e->cache, layer, BASE_SLOT) : kvs_cache_v(e->cache, layer, BASE_SLOT)) +
	       first * kvs_kv_token_bytes(e->kv);
	for (size_t done = 0, now; done < count; done += now) {
		CUresult result;
		now = count - done < most ? count - done : most;
		result = e->cu->cuMemcpyDtoH(e->pinned, from + done * size, now * size);
		if (result)
			return kvs_cu_fail(e->cu, result, "reading K and V of layer %d", layer);
		add_elements(sum + done, e->pinned, e->kv.dtype, now);
	}
	return 0;
}

int kvs_engine_add_k(kvs_engine *e, int layer, int first, int tokens, double *sum)
{
	return add_kv(e, true, layer, first, tokens, sum);
}

int kvs_engine_add_v(kvs_engine *e, int layer, int first, int tokens, double *sum)
{
	return add_kv(e, false, layer, first, tokens, sum);
}

/* Rows of K or V from token `first` on, from the cache (out) or into it (in). */
static int move_rows(kvs_engine *e, bool is_k, int layer, int first, int tokens, float *out, const float *in)
{
	size_t count = kvs_kv_elements(e->kv) * tokens, size = kvs_dtype_bytes(e->kv.dtype);
	size_t most = e->pinned_bytes / size;
	CUdeviceptr base = is_k ? kvs_cache_k(e->cache, layer, BASE_SLOT) : kvs_cache_v(e->cache, layer, BASE_SLOT);
	CUresult result = CUDA_SUCCESS;

	for (size_t done = 0, now; done < count && !result; done += now) {
		CUdeviceptr at = base + first * kvs_kv_token_bytes(e->kv) + done * size;
		now = count - done < most ? count - done : most;
		if (in) {
			model_from_f32(e->pinned, in + done, e->kv.dtype, now);
			result = e->cu->cuMemcpyHtoD(at, e->pinned, now * size);
		} else {
			result = e->cu->cuMemcpyDtoH(e->pinned, at, now * size);
			model_to_f32(out + done, e->pinned, e->kv.dtype, 0, now);
		}
	}
	return result ? kvs_cu_fail(e->cu, result, "moving K or V of layer %d, tokens from %d", layer, first) : 0;
}

int kvs_engine_read_kv(kvs_engine *e, int layer, int first, int tokens, float *k, float *v)
{
	int err = check_tokens(e, layer, first, tokens);

	if (!err)
		err = move_rows(e, true, layer, first, tokens, k, NULL);
	return err ? err : move_rows(e, false, layer, first, tokens, v, NULL);
}

int kvs_engine_write_kv(kvs_engine *e, int layer, int first, int tokens, const float *k, const float *v)
{
	int err = check_tokens(e, layer, first, tokens);

	if (err)
		return err;
	model_stamp(e, BASE_SLOT, first, tokens);
	err = move_rows(e, true, layer, first, tokens, NULL, k);
	return err ? err : move_rows(e, false, layer, first, tokens, NULL, v);
}
