/*
 * model/engine.c: an engine's memory, and the timeline of each slot.
 *
 * A prompt is run in chunks. The cache is first grown for all of it, then every launch is enqueued; nothing waits until a
 * caller asks for a result.
 */
#include "engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX 4096 /* without ctx_tokens: the KV cache of a long context is large */
#define DEFAULT_CHUNK 512
#define ALIGNMENT 256

/* ---- timelines ---- */

int model_check_ids(const kvs_engine *e, const int32_t *ids, size_t count, const char *what)
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
	return model_check_ids(e, ids, count, "token");
}

/*
 * Waits first: the previous copy may still read the pinned buffer. Between sampled tokens there is nothing to wait for.
 */
int model_upload_ids(kvs_engine *e, kvs_tensor to, const int32_t *ids, size_t count)
{
	int err = kvs_stream_synchronize(e->stream);
	CUresult result;

	if (err)
		return err;
	memcpy(e->pinned, ids, count * sizeof(*ids));
	result = e->cu->cuMemcpyHtoDAsync(to.data, e->pinned, count * sizeof(*ids), kvs_stream_handle(e->stream));
	return result ? kvs_cu_fail(e->cu, result, "copying %zu token ids to the device", count) : 0;
}

int model_download(kvs_engine *e, void *out, kvs_tensor from)
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

void model_stamp(kvs_engine *e, unsigned slot, int first, int tokens)
{
	e->generation++;
	for (int t = first; slot == 0 && e->generations && t < first + tokens; t++)
		e->generations[t] = e->generation;
}

static size_t owners_of(const kvs_engine *e, enum kvs_k_or_v which)
{
	size_t owners = 0;

	for (int layer = 0; layer < e->config.layers; layer++)
		owners += !e->plan || e->share_by_pointer || kvs_plan_owner(e->plan, layer, which) == layer;
	return owners;
}

void model_note_use(const kvs_engine *e)
{
	size_t tokens = 0, bytes = kvs_kv_token_bytes(e->kv);

	if (!e->note)
		return;
	for (unsigned slot = 0; slot < e->slots; slot++)
		tokens += kvs_cache_tokens(e->cache, slot);
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_K_USE, .bytes = tokens * bytes * owners_of(e, KVS_K)});
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_V_USE, .bytes = tokens * bytes * owners_of(e, KVS_V)});
}

/* Room in the cache, and the ids on the device. If a later step fails, give_back_room() undoes it. */
static int begin_append(kvs_engine *e, unsigned slot, const int32_t *ids, size_t count)
{
	int err = check_append(e, slot, ids, count);

	if (!err)
		err = kvs_cache_resize(e->cache, slot, e->lengths[slot] + count);
	if (err)
		return err;
	model_note_use(e);
	model_stamp(e, slot, e->lengths[slot], count);
	return model_upload_ids(e, e->ids, ids, count);
}

static void give_back_room(kvs_engine *e, unsigned slot)
{
	if (slot < e->slots)
		kvs_cache_resize(e->cache, slot, e->lengths[slot]); /* shrinking does not fail */
}

/* `count` tokens of e->ids from `first` on, after the tokens of the slot and the earlier chunks. */
static int run_chunk(kvs_engine *e, unsigned slot, int first, int count)
{
	struct model_pass pass = {.slot = slot, .sequences = 1, .tokens = count, .start = e->lengths[slot] + first};
	int err = kvs_embed(
		e->stream, model_rows(e->residual, 0, count), e->weights.embedding, model_rows(e->ids, first, count));

	e->sequences = 0;
	return err ? err : model_run_layers(e, &pass);
}

int kvs_engine_append(kvs_engine *e, unsigned slot, const int32_t *ids, size_t count)
{
	int err, now = 0;

	model_note(
		e, (struct kvs_engine_note){.kind = count > 1 ? KVS_NOTE_PREFILL : KVS_NOTE_DECODE, .tokens = count});
	err = begin_append(e, slot, ids, count);
	for (size_t first = 0; first < count && !err; first += now) {
		now = count - first < (size_t)e->chunk_tokens ? (int)(count - first) : e->chunk_tokens;
		err = run_chunk(e, slot, first, now);
	}
	if (!err)
		err = model_run_head(e, model_rows(e->residual, now - 1, 1));
	if (err) {
		give_back_room(e, slot);
		return err;
	}
	e->lengths[slot] += count;
	return 0;
}

/* NaN: a logit was not a number. An infinite loss is legal: the target's logit is -inf. */
static int check_scores(const float *nll, const int32_t *top, int count)
{
	for (int i = 0; i < count; i++)
		if (isnan(nll[i]) || (top && top[i] < 0))
			return kvs_fail(-EIO, "the loss is not a number: the model's weights may be damaged");
	return 0;
}

int model_score_rows(kvs_engine *e, int first, int count, const int32_t *targets, float *nll, int32_t *top)
{
	kvs_tensor logits = model_rows(e->logits, 0, count);
	int err = model_upload_ids(e, e->targets, targets, count);

	if (!err)
		err = model_run_head(e, model_rows(e->residual, first, count));
	if (!err)
		err = kvs_nll(e->stream, model_rows(e->nll, 0, count), logits, model_rows(e->targets, 0, count));
	if (!err && top)
		err = kvs_argmax(e->stream, model_rows(e->top, 0, count), logits);
	if (!err)
		err = model_download(e, nll, model_rows(e->nll, 0, count));
	if (!err && top)
		err = model_download(e, top, model_rows(e->top, 0, count));
	return err ? err : check_scores(nll, top, count);
}

int kvs_engine_score(kvs_engine *e, unsigned slot, const int32_t *ids, const int32_t *targets, size_t count, float *nll,
	int32_t *top)
{
	int err = model_check_ids(e, targets, count, "target");

	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_SCORE, .tokens = count});
	if (!err)
		err = begin_append(e, slot, ids, count);
	for (size_t first = 0, now; first < count && !err; first += now) {
		now = count - first < (size_t)e->chunk_tokens ? count - first : (size_t)e->chunk_tokens;
		err = run_chunk(e, slot, first, now);
		for (size_t row = 0, rows; row < now && !err; row += rows) {
			rows = now - row < (size_t)e->score_rows ? now - row : (size_t)e->score_rows;
			err = model_score_rows(
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
	if (!err)
		model_note_use(e);
	if (!err)
		model_stamp(e, slot, length, e->ctx_tokens - length);
	return err;
}

int kvs_engine_wait(kvs_engine *e)
{
	return kvs_stream_synchronize(e->stream);
}

static int not_numbers(void)
{
	return kvs_fail(-EIO, "the model's logits are not numbers: its weights may be damaged");
}

int kvs_engine_argmax(kvs_engine *e, int32_t *id)
{
	kvs_tensor top = model_rows(e->top, 0, 1);
	int err = kvs_argmax(e->stream, top, model_rows(e->logits, 0, 1));

	if (!err)
		err = model_download(e, id, top);
	return err || *id >= 0 ? err : not_numbers();
}

int kvs_engine_logits(kvs_engine *e, float *logits)
{
	return model_download(e, logits, model_rows(e->logits, 0, 1));
}

int kvs_engine_probabilities(kvs_engine *e, float temperature, float *probs)
{
	kvs_tensor out = model_rows(e->logits, 1, 1); /* row 0 keeps the logits of the append */
	int err = kvs_softmax(e->stream, out, model_rows(e->logits, 0, 1), temperature);

	if (!err)
		err = model_download(e, probs, out);
	return err || !isnan(probs[0]) ? err : not_numbers(); /* a NaN among the logits makes the sum NaN, and so all */
}

/* ---- matrices in place of others ---- */

int kvs_engine_set_matrix(kvs_engine *e, const char *name, int rows, int cols, enum kvs_dtype dtype, float *values)
{
	model_round(values, dtype, (size_t)rows * cols);
	return model_weights_put(e, name, KVS_F32, rows, cols, values);
}

int kvs_engine_reset_matrix(kvs_engine *e, const kvs_checkpoint *ckpt, const char *name)
{
	struct kvs_weight stored;
	void *data = NULL;
	int err = kvs_checkpoint_weight(ckpt, name, &stored);

	if (!err)
		data = malloc(stored.bytes);
	if (!err && !data)
		err = kvs_fail(-ENOMEM, "no memory for %s", name);
	if (!err)
		err = kvs_checkpoint_read(ckpt, name, 0, data, stored.bytes);
	if (!err)
		err = model_weights_put_back(e, name, stored.dtype, stored.shape[0], stored.shape[1], data);
	free(data);
	return err;
}

/* Both halves at the first, so that a layer never runs with those of two patches. The checkpoint has none. */
static int put_skip(kvs_engine *e, const kvs_patch *patch, int layer, char which, const kvs_checkpoint *ckpt)
{
	if (ckpt && layer < e->config.layers)
		return model_skip_remove(e, layer);
	return which == 'a' || ckpt ? model_skip_put_patch(e, patch, layer) : 0;
}

int kvs_engine_set_patch(kvs_engine *e, const kvs_patch *patch, const kvs_checkpoint *ckpt)
{
	int err = 0;

	if (!ckpt && e->policy == KVS_POLICY_LAST)
		return kvs_fail(-EINVAL, "the plan's refitted matrices are for the policy owner: with last they make "
					 "it worse (--policy)");
	for (size_t i = 0; i < kvs_patch_count(patch) && !err; i++) {
		struct kvs_patch_matrix matrix;
		int layer;
		char which;
		kvs_patch_get(patch, i, &matrix);
		if (model_skip_parse(matrix.name, &layer, &which)) {
			err = put_skip(e, patch, layer, which, ckpt);
			continue;
		}
		err = ckpt ? kvs_engine_reset_matrix(e, ckpt, matrix.name)
			   : model_weights_put(e, matrix.name, matrix.dtype, matrix.rows, matrix.cols, matrix.data);
	}
	return err;
}

/* ---- open and close ---- */

static int check_plan(const kvs_engine *e, const kvs_plan *plan)
{
	struct kvs_plan_model model = {.architecture = e->config.model_type,
		.layers = e->config.layers,
		.kv_heads = e->config.kv_heads,
		.head_dim = e->config.head_dim,
		.fingerprint = e->fingerprint};

	return kvs_plan_check(plan, &model);
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

	if (options->ctx_tokens < 0 || options->chunk_tokens < 0 || options->sequence_tokens < 0 ||
		options->pass_tokens < 0)
		return kvs_fail(-EINVAL,
			"context of %d, chunks of %d, sequences of %d and passes of %d tokens: none can be negative",
			options->ctx_tokens, options->chunk_tokens, options->sequence_tokens, options->pass_tokens);
	e->slots = options->slots ? options->slots : 1;
	e->ctx_tokens = options->ctx_tokens ? options->ctx_tokens : trained < DEFAULT_CTX ? trained : DEFAULT_CTX;
	e->positions = options->sequence_tokens && options->sequence_tokens < e->ctx_tokens ? options->sequence_tokens
											    : e->ctx_tokens;
	e->chunk_tokens = options->chunk_tokens ? options->chunk_tokens : DEFAULT_CHUNK;
	if (e->chunk_tokens > e->ctx_tokens)
		e->chunk_tokens = e->ctx_tokens;
	if (options->score_rows < 0 || options->score_rows == 1)
		return kvs_fail(
			-EINVAL, "logits of %d tokens at a time: there must be room for 2", options->score_rows);
	e->score_rows = options->score_rows ? options->score_rows : MODEL_SCORE_ROWS;
	e->kv = (struct kvs_kv_format){.dtype = options->kv_dtype_set ? options->kv_dtype : e->config.dtype,
		.kv_heads = e->config.kv_heads,
		.head_dim = e->config.head_dim};
	if (e->share_by_pointer && e->policy == KVS_POLICY_LAST)
		e->pass_tokens = options->pass_tokens ? options->pass_tokens : 1;
	e->lengths = calloc(e->slots, sizeof(*e->lengths));
	if (e->share_by_pointer)
		e->generations = calloc(e->ctx_tokens, sizeof(*e->generations));
	if (!e->lengths || (e->share_by_pointer && !e->generations))
		return kvs_fail(-ENOMEM, "no memory for %u slots of %d tokens", e->slots, e->ctx_tokens);
	return 0;
}

static int create_cache(kvs_engine *e, const kvs_plan *plan, kvs_cache **out)
{
	size_t token_bytes = kvs_kv_token_bytes(e->kv);
	struct kvs_cache_shape shape = {.layers = e->config.layers,
		.slots = e->slots,
		.ctx_tokens = e->ctx_tokens,
		.k_token_bytes = token_bytes,
		.v_token_bytes = token_bytes};

	return kvs_cache_create(e->vmm, &shape, e->share_by_pointer ? NULL : plan, out);
}

static void note_kv(const kvs_engine *e, enum kvs_engine_note_kind kind, int layer)
{
	enum kvs_k_or_v which = kind == KVS_NOTE_K ? KVS_K : KVS_V;
	kvs_region *region = which == KVS_K ? kvs_cache_k_region(e->cache, layer) : kvs_cache_v_region(e->cache, layer);
	int owner = e->plan && !e->share_by_pointer ? kvs_plan_owner(e->plan, layer, which) : layer;

	model_note(e, (struct kvs_engine_note){.kind = kind,
			      .address = kvs_region_address(region, 0),
			      .bytes = kvs_region_slot_stride(region) * kvs_region_slots(region),
			      .layer = layer,
			      .owner = owner == layer ? -1 : owner});
}

static void note_cache(const kvs_engine *e)
{
	for (int layer = 0; e->note && layer < e->config.layers; layer++) {
		note_kv(e, KVS_NOTE_K, layer);
		note_kv(e, KVS_NOTE_V, layer);
	}
	model_note_use(e);
}

/*
 * A process may have 65,530 mappings (vm.max_map_count), and on the host device a block is one. So where granules are small,
 * the blocks of a long context are larger: they double until a full cache has no more than a quarter of that, or until they
 * are as large as a GPU's. 0: one granule. On a GPU it is always one, as sizes are rounded up to granules.
 */
static size_t block_bytes_for(const kvs_engine *e)
{
	const size_t least = 64 << 10, largest = 2 << 20, most_blocks = 16384;
	double full = 2.0 * e->config.layers * e->slots * e->ctx_tokens * kvs_kv_token_bytes(e->kv);
	size_t bytes = least;

	while (bytes < largest && full > (double)most_blocks * bytes)
		bytes *= 2;
	return bytes > least ? bytes : 0;
}

static int open_cache(kvs_engine *e, const struct kvs_engine_options *options)
{
	struct kvs_vmm_options vmm = {.block_bytes = options->block_bytes ? options->block_bytes : block_bytes_for(e),
		.budget_bytes = options->budget_bytes,
		.premap = !options->no_premap};
	int err = kvs_vmm_create(e->cu, &vmm, &e->vmm);

	if (!err)
		err = kvs_vmm_attach_stream(e->vmm, kvs_stream_handle(e->stream));
	if (!err)
		err = create_cache(e, e->plan, &e->cache);
	if (!err)
		note_cache(e);
	return err;
}

/* The old plan and cache are freed only when the new ones exist. */
int kvs_engine_set_plan(kvs_engine *e, const kvs_plan *plan)
{
	kvs_plan *copy = NULL;
	kvs_cache *cache = NULL;
	int err = plan ? check_plan(e, plan) : 0;

	if (!err && plan)
		err = kvs_plan_copy(plan, &copy);
	if (!err && !e->share_by_pointer)
		err = create_cache(e, copy, &cache);
	if (err) {
		kvs_plan_free(copy);
		return err;
	}
	kvs_plan_free(e->plan);
	e->plan = copy;
	if (cache) {
		kvs_cache_free(e->cache);
		e->cache = cache;
		note_cache(e);
		memset(e->lengths, 0, sizeof(*e->lengths) * e->slots);
	}
	return 0;
}

/* Carves the activations out of one allocation: called once for its size, once with its address. */
static size_t lay_out(kvs_engine *e, CUdeviceptr base)
{
	const struct kvs_config *c = &e->config;
	int q = c->heads * c->head_dim, qkv = q + 2 * c->kv_heads * c->head_dim, chunk = e->chunk_tokens;
	int parts = (int)kvs_attention_workspace(e->stream, c->heads, c->head_dim);
	int normed_rows = chunk > e->score_rows ? chunk : e->score_rows;
	struct {
		kvs_tensor *tensor;
		enum kvs_dtype dtype;
		int rows, cols;
	} parts_of[] = {
		{&e->ids, KVS_I32, e->ctx_tokens, 1},
		{&e->targets, KVS_I32, e->score_rows, 1},
		{&e->top, KVS_I32, e->score_rows, 1},
		{&e->residual, KVS_F32, chunk, c->hidden},
		{&e->finished, KVS_F32, e->pass_tokens ? chunk : 0, c->hidden},
		{&e->normed, e->dtype, normed_rows, c->hidden},
		{&e->qkv, KVS_F32, chunk, qkv},
		{&e->attended, e->dtype, chunk, q},
		{&e->gate_up, KVS_F32, chunk, 2 * c->ff},
		{&e->gated, e->dtype, chunk, c->ff},
		{&e->hidden, KVS_F32, e->score_rows, c->hidden},
		{&e->logits, KVS_F32, e->score_rows, c->vocab},
		{&e->nll, KVS_F32, e->score_rows, 1},
		{&e->rope, KVS_F32, e->positions, c->head_dim},
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
	int most = e->config.vocab > e->ctx_tokens ? e->config.vocab : e->ctx_tokens;
	CUresult result;

	e->pinned_bytes = sizeof(float) * (most > e->config.hidden ? most : e->config.hidden);
	e->memory_bytes = lay_out(e, 0);
	result = e->cu->cuMemAlloc(&e->memory, e->memory_bytes);
	if (result)
		return kvs_cu_fail(e->cu, result, "%zu MiB for activations", e->memory_bytes >> 20);
	lay_out(e, e->memory);
	model_note(e,
		(struct kvs_engine_note){.kind = KVS_NOTE_ACTIVATIONS, .address = e->memory, .bytes = e->memory_bytes});
	result = e->cu->cuMemAllocHost(&e->pinned, e->pinned_bytes);
	return result ? kvs_cu_fail(e->cu, result, "%zu bytes of pinned host memory", e->pinned_bytes) : 0;
}

static int upload_rope(kvs_engine *e)
{
	float *table;
	size_t bytes = (size_t)e->rope.rows * e->rope.cols * sizeof(*table);
	CUresult result;
	int err = model_rope_table(&e->config, e->positions, &table);

	if (err)
		return err;
	result = e->cu->cuMemcpyHtoD(e->rope.data, table, bytes);
	if (!result)
		result = e->cu->cuStreamSynchronize(NULL); /* the engine's stream does not wait for the last bytes */
	free(table);
	return result ? kvs_cu_fail(e->cu, result, "copying the rotations to the device") : 0;
}

static int load_weights(kvs_engine *e, const kvs_checkpoint *ckpt, const struct kvs_engine_options *options)
{
	if (!ckpt)
		return model_weights_random(e);
	return model_weights_load(e, ckpt, options->progress, options->progress_arg);
}

/*
 * Callers choose an f32 cache to avoid rounding, so then nothing else rounds either: on a GPU weights become f32 too. On
 * the host they may stay as they are stored, since x is f32 there and products are exact.
 */
static void set_types(kvs_engine *e)
{
	e->mixed_weights = kvs_gemm_x_dtype(e->stream, KVS_BF16) != kvs_gemm_dtype(e->stream, KVS_BF16);
	e->weight_dtype = kvs_gemm_dtype(e->stream, e->config.dtype);
	if (e->kv.dtype == KVS_F32 && !e->mixed_weights)
		e->weight_dtype = KVS_F32;
	e->dtype = kvs_gemm_x_dtype(e->stream, e->weight_dtype);
}

/* `ckpt` is NULL for random weights. */
static int set_up(kvs_engine *e, const struct kvs_config *config, const kvs_checkpoint *ckpt,
	const struct kvs_engine_options *options)
{
	int err = copy_config(e, config);

	if (!err)
		err = set_sizes(e, options);
	if (!err && ckpt) {
		e->fingerprint = strdup(kvs_checkpoint_fingerprint(ckpt));
		err = e->fingerprint ? 0 : kvs_fail(-ENOMEM, "no memory for an engine");
	}
	if (!err && options->plan)
		err = check_plan(e, options->plan);
	if (!err && options->plan)
		err = kvs_plan_copy(options->plan, &e->plan);
	if (!err)
		err = kvs_stream_open(e->cu, &e->stream);
	if (err)
		return err;
	set_types(e);
	err = open_cache(e, options);
	if (!err)
		err = allocate_activations(e);
	if (!err)
		err = upload_rope(e);
	if (!err)
		err = load_weights(e, ckpt, options);
	kvs_stream_stop_when(e->stream, options->stop);
	return err;
}

static int open_engine(kvs_cu *cu, const struct kvs_config *config, const kvs_checkpoint *ckpt,
	const struct kvs_engine_options *options, kvs_engine **out)
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
	e->policy = options->policy;
	e->note = options->note;
	e->note_arg = options->note_arg;
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_LOAD});
	err = set_up(e, config, ckpt, options);
	if (err) {
		kvs_engine_close(e);
		return err;
	}
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_IDLE});
	*out = e;
	return 0;
}

int kvs_engine_open(kvs_cu *cu, const kvs_checkpoint *ckpt, const struct kvs_engine_options *options, kvs_engine **out)
{
	return open_engine(cu, kvs_checkpoint_config(ckpt), ckpt, options, out);
}

int kvs_engine_open_random(
	kvs_cu *cu, const struct kvs_config *config, const struct kvs_engine_options *options, kvs_engine **out)
{
	return open_engine(cu, config, NULL, options, out);
}

/* The stream goes first, with all its work; the manager then finds nothing in flight. */
void kvs_engine_close(kvs_engine *e)
{
	if (!e)
		return;
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_IDLE});
	if (e->stream)
		kvs_stream_stop_when(e->stream, NULL);
	if (e->vmm && e->stream)
		kvs_stream_synchronize(e->stream);
	kvs_cache_free(e->cache);
	kvs_vmm_free(e->vmm);
	kvs_stream_close(e->stream);
	model_skips_free(e);
	model_weights_free(e->cu, &e->weights);
	if (e->memory)
		KVS_CU_GIVE_BACK(e->cu->cuMemFree, e->memory);
	if (e->pinned)
		KVS_CU_GIVE_BACK(e->cu->cuMemFreeHost, e->pinned);
	kvs_plan_free(e->plan);
	free(e->fingerprint);
	free(e->config.window);
	free(e->lengths);
	free(e->generations);
	free(e);
}

/* ---- getters ---- */

const struct kvs_config *kvs_engine_config(const kvs_engine *e)
{
	return &e->config;
}

uint64_t kvs_engine_bytes_moved(const kvs_engine *e)
{
	return kvs_stream_bytes_moved(e->stream);
}

int kvs_engine_ctx(const kvs_engine *e)
{
	return e->ctx_tokens;
}

enum kvs_policy kvs_engine_policy(const kvs_engine *e)
{
	return e->policy;
}

int kvs_engine_pass_tokens(const kvs_engine *e)
{
	return e->pass_tokens;
}

int kvs_engine_length(const kvs_engine *e, unsigned slot)
{
	return slot < e->slots ? e->lengths[slot] : 0;
}

kvs_stream *kvs_engine_stream(kvs_engine *e)
{
	return e->stream;
}

kvs_vmm *kvs_engine_vmm(kvs_engine *e)
{
	return e->vmm;
}

kvs_cu *kvs_engine_cu(kvs_engine *e)
{
	return e->cu;
}

const kvs_plan *kvs_engine_plan(const kvs_engine *e)
{
	return e->plan;
}

uint64_t kvs_engine_generation(const kvs_engine *e)
{
	return e->generation;
}

uint64_t kvs_engine_token_generation(const kvs_engine *e, int token)
{
	return e->generations && token >= 0 && token < e->ctx_tokens ? e->generations[token] : 0;
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
		.weights_mapped_bytes = e->weights.mapped_bytes,
		.workspace_bytes = e->memory_bytes,
		.kv_virtual_bytes = stats.virtual_bytes,
		.kv_physical_bytes = stats.physical_bytes,
		.kv_unshared_bytes = stats.unshared_bytes,
		.kv_row_bytes = 2 * e->config.layers * kvs_kv_token_bytes(e->kv)};
	return 0;
}
