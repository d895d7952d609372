/*
 * model/engine.c: the forward pass and the timeline of each slot.
 *
 * A prompt is run in chunks. For each chunk the cache gets room first, then every launch is enqueued; nothing waits until
 * a caller asks for a result. A layer that borrows K (V) neither projects, rotates nor writes it: its attention reads
 * what the owner, an earlier layer, appended in an earlier launch of the same pass. That holds whether the borrower reads
 * through its own read-only mapping or (share_by_pointer) through the owner's addresses.
 */
#include "engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX 4096 /* where the caller names none: the KV cache of a long-context model is not reserved unasked */
#define DEFAULT_CHUNK 512
#define SCORE_ROWS 64 /* rows of logits at a time: [64][128 Ki] f32 is 32 MiB */
#define ALIGNMENT 256

struct kvs_engine {
	kvs_cu *cu;
	struct kvs_config config;
	kvs_stream *stream;
	kvs_vmm *vmm;
	kvs_cache *cache;
	kvs_plan *plan;
	bool share_by_pointer;
	struct kvs_weights weights;
	int *lengths; /* [slots] tokens in the cache */
	unsigned slots;
	int ctx_tokens, chunk_tokens;
	enum kvs_dtype dtype, kv_dtype;

	CUdeviceptr memory; /* one allocation behind all that follows */
	size_t memory_bytes;
	kvs_tensor ids, targets, top; /* i32 [ctx][1]; [SCORE_ROWS][1] twice */
	kvs_tensor residual;          /* f32 [chunk][hidden] */
	kvs_tensor normed;            /* T [chunk][hidden] */
	kvs_tensor qkv;               /* f32 [chunk][(heads + 2 * kv_heads) * head_dim] */
	kvs_tensor attended;          /* T [chunk][heads * head_dim] */
	kvs_tensor gate_up;           /* f32 [chunk][2 * ff] */
	kvs_tensor gated;             /* T [chunk][ff] */
	kvs_tensor logits;            /* f32 [SCORE_ROWS][vocab]; an append leaves its own in row 0 */
	kvs_tensor nll;               /* f32 [SCORE_ROWS][1] */
	kvs_tensor rope;              /* f32 [ctx][head_dim] */
	kvs_tensor workspace;         /* of attention */
	void *pinned; /* host memory that the device copies to and from: the larger of ids and one row of logits */
};

static kvs_tensor rows_of(kvs_tensor tensor, int first, int count)
{
	tensor.data += (CUdeviceptr)first * tensor.cols * kvs_dtype_bytes(tensor.dtype);
	tensor.rows = count;
	return tensor;
}

/* ---- one layer ---- */

static int project_qkv(kvs_engine *e, const struct kvs_layer *layer, kvs_tensor normed, bool own_k, bool own_v)
{
	int q = e->config.heads * e->config.head_dim, kv = e->config.kv_heads * e->config.head_dim;
	int first = q + (own_k ? kv : 0) +
		    (own_k && own_v ? kv : 0); /* Q, K and V lie side by side: one GEMM goes as far */
	kvs_tensor out = {e->qkv.data, KVS_F32, normed.rows, first};
	int err = kvs_gemm(e->stream, out, e->qkv.cols, normed, rows_of(layer->qkv, 0, first), false);

	if (err || own_k || !own_v)
		return err;
	out.data += (CUdeviceptr)(q + kv) * sizeof(float);
	out.cols = kv;
	return kvs_gemm(e->stream, out, e->qkv.cols, normed, rows_of(layer->qkv, q + kv, kv), false);
}

static kvs_kv layer_kv(const kvs_engine *e, int l, unsigned slot)
{
	int k = l, v = l;

	if (e->share_by_pointer && e->plan) {
		k = kvs_plan_k_owner(e->plan, l);
		v = kvs_plan_v_owner(e->plan, l);
	}
	return (kvs_kv){.k = kvs_cache_k(e->cache, k, slot),
		.v = kvs_cache_v(e->cache, v, slot),
		.dtype = e->kv_dtype,
		.kv_heads = e->config.kv_heads,
		.head_dim = e->config.head_dim,
		.tokens = e->ctx_tokens};
}

static int add_bias(kvs_engine *e, kvs_tensor x, kvs_tensor bias)
{
	return bias.data ? kvs_add_row(e->stream, x, bias) : 0;
}

static int run_attention(kvs_engine *e, int l, unsigned slot, int start, kvs_tensor residual)
{
	const struct kvs_layer *layer = &e->weights.layers[l];
	int tokens = residual.rows;
	bool own_k = !e->plan || kvs_plan_k_owner(e->plan, l) == l,
	     own_v = !e->plan || kvs_plan_v_owner(e->plan, l) == l;
	kvs_tensor normed = rows_of(e->normed, 0, tokens), attended = rows_of(e->attended, 0, tokens);
	struct kvs_rope_append append = {.qkv = rows_of(e->qkv, 0, tokens),
		.bias = layer->qkv_bias,
		.q_gain = layer->q_gain,
		.k_gain = layer->k_gain,
		.rope = e->rope,
		.kv = layer_kv(e, l, slot),
		.heads = e->config.heads,
		.start = start,
		.eps = e->config.rms_eps,
		.own_k = own_k,
		.own_v = own_v};
	struct kvs_attention attention = {.out = attended,
		.qkv = append.qkv,
		.kv = append.kv,
		.workspace = e->workspace,
		.heads = e->config.heads,
		.start = start,
		.window = e->config.window[l],
		.scale = 1 / sqrtf((float)e->config.head_dim)};
	int err = kvs_rmsnorm(e->stream, normed, residual, layer->attn_norm, e->config.rms_eps);

	if (!err)
		err = project_qkv(e, layer, normed, own_k, own_v);
	if (!err)
		err = kvs_rope_append(e->stream, &append);
	if (!err)
		err = kvs_attention(e->stream, &attention);
	if (!err)
		err = kvs_gemm(e->stream, residual, 0, attended, layer->o, true);
	return err ? err : add_bias(e, residual, layer->o_bias);
}

static int run_mlp(kvs_engine *e, int l, kvs_tensor residual)
{
	const struct kvs_layer *layer = &e->weights.layers[l];
	int tokens = residual.rows;
	kvs_tensor normed = rows_of(e->normed, 0, tokens), gate_up = rows_of(e->gate_up, 0, tokens);
	kvs_tensor gated = rows_of(e->gated, 0, tokens);
	int err = kvs_rmsnorm(e->stream, normed, residual, layer->ffn_norm, e->config.rms_eps);

	if (!err)
		err = kvs_gemm(e->stream, gate_up, 0, normed, layer->gate_up, false);
	if (!err)
		err = add_bias(e, gate_up, layer->gate_up_bias);
	if (!err)
		err = kvs_silu_mul(e->stream, gated, gate_up);
	if (!err)
		err = kvs_gemm(e->stream, residual, 0, gated, layer->down, true);
	return err ? err : add_bias(e, residual, layer->down_bias);
}

/* All layers over `count` tokens of e->ids from `first`, which stand at positions start and on. */
static int run_layers(kvs_engine *e, unsigned slot, int first, int count, int start)
{
	kvs_tensor residual = rows_of(e->residual, 0, count);
	int err = kvs_embed(e->stream, residual, e->weights.embedding, rows_of(e->ids, first, count));

	for (int l = 0; l < e->config.layers && !err; l++) {
		err = run_attention(e, l, slot, start, residual);
		if (!err)
			err = run_mlp(e, l, residual);
	}
	return err;
}

/* The logits of rows `first` and on of the residual, into the first rows of e->logits. */
static int run_head(kvs_engine *e, int first, int count)
{
	kvs_tensor normed = rows_of(e->normed, 0, count);
	int err = kvs_rmsnorm(
		e->stream, normed, rows_of(e->residual, first, count), e->weights.final_norm, e->config.rms_eps);

	if (err)
		return err;
	return kvs_gemm(e->stream, rows_of(e->logits, 0, count), 0, normed, e->weights.head, false);
}

/* ---- timelines ---- */

static int check_ids(const kvs_engine *e, const int32_t *ids, size_t count, const char *what)
{
	for (size_t i = 0; i < count; i++)
		if (ids[i] < 0 || ids[i] >= e->config.vocab)
			return kvs_fail(-EINVAL, "%s %zu is %d, the model has %d (config.json: vocab_size)", what, i,
				(int)ids[i], e->config.vocab);
	return 0;
}

static int check_append(const kvs_engine *e, unsigned slot, const int32_t *ids, size_t count)
{
	if (slot >= e->slots)
		return kvs_fail(-EINVAL, "slot %u: this engine has %u", slot, e->slots);
	if (count == 0)
		return kvs_fail(-EINVAL, "no tokens to append");
	if (count > (size_t)(e->ctx_tokens - e->lengths[slot]))
		return kvs_fail(-EINVAL, "%zu tokens behind %d: the context has room for %d (--ctx)", count,
			e->lengths[slot], e->ctx_tokens);
	return check_ids(e, ids, count, "token");
}

/* The pinned buffer may still be read by the copy before: wait for that first. Every sampled token has waited already. */
static int upload_ids(kvs_engine *e, kvs_tensor to, const int32_t *ids, size_t count)
{
	int err = kvs_stream_synchronize(e->stream);
	CUresult result;

	if (err)
		return err;
	memcpy(e->pinned, ids, count * sizeof(*ids));
	result = e->cu->cuMemcpyHtoDAsync(to.data, e->pinned, count * sizeof(*ids), kvs_stream_handle(e->stream));
	return result ? kvs_cu_fail(e->cu, result, "copying %zu token ids to the device", count) : 0;
}

static int download(kvs_engine *e, void *out, kvs_tensor from)
{
	size_t bytes = (size_t)from.rows * from.cols * kvs_dtype_bytes(from.dtype);
	CUresult result = e->cu->cuMemcpyDtoHAsync(e->pinned, from.data, bytes, kvs_stream_handle(e->stream));
	int err;

	if (result)
		return kvs_cu_fail(e->cu, result, "copying %zu bytes from the device", bytes);
	err = kvs_stream_synchronize(e->stream);
	if (!err)
		memcpy(out, e->pinned, bytes);
	return err;
}

/* Room in the cache and the ids on the device; undone by give_back_room() when what follows fails. */
static int begin_append(kvs_engine *e, unsigned slot, const int32_t *ids, size_t count)
{
	int err = check_append(e, slot, ids, count);

	if (!err)
		err = kvs_cache_resize(e->cache, slot, e->lengths[slot] + count);
	return err ? err : upload_ids(e, e->ids, ids, count);
}

static void give_back_room(kvs_engine *e, unsigned slot)
{
	if (slot < e->slots)
		kvs_cache_resize(e->cache, slot, e->lengths[slot]); /* shrinking does not fail */
}

int kvs_engine_append(kvs_engine *e, unsigned slot, const int32_t *ids, size_t count)
{
	int err = begin_append(e, slot, ids, count), now = 0;

	for (size_t first = 0; first < count && !err; first += now) {
		now = count - first < (size_t)e->chunk_tokens ? (int)(count - first) : e->chunk_tokens;
		err = run_layers(e, slot, first, now, e->lengths[slot] + first);
	}
	if (!err)
		err = run_head(e, now - 1, 1);
	if (err) {
		give_back_room(e, slot);
		return err;
	}
	e->lengths[slot] += count;
	return 0;
}

/* Scores rows first .. first + count - 1 of the chunk that is in the residual. */
static int score_rows(kvs_engine *e, int first, int count, const int32_t *targets, float *nll, int32_t *top)
{
	kvs_tensor logits = rows_of(e->logits, 0, count);
	int err = upload_ids(e, e->targets, targets, count);

	if (!err)
		err = run_head(e, first, count);
	if (!err)
		err = kvs_nll(e->stream, rows_of(e->nll, 0, count), logits, rows_of(e->targets, 0, count));
	if (!err && top)
		err = kvs_argmax(e->stream, rows_of(e->top, 0, count), logits);
	if (!err)
		err = download(e, nll, rows_of(e->nll, 0, count));
	if (!err && top)
		err = download(e, top, rows_of(e->top, 0, count));
	return err;
}

int kvs_engine_score(kvs_engine *e, unsigned slot, const int32_t *ids, const int32_t *targets, size_t count, float *nll,
	int32_t *top)
{
	int err = check_ids(e, targets, count, "target");

	if (!err)
		err = begin_append(e, slot, ids, count);
	for (size_t first = 0, now; first < count && !err; first += now) {
		now = count - first < (size_t)e->chunk_tokens ? count - first : (size_t)e->chunk_tokens;
		err = run_layers(e, slot, first, now, e->lengths[slot] + first);
		for (size_t row = 0, rows; row < now && !err; row += rows) {
			rows = now - row < SCORE_ROWS ? now - row : SCORE_ROWS;
			err = score_rows(
				e, row, rows, targets + first + row, nll + first + row, top ? top + first + row : NULL);
		}
	}
	if (err) {
		give_back_room(e, slot);
		return err;
	}
	e->lengths[slot] += count;
	return 0;
}

int kvs_engine_truncate(kvs_engine *e, unsigned slot, int length)
{
	int err;

	if (slot >= e->slots || length < 0 || length > e->lengths[slot])
		return kvs_fail(-EINVAL, "cannot cut slot %u to %d tokens: %u slots, it holds %d", slot, length,
			e->slots, slot < e->slots ? e->lengths[slot] : 0);
	err = kvs_cache_resize(e->cache, slot, length);
	if (!err)
		e->lengths[slot] = length;
	return err;
}

int kvs_engine_wait(kvs_engine *e)
{
	return kvs_stream_synchronize(e->stream);
}

int kvs_engine_argmax(kvs_engine *e, int32_t *id)
{
	kvs_tensor top = rows_of(e->top, 0, 1);
	int err = kvs_argmax(e->stream, top, rows_of(e->logits, 0, 1));

	return err ? err : download(e, id, top);
}

int kvs_engine_logits(kvs_engine *e, float *logits)
{
	return download(e, logits, rows_of(e->logits, 0, 1));
}

int kvs_engine_probabilities(kvs_engine *e, float temperature, float *probs)
{
	kvs_tensor out = rows_of(e->logits, 1, 1); /* row 0 stays what the append left */
	int err = kvs_softmax(e->stream, out, rows_of(e->logits, 0, 1), temperature);

	return err ? err : download(e, probs, out);
}

/* ---- open and close ---- */

static int check_plan(const kvs_engine *e, const kvs_checkpoint *ckpt)
{
	struct kvs_plan_model model = {.architecture = e->config.model_type,
		.layers = e->config.layers,
		.kv_heads = e->config.kv_heads,
		.head_dim = e->config.head_dim,
		.fingerprint = kvs_checkpoint_fingerprint(ckpt)};

	return e->plan ? kvs_plan_check(e->plan, &model) : 0;
}

static int copy_plan(kvs_engine *e, const kvs_plan *plan)
{
	int layers = kvs_plan_layers(plan), owners[2 * KVS_PLAN_MAX_LAYERS];

	for (int l = 0; l < layers; l++) {
		owners[l] = kvs_plan_k_owner(plan, l);
		owners[layers + l] = kvs_plan_v_owner(plan, l);
	}
	return kvs_plan_create(layers, owners, owners + layers, &e->plan);
}

static int copy_config(kvs_engine *e, const struct kvs_config *config)
{
	e->config = *config;
	e->config.window = malloc(sizeof(*config->window) * config->layers);
	if (!e->config.window)
		return kvs_fail(-ENOMEM, "no memory for %d layers", config->layers);
	memcpy(e->config.window, config->window, sizeof(*config->window) * config->layers);
	return 0;
}

static int set_sizes(kvs_engine *e, const struct kvs_engine_options *options)
{
	int trained = e->config.max_positions;

	if (options->ctx_tokens < 0 || options->chunk_tokens < 0)
		return kvs_fail(-EINVAL, "context of %d and chunks of %d tokens: neither can be negative",
			options->ctx_tokens, options->chunk_tokens);
	e->slots = options->slots ? options->slots : 1;
	e->ctx_tokens = options->ctx_tokens ? options->ctx_tokens : trained < DEFAULT_CTX ? trained : DEFAULT_CTX;
	e->chunk_tokens = options->chunk_tokens ? options->chunk_tokens : DEFAULT_CHUNK;
	if (e->chunk_tokens > e->ctx_tokens)
		e->chunk_tokens = e->ctx_tokens;
	e->kv_dtype = options->kv_dtype_set ? options->kv_dtype : e->config.dtype;
	e->lengths = calloc(e->slots, sizeof(*e->lengths));
	return e->lengths ? 0 : kvs_fail(-ENOMEM, "no memory for %u slots", e->slots);
}

static int open_cache(kvs_engine *e, const struct kvs_engine_options *options)
{
	struct kvs_vmm_options vmm = {.block_bytes = options->block_bytes,
		.budget_bytes = options->budget_bytes,
		.premap = !options->no_premap};
	size_t token_bytes = (size_t)e->config.kv_heads * e->config.head_dim * kvs_dtype_bytes(e->kv_dtype);
	struct kvs_cache_shape shape = {.layers = e->config.layers,
		.slots = e->slots,
		.ctx_tokens = e->ctx_tokens,
		.k_token_bytes = token_bytes,
		.v_token_bytes = token_bytes};
	int err = kvs_vmm_create(e->cu, &vmm, &e->vmm);

	if (!err)
		err = kvs_vmm_attach_stream(e->vmm, kvs_stream_handle(e->stream));
	return err ? err : kvs_cache_create(e->vmm, &shape, e->share_by_pointer ? NULL : e->plan, &e->cache);
}

/* Carves the activations out of one allocation: called once to size it, once with its address. */
static size_t lay_out(kvs_engine *e, CUdeviceptr base)
{
	const struct kvs_config *c = &e->config;
	int q = c->heads * c->head_dim, qkv = q + 2 * c->kv_heads * c->head_dim, chunk = e->chunk_tokens;
	int parts = (int)kvs_attention_workspace(e->stream, c->heads, c->head_dim);
	int normed_rows = chunk > SCORE_ROWS ? chunk : SCORE_ROWS;
	struct {
		kvs_tensor *tensor;
		enum kvs_dtype dtype;
		int rows, cols;
	} parts_of[] = {
		{&e->ids, KVS_I32, e->ctx_tokens, 1},
		{&e->targets, KVS_I32, SCORE_ROWS, 1},
		{&e->top, KVS_I32, SCORE_ROWS, 1},
		{&e->residual, KVS_F32, chunk, c->hidden},
		{&e->normed, e->dtype, normed_rows, c->hidden},
		{&e->qkv, KVS_F32, chunk, qkv},
		{&e->attended, e->dtype, chunk, q},
		{&e->gate_up, KVS_F32, chunk, 2 * c->ff},
		{&e->gated, e->dtype, chunk, c->ff},
		{&e->logits, KVS_F32, SCORE_ROWS, c->vocab},
		{&e->nll, KVS_F32, SCORE_ROWS, 1},
		{&e->rope, KVS_F32, e->ctx_tokens, c->head_dim},
		{&e->workspace, KVS_F32, 1, parts},
	};
	size_t bytes = 0;

	for (size_t i = 0; i < sizeof(parts_of) / sizeof(*parts_of); i++) {
		size_t size = (size_t)parts_of[i].rows * parts_of[i].cols * kvs_dtype_bytes(parts_of[i].dtype);
		*parts_of[i].tensor = (kvs_tensor){base + bytes, parts_of[i].dtype, parts_of[i].rows, parts_of[i].cols};
		bytes += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	}
	return bytes;
}

static int allocate_activations(kvs_engine *e)
{
	size_t pinned_bytes = sizeof(float) * (e->config.vocab > e->ctx_tokens ? e->config.vocab : e->ctx_tokens);
	CUresult result;

	e->memory_bytes = lay_out(e, 0);
	result = e->cu->cuMemAlloc(&e->memory, e->memory_bytes);
	if (result)
		return kvs_cu_fail(e->cu, result, "%zu MiB for activations", e->memory_bytes >> 20);
	lay_out(e, e->memory);
	result = e->cu->cuMemAllocHost(&e->pinned, pinned_bytes);
	return result ? kvs_cu_fail(e->cu, result, "%zu bytes of pinned host memory", pinned_bytes) : 0;
}

static int upload_rope(kvs_engine *e)
{
	size_t bytes = (size_t)e->rope.rows * e->rope.cols * sizeof(float);
	float *table;
	CUresult result;
	int err = kvs_rope_table(&e->config, e->ctx_tokens, &table);

	if (err)
		return err;
	result = e->cu->cuMemcpyHtoD(e->rope.data, table, bytes);
	free(table);
	return result ? kvs_cu_fail(e->cu, result, "copying the rotations to the device") : 0;
}

static int set_up(kvs_engine *e, const kvs_checkpoint *ckpt, const struct kvs_engine_options *options)
{
	int err = copy_config(e, kvs_checkpoint_config(ckpt));

	if (!err)
		err = set_sizes(e, options);
	if (!err && options->plan)
		err = copy_plan(e, options->plan);
	if (!err)
		err = options->plan ? check_plan(e, ckpt) : 0;
	if (!err)
		err = kvs_stream_open(e->cu, &e->stream);
	if (err)
		return err;
	/* An f32 cache is asked for to see no rounding: then nothing else rounds either. */
	e->dtype = e->kv_dtype == KVS_F32 ? KVS_F32 : kvs_gemm_dtype(e->stream, e->config.dtype);
	err = open_cache(e, options);
	if (!err)
		err = allocate_activations(e);
	if (!err)
		err = upload_rope(e);
	return err ? err
		   : kvs_weights_load(e->cu, ckpt, e->dtype, options->progress, options->progress_arg, &e->weights);
}

int kvs_engine_open(kvs_cu *cu, const kvs_checkpoint *ckpt, const struct kvs_engine_options *options, kvs_engine **out)
{
	static const struct kvs_engine_options defaults;
	kvs_engine *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return kvs_fail(-ENOMEM, "no memory for an engine");
	if (!options)
		options = &defaults;
	e->cu = cu;
	e->share_by_pointer = options->share_by_pointer;
	err = set_up(e, ckpt, options);
	if (err) {
		kvs_engine_close(e);
		return err;
	}
	*out = e;
	return 0;
}

/* The stream goes first, with all its work; the manager then finds nothing in flight. */
void kvs_engine_close(kvs_engine *e)
{
	if (!e)
		return;
	if (e->vmm && e->stream)
		kvs_stream_synchronize(e->stream);
	kvs_cache_free(e->cache);
	kvs_vmm_free(e->vmm);
	kvs_stream_close(e->stream);
	kvs_weights_free(e->cu, &e->weights);
	if (e->memory)
		e->cu->cuMemFree(e->memory);
	if (e->pinned)
		e->cu->cuMemFreeHost(e->pinned);
	kvs_plan_free(e->plan);
	free(e->config.window);
	free(e->lengths);
	free(e);
}

/* ---- what can be asked ---- */

const struct kvs_config *kvs_engine_config(const kvs_engine *e)
{
	return &e->config;
}

int kvs_engine_ctx(const kvs_engine *e)
{
	return e->ctx_tokens;
}

int kvs_engine_length(const kvs_engine *e, unsigned slot)
{
	return slot < e->slots ? e->lengths[slot] : 0;
}

kvs_vmm *kvs_engine_vmm(kvs_engine *e)
{
	return e->vmm;
}

int kvs_engine_memory(kvs_engine *e, struct kvs_engine_memory *out)
{
	struct kvs_vmm_stats stats;
	int err = kvs_vmm_settle(e->vmm);

	if (err)
		return err;
	kvs_vmm_get_stats(e->vmm, &stats);
	*out = (struct kvs_engine_memory){.granule_bytes = stats.granule_bytes,
		.weights_bytes = e->weights.bytes,
		.workspace_bytes = e->memory_bytes,
		.kv_virtual_bytes = stats.virtual_bytes,
		.kv_physical_bytes = stats.physical_bytes,
		.kv_unshared_bytes = stats.unshared_bytes,
		.kv_row_bytes = (size_t)2 * e->config.layers * e->config.kv_heads * e->config.head_dim *
				kvs_dtype_bytes(e->kv_dtype)};
	return 0;
}
