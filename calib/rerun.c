/*
 * calib/rerun.c: batches that are run again with other plans, from the middle of the model.
 *
 * A rerun skips the layers whose result would be the same again. It needs their K and V, which are still in slot 0, and
 * the residual that they produced, which is kept at the input of a few layers only. `starts` has for each token the
 * highest layer that a rerun can start at. The invariant: with the present plan
 *   - K and V of the layers below it are right,
 *   - and so is the residual kept at its input and, if they have a copy of their own, at the input of layers below it.
 * A plan that differs from some layer on lowers the starts above that layer. So trials may overwrite each other's K and
 * V, and a search that tries ever higher layers runs each of them only once more for all trials at that layer.
 *
 * The engine knows nothing of this. It counts generations: tokens that something else wrote or truncated since the last
 * rerun start at layer 0 again.
 */
#include "calib.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

struct kvs_rerun {
	kvs_engine *engine;
	int layers, hidden;
	int tokens, copies;
	CUdeviceptr kept;         /* f32 [copy][token of slot 0][hidden] */
	int *starts;              /* [tokens] */
	int *k_owners, *v_owners; /* [layers] each: the plan that the starts are for; one allocation at k_owners */
	uint64_t seen;            /* the engine's generation that the starts are for */
};

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

/* ---- the residuals that are kept ---- */

/*
 * The layer whose input copy `copy` > 0 always keeps. Copy 0 moves, and layer 0 needs none: its input is the embedding.
 */
static int kept_layer(const kvs_rerun *rerun, int copy)
{
	return copy * rerun->layers / rerun->copies;
}

/* The highest layer up to `layer` whose input has a copy of its own, or layer 0. */
static int fixed_layer(const kvs_rerun *rerun, int layer)
{
	int copy = rerun->copies - 1;

	while (kept_layer(rerun, copy) > layer)
		copy--;
	return kept_layer(rerun, copy);
}

/* The copy that keeps the input of layer `l`: one of its own, or the one that moves. */
static int copy_of(const kvs_rerun *rerun, int l)
{
	for (int copy = 1; copy < rerun->copies; copy++)
		if (kept_layer(rerun, copy) == l)
			return copy;
	return 0;
}

static struct kvs_residual residual_at(const kvs_rerun *rerun, int layer, int first)
{
	size_t row = (size_t)copy_of(rerun, layer) * rerun->tokens + first;

	return (struct kvs_residual){layer, rerun->kept + row * rerun->hidden * sizeof(float)};
}

/* ---- the layer that a rerun starts at ---- */

static int owner_of(const kvs_plan *plan, int l, bool is_k)
{
	return plan ? kvs_plan_owner(plan, l, is_k ? KVS_K : KVS_V) : l;
}

/* Notes the engine's plan, and returns the first layer at which it differs from the one noted before. */
static int take_plan(kvs_rerun *rerun)
{
	const kvs_plan *plan = kvs_engine_plan(rerun->engine);
	int first = rerun->layers;

	for (int l = rerun->layers; l--;) {
		int k = owner_of(plan, l, true), v = owner_of(plan, l, false);
		if (k != rerun->k_owners[l] || v != rerun->v_owners[l])
			first = l;
		rerun->k_owners[l] = k;
		rerun->v_owners[l] = v;
	}
	return first;
}

/* Lowers the starts to the layers that the present plan, and changes of the slot by others, allow. */
static void catch_up(kvs_rerun *rerun)
{
	int layer = take_plan(rerun), fixed = fixed_layer(rerun, layer);

	for (int t = 0; t < rerun->tokens; t++) {
		if (rerun->starts[t] > layer)
			rerun->starts[t] = fixed;
		if (kvs_engine_token_generation(rerun->engine, t) > rerun->seen)
			rerun->starts[t] = 0;
	}
	rerun->seen = kvs_engine_generation(rerun->engine);
}

/* The highest layer up to `layer` that all rows of a batch can start at. */
static int common_start(const kvs_rerun *rerun, int first, int rows, int layer)
{
	int lowest = rerun->starts[first], highest = lowest;

	for (int t = first; t < first + rows; t++) {
		lowest = smaller(lowest, rerun->starts[t]);
		highest = rerun->starts[t] > highest ? rerun->starts[t] : highest;
	}
	return lowest == highest && lowest <= layer ? lowest : fixed_layer(rerun, smaller(lowest, layer));
}

/* ---- running ---- */

/* Keeps the input of `layer`, and of the layers between `start` and it that have a copy of their own. */
static int run_from(kvs_rerun *rerun, const struct kvs_batch *batch, int start, int layer)
{
	struct kvs_residual from = residual_at(rerun, start, batch->first), keep[KVS_MAX_LAYERS];
	int count = 0;

	for (int l = start + 1; l <= layer; l++)
		if (l == layer || copy_of(rerun, l))
			keep[count++] = residual_at(rerun, l, batch->first);
	return kvs_engine_run_batch_from(rerun->engine, batch, start ? &from : NULL, keep, count);
}

static int check(const kvs_rerun *rerun, const struct kvs_batch *batch, int layer)
{
	if (layer < 1 || layer >= rerun->layers)
		return kvs_fail(-EINVAL, "a rerun for layer %d; 1 to %d are possible", layer, rerun->layers - 1);
	if (batch->sequences < 1 || batch->tokens < 1 || batch->first < 0 || batch->first > rerun->tokens ||
		batch->sequences > (rerun->tokens - batch->first) / batch->tokens)
		return kvs_fail(-EINVAL,
			"a rerun of %d sequences of %d tokens at token %d: residuals are kept of %d tokens",
			batch->sequences, batch->tokens, batch->first, rerun->tokens);
	return 0;
}

int kvs_rerun_batch(kvs_rerun *rerun, const struct kvs_batch *batch, int layer)
{
	int err = check(rerun, batch, layer), rows = err ? 0 : batch->sequences * batch->tokens;

	if (err)
		return err;
	catch_up(rerun);
	err = run_from(rerun, batch, common_start(rerun, batch->first, rows, layer), layer);
	if (err)
		return err; /* the engine has counted on, if it wrote anything */
	rerun->seen = kvs_engine_generation(rerun->engine);
	for (int t = batch->first; t < batch->first + rows; t++)
		rerun->starts[t] = layer;
	return 0;
}

/* ---- create and free ---- */

static int allocate(kvs_rerun *rerun)
{
	size_t rows = (size_t)rerun->copies * rerun->tokens, bytes = rows * rerun->hidden * sizeof(float);
	kvs_cu *cu = kvs_engine_cu(rerun->engine);
	CUresult result = cu->cuMemAlloc(&rerun->kept, bytes);

	if (result) {
		rerun->kept = 0;
		return kvs_cu_fail(cu, result, "%zu MiB for %d residuals of %d tokens each", bytes >> 20, rerun->copies,
			rerun->tokens);
	}
	rerun->starts = calloc(rerun->tokens, sizeof(*rerun->starts));
	rerun->k_owners = calloc(2 * rerun->layers, sizeof(*rerun->k_owners));
	if (!rerun->starts || !rerun->k_owners)
		return kvs_fail(-ENOMEM, "no memory for the residuals of %d tokens", rerun->tokens);
	rerun->v_owners = rerun->k_owners + rerun->layers;
	return 0;
}

int kvs_rerun_create(kvs_engine *engine, int tokens, int copies, kvs_rerun **out)
{
	const struct kvs_config *config = kvs_engine_config(engine);
	kvs_rerun *rerun;
	int err;

	copies = smaller(copies, config->layers);
	if (tokens < 1 || copies < 1 || tokens > INT_MAX / copies)
		return kvs_fail(-EINVAL, "%d copies of the residuals of %d tokens", copies, tokens);
	rerun = malloc(sizeof(*rerun));
	if (!rerun)
		return kvs_fail(-ENOMEM, "no memory for the residuals of %d tokens", tokens);
	*rerun = (struct kvs_rerun){.engine = engine,
		.layers = config->layers,
		.hidden = config->hidden,
		.tokens = tokens,
		.copies = copies};
	err = allocate(rerun);
	if (err) {
		kvs_rerun_free(rerun);
		return err;
	}
	*out = rerun;
	return 0;
}

void kvs_rerun_free(kvs_rerun *rerun)
{
	if (!rerun)
		return;
	/* If the wait was stopped, the device still uses the memory, which then goes with the context. */
	if (rerun->kept && kvs_engine_wait(rerun->engine) != -ECANCELED)
		KVS_CU_GIVE_BACK(kvs_engine_cu(rerun->engine)->cuMemFree, rerun->kept);
	free(rerun->starts);
	free(rerun->k_owners);
	free(rerun);
}
