/*
 * profiler/snapshot.c: who holds memory at one moment, and the map of a KV cache.
 */
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- holders ---- */

static int push(struct prof_holders *out, const struct prof_holder *holder)
{
	if ((out->count & (out->count - 1)) == 0) { /* full at each power of two */
		size_t room = out->count ? 2 * out->count : 1;
		struct prof_holder *larger = realloc(out->list, room * sizeof(*larger));
		if (!larger)
			return kvs_fail(-ENOMEM, "no memory for the report");
		out->list = larger;
	}
	out->list[out->count++] = *holder;
	return 0;
}

int prof_hold(const struct prof_process *process, uint32_t number, bool host_too, struct prof_holders *out)
{
	int err = 0;

	for (const struct prof_handle *h = process->account.first_handle; h && !err; h = h->next)
		err = push(out, &(struct prof_holder){.process = number,
					.kind = h->kind,
					.layer = h->layer,
					.function = h->function,
					.stack = h->stack,
					.count = 1,
					.bytes = h->bytes,
					.born_ns = h->born_ns});
	for (const struct prof_allocation *a = process->account.first_allocation; a && !err; a = a->next)
		if (host_too || !a->host)
			err = push(out, &(struct prof_holder){.process = number,
						.kind = a->kind,
						.layer = a->layer,
						.function = a->function,
						.stack = a->stack,
						.count = 1,
						.bytes = a->taken,
						.born_ns = a->born_ns});
	return err;
}

/* Those of one process, kind, layer, function and stack lie together. */
static int by_identity(const void *left, const void *right)
{
	const struct prof_holder *a = left, *b = right;
	int by_name = strcmp(a->function, b->function);

	if (a->process != b->process)
		return a->process < b->process ? -1 : 1;
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	if (by_name)
		return by_name;
	return a->stack < b->stack ? -1 : a->stack > b->stack;
}

static int by_bytes(const void *left, const void *right)
{
	const struct prof_holder *a = left, *b = right;

	if (a->bytes != b->bytes)
		return a->bytes > b->bytes ? -1 : 1;
	return by_identity(left, right);
}

void prof_holders_merge(struct prof_holders *holders)
{
	size_t count = 0;

	if (!holders->count)
		return;
	qsort(holders->list, holders->count, sizeof(*holders->list), by_identity);
	for (size_t i = 1; i < holders->count; i++) {
		struct prof_holder *last = &holders->list[count];
		const struct prof_holder *next = &holders->list[i];
		if (by_identity(last, next)) {
			holders->list[++count] = *next;
			continue;
		}
		last->bytes += next->bytes;
		last->count++;
		last->born_ns = next->born_ns < last->born_ns ? next->born_ns : last->born_ns;
	}
	holders->count = count + 1;
	qsort(holders->list, holders->count, sizeof(*holders->list), by_bytes);
}

/* ---- the map of a cache ---- */

static int take_blocks(const struct prof_account *account, struct prof_kv_range *range)
{
	uint64_t end = range->address + range->bytes;
	size_t room = 0;

	for (struct prof_range *r = prof_ranges_from(&account->mappings, range->address); r && r->start < end;
		r = prof_ranges_from(&account->mappings, r->end)) {
		const struct prof_mapping *m = r->value;
		if (range->block_count == room) {
			room = room ? 2 * room : 16;
			uint32_t *larger = realloc(range->blocks, room * sizeof(*larger));
			if (!larger)
				return kvs_fail(-ENOMEM, "no memory for the report");
			range->blocks = larger;
		}
		if (!range->block_count)
			range->first_block_bytes = m->handle->bytes;
		range->blocks[range->block_count++] = m->handle->ordinal;
		range->mapped += r->end - r->start;
	}
	return 0;
}

static int by_layer(const void *left, const void *right)
{
	const struct prof_kv_range *a = left, *b = right;

	if (a->process != b->process)
		return a->process < b->process ? -1 : 1;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	if (a->is_v != b->is_v)
		return a->is_v ? 1 : -1;
	return a->address < b->address ? -1 : a->address > b->address;
}

int prof_kv_take(const struct prof_process *process, uint32_t number, struct prof_kv_map *out)
{
	int err = 0;

	for (struct prof_range *r = prof_ranges_from(&process->account.labels, 0); r && !err;
		r = prof_ranges_from(&process->account.labels, r->end)) {
		const struct prof_label *label = r->value;
		struct prof_kv_range *larger;
		if (label->kind != KVS_MEMORY_K && label->kind != KVS_MEMORY_V)
			continue;
		larger = realloc(out->list, (out->count + 1) * sizeof(*larger));
		if (!larger)
			return kvs_fail(-ENOMEM, "no memory for the report");
		out->list = larger;
		out->list[out->count] = (struct prof_kv_range){.process = number,
			.layer = label->layer,
			.owner = label->owner,
			.is_v = label->kind == KVS_MEMORY_V,
			.address = r->start,
			.bytes = r->end - r->start};
		err = take_blocks(&process->account, &out->list[out->count++]);
	}
	if (out->count)
		qsort(out->list, out->count, sizeof(*out->list), by_layer);
	return err;
}

void prof_kv_clear(struct prof_kv_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		free(map->list[i].blocks);
	free(map->list);
	*map = (struct prof_kv_map){0};
}
