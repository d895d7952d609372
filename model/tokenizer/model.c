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

/* ---- from JSON, where scan.c has not read the file ---- */

static int json_vocab(const char *file, const struct model_json *model, struct tok_lists *lists)
{
	const json_t *vocab = model_json_member(model, "vocab");
	size_t count = json_object_size(vocab);
	const char *text;
	json_t *value;

	lists->tokens = calloc(count + 1, sizeof(*lists->tokens));
	lists->ids = calloc(count + 1, sizeof(*lists->ids));
	if (!lists->tokens || !lists->ids)
		return kvs_fail(-ENOMEM, "%s: no memory for a vocabulary of %zu", file, count);
	json_object_foreach((json_t *)vocab, text, value)
	{
		json_int_t id = json_integer_value(value);

		if (!json_is_integer(value) || id < 0 || id > TOK_MAX_TOKEN_ID)
			return kvs_fail(-EINVAL, "%s: model.vocab[\"%.40s\"] must be an id from 0 to %d", file, text,
				TOK_MAX_TOKEN_ID);
		lists->tokens[lists->token_count] = (struct tok_span){text, strlen(text)};
		lists->ids[lists->token_count++] = (int32_t)id;
	}
	return 0;
}

/* "a b", or ["a", "b"]. False when it is neither. */
static bool json_merge(const json_t *merge, struct tok_merge *out)
{
	const json_t *left = merge, *right = NULL;

	if (json_is_array(merge) && json_array_size(merge) == 2) {
		left = json_array_get(merge, 0);
		right = json_array_get(merge, 1);
	}
	out->left = (struct tok_span){json_string_value(left), json_string_length(left)};
	out->right = (struct tok_span){json_string_value(right), json_string_length(right)};
	return out->left.at && (right ? !!out->right.at : tok_merge_split(out));
}

static int json_merges(const char *file, const struct model_json *model, struct tok_lists *lists)
{
	const json_t *merges = model_json_member(model, "merges");
	size_t count = json_array_size(merges);

	if (!json_is_array(merges))
		return kvs_fail(-EINVAL, "%s: model.merges must be a list", file);
	lists->merges = calloc(count + 1, sizeof(*lists->merges));
	if (!lists->merges)
		return kvs_fail(-ENOMEM, "%s: no memory for merges", file);
	for (; lists->merge_count < count; lists->merge_count++)
		if (!json_merge(json_array_get(merges, lists->merge_count), &lists->merges[lists->merge_count]))
			return kvs_fail(
				-EINVAL, "%s: model.merges[%zu] is not a pair of tokens", file, lists->merge_count);
	return 0;
}

/* ---- from lists ---- */

bool tok_merge_split(struct tok_merge *merge)
{
	const char *at = merge->left.at, *space = memchr(at, ' ', merge->left.len);
	size_t len = space ? (size_t)(space - at) : 0;

	merge->right = (struct tok_span){NULL, 0};
	if (merge->left.len >= 8 && !memcmp(at, "#version", 8))
		return true;
	if (!space || memchr(space + 1, ' ', merge->left.len - len - 1))
		return false;
	merge->right = (struct tok_span){space + 1, merge->left.len - len - 1};
	merge->left.len = len;
	return true;
}

void tok_lists_clear(struct tok_lists *lists)
{
	free(lists->tokens);
	free(lists->ids);
	free(lists->merges);
	free(lists->arena);
	tok_vocab_clear(&lists->vocab);
	memset(lists, 0, sizeof(*lists));
}

static int find_double(const struct kvs_tokenizer *tok, const struct tok_lists *lists)
{
	for (size_t i = 0; i < lists->token_count; i++) {
		struct tok_span text = lists->tokens[i];

		if (tok_vocab_find(&tok->vocab, text.at, text.len) != lists->ids[i])
			return kvs_fail(-EINVAL, "%s: model.vocab: \"%.*s\" is there twice", tok->file,
				(int)(text.len < 40 ? text.len : 40), text.at);
	}
	return 0;
}

static int load_vocab(struct kvs_tokenizer *tok, struct tok_lists *lists)
{
	int32_t ids = 0;
	int err;

	if (lists->vocab.tokens) {
		tok->vocab = lists->vocab;
		memset(&lists->vocab, 0, sizeof(lists->vocab));
		return 0;
	}
	if (!lists->token_count)
		return kvs_fail(-EINVAL, "%s: model.vocab must be an object with tokens in it", tok->file);
	for (size_t i = 0; i < lists->token_count; i++)
		ids = lists->ids[i] >= ids ? lists->ids[i] + 1 : ids;
	err = tok_vocab_init(&tok->vocab, lists->token_count, ids);
	for (size_t i = 0; i < lists->token_count && !err; i++) {
		struct tok_span text = lists->tokens[i];

		err = tok_vocab_add(&tok->vocab, text.at, text.len, lists->ids[i]);
		if (err == -EEXIST)
			return kvs_fail(-EINVAL, "%s: model.vocab: id %d belongs to \"%.*s\" and to another token",
				tok->file, (int)lists->ids[i], (int)(text.len < 40 ? text.len : 40), text.at);
	}
	if (err)
		return kvs_fail(err, "%s: no memory for a vocabulary of %zu", tok->file, lists->token_count);
	return tok->vocab.texts < lists->token_count ? find_double(tok, lists) : 0;
}

static bool is_joined(const struct tok_vocab *vocab, int32_t id, const struct tok_merge *merge)
{
	size_t len;
	const char *text = tok_vocab_text(vocab, id, &len);

	return text && len == merge->left.len + merge->right.len && !memcmp(text, merge->left.at, merge->left.len) &&
	       !memcmp(text + merge->left.len, merge->right.at, merge->right.len);
}

/*
 * The token that a merge makes; -1: there is none. Most lists follow the vocabulary, so it is that of the merge before
 * (`guess`) or the next one. `whole` is a buffer, reused from merge to merge.
 */
static int find_joined(const struct tok_vocab *vocab, const struct tok_merge *merge, int32_t guess,
	struct tok_text *whole, int32_t *id)
{
	for (*id = guess; *id <= guess + 1; ++*id)
		if (is_joined(vocab, *id, merge))
			return 0;
	whole->len = 0;
	if (tok_text_append(whole, merge->left.at, merge->left.len) ||
		tok_text_append(whole, merge->right.at, merge->right.len))
		return -ENOMEM;
	*id = whole->len ? tok_vocab_find(vocab, whole->data, whole->len) : -1;
	return 0;
}

static int refuse_merge(const struct kvs_tokenizer *tok, const struct tok_merge *merge, size_t index)
{
	struct tok_span left = merge->left, right = merge->right;

	return kvs_fail(-EINVAL, "%s: model.merges[%zu]: \"%.*s\" + \"%.*s\" names a token that the vocabulary lacks",
		tok->file, index, (int)(left.len < 40 ? left.len : 40), left.at, (int)(right.len < 40 ? right.len : 40),
		right.at);
}

static int load_merges(struct kvs_tokenizer *tok, const struct tok_lists *lists)
{
	struct tok_text whole = {0};
	int32_t id = 0;
	uint32_t rank = 0;
	int err = tok_pair_map_reserve(&tok->merges, lists->merge_count);

	for (size_t i = 0; i < lists->merge_count && !err; i++) {
		const struct tok_merge *merge = &lists->merges[i];
		int32_t left, right;

		if (!merge->right.at)
			continue;
		left = tok_vocab_find(&tok->vocab, merge->left.at, merge->left.len);
		right = tok_vocab_find(&tok->vocab, merge->right.at, merge->right.len);
		err = find_joined(&tok->vocab, merge, id, &whole, &id);
		if (!err && (left < 0 || right < 0 || id < 0)) {
			free(whole.data);
			return refuse_merge(tok, merge, i);
		}
		if (!err)
			err = tok_pair_map_put(&tok->merges, (uint32_t)left, (uint32_t)right, rank++, id);
	}
	free(whole.data);
	return err ? kvs_fail(err, "%s: no memory for merges", tok->file) : 0;
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

int tok_load_model(struct kvs_tokenizer *tok, const struct model_json *root, struct tok_lists *lists)
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
	if (!err && !lists->read)
		err = json_vocab(tok->file, &model, lists);
	if (!err)
		err = load_vocab(tok, lists);
	if (!err)
		err = load_unknowns(tok, &model);
	if (!err && !lists->read)
		err = json_merges(tok->file, &model, lists);
	if (!err)
		err = load_merges(tok, lists);
	return err;
}
