/*
 * tests/fuzz/generation_fuzz.c: any bytes as generation_config.json of a valid model.
 */
#include "../../model/checkpoint/checkpoint.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../driver/cu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char config_json[] =
	"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":"
	"128,"
	"\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":100,"
	"\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"eos_token_id\":[1,2],\"bos_token_id\":3}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvs_config config;

	if (kvs_config_parse(config_json, strlen(config_json), "config.json", &config))
		abort();
	if (ckpt_apply_generation((const char *)data, size, "generation_config.json", &config) &&
		!strstr(kvs_error(), "generation_config.json"))
		abort();
	for (int i = 0; i < config.eos_count; i++)
		if (config.eos[i] < 0 || config.eos[i] >= config.vocab)
			abort();
	if (config.layers != 2 || config.vocab != 100)
		abort();
	kvs_config_clear(&config);
	return 0;
}
