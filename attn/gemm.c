/* attn/gemm.c: checks of a matrix product; the libraries are in gemm_cublas.c and gemm_openblas.c. */
#include "stream.h"

#include <errno.h>

enum kvs_dtype kvs_gemm_dtype(const kvs_stream *s, enum kvs_dtype stored)
{
	return s->gemm->takes_f16 ? stored : KVS_F32;
}

int kvs_gemm(kvs_stream *s, kvs_tensor out, int out_stride, kvs_tensor x, kvs_tensor w, bool accumulate)
{
	int err = kvs_tensor_check("gemm: x", x, KVS_ANY_FLOAT, 0, 0);

	if (!err)
		err = kvs_tensor_check("gemm: w", w, x.dtype, 0, x.cols);
	if (!err)
		err = kvs_tensor_check("gemm: out", out, KVS_F32, x.rows, w.rows);
	if (!err && kvs_gemm_dtype(s, x.dtype) != x.dtype)
		err = kvs_fail(-EINVAL, "gemm: x and w are %s, but OpenBLAS takes f32 alone", kvs_dtype_name(x.dtype));
	if (!err && out_stride != 0 && out_stride < out.cols)
		err = kvs_fail(-EINVAL, "gemm: out has %d columns in rows of %d", out.cols, out_stride);
	if (err || s->left_out & KVS_PART_GEMM)
		return err;
	struct kvs_gemm_call call = {
		.out = out.data,
		.x = x.data,
		.w = w.data,
		.dtype = x.dtype,
		.tokens = x.rows,
		.n = w.rows,
		.k = x.cols,
		.out_stride = out_stride ? out_stride : out.cols,
		.accumulate = accumulate,
	};
	err = s->gemm->run(s->gemm, s, &call);
	if (!err)
		s->bytes_moved += kvs_tensor_bytes(x) + kvs_tensor_bytes(w) + kvs_tensor_bytes(out) * (1 + accumulate);
	return err;
}
