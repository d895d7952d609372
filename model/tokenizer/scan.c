/*
 * model/tokenizer/scan.c: model.vocab and model.merges of a tokenizer.json, read where they stand in the file.
 *
 * They are nearly all of the file, up to a million texts, and jansson needs several allocations for each. So one walk reads these
 * two, whose form is simple, and jansson reads the rest, in which they are empty. What is read here is read as jansson does; at
 * anything else, all errors included, the walk gives up, and jansson reads the whole file and has the message.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"
#include "../json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct scan {
	const char *at, *end;
	size_t bytes; /* of the whole file */
	struct tok_lists *lists;
	size_t token_cap, id_cap, merge_cap, arena_len;
	struct tok_span vocab, merges; /* their places in the file; at NULL: not found */
};

/* ---- JSON; false: the walk gives up ---- */

static void skip_space(struct scan *scan)
{
	while (scan->at < scan->end && *scan->at <= ' ' && memchr(" \t\n\r", *scan->at, 4))
		scan->at++;
}

static bool take(struct scan *scan, char expected)
{
	skip_space(scan);
	if (scan->at == scan->end || *scan->at != expected)
		return false;
	scan->at++;
	return true;
}

/* What stands between the quotes of a string. */
static bool take_raw(struct scan *scan, struct tok_span *out, bool *escapes)
{
	const char *start;
	size_t len;

	*escapes = false;
	if (!take(scan, '"'))
		return false;
	for (start = scan->at; scan->at < scan->end && *scan->at != '"'; scan->at += len) {
		unsigned char byte = (unsigned char)*scan->at;

		len = byte == '\\' ? 2 : 1;
		*escapes |= byte == '\\';
		if (byte < 0x20 ||
			(byte >= 0x80 && tok_utf8_look(scan->at, (size_t)(scan->end - scan->at), &len) != TOK_UTF8_OK))
			return false;
	}
	if (scan->at >= scan->end)
		return false;
	*out = (struct tok_span){start, (size_t)(scan->at++ - start)};
	return true;
}

/* Over any value; whether it is one is for jansson to say. */
static bool skip_value(struct scan *scan)
{
	struct tok_span raw;
	size_t depth = 0;
	bool escapes;

	do {
		skip_space(scan);
		if (scan->at >= scan->end)
			return false;
		if (*scan->at == '"') {
			if (!take_raw(scan, &raw, &escapes))
				return false;
			continue;
		}
		if (*scan->at == '{' || *scan->at == '[')
			depth++;
		else if ((*scan->at == '}' || *scan->at == ']') && !depth--)
			return false;
		scan->at++;
	} while (depth || (scan->at < scan->end && !memchr(",]} \t\n\r", *scan->at, 7)));
	return true;
}

static bool hex4(const char *at, const char *end, uint32_t *out)
{
	static const char digits[] = "0123456789abcdef";

	*out = 0;
	for (int i = 0; i < 4; i++) {
		const char *digit = at + i < end ? memchr(digits, at[i] | 0x20, 16) : NULL;

		if (!digit || (at[i] < 0x20)) /* 0x10 to 0x19 would pass for digits */
			return false;
		*out = *out << 4 | (uint32_t)(digit - digits);
	}
	return true;
}

/* The character of \uXXXX or of two of them; `at` stands behind the u. Returns the bytes read, 0: damaged, or a NUL. */
static size_t unescape_code(const char *at, const char *end, uint32_t *code)
{
	uint32_t low;

	if (!hex4(at, end, code) || !*code || (*code >= 0xdc00 && *code < 0xe000))
		return 0;
	if (*code < 0xd800 || *code >= 0xe000)
		return 4;
	if (end - at < 10 || at[4] != '\\' || at[5] != 'u' || !hex4(at + 6, end, &low) || low < 0xdc00 || low >= 0xe000)
		return 0;
	*code = 0x10000 + ((*code - 0xd800) << 10 | (low - 0xdc00));
	return 10;
}

/* Into the arena, which has room for all of the file, as texts only become shorter. */
static bool unescape(struct scan *scan, struct tok_span raw, struct tok_span *out)
{
	static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	const char *end = raw.at + raw.len;
	char *arena = scan->lists->arena, *to;

	if (!arena && !(arena = scan->lists->arena = malloc(scan->bytes)))
		return false;
	out->at = to = arena + scan->arena_len;
	for (const char *at = raw.at; at < end;) {
		const char *name = *at == '\\' ? memchr(names, at[1], sizeof(names) - 1) : NULL;
		uint32_t code;
		size_t read;

		if (*at != '\\') {
			*to++ = *at++;
		} else if (name) {
			*to++ = bytes[name - names];
			at += 2;
		} else {
			read = at[1] == 'u' ? unescape_code(at + 2, end, &code) : 0;
			if (!read)
				return false;
			to += tok_utf8_put(code, to);
			at += 2 + read;
		}
	}
	out->len = (size_t)(to - out->at);
	scan->arena_len += out->len;
	return true;
}

static bool take_text(struct scan *scan, struct tok_span *out)
{
	bool escapes;

	return take_raw(scan, out, &escapes) && (!escapes || unescape(scan, *out, out));
}

static bool take_id(struct scan *scan, int32_t *id)
{
	const char *start;

	skip_space(scan);
	*id = 0;
	for (start = scan->at; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) {
		*id = 10 * *id + (*scan->at - '0');
		if (*id > TOK_MAX_TOKEN_ID || (scan->at > start && *start == '0'))
			return false;
	}
	return scan->at > start;
}

/* ---- the two lists ---- */

static bool take_vocab(struct scan *scan)
{
	struct tok_lists *lists = scan->lists;

	if (!take(scan, '{'))
		return false;
	do {
		struct tok_span *tokens =
			tok_grow(lists->tokens, lists->token_count, &scan->token_cap, sizeof(*tokens));
		int32_t *ids = tokens ? tok_grow(lists->ids, lists->token_count, &scan->id_cap, sizeof(*ids)) : NULL;

		lists->tokens = tokens ? tokens : lists->tokens;
		lists->ids = ids ? ids : lists->ids;
		if (!ids || !take_text(scan, &tokens[lists->token_count]) || !take(scan, ':') ||
			!take_id(scan, &ids[lists->token_count]))
			return false;
		lists->token_count++;
	} while (take(scan, ','));
	return take(scan, '}');
}

static bool take_merge(struct scan *scan, struct tok_merge *merge)
{
	if (take(scan, '['))
		return take_text(scan, &merge->left) && take(scan, ',') && take_text(scan, &merge->right) &&
		       take(scan, ']');
	return take_text(scan, &merge->left) && tok_merge_split(merge);
}

static bool take_merges(struct scan *scan)
{
	struct tok_lists *lists = scan->lists;

	if (!take(scan, '['))
		return false;
	if (take(scan, ']'))
		return true;
	do {
		struct tok_merge *grown = tok_grow(lists->merges, lists->merge_count, &scan->merge_cap, sizeof(*grown));

		lists->merges = grown ? grown : lists->merges;
		if (!grown || !take_merge(scan, &grown[lists->merge_count]))
			return false;
		lists->merge_count++;
	} while (take(scan, ','));
	return take(scan, ']');
}

/* ---- the walk ---- */

static bool is(struct tok_span text, const char *name)
{
	return text.len == strlen(name) && !memcmp(text.at, name, text.len);
}

static bool take_list(struct scan *scan, bool (*take_it)(struct scan *), struct tok_span *place)
{
	const char *start;

	if (place->at) /* twice */
		return false;
	skip_space(scan);
	start = scan->at;
	if (!take_it(scan))
		return false;
	*place = (struct tok_span){start, (size_t)(scan->at - start)};
	return true;
}

static bool walk(struct scan *scan, bool in_model)
{
	struct tok_span key;
	bool escapes, more = take(scan, '{');

	while (more) {
		if (!take_raw(scan, &key, &escapes) || !take(scan, ':'))
			return false;
		if (!in_model && is(key, "model"))
			more = walk(scan, true);
		else if (in_model && is(key, "vocab"))
			more = take_list(scan, take_vocab, &scan->vocab);
		else if (in_model && is(key, "merges"))
			more = take_list(scan, take_merges, &scan->merges);
		else
			more = skip_value(scan);
		if (more && !take(scan, ','))
			return take(scan, '}');
	}
	return false;
}

/* The file with the brackets of both lists, and nothing in them. */
static int parse_rest(const struct scan *scan, const char *json, const char *file, json_t **out)
{
	bool vocab_first = scan->vocab.at < scan->merges.at;
	const struct tok_span cuts[2] = {
		vocab_first ? scan->vocab : scan->merges, vocab_first ? scan->merges : scan->vocab};
	const char *from = json;
	char *rest = malloc(scan->bytes - cuts[0].len - cuts[1].len + 4), *to = rest;
	int err;

	if (!rest)
		return -ENOMEM;
	for (int i = 0; i < 2; i++) {
		to = mempcpy(to, from, (size_t)(cuts[i].at - from));
		from = cuts[i].at + cuts[i].len;
		*to++ = cuts[i].at[0];
		*to++ = from[-1];
	}
	to = mempcpy(to, from, (size_t)(scan->end - from));
	err = model_json_parse(rest, (size_t)(to - rest), file, out);
	free(rest);
	return err;
}

bool tok_scan(const char *json, size_t bytes, const char *file, struct tok_lists *lists, json_t **out)
{
	struct scan scan = {.at = json, .end = json + bytes, .bytes = bytes, .lists = lists};

	if (walk(&scan, false) && scan.vocab.at && scan.merges.at && !parse_rest(&scan, json, file, out)) {
		lists->read = true;
		return true;
	}
	tok_lists_clear(lists);
	return false;
}
