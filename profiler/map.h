/*
 * profiler/map.h: values by a number. Internal to profiler/.
 */
#ifndef KVS_PROFILER_MAP_H
#define KVS_PROFILER_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prof_map_entry {
	uint64_t key;
	void *value; /* NULL: the slot is free */
};

/* All zero is an empty one. */
struct prof_map {
	struct prof_map_entry *slots;
	size_t slot_count, count;
};

void *prof_map_get(const struct prof_map *map, uint64_t key); /* NULL: none */
/* `value` is not NULL; one that was there is replaced, and given back in *old (may be NULL). false: no memory. */
bool prof_map_set(struct prof_map *map, uint64_t key, void *value, void **old);
void *prof_map_remove(struct prof_map *map, uint64_t key); /* gives it back; NULL: none */
/* Frees the slots; the values with `free_value`, NULL: they are not ours. */
void prof_map_clear(struct prof_map *map, void (*free_value)(void *value));

#endif
