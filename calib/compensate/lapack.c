/*
 * calib/compensate/lapack.c: the linear algebra of a fit, by OpenBLAS in float64.
 *
 * One thread: the last bits of a product depend on the number of threads, and a fit must be the same everywhere. The
 * number is a setting of the whole process, but the engine sets its own before each of its products (gemm_openblas.c), and
 * has nothing in flight while a fit computes.
 */
#include "lapack.h"

#include "../../attn/attn.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112, CBLAS_UPPER = 121, CBLAS_LEFT = 141 };
typedef void dgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, double alpha, const double *a, int lda,
	const double *b, int ldb, double beta, double *c, int ldc);
typedef void sgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
	const float *b, int ldb, float beta, float *c, int ldc);
typedef void ssyrk_fn(int order, int uplo, int trans, int n, int k, float alpha, const float *a, int lda, float beta,
	float *c, int ldc);
typedef void dsymm_fn(int order, int side, int uplo, int m, int n, double alpha, const double *a, int lda,
	const double *b, int ldb, double beta, double *c, int ldc);
typedef void dposv_fn(const char *uplo, const int *n, const int *count, double *a, const int *lda, double *b,
	const int *ldb, int *info);
typedef void dsyev_fn(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
	double *work, const int *lwork, int *info);
typedef void set_threads_fn(int threads);

struct calib_lapack {
	void *handle;
	dgemm_fn *dgemm;
	sgemm_fn *sgemm;
	ssyrk_fn *ssyrk;
	dsymm_fn *dsymm;
	dposv_fn *dposv;
	dsyev_fn *dsyev;
	set_threads_fn *set_threads;
};

static int find_functions(struct calib_lapack *lapack)
{
	int err = kvs_openblas_open("compensation", &lapack->handle);

	if (err)
		return err;
	lapack->dgemm = (dgemm_fn *)dlsym(lapack->handle, "cblas_dgemm");
	lapack->sgemm = (sgemm_fn *)dlsym(lapack->handle, "cblas_sgemm");
	lapack->ssyrk = (ssyrk_fn *)dlsym(lapack->handle, "cblas_ssyrk");
	lapack->dsymm = (dsymm_fn *)dlsym(lapack->handle, "cblas_dsymm");
	lapack->dposv = (dposv_fn *)dlsym(lapack->handle, "dposv_");
	lapack->dsyev = (dsyev_fn *)dlsym(lapack->handle, "dsyev_");
	lapack->set_threads = (set_threads_fn *)dlsym(lapack->handle, "openblas_set_num_threads");
	if (!lapack->dgemm || !lapack->sgemm || !lapack->ssyrk || !lapack->dsymm || !lapack->dposv || !lapack->dsyev ||
		!lapack->set_threads)
		return kvs_fail(-ENODEV, "libopenblas.so.0 lacks a function of cblas, dposv_, dsyev_ or "
					 "openblas_set_num_threads: it was "
					 "built without LAPACK, or another library has taken its name");
	return 0;
}

int calib_lapack_open(struct calib_lapack **out)
{
	struct calib_lapack *lapack = calloc(1, sizeof(*lapack));
	int err = lapack ? find_functions(lapack) : kvs_fail(-ENOMEM, "no memory for LAPACK");

	if (err) {
		calib_lapack_close(lapack);
		return err;
	}
	*out = lapack;
	return 0;
}

void calib_lapack_close(struct calib_lapack *lapack)
{
	if (!lapack)
		return;
	if (lapack->handle)
		dlclose(lapack->handle);
	free(lapack);
}

void calib_lapack_add_products(
	struct calib_lapack *lapack, const double *a, int a_cols, const double *b, int b_cols, int rows, double *sum)
{
	lapack->set_threads(1);
	lapack->dgemm(CBLAS_ROW_MAJOR, CBLAS_TRANS, CBLAS_NO_TRANS, a_cols, b_cols, rows, 1, a, a_cols, b, b_cols, 1,
		sum, b_cols);
}

void calib_lapack_products_f32(
	struct calib_lapack *lapack, const float *a, int a_cols, const float *b, int b_cols, int rows, float *product)
{
	lapack->set_threads(1);
	lapack->sgemm(CBLAS_ROW_MAJOR, CBLAS_TRANS, CBLAS_NO_TRANS, a_cols, b_cols, rows, 1, a, a_cols, b, b_cols, 0,
		product, b_cols);
}

void calib_lapack_squares_f32(struct calib_lapack *lapack, const float *a, int cols, int rows, float *product)
{
	lapack->set_threads(1);
	lapack->ssyrk(CBLAS_ROW_MAJOR, CBLAS_UPPER, CBLAS_TRANS, cols, rows, 1, a, cols, 0, product, cols);
}

void calib_lapack_multiply(
	struct calib_lapack *lapack, const double *a, const double *b, bool transposed, int m, int n, int k, double *c)
{
	lapack->set_threads(1);
	lapack->dgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, transposed ? CBLAS_TRANS : CBLAS_NO_TRANS, m, n, k, 1, a, k, b,
		transposed ? k : n, 0, c, n);
}

void calib_lapack_multiply_f32(struct calib_lapack *lapack, int m, int n, int k, float scale, const float *a,
	int a_stride, const float *b, int b_stride, bool transposed, float *c, int c_stride)
{
	lapack->set_threads(1);
	lapack->sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, transposed ? CBLAS_TRANS : CBLAS_NO_TRANS, m, n, k, scale, a,
		a_stride, b, b_stride, 0, c, c_stride);
}

void calib_lapack_multiply_symmetric(
	struct calib_lapack *lapack, const double *a, int n, const double *b, int cols, double *c)
{
	lapack->set_threads(1);
	lapack->dsymm(CBLAS_ROW_MAJOR, CBLAS_LEFT, CBLAS_UPPER, n, cols, 1, a, n, b, cols, 0, c, cols);
}

/* [rows][cols] to [cols][rows]: LAPACK has its matrices by columns. */
static void transpose(const double *from, int rows, int cols, double *to)
{
	for (int r = 0; r < rows; r++)
		for (int c = 0; c < cols; c++)
			to[(size_t)c * rows + r] = from[(size_t)r * cols + c];
}

int calib_lapack_solve_ridge(struct calib_lapack *lapack, double *a, int n, double *b, int count, double ridge)
{
	double *columns = malloc(sizeof(*columns) * n * count), mean = 0;
	int info = 0;

	if (!columns)
		return kvs_fail(-ENOMEM, "no memory to solve for a matrix of [%d][%d]", count, n);
	for (int i = 0; i < n; i++)
		mean += a[(size_t)i * n + i] / n;
	for (int i = 0; i < n; i++)
		a[(size_t)i * n + i] += ridge * mean;
	transpose(b, n, count, columns);
	lapack->set_threads(1);
	lapack->dposv("L", &n, &count, a, &n, columns, &n, &info);
	transpose(columns, count, n, b);
	free(columns);
	for (size_t i = 0; i < (size_t)n * count && !info; i++)
		info = !isfinite(b[i]);
	return info ? kvs_fail(-EIO,
			      "the sums of a fit are singular or not numbers: the text may repeat itself, or the "
			      "model's weights be damaged")
		    : 0;
}

/* LAPACK says how much room it wants when asked with -1. */
static int eigen(struct calib_lapack *lapack, double *a, int n, double *values)
{
	int info = 0, ask = -1, room;
	double want = 0, *work;

	lapack->dsyev("V", "L", &n, a, &n, values, &want, &ask, &info);
	room = (int)want;
	work = malloc(sizeof(*work) * (room + 1));
	if (!info && work)
		lapack->dsyev("V", "L", &n, a, &n, values, work, &room, &info);
	else
		info = -1;
	free(work);
	return info;
}

/* It gives them by rising value, as columns of its own order: as rows of ours. */
int calib_lapack_eigenvectors(struct calib_lapack *lapack, double *a, int n)
{
	double *values = malloc(sizeof(*values) * n);
	int info = 0;

	if (!values)
		return kvs_fail(-ENOMEM, "no memory for %d eigenvalues", n);
	for (size_t i = 0; i < (size_t)n * n && !info; i++)
		info = !isfinite(a[i]);
	lapack->set_threads(1);
	if (!info)
		info = eigen(lapack, a, n, values);
	for (int top = 0, bottom = n - 1; top < bottom && !info; top++, bottom--)
		for (int c = 0; c < n; c++) {
			double kept = a[(size_t)top * n + c];
			a[(size_t)top * n + c] = a[(size_t)bottom * n + c];
			a[(size_t)bottom * n + c] = kept;
		}
	free(values);
	if (!info)
		return 0;
	return kvs_fail(
		-EIO, "the eigenvectors of a fit cannot be found: its sums are not numbers, or there is no memory");
}
