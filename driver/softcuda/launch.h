/*
 * driver/softcuda/launch.h: a kernel's launch as a piece of work, for a stream or for a graph.
 */
#ifndef SOFTCUDA_LAUNCH_H
#define SOFTCUDA_LAUNCH_H

#include "stream.h"

/* Checked as a launch is, with the arguments copied; the stream in `shape` is not looked at. */
CUresult sc_launch_op(const CUlaunchConfig *shape, CUfunction handle, bool cooperative, void **params, void **extra,
	struct sc_op **out);
/* What it was made of; the arrays are the work's own. */
void sc_launch_describe(const struct sc_op *op, CUDA_KERNEL_NODE_PARAMS_v2 *out);
bool sc_launch_is_cooperative(const struct sc_op *op);

#endif
