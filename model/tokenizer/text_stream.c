/*
 * model/tokenizer/text_stream.c: ids to text, one at a time or all at once.
 *
 * The decoder's steps are a chain: each takes a token's text and passes text on to the next, but holds back text that it
 * cannot decide yet (ByteFallback a run of byte tokens, which is valid or not as a whole; ByteLevel the bytes of an
 * unfinished character). Decoding a whole text uses a stream too, so that the two cannot differ.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kvs_text_stream {
	const struct kvs_tokenizer *tok;
	bool skip_special, any; /* any: a token has had text */
	struct tok_text out;
	struct {
		struct tok_text held; /* BYTE_FALLBACK, BYTES */
		int stripped;         /* STRIP after FUSE: characters removed so far; -1: past the front */
		bool fused;           /* the input is one text, in parts */
		bool begun;           /* METASPACE: the first token has passed */
	} step[TOK_MAX_STEPS];
};

static int push_text(struct kvs_text_stream *ts, size_t step, const char *text, size_t len);

/* ---- steps ---- */

static int push_replace(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	const struct tok_step *step = &ts->tok->steps[i];
	size_t pattern_len = strlen(step->pattern), done = 0;
	struct tok_text new = {0};
	int err = 0;

	while (!err && len - done >= pattern_len) {
		const char *hit = memmem(text + done, len - done, step->pattern, pattern_len);

		if (!hit)
			break;
		err = tok_text_append(&new, text + done, (size_t)(hit - text) - done);
		if (!err)
			err = tok_text_append(&new, step->text, strlen(step->text));
		done = (size_t)(hit - text) + pattern_len;
	}
	if (!err)
		err = tok_text_append(&new, text + done, len - done);
	if (!err)
		err = push_text(ts, i + 1, new.data, new.len);
	free(new.data);
	return err;
}

/* A run of bytes is valid text as a whole, or each byte becomes U+FFFD. */
static int flush_byte_run(struct kvs_text_stream *ts, size_t i)
{
	struct tok_text *held = &ts->step[i].held;
	size_t count = held->len, len;
	bool valid = true;
	int err = 0;

	for (size_t at = 0; at < count && valid; at += len)
		valid = tok_utf8_look(held->data + at, count - at, &len) == TOK_UTF8_OK;
	held->len = 0;
	if (valid)
		return count ? push_text(ts, i + 1, held->data, count) : 0;
	for (size_t at = 0; at < count && !err; at++)
		err = push_text(ts, i + 1, TOK_REPLACEMENT, 3);
	return err;
}

/* HF parses with Rust's from_str_radix, which allows a plus sign: "<0x+A>" is byte 10. */
static int byte_of_token(const char *text, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	int value = 0;

	if (len != 6 || memcmp(text, "<0x", 3) || text[5] != '>')
		return -1;
	for (int i = text[3] == '+' ? 4 : 3; i < 5; i++) {
		const char *digit = text[i] ? strchr(digits, text[i] | 0x20) : NULL;

		if (!digit || (text[i] < '0'))
			return -1;
		value = 16 * value + (int)(digit - digits);
	}
	return value;
}

static int push_byte_fallback(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	int byte = byte_of_token(text, len), err;
	char c = (char)byte;

	if (byte >= 0)
		return tok_text_append(&ts->step[i].held, &c, 1);
	err = flush_byte_run(ts, i);
	return err ? err : push_text(ts, i + 1, text, len);
}

static int push_strip(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	const struct tok_step *step = &ts->tok->steps[i];
	size_t content = strlen(step->pattern), done = 0;
	int cut = ts->step[i].fused ? ts->step[i].stripped : 0;

	while (cut >= 0 && cut < step->start && len - done >= content && !memcmp(text + done, step->pattern, content)) {
		cut++;
		done += content;
	}
	if (done < len || cut >= step->start)
		cut = -1;
	ts->step[i].stripped = cut;
	return push_text(ts, i + 1, text + done, len - done);
}

/* HF drops every mark of the first token, not only a leading one. */
static int push_metaspace(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	const struct tok_step *step = &ts->tok->steps[i];
	bool drop = step->drop_first && !ts->step[i].begun;
	size_t mark_len = strlen(step->pattern), bytes;
	struct tok_text new = {0};
	int err = 0;

	ts->step[i].begun = true;
	for (size_t at = 0; at < len && !err; at += bytes) {
		tok_utf8_look(text + at, len - at, &bytes);
		if (bytes != mark_len || memcmp(text + at, step->pattern, bytes))
			err = tok_text_append(&new, text + at, bytes);
		else if (!drop)
			err = tok_text_append(&new, " ", 1);
	}
	if (!err)
		err = push_text(ts, i + 1, new.data, new.len);
	free(new.data);
	return err;
}

/* Passes on the held characters that are complete, and U+FFFD for invalid bytes; at the end also for a cut character. */
static int flush_characters(struct kvs_text_stream *ts, size_t i, bool end)
{
	struct tok_text *held = &ts->step[i].held;
	size_t whole = 0, len;
	struct tok_text valid = {0};
	int err;

	while (whole < held->len && (tok_utf8_look(held->data + whole, held->len - whole, &len) != TOK_UTF8_CUT || end))
		whole += len;
	err = tok_utf8_repair(held->data, whole, &valid);
	if (!err && whole) {
		memmove(held->data, held->data + whole, held->len - whole);
		held->len -= whole;
	}
	if (!err)
		err = push_text(ts, i + 1, valid.data, valid.len);
	free(valid.data);
	return err;
}

/* A token with a character outside GPT-2's (an added token) stands for its own bytes. */
static int push_bytes(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	struct tok_text *held = &ts->step[i].held;
	size_t start = held->len, bytes;
	int err = 0;

	for (size_t at = 0; at < len && !err; at += bytes) {
		tok_utf8_look(text + at, len - at, &bytes);
		int byte = tok_code_to_byte(tok_utf8_code(text + at, bytes));
		char c = (char)byte;

		if (byte < 0) {
			held->len = start;
			err = tok_text_append(held, text, len);
			break;
		}
		err = tok_text_append(held, &c, 1);
	}
	return err ? err : flush_characters(ts, i, false);
}

static int push_text(struct kvs_text_stream *ts, size_t i, const char *text, size_t len)
{
	if (i == ts->tok->step_count)
		return tok_text_append(&ts->out, text, len);
	switch (ts->tok->steps[i].kind) {
	case TOK_STEP_REPLACE:
		return push_replace(ts, i, text, len);
	case TOK_STEP_BYTE_FALLBACK:
		return push_byte_fallback(ts, i, text, len);
	case TOK_STEP_FUSE:
		return push_text(ts, i + 1, text, len);
	case TOK_STEP_STRIP:
		return push_strip(ts, i, text, len);
	case TOK_STEP_METASPACE:
		return push_metaspace(ts, i, text, len);
	case TOK_STEP_BYTES:
		return push_bytes(ts, i, text, len);
	}
	return 0;
}

/* ---- streams ---- */

/* The text of an id; NULL: none, as in HF for an id that no token has. */
static const char *token_text(const struct kvs_text_stream *ts, int32_t id, size_t *len)
{
	const struct tok_vocab *display = &ts->tok->display;
	const char *text = tok_vocab_text(display, id, len);

	if (text)
		return ts->skip_special && display->tokens[id].special ? NULL : text;
	return tok_vocab_text(&ts->tok->vocab, id, len);
}

static int push_id(struct kvs_text_stream *ts, int32_t id)
{
	size_t len;
	const char *text = token_text(ts, id, &len);
	int err = 0;

	if (!text)
		return 0;
	if (ts->any && !ts->tok->decoder)
		err = tok_text_append(&ts->out, " ", 1);
	ts->any = true;
	return err ? err : push_text(ts, 0, text, len);
}

static int push_end(struct kvs_text_stream *ts)
{
	int err = 0;

	for (size_t i = 0; i < ts->tok->step_count && !err; i++) {
		if (ts->tok->steps[i].kind == TOK_STEP_BYTE_FALLBACK)
			err = flush_byte_run(ts, i);
		else if (ts->tok->steps[i].kind == TOK_STEP_BYTES)
			err = flush_characters(ts, i, true);
	}
	return err;
}

int kvs_text_stream_create(const kvs_tokenizer *tok, bool skip_special, kvs_text_stream **out)
{
	kvs_text_stream *ts = calloc(1, sizeof(*ts));
	bool fused = false;

	if (!ts)
		return kvs_fail(-ENOMEM, "no memory for a text stream");
	ts->tok = tok;
	ts->skip_special = skip_special;
	for (size_t i = 0; i < tok->step_count; i++) {
		ts->step[i].fused = fused;
		fused |= tok->steps[i].kind == TOK_STEP_FUSE || tok->steps[i].kind == TOK_STEP_BYTES;
	}
	*out = ts;
	return 0;
}

void kvs_text_stream_free(kvs_text_stream *ts)
{
	if (!ts)
		return;
	for (size_t i = 0; i < TOK_MAX_STEPS; i++)
		free(ts->step[i].held.data);
	free(ts->out.data);
	free(ts);
}

/* Terminates the text that push or finish put into `out`. */
static int hand_out(struct kvs_text_stream *ts, int err, const char **text, size_t *bytes)
{
	if (!err)
		err = tok_text_append(&ts->out, "", 1);
	if (err)
		return kvs_fail(err, "no memory to decode a token");
	*text = ts->out.data;
	*bytes = ts->out.len - 1;
	return 0;
}

int kvs_text_stream_push(kvs_text_stream *ts, int32_t id, const char **text, size_t *bytes)
{
	ts->out.len = 0;
	return hand_out(ts, push_id(ts, id), text, bytes);
}

int kvs_text_stream_finish(kvs_text_stream *ts, const char **text, size_t *bytes)
{
	ts->out.len = 0;
	return hand_out(ts, push_end(ts), text, bytes);
}

int kvs_tokenizer_decode(
	const kvs_tokenizer *tok, const int32_t *ids, size_t count, bool skip_special, char **text, size_t *bytes)
{
	kvs_text_stream *ts;
	const char *all;
	int err = kvs_text_stream_create(tok, skip_special, &ts);

	if (err)
		return err;
	for (size_t i = 0; i < count && !err; i++)
		err = push_id(ts, ids[i]);
	if (!err)
		err = push_end(ts);
	err = hand_out(ts, err, &all, bytes);
	if (!err) {
		*text = ts->out.data; /* the stream's buffer becomes the caller's */
		ts->out.data = NULL;
	}
	kvs_text_stream_free(ts);
	return err;
}
