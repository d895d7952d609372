/*
 * tests/calib/refit_test.c: the search by what compensation leaves: the cost of each pair is that of an independent NumPy
 * computation (tests/golden/make_compensation.py); what a plan promises; a search that is stopped goes on to the same plan.
 */
#include "../../calib/calib.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIGURES 1e-3 /* relative to NumPy's */

struct bench {
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	struct kvs_calib_text text;
	const json_t *expected;
};

static kvs_cu *cu;
static json_t *golden;
static int steps, most_steps;

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static double number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	assert_non_null(value);
	return json_number_value(value);
}

static bool step(void *arg, const char *what, size_t done, size_t total)
{
	(void)arg;
	assert_string_equal(what, "refit: every pair");
	assert_true(done <= total);
	return ++steps < most_steps;
}

/* Case `i` of the golden file, with batches of `sequences` samples. */
static struct bench open_bench(int i, int sequences)
{
	struct bench b = {.expected = json_array_get(json_object_get(golden, "cases"), i)};
	const json_t *list = json_object_get(b.expected, "ids");
	int samples = number(b.expected, "samples"), tokens = number(b.expected, "tokens");
	int32_t *ids = malloc(sizeof(*ids) * json_array_size(list));
	struct kvs_engine_options options = {
		.kv_dtype = KVS_F32, .kv_dtype_set = true, .chunk_tokens = sequences * tokens};

	for (size_t n = 0; n < json_array_size(list); n++)
		ids[n] = json_integer_value(json_array_get(list, n));
	b.text = (struct kvs_calib_text){.samples = samples,
		.sample_tokens = tokens,
		.ids = ids,
		.windows = number(b.expected, "windows"),
		.window_tokens = tokens,
		.window_ids = ids + samples * tokens,
		.window_targets = ids + samples * tokens + 1,
		.held_back = true};
	must(kvs_checkpoint_open(json_string_value(json_object_get(b.expected, "model")), &b.ckpt));
	must(kvs_calib_open_engine(cu, b.ckpt, &options, &b.text, 1, &b.engine));
	return b;
}

static void close_bench(struct bench *b)
{
	kvs_engine_close(b->engine);
	kvs_checkpoint_close(b->ckpt);
	free(b->text.ids);
}

static struct kvs_search_options options_of(const struct bench *b, int share)
{
	return (struct kvs_search_options){.method = KVS_METHOD_REFIT,
		.share = share,
		.threshold = 0.5,
		.ckpt = b->ckpt,
		.progress = {step, NULL}};
}

static void search(struct bench *b, const struct kvs_search_options *options, struct kvs_search_result *out)
{
	must(kvs_search_run(b->engine, &b->text, NULL, options, out));
}

/* ---- NumPy ---- */

static void near(double ours, double numpy, int layer, const char *what)
{
	if (!(fabs(ours - numpy) <= FIGURES * numpy))
		fail_msg("layer %d: %s is %.6f, NumPy has %.6f", layer, what, ours, numpy);
}

/* The trials of one layer: each owner's, and the best one again with its KL. */
static size_t check_layer(const json_t *expected, const struct kvs_trial *trials)
{
	const json_t *owners = json_object_get(expected, "owners"), *left = json_object_get(expected, "left");
	size_t count = json_array_size(owners);
	int layer = number(expected, "layer");

	for (size_t i = 0; i <= count; i++)
		assert_int_equal(trials[i].layer, layer);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(trials[i].owner, json_integer_value(json_array_get(owners, i)));
		near(trials[i].left, json_number_value(json_array_get(left, i)), layer, "error");
		assert_true(isnan(trials[i].kl));
	}
	assert_int_equal(trials[count].owner, number(expected, "best"));
	near(trials[count].kl, number(expected, "kl"), layer, "KL");
	return count + 1;
}

static void costs_are_numpys(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		for (int sequences = 1; sequences <= 5; sequences += 4) {
			struct bench b = open_bench(i, sequences);
			struct kvs_search_options options = options_of(&b, 1);
			struct kvs_search_result result;
			const json_t *pair;
			size_t n, at = 0;
			search(&b, &options, &result);
			json_array_foreach(json_object_get(b.expected, "pairs"), n, pair) at +=
				check_layer(pair, result.trials + at);
			assert_int_equal(at, result.trial_count);
			kvs_search_result_clear(&result);
			close_bench(&b);
		}
}

/* ---- what a search promises ---- */

/* The plan is of pairs that were tried, no owner borrows, and the engine has its own matrices again, bit for bit. */
static void plans_are_of_tried_pairs(void **state)
{
	struct bench b = open_bench(1, 4);
	struct kvs_search_options options = options_of(&b, 2);
	struct kvs_search_result result;
	double before, after;
	int shared = 0;

	(void)state;
	must(kvs_measure_nll(b.engine, &b.text, NULL, NULL, &before));
	search(&b, &options, &result);
	must(kvs_measure_nll(b.engine, &b.text, NULL, NULL, &after));
	assert_true(before == after && before == result.full_nll);
	assert_int_equal(result.end, KVS_SEARCH_COMPLETE);
	assert_int_equal(result.best.walk, KVS_WALK_REFIT);
	assert_true(isfinite(result.best.nll));
	for (int l = 0; l < result.layers; l++) {
		int owner = result.best.k_owners[l];
		assert_int_equal(owner, result.best.v_owners[l]);
		assert_int_equal(result.best.k_owners[owner], owner);
		shared += owner != l;
	}
	assert_int_equal(shared, 2);
	for (size_t i = 0; i < result.trial_count; i++)
		assert_int_equal(result.trials[i].accepted,
			result.best.k_owners[result.trials[i].layer] == result.trials[i].owner);
	kvs_search_result_clear(&result);
	close_bench(&b);
}

static void protected_layers_never_share(void **state)
{
	struct bench b = open_bench(1, 4);
	struct kvs_search_options options = options_of(&b, 3);
	struct kvs_search_result result;

	(void)state;
	options.pairs.protect_last = 1;
	search(&b, &options, &result);
	assert_int_equal(result.best.k_owners[4], 4);
	assert_true((result.end == KVS_SEARCH_COMPLETE) == (result.best.tensors == 6));
	for (size_t i = 0; i < result.trial_count; i++)
		assert_int_not_equal(result.trials[i].layer, 4);
	kvs_search_result_clear(&result);
	close_bench(&b);
}

static void stopped_searches_go_on(void **state)
{
	struct bench b = open_bench(1, 4);
	struct kvs_search_options options = options_of(&b, 2);
	struct kvs_search_result whole, part, rest;
	int all;

	(void)state;
	setenv("SOFTCUDA_WORKERS", "1", 1); /* how many steps the caller's thread is told of depends on the others */
	steps = 0;
	search(&b, &options, &whole);
	all = steps;
	for (int i = 1; i < 8; i += 3) {
		steps = 0;
		most_steps = all * i / 8;
		options.replay_count = 0;
		search(&b, &options, &part);
		assert_int_equal(part.end, KVS_SEARCH_STOPPED);
		assert_int_equal(part.best.tensors, 0);
		most_steps = 1 << 30;
		options.replay = part.trials;
		options.replay_count = part.trial_count;
		search(&b, &options, &rest);
		assert_int_equal(rest.replayed, part.trial_count);
		assert_int_equal(rest.trial_count, whole.trial_count);
		assert_memory_equal(rest.best.k_owners, whole.best.k_owners, sizeof(int) * whole.layers);
		for (size_t n = 0; n < whole.trial_count; n++)
			assert_true(rest.trials[n].left == whole.trials[n].left &&
				    (rest.trials[n].kl == whole.trials[n].kl || isnan(whole.trials[n].kl)));
		kvs_search_result_clear(&rest);
		kvs_search_result_clear(&part);
	}
	kvs_search_result_clear(&whole);
	close_bench(&b);
	unsetenv("SOFTCUDA_WORKERS");
}

/* A plan keeps the trials; a search goes on from its file. */
static void trials_are_kept_in_plans(void **state)
{
	struct bench b = open_bench(1, 4);
	struct kvs_search_options options = options_of(&b, 2);
	struct kvs_search_result result;
	struct kvs_trial *trials;
	size_t count;
	const struct kvs_config *config = kvs_checkpoint_config(b.ckpt);
	struct kvs_plan_model model = {config->model_type, config->layers, config->kv_heads, config->head_dim,
		kvs_checkpoint_fingerprint(b.ckpt)};
	kvs_plan *plan;

	(void)state;
	search(&b, &options, &result);
	must(kvs_search_plan(&result, &result.best, &options, &b.text, &model, true, &plan));
	must(kvs_search_replay(plan, &options, &b.text, &trials, &count));
	assert_int_equal(count, result.trial_count);
	for (size_t i = 0; i < count; i++) {
		assert_true(fabs(trials[i].left - result.trials[i].left) < 1e-12);
		assert_true(isnan(trials[i].kl) == isnan(result.trials[i].kl));
	}
	free(trials);
	kvs_plan_free(plan);
	kvs_search_result_clear(&result);
	close_bench(&b);
}

static void bad_searches_are_refused(void **state)
{
	struct bench b = open_bench(0, 4);
	struct kvs_search_options options = options_of(&b, 1);
	struct kvs_search_result result;
	struct kvs_calib_text few = b.text;

	(void)state;
	options.pairs.split = true;
	assert_int_equal(kvs_search_check(&options, kvs_checkpoint_config(b.ckpt)), -EINVAL);
	options.pairs.split = false;
	options.ckpt = NULL;
	assert_int_equal(kvs_search_check(&options, kvs_checkpoint_config(b.ckpt)), -EINVAL);
	options.ckpt = b.ckpt;
	few.samples = 3;
	assert_int_equal(kvs_search_run(b.engine, &few, NULL, &options, &result), -EINVAL);
	assert_non_null(strstr(kvs_error(), "4 samples"));
	close_bench(&b);
}

static int set_up(void **state)
{
	(void)state;
	most_steps = 1 << 30;
	golden = json_load_file("tests/golden/calib/pairs.json", 0, NULL);
	return !golden || kvs_cu_open("host", &cu);
}

static int tear_down(void **state)
{
	(void)state;
	json_decref(golden);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(costs_are_numpys),
		cmocka_unit_test(plans_are_of_tried_pairs), cmocka_unit_test(protected_layers_never_share),
		cmocka_unit_test(stopped_searches_go_on), cmocka_unit_test(trials_are_kept_in_plans),
		cmocka_unit_test(bad_searches_are_refused)};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
