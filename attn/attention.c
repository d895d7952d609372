/*
 * attn/attention.c: launchers of rope_append and attention: they check the operands and divide the work into blocks.
 *
 * How decode splits its keys depends only on sequence length, heads and the number of multiprocessors, so the same step
 * gives the same bits every time.
 */
#include "kernels.h"
#include "stream.h"

#include <errno.h>
#include <math.h>

static int ceil_div(int a, int b)
{
	return (a + b - 1) / b;
}

static size_t max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* Checks K and V for `what`, which works on `tokens` positions from `start`; own_k, own_v: whether it touches K, V. */
static int check_kv(const char *what, const kvs_kv *kv, bool own_k, bool own_v, int heads, int start, int tokens)
{
	const struct kvs_kv_format *format = &kv->format;

	if (format->dtype > KVS_BF16)
		return kvs_fail(-EINVAL, "%s: K and V cannot be of type %s", what,
			format->dtype == KVS_I32 ? kvs_dtype_name(format->dtype) : "unknown");
	if (attn_head_dim_index(format->head_dim) < 0)
		return kvs_fail(
			-EINVAL, "%s: head_dim %d is not one of 32, 64, 80, 96, 128, 256", what, format->head_dim);
	if (format->kv_heads <= 0 || heads <= 0 || heads % format->kv_heads != 0)
		return kvs_fail(-EINVAL, "%s: %d query heads cannot share %d KV heads", what, heads, format->kv_heads);
	if (start < 0 || tokens <= 0 || tokens > kv->tokens - start)
		return kvs_fail(-EINVAL, "%s: %d tokens from position %d, but K and V have room for %d", what, tokens,
			start, kv->tokens);
	if ((own_k && !kv->k) || (own_v && !kv->v))
		return kvs_fail(-EINVAL, "%s: %s has no address", what, own_k && !kv->k ? "K" : "V");
	return 0;
}

static int optional_row(const char *what, kvs_tensor t, int cols)
{
	return t.data ? attn_tensor_check(what, t, KVS_F32, 1, cols) : 0;
}

int kvs_rope_append(kvs_stream *s, const struct kvs_rope_append *args)
{
	const kvs_kv *kv = &args->kv;
	int tokens = args->qkv.rows, heads = args->heads + 2 * kv->format.kv_heads, dim = kv->format.head_dim;
	int err = check_kv("rope_append", kv, args->own_k, args->own_v, args->heads, args->start, tokens);

	if (!err)
		err = attn_tensor_check("rope_append: qkv", args->qkv, KVS_F32, 0, heads * dim);
	if (!err)
		err = optional_row("rope_append: bias", args->bias, heads * dim);
	if (!err)
		err = optional_row("rope_append: q_gain", args->q_gain, dim);
	if (!err)
		err = optional_row("rope_append: k_gain", args->k_gain, dim);
	if (!err)
		err = attn_tensor_check("rope_append: rope", args->rope, KVS_F32, 0, dim);
	if (!err && args->start + tokens > args->rope.rows)
		err = kvs_fail(-EINVAL, "rope_append: positions up to %d, but the table has %d",
			args->start + tokens - 1, args->rope.rows);
	if (err)
		return err;

	struct attn_rope_params params = {
		.qkv = (float *)args->qkv.data,
		.bias = (const float *)args->bias.data,
		.q_gain = (const float *)args->q_gain.data,
		.k_gain = (const float *)args->k_gain.data,
		.rope = (const float *)args->rope.data,
		.k = args->own_k ? (char *)kv->k : NULL,
		.v = args->own_v ? (char *)kv->v : NULL,
		.token_bytes = (int)kvs_kv_token_bytes(kv->format),
		.head_bytes = (int)kvs_kv_head_bytes(kv->format),
		.kv_dtype = kv->format.dtype,
		.heads = args->heads,
		.kv_heads = kv->format.kv_heads,
		.head_dim = dim,
		.start = args->start,
		.eps = args->eps,
	};
	uint64_t kv_rows = (uint64_t)tokens * (args->own_k + args->own_v);
	uint64_t q_bytes = (uint64_t)tokens * args->heads * dim * sizeof(float);
	struct attn_launch launch = {
		.kernel = ATTN_KERNEL_ROPE_APPEND,
		.grid = {tokens, ceil_div(heads, ATTN_ROPE_WARPS), 1},
		.threads = 32 * ATTN_ROPE_WARPS,
		.bytes = 2 * q_bytes +
			 kv_rows * (kvs_kv_elements(kv->format) * sizeof(float) + kvs_kv_token_bytes(kv->format)),
	};
	return attn_launch(s, &launch, (void *[]){&params});
}

/* The number of blocks that decode aims for: two per multiprocessor. */
static int decode_blocks(const kvs_stream *s)
{
	return 2 * s->cu->multiprocessors;
}

/*
 * Every split is run by kv_heads * groups blocks, which is at least heads / ATTN_DECODE_GROUP, so no shape gets more
 * splits than this.
 */
static int max_splits(const kvs_stream *s, int heads)
{
	return ceil_div(decode_blocks(s) * ATTN_DECODE_GROUP, heads);
}

size_t kvs_attention_workspace(const kvs_stream *s, int heads, int head_dim)
{
	return (size_t)heads * max_splits(s, heads) * (head_dim + 2);
}

static int combine(kvs_stream *s, struct attn_attention_params *params, int head_dim)
{
	struct attn_launch launch = {
		.kernel = ATTN_KERNEL_COMBINE,
		.grid = {params->heads, 1, 1},
		.threads = head_dim > 128 ? 128 : (head_dim + 31) / 32 * 32,
		.bytes = (uint64_t)params->heads * (params->splits * (head_dim + 2) * sizeof(float) +
							   head_dim * kvs_dtype_bytes(params->out_dtype)),
	};

	return attn_launch(s, &launch, (void *[]){params, &head_dim});
}

/*
 * Divides the keys that position `start` sees, in tiles of `keys` keys, into about `aim` splits of at least `least`
 * tiles. Tiles start at multiples of their height, counted from position 0.
 */
static void split_keys(struct attn_attention_params *params, int keys, int aim, int least)
{
	int first = params->window > 0 && params->start >= params->window ? params->start - params->window + 1 : 0;
	int tiles = params->start / keys + 1 - first / keys, splits = ceil_div(tiles, least);

	if (splits > aim)
		splits = aim;
	params->tiles_per_split = ceil_div(tiles, splits);
	params->splits = ceil_div(tiles, params->tiles_per_split);
}

static int decode_fma(kvs_stream *s, struct attn_attention_params *params, struct kvs_kv_format format, uint64_t bytes)
{
	int head_dim = format.head_dim, row_bytes = (int)kvs_kv_head_bytes(format);
	int keys = attn_decode_keys(row_bytes), stride = attn_tile_stride(row_bytes);
	int groups = ceil_div(params->heads / params->kv_heads, ATTN_DECODE_GROUP);

	split_keys(params, keys, ceil_div(decode_blocks(s), params->kv_heads * groups), ATTN_DECODE_MIN_TILES);
	size_t slices = ATTN_DECODE_THREADS / (row_bytes / 16);
	struct attn_launch launch = {
		.kernel = ATTN_KERNEL_DECODE + ATTN_HEAD_DIMS * format.dtype + attn_head_dim_index(head_dim),
		.grid = {params->splits, params->kv_heads, groups},
		.threads = ATTN_DECODE_THREADS,
		.shared_bytes = max_size(4 * keys * stride, slices * ATTN_DECODE_GROUP * head_dim * sizeof(float)),
		.bytes = bytes,
	};
	int err = attn_launch(s, &launch, (void *[]){params});
	if (err || params->splits == 1)
		return err;
	return combine(s, params, head_dim);
}

/* As many blocks as run at once, if there are enough keys: one more would need a second wave of its own. */
static int decode_mma(kvs_stream *s, struct attn_attention_params *params, struct kvs_kv_format format, uint64_t bytes)
{
	int head_dim = format.head_dim, groups = ceil_div(params->heads / params->kv_heads, ATTN_DECODE_GROUP);
	int aim = decode_blocks(s) / (params->kv_heads * groups), warps = attn_step_warps(head_dim);
	size_t stage_bytes = warps * 2 * ATTN_STEP_KEYS * attn_tile_stride((int)kvs_kv_head_bytes(format));

	if (params->kv_heads * groups > ATTN_DECODE_COUNTERS)
		return kvs_fail(-EINVAL, "attention: %d heads on %d KV heads are more than decode can count",
			params->heads, params->kv_heads);
	split_keys(params, ATTN_STEP_KEYS, aim > 0 ? aim : 1, ATTN_STEP_MIN);
	/* Three stages if two such blocks then fit on a multiprocessor. */
	params->stages = 2 * 3 * stage_bytes <= (size_t)s->cu->max_shared_bytes ? 3 : 2;
	params->arrived = (unsigned *)s->counters;
	struct attn_launch launch = {
		.kernel = ATTN_KERNEL_DECODE_MMA + ATTN_HEAD_DIMS * (format.dtype - KVS_F16) +
			  attn_head_dim_index(head_dim),
		.grid = {params->splits, params->kv_heads, groups},
		.threads = 32 * warps,
		.shared_bytes = params->stages * stage_bytes,
		.bytes = bytes,
	};
	return attn_launch(s, &launch, (void *[]){params});
}

static int decode(kvs_stream *s, struct attn_attention_params *params, struct kvs_kv_format format, uint64_t bytes)
{
	bool mma = s->decode_mma && format.dtype != KVS_F32;

	return mma ? decode_mma(s, params, format, bytes) : decode_fma(s, params, format, bytes);
}

static int prefill(kvs_stream *s, struct attn_attention_params *params, struct kvs_kv_format format, uint64_t bytes)
{
	size_t stride = attn_tile_stride((int)kvs_kv_head_bytes(format));
	int head_dim = format.head_dim;
	bool mma = format.dtype != KVS_F32;
	int rows = mma ? ATTN_MMA_ROWS : attn_fma_rows(head_dim), keys = mma ? attn_mma_keys(head_dim) : ATTN_FMA_KEYS;
	size_t weights = mma ? 0 : rows * ATTN_FMA_WEIGHT_STRIDE * sizeof(float);
	struct attn_launch launch = {
		.kernel = ATTN_KERNEL_PREFILL + ATTN_HEAD_DIMS * format.dtype + attn_head_dim_index(head_dim),
		.grid = {ceil_div(params->tokens, rows), params->heads, 1},
		.threads = mma ? ATTN_MMA_THREADS : ATTN_FMA_THREADS,
		.shared_bytes = (rows + 2 * keys) * stride + weights,
		.bytes = bytes,
	};

	return attn_launch(s, &launch, (void *[]){params});
}

static int check_attention(const kvs_stream *s, const struct kvs_attention *args)
{
	const kvs_kv *kv = &args->kv;
	int tokens = args->qkv.rows, dim = kv->format.head_dim;
	int err = check_kv("attention", kv, true, true, args->heads, args->start, tokens);

	if (!err)
		err = attn_tensor_check(
			"attention: qkv", args->qkv, KVS_F32, 0, (args->heads + 2 * kv->format.kv_heads) * dim);
	if (!err)
		err = attn_tensor_check("attention: out", args->out, ATTN_ANY_FLOAT, tokens, args->heads * dim);
	if (!err)
		err = attn_tensor_check("attention: workspace", args->workspace, KVS_F32, 1, 0);
	if (err)
		return err;
	if (args->workspace.data % 16)
		return kvs_fail(
			-EINVAL, "attention: workspace is at %#llx, not a multiple of 16", args->workspace.data);
	size_t needed = kvs_attention_workspace(s, args->heads, dim);
	if ((size_t)args->workspace.cols < needed)
		return kvs_fail(-EINVAL, "attention: workspace has %d elements, %d heads of %d need %zu",
			args->workspace.cols, args->heads, dim, needed);
	if (!(args->scale > 0))
		return kvs_fail(-EINVAL, "attention: scale is %g, not above 0", args->scale);
	if (args->window < 0)
		return kvs_fail(-EINVAL, "attention: window is %d", args->window);
	return 0;
}

int kvs_attention(kvs_stream *s, const struct kvs_attention *args)
{
	const kvs_kv *kv = &args->kv;
	int tokens = args->qkv.rows;
	int err = check_attention(s, args);

	if (err)
		return err;
	struct attn_attention_params params = {
		.q = (const float *)args->qkv.data,
		.k = (const void *)kv->k,
		.v = (const void *)kv->v,
		.out = (void *)args->out.data,
		.parts = (float *)args->workspace.data,
		.out_dtype = args->out.dtype,
		.q_stride = args->qkv.cols,
		.heads = args->heads,
		.kv_heads = kv->format.kv_heads,
		.tokens = tokens,
		.token_bytes = (int)kvs_kv_token_bytes(kv->format),
		.head_bytes = (int)kvs_kv_head_bytes(kv->format),
		.start = args->start,
		.window = args->window,
		.scale_log2 = args->scale * (float)M_LOG2E,
	};
	int first = args->window > 0 && args->start >= args->window ? args->start - args->window + 1 : 0;
	uint64_t kv_bytes = 2ull * (args->start + tokens - first) * kvs_kv_token_bytes(kv->format);
	uint64_t q_bytes = (uint64_t)tokens * args->heads * kv->format.head_dim * sizeof(float);
	uint64_t bytes = kv_bytes + q_bytes + attn_tensor_bytes(args->out);
	return tokens == 1 ? decode(s, &params, kv->format, bytes) : prefill(s, &params, kv->format, bytes);
}
