/*
 * tests/checkpoint/gguf_test.c: GGUF files: every type's numbers are those of the gguf Python package, a model has the
 * weights, configuration and tokens that it has in safetensors, and what is damaged or not read is refused by name.
 */
#include "../../model/gguf.h"
#include "../../driver/cu.h"
#include "../../model/model.h"
#include "../support/gguf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

static char folder[] = "/tmp/kvs-gguf-XXXXXX";

static const char *in_folder(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

/* ---- types ---- */

static const struct gguf_tensor *find(const struct model_gguf *gguf, const char *name)
{
	for (size_t i = 0; i < model_gguf_count(gguf); i++)
		if (gguf_text_is(model_gguf_tensor(gguf, i)->name, name))
			return model_gguf_tensor(gguf, i);
	return NULL;
}

/* Also from the middle of a block to the middle of another. */
static void compare_type(const struct model_file *file, const struct gguf_tensor *packed, const struct gguf_tensor *f32)
{
	size_t count = f32->shape[1];
	float *got = malloc(4 * count), *wanted = malloc(4 * count);

	assert_int_equal(packed->shape[1], f32->shape[1]);
	assert_int_equal(model_gguf_read(file, f32, 0, wanted, count), 0);
	assert_int_equal(model_gguf_read(file, packed, 0, got, count), 0);
	if (memcmp(got, wanted, 4 * count))
		fail_msg("%s differs from the gguf package", packed->type->name);
	memset(got, 0, 4 * count);
	assert_int_equal(model_gguf_read(file, packed, 7, got, count - 12), 0);
	assert_memory_equal(got, wanted + 7, 4 * (count - 12));
	free(got);
	free(wanted);
}

static void every_type_equals_the_gguf_package(void **state)
{
	struct model_file file;
	struct model_gguf *gguf;
	int pairs = 0;

	(void)state;
	assert_int_equal(model_file_open_path("tests/golden/gguf/types.gguf", &file), 0);
	assert_int_equal(model_gguf_open(&file, "types.gguf", &gguf), 0);
	for (size_t i = 0; i < model_gguf_count(gguf); i++) {
		const struct gguf_tensor *packed = model_gguf_tensor(gguf, i), *f32;
		char name[32];
		snprintf(name, sizeof(name), "%.*s.f32", (int)packed->name.len, packed->name.at);
		f32 = find(gguf, name);
		if (!f32)
			continue;
		compare_type(&file, packed, f32);
		pairs++;
	}
	assert_int_equal(pairs, 12);
	model_gguf_close(gguf);
	model_file_close(&file);
}

/* ---- a model ---- */

static float *read_weight(const kvs_checkpoint *ckpt, const char *name, size_t *count)
{
	struct kvs_weight weight;
	float *out;
	char *raw;

	if (kvs_checkpoint_weight(ckpt, name, &weight))
		fail_msg("%s", kvs_error());
	*count = weight.bytes / kvs_dtype_bytes(weight.dtype);
	raw = malloc(weight.bytes);
	out = malloc(4 * *count);
	/* Two reads, cut within a row. */
	size_t first = *count / 3 * kvs_dtype_bytes(weight.dtype);
	assert_int_equal(kvs_checkpoint_read(ckpt, name, 0, raw, first), 0);
	assert_int_equal(kvs_checkpoint_read(ckpt, name, first, raw + first, weight.bytes - first), 0);
	for (size_t i = 0; i < *count; i++) {
		uint32_t bits = 0;
		memcpy((char *)&bits + 4 - kvs_dtype_bytes(weight.dtype), raw + i * kvs_dtype_bytes(weight.dtype),
			kvs_dtype_bytes(weight.dtype)); /* f32 or bf16 */
		memcpy(&out[i], &bits, 4);
	}
	free(raw);
	return out;
}

static void compare_weight(const kvs_checkpoint *a, const kvs_checkpoint *b, const char *name)
{
	size_t count_a, count_b;
	float *from_a = read_weight(a, name, &count_a), *from_b = read_weight(b, name, &count_b);

	assert_int_equal(count_a, count_b);
	if (memcmp(from_a, from_b, 4 * count_a))
		fail_msg("%s differs", name);
	free(from_a);
	free(from_b);
}

static void compare_model(const char *path)
{
	static const char *const parts[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_proj",
		"self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
		"mlp.down_proj"};
	kvs_checkpoint *theirs, *ours;
	char name[96], *warnings;

	assert_int_equal(kvs_checkpoint_open(MODEL, &theirs), 0);
	if (kvs_checkpoint_open(path, &ours))
		fail_msg("%s", kvs_error());
	compare_weight(theirs, ours, "model.embed_tokens.weight");
	compare_weight(theirs, ours, "model.norm.weight");
	for (int l = 0; l < 16; l++) {
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
			snprintf(name, sizeof(name), "model.layers.%d.%s.weight", l, parts[i]);
			compare_weight(theirs, ours, name);
		}
	}
	const struct kvs_config *a = kvs_checkpoint_config(theirs), *b = kvs_checkpoint_config(ours);
	assert_int_equal(a->vocab, b->vocab);
	assert_int_equal(a->head_dim, b->head_dim);
	assert_int_equal(a->kv_heads, b->kv_heads);
	assert_int_equal(a->max_positions, b->max_positions);
	assert_true(a->rms_eps == b->rms_eps && a->rope.theta == b->rope.theta);
	assert_true(b->tied_embeddings && b->bos == 0 && b->eos_count == 1 && b->eos[0] == 1);
	assert_int_equal(b->dtype, KVS_F32);
	assert_int_equal(kvs_checkpoint_warnings(ours, &warnings), 0);
	assert_string_equal(warnings, "");
	free(warnings);
	kvs_checkpoint_close(theirs);
	kvs_checkpoint_close(ours);
}

static void a_model_has_the_weights_of_its_safetensors(void **state)
{
	struct gguf_writer to;

	(void)state;
	for (uint32_t version = 2; version <= 3; version++) {
		gguf_begin(&to);
		to.version = version;
		gguf_storyworld_keys(&to);
		gguf_storyworld_tensors(&to, 0, 1);
		gguf_save(&to, in_folder("whole.gguf"));
		compare_model(in_folder("whole.gguf"));
	}
}

/* What the third part says of itself; 0 and NULL: nothing. */
struct third {
	int number;
	const char *architecture;
	int total, extra; /* extra: tensors that no other part counts */
};
enum { TENSORS = 16 * 9 + 2 }; /* of storyworld-3m */

static void write_parts(const struct third *third)
{
	static const float one[1];
	struct gguf_writer to;
	char name[64];

	for (int part = 0; part < 3; part++) {
		gguf_begin(&to);
		if (part == 0)
			gguf_storyworld_keys(&to);
		if (part == 2 && third->architecture)
			gguf_string(&to, "general.architecture", third->architecture);
		if (part != 2 || third->number >= 0)
			gguf_u32(&to, "split.no", part == 2 ? third->number : part);
		gguf_u32(&to, "split.count", 3);
		gguf_u32(&to, "split.tensors.count", part == 2 && third->total ? third->total : TENSORS);
		for (int i = 0; i < third->extra && part == 2; i++)
			gguf_tensor(&to, "extra", 0, 1, 0, one, sizeof(one));
		gguf_storyworld_tensors(&to, part, 3);
		snprintf(name, sizeof(name), "m-%05d-of-00003.gguf", part + 1);
		gguf_save(&to, in_folder(name));
	}
}

static void fails_with(const char *path, const char *said)
{
	kvs_checkpoint *ckpt;

	assert_true(kvs_checkpoint_open(path, &ckpt) < 0);
	if (!strstr(kvs_error(), said))
		fail_msg("\"%s\" is not in: %s", said, kvs_error());
}

static void a_split_model_is_one(void **state)
{
	(void)state;
	write_parts(&(struct third){.number = 2, .architecture = "llama"});
	compare_model(in_folder("m-00001-of-00003.gguf"));
	write_parts(&(struct third){.number = 2});
	compare_model(in_folder("m-00001-of-00003.gguf"));
	fails_with(in_folder("m-00002-of-00003.gguf"), "give the first");
	write_parts(&(struct third){.number = 1});
	fails_with(in_folder("m-00001-of-00003.gguf"), "says that it is part 2 of 3");
	write_parts(&(struct third){.number = 2, .architecture = "qwen2"});
	fails_with(in_folder("m-00001-of-00003.gguf"), "00003-of-00003.gguf: general.architecture is another than in");
	write_parts(&(struct third){.number = 2, .total = 7});
	fails_with(in_folder("m-00001-of-00003.gguf"), "00003-of-00003.gguf: split.tensors.count is 7, in ");
	write_parts(&(struct third){.number = 2, .extra = 1});
	fails_with(in_folder("m-00001-of-00003.gguf"), "split.tensors.count is 146, its parts have 147");
	write_parts(&(struct third){.number = 2, .extra = 2});
	fails_with(in_folder("m-00001-of-00003.gguf"), "00003-of-00003.gguf: extra is there twice");
	write_parts(&(struct third){.number = -1});
	fails_with(in_folder("m-00001-of-00003.gguf"), "does not say which part of a model it is");
	assert_int_equal(unlink(in_folder("m-00002-of-00003.gguf")), 0);
	fails_with(in_folder("m-00001-of-00003.gguf"), "m-00002-of-00003.gguf: no such file");
}

/* A first part of keys alone; what tensors say of the model is taken from the second. */
static void tensors_of_any_part_count(void **state)
{
	static const float factors[16] = {1, 2, 3};
	struct gguf_writer to;

	(void)state;
	for (int scaled = 0; scaled < 2; scaled++) {
		gguf_begin(&to);
		gguf_storyworld_keys(&to);
		gguf_u32(&to, "split.no", 0);
		gguf_u32(&to, "split.count", 2);
		gguf_save(&to, in_folder("k-00001-of-00002.gguf"));
		gguf_begin(&to);
		gguf_u32(&to, "split.no", 1);
		gguf_u32(&to, "split.count", 2);
		gguf_storyworld_tensors(&to, 0, 1);
		if (scaled)
			gguf_tensor(&to, "rope_freqs.weight", 0, 16, 0, factors, sizeof(factors));
		gguf_save(&to, in_folder("k-00002-of-00002.gguf"));
		if (scaled)
			fails_with(in_folder("k-00001-of-00002.gguf"), "rope_freqs.weight is not Llama 3's");
		else
			compare_model(in_folder("k-00001-of-00002.gguf"));
	}
}

/* ---- tokens ---- */

static void same_tokens(const char *json_folder, const char *gguf)
{
	kvs_tokenizer *theirs, *ours;
	FILE *file = fopen("tests/golden/tokenizers/strings.txt", "r");
	char *line = NULL;
	size_t room = 0;
	ssize_t length;

	assert_non_null(file);
	assert_int_equal(kvs_tokenizer_open(json_folder, &theirs), 0);
	if (kvs_tokenizer_open(gguf, &ours))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_tokenizer_vocab(theirs), kvs_tokenizer_vocab(ours));
	while ((length = getline(&line, &room, file)) > 0) {
		int32_t *a, *b;
		size_t count_a, count_b;
		assert_int_equal(kvs_tokenizer_encode(theirs, line, length, false, &a, &count_a), 0);
		assert_int_equal(kvs_tokenizer_encode(ours, line, length, false, &b, &count_b), 0);
		if (count_a != count_b || memcmp(a, b, 4 * count_a))
			fail_msg("other ids in %s for: %s", gguf, line);
		free(a);
		free(b);
	}
	free(line);
	fclose(file);
	kvs_tokenizer_close(theirs);
	kvs_tokenizer_close(ours);
}

/* The families' own tokenizer.json and the same vocabulary in a GGUF file give the same ids. */
static void a_vocabulary_gives_the_ids_of_its_tokenizer_json(void **state)
{
	static const char *const families[][2] = {
		{"gpt2", "gpt-2"}, {"smollm", "smollm"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}};
	struct gguf_writer to;
	char json[128], command[512];

	(void)state;
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		snprintf(json, sizeof(json), "tests/golden/tokenizers/%s.json", families[i][0]);
		snprintf(command, sizeof(command), "cp %s %s/tokenizer.json", json, folder);
		assert_int_equal(system(command), 0);
		gguf_begin(&to);
		gguf_tokenizer(&to, json, families[i][1]);
		gguf_save(&to, in_folder("vocabulary.gguf"));
		same_tokens(folder, in_folder("vocabulary.gguf"));
	}
}

static void check_ids(const kvs_tokenizer *tok, const char *text, bool special, const int32_t *wanted, size_t count)
{
	int32_t *ids;
	size_t got;
	char *back;
	size_t bytes;

	assert_int_equal(kvs_tokenizer_encode(tok, text, strlen(text), special, &ids, &got), 0);
	assert_int_equal(got, count);
	assert_memory_equal(ids, wanted, 4 * count);
	assert_int_equal(kvs_tokenizer_decode(tok, ids, got, true, &back, &bytes), 0);
	assert_string_equal(back, text);
	free(back);
	free(ids);
}

enum { FIXED = 11 }; /* tokens that are no bytes */

/* A SentencePiece vocabulary in which "ab" has a better score than "bc". */
static void put_scored(struct gguf_writer *to)
{
	static const char *const own[FIXED] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "c", "ab", "bc",
		("\xe2\x96\x81"
		 "ab"),
		"abc"};
	static const float own_scores[FIXED] = {0, 0, 0, -5, -6, -7, -8, -2, -3, -1, -9};
	const char *tokens[FIXED + 256];
	char bytes[256][8];
	int32_t types[FIXED + 256] = {2, 3, 3};
	float scores[FIXED + 256] = {0};

	for (int i = 0; i < FIXED + 256; i++) {
		if (i >= FIXED)
			snprintf(bytes[i - FIXED], sizeof(bytes[0]), "<0x%02X>", (unsigned)(i - FIXED));
		tokens[i] = i < FIXED ? own[i] : bytes[i - FIXED];
		scores[i] = i < FIXED ? own_scores[i] : 0;
		types[i] = i >= FIXED ? 6 : types[i] ? types[i] : 1;
	}
	gguf_string(to, "tokenizer.ggml.model", "llama");
	gguf_strings(to, "tokenizer.ggml.tokens", tokens, FIXED + 256);
	gguf_numbers(to, "tokenizer.ggml.token_type", 5, types, FIXED + 256);
	gguf_numbers(to, "tokenizer.ggml.scores", 6, scores, FIXED + 256);
	gguf_u32(to, "tokenizer.ggml.bos_token_id", 1);
	gguf_u32(to, "tokenizer.ggml.eos_token_id", 2);
	gguf_u32(to, "tokenizer.ggml.unknown_token_id", 0);
}

static kvs_tokenizer *save_and_open(struct gguf_writer *to)
{
	kvs_tokenizer *tok;

	gguf_save(to, in_folder("spm.gguf"));
	if (kvs_tokenizer_open(in_folder("spm.gguf"), &tok))
		fail_msg("%s", kvs_error());
	return tok;
}

/* SentencePiece's rules, by hand: bytes stand for what is missing, a space is put in front, and BOS. */
static void scores_say_what_is_joined_first(void **state)
{
	struct gguf_writer to;
	kvs_tokenizer *tok;

	(void)state;
	gguf_begin(&to);
	put_scored(&to);
	tok = save_and_open(&to);
	check_ids(tok, "abc", false, (const int32_t[]){9, 6}, 2);
	check_ids(tok, "babc", true, (const int32_t[]){1, 3, 5, 10}, 4);
	check_ids(tok, "bcb", false, (const int32_t[]){3, 8, 5}, 3);
	check_ids(tok, "a\n", false, (const int32_t[]){3, 4, FIXED + 10}, 3);
	kvs_tokenizer_close(tok);
}

static void a_file_says_what_is_put_around_a_text(void **state)
{
	static const struct {
		bool bos, eos, space;
		int32_t ids[4];
		size_t count;
	} files[] = {
		{true, false, true, {1, 9, 6}, 3},
		{false, false, true, {9, 6}, 2},
		{true, true, true, {1, 9, 6, 2}, 4},
		{false, true, false, {10, 2}, 2},
	};
	struct gguf_writer to;
	kvs_tokenizer *tok;

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		gguf_begin(&to);
		put_scored(&to);
		gguf_bool(&to, "tokenizer.ggml.add_bos_token", files[i].bos);
		gguf_bool(&to, "tokenizer.ggml.add_eos_token", files[i].eos);
		gguf_bool(&to, "tokenizer.ggml.add_space_prefix", files[i].space);
		tok = save_and_open(&to);
		check_ids(tok, "abc", true, files[i].ids, files[i].count);
		kvs_tokenizer_close(tok);
	}
}

/* Each of `types` is the second token's; a list of 64 bits does not wrap to one that is allowed. */
static void types_of_tokens_are_checked(void **state)
{
	static const struct {
		uint32_t type; /* of GGUF: i32, i64 */
		uint32_t words[4];
		const char *said;
	} lists[] = {
		{5, {1, 3}, NULL},
		{5, {1, 0}, "tokenizer.ggml.token_type[1] is 0, allowed are 1 to 6"},
		{5, {1, 7}, "token_type[1] is 7"},
		{5, {1, UINT32_MAX}, "token_type[1] is -1"},
		{11, {1, 0, 3, 1}, "token_type[1] is 4294967299"},
	};
	static const char *const tokens[] = {"a", "b"};
	struct gguf_writer to;
	kvs_tokenizer *tok;

	(void)state;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		gguf_begin(&to);
		gguf_string(&to, "tokenizer.ggml.model", "gpt2");
		gguf_string(&to, "tokenizer.ggml.pre", "gpt-2");
		gguf_strings(&to, "tokenizer.ggml.tokens", tokens, 2);
		gguf_strings(&to, "tokenizer.ggml.merges", tokens, 0);
		gguf_list(
			&to, "tokenizer.ggml.token_type", lists[i].type, lists[i].words, 2, lists[i].type == 5 ? 4 : 8);
		gguf_save(&to, in_folder("types.gguf"));
		int err = kvs_tokenizer_open(in_folder("types.gguf"), &tok);
		if (!lists[i].said && err)
			fail_msg("%s", kvs_error());
		if (lists[i].said && (!err || !strstr(kvs_error(), lists[i].said)))
			fail_msg("\"%s\" is not in: %s", lists[i].said, err ? kvs_error() : "is read");
		kvs_tokenizer_close(tok);
	}
}

/* Every cut of a token of one letter is two tokens: 300 of them have 45,000 cuts. */
static void tokens_made_to_be_cut_are_refused(void **state)
{
	enum { COUNT = 300 };
	static char text[COUNT * 512 + 1];
	static const struct {
		int step; /* bytes that a token is longer than the one before */
		const char *said;
	} rows[] = {{1, "can be cut into each other in more than 64 ways each"},
		{512, "are longer than those of any vocabulary"}};
	const char *tokens[COUNT];
	int32_t types[COUNT];
	float scores[COUNT] = {0};

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		struct gguf_writer to;
		kvs_tokenizer *tok;
		for (int i = 0; i < COUNT; i++) {
			tokens[i] = text + sizeof(text) - 1 - (i + 1) * rows[r].step;
			types[i] = 1;
		}
		gguf_begin(&to);
		gguf_string(&to, "tokenizer.ggml.model", "llama");
		gguf_strings(&to, "tokenizer.ggml.tokens", tokens, COUNT);
		gguf_numbers(&to, "tokenizer.ggml.token_type", 5, types, COUNT);
		gguf_numbers(&to, "tokenizer.ggml.scores", 6, scores, COUNT);
		gguf_save(&to, in_folder("cuts.gguf"));
		assert_int_equal(kvs_tokenizer_open(in_folder("cuts.gguf"), &tok), -EINVAL);
		if (!strstr(kvs_error(), rows[r].said))
			fail_msg("\"%s\" is not in: %s", rows[r].said, kvs_error());
	}
}

/* ---- refusals ---- */

struct refusal {
	void (*change)(struct gguf_writer *to);
	const char *said;
};

static void change_architecture(struct gguf_writer *to)
{
	gguf_string(to, "general.architecture", "gemma3");
}

static void change_experts(struct gguf_writer *to)
{
	gguf_u32(to, "llama.expert_count", 8);
}

static void change_rotation(struct gguf_writer *to)
{
	gguf_u32(to, "llama.rope.dimension_count", 16);
}

static void change_key_twice(struct gguf_writer *to)
{
	to->doubles = true;
	gguf_u32(to, "llama.block_count", 2);
}

static void change_unknown_key(struct gguf_writer *to)
{
	gguf_f32(to, "llama.attention.clamp_kqv", 8);
}

static void change_vocabulary(struct gguf_writer *to)
{
	gguf_u32(to, "llama.vocab_size", 1000);
}

/* token_embd has 1,024 rows. */
static void put_tokens(struct gguf_writer *to, int count)
{
	static char texts[1025][8];
	const char *tokens[1025];
	int32_t types[1025];

	for (int i = 0; i < count; i++) {
		snprintf(texts[i], sizeof(texts[i]), "t%d", i);
		tokens[i] = texts[i];
		types[i] = 1;
	}
	gguf_strings(to, "tokenizer.ggml.tokens", tokens, count);
	gguf_numbers(to, "tokenizer.ggml.token_type", 5, types, count);
}

static void change_tokens(struct gguf_writer *to)
{
	put_tokens(to, 1025);
}

static void change_fewer_tokens(struct gguf_writer *to)
{
	put_tokens(to, 1023);
}

static void change_long_name(struct gguf_writer *to)
{
	static const float one[1];

	gguf_tensor(
		to, "blk.0.a_name_of_64_bytes_is_the_longest_that_the_format_allows.bias", 0, 1, 0, one, sizeof(one));
}

static void change_control_name(struct gguf_writer *to)
{
	static const float one[1];

	gguf_tensor(to, "extra\nkvshare-run: warning: no", 0, 1, 0, one, sizeof(one));
}

static void change_key_type(struct gguf_writer *to)
{
	gguf_string(to, "llama.block_count", "16");
}

static void change_scaling(struct gguf_writer *to)
{
	gguf_string(to, "llama.rope.scaling.type", "longrope");
}

static void change_type(struct gguf_writer *to)
{
	static const char block[84];

	gguf_tensor(to, "extra", 10 /* Q2_K */, 1, 256, block, sizeof(block));
}

static void change_factors(struct gguf_writer *to)
{
	static const float factors[16] = {1, 2, 3};

	gguf_tensor(to, "rope_freqs.weight", 0, 16, 0, factors, sizeof(factors));
}

static void change_alignment(struct gguf_writer *to)
{
	static const float values[8];

	gguf_u32(to, "general.alignment", 48);
	gguf_tensor(to, "one", 0, 8, 0, values, sizeof(values));
	gguf_tensor(to, "other", 0, 8, 0, values, sizeof(values));
}

static void change_version(struct gguf_writer *to)
{
	to->version = 0x03000000;
}

static void change_count(struct gguf_writer *to)
{
	to->tensor_count = 1ull << 60;
}

static void change_keys(struct gguf_writer *to)
{
	to->key_count = 65537;
}

static void change_key_count(struct gguf_writer *to)
{
	to->key_count = 1 << 16;
}

/* The keys that a change adds come first, and so are found first. */
static void what_is_not_read_is_refused_by_name(void **state)
{
	static const struct refusal refusals[] = {
		{change_architecture, "general.architecture is \"gemma3\""},
		{change_experts, "llama.expert_count is 8"},
		{change_rotation, "llama.rope.dimension_count is 16"},
		{change_unknown_key, "llama.attention.clamp_kqv: not supported"},
		{change_vocabulary, "llama.vocab_size is 1000, token_embd.weight has 1024 rows"},
		{change_tokens, "tokenizer.ggml.tokens has 1025 entries, token_embd.weight 1024 rows"},
		{change_fewer_tokens, "tokenizer.ggml.tokens has 1023 entries, token_embd.weight 1024 rows"},
		{change_long_name, "has a name that is empty, of more than 64 bytes"},
		{change_control_name, "or of control characters"},
		{change_keys, "the number of keys is"},
		{change_key_type, "llama.block_count is a string"},
		{change_scaling, "\"longrope\""},
		{change_type, "tensor extra is Q2_K"},
		{change_factors, "rope_freqs.weight is not Llama 3's"},
		{change_alignment, "not aligned"},
		{change_version, "big-endian"},
		{change_key_twice, "has the key llama.block_count twice"},
		{change_count, "the number of tensors"},
		{change_key_count, "truncated"},
	};
	float *embedding = calloc(1024 * 128, 4);
	struct gguf_writer to;

	(void)state;
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		gguf_begin(&to);
		gguf_tensor(&to, "token_embd.weight", 0, 1024, 128, embedding, 1024 * 128 * 4);
		refusals[i].change(&to);
		gguf_storyworld_keys(&to);
		if (refusals[i].change == change_key_count)
			to.key_count = 1 << 16;
		gguf_save(&to, in_folder("refused.gguf"));
		fails_with(in_folder("refused.gguf"), refusals[i].said);
	}
	free(embedding);
}

/* Two tensors of 64 bytes, at `offset` bytes the second. */
static int parse_with_offset(uint64_t offset)
{
	static const float values[16];
	struct gguf_writer to;
	struct model_gguf *gguf;
	size_t bytes;
	uint64_t second = 64;
	char *file, *at;
	int err;

	gguf_begin(&to);
	gguf_tensor(&to, "a", 0, 16, 0, values, sizeof(values));
	gguf_tensor(&to, "b", 0, 16, 0, values, sizeof(values));
	file = gguf_end(&to, &bytes);
	at = memmem(file, bytes, &second, sizeof(second)); /* no other number of this header is 64 */
	assert_non_null(at);
	memcpy(at, &offset, sizeof(offset));
	err = model_gguf_parse(file, bytes, bytes, "placed", &gguf);
	model_gguf_close(gguf);
	free(file);
	return err;
}

static void tensors_lie_in_the_file_and_apart(void **state)
{
	static const struct {
		uint64_t offset;
		const char *said;
	} rows[] = {{64, NULL}, {0, "lies on another tensor"}, {32, "lies on another tensor"},
		{96, "lies beyond the file's end"}, {1ull << 40, "lies beyond the file's end"},
		{UINT64_MAX - 31, "lies beyond the file's end"}, {65, "not aligned"}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int err = parse_with_offset(rows[i].offset);
		if (err ? !rows[i].said || !strstr(kvs_error(), rows[i].said) : rows[i].said != NULL)
			fail_msg("offset %llu: %s", (unsigned long long)rows[i].offset, err ? kvs_error() : "is read");
	}
}

/* Any cut and any changed byte of a header ends in an error or in tensors that lie in the file. */
static void a_damaged_header_does_no_harm(void **state)
{
	static const float gain[32];
	const char *const tokens[] = {"a", "b"};
	struct gguf_writer to;
	struct model_gguf *gguf;
	size_t bytes;
	char *file;

	(void)state;
	gguf_begin(&to);
	gguf_string(&to, "general.architecture", "llama");
	gguf_u32(&to, "llama.block_count", 1);
	gguf_strings(&to, "tokenizer.ggml.tokens", tokens, 2);
	gguf_tensor(&to, "output_norm.weight", 0, 32, 0, gain, sizeof(gain));
	gguf_tensor(&to, "x", 0, 16, 2, gain, sizeof(gain));
	file = gguf_end(&to, &bytes);
	for (size_t cut = 0; cut < bytes; cut++) {
		assert_int_equal(model_gguf_parse(file, cut, cut, "cut", &gguf), -EINVAL);
		assert_null(gguf);
	}
	for (size_t i = 0; i < bytes - sizeof(gain); i++) {
		for (int bit = 0; bit < 8; bit++) {
			file[i] ^= (char)(1 << bit);
			if (!model_gguf_parse(file, bytes, bytes, "changed", &gguf)) {
				for (size_t t = 0; t < model_gguf_count(gguf); t++)
					assert_true(model_gguf_tensor(gguf, t)->offset +
							    model_gguf_tensor(gguf, t)->bytes <=
						    bytes);
				model_gguf_close(gguf);
			}
			file[i] ^= (char)(1 << bit);
		}
	}
	free(file);
}

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_equals_the_gguf_package),
		cmocka_unit_test(a_model_has_the_weights_of_its_safetensors),
		cmocka_unit_test(a_split_model_is_one),
		cmocka_unit_test(tensors_of_any_part_count),
		cmocka_unit_test(a_vocabulary_gives_the_ids_of_its_tokenizer_json),
		cmocka_unit_test(scores_say_what_is_joined_first),
		cmocka_unit_test(a_file_says_what_is_put_around_a_text),
		cmocka_unit_test(types_of_tokens_are_checked),
		cmocka_unit_test(tokens_made_to_be_cut_are_refused),
		cmocka_unit_test(what_is_not_read_is_refused_by_name),
		cmocka_unit_test(tensors_lie_in_the_file_and_apart),
		cmocka_unit_test(a_damaged_header_does_no_harm),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
