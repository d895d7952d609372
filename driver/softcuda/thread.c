/*
 * driver/softcuda/thread.c: how softcuda starts threads.
 *
 * They run host functions of programs and jump out of faults, so their stacks must not shrink with RLIMIT_STACK, which is
 * what a thread gets by default.
 */
#include "state.h"

#define LEAST_STACK_BYTES ((size_t)1 << 20)

int sc_thread_start(pthread_t *joinable, void *(*body)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	size_t bytes;
	int err;

	pthread_attr_init(&attributes);
	if (!pthread_attr_getstacksize(&attributes, &bytes) && bytes < LEAST_STACK_BYTES)
		pthread_attr_setstacksize(&attributes, LEAST_STACK_BYTES);
	if (!joinable)
		pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	err = pthread_create(joinable ? joinable : &thread, &attributes, body, argument);
	pthread_attr_destroy(&attributes);
	return err;
}
