/*
 * model/json.h: checked reading of JSON that others wrote. Private to model/.
 *
 * Every reader names the file and the path of the field in its message. A member that is null counts as absent; a getter
 * then leaves *out alone, so that the caller's default stands.
 */
#ifndef KVS_JSON_H
#define KVS_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* An object, and how messages call it. */
struct model_json {
	const json_t *object;
	const char *file; /* "config.json" */
	const char *path; /* of the object in the file, with its dot: "" or "rope_scaling." */
};

/*
 * Parse `bytes` bytes, which must be one object with no member twice. The caller decrefs *out. -EINVAL with line and
 * column, -ENOMEM.
 */
int model_json_parse(const char *json, size_t bytes, const char *file, json_t **out);

/*
 * As Python reads it, for files that it wrote: of a member that is there twice the last counts, and NaN, Infinity and
 * -Infinity are no error. They become strings, which no reader of numbers takes.
 */
int model_json_parse_lenient(const char *json, size_t bytes, const char *file, json_t **out);

const json_t *model_json_member(const struct model_json *from, const char *key); /* NULL: absent or null */

/* -EINVAL: of another type, or outside min .. max (both allowed). */
int model_json_int(const struct model_json *from, const char *key, int min, int max, int *out);
int model_json_need_int(
	const struct model_json *from, const char *key, int min, int max, int *out); /* absent is an error */
int model_json_number(const struct model_json *from, const char *key, double min, double max, double *out);
int model_json_bool(const struct model_json *from, const char *key, bool *out);
int model_json_string(const struct model_json *from, const char *key, const char **out); /* borrowed from the object */

#endif
