/*
 * calib/search_nll.c: the greedy walk by measured loss.
 *
 * Each step takes the pair that costs least. What a pair cost in an earlier step stands in as an estimate until it looks
 * cheaper than the best pair of this step: then it is measured again.
 *
 * Most pairs cost many times what the cheapest does, and a part of the text shows it. So in the first step a pair is measured
 * on a quarter of the windows; if it may still be the cheapest, on another quarter, and on the rest. What it may cost at least
 * is told from the tokens: two standard errors less than what it cost on the part; or as much, and nothing on the windows that
 * are left. Later steps come to few of the pairs, and measure these on all windows. Only a pair that was measured so is taken.
 *
 * A trial runs only from the pair's layer up, or from a little below, as residuals of the trial before are kept (rerun.c). It
 * leaves the K and V above its layer as they are with this pair, so the next trial starts no higher. That is why trials go up
 * from layer to layer, in rounds. The residuals fit where the means were, which are dropped by then.
 *
 * With the policy `last` every trial runs the whole model, pass by pass: a layer that borrows changes what its owner, and
 * so the layers between them, read in the next pass.
 */
#include "measure.h"
#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define LEAST_PART_TOKENS 256
#define DOUBT 2 /* standard errors */

struct candidate {
	struct kvs_pair pair;
	double nll, error; /* as in a trial, of the stages that were measured */
	double cost;       /* nats a token that it added there */
	double least;      /* that it probably costs at least; `cost`, if that is of all windows */
	int stages;        /* of the latest trials */
	int tried_at;      /* number of tensors that shared then; -1: never tried */
	bool dead;         /* its layer shares, or its owner does */
};

struct greedy {
	struct calib_search *search;
	kvs_rerun *rerun;             /* NULL: whole runs */
	struct candidate *candidates; /* [count], by layer */
	size_t count;
	struct calib_maps *maps, candidate_maps;
	int stage_windows[CALIB_STAGES], stages; /* windows up to the end of each */
	double present[CALIB_STAGES];            /* loss of maps up to the end of each */
	double tried; /* in this step: trials, as if all were of all windows; for the progress */
	float *token_losses, *present_losses; /* [windows * window_tokens]: of a trial, of maps; one allocation */
};

/* ---- running ---- */

static struct kvs_batch batch_at(const struct calib_search *search, int window, int end)
{
	const struct kvs_calib_text *text = search->text;
	int together = kvs_engine_batch_rows(search->engine) / text->window_tokens, left = end - window;

	return (struct kvs_batch){.ids = text->window_ids + (size_t)window * text->window_tokens,
		.sequences = left < together ? left : together,
		.tokens = text->window_tokens,
		.first = window * text->window_tokens};
}

/* The residuals of the windows that fit where the means were, less the walk's own memory on the host; at least 1. */
static int copies_that_fit(const struct greedy *greedy)
{
	const struct kvs_capture *capture = greedy->search->capture;
	size_t rows = (size_t)greedy->search->text->windows * greedy->search->text->window_tokens;
	size_t means =
		2 * sizeof(*capture->k) * capture->layers * capture->tokens * capture->kv_heads * capture->head_dim;
	size_t pair = sizeof(struct kvs_pair) + sizeof(struct candidate) + 4 * sizeof(struct kvs_trial);
	size_t host = greedy->count * pair + rows * (2 * sizeof(*greedy->token_losses) + sizeof(int));
	size_t copy = rows * sizeof(float) * capture->hidden_size;

	return !capture->k && means > host + copy ? (int)((means - host) / copy) : 1;
}

/* The tokens in front of a stage. */
static size_t tokens_before(const struct greedy *greedy, int stage)
{
	return stage ? (size_t)greedy->stage_windows[stage - 1] * greedy->search->text->window_tokens : 0;
}

/* Runs a stage's windows into `losses`. The residual at the input of `layer` is kept, for its next pair. */
static int run_stage(struct greedy *greedy, const struct calib_maps *maps, int layer, int stage, float *losses)
{
	struct calib_search *search = greedy->search;
	struct kvs_batch batch;
	kvs_plan *plan;
	int err = calib_maps_plan(maps, &plan);

	if (err)
		return err;
	err = kvs_engine_set_plan(search->engine, plan);
	kvs_plan_free(plan);
	for (int w = stage ? greedy->stage_windows[stage - 1] : 0; w < greedy->stage_windows[stage] && !err;
		w += batch.sequences) {
		batch = batch_at(search, w, greedy->stage_windows[stage]);
		err = greedy->rerun ? kvs_rerun_batch(greedy->rerun, &batch, layer)
				    : kvs_engine_run_batch(search->engine, &batch);
		if (!err)
			err = kvs_engine_batch_score(
				search->engine, search->text->window_targets + batch.first, losses + batch.first, NULL);
	}
	return err;
}

/*
 * Runs the pair's next stage. The sums go on from the mean and its error up to there, which are all that a resumed search has
 * of them.
 */
static int try_stage(struct greedy *greedy, struct candidate *c, int stage)
{
	size_t before = tokens_before(greedy, stage), end = tokens_before(greedy, stage + 1);
	double cost = before ? c->nll - greedy->present[stage - 1] : 0, sum = cost * before,
	       squares = before ? (c->error * c->error * (before - 1) + cost * cost) * before : 0;
	int err;

	calib_maps_apply(greedy->maps, &c->pair, &greedy->candidate_maps);
	err = run_stage(greedy, &greedy->candidate_maps, c->pair.layer, stage, greedy->token_losses);
	if (err)
		return err;
	for (size_t i = before; i < end; i++) {
		double difference = (double)greedy->token_losses[i] - greedy->present_losses[i];
		sum += difference;
		squares += difference * difference;
	}
	cost = sum / end;
	c->nll = greedy->present[stage] + cost;
	c->error = end > 1 ? sqrt(fmax(0, squares / end - cost * cost) / (end - 1)) : 0;
	return isfinite(sum) ? 0 : calib_not_a_number("loss");
}

/* What maps lose, token by token and up to the end of each stage. */
static int measure_present(struct greedy *greedy)
{
	double sum = 0;
	int err = 0;

	for (int stage = 0; stage < greedy->stages && !err; stage++) {
		size_t end = tokens_before(greedy, stage + 1);
		err = run_stage(greedy, greedy->maps, 1, stage, greedy->present_losses);
		for (size_t i = tokens_before(greedy, stage); i < end && !err; i++)
			sum += greedy->present_losses[i];
		greedy->present[stage] = sum / end;
	}
	return err || isfinite(sum) ? err : calib_not_a_number("loss");
}

/* ---- trials ---- */

/* In this step, and on all windows. */
static bool is_measured(const struct greedy *greedy, const struct candidate *c)
{
	return c->tried_at == greedy->maps->tensors && c->stages == greedy->stages;
}

/*
 * What the pair costs at least: nothing more on the windows that are left, or two standard errors less than on those that were
 * measured.
 */
static double least_cost(const struct greedy *greedy, const struct candidate *c)
{
	double part = greedy->stage_windows[c->stages - 1] / (double)greedy->search->text->windows;

	return c->stages == greedy->stages ? c->cost : fmax(part * c->cost, c->cost - DOUBT * c->error);
}

/*
 * The steps that are done take what they were reckoned to; how many trials this one takes is known at its end alone, so it is
 * reckoned to be over at its own share at most.
 */
static int tell(struct greedy *greedy, const char *what)
{
	const struct calib_search *search = greedy->search;
	int tensors = greedy->maps->tensors, step = search->options->pairs.split ? 1 : 2;
	double begin = tensors ? calib_nll_trials(search->text, tensors / 2.0) : 0,
	       end = calib_nll_trials(search->text, (tensors + step) / 2.0),
	       all = calib_nll_trials(search->text, search->target / 2.0);

	return calib_search_tell(greedy->search, what, fmin(begin + greedy->tried / greedy->count, end) / all);
}

/* Measures the pair: in the first step on its next part, later on all windows. */
static int try_candidate(struct greedy *greedy, struct candidate *c)
{
	int first = greedy->maps->tensors ? 0 : c->stages, last = greedy->maps->tensors ? greedy->stages - 1 : first,
	    err = 0;
	struct kvs_trial trial = {.walk = KVS_WALK_NLL,
		.what = c->pair.what,
		.layer = c->pair.layer,
		.owner = c->pair.owner,
		.distance = c->pair.distance,
		.cosine = NAN,
		.tokens = (int)tokens_before(greedy, last + 1),
		.left = NAN,
		.kl = NAN};

	if (calib_search_recall(greedy->search, &trial)) {
		greedy->search->result->replayed++;
		c->nll = trial.nll;
		c->error = trial.nll_error;
	} else {
		for (int stage = first; stage <= last && !err; stage++)
			err = try_stage(greedy, c, stage);
	}
	if (err)
		return err;
	greedy->tried += (tokens_before(greedy, last + 1) - tokens_before(greedy, first)) /
			 (double)tokens_before(greedy, greedy->stages);
	trial.nll = c->nll;
	trial.nll_error = c->error;
	c->stages = last + 1;
	c->cost = c->nll - greedy->present[last];
	c->least = least_cost(greedy, c);
	c->tried_at = greedy->maps->tensors;
	return calib_search_record(greedy->search, &trial);
}

/* ---- choosing ---- */

/*
 * Strikes out pairs whose layer or owner borrows by now. Borrowing from a borrower would be a chain to the owner's
 * owner, which is a candidate of its own.
 */
static void bury(struct greedy *greedy)
{
	for (size_t i = 0; i < greedy->count; i++) {
		struct candidate *c = &greedy->candidates[i];
		struct kvs_pair owner = {c->pair.what, c->pair.owner, 0, 0};
		c->dead = calib_maps_borrows(greedy->maps, &c->pair) || calib_maps_borrows(greedy->maps, &owner);
	}
}

/* Of the pairs that were measured in this step, or of all; NULL: there is none. */
static struct candidate *cheapest(struct greedy *greedy, bool measured)
{
	struct candidate *best = NULL;

	for (size_t i = 0; i < greedy->count; i++) {
		struct candidate *c = &greedy->candidates[i];
		if (!c->dead && (!measured || is_measured(greedy, c)) && (!best || c->cost < best->cost))
			best = c;
	}
	return best;
}

/* A pair is taken on its last trial: the earlier ones were estimates. */
static void mark_accepted(struct kvs_search_result *result, const struct kvs_pair *pair)
{
	for (size_t i = result->trial_count; i--;) {
		struct kvs_trial *trial = &result->trials[i];
		if (trial->walk == KVS_WALK_NLL && trial->what == pair->what && trial->layer == pair->layer &&
			trial->owner == pair->owner) {
			trial->accepted = true;
			return;
		}
	}
}

static int take(struct greedy *greedy, struct candidate *c)
{
	int err;

	calib_maps_apply(greedy->maps, &c->pair, &greedy->candidate_maps);
	calib_maps_swap(greedy->maps, &greedy->candidate_maps);
	mark_accepted(greedy->search->result, &c->pair);
	bury(greedy);
	greedy->tried = 0;
	err = calib_search_accept(greedy->search, KVS_WALK_NLL, greedy->maps, c->nll);
	return err || greedy->maps->tensors >= greedy->search->target ? err : measure_present(greedy);
}

/* The first part of every pair. */
static int try_all(struct greedy *greedy)
{
	int err = 0;

	for (size_t i = 0; i < greedy->count && !err; i++) {
		err = tell(greedy, "nll: every pair");
		if (!err)
			err = try_candidate(greedy, &greedy->candidates[i]);
	}
	return err;
}

static int try_next(struct greedy *greedy, struct candidate *c)
{
	int err = tell(greedy, "nll: greedy");

	return err ? err : try_candidate(greedy, c);
}

/* One more part of each pair that may be cheaper than the best one so far. *tried: of how many. */
static int try_round(struct greedy *greedy, int *tried)
{
	const struct candidate *best = cheapest(greedy, true);
	int err = 0;

	*tried = 0;
	for (size_t i = 0; i < greedy->count && !err; i++) {
		struct candidate *c = &greedy->candidates[i];
		if (c->dead || is_measured(greedy, c) || c->least >= best->cost)
			continue;
		err = try_next(greedy, c);
		++*tried;
		if (is_measured(greedy, c) && c->cost < best->cost)
			best = c;
	}
	return err;
}

/* First what looks cheapest, until it is measured; then, from layer to layer, all that may be cheaper still. */
static int find_cheapest(struct greedy *greedy)
{
	int err = 0, tried = 1;

	while (!err && !is_measured(greedy, cheapest(greedy, false)))
		err = try_next(greedy, cheapest(greedy, false));
	while (!err && tried)
		err = try_round(greedy, &tried);
	return err;
}

static int take_cheapest(struct greedy *greedy)
{
	int err = 0;

	while (!err && greedy->maps->tensors < greedy->search->target && cheapest(greedy, false)) {
		err = find_cheapest(greedy);
		if (!err)
			err = take(greedy, cheapest(greedy, true));
	}
	return err;
}

/* ---- the walk ---- */

/* A quarter of the windows, half of them, all; parts of few tokens say too little. */
int calib_nll_stages(const struct kvs_calib_text *text, int windows[CALIB_STAGES])
{
	int stages = 0;

	for (int part = 4; part; part /= 2)
		if (part == 1 || text->windows / part * text->window_tokens >= LEAST_PART_TOKENS)
			windows[stages++] = text->windows / part;
	return stages;
}

static int prepare(struct greedy *greedy, const struct kvs_pair *pairs)
{
	const struct kvs_calib_text *text = greedy->search->text;
	size_t tokens = (size_t)text->windows * text->window_tokens, at = 0;
	int err = calib_maps_create(greedy->maps->layers, &greedy->candidate_maps);

	greedy->stages = calib_nll_stages(text, greedy->stage_windows);
	greedy->candidates = calloc(greedy->count, sizeof(*greedy->candidates));
	greedy->token_losses = malloc(2 * sizeof(*greedy->token_losses) * tokens);
	if (!err && (!greedy->candidates || !greedy->token_losses))
		err = kvs_fail(-ENOMEM, "no memory for %zu pairs", greedy->count);
	if (err)
		return err;
	greedy->present_losses = greedy->token_losses + tokens;
	for (int layer = 0; layer < greedy->maps->layers; layer++)
		for (size_t i = 0; i < greedy->count; i++)
			if (pairs[i].layer == layer)
				greedy->candidates[at++] = (struct candidate){.pair = pairs[i], .tried_at = -1};
	if (greedy->search->options->policy == KVS_POLICY_OWNER)
		err = kvs_rerun_create(greedy->search->engine, (int)tokens, copies_that_fit(greedy), &greedy->rerun);
	return err;
}

int calib_search_greedy(
	struct calib_search *search, const struct kvs_pair *pairs, size_t count, struct calib_maps *maps)
{
	struct greedy greedy = {.search = search, .count = count, .maps = maps};
	int err = prepare(&greedy, pairs);

	if (!err)
		err = measure_present(&greedy);
	if (!err)
		err = try_all(&greedy);
	if (!err)
		err = take_cheapest(&greedy);
	kvs_rerun_free(greedy.rerun);
	calib_maps_clear(&greedy.candidate_maps);
	free(greedy.candidates);
	free(greedy.token_losses);
	return err;
}
