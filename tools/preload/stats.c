/*
 * tools/preload/stats.c: what sharing did, as a JSON file when the program exits.
 *
 * Memory is that of the moment at which the program's caches were largest, as most programs free them before they end.
 */
#include "preload.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

atomic_ulong shim_calls[SHIM_KIND_COUNT], shim_launches_patched;

static const char *const kind_names[SHIM_KIND_COUNT] = {
	"allocations", "frees", "launches", "copies", "memsets", "queries"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct shim_memory peak;
static pid_t started_by;

void shim_stats_note(const struct shim_memory *memory)
{
	if (memory->virtual_bytes >= peak.virtual_bytes)
		peak = *memory;
}

/* $KVSHARE_STATS with %p as the process's number and %r as its rank. */
static void path_expand(const char *pattern, char *out, size_t bytes)
{
	const char *rank = getenv("RANK");
	size_t used = 0;

	if (!rank)
		rank = getenv("OMPI_COMM_WORLD_RANK");
	for (; *pattern && used + 1 < bytes; pattern++) {
		int length = 1;

		if (pattern[0] == '%' && pattern[1] == 'p')
			length = snprintf(out + used, bytes - used, "%d", (int)getpid());
		else if (pattern[0] == '%' && pattern[1] == 'r')
			length = snprintf(out + used, bytes - used, "%s", rank ? rank : "0");
		else
			out[used] = *pattern;
		pattern += pattern[0] == '%' && (pattern[1] == 'p' || pattern[1] == 'r');
		used += length;
	}
	out[used < bytes ? used : bytes - 1] = '\0';
}

static void stats_write(void)
{
	char path[4096], text[2048];
	size_t used;

	if (getpid() != started_by) /* a child that was forked, and did not become another program */
		return;
	path_expand(shim_settings()->stats_path, path, sizeof(path));
	used = snprintf(text, sizeof(text),
		"{\"kvshare_stats\": 1, \"pid\": %d, \"physical_bytes\": %zu, \"virtual_bytes\": %zu, \"saved_bytes\": "
		"%zu, "
		"\"sink_bytes\": %zu, \"launches_patched\": %lu, \"hooks\": {",
		(int)getpid(), peak.physical_bytes, peak.virtual_bytes, peak.saved_bytes, peak.sink_bytes,
		atomic_load(&shim_launches_patched));
	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		used += snprintf(text + used, sizeof(text) - used, "%s\"%s\": %lu", i ? ", " : "", kind_names[i],
			atomic_load(&shim_calls[i]));
	snprintf(text + used, sizeof(text) - used, "}}\n");
	if (kvs_file_write(path, text, strlen(text)))
		shim_say("no statistics: %s", kvs_error());
}

static void child_begin(void)
{
	shim_cache_forget();
}

static void start(void)
{
	started_by = getpid();
	pthread_atfork(NULL, NULL, child_begin);
	if (shim_settings()->stats_path)
		atexit(stats_write);
}

void shim_stats_start(void)
{
	pthread_once(&once, start);
}
