/*
 * driver/softcuda/alloc.c: allocations of device and host memory, and memory pools.
 *
 * A pool is only a label of allocations: memory is taken at the call and given back when the stream reaches the free,
 * so a pool never keeps memory.
 */
#include "capture.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

static CUresult allocate(struct sc_context *context, size_t bytes, uint64_t pool, CUdeviceptr *out)
{
	struct sc_range *range;
	CUresult error;

	if (!out || !bytes)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	error = sc_range_allocate(bytes, context, &range);
	if (!error) {
		range->pool = pool;
		*out = range->base;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* Frees what starts at `address`, if it is of this kind. */
static bool range_free_at(enum sc_range_kind kind, uintptr_t address, const char *call)
{
	struct sc_range *range;
	bool found;

	pthread_mutex_lock(&sc_lock);
	range = sc_range_find(address);
	found = range && range->kind == kind && range->base == address;
	if (found) {
		sc_unmap_remember(range->base, range->size, call);
		sc_range_free(range);
	}
	pthread_mutex_unlock(&sc_lock);
	return found;
}

static size_t size_at(enum sc_range_kind kind, uintptr_t address)
{
	struct sc_range *range;
	size_t size;

	pthread_mutex_lock(&sc_lock);
	range = sc_range_find(address);
	size = range && range->kind == kind && range->base == address ? range->size : 0;
	pthread_mutex_unlock(&sc_lock);
	return size;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (!error)
		error = sc_capture_unsafe();
	return error ? error : allocate(context, bytesize, 0, dptr);
}

CUresult CUDAAPI cuMemAllocPitch(
	CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes)
{
	const size_t unit = 512; /* what GPUs align rows to */
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	size_t pitch = (WidthInBytes + unit - 1) / unit * unit;

	if (error)
		return error;
	if (!pPitch || !WidthInBytes || !Height || pitch < WidthInBytes || Height > SIZE_MAX / pitch ||
		(ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_capture_unsafe();
	if (!error)
		error = allocate(context, pitch * Height, 0, dptr);
	if (!error)
		*pPitch = pitch;
	return error;
}

/*
 * "cudaMalloc and cudaFree synchronize across all streams" (Programming Guide, stream ordered memory allocator): so
 * work that still uses the memory is reported, and then awaited.
 */
static CUresult free_waiting(struct sc_context *context, enum sc_range_kind kind, uintptr_t address, const char *call)
{
	size_t size = size_at(kind, address);
	CUresult error = sc_capture_unsafe();

	if (error || !size)
		return error ? error : CUDA_ERROR_INVALID_VALUE;
	sc_hazards_check(address, size, call);
	if (context)
		sc_context_drain(context);
	return range_free_at(kind, address, call) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr dptr)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);

	if (error)
		return error;
	return dptr ? free_waiting(context, SC_ALLOCATED, (uintptr_t)dptr, "cuMemFree") : CUDA_SUCCESS;
}

/* ---- host memory ---- */

static CUresult allocate_host(struct sc_context *context, void **pp, size_t bytes, unsigned flags)
{
	struct sc_range *range;
	CUresult error;

	if (!pp || !bytes)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_capture_unsafe();
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = sc_range_allocate_host(bytes, context, &range);
	if (!error) {
		range->flags = flags;
		*pp = (void *)range->base;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuMemAllocHost(void **pp, size_t bytesize)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : allocate_host(context, pp, bytesize, 0);
}

CUresult CUDAAPI cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
	const unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	return Flags & ~known ? CUDA_ERROR_INVALID_VALUE : allocate_host(context, pp, bytesize, Flags);
}

CUresult CUDAAPI cuMemFreeHost(void *p)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);

	return error ? error : free_waiting(context, SC_HOST, (uintptr_t)p, "cuMemFreeHost");
}

#undef cuMemHostRegister
CUresult CUDAAPI cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags);

CUresult CUDAAPI cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
	const unsigned known =
		CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_range *range;

	if (error)
		return error;
	if (!p || !bytesize || Flags & ~known || bytesize > UINTPTR_MAX - (uintptr_t)p)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_capture_unsafe();
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	error = sc_range_register((uintptr_t)p, bytesize, context, &range);
	if (!error)
		range->flags = Flags;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuMemHostUnregister(void *p)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);

	if (error)
		return error;
	error = free_waiting(context, SC_REGISTERED, (uintptr_t)p, "cuMemHostUnregister");
	return error == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : error;
}

/* The host's address of page-locked memory is the device's too. */
static CUresult host_range_query(void *address, CUdeviceptr *device, unsigned *flags)
{
	struct sc_range *range;
	bool found;

	pthread_mutex_lock(&sc_lock);
	range = sc_range_find((uintptr_t)address);
	found = range && (range->kind == SC_HOST || range->kind == SC_REGISTERED);
	if (found && device)
		*device = (CUdeviceptr)(uintptr_t)address;
	if (found && flags)
		*flags = range->flags;
	pthread_mutex_unlock(&sc_lock);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	return pdptr && !Flags ? host_range_query(p, pdptr, NULL) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	return pFlags ? host_range_query(p, NULL, pFlags) : CUDA_ERROR_INVALID_VALUE;
}

/* ---- memory in the order of a stream ---- */

struct free_op {
	struct sc_op op;
	uintptr_t address;
};

static void free_run(struct sc_op *op, struct sc_stream *stream)
{
	(void)stream;
	range_free_at(SC_ALLOCATED, ((struct free_op *)op)->address, "cuMemFreeAsync");
}

static void pool_note(uint64_t key);

static CUresult allocate_async(
	struct sc_context *context, CUdeviceptr *dptr, size_t bytes, uint64_t pool, CUstream handle)
{
	struct sc_stream *stream = sc_stream_get(context, handle);
	CUresult error;

	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_refuse(stream); /* there are no nodes for it */
	if (error) {
		sc_stream_put(stream);
		return error;
	}
	error = allocate(stream->context, bytes, pool, dptr);
	/* Memory freed in this stream is available again once the stream has reached the free. */
	if (error == CUDA_ERROR_OUT_OF_MEMORY && !sc_stream_is_idle(stream)) {
		error = sc_stream_synchronize(stream);
		if (!error)
			error = allocate(stream->context, bytes, pool, dptr);
	}
	sc_stream_put(stream);
	if (!error) {
		pthread_mutex_lock(&sc_lock);
		pool_note(pool);
		pthread_mutex_unlock(&sc_lock);
	}
	return error;
}

static CUresult default_pool_get(CUmemoryPool *out, CUdevice device);

/* "The allocation comes from the memory pool current to the stream's device", which is the default one here. */
CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	struct sc_context *context;
	CUmemoryPool pool = NULL;
	CUresult error = sc_enter_context(__func__, &context);

	if (!error)
		error = default_pool_get(&pool, 0);
	return error ? error : allocate_async(context, dptr, bytesize, sc_key(pool), hStream);
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);
	struct sc_stream *stream;
	struct free_op *op;

	if (error)
		return error;
	if (!size_at(SC_ALLOCATED, (uintptr_t)dptr))
		return CUDA_ERROR_INVALID_VALUE;
	if (sc_context_error(context)) /* nothing runs there any more that could use the memory */
		return free_waiting(context, SC_ALLOCATED, (uintptr_t)dptr, "cuMemFreeAsync");
	stream = sc_stream_get(context, hStream);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_capture_refuse(stream);
	op = error ? NULL : calloc(1, sizeof(*op));
	if (op) {
		op->op.what = "cuMemFreeAsync";
		op->op.run = free_run;
		op->address = (uintptr_t)dptr;
		error = sc_stream_submit(stream, &op->op, NULL);
	} else if (!error) {
		error = CUDA_ERROR_OUT_OF_MEMORY;
	}
	sc_stream_put(stream);
	return error;
}

struct pool {
	uint64_t key;
	cuuint64_t release_threshold;
	int reuse[3];         /* attributes 1 to 3: kept, and no more than that */
	cuuint64_t high_used; /* the most that was in use since this was set to zero */
	cuuint64_t high_reserved;
};

static struct pool *default_pool; /* guarded by sc_lock */

/* As much was in use at least once; sc_lock is held. */
static void pool_note(uint64_t key)
{
	struct pool *pool = sc_object_find(SC_POOL, key);
	cuuint64_t used = sc_pool_used(key);

	if (pool && used > pool->high_used)
		pool->high_used = used;
	if (pool && used > pool->high_reserved)
		pool->high_reserved = used;
}

static struct pool *pool_create(void)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->reuse[0] = pool->reuse[1] = pool->reuse[2] = 1;
	pool->key = sc_object_add(SC_POOL, pool);
	if (pool->key)
		return pool;
	free(pool);
	return NULL;
}

void sc_pools_reset(void)
{
	struct pool *pool;
	size_t cursor = 0;

	while ((pool = sc_object_next(SC_POOL, &cursor))) {
		sc_object_remove(SC_POOL, pool->key);
		free(pool);
	}
	default_pool = NULL;
}

static CUresult default_pool_get(CUmemoryPool *out, CUdevice device)
{
	CUresult error = CUDA_SUCCESS;

	if (!out)
		return CUDA_ERROR_INVALID_VALUE;
	if (device != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	pthread_mutex_lock(&sc_lock);
	if (!default_pool)
		default_pool = pool_create();
	if (default_pool)
		*out = (CUmemoryPool)(uintptr_t)default_pool->key;
	else
		error = CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
	CUresult error = sc_enter_alive(__func__);

	return error ? error : default_pool_get(pool_out, dev);
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
	CUresult error = sc_enter_alive(__func__);

	return error ? error : default_pool_get(pool, dev);
}

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	CUresult error = sc_enter_alive(__func__);
	struct pool *made;

	if (error)
		return error;
	if (!pool || !poolProps || poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
		poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE || poolProps->location.id != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
		return CUDA_ERROR_NOT_SUPPORTED;
	pthread_mutex_lock(&sc_lock);
	made = pool_create();
	if (made)
		*pool = (CUmemoryPool)(uintptr_t)made->key;
	pthread_mutex_unlock(&sc_lock);
	return made ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool)
{
	CUresult error = sc_enter_initialized(__func__);
	struct pool *found;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	found = default_pool && default_pool->key == sc_key(pool) ? NULL : sc_object_remove(SC_POOL, sc_key(pool));
	pthread_mutex_unlock(&sc_lock);
	free(found);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static bool pool_exists(CUmemoryPool pool)
{
	bool exists;

	pthread_mutex_lock(&sc_lock);
	exists = sc_object_find(SC_POOL, sc_key(pool)) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return exists;
}

CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	CUresult error = sc_enter_alive(__func__);

	(void)minBytesToKeep; /* there is never more */
	if (error)
		return error;
	return pool_exists(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* "High watermark can only be reset to zero." What is in use is all that there is. */
static CUresult pool_size(struct pool *pool, CUmemPool_attribute attribute, cuuint64_t *value, bool set)
{
	bool high = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
	bool now = attribute == CU_MEMPOOL_ATTR_USED_MEM_CURRENT || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
	cuuint64_t *most = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH ? &pool->high_used : &pool->high_reserved;

	if ((!high && !now) || (set && (now || *value)))
		return CUDA_ERROR_INVALID_VALUE;
	if (set)
		*most = 0;
	else
		*value = high ? *most : sc_pool_used(pool->key);
	return CUDA_SUCCESS;
}

static CUresult pool_attribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value, bool set)
{
	CUresult error = CUDA_SUCCESS;
	struct pool *pool;

	pthread_mutex_lock(&sc_lock);
	pool = sc_object_find(SC_POOL, sc_key(handle));
	if (!pool || !value)
		error = CUDA_ERROR_INVALID_VALUE;
	else if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
		memcpy(set ? (void *)&pool->release_threshold : value, set ? value : (void *)&pool->release_threshold,
			sizeof(cuuint64_t));
	else if (attribute >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES &&
		 attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES)
		memcpy(set ? (void *)&pool->reuse[attribute - 1] : value,
			set ? value : (void *)&pool->reuse[attribute - 1], sizeof(int));
	else
		error = pool_size(pool, attribute, value, set);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	CUresult error = sc_enter_alive(__func__);

	return error ? error : pool_attribute(pool, attr, value, true);
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	CUresult error = sc_enter_alive(__func__);

	return error ? error : pool_attribute(pool, attr, value, false);
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!pool_exists(pool))
		return CUDA_ERROR_INVALID_VALUE;
	return allocate_async(context, dptr, bytesize, sc_key(pool), hStream);
}
