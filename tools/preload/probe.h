/*
 * tools/preload/probe.h: what the files of `kvshare-run probe` share. All of it is called with the lock of probe.c held.
 */
#ifndef SHIM_PROBE_H
#define SHIM_PROBE_H

#include "launch.h"

/* K or V of one layer, in the program's own memory. */
struct probe_tensor {
	enum kvs_k_or_v which;
	int layer;
	CUdeviceptr base, allocation;
	size_t bytes;
	unsigned char *now, *before; /* [bytes], as last read, and as read before that */
	bool written;                /* they differ */
	bool absent;                 /* nothing is mapped there, or not to all of it: it cannot be read or written */
};

/* The words of a launch's parameters that may be addresses. */
struct probe_word {
	size_t param, offset;
	CUdeviceptr value;
	size_t map_bytes; /* it is a tensor map, of so many bytes there; 0: it is an address */
};
struct probe_words {
	size_t count;
	struct probe_word word[];
};

/* How a kernel came by an address that it wrote to. */
enum probe_way {
	PROBE_PARAMETER, /* a parameter points into the tensor */
	PROBE_BEYOND,    /* a parameter points into another one of the same allocation */
	PROBE_TABLE,     /* a parameter points to memory that holds the address */
	PROBE_MAP,       /* a parameter is a tensor map of it and of others */
	PROBE_UNKNOWN
};
/* Whether a kernel's results depend on what the tensors held that it writes. */
enum probe_reads { PROBE_UNTRIED, PROBE_WRITES_ONLY, PROBE_READS_TOO, PROBE_UNREPEATABLE };

/* The nodes of a graph, each behind those that it depends on (replay.c). */
struct probe_nodes {
	size_t count;
	CUgraphNode *node, *shown; /* [count], of the graph and of the one with the parameters */
};
/* Of `graph`, with their parameters in `content`, which has the same nodes in the same order. */
bool probe_nodes_get(CUgraph graph, CUgraph content, struct probe_nodes *out);
void probe_nodes_free(struct probe_nodes *nodes);

/* An executable graph that has been taken apart (mirror.c). */
struct probe_mirror;
bool probe_node_can_be_disabled(CUgraphNodeType type);
/* Of one that was made of `graph`, and has the parameters that `content` has now. NULL: it cannot be. */
struct probe_mirror *probe_mirror_make(CUgraph graph, CUgraph content);
void probe_mirror_free(struct probe_mirror *mirror);
/* Calls `run` for one node after the other: alone in `exec`, the program's handle, and one that tells its parameters. */
typedef CUresult probe_node_fn(void *arg, CUgraphExec exec, CUgraphNode program, CUgraphNode node);
CUresult probe_mirror_run(struct probe_mirror *mirror, CUgraphExec program, probe_node_fn *run, void *arg);
/* The node to change in the place of the program's; false: there is none. */
bool probe_mirror_twin(struct probe_mirror *mirror, CUgraphNode program, CUgraphExec *exec, CUgraphNode *node);
bool probe_mirror_set_child(struct probe_mirror *mirror, CUgraphNode program, CUgraph child);

void probe_lock(void);
void probe_unlock(void);
/* Of a launch; the caller frees them. NULL: no memory. */
struct probe_words *probe_words_of(const struct shim_launch *launch);
/* Runs a launch of a kernel as `start` does, and notes what it has written. */
CUresult probe_watch(const char *kernel, const struct probe_words *words, shim_start_fn *start, void *arg);

/*
 * The memory that holds `address`: an allocation, or all that is mapped around it to the addresses that were reserved together, as
 * a kernel that is handed a part of such a range may use the rest too.
 */
bool probe_memory_at(CUdeviceptr address, CUdeviceptr *base, size_t *bytes);
/* The tensor that holds `address`, or NULL. */
const struct probe_tensor *probe_tensor_at(CUdeviceptr address);
/* The tensors, and their number. */
struct probe_tensor *probe_tensors(size_t *count);
/* Reads a tensor again; -EIO. */
int probe_tensor_read(struct probe_tensor *tensor);

/* A second run of a launch, to see whether it reads what it writes (trial.c). */
struct probe_trial;
/* Before the first run: keeps the memory that its parameters point to. NULL: there is too much of it. */
struct probe_trial *probe_trial_begin(const struct probe_words *words);
/* After it, the tensors having been read: all memory ends as it was after the first run. */
enum probe_reads probe_trial_run(struct probe_trial *trial, shim_start_fn *start, void *arg);
void probe_trial_end(struct probe_trial *trial);

/* A kernel has written `tensor` (found.c). */
void probe_found(const char *kernel, const struct probe_words *words, const struct probe_tensor *tensor);
/* One launch of it is over. */
void probe_found_launch(const char *kernel, enum probe_reads reads);
/* Whether the kernel is worth a trial on this tensor, which is counted. */
bool probe_trial_is_due(const char *kernel, const struct probe_tensor *tensor);
/* Writes what was found to $KVSHARE_PROBE. */
void probe_write(size_t launches);

#endif
