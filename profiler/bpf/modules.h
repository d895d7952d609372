/*
 * profiler/bpf/modules.h: which file's code lies where in a process. Internal to profiler/.
 *
 * A call's stack is addresses; a trace has files and offsets. What was mapped once is remembered until something else is mapped
 * there, as addresses are looked up a little after they were taken.
 */
#ifndef KVS_PROFILER_BPF_MODULES_H
#define KVS_PROFILER_BPF_MODULES_H

#include "../profiler.h"
#include "mappings.h"

/* All zero is an empty one. Sorted, without overlaps; the paths are its own. */
struct prof_modules {
	struct prof_mapping *items;
	size_t count;
};

/*
 * Read what the process has mapped to be executed. -ESRCH (it is gone, or has no memory, as a kernel thread has none), -EACCES,
 * -ENOMEM; what was known stays.
 */
int prof_modules_read(struct prof_modules *modules, pid_t pid);
/* What another one has, into an empty one; as far as memory goes. */
void prof_modules_copy(struct prof_modules *modules, const struct prof_modules *from);
void prof_modules_clear(struct prof_modules *modules);
/* The frame of an address; its strings are the modules'. */
struct kvs_frame prof_modules_frame(const struct prof_modules *modules, uint64_t address);

#endif
