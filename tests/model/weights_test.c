/*
 * tests/model/weights_test.c: weights on their way to the device: every 16-bit number and back, a matrix of more than
 * one piece, the reach of a checkpoint's fingerprint, and the type of weights that were quantised.
 */
#include "../../model/engine.h"
#include "../../model/gguf.h"
#include "../support/gguf.h"

#include <errno.h>
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

/* Four at a time are what they are one by one: numbers around each half, the largest and what is beyond, NaN. */
static void many_numbers_become_halves_as_one_does(void **state)
{
	enum { COUNT = 3 * 0x8000 + 3 };
	float *values = malloc(COUNT * sizeof(*values));
	uint16_t *together = malloc(COUNT * sizeof(*together)), alone;

	(void)state;
	for (unsigned i = 0; i < COUNT; i++) {
		uint16_t half = (uint16_t)(i / 3 % 0x8000 | (i & 1) << 15);

		model_to_f32(&values[i], &half, KVS_F16, 0, 1);
		values[i] *= i % 3 == 0 ? 1.0f : i % 3 == 1 ? 1.0003f : 40000.0f;
	}
	model_from_f32(together, values, KVS_F16, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		model_from_f32(&alone, &values[i], KVS_F16, 1);
		assert_int_equal(together[i], alone);
	}
	free(values);
	free(together);
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

/* A new checkpoint, and an engine with it on the host device. */
static kvs_engine *open_engine(kvs_cu **cu, kvs_checkpoint **ckpt)
{
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true};
	kvs_engine *engine = NULL;

	assert_int_equal(kvs_cu_open("host", cu), 0);
	assert_int_equal(write_checkpoint(), 0);
	if (kvs_checkpoint_open(dir, ckpt) || kvs_engine_open(*cu, *ckpt, &options, &engine))
		fail_msg("%s", kvs_error());
	return engine;
}

static void close_all(kvs_engine *engine, kvs_checkpoint *ckpt, kvs_cu *cu)
{
	kvs_engine_close(engine);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
}

/* Only a token's own row agrees with it everywhere: each token is its own likeliest successor, wherever its row is. */
static void a_long_matrix_is_converted_to_its_end(void **state)
{
	static const int32_t ids[] = {0, 7, 131071, 131072, 135000, VOCAB - 1};
	kvs_checkpoint *ckpt;
	kvs_cu *cu;
	kvs_engine *engine = open_engine(&cu, &ckpt);

	(void)state;
	for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
		int32_t top = -1;

		assert_int_equal(kvs_engine_truncate(engine, 0, 0), 0);
		assert_int_equal(kvs_engine_append(engine, 0, &ids[i], 1), 0);
		assert_int_equal(kvs_engine_argmax(engine, &top), 0);
		assert_int_equal(top, ids[i]);
	}
	close_all(engine, ckpt, cu);
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

/* ---- weights that stay in their file, as on the host device where its kernels take any type ---- */

static size_t mapped_bytes(kvs_engine *engine)
{
	struct kvs_engine_memory memory;

	assert_int_equal(kvs_engine_memory(engine, &memory), 0);
	assert_true(memory.weights_mapped_bytes < memory.weights_bytes);
	return memory.weights_mapped_bytes;
}

static bool takes_any_type(const kvs_engine *engine)
{
	return engine->mixed_weights;
}

/* All but the gains. One that gets other numbers has them alone: the file's are as they were. */
static void matrices_stay_in_their_file(void **state)
{
	static const char name[] = "model.layers.0.self_attn.o_proj.weight";
	float *values = malloc(DIM * DIM * sizeof(*values)), found[DIM * DIM];
	kvs_checkpoint *ckpt;
	kvs_cu *cu;
	kvs_engine *engine = open_engine(&cu, &ckpt);

	(void)state;
	assert_int_equal(mapped_bytes(engine), takes_any_type(engine) ? 2 * (VOCAB + 7 * DIM) * DIM : 0);
	for (int i = 0; i < DIM * DIM; i++)
		values[i] = 1;
	assert_int_equal(kvs_engine_set_matrix(engine, name, DIM, DIM, KVS_BF16, values), 0);
	if (takes_any_type(engine)) {
		uint16_t row[DIM];
		assert_int_equal(cu->cuMemcpyDtoH(row, engine->weights.layers[0].o.data, sizeof(row)), CUDA_SUCCESS);
		for (int i = 0; i < DIM; i++)
			assert_int_equal(row[i], 0x3f80);
	}
	assert_int_equal(kvs_checkpoint_read_f32(ckpt, name, DIM * DIM, found), 0);
	for (int i = 0; i < DIM * DIM; i++)
		assert_true(found[i] == 0);
	close_all(engine, ckpt, cu);
	free(values);
}

/* Of a file's mappings, what can be touched, and what cannot. */
static void sum_mappings(const char *path, size_t *open, size_t *shut)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], access[5];

	assert_non_null(maps);
	*open = *shut = 0;
	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		if (strstr(line, path) && sscanf(line, "%lx-%lx %4s", &start, &end, access) == 3)
			*(access[0] == 'r' ? open : shut) += end - start;
	}
	fclose(maps);
}

/* Weights that were copied are not in memory twice: their pages cannot come in beside those of weights that stay. */
static void only_weights_that_stay_can_be_touched(void **state)
{
	const struct kvs_engine_options options = {0};
	size_t open, shut, mapped;
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	kvs_cu *cu;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	assert_int_equal(kvs_checkpoint_open("tests/models/storyworld-3m", &ckpt), 0);
	assert_int_equal(kvs_engine_open(cu, ckpt, &options, &engine), 0);
	mapped = mapped_bytes(engine);
	sum_mappings("storyworld-3m/model.safetensors", &open, &shut);
	if (mapped) {
		assert_in_range(open, mapped, mapped + mapped / 4); /* pages are larger than the ends of tensors */
		assert_true(shut > open / 16); /* Q, K and V, which become one matrix, are a sixth of it */
	}
	close_all(engine, ckpt, cu);
}

/* The engine outlives the checkpoint. A file that becomes shorter meanwhile is an error, and ends nothing. */
static void a_file_that_becomes_shorter_ends_in_a_message(void **state)
{
	const int32_t id = VOCAB - 1;
	kvs_checkpoint *ckpt;
	kvs_cu *cu;
	kvs_engine *engine = open_engine(&cu, &ckpt);
	char path[256];
	int32_t top;

	(void)state;
	kvs_checkpoint_close(ckpt);
	assert_int_equal(kvs_engine_append(engine, 0, &id, 1), 0);
	assert_int_equal(kvs_engine_argmax(engine, &top), 0);
	assert_int_equal(top, id);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	assert_int_equal(truncate(path, 4096), 0);
	if (takes_any_type(engine)) {
		int err = kvs_engine_append(engine, 0, &id, 1);
		assert_int_equal(err ? err : kvs_engine_argmax(engine, &top), -EIO);
	}
	kvs_engine_close(engine);
	kvs_cu_close(cu);
}

/* ---- quantised weights, which the host keeps as they are where it can ---- */

enum { IDS = 64, BLOCK = 34, Q8_0 = 8, F32 = 0 };

/* Q8_0: a half times 32 signed bytes; here 1 times 127, 126 and so on. */
static void put_matrix(struct gguf_writer *to, const char *name, int rows)
{
	uint8_t blocks[IDS][BLOCK];

	for (int r = 0; r < rows; r++) {
		blocks[r][0] = 0;
		blocks[r][1] = 0x3c;
		for (int i = 0; i < DIM; i++)
			blocks[r][2 + i] = (uint8_t)(127 - i);
	}
	gguf_tensor(to, name, Q8_0, rows, DIM, blocks, (size_t)rows * BLOCK);
}

static void put_f32(struct gguf_writer *to, const char *name, float factor)
{
	float values[DIM][DIM];

	for (int r = 0; r < DIM; r++) {
		for (int i = 0; i < DIM; i++)
			values[r][i] = factor * (float)(127 - i);
	}
	gguf_tensor(to, name, F32, DIM, DIM, values, sizeof(values));
}

static void put_gain(struct gguf_writer *to, const char *name)
{
	float ones[DIM];

	for (int i = 0; i < DIM; i++)
		ones[i] = 1;
	gguf_tensor(to, name, F32, DIM, 0, ones, sizeof(ones));
}

/* One layer; its matrices are 127, 126 and so on in every row. `mixed`: V has 1024 times as much; it and `up` are F32. */
static void write_gguf(const char *path, bool mixed)
{
	static const char *const small[] = {"attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_down"};
	struct gguf_writer to;
	char name[64];

	gguf_begin(&to);
	gguf_string(&to, "general.architecture", "llama");
	gguf_u32(&to, "llama.block_count", 1);
	gguf_u32(&to, "llama.context_length", 64);
	gguf_u32(&to, "llama.embedding_length", DIM);
	gguf_u32(&to, "llama.feed_forward_length", DIM);
	gguf_u32(&to, "llama.attention.head_count", 1);
	gguf_u32(&to, "llama.attention.head_count_kv", 1);
	gguf_f32(&to, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	gguf_f32(&to, "llama.rope.freq_base", 10000);
	gguf_u32(&to, "llama.rope.dimension_count", DIM);
	put_matrix(&to, "token_embd.weight", IDS);
	put_gain(&to, "output_norm.weight");
	put_gain(&to, "blk.0.attn_norm.weight");
	put_gain(&to, "blk.0.ffn_norm.weight");
	for (size_t i = 0; i < sizeof(small) / sizeof(*small); i++) {
		snprintf(name, sizeof(name), "blk.0.%s.weight", small[i]);
		put_matrix(&to, name, DIM);
	}
	if (mixed) {
		put_f32(&to, "blk.0.attn_v.weight", 1024);
		put_f32(&to, "blk.0.ffn_up.weight", 1);
	} else {
		put_matrix(&to, "blk.0.attn_v.weight", DIM);
		put_matrix(&to, "blk.0.ffn_up.weight", DIM);
	}
	gguf_save(&to, path);
}

static void assert_row(kvs_cu *cu, const kvs_tensor *tensor, int row, enum kvs_dtype dtype, float factor)
{
	float raw[DIM], values[DIM];
	size_t bytes = kvs_row_bytes(dtype, DIM);

	assert_int_equal(tensor->dtype, dtype);
	assert_int_equal(cu->cuMemcpyDtoH(raw, tensor->data + row * bytes, bytes), CUDA_SUCCESS);
	if (kvs_dtype_quantised(dtype))
		model_gguf_dequantize(dtype, raw, values, DIM);
	else
		model_to_f32(values, raw, dtype, 0, DIM);
	for (int i = 0; i < DIM; i++)
		assert_true(values[i] == factor * (float)(127 - i));
}

struct opened {
	kvs_cu *cu;
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	char path[256];
	enum kvs_dtype kept; /* the type of a matrix of Q8_0: on a processor without AVX2 it is f32 */
};

static struct opened open_gguf(bool mixed, enum kvs_dtype kv)
{
	struct kvs_engine_options options = {.kv_dtype = kv, .kv_dtype_set = true};
	struct opened o = {0};

	snprintf(o.path, sizeof(o.path), "%s/m.gguf", dir);
	write_gguf(o.path, mixed);
	assert_int_equal(kvs_cu_open("host", &o.cu), 0);
	if (kvs_checkpoint_open(o.path, &o.ckpt) || kvs_engine_open(o.cu, o.ckpt, &options, &o.engine))
		fail_msg("%s", kvs_error());
	o.kept = kvs_gemm_dtype(o.engine->stream, KVS_Q8_0);
	return o;
}

static void close_gguf(struct opened *o)
{
	kvs_engine_close(o->engine);
	kvs_checkpoint_close(o->ckpt);
	kvs_cu_close(o->cu);
	unlink(o->path);
}

/*
 * The matrix of Q, K and V is f32 as V is beyond f16, and all its parts are whole; gate and up, of two types, are f16, or
 * f32 where that is asked for.
 */
static void check_mixed(enum kvs_dtype kv, enum kvs_dtype expected)
{
	struct opened o = open_gguf(true, kv);
	const struct model_layer *layer = o.engine->weights.layers;

	if (o.kept == KVS_F32)
		expected = KVS_F32;
	assert_row(o.cu, &layer->qkv, 0, KVS_F32, 1);
	assert_row(o.cu, &layer->qkv, 2 * DIM - 1, KVS_F32, 1);
	assert_row(o.cu, &layer->qkv, 3 * DIM - 1, KVS_F32, 1024);
	assert_row(o.cu, &layer->gate_up, 0, expected, 1);
	assert_row(o.cu, &layer->gate_up, 2 * DIM - 1, expected, 1);
	assert_row(o.cu, &layer->o, DIM - 1, o.kept, 1);
	assert_row(o.cu, &layer->down, DIM - 1, o.kept, 1);
	assert_row(o.cu, &o.engine->weights.head, IDS - 1, o.kept, 1);
	close_gguf(&o);
}

/* Rows of Q and K are moved as they are read, and gate and up are apart in this file: those are copied, all else stays. */
static void matrices_of_other_forms_are_copied(void **state)
{
	struct opened o = open_gguf(false, KVS_F16);
	struct model_weights *weights = &o.engine->weights;

	(void)state;
	assert_int_equal(mapped_bytes(o.engine), o.kept == KVS_F32 ? 0 : (IDS + 2 * DIM) * BLOCK);
	assert_row(o.cu, &weights->layers->qkv, 3 * DIM - 1, o.kept, 1);
	assert_row(o.cu, &weights->layers->gate_up, 2 * DIM - 1, o.kept, 1);
	assert_row(o.cu, &weights->layers->down, DIM - 1, o.kept, 1);
	assert_row(o.cu, &weights->embedding, IDS - 1, o.kept, 1);
	close_gguf(&o);
}

static void parts_of_several_types_become_f16_where_they_fit(void **state)
{
	(void)state;
	check_mixed(KVS_F16, KVS_F16);
	check_mixed(KVS_F32, KVS_F32);
}

/* The other parts of its tensor keep all bits, another matrix its type; what is put a second time is there. */
static void a_matrix_put_among_quantised_ones_is_f32(void **state)
{
	static const char name[] = "model.layers.0.self_attn.k_proj.weight";
	struct opened o = open_gguf(false, KVS_F16);
	const struct model_layer *layer = o.engine->weights.layers;
	float values[DIM * DIM];

	(void)state;
	assert_row(o.cu, &layer->qkv, 3 * DIM - 1, o.kept, 1);
	for (int factor = 3; factor < 100000; factor += 90000) {
		for (int i = 0; i < DIM * DIM; i++)
			values[i] = (float)(factor * (127 - i % DIM));
		assert_int_equal(model_weights_put(o.engine, name, KVS_F32, DIM, DIM, values), 0);
		assert_row(o.cu, &layer->qkv, 0, KVS_F32, 1);
		assert_row(o.cu, &layer->qkv, DIM - 1, KVS_F32, 1);
		assert_row(o.cu, &layer->qkv, DIM, KVS_F32, (float)factor);
		assert_row(o.cu, &layer->qkv, 2 * DIM - 1, KVS_F32, (float)factor);
		assert_row(o.cu, &layer->qkv, 2 * DIM, KVS_F32, 1);
		assert_row(o.cu, &layer->qkv, 3 * DIM - 1, KVS_F32, 1);
	}
	assert_row(o.cu, &layer->o, 0, o.kept, 1);
	close_gguf(&o);
}

/* In the type that it was loaded in, from where it lay; so often as may be, memory is taken once. */
static void the_checkpoints_matrix_comes_back(void **state)
{
	static const char name[] = "model.layers.0.self_attn.q_proj.weight";
	struct opened o = open_gguf(false, KVS_F16);
	const struct model_layer *layer = o.engine->weights.layers;
	kvs_tensor before = layer->qkv;
	float values[DIM * DIM] = {0};
	size_t bytes = 0;

	(void)state;
	assert_int_equal(kvs_engine_reset_matrix(o.engine, o.ckpt, name), 0); /* which changes nothing */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kvs_engine_set_matrix(o.engine, name, DIM, DIM, KVS_F32, values), 0);
		assert_row(o.cu, &layer->qkv, 0, KVS_F32, 0);
		assert_row(o.cu, &layer->qkv, DIM, KVS_F32, 1);
		assert_true(!bytes || bytes == o.engine->weights.bytes);
		bytes = o.engine->weights.bytes;
		assert_int_equal(kvs_engine_reset_matrix(o.engine, o.ckpt, name), 0);
		assert_true(layer->qkv.data == before.data);
		assert_row(o.cu, &layer->qkv, 0, o.kept, 1);
		assert_row(o.cu, &layer->qkv, 3 * DIM - 1, o.kept, 1);
	}
	close_gguf(&o);
}

/* The head is the embedding. */
static void an_embedding_that_is_put_is_the_head_too(void **state)
{
	struct opened o = open_gguf(false, KVS_F16);
	float values[IDS * DIM];

	(void)state;
	for (int i = 0; i < IDS * DIM; i++)
		values[i] = (float)(7 * (127 - i % DIM));
	assert_int_equal(model_weights_put(o.engine, "model.embed_tokens.weight", KVS_F32, IDS, DIM, values), 0);
	assert_row(o.cu, &o.engine->weights.embedding, IDS - 1, KVS_F32, 7);
	assert_row(o.cu, &o.engine->weights.head, IDS - 1, KVS_F32, 7);
	close_gguf(&o);
}

/* A patch's matrix goes to the type that is there. */
static void a_matrix_beyond_f16_is_not_put_into_one(void **state)
{
	static const char name[] = "model.layers.0.mlp.up_proj.weight";
	struct opened o = open_gguf(true, KVS_F16);
	float values[DIM * DIM] = {65504};

	(void)state;
	assert_int_equal(model_weights_put(o.engine, name, KVS_F32, DIM, DIM, values), 0);
	values[DIM] = -65505;
	if (o.kept != KVS_F32) {
		assert_int_equal(model_weights_put(o.engine, name, KVS_F32, DIM, DIM, values), -ERANGE);
		assert_non_null(strstr(kvs_error(), "up_proj.weight has numbers beyond f16"));
	}
	close_gguf(&o);
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
		cmocka_unit_test(many_numbers_become_halves_as_one_does),
		cmocka_unit_test(numbers_round_to_the_nearest_even),
		cmocka_unit_test(a_long_matrix_is_converted_to_its_end),
		cmocka_unit_test(a_fingerprint_looks_at_the_end_of_a_tensor),
		cmocka_unit_test(matrices_stay_in_their_file),
		cmocka_unit_test(only_weights_that_stay_can_be_touched),
		cmocka_unit_test(a_file_that_becomes_shorter_ends_in_a_message),
		cmocka_unit_test(matrices_of_other_forms_are_copied),
		cmocka_unit_test(parts_of_several_types_become_f16_where_they_fit),
		cmocka_unit_test(a_matrix_put_among_quantised_ones_is_f32),
		cmocka_unit_test(the_checkpoints_matrix_comes_back),
		cmocka_unit_test(an_embedding_that_is_put_is_the_head_too),
		cmocka_unit_test(a_matrix_beyond_f16_is_not_put_into_one),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
