/*
 * calib/compensate/ridge.c: one matrix by ridge regression, its strength chosen on rows that the fit does not see.
 *
 * All that a fit needs is in the sums X'X, X'T and T'T, and so is the error of any matrix on the rows behind them:
 * |T - X W'|^2 = T'T - 2 <W', X'T> + <W', X'X W'>. So a strength costs one factorisation, and no pass over the text. Sums are
 * float64, in the order of the tokens.
 */
#include "ridge.h"

#include "../measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int calib_ridge_open(int cols, int outs, struct calib_ridge *out)
{
	size_t square = (size_t)cols * cols, across = (size_t)cols * outs;
	bool whole;

	*out = (struct calib_ridge){.cols = cols, .outs = outs};
	for (int part = 0; part < CALIB_PARTS; part++) {
		out->xx[part] = malloc(sizeof(double) * square);
		out->xt[part] = malloc(sizeof(double) * across);
	}
	out->a = malloc(sizeof(double) * square);
	out->b = malloc(sizeof(double) * across);
	out->c = malloc(sizeof(double) * across);
	out->x = malloc(sizeof(double) * CALIB_RIDGE_ROWS * cols);
	out->t = malloc(sizeof(double) * CALIB_RIDGE_ROWS * outs);
	whole = out->a && out->b && out->c && out->x && out->t && out->xx[0] && out->xx[1] && out->xt[0] && out->xt[1];
	return whole ? 0 : kvs_fail(-ENOMEM, "no memory for the sums of a matrix of [%d][%d]", outs, cols);
}

void calib_ridge_close(struct calib_ridge *ridge)
{
	for (int part = 0; part < CALIB_PARTS; part++) {
		free(ridge->xx[part]);
		free(ridge->xt[part]);
	}
	free(ridge->a);
	free(ridge->b);
	free(ridge->c);
	free(ridge->x);
	free(ridge->t);
	*ridge = (struct calib_ridge){0};
}

void calib_ridge_clear(struct calib_ridge *ridge)
{
	for (int part = 0; part < CALIB_PARTS; part++) {
		memset(ridge->xx[part], 0, sizeof(double) * ridge->cols * ridge->cols);
		memset(ridge->xt[part], 0, sizeof(double) * ridge->cols * ridge->outs);
		ridge->tt[part] = 0;
		ridge->rows[part] = 0;
	}
}

void calib_ridge_add(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, int rows,
	const float *x, const float *to, const float *from, const float *bias)
{
	size_t cols = ridge->cols, outs = ridge->outs;

	for (int first = 0, now; first < rows; first += now) {
		now = rows - first < CALIB_RIDGE_ROWS ? rows - first : CALIB_RIDGE_ROWS;
		for (size_t i = 0; i < now * cols; i++)
			ridge->x[i] = x[first * cols + i];
		for (size_t i = 0; i < now * outs; i++) {
			ridge->t[i] =
				(double)to[first * outs + i] - from[first * outs + i] - (bias ? bias[i % outs] : 0);
			ridge->tt[part] += ridge->t[i] * ridge->t[i];
		}
		calib_lapack_add_squares(lapack, ridge->x, ridge->cols, now, ridge->xx[part]);
		calib_lapack_add_products(lapack, ridge->x, ridge->cols, ridge->t, ridge->outs, now, ridge->xt[part]);
	}
	ridge->rows[part] += rows;
}

double calib_ridge_error(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, const double *w)
{
	size_t count = (size_t)ridge->cols * ridge->outs;
	double sum = ridge->tt[part];

	calib_lapack_multiply_symmetric(lapack, ridge->xx[part], ridge->cols, w, ridge->outs, ridge->c);
	for (size_t i = 0; i < count; i++)
		sum += w[i] * (ridge->c[i] - 2 * ridge->xt[part][i]);
	return sum;
}

/* W' = the solution for a part's sums, into b. `old` [cols][outs] is what it is pulled to; NULL: zero. */
static int solve(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, double strength,
	const double *old)
{
	size_t count = (size_t)ridge->cols * ridge->outs;
	int err;

	memcpy(ridge->a, ridge->xx[part], sizeof(double) * ridge->cols * ridge->cols);
	memcpy(ridge->b, ridge->xt[part], sizeof(double) * count);
	if (old) {
		calib_lapack_multiply_symmetric(lapack, ridge->xx[part], ridge->cols, old, ridge->outs, ridge->c);
		for (size_t i = 0; i < count; i++)
			ridge->b[i] -= ridge->c[i];
	}
	err = calib_lapack_solve_ridge(lapack, ridge->a, ridge->cols, ridge->b, ridge->outs, strength);
	for (size_t i = 0; i < count && !err && old; i++)
		ridge->b[i] += old[i];
	return err;
}

static int choose(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	const double *old, struct calib_ridge_result *out)
{
	double least = calib_ridge_error(ridge, lapack, CALIB_HELD, old);
	int err = 0;

	out->strength = choice->strengths[0];
	out->better = choice->count == 1;
	for (int i = 0; i < choice->count && !err && choice->count > 1; i++) {
		double error;
		err = solve(ridge, lapack, CALIB_FITTED, choice->strengths[i], choice->pull ? old : NULL);
		error = err ? 0 : calib_ridge_error(ridge, lapack, CALIB_HELD, ridge->b);
		if (err || error >= least)
			continue;
		least = error;
		out->better = true;
		out->strength = choice->strengths[i];
	}
	out->held = least;
	return err;
}

void calib_ridge_join(struct calib_ridge *ridge)
{
	for (size_t i = 0; i < (size_t)ridge->cols * ridge->cols; i++)
		ridge->xx[CALIB_FITTED][i] += ridge->xx[CALIB_HELD][i];
	for (size_t i = 0; i < (size_t)ridge->cols * ridge->outs; i++)
		ridge->xt[CALIB_FITTED][i] += ridge->xt[CALIB_HELD][i];
	ridge->tt[CALIB_FITTED] += ridge->tt[CALIB_HELD];
	ridge->rows[CALIB_FITTED] += ridge->rows[CALIB_HELD];
}

static void transpose(const struct calib_ridge *ridge, const double *from, float *to)
{
	for (int r = 0; r < ridge->outs; r++)
		for (int c = 0; c < ridge->cols; c++)
			to[(size_t)r * ridge->cols + c] = (float)from[(size_t)c * ridge->outs + r];
}

static int fit(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	const double *old, float *values, struct calib_ridge_result *out)
{
	double count;
	int err = choose(ridge, lapack, choice, old, out);

	if (err)
		return err;
	calib_ridge_join(ridge);
	count = (double)ridge->rows[CALIB_FITTED] * ridge->outs;
	out->before = out->after = calib_ridge_error(ridge, lapack, CALIB_FITTED, old) / count;
	if (!out->better)
		return 0;
	err = solve(ridge, lapack, CALIB_FITTED, out->strength, choice->pull ? old : NULL);
	if (err)
		return err;
	out->after = calib_ridge_error(ridge, lapack, CALIB_FITTED, ridge->b) / count;
	transpose(ridge, ridge->b, values);
	return 0;
}

/* The old matrix, transposed, which the caller frees. -EIO (sums that are not numbers), -ENOMEM. */
static int take_old(const struct calib_ridge *ridge, const float *values, double **old)
{
	if (!isfinite(ridge->tt[0] + ridge->tt[1]))
		return calib_not_a_number("residual");
	*old = malloc(sizeof(**old) * ridge->cols * ridge->outs);
	if (!*old)
		return kvs_fail(-ENOMEM, "no memory for a matrix of [%d][%d]", ridge->outs, ridge->cols);
	for (int r = 0; r < ridge->outs; r++)
		for (int c = 0; c < ridge->cols; c++)
			(*old)[(size_t)c * ridge->outs + r] = values[(size_t)r * ridge->cols + c];
	return 0;
}

int calib_ridge_fit(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	float *values, struct calib_ridge_result *out)
{
	double *old;
	int err = take_old(ridge, values, &old);

	if (err)
		return err;
	err = fit(ridge, lapack, choice, old, values, out);
	free(old);
	return err;
}

int calib_ridge_try(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	float *values, double *left)
{
	struct calib_ridge_result chosen;
	double *old;
	int err = take_old(ridge, values, &old);

	if (err)
		return err;
	err = choose(ridge, lapack, choice, old, &chosen);
	if (!err && chosen.better) {
		err = solve(ridge, lapack, CALIB_FITTED, chosen.strength, choice->pull ? old : NULL);
		if (!err)
			transpose(ridge, ridge->b, values);
	}
	if (!err)
		*left = calib_ridge_error(ridge, lapack, CALIB_HELD, chosen.better ? ridge->b : old) /
			((double)ridge->rows[CALIB_HELD] * ridge->outs);
	free(old);
	return err;
}
