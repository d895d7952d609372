/*
 * model/checkpoint/checkpoint.h: what the files that read a checkpoint share. Private to model/.
 */
#ifndef KVS_CHECKPOINT_H
#define KVS_CHECKPOINT_H

#include "../json.h"
#include "../model.h"

#define KVS_MAX_POSITIONS (1 << 28) /* that a file may speak of */

/* Fill config->rope from the object of config.json; max_positions must be there. -EINVAL. */
int kvs_config_read_rope(const struct kvs_json *from, struct kvs_config *config);

/* Let generation_config.json's bos_token_id and eos_token_id replace those of `config`. -EINVAL, -ENOMEM. */
int kvs_config_apply_generation(const char *json, size_t bytes, const char *name, struct kvs_config *config);

/*
 * A stored tensor of any type and rank, as the fingerprint wants it. `file` (as the parser was told), `name` and `dtype`
 * (safetensors' own spelling) are borrowed from `st`, `shape` has `rank` entries.
 */
struct kvs_stored {
	const char *file, *name, *dtype;
	const int64_t *shape;
	int rank;
	const unsigned char *data;
	size_t bytes;
};
void kvs_safetensors_stored(const struct kvs_safetensors *st, size_t index, struct kvs_stored *out);

#endif
