/*
 * profiler/bpf/functions.h: the functions of the driver that are watched, and what their arguments mean. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_FUNCTIONS_H
#define KVS_PROFILER_BPF_FUNCTIONS_H

#include "../profiler.h"
#include "records.h"

#include <stddef.h>

/* Numbers are below this; a form for per-thread default streams has one of its own. */
size_t prof_function_count(void);
/* As the driver exports it; NULL: no function has this number. Valid until the program ends. */
const char *prof_function_name(unsigned function);
/* The number of the function that is exported under `name`; -1: it is not watched. */
int prof_function_find(const char *name);
union prof_cookie prof_function_cookie(unsigned function);

/* What a record says of a call, as an event without frames. */
void prof_function_event(const struct prof_call *call, struct kvs_event *out);
/* A call of cuMemGetInfo that succeeded is an event of the device, too. */
bool prof_function_tells_device(const struct prof_call *call, struct kvs_event *out);

#endif
