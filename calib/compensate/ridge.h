/*
 * calib/compensate/ridge.h: one matrix by ridge regression, its strength chosen on rows that the fit does not see.
 * Private to calib/compensate/.
 */
#ifndef CALIB_RIDGE_H
#define CALIB_RIDGE_H

#include "lapack.h"

#include <stddef.h>

enum calib_part { CALIB_FITTED, CALIB_HELD, CALIB_PARTS };

/* Work of one solution: [cols][cols], [cols][outs] twice; b is the solution. */
struct calib_ridge_work {
	double *a, *b, *c;
};

#define CALIB_RIDGE_SOLVERS 2 /* strengths that are tried at a time */

/* Sums over rows x [cols] and their targets t [rows_out], for W [rows_out][cols] with W x = t. */
struct calib_ridge {
	int cols, outs;
	size_t rows[CALIB_PARTS];
	double *xx[CALIB_PARTS]; /* X'X [cols][cols], upper triangle */
	double *xt[CALIB_PARTS]; /* X'T [cols][outs]; during a fit that pulls, T is what the old matrix leaves */
	double tt[CALIB_PARTS];  /* sum of squares of T */
	struct calib_ridge_work work[CALIB_RIDGE_SOLVERS];
	float *t;                             /* [CALIB_RIDGE_ROWS][outs]: targets on their way into the sums */
	float *block_squares, *block_targets; /* X'X and X'T of so many rows */
};
#define CALIB_RIDGE_ROWS 256 /* products of so many rows are float32, what they add up to is float64 */

int calib_ridge_open(int cols, int outs, struct calib_ridge *out); /* -ENOMEM; close it in any case */
void calib_ridge_close(struct calib_ridge *ridge);
/* Sets all sums to zero. */
void calib_ridge_clear(struct calib_ridge *ridge);
/* The targets are `to` - `from` - `bias` (NULL: none): [rows][outs] twice, [outs]. */
void calib_ridge_add(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, int rows,
	const float *x, const float *to, const float *from, const float *bias);

#define CALIB_OUTPUT_STRENGTHS 0.003, 0.01, 0.03, 0.1, 0.3 /* of W_o of a layer that borrows */

#define CALIB_RIDGE_STRENGTHS 8 /* of a choice, at most */

struct calib_ridge_choice {
	const double *strengths; /* [count], of the mean diagonal of X'X */
	int count;               /* 1: it is taken as it is, and so is its matrix, whether it helps or not */
	bool pull;               /* towards the old matrix, and not towards zero */
	bool ends; /* none is taken behind one that leaves more error than those before it, or the old matrix */
};
struct calib_ridge_result {
	bool better; /* than the old matrix on the held rows; if not, `values` is unchanged */
	double strength;
	double held;          /* sum of squares of T - X W' over the held rows, with the better of old and new */
	double before, after; /* mean squares of T - X W' over all rows, with the old matrix and the new */
};
/*
 * `values` [outs][cols] is the old matrix, and becomes the new one: of the strength that has the least error on the held
 * rows when fitted on the others, fitted on all. -EIO (singular sums, or not numbers), -ENOMEM.
 */
int calib_ridge_fit(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	float *values, struct calib_ridge_result *out);
/*
 * The same without the last step: `values` becomes the matrix of the fitted rows alone, or stays. *left: the mean square that it
 * leaves on the held rows. For comparing fits.
 */
int calib_ridge_try(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	float *values, double *left);

/* The sum of squares of T - X W' over a part's rows, for W' [cols][outs]; uses the first c. */
double calib_ridge_error(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, const double *w);
/* The held rows' sums join the others. */
void calib_ridge_join(struct calib_ridge *ridge);

#endif
