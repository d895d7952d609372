/*
 * model/json.c: checked reading of JSON that others wrote.
 *
 * jansson limits the nesting (2048) and refuses numbers that overflow and text that is not UTF-8. Types and ranges are
 * checked here. Nothing here knows the meaning of a field.
 */
#include "json.h"

#include "../driver/cu.h"
#include "file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse(const char *json, size_t bytes, size_t flags, const char *file, json_t **out)
{
	json_error_t error;
	json_t *root = json_loadb(json, bytes, flags, &error);
	const char *kind = root ? NULL : model_file_kind(json, bytes);

	/* jansson names a place for every error in the text, and none if an allocation failed. */
	if (!root && error.line < 0)
		return kvs_fail(-ENOMEM, "%s: no memory to parse %zu bytes", file, bytes);
	if (kind)
		return kvs_fail(-EINVAL, "%s is %s", file, kind);
	if (!root)
		return kvs_fail(-EINVAL, "%s: line %d, column %d: %s", file, error.line, error.column, error.text);
	if (!json_is_object(root)) {
		json_decref(root);
		return kvs_fail(-EINVAL, "%s: holds no JSON object", file);
	}
	*out = root;
	return 0;
}

int model_json_parse(const char *json, size_t bytes, const char *file, json_t **out)
{
	return parse(json, bytes, JSON_REJECT_DUPLICATES, file, out);
}

/* The length of a number that Python writes and JSON does not have, or 0. */
static size_t odd_number(const char *at, size_t left)
{
	static const char *const numbers[] = {"NaN", "Infinity", "-Infinity"};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (left >= strlen(numbers[i]) && !memcmp(at, numbers[i], strlen(numbers[i])))
			return strlen(numbers[i]);
	return 0;
}

/* Copies the text with quotes around these numbers; returns its length, at most twice what it was. */
static size_t quote_odd_numbers(const char *json, size_t bytes, char *out)
{
	bool in_string = false;
	size_t length = 0;

	for (size_t i = 0; i < bytes; i++) {
		size_t odd = in_string ? 0 : odd_number(json + i, bytes - i);
		if (odd) {
			out[length++] = '"';
			memcpy(out + length, json + i, odd);
			length += odd;
			out[length++] = '"';
			i += odd - 1;
			continue;
		}
		if (json[i] == '"')
			in_string = !in_string;
		out[length++] = json[i];
		if (in_string && json[i] == '\\' && i + 1 < bytes)
			out[length++] = json[++i];
	}
	return length;
}

int model_json_parse_lenient(const char *json, size_t bytes, const char *file, json_t **out)
{
	char *text = malloc(2 * bytes + 1);
	int err;

	if (!text)
		return kvs_fail(-ENOMEM, "%s: no memory to parse %zu bytes", file, bytes);
	err = parse(text, quote_odd_numbers(json, bytes, text), 0, file, out);
	free(text);
	return err;
}

const json_t *model_json_member(const struct model_json *from, const char *key)
{
	const json_t *member = json_object_get(from->object, key);

	return json_is_null(member) ? NULL : member;
}

static const char *type_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "a list";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		break;
	}
	return "null";
}

static int wrong_type(const struct model_json *from, const char *key, const json_t *value, const char *expected)
{
	return kvs_fail(
		-EINVAL, "%s: %s%s is %s, %s is expected", from->file, from->path, key, type_name(value), expected);
}

int model_json_int(const struct model_json *from, const char *key, int min, int max, int *out)
{
	const json_t *value = model_json_member(from, key);

	if (!value)
		return 0;
	if (!json_is_integer(value))
		return wrong_type(from, key, value, "an integer");
	json_int_t number = json_integer_value(value);
	if (number < min || number > max)
		return kvs_fail(-EINVAL, "%s: %s%s is %" JSON_INTEGER_FORMAT ", %d to %d is supported", from->file,
			from->path, key, number, min, max);
	*out = (int)number;
	return 0;
}

int model_json_need_int(const struct model_json *from, const char *key, int min, int max, int *out)
{
	if (!model_json_member(from, key))
		return kvs_fail(-EINVAL, "%s: %s%s is missing", from->file, from->path, key);
	return model_json_int(from, key, min, max, out);
}

int model_json_number(const struct model_json *from, const char *key, double min, double max, double *out)
{
	const json_t *value = model_json_member(from, key);

	if (!value)
		return 0;
	if (!json_is_number(value))
		return wrong_type(from, key, value, "a number");
	double number = json_number_value(value);
	if (!(number >= min && number <= max))
		return kvs_fail(-EINVAL, "%s: %s%s is %g, %g to %g is supported", from->file, from->path, key, number,
			min, max);
	*out = number;
	return 0;
}

int model_json_bool(const struct model_json *from, const char *key, bool *out)
{
	const json_t *value = model_json_member(from, key);

	if (!value)
		return 0;
	if (!json_is_boolean(value))
		return wrong_type(from, key, value, "true or false");
	*out = json_is_true(value);
	return 0;
}

int model_json_string(const struct model_json *from, const char *key, const char **out)
{
	const json_t *value = model_json_member(from, key);

	if (!value)
		return 0;
	if (!json_is_string(value))
		return wrong_type(from, key, value, "a string");
	*out = json_string_value(value);
	return 0;
}
