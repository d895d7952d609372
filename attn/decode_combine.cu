/*
 * attn/decode_combine.cu: combines the splits of a decode step: each split's sum is relative to the largest score that
 * it saw, so it is rescaled to the largest of all.
 */
#include "element.cuh"
#include "kernels.h"

/* out[head] = Σ 2^(m_s - m) sum_s / Σ 2^(m_s - m) total_s; one block per head. */
KVS_KERNEL(kvs_attention_combine, struct attn_attention_params p, int head_dim)
{
	const float *parts = p.parts + (size_t)blockIdx.x * p.splits * (head_dim + 2);
	float largest = -INFINITY, total = 0;

	for (int s = 0; s < p.splits; s++)
		largest = fmaxf(largest, parts[s * (head_dim + 2) + head_dim]);
	for (int s = 0; s < p.splits; s++) {
		const float *part = parts + s * (head_dim + 2);
		total += exp2f(part[head_dim] - largest) * part[head_dim + 1];
	}
	for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
		float sum = 0;
		for (int s = 0; s < p.splits; s++) {
			const float *part = parts + s * (head_dim + 2);
			sum += exp2f(part[head_dim] - largest) * part[d];
		}
		store_element(p.out, (size_t)blockIdx.x * head_dim + d, p.out_dtype, sum / total);
	}
}
