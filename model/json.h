/*
 * model/json.h: checked reading of JSON that others wrote. Private to model/.
 *
 * Every message names the file and the path of the field. A member that is null counts as absent; a getter then leaves
 * *out alone, so that the caller's default stands.
 */
#ifndef KVS_JSON_H
#define KVS_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* An object, and its names in messages. */
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
 * For files that Python wrote, and as it reads them: the last of several members with one name counts, and NaN,
 * Infinity and -Infinity are allowed. They become strings, which no getter of numbers accepts.
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
