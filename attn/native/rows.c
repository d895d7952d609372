/*
 * attn/native/rows.c: native bodies of rows.cu and logits.cu: a block is a row, or in silu_mul a piece of one.
 */
#include "quant.h"

#define ARG(type, i) (*(type const *)launch->params[i])

static void embed(const struct simt_launch *launch, struct simt_dim3 at)
{
	float *out = ARG(float *, 0);
	const char *table = ARG(const void *, 1);
	int id = ARG(const int *, 2)[at.x], hidden = ARG(int, 3), dtype = ARG(int, 4);
	const char *from = table + id * attn_row_bytes(dtype, hidden);

	out += (size_t)at.x * hidden;
	if (kvs_dtype_quantised(dtype)) {
		expand_row(out, (const uint8_t *)from, 0, hidden, dtype);
		return;
	}
	for (int c = 0; c < hidden; c += LANES) {
		floats lanes[PIECES];

		load_lanes(lanes, from, c, hidden, dtype);
		memcpy(out + c, lanes, sizeof(*out) * (hidden - c < LANES ? hidden - c : LANES));
	}
}

/* The elements from column c on, at most LANES of them, to a row of any type. */
INLINE void store_lanes(void *row, size_t c, int count, int dtype, const floats lanes[PIECES])
{
	float value[LANES];

	memcpy(value, lanes, sizeof(value));
	if (dtype == KVS_F32)
		memcpy((float *)row + c, value, count * sizeof(float));
	for (int i = 0; i < count && dtype != KVS_F32; i++)
		store_element(row, c + i, dtype, value[i]);
}

static void rmsnorm(const struct simt_launch *launch, struct simt_dim3 at)
{
	int cols = ARG(int, 3), dtype = ARG(int, 5);
	size_t row = (size_t)at.x * cols;
	const float *x = ARG(const float *, 1) + row, *gain = ARG(const float *, 2);
	floats sum[PIECES] = {0}, lanes[PIECES], gains[PIECES];
	float scale;

	for (int c = 0; c < cols; c += LANES) {
		load_lanes(lanes, x, c, cols, KVS_F32);
		for (int j = 0; j < PIECES; j++)
			sum[j] += lanes[j] * lanes[j];
	}
	scale = 1.0f / sqrtf(fold(sum) / cols + ARG(float, 4));
	for (int c = 0; c < cols; c += LANES) {
		load_lanes(lanes, x, c, cols, KVS_F32);
		load_lanes(gains, gain, c, cols, KVS_F32);
		for (int j = 0; j < PIECES; j++)
			lanes[j] = lanes[j] * scale * gains[j];
		store_lanes(ARG(void *, 0), row + c, cols - c < LANES ? cols - c : LANES, dtype, lanes);
	}
}

/* gate / (1 + e^-gate): for a gate below 0 as gate * e^gate / (1 + e^gate), which does not overflow. */
INLINE floats silu(floats gate)
{
	words negative = (words)(gate < 0.0f), sign = (words){} + 0x80000000;
	floats power = exp_floats((floats)((words)gate | sign));
	floats above = (floats)(((words)power & negative) | ((words)every(1.0f) & ~negative));

	return gate * above / (1.0f + power);
}

static void silu_mul(const struct simt_launch *launch, struct simt_dim3 at)
{
	int ff = ARG(int, 2), dtype = ARG(int, 3), piece = ATTN_ROW_TURNS * launch->block.x, first = at.y * piece;
	const float *gate = ARG(const float *, 1) + (size_t)at.x * 2 * ff;
	int end = first + piece < ff ? first + piece : ff;

	for (int i = first; i < end; i += LANES) {
		floats gates[PIECES], ups[PIECES];

		load_lanes(gates, gate, i, end, KVS_F32);
		load_lanes(ups, gate + ff, i, end, KVS_F32);
		for (int j = 0; j < PIECES; j++)
			gates[j] = silu(gates[j]) * ups[j];
		store_lanes(ARG(void *, 0), (size_t)at.x * ff + i, end - i < LANES ? end - i : LANES, dtype, gates);
	}
}

static void add_row(const struct simt_launch *launch, struct simt_dim3 at)
{
	int cols = ARG(int, 2);
	float *x = ARG(float *, 0) + (size_t)at.x * cols;
	const float *row = ARG(const float *, 1);

	for (int c = 0; c < cols; c++)
		x[c] += row[c];
}

/* A NaN counts as infinite, so that it is seen at the end; of equal values the first index wins. */
static void argmax(const struct simt_launch *launch, struct simt_dim3 at)
{
	int vocab = ARG(int, 2), index = 0;
	const float *row = ARG(const float *, 1) + (size_t)at.x * vocab;
	float best = -INFINITY;

	for (int c = 0; c < vocab; c += LANES) {
		int count = vocab - c < LANES ? vocab - c : LANES, ahead = 0;

		for (int i = 0; i < count; i++)
			ahead |= !(row[c + i] <= best);
		for (int i = 0; i < count && ahead; i++) {
			float value = row[c + i] == row[c + i] ? row[c + i] : INFINITY;

			if (value > best) {
				best = value;
				index = c + i;
			}
		}
	}
	ARG(int *, 0)[at.x] = fabsf(best) < INFINITY ? index : -1;
}

INLINE float row_max(const float *row, int cols)
{
	float lanes[LANES], largest = -INFINITY;
	int c = 0;

	for (int i = 0; i < LANES; i++)
		lanes[i] = -INFINITY;
	for (; c + LANES <= cols; c += LANES) {
		for (int i = 0; i < LANES; i++)
			lanes[i] = row[c + i] > lanes[i] ? row[c + i] : lanes[i];
	}
	for (int i = 0; i < LANES; i++)
		largest = lanes[i] > largest ? lanes[i] : largest;
	for (; c < cols; c++)
		largest = row[c] > largest ? row[c] : largest;
	return largest;
}

#define SPAN 1024 /* columns summed by themselves: a long row's sum stays as exact as a short one's */

/* The sum of e^((row[c] - largest) * factor); where `out` is not NULL, the powers go there. */
INLINE float sum_of_powers(const float *row, float *out, int cols, float largest, float factor)
{
	floats total[PIECES] = {0};

	for (int first = 0; first < cols; first += SPAN) {
		int end = first + SPAN < cols ? first + SPAN : cols;
		floats sum[PIECES] = {0}, lanes[PIECES];

		for (int c = first; c < end; c += LANES) {
			int count = end - c < LANES ? end - c : LANES;

			load_lanes(lanes, row, c, end, KVS_F32);
			for (int j = 0; j < PIECES; j++)
				lanes[j] = exp_floats((lanes[j] - largest) * factor);
			if (count < LANES)
				memset((float *)lanes + count, 0, (LANES - count) * sizeof(float));
			if (out)
				memcpy(out + c, lanes, count * sizeof(*out));
			for (int j = 0; j < PIECES; j++)
				sum[j] += lanes[j];
		}
		for (int j = 0; j < PIECES; j++)
			total[j] += sum[j];
	}
	return fold(total);
}

/* The logarithm in double: rounded once, it is the same whoever's libm this is. */
static void nll(const struct simt_launch *launch, struct simt_dim3 at)
{
	int vocab = ARG(int, 3);
	const float *row = ARG(const float *, 1) + (size_t)at.x * vocab;
	float largest = row_max(row, vocab), sum = sum_of_powers(row, NULL, vocab, largest, 1.0f);

	ARG(float *, 0)[at.x] = (float)log(sum) + (largest - row[ARG(const int *, 2)[at.x]]);
}

static void softmax(const struct simt_launch *launch, struct simt_dim3 at)
{
	int vocab = ARG(int, 2);
	size_t first = (size_t)at.x * vocab;
	const float *row = ARG(const float *, 1) + first;
	float *out = ARG(float *, 0) + first, largest = row_max(row, vocab);
	float scale = 1.0f / sum_of_powers(row, out, vocab, largest, ARG(float, 3));

	for (int c = 0; c < vocab; c++)
		out[c] *= scale;
}

const struct simt_native NATIVE(rows)[] = {{"kvs_embed_kernel", embed}, {"kvs_rmsnorm_kernel", rmsnorm},
	{"kvs_silu_mul_kernel", silu_mul}, {"kvs_add_row_kernel", add_row}, {"kvs_argmax_kernel", argmax},
	{"kvs_nll_kernel", nll}, {"kvs_softmax_kernel", softmax}, {NULL, NULL}};
