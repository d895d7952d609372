/*
 * calib/study/markdown.c: the results of a study for people: study.md.
 *
 * The cost of sharing is given as loss above the unshared model's, in nats a token. Every sentence follows from the
 * figures alone: nothing in it was written for one study.
 */
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const study_titles[KVS_STUDY_METHODS] = {
	[KVS_STUDY_DISSIMILAR] = "dissimilar first (KVSharer)",
	[KVS_STUDY_SIMILAR] = "similar first",
	[KVS_STUDY_RANDOM] = "random",
	[KVS_STUDY_THRESHOLD] = "random, filtered",
	[KVS_STUDY_ADJACENT] = "neighbours, spread (CLA)",
	[KVS_STUDY_MERGE] = "neighbours, merged (MiniCache)",
	[KVS_STUDY_NLL] = "greedy by loss",
	[KVS_STUDY_DISSIMILAR_SPLIT] = "dissimilar first, K and V apart",
	[KVS_STUDY_NLL_SPLIT] = "greedy by loss, K and V apart",
	[KVS_STUDY_REFIT] = "greedy by what matrices leave",
};

static double saved_percent(const struct kvs_study *study, int p)
{
	return 100.0 * study->shares[p] / study->layers;
}

void study_print_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		unsigned char c = *text;
		if (c == '\n')
			fputs("⏎ ", out);
		else if (c < ' ' || c == 127)
			fputc(' ', out);
		else if (strchr("\\`*_[]<>|#&~$!", c))
			fprintf(out, "\\%c", c);
		else
			fputc(c, out);
	}
}

/* ---- words ---- */

static void print_least(FILE *out, const struct kvs_study *study, int p)
{
	int best = -1, plans = 0;
	double least = INFINITY;

	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		struct study_mean mean = study_mean(study, m, 0, p);
		if (!mean.count || m == KVS_STUDY_MERGE)
			continue;
		plans++;
		if (mean.nll < least) {
			least = mean.nll;
			best = m;
		}
	}
	if (plans)
		fprintf(out,
			plans > 1 ? " Of the plans, `%s` loses least: %+.4f nats a token."
				  : " The plan of `%s` loses %+.4f nats a token.",
			kvs_study_method_name(best), least - study->full_nll);
}

/* Dissimilar first against another method, if the study has both. */
static void print_against(
	FILE *out, const struct kvs_study *study, int p, enum kvs_study_method other, const char *name)
{
	struct study_mean x = study_mean(study, KVS_STUDY_DISSIMILAR, 0, p), y = study_mean(study, other, 0, p);

	if (!x.count || !y.count)
		return;
	fprintf(out, " Dissimilar first loses %s %s (%+.4f against %+.4f",
		x.nll > y.nll   ? "more than"
		: x.nll < y.nll ? "less than"
				: "as much as",
		name, study_cost(study, &x), study_cost(study, &y));
	if (y.count > 1)
		fprintf(out, " on average of %zu seeds, which lie from %+.4f to %+.4f", y.count,
			y.least - study->full_nll, y.most - study->full_nll);
	fputs(").", out);
}

/* If the walk finds the same plans with the filter as without it, the filter rejected nothing. */
static void print_filter(FILE *out, const struct kvs_study *study, int p)
{
	struct study_mean with = study_mean(study, KVS_STUDY_THRESHOLD, 0, p),
			  without = study_mean(study, KVS_STUDY_RANDOM, 0, p);

	if (!with.count || with.count != without.count)
		return;
	if (with.nll == without.nll && with.least == without.least && with.most == without.most)
		fprintf(out, " The filter of hidden states changes nothing about random plans.");
	else
		fprintf(out, " The filter of hidden states takes random plans from %+.4f to %+.4f on average.",
			study_cost(study, &without), study_cost(study, &with));
}

static void print_words(FILE *out, const struct kvs_study *study)
{
	fputs("## What it says\n\n", out);
	for (int p = 0; p < study->share_count; p++) {
		fprintf(out, "* **%d of %d layers share (%.1f %%).**", study->shares[p], study->layers,
			saved_percent(study, p));
		print_least(out, study, p);
		print_against(out, study, p, KVS_STUDY_SIMILAR, "similar first");
		print_against(out, study, p, KVS_STUDY_RANDOM, "random plans");
		print_filter(out, study, p);
		fputc('\n', out);
	}
	fputs("\nA nat is a factor of e in perplexity: +0.02 is 2 %, +0.7 is twice. All figures are for the text to "
	      "measure on, which is none of those that were searched on.\n\n",
		out);
}

/* ---- tables ---- */

static void print_table_row(FILE *out, const struct kvs_study *study, const char *name, const struct study_mean *m)
{
	double full_bytes = study_token_bytes(study, 0, false);

	fprintf(out, "| %s | %.4f", name, m->nll);
	if (m->count > 1)
		fprintf(out, " ± %.4f", m->deviation);
	fprintf(out, " | %+.4f | %.4f | %.2f %% | %.4f | %zu | %.1f %% |\n", study_cost(study, m), exp(m->nll),
		100 * m->top1_agreement, m->kl, m->token_bytes, 100 * m->token_bytes / full_bytes);
}

void study_name_row(const struct study_mean *mean, enum kvs_study_method m, char *name, size_t size)
{
	int used = snprintf(name, size, "%s: `%s`", study_titles[m], kvs_study_method_name(m));

	if (mean->rows > 1 && mean->count == mean->rows)
		snprintf(name + used, size - used, ", %zu seeds", mean->count);
	else if (mean->rows > 1)
		snprintf(name + used, size - used, ", %zu of %zu seeds", mean->count, mean->rows);
}

static void print_results(FILE *out, const struct kvs_study *study, int p)
{
	struct study_mean full = {.count = 1,
		.nll = study->full_nll,
		.top1_agreement = 1,
		.token_bytes = study_token_bytes(study, 0, false)};
	char name[128];

	fprintf(out, "### %d of %d layers share\n\n", study->shares[p], study->layers);
	fputs("| method | loss | above full | perplexity | top-1 agreement | KL to full | KV bytes a token | of full "
	      "|\n"
	      "|---|---|---|---|---|---|---|---|\n",
		out);
	print_table_row(out, study, "no sharing", &full);
	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		struct study_mean mean = study_mean(study, m, 0, p);
		if (!mean.count)
			continue;
		study_name_row(&mean, m, name, sizeof(name));
		print_table_row(out, study, name, &mean);
	}
	fputc('\n', out);
}

static void print_row_name(FILE *out, const struct kvs_study *study, const struct study_row *row)
{
	const struct study_cut *cut = &study->cuts[row->cut];

	fprintf(out, "`%s`", kvs_study_method_name(row->method));
	if (row->seed)
		fprintf(out, ", seed %llu", (unsigned long long)row->seed);
	if (cut->source)
		fprintf(out, ", text %d", cut->source + 1);
	else if (row->cut)
		fprintf(out, ", %d samples", cut->samples);
}

/* Rows that could not share as many layers as asked for, each once. */
static void print_short(FILE *out, const struct kvs_study *study)
{
	bool any = false;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		int p = 0;
		while (p < study->share_count && row->points[p].owners)
			p++;
		if (!row->done || row->fit || p == study->share_count)
			continue;
		fputs("* ", out);
		print_row_name(out, study, row);
		if (row->method == KVS_STUDY_ADJACENT || row->method == KVS_STUDY_MERGE)
			fprintf(out, " has no %d such layers.\n", study->shares[p]);
		else
			fprintf(out, " reached %g of %d layers: its pairs ran out.\n", row->points[p].tensors / 2.0,
				study->shares[p]);
		any = true;
	}
	if (any)
		fputc('\n', out);
}

void study_print_head(FILE *out, const struct kvs_study *study, const char *first)
{
	fprintf(out, "| %s |", first);
	for (int p = 0; p < study->share_count; p++)
		fprintf(out, " %d share |", study->shares[p]);
	fputs("\n|---|", out);
	for (int p = 0; p < study->share_count; p++)
		fputs("---|", out);
	fputc('\n', out);
}

static void print_mean_costs(FILE *out, const struct kvs_study *study, enum kvs_study_method method, int cut)
{
	for (int p = 0; p < study->share_count; p++) {
		struct study_mean mean = study_mean(study, method, cut, p);
		if (!mean.count)
			fputs(" - |", out);
		else if (mean.count == 1)
			fprintf(out, " %+.4f |", study_cost(study, &mean));
		else
			fprintf(out, " %+.4f ± %.4f |", study_cost(study, &mean), mean.deviation);
	}
	fputc('\n', out);
}

static void print_costs(FILE *out, const struct kvs_study *study, const struct study_point *points)
{
	for (int p = 0; p < study->share_count; p++) {
		if (points[p].owners)
			fprintf(out, " %+.4f |", points[p].quality.nll - study->full_nll);
		else
			fputs(" - |", out);
	}
	fputc('\n', out);
}

static void print_sensitivity(FILE *out, const struct kvs_study *study, bool by_source)
{
	int cuts[STUDY_CUTS], count = study_series(study, by_source, cuts);

	if (!study_compares(study, KVS_STUDY_ALONE, by_source))
		return;
	fputs(by_source ? "### The text\n\n![texts](texts.svg)\n\n"
			: "### How much text\n\n![samples](samples.svg)\n\n",
		out);
	study_print_head(out, study, "search");
	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		for (int i = 0; i < count; i++) {
			const struct study_cut *cut = &study->cuts[cuts[i]];
			if (!study_has(study, m, cuts[i]) || !study_varies(study, m))
				continue;
			if (by_source)
				fprintf(out, "| `%s`, text %d |", kvs_study_method_name(m), cut->source + 1);
			else if (m == KVS_STUDY_NLL || m == KVS_STUDY_NLL_SPLIT)
				fprintf(out, "| `%s`, %d tokens |", kvs_study_method_name(m),
					cut->text.windows * cut->text.window_tokens);
			else
				fprintf(out, "| `%s`, %d sample%s |", kvs_study_method_name(m), cut->samples,
					cut->samples == 1 ? "" : "s");
			print_mean_costs(out, study, m, cuts[i]);
		}
	}
	fputc('\n', out);
}

static bool has_seeds(const struct kvs_study *study)
{
	return study_has(study, KVS_STUDY_RANDOM, 0) || study_has(study, KVS_STUDY_THRESHOLD, 0);
}

static void print_seeds(FILE *out, const struct kvs_study *study)
{
	if (!has_seeds(study))
		return;
	fputs("### The seed\n\n", out);
	study_print_head(out, study, "order");
	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		if (!row->done || !row->seed || row->fit)
			continue;
		fputs("| ", out);
		print_row_name(out, study, row);
		fputs(" |", out);
		print_costs(out, study, row->points);
	}
	fputc('\n', out);
}

/* ---- study.md ---- */

static void print_settings(FILE *out, const struct kvs_study *study)
{
	const char *key;
	json_t *value;

	fputs("## What was run\n\n| | |\n|---|---|\n", out);
	json_object_foreach(study->settings, key, value)
	{
		char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
		fprintf(out, "| %s | ", key);
		if (json_is_string(value)) /* a prompt may be anything */
			study_print_escaped(out, json_string_value(value));
		else
			fputs(text ? text : "?", out);
		fputs(" |\n", out);
		free(text);
	}
	fputs("\nWalks run the first `samples` pieces of `sample_tokens` tokens of a text; greedy search chooses by "
	      "the `held_tokens` after them. Plans are measured on `measured_tokens` tokens of the other text. "
	      "`study.json` has every plan (`k_owners`, `v_owners`) and figure.\n",
		out);
}

static void print_left_out(FILE *out, const struct kvs_study *study)
{
	size_t rows, left = kvs_study_left(study, &rows);

	if (left)
		fprintf(out, "\n**Not finished: %zu of %zu rows are missing.**\n", left, rows);
	for (int c = 0; c < study->cut_count; c++) {
		const struct study_cut *cut = &study->cuts[c];
		if (c && !study_any_varies(study))
			continue;
		if (cut->missing)
			fprintf(out, "\nNot run: %d samples: %s.\n", cut->samples, cut->missing);
		else if (cut->unfit && study_has_fits(study))
			fprintf(out, "\nNot compensated: %d samples: %s.\n", cut->samples, cut->unfit);
		if (cut->unpaired)
			fprintf(out, "\nNot searched by `refit`: %d samples: %s.\n", cut->samples, cut->unpaired);
	}
}

static void print_study(FILE *out, const struct kvs_study *study)
{
	fprintf(out, "# What sharing KV caches between layers costs: a study of %s, %d layers\n\n",
		json_string_value(json_object_get(study->settings, "architecture")), study->layers);
	print_words(out, study);
	fputs("## Every method\n\n![loss](loss.svg)\n\n![KL](kl.svg)\n\n![top-1 agreement](top1.svg)\n\n", out);
	for (int p = 0; p < study->share_count; p++)
		print_results(out, study, p);
	print_short(out, study);
	study_print_given(out, study);
	study_print_compensated(out, study);
	study_print_also(out, study);
	study_print_samples(out, study);
	if (study_compares(study, KVS_STUDY_ALONE, false) || study_compares(study, KVS_STUDY_ALONE, true) ||
		has_seeds(study))
		fputs("## What the result depends on\n\nLoss above the unshared model's, nats a token.\n\n", out);
	print_sensitivity(out, study, false);
	print_sensitivity(out, study, true);
	print_seeds(out, study);
	print_settings(out, study);
	print_left_out(out, study);
}

int kvs_study_markdown(const kvs_study *study, char **markdown)
{
	size_t bytes;
	FILE *out = open_memstream(markdown, &bytes);

	if (!out)
		return kvs_fail(-ENOMEM, "no memory for study.md");
	print_study(out, study);
	if (!fclose(out))
		return 0;
	free(*markdown);
	return kvs_fail(-ENOMEM, "no memory for study.md");
}

static int write_markdown(const struct kvs_study *study, const char *dir)
{
	char *markdown, *path;
	int err = kvs_study_markdown(study, &markdown);

	if (err)
		return err;
	if (asprintf(&path, "%s/study.md", dir) < 0) {
		free(markdown);
		return kvs_fail(-ENOMEM, "no memory for a path");
	}
	err = kvs_file_write(path, markdown, strlen(markdown));
	free(path);
	free(markdown);
	return err;
}

int kvs_study_write(const kvs_study *study, const char *dir)
{
	int err = write_markdown(study, dir);

	return err ? err : study_draw(study, dir);
}
