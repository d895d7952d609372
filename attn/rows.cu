/*
 * attn/rows.cu: the row-by-row steps of a forward pass around GEMM and attention: embedding, RMSNorm, SiLU, bias, cast.
 *
 * Each is bound by memory, and for a single row by the latency of a load, so a thread loads several elements before it
 * stores the first. A row has one block of threads, whose size the launchers choose by the row's length. Threads take
 * every blockDim-th element in turn: the order of sums, and with it their bits, depends on that.
 */
#include "kernels.h"
#include "quant.cuh"

#define TURNS ATTN_ROW_TURNS

/* out[t][c] = table[ids[t]][c] */
KVS_KERNEL(kvs_embed_kernel, float *out, const void *table, const int *ids, int hidden, int table_dtype)
{
	size_t row = blockIdx.x;
	size_t id = ids[row];
	int step = blockDim.x;

	for (int first = threadIdx.x; first < hidden; first += TURNS * step) {
		float value[TURNS];
#pragma unroll
		for (int i = 0, c = first; i < TURNS; i++, c += step)
			value[i] = c < hidden ? load_weight(table, id, c, hidden, table_dtype) : 0.0f;
#pragma unroll
		for (int i = 0, c = first; i < TURNS; i++, c += step) {
			if (c < hidden)
				out[row * hidden + c] = value[i];
		}
	}
}

#define HELD 8 /* elements of x and gain that a thread keeps: all, up to 4096 columns */

/*
 * out[r][c] = x[r][c] / sqrt(mean(x[r]²) + eps) * gain[c]; the gain, which comes from device memory while x is in a
 * cache, is fetched before the sum is known.
 */
KVS_KERNEL(kvs_rmsnorm_kernel, void *out, const float *x, const float *gain, int cols, float eps, int out_dtype)
{
	KVS_SHARED(float, scratch, ATTN_ROW_THREADS_MAX / 32);
	size_t row = (size_t)blockIdx.x * cols;
	float squares = 0, held[HELD], gains[HELD];
	int step = blockDim.x, rest = threadIdx.x + HELD * step;

#pragma unroll
	for (int i = 0, c = threadIdx.x; i < HELD; i++, c += step) {
		held[i] = c < cols ? x[row + c] : 0.0f;
		gains[i] = c < cols ? gain[c] : 0.0f;
	}
#pragma unroll
	for (int i = 0; i < HELD; i++)
		squares += held[i] * held[i];
	for_each_column<HELD>(x + row, rest, cols, [&](int, float value) { squares += value * value; });
	float scale = 1.0f / sqrtf(block_sum(squares, scratch) / cols + eps);
#pragma unroll
	for (int i = 0, c = threadIdx.x; i < HELD; i++, c += step) {
		if (c < cols)
			store_element(out, row + c, out_dtype, held[i] * scale * gains[i]);
	}
	for_each_column<HELD>(x + row, rest, cols,
		[&](int c, float value) { store_element(out, row + c, out_dtype, value * scale * gain[c]); });
}

/* out[t][i] = silu(gate_up[t][i]) * gate_up[t][ff + i]; blocks along y share a row, TURNS elements a thread. */
KVS_KERNEL(kvs_silu_mul_kernel, void *out, const float *gate_up, int ff, int out_dtype)
{
	size_t row = blockIdx.x;
	const float *gates = gate_up + row * 2 * ff, *ups = gates + ff;
	int step = blockDim.x, first = blockIdx.y * TURNS * step + threadIdx.x;
	float gate[TURNS], up[TURNS];

#pragma unroll
	for (int turn = 0, i = first; turn < TURNS; turn++, i += step) {
		gate[turn] = i < ff ? gates[i] : 0.0f;
		up[turn] = i < ff ? ups[i] : 0.0f;
	}
#pragma unroll
	for (int turn = 0, i = first; turn < TURNS; turn++, i += step) {
		if (i < ff)
			store_element(out, row * ff + i, out_dtype,
				__fdividef(gate[turn], 1.0f + expf(-gate[turn])) * up[turn]);
	}
}

/* x[r][c] += row[c] */
KVS_KERNEL(kvs_add_row_kernel, float *x, const float *row, int cols)
{
	float *here = x + (size_t)blockIdx.x * cols;

	for_each_column<TURNS>(row, threadIdx.x, cols, [&](int c, float value) { here[c] += value; });
}

/* out[r][c] = x[r][c] */
KVS_KERNEL(kvs_cast_kernel, void *out, const float *x, int cols, int out_dtype)
{
	size_t row = (size_t)blockIdx.x * cols;

	for_each_column<TURNS>(
		x + row, threadIdx.x, cols, [&](int c, float value) { store_element(out, row + c, out_dtype, value); });
}
