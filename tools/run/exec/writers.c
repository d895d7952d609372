/*
 * tools/run/exec/writers.c: a file of `kvshare-run probe`, turned into the patterns that the shim reads.
 */
#include "exec.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A kernel's name as a pattern that matches it alone. */
static int pattern_put(FILE *out, const char *path, const json_t *writer)
{
	const char *name = json_string_value(json_object_get(writer, "kernel"));
	const json_t *param = json_object_get(writer, "parameter"), *offset = json_object_get(writer, "offset");

	if (!name || !json_is_integer(param) || strchr(name, ',') || json_integer_value(param) < 0)
		return kvs_fail(-EINVAL,
			"%s: a writer has a \"kernel\" without commas, and the number of a \"parameter\"", path);
	for (; *name; name++)
		fprintf(out, strchr("*?[\\", *name) ? "\\%c" : "%c", *name);
	fprintf(out, ":%lld", (long long)json_integer_value(param));
	if (json_is_integer(offset)) /* so that other words of a struct stay: it may read through them */
		fprintf(out, "+%lld", (long long)json_integer_value(offset));
	fputc(',', out);
	return 0;
}

static int patterns_put(FILE *out, const char *path, const json_t *document, bool last)
{
	const json_t *other = json_array_get(json_object_get(document, "not_shareable"), 0), *writer;
	size_t i;
	int err = 0;

	if (json_integer_value(json_object_get(document, "kvshare_writers")) != 1)
		return kvs_fail(
			-EINVAL, "%s: \"kvshare_writers\" is not 1: `kvshare-run probe -o` writes such a file", path);
	if (other && !last)
		return kvs_fail(-EINVAL, "%s: kernel %s %s: its layers cannot be shared", path,
			json_string_value(json_object_get(other, "kernel")),
			json_string_value(json_object_get(other, "reason")));
	json_array_foreach(json_object_get(document, "writers"), i, writer)
	{
		if (!err)
			err = pattern_put(out, path, writer);
	}
	return err;
}

int exec_writers_text(const char *path, bool last, char **out)
{
	json_error_t error;
	json_t *document = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
	size_t bytes;
	FILE *text;
	int err;

	if (!document)
		return kvs_fail(error.line < 0 ? -ENOENT : -EINVAL, "%s: %s", path, error.text);
	text = open_memstream(out, &bytes);
	if (!text) {
		json_decref(document);
		return kvs_fail(-ENOMEM, "no memory for a list of writers");
	}
	err = patterns_put(text, path, document, last);
	json_decref(document);
	if (fclose(text) && !err)
		err = kvs_fail(-ENOMEM, "no memory for a list of writers");
	if (err)
		free(*out);
	return err;
}
