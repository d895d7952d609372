/*
 * driver/softcuda/object.c: objects by key.
 *
 * A slot map: a key is a slot's index and the slot's generation, which grows each time the slot is emptied. Keys are
 * multiples of 16, look like pointers, and are never 0, 1 or 2 (NULL and CUDA's special streams).
 */
#include "state.h"

#include <stdlib.h>

pthread_mutex_t sc_lock = PTHREAD_MUTEX_INITIALIZER;

#define INDEX_BITS 24 /* 16 million objects alive; the other bits count generations */
#define KEY_SHIFT 4

static struct slot {
	void *object;
	uint64_t generation;
	enum sc_kind kind;
	uint32_t next_free;
} * slots;
static size_t slot_count, slot_capacity;
static uint32_t first_free = UINT32_MAX;
static size_t counts[SC_KINDS];

static bool slots_grow(void)
{
	size_t capacity = slot_capacity ? 2 * slot_capacity : 256;
	struct slot *grown;

	if (capacity > (size_t)1 << INDEX_BITS)
		return false;
	grown = realloc(slots, capacity * sizeof(*slots));
	if (!grown)
		return false;
	slots = grown;
	slot_capacity = capacity;
	return true;
}

uint64_t sc_object_add(enum sc_kind kind, void *object)
{
	uint32_t index = first_free;

	if (index != UINT32_MAX) {
		first_free = slots[index].next_free;
	} else {
		if (slot_count == slot_capacity && !slots_grow())
			return 0;
		index = (uint32_t)slot_count++;
		slots[index].generation = 1;
	}
	slots[index].object = object;
	slots[index].kind = kind;
	counts[kind]++;
	return (slots[index].generation << INDEX_BITS | index) << KEY_SHIFT;
}

static struct slot *slot_find(enum sc_kind kind, uint64_t key)
{
	size_t index = key >> KEY_SHIFT & (((uint64_t)1 << INDEX_BITS) - 1);

	if (key & ((1 << KEY_SHIFT) - 1) || index >= slot_count || slots[index].kind != kind ||
		slots[index].generation != key >> (INDEX_BITS + KEY_SHIFT))
		return NULL;
	return &slots[index];
}

void *sc_object_find(enum sc_kind kind, uint64_t key)
{
	struct slot *slot = slot_find(kind, key);

	return slot ? slot->object : NULL;
}

void *sc_object_remove(enum sc_kind kind, uint64_t key)
{
	struct slot *slot = slot_find(kind, key);

	if (!slot)
		return NULL;
	slot->kind = SC_NONE;
	slot->generation++;
	slot->next_free = first_free;
	first_free = (uint32_t)(slot - slots);
	counts[kind]--;
	return slot->object;
}

void *sc_object_next(enum sc_kind kind, size_t *cursor)
{
	while (*cursor < slot_count) {
		struct slot *slot = &slots[(*cursor)++];

		if (slot->kind == kind)
			return slot->object;
	}
	return NULL;
}

size_t sc_object_count(enum sc_kind kind)
{
	return counts[kind];
}
