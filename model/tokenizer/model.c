/*
 * model/tokenizer/model.c: the "model" of tokenizer.json: vocabulary and merges of a BPE.
 *
 * Ids must be distinct and small, and both parts and the result of a merge must be tokens of the vocabulary. So the
 * merges of a hostile file may be nonsense, but they cannot do harm.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"
#include "../json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Options of HF's BPE that change ids, and that no supported model sets. */
static int refuse_options(const struct model_json *model)
{
	static const char *const empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const json_t *dropout = model_json_member(model, "dropout");

	for (size_t i = 0; i < 2; i++) {
		const char *text = "";
		int err = model_json_string(model, empty[i], &text);

		if (err)
			return err;
		if (*text)
			return kvs_fail(
				-EINVAL, "%s: model.%s is \"%.40s\": not supported", model->file, empty[i], text);
	}
	if (dropout && json_number_value(dropout) != 0.0)
		return kvs_fail(-EINVAL, "%s: model.dropout is set: not supported", model->file);
	return 0;
}

static int check_ids(const json_t *vocab, const char *file, int32_t *ids)
{
	const char *text;
	json_t *value;

	*ids = 0;
	json_object_foreach((json_t *)vocab, text, value)
	{
		if (!json_is_integer(value) || json_integer_value(value) < 0 ||
			json_integer_value(value) > TOK_MAX_TOKEN_ID)
			return kvs_fail(-EINVAL, "%s: model.vocab[\"%.40s\"] must be an id from 0 to %d", file, text,
				TOK_MAX_TOKEN_ID);
		if (json_integer_value(value) >= *ids)
			*ids = (int32_t)json_integer_value(value) + 1;
	}
	return 0;
}

static int load_vocab(struct kvs_tokenizer *tok, const struct model_json *model)
{
	const json_t *vocab = model_json_member(model, "vocab");
	const char *text;
	json_t *value;
	int32_t ids;
	int err;

	if (!json_is_object(vocab) || !json_object_size(vocab))
		return kvs_fail(-EINVAL, "%s: model.vocab must be an object with tokens in it", tok->file);
	err = check_ids(vocab, tok->file, &ids);
	if (err)
		return err;
	err = tok_vocab_init(&tok->vocab, json_object_size(vocab), ids);
	json_object_foreach((json_t *)vocab, text, value)
	{
		if (!err)
			err = tok_vocab_add(&tok->vocab, text, strlen(text), (int32_t)json_integer_value(value));
		if (err == -EEXIST)
			return kvs_fail(-EINVAL, "%s: model.vocab: id %d belongs to \"%.40s\" and to another token",
				tok->file, (int)json_integer_value(value), text);
	}
	return err ? kvs_fail(err, "%s: no memory for a vocabulary of %zu", tok->file, json_object_size(vocab)) : 0;
}

/* "a b", or ["a", "b"]. False when it is neither. */
static bool split_merge(const json_t *merge, const char *part[2], size_t len[2])
{
	const char *text = json_string_value(merge), *space;

	if (json_is_array(merge) && json_array_size(merge) == 2) {
		for (size_t i = 0; i < 2; i++) {
			part[i] = json_string_value(json_array_get(merge, i));
			len[i] = json_string_length(json_array_get(merge, i));
		}
		return part[0] && part[1];
	}
	space = text ? strchr(text, ' ') : NULL;
	if (!space || strchr(space + 1, ' '))
		return false;
	part[0] = text;
	len[0] = (size_t)(space - text);
	part[1] = space + 1;
	len[1] = strlen(space + 1);
	return true;
}

/* `whole` is a buffer, reused from merge to merge. */
static int load_merge(
	struct kvs_tokenizer *tok, const json_t *merge, size_t index, uint32_t rank, struct tok_text *whole)
{
	const char *part[2];
	size_t len[2];
	int32_t left, right, id = -1;

	if (!split_merge(merge, part, len))
		return kvs_fail(-EINVAL, "%s: model.merges[%zu] is not a pair of tokens", tok->file, index);
	left = tok_vocab_find(&tok->vocab, part[0], len[0]);
	right = tok_vocab_find(&tok->vocab, part[1], len[1]);
	whole->len = 0;
	if (tok_text_append(whole, part[0], len[0]) || tok_text_append(whole, part[1], len[1]))
		return kvs_fail(-ENOMEM, "%s: no memory for merges", tok->file);
	if (whole->len)
		id = tok_vocab_find(&tok->vocab, whole->data, whole->len);
	if (left < 0 || right < 0 || id < 0)
		return kvs_fail(-EINVAL,
			"%s: model.merges[%zu]: \"%.*s\" + \"%.*s\" names a token that the vocabulary lacks", tok->file,
			index, (int)(len[0] < 40 ? len[0] : 40), part[0], (int)(len[1] < 40 ? len[1] : 40), part[1]);
	if (tok_pair_map_put(&tok->merges, (uint32_t)left, (uint32_t)right, rank, id))
		return kvs_fail(-ENOMEM, "%s: no memory for merges", tok->file);
	return 0;
}

static int load_merges(struct kvs_tokenizer *tok, const struct model_json *model)
{
	const json_t *merges = model_json_member(model, "merges");
	struct tok_text whole = {0};
	uint32_t rank = 0;
	int err = 0;

	if (!json_is_array(merges))
		return kvs_fail(-EINVAL, "%s: model.merges must be a list", tok->file);
	for (size_t i = 0; i < json_array_size(merges) && !err; i++) {
		const json_t *merge = json_array_get(merges, i);

		if (json_is_string(merge) &&
			!strncmp(json_string_value(merge), "#version", 8)) /* the first line of an old merges.txt */
			continue;
		err = load_merge(tok, merge, i, rank++, &whole);
	}
	free(whole.data);
	return err;
}

static int load_unknowns(struct kvs_tokenizer *tok, const struct model_json *model)
{
	const char *unk = NULL;
	int err = model_json_string(model, "unk_token", &unk);

	for (int byte = 0; byte < 256; byte++) {
		char text[8];

		snprintf(text, sizeof(text), "<0x%02X>", (unsigned)byte);
		tok->byte_tokens[byte] = tok_vocab_find(&tok->vocab, text, 6);
	}
	tok->unk = unk ? tok_vocab_find(&tok->vocab, unk, strlen(unk)) : -1;
	if (!err && unk && tok->unk < 0)
		err = kvs_fail(-EINVAL, "%s: model.unk_token \"%.40s\" is not in the vocabulary", tok->file, unk);
	return err;
}

int tok_load_model(struct kvs_tokenizer *tok, const struct model_json *root)
{
	struct model_json model = {model_json_member(root, "model"), tok->file, "model."};
	const char *type = "BPE"; /* files from 2020 do not have it */
	int err;

	if (!json_is_object(model.object))
		return kvs_fail(-EINVAL, "%s: model must be an object", tok->file);
	err = model_json_string(&model, "type", &type);
	if (!err && strcmp(type, "BPE"))
		return kvs_fail(-EINVAL, "%s: model.type is \"%.40s\": not supported", tok->file, type);
	if (!err)
		err = refuse_options(&model);
	if (!err)
		err = model_json_bool(&model, "ignore_merges", &tok->ignore_merges);
	if (!err)
		err = model_json_bool(&model, "fuse_unk", &tok->fuse_unk);
	if (!err)
		err = model_json_bool(&model, "byte_fallback", &tok->byte_fallback);
	if (!err)
		err = load_vocab(tok, &model);
	if (!err)
		err = load_unknowns(tok, &model);
	if (!err)
		err = load_merges(tok, &model);
	return err;
}
