/*
 * attn/gemm_cublas.c: GEMM on a GPU: cuBLAS, found at run time and bound to the stream.
 *
 * cuBLAS is column-major: what it sees is outᵀ = (w)(xᵀ). Sums are in f32; TF32 is never used, so that an f32 model gives
 * f32 results.
 */
#include "stream.h"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

struct cublas {
	struct kvs_gemm_library base;
	__typeof__(cublasCreate_v2) *create;
	__typeof__(cublasDestroy_v2) *destroy;
	__typeof__(cublasSetStream_v2) *set_stream;
	__typeof__(cublasGemmEx) *gemm_ex;
	__typeof__(cublasGetStatusString) *status_string;
	void *library;
	cublasHandle_t handle;
};

static cudaDataType_t cublas_type(enum kvs_dtype dtype)
{
	return dtype == KVS_F32 ? CUDA_R_32F : dtype == KVS_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static int run(struct kvs_gemm_library *base, kvs_stream *s, const struct kvs_gemm_call *call)
{
	struct cublas *cublas = (struct cublas *)base;
	cudaDataType_t type = cublas_type(call->dtype);
	float alpha = 1, beta = call->accumulate ? 1 : 0;
	cublasComputeType_t compute = call->dtype == KVS_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
	cublasStatus_t status = cublas->gemm_ex(cublas->handle, CUBLAS_OP_T, CUBLAS_OP_N, call->n, call->tokens,
		call->k, &alpha, (const void *)call->w, type, call->k, (const void *)call->x, type, call->k, &beta,
		(void *)call->out, CUDA_R_32F, call->out_stride, compute, CUBLAS_GEMM_DEFAULT);

	(void)s;
	if (status == CUBLAS_STATUS_SUCCESS)
		return 0;
	return kvs_fail(-EIO, "gemm: cublasGemmEx of %s [%d][%d] x [%d][%d]: %s (%d)", kvs_dtype_name(call->dtype),
		call->tokens, call->k, call->n, call->k, cublas->status_string(status), status);
}

static void close_library(struct kvs_gemm_library *base)
{
	struct cublas *cublas = (struct cublas *)base;

	if (cublas->handle)
		cublas->destroy(cublas->handle);
	if (cublas->library)
		dlclose(cublas->library);
	free(cublas);
}

static int find_functions(struct cublas *cublas)
{
	static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !cublas->library; i++)
		cublas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!cublas->library)
		return kvs_fail(-ENODEV,
			"a GPU needs cuBLAS 12 or 13 of the CUDA toolkit (package libcublas-13-0 or libcublas-12-*;"
			" LD_LIBRARY_PATH if it is elsewhere): %s",
			dlerror());
	cublas->create = (__typeof__(cublas->create))dlsym(cublas->library, "cublasCreate_v2");
	cublas->destroy = (__typeof__(cublas->destroy))dlsym(cublas->library, "cublasDestroy_v2");
	cublas->set_stream = (__typeof__(cublas->set_stream))dlsym(cublas->library, "cublasSetStream_v2");
	cublas->gemm_ex = (__typeof__(cublas->gemm_ex))dlsym(cublas->library, "cublasGemmEx");
	cublas->status_string = (__typeof__(cublas->status_string))dlsym(cublas->library, "cublasGetStatusString");
	if (!cublas->create || !cublas->destroy || !cublas->set_stream || !cublas->gemm_ex || !cublas->status_string)
		return kvs_fail(-ENODEV, "libcublas lacks a function of cuBLAS 12");
	return 0;
}

int kvs_gemm_open_cublas(kvs_stream *s, struct kvs_gemm_library **out)
{
	struct cublas *cublas = calloc(1, sizeof(*cublas));
	cublasStatus_t status;
	int err;

	if (!cublas)
		return kvs_fail(-ENOMEM, "no memory for cuBLAS");
	cublas->base =
		(struct kvs_gemm_library){.run = run, .close = close_library, .takes_f16 = true, .leaves_rows = true};
	err = find_functions(cublas);
	if (err)
		goto out_close;
	status = cublas->create(&cublas->handle);
	if (status == CUBLAS_STATUS_SUCCESS)
		status = cublas->set_stream(cublas->handle, s->handle);
	if (status != CUBLAS_STATUS_SUCCESS) {
		err = kvs_fail(-EIO, "binding cuBLAS to the stream: %s (%d)", cublas->status_string(status), status);
		goto out_close;
	}
	*out = &cublas->base;
	return 0;

out_close:
	close_library(&cublas->base);
	return err;
}
