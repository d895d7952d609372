/*
 * attn/prefill_f32.cu: attention for several tokens over K and V in f32, without tensor cores, for full precision.
 *
 * The walk over tiles is prefill_mma.cuh's. Eight threads share a query row, or two that are half a tile apart: each
 * has the scores of every eighth key and the sums of every eighth group of four dims. Weights pass between them through
 * their own warp's part of shared memory.
 */
#include "tile_load.cuh"

template <int DIM>
struct fma_tile {
	static constexpr int STRIDE = attn_tile_stride(DIM * (int)sizeof(float));
	static constexpr int KEYS = ATTN_FMA_KEYS;
	static constexpr int KV_BYTES = KEYS * STRIDE;
	static constexpr int ROWS = attn_fma_rows(DIM);
	static constexpr int PER_THREAD = ROWS / 16;   /* query rows of a thread: 16 apart */
	static constexpr int SCORES = KEYS / 8;        /* of a row, for each of its eight threads */
	static constexpr int GROUPS = (DIM + 31) / 32; /* of four dims, 32 dims apart */
};

template <int DIM>
struct fma_rows {
	float sum[fma_tile<DIM>::PER_THREAD][fma_tile<DIM>::GROUPS][4];
	float largest[fma_tile<DIM>::PER_THREAD], total[fma_tile<DIM>::PER_THREAD]; /* total: this thread's share */
};

template <int DIM>
__device__ inline void fma_load_queries(
	const struct attn_attention_params &p, unsigned char *tile, int first_row, int head)
{
	for (int i = threadIdx.x; i < fma_tile<DIM>::ROWS * DIM / 4; i += ATTN_FMA_THREADS) {
		int row = i / (DIM / 4), dim = i % (DIM / 4) * 4;
		float4 four = make_float4(0, 0, 0, 0);
		if (first_row + row < p.tokens)
			four = *(const float4 *)(p.q + (size_t)(first_row + row) * p.q_stride + head * DIM + dim);
		*(float4 *)(tile + row * fma_tile<DIM>::STRIDE + dim * sizeof(float)) = four;
	}
}

template <int DIM>
__device__ inline void fma_scores(const unsigned char *q, const unsigned char *k,
	float (&score)[fma_tile<DIM>::PER_THREAD][fma_tile<DIM>::SCORES])
{
	using shape = fma_tile<DIM>;
	int row = threadIdx.x / 8, column = threadIdx.x % 8;

#pragma unroll
	for (int r = 0; r < shape::PER_THREAD; r++) {
#pragma unroll
		for (int j = 0; j < shape::SCORES; j++)
			score[r][j] = 0;
	}
#pragma unroll 4
	for (int d = 0; d < DIM; d += 4) {
		float keys[shape::SCORES][4];
#pragma unroll
		for (int j = 0; j < shape::SCORES; j++)
			unpack((const float *)(k + (column + 8 * j) * shape::STRIDE) + d, keys[j]);
#pragma unroll
		for (int r = 0; r < shape::PER_THREAD; r++) {
			float query[4];
			unpack((const float *)(q + (row + 16 * r) * shape::STRIDE) + d, query);
#pragma unroll
			for (int i = 0; i < shape::SCORES * 4; i++)
				score[r][i / 4] += query[i % 4] * keys[i / 4][i % 4];
		}
	}
}

/* One row's scores to weights in shared memory; moves largest, total and sum along. `weights` is the row's. */
template <int DIM>
__device__ inline void fma_softmax(struct fma_rows<DIM> &rows, int r, float (&score)[fma_tile<DIM>::SCORES],
	float *weights, int key, int position, const struct attn_attention_params &p)
{
	using shape = fma_tile<DIM>;
	int column = threadIdx.x % 8, first = first_key(position, p.window);
	float highest = rows.largest[r];

#pragma unroll
	for (int j = 0; j < shape::SCORES; j++) {
		int at = key + column + 8 * j;
		score[j] = at >= first && at <= position ? score[j] * p.scale_log2 : -INFINITY;
		highest = fmaxf(highest, score[j]);
	}
	for (int distance = 4; distance > 0; distance /= 2)
		highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, distance));
	float base = highest == -INFINITY ? 0.0f : highest; /* nothing seen so far: all weights are 2^-inf */
	float rescale = exp2f(rows.largest[r] - base);
	rows.largest[r] = highest;
	rows.total[r] *= rescale;
#pragma unroll
	for (int j = 0; j < shape::SCORES; j++) {
		float weight = exp2f(score[j] - base);
		rows.total[r] += weight;
		weights[column + 8 * j] = weight;
	}
#pragma unroll
	for (int i = 0; i < shape::GROUPS * 4; i++)
		rows.sum[r][i / 4][i % 4] *= rescale;
}

template <int DIM>
__device__ inline void fma_sums(struct fma_rows<DIM> &rows, const unsigned char *v, const float *weights)
{
	using shape = fma_tile<DIM>;
	int row = threadIdx.x / 8, column = threadIdx.x % 8;

	for (int key = 0; key < shape::KEYS; key++) {
#pragma unroll
		for (int g = 0; g < shape::GROUPS; g++) {
			int dim = column * 4 + g * 32;
			float values[4];
			if (dim >= DIM)
				continue;
			unpack((const float *)(v + key * shape::STRIDE) + dim, values);
#pragma unroll
			for (int r = 0; r < shape::PER_THREAD; r++) {
				float weight = weights[(row + 16 * r) * ATTN_FMA_WEIGHT_STRIDE + key];
#pragma unroll
				for (int i = 0; i < 4; i++)
					rows.sum[r][g][i] += weight * values[i];
			}
		}
	}
}

template <int DIM>
__device__ inline void fma_store(
	const struct attn_attention_params &p, const struct fma_rows<DIM> &rows, int first_row, int head)
{
	using shape = fma_tile<DIM>;

#pragma unroll
	for (int r = 0; r < shape::PER_THREAD; r++) {
		int row = first_row + threadIdx.x / 8 + 16 * r;
		float total = rows.total[r];
		for (int distance = 4; distance > 0; distance /= 2)
			total += __shfl_xor_sync(0xffffffffu, total, distance);
#pragma unroll
		for (int i = 0; i < shape::GROUPS * 4; i++) {
			int dim = threadIdx.x % 8 * 4 + i / 4 * 32 + i % 4;
			if (row < p.tokens && dim < DIM)
				store_element(p.out, ((size_t)row * p.heads + head) * DIM + dim, p.out_dtype,
					rows.sum[r][i / 4][i % 4] / total);
		}
	}
}

/* Grid: x tile of query rows, the last (longest) first; y head. */
template <int DIM>
__device__ inline void fma_attention(const struct attn_attention_params &p, unsigned char *tiles)
{
	using shape = fma_tile<DIM>;
	int block_row = (gridDim.x - 1 - blockIdx.x) * shape::ROWS, row = threadIdx.x / 8;
	int head = blockIdx.y, kv_head = head / (p.heads / p.kv_heads);
	const unsigned char *k_head = head_of(p, p.k, kv_head), *v_head = head_of(p, p.v, kv_head);
	int last = p.start + min(block_row + shape::ROWS, p.tokens) - 1;
	struct key_range range = {first_key(p.start + block_row, p.window), last + 1};
	unsigned char *q = tiles, *k = q + shape::ROWS * shape::STRIDE, *v = k + shape::KV_BYTES;
	float *weights = (float *)(v + shape::KV_BYTES);
	struct fma_rows<DIM> rows = {
	};

	for (int r = 0; r < shape::PER_THREAD; r++)
		rows.largest[r] = -INFINITY;
	int key = range.first / shape::KEYS * shape::KEYS;
	load_tile<float, DIM, shape::KEYS, ATTN_FMA_THREADS>(k, k_head, p.token_bytes, key, range);
	kvs_cp_async_commit();
	fma_load_queries<DIM>(p, q, block_row, head);
	for (; key < range.end; key += shape::KEYS) {
		float score[shape::PER_THREAD][shape::SCORES];
		load_tile<float, DIM, shape::KEYS, ATTN_FMA_THREADS>(v, v_head, p.token_bytes, key, range);
		kvs_cp_async_commit();
		kvs_cp_async_wait<1>(); /* K has arrived, V may be in flight */
		__syncthreads();
		fma_scores<DIM>(q, k, score);
		__syncthreads();
		if (key + shape::KEYS < range.end)
			load_tile<float, DIM, shape::KEYS, ATTN_FMA_THREADS>(
				k, k_head, p.token_bytes, key + shape::KEYS, range);
		kvs_cp_async_commit();
#pragma unroll
		for (int r = 0; r < shape::PER_THREAD; r++)
			fma_softmax<DIM>(rows, r, score[r], weights + (row + 16 * r) * ATTN_FMA_WEIGHT_STRIDE, key,
				p.start + block_row + row + 16 * r, p);
		kvs_cp_async_wait<1>(); /* V has arrived, the next K may be in flight */
		__syncthreads();        /* and the weights are written */
		fma_sums<DIM>(rows, v, weights);
		__syncthreads();
	}
	fma_store<DIM>(p, rows, block_row, head);
}

#define ATTN_PREFILL_FMA_KERNEL(dim)                                                                                   \
	KVS_KERNEL_BOUNDS(ATTN_FMA_THREADS, 1, kvs_attention_prefill_f32_##dim, struct attn_attention_params p)        \
	{                                                                                                              \
		KVS_DYNAMIC_SHARED(unsigned char, tiles);                                                              \
		fma_attention<dim>(p, tiles);                                                                          \
	}

ATTN_PREFILL_FMA_KERNEL(32)
ATTN_PREFILL_FMA_KERNEL(64)
ATTN_PREFILL_FMA_KERNEL(80)
ATTN_PREFILL_FMA_KERNEL(96)
ATTN_PREFILL_FMA_KERNEL(128)
ATTN_PREFILL_FMA_KERNEL(256)
