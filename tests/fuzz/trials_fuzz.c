/*
 * tests/fuzz/trials_fuzz.c: any JSON as a plan's record of its search, as `calibrate --resume` reads it.
 *
 * An object becomes the whole of "calibration"; anything else becomes the "trials" of one that agrees in every setting.
 * Accepted trials must be usable by the search; a refusal must leave nothing allocated (it once freed trials that its
 * caller freed again).
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../calib/calib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LAYERS 8

static void require(bool holds)
{
	if (!holds)
		abort();
}

/* The record of a search that has found nothing yet. The caller frees it. */
static kvs_plan *fresh_plan(const struct kvs_search_options *options, const struct kvs_calib_text *text)
{
	int owners[LAYERS];
	struct kvs_search_result result = {.layers = LAYERS};
	struct kvs_search_point point = {.k_owners = owners, .v_owners = owners};
	struct kvs_plan_model model = {.architecture = "llama", .layers = LAYERS, .kv_heads = 1, .head_dim = 32};
	kvs_plan *plan;

	for (int l = 0; l < LAYERS; l++)
		owners[l] = l;
	require(!kvs_search_plan(&result, &point, options, text, &model, false, &plan));
	return plan;
}

/* Takes `input`. */
static void put_calibration(kvs_plan *plan, json_t *input)
{
	char *json;
	json_t *object;

	require(!kvs_plan_calibration(plan, &json));
	object = json_loads(json, 0, NULL);
	free(json);
	if (json_is_object(input)) {
		json_object_update(object, input);
		json_decref(input);
	} else {
		json_object_set_new(object, "trials", input);
	}
	json = json_dumps(object, 0);
	json_decref(object);
	require(json && !kvs_plan_set_calibration(plan, json));
	free(json);
}

static void check(const struct kvs_trial *trials, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		require(trials[i].walk < KVS_WALK_COUNT && trials[i].what >= 0 && trials[i].what <= 2);
		require(trials[i].owner >= 0 && trials[i].owner < trials[i].layer && trials[i].layer < LAYERS);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvs_search_options options = {.share = 2, .threshold = 0.5};
	struct kvs_calib_text text = {
		.samples = 1, .sample_tokens = 8, .windows = 1, .window_tokens = 8, .digest = "0"};
	json_t *input = json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL);
	struct kvs_trial *trials = NULL;
	size_t count = 0;
	kvs_plan *plan;

	if (!input)
		return 0;
	plan = fresh_plan(&options, &text);
	put_calibration(plan, input);
	if (!kvs_search_replay(plan, &options, &text, &trials, &count))
		check(trials, count);
	else
		require(!trials && !count && *kvs_error());
	free(trials);
	kvs_plan_free(plan);
	return 0;
}
