/*
 * calib/record.c: the records of a search: a plan that says how it was found, trials to go on from, the curve of a
 * sweep.
 *
 * The names in these tables are a contract: files of earlier versions have them, and a search goes on from them.
 */
#include "measure.h"
#include "search.h"

#include "../chart/chart.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const what_names[] = {"kv", "k", "v"};
static const char *const order_names[] = {"dissimilar", "similar", "random"};
static const char *const distance_names[] = {"code", "paper"};
static const char *const cosine_names[] = {"code", "paper"};
static const char *const method_names[] = {"kvsharer", "nll", "auto", "refit"};
static const char *const end_names[] = {"complete", "exhausted", "stopped"};
static const char *const by_names[] = {"run", "line", "spread"};
static const char *const policy_names[] = {"owner", "last"};

static int no_memory(void)
{
	return kvs_fail(-ENOMEM, "no memory for a record of the search");
}

json_t *calib_json_number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

/* The array with `item` behind its others; NULL, and both are dropped, where there is no memory. */
static json_t *append(json_t *array, json_t *item)
{
	if (!json_array_append_new(array, item))
		return array;
	json_decref(array);
	return NULL;
}

static json_t *owners_json(const int *owners, int layers)
{
	json_t *array = json_array();

	for (int l = 0; l < layers && array; l++)
		array = append(array, json_integer(owners[l]));
	return array;
}

/* ---- the search in a plan ---- */

static json_t *trial_json(const struct kvs_trial *trial)
{
	json_t *object = json_pack("{s:s,s:s,s:i,s:i,s:o,s:o,s:o,s:b}", "walk", kvs_walk_name(trial->walk), "tensor",
		what_names[trial->what], "layer", trial->layer, "owner", trial->owner, "distance",
		calib_json_number(trial->distance), "cosine", calib_json_number(trial->cosine), "nll",
		calib_json_number(trial->nll), "accepted", trial->accepted);

	int failed = 0;

	if (trial->walk == KVS_WALK_NLL && object)
		failed = json_object_set_new(object, "tokens", json_integer(trial->tokens)) |
			 json_object_set_new(object, "nll_error", calib_json_number(trial->nll_error));
	if (trial->walk == KVS_WALK_REFIT && object)
		failed = json_object_set_new(object, "left", calib_json_number(trial->left)) |
			 json_object_set_new(object, "kl", calib_json_number(trial->kl));
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

json_t *calib_text_settings(const struct kvs_calib_text *text)
{
	return json_pack("{s:s,s:s,s:i,s:i,s:i,s:i}", "text_digest", text->digest, "sample_by", by_names[text->by],
		"samples", text->samples, "tokens", text->sample_tokens, "windows", text->windows, "window_tokens",
		text->window_tokens);
}

/* All that decides a search: two searches with equal settings make the same trials. */
static json_t *settings_json(const struct kvs_search_options *options, const struct kvs_calib_text *text)
{
	json_t *object = calib_text_settings(text);
	json_t *others = json_pack("{s:s,s:s,s:I,s:s,s:s,s:f,s:i,s:b,s:s}", "method", method_names[options->method],
		"order", order_names[options->pairs.order], "seed", (json_int_t)options->pairs.seed, "distance",
		distance_names[options->pairs.distance], "cosine", cosine_names[options->cosine], "threshold",
		options->threshold, "protect_last", options->pairs.protect_last, "split_kv", options->pairs.split,
		"policy", policy_names[options->policy]);
	int failed = json_object_update(object, others);

	json_decref(others);
	if (!failed && options->policy == KVS_POLICY_LAST)
		failed = json_object_set_new(object, "pass_tokens", json_integer(options->pass_tokens));
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

static json_t *trials_json(const struct kvs_search_result *result)
{
	json_t *array = json_array();

	for (size_t i = 0; i < result->trial_count && array; i++)
		array = append(array, trial_json(&result->trials[i]));
	return array;
}

static json_t *calibration_json(const struct kvs_search_result *result, const struct kvs_search_point *point,
	const struct kvs_search_options *options, const struct kvs_calib_text *text, bool with_trials)
{
	json_t *object = settings_json(options, text);
	json_t *nll = json_pack("{s:o,s:o,s:i,s:b}", "full", calib_json_number(result->full_nll), "shared",
		calib_json_number(point->nll), "tokens", text->windows * text->window_tokens, "held_back",
		text->held_back);
	int failed = 0;

	failed |= json_object_set_new(object, "walk", json_string(kvs_walk_name(point->walk)));
	failed |= json_object_set_new(object, "wanted_tensors", json_integer(2 * options->share));
	failed |= json_object_set_new(object, "shared_tensors", json_integer(point->tensors));
	failed |= json_object_set_new(object, "end", json_string(end_names[result->end]));
	failed |= json_object_set_new(object, "nll", nll);
	if (point->k_owners == result->best.k_owners)
		failed |= json_object_set_new(object, "hidden_cosine", calib_json_number(result->cosine));
	if (with_trials)
		failed |= json_object_set_new(object, "trials", trials_json(result));
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

int kvs_search_plan(const struct kvs_search_result *result, const struct kvs_search_point *point,
	const struct kvs_search_options *options, const struct kvs_calib_text *text, const struct kvs_plan_model *model,
	bool with_trials, kvs_plan **out)
{
	json_t *object = calibration_json(result, point, options, text, with_trials);
	char *json = object ? json_dumps(object, 0) : NULL;
	int err = json ? kvs_plan_create(result->layers, point->k_owners, point->v_owners, out) : no_memory();

	if (!err) {
		err = kvs_plan_set_model(*out, model);
		if (!err)
			err = kvs_plan_set_calibration(*out, json);
		if (err)
			kvs_plan_free(*out);
	}
	free(json);
	json_decref(object);
	return err;
}

/* ---- trials from a plan ---- */

int calib_trials_damaged(void)
{
	return kvs_fail(-EINVAL, "calibration.trials of the plan is damaged: search again, without it");
}

static int name_index(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count && name; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}

static double number_of(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

static int read_trial(const json_t *object, int layers, struct kvs_trial *out)
{
	const char *walk_name = json_string_value(json_object_get(object, "walk"));
	int what = name_index(json_string_value(json_object_get(object, "tensor")), what_names, 3), walk = 0;
	json_int_t layer = json_integer_value(json_object_get(object, "layer")),
		   owner = json_integer_value(json_object_get(object, "owner"));

	while (walk < KVS_WALK_COUNT && !(walk_name && !strcmp(walk_name, kvs_walk_name(walk))))
		walk++;
	*out = (struct kvs_trial){.walk = walk,
		.what = what,
		.layer = (int)layer,
		.owner = (int)owner,
		.distance = number_of(object, "distance"),
		.cosine = number_of(object, "cosine"),
		.nll = number_of(object, "nll"),
		.nll_error = number_of(object, "nll_error"),
		.tokens = (int)json_integer_value(json_object_get(object, "tokens")),
		.left = number_of(object, "left"),
		.kl = number_of(object, "kl")};
	if (walk == KVS_WALK_COUNT || what < 0 || owner < 0 || layer <= owner || layer >= layers ||
		isnan(walk == KVS_WALK_NLL       ? out->nll + out->nll_error
			: walk == KVS_WALK_REFIT ? out->left
						 : out->cosine))
		return calib_trials_damaged();
	return 0;
}

static int read_trials(const json_t *array, int layers, struct kvs_trial **trials, size_t *count)
{
	size_t size = json_array_size(array);
	struct kvs_trial *read = calloc(size + 1, sizeof(*read));
	int err = read ? 0 : no_memory();

	if (!err && array && !json_is_array(array))
		err = calib_trials_damaged();
	for (size_t i = 0; i < size && !err; i++)
		err = read_trial(json_array_get(array, i), layers, &read[i]);
	if (err) {
		free(read);
		return err;
	}
	*trials = read;
	*count = size;
	return 0;
}

int calib_settings_check(const json_t *now, const json_t *then, const char *what, const char *ours)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)now, key, value)
	{
		const json_t *old = json_object_get(then, key);
		if (!json_equal(value, old)) {
			char *is = json_dumps(value, JSON_ENCODE_ANY),
			     *was = old ? json_dumps(old, JSON_ENCODE_ANY) : NULL;
			int err = kvs_fail(-EINVAL, "%s cannot be resumed: its %s is %s, %s is %s", what, key,
				was ? was : "missing", ours, is ? is : "another");
			free(is);
			free(was);
			return err;
		}
	}
	return 0;
}

/* Plans of earlier versions do not name the policy: there was one. */
static int take_old_policy(json_t *then)
{
	if (json_object_get(then, "policy"))
		return 0;
	return json_object_set_new(then, "policy", json_string(policy_names[KVS_POLICY_OWNER])) ? no_memory() : 0;
}

/* The record of the plan's search, if it was one with these options on this text. */
static int load_search(
	const kvs_plan *plan, const struct kvs_search_options *options, const struct kvs_calib_text *text, json_t **out)
{
	json_t *now = settings_json(options, text), *then = NULL;
	char *json = NULL;
	int err = now ? kvs_plan_calibration(plan, &json) : no_memory();

	if (!err) {
		then = json_loads(json, 0, NULL);
		err = then ? take_old_policy(then) : no_memory();
	}
	if (!err)
		err = calib_settings_check(now, then, "the plan's search", "this search's");
	json_decref(now);
	free(json);
	if (err)
		json_decref(then);
	else
		*out = then;
	return err;
}

int calib_search_is_of(
	const kvs_plan *plan, const struct kvs_search_options *options, const struct kvs_calib_text *text)
{
	json_t *search;
	int err = load_search(plan, options, text, &search);

	if (!err)
		json_decref(search);
	return err;
}

int kvs_search_replay(const kvs_plan *plan, const struct kvs_search_options *options, const struct kvs_calib_text *text,
	struct kvs_trial **trials, size_t *count)
{
	json_t *search;
	int err = load_search(plan, options, text, &search);

	if (err)
		return err;
	err = read_trials(json_object_get(search, "trials"), kvs_plan_layers(plan), trials, count);
	json_decref(search);
	return err;
}

json_t *calib_plan_record(const kvs_plan *plan)
{
	json_t *record;
	char *json;

	if (kvs_plan_calibration(plan, &json))
		return NULL;
	record = json_loads(json, 0, NULL);
	free(json);
	return record;
}

double kvs_search_full_nll(const kvs_plan *plan)
{
	json_t *record = calib_plan_record(plan);
	double nll = json_number_value(json_object_get(json_object_get(record, "nll"), "full"));

	json_decref(record);
	return nll;
}

/* ---- sweep ---- */

static json_t *sweep_json(const struct kvs_search_result *result)
{
	json_t *points = json_array();

	for (size_t i = 0; i < result->sweep_count && points; i++) {
		const struct kvs_search_point *point = &result->sweep[i];
		points = append(points, json_pack("{s:i,s:f,s:o,s:s,s:o,s:o}", "share", point->tensors / 2,
						"kv_fraction", 1 - point->tensors / (2.0 * result->layers), "nll",
						calib_json_number(point->nll), "walk", kvs_walk_name(point->walk),
						"k_owners", owners_json(point->k_owners, result->layers), "v_owners",
						owners_json(point->v_owners, result->layers)));
	}
	return json_pack("{s:i,s:o,s:o}", "layers", result->layers, "full_nll", calib_json_number(result->full_nll),
		"points", points);
}

/* From the plan with the least memory up; the unshared model is the last point. */
static int write_sweep_chart(const struct kvs_search_result *result, const char *path)
{
	size_t count = result->sweep_count + 1;
	double *x = malloc(sizeof(*x) * 2 * count), *y;
	struct kvs_series series = {.name = "measured", .x = x, .count = count};
	struct kvs_chart chart = {.title = "Loss against KV memory",
		.x_label = "KV memory, part of the unshared model's",
		.y_label = "loss, nats a token",
		.series = &series,
		.series_count = 1};
	int err;

	if (!x)
		return no_memory();
	series.y = y = x + count;
	for (size_t i = 0; i < count; i++) {
		bool full = i == result->sweep_count;
		const struct kvs_search_point *point = full ? NULL : &result->sweep[result->sweep_count - 1 - i];
		x[i] = full ? 1 : 1 - point->tensors / (2.0 * result->layers);
		y[i] = full ? result->full_nll : point->nll;
	}
	err = kvs_chart_write(&chart, path);
	free(x);
	return err;
}

int kvs_search_write_sweep(const struct kvs_search_result *result, const char *json_path, const char *svg_path)
{
	json_t *object = sweep_json(result);
	char *json = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
	int err = json ? kvs_file_write(json_path, json, strlen(json)) : no_memory();

	free(json);
	json_decref(object);
	return err ? err : write_sweep_chart(result, svg_path);
}
