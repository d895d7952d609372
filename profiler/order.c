/*
 * profiler/order.c: a binary heap.
 */
#include "order.h"

static bool before(const struct prof_item *a, const struct prof_item *b)
{
	return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->sequence < b->sequence;
}

void prof_order_push(struct prof_order *order, const struct prof_item *item)
{
	unsigned at = order->count++;
	struct prof_item new = *item;

	new.sequence = order->sequence++;
	for (; at && before(&new, &order->items[(at - 1) / 2]); at = (at - 1) / 2)
		order->items[at] = order->items[(at - 1) / 2];
	order->items[at] = new;
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
