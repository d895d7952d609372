/*
 * tools/preload/split.h: a store by the driver, to memory that may lie in several tensors, as the parts that it has to be
 * made in (split.c).
 */
#ifndef SHIM_SPLIT_H
#define SHIM_SPLIT_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>

struct shim_ranges;

/* `bytes` bytes to `to`; `offset`: how far they are from the start of the whole. */
typedef CUresult shim_part_fn(const void *arg, CUdeviceptr to, size_t offset, size_t bytes);
/* Calls `make` once where nothing is shared, else for each part, in order, until one fails. */
CUresult shim_split(CUdeviceptr to, size_t bytes, shim_part_fn *make, const void *arg);

/* Where a box of rows goes as a whole: to itself, or to the sink. False: its parts go to different places. */
bool shim_box_move(CUdeviceptr to, size_t pitch, size_t width, size_t height, CUdeviceptr *moved);

/* A pitch or height of 0 means that rows or slices follow each other: here they are told. */
static inline void shim_tighten_2d(CUDA_MEMCPY2D *copy)
{
	copy->srcPitch = copy->srcPitch ? copy->srcPitch : copy->srcXInBytes + copy->WidthInBytes;
	copy->dstPitch = copy->dstPitch ? copy->dstPitch : copy->dstXInBytes + copy->WidthInBytes;
}

static inline void shim_tighten_3d(CUDA_MEMCPY3D *copy)
{
	copy->srcPitch = copy->srcPitch ? copy->srcPitch : copy->srcXInBytes + copy->WidthInBytes;
	copy->dstPitch = copy->dstPitch ? copy->dstPitch : copy->dstXInBytes + copy->WidthInBytes;
	copy->srcHeight = copy->srcHeight ? copy->srcHeight : copy->srcY + copy->Height;
	copy->dstHeight = copy->dstHeight ? copy->dstHeight : copy->dstY + copy->Height;
}

/* The same by one table, for whoever asks several times and needs answers that agree; NULL: nothing is shared. */
CUresult shim_split_by(
	const struct shim_ranges *ranges, CUdeviceptr to, size_t bytes, shim_part_fn *make, const void *arg);
bool shim_box_move_by(const struct shim_ranges *ranges, CUdeviceptr to, size_t pitch, size_t width, size_t height,
	CUdeviceptr *moved);

#endif
