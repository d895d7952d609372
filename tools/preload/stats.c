/*
 * tools/preload/stats.c: what sharing did, when the program ends: as a JSON file, and as text in a log.
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

const char *const shim_kind_names[SHIM_KIND_COUNT] = {"allocations", "frees", "launches", "copies", "memsets", "words",
	"queries", "mappings", "exports", "pools", "waits", "polls", "captures", "graph_nodes", "graphs",
	"graph_launches", "tensor_maps", "contexts", "symbols"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct shim_memory peak;
static pid_t started_by;                /* 0: nobody asked for statistics, and nothing is shared */
static char path[4096], log_path[4096]; /* "": not asked for */
static char log_name[128];              /* of this process, for a log that is shared */
static bool log_to_stderr;

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
	return rank && *rank ? rank : NULL;
}

/* A name of a file with %p as the process's number and %r as its rank. */
static void path_expand(const char *pattern, char *out, size_t bytes)
{
	size_t used = 0;

	for (; *pattern && used + 1 < bytes; pattern++) {
		int length = 1;

		if (pattern[0] == '%' && pattern[1] == 'p')
			length = snprintf(out + used, bytes - used, "%d", (int)getpid());
		else if (pattern[0] == '%' && pattern[1] == 'r')
			length = snprintf(out + used, bytes - used, "%s", rank_find() ? rank_find() : "0");
		else
			out[used] = *pattern;
		pattern += pattern[0] == '%' && (pattern[1] == 'p' || pattern[1] == 'r');
		used += length;
	}
	out[used < bytes ? used : bytes - 1] = '\0';
}

static void account_get(struct shim_account *account)
{
	account->memory = peak;
	account->launches_patched = atomic_load(&shim_launches_patched);
	for (int i = 0; i < SHIM_KIND_COUNT; i++) {
		account->calls[i] = atomic_load(&shim_calls[i]);
		account->ns[i] = kind_ns(i);
	}
}

static void json_make(struct shim_text *text, const struct shim_account *account)
{
	const struct shim_memory *memory = &account->memory;

	text->bytes = 0;
	shim_text_add(text,
		"{\"kvshare_stats\": 1, \"pid\": %d, \"physical_bytes\": %zu, \"virtual_bytes\": %zu, \"saved_bytes\": "
		"%zu, \"sink_bytes\": %zu, \"launches_patched\": %lu, \"hook_ns\": {",
		(int)getpid(), memory->physical_bytes, memory->virtual_bytes, memory->saved_bytes, memory->sink_bytes,
		account->launches_patched);
	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		shim_text_add(text, "%s\"%s\": %lu", i ? ", " : "", shim_kind_names[i], account->ns[i]);
	shim_text_add(text, "}, \"hooks\": {");
	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		shim_text_add(text, "%s\"%s\": %lu", i ? ", " : "", shim_kind_names[i], account->calls[i]);
	shim_text_add(text, "}}\n");
}

/* False: nobody asked for statistics or sharing, or this is a child that was forked and did not become another program. */
static bool are_ours(void)
{
	return started_by && getpid() == started_by;
}

/* A file that cannot be written stays unwritten: nobody may be told here. */
static void file_write(int file, const struct shim_text *text)
{
	size_t done = 0;
	ssize_t wrote;

	while (file >= 0 && done < text->bytes && (wrote = write(file, text->text + done, text->bytes - done)) > 0)
		done += wrote;
}

/* A program that ends by one way and then by another has two entries only if it has made calls between them. */
static void log_write(const struct shim_account *account, struct shim_text *text)
{
	static atomic_ulong logged;
	unsigned long calls = 1;
	int file;

	for (int i = 0; i < SHIM_KIND_COUNT; i++)
		calls += account->calls[i];
	if ((!log_to_stderr && !*log_path) || atomic_exchange(&logged, calls) == calls)
		return;
	text->bytes = 0;
	shim_summary_make(text, log_name, account);
	file = log_to_stderr ? STDERR_FILENO : open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	file_write(file, text);
	if (file >= 0 && !log_to_stderr)
		close(file);
}

/* Where layers should share, the program has made memory, and none of it was the cache of the layout: mostly that is wrong. */
static bool nothing_shared(void)
{
	return are_ours() && !shim_settings()->off && shim_owners_share(&shim_settings()->owners) &&
	       !peak.virtual_bytes &&
	       (atomic_load(&shim_calls[SHIM_ALLOCS]) || atomic_load(&shim_calls[SHIM_MAPPINGS]));
}

static void nothing_tell(void)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;

	if (nothing_shared() && !log_to_stderr && !atomic_flag_test_and_set(&told))
		shim_say("no KV cache was shared: no memory of the program is as the layout has it (inspect finds "
			 "layouts)");
}

int shim_stats_status(int status)
{
	return !status && nothing_shared() && shim_settings()->strict ? EXIT_FAILURE : status;
}

/* In glibc an exit within a handler goes on with the handlers that are left, and with the new status. */
static void at_end(int status, void *arg)
{
	struct shim_text text;
	struct shim_account account;

	(void)arg;
	if (!are_ours())
		return;
	account_get(&account);
	json_make(&text, &account);
	if (*path && kvs_file_write(path, text.text, text.bytes))
		shim_say("no statistics: %s", kvs_error());
	log_write(&account, &text);
	nothing_tell();
	if (shim_stats_status(status) != status)
		exit(shim_stats_status(status));
}

/* Without the writer of files, which allocates. */
void shim_stats_write_now(void)
{
	struct shim_text text;
	struct shim_account account;
	int file;

	if (!are_ours())
		return;
	account_get(&account);
	json_make(&text, &account);
	file = *path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
	file_write(file, &text);
	if (file >= 0)
		close(file);
	log_write(&account, &text);
	nothing_tell();
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
	const struct shim_settings *settings = shim_settings();

	pthread_atfork(NULL, NULL, child_begin);
	if (!settings->stats_path && !settings->log_path && !settings->log_to_stderr && settings->off)
		return;
	if (settings->stats_path)
		path_expand(settings->stats_path, path, sizeof(path));
	if (settings->log_path)
		path_expand(settings->log_path, log_path, sizeof(log_path));
	path_expand(rank_find() ? "process %p, rank %r" : "process %p", log_name, sizeof(log_name));
	log_to_stderr = settings->log_to_stderr;
	started_by = getpid();
	on_exit(at_end, NULL);
	if (settings->stats_path || settings->log_path || settings->log_to_stderr)
		shim_ends_watch();
}

void shim_stats_start(void)
{
	pthread_once(&once, start);
}
