/*
 * tests/calib/text_test.c: how a text is cut: samples first, then windows that begin where the samples end, each token
 * with the next one as its target.
 */
#include "../../calib/calib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

enum { SAMPLES = 4, SAMPLE_TOKENS = 16, WINDOW_TOKENS = 32, HELD = 100 };

static struct {
	kvs_tokenizer *tokenizer;
	char text[8192];
	size_t bytes, count;
	int32_t *ids;
} on;

static int open_text(void **state)
{
	FILE *file = fopen(MODEL "/heldout.txt", "rb");

	(void)state;
	if (!file)
		return -1;
	on.bytes = fread(on.text, 1, sizeof(on.text), file);
	fclose(file);
	return kvs_tokenizer_open(MODEL, &on.tokenizer) ||
	       kvs_tokenizer_encode(on.tokenizer, on.text, on.bytes, true, &on.ids, &on.count);
}

static int close_text(void **state)
{
	(void)state;
	free(on.ids);
	kvs_tokenizer_close(on.tokenizer);
	return 0;
}

static void windows_begin_where_samples_end(void **state)
{
	const struct kvs_calib_text_options options = {.samples = SAMPLES,
		.sample_tokens = SAMPLE_TOKENS,
		.held_tokens = HELD,
		.window_tokens = WINDOW_TOKENS};
	const int32_t *held = on.ids + SAMPLES * SAMPLE_TOKENS;
	const size_t windows = HELD / WINDOW_TOKENS * WINDOW_TOKENS * sizeof(*held);
	struct kvs_calib_text text;

	(void)state;
	assert_int_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
	assert_true(text.held_back);
	assert_int_equal(text.windows, HELD / WINDOW_TOKENS);
	assert_int_equal(text.window_tokens, WINDOW_TOKENS);
	assert_memory_equal(text.ids, on.ids, SAMPLES * SAMPLE_TOKENS * sizeof(*on.ids));
	assert_memory_equal(text.window_ids, held, windows);
	assert_memory_equal(text.window_targets, held + 1, windows);
	kvs_calib_text_clear(&text);
}

/* Samples at even distances from the first token on, windows between them, and no token in two of them. */
static void spread_samples_cover_the_text(void **state)
{
	struct kvs_calib_text_options options = {
		.by = KVS_SAMPLE_SPREAD, .samples = 5, .sample_tokens = 16, .window_tokens = 32};
	char *used = calloc(on.count + 1, 1);

	(void)state;
	for (int windows = 1; windows <= 13; windows++) {
		struct kvs_calib_text text;
		memset(used, 0, on.count);
		options.held_tokens = 32 * windows + 31;
		assert_int_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
		assert_true(text.held_back && text.windows == windows && text.window_tokens == 32);
		for (int i = 0; i < 5; i++) {
			size_t at = i * on.count / 5;
			assert_memory_equal(text.ids + i * 16, on.ids + at, 16 * sizeof(*on.ids));
			memset(used + at, 1, 16);
		}
		for (int w = 0, at = 0; w < windows; w++, at += 32) {
			while (memcmp(text.window_ids + w * 32, on.ids + at, 32 * sizeof(*on.ids)))
				assert_true(++at + 33 <= (int)on.count);
			assert_memory_equal(text.window_targets + w * 32, on.ids + at + 1, 32 * sizeof(*on.ids));
			assert_null(memchr(used + at, 1, 33));
			memset(used + at, 1, 32);
		}
		kvs_calib_text_clear(&text);
	}
	free(used);
}

static void spread_samples_take_what_there_is(void **state)
{
	struct kvs_calib_text_options options = {.by = KVS_SAMPLE_SPREAD, .samples = 5, .sample_tokens = 16};
	struct kvs_calib_text text;

	(void)state;
	options.sample_tokens = (int)on.count / 5 - 21; /* 20 tokens and a target are left of each part */
	assert_int_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
	assert_true(text.held_back && text.windows == 5 && text.window_tokens == 20);
	kvs_calib_text_clear(&text);
	options.sample_tokens = (int)on.count / 5;
	assert_int_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
	assert_true(!text.held_back && text.windows == 5);
	kvs_calib_text_clear(&text);
	options.need_held = true;
	assert_true(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text) < 0);
	options.sample_tokens = (int)on.count / 5 + 1;
	assert_true(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text) < 0);
}

/* If too little text is left after them, the samples are measured on themselves, and `held_back` says so. */
static void samples_stand_in_where_nothing_is_left(void **state)
{
	struct kvs_calib_text_options options = {.sample_tokens = SAMPLE_TOKENS};
	struct kvs_calib_text text;

	(void)state;
	options.samples = (int)(on.count / SAMPLE_TOKENS);
	assert_int_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
	assert_false(text.held_back);
	assert_int_equal(text.windows, options.samples);
	assert_int_equal(text.window_tokens, SAMPLE_TOKENS - 1);
	for (int s = 0; s < text.windows; s++) {
		const int32_t *sample = on.ids + s * SAMPLE_TOKENS;
		const size_t bytes = (SAMPLE_TOKENS - 1) * sizeof(*sample);

		assert_memory_equal(text.window_ids + s * text.window_tokens, sample, bytes);
		assert_memory_equal(text.window_targets + s * text.window_tokens, sample + 1, bytes);
	}
	kvs_calib_text_clear(&text);
	options.need_held = true;
	assert_int_not_equal(kvs_calib_text_cut(on.tokenizer, on.text, on.bytes, &options, &text), 0);
	assert_non_null(strstr(kvs_error(), "left after the samples"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_begin_where_samples_end),
		cmocka_unit_test(spread_samples_cover_the_text),
		cmocka_unit_test(spread_samples_take_what_there_is),
		cmocka_unit_test(samples_stand_in_where_nothing_is_left),
	};

	return cmocka_run_group_tests(tests, open_text, close_text);
}
