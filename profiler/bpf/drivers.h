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

struct bpf_program;

struct prof_driver;

/* Begin with all zero but the two programs and `many_at_once`. */
struct prof_drivers {
	const struct bpf_program *begins, *ends; /* of a call */
	bool many_at_once;                       /* they were loaded for that (uprobe_multi) */
	struct prof_driver *items;
	size_t count;
	unsigned ever; /* files that had probes */
};

/*
 * Put probes on every file named libcuda.so... that the process has mapped and that has none yet. Gives how many such files it
 * has mapped, or -ESRCH (it is gone), -EACCES, -ENOEXEC, -ENOMEM, or what the kernel says to the probes.
 */
int prof_drivers_attach(struct prof_drivers *drivers, pid_t pid);
/* No probe is left. */
void prof_drivers_detach(struct prof_drivers *drivers);

#endif
