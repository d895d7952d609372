/*
 * attn/prefill_mma.cuh: attention for several tokens over K and V in f16 or bf16, on tensor cores.
 *
 * A block handles ATTN_MMA_ROWS query rows of one head, a warp 16 of them, and walks the tiles of keys that they see
 * with an online softmax (FlashAttention-2, arXiv 2307.08691, section 3.1). V is fetched while Q Kᵀ is computed, the
 * next K while P V is. Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane holds rows lane /
 * 4 and lane / 4 + 8, columns 2 * (lane % 4) and the next of each 8-wide tile; scores come out in the layout of the A
 * operand of P V.
 *
 * The result of a row depends on the row alone: tiles start at fixed positions, and a tile that a row does not see
 * leaves its sums unchanged, to the bit.
 */
#ifndef KVS_ATTN_PREFILL_MMA_CUH
#define KVS_ATTN_PREFILL_MMA_CUH

#include "tile_load.cuh"

template <typename T, int DIM>
struct mma_tile {
	static constexpr int STRIDE = attn_tile_stride(DIM * (int)sizeof(T));
	static constexpr int KEYS = attn_mma_keys(DIM);
	static constexpr int Q_BYTES = ATTN_MMA_ROWS * STRIDE;
	static constexpr int KV_BYTES = KEYS * STRIDE;
};

/* A lane's two rows: sums of V, and the running softmax. `total` is the lane's own share of the row's. */
template <int DIM>
struct mma_rows {
	float sum[DIM / 8][4]; /* [8 dims][row, row, row + 8, row + 8] */
	float largest[2], total[2];
	int position[2]; /* of the rows */
};

/* Q of the block's rows, rounded to T; rows past the last token are zero. */
template <typename T, int DIM>
__device__ inline void mma_load_queries(
	const struct attn_attention_params &p, unsigned char *tile, int first_row, int head)
{
	for (int i = threadIdx.x; i < ATTN_MMA_ROWS * DIM / 2; i += ATTN_MMA_THREADS) {
		int row = i / (DIM / 2), dim = i % (DIM / 2) * 2;
		float2 two = make_float2(0, 0);
		if (first_row + row < p.tokens)
			two = *(const float2 *)(p.q + (size_t)(first_row + row) * p.q_stride + head * DIM + dim);
		*(unsigned *)(tile + row * mma_tile<T, DIM>::STRIDE + dim * sizeof(T)) =
			pack_pair(two.x, two.y, (const T *)NULL);
	}
}

/* score = Q Kᵀ for the warp's 16 rows and a tile's keys. */
template <typename T, int DIM>
__device__ inline void mma_scores(
	const unsigned char *q, const unsigned char *k, float (&score)[mma_tile<T, DIM>::KEYS / 8][4])
{
	using shape = mma_tile<T, DIM>;
	int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
	const unsigned char *q_at = q + (matrix % 2 * 8 + row) * shape::STRIDE + matrix / 2 * 16;
	const unsigned char *k_at = k + (matrix / 2 * 8 + row) * shape::STRIDE + matrix % 2 * 16;

#pragma unroll
	for (int n = 0; n < shape::KEYS / 8; n++)
		score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0;
#pragma unroll
	for (int d = 0; d < DIM; d += 16) {
		unsigned a[4];
		kvs_ldmatrix_x4(a, q_at + d * sizeof(T));
#pragma unroll
		for (int n = 0; n < shape::KEYS; n += 16) {
			unsigned b[4];
			kvs_ldmatrix_x4(b, k_at + n * shape::STRIDE + d * sizeof(T));
			kvs_mma_16816<T>(score[n / 8], a, b);
			kvs_mma_16816<T>(score[n / 8 + 1], a, b + 2);
		}
	}
}

/* Hides the keys that a row does not see: their scores become -inf. */
template <int DIM, int TILES>
__device__ inline void mma_hide_unseen(const struct mma_rows<DIM> &rows, float (&score)[TILES][4], int key, int window)
{
	int column = threadIdx.x % 4 * 2;

#pragma unroll
	for (int half = 0; half < 2; half++) {
		int last = rows.position[half], first = first_key(last, window);
#pragma unroll
		for (int i = 0; i < TILES * 2; i++) {
			int at = key + i / 2 * 8 + column + i % 2;
			if (at < first || at > last)
				score[i / 2][half * 2 + i % 2] = -INFINITY;
		}
	}
}

/*
 * Scores to weights 2^(scale * score - largest), scale above 0; moves largest, total and sum along. On a GPU scale and
 * largest cost one multiply-add.
 */
template <int DIM, int TILES>
__device__ inline void mma_softmax(struct mma_rows<DIM> &rows, float (&score)[TILES][4], float scale_log2)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float highest = -INFINITY;
#pragma unroll
		for (int i = 0; i < TILES * 2; i++)
			highest = fmaxf(highest, score[i / 2][half * 2 + i % 2]);
		highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
		highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
		highest = fmaxf(highest * scale_log2, rows.largest[half]);
		float base = highest == -INFINITY ? 0.0f : highest; /* nothing seen so far: all weights are 2^-inf */
		float rescale = fast_exp2(rows.largest[half] - base);
		rows.largest[half] = highest;
		rows.total[half] *= rescale;
#pragma unroll
		for (int i = 0; i < TILES * 2; i++) {
			float &s = score[i / 2][half * 2 + i % 2];
			s = fast_exp2(s * scale_log2 - base);
			rows.total[half] += s;
		}
#pragma unroll
		for (int n = 0; n < DIM / 8; n++) {
			rows.sum[n][half * 2] *= rescale;
			rows.sum[n][half * 2 + 1] *= rescale;
		}
	}
}

/* sum += P V */
template <typename T, int DIM>
__device__ inline void mma_sums(
	struct mma_rows<DIM> &rows, const unsigned char *v, const float (&weight)[mma_tile<T, DIM>::KEYS / 8][4])
{
	using shape = mma_tile<T, DIM>;
	const T *type = NULL;
	int lane = threadIdx.x % 32, matrix = lane / 8;
	const unsigned char *v_at = v + (matrix % 2 * 8 + lane % 8) * shape::STRIDE + matrix / 2 * 16;

#pragma unroll
	for (int k = 0; k < shape::KEYS; k += 16) {
		const float(&low)[4] = weight[k / 8];
		const float(&high)[4] = weight[k / 8 + 1];
		unsigned a[4] = {pack_pair(low[0], low[1], type), pack_pair(low[2], low[3], type),
			pack_pair(high[0], high[1], type), pack_pair(high[2], high[3], type)};
#pragma unroll
		for (int d = 0; d < DIM; d += 16) {
			unsigned b[4];
			kvs_ldmatrix_x4_trans(b, v_at + k * shape::STRIDE + d * sizeof(T));
			kvs_mma_16816<T>(rows.sum[d / 8], a, b);
			kvs_mma_16816<T>(rows.sum[d / 8 + 1], a, b + 2);
		}
	}
}

template <int DIM>
__device__ inline void mma_store(
	const struct attn_attention_params &p, const struct mma_rows<DIM> &rows, int first_row, int head)
{
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int half = 0; half < 2; half++) {
		int row = first_row + lane / 4 + half * 8;
		float total = rows.total[half];
		total += __shfl_xor_sync(0xffffffffu, total, 1);
		total += __shfl_xor_sync(0xffffffffu, total, 2);
		if (row >= p.tokens)
			continue;
		size_t at = ((size_t)row * p.heads + head) * DIM + lane % 4 * 2;
#pragma unroll
		for (int n = 0; n < DIM / 8; n++) {
			store_element(p.out, at + n * 8, p.out_dtype, __fdividef(rows.sum[n][half * 2], total));
			store_element(p.out, at + n * 8 + 1, p.out_dtype, __fdividef(rows.sum[n][half * 2 + 1], total));
		}
	}
}

/* Grid: x tile of query rows, the last (longest) first; y head. */
template <typename T, int DIM>
__device__ inline void mma_attention(const struct attn_attention_params &p, unsigned char *tiles)
{
	using shape = mma_tile<T, DIM>;
	int block_row = (gridDim.x - 1 - blockIdx.x) * ATTN_MMA_ROWS, warp_row = threadIdx.x / 32 * 16;
	int head = blockIdx.y, kv_head = head / (p.heads / p.kv_heads), lane = threadIdx.x % 32;
	const unsigned char *k_head = head_of(p, p.k, kv_head), *v_head = head_of(p, p.v, kv_head);
	int last = p.start + min(block_row + ATTN_MMA_ROWS, p.tokens) - 1;
	struct key_range range = {first_key(p.start + block_row, p.window), last + 1};
	unsigned char *q = tiles, *k = q + shape::Q_BYTES, *v = k + shape::KV_BYTES;
	struct mma_rows<DIM> rows = {
	};

	int warp_position = p.start + block_row + warp_row;
	for (int half = 0; half < 2; half++) {
		rows.largest[half] = -INFINITY;
		rows.position[half] = warp_position + lane / 4 + half * 8;
	}
	int key = range.first / shape::KEYS * shape::KEYS;
	load_tile<T, DIM, shape::KEYS, ATTN_MMA_THREADS>(k, k_head, p.token_bytes, key, range);
	kvs_cp_async_commit();
	mma_load_queries<T, DIM>(p, q, block_row, head);
	for (; key < range.end; key += shape::KEYS) {
		float score[shape::KEYS / 8][4];
		load_tile<T, DIM, shape::KEYS, ATTN_MMA_THREADS>(v, v_head, p.token_bytes, key, range);
		kvs_cp_async_commit();
		kvs_cp_async_wait<1>(); /* K has arrived, V may be in flight */
		__syncthreads();
		mma_scores<T, DIM>(q + warp_row * shape::STRIDE, k, score);
		__syncthreads();
		if (key + shape::KEYS < range.end)
			load_tile<T, DIM, shape::KEYS, ATTN_MMA_THREADS>(
				k, k_head, p.token_bytes, key + shape::KEYS, range);
		kvs_cp_async_commit();
		/* Most tiles are seen by all rows of the warp, from the first to the last. */
		if (key + shape::KEYS - 1 > warp_position || key < first_key(warp_position + 15, p.window))
			mma_hide_unseen<DIM, shape::KEYS / 8>(rows, score, key, p.window);
		mma_softmax<DIM, shape::KEYS / 8>(rows, score, p.scale_log2);
		kvs_cp_async_wait<1>(); /* V has arrived, the next K may be in flight */
		__syncthreads();
		mma_sums<T, DIM>(rows, v, score);
		__syncthreads();
	}
	mma_store<DIM>(p, rows, block_row + warp_row, head);
}

#define ATTN_PREFILL_MMA_KERNEL(type, type_name, dim)                                                                  \
	KVS_KERNEL_BOUNDS(ATTN_MMA_THREADS, (dim) > 128 ? 1 : 3, kvs_attention_prefill_##type_name##_##dim,            \
		struct attn_attention_params p)                                                                        \
	{                                                                                                              \
		KVS_DYNAMIC_SHARED(unsigned char, tiles);                                                              \
		mma_attention<type, dim>(p, tiles);                                                                    \
	}

#define ATTN_PREFILL_MMA_KERNELS(type, type_name)                                                                      \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 32)                                                                   \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 64)                                                                   \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 80)                                                                   \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 96)                                                                   \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 128)                                                                  \
	ATTN_PREFILL_MMA_KERNEL(type, type_name, 256)

#endif
