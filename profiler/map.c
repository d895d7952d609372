/*
 * profiler/map.c: a hash table with linear probing. A removal moves back what lies behind it, so there are no tombstones.
 */
#include "map.h"

#include <stdlib.h>

/* Handles and addresses differ in a few bits in the middle; a multiplication spreads them (Knuth 6.4, golden ratio). */
static size_t home_of(const struct prof_map *map, uint64_t key)
{
	return (key * 0x9e3779b97f4a7c15u >> 20) & (map->slot_count - 1);
}

static struct prof_map_entry *slot_for(const struct prof_map *map, uint64_t key)
{
	for (size_t i = home_of(map, key);; i = (i + 1) & (map->slot_count - 1))
		if (!map->slots[i].value || map->slots[i].key == key)
			return &map->slots[i];
}

static bool make_room(struct prof_map *map)
{
	struct prof_map larger = *map;

	if (2 * (map->count + 1) <= map->slot_count)
		return true;
	larger.slot_count = map->slot_count ? 2 * map->slot_count : 64;
	larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
	if (!larger.slots)
		return false;
	for (size_t i = 0; i < map->slot_count; i++)
		if (map->slots[i].value)
			*slot_for(&larger, map->slots[i].key) = map->slots[i];
	free(map->slots);
	*map = larger;
	return true;
}

void *prof_map_get(const struct prof_map *map, uint64_t key)
{
	return map->slot_count ? slot_for(map, key)->value : NULL;
}

bool prof_map_set(struct prof_map *map, uint64_t key, void *value, void **old)
{
	struct prof_map_entry *slot;

	if (!make_room(map))
		return false;
	slot = slot_for(map, key);
	if (old)
		*old = slot->value;
	map->count += !slot->value;
	slot->key = key;
	slot->value = value;
	return true;
}

void *prof_map_remove(struct prof_map *map, uint64_t key)
{
	struct prof_map_entry *slot = map->slot_count ? slot_for(map, key) : NULL;
	void *value = slot ? slot->value : NULL;
	size_t mask = map->slot_count - 1, hole;

	if (!value)
		return NULL;
	hole = slot - map->slots;
	for (size_t i = (hole + 1) & mask; map->slots[i].value; i = (i + 1) & mask) {
		/* One may fill the hole unless its home lies behind the hole: then a search would start past it. */
		if (((i - home_of(map, map->slots[i].key)) & mask) < ((i - hole) & mask))
			continue;
		map->slots[hole] = map->slots[i];
		hole = i;
	}
	map->slots[hole].value = NULL;
	map->count--;
	return value;
}

void prof_map_clear(struct prof_map *map, void (*free_value)(void *value))
{
	for (size_t i = 0; free_value && i < map->slot_count; i++)
		if (map->slots[i].value)
			free_value(map->slots[i].value);
	free(map->slots);
	*map = (struct prof_map){0};
}
