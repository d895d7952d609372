/*
 * profiler/bpf/mappings.h: lines of /proc/PID/maps. Internal to profiler/.
 */
#ifndef KVS_PROFILER_BPF_MAPPINGS_H
#define KVS_PROFILER_BPF_MAPPINGS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Code of a file. */
struct prof_mapping {
	uint64_t start, end, offset; /* addresses; of the start, in the file */
	uint64_t inode;
	char *path; /* as the process has it */
};

struct prof_mappings {
	FILE *file;
	char line[PATH_MAX + 128];
};

/* -ESRCH (there is no such process), -EACCES. On success the caller owes prof_mappings_close(). */
int prof_mappings_open(struct prof_mappings *mappings, pid_t pid);
/* The next one; its path is valid until the next call. false: there are no more. */
bool prof_mappings_next(struct prof_mappings *mappings, struct prof_mapping *out);
void prof_mappings_close(struct prof_mappings *mappings);

#endif
