/*
 * model/gguf.h: the container format GGUF (ggml-org/ggml, docs/gguf.md): keys with values, and tensors of ggml's types.
 * Private to model/.
 *
 * It knows nothing of models: checkpoint/gguf_config.c reads the keys of an architecture, tokenizer/gguf_tokenizer.c
 * those of a vocabulary.
 */
#ifndef KVS_MODEL_GGUF_H
#define KVS_MODEL_GGUF_H

#include "file.h"

#include "../attn/attn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model_gguf;

/* A string of the file; it may hold any bytes, and no NUL follows it. */
struct gguf_text {
	const char *at;
	size_t len;
};

/* ---- opening ---- */

/* A regular file that starts with "GGUF". False also if it cannot be read. */
bool model_gguf_is(const char *path);
/*
 * Read the header of an open file: all before the tensors' data. Every count, length, type and offset in it is checked.
 * `name` stands for the file in messages. -EINVAL, -ENOMEM, -EIO.
 */
int model_gguf_open(const struct model_file *file, const char *name, struct model_gguf **out);
/* The same for a header in memory, of a file of `file_bytes` bytes; the header is copied. */
int model_gguf_parse(const void *header, size_t bytes, uint64_t file_bytes, const char *name, struct model_gguf **out);
void model_gguf_close(struct model_gguf *gguf);
const char *model_gguf_name(const struct model_gguf *gguf);

/* ---- keys ---- */

bool model_gguf_has(const struct model_gguf *gguf, const char *key);
/* A getter leaves *out alone if the key is absent. -EINVAL: of another type, or outside min .. max. */
int model_gguf_int(const struct model_gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out);
int model_gguf_number(const struct model_gguf *gguf, const char *key, double *out);
int model_gguf_bool(const struct model_gguf *gguf, const char *key, bool *out);
int model_gguf_text(const struct model_gguf *gguf, const char *key, struct gguf_text *out);
bool gguf_text_is(struct gguf_text text, const char *is);
/* The name of the first key that starts with `prefix` and is none of `known` (ends with NULL); NULL: there is none. */
const struct gguf_text *model_gguf_unknown(
	const struct model_gguf *gguf, const char *prefix, const char *const known[]);
/* How many elements a list has; 0: it is absent, or no list. */
size_t model_gguf_length(const struct model_gguf *gguf, const char *key);
/* The elements of a list, in an array that the caller frees. *count is 0 and *out NULL if the key is absent. */
int model_gguf_texts(const struct model_gguf *gguf, const char *key, struct gguf_text **out, size_t *count);
int model_gguf_ints(const struct model_gguf *gguf, const char *key, int32_t min, int32_t max, int32_t **out,
	size_t *count); /* -EINVAL: also for an element outside min .. max */
int model_gguf_floats(const struct model_gguf *gguf, const char *key, float **out, size_t *count);

/* ---- tensors ---- */

struct gguf_type {
	const char *name;
	int elements, bytes; /* of a block */
	/* `elements` numbers from one block, each as the gguf Python package computes it; NULL: the type is not read. */
	void (*dequantize)(const uint8_t *block, float *out);
	enum kvs_dtype dtype; /* the type of ours that it is, of every type that is read */
};

struct gguf_tensor {
	struct gguf_text name;
	const struct gguf_type *type;
	int rank;
	int64_t shape[4]; /* rows first, as in PyTorch: the file has them the other way round */
	uint64_t offset;  /* in the file */
	uint64_t bytes;
};

size_t model_gguf_count(const struct model_gguf *gguf);
const struct gguf_tensor *model_gguf_tensor(const struct model_gguf *gguf, size_t index);

/* By the number in a file (gguf_types.c); NULL: no type has it. */
const struct gguf_type *model_gguf_type(uint32_t number);
/* `count` numbers of a quantised type, from the start of a block on; a multiple of its elements. */
void model_gguf_dequantize(enum kvs_dtype dtype, const void *blocks, float *out, size_t count);
/* Elements first .. first + count - 1 of the tensor, in the file's order, as f32. -EIO, -ENOMEM. */
int model_gguf_read(
	const struct model_file *file, const struct gguf_tensor *tensor, uint64_t first, float *out, size_t count);

#endif
