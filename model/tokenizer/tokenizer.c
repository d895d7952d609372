/*
 * model/tokenizer/tokenizer.c: opening and closing a tokenizer, and its added tokens.
 *
 * tokenizer.json is read in parts (model.c, pipeline.c, and the added tokens here). Each part refuses anything unknown,
 * by name: ids that are nearly right are worse than none.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"
#include "../file.h"
#include "../gguf.h"
#include "../json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ADDED_BYTES 4096 /* of one added token: limits the search for it at each place in a text */

/* ---- added tokens ---- */

static int read_added(struct kvs_tokenizer *tok, const struct model_json *from, struct tok_added *added)
{
	const char *content = NULL;
	int id, err;

	added->normalized = true;
	err = model_json_need_int(from, "id", 0, TOK_MAX_TOKEN_ID, &id);
	if (!err)
		err = model_json_string(from, "content", &content);
	if (!err)
		err = model_json_bool(from, "single_word", &added->single_word);
	if (!err)
		err = model_json_bool(from, "lstrip", &added->lstrip);
	if (!err)
		err = model_json_bool(from, "rstrip", &added->rstrip);
	if (!err)
		err = model_json_bool(from, "normalized", &added->normalized);
	if (!err)
		err = model_json_bool(from, "special", &added->special);
	if (err)
		return err;
	if (!content || !*content || strlen(content) > MAX_ADDED_BYTES)
		return kvs_fail(
			-EINVAL, "%s: %scontent must have 1 to %d bytes", tok->file, from->path, MAX_ADDED_BYTES);
	added->id = id;
	added->content = strdup(content);
	return added->content ? 0 : kvs_fail(-ENOMEM, "%s: no memory for %s", tok->file, from->path);
}

/*
 * HF uses the vocabulary's id for a token, or the next free one, and ignores the file's. If those differ, HF's ids and
 * ours would differ too.
 */
static int check_added_id(
	const struct kvs_tokenizer *tok, const struct model_json *from, const struct tok_added *added, int32_t *next)
{
	int32_t id = tok_vocab_find(&tok->vocab, added->content, strlen(added->content));

	if (id < 0)
		id = tok_vocab_find(&tok->display, added->content, strlen(added->content));
	if (id < 0)
		id = (*next)++;
	if (id != added->id)
		return kvs_fail(-EINVAL, "%s: %sid is %d for \"%.40s\", but the vocabulary gives it %d", tok->file,
			from->path, added->id, added->content, id);
	return 0;
}

static int add_to_trie(
	struct kvs_tokenizer *tok, const struct model_json *from, size_t index, const char *text, size_t len)
{
	int err = len ? tok_trie_add(&tok->tries[tok->added[index].normalized], text, len, (int32_t)index) : 0;

	if (err == -EEXIST)
		return kvs_fail(-EINVAL, "%s: %scontent \"%.40s\" is there twice", tok->file, from->path,
			tok->added[index].content);
	return err ? kvs_fail(-ENOMEM, "%s: no memory for added tokens", tok->file) : 0;
}

/* Decode returns a normalised token in its normal form. */
static int add_one(struct kvs_tokenizer *tok, const struct model_json *from, size_t index)
{
	const struct tok_added *added = &tok->added[index];
	struct tok_pieces pieces = {0};
	int err = tok_pieces_append(&pieces, added->content, strlen(added->content), -1, true);

	if (!err && added->normalized)
		err = tok_stages_run(tok, tok->normalizer_first, tok->normalizer_end, &pieces);
	if (err == -ENOMEM)
		kvs_fail(err, "%s: no memory for added tokens", tok->file);
	if (!err)
		err = add_to_trie(tok, from, index, pieces.text.data, pieces.text.len);
	if (!err) {
		err = tok_vocab_add(
			&tok->display, pieces.text.data ? pieces.text.data : "", pieces.text.len, added->id);
		tok->display.tokens[added->id].special = added->special;
	}
	if (err == -EEXIST)
		err = kvs_fail(-EINVAL, "%s: %sid %d is there twice", tok->file, from->path, added->id);
	tok_pieces_clear(&pieces);
	return err;
}

static int load_added_list(struct kvs_tokenizer *tok, const json_t *list)
{
	int32_t next = 0;
	int err = 0;

	for (int32_t id = 0; id < tok->vocab.ids; id++)
		next += tok->vocab.tokens[id].at != TOK_NO_TOKEN;
	for (size_t i = 0; i < json_array_size(list) && !err; i++) {
		char path[48];
		struct model_json from = {json_array_get(list, i), tok->file, path};

		snprintf(path, sizeof(path), "added_tokens[%zu].", i);
		if (!json_is_object(from.object))
			return kvs_fail(-EINVAL, "%s: added_tokens[%zu] is not an object", tok->file, i);
		tok->added_count = i + 1;
		err = read_added(tok, &from, &tok->added[i]);
		if (!err)
			err = check_added_id(tok, &from, &tok->added[i], &next);
		if (!err)
			err = add_one(tok, &from, i);
	}
	return err;
}

/* Room for the ids of the list; an invalid id is reported when its entry is read. */
static int32_t count_ids(const json_t *list)
{
	json_int_t ids = 0;

	for (size_t i = 0; i < json_array_size(list); i++) {
		json_int_t id = json_integer_value(json_object_get(json_array_get(list, i), "id"));

		if (id >= ids && id <= TOK_MAX_TOKEN_ID)
			ids = id + 1;
	}
	return (int32_t)ids;
}

static int load_added(struct kvs_tokenizer *tok, const struct model_json *root)
{
	const json_t *list = model_json_member(root, "added_tokens");
	size_t count = json_array_size(list);

	if (list && !json_is_array(list))
		return kvs_fail(-EINVAL, "%s: added_tokens is not a list", tok->file);
	tok->added = calloc(count + 1, sizeof(*tok->added));
	if (!tok->added || tok_vocab_init(&tok->display, count, count_ids(list)))
		return kvs_fail(-ENOMEM, "%s: no memory for %zu added tokens", tok->file, count);
	return load_added_list(tok, list);
}

/* ---- the file ---- */

/* Only a byte-level tokenizer with a pattern to split by has short words. */
static bool has_long_words(const struct kvs_tokenizer *tok)
{
	bool cuts = false, bytes = false;

	for (size_t i = 0; i < tok->stage_count; i++) {
		cuts |= tok->stages[i].kind == TOK_STAGE_SPLIT;
		bytes |= tok->stages[i].kind == TOK_STAGE_BYTES;
	}
	return !cuts || !bytes;
}

static int load(struct kvs_tokenizer *tok, const json_t *object, struct tok_lists *lists)
{
	struct model_json root = {object, tok->file, ""};
	int err = tok_load_model(tok, &root, lists);

	if (!err)
		err = tok_load_stages(tok, &root);
	if (!err)
		err = load_added(tok, &root);
	if (!err)
		err = tok_load_template(tok, &root);
	if (!err)
		err = tok_load_decoder(tok, &root);
	if (!err && has_long_words(tok) && tok_bpe_find_joints(tok))
		err = kvs_fail(-ENOMEM, "%s: no memory for merges", tok->file);
	return err;
}

static int create(const json_t *object, struct tok_lists *lists, const char *name, kvs_tokenizer **out)
{
	kvs_tokenizer *tok = calloc(1, sizeof(*tok));
	int err;

	if (!tok || !(tok->file = strdup(name))) {
		free(tok);
		return kvs_fail(-ENOMEM, "%s: no memory", name);
	}
	err = load(tok, object, lists);
	if (err) {
		kvs_tokenizer_close(tok);
		return err;
	}
	*out = tok;
	return 0;
}

int kvs_tokenizer_parse(const char *json, size_t bytes, const char *name, kvs_tokenizer **out)
{
	struct tok_lists lists = {0};
	json_t *object;
	int err;

	*out = NULL;
	err = tok_scan(json, bytes, name, &lists, &object) ? 0 : model_json_parse(json, bytes, name, &object);
	if (err)
		return err;
	err = create(object, &lists, name, out);
	tok_lists_clear(&lists);
	json_decref(object);
	return err;
}

/* ---- GGUF ---- */

int tok_gguf_parse(const struct model_gguf *gguf, kvs_tokenizer **out)
{
	struct tok_lists lists = {0};
	json_t *object;
	int err;

	*out = NULL;
	err = tok_gguf_json(gguf, &lists, &object);
	if (!err) {
		err = create(object, &lists, model_gguf_name(gguf), out);
		json_decref(object);
	}
	tok_lists_clear(&lists);
	return err;
}

static int open_gguf(const char *path, kvs_tokenizer **out)
{
	struct model_file file;
	struct model_gguf *gguf;
	int err = model_file_open_path(path, &file);

	if (err)
		return err;
	err = model_gguf_open(&file, path, &gguf);
	if (!err)
		err = tok_gguf_parse(gguf, out);
	model_gguf_close(gguf);
	model_file_close(&file);
	return err;
}

/* ---- directories ---- */

static bool has_file(const char *dir, const char *name)
{
	struct model_file file;
	bool there = !model_file_open(dir, name, &file);

	if (there)
		model_file_close(&file);
	return there;
}

static int explain_missing(const char *dir)
{
	const char *other = has_file(dir, "tokenizer.model") ? "tokenizer.model"
			    : has_file(dir, "vocab.json")    ? "vocab.json"
							     : NULL;

	if (!other)
		return kvs_fail(-ENOENT, "%s/tokenizer.json: no such file", dir);
	return kvs_fail(-ENOENT,
		"%s/tokenizer.json: no such file; transformers can make one from %s: "
		"AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
		dir, other);
}

int kvs_tokenizer_open(const char *dir, kvs_tokenizer **out)
{
	char *path, *text;
	size_t bytes;
	int err;

	*out = NULL;
	if (model_gguf_is(dir))
		return open_gguf(dir, out);
	err = model_file_load(dir, "tokenizer.json", &text, &bytes);
	if (err)
		return err == -ENOENT ? explain_missing(dir) : err;
	if (asprintf(&path, "%s/tokenizer.json", dir) < 0) {
		free(text);
		return kvs_fail(-ENOMEM, "%s: no memory", dir);
	}
	err = kvs_tokenizer_parse(text, bytes, path, out);
	free(path);
	free(text);
	return err;
}

void kvs_tokenizer_close(kvs_tokenizer *tok)
{
	if (!tok)
		return;
	for (size_t i = 0; i < tok->added_count; i++)
		free(tok->added[i].content);
	for (size_t i = 0; i < tok->stage_count; i++) {
		free(tok->stages[i].text);
		tok_regex_free(tok->stages[i].regex);
	}
	for (size_t i = 0; i < tok->step_count; i++) {
		free(tok->steps[i].pattern);
		free(tok->steps[i].text);
	}
	tok_vocab_clear(&tok->vocab);
	tok_vocab_clear(&tok->display);
	tok_trie_clear(&tok->tries[0]);
	tok_trie_clear(&tok->tries[1]);
	free(tok->merges.slots);
	free(tok->joints.slots);
	free(tok->added);
	free(tok->stages);
	free(tok->before.list);
	free(tok->after.list);
	free(tok->file);
	free(tok);
}

/* ---- lookups ---- */

int32_t kvs_tokenizer_id(const kvs_tokenizer *tok, const char *text)
{
	for (size_t i = 0; i < tok->added_count; i++)
		if (!strcmp(tok->added[i].content, text))
			return tok->added[i].id;
	return tok_vocab_find(&tok->vocab, text, strlen(text));
}
