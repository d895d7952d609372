/*
 * tools/preload/pools.c: memory pools whose allocations are a cache, and what leads out of the program: other devices, other processes,
 * network cards. A pool's sizes count what the program has from it; addresses that would let somebody else write another layer's
 * memory are not given away.
 */
#include "preload.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- sizes ---- */

/* The most that was in use of a pool, as far as the shim saw it: the driver's own mark knows nothing of ours. */
#define MARKS 16
static struct {
	CUmemoryPool pool;
	cuuint64_t used, reserved;
} marks[MARKS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static cuuint64_t now_of(CUmemoryPool pool, CUmemPool_attribute attribute)
{
	const struct shim_real *driver = shim_real();
	cuuint64_t bytes = 0;

	if (!driver->cuMemPoolGetAttribute || driver->cuMemPoolGetAttribute(pool, attribute, &bytes))
		return 0;
	return bytes + shim_cache_pool_bytes(pool);
}

/* The mark of a pool, at least as high as what is in use now; a pool beyond the table has only that. */
static cuuint64_t mark_of(CUmemoryPool pool, CUmemPool_attribute attribute, bool reset)
{
	bool is_used = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH;
	cuuint64_t now = now_of(
			   pool, is_used ? CU_MEMPOOL_ATTR_USED_MEM_CURRENT : CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT),
		   high = now;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < MARKS; i++) {
		cuuint64_t *mark = is_used ? &marks[i].used : &marks[i].reserved;

		if (marks[i].pool && marks[i].pool != pool)
			continue;
		marks[i].pool = pool;
		*mark = reset ? 0 : *mark > now ? *mark : now;
		high = *mark;
		break;
	}
	pthread_mutex_unlock(&lock);
	return high;
}

void shim_pool_note(CUmemoryPool pool)
{
	if (!pool)
		return;
	mark_of(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, false);
	mark_of(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, false);
}

CUmemoryPool shim_pool_current(void)
{
	const struct shim_real *driver = shim_real();
	CUmemoryPool pool = NULL;
	CUdevice device;

	if (!driver->cuDeviceGetMemPool || driver->cuCtxGetDevice(&device) || driver->cuDeviceGetMemPool(&pool, device))
		return NULL;
	return pool;
}

static bool is_known(CUmemoryPool pool)
{
	bool known = false;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; pool && i < MARKS; i++)
		known |= marks[i].pool == pool;
	pthread_mutex_unlock(&lock);
	return known;
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	const struct shim_real *driver = shim_real();
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POOLS);
	cuuint64_t high;
	CUresult result;

	if (!driver->cuMemPoolGetAttribute)
		return SHIM_ABSENT;
	result = driver->cuMemPoolGetAttribute(pool, attr, value);
	if (result || !value || !is_known(pool))
		return result;
	switch (attr) {
	case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
	case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
		*(cuuint64_t *)value += shim_cache_pool_bytes(pool);
		break;
	case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
	case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
		high = mark_of(pool, attr, false);
		if (high > *(cuuint64_t *)value)
			*(cuuint64_t *)value = high;
		break;
	default:
		break;
	}
	return result;
}

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POOLS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuMemPoolSetAttribute)
		return SHIM_ABSENT;
	result = driver->cuMemPoolSetAttribute(pool, attr, value);
	if (!result && is_known(pool) &&
		(attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH || attr == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH))
		mark_of(pool, attr, true);
	return result;
}

/* ---- whose memory ---- */

/* Those that the program has made; of memory of the host, or of another device, no cache is made. */
static struct made {
	struct made *next;
	CUmemoryPool pool;
	CUmemLocation location;
	size_t most; /* 0: as much as there is */
} * made;

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POOLS);
	const struct shim_real *driver = shim_real();
	CUresult result = driver->cuMemPoolCreate ? driver->cuMemPoolCreate(pool, poolProps) : SHIM_ABSENT;
	struct made *one = result ? NULL : malloc(sizeof(*one));

	if (!one)
		return result;
	pthread_mutex_lock(&lock);
	*one = (struct made){made, *pool, poolProps->location, poolProps->maxSize};
	made = one;
	pthread_mutex_unlock(&lock);
	return result;
}

/* Under the lock. */
static void made_remove(CUmemoryPool pool)
{
	for (struct made **link = &made, *one; (one = *link);) {
		if (one->pool != pool) {
			link = &one->next;
			continue;
		}
		*link = one->next;
		free(one);
	}
}

/* What the caller's device has without being asked. */
static bool is_of_device(CUmemoryPool pool, CUdevice device)
{
	const struct shim_real *driver = shim_real();
	CUmemoryPool own = NULL;

	return driver->cuDeviceGetDefaultMemPool && !driver->cuDeviceGetDefaultMemPool(&own, device) && own == pool;
}

bool shim_pool_has(CUmemoryPool pool, size_t bytes)
{
	const struct shim_real *driver = shim_real();
	const struct made *one;
	bool has = false;
	CUdevice device;
	size_t used;

	if (!pool || !driver->cuCtxGetDevice || driver->cuCtxGetDevice(&device))
		return false;
	if (is_of_device(pool, device))
		return true;
	used = shim_cache_pool_bytes(pool);
	pthread_mutex_lock(&lock);
	for (one = made; one && one->pool != pool;)
		one = one->next;
	if (one && one->location.type == CU_MEM_LOCATION_TYPE_DEVICE && one->location.id == device)
		has = !one->most || (bytes <= one->most && used <= one->most - bytes);
	pthread_mutex_unlock(&lock);
	return has;
}

/* Its handle may come back as another pool's. */
CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_POOLS);
	const struct shim_real *driver = shim_real();
	CUresult result = driver->cuMemPoolDestroy ? driver->cuMemPoolDestroy(pool) : SHIM_ABSENT;

	if (result || !pool)
		return result;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < MARKS; i++)
		if (marks[i].pool == pool)
			marks[i].pool = NULL;
	made_remove(pool);
	pthread_mutex_unlock(&lock);
	return CUDA_SUCCESS;
}

/* ---- others ---- */

/* Some of [address, address + bytes) is shared: a layer's there is not its own. */
static bool is_shared(CUdeviceptr address, size_t bytes)
{
	const struct shim_ranges *ranges = shim_ranges();
	const struct shim_range *range = ranges ? shim_range_next(ranges, address) : NULL;

	return range && (range->base <= address || range->base - address < bytes);
}

static CUresult refuse(const char *call, const char *who, CUresult result)
{
	shim_say("the program gives its cache to %s (%s), which is refused for memory that layers share", who, call);
	return result;
}

/* A card that has the address of a borrower's would write its owner's. The driver says so of memory that it cannot export. */
CUresult CUDAAPI cuMemGetHandleForAddressRange(
	void *handle, CUdeviceptr dptr, size_t size, CUmemRangeHandleType handleType, unsigned long long flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();

	if (is_shared(dptr, size))
		return refuse("cuMemGetHandleForAddressRange", "another device", CUDA_ERROR_NOT_SUPPORTED);
	return driver->cuMemGetHandleForAddressRange
		       ? driver->cuMemGetHandleForAddressRange(handle, dptr, size, handleType, flags)
		       : SHIM_ABSENT;
}

/* Memory that is none of a pool's is what the driver refuses with this. */
CUresult CUDAAPI cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();

	if (is_shared(ptr, 1))
		return refuse("cuMemPoolExportPointer", "another process", CUDA_ERROR_INVALID_VALUE);
	return driver->cuMemPoolExportPointer ? driver->cuMemPoolExportPointer(shareData_out, ptr) : SHIM_ABSENT;
}

/*
 * Kernels of another device get at the program's other memory, so this is passed. They do not get at mappings, which ours is: one that
 * tries faults, and is told of here.
 */
static void peers_told(const char *call)
{
	static atomic_bool told;

	if (shim_cache_any() && !atomic_exchange(&told, true))
		shim_say("the program lets another device use its memory (%s): the cache, which layers share, is not "
			 "part "
			 "of it (copies between devices are)",
			call);
}

CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();
	CUresult result =
		driver->cuCtxEnablePeerAccess ? driver->cuCtxEnablePeerAccess(peerContext, Flags) : SHIM_ABSENT;

	if (!result)
		peers_told("cuCtxEnablePeerAccess");
	return result;
}

CUresult CUDAAPI cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();
	CUresult result = driver->cuMemPoolSetAccess ? driver->cuMemPoolSetAccess(pool, map, count) : SHIM_ABSENT;

	if (!result && is_known(pool))
		peers_told("cuMemPoolSetAccess");
	return result;
}

void shim_pools_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	made = NULL;
}
