/*
 * model/checkpoint/checkpoint.h: what the files that read a checkpoint share. Private to model/.
 */
#ifndef KVS_CHECKPOINT_H
#define KVS_CHECKPOINT_H

#include "../file.h"
#include "../json.h"
#include "../model.h"

#define CKPT_MAX_POSITIONS (1 << 28) /* that a file may speak of */

/* Fill config->rope from the object of config.json; max_positions must be there. -EINVAL. */
int ckpt_read_rope(const struct model_json *from, struct kvs_config *config);

/* Let generation_config.json's bos_token_id and eos_token_id replace those of `config`. -EINVAL, -ENOMEM. */
int ckpt_apply_generation(const char *json, size_t bytes, const char *name, struct kvs_config *config);

/*
 * A stored tensor of any type and rank, as the fingerprint wants it. `file` (as the parser was told), `name` and `dtype`
 * (safetensors' own spelling) are borrowed from `st`, `shape` has `rank` entries.
 */
struct ckpt_stored {
	const char *file, *name, *dtype;
	const int64_t *shape;
	int rank;
	uint64_t offset; /* in the file */
	size_t bytes;
};
void ckpt_safetensors_stored(const struct kvs_safetensors *st, size_t index, struct ckpt_stored *out);
/* As kvs_safetensors_parse(), of an open file of which only the header is read. -EIO too. */
int ckpt_safetensors_open(const struct model_file *file, const char *name, struct kvs_safetensors **out);

/* The stored tensors by name, for those that nothing asks for (weights.c). */
size_t ckpt_count(const kvs_checkpoint *ckpt);
const char *ckpt_name(const kvs_checkpoint *ckpt, size_t index);
/* What kvs_checkpoint_weight() gives for `name`. */
bool ckpt_find(const kvs_checkpoint *ckpt, const char *name, size_t *index);
/* config.json says that the head is the embedding, and the stored head is another. */
bool ckpt_untied(const kvs_checkpoint *ckpt);

/* The error for a directory without config.json (without weights): what it is instead, and what to give (hints.c). */
int ckpt_explain_config(const char *dir);
int ckpt_explain_weights(const char *dir);

#endif
