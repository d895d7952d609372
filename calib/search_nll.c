/*
 * calib/search_nll.c: the greedy walk by measured loss.
 *
 * Each step takes the pair that costs least. A pair's cost in an earlier step stands in as an estimate until the pair
 * is the cheapest: then it is measured again, and taken if it is still the cheapest. A trial runs only from the pair's
 * layer up, or from a little below, as the residual of the trial before is kept there (rerun.c). The first trials, of
 * every pair, go up from layer to layer, so few residuals have to be kept: they fit where the means were, which are
 * dropped by then.
 *
 * With the policy `last` every trial runs the whole model, pass by pass: a layer that borrows changes what its owner, and
 * so the layers between them, read in the next pass.
 */
#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

struct candidate {
	struct kvs_pair pair;
	double cost;  /* nats that it added to the loss when it was tried */
	int tried_at; /* number of tensors that shared then; -1: never tried */
	bool dead;    /* its layer shares, or its owner does */
};

struct greedy {
	struct calib_search *search;
	kvs_rerun *rerun; /* NULL: whole runs */
	struct candidate *candidates;
	size_t count, alive;
	struct calib_maps *maps, candidate_maps;
	double nll;    /* of maps */
	float *losses; /* [windows * window_tokens] */
};

/* ---- running ---- */

static struct kvs_batch batch_at(const struct calib_search *search, int window)
{
	const struct kvs_calib_text *text = search->text;
	int together = kvs_engine_batch_rows(search->engine) / text->window_tokens, left = text->windows - window;

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
	size_t pair = sizeof(struct kvs_pair) + sizeof(struct candidate) + 2 * sizeof(struct kvs_trial);
	size_t host = greedy->count * pair + rows * (sizeof(*greedy->losses) + sizeof(int));
	size_t copy = rows * sizeof(float) * capture->hidden_size;

	return !capture->k && means > host + copy ? (int)((means - host) / copy) : 1;
}

/* The loss with `maps`. Another pair of layer `layer` may come next, so the residual at its input is kept. */
static int try_maps(struct greedy *greedy, const struct calib_maps *maps, int layer, double *nll)
{
	struct calib_search *search = greedy->search;
	const struct kvs_calib_text *text = search->text;
	size_t count = (size_t)text->windows * text->window_tokens;
	struct kvs_batch batch;
	double sum = 0;
	kvs_plan *plan;
	int err = calib_maps_plan(maps, &plan);

	if (err)
		return err;
	err = kvs_engine_set_plan(search->engine, plan);
	kvs_plan_free(plan);
	for (int w = 0; w < text->windows && !err; w += batch.sequences) {
		batch = batch_at(search, w);
		err = greedy->rerun ? kvs_rerun_batch(greedy->rerun, &batch, layer)
				    : kvs_engine_run_batch(search->engine, &batch);
		if (!err)
			err = kvs_engine_batch_score(
				search->engine, text->window_targets + batch.first, greedy->losses + batch.first, NULL);
	}
	if (err)
		return err;
	for (size_t i = 0; i < count; i++)
		sum += greedy->losses[i];
	*nll = sum / count;
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

static struct candidate *cheapest(struct greedy *greedy)
{
	struct candidate *best = NULL;

	for (size_t i = 0; i < greedy->count; i++) {
		struct candidate *c = &greedy->candidates[i];
		if (!c->dead && (!best || c->cost < best->cost))
			best = c;
	}
	return best;
}

static struct kvs_trial trial_of(const struct candidate *c)
{
	return (struct kvs_trial){
		KVS_WALK_NLL, c->pair.what, c->pair.layer, c->pair.owner, c->pair.distance, NAN, NAN, NAN, NAN, false};
}

static int try_candidate(struct greedy *greedy, struct candidate *c)
{
	struct kvs_trial trial = trial_of(c);
	int err = 0;

	if (calib_search_recall(greedy->search, &trial)) {
		greedy->search->result->replayed++;
	} else {
		calib_maps_apply(greedy->maps, &c->pair, &greedy->candidate_maps);
		err = try_maps(greedy, &greedy->candidate_maps, c->pair.layer, &trial.nll);
	}
	if (err)
		return err;
	c->cost = trial.nll - greedy->nll;
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
	greedy->nll += c->cost;
	mark_accepted(greedy->search->result, &c->pair);
	bury(greedy);
	return calib_search_accept(greedy->search, KVS_WALK_NLL, greedy->maps, greedy->nll);
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
			err = c->tried_at == greedy->maps->tensors ? take(greedy, c) : try_candidate(greedy, c);
	}
	return err;
}

static int prepare(struct greedy *greedy, const struct kvs_pair *pairs)
{
	const struct kvs_calib_text *text = greedy->search->text;
	int err = calib_maps_create(greedy->maps->layers, &greedy->candidate_maps);

	greedy->candidates = calloc(greedy->count, sizeof(*greedy->candidates));
	greedy->losses = malloc(sizeof(*greedy->losses) * text->windows * text->window_tokens);
	if (!err && (!greedy->candidates || !greedy->losses))
		err = kvs_fail(-ENOMEM, "no memory for %zu pairs", greedy->count);
	for (size_t i = 0; i < greedy->count && !err; i++)
		greedy->candidates[i] = (struct candidate){.pair = pairs[i], .tried_at = -1};
	return err;
}

int calib_search_greedy(
	struct calib_search *search, const struct kvs_pair *pairs, size_t count, struct calib_maps *maps)
{
	struct greedy greedy = {
		.search = search, .count = count, .alive = count, .maps = maps, .nll = search->result->full_nll};
	int err = prepare(&greedy, pairs);

	if (!err && search->options->policy == KVS_POLICY_OWNER)
		err = kvs_rerun_create(search->engine, search->text->windows * search->text->window_tokens,
			copies_that_fit(&greedy), &greedy.rerun);
	if (!err)
		err = try_all(&greedy);
	if (!err)
		err = take_cheapest(&greedy);
	kvs_rerun_free(greedy.rerun);
	calib_maps_clear(&greedy.candidate_maps);
	free(greedy.candidates);
	free(greedy.losses);
	return err;
}
