/*
 * calib/compensate/skip.h: W_o and a skip of low rank, fitted together. Private to calib/compensate/.
 */
#ifndef CALIB_SKIP_H
#define CALIB_SKIP_H

#include "ridge.h"

/* Sums over rows [F, x], the heads' output and the layer's normed input, for W_o F + b a x = t. */
struct calib_skip {
	int heads_dim, hidden, rank;
	struct calib_ridge sums; /* of heads_dim + hidden columns */
	float *rows;             /* [CALIB_RIDGE_ROWS][heads_dim + hidden]: side by side, on their way into the sums */
	double *p, *q;           /* [heads_dim][hidden]: (F'F + ridge)^-1 F'x, and of F't */
	double *left;            /* [hidden][hidden]: x'x less what F explains; destroyed by its use */
	double *moved, *full;    /* [hidden][hidden]: x't less what F explains; the skip of full rank, transposed */
	double *basis;           /* [hidden][hidden]: eigenvectors as rows, the first `rank` are b' */
	double *work;            /* [heads_dim][heads_dim or hidden, the larger] */
	double *w;               /* [heads_dim + hidden][hidden]: the solution, transposed */
	double *a;               /* [rank][hidden] */
};

int calib_skip_open(int heads_dim, int hidden, int rank, struct calib_skip *out); /* -ENOMEM; close it in any case */
void calib_skip_close(struct calib_skip *skip);
void calib_skip_clear(struct calib_skip *skip);
/* The targets are `to` - `from` - `bias` (NULL: none), as in calib_ridge_add(). */
void calib_skip_add(struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, int rows,
	const float *attended, const float *normed, const float *to, const float *from, const float *bias);

/*
 * The W_o [hidden][heads_dim], a [rank][hidden] and b [hidden][rank] of the strength with the least error on the held rows, then
 * fitted on all. `better`: that error is below `held`, what W_o alone leaves; if not, nothing is written. With one strength
 * it is taken as it is. -EIO (singular sums, or not numbers), -ENOMEM.
 */
int calib_skip_fit(struct calib_skip *skip, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	double held, float *outputs, float *a, float *b, struct calib_ridge_result *out);

#endif
