/*
 * profiler/profiler.h: where the memory and the time of a GPU went.
 *
 * Whoever watches a process (our own programs from inside, eBPF or CUPTI from outside) writes events into a trace, a file
 * that several processes may share and that stays readable when they are killed. A report is made from a trace: it follows
 * the life of each physical handle and each mapping, so it tells physical memory from virtual, and what sharing saved.
 *
 * profiler/ stands on driver/ alone, for messages and files (cu.h); it never calls CUDA. docs/trace.md has the file format.
 * Functions that return int return 0 or a negative errno, with a message in kvs_error().
 */
#ifndef KVS_PROFILER_H
#define KVS_PROFILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- events ---- */

/* Who saw it. Several may watch one process; a report counts each call once (docs/trace.md). */
enum kvs_source { KVS_SOURCE_OURS = 1, KVS_SOURCE_EBPF, KVS_SOURCE_CUPTI };

/* What memory is for. */
enum kvs_memory_kind {
	KVS_MEMORY_UNKNOWN,
	KVS_MEMORY_WEIGHTS,
	KVS_MEMORY_K,
	KVS_MEMORY_V,
	KVS_MEMORY_WORKSPACE,
	KVS_MEMORY_ACTIVATIONS,
	KVS_MEMORY_SINK,
	KVS_MEMORY_PROFILER, /* what the profiler itself takes, such as CUPTI's buffers */
	KVS_MEMORY_KINDS
};
const char *kvs_memory_kind_name(enum kvs_memory_kind kind); /* "weights" */

enum kvs_event_type {
	KVS_EVENT_PROCESS = 1, /* a process came to be watched; before anything else of it */
	KVS_EVENT_CALL,        /* a call of the driver returned */
	KVS_EVENT_CALLS,       /* many calls of one function, counted and timed where they happened */
	KVS_EVENT_KERNEL,      /* a kernel ran on the device */
	KVS_EVENT_LABEL,       /* what a range of addresses is for, until it is freed or labelled again */
	KVS_EVENT_PHASE,       /* the process does something else from now on: load, prefill, decode */
	KVS_EVENT_DEVICE,      /* what the driver says of the device's memory (cuMemGetInfo) */
	KVS_EVENT_EXIT,        /* the process was seen to end, or is not watched any more */
	KVS_EVENT_COPY,        /* the device copied or filled memory */
	KVS_EVENT_SPAN, /* a thread was in something that has a name, and is no call: a range of NVTX, an overhead */
	KVS_EVENT_USE,  /* how much of its memory of one kind a program has filled: the rest of the blocks is empty */
	KVS_EVENT_NVML, /* what NVML says that the process has of all devices together, contexts and code included */
	KVS_EVENT_TYPES
};

enum kvs_copy_kind {
	KVS_COPY_OTHER,
	KVS_COPY_HTOD, /* host to device */
	KVS_COPY_DTOH,
	KVS_COPY_DTOD, /* within a device */
	KVS_COPY_PTOP, /* between devices */
	KVS_COPY_FILL, /* a memset */
	KVS_COPY_KINDS
};

enum kvs_span_kind {
	KVS_SPAN_OTHER,
	KVS_SPAN_RANGE,    /* the program named it (NVTX) */
	KVS_SPAN_OVERHEAD, /* the driver or the profiler did something that the program did not ask for */
	KVS_SPAN_KINDS
};

#define KVS_EVENT_NONE UINT64_MAX /* of an address, a number of bytes or a handle: the call has none */
#define KVS_LATENCIES 64          /* [b]: calls that took 2^b to 2^(b+1)-1 ns; [0] also 0 ns */
#define KVS_MAX_FRAMES 48

/* Where a call came from, the innermost frame first. */
struct kvs_frame {
	const char *module; /* path of the program or library, "" where it is not known */
	uint64_t offset;    /* in that file; the address where there is no module */
};

struct kvs_event {
	enum kvs_event_type type;
	uint32_t pid, tid; /* of the process and the thread; tid 0 where it is not known */
	uint32_t link;     /* a launch and what it launched have the same in their process; 0: none */
	uint64_t time_ns;  /* CLOCK_MONOTONIC; of what has a duration, when it began */
	union {
		struct {
			enum kvs_source source;
			const char *command;     /* arguments, separated by spaces */
			const char *device;      /* its name; "" where it is not known */
			uint32_t parent;         /* pid, 0: not known */
			uint32_t driver_version; /* 1000 * major + 10 * minor, 0: not known */
			uint64_t device_bytes;   /* memory of the device, 0: not known */
			uint64_t wall_ns;        /* CLOCK_REALTIME at time_ns */
			uint64_t unit_bytes;     /* what cuMemAlloc takes memory in; 0: not known */
		} process;
		struct {
			const char *function; /* as the driver exports it: "cuMemAlloc_v2" */
			uint64_t duration_ns;
			int32_t result;                  /* CUresult */
			uint64_t address, bytes, handle; /* of what it made, used or freed; KVS_EVENT_NONE */
			const struct kvs_frame *frames;
			unsigned frame_count; /* 0: no stack was taken */
		} call;
		struct {
			const char *function;
			uint64_t failures, total_ns;
			uint64_t latency[KVS_LATENCIES];
		} calls;
		struct {
			const char *name;
			uint64_t duration_ns;
			uint32_t stream;
			int32_t layer; /* -1: not known */
		} kernel;
		struct {
			uint64_t address, bytes;
			enum kvs_memory_kind kind;
			int32_t layer, owner; /* of K and V; owner: the layer whose memory is mapped here; -1: none */
		} label;
		struct {
			const char *name; /* "": none of those that are named */
			uint64_t tokens;  /* of a prefill or a decode step */
		} phase;
		struct {
			uint64_t free_bytes, total_bytes;
		} device;
		struct {
			int32_t status; /* as waitpid() gives it; -1: not known */
		} exit;
		struct {
			enum kvs_copy_kind kind;
			uint64_t bytes, duration_ns;
			uint32_t stream;
		} copy;
		struct {
			enum kvs_span_kind kind;
			const char *name;
			uint64_t duration_ns; /* 0: a moment */
		} span;
		struct {
			enum kvs_memory_kind kind;
			uint64_t bytes; /* of physical memory, from now on; what several share counts once */
		} use;
		struct {
			uint64_t bytes;
		} nvml;
	};
};

/* ---- writing a trace ---- */

typedef struct kvs_trace kvs_trace;

struct kvs_trace_options {
	uint64_t max_bytes; /* the file gets no longer; what comes later is counted as lost. 0: no limit */
	unsigned flush_ms;  /* an event reaches the file after this time at most; 0: 200 */
	bool append;        /* the file is another process's trace too: add to it; false: begin a new one */
};

/*
 * Open `path` for writing. Events are gathered in two buffers of 256 KiB and written by a thread of the trace's own, so that
 * a caller waits for no disk; where both are full, events are lost and counted. A file that is there must be a trace, or
 * empty. -EINVAL (it is something else, or not a regular file), -ENOMEM, -EAGAIN (no thread), or what opening it answers.
 */
int kvs_trace_open(const char *path, const struct kvs_trace_options *options, kvs_trace **out);
/*
 * Add an event; strings and frames are copied. Any thread; never fails, never waits for the file. In a child after fork() it
 * does nothing: the trace stays its parent's.
 */
void kvs_trace_add(kvs_trace *trace, const struct kvs_event *event);
/* Count events that somebody else lost on their way here. */
void kvs_trace_lost(kvs_trace *trace, uint64_t events);
uint64_t kvs_trace_lost_so_far(const kvs_trace *trace);
/* Everything added so far is in the file afterwards. Gives the first error that writing met: -ENOSPC, -EFBIG, -EIO, ... */
int kvs_trace_flush(kvs_trace *trace);
/* Flush and close; NULL is fine. Gives what kvs_trace_flush() gives. */
int kvs_trace_close(kvs_trace *trace);

/* ---- reading a trace ---- */

typedef struct kvs_trace_reader kvs_trace_reader;

struct kvs_trace_health {
	uint64_t events, lost_events; /* read so far; lost by those who wrote */
	uint64_t damaged_bytes;       /* that are no part of a whole chunk, a torn end included */
	uint64_t missing_chunks;      /* numbers of chunks that are not there */
	uint64_t file_bytes;
};

/* -ENOENT, -EINVAL (no trace; a version that is not known), -ENOMEM, -EIO. */
int kvs_trace_read(const char *path, kvs_trace_reader **out);
void kvs_trace_reader_close(kvs_trace_reader *reader);
/*
 * The next event: 1; 0 at the end; -ENOMEM, -EIO. Damage is skipped and counted, never an error. Strings are valid until the
 * reader is rewound or closed, frames until the next call. `writer` (may be NULL) tells apart who wrote: events of one
 * writer come as it added them, those of different ones in no particular order.
 */
int kvs_trace_next(kvs_trace_reader *reader, struct kvs_event *out, uint32_t *writer);
/* From the start again. */
int kvs_trace_rewind(kvs_trace_reader *reader);
void kvs_trace_get_health(const kvs_trace_reader *reader, struct kvs_trace_health *out);

/* ---- CUPTI ---- */

/*
 * The path of NVIDIA's libcupti, which libkvshare-cupti.so would use: $KVSHARE_CUPTI, or else the loader's and the toolkit's
 * usual folders. It is loaded for that, and stays so. -ENOENT.
 */
int kvs_libcupti_find(char *path, size_t bytes);

/* ---- NVML ---- */

/*
 * NVIDIA's management library tells which process has how much of which GPU, whoever asked for it: contexts, code and workspaces of
 * libraries as well. It knows processes by the numbers that the host has for them, which a container does not see.
 */
typedef struct kvs_nvml kvs_nvml;

struct kvs_nvml_process {
	uint32_t pid;
	unsigned device;
	uint64_t bytes; /* KVS_EVENT_NONE: it does not say, as for a part of a GPU (MIG) in a container */
};

/* Open libnvidia-ml.so.1, or the library that $KVSHARE_NVML names. -ENOENT: there is none; -ENODEV: it does not work here; -ENOMEM. */
int kvs_nvml_open(kvs_nvml **out);
/* Those that compute on any device, one for each device, at most `room`; *count: those written. -EIO: NVML answers an error. */
int kvs_nvml_list(kvs_nvml *nvml, struct kvs_nvml_process *list, size_t room, size_t *count);
unsigned kvs_nvml_devices(const kvs_nvml *nvml);
void kvs_nvml_close(kvs_nvml *nvml); /* NULL is fine */

/* ---- reports ---- */

typedef struct kvs_report kvs_report;

/*
 * Read a trace and gather what it says; takes memory by the number of different things in it, not by its length. What
 * kvs_trace_read() and kvs_trace_next() answer, -ENOMEM.
 */
int kvs_report_make(const char *trace, kvs_report **out);
void kvs_report_free(kvs_report *report);

/* At most 12 lines for a terminal: the peak and who held it, what sharing saved, leaks, the slowest calls. The caller frees *text. -ENOMEM. */
int kvs_report_text(const kvs_report *report, char **text);
/* All figures as one JSON object (docs/profiler.md has its keys). The caller frees *text. -ENOMEM. */
int kvs_report_json(const kvs_report *report, char **text);
/* One HTML file that needs nothing else, at most 2 MB. The caller frees *text. -ENOMEM. */
int kvs_report_html(const kvs_report *report, char **text);
/* ---- a trace that is being written ---- */

typedef struct kvs_live kvs_live;

struct kvs_live_process {
	uint32_t pid;
	const char *command; /* valid until the next update */
	bool ended;
	uint64_t physical_bytes, mapped_bytes, saved_bytes, kv_bytes, host_bytes; /* now */
	uint64_t peak_bytes;                                                      /* most physical so far */
	uint64_t calls;                                                           /* so far */
};

struct kvs_live_function {
	const char *name;
	uint64_t calls, failures, total_ns, p99_ns; /* so far, by all processes */
};

/* Follow a trace while it grows. What kvs_trace_read() answers, -ENOMEM. */
int kvs_live_open(const char *trace, kvs_live **out);
/*
 * Take in what was written since. `done_bytes` (NULL: not asked): that many bytes at the beginning of the file are not needed
 * again. -ENOMEM, -EIO.
 */
int kvs_live_update(kvs_live *live, uint64_t *done_bytes);
size_t kvs_live_processes(const kvs_live *live);
void kvs_live_get_process(const kvs_live *live, size_t index, struct kvs_live_process *out);
size_t kvs_live_functions(const kvs_live *live);
void kvs_live_get_function(const kvs_live *live, size_t index, struct kvs_live_function *out);
uint64_t kvs_live_lost(const kvs_live *live); /* events */
void kvs_live_close(kvs_live *live);          /* NULL is fine */

/* ---- processes ---- */

/* Its arguments as /proc has them, with spaces between; "" where they are not to be seen. `bytes` is 1 at least. */
void kvs_process_command(pid_t pid, char *out, size_t bytes);
uint32_t kvs_process_parent(pid_t pid); /* 0: it has ended, or has none */

/* ---- watching from outside ---- */

/*
 * Processes that know nothing of us, watched by the kernel (eBPF): probes on the libcuda.so.1 that they map, and tracepoints. A
 * call of the driver costs them a few microseconds more. Children of a watched process are watched from birth.
 */
typedef struct kvs_watch kvs_watch;

struct kvs_watch_options {
	/*
	 * The process is a child of ours that has yet to exec: it is told of when it does. And a process that maps a driver
	 * stands still (SIGSTOP) until its probes are there, a few milliseconds, so that no call is missed.
	 */
	bool starting;
	unsigned
		as_before; /* for tests: do it as kernels before 6.13 (1), before 6.6 (2) must; 0: as well as this one can */
	size_t ring_bytes; /* buffer between the kernel and us, a power of two; 0: 4 MiB */
};

struct kvs_watch_state {
	unsigned processes;  /* that the trace was told of */
	unsigned drivers;    /* files with probes */
	uint64_t events;     /* calls that were told one by one */
	uint64_t lost;       /* events that found no room */
	bool ended;          /* the process has */
	int status;          /* then: as waitpid() gives it; -1: not known */
	const char *problem; /* what kept a driver from being watched, "": nothing; valid until the watch is closed */
};

/* Whether this build, this kernel and this user can watch: 0, -ENOTSUP, -EPERM. The message says what is missing. */
int kvs_watch_check(void);
/*
 * Watch process `pid`, and what it forks from now on; events go to `trace`, which must outlive the watch. All calls are made on
 * one thread. What kvs_watch_check() answers; -ESRCH (no such process, or one of the kernel's own), -EACCES (of another user),
 * -ENOMEM, or what the kernel says. On success the caller owes kvs_watch_close().
 */
int kvs_watch_open(pid_t pid, kvs_trace *trace, const struct kvs_watch_options *options, kvs_watch **out);
/* Pass on what came, wait at most `timeout_ms` for more. 1; 0: the process has ended, and all of it is told; -EIO. A signal ends the wait. */
int kvs_watch_poll(kvs_watch *watch, int timeout_ms);
void kvs_watch_get_state(const kvs_watch *watch, struct kvs_watch_state *out);
/* Take all probes away and pass on the rest: the state is final. Processes run on. */
void kvs_watch_stop(kvs_watch *watch);
void kvs_watch_close(kvs_watch *watch); /* stops it first; NULL is fine */

/*
 * Two reports side by side: memory, tokens a second, time by class of kernel and by function; as text, or as one JSON object
 * (docs/profiler.md has its keys). The caller frees *text. -ENOMEM.
 */
int kvs_report_diff_text(const kvs_report *a, const kvs_report *b, char **text);
int kvs_report_diff_json(const kvs_report *a, const kvs_report *b, char **text);

struct kvs_measured { /* beside the traces, of both sides in several rounds */
	const char *name, *unit;
	int digits;       /* shown behind the point */
	double values[2]; /* of A and B */
	double ratio, least,
		largest; /* of B by A: the median of the rounds, and between what they lie; NAN: the difference is told */
};
struct kvs_diff_page {
	const char *names[2]; /* "full", "shared": words of the caller, which are not escaped */
	const struct kvs_measured *measured;
	size_t measured_count;
	unsigned rounds;
};
/* The same as one HTML file that needs nothing else, at most 2 MB. `given` NULL: named A and B, and nothing was measured beside. */
int kvs_report_diff_html(const kvs_report *a, const kvs_report *b, const struct kvs_diff_page *given, char **text);

/* What a bounded file has no room for. */
struct kvs_left_out {
	uint64_t slices, shorter_than_ns; /* slices: of calls, kernels, copies and ranges; those that are shorter */
	uint64_t lifetimes;               /* of memory: the smallest and shortest */
	uint64_t rows;                    /* the last of a table */
};
/*
 * The trace as events for ui.perfetto.dev (Chrome's JSON format), at most about 100 MB. The file that the report was made from
 * is read again. The caller frees *text. What kvs_report_make() answers.
 */
int kvs_report_perfetto(const kvs_report *report, char **text, struct kvs_left_out *left_out);
/* Allocations in the columns of RAPIDS Memory Manager's log, at most a million rows. As kvs_report_perfetto(). */
int kvs_report_csv(const kvs_report *report, char **text, struct kvs_left_out *left_out);
/* Stacks of what was held at the peak and at the end, for www.speedscope.app. The caller frees *text. -ENOMEM. */
int kvs_report_speedscope(const kvs_report *report, char **text);

#ifdef __cplusplus
}
#endif
#endif
