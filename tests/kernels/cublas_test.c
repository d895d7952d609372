/*
 * tests/kernels/cublas_test.c: the values in attn/cublas.h are those of NVIDIA's header, on machines that have it.
 */
#include "../../attn/cublas.h"

#include <stdio.h>

#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>

_Static_assert(CUBLAS_SUCCESS == (int)CUBLAS_STATUS_SUCCESS, "status");
_Static_assert(CUBLAS_AS_IS == (int)CUBLAS_OP_N && CUBLAS_TRANSPOSED == (int)CUBLAS_OP_T, "operations");
_Static_assert(CUBLAS_TYPE_F32 == (int)CUDA_R_32F && CUBLAS_TYPE_F16 == (int)CUDA_R_16F &&
		       CUBLAS_TYPE_BF16 == (int)CUDA_R_16BF,
	"types");
_Static_assert(CUBLAS_IN_F32 == (int)CUBLAS_COMPUTE_32F && CUBLAS_IN_F32_PEDANTIC == (int)CUBLAS_COMPUTE_32F_PEDANTIC,
	"what sums are in");
_Static_assert(CUBLAS_DEFAULT_ALGORITHM == (int)CUBLAS_GEMM_DEFAULT, "algorithm");

int main(void)
{
	puts("attn/cublas.h agrees with cublas_v2.h");
	return 0;
}
#else
int main(void)
{
	puts("no cublas_v2.h on this machine");
	return 77;
}
#endif
