/*
 * tools/preload/memcpy.c: hooks of copies. A copy into a borrower goes to its sink; a copy out of one reads its owner.
 */
#include "preload.h"

#include "split.h"

/* One copy in a line: its source is memory of the host or of the device, or an array. */
struct copy {
	const void *from_host;
	CUdeviceptr from;
	CUarray from_array;
	size_t from_offset;
	CUstream stream;
	union {
		__typeof__(cuMemcpy) *any; /* also DtoD */
		__typeof__(cuMemcpyAsync) *any_async;
		__typeof__(cuMemcpyHtoD_v2) *host;
		__typeof__(cuMemcpyHtoDAsync_v2) *host_async;
		__typeof__(cuMemcpyAtoD_v2) *array;
	};
	enum { ANY, ANY_ASYNC, HOST, HOST_ASYNC, ARRAY } kind;
};

static CUresult line_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct copy *copy = arg;
	const char *from_host = copy->from_host;

	switch (copy->kind) {
	case ANY:
		return copy->any(to, copy->from + offset, bytes);
	case ANY_ASYNC:
		return copy->any_async(to, copy->from + offset, bytes, copy->stream);
	case HOST:
		return copy->host(to, from_host ? from_host + offset : NULL, bytes);
	case ARRAY:
		return copy->array(to, copy->from_array, copy->from_offset + offset, bytes);
	default:
		return copy->host_async(to, from_host ? from_host + offset : NULL, bytes, copy->stream);
	}
}

static CUresult line(CUdeviceptr to, size_t bytes, struct copy copy)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	return copy.any ? shim_fault_check(shim_split(to, bytes, line_make, &copy), NULL) : SHIM_ABSENT;
}

struct box {
	const CUDA_MEMCPY2D *copy;
	size_t row;
	CUstream stream;
	__typeof__(cuMemcpy2D_v2) *call;
	__typeof__(cuMemcpy2DAsync_v2) *call_async;
};

static CUresult box_make(const struct box *box, const CUDA_MEMCPY2D *copy)
{
	return shim_fault_check(box->call ? box->call(copy) : box->call_async(copy, box->stream), NULL);
}

static CUresult row_part_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct box *box = arg;
	CUDA_MEMCPY2D part = *box->copy;

	part.srcY += box->row;
	part.srcXInBytes += offset;
	part.dstY = part.dstXInBytes = 0;
	part.dstDevice = to;
	part.WidthInBytes = bytes;
	part.Height = 1;
	return box_make(box, &part);
}

/* A box of rows into device memory; the source is left as it is. */
static CUresult box(const CUDA_MEMCPY2D *copy, CUstream stream, __typeof__(cuMemcpy2D_v2) *call,
	__typeof__(cuMemcpy2DAsync_v2) *call_async)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	struct box whole = {copy, 0, stream, call, call_async};
	CUresult result = CUDA_SUCCESS;
	CUDA_MEMCPY2D tight, part;
	CUdeviceptr start, moved;

	if (!call && !call_async)
		return SHIM_ABSENT;
	if (!copy || !shim_ranges() ||
		(copy->dstMemoryType != CU_MEMORYTYPE_DEVICE && copy->dstMemoryType != CU_MEMORYTYPE_UNIFIED))
		return box_make(&whole, copy);
	part = tight = *copy;
	shim_tighten_2d(&tight);
	start = tight.dstDevice + tight.dstY * tight.dstPitch + tight.dstXInBytes;
	if (shim_box_move(start, tight.dstPitch, tight.WidthInBytes, tight.Height, &moved)) {
		part.dstDevice += moved - start;
		return box_make(&whole, &part);
	}
	for (size_t row = 0; !result && row < tight.Height; row++) {
		struct box one = {&tight, row, stream, call, call_async};

		result = shim_split(start + row * tight.dstPitch, tight.WidthInBytes, row_part_make, &one);
	}
	return result;
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return line(dst, ByteCount, (struct copy){.from = src, .any = shim_real()->cuMemcpy, .kind = ANY});
}

CUresult CUDAAPI cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return line(dst, ByteCount, (struct copy){.from = src, .any = shim_real()->cuMemcpy_ptds, .kind = ANY});
}

CUresult CUDAAPI cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return line(dst, ByteCount, (struct copy){.from = src, .any = shim_real()->cuMemcpyDtoD_v2, .kind = ANY});
}

CUresult CUDAAPI cuMemcpyDtoD_v2_ptds(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
	return line(dst, ByteCount, (struct copy){.from = src, .any = shim_real()->cuMemcpyDtoD_v2_ptds, .kind = ANY});
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return line(dst, ByteCount,
		(struct copy){
			.from = src, .stream = hStream, .any_async = shim_real()->cuMemcpyAsync, .kind = ANY_ASYNC});
}

CUresult CUDAAPI cuMemcpyAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return line(dst, ByteCount,
		(struct copy){.from = src,
			.stream = hStream,
			.any_async = shim_real()->cuMemcpyAsync_ptsz,
			.kind = ANY_ASYNC});
}

CUresult CUDAAPI cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return line(dst, ByteCount,
		(struct copy){.from = src,
			.stream = hStream,
			.any_async = shim_real()->cuMemcpyDtoDAsync_v2,
			.kind = ANY_ASYNC});
}

CUresult CUDAAPI cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
	return line(dst, ByteCount,
		(struct copy){.from = src,
			.stream = hStream,
			.any_async = shim_real()->cuMemcpyDtoDAsync_v2_ptsz,
			.kind = ANY_ASYNC});
}

CUresult CUDAAPI cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_host = srcHost, .host = shim_real()->cuMemcpyHtoD_v2, .kind = HOST});
}

CUresult CUDAAPI cuMemcpyHtoD_v2_ptds(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_host = srcHost, .host = shim_real()->cuMemcpyHtoD_v2_ptds, .kind = HOST});
}

CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_host = srcHost,
			.stream = hStream,
			.host_async = shim_real()->cuMemcpyHtoDAsync_v2,
			.kind = HOST_ASYNC});
}

CUresult CUDAAPI cuMemcpyHtoDAsync_v2_ptsz(
	CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_host = srcHost,
			.stream = hStream,
			.host_async = shim_real()->cuMemcpyHtoDAsync_v2_ptsz,
			.kind = HOST_ASYNC});
}

CUresult CUDAAPI cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_array = srcArray,
			.from_offset = srcOffset,
			.array = shim_real()->cuMemcpyAtoD_v2,
			.kind = ARRAY});
}

CUresult CUDAAPI cuMemcpyAtoD_v2_ptds(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct copy){.from_array = srcArray,
			.from_offset = srcOffset,
			.array = shim_real()->cuMemcpyAtoD_v2_ptds,
			.kind = ARRAY});
}

/* Copies out of the cache read the owners: nothing has to be done about them. */
static CUresult out(void *to, CUdeviceptr from, size_t bytes, CUstream stream, __typeof__(cuMemcpyDtoH_v2) *plain,
	__typeof__(cuMemcpyDtoHAsync_v2) *plain_async)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);

	if (!plain && !plain_async)
		return SHIM_ABSENT;
	return shim_fault_check(plain ? plain(to, from, bytes) : plain_async(to, from, bytes, stream), NULL);
}

CUresult CUDAAPI cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
	return out(dstHost, srcDevice, ByteCount, NULL, shim_real()->cuMemcpyDtoH_v2, NULL);
}

CUresult CUDAAPI cuMemcpyDtoH_v2_ptds(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
	return out(dstHost, srcDevice, ByteCount, NULL, shim_real()->cuMemcpyDtoH_v2_ptds, NULL);
}

CUresult CUDAAPI cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
	return box(pCopy, NULL, shim_real()->cuMemcpy2D_v2, NULL);
}

CUresult CUDAAPI cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *pCopy)
{
	return box(pCopy, NULL, shim_real()->cuMemcpy2D_v2_ptds, NULL);
}

CUresult CUDAAPI cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
	return box(pCopy, NULL, shim_real()->cuMemcpy2DUnaligned_v2, NULL);
}

CUresult CUDAAPI cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *pCopy)
{
	return box(pCopy, NULL, shim_real()->cuMemcpy2DUnaligned_v2_ptds, NULL);
}

CUresult CUDAAPI cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
	return box(pCopy, hStream, NULL, shim_real()->cuMemcpy2DAsync_v2);
}

CUresult CUDAAPI cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
	return box(pCopy, hStream, NULL, shim_real()->cuMemcpy2DAsync_v2_ptsz);
}

CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	return out(dstHost, srcDevice, ByteCount, hStream, NULL, shim_real()->cuMemcpyDtoHAsync_v2);
}

CUresult CUDAAPI cuMemcpyDtoHAsync_v2_ptsz(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	return out(dstHost, srcDevice, ByteCount, hStream, NULL, shim_real()->cuMemcpyDtoHAsync_v2_ptsz);
}
