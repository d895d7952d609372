/*
 * model/tokenizer/pipeline.c: the parts of tokenizer.json around the model: normalizer, pre_tokenizer, post_processor and
 * decoder.
 *
 * Sequences are flattened: the result is one list of stages for encode and one list of steps for decode. An unknown
 * type or option is an error that names it.
 */
#include "tokenizer.h"

#include "../../driver/cu.h"
#include "../json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STRING 64 /* of a string put into text: published files have one character, and text must not explode */
#define MAX_STAGES 64 /* the longest published pipeline has under ten */

/* One part: an object with a type, and its names in messages. */
struct part {
	struct model_json json;
	char path[96]; /* with a dot at its end, for struct model_json */
	char name[96]; /* without */
	const char *type;
};

static int part_open(const json_t *object, const char *file, const char *path, struct part *part)
{
	snprintf(part->path, sizeof(part->path), "%s.", path);
	snprintf(part->name, sizeof(part->name), "%s", path);
	part->json = (struct model_json){object, file, part->path};
	part->type = NULL;
	if (!json_is_object(object))
		return kvs_fail(-EINVAL, "%s: %s must be an object", file, path);
	int err = model_json_string(&part->json, "type", &part->type);
	if (!err && !part->type)
		err = kvs_fail(-EINVAL, "%s: %s.type is missing", file, path);
	return err;
}

static int refuse_type(const struct part *part)
{
	return kvs_fail(-EINVAL, "%s: %stype is \"%.40s\": not supported", part->json.file, part->path, part->type);
}

static int no_memory(const struct kvs_tokenizer *tok)
{
	return kvs_fail(-ENOMEM, "%s: no memory", tok->file);
}

/* A copy of a string that must be present; the caller frees it. */
static int take_string(const struct part *part, const char *key, char **out)
{
	const char *text = NULL;
	int err = model_json_string(&part->json, key, &text);

	if (!err && !text)
		err = kvs_fail(-EINVAL, "%s: %s%s is missing", part->json.file, part->path, key);
	if (!err && strlen(text) > MAX_STRING)
		err = kvs_fail(-EINVAL, "%s: %s%s has %zu bytes, at most %d are read", part->json.file, part->path, key,
			strlen(text), MAX_STRING);
	if (err)
		return err;
	*out = strdup(text);
	return *out ? 0 : kvs_fail(-ENOMEM, "%s: no memory", part->json.file);
}

/* Call `each` on the members of a Sequence, or on the part itself. */
static int part_each(struct kvs_tokenizer *tok, const json_t *object, const char *path, const char *members, int depth,
	int (*each)(struct kvs_tokenizer *tok, const struct part *part))
{
	struct part part;
	const json_t *list;
	int err = part_open(object, tok->file, path, &part);

	if (err)
		return err;
	if (strcmp(part.type, "Sequence"))
		return each(tok, &part);
	list = model_json_member(&part.json, members);
	if (!json_is_array(list) || depth > 3)
		return kvs_fail(
			-EINVAL, "%s: %s%s must be a list, not too deeply nested", tok->file, part.path, members);
	for (size_t i = 0; i < json_array_size(list) && !err; i++) {
		char inner[96];

		snprintf(inner, sizeof(inner), "%.40s%s[%zu]", part.path, members, i);
		err = part_each(tok, json_array_get(list, i), inner, members, depth + 1, each);
	}
	return err;
}

/* ---- stages ---- */

/* The new stage belongs to `tok` at once, so that closing `tok` frees it even after a failed load. */
static struct tok_stage *add_stage(struct kvs_tokenizer *tok, enum tok_stage_kind kind)
{
	struct tok_stage *grown = NULL;

	if (tok->stage_count < MAX_STAGES)
		grown = tok_grow(tok->stages, tok->stage_count, &tok->stage_cap, sizeof(*grown));
	if (!grown) {
		kvs_fail(-ENOMEM, "%s: no room for stage %zu", tok->file, tok->stage_count);
		return NULL;
	}
	tok->stages = grown;
	grown[tok->stage_count] = (struct tok_stage){.kind = kind};
	return &grown[tok->stage_count++];
}

/* {"String": text} or {"Regex": text}. */
static int take_pattern(const struct part *part, struct tok_stage *stage)
{
	const json_t *pattern = model_json_member(&part->json, "pattern");
	const char *literal = json_string_value(json_object_get(pattern, "String"));
	const char *regex = json_string_value(json_object_get(pattern, "Regex"));
	char where[128];

	snprintf(where, sizeof(where), "%spattern", part->path);
	if ((!literal || !*literal) && !regex)
		return kvs_fail(
			-EINVAL, "%s: %s must be {\"String\": ...} or {\"Regex\": ...}", part->json.file, where);
	return tok_regex_create(literal ? literal : regex, literal ? TOK_PATTERN_LITERAL : TOK_PATTERN_REGEX,
		part->json.file, where, &stage->regex);
}

static int add_normalizer(struct kvs_tokenizer *tok, const struct part *part)
{
	struct tok_stage *stage;
	int err;

	if (!strcmp(part->type, "NFC"))
		return add_stage(tok, TOK_STAGE_NFC) ? 0 : -ENOMEM;
	if (!strcmp(part->type, "Prepend")) {
		stage = add_stage(tok, TOK_STAGE_PREPEND);
		return stage ? take_string(part, "prepend", &stage->text) : -ENOMEM;
	}
	if (strcmp(part->type, "Replace"))
		return refuse_type(part);
	stage = add_stage(tok, TOK_STAGE_REPLACE);
	err = stage ? take_pattern(part, stage) : -ENOMEM;
	return err ? err : take_string(part, "content", &stage->text);
}

static int add_split(struct kvs_tokenizer *tok, const struct part *part)
{
	static const char *const behaviors[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext"};
	struct tok_stage *stage = add_stage(tok, TOK_STAGE_SPLIT);
	const char *behavior = "";
	int err = stage ? take_pattern(part, stage) : -ENOMEM;

	if (!err)
		err = model_json_string(&part->json, "behavior", &behavior);
	if (!err)
		err = model_json_bool(&part->json, "invert", &stage->invert);
	for (int i = 0; i < 4 && !err; i++) {
		if (!strcmp(behavior, behaviors[i])) {
			stage->behavior = (enum tok_behavior)i;
			return 0;
		}
	}
	return err ? err
		   : kvs_fail(-EINVAL, "%s: %sbehavior is \"%.40s\": not supported", tok->file, part->path, behavior);
}

/* A split that is not in the file, but that one of its parts implies. */
static int add_own_split(struct kvs_tokenizer *tok, const char *pattern, enum tok_pattern kind,
	enum tok_behavior behavior, const char *where)
{
	struct tok_stage *stage = add_stage(tok, TOK_STAGE_SPLIT);

	if (!stage)
		return -ENOMEM;
	stage->behavior = behavior;
	return tok_regex_create(pattern, kind, tok->file, where, &stage->regex);
}

static int add_byte_level(struct kvs_tokenizer *tok, const struct part *part)
{
	/* The pattern of GPT-2's encoder.py, which HF has built in. */
	static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
	bool prefix = true, regex = true;
	int err = model_json_bool(&part->json, "add_prefix_space", &prefix);

	if (!err)
		err = model_json_bool(&part->json, "use_regex", &regex);
	if (!err && prefix)
		err = add_stage(tok, TOK_STAGE_SPACE) ? 0 : -ENOMEM;
	if (!err && regex)
		err = add_own_split(tok, gpt2, TOK_PATTERN_REGEX, TOK_ISOLATED, part->name);
	if (!err)
		err = add_stage(tok, TOK_STAGE_BYTES) ? 0 : -ENOMEM;
	return err;
}

struct metaspace {
	char *mark;
	enum tok_prepend prepend;
	bool split;
};

/* Shared by the pre-tokeniser and the decoder; files before 2024 have add_prefix_space. */
static int read_metaspace(const struct part *part, struct metaspace *out)
{
	static const char *const schemes[] = {"never", "first", "always"};
	const char *scheme = "always";
	bool prefix = true;
	int i = 0, err;
	size_t len = 0;

	*out = (struct metaspace){.split = true};
	err = model_json_string(&part->json, "prepend_scheme", &scheme);
	if (!err)
		err = model_json_bool(&part->json, "add_prefix_space", &prefix);
	if (!err)
		err = model_json_bool(&part->json, "split", &out->split);
	while (i < 3 && strcmp(scheme, schemes[i]))
		i++;
	if (!err && (i == 3 || (!prefix && i && model_json_member(&part->json, "prepend_scheme"))))
		err = kvs_fail(-EINVAL, "%s: %sprepend_scheme is \"%.40s\"%s: not supported", part->json.file,
			part->path, scheme, prefix ? "" : " with add_prefix_space false");
	out->prepend = prefix ? (enum tok_prepend)i : TOK_PREPEND_NEVER;
	if (!err)
		err = take_string(part, "replacement", &out->mark);
	if (err)
		return err;
	if (*out->mark)
		tok_utf8_look(out->mark, strlen(out->mark), &len);
	if (!len || out->mark[len]) {
		free(out->mark);
		return kvs_fail(-EINVAL, "%s: %sreplacement must be one character", part->json.file, part->path);
	}
	return 0;
}

static int add_metaspace(struct kvs_tokenizer *tok, const struct part *part)
{
	struct metaspace meta;
	struct tok_stage *stage;
	int err = read_metaspace(part, &meta);

	if (err)
		return err;
	stage = add_stage(tok, TOK_STAGE_METASPACE);
	if (!stage) {
		free(meta.mark);
		return -ENOMEM;
	}
	stage->text = meta.mark;
	stage->prepend = meta.prepend;
	return meta.split ? add_own_split(tok, meta.mark, TOK_PATTERN_LITERAL, TOK_MERGED_WITH_NEXT, part->name) : 0;
}

static int add_pre_tokenizer(struct kvs_tokenizer *tok, const struct part *part)
{
	bool individual = false;
	int err;

	if (!strcmp(part->type, "ByteLevel"))
		return add_byte_level(tok, part);
	if (!strcmp(part->type, "Split"))
		return add_split(tok, part);
	if (!strcmp(part->type, "Metaspace"))
		return add_metaspace(tok, part);
	if (strcmp(part->type, "Digits"))
		return refuse_type(part);
	err = model_json_bool(&part->json, "individual_digits", &individual);
	return err ? err
		   : add_own_split(
			     tok, individual ? "\\p{N}" : "\\p{N}+", TOK_PATTERN_NUMBERS, TOK_ISOLATED, part->name);
}

static int add_added(struct kvs_tokenizer *tok, bool normalized)
{
	struct tok_stage *stage = add_stage(tok, TOK_STAGE_ADDED);

	if (!stage)
		return -ENOMEM;
	stage->normalized = normalized;
	return 0;
}

int tok_load_stages(struct kvs_tokenizer *tok, const struct model_json *root)
{
	const json_t *normalizer = model_json_member(root, "normalizer");
	const json_t *pre_tokenizer = model_json_member(root, "pre_tokenizer");
	int err = add_added(tok, false);

	tok->normalizer_first = tok->stage_count;
	if (!err && normalizer)
		err = part_each(tok, normalizer, "normalizer", "normalizers", 0, add_normalizer);
	tok->normalizer_end = tok->stage_count;
	if (!err)
		err = add_added(tok, true);
	if (!err && pre_tokenizer)
		err = part_each(tok, pre_tokenizer, "pre_tokenizer", "pretokenizers", 0, add_pre_tokenizer);
	return err;
}

/* ---- post-processor ---- */

static int add_special(struct kvs_tokenizer *tok, const struct part *part, const char *name, struct tok_ids *to)
{
	const json_t *ids =
		json_object_get(json_object_get(model_json_member(&part->json, "special_tokens"), name), "ids");

	if (!json_is_array(ids))
		return kvs_fail(-EINVAL, "%s: %sspecial_tokens lacks ids for \"%.40s\"", tok->file, part->path, name);
	for (size_t i = 0; i < json_array_size(ids); i++) {
		const json_t *value = json_array_get(ids, i);
		int32_t id = (int32_t)json_integer_value(value);

		if (!json_is_integer(value) || json_integer_value(value) < 0 ||
			json_integer_value(value) >= kvs_tokenizer_vocab(tok))
			return kvs_fail(-EINVAL, "%s: %sspecial_tokens[\"%.40s\"].ids[%zu] must be an id below %d",
				tok->file, part->path, name, i, kvs_tokenizer_vocab(tok));
		if (tok_ids_append(to, &id, 1))
			return no_memory(tok);
	}
	return 0;
}

static int add_template(struct kvs_tokenizer *tok, const struct part *part)
{
	const json_t *single = model_json_member(&part->json, "single");
	bool text_seen = false;
	int err = 0;

	if (tok->before.count || tok->after.count)
		return kvs_fail(-EINVAL, "%s: %stype is a second template: not supported", tok->file, part->path);
	for (size_t i = 0; i < json_array_size(single) && !err; i++) {
		const json_t *piece = json_array_get(single, i);
		const char *special = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
		const char *text = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));

		if (special)
			err = add_special(tok, part, special, text_seen ? &tok->after : &tok->before);
		else if (!text || strcmp(text, "A") || text_seen)
			return kvs_fail(-EINVAL, "%s: %ssingle[%zu] is neither a special token nor the one text",
				tok->file, part->path, i);
		else
			text_seen = true;
	}
	if (!err && !text_seen)
		err = kvs_fail(-EINVAL, "%s: %ssingle must hold the text, {\"Sequence\": {\"id\": \"A\"}}", tok->file,
			part->path);
	return err;
}

/* As a post-processor, ByteLevel changes only offsets, which we do not return. */
static int add_post_processor(struct kvs_tokenizer *tok, const struct part *part)
{
	if (!strcmp(part->type, "ByteLevel"))
		return 0;
	return strcmp(part->type, "TemplateProcessing") ? refuse_type(part) : add_template(tok, part);
}

int tok_load_template(struct kvs_tokenizer *tok, const struct model_json *root)
{
	const json_t *object = model_json_member(root, "post_processor");

	return object ? part_each(tok, object, "post_processor", "processors", 0, add_post_processor) : 0;
}

/* ---- decoder ---- */

static int read_replace(const struct part *part, struct tok_step *step)
{
	const json_t *pattern = model_json_member(&part->json, "pattern");
	const char *literal = json_string_value(json_object_get(pattern, "String"));

	if (!literal || !*literal)
		return kvs_fail(-EINVAL,
			"%s: %spattern must be {\"String\": ...}: nothing else is supported in a decoder",
			part->json.file, part->path);
	step->pattern = strdup(literal);
	return step->pattern ? take_string(part, "content", &step->text)
			     : kvs_fail(-ENOMEM, "%s: no memory", part->json.file);
}

/* Stripping the end is refused: a stream has already handed out the text when the end is known. */
static int read_strip(const struct part *part, struct tok_step *step)
{
	int stop = 0, err = model_json_int(&part->json, "start", 0, 1 << 20, &step->start);

	if (!err)
		err = model_json_int(&part->json, "stop", 0, 1 << 20, &stop);
	if (!err && stop)
		err = kvs_fail(-EINVAL, "%s: %sstop is %d: not supported", part->json.file, part->path, stop);
	return err ? err : take_string(part, "content", &step->pattern);
}

static int read_decoder_metaspace(const struct part *part, struct tok_step *step)
{
	struct metaspace meta;
	int err = read_metaspace(part, &meta);

	if (err)
		return err;
	step->pattern = meta.mark;
	step->drop_first = meta.prepend != TOK_PREPEND_NEVER;
	return 0;
}

static int read_step(const struct part *part, struct tok_step *step)
{
	switch (step->kind) {
	case TOK_STEP_REPLACE:
		return read_replace(part, step);
	case TOK_STEP_STRIP:
		return read_strip(part, step);
	case TOK_STEP_METASPACE:
		return read_decoder_metaspace(part, step);
	case TOK_STEP_BYTE_FALLBACK:
	case TOK_STEP_FUSE:
	case TOK_STEP_BYTES:
		break;
	}
	return 0;
}

/* A step that joins all tokens into one text may be followed only by steps that work on its start. */
static bool follows_fuse(const struct kvs_tokenizer *tok)
{
	for (size_t i = 0; i < tok->step_count; i++)
		if (tok->steps[i].kind == TOK_STEP_FUSE || tok->steps[i].kind == TOK_STEP_BYTES)
			return true;
	return false;
}

static int add_decoder(struct kvs_tokenizer *tok, const struct part *part)
{
	static const char *const types[] = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "ByteLevel"};
	int kind = 0;

	while (kind < 6 && strcmp(part->type, types[kind]))
		kind++;
	if (kind == 6)
		return refuse_type(part);
	if (tok->step_count == TOK_MAX_STEPS)
		return kvs_fail(-EINVAL, "%s: decoder has more than %d steps", tok->file, TOK_MAX_STEPS);
	if (follows_fuse(tok) && kind != TOK_STEP_STRIP && kind != TOK_STEP_FUSE)
		return kvs_fail(-EINVAL, "%s: %stype is \"%s\" after Fuse or ByteLevel: not supported", tok->file,
			part->path, part->type);
	tok->steps[tok->step_count] = (struct tok_step){.kind = (enum tok_step_kind)kind};
	return read_step(part, &tok->steps[tok->step_count++]);
}

int tok_load_decoder(struct kvs_tokenizer *tok, const struct model_json *root)
{
	const json_t *object = model_json_member(root, "decoder");

	tok->decoder = object != NULL;
	return object ? part_each(tok, object, "decoder", "decoders", 0, add_decoder) : 0;
}
