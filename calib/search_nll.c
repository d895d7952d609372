/*
 * calib/search_nll.c: the greedy walk by measured loss.
 *
 * Each step takes the pair that costs least. A pair's cost in an earlier step stands in as an estimate until the pair
 * is the cheapest: then it is measured again, and taken if it is still the cheapest.
 *
 * Most pairs cost many times what the cheapest does, and a part of the text shows it. So in the first step a pair is measured on a
 * quarter of the windows; if it may still be the cheapest, on another quarter, and on the rest. Until then it counts as if it
 * cost nothing on the windows that are left. Sharing could lower the loss there, so that it should have gone on: that is
 * neglected. Later steps come to few of the pairs, and measure these on all windows: a part would have to be tried again each time.
 *
 * A trial runs only from the pair's layer up, or from a little below, as the residual of the trial before is kept there
 * (rerun.c). The first trials, of every pair, go up from layer to layer, so few residuals have to be kept: they fit where the
 * means were, which are dropped by then.
 *
 * With the policy `last` every trial runs the whole model, pass by pass: a layer that borrows changes what its owner, and
 * so the layers between them, read in the next pass.
 */
#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define MOST_STAGES 3
#define LEAST_PART_TOKENS 256

struct candidate {
	struct kvs_pair pair;
	double nll;   /* with it, on the stages that were measured */
	double cost;  /* nats a token that it added on them when it was tried */
	int stages;   /* of the latest trial */
	int tried_at; /* number of tensors that shared then; -1: never tried */
	bool dead;    /* its layer shares, or its owner does */
};

struct greedy {
	struct calib_search *search;
	kvs_rerun *rerun; /* NULL: whole runs */
	struct candidate *candidates;
	size_t count, alive;
	struct calib_maps *maps, candidate_maps;
	int stage_windows[MOST_STAGES], stages; /* windows up to the end of each */
	double present[MOST_STAGES]; /* loss of maps up to the end of each; later steps need the last alone */
	float *token_losses;         /* [windows * window_tokens] */
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
	size_t host = greedy->count * pair + rows * (sizeof(*greedy->token_losses) + sizeof(int));
	size_t copy = rows * sizeof(float) * capture->hidden_size;

	return !capture->k && means > host + copy ? (int)((means - host) / copy) : 1;
}

static size_t tokens_up_to(const struct greedy *greedy, int stage)
{
	return (size_t)greedy->stage_windows[stage] * greedy->search->text->window_tokens;
}

/* Runs windows into `token_losses`. The residual at the input of `layer` is kept, for its next pair. */
static int run_windows(struct greedy *greedy, const struct calib_maps *maps, int layer, int first, int end)
{
	struct calib_search *search = greedy->search;
	struct kvs_batch batch;
	kvs_plan *plan;
	int err = calib_maps_plan(maps, &plan);

	if (err)
		return err;
	err = kvs_engine_set_plan(search->engine, plan);
	kvs_plan_free(plan);
	for (int w = first; w < end && !err; w += batch.sequences) {
		batch = batch_at(search, w, end);
		err = greedy->rerun ? kvs_rerun_batch(greedy->rerun, &batch, layer)
				    : kvs_engine_run_batch(search->engine, &batch);
		if (!err)
			err = kvs_engine_batch_score(search->engine, search->text->window_targets + batch.first,
				greedy->token_losses + batch.first, NULL);
	}
	return err;
}

/*
 * *nll, of the first `done` stages, becomes that up to the end of `stage`: the sum goes on from the mean, which is all that a
 * resumed search has of it.
 */
static int try_stages(struct greedy *greedy, const struct calib_maps *maps, int layer, int done, int stage, double *nll)
{
	size_t first = done ? tokens_up_to(greedy, done - 1) : 0, end = tokens_up_to(greedy, stage);
	double sum = done ? *nll * first : 0;
	int err = run_windows(
		greedy, maps, layer, done ? greedy->stage_windows[done - 1] : 0, greedy->stage_windows[stage]);

	if (err)
		return err;
	for (size_t i = first; i < end; i++)
		sum += greedy->token_losses[i];
	*nll = sum / end;
	return isfinite(sum) ? 0 : kvs_fail(-EIO, "the loss is not a number: the model's weights may be damaged");
}

/* ---- choosing ---- */

/*
 * Strikes out pairs whose layer or owner borrows by now. Borrowing from a borrower would be a chain to the owner's
 * owner, which is a candidate of its own.
 */
static void bury(struct greedy *greedy)
{
	greedy->alive = 0;
	for (size_t i = 0; i < greedy->count; i++) {
		struct candidate *c = &greedy->candidates[i];
		struct kvs_pair owner = {c->pair.what, c->pair.owner, 0, 0};
		c->dead = calib_maps_borrows(greedy->maps, &c->pair) || calib_maps_borrows(greedy->maps, &owner);
		greedy->alive += !c->dead;
	}
}

static bool is_fresh(const struct greedy *greedy, const struct candidate *c)
{
	return c->tried_at == greedy->maps->tensors;
}

/* What the pair costs at least, if it costs nothing on the windows that it was not measured on. */
static double least_cost(const struct greedy *greedy, const struct candidate *c)
{
	return c->cost * greedy->stage_windows[c->stages - 1] / greedy->search->text->windows;
}

static struct candidate *cheapest(struct greedy *greedy)
{
	struct candidate *best = NULL;
	double least = INFINITY;

	for (size_t i = 0; i < greedy->count; i++) {
		struct candidate *c = &greedy->candidates[i];
		if (c->dead || least_cost(greedy, c) >= least)
			continue;
		least = least_cost(greedy, c);
		best = c;
	}
	return best;
}

static struct kvs_trial trial_of(const struct greedy *greedy, const struct candidate *c, int stage)
{
	return (struct kvs_trial){.walk = KVS_WALK_NLL,
		.what = c->pair.what,
		.layer = c->pair.layer,
		.owner = c->pair.owner,
		.distance = c->pair.distance,
		.cosine = NAN,
		.nll = NAN,
		.tokens = (int)tokens_up_to(greedy, stage),
		.left = NAN,
		.kl = NAN};
}

/* In the first step measures the pair on its next stage, later on all of them. */
static int try_candidate(struct greedy *greedy, struct candidate *c)
{
	bool first_step = !greedy->maps->tensors;
	int done = first_step ? c->stages : 0, stage = first_step ? c->stages : greedy->stages - 1, err = 0;
	struct kvs_trial trial = trial_of(greedy, c, stage);

	if (calib_search_recall(greedy->search, &trial)) {
		greedy->search->result->replayed++;
		c->nll = trial.nll;
	} else {
		calib_maps_apply(greedy->maps, &c->pair, &greedy->candidate_maps);
		err = try_stages(greedy, &greedy->candidate_maps, c->pair.layer, done, stage, &c->nll);
	}
	if (err)
		return err;
	trial.nll = c->nll;
	c->cost = c->nll - greedy->present[stage];
	c->stages = stage + 1;
	c->tried_at = greedy->maps->tensors;
	return calib_search_record(greedy->search, &trial);
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
	calib_maps_apply(greedy->maps, &c->pair, &greedy->candidate_maps);
	calib_maps_swap(greedy->maps, &greedy->candidate_maps);
	greedy->present[greedy->stages - 1] = c->nll;
	mark_accepted(greedy->search->result, &c->pair);
	bury(greedy);
	return calib_search_accept(greedy->search, KVS_WALK_NLL, greedy->maps, c->nll);
}

static int try_layer(struct greedy *greedy, int layer, size_t *done)
{
	int err = 0;

	for (size_t i = 0; i < greedy->count && !err; i++) {
		struct candidate *c = &greedy->candidates[i];
		if (c->pair.layer != layer)
			continue;
		err = calib_search_tell(greedy->search, "nll: every pair", (*done)++, greedy->count);
		if (!err)
			err = try_candidate(greedy, c);
	}
	return err;
}

static int try_all(struct greedy *greedy)
{
	size_t done = 0;
	int err = 0;

	for (int layer = 1; layer < greedy->maps->layers && !err; layer++)
		err = try_layer(greedy, layer, &done);
	return err;
}

static int take_cheapest(struct greedy *greedy)
{
	struct calib_search *search = greedy->search;
	int err = 0;

	while (!err && greedy->maps->tensors < search->target && greedy->alive) {
		struct candidate *c = cheapest(greedy);
		err = calib_search_tell(search, "nll: greedy", greedy->maps->tensors, search->target);
		if (!err)
			err = is_fresh(greedy, c) && c->stages == greedy->stages ? take(greedy, c)
										 : try_candidate(greedy, c);
	}
	return err;
}

/* A quarter of the windows, half of them, all; parts of few tokens say too little. */
static void set_stages(struct greedy *greedy)
{
	const struct kvs_calib_text *text = greedy->search->text;

	for (int part = 4; part; part /= 2)
		if (part == 1 || text->windows / part * text->window_tokens >= LEAST_PART_TOKENS)
			greedy->stage_windows[greedy->stages++] = text->windows / part;
}

/* What the unshared model loses up to the end of each stage. */
static int measure_present(struct greedy *greedy)
{
	double nll = 0;
	int err = 0;

	for (int stage = 0; stage < greedy->stages && !err; stage++) {
		err = try_stages(greedy, greedy->maps, 1, stage, stage, &nll);
		greedy->present[stage] = nll;
	}
	return err;
}

static int prepare(struct greedy *greedy, const struct kvs_pair *pairs)
{
	const struct kvs_calib_text *text = greedy->search->text;
	int err = calib_maps_create(greedy->maps->layers, &greedy->candidate_maps);

	set_stages(greedy);
	greedy->candidates = calloc(greedy->count, sizeof(*greedy->candidates));
	greedy->token_losses = malloc(sizeof(*greedy->token_losses) * text->windows * text->window_tokens);
	if (!err && (!greedy->candidates || !greedy->token_losses))
		err = kvs_fail(-ENOMEM, "no memory for %zu pairs", greedy->count);
	for (size_t i = 0; i < greedy->count && !err; i++)
		greedy->candidates[i] = (struct candidate){.pair = pairs[i], .tried_at = -1};
	return err;
}

int calib_search_greedy(
	struct calib_search *search, const struct kvs_pair *pairs, size_t count, struct calib_maps *maps)
{
	struct greedy greedy = {.search = search, .count = count, .alive = count, .maps = maps};
	int err = prepare(&greedy, pairs);

	if (!err && search->options->policy == KVS_POLICY_OWNER)
		err = kvs_rerun_create(search->engine, search->text->windows * search->text->window_tokens,
			copies_that_fit(&greedy), &greedy.rerun);
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
