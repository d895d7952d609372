/*
 * calib/compensate/lapack.h: float64 sums of products, and ridge regression by Cholesky. Private to calib/compensate/.
 */
#ifndef CALIB_LAPACK_H
#define CALIB_LAPACK_H

struct calib_lapack;

/* OpenBLAS, which holds LAPACK, found as the host device finds it. -ENODEV, -ENOMEM. */
int calib_lapack_open(struct calib_lapack **out);
void calib_lapack_close(struct calib_lapack *lapack);

/* sum [a_cols][b_cols] += a' b, for a [rows][a_cols] and b [rows][b_cols]. */
void calib_lapack_add_products(
	struct calib_lapack *lapack, const double *a, int a_cols, const double *b, int b_cols, int rows, double *sum);

/*
 * Solve (A + ridge * mean diag(A) I) X = B. A is symmetric [n][n], B [n][count]; B comes back as X, A destroyed.
 * -EIO: A is singular, or not of numbers.
 */
int calib_lapack_solve_ridge(struct calib_lapack *lapack, double *a, int n, double *b, int count, double ridge);

#endif
