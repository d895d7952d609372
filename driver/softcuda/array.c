/*
 * driver/softcuda/array.c: CUDA arrays of one dimension, and copies of a line into and out of them. Their layout is opaque to
 * programs, so here it is memory in the order of its elements, at an address that nobody is told.
 */
#include "capture.h"
#include "copy.h"
#include "memory.h"

#include <stdlib.h>

struct array {
	uint64_t key;
	CUDA_ARRAY_DESCRIPTOR descriptor;
	struct sc_context *context;
	uintptr_t base;
	size_t bytes;
};

/* 0: no format of an array. */
static size_t element_bytes(const CUDA_ARRAY_DESCRIPTOR *descriptor)
{
	size_t channel;

	switch (descriptor->Format) {
	case CU_AD_FORMAT_UNSIGNED_INT8:
	case CU_AD_FORMAT_SIGNED_INT8:
		channel = 1;
		break;
	case CU_AD_FORMAT_UNSIGNED_INT16:
	case CU_AD_FORMAT_SIGNED_INT16:
	case CU_AD_FORMAT_HALF:
		channel = 2;
		break;
	case CU_AD_FORMAT_UNSIGNED_INT32:
	case CU_AD_FORMAT_SIGNED_INT32:
	case CU_AD_FORMAT_FLOAT:
		channel = 4;
		break;
	default:
		return 0;
	}
	/* "NumChannels specifies the number of packed components per CUDA array element; it may be 1, 2, or 4" */
	return descriptor->NumChannels == 1 || descriptor->NumChannels == 2 || descriptor->NumChannels == 4
		       ? channel * descriptor->NumChannels
		       : 0;
}

static CUresult array_make(struct sc_context *context, const CUDA_ARRAY_DESCRIPTOR *descriptor, struct array **out)
{
	struct array *array = calloc(1, sizeof(*array));
	struct sc_range *range;
	CUresult error;

	if (!array)
		return CUDA_ERROR_OUT_OF_MEMORY;
	array->descriptor = *descriptor;
	array->context = context;
	array->bytes = descriptor->Width * element_bytes(descriptor);
	error = sc_range_allocate(array->bytes, context, &range);
	if (error)
		goto out_free;
	array->base = range->base;
	array->key = sc_object_add(SC_ARRAY, array);
	if (array->key) {
		*out = array;
		return CUDA_SUCCESS;
	}
	sc_range_free(range);
	error = CUDA_ERROR_OUT_OF_MEMORY;
out_free:
	free(array);
	return error;
}

CUresult CUDAAPI cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct array *array;

	if (!error)
		error = sc_capture_unsafe();
	if (error)
		return error;
	if (!pHandle || !pAllocateArray || !pAllocateArray->Width || !element_bytes(pAllocateArray) ||
		pAllocateArray->Width > SIZE_MAX / 16)
		return CUDA_ERROR_INVALID_VALUE;
	if (pAllocateArray->Height)
		return CUDA_ERROR_NOT_SUPPORTED;
	pthread_mutex_lock(&sc_lock);
	error = array_make(context, pAllocateArray, &array);
	if (!error)
		*pHandle = (CUarray)(uintptr_t)array->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuArrayGetDescriptor(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	const struct array *array;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	array = sc_object_find(SC_ARRAY, sc_key(hArray));
	if (array && pArrayDescriptor)
		*pArrayDescriptor = array->descriptor;
	pthread_mutex_unlock(&sc_lock);
	if (!array)
		return CUDA_ERROR_INVALID_HANDLE;
	return pArrayDescriptor ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuArrayDestroy(CUarray hArray)
{
	struct sc_context *context;
	CUresult error = sc_enter_release(__func__, &context);
	struct array *array;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	array = sc_object_find(SC_ARRAY, sc_key(hArray));
	pthread_mutex_unlock(&sc_lock);
	if (!array)
		return CUDA_ERROR_INVALID_HANDLE;
	if (context)
		sc_context_drain(context); /* copies may still use it */
	pthread_mutex_lock(&sc_lock);
	array = sc_object_remove(SC_ARRAY, sc_key(hArray));
	if (array)
		sc_range_free(sc_range_find(array->base));
	pthread_mutex_unlock(&sc_lock);
	free(array);
	return CUDA_SUCCESS;
}

/* Their memory goes with the context's ranges. */
void sc_arrays_free_of(struct sc_context *context)
{
	struct array *array;
	size_t cursor = 0;

	while ((array = sc_object_next(SC_ARRAY, &cursor))) {
		if (array->context != context)
			continue;
		sc_object_remove(SC_ARRAY, array->key);
		free(array);
	}
}

/* ---- copies of a line ---- */

/* [offset, offset + bytes) of an array; false: it has not as much. */
static bool part_of(CUarray handle, size_t offset, size_t bytes, struct sc_side *side, CUresult *error)
{
	const struct array *array;

	pthread_mutex_lock(&sc_lock);
	array = sc_object_find(SC_ARRAY, sc_key(handle));
	*error = !array                                                   ? CUDA_ERROR_INVALID_HANDLE
		 : offset > array->bytes || bytes > array->bytes - offset ? CUDA_ERROR_INVALID_VALUE
									  : CUDA_SUCCESS;
	if (!*error)
		*side = sc_side_device(array->base + offset, bytes);
	pthread_mutex_unlock(&sc_lock);
	return !*error;
}

/* One end of a line: an array's part, or memory. */
struct end {
	CUarray array;
	size_t offset;
	struct sc_side memory;
	bool is_array;
};

static CUresult line_copy(
	const char *function, struct end to, struct end from, size_t bytes, CUstream stream, bool asynchronous)
{
	struct sc_copy copy = {.to = to.memory, .from = from.memory, .width = bytes, .height = 1, .depth = 1};
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	if (error || (to.is_array && !part_of(to.array, to.offset, bytes, &copy.to, &error)) ||
		(from.is_array && !part_of(from.array, from.offset, bytes, &copy.from, &error)))
		return error;
	return sc_copy_call(context, function, &copy, stream, asynchronous);
}

static struct end end_array(CUarray array, size_t offset)
{
	return (struct end){.array = array, .offset = offset, .is_array = true};
}

static struct end end_device(CUdeviceptr address, size_t bytes)
{
	return (struct end){.memory = sc_side_device(address, bytes)};
}

static struct end end_host(const void *address, size_t bytes)
{
	return (struct end){.memory = sc_side_host(address, bytes)};
}

CUresult CUDAAPI cuMemcpyAtoD(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return line_copy(
		__func__, end_device(dstDevice, ByteCount), end_array(srcArray, srcOffset), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyDtoA(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice, size_t ByteCount)
{
	return line_copy(
		__func__, end_array(dstArray, dstOffset), end_device(srcDevice, ByteCount), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyHtoA(CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount)
{
	return line_copy(
		__func__, end_array(dstArray, dstOffset), end_host(srcHost, ByteCount), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyAtoH(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return line_copy(
		__func__, end_host(dstHost, ByteCount), end_array(srcArray, srcOffset), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyAtoA(CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return line_copy(
		__func__, end_array(dstArray, dstOffset), end_array(srcArray, srcOffset), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyHtoAAsync(
	CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	return line_copy(
		__func__, end_array(dstArray, dstOffset), end_host(srcHost, ByteCount), ByteCount, hStream, true);
}

CUresult CUDAAPI cuMemcpyAtoHAsync(
	void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount, CUstream hStream)
{
	return line_copy(
		__func__, end_host(dstHost, ByteCount), end_array(srcArray, srcOffset), ByteCount, hStream, true);
}
