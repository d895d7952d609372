/*
 * tools/run/bench/kernels.c: the suites below the engine: copy bandwidth, the ceiling, and decode attention under it.
 */
#include "bench.h"

#include <math.h>

#define COPY_BYTES ((size_t)1 << 30)
#define HOST_COPY_BYTES ((size_t)64 << 20)

struct copy {
	kvs_cu *cu;
	CUdeviceptr from, to;
	size_t bytes;
};

static int run_copy(void *arg)
{
	const struct copy *copy = arg;
	CUresult result = copy->cu->cuMemcpyDtoDAsync(copy->to, copy->from, copy->bytes, NULL);

	return result ? kvs_cu_fail(copy->cu, result, "copying %zu bytes on the device", copy->bytes) : 0;
}

int bench_copy(struct bench *bench, json_t *report)
{
	struct copy copy = {
		.cu = bench->cu, .bytes = bench->cu->kind == KVS_DEVICE_HOST ? HOST_COPY_BYTES : COPY_BYTES};
	CUresult result = bench->cu->cuMemAlloc(&copy.from, copy.bytes);
	double seconds;
	int err;

	if (!result)
		result = bench->cu->cuMemAlloc(&copy.to, copy.bytes);
	err = result ? kvs_cu_fail(bench->cu, result, "two buffers of %zu MiB", copy.bytes >> 20) : 0;
	if (!err)
		err = bench_time(bench, NULL, run_copy, &copy, &seconds);
	if (copy.to)
		KVS_CU_GIVE_BACK(bench->cu->cuMemFree(copy.to));
	if (copy.from)
		KVS_CU_GIVE_BACK(bench->cu->cuMemFree(copy.from));
	if (err)
		return err;
	bench->copy_gbs = 2 * copy.bytes / seconds / 1e9;
	json_object_set_new(
		report, "copy", json_pack("{s:I,s:f}", "bytes", (json_int_t)copy.bytes, "gb_per_s", bench->copy_gbs));
	if (!bench->quiet)
		printf("copy        %10.1f GB/s (read and written)\n", bench->copy_gbs);
	return 0;
}

/* Attention over `tokens` keys, each launch on the next of `layers` caches, so that none is still in the device's L2. */
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

static int measure_attention(struct bench *bench, struct attention *a, int tokens, json_t *rows)
{
	size_t bytes = 2 * (size_t)tokens * kvs_kv_token_bytes(a->args.kv.format);
	double seconds;
	int err;

	a->args.start = tokens - 1;
	err = bench_time(bench, kvs_stream_handle(a->stream), run_attention, a, &seconds);
	if (err)
		return err;
	json_array_append_new(
		rows, json_pack("{s:i,s:f,s:f,s:f}", "tokens", tokens, "us", 1e6 * seconds, "gb_per_s",
			      bytes / seconds / 1e9, "percent_of_copy", bench_percent(bench, bytes, seconds)));
	if (!bench->quiet)
		printf("attention   %10.1f us  %6.1f %% of copy   one token over %d keys\n", 1e6 * seconds,
			bench_percent(bench, bytes, seconds), tokens);
	return 0;
}

/* Q in front, then the output, then the splits' parts, then a K and a V for each layer. */
static int lay_out(struct bench *bench, struct attention *a)
{
	const struct bench_shape *shape = &bench->shape;
	int q = shape->heads * shape->head_dim, qkv = q + 2 * shape->kv_heads * shape->head_dim;
	size_t parts = kvs_attention_workspace(a->stream, shape->heads, shape->head_dim);
	size_t front = ((qkv + q + parts) * sizeof(float) + 255) / 256 * 256, bytes;
	CUdeviceptr base;
	CUresult result;

	a->cache_bytes = (size_t)bench->ctx_tokens * kvs_kv_token_bytes(bench_kv_format(bench));
	a->layers = shape->layers;
	bytes = front + 2 * a->cache_bytes * a->layers;
	result = bench->cu->cuMemAlloc(&base, bytes);
	if (result)
		return kvs_cu_fail(bench->cu, result, "%zu MiB of K and V", bytes >> 20);
	a->memory = base + front;
	a->args = (struct kvs_attention){.qkv = {base, KVS_F32, 1, qkv},
		.out = {base + qkv * sizeof(float), KVS_F32, 1, q},
		.workspace = {base + (qkv + q) * sizeof(float), KVS_F32, 1, (int)parts},
		.kv = {.format = bench_kv_format(bench), .tokens = bench->ctx_tokens},
		.heads = shape->heads,
		.scale = 1 / sqrtf((float)shape->head_dim)};
	result = bench->cu->cuMemsetD8(base, 0, bytes);
	return result ? kvs_cu_fail(bench->cu, result, "clearing K and V") : 0;
}

int bench_attention(struct bench *bench, json_t *report)
{
	struct attention a = {0};
	json_t *rows = json_array();
	int err = kvs_stream_open(bench->cu, &a.stream);

	if (!err)
		err = lay_out(bench, &a);
	for (int tokens = bench->ctx_tokens / 8; tokens <= bench->ctx_tokens && !err; tokens *= 2)
		err = measure_attention(bench, &a, tokens, rows);
	json_object_set_new(report, "attention", rows);
	kvs_stream_close(a.stream);
	if (a.args.qkv.data)
		KVS_CU_GIVE_BACK(bench->cu->cuMemFree(a.args.qkv.data));
	return err;
}
