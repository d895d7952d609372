/*
 * tools/preload/batch.c: hooks of batches of copies. One that stores to no borrower is passed on as it is; of another the driver gets a
 * list of our own, in which a copy into a borrower goes to its sink, and one over an edge is several.
 */
#include "preload.h"

#include "split.h"

#include <stdlib.h>

/* Which of the driver's forms: the first ones, of CUDA 12.8, also tell which copy failed. */
struct call {
	CUstream stream;
	size_t *failed; /* NULL, or the program's */
	__typeof__(cuMemcpyBatchAsync_v2) *lines;
	__typeof__(cuMemcpyBatchAsync) *lines_first;
	__typeof__(cuMemcpy3DBatchAsync_v2) *boxes;
	__typeof__(cuMemcpy3DBatchAsync) *boxes_first;
};

/* ---- lines ---- */

struct lines {
	CUdeviceptr *to, *from;
	size_t *bytes, *source; /* source: the program's copy that each is a part of; NULL: they are the program's */
	size_t count;
	CUmemcpyAttributes *attributes;
	size_t *starts, attribute_count;
};

static CUresult lines_make(const struct lines *l, const struct call *call)
{
	return call->lines ? call->lines(l->to, l->from, l->bytes, l->count, l->attributes, l->starts,
				     l->attribute_count, call->stream)
			   : call->lines_first(l->to, l->from, l->bytes, l->count, l->attributes, l->starts,
				     l->attribute_count, call->failed, call->stream);
}

struct parts {
	const struct shim_ranges *ranges; /* as they are at the start: they are walked twice, with the same result */
	struct lines *out;                /* NULL: they are only counted */
	CUdeviceptr from, to;
	size_t source, count;
	bool moved; /* one of them goes elsewhere */
};

/* `arg` is const for whoever makes a copy at once; this one keeps it for later. */
static CUresult part_note(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	struct parts *parts = *(struct parts *const *)arg;

	parts->moved |= to != parts->to + offset;
	if (parts->out) {
		parts->out->to[parts->count] = to;
		parts->out->from[parts->count] = parts->from + offset;
		parts->out->bytes[parts->count] = bytes;
		parts->out->source[parts->count] = parts->source;
	}
	parts->count++;
	return CUDA_SUCCESS;
}

/* The parts of all copies; an empty one stays one, for the driver to judge. */
static void parts_walk(const struct lines *lines, struct parts *parts)
{
	for (size_t i = 0, at = 0; i < lines->count; i++) {
		for (; parts->out && at < lines->attribute_count && lines->starts[at] == i; at++)
			parts->out->starts[at] = parts->count;
		parts->source = i;
		parts->from = lines->from[i];
		parts->to = lines->to[i];
		if (!lines->bytes[i])
			part_note(&parts, lines->to[i], 0, 0);
		else
			shim_split_by(parts->ranges, lines->to[i], lines->bytes[i], part_note, &parts);
	}
}

/* In one piece, at out->to. */
static bool lines_room(struct lines *out, size_t count, size_t attribute_count)
{
	size_t *words = calloc(4 * count + attribute_count, sizeof(*words));

	_Static_assert(sizeof(CUdeviceptr) == sizeof(size_t), "an address is a word");
	if (!words)
		return false;
	out->to = (CUdeviceptr *)words;
	out->from = (CUdeviceptr *)(words + count);
	out->bytes = words + 2 * count;
	out->source = words + 3 * count;
	out->starts = words + 4 * count;
	out->count = count;
	return true;
}

/* The driver refuses what is not a list; only one that is can be looked into. */
static bool lines_can_be_read(const struct lines *l)
{
	if (!l->to || !l->from || !l->bytes || !l->count || !l->attributes || !l->starts || !l->attribute_count ||
		l->attribute_count > l->count || l->starts[0])
		return false;
	for (size_t i = 1; i < l->attribute_count; i++)
		if (l->starts[i] <= l->starts[i - 1] || l->starts[i] >= l->count)
			return false;
	return true;
}

static CUresult lines(struct lines given, struct call call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	struct lines made = given;
	struct parts parts = {.ranges = shim_ranges()};
	CUresult result;

	if (!call.lines && !call.lines_first)
		return SHIM_ABSENT;
	if (parts.ranges && lines_can_be_read(&given))
		parts_walk(&given, &parts);
	if (!parts.moved)
		return shim_fault_check(lines_make(&given, &call), NULL);
	if (!lines_room(&made, parts.count, given.attribute_count))
		return CUDA_ERROR_OUT_OF_MEMORY;
	parts = (struct parts){.ranges = parts.ranges, .out = &made};
	parts_walk(&given, &parts);
	result = lines_make(&made, &call);
	if (result && call.failed && *call.failed < made.count)
		*call.failed = made.source[*call.failed];
	free(made.to);
	return shim_fault_check(result, NULL);
}

CUresult CUDAAPI cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, CUstream hStream)
{
	return lines((struct lines){dsts, srcs, sizes, NULL, count, attrs, attrsIdxs, numAttrs},
		(struct call){.stream = hStream, .lines = shim_real()->cuMemcpyBatchAsync_v2});
}

CUresult CUDAAPI cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, CUstream hStream)
{
	return lines((struct lines){dsts, srcs, sizes, NULL, count, attrs, attrsIdxs, numAttrs},
		(struct call){.stream = hStream, .lines = shim_real()->cuMemcpyBatchAsync_v2_ptsz});
}

CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, size_t *failIdx, CUstream hStream)
{
	return lines((struct lines){dsts, srcs, sizes, NULL, count, attrs, attrsIdxs, numAttrs},
		(struct call){.stream = hStream, .failed = failIdx, .lines_first = shim_real()->cuMemcpyBatchAsync});
}

CUresult CUDAAPI cuMemcpyBatchAsync_ptsz(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, size_t *failIdx, CUstream hStream)
{
	return lines((struct lines){dsts, srcs, sizes, NULL, count, attrs, attrsIdxs, numAttrs},
		(struct call){
			.stream = hStream, .failed = failIdx, .lines_first = shim_real()->cuMemcpyBatchAsync_ptsz});
}

/* ---- boxes ---- */

struct boxes {
	const struct shim_ranges *ranges; /* as they are at the start */
	CUDA_MEMCPY3D_BATCH_OP *op;
	size_t *source; /* of each, the program's */
	size_t count, room;
};

static CUresult boxes_make(CUDA_MEMCPY3D_BATCH_OP *op, size_t count, unsigned long long flags, const struct call *call)
{
	return call->boxes ? call->boxes(count, op, flags, call->stream)
			   : call->boxes_first(count, op, call->failed, flags, call->stream);
}

/* Bytes of an element: 1 between pointers, else what the array says; 0: it does not say. */
static size_t element_bytes(const CUDA_MEMCPY3D_BATCH_OP *op)
{
	static const unsigned char bytes_of[] = {[CU_AD_FORMAT_UNSIGNED_INT8] = 1,
		[CU_AD_FORMAT_SIGNED_INT8] = 1,
		[CU_AD_FORMAT_UNSIGNED_INT16] = 2,
		[CU_AD_FORMAT_SIGNED_INT16] = 2,
		[CU_AD_FORMAT_HALF] = 2,
		[CU_AD_FORMAT_UNSIGNED_INT32] = 4,
		[CU_AD_FORMAT_SIGNED_INT32] = 4,
		[CU_AD_FORMAT_FLOAT] = 4};
	const struct shim_real *driver = shim_real();
	CUDA_ARRAY3D_DESCRIPTOR array;

	if (op->src.type == CU_MEMCPY_OPERAND_TYPE_POINTER)
		return 1;
	if (!driver->cuArray3DGetDescriptor_v2 || driver->cuArray3DGetDescriptor_v2(&array, op->src.op.array.array) ||
		(size_t)array.Format >= sizeof(bytes_of))
		return 0;
	return bytes_of[array.Format] * array.NumChannels;
}

/* A side of a copy of `rows` rows, from the row `at` on. */
static void operand_advance(
	CUmemcpy3DOperand *operand, const CUextent3D *extent, size_t slice, size_t row, size_t element)
{
	size_t length = operand->op.ptr.rowLength ? operand->op.ptr.rowLength : extent->width;
	size_t height = operand->op.ptr.layerHeight ? operand->op.ptr.layerHeight : extent->height;

	if (operand->type == CU_MEMCPY_OPERAND_TYPE_POINTER) {
		operand->op.ptr.ptr += (slice * height + row) * length * element;
	} else {
		operand->op.array.offset.z += slice;
		operand->op.array.offset.y += row;
	}
}

static bool box_add(struct boxes *boxes, const CUDA_MEMCPY3D_BATCH_OP *op, size_t source)
{
	size_t room = boxes->count == boxes->room ? 2 * boxes->room + 16 : boxes->room;
	CUDA_MEMCPY3D_BATCH_OP *grown = boxes->op;
	size_t *sources = boxes->source;

	if (room != boxes->room) {
		grown = realloc(boxes->op, room * sizeof(*grown));
		boxes->op = grown ? grown : boxes->op;
		sources = grown ? realloc(boxes->source, room * sizeof(*sources)) : NULL;
		if (!sources)
			return false;
		boxes->source = sources;
		boxes->room = room;
	}
	boxes->op[boxes->count] = *op;
	boxes->source[boxes->count++] = source;
	return true;
}

/* A row of a copy, as the parts that it has to be made in. */
struct row {
	struct boxes *boxes;
	const CUDA_MEMCPY3D_BATCH_OP *op; /* of that row alone */
	size_t source, element;
};

static CUresult row_part(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct row *row = arg;
	CUDA_MEMCPY3D_BATCH_OP part = *row->op;

	if (offset % row->element || bytes % row->element)
		return CUDA_ERROR_NOT_SUPPORTED; /* an element over two tensors */
	if (part.src.type == CU_MEMCPY_OPERAND_TYPE_POINTER)
		part.src.op.ptr.ptr += offset;
	else
		part.src.op.array.offset.x += offset / row->element;
	part.dst.op.ptr.ptr = to;
	part.extent.width = bytes / row->element;
	return box_add(row->boxes, &part, row->source) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* It lies over an edge: each row on its own. */
static CUresult rows_add(struct boxes *boxes, const CUDA_MEMCPY3D_BATCH_OP *op, size_t source, size_t element)
{
	CUresult result = CUDA_SUCCESS;

	for (size_t i = 0; !result && i < op->extent.height * op->extent.depth; i++) {
		size_t slice = i / op->extent.height, at = i % op->extent.height;
		CUDA_MEMCPY3D_BATCH_OP part = *op;
		const struct row row = {boxes, &part, source, element};

		operand_advance(&part.src, &op->extent, slice, at, element);
		operand_advance(&part.dst, &op->extent, slice, at, element);
		part.extent.height = part.extent.depth = 1;
		result = shim_split_by(boxes->ranges, part.dst.op.ptr.ptr, part.extent.width * element, row_part, &row);
	}
	return result;
}

static CUresult box_place(struct boxes *boxes, const CUDA_MEMCPY3D_BATCH_OP *op, size_t source, bool *moved)
{
	const CUmemcpy3DOperand *to = &op->dst;
	size_t element, row, height, rows;
	CUDA_MEMCPY3D_BATCH_OP part = *op;

	if (to->type != CU_MEMCPY_OPERAND_TYPE_POINTER || !op->extent.width || !op->extent.height ||
		!op->extent.depth || !(element = element_bytes(op)))
		return box_add(boxes, op, source) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	row = (to->op.ptr.rowLength ? to->op.ptr.rowLength : op->extent.width) * element;
	height = to->op.ptr.layerHeight ? to->op.ptr.layerHeight : op->extent.height;
	rows = (op->extent.depth - 1) * height + op->extent.height;
	if (!shim_box_move_by(
		    boxes->ranges, to->op.ptr.ptr, row, op->extent.width * element, rows, &part.dst.op.ptr.ptr)) {
		*moved = true;
		return rows_add(boxes, op, source, element);
	}
	*moved |= part.dst.op.ptr.ptr != to->op.ptr.ptr;
	return box_add(boxes, &part, source) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult boxes(size_t count, CUDA_MEMCPY3D_BATCH_OP *op, unsigned long long flags, struct call call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	struct boxes made = {.ranges = shim_ranges()};
	CUresult result = CUDA_SUCCESS;
	bool moved = false;

	if (!call.boxes && !call.boxes_first)
		return SHIM_ABSENT;
	for (size_t i = 0; made.ranges && op && !result && i < count; i++)
		result = box_place(&made, &op[i], i, &moved);
	if (!result)
		result = moved ? boxes_make(made.op, made.count, flags, &call) : boxes_make(op, count, flags, &call);
	if (result && moved && call.failed && *call.failed < made.count)
		*call.failed = made.source[*call.failed];
	free(made.op);
	free(made.source);
	return shim_fault_check(result, NULL);
}

CUresult CUDAAPI cuMemcpy3DBatchAsync_v2(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags, CUstream hStream)
{
	return boxes(
		numOps, opList, flags, (struct call){.stream = hStream, .boxes = shim_real()->cuMemcpy3DBatchAsync_v2});
}

CUresult CUDAAPI cuMemcpy3DBatchAsync_v2_ptsz(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags, CUstream hStream)
{
	return boxes(numOps, opList, flags,
		(struct call){.stream = hStream, .boxes = shim_real()->cuMemcpy3DBatchAsync_v2_ptsz});
}

CUresult CUDAAPI cuMemcpy3DBatchAsync(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx, unsigned long long flags, CUstream hStream)
{
	return boxes(numOps, opList, flags,
		(struct call){.stream = hStream, .failed = failIdx, .boxes_first = shim_real()->cuMemcpy3DBatchAsync});
}

CUresult CUDAAPI cuMemcpy3DBatchAsync_ptsz(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx, unsigned long long flags, CUstream hStream)
{
	return boxes(numOps, opList, flags,
		(struct call){
			.stream = hStream, .failed = failIdx, .boxes_first = shim_real()->cuMemcpy3DBatchAsync_ptsz});
}
