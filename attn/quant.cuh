/*
 * attn/quant.cuh: one weight of any type, for kernels that read GGUF's quantised types: product.cu and the embedding.
 *
 * The reference of native/quant.h, a weight at a time. GPUs get no quantised weights.
 */
#ifndef KVS_ATTN_QUANT_CUH
#define KVS_ATTN_QUANT_CUH

#include "element.cuh"
#include "kernels.h"

__device__ inline float quant_half(const unsigned char *at)
{
	return __half2float(*(const __half *)at);
}

/* In types with blocks of 32: number i of `block`. */
__device__ inline float load_from_32(const unsigned char *block, int i, int dtype)
{
	const signed char values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
	const unsigned char *quants = block + attn_block_bytes(dtype) - 16;
	float d = quant_half(block);
	int q = quants[i % 16] >> (i / 16 * 4) & 15;

	switch (dtype) {
	case KVS_Q8_0:
		return d * (float)(signed char)block[2 + i];
	case KVS_Q4_0:
		return d * (float)(q - 8);
	case KVS_Q4_1:
		return d * (float)q + quant_half(block + 2);
	case KVS_Q5_0:
		return d * (float)((q | (block[2 + i / 8] >> i % 8 & 1) << 4) - 16);
	case KVS_Q5_1:
		return d * (float)(q | (block[4 + i / 8] >> i % 8 & 1) << 4) + quant_half(block + 2);
	default:
		return d * (float)values[q];
	}
}

/* The scale and the minimum of a part of Q4_K and Q5_K: as unpack_scales() in model/gguf_types.c. */
__device__ inline int quant_scale(const unsigned char *packed, int part)
{
	return part < 4 ? packed[part] & 63 : (packed[part + 4] & 15) | (packed[part - 4] >> 2 & 48);
}

__device__ inline int quant_min(const unsigned char *packed, int part)
{
	return part < 4 ? packed[part + 4] & 63 : packed[part + 4] >> 4 | (packed[part] >> 2 & 48);
}

/* The same with blocks of 256. */
__device__ inline float load_from_256(const unsigned char *block, int i, int dtype)
{
	int part = i / 32, j = i % 32, q;

	if (dtype == KVS_Q6_K) {
		q = block[part / 4 * 64 + part % 2 * 32 + j] >> (part % 4 / 2 * 4) & 15;
		q |= (block[128 + part / 4 * 32 + j] >> (2 * (part % 4)) & 3) << 4;
		return quant_half(block + 208) * (float)(signed char)block[192 + i / 16] * (float)(q - 32);
	}
	q = block[(dtype == KVS_Q5_K ? 48 : 16) + part / 2 * 32 + j] >> (part % 2 * 4) & 15;
	if (dtype == KVS_Q5_K)
		q |= (block[16 + j] >> part & 1) << 4;
	float least = quant_half(block + 2) * (float)quant_min(block + 4, part);
	return quant_half(block) * (float)quant_scale(block + 4, part) * (float)q - least;
}

/* Number `col` of a row of `cols`. */
__device__ inline float load_weight(const void *data, size_t row, int col, int cols, int dtype)
{
	if (dtype < KVS_Q8_0)
		return load_element(data, row * cols + col, dtype);
	int elements = attn_block_elements(dtype);
	const unsigned char *from = (const unsigned char *)data + row * attn_row_bytes(dtype, cols);
	const unsigned char *block = from + col / elements * attn_block_bytes(dtype);
	return elements == 32 ? load_from_32(block, col % 32, dtype) : load_from_256(block, col % 256, dtype);
}

#endif
