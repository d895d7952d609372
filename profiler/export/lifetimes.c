/*
 * profiler/export/lifetimes.c: a bounded heap of lifetimes.
 */
#include "lifetimes.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>

static void swap(struct prof_kept *a, struct prof_kept *b)
{
	struct prof_kept old = *a;

	*a = *b;
	*b = old;
}

static void sink(struct prof_kept *list, size_t count)
{
	size_t least;

	for (size_t at = 0;; at = least) {
		least = at;
		for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
			if (list[child].weight < list[least].weight)
				least = child;
		if (least == at)
			return;
		swap(&list[at], &list[least]);
	}
}

static void rise(struct prof_kept *list, size_t at)
{
	for (; at && list[at].weight < list[(at - 1) / 2].weight; at = (at - 1) / 2)
		swap(&list[at], &list[(at - 1) / 2]);
}

int prof_lifetimes_add(struct prof_lifetimes *l, uint32_t pid, const struct prof_lifetime *lifetime)
{
	uint64_t held = lifetime->gone_ns > lifetime->born_ns ? lifetime->gone_ns - lifetime->born_ns : 0;
	struct prof_kept new = {*lifetime, pid, (double)lifetime->bytes * (held + 1)};

	if (!l->list)
		l->list = calloc(PROF_MOST_LIFETIMES, sizeof(*l->list));
	if (!l->list)
		return kvs_fail(-ENOMEM, "no memory for lifetimes of allocations");
	if (l->count < PROF_MOST_LIFETIMES) {
		l->list[l->count] = new;
		rise(l->list, l->count++);
		return 0;
	}
	l->left_out++;
	if (new.weight > l->list[0].weight) {
		l->list[0] = new;
		sink(l->list, l->count);
	}
	return 0;
}

void prof_lifetimes_clear(struct prof_lifetimes *lifetimes)
{
	free(lifetimes->list);
	*lifetimes = (struct prof_lifetimes){0};
}
