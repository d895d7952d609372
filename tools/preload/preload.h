/*
 * tools/preload/preload.h: what the files of the shim share (libkvshare-preload.so).
 *
 * The shim lives in other people's programs: it starts with the first driver call, has no constructors, exports only its
 * hooks and the forms of dlsym, and prints nothing but a line when something does not go as asked. Names that its files
 * share start with shim_.
 */
#ifndef SHIM_PRELOAD_H
#define SHIM_PRELOAD_H

#include "hooks.h"
#include "layout.h"

#include "../../vmm/kvshare.h"

#include <stdatomic.h>
#include <stdbool.h>

/* For variables that inline functions read: the compiler need not ask for their addresses. */
#define SHIM_HIDDEN __attribute__((visibility("hidden")))

/* ---- the driver behind the hooks (resolve.c) ---- */

struct shim_real {
#define SHIM_MEMBER(name) __typeof__(name) *name;
	SHIM_HOOKS(SHIM_MEMBER)
	SHIM_CALLS(SHIM_MEMBER)
#undef SHIM_MEMBER
	void *library;
};
/* The driver's own functions, found at the first call. Without a driver all are NULL. */
const struct shim_real *shim_real_find(void);
extern SHIM_HIDDEN struct shim_real shim_real_table;
extern SHIM_HIDDEN atomic_bool shim_real_ready;
static inline const struct shim_real *shim_real(void)
{
	return atomic_load_explicit(&shim_real_ready, memory_order_acquire) ? &shim_real_table : shim_real_find();
}
/* For kvs_cu_adopt(): the driver's function of an exported name. */
void *shim_real_symbol(void *arg, const char *name);
/* glibc's dlsym, as a program calls it; NULL where there is none. */
void *shim_dlsym(void *handle, const char *name);
/* KVSHARE_DISABLE alone: cheap, and legal while libraries are still being loaded. */
bool shim_is_disabled(void);
/* The answer for a function that this driver does not have. */
#define SHIM_ABSENT CUDA_ERROR_NOT_SUPPORTED

/* glibc's functions by name and version, from the library in memory (elf.c). */
void *shim_elf_find(const char *library, const char *name, const char *version);
bool shim_same(const char *a, const char *b); /* strcmp, for those who may not call it */

/* ---- what was asked for (settings.c) ---- */

struct shim_settings {
	bool off;    /* KVSHARE_DISABLE, no owners or no layout, or one that cannot be read */
	bool broken; /* the last of these */
	bool strict; /* KVSHARE_STRICT: errors instead of plain memory */
	bool last;   /* KVSHARE_POLICY=last: borrowers write their owners' blocks; else their stores go to the sink */
	bool sync;   /* KVSHARE_SYNC: wait after each launch, to name a kernel that fails */
	struct shim_layout layout;
	struct shim_owners owners;
	const char *stats_path, *writers; /* KVSHARE_STATS, KVSHARE_WRITERS */
	bool log_to_stderr;               /* KVSHARE_LOG=1: a summary at the end */
	const char *log_path;             /* KVSHARE_LOG, a file's name: the same, at the end of that file */
	bool only_writers;                /* KVSHARE_ONLY_WRITERS: no kernel writes but those of KVSHARE_WRITERS */
	const char *inspect_path;         /* KVSHARE_INSPECT: share nothing, and write down what there is */
	const char *probe_path;           /* KVSHARE_PROBE: share nothing, and find the kernels that write */
	bool each_launch;                 /* inspect_path, probe_path or sync: no launch is passed on at once */
};
const struct shim_settings *shim_settings_read(void);
extern SHIM_HIDDEN _Atomic(const struct shim_settings *) shim_settings_known;
static inline const struct shim_settings *shim_settings(void)
{
	const struct shim_settings *known = atomic_load_explicit(&shim_settings_known, memory_order_acquire);

	return known ? known : shim_settings_read();
}
/* One line on stderr, "kvshare: ...". */
void shim_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- contexts that have memory which is shared (device.c) ---- */

/* The memory manager of one context of the program's. */
struct shim_device {
	struct shim_device *next;
	CUcontext context;
	kvs_cu *cu;
	kvs_vmm *vmm;
};
extern struct shim_device *shim_devices;
/* That of the calling thread's context. -ENODEV: it has none; what kvs_cu_adopt() and kvs_vmm_create() answer. */
int shim_device_get(struct shim_device **out);
void shim_devices_free(CUcontext context);

/* ---- memory that is shared (cache.c, ranges.c) ---- */

/* A tensor of a cache that borrows or lends, as the hooks of launches and copies see it. */
struct shim_range {
	CUdeviceptr base;
	size_t bytes;
	CUdeviceptr sink; /* where stores to it go; 0: to itself */
};
/* Never changes once it is published; sorted by base; not empty. */
struct shim_ranges {
	struct shim_ranges
		*older; /* of those that are no more, but which some thread may still read; and when it ceased to be */
	uint64_t age;
	CUdeviceptr low, high; /* all ranges lie in [low, high) */
	size_t count;
	struct shim_range range[];
};
/* NULL: no memory is shared. What a hook gets stays until the end of its SHIM_TIMED; those that wait may only see whether there is one. */
extern SHIM_HIDDEN _Atomic(struct shim_ranges *) shim_ranges_now;
static inline const struct shim_ranges *shim_ranges(void)
{
	return atomic_load_explicit(&shim_ranges_now, memory_order_acquire);
}

/* A thread's mark, for ranges.c. */
struct shim_reader {
	_Atomic uint64_t inside; /* the age of tables when its outermost hook began; 0: it is in none */
	atomic_bool taken;       /* by a thread */
	struct shim_reader *next;
} __attribute__((aligned(64)));
#define SHIM_INITIAL_EXEC __attribute__((visibility("hidden"), tls_model("initial-exec"))) /* no call to find it */
extern SHIM_INITIAL_EXEC _Thread_local struct shim_reader *shim_reader;
extern SHIM_HIDDEN _Atomic uint64_t shim_ranges_age;
struct shim_reader *shim_reader_make(void) __attribute__((cold));
/* A hook begins: the mark, and what it was, which is not 0 within another hook. */
static inline struct shim_reader *shim_reader_enter(uint64_t *outer)
{
	struct shim_reader *reader = __builtin_expect(shim_reader != NULL, 1) ? shim_reader : shim_reader_make();

	*outer = atomic_load_explicit(&reader->inside, memory_order_relaxed);
	if (__builtin_expect(!*outer, 1))
		atomic_store_explicit(&reader->inside, atomic_load_explicit(&shim_ranges_age, memory_order_acquire),
			memory_order_release);
	atomic_signal_fence(
		memory_order_seq_cst); /* before anything is read; old_free() sees to the processor's order */
	return reader;
}
/* The first range that ends behind `address`, or NULL: it holds the address, or comes after it. */
const struct shim_range *shim_range_next(const struct shim_ranges *ranges, CUdeviceptr address);
/* The range that holds `address`, or NULL. */
static inline const struct shim_range *shim_range_find(const struct shim_ranges *ranges, CUdeviceptr address)
{
	const struct shim_range *range;

	if (address < ranges->low || address >= ranges->high)
		return NULL;
	range = shim_range_next(ranges, address);
	return range && range->base <= address ? range : NULL;
}
/* Takes the array `range`. -ENOMEM: as before. */
int shim_ranges_publish(const struct shim_range *range, size_t count);
void shim_ranges_forget(void);

/*
 * Memory for an allocation of `bytes` bytes that fits the layout. False: it does not, or it cannot be backed (which has
 * been said), and the caller makes a plain one; with --strict *error is then set.
 */
bool shim_cache_allocate(size_t bytes, CUdeviceptr *out, CUresult *error);
/* A plain allocation has been made; address 0: it may be no part of a cache, but one of those that come before. */
void shim_cache_passed(CUdeviceptr address, size_t bytes);
/* The program frees plain memory, which is then no part of a cache; true: it was one. It is back, as the driver has refused to free it. */
bool shim_cache_left(CUdeviceptr address);
void shim_cache_back(CUdeviceptr address);
bool shim_cache_any(void); /* some allocation of the program's is ours */
/* The program's allocation that holds `address`. */
bool shim_cache_find(CUdeviceptr address, CUdeviceptr *base, size_t *bytes);
/* It came from a pool, as far as the program knows; what all such allocations of a pool take; that of an allocation, or NULL. */
void shim_cache_set_pool(CUdeviceptr address, CUmemoryPool pool);
size_t shim_cache_pool_bytes(CUmemoryPool pool);
CUmemoryPool shim_cache_pool(CUdeviceptr address);
/* That in which the program made it; NULL: it is not ours. */
CUcontext shim_cache_context(CUdeviceptr address);
/* Where a store of all of [address, address + bytes), over several tensors, goes in one piece; false: there is no such place. */
bool shim_cache_shadow(CUdeviceptr address, size_t bytes, CUdeviceptr *moved);
/* Frees the allocation that starts at `address`, whose last use is over; false: it is not ours. */
bool shim_cache_free(CUdeviceptr address);
/* The same while nobody may wait for its last use; shim_cache_free_late() waits when one may again, and frees what is left so. */
bool shim_cache_free_later(CUdeviceptr address);
void shim_cache_free_late(void);
/*
 * With memory=reserved. A range that the program has reserved: it may be of a cache. A part of such a range is ours (the tensors that
 * share, and what lies between them); shim_cache_part() cuts [*from, *to) to it, and is false if they have nothing in common, or,
 * with `mapped`, if nothing is mapped there. shim_cache_map() takes what was cut so, for memory
 * of a device; false: as of shim_cache_allocate().
 */
void shim_cache_reserve(CUdeviceptr address, size_t bytes);
bool shim_cache_part(CUdeviceptr *from, CUdeviceptr *to, bool mapped);
bool shim_cache_map(CUdeviceptr from, CUdeviceptr to, CUdevice device, CUresult *error);
void shim_cache_unmap(CUdeviceptr from, CUdeviceptr to);
/* The program frees a range; true: it is still borrowed from, and will be freed when it is not. */
bool shim_cache_unreserve(CUdeviceptr address, size_t bytes);
/* Everything in `context`, which is about to go; NULL: in all. */
void shim_cache_free_context(CUcontext context);
/* In a child of fork(): nothing is shared any more. */
void shim_cache_forget(void);

/* ---- waiting (waits.c) ---- */

/* The program captures a stream, so nobody may wait for a context. */
bool shim_is_captured(void);
/*
 * No capture begins until shim_wait_end(), which is given the answer; false: the program captures a stream. Whoever waits, or frees
 * memory, which waits, is between them.
 */
bool shim_wait_begin(void);
void shim_wait_end(bool begun);
/* An error that is one only in a capture; what the driver answers in the present ones to calls such as cuMemAlloc and cuMemFree. */
bool shim_is_of_capture(CUresult error);
CUresult shim_capture_refuses(void);
/* The streams of a context that is about to go are captured no more. */
void shim_captures_end(CUcontext context);
/*
 * For all that was launched in `context`, whichever is current; no capture begins meanwhile. CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
 * one has begun already, and nothing was waited for.
 */
CUresult shim_context_wait(CUcontext context);
/* After this error nothing runs any more, and there is nothing to wait for. */
bool shim_is_lost(CUresult error);
void shim_waits_forget(void);

/* ---- memory pools (pools.c) ---- */

/* That of cuMemAllocAsync; NULL: there is none. */
CUmemoryPool shim_pool_current(void);
/* A pool of the calling thread's device that can have so much more; one that is not known to be is left to the driver. */
bool shim_pool_has(CUmemoryPool pool, size_t bytes);
/* The program has more from a pool than before. */
void shim_pool_note(CUmemoryPool pool);

/* In a child of fork(), which may have come while another thread had a lock. */
void shim_own_forget(void);
void shim_alloc_forget(void);
void shim_pools_forget(void);
void shim_maps_forget(void);

/* ---- kernels (kernels.c, writers.c) ---- */

enum shim_role { SHIM_READS, SHIM_WRITES, SHIM_FUSED };
#define SHIM_ANY_PARAM UINT64_MAX
#define SHIM_MAX_WORDS 16
/* The parameters through which a kernel writes. */
struct shim_written {
	uint64_t params, parts; /* a bit for each; those of which it is some words alone, and these: */
	unsigned count;
	bool general; /* it writes much else, so where it does tells nothing about a cache */
	struct {
		size_t param, offset;
	} word[SHIM_MAX_WORDS];
};
/* The role of a kernel by its name. */
enum shim_role shim_role_of(const char *name, struct shim_written *written);

struct shim_param {
	size_t offset, bytes;
};
struct shim_kernel {
	_Atomic(struct shim_kernel *) next;
	struct shim_kernel *retired;
	CUfunction function;
	unsigned generation;
	char *name;
	enum shim_role role;
	struct shim_written written;
	atomic_bool
		touched; /* was launched with an address of a borrower that is not one that it is known to write through */
	size_t param_count, param_bytes;
	struct shim_param param[];
};
/* NULL: the driver does not tell its parameters. */
struct shim_kernel *shim_kernel_of(CUfunction function);
/* Functions may have gone; their handles may come back as others. */
void shim_kernels_stale(void);
/* In a child of fork(): the lock may be another thread's, which is not there. */
void shim_kernels_forget(void);
/* Calls `tell` with each kernel that was handed a borrower's address and is not known to write through it. */
void shim_kernels_touched(void (*tell)(void *arg, const struct shim_kernel *kernel), void *arg);

/* A stream is being captured (launch.c); per_thread: the caller's NULL is its thread's own stream. */
bool shim_is_capturing(CUstream stream, bool per_thread);
/* It is there, and is not being captured. */
bool shim_is_plain_stream(CUstream stream, bool per_thread);

/* ---- what there is to share (inspect.c) ---- */

void shim_inspect_allocated(const char *call, CUdeviceptr base, size_t bytes);
void shim_inspect_freed(CUdeviceptr base);
/* A kernel that stores K or V was handed this address. */
void shim_inspect_store(CUdeviceptr address);
/* This is one of its parameters, in which there may be strides. */
void shim_inspect_value(const unsigned char *value, size_t bytes);

/* ---- which kernels write (probe.c) ---- */

void shim_probe_allocated(CUdeviceptr base, size_t bytes);
/* Addresses alone, which may be those of a cache with memory=reserved. */
void shim_probe_reserved(CUdeviceptr base, size_t bytes);
/* Of either. */
void shim_probe_freed(CUdeviceptr base);

/* ---- counters (stats.c) ---- */

enum shim_hook_kind {
	SHIM_ALLOCS,
	SHIM_FREES,
	SHIM_LAUNCHES,
	SHIM_COPIES,
	SHIM_MEMSETS,
	SHIM_WORDS,
	SHIM_QUERIES,
	SHIM_MAPPINGS,
	SHIM_EXPORTS,
	SHIM_POOLS,
	SHIM_WAITS,
	SHIM_POLLS,
	SHIM_CAPTURES,
	SHIM_NODES,
	SHIM_GRAPHS,
	SHIM_GRAPH_LAUNCHES,
	SHIM_TENSOR_MAPS,
	SHIM_CONTEXTS,
	SHIM_SYMBOLS,
	SHIM_KIND_COUNT
};
extern atomic_ulong shim_calls[SHIM_KIND_COUNT], shim_launches_patched;
static inline void shim_count(atomic_ulong *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/*
 * Counts a call, and times it until the end of its scope, the driver's part included. Of what a program does all the time, and of
 * what is quick, one call in 64 is timed, as to read the clock twice takes longer than the shim does.
 */
static inline bool shim_is_sampled(enum shim_hook_kind kind)
{
	switch (kind) {
	case SHIM_LAUNCHES:
	case SHIM_COPIES:
	case SHIM_MEMSETS:
	case SHIM_WORDS:
	case SHIM_QUERIES:
	case SHIM_POLLS:
	case SHIM_GRAPH_LAUNCHES:
	case SHIM_TENSOR_MAPS:
	case SHIM_SYMBOLS:
		return true;
	default:
		return false;
	}
}
/* Calls that may take for ever keep no table. */
static inline bool shim_is_reader(enum shim_hook_kind kind)
{
	return kind != SHIM_WAITS && kind != SHIM_POLLS;
}
struct shim_timer {
	enum shim_hook_kind kind;
	uint64_t start_ns; /* 0: not timed */
	struct shim_reader *reader;
	uint64_t outer; /* the reader's mark outside */
};
#define SHIM_TIMED __attribute__((cleanup(shim_timer_end), unused)) /* unused: clang does not count the cleanup */
uint64_t shim_timer_now(void);
void shim_timer_add(const struct shim_timer *timer);
static inline struct shim_timer shim_timer_start(enum shim_hook_kind kind)
{
	unsigned long before = atomic_fetch_add_explicit(&shim_calls[kind], 1, memory_order_relaxed);
	bool timed = !shim_is_sampled(kind) || before % 64 == 1; /* 1: the first call is no example */
	struct shim_timer timer = {.kind = kind, .start_ns = timed ? shim_timer_now() : 0};

	if (shim_is_reader(kind))
		timer.reader = shim_reader_enter(&timer.outer);
	return timer;
}
static inline void shim_timer_end(struct shim_timer *timer)
{
	if (shim_is_reader(timer->kind))
		atomic_store_explicit(&timer->reader->inside, timer->outer, memory_order_release);
	if (__builtin_expect(timer->start_ns != 0, 0)) {
		struct shim_timer copy = *timer; /* so that the timer itself need not be in memory */

		shim_timer_add(&copy);
	}
}

struct shim_memory {
	size_t physical_bytes, virtual_bytes, saved_bytes, sink_bytes;
};
extern const char *const shim_kind_names[SHIM_KIND_COUNT];
/* All of it at one moment. */
struct shim_account {
	struct shim_memory memory;
	unsigned long launches_patched, calls[SHIM_KIND_COUNT], ns[SHIM_KIND_COUNT];
};
/*
 * Text for a signal handler to write: glibc's snprintf neither allocates nor locks for whole numbers and plain strings. Its
 * stack may be small. What does not fit is left out.
 */
struct shim_text {
	size_t bytes;
	char text[2048];
};
void shim_text_add(struct shim_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Two lines for people, of the process `name` (summary.c). */
void shim_summary_make(struct shim_text *text, const char *name, const struct shim_account *account);
/* Notes the memory after a change; the largest is what the statistics report. */
void shim_stats_note(const struct shim_memory *memory);
/* From now on a file is written when the program ends, where one was asked for. */
void shim_stats_start(void);
/* Writes it at once; a signal handler may call it. */
void shim_stats_write_now(void);
/* What a program that ends with this status ends with: a failure where --strict asks for sharing, and nothing was shared. */
int shim_stats_status(int status);
/* What `inspect` and `probe` write into PATH.PID; text is added to what shim_report_text() gives, 1 KiB at most each time (report.c). */
struct shim_report {
	int file;
	bool failed;
	struct shim_text text;
};
bool shim_report_open(struct shim_report *report, const char *path);
struct shim_text *shim_report_text(struct shim_report *report);
void shim_report_close(struct shim_report *report, const char *path);
/* Write it at once, where there is something to write; a signal handler may call them. */
void shim_inspect_write_now(void);
void shim_probe_write_now(void);
/* Notices ends that exit handlers do not see: SIGTERM, SIGABRT and _exit (ends.c). */
void shim_ends_watch(void);

/* ---- the profiler (profile.c); all of it does nothing where there is no KVSHARE_PROFILE ---- */

void shim_profile_start(void);
/* From now on the engine's calls through this table are told. */
void shim_profile_engine(kvs_cu *cu);
/* A call of the program's that began at shim_profile_time(); bytes 0: not known. */
uint64_t shim_profile_time(void);
void shim_profile_call(const char *function, CUresult result, CUdeviceptr address, size_t bytes, uint64_t start_ns);
void shim_profile_label(CUdeviceptr address, size_t bytes, enum kvs_k_or_v which, int layer, int owner);
void shim_profile_sink(CUdeviceptr address, size_t bytes);

/* ---- faults (fault.c) ---- */

/* Says once which kernels may have written a borrower's memory. */
void shim_fault_tell(const struct shim_kernel *kernel);
/* The same where `result` is such an error. Returns `result`. */
static inline CUresult shim_fault_check(CUresult result, const struct shim_kernel *kernel)
{
	if (result == CUDA_ERROR_ILLEGAL_ADDRESS || result == CUDA_ERROR_LAUNCH_FAILED)
		shim_fault_tell(kernel);
	return result;
}

#endif
