/*
 * model/engine.h: what the engine's files share. Private to model/, as are all names that start with model_.
 */
#ifndef KVS_ENGINE_H
#define KVS_ENGINE_H

#include "convert.h"
#include "model.h"

/*
 * One decoder layer's weights on the device. T is the type of GEMM's operands, on the host that of each matrix; norms and
 * biases are f32.
 */
struct model_layer {
	kvs_tensor attn_norm;             /* f32 [1][hidden] */
	kvs_tensor qkv;                   /* T [(heads + 2 * kv_heads) * head_dim][hidden]: rows of Q, then K, then V */
	kvs_tensor qkv_bias;              /* f32 [1][(heads + 2 * kv_heads) * head_dim], or data 0 */
	kvs_tensor q_gain, k_gain;        /* f32 [1][head_dim], or data 0 */
	kvs_tensor o, o_bias;             /* T [hidden][heads * head_dim]; f32 [1][hidden] or data 0 */
	kvs_tensor ffn_norm;              /* f32 [1][hidden] */
	kvs_tensor gate_up, gate_up_bias; /* T [2 * ff][hidden], rows of gate, then up; f32 [1][2 * ff] or data 0 */
	kvs_tensor down, down_bias;       /* T [hidden][ff]; f32 [1][hidden] or data 0 */
};

struct model_file;

/* A quantised tensor that got other numbers, and the memory in which it is f32 while it has them. */
struct model_moved {
	CUdeviceptr data;
	kvs_tensor stored;
};

struct model_weights {
	CUdeviceptr memory; /* one allocation */
	size_t bytes;       /* of all weights, `mapped_bytes` of them in files (mapped.c) */
	size_t mapped_bytes;
	struct model_mapping *mapping; /* [mapping_count], of files with weights that stay there */
	int mapping_count;
	struct model_moved *moved; /* [moved_count] */
	int moved_count;
	struct model_layer *layers; /* [layers] */
	kvs_tensor embedding;       /* T [vocab][hidden] */
	kvs_tensor final_norm;      /* f32 [1][hidden] */
	kvs_tensor head;            /* T [vocab][hidden]; the embedding itself where tied */
};

/* A layer's map of its normed input, which is added behind attention where the layer takes both K and V of others (skip.c). */
struct model_skip {
	kvs_tensor a, b; /* T [rank][hidden], T [hidden][rank], in one allocation at a.data; 0: none */
	size_t bytes;
};

void model_weights_free(kvs_cu *cu, struct model_weights *weights);

/* A file of the checkpoint in the device's address space, for the host device (mapped.c). */
struct model_mapping {
	const struct model_file *file; /* whose it is, while weights are loaded */
	void *start;
	size_t bytes;
	CUdeviceptr device;
};
/*
 * Where the device finds `bytes` of the file from `start` on; the file is mapped at the first call. -ENOTSUP: it cannot be
 * mapped. -ENOMEM, -EIO.
 */
int model_map_weights(kvs_cu *cu, struct model_weights *weights, const struct model_file *file, uint64_t start,
	uint64_t bytes, CUdeviceptr *out);
void model_unmap_files(kvs_cu *cu, struct model_weights *weights);

/* cos and sin for kvs_rope_append, f32 [positions][head_dim]. The caller frees *out. -ENOMEM. */
int model_rope_table(const struct kvs_config *config, int positions, float **out);

#define MODEL_SCORE_ROWS 64 /* rows of logits at a time, if the caller does not say: [64][128 Ki] f32 is 32 MiB */

struct kvs_engine {
	kvs_cu *cu;
	struct kvs_config config;
	kvs_stream *stream;
	kvs_vmm *vmm;
	kvs_cache *cache;
	kvs_plan *plan;
	char *fingerprint; /* of the checkpoint, for kvs_engine_set_plan() */
	bool share_by_pointer;
	enum kvs_policy policy;
	void (*note)(void *arg, const struct kvs_engine_note *note); /* NULL: nobody listens */
	void *note_arg;
	struct model_weights weights;
	struct model_skip *skips; /* [layers]; NULL: none has one */
	int *lengths;             /* [slots] tokens in the cache */
	unsigned slots;
	int ctx_tokens, chunk_tokens, score_rows;
	int positions;               /* rows of `rope` */
	enum kvs_dtype dtype;        /* of GEMM's x */
	enum kvs_dtype weight_dtype; /* of its w; where mixed_weights, of random ones */
	bool mixed_weights;          /* a stored matrix keeps its type, whatever the others have */
	struct kvs_kv_format kv;     /* of the cache */

	CUdeviceptr memory; /* one allocation for all tensors that follow */
	size_t memory_bytes;
	kvs_tensor ids, targets, top; /* i32 [ctx][1]; [score_rows][1] twice */
	kvs_tensor residual;          /* f32 [chunk][hidden] */
	kvs_tensor finished;          /* f32 [chunk][hidden]: of a batch's earlier passes; without pass_tokens [0] */
	kvs_tensor normed;            /* T [chunk][hidden] */
	kvs_tensor qkv;               /* f32 [chunk][(heads + 2 * kv_heads) * head_dim] */
	kvs_tensor attended;          /* T [chunk][heads * head_dim] */
	kvs_tensor gate_up;           /* f32 [chunk][2 * ff] */
	kvs_tensor gated;             /* T [chunk][ff] */
	kvs_tensor hidden;            /* f32 [score_rows][hidden]: rows on their way to or from the host */
	kvs_tensor logits;            /* f32 [score_rows][vocab]; an append leaves its own in row 0 */
	kvs_tensor nll;               /* f32 [score_rows][1] */
	kvs_tensor rope;              /* f32 [positions][head_dim] */
	kvs_tensor workspace;         /* of attention */
	void *pinned; /* host side of copies, with room for a context of ids, a row of logits or a row of the residual */
	size_t pinned_bytes;

	/* State of batches (batch.c). */
	int sequences, sequence_tokens; /* of the last batch; 0 sequences: none */
	int pass_tokens;                /* of each sequence; 0: a batch is one pass */
	uint64_t generation;            /* of the last write or truncation */
	uint64_t *generations;          /* [ctx_tokens], of each token of slot 0; NULL without share_by_pointer */
};

static inline void model_note(const kvs_engine *e, struct kvs_engine_note note)
{
	if (e->note)
		e->note(e->note_arg, &note);
}
/* How much of the cache's blocks is asked for; after each change of that. */
void model_note_use(const kvs_engine *e);

/*
 * Allocate and fill e->weights with matrices of type e->weight_dtype. -ENOENT (a tensor is missing), -EINVAL (of another shape),
 * -ENOMEM, -EIO. On error nothing is held.
 */
int model_weights_load(kvs_engine *e, const kvs_checkpoint *ckpt,
	void (*progress)(void *arg, size_t done_bytes, size_t total_bytes), void *progress_arg);
/* Replaces one matrix, which has the checkpoint's name and shape; work in flight is waited for. -ENOENT, -EINVAL, -EIO. */
int model_weights_put(kvs_engine *e, const char *name, enum kvs_dtype dtype, int rows, int cols, const void *data);
/* The same with the checkpoint's own: a tensor that was quantised is so again. */
int model_weights_put_back(kvs_engine *e, const char *name, enum kvs_dtype dtype, int rows, int cols, const void *data);
/* The same with random matrices instead of a checkpoint's. */
int model_weights_random(kvs_engine *e);

/* moved.c. A quantised tensor from now on in f32, in memory of its own. -ENOMEM, -EIO. */
int model_move_to_f32(kvs_engine *e, kvs_tensor *tensor, const char *name);
/* As it was loaded again, all of it: of the parts of one, W_q alone is ever replaced. False: it was not quantised. */
bool model_move_back(const kvs_engine *e, kvs_tensor *tensor);

/* ---- skips (skip.c, skip_check.c) ---- */

/* Whether `name` is exactly one of a skip's. */
bool model_skip_parse(const char *name, int *layer, char *which);
/* -EINVAL: not of this model's shapes. */
int model_skip_check_shapes(
	const struct kvs_config *config, const struct kvs_patch_matrix *a, const struct kvs_patch_matrix *b);
/* Both matrices of a layer. -EINVAL: one is missing, or of another shape. */
int model_skip_find(const struct kvs_patch_matrix *matrices, size_t count, int layer, const struct kvs_config *config,
	struct kvs_patch_matrix *a, struct kvs_patch_matrix *b);
int model_patch_skip(const kvs_patch *patch, int layer, const struct kvs_config *config, struct kvs_patch_matrix *a,
	struct kvs_patch_matrix *b); /* the same, of a patch (patch.c) */
/* The parts of kvs_patch_check(), in its order: by the header alone, reading, and the numbers of what was read. */
int model_patch_check_shapes(const kvs_patch *patch, const kvs_plan *plan, const struct kvs_config *config);
int model_patch_read(kvs_patch *patch);
int model_patch_check_numbers(const kvs_patch *patch);
/* All skips of a patch. -EINVAL: as above, or of a layer that does not take both K and V of others. */
int model_skip_check(
	const struct kvs_patch_matrix *matrices, size_t count, const kvs_plan *plan, const struct kvs_config *config);
/* In place of the layer's present one, which stays on failure. Waits. -EINVAL (shapes, the policy `last`), -ENOMEM, -EIO, -ERANGE. */
int model_skip_put(kvs_engine *e, int layer, const struct kvs_patch_matrix *a, const struct kvs_patch_matrix *b);
int model_skip_put_patch(kvs_engine *e, const kvs_patch *patch, int layer);
int model_skip_remove(kvs_engine *e, int layer);
void model_skips_free(kvs_engine *e);
/* residual += b (a e->normed), if the layer has a skip. Between attention and the MLP, whose buffers it uses. */
int model_skip_add(kvs_engine *e, int layer, kvs_tensor residual);

static inline kvs_tensor model_rows(kvs_tensor tensor, int first, int count)
{
	tensor.data += first * kvs_row_bytes(tensor.dtype, tensor.cols);
	tensor.rows = count;
	return tensor;
}

/*
 * One pass (forward.c): `sequences` sequences of `tokens` tokens each, whose rows are side by side in e->residual, and
 * which start `stride` tokens apart in the slot. With `from`, the layers from there on are run, on that residual; an
 * earlier pass has left K and V of the layers below in the slot. More than one sequence, `first` and `from` need
 * share_by_pointer.
 */
struct model_pass {
	unsigned slot; /* where K and V are written */
	int first;     /* token of the slot at which the first sequence starts */
	int sequences, tokens, stride;
	int start; /* position of the first row of each sequence; the tokens before it are in the slot */
	const struct kvs_residual *from; /* NULL: from layer 0 on, on e->residual */
	const struct kvs_residual *keep; /* [keep_count], layers ascending, all above the first that is run */
	int keep_count;
};
/*
 * The four parts of a layer: the heads' output, which stays in e->attended (the rotated queries in e->qkv); W_o, added to
 * `residual`; the gated activations, which stay in e->gated; W_down, added to `residual`.
 */
int model_run_heads(kvs_engine *e, int layer, const struct model_pass *pass, kvs_tensor residual);
int model_add_heads(kvs_engine *e, int layer, kvs_tensor residual);
int model_run_gate(kvs_engine *e, int layer, kvs_tensor residual);
int model_add_gated(kvs_engine *e, int layer, kvs_tensor residual);
int model_run_layers(kvs_engine *e, const struct model_pass *pass);
/* The logits of rows of the residual, into the first rows of e->logits. */
int model_run_head(kvs_engine *e, kvs_tensor residual);

/* Shared by batches and timelines (engine.c). Download waits; upload waits for the work enqueued before it. */
int model_check_ids(const kvs_engine *e, const int32_t *ids, size_t count, const char *what);
int model_upload_ids(kvs_engine *e, kvs_tensor to, const int32_t *ids, size_t count);
int model_download(kvs_engine *e, void *out, kvs_tensor from);
/* Starts a generation and gives it to these tokens; only those of slot 0 are recorded. */
void model_stamp(kvs_engine *e, unsigned slot, int first, int tokens);
/* Scores rows first .. first + count - 1 of the residual, at most e->score_rows. */
int model_score_rows(kvs_engine *e, int first, int count, const int32_t *targets, float *nll, int32_t *top);

#endif
