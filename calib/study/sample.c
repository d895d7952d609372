/*
 * calib/study/sample.c: how the unshared model and those of plans go on with a prompt, token by token, always by the
 * likeliest: a loss says how much is lost, a text says what.
 */
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(void)
{
	return kvs_fail(-ENOMEM, "no memory for a text");
}

int study_take_prompt(struct kvs_study *study, const struct kvs_study_options *options)
{
	int positions = kvs_checkpoint_config(study->ckpt)->max_positions, err;
	struct study_prompt *prompt = &study->prompt;
	json_t *valid = options->prompt ? json_string(options->prompt) : NULL;

	if (!options->prompt)
		return 0;
	if (!valid)
		return kvs_fail(-EINVAL, "the prompt is not UTF-8");
	json_decref(valid);
	if (options->prompt_tokens < 1)
		return kvs_fail(
			-EINVAL, "%d tokens should follow the prompt: 1 or more will do", options->prompt_tokens);
	err = kvs_tokenizer_encode(
		study->tok, options->prompt, strlen(options->prompt), true, &prompt->ids, &prompt->count);
	if (err)
		return err;
	prompt->tokens = options->prompt_tokens;
	if (!*options->prompt || !prompt->count)
		return kvs_fail(-EINVAL, "the prompt is empty: there is nothing to go on with");
	if (prompt->count > (size_t)positions || prompt->tokens > positions - (int)prompt->count)
		return kvs_fail(-EINVAL,
			"the prompt has %zu tokens, and %d should follow: the model has %d positions "
			"(max_position_embeddings)",
			prompt->count, prompt->tokens, positions);
	prompt->text = strdup(options->prompt);
	return prompt->text ? 0 : no_memory();
}

void study_free_prompt(struct kvs_study *study)
{
	free(study->prompt.text);
	free(study->prompt.ids);
	free(study->prompt.unshared);
}

int study_describe_prompt(struct kvs_study *study)
{
	if (!study->prompt.text)
		return 0;
	return json_object_set_new(study->settings, "prompt", json_string(study->prompt.text)) ||
			       json_object_set_new(study->settings, "prompt_tokens", json_integer(study->prompt.tokens))
		       ? no_memory()
		       : 0;
}

/* Merged tensors are no plan that could write text. */
bool study_samples(const struct kvs_study *study, const struct study_row *row)
{
	return study->prompt.text && !row->cut && !row->seed && row->method != KVS_STUDY_MERGE;
}

/* Up to the number asked for, or an end of the text. */
static int go_on(const struct study_prompt *prompt, kvs_engine *engine, int32_t *ids, size_t *count)
{
	int err = kvs_engine_append(engine, 0, prompt->ids, prompt->count);

	*count = 0;
	while (!err) {
		int32_t id;
		err = kvs_engine_argmax(engine, &id);
		if (err || kvs_config_ends(kvs_engine_config(engine), id))
			break;
		ids[(*count)++] = id;
		if (*count == (size_t)prompt->tokens)
			break;
		err = kvs_engine_append(engine, 0, &id, 1);
	}
	return err;
}

int study_sample(const struct kvs_study *study, kvs_engine *engine, const kvs_plan *plan, char **text)
{
	int32_t *ids = malloc(sizeof(*ids) * study->prompt.tokens);
	size_t count, bytes;
	int err = ids ? kvs_engine_set_plan(engine, plan) : no_memory();

	if (!err)
		err = kvs_engine_truncate(engine, 0, 0);
	if (!err)
		err = go_on(&study->prompt, engine, ids, &count);
	if (!err)
		err = kvs_tokenizer_decode(study->tok, ids, count, true, text, &bytes);
	free(ids);
	return err;
}

/* ---- Markdown ---- */

static void print_sample(FILE *out, const char *name, const char *fit, const char *text)
{
	fprintf(out, "| %s%s%s | ", name, fit ? ", " : "", fit ? fit : "");
	study_print_escaped(out, text);
	fputs(" |\n", out);
}

static void print_share(FILE *out, const struct kvs_study *study, int p)
{
	fprintf(out, "### The same prompt, %d of %d layers share\n\n| model | text |\n|---|---|\n", study->shares[p],
		study->layers);
	if (study->prompt.unshared)
		print_sample(out, "no sharing", NULL, study->prompt.unshared);
	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		if (row->done && row->points[p].sample)
			print_sample(out, study_titles[row->method], row->fit ? study_fit_titles[row->fit] : NULL,
				row->points[p].sample);
	}
	fputc('\n', out);
}

void study_print_samples(FILE *out, const struct kvs_study *study)
{
	if (!study->prompt.text)
		return;
	fputs("## The same prompt\n\nWhat each model goes on with, always by the likeliest token, after: ", out);
	study_print_escaped(out, study->prompt.text);
	fputs("\n\n", out);
	for (int p = 0; p < study->share_count; p++)
		print_share(out, study, p);
}
