/*
 * driver/softcuda/limits.c: what a program may set of a context: limits, preferences, flags. Nothing here depends on them, as
 * stacks grow by themselves and there is no cache to divide: they are kept, and given back when asked for.
 */
#include "state.h"

#include <string.h>

void sc_limits_init(struct sc_context *context)
{
	context->limits[CU_LIMIT_STACK_SIZE] = 1024;
	context->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = (size_t)1 << 20;
	context->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = (size_t)8 << 20;
	context->limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
	context->limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
	context->limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
}

CUresult CUDAAPI cuCtxSetLimit(CUlimit limit, size_t value)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if ((unsigned)limit >= CU_LIMIT_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	if (limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE) /* those of contexts for graphics, which are not here */
		return CUDA_ERROR_UNSUPPORTED_LIMIT;
	if ((limit == CU_LIMIT_MAX_L2_FETCH_GRANULARITY && value > 128) ||
		(limit == CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH && value > 24))
		return CUDA_ERROR_INVALID_VALUE;
	if (limit == CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
		value = 0; /* "it can be ignored or clamped depending on the platform" */
	pthread_mutex_lock(&sc_lock);
	context->limits[limit] = value;
	pthread_mutex_unlock(&sc_lock);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!pvalue || (unsigned)limit >= CU_LIMIT_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	if (limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE)
		return CUDA_ERROR_UNSUPPORTED_LIMIT;
	pthread_mutex_lock(&sc_lock);
	*pvalue = context->limits[limit];
	pthread_mutex_unlock(&sc_lock);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetCacheConfig(CUfunc_cache config)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if ((unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
		return CUDA_ERROR_INVALID_VALUE;
	context->cache = config;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!pconfig)
		return CUDA_ERROR_INVALID_VALUE;
	*pconfig = context->cache;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxResetPersistingL2Cache(void)
{
	struct sc_context *context;

	return sc_enter_context(__func__, &context);
}

/* Unique for the life of the program, as its key is. NULL: the current one. */
CUresult CUDAAPI cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
	CUresult error = sc_enter_initialized(__func__);
	uint64_t key = ctx ? sc_key(ctx) : sc_current_key();
	bool found;

	if (error)
		return error;
	if (!ctxId)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	found = sc_object_find(SC_CONTEXT, key) != NULL;
	pthread_mutex_unlock(&sc_lock);
	if (!found)
		return CUDA_ERROR_INVALID_CONTEXT;
	*ctxId = key;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetFlags(unsigned int flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (flags & ~(unsigned)CU_CTX_FLAGS_MASK)
		return CUDA_ERROR_INVALID_VALUE;
	context->flags = flags;
	return CUDA_SUCCESS;
}
