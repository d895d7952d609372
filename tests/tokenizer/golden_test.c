/*
 * tests/tokenizer/golden_test.c: ids and text equal those of Hugging Face tokenizers.
 *
 * Every family of tests/golden/tokenizers (make_tokenizers.py describes the files) on 2,200 strings: encode with and
 * without special tokens, decode of the result, and decode of ids that no text gives; each decode at once and streamed.
 * KVS_TEST_TOKENIZERS names another folder, of which all families are checked, and those that are there as GGUF files once more
 * (tests/vocab/check.sh).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../model/model.h"

static const char *golden = "tests/golden/tokenizers";

struct bytes {
	char *data;
	size_t len;
};

static struct bytes from_hex(const char *hex)
{
	struct bytes out = {malloc(strlen(hex) / 2 + 1), strlen(hex) / 2};

	for (size_t i = 0; i < out.len; i++) {
		unsigned value;

		assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
		out.data[i] = (char)value;
	}
	out.data[out.len] = 0;
	return out;
}

/* Next line without its end, cut at tabs into `columns` pieces; false at the end of the file. */
static bool next_line(FILE *file, char **line, size_t *room, char **column, int columns)
{
	ssize_t len = getline(line, room, file);
	char *rest = *line;

	if (len < 0)
		return false;
	(*line)[strcspn(*line, "\n")] = 0;
	for (int i = 0; i < columns; i++) {
		column[i] = strsep(&rest, "\t");
		assert_non_null(column[i]);
	}
	assert_null(rest);
	return true;
}

static size_t read_ids(const char *text, int32_t *ids, size_t room)
{
	size_t count = 0;
	char *end;

	for (; *text; text = *end ? end + 1 : end) {
		assert_true(count < room);
		ids[count++] = (int32_t)strtol(text, &end, 10);
	}
	return count;
}

/* `name` without the end of a vocabulary's file, if it has one. */
static FILE *open_golden(const char *name, const char *suffix)
{
	size_t len = strlen(name), bare = len > 5 && !strcmp(name + len - 5, ".gguf") ? len - 5 : len;
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%.*s%s", golden, (int)bare, name, suffix);
	file = fopen(path, "r");
	if (!file)
		fail_msg("%s: %s", path, strerror(errno));
	return file;
}

static kvs_tokenizer *open_gguf(const char *name)
{
	kvs_tokenizer *tok;
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", golden, name);
	if (kvs_tokenizer_open(path, &tok))
		fail_msg("%s", kvs_error());
	return tok;
}

/* NAME.gguf, or NAME.json without its end. */
static kvs_tokenizer *open_family(const char *family)
{
	kvs_tokenizer *tok = NULL;
	char *json = NULL;
	size_t room = 0;
	ssize_t bytes;
	FILE *file;

	if (strstr(family, ".gguf"))
		return open_gguf(family);
	file = open_golden(family, ".json");
	bytes = getdelim(&json, &room, EOF, file);
	fclose(file);
	assert_true(bytes > 0);
	if (kvs_tokenizer_parse(json, (size_t)bytes, family, &tok))
		fail_msg("%s", kvs_error());
	free(json);
	return tok;
}

static void expect_ids(
	const kvs_tokenizer *tok, int line, struct bytes text, bool special, const int32_t *want, size_t count)
{
	int32_t *ids;
	size_t got;

	if (kvs_tokenizer_encode(tok, text.data, text.len, special, &ids, &got))
		fail_msg("string %d: %s", line, kvs_error());
	if (got != count || memcmp(ids, want, count * sizeof(*ids))) {
		print_error("string %d (special %d): %zu ids, expected %zu\n got ", line, special, got, count);
		for (size_t i = 0; i < got; i++)
			print_error(" %d", ids[i]);
		print_error("\n want");
		for (size_t i = 0; i < count; i++)
			print_error(" %d", want[i]);
		fail_msg("other ids than HF's");
	}
	free(ids);
}

static bool is_whole_characters(const char *text, size_t len)
{
	for (size_t i = 0; i < len;) {
		unsigned char c = (unsigned char)text[i];
		size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

		for (size_t k = 1; k < n; k++)
			if (i + k >= len || ((unsigned char)text[i + k] & 0xc0) != 0x80)
				return false;
		i += n;
	}
	return true;
}

static void expect_stream(const kvs_tokenizer *tok, const int32_t *ids, size_t count, bool skip, struct bytes want)
{
	kvs_text_stream *ts;
	const char *text;
	size_t len, done = 0;

	assert_int_equal(kvs_text_stream_create(tok, skip, &ts), 0);
	for (size_t i = 0; i <= count; i++) {
		if (i < count)
			assert_int_equal(kvs_text_stream_push(ts, ids[i], &text, &len), 0);
		else
			assert_int_equal(kvs_text_stream_finish(ts, &text, &len), 0);
		assert_true(is_whole_characters(text, len));
		assert_true(done + len <= want.len);
		assert_memory_equal(text, want.data + done, len);
		done += len;
	}
	assert_int_equal(done, want.len);
	kvs_text_stream_free(ts);
}

static void expect_text(
	const kvs_tokenizer *tok, int line, const int32_t *ids, size_t count, bool skip, struct bytes want)
{
	char *text;
	size_t len;

	assert_int_equal(kvs_tokenizer_decode(tok, ids, count, skip, &text, &len), 0);
	if (len != want.len || memcmp(text, want.data, len))
		fail_msg("line %d (skip %d): decodes to \"%s\", expected \"%s\"", line, skip, text, want.data);
	free(text);
	expect_stream(tok, ids, count, skip, want);
}

struct frame {
	int32_t ids[2048]; /* before, the text's, after */
	size_t before, after;
	int32_t after_ids[8];
};

static void check_string(const kvs_tokenizer *tok, int line, struct frame *frame, char **input, char **want)
{
	struct bytes raw = from_hex(input[0]), text = from_hex(strcmp(input[1], "=") ? input[1] : input[0]);
	struct bytes whole = from_hex(strcmp(want[1], "=") ? want[1] : strcmp(input[1], "=") ? input[1] : input[0]);
	struct bytes skipped = strcmp(want[2], "=") ? from_hex(want[2]) : whole;
	size_t count = read_ids(want[0], frame->ids + frame->before, 2000);

	memcpy(frame->ids + frame->before + count, frame->after_ids, frame->after * sizeof(*frame->ids));
	expect_ids(tok, line, raw, false, frame->ids + frame->before, count);
	expect_ids(tok, line, raw, true, frame->ids, frame->before + count + frame->after);
	expect_ids(tok, line, text, false, frame->ids + frame->before, count);
	expect_text(tok, line, frame->ids + frame->before, count, false, whole);
	expect_text(tok, line, frame->ids + frame->before, count, true, skipped);
	if (skipped.data != whole.data)
		free(skipped.data);
	free(whole.data);
	free(text.data);
	free(raw.data);
}

static void check_strings(const char *family, const char *strings, int least)
{
	kvs_tokenizer *tok = open_family(family);
	FILE *inputs = open_golden(strings, ".txt"), *wants = open_golden(family, ".encode");
	char *lines[2] = {NULL, NULL}, *input[2], *want[3];
	size_t rooms[2] = {0, 0};
	struct frame frame = {0};
	int count = 0;

	assert_true(next_line(wants, &lines[1], &rooms[1], want, 2));
	frame.before = read_ids(want[0], frame.ids, 8);
	frame.after = read_ids(want[1], frame.after_ids, 8);
	while (next_line(inputs, &lines[0], &rooms[0], input, 2)) {
		assert_true(next_line(wants, &lines[1], &rooms[1], want, 3));
		check_string(tok, ++count, &frame, input, want);
	}
	assert_true(count >= least);
	free(lines[0]);
	free(lines[1]);
	fclose(inputs);
	fclose(wants);
	kvs_tokenizer_close(tok);
}

static void strings_give_the_ids_and_text_of_hugging_face(void **state)
{
	check_strings(*state, "strings", 2000);
}

/* In vocabularies whose ids show every cut between two characters. */
static void characters_newer_than_unicode_14_give_the_ids_of_hugging_face(void **state)
{
	check_strings(*state, "unicode", 300);
}

static void random_ids_give_the_text_of_hugging_face(void **state)
{
	kvs_tokenizer *tok = open_family(*state);
	FILE *wants = open_golden(*state, ".decode");
	char *line = NULL, *want[2];
	size_t room = 0;
	int count = 0;

	while (next_line(wants, &line, &room, want, 2)) {
		int32_t ids[32];
		struct bytes text = from_hex(want[1]);
		size_t ids_count = read_ids(want[0], ids, 32);

		expect_text(tok, ++count, ids, ids_count, false, text);
		free(text.data);
	}
	assert_int_equal(count, 150);
	free(line);
	fclose(wants);
	kvs_tokenizer_close(tok);
}

#define CHARACTERS(name)                                                                                               \
	{#name " characters", characters_newer_than_unicode_14_give_the_ids_of_hugging_face, NULL, NULL, #name},       \
	{                                                                                                              \
#name " random ids", random_ids_give_the_text_of_hugging_face, NULL, NULL, #name                       \
	}
#define FAMILY(name)                                                                                                   \
	{#name " strings", strings_give_the_ids_and_text_of_hugging_face, NULL, NULL, #name},                          \
	{                                                                                                              \
#name " random ids", random_ids_give_the_text_of_hugging_face, NULL, NULL, #name                       \
	}

#define MOST_FAMILIES 32 /* files of vocabularies */

static int check_all_families(const char *folder)
{
	struct CMUnitTest tests[2 * MOST_FAMILIES];
	size_t count = 0;
	char pattern[512];
	glob_t found;

	golden = folder;
	snprintf(pattern, sizeof(pattern), "%s/*.json", folder);
	if (glob(pattern, 0, NULL, &found))
		return 1;
	snprintf(pattern, sizeof(pattern), "%s/*.gguf", folder);
	if (glob(pattern, GLOB_APPEND, NULL, &found) || found.gl_pathc > MOST_FAMILIES)
		return 1;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		char *family = strrchr(found.gl_pathv[i], '/') + 1;
		if (!strstr(family, ".gguf"))
			*strrchr(family, '.') = 0;
		tests[count++] =
			(struct CMUnitTest){family, strings_give_the_ids_and_text_of_hugging_face, NULL, NULL, family};
		tests[count++] =
			(struct CMUnitTest){family, random_ids_give_the_text_of_hugging_face, NULL, NULL, family};
	}
	count = (size_t)_cmocka_run_group_tests(folder, tests, count, NULL, NULL);
	globfree(&found);
	return (int)count;
}

int main(void)
{
	const char *folder = getenv("KVS_TEST_TOKENIZERS");
	const struct CMUnitTest tests[] = {
		FAMILY(gpt2),
		FAMILY(llama3),
		FAMILY(qwen2),
		FAMILY(llama2),
		FAMILY(mistral),
		FAMILY(odd),
		CHARACTERS(o200k),
		CHARACTERS(smollm),
	};

	return folder ? check_all_families(folder) : cmocka_run_group_tests(tests, NULL, NULL);
}
