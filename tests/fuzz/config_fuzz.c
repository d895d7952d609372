/*
 * tests/fuzz/config_fuzz.c: any bytes as config.json, then as generation_config.json on top of the result.
 */
#include "../../model/checkpoint/checkpoint.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Properties of an accepted configuration on which the engine relies. */
static void check(const struct kvs_config *config)
{
	if (config->layers < 1 || config->layers > KVS_MAX_LAYERS || !config->window || config->hidden < 1 ||
		config->ff < 1 || config->vocab < 1 || config->max_positions < 1)
		abort();
	if (config->kv_heads < 1 || config->heads % config->kv_heads || config->head_dim < 32 || config->head_dim > 256)
		abort();
	for (int l = 0; l < config->layers; l++) {
		if (config->window[l] < 0)
			abort();
	}
	for (int i = 0; i < config->eos_count; i++) {
		if (config->eos[i] < 0 || config->eos[i] >= config->vocab)
			abort();
	}
	if (!(config->rope.theta > 1) || !(config->rope.factor > 0) || config->rope.original_positions < 1)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvs_config config;

	if (kvs_config_parse((const char *)data, size, "fuzz", &config))
		return 0;
	check(&config);
	ckpt_apply_generation((const char *)data, size, "fuzz", &config);
	check(&config);
	kvs_config_clear(&config);
	return 0;
}
