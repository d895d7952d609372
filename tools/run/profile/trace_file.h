/*
 * tools/run/profile/trace_file.h: the trace that `profile` and `attach` write, as asked for on the command line.
 */
#ifndef KVS_RUN_TRACE_FILE_H
#define KVS_RUN_TRACE_FILE_H

#include "../../../profiler/profiler.h"
#include "../run.h"

#include <limits.h>

struct run_trace_file {
	const char *asked; /* NULL: kvshare-PID.trace */
	uint64_t max_bytes;
	char path[PATH_MAX]; /* once it is open: from the root, as other processes may work elsewhere */
};

extern const struct argp run_trace_file_argp; /* struct run_trace_file */

/* Begin a new trace of process `pid`. What kvs_trace_open() answers, or -ENAMETOOLONG. */
int run_trace_file_open(struct run_trace_file *file, pid_t pid, kvs_trace **out);
/* Close it and remove it: nothing was watched. */
void run_trace_file_drop(const struct run_trace_file *file, kvs_trace *trace);
/*
 * Close it and say on stderr where it is and what was watched; `watched` may be NULL. What could not be written is a warning: what
 * was watched is unharmed.
 */
void run_trace_file_close(const struct run_trace_file *file, kvs_trace *trace, const struct kvs_watch_state *watched);

#endif
