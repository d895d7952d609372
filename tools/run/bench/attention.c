/*
 * tools/run/bench/attention.c: attention alone, of one token over a long context and of a chunk of a prompt.
 *
 * There are as many KV caches as the model has layers, and each launch reads the next one, so that none of it is still in
 * the device's own caches. K, V and Q are random: a GPU's power draw, and so its clock, depends on the bits that toggle.
 */
#include "bench.h"

#include <math.h>

#define CHUNK_TOKENS 512 /* the engine's default for prompts */

struct attention {
	kvs_stream *stream;
	struct kvs_attention args;
	CUdeviceptr memory;
	size_t cache_bytes; /* of K, or of V */
	int layers, layer;
};

static int run_attention(void *arg)
{
	struct attention *a = arg;
	CUdeviceptr k = a->memory + 2 * a->cache_bytes * a->layer;

	a->layer = (a->layer + 1) % a->layers;
	a->args.kv.k = k;
	a->args.kv.v = k + a->cache_bytes;
	return kvs_attention(a->stream, &a->args);
}

static void take_rows(struct attention *a, int rows, int start)
{
	a->args.qkv.rows = a->args.out.rows = rows;
	a->args.start = start;
}

static int measure_decode(struct bench *bench, struct attention *a, int tokens, json_t *rows)
{
	size_t bytes = 2 * (size_t)tokens * kvs_kv_token_bytes(a->args.kv.format);
	double seconds;
	int err;

	take_rows(a, 1, tokens - 1);
	err = bench_time(bench, kvs_stream_handle(a->stream), run_attention, a, BENCH_RUNS, &seconds);
	if (err)
		return err;
	json_array_append_new(
		rows, json_pack("{s:i,s:f,s:f,s:f,s:f}", "tokens", tokens, "us", 1e6 * seconds, "gb_per_s",
			      bytes / seconds / 1e9, "percent_of_copy", bench_percent(bench, bytes, seconds),
			      "percent_of_read", 100 * bytes / seconds / 1e9 / bench->read_gbs));
	if (!bench->quiet)
		printf("attention   %10.1f us  %6.1f %% of copy   one token over %d keys\n", 1e6 * seconds,
			bench_percent(bench, bytes, seconds), tokens);
	return 0;
}

static int measure_prefill(struct bench *bench, struct attention *a, int tokens, int start, json_t *rows)
{
	double pairs = (double)tokens * start + (double)tokens * (tokens + 1) / 2, seconds;
	double flops = 4 * pairs * bench->shape.heads * bench->shape.head_dim; /* Q Kᵀ and P V, a multiply-add is two */
	int err;

	take_rows(a, tokens, start);
	err = bench_time(bench, kvs_stream_handle(a->stream), run_attention, a, BENCH_RUNS / 8, &seconds);
	if (err)
		return err;
	json_array_append_new(rows, json_pack("{s:i,s:i,s:f,s:f}", "tokens", tokens, "start", start, "us",
					    1e6 * seconds, "tflops", flops / seconds / 1e12));
	if (!bench->quiet)
		printf("attention   %10.1f us  %6.1f Tflop/s     %d tokens from position %d\n", 1e6 * seconds,
			flops / seconds / 1e12, tokens, start);
	return 0;
}

/* Q first, then the output, then the partial results of the splits, then K and V of each layer. */
static int lay_out(struct bench *bench, struct attention *a, int chunk)
{
	const struct bench_shape *shape = &bench->shape;
	int q = shape->heads * shape->head_dim, qkv = q + 2 * shape->kv_heads * shape->head_dim;
	size_t parts = kvs_attention_workspace(a->stream, shape->heads, shape->head_dim);
	size_t rows = (size_t)chunk * (qkv + q), front = ((rows + parts) * sizeof(float) + 255) / 256 * 256, bytes;
	CUdeviceptr base;
	CUresult result;
	int err;

	a->cache_bytes = (size_t)bench->ctx_tokens * kvs_kv_token_bytes(bench_kv_format(bench));
	a->layers = shape->layers;
	bytes = front + 2 * a->cache_bytes * a->layers;
	result = bench->cu->cuMemAlloc(&base, bytes);
	if (result)
		return kvs_cu_fail(bench->cu, result, "%zu MiB of K and V", bytes >> 20);
	a->memory = base + front;
	a->args = (struct kvs_attention){.qkv = {base, KVS_F32, chunk, qkv},
		.out = {base + (size_t)chunk * qkv * sizeof(float), KVS_F32, chunk, q},
		.workspace = {base + rows * sizeof(float), KVS_F32, 1, (int)parts},
		.kv = {.format = bench_kv_format(bench), .tokens = bench->ctx_tokens},
		.heads = shape->heads,
		.scale = 1 / sqrtf((float)shape->head_dim)};
	err = bench_fill_random(bench, base, front, KVS_F32);
	return err ? err : bench_fill_random(bench, a->memory, bytes - front, bench->dtype);
}

int bench_attention(struct bench *bench, json_t *report)
{
	int chunk = bench->ctx_tokens < CHUNK_TOKENS ? bench->ctx_tokens : CHUNK_TOKENS;
	struct attention a = {0};
	json_t *decode = json_array(), *prefill = json_array();
	int err = kvs_stream_open(bench->cu, &a.stream);

	if (!err)
		err = lay_out(bench, &a, chunk);
	for (int tokens = bench->ctx_tokens / 8; tokens <= bench->ctx_tokens && !err; tokens *= 2)
		err = measure_decode(bench, &a, tokens, decode);
	for (int end = chunk; end <= bench->ctx_tokens && !err; end *= 2)
		err = measure_prefill(bench, &a, chunk, end - chunk, prefill);
	json_object_set_new(report, "attention", decode);
	json_object_set_new(report, "prefill_attention", prefill);
	kvs_stream_close(a.stream);
	if (a.args.qkv.data)
		KVS_CU_GIVE_BACK(bench->cu->cuMemFree, a.args.qkv.data);
	return err;
}
