/*
 * profiler/ranges.h: ranges of addresses that do not overlap, in order, with a value each. Internal to profiler/.
 */
#ifndef KVS_PROFILER_RANGES_H
#define KVS_PROFILER_RANGES_H

#include <stdbool.h>
#include <stdint.h>

struct prof_range {
	uint64_t start, end; /* end: the first address behind it */
	void *value;
	struct prof_range *below, *above; /* of the tree */
	uint32_t weight;
};

/* All zero is an empty one. */
struct prof_ranges {
	struct prof_range *root;
	uint32_t random;
};

/* The range that `address` lies in; NULL: none. */
struct prof_range *prof_ranges_at(const struct prof_ranges *ranges, uint64_t address);
/* The first that ends behind `address`: the one that it lies in, or the next; NULL: none. */
struct prof_range *prof_ranges_from(const struct prof_ranges *ranges, uint64_t address);
/* [start, end) must be free and not empty. NULL: it is not, or there is no memory. */
struct prof_range *prof_ranges_add(struct prof_ranges *ranges, uint64_t start, uint64_t end, void *value);
/* Takes the range that starts at `start` out, and gives its value; NULL: there is none. */
void *prof_ranges_remove(struct prof_ranges *ranges, uint64_t start);
void prof_ranges_clear(struct prof_ranges *ranges, void (*free_value)(void *value)); /* NULL: values are not ours */

#endif
