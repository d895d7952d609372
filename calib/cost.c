/*
 * calib/cost.c: how much goes through the model until a piece of work is done, for progress bars and the time left.
 *
 * All are estimates, in tokens that go through the whole model. Where they come from more than arithmetic, it is searches of
 * SmolLM2 and of the fixture model (docs/measurements/host-models.md).
 */
#include "compensate/pair_costs.h"
#include "search.h"

#include <math.h>

double kvs_capture_cost(const struct kvs_calib_text *text)
{
	return (double)text->samples * text->sample_tokens;
}

/* The sums of each matrix, and its solution, take as long as a pass; a layer is run up to five times in part. */
double kvs_compensate_cost(const struct kvs_calib_text *text)
{
	return 10 * kvs_capture_cost(text);
}

/* Each layer is fitted to four owners; the layers above it run once more on the quarter that is held back. */
static double refit_cost(const struct kvs_calib_text *text, int layers)
{
	return fmin(kvs_capture_cost(text), CALIB_PAIR_TOKENS) * (4 * 10 + layers / 8.0);
}

/* A trial starts from the middle of the model, where trials of one layer come together. */
static double walk_cost(const struct kvs_search_options *options, const struct kvs_calib_text *text)
{
	double trials = options->share * (options->pairs.split ? 2.0 : 1.0);

	return trials * kvs_capture_cost(text) * (options->policy == KVS_POLICY_OWNER ? 0.6 : 1);
}

double calib_nll_trials(const struct kvs_calib_text *text, double layers)
{
	int windows[CALIB_STAGES];

	calib_nll_stages(text, windows);
	return (double)windows[0] / text->windows + 0.26 * fmin(1, layers / 2) + 0.05 * fmax(0, layers - 2);
}

/* A trial runs from its layer up, which is half of the model on average. */
static double nll_cost(const struct kvs_search_options *options, const struct kvs_calib_text *text, int layers)
{
	double free_layers = layers - options->pairs.protect_last,
	       pairs = free_layers * (free_layers - 1) / 2 * (options->pairs.split ? 2 : 1);

	return pairs * calib_nll_trials(text, options->share) * text->windows * text->window_tokens *
	       (options->policy == KVS_POLICY_OWNER ? 0.5 : 1);
}

double calib_walk_cost(
	const struct kvs_search_options *options, const struct kvs_calib_text *text, int layers, enum kvs_walk walk)
{
	return walk == KVS_WALK_NLL     ? nll_cost(options, text, layers)
	       : walk == KVS_WALK_REFIT ? refit_cost(text, layers)
					: walk_cost(options, text);
}

double kvs_search_cost(const struct kvs_search_options *options, const struct kvs_calib_text *text, int layers)
{
	double cost = 0;

	for (enum kvs_walk walk = 0; walk < KVS_WALK_COUNT; walk++)
		cost += calib_walk_is_wanted(options, walk) ? calib_walk_cost(options, text, layers, walk) : 0;
	return cost;
}
