/*
 * calib/compensate/stopped.c: the file in which a fit that was stopped leaves its matrices.
 *
 * A line of JSON, which says what was fitted to what and which matrices follow; their values, f32 as the machine has them;
 * a digest of all that. It is read by the program that wrote it, on the machine that wrote it, and by nothing else: so it is no
 * safetensors file, which others would take for weights. Matrices of other settings would fit nothing, and a file that was
 * cut would give a patch of its own: neither is taken. Names and shapes come from the model, not from the file.
 */
#include "stopped.h"

#include "../measure.h"
#include "matrices.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define KEY "kvshare_stopped_fit"
/* Counts the ways to fit: raise it with every change after which the same text gives other matrices. */
#define FIT_VERSION KVS_VERSION " fit 4"
#define DIGEST_CHARS (CALIB_DIGEST - 1)

static int no_memory(const char *path)
{
	return kvs_fail(-ENOMEM, "%s: no memory for it", path);
}

static int damaged(const char *path, const char *why)
{
	return kvs_fail(-EINVAL, "%s: %s" CALIB_STOPPED_ANEW, path, why);
}

/* ---- settings ---- */

static json_t *owners_json(const kvs_plan *plan, enum kvs_k_or_v which)
{
	json_t *array = json_array();

	for (int l = 0; l < kvs_plan_layers(plan); l++)
		if (json_array_append_new(array, json_integer(kvs_plan_owner(plan, l, which)))) {
			json_decref(array);
			return NULL;
		}
	return array;
}

/* The device is not among them: it shows in the plan's loss. */
static json_t *settings_json(const struct calib_fit_settings *s)
{
	json_t *object = calib_text_settings(s->text);
	json_t *others = json_pack("{s:s,s:s,s:o,s:o,s:i,s:i,s:f,s:i}", "version", FIT_VERSION, "model",
		kvs_checkpoint_fingerprint(s->ckpt), "k_owners", owners_json(s->plan, KVS_K), "v_owners",
		owners_json(s->plan, KVS_V), "batch_tokens", kvs_engine_batch_rows(s->engine), "refit",
		(int)(s->options->matrices ? s->options->matrices : KVS_REFIT_ALL), "ridge", s->options->ridge,
		"skip_rank", s->options->skip);
	int failed = json_object_update(object, others);

	json_decref(others);
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

/* ---- writing ---- */

static json_t *matrix_json(const struct kvs_refit *refit)
{
	return json_pack("{s:i,s:i,s:i,s:o,s:f,s:f}", "kind", (int)refit->kind, "layer", refit->layer, "dtype",
		(int)refit->dtype, "strength", calib_json_number(refit->strength), "before", refit->before, "after",
		refit->after);
}

static char *header_text(const struct calib_fit_settings *settings, const struct kvs_compensation *fit)
{
	json_t *matrices = json_array(), *header;
	char *text = NULL;
	int failed = 0;

	for (size_t i = 0; i < fit->count; i++)
		failed |= json_array_append_new(matrices, matrix_json(&fit->refits[i]));
	header = json_pack("{s:i,s:o,s:f,s:i,s:o}", KEY, 1, "settings", settings_json(settings), "plain_nll",
		fit->plain_nll, "layers", fit->layers, "matrices", matrices);
	if (!failed && header)
		text = json_dumps(header, JSON_COMPACT);
	json_decref(header);
	return text;
}

static size_t values_bytes(const struct kvs_refit *refit)
{
	return sizeof(float) * refit->rows * refit->cols;
}

/* The matrices are written from where they are: a second copy of a large model's may not fit into memory. */
int calib_stopped_write(const char *path, const struct calib_fit_settings *settings, const struct kvs_compensation *fit)
{
	char *header = header_text(settings, fit), digest[CALIB_DIGEST];
	struct iovec *pieces = calloc(fit->count + 2, sizeof(*pieces)); /* the header before them, the digest behind */
	int err = header && pieces ? 0 : no_memory(path);

	if (!err) {
		size_t length = strlen(header);
		header[length] = '\n'; /* in place of the 0 */
		pieces[0] = (struct iovec){header, length + 1};
		for (size_t i = 0; i < fit->count; i++)
			pieces[i + 1] = (struct iovec){fit->refits[i].values, values_bytes(&fit->refits[i])};
		calib_digest_pieces(pieces, fit->count + 1, digest);
		pieces[fit->count + 1] = (struct iovec){digest, DIGEST_CHARS};
		err = kvs_file_writev(path, pieces, fit->count + 2);
	}
	free(pieces);
	free(header);
	return err;
}

/* ---- reading ---- */

/* All of an open file. NULL, with a message. */
static char *read_file(FILE *file, const char *path, size_t *bytes)
{
	struct stat info;
	char *data;

	if (fstat(fileno(file), &info) || !S_ISREG(info.st_mode)) {
		kvs_fail(-EIO, "%s: is not a regular file", path);
		return NULL;
	}
	*bytes = info.st_size;
	data = malloc(*bytes + 1);
	if (data && fread(data, 1, *bytes, file) == *bytes)
		return data;
	kvs_fail(-EIO, "%s: %s", path, data ? "cannot be read" : "no memory for it");
	free(data);
	return NULL;
}

/* The file's bytes without the digest, which is the right one. */
static int read_checked(const char *path, char **out, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	char digest[CALIB_DIGEST], *data;

	if (!file)
		return kvs_fail(errno == ENOENT ? -ENOENT : -EIO, "%s: no stopped fit to go on from: %s", path,
			strerror(errno));
	data = read_file(file, path, bytes);
	fclose(file);
	if (!data)
		return -EIO;
	if (*bytes > DIGEST_CHARS) {
		*bytes -= DIGEST_CHARS;
		calib_digest(data, *bytes, digest);
		if (!memcmp(digest, data + *bytes, DIGEST_CHARS)) {
			*out = data;
			return 0;
		}
	}
	free(data);
	return damaged(path, "was cut or changed, or is no stopped fit");
}

static struct kvs_refit shape_of(const struct calib_fit_settings *settings, enum kvs_refit_kind kind, int layer)
{
	const struct kvs_config *config = kvs_checkpoint_config(settings->ckpt);
	bool skip = kind == KVS_REFIT_SKIP_A || kind == KVS_REFIT_SKIP_B;
	struct kvs_refit refit = calib_matrix_describe(config, skip ? KVS_REFIT_OUTPUTS : kind, layer);

	refit.kind = kind;
	if (!skip)
		return refit;
	refit.rows = kind == KVS_REFIT_SKIP_A ? settings->options->skip : config->hidden;
	refit.cols = kind == KVS_REFIT_SKIP_A ? config->hidden : settings->options->skip;
	kvs_skip_name(layer, kind == KVS_REFIT_SKIP_A ? 'a' : 'b', refit.name);
	return refit;
}

/* One matrix, whose values are at `data`. *bytes: how many are left, and then how many it takes. */
static int take_matrix(const char *path, const struct calib_fit_settings *settings, const json_t *object,
	const char *data, size_t *bytes, struct kvs_compensation *fit)
{
	json_int_t kind = json_integer_value(json_object_get(object, "kind")),
		   layer = json_integer_value(json_object_get(object, "layer")),
		   dtype = json_integer_value(json_object_get(object, "dtype"));
	const json_t *strength = json_object_get(object, "strength");
	int below = fit->count ? fit->refits[fit->count - 1].layer : 0;
	struct kvs_refit refit;

	if (kind < KVS_REFIT_QUERIES || kind > KVS_REFIT_SKIP_B || kind & (kind - 1) || layer < below ||
		layer >= fit->layers || (dtype != KVS_F32 && dtype != KVS_F16 && dtype != KVS_BF16))
		return damaged(path, "is damaged (matrices)");
	refit = shape_of(settings, (enum kvs_refit_kind)kind, (int)layer);
	if (!refit.rows || !refit.cols || values_bytes(&refit) > *bytes)
		return damaged(path, "is damaged (the size of matrices)");
	refit.dtype = (enum kvs_dtype)dtype;
	refit.strength = json_is_number(strength) ? json_number_value(strength) : NAN;
	refit.before = json_number_value(json_object_get(object, "before"));
	refit.after = json_number_value(json_object_get(object, "after"));
	*bytes = values_bytes(&refit);
	refit.values = malloc(*bytes);
	if (!refit.values)
		return no_memory(path);
	memcpy(refit.values, data, *bytes);
	fit->refits[fit->count++] = refit;
	return 0;
}

/* A skip's first half has its second behind it, and neither is alone. */
static bool halves_are_together(const struct kvs_compensation *fit)
{
	for (size_t i = 0; i <= fit->count; i++) {
		bool second = i < fit->count && fit->refits[i].kind == KVS_REFIT_SKIP_B;
		if ((i && fit->refits[i - 1].kind == KVS_REFIT_SKIP_A) != second)
			return false;
	}
	return true;
}

static int take_matrices(const char *path, const struct calib_fit_settings *settings, const json_t *array,
	const char *data, size_t bytes, struct kvs_compensation *fit)
{
	size_t count = json_array_size(array);
	int err = 0;

	if (count > (size_t)CALIB_LAYER_MATRICES * fit->layers)
		return damaged(path, "is damaged (the number of matrices)");
	fit->refits = calloc(count + 1, sizeof(*fit->refits));
	if (!fit->refits)
		return no_memory(path);
	for (size_t i = 0; i < count && !err; i++) {
		size_t taken = bytes;
		err = take_matrix(path, settings, json_array_get(array, i), data, &taken, fit);
		data += taken;
		bytes -= taken;
	}
	if (!err && (bytes || !halves_are_together(fit)))
		err = damaged(path, "is damaged (what belongs to its matrices)");
	return err;
}

static int take_header(
	const char *path, const struct calib_fit_settings *settings, const json_t *header, struct kvs_compensation *fit)
{
	json_int_t layers = json_integer_value(json_object_get(header, "layers"));
	json_t *now;
	char what[256];
	int err;

	if (json_integer_value(json_object_get(header, KEY)) != 1)
		return damaged(path, "is no stopped fit of version 1");
	now = settings_json(settings);
	if (!now)
		return no_memory(path);
	snprintf(what, sizeof(what), "%.200s: the fit in it", path);
	err = calib_settings_check(now, json_object_get(header, "settings"), what, "this fit's");
	json_decref(now);
	if (err)
		return kvs_fail(err, "%s" CALIB_STOPPED_ANEW, kvs_error());
	if (layers < 1 || layers > kvs_checkpoint_config(settings->ckpt)->layers)
		return damaged(path, "is damaged (layers)");
	fit->layers = (int)layers;
	fit->plain_nll = json_number_value(json_object_get(header, "plain_nll"));
	return 0;
}

int calib_stopped_read(const char *path, const struct calib_fit_settings *settings, struct kvs_compensation *fit)
{
	char *data = NULL, *end;
	size_t bytes = 0, line;
	json_t *header;
	int err = read_checked(path, &data, &bytes);

	*fit = (struct kvs_compensation){0};
	if (err)
		return err;
	end = memchr(data, '\n', bytes);
	line = end ? (size_t)(end - data) + 1 : bytes;
	header = json_loadb(data, line, 0, NULL);
	err = header ? take_header(path, settings, header, fit) : damaged(path, "is damaged (its first line)");
	if (!err)
		err = take_matrices(
			path, settings, json_object_get(header, "matrices"), data + line, bytes - line, fit);
	json_decref(header);
	free(data);
	return err;
}
