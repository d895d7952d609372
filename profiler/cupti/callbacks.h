/*
 * profiler/cupti/callbacks.h: converts CUPTI's API callbacks to events. Internal to profiler/cupti/.
 */
#ifndef KVS_PROFILER_CUPTI_CALLBACKS_H
#define KVS_PROFILER_CUPTI_CALLBACKS_H

#include "../profiler.h"

#include <cupti.h>

/* A driver or runtime function to enable callbacks for. */
struct prof_cupti_function {
	CUpti_CallbackDomain domain;
	CUpti_CallbackId id;
	const char *name; /* the driver's; for a runtime function, that of the corresponding driver function */
	void (*read)(const void *params, bool ok, struct kvs_event *out);
};

extern const struct prof_cupti_function prof_cupti_functions[];
extern const size_t prof_cupti_function_count;

/* NULL if it is not in the list. */
const struct prof_cupti_function *prof_cupti_function_of(CUpti_CallbackDomain domain, CUpti_CallbackId id);
/* Convert a callback at the exit of a call; the caller sets pid, tid, time and duration. Outputs of failed calls are not read. */
void prof_cupti_call(const struct prof_cupti_function *function, const CUpti_CallbackData *data, struct kvs_event *out);

#endif
