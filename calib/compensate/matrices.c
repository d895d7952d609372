/*
 * calib/compensate/matrices.c: the checkpoint's matrices that a fit replaces: names, shapes, types, biases.
 */
#include "matrices.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *part_of(enum kvs_refit_kind kind)
{
	return kind == KVS_REFIT_QUERIES ? "self_attn.q_proj"
	       : kind == KVS_REFIT_DOWN  ? "mlp.down_proj"
					 : "self_attn.o_proj";
}

struct kvs_refit calib_matrix_describe(const struct kvs_config *config, enum kvs_refit_kind kind, int layer)
{
	struct kvs_refit refit = {.kind = kind, .layer = layer, .strength = NAN};
	int heads_dim = config->heads * config->head_dim;

	snprintf(refit.name, sizeof(refit.name), "model.layers.%d.%s.weight", layer, part_of(kind));
	refit.rows = kind == KVS_REFIT_QUERIES ? heads_dim : config->hidden;
	refit.cols = kind == KVS_REFIT_QUERIES ? config->hidden : kind == KVS_REFIT_DOWN ? config->ff : heads_dim;
	return refit;
}

int calib_matrix_read(const kvs_checkpoint *ckpt, const struct kvs_config *config, struct kvs_refit *refit,
	float *values, float *bias, bool *has_bias)
{
	struct kvs_weight stored;
	char name[96];
	int err = kvs_checkpoint_weight(ckpt, refit->name, &stored);

	if (err)
		return err;
	*has_bias = refit->kind == KVS_REFIT_QUERIES ? config->qkv_bias
		    : refit->kind == KVS_REFIT_DOWN  ? config->mlp_bias
						     : config->o_bias;
	refit->dtype = stored.widened ? config->dtype : stored.dtype;
	err = kvs_checkpoint_read_f32(ckpt, refit->name, (size_t)refit->rows * refit->cols, values);
	if (err || !*has_bias)
		return err;
	snprintf(name, sizeof(name), "model.layers.%d.%s.bias", refit->layer, part_of(refit->kind));
	return kvs_checkpoint_read_f32(ckpt, name, refit->rows, bias);
}

/* Before anything runs: what a layer makes of such a number shows in layers far above it, where its name is lost. */
static int check_numbers(const kvs_checkpoint *ckpt, const struct kvs_refit *refit, float *values)
{
	size_t count = (size_t)refit->rows * refit->cols;
	int err = kvs_checkpoint_read_f32(ckpt, refit->name, count, values);

	for (size_t i = 0; i < count && !err; i++)
		if (!isfinite(values[i]))
			err = kvs_fail(-EINVAL,
				"%s: row %zu, column %zu is not a finite number: the model's weights are damaged, and "
				"nothing can be fitted to them",
				refit->name, i / refit->cols, i % refit->cols);
	return err;
}

int kvs_compensate_check_weights(const kvs_checkpoint *ckpt)
{
	static const enum kvs_refit_kind kinds[] = {KVS_REFIT_QUERIES, KVS_REFIT_OUTPUTS, KVS_REFIT_DOWN};
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	size_t heads_dim = (size_t)config->heads * config->head_dim,
	       widest = heads_dim > (size_t)config->ff ? heads_dim : (size_t)config->ff;
	float *values = malloc(sizeof(*values) * widest * config->hidden);
	int err = values ? 0 : kvs_fail(-ENOMEM, "no memory for a matrix of %zu columns", widest);

	for (int l = 0; l < config->layers && !err; l++)
		for (int i = 0; i < 3 && !err; i++) {
			struct kvs_refit refit = calib_matrix_describe(config, kinds[i], l);
			err = check_numbers(ckpt, &refit, values);
		}
	free(values);
	return err;
}

void calib_matrix_turn(struct calib_lapack *lapack, const struct kvs_config *config, int head, const double *matrix,
	double *work, float *values)
{
	size_t count = (size_t)config->head_dim * config->hidden;
	float *rows = values + head * count;
	double *turned = work + count;

	for (size_t i = 0; i < count; i++)
		work[i] = rows[i];
	calib_lapack_multiply(lapack, matrix, work, false, config->head_dim, config->hidden, config->head_dim, turned);
	for (size_t i = 0; i < count; i++)
		rows[i] = (float)turned[i];
}
