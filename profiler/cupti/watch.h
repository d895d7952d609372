/*
 * profiler/cupti/watch.h: records what this process does, by means of CUPTI. Internal to profiler/cupti/.
 */
#ifndef KVS_PROFILER_CUPTI_WATCH_H
#define KVS_PROFILER_CUPTI_WATCH_H

#include <stdint.h>

/*
 * Record events of this process into the trace at `path` from now on, appending to it. Call it once, during cuInit, before there
 * is a context. Returns 0, -ENOENT (no libcupti), -EBUSY (another profiler is active; the message names it), -EIO (an
 * error of CUPTI), or an error of kvs_trace_open(). On failure nothing is recorded.
 */
int prof_cupti_watch(const char *path, uint64_t max_bytes);
/* Call at exit: writes everything that CUPTI has to the trace. Later calls of the driver are still recorded. */
int prof_cupti_finish(void);
/* Call last: adds the exit event and flushes the trace. `status` as waitpid() gives it, -1 if not known. */
int prof_cupti_end(int status);

#endif
