/*
 * calib/compensate/together.c: two parts of a fit at once.
 *
 * OpenBLAS splits a product among threads, and its last bits with them. A fit is to be the same everywhere, so each product stays
 * on one thread, and two products run beside each other.
 */
#include "together.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

int calib_threads(void)
{
	const char *text = getenv("SOFTCUDA_WORKERS"); /* what --threads sets for the host device */
	long threads = text ? atol(text) : sysconf(_SC_NPROCESSORS_ONLN);

	return threads < 1 ? 1 : threads > 1024 ? 1024 : (int)threads;
}

struct part {
	void (*call)(void *arg);
	void *arg;
};

static void *run(void *arg)
{
	struct part *part = arg;

	part->call(part->arg);
	return NULL;
}

void calib_side_by_side(void (*first)(void *arg), void *first_arg, void (*second)(void *arg), void *second_arg)
{
	struct part part = {first, first_arg};
	pthread_t thread;
	bool apart = calib_threads() > 1 && !pthread_create(&thread, NULL, run, &part);

	if (!apart)
		first(first_arg);
	second(second_arg);
	if (apart)
		pthread_join(thread, NULL);
}
