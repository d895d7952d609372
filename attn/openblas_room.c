/*
 * attn/openblas_room.c: whether this process has the address space and the threads that OpenBLAS takes.
 *
 * OpenBLAS itself can't be told no: it repeats a map that fails for ever (OpenBLAS#5289), and a thread that it can't create
 * ends the program with SIGINT. So both are tried here first, all at once, as it will take them, and given back.
 */
#include "stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LIBRARY_BYTES ((size_t)64 << 20)
#define THREAD_BYTES ((size_t)136 << 20) /* a buffer of 128 MiB (BUFFER_SIZE of its x86-64 build), and a stack */

struct crowd {
	pthread_mutex_t lock;
	pthread_cond_t may_go;
	bool go;
};

static void *stand(void *arg)
{
	struct crowd *crowd = arg;

	pthread_mutex_lock(&crowd->lock);
	while (!crowd->go)
		pthread_cond_wait(&crowd->may_go, &crowd->lock);
	pthread_mutex_unlock(&crowd->lock);
	return NULL;
}

/* `count` threads that are there at the same time. */
static int try_threads(int count)
{
	struct crowd crowd = {.lock = PTHREAD_MUTEX_INITIALIZER, .may_go = PTHREAD_COND_INITIALIZER};
	pthread_t *threads = calloc(count + 1, sizeof(*threads));
	int started = 0, error = threads ? 0 : ENOMEM;

	while (started < count && !error) {
		error = pthread_create(&threads[started], NULL, stand, &crowd);
		started += !error;
	}
	pthread_mutex_lock(&crowd.lock);
	crowd.go = true;
	pthread_cond_broadcast(&crowd.may_go);
	pthread_mutex_unlock(&crowd.lock);
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	return error ? kvs_fail(-error, "OpenBLAS takes %d threads beside this one, and after %d: %s (ulimit -u?)",
			       count, started, strerror(error))
		     : 0;
}

int kvs_openblas_check_room(int threads)
{
	size_t bytes = LIBRARY_BYTES + THREAD_BYTES * threads;
	void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED)
		return kvs_fail(-ENOMEM,
			"OpenBLAS takes %zu MiB of address space for %d threads, and they are not to be had: %s "
			"(ulimit "
			"-v?)",
			bytes >> 20, threads, strerror(errno));
	munmap(room, bytes);
	return try_threads(threads - 1);
}
