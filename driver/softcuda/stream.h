/*
 * driver/softcuda/stream.h: queues of work, each run in order by a thread of its own.
 *
 * A stream counts what is put in (tickets from 1) and what has ended; everything that waits, host or device, waits until
 * a stream's count of ended work has reached a ticket. An event is such a (stream, ticket).
 */
#ifndef SOFTCUDA_STREAM_H
#define SOFTCUDA_STREAM_H

#include "state.h"

/* One piece of work. `run` is called on the stream's thread also when the context is lost: most then do nothing. */
struct sc_op {
	struct sc_op *next;
	uint64_t ticket;
	const char *what; /* the driver call, or the kernel */
	void (*run)(struct sc_op *op, struct sc_stream *stream);
	void (*release)(struct sc_op *op); /* frees it, run or not; NULL: free() will do */
	bool (*touches)(const struct sc_op *op, uintptr_t base, size_t size); /* may use this memory; NULL: no */
	bool told; /* a kernel or a host function: whoever listens is told that it ran */
	/* Of work that a graph can hold: another one like it (NULL: no memory), and what it must know of where it runs. */
	struct sc_op *(*clone)(const struct sc_op *op);
	void (*bind)(struct sc_op *op, const struct sc_stream *stream, uint64_t unmap_serial); /* NULL: nothing */
	atomic_uint shares; /* holders beyond the first */
};

/* Keys of objects, each once. */
struct sc_keys {
	uint64_t *keys;
	size_t count, capacity;
};

struct sc_stream {
	uint64_t key; /* 0: a default stream that no program holds a key of */
	uint64_t id;
	struct sc_context *context;
	struct sc_stream *next_in_context;
	atomic_uint references;
	bool blocking; /* takes part in the legacy default stream's order */
	unsigned flags;
	int priority;
	struct sc_capture *capture; /* that it takes part in, or NULL; guarded by sc_lock, as the next is */
	struct sc_keys frontier;    /* the nodes that the next one captured here depends on */

	pthread_mutex_t lock; /* guards what follows but for the atomics */
	pthread_cond_t work, done;
	struct sc_op *head, **tail;
	struct sc_op *running;
	bool started, sleeping, stopping;
	atomic_uint_fast64_t submitted, completed;
	atomic_uint waiters;          /* who sleeps until a ticket is completed */
	atomic_uint_fast64_t awaited; /* no sleeper's ticket is less */
};

CUresult sc_stream_create(struct sc_context *context, unsigned flags, int priority, struct sc_stream **out);
/* Runs it, on the stream's thread (listen.c). */
void sc_op_run(struct sc_op *op, struct sc_stream *stream);
void sc_op_put(struct sc_op *op); /* by a holder */
/* The default streams or a program's, referenced; NULL: no such stream. */
struct sc_stream *sc_stream_get(struct sc_context *context, CUstream handle);
void sc_stream_put(struct sc_stream *stream);
/* The start of every call on an existing stream; on success the caller owes sc_stream_put(). */
CUresult sc_stream_enter(const char *function, CUstream handle, struct sc_stream **stream);
/* No more work comes; the thread ends, and the stream leaves its context, once what is queued has run. */
void sc_stream_close(struct sc_stream *stream);

/*
 * Queue `op`, after the work that the rules of the legacy default stream make it wait for. Takes ownership of it, also
 * on failure. On success *ticket (may be NULL) is what to wait for.
 */
CUresult sc_stream_submit(struct sc_stream *stream, struct sc_op *op, uint64_t *ticket);
CUresult sc_stream_submit_wait(struct sc_stream *stream, struct sc_stream *other, uint64_t ticket);

bool sc_stream_reached(struct sc_stream *stream, uint64_t ticket);
void sc_stream_wait(struct sc_stream *stream, uint64_t ticket);
bool sc_stream_is_idle(struct sc_stream *stream); /* of the legacy stream: and every blocking stream */
CUresult sc_stream_synchronize(struct sc_stream *stream);
void sc_context_drain(struct sc_context *context); /* waits for all its streams */

/* Report pending work that may use this memory, which `call` is about to take away. sc_lock must not be held. */
void sc_hazards_check(uintptr_t base, size_t size, const char *call);

#endif
