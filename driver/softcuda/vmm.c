/*
 * driver/softcuda/vmm.c: the virtual memory management calls. They follow the documentation in cuda.h, and refuse what
 * a real driver (NVIDIA H200, 580.159.04) refuses beyond it. Where the driver allows more than it documents, softcuda
 * follows the documentation; docs/softcuda.md lists these.
 */
#include "memory.h"
#include "stream.h"

#include <fcntl.h>
#include <unistd.h>

static bool is_multiple(uint64_t value, size_t unit)
{
	return value % unit == 0;
}

static bool is_power_of_two(size_t value)
{
	return value && !(value & (value - 1));
}

static CUresult properties_check(const CUmemAllocationProp *properties)
{
	if (!properties || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
		properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_INVALID_VALUE;
	if (properties->location.id != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	if (properties->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return CUDA_ERROR_NOT_SUPPORTED;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetAllocationGranularity(
	size_t *granularity, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)
{
	CUresult error = sc_enter_alive(__func__);

	if (error)
		return error;
	error = properties_check(prop);
	if (error)
		return error;
	if (!granularity ||
		(option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
		return CUDA_ERROR_INVALID_VALUE;
	*granularity = sc_settings.granularity;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAddressReserve(
	CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_range *range;

	if (error)
		return error;
	/* cuda.h asks for whole host pages only; the driver takes whole granules only. */
	if (!ptr || !size || !is_multiple(size, sc_settings.granularity) ||
		(alignment && !is_power_of_two(alignment)) || flags)
		return CUDA_ERROR_INVALID_VALUE;
	if (!is_multiple(addr, sc_page_bytes()))
		return CUDA_ERROR_INVALID_VALUE;
	if (alignment < sc_settings.granularity)
		alignment = sc_settings.granularity; /* mappings need no less */
	pthread_mutex_lock(&sc_lock);
	error = sc_range_reserve(size, alignment, (uintptr_t)addr, &range);
	if (!error)
		*ptr = range->base;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_range *range;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	range = sc_range_find((uintptr_t)ptr);
	if (range && range->kind == SC_RESERVED && range->base == ptr && range->size == size && !range->mapping_count)
		sc_range_free(range);
	else
		error = CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuMemCreate(
	CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_handle *made;

	if (error)
		return error;
	error = properties_check(prop);
	if (error)
		return error;
	if (!handle || !size || !is_multiple(size, sc_settings.granularity) || flags)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	error = sc_handle_create(size, prop, &made);
	if (!error) {
		*handle = made->key = sc_object_add(SC_HANDLE, made);
		if (!made->key) {
			made->references = 0;
			sc_handle_put(made);
			error = CUDA_ERROR_OUT_OF_MEMORY;
		}
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* A handle that the program holds a reference of; one that lives by its mappings alone was released. */
static struct sc_handle *handle_find(CUmemGenericAllocationHandle key)
{
	struct sc_handle *handle = sc_object_find(SC_HANDLE, key);

	return handle && handle->references ? handle : NULL;
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_handle *found;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	found = handle_find(handle);
	if (found) {
		found->references--;
		sc_handle_put(found);
	}
	pthread_mutex_unlock(&sc_lock);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* The reservation that all of [ptr, ptr + size) lies in. */
static struct sc_range *reservation_of(CUdeviceptr ptr, size_t size)
{
	struct sc_range *range = sc_range_find((uintptr_t)ptr);

	if (!range || range->kind != SC_RESERVED || size > range->base + range->size - ptr)
		return NULL;
	return range;
}

CUresult CUDAAPI cuMemMap(
	CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_handle *found;
	struct sc_range *range;

	if (error)
		return error;
	if (!size || flags || !is_multiple(ptr, sc_settings.granularity))
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	range = reservation_of(ptr, size);
	found = handle_find(handle);
	if (!found)
		error = CUDA_ERROR_INVALID_VALUE;
	else if (offset || size != found->size)
		error = CUDA_ERROR_NOT_SUPPORTED; /* a part of a handle, or more than it: whatever the size is */
	else
		error = range ? sc_mapping_add(range, (uintptr_t)ptr, size, found) : CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* The whole mappings that make up [ptr, ptr + size) with no hole; no range where they do not. */
struct run {
	struct sc_range *range;
	size_t first, count;
};

static struct run run_of(CUdeviceptr ptr, size_t size)
{
	struct run run = {.range = reservation_of(ptr, size)};

	if (run.range && !sc_run_is_whole(run.range, (uintptr_t)ptr, size, &run.first, &run.count))
		run.range = NULL;
	return run;
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	CUresult error = sc_enter_initialized(__func__);
	struct run run;
	bool whole;

	if (error)
		return error;
	if (!size)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	whole = run_of(ptr, size).range != NULL;
	pthread_mutex_unlock(&sc_lock);
	if (whole)
		sc_hazards_check((uintptr_t)ptr, size, "cuMemUnmap"); /* which looks into streams, without this lock */
	pthread_mutex_lock(&sc_lock);
	run = run_of(ptr, size);
	if (run.range) {
		sc_unmap_remember((uintptr_t)ptr, size, "cuMemUnmap");
		error = sc_run_unmap(run.range, run.first, run.count);
	} else {
		error = CUDA_ERROR_INVALID_VALUE;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* One location each, so on one device the last descriptor that names it counts. */
static CUresult access_of(const CUmemAccessDesc *descriptors, size_t count, CUmemAccess_flags *access)
{
	for (size_t i = 0; i < count; i++) {
		if (descriptors[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE)
			return CUDA_ERROR_INVALID_VALUE;
		if (descriptors[i].location.id != 0)
			return CUDA_ERROR_INVALID_DEVICE;
		*access = descriptors[i].flags;
		if (*access != CU_MEM_ACCESS_FLAGS_PROT_NONE && *access != CU_MEM_ACCESS_FLAGS_PROT_READ &&
			*access != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
			return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	CUmemAccess_flags access = CU_MEM_ACCESS_FLAGS_PROT_NONE;
	CUresult error = sc_enter_alive(__func__);
	struct run run;

	if (error)
		return error;
	if (!size || !desc || !count)
		return CUDA_ERROR_INVALID_VALUE;
	error = access_of(desc, count, &access);
	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	run = run_of(ptr, size);
	error = run.range ? sc_run_set_access(run.range, run.first, run.count, access) : CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* The mapping of a reservation at an address. */
static struct sc_mapping *mapping_at(uintptr_t address)
{
	struct sc_range *range = sc_range_find(address);

	return range && range->kind == SC_RESERVED ? sc_mapping_find(range, address) : NULL;
}

CUresult CUDAAPI cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_mapping *mapping;

	if (error)
		return error;
	if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_INVALID_VALUE;
	if (location->id != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	pthread_mutex_lock(&sc_lock);
	mapping = mapping_at((uintptr_t)ptr);
	if (mapping)
		*flags = mapping->access;
	pthread_mutex_unlock(&sc_lock);
	return mapping ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_mapping *mapping;

	if (error)
		return error;
	if (!handle)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	mapping = mapping_at((uintptr_t)addr);
	if (mapping) {
		mapping->handle->references++;
		*handle = mapping->handle->key;
	}
	pthread_mutex_unlock(&sc_lock);
	return mapping ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_handle *found;

	if (error)
		return error;
	if (!prop)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	found = handle_find(handle);
	if (found)
		*prop = found->properties;
	pthread_mutex_unlock(&sc_lock);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
	CUmemAllocationHandleType handleType, unsigned long long flags)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_handle *found;
	int fd = -1;

	if (error)
		return error;
	if (!shareableHandle || flags || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	found = handle_find(handle);
	if (!found || !found->own_fd)
		error = CUDA_ERROR_INVALID_VALUE;
	else if ((fd = fcntl(found->fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1)) < 0)
		error = CUDA_ERROR_OPERATING_SYSTEM;
	pthread_mutex_unlock(&sc_lock);
	if (!error)
		*(int *)shareableHandle = fd;
	return error;
}

CUresult CUDAAPI cuMemImportFromShareableHandle(
	CUmemGenericAllocationHandle *handle, void *osHandle, CUmemAllocationHandleType shHandleType)
{
	CUresult error = sc_enter_alive(__func__);
	struct sc_handle *imported;

	if (error)
		return error;
	if (!handle || shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	error = sc_handle_import((int)(intptr_t)osHandle, &imported);
	if (!error && !imported->key) {
		imported->key = sc_object_add(SC_HANDLE, imported);
		if (!imported->key) {
			imported->references = 0;
			sc_handle_put(imported);
			error = CUDA_ERROR_OUT_OF_MEMORY;
		}
	}
	if (!error)
		*handle = imported->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}
