/*
 * tests/tokenizer/parts_test.c: parts of tokenizer.json that no family of tests/golden/tokenizers has, each in a
 * tokenizer of five words.
 */
#include "../../driver/cu.h"
#include "../../model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvs_tokenizer *parse(const char *json)
{
	kvs_tokenizer *tokenizer;

	if (kvs_tokenizer_parse(json, strlen(json), "tokenizer.json", &tokenizer))
		fail_msg("%s", kvs_error());
	return tokenizer;
}

static void assert_encodes(const kvs_tokenizer *tokenizer, const char *text, const int32_t *expected, size_t count)
{
	int32_t *ids;
	size_t found;

	assert_int_equal(kvs_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &found), 0);
	assert_int_equal(found, count);
	assert_memory_equal(ids, expected, count * sizeof(*ids));
	free(ids);
}

static void assert_decodes(const kvs_tokenizer *tokenizer, const int32_t *ids, size_t count, const char *expected)
{
	size_t bytes;
	char *text;

	assert_int_equal(kvs_tokenizer_decode(tokenizer, ids, count, false, &text, &bytes), 0);
	assert_string_equal(text, expected);
	assert_int_equal(bytes, strlen(expected));
	free(text);
}

/* A template may end the text too, as those of T5 and of encoders do. */
static void a_template_stands_on_both_sides(void **state)
{
	static const char json[] =
		"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3,\"</s>\":4},\"merges\":"
		"[\"a b\"]},"
		"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
		"{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"</s>\"}}],"
		"\"special_tokens\":{\"<s>\":{\"ids\":[3]},\"</s>\":{\"ids\":[4]}}}}";
	kvs_tokenizer *tokenizer = parse(json);

	(void)state;
	assert_encodes(tokenizer, "aab", (const int32_t[]){3, 0, 2, 4}, 4);
	assert_encodes(tokenizer, "", (const int32_t[]){3, 4}, 2);
	kvs_tokenizer_close(tokenizer);
}

/* Byte tokens, as Rust's from_str_radix reads them: a plus sign may take the place of a digit. Anything else is text. */
static void byte_tokens_are_read_as_rust_reads_them(void **state)
{
	static const char json[] =
		"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"<0x+A>\":1,\"<0xc3>\":2,\"<0xA4>\":3,\"<0x-A>\":4},"
		"\"merges\":[]},\"decoder\":{\"type\":\"ByteFallback\"}}";
	kvs_tokenizer *tokenizer = parse(json);

	(void)state;
	assert_decodes(tokenizer, (const int32_t[]){0, 1, 0}, 3, "a\na");
	assert_decodes(tokenizer, (const int32_t[]){2, 3}, 2, "\xc3\xa4");
	assert_decodes(tokenizer, (const int32_t[]){2, 0}, 2,
		"\xef\xbf\xbd"
		"a");
	assert_decodes(tokenizer, (const int32_t[]){4}, 1, "<0x-A>");
	kvs_tokenizer_close(tokenizer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_template_stands_on_both_sides),
		cmocka_unit_test(byte_tokens_are_read_as_rust_reads_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
