/*
 * driver/softcuda/copy.c: copies and memsets as entries of a stream.
 *
 * What they touch on the device is checked against the mappings twice: at the call, which a driver refuses where the memory
 * may not be accessed then, and when they run, where memory that was taken away meanwhile loses the context. The calls
 * that name them are in copy_calls.c.
 */
#include "copy.h"

#include "fault.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct copy_op {
	struct sc_op op;
	struct sc_copy copy;
	void *staged; /* a pageable source, taken at the call */
};

/* From the first byte of the first row to the last byte of the last. */
static size_t span_of(const struct sc_side *side, const struct sc_copy *copy)
{
	return (copy->height - 1) * side->pitch + copy->width;
}

static bool side_touches(const struct sc_side *side, const struct sc_copy *copy, uintptr_t base, size_t size)
{
	return side->device && side->address < base + size && base < side->address + span_of(side, copy);
}

static bool copy_touches(const struct sc_op *op, uintptr_t base, size_t size)
{
	const struct sc_copy *copy = &((const struct copy_op *)op)->copy;

	return side_touches(&copy->to, copy, base, size) ||
	       (!copy->pattern_bytes && side_touches(&copy->from, copy, base, size));
}

static bool side_check(const struct sc_side *side, const struct sc_copy *copy, bool write, char *why, size_t bytes)
{
	bool packed = side->pitch == copy->width;
	size_t rows = packed ? 1 : copy->height, width = packed ? copy->width * copy->height : copy->width;

	for (size_t row = 0; side->device && row < rows; row++) {
		if (!sc_space_check(side->address + row * side->pitch, width, write, why, bytes))
			return false;
	}
	return true;
}

static void row_fill(char *to, const struct sc_copy *copy)
{
	if (copy->pattern_bytes == 1) {
		memset(to, (int)copy->pattern, copy->width);
		return;
	}
	for (size_t at = 0; at < copy->width; at += copy->pattern_bytes)
		memcpy(to + at, &copy->pattern, copy->pattern_bytes);
}

static void rows_move(const struct sc_copy *copy)
{
	for (size_t row = 0; row < copy->height; row++) {
		char *to = (char *)copy->to.address + row * copy->to.pitch;

		if (copy->pattern_bytes)
			row_fill(to, copy);
		else
			memmove(to, (const char *)copy->from.address + row * copy->from.pitch, copy->width);
	}
}

/* The check has passed, but memory can still be unmapped under the copy. */
static bool rows_move_guarded(const struct sc_copy *copy, char *why, size_t bytes)
{
	struct sc_guard guard = {.explain = NULL};
	char text[160];

	if (sigsetjmp(guard.back, 0) == 0) {
		sc_guard_set(&guard);
		rows_move(copy);
		sc_guard_clear();
		return true;
	}
	sc_address_explain(guard.address, 0, text, sizeof text);
	snprintf(why, bytes, "access at %#zx: %s", (size_t)guard.address, text);
	return false;
}

static bool sides_check(const struct sc_copy *copy, char *why, size_t bytes)
{
	return side_check(&copy->to, copy, true, why, bytes) &&
	       (copy->pattern_bytes || side_check(&copy->from, copy, false, why, bytes));
}

static void copy_run(struct sc_op *op, struct sc_stream *stream)
{
	const struct sc_copy *copy = &((struct copy_op *)op)->copy;
	char why[256] = "";

	if (sc_context_error(stream->context))
		return;
	if (sides_check(copy, why, sizeof why) && rows_move_guarded(copy, why, sizeof why))
		return;
	fprintf(stderr, "softcuda: %.*s of %zu bytes in stream %llu: illegal %s\n", sc_base_length(op->what), op->what,
		copy->width * copy->height, (unsigned long long)stream->id, why);
	sc_context_lose(stream->context, CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void copy_release(struct sc_op *op)
{
	free(((struct copy_op *)op)->staged);
	free(op);
}

/* Memory of the host that is not page-locked: what an asynchronous copy may not touch once the call is over. */
static bool is_pageable(const struct sc_side *side, const struct sc_copy *copy)
{
	return !side->device && !sc_is_pinned(side->address, span_of(side, copy));
}

static CUresult stage(struct copy_op *op)
{
	struct sc_copy *copy = &op->copy;

	op->staged = malloc(copy->width * copy->height);
	if (!op->staged)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t row = 0; row < copy->height; row++)
		memcpy((char *)op->staged + row * copy->width,
			(const char *)copy->from.address + row * copy->from.pitch, copy->width);
	copy->from.address = (uintptr_t)op->staged;
	copy->from.pitch = copy->width;
	return CUDA_SUCCESS;
}

/* How long the call must wait, as cuda.h's "API synchronization behavior" has it. */
static bool must_wait(const struct sc_copy *copy, bool asynchronous)
{
	bool is_set = copy->pattern_bytes != 0;
	bool pageable = is_pageable(&copy->to, copy) || (!is_set && is_pageable(&copy->from, copy));
	bool all_device = copy->to.device && (is_set || copy->from.device);

	return asynchronous ? pageable : !all_device || sc_is_pinned(copy->to.address, 1);
}

CUresult sc_copy_submit(const char *what, struct sc_stream *stream, const struct sc_copy *copy, bool asynchronous)
{
	bool stageable = asynchronous && !copy->pattern_bytes && copy->to.device && is_pageable(&copy->from, copy) &&
			 copy->width * copy->height <= SC_STAGE_LIMIT;
	char why[256];
	struct copy_op *op;
	uint64_t ticket;
	CUresult error;

	if (!copy->width || !copy->height)
		return CUDA_SUCCESS;
	if (!sides_check(copy, why, sizeof why)) {
		fprintf(stderr, "softcuda: %.*s of %zu bytes is refused: %s\n", sc_base_length(what), what,
			copy->width * copy->height, why);
		return CUDA_ERROR_INVALID_VALUE;
	}
	op = calloc(1, sizeof *op);
	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	op->op.what = what;
	op->op.run = copy_run;
	op->op.release = copy_release;
	op->op.touches = copy_touches;
	op->copy = *copy;
	error = stageable ? stage(op) : CUDA_SUCCESS;
	if (error) {
		copy_release(&op->op);
		return error;
	}
	error = sc_stream_submit(stream, &op->op, &ticket);
	if (error || stageable || !must_wait(copy, asynchronous))
		return error;
	sc_stream_wait(stream, ticket);
	return sc_context_error(stream->context);
}
