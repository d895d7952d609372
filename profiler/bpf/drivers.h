/*
 * profiler/bpf/drivers.h: probes on the driver's library, whichever a process has mapped. Internal to profiler/.
 *
 * A probe belongs to a file, not to a process: one set of probes serves all processes that map the same file, those included
 * that are not watched, where our programs leave at once.
 */
#ifndef KVS_PROFILER_BPF_DRIVERS_H
#define KVS_PROFILER_BPF_DRIVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct prof_driver;
struct prof_programs;

/* Begin with all zero but the programs. */
struct prof_drivers {
	const struct prof_programs *programs;
	struct prof_driver *items;
	size_t count;
	unsigned ever; /* files that had probes */
};

struct prof_drivers_found {
	unsigned drivers; /* files of the process that have probes */
	bool softcuda;    /* one of them is our driver on host memory */
};

/*
 * Put probes on every file named libcuda.so... that the process has mapped and that has none yet. -ESRCH (it is gone), -EACCES,
 * -ENOEXEC, -ENOMEM, or what the kernel says to the probes; *found counts those that have them all the same.
 */
int prof_drivers_attach(struct prof_drivers *drivers, pid_t pid, struct prof_drivers_found *found);
/* No probe is left. */
void prof_drivers_detach(struct prof_drivers *drivers);

#endif
