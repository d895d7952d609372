/*
 * driver/softcuda/copy.c: copies and memsets as entries of a stream.
 *
 * Device memory that they touch is checked against the mappings twice: at the call, which is refused if the memory may
 * not be accessed, and when they run: if the memory has been taken away since, the context is lost. The driver's calls
 * are in copy_calls.c.
 */
#include "copy.h"

#include "capture.h"
#include "fault.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct copy_op {
	struct sc_op op;
	struct sc_copy copy;
	void *staged; /* a pageable source, taken at the call */
	bool late;
};

/* Where a copy reads when it runs. */
enum source {
	IN_PLACE, /* the program's memory */
	STAGED,   /* a copy of it, made at the call */
	LATE      /* the same, delivered only when somebody waits for it */
};

/*
 * How long a late copy is held back: for a launch on another stream to run before it, on a machine that is busy. A program
 * that waits, as it should, ends it at once.
 */
#define LATE_NS 1000000000u
#define LATE_STEP_US 20

/* From the first byte of the first row to the last byte of the last. */
static size_t span_of(const struct sc_side *side, const struct sc_copy *copy)
{
	return (copy->depth - 1) * side->slice + (copy->height - 1) * side->pitch + copy->width;
}

static size_t rows_of(const struct sc_copy *copy)
{
	return copy->height * copy->depth;
}

static size_t bytes_of(const struct sc_copy *copy)
{
	return copy->width * rows_of(copy);
}

static uintptr_t row_of(const struct sc_side *side, const struct sc_copy *copy, size_t row)
{
	return side->address + row / copy->height * side->slice + row % copy->height * side->pitch;
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
	bool packed = span_of(side, copy) == bytes_of(copy);
	size_t rows = packed ? 1 : rows_of(copy), width = packed ? bytes_of(copy) : copy->width;

	for (size_t row = 0; side->device && row < rows; row++) {
		if (!sc_space_check(row_of(side, copy, row), width, write, why, bytes))
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
	for (size_t row = 0; row < rows_of(copy); row++) {
		char *to = (char *)row_of(&copy->to, copy, row);

		if (copy->pattern_bytes)
			row_fill(to, copy);
		else
			memmove(to, (const char *)row_of(&copy->from, copy, row), copy->width);
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
	sc_address_explain(guard.address, 0, text, sizeof(text));
	snprintf(why, bytes, "access at %#zx: %s", (size_t)guard.address, text);
	return false;
}

static bool sides_check(const struct sc_copy *copy, char *why, size_t bytes)
{
	return side_check(&copy->to, copy, true, why, bytes) &&
	       (copy->pattern_bytes || side_check(&copy->from, copy, false, why, bytes));
}

static void hold_back(const struct sc_op *op, struct sc_stream *stream)
{
	uint64_t start = sc_now_ns();

	while (!atomic_load(&stream->waiters) && atomic_load(&stream->submitted) == op->ticket &&
		sc_now_ns() - start < LATE_NS)
		usleep(LATE_STEP_US);
}

static void copy_run(struct sc_op *op, struct sc_stream *stream)
{
	const struct sc_copy *copy = &((struct copy_op *)op)->copy;
	char why[256] = "";

	if (((struct copy_op *)op)->late)
		hold_back(op, stream);
	if (sc_context_error(stream->context))
		return;
	if (sides_check(copy, why, sizeof(why)) && rows_move_guarded(copy, why, sizeof(why)))
		return;
	fprintf(stderr, "softcuda: %.*s of %zu bytes in stream %llu: illegal %s\n", sc_base_length(op->what), op->what,
		bytes_of(copy), (unsigned long long)stream->id, why);
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

	op->staged = malloc(bytes_of(copy));
	if (!op->staged)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t row = 0; row < rows_of(copy); row++)
		memcpy((char *)op->staged + row * copy->width, (const char *)row_of(&copy->from, copy, row),
			copy->width);
	copy->from.address = (uintptr_t)op->staged;
	copy->from.pitch = copy->width;
	copy->from.slice = copy->width * copy->height;
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

static struct sc_op *copy_clone(const struct sc_op *op)
{
	struct copy_op *copy = malloc(sizeof(*copy));

	if (!copy)
		return NULL;
	memcpy(copy, op, sizeof(*copy));
	atomic_init(&copy->op.shares, 0);
	return &copy->op;
}

static struct copy_op *op_create(const char *what, const struct sc_copy *copy)
{
	struct copy_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->op.what = what;
	op->op.run = copy_run;
	op->op.release = copy_release;
	op->op.touches = copy_touches;
	op->op.clone = copy_clone;
	op->copy = *copy;
	return op;
}

CUresult sc_copy_op(const char *what, const struct sc_copy *copy, struct sc_op **out)
{
	struct copy_op *op = op_create(what, copy);

	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*out = &op->op;
	return CUDA_SUCCESS;
}

/* Queues the copy; *ticket may be NULL. */
static CUresult op_submit(
	const char *what, struct sc_stream *stream, const struct sc_copy *copy, enum source source, uint64_t *ticket)
{
	struct copy_op *op = op_create(what, copy);
	CUresult error;

	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	/* A free waits for a late copy, so it is no hazard; an unmap is noticed by the check in copy_run(). */
	if (source == LATE)
		op->op.touches = NULL;
	op->late = source == LATE;
	error = source == IN_PLACE ? CUDA_SUCCESS : stage(op);
	if (error) {
		copy_release(&op->op);
		return error;
	}
	return sc_stream_submit(stream, &op->op, ticket);
}

/*
 * "For transfers from pageable host memory to device memory, a stream sync is performed before the copy is initiated. The
 * function will return once the pageable buffer has been copied to the staging memory for DMA transfer to device memory, but
 * the DMA to final destination may not have completed." (API synchronization behavior, Memcpy, Synchronous.)
 */
static CUresult submit_late(const char *what, struct sc_stream *stream, const struct sc_copy *copy)
{
	size_t late = bytes_of(copy) <= SC_STAGE_LIMIT ? copy->width : SC_STAGE_LIMIT;
	struct sc_copy head = *copy, tail = *copy;
	CUresult error = sc_stream_synchronize(stream);
	uint64_t ticket;

	head.width -= late;
	if (!error && head.width) {
		error = op_submit(what, stream, &head, IN_PLACE, &ticket);
		if (!error)
			sc_stream_wait(stream, ticket);
	}
	tail.width = late;
	tail.to.address += head.width;
	tail.from.address += head.width;
	return error ? error : op_submit(what, stream, &tail, LATE, NULL);
}

/* A graph's copy reads and writes its memory when the graph runs, pageable memory too. */
static CUresult capture_copy(const char *what, struct sc_stream *stream, const struct sc_copy *copy)
{
	struct sc_work work = {.type = copy->pattern_bytes ? CU_GRAPH_NODE_TYPE_MEMSET : CU_GRAPH_NODE_TYPE_MEMCPY};
	CUresult error = sc_copy_op(what, copy, &work.op);

	if (error)
		return error;
	if (copy->pattern_bytes)
		sc_memset_describe(copy, &work.params.memset);
	else
		sc_copy_describe(copy, &work.params.memcpy);
	return sc_work_submit(stream, &work, NULL);
}

CUresult sc_copy_submit(const char *what, struct sc_stream *stream, const struct sc_copy *copy, bool asynchronous)
{
	bool small = bytes_of(copy) <= SC_STAGE_LIMIT, uploads, capturing;
	CUresult error = sc_capture_check(stream, &capturing);
	char why[256];
	uint64_t ticket;

	if (!error && !asynchronous)
		error = sc_capture_unsafe();
	if (error || !bytes_of(copy))
		return error;
	if (!sides_check(copy, why, sizeof(why))) {
		fprintf(stderr, "softcuda: %.*s of %zu bytes is refused: %s\n", sc_base_length(what), what,
			bytes_of(copy), why);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (capturing)
		return capture_copy(what, stream, copy);
	uploads = !copy->pattern_bytes && copy->to.device && is_pageable(&copy->from, copy);
	if (uploads && !asynchronous && sc_settings.late_copies && (small || rows_of(copy) == 1))
		return submit_late(what, stream, copy);
	if (uploads && asynchronous && small)
		return op_submit(what, stream, copy, STAGED, NULL);
	error = op_submit(what, stream, copy, IN_PLACE, &ticket);
	if (error || !must_wait(copy, asynchronous))
		return error;
	sc_stream_wait(stream, ticket);
	return sc_context_error(stream->context);
}
