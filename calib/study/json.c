/*
 * calib/study/json.c: a study on disk: its settings, and every row that is done, with every figure to the last bit.
 *
 * Nothing in a file is believed: a study takes over a row only if its settings are equal and the row could be its own.
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

/* NULL if memory runs out, as from all functions here; jansson hands a NULL on. */
static json_t *ints_json(const int *values, int count)
{
	json_t *array = json_array();
	int failed = array ? 0 : -1;

	for (int i = 0; i < count && !failed; i++)
		failed = json_array_append_new(array, json_integer(values[i]));
	if (!failed)
		return array;
	json_decref(array);
	return NULL;
}

int study_describe(struct kvs_study *study, const kvs_checkpoint *ckpt, const struct kvs_study_options *options)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	const struct kvs_calib_text *calib = &study->cuts[0].text, *measured = &study->measured;

	study->settings = json_pack("{s:s,s:i,s:i,s:i,s:s,s:s,s:s,s:i,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:f,s:o}",
		"architecture", config->model_type, "layers", config->layers, "kv_heads", config->kv_heads, "head_dim",
		config->head_dim, "fingerprint", kvs_checkpoint_fingerprint(ckpt), "device", options->cu->name,
		"kv_dtype", kvs_dtype_name(options->engine.kv_dtype), "chunk_tokens", options->engine.chunk_tokens,
		"calib_digest", calib->digest, "text_digest", measured->digest, "sample_by",
		calib->by == KVS_SAMPLE_LINE     ? "line"
		: calib->by == KVS_SAMPLE_SPREAD ? "spread"
						 : "run",
		"samples", calib->samples, "sample_tokens", calib->sample_tokens, "held_tokens",
		calib->windows * calib->window_tokens, "window_tokens", calib->window_tokens, "measured_tokens",
		measured->windows * measured->window_tokens, "threshold", options->threshold, "shares",
		ints_json(study->shares, study->share_count));
	if (!study->settings)
		return no_memory();
	/* Only where it is asked for: studies that began without it go on. */
	if (study->fit.count && (json_object_set_new(study->settings, "fit_samples", json_integer(study->fit.count)) ||
					json_object_set_new(study->settings, "fit_sample_tokens",
						json_integer(study_fit_text(study->cuts)->sample_tokens))))
		return no_memory();
	return study_describe_also(study) || study_describe_prompt(study) || study_describe_given(study) ? no_memory()
													 : 0;
}

/* ---- out ---- */

json_t *study_point_json(const struct kvs_study *study, const struct study_point *point, int share, bool merged)
{
	const struct kvs_quality *q = &point->quality;
	json_t *object;

	if (!point->owners)
		return json_pack("{s:i,s:f}", "share", share, "shared", point->tensors / 2.0);
	object = json_pack("{s:i,s:f,s:f,s:o,s:f,s:f,s:I,s:f,s:o,s:o}", "share", share, "shared", point->tensors / 2.0,
		"nll", q->nll, "ppl", calib_json_number(exp(q->nll)), "top1_agreement", q->top1_agreement, "kl", q->kl,
		"kv_token_bytes", (json_int_t)point->token_bytes, "kv_fraction",
		(double)point->token_bytes / study_token_bytes(study, 0, false), "k_owners",
		ints_json(point->owners, study->layers), "v_owners",
		ints_json(point->owners + study->layers, study->layers));
	if (object && (merged || !study_also_json(study, point, object)) &&
		(!point->sample || !json_object_set_new(object, "sample", json_string(point->sample))))
		return object;
	json_decref(object);
	return NULL;
}

static json_t *fit_json(const struct study_fit *fit)
{
	json_t *object = json_pack("{s:i,s:i,s:b,s:f,s:f}", "tokens", fit->tokens, "matrices", fit->matrices, "applied",
		fit->applied, "plain_nll", fit->plain_nll, "nll", fit->nll);
	int failed = fit->peak_bytes ? json_object_set_new(object, "peak_bytes", json_integer(fit->peak_bytes)) : 0;

	failed |= json_object_set_new(object, "cpu_s", json_real(fit->cpu_s));
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

static json_t *row_json(const struct kvs_study *study, const struct study_row *row)
{
	const struct study_cut *cut = &study->cuts[row->cut];
	json_t *points = json_array();
	json_t *object = NULL;
	int failed = points ? 0 : -1;

	for (int p = 0; p < study->share_count && !failed; p++) {
		json_t *point =
			study_point_json(study, &row->points[p], study->shares[p], row->method == KVS_STUDY_MERGE);
		if (point && row->fit && row->points[p].owners)
			failed |= json_object_set_new(point, "fit", fit_json(&row->points[p].fit));
		failed |= json_array_append_new(points, point);
	}
	if (!failed)
		object = json_pack("{s:s,s:I,s:s,s:i,s:i,s:O}", "method", kvs_study_method_name(row->method), "seed",
			(json_int_t)row->seed, "calib_digest", cut->text.digest, "samples", cut->samples, "held_tokens",
			cut->text.windows * cut->text.window_tokens, "points", points);
	json_decref(points);
	if (object && row->fit &&
		json_object_set_new(object, "compensate", json_string(kvs_study_fit_name(row->fit)))) {
		json_decref(object);
		object = NULL;
	}
	return object;
}

static int append_rows(const struct kvs_study *study, json_t *rows)
{
	int failed = rows ? 0 : -1;

	for (size_t i = 0; i < study->row_count && !failed; i++)
		if (study->rows[i].done)
			failed = json_array_append_new(rows, row_json(study, &study->rows[i]));
	return failed;
}

static int append_missing(const struct kvs_study *study, json_t *missing)
{
	bool fits = study_has_fits(study);
	int failed = missing ? 0 : -1;

	for (int c = 0; c < study->cut_count && !failed; c++) {
		const struct study_cut *cut = &study->cuts[c];
		if (c && !study_any_varies(study))
			continue;
		if (cut->missing)
			failed = json_array_append_new(
				missing, json_pack("{s:i,s:s}", "samples", cut->samples, "why", cut->missing));
		else if (cut->unfit && fits)
			failed = json_array_append_new(missing, json_pack("{s:i,s:s,s:s}", "samples", cut->samples,
									"compensate", "all", "why", cut->unfit));
		if (cut->unpaired && !failed)
			failed = json_array_append_new(missing, json_pack("{s:i,s:s,s:s}", "samples", cut->samples,
									"method", "refit", "why", cut->unpaired));
	}
	return failed;
}

static json_t *full_json(const struct kvs_study *study)
{
	json_t *full;

	if (!isfinite(study->full_nll))
		return json_null();
	full = json_pack("{s:f,s:o,s:I}", "nll", study->full_nll, "ppl", calib_json_number(exp(study->full_nll)),
		"kv_token_bytes", (json_int_t)study_token_bytes(study, 0, false));
	if (full && !study_also_json(study, NULL, full) &&
		(!study->prompt.unshared || !json_object_set_new(full, "sample", json_string(study->prompt.unshared))))
		return full;
	json_decref(full);
	return NULL;
}

int kvs_study_json(const struct kvs_study *study, char **json)
{
	json_t *rows = json_array(), *missing = json_array(), *object = NULL;
	char *text;
	int err = 0;

	if (!append_rows(study, rows) && !append_missing(study, missing))
		object = json_pack("{s:i,s:O,s:o,s:O,s:O}", "kvshare_study", VERSION, "settings", study->settings,
			"full", full_json(study), "rows", rows, "not_run", missing);
	if (object && study_given_json(study, object)) {
		json_decref(object);
		object = NULL;
	}
	text = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
	json_decref(object);
	json_decref(rows);
	json_decref(missing);
	if (!text || asprintf(json, "%s\n", text) < 0) /* a text file ends in a newline, which jansson does not write */
		err = no_memory();
	free(text);
	return err;
}

int study_save(const struct kvs_study *study, const char *path)
{
	char *json;
	int err = kvs_study_json(study, &json);

	if (err)
		return err;
	err = kvs_file_write(path, json, strlen(json));
	free(json);
	return err;
}

/* ---- in ---- */

static int damaged(const char *path, const char *what)
{
	return kvs_fail(-EINVAL, "%s: %s is damaged: move the file away to start again", path, what);
}

static int of_another_study(const char *path, const char *key, const json_t *then, const json_t *now)
{
	char *was = then ? json_dumps(then, JSON_ENCODE_ANY) : NULL,
	     *is = now ? json_dumps(now, JSON_ENCODE_ANY) : NULL;

	kvs_fail(-EINVAL, "%s is of another study: its %s is %s, here it is %s: name another directory", path, key,
		was ? was : "missing", is ? is : "missing");
	free(was);
	free(is);
	return -EINVAL;
}

static int check_settings(const struct kvs_study *study, json_t *then, const char *path)
{
	const char *key;
	json_t *value;

	json_object_foreach(study->settings, key, value)
	{
		if (!json_equal(value, json_object_get(then, key)))
			return of_another_study(path, key, json_object_get(then, key), value);
	}
	json_object_foreach(then, key, value)
	{
		if (!json_object_get(study->settings, key))
			return of_another_study(path, key, value, NULL);
	}
	return 0;
}

/* NAN if it is missing or not a number. */
static double number_at(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Both maps, which must be those of a plan in which `tensors` tensors borrow. -EINVAL. */
static int read_owners(const json_t *object, int layers, int tensors, int *owners)
{
	static const char *const keys[] = {"k_owners", "v_owners"};
	kvs_plan *plan;
	int borrowers = 0, err;

	for (int i = 0; i < 2 * layers; i++) {
		const json_t *array = json_object_get(object, keys[i / layers]);
		const json_t *value = json_array_get(array, i % layers);
		json_int_t owner = json_integer_value(value);
		if (json_array_size(array) != (size_t)layers || !json_is_integer(value) || owner < 0 || owner >= layers)
			return -EINVAL;
		owners[i] = (int)owner;
		borrowers += owner != i % layers;
	}
	err = kvs_plan_create(layers, owners, owners + layers, &plan);
	if (!err)
		kvs_plan_free(plan);
	return err || borrowers == tensors ? err : -EINVAL;
}

/* NULL: the row has none. */
static int read_fit(const json_t *object, struct study_fit *fit)
{
	fit->tokens = (int)json_integer_value(json_object_get(object, "tokens"));
	fit->matrices = (int)json_integer_value(json_object_get(object, "matrices"));
	fit->applied = json_is_true(json_object_get(object, "applied"));
	fit->plain_nll = number_at(object, "plain_nll");
	fit->nll = number_at(object, "nll");
	fit->cpu_s = number_at(object, "cpu_s");
	fit->peak_bytes = json_integer_value(json_object_get(object, "peak_bytes")); /* old studies have none */
	return fit->tokens > 0 && fit->matrices >= 0 && fit->peak_bytes >= 0 &&
			       isfinite(fit->plain_nll + fit->nll + fit->cpu_s)
		       ? 0
		       : -EINVAL;
}

static int read_point(const json_t *object, struct kvs_study *study, bool merged, int share, struct study_point *point)
{
	double shared = number_at(object, "shared");

	if (json_integer_value(json_object_get(object, "share")) != share || !(shared >= 0 && shared <= share))
		return -EINVAL;
	point->tensors = (int)lround(2 * shared);
	point->token_bytes = study_token_bytes(study, point->tensors, merged);
	if (point->tensors < 2 * share)
		return 0;
	point->owners = malloc(sizeof(*point->owners) * 2 * study->layers);
	return point->owners ? read_owners(object, study->layers, point->tensors, point->owners) : -ENOMEM;
}

/* The cut that a row is of, or -1. A row of a text that is not given this time would be lost at the next save. */
static int find_cut(const struct kvs_study *study, const json_t *row)
{
	const char *digest = json_string_value(json_object_get(row, "calib_digest"));
	json_int_t samples = json_integer_value(json_object_get(row, "samples"));

	for (int c = 0; c < study->cut_count && digest; c++)
		if (study->cuts[c].samples == samples && !strcmp(study->cuts[c].text.digest, digest))
			return c;
	return -1;
}

static int read_sample(const json_t *object, char **sample)
{
	const char *text = json_string_value(json_object_get(object, "sample"));

	if (!text)
		return -EINVAL;
	*sample = strdup(text);
	return *sample ? 0 : -ENOMEM;
}

int study_read_measures(
	struct kvs_study *study, const json_t *object, bool merged, bool sampled, struct study_point *point)
{
	int err;

	point->quality = (struct kvs_quality){.nll = number_at(object, "nll"),
		.full_nll = study->full_nll,
		.top1_agreement = number_at(object, "top1_agreement"),
		.kl = number_at(object, "kl"),
		.tokens = (size_t)study->measured.windows * study->measured.window_tokens};
	err = isfinite(point->quality.nll + point->quality.top1_agreement + point->quality.kl) ? 0 : -EINVAL;
	if (!err && !merged)
		err = study_read_also(study, object, point);
	return err || !sampled ? err : read_sample(object, &point->sample);
}

static int read_points(const json_t *points, struct kvs_study *study, struct study_row *row)
{
	int err = json_array_size(points) == (size_t)study->share_count ? 0 : -EINVAL;

	for (int p = 0; p < study->share_count && !err; p++) {
		const json_t *object = json_array_get(points, p);
		struct study_point *point = &row->points[p];
		err = read_point(object, study, row->method == KVS_STUDY_MERGE, study->shares[p], point);
		if (!err && point->owners)
			err = study_read_measures(
				study, object, row->method == KVS_STUDY_MERGE, study_samples(study, row), point);
		if (!err && row->fit && point->owners)
			err = read_fit(json_object_get(object, "fit"), &point->fit);
	}
	return err;
}

/* A row with a fit is of the plans of the row without, which comes before it. */
static bool is_of_same_plans(const struct kvs_study *study, const struct study_row *row)
{
	const struct study_row *alone = study_alone(study, row);
	bool same = alone && alone->done;

	for (int p = 0; p < study->share_count && same; p++) {
		const int *x = alone->points[p].owners, *y = row->points[p].owners;
		same = alone->points[p].tensors == row->points[p].tensors && !x == !y &&
		       (!x || !memcmp(x, y, sizeof(*x) * 2 * study->layers));
	}
	return same;
}

/* -1: a name that is none. */
static int read_fit_name(const json_t *row)
{
	const json_t *value = json_object_get(row, "compensate");
	const char *name = json_string_value(value);
	int fit = KVS_STUDY_ALONE + 1;

	if (!value)
		return KVS_STUDY_ALONE;
	while (fit < KVS_STUDY_FITS && name && strcmp(name, kvs_study_fit_name(fit)))
		fit++;
	return name && fit < KVS_STUDY_FITS ? fit : -1;
}

static int read_row(const json_t *object, struct kvs_study *study)
{
	const char *name = json_string_value(json_object_get(object, "method"));
	json_int_t seed = json_integer_value(json_object_get(object, "seed"));
	struct study_row *row;
	int cut = find_cut(study, object), method = 0, fit = read_fit_name(object), err;

	while (method < KVS_STUDY_METHODS && name && strcmp(name, kvs_study_method_name(method)))
		method++;
	if (!name || method == KVS_STUDY_METHODS || cut < 0 || fit < 0 || !study_fits(study, method, fit, cut) ||
		seed < 0 || (seed > 0) != study_is_random(method))
		return -EINVAL;
	row = study_row(study, method, seed, fit, cut);
	if (!row)
		return -ENOMEM;
	if (row->done) /* it is in the file twice */
		return -EINVAL;
	err = read_points(json_object_get(object, "points"), study, row);
	if (!err && row->fit && !is_of_same_plans(study, row))
		err = -EINVAL;
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
	bool begun = json_array_size(rows) || json_object_get(root, "plans");
	if (begun && (!isfinite(study->full_nll) || study_read_also(study, json_object_get(root, "full"), NULL)))
		return damaged(path, "full");
	if (study->prompt.text && begun)
		err = read_sample(json_object_get(root, "full"), &study->prompt.unshared);
	if (err)
		return err == -ENOMEM ? no_memory() : damaged(path, "full");
	err = study_read_given(study, root);
	if (err)
		return err == -ENOMEM ? no_memory() : damaged(path, "plans");
	for (size_t i = 0; i < json_array_size(rows) && !err; i++) {
		if (find_cut(study, json_array_get(rows, i)) < 0)
			return kvs_fail(-EINVAL,
				"%s: rows[%zu] is of a text that is not among those to search on: name it with "
				"--calib",
				path, i);
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
	study_sort(study);
	return err;
}
