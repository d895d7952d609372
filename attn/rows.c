/* attn/rows.c: launchers of the kernels with one block per row (rows.cu, logits.cu), and of the checksum. */
#include "kernels.h"
#include "stream.h"

#include <errno.h>
#include <math.h>

/* A power of two, as argmax requires: about four elements per thread, at least a warp. */
static unsigned threads_for(int cols, unsigned most)
{
	unsigned threads = 32;

	while (threads < most && threads * 4 < (unsigned)cols)
		threads *= 2;
	return threads;
}

static int launch_rows(kvs_stream *s, enum attn_kernel kernel, int rows, int cols, uint64_t bytes, void **params)
{
	struct attn_launch launch = {.kernel = kernel,
		.grid = {rows, 1, 1},
		.threads = threads_for(cols, ATTN_ROW_THREADS_MAX),
		.bytes = bytes};

	return attn_launch(s, &launch, params);
}

int kvs_embed(kvs_stream *s, kvs_tensor out, kvs_tensor table, kvs_tensor ids)
{
	int err = attn_tensor_check("embed: ids", ids, KVS_I32, 0, 1);

	if (!err)
		err = attn_tensor_check("embed: table", table, ATTN_ANY_WEIGHT, 0, 0);
	if (!err)
		err = attn_tensor_check("embed: out", out, KVS_F32, ids.rows, table.cols);
	if (err)
		return err;
	uint64_t row_bytes = kvs_row_bytes(table.dtype, table.cols);
	return launch_rows(s, ATTN_KERNEL_EMBED, out.rows, out.cols, attn_tensor_bytes(out) + out.rows * row_bytes,
		(void *[]){&out.data, &table.data, &ids.data, &out.cols, &table.dtype});
}

int kvs_rmsnorm(kvs_stream *s, kvs_tensor out, kvs_tensor x, kvs_tensor gain, float eps)
{
	int err = attn_tensor_check("rmsnorm: x", x, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("rmsnorm: gain", gain, KVS_F32, 1, x.cols);
	if (!err)
		err = attn_tensor_check("rmsnorm: out", out, ATTN_ANY_FLOAT, x.rows, x.cols);
	if (err)
		return err;
	return launch_rows(s, ATTN_KERNEL_RMSNORM, x.rows, x.cols,
		attn_tensor_bytes(x) + attn_tensor_bytes(gain) + attn_tensor_bytes(out),
		(void *[]){&out.data, &x.data, &gain.data, &x.cols, &eps, &out.dtype});
}

int kvs_silu_mul(kvs_stream *s, kvs_tensor out, kvs_tensor gate_up)
{
	int err = attn_tensor_check("silu_mul: out", out, ATTN_ANY_FLOAT, 0, 0);

	if (!err)
		err = attn_tensor_check("silu_mul: gate_up", gate_up, KVS_F32, out.rows, 2 * out.cols);
	if (err)
		return err;
	unsigned threads = threads_for(out.cols, ATTN_ROW_THREADS_MAX), per_block = ATTN_ROW_TURNS * threads;
	struct attn_launch launch = {.kernel = ATTN_KERNEL_SILU_MUL,
		.grid = {out.rows, (out.cols + per_block - 1) / per_block, 1},
		.threads = threads,
		.bytes = attn_tensor_bytes(gate_up) + attn_tensor_bytes(out)};
	return attn_launch(s, &launch, (void *[]){&out.data, &gate_up.data, &out.cols, &out.dtype});
}

int kvs_add_row(kvs_stream *s, kvs_tensor x, kvs_tensor row)
{
	int err = attn_tensor_check("add_row: x", x, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("add_row: row", row, KVS_F32, 1, x.cols);
	if (err)
		return err;
	return launch_rows(s, ATTN_KERNEL_ADD_ROW, x.rows, x.cols, 2 * attn_tensor_bytes(x) + attn_tensor_bytes(row),
		(void *[]){&x.data, &row.data, &x.cols});
}

int kvs_cast(kvs_stream *s, kvs_tensor out, kvs_tensor x)
{
	int err = attn_tensor_check("cast: x", x, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("cast: out", out, ATTN_ANY_FLOAT, x.rows, x.cols);
	if (err)
		return err;
	return launch_rows(s, ATTN_KERNEL_CAST, x.rows, x.cols, attn_tensor_bytes(x) + attn_tensor_bytes(out),
		(void *[]){&out.data, &x.data, &x.cols, &out.dtype});
}

int kvs_argmax(kvs_stream *s, kvs_tensor ids, kvs_tensor logits)
{
	int err = attn_tensor_check("argmax: logits", logits, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("argmax: ids", ids, KVS_I32, logits.rows, 1);
	if (err)
		return err;
	struct attn_launch launch = {.kernel = ATTN_KERNEL_ARGMAX,
		.grid = {logits.rows, 1, 1},
		.threads = threads_for(logits.cols, ATTN_ARGMAX_THREADS_MAX),
		.bytes = attn_tensor_bytes(logits) + attn_tensor_bytes(ids)};
	return attn_launch(s, &launch, (void *[]){&ids.data, &logits.data, &logits.cols});
}

int kvs_nll(kvs_stream *s, kvs_tensor nll, kvs_tensor logits, kvs_tensor targets)
{
	int err = attn_tensor_check("nll: logits", logits, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("nll: targets", targets, KVS_I32, logits.rows, 1);
	if (!err)
		err = attn_tensor_check("nll: nll", nll, KVS_F32, logits.rows, 1);
	if (err)
		return err;
	return launch_rows(s, ATTN_KERNEL_NLL, logits.rows, logits.cols,
		attn_tensor_bytes(logits) + attn_tensor_bytes(targets) + attn_tensor_bytes(nll),
		(void *[]){&nll.data, &logits.data, &targets.data, &logits.cols});
}

int kvs_softmax(kvs_stream *s, kvs_tensor probs, kvs_tensor logits, float temperature)
{
	int err = attn_tensor_check("softmax: logits", logits, KVS_F32, 0, 0);

	if (!err)
		err = attn_tensor_check("softmax: probs", probs, KVS_F32, logits.rows, logits.cols);
	float inverse = 1 / temperature;
	if (!err && !(temperature > 0 && isfinite(inverse)))
		err = kvs_fail(-EINVAL, "softmax: temperature is %g, which is not above 0 or too small to divide by",
			temperature);
	if (err)
		return err;
	return launch_rows(s, ATTN_KERNEL_SOFTMAX, logits.rows, logits.cols,
		attn_tensor_bytes(logits) + attn_tensor_bytes(probs),
		(void *[]){&probs.data, &logits.data, &logits.cols, &inverse});
}

int kvs_checksum(kvs_stream *s, kvs_tensor sum, CUdeviceptr data, size_t bytes)
{
	int err = attn_tensor_check("checksum: sum", sum, KVS_I32, 1, 1);

	if (!err && (!data || data % 16 || bytes % 16))
		err = kvs_fail(-EINVAL, "checksum: %zu bytes at %#llx: both must be multiples of 16", bytes, data);
	if (err)
		return err;
	CUresult result = s->cu->cuMemsetD32Async(sum.data, 0, 1, s->handle);
	if (result)
		return kvs_cu_fail(s->cu, result, "checksum: clearing the sum");
	size_t count = bytes / 16;
	struct attn_launch launch = {.kernel = ATTN_KERNEL_CHECKSUM,
		.grid = {8 * s->cu->multiprocessors, 1, 1}, /* all the threads that a multiprocessor holds */
		.threads = 256,
		.bytes = bytes};
	return attn_launch(s, &launch, (void *[]){&sum.data, &data, &count});
}
