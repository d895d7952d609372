/*
 * driver/softcuda/memop.c: words of memory that a stream writes, or waits for. A wait ends when the word has its value or the
 * context is lost; until then the stream stands, as on a GPU.
 */
#include "capture.h"
#include "fault.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_US 20 /* between two looks at a word that is waited for */

struct memop {
	struct sc_op op;
	bool writes, wide; /* wide: 64 bits */
	unsigned condition;
	uintptr_t address;
	uint64_t value;
};

static size_t bytes_of(const struct memop *memop)
{
	return memop->wide ? 8 : 4;
}

static bool memop_touches(const struct sc_op *op, uintptr_t base, size_t size)
{
	const struct memop *memop = (const struct memop *)op;

	return memop->address < base + size && base < memop->address + bytes_of(memop);
}

static uint64_t word_load(const struct memop *memop)
{
	return memop->wide ? __atomic_load_n((const uint64_t *)memop->address, __ATOMIC_ACQUIRE)
			   : __atomic_load_n((const uint32_t *)memop->address, __ATOMIC_ACQUIRE);
}

/* As CUstreamWaitValue_flags has it; "a cyclic comparison which ignores wraparound". */
static bool is_met(const struct memop *memop, uint64_t word)
{
	uint64_t value = memop->value, mask = memop->wide ? UINT64_MAX : UINT32_MAX;

	switch (memop->condition) {
	case CU_STREAM_WAIT_VALUE_EQ:
		return word == (value & mask);
	case CU_STREAM_WAIT_VALUE_AND:
		return (word & value) != 0;
	case CU_STREAM_WAIT_VALUE_NOR:
		return (~(word | value) & mask) != 0;
	default:
		return memop->wide ? (int64_t)(word - value) >= 0 : (int32_t)((uint32_t)word - (uint32_t)value) >= 0;
	}
}

/* One access, which can fault if the memory was taken away; *met: no more is to be done. */
static bool word_access(const struct memop *memop, bool *met)
{
	struct sc_guard guard = {.explain = NULL};

	if (sigsetjmp(guard.back, 0))
		return false;
	sc_guard_set(&guard);
	if (!memop->writes)
		*met = is_met(memop, word_load(memop));
	else if (memop->wide)
		__atomic_store_n((uint64_t *)memop->address, memop->value, __ATOMIC_RELEASE);
	else
		__atomic_store_n((uint32_t *)memop->address, (uint32_t)memop->value, __ATOMIC_RELEASE);
	sc_guard_clear();
	return true;
}

static void memop_run(struct sc_op *op, struct sc_stream *stream)
{
	const struct memop *memop = (const struct memop *)op;
	bool met = memop->writes;
	char why[256] = "";

	do {
		if (sc_context_error(stream->context))
			return;
		if (!sc_space_check(memop->address, bytes_of(memop), memop->writes, why, sizeof(why)) ||
			!word_access(memop, &met)) {
			fprintf(stderr, "softcuda: %.*s in stream %llu: illegal %s\n", sc_base_length(op->what),
				op->what, (unsigned long long)stream->id, why);
			sc_context_lose(stream->context, CUDA_ERROR_ILLEGAL_ADDRESS);
			return;
		}
		if (!met)
			usleep(LOOK_US);
	} while (!met);
}

static CUresult memop_submit(struct sc_stream *stream, const struct memop *what)
{
	struct memop *memop;
	char why[256];

	if (what->address % bytes_of(what) || !sc_is_known(what->address) ||
		!sc_space_check(what->address, bytes_of(what), what->writes, why, sizeof(why)))
		return CUDA_ERROR_INVALID_VALUE;
	memop = malloc(sizeof(*memop));
	if (!memop)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*memop = *what;
	memop->op.run = memop_run;
	memop->op.touches = memop_touches;
	return sc_stream_submit(stream, &memop->op, NULL);
}

static CUresult memop_call(const char *call, CUstream handle, const struct memop *what, unsigned flags)
{
	struct memop memop = *what;
	struct sc_context *context;
	struct sc_stream *stream;
	CUresult error = sc_enter_context(call, &context);

	if (error)
		return error;
	if (what->writes ? flags & ~(unsigned)CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER
			 : flags & ~(unsigned)(CU_STREAM_WAIT_VALUE_NOR | CU_STREAM_WAIT_VALUE_FLUSH))
		return CUDA_ERROR_INVALID_VALUE;
	if (!what->writes && flags & CU_STREAM_WAIT_VALUE_FLUSH) /* there is nobody remote */
		return CUDA_ERROR_NOT_SUPPORTED;
	stream = sc_stream_get(context, handle);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	memop.op.what = call;
	memop.condition = flags;
	error = sc_capture_refuse(stream); /* there are no nodes for it */
	if (!error)
		error = memop_submit(stream, &memop);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
	const struct memop what = {.writes = true, .address = addr, .value = value};

	return memop_call(__func__, stream, &what, flags);
}

CUresult CUDAAPI cuStreamWriteValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
	const struct memop what = {.writes = true, .wide = true, .address = addr, .value = value};

	return memop_call(__func__, stream, &what, flags);
}

CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
	const struct memop what = {.address = addr, .value = value};

	return memop_call(__func__, stream, &what, flags);
}

CUresult CUDAAPI cuStreamWaitValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
	const struct memop what = {.wide = true, .address = addr, .value = value};

	return memop_call(__func__, stream, &what, flags);
}

/* One of a batch. */
static CUresult batch_op(const char *call, CUstream stream, const CUstreamBatchMemOpParams *op)
{
	struct memop what = {.address = op->writeValue.address, .value = op->writeValue.value64};

	switch (op->operation) {
	case CU_STREAM_MEM_OP_WRITE_VALUE_32:
	case CU_STREAM_MEM_OP_WRITE_VALUE_64:
		what.writes = true;
		what.wide = op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
		return memop_call(call, stream, &what, op->writeValue.flags);
	case CU_STREAM_MEM_OP_WAIT_VALUE_32:
	case CU_STREAM_MEM_OP_WAIT_VALUE_64:
		what.wide = op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
		return memop_call(call, stream, &what, op->waitValue.flags);
	case CU_STREAM_MEM_OP_BARRIER: /* what a stream does, it does in order */
		return CUDA_SUCCESS;
	default:
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}

CUresult CUDAAPI cuStreamBatchMemOp(
	CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
	CUresult error = count && paramArray && !flags ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;

	for (unsigned i = 0; !error && i < count; i++)
		error = batch_op(__func__, stream, &paramArray[i]);
	return error;
}
