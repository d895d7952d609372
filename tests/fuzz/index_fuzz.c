/*
 * tests/fuzz/index_fuzz.c: any bytes as model.safetensors.index.json, beside a valid configuration and two valid shards.
 *
 * A checkpoint that opens must give every tensor that the index names, from the shard that it names.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../driver/cu.h"
#include "../../model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/dev/shm/kvs-index-fuzz-XXXXXX";

static void write_file(const char *name, const void *data, size_t size)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
}

static void write_shard(const char *file, const char *tensor)
{
	char bytes[256] = {0};
	int json = snprintf(bytes + 8, sizeof(bytes) - 24,
		"{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", tensor);

	bytes[0] = (char)json;
	write_file(file, bytes, 8 + (size_t)json + 16);
}

static void remove_folder(void)
{
	static const char *const names[] = {
		"config.json", "a.safetensors", "b.safetensors", "model.safetensors.index.json", ""};
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		remove(path);
	}
}

static void make_folder(void)
{
	static const char config[] =
		"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,"
		"\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
		"\"vocab_size\":100,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5}";

	if (!mkdtemp(folder))
		abort();
	atexit(remove_folder);
	write_file("config.json", config, strlen(config));
	write_shard("a.safetensors", "x");
	write_shard("b.safetensors", "y");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"x", "y"};
	static bool made;
	kvs_checkpoint *ckpt;

	if (!made)
		make_folder();
	made = true;
	write_file("model.safetensors.index.json", data, size);
	if (kvs_checkpoint_open(folder, &ckpt)) {
		if (!*kvs_error())
			abort();
		return 0;
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kvs_weight weight;

		if (!kvs_checkpoint_weight(ckpt, names[i], &weight) && (weight.bytes != 16 || weight.rank != 2))
			abort();
	}
	kvs_checkpoint_close(ckpt);
	return 0;
}
