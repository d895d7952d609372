/*
 * tools/run/bench/kernels.c: a forward pass's matrix products and row kernels, each alone.
 *
 * A product finds its weights at a new address in each run, as a pass reads each matrix only once. The operands of the
 * row kernels are small, and in a pass the kernel before has just written them: they stay in place.
 */
#include "bench.h"

#include <errno.h>

#define COLD_BYTES ((size_t)512 << 20) /* of weights to read before the first is read again */

struct gemm {
	kvs_stream *stream;
	kvs_tensor out, x, w;
	CUdeviceptr weights;
	size_t room, at; /* bytes at `weights`; offset of the next run's */
};

static int run_gemm(void *arg)
{
	struct gemm *g = arg;
	size_t bytes = (size_t)g->w.rows * g->w.cols * kvs_dtype_bytes(g->w.dtype);

	g->at = g->at + 2 * bytes <= g->room ? g->at + bytes : 0;
	g->w.data = g->weights + g->at;
	return kvs_gemm(g->stream, g->out, 0, g->x, g->w, false);
}

static int measure_gemm(struct bench *bench, struct gemm *g, const char *name, int tokens, int n, int k, json_t *rows)
{
	size_t size = kvs_dtype_bytes(g->w.dtype), bytes = (size_t)n * k * size;
	double seconds, flops = 2.0 * tokens * n * k;
	int err;

	g->w.rows = n;
	g->x.rows = g->out.rows = tokens;
	g->x.cols = g->w.cols = k;
	g->out.cols = n;
	err = bench_time(
		bench, kvs_stream_handle(g->stream), run_gemm, g, tokens > 1 ? BENCH_RUNS / 8 : BENCH_RUNS, &seconds);
	if (err)
		return err;
	json_array_append_new(rows, json_pack("{s:s,s:i,s:i,s:i,s:f,s:f,s:f}", "name", name, "tokens", tokens, "n", n,
					    "k", k, "us", 1e6 * seconds, "percent_of_copy",
					    bench_percent(bench, bytes, seconds), "tflops", flops / seconds / 1e12));
	if (!bench->quiet)
		printf("gemm        %10.1f us  %6.1f %% of copy   %s, %d x %d, %d tokens: %.1f Tflop/s\n",
			1e6 * seconds, bench_percent(bench, bytes, seconds), name, n, k, tokens,
			flops / seconds / 1e12);
	return 0;
}

/* Room for the largest matrix, and on a GPU for more than any cache holds. */
static int lay_out_gemm(struct bench *bench, struct gemm *g, int tokens)
{
	const struct bench_shape *s = &bench->shape;
	int widest = s->vocab > 2 * s->ff ? s->vocab : 2 * s->ff;
	size_t size, out_bytes = (size_t)tokens * widest * sizeof(float), x_bytes, bytes;
	CUresult result;
	int err;

	g->w.dtype = kvs_gemm_dtype(g->stream, bench->dtype);
	g->x.dtype = kvs_gemm_x_dtype(g->stream, g->w.dtype);
	size = kvs_dtype_bytes(g->w.dtype);
	x_bytes = (size_t)tokens * (s->ff > s->hidden ? s->ff : s->hidden) * kvs_dtype_bytes(g->x.dtype);
	g->room = (size_t)widest * s->hidden * size + (bench->cu->kind == KVS_DEVICE_HOST ? 0 : COLD_BYTES);
	bytes = out_bytes + x_bytes + g->room;
	result = bench->cu->cuMemAlloc(&g->weights, bytes);
	if (result)
		return kvs_cu_fail(bench->cu, result, "%zu MiB of weights", bytes >> 20);
	g->x.data = g->weights + g->room;
	g->out.data = g->x.data + x_bytes;
	g->out.dtype = KVS_F32;
	err = bench_fill_random(bench, g->weights, g->room, g->w.dtype);
	return err ? err : bench_fill_random(bench, g->x.data, x_bytes, g->x.dtype);
}

int bench_gemm(struct bench *bench, json_t *report)
{
	const struct bench_shape *s = &bench->shape;
	int q = s->heads * s->head_dim, many = bench->ctx_tokens < 512 ? bench->ctx_tokens : 512;
	const struct {
		const char *name;
		int n, k;
	} shapes[] = {{"qkv", q + 2 * s->kv_heads * s->head_dim, s->hidden}, {"o", s->hidden, q},
		{"gate_up", 2 * s->ff, s->hidden}, {"down", s->hidden, s->ff}, {"head", s->vocab, s->hidden}};
	struct gemm g = {0};
	json_t *rows = json_array();
	int err = kvs_stream_open(bench->cu, &g.stream);

	if (!err)
		err = lay_out_gemm(bench, &g, many);
	for (size_t i = 0; i < 5 && !err; i++)
		err = measure_gemm(bench, &g, shapes[i].name, 1, shapes[i].n, shapes[i].k, rows);
	for (size_t i = 0; i < 4 && !err; i++) /* a prompt needs only one row of logits */
		err = measure_gemm(bench, &g, shapes[i].name, many, shapes[i].n, shapes[i].k, rows);
	json_object_set_new(report, "gemm", rows);
	kvs_stream_close(g.stream);
	if (g.weights)
		KVS_CU_GIVE_BACK(bench->cu->cuMemFree, g.weights);
	return err;
}

/* One token's tensors between the products. */
struct rows {
	kvs_stream *stream;
	kvs_tensor ids, residual, gain, normed, gate_up, gated, logits;
	struct kvs_rope_append append;
};

static int run_embed(void *arg)
{
	struct rows *r = arg;
	kvs_tensor table = r->logits; /* any matrix of this width does */

	table.cols = r->residual.cols;
	return kvs_embed(r->stream, r->residual, table, r->ids);
}

static int run_rmsnorm(void *arg)
{
	struct rows *r = arg;

	return kvs_rmsnorm(r->stream, r->normed, r->residual, r->gain, 1e-5f);
}

static int run_rope_append(void *arg)
{
	struct rows *r = arg;

	return kvs_rope_append(r->stream, &r->append);
}

static int run_silu_mul(void *arg)
{
	struct rows *r = arg;

	return kvs_silu_mul(r->stream, r->gated, r->gate_up);
}

static int run_argmax(void *arg)
{
	struct rows *r = arg;

	return kvs_argmax(r->stream, r->ids, r->logits);
}

/* The next tensor of one row; each starts at a multiple of 256 bytes. */
static kvs_tensor take(CUdeviceptr *next, enum kvs_dtype dtype, int cols)
{
	kvs_tensor tensor = {*next, dtype, 1, cols};

	*next += ((size_t)cols * kvs_dtype_bytes(dtype) + 255) / 256 * 256;
	return tensor;
}

static int lay_out_rows(struct bench *bench, struct rows *r)
{
	const struct bench_shape *s = &bench->shape;
	enum kvs_dtype dtype = kvs_gemm_x_dtype(r->stream, kvs_gemm_dtype(r->stream, bench->dtype));
	CUdeviceptr next = bench->from;
	CUresult result;

	r->ids = take(&next, KVS_I32, 1);
	r->residual = take(&next, KVS_F32, s->hidden);
	r->gain = take(&next, KVS_F32, s->hidden);
	r->normed = take(&next, dtype, s->hidden);
	r->gate_up = take(&next, KVS_F32, 2 * s->ff);
	r->gated = take(&next, dtype, s->ff);
	r->logits = take(&next, KVS_F32, s->vocab);
	r->append = (struct kvs_rope_append){.qkv = take(&next, KVS_F32, (s->heads + 2 * s->kv_heads) * s->head_dim),
		.rope = take(&next, KVS_F32, s->head_dim),
		.heads = s->heads,
		.own_k = true,
		.own_v = true};
	r->append.kv = (kvs_kv){.format = bench_kv_format(bench), .tokens = 1};
	r->append.kv.k = take(&next, bench->dtype, s->kv_heads * s->head_dim).data;
	r->append.kv.v = take(&next, bench->dtype, s->kv_heads * s->head_dim).data;
	if (next > bench->from + bench->copy_bytes)
		return kvs_fail(-ENOMEM, "a buffer of the bench has no room for a row of %d", s->vocab);
	int err = bench_fill_random(bench, bench->from, next - bench->from, KVS_F32);
	if (err)
		return err;
	result = bench->cu->cuMemsetD32Async(r->ids.data, 0, 1, kvs_stream_handle(r->stream));
	return result ? kvs_cu_fail(bench->cu, result, "clearing an id") : 0;
}

int bench_rows(struct bench *bench, json_t *report)
{
	static const struct {
		const char *name;
		int (*run)(void *arg);
	} kernels[] = {{"embed", run_embed}, {"rmsnorm", run_rmsnorm}, {"rope_append", run_rope_append},
		{"silu_mul", run_silu_mul}, {"argmax", run_argmax}};
	struct rows r = {0};
	json_t *rows = json_object();
	int err = kvs_stream_open(bench->cu, &r.stream);

	if (!err)
		err = lay_out_rows(bench, &r);
	for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels) && !err; i++) {
		double seconds = 0;
		err = bench_time(bench, kvs_stream_handle(r.stream), kernels[i].run, &r, 4 * BENCH_RUNS, &seconds);
		if (err)
			break;
		json_object_set_new(rows, kernels[i].name, json_pack("{s:f}", "us", 1e6 * seconds));
		if (!bench->quiet)
			printf("rows        %10.2f us   %s of one token\n", 1e6 * seconds, kernels[i].name);
	}
	json_object_set_new(report, "rows", rows);
	kvs_stream_close(r.stream);
	return err;
}
