/*
 * attn/checksum.cu: the sum of a range of memory, read once and as fast as the device can: the yardstick for other
 * reads.
 *
 * Sums of integers are the same in any order, so blocks may add theirs as they end.
 */
#include "element.cuh"
#include "kernels.h"

#define LOADS 4 /* of 16 bytes that a thread has in flight */

__device__ inline unsigned sum_of_words(uint4 four)
{
	return four.x + four.y + four.z + four.w;
}

/* *sum += the 32-bit words of from[count], modulo 2^32 */
KVS_KERNEL(kvs_checksum_kernel, unsigned *sum, const uint4 *from, size_t count)
{
	size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	unsigned mine = 0;

	for (; i + (LOADS - 1) * step < count; i += LOADS * step) {
		uint4 loaded[LOADS];
#pragma unroll
		for (int load = 0; load < LOADS; load++)
			loaded[load] = from[i + load * step];
#pragma unroll
		for (int load = 0; load < LOADS; load++)
			mine += sum_of_words(loaded[load]);
	}
	for (; i < count; i += step)
		mine += sum_of_words(from[i]);
	for (int distance = 16; distance > 0; distance /= 2)
		mine += __shfl_xor_sync(0xffffffffu, mine, distance);
	if (threadIdx.x % 32 == 0)
		atomicAdd(sum, mine);
}
