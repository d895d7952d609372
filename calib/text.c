/*
 * calib/text.c: a text becomes samples for the search, and windows after them to measure on.
 *
 * A plan is measured on text that the search has not seen, as long as there is any.
 */
#include "measure.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SAMPLE_TOKENS 64
#define DEFAULT_HELD_TOKENS 1024 /* with fewer, nll chooses worse: docs/measurements/study-storyworld-3m.md */
#define DEFAULT_WINDOW_TOKENS 256
#define LEAST_WINDOW_TOKENS 16 /* fewer predictions than this say nothing */
/* The default text to measure on is one batch: then the cache holds K and V of nothing else. */
#define DEFAULT_ROWS 1024

static int int_or(int value, int fallback)
{
	return value ? value : fallback;
}

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

static int larger(int a, int b)
{
	return a > b ? a : b;
}

void calib_digest(const void *data, size_t bytes, char digest[CALIB_DIGEST])
{
	calib_digest_pieces(&(struct iovec){(void *)data, bytes}, 1, digest);
}

void calib_digest_pieces(const struct iovec *pieces, size_t count, char digest[CALIB_DIGEST])
{
	static const char hex[] = "0123456789abcdef";
	uint64_t hash = 14695981039346656037u;

	for (size_t piece = 0; piece < count; piece++) {
		const unsigned char *at = pieces[piece].iov_base;
		for (size_t i = 0; i < pieces[piece].iov_len; i++)
			hash = (hash ^ at[i]) * 1099511628211u;
	}
	for (int i = 16; i--; hash >>= 4)
		digest[i] = hex[hash & 15];
	digest[16] = 0;
}

static int check_options(const struct kvs_calib_text_options *options)
{
	if (options->samples < 0 || options->sample_tokens < 0 || options->held_tokens < 0 ||
		options->window_tokens < 0)
		return kvs_fail(
			-EINVAL, "numbers of samples, of their tokens, and of held-back tokens cannot be negative");
	if (options->sample_tokens == 1)
		return kvs_fail(-EINVAL, "samples of one token: attention has nothing to look back at");
	return 0;
}

static int allocate_samples(struct kvs_calib_text *out)
{
	out->ids = malloc(sizeof(*out->ids) * out->samples * out->sample_tokens);
	return out->ids ? 0
			: kvs_fail(-ENOMEM, "no memory for %d samples of %d tokens", out->samples, out->sample_tokens);
}

/* Samples are the first tokens of the text; *rest is where they end. */
static int cut_runs(const int32_t *ids, size_t count, struct kvs_calib_text *out, size_t *rest)
{
	size_t need = (size_t)out->samples * out->sample_tokens;

	if (count < need)
		return kvs_fail(-EINVAL,
			"the text has %zu tokens, %d samples of %d take %zu: give more text, or --samples or "
			"--sample-tokens",
			count, out->samples, out->sample_tokens, need);
	memcpy(out->ids, ids, sizeof(*ids) * need);
	*rest = need;
	return 0;
}

/* Samples are the first tokens of lines that have enough; *rest is the byte after the last line read. */
static int cut_lines(const kvs_tokenizer *tok, const char *text, size_t bytes, struct kvs_calib_text *out, size_t *rest)
{
	int found = 0;
	size_t at = 0;

	while (found < out->samples && at < bytes) {
		const char *newline = memchr(text + at, '\n', bytes - at);
		size_t line = newline ? (size_t)(newline - text) - at : bytes - at, count;
		int32_t *ids;
		int err = kvs_tokenizer_encode(tok, text + at, line, true, &ids, &count);

		if (err)
			return err;
		if (count >= (size_t)out->sample_tokens)
			memcpy(out->ids + (size_t)found++ * out->sample_tokens, ids, sizeof(*ids) * out->sample_tokens);
		else
			out->skipped_lines++;
		free(ids);
		at += line + 1;
	}
	if (found < out->samples)
		return kvs_fail(-EINVAL,
			"the text has %d lines of at least %d tokens (%d were shorter), %d are needed: give more text, "
			"or "
			"--samples or --sample-tokens",
			found, out->sample_tokens, out->skipped_lines, out->samples);
	*rest = at < bytes ? at : bytes; /* the last line may have no newline */
	return 0;
}

static int allocate_windows(struct kvs_calib_text *out)
{
	size_t count = (size_t)out->windows * out->window_tokens;

	out->window_ids = malloc(sizeof(*out->window_ids) * count);
	out->window_targets = malloc(sizeof(*out->window_targets) * count);
	return out->window_ids && out->window_targets ? 0 : kvs_fail(-ENOMEM, "no memory for %zu tokens", count);
}

/* Windows over the `count` tokens after the samples. */
static int cut_held(
	const int32_t *ids, size_t count, const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	int most = smaller(
		int_or(options->held_tokens, DEFAULT_HELD_TOKENS), count - 1 < 1 << 24 ? (int)(count - 1) : 1 << 24);
	int err;

	out->held_back = true;
	out->window_tokens = smaller(int_or(options->window_tokens, DEFAULT_WINDOW_TOKENS), most);
	out->windows = most / out->window_tokens;
	err = allocate_windows(out);
	if (err)
		return err;
	memcpy(out->window_ids, ids, sizeof(*ids) * out->windows * out->window_tokens);
	memcpy(out->window_targets, ids + 1, sizeof(*ids) * out->windows * out->window_tokens);
	return 0;
}

/* Each sample as a window. Its last token is only a target, so that no window reaches into the next sample. */
static int cut_samples_again(struct kvs_calib_text *out)
{
	int err;

	out->windows = out->samples;
	out->window_tokens = out->sample_tokens - 1;
	err = allocate_windows(out);
	for (int s = 0; s < out->samples && !err; s++) {
		const int32_t *sample = out->ids + (size_t)s * out->sample_tokens;
		size_t at = (size_t)s * out->window_tokens;
		memcpy(out->window_ids + at, sample, sizeof(*sample) * out->window_tokens);
		memcpy(out->window_targets + at, sample + 1, sizeof(*sample) * out->window_tokens);
	}
	return err;
}

static int cut_windows(
	const int32_t *ids, size_t count, const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	if (count > LEAST_WINDOW_TOKENS)
		return cut_held(ids, count, options, out);
	if (options->need_held)
		return kvs_fail(-EINVAL,
			"%zu tokens are left after the samples, measuring takes at least %d: give more text, or fewer "
			"--samples",
			count, LEAST_WINDOW_TOKENS + 1);
	return cut_samples_again(out);
}

/* ---- spread ---- */

/* `windows` windows in the middle of what each part of the text has left behind its sample, as evenly as they go. */
static void copy_spread_windows(const int32_t *ids, size_t count, struct kvs_calib_text *out)
{
	size_t part = count / out->samples, tokens = out->window_tokens, done = 0;

	for (int i = 0; i < out->samples; i++) {
		size_t until = (size_t)(i + 1) * out->windows / out->samples, here = (until - done) * tokens;
		size_t at = (size_t)i * count / out->samples + out->sample_tokens;
		at += (part - out->sample_tokens - 1 - here) / 2;
		memcpy(out->window_ids + done * tokens, ids + at, sizeof(*ids) * here);
		memcpy(out->window_targets + done * tokens, ids + at + 1, sizeof(*ids) * here);
		done = until;
	}
}

/* As many parts as samples: each begins with its sample, and the windows are cut from the rest. */
static int cut_spread(
	const int32_t *ids, size_t count, const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	size_t rest, part = count / out->samples;
	int held = int_or(options->held_tokens, DEFAULT_HELD_TOKENS), room, err = cut_runs(ids, count, out, &rest);

	for (int i = 0; i < out->samples && !err; i++)
		memcpy(out->ids + (size_t)i * out->sample_tokens, ids + (size_t)i * count / out->samples,
			sizeof(*ids) * out->sample_tokens);
	if (err)
		return err;
	room = part - out->sample_tokens > 1 << 24 ? 1 << 24 : (int)(part - out->sample_tokens) - 1;
	if (room < LEAST_WINDOW_TOKENS)
		return cut_windows(ids, 0, options, out);
	out->held_back = true;
	out->window_tokens = smaller(smaller(int_or(options->window_tokens, DEFAULT_WINDOW_TOKENS), held), room);
	out->windows = held / out->window_tokens;
	if (out->windows / out->samples >= room / out->window_tokens)
		out->windows = room / out->window_tokens * out->samples;
	err = allocate_windows(out);
	if (!err)
		copy_spread_windows(ids, count, out);
	return err;
}

static int cut_by_run(const kvs_tokenizer *tok, const char *text, size_t bytes,
	const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	int32_t *ids;
	size_t count, rest = 0;
	int err = kvs_tokenizer_encode(tok, text, bytes, true, &ids, &count);

	if (err)
		return err;
	if (options->by == KVS_SAMPLE_SPREAD) {
		err = cut_spread(ids, count, options, out);
	} else {
		err = cut_runs(ids, count, out, &rest);
		if (!err)
			err = cut_windows(ids + rest, count - rest, options, out);
	}
	free(ids);
	return err;
}

static int cut_by_line(const kvs_tokenizer *tok, const char *text, size_t bytes,
	const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	int32_t *ids;
	size_t count, rest = 0;
	int err = cut_lines(tok, text, bytes, out, &rest);

	if (!err)
		err = kvs_tokenizer_encode(tok, text + rest, bytes - rest, true, &ids, &count);
	if (err)
		return err;
	err = cut_windows(ids, count, options, out);
	free(ids);
	return err;
}

int kvs_calib_text_cut(const kvs_tokenizer *tok, const char *text, size_t bytes,
	const struct kvs_calib_text_options *options, struct kvs_calib_text *out)
{
	int err = check_options(options);

	if (err)
		return err;
	*out = (struct kvs_calib_text){.samples = int_or(options->samples, KVS_CALIB_SAMPLES),
		.sample_tokens = int_or(options->sample_tokens, DEFAULT_SAMPLE_TOKENS),
		.by = options->by};
	calib_digest(text, bytes, out->digest);
	err = allocate_samples(out);
	if (!err)
		err = (options->by == KVS_SAMPLE_LINE ? cut_by_line : cut_by_run)(tok, text, bytes, options, out);
	if (err)
		kvs_calib_text_clear(out);
	return err;
}

int kvs_calib_windows_cut(const kvs_tokenizer *tok, const char *text, size_t bytes, int tokens, int window_tokens,
	struct kvs_calib_text *out)
{
	struct kvs_calib_text_options options = {.held_tokens = tokens, .window_tokens = window_tokens};
	int32_t *ids;
	size_t count;
	int err = kvs_tokenizer_encode(tok, text, bytes, true, &ids, &count);

	*out = (struct kvs_calib_text){0};
	if (err)
		return err;
	calib_digest(text, bytes, out->digest);
	err = count > LEAST_WINDOW_TOKENS ? cut_held(ids, count, &options, out)
					  : kvs_fail(-EINVAL, "the text has %zu tokens, measuring takes at least %d",
						    count, LEAST_WINDOW_TOKENS + 1);
	free(ids);
	if (err)
		kvs_calib_text_clear(out);
	return err;
}

void kvs_calib_text_clear(struct kvs_calib_text *text)
{
	free(text->ids);
	free(text->window_ids);
	free(text->window_targets);
	*text = (struct kvs_calib_text){0};
}

int kvs_calib_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const struct kvs_engine_options *base,
	const struct kvs_calib_text *texts, size_t count, kvs_engine **out)
{
	struct kvs_engine_options options = base ? *base : (struct kvs_engine_options){0};
	int longest = 0, most = 0; /* tokens of a sequence; of what is rerun of a text: all windows, or all samples */

	for (size_t i = 0; i < count; i++) {
		longest = larger(longest, larger(texts[i].sample_tokens, texts[i].window_tokens));
		most = larger(most, texts[i].windows * texts[i].window_tokens);
		if (calib_samples_are_rerun(&texts[i]))
			most = larger(most, texts[i].samples * texts[i].sample_tokens);
	}
	options.plan = NULL;
	options.share_by_pointer = true;
	options.slots = 1;
	options.sequence_tokens = longest;
	options.chunk_tokens = larger(int_or(options.chunk_tokens, DEFAULT_ROWS), longest);
	options.ctx_tokens = larger(options.chunk_tokens, most);
	return kvs_engine_open(cu, ckpt, &options, out);
}
