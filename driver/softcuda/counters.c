/*
 * driver/softcuda/counters.c: what is alive, and what has happened: calls, hazards, faults.
 */
#include "memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_size_t calls, hazards, faults;

void sc_call_count(const char *function)
{
	sc_tally_call(function);
	atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
}

void sc_fault_count(void)
{
	atomic_fetch_add(&faults, 1);
}

void sc_hazard_raise(const char *format, ...)
{
	char line[512];
	va_list args;

	atomic_fetch_add(&hazards, 1);
	if (sc_settings.strictness == 0)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "softcuda: %s\n", line);
	if (sc_settings.strictness == 2)
		abort();
}

void sc_faults_reset(void)
{
	atomic_store(&hazards, 0);
	atomic_store(&faults, 0);
	atomic_store(&calls, 0);
}

void softcuda_get_counters(struct softcuda_counters *out)
{
	memset(out, 0, sizeof(*out));
	pthread_mutex_lock(&sc_lock);
	sc_space_count(out);
	out->handles = sc_object_count(SC_HANDLE);
	out->streams = sc_object_count(SC_STREAM);
	out->events = sc_object_count(SC_EVENT);
	out->modules = sc_object_count(SC_MODULE) + sc_object_count(SC_LIBRARY);
	out->graphs = sc_object_count(SC_GRAPH) + sc_object_count(SC_EXEC);
	out->contexts = sc_object_count(SC_CONTEXT);
	pthread_mutex_unlock(&sc_lock);
	out->hazards = atomic_load(&hazards);
	out->faults = atomic_load(&faults);
	out->calls = atomic_load(&calls);
}
