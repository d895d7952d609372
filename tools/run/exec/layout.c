/*
 * tools/run/exec/layout.c: a layout as JSON, turned into the short form, which the shim reads.
 *
 *   {"kvshare_layout": 1, "kind": "slab", "layers": 16, "k_bytes": 4194304, "v_bytes": "4MiB", "order": "kv"}
 *   {"kvshare_layout": 1, "kind": "explicit", "allocations": ["64MiB"],
 *    "k": [{"allocation": 0, "offset": 0, "bytes": "4MiB", "layers": 8, "stride": "8MiB"}], "v": [...]}
 */
#include "exec.h"

#include "../../preload/layout.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int member_put(FILE *out, const char *key, const json_t *value)
{
	if (json_is_string(value))
		fprintf(out, "%s=%s,", key, json_string_value(value));
	else if (json_is_integer(value))
		fprintf(out, "%s=%lld,", key, (long long)json_integer_value(value));
	else
		return kvs_fail(-EINVAL, "%s is neither a number nor a text", key);
	return 0;
}

/* "size=": the short form has each size as one field. */
static int sizes_put(FILE *out, const json_t *sizes)
{
	const json_t *size;
	int err = 0;
	size_t i;

	if (!json_is_array(sizes))
		return kvs_fail(-EINVAL, "allocations is no list of sizes");
	json_array_foreach(sizes, i, size)
	{
		if (!err)
			err = member_put(out, "size", size);
	}
	return err;
}

/* ALLOCATION:OFFSET:BYTES:LAYERS:STRIDE, of which the last two may be missing. */
static int run_put(FILE *out, const char *which, const json_t *run)
{
	static const char *const parts[] = {"allocation", "offset", "bytes", "layers", "stride"};
	const size_t count = json_object_size(run);

	fprintf(out, "%s=", which);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts) && (i < 3 || count > 3); i++) {
		const json_t *part = json_object_get(run, parts[i]);

		if (json_is_string(part))
			fprintf(out, "%s%s", i ? ":" : "", json_string_value(part));
		else if (json_is_integer(part))
			fprintf(out, "%s%lld", i ? ":" : "", json_integer_value(part));
		else
			return kvs_fail(
				-EINVAL, "%s: a run has no %s, or none that is a number or a text", which, parts[i]);
	}
	fputc(',', out);
	return count == 3 || count == 5
		       ? 0
		       : kvs_fail(-EINVAL, "%s: a run has allocation, offset and bytes, or layers and stride too",
				 which);
}

static int runs_put(FILE *out, const char *which, const json_t *runs)
{
	const json_t *run;
	int err = 0;
	size_t i;

	if (!json_is_array(runs))
		return kvs_fail(-EINVAL, "%s is no list of runs", which);
	json_array_foreach(runs, i, run)
	{
		if (!err)
			err = run_put(out, which, run);
	}
	return err;
}

static int explicit_put(FILE *out, const json_t *document)
{
	int err = sizes_put(out, json_object_get(document, "allocations"));

	if (!err)
		err = runs_put(out, "k", json_object_get(document, "k"));
	return err ? err : runs_put(out, "v", json_object_get(document, "v"));
}

/* What explicit_put() has written. */
static bool is_explicit(const char *key)
{
	return !strcmp(key, "allocations") || !strcmp(key, "k") || !strcmp(key, "v");
}

static int members_put(FILE *out, const json_t *document)
{
	const char *kind = json_string_value(json_object_get(document, "kind")), *key;
	bool explicit;
	json_t *value;
	int err;

	if (json_integer_value(json_object_get(document, "kvshare_layout")) != 1)
		return kvs_fail(-EINVAL, "\"kvshare_layout\" is not 1");
	if (!kind)
		return kvs_fail(-EINVAL, "\"kind\" is missing");
	fprintf(out, "%s:", kind);
	explicit = !strcmp(kind, "explicit");
	err = explicit ? explicit_put(out, document) : 0;
	json_object_foreach((json_t *)document, key, value)
	{
		if (!err && strcmp(key, "kvshare_layout") && strcmp(key, "kind") && !(explicit && is_explicit(key)))
			err = member_put(out, key, value);
	}
	return err;
}

static int file_text(const char *path, char **out)
{
	json_error_t error;
	json_t *document = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
	size_t bytes;
	FILE *text;
	int err;

	if (!document)
		return kvs_fail(error.line < 0 ? -ENOENT : -EINVAL, "%s", error.text);
	text = open_memstream(out, &bytes);
	if (!text) {
		json_decref(document);
		return kvs_fail(-ENOMEM, "no memory for a layout");
	}
	err = members_put(text, document);
	json_decref(document);
	if (fclose(text) && !err)
		err = kvs_fail(-ENOMEM, "no memory for a layout");
	if (err)
		free(*out);
	return err;
}

int exec_layout_text(const char *text, char **out)
{
	bool is_file = strchr(text, '/') || !strchr(text, ':');
	struct shim_layout layout;
	char reason[512];
	int err;

	*out = is_file ? NULL : strdup(text);
	err = is_file ? file_text(text, out) : *out ? 0 : kvs_fail(-ENOMEM, "no memory for a layout");
	if (!err) {
		err = shim_layout_parse(*out, &layout);
		if (err)
			free(*out);
		else
			shim_layout_clear(&layout);
	}
	if (!err || !is_file)
		return err;
	snprintf(reason, sizeof(reason), "%s", kvs_error());
	return kvs_fail(err, "%s: %s", text, reason);
}
