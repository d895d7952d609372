/*
 * tools/preload/launch.h: a kernel with its parameters, as they go on to the driver: for launches and nodes of graphs.
 */
#ifndef SHIM_LAUNCH_H
#define SHIM_LAUNCH_H

#include "preload.h"

#define SHIM_NEAR_PARAMS 64
#define SHIM_NEAR_BYTES 1024
#define SHIM_MAX_ATTRIBUTES 32

/* What a launch is given in the place of the program's. */
struct shim_launch {
	struct shim_kernel *kernel; /* NULL: none of our business */
	bool shared;                /* it was handed memory that is shared */
	void **params, **extra;     /* for the driver */
	CUlaunchConfig config;      /* for cuLaunchKernelEx */
	void *near_params[SHIM_NEAR_PARAMS], *new_extra[5];
	unsigned char near_bytes[SHIM_NEAR_BYTES] __attribute__((aligned(16)));
	CUlaunchAttribute attributes[SHIM_MAX_ATTRIBUTES];
	size_t extra_bytes;
	void *far;                         /* freed after the launch; NULL: all fits here */
	CUlaunchAttribute *far_attributes; /* the same */
};

/*
 * Look at a kernel's parameters, and change what has to be: `launch` has those for the driver, and stays where it is until
 * shim_launch_end(), which is called in any case. An error: the kernel must not run.
 */
CUresult shim_launch_begin(struct shim_launch *launch, CUfunction function, void **params, void **extra);
void shim_launch_end(struct shim_launch *launch);

/*
 * Each aligned word of the parameters, which may be an address, and its place in the one that holds it. A tensor map that the program
 * has made is told as one: the address and the bytes of its tensor; map_bytes is 0 for others.
 */
typedef void shim_word_fn(void *arg, size_t param, size_t offset, CUdeviceptr word, size_t map_bytes);
void shim_launch_words(const struct shim_launch *launch, shim_word_fn *tell, void *arg);
/* Each parameter's value. */
typedef void shim_value_fn(const unsigned char *value, size_t bytes);
void shim_launch_values(const struct shim_launch *launch, shim_value_fn *tell);

/* Some edge lets a node begin before the one ahead of it has ended; NULL: none. A copy without such, to be freed; NULL: no memory. */
bool shim_edges_any_early(const CUgraphEdgeData *edges, size_t count);
CUgraphEdgeData *shim_edges_plain(const CUgraphEdgeData *edges, size_t count);

/* A node's words: `node`, a copy of the program's, gets a list of ours, to be freed, where memory is shared (memop.c). */
CUresult shim_words_begin(CUDA_BATCH_MEM_OP_NODE_PARAMS *node, CUstreamBatchMemOpParams **moved);

/* Runs a launch as `start` does, and finds out whether it writes the cache (probe.c). */
typedef CUresult shim_start_fn(void *arg);
/* A kernel node of an executable graph was given this launch's parameters (replay.c). */
void shim_probe_node_set(CUgraphExec exec, CUgraphNode node, const struct shim_launch *launch);
/* The node to change as well where the program has changed one of an executable graph; false: there is none. */
bool shim_probe_twin(CUgraphExec exec, CUgraphNode node, CUgraphExec *twin_exec, CUgraphNode *twin);
/* The same of a child graph. */
void shim_probe_child_set(CUgraphExec exec, CUgraphNode node, CUgraph child);
CUresult shim_probe_launch(const struct shim_launch *launch, shim_start_fn *start, void *arg);

#endif
