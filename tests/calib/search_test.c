/*
 * tests/calib/search_test.c: the promises of a search, on a small random model: greedy finds the same as trying every pair, a
 * stopped search goes on where it was, K and V apart, protected layers, sweeps.
 */
#include "fixture.h"

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
	must(kvs_measure_cosine(f.engine, NULL, &f.text, &f.capture, none, KVS_COSINE_CODE, &cosine));
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

static double mean_of(const float *losses, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += losses[i];
	return sum / count;
}

/* The standard error of the mean difference of the first `count` losses. */
static double error_of(const float *with, const float *without, size_t count)
{
	double mean = mean_of(with, count) - mean_of(without, count), squares = 0;

	for (size_t i = 0; i < count; i++)
		squares += pow((double)with[i] - without[i] - mean, 2);
	return sqrt(squares / (count - 1) / count);
}

/* Whether the search went on with the pair of trial i. */
static bool went_on(const struct kvs_search_result *result, size_t i)
{
	const struct kvs_trial *trial = &result->trials[i];

	for (size_t j = i + 1; j < result->trial_count; j++)
		if (result->trials[j].layer == trial->layer && result->trials[j].owner == trial->owner)
			return true;
	return false;
}

static void measure_pair(struct fixture *f, const struct kvs_trial *trial, float *losses)
{
	kvs_plan *plan;
	int owners[16];
	double ignored;

	for (int l = 0; l < f->layers; l++)
		owners[l] = l == trial->layer ? trial->owner : l;
	must(kvs_plan_create(f->layers, owners, owners, &plan));
	must(kvs_measure_nll(f->engine, &f->text, plan, losses, &ignored));
	kvs_plan_free(plan);
}

/* What a trial records is what whole runs give, and a pair that did not go on would probably cost more than the one taken. */
static void nll_leaves_pairs_that_probably_cost_more(void **state)
{
	enum { ALL = 8 * 128 };
	struct fixture f = open_fixture_of(MODEL, 0, 8, 128);
	struct kvs_search_options options = {.method = KVS_METHOD_NLL, .share = 1};
	struct kvs_search_result result = search(&f, &options);
	float full[ALL], with[ALL];
	double ignored, taken;

	(void)state;
	must(kvs_measure_nll(f.engine, &f.text, NULL, full, &ignored));
	taken = result.best.nll - mean_of(full, ALL);
	for (size_t i = 0; i < result.trial_count; i++) {
		const struct kvs_trial *trial = &result.trials[i];
		double cost = trial->nll - mean_of(full, trial->tokens), part = trial->tokens / (double)ALL,
		       least = fmax(cost * part, cost - 2 * trial->nll_error);
		measure_pair(&f, trial, with);
		assert_true(fabs(mean_of(with, trial->tokens) - trial->nll) < 1e-6);
		assert_true(fabs(error_of(with, full, trial->tokens) - trial->nll_error) < 1e-6);
		assert_true(went_on(&result, i) || (trial->tokens == ALL ? cost : least) >= taken - 1e-9);
	}
	kvs_search_result_clear(&result);
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

/* Each of auto's walks stops earlier then. */
static void a_search_that_shares_less_runs_no_trial_again(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options more = {.method = KVS_METHOD_AUTO, .share = 3, .threshold = -1}, less = more;
	struct kvs_search_result whole = search(&f, &more), part;

	(void)state;
	less.share = 2;
	less.replay = whole.trials;
	less.replay_count = whole.trial_count;
	part = search(&f, &less);
	assert_true(part.trial_count < whole.trial_count);
	assert_int_equal(part.replayed, part.trial_count);
	kvs_search_result_clear(&whole);
	kvs_search_result_clear(&part);
	close_fixture(&f);
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

/* Stopped again while it recalls trials, it has those that it did not come to, too. */
static void a_search_that_is_stopped_twice_loses_no_trial(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_AUTO, .share = 2, .threshold = 0.5};
	struct kvs_search_result whole = search(&f, &options);
	struct stopper stopper = {0};

	(void)state;
	options.replay = whole.trials;
	options.replay_count = whole.trial_count;
	for (stopper.limit = 1; stopper.limit < whole.trial_count; stopper.limit += 11) {
		struct kvs_search_options resumed = options;
		struct kvs_search_result part, rest;
		stopper.steps = 0;
		options.progress = (struct kvs_calib_progress){stop_at_limit, &stopper};
		part = search(&f, &options);
		assert_int_equal(part.end, KVS_SEARCH_STOPPED);
		assert_true(part.replayed < whole.trial_count);
		assert_int_equal(part.trial_count, whole.trial_count);
		resumed.progress = (struct kvs_calib_progress){0};
		resumed.replay = part.trials;
		rest = search(&f, &resumed);
		assert_int_equal(rest.replayed, whole.trial_count);
		assert_same_trials(&rest, &whole);
		kvs_search_result_clear(&part);
		kvs_search_result_clear(&rest);
	}
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

/* Nor from those of another device or type of K and V, which show in the loss; how a sum is rounded is no such difference. */
static void a_search_goes_on_only_where_the_loss_is_the_same(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_search_options options = {.method = KVS_METHOD_KVSHARER, .share = 1, .threshold = 0.5};
	struct kvs_search_result whole = search(&f, &options), rest;
	struct kvs_plan_model model = {"llama", f.layers, 1, 64, "abc"};
	kvs_plan *plan;

	(void)state;
	must(kvs_search_plan(&whole, &whole.best, &options, &f.text, &model, true, &plan));
	options.replay = whole.trials;
	options.replay_count = whole.trial_count;
	options.replay_full_nll = kvs_search_full_nll(plan) * (1 + 5e-7);
	rest = search(&f, &options);
	assert_int_equal(rest.replayed, whole.trial_count);
	kvs_search_result_clear(&rest);
	options.replay_full_nll = kvs_search_full_nll(plan) * (1 + 2e-6);
	assert_int_equal(kvs_search_run(f.engine, &f.text, &f.capture, &options, &rest), -EINVAL);
	assert_non_null(strstr(kvs_error(), "another --kv-dtype"));
	kvs_plan_free(plan);
	kvs_search_result_clear(&whole);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plan_without_sharing_costs_nothing),
		cmocka_unit_test(nll_finds_what_trying_every_pair_finds),
		cmocka_unit_test(nll_measures_most_pairs_on_a_part_of_the_text),
		cmocka_unit_test(nll_leaves_pairs_that_probably_cost_more),
		cmocka_unit_test(a_plans_loss_is_its_measured_loss),
		cmocka_unit_test(auto_keeps_the_walk_that_loses_least),
		cmocka_unit_test(split_shares_tensors_and_protects_the_last),
		cmocka_unit_test(no_plan_crosses_an_attention_window),
		cmocka_unit_test(a_sweep_is_the_search_for_every_number),
		cmocka_unit_test(a_stopped_search_goes_on_where_it_was),
		cmocka_unit_test(a_search_that_shares_less_runs_no_trial_again),
		cmocka_unit_test(a_search_that_is_stopped_twice_loses_no_trial),
		cmocka_unit_test(a_search_goes_on_only_from_its_own_trials),
		cmocka_unit_test(a_search_goes_on_only_where_the_loss_is_the_same),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
