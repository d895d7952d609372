/*
 * profiler/bpf/exports.h: where in a driver's file its functions begin. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_EXPORTS_H
#define KVS_PROFILER_BPF_EXPORTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prof_export {
	uint64_t offset; /* in the file */
	unsigned function;
};

struct prof_exports {
	struct prof_export *items; /* by place */
	size_t count;
	bool softcuda; /* it is our driver on host memory */
};

/*
 * The watched functions (functions.h) that the file exports, each place once: of several names for it, the first in our table.
 * The caller frees the items. -ENOEXEC (no library, or none of them in it), -ENOMEM.
 */
int prof_exports_read(int fd, struct prof_exports *out);

#endif
