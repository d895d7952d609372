/*
 * attn/format.h: the types of elements, and how K and V lie in memory.
 *
 * K of one layer and one sequence is a row for each token, `[kv_head][head_dim]`; V the same. The size of a row in
 * bytes is known only here: a format whose elements carry scales adds them to its rows, and callers that ask for
 * strides need not change.
 */
#ifndef KVS_ATTN_FORMAT_H
#define KVS_ATTN_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * From KVS_Q8_0 on: GGUF's quantised types, of weights alone. Their numbers lie in blocks, with a scale each; a row is whole
 * blocks, as ggml-quants.c defines them.
 */
enum kvs_dtype {
	KVS_F32,
	KVS_F16,
	KVS_BF16,
	KVS_I32,
	KVS_Q8_0,
	KVS_Q4_0,
	KVS_Q4_1,
	KVS_Q5_0,
	KVS_Q5_1,
	KVS_IQ4_NL,
	KVS_Q4_K,
	KVS_Q5_K,
	KVS_Q6_K,
};

static inline bool kvs_dtype_quantised(enum kvs_dtype dtype)
{
	return dtype >= KVS_Q8_0;
}

size_t kvs_dtype_bytes(enum kvs_dtype dtype);                /* of an element; not of a quantised type */
size_t kvs_row_bytes(enum kvs_dtype dtype, size_t elements); /* of a row of any type */
const char *kvs_dtype_name(enum kvs_dtype dtype);            /* "f32", "f16", "bf16", "i32", "q8_0" */
/* From "f32", "f16", "bf16" and the names that Hugging Face uses ("float32", "torch.bfloat16", "BF16"). -EINVAL. */
int kvs_dtype_parse(const char *name, enum kvs_dtype *out);

struct kvs_kv_format {
	enum kvs_dtype dtype; /* a float type */
	int kv_heads, head_dim;
};

size_t kvs_kv_elements(struct kvs_kv_format format);    /* numbers in K, or in V, of one token in one layer */
size_t kvs_kv_head_bytes(struct kvs_kv_format format);  /* from one KV head of a token to the next */
size_t kvs_kv_token_bytes(struct kvs_kv_format format); /* from one token to the next */

#ifdef __cplusplus
}
#endif
#endif
