/*
 * tools/run/exec/layout.c: a layout as JSON, turned into the short form, which the shim reads.
 *
 *   {"kvshare_layout": 1, "kind": "slab", "layers": 16, "k_bytes": 4194304, "v_bytes": "4MiB", "order": "kv"}
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

static int members_put(FILE *out, const json_t *document)
{
	const char *kind = json_string_value(json_object_get(document, "kind")), *key;
	json_t *value;
	int err = 0;

	if (json_integer_value(json_object_get(document, "kvshare_layout")) != 1)
		return kvs_fail(-EINVAL, "\"kvshare_layout\" is not 1");
	if (!kind)
		return kvs_fail(-EINVAL, "\"kind\" is missing");
	fprintf(out, "%s:", kind);
	json_object_foreach((json_t *)document, key, value)
	{
		if (!err && strcmp(key, "kvshare_layout") && strcmp(key, "kind"))
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
	}
	if (!err || !is_file)
		return err;
	snprintf(reason, sizeof(reason), "%s", kvs_error());
	return kvs_fail(err, "%s: %s", text, reason);
}
