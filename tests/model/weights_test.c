/*
 * tests/model/weights_test.c: weights on their way to the device: every 16-bit number and back, a matrix of more than
 * one piece, and the reach of a checkpoint's fingerprint.
 */
#include "../../model/engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* By the definition: sign, five bits of exponent biased by 15, ten of fraction. */
static double value_of_half(unsigned bits)
{
	int exponent = bits >> 10 & 31, fraction = bits & 1023;
	double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
			   : exponent     ? ldexp(1024 + fraction, exponent - 25)
					  : ldexp(fraction, -24);

	return bits >> 15 ? -magnitude : magnitude;
}

static void every_half_has_its_value_and_comes_back(void **state)
{
	(void)state;
	for (unsigned bits = 0; bits < 1 << 16; bits++) {
		uint16_t half = (uint16_t)bits, back;
		double expected = value_of_half(bits);
		float value;

		model_to_f32(&value, &half, KVS_F16, 0, 1);
		model_from_f32(&back, &value, KVS_F16, 1);
		if (isnan(expected)) {
			assert_true(isnan(value));
			assert_true(isnan(value_of_half(back)));
			continue;
		}
		assert_true(value == expected);
		assert_int_equal(back, bits);
	}
}

/* Halfway between two neighbours, the one whose last bit is 0; otherwise the nearer one. */
static void assert_rounds(enum kvs_dtype dtype, uint16_t low)
{
	uint16_t neighbours[2] = {low, low + 1}, rounded[3];
	float ends[2], between[3];

	model_to_f32(ends, neighbours, dtype, 0, 2);
	between[1] = ends[0] + (ends[1] - ends[0]) / 2;
	between[0] = nextafterf(between[1], ends[0]);
	between[2] = nextafterf(between[1], ends[1]);
	model_from_f32(rounded, between, dtype, 3);
	assert_int_equal(rounded[0], low);
	assert_int_equal(rounded[1], low + low % 2);
	assert_int_equal(rounded[2], low + 1);
}

static void numbers_round_to_the_nearest_even(void **state)
{
	(void)state;
	for (unsigned bits = 0; bits < 0x7bff; bits++) {
		assert_rounds(KVS_F16, (uint16_t)bits);
		assert_rounds(KVS_F16, (uint16_t)(bits | 0x8000));
	}
	for (unsigned bits = 0x80; bits < 0x7f7f; bits += 7) {
		assert_rounds(KVS_BF16, (uint16_t)bits);
		assert_rounds(KVS_BF16, (uint16_t)(bits | 0x8000));
	}
}

/* ---- a checkpoint of one layer that does nothing: the logits of a token are its row against all rows ---- */

enum { DIM = 32, VOCAB = 140000 }; /* more elements than are converted at once */

static const char config[] =
	"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"num_hidden_layers\": 1, "
	"\"hidden_size\": 32, \"intermediate_size\": 32, \"num_attention_heads\": 1, \"num_key_value_heads\": 1, "
	"\"vocab_size\": 140000, \"max_position_embeddings\": 64, \"tie_word_embeddings\": true}";

static const struct {
	const char *name;
	int rows; /* of DIM; 0: a gain */
} tensors[] = {
	{"model.embed_tokens.weight", VOCAB},
	{"model.layers.0.input_layernorm.weight", 0},
	{"model.layers.0.self_attn.q_proj.weight", DIM},
	{"model.layers.0.self_attn.k_proj.weight", DIM},
	{"model.layers.0.self_attn.v_proj.weight", DIM},
	{"model.layers.0.self_attn.o_proj.weight", DIM},
	{"model.layers.0.post_attention_layernorm.weight", 0},
	{"model.layers.0.mlp.gate_proj.weight", DIM},
	{"model.layers.0.mlp.up_proj.weight", DIM},
	{"model.layers.0.mlp.down_proj.weight", DIM},
	{"model.norm.weight", 0},
};
#define TENSORS (sizeof(tensors) / sizeof(*tensors))

static char dir[] = "/tmp/kvshare-weights-XXXXXX";

static FILE *create(const char *name)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "wb");
	assert_non_null(file);
	return file;
}

static size_t elements_of(size_t i)
{
	return tensors[i].rows ? (size_t)tensors[i].rows * DIM : DIM;
}

static void put_header(FILE *file)
{
	char header[4096] = "{";
	size_t length = 1, at = 0;

	for (size_t i = 0; i < TENSORS; i++) {
		char shape[32];

		snprintf(shape, sizeof(shape), tensors[i].rows ? "%d, 32" : "32", tensors[i].rows);
		length += snprintf(header + length, sizeof(header) - length,
			"%s\"%s\": {\"dtype\": \"BF16\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}", i ? ", " : "",
			tensors[i].name, shape, at, at + 2 * elements_of(i));
		at += 2 * elements_of(i);
	}
	header[length++] = '}';
	for (int i = 0; i < 8; i++)
		fputc((int)(length >> 8 * i & 255), file);
	fwrite(header, 1, length, file);
}

/* Rows of the embedding hold 1 and -1 according to a hash of the id, gains are 1, all else is 0. */
static void put_data(FILE *file)
{
	const uint16_t one = 0x3f80;

	for (size_t i = 0; i < TENSORS; i++) {
		for (size_t e = 0; e < elements_of(i); e++) {
			uint32_t hash = (uint32_t)(e / DIM + 1) * 2654435761u;
			uint16_t value = tensors[i].rows ? 0 : one;

			if (i == 0)
				value = (hash ^ hash >> 15) >> e % DIM & 1 ? one : one | 0x8000;
			fwrite(&value, 2, 1, file);
		}
	}
}

static int write_checkpoint(void)
{
	FILE *file = create("config.json");

	fputs(config, file);
	if (fclose(file))
		return -1;
	file = create("model.safetensors");
	put_header(file);
	put_data(file);
	return fclose(file);
}

static int open_engine(kvs_cu *cu, kvs_checkpoint **ckpt, kvs_engine **engine)
{
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true};
	int err = kvs_checkpoint_open(dir, ckpt);

	return err ? err : kvs_engine_open(cu, *ckpt, &options, engine);
}

/* Only a token's own row agrees with it everywhere: each token is its own likeliest successor, wherever its row is. */
static void a_long_matrix_is_converted_to_its_end(void **state)
{
	static const int32_t ids[] = {0, 7, 131071, 131072, 135000, VOCAB - 1};
	kvs_checkpoint *ckpt = NULL;
	kvs_engine *engine = NULL;
	kvs_cu *cu;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	assert_int_equal(write_checkpoint(), 0);
	if (open_engine(cu, &ckpt, &engine))
		fail_msg("%s", kvs_error());
	for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
		int32_t top = -1;

		assert_int_equal(kvs_engine_truncate(engine, 0, 0), 0);
		assert_int_equal(kvs_engine_append(engine, 0, &ids[i], 1), 0);
		assert_int_equal(kvs_engine_argmax(engine, &top), 0);
		assert_int_equal(top, ids[i]);
	}
	kvs_engine_close(engine);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
}

static void print_of(char *print, size_t bytes)
{
	kvs_checkpoint *ckpt;

	if (kvs_checkpoint_open(dir, &ckpt))
		fail_msg("%s", kvs_error());
	snprintf(print, bytes, "%s", kvs_checkpoint_fingerprint(ckpt));
	kvs_checkpoint_close(ckpt);
}

/* Changes one byte of the file. */
static void change(long from_end)
{
	char path[256], byte;
	FILE *file;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	file = fopen(path, "r+b");
	assert_non_null(file);
	assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
	assert_int_equal(fread(&byte, 1, 1, file), 1);
	byte ^= 1;
	assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
	assert_int_equal(fwrite(&byte, 1, 1, file), 1);
	assert_int_equal(fclose(file), 0);
}

/* A fine-tuned model differs from its base all over, but may well begin with the same bytes. */
static void a_fingerprint_looks_at_the_end_of_a_tensor(void **state)
{
	char before[64], after[64];
	size_t small = 0;

	(void)state;
	for (size_t i = 1; i < TENSORS; i++)
		small += 2 * elements_of(i);
	assert_int_equal(write_checkpoint(), 0);
	print_of(before, sizeof(before));
	change((long)small + 16); /* near the last byte of the embedding */
	print_of(after, sizeof(after));
	assert_string_not_equal(before, after);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char path[256];

	(void)state;
	snprintf(path, sizeof(path), "%s/config.json", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_half_has_its_value_and_comes_back),
		cmocka_unit_test(numbers_round_to_the_nearest_even),
		cmocka_unit_test(a_long_matrix_is_converted_to_its_end),
		cmocka_unit_test(a_fingerprint_looks_at_the_end_of_a_tensor),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
