/*
 * attn/stream.c: a stream with the kernels of its device and a GEMM library.
 *
 * The kernels travel inside the program as two images (images.S): a fatbin for GPUs and a shared object for softcuda.
 * Functions are found by name when the stream is opened, so that no launch can fail because one is missing.
 */
#include "native/processor.h"
#include "stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LEAST_PAUSE_NS 20000 /* a sleep takes longer than asked by about this much */
#define MOST_PAUSE_NS 20000000

extern const unsigned char attn_image_host[], attn_image_host_end[];
extern const unsigned char attn_image_gpu[], attn_image_gpu_end[];
extern const char attn_gpu_archs[];

static const int head_dims[ATTN_HEAD_DIMS] = {32, 64, 80, 96, 128, 256};

int attn_head_dim_index(int head_dim)
{
	for (int i = 0; i < ATTN_HEAD_DIMS; i++) {
		if (head_dims[i] == head_dim)
			return i;
	}
	return -1;
}

static void kernel_name(enum attn_kernel kernel, char *name, size_t bytes)
{
	static const char *const names[ATTN_KERNEL_DECODE] = {
		[ATTN_KERNEL_EMBED] = "kvs_embed_kernel",
		[ATTN_KERNEL_RMSNORM] = "kvs_rmsnorm_kernel",
		[ATTN_KERNEL_SILU_MUL] = "kvs_silu_mul_kernel",
		[ATTN_KERNEL_ADD_ROW] = "kvs_add_row_kernel",
		[ATTN_KERNEL_CAST] = "kvs_cast_kernel",
		[ATTN_KERNEL_ROPE_APPEND] = "kvs_rope_append_kernel",
		[ATTN_KERNEL_ARGMAX] = "kvs_argmax_kernel",
		[ATTN_KERNEL_NLL] = "kvs_nll_kernel",
		[ATTN_KERNEL_SOFTMAX] = "kvs_softmax_kernel",
		[ATTN_KERNEL_CHECKSUM] = "kvs_checksum_kernel",
		[ATTN_KERNEL_PRODUCT] = "kvs_product_kernel",
		[ATTN_KERNEL_COMBINE] = "kvs_attention_combine",
		[ATTN_KERNEL_GEMV_F32] = "kvs_gemv_f32",
		[ATTN_KERNEL_GEMV_F16] = "kvs_gemv_f16",
		[ATTN_KERNEL_GEMV_BF16] = "kvs_gemv_bf16",
	};

	if (kernel < ATTN_KERNEL_DECODE) {
		snprintf(name, bytes, "%s", names[kernel]);
		return;
	}
	const char *family = "prefill";
	int member = kernel - ATTN_KERNEL_PREFILL;
	if (kernel < ATTN_KERNEL_DECODE_MMA) {
		family = "decode";
		member = kernel - ATTN_KERNEL_DECODE;
	} else if (kernel < ATTN_KERNEL_PREFILL) {
		family = "decode_mma";
		member = kernel - ATTN_KERNEL_DECODE_MMA + KVS_F16 * ATTN_HEAD_DIMS;
	}
	snprintf(name, bytes, "kvs_attention_%s_%s_%d", family, kvs_dtype_name(member / ATTN_HEAD_DIMS),
		head_dims[member % ATTN_HEAD_DIMS]);
}

const char *kvs_kernels_gpu_archs(void)
{
	return attn_gpu_archs;
}

/* Machine code runs on its major version, from its minor one on; PTX of the last one on all that are newer. */
static bool archs_cover(int capability)
{
	char *end;
	long last = 0;

	for (const char *arch = attn_gpu_archs; *arch; arch = end + strcspn(end, "0123456789")) {
		last = strtol(arch, &end, 10);
		if (last / 10 == capability / 10 && last <= capability)
			return true;
	}
	return last <= capability;
}

int kvs_kernels_check(const kvs_cu *cu)
{
	int major = cu->compute_capability / 10, minor = cu->compute_capability % 10;

	if (cu->kind != KVS_DEVICE_CUDA)
		return 0;
	if (attn_image_gpu_end - attn_image_gpu == 0)
		return kvs_fail(-ENOTSUP, "this kvshare was built without GPU kernels: make build GPU=1");
	if (cu->compute_capability < 80)
		return kvs_fail(-ENOTSUP, "%s has compute capability %d.%d: 8.0 (Ampere) or newer is needed", cu->name,
			major, minor);
	if (!archs_cover(cu->compute_capability))
		return kvs_fail(-ENOTSUP,
			"%s has compute capability %d.%d, this kvshare's kernels are for GPU_ARCHS=\"%s\": make build "
			"GPU=1 GPU_ARCHS=%d%d",
			cu->name, major, minor, attn_gpu_archs, major, minor);
	return 0;
}

/* The module takes a set that the processor has in any case (native/table.c). */
static int host_set_check(void)
{
	enum attn_set best = attn_set_best(), wanted = attn_set_wanted();

	if (wanted <= best)
		return 0;
	return kvs_fail(-ENOTSUP, "KVS_HOST_KERNELS=%s: the best set of instructions that this processor has is %s",
		attn_set_name(wanted), attn_set_name(best));
}

static int load_kernels(kvs_stream *s)
{
	bool gpu = s->cu->kind == KVS_DEVICE_CUDA;
	const unsigned char *image = gpu ? attn_image_gpu : attn_image_host;
	size_t bytes = gpu ? attn_image_gpu_end - attn_image_gpu : attn_image_host_end - attn_image_host;
	int err = gpu ? kvs_kernels_check(s->cu) : host_set_check();

	s->decode_mma = gpu; /* the image for the host emulates mma, which takes longer than it saves */
	if (err)
		return err;
	CUresult result = s->cu->cuModuleLoadData(&s->module, image);
	if (result != CUDA_SUCCESS)
		return kvs_cu_fail(s->cu, result, "loading the kernels (%zu bytes) on %s", bytes, s->cu->name);
	for (int k = 0; k < ATTN_KERNEL_COUNT; k++) {
		kernel_name(k, s->kernels[k].name, sizeof(s->kernels[k].name));
		result = s->cu->cuModuleGetFunction(&s->kernels[k].function, s->module, s->kernels[k].name);
		if (result != CUDA_SUCCESS)
			return kvs_cu_fail(s->cu, result, "looking up kernel %s", s->kernels[k].name);
	}
	return 0;
}

static int clear_counters(kvs_stream *s)
{
	size_t count = ATTN_DECODE_COUNTERS;
	CUresult result = s->cu->cuMemAlloc(&s->counters, count * sizeof(unsigned));

	if (!result)
		result = s->cu->cuMemsetD32Async(s->counters, 0, count, s->handle);
	return result ? kvs_cu_fail(s->cu, result, "%zu counters of a stream", count) : 0;
}

/* Undoes what kvs_stream_open() has set up so far, in reverse order. */
static void tear_down(kvs_stream *s)
{
	if (s->gemm)
		s->gemm->close(s->gemm);
	if (s->counters)
		KVS_CU_GIVE_BACK(s->cu->cuMemFree, s->counters);
	if (s->module)
		KVS_CU_GIVE_BACK(s->cu->cuModuleUnload, s->module);
	KVS_CU_GIVE_BACK(s->cu->cuStreamDestroy, s->handle);
	free(s);
}

int kvs_stream_open(kvs_cu *cu, kvs_stream **out)
{
	kvs_stream *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return kvs_fail(-ENOMEM, "no memory for a stream");
	s->cu = cu;
	CUresult result = cu->cuStreamCreate(&s->handle, CU_STREAM_NON_BLOCKING);
	if (result != CUDA_SUCCESS) {
		err = kvs_cu_fail(cu, result, "creating a stream");
		free(s);
		return err;
	}
	err = load_kernels(s);
	if (!err)
		err = clear_counters(s);
	if (!err)
		err = cu->kind == KVS_DEVICE_CUDA    ? attn_gemm_open_cublas(s, &s->gemm)
		      : attn_gemm_native_is_wanted() ? attn_gemm_open_native(s, &s->gemm)
						     : attn_gemm_open_openblas(s, &s->gemm);
	if (err) {
		tear_down(s);
		return err;
	}
	*out = s;
	return 0;
}

void kvs_stream_close(kvs_stream *s)
{
	if (!s)
		return;
	s->cu->cuStreamSynchronize(s->handle); /* whoever launched the work has had its error, or did not ask */
	tear_down(s);
}

CUstream kvs_stream_handle(const kvs_stream *s)
{
	return s->handle;
}

void kvs_stream_stop_when(kvs_stream *s, bool (*stop)(void))
{
	s->stop = stop;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Asks again after 1/32 of the time waited so far, so the wait is at most that much longer than the work. */
static int wait_or_stop(kvs_stream *s)
{
	int64_t start = now_ns(), pause;

	while (s->cu->cuStreamQuery(s->handle) == CUDA_ERROR_NOT_READY) {
		if (s->stop())
			return kvs_fail(-ECANCELED, "stopped while the device was at work");
		pause = (now_ns() - start) / 32;
		pause = pause < LEAST_PAUSE_NS ? LEAST_PAUSE_NS : pause > MOST_PAUSE_NS ? MOST_PAUSE_NS : pause;
		nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
	}
	return 0; /* an error is reported by the wait that follows */
}

int kvs_stream_synchronize(kvs_stream *s)
{
	int err = s->stop ? wait_or_stop(s) : 0;
	CUresult result;

	if (err)
		return err;
	result = s->cu->cuStreamSynchronize(s->handle);
	return result == CUDA_SUCCESS ? 0 : kvs_cu_fail(s->cu, result, "waiting for the stream");
}

uint64_t kvs_stream_bytes_moved(const kvs_stream *s)
{
	return s->bytes_moved;
}

void kvs_stream_set_decode_mma(kvs_stream *s, bool mma)
{
	s->decode_mma = mma;
}

void kvs_stream_leave_out(kvs_stream *s, unsigned parts)
{
	s->left_out = parts;
}

static unsigned part_of(enum attn_kernel kernel)
{
	switch (kernel) {
	case ATTN_KERNEL_EMBED:
	case ATTN_KERNEL_RMSNORM:
	case ATTN_KERNEL_SILU_MUL:
	case ATTN_KERNEL_ADD_ROW:
	case ATTN_KERNEL_CAST:
		return KVS_PART_ROWS;
	case ATTN_KERNEL_ROPE_APPEND:
		return KVS_PART_ROPE_APPEND;
	case ATTN_KERNEL_ARGMAX:
	case ATTN_KERNEL_NLL:
	case ATTN_KERNEL_SOFTMAX:
		return KVS_PART_LOGITS;
	case ATTN_KERNEL_PRODUCT:
	case ATTN_KERNEL_GEMV_F32:
	case ATTN_KERNEL_GEMV_F16:
	case ATTN_KERNEL_GEMV_BF16:
		return KVS_PART_GEMM;
	case ATTN_KERNEL_CHECKSUM:
		return 0;
	default:
		return KVS_PART_ATTENTION;
	}
}

int attn_launch(kvs_stream *s, const struct attn_launch *launch, void **params)
{
	const char *name = s->kernels[launch->kernel].name;
	CUfunction function = s->kernels[launch->kernel].function;
	const unsigned *grid = launch->grid;
	CUresult result;

	if (s->left_out & part_of(launch->kernel))
		return 0;
	if (launch->shared_bytes > s->kernels[launch->kernel].shared_bytes) {
		result = s->cu->cuFuncSetAttribute(
			function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)launch->shared_bytes);
		if (result != CUDA_SUCCESS)
			return kvs_cu_fail(s->cu, result,
				"%s: %zu bytes of shared memory (the device gives a block %d)", name,
				launch->shared_bytes, s->cu->max_shared_bytes);
		s->kernels[launch->kernel].shared_bytes = launch->shared_bytes;
	}
	result = s->cu->cuLaunchKernel(function, grid[0], grid[1], grid[2], launch->threads, 1, 1,
		(unsigned)launch->shared_bytes, s->handle, params, NULL);
	if (result != CUDA_SUCCESS)
		return kvs_cu_fail(s->cu, result, "%s: launch of [%u %u %u] blocks of %u threads", name, grid[0],
			grid[1], grid[2], launch->threads);
	s->bytes_moved += launch->bytes;
	return 0;
}
