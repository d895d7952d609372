/*
 * driver/softcuda/listen.c: somebody is told when each kernel and each host function ran: what CUPTI does for a GPU.
 */
#include "stream.h"

#include <time.h>

/* The lock is held while the listener is told, so that what it uses can be freed once it is taken away. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool listened;
static softcuda_kernel_callback *listener;
static void *listener_arg;

void softcuda_on_kernel(softcuda_kernel_callback *callback, void *arg)
{
	pthread_mutex_lock(&lock);
	listener = callback;
	listener_arg = arg;
	atomic_store(&listened, callback != NULL);
	pthread_mutex_unlock(&lock);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

void sc_op_run(struct sc_op *op, struct sc_stream *stream)
{
	bool tells =
		op->told && atomic_load_explicit(&listened, memory_order_relaxed) && !sc_context_error(stream->context);
	uint64_t start = tells ? now_ns() : 0;

	op->run(op, stream);
	if (!tells)
		return;
	pthread_mutex_lock(&lock);
	if (listener)
		listener(listener_arg, op->what, (CUstream)stream->key, start, now_ns());
	pthread_mutex_unlock(&lock);
}
