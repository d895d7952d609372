/*
 * model/model.h: from a Hugging Face directory to tokens.
 *
 * A kvs_checkpoint is the open directory (config and weights). A kvs_tokenizer turns text into ids and back. A kvs_engine
 * holds the weights on a device, with a KV cache that layers share according to a plan, and runs them. It owns the cache
 * and one timeline of tokens for each slot; a caller appends tokens and reads logits.
 */
#ifndef KVS_MODEL_H
#define KVS_MODEL_H

#include "../attn/attn.h"
#include "../vmm/kvshare.h"

#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- checkpoint ---- */

#define KVS_MAX_LAYERS KVS_PLAN_MAX_LAYERS

enum kvs_rope_type { KVS_ROPE_DEFAULT, KVS_ROPE_LINEAR, KVS_ROPE_DYNAMIC, KVS_ROPE_YARN, KVS_ROPE_LLAMA3 };

struct kvs_config {
	char model_type[32]; /* llama, mistral, qwen2, qwen3 */
	int layers, hidden, ff, heads, kv_heads, head_dim, vocab, max_positions;
	float rms_eps;
	bool qkv_bias, qk_norm, o_bias, mlp_bias, tied_embeddings;
	int *window;          /* [layers]: sliding window in tokens, 0: none */
	enum kvs_dtype dtype; /* of the weights */
	struct {
		enum kvs_rope_type type;
		double theta, factor;
		double low_freq_factor, high_freq_factor;      /* llama3 */
		double beta_fast, beta_slow, attention_factor; /* yarn; attention_factor 0: derived */
		double mscale, mscale_all_dim;
		bool truncate;
		int original_positions;
	} rope;
	int bos;               /* -1: none */
	int eos[8], eos_count; /* generation_config.json's, else config.json's */
	char ignored[128];     /* the bos_token_id or eos_token_id that was left out, and why; "": none */
};

typedef struct kvs_checkpoint kvs_checkpoint;

/* One stored tensor. */
struct kvs_weight {
	uint64_t offset; /* of its first byte in its file */
	enum kvs_dtype dtype;
	int rank;
	int64_t shape[4];
	size_t bytes;          /* as kvs_checkpoint_read() gives them */
	bool widened;          /* stored in another type (GGUF), and read as f32 */
	enum kvs_dtype stored; /* that type */
};

/*
 * Open a directory as Hugging Face has it, or a GGUF file (of several parts: the first).
 *
 * Of a directory, read config.json, generation_config.json if present, and the headers of model.safetensors or of every shard that
 * model.safetensors.index.json names; the files stay open. Everything in them is checked. The message names file and
 * field; for a `dir` that is something else (a cache's top folder, a file, a name on the Hub) it says what to give
 * instead. -ENOENT (a file is missing), -EINVAL (damaged or not supported), -ENOMEM, -EIO.
 */
int kvs_checkpoint_open(const char *dir, kvs_checkpoint **out);
void kvs_checkpoint_close(kvs_checkpoint *ckpt);
const struct kvs_config *kvs_checkpoint_config(const kvs_checkpoint *ckpt);
/*
 * A tensor by its name in a causal language model of transformers ("model.layers.0.mlp.up_proj.weight"), even if it is
 * stored under another (a base model's, without "model."). -ENOENT with the tensor's name.
 */
int kvs_checkpoint_weight(const kvs_checkpoint *ckpt, const char *name, struct kvs_weight *out);
/*
 * Bytes first .. first + bytes - 1 of a tensor. -ENOENT, -EINVAL (it has fewer), -EIO (also: the file has become
 * shorter).
 */
int kvs_checkpoint_read(const kvs_checkpoint *ckpt, const char *name, size_t first, void *out, size_t bytes);
/*
 * Rows first_row .. first_row + rows - 1 of a matrix as they are stored (`stored`), kvs_row_bytes() each. -ENOENT, -EINVAL, -EIO.
 */
int kvs_checkpoint_read_rows(const kvs_checkpoint *ckpt, const char *name, int64_t first_row, int64_t rows, void *out);
/* All of a tensor of `count` numbers, as f32. -EINVAL (it has another number of them), or the errors above. */
int kvs_checkpoint_read_f32(const kvs_checkpoint *ckpt, const char *name, size_t count, float *out);
/*
 * Warnings about a checkpoint that can be run: stored tensors that are not used, a stored head that is used although
 * config.json says that it is the embedding, special tokens outside the vocabulary. One a line, no newline after the
 * last, "" if there are none; names in them may hold any bytes. The caller frees *text. -ENOMEM.
 */
int kvs_checkpoint_warnings(const kvs_checkpoint *ckpt, char **text);
/* Hex digest of the configuration and of the names, types, shapes and a sample of the bytes of all weights. */
const char *kvs_checkpoint_fingerprint(const kvs_checkpoint *ckpt);
/* What a plan says of the model that it is for; the strings are the checkpoint's. */
struct kvs_plan_model kvs_checkpoint_plan_model(const kvs_checkpoint *ckpt);
/* The token is one that ends a text. */
bool kvs_config_ends(const struct kvs_config *config, int32_t id);

/* The parsers alone, on bytes in memory, for tests and fuzzing; `name` stands for the file in messages. */
int kvs_config_parse(const char *json, size_t bytes, const char *name, struct kvs_config *out);
void kvs_config_clear(struct kvs_config *config); /* frees its members */
/* A safetensors header over a file of `file_bytes` bytes that starts at `file`. */
struct kvs_safetensors;
int kvs_safetensors_parse(const void *file, size_t file_bytes, const char *name, struct kvs_safetensors **out);
void kvs_safetensors_free(struct kvs_safetensors *st);
size_t kvs_safetensors_count(const struct kvs_safetensors *st);
/* -EINVAL: a type or rank that no weight has; *name is set all the same. */
int kvs_safetensors_get(const struct kvs_safetensors *st, size_t index, const char **name, struct kvs_weight *out);

/* ---- tokenizer ---- */

typedef struct kvs_tokenizer kvs_tokenizer;

/*
 * Read DIR/tokenizer.json, or the vocabulary in a GGUF file. -ENOENT, -EINVAL (damaged, or of a kind that is not supported,
 * by name), -ENOMEM.
 */
int kvs_tokenizer_open(const char *dir, kvs_tokenizer **out);
int kvs_tokenizer_parse(const char *json, size_t bytes, const char *name, kvs_tokenizer **out);
void kvs_tokenizer_close(kvs_tokenizer *tok);
int kvs_tokenizer_vocab(const kvs_tokenizer *tok); /* largest id + 1 */
/* -1 unless `text` is exactly one token of the vocabulary or an added token. */
int32_t kvs_tokenizer_id(const kvs_tokenizer *tok, const char *text);

/*
 * The ids of `bytes` bytes of `text`. Special tokens in it are recognised; invalid UTF-8 is read as U+FFFD, as HF does
 * from Python. With `special`, the ids that the post-processor adds (BOS) are included. The caller frees *ids. -ENOMEM,
 * -EINVAL.
 */
int kvs_tokenizer_encode(
	const kvs_tokenizer *tok, const char *text, size_t bytes, bool special, int32_t **ids, size_t *count);
/* Text of `count` ids as HF decodes them (skip_special as there). The caller frees *text, which is NUL-terminated. */
int kvs_tokenizer_decode(
	const kvs_tokenizer *tok, const int32_t *ids, size_t count, bool skip_special, char **text, size_t *bytes);

/* Streaming decode: returns whole characters only, each once; all parts together are the text that decode gives. */
typedef struct kvs_text_stream kvs_text_stream;
int kvs_text_stream_create(const kvs_tokenizer *tok, bool skip_special, kvs_text_stream **out);
void kvs_text_stream_free(kvs_text_stream *ts);
/* *text (NUL-terminated, maybe empty) is valid until the next call. */
int kvs_text_stream_push(kvs_text_stream *ts, int32_t id, const char **text, size_t *bytes);
int kvs_text_stream_finish(kvs_text_stream *ts, const char **text, size_t *bytes);

/* ---- conversations (chat/) ---- */

/*
 * A checkpoint's chat template, in one of the forms that we know: ChatML, Llama 2, Llama 3, Mistral. A template is read, and never
 * run: one that has anything else is refused, with the statement that is not known.
 */
typedef struct kvs_chat kvs_chat;

/*
 * The template of a directory (chat_template.jinja, or tokenizer_config.json) or a GGUF file. -ENOENT (it has none), -EINVAL
 * (no form that we know), -ENOMEM, -EIO.
 */
int kvs_chat_open(const char *dir, kvs_chat **out);
/* The same for a template in memory; `bos` is the text of the BOS token, NULL: there is none. */
int kvs_chat_parse(const char *text, size_t bytes, const char *name, const char *bos, kvs_chat **out);
void kvs_chat_free(kvs_chat *chat);
const char *kvs_chat_form(const kvs_chat *chat); /* "ChatML" */
const char *kvs_chat_end(const kvs_chat *chat);  /* the token that ends an answer; NULL: the checkpoint's end of text */
/* -EINVAL: a token that the template prints is not in the vocabulary. */
int kvs_chat_check(const kvs_chat *chat, const kvs_tokenizer *tok);
/*
 * The text that the template prints for a system message (NULL: none), a user's and the start of the answer, special tokens
 * included: encode it without those of the post-processor. `now`: for templates that name the date. The caller frees
 * *text. -EINVAL (the template has no system message), -ENOMEM.
 */
int kvs_chat_render(const kvs_chat *chat, const char *system, const char *user, size_t user_bytes, time_t now,
	char **text, size_t *bytes);

/* ---- patches: matrices in place of a checkpoint's (patch.c) ---- */

/*
 * A safetensors file that holds a few matrices of one checkpoint, refitted for one plan. Its __metadata__ names both:
 * "kvshare_patch" "1", "model" the checkpoint's fingerprint, "owners" a digest of the plan's two maps. A plan that was
 * made with a patch holds the digest of the whole file (docs/compensation.md).
 */
typedef struct kvs_patch kvs_patch;

struct kvs_patch_matrix {
	const char *name;
	int rows, cols;
	enum kvs_dtype dtype; /* as it is stored in the patch */
	const void
		*data; /* [rows][cols], of any alignment; of type `dtype` when read, f32 when written. NULL: unread */
};

#define KVS_PATCH_DIGEST 33 /* bytes of a digest: 32 hex digits and NUL */

/* Reads the header alone. -ENOENT, -EINVAL (damaged or no patch), -ENOMEM, -EIO. */
int kvs_patch_open(const char *path, kvs_patch **out);
void kvs_patch_close(kvs_patch *patch);
const char *kvs_patch_digest(const kvs_patch *patch);
size_t kvs_patch_count(const kvs_patch *patch);
void kvs_patch_get(const kvs_patch *patch, size_t index, struct kvs_patch_matrix *out);
/*
 * Reads the matrices, which are there from now on. -EINVAL: it is for another plan or model, or has another matrix than W_q, W_o and
 * W_down of this model's shapes, or a skip of a layer that does not share or of another shape (none of its matrices was read), or
 * numbers that are not finite, or the bytes of the file do not have this digest. -ENOMEM, -EIO.
 */
int kvs_patch_check(kvs_patch *patch, const char *digest, const kvs_plan *plan, const kvs_checkpoint *ckpt);
/*
 * A patch may also give a layer that takes both K and V of others a skip, which the checkpoint has not: a linear map of low
 * rank of the layer's normed input x, added to the residual behind attention, h += b (a x). Its two matrices go by these
 * names: `which` 'a' [rank][hidden], 'b' [hidden][rank]. Only this engine knows them.
 */
#define KVS_SKIP_NAME 96
void kvs_skip_name(int layer, char which, char name[KVS_SKIP_NAME]);
bool kvs_patch_has_skip(const kvs_patch *patch);
/* `digest` becomes the file's. -ENOMEM, -EIO. */
int kvs_patch_write(const char *path, const kvs_plan *plan, const kvs_checkpoint *ckpt,
	const struct kvs_patch_matrix *matrices, size_t count, char digest[KVS_PATCH_DIGEST]);

/* ---- engine ---- */

typedef struct kvs_engine kvs_engine;

/* What only the engine knows of its work, for callers that watch it. */
struct kvs_engine_note {
	enum kvs_engine_note_kind {
		KVS_NOTE_WEIGHTS,     /* address, bytes: the memory that was allocated for it */
		KVS_NOTE_ACTIVATIONS, /* the same */
		KVS_NOTE_K, /* the addresses that K (V) of `layer` has in all slots; `owner`: whose memory lies there */
		KVS_NOTE_V,
		KVS_NOTE_LOAD,    /* opening begins */
		KVS_NOTE_PREFILL, /* `tokens` tokens are appended, more than one */
		KVS_NOTE_DECODE,  /* one is */
		KVS_NOTE_SCORE,   /* `tokens` tokens are appended and scored */
		KVS_NOTE_BATCH,   /* `tokens` tokens of all sequences are run (batch.c) */
		KVS_NOTE_IDLE,    /* opening has ended, or closing begins */
		KVS_NOTE_K_USE, /* `bytes` of K have been asked for: tokens of all slots, of layers that own their memory */
		KVS_NOTE_V_USE,
		KVS_NOTE_LAYER /* what is launched from now on is of `layer`; -1: of none */
	} kind;
	CUdeviceptr address;
	size_t bytes;
	int layer, owner; /* of a borrower; -1: its own */
	size_t tokens;
};

/*
 * What a layer that borrows does with its own K and V. OWNER, which is KVSharer's sharing: it has none, and reads its owner's.
 * LAST: it stores them into its owner's memory, in the order of the layers, and all layers of the group read what was stored
 * last. So in a pass a layer reads its own K and V of the pass's tokens, and those of earlier passes from the group's last
 * layer: the result depends on the division of a text into passes. It is what the shim's policy of this name makes of a
 * program (docs/shim.md).
 */
enum kvs_policy { KVS_POLICY_OWNER, KVS_POLICY_LAST };

struct kvs_engine_options {
	const kvs_plan *plan; /* NULL: no sharing */
	unsigned slots;       /* sequences; 0: 1 */
	int ctx_tokens;       /* size of a slot; 0: the model's max_positions, at most 4096 */
	int chunk_tokens;     /* prompts are run in pieces of this size, a pass each; 0: 512 */
	int sequence_tokens;  /* longest sequence, where batches put several into one slot; 0: ctx_tokens */
	enum kvs_dtype kv_dtype;
	bool kv_dtype_set; /* false: the checkpoint's */
	bool no_premap;
	enum kvs_policy policy;
	int pass_tokens; /* of a batch with KVS_POLICY_LAST: tokens of each sequence in a pass; 0: 1, as when decoding */
	bool share_by_pointer; /* borrowers read through the owner's addresses; plans change without a new cache: calibration */
	int score_rows; /* tokens whose logits are in memory at a time, at least 2; 0: 64. 2 is enough where none are scored */
	size_t block_bytes; /* 0: a granule; where those are below 2 MiB, more of them for a long context */
	size_t budget_bytes;
	void (*progress)(void *arg, size_t done_bytes, size_t total_bytes); /* while weights load; NULL: none */
	void *progress_arg;
	/*
	 * Called while the host waits for the device; NULL: never. If it returns true, the waiting call returns
	 * -ECANCELED, and from then on the engine can only be closed, which waits.
	 */
	bool (*stop)(void);
	/* Told of each of these as it happens, on the thread that calls the engine; NULL: nobody listens. */
	void (*note)(void *arg, const struct kvs_engine_note *note);
	void *note_arg;
};

/* -EINVAL (plan of another model, options), -ENOMEM, -EIO and errors of the parts. `ckpt` is not needed afterwards. */
int kvs_engine_open(kvs_cu *cu, const kvs_checkpoint *ckpt, const struct kvs_engine_options *options, kvs_engine **out);
/* An engine of this shape with random weights, made on the device: for measuring speed, not for writing text. */
int kvs_engine_open_random(
	kvs_cu *cu, const struct kvs_config *config, const struct kvs_engine_options *options, kvs_engine **out);
void kvs_engine_close(kvs_engine *engine);

const struct kvs_config *kvs_engine_config(const kvs_engine *engine);
/* The least number of bytes that all launches so far had to read and write. */
uint64_t kvs_engine_bytes_moved(const kvs_engine *engine);
int kvs_engine_ctx(const kvs_engine *engine);
enum kvs_policy kvs_engine_policy(const kvs_engine *engine);
int kvs_engine_pass_tokens(const kvs_engine *engine);           /* 0: batches go through in one pass */
int kvs_engine_length(const kvs_engine *engine, unsigned slot); /* tokens in the cache */
/* Forget all but the first `length` tokens. */
int kvs_engine_truncate(kvs_engine *engine, unsigned slot, int length);

/*
 * Append `count` tokens to `slot`; the logits after the last one are then on the device for the calls below.
 * -EINVAL (an id outside the vocabulary, more tokens than ctx has room for), -ENOMEM, -EIO; on error the slot has its old
 * length.
 */
int kvs_engine_append(kvs_engine *engine, unsigned slot, const int32_t *ids, size_t count);
int kvs_engine_wait(kvs_engine *engine); /* until everything appended has run; reports its errors */
/* The likeliest token after the last append; waits. -EIO also if the logits are not numbers. */
int kvs_engine_argmax(kvs_engine *engine, int32_t *id);
int kvs_engine_logits(kvs_engine *engine, float *logits /* [vocab] */); /* as they are, also infinite and NaN */
int kvs_engine_probabilities(kvs_engine *engine, float temperature, float *probs /* [vocab] */); /* -EIO as above */

/*
 * Append `count` tokens and score them: nll[i] is the loss of targets[i] after ids[i] in nats, top[i] the most likely
 * token there. `top` may be NULL. -EIO also if a loss is not a number; an infinite one is a result.
 */
int kvs_engine_score(kvs_engine *engine, unsigned slot, const int32_t *ids, const int32_t *targets, size_t count,
	float *nll, int32_t *top);

struct kvs_engine_memory {
	size_t granule_bytes, weights_bytes, workspace_bytes;
	size_t weights_mapped_bytes; /* of weights_bytes: pages of the checkpoint's files, which are no memory of the device */
	size_t kv_virtual_bytes, kv_physical_bytes, kv_unshared_bytes;
	size_t kv_row_bytes; /* of one token, all layers, no sharing */
};
int kvs_engine_memory(kvs_engine *engine, struct kvs_engine_memory *out); /* waits until the manager has settled */
kvs_vmm *kvs_engine_vmm(kvs_engine *engine);
kvs_stream *kvs_engine_stream(kvs_engine *engine); /* that everything runs on */
kvs_cu *kvs_engine_cu(kvs_engine *engine);

/* ---- looking inside, for calibration (batch.c) ---- */

/*
 * Run with another plan from now on (NULL: none), without loading the weights again. With share_by_pointer the slots keep
 * their tokens; otherwise a new cache is created and they are empty. -EINVAL (plan of another model), -ENOMEM, -EIO: the
 * engine is unchanged on failure.
 */
int kvs_engine_set_plan(kvs_engine *engine, const kvs_plan *plan);

/*
 * A batch: `sequences` sequences of `tokens` tokens each, stored one after another in slot 0 from token `first` on; each
 * sees only itself. Their rows go through the layers together: sequences * tokens is at most kvs_engine_batch_rows(). The
 * slot's tokens there are overwritten; truncate it to 0 before appending to it again.
 *
 * The engine must have been opened with share_by_pointer, with ctx_tokens for all batches that will be rerun, and with
 * the longest sequence as sequence_tokens.
 */
struct kvs_batch {
	const int32_t *ids; /* [sequences][tokens] */
	int sequences, tokens, first;
};
int kvs_engine_batch_rows(const kvs_engine *engine);

/* Run all layers over a batch. -EINVAL, -ENOMEM, -EIO. */
int kvs_engine_run_batch(kvs_engine *engine, const struct kvs_batch *batch);

/* A copy of a batch's residual on the device, f32 [rows][hidden], as it is before layer `layer` (1 and up). */
struct kvs_residual {
	int layer;
	CUdeviceptr data;
};

/*
 * As kvs_engine_run_batch(), from `start` on: the layers below are not run; their K and V must be in slot 0 already,
 * under the current plan. NULL: all layers. The residual before each layer of `keep` is copied to its data; the layers
 * ascend and are above start's. -EINVAL (also: `start` or `keep` with KVS_POLICY_LAST, where layers below read what those above
 * stored), -ENOMEM, -EIO.
 */
int kvs_engine_run_batch_from(kvs_engine *engine, const struct kvs_batch *batch, const struct kvs_residual *start,
	const struct kvs_residual *keep, int keep_count);

/*
 * Tell whether K and V of a token of slot 0 are still those of a caller's own run: every call that writes or truncates a
 * slot starts a new generation, and gives that number to the tokens of slot 0 that it touches, even if it fails half-way.
 * 0: never written, or the engine was opened without share_by_pointer.
 */
uint64_t kvs_engine_generation(const kvs_engine *engine);
uint64_t kvs_engine_token_generation(const kvs_engine *engine, int token);
/* The current plan, valid until another is set; NULL: none. */
const kvs_plan *kvs_engine_plan(const kvs_engine *engine);

/*
 * Run one layer alone, on a residual of the caller's (NULL: the embedding of the batch's ids), under the current plan. If it
 * borrows, its owner's K and V of these tokens must be in slot 0: of a run of the owner on the same batch, or written. Each
 * output may be NULL, and nothing is computed after the last that is not. Nothing else can be read of this batch
 * afterwards. -EINVAL (also with KVS_POLICY_LAST), -ENOMEM, -EIO.
 */
struct kvs_layer_tap {
	float *normed;   /* [rows][hidden]: what W_q, W_k and W_v take */
	float *queries;  /* [rows][heads * head_dim]: rotated */
	float *attended; /* [rows][heads * head_dim]: what W_o takes */
	float *middle;   /* [rows][hidden]: the residual behind the attention */
	float *gated;    /* [rows][ff]: what W_down takes */
	float *residual; /* [rows][hidden]: behind the layer */
};
int kvs_engine_run_layer(kvs_engine *engine, const struct kvs_batch *batch, int layer, const float *residual,
	const struct kvs_layer_tap *out);
/*
 * The rotations of positions, f32 [positions][head_dim]: of pair (i, i + head_dim / 2) the cosine and the sine at [2 * i] and
 * [2 * i + 1]. There are as many positions as a sequence may have. The caller frees *table. -ENOMEM.
 */
int kvs_engine_rotations(const kvs_engine *engine, float **table);
/*
 * Replace a matrix of the model from now on, named as in the checkpoint. `values` [rows][cols] are first rounded to `dtype`,
 * the type that they will be stored in, and handed back so. -ENOENT (no such matrix), -EINVAL (of another shape), -EIO.
 */
int kvs_engine_set_matrix(
	kvs_engine *engine, const char *name, int rows, int cols, enum kvs_dtype dtype, float *values);
/* The checkpoint's matrix in its place again, and the model computes as it did before. As above; those of kvs_checkpoint_read(). */
int kvs_engine_reset_matrix(kvs_engine *engine, const kvs_checkpoint *ckpt, const char *name);
/*
 * Give a layer a skip (see patches) in place of the one that it has, rounded as above. It runs while the layer takes both K and
 * V of others under the current plan. -EINVAL, -ENOMEM, -EIO.
 */
int kvs_engine_set_skip(kvs_engine *engine, int layer, int rank, enum kvs_dtype dtype, float *a, float *b);
/*
 * Run with the matrices of `patch` from now on, or, with `ckpt`, with the checkpoint's in their place again. The caller
 * has checked the patch (kvs_patch_check). -EINVAL also with KVS_POLICY_LAST: matrices are fitted for owners' K and V, which
 * layers do not read under it. Other errors as above, or those of kvs_checkpoint_read().
 */
int kvs_engine_set_patch(kvs_engine *engine, const kvs_patch *patch, const kvs_checkpoint *ckpt);

/* Of the batch that ran last; call them before anything else runs. Rows are numbered through all its sequences. */
int kvs_engine_batch_hidden(kvs_engine *engine, float *hidden /* [rows][hidden]: the final norm's output */);
int kvs_engine_batch_logits(kvs_engine *engine, int row, int rows, float *logits /* [rows][vocab] */);
/* As kvs_engine_score(): nll [rows], top [rows] or NULL. */
int kvs_engine_batch_score(kvs_engine *engine, const int32_t *targets, float *nll, int32_t *top);
/* The last layer's output, before the final norm; and the logits of such rows, of any batch, bit for bit. */
int kvs_engine_batch_residual(kvs_engine *engine, float *residual /* [rows][hidden] */);
int kvs_engine_head(kvs_engine *engine, const float *residual, int rows, float *logits /* [rows][vocab] */);

/*
 * sum[i] += element i of layer `layer`'s K (V) of tokens first .. first + tokens - 1 of slot 0:
 * [tokens][kv_heads][head_dim].
 */
int kvs_engine_add_k(kvs_engine *engine, int layer, int first, int tokens, double *sum);
int kvs_engine_add_v(kvs_engine *engine, int layer, int first, int tokens, double *sum);

/* K and V of the same, f32 [tokens][kv_heads][head_dim] each. Writing rounds to the cache's type. */
int kvs_engine_read_kv(kvs_engine *engine, int layer, int first, int tokens, float *k, float *v);
int kvs_engine_write_kv(kvs_engine *engine, int layer, int first, int tokens, const float *k, const float *v);

/* ---- sampling ---- */

struct kvs_sampling {
	float temperature; /* 0: greedy, and the rest is ignored */
	int top_k;         /* 0: all */
	float top_p;       /* 1: all */
	uint64_t seed;
};
typedef struct kvs_sampler kvs_sampler;
int kvs_sampler_create(const struct kvs_sampling *options, int vocab, kvs_sampler **out); /* -EINVAL names the option */
void kvs_sampler_free(kvs_sampler *sampler);
int kvs_sampler_next(kvs_sampler *sampler, kvs_engine *engine, int32_t *id);
/* The same for probabilities [vocab] on the host: the id, or -1 if none of them is a number. */
int32_t kvs_sampler_pick(kvs_sampler *sampler, const float *probs);

#ifdef __cplusplus
}
#endif
#endif
