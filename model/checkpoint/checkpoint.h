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

/* All stored tensors, sorted by name, to find those that are not used (weights.c). */
size_t ckpt_count(const kvs_checkpoint *ckpt);
const char *ckpt_name(const kvs_checkpoint *ckpt, size_t index);
/* The index of the tensor that kvs_checkpoint_weight() finds for `name`; false if there is none. */
bool ckpt_find(const kvs_checkpoint *ckpt, const char *name, size_t *index);
/* config.json says that the head is the embedding, but the stored head differs. */
bool ckpt_untied(const kvs_checkpoint *ckpt);

/* The error for a directory without config.json (without weights): what it is, and what to give instead (hints.c). */
int ckpt_explain_config(const char *dir);
int ckpt_explain_weights(const char *dir);

#endif
