/*
 * model/chat/live.c: which statements of a template a conversation can reach that has one system message at most, one user
 * message, no tools, and asks for an answer.
 *
 * A condition is true, false or open. What follows a true one in its chain, and what a false one guards, is left out.
 */
#include "chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64

enum truth { NO, OPEN, YES };

struct atom {
	const char *at; /* NULL: none */
	size_t length;
};

/* ---- conditions ---- */

static const char *const untrue[] = {"tools", "tools is not none", "tools!=none", "builtin_tools",
	"builtin_tools is defined", "custom_tools", "custom_tools is defined", "xml_tools", "python_tools", "documents",
	"message.role==`assistant`", "message.role==`tool`", "message.role==`ipython`", "message.role==`tool_results`",
	"message.role==`assistant_tool_call`", "message.tool_calls", "message.tool_calls is defined",
	"message.tool_calls is not none", "`tool_calls`in message", "enable_thinking", "enable_thinking is defined",
	"tools_in_user_message is defined", "date_string is defined", "continue_final_message"};
static const char *const true_ones[] = {"add_generation_prompt", "strftime_now is defined", "tools is none",
	"tools is defined", "documents is defined", "messages", "messages|length>0"};

/* Those that change within a conversation; the forms know what follows of them. */
static const char *const open_ones[] = {"loop.first", "loop.last", "loop.index0==0", "message.role==`user`",
	"message.role==`system`", "messages[0].role==`system`", "messages[0].role!=`system`",
	"system_message is defined", "system_message!=false", "(message.role==`user`)!=(loop.index0%2==0)",
	"(message.role==`user`)!=(ns.index%2==0)", "ns.multi_step_tool",
	"message.content.startswith(`<tool_response>`)", "message.content.endswith(`</tool_response>`)"};

#define ONE_OF(list, text, length) is_one_of(list, sizeof(list) / sizeof(*(list)), text, length)
static bool is_one_of(const char *const *list, size_t count, const char *text, size_t length)
{
	for (size_t i = 0; i < count; i++)
		if (strlen(list[i]) == length && !strncmp(text, list[i], length))
			return true;
	return false;
}

/* A condition that is in no list goes to *unknown, if it is the first. */
static enum truth judge_atom(const char *text, size_t length, struct atom *unknown)
{
	if (ONE_OF(untrue, text, length))
		return NO;
	if (ONE_OF(true_ones, text, length))
		return YES;
	if (!unknown->at && !ONE_OF(open_ones, text, length))
		*unknown = (struct atom){text, length};
	return OPEN;
}

static bool edge(char c)
{
	return c == ' ' || c == CHAT_QUOTE || c == '(' || c == ')' || c == ']';
}

/* The place of `word` outside of brackets and strings; `length`: nowhere. */
static size_t find_word(const char *text, size_t length, const char *word)
{
	size_t size = strlen(word), depth = 0;
	bool string = false;

	for (size_t i = 0; i < length; i++) {
		if (text[i] == CHAT_QUOTE)
			string = !string;
		else if (!string && strchr("([{", text[i]))
			depth++;
		else if (!string && depth && strchr(")]}", text[i]))
			depth--;
		else if (!string && !depth && i && i + size < length && edge(text[i - 1]) && edge(text[i + size]) &&
			 !strncmp(text + i, word, size))
			return i;
	}
	return length;
}

/* All of the text is in one pair of brackets. */
static bool bracketed(const char *text, size_t length)
{
	size_t depth = 0;
	bool string = false;

	if (!length || text[0] != '(')
		return false;
	for (size_t i = 0; i < length; i++) {
		if (text[i] == CHAT_QUOTE)
			string = !string;
		else if (!string && text[i] == '(')
			depth++;
		else if (!string && text[i] == ')' && !--depth)
			return i == length - 1;
	}
	return false;
}

static void strip(const char **text, size_t *length)
{
	for (; *length && **text == ' '; (*length)--)
		(*text)++;
	while (*length && (*text)[*length - 1] == ' ')
		(*length)--;
}

static enum truth judge(const char *text, size_t length, int depth, struct atom *unknown)
{
	size_t at;

	strip(&text, &length);
	if (depth == MAX_DEPTH)
		return judge_atom(text, length, unknown);
	if (bracketed(text, length))
		return judge(text + 1, length - 2, depth + 1, unknown);
	at = find_word(text, length, "or");
	if (at < length) {
		enum truth a = judge(text, at, depth + 1, unknown),
			   b = judge(text + at + 2, length - at - 2, depth + 1, unknown);
		return a > b ? a : b;
	}
	at = find_word(text, length, "and");
	if (at < length) {
		enum truth a = judge(text, at, depth + 1, unknown),
			   b = judge(text + at + 3, length - at - 3, depth + 1, unknown);
		return a < b ? a : b;
	}
	if (length > 3 && !strncmp(text, "not", 3) && (text[3] == ' ' || text[3] == '('))
		return YES - judge(text + 3, length - 3, depth + 1, unknown);
	return judge_atom(text, length, unknown);
}

/* ---- branches ---- */

/* An if or for that is open. */
struct level {
	bool loop, outer, decided, live; /* outer: around it; decided: a branch was surely taken */
};

static void enter_branch(struct level *level, enum truth truth)
{
	level->live = level->outer && !level->decided && truth != NO;
	level->decided |= truth == YES;
}

/* A condition that is not known matters where it is reached, and decides. */
static enum truth judge_step(const struct chat_step *step, const struct level *level, struct atom *unknown)
{
	struct atom first = {NULL, 0};
	enum truth truth = judge(step->text, strlen(step->text), 0, &first);

	if (truth == OPEN && level->outer && !level->decided && !unknown->at)
		*unknown = first;
	return truth;
}

/* Follow one step; `depth` counts the open levels, levels[0] is the template itself. False: it does not match. */
static bool follow(const struct chat_step *step, struct level *levels, int *depth, struct atom *unknown)
{
	struct level *level = &levels[*depth];

	switch (step->kind) {
	case CHAT_IF:
	case CHAT_FOR:
		if (*depth == MAX_DEPTH - 1)
			return false;
		levels[++*depth] = (struct level){.loop = step->kind == CHAT_FOR, .outer = level->live};
		enter_branch(
			&levels[*depth], step->kind == CHAT_FOR ? OPEN : judge_step(step, &levels[*depth], unknown));
		return true;
	case CHAT_ELIF:
	case CHAT_ELSE:
		if (!*depth || level->loop)
			return false;
		enter_branch(level, step->kind == CHAT_ELSE ? OPEN : judge_step(step, level, unknown));
		return true;
	case CHAT_ENDIF:
	case CHAT_ENDFOR:
		return (*depth)-- && level->loop == (step->kind == CHAT_ENDFOR);
	default:
		return true;
	}
}

int chat_keep_live(struct chat_steps *steps, const char *name)
{
	struct level levels[MAX_DEPTH] = {{.live = true}};
	struct atom unknown = {NULL, 0};
	char condition[128] = "", shown[512];
	size_t kept = 0;
	int depth = 0;
	bool matched = true;

	for (size_t i = 0; i < steps->count; i++) {
		struct chat_step *step = &steps->list[i];
		matched = matched && follow(step, levels, &depth, &unknown);
		if (unknown.at && !*condition) /* before its text goes */
			snprintf(condition, sizeof(condition), "%.*s", (int)unknown.length, unknown.at);
		if (matched && levels[depth].live && (step->kind == CHAT_PRINT || step->kind == CHAT_SET))
			steps->list[kept++] = *step;
		else
			free(step->text);
	}
	steps->count = kept;
	if (!matched || depth)
		return kvs_fail(-EINVAL, "%s: the template's if, for and their ends do not match", name);
	if (*condition)
		return kvs_fail(-EINVAL, "%s: the template has a condition that is not known: %s", name,
			kvs_visible(condition, shown, sizeof(shown)));
	return 0;
}
