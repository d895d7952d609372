/*
 * attn/stream.h: the inside of a kvs_stream: its kernels, launches and GEMM library. Private to attn/.
 */
#ifndef KVS_ATTN_STREAM_H
#define KVS_ATTN_STREAM_H

#include "attn.h"

/* Decode and prefill attention are families of kernels: [type][head_dim]. Decode has two: with FMA and with mma. */
#define ATTN_HEAD_DIMS 6
#define ATTN_KV_DTYPES 3 /* KVS_F32, KVS_F16, KVS_BF16 */

enum attn_kernel {
	ATTN_KERNEL_EMBED,
	ATTN_KERNEL_RMSNORM,
	ATTN_KERNEL_SILU_MUL,
	ATTN_KERNEL_ADD_ROW,
	ATTN_KERNEL_CAST,
	ATTN_KERNEL_ROPE_APPEND,
	ATTN_KERNEL_ARGMAX,
	ATTN_KERNEL_NLL,
	ATTN_KERNEL_SOFTMAX,
	ATTN_KERNEL_CHECKSUM,
	ATTN_KERNEL_PRODUCT,
	ATTN_KERNEL_COMBINE,
	ATTN_KERNEL_GEMV_F32, /* + dtype */
	ATTN_KERNEL_GEMV_F16,
	ATTN_KERNEL_GEMV_BF16,
	ATTN_KERNEL_DECODE, /* + ATTN_HEAD_DIMS * dtype + index of head_dim */
	ATTN_KERNEL_DECODE_MMA = ATTN_KERNEL_DECODE + ATTN_KV_DTYPES * ATTN_HEAD_DIMS, /* without f32 */
	ATTN_KERNEL_PREFILL = ATTN_KERNEL_DECODE_MMA + (ATTN_KV_DTYPES - 1) * ATTN_HEAD_DIMS,
	ATTN_KERNEL_COUNT = ATTN_KERNEL_PREFILL + ATTN_KV_DTYPES * ATTN_HEAD_DIMS,
};

#define ATTN_DECODE_COUNTERS 4096 /* one for each group of heads that share K and V */

struct attn_gemm_call {
	CUdeviceptr out, x, w;
	enum kvs_dtype dtype; /* of x and w */
	int tokens, n, k, out_stride;
	bool accumulate;
};

/* A GEMM library that has been bound to a stream. */
struct attn_gemm_library {
	int (*run)(struct attn_gemm_library *library, kvs_stream *s, const struct attn_gemm_call *call);
	void (*close)(struct attn_gemm_library *library); /* the stream is idle */
	bool takes_f16;                                   /* and bf16; else only f32 */
	bool takes_any_w;                                 /* x is f32, whatever w is */
};

int attn_gemm_open_cublas(kvs_stream *s, struct attn_gemm_library **out);
int attn_gemm_open_openblas(kvs_stream *s, struct attn_gemm_library **out);
/* Our own kernel's native body (gemm_native.c), where this processor can and KVS_HOST_KERNELS does not say simt. */
bool attn_gemm_native_is_wanted(void);
int attn_gemm_open_native(kvs_stream *s, struct attn_gemm_library **out);
/*
 * Have OpenBLAS map the calling thread's work buffer now, by its own `take` and `give`: it keeps the buffer, as its own
 * threads keep theirs, and maps no more later, when it could not handle a failure. -ENOMEM (openblas_room.c).
 */
int attn_openblas_take_buffer(void *(*take)(int), void (*give)(void *));

struct kvs_stream {
	kvs_cu *cu;
	CUstream handle;
	CUmodule module;
	struct attn_gemm_library *gemm;
	uint64_t bytes_moved;
	unsigned left_out; /* enum kvs_part */
	bool decode_mma;
	CUdeviceptr counters; /* u32 [ATTN_DECODE_COUNTERS], 0 between launches */
	bool (*stop)(void);   /* NULL: waits end with the work alone */
	struct {
		CUfunction function;
		char name[40];
		size_t shared_bytes; /* dynamic shared memory that it has opted in to */
	} kernels[ATTN_KERNEL_COUNT];
};

struct attn_launch {
	enum attn_kernel kernel;
	unsigned grid[3];
	unsigned threads;
	size_t shared_bytes; /* dynamic */
	uint64_t bytes;      /* that the kernel must move at least */
};

/*
 * Enqueue; `params` holds a pointer to each argument. -EINVAL (an empty grid is the caller's bug), or the driver's
 * error.
 */
int attn_launch(kvs_stream *s, const struct attn_launch *launch, void **params);

/* The place of this head_dim in a family of kernels; -1 if no kernel has it. */
int attn_head_dim_index(int head_dim);

/*
 * -EINVAL unless `t` has data and the given type and shape; 0 rows or cols: any positive number. `what` names the
 * launcher and the operand: "rmsnorm: gain". ATTN_ANY_FLOAT takes f32, f16 and bf16, ATTN_ANY_WEIGHT quantised types too.
 */
#define ATTN_ANY_FLOAT ((enum kvs_dtype) - 1)
#define ATTN_ANY_WEIGHT ((enum kvs_dtype) - 2)
int attn_tensor_check(const char *what, kvs_tensor t, enum kvs_dtype dtype, int rows, int cols);
uint64_t attn_tensor_bytes(kvs_tensor t);

#endif
