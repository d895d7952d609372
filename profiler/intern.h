/*
 * profiler/intern.h: numbers for byte strings, each told apart by its content. Internal to profiler/.
 */
#ifndef KVS_PROFILER_INTERN_H
#define KVS_PROFILER_INTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prof_interned {
	uint64_t hash;
	uint32_t id, bytes;
	char *data;
};

/* All zero is an empty one. Slots are a power of two, a slot without data is free. */
struct prof_intern {
	struct prof_interned *slots;
	size_t slot_count;
	uint32_t count, limit; /* ids are 1..count; at most limit, 0: no limit */
};

/* The id of these bytes; *is_new: they had none before. 0: no room (limit, memory), or no bytes. */
uint32_t prof_intern(struct prof_intern *table, const void *data, uint32_t bytes, bool *is_new);
/* Where the table keeps these bytes; NULL: it has them not. */
char *prof_intern_data(const struct prof_intern *table, const void *data, uint32_t bytes);
void prof_intern_clear(struct prof_intern *table);

#endif
