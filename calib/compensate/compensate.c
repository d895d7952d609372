/*
 * calib/compensate/compensate.c: refits the matrices of a model for the plan that it runs with.
 *
 * A borrower's attention yields other values than its own K and V would; its W_q and W_o were trained for those. In the order of
 * the layers, W_q is turned to the owner's keys (queries.c), then W_o takes the residual from where it is to where the
 * original model has it behind this attention, then W_down takes it to where the original has it behind the layer. So each
 * matrix makes up for a part of the damage below it too, and later layers help: W_o of layers that do not borrow, and all W_down.
 *
 * walk.c runs the two models, ridge.c solves. Here is which matrix comes when, and what becomes of it.
 */
#include "lapack.h"
#include "matrices.h"
#include "queries.h"
#include "ridge.h"
#include "skip.h"
#include "stopped.h"
#include "walk.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_TOKENS_PER_COLUMN 2 /* of W_o; with fewer, the fit follows the sample and not the text */
#define LEAST_SAMPLES 2           /* one is held back from the others */
#define NEWTON_STEPS 3            /* of each head's queries */

struct fit {
	struct calib_walk walk;
	const kvs_checkpoint *ckpt;
	const struct kvs_config *config;
	unsigned matrices;
	double ridge;
	struct calib_lapack *lapack;
	struct calib_ridge outputs, down; /* open only if their matrices are asked for */
	struct calib_ridge linear;        /* of maps in place of attention: open only if they are asked for */
	struct calib_skip skip;           /* open only if it has a rank */
	int rank;                         /* of b a, where a layer gets them */
	struct calib_queries queries;
	float *values, *bias; /* the present matrix, of any kind; its bias */
	float *skip_a, *skip_b;
	const float *bias_or_null;
	struct kvs_compensation kept; /* of a fit that was stopped; as its layers are reached, they move to `out` */
	size_t taken;                 /* of its matrices */
	struct kvs_compensation *out;
};

/* ---- the checkpoint's matrices ---- */

/* The old matrix into `values`, its bias into `bias`, and the type that it will have. */
static int read_old(struct fit *fit, struct kvs_refit *refit)
{
	bool biased;
	int err = calib_matrix_read(fit->ckpt, fit->config, refit, fit->values, fit->bias, &biased);

	fit->bias_or_null = !err && biased ? fit->bias : NULL;
	return err;
}

/* `values`, rounded, becomes the engine's, and one of the results. */
static int put_new(struct fit *fit, struct kvs_refit *refit)
{
	size_t bytes = sizeof(float) * refit->rows * refit->cols;
	int err = kvs_engine_set_matrix(
		fit->walk.engine, refit->name, refit->rows, refit->cols, refit->dtype, fit->values);

	if (err)
		return err;
	refit->values = malloc(bytes);
	if (!refit->values)
		return kvs_fail(-ENOMEM, "no memory for %s", refit->name);
	memcpy(refit->values, fit->values, bytes);
	fit->out->refits[fit->out->count++] = *refit;
	return 0;
}

/* ---- W_q ---- */

static int fit_heads(struct fit *fit, struct kvs_refit *refit, bool *better)
{
	int dim = fit->config->head_dim, heads = fit->config->heads, err = 0;
	double *matrices = malloc(sizeof(*matrices) * dim * ((size_t)heads * dim + 2 * fit->walk.hidden));
	double *work = matrices + (size_t)heads * dim * dim;
	struct calib_query_result *results = malloc(sizeof(*results) * heads);

	if (!matrices || !results)
		err = kvs_fail(-ENOMEM, "no memory for %s", refit->name);
	fit->queries.done = fit->walk.done;
	fit->queries.total = fit->walk.total;
	if (!err)
		err = calib_queries_fit_all(&fit->queries, matrices, results);
	for (int h = 0; h < heads && !err; h++) {
		refit->before += results[h].before / heads;
		refit->after += results[h].after / heads;
		if (results[h].better)
			calib_matrix_turn(
				fit->lapack, fit->config, h, matrices + (size_t)h * dim * dim, work, fit->values);
		*better |= results[h].better;
	}
	free(matrices);
	free(results);
	return err;
}

static int refit_queries(struct fit *fit, int layer)
{
	struct kvs_refit refit = calib_matrix_describe(fit->config, KVS_REFIT_QUERIES, layer);
	bool better = false;
	int err = calib_walk_compensated(&fit->walk, layer, CALIB_AT_QUERIES, &fit->queries, NULL, NULL);

	if (!err)
		err = read_old(fit, &refit);
	if (!err)
		err = fit_heads(fit, &refit, &better);
	return err || !better ? err : put_new(fit, &refit);
}

/* ---- W_o and W_down ---- */

static void take_attended(void *arg, const struct calib_rows *rows)
{
	struct fit *fit = arg;

	calib_ridge_add(&fit->outputs, fit->lapack, rows->part, rows->rows, rows->attended, rows->target, rows->before,
		fit->bias_or_null);
}

static void take_gated(void *arg, const struct calib_rows *rows)
{
	struct fit *fit = arg;

	calib_ridge_add(&fit->down, fit->lapack, rows->part, rows->rows, rows->gated, rows->target, rows->reached,
		fit->bias_or_null);
}

/*
 * Borrowers' W_o may become any matrix; the others are pulled to what they were, as they fit their own attention. Most of them
 * gain nothing, which the strongest pull shows.
 */
static struct calib_ridge_choice choice_of(const struct fit *fit, enum kvs_refit_kind kind)
{
	static const double outputs[] = {CALIB_OUTPUT_STRENGTHS}, others[] = {1, 0.3, 0.1};

	if (kind == KVS_REFIT_OUTPUTS)
		return (struct calib_ridge_choice){.strengths = fit->ridge > 0 ? &fit->ridge : outputs,
			.count = fit->ridge > 0 ? 1 : sizeof(outputs) / sizeof(*outputs)};
	return (struct calib_ridge_choice){
		.strengths = others, .count = sizeof(others) / sizeof(*others), .pull = true, .ends = true};
}

static int refit_by_ridge(struct fit *fit, enum kvs_refit_kind kind, int layer)
{
	struct calib_ridge *ridge = kind == KVS_REFIT_DOWN ? &fit->down : &fit->outputs;
	struct kvs_refit refit = calib_matrix_describe(fit->config, kind, layer);
	struct calib_ridge_choice choice = choice_of(fit, kind);
	struct calib_ridge_result result;
	int err = read_old(fit, &refit);

	calib_ridge_clear(ridge);
	if (!err && kind == KVS_REFIT_DOWN)
		err = calib_walk_compensated(&fit->walk, layer, CALIB_AT_GATED, NULL, take_gated, fit);
	else if (!err)
		err = calib_walk_compensated(&fit->walk, layer, CALIB_AT_ATTENDED, NULL, take_attended, fit);
	if (!err)
		err = calib_ridge_fit(ridge, fit->lapack, &choice, fit->values, &result);
	if (err || !result.better)
		return err;
	refit.strength = result.strength;
	refit.before = result.before;
	refit.after = result.after;
	if (kind == KVS_REFIT_DOWN)
		fit->walk.ended = false;
	return put_new(fit, &refit);
}

/* ---- W_o and a skip ---- */

static bool projects_none(const struct fit *fit, int layer)
{
	return kvs_plan_owner(fit->walk.plan, layer, KVS_K) != layer &&
	       kvs_plan_owner(fit->walk.plan, layer, KVS_V) != layer;
}

static bool takes_skip(const struct fit *fit, int layer)
{
	return fit->skip.rank && projects_none(fit, layer);
}

static bool is_linear(const struct fit *fit, int layer)
{
	return fit->linear.cols && projects_none(fit, layer);
}

static void take_both(void *arg, const struct calib_rows *rows)
{
	struct fit *fit = arg;

	take_attended(arg, rows);
	calib_skip_add(&fit->skip, fit->lapack, rows->part, rows->rows, rows->attended, rows->normed, rows->target,
		rows->before, fit->bias_or_null);
}

static int keep_half(struct fit *fit, const struct kvs_refit *outputs, bool is_a, const float *values, double before)
{
	struct kvs_refit refit = *outputs;
	size_t bytes = sizeof(float) * fit->rank * fit->walk.hidden;

	refit.kind = is_a ? KVS_REFIT_SKIP_A : KVS_REFIT_SKIP_B;
	refit.rows = is_a ? fit->rank : fit->walk.hidden;
	refit.cols = is_a ? fit->walk.hidden : fit->rank;
	refit.before = before;
	kvs_skip_name(refit.layer, is_a ? 'a' : 'b', refit.name);
	refit.values = malloc(bytes);
	if (!refit.values)
		return kvs_fail(-ENOMEM, "no memory for %s", refit.name);
	memcpy(refit.values, values, bytes);
	fit->out->refits[fit->out->count++] = refit;
	return 0;
}

/* `skip_a` and `skip_b` become the engine's, and two of the results; `before`: the error without them. */
static int put_halves(struct fit *fit, const struct kvs_refit *outputs, double before)
{
	int err = kvs_engine_set_skip(
		fit->walk.engine, outputs->layer, fit->rank, outputs->dtype, fit->skip_a, fit->skip_b);

	if (!err)
		err = keep_half(fit, outputs, true, fit->skip_a, before);
	return err ? err : keep_half(fit, outputs, false, fit->skip_b, before);
}

/* W_o alone is the measure: a skip that does not do better on the held rows is left out. */
static int refit_with_skip(struct fit *fit, int layer)
{
	struct kvs_refit refit = calib_matrix_describe(fit->config, KVS_REFIT_OUTPUTS, layer);
	struct calib_ridge_choice choice = choice_of(fit, KVS_REFIT_OUTPUTS);
	struct calib_ridge_result alone, both = {0};
	int err = read_old(fit, &refit);

	calib_ridge_clear(&fit->outputs);
	calib_skip_clear(&fit->skip);
	if (!err)
		err = calib_walk_compensated(&fit->walk, layer, CALIB_AT_ATTENDED, NULL, take_both, fit);
	if (!err)
		err = calib_ridge_fit(&fit->outputs, fit->lapack, &choice, fit->values, &alone);
	if (!err)
		err = calib_skip_fit(
			&fit->skip, fit->lapack, &choice, alone.held, fit->values, fit->skip_a, fit->skip_b, &both);
	if (err || (!alone.better && !both.better))
		return err;
	refit.strength = both.better ? both.strength : alone.strength;
	refit.before = alone.before;
	refit.after = both.better ? both.after : alone.after;
	err = put_new(fit, &refit);
	return err || !both.better ? err : put_halves(fit, &refit, alone.after);
}

/* ---- a linear map in place of attention ---- */

static void take_normed(void *arg, const struct calib_rows *rows)
{
	struct fit *fit = arg;

	calib_ridge_add(&fit->linear, fit->lapack, rows->part, rows->rows, rows->normed, rows->target, rows->before,
		fit->bias_or_null);
}

/*
 * W x in place of the whole attention: a skip b (a x) of full rank with a = 1 and b = W, beside a W_o of zeros. The engine needs
 * to know nothing new, but the layer's attention still runs, times zero: so its loss is that of the map, and its time is not. The
 * attention goes in any case, as that is what was asked for: where no map does better than nothing on the held rows, W is 0.
 */
static int linearise(struct fit *fit, int layer)
{
	struct kvs_refit refit = calib_matrix_describe(fit->config, KVS_REFIT_OUTPUTS, layer);
	struct calib_ridge_choice choice = choice_of(fit, KVS_REFIT_OUTPUTS);
	size_t hidden = fit->walk.hidden;
	struct calib_ridge_result result;
	int err = read_old(fit, &refit); /* for its type and its bias, which stays */

	calib_ridge_clear(&fit->linear);
	memset(fit->values, 0, sizeof(*fit->values) * refit.rows * refit.cols);
	memset(fit->skip_a, 0, sizeof(*fit->skip_a) * hidden * hidden);
	memset(fit->skip_b, 0, sizeof(*fit->skip_b) * hidden * hidden);
	for (size_t i = 0; i < hidden; i++)
		fit->skip_a[i * hidden + i] = 1;
	if (!err)
		err = calib_walk_compensated(&fit->walk, layer, CALIB_AT_ATTENDED, NULL, take_normed, fit);
	if (!err)
		err = calib_ridge_fit(&fit->linear, fit->lapack, &choice, fit->skip_b, &result);
	if (err)
		return err;
	refit.strength = result.better ? result.strength : NAN;
	refit.before = result.before;
	refit.after = result.after;
	err = put_new(fit, &refit);
	return err ? err : put_halves(fit, &refit, result.before);
}

/* ---- a layer ---- */

/* The matrices of a layer that are refitted. */
static unsigned kinds_of(const struct fit *fit, int layer)
{
	const kvs_plan *plan = fit->walk.plan;
	unsigned kinds = 0;

	if (layer < fit->walk.first)
		return 0;
	if (kvs_plan_owner(plan, layer, KVS_K) != layer && !fit->config->qk_norm && !is_linear(fit, layer))
		kinds |= KVS_REFIT_QUERIES;
	kinds |= calib_borrows(plan, layer) ? KVS_REFIT_OUTPUTS : KVS_REFIT_ABOVE;
	return (kinds | KVS_REFIT_DOWN) & fit->matrices;
}

/* A matrix that was fitted before becomes the engine's, and one of the results. A skip's second half comes with its first. */
static int put_kept(struct fit *fit, struct kvs_refit *kept)
{
	bool is_skip = kept->kind == KVS_REFIT_SKIP_A || kept->kind == KVS_REFIT_SKIP_B;
	int err = 0;

	if (kept->kind == KVS_REFIT_SKIP_A)
		err = kvs_engine_set_skip(
			fit->walk.engine, kept->layer, kept->rows, kept->dtype, kept->values, kept[1].values);
	else if (!is_skip)
		err = kvs_engine_set_matrix(
			fit->walk.engine, kept->name, kept->rows, kept->cols, kept->dtype, kept->values);
	if (err)
		return err;
	fit->out->refits[fit->out->count++] = *kept;
	kept->values = NULL;
	return 0;
}

/* In place of fits: the original sees the layer as it was, the other model as it was refitted. */
static int take_kept(struct fit *fit, int layer)
{
	int err = calib_walk_original(&fit->walk, layer, NULL);

	for (; !err && fit->taken < fit->kept.count && fit->kept.refits[fit->taken].layer == layer; fit->taken++)
		err = put_kept(fit, &fit->kept.refits[fit->taken]);
	return err;
}

/* The last layer with a matrix to refit; above it nothing needs to run. */
static int last_layer(const struct fit *fit)
{
	int last = fit->walk.layers - 1;

	while (last >= fit->walk.first && !kinds_of(fit, last))
		last--;
	return last;
}

static int refit_matrices(struct fit *fit, int layer)
{
	unsigned kinds = kinds_of(fit, layer);
	bool queries = kinds & KVS_REFIT_QUERIES;
	int err;

	fit->queries.window = fit->config->window[layer];
	if (queries) {
		struct kvs_refit refit = calib_matrix_describe(fit->config, KVS_REFIT_QUERIES, layer);
		err = read_old(fit, &refit); /* for the bias, which the queries come with */
		fit->queries.bias = fit->bias_or_null;
		if (err)
			return err;
	}
	err = calib_walk_original(&fit->walk, layer, queries ? &fit->queries : NULL);
	if (!err && queries)
		err = refit_queries(fit, layer);
	if (!err && kinds & KVS_REFIT_OUTPUTS && is_linear(fit, layer))
		err = linearise(fit, layer);
	else if (!err && kinds & KVS_REFIT_OUTPUTS && takes_skip(fit, layer))
		err = refit_with_skip(fit, layer);
	else if (!err && kinds & (KVS_REFIT_OUTPUTS | KVS_REFIT_ABOVE))
		err = refit_by_ridge(fit, kinds & (KVS_REFIT_OUTPUTS | KVS_REFIT_ABOVE), layer);
	if (!err && kinds & KVS_REFIT_DOWN)
		err = refit_by_ridge(fit, KVS_REFIT_DOWN, layer);
	return err;
}

static int refit_layer(struct fit *fit, int layer, bool is_last)
{
	int err = layer < fit->kept.layers ? take_kept(fit, layer) : refit_matrices(fit, layer);

	if (err)
		return err;
	if (layer >= fit->walk.first)
		fit->out->layers = layer + 1;
	if (is_last || layer < fit->walk.first)
		return 0;
	if (!fit->walk.ended)
		return calib_walk_compensated(&fit->walk, layer, CALIB_AT_END, NULL, NULL, NULL);
	calib_walk_step(&fit->walk);
	return 0;
}

static int refit_layers(struct fit *fit)
{
	int last = last_layer(fit), err = 0;

	for (int l = 0; l <= last; l++) {
		unsigned kinds = l < fit->kept.layers ? 0 : kinds_of(fit, l);
		fit->walk.total += fit->walk.text->samples * (1 + (l >= fit->walk.first && l < last));
		for (; kinds; kinds &= kinds - 1)
			fit->walk.total += fit->walk.text->samples;
	}
	for (int l = 0; l <= last && !err; l++)
		err = refit_layer(fit, l, l == last);
	return err;
}

/* ---- set up ---- */

int kvs_skip_rank(const struct kvs_config *config)
{
	int most = config->ff < config->hidden ? config->ff : config->hidden,
	    rank = config->kv_heads * config->head_dim;

	return rank < most ? rank : most;
}

/* A map in place of attention is a skip of full rank, for which the engine has room where the feed-forward block is as wide. */
static int check_linear(const struct kvs_config *config, const struct kvs_compensate_options *options)
{
	if (options->skip || options->stopped || (options->matrices && !(options->matrices & KVS_REFIT_OUTPUTS)))
		return kvs_fail(-EINVAL,
			"a linear map in place of attention takes the place of W_o and of a skip, and cannot be "
			"resumed: neither without W_o, nor with a skip or a file of a stopped fit");
	if (config->hidden > config->ff)
		return kvs_fail(-EINVAL,
			"linear: a map of %d columns in place of attention takes a feed-forward block as wide, this "
			"model's has %d",
			config->hidden, config->ff);
	return 0;
}

int kvs_compensate_check(const struct kvs_config *config, const struct kvs_calib_text *text,
	const struct kvs_compensate_options *options)
{
	int columns = options->linear && config->hidden > config->heads * config->head_dim
			      ? config->hidden
			      : config->heads * config->head_dim;
	int tokens = text->samples * text->sample_tokens;
	int least = LEAST_TOKENS_PER_COLUMN * columns, most = config->ff < config->hidden ? config->ff : config->hidden;

	if (options->ridge < 0 || !isfinite(options->ridge))
		return kvs_fail(-EINVAL, "a ridge of %g: it must be above 0", options->ridge);
	if (options->skip < 0 || options->skip > most)
		return kvs_fail(-EINVAL, "a skip of rank %d: this model takes 1 to %d (--skip)", options->skip, most);
	if (options->linear && check_linear(config, options))
		return -EINVAL;
	if (!text->held_back)
		return kvs_fail(-EINVAL,
			"compensation is checked on text after the samples, and there is none: give more text or fewer "
			"--samples");
	if (tokens < least)
		return kvs_fail(-EINVAL,
			"compensation fits matrices of %d columns, which takes %d tokens or more, and the samples have "
			"%d: raise --samples, --sample-tokens or --fit-samples",
			columns, least, tokens);
	if (text->samples < LEAST_SAMPLES || text->sample_tokens < CALIB_QUERY_STRIDE)
		return kvs_fail(-EINVAL,
			"compensation takes %d samples of %d tokens or more, these are %d of %d: --samples, "
			"--sample-tokens",
			LEAST_SAMPLES, CALIB_QUERY_STRIDE, text->samples, text->sample_tokens);
	return 0;
}

static int open_queries(struct fit *fit)
{
	fit->queries = (struct calib_queries){.lapack = fit->lapack,
		.progress = fit->walk.progress,
		.steps = NEWTON_STEPS,
		.rotations = fit->walk.rotations};
	return calib_queries_open(&fit->queries, fit->config, fit->walk.text);
}

static int allocate(struct fit *fit, const struct kvs_compensate_options *options)
{
	size_t hidden = fit->walk.hidden, heads_dim = fit->walk.heads_dim, ff = fit->walk.ff;
	size_t widest = ff > heads_dim ? ff : heads_dim, tallest = hidden > heads_dim ? hidden : heads_dim;
	int rank = options->linear ? fit->walk.hidden : options->skip, err = 0;

	fit->rank = rank;
	fit->out->refits = calloc((size_t)CALIB_LAYER_MATRICES * fit->walk.layers, sizeof(*fit->out->refits));
	fit->values = malloc(sizeof(float) * hidden * widest);
	fit->bias = malloc(sizeof(float) * tallest);
	fit->skip_a = malloc(sizeof(float) * hidden * (rank + 1));
	fit->skip_b = malloc(sizeof(float) * hidden * (rank + 1));
	if (!fit->out->refits || !fit->values || !fit->bias || !fit->skip_a || !fit->skip_b)
		return kvs_fail(-ENOMEM, "no memory for the refits of %d layers", fit->walk.layers);
	if (fit->matrices & (KVS_REFIT_OUTPUTS | KVS_REFIT_ABOVE))
		err = calib_ridge_open(fit->walk.heads_dim, fit->walk.hidden, &fit->outputs);
	if (!err && options->linear)
		err = calib_ridge_open(rank, rank, &fit->linear);
	if (!err && fit->matrices & KVS_REFIT_OUTPUTS && options->skip)
		err = calib_skip_open(fit->walk.heads_dim, fit->walk.hidden, rank, &fit->skip);
	if (!err && fit->matrices & KVS_REFIT_DOWN)
		err = calib_ridge_open(fit->walk.ff, fit->walk.hidden, &fit->down);
	return err;
}

static int set_up(struct fit *fit, const struct kvs_compensate_options *options)
{
	int err = kvs_compensate_check(fit->config, fit->walk.text, options);

	if (!err)
		err = calib_lapack_open(&fit->lapack);
	if (!err)
		err = calib_walk_open(&fit->walk);
	if (!err)
		err = allocate(fit, options);
	return err ? err : open_queries(fit);
}

/* ---- a fit that is stopped ---- */

/* What was kept is of use where the plan's loss is what it was: another device rounds otherwise, and so would the rest of the fit. */
static int measure_plan(struct fit *fit, const char *stopped)
{
	double nll;
	int err = kvs_measure_nll(fit->walk.engine, fit->walk.text, fit->walk.plan, NULL, &nll);

	if (err)
		return err;
	fit->out->plain_nll = nll;
	if (!fit->kept.layers || nll == fit->kept.plain_nll)
		return 0;
	return kvs_fail(-EINVAL,
		"%s: the fit in it cannot be resumed: the plan's loss was %.9g there and is %.9g here: another device, "
		"or another --kv-dtype" CALIB_STOPPED_ANEW,
		stopped, fit->kept.plain_nll, nll);
}

/* How many layers of this fit the file has, of one that began anew too. */
static int layers_kept(struct fit *fit, const struct calib_fit_settings *settings)
{
	const struct kvs_compensate_options *options = settings->options;

	if (!options->resume && calib_stopped_read(options->stopped, settings, &fit->kept))
		return 0;
	return fit->kept.plain_nll == fit->out->plain_nll ? fit->kept.layers : 0;
}

/* After -ECANCELED: the finished layers go into the file, if they are more than it has. *layers: how many it has then. */
static int keep(struct fit *fit, const struct calib_fit_settings *settings, int *layers)
{
	struct kvs_compensation *out = fit->out;
	int err;

	*layers = fit->kept.layers;
	if (!settings->options->stopped || !out->layers)
		return -ECANCELED;
	*layers = layers_kept(fit, settings);
	if (out->layers <= *layers)
		return kvs_fail(-ECANCELED, "stopped while compensating");
	while (out->count && out->refits[out->count - 1].layer >= out->layers)
		free(out->refits[--out->count].values);
	err = calib_stopped_write(settings->options->stopped, settings, out);
	if (err)
		return err;
	*layers = out->layers;
	return -ECANCELED;
}

static void clear(struct fit *fit)
{
	calib_queries_close(&fit->queries);
	calib_ridge_close(&fit->outputs);
	calib_ridge_close(&fit->down);
	calib_ridge_close(&fit->linear);
	calib_skip_close(&fit->skip);
	calib_walk_close(&fit->walk);
	calib_lapack_close(fit->lapack);
	kvs_compensation_clear(&fit->kept);
	free(fit->values);
	free(fit->bias);
	free(fit->skip_a);
	free(fit->skip_b);
}

int kvs_compensate(kvs_engine *engine, const kvs_checkpoint *ckpt, const struct kvs_calib_text *text,
	const kvs_plan *plan, const struct kvs_compensate_options *options, const struct kvs_calib_progress *progress,
	struct kvs_compensation *out)
{
	struct fit fit = {.walk = {.engine = engine, .text = text, .plan = plan, .progress = progress},
		.ckpt = ckpt,
		.config = kvs_engine_config(engine),
		.matrices = options->matrices ? options->matrices : KVS_REFIT_ALL,
		.ridge = options->ridge,
		.out = out};
	struct calib_fit_settings settings = {engine, ckpt, text, plan, options};
	int err, layers = 0;

	*out = (struct kvs_compensation){.tokens = text->samples * text->sample_tokens,
		.skip = options->skip,
		.queries_normalised = fit.config->qk_norm};
	err = set_up(&fit, options);
	if (!err && options->stopped && options->resume)
		err = calib_stopped_read(options->stopped, &settings, &fit.kept);
	if (!err)
		err = measure_plan(&fit, options->stopped);
	if (!err)
		err = refit_layers(&fit);
	if (!err)
		err = kvs_measure_nll(engine, text, plan, NULL, &out->nll);
	out->applied = !err && out->count && out->nll < out->plain_nll;
	if (err == -ECANCELED)
		err = keep(&fit, &settings, &layers);
	clear(&fit);
	if (!err)
		return 0;
	kvs_compensation_clear(out);
	out->layers = layers;
	return err;
}

void kvs_compensation_clear(struct kvs_compensation *compensation)
{
	for (size_t i = 0; i < compensation->count; i++)
		free(compensation->refits[i].values);
	free(compensation->refits);
	*compensation = (struct kvs_compensation){0};
}
