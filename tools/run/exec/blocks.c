/*
 * tools/run/exec/blocks.c: whether a cache is block-major: one allocation for all layers, cut into blocks of a few tokens, each of
 * which holds rows of every layer. Then a granule holds all layers too, and none of them can share it.
 *
 * What is seen of it: the places to which the layers' rows are stored lie together at the start of the allocation, less than a
 * granule apart, and one of the writers' parameters is a stride that leads over all of them. In a cache whose layers lie one
 * behind the other no stride is longer than a layer. With two places the allocation is of one layer, and its blocks hold K and V.
 */
#include "exec.h"

#define LEAST_PLACES 2 /* K and V of one layer */

/* What the places in an allocation take: from the first of them to the last, and how far apart they are at least. */
struct row {
	size_t count, first, last, distance;
};

static struct row row_of(const struct exec_places *p, size_t allocation)
{
	struct row row = {0, SIZE_MAX, 0, SIZE_MAX};

	for (size_t i = 0; i < p->count; i++) {
		size_t at = p->at[i].offset;

		if (p->at[i].allocation != allocation)
			continue;
		row.count++;
		row.first = at < row.first ? at : row.first;
		row.last = at > row.last ? at : row.last;
		for (size_t j = 0; j < p->count; j++)
			if (p->at[j].allocation == allocation && p->at[j].offset > at &&
				p->at[j].offset - at < row.distance)
				row.distance = p->at[j].offset - at;
	}
	return row;
}

/* The shortest stride, of elements of 1, 2 or 4 bytes, that leads over the whole row to another that has room behind it; 0: none. */
static size_t stride_find(const struct exec_places *p, const struct row *row, size_t room)
{
	size_t least = row->last - row->first + row->distance, best = 0;

	for (size_t i = 0; i < p->number_count; i++)
		for (size_t bytes = p->numbers[i], size = 1; size <= 4; size *= 2, bytes *= 2)
			if (bytes >= least && bytes % row->distance == 0 && bytes <= room - least &&
				(!best || bytes < best))
				best = bytes;
	return best;
}

bool exec_blocks_find(const struct exec_places *p, struct exec_blocks *out)
{
	for (size_t i = 0; i < p->allocations; i++) {
		struct row row = row_of(p, i);
		size_t least = row.last - row.first + row.distance, stride;

		if (row.count < LEAST_PLACES || row.distance >= p->granule || p->bytes[i] - row.first < least)
			continue;
		stride = stride_find(p, &row, p->bytes[i] - row.first);
		*out = (struct exec_blocks){row.count, row.distance, stride, p->bytes[i]};
		if (stride)
			return true;
	}
	return false;
}
