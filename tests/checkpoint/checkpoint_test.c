/*
 * tests/checkpoint/checkpoint_test.c: directories: the golden models open correctly, damaged ones give an error that
 * names the damage.
 *
 * Damaged checkpoints are written to a new directory under $TMPDIR. Runs from the top of the repository.
 */
#include "../../model/model.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/models/"
#define INDEX "model.safetensors.index.json"

static const char tiny_config[] = "{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 8, "
				  "\"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"vocab_size\": 2}";
#define EMBEDDING "\"model.embed_tokens.weight\": {\"dtype\": \"F16\", \"shape\": [2], \"data_offsets\": [0, 4]}"

static char dir[256];

static int make_dir(void **state)
{
	const char *base = getenv("TMPDIR");

	(void)state;
	snprintf(dir, sizeof(dir), "%s/kvs-checkpoint-XXXXXX", base ? base : "/tmp");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	DIR *listing = opendir(dir);
	struct dirent *entry;
	char path[1024];

	(void)state;
	while (listing && (entry = readdir(listing))) {
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		if (entry->d_name[0] != '.' && unlink(path))
			rmdir(path);
	}
	if (listing)
		closedir(listing);
	return rmdir(dir);
}

static void write_bytes(const char *name, const void *bytes, size_t size)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

/* A safetensors file of `header` and as many bytes of data, all of them `fill`. */
static void write_weights(const char *name, const char *header, size_t data_bytes, int fill)
{
	size_t length = strlen(header);
	unsigned char file[1024] = {(unsigned char)length, (unsigned char)(length >> 8)};

	assert_true(8 + length + data_bytes <= sizeof(file));
	memcpy(file + 8, header, length);
	memset(file + 8 + length, fill, data_bytes);
	write_bytes(name, file, 8 + length + data_bytes);
}

/* The caller frees. */
static unsigned char *read_bytes(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	struct stat about;

	assert_non_null(file);
	assert_int_equal(fstat(fileno(file), &about), 0);
	unsigned char *bytes = malloc(about.st_size + 1);
	assert_non_null(bytes);
	*size = fread(bytes, 1, about.st_size, file);
	assert_int_equal(*size, about.st_size);
	bytes[*size] = 0;
	fclose(file);
	return bytes;
}

static void copy_file(const char *from, const char *name)
{
	size_t size;
	unsigned char *bytes = read_bytes(from, &size);

	write_bytes(name, bytes, size);
	free(bytes);
}

static int open_files(void)
{
	DIR *listing = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(listing);
	while (readdir(listing))
		count++;
	closedir(listing);
	return count;
}

static kvs_checkpoint *opened(const char *path)
{
	kvs_checkpoint *ckpt;

	if (kvs_checkpoint_open(path, &ckpt))
		fail_msg("%s: %s", path, kvs_error());
	return ckpt;
}

static void assert_refused(int expected, const char *message)
{
	int before = open_files();
	kvs_checkpoint *ckpt;
	int err = kvs_checkpoint_open(dir, &ckpt);

	if (err != expected || !strstr(kvs_error(), message))
		fail_msg("%d, \"%s\" was expected, it is %d, \"%s\"", expected, message, err, kvs_error());
	assert_null(ckpt);
	assert_int_equal(open_files(), before);
}

/* ---- models that open ---- */

static const struct {
	const char *name, *type;
	int layers, hidden, heads, kv_heads, head_dim, last_window;
	enum kvs_dtype dtype;
	enum kvs_rope_type rope;
	bool qkv_bias, qk_norm, mlp_bias, tied;
	size_t tensors_of_a_layer;
} golden[] = {
	{"llama2", "llama", 4, 64, 2, 2, 32, 0, KVS_BF16, KVS_ROPE_DEFAULT, false, false, false, false, 9},
	{"llama3.2", "llama", 6, 32, 4, 2, 64, 0, KVS_BF16, KVS_ROPE_LLAMA3, false, false, false, true, 9},
	{"llama-linear", "llama", 4, 32, 2, 1, 80, 0, KVS_F16, KVS_ROPE_LINEAR, false, false, false, false, 9},
	{"llama-dynamic", "llama", 4, 32, 4, 2, 32, 0, KVS_BF16, KVS_ROPE_DYNAMIC, false, false, false, false, 9},
	{"llama-yarn", "llama", 4, 32, 2, 2, 96, 0, KVS_BF16, KVS_ROPE_YARN, false, false, false, false, 9},
	{"llama-bias", "llama", 4, 32, 4, 2, 32, 0, KVS_F32, KVS_ROPE_DEFAULT, true, false, true, false, 16},
	{"mistral", "mistral", 4, 32, 2, 1, 128, 24, KVS_BF16, KVS_ROPE_DEFAULT, false, false, false, false, 9},
	{"qwen2", "qwen2", 4, 64, 2, 1, 32, 0, KVS_BF16, KVS_ROPE_DEFAULT, true, false, false, true, 12},
	{"qwen2-window", "qwen2", 6, 64, 2, 1, 32, 20, KVS_F16, KVS_ROPE_DEFAULT, true, false, false, false, 12},
	{"qwen3", "qwen3", 4, 48, 4, 2, 32, 0, KVS_BF16, KVS_ROPE_DEFAULT, false, true, false, true, 11},
	{"qwen3-yarn", "qwen3", 4, 32, 2, 1, 256, 32, KVS_BF16, KVS_ROPE_YARN, false, true, false, false, 11},
};

static size_t count_tensors(const kvs_checkpoint *ckpt, int layer)
{
	static const char *const names[] = {"input_layernorm.weight", "post_attention_layernorm.weight",
		"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
		"self_attn.o_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias",
		"self_attn.o_proj.bias", "self_attn.q_norm.weight", "self_attn.k_norm.weight", "mlp.gate_proj.weight",
		"mlp.up_proj.weight", "mlp.down_proj.weight", "mlp.gate_proj.bias", "mlp.up_proj.bias",
		"mlp.down_proj.bias"};
	size_t count = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kvs_weight weight;
		char name[96];
		snprintf(name, sizeof(name), "model.layers.%d.%s", layer, names[i]);
		count += !kvs_checkpoint_weight(ckpt, name, &weight);
	}
	return count;
}

static void golden_models_open_as_what_they_are(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
		char path[128];
		snprintf(path, sizeof(path), GOLDEN "%s", golden[i].name);
		kvs_checkpoint *ckpt = opened(path);
		const struct kvs_config *config = kvs_checkpoint_config(ckpt);
		struct kvs_weight weight;
		assert_string_equal(config->model_type, golden[i].type);
		assert_int_equal(config->layers, golden[i].layers);
		assert_int_equal(config->hidden, golden[i].hidden);
		assert_int_equal(config->heads, golden[i].heads);
		assert_int_equal(config->kv_heads, golden[i].kv_heads);
		assert_int_equal(config->head_dim, golden[i].head_dim);
		assert_int_equal(config->vocab, 256);
		assert_int_equal(config->window[config->layers - 1], golden[i].last_window);
		assert_int_equal(config->dtype, golden[i].dtype);
		assert_int_equal(config->rope.type, golden[i].rope);
		assert_int_equal(config->qkv_bias, golden[i].qkv_bias);
		assert_int_equal(config->qk_norm, golden[i].qk_norm);
		assert_int_equal(config->mlp_bias, golden[i].mlp_bias);
		assert_int_equal(config->tied_embeddings, golden[i].tied);
		assert_int_equal(kvs_checkpoint_weight(ckpt, "lm_head.weight", &weight), golden[i].tied ? -ENOENT : 0);
		assert_int_equal(count_tensors(ckpt, config->layers - 1), golden[i].tensors_of_a_layer);
		assert_int_equal(kvs_checkpoint_weight(ckpt, "model.layers.0.self_attn.k_proj.weight", &weight), 0);
		assert_int_equal(weight.rank, 2);
		assert_int_equal(weight.shape[0], golden[i].kv_heads * golden[i].head_dim);
		assert_int_equal(weight.shape[1], golden[i].hidden);
		assert_int_equal(weight.dtype, golden[i].dtype);
		kvs_checkpoint_close(ckpt);
	}
}

static void generation_config_is_read(void **state)
{
	kvs_checkpoint *ckpt = opened(GOLDEN "llama3.2");
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);

	(void)state;
	assert_int_equal(config->bos, 7);
	assert_int_equal(config->eos_count, 3);
	assert_int_equal(config->eos[0], 9);
	kvs_checkpoint_close(ckpt);
}

static void a_missing_tensor_is_named(void **state)
{
	kvs_checkpoint *ckpt = opened("tests/models/storyworld-3m");
	struct kvs_weight weight;

	(void)state;
	assert_int_equal(kvs_checkpoint_weight(ckpt, "model.layers.16.mlp.up_proj.weight", &weight), -ENOENT);
	assert_non_null(strstr(kvs_error(), "model.layers.16.mlp.up_proj.weight"));
	kvs_checkpoint_close(ckpt);
}

/* ---- the fingerprint ---- */

/* Write all of `from` into one file, in the order of the names in its index. */
static void write_unsharded(const char *from)
{
	static const char *const shards[] = {"model-00003-of-00003.safetensors", "model-00001-of-00003.safetensors",
		"model-00002-of-00003.safetensors"};
	unsigned char *files[3];
	char *header = malloc(1 << 16), *at = header, path[512];
	struct kvs_safetensors *st[3];
	size_t offset = 0;

	assert_non_null(header);
	for (int s = 0; s < 3; s++) {
		size_t size;
		snprintf(path, sizeof(path), "%s/%s", from, shards[s]);
		files[s] = read_bytes(path, &size);
		assert_int_equal(kvs_safetensors_parse(files[s], size, shards[s], &st[s]), 0);
		for (size_t i = 0; i < kvs_safetensors_count(st[s]); i++) {
			struct kvs_weight weight;
			const char *name;
			assert_int_equal(kvs_safetensors_get(st[s], i, &name, &weight), 0);
			at += sprintf(at, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%ld", at == header ? '{' : ',', name,
				(long)weight.shape[0]);
			if (weight.rank == 2)
				at += sprintf(at, ",%ld", (long)weight.shape[1]);
			at += sprintf(at, "],\"data_offsets\":[%zu,%zu]}", offset, offset + weight.bytes);
			offset += weight.bytes;
		}
	}
	at += sprintf(at, "}");
	uint64_t length = at - header;
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	fwrite(&length, 1, 8, file); /* this runs only on little-endian machines */
	fwrite(header, 1, length, file);
	for (int s = 0; s < 3; s++) {
		for (size_t i = 0; i < kvs_safetensors_count(st[s]); i++) {
			struct kvs_weight weight;
			const char *name;
			kvs_safetensors_get(st[s], i, &name, &weight);
			fwrite(files[s] + weight.offset, 1, weight.bytes, file);
		}
		kvs_safetensors_free(st[s]);
		free(files[s]);
	}
	assert_int_equal(fclose(file), 0);
	free(header);
}

static void the_fingerprint_does_not_depend_on_sharding(void **state)
{
	kvs_checkpoint *sharded = opened(GOLDEN "qwen2"), *single;

	(void)state;
	copy_file(GOLDEN "qwen2/config.json", "config.json");
	write_unsharded(GOLDEN "qwen2");
	single = opened(dir);
	assert_int_equal(strlen(kvs_checkpoint_fingerprint(single)), 32);
	assert_string_equal(kvs_checkpoint_fingerprint(single), kvs_checkpoint_fingerprint(sharded));
	kvs_checkpoint_close(single);
	kvs_checkpoint_close(sharded);
}

static void write_tiny(const char *config, const char *header, int fill)
{
	write_text("config.json", config);
	write_weights("model.safetensors", header, 4, fill);
}

static void the_fingerprint_changes_with_config_name_type_shape_and_bytes(void **state)
{
	static const struct {
		const char *config, *header;
		int fill;
	} rows[] = {
		{tiny_config, "{" EMBEDDING "}", 0},
		{tiny_config, "{" EMBEDDING "}", 1},
		{tiny_config,
			"{\"model.embed_tokens.weight\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [0, "
			"4]}}",
			0},
		{tiny_config,
			"{\"model.embed_tokens.weight\": {\"dtype\": \"F16\", \"shape\": [2, 1], \"data_offsets\": [0, "
			"4]}}",
			0},
		{tiny_config, "{" EMBEDDING ", \"x\": {\"dtype\": \"F16\", \"shape\": [0], \"data_offsets\": [4, 4]}}",
			0},
		{"{\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 8, \"num_hidden_layers\": 1, "
		 "\"num_attention_heads\": 1, \"vocab_size\": 2, \"rope_theta\": 10001}",
			"{" EMBEDDING "}", 0},
	};
	enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
	char prints[ROWS][64];

	(void)state;
	for (int i = 0; i < ROWS; i++) {
		write_tiny(rows[i].config, rows[i].header, rows[i].fill);
		kvs_checkpoint *ckpt = opened(dir);
		snprintf(prints[i], sizeof(prints[i]), "%s", kvs_checkpoint_fingerprint(ckpt));
		kvs_checkpoint_close(ckpt);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(prints[i], prints[j]);
	}
}

/* ---- damaged models are refused, and nothing stays open ---- */

static void a_missing_directory_is_named(void **state)
{
	kvs_checkpoint *ckpt;

	(void)state;
	assert_int_equal(kvs_checkpoint_open("/nonexistent/model", &ckpt), -ENOENT);
	assert_non_null(strstr(kvs_error(), "/nonexistent/model/config.json"));
}

static void missing_files_are_named(void **state)
{
	(void)state;
	assert_refused(-ENOENT, "config.json: no such file");
	write_text("config.json", "");
	assert_refused(-EINVAL, "config.json: line 1");
	write_text("config.json", tiny_config);
	assert_refused(-ENOENT, "neither model.safetensors nor " INDEX);
}

static void a_bad_generation_config_is_refused(void **state)
{
	(void)state;
	write_tiny(tiny_config, "{" EMBEDDING "}", 0);
	write_text("generation_config.json", "{\"eos_token_id\": \"2\"}");
	assert_refused(-EINVAL, "generation_config.json: eos_token_id");
}

static void weights_that_are_no_file_are_refused(void **state)
{
	char path[512];

	(void)state;
	write_text("config.json", tiny_config);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_refused(-EINVAL, "model.safetensors: not a regular file");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0); /* a plain open() would wait for a writer */
	assert_refused(-EINVAL, "model.safetensors: not a regular file");
}

static void json_that_is_no_file_is_refused(void **state)
{
	static const char *const names[] = {"config.json", "generation_config.json", INDEX};
	char path[512];

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		write_text("config.json", tiny_config);
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
		assert_int_equal(mkfifo(path, 0600), 0);
		snprintf(path, sizeof(path), "%s: not a regular file", names[i]);
		assert_refused(-EINVAL, path);
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		assert_int_equal(unlink(path), 0);
	}
}

/* A download that restarts while we read ends in a message; with a mapped file it would end in SIGBUS. */
static void weights_cut_while_they_are_read_are_an_error(void **state)
{
	struct kvs_weight weight;
	char path[512], *bytes;
	kvs_checkpoint *ckpt;

	(void)state;
	copy_file(GOLDEN "qwen3/config.json", "config.json");
	copy_file(GOLDEN "qwen3/model.safetensors", "model.safetensors");
	ckpt = opened(dir);
	assert_int_equal(kvs_checkpoint_weight(ckpt, "model.norm.weight", &weight), 0);
	bytes = malloc(weight.bytes + 1);
	assert_int_equal(kvs_checkpoint_read(ckpt, "model.norm.weight", 0, bytes, weight.bytes), 0);
	assert_int_equal(kvs_checkpoint_read(ckpt, "model.norm.weight", 1, bytes, weight.bytes), -EINVAL);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	assert_int_equal(truncate(path, weight.offset + 1), 0);
	assert_int_equal(kvs_checkpoint_read(ckpt, "model.norm.weight", 0, bytes, weight.bytes), -EIO);
	assert_non_null(strstr(kvs_error(), "model.safetensors: ends at byte "));
	free(bytes);
	kvs_checkpoint_close(ckpt);
}

static void weights_without_an_embedding_are_refused(void **state)
{
	(void)state;
	write_tiny(tiny_config, "{\"x\": {\"dtype\": \"F16\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 0);
	assert_refused(-ENOENT, "model.embed_tokens.weight");
}

static void truncated_weights_are_refused(void **state)
{
	size_t size;
	unsigned char *bytes = read_bytes(GOLDEN "qwen3/model.safetensors", &size);
	const size_t cuts[] = {0, 7, 8, 9, 1000, size / 2, size - 1};

	(void)state;
	copy_file(GOLDEN "qwen3/config.json", "config.json");
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		write_bytes("model.safetensors", bytes, cuts[i]);
		assert_refused(-EINVAL, "model.safetensors: ");
	}
	free(bytes);
}

static void broken_indexes_are_refused_by_name(void **state)
{
	static const struct {
		const char *index, *message;
		int err;
	} rows[] = {
		{"", INDEX ": line 1", -EINVAL},
		{"{}", INDEX ": weight_map is missing", -EINVAL},
		{"{\"weight_map\": []}", INDEX ": weight_map is missing", -EINVAL},
		{"{\"weight_map\": {}}", INDEX ": weight_map is missing or empty", -EINVAL},
		{"{\"weight_map\": {\"w\": 3}}", "weight_map.w is \"(no string)\"", -EINVAL},
		{"{\"weight_map\": {\"w\": \"../a.safetensors\"}}", "weight_map.w is \"../a.safetensors\"", -EINVAL},
		{"{\"weight_map\": {\"w\": \"/etc/passwd\"}}", "which is not a plain file name", -EINVAL},
		{"{\"weight_map\": {\"w\": \"..\"}}", "which is not a plain file name", -EINVAL},
		{"{\"weight_map\": {\"w\": \"\"}}", "which is not a plain file name", -EINVAL},
		{"{\"weight_map\": {\"w\": \"a.safetensors\", \"x\": \"b.safetensors\"}}",
			"weight_map names b.safetensors, which is missing", -ENOENT},
		{"{\"weight_map\": {\"w\": \"a.safetensors\"}}", "weight_map.w is not in a.safetensors", -EINVAL},
		{"{\"weight_map\": {\"model.embed_tokens.weight\": \"d.safetensors\", \"w\": \"a.safetensors\"}}",
			"weight_map.model.embed_tokens.weight is not in d.safetensors", -EINVAL},
		{"{\"weight_map\": {\"w\": \"config.json\"}}", "config.json: ", -EINVAL},
		{"{\"weight_map\": {\"model.embed_tokens.weight\": \"a.safetensors\", \"x\": \"c.safetensors\"}}",
			"model.embed_tokens.weight is in two files", -EINVAL},
	};

	(void)state;
	write_text("config.json", tiny_config);
	write_weights("a.safetensors", "{" EMBEDDING "}", 4, 0);
	write_weights("c.safetensors", "{" EMBEDDING "}", 4, 0);
	write_weights("d.safetensors", "{}", 0, 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		write_text(INDEX, rows[i].index);
		assert_refused(rows[i].err, rows[i].message);
	}
	write_text(INDEX, "{\"weight_map\": {\"model.embed_tokens.weight\": \"a.safetensors\"}}");
	kvs_checkpoint_close(opened(dir)); /* the same directory opens with a correct index */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_models_open_as_what_they_are),
		cmocka_unit_test(generation_config_is_read),
		cmocka_unit_test(a_missing_tensor_is_named),
		cmocka_unit_test_setup_teardown(the_fingerprint_does_not_depend_on_sharding, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(
			the_fingerprint_changes_with_config_name_type_shape_and_bytes, make_dir, remove_dir),
		cmocka_unit_test(a_missing_directory_is_named),
		cmocka_unit_test_setup_teardown(missing_files_are_named, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(a_bad_generation_config_is_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(weights_that_are_no_file_are_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(json_that_is_no_file_is_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(weights_cut_while_they_are_read_are_an_error, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(weights_without_an_embedding_are_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(truncated_weights_are_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(broken_indexes_are_refused_by_name, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
