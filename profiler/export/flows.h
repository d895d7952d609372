/*
 * profiler/export/flows.h: arrows between slices: from a launch to what it launched, and from the mapping of a block to those that
 * share it. Internal to profiler/.
 *
 * An arrow needs both of its slices in the file, so slices are noted when they are written; of either end of a launch, the one
 * that is told first waits for the other.
 */
#ifndef KVS_PROFILER_FLOWS_H
#define KVS_PROFILER_FLOWS_H

#include "../map.h"

#include <stdbool.h>

struct prof_place { /* the start of a slice */
	uint32_t pid, track;
	uint64_t time_ns;
};

struct prof_flow {
	struct prof_place from, to;
};

/* All zero is an empty one. */
struct prof_flows {
	struct prof_map halves, mappings; /* struct place_of, by a mixture of pid and link or address */
	uint64_t count;                   /* of arrows so far */
};

/* A slice with a link. 1: it is the other end of one that waited, and *out is the arrow; 0: not (yet); -ENOMEM. */
int prof_flows_link(
	struct prof_flows *flows, struct prof_place place, uint32_t link, bool is_launch, struct prof_flow *out);
/* The slice of a cuMemMap. -ENOMEM. */
int prof_flows_map(struct prof_flows *flows, struct prof_place place, uint64_t address);
/* Whether the calls that mapped one block at two places have slices. */
bool prof_flows_share(struct prof_flows *flows, uint32_t pid, uint64_t first_address, uint64_t first_ns,
	uint64_t address, uint64_t time_ns, struct prof_flow *out);
void prof_flows_clear(struct prof_flows *flows);

#endif
