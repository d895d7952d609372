/*
 * profiler/bpf/counts.h: what the kernel counts, brought into the trace. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_COUNTS_H
#define KVS_PROFILER_BPF_COUNTS_H

#include "processes.h"

/* Write what was counted since the last time, of one process or, with NULL, of all. `map` is the kernel's, by its descriptor. */
void prof_counts_tell(
	int map, struct prof_processes *all, struct prof_process *process, kvs_trace *trace, uint64_t time_ns);
/* Nothing is counted for the process any more: its place in the kernel's map is free. */
void prof_counts_forget(int map, struct prof_process *process);

#endif
