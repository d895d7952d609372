/*
 * attn/product.cu: rows of f32 times the transpose of a matrix of any type: the products of the host device.
 *
 * The host runs the native body (native/product.c); this one is its reference: one thread for each element of out, which
 * is a chain of fused multiply-adds over ATTN_PRODUCT_DEPTH elements, and then the next chain.
 */
#include "kernels.h"
#include "quant.cuh"

KVS_KERNEL(kvs_product_kernel, attn_product_params p)
{
	int n = blockIdx.x * p.cols, cols = min(p.cols, p.n - n), token = blockIdx.y * ATTN_PRODUCT_ROWS;
	int rows = min(ATTN_PRODUCT_ROWS, p.tokens - token);

	for (int i = threadIdx.x; i < rows * cols; i += blockDim.x) {
		size_t t = token + i / cols, column = n + i % cols;
		const float *x = (const float *)p.x + t * p.k;
		float *out = p.out + t * p.out_stride + column, total = p.accumulate ? *out : 0.0f;

		for (int first = 0; first < p.k; first += ATTN_PRODUCT_DEPTH) {
			float sum = 0;
			for (int c = first; c < min(first + ATTN_PRODUCT_DEPTH, p.k); c++)
				sum = fmaf(x[c], load_weight(p.w, column, c, p.k, p.dtype), sum);
			total += sum;
		}
		*out = total;
	}
}
