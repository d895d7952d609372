/*
 * attn/native/rope_append.c: the native body of rope_append.cu: a block has ATTN_ROPE_WARPS heads of one token.
 */
#include "native.h"

#define MOST_DIMS 256 /* of a head, that the launcher takes */

/* x + bias, with head_dim elements. */
INLINE void biased(float *to, const float *x, const float *bias, int head_dim)
{
	for (int d = 0; d < head_dim; d++)
		to[d] = bias ? x[d] + bias[d] : x[d];
}

INLINE float inverse_rms(const float *x, int head_dim, float eps)
{
	floats sum[PIECES] = {0}, lanes[PIECES];

	for (int d = 0; d < head_dim; d += LANES) {
		load_lanes(lanes, x, d, head_dim, KVS_F32);
		for (int j = 0; j < PIECES; j++)
			sum[j] += lanes[j] * lanes[j];
	}
	return 1.0f / sqrtf(fold(sum) / head_dim + eps);
}

/* Q (in place) or K (to the cache): norm where there is a gain, rotation. */
INLINE void rotate(
	const struct attn_rope_params *p, float *x, const float *gain, const float *turns, void *to, int dtype)
{
	int half = p->head_dim / 2;
	float scale = gain ? inverse_rms(x, p->head_dim, p->eps) : 1.0f;

	for (int d = 0; d < p->head_dim && gain; d++)
		x[d] *= scale * gain[d];
	for (int i = 0; i < half; i++) {
		float a = x[i], b = x[i + half], cosine = turns[2 * i], sine = turns[2 * i + 1];

		store_element(to, i, dtype, a * cosine - b * sine);
		store_element(to, i + half, dtype, b * cosine + a * sine);
	}
}

static void one_head(const struct attn_rope_params *p, size_t token, int head)
{
	int total = p->heads + 2 * p->kv_heads, kv_head = head - p->heads;
	float *x = p->qkv + (token * total + head) * p->head_dim, copy[MOST_DIMS];
	size_t position = p->start + token;
	const float *turns = p->rope + position * p->head_dim;
	const float *bias = p->bias ? p->bias + (size_t)head * p->head_dim : NULL;
	char *to = kv_head < p->kv_heads ? p->k : p->v;

	if (kv_head >= 0 && !to)
		return;
	biased(copy, x, bias, p->head_dim);
	if (kv_head < 0) {
		rotate(p, copy, p->q_gain, turns, x, KVS_F32);
		return;
	}
	to += position * p->token_bytes + (kv_head % p->kv_heads) * p->head_bytes;
	if (kv_head < p->kv_heads) {
		rotate(p, copy, p->k_gain, turns, to, p->kv_dtype);
		return;
	}
	for (int d = 0; d < p->head_dim; d++)
		store_element(to, d, p->kv_dtype, copy[d]);
}

static void rope_append(const struct simt_launch *launch, struct simt_dim3 at)
{
	const struct attn_rope_params *p = launch->params[0];

	for (int i = 0; i < ATTN_ROPE_WARPS; i++) {
		int head = at.y * ATTN_ROPE_WARPS + i;

		if (head < p->heads + 2 * p->kv_heads)
			one_head(p, at.x, head);
	}
}

const struct simt_native NATIVE(rope_append)[] = {{"kvs_rope_append_kernel", rope_append}, {NULL, NULL}};
