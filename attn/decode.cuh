/*
 * attn/decode.cuh: attention for one new token: a block handles one split of the keys, one KV head and the query heads
 * that read it, so that K and V cross the memory bus once.
 *
 * Tiles of K and V stream through shared memory: one is fetched while the previous one is used. Scores: a thread
 * computes part of one key's dot products, for all query heads; a warp then adds up the parts of one head and keeps its
 * running maximum (online softmax, arXiv 1805.02867). Sums: a thread has a 16-byte column of V and every SLICES-th key,
 * for all heads. Threads exchange values only through shared memory; slices are added at the end of the split.
 */
#ifndef KVS_ATTN_DECODE_CUH
#define KVS_ATTN_DECODE_CUH

#include "tile_load.cuh"

template <typename T, int DIM>
struct decode_tile {
	static constexpr int ROW_BYTES = DIM * (int)sizeof(T);
	static constexpr int STRIDE = attn_tile_stride(ROW_BYTES);
	static constexpr int KEYS = attn_decode_keys(ROW_BYTES);
	static constexpr int BYTES = KEYS * STRIDE;
	static constexpr int WIDTH = 16 / (int)sizeof(T); /* elements of 16 bytes */
	static constexpr int CHUNKS = ROW_BYTES / 16;
	static constexpr int PARTS = ATTN_DECODE_THREADS / KEYS;    /* threads that share a key's dot products */
	static constexpr int SLICES = ATTN_DECODE_THREADS / CHUNKS; /* threads that share a column of V */
	static_assert(CHUNKS % PARTS == 0, "a key's parts are equal");
};

/* What a block keeps in shared memory besides the tiles. */
template <typename T, int DIM>
struct decode_scratch {
	float query[ATTN_DECODE_GROUP][DIM];
	float score[ATTN_DECODE_GROUP][ATTN_DECODE_THREADS]; /* [head][part][key] */
	float weight[ATTN_DECODE_GROUP][decode_tile<T, DIM>::KEYS];
	float rescale[ATTN_DECODE_GROUP]; /* of sums so far, as the maximum moves */
	float largest[ATTN_DECODE_GROUP], total[ATTN_DECODE_GROUP];
};

/* score[head][part][key] = the part's share of query[head] · K[key], for all heads of the group. */
template <typename T, int DIM>
__device__ inline void decode_scores(decode_scratch<T, DIM> &shared, const unsigned char *tile, int heads)
{
	using shape = decode_tile<T, DIM>;
	constexpr int SPAN = shape::CHUNKS / shape::PARTS;
	int key = threadIdx.x % shape::KEYS, part = threadIdx.x / shape::KEYS;
	const unsigned char *row = tile + key * shape::STRIDE + part * SPAN * 16;
	float sum[ATTN_DECODE_GROUP] = {};

#pragma unroll
	for (int chunk = 0; chunk < SPAN; chunk++) {
		float k[shape::WIDTH];
		unpack((const T *)(row + chunk * 16), k);
#pragma unroll
		for (int h = 0; h < ATTN_DECODE_GROUP; h++) {
			if (h >= heads)
				break;
			const float *q = &shared.query[h][(part * SPAN + chunk) * shape::WIDTH];
#pragma unroll
			for (int i = 0; i < shape::WIDTH; i++)
				sum[h] += q[i] * k[i];
		}
	}
#pragma unroll
	for (int h = 0; h < ATTN_DECODE_GROUP; h++) {
		if (h < heads)
			shared.score[h][threadIdx.x] = sum[h];
	}
}

/* Turns one head's scores into weights relative to the maximum so far; a warp's work. `total` is this lane's share. */
template <typename T, int DIM>
__device__ inline void decode_weights(decode_scratch<T, DIM> &shared, int head, int key, struct key_range range,
	float scale_log2, float &largest, float &total)
{
	using shape = decode_tile<T, DIM>;
	constexpr int PER_LANE = (shape::KEYS + 31) / 32;
	int lane = threadIdx.x % 32;
	float score[PER_LANE], highest = largest;

#pragma unroll
	for (int i = 0; i < PER_LANE; i++) {
		int row = lane + 32 * i;
		bool seen = row < shape::KEYS && key + row >= range.first && key + row < range.end;
		float sum = 0;
		for (int part = 0; seen && part < shape::PARTS; part++)
			sum += shared.score[head][part * shape::KEYS + row];
		score[i] = seen ? sum * scale_log2 : -INFINITY;
		highest = fmaxf(highest, score[i]);
	}
	highest = warp_max(highest); /* finite: every tile of a split holds a key in range */
	float rescale = exp2f(largest - highest);
	largest = highest;
	total *= rescale;
#pragma unroll
	for (int i = 0; i < PER_LANE; i++) {
		float weight = exp2f(score[i] - highest);
		total += weight;
		if (lane + 32 * i < shape::KEYS)
			shared.weight[head][lane + 32 * i] = weight;
	}
	if (lane == 0)
		shared.rescale[head] = rescale;
}

/* sum[head][i] += the weighted V of this thread's keys in its column. */
template <typename T, int DIM>
__device__ inline void decode_sums(const decode_scratch<T, DIM> &shared, const unsigned char *tile, int heads,
	float (&sum)[ATTN_DECODE_GROUP][decode_tile<T, DIM>::WIDTH])
{
	using shape = decode_tile<T, DIM>;
	int column = threadIdx.x % shape::CHUNKS, slice = threadIdx.x / shape::CHUNKS;

	if (slice >= shape::SLICES)
		return;
#pragma unroll
	for (int h = 0; h < ATTN_DECODE_GROUP; h++) {
		if (h >= heads)
			break;
#pragma unroll
		for (int i = 0; i < shape::WIDTH; i++)
			sum[h][i] *= shared.rescale[h];
	}
	for (int key = slice; key < shape::KEYS; key += shape::SLICES) {
		float v[shape::WIDTH];
		unpack((const T *)(tile + key * shape::STRIDE + column * 16), v);
#pragma unroll
		for (int h = 0; h < ATTN_DECODE_GROUP; h++) {
			if (h >= heads)
				break;
			float weight = shared.weight[h][key];
#pragma unroll
			for (int i = 0; i < shape::WIDTH; i++)
				sum[h][i] += weight * v[i];
		}
	}
}

/* Adds the slices up in `sums` (shared memory that held the tiles) and writes the split's part, or the result. */
template <typename T, int DIM>
__device__ inline void decode_finish(const struct attn_attention_params &p, const decode_scratch<T, DIM> &shared,
	float *sums, int first_head, int heads, float (&sum)[ATTN_DECODE_GROUP][decode_tile<T, DIM>::WIDTH])
{
	using shape = decode_tile<T, DIM>;
	constexpr int SLICE = ATTN_DECODE_GROUP * DIM;
	int column = threadIdx.x % shape::CHUNKS, slice = threadIdx.x / shape::CHUNKS;

	if (slice < shape::SLICES) {
#pragma unroll
		for (int h = 0; h < ATTN_DECODE_GROUP; h++) {
#pragma unroll
			for (int i = 0; i < shape::WIDTH; i++) {
				if (h < heads)
					sums[slice * SLICE + h * DIM + column * shape::WIDTH + i] = sum[h][i];
			}
		}
	}
	__syncthreads();
	for (int i = threadIdx.x; i < heads * DIM; i += ATTN_DECODE_THREADS) {
		int head = first_head + i / DIM, dim = i % DIM;
		float value = 0;
		for (int s = 0; s < shape::SLICES; s++)
			value += sums[s * SLICE + i];
		if (p.splits == 1) {
			store_element(p.out, (size_t)head * DIM + dim, p.out_dtype, value / shared.total[i / DIM]);
			continue;
		}
		float *part = p.parts + ((size_t)head * p.splits + blockIdx.x) * (DIM + 2);
		part[dim] = value;
		if (dim == 0) {
			part[DIM] = shared.largest[i / DIM];
			part[DIM + 1] = shared.total[i / DIM];
		}
	}
}

template <typename T, int DIM>
__device__ inline void decode_fetch(
	const struct attn_attention_params &p, unsigned char *tiles, int tile, struct key_range range)
{
	using shape = decode_tile<T, DIM>;
	unsigned char *k = tiles + tile % 2 * 2 * shape::BYTES;

	load_tile<T, DIM, shape::KEYS, ATTN_DECODE_THREADS>(
		k, head_of(p, p.k, blockIdx.y), p.token_bytes, tile * shape::KEYS, range);
	load_tile<T, DIM, shape::KEYS, ATTN_DECODE_THREADS>(
		k + shape::BYTES, head_of(p, p.v, blockIdx.y), p.token_bytes, tile * shape::KEYS, range);
}

/* Grid: x split, y KV head, z group of ATTN_DECODE_GROUP query heads of that KV head. */
template <typename T, int DIM>
__device__ inline void decode_attention(
	const struct attn_attention_params &p, unsigned char *tiles, decode_scratch<T, DIM> &shared)
{
	using shape = decode_tile<T, DIM>;
	constexpr int WARPS = ATTN_DECODE_THREADS / 32, PER_WARP = ATTN_DECODE_GROUP / WARPS;
	int per_kv = p.heads / p.kv_heads, group = blockIdx.z * ATTN_DECODE_GROUP;
	int first_head = blockIdx.y * per_kv + group, heads = min(per_kv - group, ATTN_DECODE_GROUP);
	int warp = threadIdx.x / 32;
	struct key_range range = {first_key(p.start, p.window), p.start + 1};
	int tile = range.first / shape::KEYS + blockIdx.x * p.tiles_per_split;
	int end = min(tile + p.tiles_per_split, (range.end + shape::KEYS - 1) / shape::KEYS);
	float sum[ATTN_DECODE_GROUP][shape::WIDTH] = {};
	float largest[PER_WARP], total[PER_WARP]; /* of heads warp, warp + WARPS */

	for (int i = 0; i < PER_WARP; i++) {
		largest[i] = -INFINITY;
		total[i] = 0;
	}
	decode_fetch<T, DIM>(p, tiles, tile, range);
	kvs_cp_async_commit();
	for (int i = threadIdx.x; i < heads * DIM; i += ATTN_DECODE_THREADS)
		shared.query[i / DIM][i % DIM] = p.q[(size_t)first_head * DIM + i];
	for (; tile < end; tile++) {
		const unsigned char *k = tiles + tile % 2 * 2 * shape::BYTES;
		if (tile + 1 < end)
			decode_fetch<T, DIM>(p, tiles, tile + 1, range);
		kvs_cp_async_commit(); /* empty after the last tile, so that "all but one" is always this tile */
		kvs_cp_async_wait<1>();
		__syncthreads();
		decode_scores<T, DIM>(shared, k, heads);
		__syncthreads();
#pragma unroll
		for (int i = 0; i < PER_WARP; i++) {
			if (warp + i * WARPS < heads)
				decode_weights<T, DIM>(shared, warp + i * WARPS, tile * shape::KEYS, range,
					p.scale_log2, largest[i], total[i]);
		}
		__syncthreads();
		decode_sums<T, DIM>(shared, k + shape::BYTES, heads, sum);
		__syncthreads(); /* the tile and the weights are free again */
	}
#pragma unroll
	for (int i = 0; i < PER_WARP; i++) {
		int head = warp + i * WARPS;
		if (head >= heads)
			break;
		float all = warp_sum(total[i]);
		if (threadIdx.x % 32 == 0) {
			shared.largest[head] = largest[i];
			shared.total[head] = all;
		}
	}
	__syncthreads();
	decode_finish<T, DIM>(p, shared, (float *)tiles, first_head, heads, sum);
}

#define ATTN_DECODE_KERNEL(type, type_name, dim)                                                                       \
	KVS_KERNEL_BOUNDS(                                                                                             \
		ATTN_DECODE_THREADS, 1, kvs_attention_decode_##type_name##_##dim, struct attn_attention_params p)      \
	{                                                                                                              \
		KVS_DYNAMIC_SHARED(unsigned char, tiles);                                                              \
		typedef decode_scratch<type, dim> scratch;                                                             \
		KVS_SHARED(scratch, shared, 1);                                                                        \
		decode_attention<type, dim>(p, tiles, shared[0]);                                                      \
	}

#define ATTN_DECODE_KERNELS(type, type_name)                                                                           \
	ATTN_DECODE_KERNEL(type, type_name, 32)                                                                        \
	ATTN_DECODE_KERNEL(type, type_name, 64)                                                                        \
	ATTN_DECODE_KERNEL(type, type_name, 80)                                                                        \
	ATTN_DECODE_KERNEL(type, type_name, 96)                                                                        \
	ATTN_DECODE_KERNEL(type, type_name, 128)                                                                       \
	ATTN_DECODE_KERNEL(type, type_name, 256)

#endif
