/*
 * attn/logits.cu: reductions of rows of logits: the index of the largest, the loss of a target, the probabilities.
 *
 * One block per row. Sums of exponentials are taken relative to the row's maximum and in a fixed order.
 */
#include "element.cuh"
#include "kernels.h"

/* Is (value, index) ahead of (best, best_index)? Of equal values the first index wins. */
__device__ inline bool is_ahead(float value, int index, float best, int best_index)
{
	return value > best || (value == best && index < best_index);
}

/* ids[r] = the first index of the largest logit, or -1 if that is infinite or one of the logits is NaN. */
KVS_KERNEL(kvs_argmax_kernel, int *ids, const float *__restrict__ logits, int vocab)
{
	KVS_SHARED(float, values, ATTN_ARGMAX_THREADS_MAX);
	KVS_SHARED(int, indices, ATTN_ARGMAX_THREADS_MAX);
	const float *row = logits + (size_t)blockIdx.x * vocab;
	float best = -INFINITY;
	int best_index = 0;

	for_each_column<16>(row, threadIdx.x, vocab, [&](int c, float logit) {
		float value = logit == logit ? logit : INFINITY; /* so that a NaN is seen at the end */
		if (value > best) {
			best = value;
			best_index = c;
		}
	});
	values[threadIdx.x] = best;
	indices[threadIdx.x] = best_index;
	for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
		__syncthreads();
		if (threadIdx.x >= half)
			continue;
		float other = values[threadIdx.x + half];
		int other_index = indices[threadIdx.x + half];
		if (is_ahead(other, other_index, values[threadIdx.x], indices[threadIdx.x])) {
			values[threadIdx.x] = other;
			indices[threadIdx.x] = other_index;
		}
	}
	if (threadIdx.x == 0)
		ids[blockIdx.x] = fabsf(values[0]) < INFINITY ? indices[0] : -1;
}

__device__ inline float row_max(const float *row, int cols, float *scratch)
{
	float largest = -INFINITY;

	for_each_column<8>(row, threadIdx.x, cols, [&](int, float value) { largest = fmaxf(largest, value); });
	return block_max(largest, scratch);
}

/* nll[r] = log(sum(exp(logits[r]))) - logits[r][targets[r]] */
KVS_KERNEL(kvs_nll_kernel, float *nll, const float *logits, const int *targets, int vocab)
{
	KVS_SHARED(float, scratch, ATTN_ROW_THREADS_MAX / 32);
	const float *row = logits + (size_t)blockIdx.x * vocab;
	float largest = row_max(row, vocab, scratch);
	float sum = 0;

	for_each_column<8>(row, threadIdx.x, vocab, [&](int, float value) { sum += expf(value - largest); });
	sum = block_sum(sum, scratch);
	if (threadIdx.x == 0)
		nll[blockIdx.x] = logf(sum) + (largest - row[targets[blockIdx.x]]);
}

/*
 * probs[r] = softmax(logits[r] * inverse_temperature); each element is read and written by one thread, so in place is
 * fine.
 */
KVS_KERNEL(kvs_softmax_kernel, float *probs, const float *logits, int vocab, float inverse_temperature)
{
	KVS_SHARED(float, scratch, ATTN_ROW_THREADS_MAX / 32);
	const float *row = logits + (size_t)blockIdx.x * vocab;
	float *out = probs + (size_t)blockIdx.x * vocab;
	float largest = row_max(row, vocab, scratch);
	float sum = 0;

	for_each_column<8>(row, threadIdx.x, vocab,
		[&](int, float value) { sum += expf((value - largest) * inverse_temperature); });
	float scale = 1.0f / block_sum(sum, scratch);
	for (int c = threadIdx.x; c < vocab; c += blockDim.x)
		out[c] = expf((row[c] - largest) * inverse_temperature) * scale;
}
