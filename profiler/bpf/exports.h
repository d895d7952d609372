/*
 * profiler/bpf/exports.h: where in a driver's file its functions begin. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_EXPORTS_H
#define KVS_PROFILER_BPF_EXPORTS_H

#include <stddef.h>
#include <stdint.h>

struct prof_export {
	uint64_t offset; /* in the file */
	unsigned function;
};

/*
 * The watched functions (functions.h) that the file exports, each place once: of several names for it, the first in our table.
 * The caller frees *out. -ENOEXEC (no library, or none of them in it), -ENOMEM.
 */
int prof_exports_read(int fd, struct prof_export **out, size_t *count);

#endif
