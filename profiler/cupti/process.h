/*
 * profiler/cupti/process.h: describes this process, its device and the device's memory. Internal to profiler/cupti/.
 */
#ifndef KVS_PROFILER_CUPTI_PROCESS_H
#define KVS_PROFILER_CUPTI_PROCESS_H

#include "../profiler.h"

uint64_t prof_cupti_now_ns(void); /* CLOCK_MONOTONIC */

struct prof_cupti_process {
	struct kvs_event event;
	char command[1024], device[256]; /* storage for the event */
};
/* Describe the process, and the device of the calling thread's current context if it has one. */
void prof_cupti_describe_process(struct prof_cupti_process *out, bool has_context);
/* cuMemGetInfo in the current context. Returns false if it fails. */
bool prof_cupti_device_memory(struct kvs_event *out);

#endif
