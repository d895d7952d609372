/*
 * driver/softcuda/clock.c: the time that events, waits and the watchdog go by.
 */
#include "state.h"

#include <time.h>

uint64_t sc_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
