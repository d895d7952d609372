/*
 * driver/softcuda/copy.h: a copy or a memset, of one row, of rows, or of slices of rows.
 */
#ifndef SOFTCUDA_COPY_H
#define SOFTCUDA_COPY_H

#include "stream.h"

struct sc_side {
	bool device; /* checked against the device's mappings */
	uintptr_t address;
	size_t pitch; /* bytes from row to row */
	size_t slice; /* and from slice to slice; of one slice: not used */
};

struct sc_copy {
	struct sc_side to, from;
	size_t width, height;   /* bytes of a row, rows of a slice */
	size_t depth;           /* slices */
	unsigned pattern_bytes; /* 1, 2 or 4: a memset with `pattern`, `from` is not used; 0: a copy */
	uint32_t pattern;
};

/* One as a piece of work for a graph, and the driver's words for one. */
CUresult sc_copy_op(const char *what, const struct sc_copy *copy, struct sc_op **out);
void sc_copy_describe(const struct sc_copy *copy, CUDA_MEMCPY3D *out);
void sc_memset_describe(const struct sc_copy *copy, CUDA_MEMSET_NODE_PARAMS *out);
CUresult sc_copy_of_memset(const CUDA_MEMSET_NODE_PARAMS *p, struct sc_copy *copy);
bool sc_copy_is_valid(const struct sc_copy *copy); /* its addresses are known */

/* Pageable memory is staged at the call up to here; the call waits for what is more, which CUDA leaves open. */
#define SC_STAGE_LIMIT ((size_t)64 * 1024)

/* What the driver's calls take for one: under unified addressing an address itself says which side it is on. */
struct sc_side sc_side_of(uintptr_t address, size_t pitch);
struct sc_side sc_side_device(uintptr_t address, size_t pitch);
struct sc_side sc_side_host(const void *address, size_t pitch);
CUresult sc_copy_of_3d(const CUDA_MEMCPY3D *p, struct sc_copy *copy);

/* A driver call's work: `handle` is the stream, NULL with `asynchronous` false for the forms without one. */
CUresult sc_copy_call(struct sc_context *context, const char *function, const struct sc_copy *copy, CUstream handle,
	bool asynchronous);

CUresult sc_copy_submit(const char *what, struct sc_stream *stream, const struct sc_copy *copy, bool asynchronous);

#endif
