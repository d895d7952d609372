/*
 * model/chat/render.c: the text of a conversation, as its template prints it.
 */
#include "chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
	const char *at;
	size_t bytes;
};

static struct text whole_text(const char *text)
{
	return (struct text){text ? text : "", text ? strlen(text) : 0};
}

/* ---- white space as Python's str.strip() has it ---- */

static const char *const spaces[] = {"\t", "\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x1f", " ", "\xc2\x85",
	"\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84",
	"\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
	"\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

/* The bytes of the space at the front of the text, or at its end; 0: there is none. */
static size_t space_at(struct text text, bool end)
{
	for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++) {
		size_t length = strlen(spaces[i]);
		if (length <= text.bytes && !memcmp(end ? text.at + text.bytes - length : text.at, spaces[i], length))
			return length;
	}
	return 0;
}

static struct text trimmed(struct text text, bool front)
{
	for (size_t n; (n = space_at(text, true));)
		text.bytes -= n;
	for (size_t n; front && (n = space_at(text, false)); text.bytes -= n)
		text.at += n;
	return text;
}

/* ---- forms ---- */

static void put(FILE *to, struct text text)
{
	fwrite(text.at, 1, text.bytes, to);
}

static void put_chatml(FILE *to, const struct kvs_chat *chat, const struct text *system, struct text user)
{
	if (system || (chat->seen & CHAT_DEFAULT)) {
		fputs("<|im_start|>system\n", to);
		put(to, system ? *system : whole_text(chat->default_system));
		fputs("<|im_end|>\n", to);
	}
	fputs("<|im_start|>user\n", to);
	put(to, user);
	fputs("<|im_end|>\n<|im_start|>assistant\n", to);
	put(to, whole_text(chat->start));
}

/* The white space in front of a user's text is at the front of all only if no system message is before it. */
static void put_llama2(FILE *to, const struct text *system, struct text user)
{
	fputs("[INST] ", to);
	if (system) {
		fputs("<<SYS>>\n", to);
		put(to, *system);
		fputs("\n<</SYS>>\n\n", to);
	}
	put(to, user);
	fputs(" [/INST]", to);
}

static void put_llama3(FILE *to, const struct kvs_chat *chat, const struct text *system, struct text user, time_t now)
{
	char date[64] = "";
	struct tm day;

	if (system || (chat->seen & CHAT_HEAD))
		fputs("<|start_header_id|>system<|end_header_id|>\n\n", to);
	if (localtime_r(&now, &day))
		strftime(date, sizeof(date), "%d %b %Y", &day);
	if (chat->seen & CHAT_TODAY)
		fprintf(to, "Cutting Knowledge Date: %s\nToday Date: %s\n\n", chat->knowledge,
			chat->seen & CHAT_NOW ? date : chat->date);
	if (system)
		put(to, *system);
	if (system || (chat->seen & CHAT_HEAD))
		fputs("<|eot_id|>", to);
	fputs("<|start_header_id|>user<|end_header_id|>\n\n", to);
	put(to, user);
	fputs("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", to);
}

static void put_mistral(FILE *to, const struct kvs_chat *chat, const struct text *system, struct text user)
{
	bool block = chat->seen & CHAT_BLOCK;
	char *const *pads = &chat->pads[system && !block ? 3 : 0];

	if (system && block) {
		fprintf(to, "%s[SYSTEM_PROMPT]%s", chat->pads[3], chat->pads[4]);
		put(to, *system);
		fprintf(to, "%s[/SYSTEM_PROMPT]", chat->pads[5]);
	}
	fprintf(to, "%s[INST]%s", pads[0], pads[1]);
	if (system && !block) {
		put(to, *system);
		fputs("\n\n", to);
	}
	put(to, user);
	fprintf(to, "%s[/INST]", pads[2]);
}

static void put_form(FILE *to, const struct kvs_chat *chat, const struct text *system, struct text user, time_t now)
{
	fputs(chat->bos ? chat->bos : "", to);
	switch (chat->form) {
	case CHAT_CHATML:
		put_chatml(to, chat, system, user);
		break;
	case CHAT_LLAMA2:
		put_llama2(to, system, user);
		break;
	case CHAT_LLAMA3:
		put_llama3(to, chat, system, user, now);
		break;
	case CHAT_MISTRAL:
		put_mistral(to, chat, system, user);
	}
}

int kvs_chat_render(const kvs_chat *chat, const char *system, const char *user, size_t user_bytes, time_t now,
	char **text, size_t *bytes)
{
	struct text from = {user, user_bytes}, of_system = whole_text(system);
	FILE *to;
	bool failed;

	*text = NULL;
	if (system && !(chat->seen & CHAT_SYSTEM))
		return kvs_fail(
			-EINVAL, "the chat template of this model (%s) has no system message", kvs_chat_form(chat));
	if (chat->seen & CHAT_TRIM_SYSTEM)
		of_system = trimmed(of_system, true);
	if (chat->seen & CHAT_TRIM)
		from = trimmed(from, !system || chat->form != CHAT_LLAMA2);
	to = open_memstream(text, bytes);
	if (!to)
		return kvs_fail(-ENOMEM, "no memory for the conversation");
	put_form(to, chat, system ? &of_system : NULL, from, now);
	failed = ferror(to);
	if (!fclose(to) && !failed)
		return 0;
	free(*text);
	*text = NULL;
	return kvs_fail(-ENOMEM, "no memory for the conversation");
}

/* ---- special tokens ---- */

const char *kvs_chat_end(const kvs_chat *chat)
{
	static const char *const ends[] = {
		[CHAT_CHATML] = "<|im_end|>", [CHAT_LLAMA3] = "<|eot_id|>", [CHAT_MISTRAL] = NULL};

	return ends[chat->form];
}

static int need_token(const kvs_chat *chat, const kvs_tokenizer *tok, const char *token)
{
	if (kvs_tokenizer_id(tok, token) >= 0)
		return 0;
	return kvs_fail(-EINVAL, "the chat template (%s) has %s, which is no token of this vocabulary",
		kvs_chat_form(chat), token);
}

int kvs_chat_check(const kvs_chat *chat, const kvs_tokenizer *tok)
{
	static const char *const tokens[][4] = {[CHAT_CHATML] = {"<|im_start|>", "<|im_end|>"},
		[CHAT_LLAMA3] = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
		[CHAT_MISTRAL] = {NULL}};
	int err = chat->bos ? need_token(chat, tok, chat->bos) : 0;

	for (int i = 0; i < 4 && tokens[chat->form][i] && !err; i++)
		err = need_token(chat, tok, tokens[chat->form][i]);
	return err;
}
