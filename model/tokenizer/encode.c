/*
 * model/tokenizer/encode.c: text to ids.
 *
 * Text is repaired to valid UTF-8 and passes through the tokenizer's stages, each of which turns a list of pieces into
 * a list of pieces. Pieces that are still text at the end are merged, word by word. The stages follow the order of
 * Hugging Face tokenizers: added tokens in raw text, normaliser, added tokens in normalised text, pre-tokeniser.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)256 << 20) /* positions in a word have 32 bits, and a byte can become a piece of 32 bytes */

/* One stage at work on one piece. */
struct work {
	const struct kvs_tokenizer *tok;
	const struct tok_stage *stage;
	const char *text;
	size_t len;
	bool at_start;
	struct tok_pieces *out;
	struct tok_text replaced;    /* REPLACE: the text so far */
	size_t held_start, held_end; /* SPLIT: a piece that the next one may be merged with */
	bool held, held_match;
};

static int put_slice(struct work *w, size_t start, size_t end, int32_t id)
{
	return tok_pieces_append(w->out, w->text + start, end - start, id, w->at_start && !start);
}

/* ---- added tokens ---- */

static size_t character_before(const char *text, size_t end)
{
	size_t start = end - 1;

	while (start && ((unsigned char)text[start] & 0xc0) == 0x80)
		start--;
	return start;
}

static size_t spaces_before(const char *text, size_t end)
{
	while (end) {
		size_t start = character_before(text, end);

		if (!tok_unicode_is_space(tok_utf8_code(text + start, end - start)))
			break;
		end = start;
	}
	return end;
}

static size_t spaces_after(const char *text, size_t start, size_t len)
{
	size_t bytes;

	for (; start < len; start += bytes) {
		tok_utf8_look(text + start, len - start, &bytes);
		if (!tok_unicode_is_space(tok_utf8_code(text + start, bytes)))
			break;
	}
	return start;
}

static bool is_single_word(const char *text, size_t len, size_t start, size_t end)
{
	size_t bytes;

	if (start) {
		size_t prev = character_before(text, start);

		if (tok_unicode_is_word(tok_utf8_code(text + prev, start - prev)))
			return false;
	}
	if (end == len)
		return true;
	tok_utf8_look(text + end, len - end, &bytes);
	return !tok_unicode_is_word(tok_utf8_code(text + end, bytes));
}

/* Takes the leftmost longest token each time; a match that single_word rejects is skipped whole, as in HF. */
static int run_added(struct work *w)
{
	const struct tok_trie *trie = &w->tok->tries[w->stage->normalized];
	size_t done = 0, matched = 0, i = 0;
	int err = 0;

	while (i < w->len && !err) {
		int32_t index = tok_trie_longest(trie, w->text + i, w->len - i, &matched);
		const struct tok_added *added = index < 0 ? NULL : &w->tok->added[index];
		size_t start = i, end = i + matched;

		if (!added) {
			i++;
			continue;
		}
		i = end;
		if (added->single_word && !is_single_word(w->text, w->len, start, end))
			continue;
		if (added->lstrip)
			start = spaces_before(w->text, start);
		if (start < done)
			start = done;
		if (added->rstrip)
			end = spaces_after(w->text, end, w->len);
		if (done < start)
			err = put_slice(w, done, start, -1);
		if (!err)
			err = put_slice(w, start, end > start ? end : start, added->id);
		done = end;
	}
	return err || done >= w->len ? err : put_slice(w, done, w->len, -1);
}

/* ---- normalisers ---- */

static int run_nfc(struct work *w)
{
	struct tok_text normal = {0};
	int err = tok_unicode_nfc(w->text, w->len, &normal);

	if (!err)
		err = tok_pieces_append(w->out, normal.data, normal.len, -1, w->at_start);
	free(normal.data);
	return err;
}

static int put_prefixed(struct work *w, const char *prefix)
{
	struct tok_text text = {0};
	int err = tok_text_append(&text, prefix, strlen(prefix));

	if (!err)
		err = tok_text_append(&text, w->text, w->len);
	if (!err)
		err = tok_pieces_append(w->out, text.data, text.len, -1, w->at_start);
	free(text.data);
	return err;
}

static int replace_found(void *arg, size_t start, size_t end, bool match)
{
	struct work *w = arg;

	if (match)
		return tok_text_append(&w->replaced, w->stage->text, strlen(w->stage->text));
	return tok_text_append(&w->replaced, w->text + start, end - start);
}

static int run_replace(struct work *w)
{
	int err = tok_regex_each(w->stage->regex, w->text, w->len, replace_found, w);

	if (!err)
		err = tok_pieces_append(w->out, w->replaced.data, w->replaced.len, -1, w->at_start);
	free(w->replaced.data);
	w->replaced = (struct tok_text){0};
	return err;
}

/* ---- pre-tokenisers ---- */

/* Whether the next piece joins the held one. */
static bool merges_with_held(const struct work *w, bool match)
{
	if (w->stage->behavior == TOK_MERGED_WITH_PREVIOUS)
		return match && !w->held_match;
	return w->stage->behavior == TOK_MERGED_WITH_NEXT && w->held_match && !match;
}

static int split_found(void *arg, size_t start, size_t end, bool match)
{
	struct work *w = arg;
	int err = 0;

	match ^= w->stage->invert;
	if (w->stage->behavior == TOK_ISOLATED)
		return put_slice(w, start, end, -1);
	if (w->stage->behavior == TOK_REMOVED)
		return match ? 0 : put_slice(w, start, end, -1);
	if (w->held && merges_with_held(w, match)) {
		w->held_end = end;
	} else {
		if (w->held)
			err = put_slice(w, w->held_start, w->held_end, -1);
		w->held_start = start;
		w->held_end = end;
	}
	w->held = true;
	w->held_match = match;
	return err;
}

static int run_split(struct work *w)
{
	int err = tok_regex_each(w->stage->regex, w->text, w->len, split_found, w);

	if (!err && w->held)
		err = put_slice(w, w->held_start, w->held_end, -1);
	w->held = false;
	return err;
}

static int run_metaspace(struct work *w)
{
	const char *mark = w->stage->text;
	size_t mark_len = strlen(mark);
	bool has_mark = w->text[0] == ' ' || (w->len >= mark_len && !memcmp(w->text, mark, mark_len));
	bool wants = w->stage->prepend == TOK_PREPEND_ALWAYS || (w->stage->prepend == TOK_PREPEND_FIRST && w->at_start);
	struct tok_text text = {0};
	int err = wants && !has_mark ? tok_text_append(&text, mark, mark_len) : 0;

	for (size_t i = 0; i < w->len && !err; i++)
		err = w->text[i] == ' ' ? tok_text_append(&text, mark, mark_len)
					: tok_text_append(&text, w->text + i, 1);
	if (!err)
		err = tok_pieces_append(w->out, text.data, text.len, -1, w->at_start);
	free(text.data);
	return err;
}

static int run_bytes(struct work *w)
{
	struct tok_text text = {0};
	int err = 0;

	for (size_t i = 0; i < w->len && !err; i++) {
		char code[4];

		err = tok_text_append(&text, code, tok_utf8_put(tok_byte_to_code((unsigned char)w->text[i]), code));
	}
	if (!err)
		err = tok_pieces_append(w->out, text.data, text.len, -1, w->at_start);
	free(text.data);
	return err;
}

static int run_stage(struct work *w)
{
	switch (w->stage->kind) {
	case TOK_STAGE_ADDED:
		return run_added(w);
	case TOK_STAGE_NFC:
		return run_nfc(w);
	case TOK_STAGE_PREPEND:
		return put_prefixed(w, w->stage->text);
	case TOK_STAGE_REPLACE:
		return run_replace(w);
	case TOK_STAGE_SPLIT:
		return run_split(w);
	case TOK_STAGE_METASPACE:
		return run_metaspace(w);
	case TOK_STAGE_SPACE:
		return put_prefixed(w, w->text[0] == ' ' ? "" : " ");
	case TOK_STAGE_BYTES:
		return run_bytes(w);
	}
	return 0;
}

int tok_stages_run(const struct kvs_tokenizer *tok, size_t first, size_t end, struct tok_pieces *pieces)
{
	int err = 0;

	for (size_t s = first; s < end && !err; s++) {
		struct tok_pieces out = {0};
		struct work w = {.tok = tok, .stage = &tok->stages[s], .out = &out};

		for (size_t i = 0; i < pieces->count && !err; i++) {
			const struct tok_piece *piece = &pieces->list[i];

			w.text = pieces->text.data + piece->at;
			w.len = piece->len;
			w.at_start = piece->at_start;
			err = piece->id < 0 ? run_stage(&w)
					    : tok_pieces_append(&out, w.text, w.len, piece->id, w.at_start);
		}
		tok_pieces_clear(pieces);
		*pieces = out;
	}
	return err;
}

/* ---- the whole ---- */

static int pieces_to_ids(const struct kvs_tokenizer *tok, const struct tok_pieces *pieces, struct tok_ids *ids)
{
	struct tok_bpe bpe = {.tok = tok};
	int err = 0;

	for (size_t i = 0; i < pieces->count && !err; i++) {
		const struct tok_piece *piece = &pieces->list[i];

		if (piece->id >= 0)
			err = tok_ids_append(ids, &piece->id, 1);
		else
			err = tok_bpe_word(&bpe, pieces->text.data + piece->at, piece->len, ids);
	}
	tok_bpe_clear(&bpe);
	return err;
}

static int encode(const kvs_tokenizer *tok, const char *text, size_t bytes, bool special, struct tok_ids *ids)
{
	struct tok_text valid = {0};
	struct tok_pieces pieces = {0};
	int err = tok_utf8_repair(text, bytes, &valid);

	if (!err)
		err = tok_pieces_append(&pieces, valid.data, valid.len, -1, true);
	free(valid.data);
	if (!err)
		err = tok_stages_run(tok, 0, tok->stage_count, &pieces);
	if (!err && special)
		err = tok_ids_append(ids, tok->before.list, tok->before.count);
	if (!err)
		err = pieces_to_ids(tok, &pieces, ids);
	if (!err && special)
		err = tok_ids_append(ids, tok->after.list, tok->after.count);
	tok_pieces_clear(&pieces);
	return err;
}

int kvs_tokenizer_encode(
	const kvs_tokenizer *tok, const char *text, size_t bytes, bool special, int32_t **ids, size_t *count)
{
	struct tok_ids out = {0};
	int err;

	if (bytes > MAX_TEXT)
		return kvs_fail(-EINVAL, "text of %zu bytes: at most %zu are tokenized at once", bytes, MAX_TEXT);
	err = encode(tok, text, bytes, special, &out);
	if (!err && !out.list) { /* the caller gets a buffer to free even if there are no ids */
		out.list = malloc(sizeof(*out.list));
		err = out.list ? 0 : -ENOMEM;
	}
	if (err) {
		free(out.list);
		return err == -ENOMEM ? kvs_fail(-ENOMEM, "no memory to tokenize %zu bytes", bytes) : err;
	}
	*ids = out.list;
	*count = out.count;
	return 0;
}
