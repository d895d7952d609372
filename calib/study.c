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

bool kvs_study_is_random(enum kvs_study_method method)
{
	return method == KVS_STUDY_RANDOM || method == KVS_STUDY_THRESHOLD;
}

bool kvs_study_runs(enum kvs_study_method method, int cut)
{
	return cut == 0 || method == KVS_STUDY_DISSIMILAR || method == KVS_STUDY_SIMILAR || method == KVS_STUDY_NLL;
}

static int by_place(const void *a, const void *b)
{
	const struct kvs_study_row *x = a, *y = b;

	if (x->cut != y->cut)
		return x->cut < y->cut ? -1 : 1;
	if (x->method != y->method)
		return x->method < y->method ? -1 : 1;
	return (x->seed > y->seed) - (x->seed < y->seed);
}

void kvs_study_sort(struct kvs_study *study)
{
	if (study->row_count)
		qsort(study->rows, study->row_count, sizeof(*study->rows), by_place);
}

struct kvs_study_row *kvs_study_row(struct kvs_study *study, enum kvs_study_method method, uint64_t seed, int cut)
{
	struct kvs_study_row row = {.method = method, .seed = seed, .cut = cut};

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

static int list_rows(struct kvs_study *study, unsigned methods, int seeds)
{
	for (int cut = 0; cut < study->cut_count; cut++) {
		for (int method = 0; method < KVS_STUDY_METHODS; method++) {
			bool random = kvs_study_is_random(method);
			if (!(methods >> method & 1) || study->cuts[cut].missing || !kvs_study_runs(method, cut))
				continue;
			for (int seed = random ? 1 : 0; seed <= (random ? seeds : 0); seed++)
				if (!kvs_study_row(study, method, seed, cut))
					return kvs_fail(-ENOMEM, "no memory for a study");
		}
	}
	return 0;
}

/* ---- texts ---- */

/* Says again what went wrong, with the text's name in front. */
static int blame(const struct kvs_source *source, int err)
{
	char *said = strdup(kvs_error());

	kvs_fail(err, "%s: %s", source->name, said ? said : "no memory");
	free(said);
	return err;
}

/*
 * A third and five thirds of the text are tried only where there is as much: less than that says nothing. The first cut
 * must succeed, and those of other texts too, since they were given for it.
 */
static int cut_one(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options,
	struct kvs_text_options how, int source)
{
	struct kvs_study_cut *cut = &study->cuts[study->cut_count++];
	const struct kvs_calib_text *first = &study->cuts[0].text;
	bool varied = source == 0 && cut != study->cuts;
	int err;

	*cut = (struct kvs_study_cut){.source = source, .samples = how.samples};
	how.need_held = true;
	err = kvs_calib_text_cut(tok, options->calib[source].bytes, options->calib[source].count, &how, &cut->text);
	if (!err && varied && how.samples > first->samples &&
		cut->text.windows * cut->text.window_tokens <= first->windows * first->window_tokens)
		err = kvs_fail(-EINVAL, "%d tokens are left behind %d samples, as many as behind fewer",
			cut->text.windows * cut->text.window_tokens, how.samples);
	if (!err && varied && how.samples == first->samples)
		err = kvs_fail(-EINVAL, "a third of the samples is not fewer");
	if (!err || !varied || err != -EINVAL)
		return err ? blame(&options->calib[source], err) : 0;
	kvs_calib_text_clear(&cut->text);
	cut->missing = strdup(kvs_error());
	return cut->missing ? 0 : kvs_fail(-ENOMEM, "no memory for a study");
}

static int check_sources(const struct kvs_study *study, const struct kvs_study_options *options)
{
	for (int i = 0; i < study->cut_count; i++) {
		const struct kvs_study_cut *cut = &study->cuts[i];
		if (!cut->missing && !strcmp(cut->text.digest, study->measured.digest))
			return kvs_fail(-EINVAL,
				"%s is searched with and measured on: plans would be measured on what they were made "
				"for",
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
	static const int thirds[KVS_STUDY_AMOUNTS] = {3, 1, 5};
	int samples = options->cut.samples ? options->cut.samples : DEFAULT_SAMPLES, held, err = 0;

	for (int i = 0; i < KVS_STUDY_AMOUNTS && !err; i++) {
		struct kvs_text_options how = options->cut;
		held = i ? study->cuts[0].text.windows * study->cuts[0].text.window_tokens : 0;
		how.samples = (thirds[i] * samples + 2) / 3;
		how.held_tokens = i ? (thirds[i] * held + 2) / 3 : how.held_tokens;
		err = cut_one(study, tok, options, how, 0);
	}
	for (int source = 1; source < options->calib_count && !err; source++) {
		struct kvs_text_options how = options->cut;
		how.samples = samples;
		err = cut_one(study, tok, options, how, source);
	}
	if (err)
		return err;
	err = kvs_calib_windows_cut(tok, options->text.bytes, options->text.count,
		options->text_tokens ? options->text_tokens : DEFAULT_TEXT_TOKENS, options->cut.window_tokens,
		&study->measured);
	return err ? blame(&options->text, err) : check_sources(study, options);
}

/* ---- making one ---- */

static void add_share(struct kvs_study *study, int share)
{
	int at = study->share_count;

	while (at > 0 && study->shares[at - 1] > share)
		at--;
	if (at > 0 && study->shares[at - 1] == share)
		return; /* of few layers, two rates may be one number */
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
	unsigned methods = options->methods ? options->methods : (1u << KVS_STUDY_METHODS) - 1;
	int err = study ? 0 : kvs_fail(-ENOMEM, "no memory for a study");

	if (err)
		return err;
	study->layers = config->layers;
	study->kv_heads = config->kv_heads;
	study->head_dim = config->head_dim;
	study->engine = options->engine;
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
	for (int i = 0; i < study->cut_count; i++) {
		kvs_calib_text_clear(&study->cuts[i].text);
		free(study->cuts[i].missing);
	}
	kvs_calib_text_clear(&study->measured);
	free(study->rows);
	json_decref(study->settings);
	free(study);
}

int kvs_study_open_engine(kvs_cu *cu, const kvs_checkpoint *ckpt, const kvs_study *study, kvs_engine **out)
{
	struct kvs_calib_text texts[KVS_STUDY_CUTS + 1];

	for (int i = 0; i < study->cut_count; i++)
		texts[i] = study->cuts[i].text;
	texts[study->cut_count] = study->measured;
	return kvs_calib_open_engine(cu, ckpt, &study->engine, texts, study->cut_count + 1, out);
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
	int captured; /* which cut; -1: none */
	struct kvs_study_row *row;
	char label[64];                  /* of the row */
	double done, total;              /* tokens that go through the model: an estimate, for the bar */
	double in_row, part;             /* of the row: what is done, and what is being done */
	struct kvs_calib_progress inner; /* what searches and measures tell */
};

static bool show(struct run *run, double part_done)
{
	const struct kvs_calib_progress *progress = run->progress;
	double done = run->done + run->in_row + part_done;

	return !progress || !progress->step ||
	       progress->step(progress->arg, run->label, (size_t)fmin(done, run->total), (size_t)run->total);
}

static bool step_inside(void *arg, const char *what, size_t done, size_t total)
{
	struct run *run = arg;

	(void)what;
	return show(run, total ? run->part * done / total : 0);
}

/* What comes next is about `cost` of the row. */
static void begin_part(struct run *run, double cost)
{
	run->part = cost;
}

static void end_part(struct run *run)
{
	run->in_row += run->part;
	run->part = 0;
}

/* Tokens that go through the model for a search, about. */
static double search_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	const struct kvs_calib_text *text = &study->cuts[row->cut].text;
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

static double measured_tokens(const struct kvs_study *study)
{
	return (double)study->measured.windows * study->measured.window_tokens;
}

static double measure_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	return measured_tokens(study) * (row->method == KVS_STUDY_MERGE ? 6 : 1); /* merging decodes token by token */
}

static double row_cost(const struct kvs_study *study, const struct kvs_study_row *row)
{
	return search_cost(study, row) + study->share_count * measure_cost(study, row);
}

/* ---- one row: plans ---- */

static int set_owners(struct kvs_study_point *point, int tensors, int layers, const int *k, const int *v)
{
	point->tensors = tensors;
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
	if (c->maps.tensors == 2 * study->shares[c->at])
		err = set_owners(&run->row->points[c->at++], c->maps.tensors, study->layers, c->maps.k, c->maps.v);
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
	for (int p = c->at; p < run->study->share_count; p++)
		run->row->points[p].tensors = c->maps.tensors; /* as far as it came */
	kvs_maps_clear(&c->maps);
	kvs_maps_clear(&c->next);
}

static struct kvs_search_options search_options(struct run *run)
{
	const struct kvs_study_row *row = run->row;
	enum kvs_study_method method = row->method;

	return (struct kvs_search_options){.method = method == KVS_STUDY_NLL || method == KVS_STUDY_NLL_SPLIT
							     ? KVS_METHOD_NLL
							     : KVS_METHOD_KVSHARER,
		.share = run->study->shares[run->study->share_count - 1],
		.pairs = {.order = kvs_study_is_random(method)   ? KVS_ORDER_RANDOM
				   : method == KVS_STUDY_SIMILAR ? KVS_ORDER_SIMILAR
								 : KVS_ORDER_DISSIMILAR,
			.seed = row->seed,
			.split = method == KVS_STUDY_DISSIMILAR_SPLIT || method == KVS_STUDY_NLL_SPLIT},
		.threshold = run->study->threshold,
		.plans_alone = true,
		.progress = run->inner};
}

static int search_plans(struct run *run, struct collector *collector)
{
	struct kvs_search_options options = search_options(run);
	struct kvs_search_result result;
	int err = kvs_search_run(run->engine, &run->study->cuts[run->row->cut].text, &run->capture, &options, &result);

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
		err = err == -ERANGE ? 0 : err ? err : set_owners(point, 2 * share, study->layers, owners, owners);
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
	size_t element = kvs_dtype_bytes(study->engine.kv_dtype), vectors = (size_t)study->kv_heads * element;
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
	err = kvs_measure_quality(
		run->engine, &run->study->measured, run->reference, plan, &run->inner, &point->quality);
	kvs_plan_free(plan);
	return err;
}

static int measure_row(struct run *run)
{
	bool merged = run->row->method == KVS_STUDY_MERGE;
	int err = 0;

	for (int p = 0; p < run->study->share_count && !err; p++) {
		struct kvs_study_point *point = &run->row->points[p];
		point->token_bytes = kvs_study_token_bytes(run->study, point->tensors, merged);
		begin_part(run, measure_cost(run->study, run->row));
		if (point->owners && merged)
			err = kvs_measure_merged(run->engine, &run->study->measured, run->reference, point->owners,
				&run->inner, &point->quality);
		else if (point->owners)
			err = measure_plan(run, point);
		end_part(run);
	}
	return err;
}

/* ---- all rows ---- */

static int capture_cut(struct run *run, int cut)
{
	int err;

	if (run->captured == cut)
		return 0;
	kvs_capture_clear(&run->capture);
	run->captured = -1;
	err = kvs_capture_run(run->engine, &run->study->cuts[cut].text, &run->inner, &run->capture);
	if (!err)
		run->captured = cut;
	return err;
}

/* A row that fails half way is as if it had not begun. */
static void forget_row(struct kvs_study_row *row)
{
	for (int p = 0; p < KVS_STUDY_MOST_RATES; p++)
		free(row->points[p].owners);
	memset(row->points, 0, sizeof(row->points));
}

/* "random:2", "nll, text 2", "similar, 50 samples". */
static void label_row(struct run *run)
{
	const struct kvs_study_row *row = run->row;
	const struct kvs_study_cut *cut = &run->study->cuts[row->cut];
	const char *name = method_names[row->method];

	if (row->seed)
		snprintf(run->label, sizeof(run->label), "%s:%llu", name, (unsigned long long)row->seed);
	else if (cut->source)
		snprintf(run->label, sizeof(run->label), "%s, text %d", name, cut->source + 1);
	else if (row->cut)
		snprintf(run->label, sizeof(run->label), "%s, %d samples", name, cut->samples);
	else
		snprintf(run->label, sizeof(run->label), "%s", name);
}

static int run_row(struct run *run)
{
	struct kvs_study_row *row = run->row;
	int err = 0;

	label_row(run);
	run->in_row = 0;
	begin_part(run, search_cost(run->study, row));
	if (!show(run, 0))
		err = kvs_fail(-ECANCELED, "stopped");
	if (!err && row->method != KVS_STUDY_ADJACENT)
		err = capture_cut(run, row->cut);
	if (!err)
		err = find_plans(run);
	end_part(run);
	if (!err)
		err = measure_row(run);
	if (err)
		forget_row(row);
	row->done = !err;
	run->done += row_cost(run->study, row);
	return err;
}

/* Rows of another run were held against what the unshared model lost then: it must be the same. */
static int take_reference(struct run *run)
{
	struct kvs_study *study = run->study;
	double then = study->full_nll, now;
	int err;

	snprintf(run->label, sizeof(run->label), "no sharing");
	begin_part(run, measured_tokens(study));
	err = kvs_reference_create(run->engine, &study->measured, &run->inner, &run->reference);
	if (err)
		return err;
	end_part(run);
	now = kvs_reference_nll(run->reference);
	if (isfinite(then) && then != now)
		return kvs_fail(-EINVAL,
			"the unshared model loses %.17g nats a token, and lost %.17g when the study began: another "
			"program or library computes otherwise: begin anew in another directory",
			now, then);
	study->full_nll = now;
	return 0;
}

static int run_rows(struct run *run, const char *path)
{
	struct kvs_study *study = run->study;
	int err = take_reference(run);

	run->done = measured_tokens(study);
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
	size_t rows;

	if (!kvs_study_left(study, &rows))
		return 0;
	run.inner = (struct kvs_calib_progress){step_inside, &run};
	run.total = measured_tokens(study);
	for (size_t i = 0; i < study->row_count; i++)
		run.total += study->rows[i].done ? 0 : row_cost(study, &study->rows[i]);
	return run_rows(&run, path);
}

/* ---- what was found ---- */

bool kvs_study_has(const struct kvs_study *study, enum kvs_study_method method, int cut)
{
	for (size_t i = 0; i < study->row_count; i++)
		if (study->rows[i].done && study->rows[i].method == method && study->rows[i].cut == cut)
			return true;
	return false;
}

struct kvs_study_mean kvs_study_mean(const struct kvs_study *study, enum kvs_study_method method, int cut, int share)
{
	struct kvs_study_mean mean = {.least = INFINITY, .most = -INFINITY};
	double squares = 0;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct kvs_study_row *row = &study->rows[i];
		const struct kvs_study_point *point = &row->points[share];
		if (!row->done || row->method != method || row->cut != cut)
			continue;
		mean.rows++;
		if (!point->owners)
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
		return (struct kvs_study_mean){0, mean.rows, NAN, NAN, NAN, NAN, NAN, NAN, 0};
	mean.nll /= mean.count;
	mean.top1_agreement /= mean.count;
	mean.kl /= mean.count;
	if (mean.count > 1)
		mean.deviation = sqrt(fmax(0, squares - mean.count * mean.nll * mean.nll) / (mean.count - 1));
	return mean;
}

int kvs_study_series(const struct kvs_study *study, bool by_source, int cuts[KVS_STUDY_CUTS])
{
	int count = 0;

	for (int c = 0; c < study->cut_count; c++) {
		const struct kvs_study_cut *cut = &study->cuts[c];
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
