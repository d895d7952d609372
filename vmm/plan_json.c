/*
 * vmm/plan_json.c: plans as JSON files, read and written.
 *
 * Nothing in a file is believed: the type and range of every field is checked before use, and a message names the file
 * and the field. Keys that this version does not know are kept and written again.
 */
#include "plan.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_VERSION 1
#define MAX_FILE_BYTES                                                                                                 \
	((size_t)16 << 20) /* a plan of 4096 layers takes 50 KB; the rest is room for calibration notes */

/* An integer field from `least` to `most`. */
static int read_int(const char *path, const json_t *object, const char *key, int least, int most, int *out)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return kvs_fail(-EINVAL, "%s: %s is missing", path, key);
	if (!json_is_integer(value))
		return kvs_fail(-EINVAL, "%s: %s is not an integer", path, key);
	if (json_integer_value(value) < least || json_integer_value(value) > most)
		return kvs_fail(-EINVAL, "%s: %s is %lld, must be from %d to %d", path, key,
			(long long)json_integer_value(value), least, most);
	*out = (int)json_integer_value(value);
	return 0;
}

/* A text field; unless `required`, it may be missing, and *out is NULL then. The text stays the document's. */
static int read_text(const char *path, const json_t *object, const char *key, bool required, const char **out)
{
	const json_t *value = json_object_get(object, key);

	*out = NULL;
	if (!value && !required)
		return 0;
	if (!value)
		return kvs_fail(-EINVAL, "%s: %s is missing", path, key);
	if (!json_is_string(value))
		return kvs_fail(-EINVAL, "%s: %s is not a string", path, key);
	*out = json_string_value(value);
	return 0;
}

static int read_owners(const char *path, const json_t *root, const char *key, int layers, int *owners)
{
	const json_t *array = json_object_get(root, key);
	char name[256];

	if (!array)
		return kvs_fail(-EINVAL, "%s: %s is missing", path, key);
	if (!json_is_array(array))
		return kvs_fail(-EINVAL, "%s: %s is not an array", path, key);
	if (json_array_size(array) != (size_t)layers)
		return kvs_fail(
			-EINVAL, "%s: %s has %zu entries, layers is %d", path, key, json_array_size(array), layers);
	for (int layer = 0; layer < layers; layer++) {
		const json_t *value = json_array_get(array, (size_t)layer);
		json_int_t owner = json_integer_value(value);

		if (!json_is_integer(value))
			return kvs_fail(-EINVAL, "%s: %s[%d] is not an integer", path, key, layer);
		if (owner < 0 || owner >= layers)
			return kvs_fail(-EINVAL, "%s: %s[%d] is %lld: layers are 0 to %d", path, key, layer,
				(long long)owner, layers - 1);
		owners[layer] = (int)owner;
	}
	snprintf(name, sizeof(name), "%s: %s", path, key);
	return vmm_plan_check_owners(name, layers, owners);
}

static int read_model(const char *path, const json_t *root, kvs_plan *plan)
{
	const json_t *object = json_object_get(root, "model");
	struct kvs_plan_model model;
	int err;

	if (!object)
		return 0;
	if (!json_is_object(object))
		return kvs_fail(-EINVAL, "%s: model is not an object", path);
	err = read_text(path, object, "architecture", true, &model.architecture);
	if (!err)
		err = read_int(path, object, "layers", 1, KVS_PLAN_MAX_LAYERS, &model.layers);
	if (!err)
		err = read_int(path, object, "kv_heads", 1, INT_MAX, &model.kv_heads);
	if (!err)
		err = read_int(path, object, "head_dim", 1, INT_MAX, &model.head_dim);
	if (!err)
		err = read_text(path, object, "fingerprint", false, &model.fingerprint);
	if (!err && model.layers != plan->layers)
		err = kvs_fail(-EINVAL, "%s: model.layers is %d, layers is %d", path, model.layers, plan->layers);
	return err ? err : kvs_plan_set_model(plan, &model);
}

static int read_plan(const char *path, json_t *root, kvs_plan **out)
{
	int version, layers, err;
	kvs_plan *plan;

	if (!json_is_object(root))
		return kvs_fail(-EINVAL, "%s: not a JSON object", path);
	err = read_int(path, root, "kvshare_plan", FORMAT_VERSION, FORMAT_VERSION, &version);
	if (!err)
		err = read_int(path, root, "layers", 1, KVS_PLAN_MAX_LAYERS, &layers);
	if (!err)
		err = kvs_plan_identity(layers, &plan);
	if (err)
		return err;
	err = read_owners(path, root, "k_owners", layers, plan->k_owners);
	if (!err)
		err = read_owners(path, root, "v_owners", layers, plan->v_owners);
	if (!err)
		err = read_model(path, root, plan);
	if (!err && json_object_get(root, "calibration") && !json_is_object(json_object_get(root, "calibration")))
		err = kvs_fail(-EINVAL, "%s: calibration is not an object", path);
	if (err) {
		kvs_plan_free(plan);
		return err;
	}
	plan->document = json_incref(root);
	*out = plan;
	return 0;
}

/* All of an open file, or of a pipe, but not much more than a plan may have. The caller frees *out, even on failure. */
static int read_stream(FILE *file, char **out, size_t *bytes)
{
	size_t room = 64 << 10;

	for (*bytes = 0, *out = NULL; *bytes <= MAX_FILE_BYTES && !feof(file); room *= 2) {
		char *grown = realloc(*out, room);

		if (!grown)
			return -ENOMEM;
		*out = grown;
		*bytes += fread(*out + *bytes, 1, room - *bytes, file);
		if (ferror(file))
			return -errno;
	}
	return 0;
}

/* The caller frees *out, even on failure. */
static int read_file(const char *path, char **out, size_t *bytes)
{
	FILE *file = fopen(path, "re");
	int err;

	if (!file)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	err = read_stream(file, out, bytes);
	fclose(file);
	if (err)
		return kvs_fail(err == -ENOMEM ? -ENOMEM : -EIO, "%s: %s", path, strerror(-err));
	if (*bytes > MAX_FILE_BYTES)
		return kvs_fail(-EINVAL, "%s: larger than %zu bytes, which no plan is", path, MAX_FILE_BYTES);
	return 0;
}

int kvs_plan_load(const char *path, kvs_plan **out)
{
	json_error_t error;
	json_t *root;
	size_t bytes = 0;
	char *text = NULL;
	int err = read_file(path, &text, &bytes);

	if (err) {
		free(text);
		return err;
	}
	root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	free(text);
	if (!root)
		return kvs_fail(-EINVAL, "%s: line %d, column %d: %s", path, error.line, error.column, error.text);
	err = read_plan(path, root, out);
	json_decref(root);
	return err;
}

static json_t *owners_json(int layers, const int *owners)
{
	json_t *array = json_array();

	for (int layer = 0; layer < layers && array; layer++) {
		if (json_array_append_new(array, json_integer(owners[layer]))) {
			json_decref(array);
			array = NULL;
		}
	}
	return array;
}

/* Sets the keys of the model that are known, and leaves other keys of the document's model alone. */
static int set_model_json(json_t *root, const struct kvs_plan_model *model)
{
	json_t *object = json_object_get(root, "model");
	int failed = 0;

	if (!model->architecture)
		return 0;
	if (!object) {
		object = json_object();
		if (json_object_set_new(root, "model", object))
			return -1;
	}
	failed |= json_object_set_new(object, "architecture", json_string(model->architecture));
	failed |= json_object_set_new(object, "layers", json_integer(model->layers));
	failed |= json_object_set_new(object, "kv_heads", json_integer(model->kv_heads));
	failed |= json_object_set_new(object, "head_dim", json_integer(model->head_dim));
	if (model->fingerprint)
		failed |= json_object_set_new(object, "fingerprint", json_string(model->fingerprint));
	else
		json_object_del(object, "fingerprint");
	return failed;
}

static json_t *plan_document(const kvs_plan *plan)
{
	json_t *root = plan->document ? json_deep_copy(plan->document) : json_object();
	int failed = 0;

	if (!root)
		return NULL;
	failed |= json_object_set_new(root, "kvshare_plan", json_integer(FORMAT_VERSION));
	failed |= json_object_set_new(root, "layers", json_integer(plan->layers));
	failed |= json_object_set_new(root, "k_owners", owners_json(plan->layers, plan->k_owners));
	failed |= json_object_set_new(root, "v_owners", owners_json(plan->layers, plan->v_owners));
	failed |= set_model_json(root, &plan->model);
	if (failed) {
		json_decref(root);
		return NULL;
	}
	return root;
}

/* One line for each key: owners and trials read best on one line. */
static int write_document(json_t *root, FILE *file)
{
	const char *key, *separator = "{\n";
	json_t *value;

	json_object_foreach(root, key, value)
	{
		json_t *name = json_string(key);
		int failed = !name || fputs(separator, file) == EOF || fputs("  ", file) == EOF ||
			     json_dumpf(name, file, JSON_ENCODE_ANY) || fputs(": ", file) == EOF ||
			     json_dumpf(value, file, JSON_ENCODE_ANY);

		json_decref(name);
		if (failed)
			return -1;
		separator = ",\n";
	}
	return fputs("\n}\n", file) == EOF ? -1 : 0;
}

int kvs_plan_text(const kvs_plan *plan, char **json)
{
	json_t *root = plan_document(plan);
	size_t bytes;
	FILE *file = root ? open_memstream(json, &bytes) : NULL;
	int failed = 1;

	if (file) {
		failed = write_document(root, file) | fclose(file);
		if (failed)
			free(*json);
	}
	json_decref(root);
	return failed ? kvs_fail(-ENOMEM, "no host memory for a plan's text") : 0;
}

int kvs_plan_save(const kvs_plan *plan, const char *path)
{
	char *json;
	int err = kvs_plan_text(plan, &json);

	if (err)
		return err;
	err = kvs_file_write(path, json, strlen(json));
	free(json);
	return err;
}

int kvs_plan_set_calibration(kvs_plan *plan, const char *json)
{
	json_error_t error;
	json_t *calibration = json_loads(json, JSON_REJECT_DUPLICATES, &error);

	if (!json_is_object(calibration)) {
		json_decref(calibration);
		return kvs_fail(-EINVAL, "calibration is not a JSON object");
	}
	if (!plan->document)
		plan->document = plan_document(plan); /* so that it comes after the owners in the file */
	if (json_object_set_new(plan->document, "calibration", calibration))
		return kvs_fail(-ENOMEM, "no host memory for a plan's calibration");
	return 0;
}

int kvs_plan_calibration(const kvs_plan *plan, char **json)
{
	const json_t *calibration = json_object_get(plan->document, "calibration");

	if (!calibration)
		return kvs_fail(-ENOENT, "the plan has no calibration: it was not made by a search");
	*json = json_dumps(calibration, 0);
	return *json ? 0 : kvs_fail(-ENOMEM, "no host memory for a plan's calibration");
}
