/*
 * tools/preload/trial.c: whether a kernel that writes the cache also reads what it writes, for `kvshare-run probe`.
 *
 * The launch is run once more on the same inputs, but with every bit of the written tensors inverted beforehand. If it only
 * stores, each byte of them is then either still inverted, or as after the first run, and all other memory is as after the
 * first run. If that is not so, a third run on the true inputs shows whether the kernel gives the same twice at all.
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)8 << 30) /* of all that the parameters of one launch point to */

/* An allocation that a parameter points into. */
struct buffer {
	CUdeviceptr base;
	size_t bytes;
	unsigned char *before, *after, *again;
};
struct probe_trial {
	size_t count, bytes;
	struct buffer buffer[];
};

static bool is_known(const struct probe_trial *trial, CUdeviceptr address)
{
	for (size_t i = 0; i < trial->count; i++)
		if (address - trial->buffer[i].base < trial->buffer[i].bytes)
			return true;
	return false;
}

static bool buffer_add(struct probe_trial *trial, CUdeviceptr base, size_t bytes)
{
	struct buffer *buffer = &trial->buffer[trial->count];

	trial->bytes += bytes;
	if (trial->bytes > MAX_BYTES)
		return false;
	*buffer = (struct buffer){base, bytes, malloc(bytes), malloc(bytes), malloc(bytes)};
	trial->count++;
	return buffer->before && buffer->after && buffer->again &&
	       !shim_real()->cuMemcpyDtoH_v2(buffer->before, base, bytes);
}

struct probe_trial *probe_trial_begin(const struct probe_words *words)
{
	struct probe_trial *trial = calloc(1, sizeof(*trial) + words->count * sizeof(*trial->buffer));

	for (size_t i = 0; trial && i < words->count; i++) {
		CUdeviceptr base, address = words->word[i].value;
		size_t bytes;

		if (probe_tensor_at(address) || is_known(trial, address) || !probe_memory_at(address, &base, &bytes) ||
			!bytes)
			continue;
		if (!buffer_add(trial, base, bytes)) {
			probe_trial_end(trial);
			return NULL;
		}
	}
	return trial;
}

void probe_trial_end(struct probe_trial *trial)
{
	for (size_t i = 0; trial && i < trial->count; i++) {
		free(trial->buffer[i].before);
		free(trial->buffer[i].after);
		free(trial->buffer[i].again);
	}
	free(trial);
}

/* The tensors that a buffer holds too are looked at as tensors, and put back last. */
static void tensors_hide(const struct buffer *buffer)
{
	size_t count;
	const struct probe_tensor *tensor = probe_tensors(&count);

	for (; count--; tensor++) {
		CUdeviceptr from = tensor->base > buffer->base ? tensor->base : buffer->base;
		CUdeviceptr tensor_end = tensor->base + tensor->bytes, buffer_end = buffer->base + buffer->bytes;
		CUdeviceptr to = tensor_end < buffer_end ? tensor_end : buffer_end;

		if (from < to)
			memcpy(buffer->again + (from - buffer->base), buffer->after + (from - buffer->base), to - from);
	}
}

static bool buffers_read(struct probe_trial *trial, bool again)
{
	for (size_t i = 0; i < trial->count; i++) {
		struct buffer *buffer = &trial->buffer[i];

		if (shim_real()->cuMemcpyDtoH_v2(again ? buffer->again : buffer->after, buffer->base, buffer->bytes))
			return false;
	}
	return true;
}

static bool buffers_put(const struct probe_trial *trial, bool after)
{
	for (size_t i = 0; i < trial->count; i++) {
		const struct buffer *buffer = &trial->buffer[i];

		if (shim_real()->cuMemcpyHtoD_v2(buffer->base, after ? buffer->after : buffer->before, buffer->bytes))
			return false;
	}
	return true;
}

static bool buffers_are_equal(const struct probe_trial *trial)
{
	for (size_t i = 0; i < trial->count; i++) {
		tensors_hide(&trial->buffer[i]);
		if (memcmp(trial->buffer[i].again, trial->buffer[i].after, trial->buffer[i].bytes))
			return false;
	}
	return true;
}

/* What a tensor holds before a run: what it held, or that inverted; or what it holds after the first one. */
enum content { BEFORE, INVERTED, NOW };

static bool tensor_put(const struct probe_tensor *tensor, enum content content)
{
	bool done;

	for (size_t i = 0; content == INVERTED && i < tensor->bytes; i++)
		tensor->before[i] = (unsigned char)~tensor->before[i];
	done = !shim_real()->cuMemcpyHtoD_v2(
		tensor->base, content == NOW ? tensor->now : tensor->before, tensor->bytes);
	for (size_t i = 0; content == INVERTED && i < tensor->bytes; i++)
		tensor->before[i] = (unsigned char)~tensor->before[i];
	return done;
}

/* All tensors: one that a buffer holds was put back with it, as it was then. */
static bool tensors_put(enum content content)
{
	size_t count;
	const struct probe_tensor *tensor = probe_tensors(&count);
	bool done = true;

	for (; done && count--; tensor++)
		done = tensor->absent || tensor_put(tensor, tensor->written ? content : NOW);
	return done;
}

/* Each byte is the inverse of what was there, where the kernel has not stored; else what the first run stored. */
static bool tensor_is_equal(const struct probe_tensor *tensor, unsigned char *read, bool inverted)
{
	if (shim_real()->cuMemcpyDtoH_v2(read, tensor->base, tensor->bytes))
		return false;
	if (!inverted)
		return !memcmp(read, tensor->now, tensor->bytes);
	for (size_t i = 0; i < tensor->bytes; i++)
		if (read[i] != tensor->now[i] && read[i] != (unsigned char)~tensor->before[i])
			return false;
	return true;
}

static bool tensors_are_equal(bool inverted)
{
	size_t count;
	const struct probe_tensor *tensor = probe_tensors(&count);
	bool equal = true;

	for (; equal && count--; tensor++) {
		unsigned char *read = tensor->written ? malloc(tensor->bytes) : NULL;

		if (tensor->written)
			equal = read && tensor_is_equal(tensor, read, inverted);
		free(read);
	}
	return equal;
}

/* One more run from the state before the first; true: it came to the same. */
static bool run_again(struct probe_trial *trial, bool inverted, shim_start_fn *start, void *arg)
{
	if (!buffers_put(trial, false) || !tensors_put(inverted ? INVERTED : BEFORE))
		return false;
	if (start(arg) || shim_real()->cuCtxSynchronize() || !buffers_read(trial, true))
		return false;
	return tensors_are_equal(inverted) && buffers_are_equal(trial);
}

enum probe_reads probe_trial_run(struct probe_trial *trial, shim_start_fn *start, void *arg)
{
	enum probe_reads reads = PROBE_WRITES_ONLY;

	if (!buffers_read(trial, false))
		return PROBE_UNREPEATABLE;
	if (!run_again(trial, true, start, arg))
		reads = run_again(trial, false, start, arg) ? PROBE_READS_TOO : PROBE_UNREPEATABLE;
	buffers_put(trial, true);
	tensors_put(NOW);
	return reads;
}
