/*
 * attn/gemm_cublas.c: GEMM on a GPU: cuBLAS, found at run time and bound to the stream.
 *
 * cuBLAS is column-major: what it sees is outᵀ = (w)(xᵀ). Sums are in f32; TF32 is never used, so that an f32 model
 * gives f32 results. The library is opened once and stays loaded: unloading takes long, and handlers that it registered
 * with the driver run when the program ends. Its workspace is ours, so that no call allocates.
 */
#include "cublas.h"
#include "stream.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* The workspace that cuBLAS asks for on Hopper and newer, and on older GPUs. */
#define WORKSPACE_BYTES ((size_t)32 << 20)
#define OLDER_WORKSPACE_BYTES ((size_t)4 << 20)

struct functions {
	cublas_create_fn *create;
	cublas_destroy_fn *destroy;
	cublas_set_stream_fn *set_stream;
	cublas_set_workspace_fn *set_workspace;
	cublas_gemm_ex_fn *gemm_ex;
	cublas_status_string_fn *status_string;
};

struct cublas {
	struct attn_gemm_library base;
	const struct functions *functions;
	kvs_cu *cu;
	cublas_context *context;
	CUdeviceptr workspace;
};

static int type_of(enum kvs_dtype dtype)
{
	return dtype == KVS_F32 ? CUBLAS_TYPE_F32 : dtype == KVS_F16 ? CUBLAS_TYPE_F16 : CUBLAS_TYPE_BF16;
}

static int run(struct attn_gemm_library *base, kvs_stream *s, const struct attn_gemm_call *call)
{
	struct cublas *cublas = (struct cublas *)base;
	int type = type_of(call->dtype), compute = call->dtype == KVS_F32 ? CUBLAS_IN_F32_PEDANTIC : CUBLAS_IN_F32;
	float alpha = 1, beta = call->accumulate ? 1 : 0;
	int status = cublas->functions->gemm_ex(cublas->context, CUBLAS_TRANSPOSED, CUBLAS_AS_IS, call->n, call->tokens,
		call->k, &alpha, (const void *)call->w, type, call->k, (const void *)call->x, type, call->k, &beta,
		(void *)call->out, CUBLAS_TYPE_F32, call->out_stride, compute, CUBLAS_DEFAULT_ALGORITHM);

	(void)s;
	if (status == CUBLAS_SUCCESS)
		return 0;
	return kvs_fail(-EIO, "gemm: cublasGemmEx of %s [%d][%d] x [%d][%d]: %s (%d)", kvs_dtype_name(call->dtype),
		call->tokens, call->k, call->n, call->k, cublas->functions->status_string(status), status);
}

static void close_library(struct attn_gemm_library *base)
{
	struct cublas *cublas = (struct cublas *)base;

	if (cublas->context)
		cublas->functions->destroy(cublas->context);
	if (cublas->workspace)
		KVS_CU_GIVE_BACK(cublas->cu->cuMemFree, cublas->workspace);
	free(cublas);
}

static int look_up(void *library, struct functions *out)
{
	const struct {
		const char *name;
		void **to;
	} symbols[] = {{"cublasCreate_v2", (void **)&out->create}, {"cublasDestroy_v2", (void **)&out->destroy},
		{"cublasSetStream_v2", (void **)&out->set_stream},
		{"cublasSetWorkspace_v2", (void **)&out->set_workspace}, {"cublasGemmEx", (void **)&out->gemm_ex},
		{"cublasGetStatusString", (void **)&out->status_string}};

	for (size_t i = 0; i < sizeof(symbols) / sizeof(*symbols); i++) {
		*symbols[i].to = dlsym(library, symbols[i].name);
		if (!*symbols[i].to)
			return kvs_fail(-ENODEV, "libcublas has no %s: versions 12 and 13 have it", symbols[i].name);
	}
	return 0;
}

/* The first call that finds the library fills the table; later calls get the same one. */
static int find_functions(const struct functions **out)
{
	static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct functions found;
	static bool ready;
	void *library = NULL;
	int err = 0;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !library && !ready; i++)
		library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!library && !ready)
		err = kvs_fail(-ENODEV,
			"a GPU needs cuBLAS 12 or 13 of the CUDA toolkit (package libcublas-13-0 or libcublas-12-*;"
			" LD_LIBRARY_PATH if it is elsewhere): %s",
			dlerror());
	if (library)
		err = look_up(library, &found);
	ready = ready || (library && !err);
	pthread_mutex_unlock(&lock);
	*out = &found;
	return err;
}

static int allocate_workspace(struct cublas *cublas, size_t bytes)
{
	CUresult result = cublas->cu->cuMemAlloc(&cublas->workspace, bytes);

	return result ? kvs_cu_fail(cublas->cu, result, "%zu MiB of workspace for cuBLAS", bytes >> 20) : 0;
}

static int bind_stream(struct cublas *cublas, CUstream stream, size_t workspace_bytes)
{
	const struct functions *functions = cublas->functions;
	int status = functions->create(&cublas->context);

	if (status == CUBLAS_SUCCESS)
		status = functions->set_stream(cublas->context, stream);
	if (status == CUBLAS_SUCCESS)
		status = functions->set_workspace(cublas->context, (void *)cublas->workspace, workspace_bytes);
	if (status == CUBLAS_SUCCESS)
		return 0;
	return kvs_fail(-EIO, "binding cuBLAS to the stream: %s (%d)", functions->status_string(status), status);
}

int attn_gemm_open_cublas(kvs_stream *s, struct attn_gemm_library **out)
{
	struct cublas *cublas = calloc(1, sizeof(*cublas));
	size_t workspace_bytes = s->cu->compute_capability >= 90 ? WORKSPACE_BYTES : OLDER_WORKSPACE_BYTES;
	int err;

	if (!cublas)
		return kvs_fail(-ENOMEM, "no memory for cuBLAS");
	cublas->base = (struct attn_gemm_library){.run = run, .close = close_library, .takes_f16 = true};
	cublas->cu = s->cu;
	err = find_functions(&cublas->functions);
	if (!err)
		err = allocate_workspace(cublas, workspace_bytes);
	if (!err)
		err = bind_stream(cublas, s->handle, workspace_bytes);
	if (err) {
		close_library(&cublas->base);
		return err;
	}
	*out = &cublas->base;
	return 0;
}
