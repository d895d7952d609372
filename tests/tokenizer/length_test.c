/*
 * tests/tokenizer/length_test.c: no text and no pattern makes the tokenizer hang.
 *
 * A megabyte of letters and of spaces, and an eighth of a megabyte of other characters, in each family: this takes a few
 * seconds, but hours if any of the work is quadratic. Then an alarm ends the program.
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
#include <unistd.h>

#include "../../driver/cu.h"
#include "../../model/model.h"

#define GOLDEN "tests/golden/tokenizers/"
#define MEGABYTE ((size_t)1 << 20)
#define SECONDS 240 /* under sanitizers on a busy machine; a quadratic run takes hours */

static kvs_tokenizer *open_family(const char *family)
{
	char path[128];
	static char json[200 * 1024];
	kvs_tokenizer *tok;
	FILE *file;
	size_t bytes;

	snprintf(path, sizeof(path), GOLDEN "%s.json", family);
	file = fopen(path, "r");
	if (!file)
		fail_msg("%s: %s", path, strerror(errno));
	bytes = fread(json, 1, sizeof(json), file);
	fclose(file);
	if (kvs_tokenizer_parse(json, bytes, family, &tok))
		fail_msg("%s", kvs_error());
	return tok;
}

/* Decoding gives the text back unless a normaliser changes it. */
static void round_trip(const kvs_tokenizer *tok, const char *unit, bool same)
{
	size_t unit_len = strlen(unit), room = !strcmp(unit, "a") || !strcmp(unit, " ") ? MEGABYTE : MEGABYTE / 8;
	size_t len = room / unit_len * unit_len, count, back_len;
	char *text = malloc(len), *back;
	int32_t *ids;

	for (size_t i = 0; i < len; i += unit_len)
		memcpy(text + i, unit, unit_len);
	if (kvs_tokenizer_encode(tok, text, len, false, &ids, &count))
		fail_msg("\"%s\": %s", unit, kvs_error());
	assert_true(count > 0);
	assert_int_equal(kvs_tokenizer_decode(tok, ids, count, false, &back, &back_len), 0);
	if (same) {
		assert_int_equal(back_len, len);
		assert_memory_equal(back, text, len);
	}
	free(back);
	free(ids);
	free(text);
}

static void a_megabyte_of_one_thing_is_read_in_good_time(void **state)
{
	static const char *const units[] = {
		"a", " ", "\n", " a", "ab", "1", "!", "<", "<s", "'", "\xe2\x96\x81", "\xf0\x9f\x98\x80"};
	/* For NFC to sort: two marks in the wrong order, and one that decomposes into two. */
	static const char *const marks[] = {"\xcc\x81\xcc\x96", "\xe0\xbd\xb3", "e\xcc\x81"};
	const char *family = *state;
	kvs_tokenizer *tok = open_family(family);
	bool normalizes = !strcmp(family, "qwen2");
	bool metaspace = !strcmp(family, "llama2") ||
			 !strcmp(family, "mistral"); /* there U+2581 is a space, and is dropped at the start */

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		round_trip(tok, units[i], !metaspace || (units[i][0] != ' ' && units[i][0] != '\xe2'));
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
		round_trip(tok, marks[i], !normalizes);
	kvs_tokenizer_close(tok);
}

#define BOMB(pattern)                                                                                                  \
	"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":"           \
	"\"Isolated\","                                                                                                \
	"\"pattern\":{\"Regex\":\"" pattern "\"}}}"

static void a_pattern_that_explodes_ends_in_an_error(void **state)
{
	static const char *const bombs[] = {
		BOMB("(a+)+[bc]"), BOMB("(a|a)*[bc]"), BOMB("(?:a?){60}a{60}[bc]"), BOMB("(a*)*(a*)*(a*)*[bc]")};
	char text[4000];

	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
		kvs_tokenizer *tok;
		int32_t *ids;
		size_t count;

		if (kvs_tokenizer_parse(bombs[i], strlen(bombs[i]), "bomb", &tok))
			fail_msg("%s", kvs_error());
		if (kvs_tokenizer_encode(tok, text, sizeof(text), false, &ids, &count) != -EINVAL)
			fail_msg("bomb %zu went through", i);
		assert_non_null(strstr(kvs_error(), "regular expression gave up"));
		kvs_tokenizer_close(tok);
	}
}

#define FAMILY(name)                                                                                                   \
	{                                                                                                              \
#name, a_megabyte_of_one_thing_is_read_in_good_time, NULL, NULL, #name                                 \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAMILY(gpt2),
		FAMILY(llama3),
		FAMILY(qwen2),
		FAMILY(llama2),
		FAMILY(mistral),
		cmocka_unit_test(a_pattern_that_explodes_ends_in_an_error),
	};

	alarm(SECONDS);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
