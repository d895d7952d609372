/*
 * tools/preload/memop.c: hooks of words that a stream or a node of a graph stores. One in a borrower goes to the sink, as all
 * that is stored there; a wait for one sees the owner's.
 */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

static CUdeviceptr place_of(const struct shim_ranges *ranges, CUdeviceptr address)
{
	const struct shim_range *range = ranges ? shim_range_find(ranges, address) : NULL;

	return range && range->sink ? range->sink + (address - range->base) : address;
}

static CUresult write_32(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags,
	__typeof__(cuStreamWriteValue32_v2) *plain)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WORDS);

	return plain ? shim_fault_check(plain(stream, place_of(shim_ranges(), address), value, flags), NULL)
		     : SHIM_ABSENT;
}

static CUresult write_64(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags,
	__typeof__(cuStreamWriteValue64_v2) *plain)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WORDS);

	return plain ? shim_fault_check(plain(stream, place_of(shim_ranges(), address), value, flags), NULL)
		     : SHIM_ABSENT;
}

/* The operation is a store. */
static bool is_store(const CUstreamBatchMemOpParams *op)
{
	return op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 || op->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
}

/* A copy of the list, to be freed; NULL: no memory. The program's is left as it is. */
static CUstreamBatchMemOpParams *list_redirect(
	const struct shim_ranges *ranges, const CUstreamBatchMemOpParams *ops, unsigned count)
{
	CUstreamBatchMemOpParams *moved = malloc(count * sizeof(*moved));

	if (moved)
		memcpy(moved, ops, count * sizeof(*moved));
	for (unsigned i = 0; moved && i < count; i++)
		if (is_store(&moved[i]))
			moved[i].writeValue.address = place_of(ranges, moved[i].writeValue.address);
	return moved;
}

static CUresult batch(CUstream stream, unsigned count, CUstreamBatchMemOpParams *ops, unsigned flags,
	__typeof__(cuStreamBatchMemOp_v2) *plain)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_WORDS);
	const struct shim_ranges *ranges = shim_ranges();
	CUstreamBatchMemOpParams *moved;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	if (!ranges || !count || !ops)
		return shim_fault_check(plain(stream, count, ops, flags), NULL);
	moved = list_redirect(ranges, ops, count);
	if (!moved)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = plain(stream, count, moved, flags);
	free(moved);
	return shim_fault_check(result, NULL);
}

#define HOOKS(form)                                                                                                    \
	CUresult CUDAAPI cuStreamWriteValue32##form(                                                                   \
		CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)                               \
	{                                                                                                              \
		return write_32(stream, addr, value, flags, shim_real()->cuStreamWriteValue32##form);                  \
	}                                                                                                              \
	CUresult CUDAAPI cuStreamWriteValue64##form(                                                                   \
		CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)                               \
	{                                                                                                              \
		return write_64(stream, addr, value, flags, shim_real()->cuStreamWriteValue64##form);                  \
	}                                                                                                              \
	CUresult CUDAAPI cuStreamBatchMemOp##form(                                                                     \
		CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags)         \
	{                                                                                                              \
		return batch(stream, count, paramArray, flags, shim_real()->cuStreamBatchMemOp##form);                 \
	}
HOOKS()
HOOKS(_ptsz)
HOOKS(_v2)
HOOKS(_v2_ptsz)

/* ---- nodes ---- */

CUresult shim_words_begin(CUDA_BATCH_MEM_OP_NODE_PARAMS *node, CUstreamBatchMemOpParams **moved)
{
	const struct shim_ranges *ranges = shim_ranges();

	*moved = NULL;
	if (!ranges || !node->count || !node->paramArray)
		return CUDA_SUCCESS;
	*moved = list_redirect(ranges, node->paramArray, node->count);
	node->paramArray = *moved;
	return *moved ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphAddBatchMemOpNode) *plain = shim_real()->cuGraphAddBatchMemOpNode;
	CUDA_BATCH_MEM_OP_NODE_PARAMS node;
	CUstreamBatchMemOpParams *moved;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(phGraphNode, hGraph, dependencies, numDependencies, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = shim_words_begin(&node, &moved);
	if (!result)
		result = plain(phGraphNode, hGraph, dependencies, numDependencies, &node);
	free(moved);
	return result;
}

CUresult CUDAAPI cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphBatchMemOpNodeSetParams) *plain = shim_real()->cuGraphBatchMemOpNodeSetParams;
	CUDA_BATCH_MEM_OP_NODE_PARAMS node;
	CUstreamBatchMemOpParams *moved;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = shim_words_begin(&node, &moved);
	if (!result)
		result = plain(hNode, &node);
	free(moved);
	return result;
}

CUresult CUDAAPI cuGraphExecBatchMemOpNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecBatchMemOpNodeSetParams) *plain = shim_real()->cuGraphExecBatchMemOpNodeSetParams;
	CUDA_BATCH_MEM_OP_NODE_PARAMS node;
	CUstreamBatchMemOpParams *moved;
	CUresult result;

	if (!plain || !nodeParams)
		return plain ? plain(hGraphExec, hNode, nodeParams) : SHIM_ABSENT;
	node = *nodeParams;
	result = shim_words_begin(&node, &moved);
	if (!result)
		result = plain(hGraphExec, hNode, &node);
	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, &node);
	free(moved);
	return result;
}
