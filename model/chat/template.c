/*
 * model/chat/template.c: from the text of a template to its statements.
 *
 * Only what Jinja prints nothing for may stand between statements. transformers sets trim_blocks and lstrip_blocks: the
 * newline behind a block is dropped, and so are the blanks in front of one that starts its line.
 */
#include "chat.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tag: {{ }}, {% %} or {# #}. */
struct tag {
	char kind;                /* the second character */
	const char *inside, *end; /* between the marks, without "-" and "+" */
	const char *after;        /* the first byte behind it */
	bool trims_left, trims_right, keeps_left;
};

struct reader {
	const char *name, *at, *end;
	struct chat_steps *out;
};

static int bad(const char *name, const char *what, const char *at, const char *end)
{
	size_t length = end - at < 60 ? end - at : 60;

	return kvs_fail(-EINVAL, "%s: %s: \"%.*s\"", name, what, (int)length, at);
}

/* ---- the text between two tags ---- */

static bool blank(const char *at, const char *end)
{
	while (at < end && isspace((unsigned char)*at))
		at++;
	return at == end;
}

/* Whether Jinja prints nothing for the white space between two tags. `before` or `next` NULL: the template's start or end. */
static bool prints_nothing(const struct tag *before, const struct tag *next, const char *at, const char *end)
{
	const char *line;

	if ((before && before->trims_right) || (next && next->trims_left))
		return true;
	if (!next && end > at && end[-1] == '\n')
		end--; /* keep_trailing_newline is off */
	line = memrchr(at, '\n', end - at);
	if (next && next->kind != '{' && !next->keeps_left && (line || !before)) {
		const char *start = line ? line + 1 : at;
		if (strspn(start, " \t") >= (size_t)(end - start))
			end = start;
	}
	if (before && before->kind != '{' && at < end && *at == '\n')
		at++;
	return at == end;
}

/* ---- tags ---- */

/* The end mark of a tag; strings are skipped. NULL: there is none. */
static const char *find_end(const char *at, const char *end, const char *mark)
{
	char quote = 0;

	for (; end - at >= 2; at++) {
		if (mark[0] != '#' && quote && *at == '\\')
			at++;
		else if (mark[0] != '#' && quote)
			quote = *at == quote ? 0 : quote;
		else if (at[0] == mark[0] && at[1] == mark[1])
			return at;
		else if (*at == '\'' || *at == '"')
			quote = mark[0] == '#' ? 0 : *at;
	}
	return NULL;
}

static int read_tag(const struct reader *from, const char *open, struct tag *tag)
{
	char mark[2] = {open[1] == '{' ? '}' : open[1], '}'};

	*tag = (struct tag){.kind = open[1], .inside = open + 2};
	tag->end = find_end(tag->inside, from->end, mark);
	if (!tag->end)
		return bad(from->name, "a tag of the template has no end", open, from->end);
	tag->after = tag->end + 2;
	if (tag->inside < tag->end && (*tag->inside == '-' || *tag->inside == '+')) {
		tag->trims_left = *tag->inside == '-';
		tag->keeps_left = *tag->inside++ == '+';
	}
	if (tag->inside < tag->end && tag->end[-1] == '+')
		return bad(from->name, "a tag that keeps the line end behind it (+%}) is not read", open, from->end);
	if (tag->inside < tag->end && tag->end[-1] == '-') {
		tag->trims_right = true;
		tag->end--;
	}
	return 0;
}

static const char *find_tag(const char *at, const char *end)
{
	for (; end - at >= 2; at++)
		if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
			return at;
	return NULL;
}

/* ---- one spelling ---- */

struct spelling {
	char *text;
	size_t length, string; /* where the last string starts */
	bool ends_string;      /* the last character closes it */
};

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static char unescape(char c)
{
	return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

/* A string, from its quotation mark on; returns the byte behind it, NULL: it has no end, or an escape that is not read. */
static const char *spell_string(struct spelling *to, const char *at, const char *end)
{
	char quote = *at++;
	bool joins = to->length >= 2 && to->ends_string && to->text[to->length - 1] == '+';

	if (joins) {
		to->length -= 2; /* "a" + "b" is "ab" */
	} else {
		to->string = to->length;
		to->text[to->length++] = CHAT_QUOTE;
	}
	for (; at < end && *at != quote; at++) {
		char c = *at;
		if (c == '\\' && (++at == end || !strchr("ntr\\'\"", *at)))
			return NULL;
		c = at[-1] == '\\' && c == '\\' ? unescape(*at) : c;
		to->text[to->length++] = c == CHAT_QUOTE ? CHAT_BACKQUOTE : c;
	}
	to->text[to->length++] = CHAT_QUOTE;
	to->ends_string = true;
	return at < end ? at + 1 : NULL;
}

/* x["y"] becomes x.y, where y is a word. */
static bool spell_member(struct spelling *to)
{
	size_t start = to->string, last = to->length - 1;

	if (!to->ends_string || start < 2 || to->text[start - 1] != '[' || last < start + 2)
		return false;
	for (size_t i = start + 1; i < last; i++)
		if (!is_word(to->text[i]))
			return false;
	to->text[start - 1] = '.';
	memmove(to->text + start, to->text + start + 1, last - start - 1);
	to->length -= 2;
	to->ends_string = false;
	return true;
}

static void spell_other(struct spelling *to, const char *at, bool spaced)
{
	if (*at == ']' && spell_member(to))
		return;
	if (spaced && to->length && is_word(to->text[to->length - 1]) && is_word(*at))
		to->text[to->length++] = ' ';
	to->ends_string = to->ends_string && *at == '+' && to->text[to->length - 1] == CHAT_QUOTE;
	to->text[to->length++] = *at;
}

/* The caller frees *out. */
static int spell(const struct reader *from, const struct tag *tag, char **out)
{
	struct spelling to = {.text = malloc(2 * (tag->end - tag->inside) + 3)};
	const char *at = tag->inside;
	bool spaced = false;

	*out = to.text;
	if (!to.text)
		return kvs_fail(-ENOMEM, "%s: no memory for the template", from->name);
	while (at && at < tag->end) {
		if (isspace((unsigned char)*at)) {
			spaced = true;
			at++;
			continue;
		}
		if (*at == '\'' || *at == '"')
			at = spell_string(&to, at, tag->end);
		else
			spell_other(&to, at++, spaced);
		spaced = false;
	}
	to.text[to.length] = 0;
	return at ? 0 : bad(from->name, "a string of the template is not read", tag->inside, tag->end);
}

/* ---- statements ---- */

static int add_step(const struct reader *from, enum chat_kind kind, char *text)
{
	struct chat_steps *steps = from->out;
	struct chat_step *longer = realloc(steps->list, (steps->count + 1) * sizeof(*longer));

	if (!longer) {
		free(text);
		return kvs_fail(-ENOMEM, "%s: no memory for the template", from->name);
	}
	steps->list = longer;
	steps->list[steps->count++] = (struct chat_step){kind, text};
	return 0;
}

/* "if x" without its word; false: it starts with another. */
static bool take_word(char *text, const char *word)
{
	size_t length = strlen(word);

	if (strncmp(text, word, length) || is_word(text[length]))
		return false;
	length += text[length] == ' ';
	memmove(text, text + length, strlen(text + length) + 1);
	return true;
}

static int add_tag(const struct reader *from, const struct tag *tag)
{
	static const char *const words[] = {"", "set", "if", "elif", "else", "endif", "for", "endfor"};
	char *text;
	int err;

	if (tag->kind == '#')
		return 0;
	err = spell(from, tag, &text);
	if (!err && tag->kind == '{')
		return add_step(from, CHAT_PRINT, text);
	for (int kind = CHAT_SET; kind <= CHAT_ENDFOR && !err; kind++)
		if (take_word(text, words[kind]))
			return add_step(from, kind, text);
	if (!err)
		err = bad(from->name, "this statement of the template is not known", tag->inside, tag->end);
	free(text);
	return err;
}

int chat_read_steps(const char *text, size_t bytes, const char *name, struct chat_steps *out)
{
	struct reader from = {name, text, text + bytes, out};
	struct tag before, next;
	const char *open;
	bool first = true;
	int err = 0;

	*out = (struct chat_steps){0};
	if (memchr(text, CHAT_BACKQUOTE, bytes) || memchr(text, 0, bytes))
		return kvs_fail(-EINVAL, "%s: the template has control characters", name);
	for (; !err && (open = find_tag(from.at, from.end)); first = false) {
		err = read_tag(&from, open, &next);
		if (!err && !blank(from.at, open))
			err = bad(name, "the template has text outside of its statements", from.at, open);
		if (!err && !prints_nothing(first ? NULL : &before, &next, from.at, open))
			err = bad(
				name, "the template prints white space between its statements, before", open, from.end);
		if (!err)
			err = add_tag(&from, &next);
		before = next;
		from.at = err ? from.at : next.after;
	}
	if (!err && !(blank(from.at, from.end) && prints_nothing(first ? NULL : &before, NULL, from.at, from.end)))
		err = bad(name, "the template has text outside of its statements", from.at, from.end);
	return err;
}

void chat_clear_steps(struct chat_steps *steps)
{
	for (size_t i = 0; i < steps->count; i++)
		free(steps->list[i].text);
	free(steps->list);
	*steps = (struct chat_steps){0};
}
