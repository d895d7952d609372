/*
 * calib/compensate/lapack.h: float64 sums of products, and ridge regression by Cholesky. Private to calib/compensate/.
 */
#ifndef CALIB_LAPACK_H
#define CALIB_LAPACK_H

#include <stdbool.h>

struct calib_lapack;

/* OpenBLAS, which holds LAPACK, found as the host device finds it. -ENODEV, -ENOMEM. */
int calib_lapack_open(struct calib_lapack **out);
void calib_lapack_close(struct calib_lapack *lapack);

/* Row-major matrices throughout; of a symmetric one only the upper triangle is read and written. */

/* sum [a_cols][b_cols] += a' b, for a [rows][a_cols] and b [rows][b_cols]. */
void calib_lapack_add_products(
	struct calib_lapack *lapack, const double *a, int a_cols, const double *b, int b_cols, int rows, double *sum);
/* The same in float32, and in place of what `product` held: for a few rows, whose sums in float64 are the caller's. */
void calib_lapack_products_f32(
	struct calib_lapack *lapack, const float *a, int a_cols, const float *b, int b_cols, int rows, float *product);
/* product [cols][cols], symmetric, = a' a, for a [rows][cols]. */
void calib_lapack_squares_f32(struct calib_lapack *lapack, const float *a, int cols, int rows, float *product);
/* c [m][n] = a [m][k] b [k][n], or with b [n][k] and `transposed` a b'. */
void calib_lapack_multiply(
	struct calib_lapack *lapack, const double *a, const double *b, bool transposed, int m, int n, int k, double *c);
/* c = scale a b in the same way, in float32, for matrices whose rows lie `stride` floats apart. */
void calib_lapack_multiply_f32(struct calib_lapack *lapack, int m, int n, int k, float scale, const float *a,
	int a_stride, const float *b, int b_stride, bool transposed, float *c, int c_stride);
/* c [n][cols] = a b, for a symmetric [n][n] and b [n][cols]. */
void calib_lapack_multiply_symmetric(
	struct calib_lapack *lapack, const double *a, int n, const double *b, int cols, double *c);

/*
 * Solve (A + ridge * mean diag(A) I) X = B. A is symmetric [n][n], B [n][count]; B comes back as X, A destroyed.
 * -EIO: A is singular, or not of numbers.
 */
int calib_lapack_solve_ridge(struct calib_lapack *lapack, double *a, int n, double *b, int count, double ridge);

/*
 * The eigenvectors of a symmetric [n][n] in its place, as rows, that of the largest eigenvalue first. Their signs are the
 * library's. -EIO (not numbers), -ENOMEM.
 */
int calib_lapack_eigenvectors(struct calib_lapack *lapack, double *a, int n);

#endif
