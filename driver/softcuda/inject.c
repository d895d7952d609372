/*
 * driver/softcuda/inject.c: driver calls that fail because a test asked for it.
 */
#include "state.h"

#include <stdio.h>
#include <string.h>

/* The failure that was asked for. `armed` spares all other calls the lock. */
static atomic_bool armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	char name[64]; /* "*": any */
	size_t left;   /* calls until it strikes; 0: it is off, or has struck */
	CUresult error;
	bool delivered;
} failure;

/* `name` is a base name, `function` may end in the version of the symbol: cuMemAlloc matches cuMemAlloc_v2. */
static bool name_matches(const char *name, const char *function)
{
	size_t length = strlen(name);

	if (!strcmp(name, "*"))
		return true;
	return !strncmp(name, function, length) && (!function[length] || !strncmp(function + length, "_v", 2));
}

static CUresult failure_check(const char *function)
{
	CUresult error = CUDA_SUCCESS;

	pthread_mutex_lock(&lock);
	if (failure.left && name_matches(failure.name, function) && --failure.left == 0) {
		error = failure.error;
		failure.delivered = true;
		atomic_store(&armed, false);
	}
	pthread_mutex_unlock(&lock);
	return error;
}

CUresult sc_injected_error(const char *function)
{
	return atomic_load_explicit(&armed, memory_order_relaxed) ? failure_check(function) : CUDA_SUCCESS;
}

void softcuda_fail_nth(const char *name, size_t nth, CUresult error)
{
	pthread_mutex_lock(&lock);
	snprintf(failure.name, sizeof(failure.name), "%s", name ? name : "*");
	failure.left = nth;
	failure.error = error;
	failure.delivered = false;
	atomic_store(&armed, nth != 0);
	pthread_mutex_unlock(&lock);
}

bool softcuda_failed(void)
{
	bool delivered;

	pthread_mutex_lock(&lock);
	delivered = failure.delivered;
	pthread_mutex_unlock(&lock);
	return delivered;
}
