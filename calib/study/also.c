/*
 * calib/study/also.c: further texts that every plan is measured on, and the first one in longer windows: a plan, and even more
 * so matrices that were fitted for it, may do well on one kind of text and in short windows alone.
 *
 * Merged tensors are left out: they are decoded token by token, which takes long.
 */
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(void)
{
	return kvs_fail(-ENOMEM, "no memory for the texts of a study");
}

/* ---- cutting ---- */

/* `whole`: windows of that length and no shorter. */
static int cut(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_source *source, int tokens,
	int window_tokens, bool whole, const char *title)
{
	const struct kvs_config *config = kvs_checkpoint_config(study->ckpt);
	struct study_also *also = &study->also[study->also_count++];
	int err;

	also->full_nll = NAN;
	also->title = strdup(title);
	if (!also->title)
		return no_memory();
	if (window_tokens > config->max_positions)
		return kvs_fail(-EINVAL, "windows of %d tokens: the model has %d positions (max_position_embeddings)",
			window_tokens, config->max_positions);
	err = kvs_calib_windows_cut(tok, source->bytes, source->count, tokens, window_tokens, &also->text);
	if (!err && whole && also->text.window_tokens < window_tokens)
		err = kvs_fail(-EINVAL, "the text has %d tokens to predict, a window takes %d",
			also->text.window_tokens, window_tokens);
	return err ? kvs_fail(err, "%s: %s", source->name, kvs_error()) : 0;
}

static int check_digest(const struct study_also *also, const char *name, const char *digest, const char *other)
{
	if (strcmp(also->text.digest, digest))
		return 0;
	return kvs_fail(-EINVAL, "%s is the same text as %s: measure on another", name, other);
}

/* A plan would be measured on the text that it was made for, or on one twice. */
static int check(const struct kvs_study *study, const struct kvs_study_options *options, int i)
{
	const struct study_also *also = &study->also[i];
	const char *name = options->also[i].name;
	int err = check_digest(also, name, study->measured.digest, options->text.name);

	for (int c = 0; c < study->cut_count && !err; c++)
		if (!study->cuts[c].missing)
			err = check_digest(
				also, name, study->cuts[c].text.digest, options->calib[study->cuts[c].source].name);
	for (int j = 0; j < i && !err; j++)
		err = check_digest(also, name, study->also[j].text.digest, options->also[j].name);
	return err;
}

int study_cut_also(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options)
{
	int tokens = options->text_tokens ? options->text_tokens : STUDY_TEXT_TOKENS, longer = options->also_ctx,
	    err = 0;
	char title[64];

	for (int i = 0; i < options->also_count && !err; i++) {
		const char *slash = strrchr(options->also[i].name, '/');
		err = cut(study, tok, &options->also[i], tokens, options->cut.window_tokens, false,
			slash ? slash + 1 : options->also[i].name);
		if (!err)
			err = check(study, options, i);
	}
	if (err || !longer)
		return err;
	if (longer == study->measured.window_tokens)
		return kvs_fail(-EINVAL, "%s is measured in windows of %d tokens anyhow", options->text.name, longer);
	snprintf(title, sizeof(title), "the text measured on, windows of %d", longer);
	return cut(study, tok, &options->text, tokens > longer ? tokens : longer, longer, true, title);
}

void study_free_also(struct kvs_study *study)
{
	for (int i = 0; i < study->also_count; i++) {
		free(study->also[i].title);
		kvs_calib_text_clear(&study->also[i].text);
	}
}

/* ---- JSON ---- */

int study_describe_also(struct kvs_study *study)
{
	json_t *texts = json_array();
	int failed = texts ? 0 : -1;

	for (int i = 0; i < study->also_count && !failed; i++) {
		const struct kvs_calib_text *text = &study->also[i].text;
		failed = json_array_append_new(
			texts, json_pack("{s:s,s:i,s:i}", "digest", text->digest, "window_tokens", text->window_tokens,
				       "measured_tokens", text->windows * text->window_tokens));
	}
	if (!failed && study->also_count)
		failed = json_object_set(study->settings, "also", texts);
	json_decref(texts);
	return failed ? no_memory() : 0;
}

int study_also_json(const struct kvs_study *study, const struct study_point *point, json_t *object)
{
	json_t *texts = json_array();
	int failed = texts ? 0 : -1;

	for (int i = 0; i < study->also_count && !failed; i++) {
		const struct kvs_quality *q = point ? &point->also[i] : NULL;
		failed = json_array_append_new(texts,
			q ? json_pack("{s:f,s:f,s:f}", "nll", q->nll, "top1_agreement", q->top1_agreement, "kl", q->kl)
			  : json_pack("{s:f}", "nll", study->also[i].full_nll));
	}
	if (!failed && study->also_count)
		failed = json_object_set(object, "also", texts);
	if (!failed && study->also_count && !point)
		failed = json_object_set_new(object, "held_nll", json_real(study->held_nll));
	json_decref(texts);
	return failed ? no_memory() : 0;
}

/* NAN if it is missing or not a number. */
static double number_at(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

int study_read_also(struct kvs_study *study, const json_t *object, struct study_point *point)
{
	const json_t *texts = json_object_get(object, "also");
	double sum = 0;

	for (int i = 0; i < study->also_count; i++) {
		const json_t *text = json_array_get(texts, i);
		struct kvs_quality q = {.nll = number_at(text, "nll"), .full_nll = study->also[i].full_nll};
		q.top1_agreement = point ? number_at(text, "top1_agreement") : 0;
		q.kl = point ? number_at(text, "kl") : 0;
		q.tokens = (size_t)study->also[i].text.windows * study->also[i].text.window_tokens;
		sum += q.nll + q.top1_agreement + q.kl;
		if (point)
			point->also[i] = q;
		else
			study->also[i].full_nll = q.nll;
	}
	if (study->also_count && !point)
		sum += study->held_nll = number_at(object, "held_nll");
	return isfinite(sum) ? 0 : -EINVAL;
}

/* ---- Markdown ---- */

struct costs {
	double also[STUDY_ALSO], held; /* sums of losses above the unshared model's */
	size_t rows;
};

/* Over the seeds. A plan alone has its loss on the held-back text from a fit of it. */
static struct costs costs_of(const struct kvs_study *study, enum kvs_study_method m, enum kvs_study_fit fit, int p)
{
	struct costs costs = {.held = fit ? 0 : NAN};

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		const struct study_point *point = &row->points[p];
		if (!row->done || row->method != m || row->fit != fit || row->cut || !point->owners)
			continue;
		for (int a = 0; a < study->also_count; a++)
			costs.also[a] += point->also[a].nll - study->also[a].full_nll;
		costs.held += point->fit.nll - study->held_nll;
		costs.rows++;
	}
	return costs;
}

static double held_alone(const struct kvs_study *study, enum kvs_study_method m, int p)
{
	double sum = 0;
	size_t count = 0;

	for (int fit = KVS_STUDY_ALONE + 1; fit < KVS_STUDY_FITS && !count; fit++) {
		for (size_t i = 0; i < study->row_count; i++) {
			const struct study_row *row = &study->rows[i];
			if (!row->done || row->method != m || (int)row->fit != fit || row->cut ||
				!row->points[p].owners)
				continue;
			sum += row->points[p].fit.plain_nll - study->held_nll;
			count++;
		}
	}
	return count ? sum / count : NAN;
}

static void print_cell(FILE *out, double cost)
{
	if (isfinite(cost))
		fprintf(out, " %+.4f |", cost);
	else
		fputs(" - |", out);
}

static void print_row(FILE *out, const struct kvs_study *study, enum kvs_study_method m, enum kvs_study_fit fit, int p)
{
	struct study_mean mean = study_mean_of(study, m, fit, 0, p);
	struct costs costs = costs_of(study, m, fit, p);
	char name[128];

	if (!mean.count)
		return;
	study_name_row(&mean, m, name, sizeof(name));
	fprintf(out, "| %s%s%s |", name, fit ? ", " : "", fit ? study_fit_titles[fit] : "");
	print_cell(out, study_cost(study, &mean));
	for (int a = 0; a < study->also_count; a++)
		print_cell(out, m == KVS_STUDY_MERGE ? NAN : costs.also[a] / costs.rows);
	if (study_has_fits(study))
		print_cell(out, fit ? costs.held / costs.rows : held_alone(study, m, p));
	fputc('\n', out);
}

void study_print_also_titles(FILE *out, const struct kvs_study *study)
{
	for (int a = 0; a < study->also_count; a++) {
		fputc(' ', out);
		study_print_escaped(out, study->also[a].title);
		fputs(" |", out);
	}
}

static void print_head(FILE *out, const struct kvs_study *study)
{
	bool held = study_has_fits(study);

	fputs("| plan | the text measured on |", out);
	study_print_also_titles(out, study);
	fputs(held ? " held back of the calibration text |\n|---|---|" : "\n|---|---|", out);
	for (int a = 0; a < study->also_count + held; a++)
		fputs("---|", out);
	fprintf(out, "\n| no sharing: its loss | %.4f |", study->full_nll);
	for (int a = 0; a < study->also_count; a++)
		fprintf(out, " %.4f |", study->also[a].full_nll);
	if (held)
		fprintf(out, " %.4f |", study->held_nll);
	fputc('\n', out);
}

void study_print_also(FILE *out, const struct kvs_study *study)
{
	if (!study->also_count)
		return;
	fputs("## Other texts and longer windows\n\nLoss above the unshared model's on the same text, nats a token; "
	      "with "
	      "seeds, their mean. Merged tensors were measured on the first text only.\n\n",
		out);
	for (int p = 0; p < study->share_count; p++) {
		fprintf(out, "### Other texts, %d of %d layers share\n\n", study->shares[p], study->layers);
		print_head(out, study);
		for (int m = 0; m < KVS_STUDY_METHODS; m++)
			for (int fit = KVS_STUDY_ALONE; fit < KVS_STUDY_FITS; fit++)
				print_row(out, study, m, fit, p);
		fputc('\n', out);
	}
}
