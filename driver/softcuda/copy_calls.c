/*
 * driver/softcuda/copy_calls.c: the driver's calls that copy or set memory: each turns its assumptions about the two
 * sides into a struct sc_copy.
 */
#include "copy.h"

#include "memory.h"

/* Under unified addressing a pointer itself says which side it is on. */
struct sc_side sc_side_of(uintptr_t address, size_t pitch)
{
	return (struct sc_side){.device = sc_is_known(address), .address = address, .pitch = pitch};
}

struct sc_side sc_side_device(uintptr_t address, size_t pitch)
{
	return (struct sc_side){.device = true, .address = address, .pitch = pitch};
}

struct sc_side sc_side_host(const void *address, size_t pitch)
{
	return (struct sc_side){.device = false, .address = (uintptr_t)address, .pitch = pitch};
}

/* An address unknown to the device is refused at the call; everything else is found when the copy runs. */
static bool side_is_valid(const struct sc_side *side)
{
	return side->address && (!side->device || sc_is_known(side->address));
}

bool sc_copy_is_valid(const struct sc_copy *copy)
{
	return !copy->width || !copy->height || !copy->depth ||
	       (side_is_valid(&copy->to) && (copy->pattern_bytes || side_is_valid(&copy->from)));
}

/* The legacy default stream's forms (stream NULL, not asynchronous) and the asynchronous ones. */
CUresult sc_copy_call(struct sc_context *context, const char *function, const struct sc_copy *copy, CUstream handle,
	bool asynchronous)
{
	struct sc_stream *stream;
	CUresult error;

	if (!sc_copy_is_valid(copy))
		return CUDA_ERROR_INVALID_VALUE;
	stream = sc_stream_get(context, handle);
	if (!stream)
		return CUDA_ERROR_INVALID_HANDLE;
	error = sc_copy_submit(function, stream, copy, asynchronous);
	sc_stream_put(stream);
	return error;
}

static CUresult copy_flat(
	const char *function, struct sc_side to, struct sc_side from, size_t bytes, CUstream handle, bool asynchronous)
{
	const struct sc_copy copy = {.to = to, .from = from, .width = bytes, .height = 1, .depth = 1};
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	return error ? error : sc_copy_call(context, function, &copy, handle, asynchronous);
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return copy_flat(__func__, sc_side_of(dst, ByteCount), sc_side_of(src, ByteCount), ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return copy_flat(__func__, sc_side_of(dst, ByteCount), sc_side_of(src, ByteCount), ByteCount, hStream, true);
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
	return copy_flat(__func__, sc_side_device(dstDevice, ByteCount), sc_side_host(srcHost, ByteCount), ByteCount,
		NULL, false);
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	return copy_flat(__func__, sc_side_device(dstDevice, ByteCount), sc_side_host(srcHost, ByteCount), ByteCount,
		hStream, true);
}

CUresult CUDAAPI cuMemcpyDtoH(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
	return copy_flat(__func__, sc_side_host(dstHost, ByteCount), sc_side_device(srcDevice, ByteCount), ByteCount,
		NULL, false);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	return copy_flat(__func__, sc_side_host(dstHost, ByteCount), sc_side_device(srcDevice, ByteCount), ByteCount,
		hStream, true);
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
	return copy_flat(__func__, sc_side_device(dstDevice, ByteCount), sc_side_device(srcDevice, ByteCount),
		ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	return copy_flat(__func__, sc_side_device(dstDevice, ByteCount), sc_side_device(srcDevice, ByteCount),
		ByteCount, hStream, true);
}

/* One side of a 2D copy, at its first byte. */
static CUresult side_2d(CUmemorytype type, CUdeviceptr device, const void *host, size_t pitch, size_t x, size_t y,
	size_t width, struct sc_side *side)
{
	size_t start;

	if (pitch == 0)
		pitch = x + width;
	start = y * pitch + x;
	if (pitch < x + width)
		return CUDA_ERROR_INVALID_VALUE;
	switch (type) {
	case CU_MEMORYTYPE_HOST:
		*side = sc_side_host((const char *)host + start, pitch);
		return CUDA_SUCCESS;
	case CU_MEMORYTYPE_DEVICE:
		*side = sc_side_device((uintptr_t)device + start, pitch);
		return CUDA_SUCCESS;
	case CU_MEMORYTYPE_UNIFIED:
		*side = sc_side_of((uintptr_t)device + start, pitch);
		return CUDA_SUCCESS;
	default: /* CUDA arrays: there are none here */
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}

static CUresult copy_2d(const char *function, const CUDA_MEMCPY2D *p, CUstream stream, bool asynchronous)
{
	struct sc_copy copy = {0};
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	if (error)
		return error;
	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	copy.width = p->WidthInBytes;
	copy.height = p->Height;
	copy.depth = 1;
	error = side_2d(p->dstMemoryType, p->dstDevice, p->dstHost, p->dstPitch, p->dstXInBytes, p->dstY,
		p->WidthInBytes, &copy.to);
	if (!error)
		error = side_2d(p->srcMemoryType, p->srcDevice, p->srcHost, p->srcPitch, p->srcXInBytes, p->srcY,
			p->WidthInBytes, &copy.from);
	return error ? error : sc_copy_call(context, function, &copy, stream, asynchronous);
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(__func__, pCopy, NULL, false);
}

CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(__func__, pCopy, NULL, false);
}

CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
	return copy_2d(__func__, pCopy, hStream, true);
}

/* ---- memsets: `width` in elements of `bytes` each, which the address must be aligned to ---- */

static CUresult set_memory(const char *function, CUdeviceptr to, size_t pitch, unsigned bytes, uint32_t value,
	size_t width, size_t height, CUstream stream, bool asynchronous)
{
	struct sc_copy copy = {.pattern_bytes = bytes, .pattern = value, .height = height, .depth = 1};
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	if (error)
		return error;
	if (to % bytes || width > SIZE_MAX / bytes || (height > 1 && (pitch % bytes || pitch < width * bytes)))
		return CUDA_ERROR_INVALID_VALUE;
	copy.width = width * bytes;
	copy.to = sc_side_device((uintptr_t)to, height > 1 ? pitch : copy.width);
	return sc_copy_call(context, function, &copy, stream, asynchronous);
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
	return set_memory(__func__, dstDevice, 0, 1, uc, N, 1, NULL, false);
}

CUresult CUDAAPI cuMemsetD16(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
	return set_memory(__func__, dstDevice, 0, 2, us, N, 1, NULL, false);
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
	return set_memory(__func__, dstDevice, 0, 4, ui, N, 1, NULL, false);
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
	return set_memory(__func__, dstDevice, 0, 1, uc, N, 1, hStream, true);
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
	return set_memory(__func__, dstDevice, 0, 2, us, N, 1, hStream, true);
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
	return set_memory(__func__, dstDevice, 0, 4, ui, N, 1, hStream, true);
}

CUresult CUDAAPI cuMemsetD2D8(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height)
{
	return set_memory(__func__, dstDevice, dstPitch, 1, uc, Width, Height, NULL, false);
}

CUresult CUDAAPI cuMemsetD2D16(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height)
{
	return set_memory(__func__, dstDevice, dstPitch, 2, us, Width, Height, NULL, false);
}

CUresult CUDAAPI cuMemsetD2D32(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height)
{
	return set_memory(__func__, dstDevice, dstPitch, 4, ui, Width, Height, NULL, false);
}

CUresult CUDAAPI cuMemsetD2D8Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream hStream)
{
	return set_memory(__func__, dstDevice, dstPitch, 1, uc, Width, Height, hStream, true);
}

CUresult CUDAAPI cuMemsetD2D16Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream hStream)
{
	return set_memory(__func__, dstDevice, dstPitch, 2, us, Width, Height, hStream, true);
}

CUresult CUDAAPI cuMemsetD2D32Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream hStream)
{
	return set_memory(__func__, dstDevice, dstPitch, 4, ui, Width, Height, hStream, true);
}
