/*
 * calib/study.c: many ways to share, each searched on one text and measured on another.
 *
 * A study is a list of rows, and a row is a method with a seed on one cut of the calibration text. One search gives a row's
 * plans for every number of layers, as each walk to more layers passes through the fewer. A row that is done is written down
 * at once, and nothing in it depends on when it was run: so a study can stop between any two rows.
 */
#include "study.h"

#include "search.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SAMPLES 30
#define DEFAULT_SEEDS 5
#define DEFAULT_TEXT_TOKENS 2048

static const char *const method_names[KVS_STUDY_METHODS] = {
	"dissimilar", "similar", "random", "threshold", "adjacent", "merge", "nll", "dissimilar-split", "nll-split"};

const char *kvs_study_method_name(enum kvs_study_method method)
{
	return method_names[method];
}

/* ---- what is to be done ---- */

static int by_place(const void *a, const void *b)
{
	const struct kvs_study_row *x = a, *y = b;

	if (x->text != y->text)
		return x->text < y->text ? -1 : 1;
	if (x->method != y->method)
		return x->method < y->method ? -1 : 1;
	return (x->seed > y->seed) - (x->seed < y->seed);
}

struct kvs_study_row *kvs_study_row(struct kvs_study *study, enum kvs_study_method method, uint64_t seed, int text)
{
	struct kvs_study_row row = {.method = method, .seed = seed, .text = text};

	for (size_t i = 0; i < study->row_count; i++)
		if (!by_place(&study->rows[i], &row))
			return &study->rows[i];
	if (study->row_count == study->row_room) {
		size_t room = study->row_room ? 2 * study->row_room : 32;
		struct kvs_study_row *larger = realloc(study->rows, sizeof(*larger) * room);
		if (!larger)
			return NULL;
		study->rows = larger;
		study->row_room = room;
	}
	study->rows[study->row_count] = row;
	return &study->rows[study->row_count++];
}

static bool is_random(enum kvs_study_method method)
{
	return method == KVS_STUDY_RANDOM || method == KVS_STUDY_THRESHOLD;
}

/* Samples are nothing to nll, which looks at the text behind them: that is another part of the text, not more of it. */
bool kvs_study_varies(enum kvs_study_method method, bool by_part)
{
	return method == KVS_STUDY_DISSIMILAR || method == KVS_STUDY_SIMILAR || (by_part && method == KVS_STUDY_NLL);
}

static int list_rows(struct kvs_study *study, unsigned methods, int seeds)
{
	for (int text = 0; text < KVS_STUDY_TEXTS; text++) {
		for (int method = 0; method < KVS_STUDY_METHODS; method++) {
			if (!(methods >> method & 1) || study->texts[text].missing ||
				(text && !kvs_study_varies(method, study->texts[text].part > 0)))
				continue;
			for (int seed = is_random(method) ? 1 : 0; seed <= (is_random(method) ? seeds : 0); seed++)
				if (!kvs_study_row(study, method, seed, text))
					return kvs_fail(-ENOMEM, "no memory for a study");
		}
	}
	return 0;
}

/* ---- texts ---- */

/* Where part `part` begins: at a line, so that no word is torn; at the end where there is none. */
static size_t part_start(const char *text, size_t bytes, int part)
{
	size_t at = bytes / KVS_STUDY_PARTS * part;
	const char *newline = part ? memchr(text + at, '\n', bytes - at) : NULL;

	return !part ? 0 : newline ? (size_t)(newline - text) + 1 : bytes;
}

/* Only the first cut must succeed: what the others lack is written down. */
static int cut_text(
	struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options, int index)
{
	struct kvs_study_text *text = &study->texts[index];
	struct kvs_text_options cut = options->cut;
	size_t start = part_start(options->calib, options->calib_bytes, text->part);
	int err;

	if (index && !text->part && text->samples == study->texts[0].samples) {
		text->missing = strdup("a third of the samples is not fewer");
		return text->missing ? 0 : kvs_fail(-ENOMEM, "no memory for a study");
	}
	cut.samples = text->samples;
	cut.need_held = true;
	err = kvs_calib_text_cut(tok, options->calib + start, options->calib_bytes - start, &cut, &text->cut);
	if (err != -EINVAL || index == 0)
		return err;
	text->missing = strdup(kvs_error());
	return text->missing ? 0 : kvs_fail(-ENOMEM, "no memory for a study");
}

static int cut_texts(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options)
{
	int samples = options->cut.samples ? options->cut.samples : DEFAULT_SAMPLES, err = 0;
	const struct kvs_study_text ways[KVS_STUDY_TEXTS] = {{.samples = samples}, {.samples = (samples + 2) / 3},
		{.samples = (5 * samples + 2) / 3}, {.samples = samples, .part = 1}, {.samples = samples, .part = 2}};

	for (int i = 0; i < KVS_STUDY_TEXTS && !err; i++) {
		study->texts[i] = ways[i];
		err = cut_text(study, tok, options, i);
	}
	if (err)
		return err;
	return kvs_calib_windows_cut(tok, options->text, options->text_bytes,
		options->text_tokens ? options->text_tokens : DEFAULT_TEXT_TOKENS, options->cut.window_tokens,
		&study->measured);
}

/* ---- making one ---- */

static int set_shares(struct kvs_study *study, const struct kvs_study_options *options, const struct kvs_config *config)
{
	static const double paper[] = {0.125, 0.25, 0.375};
	const double *rates = options->rate_count ? options->rates : paper;
	int count = options->rate_count ? options->rate_count : 3;

	for (int i = 0; i < count; i++) {
		int share = (int)lround(rates[i] * config->layers), at = study->share_count;
		struct kvs_search_options search = {.share = share, .threshold = options->threshold};
		int err = kvs_search_check(&search, config);
		if (share < 1 && config->layers > 1)
			return kvs_fail(
				-EINVAL, "a rate of %g of %d layers is less than one layer", rates[i], config->layers);
		if (err)
			return err;
		while (at > 0 && study->shares[at - 1] > share)
			at--;
		if (at > 0 && study->shares[at - 1] == share)
			continue; /* of few layers, two rates may be one number */
		memmove(study->shares + at + 1, study->shares + at, sizeof(*study->shares) * (study->share_count - at));
		study->shares[at] = share;
		study->share_count++;
	}
	return 0;
}

int kvs_study_create(
	const kvs_checkpoint *ckpt, const kvs_tokenizer *tok, const struct kvs_study_options *options, kvs_study **out)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	kvs_study *study = calloc(1, sizeof(*study));
	unsigned methods = options->methods ? options->methods : (1u << KVS_STUDY_METHODS) - 1;
	int err = study ? 0 : kvs_fail(-ENOMEM, "no memory for a study");

	if (err)
		return err;
	study->layers = config->layers;
	study->kv_heads = config->kv_heads;
	study->head_dim = config->head_dim;
	study->kv_dtype = options->kv_dtype;
	study->threshold = options->threshold;
	study->full_nll = NAN;
	err = set_shares(study, options, config);
	if (!err)
		err = cut_texts(study, tok, options);
	if (!err)
		err = kvs_study_describe(study, ckpt, options);
	if (!err)
		err = list_rows(study, methods, options->seeds ? options->seeds : DEFAULT_SEEDS);
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
	for (size_t i = 0; i < study->row_count; i++)
		for (int p = 0; p < KVS_STUDY_MOST_RATES; p++)
			free(study->rows[i].points[p].owners);
	for (int i = 0; i < KVS_STUDY_TEXTS; i++) {
		kvs_calib_text_clear(&study->texts[i].cut);
		free(study->texts[i].missing);
	}
	kvs_calib_text_clear(&study->measured);
	free(study->rows);
	json_decref(study->settings);
	free(study);
}

int kvs_study_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const kvs_study *study,
	const struct kvs_engine_options *base, kvs_engine **out)
{
	struct kvs_calib_text texts[KVS_STUDY_TEXTS + 1];

	for (int i = 0; i < KVS_STUDY_TEXTS; i++)
		texts[i] = study->texts[i].cut;
	texts[KVS_STUDY_TEXTS] = study->measured;
	return kvs_calib_open_engine(cu, ckpt, base, texts, KVS_STUDY_TEXTS + 1, out);
}

size_t kvs_study_left(const kvs_study *study, size_t *rows)
{
	size_t left = 0;

	for (size_t i = 0; i < study->row_count; i++)
		left += !study->rows[i].done;
	*rows = study->row_count;
	return left;
}

/* ---- running: what it holds meanwhile ---- */

struct run {
	struct kvs_study *study;
	kvs_engine *engine;
	const struct kvs_calib_progress *progress;
	kvs_reference *reference;
	struct kvs_capture capture;
	int captured; /* which text; -1: none */
	struct kvs_study_row *row;
	char label[32];             /* of the row */
	double done, in_row, total; /* model passes, counted in tokens: an estimate, for the bar */
};

static bool tell(struct run *run)
{
	const struct kvs_calib_progress *progress = run->progress;

	return !progress || !progress->step ||
	       progress->step(progress->arg, run->label, (size_t)(run->done + run->in_row), (size_t)run->total);
}

/* Tokens that go through the model for a search, about. */
static double search_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	const struct kvs_calib_text *text = &study->texts[row->text].cut;
	double most = study->shares[study->share_count - 1], pairs = study->layers * (study->layers - 1) / 2.0;
	double walk = most * text->samples * text->sample_tokens, nll = pairs * text->windows * text->window_tokens / 2;

	switch (row->method) {
	case KVS_STUDY_RANDOM:
	case KVS_STUDY_ADJACENT:
	case KVS_STUDY_MERGE:
		return 0;
	case KVS_STUDY_NLL:
		return nll;
	case KVS_STUDY_NLL_SPLIT:
		return 2 * nll;
	case KVS_STUDY_DISSIMILAR_SPLIT:
		return 2 * walk;
	default:
		return walk;
	}
}

static double measure_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	double tokens = (double)study->measured.windows * study->measured.window_tokens;

	return tokens * (row->method == KVS_STUDY_MERGE ? 6 : 1); /* merging decodes token by token */
}

static double row_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	return search_cost(study, row) + study->share_count * measure_cost(study, row);
}

/* ---- one row: plans ---- */

static int set_owners(struct kvs_study_point *point, int layers, const int *k, const int *v)
{
	point->owners = malloc(sizeof(*point->owners) * 2 * layers);
	if (!point->owners)
		return kvs_fail(-ENOMEM, "no memory for a plan of %d layers", layers);
	memcpy(point->owners, k, sizeof(*k) * layers);
	memcpy(point->owners + layers, v, sizeof(*v) * layers);
	return 0;
}

/* Applies pairs one by one and keeps what there is whenever a wanted number of layers shares. */
struct collector {
	struct kvs_maps maps, next;
	int at; /* point that comes next */
};

static int collect(struct run *run, struct collector *c, const struct kvs_pair *pair)
{
	const struct kvs_study *study = run->study;
	int err = 0;

	if (c->at == study->share_count)
		return 0;
	kvs_maps_apply(&c->maps, pair, &c->next);
	kvs_maps_swap(&c->maps, &c->next);
	run->row->points[c->at].tensors = c->maps.tensors;
	if (c->maps.tensors == 2 * study->shares[c->at])
		err = set_owners(&run->row->points[c->at++], study->layers, c->maps.k, c->maps.v);
	return err;
}

static int collector_open(struct collector *c, int layers)
{
	int err = kvs_maps_create(layers, &c->maps);

	c->at = 0;
	return err ? err : kvs_maps_create(layers, &c->next);
}

static void collector_close(struct run *run, struct collector *c)
{
	for (int p = c->at + 1; p < run->study->share_count; p++)
		run->row->points[p].tensors = c->maps.tensors; /* as far as it came */
	kvs_maps_clear(&c->maps);
	kvs_maps_clear(&c->next);
}

static bool watch_search(void *arg, const char *what, size_t done, size_t total)
{
	struct run *run = arg;

	(void)what;
	run->in_row = fmax(run->in_row, total ? search_cost(run->study, run->row) * done / total : 0);
	return tell(run);
}

static struct kvs_search_options search_options(struct run *run)
{
	const struct kvs_study_row *row = run->row;
	enum kvs_study_method method = row->method;

	return (struct kvs_search_options){.method = method == KVS_STUDY_NLL || method == KVS_STUDY_NLL_SPLIT
							     ? KVS_METHOD_NLL
							     : KVS_METHOD_KVSHARER,
		.share = run->study->shares[run->study->share_count - 1],
		.pairs = {.order = is_random(method)             ? KVS_ORDER_RANDOM
				   : method == KVS_STUDY_SIMILAR ? KVS_ORDER_SIMILAR
								 : KVS_ORDER_DISSIMILAR,
			.seed = row->seed,
			.split = method == KVS_STUDY_DISSIMILAR_SPLIT || method == KVS_STUDY_NLL_SPLIT},
		.threshold = run->study->threshold,
		.progress = {watch_search, run}};
}

static int search_plans(struct run *run, struct collector *collector)
{
	struct kvs_search_options options = search_options(run);
	struct kvs_search_result result;
	int err = kvs_search_run(run->engine, &run->study->texts[run->row->text].cut, &run->capture, &options, &result);

	if (err)
		return err;
	if (result.end == KVS_SEARCH_STOPPED)
		err = kvs_fail(-ECANCELED, "stopped");
	for (size_t i = 0; i < result.trial_count && !err; i++) {
		const struct kvs_trial *trial = &result.trials[i];
		struct kvs_pair pair = {trial->what, trial->layer, trial->owner, trial->distance};
		if (trial->accepted)
			err = collect(run, collector, &pair);
	}
	kvs_search_result_clear(&result);
	return err;
}

static int draw_plans(struct run *run, struct collector *collector)
{
	struct kvs_search_options options = search_options(run);
	struct kvs_pair *pairs;
	size_t count;
	int err = kvs_pairs_list(&run->capture, kvs_engine_config(run->engine), &options.pairs, &pairs, &count);

	if (err)
		return err;
	for (size_t i = 0; i < count && !err; i++)
		if (!kvs_maps_borrows(&collector->maps, &pairs[i]))
			err = collect(run, collector, &pairs[i]);
	free(pairs);
	return err;
}

static int neighbour_plans(struct run *run)
{
	const struct kvs_study *study = run->study;
	const struct kvs_config *config = kvs_engine_config(run->engine);
	int *owners = malloc(sizeof(*owners) * study->layers);
	int err = owners ? 0 : kvs_fail(-ENOMEM, "no memory for a plan of %d layers", study->layers);

	for (int p = 0; p < study->share_count && !err; p++) {
		struct kvs_study_point *point = &run->row->points[p];
		int share = study->shares[p];
		err = run->row->method == KVS_STUDY_MERGE ? kvs_neighbours_similar(&run->capture, config, share, owners)
							  : kvs_neighbours_spread(config, share, owners);
		point->tensors = err ? 0 : 2 * share;
		err = err == -ERANGE ? 0 : err ? err : set_owners(point, study->layers, owners, owners);
	}
	free(owners);
	return err;
}

static int find_plans(struct run *run)
{
	enum kvs_study_method method = run->row->method;
	struct collector collector = {0};
	int err;

	if (method == KVS_STUDY_ADJACENT || method == KVS_STUDY_MERGE)
		return neighbour_plans(run);
	err = collector_open(&collector, run->study->layers);
	if (!err)
		err = method == KVS_STUDY_RANDOM ? draw_plans(run, &collector) : search_plans(run, &collector);
	collector_close(run, &collector);
	return err;
}

/* ---- one row: measures ---- */

/* What the unshared model needs for a token in a sharing layer is gone; merged layers keep a length each for their vectors. */
size_t kvs_study_token_bytes(const struct kvs_study *study, int tensors, bool merged)
{
	size_t element = kvs_dtype_bytes(study->kv_dtype), vectors = (size_t)study->kv_heads * element;
	size_t kept = vectors * study->head_dim * (2 * study->layers - tensors);

	return kept + (merged ? 2 * vectors * tensors : 0);
}

/* Two rows may come to one plan: it is measured once. */
static const struct kvs_quality *measured_before(const struct run *run, const struct kvs_study_point *point)
{
	const struct kvs_study *study = run->study;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct kvs_study_row *row = &study->rows[i];
		for (int p = 0; p < study->share_count && row->done && row->method != KVS_STUDY_MERGE; p++)
			if (row->points[p].owners &&
				!memcmp(row->points[p].owners, point->owners, sizeof(int) * 2 * study->layers))
				return &row->points[p].quality;
	}
	return NULL;
}

static int measure_plan(struct run *run, struct kvs_study_point *point)
{
	const struct kvs_quality *before = measured_before(run, point);
	kvs_plan *plan;
	int err;

	if (before) {
		point->quality = *before;
		return 0;
	}
	err = kvs_plan_create(run->study->layers, point->owners, point->owners + run->study->layers, &plan);
	if (err)
		return err;
	err = kvs_measure_quality(run->engine, &run->study->measured, run->reference, plan, &point->quality);
	kvs_plan_free(plan);
	return err;
}

static int measure_row(struct run *run)
{
	bool merged = run->row->method == KVS_STUDY_MERGE;
	int err = 0;

	for (int p = 0; p < run->study->share_count && !err; p++) {
		struct kvs_study_point *point = &run->row->points[p];
		run->in_row = search_cost(run->study, run->row) + p * measure_cost(run->study, run->row);
		point->token_bytes = kvs_study_token_bytes(run->study, point->tensors, merged);
		if (!point->owners)
			continue;
		if (!tell(run))
			err = kvs_fail(-ECANCELED, "stopped");
		else if (merged)
			err = kvs_measure_merged(
				run->engine, &run->study->measured, run->reference, point->owners, &point->quality);
		else
			err = measure_plan(run, point);
	}
	return err;
}

/* ---- all rows ---- */

static int capture_text(struct run *run, int text)
{
	int err;

	if (run->captured == text)
		return 0;
	kvs_capture_clear(&run->capture);
	run->captured = -1;
	err = kvs_capture_run(run->engine, &run->study->texts[text].cut, NULL, &run->capture);
	if (!err)
		run->captured = text;
	return err;
}

/* A row that fails half way is as if it had not begun. */
static void forget_row(struct kvs_study_row *row)
{
	for (int p = 0; p < KVS_STUDY_MOST_RATES; p++)
		free(row->points[p].owners);
	memset(row->points, 0, sizeof(row->points));
}

static int run_row(struct run *run)
{
	struct kvs_study_row *row = run->row;
	int err = 0;

	if (row->seed)
		snprintf(run->label, sizeof(run->label), "%s:%llu", method_names[row->method],
			(unsigned long long)row->seed);
	else
		snprintf(run->label, sizeof(run->label), "%s", method_names[row->method]);
	run->in_row = 0;
	if (!tell(run))
		err = kvs_fail(-ECANCELED, "stopped");
	if (!err && row->method != KVS_STUDY_ADJACENT)
		err = capture_text(run, row->text);
	if (!err)
		err = find_plans(run);
	if (!err)
		err = measure_row(run);
	if (err)
		forget_row(row);
	row->done = !err;
	run->done += row_cost(run->study, row);
	return err;
}

static int run_rows(struct run *run, const char *path)
{
	struct kvs_study *study = run->study;
	int err = kvs_reference_create(run->engine, &study->measured, &run->reference);

	if (err)
		return err;
	study->full_nll = kvs_reference_nll(run->reference);
	for (size_t i = 0; i < study->row_count && !err; i++) {
		run->row = &study->rows[i];
		if (run->row->done)
			continue;
		err = run_row(run);
		if (!err)
			err = kvs_study_save(study, path);
	}
	kvs_capture_clear(&run->capture);
	kvs_reference_free(run->reference);
	return err;
}

int kvs_study_run(kvs_study *study, kvs_engine *engine, const char *path, const struct kvs_calib_progress *progress)
{
	struct run run = {.study = study, .engine = engine, .progress = progress, .captured = -1};

	qsort(study->rows, study->row_count, sizeof(*study->rows), by_place);
	for (size_t i = 0; i < study->row_count; i++)
		run.total += study->rows[i].done ? 0 : row_cost(study, &study->rows[i]);
	return run.total > 0 || isnan(study->full_nll) ? run_rows(&run, path) : 0;
}

/* ---- what was found ---- */

bool kvs_study_has(const struct kvs_study *study, enum kvs_study_method method, int text)
{
	for (size_t i = 0; i < study->row_count; i++)
		if (study->rows[i].done && study->rows[i].method == method && study->rows[i].text == text)
			return true;
	return false;
}

struct kvs_study_mean kvs_study_mean(const struct kvs_study *study, enum kvs_study_method method, int text, int share)
{
	struct kvs_study_mean mean = {.least = INFINITY, .most = -INFINITY};
	double squares = 0;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct kvs_study_row *row = &study->rows[i];
		const struct kvs_study_point *point = &row->points[share];
		if (!row->done || row->method != method || row->text != text || !point->owners)
			continue;
		mean.count++;
		mean.nll += point->quality.nll;
		squares += point->quality.nll * point->quality.nll;
		mean.top1_agreement += point->quality.top1_agreement;
		mean.kl += point->quality.kl;
		mean.least = fmin(mean.least, point->quality.nll);
		mean.most = fmax(mean.most, point->quality.nll);
		mean.token_bytes = point->token_bytes;
	}
	if (!mean.count)
		return (struct kvs_study_mean){0, NAN, NAN, NAN, NAN, NAN, NAN, 0};
	mean.nll /= mean.count;
	mean.top1_agreement /= mean.count;
	mean.kl /= mean.count;
	if (mean.count > 1)
		mean.deviation = sqrt(fmax(0, squares - mean.count * mean.nll * mean.nll) / (mean.count - 1));
	return mean;
}
