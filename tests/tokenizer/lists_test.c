/*
 * tests/tokenizer/lists_test.c: what scan.c reads of a tokenizer.json is what jansson reads, and large vocabularies load quickly.
 *
 * jansson reads a vocabulary whose name is written with an escape, which the walk does not look into; both ways must give the same
 * tokenizer. Whatever is not plain must be left to jansson.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../driver/cu.h"
#include "../../model/tokenizer/tokenizer.h"

#define MERGE "\"merges\":[[\"a\",\"b\"]]"
#define AB "\"a\":0,\"b\":1,\"ab\":2"
#define WITH_VOCAB(more) "{\"model\":{\"vocab\":{" AB "," more "}," MERGE "}}"

static const char *const plain[] = {
	"{\"model\":{\"vocab\":{" AB "},\"merges\":[]}}",
	"{\"model\":{\"merges\":[\"#version: 0.2\",\"a b\"],\"type\":\"BPE\",\"vocab\":{" AB "}}}",
	" \n{\t\"x\" : [ {\"model\":\"}\"} , -1.5e3,null ,\"\\\\\\\"]\" ],\"model\" :\r{ \"vocab\" : { \"a\" : 0 , "
	"\"b\":1,\"ab\" "
	": 2 } , \"merges\" : [ [ \"a\" , \"b\" ] , \"a b\"] , \"unk_token\" : \"a\" } , \"version\":\"1.0\" } ",
	WITH_VOCAB("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":7"),
	WITH_VOCAB("\"\\u0120\\u00e9\\uABCD\\uFfFf\\u0001\":7,\"\\ud83d\\ude00x\\uD800\\uDC00\":8"),
	WITH_VOCAB("\"\xc4\xa0\xe2\x96\x81\xf0\x9f\x98\x80\x7f\":7,\"\":9"),
	"{\"model\":{\"vocab\":{" AB ",\"\\u0061a\":9},\"merges\":[[\"\\u0061\",\"a\"],\"\\u0061\\u0020b\"]}}",
};

static const char *const not_plain[] = {
	WITH_VOCAB("\"\\u0000\":7"),
	WITH_VOCAB("\"\\ud800\":7"),
	WITH_VOCAB("\"\\ud800\\u0041\":7"),
	WITH_VOCAB("\"\\udc00\\ud800\":7"),
	WITH_VOCAB("\"\\u00g0\":7"),
	WITH_VOCAB("\"\\u001\x10\":7"),
	WITH_VOCAB("\"\\x41\":7"),
	WITH_VOCAB("\"\xc3\":7"),
	WITH_VOCAB("\"\xc0\xaf\":7"),
	WITH_VOCAB("\"\xed\xa0\x80\":7"),
	WITH_VOCAB("\"\n\":7"),
	WITH_VOCAB("\"c\":07"),
	WITH_VOCAB("\"c\":00"),
	WITH_VOCAB("\"c\":-0"),
	WITH_VOCAB("\"c\":7.0"),
	WITH_VOCAB("\"c\":7e0"),
	WITH_VOCAB("\"c\":"),
	WITH_VOCAB("\"c\":99999999999999999999"),
	WITH_VOCAB("\"c\":2097152"),
	WITH_VOCAB("\"c\":7,"),
	WITH_VOCAB("\"c\" 7"),
	WITH_VOCAB("c:7"),
	WITH_VOCAB("\"c\":\"7\""),
	"{\"model\":{\"vocab\":{" AB "}," MERGE "}",
	"{\"model\":{\"vocab\":{" AB "}," MERGE "}}}",
	"{\"model\":{\"vocab\":{" AB "}," MERGE ",\"x\":tru}}",
	"{\"model\":{\"vocab\":{" AB "}," MERGE ",\"x\":[}]}}",
	"{\"model\":{\"vocab\":{" AB "}," MERGE ",\"vocab\":{" AB "}}}",
	"{\"model\":{\"vocab\":{" AB "}," MERGE ",\"voc\\u0061b\":{" AB "}}}",
	"{\"model\":{\"vocab\":{" AB "}},\"model\":{" MERGE "}}",
	"{\"model\":{\"vocab\":{}," MERGE "}}",
	"{\"model\":{\"vocab\":{" AB "}}}",
	"{\"model\":{" MERGE "}}",
	"{\"model\":{\"vocab\":{" AB "},\"merges\":[[\"a\",\"b\",\"c\"]]}}",
	"{\"model\":{\"vocab\":{" AB "},\"merges\":[\"a  b\"]}}",
	"{\"model\":{\"vocab\":{" AB "},\"merges\":[\"ab\"]}}",
	"{\"model\":{\"vocab\":{" AB "},\"merges\":[[\"a\",\"b\"],]}}",
	"{\"model\":[\"vocab\",{" AB "},"
	"\"merges\"]}",
	"[]",
	"",
};

static bool scans(const char *json, size_t bytes)
{
	struct tok_lists lists = {0};
	json_t *rest;
	bool read = tok_scan(json, bytes, "tokenizer.json", &lists, &rest);

	if (read)
		json_decref(rest);
	tok_lists_clear(&lists);
	return read;
}

static kvs_tokenizer *parse(const char *json, size_t bytes)
{
	kvs_tokenizer *tok;

	if (kvs_tokenizer_parse(json, bytes, "tokenizer.json", &tok))
		fail_msg("%s", kvs_error());
	return tok;
}

static void assert_equal(const kvs_tokenizer *a, const kvs_tokenizer *b)
{
	assert_int_equal(a->vocab.ids, b->vocab.ids);
	assert_int_equal(a->merges.used, b->merges.used);
	for (int32_t id = 0; id < a->vocab.ids; id++) {
		size_t len[2];
		const char *text[2] = {tok_vocab_text(&a->vocab, id, &len[0]), tok_vocab_text(&b->vocab, id, &len[1])};

		assert_int_equal(!text[0], !text[1]);
		if (!text[0])
			continue;
		assert_int_equal(len[0], len[1]);
		assert_memory_equal(text[0], text[1], len[0]);
		assert_int_equal(tok_vocab_find(&a->vocab, text[0], len[0]), id);
	}
	for (size_t i = 0; i < a->merges.slot_count; i++) {
		const struct tok_pair_slot *x = &a->merges.slots[i], *y;
		if (x->id < 0)
			continue;
		y = tok_pair_map_find(&b->merges, (uint32_t)(x->key >> 32), (uint32_t)x->key);
		assert_non_null(y);
		assert_true(x->id == y->id && x->rank == y->rank);
	}
}

/* The same file for jansson: the last "vocab" is the model's. */
static void compare_with_jansson(const char *json, size_t bytes)
{
	char *other = malloc(bytes + 6), *end = memcpy(other, json, bytes);
	kvs_tokenizer *a, *b;

	for (char *at = other; (at = memmem(at, bytes - (size_t)(at - other), "\"vocab\"", 7)); at++)
		end = at;
	memcpy(end, "\"voc\\u0061b\"", 12);
	memcpy(end + 12, json + (end - other) + 7, bytes - (size_t)(end - other) - 7);
	assert_true(scans(json, bytes));
	assert_false(scans(other, bytes + 5));
	a = parse(json, bytes);
	b = parse(other, bytes + 5);
	assert_equal(a, b);
	kvs_tokenizer_close(a);
	kvs_tokenizer_close(b);
	free(other);
}

static char *read_family(const char *family, size_t *bytes)
{
	char path[128], *json = NULL;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "tests/golden/tokenizers/%s.json", family);
	file = fopen(path, "r");
	assert_non_null(file);
	*bytes = (size_t)getdelim(&json, &room, EOF, file);
	fclose(file);
	return json;
}

static void plain_files_are_read_as_jansson_does(void **state)
{
	static const char *const families[] = {"gpt2", "llama3", "qwen2", "llama2", "mistral", "odd"};

	(void)state;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		compare_with_jansson(plain[i], strlen(plain[i]));
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		size_t bytes;
		char *json = read_family(families[i], &bytes);

		compare_with_jansson(json, bytes);
		free(json);
	}
}

static void anything_else_is_left_to_jansson(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(not_plain) / sizeof(not_plain[0]); i++)
		if (scans(not_plain[i], strlen(not_plain[i])))
			fail_msg("read: %s", not_plain[i]);
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		for (size_t cut = 0; cut + 1 < strlen(plain[i]); cut++) {
			char *part = malloc(cut + 1); /* on the heap, so that a sanitizer sees a step too far */

			assert_false(scans(memcpy(part, plain[i], cut), cut));
			free(part);
		}
}

static void a_token_that_is_there_twice_is_refused(void **state)
{
	static const char json[] = WITH_VOCAB("\"\\u0061\":7");
	kvs_tokenizer *tok;

	(void)state;
	assert_true(scans(json, strlen(json)));
	assert_int_equal(kvs_tokenizer_parse(json, strlen(json), "tokenizer.json", &tok), -EINVAL);
	assert_string_equal(kvs_error(), "tokenizer.json: model.vocab: \"a\" is there twice");
}

/* ---- speed ---- */

#define TOKENS 150000 /* as Qwen: most of them can be made in two ways */

static double cpu_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* Token n is n in base 26, n's higher digits first, with a letter of more than one byte; so it joins what n / 26 and a digit say. */
static void put_token(FILE *to, int n)
{
	if (n >= 26)
		put_token(to, n / 26 - 1);
	fprintf(to, n % 26 ? "%c" : "\xc4\xa0", 'a' + n % 26);
}

static char *make_large(size_t *bytes)
{
	char *json;
	FILE *to = open_memstream(&json, bytes);

	assert_non_null(to);
	fputs("{\"model\":{\"type\":\"BPE\",\"vocab\":{", to);
	for (int n = 0; n < TOKENS; n++) {
		fputs(n ? ",\"" : "\"", to);
		put_token(to, n);
		fprintf(to, "\":%d", n);
	}
	fputs("},\"merges\":[", to);
	for (int n = 26; n < TOKENS; n++) {
		fputs(n > 26 ? ",[\"" : "[\"", to);
		put_token(to, n / 26 - 1);
		fputs("\",\"", to);
		put_token(to, n % 26);
		fputs("\"]", to);
	}
	fputs("]}}", to);
	fclose(to);
	return json;
}

/* Half of what jansson alone needs is true of the real ones (docs/measurements/host-models.md); the limit leaves room for noise. */
static void a_large_vocabulary_loads_faster_than_jansson_parses_it(void **state)
{
	size_t bytes;
	char *json = make_large(&bytes);
	double ours = 1e9, jansson = 1e9;

	(void)state;
	for (int i = 0; i < 3; i++) {
		double start = cpu_s(), between;

		kvs_tokenizer_close(parse(json, bytes));
		between = cpu_s();
		json_decref(json_loadb(json, bytes, JSON_REJECT_DUPLICATES, NULL));
		ours = between - start < ours ? between - start : ours;
		jansson = cpu_s() - between < jansson ? cpu_s() - between : jansson;
	}
	free(json);
	print_message("%d tokens, %zu bytes: loads in %.0f ms, jansson %.0f ms\n", TOKENS, bytes, 1000 * ours,
		1000 * jansson);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return; /* jansson is not built with it, and would win */
#endif
	assert_true(ours < jansson);
	assert_true(ours < 2.0); /* aim: 0.5 s on a quiet machine */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_files_are_read_as_jansson_does),
		cmocka_unit_test(anything_else_is_left_to_jansson),
		cmocka_unit_test(a_token_that_is_there_twice_is_refused),
		cmocka_unit_test(a_large_vocabulary_loads_faster_than_jansson_parses_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
