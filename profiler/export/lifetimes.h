/*
 * profiler/export/lifetimes.h: the lifetimes of memory that matter most, of as many as there are. Internal to profiler/.
 */
#ifndef KVS_PROFILER_LIFETIMES_H
#define KVS_PROFILER_LIFETIMES_H

#include "../report.h"

#define PROF_MOST_LIFETIMES 20000

struct prof_kept {
	struct prof_lifetime lifetime;
	uint32_t pid;
	double weight; /* bytes times how long they were held */
};

/* A heap with the least at [0]. All zero is an empty one. */
struct prof_lifetimes {
	struct prof_kept *list; /* [PROF_MOST_LIFETIMES] */
	size_t count;
	uint64_t left_out;
};

/* Keeps it, or drops the one that weighs least. -ENOMEM. */
int prof_lifetimes_add(struct prof_lifetimes *lifetimes, uint32_t pid, const struct prof_lifetime *lifetime);
void prof_lifetimes_clear(struct prof_lifetimes *lifetimes);

#endif
