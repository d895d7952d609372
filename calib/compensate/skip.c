/*
 * calib/compensate/skip.c: W_o and a skip of low rank, fitted together by ridge regression.
 *
 * For any skip W of the normed input x, the best W_o is a ridge regression of what is left; put in, a quadratic form in W
 * remains, tr (W - W*) S (W - W*)', with S = x'x less what the heads' output F explains of x, and W* the skip of full rank. Its
 * best W of rank r keeps W* in the r leading eigenvectors of W* S W*': b is those, a = b' W*. So the pair is the optimum of its
 * rank, where cutting the joint solution by E[xx'] would spend rank on what W_o can do as well. (Reduced rank regression:
 * Izenman 1975; with regressors of full rank beside: Velu and Reinsel 1998, section 3.1.) The ridge is a share of the mean square
 * of F for W_o and of x for the skip: the two differ in scale.
 */
#include "skip.h"

#include "../measure.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int calib_skip_open(int heads_dim, int hidden, int rank, struct calib_skip *out)
{
	size_t square = (size_t)hidden * hidden, cols = heads_dim + hidden,
	       wide = hidden > heads_dim ? hidden : heads_dim;
	int err;

	*out = (struct calib_skip){.heads_dim = heads_dim, .hidden = hidden, .rank = rank};
	err = calib_ridge_open((int)cols, hidden, &out->sums);
	if (err)
		return err;
	out->rows = malloc(sizeof(float) * CALIB_RIDGE_ROWS * cols);
	out->p = malloc(sizeof(double) * heads_dim * hidden);
	out->q = malloc(sizeof(double) * heads_dim * hidden);
	out->left = malloc(sizeof(double) * square);
	out->moved = malloc(sizeof(double) * square);
	out->full = malloc(sizeof(double) * square);
	out->basis = malloc(sizeof(double) * square);
	out->work = malloc(sizeof(double) * heads_dim * wide);
	out->w = malloc(sizeof(double) * cols * hidden);
	out->a = malloc(sizeof(double) * rank * hidden);
	if (!out->rows || !out->p || !out->q || !out->left || !out->moved || !out->full || !out->basis || !out->work ||
		!out->w || !out->a)
		return kvs_fail(-ENOMEM, "no memory for a skip of [%d][%d]", hidden, hidden);
	return 0;
}

void calib_skip_close(struct calib_skip *skip)
{
	calib_ridge_close(&skip->sums);
	free(skip->rows);
	free(skip->p);
	free(skip->q);
	free(skip->left);
	free(skip->moved);
	free(skip->full);
	free(skip->basis);
	free(skip->work);
	free(skip->w);
	free(skip->a);
	*skip = (struct calib_skip){0};
}

void calib_skip_clear(struct calib_skip *skip)
{
	calib_ridge_clear(&skip->sums);
}

void calib_skip_add(struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, int rows,
	const float *attended, const float *normed, const float *to, const float *from, const float *bias)
{
	size_t heads_dim = skip->heads_dim, hidden = skip->hidden;

	for (int first = 0, now; first < rows; first += now) {
		now = rows - first < CALIB_RIDGE_ROWS ? rows - first : CALIB_RIDGE_ROWS;
		for (int r = 0; r < now; r++) {
			float *row = skip->rows + r * (heads_dim + hidden);
			memcpy(row, attended + (first + r) * heads_dim, sizeof(*row) * heads_dim);
			memcpy(row + heads_dim, normed + (first + r) * hidden, sizeof(*row) * hidden);
		}
		calib_ridge_add(
			&skip->sums, lapack, part, now, skip->rows, to + first * hidden, from + first * hidden, bias);
	}
}

/* ---- solving ---- */

/* [rows][count] out of a matrix of `cols` columns. */
static void copy_block(const double *from, int cols, int first_row, int rows, int first_col, int count, double *to)
{
	for (int r = 0; r < rows; r++)
		memcpy(to + (size_t)r * count, from + (size_t)(first_row + r) * cols + first_col, sizeof(*to) * count);
}

static int solve_heads(struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, double strength)
{
	int n = skip->heads_dim, hidden = skip->hidden, cols = n + hidden, err;

	copy_block(skip->sums.xx[part], cols, 0, n, 0, n, skip->work);
	copy_block(skip->sums.xx[part], cols, 0, n, n, hidden, skip->p);
	err = calib_lapack_solve_ridge(lapack, skip->work, n, skip->p, hidden, strength);
	if (err)
		return err;
	copy_block(skip->sums.xx[part], cols, 0, n, 0, n, skip->work);
	copy_block(skip->sums.xt[part], hidden, 0, n, 0, hidden, skip->q);
	return calib_lapack_solve_ridge(lapack, skip->work, n, skip->q, hidden, strength);
}

/* m [hidden][hidden] -= x'F b, for b [heads_dim][hidden]; uses work (F'x) and basis. */
static void take_off(
	struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, const double *b, double *m)
{
	int n = skip->heads_dim, hidden = skip->hidden;
	size_t square = (size_t)hidden * hidden;

	copy_block(skip->sums.xx[part], n + hidden, 0, n, n, hidden, skip->work);
	memset(skip->basis, 0, sizeof(double) * square);
	calib_lapack_add_products(lapack, skip->work, hidden, b, hidden, n, skip->basis);
	for (size_t i = 0; i < square; i++)
		m[i] -= skip->basis[i];
}

/* S = x'x + ridge - x'F (F'F + ridge)^-1 F'x; S W*' = x't - x'F (F'F + ridge)^-1 F't into moved, W*' into full. */
static int solve_full(struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, double strength)
{
	int n = skip->heads_dim, hidden = skip->hidden;
	double mean = 0;

	copy_block(skip->sums.xx[part], n + hidden, n, hidden, n, hidden, skip->left);
	copy_block(skip->sums.xt[part], hidden, n, hidden, 0, hidden, skip->moved);
	for (int i = 0; i < hidden; i++)
		mean += skip->left[(size_t)i * hidden + i] / hidden;
	for (int i = 0; i < hidden; i++)
		skip->left[(size_t)i * hidden + i] +=
			strength * mean; /* a share of all of x, so before F's part goes */
	take_off(skip, lapack, part, skip->p, skip->left);
	take_off(skip, lapack, part, skip->q, skip->moved);
	memcpy(skip->full, skip->moved, sizeof(double) * hidden * hidden);
	return calib_lapack_solve_ridge(lapack, skip->left, hidden, skip->full, hidden, 0);
}

/* The leading eigenvectors of W* S W*', which is moved' full, into basis; a = b' W*. */
static int cut(struct calib_skip *skip, struct calib_lapack *lapack)
{
	int hidden = skip->hidden, err;

	memset(skip->basis, 0, sizeof(double) * hidden * hidden);
	calib_lapack_add_products(lapack, skip->moved, hidden, skip->full, hidden, hidden, skip->basis);
	err = calib_lapack_eigenvectors(lapack, skip->basis, hidden);
	if (!err)
		calib_lapack_multiply(lapack, skip->basis, skip->full, true, skip->rank, hidden, hidden, skip->a);
	return err;
}

/* W' = [W_o, b a]' into w: W_o' = q - p (b a)'. */
static void put_together(struct calib_skip *skip, struct calib_lapack *lapack)
{
	int n = skip->heads_dim, hidden = skip->hidden;
	double *skipped = skip->w + (size_t)n * hidden;

	memset(skipped, 0, sizeof(double) * hidden * hidden);
	calib_lapack_add_products(lapack, skip->a, hidden, skip->basis, hidden, skip->rank, skipped);
	calib_lapack_multiply(lapack, skip->p, skipped, false, n, hidden, hidden, skip->work);
	for (size_t i = 0; i < (size_t)n * hidden; i++)
		skip->w[i] = skip->q[i] - skip->work[i];
}

static int solve(struct calib_skip *skip, struct calib_lapack *lapack, enum calib_part part, double strength)
{
	int err = solve_heads(skip, lapack, part, strength);

	if (!err)
		err = solve_full(skip, lapack, part, strength);
	if (!err)
		err = cut(skip, lapack);
	if (!err)
		put_together(skip, lapack);
	return err;
}

static int choose(struct calib_skip *skip, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	double held, struct calib_ridge_result *out)
{
	int err = 0;

	out->strength = choice->strengths[0];
	out->better = choice->count == 1;
	for (int i = 0; i < choice->count && !err && choice->count > 1; i++) {
		double error;
		err = solve(skip, lapack, CALIB_FITTED, choice->strengths[i]);
		error = err ? 0 : calib_ridge_error(&skip->sums, lapack, CALIB_HELD, skip->w);
		if (err || error >= held)
			continue;
		held = error;
		out->better = true;
		out->strength = choice->strengths[i];
	}
	return err;
}

static void take(const struct calib_skip *skip, float *outputs, float *a, float *b)
{
	int n = skip->heads_dim, hidden = skip->hidden;

	for (int r = 0; r < hidden; r++)
		for (int c = 0; c < n; c++)
			outputs[(size_t)r * n + c] = (float)skip->w[(size_t)c * hidden + r];
	for (size_t i = 0; i < (size_t)skip->rank * hidden; i++)
		a[i] = (float)skip->a[i];
	for (int r = 0; r < hidden; r++)
		for (int c = 0; c < skip->rank; c++)
			b[(size_t)r * skip->rank + c] = (float)skip->basis[(size_t)c * hidden + r];
}

int calib_skip_fit(struct calib_skip *skip, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	double held, float *outputs, float *a, float *b, struct calib_ridge_result *out)
{
	double count;
	int err;

	if (!isfinite(skip->sums.tt[0] + skip->sums.tt[1]))
		return calib_not_a_number("residual");
	err = choose(skip, lapack, choice, held, out);
	if (err || !out->better)
		return err;
	calib_ridge_join(&skip->sums);
	err = solve(skip, lapack, CALIB_FITTED, out->strength);
	if (err)
		return err;
	count = (double)skip->sums.rows[CALIB_FITTED] * skip->hidden;
	out->after = calib_ridge_error(&skip->sums, lapack, CALIB_FITTED, skip->w) / count;
	take(skip, outputs, a, b);
	return 0;
}
