/*
 * calib/search.c: the paper's walk over pairs, and the choice between walks.
 *
 * A search is deterministic: each trial follows from the results of those before. So a search that was stopped is
 * resumed by running it again with its trials at hand, and nothing else has to be saved.
 */
#include "measure.h"
#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Relative. K and V in f16 in place of f32 change the loss of the fixture by 4.7e-6. */
#define SAME_LOSS 1e-6

static const char *const walk_names[KVS_WALK_COUNT] = {"dissimilar", "similar", "random", "nll", "refit"};

const char *kvs_walk_name(enum kvs_walk walk)
{
	return walk_names[walk];
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/* ---- common to all walks ---- */

int calib_search_tell(struct calib_search *search, const char *what, double part)
{
	return calib_tell(&search->options->progress, what, (size_t)(search->done + search->walk_cost * part),
		(size_t)search->cost);
}

bool calib_search_recall(struct calib_search *search, struct kvs_trial *trial)
{
	const struct kvs_trial *old = search->options->replay + search->replay_at;

	if (search->replay_at >= search->options->replay_count)
		return false;
	if (old->walk != trial->walk || old->what != trial->what || old->layer != trial->layer ||
		old->owner != trial->owner || old->tokens != trial->tokens)
		return false;
	trial->cosine = old->cosine;
	trial->nll = old->nll;
	trial->nll_error = old->nll_error;
	trial->left = old->left;
	trial->kl = old->kl;
	search->replay_at++;
	return true;
}

int calib_search_record(struct calib_search *search, const struct kvs_trial *trial)
{
	struct kvs_search_result *result = search->result;

	if (result->trial_count == search->trial_room) {
		size_t room = search->trial_room ? 2 * search->trial_room : 64;
		struct kvs_trial *larger = realloc(result->trials, sizeof(*larger) * room);
		if (!larger)
			return kvs_fail(-ENOMEM, "no memory for %zu trials", room);
		result->trials = larger;
		search->trial_room = room;
	}
	result->trials[result->trial_count++] = *trial;
	return 0;
}

static int point_set(struct kvs_search_point *point, enum kvs_walk walk, const struct calib_maps *maps, double nll)
{
	if (!point->k_owners)
		point->k_owners = malloc(sizeof(*point->k_owners) * 2 * maps->layers);
	if (!point->k_owners)
		return kvs_fail(-ENOMEM, "no memory for a plan of %d layers", maps->layers);
	memcpy(point->k_owners, maps->k, sizeof(*maps->k) * 2 * maps->layers);
	point->v_owners = point->k_owners + maps->layers;
	point->walk = walk;
	point->tensors = maps->tensors;
	point->nll = nll;
	return 0;
}

static int point_plan(const struct kvs_search_point *point, int layers, kvs_plan **out)
{
	return kvs_plan_create(layers, point->k_owners, point->v_owners, out);
}

static int measure_point(struct calib_search *search, struct kvs_search_point *point)
{
	kvs_plan *plan;
	double start = now_s();
	int err;

	if (!isnan(point->nll) || search->options->plans_alone || search->result->end == KVS_SEARCH_STOPPED)
		return 0;
	err = point_plan(point, search->result->layers, &plan);
	if (err)
		return err;
	err = kvs_measure_nll(search->engine, search->text, plan, NULL, &point->nll);
	search->result->measure_s += now_s() - start;
	kvs_plan_free(plan);
	return err;
}

int calib_search_accept(struct calib_search *search, enum kvs_walk walk, const struct calib_maps *maps, double nll)
{
	struct kvs_search_point *reached = &search->result->walks[walk], *swept;
	int err = point_set(reached, walk, maps, nll);

	if (err || !search->options->sweep || maps->tensors % 2)
		return err;
	swept = &search->swept[walk * search->options->share + maps->tensors / 2 - 1];
	err = measure_point(search, reached);
	return err ? err : point_set(swept, walk, maps, reached->nll);
}

/* ---- the paper's walk ---- */

/*
 * Residuals of the samples that it keeps, at even distances: a trial runs an eighth of the layers at most that it could have
 * skipped. With one at each layer it would run none of them, for four times the memory with 32 layers.
 */
#define RESIDUALS 8

/* Fills in the trial's cosine: the recalled one, or that of the samples run with `maps`. */
static int try_maps(struct calib_search *search, const struct calib_maps *maps, struct kvs_trial *trial)
{
	kvs_plan *plan;
	int err;

	if (calib_search_recall(search, trial)) {
		search->result->replayed++;
		return 0;
	}
	err = calib_maps_plan(maps, &plan);
	if (err)
		return err;
	err = kvs_measure_cosine(search->engine, search->rerun, search->text, search->capture, plan,
		search->options->cosine, &trial->cosine);
	kvs_plan_free(plan);
	return err;
}

static int walk_pairs(struct calib_search *search, enum kvs_walk walk, const struct kvs_pair *pairs, size_t count,
	struct calib_maps *maps, struct calib_maps *candidate)
{
	int err = 0;

	for (size_t i = 0; i < count && maps->tensors < search->target && !err; i++) {
		struct kvs_trial trial = {walk, pairs[i].what, pairs[i].layer, pairs[i].owner, pairs[i].distance, NAN,
			NAN, NAN, 0, NAN, NAN, false};

		if (calib_maps_borrows(maps, &pairs[i]))
			continue;
		err = calib_search_tell(search, walk_names[walk], maps->tensors / (double)search->target);
		calib_maps_apply(maps, &pairs[i], candidate);
		if (!err)
			err = try_maps(search, candidate, &trial);
		trial.accepted = trial.cosine > search->options->threshold;
		if (!err)
			err = calib_search_record(search, &trial);
		if (!err && trial.accepted) {
			calib_maps_swap(maps, candidate);
			err = calib_search_accept(search, walk, maps, NAN);
		}
	}
	return err;
}

/* nll measures every pair first: for it the order says nothing. */
static enum kvs_order order_of(enum kvs_walk walk)
{
	switch (walk) {
	case KVS_WALK_RANDOM:
		return KVS_ORDER_RANDOM;
	case KVS_WALK_SIMILAR:
		return KVS_ORDER_SIMILAR;
	default:
		return KVS_ORDER_DISSIMILAR;
	}
}

/* With the policy `last` every trial runs the whole model: a layer that borrows changes what layers below it read in the next pass. */
static int keep_residuals(struct calib_search *search, enum kvs_walk walk)
{
	const struct kvs_calib_text *text = search->text;

	if (walk >= KVS_WALK_NLL || search->rerun || search->options->policy != KVS_POLICY_OWNER ||
		!calib_samples_are_rerun(text))
		return 0;
	return kvs_rerun_create(search->engine, text->samples * text->sample_tokens, RESIDUALS, &search->rerun);
}

/* The walk's own trials: of the walk before it, an earlier search that was to share more has some that this one does not come to. */
static void find_trials(struct calib_search *search, enum kvs_walk walk)
{
	const struct kvs_search_options *options = search->options;

	for (search->replay_at = 0; search->replay_at < options->replay_count; search->replay_at++)
		if (options->replay[search->replay_at].walk == walk)
			return;
}

static int run_walk(struct calib_search *search, enum kvs_walk walk, const struct kvs_pair *pairs, size_t count)
{
	int layers = search->result->layers, err = keep_residuals(search, walk);
	struct calib_maps maps = {0}, candidate = {0};

	find_trials(search, walk);
	search->walk_cost = calib_walk_cost(search->options, search->text, layers, walk);
	if (!err)
		err = calib_maps_create(layers, &maps);
	if (!err)
		err = calib_maps_create(layers, &candidate);
	if (!err)
		err = point_set(&search->result->walks[walk], walk, &maps, search->result->full_nll);
	if (!err)
		err = walk == KVS_WALK_NLL     ? calib_search_greedy(search, pairs, count, &maps)
		      : walk == KVS_WALK_REFIT ? calib_search_refit(search, &maps)
					       : walk_pairs(search, walk, pairs, count, &maps, &candidate);
	calib_maps_clear(&candidate);
	calib_maps_clear(&maps);
	search->done += search->walk_cost;
	search->walk_cost = 0;
	return err;
}

/* ---- several walks ---- */

static void forget_residuals(struct calib_search *search)
{
	kvs_rerun_free(search->rerun);
	search->rerun = NULL;
}

bool calib_walk_is_wanted(const struct kvs_search_options *options, enum kvs_walk walk)
{
	switch (options->method) {
	case KVS_METHOD_KVSHARER:
		return walk < KVS_WALK_NLL && order_of(walk) == options->pairs.order;
	case KVS_METHOD_NLL:
		return walk == KVS_WALK_NLL;
	case KVS_METHOD_REFIT:
		return walk == KVS_WALK_REFIT;
	default:
		return walk != KVS_WALK_RANDOM && walk != KVS_WALK_REFIT;
	}
}

static int run_walks(struct calib_search *search)
{
	const struct kvs_config *config = kvs_engine_config(search->engine);
	struct kvs_pair *pairs[KVS_WALK_COUNT] = {0};
	size_t count = 0;
	int err = 0;

	if (search->options->method == KVS_METHOD_REFIT)
		return run_walk(search, KVS_WALK_REFIT, NULL, 0);
	for (enum kvs_walk walk = 0; walk < KVS_WALK_COUNT && !err; walk++) {
		struct kvs_pair_options options = search->options->pairs;
		options.order = order_of(walk);
		if (calib_walk_is_wanted(search->options, walk))
			err = kvs_pairs_list(search->capture, config, &options, &pairs[walk], &count);
	}
	if (search->options->drop_means)
		kvs_capture_drop_means(search->capture);
	for (enum kvs_walk walk = 0; walk < KVS_WALK_COUNT && !err; walk++) {
		if (walk == KVS_WALK_NLL)
			forget_residuals(search); /* it keeps others */
		if (pairs[walk])
			err = run_walk(search, walk, pairs[walk], count);
	}
	forget_residuals(search);
	for (enum kvs_walk walk = 0; walk < KVS_WALK_COUNT; walk++)
		free(pairs[walk]);
	return err;
}

/* More sharing first: a walk that ran out of pairs loses to one that did not. Then less loss, then the earlier walk. */
static bool is_better(const struct kvs_search_point *a, const struct kvs_search_point *b)
{
	if (a->tensors != b->tensors)
		return a->tensors > b->tensors;
	return a->nll < b->nll;
}

static int choose_best(struct calib_search *search)
{
	struct kvs_search_result *result = search->result;
	const struct kvs_search_point *best = NULL;
	struct calib_maps maps = {.layers = result->layers};
	int err = 0;

	for (int walk = 0; walk < KVS_WALK_COUNT && !err; walk++) {
		struct kvs_search_point *point = &result->walks[walk];
		if (!point->k_owners)
			continue;
		err = measure_point(search, point);
		if (!err && (!best || is_better(point, best)))
			best = point;
	}
	if (err || !best)
		return err;
	maps.tensors = best->tensors;
	maps.k = best->k_owners;
	maps.v = best->v_owners;
	return point_set(&result->best, best->walk, &maps, best->nll);
}

/* The last accepted trial of the best walk has it, unless the walk was nll, which does not run the samples. */
static int find_cosine(struct calib_search *search)
{
	struct kvs_search_result *result = search->result;
	kvs_plan *plan;
	int err;

	result->cosine = 1;
	for (size_t i = 0; i < result->trial_count; i++)
		if (result->trials[i].walk == result->best.walk && result->trials[i].accepted)
			result->cosine = result->trials[i].cosine;
	if (!isnan(result->cosine) || !search->capture || search->options->plans_alone ||
		result->end == KVS_SEARCH_STOPPED)
		return 0;
	err = point_plan(&result->best, result->layers, &plan);
	if (err)
		return err;
	err = kvs_measure_cosine(
		search->engine, NULL, search->text, search->capture, plan, search->options->cosine, &result->cosine);
	kvs_plan_free(plan);
	return err;
}

/* For each number of layers, the best of the walks that reached it. */
static int collect_sweep(struct calib_search *search)
{
	struct kvs_search_result *result = search->result;
	int share = search->options->share;

	result->sweep = calloc(share, sizeof(*result->sweep));
	if (!result->sweep)
		return kvs_fail(-ENOMEM, "no memory for %d plans", share);
	for (int n = 0; n < share; n++) {
		struct kvs_search_point *best = NULL;
		for (int walk = 0; walk < KVS_WALK_COUNT; walk++) {
			struct kvs_search_point *point = &search->swept[walk * share + n];
			if (point->k_owners && (!best || is_better(point, best)))
				best = point;
		}
		if (!best)
			break;
		result->sweep[result->sweep_count++] = *best;
		best->k_owners = NULL; /* moved */
	}
	return 0;
}

int kvs_search_check(const struct kvs_search_options *options, const struct kvs_config *config)
{
	int most = kvs_pairs_most_shared(config, options->pairs.protect_last);

	if (config->layers < 2)
		return kvs_fail(-EINVAL, "the model has one layer: there is none to share with");
	if (options->pairs.protect_last < 0 || options->pairs.protect_last >= config->layers)
		return kvs_fail(-EINVAL, "the last %d layers should be protected, the model has %d",
			options->pairs.protect_last, config->layers);
	if (options->share < 1 || options->share >= config->layers)
		return kvs_fail(-EINVAL, "%d layers should share, 1 to %d of the model's %d can", options->share,
			config->layers - 1, config->layers);
	if (options->share > most)
		return kvs_fail(-EINVAL,
			"%d layers should share, only %d can: %d are protected, and owners must have the same "
			"attention window",
			options->share, most, options->pairs.protect_last);
	if (options->plans_alone && options->method == KVS_METHOD_AUTO)
		return kvs_fail(-EINVAL, "auto chooses between walks by measured loss, which cannot be left out");
	if (options->method == KVS_METHOD_REFIT && (options->pairs.split || options->policy == KVS_POLICY_LAST))
		return kvs_fail(-EINVAL,
			"refit fits a layer to one owner's K and V under the policy owner: not with K and V apart, nor "
			"with the policy last");
	if (options->method == KVS_METHOD_REFIT && !options->ckpt)
		return kvs_fail(-EINVAL, "refit reads matrices, and there is no checkpoint");
	if (!(options->threshold >= -1 && options->threshold <= 1))
		return kvs_fail(-EINVAL, "the threshold is %g, a cosine is from -1 to 1", options->threshold);
	return 0;
}

static int check_policy(const struct kvs_search_options *options, const kvs_engine *engine)
{
	if (options->policy == kvs_engine_policy(engine) && options->pass_tokens == kvs_engine_pass_tokens(engine))
		return 0;
	return kvs_fail(-EINVAL, "the search has policy %d in passes of %d tokens, the engine %d and %d",
		options->policy, options->pass_tokens, kvs_engine_policy(engine), kvs_engine_pass_tokens(engine));
}

/* The best plan and its figures, which a search that was stopped leaves out: then this needs memory alone. */
static int settle(struct calib_search *search)
{
	struct kvs_search_result *result = search->result;
	int err = choose_best(search);

	if (!err && result->end == KVS_SEARCH_COMPLETE && result->best.tensors < search->target)
		result->end = KVS_SEARCH_EXHAUSTED;
	if (!err && result->best.k_owners)
		err = find_cosine(search);
	if (!err && search->options->sweep)
		err = collect_sweep(search);
	return err;
}

/* A search that is stopped before it comes to all trials of the earlier one keeps them, for the next. */
static int keep_trials(struct calib_search *search)
{
	int err = 0;

	for (size_t i = search->replay_at; i < search->options->replay_count && !err; i++) {
		struct kvs_trial trial = search->options->replay[i];
		trial.accepted = false; /* not by this search */
		err = calib_search_record(search, &trial);
	}
	return err;
}

/* Trials of another device, or with K and V in another type, are no part of this search. Other batches round as far as this. */
static int check_replayed(const struct calib_search *search)
{
	double then = search->options->replay_full_nll, now = search->result->full_nll;

	if (!search->options->replay_count || !then || isnan(now) || fabs(now - then) <= SAME_LOSS * then)
		return 0;
	return kvs_fail(-EINVAL,
		"the plan's search cannot be resumed: the loss without sharing was %.9g there and is %.9g here: "
		"another "
		"device, or another --kv-dtype",
		then, now);
}

static int run_search(struct calib_search *search)
{
	struct kvs_search_result *result = search->result;
	double start = now_s();
	int err = 0, kept;

	result->full_nll = NAN;
	if (!search->options->plans_alone || search->options->method == KVS_METHOD_NLL) /* nll starts from this loss */
		err = kvs_measure_nll(search->engine, search->text, NULL, NULL, &result->full_nll);
	result->measure_s = now_s() - start;
	if (err)
		return err == -ECANCELED ? kvs_fail(err, "stopped before there was a plan") : err;
	err = check_replayed(search);
	if (err)
		return err;
	err = run_walks(search);
	result->search_s = now_s() - start - result->measure_s;
	if (!err)
		err = settle(search);
	if (!err || (err != -ECANCELED && !result->trial_count))
		return err;
	result->end = KVS_SEARCH_STOPPED;
	kept = settle(search);
	if (!kept)
		kept = keep_trials(search);
	return err == -ECANCELED ? kept : err;
}

int kvs_search_run(kvs_engine *engine, const struct kvs_calib_text *text, struct kvs_capture *capture,
	const struct kvs_search_options *options, struct kvs_search_result *out)
{
	struct calib_search search = {.engine = engine,
		.text = text,
		.capture = capture,
		.options = options,
		.result = out,
		.target = 2 * options->share,
		.cost = kvs_search_cost(options, text, kvs_engine_config(engine)->layers)};
	int points = KVS_WALK_COUNT * options->share, err = kvs_search_check(options, kvs_engine_config(engine));

	*out = (struct kvs_search_result){.layers = kvs_engine_config(engine)->layers};
	if (!err)
		err = check_policy(options, engine);
	if (err)
		return err;
	search.swept = options->sweep ? calloc(points, sizeof(*search.swept)) : NULL;
	if (options->sweep && !search.swept)
		err = kvs_fail(-ENOMEM, "no memory for %d plans", points);
	if (!err)
		err = run_search(&search);
	for (int i = 0; search.swept && i < points; i++)
		free(search.swept[i].k_owners);
	free(search.swept);
	if (err && !out->best.k_owners)
		kvs_search_result_clear(out);
	return err;
}

void kvs_search_result_clear(struct kvs_search_result *result)
{
	for (int walk = 0; walk < KVS_WALK_COUNT; walk++)
		free(result->walks[walk].k_owners);
	for (size_t i = 0; i < result->sweep_count; i++)
		free(result->sweep[i].k_owners);
	free(result->sweep);
	free(result->best.k_owners);
	free(result->trials);
	*result = (struct kvs_search_result){0};
}
