/*
 * tools/preload/memset.c: hooks of memsets. What is meant for a borrower goes to its sink, all the rest where it should:
 * a program that clears its whole cache clears each owner once.
 */
#include "preload.h"

#include "split.h"

/* One memset, whatever its unit, and whether it has a stream. */
struct set {
	CUdeviceptr to;
	size_t unit_bytes, pitch, width, height; /* in units and rows; 1D: height 1 */
	unsigned value;
	CUstream stream;
	const union set_call *call;
	bool async;
};

union set_call {
	__typeof__(cuMemsetD8_v2) *d8;
	__typeof__(cuMemsetD16_v2) *d16;
	__typeof__(cuMemsetD32_v2) *d32;
	__typeof__(cuMemsetD8Async) *d8_async;
	__typeof__(cuMemsetD16Async) *d16_async;
	__typeof__(cuMemsetD32Async) *d32_async;
	__typeof__(cuMemsetD2D8_v2) *rows8;
	__typeof__(cuMemsetD2D16_v2) *rows16;
	__typeof__(cuMemsetD2D32_v2) *rows32;
	__typeof__(cuMemsetD2D8Async) *rows8_async;
	__typeof__(cuMemsetD2D16Async) *rows16_async;
	__typeof__(cuMemsetD2D32Async) *rows32_async;
};

static CUresult line_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct set *set = arg;
	size_t count = bytes / set->unit_bytes;

	(void)offset;
	switch (set->unit_bytes) {
	case 1:
		return set->async ? set->call->d8_async(to, (unsigned char)set->value, count, set->stream)
				  : set->call->d8(to, (unsigned char)set->value, count);
	case 2:
		return set->async ? set->call->d16_async(to, (unsigned short)set->value, count, set->stream)
				  : set->call->d16(to, (unsigned short)set->value, count);
	default:
		return set->async ? set->call->d32_async(to, set->value, count, set->stream)
				  : set->call->d32(to, set->value, count);
	}
}

static CUresult rows_make(const struct set *set, CUdeviceptr to, size_t height)
{
	switch (set->unit_bytes) {
	case 1:
		return set->async ? set->call->rows8_async(
					    to, set->pitch, (unsigned char)set->value, set->width, height, set->stream)
				  : set->call->rows8(to, set->pitch, (unsigned char)set->value, set->width, height);
	case 2:
		return set->async ? set->call->rows16_async(
					    to, set->pitch, (unsigned short)set->value, set->width, height, set->stream)
				  : set->call->rows16(to, set->pitch, (unsigned short)set->value, set->width, height);
	default:
		return set->async ? set->call->rows32_async(to, set->pitch, set->value, set->width, height, set->stream)
				  : set->call->rows32(to, set->pitch, set->value, set->width, height);
	}
}

static CUresult line(CUdeviceptr to, size_t unit_bytes, unsigned value, size_t count, CUstream stream, bool async,
	union set_call call)
{
	const struct set set = {
		.to = to, .unit_bytes = unit_bytes, .value = value, .stream = stream, .call = &call, .async = async};

	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MEMSETS);
	if (!call.d8)
		return SHIM_ABSENT;
	if (count > SIZE_MAX / unit_bytes) /* the driver has the answer */
		return line_make(&set, to, 0, SIZE_MAX);
	return shim_fault_check(shim_split(to, count * unit_bytes, line_make, &set), NULL);
}

static CUresult row_part_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	struct set part = *(const struct set *)arg;

	(void)offset;
	part.width = bytes / part.unit_bytes;
	return rows_make(&part, to, 1);
}

/* Rows that lie in one tensor move as they are; those of a box over several, row by row, in as many parts as it takes. */
static CUresult rows(CUdeviceptr to, size_t pitch, size_t unit_bytes, unsigned value, size_t width, size_t height,
	CUstream stream, bool async, union set_call call)
{
	const struct set set = {.to = to,
		.unit_bytes = unit_bytes,
		.pitch = pitch,
		.value = value,
		.width = width,
		.height = height,
		.stream = stream,
		.call = &call,
		.async = async};
	CUdeviceptr moved;
	CUresult result = CUDA_SUCCESS;

	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MEMSETS);
	if (!call.d8)
		return SHIM_ABSENT;
	if (shim_box_move(to, pitch, width * unit_bytes, height, &moved))
		return rows_make(&set, moved, height);
	for (size_t row = 0; !result && row < height; row++)
		result = shim_split(to + row * pitch, width * unit_bytes, row_part_make, &set);
	return result;
}

CUresult CUDAAPI cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
	return line(dstDevice, 1, uc, N, NULL, false, (union set_call){.d8 = shim_real()->cuMemsetD8_v2});
}

CUresult CUDAAPI cuMemsetD8_v2_ptds(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
	return line(dstDevice, 1, uc, N, NULL, false, (union set_call){.d8 = shim_real()->cuMemsetD8_v2_ptds});
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
	return line(dstDevice, 1, uc, N, hStream, true, (union set_call){.d8_async = shim_real()->cuMemsetD8Async});
}

CUresult CUDAAPI cuMemsetD8Async_ptsz(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
	return line(
		dstDevice, 1, uc, N, hStream, true, (union set_call){.d8_async = shim_real()->cuMemsetD8Async_ptsz});
}

CUresult CUDAAPI cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 1, uc, Width, Height, NULL, false,
		(union set_call){.rows8 = shim_real()->cuMemsetD2D8_v2});
}

CUresult CUDAAPI cuMemsetD2D8_v2_ptds(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 1, uc, Width, Height, NULL, false,
		(union set_call){.rows8 = shim_real()->cuMemsetD2D8_v2_ptds});
}

CUresult CUDAAPI cuMemsetD2D8Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 1, uc, Width, Height, hStream, true,
		(union set_call){.rows8_async = shim_real()->cuMemsetD2D8Async});
}

CUresult CUDAAPI cuMemsetD2D8Async_ptsz(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 1, uc, Width, Height, hStream, true,
		(union set_call){.rows8_async = shim_real()->cuMemsetD2D8Async_ptsz});
}

CUresult CUDAAPI cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
	return line(dstDevice, 2, us, N, NULL, false, (union set_call){.d16 = shim_real()->cuMemsetD16_v2});
}

CUresult CUDAAPI cuMemsetD16_v2_ptds(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
	return line(dstDevice, 2, us, N, NULL, false, (union set_call){.d16 = shim_real()->cuMemsetD16_v2_ptds});
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
	return line(dstDevice, 2, us, N, hStream, true, (union set_call){.d16_async = shim_real()->cuMemsetD16Async});
}

CUresult CUDAAPI cuMemsetD16Async_ptsz(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
	return line(
		dstDevice, 2, us, N, hStream, true, (union set_call){.d16_async = shim_real()->cuMemsetD16Async_ptsz});
}

CUresult CUDAAPI cuMemsetD2D16_v2(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 2, us, Width, Height, NULL, false,
		(union set_call){.rows16 = shim_real()->cuMemsetD2D16_v2});
}

CUresult CUDAAPI cuMemsetD2D16_v2_ptds(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 2, us, Width, Height, NULL, false,
		(union set_call){.rows16 = shim_real()->cuMemsetD2D16_v2_ptds});
}

CUresult CUDAAPI cuMemsetD2D16Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 2, us, Width, Height, hStream, true,
		(union set_call){.rows16_async = shim_real()->cuMemsetD2D16Async});
}

CUresult CUDAAPI cuMemsetD2D16Async_ptsz(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 2, us, Width, Height, hStream, true,
		(union set_call){.rows16_async = shim_real()->cuMemsetD2D16Async_ptsz});
}

CUresult CUDAAPI cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
	return line(dstDevice, 4, ui, N, NULL, false, (union set_call){.d32 = shim_real()->cuMemsetD32_v2});
}

CUresult CUDAAPI cuMemsetD32_v2_ptds(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
	return line(dstDevice, 4, ui, N, NULL, false, (union set_call){.d32 = shim_real()->cuMemsetD32_v2_ptds});
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
	return line(dstDevice, 4, ui, N, hStream, true, (union set_call){.d32_async = shim_real()->cuMemsetD32Async});
}

CUresult CUDAAPI cuMemsetD32Async_ptsz(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
	return line(
		dstDevice, 4, ui, N, hStream, true, (union set_call){.d32_async = shim_real()->cuMemsetD32Async_ptsz});
}

CUresult CUDAAPI cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 4, ui, Width, Height, NULL, false,
		(union set_call){.rows32 = shim_real()->cuMemsetD2D32_v2});
}

CUresult CUDAAPI cuMemsetD2D32_v2_ptds(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height)
{
	return rows(dstDevice, dstPitch, 4, ui, Width, Height, NULL, false,
		(union set_call){.rows32 = shim_real()->cuMemsetD2D32_v2_ptds});
}

CUresult CUDAAPI cuMemsetD2D32Async(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 4, ui, Width, Height, hStream, true,
		(union set_call){.rows32_async = shim_real()->cuMemsetD2D32Async});
}

CUresult CUDAAPI cuMemsetD2D32Async_ptsz(
	CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream hStream)
{
	return rows(dstDevice, dstPitch, 4, ui, Width, Height, hStream, true,
		(union set_call){.rows32_async = shim_real()->cuMemsetD2D32Async_ptsz});
}
