/*
 * driver/softcuda/entry.c: what happens before a driver call does its work: counting it, failing it where a test asked
 * for that, and the errors that any call can give; and the settings that are read from the environment.
 */
#include "state.h"

#include "memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

pthread_mutex_t sc_lock = PTHREAD_MUTEX_INITIALIZER;
struct sc_settings sc_settings;

static atomic_bool initialized;
static __thread bool in_host_function;
static atomic_size_t calls, hazards, faults;

/* The failure that was asked for. `failure_armed` keeps the lock out of the way of the calls of all who asked for none. */
static atomic_bool failure_armed;
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;
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

int sc_base_length(const char *function)
{
	const char *version = strstr(function, "_v");

	return (int)(version && !strncmp(function, "cu", 2) ? (size_t)(version - function) : strlen(function));
}

static CUresult failure_check(const char *function)
{
	CUresult error = CUDA_SUCCESS;

	pthread_mutex_lock(&failure_lock);
	if (failure.left && name_matches(failure.name, function) && --failure.left == 0) {
		error = failure.error;
		failure.delivered = true;
		atomic_store(&failure_armed, false);
	}
	pthread_mutex_unlock(&failure_lock);
	return error;
}

void softcuda_fail_nth(const char *name, size_t nth, CUresult error)
{
	pthread_mutex_lock(&failure_lock);
	snprintf(failure.name, sizeof failure.name, "%s", name ? name : "*");
	failure.left = nth;
	failure.error = error;
	failure.delivered = false;
	atomic_store(&failure_armed, nth != 0);
	pthread_mutex_unlock(&failure_lock);
}

bool softcuda_failed(void)
{
	bool delivered;

	pthread_mutex_lock(&failure_lock);
	delivered = failure.delivered;
	pthread_mutex_unlock(&failure_lock);
	return delivered;
}

CUresult sc_enter(const char *function)
{
	atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
	if (in_host_function)
		return CUDA_ERROR_NOT_PERMITTED;
	return atomic_load_explicit(&failure_armed, memory_order_relaxed) ? failure_check(function) : CUDA_SUCCESS;
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

void sc_hazard_report(const char *format, ...)
{
	char line[512];
	va_list args;

	atomic_fetch_add(&hazards, 1);
	if (sc_settings.strictness == 0)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	fprintf(stderr, "softcuda: %s\n", line);
	if (sc_settings.strictness == 2)
		abort();
}

void sc_fault_count(void)
{
	atomic_fetch_add(&faults, 1);
}

void sc_faults_reset(void)
{
	atomic_store(&hazards, 0);
	atomic_store(&faults, 0);
	atomic_store(&calls, 0);
}

void softcuda_get_counters(struct softcuda_counters *out)
{
	memset(out, 0, sizeof *out);
	pthread_mutex_lock(&sc_lock);
	sc_space_count(out);
	out->handles = sc_object_count(SC_HANDLE);
	out->streams = sc_object_count(SC_STREAM);
	out->events = sc_object_count(SC_EVENT);
	out->modules = sc_object_count(SC_MODULE) + sc_object_count(SC_LIBRARY);
	out->contexts = sc_object_count(SC_CONTEXT);
	pthread_mutex_unlock(&sc_lock);
	out->hazards = atomic_load(&hazards);
	out->faults = atomic_load(&faults);
	out->calls = atomic_load(&calls);
}

/* A decimal number, with an optional suffix K, M or G. */
static bool number_parse(const char *text, size_t *value)
{
	static const char suffixes[] = "KMG";
	const char *suffix;
	char *end;
	unsigned shift = 0;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (end == text || *text == '-' || errno)
		return false;
	if (*end) {
		suffix = strchr(suffixes, *end);
		if (!suffix || end[1])
			return false;
		shift = 10 * (unsigned)(suffix - suffixes + 1);
	}
	if (*value > SIZE_MAX >> shift)
		return false;
	*value <<= shift;
	return true;
}

static size_t setting(const char *name, size_t standard, size_t lowest, size_t highest)
{
	const char *text = getenv(name);
	size_t value;

	if (!text || !*text)
		return standard;
	if (number_parse(text, &value) && value >= lowest && value <= highest)
		return value;
	sc_settings.problem = name;
	return standard;
}

/* SOFTCUDA_FAIL=NAME:N:ERROR */
static void failure_from_environment(void)
{
	const char *text = getenv("SOFTCUDA_FAIL");
	char name[64];
	size_t nth;
	unsigned error;
	int end = 0;

	if (!text || !*text)
		return;
	if (sscanf(text, "%63[^:]:%zu:%u%n", name, &nth, &error, &end) == 3 && !text[end])
		softcuda_fail_nth(name, nth, (CUresult)error);
	else
		sc_settings.problem = "SOFTCUDA_FAIL";
}

CUresult sc_settings_read(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t host = (size_t)sysconf(_SC_PHYS_PAGES) * page;

	sc_settings.problem = NULL;
	sc_settings.memory_bytes = setting("SOFTCUDA_MEMORY", host / 2 / page * page, page, (size_t)1 << 46);
	sc_settings.granularity = setting("SOFTCUDA_GRANULARITY", (size_t)2 << 20, page, (size_t)1 << 30);
	if (sc_settings.granularity & (sc_settings.granularity - 1))
		sc_settings.problem = "SOFTCUDA_GRANULARITY";
	sc_settings.strictness = (int)setting("SOFTCUDA_STRICT", 1, 0, 2);
	sc_settings.timeout_ns = setting("SOFTCUDA_TIMEOUT", 60, 1, 1000000) * 1000000000u;
	sc_settings.workers = (unsigned)setting("SOFTCUDA_WORKERS", (size_t)sysconf(_SC_NPROCESSORS_ONLN), 1, 1024);
	sc_settings.late_copies = setting("SOFTCUDA_LATE_COPIES", 0, 0, 1) != 0;
	failure_from_environment();
	if (!sc_settings.problem)
		return CUDA_SUCCESS;
	fprintf(stderr, "softcuda: %s=%s is not what docs/softcuda.md allows\n", sc_settings.problem,
		getenv(sc_settings.problem));
	return CUDA_ERROR_INVALID_VALUE;
}
