/*
 * calib/study_json.c: a study on disk: what was asked, and every row that is done, to the last bit of every figure.
 */
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION 1

static int no_memory(void)
{
	return kvs_fail(-ENOMEM, "no memory for the record of a study");
}

static json_t *ints_json(const int *values, int count)
{
	json_t *array = json_array();

	for (int i = 0; i < count; i++)
		json_array_append_new(array, json_integer(values[i]));
	return array;
}

int kvs_study_describe(struct kvs_study *study, const kvs_checkpoint *ckpt, const struct kvs_study_options *options)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	const struct kvs_calib_text *calib = &study->texts[0].cut, *measured = &study->measured;

	study->settings = json_pack("{s:s,s:i,s:i,s:i,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:f,s:o}",
		"architecture", config->model_type, "layers", config->layers, "kv_heads", config->kv_heads, "head_dim",
		config->head_dim, "fingerprint", kvs_checkpoint_fingerprint(ckpt), "device", options->device,
		"kv_dtype", kvs_dtype_name(options->kv_dtype), "calib_digest", calib->digest, "text_digest",
		measured->digest, "sample_by", calib->by == KVS_SAMPLE_LINE ? "line" : "run", "samples", calib->samples,
		"sample_tokens", calib->sample_tokens, "held_tokens", calib->windows * calib->window_tokens,
		"window_tokens", calib->window_tokens, "measured_tokens", measured->windows * measured->window_tokens,
		"threshold", options->threshold, "shares", ints_json(study->shares, study->share_count));
	return study->settings ? 0 : no_memory();
}

/* ---- out ---- */

static json_t *point_json(const struct kvs_study *study, const struct kvs_study_point *point, int share)
{
	const struct kvs_quality *q = &point->quality;
	json_t *object = json_pack("{s:i,s:f}", "share", share, "shared", point->tensors / 2.0);

	if (!point->owners)
		return object;
	json_object_update_new(object,
		json_pack("{s:f,s:f,s:f,s:f,s:I,s:f,s:o,s:o}", "nll", q->nll, "ppl", exp(q->nll), "top1_agreement",
			q->top1_agreement, "kl", q->kl, "kv_token_bytes", (json_int_t)point->token_bytes, "kv_fraction",
			(double)point->token_bytes / kvs_study_token_bytes(study, 0, false), "k_owners",
			ints_json(point->owners, study->layers), "v_owners",
			ints_json(point->owners + study->layers, study->layers)));
	return object;
}

static json_t *row_json(const struct kvs_study *study, const struct kvs_study_row *row)
{
	const struct kvs_study_text *text = &study->texts[row->text];
	json_t *points = json_array();

	for (int p = 0; p < study->share_count; p++)
		json_array_append_new(points, point_json(study, &row->points[p], study->shares[p]));
	return json_pack("{s:s,s:I,s:i,s:i,s:o}", "method", kvs_study_method_name(row->method), "seed",
		(json_int_t)row->seed, "samples", text->samples, "part", text->part, "points", points);
}

static json_t *study_json(const struct kvs_study *study)
{
	json_t *rows = json_array(), *missing = json_array(), *full = json_null();

	for (size_t i = 0; i < study->row_count; i++)
		if (study->rows[i].done)
			json_array_append_new(rows, row_json(study, &study->rows[i]));
	for (int i = 0; i < KVS_STUDY_TEXTS; i++)
		if (study->texts[i].missing)
			json_array_append_new(
				missing, json_pack("{s:i,s:i,s:s}", "samples", study->texts[i].samples, "part",
						 study->texts[i].part, "why", study->texts[i].missing));
	if (isfinite(study->full_nll))
		full = json_pack("{s:f,s:f,s:I}", "nll", study->full_nll, "ppl", exp(study->full_nll), "kv_token_bytes",
			(json_int_t)kvs_study_token_bytes(study, 0, false));
	return json_pack("{s:i,s:O,s:o,s:o,s:o}", "kvshare_study", VERSION, "settings", study->settings, "full", full,
		"rows", rows, "not_run", missing);
}

int kvs_study_text(const kvs_study *study, char **json)
{
	json_t *object = study_json(study);

	*json = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
	json_decref(object);
	return *json ? 0 : no_memory();
}

int kvs_study_save(const struct kvs_study *study, const char *path)
{
	char *json;
	int err = kvs_study_text(study, &json);

	if (err)
		return err;
	err = kvs_text_write(path, json, strlen(json));
	free(json);
	return err;
}

/* ---- in ---- */

static int damaged(const char *path, const char *what)
{
	return kvs_fail(-EINVAL, "%s: %s is damaged: move the file away to begin anew", path, what);
}

static int check_settings(const struct kvs_study *study, const json_t *then, const char *path)
{
	const char *key;
	json_t *value;

	json_object_foreach(study->settings, key, value)
	{
		const json_t *old = json_object_get(then, key);
		char *is, *was;
		if (json_equal(value, old))
			continue;
		is = json_dumps(value, JSON_ENCODE_ANY);
		was = old ? json_dumps(old, JSON_ENCODE_ANY) : NULL;
		kvs_fail(-EINVAL, "%s is of another study: its %s is %s, here it is %s: name another directory", path,
			key, was ? was : "missing", is ? is : "another");
		free(is);
		free(was);
		return -EINVAL;
	}
	return 0;
}

/* NAN where it is none. */
static double number_at(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Both maps, which must be those of a plan. -EINVAL. */
static int read_owners(const json_t *object, int layers, int *owners)
{
	static const char *const keys[] = {"k_owners", "v_owners"};
	kvs_plan *plan;
	int err;

	for (int i = 0; i < 2 * layers; i++) {
		const json_t *array = json_object_get(object, keys[i / layers]);
		const json_t *value = json_array_get(array, i % layers);
		json_int_t owner = json_integer_value(value);
		if (json_array_size(array) != (size_t)layers || !json_is_integer(value) || owner < 0 || owner >= layers)
			return -EINVAL;
		owners[i] = (int)owner;
	}
	err = kvs_plan_create(layers, owners, owners + layers, &plan);
	if (!err)
		kvs_plan_free(plan);
	return err;
}

static int read_point(
	const json_t *object, struct kvs_study *study, bool merged, int share, struct kvs_study_point *point)
{
	double shared = number_at(object, "shared");
	int err;

	if (json_integer_value(json_object_get(object, "share")) != share || !(shared >= 0 && shared <= share))
		return -EINVAL;
	point->tensors = (int)lround(2 * shared);
	if (point->tensors < 2 * share)
		return 0;
	point->owners = malloc(sizeof(*point->owners) * 2 * study->layers);
	err = point->owners ? read_owners(object, study->layers, point->owners) : -ENOMEM;
	point->token_bytes = kvs_study_token_bytes(study, point->tensors, merged);
	point->quality = (struct kvs_quality){.nll = number_at(object, "nll"),
		.full_nll = study->full_nll,
		.top1_agreement = number_at(object, "top1_agreement"),
		.kl = number_at(object, "kl"),
		.tokens = (size_t)study->measured.windows * study->measured.window_tokens};
	return err || isfinite(point->quality.nll + point->quality.top1_agreement + point->quality.kl) ? err : -EINVAL;
}

static int find_text(const struct kvs_study *study, const json_t *row)
{
	for (int i = 0; i < KVS_STUDY_TEXTS; i++)
		if (study->texts[i].samples == json_integer_value(json_object_get(row, "samples")) &&
			study->texts[i].part == json_integer_value(json_object_get(row, "part")))
			return i;
	return -1;
}

static int read_row(const json_t *object, struct kvs_study *study)
{
	const char *name = json_string_value(json_object_get(object, "method"));
	json_int_t seed = json_integer_value(json_object_get(object, "seed"));
	const json_t *points = json_object_get(object, "points");
	struct kvs_study_row *row;
	int text = find_text(study, object), method = 0, err = 0;

	while (method < KVS_STUDY_METHODS && name && strcmp(name, kvs_study_method_name(method)))
		method++;
	if (!name || method == KVS_STUDY_METHODS || text < 0 || seed < 0 ||
		json_array_size(points) != (size_t)study->share_count)
		return -EINVAL;
	row = kvs_study_row(study, method, seed, text);
	if (!row)
		return -ENOMEM;
	if (row->done) /* twice */
		return -EINVAL;
	for (int p = 0; p < study->share_count && !err; p++)
		err = read_point(
			json_array_get(points, p), study, method == KVS_STUDY_MERGE, study->shares[p], &row->points[p]);
	row->done = !err;
	return err;
}

static int read_study(const json_t *root, struct kvs_study *study, const char *path)
{
	const json_t *rows = json_object_get(root, "rows");
	char what[32];
	int err;

	if (json_integer_value(json_object_get(root, "kvshare_study")) != VERSION || !json_is_array(rows))
		return kvs_fail(-EINVAL, "%s is no study of this version (\"kvshare_study\": %d)", path, VERSION);
	err = check_settings(study, json_object_get(root, "settings"), path);
	if (err)
		return err;
	study->full_nll = number_at(json_object_get(root, "full"), "nll");
	if (json_array_size(rows) && !isfinite(study->full_nll))
		return damaged(path, "full");
	for (size_t i = 0; i < json_array_size(rows) && !err; i++) {
		err = read_row(json_array_get(rows, i), study);
		snprintf(what, sizeof(what), "rows[%zu]", i);
	}
	return err == -ENOMEM ? no_memory() : err ? damaged(path, what) : 0;
}

int kvs_study_resume(kvs_study *study, const char *path)
{
	json_error_t error;
	json_t *root;
	int err;

	if (access(path, F_OK))
		return 0;
	root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
	if (!root)
		return kvs_fail(-EINVAL, "%s: %s (line %d)", path, error.text, error.line);
	err = read_study(root, study, path);
	json_decref(root);
	return err;
}
