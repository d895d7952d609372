/*
 * driver/softcuda/batch.c: batches of copies. They are checked first, all of them, and then made in the order of the list, which is
 * one of those that the documentation allows.
 */
#include "capture.h"
#include "copy.h"

/* "Must not be legacy NULL stream." */
static bool is_legacy(CUstream handle)
{
	return handle == CU_STREAM_LEGACY || (!handle && !sc_is_default_per_thread());
}

static bool order_is_valid(CUmemcpySrcAccessOrder order)
{
	return order == CU_MEMCPY_SRC_ACCESS_ORDER_STREAM || order == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL ||
	       order == CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
}

static bool flags_are_valid(unsigned flags)
{
	return !(flags & ~(unsigned)CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE);
}

/* One of the batch, as a copy; NULL: it is not valid. */
typedef const struct sc_copy *op_fn(const void *list, size_t i, struct sc_copy *copy);

static CUresult batch_submit(
	const char *function, CUstream handle, op_fn *op, const void *list, size_t count, bool waits)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);
	struct sc_stream *stream;
	struct sc_copy copy;
	bool capturing = false;

	if (error)
		return error;
	if (is_legacy(handle))
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < count; i++)
		if (!op(list, i, &copy) || !sc_copy_is_valid(&copy))
			return CUDA_ERROR_INVALID_VALUE;
	stream = sc_stream_get(context, handle);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	for (size_t i = 0; !error && i < count; i++)
		error = sc_copy_submit(function, stream, op(list, i, &copy), true);
	if (!error)
		error = sc_capture_check(stream, &capturing);
	if (!error && waits && !capturing)
		error = sc_stream_synchronize(stream);
	sc_stream_put(stream);
	return error;
}

/* ---- lines ---- */

struct lines {
	CUdeviceptr *to, *from;
	size_t *bytes;
};

static const struct sc_copy *line_of(const void *list, size_t i, struct sc_copy *copy)
{
	const struct lines *lines = list;

	*copy = (struct sc_copy){.to = sc_side_of(lines->to[i], lines->bytes[i]),
		.from = sc_side_of(lines->from[i], lines->bytes[i]),
		.width = lines->bytes[i],
		.height = 1,
		.depth = 1};
	return lines->to[i] && lines->from[i] ? copy : NULL;
}

/* "The first entry in attrsIdxs must always be 0. Also, each entry must be greater than the previous entry and the last entry should be
 * less than count. Furthermore, numAttrs must be lesser than or equal to count." */
static bool attributes_are_valid(
	const CUmemcpyAttributes *attributes, const size_t *from, size_t number, size_t count, bool *waits)
{
	if (!attributes || !from || !number || number > count || from[0])
		return false;
	for (size_t i = 0; i < number; i++) {
		if (from[i] >= count || (i && from[i] <= from[i - 1]) ||
			!order_is_valid(attributes[i].srcAccessOrder) || !flags_are_valid(attributes[i].flags))
			return false;
		*waits |= attributes[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
	}
	return true;
}

CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
	CUmemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, CUstream hStream)
{
	const struct lines lines = {dsts, srcs, sizes};
	bool waits = false, valid = dsts && srcs && sizes && count;

	valid = valid && attributes_are_valid(attrs, attrsIdxs, numAttrs, count, &waits);
	/* A list that is not valid is one with an entry that is not: calls are counted, and contexts looked at, all the same. */
	return batch_submit(__func__, valid ? hStream : CU_STREAM_LEGACY, line_of, &lines, valid ? count : 0, waits);
}

/* ---- boxes ---- */

/* Between pointers an element is a byte; 0: packed as the copy is. */
static bool operand_of(const CUmemcpy3DOperand *operand, const CUextent3D *extent, struct sc_side *side)
{
	size_t row = operand->op.ptr.rowLength ? operand->op.ptr.rowLength : extent->width;
	size_t layer = operand->op.ptr.layerHeight ? operand->op.ptr.layerHeight : extent->height;

	if (operand->type != CU_MEMCPY_OPERAND_TYPE_POINTER || !operand->op.ptr.ptr || row < extent->width ||
		layer < extent->height)
		return false;
	*side = sc_side_of(operand->op.ptr.ptr, row);
	side->slice = row * layer;
	return true;
}

static const struct sc_copy *box_of(const void *list, size_t i, struct sc_copy *copy)
{
	const CUDA_MEMCPY3D_BATCH_OP *op = (const CUDA_MEMCPY3D_BATCH_OP *)list + i;

	*copy = (struct sc_copy){.width = op->extent.width, .height = op->extent.height, .depth = op->extent.depth};
	if (!copy->width || !copy->height || !copy->depth || !order_is_valid(op->srcAccessOrder) ||
		!flags_are_valid(op->flags))
		return NULL;
	return operand_of(&op->dst, &op->extent, &copy->to) && operand_of(&op->src, &op->extent, &copy->from) ? copy
													      : NULL;
}

CUresult CUDAAPI cuMemcpy3DBatchAsync(
	size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags, CUstream hStream)
{
	bool valid = opList && numOps && !flags, waits = false;

	for (size_t i = 0; valid && i < numOps; i++)
		waits |= opList[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
	return batch_submit(__func__, valid ? hStream : CU_STREAM_LEGACY, box_of, opList, valid ? numOps : 0, waits);
}
