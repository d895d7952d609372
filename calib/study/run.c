/*
 * calib/study/run.c: runs the rows of a study.
 *
 * One search gives the plans of a row for every number of layers, as each walk to more layers passes through fewer. A
 * row is written as soon as it is done, and nothing in it depends on the time of its run, so a study can stop between
 * any two rows. A row that fails is as if it had not begun.
 */
#include "../search.h"
#include "study.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run {
	struct kvs_study *study;
	kvs_engine *engine;
	const struct kvs_calib_progress *progress;
	kvs_reference *reference, *also[STUDY_ALSO];
	struct kvs_capture capture;
	int captured; /* the cut that `capture` is of; -1: none */
	struct study_row *row;
	char label[64];                  /* of the row */
	double done, total;              /* tokens that go through the model: an estimate, for the progress bar */
	double in_row, part;             /* of the row: tokens of the parts that are done, and of the part that runs */
	struct kvs_calib_progress inner; /* hears the progress of searches and measures */
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

/* The next part of the row takes about `cost` tokens. */
static void begin_part(struct run *run, double cost)
{
	run->part = cost;
}

static void end_part(struct run *run)
{
	run->in_row += run->part;
	run->part = 0;
}

/* The others ask for neither distances nor cosines. */
static bool needs_capture(const struct study_row *row)
{
	return !row->fit && row->method != KVS_STUDY_ADJACENT && row->method != KVS_STUDY_REFIT;
}

static double capture_cost(const struct kvs_study *study, const struct study_row *row)
{
	return needs_capture(row) ? kvs_capture_cost(&study->cuts[row->cut].text) : 0;
}

static double search_cost(const struct kvs_study *study, const struct study_row *row)
{
	struct kvs_search_options options = study_search_options(study, row);

	switch (row->method) {
	case KVS_STUDY_RANDOM:
	case KVS_STUDY_ADJACENT:
	case KVS_STUDY_MERGE:
		return 0;
	default:
		return row->fit ? 0 : kvs_search_cost(&options, &study->cuts[row->cut].text, study->layers);
	}
}

static double measured_tokens(const struct kvs_study *study)
{
	return (double)study->measured.windows * study->measured.window_tokens;
}

static double also_tokens(const struct kvs_study *study)
{
	double tokens = 0;

	for (int i = 0; i < study->also_count; i++)
		tokens += (double)study->also[i].text.windows * study->also[i].text.window_tokens;
	return tokens;
}

/* Of the unshared model, on all texts. */
static double reference_cost(const struct kvs_study *study)
{
	const struct kvs_calib_text *held = study_fit_text(&study->cuts[0]);

	return measured_tokens(study) + also_tokens(study) +
	       (study->also_count ? (double)held->windows * held->window_tokens : 0);
}

static double measure_cost(const struct kvs_study *study, const struct study_row *row)
{
	/* Merging decodes token by token: reckoned as six tokens of a batch each. */
	return row->method == KVS_STUDY_MERGE ? 6 * measured_tokens(study)
					      : measured_tokens(study) + also_tokens(study);
}

static double fit_cost(const struct kvs_study *study, const struct study_row *row)
{
	return row->fit ? kvs_compensate_cost(study_fit_text(&study->cuts[row->cut])) : 0;
}

static double row_cost(const struct kvs_study *study, const struct study_row *row)
{
	return capture_cost(study, row) + search_cost(study, row) +
	       study->share_count * (fit_cost(study, row) + measure_cost(study, row));
}

/* ---- one row: plans ---- */

static int set_owners(struct study_point *point, int tensors, int layers, const int *k, const int *v)
{
	point->tensors = tensors;
	point->owners = malloc(sizeof(*point->owners) * 2 * layers);
	if (!point->owners)
		return kvs_fail(-ENOMEM, "no memory for a plan of %d layers", layers);
	memcpy(point->owners, k, sizeof(*k) * layers);
	memcpy(point->owners + layers, v, sizeof(*v) * layers);
	return 0;
}

/* One by what matrices leave asks for no distances. */
static int search(struct run *run, const struct kvs_search_options *options, struct kvs_search_result *result)
{
	bool captured = options->method != KVS_METHOD_REFIT;

	return kvs_search_run(
		run->engine, &run->study->cuts[run->row->cut].text, captured ? &run->capture : NULL, options, result);
}

static int search_plans(struct run *run)
{
	const struct kvs_study *study = run->study;
	struct kvs_search_options options = study_search_options(study, run->row);
	struct kvs_search_result result = {0};
	int err;

	options.progress = run->inner;
	options.replay = run->row->replay;
	options.replay_count = run->row->replay_count;
	options.replay_full_nll = run->row->replay_full_nll;
	err = search(run, &options, &result);
	if (!err && result.end == KVS_SEARCH_STOPPED)
		err = kvs_fail(-ECANCELED, "stopped");
	for (int p = 0; p < study->share_count && !err; p++) {
		size_t n = study->shares[p] - 1;
		if (n < result.sweep_count)
			err = set_owners(&run->row->points[p], result.sweep[n].tensors, study->layers,
				result.sweep[n].k_owners, result.sweep[n].v_owners);
		else /* the pairs ran out */
			run->row->points[p].tensors = result.best.tensors;
	}
	kvs_search_result_clear(&result);
	return err;
}

/* Pairs in their order: the maps are kept whenever the number of layers that share is one of the study's. */
static int keep_plans(
	struct run *run, const struct kvs_pair *pairs, size_t count, struct calib_maps *maps, struct calib_maps *next)
{
	const struct kvs_study *study = run->study;
	struct study_point *points = run->row->points;
	int at = 0, err = 0;

	for (size_t i = 0; i < count && at < study->share_count && !err; i++) {
		if (calib_maps_borrows(maps, &pairs[i]))
			continue;
		calib_maps_apply(maps, &pairs[i], next);
		calib_maps_swap(maps, next);
		if (maps->tensors == 2 * study->shares[at])
			err = set_owners(&points[at++], maps->tensors, study->layers, maps->k, maps->v);
	}
	for (; at < study->share_count; at++)
		points[at].tensors = maps->tensors; /* fewer than the point asks for: the pairs ran out */
	return err;
}

static int draw_plans(struct run *run)
{
	struct kvs_search_options options = study_search_options(run->study, run->row);
	struct calib_maps maps = {0}, next = {0};
	struct kvs_pair *pairs;
	size_t count;
	int err = kvs_pairs_list(&run->capture, kvs_engine_config(run->engine), &options.pairs, &pairs, &count);

	if (err)
		return err;
	err = calib_maps_create(run->study->layers, &maps);
	if (!err)
		err = calib_maps_create(run->study->layers, &next);
	if (!err)
		err = keep_plans(run, pairs, count, &maps, &next);
	calib_maps_clear(&next);
	calib_maps_clear(&maps);
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
		struct study_point *point = &run->row->points[p];
		int share = study->shares[p];
		err = run->row->method == KVS_STUDY_MERGE ? kvs_neighbours_similar(&run->capture, config, share, owners)
							  : kvs_neighbours_spread(config, share, owners);
		err = err == -ERANGE ? 0 : err ? err : set_owners(point, 2 * share, study->layers, owners, owners);
	}
	free(owners);
	return err;
}

/* Those of the row without a fit, which is done, as it comes before. */
static int take_plans(struct run *run)
{
	const struct kvs_study *study = run->study;
	const struct study_row *alone = study_alone(study, run->row);
	int err = 0;

	for (int p = 0; p < study->share_count && !err; p++) {
		const struct study_point *from = &alone->points[p];
		run->row->points[p].tensors = from->tensors;
		if (from->owners)
			err = set_owners(&run->row->points[p], from->tensors, study->layers, from->owners,
				from->owners + study->layers);
	}
	return err;
}

static int find_plans(struct run *run)
{
	if (run->row->fit)
		return take_plans(run);
	switch (run->row->method) {
	case KVS_STUDY_ADJACENT:
	case KVS_STUDY_MERGE:
		return neighbour_plans(run);
	case KVS_STUDY_RANDOM:
		return draw_plans(run);
	default:
		return search_plans(run);
	}
}

/* ---- one row: measures ---- */

/* Two rows may find the same plan: it is measured once, and fitted once on a cut. */
static const struct study_point *measured_before(const struct run *run, const struct study_point *point)
{
	const struct kvs_study *study = run->study;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		if (!row->done || row->method == KVS_STUDY_MERGE || row->fit != run->row->fit ||
			(row->fit && row->cut != run->row->cut))
			continue;
		for (int p = 0; p < study->share_count; p++)
			if (row->points[p].owners && (row->points[p].sample || !study_samples(study, run->row)) &&
				!memcmp(row->points[p].owners, point->owners,
					sizeof(*point->owners) * 2 * study->layers))
				return &row->points[p];
	}
	return NULL;
}

/* A plan in an engine that may have matrices for it, on every text, and with `sampled` going on with the prompt. */
static int measure_texts(
	struct run *run, kvs_engine *engine, const kvs_plan *plan, bool sampled, struct study_point *point)
{
	struct kvs_study *study = run->study;
	int err;

	begin_part(run, measured_tokens(study));
	err = kvs_measure_quality(engine, &study->measured, run->reference, plan, &run->inner, &point->quality);
	end_part(run);
	for (int i = 0; i < study->also_count && !err; i++) {
		const struct kvs_calib_text *text = &study->also[i].text;
		begin_part(run, (double)text->windows * text->window_tokens);
		err = kvs_measure_quality(engine, text, run->also[i], plan, &run->inner, &point->also[i]);
		end_part(run);
	}
	if (!err && sampled)
		err = study_sample(study, engine, plan, &point->sample);
	return err;
}

static int fit_and_measure(struct run *run, const kvs_plan *plan, struct study_point *point)
{
	kvs_engine *engine = NULL;
	int err;

	begin_part(run, fit_cost(run->study, run->row));
	err = study_fit_engine(run->study, run->row, plan, &run->inner, &engine, &point->fit);
	end_part(run);
	if (!err)
		err = measure_texts(run, engine, plan, study_samples(run->study, run->row), point);
	kvs_engine_close(engine);
	return err;
}

static int measure_plan(struct run *run, struct study_point *point)
{
	const struct study_point *before = measured_before(run, point);
	kvs_plan *plan;
	int err;

	if (before) {
		point->quality = before->quality;
		memcpy(point->also, before->also, sizeof(point->also));
		point->fit = before->fit;
		if (!study_samples(run->study, run->row))
			return 0;
		point->sample = strdup(before->sample);
		return point->sample ? 0 : kvs_fail(-ENOMEM, "no memory for a text");
	}
	err = kvs_plan_create(run->study->layers, point->owners, point->owners + run->study->layers, &plan);
	if (err)
		return err;
	if (run->row->fit)
		err = fit_and_measure(run, plan, point);
	else
		err = measure_texts(run, run->engine, plan, study_samples(run->study, run->row), point);
	kvs_plan_free(plan);
	return err;
}

static int measure_row(struct run *run)
{
	bool merged = run->row->method == KVS_STUDY_MERGE;
	int err = 0;

	for (int p = 0; p < run->study->share_count && !err; p++) {
		struct study_point *point = &run->row->points[p];
		point->token_bytes = study_token_bytes(run->study, point->tensors, merged);
		double begun = run->in_row;
		begin_part(run, measure_cost(run->study, run->row));
		if (point->owners && merged)
			err = kvs_measure_merged(run->engine, &run->study->measured, run->reference, point->owners,
				&run->inner, &point->quality);
		else if (point->owners)
			err = measure_plan(run, point);
		run->part = 0;
		run->in_row = begun + fit_cost(run->study, run->row) + measure_cost(run->study, run->row);
	}
	return err;
}

/* ---- rows ---- */

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

static void forget_row(struct study_row *row)
{
	for (int p = 0; p < KVS_STUDY_MOST_RATES; p++) {
		free(row->points[p].owners);
		free(row->points[p].sample);
	}
	memset(row->points, 0, sizeof(row->points));
}

/* "random:2", "nll, text 2", "similar, 50 samples", "nll with all", "random:2, text 2". */
static void label_row(struct run *run)
{
	const struct study_row *row = run->row;
	const struct study_cut *cut = &run->study->cuts[row->cut];
	char with[40] = "", seed[24] = "", on[24] = "";

	if (row->fit)
		snprintf(with, sizeof(with), " with %s", kvs_study_fit_name(row->fit));
	if (row->seed)
		snprintf(seed, sizeof(seed), ":%llu", (unsigned long long)row->seed);
	if (cut->source)
		snprintf(on, sizeof(on), ", text %d", cut->source + 1);
	else if (row->cut)
		snprintf(on, sizeof(on), ", %d samples", cut->samples);
	snprintf(run->label, sizeof(run->label), "%s%s%s%s", kvs_study_method_name(row->method), with, seed, on);
}

static int run_row(struct run *run)
{
	struct study_row *row = run->row;
	int err = 0;

	label_row(run);
	run->in_row = 0;
	begin_part(run, capture_cost(run->study, row));
	if (!show(run, 0))
		err = kvs_fail(-ECANCELED, "stopped");
	if (!err && needs_capture(row))
		err = capture_cut(run, row->cut);
	end_part(run);
	begin_part(run, search_cost(run->study, row));
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

/* ---- plans that were given ---- */

static double given_cost(const struct kvs_study *study, const struct study_given *given)
{
	return (measured_tokens(study) + also_tokens(study)) * (given->patch ? 2 : 1);
}

/* In an engine of its own, in which the matrices stay. */
static int measure_with_matrices(struct run *run, struct study_given *given)
{
	kvs_engine *engine;
	int err = study_open_own(run->study, &engine);

	if (err)
		return err;
	err = kvs_engine_set_patch(engine, given->patch, NULL);
	if (!err)
		err = measure_texts(run, engine, given->plan, run->study->prompt.text, &given->with);
	kvs_engine_close(engine);
	return err;
}

static int run_given(struct run *run, struct study_given *given)
{
	int err = 0;

	snprintf(run->label, sizeof(run->label), "%s", given->title);
	run->in_row = 0;
	if (!show(run, 0))
		err = kvs_fail(-ECANCELED, "stopped");
	if (!err)
		err = measure_texts(run, run->engine, given->plan, run->study->prompt.text, &given->alone);
	if (!err && given->patch)
		err = measure_with_matrices(run, given);
	if (err) {
		free(given->alone.sample);
		free(given->with.sample);
		given->alone.sample = given->with.sample = NULL;
	}
	given->done = !err;
	run->done += given_cost(run->study, given);
	return err;
}

/* ---- all of it ---- */

/* Rows of an earlier run were compared with the unshared model's loss at that time, so it must be the same now. */
static int check_full(double *then, double now)
{
	if (isfinite(*then) && *then != now)
		return kvs_fail(-EINVAL,
			"the unshared model loses %.17g nats a token, and lost %.17g when the study began: the "
			"program or a library has changed: start again in another directory",
			now, *then);
	*then = now;
	return 0;
}

static int take_reference(
	struct run *run, const struct kvs_calib_text *text, kvs_reference **reference, double *full_nll)
{
	int err;

	begin_part(run, (double)text->windows * text->window_tokens);
	err = kvs_reference_create(run->engine, text, &run->inner, reference);
	end_part(run);
	return err ? err : check_full(full_nll, kvs_reference_nll(*reference));
}

static int take_references(struct run *run)
{
	struct kvs_study *study = run->study;
	double held_nll;
	int err;

	snprintf(run->label, sizeof(run->label), "no sharing");
	err = take_reference(run, &study->measured, &run->reference, &study->full_nll);
	for (int i = 0; i < study->also_count && !err; i++)
		err = take_reference(run, &study->also[i].text, &run->also[i], &study->also[i].full_nll);
	if (!err && study->prompt.text && !study->prompt.unshared)
		err = study_sample(study, run->engine, NULL, &study->prompt.unshared);
	if (err || !study->also_count)
		return err;
	err = kvs_measure_nll(run->engine, study_fit_text(&study->cuts[0]), NULL, NULL, &held_nll);
	return err ? err : check_full(&study->held_nll, held_nll);
}

static int run_rows(struct run *run, const char *path)
{
	struct kvs_study *study = run->study;
	int err = take_references(run);

	run->done = reference_cost(study);
	for (int i = 0; i < study->given_count && !err; i++) {
		if (study->given[i].done)
			continue;
		err = run_given(run, &study->given[i]);
		if (!err)
			err = study_save(study, path);
	}
	for (size_t i = 0; i < study->row_count && !err; i++) {
		run->row = &study->rows[i];
		if (run->row->done)
			continue;
		err = run_row(run);
		if (!err)
			err = study_save(study, path);
	}
	kvs_capture_clear(&run->capture);
	kvs_reference_free(run->reference);
	for (int i = 0; i < study->also_count; i++)
		kvs_reference_free(run->also[i]);
	return err;
}

int kvs_study_run(kvs_study *study, kvs_engine *engine, const char *path, const struct kvs_calib_progress *progress)
{
	struct run run = {.study = study, .engine = engine, .progress = progress, .captured = -1};
	size_t rows;

	if (!kvs_study_left(study, &rows))
		return 0;
	run.inner = (struct kvs_calib_progress){step_inside, &run};
	run.total = reference_cost(study);
	for (size_t i = 0; i < study->row_count; i++)
		run.total += study->rows[i].done ? 0 : row_cost(study, &study->rows[i]);
	for (int i = 0; i < study->given_count; i++)
		run.total += study->given[i].done ? 0 : given_cost(study, &study->given[i]);
	return run_rows(&run, path);
}
