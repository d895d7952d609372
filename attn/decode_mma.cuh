/*
 * attn/decode_mma.cuh: attention for one new token over K and V in f16 or bf16, on tensor cores.
 *
 * A block handles one split of the keys, one KV head and up to eight query heads that read it. Each of its warps walks
 * steps of 16 keys of its own, which it copies ahead into a ring of its own in shared memory: nothing in the loop waits
 * for another warp. Products are mma.m16n8k16 (fragments: prefill_mma.cuh), and eight heads fill half of its 16 rows.
 * Rows 0 to 7 of the operand are Q (or the weights) rounded to T, rows 8 to 15 the rounding errors: a lane holds both
 * rows of a head and adds them, so that the result is nearly that of f32. The warps' sums are added at the end, and
 * those of the splits by the block that finishes last for its heads, in a fixed order.
 */
#ifndef KVS_ATTN_DECODE_MMA_CUH
#define KVS_ATTN_DECODE_MMA_CUH

#include "tile_load.cuh"

template <typename T, int DIM>
struct step_shape {
	static constexpr int KEYS = ATTN_STEP_KEYS, WARPS = attn_step_warps(DIM), THREADS = 32 * WARPS;
	static constexpr int CHUNKS = DIM * (int)sizeof(T) / 16; /* 16-byte pieces of a row */
	static constexpr int STRIDE = attn_tile_stride(DIM * (int)sizeof(T));
	static constexpr int K_BYTES = KEYS * STRIDE;     /* of a step's K, which its V follows */
	static constexpr int COPIES = KEYS * CHUNKS / 32; /* of a lane, for a step's K */
	static constexpr int SUM_STRIDE = DIM + 8; /* floats between heads: eight rows fall on banks of their own */
	static constexpr bool QUERY_IN_REGISTERS = DIM <= 128;
};

/* What a block keeps in shared memory besides the rings. */
template <int DIM>
struct step_scratch {
	uint4 query[DIM / 16][32];                                        /* fragments of Q, as lanes hold them */
	float largest[4][ATTN_DECODE_GROUP], total[4][ATTN_DECODE_GROUP]; /* [warp][head] */
	bool last;
};

/* A lane's head: sums of V (rounded weights, then rest), and the running softmax. `total` is the lane's own share. */
template <int DIM>
struct step_sums {
	float sum[DIM / 8][4];
	float largest, total;
};

/* Two floats rounded to T, and the rounding errors, in T too. */
template <typename T>
__device__ inline void split_pair(float first, float second, unsigned &rounded, unsigned &rest)
{
	float back[2];

	rounded = pack_pair(first, second, (const T *)NULL);
	unpack_pair(rounded, back, (const T *)NULL);
	rest = pack_pair(first - back[0], second - back[1], (const T *)NULL);
}

/* The scaled Q of `heads` heads as fragments, zero for missing heads; all threads share the work. */
template <typename T, int DIM>
__device__ inline void split_queries(
	const struct attn_attention_params &p, step_scratch<DIM> &shared, int first_head, int heads)
{
	int lane = threadIdx.x % 32, head = lane / 4, column = lane % 4 * 2;

	for (int d = threadIdx.x / 32; d < DIM / 16; d += step_shape<T, DIM>::WARPS) {
		float2 low = make_float2(0, 0), high = make_float2(0, 0);
		if (head < heads) {
			const float *q = p.q + (size_t)(first_head + head) * DIM + d * 16 + column;
			low = *(const float2 *)q;
			high = *(const float2 *)(q + 8);
		}
		uint4 &to = shared.query[d][lane];
		split_pair<T>(low.x * p.scale_log2, low.y * p.scale_log2, to.x, to.y);
		split_pair<T>(high.x * p.scale_log2, high.y * p.scale_log2, to.z, to.w);
	}
}

/* A lane's fragments of Q: in registers, or, where those are short, read from shared memory at each use. */
template <int DIM, bool IN_REGISTERS>
struct query_fragments {
	uint4 held[IN_REGISTERS ? DIM / 16 : 1];
	const step_scratch<DIM> &shared;

	__device__ explicit query_fragments(const step_scratch<DIM> &from) : shared(from)
	{
#pragma unroll
		for (int d = 0; IN_REGISTERS && d < DIM / 16; d++)
			held[d] = shared.query[d][threadIdx.x % 32];
	}

	__device__ uint4 at(int d) const
	{
		return IN_REGISTERS ? held[d] : shared.query[d][threadIdx.x % 32];
	}
};

/* A lane's part in copying a step. Rows outside `range` become zero; WHOLE: there are none. */
template <typename T, int DIM, bool WHOLE>
__device__ inline void copy_rows(unsigned char *stage, const unsigned char *k, const unsigned char *v, int token_bytes,
	int key, struct key_range range)
{
	using shape = step_shape<T, DIM>;
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int i = 0; i < shape::COPIES; i++) {
		int row = (lane + 32 * i) / shape::CHUNKS, chunk = (lane + 32 * i) % shape::CHUNKS;
		bool seen = WHOLE || (key + row >= range.first && key + row < range.end);
		unsigned char *to = stage + row * shape::STRIDE + chunk * 16;
		size_t from = (unsigned)(row * token_bytes + chunk * 16);
		kvs_cp_async16(to, k + from, seen);
		kvs_cp_async16(to + shape::K_BYTES, v + from, seen);
	}
}

template <typename T, int DIM>
__device__ inline void copy_step(unsigned char *stage, const unsigned char *k, const unsigned char *v, int token_bytes,
	int key, struct key_range range)
{
	if (key >= range.first && key + ATTN_STEP_KEYS <= range.end)
		copy_rows<T, DIM, true>(stage, k, v, token_bytes, key, range);
	else
		copy_rows<T, DIM, false>(stage, k, v, token_bytes, key, range);
}

/* score[0..3] of keys column, column + 1, column + 8, column + 9 of the lane's head. */
template <typename T, int DIM, typename QUERY>
__device__ inline void step_scores(const unsigned char *k, const QUERY &query, float (&score)[4])
{
	using shape = step_shape<T, DIM>;
	int lane = threadIdx.x % 32, matrix = lane / 8;
	const unsigned char *k_at = k + (matrix / 2 * 8 + lane % 8) * shape::STRIDE + matrix % 2 * 16;
	float low[4] = {}, high[4] = {};

#pragma unroll
	for (int d = 0; d < DIM / 16; d++) {
		uint4 q = query.at(d);
		unsigned a[4] = {q.x, q.y, q.z, q.w}, b[4];
		kvs_ldmatrix_x4(b, k_at + d * 16 * sizeof(T));
		kvs_mma_16816<T>(low, a, b);
		kvs_mma_16816<T>(high, a, b + 2);
	}
	score[0] = low[0] + low[2];
	score[1] = low[1] + low[3];
	score[2] = high[0] + high[2];
	score[3] = high[1] + high[3];
}

__device__ inline void hide_unseen(float (&score)[4], int key, struct key_range range)
{
	int column = threadIdx.x % 4 * 2;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		int at = key + column + i % 2 + i / 2 * 8;
		if (at < range.first || at >= range.end)
			score[i] = -INFINITY;
	}
}

/*
 * Scores to weights 2^(score - largest); the sums so far are rescaled when the maximum of any head moves, which is
 * rare.
 */
template <int DIM>
__device__ inline void step_softmax(step_sums<DIM> &sums, float (&score)[4])
{
	float highest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));

	highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
	highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
	if (__any_sync(0xffffffffu, highest > sums.largest)) {
		highest = fmaxf(highest, sums.largest); /* finite: every step has a key in range */
		float rescale = fast_exp2(sums.largest - highest);
		sums.largest = highest;
		sums.total *= rescale;
#pragma unroll
		for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
			for (int i = 0; i < 4; i++)
				sums.sum[n][i] *= rescale;
		}
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		score[i] = fast_exp2(score[i] - sums.largest);
		sums.total += score[i];
	}
}

/* sum += weights V */
template <typename T, int DIM>
__device__ inline void add_step(step_sums<DIM> &sums, const unsigned char *v, const float (&weight)[4])
{
	using shape = step_shape<T, DIM>;
	int lane = threadIdx.x % 32, matrix = lane / 8;
	const unsigned char *v_at = v + (matrix % 2 * 8 + lane % 8) * shape::STRIDE + matrix / 2 * 16;
	unsigned a[4];

	split_pair<T>(weight[0], weight[1], a[0], a[1]);
	split_pair<T>(weight[2], weight[3], a[2], a[3]);
#pragma unroll
	for (int d = 0; d < DIM; d += 16) {
		unsigned b[4];
		kvs_ldmatrix_x4_trans(b, v_at + d * sizeof(T));
		kvs_mma_16816<T>(sums.sum[d / 8], a, b);
		kvs_mma_16816<T>(sums.sum[d / 8 + 1], a, b + 2);
	}
}

/*
 * The warp's steps first, first + WARPS, ... before `end`, through its ring of p.stages stages. Q is split while the first
 * of them are on their way.
 */
template <typename T, int DIM>
__device__ inline void walk_steps(const struct attn_attention_params &p, unsigned char *ring, step_scratch<DIM> &shared,
	int first_head, int heads, int first, int end, struct key_range range, step_sums<DIM> &sums)
{
	using shape = step_shape<T, DIM>;
	constexpr int STAGE_BYTES = 2 * shape::K_BYTES;
	size_t at = (size_t)first * shape::KEYS * p.token_bytes;
	size_t stride = (size_t)shape::WARPS * shape::KEYS * p.token_bytes;
	const unsigned char *k = head_of(p, p.k, blockIdx.y) + at, *v = head_of(p, p.v, blockIdx.y) + at;
	unsigned char *stage = ring, *ring_end = ring + p.stages * STAGE_BYTES;
	int ahead = first; /* the step that is copied next */

	for (; stage < ring_end; stage += STAGE_BYTES, ahead += shape::WARPS, k += stride, v += stride) {
		if (ahead < end)
			copy_step<T, DIM>(stage, k, v, p.token_bytes, ahead * shape::KEYS, range);
		kvs_cp_async_commit(); /* empty after the last step, so that counting groups counts steps */
	}
	split_queries<T, DIM>(p, shared, first_head, heads);
	__syncthreads();
	query_fragments<DIM, shape::QUERY_IN_REGISTERS> query(shared);
	stage = ring;
	for (int step = first; step < end; step += shape::WARPS) {
		float score[4];
		int key = step * shape::KEYS;
		if (p.stages == 3)
			kvs_cp_async_wait<2>();
		else
			kvs_cp_async_wait<1>();
		__syncwarp(); /* the copies of the other lanes have arrived */
		step_scores<T, DIM>(stage, query, score);
		if (key < range.first || key + shape::KEYS > range.end)
			hide_unseen(score, key, range);
		step_softmax<DIM>(sums, score);
		add_step<T, DIM>(sums, stage + shape::K_BYTES, score);
		__syncwarp(); /* all lanes have read the stage */
		if (ahead < end)
			copy_step<T, DIM>(stage, k, v, p.token_bytes, ahead * shape::KEYS, range);
		kvs_cp_async_commit();
		ahead += shape::WARPS;
		k += stride;
		v += stride;
		stage = stage + STAGE_BYTES < ring_end ? stage + STAGE_BYTES : ring;
	}
	kvs_cp_async_wait<0>();
}

/* Writes the warp's sums to `to` [head][SUM_STRIDE], those of the rounded weights and of the rest added up. */
template <typename T, int DIM>
__device__ inline void leave_sums(const step_sums<DIM> &sums, step_scratch<DIM> &shared, float *to)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = lane / 4;
	float total = sums.total;

	total += __shfl_xor_sync(0xffffffffu, total, 1);
	total += __shfl_xor_sync(0xffffffffu, total, 2);
	if (lane % 4 == 0) {
		shared.largest[warp][head] = sums.largest;
		shared.total[warp][head] = total;
	}
	to += head * step_shape<T, DIM>::SUM_STRIDE + lane % 4 * 2;
#pragma unroll
	for (int n = 0; n < DIM / 8; n++)
		*(float2 *)(to + n * 8) = make_float2(sums.sum[n][0] + sums.sum[n][2], sums.sum[n][1] + sums.sum[n][3]);
}

__device__ inline void add_scaled(float4 &sum, float scale, float4 value)
{
	sum.x += scale * value.x;
	sum.y += scale * value.y;
	sum.z += scale * value.z;
	sum.w += scale * value.w;
}

__device__ inline void store_four(void *out, size_t index, int dtype, float4 value, float scale)
{
	store_element(out, index, dtype, value.x * scale);
	store_element(out, index + 1, dtype, value.y * scale);
	store_element(out, index + 2, dtype, value.z * scale);
	store_element(out, index + 3, dtype, value.w * scale);
}

/* Where a split leaves its part: its sums, and, after the sums of all, its largest score and sum of weights. */
__device__ inline float4 *sums_of_split(const struct attn_attention_params &p, int dim, int head, int split)
{
	return (float4 *)(p.parts + ((size_t)head * p.splits + split) * dim);
}

__device__ inline float2 *scale_of_split(const struct attn_attention_params &p, int dim, int head, int split)
{
	return (float2 *)(p.parts + (size_t)p.heads * p.splits * dim) + (size_t)head * p.splits + split;
}

/* Adds the warps' sums up and writes the split's part, or the result where there is one split. */
template <typename T, int DIM>
__device__ inline void finish_split(const struct attn_attention_params &p, const step_scratch<DIM> &shared,
	const float *sums, int first_head, int heads)
{
	using shape = step_shape<T, DIM>;

	for (int i = threadIdx.x; i < heads * (DIM / 4); i += shape::THREADS) {
		int row = i / (DIM / 4), four = i % (DIM / 4), head = first_head + row;
		float largest = shared.largest[0][row], total = 0;
		float4 sum = make_float4(0, 0, 0, 0);
		for (int warp = 1; warp < shape::WARPS; warp++)
			largest = fmaxf(largest, shared.largest[warp][row]);
		for (int warp = 0; warp < shape::WARPS; warp++) {
			float scale = fast_exp2(shared.largest[warp][row] - largest); /* 0 for a warp without steps */
			const float *of = sums + (warp * ATTN_DECODE_GROUP + row) * shape::SUM_STRIDE;
			total += scale * shared.total[warp][row];
			add_scaled(sum, scale, *(const float4 *)(of + four * 4));
		}
		if (p.splits == 1) {
			store_four(p.out, (size_t)head * DIM + four * 4, p.out_dtype, sum, 1 / total);
			continue;
		}
		sums_of_split(p, DIM, head, blockIdx.x)[four] = sum;
		if (four == 0)
			*scale_of_split(p, DIM, head, blockIdx.x) = make_float2(largest, total);
	}
}

/* One head's result from its splits, whose parts other blocks have written: a warp's work. */
template <int DIM>
__device__ inline void combine_splits(const struct attn_attention_params &p, int head)
{
	constexpr int PER_LANE = (DIM / 4 + 31) / 32;
	int lane = threadIdx.x % 32;
	float largest = -INFINITY, total = 0;
	float4 sum[PER_LANE] = {};

	for (int split = lane; split < p.splits; split += 32)
		largest = fmaxf(largest, __ldcg(scale_of_split(p, DIM, head, split)).x);
	largest = warp_max(largest);
	for (int first = 0; first < p.splits; first += 32) {
		int count = min(p.splits - first, 32);
		float2 mine = make_float2(-INFINITY, 0);
		if (lane < count)
			mine = __ldcg(scale_of_split(p, DIM, head, first + lane));
		float scale = fast_exp2(mine.x - largest);
		total += scale * mine.y;
#pragma unroll 8
		for (int i = 0; i < count; i++) {
			float of_split = __shfl_sync(0xffffffffu, scale, i);
			const float4 *from = sums_of_split(p, DIM, head, first + i);
#pragma unroll
			for (int n = 0; n < PER_LANE; n++) {
				if (lane + 32 * n < DIM / 4)
					add_scaled(sum[n], of_split, __ldcg(from + lane + 32 * n));
			}
		}
	}
	total = warp_sum(total);
#pragma unroll
	for (int n = 0; n < PER_LANE; n++) {
		if (lane + 32 * n < DIM / 4)
			store_four(p.out, (size_t)head * DIM + (lane + 32 * n) * 4, p.out_dtype, sum[n], 1 / total);
	}
}

/* Is this the last block of its heads to get here? Then it sees what the others wrote before. All threads call it. */
__device__ inline bool is_last_block(const struct attn_attention_params &p, bool &last)
{
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		unsigned *arrived = p.arrived + blockIdx.y * gridDim.z + blockIdx.z;
		last = atomicAdd(arrived, 1u) == (unsigned)p.splits - 1;
		if (last)
			*arrived = 0; /* for the next launch */
	}
	__syncthreads();
	__threadfence();
	return last;
}

/* Grid: x split, y KV head, z group of ATTN_DECODE_GROUP query heads of that KV head. */
template <typename T, int DIM>
__device__ inline void step_attention(
	const struct attn_attention_params &p, unsigned char *rings, step_scratch<DIM> &shared)
{
	using shape = step_shape<T, DIM>;
	int per_kv = p.heads / p.kv_heads, group = blockIdx.z * ATTN_DECODE_GROUP, warp = threadIdx.x / 32;
	int first_head = blockIdx.y * per_kv + group, heads = min(per_kv - group, ATTN_DECODE_GROUP);
	struct key_range range = {first_key(p.start, p.window), p.start + 1};
	int first = range.first / shape::KEYS + blockIdx.x * p.tiles_per_split;
	int end = min(first + p.tiles_per_split, (range.end + shape::KEYS - 1) / shape::KEYS);
	struct step_sums<DIM> sums = {
	};

	sums.largest = -INFINITY;
	walk_steps<T, DIM>(p, rings + warp * p.stages * 2 * shape::K_BYTES, shared, first_head, heads, first + warp,
		end, range, sums);
	__syncthreads(); /* the rings are free */
	leave_sums<T, DIM>(sums, shared, (float *)rings + warp * ATTN_DECODE_GROUP * shape::SUM_STRIDE);
	__syncthreads();
	finish_split<T, DIM>(p, shared, (const float *)rings, first_head, heads);
	if (p.splits == 1 || !is_last_block(p, shared.last))
		return;
	for (int head = warp; head < heads; head += shape::WARPS)
		combine_splits<DIM>(p, first_head + head);
}

#define ATTN_DECODE_MMA_KERNEL(type, type_name, dim)                                                                   \
	KVS_KERNEL_BOUNDS(32 * attn_step_warps(dim), 2, kvs_attention_decode_mma_##type_name##_##dim,                  \
		struct attn_attention_params p)                                                                        \
	{                                                                                                              \
		KVS_DYNAMIC_SHARED(unsigned char, rings);                                                              \
		KVS_SHARED(step_scratch<dim>, shared, 1);                                                              \
		step_attention<type, dim>(p, rings, shared[0]);                                                        \
	}

#define ATTN_DECODE_MMA_KERNELS(type, type_name)                                                                       \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 32)                                                                    \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 64)                                                                    \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 80)                                                                    \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 96)                                                                    \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 128)                                                                   \
	ATTN_DECODE_MMA_KERNEL(type, type_name, 256)

#endif
