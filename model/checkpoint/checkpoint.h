/*
 * model/checkpoint/checkpoint.h: what the files that read a checkpoint share. Private to model/.
 */
#ifndef KVS_CHECKPOINT_H
#define KVS_CHECKPOINT_H

#include "../file.h"
#include "../json.h"
#include "../model.h"

#define CKPT_MAX_POSITIONS (1 << 28) /* the most that a file may name */

/* Fill config->rope from the object of config.json; max_positions must be set. -EINVAL. */
int ckpt_read_rope(const struct model_json *from, struct kvs_config *config);

/* Replace the bos and eos of `config` with those of generation_config.json, if it has any. -EINVAL, -ENOMEM. */
int ckpt_apply_generation(const char *json, size_t bytes, const char *name, struct kvs_config *config);

/*
 * A stored tensor of any type and rank, for the fingerprint. `file` (the parser's `name`), `name` and `dtype`
 * (safetensors' own spelling) are borrowed from `st`; `shape` has `rank` entries.
 */
struct ckpt_stored {
	const char *file, *name, *dtype;
	const int64_t *shape;
	int rank;
	uint64_t offset; /* in the file */
	size_t bytes;
};
void ckpt_safetensors_stored(const struct kvs_safetensors *st, size_t index, struct ckpt_stored *out);
/* As kvs_safetensors_parse(), for an open file, of which only the header is read. Also -EIO. */
int ckpt_safetensors_open(const struct model_file *file, const char *name, struct kvs_safetensors **out);

/* As kvs_config_parse(), of an object that is parsed already; its strings are copied. */
int ckpt_read_config(const json_t *object, const char *name, struct kvs_config *out);

/* One GGUF file's tensors, under the names that transformers has (gguf_weights.c). */
struct ckpt_gguf;
struct model_gguf;
int ckpt_gguf_open(
	const struct model_file *file, const char *name, struct ckpt_gguf **out); /* -EINVAL, -ENOMEM, -EIO */
void ckpt_gguf_close(struct ckpt_gguf *part);
const struct model_gguf *ckpt_gguf_header(const struct ckpt_gguf *part);
size_t ckpt_gguf_count(const struct ckpt_gguf *part);
void ckpt_gguf_stored(const struct ckpt_gguf *part, size_t index, struct ckpt_stored *out);
/* Which of how many parts of a split file this is, from 0 on; and the path of another, from that of the first. -EINVAL. */
int ckpt_gguf_parts(const struct ckpt_gguf *part, int *number, int *count);
int ckpt_gguf_part_path(const char *first, int number, int count, char **path); /* the caller frees *path */
/* Part `number` of `count` is what its keys say, and of the model of the first; all have `tensors` tensors. -EINVAL. */
int ckpt_gguf_check_part(const struct ckpt_gguf *part, const struct ckpt_gguf *first, int number, int count);
int ckpt_gguf_check_total(const struct ckpt_gguf *first, size_t tensors);
/* All matrices are of one type of F32, F16 and BF16: *name, unless it is NULL, and it is set to it. */
bool ckpt_gguf_same_types(const struct ckpt_gguf *part, const char **name);
/* As kvs_checkpoint_weight() and kvs_checkpoint_read(). `widen`: all matrices are read as f32. */
void ckpt_gguf_get(const struct ckpt_gguf *part, size_t index, bool widen, struct kvs_weight *out);
int ckpt_gguf_read(const struct ckpt_gguf *part, size_t index, const struct model_file *file,
	const struct kvs_config *config, bool widen, size_t first, void *out, size_t bytes);
/* As kvs_checkpoint_read_rows(). */
int ckpt_gguf_read_rows(const struct ckpt_gguf *part, size_t index, const struct model_file *file,
	const struct kvs_config *config, int64_t first_row, int64_t rows, void *out);
/* Its rows are in the file in another order than those that are read. */
bool ckpt_gguf_is_moved(const struct ckpt_gguf *part, size_t index, const struct kvs_config *config);
struct ckpt_gguf_part {
	const struct model_gguf *gguf;
	const struct model_file *file; /* open; NULL: tensors cannot be read */
};
/* The configuration in the keys of the first of `count` parts, and in the tensors of all. -EINVAL, -ENOMEM, -EIO. */
int ckpt_gguf_config(const struct ckpt_gguf_part *parts, size_t count, struct kvs_config *out);

/* All stored tensors, sorted by name, to find those that are not used (weights.c). */
size_t ckpt_count(const kvs_checkpoint *ckpt);
const char *ckpt_name(const kvs_checkpoint *ckpt, size_t index);
/*
 * The file that has the rows of a matrix as kvs_checkpoint_read_rows() gives them, one behind the other from byte *offset on. NULL:
 * it has them in another order, or there is no such matrix.
 */
const struct model_file *ckpt_rows_in_file(const kvs_checkpoint *ckpt, const char *name, uint64_t *offset);
/* The index of the tensor that kvs_checkpoint_weight() finds for `name`; false if there is none. */
bool ckpt_find(const kvs_checkpoint *ckpt, const char *name, size_t *index);
/* config.json says that the head is the embedding, but the stored head differs. */
bool ckpt_untied(const kvs_checkpoint *ckpt);

/* The error for a directory without config.json (without weights): what it is, and what to give instead (hints.c). */
int ckpt_explain_config(const char *dir);
int ckpt_explain_weights(const char *dir);

#endif
