/*
 * attn/cublas.h: the part of cuBLAS that is used, declared here so that building needs no header of a library that is found
 * at run time. Names of functions, order of arguments and values are those of the cuBLAS API reference, versions 12 and 13.
 */
#ifndef KVS_ATTN_CUBLAS_H
#define KVS_ATTN_CUBLAS_H

#include <stddef.h>

enum { CUBLAS_SUCCESS = 0 };
enum { CUBLAS_AS_IS = 0, CUBLAS_TRANSPOSED = 1 };
enum { CUBLAS_TYPE_F32 = 0, CUBLAS_TYPE_F16 = 2, CUBLAS_TYPE_BF16 = 14 };
enum { CUBLAS_IN_F32 = 68, CUBLAS_IN_F32_PEDANTIC = 69 }; /* pedantic: never in TF32 */
enum { CUBLAS_DEFAULT_ALGORITHM = -1 };

typedef struct cublas_context cublas_context;

/* Each returns a status. Matrices are column-major; lda, ldb and ldc are elements from one column to the next. */
typedef int cublas_create_fn(cublas_context **context);
typedef int cublas_destroy_fn(cublas_context *context);
typedef int cublas_set_stream_fn(cublas_context *context, void *stream);
/* The caller's device memory, aligned to 256 bytes. Call it after set_stream, which resets it. */
typedef int cublas_set_workspace_fn(cublas_context *context, void *workspace, size_t bytes);
/*
 * c[m][n] = alpha * op(a)[m][k] * op(b)[k][n] + beta * c; alpha and beta are in the host's memory, of the type of
 * `compute`.
 */
typedef int cublas_gemm_ex_fn(cublas_context *context, int op_a, int op_b, int m, int n, int k, const void *alpha,
	const void *a, int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type,
	int ldc, int compute, int algorithm);
typedef const char *cublas_status_string_fn(int status);

#endif
