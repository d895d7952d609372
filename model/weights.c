/*
 * model/weights.c: weights from a checkpoint to the device.
 *
 * A list says where each stored tensor goes (Q, K and V into one matrix, gate and up into another). One pass over it
 * sizes a single allocation, a second fills it. Tensors are read in pieces, and converted if the device needs another
 * type, so that host memory stays small. On the host device what lies in the file as it is wanted stays there (mapped.c), and
 * the rest is read to where it belongs.
 */
#include "checkpoint/checkpoint.h"
#include "engine.h"
#include "gguf.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 256           /* good for cuBLAS and for 16-byte loads */
#define FILL_ELEMENTS (1 << 20) /* to read and convert at a time: two buffers of 4 MiB */
#define FILL_BYTES (FILL_ELEMENTS * sizeof(float))
#define ROWS_BYTES (256 << 10)   /* of rows for the host device at a time: they stay in the processor's second cache */
#define MAPPED_ALIGNMENT 4       /* of a matrix in its file: of a number of f32 */
#define PIECE_ELEMENTS (4 << 20) /* of the pattern of random weights */
#define LARGEST_F16 65504.0f

/* A stored matrix or vector and the rows of a device tensor that it fills. */
struct placement {
	char name[96];
	kvs_tensor *tensor;
	int first_row, rows, cols; /* a vector is one row */
	bool vector;
	bool mapped;     /* it is in its file's pages */
	bool beyond_f16; /* it was to become f16, and has a number that f16 does not reach */
};

struct loader {
	const kvs_engine *engine;
	kvs_cu *cu;
	const kvs_checkpoint *ckpt;
	const struct kvs_config *config;
	enum kvs_dtype dtype;
	bool keep_types; /* the tensors have theirs */
	bool in_place;   /* memory of the device is memory of this process, and its kernels take any type */
	struct placement *items;
	size_t count, room;
	void (*progress)(void *arg, size_t done_bytes, size_t total_bytes);
	void *progress_arg;
	size_t done_bytes, total_bytes;
};

static int place(struct loader *loader, kvs_tensor *tensor, int first_row, int rows, int cols, const char *name)
{
	if (loader->count == loader->room) {
		size_t room = loader->room ? 2 * loader->room : 64;
		struct placement *items = realloc(loader->items, room * sizeof(*items));
		if (!items)
			return kvs_fail(-ENOMEM, "no memory for the list of weights");
		loader->items = items;
		loader->room = room;
	}
	struct placement *item = &loader->items[loader->count++];
	*item = (struct placement){.tensor = tensor, .first_row = first_row, .rows = rows, .cols = cols};
	snprintf(item->name, sizeof(item->name), "%s", name);
	tensor->rows = first_row + rows;
	tensor->cols = cols;
	if (!loader->keep_types)
		tensor->dtype = loader->dtype;
	return 0;
}

static int place_vector(struct loader *loader, kvs_tensor *tensor, int first, int length, const char *name)
{
	int err = place(loader, tensor, first, length, 1, name);

	if (err)
		return err;
	loader->items[loader->count - 1].vector = true;
	tensor->dtype = KVS_F32;
	tensor->cols = first + length;
	tensor->rows = 1;
	return 0;
}

/* A projection of layer `l`: its matrix and, if there is one, its bias, into the rows of `tensor` from `first` on. */
static int place_projection(struct loader *loader, int l, const char *name, kvs_tensor *tensor, kvs_tensor *bias,
	int first, int rows, int cols)
{
	char full[96];
	int err;

	snprintf(full, sizeof(full), "model.layers.%d.%s.weight", l, name);
	err = place(loader, tensor, first, rows, cols, full);
	if (err || !bias)
		return err;
	snprintf(full, sizeof(full), "model.layers.%d.%s.bias", l, name);
	return place_vector(loader, bias, first, rows, full);
}

static int place_norm(struct loader *loader, int l, const char *name, kvs_tensor *tensor, int length)
{
	char full[96];

	snprintf(full, sizeof(full), "model.layers.%d.%s.weight", l, name);
	return place_vector(loader, tensor, 0, length, full);
}

static int place_attention(struct loader *loader, int l, struct model_layer *layer)
{
	const struct kvs_config *config = loader->config;
	int q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim, hidden = config->hidden;
	kvs_tensor *bias = config->qkv_bias ? &layer->qkv_bias : NULL;
	kvs_tensor *o_bias = config->o_bias ? &layer->o_bias : NULL;
	int err = place_norm(loader, l, "input_layernorm", &layer->attn_norm, hidden);

	if (!err)
		err = place_projection(loader, l, "self_attn.q_proj", &layer->qkv, bias, 0, q, hidden);
	if (!err)
		err = place_projection(loader, l, "self_attn.k_proj", &layer->qkv, bias, q, kv, hidden);
	if (!err)
		err = place_projection(loader, l, "self_attn.v_proj", &layer->qkv, bias, q + kv, kv, hidden);
	if (!err)
		err = place_projection(loader, l, "self_attn.o_proj", &layer->o, o_bias, 0, hidden, q);
	if (!err && config->qk_norm)
		err = place_norm(loader, l, "self_attn.q_norm", &layer->q_gain, config->head_dim);
	if (!err && config->qk_norm)
		err = place_norm(loader, l, "self_attn.k_norm", &layer->k_gain, config->head_dim);
	return err;
}

static int place_mlp(struct loader *loader, int l, struct model_layer *layer)
{
	const struct kvs_config *config = loader->config;
	int ff = config->ff, hidden = config->hidden;
	kvs_tensor *bias = config->mlp_bias ? &layer->gate_up_bias : NULL;
	kvs_tensor *down_bias = config->mlp_bias ? &layer->down_bias : NULL;
	int err = place_norm(loader, l, "post_attention_layernorm", &layer->ffn_norm, hidden);

	if (!err)
		err = place_projection(loader, l, "mlp.gate_proj", &layer->gate_up, bias, 0, ff, hidden);
	if (!err)
		err = place_projection(loader, l, "mlp.up_proj", &layer->gate_up, bias, ff, ff, hidden);
	if (!err)
		err = place_projection(loader, l, "mlp.down_proj", &layer->down, down_bias, 0, hidden, ff);
	return err;
}

static int place_all(struct loader *loader, struct model_weights *weights)
{
	const struct kvs_config *config = loader->config;
	int err = place(loader, &weights->embedding, 0, config->vocab, config->hidden, "model.embed_tokens.weight");

	for (int l = 0; l < config->layers && !err; l++) {
		err = place_attention(loader, l, &weights->layers[l]);
		if (!err)
			err = place_mlp(loader, l, &weights->layers[l]);
	}
	if (!err)
		err = place_vector(loader, &weights->final_norm, 0, config->hidden, "model.norm.weight");
	if (!err && !config->tied_embeddings)
		err = place(loader, &weights->head, 0, config->vocab, config->hidden, "lm_head.weight");
	return err;
}

static size_t tensor_bytes(const kvs_tensor *tensor)
{
	return tensor->rows * kvs_row_bytes(tensor->dtype, tensor->cols);
}

/* The first part of a tensor, with first_row 0, reserves the space of all. */
static size_t lay_out(struct loader *loader, CUdeviceptr base)
{
	size_t bytes = 0;

	for (size_t i = 0; i < loader->count; i++) {
		kvs_tensor *tensor = loader->items[i].tensor;
		if (loader->items[i].first_row || loader->items[i].mapped)
			continue;
		tensor->data = base + bytes;
		bytes += (tensor_bytes(tensor) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	}
	return bytes;
}

static int find_stored(struct loader *loader, const struct placement *item, struct kvs_weight *stored)
{
	int err = kvs_checkpoint_weight(loader->ckpt, item->name, stored);

	if (err)
		return err;
	if (item->vector) {
		if (stored->rank == 1 && stored->shape[0] == item->rows)
			return 0;
		return kvs_fail(-EINVAL, "%s has rank %d and %lld elements, config.json asks for [%d]", item->name,
			stored->rank, (long long)(stored->bytes / kvs_dtype_bytes(stored->dtype)), item->rows);
	}
	if (stored->rank == 2 && stored->shape[0] == item->rows && stored->shape[1] == item->cols)
		return 0;
	return kvs_fail(-EINVAL, "%s has rank %d and %lld elements, config.json asks for [%d][%d]", item->name,
		stored->rank, (long long)(stored->bytes / kvs_dtype_bytes(stored->dtype)), item->rows, item->cols);
}

static void count_done(struct loader *loader, size_t bytes)
{
	loader->done_bytes += bytes;
	if (loader->progress)
		loader->progress(loader->progress_arg, loader->done_bytes, loader->total_bytes);
}

static int copy_piece(struct loader *loader, CUdeviceptr to, const void *from, size_t bytes, const char *name)
{
	CUresult result = loader->cu->cuMemcpyHtoD(to, from, bytes);

	if (result)
		return kvs_cu_fail(loader->cu, result, "copying %zu bytes of %s to the device", bytes, name);
	count_done(loader, bytes);
	return 0;
}

static bool is_beyond_f16(const float *values, size_t count)
{
	bool beyond = false;

	for (size_t i = 0; i < count; i++)
		beyond |= fabsf(values[i]) > LARGEST_F16;
	return beyond;
}

static int fail_beyond_f16(const struct placement *item)
{
	return kvs_fail(
		-ERANGE, "%s has numbers beyond f16, whose largest is 65504: run with --kv-dtype f32", item->name);
}

/* A matrix that keeps its type: bytes as the file has them. */
static int fill_rows(struct loader *loader, const struct placement *item, void *raw)
{
	size_t row_bytes = kvs_row_bytes(item->tensor->dtype, item->cols);
	int most = (int)((loader->cu->kind == KVS_DEVICE_HOST ? ROWS_BYTES : FILL_BYTES) / row_bytes), err = 0;

	if (row_bytes > FILL_BYTES)
		return kvs_fail(-EINVAL, "%s: a row of %zu bytes is too long", item->name, row_bytes);
	most = most ? most : 1;
	for (int first = 0, now; first < item->rows && !err; first += now) {
		CUdeviceptr to = item->tensor->data + (item->first_row + first) * row_bytes;
		now = item->rows - first < most ? item->rows - first : most;
		err = kvs_checkpoint_read_rows(
			loader->ckpt, item->name, first, now, loader->in_place ? (void *)to : raw);
		if (!err && loader->in_place)
			count_done(loader, now * row_bytes);
		else if (!err)
			err = copy_piece(loader, to, raw, now * row_bytes, item->name);
	}
	return err;
}

static int fill(struct loader *loader, struct placement *item, void *raw, float *piece)
{
	struct kvs_weight stored;
	size_t count = (size_t)item->rows * item->cols, size = kvs_dtype_bytes(item->tensor->dtype), stored_size;
	CUdeviceptr to;
	int err = find_stored(loader, item, &stored);

	if (err)
		return err;
	if (!item->vector && stored.stored == item->tensor->dtype)
		return fill_rows(loader, item, raw);
	to = item->tensor->data + (size_t)item->first_row * item->cols * size;
	stored_size = kvs_dtype_bytes(stored.dtype);
	for (size_t first = 0; first < count && !err; first += FILL_ELEMENTS) {
		size_t now = count - first < FILL_ELEMENTS ? count - first : FILL_ELEMENTS;
		const void *from = raw;
		err = kvs_checkpoint_read(loader->ckpt, item->name, first * stored_size, raw, now * stored_size);
		if (!err && stored.dtype != item->tensor->dtype) {
			if (stored.dtype == KVS_F32)
				model_from_f32(piece, raw, item->tensor->dtype, now);
			else
				model_to_f32(piece, raw, stored.dtype, 0, now);
			if (item->tensor->dtype == KVS_F16)
				item->beyond_f16 |= is_beyond_f16(raw, now);
			from = piece;
		}
		if (!err)
			err = copy_piece(loader, to + first * size, from, now * size, item->name);
	}
	return err;
}

/* A matrix keeps its stored type or becomes f32; only one that was read as f32 from another type becomes f16 or bf16. */
static int check_types(const struct loader *loader)
{
	for (size_t i = 0; i < loader->count; i++) {
		struct kvs_weight stored;
		int err = kvs_checkpoint_weight(loader->ckpt, loader->items[i].name, &stored);
		if (err)
			return err;
		if (loader->items[i].tensor->dtype != KVS_F32 && !stored.widened &&
			stored.dtype != loader->items[i].tensor->dtype)
			return kvs_fail(-EINVAL, "%s is stored as %s, the embedding as %s: run with --kv-dtype f32",
				loader->items[i].name, kvs_dtype_name(stored.dtype), kvs_dtype_name(loader->dtype));
	}
	return 0;
}

/*
 * Every matrix gets its stored type. Where its parts differ it becomes f32; quantised parts become f16, which has all but
 * the last bit or two of them, or f32 where the caller wants nothing rounded. So does one that is stored in f32 beside
 * matrices of other types.
 */
static int take_stored_types(struct loader *loader)
{
	enum kvs_dtype wide = loader->engine->kv.dtype == KVS_F32 ? KVS_F32 : KVS_F16;

	for (size_t i = 0; i < loader->count; i++) {
		const struct placement *item = &loader->items[i];
		struct kvs_weight stored;
		int err = item->vector ? 0 : kvs_checkpoint_weight(loader->ckpt, item->name, &stored);

		if (err)
			return err;
		if (item->vector)
			continue;
		if (stored.widened)
			stored.dtype = kvs_dtype_quantised(stored.stored) ? stored.stored : wide;
		if (item->first_row && stored.dtype != item->tensor->dtype)
			stored.dtype = kvs_dtype_quantised(stored.dtype) || kvs_dtype_quantised(item->tensor->dtype)
					       ? wide
					       : KVS_F32;
		item->tensor->dtype = stored.dtype;
	}
	return 0;
}

static int fill_all(struct loader *loader)
{
	float *raw = malloc(sizeof(*raw) * FILL_ELEMENTS), *piece = malloc(sizeof(*piece) * FILL_ELEMENTS);
	int err = raw && piece ? 0 : kvs_fail(-ENOMEM, "no memory for reading weights");
	CUresult result;

	for (size_t i = 0; i < loader->count && !err; i++)
		err = loader->items[i].mapped ? 0 : fill(loader, &loader->items[i], raw, piece);
	free(raw);
	free(piece);
	/* The engine's stream does not wait for the default stream, where the last bytes may still be in flight. */
	result = err ? CUDA_SUCCESS : loader->cu->cuStreamSynchronize(NULL);
	if (result)
		err = kvs_cu_fail(loader->cu, result, "copying weights to the device");
	return err;
}

/* ---- weights that stay in their file ---- */

/* The file that has this part of a tensor as the tensor is to be; NULL: none. Its shape is checked. */
static int find_file(
	struct loader *loader, const struct placement *item, const struct model_file **file, uint64_t *offset)
{
	struct kvs_weight stored;
	int err = find_stored(loader, item, &stored);

	*file = err || stored.stored != item->tensor->dtype ? NULL
							    : ckpt_rows_in_file(loader->ckpt, item->name, offset);
	return err;
}

/* The tensor whose first part is items[first], if all its parts lie in one file, one behind the other. */
static int map_tensor(struct loader *loader, struct model_weights *weights, size_t first)
{
	const struct model_file *file, *other;
	kvs_tensor *tensor = loader->items[first].tensor;
	uint64_t start, at, bytes = tensor_bytes(tensor);
	size_t row_bytes = kvs_row_bytes(tensor->dtype, tensor->cols);
	CUdeviceptr device;
	int err = find_file(loader, &loader->items[first], &file, &start);

	if (err || !file || start % MAPPED_ALIGNMENT || bytes > file->bytes || start > file->bytes - bytes)
		return err;
	for (size_t i = first + 1; i < loader->count && !err; i++) {
		if (loader->items[i].tensor != tensor)
			continue;
		err = find_file(loader, &loader->items[i], &other, &at);
		if (err || other != file || at != start + loader->items[i].first_row * row_bytes)
			return err;
	}
	err = err ? err : model_map_weights(loader->cu, weights, file, start, bytes, &device);
	if (err)
		return err == -ENOTSUP ? 0 : err;
	tensor->data = device;
	weights->mapped_bytes += bytes;
	for (size_t i = first; i < loader->count; i++)
		loader->items[i].mapped |= loader->items[i].tensor == tensor;
	return 0;
}

static int map_tensors(struct loader *loader, struct model_weights *weights)
{
	int err = 0;

	for (size_t i = 0; i < loader->count && !err && loader->in_place; i++)
		if (!loader->items[i].first_row && !loader->items[i].vector)
			err = map_tensor(loader, weights, i);
	return err;
}

static int allocate(struct loader *loader, struct model_weights *weights)
{
	size_t bytes = lay_out(loader, 0);
	CUresult result = loader->cu->cuMemAlloc(&weights->memory, bytes);

	if (result)
		return kvs_cu_fail(loader->cu, result, "%zu MiB for the weights", bytes >> 20);
	weights->bytes = bytes + weights->mapped_bytes;
	loader->total_bytes = bytes;
	lay_out(loader, weights->memory);
	return 0;
}

/*
 * Matrices that turned out to be beyond f16 become f32. Looking before would cost every model a second pass over its
 * blocks; so the rare one that needs it is laid out and filled once more.
 */
static int widen_and_refill(struct loader *loader, struct model_weights *weights)
{
	bool widened = false;
	int err = 0;

	for (size_t i = 0; i < loader->count && !err; i++) {
		struct placement *item = &loader->items[i];
		if (!item->beyond_f16)
			continue;
		if (!loader->engine->mixed_weights)
			err = fail_beyond_f16(item);
		item->tensor->dtype = KVS_F32;
		item->beyond_f16 = false;
		widened = true;
	}
	if (err || !widened)
		return err;
	loader->cu->cuMemFree(weights->memory);
	weights->memory = 0;
	loader->done_bytes = 0;
	err = allocate(loader, weights);
	return err ? err : fill_all(loader);
}

int model_weights_load(kvs_engine *e, const kvs_checkpoint *ckpt,
	void (*progress)(void *arg, size_t done_bytes, size_t total_bytes), void *progress_arg)
{
	struct model_weights *out = &e->weights;
	struct loader loader = {.engine = e,
		.cu = e->cu,
		.ckpt = ckpt,
		.config = kvs_checkpoint_config(ckpt),
		.dtype = e->weight_dtype,
		.progress = progress,
		.progress_arg = progress_arg};
	int err;

	loader.in_place = e->cu->kind == KVS_DEVICE_HOST && e->mixed_weights;
	*out = (struct model_weights){.layers = calloc(loader.config->layers, sizeof(*out->layers))};
	err = out->layers ? 0 : kvs_fail(-ENOMEM, "no memory for %d layers", loader.config->layers);
	if (!err)
		err = place_all(&loader, out);
	if (!err)
		err = e->mixed_weights ? take_stored_types(&loader) : check_types(&loader);
	if (!err)
		err = map_tensors(&loader, out);
	if (!err)
		err = allocate(&loader, out);
	if (!err)
		err = fill_all(&loader);
	if (!err)
		err = widen_and_refill(&loader, out);
	if (!err)
		model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_WEIGHTS,
				      .address = out->memory,
				      .bytes = out->bytes - out->mapped_bytes});
	if (loader.config->tied_embeddings)
		out->head = out->embedding;
	free(loader.items);
	if (err)
		model_weights_free(e->cu, out);
	return err;
}

/* ---- one matrix in place of another ---- */

/* In pieces, as fill() does, but from memory. */
static int refill(struct loader *loader, const struct placement *item, enum kvs_dtype dtype, const void *data)
{
	size_t count = (size_t)item->rows * item->cols, size = kvs_dtype_bytes(item->tensor->dtype);
	CUdeviceptr to = item->tensor->data + (size_t)item->first_row * item->cols * size;
	float *piece = malloc(2 * sizeof(*piece) * FILL_ELEMENTS);
	int err = piece ? 0 : kvs_fail(-ENOMEM, "no memory for a piece of %s", item->name);
	CUresult result = CUDA_SUCCESS;

	for (size_t first = 0; first < count && !err && !result; first += FILL_ELEMENTS) {
		size_t now = count - first < FILL_ELEMENTS ? count - first : FILL_ELEMENTS;
		model_to_f32(piece, data, dtype, first, now);
		if (item->tensor->dtype == KVS_F16 && is_beyond_f16(piece, now)) {
			err = fail_beyond_f16(item);
			break;
		}
		model_from_f32(piece + FILL_ELEMENTS, piece, item->tensor->dtype, now);
		result = loader->cu->cuMemcpyHtoD(to + first * size, piece + FILL_ELEMENTS, now * size);
		if (!result)
			result = loader->cu->cuStreamSynchronize(NULL);
	}
	free(piece);
	return result ? kvs_cu_fail(loader->cu, result, "copying %s to the device", item->name) : err;
}

static const struct placement *find_item(const struct loader *loader, const char *name)
{
	for (size_t i = 0; i < loader->count; i++)
		if (!strcmp(loader->items[i].name, name) && !loader->items[i].vector)
			return &loader->items[i];
	return NULL;
}

/* Where the tensors are after a matrix was put. */
static void take_tensors(kvs_engine *e, const struct model_weights *placed)
{
	memcpy(e->weights.layers, placed->layers, e->config.layers * sizeof(*placed->layers));
	e->weights.embedding = placed->embedding;
	e->weights.head = e->config.tied_embeddings ? placed->embedding : placed->head;
}

/* The list of placements is made again, on a scratch copy of the tensors, as it is not kept. `own`: the checkpoint's data. */
static int put(kvs_engine *e, const char *name, enum kvs_dtype dtype, int rows, int cols, const void *data, bool own)
{
	struct loader loader = {.engine = e, .cu = e->cu, .config = &e->config, .keep_types = true};
	struct model_weights scratch = e->weights;
	const struct placement *item = NULL;
	int err;

	scratch.layers = calloc(e->config.layers, sizeof(*scratch.layers));
	err = scratch.layers ? kvs_stream_synchronize(e->stream)
			     : kvs_fail(-ENOMEM, "no memory for %d layers", e->config.layers);
	if (!err) {
		memcpy(scratch.layers, e->weights.layers, e->config.layers * sizeof(*scratch.layers));
		err = place_all(&loader, &scratch);
	}
	if (!err)
		item = find_item(&loader, name);
	if (!err && !item)
		err = kvs_fail(-ENOENT, "%s: the model has no matrix of that name", name);
	else if (!err && (item->rows != rows || item->cols != cols))
		err = kvs_fail(
			-EINVAL, "%s is [%d][%d], in the model [%d][%d]", name, rows, cols, item->rows, item->cols);
	own = own && !err && model_move_back(e, item->tensor);
	if (!err && !own && kvs_dtype_quantised(item->tensor->dtype))
		err = model_move_to_f32(e, item->tensor, name);
	if (!err && !own)
		err = refill(&loader, item, dtype, data);
	if (!err)
		take_tensors(e, &scratch);
	free(loader.items);
	free(scratch.layers);
	return err;
}

int model_weights_put(kvs_engine *e, const char *name, enum kvs_dtype dtype, int rows, int cols, const void *data)
{
	return put(e, name, dtype, rows, cols, data, false);
}

int model_weights_put_back(kvs_engine *e, const char *name, enum kvs_dtype dtype, int rows, int cols, const void *data)
{
	return put(e, name, dtype, rows, cols, data, true);
}

/* ---- stored tensors that are not used ---- */

/* Buffers that older versions of transformers stored beside the weights; config.json is enough to compute them. */
static bool is_known_buffer(const char *name)
{
	static const char *const buffers[] = {
		".inv_freq", ".cos_cached", ".sin_cached", ".position_ids", ".masked_bias", "rope_freqs.weight"};

	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
		size_t length = strlen(name), tail = strlen(buffers[i]);
		if (length >= tail && !strcmp(name + length - tail, buffers[i]))
			return true;
	}
	return false;
}

/* used[i]: model_weights_load() takes stored tensor i or its equal. */
static int mark_used(const kvs_checkpoint *ckpt, bool *used)
{
	struct loader loader = {.ckpt = ckpt, .config = kvs_checkpoint_config(ckpt)};
	struct model_weights weights = {.layers = calloc(loader.config->layers, sizeof(*weights.layers))};
	int err = weights.layers ? place_all(&loader, &weights)
				 : kvs_fail(-ENOMEM, "no memory for %d layers", loader.config->layers);
	size_t index;

	for (size_t i = 0; i < loader.count && !err; i++)
		if (ckpt_find(ckpt, loader.items[i].name, &index))
			used[index] = true;
	if (ckpt_find(ckpt, "lm_head.weight", &index))
		used[index] = true; /* if it is not taken, it equals the embedding */
	free(loader.items);
	free(weights.layers);
	return err;
}

static void write_unused(FILE *out, const kvs_checkpoint *ckpt, const bool *used)
{
	enum { NAMED = 4 };
	size_t unused = 0, named = 0;

	for (size_t i = 0; i < ckpt_count(ckpt); i++)
		unused += !used[i] && !is_known_buffer(ckpt_name(ckpt, i));
	if (!unused)
		return;
	fprintf(out, "%zu stored tensor%s of the model %s not used: ", unused, unused == 1 ? "" : "s",
		unused == 1 ? "is" : "are");
	for (size_t i = 0; i < ckpt_count(ckpt) && named < NAMED; i++)
		if (!used[i] && !is_known_buffer(ckpt_name(ckpt, i)))
			fprintf(out, "%s%.200s", named++ ? ", " : "", ckpt_name(ckpt, i));
	if (unused > named)
		fprintf(out, " and %zu more", unused - named);
	fputc('\n', out);
}

int kvs_checkpoint_warnings(const kvs_checkpoint *ckpt, char **text)
{
	bool *used = calloc(ckpt_count(ckpt) + 1, sizeof(*used));
	size_t length = 0;
	FILE *out = open_memstream(text, &length);
	int err = used && out ? mark_used(ckpt, used) : kvs_fail(-ENOMEM, "no memory for warnings");

	if (!err) {
		write_unused(out, ckpt, used);
		if (ckpt_untied(ckpt))
			fputs("lm_head.weight differs from the embedding, and is used though config.json says "
			      "tie_word_embeddings\n",
				out);
		if (kvs_checkpoint_config(ckpt)->ignored[0])
			fprintf(out, "%s\n", kvs_checkpoint_config(ckpt)->ignored);
	}
	free(used);
	if (out && fclose(out) && !err)
		err = kvs_fail(-ENOMEM, "no memory for warnings");
	if (out && err) {
		free(*text);
		*text = NULL;
	} else if (out && length) {
		(*text)[length - 1] = 0; /* the last newline */
	}
	return err;
}

/* ---- random weights ---- */

/*
 * A number of random sign and mantissa with a magnitude from 2^-7 to 2^-5, as in trained matrices, in the bits of
 * `dtype`. `state` is splitmix64's.
 */
static uint32_t random_bits(uint64_t *state, enum kvs_dtype dtype)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	uint32_t exponent, bits;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	exponent = 120 + (z >> 62 & 1); /* biased by 127 */
	bits = (uint32_t)(z >> 63) << 31 | exponent << 23 | (z & 0x7fffff);
	if (dtype == KVS_F16)
		return (bits >> 31) << 15 | (exponent - 112) << 10 | (bits >> 13 & 1023);
	return dtype == KVS_BF16 ? bits >> 16 : bits;
}

/* Random numbers on the device, copied into all matrices. The caller frees *pattern. */
static int make_pattern(kvs_cu *cu, enum kvs_dtype dtype, CUdeviceptr *pattern)
{
	size_t size = kvs_dtype_bytes(dtype), bytes = PIECE_ELEMENTS * size;
	char *host = malloc(bytes);
	uint64_t state = 1;
	CUresult result;

	if (!host)
		return kvs_fail(-ENOMEM, "no memory for random weights");
	for (size_t i = 0; i < PIECE_ELEMENTS; i++) {
		uint32_t bits = random_bits(&state, dtype);
		memcpy(host + i * size, &bits, size); /* little-endian: the low bytes */
	}
	result = cu->cuMemAlloc(pattern, bytes);
	if (!result)
		result = cu->cuMemcpyHtoD(*pattern, host, bytes);
	free(host);
	return result ? kvs_cu_fail(cu, result, "random weights") : 0;
}

/* Matrices repeat the pattern, gains are one, biases zero. */
static CUresult fill_random(kvs_cu *cu, const struct placement *item, CUdeviceptr pattern)
{
	size_t size = kvs_dtype_bytes(item->tensor->dtype), count = (size_t)item->rows * item->cols;
	CUdeviceptr to = item->tensor->data + (size_t)item->first_row * item->cols * size;
	CUresult result = CUDA_SUCCESS;

	if (item->vector)
		return cu->cuMemsetD32Async(to, strstr(item->name, ".bias") ? 0 : 0x3f800000 /* 1.0f */, count, NULL);
	for (size_t first = 0; first < count && !result; first += PIECE_ELEMENTS) {
		size_t now = count - first < PIECE_ELEMENTS ? count - first : PIECE_ELEMENTS;
		result = cu->cuMemcpyDtoDAsync(to + first * size, pattern, now * size, NULL);
	}
	return result;
}

int model_weights_random(kvs_engine *e)
{
	kvs_cu *cu = e->cu;
	const struct kvs_config *config = &e->config;
	struct model_weights *out = &e->weights;
	struct loader loader = {.engine = e, .cu = cu, .config = config, .dtype = e->weight_dtype};
	CUdeviceptr pattern = 0;
	CUresult result = CUDA_SUCCESS;
	int err;

	*out = (struct model_weights){.layers = calloc(config->layers, sizeof(*out->layers))};
	err = out->layers ? 0 : kvs_fail(-ENOMEM, "no memory for %d layers", config->layers);
	if (!err)
		err = place_all(&loader, out);
	if (!err)
		err = allocate(&loader, out);
	if (!err)
		err = make_pattern(cu, e->weight_dtype, &pattern);
	for (size_t i = 0; i < loader.count && !err && !result; i++)
		result = fill_random(cu, &loader.items[i], pattern);
	if (!err && !result)
		result = cu->cuCtxSynchronize();
	if (result)
		err = kvs_cu_fail(cu, result, "filling random weights");
	if (config->tied_embeddings)
		out->head = out->embedding;
	if (pattern)
		KVS_CU_GIVE_BACK(cu->cuMemFree, pattern);
	free(loader.items);
	if (err)
		model_weights_free(cu, out);
	return err;
}

void model_weights_free(kvs_cu *cu, struct model_weights *weights)
{
	if (weights->memory)
		KVS_CU_GIVE_BACK(cu->cuMemFree, weights->memory);
	for (int i = 0; i < weights->moved_count; i++)
		KVS_CU_GIVE_BACK(cu->cuMemFree, weights->moved[i].data);
	model_unmap_files(cu, weights);
	free(weights->moved);
	free(weights->layers);
	*weights = (struct model_weights){0};
}
