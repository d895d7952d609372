/*
 * calib/compensate/matrices.h: the checkpoint's matrices that a fit replaces. Private to calib/compensate/.
 */
#ifndef CALIB_MATRICES_H
#define CALIB_MATRICES_H

#include "../calib.h"
#include "lapack.h"

#define CALIB_LAYER_MATRICES 5 /* of a layer that are refitted, at most: W_q, W_o, W_down and a skip's two */

/* A matrix by its name and shape, without values or figures. */
struct kvs_refit calib_matrix_describe(const struct kvs_config *config, enum kvs_refit_kind kind, int layer);
/*
 * The old matrix into `values`, its bias into `bias`, and into refit->dtype the type that it will have. *has_bias false: it has
 * none. Errors as kvs_checkpoint_read_f32().
 */
int calib_matrix_read(const kvs_checkpoint *ckpt, const struct kvs_config *config, struct kvs_refit *refit,
	float *values, float *bias, bool *has_bias);
/* The rows of one head of W_q <- matrix [head_dim][head_dim] * rows. `work`: [2][head_dim][hidden]. */
void calib_matrix_turn(struct calib_lapack *lapack, const struct kvs_config *config, int head, const double *matrix,
	double *work, float *values);

#endif
