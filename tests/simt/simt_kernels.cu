/*
 * Kernels of tests/simt/simt_test.c: one for each thing that driver/simt offers, and one for each mistake that it must report.
 */
#include "../../driver/simt/tile.cuh"

#include <cuda_fp8.h>

KVS_KERNEL(simt_places, unsigned *out)
{
	unsigned index = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;

	out[index] = threadIdx.x | threadIdx.y << 8 | threadIdx.z << 16 | (blockIdx.y * gridDim.x + blockIdx.x) << 24;
}

struct mixed {
	char letter;
	double number;
};

KVS_KERNEL_BOUNDS(64, 1, simt_params, char a, struct mixed b, short c, long long *out)
{
	out[0] = a;
	out[1] = b.letter;
	out[2] = (long long)b.number;
	out[3] = c;
}

/* Right: what the neighbour wrote is read behind a barrier. Static and dynamic arrays. */
KVS_KERNEL(simt_rotate, int *out)
{
	KVS_SHARED(int, fixed, 256);
	KVS_DYNAMIC_SHARED(int, dynamic);
	int t = threadIdx.x, n = blockDim.x;

	fixed[t] = t;
	__syncthreads();
	dynamic[t] = fixed[(t + 1) % n];
	__syncthreads();
	out[t] = dynamic[(t + n - 1) % n] * 1000 + dynamic[(t + 1) % n];
}

/* Wrong: the barrier is missing, and in forward order nobody notices. */
KVS_KERNEL(simt_missing_barrier, int *out)
{
	KVS_SHARED(int, values, 256);

	values[threadIdx.x] = threadIdx.x;
	out[threadIdx.x] = threadIdx.x ? values[threadIdx.x - 1] : -1;
}

KVS_KERNEL(simt_unwritten, float *out)
{
	KVS_SHARED(float, fixed, 4);
	KVS_DYNAMIC_SHARED(float, dynamic);

	out[0] = fixed[2];
	out[1] = dynamic[2];
}

KVS_KERNEL(simt_shuffles, long long *out)
{
	int t = threadIdx.x;
	long long wide = (long long)t << 40;

	out[t * 8 + 0] = __shfl_sync(0xffffffff, t, t + 3);
	out[t * 8 + 1] = __shfl_sync(0xffffffff, t, 5, 8);
	out[t * 8 + 2] = __shfl_up_sync(0xffffffff, wide, 3) >> 40;
	out[t * 8 + 3] = __shfl_up_sync(0xffffffff, t, 3, 16);
	out[t * 8 + 4] = __shfl_down_sync(0xffffffff, (float)t, 5);
	out[t * 8 + 5] = __shfl_down_sync(0xffffffff, t, 5, 8);
	out[t * 8 + 6] = (long long)__shfl_xor_sync(0xffffffff, (double)t, 9);
	out[t * 8 + 7] = __shfl_xor_sync(0xffffffff, t, 4, 4);
}

KVS_KERNEL(simt_votes, unsigned *out)
{
	unsigned t = threadIdx.x, half = t < 16 ? 0xffffu : 0xffff0000u;

	out[t * 8 + 0] = __ballot_sync(0xffffffff, t % 3 == 0);
	out[t * 8 + 1] = __ballot_sync(half, t % 2);
	out[t * 8 + 2] = __any_sync(half, t == 20);
	out[t * 8 + 3] = __all_sync(half, t >= 16);
	out[t * 8 + 4] = __syncthreads_count(t % 4 == 0);
	out[t * 8 + 5] = __syncthreads_and(t < 31);
	out[t * 8 + 6] = __syncthreads_or(t == 31);
	out[t * 8 + 7] = __activemask() >> t & 1;
	__syncwarp();
}

KVS_KERNEL(simt_atomics, int *sum, float *sum_f, unsigned long long *wide, int *least, int *most, unsigned *bits)
{
	int t = blockIdx.x * blockDim.x + threadIdx.x;

	atomicAdd(sum, 1);
	atomicAdd(sum_f, 0.5f);
	atomicAdd(wide, 1ull << 32);
	atomicMin(least, -t);
	atomicMax(most, t);
	atomicOr(bits, 1u << t % 32);
	atomicAnd(bits + 1, ~(1u << t % 32));
	if (atomicCAS(bits + 2, 0u, 1u) == 0)
		atomicExch(bits + 3, 42u);
}

/* Thread 0 waits for the last one, which must get its turn. */
KVS_KERNEL(simt_poll, unsigned *flag)
{
	if (threadIdx.x == 0) {
		while (!atomicAdd(flag, 0u))
			__nanosleep(100);
		flag[1] = 7;
	} else if (threadIdx.x == blockDim.x - 1) {
		atomicExch(flag, 1u);
	}
}

KVS_KERNEL(simt_grid, int *out)
{
	atomicAdd(out, 1);
	kvs_grid_sync();
	atomicAdd(out + 1, *out);
}

KVS_KERNEL(simt_half_leave, int *out)
{
	if (threadIdx.x >= blockDim.x / 2)
		return;
	__syncthreads();
	out[threadIdx.x] = 1;
}

KVS_KERNEL(simt_two_places, int *out)
{
	if (threadIdx.x % 2)
		__syncthreads();
	else
		__syncthreads_count(1);
	out[threadIdx.x] = 1;
}

KVS_KERNEL(simt_two_lines, int *out)
{
	if (threadIdx.x < blockDim.x / 2)
		__syncthreads();
	else
		__syncthreads();
	out[threadIdx.x] = 1;
}

/* In which order the threads of a block come. */
KVS_KERNEL(simt_order, int *count, int *order)
{
	order[threadIdx.x] = atomicAdd(count, 1);
}

KVS_KERNEL(simt_lane_left, int *out)
{
	if (threadIdx.x == 9)
		return;
	out[threadIdx.x] = __shfl_xor_sync(0xffffffff, threadIdx.x, 1);
}

KVS_KERNEL(simt_wrong_mask, int *out)
{
	out[threadIdx.x] = __shfl_sync(0xfffffffe, 1, 1);
}

KVS_KERNEL(simt_overrun, int index, int dynamic_index)
{
	KVS_SHARED(int, first, 8);
	KVS_SHARED(int, second, 8);
	KVS_DYNAMIC_SHARED(int, dynamic);

	*(volatile int *)first = 1;
	((volatile int *)second)[index] = 1;
	((volatile int *)dynamic)[dynamic_index] = 1;
}

#ifndef __CUDACC__
__attribute__((noinline)) static int endless(int depth, volatile int *seen)
{
	volatile char room[512];

	room[depth % 512] = 1;
	*seen = depth;
	return depth < 0 ? 0 : endless(depth + 1, seen) + room[depth % 512];
}

KVS_KERNEL(simt_stack_overflow, int *out)
{
	out[1] = endless(0, out);
}
#endif

KVS_KERNEL(simt_spin, const volatile int *forever)
{
	KVS_SHARED(int, values, 64);

	values[threadIdx.x] = 0;
	__syncthreads();
	while (*forever)
		;
}

KVS_KERNEL(simt_trap, int *out, int how)
{
	if (threadIdx.x == 3 && how == 0)
		__trap();
	assert(threadIdx.x != 5);
	out[threadIdx.x] = 1;
}

/* A tile is copied, waited for or not, and read. */
KVS_KERNEL(simt_async, const int *in, int *out, int pending)
{
	KVS_SHARED(int4, tile, 64);
	const int4 *from = (const int4 *)in;
	int t = threadIdx.x;

	kvs_cp_async16(&tile[t], &from[t]);
	kvs_cp_async_commit();
	kvs_cp_async16(&tile[32 + t], &from[32 + t], t % 2 == 0);
	kvs_cp_async_commit();
	if (pending == 0)
		kvs_cp_async_wait<0>();
	if (pending == 1)
		kvs_cp_async_wait<1>();
	out[t] = tile[t].y;
	out[32 + t] = tile[32 + t].y;
}

/* Copies are handed in and never waited for, or waited for and never handed in. */
KVS_KERNEL(simt_async_left, const int *in, int *out, int copies)
{
	KVS_SHARED(int4, tile, 32);
	int t = threadIdx.x;

	if (copies) {
		kvs_cp_async16(&tile[t], (const int4 *)in + t);
		kvs_cp_async_commit();
		return;
	}
	tile[t] = int4{-2, -2, -2, -2};
	kvs_cp_async_wait<0>();
	out[t] = tile[t].y;
}

/* d[16][8] = a[16][16] * b[16][8] + d, through shared memory and ldmatrix; b_rows: b is stored by row, else by column. */
template <typename T>
__device__ inline void multiply(const float *a, const float *b, float *d, bool b_rows, T (*convert)(float))
{
	KVS_SHARED(T, a_tile, 256);
	KVS_SHARED(T, b_tile, 128);
	int lane = threadIdx.x, g = lane / 4, t = lane % 4 * 2;
	unsigned a_regs[4], b_regs[2];

	for (int i = lane; i < 256; i += 32)
		a_tile[i] = convert(a[i]);
	for (int i = lane; i < 128; i += 32)
		b_tile[b_rows ? i : i % 8 * 16 + i / 8] = convert(b[i]);
	__syncwarp();
	kvs_ldmatrix_x4(a_regs, &a_tile[(lane % 16) * 16 + lane / 16 * 8]);
	if (b_rows)
		kvs_ldmatrix_x2_trans(b_regs, &b_tile[lane % 16 * 8]);
	else
		kvs_ldmatrix_x2(b_regs, &b_tile[lane % 8 * 16 + lane / 8 % 2 * 8]);
	float sums[4] = {d[g * 8 + t], d[g * 8 + t + 1], d[(g + 8) * 8 + t], d[(g + 8) * 8 + t + 1]};
	kvs_mma_16816<T>(sums, a_regs, b_regs);
	for (int i = 0; i < 4; i++)
		d[(g + i / 2 * 8) * 8 + t + i % 2] = sums[i];
}

__device__ inline __half to_half(float x)
{
	return __float2half_rn(x);
}

__device__ inline __nv_bfloat16 to_bfloat16(float x)
{
	return __float2bfloat16_rn(x);
}

KVS_KERNEL(simt_multiply_f16, const float *a, const float *b, float *d, int b_rows)
{
	multiply<__half>(a, b, d, b_rows, to_half);
}

KVS_KERNEL(simt_multiply_bf16, const float *a, const float *b, float *d, int b_rows)
{
	multiply<__nv_bfloat16>(a, b, d, b_rows, to_bfloat16);
}

/* One k: d[row][0] = half(bits) * 1, so that every bit pattern of a half goes through mma once. */
KVS_KERNEL(simt_half_values, const unsigned short *bits, float *out)
{
	int lane = threadIdx.x;
	unsigned a[4] = {lane % 4 ? 0u : bits[lane / 4], lane % 4 ? 0u : bits[lane / 4 + 8], 0, 0};
	unsigned b[2] = {lane == 0 ? 0x3c00u : 0, 0};
	float d[4] = {};

	kvs_mma_16816<__half>(d, a, b);
	if (lane % 4 == 0) {
		out[lane / 4] = d[0];
		out[lane / 4 + 8] = d[2];
	}
}

KVS_KERNEL(simt_formats, float x, float *out)
{
	out[0] = __half2float(__float2half_rn(x));
	out[1] = __bfloat162float(__float2bfloat16_rn(x));
	out[2] = (float)__nv_fp8_e4m3(x);
	out[3] = rsqrtf(4.0f) + __saturatef(2.0f) + min(1, 2) + max(1.5f, 1.0f);
	out[4] = __int_as_float(__float_as_int(x)) + __popc(7) + __clz(1) + __ffs(8);
	out[5] = __expf(0.0f) + __logf(1.0f);
}
