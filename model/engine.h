/*
 * model/engine.h: what the engine's files share. Private to model/.
 */
#ifndef KVS_ENGINE_H
#define KVS_ENGINE_H

#include "model.h"

/* One decoder layer's weights on the device. T is the type that GEMM takes; norms and biases are f32. */
struct kvs_layer {
	kvs_tensor attn_norm;             /* f32 [1][hidden] */
	kvs_tensor qkv;                   /* T [(heads + 2 * kv_heads) * head_dim][hidden]: rows of Q, then K, then V */
	kvs_tensor qkv_bias;              /* f32 [1][(heads + 2 * kv_heads) * head_dim], or data 0 */
	kvs_tensor q_gain, k_gain;        /* f32 [1][head_dim], or data 0 */
	kvs_tensor o, o_bias;             /* T [hidden][heads * head_dim]; f32 [1][hidden] or data 0 */
	kvs_tensor ffn_norm;              /* f32 [1][hidden] */
	kvs_tensor gate_up, gate_up_bias; /* T [2 * ff][hidden], rows of gate, then up; f32 [1][2 * ff] or data 0 */
	kvs_tensor down, down_bias;       /* T [hidden][ff]; f32 [1][hidden] or data 0 */
};

struct kvs_weights {
	CUdeviceptr memory; /* one allocation */
	size_t bytes;
	struct kvs_layer *layers; /* [layers] */
	kvs_tensor embedding;     /* T [vocab][hidden] */
	kvs_tensor final_norm;    /* f32 [1][hidden] */
	kvs_tensor head;          /* T [vocab][hidden]; the embedding itself where tied */
};

/*
 * Allocate and fill the weights with matrices of type `dtype`. -ENOENT (a tensor is missing), -EINVAL (of another shape),
 * -ENOMEM, -EIO. On error nothing is held.
 */
int kvs_weights_load(kvs_cu *cu, const kvs_checkpoint *ckpt, enum kvs_dtype dtype,
	void (*progress)(void *arg, size_t done_bytes, size_t total_bytes), void *progress_arg,
	struct kvs_weights *out);
void kvs_weights_free(kvs_cu *cu, struct kvs_weights *weights);

/* cos and sin, f32 [positions][head_dim] as kvs_rope_append takes them. The caller frees *out. -ENOMEM. */
int kvs_rope_table(const struct kvs_config *config, int positions, float **out);

#endif
