/*
 * Native bodies give the same bits with every instruction set that this processor has, whatever the shape. That they are
 * right, attention_test, rows_test, rope_append_test and gemm_test show; here they are called without a device.
 */
#include "../../attn/native/native.h"
#include "../../attn/native/processor.h"
#include "../../model/gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>

#include <cmocka.h>

#include "device.h"

#define TOKENS 777 /* in the cache */
#define PROMPT 77  /* tokens of prefill's */
#define HEADS 6
#define KV_HEADS 2
#define COUNT(table) (sizeof(table) / sizeof(*(table)))

static const char *const types[] = {"f32", "f16", "bf16"}; /* by number */
static const int head_dims[] = {32, 64, 80, 96, 128, 256};

static float *numbers(size_t count, float scale)
{
	float *all = malloc(count * sizeof(*all));

	for (size_t i = 0; i < count; i++)
		all[i] = scale * ((float)rand() / (float)RAND_MAX - 0.5f);
	return all;
}

/* Numbers of a type, from floats: the upper halves are as good bf16, and as good f16 once they are small. */
static void *elements(size_t count, const char *type)
{
	float *all = numbers(count, 4);
	uint16_t *narrow = (uint16_t *)all;

	for (size_t i = 0; i < count && strcmp(type, "f32"); i++)
		narrow[i] = strcmp(type, "f16") ? (uint16_t)(rand() % 0x0100 + 0x3f00)
						: (uint16_t)(rand() % 0x4200 | (rand() % 2) << 15);
	return all;
}

static const struct simt_native *const plain_parts[] = NATIVE_TABLE(plain);
static const struct simt_native *const *other_parts; /* of the set that is compared with it */

static const struct simt_native *body_named(const struct simt_native *const parts[], const char *name)
{
	for (int part = 0; part < NATIVE_PARTS; part++) {
		for (const struct simt_native *body = parts[part]; body->kernel; body++) {
			if (!strcmp(body->kernel, name))
				return body;
		}
	}
	fail_msg("no body of %s", name);
	return NULL;
}

/* ---- launches ---- */

static void run_blocks(const struct simt_native *body, const struct simt_launch *launch)
{
	struct simt_dim3 grid = launch->grid, at;

	for (at.z = 0; at.z < grid.z; at.z++) {
		for (at.y = 0; at.y < grid.y; at.y++) {
			for (at.x = 0; at.x < grid.x; at.x++)
				body->run_block(launch, at);
		}
	}
}

/* Both sets on one launch with these params; params[out] points to the pointer of what is written, `bytes` of it. */
static void check_launch(
	const char *kernel, struct simt_launch launch, void *out_pointer, const void *before, size_t bytes)
{
	void *out[2];

	for (int set = 0; set < 2; set++) {
		out[set] = malloc(bytes);
		memcpy(out[set], before, bytes);
		memcpy(out_pointer, &out[set], sizeof(void *));
		run_blocks(body_named(set ? other_parts : plain_parts, kernel), &launch);
	}
	assert_memory_not_equal(out[0], before, bytes);
	if (memcmp(out[0], out[1], bytes))
		fail_msg("%s, %u x %u x %u blocks: other bits", kernel, launch.grid.x, launch.grid.y, launch.grid.z);
	free(out[0]);
	free(out[1]);
}

/* ---- attention ---- */

static void check_prefill(struct attn_attention_params p, const char *type, int dim)
{
	int rows = strcmp(type, "f32") ? 64 : dim > 128 ? 16 : 32;
	size_t bytes = (size_t)PROMPT * p.heads * dim * (p.out_dtype ? 2 : 4);
	void *before = calloc(1, bytes);
	struct simt_launch launch = {.grid = {(PROMPT + rows - 1) / rows, p.heads, 1}, .params = (void *[]){&p}};
	char kernel[64];

	p.tokens = PROMPT;
	p.start = 73;
	snprintf(kernel, sizeof(kernel), "kvs_attention_prefill_%s_%d", type, dim);
	check_launch(kernel, launch, &p.out, before, bytes);
	free(before);
}

/* Decode that sees `length` keys, in at most `most` splits: out of one, else their parts. */
static void check_decode(struct attn_attention_params p, const char *type, int dim, int length, int most)
{
	int height = attn_decode_keys(dim * (strcmp(type, "f32") ? 2 : 4));
	int first = p.window && length > p.window ? length - p.window : 0;
	int tiles = (length - 1) / height + 1 - first / height;
	int groups = (p.heads / p.kv_heads + ATTN_DECODE_GROUP - 1) / ATTN_DECODE_GROUP;
	struct simt_launch launch = {.params = (void *[]){&p}};
	size_t bytes;
	void *before;
	char kernel[64];

	p.tokens = 1;
	p.start = length - 1;
	p.tiles_per_split = (tiles + most - 1) / most;
	p.splits = (tiles + p.tiles_per_split - 1) / p.tiles_per_split;
	if (length == TOKENS && !p.window)
		assert_int_equal(p.splits, most);
	launch.grid = (struct simt_dim3){p.splits, p.kv_heads, groups};
	bytes = p.splits > 1 ? (size_t)p.heads * p.splits * (dim + 2) * 4
			     : (size_t)p.heads * dim * (p.out_dtype ? 2 : 4);
	before = calloc(1, bytes);
	snprintf(kernel, sizeof(kernel), "kvs_attention_decode_%s_%d", type, dim);
	check_launch(kernel, launch, p.splits > 1 ? (void *)&p.parts : &p.out, before, bytes);
	free(before);
}

/* At lengths around the height of tiles, with few and with more query heads for a KV head than a block serves. */
static void check_decodes(struct attn_attention_params p, const char *type, int dim)
{
	static const int lengths[] = {1, 33, 65, TOKENS}, splits[] = {1, 3, 7};

	for (int i = 0; i < 4; i++) {
		for (int j = 0; j < 3; j++)
			check_decode(p, type, dim, lengths[i], splits[j]);
	}
	p.heads = (ATTN_DECODE_GROUP + 1) * KV_HEADS;
	check_decode(p, type, dim, 65, 2);
}

static void check_attention(const char *type, int dim)
{
	int bytes = strcmp(type, "f32") ? 2 : 4;
	struct attn_attention_params p = {.q_stride = (HEADS + 2 * KV_HEADS) * dim,
		.heads = HEADS,
		.kv_heads = KV_HEADS,
		.token_bytes = KV_HEADS * dim * bytes,
		.head_bytes = dim * bytes,
		.scale_log2 = 0.2f};
	float *q = numbers((size_t)PROMPT * p.q_stride, 2);
	void *k = elements((size_t)TOKENS * KV_HEADS * dim, type), *v = elements((size_t)TOKENS * KV_HEADS * dim, type);

	p.q = q;
	p.k = k;
	p.v = v;
	for (p.window = 0; p.window < 100; p.window += 33) {
		check_prefill(p, type, dim);
		check_decodes(p, type, dim);
	}
	for (p.out_dtype = KVS_F16; p.out_dtype <= KVS_BF16; p.out_dtype++) {
		check_prefill(p, type, dim);
		check_decode(p, type, dim, 33, 1);
	}
	free(q);
	free(k);
	free(v);
}

static void attention_gives_the_same_bits(void **state)
{
	(void)state;
	srand(11);
	for (size_t i = 0; i < COUNT(head_dims); i++) {
		for (int type = KVS_F32; type <= KVS_BF16; type++)
			check_attention(types[type], head_dims[i]);
	}
}

/* Splits as decode leaves them, far apart and near; with several, one that saw nothing. */
static float *random_parts(int splits, int dim)
{
	float *parts = numbers((size_t)HEADS * splits * (dim + 2), 9);

	for (int i = 0; i < HEADS * splits; i++) {
		float *behind = parts + i * (dim + 2) + dim;

		behind[0] *= i % 3 ? 1 : 40;
		behind[1] = 1 + fabsf(behind[1]);
	}
	if (splits > 1)
		parts[dim] = -INFINITY;
	return parts;
}

static void check_combine(int splits, int dim, int dtype)
{
	float *parts = random_parts(splits, dim);
	size_t bytes = (size_t)HEADS * dim * (dtype ? 2 : 4);
	void *before = calloc(1, bytes);
	struct attn_attention_params p = {.parts = parts, .splits = splits, .out_dtype = dtype};
	struct simt_launch launch = {.grid = {HEADS, 1, 1}, .params = (void *[]){&p, &dim}};

	check_launch("kvs_attention_combine", launch, &p.out, before, bytes);
	free(parts);
	free(before);
}

static void splits_are_combined_to_the_same_bits(void **state)
{
	static const int splits[] = {1, 2, 3, 7};

	(void)state;
	for (size_t i = 0; i < COUNT(head_dims) * COUNT(splits); i++) {
		for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
			check_combine(splits[i % COUNT(splits)], head_dims[i / COUNT(splits)], dtype);
	}
}

/* ---- rows and products ---- */

static void check_rows(int rows, int cols, int dtype)
{
	float *x = numbers((size_t)rows * 2 * cols, 30), *gain = numbers(cols, 2), eps = 1e-5f, inverse = 1.3f;
	void *table = elements((size_t)rows * cols, types[dtype]), *out = NULL;
	int *ids = malloc(rows * sizeof(*ids));
	size_t elements_bytes = (size_t)rows * cols * 4, pieces = (cols + 127) / 128;
	struct simt_launch launch = {.grid = {rows, 1, 1}, .block = {32, 1, 1}};

	for (int i = 0; i < rows; i++)
		ids[i] = (i * 7 + 3) % (rows < cols ? rows : cols);
	launch.params = (void *[]){&out, &table, &ids, &cols, &dtype};
	check_launch("kvs_embed_kernel", launch, &out, x, elements_bytes);
	launch.params = (void *[]){&out, &x, &gain, &cols, &eps, &dtype};
	check_launch("kvs_rmsnorm_kernel", launch, &out, x, elements_bytes / (dtype ? 2 : 1));
	launch.params = (void *[]){&out, &gain, &cols};
	check_launch("kvs_add_row_kernel", launch, &out, x, elements_bytes);
	launch.params = (void *[]){&out, &x, &cols};
	check_launch("kvs_argmax_kernel", launch, &out, x, rows * sizeof(int));
	launch.params = (void *[]){&out, &x, &ids, &cols};
	check_launch("kvs_nll_kernel", launch, &out, x, rows * sizeof(float));
	launch.params = (void *[]){&out, &x, &cols, &inverse};
	check_launch("kvs_softmax_kernel", launch, &out, x, elements_bytes);
	launch.grid.y = (unsigned)pieces; /* of ATTN_ROW_TURNS elements for each of 32 threads */
	launch.params = (void *[]){&out, &x, &cols, &dtype};
	check_launch("kvs_silu_mul_kernel", launch, &out, x, elements_bytes / (dtype ? 2 : 1));
	free(x);
	free(gain);
	free(table);
	free(ids);
}

static void rows_give_the_same_bits(void **state)
{
	static const int cols[] = {1, 15, 16, 33, 96, 1030, 2500};

	(void)state;
	for (size_t i = 0; i < COUNT(cols); i++) {
		for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
			check_rows(5, cols[i], dtype);
	}
}

/* Weights of any type; k is a multiple of a quantised type's block. */
static void *weights(int n, int k, enum kvs_dtype dtype)
{
	return kvs_dtype_quantised(dtype) ? random_blocks(dtype, n, k) : elements((size_t)n * k, types[dtype]);
}

static void check_product(int tokens, int n, int k, int dtype)
{
	float *x = numbers((size_t)tokens * k, 2), *before = numbers((size_t)tokens * (n + 3), 2);
	void *w = weights(n, k, dtype);
	struct attn_product_params p = {
		.x = x, .w = w, .tokens = tokens, .n = n, .k = k, .out_stride = n + 3, .cols = 32, .dtype = dtype};
	struct simt_launch launch = {.grid = {(n + 31) / 32, (tokens + ATTN_PRODUCT_ROWS - 1) / ATTN_PRODUCT_ROWS, 1},
		.params = (void *[]){&p}};

	for (p.accumulate = 0; p.accumulate < 2; p.accumulate++)
		check_launch("kvs_product_kernel", launch, &p.out, before, (size_t)tokens * (n + 3) * sizeof(float));
	free(x);
	free(before);
	free(w);
}

/* Each number of rows that is read once, and more; each type that weights have. */
static void products_give_the_same_bits(void **state)
{
	static const int shapes[][3] = {{1, 1, 1}, {1, 5, 7}, {1, 77, 600}, {2, 3, 15}, {2, 35, 64}, {3, 7, 33},
		{3, 33, 517}, {4, 1, 31}, {4, 40, 100}, {5, 50, 300}, {9, 17, 519},
		{ATTN_PRODUCT_ROWS + 7, 33, ATTN_PRODUCT_DEPTH + 9}};

	(void)state;
	for (size_t i = 0; i < COUNT(shapes); i++) {
		for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
			check_product(shapes[i][0], shapes[i][1], shapes[i][2], dtype);
	}
	for (int dtype = KVS_Q8_0; dtype <= KVS_Q6_K; dtype++) {
		for (int tokens = 1; tokens <= ATTN_PRODUCT_FEW + 1; tokens++)
			check_product(tokens, 7 + 2 * tokens, 3 * (int)attn_block_elements(dtype), dtype);
	}
}

/* The kernel of a GPU's one row, whose x has w's type. */
static void check_gemv(int n, int k, int dtype)
{
	const int rows = ATTN_GEMV_THREADS / 32 * ATTN_GEMV_ROWS;
	void *x = elements(k, types[dtype]), *w = elements((size_t)n * k, types[dtype]);
	float *before = numbers(n, 2);
	struct attn_gemv_params p = {.x = x, .w = w, .n = n, .k = k};
	struct simt_launch launch = {.grid = {(n + rows - 1) / rows, 1, 1}, .params = (void *[]){&p}};
	char kernel[32];

	snprintf(kernel, sizeof(kernel), "kvs_gemv_%s", types[dtype]);
	for (p.accumulate = 0; p.accumulate < 2; p.accumulate++)
		check_launch(kernel, launch, &p.out, before, n * sizeof(*before));
	free(x);
	free(w);
	free(before);
}

static void products_of_one_row_give_the_same_bits(void **state)
{
	static const int shapes[][2] = {{1, 1}, {3, 15}, {8, 16}, {9, 33}, {17, 600}, {77, 519}};

	(void)state;
	for (size_t i = 0; i < COUNT(shapes); i++) {
		for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
			check_gemv(shapes[i][0], shapes[i][1], dtype);
	}
}

/* ---- quantised weights ---- */

/* A launch's output, `count` floats at *out, which held `before`. */
static float *output_of(
	const struct simt_native *body, struct simt_launch *launch, float **out, const float *before, size_t count)
{
	*out = malloc(count * sizeof(**out));
	memcpy(*out, before, count * sizeof(**out));
	run_blocks(body, launch);
	return *out;
}

static void check_quantised(const struct simt_native *const parts[], int tokens, int n, int k, enum kvs_dtype dtype)
{
	float *x = numbers((size_t)tokens * k, 2), *before = numbers((size_t)tokens * (n + 3), 2), *results[2];
	float *expanded = malloc((size_t)n * k * sizeof(*expanded));
	uint8_t *blocks = random_blocks(dtype, n, k);
	size_t count = (size_t)tokens * (n + 3);
	struct attn_product_params p = {.x = x, .tokens = tokens, .n = n, .k = k, .out_stride = n + 3, .cols = 32};
	struct simt_launch launch = {.grid = {(n + 31) / 32, (tokens + ATTN_PRODUCT_ROWS - 1) / ATTN_PRODUCT_ROWS, 1},
		.params = (void *[]){&p}};

	model_gguf_dequantize(dtype, blocks, expanded, (size_t)n * k);
	p.accumulate = n % 2;
	for (int f32 = 0; f32 < 2; f32++) {
		p.dtype = f32 ? KVS_F32 : dtype;
		p.w = f32 ? (void *)expanded : (void *)blocks;
		results[f32] = output_of(body_named(parts, "kvs_product_kernel"), &launch, &p.out, before, count);
	}
	if (memcmp(results[0], results[1], count * sizeof(float)))
		fail_msg("%s: %d x %d x %d has other bits than in f32", kvs_dtype_name(dtype), tokens, n, k);
	free(results[0]);
	free(results[1]);
	free(x);
	free(before);
	free(expanded);
	free(blocks);
}

/* Row ids[0] of a table, as the gguf package has it (tests/checkpoint/gguf_test.c). */
static void check_embedding(const struct simt_native *const parts[], int cols, enum kvs_dtype dtype)
{
	enum { ROWS = 3 };
	uint8_t *table = random_blocks(dtype, ROWS, cols);
	int ids[] = {2}, *id = ids, type = dtype;
	float *wanted = malloc(ROWS * cols * sizeof(*wanted)), *before = calloc(cols, sizeof(*before)), *out;
	struct simt_launch launch = {.grid = {1, 1, 1}, .params = (void *[]){&out, &table, &id, &cols, &type}};

	model_gguf_dequantize(dtype, table, wanted, (size_t)ROWS * cols);
	output_of(body_named(parts, "kvs_embed_kernel"), &launch, &out, before, cols);
	assert_memory_equal(out, wanted + 2 * cols, cols * sizeof(*out));
	free(table);
	free(wanted);
	free(before);
	free(out);
}

/* In all sets, among few tokens and many, at the end of a panel's rows and of its depth. */
static void quantised_weights_give_the_bits_of_f32(void **state)
{
	static const int shapes[][2] = {{1, 37}, {2, 5}, {3, 2}, {4, 33}, {5, 17}, {ATTN_PRODUCT_ROWS + 7, 19}};
	const struct simt_native *const *sets[] = {plain_parts, other_parts};

	(void)state;
	for (enum kvs_dtype dtype = KVS_Q8_0; dtype <= KVS_Q6_K; dtype++) {
		for (size_t i = 0; i < COUNT(shapes); i++) {
			int k = (int)attn_block_elements(dtype) * (i % 2 ? 2 : dtype >= KVS_Q4_K ? 3 : 9);
			check_quantised(sets[i % 2], shapes[i][0], shapes[i][1], k, dtype);
			check_quantised(other_parts, shapes[i][0], shapes[i][1], k, dtype);
		}
		check_embedding(plain_parts, 512, dtype);
		check_embedding(other_parts, 512, dtype);
	}
}

/* A row of x has the same sums whatever rows are beside it, among few as among many. */
static void a_row_does_not_depend_on_others(void **state)
{
	enum { MANY = 19, N = 37, K = 530 };
	float *x = numbers(MANY * K, 2), *w = numbers(N * K, 2), all[MANY * N], part[MANY * N];
	struct attn_product_params p = {.x = x, .w = w, .n = N, .k = K, .out_stride = N, .cols = N, .dtype = KVS_F32};
	struct simt_launch launch = {.params = (void *[]){&p}};
	const struct simt_native *body = body_named(other_parts, "kvs_product_kernel");

	(void)state;
	for (int group = 0; group < 2; group++) {
		int most = group ? MANY : ATTN_PRODUCT_FEW;

		p.x = x;
		p.out = all;
		p.tokens = most;
		body->run_block(&launch, (struct simt_dim3){0, 0, 0});
		for (p.tokens = group ? ATTN_PRODUCT_FEW + 1 : 1; p.tokens < most; p.tokens++) {
			p.x = x + (most - p.tokens) * K;
			p.out = part;
			body->run_block(&launch, (struct simt_dim3){0, 0, 0});
			assert_memory_equal(part, all + (most - p.tokens) * N, p.tokens * N * sizeof(float));
		}
	}
	free(x);
	free(w);
}

static void check_rope(int dim, int dtype, bool gains)
{
	enum { Q_HEADS = 5, TURNS = 9, START = 4 };
	int total = Q_HEADS + 2 * KV_HEADS, bytes = dtype ? 2 : 4;
	float *qkv = numbers(TURNS * total * dim, 3), *rope = numbers((START + TURNS) * dim, 2),
	      *gain = numbers(2 * dim, 2);
	size_t kv_bytes = (size_t)(START + TURNS) * KV_HEADS * dim * bytes;
	char *before = calloc(2, kv_bytes), *v = calloc(1, kv_bytes);
	struct attn_rope_params p = {.bias = gains ? qkv : NULL,
		.q_gain = gains ? gain : NULL,
		.k_gain = gains ? gain + dim : NULL,
		.rope = rope,
		.v = v,
		.token_bytes = KV_HEADS * dim * bytes,
		.head_bytes = dim * bytes,
		.kv_dtype = dtype,
		.heads = Q_HEADS,
		.kv_heads = KV_HEADS,
		.head_dim = dim,
		.start = START,
		.eps = 1e-6f};
	struct simt_launch launch = {
		.grid = {TURNS, (total + ATTN_ROPE_WARPS - 1) / ATTN_ROPE_WARPS, 1}, .params = (void *[]){&p}};
	float *rotated = malloc(TURNS * total * dim * sizeof(*rotated));

	p.k = before + kv_bytes;
	check_launch("kvs_rope_append_kernel", launch, &p.qkv, qkv, TURNS * total * dim * sizeof(float));
	for (int i = 0; i < 2; i++) { /* what K is, is checked with a fresh qkv for each set */
		p.k = before + i * kv_bytes;
		memcpy(rotated, qkv, TURNS * total * dim * sizeof(*rotated));
		p.qkv = rotated;
		run_blocks(body_named(i ? other_parts : plain_parts, "kvs_rope_append_kernel"), &launch);
	}
	assert_memory_equal(before, before + kv_bytes, kv_bytes);
	free(qkv);
	free(rope);
	free(gain);
	free(before);
	free(v);
	free(rotated);
}

static void rotations_give_the_same_bits(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(head_dims); i++) {
		for (int dtype = KVS_F32; dtype <= KVS_BF16; dtype++)
			check_rope(head_dims[i], dtype, i % 2);
	}
}

/* The set "wide" has the vectors of AVX-512 in halves: its arrangement is tested where the processor lacks the real one. */
int main(int argc, char **argv) /* usage: native_test [SET]: that set alone, "AVX-512" for instance */
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(attention_gives_the_same_bits),
		cmocka_unit_test(splits_are_combined_to_the_same_bits), cmocka_unit_test(rows_give_the_same_bits),
		cmocka_unit_test(products_give_the_same_bits), cmocka_unit_test(products_of_one_row_give_the_same_bits),
		cmocka_unit_test(quantised_weights_give_the_bits_of_f32),
		cmocka_unit_test(a_row_does_not_depend_on_others), cmocka_unit_test(rotations_give_the_same_bits)};
#ifdef __x86_64__
	static const struct simt_native *const sets[][NATIVE_PARTS] = {
		NATIVE_TABLE(avx2), NATIVE_TABLE(wide), NATIVE_TABLE(avx512)};
	static const char *const names[] = {"AVX2", "AVX-512 in halves", "AVX-512"};
	int failed = 0, ran = 0;

	for (int set = 0; set < 3 && attn_has_avx2(); set++) {
		if ((set == 2 && !attn_has_avx512()) || (argc > 1 && strcmp(argv[1], names[set])))
			continue;
		ran++;
		other_parts = sets[set];
		failed += cmocka_run_group_tests_name(names[set], tests, NULL, NULL);
	}
	if (ran)
		return failed;
#endif
	(void)tests;
	printf("this processor lacks %s\n", argc > 1 ? argv[1] : "AVX2, FMA or F16C");
	return 77;
}
