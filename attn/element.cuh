/*
 * attn/element.cuh: the float types of tensors as kernels see them, and sums over a block.
 *
 * All arithmetic is in f32; memory is accessed in 16-byte pieces where it matters. Data that is read or written once
 * per element has its type as an argument (`enum kvs_dtype`), so that a kernel need not exist once for each type.
 */
#ifndef KVS_ATTN_ELEMENT_CUH
#define KVS_ATTN_ELEMENT_CUH

#include "../driver/simt/simt.h"
#include "attn.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float load_element(const void *data, size_t index, int dtype)
{
	if (dtype == KVS_F32)
		return ((const float *)data)[index];
	if (dtype == KVS_F16)
		return __half2float(((const __half *)data)[index]);
	return __bfloat162float(((const __nv_bfloat16 *)data)[index]);
}

__device__ inline void store_element(void *data, size_t index, int dtype, float value)
{
	if (dtype == KVS_F32)
		((float *)data)[index] = value;
	else if (dtype == KVS_F16)
		((__half *)data)[index] = __float2half_rn(value);
	else
		((__nv_bfloat16 *)data)[index] = __float2bfloat16_rn(value);
}

/* 16 bytes of elements, as floats. */
__device__ inline void unpack(const float *from, float (&to)[4])
{
	float4 four = *(const float4 *)from;
	to[0] = four.x;
	to[1] = four.y;
	to[2] = four.z;
	to[3] = four.w;
}

__device__ inline void unpack_pair(unsigned two, float *to, const __half *)
{
	__half2_raw pair;
	pair.x = two & 0xffff;
	pair.y = two >> 16;
	float2 floats = __half22float2(pair);
	to[0] = floats.x;
	to[1] = floats.y;
}

__device__ inline void unpack_pair(unsigned two, float *to, const __nv_bfloat16 *)
{
	to[0] = __uint_as_float(two << 16); /* a bf16 is the upper half of a float */
	to[1] = __uint_as_float(two & 0xffff0000u);
}

template <typename T>
__device__ inline void unpack(const T *from, float (&to)[8])
{
	uint4 eight = *(const uint4 *)from;
	unpack_pair(eight.x, to, from);
	unpack_pair(eight.y, to + 2, from);
	unpack_pair(eight.z, to + 4, from);
	unpack_pair(eight.w, to + 6, from);
}

/* Two floats rounded to T, the first in the lower half: a register of an mma operand. */
__device__ inline unsigned pack_pair(float first, float second, const __half *)
{
	__half2 pair = __floats2half2_rn(first, second);
	unsigned two;
	memcpy(&two, &pair, sizeof(two));
	return two;
}

__device__ inline unsigned pack_pair(float first, float second, const __nv_bfloat16 *)
{
	__nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
	unsigned two;
	memcpy(&two, &pair, sizeof(two));
	return two;
}

/* 2^x: on a GPU to 2 ulp, results below the normal range are 0. */
__device__ inline float fast_exp2(float x)
{
#ifdef __CUDACC__
	float power;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
	return power;
#else
	return exp2f(x);
#endif
}

__device__ inline float warp_sum(float value)
{
	for (int distance = 16; distance > 0; distance /= 2)
		value += __shfl_xor_sync(0xffffffffu, value, distance);
	return value;
}

__device__ inline float warp_max(float value)
{
	for (int distance = 16; distance > 0; distance /= 2)
		value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
	return value;
}

/*
 * take(c, from[c]) for the thread's columns of a row in turn: `first` and every blockDim.x-th after it. BATCH of them
 * are loaded before the first is taken: compilers do not move loads from one iteration into another.
 */
template <int BATCH, typename Take>
__device__ inline void for_each_column(const float *__restrict__ from, int first, int cols, Take take)
{
	int step = blockDim.x, c = first;

	for (; c + (BATCH - 1) * step < cols; c += BATCH * step) {
		float loaded[BATCH];
#pragma unroll
		for (int i = 0; i < BATCH; i++)
			loaded[i] = from[c + i * step];
#pragma unroll
		for (int i = 0; i < BATCH; i++)
			take(c + i * step, loaded[i]);
	}
	for (; c < cols; c += step)
		take(c, from[c]);
}

/* Over a block of whole warps; `scratch` holds a float for each warp. Every thread gets the result. */
__device__ inline float block_sum(float value, float *scratch)
{
	int warps = blockDim.x / 32;

	value = warp_sum(value);
	if (warps == 1)
		return value;
	__syncthreads(); /* the last use of scratch is over */
	if (threadIdx.x % 32 == 0)
		scratch[threadIdx.x / 32] = value;
	__syncthreads();
	value = 0;
	for (int warp = 0; warp < warps; warp++)
		value += scratch[warp];
	return value;
}

__device__ inline float block_max(float value, float *scratch)
{
	int warps = blockDim.x / 32;

	value = warp_max(value);
	if (warps == 1)
		return value;
	__syncthreads();
	if (threadIdx.x % 32 == 0)
		scratch[threadIdx.x / 32] = value;
	__syncthreads();
	for (int warp = 0; warp < warps; warp++)
		value = fmaxf(value, scratch[warp]);
	return value;
}

#endif
