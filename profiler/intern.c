/*
 * profiler/intern.c: a hash table with open addressing that keeps a copy of each key and gives it the next number.
 */
#include "intern.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a, 64 bits. */
static uint64_t hash_of(const unsigned char *data, uint32_t bytes)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (uint32_t i = 0; i < bytes; i++)
		hash = (hash ^ data[i]) * 0x100000001b3u;
	return hash;
}

static struct prof_interned *slot_for(const struct prof_intern *table, uint64_t hash, const void *data, uint32_t bytes)
{
	for (size_t i = hash;; i++) {
		struct prof_interned *slot = &table->slots[i & (table->slot_count - 1)];
		if (!slot->data || (slot->hash == hash && slot->bytes == bytes && !memcmp(slot->data, data, bytes)))
			return slot;
	}
}

/* Kept at most half full, so that a search ends soon. */
static bool make_room(struct prof_intern *table)
{
	struct prof_intern larger = *table;

	if (2 * ((size_t)table->count + 1) <= table->slot_count)
		return true;
	larger.slot_count = table->slot_count ? 2 * table->slot_count : 64;
	larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
	if (!larger.slots)
		return false;
	for (size_t i = 0; i < table->slot_count; i++) {
		const struct prof_interned *slot = &table->slots[i];
		if (slot->data)
			*slot_for(&larger, slot->hash, slot->data, slot->bytes) = *slot;
	}
	free(table->slots);
	*table = larger;
	return true;
}

uint32_t prof_intern(struct prof_intern *table, const void *data, uint32_t bytes, bool *is_new)
{
	uint64_t hash = hash_of(data, bytes);
	struct prof_interned *slot;

	*is_new = false;
	if (!bytes || !make_room(table))
		return 0;
	slot = slot_for(table, hash, data, bytes);
	if (slot->data)
		return slot->id;
	if (table->limit && table->count >= table->limit)
		return 0;
	slot->data = malloc(bytes);
	if (!slot->data)
		return 0;
	memcpy(slot->data, data, bytes);
	slot->hash = hash;
	slot->bytes = bytes;
	slot->id = ++table->count;
	*is_new = true;
	return slot->id;
}

char *prof_intern_data(const struct prof_intern *table, const void *data, uint32_t bytes)
{
	return table->slot_count ? slot_for(table, hash_of(data, bytes), data, bytes)->data : NULL;
}

void prof_intern_clear(struct prof_intern *table)
{
	for (size_t i = 0; i < table->slot_count; i++)
		free(table->slots[i].data);
	free(table->slots);
	*table = (struct prof_intern){.limit = table->limit};
}
