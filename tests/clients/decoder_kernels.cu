/*
 * Kernels of the decoder (decoder.c): what an inference program does with a KV cache, as small as it can be. One block each.
 */

/* A weight in [-1, 1) of matrix `seed`, the same everywhere: the model needs no file. */
static __device__ float client_weight(unsigned seed, unsigned row, unsigned column)
{
	unsigned hash = (seed * 0x9e3779b9u) ^ (row * 0x85ebca6bu) ^ (column * 0xc2b2ae35u);

	hash = (hash ^ (hash >> 15)) * 0x2c1b3c6du;
	hash = (hash ^ (hash >> 12)) * 0x297a2d39u;
	return (float)(int)(hash ^ (hash >> 15)) / 2147483648.0f;
}

/* out[width] = W x / sqrt(width) */
KVS_KERNEL(client_project, const float *x, float *out, unsigned seed, int width)
{
	int row = threadIdx.x;
	float sum = 0;

	for (int column = 0; column < width; column++)
		sum += client_weight(seed, row, column) * x[column];
	out[row] = sum / sqrtf((float)width);
}

/* dst[row][width] = src[width]; the third parameter is the cache, as in llama.cpp's set_rows. */
KVS_KERNEL(client_set_rows, const float *src, const long long *row, float *dst, int width)
{
	dst[*row * width + threadIdx.x] = src[threadIdx.x];
}

/* K and V in one launch, each into its row of a block, as vLLM has it: from block to block it is `block_stride` numbers. */
KVS_KERNEL(client_reshape_and_cache, const float *k, const float *v, float *k_cache, float *v_cache,
	const long long *row, long long block_stride, int block_rows, int width)
{
	long long at = *row / block_rows * block_stride + *row % block_rows * width + threadIdx.x;

	k_cache[at] = k[threadIdx.x];
	v_cache[at] = v[threadIdx.x];
}

/* client_set_rows under a name that nobody knows. */
KVS_KERNEL(client_hidden_store, const float *src, const long long *row, float *dst, int width)
{
	dst[*row * width + threadIdx.x] = src[threadIdx.x];
}

/* The same with everything in one struct, as PyTorch's index kernels have it. */
struct client_copy {
	const float *src;
	const long long *row;
	int width;
	float *dst;
};

KVS_KERNEL(client_index_copy, struct client_copy copy)
{
	copy.dst[*copy.row * copy.width + threadIdx.x] = copy.src[threadIdx.x];
}

/* Reads by an index; PyTorch's stores by one are of the same kernel. */
KVS_KERNEL(client_index_elementwise_kernel, struct client_copy copy)
{
	copy.dst[threadIdx.x] = copy.src[*copy.row * copy.width + threadIdx.x];
}

/* PyTorch's copies and fills: the pointers are an array, the destination first. */
struct client_nothing {
	char nothing;
};
struct client_pointers {
	float *to, *from;
};

KVS_KERNEL(client_vectorized_elementwise_kernel_direct_copy_kernel_cuda, int n, struct client_nothing f,
	struct client_pointers data)
{
	(void)f;
	if ((int)threadIdx.x < n)
		data.to[threadIdx.x] = data.from[threadIdx.x];
}

struct client_value {
	float value;
};
struct client_pointer {
	float *to;
};

KVS_KERNEL(client_vectorized_elementwise_kernel_FillFunctor, int n, struct client_value f, struct client_pointer data)
{
	if ((int)threadIdx.x < n)
		data.to[threadIdx.x] = f.value;
}

/* The same with the cache's address in a table of all layers' addresses. */
KVS_KERNEL(client_table_store, const float *src, const long long *row, float *const *table, int entry, int width)
{
	table[entry][*row * width + threadIdx.x] = src[threadIdx.x];
}

/*
 * The same with a tensor map, as kernels of newer GPUs have it; they give it to the copy engine. Here there is none: the kernel looks
 * into a map of softcuda's, whose first word is the address with its bits inverted. It runs nowhere else.
 */
struct client_map {
	unsigned long long words[16];
};

KVS_KERNEL(client_map_store, const float *src, const long long *row, struct client_map map, long long first, int width)
{
	float *dst = (float *)~map.words[0];

	dst[(first + *row) * width + threadIdx.x] = src[threadIdx.x];
}

/* x[width] += softmax(q K^T) V over `tokens` rows, `step` rows apart. */
static __device__ void client_attention(
	const float *q, const float *k, const float *v, float *x, int tokens, int step, int width)
{
	float most = -1e30f, sum = 0, value = 0;

	for (int token = 0; token < tokens; token++) {
		float score = 0;

		for (int i = 0; i < width; i++)
			score += q[i] * k[(long long)token * step * width + i];
		score = score > 8 ? 8 : score;
		most = score > most ? score : most;
	}
	for (int token = 0; token < tokens; token++) {
		float score = 0, weight;

		for (int i = 0; i < width; i++)
			score += q[i] * k[(long long)token * step * width + i];
		weight = expf((score > 8 ? 8 : score) - most);
		sum += weight;
		value += weight * v[(long long)token * step * width + threadIdx.x];
	}
	value = x[threadIdx.x] + value / sum;
	x[threadIdx.x] = value / (1 + fabsf(value) / 4);
}

KVS_KERNEL(client_attend, const float *q, const float *k, const float *v, float *x, int tokens, int step, int width)
{
	client_attention(q, k, v, x, tokens, step, width);
}

/* Stores a row of K and of V and attends to all of them, in one launch. */
KVS_KERNEL(client_masked_multihead_attention, const float *q, const float *new_k, const float *new_v, float *k,
	float *v, float *x, int tokens, int step, int width)
{
	k[(long long)(tokens - 1) * step * width + threadIdx.x] = new_k[threadIdx.x];
	v[(long long)(tokens - 1) * step * width + threadIdx.x] = new_v[threadIdx.x];
	__syncthreads();
	client_attention(q, k, v, x, tokens, step, width);
}
