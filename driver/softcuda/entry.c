/*
 * driver/softcuda/entry.c: what happens before a driver call does its work: counting it, failing it where a test asked
 * for that, and the errors that any call can give.
 *
 * After fork() the child has the parent's mappings and none of its threads: a call would wait for ever. As with a real
 * driver, every call in such a child is refused; the device's memory is unmapped there.
 */
#include "memory.h"

#include <string.h>

static atomic_bool initialized;
static bool forked; /* set in the child before it has threads */
static __thread bool in_host_function;

int sc_base_length(const char *function)
{
	const char *version = strstr(function, "_v");

	return (int)(version && !strncmp(function, "cu", 2) ? (size_t)(version - function) : strlen(function));
}

CUresult sc_enter_anywhere(const char *function)
{
	sc_call_count(function);
	return in_host_function ? CUDA_ERROR_NOT_PERMITTED : sc_injected_error(function);
}

CUresult sc_enter(const char *function)
{
	CUresult error = sc_enter_anywhere(function);

	return forked && !error ? CUDA_ERROR_NOT_INITIALIZED : error;
}

CUresult sc_enter_initialized(const char *function)
{
	CUresult error = sc_enter(function);

	if (error)
		return error;
	return atomic_load(&initialized) ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult sc_enter_alive(const char *function)
{
	struct sc_context *context;
	CUresult error = sc_enter_initialized(function);

	if (error)
		return error;
	context = sc_context_current();
	return context ? sc_context_error(context) : CUDA_SUCCESS;
}

CUresult sc_enter_release(const char *function, struct sc_context **context)
{
	CUresult error = sc_enter_initialized(function);

	if (error)
		return error;
	*context = sc_context_current();
	return *context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult sc_enter_context(const char *function, struct sc_context **context)
{
	CUresult error = sc_enter_release(function, context);

	return error ? error : sc_context_error(*context);
}

void sc_initialized_set(bool now)
{
	atomic_store(&initialized, now);
}

void sc_host_function_begin(void)
{
	in_host_function = true;
}

void sc_host_function_end(void)
{
	in_host_function = false;
}

/* ---- fork ---- */

/* No other thread is in the tables when they are copied. */
static void before_fork(void)
{
	pthread_mutex_lock(&sc_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&sc_lock);
}

static void after_fork_in_child(void)
{
	forked = true;
	sc_space_abandon();
	pthread_mutex_unlock(&sc_lock);
}

/* Not from a constructor: a process that only loads the library, or forks before cuInit, sees nothing of this. */
bool sc_fork_watch(void)
{
	return !pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
