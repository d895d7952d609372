/*
 * tests/kernels/rows_test.c: the row kernels against float64, at lengths around warps and blocks.
 *
 * Tolerances. A kernel sums n products of magnitude about 1 in f32: its relative error is at most n * 2^-24 in the worst
 * case and near sqrt(n) * 2^-24 in practice; 1e-5 allows for the second at n = 5000 with room for expf's 2 ulp. An output
 * in f16 or bf16 adds one rounding.
 */
#include "device.h"

#include <math.h>
#include <stdlib.h>

static const int lengths[] = {1, 2, 31, 32, 33, 127, 128, 129, 576, 2050};
static const enum kvs_dtype float_types[] = {KVS_F32, KVS_F16, KVS_BF16};
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void embed_copies_the_rows_of_the_ids(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		for (size_t d = 0; d < COUNT(float_types); d++) {
			int cols = lengths[l], rows = random_int(1, 5), vocab = 7;
			struct array table = array_random(float_types[d], vocab, cols, 2);
			struct array ids = array_ids(rows, vocab);
			struct array out = array_poisoned(KVS_F32, rows, cols);
			must(kvs_embed(stream, out.t, table.t, ids.t));
			array_read(&out);
			for (int r = 0; r < rows; r++) {
				for (int c = 0; c < cols; c++)
					assert_true(out.value[r * cols + c] == table.value[ids.id[r] * cols + c]);
			}
			arrays_end();
		}
	}
}

static void embed_expands_quantised_rows(void **state)
{
	(void)state;
	for (enum kvs_dtype dtype = KVS_Q8_0; dtype <= KVS_Q6_K; dtype++) {
		int cols = dtype >= KVS_Q4_K ? 512 : 96, rows = random_int(1, 5), vocab = 7;
		struct array table = array_quantised(dtype, vocab, cols), ids = array_ids(rows, vocab);
		struct array out = array_poisoned(KVS_F32, rows, cols);
		must(kvs_embed(stream, out.t, table.t, ids.t));
		array_read(&out);
		for (int i = 0; i < rows * cols; i++)
			assert_true(out.value[i] == table.value[ids.id[i / cols] * cols + i % cols]);
		arrays_end();
	}
}

/* Rows of usual size, and rows so small that eps decides. */
static void rmsnorm_divides_by_the_root_of_the_mean_square(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		for (size_t d = 0; d < 2 * COUNT(float_types); d++) {
			float spread = d < COUNT(float_types) ? 3 : 0.002f;
			enum kvs_dtype type = float_types[d % COUNT(float_types)];
			int cols = lengths[l], rows = random_int(1, 3);
			struct array x = array_random(KVS_F32, rows, cols, spread),
				     gain = array_random(KVS_F32, 1, cols, 2);
			struct array out = array_poisoned(type, rows, cols);
			double *reference = calloc((size_t)rows * cols, sizeof(*reference));
			for (int r = 0; r < rows; r++) {
				double squares = 0;
				for (int c = 0; c < cols; c++)
					squares += x.value[r * cols + c] * x.value[r * cols + c];
				for (int c = 0; c < cols; c++)
					reference[r * cols + c] =
						x.value[r * cols + c] / sqrt(squares / cols + 1e-5) * gain.value[c];
			}
			must(kvs_rmsnorm(stream, out.t, x.t, gain.t, 1e-5f));
			array_read(&out);
			check_close(&out, reference, 1e-7, 1e-5 + rounding_of(type), "rmsnorm");
			free(reference);
			arrays_end();
		}
	}
}

static void cast_rounds(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		for (size_t d = 0; d < COUNT(float_types); d++) {
			int cols = lengths[l], rows = random_int(1, 3);
			struct array x = array_random(KVS_F32, rows, cols, 3);
			struct array out = array_poisoned(float_types[d], rows, cols);
			must(kvs_cast(stream, out.t, x.t));
			array_read(&out);
			check_close(&out, x.value, 1e-7, rounding_of(float_types[d]), "cast");
			arrays_end();
		}
	}
}

static void silu_mul_gates(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		for (size_t d = 0; d < COUNT(float_types); d++) {
			int ff = lengths[l], rows = random_int(1, 3);
			struct array gate_up = array_random(KVS_F32, rows, 2 * ff, 4);
			struct array out = array_poisoned(float_types[d], rows, ff);
			double *reference = calloc((size_t)rows * ff, sizeof(*reference));
			gate_up.value[0] = -200; /* expf overflows: silu is 0 there, not NaN */
			array_write(&gate_up);
			for (int i = 0; i < rows * ff; i++) {
				const double *row = gate_up.value + (size_t)(i / ff) * 2 * ff;
				double gate = row[i % ff];
				reference[i] = gate / (1 + exp(-gate)) * row[ff + i % ff];
			}
			must(kvs_silu_mul(stream, out.t, gate_up.t));
			array_read(&out);
			check_close(&out, reference, 1e-7, 1e-6 + rounding_of(float_types[d]), "silu_mul");
			free(reference);
			arrays_end();
		}
	}
}

static void add_row_adds_to_every_row(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		int cols = lengths[l], rows = random_int(1, 4);
		struct array x = array_random(KVS_F32, rows, cols, 3), row = array_random(KVS_F32, 1, cols, 3);
		double *reference = calloc((size_t)rows * cols, sizeof(*reference));
		for (int i = 0; i < rows * cols; i++)
			reference[i] = x.value[i] + row.value[i % cols];
		must(kvs_add_row(stream, x.t, row.t));
		array_read(&x);
		check_close(&x, reference, 0, 0x1p-24, "add_row");
		free(reference);
		arrays_end();
	}
}

static void argmax_finds_the_first_of_the_largest(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		int vocab = lengths[l], rows = 8;
		struct array logits = array_random(KVS_F32, rows, vocab, 5), ids = array_poisoned(KVS_I32, rows, 1);
		for (int r = 0; r < rows; r++) { /* the largest, at several places */
			for (int twice = 0; twice < 3; twice++)
				logits.value[r * vocab + random_int(0, vocab - 1)] = 6;
		}
		for (int c = 0; c < vocab; c++)
			logits.value[c] = -1e38f; /* row 0: all are the largest */
		array_write(&logits);
		must(kvs_argmax(stream, ids.t, logits.t));
		array_read(&ids);
		for (int r = 0; r < rows; r++) {
			int first = 0;
			for (int c = 1; c < vocab; c++) {
				if (logits.value[r * vocab + c] > logits.value[r * vocab + first])
					first = c;
			}
			assert_int_equal(ids.id[r], first);
		}
		arrays_end();
	}
}

/* One NaN or +inf anywhere, or -inf alone: no index is the answer. A -inf beside numbers is one that is never the largest. */
static void argmax_of_what_are_no_numbers_is_none(void **state)
{
	static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY};

	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		int vocab = lengths[l], rows = COUNT(odd) + 1;
		struct array logits = array_random(KVS_F32, rows, vocab, 5), ids = array_poisoned(KVS_I32, rows, 1);
		for (size_t r = 0; r < COUNT(odd); r++)
			logits.value[r * vocab + random_int(0, vocab - 1)] = odd[r];
		for (int c = 0; c < vocab; c++)
			logits.value[COUNT(odd) * vocab + c] = -INFINITY;
		array_write(&logits);
		must(kvs_argmax(stream, ids.t, logits.t));
		array_read(&ids);
		for (size_t r = 0; r < COUNT(odd); r++)
			assert_int_equal(ids.id[r] == -1, odd[r] != -INFINITY || vocab == 1);
		assert_int_equal(ids.id[COUNT(odd)], -1);
		arrays_end();
	}
}

static double log_sum_exp(const double *row, int cols, double inverse_temperature)
{
	double largest = -INFINITY, sum = 0;

	for (int c = 0; c < cols; c++)
		largest = fmax(largest, row[c] * inverse_temperature);
	for (int c = 0; c < cols; c++)
		sum += exp(row[c] * inverse_temperature - largest);
	return largest + log(sum);
}

static void nll_is_the_targets_loss(void **state)
{
	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		int vocab = lengths[l], rows = 5;
		struct array logits = array_random(KVS_F32, rows, vocab, 90), targets = array_ids(rows, vocab);
		struct array nll = array_poisoned(KVS_F32, rows, 1);
		double reference[5];
		for (int r = 0; r < rows; r++) {
			const double *row = logits.value + (size_t)r * vocab;
			reference[r] = log_sum_exp(row, vocab, 1) - row[targets.id[r]];
		}
		must(kvs_nll(stream, nll.t, logits.t, targets.t));
		array_read(&nll);
		check_close(&nll, reference, 1e-5, 1e-5, "nll");
		arrays_end();
	}
}

static void softmax_gives_probabilities_also_in_place(void **state)
{
	static const float temperatures[] = {0.1f, 1, 3};

	(void)state;
	for (size_t l = 0; l < COUNT(lengths); l++) {
		for (size_t i = 0; i < COUNT(temperatures); i++) {
			int vocab = lengths[l], rows = 2;
			struct array logits = array_random(KVS_F32, rows, vocab, 20);
			struct array probs = array_poisoned(KVS_F32, rows, vocab);
			double *reference = calloc((size_t)rows * vocab, sizeof(*reference));
			for (int j = 0; j < rows * vocab; j++) {
				const double *row = logits.value + (size_t)(j / vocab) * vocab;
				reference[j] = exp(row[j % vocab] / temperatures[i] -
						   log_sum_exp(row, vocab, 1 / (double)temperatures[i]));
			}
			must(kvs_softmax(stream, probs.t, logits.t, temperatures[i]));
			must(kvs_softmax(stream, logits.t, logits.t, temperatures[i]));
			array_read(&probs);
			array_read(&logits);
			/* a score of 40 / 0.1 in f32 is off by 400 * 2^-24 */
			check_close(&probs, reference, 1e-9, 1e-4, "softmax");
			check_close(&logits, probs.value, 0, 0, "softmax in place");
			free(reference);
			arrays_end();
		}
	}
}

/* Around the loads that a thread has in flight, and with words that carry past 2^32. */
static void checksum_is_the_sum_of_the_words(void **state)
{
	static const int words[] = {4, 1024, 4 * 65536 + 4, 4 * 300000};

	(void)state;
	for (size_t i = 0; i < COUNT(words); i++) {
		struct array data = array_ids(words[i], 0x7fffffff), sum = array_poisoned(KVS_I32, 1, 1);
		uint32_t expected = 0;
		for (int w = 0; w < words[i]; w++)
			expected += (uint32_t)data.id[w];
		must(kvs_checksum(stream, sum.t, data.t.data, (size_t)words[i] * 4));
		array_read(&sum);
		assert_int_equal((uint32_t)sum.id[0], expected);
		must_refuse(kvs_checksum(stream, sum.t, data.t.data, 24), "must be multiples of 16");
		arrays_end();
	}
}

static void what_is_left_out_does_not_run(void **state)
{
	struct array x = array_random(KVS_F32, 1, 8, 1), row = array_random(KVS_F32, 1, 8, 1);
	struct array ids = array_poisoned(KVS_I32, 1, 1);

	(void)state;
	kvs_stream_leave_out(stream, KVS_PART_ROWS);
	must(kvs_add_row(stream, x.t, row.t));
	must(kvs_argmax(stream, ids.t, x.t));
	kvs_stream_leave_out(stream, 0);
	double before = x.value[3];
	array_read(&x);
	array_read(&ids);
	assert_true(x.value[3] == before);
	assert_in_range(ids.id[0], 0, 7);
	arrays_end();
}

static void operands_that_do_not_fit_are_refused(void **state)
{
	(void)state;
	struct array x = array_random(KVS_F32, 3, 8, 1), half = array_random(KVS_F16, 3, 8, 1);
	struct array row = array_random(KVS_F32, 1, 8, 1), short_row = array_random(KVS_F32, 1, 7, 1);
	struct array ids = array_ids(3, 3), two_ids = array_ids(2, 3);
	kvs_tensor none = {.dtype = KVS_F32, .rows = 3, .cols = 8}, empty = x.t;

	empty.rows = 0;
	must_refuse(kvs_embed(stream, x.t, row.t, x.t), "embed: ids is of type f32, not i32");
	must_refuse(kvs_embed(stream, x.t, short_row.t, ids.t), "embed: out is [3][8], not [3][7]");
	must_refuse(kvs_embed(stream, x.t, ids.t, ids.t), "embed: table is of type i32, not a type of weights");
	must_refuse(kvs_rmsnorm(stream, x.t, x.t, short_row.t, 0), "rmsnorm: gain is [1][7], not [1][8]");
	must_refuse(kvs_cast(stream, half.t, half.t), "cast: x is of type f16, not f32");
	must_refuse(kvs_cast(stream, row.t, x.t), "cast: out is [1][8], not [3][8]");
	must_refuse(kvs_rmsnorm(stream, x.t, half.t, row.t, 0), "rmsnorm: x is of type f16, not f32");
	must_refuse(kvs_rmsnorm(stream, none, x.t, row.t, 0), "rmsnorm: out has no data");
	must_refuse(kvs_rmsnorm(stream, x.t, empty, row.t, 0), "rmsnorm: x is [0][8]");
	must_refuse(kvs_silu_mul(stream, x.t, x.t), "silu_mul: gate_up is [3][8], not [3][16]");
	must_refuse(kvs_add_row(stream, x.t, short_row.t), "add_row: row is [1][7], not [1][8]");
	must_refuse(kvs_argmax(stream, two_ids.t, x.t), "argmax: ids is [2][1], not [3][1]");
	must_refuse(kvs_nll(stream, x.t, x.t, two_ids.t), "nll: targets is [2][1], not [3][1]");
	must_refuse(kvs_nll(stream, x.t, x.t, ids.t), "nll: nll is [3][8], not [3][1]");
	must_refuse(kvs_softmax(stream, row.t, x.t, 1), "softmax: probs is [1][8], not [3][8]");
	must_refuse(kvs_softmax(stream, x.t, x.t, 0), "softmax: temperature is 0");
	must_refuse(kvs_softmax(stream, x.t, x.t, NAN), "softmax: temperature is");
	must_refuse(kvs_softmax(stream, x.t, x.t, 1e-40f), "softmax: temperature is");
	arrays_end();
}

static void element_types_go_by_all_their_names(void **state)
{
	enum kvs_dtype dtype;

	(void)state;
	must(kvs_dtype_parse("torch.bfloat16", &dtype));
	assert_int_equal(dtype, KVS_BF16);
	must(kvs_dtype_parse("F16", &dtype));
	assert_int_equal(dtype, KVS_F16);
	must(kvs_dtype_parse("float32", &dtype));
	assert_int_equal(dtype, KVS_F32);
	must_refuse(kvs_dtype_parse("float64", &dtype), "float64");
	must_refuse(kvs_dtype_parse("i32", &dtype), "i32");
}

static void each_launch_counts_the_bytes_that_it_must_move(void **state)
{
	(void)state;
	struct array x = array_random(KVS_F32, 3, 8, 1), row = array_random(KVS_F32, 1, 8, 1);
	struct array out = array_poisoned(KVS_BF16, 3, 8);
	uint64_t before = kvs_stream_bytes_moved(stream);

	must(kvs_rmsnorm(stream, out.t, x.t, row.t, 1e-5f));
	assert_int_equal(kvs_stream_bytes_moved(stream) - before, 3 * 8 * 4 + 8 * 4 + 3 * 8 * 2);
	arrays_end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(embed_copies_the_rows_of_the_ids),
		cmocka_unit_test(embed_expands_quantised_rows),
		cmocka_unit_test(rmsnorm_divides_by_the_root_of_the_mean_square),
		cmocka_unit_test(cast_rounds),
		cmocka_unit_test(silu_mul_gates),
		cmocka_unit_test(add_row_adds_to_every_row),
		cmocka_unit_test(argmax_finds_the_first_of_the_largest),
		cmocka_unit_test(argmax_of_what_are_no_numbers_is_none),
		cmocka_unit_test(nll_is_the_targets_loss),
		cmocka_unit_test(softmax_gives_probabilities_also_in_place),
		cmocka_unit_test(checksum_is_the_sum_of_the_words),
		cmocka_unit_test(what_is_left_out_does_not_run),
		cmocka_unit_test(operands_that_do_not_fit_are_refused),
		cmocka_unit_test(element_types_go_by_all_their_names),
		cmocka_unit_test(each_launch_counts_the_bytes_that_it_must_move),
	};

	return run_under_schedules(tests, COUNT(tests));
}
