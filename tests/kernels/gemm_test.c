/*
 * tests/kernels/gemm_test.c: the matrix product against float64.
 *
 * Tolerance: k products of values below 1, summed in f32 in some order: k * 2^-24 at the worst. f16 and bf16 operands are
 * exact inputs; only the sum rounds.
 */
#include "device.h"
#include "../../attn/stream.h"

#include <math.h>
#include <stdlib.h>

struct shape {
	int tokens, n, k, out_cols, first_col; /* out is columns first_col .. first_col + n - 1 of out_cols */
};

static void check_shape(const struct shape *s, enum kvs_dtype dtype, bool accumulate)
{
	struct array x = array_random(kvs_gemm_x_dtype(stream, dtype), s->tokens, s->k, 1),
		     w = array_random(dtype, s->n, s->k, 1);
	struct array wide = array_random(KVS_F32, s->tokens, s->out_cols, 1);
	double *reference = calloc((size_t)s->tokens * s->out_cols, sizeof(*reference));
	kvs_tensor out = {wide.t.data + s->first_col * sizeof(float), KVS_F32, s->tokens, s->n};

	for (int i = 0; i < s->tokens * s->out_cols; i++) {
		int t = i / s->out_cols, column = i % s->out_cols - s->first_col;
		reference[i] = wide.value[i];
		if (column < 0 || column >= s->n)
			continue;
		if (!accumulate)
			reference[i] = 0;
		for (int j = 0; j < s->k; j++)
			reference[i] += x.value[t * s->k + j] * w.value[column * s->k + j];
	}
	if (!accumulate) { /* what is there must not matter, were it NaN */
		for (int t = 0; t < s->tokens; t++)
			wide.value[t * s->out_cols + s->first_col] = NAN;
		array_write(&wide);
	}
	must(kvs_gemm(stream, out, s->out_cols == s->n ? 0 : s->out_cols, x.t, w.t, accumulate));
	array_read(&wide);
	check_close(&wide, reference, s->k * 0x1p-24, 0x1p-23, "gemm");
	free(reference);
	arrays_end();
}

static void multiplies_and_accumulates_at_every_shape(void **state)
{
	static const struct shape shapes[] = {
		{1, 1, 1, 1, 0},
		{1, 7, 5, 7, 0},
		{3, 1, 8, 1, 0},
		{2, 64, 32, 64, 0},
		{17, 33, 65, 33, 0},
		{1, 128, 96, 128, 0},
		{5, 16, 32, 64, 16},
		{1, 16, 32, 64, 48},
		{4, 8, 24, 40, 8},
		{70, 72, 80, 72, 0},
		{96, 128, 64, 128, 0},
		{3, 45, 88, 45, 0},
		{6, 80, 264, 96, 8}, /* the host's kernel: a second piece of depth, and of rows of x */
		{257, 17, 520, 17, 0},
	};
	enum kvs_dtype half = kvs_gemm_dtype(stream, KVS_BF16);

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
		check_shape(&shapes[i], KVS_F32, false);
		check_shape(&shapes[i], KVS_F32, true);
		if (half == KVS_BF16 && shapes[i].k % 8 == 0) { /* cuBLAS; what models have */
			check_shape(&shapes[i], KVS_BF16, false);
			check_shape(&shapes[i], KVS_F16, true);
		}
	}
}

/* ---- the host's own product, also without its native body ---- */

static void check_own(struct attn_gemm_library *own, int tokens, int n, int k, enum kvs_dtype dtype)
{
	struct array x = array_random(KVS_F32, tokens, k, 1), out = array_random(KVS_F32, tokens, n, 1);
	struct array w = kvs_dtype_quantised(dtype) ? array_quantised(dtype, n, k) : array_random(dtype, n, k, 1);
	struct attn_gemm_call call = {.out = out.t.data, .x = x.t.data, .w = w.t.data, .dtype = dtype};
	double *reference = calloc((size_t)tokens * n, sizeof(*reference)), largest = 0;

	for (int i = 0; i < tokens * n; i++) {
		double sum = out.value[i], terms = fabs(sum);
		for (int j = 0; j < k; j++) {
			double term = x.value[i / n * k + j] * w.value[i % n * k + j];
			sum += term;
			terms += fabs(term);
		}
		reference[i] = sum;
		largest = terms > largest ? terms : largest;
	}
	call.tokens = tokens;
	call.n = call.out_stride = n;
	call.k = k;
	call.accumulate = true;
	must(own->run(own, stream, &call));
	array_read(&out);
	check_close(&out, reference, k * 0x1p-24 * largest, 0, kvs_dtype_name(dtype));
	free(reference);
	arrays_end();
}

static void own_product_takes_every_type_of_weights(void **state)
{
	static const int shapes[][2] = {{1, 35}, {3, 5}, {7, 18}};
	struct attn_gemm_library *own;

	(void)state;
	if (kvs_gemm_x_dtype(stream, KVS_BF16) != KVS_F32) /* a GPU */
		return;
	must(attn_gemm_open_native(stream, &own));
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_Q6_K; dtype++) {
			int k = dtype >= KVS_Q4_K ? 512 : 288;
			if (dtype != KVS_I32)
				check_own(own, shapes[i][0], shapes[i][1], k, dtype);
		}
	}
	own->close(own);
}

static void quantised_rows_that_are_no_whole_blocks_are_refused(void **state)
{
	struct array x = array_random(KVS_F32, 1, 48, 1), w = array_random(KVS_F32, 4, 48, 1);
	struct array out = array_poisoned(KVS_F32, 1, 4);

	(void)state;
	w.t.dtype = KVS_Q8_0;
	if (kvs_gemm_dtype(stream, KVS_Q8_0) == KVS_Q8_0)
		must_refuse(kvs_gemm(stream, out.t, 0, x.t, w.t, false),
			"rows of 48 elements: those of q8_0 are blocks of 32");
	else
		must_refuse(kvs_gemm(stream, out.t, 0, x.t, w.t, false), "gemm: w is of type q8_0, not f32");
	arrays_end();
}

static void check_row(int n, int k, enum kvs_dtype dtype, bool accumulate)
{
	struct array x = array_random(dtype, 1, k, 1), w = array_random(dtype, n, k, 1);
	struct array out = accumulate ? array_random(KVS_F32, 1, n, 1) : array_poisoned(KVS_F32, 1, n);
	double *reference = calloc(n, sizeof(*reference));

	for (int i = 0; i < n; i++) {
		reference[i] = accumulate ? out.value[i] : 0;
		for (int j = 0; j < k; j++)
			reference[i] += x.value[j] * w.value[i * k + j];
	}
	must(kvs_gemv(stream, out.t, x.t, w.t, accumulate));
	array_read(&out);
	check_close(&out, reference, k * 0x1p-24, 0x1p-23, "gemv");
	free(reference);
	arrays_end();
}

/*
 * Widths around the pieces that a warp reads at once (1024 elements of 16 bits), heights around a warp's and a block's
 * rows.
 */
static void one_row_is_multiplied_at_every_shape(void **state)
{
	static const int heights[] = {1, 2, 7, 8, 9, 33}, widths[] = {8, 64, 248, 256, 264, 1016, 1024, 1032, 2056};

	(void)state;
	for (size_t n = 0; n < sizeof(heights) / sizeof(*heights); n++)
		for (size_t k = 0; k < sizeof(widths) / sizeof(*widths); k++)
			for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
				check_row(heights[n], widths[k], dtype, (n + k) % 2);
}

static void rows_that_are_no_whole_pieces_are_refused(void **state)
{
	struct array x = array_random(KVS_BF16, 1, 12, 1), w = array_random(KVS_BF16, 4, 12, 1);
	struct array two = array_random(KVS_BF16, 2, 16, 1), wide = array_random(KVS_BF16, 4, 16, 1);
	struct array out = array_poisoned(KVS_F32, 1, 4);

	(void)state;
	must_refuse(kvs_gemv(stream, out.t, x.t, w.t, false), "12 bf16 elements are not multiples of 16 bytes");
	must_refuse(kvs_gemv(stream, out.t, two.t, wide.t, false), "gemv: x is [2][16], not [1][16]");
	arrays_end();
}

/* A product reads what a kernel before it wrote, and a kernel behind it reads what it wrote. */
static void runs_in_stream_order(void **state)
{
	enum { WIDTH = 64, ROUNDS = 20 };
	struct array x = array_random(KVS_F32, 1, WIDTH, 1), w = array_poisoned(KVS_F32, WIDTH, WIDTH);
	struct array one = array_random(KVS_F32, 1, WIDTH, 1);
	double reference[WIDTH];

	(void)state;
	for (int i = 0; i < WIDTH * WIDTH; i++)
		w.value[i] = i / WIDTH == (i + 1) % WIDTH; /* moves every element to the next place */
	array_write(&w);
	struct array y = array_poisoned(KVS_F32, 1, WIDTH);
	for (int i = 0; i < ROUNDS; i++) {
		must(kvs_gemm(stream, y.t, 0, x.t, w.t, false));
		must(kvs_add_row(stream, y.t, one.t));
		must(kvs_gemm(stream, x.t, 0, y.t, w.t, false));
	}
	for (int c = 0; c < WIDTH; c++)
		reference[c] = x.value[c];
	for (int i = 0; i < ROUNDS; i++) {
		double moved[WIDTH];
		for (int c = 0; c < WIDTH; c++)
			moved[c] = 0;
		for (int c = 0; c < WIDTH * WIDTH; c++)
			moved[c / WIDTH] += w.value[c] * reference[c % WIDTH];
		for (int c = 0; c < WIDTH; c++)
			moved[c] += one.value[c];
		for (int c = 0; c < WIDTH; c++)
			reference[c] = 0;
		for (int c = 0; c < WIDTH * WIDTH; c++)
			reference[c / WIDTH] += w.value[c] * moved[c % WIDTH];
	}
	array_read(&x);
	check_close(&x, reference, ROUNDS * 0x1p-20, 0, "rounds of gemm and add_row");
	arrays_end();
}

static void operands_that_do_not_fit_are_refused(void **state)
{
	struct array x = array_random(KVS_F32, 2, 8, 1), w = array_random(KVS_F32, 4, 8, 1);
	struct array w_short = array_random(KVS_F32, 4, 7, 1), w_half = array_random(KVS_BF16, 4, 8, 1);
	struct array out = array_poisoned(KVS_F32, 2, 4), x_half = array_random(KVS_BF16, 2, 8, 1);

	(void)state;
	must_refuse(kvs_gemm(stream, out.t, 0, x.t, w_short.t, false), "gemm: w is [4][7], not [4][8]");
	if (kvs_gemm_x_dtype(stream, KVS_BF16) == kvs_gemm_dtype(stream, KVS_BF16))
		must_refuse(kvs_gemm(stream, out.t, 0, x.t, w_half.t, false), "gemm: w is of type bf16, not f32");
	must_refuse(kvs_gemm(stream, x.t, 0, x.t, w.t, false), "gemm: out is [2][8], not [2][4]");
	must_refuse(kvs_gemm(stream, out.t, 3, x.t, w.t, false), "gemm: out has 4 columns in rows of 3");
	if (kvs_gemm_x_dtype(stream, KVS_BF16) == KVS_F32)
		must_refuse(kvs_gemm(stream, out.t, 0, x_half.t, w_half.t, false), "the host device takes only f32");
	arrays_end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(multiplies_and_accumulates_at_every_shape),
		cmocka_unit_test(own_product_takes_every_type_of_weights),
		cmocka_unit_test(quantised_rows_that_are_no_whole_blocks_are_refused),
		cmocka_unit_test(one_row_is_multiplied_at_every_shape),
		cmocka_unit_test(rows_that_are_no_whole_pieces_are_refused),
		cmocka_unit_test(runs_in_stream_order),
		cmocka_unit_test(operands_that_do_not_fit_are_refused),
	};

	return run_under_schedules(tests, sizeof(tests) / sizeof(*tests));
}
