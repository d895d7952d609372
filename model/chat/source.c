/*
 * model/chat/source.c: where a checkpoint has its chat template, and the text of its BOS token.
 */
#include "chat.h"

#include "../file.h"
#include "../gguf.h"
#include "../json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (256 << 10) /* the longest templates have 30 KiB */

static int find_pieces(const char *text, size_t bytes, const char *name, struct kvs_chat *chat)
{
	struct chat_steps steps;
	int err = chat_read_steps(text, bytes, name, &steps);

	if (!err)
		err = chat_keep_live(&steps, name);
	if (!err)
		err = chat_find_form(&steps, name, chat);
	chat_clear_steps(&steps);
	return err;
}

int kvs_chat_parse(const char *text, size_t bytes, const char *name, const char *bos, kvs_chat **out)
{
	struct kvs_chat *chat = bytes > MAX_BYTES ? NULL : calloc(1, sizeof(*chat));
	int err;

	*out = NULL;
	if (bytes > MAX_BYTES)
		return kvs_fail(-EINVAL, "%s: the template has %zu bytes, %d are allowed", name, bytes, MAX_BYTES);
	err = chat ? find_pieces(text, bytes, name, chat) : kvs_fail(-ENOMEM, "%s: no memory", name);
	if (!err && (chat->seen & CHAT_BOS)) {
		chat->bos = bos ? strdup(bos) : NULL;
		if (!bos)
			err = kvs_fail(-EINVAL, "%s: the template prints bos_token, and there is none", name);
		else if (!chat->bos)
			err = kvs_fail(-ENOMEM, "%s: no memory", name);
	}
	if (err)
		kvs_chat_free(chat);
	else
		*out = chat;
	return err;
}

void kvs_chat_free(kvs_chat *chat)
{
	if (!chat)
		return;
	for (size_t i = 0; i < sizeof(chat->pads) / sizeof(*chat->pads); i++)
		free(chat->pads[i]);
	free(chat->bos);
	free(chat->default_system);
	free(chat->start);
	free(chat->knowledge);
	free(chat->date);
	free(chat);
}

/* ---- GGUF ---- */

/* The text of the BOS token; the caller frees *out, NULL: there is none. */
static int gguf_bos(const struct model_gguf *gguf, char **out)
{
	struct gguf_text *tokens = NULL;
	size_t count = 0;
	int64_t id = -1;
	int err = model_gguf_texts(gguf, "tokenizer.ggml.tokens", &tokens, &count);

	*out = NULL;
	if (!err)
		err = model_gguf_int(gguf, "tokenizer.ggml.bos_token_id", 0, (int64_t)count - 1, &id);
	if (!err && id >= 0) {
		*out = strndup(tokens[id].at, tokens[id].len);
		err = *out ? 0 : kvs_fail(-ENOMEM, "%s: no memory", model_gguf_name(gguf));
	}
	free(tokens);
	return err;
}

static int read_gguf(const struct model_gguf *gguf, kvs_chat **out)
{
	struct gguf_text text = {0};
	char *bos = NULL;
	int err = model_gguf_text(gguf, "tokenizer.chat_template", &text);

	if (!err && !text.at)
		return kvs_fail(-ENOENT, "%s: has no chat template (tokenizer.chat_template)", model_gguf_name(gguf));
	if (!err)
		err = gguf_bos(gguf, &bos);
	if (!err)
		err = kvs_chat_parse(text.at, text.len, model_gguf_name(gguf), bos, out);
	free(bos);
	return err;
}

static int open_gguf(const char *path, kvs_chat **out)
{
	struct model_gguf *gguf = NULL;
	struct model_file file;
	int err = model_file_open_path(path, &file);

	if (err)
		return err;
	err = model_gguf_open(&file, path, &gguf);
	if (!err)
		err = read_gguf(gguf, out);
	model_gguf_close(gguf);
	model_file_close(&file);
	return err;
}

/* ---- directories ---- */

/* A token is a string, or an object with one. NULL: neither. */
static const char *token_text(const json_t *token)
{
	return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* chat_template is a string, or a list of named ones, of which "default" counts. NULL: there is none. */
static const json_t *find_template(const json_t *config)
{
	const json_t *found = json_object_get(config, "chat_template"), *item;
	size_t i;

	json_array_foreach(found, i, item)
	{
		const char *name = json_string_value(json_object_get(item, "name"));
		if (name && !strcmp(name, "default"))
			return json_object_get(item, "template");
	}
	return found;
}

/* A file of the directory that may be missing: *text is NULL then. */
static int load(const char *dir, const char *name, char **text, size_t *bytes)
{
	int err = model_file_load(dir, name, text, bytes);

	if (err)
		*text = NULL;
	return err == -ENOENT ? 0 : err;
}

/* chat_template.jinja counts if it is there, as in transformers. */
static int parse_directory(const char *dir, const json_t *config, const char *jinja, size_t bytes, kvs_chat **out)
{
	const json_t *inside = config ? find_template(config) : NULL;
	const char *bos = config ? token_text(json_object_get(config, "bos_token")) : NULL;
	char *name = NULL;
	int err;

	if (!jinja && !json_is_string(inside))
		return kvs_fail(-ENOENT,
			"%s: has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): is "
			"it a "
			"model that was trained to answer?",
			dir);
	if (asprintf(&name, "%s/%s", dir, jinja ? "chat_template.jinja" : "tokenizer_config.json") < 0)
		return kvs_fail(-ENOMEM, "%s: no memory", dir);
	err = jinja ? kvs_chat_parse(jinja, bytes, name, bos, out)
		    : kvs_chat_parse(json_string_value(inside), json_string_length(inside), name, bos, out);
	free(name);
	return err;
}

int kvs_chat_open(const char *dir, kvs_chat **out)
{
	char *jinja = NULL, *text = NULL;
	size_t jinja_bytes = 0, bytes = 0;
	json_t *config = NULL;
	int err;

	*out = NULL;
	if (model_gguf_is(dir))
		return open_gguf(dir, out);
	err = load(dir, "chat_template.jinja", &jinja, &jinja_bytes);
	if (!err)
		err = load(dir, "tokenizer_config.json", &text, &bytes);
	if (!err && text)
		err = model_json_parse_lenient(text, bytes, "tokenizer_config.json", &config);
	if (!err)
		err = parse_directory(dir, config, jinja, jinja_bytes, out);
	json_decref(config);
	free(jinja);
	free(text);
	return err;
}
