/*
 * driver/softcuda/pointer.c: attributes of addresses.
 */
#include "memory.h"

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct sc_range *range;
	struct sc_mapping *mapping;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	range = sc_range_find((uintptr_t)dptr);
	mapping = range && range->kind == SC_RESERVED ? sc_mapping_find(range, (uintptr_t)dptr) : NULL;
	if (!range || (range->kind == SC_RESERVED && !mapping)) {
		error = CUDA_ERROR_NOT_FOUND;
	} else {
		if (pbase)
			*pbase = mapping ? mapping->base : range->base;
		if (psize)
			*psize = mapping ? mapping->size : range->size;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* An address, and what lies there. */
struct place {
	uintptr_t address;
	struct sc_range *range;     /* NULL: nothing of ours */
	struct sc_mapping *mapping; /* NULL: host memory, or a part of a reservation that is not mapped */
};

static struct place place_find(CUdeviceptr address)
{
	struct place place = {.address = (uintptr_t)address, .range = sc_range_find((uintptr_t)address)};

	if (place.range)
		place.mapping = sc_mapping_find(place.range, place.address);
	return place;
}

static bool is_host(const struct place *place)
{
	return place->range && (place->range->kind == SC_HOST || place->range->kind == SC_REGISTERED);
}

/* There is memory behind the address: not for a hole in a reservation. */
static bool is_backed(const struct place *place)
{
	return place->mapping || is_host(place) || (place->range && place->range->kind == SC_GLOBAL);
}

/* Attributes of the range, which a reservation has even where nothing is mapped. */
static CUresult range_attribute(void *data, CUpointer_attribute attribute, const struct place *place)
{
	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
		*(void **)data = (void *)place->range->base;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
		*(size_t *)data = place->range->size;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MAPPED:
		if (!is_backed(place))
			return CUDA_ERROR_INVALID_VALUE; /* as the driver: documented, but never given, is a 0 */
		*(int *)data = 1;                        /* the documentation says bool, the driver writes an int */
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		*(int *)data = 0;
		return CUDA_SUCCESS;
	default:
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}

/* Attributes of the memory behind the address. */
static CUresult memory_attribute(void *data, CUpointer_attribute attribute, const struct place *place)
{
	const struct sc_mapping *mapping = place->mapping;

	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_CONTEXT: /* memory of the VMM family belongs to none */
		*(CUcontext *)data = place->range->context ? (CUcontext)(uintptr_t)place->range->context->key : NULL;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
		*(unsigned *)data = is_host(place) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
		*(CUdeviceptr *)data = place->address;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_HOST_POINTER:
		if (!is_host(place) && !place->range->managed)
			return CUDA_ERROR_INVALID_VALUE;
		*(void **)data = (void *)place->address;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_BUFFER_ID:
		*(unsigned long long *)data = mapping ? mapping->handle->block_id : place->range->id;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
		*(unsigned long long *)data = mapping ? mapping->handle->block_id : 0;
		return mapping ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
	case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
		*(unsigned long long *)data = mapping ? mapping->handle->properties.requestedHandleTypes : 0;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
		*(unsigned *)data = mapping ? mapping->access : CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
		*(CUmemoryPool *)data = (CUmemoryPool)(uintptr_t)place->range->pool;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
		*(size_t *)data = mapping ? mapping->size : place->range->size;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
		*(void **)data = (void *)(mapping ? mapping->base : place->range->base);
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_IS_MANAGED:
		*(int *)data = place->range->managed;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
	case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
		*(int *)data = 0;
		return CUDA_SUCCESS;
	default:
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}

static CUresult attribute_get(void *data, CUpointer_attribute attribute, const struct place *place)
{
	CUresult error = place->range ? range_attribute(data, attribute, place) : CUDA_ERROR_INVALID_VALUE;

	if (error != CUDA_ERROR_NOT_SUPPORTED)
		return error;
	return is_backed(place) ? memory_attribute(data, attribute, place) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	CUresult error = sc_enter_alive(__func__);
	struct place place;

	if (error)
		return error;
	if (!data)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	place = place_find(ptr);
	error = attribute_get(data, attribute, &place);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

/* What an address that is not ours answers here: "the attributes will be assigned default NULL values". */
static void attribute_clear(void *data, CUpointer_attribute attribute)
{
	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
	case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
	case CU_POINTER_ATTRIBUTE_MAPPED:
	case CU_POINTER_ATTRIBUTE_IS_MANAGED:
	case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
	case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
		*(int *)data = 0;
		break;
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		*(int *)data = -2; /* cuda.h: neither a device nor invalid */
		break;
	default:
		*(uint64_t *)data = 0;
	}
}

CUresult CUDAAPI cuPointerGetAttributes(
	unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
	CUresult error = sc_enter_alive(__func__);
	struct place place;

	if (error)
		return error;
	if (!numAttributes || !attributes || !data)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	place = place_find(ptr);
	for (unsigned i = 0; i < numAttributes; i++) {
		if (attribute_get(data[i], attributes[i], &place))
			attribute_clear(data[i], attributes[i]);
	}
	pthread_mutex_unlock(&sc_lock);
	return CUDA_SUCCESS;
}
