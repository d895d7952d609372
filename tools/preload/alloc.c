/*
 * tools/preload/alloc.c: hooks of allocations, and of what frees them.
 */
#include "preload.h"

#include <pthread.h>

/* True: *result is the answer, memory of ours or an error. */
static bool allocated(CUdeviceptr *out, size_t bytes, CUresult *result)
{
	bool waits, done;

	if (!out || shim_settings()->off)
		return false;
	shim_cache_free_late();
	waits = shim_wait_begin(); /* a cache that is given up waits */
	done = shim_cache_allocate(bytes, out, result) || *result;
	shim_wait_end(waits);
	return done;
}

/* The same where a capture may forbid it. */
static bool allocated_at_once(CUdeviceptr *out, size_t bytes, CUresult *result)
{
	if (!shim_settings()->off && shim_is_captured() && shim_layout_fits(&shim_settings()->layout, bytes))
		*result = shim_capture_refuses();
	return *result || allocated(out, bytes, result);
}

/* The driver's own allocation has been made, or not; `captured`: for a graph, which it belongs to. */
static CUresult told(const char *call, CUresult result, const CUdeviceptr *address, size_t bytes, bool captured)
{
	if (!result)
		shim_cache_passed(address && !captured ? *address : 0, bytes);
	if (!result && address && shim_settings()->inspect_path)
		shim_inspect_allocated(call, *address, bytes);
	if (!result && address && shim_settings()->probe_path)
		shim_probe_allocated(*address, bytes);
	return result;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize)
{
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_ALLOCS);
	uint64_t start_ns = shim_profile_time();

	if (!driver->cuMemAlloc_v2)
		return SHIM_ABSENT;
	if (allocated_at_once(dptr, bytesize, &result))
		return result;
	result = driver->cuMemAlloc_v2(dptr, bytesize);
	shim_profile_call("cuMemAlloc_v2", result, result ? UINT64_MAX : *dptr, bytesize, start_ns);
	return told("cuMemAlloc", result, dptr, bytesize, false);
}

/*
 * The pitch is known to the driver alone, and does not depend on the height: one row tells it. That of the last width is kept, so that
 * a row of tensors asks once.
 */
static pthread_mutex_t pitch_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t pitch_of(size_t width, unsigned element_bytes)
{
	static size_t last_width, last_pitch;
	static unsigned last_element_bytes;
	const struct shim_real *driver = shim_real();
	CUdeviceptr row;
	size_t pitch = 0;

	pthread_mutex_lock(&pitch_lock);
	if (last_pitch && last_width == width && last_element_bytes == element_bytes) {
		pitch = last_pitch;
	} else if (driver->cuMemFree_v2 && !driver->cuMemAllocPitch_v2(&row, &pitch, width, 1, element_bytes)) {
		driver->cuMemFree_v2(row);
		last_width = width;
		last_pitch = pitch;
		last_element_bytes = element_bytes;
	}
	pthread_mutex_unlock(&pitch_lock);
	return pitch;
}

void shim_alloc_forget(void)
{
	pthread_mutex_init(&pitch_lock, NULL);
}

/* As allocated(). */
static bool rows_allocated(
	CUdeviceptr *out, size_t *pitch, size_t width, size_t height, unsigned element_bytes, CUresult *result)
{
	size_t found;

	if (!out || !pitch || !width || !height || shim_settings()->off || shim_settings()->layout.reserved)
		return false;
	found = pitch_of(width, element_bytes);
	if (!found || height > SIZE_MAX / found || !allocated_at_once(out, found * height, result))
		return false;
	if (!*result)
		*pitch = found;
	return true;
}

CUresult CUDAAPI cuMemAllocPitch(
	CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes)
{
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_ALLOCS);

	if (!driver->cuMemAllocPitch_v2)
		return SHIM_ABSENT;
	if (rows_allocated(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes, &result))
		return result;
	result = driver->cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
	return told("cuMemAllocPitch", result, dptr, result || !pPitch ? 0 : *pPitch * Height, false);
}

static CUresult allocate_async(CUdeviceptr *dptr, size_t bytes, CUstream stream, __typeof__(cuMemAllocAsync) *plain)
{
	CUresult result = CUDA_SUCCESS;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_ALLOCS);
	bool per_thread = plain == shim_real()->cuMemAllocAsync_ptsz;

	if (!plain)
		return SHIM_ABSENT;
	if (shim_is_plain_stream(stream, per_thread) && allocated(dptr, bytes, &result)) {
		if (!result)
			shim_cache_set_pool(*dptr, shim_pool_current());
		return result;
	}
	return told("cuMemAllocAsync", plain(dptr, bytes, stream), dptr, bytes, shim_is_capturing(stream, per_thread));
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return allocate_async(dptr, bytesize, hStream, shim_real()->cuMemAllocAsync);
}

CUresult CUDAAPI cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return allocate_async(dptr, bytesize, hStream, shim_real()->cuMemAllocAsync_ptsz);
}

static CUresult allocate_from_pool(
	CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream, __typeof__(cuMemAllocFromPoolAsync) *plain)
{
	CUresult result = CUDA_SUCCESS;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_ALLOCS);
	bool per_thread = plain == shim_real()->cuMemAllocFromPoolAsync_ptsz;

	if (!plain)
		return SHIM_ABSENT;
	if (shim_is_plain_stream(stream, per_thread) && shim_pool_has(pool, bytes) && allocated(dptr, bytes, &result)) {
		if (!result)
			shim_cache_set_pool(*dptr, pool);
		return result;
	}
	return told("cuMemAllocFromPoolAsync", plain(dptr, bytes, pool, stream), dptr, bytes,
		shim_is_capturing(stream, per_thread));
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	return allocate_from_pool(dptr, bytesize, pool, hStream, shim_real()->cuMemAllocFromPoolAsync);
}

CUresult CUDAAPI cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	return allocate_from_pool(dptr, bytesize, pool, hStream, shim_real()->cuMemAllocFromPoolAsync_ptsz);
}

/* ---- freeing: as cuMemFree does, this waits for the work that may use the memory ---- */

static bool is_ours(CUdeviceptr address)
{
	CUdeviceptr base;
	size_t bytes;

	shim_cache_free_late();
	if (shim_settings()->inspect_path)
		shim_inspect_freed(address);
	if (shim_settings()->probe_path)
		shim_probe_freed(address);
	return shim_cache_find(address, &base, &bytes) && base == address;
}

/* `waited`: what waiting for its last use has answered. */
static CUresult free_ours(CUdeviceptr address, CUresult waited)
{
	if (waited && !shim_is_lost(waited))
		return waited; /* it may still be in use, and the program may try again */
	return shim_cache_free(address) ? waited : CUDA_ERROR_INVALID_VALUE;
}

static CUresult free_later(CUdeviceptr address)
{
	return shim_cache_free_later(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* A capture that the shim knows nothing of may forbid to wait. */
static CUresult free_waited(CUdeviceptr address, CUresult waited)
{
	return shim_is_of_capture(waited) ? free_later(address) : free_ours(address, waited);
}

static CUresult free_at_once(CUdeviceptr address)
{
	CUresult result = shim_capture_refuses();

	if (result)
		return result;
	if (!shim_wait_begin())
		return free_later(address);
	result = free_waited(address, shim_context_wait(shim_cache_context(address)));
	shim_wait_end(true);
	return result;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr dptr)
{
	const struct shim_real *driver = shim_real();
	CUresult result;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_FREES);
	uint64_t start_ns = shim_profile_time();

	if (!driver->cuMemFree_v2)
		return SHIM_ABSENT;
	if (!is_ours(dptr)) {
		bool left = shim_cache_left(dptr);

		result = driver->cuMemFree_v2(dptr);
		if (result && left)
			shim_cache_back(dptr);
		shim_profile_call("cuMemFree_v2", result, dptr, 0, start_ns);
		return result;
	}
	return free_at_once(dptr);
}

static CUresult free_async(
	CUdeviceptr address, CUstream stream, __typeof__(cuMemFreeAsync) *plain, __typeof__(cuStreamSynchronize) *wait)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_FREES);
	CUresult result;

	if (!plain || !wait)
		return SHIM_ABSENT;
	if (!is_ours(address)) {
		bool left = shim_cache_left(address);

		result = plain(address, stream);
		if (result && left)
			shim_cache_back(address);
		return result;
	}
	/* A graph frees no memory but its own. To wait is refused in the same way, and the capture is as invalid. */
	if (shim_is_capturing(stream, plain == shim_real()->cuMemFreeAsync_ptsz))
		return wait(stream);
	if (!shim_wait_begin())
		return free_later(address);
	result = free_waited(address, shim_fault_check(wait(stream), NULL));
	shim_wait_end(true);
	return result;
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	const struct shim_real *driver = shim_real();

	return free_async(dptr, hStream, driver->cuMemFreeAsync, driver->cuStreamSynchronize);
}

CUresult CUDAAPI cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
	const struct shim_real *driver = shim_real();

	return free_async(dptr, hStream, driver->cuMemFreeAsync_ptsz, driver->cuStreamSynchronize_ptsz);
}
