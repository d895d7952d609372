/*
 * profiler/account.h: the memory of one process, as its calls tell it. Internal to profiler/.
 *
 * Physical memory is followed by handle, virtual memory by mapping: a handle that is mapped twice is there once and was asked
 * for twice, and the difference is what sharing saved. What memory is for comes from labels on addresses; a handle takes
 * the kind of the first mapping that has one.
 */
#ifndef KVS_PROFILER_ACCOUNT_H
#define KVS_PROFILER_ACCOUNT_H

#include "calls.h"
#include "map.h"
#include "profiler.h"
#include "ranges.h"

/* A call that changes memory or uses it, free of what only the trace's reader holds. */
struct prof_call {
	enum prof_call_class class;
	const char *function;
	uint64_t time_ns, duration_ns, address, bytes, handle;
	uint32_t stack; /* the report's number, 0: none */
	int32_t result;
};

/* Bytes, now. */
struct prof_totals {
	uint64_t physical;                  /* device memory that is held: handles and allocations */
	uint64_t by_kind[KVS_MEMORY_KINDS]; /* of physical */
	uint64_t asked[KVS_MEMORY_KINDS];   /* of by_kind: what the program asked for; the rest fills granules up */
	uint64_t reserved;                  /* addresses: reservations and allocations */
	uint64_t mapped;                    /* addresses with memory behind them, allocations included */
	uint64_t saved;                     /* a handle's bytes for each mapping but its first; sinks not counted */
	uint64_t host;                      /* host memory from the driver */
};

struct prof_handle {
	struct prof_handle *next, **link; /* all that are alive */
	uint64_t id, bytes, born_ns;
	uint64_t first_address, first_ns; /* where and when it was mapped while it was mapped nowhere else */
	unsigned references, mappings;
	uint32_t ordinal, stack;        /* ordinal: from 0, of all that ever were */
	enum kvs_memory_kind kind, was; /* was: the last that was known, of one that is mapped no more too */
	int layer, layer_was;           /* -1: none */
	const char *function;
};

/* Device memory from when it was taken to when it was given back, or its process ended. */
struct prof_lifetime {
	uint64_t born_ns, gone_ns, bytes, id; /* id: its handle, or its address */
	enum kvs_memory_kind kind;
	int layer; /* -1: none */
	const char *function;
};

struct prof_mapping {
	struct prof_handle *handle;
	enum kvs_memory_kind kind;
	int layer, owner; /* -1: none */
};

struct prof_allocation {
	struct prof_allocation *next, **link;
	uint64_t address, bytes, taken, born_ns; /* bytes: asked for; taken: in the driver's units */
	bool host;
	uint32_t stack;
	enum kvs_memory_kind kind;
	int layer;
	const char *function;
};

struct prof_label {
	enum kvs_memory_kind kind;
	int layer, owner;
};

/* What a program did wrong, as far as calls show it. */
enum prof_finding_kind {
	PROF_DOUBLE_MAP,      /* cuMemMap onto addresses that are mapped */
	PROF_USE_AFTER_UNMAP, /* a copy to addresses that are mapped no more, or freed */
	PROF_DOUBLE_FREE,     /* a free, release or unmap of what was given back before */
	PROF_FINDING_KINDS
};

struct prof_finding {
	enum prof_finding_kind kind;
	uint64_t address, bytes, time_ns, count;
	uint32_t stack;
	const char *function;
};

struct prof_account {
	uint64_t unit_bytes;
	struct prof_totals now, *all;          /* all: of all processes together, kept up too; NULL: none */
	uint64_t in_handles[KVS_MEMORY_KINDS]; /* physical memory of handles */
	uint64_t use[KVS_MEMORY_KINDS];        /* of it, as the program told; */
	bool use_told[KVS_MEMORY_KINDS];       /* where it did: else all of a handle counts as asked for */
	struct prof_map handles;               /* by the driver's number: those with references */
	struct prof_handle *first_handle;
	struct prof_allocation *first_allocation;
	struct prof_map allocations;  /* by address */
	struct prof_map reservations; /* bytes by address */
	struct prof_ranges mappings, labels;
	struct prof_ranges gone; /* ranges that were unmapped or freed last; values are not used */
	unsigned gone_count;
	uint32_t next_ordinal;
	bool with_findings;
	struct prof_finding *findings;
	unsigned finding_count, finding_room;
	void (*hear)(
		void *arg, const struct prof_lifetime *lifetime); /* of all that is given back; NULL: nobody does */
	void (*hear_share)(
		void *arg, const struct prof_handle *handle, const struct prof_call *call); /* of each mapping of a
		handle that is mapped already; NULL: nobody does */
	void *hear_arg;
	uint64_t time_ns; /* of what is happening */
	bool no_memory;   /* something could not be kept: figures are too low */
};

void prof_account_call(struct prof_account *account, const struct prof_call *call);
/* Of the handles of this kind so many bytes are in use from now on. */
void prof_account_use(struct prof_account *account, enum kvs_memory_kind kind, uint64_t bytes);
void prof_account_label(struct prof_account *account, uint64_t address, uint64_t bytes, struct prof_label label);
/* Nothing is held any more. What was set up, and what was found, stays. */
void prof_account_reset(struct prof_account *account);
void prof_account_clear(struct prof_account *account);

#endif
