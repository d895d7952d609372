/*
 * driver/softcuda/state.h: what softcuda's files share: the one lock, the registry of objects, entry to a driver call.
 *
 * Every object that a program holds (context, stream, event, module, function, allocation handle, pool) is known to it by
 * a key that is never given out twice, so that a stale one is refused and never mistaken for a newer object. sc_lock
 * guards the registry and the address space (memory.h) and is held for short, bounded work only. Lock order: a
 * context's order lock, then sc_lock, then a stream's own lock.
 */
#ifndef SOFTCUDA_STATE_H
#define SOFTCUDA_STATE_H

#include <cuda.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "softcuda.h"

struct sc_stream;

softcuda_get_counters_fn softcuda_get_counters;
softcuda_fail_nth_fn softcuda_fail_nth;
softcuda_on_kernel_fn softcuda_on_kernel;
softcuda_failed_fn softcuda_failed;
softcuda_early_launches_fn softcuda_early_launches;
softcuda_reset_fn softcuda_reset;
softcuda_problem_fn softcuda_problem;

struct sc_settings {
	size_t memory_bytes, granularity;
	int strictness;
	uint64_t timeout_ns;
	unsigned workers;
	bool late_copies;
};

extern pthread_mutex_t sc_lock;
extern struct sc_settings sc_settings;

/* KVS_HOST_KERNELS as it is now: modules loaded from here on run native bodies where kernels have one. */
bool sc_native_wanted(void);

/* ---- entry to a driver call (entry.c) ---- */

struct sc_context;

/* Counts the call, and fails it where that was asked for. Every exported driver function starts with one of these. */
CUresult sc_enter_anywhere(const char *function); /* only for what explains errors: also in a child of fork() */
CUresult sc_enter(const char *function);
CUresult sc_enter_initialized(const char *function); /* also: cuInit was called */
CUresult sc_enter_alive(const char *function);       /* also: the current context, if there is one, is not lost */
CUresult sc_enter_context(const char *function, struct sc_context **context); /* also: there is one */
CUresult sc_enter_release(const char *function, struct sc_context **context); /* a current context, lost or not */

int sc_base_length(const char *function); /* of a driver function's name without its version, for messages */

void sc_initialized_set(bool initialized);
void sc_host_function_begin(void); /* driver calls on this thread answer NOT_PERMITTED until the end */
void sc_host_function_end(void);
bool sc_fork_watch(void); /* from now on a child is refused all calls; false: no memory for that */

/* ---- settings.c, inject.c, counters.c ---- */

CUresult sc_settings_read(void); /* from the environment */
CUresult sc_injected_error(const char *function);
void sc_call_count(const char *function);
/* tally.c: for whoever asked for it (SOFTCUDA_TALLY). Memory under sc_lock, in a process that has made a call. */
void sc_tally_call(const char *function);
void sc_tally_memory(int64_t bytes);
void sc_fault_count(void);
void sc_hazard_raise(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sc_faults_reset(void); /* hazards, faults and calls start from zero */

/* ---- objects by key (object.c); all but the counting ones need sc_lock held ---- */

enum sc_kind {
	SC_NONE,
	SC_CONTEXT,
	SC_STREAM,
	SC_EVENT,
	SC_HANDLE,
	SC_MODULE,
	SC_LIBRARY,
	SC_FUNCTION,
	SC_POOL,
	SC_LINK,
	SC_GRAPH,
	SC_NODE,
	SC_EXEC,
	SC_ARRAY,
	SC_KINDS
};

uint64_t sc_object_add(enum sc_kind kind, void *object); /* its key, or 0: no memory */
void *sc_object_find(enum sc_kind kind, uint64_t key);   /* NULL: no such object, or of another kind */
void *sc_object_remove(enum sc_kind kind, uint64_t key);
void *sc_object_next(enum sc_kind kind, size_t *cursor); /* walks all of one kind; starts from cursor 0 */
size_t sc_object_count(enum sc_kind kind);

/* ---- contexts (context.c) ---- */

struct sc_context {
	uint64_t key;
	unsigned references; /* retains of the primary context; 1 of a created one */
	unsigned flags;
	atomic_int lost; /* the sticky CUresult */
	/* Held while work is queued, so that the legacy default stream sees one order of all streams. */
	pthread_mutex_t order;
	struct sc_stream *streams;   /* list by next_in_context; guarded by order */
	struct sc_stream *legacy;    /* the NULL stream; is in the list too */
	size_t limits[CU_LIMIT_MAX]; /* cuCtxSetLimit's: kept, and no more than that */
	CUfunc_cache cache;
	pthread_cond_t stream_left;
};

void sc_contexts_reset(void);
void sc_limits_init(struct sc_context *context); /* limits.c */

/* ---- this thread's contexts, by key (current.c) ---- */

struct sc_context *sc_context_current(void); /* or NULL */
void sc_context_lose(struct sc_context *context, CUresult error);
CUresult sc_context_error(struct sc_context *context);
bool sc_current_push(uint64_t key);    /* false: the stack is full */
bool sc_current_pop(uint64_t *key);    /* false: it is empty */
void sc_current_replace(uint64_t key); /* the top, or the first */
uint64_t sc_current_key(void);         /* 0: none */
void sc_current_reset(void);
bool sc_default_per_thread(bool now); /* is the NULL stream this thread's own? Returns what it was before */
bool sc_is_default_per_thread(void);

/* Frees what a context owns when it goes, each in the file of its kind. All need sc_lock held. */
void sc_events_free_of(struct sc_context *context);
void sc_arrays_free_of(struct sc_context *context);
void sc_modules_free_of(struct sc_context *context);
void sc_libraries_reset(void);
void sc_links_reset(void);
void sc_pools_reset(void);

/* A stream's thread, and every thread that runs blocks, calls these first and last (fault.c). */
void sc_worker_begin(void);
void sc_worker_end(void);

static inline uint64_t sc_key(const void *program_handle)
{
	return (uint64_t)(uintptr_t)program_handle;
}

uint64_t sc_now_ns(void);

/* Between two looks at what another thread will change. */
static inline void sc_spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	sched_yield();
#endif
}

/* As pthread_create(), with a stack that is large enough under any limit; NULL: detached (thread.c). */
int sc_thread_start(pthread_t *joinable, void *(*body)(void *), void *argument);

/*
 * A descriptor that was just opened, or a negative one: the same, out of the way of 0, 1 and 2. If the program has
 * closed one of these, the next file would get its number, and printed output would land in device memory.
 */
int sc_descriptor(int fd);

#endif
