/*
 * model/chat/forms.c: the statements that each form knows, and what they say.
 *
 * In a pattern "@" stands for text inside of a string, which is kept, and "*" for anything.
 */
#include "chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct rule {
	const char *pattern;
	unsigned effects;
	int pads; /* the first of chat->pads that "@" fills; -1: none */
};

#define HEADER "`<|start_header_id|>`+message.role+`<|end_header_id|>\n\n`+message.content"

static const struct rule common[] = {{"bos_token", CHAT_BOS, -1}, {"raise_exception(*)", 0, -1}, {"ns=*", 0, -1},
	{"ns.*=*", 0, -1}, {"index=*", 0, -1}, {"loop_messages=messages", 0, -1}, {"loop_messages=messages[1:]", 0, -1},
	{"messages=messages[1:]", 0, -1}, {"tools=*", 0, -1}, {"tools_in_user_message=*", 0, -1},
	{"user_messages=*", 0, -1}, {"system_message=messages[0].content", 0, -1}, {"system_message=``", 0, -1},
	{"system_message=false", 0, -1}};

static const struct rule chatml[] = {
	{"`<|im_start|>`+message.role+`\n`+message.content+`<|im_end|>\n`", CHAT_TURN | CHAT_SYSTEM, -1},
	{"`<|im_start|>`+message.role+`\n`+message.content|trim+`<|im_end|>\n`",
		CHAT_TURN | CHAT_SYSTEM | CHAT_TRIM | CHAT_TRIM_SYSTEM, -1},
	{"`<|im_start|>user\n`+message.content+`<|im_end|>\n`", CHAT_TURN, -1},
	{"`<|im_start|>system\n`+messages[0].content+`<|im_end|>\n`", CHAT_SYSTEM, -1},
	{"`<|im_start|>system\n`+message.content+`<|im_end|>\n`", CHAT_SYSTEM, -1},
	{"`<|im_start|>system\n@<|im_end|>\n`", CHAT_DEFAULT, -1}, {"`<|im_start|>assistant\n@`", CHAT_START, -1}};

static const struct rule llama2[] = {{"content=message.content", 0, -1},
	{"content=`<<SYS>>\n`+system_message+`\n<</SYS>>\n\n`+message.content", CHAT_SYSTEM, -1},
	{"bos_token+`[INST] `+content.strip()+` [/INST]`", CHAT_TURN | CHAT_TRIM | CHAT_BOS, -1},
	{"bos_token+`[INST] `+content|trim+` [/INST]`", CHAT_TURN | CHAT_TRIM | CHAT_BOS, -1}};

static const struct rule llama3[] = {
	{"content=" HEADER "|trim+`<|eot_id|>`", CHAT_TURN | CHAT_SYSTEM | CHAT_TRIM | CHAT_TRIM_SYSTEM, -1},
	{HEADER "|trim+`<|eot_id|>`", CHAT_TURN | CHAT_SYSTEM | CHAT_TRIM | CHAT_TRIM_SYSTEM, -1},
	{HEADER "+`<|eot_id|>`", CHAT_TURN | CHAT_SYSTEM, -1}, {"content=bos_token+content", CHAT_BOS, -1},
	{"content", 0, -1}, {"`<|start_header_id|>assistant<|end_header_id|>\n\n`", CHAT_START, -1},
	{"`<|start_header_id|>system<|end_header_id|>\n\n`", CHAT_HEAD, -1},
	{"`Cutting Knowledge Date: @\n`", CHAT_KNOWLEDGE, -1}, {"`Today Date: `+date_string+`\n\n`", CHAT_TODAY, -1},
	{"date_string=`@`", CHAT_DATE, -1}, {"date_string=strftime_now(`%d %b %Y`)", CHAT_NOW, -1},
	{"system_message=messages[0].content|trim", CHAT_TRIM_SYSTEM, -1}, {"system_message", CHAT_SYSTEM, -1},
	{"`<|eot_id|>`", 0, -1}};

static const struct rule mistral[] = {{"`@[INST]@`+message.content+`@[/INST]`", CHAT_TURN, 0},
	{"`@[INST]@`+system_message+`\n\n`+message.content+`@[/INST]`", CHAT_SYSTEM, 3},
	{"`@[SYSTEM_PROMPT]@`+message.content+`@[/SYSTEM_PROMPT]`", CHAT_SYSTEM | CHAT_BLOCK, 3}};

/* A template is of the first form whose mark is in it. */
static const struct form {
	const char *mark, *name;
	const struct rule *rules;
	size_t count;
	unsigned needs;
} forms[] = {
	[CHAT_CHATML] = {"<|im_start|>", "ChatML", chatml, sizeof(chatml) / sizeof(*chatml), CHAT_TURN | CHAT_START},
	[CHAT_LLAMA2] = {"<<SYS>>", "Llama 2", llama2, sizeof(llama2) / sizeof(*llama2), CHAT_TURN},
	[CHAT_LLAMA3] = {"<|start_header_id|>", "Llama 3", llama3, sizeof(llama3) / sizeof(*llama3),
		CHAT_TURN | CHAT_START},
	[CHAT_MISTRAL] = {"[INST]", "Mistral", mistral, sizeof(mistral) / sizeof(*mistral), CHAT_TURN},
};

const char *kvs_chat_form(const kvs_chat *chat)
{
	return forms[chat->form].name;
}

/* ---- patterns ---- */

#define CAPTURES 3 /* the most in one pattern */

struct capture {
	const char *at;
	size_t len;
};

/* The first place in `text` of the `len` bytes of a pattern, which has no wildcard there; the end, if it ends with them. */
static const char *find_piece(const char *text, const char *piece, size_t len)
{
	size_t left = strlen(text);

	if (piece[len])
		return memmem(text, left, piece, len);
	return left >= len && !strcmp(text + left - len, piece) ? text + left - len : NULL;
}

/*
 * All of `text`; found[0], found[1] ... take what each "@" stands for. A wildcard takes as little as it can, and no other
 * length is tried, so a long text costs no more than its length. Nothing is missed by it in a pattern whose wildcards are all
 * "*" or all "@": what follows may come anywhere behind, or at the end of the string alone. So no rule has both.
 */
static bool matches(const char *pattern, const char *text, struct capture *found)
{
	size_t len = strcspn(pattern, "@*");

	if (strncmp(pattern, text, len) != 0)
		return false;
	for (pattern += len, text += len; *pattern; pattern += len) {
		bool inside = *pattern++ == '@';
		const char *next;
		len = strcspn(pattern, "@*");
		next = find_piece(text, pattern, len);
		if (!next || (inside && memchr(text, CHAT_QUOTE, next - text)))
			return false;
		if (inside)
			*found++ = (struct capture){text, next - text};
		text = next + len;
	}
	return !*text;
}

/* ---- what the rules say ---- */

static int no_memory(const char *name)
{
	return kvs_fail(-ENOMEM, "%s: no memory for the template", name);
}

/* Keep a text in *to. -EINVAL: it has another already, so that it depends on what we do not look at. */
static int keep(struct capture from, char **to, const char *name)
{
	char *text = strndup(from.at, from.len);

	for (char *c = text; c && *c; c++)
		*c = *c == CHAT_BACKQUOTE ? '`' : *c;
	if (!text)
		return no_memory(name);
	if (*to && strcmp(*to, text)) {
		free(text);
		return kvs_fail(-EINVAL, "%s: the template has two texts for one thing: \"%.60s\" is one", name, *to);
	}
	free(*to);
	*to = text;
	return 0;
}

static int apply(const struct rule *rule, const struct capture *found, const char *name, struct kvs_chat *chat)
{
	char **kept = rule->effects & CHAT_DEFAULT     ? &chat->default_system
		      : rule->effects & CHAT_KNOWLEDGE ? &chat->knowledge
		      : rule->effects & CHAT_DATE      ? &chat->date
						       : &chat->start;
	int err = 0;

	chat->seen |= rule->effects;
	if (rule->pads >= 0) {
		for (int i = 0; i < CAPTURES && !err; i++)
			err = keep(found[i], &chat->pads[rule->pads + i], name);
		return err;
	}
	return found[0].at ? keep(found[0], kept, name) : 0;
}

static const struct rule *find_rule(
	const struct rule *rules, size_t count, const char *text, struct capture found[CAPTURES])
{
	for (size_t i = 0; i < count; i++) {
		memset(found, 0, sizeof(*found) * CAPTURES);
		if (matches(rules[i].pattern, text, found))
			return &rules[i];
	}
	return NULL;
}

static int take_step(const struct chat_step *step, const char *name, struct kvs_chat *chat)
{
	const struct form *form = &forms[chat->form];
	struct capture found[CAPTURES];
	const struct rule *rule = find_rule(form->rules, form->count, step->text, found);
	char shown[512];

	if (!rule)
		rule = find_rule(common, sizeof(common) / sizeof(*common), step->text, found);
	if (!rule)
		return kvs_fail(-EINVAL, "%s: the template is like %s, but has a statement that is not known: %.100s",
			name, form->name, kvs_visible(step->text, shown, sizeof(shown)));
	return apply(rule, found, name, chat);
}

/* ---- the form ---- */

static bool mentions(const struct chat_steps *steps, const char *mark)
{
	for (size_t i = 0; i < steps->count; i++)
		if (strstr(steps->list[i].text, mark))
			return true;
	return false;
}

/* The head of a system message that is always there has its two lines, or neither. */
static bool whole(const struct kvs_chat *chat)
{
	unsigned lines = chat->seen & (CHAT_KNOWLEDGE | CHAT_TODAY);

	return !lines || ((chat->seen & CHAT_HEAD) && (chat->seen & CHAT_KNOWLEDGE) && (chat->seen & CHAT_TODAY) &&
				 (chat->seen & (CHAT_DATE | CHAT_NOW)));
}

int chat_find_form(const struct chat_steps *steps, const char *name, struct kvs_chat *chat)
{
	size_t form = 0, count = sizeof(forms) / sizeof(*forms);
	int err = 0;

	while (form < count && !mentions(steps, forms[form].mark))
		form++;
	if (form == count)
		return kvs_fail(-EINVAL,
			"%s: the template is of none of the forms that are known: ChatML, Llama 2, Llama 3, Mistral",
			name);
	chat->form = form;
	for (size_t i = 0; i < steps->count && !err; i++)
		err = take_step(&steps->list[i], name, chat);
	if (!err && ((chat->seen & forms[form].needs) != forms[form].needs || !whole(chat)))
		err = kvs_fail(
			-EINVAL, "%s: the template is like %s, but a part of it is missing", name, forms[form].name);
	return err;
}
