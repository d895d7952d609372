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

/* The same by one table, for whoever asks several times and needs answers that agree; NULL: nothing is shared. */
CUresult shim_split_by(
	const struct shim_ranges *ranges, CUdeviceptr to, size_t bytes, shim_part_fn *make, const void *arg);
bool shim_box_move_by(const struct shim_ranges *ranges, CUdeviceptr to, size_t pitch, size_t width, size_t height,
	CUdeviceptr *moved);

#endif
