/*
 * attn/kernels.h: what launchers and kernels must agree on: arguments and tile sizes. Private to attn/.
 *
 * Launchers compute tile sizes at run time and the kernels' templates at compile time, so those that depend on a head's
 * size are functions that are constant expressions in C++. A kernel's own name keeps kvs_: profilers show it.
 */
#ifndef KVS_ATTN_KERNELS_H
#define KVS_ATTN_KERNELS_H

#include "attn.h"

#ifdef __cplusplus
#define ATTN_CONSTANT __host__ __device__ constexpr
#else
#define ATTN_CONSTANT static inline
#endif

/* Elements and bytes of a block of a type; of those that are not quantised, of an element. */
ATTN_CONSTANT size_t attn_block_elements(int dtype)
{
	return dtype < KVS_Q8_0 ? 1 : dtype < KVS_Q4_K ? 32 : 256;
}

ATTN_CONSTANT size_t attn_block_bytes(int dtype)
{
	switch (dtype) {
	case KVS_F16:
	case KVS_BF16:
		return 2;
	case KVS_Q8_0:
		return 34;
	case KVS_Q4_0:
	case KVS_IQ4_NL:
		return 18;
	case KVS_Q4_1:
		return 20;
	case KVS_Q5_0:
		return 22;
	case KVS_Q5_1:
		return 24;
	case KVS_Q4_K:
		return 144;
	case KVS_Q5_K:
		return 176;
	case KVS_Q6_K:
		return 210;
	default:
		return 4;
	}
}

ATTN_CONSTANT size_t attn_row_bytes(int dtype, size_t elements)
{
	return elements / attn_block_elements(dtype) * attn_block_bytes(dtype);
}

#define ATTN_ROW_THREADS_MAX 512     /* of a kernel with one block per row */
#define ATTN_ROW_TURNS 4             /* elements that a thread loads before it stores the first */
#define ATTN_ARGMAX_THREADS_MAX 1024 /* a vocabulary is a long row; no sum depends on the number of threads */

struct attn_rope_params {
	float *qkv;                  /* [tokens][(heads + 2 * kv_heads) * head_dim] */
	const float *bias;           /* [(heads + 2 * kv_heads) * head_dim] or NULL */
	const float *q_gain;         /* [head_dim] or NULL */
	const float *k_gain;         /* [head_dim] or NULL */
	const float *rope;           /* [positions][head_dim] */
	char *k, *v;                 /* [token][kv_heads][head_dim] of kv_dtype; NULL: borrowed */
	int token_bytes, head_bytes; /* of K, and of V: from one token, and one head, to the next */
	int kv_dtype, heads, kv_heads, head_dim, start;
	float eps;
};
#define ATTN_ROPE_WARPS 4 /* heads that a block of kvs_rope_append serves, a warp each */

struct attn_attention_params {
	const float *q; /* [tokens][q_stride], the heads' dims first */
	const void *k;  /* [token][kv_heads][head_dim] of the kernel's type */
	const void *v;  /* the same */
	void *out;      /* [tokens][heads * head_dim] of out_dtype */
	float *parts; /* decode: [heads][splits][head_dim + 2]: weighted sum of V, then largest score, sum of weights */
	int out_dtype, q_stride, heads, kv_heads;
	int tokens, start, window;
	int token_bytes, head_bytes; /* of K, and of V: from one token, and one head, to the next */
	int splits, tiles_per_split; /* decode */
	int stages;                  /* decode with mma: of each warp's ring, 2 or 3 */
	unsigned *arrived;           /* the same: [kv_heads * groups] blocks that have finished, 0 between launches */
	float scale_log2;            /* scale * log2(e): weights are powers of two */
};

struct attn_gemv_params {
	float *out;    /* [n] */
	const void *x; /* [k] of the kernel's type */
	const void *w; /* [n][k] of the same */
	int n, k;      /* a row of w is a multiple of 16 bytes */
	int accumulate;
};
#define ATTN_GEMV_THREADS 128
#define ATTN_GEMV_ROWS 2 /* of w, that a warp holds */

struct attn_product_params {
	float *out;    /* [tokens][out_stride], of which n columns */
	const void *x; /* f32 [tokens][k] */
	const void *w; /* [n][k] of dtype, of any that weights have */
	int tokens, n, k, out_stride;
	int cols; /* of out, that a block computes */
	int dtype, accumulate;
};
#define ATTN_PRODUCT_THREADS 128
#define ATTN_PRODUCT_FEW 4     /* tokens at most, where each row of w is read once and never stored */
#define ATTN_PRODUCT_ROWS 256  /* tokens of a block: x beside a panel of w stays in a core's second cache */
#define ATTN_PRODUCT_DEPTH 256 /* of a panel: 16 KiB of f32, half of a first cache */

/* In shared memory a row of a tile is followed by 16 unused bytes, so that eight 16-byte reads hit all banks once. */
ATTN_CONSTANT int attn_tile_stride(int row_bytes)
{
	return row_bytes + 16;
}

/*
 * Decode: a block serves up to ATTN_DECODE_GROUP query heads of one KV head. A tile of keys is 4 to 16 KiB of K: small
 * enough for two of K and two of V beside each other on every GPU, large enough to hide the barriers.
 */
#define ATTN_DECODE_THREADS 128
#define ATTN_DECODE_GROUP 8
ATTN_CONSTANT int attn_decode_keys(int row_bytes)
{
	return row_bytes >= 512 ? 16 : row_bytes >= 256 ? 32 : 64;
}
#define ATTN_DECODE_MIN_TILES 4 /* of a split: fewer do not pay for the combine */

/*
 * Decode with mma: a warp's ring has stages of 16 keys' K and V. With the sums and a fragment of Q in registers a lane can
 * hold head_dim 128; of 256 two warps fill the shared memory that four do of 128.
 */
#define ATTN_STEP_KEYS 16
ATTN_CONSTANT int attn_step_warps(int head_dim)
{
	return head_dim > 128 ? 2 : 4;
}
#define ATTN_STEP_MIN 4 /* steps of a split: one for each warp */

/* Prefill with mma: four warps of 16 query rows. Accumulators of head_dim 256 leave registers for 32 keys only. */
#define ATTN_MMA_THREADS 128
#define ATTN_MMA_ROWS 64
ATTN_CONSTANT int attn_mma_keys(int head_dim)
{
	return head_dim > 128 ? 32 : 64;
}

/* Prefill in f32: as many query rows as fit beside K, V and the weights in 96 KiB. */
#define ATTN_FMA_THREADS 128
ATTN_CONSTANT int attn_fma_rows(int head_dim)
{
	return head_dim > 128 ? 16 : 32;
}
#define ATTN_FMA_KEYS 32
#define ATTN_FMA_WEIGHT_STRIDE (ATTN_FMA_KEYS + 4) /* the four rows of a warp fall on banks of their own */

#endif
