/*
 * tests/kernels/attention_test.c: prefill and decode attention against float64.
 *
 * V is below 1, so errors of the weights bound those of the result. Scores are at most about 8 and carry head_dim
 * roundings of 2^-24 each: 3e-5 holds the f32 paths. The mma path rounds Q (the reference does the same) and each weight to
 * K's type: one rounding of the result at most, and another when `out` is of a short type.
 */
#include "device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int head_dims[] = {32, 64, 80, 96, 128, 256};

struct shape {
	int heads, kv_heads, head_dim, tokens, start, window;
	enum kvs_dtype kv_dtype, out_dtype;
};

struct operands {
	struct array qkv, k, v, out, workspace;
	struct kvs_attention args;
};

#define ROOM 5 /* tokens behind the last one, poisoned: they must not be read */

static struct operands operands_new(const struct shape *s)
{
	int cols = (s->heads + 2 * s->kv_heads) * s->head_dim, end = s->start + s->tokens;
	struct operands o = {
		.qkv = array_random(KVS_F32, s->tokens, cols, 2),
		.k = array_random(s->kv_dtype, end + ROOM, s->kv_heads * s->head_dim, 1.5),
		.v = array_random(s->kv_dtype, end + ROOM, s->kv_heads * s->head_dim, 1),
		.out = array_poisoned(s->out_dtype, s->tokens, s->heads * s->head_dim),
		.workspace = array_poisoned(KVS_F32, 1, (int)kvs_attention_workspace(stream, s->heads, s->head_dim)),
	};

	for (int i = end * s->kv_heads * s->head_dim; i < (end + ROOM) * s->kv_heads * s->head_dim; i++)
		o.k.value[i] = o.v.value[i] = NAN;
	if (s->window) { /* nor what lies before the first window */
		for (int i = 0; i < (s->start - s->window + 1) * s->kv_heads * s->head_dim; i++)
			o.k.value[i] = o.v.value[i] = NAN;
	}
	o.args = (struct kvs_attention){
		.out = o.out.t,
		.qkv = o.qkv.t,
		.kv = {.k = o.k.t.data,
			.v = o.v.t.data,
			.format = {s->kv_dtype, s->kv_heads, s->head_dim},
			.tokens = end + ROOM},
		.workspace = o.workspace.t,
		.heads = s->heads,
		.start = s->start,
		.window = s->window,
		.scale = 1 / sqrtf(s->head_dim),
	};
	array_write(&o.k);
	array_write(&o.v);
	return o;
}

/* out = softmax(scale * q K) V for one row of one head. */
static void attend(const struct shape *s, const struct operands *o, int token, int head, double *out)
{
	int dim = s->head_dim, kv_head = head / (s->heads / s->kv_heads), last = s->start + token;
	int first = s->window && last >= s->window ? last - s->window + 1 : 0;
	const double *q = o->qkv.value + ((size_t)token * (s->heads + 2 * s->kv_heads) + head) * dim;
	bool mma = s->tokens > 1 && s->kv_dtype != KVS_F32;
	double *weight = calloc(last + 1, sizeof(*weight)), largest = -INFINITY, total = 0;

	for (int key = first; key <= last; key++) {
		const double *k = o->k.value + ((size_t)key * s->kv_heads + kv_head) * dim;
		for (int d = 0; d < dim; d++)
			weight[key] += (mma ? round_to(s->kv_dtype, q[d]) : q[d]) * k[d] / sqrt(dim);
		largest = fmax(largest, weight[key]);
	}
	memset(out, 0, dim * sizeof(*out));
	for (int key = first; key <= last; key++) {
		const double *v = o->v.value + ((size_t)key * s->kv_heads + kv_head) * dim;
		double w = exp(weight[key] - largest);
		total += w;
		for (int d = 0; d < dim; d++)
			out[d] += w * v[d];
	}
	for (int d = 0; d < dim; d++)
		out[d] /= total;
	free(weight);
}

static void check_shape(const struct shape *s)
{
	struct operands o = operands_new(s);
	double *reference = calloc((size_t)s->tokens * s->heads * s->head_dim, sizeof(*reference));
	double rounding = s->tokens > 1 && s->kv_dtype != KVS_F32 ? rounding_of(s->kv_dtype) : 0;
	char what[160];

	for (int t = 0; t < s->tokens; t++) {
		for (int h = 0; h < s->heads; h++)
			attend(s, &o, t, h, reference + ((size_t)t * s->heads + h) * s->head_dim);
	}
	for (int mma = 0; mma < (s->tokens == 1 && s->kv_dtype != KVS_F32 ? 2 : 1); mma++) {
		kvs_stream_set_decode_mma(stream, mma);
		must(kvs_attention(stream, &o.args));
		array_read(&o.out);
		snprintf(what, sizeof(what), "%d tokens at %d, window %d, %d heads on %d of %d, %s%s", s->tokens,
			s->start, s->window, s->heads, s->kv_heads, s->head_dim, kvs_dtype_name(s->kv_dtype),
			mma ? ", mma" : "");
		check_close(&o.out, reference, 3e-5 + rounding, rounding_of(s->out_dtype), what);
	}
	free(reference);
	arrays_end();
}

static void decode_is_right_at_every_head_dim_type_and_ratio(void **state)
{
	static const int ratios[] = {1, 2, 3, 4, 7, 8};

	(void)state;
	for (int d = 0; d < 6; d++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
			int ratio = ratios[(d + dtype) % 6];
			struct shape s = {2 * ratio, 2, head_dims[d], 1, random_int(0, 150), 0, dtype, (d + dtype) % 3};
			check_shape(&s);
		}
	}
}

static void decode_is_right_around_the_ends_of_tiles_and_splits(void **state)
{
	static const int starts[] = {0, 1, 15, 16, 62, 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 777, 1100};

	(void)state;
	for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++) {
		struct shape s = {4, 2, 32, 1, starts[i], 0, i % 3, KVS_F32};
		check_shape(&s);
		s.kv_dtype = i % 2 ? KVS_F16 : KVS_BF16; /* the other tiles and splits of mma */
		check_shape(&s);
	}
	check_shape(&(struct shape){2, 1, 256, 1, 700, 0, KVS_F32, KVS_F32}); /* tiles of 16 keys: many splits */
}

static void decode_serves_more_heads_than_a_block_has_room_for(void **state)
{
	(void)state;
	check_shape(&(struct shape){12, 1, 64, 1, 300, 0, KVS_BF16, KVS_BF16});
	check_shape(&(struct shape){17, 1, 32, 1, 70, 0, KVS_F32, KVS_F32});
}

static void decode_sees_the_window_alone(void **state)
{
	static const int windows[] = {1, 2, 16, 63, 64, 100, 300, 601, 1000};

	(void)state;
	for (size_t i = 0; i < sizeof(windows) / sizeof(*windows); i++) {
		struct shape s = {4, 2, 32, 1, 600, windows[i], i % 3, KVS_F32};
		check_shape(&s);
	}
}

/* The first key that is seen is the last, or the first, of a tile of 16, 32 or 64: the tile before it counts, or does not. */
static void decode_sees_a_window_that_begins_at_the_end_of_a_tile(void **state)
{
	static const int first_keys[] = {15, 16, 31, 32, 63, 64, 127, 128};

	(void)state;
	for (size_t i = 0; i < sizeof(first_keys) / sizeof(*first_keys); i++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
			int start = first_keys[i] + random_int(0, 300), window = start - first_keys[i] + 1;
			check_shape(&(struct shape){2, 1, 32, 1, start, window, dtype, KVS_F32});
			check_shape(&(struct shape){1, 1, 128, 1, first_keys[i] + 63, 64, dtype, KVS_F32});
		}
	}
}

static void prefill_is_right_at_every_head_dim_type_and_ratio(void **state)
{
	static const int ratios[] = {1, 2, 3, 4, 7, 8};

	(void)state;
	for (int d = 0; d < 6; d++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
			int ratio = ratios[(d + 2 * dtype) % 6];
			struct shape s = {ratio, 1, head_dims[d], random_int(2, 40), random_int(0, 40), 0, dtype,
				(d + dtype) % 3};
			check_shape(&s);
		}
	}
}

static void prefill_is_right_around_the_ends_of_tiles(void **state)
{
	static const struct {
		int tokens, start;
	} cuts[] = {{2, 0}, {16, 0}, {17, 15}, {32, 32}, {33, 31}, {64, 0}, {65, 63}, {3, 130}, {130, 1}};

	(void)state;
	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
		struct shape s = {2, 2, 32, cuts[i].tokens, cuts[i].start, 0, i % 3, KVS_F32};
		check_shape(&s);
		s.kv_dtype = (i + 1) % 3;
		check_shape(&s);
	}
}

/* Rows whose first tiles are out of their window, and tiles that only some rows of a block see. */
static void prefill_sees_the_window_alone(void **state)
{
	static const int windows[] = {1, 2, 31, 64, 90, 500};

	(void)state;
	for (size_t i = 0; i < sizeof(windows) / sizeof(*windows); i++) {
		for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype += 2) {
			struct shape s = {2, 1, 32, 70, i % 2 ? 0 : 100, windows[i], dtype, KVS_F32};
			check_shape(&s);
		}
	}
}

/* The same rows in calls of other sizes, at other places in their tiles and beside other keys, are the same to the bit. */
static void check_cut(const struct shape *s)
{
	struct operands o = operands_new(s);
	int out_row = s->heads * s->head_dim, done = 0;

	must(kvs_attention(stream, &o.args));
	unsigned char *whole = array_bytes(&o.out);
	while (done < s->tokens) {
		int tokens = random_int(2, 40);
		if (tokens > s->tokens - done || s->tokens - done - tokens == 1)
			tokens = s->tokens - done; /* not one alone: that is decode's */
		struct array out = array_poisoned(s->out_dtype, tokens, out_row);
		struct kvs_attention args = o.args;
		args.out = out.t;
		args.qkv.data += (size_t)done * args.qkv.cols * sizeof(float);
		args.qkv.rows = tokens;
		args.start += done;
		must(kvs_attention(stream, &args));
		unsigned char *part = array_bytes(&out);
		size_t row_bytes = out_row * kvs_dtype_bytes(s->out_dtype);
		assert_memory_equal(part, whole + done * row_bytes, tokens * row_bytes);
		free(part);
		done += tokens;
	}
	free(whole);
	arrays_end();
}

static void prefill_does_not_depend_on_how_the_prompt_is_cut(void **state)
{
	(void)state;
	for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
		check_cut(&(struct shape){2, 1, 32, 150, 0, 0, dtype, KVS_F32});
		check_cut(&(struct shape){2, 1, 64, 90, 20, 37, dtype, KVS_BF16});
	}
}

/* Sequence after sequence of launches gives the same bits: nothing depends on what ran when. */
static void decode_gives_the_same_bits_every_time(void **state)
{
	struct operands o = operands_new(&(struct shape){4, 2, 64, 1, 900, 0, KVS_BF16, KVS_F32});

	(void)state;
	for (int mma = 0; mma < 2; mma++) {
		kvs_stream_set_decode_mma(stream, mma);
		must(kvs_attention(stream, &o.args));
		unsigned char *first = array_bytes(&o.out);
		for (int i = 0; i < 3; i++) {
			must(kvs_attention(stream, &o.args));
			unsigned char *again = array_bytes(&o.out);
			assert_memory_equal(first, again, 4 * 64 * sizeof(float));
			free(again);
		}
		free(first);
	}
	arrays_end();
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
	struct operands o = operands_new(&(struct shape){4, 2, 32, 3, 1, 0, KVS_F32, KVS_F32});
	struct kvs_attention args = o.args;

	(void)state;
	args.heads = 3;
	must_refuse(kvs_attention(stream, &args), "3 query heads cannot share 2 KV heads");
	args = o.args;
	args.kv.format.head_dim = 16;
	must_refuse(kvs_attention(stream, &args), "head_dim 16 is not one of");
	args = o.args;
	args.start = 7;
	must_refuse(kvs_attention(stream, &args), "3 tokens from position 7, but K and V have room for 9");
	args = o.args;
	args.out.cols = 64;
	must_refuse(kvs_attention(stream, &args), "out is [3][64], not [3][128]");
	args = o.args;
	args.qkv.cols = 128;
	must_refuse(kvs_attention(stream, &args), "qkv is [3][128], not [3][256]");
	args = o.args;
	args.workspace.cols--;
	must_refuse(kvs_attention(stream, &args), "attention: workspace has ");
	args = o.args;
	args.scale = 0;
	must_refuse(kvs_attention(stream, &args), "scale is 0, not above 0");
	args = o.args;
	args.window = -1;
	must_refuse(kvs_attention(stream, &args), "window is -1");
	args = o.args;
	args.workspace.data += 4;
	must_refuse(kvs_attention(stream, &args), "not a multiple of 16");
	args = o.args;
	args.kv.k = 0;
	must_refuse(kvs_attention(stream, &args), "K has no address");
	arrays_end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(decode_is_right_at_every_head_dim_type_and_ratio),
		cmocka_unit_test(decode_is_right_around_the_ends_of_tiles_and_splits),
		cmocka_unit_test(decode_serves_more_heads_than_a_block_has_room_for),
		cmocka_unit_test(decode_sees_the_window_alone),
		cmocka_unit_test(decode_sees_a_window_that_begins_at_the_end_of_a_tile),
		cmocka_unit_test(decode_gives_the_same_bits_every_time),
		cmocka_unit_test(prefill_is_right_at_every_head_dim_type_and_ratio),
		cmocka_unit_test(prefill_is_right_around_the_ends_of_tiles),
		cmocka_unit_test(prefill_sees_the_window_alone),
		cmocka_unit_test(prefill_does_not_depend_on_how_the_prompt_is_cut),
		cmocka_unit_test(shapes_that_do_not_fit_are_refused),
	};

	return run_under_schedules(tests, sizeof(tests) / sizeof(*tests));
}
