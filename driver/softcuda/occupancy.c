/*
 * driver/softcuda/occupancy.c: how many blocks of a kernel a multiprocessor holds: by threads, blocks and shared memory, as
 * registers are no limit here.
 */
#include "device.h"
#include "module.h"

unsigned sc_blocks_per_multiprocessor(const struct sc_function *function, size_t threads, size_t dynamic_bytes)
{
	size_t shared = function->kernel->static_shared_bytes + dynamic_bytes;
	size_t blocks = SC_THREADS_MULTIPROCESSOR / ((threads + 31) / 32 * 32);

	if (blocks > SC_BLOCKS_MULTIPROCESSOR)
		blocks = SC_BLOCKS_MULTIPROCESSOR;
	if (shared && SC_SHARED_MULTIPROCESSOR / (shared + SC_SHARED_RESERVED) < blocks)
		blocks = SC_SHARED_MULTIPROCESSOR / (shared + SC_SHARED_RESERVED);
	return (unsigned)blocks;
}

static CUresult active_blocks(const char *call, int *blocks, CUfunction handle, int threads, size_t dynamic_bytes)
{
	struct sc_function function;
	CUresult error = sc_function_enter(call, handle, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!blocks || threads <= 0 || threads > SC_MAX_THREADS || dynamic_bytes > SC_SHARED_OPTIN)
		return CUDA_ERROR_INVALID_VALUE;
	*blocks = (int)sc_blocks_per_multiprocessor(&function, (size_t)threads, dynamic_bytes);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(
	int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize)
{
	return active_blocks(__func__, numBlocks, func, blockSize, dynamicSMemSize);
}

/* The one flag speaks of a cache that is not here. */
CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
	int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize, unsigned int flags)
{
	CUresult error = active_blocks(__func__, numBlocks, func, blockSize, dynamicSMemSize);

	return !error && flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE ? CUDA_ERROR_INVALID_VALUE : error;
}

/* The largest block of those that keep most threads on a multiprocessor; its shared memory may depend on its size. */
static void best_block(const struct sc_function *function, CUoccupancyB2DSize shared_of, size_t shared, int limit,
	int *blocks, int *threads)
{
	size_t most = 0;

	*blocks = *threads = 0;
	for (int size = limit; size > 0; size = (size - 1) / 32 * 32) {
		size_t bytes = shared_of ? shared_of(size) : shared;
		size_t held = bytes > SC_SHARED_OPTIN
				      ? 0
				      : sc_blocks_per_multiprocessor(function, (size_t)size, bytes) * (size_t)size;

		if (held > most) {
			most = held;
			*threads = size;
			*blocks = (int)(held / (size_t)size);
		}
	}
}

static CUresult block_size(const char *call, int *grid, int *block, CUfunction handle, CUoccupancyB2DSize shared_of,
	size_t shared, int limit)
{
	struct sc_function function;
	CUresult error = sc_function_enter(call, handle, &function);
	int blocks;

	if (error)
		return error;
	if (grid && block && limit >= 0) {
		best_block(&function, shared_of, shared, limit && limit < SC_MAX_THREADS ? limit : SC_MAX_THREADS,
			&blocks, block);
		*grid = blocks * SC_MULTIPROCESSORS;
	} else {
		error = CUDA_ERROR_INVALID_VALUE;
	}
	sc_image_put(function.module->image);
	return error;
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
	CUoccupancyB2DSize blockSizeToDynamicSMemSize, size_t dynamicSMemSize, int blockSizeLimit)
{
	return block_size(
		__func__, minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit);
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize, CUfunction func,
	CUoccupancyB2DSize blockSizeToDynamicSMemSize, size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)
{
	CUresult error = block_size(
		__func__, minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit);

	return !error && flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE ? CUDA_ERROR_INVALID_VALUE : error;
}

CUresult CUDAAPI cuOccupancyAvailableDynamicSMemPerBlock(
	size_t *dynamicSmemSize, CUfunction func, int numBlocks, int blockSize)
{
	struct sc_function function;
	CUresult error = sc_function_enter(__func__, func, &function);
	size_t share, fixed;

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!dynamicSmemSize || numBlocks <= 0 || blockSize <= 0 || blockSize > SC_MAX_THREADS ||
		(size_t)numBlocks * ((size_t)blockSize + 31) / 32 * 32 > SC_THREADS_MULTIPROCESSOR)
		return CUDA_ERROR_INVALID_VALUE;
	share = SC_SHARED_MULTIPROCESSOR / (size_t)numBlocks;
	fixed = function.kernel->static_shared_bytes + SC_SHARED_RESERVED;
	*dynamicSmemSize = share > fixed ? share - fixed : 0;
	if (*dynamicSmemSize > SC_SHARED_OPTIN)
		*dynamicSmemSize = SC_SHARED_OPTIN;
	return CUDA_SUCCESS;
}
