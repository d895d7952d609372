/*
 * tests/calib/golden_test.c: the search does what an independent NumPy computation does.
 *
 * tests/golden/calib/storyworld.json holds distances, every trial with its cosine, and the owners for each number of
 * layers, as tests/golden/make_calib.py computes them with a forward pass of its own, for both distances, both cosines
 * and all orders; and loss, top-1 agreement and KL of plans and of merged neighbours. Samples of one group are short,
 * so that all its searches run; the other has the reference code's 30 x 64.
 */
#include "../../calib/calib.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvs_cu *cu;
static kvs_checkpoint *ckpt;
static kvs_tokenizer *tokenizer;
static json_t *golden;
static char *story;
static size_t story_bytes;

struct group {
	json_t *json;
	struct kvs_calib_text text;
	kvs_engine *engine;
	struct kvs_capture capture;
};

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static int integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *word(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void open_group(struct group *group, size_t index)
{
	struct kvs_calib_text_options text = {.held_tokens = 16, .window_tokens = 16};
	struct kvs_engine_options engine = {.kv_dtype = KVS_F32, .kv_dtype_set = true};

	group->json = json_array_get(json_object_get(golden, "groups"), index);
	assert_non_null(group->json);
	text.samples = integer(group->json, "samples");
	text.sample_tokens = integer(group->json, "tokens");
	must(kvs_calib_text_cut(tokenizer, story, story_bytes, &text, &group->text));
	must(kvs_calib_open_engine(cu, ckpt, &engine, &group->text, 1, &group->engine));
	must(kvs_capture_run(group->engine, &group->text, NULL, &group->capture));
}

static void close_group(struct group *group)
{
	kvs_capture_clear(&group->capture);
	kvs_engine_close(group->engine);
	kvs_calib_text_clear(&group->text);
}

static void check_distances(const struct group *group, enum kvs_distance kind, const char *name)
{
	int layers = group->capture.layers, at = 0;
	double *k = malloc(sizeof(*k) * layers * layers), *v = malloc(sizeof(*v) * layers * layers);
	const json_t *expected = json_object_get(json_object_get(group->json, "distances"), name);
	const json_t *expected_k = json_object_get(expected, "k"), *expected_v = json_object_get(expected, "v");

	kvs_capture_distances(&group->capture, kind, k, v);
	for (int i = 0; i < layers; i++) {
		for (int j = 0; j < i; j++, at++) {
			double of_k = json_number_value(json_array_get(expected_k, at));
			double of_v = json_number_value(json_array_get(expected_v, at));
			assert_true(of_k > 0 && of_v > 0);
			if (fabs(k[i * layers + j] / of_k - 1) > 1e-4 || fabs(v[i * layers + j] / of_v - 1) > 1e-4)
				fail_msg("%s distance of layers %d and %d: %.7g and %.7g, NumPy has %.7g and %.7g",
					name, i, j, k[i * layers + j], v[i * layers + j], of_k, of_v);
		}
	}
	free(k);
	free(v);
}

static struct kvs_search_options options_of(const json_t *wanted)
{
	const char *order = word(wanted, "order");
	struct kvs_search_options options = {
		.method = KVS_METHOD_KVSHARER,
		.share = integer(wanted, "share"),
		.threshold = json_number_value(json_object_get(wanted, "threshold")),
	};

	options.pairs.distance = strcmp(word(wanted, "distance"), "paper") ? KVS_DISTANCE_CODE : KVS_DISTANCE_PAPER;
	options.cosine = strcmp(word(wanted, "cosine"), "paper") ? KVS_COSINE_CODE : KVS_COSINE_PAPER;
	options.sweep =
		options.cosine == KVS_COSINE_CODE; /* not always: every point of it is measured, which is slow */
	options.pairs.order = !strcmp(order, "similar")      ? KVS_ORDER_SIMILAR
			      : !strcmp(order, "dissimilar") ? KVS_ORDER_DISSIMILAR
							     : KVS_ORDER_RANDOM;
	if (options.pairs.order == KVS_ORDER_RANDOM)
		options.pairs.seed = strtoull(strchr(order, ':') + 1, NULL, 10);
	return options;
}

static void check_trials(const json_t *expected, const struct kvs_search_result *result, const char *name)
{
	assert_int_equal(result->trial_count, json_array_size(expected));
	for (size_t i = 0; i < result->trial_count; i++) {
		const struct kvs_trial *trial = &result->trials[i];
		const json_t *entry = json_array_get(expected, i);
		double cosine = json_number_value(json_array_get(entry, 2));
		assert_int_equal(trial->layer, json_integer_value(json_array_get(entry, 0)));
		assert_int_equal(trial->owner, json_integer_value(json_array_get(entry, 1)));
		assert_int_equal(trial->accepted, json_integer_value(json_array_get(entry, 3)));
		if (!(fabs(trial->cosine - cosine) <= 1e-4))
			fail_msg("%s, trial %zu (%d reads %d): cosine %.7f, NumPy has %.7f", name, i, trial->layer,
				trial->owner, trial->cosine, cosine);
	}
}

/* NumPy's owners for the number of layers that share in `point`. */
static void check_point(const json_t *expected, const struct kvs_search_point *point, int layers)
{
	char key[24];
	const json_t *owners;

	snprintf(key, sizeof(key), "%d", point->tensors / 2);
	owners = json_object_get(expected, key);
	assert_int_equal(json_array_size(owners), layers);
	for (int l = 0; l < layers; l++) {
		assert_int_equal(point->k_owners[l], json_integer_value(json_array_get(owners, l)));
		assert_int_equal(point->v_owners[l], point->k_owners[l]);
	}
}

/* The plan that the search found, and with a sweep the one for every number of layers. */
static void check_owners(const json_t *expected, const struct kvs_search_result *result)
{
	assert_int_equal(result->best.tensors / 2, json_object_size(expected));
	check_point(expected, &result->best, result->layers);
	for (size_t n = 0; n < result->sweep_count; n++)
		check_point(expected, &result->sweep[n], result->layers);
}

static void check_case(struct group *group, const json_t *wanted)
{
	struct kvs_search_options options = options_of(wanted);
	const json_t *owners = json_object_get(wanted, "owners");
	struct kvs_search_result result;

	must(kvs_search_run(group->engine, &group->text, &group->capture, &options, &result));
	check_trials(json_object_get(wanted, "trials"), &result, word(wanted, "order"));
	check_owners(owners, &result);
	assert_int_equal(result.sweep_count, options.sweep ? json_object_size(owners) : 0);
	assert_int_equal(result.end,
		(int)json_object_size(owners) == options.share ? KVS_SEARCH_COMPLETE : KVS_SEARCH_EXHAUSTED);
	kvs_search_result_clear(&result);
}

static void check_group(size_t index)
{
	struct group group;
	const json_t *cases;

	open_group(&group, index);
	check_distances(&group, KVS_DISTANCE_CODE, "code");
	check_distances(&group, KVS_DISTANCE_PAPER, "paper");
	cases = json_object_get(group.json, "cases");
	assert_true(json_array_size(cases) > 0);
	for (size_t i = 0; i < json_array_size(cases); i++)
		check_case(&group, json_array_get(cases, i));
	close_group(&group);
}

static void every_order_distance_and_cosine_is_numpys(void **state)
{
	(void)state;
	check_group(0);
}

static void the_reference_codes_samples_are_numpys(void **state)
{
	(void)state;
	check_group(1);
}

/* ---- the quality of changed models ---- */

/* The head of the story, cut as NumPy cuts it. */
static struct kvs_calib_text quality_text(const json_t *quality)
{
	struct kvs_calib_text text = {
		.windows = integer(quality, "windows"), .window_tokens = integer(quality, "tokens")};
	size_t count = (size_t)text.windows * text.window_tokens, all;
	int32_t *ids;

	must(kvs_tokenizer_encode(tokenizer, story, story_bytes, true, &ids, &all));
	assert_true(all > count);
	text.window_ids = malloc(sizeof(*ids) * count);
	text.window_targets = malloc(sizeof(*ids) * count);
	assert_true(text.window_ids && text.window_targets);
	memcpy(text.window_ids, ids, sizeof(*ids) * count);
	memcpy(text.window_targets, ids + 1, sizeof(*ids) * count);
	free(ids);
	return text;
}

static void check_quality(const json_t *wanted, const struct kvs_quality *found, const char *name)
{
	double nll = json_number_value(json_object_get(wanted, "nll")),
	       full = json_number_value(json_object_get(wanted, "full_nll")),
	       kl = json_number_value(json_object_get(wanted, "kl")),
	       top1 = json_number_value(json_object_get(wanted, "top1_agreement"));

	if (fabs(found->nll - nll) > 1e-4 || fabs(found->full_nll - full) > 1e-4 || fabs(found->kl - kl) > 1e-4 ||
		fabs(found->top1_agreement - top1) > 1e-9)
		fail_msg("%s: loss %.6f (full %.6f), KL %.6f, agreement %.4f; NumPy has %.6f (%.6f), %.6f, %.4f", name,
			found->nll, found->full_nll, found->kl, found->top1_agreement, nll, full, kl, top1);
}

static void read_owners(const json_t *array, int *owners)
{
	for (size_t l = 0; l < json_array_size(array); l++)
		owners[l] = json_integer_value(json_array_get(array, l));
}

static void loss_agreement_and_kl_are_numpys(void **state)
{
	const json_t *quality = json_object_get(golden, "quality"), *plans = json_object_get(quality, "plans"),
		     *merges = json_object_get(quality, "merges");
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true};
	struct kvs_calib_text text = quality_text(quality);
	int layers = kvs_checkpoint_config(ckpt)->layers, k[64], v[64];
	struct kvs_quality found;
	kvs_reference *reference;
	kvs_engine *engine;

	(void)state;
	must(kvs_calib_open_engine(cu, ckpt, &options, &text, 1, &engine));
	must(kvs_reference_create(engine, &text, NULL, &reference));
	assert_true(json_array_size(plans) == 2 && json_array_size(merges) == 2);
	for (size_t i = 0; i < 2; i++) {
		kvs_plan *plan;
		read_owners(json_object_get(json_array_get(plans, i), "k_owners"), k);
		read_owners(json_object_get(json_array_get(plans, i), "v_owners"), v);
		must(kvs_plan_create(layers, k, v, &plan));
		must(kvs_measure_quality(engine, &text, reference, plan, NULL, &found));
		check_quality(json_array_get(plans, i), &found, "a plan");
		kvs_plan_free(plan);
		read_owners(json_object_get(json_array_get(merges, i), "owners"), k);
		must(kvs_measure_merged(engine, &text, reference, k, NULL, &found));
		check_quality(json_array_get(merges, i), &found, "merging");
	}
	kvs_reference_free(reference);
	kvs_engine_close(engine);
	kvs_calib_text_clear(&text);
}

static void check_stored_over(const json_t *wanted, const struct kvs_calib_text *text)
{
	struct kvs_engine_options options = {.kv_dtype = KVS_F32,
		.kv_dtype_set = true,
		.policy = KVS_POLICY_LAST,
		.pass_tokens = integer(wanted, "pass_tokens")};
	int k[64], v[64];
	struct kvs_quality found;
	kvs_reference *reference;
	kvs_engine *engine;
	kvs_plan *plan;

	read_owners(json_object_get(wanted, "k_owners"), k);
	read_owners(json_object_get(wanted, "v_owners"), v);
	must(kvs_plan_create(kvs_checkpoint_config(ckpt)->layers, k, v, &plan));
	must(kvs_calib_open_engine(cu, ckpt, &options, text, 1, &engine));
	must(kvs_reference_create(engine, text, NULL, &reference));
	must(kvs_measure_quality(engine, text, reference, plan, NULL, &found));
	check_quality(wanted, &found, "a plan with the policy last");
	kvs_reference_free(reference);
	kvs_engine_close(engine);
	kvs_plan_free(plan);
}

static void layers_that_store_over_each_other_are_numpys(void **state)
{
	const json_t *quality = json_object_get(golden, "quality"), *lasts = json_object_get(quality, "lasts");
	struct kvs_calib_text text = quality_text(quality);

	(void)state;
	assert_int_equal(json_array_size(lasts), 4);
	for (size_t i = 0; i < 4; i++)
		check_stored_over(json_array_get(lasts, i), &text);
	kvs_calib_text_clear(&text);
}

static char *read_whole(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	char *text = malloc(1 << 20);

	assert_non_null(file);
	assert_non_null(text);
	*bytes = fread(text, 1, 1 << 20, file);
	fclose(file);
	return text;
}

static int open_model(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");
	const char *model;

	(void)state;
	golden = json_load_file("tests/golden/calib/storyworld.json", 0, NULL);
	assert_non_null(golden);
	model = word(golden, "model");
	must(kvs_cu_open(device ? device : "host", &cu));
	must(kvs_checkpoint_open(model, &ckpt));
	must(kvs_tokenizer_open(model, &tokenizer));
	story = read_whole(word(golden, "text"), &story_bytes);
	return 0;
}

static int close_model(void **state)
{
	(void)state;
	free(story);
	json_decref(golden);
	kvs_tokenizer_close(tokenizer);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_order_distance_and_cosine_is_numpys),
		cmocka_unit_test(the_reference_codes_samples_are_numpys),
		cmocka_unit_test(loss_agreement_and_kl_are_numpys),
		cmocka_unit_test(layers_that_store_over_each_other_are_numpys),
	};

	return cmocka_run_group_tests(tests, open_model, close_model);
}
