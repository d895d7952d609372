/*
 * attn/native/product.c: native bodies of product.cu: x in f32 times the transpose of w in any type, and of gemv.cu.
 *
 * A few rows of x: every row of w is read once, as sixteen partial sums along it. More rows: COLS rows of w become a
 * panel in f32, a column of it beside the next, and STRIP rows of x at a time pass over it; every element of out is one
 * chain of fused multiply-adds over ATTN_PRODUCT_DEPTH elements, and the chains are added in order. So a row's bits do
 * not depend on the rows beside it, on blocks or on workers. Quantised weights become f32 on the way, in registers or in
 * the panel: the bits are those of a product with the same weights in f32.
 */
#include "quant.h"

INLINE size_t bytes_of(enum kvs_dtype dtype)
{
	return dtype == KVS_F32 ? 4 : 2;
}

INLINE int least(int a, int b)
{
	return a < b ? a : b;
}

/* ---- few rows of x ---- */

/* Bytes of w to ask for before they are needed: the processor guesses a row's end less well than we know it. */
#define AHEAD 2048

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

/* out[t][n] from its partial sums. */
INLINE void put(const struct attn_product_params *p, int t, int n, floats sum[PIECES])
{
	float *out = p->out + (size_t)t * p->out_stride + n, total = fold(sum);

	*out = p->accumulate ? *out + total : total;
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
	for (int t = 0; t < tokens; t++)
		put(p, t, n, sum[t]);
}

/* Rows of w from n to end, one after another: so w is read from its first byte to its last. */
INLINE void dot_block(
	const struct attn_product_params *p, int n, int end, int tokens, enum kvs_dtype x_dtype, enum kvs_dtype dtype)
{
	for (; n < end; n++)
		dot_row(p, n, tokens, x_dtype, dtype);
}

/* ---- few rows of x, quantised w ---- */

/* Whether weights become floats in registers; in sets whose conversion is many instructions each type would be a large loop. */
#if defined(UPPER) || defined(__AVX512F__)
#define IN_REGISTERS true
#else
#define IN_REGISTERS false
#endif

/* sum[r] += the columns from c to c + QUANTS of x, one row, times those of row r of w. */
INLINE void dot_quants(floats sum[][PIECES], const struct attn_product_params *p, const uint8_t *w, int c, int rows,
	enum kvs_dtype dtype)
{
	const float *x = (const float *)p->x + c;
	size_t stride = attn_row_bytes(dtype, p->k);

	for (int r = 0; r < rows; r++) {
		floats theirs[2 * PIECES];

		__builtin_prefetch(w + r * stride + attn_row_bytes(dtype, c) + AHEAD);
		expand(theirs, w + r * stride, c, dtype);
#pragma GCC unroll 4
		for (int j = 0; j < 2 * PIECES; j++)
			sum[r][j % PIECES] = fused(load_floats(x + j * WIDTH), theirs[j], sum[r][j % PIECES]);
	}
}

/* out[n], and `rows` of them: two have twice as many sums, none of which waits for another. */
INLINE void dot_quantised(const struct attn_product_params *p, int n, int rows, enum kvs_dtype dtype)
{
	const uint8_t *w = (const uint8_t *)p->w + n * attn_row_bytes(dtype, p->k);
	floats sum[2][PIECES] = {0};

	for (int c = 0; c < p->k; c += QUANTS)
		dot_quants(sum, p, w, c, rows, dtype);
	for (int r = 0; r < rows; r++)
		put(p, 0, n + r, sum[r]);
}

INLINE void dot_quantised_block(const struct attn_product_params *p, int n, int end, enum kvs_dtype dtype)
{
	for (; n + 2 <= end; n += 2)
		dot_quantised(p, n, 2, dtype);
	if (n < end)
		dot_quantised(p, n, 1, dtype);
}

/* One row of x. */
static void dot_one(const struct attn_product_params *p, int n, int end)
{
	switch (p->dtype) {
	case KVS_Q8_0:
		dot_quantised_block(p, n, end, KVS_Q8_0);
		return;
	case KVS_Q4_0:
		dot_quantised_block(p, n, end, KVS_Q4_0);
		return;
	case KVS_Q4_1:
		dot_quantised_block(p, n, end, KVS_Q4_1);
		return;
	case KVS_Q5_0:
		dot_quantised_block(p, n, end, KVS_Q5_0);
		return;
	case KVS_Q5_1:
		dot_quantised_block(p, n, end, KVS_Q5_1);
		return;
	case KVS_IQ4_NL:
		dot_quantised_block(p, n, end, KVS_IQ4_NL);
		return;
	case KVS_Q4_K:
		dot_quantised_block(p, n, end, KVS_Q4_K);
		return;
	case KVS_Q5_K:
		dot_quantised_block(p, n, end, KVS_Q5_K);
		return;
	default:
		dot_quantised_block(p, n, end, KVS_Q6_K);
		return;
	}
}

/* out[t][n], by way of pieces of a row in f32; the same bits. */
INLINE void dot_expanded(const struct attn_product_params *p, int n, int tokens)
{
	const uint8_t *w = (const uint8_t *)p->w + n * attn_row_bytes(p->dtype, p->k);
	float piece[ATTN_PRODUCT_DEPTH] __attribute__((aligned(64)));
	floats sum[ATTN_PRODUCT_FEW][PIECES] = {0};

	for (int first = 0; first < p->k; first += ATTN_PRODUCT_DEPTH) {
		int depth = least(ATTN_PRODUCT_DEPTH, p->k - first);
		struct attn_product_params part = *p;

		part.x = (const float *)p->x + first;
		expand_row(piece, w, first, depth, p->dtype);
		for (int c = 0; c < depth; c += LANES)
			dot_lanes(sum, &part, (const char *)piece, c, c + LANES, tokens, KVS_F32, KVS_F32);
	}
	for (int t = 0; t < tokens; t++)
		put(p, t, n, sum[t]);
}

static void few_quantised(const struct attn_product_params *p, int n, int end)
{
	if (IN_REGISTERS && p->tokens == 1) {
		dot_one(p, n, end);
		return;
	}
	for (; n < end; n++) {
		if (p->tokens == 1)
			dot_expanded(p, n, 1);
		else if (p->tokens == 2)
			dot_expanded(p, n, 2);
		else if (p->tokens == 3)
			dot_expanded(p, n, 3);
		else
			dot_expanded(p, n, 4);
	}
}

/* ---- many rows of x ---- */

/* Rows of x, and of w, whose sums stay in registers at a time: they leave a few for a column of a panel and an element of x. */
#define STRIP (WIDTH == 16 ? 12 : 6)
#define COLS (WIDTH == 16 ? 32 : 16)
#define VECTORS (COLS / WIDTH)

/* A vector from column `at` on; 0 beyond the row's end. */
INLINE floats load_some(const char *row, int at, int cols, enum kvs_dtype dtype)
{
	float padded[WIDTH] = {0};

	if (at + WIDTH <= cols)
		return load_elements(row, at, dtype);
	memcpy(padded, row + at * bytes_of(dtype), (cols - at) * bytes_of(dtype));
	return load_elements(padded, 0, dtype);
}

/* panel[depth][COLS] = the columns from `first` on of `rows` rows of w, of k elements; 0 where there are less than COLS. */
INLINE void pack(float *panel, const char *w, int k, int rows, int first, int depth, enum kvs_dtype dtype)
{
	for (int group = 0; group < COLS; group += WIDTH) {
		for (int i = 0; i < depth; i += WIDTH) {
			floats square[WIDTH];

			for (int r = 0; r < WIDTH; r++)
				square[r] = group + r < rows ? load_some(w + (size_t)(group + r) * k * bytes_of(dtype),
								       first + i, k, dtype)
							     : every(0);
			transpose(square);
			for (int j = 0; j < WIDTH; j++)
				store_floats(panel + (i + j) * COLS + group, square[j]);
		}
	}
}

/* The same of quantised rows. */
static void pack_quantised(float *panel, const uint8_t *w, int k, int rows, int first, int depth, enum kvs_dtype dtype)
{
	float expanded[COLS * ATTN_PRODUCT_DEPTH] __attribute__((aligned(64)));

	for (int r = 0; r < rows; r++)
		expand_row(expanded + r * depth, w + r * attn_row_bytes(dtype, k), first, depth, dtype);
	pack(panel, (const char *)expanded, depth, rows, 0, depth, KVS_F32);
}

/* Of any type, from row n on. */
INLINE void pack_any(
	float *panel, const struct attn_product_params *p, int n, int rows, int first, int depth, enum kvs_dtype dtype)
{
	const char *w = (const char *)p->w + n * attn_row_bytes(p->dtype, p->k);

	if (kvs_dtype_quantised(dtype))
		pack_quantised(panel, (const uint8_t *)w, p->k, rows, first, depth, p->dtype);
	else
		pack(panel, w, p->k, rows, first, depth, dtype);
}

/* out[rows][COLS] = x[rows][depth] * panel, added to what is there if `add`. `rows` is a constant, at most STRIP. */
INLINE void multiply(float *out, size_t out_stride, const float *x, size_t x_stride, const float *panel, int depth,
	int rows, bool add)
{
	floats sum[STRIP][VECTORS] = {0};

	for (int i = 0; i < depth; i++) {
		floats column[VECTORS];

		for (int j = 0; j < VECTORS; j++)
			column[j] = load_floats(panel + i * COLS + j * WIDTH);
		for (int r = 0; r < rows; r++) {
			for (int j = 0; j < VECTORS; j++)
				sum[r][j] = fused(every(x[r * x_stride + i]), column[j], sum[r][j]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int j = 0; j < VECTORS; j++) {
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
	float piece[STRIP][COLS] = {0};

	for (int r = 0; r < rows && add; r++)
		memcpy(piece[r], out + r * out_stride, cols * sizeof(*out));
	multiply_strip(piece[0], COLS, x, x_stride, panel, depth, rows, add);
	for (int r = 0; r < rows; r++)
		memcpy(out + r * out_stride, piece[r], cols * sizeof(*out));
}

INLINE void multiply_block(
	const struct attn_product_params *p, int n, int end, int token, int token_end, enum kvs_dtype dtype)
{
	float panel[ATTN_PRODUCT_DEPTH * COLS] __attribute__((aligned(64)));

	for (int first = 0; first < p->k; first += ATTN_PRODUCT_DEPTH) {
		int depth = least(ATTN_PRODUCT_DEPTH, p->k - first);
		bool add = first > 0 || p->accumulate;

		for (int c = n; c < end; c += COLS) {
			int cols = least(COLS, end - c);

			pack_any(panel, p, c, cols, first, depth, dtype);
			for (int t = token; t < token_end; t += STRIP) {
				float *out = p->out + (size_t)t * p->out_stride + c;
				const float *x = (const float *)p->x + (size_t)t * p->k + first;
				int rows = least(STRIP, token_end - t);

				if (cols == COLS)
					multiply_strip(out, p->out_stride, x, p->k, panel, depth, rows, add);
				else
					multiply_edge(out, p->out_stride, x, p->k, panel, depth, rows, cols, add);
			}
		}
	}
}

/* ---- the bodies ---- */

/* `dtype` is a constant; KVS_Q8_0 stands for all quantised types. */
INLINE void product(const struct attn_product_params *p, struct simt_dim3 at, enum kvs_dtype dtype)
{
	int n = at.x * p->cols, end = least(n + p->cols, p->n);
	int token = at.y * ATTN_PRODUCT_ROWS, token_end = least(token + ATTN_PRODUCT_ROWS, p->tokens);

	if (p->tokens > ATTN_PRODUCT_FEW)
		multiply_block(p, n, end, token, token_end, dtype);
	else if (kvs_dtype_quantised(dtype))
		few_quantised(p, n, end);
	else if (p->tokens == 1)
		dot_block(p, n, end, 1, KVS_F32, dtype);
	else if (p->tokens == 2)
		dot_block(p, n, end, 2, KVS_F32, dtype);
	else if (p->tokens == 3)
		dot_block(p, n, end, 3, KVS_F32, dtype);
	else
		dot_block(p, n, end, 4, KVS_F32, dtype);
}

static void product_any(const struct simt_launch *launch, struct simt_dim3 at)
{
	const struct attn_product_params *p = launch->params[0];

	if (p->dtype == KVS_F32)
		product(p, at, KVS_F32);
	else if (p->dtype == KVS_F16)
		product(p, at, KVS_F16);
	else if (p->dtype == KVS_BF16)
		product(p, at, KVS_BF16);
	else
		product(p, at, KVS_Q8_0);
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
