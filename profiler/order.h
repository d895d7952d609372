/*
 * profiler/order.h: what changes the memory of one process, in the order in which it happened. Internal to profiler/.
 *
 * A call is added to a trace after it returned, by the thread that made it. So two threads' calls may be told in the wrong
 * order: one thread's release behind another's create, that got the same handle because of it. A few hundred items
 * are held back here and given out by time: memory is there from the end of the call that brings it, and gone from the
 * start of the one that takes it.
 */
#ifndef KVS_PROFILER_ORDER_H
#define KVS_PROFILER_ORDER_H

#include "account.h"

struct prof_item {
	uint64_t time_ns, sequence; /* sequence: as they were told; set by prof_order_push() */
	enum prof_item_type { PROF_ITEM_CALL, PROF_ITEM_LABEL, PROF_ITEM_USE } type;
	union {
		struct prof_call call;
		struct {
			uint64_t address, bytes;
			struct prof_label label;
		} label;
		struct {
			enum kvs_memory_kind kind;
			uint64_t bytes;
		} use;
	};
};

#define PROF_ORDER_WINDOW 256

/* A heap with the earliest at [0]. All zero is an empty one. It grows: a trace may have many processes with few calls. */
struct prof_order {
	unsigned count;
	uint64_t sequence;
	struct prof_item *items;
	unsigned room;
};

/* There must be room (count < PROF_ORDER_WINDOW). false: no memory. */
bool prof_order_push(struct prof_order *order, const struct prof_item *item);
/* The earliest; there must be one. */
struct prof_item prof_order_pop(struct prof_order *order);
void prof_order_clear(struct prof_order *order);

#endif
