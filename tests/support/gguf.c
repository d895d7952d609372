/*
 * tests/support/gguf.c: writing GGUF files for tests.
 */
#include "gguf.h"

#include "../../model/convert.h"
#include "../../model/model.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STORYWORLD "tests/models/storyworld-3m"
enum { U32 = 4, FLOAT = 6, BOOL = 7, STRING = 8, ARRAY = 9 };

static void put(FILE *to, const void *bytes, size_t count)
{
	assert_int_equal(fwrite(bytes, 1, count, to), count);
}

static void put_u32(FILE *to, uint32_t value)
{
	put(to, &value, sizeof(value)); /* this runs only on little-endian machines */
}

static void put_u64(FILE *to, uint64_t value)
{
	put(to, &value, sizeof(value));
}

static void put_text(FILE *to, const char *text)
{
	put_u64(to, strlen(text));
	put(to, text, strlen(text));
}

void gguf_begin(struct gguf_writer *to)
{
	*to = (struct gguf_writer){.version = 3};
	to->keys = open_memstream(&to->key_bytes, &to->key_size);
	to->infos = open_memstream(&to->info_bytes, &to->info_size);
	to->data = open_memstream(&to->data_bytes, &to->data_size);
	assert_true(to->keys && to->infos && to->data);
}

static bool has_key(struct gguf_writer *to, const char *key)
{
	uint64_t length = strlen(key);
	char text[128];

	assert_true(sizeof(length) + length <= sizeof(text));
	memcpy(text, &length, sizeof(length));
	memcpy(text + sizeof(length), key, length);
	return memmem(to->key_bytes, to->key_size, text, sizeof(length) + length) != NULL;
}

static void put_key(struct gguf_writer *to, const char *key, uint32_t type)
{
	if (to->dropped)
		assert_int_equal(fseek(to->keys, to->dropped, SEEK_SET), 0);
	assert_int_equal(fflush(to->keys), 0);
	to->dropped = !to->doubles && has_key(to, key) ? ftell(to->keys) : 0;
	to->key_count -= to->dropped != 0;
	put_text(to->keys, key);
	put_u32(to->keys, type);
	to->key_count++;
}

void gguf_u32(struct gguf_writer *to, const char *key, uint32_t value)
{
	put_key(to, key, U32);
	put_u32(to->keys, value);
}

void gguf_f32(struct gguf_writer *to, const char *key, float value)
{
	put_key(to, key, FLOAT);
	put(to->keys, &value, sizeof(value));
}

void gguf_bool(struct gguf_writer *to, const char *key, bool value)
{
	put_key(to, key, BOOL);
	put(to->keys, value ? "\1" : "\0", 1);
}

void gguf_string(struct gguf_writer *to, const char *key, const char *value)
{
	put_key(to, key, STRING);
	put_text(to->keys, value);
}

static void put_list(struct gguf_writer *to, const char *key, uint32_t type, size_t count)
{
	put_key(to, key, ARRAY);
	put_u32(to->keys, type);
	put_u64(to->keys, count);
}

void gguf_strings(struct gguf_writer *to, const char *key, const char *const *list, size_t count)
{
	put_list(to, key, STRING, count);
	for (size_t i = 0; i < count; i++)
		put_text(to->keys, list[i]);
}

void gguf_list(struct gguf_writer *to, const char *key, uint32_t type, const void *list, size_t count, size_t bytes)
{
	put_list(to, key, type, count);
	put(to->keys, list, bytes * count);
}

void gguf_numbers(struct gguf_writer *to, const char *key, uint32_t type, const void *list, size_t count)
{
	gguf_list(to, key, type, list, count, 4);
}

void gguf_tensor(struct gguf_writer *to, const char *name, uint32_t type, uint64_t rows, uint64_t cols,
	const void *data, size_t bytes)
{
	put_text(to->infos, name);
	put_u32(to->infos, cols ? 2 : 1);
	if (cols)
		put_u64(to->infos, cols);
	put_u64(to->infos, rows);
	put_u32(to->infos, type);
	fflush(to->data);
	put_u64(to->infos, to->data_size);
	put(to->data, data, bytes);
	for (; bytes % 32; bytes++)
		fputc(0, to->data);
	to->tensor_count++;
}

char *gguf_end(struct gguf_writer *to, size_t *bytes)
{
	char *all;
	FILE *file = open_memstream(&all, bytes);

	assert_non_null(file);
	assert_int_equal(fclose(to->keys) | fclose(to->infos) | fclose(to->data), 0);
	put(file, "GGUF", 4);
	put_u32(file, to->version);
	to->key_size = to->dropped ? (size_t)to->dropped : to->key_size;
	put_u64(file, to->tensor_count);
	put_u64(file, to->key_count);
	put(file, to->key_bytes, to->key_size);
	put(file, to->info_bytes, to->info_size);
	while (ftell(file) % 32)
		fputc(0, file);
	put(file, to->data_bytes, to->data_size);
	assert_int_equal(fclose(file), 0);
	free(to->key_bytes);
	free(to->info_bytes);
	free(to->data_bytes);
	return all;
}

void gguf_save(struct gguf_writer *to, const char *path)
{
	size_t bytes;
	char *all = gguf_end(to, &bytes);
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	put(file, all, bytes);
	assert_int_equal(fclose(file), 0);
	free(all);
}

/* ---- models ---- */

static const char *merge_text(const json_t *merge, char text[256])
{
	if (json_is_string(merge))
		return json_string_value(merge);
	snprintf(text, 256, "%s %s", json_string_value(json_array_get(merge, 0)),
		json_string_value(json_array_get(merge, 1)));
	return text;
}

static void put_merges(struct gguf_writer *to, const json_t *merges)
{
	char text[256];

	put_list(to, "tokenizer.ggml.merges", STRING, json_array_size(merges));
	for (size_t i = 0; i < json_array_size(merges); i++)
		put_text(to->keys, merge_text(json_array_get(merges, i), text));
}

/* Ids without a token get a name, as in llama.cpp's converter. */
static void put_tokens(struct gguf_writer *to, const json_t *vocab, const json_t *added, size_t count)
{
	const char **tokens = calloc(count, sizeof(*tokens));
	int32_t *types = calloc(count, sizeof(*types));
	const char *text;
	json_t *value;
	size_t i;

	json_object_foreach((json_t *)vocab, text, value)
	{
		tokens[json_integer_value(value)] = text;
		types[json_integer_value(value)] = 1;
	}
	json_array_foreach((json_t *)added, i, value)
	{
		json_int_t id = json_integer_value(json_object_get(value, "id"));
		tokens[id] = json_string_value(json_object_get(value, "content"));
		types[id] = json_is_true(json_object_get(value, "special")) ? 3 : 4;
	}
	for (i = 0; i < count; i++)
		assert_non_null(tokens[i]);
	gguf_strings(to, "tokenizer.ggml.tokens", tokens, count);
	gguf_numbers(to, "tokenizer.ggml.token_type", 5, types, count);
	free(tokens);
	free(types);
}

void gguf_tokenizer(struct gguf_writer *to, const char *json, const char *pre)
{
	json_t *root = json_load_file(json, 0, NULL), *added, *value;
	size_t count = 0, i;
	const char *text;
	const json_t *vocab;

	assert_non_null(root);
	added = json_object_get(root, "added_tokens");
	vocab = json_object_get(json_object_get(root, "model"), "vocab");
	json_object_foreach((json_t *)vocab, text, value) count =
		(size_t)json_integer_value(value) + 1 > count ? (size_t)json_integer_value(value) + 1 : count;
	json_array_foreach(added, i, value)
	{
		size_t id = json_integer_value(json_object_get(value, "id"));
		count = id + 1 > count ? id + 1 : count;
	}
	gguf_string(to, "tokenizer.ggml.model", "gpt2");
	gguf_string(to, "tokenizer.ggml.pre", pre);
	put_tokens(to, vocab, added, count);
	put_merges(to, json_object_get(json_object_get(root, "model"), "merges"));
	json_decref(root);
}

void gguf_storyworld_keys(struct gguf_writer *to)
{
	gguf_string(to, "general.architecture", "llama");
	gguf_u32(to, "llama.block_count", 16);
	gguf_u32(to, "llama.context_length", 2048);
	gguf_u32(to, "llama.embedding_length", 128);
	gguf_u32(to, "llama.feed_forward_length", 352);
	gguf_u32(to, "llama.attention.head_count", 4);
	gguf_u32(to, "llama.attention.head_count_kv", 2);
	gguf_f32(to, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	gguf_f32(to, "llama.rope.freq_base", 10000);
	gguf_u32(to, "llama.rope.dimension_count", 32);
	gguf_tokenizer(to, STORYWORLD "/tokenizer.json", "gpt-2");
	gguf_u32(to, "tokenizer.ggml.bos_token_id", 0);
	gguf_u32(to, "tokenizer.ggml.eos_token_id", 1);
}

/* llama.cpp's converter: reshape(heads, 2, rows / heads / 2, cols).swapaxes(1, 2). */
static void move_rows(float *rows, size_t count, size_t cols, size_t heads)
{
	float *from = malloc(count * cols * sizeof(*from));
	size_t half = count / heads / 2, at = 0;

	memcpy(from, rows, count * cols * sizeof(*from));
	for (size_t h = 0; h < heads; h++)
		for (size_t i = 0; i < half; i++)
			for (size_t j = 0; j < 2; j++)
				memcpy(rows + cols * at++, from + cols * ((h * 2 + j) * half + i),
					cols * sizeof(*from));
	free(from);
}

/* A block of Q8_0, and what it is worth. */
static void quantise(float values[32], uint8_t block[34])
{
	float largest = 0, scale;

	for (int i = 0; i < 32; i++)
		largest = fabsf(values[i]) > largest ? fabsf(values[i]) : largest;
	scale = largest / 127;
	model_from_f32(block, &scale, KVS_F16, 1);
	model_to_f32(&scale, block, KVS_F16, 0, 1);
	for (int i = 0; i < 32; i++) {
		int quant = scale > 0 ? (int)lrintf(values[i] / scale) : 0;
		block[2 + i] = (uint8_t)(quant > 127 ? 127 : quant < -127 ? -127 : quant);
		values[i] = (float)(int8_t)block[2 + i] * scale;
	}
}

static void put_matrix(struct gguf_writer *to, const char *name, uint64_t rows, uint64_t cols, float *values)
{
	size_t count = rows * cols;
	uint8_t *blocks = malloc(count / 32 * 34);

	for (size_t i = 0; i < count / 32 && to->matrices != GGUF_PLAIN; i++)
		quantise(values + 32 * i, blocks + 34 * i);
	if (to->matrices == GGUF_Q8_0)
		gguf_tensor(to, name, 8, rows, cols, blocks, count / 32 * 34);
	else
		gguf_tensor(to, name, 0, rows, cols, values, 4 * count);
	free(blocks);
}

static void put_weight(struct gguf_writer *to, const kvs_checkpoint *ckpt, const char *theirs, const char *ours)
{
	struct kvs_weight weight;
	size_t count;
	float *values;
	void *raw;

	assert_int_equal(kvs_checkpoint_weight(ckpt, theirs, &weight), 0);
	count = weight.bytes / kvs_dtype_bytes(weight.dtype);
	raw = malloc(weight.bytes);
	values = malloc(count * sizeof(*values));
	assert_int_equal(kvs_checkpoint_read(ckpt, theirs, 0, raw, weight.bytes), 0);
	model_to_f32(values, raw, weight.dtype, 0, count);
	if (strstr(theirs, "q_proj") || strstr(theirs, "k_proj"))
		move_rows(values, weight.shape[0], weight.shape[1], strstr(theirs, "q_proj") ? 4 : 2);
	if (weight.rank > 1)
		put_matrix(to, ours, weight.shape[0], weight.shape[1], values);
	else
		gguf_tensor(to, ours, 0, weight.shape[0], 0, values, 4 * count);
	free(values);
	free(raw);
}

void gguf_storyworld_tensors(struct gguf_writer *to, int part, int parts)
{
	static const char *const names[][2] = {{"input_layernorm", "attn_norm"},
		{"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"},
		{"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
		{"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"}};
	kvs_checkpoint *ckpt;
	char theirs[96], ours[64];

	assert_int_equal(kvs_checkpoint_open(STORYWORLD, &ckpt), 0);
	if (part == 0)
		put_weight(to, ckpt, "model.embed_tokens.weight", "token_embd.weight");
	for (int l = part; l < 16; l += parts) {
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
			snprintf(theirs, sizeof(theirs), "model.layers.%d.%s.weight", l, names[i][0]);
			snprintf(ours, sizeof(ours), "blk.%d.%s.weight", l, names[i][1]);
			put_weight(to, ckpt, theirs, ours);
		}
	}
	if (part == parts - 1)
		put_weight(to, ckpt, "model.norm.weight", "output_norm.weight");
	kvs_checkpoint_close(ckpt);
}
