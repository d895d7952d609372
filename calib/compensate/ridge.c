/*
 * calib/compensate/ridge.c: one matrix by ridge regression, its strength chosen on rows that the fit does not see.
 *
 * All that a fit needs is in the sums X'X, X'T and T'T, and so is the error of any matrix on the rows behind them:
 * |T - X W'|^2 = T'T - 2 <W', X'T> + <W', X'X W'>. So a strength costs one factorisation, and no pass over the text. Products of
 * a few rows are float32, as the rows are; sums of them are float64, in the order of the tokens. X'X and X'T are summed side by
 * side, and so are strengths tried, on two threads where there are two; each is one thread's work, so their number changes
 * no bit.
 */
#include "ridge.h"

#include "../measure.h"
#include "together.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
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
	whole = true;
	for (int i = 0; i < CALIB_RIDGE_SOLVERS; i++) {
		struct calib_ridge_work *work = &out->work[i];
		work->a = malloc(sizeof(double) * square);
		work->b = malloc(sizeof(double) * across);
		work->c = malloc(sizeof(double) * across);
		whole &= work->a && work->b && work->c;
	}
	out->t = malloc(sizeof(float) * CALIB_RIDGE_ROWS * outs);
	out->block_squares = malloc(sizeof(float) * square);
	out->block_targets = malloc(sizeof(float) * across);
	whole &= out->t && out->block_squares && out->block_targets && out->xx[0] && out->xx[1] && out->xt[0] &&
		 out->xt[1];
	return whole ? 0 : kvs_fail(-ENOMEM, "no memory for the sums of a matrix of [%d][%d]", outs, cols);
}

void calib_ridge_close(struct calib_ridge *ridge)
{
	for (int part = 0; part < CALIB_PARTS; part++) {
		free(ridge->xx[part]);
		free(ridge->xt[part]);
	}
	for (int i = 0; i < CALIB_RIDGE_SOLVERS; i++) {
		free(ridge->work[i].a);
		free(ridge->work[i].b);
		free(ridge->work[i].c);
	}
	free(ridge->t);
	free(ridge->block_squares);
	free(ridge->block_targets);
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

/* ---- sums ---- */

struct addition {
	struct calib_ridge *ridge;
	struct calib_lapack *lapack;
	enum calib_part part;
	const float *x;
	int rows;
};

static void add_squares(void *arg)
{
	struct addition *a = arg;
	size_t cols = a->ridge->cols;

	calib_lapack_squares_f32(a->lapack, a->x, (int)cols, a->rows, a->ridge->block_squares);
	for (size_t r = 0; r < cols; r++)
		for (size_t i = r * cols + r; i < (r + 1) * cols; i++)
			a->ridge->xx[a->part][i] += a->ridge->block_squares[i];
}

static void add_products(void *arg)
{
	struct addition *a = arg;
	size_t count = (size_t)a->ridge->cols * a->ridge->outs;

	calib_lapack_products_f32(
		a->lapack, a->x, a->ridge->cols, a->ridge->t, a->ridge->outs, a->rows, a->ridge->block_targets);
	for (size_t i = 0; i < count; i++)
		a->ridge->xt[a->part][i] += a->ridge->block_targets[i];
}

void calib_ridge_add(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, int rows,
	const float *x, const float *to, const float *from, const float *bias)
{
	size_t cols = ridge->cols, outs = ridge->outs;

	for (int first = 0, now; first < rows; first += now) {
		now = rows - first < CALIB_RIDGE_ROWS ? rows - first : CALIB_RIDGE_ROWS;
		for (size_t i = 0; i < now * outs; i++) {
			ridge->t[i] = to[first * outs + i] - from[first * outs + i] - (bias ? bias[i % outs] : 0);
			ridge->tt[part] += (double)ridge->t[i] * ridge->t[i];
		}
		struct addition addition = {ridge, lapack, part, x + first * cols, now};
		calib_side_by_side(add_squares, &addition, add_products, &addition);
	}
	ridge->rows[part] += rows;
}

static double error_of(
	struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, const double *w, double *product)
{
	size_t count = (size_t)ridge->cols * ridge->outs;
	double sum = ridge->tt[part];

	calib_lapack_multiply_symmetric(lapack, ridge->xx[part], ridge->cols, w, ridge->outs, product);
	for (size_t i = 0; i < count; i++)
		sum += w[i] * (product[i] - 2 * ridge->xt[part][i]);
	return sum;
}

double calib_ridge_error(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, const double *w)
{
	return error_of(ridge, lapack, part, w, ridge->work[0].c);
}

/* From now on a part's targets are what `old` leaves of them, and a solution is what is added to it. */
static void take_off(struct calib_ridge *ridge, struct calib_lapack *lapack, enum calib_part part, const double *old)
{
	size_t count = (size_t)ridge->cols * ridge->outs;
	double *product = ridge->work[0].c;

	ridge->tt[part] = error_of(ridge, lapack, part, old, product);
	for (size_t i = 0; i < count; i++)
		ridge->xt[part][i] -= product[i];
}

/* ---- solutions ---- */

/* W' = the solution for a part's sums, into b. */
static int solve(struct calib_ridge *ridge, struct calib_ridge_work *work, struct calib_lapack *lapack,
	enum calib_part part, double strength)
{
	memcpy(work->a, ridge->xx[part], sizeof(double) * ridge->cols * ridge->cols);
	memcpy(work->b, ridge->xt[part], sizeof(double) * ridge->cols * ridge->outs);
	return calib_lapack_solve_ridge(lapack, work->a, ridge->cols, work->b, ridge->outs, strength);
}

/* The error of a solution on the sums that it solves, for which X'X W' = X'T - ridge W'. */
static double error_of_solution(const struct calib_ridge *ridge, enum calib_part part, double strength)
{
	const double *w = ridge->work[0].b;
	double sum = ridge->tt[part], mean = 0;

	for (int i = 0; i < ridge->cols; i++)
		mean += ridge->xx[part][(size_t)i * ridge->cols + i] / ridge->cols;
	for (size_t i = 0; i < (size_t)ridge->cols * ridge->outs; i++)
		sum -= w[i] * (ridge->xt[part][i] + strength * mean * w[i]);
	return sum;
}

struct trial {
	struct calib_ridge *ridge;
	struct calib_lapack *lapack;
	double strength, error; /* on the held rows */
	int solver, err;
	char message[256]; /* kvs_error() is each thread's own */
};

static void try_strength(void *arg)
{
	struct trial *t = arg;
	struct calib_ridge_work *work = &t->ridge->work[t->solver];

	t->err = solve(t->ridge, work, t->lapack, CALIB_FITTED, t->strength);
	if (t->err)
		snprintf(t->message, sizeof(t->message), "%s", kvs_error());
	else
		t->error = error_of(t->ridge, t->lapack, CALIB_HELD, work->b, work->c);
}

/* The strengths from `first` on, as many as there are solvers. errors: their place in those of all. */
static int try_some(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	int first, double *errors)
{
	struct trial one = {.ridge = ridge, .lapack = lapack, .strength = choice->strengths[first]}, other = one;
	bool two = first + 1 < choice->count;

	if (two) {
		other.strength = choice->strengths[first + 1];
		other.solver = 1;
		calib_side_by_side(try_strength, &other, try_strength, &one);
	} else {
		try_strength(&one);
	}
	errors[0] = one.error;
	if (two)
		errors[1] = other.error;
	if (one.err)
		return kvs_fail(one.err, "%s", one.message);
	return other.err ? kvs_fail(other.err, "%s", other.message) : 0;
}

/* In a fit that pulls, a solution of zero is the old matrix. */
static int choose(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	const double *old, struct calib_ridge_result *out)
{
	double least = choice->pull ? ridge->tt[CALIB_HELD] : calib_ridge_error(ridge, lapack, CALIB_HELD, old);
	double errors[CALIB_RIDGE_STRENGTHS];
	bool on = choice->count > 1;
	int err = 0;

	out->strength = choice->strengths[0];
	out->better = choice->count == 1;
	for (int i = 0; i < choice->count && on && !err; i++) {
		if (i % CALIB_RIDGE_SOLVERS == 0)
			err = try_some(ridge, lapack, choice, i, errors + i);
		if (err || errors[i] >= least) {
			on = !choice->ends;
			continue;
		}
		least = errors[i];
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

/* The solution, with a pull on top of the old matrix, which is what `to` holds. */
static void transpose(const struct calib_ridge *ridge, bool pull, const double *old, float *to)
{
	const double *b = ridge->work[0].b;

	for (int r = 0; r < ridge->outs; r++)
		for (int c = 0; c < ridge->cols; c++) {
			size_t from = (size_t)c * ridge->outs + r;
			to[(size_t)r * ridge->cols + c] = (float)(b[from] + (pull ? old[from] : 0));
		}
}

static int fit(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	const double *old, float *values, struct calib_ridge_result *out)
{
	double count, before;
	int err = choose(ridge, lapack, choice, old, out);

	if (err)
		return err;
	calib_ridge_join(ridge);
	count = (double)ridge->rows[CALIB_FITTED] * ridge->outs;
	before = choice->pull ? ridge->tt[CALIB_FITTED] : calib_ridge_error(ridge, lapack, CALIB_FITTED, old);
	out->before = out->after = before / count;
	if (!out->better)
		return 0;
	err = solve(ridge, &ridge->work[0], lapack, CALIB_FITTED, out->strength);
	if (err)
		return err;
	out->after = error_of_solution(ridge, CALIB_FITTED, out->strength) / count;
	transpose(ridge, choice->pull, old, values);
	return 0;
}

/* The old matrix, transposed, which the caller frees; with a pull it is taken off. -EIO (sums that are not numbers), -ENOMEM. */
static int take_old(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	const float *values, double **old)
{
	if (!isfinite(ridge->tt[0] + ridge->tt[1]))
		return calib_not_a_number("residual");
	*old = malloc(sizeof(**old) * ridge->cols * ridge->outs);
	if (!*old)
		return kvs_fail(-ENOMEM, "no memory for a matrix of [%d][%d]", ridge->outs, ridge->cols);
	for (int r = 0; r < ridge->outs; r++)
		for (int c = 0; c < ridge->cols; c++)
			(*old)[(size_t)c * ridge->outs + r] = values[(size_t)r * ridge->cols + c];
	for (int part = 0; part < CALIB_PARTS && choice->pull; part++)
		take_off(ridge, lapack, part, *old);
	return 0;
}

int calib_ridge_fit(struct calib_ridge *ridge, struct calib_lapack *lapack, const struct calib_ridge_choice *choice,
	float *values, struct calib_ridge_result *out)
{
	double *old;
	int err = take_old(ridge, lapack, choice, values, &old);

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
	int err = take_old(ridge, lapack, choice, values, &old);

	if (err)
		return err;
	err = choose(ridge, lapack, choice, old, &chosen);
	if (!err && chosen.better) {
		err = solve(ridge, &ridge->work[0], lapack, CALIB_FITTED, chosen.strength);
		if (!err)
			transpose(ridge, choice->pull, old, values);
	}
	if (!err)
		*left = chosen.held / ((double)ridge->rows[CALIB_HELD] * ridge->outs);
	free(old);
	return err;
}
