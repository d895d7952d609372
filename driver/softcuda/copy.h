/*
 * driver/softcuda/copy.h: a copy or a memset, of one row or many.
 */
#ifndef SOFTCUDA_COPY_H
#define SOFTCUDA_COPY_H

#include "stream.h"

struct sc_side {
	bool device; /* checked against the device's mappings */
	uintptr_t address;
	size_t pitch; /* bytes from row to row */
};

struct sc_copy {
	struct sc_side to, from;
	size_t width, height;   /* bytes of a row, rows */
	unsigned pattern_bytes; /* 1, 2 or 4: a memset with `pattern`, `from` is not used; 0: a copy */
	uint32_t pattern;
};

/* Pageable memory is staged at the call up to here; the call waits for what is more, which CUDA leaves open. */
#define SC_STAGE_LIMIT ((size_t)64 * 1024)

CUresult sc_copy_submit(const char *what, struct sc_stream *stream, const struct sc_copy *copy, bool asynchronous);

#endif
