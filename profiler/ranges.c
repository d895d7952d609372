/*
 * profiler/ranges.c: a treap: a search tree by address that is a heap by random weights, and so is flat enough whatever comes.
 */
#include "ranges.h"

#include <stdlib.h>

struct prof_range *prof_ranges_from(const struct prof_ranges *ranges, uint64_t address)
{
	struct prof_range *best = NULL;

	for (struct prof_range *r = ranges->root; r;) {
		if (r->end > address) {
			best = r;
			r = r->below;
		} else {
			r = r->above;
		}
	}
	return best;
}

struct prof_range *prof_ranges_at(const struct prof_ranges *ranges, uint64_t address)
{
	struct prof_range *range = prof_ranges_from(ranges, address);

	return range && range->start <= address ? range : NULL;
}

/* Cuts the tree `r` at `start`: *below holds what starts before it, *above the rest. */
static void cut(struct prof_range *r, uint64_t start, struct prof_range **below, struct prof_range **above)
{
	while (r) {
		if (r->start < start) {
			*below = r;
			below = &r->above;
			r = r->above;
		} else {
			*above = r;
			above = &r->below;
			r = r->below;
		}
	}
	*below = *above = NULL;
}

static struct prof_range *join(struct prof_range *below, struct prof_range *above)
{
	struct prof_range *joined, **end = &joined;

	while (below && above) {
		if (below->weight > above->weight) {
			*end = below;
			end = &below->above;
			below = below->above;
		} else {
			*end = above;
			end = &above->below;
			above = above->below;
		}
	}
	*end = below ? below : above;
	return joined;
}

static uint32_t next_random(struct prof_ranges *ranges)
{
	ranges->random = ranges->random * 1664525u + 1013904223u;
	return ranges->random ^ ranges->random >> 15;
}

struct prof_range *prof_ranges_add(struct prof_ranges *ranges, uint64_t start, uint64_t end, void *value)
{
	struct prof_range *next = prof_ranges_from(ranges, start), *range, **at = &ranges->root;

	if (end <= start || (next && next->start < end))
		return NULL;
	range = malloc(sizeof(*range));
	if (!range)
		return NULL;
	*range = (struct prof_range){.start = start, .end = end, .value = value, .weight = next_random(ranges)};
	while (*at && (*at)->weight >= range->weight)
		at = start < (*at)->start ? &(*at)->below : &(*at)->above;
	cut(*at, start, &range->below, &range->above);
	*at = range;
	return range;
}

void *prof_ranges_remove(struct prof_ranges *ranges, uint64_t start)
{
	struct prof_range **at = &ranges->root, *range;
	void *value;

	while (*at && (*at)->start != start)
		at = start < (*at)->start ? &(*at)->below : &(*at)->above;
	range = *at;
	if (!range)
		return NULL;
	*at = join(range->below, range->above);
	value = range->value;
	free(range);
	return value;
}

/* From the root on, so that it takes no recursion: a root with nothing below is freed, else what is below comes up. */
void prof_ranges_clear(struct prof_ranges *ranges, void (*free_value)(void *value))
{
	struct prof_range *r = ranges->root;

	while (r) {
		struct prof_range *below = r->below;
		if (below) {
			r->below = below->above;
			below->above = r;
			r = below;
			continue;
		}
		struct prof_range *above = r->above;
		if (free_value)
			free_value(r->value);
		free(r);
		r = above;
	}
	*ranges = (struct prof_ranges){0};
}
