/*
 * calib/merge.c: the cost of merging the K and V of two layers as MiniCache does (arXiv 2405.14366), a rival of sharing
 * to compare plans with. No memory is saved here, only the loss is measured.
 *
 * Of two vectors, one common direction is kept, on the arc between theirs (SLERP), and the length of each. The K and V
 * of a token can be merged once both layers have run: the token itself attends to its exact K and V, later tokens to
 * the merged ones. So the text goes through token by token, as in decoding.
 */
#include "measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/*
 * The fraction of the way from the lower layer's direction to the upper's: MiniCache's setting, from memory, not looked
 * up.
 */
#define INTERPOLATION 0.6

void kvs_merge_vectors(float *lower, float *upper, int dim)
{
	double dot = 0, a = 0, b = 0, angle, of_lower = 1 - INTERPOLATION, of_upper = INTERPOLATION, length = 0;

	for (int d = 0; d < dim; d++) {
		dot += (double)lower[d] * upper[d];
		a += (double)lower[d] * lower[d];
		b += (double)upper[d] * upper[d];
	}
	a = sqrt(a);
	b = sqrt(b);
	if (!(a > 0 && b > 0) || dot < (1e-9 - 1) * a * b)
		return; /* no direction, or opposite ones that no single arc joins */
	angle = acos(fmin(1, dot / (a * b)));
	if (sin(angle) > 1e-6) { /* else the arc is nearly a point, and the straight line will do */
		of_lower = sin((1 - INTERPOLATION) * angle) / sin(angle);
		of_upper = sin(INTERPOLATION * angle) / sin(angle);
	}
	for (int d = 0; d < dim; d++) {
		double along = of_lower * lower[d] / a + of_upper * upper[d] / b;
		length += along * along;
		lower[d] = upper[d] = (float)along;
	}
	length = sqrt(length);
	for (int d = 0; d < dim; d++) {
		lower[d] = (float)(lower[d] / length * a);
		upper[d] = (float)(upper[d] / length * b);
	}
}

/* K and V of one token in two layers: [lower, upper][k, v][kv_heads][head_dim]. */
struct rows {
	float *of[2][2];
	int heads, dim;
};

static int merge_pair(kvs_engine *engine, int lower, int upper, int token, struct rows *rows)
{
	int err = kvs_engine_read_kv(engine, lower, token, 1, rows->of[0][0], rows->of[0][1]);

	if (!err)
		err = kvs_engine_read_kv(engine, upper, token, 1, rows->of[1][0], rows->of[1][1]);
	if (err)
		return err;
	for (int is_v = 0; is_v < 2; is_v++)
		for (int h = 0; h < rows->heads; h++)
			kvs_merge_vectors(
				rows->of[0][is_v] + h * rows->dim, rows->of[1][is_v] + h * rows->dim, rows->dim);
	err = kvs_engine_write_kv(engine, lower, token, 1, rows->of[0][0], rows->of[0][1]);
	return err ? err : kvs_engine_write_kv(engine, upper, token, 1, rows->of[1][0], rows->of[1][1]);
}

/* Appends a token to slot 0 and takes its logits; then merges its K and V. */
static int decode_token(kvs_engine *engine, int32_t id, const int *owners, struct rows *rows, float *logits)
{
	int layers = kvs_engine_config(engine)->layers, token = kvs_engine_length(engine, 0);
	int err = kvs_engine_append(engine, 0, &id, 1);

	if (!err)
		err = kvs_engine_logits(engine, logits);
	for (int l = 0; l < layers && !err; l++)
		if (owners[l] != l)
			err = merge_pair(engine, owners[l], l, token, rows);
	return err;
}

static int decode_windows(struct calib_comparison *c, const int *owners, struct rows *rows)
{
	int vocab = kvs_engine_config(c->engine)->vocab, count = c->text->windows * c->text->window_tokens, held = 0;
	int err = 0;

	for (int t = 0; t < count && !err; t++) {
		if (t % c->text->window_tokens == 0)
			err = kvs_engine_truncate(c->engine, 0, 0);
		if (!err)
			err = decode_token(
				c->engine, c->text->window_ids[t], owners, rows, c->changed + (size_t)held++ * vocab);
		if (!err && (held == CALIB_COMPARED_ROWS || t + 1 == count)) {
			err = calib_comparison_add(c, held);
			held = 0;
		}
	}
	return err;
}

int kvs_measure_merged(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const int *owners, const struct kvs_calib_progress *progress, struct kvs_quality *out)
{
	const struct kvs_config *config = kvs_engine_config(engine);
	size_t size = (size_t)config->kv_heads * config->head_dim;
	float *room = malloc(sizeof(*room) * 4 * size);
	struct rows rows = {.heads = config->kv_heads, .dim = config->head_dim};
	struct calib_comparison comparison;
	int err = calib_comparison_begin(engine, text, reference, progress, &comparison);

	if (!err && !room)
		err = kvs_fail(-ENOMEM, "no memory for K and V of a token");
	for (int i = 0; i < 4 && !err; i++)
		rows.of[i / 2][i % 2] = room + i * size;
	if (!err)
		err = kvs_engine_set_plan(engine, NULL);
	if (!err)
		err = decode_windows(&comparison, owners, &rows);
	free(room);
	return calib_comparison_end(&comparison, err, out);
}
