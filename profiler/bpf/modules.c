/*
 * profiler/bpf/modules.c: reads /proc/PID/maps into a sorted list.
 */
#include "modules.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool add(struct prof_modules *modules, const struct prof_mapping *item)
{
	struct prof_mapping *items = realloc(modules->items, (modules->count + 1) * sizeof(*items));

	if (!items)
		return false;
	modules->items = items;
	items[modules->count] = *item;
	items[modules->count].path = strdup(item->path);
	if (!items[modules->count].path)
		return false;
	modules->count++;
	return true;
}

/* The first that ends above the address; count: none. */
static size_t first_above(const struct prof_modules *modules, uint64_t address)
{
	size_t low = 0, high = modules->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (modules->items[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int compare(const void *a, const void *b)
{
	const struct prof_mapping *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* Adds those of `old` whose place is free. false: no memory. */
static bool keep_old(struct prof_modules *modules, const struct prof_modules *old)
{
	struct prof_modules now = *modules;

	for (size_t i = 0; i < old->count; i++) {
		size_t next = first_above(&now, old->items[i].start);
		if (next < now.count && now.items[next].start < old->items[i].end)
			continue;
		if (!add(modules, &old->items[i]))
			return false;
		now.items = modules->items; /* may have moved; `now` is still as long as it was */
	}
	qsort(modules->items, modules->count, sizeof(*modules->items), compare);
	return true;
}

int prof_modules_read(struct prof_modules *modules, pid_t pid)
{
	struct prof_mappings mappings;
	struct prof_modules found = {0};
	struct prof_mapping item;
	bool room = true;
	int err = prof_mappings_open(&mappings, pid);

	if (err)
		return err;
	while (room && prof_mappings_next(&mappings, &item))
		room = add(&found, &item);
	prof_mappings_close(&mappings);
	if (!found.count && room)
		return kvs_fail(-ESRCH, "process %d runs no program: it has ended, or is a thread of the kernel", pid);
	if (!room || !keep_old(&found, modules)) {
		prof_modules_clear(&found);
		return kvs_fail(-ENOMEM, "no memory for what process %d has mapped", pid);
	}
	prof_modules_clear(modules);
	*modules = found;
	return 0;
}

void prof_modules_copy(struct prof_modules *modules, const struct prof_modules *from)
{
	for (size_t i = 0; i < from->count; i++)
		if (!add(modules, &from->items[i]))
			return;
}

void prof_modules_clear(struct prof_modules *modules)
{
	for (size_t i = 0; i < modules->count; i++)
		free(modules->items[i].path);
	free(modules->items);
	*modules = (struct prof_modules){0};
}

struct kvs_frame prof_modules_frame(const struct prof_modules *modules, uint64_t address)
{
	size_t i = first_above(modules, address);

	if (i == modules->count || modules->items[i].start > address)
		return (struct kvs_frame){.module = "", .offset = address};
	return (struct kvs_frame){.module = modules->items[i].path,
		.offset = address - modules->items[i].start + modules->items[i].offset};
}
