/*
 * model/checkpoint.h: what the files that read a checkpoint share. Private to model/.
 */
#ifndef KVS_CHECKPOINT_H
#define KVS_CHECKPOINT_H

#include "model.h"

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
