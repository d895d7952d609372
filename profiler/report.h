/*
 * profiler/report.h: what a trace says, gathered. Internal to profiler/: what each form of output is made from.
 */
#ifndef KVS_PROFILER_REPORT_H
#define KVS_PROFILER_REPORT_H

#include "account.h"
#include "demangle.h"
#include "histogram.h"
#include "intern.h"
#include "profiler.h"

#define PROF_MAX_POINTS 1024
#define PROF_MAX_PHASES 256
#define PROF_MAX_TIMINGS 8192 /* functions; kernels by layer */
#define PROF_MAX_PHASE_NAMES 1024
#define PROF_OTHERS "all others" /* what is beyond these */
#define PROF_MAX_SPANS 1024      /* names of spans may count up, as "step 17"; those beyond it are taken together */

/* Things with a name, numbered from 1; what is known of each is at [number - 1] of an array of the owner's. */
struct prof_names {
	struct prof_intern intern;
	char **texts;
	uint32_t room;
};
/* 0: no memory, or "". */
uint32_t prof_names_add(struct prof_names *names, const char *text);
const char *prof_names_text(const struct prof_names *names, uint32_t number); /* "" for 0 */
void prof_names_clear(struct prof_names *names);

struct prof_timing {        /* of a function of the driver, or of a kernel */
	const char *name;   /* of a kernel in C++ as people write it */
	const char *symbol; /* as the trace has it */
	int layer;          /* of a kernel, -1: not known */
	enum prof_call_class class;
	uint64_t failures;
	struct prof_histogram latency;
};

struct prof_phase {
	const char *name;
	uint64_t tokens;
	struct prof_histogram duration;
};

struct prof_phase_mark { /* when a phase began, for charts: the first PROF_MAX_PHASES */
	uint64_t time_ns;
	uint32_t phase; /* its number; 0: the one before ended, and none began */
};

struct prof_copies { /* of one kind */
	uint64_t bytes;
	struct prof_histogram duration;
};

struct prof_span { /* those of one kind and name */
	enum kvs_span_kind kind;
	const char *name;
	uint64_t count, total_ns, max_ns;
};

struct prof_frame {
	uint32_t module; /* of modules */
	uint64_t offset;
	uint32_t function, file, line; /* of names; 0: not known (symbols.c) */
};
struct prof_stack {
	unsigned count;
	struct prof_frame frames[KVS_MAX_FRAMES]; /* there is memory for `count` of them */
};

/* Memory over time, all processes together. A point is the moment with the most physical memory in its step of time. */
struct prof_point {
	uint64_t time_ns; /* 0: nothing happened in this step */
	struct prof_totals totals;
};
struct prof_series {
	uint64_t start_ns, step_ns; /* a point covers [start + i * step, start + (i + 1) * step) */
	unsigned count;
	struct prof_point points[PROF_MAX_POINTS];
};

/* Memory that was held, by whom: handles and allocations of one kind, layer, function and stack. */
struct prof_holder {
	uint32_t process; /* [of processes] */
	enum kvs_memory_kind kind;
	int layer; /* -1: none */
	const char *function;
	uint32_t stack, count;
	uint64_t bytes, born_ns; /* born_ns: of the oldest */
};
struct prof_holders {
	struct prof_holder *list; /* the largest first */
	size_t count;
};

/* K or V of a layer at the peak: which physical blocks lie behind its addresses. */
struct prof_kv_range {
	uint32_t process;
	int layer, owner;
	bool is_v;
	uint64_t address, bytes; /* of the label */
	uint64_t mapped, first_block_bytes;
	uint32_t *blocks; /* ordinals of handles, in the order of addresses */
	size_t block_count;
};
struct prof_kv_map {
	struct prof_kv_range *list; /* by process, layer, K before V */
	size_t count;
};

struct prof_process {
	uint32_t pid, parent, driver_version;
	enum kvs_source source; /* that its calls are taken from */
	const char *command, *device;
	uint64_t start_ns, end_ns, device_bytes, unit_bytes;
	bool ended;
	int32_t status;
	bool asked;              /* the driver was asked how much memory is free */
	uint64_t calls;          /* that were told of, one by one or counted */
	uint64_t overhead;       /* most that a profiler told that it takes of the device, beside what calls tell of */
	uint64_t untracked;      /* most that the driver counted as used beyond what calls tell, when it was asked */
	bool nvml_asked;         /* NVML told of it */
	uint64_t nvml;           /* most that NVML said it has */
	uint64_t nvml_untracked; /* most of that beyond what calls tell */
	struct prof_totals peak; /* of its own */
	struct prof_account account;
	/* the phase that it is in */
	uint32_t phase;
	uint64_t phase_ns;
};

struct kvs_report {
	char *path;
	struct kvs_trace_health health;
	uint64_t start_ns, end_ns;
	struct prof_process **processes;
	size_t process_count;
	struct prof_names names; /* every string that is pointed to */
	struct prof_names function_names, kernel_names, phase_names, span_names, modules;
	struct prof_timing **functions, **kernels; /* by number - 1 */
	struct prof_phase **phases;
	struct prof_span **spans;
	struct prof_copies copies[KVS_COPY_KINDS];
	uint64_t overhead_ns; /* of all spans that are overhead */
	struct prof_intern stack_keys;
	struct prof_stack **stacks;
	struct prof_phase_mark *marks; /* [PROF_MAX_PHASES] */
	unsigned mark_count;
	struct prof_totals now;
	struct prof_series *series;
	/* at the peak */
	uint64_t peak_ns, peak_event; /* peak_event: changes of memory before it */
	struct prof_totals peak;
	struct prof_holders at_peak, leaks;
	struct prof_kv_map kv;
	uint64_t calls, failures;
	bool no_memory;
};

/* What a process held: at the peak or at its end (snapshot.c). Appended to `out`. */
int prof_hold(const struct prof_process *process, uint32_t number, bool host_too, struct prof_holders *out);
void prof_holders_merge(struct prof_holders *holders); /* same ones together, sorted */
int prof_kv_take(const struct prof_process *process, uint32_t number, struct prof_kv_map *out);
void prof_kv_clear(struct prof_kv_map *map);

/* Who hears of everything while a trace is followed. Calls are those of the source that is believed. */
struct prof_hooks {
	void *arg;
	void (*event)(void *arg, const struct prof_process *process, const struct kvs_event *event);
	void (*change)(void *arg, const struct prof_process *process, uint64_t time_ns); /* of process->account.now */
	void (*gone)(void *arg, const struct prof_process *process, const struct prof_lifetime *lifetime);
	/* A handle that is mapped already is mapped by this call too. NULL: not asked for. */
	void (*share)(void *arg, const struct prof_process *process, const struct prof_handle *handle,
		const struct prof_call *call);
};

/*
 * Follow the trace (follow.c): once to choose sources, once for everything, once more up to the peak; with hooks (NULL: none)
 * the last is left out, and memory that is never given back is told of at the end.
 */
int prof_follow(kvs_report *report, kvs_trace_reader *reader, const struct prof_hooks *hooks);
/* The same for a trace that grows: everything is taken once, as it comes, and there is no peak to go back to. */
struct prof_follow;
struct prof_follow *prof_follow_open(kvs_report *report); /* NULL: no memory */
/* What came since. */
int prof_follow_news(struct prof_follow *follow, kvs_trace_reader *reader);
void prof_follow_close(struct prof_follow *follow);

/* An empty report, to be filled; NULL: no memory (report.c). */
kvs_report *prof_report_new(const char *trace);
/* kvs_report_make() with hooks, and without what is known of the peak alone (report.c). */
int prof_report_follow(const char *trace, const struct prof_hooks *hooks, kvs_report **out);

uint64_t prof_overhead(const kvs_report *report); /* device memory of the profiler */
uint64_t prof_unfilled(
	const struct prof_totals *totals, enum kvs_memory_kind kind); /* KVS_MEMORY_KINDS: of all kinds */
uint64_t prof_untracked(const kvs_report *report); /* memory that the driver counts, and no call tells of */
/* What NVML says of all processes, each at its most; and what of it no call tells of. False: it was not asked. */
bool prof_nvml(const kvs_report *report, uint64_t *bytes, uint64_t *untracked);

void prof_series_add(struct prof_series *series, uint64_t time_ns, const struct prof_totals *totals);

/* Of a kernel by its name: "attention", "gemm", ... */
const char *prof_kernel_class(const char *name);
const char *prof_finding_name(enum prof_finding_kind kind);
const char *prof_source_name(enum kvs_source source);
const char *prof_copy_name(enum kvs_copy_kind kind);
const char *prof_span_name(enum kvs_span_kind kind);

/* Names the frames that the report shows, as far as this machine has the files (symbols.c). -ENOMEM. */
int prof_resolve(kvs_report *report);
/*
 * A frame for people: "load (weights.c:12)", "load (libmodel.so)", "libmodel.so+0x1234"; `out` has PROF_FRAME_TEXT bytes and
 * is given back.
 */
#define PROF_FRAME_TEXT 128
const char *prof_frame_text(const kvs_report *report, const struct prof_frame *frame, char *out);
/* The index of the innermost frame that is neither the driver's nor kvshare's; 0 if all are. */
unsigned prof_stack_place(const kvs_report *report, const struct prof_stack *stack);

/* "63.7 MiB", "1.2 ms" (units.c); `out` has PROF_UNIT_TEXT bytes and is given back. */
#define PROF_UNIT_TEXT 32
const char *prof_size_text(uint64_t bytes, char *out);
const char *prof_duration_text(uint64_t ns, char *out);

#endif
