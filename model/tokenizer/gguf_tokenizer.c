/*
 * model/tokenizer/gguf_tokenizer.c: the vocabulary in a GGUF file as a tokenizer.json and lists of texts, which the other parts read.
 *
 * GGUF names a way to split text ("tokenizer.ggml.pre") where tokenizer.json has the expression itself. The expressions
 * here are those that the models' own tokenizer.json have; llama.cpp's are the same but for what it cannot express.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"
#include "../gguf.h"
#include "../json.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name
#define MOST_CUTS 64     /* ways to cut a token, on average; those of Mistral have 1.8 */
#define MOST_SQUARES 1e9 /* sum of the squares of lengths in bytes; it is 1.7e6 for the 32,000 of Mistral */

enum token_type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE }; /* of llama.cpp */

/* What a name of tokenizer.ggml.pre stands for. */
struct splitting {
	const char *names[4];
	const char *regex; /* NULL: GPT-2's, which ByteLevel has */
	bool digits, nfc, ignore_merges, bos;
};

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const struct splitting splittings[] = {
	{.names = {"gpt-2"}},
	{.names = {"smollm"}, .digits = true},
	{.names = {"llama-bpe", "llama3", "llama-v3"},
		.regex =
			CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES,
		.ignore_merges = true,
		.bos = true},
	{.names = {"qwen2", "deepseek-r1-qwen"},
		.regex = CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES,
		.nfc = true},
	{.names = {"tekken"},
		.regex = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
			 "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
			 "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES,
		.ignore_merges = true,
		.bos = true},
};

struct source {
	const struct model_gguf *gguf;
	const struct splitting *splitting; /* NULL: SentencePiece */
	struct gguf_text *tokens;          /* [count] */
	size_t count;
	int32_t *types; /* [count] */
	float *scores;  /* [count], SentencePiece only */
	struct tok_lists *lists;
};

static int no_memory(const struct source *from)
{
	return kvs_fail(-ENOMEM, "%s: no memory for its tokenizer", model_gguf_name(from->gguf));
}

/* ---- what the file has ---- */

static int find_splitting(struct source *from)
{
	struct gguf_text pre = {"", 0};
	int err = model_gguf_text(from->gguf, KEY("pre"), &pre);

	for (size_t i = 0; i < sizeof(splittings) / sizeof(splittings[0]) && !err; i++)
		for (int n = 0; n < 4 && splittings[i].names[n]; n++)
			if (gguf_text_is(pre, splittings[i].names[n]))
				from->splitting = &splittings[i];
	if (!err && !from->splitting)
		err = kvs_fail(-EINVAL,
			"%s: " KEY("pre") " is \"%.*s\", supported are gpt-2, smollm, llama-bpe, qwen2, "
					  "deepseek-r1-qwen and tekken",
			model_gguf_name(from->gguf), (int)(pre.len < 40 ? pre.len : 40), pre.at);
	return err;
}

static int find_kind(struct source *from)
{
	struct gguf_text model = {"", 0};
	int err = model_gguf_text(from->gguf, KEY("model"), &model);

	if (err || gguf_text_is(model, "llama"))
		return err;
	if (gguf_text_is(model, "gpt2"))
		return find_splitting(from);
	return kvs_fail(-EINVAL, "%s: " KEY("model") " is \"%.*s\", supported are gpt2 and llama",
		model_gguf_name(from->gguf), (int)(model.len < 40 ? model.len : 40), model.at);
}

static int check_list(const struct source *from, const char *key, size_t count)
{
	if (count == from->count)
		return 0;
	return kvs_fail(-EINVAL, "%s: %s has %zu entries, " KEY("tokens") " has %zu", model_gguf_name(from->gguf), key,
		count, from->count);
}

static int read_lists(struct source *from)
{
	size_t types = 0, scores = 0;
	int err = model_gguf_texts(from->gguf, KEY("tokens"), &from->tokens, &from->count);

	if (!err && (!from->count || from->count > TOK_MAX_TOKEN_ID))
		return kvs_fail(-EINVAL, "%s: " KEY("tokens") " has %zu entries, allowed are 1 to %d",
			model_gguf_name(from->gguf), from->count, TOK_MAX_TOKEN_ID);
	if (!err)
		err = model_gguf_ints(from->gguf, KEY("token_type"), NORMAL, BYTE, &from->types, &types);
	if (!err)
		err = check_list(from, KEY("token_type"), types);
	if (!err && !from->splitting)
		err = model_gguf_floats(from->gguf, KEY("scores"), &from->scores, &scores);
	if (!err && !from->splitting)
		err = check_list(from, KEY("scores"), scores);
	return err;
}

/* jansson, which reads the rest, would want the same of a text. */
static bool is_text(struct gguf_text text)
{
	size_t len;

	for (size_t i = 0; i < text.len; i += len)
		if (!text.at[i] || tok_utf8_look(text.at + i, text.len - i, &len) != TOK_UTF8_OK)
			return false;
	return true;
}

static int build_vocab(struct source *from)
{
	struct tok_vocab *vocab = &from->lists->vocab;
	int err = tok_vocab_init(vocab, from->count, (int32_t)from->count);

	for (size_t i = 0; i < from->count && !err; i++) {
		struct gguf_text token = from->tokens[i];
		if (!is_text(token))
			return kvs_fail(-EINVAL, "%s: " KEY("tokens") "[%zu] is not UTF-8 text",
				model_gguf_name(from->gguf), i);
		err = tok_vocab_add(vocab, token.at, token.len, (int32_t)i);
		if (!err && vocab->texts != i + 1)
			return kvs_fail(
				-EINVAL, "%s: " KEY("tokens") "[%zu] is there twice", model_gguf_name(from->gguf), i);
	}
	return err ? no_memory(from) : 0;
}

/* ---- merges ---- */

/* A merge of the file is "a b". Some tokens begin with a space, as in transformers' own reading. */
static int listed_merges(struct source *from)
{
	struct gguf_text *list;
	size_t count;
	int err = model_gguf_texts(from->gguf, KEY("merges"), &list, &count);

	if (!err && !list)
		err = kvs_fail(-EINVAL, "%s: " KEY("merges") " is missing", model_gguf_name(from->gguf));
	if (!err && !(from->lists->merges = calloc(count + 1, sizeof(*from->lists->merges))))
		err = no_memory(from);
	for (size_t i = 0; i < count && !err; i++) {
		const char *at = list[i].at, *space = list[i].len > 1 ? memchr(at + 1, ' ', list[i].len - 1) : NULL;
		size_t left = space ? (size_t)(space - at) : 0;
		if (!space || !is_text(list[i]))
			err = kvs_fail(-EINVAL, "%s: " KEY("merges") "[%zu] is not a pair of tokens",
				model_gguf_name(from->gguf), i);
		else
			from->lists->merges[from->lists->merge_count++] =
				(struct tok_merge){{at, left}, {space + 1, list[i].len - left - 1}};
	}
	free(list);
	return err;
}

struct scored {
	float score;
	int32_t id, left, right;
	size_t left_len, right_len; /* in characters */
};

/* As transformers (SentencePieceExtractor): the score of the result, then the longer left part, then the longer right. */
static int by_score(const void *a, const void *b)
{
	const struct scored *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	if (x->left_len != y->left_len)
		return x->left_len > y->left_len ? -1 : 1;
	if (x->right_len != y->right_len)
		return x->right_len > y->right_len ? -1 : 1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->left < y->left ? -1 : x->left > y->left;
}

/* Every cut of token `id` into two tokens. */
static int cut_token(const struct source *from, int32_t id, struct scored **list, size_t *count, size_t *room)
{
	struct gguf_text token = from->tokens[id];
	size_t chars = 0, whole = 0;

	for (size_t i = 0; i < token.len; i++)
		whole += (token.at[i] & 0xc0) != 0x80;
	for (size_t cut = 1; cut < token.len; cut++) {
		chars += (token.at[cut - 1] & 0xc0) != 0x80;
		int32_t left, right;
		if ((token.at[cut] & 0xc0) == 0x80)
			continue;
		left = tok_vocab_find(&from->lists->vocab, token.at, cut);
		right = left < 0 ? -1 : tok_vocab_find(&from->lists->vocab, token.at + cut, token.len - cut);
		if (right < 0)
			continue;
		if (*count / MOST_CUTS >= from->count)
			return kvs_fail(-EINVAL,
				"%s: " KEY("tokens") " can be cut into each other in more than %d ways each",
				model_gguf_name(from->gguf), MOST_CUTS);
		struct scored *grown = tok_grow(*list, *count, room, sizeof(**list));
		if (!grown)
			return no_memory(from);
		*list = grown;
		grown[(*count)++] = (struct scored){from->scores[id], id, left, right, chars, whole - chars};
	}
	return 0;
}

/* What a token costs to cut grows by the square of its length. */
static int check_lengths(const struct source *from)
{
	double squares = 0;

	for (size_t i = 0; i < from->count; i++)
		squares += (double)from->tokens[i].len * from->tokens[i].len;
	if (squares <= MOST_SQUARES)
		return 0;
	return kvs_fail(
		-EINVAL, "%s: " KEY("tokens") " are longer than those of any vocabulary", model_gguf_name(from->gguf));
}

/* SentencePiece has no merges: it joins the two neighbours whose joint token has the highest score. */
static int scored_merges(struct source *from)
{
	struct scored *list = NULL;
	size_t count = 0, room = 0;
	int err = check_lengths(from);

	for (size_t i = 0; i < from->count && !err; i++) {
		if (!(from->scores[i] == from->scores[i]))
			err = kvs_fail(
				-EINVAL, "%s: " KEY("scores") "[%zu] is not a number", model_gguf_name(from->gguf), i);
		else if (from->types[i] == NORMAL)
			err = cut_token(from, (int32_t)i, &list, &count, &room);
	}
	if (count)
		qsort(list, count, sizeof(*list), by_score);
	if (!err && !(from->lists->merges = calloc(count + 1, sizeof(*from->lists->merges))))
		err = no_memory(from);
	for (size_t i = 0; i < count && !err; i++) {
		struct gguf_text left = from->tokens[list[i].left], right = from->tokens[list[i].right];
		from->lists->merges[from->lists->merge_count++] =
			(struct tok_merge){{left.at, left.len}, {right.at, right.len}};
	}
	free(list);
	return err;
}

/* ---- the parts of tokenizer.json; NULL: out of memory ---- */

static int add_tokens(const struct source *from, json_t *list)
{
	for (size_t i = 0; i < from->count; i++) {
		int32_t type = from->types[i];
		if (type != CONTROL && type != USER_DEFINED && type != UNKNOWN)
			continue;
		if (!from->tokens[i].len)
			continue;
		json_t *token = json_pack("{s:i, s:s%, s:b, s:b}", "id", (int)i, "content", from->tokens[i].at,
			from->tokens[i].len, "normalized", 0, "special", type != USER_DEFINED);
		if (!token || json_array_append_new(list, token))
			return no_memory(from);
	}
	return 0;
}

static json_t *byte_level_parts(const struct splitting *splitting)
{
	json_t *list = json_array();

	if (splitting->digits)
		json_array_append_new(list, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
	if (splitting->regex)
		json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
						    splitting->regex, "behavior", "Isolated", "invert", 0));
	json_array_append_new(list, json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
					    "use_regex", !splitting->regex));
	return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static void set_byte_level(const struct splitting *splitting, json_t *root)
{
	if (splitting->nfc)
		json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
	json_object_set_new(root, "pre_tokenizer", byte_level_parts(splitting));
	json_object_set_new(root, "decoder", json_pack("{s:s}", "type", "ByteLevel"));
}

#define MARK "\xe2\x96\x81"

static void set_sentencepiece(bool prefix, json_t *root)
{
	json_t *normalizers = json_array();
	json_t *decoders = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
		MARK, "content", " ", "type", "ByteFallback", "type", "Fuse");

	if (prefix) {
		json_array_append_new(normalizers, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", MARK));
		json_array_append_new(decoders,
			json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
	}
	json_array_append_new(normalizers,
		json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content", MARK));
	json_object_set_new(
		root, "normalizer", json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", normalizers));
	json_object_set_new(root, "decoder", json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decoders));
}

/* BOS before a text and EOS behind it, where the file says so. */
static int set_template(const struct source *from, json_t *root)
{
	bool bos = from->splitting ? from->splitting->bos : true, eos = false;
	int64_t ids[2] = {-1, -1};
	json_t *single = json_array(), *special = json_object();
	int err = model_gguf_bool(from->gguf, KEY("add_bos_token"), &bos);

	if (!err)
		err = model_gguf_bool(from->gguf, KEY("add_eos_token"), &eos);
	if (!err)
		err = model_gguf_int(from->gguf, KEY("bos_token_id"), 0, (int64_t)from->count - 1, &ids[0]);
	if (!err && eos)
		err = model_gguf_int(from->gguf, KEY("eos_token_id"), 0, (int64_t)from->count - 1, &ids[1]);
	if (!err && bos && ids[0] >= 0)
		json_array_append_new(single, json_pack("{s:{s:s}}", "SpecialToken", "id", "bos"));
	json_array_append_new(single, json_pack("{s:{s:s}}", "Sequence", "id", "A"));
	if (!err && ids[1] >= 0)
		json_array_append_new(single, json_pack("{s:{s:s}}", "SpecialToken", "id", "eos"));
	json_object_set_new(special, "bos", json_pack("{s:[I]}", "ids", (json_int_t)ids[0]));
	json_object_set_new(special, "eos", json_pack("{s:[I]}", "ids", (json_int_t)ids[1]));
	if (json_object_set_new(root, "post_processor",
		    json_pack("{s:s, s:o, s:o}", "type", "TemplateProcessing", "single", single, "special_tokens",
			    special)) &&
		!err)
		err = no_memory(from);
	return err;
}

static int set_model(struct source *from, json_t *root)
{
	json_t *model = json_pack("{s:s, s:b, s:b, s:b}", "type", "BPE", "byte_fallback", !from->splitting, "fuse_unk",
		!from->splitting, "ignore_merges", from->splitting && from->splitting->ignore_merges);
	int64_t unk = -1;
	int err = model ? 0 : no_memory(from);

	if (!err)
		err = from->splitting ? listed_merges(from) : scored_merges(from);
	if (!err && !from->splitting)
		err = model_gguf_int(from->gguf, KEY("unknown_token_id"), 0, (int64_t)from->count - 1, &unk);
	if (!err && unk >= 0)
		json_object_set_new(model, "unk_token", json_stringn(from->tokens[unk].at, from->tokens[unk].len));
	json_object_set_new(root, "model", model);
	return err;
}

static int build(struct source *from, json_t *root)
{
	json_t *added = json_array();
	bool prefix = true;
	int err = find_kind(from);

	if (!err)
		err = read_lists(from);
	if (!err)
		err = build_vocab(from);
	if (!err)
		err = set_model(from, root);
	if (!err)
		err = add_tokens(from, added);
	json_object_set_new(root, "added_tokens", added);
	if (!err)
		err = model_gguf_bool(from->gguf, KEY("add_space_prefix"), &prefix);
	if (!err && from->splitting)
		set_byte_level(from->splitting, root);
	else if (!err)
		set_sentencepiece(prefix, root);
	return err ? err : set_template(from, root);
}

int tok_gguf_json(const struct model_gguf *gguf, struct tok_lists *lists, json_t **out)
{
	struct source from = {.gguf = gguf, .lists = lists};
	json_t *root = json_object();
	int err = root ? build(&from, root) : no_memory(&from);

	free(from.tokens);
	free(from.types);
	free(from.scores);
	lists->read = !err;
	if (err)
		json_decref(root);
	else
		*out = root;
	return err;
}
