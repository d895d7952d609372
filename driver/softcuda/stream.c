/*
 * driver/softcuda/stream.c: the queue of a stream, its thread, and the order between streams.
 *
 * A wait for another stream is an entry in the queue like any other. What the legacy default stream implies is turned
 * into such entries when work is queued, under the context's order lock: entries only ever wait for tickets that were
 * given out before them, so streams cannot wait for each other in a circle.
 */
#include "stream.h"

#include "capture.h"
#include "fault.h"
#include "module.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How long a thread polls before it sleeps: about the cost of a futex wake-up, so that neither choice wastes much. */
#define SPIN_NS 20000

struct wait_op {
	struct sc_op op;
	struct sc_stream *other;
	uint64_t ticket;
};

static atomic_uint_fast64_t last_stream_id;

static void *stream_main(void *argument);

CUresult sc_stream_create(struct sc_context *context, unsigned flags, int priority, struct sc_stream **out)
{
	struct sc_stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	stream->context = context;
	stream->flags = flags;
	stream->priority = priority;
	stream->blocking = !(flags & CU_STREAM_NON_BLOCKING);
	stream->id = atomic_fetch_add(&last_stream_id, 1) + 1;
	stream->tail = &stream->head;
	atomic_init(&stream->references, 1);
	atomic_init(&stream->awaited, UINT64_MAX);
	pthread_mutex_init(&stream->lock, NULL);
	pthread_cond_init(&stream->work, NULL);
	pthread_cond_init(&stream->done, NULL);
	pthread_mutex_lock(&context->order);
	stream->next_in_context = context->streams;
	context->streams = stream;
	pthread_mutex_unlock(&context->order);
	*out = stream;
	return CUDA_SUCCESS;
}

void sc_stream_put(struct sc_stream *stream)
{
	if (atomic_fetch_sub(&stream->references, 1) != 1)
		return;
	free(stream->frontier.keys);
	pthread_mutex_destroy(&stream->lock);
	pthread_cond_destroy(&stream->work);
	pthread_cond_destroy(&stream->done);
	free(stream);
}

static struct sc_stream *stream_reference(struct sc_stream *stream)
{
	atomic_fetch_add(&stream->references, 1);
	return stream;
}

/* The context is free to go once its last stream has left, so nothing of it is touched after the unlock. */
static void leave_context(struct sc_stream *stream)
{
	struct sc_context *context = stream->context;
	struct sc_stream **link;

	pthread_mutex_lock(&context->order);
	for (link = &context->streams; *link != stream; link = &(*link)->next_in_context)
		;
	*link = stream->next_in_context;
	pthread_cond_broadcast(&context->stream_left);
	pthread_mutex_unlock(&context->order);
}

void sc_stream_close(struct sc_stream *stream)
{
	bool started;

	sc_capture_lose(stream);
	pthread_mutex_lock(&stream->lock);
	stream->stopping = true;
	started = stream->started;
	pthread_cond_signal(&stream->work);
	pthread_mutex_unlock(&stream->lock);
	if (!started)
		leave_context(stream);
	sc_stream_put(stream);
}

/* ---- waiting ---- */

bool sc_stream_reached(struct sc_stream *stream, uint64_t ticket)
{
	return atomic_load(&stream->completed) >= ticket;
}

/* With the lock held. Who waits for the end of a long queue is not woken by each piece of it: that took a tenth of a decode step. */
static void sleep_until(struct sc_stream *stream, uint64_t ticket)
{
	if (atomic_load(&stream->awaited) > ticket)
		atomic_store(&stream->awaited, ticket);
	if (!sc_stream_reached(stream, ticket))
		pthread_cond_wait(&stream->done, &stream->lock);
}

void sc_stream_wait(struct sc_stream *stream, uint64_t ticket)
{
	uint64_t start = sc_now_ns();

	while (!sc_stream_reached(stream, ticket)) {
		if (sc_now_ns() - start < SPIN_NS) {
			sc_spin_pause();
			continue;
		}
		atomic_fetch_add(&stream->waiters, 1);
		pthread_mutex_lock(&stream->lock);
		while (!sc_stream_reached(stream, ticket))
			sleep_until(stream, ticket);
		pthread_mutex_unlock(&stream->lock);
		atomic_fetch_sub(&stream->waiters, 1);
	}
}

static void wait_run(struct sc_op *op, struct sc_stream *stream)
{
	struct wait_op *wait = (struct wait_op *)op;

	(void)stream;
	sc_stream_wait(wait->other, wait->ticket);
}

static void wait_release(struct sc_op *op)
{
	sc_stream_put(((struct wait_op *)op)->other);
	free(op);
}

/* ---- queueing ---- */

static CUresult thread_start(struct sc_stream *stream)
{
	stream_reference(stream);
	if (sc_thread_start(NULL, stream_main, stream)) {
		atomic_fetch_sub(&stream->references, 1);
		return CUDA_ERROR_OPERATING_SYSTEM;
	}
	stream->started = true;
	return CUDA_SUCCESS;
}

void sc_op_put(struct sc_op *op)
{
	if (atomic_fetch_sub(&op->shares, 1) != 0)
		return;
	if (op->release)
		op->release(op);
	else
		free(op);
}

static CUresult queue_append(struct sc_stream *stream, struct sc_op *op, uint64_t *ticket)
{
	CUresult error = CUDA_SUCCESS;
	bool wake;

	pthread_mutex_lock(&stream->lock);
	if (!stream->started)
		error = thread_start(stream);
	if (error) {
		pthread_mutex_unlock(&stream->lock);
		sc_op_put(op);
		return error;
	}
	op->next = NULL;
	op->ticket = atomic_load(&stream->submitted) + 1;
	if (ticket)
		*ticket = op->ticket;
	*stream->tail = op;
	stream->tail = &op->next;
	atomic_store(&stream->submitted, op->ticket);
	wake = stream->sleeping;
	if (wake)
		pthread_cond_signal(&stream->work);
	pthread_mutex_unlock(&stream->lock);
	return CUDA_SUCCESS;
}

static CUresult wait_append(struct sc_stream *stream, struct sc_stream *other, uint64_t ticket)
{
	struct wait_op *wait;

	if (stream == other || sc_stream_reached(other, ticket))
		return CUDA_SUCCESS;
	wait = calloc(1, sizeof(*wait));
	if (!wait)
		return CUDA_ERROR_OUT_OF_MEMORY;
	wait->op.what = "a wait";
	wait->op.run = wait_run;
	wait->op.release = wait_release;
	wait->other = stream_reference(other);
	wait->ticket = ticket;
	return queue_append(stream, &wait->op, NULL);
}

/* The legacy default stream waits for all blocking streams, and they wait for it. */
static CUresult order_append(struct sc_stream *stream)
{
	struct sc_context *context = stream->context;
	CUresult error = CUDA_SUCCESS;

	if (stream->blocking && stream != context->legacy)
		return wait_append(stream, context->legacy, atomic_load(&context->legacy->submitted));
	if (stream == context->legacy) {
		for (struct sc_stream *s = context->streams; s && !error; s = s->next_in_context) {
			if (s->blocking)
				error = wait_append(stream, s, atomic_load(&s->submitted));
		}
	}
	return error;
}

CUresult sc_stream_submit(struct sc_stream *stream, struct sc_op *op, uint64_t *ticket)
{
	struct sc_context *context = stream->context;
	CUresult error = sc_context_error(context);

	if (error) {
		sc_op_put(op);
		return error;
	}
	pthread_mutex_lock(&context->order);
	error = order_append(stream);
	if (error)
		sc_op_put(op);
	else
		error = queue_append(stream, op, ticket);
	pthread_mutex_unlock(&context->order);
	return error;
}

CUresult sc_stream_submit_wait(struct sc_stream *stream, struct sc_stream *other, uint64_t ticket)
{
	CUresult error;

	pthread_mutex_lock(&stream->context->order);
	error = order_append(stream);
	if (!error)
		error = wait_append(stream, other, ticket);
	pthread_mutex_unlock(&stream->context->order);
	return error;
}

/* ---- the thread ---- */

/* The next piece of work; NULL: there will be none. */
static struct sc_op *queue_next(struct sc_stream *stream)
{
	uint64_t start = sc_now_ns(), done = atomic_load(&stream->completed);
	struct sc_op *op;

	while (atomic_load(&stream->submitted) == done && sc_now_ns() - start < SPIN_NS)
		sc_spin_pause();
	pthread_mutex_lock(&stream->lock);
	while (!stream->head && !stream->stopping) {
		stream->sleeping = true;
		pthread_cond_wait(&stream->work, &stream->lock);
		stream->sleeping = false;
	}
	op = stream->head;
	if (op) {
		stream->head = op->next;
		if (!stream->head)
			stream->tail = &stream->head;
		stream->running = op;
	}
	pthread_mutex_unlock(&stream->lock);
	return op;
}

static void op_finish(struct sc_stream *stream, struct sc_op *op)
{
	uint64_t ticket = op->ticket;

	pthread_mutex_lock(&stream->lock);
	stream->running = NULL;
	pthread_mutex_unlock(&stream->lock);
	sc_op_put(op);
	atomic_store(&stream->completed, ticket);
	if (atomic_load(&stream->awaited) <= ticket) {
		pthread_mutex_lock(&stream->lock);
		atomic_store(&stream->awaited, UINT64_MAX); /* until those who sleep on say theirs again */
		pthread_cond_broadcast(&stream->done);
		pthread_mutex_unlock(&stream->lock);
	}
}

static void *stream_main(void *argument)
{
	struct sc_stream *stream = argument;
	struct sc_op *op;

	sc_worker_begin();
	while ((op = queue_next(stream))) {
		sc_handlers_install();
		sc_op_run(op, stream);
		op_finish(stream, op);
	}
	sc_images_leave(false);
	sc_worker_end();
	leave_context(stream);
	sc_stream_put(stream);
	return NULL;
}

/* ---- all streams of a context ---- */

static void nothing_run(struct sc_op *op, struct sc_stream *stream)
{
	(void)op;
	(void)stream;
}

bool sc_stream_is_idle(struct sc_stream *stream)
{
	struct sc_context *context = stream->context;
	bool idle = sc_stream_reached(stream, atomic_load(&stream->submitted));

	if (!idle || stream != context->legacy)
		return idle;
	pthread_mutex_lock(&context->order);
	for (struct sc_stream *s = context->streams; s && idle; s = s->next_in_context)
		idle = !s->blocking || sc_stream_reached(s, atomic_load(&s->submitted));
	pthread_mutex_unlock(&context->order);
	return idle;
}

CUresult sc_stream_synchronize(struct sc_stream *stream)
{
	struct sc_context *context = stream->context;
	uint64_t ticket = atomic_load(&stream->submitted);

	/* Behind a marker in the legacy stream lies all work of the blocking streams. */
	if (stream == context->legacy && !sc_context_error(context) && !sc_stream_is_idle(stream)) {
		struct sc_op *marker = calloc(1, sizeof(*marker));
		CUresult error;

		if (!marker)
			return CUDA_ERROR_OUT_OF_MEMORY;
		marker->what = "a marker";
		marker->run = nothing_run;
		error = sc_stream_submit(stream, marker, &ticket);
		if (error)
			return error;
	}
	sc_stream_wait(stream, ticket);
	return sc_context_error(context);
}

/* A stream that is not idle, referenced, or NULL. */
static struct sc_stream *busy_stream(struct sc_context *context)
{
	struct sc_stream *stream;

	pthread_mutex_lock(&context->order);
	for (stream = context->streams; stream; stream = stream->next_in_context) {
		if (!sc_stream_reached(stream, atomic_load(&stream->submitted))) {
			stream_reference(stream);
			break;
		}
	}
	pthread_mutex_unlock(&context->order);
	return stream;
}

void sc_context_drain(struct sc_context *context)
{
	struct sc_stream *stream;

	while ((stream = busy_stream(context))) {
		sc_stream_wait(stream, atomic_load(&stream->submitted));
		sc_stream_put(stream);
	}
}

/* ---- hazards ---- */

static const char *pending_user(struct sc_stream *stream, uintptr_t base, size_t size)
{
	const struct sc_op *op;
	const char *what = NULL;

	pthread_mutex_lock(&stream->lock);
	if (stream->running && stream->running->touches && stream->running->touches(stream->running, base, size))
		what = stream->running->what;
	for (op = stream->head; op && !what; op = op->next) {
		if (op->touches && op->touches(op, base, size))
			what = op->what;
	}
	pthread_mutex_unlock(&stream->lock);
	return what;
}

/* The name of a kernel lives as long as its module, and that goes only with a drained context. */
static const char *pending_user_in(struct sc_context *context, uintptr_t base, size_t size, uint64_t *stream_id)
{
	const char *what = NULL;

	pthread_mutex_lock(&context->order);
	for (struct sc_stream *s = context->streams; s && !what; s = s->next_in_context) {
		what = pending_user(s, base, size);
		*stream_id = s->id;
	}
	pthread_mutex_unlock(&context->order);
	return what;
}

void sc_hazards_check(uintptr_t base, size_t size, const char *call)
{
	struct sc_context *context = sc_context_current();
	uint64_t stream_id = 0;
	const char *what = context ? pending_user_in(context, base, size, &stream_id) : NULL;

	if (what)
		sc_hazard_raise("%s of %zu bytes at %#zx, which %.*s in stream %llu may still use", call, size,
			(size_t)base, sc_base_length(what), what, (unsigned long long)stream_id);
}
