/*
 * tests/clients/crowd.c: the decoder's model (decoder.c) in several threads at once, each with a stream and tokens of its own: they
 * launch, copy, allocate, free, load and unload modules as they like, or capture. It prints the last hidden states of each thread,
 * and a row of each layer's K that a copy has stored.
 *
 * usage: crowd [OPTION=VALUE...] MODULE
 *   owners=LIST     the program itself lets layers read the K and V of others: what sharing has to equal
 *   cache=own|one   each thread has a slab, anew for each round, or all have rows of one (own)
 *   graph=none|capture
 *   threads=N rounds=N   (4, 3)
 */
#include <cuda.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 32
#define ROW_BYTES (WIDTH * sizeof(float))
#define LAYERS 4
#define TENSOR_BYTES ((size_t)2 << 20)
#define SLAB_BYTES (2 * LAYERS * TENSOR_BYTES)
#define TOKENS 4
#define MAX_THREADS 16

static int owner[LAYERS] = {0, 1, 2, 3}, thread_count = 4, rounds = 3, one_cache, capture;
static const char *path;
static CUcontext context;
static CUdeviceptr shared_slab;

struct worker {
	pthread_t thread;
	int number;
	CUstream stream;
	CUmodule module;
	CUdeviceptr slab, x, q, k, v, row;
	uint32_t out[TOKENS][WIDTH], copied[LAYERS][WIDTH];
};

static void check(CUresult result, const char *what)
{
	const char *name = "?";

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "crowd: %s: %s (%d)\n", what, name, result);
	exit(1);
}

static CUdeviceptr tensor(const struct worker *w, int which, int layer)
{
	return w->slab + (2 * owner[layer] + which) * TENSOR_BYTES;
}

/* The rows of all threads and tokens are spread over each tensor. */
static int step(void)
{
	return (int)(TENSOR_BYTES / ROW_BYTES) / (MAX_THREADS * TOKENS);
}

static long long row_of(const struct worker *w, int token)
{
	return (long long)(one_cache * w->number * TOKENS + token) * step();
}

static void launch(struct worker *w, const char *name, void **params)
{
	CUfunction function;

	check(cuModuleGetFunction(&function, w->module, name), name);
	check(cuLaunchKernel(function, 1, 1, 1, WIDTH, 1, 1, 0, w->stream, params, NULL), name);
}

static void project(struct worker *w, CUdeviceptr out, unsigned seed)
{
	int width = WIDTH;

	launch(w, "client_project", (void *[]){&w->x, &out, &seed, &width});
}

static void store(struct worker *w, CUdeviceptr from, CUdeviceptr to)
{
	int width = WIDTH;

	launch(w, "client_set_rows", (void *[]){&from, &w->row, &to, &width});
}

static void layer_run(struct worker *w, int layer, int token)
{
	CUdeviceptr k = tensor(w, 0, layer), v = tensor(w, 1, layer), first = row_of(w, 0) * ROW_BYTES;
	CUdeviceptr k_rows = k + first, v_rows = v + first;
	int width = WIDTH, apart = step(), tokens = token + 1;

	project(w, w->q, 3 * layer);
	project(w, w->k, 3 * layer + 1);
	project(w, w->v, 3 * layer + 2);
	if (owner[layer] == layer) {
		store(w, w->k, k);
		store(w, w->v, v);
		check(cuMemcpyDtoDAsync(k + (row_of(w, token) + 1) * ROW_BYTES, w->q, ROW_BYTES, w->stream),
			"cuMemcpyDtoDAsync");
	}
	launch(w, "client_attend", (void *[]){&w->q, &k_rows, &v_rows, &w->x, &tokens, &apart, &width});
}

/* Memory that is none of the cache's comes and goes meanwhile. */
static void allocate_and_free(struct worker *w)
{
	CUdeviceptr plain, ordered;

	check(cuMemAlloc(&plain, 65536), "cuMemAlloc");
	check(cuMemAllocAsync(&ordered, 65536, w->stream), "cuMemAllocAsync");
	check(cuMemsetD8Async(ordered, 1, 65536, w->stream), "cuMemsetD8Async");
	check(cuMemFreeAsync(ordered, w->stream), "cuMemFreeAsync");
	check(cuMemFree(plain), "cuMemFree");
}

static void captured_run(struct worker *w, int token)
{
	CUgraphExec exec;
	CUgraph graph;

	check(cuStreamBeginCapture(w->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
	for (int layer = 0; layer < LAYERS; layer++)
		layer_run(w, layer, token);
	check(cuStreamEndCapture(w->stream, &graph), "cuStreamEndCapture");
	check(cuGraphInstantiate(&exec, graph, 0), "cuGraphInstantiate");
	check(cuGraphLaunch(exec, w->stream), "cuGraphLaunch");
	check(cuStreamSynchronize(w->stream), "cuStreamSynchronize");
	check(cuGraphExecDestroy(exec), "cuGraphExecDestroy");
	check(cuGraphDestroy(graph), "cuGraphDestroy");
}

static void token_run(struct worker *w, int token)
{
	long long at = row_of(w, token);
	float state[WIDTH];

	for (int i = 0; i < WIDTH; i++)
		state[i] = (float)((w->number * 5 + token * 7 + i * 3) % 11 - 5) / 5;
	check(cuMemcpyHtoDAsync(w->x, state, sizeof(state), w->stream), "cuMemcpyHtoDAsync");
	check(cuMemcpyHtoDAsync(w->row, &at, sizeof(at), w->stream), "cuMemcpyHtoDAsync");
	allocate_and_free(w);
	if (capture)
		captured_run(w, token);
	for (int layer = 0; !capture && layer < LAYERS; layer++)
		layer_run(w, layer, token);
	check(cuMemcpyDtoHAsync(w->out[token], w->x, ROW_BYTES, w->stream), "cuMemcpyDtoHAsync");
	check(cuStreamSynchronize(w->stream), "cuStreamSynchronize");
}

static void round_run(struct worker *w)
{
	check(cuModuleLoad(&w->module, path), "cuModuleLoad");
	w->slab = shared_slab;
	if (!one_cache)
		check(cuMemAlloc(&w->slab, SLAB_BYTES), "cuMemAlloc");
	if (!one_cache)
		check(cuMemsetD8Async(w->slab, 0, SLAB_BYTES, w->stream), "cuMemsetD8Async");
	for (int token = 0; token < TOKENS; token++)
		token_run(w, token);
	for (int layer = 0; layer < LAYERS; layer++)
		check(cuMemcpyDtoHAsync(w->copied[layer], tensor(w, 0, layer) + (row_of(w, 1) + 1) * ROW_BYTES,
			      ROW_BYTES, w->stream),
			"cuMemcpyDtoHAsync");
	check(cuStreamSynchronize(w->stream), "cuStreamSynchronize");
	if (!one_cache)
		check(cuMemFree(w->slab), "cuMemFree");
	check(cuModuleUnload(w->module), "cuModuleUnload");
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;

	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuStreamCreate(&w->stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
	check(cuMemAlloc(&w->x, 5 * ROW_BYTES), "cuMemAlloc");
	w->q = w->x + ROW_BYTES;
	w->k = w->q + ROW_BYTES;
	w->v = w->k + ROW_BYTES;
	w->row = w->v + ROW_BYTES;
	for (int round = 0; round < rounds; round++)
		round_run(w);
	check(cuMemFree(w->x), "cuMemFree");
	check(cuStreamDestroy(w->stream), "cuStreamDestroy");
	return NULL;
}

static void row_print(const uint32_t *row)
{
	for (int i = 0; i < WIDTH; i++)
		printf("%08x%c", row[i], i + 1 < WIDTH ? ' ' : '\n');
}

static void option_read(const char *text)
{
	const char *at = text + 7;

	if (!strncmp(text, "owners=", 7)) {
		for (int layer = 0; layer < LAYERS && *at; layer++, at += *at == ',')
			owner[layer] = (int)strtol(at, (char **)&at, 10);
	} else if (!strncmp(text, "threads=", 8)) {
		thread_count = atoi(text + 8);
	} else if (!strncmp(text, "rounds=", 7)) {
		rounds = atoi(text + 7);
	} else if (!strncmp(text, "cache=", 6)) {
		one_cache = !strcmp(text + 6, "one");
	} else if (!strncmp(text, "graph=", 6)) {
		capture = !strcmp(text + 6, "capture");
	} else {
		path = text;
	}
}

int main(int argc, char **argv)
{
	static struct worker workers[MAX_THREADS];

	for (int i = 1; i < argc; i++)
		option_read(argv[i]);
	if (!path || thread_count < 1 || thread_count > MAX_THREADS)
		return 2;
	check(cuInit(0), "cuInit");
	check(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	if (one_cache) {
		check(cuMemAlloc(&shared_slab, SLAB_BYTES), "cuMemAlloc");
		check(cuMemsetD8(shared_slab, 0, SLAB_BYTES), "cuMemsetD8");
	}
	for (int i = 0; i < thread_count; i++) {
		workers[i].number = i;
		if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]))
			return 1;
	}
	for (int i = 0; i < thread_count; i++) {
		pthread_join(workers[i].thread, NULL);
		for (int token = 0; token < TOKENS; token++)
			row_print(workers[i].out[token]);
		for (int layer = 0; layer < LAYERS; layer++)
			row_print(workers[i].copied[layer]);
	}
	if (one_cache)
		check(cuMemFree(shared_slab), "cuMemFree");
	check(cuDevicePrimaryCtxRelease(0), "cuDevicePrimaryCtxRelease");
	return 0;
}
