/*
 * tools/preload/split.c: cuts a store of the driver's at the edges of borrowers.
 */
#include "split.h"

#include "preload.h"

/* The first borrower that ends behind `address`, or NULL. */
static const struct shim_range *borrower_next(const struct shim_ranges *ranges, CUdeviceptr address)
{
	const struct shim_range *range = shim_range_next(ranges, address);

	while (range && !range->sink)
		range = range + 1 < ranges->range + ranges->count ? range + 1 : NULL;
	return range;
}

static bool is_elsewhere(const struct shim_ranges *ranges, CUdeviceptr to, size_t bytes)
{
	return !ranges || to >= ranges->high || bytes <= (to < ranges->low ? ranges->low - to : 0);
}

CUresult shim_split_by(
	const struct shim_ranges *ranges, CUdeviceptr to, size_t bytes, shim_part_fn *make, const void *arg)
{
	CUresult result = CUDA_SUCCESS;

	if (is_elsewhere(ranges, to, bytes))
		return make(arg, to, 0, bytes);
	for (size_t at = 0, part; !result && at < bytes; at += part) {
		const struct shim_range *range = borrower_next(ranges, to + at);
		bool inside = range && range->base <= to + at;

		part = bytes - at;
		if (inside && range->base + range->bytes - (to + at) < part)
			part = range->base + range->bytes - (to + at);
		else if (!inside && range && range->base - (to + at) < part)
			part = range->base - (to + at);
		result = make(arg, inside ? range->sink + (to + at - range->base) : to + at, at, part);
	}
	return result;
}

CUresult shim_split(CUdeviceptr to, size_t bytes, shim_part_fn *make, const void *arg)
{
	return shim_split_by(shim_ranges(), to, bytes, make, arg);
}

bool shim_box_move_by(
	const struct shim_ranges *ranges, CUdeviceptr to, size_t pitch, size_t width, size_t height, CUdeviceptr *moved)
{
	const struct shim_range *range;
	size_t bytes = height ? (height - 1) * pitch + width : 0;

	*moved = to;
	if (!bytes || is_elsewhere(ranges, to, bytes))
		return true;
	range = borrower_next(ranges, to);
	if (!range || range->base >= to + bytes)
		return true;
	if (range->base > to || range->base + range->bytes < to + bytes)
		return false;
	*moved = range->sink + (to - range->base);
	return true;
}

bool shim_box_move(CUdeviceptr to, size_t pitch, size_t width, size_t height, CUdeviceptr *moved)
{
	return shim_box_move_by(shim_ranges(), to, pitch, width, height, moved);
}
