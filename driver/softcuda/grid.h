/*
 * driver/softcuda/grid.h: running all blocks of a launch.
 */
#ifndef SOFTCUDA_GRID_H
#define SOFTCUDA_GRID_H

#include "module.h"

struct sc_grid {
	struct simt_launch launch;
	const struct simt_native *native; /* runs the blocks, without fibers; NULL: the SIMT body does */
	struct sc_image *image;
	struct sc_context *context;
	uint64_t stream_id;
	uint64_t unmap_serial; /* when the launch was queued */
	uint64_t blocks;
	bool cooperative; /* all blocks at once, each on a thread of its own */

	/* How far it is; all set by sc_grid_run(). */
	atomic_uint_fast64_t next;
	atomic_bool failed; /* the other blocks need not run */
	struct sc_grid *next_published;
	atomic_uint helpers;
};

/* On a worker thread. A block that fails loses the context, after one line on stderr. */
void sc_grid_run(struct sc_grid *grid);

#endif
