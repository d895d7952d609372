/*
 * driver/softcuda/settings.c: settings from the environment, read at the first cuInit and by softcuda_reset().
 *
 * A value that cannot be read is refused at once, by name: a test that did not get what it asked for would seem to
 * pass.
 */
#include "state.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sc_settings sc_settings;

static char problem[256]; /* "": none */

const char *softcuda_problem(void)
{
	return problem;
}

static void problem_set(const char *name, const char *wanted)
{
	if (!*problem)
		snprintf(problem, sizeof(problem), "%s=%.80s: must be %s (docs/softcuda.md)", name, getenv(name),
			wanted);
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
	if (*text < '0' || *text > '9' || errno)
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
	char wanted[80];
	size_t value;

	if (!text || !*text)
		return standard;
	if (number_parse(text, &value) && value >= lowest && value <= highest)
		return value;
	snprintf(wanted, sizeof(wanted), "a number from %zu to %zu", lowest, highest);
	problem_set(name, wanted);
	return standard;
}

/* Is there a driver function of this base name? Asked of our own symbols, so that no list has to be kept. */
static bool is_driver_function(const char *name)
{
	static const char *const versions[] = {"", "_v2", "_v3", "_v4"};
	char symbol[80];
	void *self;
	Dl_info info;
	bool found = false;

	if (strncmp(name, "cu", 2) || !dladdr((void *)sc_settings_read, &info))
		return false;
	self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
	if (!self)
		return true; /* loaded by a name that leads nowhere from here: it cannot be told */
	for (size_t i = 0; i < sizeof(versions) / sizeof(*versions) && !found; i++) {
		snprintf(symbol, sizeof(symbol), "%s%s", name, versions[i]);
		found = dlsym(self, symbol) != NULL;
	}
	dlclose(self);
	return found;
}

/* SOFTCUDA_FAIL=NAME:N:ERROR */
static void failure_read(void)
{
	const char *text = getenv("SOFTCUDA_FAIL");
	char name[64];
	size_t nth;
	unsigned error;
	int end = 0;

	if (!text || !*text)
		return;
	if (sscanf(text, "%63[^:]:%zu:%u%n", name, &nth, &error, &end) != 3 || text[end])
		problem_set("SOFTCUDA_FAIL", "NAME:N:ERROR");
	else if (strcmp(name, "*") && !is_driver_function(name))
		problem_set("SOFTCUDA_FAIL", "NAME:N:ERROR with a driver function that there is, or *");
	else if (!nth || !error || error > CUDA_ERROR_UNKNOWN)
		problem_set("SOFTCUDA_FAIL", "NAME:N:ERROR with N from 1 and ERROR from 1 to 999");
	else
		softcuda_fail_nth(name, nth, (CUresult)error);
}

/* The modules of kernels read it for themselves (driver/simt), each at its first block: too late to be noticed. */
static void schedule_check(void)
{
	const char *text = getenv("KVS_SIMT_SCHEDULE");
	static const char random[] = "random:";
	char *end;

	if (!text || !strcmp(text, "forward") || !strcmp(text, "reverse"))
		return;
	if (!strncmp(text, random, strlen(random)) && text[strlen(random)] >= '0' && text[strlen(random)] <= '9') {
		strtoull(text + strlen(random), &end, 10);
		if (!*end)
			return;
	}
	problem_set("KVS_SIMT_SCHEDULE", "forward, reverse or random:SEED");
}

bool sc_native_wanted(void)
{
	const char *kernels = getenv("KVS_HOST_KERNELS");

	return !kernels || strcmp(kernels, "simt");
}

/* Which set of instructions a module has bodies for, and which of them the processor can run, is the module's matter. */
static void kernels_check(void)
{
	static const char *const words[] = {"native", "plain", "avx2", "avx512", "simt"};
	const char *text = getenv("KVS_HOST_KERNELS");
	bool known = !text;

	for (size_t i = 0; i < sizeof(words) / sizeof(*words) && !known; i++)
		known = !strcmp(text, words[i]);
	if (!known)
		problem_set("KVS_HOST_KERNELS", "native, plain, avx2, avx512 or simt");
}

CUresult sc_settings_read(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t host = (size_t)sysconf(_SC_PHYS_PAGES) * page;

	*problem = '\0';
	sc_settings.memory_bytes = setting("SOFTCUDA_MEMORY", host / 2 / page * page, page, (size_t)1 << 46);
	sc_settings.granularity = setting("SOFTCUDA_GRANULARITY", (size_t)2 << 20, page, (size_t)1 << 30);
	if (sc_settings.granularity & (sc_settings.granularity - 1))
		problem_set("SOFTCUDA_GRANULARITY", "a power of two");
	sc_settings.strictness = (int)setting("SOFTCUDA_STRICT", 1, 0, 2);
	sc_settings.timeout_ns = setting("SOFTCUDA_TIMEOUT", 60, 1, 1000000) * 1000000000u;
	sc_settings.workers = (unsigned)setting("SOFTCUDA_WORKERS", (size_t)sysconf(_SC_NPROCESSORS_ONLN), 1, 1024);
	sc_settings.late_copies = setting("SOFTCUDA_LATE_COPIES", 0, 0, 1) != 0;
	failure_read();
	schedule_check();
	kernels_check();
	if (!*problem)
		return CUDA_SUCCESS;
	fprintf(stderr, "softcuda: %s\n", problem);
	return CUDA_ERROR_INVALID_VALUE;
}
