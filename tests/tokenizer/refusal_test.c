/*
 * tests/tokenizer/refusal_test.c: unsupported and damaged tokenizers are refused, with the names of file and field.
 *
 * Each row is a change to a small valid tokenizer, and a part of the message. Then the files of tests/golden/tokenizers
 * are cut and flipped at many places.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../driver/cu.h"
#include "../../model/model.h"

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<u>\":3}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"
#define SPLIT(pattern)                                                                                                 \
	"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" pattern           \
	"\"}}," MODEL "}"
#define ADDED(more) "{\"added_tokens\":[{\"content\":\"<x>\"," more "}]," MODEL "}"

static const struct row {
	const char *json, *says;
} rows[] = {
	{"", "line 1"},
	{"[]", "holds no JSON object"},
	{"{}", "model must be an object"},
	{"{\"model\":{\"type\":\"Unigram\"}}", "model.type is \"Unigram\": not supported"},
	{"{\"model\":{\"vocab\":{},\"merges\":[]}}", "model.vocab"},
	{"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "model.vocab[\"a\"]"},
	{"{\"model\":{\"vocab\":{\"a\":1000000000},\"merges\":[]}}", "model.vocab[\"a\"]"},
	{"{\"model\":{\"vocab\":{\"a\":1.5},\"merges\":[]}}", "model.vocab[\"a\"]"},
	{"{\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}", "id 1 belongs to"},
	{"{\"model\":{" VOCAB "}}", "model.merges must be a list"},
	{"{\"model\":{" VOCAB ",\"merges\":[\"a c\"]}}", "model.merges[0]"},
	{"{\"model\":{" VOCAB ",\"merges\":[\"b a\"]}}", "model.merges[0]"},
	{"{\"model\":{" VOCAB ",\"merges\":[\"a b\",\"ab\"]}}", "model.merges[1] is not a pair"},
	{"{\"model\":{" VOCAB ",\"merges\":[\"a  b\"]}}", "model.merges[0] is not a pair"},
	{"{\"model\":{" VOCAB ",\"merges\":[[\"a\"]]}}", "model.merges[0] is not a pair"},
	{"{\"model\":{" VOCAB ",\"merges\":[],\"unk_token\":\"?\"}}", "model.unk_token"},
	{"{\"model\":{" VOCAB ",\"merges\":[],\"dropout\":0.1}}", "model.dropout"},
	{"{\"model\":{" VOCAB ",\"merges\":[],\"continuing_subword_prefix\":\"##\"}}",
		"model.continuing_subword_prefix"},
	{"{\"model\":{" VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", "model.end_of_word_suffix"},
	{"{\"model\":{" VOCAB ",\"merges\":[],\"byte_fallback\":1}}", "model.byte_fallback"},
	{"{\"normalizer\":{\"type\":\"NFKC\"}," MODEL "}", "normalizer.type is \"NFKC\": not supported"},
	{"{\"normalizer\":{}," MODEL "}", "normalizer.type is missing"},
	{"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}," MODEL
	 "}",
		"normalizer.normalizers[1].type is \"Lowercase\""},
	{"{\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}," MODEL "}", "normalizer.pattern"},
	{"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," MODEL "}",
		"tokenizer.json: pre_tokenizer.type is \"BertPreTokenizer\": not supported"},
	{"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}," MODEL "}", "pre_tokenizer.replacement"},
	{"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}," MODEL "}",
		"pre_tokenizer.prepend_scheme is \"last\""},
	{"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Contiguous\",\"pattern\":{\"String\":\"a\"}}," MODEL
	 "}",
		"pre_tokenizer.behavior is \"Contiguous\""},
	{SPLIT("\\\\w+"), "pre_tokenizer.pattern: \"\\w\" in a regular expression: not supported"},
	{SPLIT("a\\\\b"), "\"\\b\""},
	{SPLIT("[a&&b]"), "\"&&\""},
	{SPLIT("[a[b]]"), "\"[b\""},
	{SPLIT("(?i:ss)"), "\"(?i:ss\" in a regular expression"},
	{SPLIT("(?i:\xc3\xa9)"), "in a regular expression"},
	{SPLIT("\xea\x9f\x8b+"),
		"\"\xea\x9f\x8b\" in a regular expression"}, /* U+A7CB, of Unicode 16: text has a stand-in */
	{SPLIT("(?m:a)"), "\"(?m:\""},
	{SPLIT("(*FAIL)"), "\"(*\""},
	{SPLIT("a{2}+"), "\"{2}+\""},
	{SPLIT("a{2}?"), "\"{2}?\""},
	{SPLIT("\\\\P{M}{2,}?b"), "\"{2,}?\""},
	{SPLIT("(a"), "pre_tokenizer.pattern is not a regular expression"},
	{SPLIT("\\\\p{Klingon}"), "pre_tokenizer.pattern is not a regular expression"},
	{SPLIT("((a{1,999}){1,999}){1,999}"), "pre_tokenizer.pattern is not a regular expression"},
	{SPLIT("a\\\\"), "pre_tokenizer.pattern"},
	{ADDED("\"id\":7"), "added_tokens[0].id is 7 for \"<x>\", but the vocabulary gives it 4"},
	{ADDED("\"id\":-1"), "added_tokens[0].id"},
	{ADDED("\"id\":1000000000"), "added_tokens[0].id"},
	{ADDED("\"id\":4,\"special\":3"), "added_tokens[0].special"},
	{"{\"added_tokens\":[{\"id\":4}]," MODEL "}", "added_tokens[0].content"},
	{"{\"added_tokens\":[1]," MODEL "}", "added_tokens[0] is not an object"},
	{"{\"added_tokens\":{}," MODEL "}", "added_tokens is not a list"},
	{"{\"added_tokens\":[{\"id\":4,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]," MODEL "}", "added_tokens[1]"},
	{"{\"post_processor\":{\"type\":\"RobertaProcessing\"}," MODEL "}",
		"post_processor.type is \"RobertaProcessing\""},
	{"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," MODEL "}", "post_processor.single"},
	{"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}]}," MODEL
	 "}",
		"special_tokens lacks ids for \"<s>\""},
	{"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}}],"
	 "\"special_tokens\":"
	 "{\"s\":{\"ids\":[99]}}}," MODEL "}",
		"special_tokens[\"s\"].ids[0] must be an id below 4"},
	{"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", "decoder.type is \"WordPiece\": not supported"},
	{"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}," MODEL "}", "decoder.stop is 1"},
	{"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}," MODEL
	 "}",
		"decoder.decoders[1].type is \"ByteFallback\" after Fuse"},
};

static void unsupported_and_damaged_parts_are_refused_by_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		kvs_tokenizer *tok = NULL;

		if (kvs_tokenizer_parse(rows[i].json, strlen(rows[i].json), "tokenizer.json", &tok) != -EINVAL)
			fail_msg("row %zu was taken: %s", i, rows[i].json);
		assert_null(tok);
		if (strncmp(kvs_error(), "tokenizer.json: ", 16) || !strstr(kvs_error(), rows[i].says))
			fail_msg("row %zu: the message is \"%s\", expected \"%s\"", i, kvs_error(), rows[i].says);
	}
}

static void the_smallest_tokenizer_loads(void **state)
{
	kvs_tokenizer *tok;
	int32_t *ids;
	size_t count;

	(void)state;
	assert_int_equal(kvs_tokenizer_parse("{" MODEL "}", strlen("{" MODEL "}"), "tokenizer.json", &tok), 0);
	assert_int_equal(kvs_tokenizer_vocab(tok), 4);
	assert_int_equal(kvs_tokenizer_id(tok, "ab"), 2);
	assert_int_equal(kvs_tokenizer_id(tok, "abc"), -1);
	assert_int_equal(kvs_tokenizer_encode(tok, "abbxa", 5, true, &ids, &count), 0);
	assert_int_equal(count, 3); /* no unk: x gives no id */
	assert_int_equal(ids[0], 2);
	free(ids);
	kvs_tokenizer_close(tok);
}

static void a_missing_file_is_told_from_a_bad_one(void **state)
{
	kvs_tokenizer *tok;

	(void)state;
	assert_int_equal(kvs_tokenizer_open("tests/no-such-model", &tok), -ENOENT);
	assert_non_null(strstr(kvs_error(), "tests/no-such-model/tokenizer.json"));
}

/* ---- damage ---- */

static uint64_t random_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
	return *seed >> 33;
}

static size_t read_family(const char *family, char *json, size_t room)
{
	char path[128];
	FILE *file;
	size_t bytes;

	snprintf(path, sizeof(path), "tests/golden/tokenizers/%s.json", family);
	file = fopen(path, "r");
	if (!file)
		fail_msg("%s: %s", path, strerror(errno));
	bytes = fread(json, 1, room, file);
	fclose(file);
	return bytes;
}

/* A flip may leave another valid tokenizer: then it must work. */
static void try_damaged(const char *json, size_t bytes)
{
	static const char text[] = "Anna's red key, 12 \xc3\xa9<s> \xff";
	kvs_tokenizer *tok;
	int32_t *ids;
	size_t count, len;
	char *back;

	if (kvs_tokenizer_parse(json, bytes, "damaged.json", &tok)) {
		assert_memory_equal(kvs_error(), "damaged.json", 12);
		return;
	}
	if (!kvs_tokenizer_encode(tok, text, sizeof(text) - 1, true, &ids, &count)) {
		assert_int_equal(kvs_tokenizer_decode(tok, ids, count, false, &back, &len), 0);
		free(back);
		free(ids);
	}
	kvs_tokenizer_close(tok);
}

static void damaged_files_are_refused_or_still_work(void **state)
{
	static const char *const families[] = {"gpt2", "llama3", "qwen2", "llama2", "mistral", "odd"};
	static char whole[200 * 1024], json[200 * 1024];
	const char *set = getenv("KVS_TEST_SEED");
	uint64_t seed = set ? strtoull(set, NULL, 0) : 20261123;

	(void)state;
	print_message("KVS_TEST_SEED=%llu\n", (unsigned long long)seed);
	for (size_t f = 0; f < 6; f++) {
		size_t bytes = read_family(families[f], whole, sizeof(whole));

		for (int i = 0; i < 40; i++) {
			memcpy(json, whole, bytes);
			try_damaged(json, random_next(&seed) % bytes);
			for (int flips = 1 + i % 3; flips; flips--) /* the parts that matter most are at the front */
				json[random_next(&seed) % (i % 2 ? bytes : 1500)] ^=
					(char)(1 << random_next(&seed) % 7);
			try_damaged(json, bytes);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unsupported_and_damaged_parts_are_refused_by_name),
		cmocka_unit_test(the_smallest_tokenizer_loads),
		cmocka_unit_test(a_missing_file_is_told_from_a_bad_one),
		cmocka_unit_test(damaged_files_are_refused_or_still_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
