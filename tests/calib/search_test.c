/*
 * tests/calib/search_test.c: the promises of a search, on a small random model: reruns from the middle equal whole
 * runs, greedy finds the same as trying every pair, a stopped search goes on where it was, K and V apart, protected
 * layers, sweeps.
 */
#include "../../calib/calib.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define WINDOWED "tests/golden/models/qwen2-window"
#define SAMPLES 3
#define SAMPLE_TOKENS 12
#define WINDOWS 3
#define WINDOW_TOKENS 20

static kvs_cu *cu;

/* A model with a text of random tokens, captured. */
struct fixture {
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	struct kvs_calib_text text;
	struct kvs_capture capture;
	kvs_rerun *rerun; /* NULL: none yet */
	int layers, vocab;
};

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static int32_t *random_ids(size_t count, int vocab)
{
	int32_t *ids = malloc(sizeof(*ids) * count);
	unsigned seed = 7;

	assert_non_null(ids);
	for (size_t i = 0; i < count; i++)
		ids[i] = rand_r(&seed) % vocab;
	return ids;
}

static struct fixture open_fixture_of(const char *model, int rows, int windows, int window_tokens)
{
	struct fixture f = {.text = {.samples = SAMPLES,
				    .sample_tokens = SAMPLE_TOKENS,
				    .windows = windows,
				    .window_tokens = window_tokens,
				    .held_back = true,
				    .digest = "0123456789abcdef"}};
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true, .chunk_tokens = rows};

	must(kvs_checkpoint_open(model, &f.ckpt));
	f.layers = kvs_checkpoint_config(f.ckpt)->layers;
	f.vocab = kvs_checkpoint_config(f.ckpt)->vocab;
	f.text.ids = random_ids(SAMPLES * SAMPLE_TOKENS, f.vocab);
	f.text.window_ids = random_ids((size_t)windows * window_tokens, f.vocab);
	f.text.window_targets = random_ids((size_t)windows * window_tokens, f.vocab);
	must(kvs_calib_open_engine(cu, f.ckpt, &options, &f.text, 1, &f.engine));
	must(kvs_capture_run(f.engine, &f.text, NULL, &f.capture));
	return f;
}

static struct fixture open_fixture(const char *model, int rows)
{
	return open_fixture_of(model, rows, WINDOWS, WINDOW_TOKENS);
}

/* Replaces the rerun. */
static void keep_residuals(struct fixture *f, int tokens, int copies)
{
	kvs_rerun_free(f->rerun);
	must(kvs_rerun_create(f->engine, tokens, copies, &f->rerun));
}

static void close_fixture(struct fixture *f)
{
	kvs_rerun_free(f->rerun);
	kvs_capture_clear(&f->capture);
	kvs_engine_close(f->engine);
	kvs_calib_text_clear(&f->text);
	kvs_checkpoint_close(f->ckpt);
}

static struct kvs_search_result search(struct fixture *f, const struct kvs_search_options *options)
{
	struct kvs_search_result result;

	must(kvs_search_run(f->engine, &f->text, &f->capture, options, &result));
	return result;
}

static kvs_plan *plan_of(const char *owners)
{
	kvs_plan *plan;

	must(kvs_plan_parse(owners, &plan));
	return plan;
}

/* ---- the engine's batches ---- */

static struct kvs_batch all_windows(const struct fixture *f)
{
	return (struct kvs_batch){
		.ids = f->text.window_ids, .sequences = f->text.windows, .tokens = f->text.window_tokens};
}

/* One more pair, or (as if the walk went back or took another one) new owners, K and V apart. */
static void change_owners(int *k, int *v, int layers, unsigned *seed)
{
	int layer = 1 + rand_r(seed) % (layers - 1), what = rand_r(seed) % 3;

	for (int l = 0; l < layers && rand_r(seed) % 3 == 0; l++)
		k[l] = v[l] = l;
	if (what != KVS_SHARE_V)
		kvs_owners_remap(k, layers, layer, rand_r(seed) % layer);
	if (what != KVS_SHARE_K)
		kvs_owners_remap(v, layers, layer, rand_r(seed) % layer);
	for (int l = 1; l < layers; l++) {
		k[l] = k[k[l]];
		v[l] = v[v[l]];
	}
}

static void assert_batch_is(struct fixture *f, const struct kvs_batch *batch, const float *whole)
{
	float part[WINDOWS * WINDOW_TOKENS];
	int rows = batch->sequences * batch->tokens;

	must(kvs_engine_batch_score(f->engine, f->text.window_targets + batch->first, part, NULL));
	assert_memory_equal(whole + batch->first, part, sizeof(*part) * rows);
}

/* Batch `b` of two windows, then of one; now and then the kept residuals are lost in between. */
static void rerun_at_random(struct fixture *f, int b, const float *whole, unsigned *seed)
{
	struct kvs_batch batch = {.ids = f->text.window_ids + 2 * b * WINDOW_TOKENS,
		.sequences = b ? 1 : 2,
		.tokens = WINDOW_TOKENS,
		.first = 2 * b * WINDOW_TOKENS};
	struct kvs_batch other = {.ids = f->text.window_targets, .sequences = 1, .tokens = 7, .first = batch.first + 9};
	static const float nothing[1024]; /* [kv_heads][head_dim] */

	if (rand_r(seed) % 8 == 0)
		must(kvs_engine_run_batch(f->engine, &other));
	if (rand_r(seed) % 16 == 0) {
		must(kvs_engine_truncate(f->engine, 0, 0));
		must(kvs_engine_append(f->engine, 0, other.ids, other.tokens));
	}
	if (rand_r(seed) % 8 == 0 && batch.first + 3 < kvs_engine_length(f->engine, 0))
		must(kvs_engine_write_kv(f->engine, rand_r(seed) % f->layers, batch.first + 3, nothing, nothing));
	must(kvs_rerun_batch(f->rerun, &batch, 1 + rand_r(seed) % (f->layers - 1)));
	assert_batch_is(f, &batch, whole);
}

#define STEPS 96

/*
 * A walk of plans, and the losses of a whole run of each. It has an engine of its own, which is closed before reruns
 * are made: two engines at a time would change OpenBLAS's number of threads, and so the rounding.
 */
static void walk_plans(kvs_plan **plans, float (*whole)[WINDOWS * WINDOW_TOKENS], unsigned *seed)
{
	struct fixture f = open_fixture(MODEL, 2 * WINDOW_TOKENS);
	int k[KVS_PLAN_MAX_LAYERS], v[KVS_PLAN_MAX_LAYERS];
	double nll;

	for (int l = 0; l < f.layers; l++)
		k[l] = v[l] = l;
	for (int step = 0; step < STEPS; step++) {
		change_owners(k, v, f.layers, seed);
		must(kvs_plan_create(f.layers, k, v, &plans[step]));
		must(kvs_measure_nll(f.engine, &f.text, plans[step], whole[step], &nll));
	}
	close_fixture(&f);
}

/* A rerun equals a whole run to the last bit, whatever plans, layers and batches came before. */
static void a_rerun_from_the_middle_is_a_whole_run(void **state)
{
	static float whole[STEPS][WINDOWS * WINDOW_TOKENS];
	const char *given = getenv("KVS_TEST_SEED");
	unsigned seed = given ? strtoul(given, NULL, 10) : (unsigned)time(NULL);
	kvs_plan *plans[STEPS];
	struct fixture f;

	(void)state;
	printf("KVS_TEST_SEED=%u\n", seed);
	walk_plans(plans, whole, &seed);
	f = open_fixture(MODEL, 2 * WINDOW_TOKENS);
	for (int step = 0; step < STEPS; step++) {
		if (step % (STEPS / 8) == 0) /* 1 to 8 copies, but at most one for each layer */
			keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1 + step / (STEPS / 8));
		must(kvs_engine_set_plan(f.engine, plans[step]));
		for (int b = 0; b < 2; b++)
			if (rand_r(&seed) % 4)
				rerun_at_random(&f, b, whole[step], &seed);
		kvs_plan_free(plans[step]);
	}
	close_fixture(&f);
}

static void assert_generations(struct fixture *f, int first_new, int tokens, uint64_t before)
{
	for (int t = 0; t < tokens; t++)
		assert_int_equal(kvs_engine_token_generation(f->engine, t) > before, t >= first_new);
	assert_true(kvs_engine_generation(f->engine) > before);
}

/*
 * Every change of a token's K and V is counted for that token alone: batches, appends, scores, single writes,
 * truncation.
 */
static void each_run_and_cut_is_a_generation(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch batch = {.ids = f.text.window_ids, .sequences = 1, .tokens = 8, .first = 0};
	static const float row[1024]; /* [kv_heads][head_dim] */
	uint64_t before;
	float nll[2];

	(void)state;
	must(kvs_engine_truncate(f.engine, 0, 0));
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_run_batch(f.engine, &batch));
	assert_generations(&f, 0, 8, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_append(f.engine, 0, batch.ids, 4));
	assert_generations(&f, 8, 12, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_score(f.engine, 0, batch.ids, batch.ids, 2, nll, NULL));
	assert_generations(&f, 12, 14, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_write_kv(f.engine, 0, 13, row, row));
	assert_generations(&f, 13, 14, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_truncate(f.engine, 0, 5));
	assert_generations(&f, 5, 14, before);
	close_fixture(&f);
}

/* With fewer rows at a time the rounding differs, and nothing else. */
static void batches_may_be_rerun_in_parts(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch all = all_windows(&f), second = all;
	float part[WINDOWS * WINDOW_TOKENS], whole[WINDOWS * WINDOW_TOKENS];
	kvs_plan *plan = plan_of("0,1,2,3,4,2");

	(void)state;
	second.ids += WINDOW_TOKENS;
	second.sequences = 1;
	second.first = WINDOW_TOKENS;
	must(kvs_engine_set_plan(f.engine, plan));
	must(kvs_engine_run_batch(f.engine, &all));
	must(kvs_engine_batch_score(f.engine, f.text.window_targets, whole, NULL));
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1);
	must(kvs_rerun_batch(f.rerun, &all, 3));
	must(kvs_rerun_batch(f.rerun, &second, 5));
	must(kvs_rerun_batch(f.rerun, &all, 5));
	must(kvs_engine_batch_score(f.engine, f.text.window_targets, part, NULL));
	for (int i = 0; i < WINDOWS * WINDOW_TOKENS; i++)
		assert_true(fabsf(part[i] - whole[i]) <= 1e-4f);
	kvs_plan_free(plan);
	close_fixture(&f);
}

/* The number of layers that ran, by the bytes that launches moved. */
static void assert_layers_run(struct fixture *f, const char *owners, int layer, int expected)
{
	struct kvs_batch batch = all_windows(f);
	kvs_plan *plan = plan_of(owners);
	uint64_t start = kvs_engine_bytes_moved(f->engine);
	double layers;

	must(kvs_engine_set_plan(f->engine, plan));
	must(kvs_rerun_batch(f->rerun, &batch, layer));
	layers = (double)(kvs_engine_bytes_moved(f->engine) - start);
	start = kvs_engine_bytes_moved(f->engine);
	batch.first = batch.sequences * batch.tokens; /* of these tokens nothing is kept */
	must(kvs_engine_run_batch(f->engine, &batch));
	layers *= (double)f->layers / (kvs_engine_bytes_moved(f->engine) - start);
	if (fabs(layers - expected) > 0.4)
		fail_msg("%s for layer %d: %.2f layers were run, not %d", owners, layer, layers, expected);
	kvs_plan_free(plan);
}

static void a_rerun_starts_as_high_as_it_can(void **state)
{
	static const struct {
		const char *owners;
		int layer, one_copy,
			three_copies; /* layers run; with three copies, the inputs of layers 2 and 4 are kept too */
	} rows[] = {
		{"0,1,2,3,4,5", 1, 6, 6},
		{"0,0,2,3,4,5", 1, 5, 5},
		{"0,1,0,3,4,5", 2, 5, 5},
		{"0,1,1,3,4,5", 2, 4, 4},
		{"0,1,2,3,4,0", 5, 4, 4},
		{"0,1,2,3,4,1", 5, 1, 1},
		{"0,1,2,0,4,5", 3, 6, 4},
		{"0,1,2,1,4,5", 3, 3, 3},
		{"0,1,2,1,4,0", 5, 3, 3}, /* the last pair was taken: that needs no run */
		{"0,1,1,3,4,0", 5, 6, 4},
	};
	struct fixture f = open_fixture(MODEL, 2 * WINDOWS * WINDOW_TOKENS);

	(void)state;
	for (int copies = 1; copies <= 3; copies += 2) {
		keep_residuals(&f, WINDOWS * WINDOW_TOKENS, copies);
		for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
			assert_layers_run(&f, rows[i].owners, rows[i].layer,
				copies == 1 ? rows[i].one_copy : rows[i].three_copies);
	}
	close_fixture(&f);
}

static size_t device_free(void)
{
	size_t left, total;

	assert_int_equal(cu->cuMemGetInfo(&left, &total), CUDA_SUCCESS);
	return left;
}

static void residuals_beyond_memory_leave_none_and_leak_nothing(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch batch = all_windows(&f);
	kvs_rerun *rerun;
	size_t before;

	(void)state;
	must(kvs_engine_run_batch(f.engine, &batch));
	before = device_free();
	assert_int_equal(kvs_rerun_create(f.engine, 1 << 30, 1, &rerun), -ENOMEM);
	assert_int_equal(kvs_rerun_create(f.engine, 1 << 30, 2, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, 1, 0, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, 0, 1, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, -1, 1, &rerun), -EINVAL);
	assert_int_equal(device_free(), before);
	must(kvs_rerun_create(f.engine, WINDOWS * WINDOW_TOKENS, 2, &rerun));
	must(kvs_rerun_batch(rerun, &batch, 1));
	kvs_rerun_free(rerun);
	assert_int_equal(device_free(), before);
	close_fixture(&f);
}

/* Sequences of one batch do not see each other: each scores as it does alone in an engine of its own. */
static void a_batch_is_its_sequences(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	float together[WINDOWS * WINDOW_TOKENS], alone[WINDOW_TOKENS];
	kvs_plan *plan = plan_of("0,1,0,3,0,1");
	struct kvs_engine_options options = {
		.plan = plan, .kv_dtype = KVS_F32, .kv_dtype_set = true, .ctx_tokens = WINDOW_TOKENS};
	kvs_engine *engine;
	double nll;

	(void)state;
	must(kvs_measure_nll(f.engine, &f.text, plan, together, &nll));
	must(kvs_engine_open(cu, f.ckpt, &options, &engine));
	for (int w = 0; w < WINDOWS; w++) {
		size_t at = (size_t)w * WINDOW_TOKENS;
		must(kvs_engine_truncate(engine, 0, 0));
		must(kvs_engine_score(
			engine, 0, f.text.window_ids + at, f.text.window_targets + at, WINDOW_TOKENS, alone, NULL));
		for (int i = 0; i < WINDOW_TOKENS; i++)
			assert_true(fabsf(alone[i] - together[at + i]) <= 1e-4f);
	}
	kvs_engine_close(engine);
	kvs_plan_free(plan);
	close_fixture(&f);
}

static void another_plan_needs_no_new_engine(void **state)
{
	kvs_checkpoint *ckpt;
	struct kvs_engine_options options = {.ctx_tokens = 64};
	kvs_plan *plan = plan_of("0,1,0,3,0,1"), *foreign = plan_of("0,1,2,1");
	kvs_engine *swapped, *opened;
	int32_t *ids = random_ids(32, 200);
	float *a, *b;

	(void)state;
	must(kvs_checkpoint_open(MODEL, &ckpt));
	a = malloc(sizeof(*a) * kvs_checkpoint_config(ckpt)->vocab);
	b = malloc(sizeof(*b) * kvs_checkpoint_config(ckpt)->vocab);
	must(kvs_engine_open(cu, ckpt, &options, &swapped));
	must(kvs_engine_append(swapped, 0, ids, 32));
	must(kvs_engine_set_plan(swapped, plan));
	assert_int_equal(kvs_engine_length(swapped, 0), 0);
	assert_int_equal(kvs_engine_set_plan(swapped, foreign), -EINVAL);
	options.plan = plan;
	must(kvs_engine_open(cu, ckpt, &options, &opened));
	must(kvs_engine_append(swapped, 0, ids, 32));
	must(kvs_engine_append(opened, 0, ids, 32));
	must(kvs_engine_logits(swapped, a));
	must(kvs_engine_logits(opened, b));
	assert_memory_equal(a, b, sizeof(*a) * kvs_checkpoint_config(ckpt)->vocab);
	assert_true(kvs_vmm_is_valid(kvs_engine_vmm(swapped)));
	kvs_engine_close(swapped);
	kvs_engine_close(opened);
	kvs_plan_free(plan);
	kvs_plan_free(foreign);
	kvs_checkpoint_close(ckpt);
	free(ids);
	free(a);
	free(b);
}

static void batches_that_do_not_fit_are_refused(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch good = all_windows(&f), wide = good, far = good, odd = good;
	int32_t id = f.vocab;

	(void)state;
	wide.sequences = kvs_engine_batch_rows(f.engine);
	assert_int_equal(kvs_engine_run_batch(f.engine, &wide), -EINVAL);
	far.first = 1 << 20;
	assert_int_equal(kvs_engine_run_batch(f.engine, &far), -EINVAL);
	odd = (struct kvs_batch){.ids = &id, .sequences = 1, .tokens = 1};
	assert_int_equal(kvs_engine_run_batch(f.engine, &odd), -EINVAL);
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS - 1, 1);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, 1), -EINVAL); /* nothing is kept of the last token */
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, 0), -EINVAL);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, f.layers), -EINVAL);
	assert_int_equal(kvs_engine_add_k(f.engine, f.layers, 0, 1, NULL), -EINVAL);
	close_fixture(&f);
}

/* ---- measures ---- */

static void a_plan_without_sharing_costs_nothing(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	kvs_plan *none = plan_of("0,1,2,3,4,5"), *some = plan_of("0,0,0,0,0,0");
	struct kvs_quality quality;
	kvs_reference *reference;
	double cosine, nll;

	(void)state;
	must(kvs_reference_create(f.engine, &f.text, NULL, &reference));
	must(kvs_measure_quality(f.engine, &f.text, reference, none, NULL, &quality));
	assert_true(quality.top1_agreement == 1 && fabs(quality.kl) < 1e-9);
	assert_true(fabs(quality.nll - quality.full_nll) < 1e-5);
	must(kvs_measure_cosine(f.engine, &f.text, &f.capture, none, KVS_COSINE_CODE, &cosine));
	assert_true(fabs(cosine - 1) < 1e-9);
	must(kvs_measure_quality(f.engine, &f.text, reference, some, NULL, &quality));
	must(kvs_measure_nll(f.engine, &f.text, some, NULL, &nll));
	assert_true(quality.top1_agreement < 1 && quality.kl > 1e-4);
	assert_true(fabs(quality.nll - nll) < 1e-5);
	kvs_reference_free(reference);
	kvs_plan_free(none);
	kvs_plan_free(some);
	close_fixture(&f);
}

/* ---- searches ---- */

/* One layer: the cheapest of all pairs, each measured by a whole run. */
static void nll_finds_what_trying_every_pair_finds(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_NLL, .share = 1};
	struct kvs_search_result result = search(&f, &options);
	double least = INFINITY;
	int best_layer = 0, best_owner = 0;

	(void)state;
	for (int layer = 1; layer < f.layers; layer++) {
		for (int owner = 0; owner < layer; owner++) {
			int owners[16];
			kvs_plan *plan;
			double nll;
			for (int l = 0; l < f.layers; l++)
				owners[l] = l == layer ? owner : l;
			must(kvs_plan_create(f.layers, owners, owners, &plan));
			must(kvs_measure_nll(f.engine, &f.text, plan, NULL, &nll));
			kvs_plan_free(plan);
			if (nll < least) {
				least = nll;
				best_layer = layer;
				best_owner = owner;
			}
		}
	}
	assert_int_equal(result.best.k_owners[best_layer], best_owner);
	assert_true(fabs(result.best.nll - least) < 1e-6);
	assert_int_equal(result.end, KVS_SEARCH_COMPLETE);
	kvs_search_result_clear(&result);
	close_fixture(&f);
}

/* With enough text only pairs that may be the cheapest are measured on all of it; a resumed search goes on between two parts. */
static void nll_measures_most_pairs_on_a_part_of_the_text(void **state)
{
	struct fixture f = open_fixture_of(MODEL, 0, 8, 128);
	struct kvs_search_options options = {.method = KVS_METHOD_NLL, .share = 2}, resumed = options;
	struct kvs_search_result whole = search(&f, &options), rest;
	size_t parts[3] = {0};

	(void)state;
	for (size_t i = 0; i < whole.trial_count; i++) {
		int tokens = whole.trials[i].tokens;
		assert_true(tokens == 256 || tokens == 512 || tokens == 1024);
		assert_true(tokens == 1024 || !whole.trials[i].accepted);
		parts[tokens / 512]++;
	}
	assert_true(parts[0] == (size_t)f.layers * (f.layers - 1) / 2 && parts[0] > parts[1] && parts[2] >= 2);
	for (resumed.replay = whole.trials; resumed.replay_count < whole.trial_count; resumed.replay_count += 11) {
		rest = search(&f, &resumed);
		assert_int_equal(rest.replayed, resumed.replay_count);
		assert_true(rest.trial_count == whole.trial_count && rest.best.nll == whole.best.nll);
		kvs_search_result_clear(&rest);
	}
	kvs_search_result_clear(&whole);
	close_fixture(&f);
}

/* The loss that a long greedy search carries along equals a fresh measurement of its plan. */
static void a_plans_loss_is_its_measured_loss(void **state)
{
	struct fixture f = open_fixture(MODEL, 2 * WINDOW_TOKENS);
	struct kvs_search_options options = {.method = KVS_METHOD_NLL, .share = 4};
	struct kvs_search_result result = search(&f, &options);
	kvs_plan *plan;
	double nll;

	(void)state;
	assert_int_equal(result.best.tensors, 8);
	must(kvs_plan_create(f.layers, result.best.k_owners, result.best.v_owners, &plan));
	must(kvs_measure_nll(f.engine, &f.text, plan, NULL, &nll));
	assert_true(fabs(nll - result.best.nll) < 1e-6);
	kvs_plan_free(plan);
	kvs_search_result_clear(&result);
	close_fixture(&f);
}

static void auto_keeps_the_walk_that_loses_least(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_AUTO, .share = 2, .threshold = -1};
	struct kvs_search_result result = search(&f, &options);
	double least = INFINITY;

	(void)state;
	for (int walk = 0; walk < KVS_WALK_COUNT; walk++) {
		assert_int_equal(
			result.walks[walk].k_owners != NULL, walk != KVS_WALK_RANDOM && walk != KVS_WALK_REFIT);
		if (result.walks[walk].k_owners)
			least = fmin(least, result.walks[walk].nll);
	}
	assert_true(result.best.nll == least);
	assert_true(result.cosine < 1);
	kvs_search_result_clear(&result);
	close_fixture(&f);
}

static int borrowers(const int *owners, int layers)
{
	int count = 0;

	for (int l = 0; l < layers; l++)
		count += owners[l] != l;
	return count;
}

static void split_shares_tensors_and_protects_the_last(void **state)
{
	static const enum kvs_method methods[] = {KVS_METHOD_KVSHARER, KVS_METHOD_NLL};
	struct fixture f = open_fixture(MODEL, 0);

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct kvs_search_options options = {
			.method = methods[i], .share = 2, .threshold = -1, .pairs = {.split = true, .protect_last = 2}};
		struct kvs_search_result result = search(&f, &options);
		const int *k = result.best.k_owners, *v = result.best.v_owners;
		assert_int_equal(result.best.tensors, 4);
		assert_int_equal(borrowers(k, f.layers) + borrowers(v, f.layers), 4);
		assert_memory_not_equal(k, v, sizeof(*k) * f.layers);
		for (int l = f.layers - 2; l < f.layers; l++)
			assert_true(k[l] == l && v[l] == l);
		kvs_search_result_clear(&result);
	}
	close_fixture(&f);
}

static void no_plan_crosses_an_attention_window(void **state)
{
	struct fixture f = open_fixture(WINDOWED, 0);
	const struct kvs_config *config = kvs_checkpoint_config(f.ckpt);
	int most = kvs_pairs_most_shared(config, 0);
	struct kvs_search_options options = {
		.method = KVS_METHOD_KVSHARER, .share = most, .threshold = -1, .sweep = true};
	struct kvs_search_result result = search(&f, &options);

	(void)state;
	assert_true(most == f.layers - 2); /* two kinds of window: an owner each */
	assert_int_equal(result.sweep_count, most);
	for (size_t n = 0; n < result.sweep_count; n++)
		for (int l = 0; l < f.layers; l++)
			assert_int_equal(config->window[l], config->window[result.sweep[n].k_owners[l]]);
	kvs_search_result_clear(&result);
	options.share = most + 1;
	assert_int_equal(kvs_search_run(f.engine, &f.text, &f.capture, &options, &result), -EINVAL);
	assert_non_null(strstr(kvs_error(), "window"));
	close_fixture(&f);
}

/* Each point of a sweep is the plan of a search for that many layers. */
static void a_sweep_is_the_search_for_every_number(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {
		.method = KVS_METHOD_AUTO, .share = f.layers - 1, .threshold = -1, .sweep = true};
	struct kvs_search_result sweep = search(&f, &options);

	(void)state;
	assert_int_equal(sweep.sweep_count, f.layers - 1);
	for (int n = 1; n < f.layers; n++) {
		struct kvs_search_options one = {.method = KVS_METHOD_AUTO, .share = n, .threshold = -1};
		struct kvs_search_result result = search(&f, &one);
		assert_memory_equal(
			result.best.k_owners, sweep.sweep[n - 1].k_owners, sizeof(*result.best.k_owners) * f.layers);
		assert_true(fabs(result.best.nll - sweep.sweep[n - 1].nll) < 1e-6);
		kvs_search_result_clear(&result);
	}
	kvs_search_result_clear(&sweep);
	close_fixture(&f);
}

/* ---- stopping ---- */

struct stopper {
	size_t steps, limit;
};

static bool stop_at_limit(void *arg, const char *what, size_t done, size_t total)
{
	struct stopper *stopper = arg;

	assert_non_null(what);
	assert_true(done <= total);
	return stopper->steps++ < stopper->limit;
}

static void assert_same_trials(const struct kvs_search_result *a, const struct kvs_search_result *b)
{
	assert_int_equal(a->trial_count, b->trial_count);
	for (size_t i = 0; i < a->trial_count; i++) {
		assert_int_equal(a->trials[i].walk, b->trials[i].walk);
		assert_int_equal(a->trials[i].layer, b->trials[i].layer);
		assert_int_equal(a->trials[i].owner, b->trials[i].owner);
		assert_int_equal(a->trials[i].accepted, b->trials[i].accepted);
	}
}

/* Through a saved plan, as --resume does it. */
static struct kvs_trial *save_and_load(struct fixture *f, const struct kvs_search_result *result,
	const struct kvs_search_options *options, size_t *count)
{
	struct kvs_plan_model model = {"llama", f->layers, 1, 64, "abc"};
	struct kvs_trial *trials;
	kvs_plan *plan, *loaded;
	char path[] = "/tmp/kvs-search-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	must(kvs_search_plan(result, &result->best, options, &f->text, &model, true, &plan));
	must(kvs_plan_save(plan, path));
	must(kvs_plan_load(path, &loaded));
	must(kvs_search_replay(loaded, options, &f->text, &trials, count));
	kvs_plan_free(plan);
	kvs_plan_free(loaded);
	remove(path);
	return trials;
}

/* Stopped at any step, the plan is valid, and the resumed search ends like one that was not stopped. */
static void a_stopped_search_goes_on_where_it_was(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_AUTO, .share = 2, .threshold = 0.5};
	struct kvs_search_result whole = search(&f, &options);
	struct stopper stopper = {0};

	(void)state;
	for (size_t limit = 0;; limit += 7) {
		struct kvs_search_options stopped = options, resumed = options;
		struct kvs_search_result part, rest;
		struct kvs_trial *trials;
		stopper = (struct stopper){0, limit};
		stopped.progress = (struct kvs_calib_progress){stop_at_limit, &stopper};
		part = search(&f, &stopped);
		if (part.end != KVS_SEARCH_STOPPED) {
			kvs_search_result_clear(&part);
			break;
		}
		assert_true(isfinite(part.full_nll));
		/* A stop takes effect at once: nothing more is measured, and only nll has measured on the way. */
		assert_true(isfinite(part.best.nll) || part.best.walk != KVS_WALK_NLL);
		trials = save_and_load(&f, &part, &options, &resumed.replay_count);
		assert_int_equal(resumed.replay_count, part.trial_count);
		resumed.replay = trials;
		rest = search(&f, &resumed);
		assert_int_equal(rest.replayed, part.trial_count);
		assert_same_trials(&rest, &whole);
		assert_memory_equal(rest.best.k_owners, whole.best.k_owners, sizeof(*rest.best.k_owners) * f.layers);
		free(trials);
		kvs_search_result_clear(&part);
		kvs_search_result_clear(&rest);
	}
	assert_true(stopper.limit > whole.trial_count / 2);
	kvs_search_result_clear(&whole);
	close_fixture(&f);
}

/* Trials of another search are refused, and the message names the setting that differs. */
static void a_search_goes_on_only_from_its_own_trials(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_KVSHARER, .share = 1, .threshold = 0.5},
				  other = options;
	struct kvs_search_result result = search(&f, &options);
	struct kvs_plan_model model = {"llama", f.layers, 1, 64, "abc"};
	struct kvs_trial *trials;
	size_t count;
	kvs_plan *plan;

	(void)state;
	must(kvs_search_plan(&result, &result.best, &options, &f.text, &model, true, &plan));
	other.threshold = 0.75;
	assert_int_equal(kvs_search_replay(plan, &other, &f.text, &trials, &count), -EINVAL);
	assert_non_null(strstr(kvs_error(), "threshold"));
	f.text.digest[0] = 'f';
	assert_int_equal(kvs_search_replay(plan, &options, &f.text, &trials, &count), -EINVAL);
	assert_non_null(strstr(kvs_error(), "text_digest"));
	kvs_plan_free(plan);
	kvs_search_result_clear(&result);
	close_fixture(&f);
}

static int open_device(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	return kvs_cu_open(device ? device : "host", &cu);
}

static int close_device(void **state)
{
	(void)state;
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rerun_from_the_middle_is_a_whole_run),
		cmocka_unit_test(each_run_and_cut_is_a_generation),
		cmocka_unit_test(batches_may_be_rerun_in_parts),
		cmocka_unit_test(a_rerun_starts_as_high_as_it_can),
		cmocka_unit_test(residuals_beyond_memory_leave_none_and_leak_nothing),
		cmocka_unit_test(a_batch_is_its_sequences),
		cmocka_unit_test(another_plan_needs_no_new_engine),
		cmocka_unit_test(batches_that_do_not_fit_are_refused),
		cmocka_unit_test(a_plan_without_sharing_costs_nothing),
		cmocka_unit_test(nll_finds_what_trying_every_pair_finds),
		cmocka_unit_test(nll_measures_most_pairs_on_a_part_of_the_text),
		cmocka_unit_test(a_plans_loss_is_its_measured_loss),
		cmocka_unit_test(auto_keeps_the_walk_that_loses_least),
		cmocka_unit_test(split_shares_tensors_and_protects_the_last),
		cmocka_unit_test(no_plan_crosses_an_attention_window),
		cmocka_unit_test(a_sweep_is_the_search_for_every_number),
		cmocka_unit_test(a_stopped_search_goes_on_where_it_was),
		cmocka_unit_test(a_search_goes_on_only_from_its_own_trials),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
