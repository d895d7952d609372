/*
 * attn/rope_append.cu: biases, Q and K norm, rotation, and the write of K and V into the cache, in one pass over qkv.
 *
 * A warp has one head of one token. Pair i of a head is (x[i], x[i + head_dim / 2]), as Hugging Face stores Llama weights.
 */
#include "element.cuh"
#include "kernels.h"

/* 1 / rms of the head, biases added; every lane gets it. */
__device__ inline float inverse_rms(const float *x, const float *bias, int head_dim, float eps)
{
	float squares = 0;

	for (int d = threadIdx.x % 32; d < head_dim; d += 32) {
		float value = x[d] + (bias ? bias[d] : 0.0f);
		squares += value * value;
	}
	return 1.0f / sqrtf(warp_sum(squares) / head_dim + eps);
}

/* Q (in place) or K (to the cache): bias, norm where there is a gain, rotation. */
__device__ inline void rotate_head(const struct kvs_rope_params &p, const float *x, const float *bias,
	const float *gain, const float *turns, void *to, size_t to_index, int to_dtype)
{
	int half = p.head_dim / 2;
	float scale = gain ? inverse_rms(x, bias, p.head_dim, p.eps) : 1.0f;

	for (int i = threadIdx.x % 32; i < half; i += 32) {
		float a = x[i] + (bias ? bias[i] : 0.0f), b = x[i + half] + (bias ? bias[i + half] : 0.0f);
		float cosine = turns[2 * i], sine = turns[2 * i + 1];
		if (gain) {
			a *= scale * gain[i];
			b *= scale * gain[i + half];
		}
		store_element(to, to_index + i, to_dtype, a * cosine - b * sine);
		store_element(to, to_index + i + half, to_dtype, b * cosine + a * sine);
	}
}

KVS_KERNEL(kvs_rope_append_kernel, struct kvs_rope_params p)
{
	int total = p.heads + 2 * p.kv_heads;
	int head = blockIdx.y * KVS_ROPE_WARPS + threadIdx.x / 32; /* of Q, then K, then V */
	size_t token = blockIdx.x, position = p.start + token;

	if (head >= total)
		return;
	size_t at = (token * total + head) * p.head_dim;
	float *x = p.qkv + at;
	const float *bias = p.bias ? p.bias + (size_t)head * p.head_dim : NULL;
	const float *turns = p.rope + position * p.head_dim;
	int kv_head = head - p.heads;

	if (kv_head < 0) {
		rotate_head(p, x, bias, p.q_gain, turns, p.qkv, at, KVS_F32);
		return;
	}
	if (kv_head < p.kv_heads) {
		if (p.k)
			rotate_head(p, x, bias, p.k_gain, turns, p.k, (position * p.kv_heads + kv_head) * p.head_dim,
				p.kv_dtype);
		return;
	}
	if (!p.v)
		return;
	size_t to = (position * p.kv_heads + kv_head - p.kv_heads) * p.head_dim;
	for (int d = threadIdx.x % 32; d < p.head_dim; d += 32)
		store_element(p.v, to + d, p.kv_dtype, x[d] + (bias ? bias[d] : 0.0f));
}
