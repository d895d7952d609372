/*
 * attn/rope_append.cu: biases, Q and K norm, rotation, and the write of K and V into the cache, in one pass over qkv.
 *
 * A warp handles one head of one token. Pair i of a head is (x[i], x[i + head_dim / 2]), as Hugging Face stores Llama
 * weights.
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

/* Two elements from an even index on, of any type. */
__device__ inline void store_pair(void *data, int index, int dtype, float first, float second)
{
	if (dtype == KVS_F32)
		*(float2 *)((float *)data + index) = make_float2(first, second);
	else if (dtype == KVS_F16)
		*(unsigned *)((__half *)data + index) = pack_pair(first, second, (const __half *)NULL);
	else
		*(unsigned *)((__nv_bfloat16 *)data + index) = pack_pair(first, second, (const __nv_bfloat16 *)NULL);
}

/* x[at] and x[at + 1], biased. */
__device__ inline float2 load_biased(const float *x, const float *bias, int at)
{
	float2 two = *(const float2 *)(x + at);

	if (bias) {
		two.x += bias[at];
		two.y += bias[at + 1];
	}
	return two;
}

/*
 * Q (in place) or K (to the cache): bias, norm where there is a gain, rotation. A lane takes two adjacent pairs, so
 * that a head of 128 takes one iteration.
 */
__device__ inline void rotate_head(const struct attn_rope_params &p, const float *x, const float *bias,
	const float *gain, const float *turns, void *to, int to_dtype)
{
	int half = p.head_dim / 2;
	float scale = gain ? inverse_rms(x, bias, p.head_dim, p.eps) : 1.0f;

	for (int i = threadIdx.x % 32 * 2; i < half; i += 64) {
		float2 a = load_biased(x, bias, i), b = load_biased(x, bias, i + half);
		float4 turn = *(const float4 *)(turns + 2 * i); /* cos, sin of pair i, cos, sin of pair i + 1 */
		if (gain) {
			a.x *= scale * gain[i];
			a.y *= scale * gain[i + 1];
			b.x *= scale * gain[i + half];
			b.y *= scale * gain[i + half + 1];
		}
		store_pair(to, i, to_dtype, a.x * turn.x - b.x * turn.y, a.y * turn.z - b.y * turn.w);
		store_pair(to, i + half, to_dtype, b.x * turn.x + a.x * turn.y, b.y * turn.z + a.y * turn.w);
	}
}

KVS_KERNEL(kvs_rope_append_kernel, struct attn_rope_params p)
{
	int total = p.heads + 2 * p.kv_heads;
	int head = blockIdx.y * ATTN_ROPE_WARPS + threadIdx.x / 32; /* of Q, then K, then V */
	size_t token = blockIdx.x, position = p.start + token;

	if (head >= total)
		return;
	float *x = p.qkv + (token * total + head) * p.head_dim;
	const float *bias = p.bias ? p.bias + (size_t)head * p.head_dim : NULL;
	const float *turns = p.rope + position * p.head_dim;
	int kv_head = head - p.heads;

	if (kv_head < 0) {
		rotate_head(p, x, bias, p.q_gain, turns, x, KVS_F32);
		return;
	}
	if (kv_head < p.kv_heads) {
		if (p.k)
			rotate_head(p, x, bias, p.k_gain, turns,
				p.k + position * p.token_bytes + kv_head * p.head_bytes, p.kv_dtype);
		return;
	}
	if (!p.v)
		return;
	char *to = p.v + position * p.token_bytes + (kv_head - p.kv_heads) * p.head_bytes;
	for (int d = threadIdx.x % 32 * 2; d < p.head_dim; d += 64) {
		float2 two = load_biased(x, bias, d);
		store_pair(to, d, p.kv_dtype, two.x, two.y);
	}
}
