/*
 * profiler/order.c: a binary heap.
 */
#include "order.h"

#include <stdlib.h>

static bool before(const struct prof_item *a, const struct prof_item *b)
{
	return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->sequence < b->sequence;
}

static bool make_room(struct prof_order *order)
{
	unsigned room = order->room ? 2 * order->room : 4;
	struct prof_item *larger = realloc(order->items, room * sizeof(*larger));

	if (!larger)
		return false;
	order->items = larger;
	order->room = room;
	return true;
}

bool prof_order_push(struct prof_order *order, const struct prof_item *item)
{
	struct prof_item new = *item;
	unsigned at;

	if (order->count == order->room && !make_room(order))
		return false;
	at = order->count++;
	new.sequence = order->sequence++;
	for (; at && before(&new, &order->items[(at - 1) / 2]); at = (at - 1) / 2)
		order->items[at] = order->items[(at - 1) / 2];
	order->items[at] = new;
	return true;
}

struct prof_item prof_order_pop(struct prof_order *order)
{
	struct prof_item first = order->items[0], last = order->items[--order->count];
	unsigned at = 0;

	for (unsigned child; (child = 2 * at + 1) < order->count; at = child) {
		if (child + 1 < order->count && before(&order->items[child + 1], &order->items[child]))
			child++;
		if (!before(&order->items[child], &last))
			break;
		order->items[at] = order->items[child];
	}
	order->items[at] = last;
	return first;
}

void prof_order_clear(struct prof_order *order)
{
	free(order->items);
	*order = (struct prof_order){0};
}
