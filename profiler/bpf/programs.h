/*
 * profiler/bpf/programs.h: our programs in the kernel, as well as the running kernel can have them. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_PROGRAMS_H
#define KVS_PROFILER_BPF_PROGRAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct bpf_link;
struct bpf_program;
struct watch_programs; /* the skeleton that bpftool makes */

/* How probes are put. */
enum prof_way {
	PROF_SESSION,    /* from Linux 6.13: all at once, one program for a call's beginning and end */
	PROF_MANY,       /* from 6.6: all at once, a program for each */
	PROF_ONE_BY_ONE, /* from 5.15 */
	PROF_WAYS
};

struct prof_programs {
	struct watch_programs *skeleton;
	enum prof_way way;
	struct bpf_link *tracepoints[5];
	size_t tracepoint_count;
	int processes, drivers, counts, ring;    /* descriptors of maps */
	const volatile unsigned long long *lost; /* records and counts that found no room */
	const struct bpf_program *begins, *ends; /* of a call; PROF_SESSION has one that is both */
};

struct prof_programs_options {
	pid_t target;
	bool hold;
	size_t ring_bytes;
	enum prof_way way; /* the first one that is tried */
};

/*
 * Load the programs and put those that stand at tracepoints. What the kernel says, with the last words of libbpf. On success the
 * caller owes prof_programs_free().
 */
int prof_programs_load(struct prof_programs *programs, const struct prof_programs_options *options);
/* Begin with the target; *key is the kernel's own number of it. -ESRCH. */
int prof_programs_find_target(const struct prof_programs *programs, pid_t pid, uint32_t *key);
void prof_programs_detach(struct prof_programs *programs); /* from the tracepoints */
void prof_programs_free(struct prof_programs *programs);   /* all zero is fine */

#endif
