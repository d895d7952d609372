/*
 * tools/preload/stats.c: what sharing did, as a JSON file when the program ends.
 *
 * Memory is that of the moment at which the program's caches were largest, as most programs free them before they end.
 * Everything that the end by a signal needs is prepared at the start, because then nothing may allocate or lock.
 */
#include "preload.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

atomic_ulong shim_calls[SHIM_KIND_COUNT], shim_launches_patched;
static atomic_ulong timed_calls[SHIM_KIND_COUNT], timed_ns[SHIM_KIND_COUNT];

static const char *const kind_names[SHIM_KIND_COUNT] = {
	"allocations", "frees", "launches", "copies", "memsets", "queries"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct shim_memory peak;
static pid_t started_by; /* 0: nobody asked for statistics */
static char path[4096];

uint64_t shim_timer_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void shim_timer_add(const struct shim_timer *timer)
{
	atomic_fetch_add_explicit(&timed_ns[timer->kind], shim_timer_now() - timer->start_ns, memory_order_relaxed);
	shim_count(&timed_calls[timer->kind]);
}

/* Of all calls, as those that were timed took it. */
static unsigned long kind_ns(int kind)
{
	unsigned long timed = atomic_load(&timed_calls[kind]);

	return timed ? (unsigned long)((double)atomic_load(&timed_ns[kind]) / timed * atomic_load(&shim_calls[kind]))
		     : 0;
}

void shim_stats_note(const struct shim_memory *memory)
{
	if (memory->virtual_bytes >= peak.virtual_bytes)
		peak = *memory;
}

/*
 * The process's rank among those that were started together. torchrun's comes first: it starts several processes inside
 * one of a batch system's.
 */
static const char *rank_find(void)
{
	static const char *const names[] = {"RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
	const char *rank = NULL;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && (!rank || !*rank); i++)
		rank = getenv(names[i]);
	return rank && *rank ? rank : "0";
}

/* $KVSHARE_STATS with %p as the process's number and %r as its rank. */
static void path_expand(const char *pattern, char *out, size_t bytes)
{
	size_t used = 0;

	for (; *pattern && used + 1 < bytes; pattern++) {
		int length = 1;

		if (pattern[0] == '%' && pattern[1] == 'p')
			length = snprintf(out + used, bytes - used, "%d", (int)getpid());
		else if (pattern[0] == '%' && pattern[1] == 'r')
			length = snprintf(out + used, bytes - used, "%s", rank_find());
		else
			out[used] = *pattern;
		pattern += pattern[0] == '%' && (pattern[1] == 'p' || pattern[1] == 'r');
		used += length;
	}
	out[used < bytes ? used : bytes - 1] = '\0';
}

/* glibc's snprintf neither allocates nor locks for whole numbers and plain strings, so a signal handler may come here. */
static size_t text_make(char *text, size_t bytes)
{
	size_t used = snprintf(text, bytes,
		"{\"kvshare_stats\": 1, \"pid\": %d, \"physical_bytes\": %zu, \"virtual_bytes\": %zu, \"saved_bytes\": "
		"%zu, "
		"\"sink_bytes\": %zu, \"launches_patched\": %lu, \"hook_ns\": {",
		(int)getpid(), peak.physical_bytes, peak.virtual_bytes, peak.saved_bytes, peak.sink_bytes,
		atomic_load(&shim_launches_patched));

	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		used += snprintf(text + used, bytes - used, "%s\"%s\": %lu", i ? ", " : "", kind_names[i], kind_ns(i));
	used += snprintf(text + used, bytes - used, "}, \"hooks\": {");
	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		used += snprintf(text + used, bytes - used, "%s\"%s\": %lu", i ? ", " : "", kind_names[i],
			atomic_load(&shim_calls[i]));
	return used + snprintf(text + used, bytes - used, "}}\n");
}

/* False: nobody asked for statistics, or this is a child that was forked and did not become another program. */
static bool are_ours(void)
{
	return started_by && getpid() == started_by;
}

static void stats_write(void)
{
	char text[2048];

	if (!are_ours())
		return;
	text_make(text, sizeof(text));
	if (kvs_file_write(path, text, strlen(text)))
		shim_say("no statistics: %s", kvs_error());
}

/* Without the writer of files, which allocates. A file that cannot be written stays unwritten: nobody may be told here. */
void shim_stats_write_now(void)
{
	char text[2048];
	size_t bytes, done = 0;
	ssize_t wrote;
	int file;

	if (!are_ours())
		return;
	bytes = text_make(text, sizeof(text));
	file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	while (file >= 0 && done < bytes && (wrote = write(file, text + done, bytes - done)) > 0)
		done += wrote;
	if (file >= 0)
		close(file);
}

static void child_begin(void)
{
	shim_cache_forget();
	shim_own_forget();
	shim_alloc_forget();
	shim_pools_forget();
	shim_maps_forget();
	shim_waits_forget();
	shim_kernels_forget();
}

static void start(void)
{
	pthread_atfork(NULL, NULL, child_begin);
	if (!shim_settings()->stats_path)
		return;
	path_expand(shim_settings()->stats_path, path, sizeof(path));
	started_by = getpid();
	atexit(stats_write);
	shim_ends_watch();
}

void shim_stats_start(void)
{
	pthread_once(&once, start);
}
