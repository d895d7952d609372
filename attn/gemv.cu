/*
 * attn/gemv.cu: one row times a matrix, which is most of the work of decoding one sequence.
 *
 * Every weight is read once, so the kernel is bound by device memory: a warp takes two rows of w, reads each in pieces
 * of 16 bytes, four per lane and row in flight, and keeps them out of L1, where x stays. Sums are in f32, lane by lane,
 * in an order that depends on k alone.
 */
#include "element.cuh"
#include "kernels.h"

namespace
{
/* 16 bytes that nothing reads again soon. */
__device__ inline uint4 load_once(const void *from)
{
#ifdef __CUDA_ARCH__
	uint4 to;
	asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
		     : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
		     : "l"(from));
	return to;
#else
	return *(const uint4 *)from;
#endif
}

__device__ inline void unpack_piece(const uint4 &piece, float (&to)[4], const float *)
{
	to[0] = __uint_as_float(piece.x);
	to[1] = __uint_as_float(piece.y);
	to[2] = __uint_as_float(piece.z);
	to[3] = __uint_as_float(piece.w);
}

template <typename T>
__device__ inline void unpack_piece(const uint4 &piece, float (&to)[8], const T *type)
{
	unpack_pair(piece.x, to, type);
	unpack_pair(piece.y, to + 2, type);
	unpack_pair(piece.z, to + 4, type);
	unpack_pair(piece.w, to + 6, type);
}

template <typename T>
__device__ void gemv(const attn_gemv_params &p)
{
	constexpr int WIDTH = 16 / sizeof(T), STEP = 32 * WIDTH, AHEAD = 4, ROWS = ATTN_GEMV_ROWS;
	int lane = threadIdx.x % 32, warp = blockIdx.x * (ATTN_GEMV_THREADS / 32) + threadIdx.x / 32;
	const T *x = (const T *)p.x, *row[ROWS];
	float sum[ROWS] = {};

	for (int r = 0; r < ROWS; r++) /* past the last row: the last one again, whose sum is then not written */
		row[r] = (const T *)p.w + (size_t)min(warp * ROWS + r, p.n - 1) * p.k;
	for (int c = lane * WIDTH; c < p.k; c += AHEAD * STEP) {
		uint4 piece[AHEAD][ROWS] = {};
#pragma unroll
		for (int a = 0; a < AHEAD; a++)
#pragma unroll
			for (int r = 0; r < ROWS; r++)
				if (c + a * STEP < p.k)
					piece[a][r] = load_once(row[r] + c + a * STEP);
#pragma unroll
		for (int a = 0; a < AHEAD; a++) {
			float ours[WIDTH] = {}, theirs[WIDTH];
			if (c + a * STEP < p.k)
				unpack(x + c + a * STEP, ours);
#pragma unroll
			for (int r = 0; r < ROWS; r++) {
				unpack_piece(piece[a][r], theirs, x);
#pragma unroll
				for (int i = 0; i < WIDTH; i++)
					sum[r] += ours[i] * theirs[i];
			}
		}
	}
#pragma unroll
	for (int r = 0; r < ROWS; r++) {
		float total = warp_sum(sum[r]);
		int at = warp * ROWS + r;
		if (lane == 0 && at < p.n)
			p.out[at] = p.accumulate ? p.out[at] + total : total;
	}
}
} // namespace

KVS_KERNEL_BOUNDS(ATTN_GEMV_THREADS, 6, kvs_gemv_f32, attn_gemv_params p)
{
	gemv<float>(p);
}

KVS_KERNEL_BOUNDS(ATTN_GEMV_THREADS, 6, kvs_gemv_f16, attn_gemv_params p)
{
	gemv<__half>(p);
}

KVS_KERNEL_BOUNDS(ATTN_GEMV_THREADS, 6, kvs_gemv_bf16, attn_gemv_params p)
{
	gemv<__nv_bfloat16>(p);
}
