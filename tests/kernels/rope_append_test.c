/*
 * tests/kernels/rope_append_test.c: biases, Q and K norm, rotation and the write into the cache, against float64.
 *
 * Tolerances: a rotation is two products and a sum of f32, a norm divides by a root of a sum of at most 256 squares: 1e-5
 * relative to the values' size (about 4) holds both. K and V are rounded to their type once.
 */
#include "device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct shape {
	int heads, kv_heads, head_dim, tokens, start;
	enum kvs_dtype kv_dtype;
	bool bias, norm, own_k, own_v;
};

struct operands {
	struct array qkv, bias, q_gain, k_gain, rope, k, v;
	struct kvs_rope_append args;
};

#define EPS 1e-6f
#define ROOM 3 /* tokens that the cache has behind the last one */

static struct operands operands_new(const struct shape *s)
{
	int cols = (s->heads + 2 * s->kv_heads) * s->head_dim, positions = s->start + s->tokens;
	struct operands o = {
		.qkv = array_random(KVS_F32, s->tokens, cols, 2),
		.bias = array_random(KVS_F32, 1, cols, 1),
		.q_gain = array_random(KVS_F32, 1, s->head_dim, 2),
		.k_gain = array_random(KVS_F32, 1, s->head_dim, 2),
		.rope = array_random(KVS_F32, positions, s->head_dim, 1),
		.k = array_poisoned(s->kv_dtype, positions + ROOM, s->kv_heads * s->head_dim),
		.v = array_poisoned(s->kv_dtype, positions + ROOM, s->kv_heads * s->head_dim),
	};

	o.args = (struct kvs_rope_append){
		.qkv = o.qkv.t,
		.rope = o.rope.t,
		.kv = {.k = o.k.t.data,
			.v = o.v.t.data,
			.format = {s->kv_dtype, s->kv_heads, s->head_dim},
			.tokens = positions + ROOM},
		.heads = s->heads,
		.start = s->start,
		.eps = EPS,
		.own_k = s->own_k,
		.own_v = s->own_v,
	};
	if (s->bias)
		o.args.bias = o.bias.t;
	if (s->norm) {
		o.args.q_gain = o.q_gain.t;
		o.args.k_gain = o.k_gain.t;
	}
	return o;
}

/* One head of Q or K, `gain` NULL: no norm. */
static void rotate(const double *x, const double *gain, const double *turns, int head_dim, double *out)
{
	double squares = 0, y[256];
	int half = head_dim / 2;

	for (int d = 0; d < head_dim; d++)
		squares += x[d] * x[d];
	for (int d = 0; d < head_dim; d++)
		y[d] = gain ? x[d] / sqrt(squares / head_dim + EPS) * gain[d] : x[d];
	for (int i = 0; i < half; i++) {
		out[i] = y[i] * turns[2 * i] - y[i + half] * turns[2 * i + 1];
		out[i + half] = y[i + half] * turns[2 * i] + y[i] * turns[2 * i + 1];
	}
}

/* What qkv's Q, and the new rows of K and V, must become. */
static void reference(const struct shape *s, const struct operands *o, double *q, double *k, double *v)
{
	int total = s->heads + 2 * s->kv_heads, dim = s->head_dim;
	double x[256];

	for (int t = 0; t < s->tokens; t++) {
		const double *turns = o->rope.value + (size_t)(s->start + t) * dim;
		for (int h = 0; h < total; h++) {
			int kv_head = h - s->heads;
			for (int d = 0; d < dim; d++)
				x[d] = o->qkv.value[(t * total + h) * dim + d] +
				       (s->bias ? o->bias.value[h * dim + d] : 0);
			if (kv_head < 0)
				rotate(x, s->norm ? o->q_gain.value : NULL, turns, dim, q + (t * s->heads + h) * dim);
			else if (kv_head < s->kv_heads)
				rotate(x, s->norm ? o->k_gain.value : NULL, turns, dim,
					k + (t * s->kv_heads + kv_head) * dim);
			else
				memcpy(v + (t * s->kv_heads + kv_head - s->kv_heads) * dim, x, dim * sizeof(*x));
		}
	}
}

static void check_span(const double *found, const double *expected, size_t count, double relative, const char *what)
{
	for (size_t i = 0; i < count; i++) {
		double error = fabs(found[i] - expected[i]);
		if (!(error <= 4e-5 + relative * fabs(expected[i])))
			fail_msg("%s: element %zu is %.9g, not %.9g", what, i, found[i], expected[i]);
	}
}

static void check_untouched(const double *found, size_t count, const char *what)
{
	for (size_t i = 0; i < count; i++) {
		if (!isnan(found[i]))
			fail_msg("%s: element %zu was written", what, i);
	}
}

/* The cache's rows before and behind the new ones stay as they were; of a borrowed cache all do. */
static void check_cache(
	const struct shape *s, const struct array *cache, bool own, const double *expected, const char *what)
{
	size_t row = (size_t)s->kv_heads * s->head_dim;

	if (!own) {
		check_untouched(cache->value, row * cache->t.rows, what);
		return;
	}
	check_untouched(cache->value, row * s->start, what);
	check_span(cache->value + row * s->start, expected, row * s->tokens, rounding_of(s->kv_dtype), what);
	check_untouched(cache->value + row * (s->start + s->tokens), row * ROOM, what);
}

static void check_shape(const struct shape *s)
{
	struct operands o = operands_new(s);
	int total = s->heads + 2 * s->kv_heads;
	size_t q_row = (size_t)s->heads * s->head_dim, kv_row = (size_t)s->kv_heads * s->head_dim;
	double *q = calloc(s->tokens * (q_row + 2 * kv_row), sizeof(*q));
	double *k = q + s->tokens * q_row, *v = k + s->tokens * kv_row;

	reference(s, &o, q, k, v);
	must(kvs_rope_append(stream, &o.args));
	array_read(&o.qkv);
	array_read(&o.k);
	array_read(&o.v);
	for (int t = 0; t < s->tokens; t++)
		check_span(o.qkv.value + (size_t)t * total * s->head_dim, q + t * q_row, q_row, 0x1p-23, "q");
	check_cache(s, &o.k, s->own_k, k, "k");
	check_cache(s, &o.v, s->own_v, v, "v");
	free(q);
	arrays_end();
}

static void rotates_and_appends_at_every_head_dim_and_type(void **state)
{
	static const int head_dims[] = {32, 64, 80, 96, 128, 256};

	(void)state;
	for (int d = 0; d < 6; d++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
			struct shape s = {.heads = 3 * (1 + d % 2),
				.kv_heads = 1 + d % 2,
				.head_dim = head_dims[d],
				.tokens = 1 + d,
				.start = 5 * (d % 3),
				.kv_dtype = dtype,
				.bias = d % 2,
				.norm = d % 3 == 0,
				.own_k = true,
				.own_v = true};
			check_shape(&s);
		}
	}
}

static void biases_and_norms_are_each_optional(void **state)
{
	(void)state;
	for (int which = 0; which < 4; which++) {
		struct shape s = {4, 2, 64, 3, 2, KVS_F32, which & 1, which & 2, true, true};
		check_shape(&s);
	}
}

static void borrowed_k_and_v_are_not_written(void **state)
{
	(void)state;
	for (int which = 0; which < 3; which++) {
		struct shape s = {4, 2, 32, 3, 1, KVS_BF16, true, true, which & 1, which & 2};
		check_shape(&s);
	}
}

/* What is not read may be anything: a layer that borrows has no such columns computed. */
static void borrowed_parts_of_qkv_are_not_read(void **state)
{
	struct shape s = {2, 1, 32, 2, 0, KVS_F32, false, true, false, false};
	struct operands o = operands_new(&s);

	(void)state;
	for (int t = 0; t < s.tokens; t++) {
		for (int c = 2 * 32; c < 4 * 32; c++)
			o.qkv.value[t * 4 * 32 + c] = NAN;
	}
	array_write(&o.qkv);
	o.args.kv.k = o.args.kv.v = 0;
	must(kvs_rope_append(stream, &o.args));
	array_read(&o.qkv);
	for (int t = 0; t < s.tokens; t++) {
		for (int c = 0; c < 2 * 32; c++)
			assert_false(isnan(o.qkv.value[t * 4 * 32 + c]));
	}
	arrays_end();
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
	struct shape s = {4, 2, 32, 3, 1, KVS_F32, true, true, true, true};
	struct operands o = operands_new(&s);
	struct kvs_rope_append args = o.args;

	(void)state;
	args.heads = 5;
	must_refuse(kvs_rope_append(stream, &args), "5 query heads cannot share 2 KV heads");
	args.heads = 6;
	must_refuse(kvs_rope_append(stream, &args), "qkv is [3][256], not [3][320]");
	args = o.args;
	args.kv.format.head_dim = 48;
	must_refuse(kvs_rope_append(stream, &args), "head_dim 48 is not one of");
	args = o.args;
	args.kv.format.dtype = KVS_I32;
	must_refuse(kvs_rope_append(stream, &args), "cannot be of type i32");
	args = o.args;
	args.start = 5;
	must_refuse(kvs_rope_append(stream, &args), "3 tokens from position 5, but K and V have room for 7");
	args.start = -1;
	must_refuse(kvs_rope_append(stream, &args), "from position -1");
	args.start = 2;
	must_refuse(kvs_rope_append(stream, &args), "positions up to 4, but the table has 4");
	args = o.args;
	args.kv.v = 0;
	must_refuse(kvs_rope_append(stream, &args), "V has no address");
	args = o.args;
	args.bias.cols--;
	must_refuse(kvs_rope_append(stream, &args), "bias is [1][255], not [1][256]");
	args = o.args;
	args.k_gain.cols = 64;
	must_refuse(kvs_rope_append(stream, &args), "k_gain is [1][64], not [1][32]");
	arrays_end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(rotates_and_appends_at_every_head_dim_and_type),
		cmocka_unit_test(biases_and_norms_are_each_optional),
		cmocka_unit_test(borrowed_k_and_v_are_not_written),
		cmocka_unit_test(borrowed_parts_of_qkv_are_not_read),
		cmocka_unit_test(shapes_that_do_not_fit_are_refused),
	};

	return run_under_schedules(tests, sizeof(tests) / sizeof(*tests));
}
