/*
 * calib/search_refit.c: the greedy walk by what compensation leaves.
 *
 * A plan that is bad alone may be the best one to compensate: a layer's neighbour has keys that turned queries can ask, while
 * layer 0, which costs less alone, has not. So each pair is fitted alone (compensate/pair_costs.c), and a pair costs the divergence
 * of the model's predictions that is left. It is measured for the best owner of each layer; the others of that layer cost more
 * by the ratio of their errors behind the attention. Pairs are then taken from the cheapest on. The costs are of single pairs, on the
 * original's residual: that they add up is an assumption.
 *
 * An owner may not borrow, and a borrower may not own. Owners tried are the three layers below, and layer 0.
 */
#include "compensate/pair_costs.h"
#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define NEAR 3 /* owners below a layer */

struct candidate {
	struct kvs_pair pair;
	double left, cost;
};

struct refit_walk {
	struct calib_search *search;
	struct calib_pairs *pairs;    /* NULL: nothing had to be fitted yet */
	struct candidate *candidates; /* by layer */
	size_t count, done;
	struct calib_maps *maps, next;
};

/* ---- candidates ---- */

static void add(struct refit_walk *walk, const struct kvs_config *config, int layer, int owner)
{
	if (config->window[layer] == config->window[owner])
		walk->candidates[walk->count++].pair =
			(struct kvs_pair){.layer = layer, .owner = owner, .distance = NAN};
}

static int list(struct refit_walk *walk)
{
	const struct kvs_config *config = kvs_engine_config(walk->search->engine);
	int last = config->layers - walk->search->options->pairs.protect_last;

	walk->candidates = calloc((size_t)(NEAR + 1) * config->layers, sizeof(*walk->candidates));
	if (!walk->candidates)
		return kvs_fail(-ENOMEM, "no memory for the pairs of %d layers", config->layers);
	for (int layer = 1; layer < last; layer++) {
		for (int owner = layer - 1; owner >= 0 && owner >= layer - NEAR; owner--)
			add(walk, config, layer, owner);
		if (layer > NEAR)
			add(walk, config, layer, 0);
	}
	return 0;
}

/* ---- fits ---- */

/* The callback of the fits, which tell how many pairs are done. */
static bool pair_step(void *arg, const char *what, size_t done, size_t total)
{
	return !calib_search_tell(arg, what, total ? (double)done / total : 0);
}

static int open_pairs(struct refit_walk *walk)
{
	const struct kvs_search_options *options = walk->search->options;
	struct kvs_calib_progress progress = {pair_step, walk->search};

	if (walk->pairs)
		return 0;
	return calib_pairs_open(walk->search->engine, options->ckpt, walk->search->text, &progress, &walk->pairs);
}

static struct kvs_trial trial_of(const struct candidate *c)
{
	return (struct kvs_trial){.walk = KVS_WALK_REFIT,
		.layer = c->pair.layer,
		.owner = c->pair.owner,
		.distance = NAN,
		.cosine = NAN,
		.nll = NAN,
		.left = c->left,
		.kl = NAN};
}

/* Fits the pair, or measures what comes out of the model with it. */
static int try_pair(struct refit_walk *walk, const struct candidate *c, bool measured, struct kvs_trial *trial)
{
	int err;

	*trial = trial_of(c);
	if (calib_search_recall(walk->search, trial)) {
		walk->search->result->replayed++;
		if (measured && isnan(trial->kl))
			return calib_trials_damaged();
		return calib_search_record(walk->search, trial);
	}
	err = open_pairs(walk);
	if (err)
		return err;
	calib_pairs_at(walk->pairs, walk->done, walk->count);
	err = measured ? calib_pairs_measure(walk->pairs, trial->layer, trial->owner, &trial->kl)
		       : calib_pairs_try(walk->pairs, trial->layer, trial->owner, &trial->left);
	return err ? err : calib_search_record(walk->search, trial);
}

/* All pairs of one layer, which are `count` from `first` on. */
static int try_layer(struct refit_walk *walk, struct candidate *first, size_t count)
{
	struct candidate *best = first;
	struct kvs_trial trial = {0};
	int err = 0;

	for (size_t i = 0; i < count && !err; i++, walk->done++) {
		err = calib_search_tell(walk->search, "refit: every pair", walk->done / (double)walk->count);
		if (!err)
			err = try_pair(walk, &first[i], false, &trial);
		first[i].left = trial.left;
		if (first[i].left < best->left)
			best = &first[i];
	}
	if (!err)
		err = try_pair(walk, best, true, &trial);
	for (size_t i = 0; i < count && !err; i++)
		first[i].cost = best->left > 0 ? trial.kl * first[i].left / best->left : trial.kl;
	return err;
}

static int try_all(struct refit_walk *walk)
{
	int err = 0;

	for (size_t i = 0, count; i < walk->count && !err; i += count) {
		for (count = 1; i + count < walk->count &&
				walk->candidates[i + count].pair.layer == walk->candidates[i].pair.layer;)
			count++;
		err = try_layer(walk, &walk->candidates[i], count);
	}
	return err;
}

/* ---- choosing ---- */

static bool owns(const struct calib_maps *maps, int layer)
{
	for (int l = 0; l < maps->layers; l++)
		if (l != layer && maps->k[l] == layer)
			return true;
	return false;
}

static const struct candidate *cheapest(const struct refit_walk *walk)
{
	const struct calib_maps *maps = walk->maps;
	const struct candidate *best = NULL;

	for (size_t i = 0; i < walk->count; i++) {
		const struct candidate *c = &walk->candidates[i];
		if (maps->k[c->pair.layer] != c->pair.layer || maps->k[c->pair.owner] != c->pair.owner ||
			owns(maps, c->pair.layer))
			continue;
		if (!best || c->cost < best->cost)
			best = c;
	}
	return best;
}

static void mark_accepted(struct kvs_search_result *result, const struct kvs_pair *pair)
{
	for (size_t i = 0; i < result->trial_count; i++) {
		struct kvs_trial *trial = &result->trials[i];
		if (trial->walk == KVS_WALK_REFIT && trial->layer == pair->layer && trial->owner == pair->owner)
			trial->accepted = true;
	}
}

static int take_cheapest(struct refit_walk *walk)
{
	const struct candidate *c;
	int err = 0;

	while (!err && walk->maps->tensors < walk->search->target && (c = cheapest(walk))) {
		calib_maps_apply(walk->maps, &c->pair, &walk->next);
		calib_maps_swap(walk->maps, &walk->next);
		mark_accepted(walk->search->result, &c->pair);
		err = calib_search_accept(walk->search, KVS_WALK_REFIT, walk->maps, NAN);
	}
	return err;
}

int calib_search_refit(struct calib_search *search, struct calib_maps *maps)
{
	struct refit_walk walk = {.search = search, .maps = maps};
	int err = calib_maps_create(maps->layers, &walk.next);

	if (!err)
		err = list(&walk);
	if (!err)
		err = try_all(&walk);
	if (walk.pairs)
		calib_pairs_close(walk.pairs); /* its temporary files; the engine is as it was */
	if (!err)
		err = take_cheapest(&walk);
	calib_maps_clear(&walk.next);
	free(walk.candidates);
	return err;
}
