/*
 * attn/gemm.c: checks a matrix product and chooses who computes it: gemm_cublas.c, gemm_native.c, gemm_openblas.c or,
 * for one row on a GPU, gemv.cu.
 */
#include "kernels.h"
#include "stream.h"

#include <errno.h>

enum kvs_dtype kvs_gemm_dtype(const kvs_stream *s, enum kvs_dtype stored)
{
	if (s->gemm->takes_any_w)
		return stored;
	return s->gemm->takes_f16 && !kvs_dtype_quantised(stored) ? stored : KVS_F32;
}

enum kvs_dtype kvs_gemm_x_dtype(const kvs_stream *s, enum kvs_dtype w)
{
	return s->gemm->takes_f16 ? w : KVS_F32;
}

static int ceil_div(int a, int b)
{
	return (a + b - 1) / b;
}

/* Whether all rows start at multiples of 16 bytes. */
static bool takes_pieces(kvs_tensor x, kvs_tensor w)
{
	return x.cols * kvs_dtype_bytes(x.dtype) % 16 == 0 && x.data % 16 == 0 && w.data % 16 == 0;
}

static int gemv(kvs_stream *s, kvs_tensor out, kvs_tensor x, kvs_tensor w, bool accumulate)
{
	struct attn_gemv_params params = {.out = (float *)out.data,
		.x = (const void *)x.data,
		.w = (const void *)w.data,
		.n = w.rows,
		.k = w.cols,
		.accumulate = accumulate};
	struct attn_launch launch = {.kernel = ATTN_KERNEL_GEMV_F32 + x.dtype,
		.grid = {ceil_div(w.rows, ATTN_GEMV_THREADS / 32 * ATTN_GEMV_ROWS), 1, 1},
		.threads = ATTN_GEMV_THREADS,
		.bytes = attn_tensor_bytes(x) + attn_tensor_bytes(w) + attn_tensor_bytes(out) * (1 + accumulate)};

	return attn_launch(s, &launch, (void *[]){&params});
}

int kvs_gemv(kvs_stream *s, kvs_tensor out, kvs_tensor x, kvs_tensor w, bool accumulate)
{
	int err = attn_tensor_check("gemv: x", x, ATTN_ANY_FLOAT, 1, 0);

	if (!err)
		err = attn_tensor_check("gemv: w", w, x.dtype, 0, x.cols);
	if (!err)
		err = attn_tensor_check("gemv: out", out, KVS_F32, 1, w.rows);
	if (!err && !takes_pieces(x, w))
		err = kvs_fail(-EINVAL, "gemv: rows of %d %s elements are not multiples of 16 bytes", x.cols,
			kvs_dtype_name(x.dtype));
	return err ? err : gemv(s, out, x, w, accumulate);
}

int kvs_gemm(kvs_stream *s, kvs_tensor out, int out_stride, kvs_tensor x, kvs_tensor w, bool accumulate)
{
	int err = attn_tensor_check("gemm: x", x, ATTN_ANY_FLOAT, 0, 0);

	if (!err)
		err = attn_tensor_check("gemm: w", w, s->gemm->takes_any_w ? ATTN_ANY_WEIGHT : x.dtype, 0, x.cols);
	if (!err)
		err = attn_tensor_check("gemm: out", out, KVS_F32, x.rows, w.rows);
	if (!err && kvs_gemm_x_dtype(s, x.dtype) != x.dtype)
		err = kvs_fail(-EINVAL, "gemm: x is %s, but the host device takes only f32", kvs_dtype_name(x.dtype));
	if (!err && out_stride != 0 && out_stride < out.cols)
		err = kvs_fail(-EINVAL, "gemm: out has %d columns in rows of %d", out.cols, out_stride);
	if (err || s->left_out & KVS_PART_GEMM)
		return err;
	if (x.rows == 1 && s->cu->kind == KVS_DEVICE_CUDA && takes_pieces(x, w)) /* faster in a decode step */
		return gemv(s, out, x, w, accumulate);
	struct attn_gemm_call call = {
		.out = out.data,
		.x = x.data,
		.w = w.data,
		.dtype = w.dtype,
		.tokens = x.rows,
		.n = w.rows,
		.k = x.cols,
		.out_stride = out_stride ? out_stride : out.cols,
		.accumulate = accumulate,
	};
	err = s->gemm->run(s->gemm, s, &call);
	if (!err)
		s->bytes_moved +=
			attn_tensor_bytes(x) + attn_tensor_bytes(w) + attn_tensor_bytes(out) * (1 + accumulate);
	return err;
}
