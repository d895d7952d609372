/*
 * calib/study/compensated.c: the section of study.md on plans with refitted matrices: what is left of each plan's cost,
 * on how much text, and what a fit takes.
 */
#include "study.h"

#include <math.h>

const char *const study_fit_titles[KVS_STUDY_FITS] = {
	[KVS_STUDY_ALONE] = "plan alone",
	[KVS_STUDY_FIT_O] = "W_o",
	[KVS_STUDY_FIT_QO] = "W_q and W_o",
	[KVS_STUDY_FIT_ALL] = "all",
	[KVS_STUDY_FIT_SKIP] = "all, with a skip",
	[KVS_STUDY_FIT_LINEAR] = "no attention",
};

/* ---- words ---- */

/* The plan that loses least with matrices, against itself alone and against the best plan without any. */
static void print_best(FILE *out, const struct kvs_study *study, int p)
{
	enum kvs_study_method best = KVS_STUDY_METHODS;
	enum kvs_study_fit with = KVS_STUDY_ALONE;
	double least = INFINITY;

	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++) {
			struct study_mean mean = study_mean_of(study, m, f, 0, p);
			if (!mean.count || !(mean.nll < least))
				continue;
			least = mean.nll;
			best = m;
			with = f;
		}
	}
	if (best == KVS_STUDY_METHODS)
		return;
	struct study_mean alone = study_mean(study, best, 0, p);
	fprintf(out, "* **%d of %d layers share.** With matrices `%s` loses least: %+.4f (%s), alone %+.4f.\n",
		study->shares[p], study->layers, kvs_study_method_name(best), least - study->full_nll,
		study_fit_titles[with], study_cost(study, &alone));
}

/* ---- tables ---- */

static bool any_with(const struct kvs_study *study, enum kvs_study_fit fit)
{
	for (int m = 0; m < KVS_STUDY_METHODS; m++)
		if (study_has_fit(study, m, fit, 0))
			return true;
	return false;
}

static void print_cost(FILE *out, const struct kvs_study *study, const struct study_mean *mean, bool is_fit)
{
	if (!mean->count) {
		fputs(" - |", out);
		return;
	}
	fprintf(out, " %+.4f", study_cost(study, mean));
	if (mean->count > 1)
		fprintf(out, " ± %.4f", mean->deviation);
	fputs(is_fit && mean->applied < mean->count ? "* |" : " |", out);
}

static void print_head_of_fits(FILE *out, const struct kvs_study *study)
{
	fputs("| method | plan alone |", out);
	for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++)
		if (any_with(study, f))
			fprintf(out, " %s |", study_fit_titles[f]);
	fputs("\n|---|---|", out);
	for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++)
		if (any_with(study, f))
			fputs("---|", out);
	fputc('\n', out);
}

static void print_fits(FILE *out, const struct kvs_study *study, int p)
{
	char name[128];

	fprintf(out, "### Compensated, %d of %d layers share\n\n", study->shares[p], study->layers);
	print_head_of_fits(out, study);
	for (int m = 0; m < KVS_STUDY_METHODS; m++) {
		struct study_mean alone = study_mean(study, m, 0, p);
		if (!alone.count || !study_is_compensated(study, m))
			continue;
		study_name_row(&alone, m, name, sizeof(name));
		fprintf(out, "| %s |", name);
		print_cost(out, study, &alone, false);
		for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++) {
			struct study_mean mean = study_mean_of(study, m, f, 0, p);
			if (any_with(study, f))
				print_cost(out, study, &mean, true);
		}
		fputc('\n', out);
	}
	fputc('\n', out);
}

static bool any_left_out(const struct kvs_study *study)
{
	for (size_t i = 0; i < study->row_count; i++)
		for (int p = 0; p < study->share_count; p++)
			if (study->rows[i].done && study->rows[i].fit && study->rows[i].points[p].owners &&
				!study->rows[i].points[p].fit.applied)
				return true;
	return false;
}

/* ---- by amount and by text ---- */

static void print_cut(FILE *out, const struct kvs_study *study, enum kvs_study_method m, int at, bool by_source)
{
	const struct study_cut *cut = &study->cuts[at];

	if (by_source)
		fprintf(out, "| `%s`, text %d |", kvs_study_method_name(m), cut->source + 1);
	else
		fprintf(out, "| `%s`, %d tokens |", kvs_study_method_name(m), study_fit_tokens(cut));
	for (int p = 0; p < study->share_count; p++) {
		struct study_mean alone = study_mean(study, m, at, p),
				  with = study_mean_of(study, m, KVS_STUDY_FIT_ALL, at, p);
		if (!with.count)
			fputs(" - |", out);
		else
			fprintf(out, " %+.4f to %+.4f%s |", study_cost(study, &alone), study_cost(study, &with),
				with.applied < with.count ? "*" : "");
	}
	fputc('\n', out);
}

static void print_cuts(FILE *out, const struct kvs_study *study, bool by_source)
{
	int cuts[STUDY_CUTS], count = study_series(study, by_source, cuts);

	if (!study_compares(study, KVS_STUDY_FIT_ALL, by_source))
		return;
	fprintf(out, "### %s\n\nEach plan was searched on that text too; alone, and with all matrices.\n\n",
		by_source ? "The text that matrices are fitted on" : "How much text matrices are fitted on");
	study_print_head(out, study, "search and fit");
	for (int m = 0; m < KVS_STUDY_METHODS; m++)
		for (int i = 0; i < count; i++)
			if (study_varies(study, m) && study_has_fit(study, m, KVS_STUDY_FIT_ALL, cuts[i]))
				print_cut(out, study, m, cuts[i], by_source);
	fputc('\n', out);
}

/* ---- what it takes ---- */

/* CPU seconds, mean over all plans of the first cut; *most: the most bytes of memory, 0 where none is known. */
static double mean_cpu_s(const struct kvs_study *study, enum kvs_study_fit fit, int p, int64_t *most)
{
	double sum = 0;
	size_t count = 0;

	*most = 0;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		if (!row->done || row->fit != fit || row->cut || !row->points[p].owners)
			continue;
		sum += row->points[p].fit.cpu_s;
		if (row->points[p].fit.peak_bytes > *most)
			*most = row->points[p].fit.peak_bytes;
		count++;
	}
	return count ? sum / count : NAN;
}

static void print_time(FILE *out, const struct kvs_study *study)
{
	fprintf(out,
		"### The time and memory of a fit\n\nCPU seconds of all threads for %d tokens, with the two losses on "
		"the held-back text, mean over plans; and by how much the process's memory rose at its peak, at most. "
		"No two runs have the same.\n\n",
		study_fit_tokens(&study->cuts[0]));
	study_print_head(out, study, "matrices");
	for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++) {
		if (!any_with(study, f))
			continue;
		fprintf(out, "| %s |", study_fit_titles[f]);
		for (int p = 0; p < study->share_count; p++) {
			int64_t most;
			double seconds = mean_cpu_s(study, f, p, &most);
			if (isnan(seconds))
				fputs(" - |", out);
			else if (most)
				fprintf(out, " %.1f s, %.0f MB |", seconds, most / 1e6);
			else
				fprintf(out, " %.1f s |", seconds);
		}
		fputc('\n', out);
	}
	fputc('\n', out);
}

void study_print_compensated(FILE *out, const struct kvs_study *study)
{
	bool any = false;

	for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++)
		any |= any_with(study, f);
	if (!any)
		return;
	fprintf(out,
		"## Compensated\n\nMatrices of the model were refitted for each plan, on %d tokens of the text that "
		"it was searched on, %s. Loss above the unshared model's, nats a token.\n\n",
		study_fit_tokens(&study->cuts[0]),
		study->fit.count ? "in samples spread over it" : "those of the search's samples");
	for (int p = 0; p < study->share_count; p++)
		print_best(out, study, p);
	fputc('\n', out);
	for (int m = 0; m < KVS_STUDY_METHODS; m++)
		if (study_is_compensated(study, m))
			fprintf(out, "![%s](compensated-%s.svg)\n\n", kvs_study_method_name(m),
				kvs_study_method_name(m));
	for (int p = 0; p < study->share_count; p++)
		print_fits(out, study, p);
	if (any_left_out(study))
		fputs("*: on the held-back text of the search the matrices did not help (with seeds: some of them), so "
		      "`calibrate --compensate` would leave them out.\n\n",
			out);
	print_cuts(out, study, false);
	print_cuts(out, study, true);
	print_time(out, study);
}
