/*
 * driver/softcuda/memop.c: words of memory that a stream writes, or waits for. A wait ends when the word has its value or the
 * context is lost; until then the stream stands, as on a GPU. A batch of them can be a node of a graph.
 */
#include "capture.h"
#include "fault.h"
#include "graph.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static CUresult memop_check(const struct memop *what)
{
	unsigned allowed = what->writes ? CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER
					: CU_STREAM_WAIT_VALUE_NOR | CU_STREAM_WAIT_VALUE_FLUSH;

	if (what->condition & ~allowed)
		return CUDA_ERROR_INVALID_VALUE;
	if (!what->writes && what->condition & CU_STREAM_WAIT_VALUE_FLUSH) /* there is nobody remote */
		return CUDA_ERROR_NOT_SUPPORTED;
	return CUDA_SUCCESS;
}

static CUresult place_check(const struct memop *what)
{
	char why[256];

	return what->address % bytes_of(what) || !sc_is_known(what->address) ||
			       !sc_space_check(what->address, bytes_of(what), what->writes, why, sizeof(why))
		       ? CUDA_ERROR_INVALID_VALUE
		       : CUDA_SUCCESS;
}

static CUresult memop_submit(struct sc_stream *stream, const struct memop *what)
{
	CUresult error = place_check(what);
	struct memop *memop = error ? NULL : malloc(sizeof(*memop));

	if (!memop)
		return error ? error : CUDA_ERROR_OUT_OF_MEMORY;
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
	memop.op.what = call;
	memop.condition = flags;
	error = memop_check(&memop);
	if (error)
		return error;
	stream = sc_stream_get(context, handle);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_refuse(stream); /* no node is made of it */
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

/* One of a batch; false: a barrier, as what a stream does, it does in order. */
static CUresult memop_of(const CUstreamBatchMemOpParams *op, struct memop *out, bool *is_any)
{
	*out = (struct memop){
		.condition = op->writeValue.flags, .address = op->writeValue.address, .value = op->writeValue.value64};
	*is_any = op->operation != CU_STREAM_MEM_OP_BARRIER;
	switch (op->operation) {
	case CU_STREAM_MEM_OP_WRITE_VALUE_32:
	case CU_STREAM_MEM_OP_WRITE_VALUE_64:
		out->writes = true;
		out->wide = op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
		return CUDA_SUCCESS;
	case CU_STREAM_MEM_OP_WAIT_VALUE_32:
	case CU_STREAM_MEM_OP_WAIT_VALUE_64:
		out->wide = op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
		out->condition = op->waitValue.flags;
		return CUDA_SUCCESS;
	case CU_STREAM_MEM_OP_BARRIER:
		return CUDA_SUCCESS;
	default:
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}

static CUresult batch_op(const char *call, CUstream stream, const CUstreamBatchMemOpParams *op)
{
	struct memop what;
	bool is_any;
	CUresult error = memop_of(op, &what, &is_any);

	return error || !is_any ? error : memop_call(call, stream, &what, what.condition);
}

CUresult CUDAAPI cuStreamBatchMemOp(
	CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
	CUresult error = count && paramArray && !flags ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;

	for (unsigned i = 0; !error && i < count; i++)
		error = batch_op(__func__, stream, &paramArray[i]);
	return error;
}

/* ---- a batch as a node of a graph ---- */

struct words {
	struct sc_op op;
	CUDA_BATCH_MEM_OP_NODE_PARAMS params;
	CUstreamBatchMemOpParams list[];
};

static void words_run(struct sc_op *op, struct sc_stream *stream)
{
	const struct words *words = (const struct words *)op;

	for (unsigned i = 0; i < words->params.count; i++) {
		struct memop one;
		bool is_any;

		if (memop_of(&words->list[i], &one, &is_any) || !is_any)
			continue;
		one.op.what = op->what;
		memop_run(&one.op, stream);
	}
}

static bool words_touch(const struct sc_op *op, uintptr_t base, size_t size)
{
	const struct words *words = (const struct words *)op;
	bool touches = false;

	for (unsigned i = 0; i < words->params.count; i++) {
		struct memop one;
		bool is_any;

		if (!memop_of(&words->list[i], &one, &is_any) && is_any)
			touches |= memop_touches(&one.op, base, size);
	}
	return touches;
}

static struct sc_op *words_clone(const struct sc_op *op);

static struct words *words_new(const CUDA_BATCH_MEM_OP_NODE_PARAMS *params)
{
	struct words *words = calloc(1, sizeof(*words) + params->count * sizeof(*words->list));

	if (!words)
		return NULL;
	words->op.what = "a node of words";
	words->op.run = words_run;
	words->op.touches = words_touch;
	words->op.clone = words_clone;
	words->params = *params;
	words->params.paramArray = words->list;
	memcpy(words->list, params->paramArray, params->count * sizeof(*words->list));
	return words;
}

static struct sc_op *words_clone(const struct sc_op *op)
{
	struct words *words = words_new(&((const struct words *)op)->params);

	return words ? &words->op : NULL;
}

/* "When the node is added, the paramArray inside nodeParams is copied" */
CUresult sc_words_op(const CUDA_BATCH_MEM_OP_NODE_PARAMS *params, struct sc_op **out)
{
	CUresult error = params && params->count && params->paramArray && !params->flags ? CUDA_SUCCESS
											 : CUDA_ERROR_INVALID_VALUE;
	struct words *words;

	for (unsigned i = 0; !error && i < params->count; i++) {
		struct memop one;
		bool is_any;

		error = memop_of(&params->paramArray[i], &one, &is_any);
		if (!error && is_any)
			error = memop_check(&one);
		if (!error && is_any)
			error = place_check(&one);
	}
	if (error)
		return error;
	words = words_new(params);
	*out = words ? &words->op : NULL;
	return words ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

const CUDA_BATCH_MEM_OP_NODE_PARAMS *sc_words_params(const struct sc_op *op)
{
	return &((const struct words *)op)->params;
}

bool sc_words_are_alike(const struct sc_op *a, const struct sc_op *b)
{
	const struct words *one = (const struct words *)a, *other = (const struct words *)b;
	bool alike = one->params.count == other->params.count;

	for (unsigned i = 0; alike && i < one->params.count; i++)
		alike = one->list[i].operation == other->list[i].operation;
	return alike;
}
