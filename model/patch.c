/*
 * model/patch.c: a few matrices of a checkpoint, refitted for a sharing plan, in a safetensors file of their own.
 *
 * The file is useless, and harmful, with any other plan or model. So it names both, and the plan holds the digest of all
 * its bytes: a file that was cut, changed or replaced is noticed before a matrix is used. The digest guards against
 * mistakes, not against forgery: it is FNV-1a, as the checkpoint's fingerprint is. So names, shapes and numbers are
 * checked too, and names and shapes before anything but the header is read: a file is never larger than they allow.
 */
#include "checkpoint/checkpoint.h"
#include "convert.h"
#include "digest.h"
#include "engine.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define METADATA "__metadata__"
#define PIECE 1024 /* numbers looked at together */

struct kvs_patch {
	char *path, *bytes; /* bytes: NULL until the patch is checked */
	struct model_file file;
	size_t count;
	struct kvs_patch_matrix *matrices; /* [count]; names belong to `st`, data to `bytes` */
	uint64_t *offsets;                 /* [count], of the data in the file */
	struct kvs_safetensors *st;
	json_t *header;
	char digest[KVS_PATCH_DIGEST];
};

/* ---- digests ---- */

static void digest_of(const void *bytes, size_t count, char digest[KVS_PATCH_DIGEST])
{
	model_digest_print(model_digest_add(MODEL_DIGEST_START, bytes, count), digest);
}

/* Of the plan's two maps: that is all of it that matrices depend on. */
static int digest_of_owners(const kvs_plan *plan, char digest[KVS_PATCH_DIGEST])
{
	int layers = kvs_plan_layers(plan);
	int32_t *owners = malloc(2 * sizeof(*owners) * layers);

	if (!owners)
		return kvs_fail(-ENOMEM, "no memory for a digest of %d layers", layers);
	for (int l = 0; l < layers; l++) {
		owners[l] = kvs_plan_owner(plan, l, KVS_K);
		owners[layers + l] = kvs_plan_owner(plan, l, KVS_V);
	}
	digest_of(owners, 2 * sizeof(*owners) * layers, digest);
	free(owners);
	return 0;
}

/* ---- reading ---- */

static const char *metadata(const kvs_patch *patch, const char *key)
{
	const char *value = json_string_value(json_object_get(json_object_get(patch->header, METADATA), key));

	return value ? value : "";
}

static int read_matrices(kvs_patch *patch)
{
	int err = 0;

	patch->count = kvs_safetensors_count(patch->st);
	patch->matrices = calloc(patch->count + 1, sizeof(*patch->matrices));
	patch->offsets = calloc(patch->count + 1, sizeof(*patch->offsets));
	if (!patch->matrices || !patch->offsets)
		return kvs_fail(-ENOMEM, "%s: no memory for %zu matrices", patch->path, patch->count);
	for (size_t i = 0; i < patch->count && !err; i++) {
		struct kvs_patch_matrix *matrix = &patch->matrices[i];
		struct kvs_weight stored;
		err = kvs_safetensors_get(patch->st, i, &matrix->name, &stored);
		if (!err && (stored.rank != 2 || stored.shape[0] > INT32_MAX || stored.shape[1] > INT32_MAX))
			err = kvs_fail(-EINVAL, "%s: %.200s is not a matrix", patch->path, matrix->name);
		if (err)
			break;
		matrix->rows = (int)stored.shape[0];
		matrix->cols = (int)stored.shape[1];
		matrix->dtype = stored.dtype;
		patch->offsets[i] = stored.offset;
	}
	return err;
}

/* The header was checked by the safetensors parser already; it is read again for its metadata. */
static int read_metadata(kvs_patch *patch)
{
	unsigned char start[LENGTH_BYTES];
	uint64_t length = 0;
	char *json = NULL;
	int err = model_file_read(&patch->file, 0, start, LENGTH_BYTES);

	for (int i = 0; i < LENGTH_BYTES && !err; i++)
		length |= (uint64_t)start[i] << (8 * i);
	if (!err && length > patch->file.bytes)
		err = kvs_fail(-EINVAL, "%s: was changed while it was read", patch->path);
	if (!err) {
		json = malloc(length + 1);
		err = json ? model_file_read(&patch->file, LENGTH_BYTES, json, length)
			   : kvs_fail(-ENOMEM, "%s: no memory for its header", patch->path);
	}
	if (!err)
		err = model_json_parse(json, length, patch->path, &patch->header);
	free(json);
	if (!err && strcmp(metadata(patch, "kvshare_patch"), "1"))
		err = kvs_fail(-EINVAL, "%s: is no patch of version 1 (" METADATA ": kvshare_patch)", patch->path);
	return err;
}

int model_patch_read(kvs_patch *patch)
{
	char *bytes;
	int err;

	if (patch->bytes)
		return 0;
	bytes = malloc(patch->file.bytes + 1);
	err = bytes ? model_file_read(&patch->file, 0, bytes, patch->file.bytes)
		    : kvs_fail(-ENOMEM, "%s: no memory for its %llu bytes", patch->path,
			      (unsigned long long)patch->file.bytes);
	if (err) {
		free(bytes);
		return err;
	}
	patch->bytes = bytes;
	digest_of(bytes, patch->file.bytes, patch->digest);
	for (size_t i = 0; i < patch->count; i++)
		patch->matrices[i].data = bytes + patch->offsets[i];
	return 0;
}

int kvs_patch_open(const char *path, kvs_patch **out)
{
	kvs_patch *patch = calloc(1, sizeof(*patch));
	int err = 0;

	*out = NULL;
	if (patch) {
		patch->file.fd = -1;
		patch->path = strdup(path);
	}
	if (!patch || !patch->path)
		err = kvs_fail(-ENOMEM, "%s: no memory to open it", path);
	if (!err)
		err = model_file_open_path(path, &patch->file);
	if (!err)
		err = ckpt_safetensors_open(&patch->file, path, &patch->st);
	if (!err)
		err = read_metadata(patch);
	if (!err)
		err = read_matrices(patch);
	if (err) {
		kvs_patch_close(patch);
		return err;
	}
	*out = patch;
	return 0;
}

void kvs_patch_close(kvs_patch *patch)
{
	if (!patch)
		return;
	kvs_safetensors_free(patch->st);
	json_decref(patch->header);
	free(patch->matrices);
	free(patch->offsets);
	free(patch->bytes);
	model_file_close(&patch->file);
	free(patch->path);
	free(patch);
}

const char *kvs_patch_digest(const kvs_patch *patch)
{
	return patch->digest;
}

size_t kvs_patch_count(const kvs_patch *patch)
{
	return patch->count;
}

void kvs_patch_get(const kvs_patch *patch, size_t index, struct kvs_patch_matrix *out)
{
	*out = patch->matrices[index];
}

bool kvs_patch_has_skip(const kvs_patch *patch)
{
	int layer;
	char which;

	for (size_t i = 0; i < patch->count; i++)
		if (model_skip_parse(patch->matrices[i].name, &layer, &which))
			return true;
	return false;
}

int model_patch_skip(const kvs_patch *patch, int layer, const struct kvs_config *config, struct kvs_patch_matrix *a,
	struct kvs_patch_matrix *b)
{
	return model_skip_find(patch->matrices, patch->count, layer, config, a, b);
}

/* ---- checks ---- */

/* The rows and columns of a matrix that may be refitted; false: none goes by this name. */
static bool shape_of(const char *name, const struct kvs_config *config, int *rows, int *cols)
{
	static const char *const parts[] = {"self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"};
	int q = config->heads * config->head_dim, hidden = config->hidden, layer;
	const int shapes[][2] = {{q, hidden}, {hidden, q}, {hidden, config->ff}};
	char again[KVS_SKIP_NAME];

	if (sscanf(name, "model.layers.%9d.", &layer) != 1 || layer < 0 || layer >= config->layers)
		return false;
	for (int i = 0; i < 3; i++) {
		snprintf(again, sizeof(again), "model.layers.%d.%s.weight", layer, parts[i]);
		*rows = shapes[i][0];
		*cols = shapes[i][1];
		if (!strcmp(name, again))
			return true;
	}
	return false;
}

int model_patch_check_shapes(const kvs_patch *patch, const kvs_plan *plan, const struct kvs_config *config)
{
	int layer, rows, cols, err = model_skip_check(patch->matrices, patch->count, plan, config);
	char which;

	if (err)
		return kvs_fail(err, "%s: %s", patch->path, kvs_error());
	for (size_t i = 0; i < patch->count; i++) {
		const struct kvs_patch_matrix *matrix = &patch->matrices[i];
		if (model_skip_parse(matrix->name, &layer, &which))
			continue;
		if (!shape_of(matrix->name, config, &rows, &cols))
			return kvs_fail(-EINVAL,
				"%s: %.200s: no matrix that a patch can replace: these are q_proj, o_proj and "
				"down_proj of %d layers",
				patch->path, matrix->name, config->layers);
		if (matrix->rows != rows || matrix->cols != cols)
			return kvs_fail(-EINVAL, "%s: %s is [%d][%d], the model's own is [%d][%d]", patch->path,
				matrix->name, matrix->rows, matrix->cols, rows, cols);
	}
	return 0;
}

static int check_numbers(const kvs_patch *patch, const struct kvs_patch_matrix *matrix)
{
	size_t count = (size_t)matrix->rows * matrix->cols;
	float values[PIECE];

	for (size_t first = 0, now; first < count; first += now) {
		now = count - first < PIECE ? count - first : PIECE;
		model_to_f32(values, matrix->data, matrix->dtype, first, now);
		for (size_t i = 0; i < now; i++)
			if (!isfinite(values[i]))
				return kvs_fail(-EINVAL, "%s: %s: row %zu, column %zu is not a finite number",
					patch->path, matrix->name, (first + i) / matrix->cols,
					(first + i) % matrix->cols);
	}
	return 0;
}

int model_patch_check_numbers(const kvs_patch *patch)
{
	int err = 0;

	for (size_t i = 0; i < patch->count && !err; i++)
		err = check_numbers(patch, &patch->matrices[i]);
	return err;
}

int kvs_patch_check(kvs_patch *patch, const char *digest, const kvs_plan *plan, const kvs_checkpoint *ckpt)
{
	char owners[KVS_PATCH_DIGEST];
	int err = digest_of_owners(plan, owners);

	if (err)
		return err;
	if (strcmp(metadata(patch, "model"), kvs_checkpoint_fingerprint(ckpt)))
		return kvs_fail(-EINVAL, "%s: its matrices are of another model (fingerprint %.32s, this one has %s)",
			patch->path, metadata(patch, "model"), kvs_checkpoint_fingerprint(ckpt));
	if (strcmp(metadata(patch, "owners"), owners))
		return kvs_fail(-EINVAL, "%s: its matrices were fitted for another plan", patch->path);
	err = model_patch_check_shapes(patch, plan, kvs_checkpoint_config(ckpt));
	if (!err)
		err = model_patch_read(patch);
	if (err)
		return err;
	if (strcmp(patch->digest, digest))
		return kvs_fail(-EINVAL,
			"%s: is not the file that the plan was made with: digest %s, the plan has %.32s", patch->path,
			patch->digest, digest);
	return model_patch_check_numbers(patch);
}

/* ---- writing ---- */

static size_t matrix_bytes(const struct kvs_patch_matrix *matrix)
{
	return (size_t)matrix->rows * matrix->cols * kvs_dtype_bytes(matrix->dtype);
}

static const char *type_name(enum kvs_dtype dtype)
{
	return dtype == KVS_F32 ? "F32" : dtype == KVS_F16 ? "F16" : "BF16";
}

static json_t *header_json(const char *owners, const char *model, const struct kvs_patch_matrix *matrices, size_t count)
{
	json_t *header = json_pack("{s:{s:s,s:s,s:s,s:s}}", METADATA, "format", "pt", "kvshare_patch", "1", "model",
		model, "owners", owners);
	size_t at = 0;

	for (size_t i = 0; i < count; i++) {
		size_t end = at + matrix_bytes(&matrices[i]);
		json_object_set_new(header, matrices[i].name,
			json_pack("{s:s,s:[i,i],s:[I,I]}", "dtype", type_name(matrices[i].dtype), "shape",
				matrices[i].rows, matrices[i].cols, "data_offsets", (json_int_t)at, (json_int_t)end));
		at = end;
	}
	if (header && json_object_size(header) == count + 1)
		return header;
	json_decref(header);
	return NULL;
}

/* The whole file; the header is filled up with spaces to a multiple of 8, so that matrices are aligned. */
static char *file_bytes(const char *json, const struct kvs_patch_matrix *matrices, size_t count, size_t *bytes)
{
	size_t length = (strlen(json) + 7) / 8 * 8, at = LENGTH_BYTES + length, total = at;
	char *out;

	for (size_t i = 0; i < count; i++)
		total += matrix_bytes(&matrices[i]);
	out = malloc(total);
	if (!out)
		return NULL;
	memset(out, ' ', at);
	for (int i = 0; i < LENGTH_BYTES; i++)
		out[i] = (char)(length >> (8 * i));
	memcpy(out + LENGTH_BYTES, json, strlen(json));
	for (size_t i = 0; i < count; at += matrix_bytes(&matrices[i++]))
		model_from_f32(
			out + at, matrices[i].data, matrices[i].dtype, (size_t)matrices[i].rows * matrices[i].cols);
	*bytes = total;
	return out;
}

int kvs_patch_write(const char *path, const kvs_plan *plan, const kvs_checkpoint *ckpt,
	const struct kvs_patch_matrix *matrices, size_t count, char digest[KVS_PATCH_DIGEST])
{
	char owners[KVS_PATCH_DIGEST], *json = NULL, *out = NULL;
	size_t bytes = 0;
	json_t *header = NULL;
	int err = digest_of_owners(plan, owners);

	if (!err)
		header = header_json(owners, kvs_checkpoint_fingerprint(ckpt), matrices, count);
	if (header)
		json = json_dumps(header, JSON_COMPACT);
	if (json)
		out = file_bytes(json, matrices, count, &bytes);
	if (!err && !out)
		err = kvs_fail(-ENOMEM, "%s: no memory to write it", path);
	if (!err)
		err = kvs_file_write(path, out, bytes);
	if (!err)
		digest_of(out, bytes, digest);
	free(out);
	free(json);
	json_decref(header);
	return err;
}
