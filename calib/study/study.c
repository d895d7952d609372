/*
 * calib/study/study.c: many ways to share, each searched on one text and measured on another: the list of work, and
 * means of its results.
 *
 * A study is a list of rows, and a row is a method with a seed on one cut of a calibration text, alone or with matrices
 * that are refitted for its plans. run.c runs them.
 */
#include "../compensate/pair_costs.h"
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SAMPLES 30
#define DEFAULT_SEEDS 5

static const char *const method_names[KVS_STUDY_METHODS] = {"dissimilar", "similar", "random", "threshold", "adjacent",
	"merge", "nll", "dissimilar-split", "nll-split", "refit"};

const char *kvs_study_method_name(enum kvs_study_method method)
{
	return method_names[method];
}

static const char *const fit_names[KVS_STUDY_FITS] = {"alone", "o", "qo", "all", "skip", "linear"};

const char *kvs_study_fit_name(enum kvs_study_fit fit)
{
	return fit_names[fit];
}

/* ---- rows ---- */

unsigned kvs_study_methods(const struct kvs_study_options *options)
{
	unsigned all = (1u << KVS_STUDY_METHODS) - 1;

	return options->methods ? options->methods : options->fits ? all : all & ~(1u << KVS_STUDY_REFIT);
}

bool study_is_random(enum kvs_study_method method)
{
	return method == KVS_STUDY_RANDOM || method == KVS_STUDY_THRESHOLD;
}

bool study_varies(const struct kvs_study *study, enum kvs_study_method method)
{
	bool varies = study->varied >> method & 1;

	for (size_t i = 0; i < study->row_count; i++)
		varies |= study->rows[i].method == method && study->rows[i].cut;
	return varies;
}

bool study_any_varies(const struct kvs_study *study)
{
	for (size_t i = 0; i < study->row_count; i++)
		if (study_varies(study, study->rows[i].method))
			return true;
	return false;
}

static bool splits(enum kvs_study_method method)
{
	return method == KVS_STUDY_DISSIMILAR_SPLIT || method == KVS_STUDY_NLL_SPLIT;
}

static bool any_linear(unsigned methods)
{
	for (int m = 0; m < KVS_STUDY_METHODS; m++)
		if (methods >> m & 1 && m != KVS_STUDY_MERGE && !splits(m))
			return true;
	return false;
}

/*
 * A fit takes minutes, so on other cuts there is one, which depends on the text most. Merged tensors are no plan. Attention goes where
 * neither K nor V is the layer's own, which a plan with owners for each is not about.
 */
bool study_fits(const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut)
{
	if (method == KVS_STUDY_REFIT && study->cuts[cut].unpaired)
		return false;
	return fit == KVS_STUDY_ALONE ||
	       (method != KVS_STUDY_MERGE && !study->cuts[cut].unfit && (cut == 0 || fit == KVS_STUDY_FIT_ALL) &&
		       !(fit == KVS_STUDY_FIT_LINEAR && splits(method)));
}

static int by_place(const void *a, const void *b)
{
	const struct study_row *x = a, *y = b;

	if (x->cut != y->cut)
		return x->cut < y->cut ? -1 : 1;
	if (x->method != y->method)
		return x->method < y->method ? -1 : 1;
	if (x->seed != y->seed)
		return x->seed < y->seed ? -1 : 1;
	return (x->fit > y->fit) - (x->fit < y->fit);
}

void study_sort(struct kvs_study *study)
{
	if (study->row_count)
		qsort(study->rows, study->row_count, sizeof(*study->rows), by_place);
}

struct study_row *study_row(
	struct kvs_study *study, enum kvs_study_method method, uint64_t seed, enum kvs_study_fit fit, int cut)
{
	struct study_row row = {.method = method, .fit = fit, .seed = seed, .cut = cut};

	for (size_t i = 0; i < study->row_count; i++)
		if (!by_place(&study->rows[i], &row))
			return &study->rows[i];
	if (study->row_count == study->row_room) {
		size_t room = study->row_room ? 2 * study->row_room : 32;
		struct study_row *larger = realloc(study->rows, sizeof(*larger) * room);
		if (!larger)
			return NULL;
		study->rows = larger;
		study->row_room = room;
	}
	study->rows[study->row_count] = row;
	return &study->rows[study->row_count++];
}

const struct study_row *study_alone(const struct kvs_study *study, const struct study_row *row)
{
	struct study_row alone = {.method = row->method, .seed = row->seed, .cut = row->cut};

	for (size_t i = 0; i < study->row_count; i++)
		if (!by_place(&study->rows[i], &alone))
			return &study->rows[i];
	return NULL;
}

static int add_rows(struct kvs_study *study, enum kvs_study_method method, uint64_t seed, unsigned fits, int cut)
{
	for (int fit = 0; fit < KVS_STUDY_FITS; fit++)
		if ((fit == KVS_STUDY_ALONE || fits >> fit & 1) && study_fits(study, method, fit, cut) &&
			!study_row(study, method, seed, fit, cut))
			return kvs_fail(-ENOMEM, "no memory for a study");
	return 0;
}

static int list_rows(struct kvs_study *study, unsigned methods, unsigned fits, int seeds)
{
	int err = 0;

	for (int cut = 0; cut < study->cut_count; cut++) {
		for (int method = 0; method < KVS_STUDY_METHODS; method++) {
			bool random = study_is_random(method);
			if (!(methods >> method & 1) || study->cuts[cut].missing ||
				(cut && !(study->varied >> method & 1)))
				continue;
			for (int seed = random ? 1 : 0; seed <= (random ? seeds : 0) && !err; seed++)
				err = add_rows(study, method, seed, fits, cut);
		}
	}
	return err;
}

/* ---- texts ---- */

/*
 * A third and five thirds of the text are tried only if there is as much: a smaller amount under their name would
 * mislead. The first cut must succeed, and those of the other texts too, since they were given to be cut.
 */
static int cut_one(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options,
	struct kvs_calib_text_options how, int source)
{
	struct study_cut *cut = &study->cuts[study->cut_count++];
	const struct kvs_calib_text *first = &study->cuts[0].text;
	bool varied = source == 0 && cut != study->cuts;
	int err;

	*cut = (struct study_cut){.source = source, .samples = how.samples};
	how.need_held = true;
	err = kvs_calib_text_cut(tok, options->calib[source].bytes, options->calib[source].count, &how, &cut->text);
	if (!err && varied && how.samples > first->samples &&
		cut->text.windows * cut->text.window_tokens <= first->windows * first->window_tokens)
		err = kvs_fail(-EINVAL, "%d tokens are left after %d samples, no more than after fewer",
			cut->text.windows * cut->text.window_tokens, how.samples);
	if (!err && varied && how.samples == first->samples)
		err = kvs_fail(-EINVAL, "a third of the samples is not fewer");
	if (!err || !varied || err != -EINVAL)
		return err ? kvs_fail(err, "%s: %s", options->calib[source].name, kvs_error()) : 0;
	kvs_calib_text_clear(&cut->text);
	cut->missing = strdup(kvs_error());
	return cut->missing ? 0 : kvs_fail(-ENOMEM, "no memory for a study");
}

static int check_sources(const struct kvs_study *study, const struct kvs_study_options *options)
{
	for (int i = 0; i < study->cut_count; i++) {
		const struct study_cut *cut = &study->cuts[i];
		if (!cut->missing && !strcmp(cut->text.digest, study->measured.digest))
			return kvs_fail(-EINVAL,
				"%s is both searched and measured on: plans would be measured on the text that they "
				"were made for",
				options->calib[cut->source].name);
		for (int j = 0; j < i && cut->source; j++)
			if (cut->source != study->cuts[j].source &&
				!strcmp(cut->text.digest, study->cuts[j].text.digest))
				return kvs_fail(-EINVAL, "%s is the same text as %s", options->calib[cut->source].name,
					options->calib[study->cuts[j].source].name);
	}
	return 0;
}

static int cut_texts(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options)
{
	static const int thirds[STUDY_AMOUNTS] = {3, 1, 5};
	int samples = options->cut.samples ? options->cut.samples : DEFAULT_SAMPLES, held, err = 0;

	for (int i = 0; i < STUDY_AMOUNTS && !err; i++) {
		struct kvs_calib_text_options how = options->cut;
		held = i ? study->cuts[0].text.windows * study->cuts[0].text.window_tokens : 0;
		how.samples = (thirds[i] * samples + 2) / 3;
		how.held_tokens = i ? (thirds[i] * held + 2) / 3 : how.held_tokens;
		err = cut_one(study, tok, options, how, 0);
	}
	for (int source = 1; source < options->calib_count && !err; source++) {
		struct kvs_calib_text_options how = options->cut;
		how.samples = samples;
		err = cut_one(study, tok, options, how, source);
	}
	if (err)
		return err;
	err = kvs_calib_windows_cut(tok, options->text.bytes, options->text.count,
		options->text_tokens ? options->text_tokens : STUDY_TEXT_TOKENS, options->cut.window_tokens,
		&study->measured);
	err = err ? kvs_fail(err, "%s: %s", options->text.name, kvs_error()) : check_sources(study, options);
	return err ? err : study_cut_also(study, tok, options);
}

/* The samples of the fits on a cut, where they are not the search's: of amounts of the first text a third and five thirds of them. */
static int cut_for_fit(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_config *config,
	const struct kvs_study_options *options, struct study_cut *cut)
{
	const struct kvs_source *source = &options->calib[cut->source];
	int asked = options->cut.samples ? options->cut.samples : DEFAULT_SAMPLES;
	struct kvs_fit_samples fit = {
		(int)fmax(2, round((double)study->fit.count * cut->samples / asked)), study->fit.tokens};

	if (!study->fit.count)
		return 0;
	return kvs_compensate_cut(tok, config, source->bytes, source->count, &options->cut, fit, &cut->fit_text);
}

/*
 * Whether matrices can be fitted on each cut. If they were asked for, the text must do as it was asked for; a third and
 * five thirds of it are extra.
 */
static int check_fits(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_config *config,
	const struct kvs_study_options *options)
{
	for (int i = 0; i < study->cut_count; i++) {
		struct kvs_compensate_options fit = {.linear = i == 0 && options->fits >> KVS_STUDY_FIT_LINEAR & 1};
		struct study_cut *cut = &study->cuts[i];
		int err = cut->missing ? 0 : cut_for_fit(study, tok, config, options, cut);
		if (!err && !cut->missing)
			err = kvs_compensate_check(config, study_fit_text(cut), &fit);
		if (err && options->fits && (i == 0 || cut->source))
			return kvs_fail(err, "%s: %s", options->calib[cut->source].name, kvs_error());
		cut->unfit = err ? strdup(kvs_error()) : NULL;
		if (err && !cut->unfit)
			return kvs_fail(-ENOMEM, "no memory for a study");
	}
	return 0;
}

/*
 * Whether `refit` can search where it should. If it was named, the text must do as it was asked for; a third and five thirds of it are
 * extra, and so is all of it where the method comes with matrices.
 */
static int check_pairs(struct kvs_study *study, const struct kvs_study_options *options)
{
	unsigned refit = 1u << KVS_STUDY_REFIT;

	if (!(kvs_study_methods(options) & refit))
		return 0;
	for (int i = 0; i < study->cut_count; i++) {
		struct study_cut *cut = &study->cuts[i];
		int err = cut->missing || (i && !(study->varied & refit)) ? 0 : calib_pairs_check(&cut->text);
		if (err && options->methods && (i == 0 || cut->source))
			return kvs_fail(err, "%s: %s", options->calib[cut->source].name, kvs_error());
		cut->unpaired = err ? strdup(kvs_error()) : NULL;
		if (err && !cut->unpaired)
			return kvs_fail(-ENOMEM, "no memory for a study");
	}
	return kvs_compensate_check_weights(study->ckpt);
}

/* ---- making one ---- */

static void add_share(struct kvs_study *study, int share)
{
	int at = study->share_count;

	while (at > 0 && study->shares[at - 1] > share)
		at--;
	if (at > 0 && study->shares[at - 1] == share)
		return; /* with few layers, two rates may be one number */
	memmove(study->shares + at + 1, study->shares + at, sizeof(*study->shares) * (study->share_count - at));
	study->shares[at] = share;
	study->share_count++;
}

static int set_shares(struct kvs_study *study, const struct kvs_study_options *options, const struct kvs_config *config)
{
	static const double paper[] = {0.125, 0.25, 0.375};
	const double *rates = options->rate_count ? options->rates : paper;
	int count = options->rate_count ? options->rate_count : 3, err = 0;

	for (int i = 0; i < count && !err; i++) {
		struct kvs_search_options search = {
			.share = (int)lround(rates[i] * config->layers), .threshold = options->threshold};
		if (search.share < 1 && !options->rate_count)
			search.share = 1;
		if (search.share < 1 && config->layers > 1)
			return kvs_fail(
				-EINVAL, "a rate of %g of %d layers is less than one layer", rates[i], config->layers);
		err = kvs_search_check(&search, config);
		if (!err)
			add_share(study, search.share);
	}
	return err;
}

int kvs_study_create(
	const kvs_checkpoint *ckpt, const kvs_tokenizer *tok, const struct kvs_study_options *options, kvs_study **out)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	kvs_study *study = calloc(1, sizeof(*study));
	unsigned methods = kvs_study_methods(options);
	int err = study ? 0 : kvs_fail(-ENOMEM, "no memory for a study");

	if (err)
		return err;
	if (options->fits && methods == 1u << KVS_STUDY_MERGE)
		err = kvs_fail(-EINVAL, "matrices are refitted for plans, and merge makes none: name other methods");
	if (!err && options->fits == 1u << KVS_STUDY_FIT_LINEAR && !any_linear(methods))
		err = kvs_fail(-EINVAL,
			"linear takes attention from layers whose K and V both have one owner: name other methods than "
			"merge and those that split");
	study->ckpt = ckpt;
	study->tok = tok;
	study->cu = options->cu;
	study->layers = config->layers;
	study->kv_heads = config->kv_heads;
	study->head_dim = config->head_dim;
	study->engine = options->engine;
	study->threshold = options->threshold;
	study->varied = options->varied;
	study->fit = options->fit;
	study->full_nll = study->held_nll = NAN;
	if (!err)
		err = set_shares(study, options, config);
	if (!err)
		err = cut_texts(study, tok, options);
	if (!err)
		err = check_fits(study, tok, config, options);
	if (!err)
		err = check_pairs(study, options);
	if (!err)
		err = study_take_prompt(study, options);
	if (!err)
		err = study_take_given(study, options);
	if (!err)
		err = study_describe(study, ckpt, options);
	if (!err)
		err = list_rows(study, methods, options->fits, options->seeds ? options->seeds : DEFAULT_SEEDS);
	if (!err)
		err = study_take_trials(study, options);
	if (err) {
		kvs_study_free(study);
		return err;
	}
	*out = study;
	return 0;
}

void kvs_study_free(kvs_study *study)
{
	if (!study)
		return;
	for (size_t i = 0; i < study->row_count; i++) {
		for (int p = 0; p < KVS_STUDY_MOST_RATES; p++) {
			free(study->rows[i].points[p].owners);
			free(study->rows[i].points[p].sample);
		}
		free(study->rows[i].replay);
	}
	for (int i = 0; i < study->cut_count; i++) {
		kvs_calib_text_clear(&study->cuts[i].text);
		kvs_calib_text_clear(&study->cuts[i].fit_text);
		free(study->cuts[i].missing);
		free(study->cuts[i].unfit);
		free(study->cuts[i].unpaired);
	}
	kvs_calib_text_clear(&study->measured);
	study_free_also(study);
	study_free_prompt(study);
	study_free_given(study);
	free(study->rows);
	json_decref(study->settings);
	free(study);
}

int kvs_study_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const kvs_study *study, kvs_engine **out)
{
	struct kvs_calib_text texts[2 * STUDY_CUTS + 1 + STUDY_ALSO + 1];
	int count = 0;

	for (int i = 0; i < study->cut_count; i++) {
		texts[count++] = study->cuts[i].text;
		texts[count++] = *study_fit_text(&study->cuts[i]);
	}
	texts[count++] = study->measured;
	for (int i = 0; i < study->also_count; i++)
		texts[count++] = study->also[i].text;
	if (study->prompt.text)
		texts[count++] = (struct kvs_calib_text){
			.windows = 1, .window_tokens = (int)study->prompt.count + study->prompt.tokens};
	return kvs_calib_open_engine(cu, ckpt, &study->engine, texts, count, out);
}

size_t kvs_study_left(const kvs_study *study, size_t *rows)
{
	size_t left = 0;

	for (size_t i = 0; i < study->row_count; i++)
		left += !study->rows[i].done;
	for (int i = 0; i < study->given_count; i++)
		left += !study->given[i].done;
	*rows = study->row_count + study->given_count;
	return left;
}

/* ---- results ---- */

/* A borrowed tensor takes nothing. Merged ones keep one direction for two vectors, and a length for each. */
size_t study_token_bytes(const struct kvs_study *study, int tensors, bool merged)
{
	struct kvs_kv_format kv = {study->engine.kv_dtype, study->kv_heads, study->head_dim};
	struct kvs_kv_format lengths = {
		study->engine.kv_dtype, study->kv_heads, 1}; /* of two, for each merged vector */
	size_t kept = kvs_kv_token_bytes(kv) * (2 * study->layers - tensors);

	return kept + (merged ? 2 * kvs_kv_token_bytes(lengths) * tensors : 0);
}

bool study_has_fit(const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut)
{
	for (size_t i = 0; i < study->row_count; i++)
		if (study->rows[i].done && study->rows[i].method == method && study->rows[i].fit == fit &&
			study->rows[i].cut == cut)
			return true;
	return false;
}

bool study_has(const struct kvs_study *study, enum kvs_study_method method, int cut)
{
	return study_has_fit(study, method, KVS_STUDY_ALONE, cut);
}

bool study_is_compensated(const struct kvs_study *study, enum kvs_study_method method)
{
	for (int fit = KVS_STUDY_ALONE + 1; fit < KVS_STUDY_FITS; fit++)
		if (study_has_fit(study, method, fit, 0))
			return true;
	return false;
}

bool study_has_fits(const struct kvs_study *study)
{
	for (size_t i = 0; i < study->row_count; i++)
		if (study->rows[i].fit != KVS_STUDY_ALONE)
			return true;
	return false;
}

struct study_mean study_mean_of(
	const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut, int share)
{
	struct study_mean mean = {.least = INFINITY, .most = -INFINITY};
	double squares = 0;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		const struct study_point *point = &row->points[share];
		if (!row->done || row->method != method || row->fit != fit || row->cut != cut)
			continue;
		mean.rows++;
		if (!point->owners)
			continue;
		mean.count++;
		mean.nll += point->quality.nll;
		squares += point->quality.nll * point->quality.nll;
		mean.top1_agreement += point->quality.top1_agreement;
		mean.kl += point->quality.kl;
		mean.cpu_s += point->fit.cpu_s;
		mean.applied += point->fit.applied;
		mean.least = fmin(mean.least, point->quality.nll);
		mean.most = fmax(mean.most, point->quality.nll);
		mean.token_bytes = point->token_bytes;
	}
	if (!mean.count)
		return (struct study_mean){0, mean.rows, NAN, NAN, NAN, NAN, NAN, NAN, 0, NAN, 0};
	mean.nll /= mean.count;
	mean.top1_agreement /= mean.count;
	mean.kl /= mean.count;
	mean.cpu_s /= mean.count;
	if (mean.count > 1)
		mean.deviation = sqrt(fmax(0, squares - mean.count * mean.nll * mean.nll) / (mean.count - 1));
	return mean;
}

int study_series(const struct kvs_study *study, bool by_source, int cuts[STUDY_CUTS])
{
	int count = 0;

	for (int c = 0; c < study->cut_count; c++) {
		const struct study_cut *cut = &study->cuts[c];
		int at = count;
		if (cut->missing || (by_source ? c > 0 && cut->source == 0 : cut->source > 0))
			continue;
		while (!by_source && at > 0 && study->cuts[cuts[at - 1]].samples > cut->samples)
			at--;
		memmove(cuts + at + 1, cuts + at, sizeof(*cuts) * (count - at));
		cuts[at] = c;
		count++;
	}
	return count;
}

bool study_compares(const struct kvs_study *study, enum kvs_study_fit fit, bool by_source)
{
	int cuts[STUDY_CUTS], count = study_series(study, by_source, cuts);

	for (int i = 0; i < count; i++)
		for (int m = 0; m < KVS_STUDY_METHODS; m++)
			if (cuts[i] && study_has_fit(study, m, fit, cuts[i]))
				return true;
	return false;
}
