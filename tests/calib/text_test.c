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
		cmocka_unit_test(samples_stand_in_where_nothing_is_left),
	};

	return cmocka_run_group_tests(tests, open_text, close_text);
}
