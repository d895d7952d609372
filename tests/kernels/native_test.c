/*
 * Native bodies of attention give the same bits with every instruction set that this processor has, whatever the shape.
 * That they are right, attention_test shows; here they are called without a device.
 */
#include "../../attn/native/native.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>

#include <cmocka.h>

#ifndef __x86_64__
#define avx2 plain /* there is only one set: nothing to compare */
#endif
#define TOKENS 150 /* in the cache */
#define HEADS 6
#define KV_HEADS 2

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

static const struct simt_native *body_named(const struct simt_native *bodies, const char *name)
{
	while (bodies->kernel && strcmp(bodies->kernel, name))
		bodies++;
	assert_non_null(bodies->kernel);
	return bodies;
}

static void run_all(const struct simt_native *body, const struct attn_attention_params *params, unsigned x, unsigned y)
{
	struct attn_attention_params copy = *params;
	struct simt_launch launch = {.grid = {x, y, 1}, .params = (void *[]){&copy}};

	for (unsigned i = 0; i < x * y; i++)
		body->run_block(&launch, (struct simt_dim3){i % x, i / x, 0});
}

/* Both sets on one launch: the results' bytes. */
static void check_equal(const char *kernel, struct attn_attention_params p, unsigned x, unsigned y, size_t out_count)
{
	float *first = calloc(out_count, sizeof(*first)), *second = calloc(out_count, sizeof(*second));

	p.out = first;
	p.parts = first;
	run_all(body_named(NATIVE_TABLE(plain), kernel), &p, x, y);
	p.out = second;
	p.parts = second;
	run_all(body_named(NATIVE_TABLE(avx2), kernel), &p, x, y);
	assert_false(first[0] == 0 && first[1] == 0);
	assert_memory_equal(first, second, out_count * sizeof(*first));
	free(first);
	free(second);
}

static void check_type(const char *type, int dim)
{
	int bytes = strcmp(type, "f32") ? 2 : 4, rows = bytes == 2 ? 64 : dim > 128 ? 16 : 32, tokens = 77;
	struct attn_attention_params p = {.q_stride = (HEADS + 2 * KV_HEADS) * dim,
		.heads = HEADS,
		.kv_heads = KV_HEADS,
		.token_bytes = KV_HEADS * dim * bytes,
		.head_bytes = dim * bytes,
		.tiles_per_split = 2,
		.scale_log2 = 0.2f};
	float *q = numbers((size_t)tokens * p.q_stride, 2);
	void *k = elements((size_t)TOKENS * KV_HEADS * dim, type), *v = elements((size_t)TOKENS * KV_HEADS * dim, type);
	char kernel[64];

	p.q = q;
	p.k = k;
	p.v = v;
	for (p.window = 0; p.window < 100; p.window += 33) {
		p.tokens = tokens;
		p.start = TOKENS - tokens;
		snprintf(kernel, sizeof(kernel), "kvs_attention_prefill_%s_%d", type, dim);
		check_equal(kernel, p, (tokens + rows - 1) / rows, HEADS, (size_t)tokens * HEADS * dim);
		p.tokens = 1;
		p.start = 31;
		p.splits = 1;
		snprintf(kernel, sizeof(kernel), "kvs_attention_decode_%s_%d", type, dim);
		check_equal(kernel, p, 1, KV_HEADS, (size_t)HEADS * (dim + 2));
	}
	free(q);
	free(k);
	free(v);
}

static void instruction_sets_give_the_same_bits(void **state)
{
	static const int dims[] = {32, 64, 80, 96, 128, 256};

	(void)state;
	srand(11);
	for (size_t i = 0; i < sizeof(dims) / sizeof(*dims); i++) {
		check_type("f32", dims[i]);
		check_type("f16", dims[i]);
		check_type("bf16", dims[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(instruction_sets_give_the_same_bits)};

#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return cmocka_run_group_tests(tests, NULL, NULL);
#endif
	puts("this processor has no AVX2");
	return 77;
}
