/*
 * tools/run/profile/sampler.h: asks NVML now and then what a process has, and writes it into its trace.
 */
#ifndef KVS_RUN_SAMPLER_H
#define KVS_RUN_SAMPLER_H

#include "../../../profiler/profiler.h"

struct run_sampler;

/*
 * From now on `pid` and what it forked are asked about, four times a second, by a thread. NULL: there is no thread, or no memory;
 * the trace is good without. Where there is no NVML the thread ends at once.
 */
struct run_sampler *run_sampler_start(kvs_trace *trace, pid_t pid);
void run_sampler_stop(struct run_sampler *sampler); /* before the trace is closed; NULL is fine */

#endif
