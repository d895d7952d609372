/*
 * profiler/bpf/processes.h: what is known of the processes that are watched. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_PROCESSES_H
#define KVS_PROFILER_BPF_PROCESSES_H

#include "../map.h"
#include "../profiler.h"
#include "modules.h"
#include "records.h"

/* One function of a process that the kernel counts, as far as the trace has it. */
struct prof_counted {
	struct prof_count_key key;
	struct prof_count told;
};

struct prof_process {
	uint32_t key, pid, parent;
	uint64_t since_ns; /* it is watched, or became this program */
	char *command;
	bool told;          /* the trace has its KVS_EVENT_PROCESS */
	bool has_driver;    /* it has mapped the driver */
	bool softcuda;      /* which is ours on host memory */
	bool stale_modules; /* and something else since `modules` were read */
	struct prof_modules modules;
	struct prof_counted *counted;
	size_t counted_count;
};

/* All zero is an empty one. By key. */
struct prof_processes {
	struct prof_map map;
	unsigned told; /* processes that the trace has, or had */
};

struct prof_process *prof_process_find(const struct prof_processes *all, uint32_t key);
/* The one that is there, or a new one, of which /proc is asked; NULL: no memory. */
struct prof_process *prof_process_get(struct prof_processes *all, const struct prof_record *record);
/* A child that is what its parent (may be NULL) is; NULL: no memory. */
struct prof_process *prof_process_fork(
	struct prof_processes *all, const struct prof_record *record, const struct prof_process *parent);
/* It runs another program now. */
void prof_process_exec(struct prof_process *process, const struct prof_exec *exec);
/* Write its KVS_EVENT_PROCESS, once. */
void prof_process_tell(struct prof_processes *all, struct prof_process *process, kvs_trace *trace);
/* Write its KVS_EVENT_EXIT, where it was told of. */
void prof_process_end(struct prof_process *process, kvs_trace *trace, uint64_t time_ns, int status);
void prof_process_remove(struct prof_processes *all, uint32_t key);
void prof_processes_clear(struct prof_processes *all);

/* Frames for `addresses`, the innermost first; at most KVS_MAX_FRAMES. Reads what the process has mapped where that is stale. */
unsigned prof_process_frames(
	struct prof_process *process, const uint64_t *addresses, unsigned count, struct kvs_frame *out);
void prof_process_read_modules(struct prof_process *process);

#endif
