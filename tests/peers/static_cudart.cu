/*
 * A small decoder on CUDA's runtime, for shim_torch.py, which links it with the static cudart: each layer's K and V are
 * allocations of 4 MiB, a kernel appends a row to them, another attends. It knows nothing of kvshare. With OWNERS it lets
 * layers read the K and V of others itself, and those that do store none: what sharing under the shim has to equal.
 *
 * usage: static_cudart LAYERS [OWNERS]      prints a hash of the hidden state for each of eight tokens
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>

enum { WIDTH = 64, BYTES = 4 << 20, TOKENS = 8, MAX_LAYERS = 64 };

/* dst[row] = src: its name and its parameters are those of llama.cpp's. */
__global__ void demo_set_rows(const float *src, int row, float *dst)
{
	dst[(size_t)row * WIDTH + threadIdx.x] = src[threadIdx.x];
}

/* out[i] = sum of W(seed)[i][j] x[j] */
__global__ void demo_project(const float *x, float *out, unsigned seed)
{
	float sum = 0;

	for (unsigned j = 0; j < WIDTH; j++) {
		unsigned hash = (seed * 0x9e3779b9u) ^ (threadIdx.x * 0x85ebca6bu) ^ (j * 0xc2b2ae35u);

		hash = (hash ^ (hash >> 15)) * 0x2c1b3c6du;
		hash = (hash ^ (hash >> 12)) * 0x297a2d39u;
		sum += (float)(int)(hash ^ (hash >> 15)) / 2147483648.0f * x[j];
	}
	out[threadIdx.x] = sum / 8;
}

/* x += the mean of the rows of V, weighted by how far those of K agree with q */
__global__ void demo_attend(const float *q, const float *k, const float *v, int rows, float *x)
{
	float mixed = 0, weights = 0;

	for (int row = 0; row < rows; row++) {
		float score = 0;

		for (int j = 0; j < WIDTH; j++)
			score += q[j] * k[(size_t)row * WIDTH + j];
		score = expf(score / 8);
		weights += score;
		mixed += score * v[(size_t)row * WIDTH + threadIdx.x];
	}
	x[threadIdx.x] += mixed / weights;
}

static void check(cudaError_t error, const char *what)
{
	if (!error)
		return;
	fprintf(stderr, "static_cudart: %s: %s\n", what, cudaGetErrorString(error));
	exit(1);
}

static float *allocate(size_t bytes)
{
	void *memory;

	check(cudaMalloc(&memory, bytes), "cudaMalloc");
	return (float *)memory;
}

static float *cache_k[MAX_LAYERS], *cache_v[MAX_LAYERS], *x, *q, *row;

static void layer_run(int layer, int owner, int token)
{
	demo_project<<<1, WIDTH>>>(x, q, 3 * layer);
	if (owner == layer) {
		demo_project<<<1, WIDTH>>>(x, row, 3 * layer + 1);
		demo_set_rows<<<1, WIDTH>>>(row, token, cache_k[layer]);
		demo_project<<<1, WIDTH>>>(x, row, 3 * layer + 2);
		demo_set_rows<<<1, WIDTH>>>(row, token, cache_v[layer]);
	}
	demo_attend<<<1, WIDTH>>>(q, cache_k[owner], cache_v[owner], token + 1, x);
}

static void token_print(void)
{
	float hidden[WIDTH];
	unsigned hash = 2166136261u;

	check(cudaMemcpy(hidden, x, sizeof(hidden), cudaMemcpyDeviceToHost), "a kernel or a copy");
	for (const unsigned char *byte = (const unsigned char *)hidden; byte < (const unsigned char *)(hidden + WIDTH);
		byte++)
		hash = (hash ^ *byte) * 16777619u;
	printf("%08x\n", hash);
}

int main(int argc, char **argv)
{
	int layers = argc > 1 ? atoi(argv[1]) : 0, owners[MAX_LAYERS];
	const char *list = argc > 2 ? argv[2] : NULL;
	float first[WIDTH];

	if (layers < 1 || layers > MAX_LAYERS) {
		fprintf(stderr, "usage: static_cudart LAYERS [OWNERS]\n");
		return 2;
	}
	for (int layer = 0; layer < layers; layer++) {
		char *end;

		owners[layer] = list ? (int)strtol(list, &end, 10) : layer;
		list = list ? end + (*end == ',') : NULL;
		if (owners[layer] < 0 || owners[layer] > layer) {
			fprintf(stderr, "static_cudart: an owner is the layer or comes before it\n");
			return 2;
		}
		cache_k[layer] = allocate(BYTES);
		cache_v[layer] = allocate(BYTES);
	}
	x = allocate(sizeof(first));
	q = allocate(sizeof(first));
	row = allocate(sizeof(first));
	for (int i = 0; i < WIDTH; i++)
		first[i] = (float)(i % 7) - 3;
	check(cudaMemcpy(x, first, sizeof(first), cudaMemcpyHostToDevice), "a copy");
	for (int token = 0; token < TOKENS; token++) {
		for (int layer = 0; layer < layers; layer++)
			layer_run(layer, owners[layer], token);
		token_print();
	}
	return 0;
}
