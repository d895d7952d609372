/*
 * attn/native/product.c: native bodies of product.cu: x in f32 times the transpose of w in any type, and of gemv.cu.
 *
 * A few rows of x: every row of w is read once, as sixteen partial sums along it. More rows: sixteen rows of w become a
 * panel in f32, a column of it beside the next, and six rows of x at a time pass over it; every element of out is one
 * chain of fused multiply-adds over ATTN_PRODUCT_DEPTH elements, and the chains are added in order. So a row's bits do
 * not depend on the rows beside it, on blocks or on workers.
 */
#include "native.h"

INLINE floats fused(floats a, floats b, floats sum)
{
#if defined(__AVX512F__) && WIDTH == 16
	return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__) && WIDTH == 8
	return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
	for (int i = 0; i < WIDTH; i++)
		sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
	return sum;
#endif
}

INLINE size_t bytes_of(enum kvs_dtype dtype)
{
	return dtype == KVS_F32 ? 4 : 2;
}

INLINE int least(int a, int b)
{
	return a < b ? a : b;
}

/* ---- few rows of x ---- */

#define AHEAD                                                                                                          \
	2048 /* bytes of w to ask for before they are needed: the processor guesses a row's end less well than we know it */

/* sum[t] += the columns from c to end, at most LANES, of x[t] times those of w, for `tokens` rows of x, a constant. */
INLINE void dot_lanes(floats sum[ATTN_PRODUCT_FEW][PIECES], const struct attn_product_params *p, const char *w, int c,
	int end, int tokens, enum kvs_dtype x_dtype, enum kvs_dtype dtype)
{
	size_t x_stride = p->k * bytes_of(x_dtype);
	floats theirs[PIECES], ours[PIECES];

	load_lanes(theirs, w, c, end, dtype);
#pragma GCC unroll 4
	for (int t = 0; t < tokens; t++) {
		load_lanes(ours, (const char *)p->x + t * x_stride, c, end, x_dtype);
#pragma GCC unroll 4
		for (int j = 0; j < PIECES; j++)
			sum[t][j] = fused(ours[j], theirs[j], sum[t][j]);
	}
}

/* out[t][n]. The end of a row has a loop of its own, so that in the other the sums stay in registers. */
INLINE void dot_row(
	const struct attn_product_params *p, int n, int tokens, enum kvs_dtype x_dtype, enum kvs_dtype dtype)
{
	const char *w = (const char *)p->w + (size_t)n * p->k * bytes_of(dtype);
	const int whole = p->k - p->k % LANES;
	floats sum[ATTN_PRODUCT_FEW][PIECES];

	for (int t = 0; t < tokens; t++) {
		for (int j = 0; j < PIECES; j++)
			sum[t][j] = every(0);
	}
	for (int c = 0; c < whole; c += LANES) {
		__builtin_prefetch(w + c * bytes_of(dtype) + AHEAD);
		dot_lanes(sum, p, w, c, c + LANES, tokens, x_dtype, dtype);
	}
	if (whole < p->k)
		dot_lanes(sum, p, w, whole, p->k, tokens, x_dtype, dtype);
	for (int t = 0; t < tokens; t++) {
		float *out = p->out + (size_t)t * p->out_stride + n, total = fold(sum[t]);

		*out = p->accumulate ? *out + total : total;
	}
}

/* Rows of w from n to end, one after another: so w is read from its first byte to its last. */
INLINE void dot_block(
	const struct attn_product_params *p, int n, int end, int tokens, enum kvs_dtype x_dtype, enum kvs_dtype dtype)
{
	for (; n < end; n++)
		dot_row(p, n, tokens, x_dtype, dtype);
}

/* ---- many rows of x ---- */

#define STRIP                                                                                                          \
	(WIDTH == 16 ? 12                                                                                              \
		     : 6) /* rows of x: their sums of sixteen columns leave a few registers, or half of AVX-512's */

#if WIDTH == 8 && defined(__AVX2__)
INLINE void transpose(floats square[WIDTH])
{
	__m256 two[8], four[8];

	for (int i = 0; i < 8; i += 2) {
		two[i] = _mm256_unpacklo_ps((__m256)square[i], (__m256)square[i + 1]);
		two[i + 1] = _mm256_unpackhi_ps((__m256)square[i], (__m256)square[i + 1]);
	}
	for (int i = 0; i < 8; i += 4) {
		four[i] = _mm256_shuffle_ps(two[i], two[i + 2], 0x44);
		four[i + 1] = _mm256_shuffle_ps(two[i], two[i + 2], 0xee);
		four[i + 2] = _mm256_shuffle_ps(two[i + 1], two[i + 3], 0x44);
		four[i + 3] = _mm256_shuffle_ps(two[i + 1], two[i + 3], 0xee);
	}
	for (int i = 0; i < 4; i++) {
		square[i] = (floats)_mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
		square[i + 4] = (floats)_mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
	}
}
#elif WIDTH == 16
/* Eight numbers of each from the `first`-th on, in turn. */
INLINE floats deal(floats a, floats b, int first)
{
#ifdef __AVX512F__
	const __m512i turns = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);

	return (floats)_mm512_permutex2var_ps((__m512)a, _mm512_add_epi32(turns, _mm512_set1_epi32(first)), (__m512)b);
#else
	floats dealt;

	for (int i = 0; i < 8; i++) {
		dealt[2 * i] = a[first + i];
		dealt[2 * i + 1] = b[first + i];
	}
	return dealt;
#endif
}

/* Each deal of the upper half of the vectors between the lower moves the bits of all indices by one: after four, rows are columns. */
INLINE void transpose(floats square[WIDTH])
{
	floats from[WIDTH];

	for (int turn = 0; turn < 4; turn++) {
		memcpy(from, square, sizeof(from));
		for (int i = 0; i < WIDTH / 2; i++) {
			square[2 * i] = deal(from[i], from[i + WIDTH / 2], 0);
			square[2 * i + 1] = deal(from[i], from[i + WIDTH / 2], 8);
		}
	}
}
#else
INLINE void transpose(floats square[WIDTH])
{
	floats from[WIDTH];

	memcpy(from, square, sizeof(from));
	for (int i = 0; i < WIDTH; i++) {
		for (int j = 0; j < WIDTH; j++)
			square[i][j] = from[j][i];
	}
}
#endif

/* A vector from column `at` on; 0 beyond the row's end. */
INLINE floats load_some(const char *row, int at, int cols, enum kvs_dtype dtype)
{
	float padded[WIDTH] = {0};

	if (at + WIDTH <= cols)
		return load_elements(row, at, dtype);
	memcpy(padded, row + at * bytes_of(dtype), (cols - at) * bytes_of(dtype));
	return load_elements(padded, 0, dtype);
}

/* panel[depth][LANES] = the columns from `first` on of `rows` rows of w from row n on; 0 where there are less than LANES. */
INLINE void pack(
	float *panel, const struct attn_product_params *p, int n, int rows, int first, int depth, enum kvs_dtype dtype)
{
	const char *w = (const char *)p->w + (size_t)n * p->k * bytes_of(dtype);

	for (int group = 0; group < LANES; group += WIDTH) {
		for (int i = 0; i < depth; i += WIDTH) {
			floats square[WIDTH];

			for (int r = 0; r < WIDTH; r++)
				square[r] = group + r < rows
						    ? load_some(w + (size_t)(group + r) * p->k * bytes_of(dtype),
							      first + i, p->k, dtype)
						    : every(0);
			transpose(square);
			for (int j = 0; j < WIDTH; j++)
				store_floats(panel + (i + j) * LANES + group, square[j]);
		}
	}
}

/* out[rows][LANES] = x[rows][depth] * panel, added to what is there if `add`. `rows` is a constant, at most STRIP. */
INLINE void multiply(float *out, size_t out_stride, const float *x, size_t x_stride, const float *panel, int depth,
	int rows, bool add)
{
	floats sum[STRIP][PIECES] = {0};

	for (int i = 0; i < depth; i++) {
		floats column[PIECES];

		for (int j = 0; j < PIECES; j++)
			column[j] = load_floats(panel + i * LANES + j * WIDTH);
		for (int r = 0; r < rows; r++) {
			for (int j = 0; j < PIECES; j++)
				sum[r][j] = fused(every(x[r * x_stride + i]), column[j], sum[r][j]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int j = 0; j < PIECES; j++) {
			float *to = out + r * out_stride + j * WIDTH;

			store_floats(to, add ? load_floats(to) + sum[r][j] : sum[r][j]);
		}
	}
}

static void multiply_strip(float *out, size_t out_stride, const float *x, size_t x_stride, const float *panel,
	int depth, int rows, bool add)
{
	if (rows == STRIP) {
		multiply(out, out_stride, x, x_stride, panel, depth, STRIP, add);
		return;
	}
	if (rows > 6) {
		multiply(out, out_stride, x, x_stride, panel, depth, 6, add);
		rows -= 6;
		out += 6 * out_stride;
		x += 6 * x_stride;
	}
	switch (rows) {
	case 6:
		multiply(out, out_stride, x, x_stride, panel, depth, 6, add);
		return;
	case 5:
		multiply(out, out_stride, x, x_stride, panel, depth, 5, add);
		return;
	case 4:
		multiply(out, out_stride, x, x_stride, panel, depth, 4, add);
		return;
	case 3:
		multiply(out, out_stride, x, x_stride, panel, depth, 3, add);
		return;
	case 2:
		multiply(out, out_stride, x, x_stride, panel, depth, 2, add);
		return;
	default:
		multiply(out, out_stride, x, x_stride, panel, depth, 1, add);
		return;
	}
}

/* The same where out has only `cols` columns. */
static void multiply_edge(float *out, size_t out_stride, const float *x, size_t x_stride, const float *panel, int depth,
	int rows, int cols, bool add)
{
	float piece[STRIP][LANES] = {0};

	for (int r = 0; r < rows && add; r++)
		memcpy(piece[r], out + r * out_stride, cols * sizeof(*out));
	multiply_strip(piece[0], LANES, x, x_stride, panel, depth, rows, add);
	for (int r = 0; r < rows; r++)
		memcpy(out + r * out_stride, piece[r], cols * sizeof(*out));
}

INLINE void multiply_block(
	const struct attn_product_params *p, int n, int end, int token, int token_end, enum kvs_dtype dtype)
{
	float panel[ATTN_PRODUCT_DEPTH * LANES] __attribute__((aligned(64)));

	for (int first = 0; first < p->k; first += ATTN_PRODUCT_DEPTH) {
		int depth = least(ATTN_PRODUCT_DEPTH, p->k - first);
		bool add = first > 0 || p->accumulate;

		for (int c = n; c < end; c += LANES) {
			int cols = least(LANES, end - c);

			pack(panel, p, c, cols, first, depth, dtype);
			for (int t = token; t < token_end; t += STRIP) {
				float *out = p->out + (size_t)t * p->out_stride + c;
				const float *x = (const float *)p->x + (size_t)t * p->k + first;
				int rows = least(STRIP, token_end - t);

				if (cols == LANES)
					multiply_strip(out, p->out_stride, x, p->k, panel, depth, rows, add);
				else
					multiply_edge(out, p->out_stride, x, p->k, panel, depth, rows, cols, add);
			}
		}
	}
}

/* ---- the bodies ---- */

INLINE void product(const struct attn_product_params *p, struct simt_dim3 at, enum kvs_dtype dtype)
{
	int n = at.x * p->cols, end = least(n + p->cols, p->n);
	int token = at.y * ATTN_PRODUCT_ROWS, token_end = least(token + ATTN_PRODUCT_ROWS, p->tokens);

	switch (p->tokens) {
	case 1:
		dot_block(p, n, end, 1, KVS_F32, dtype);
		return;
	case 2:
		dot_block(p, n, end, 2, KVS_F32, dtype);
		return;
	case 3:
		dot_block(p, n, end, 3, KVS_F32, dtype);
		return;
	case 4:
		dot_block(p, n, end, 4, KVS_F32, dtype);
		return;
	default:
		multiply_block(p, n, end, token, token_end, dtype);
		return;
	}
}

static void product_any(const struct simt_launch *launch, struct simt_dim3 at)
{
	const struct attn_product_params *p = launch->params[0];

	if (p->dtype == KVS_F32)
		product(p, at, KVS_F32);
	else if (p->dtype == KVS_F16)
		product(p, at, KVS_F16);
	else
		product(p, at, KVS_BF16);
}

INLINE void gemv(const struct simt_launch *launch, struct simt_dim3 at, enum kvs_dtype dtype)
{
	const struct attn_gemv_params *p = launch->params[0];
	const int rows = ATTN_GEMV_THREADS / 32 * ATTN_GEMV_ROWS;
	const struct attn_product_params one = {
		.out = p->out, .x = p->x, .w = p->w, .n = p->n, .k = p->k, .accumulate = p->accumulate};

	dot_block(&one, at.x * rows, least((at.x + 1) * rows, p->n), 1, dtype, dtype);
}

static void gemv_f32(const struct simt_launch *launch, struct simt_dim3 at)
{
	gemv(launch, at, KVS_F32);
}

static void gemv_f16(const struct simt_launch *launch, struct simt_dim3 at)
{
	gemv(launch, at, KVS_F16);
}

static void gemv_bf16(const struct simt_launch *launch, struct simt_dim3 at)
{
	gemv(launch, at, KVS_BF16);
}

const struct simt_native NATIVE(product)[] = {{"kvs_product_kernel", product_any}, {"kvs_gemv_f32", gemv_f32},
	{"kvs_gemv_f16", gemv_f16}, {"kvs_gemv_bf16", gemv_bf16}, {NULL, NULL}};
