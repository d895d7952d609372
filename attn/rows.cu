/*
 * attn/rows.cu: what a forward pass does row by row around GEMM and attention: embedding, RMSNorm, SiLU, bias.
 *
 * Each is bound by memory. A row has a block of threads; the launchers choose its size by the row's length.
 */
#include "element.cuh"
#include "kernels.h"

/* out[t][c] = table[ids[t]][c] */
KVS_KERNEL(kvs_embed_kernel, float *out, const void *table, const int *ids, int hidden, int table_dtype)
{
	size_t row = blockIdx.x;
	size_t id = ids[row];

	for (int c = threadIdx.x; c < hidden; c += blockDim.x)
		out[row * hidden + c] = load_element(table, id * hidden + c, table_dtype);
}

/* out[r][c] = x[r][c] / sqrt(mean(x[r]²) + eps) * gain[c] */
KVS_KERNEL(kvs_rmsnorm_kernel, void *out, const float *x, const float *gain, int cols, float eps, int out_dtype)
{
	KVS_SHARED(float, scratch, KVS_ROW_THREADS_MAX / 32);
	size_t row = (size_t)blockIdx.x * cols;
	float squares = 0;

	for (int c = threadIdx.x; c < cols; c += blockDim.x)
		squares += x[row + c] * x[row + c];
	float scale = 1.0f / sqrtf(block_sum(squares, scratch) / cols + eps);
	for (int c = threadIdx.x; c < cols; c += blockDim.x)
		store_element(out, row + c, out_dtype, x[row + c] * scale * gain[c]);
}

/* out[t][i] = silu(gate_up[t][i]) * gate_up[t][ff + i]; blocks along y share a row. */
KVS_KERNEL(kvs_silu_mul_kernel, void *out, const float *gate_up, int ff, int out_dtype)
{
	size_t row = blockIdx.x;
	const float *gate = gate_up + row * 2 * ff, *up = gate + ff;

	for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < ff; i += gridDim.y * blockDim.x)
		store_element(out, row * ff + i, out_dtype, gate[i] / (1.0f + expf(-gate[i])) * up[i]);
}

/* x[r][c] += row[c] */
KVS_KERNEL(kvs_add_row_kernel, float *x, const float *row, int cols)
{
	float *here = x + (size_t)blockIdx.x * cols;

	for (int c = threadIdx.x; c < cols; c += blockDim.x)
		here[c] += row[c];
}
