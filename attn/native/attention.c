/*
 * attn/native/attention.c: native bodies of attention: decode, its combination of splits, and prefill.
 *
 * They walk over the keys that a block sees in tiles from fixed positions with an online softmax (arXiv 1805.02867), as
 * the SIMT bodies do. Decode has a vector along a row of K, prefill along sixteen keys of a tile that lies transposed, so
 * that both of its products are one small matrix product. A query row's bits depend on that row alone.
 */
#include "native.h"

struct keys {
	int first, end; /* that some row of the block sees */
};

INLINE int first_key(int position, int window)
{
	return window > 0 && position >= window ? position - window + 1 : 0;
}

INLINE int least(int a, int b)
{
	return a < b ? a : b;
}

INLINE const char *row_of(const struct attn_attention_params *p, const void *kv, int kv_head, int key)
{
	return (const char *)kv + (size_t)kv_head * p->head_bytes + (size_t)key * p->token_bytes;
}

/* ---- the softmax of one row ---- */

struct softmax {
	float largest;
	float total[LANES];
};

/* Of each pair the larger; of a NaN in `a` and a number the number. */
INLINE floats larger(floats a, floats b)
{
#if defined(__AVX512F__) && WIDTH == 16
	return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
	words more = (words)(a > b);

	return (floats)(((words)a & more) | ((words)b & ~more));
#endif
}

/*
 * Scores of a tile, scaled and -inf where not seen, to weights; moves the row along. Returns the factor for the row's sums.
 * `count` is a multiple of LANES.
 */
INLINE float softmax_tile(struct softmax *row, float *score, int count)
{
	float highest = row->largest, base, rescale;
	floats each = every(highest);

	for (int i = 0; i < count; i += WIDTH)
		each = larger(load_floats(score + i), each);
	for (int i = 0; i < WIDTH; i++)
		highest = each[i] > highest ? each[i] : highest;
	base = highest == -INFINITY ? 0.0f : highest; /* nothing seen so far: all weights are 2^-inf */
	rescale = exp2_one(row->largest - base);
	row->largest = highest;
	for (int i = 0; i < LANES; i += WIDTH)
		store_floats(row->total + i, load_floats(row->total + i) * rescale);
	for (int i = 0; i < count; i += WIDTH) {
		floats weight = exp2_floats(load_floats(score + i) - base);
		float *total = row->total + i % LANES;

		store_floats(score + i, weight);
		store_floats(total, load_floats(total) + weight);
	}
	return rescale;
}

INLINE float softmax_total(const struct softmax *row)
{
	floats sum[PIECES];

	for (int i = 0; i < PIECES; i++)
		sum[i] = load_floats(row->total + i * WIDTH);
	return fold(sum);
}

/* ---- decode ---- */

#define DECODE_KEYS 64 /* at most, of a tile */

/* four[h][key] = Q of head h times K[key], as four partial sums. */
INLINE void decode_dots(const struct attn_attention_params *p, const float *q, int heads, int kv_head, int key, int end,
	float (*four)[DECODE_KEYS][4], int dim, enum kvs_dtype type)
{
	for (int i = 0; key + i < end; i++) {
		const char *k = row_of(p, p->k, kv_head, key + i);

		for (int h = 0; h < heads; h++) {
			floats sum[PIECES] = {};

			for (int d = 0; d < dim; d += LANES) {
				for (int j = 0; j < PIECES; j++)
					sum[j] += load_floats(q + h * dim + d + j * WIDTH) *
						  load_elements(k, d + j * WIDTH, type);
			}
			fold_to_four(sum, four[h][i]);
		}
	}
}

/* sums[h] = sums[h] * rescale[h] + weight[h][key] * V[key], key after key. */
INLINE void decode_sums(const struct attn_attention_params *p, float (*weight)[DECODE_KEYS], const float *rescale,
	int heads, int kv_head, int key, int end, float *sums, int dim, enum kvs_dtype type)
{
	for (int h = 0; h < heads; h++) {
		float *row = sums + h * dim;

		for (int d = 0; d < dim; d += LANES) {
			floats sum[PIECES];

			for (int j = 0; j < PIECES; j++)
				sum[j] = load_floats(row + d + j * WIDTH) * rescale[h];
			for (int i = 0; key + i < end; i++) {
				const char *v = row_of(p, p->v, kv_head, key + i);

				for (int j = 0; j < PIECES; j++)
					sum[j] += weight[h][i] * load_elements(v, d + j * WIDTH, type);
			}
			for (int j = 0; j < PIECES; j++)
				store_floats(row + d + j * WIDTH, sum[j]);
		}
	}
}

INLINE void decode_store(const struct attn_attention_params *p, int head, int split, const struct softmax *row,
	const float *sums, int dim)
{
	float total = softmax_total(row), *part = p->parts + ((size_t)head * p->splits + split) * (dim + 2);

	for (int d = 0; d < dim && p->splits == 1; d++)
		store_element(p->out, (size_t)head * dim + d, p->out_dtype, sums[d] / total);
	if (p->splits == 1)
		return;
	memcpy(part, sums, dim * sizeof(*part));
	part[dim] = row->largest;
	part[dim + 1] = total;
}

INLINE void decode(const struct simt_launch *launch, struct simt_dim3 at, int dim, enum kvs_dtype type)
{
	const struct attn_attention_params *p = launch->params[0];
	int per_kv = p->heads / p->kv_heads, group = at.z * ATTN_DECODE_GROUP, kv_head = at.y;
	int first_head = kv_head * per_kv + group, heads = least(per_kv - group, ATTN_DECODE_GROUP);
	int height = attn_decode_keys(dim * (type == KVS_F32 ? 4 : 2));
	struct keys keys = {first_key(p->start, p->window), p->start + 1};
	int tile = keys.first / height + at.x * p->tiles_per_split;
	int end = least((tile + p->tiles_per_split) * height, keys.end);
	int key = tile * height > keys.first ? tile * height : keys.first;
	float four[ATTN_DECODE_GROUP][DECODE_KEYS][4], weight[ATTN_DECODE_GROUP][DECODE_KEYS];
	float sums[ATTN_DECODE_GROUP * 256], rescale[ATTN_DECODE_GROUP];
	struct softmax rows[ATTN_DECODE_GROUP];

	memset(sums, 0, heads * dim * sizeof(*sums));
	memset(rows, 0, sizeof(rows));
	for (int h = 0; h < heads; h++)
		rows[h].largest = -INFINITY;
	for (; key < end; key += height - key % height) {
		int tile_end = least(key - key % height + height, end);

		decode_dots(p, p->q + (size_t)first_head * dim, heads, kv_head, key, tile_end, four, dim, type);
		for (int h = 0; h < heads; h++) {
			for (int i = 0; i < tile_end - key; i++)
				weight[h][i] = fold_four(four[h][i]) * p->scale_log2;
			for (int i = tile_end - key; i < height; i++)
				weight[h][i] = -INFINITY;
			rescale[h] = softmax_tile(&rows[h], weight[h], height);
		}
		decode_sums(p, weight, rescale, heads, kv_head, key, tile_end, sums, dim, type);
	}
	for (int h = 0; h < heads; h++)
		decode_store(p, first_head + h, at.x, &rows[h], sums + h * dim, dim);
}

static void combine(const struct simt_launch *launch, struct simt_dim3 at)
{
	const struct attn_attention_params *p = launch->params[0];
	int dim = *(const int *)launch->params[1];
	const float *parts = p->parts + (size_t)at.x * p->splits * (dim + 2);
	float largest = -INFINITY, total = 0, sums[256] = {0};

	for (int s = 0; s < p->splits; s++)
		largest = parts[s * (dim + 2) + dim] > largest ? parts[s * (dim + 2) + dim] : largest;
	for (int s = 0; s < p->splits; s++) {
		const float *part = parts + s * (dim + 2);
		float factor = exp2_one(part[dim] - largest);

		total += factor * part[dim + 1];
		for (int d = 0; d < dim; d++)
			sums[d] += factor * part[d];
	}
	for (int d = 0; d < dim; d++)
		store_element(p->out, (size_t)at.x * dim + d, p->out_dtype, sums[d] / total);
}

/* ---- prefill ---- */

#define STRIP 4 /* query rows that a product takes at a time */

/* out[row][LANES] += a[row][depth] * b[depth][LANES], for `rows` rows; each sum in the order of depth. */
INLINE void multiply_add(
	float *out, int out_stride, const float *a, int a_stride, const float *b, int b_stride, int depth, int rows)
{
	floats sum[STRIP][PIECES];

	for (int r = 0; r < rows; r++) {
		for (int j = 0; j < PIECES; j++)
			sum[r][j] = load_floats(out + r * out_stride + j * WIDTH);
	}
	for (int i = 0; i < depth; i++) {
		for (int j = 0; j < PIECES; j++) {
			floats column = load_floats(b + i * b_stride + j * WIDTH);

			for (int r = 0; r < rows; r++)
				sum[r][j] += a[(size_t)r * a_stride + i] * column;
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int j = 0; j < PIECES; j++)
			store_floats(out + r * out_stride + j * WIDTH, sum[r][j]);
	}
}

INLINE void multiply_strip(float *out, int out_stride, const float *a, int a_stride, const float *b, int b_stride,
	int depth, int cols, int rows)
{
	for (int c = 0; c < cols; c += LANES) {
		if (rows == STRIP)
			multiply_add(out + c, out_stride, a, a_stride, b + c, b_stride, depth, STRIP);
		for (int r = 0; rows < STRIP && r < rows; r++)
			multiply_add(
				out + r * out_stride + c, 0, a + (size_t)r * a_stride, 0, b + c, b_stride, depth, 1);
	}
}

/* Keys of a tile: with head_dim 256 the rows' sums leave little room on a thread's stack. */
#define PREFILL_KEYS(dim) ((dim) > 128 ? 16 : (dim) > 64 ? 32 : 64)
#define PREFILL_ROWS(dim, type) ((type) != KVS_F32 ? ATTN_MMA_ROWS : (dim) > 128 ? 16 : 32)

/* k[dim][key] and v[key][dim] of a tile. */
INLINE void prefill_load(const struct attn_attention_params *p, float *k, float *v, int kv_head, int key,
	struct keys keys, int dim, enum kvs_dtype type)
{
	const int height = PREFILL_KEYS(dim);

	for (int i = 0; i < height; i += WIDTH) {
		for (int d = 0; d < dim; d += WIDTH) {
			floats square[WIDTH];

			for (int j = 0; j < WIDTH; j++) {
				bool seen = key + i + j >= keys.first && key + i + j < keys.end;
				const char *k_row = row_of(p, p->k, kv_head, key + i + j);
				const char *v_row = row_of(p, p->v, kv_head, key + i + j);

				square[j] = seen ? load_elements(k_row, d, type) : every(0);
				store_floats(v + (i + j) * dim + d, seen ? load_elements(v_row, d, type) : every(0));
			}
			transpose(square);
			for (int j = 0; j < WIDTH; j++)
				store_floats(k + (d + j) * height + i, square[j]);
		}
	}
}

/* Scores of one row to weights, its sums rescaled; `position` is the row's. */
INLINE void prefill_softmax(const struct attn_attention_params *p, struct softmax *row, float *score, float *sums,
	int key, int position, int dim)
{
	int first = first_key(position, p->window), height = PREFILL_KEYS(dim);
	float rescale;

	for (int i = 0; i < height; i += WIDTH)
		store_floats(score + i, load_floats(score + i) * p->scale_log2);
	if (key < first || key + height - 1 > position) {
		for (int i = 0; i < height; i++)
			score[i] = key + i >= first && key + i <= position ? score[i] : -INFINITY;
	}
	rescale = softmax_tile(row, score, height);
	for (int d = 0; d < dim; d += WIDTH)
		store_floats(sums + d, load_floats(sums + d) * rescale);
}

INLINE void prefill(const struct simt_launch *launch, struct simt_dim3 at, int dim, enum kvs_dtype type)
{
	const struct attn_attention_params *p = launch->params[0];
	const int height = PREFILL_KEYS(dim), most = PREFILL_ROWS(dim, type);
	int block_row = (int)(launch->grid.x - 1 - at.x) * most, head = at.y;
	int rows = least(most, p->tokens - block_row), kv_head = head / (p->heads / p->kv_heads);
	int position = p->start + block_row;
	struct keys keys = {first_key(position, p->window), position + rows};
	const float *q = p->q + (size_t)block_row * p->q_stride + head * dim;
	float k[height * dim], v[height * dim], sums[most * dim], score[STRIP * height];
	struct softmax softmax[most];

	memset(sums, 0, sizeof(sums));
	memset(softmax, 0, sizeof(softmax));
	for (int r = 0; r < rows; r++)
		softmax[r].largest = -INFINITY;
	for (int key = keys.first / height * height; key < keys.end; key += height) {
		prefill_load(p, k, v, kv_head, key, keys, dim, type);
		for (int r = 0; r < rows; r += STRIP) {
			int strip = least(STRIP, rows - r);

			if (position + r + strip - 1 < key)
				continue;
			memset(score, 0, sizeof(score));
			multiply_strip(
				score, height, q + (size_t)r * p->q_stride, p->q_stride, k, height, dim, height, strip);
			for (int i = 0; i < strip; i++)
				prefill_softmax(p, &softmax[r + i], score + i * height, sums + (r + i) * dim, key,
					position + r + i, dim);
			multiply_strip(sums + r * dim, dim, score, height, v, dim, height, dim, strip);
		}
	}
	for (int r = 0; r < rows; r++) {
		float total = softmax_total(&softmax[r]);
		size_t to = ((size_t)(block_row + r) * p->heads + head) * dim;

		for (int d = 0; d < dim; d++)
			store_element(p->out, to + d, p->out_dtype, sums[r * dim + d] / total);
	}
}

/* ---- the table ---- */

#define BODY(body, type_name, type, dim)                                                                               \
	static void body##_##type_name##_##dim(const struct simt_launch *launch, struct simt_dim3 at)                  \
	{                                                                                                              \
		body(launch, at, dim, type);                                                                           \
	}
#define ENTRY(body, type_name, type, dim) {"kvs_attention_" #body "_" #type_name "_" #dim, body##_##type_name##_##dim},

#define EACH_DIM(what, body, type_name, type)                                                                          \
	what(body, type_name, type, 32) what(body, type_name, type, 64) what(body, type_name, type, 80)                \
		what(body, type_name, type, 96) what(body, type_name, type, 128) what(body, type_name, type, 256)
#define EACH_TYPE(what, body)                                                                                          \
	EACH_DIM(what, body, f32, KVS_F32) EACH_DIM(what, body, f16, KVS_F16) EACH_DIM(what, body, bf16, KVS_BF16)

EACH_TYPE(BODY, decode)
EACH_TYPE(BODY, prefill)

const struct simt_native NATIVE(attention)[] = {
	EACH_TYPE(ENTRY, decode) EACH_TYPE(ENTRY, prefill){"kvs_attention_combine", combine}, {NULL, NULL}};
