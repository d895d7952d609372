/*
 * profiler/write.c: a trace that is being written.
 *
 * Callers fill one buffer under a lock that is held for a copy and no longer; a thread writes the other. The file is opened
 * for appending and each chunk goes out in one write, so several processes can add to one file, and one that is killed
 * leaves whole chunks.
 */
#include "encode.h"

#include "../driver/cu.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FLUSH_MS 200

struct kvs_trace {
	pthread_mutex_t lock;
	pthread_cond_t work; /* there is something to write, or the end */
	pthread_cond_t done; /* a chunk was written */
	pthread_t thread;
	int fd;
	unsigned long forks; /* of this process when the trace was opened */
	struct kvs_trace_options options;
	struct prof_told told;
	struct prof_chunk chunks[2], *filling;
	struct prof_chunk *full;             /* the other one, while it waits to be written or is */
	uint32_t writer, generation, number; /* of the next chunk; format.h */
	bool start_anew;          /* strings may have been lost with a chunk: the next one begins a generation */
	uint64_t lost, lost_told; /* lost_told: as the file has it */
	bool closing;
	int err; /* the first one that writing met */
};

/* Counts fork() in children: what they inherit of a trace is not theirs. */
static unsigned long forks;
static pthread_once_t watch_forks_once = PTHREAD_ONCE_INIT;

static void count_fork(void)
{
	forks++;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, count_fork);
}

static bool is_ours(const kvs_trace *trace)
{
	return trace->forks == forks;
}

/* ---- chunks ---- */

static void forget_told(kvs_trace *trace)
{
	prof_intern_clear(&trace->told.strings);
	prof_intern_clear(&trace->told.stacks);
	trace->generation++;
	trace->start_anew = false;
}

/* With the lock. */
static void begin_chunk(kvs_trace *trace, struct prof_chunk *chunk)
{
	if (trace->start_anew)
		forget_told(trace);
	prof_chunk_begin(chunk);
	chunk->header.writer = trace->writer;
	chunk->header.number = trace->number++;
	chunk->header.generation = trace->generation;
	trace->filling = chunk;
}

/* ---- writing, on the trace's own thread ---- */

/* In one write; what is left of one that was cut short would only mix with other processes' chunks. */
static int write_chunk(const kvs_trace *trace, const void *data, size_t bytes)
{
	ssize_t written;

	do
		written = write(trace->fd, data, bytes);
	while (written < 0 && errno == EINTR);
	if (written < 0)
		return -errno;
	return (size_t)written == bytes ? 0 : -ENOSPC;
}

static bool fits(const kvs_trace *trace, size_t bytes)
{
	struct stat st;

	return !trace->options.max_bytes || (!fstat(trace->fd, &st) && st.st_size + bytes <= trace->options.max_bytes);
}

/*
 * Called with the lock, which is given up while the file is written. Room is kept for a chunk with no events, that says how
 * many were lost.
 */
static void write_full(kvs_trace *trace)
{
	struct prof_chunk *chunk = trace->full;
	int err = 0;

	chunk->header.lost = trace->lost;
	pthread_mutex_unlock(&trace->lock);
	size_t bytes = prof_chunk_seal(chunk);
	if (!fits(trace, bytes + (chunk->used ? sizeof(chunk->header) : 0)))
		err = -EFBIG;
	else
		err = write_chunk(trace, &chunk->header, bytes);
	pthread_mutex_lock(&trace->lock);
	if (err) {
		trace->lost += chunk->events;
		trace->start_anew = true;
		trace->err = trace->err ? trace->err : err;
	} else {
		trace->lost_told = chunk->header.lost;
	}
	trace->full = NULL;
	pthread_cond_broadcast(&trace->done);
}

/* Whether the buffer that is being filled has anything for the file. With the lock. */
static bool has_news(const kvs_trace *trace)
{
	return trace->filling->used || trace->lost != trace->lost_told;
}

static void swap(kvs_trace *trace)
{
	trace->full = trace->filling;
	begin_chunk(trace, trace->filling == &trace->chunks[0] ? &trace->chunks[1] : &trace->chunks[0]);
}

static void deadline(struct timespec *at, unsigned ms)
{
	clock_gettime(CLOCK_MONOTONIC, at);
	at->tv_sec += ms / 1000;
	at->tv_nsec += ms % 1000 * 1000000;
	if (at->tv_nsec >= 1000000000) {
		at->tv_nsec -= 1000000000;
		at->tv_sec++;
	}
}

static void *write_until_closed(void *arg)
{
	kvs_trace *trace = arg;
	struct timespec until;

	pthread_mutex_lock(&trace->lock);
	while (!trace->closing) {
		int err = 0;
		deadline(&until, trace->options.flush_ms);
		while (!trace->full && !trace->closing && err != ETIMEDOUT)
			err = pthread_cond_timedwait(&trace->work, &trace->lock, &until);
		if (!trace->full && trace->filling->used)
			swap(trace);
		if (trace->full)
			write_full(trace);
	}
	while (trace->full || has_news(trace)) {
		uint64_t lost = trace->lost;
		if (!trace->full)
			swap(trace);
		write_full(trace);
		if (!trace->filling->used && trace->lost == lost && trace->lost_told != lost)
			break; /* not even that can be written */
	}
	pthread_mutex_unlock(&trace->lock);
	return NULL;
}

/* ---- opening ---- */

/* A trace, or a regular file of no bytes: nothing else is overwritten. */
static int check_old_file(int fd, const char *path)
{
	char magic[sizeof(PROF_MAGIC) - 1];
	struct stat st;

	if (fstat(fd, &st))
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return kvs_fail(-EINVAL, "%s: a trace is a regular file, and this is none", path);
	if (st.st_size &&
		(pread(fd, magic, sizeof(magic), 0) != sizeof(magic) || memcmp(magic, PROF_MAGIC, sizeof(magic))))
		return kvs_fail(-EINVAL, "%s is there and is no trace: it is not overwritten", path);
	return 0;
}

/* Whoever comes first writes the header; the lock on the file is for that moment. */
static int begin_file(int fd, const char *path, bool append)
{
	struct prof_file_header header = {.magic = PROF_MAGIC, .version = PROF_VERSION};
	struct stat st;
	int err = 0;

	while (flock(fd, LOCK_EX))
		if (errno != EINTR)
			return kvs_fail(-errno, "%s: cannot be locked: %s", path, strerror(errno));
	if (!append && ftruncate(fd, 0))
		err = kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (!err && !fstat(fd, &st) && !st.st_size && write(fd, &header, sizeof(header)) != sizeof(header))
		err = kvs_fail(-errno, "%s: %s", path, strerror(errno));
	flock(fd, LOCK_UN);
	return err;
}

static int open_file(const char *path, bool append, int *out)
{
	int err, low, fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);

	if (fd < 0)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (fd <= 2) { /* never one of the three that programs print to */
		low = fd;
		fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
		close(low);
		if (fd < 0)
			return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	}
	err = check_old_file(fd, path);
	if (!err)
		err = begin_file(fd, path, append);
	if (err)
		close(fd);
	else
		*out = fd;
	return err;
}

/* With all signals blocked, so that the program's handlers never run there, and a file-size limit is an error. */
static int start_thread(kvs_trace *trace)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&trace->thread, NULL, write_until_closed, trace);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err ? kvs_fail(-err, "no thread for writing the trace: %s", strerror(err)) : 0;
}

static void free_trace(kvs_trace *trace)
{
	prof_intern_clear(&trace->told.strings);
	prof_intern_clear(&trace->told.stacks);
	pthread_cond_destroy(&trace->work);
	pthread_cond_destroy(&trace->done);
	pthread_mutex_destroy(&trace->lock);
	free(trace);
}

static kvs_trace *new_trace(const struct kvs_trace_options *options)
{
	kvs_trace *trace = calloc(1, sizeof(*trace));
	pthread_condattr_t attr;

	if (!trace)
		return NULL;
	trace->options = options ? *options : (struct kvs_trace_options){0};
	if (!trace->options.flush_ms)
		trace->options.flush_ms = FLUSH_MS;
	trace->told.strings.limit = PROF_MAX_STRINGS;
	trace->told.stacks.limit = PROF_MAX_STACKS;
	if (getrandom(&trace->writer, sizeof(trace->writer), GRND_NONBLOCK) != sizeof(trace->writer))
		trace->writer = getpid();
	begin_chunk(trace, &trace->chunks[0]);
	pthread_mutex_init(&trace->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&trace->work, &attr);
	pthread_cond_init(&trace->done, NULL);
	pthread_condattr_destroy(&attr);
	pthread_once(&watch_forks_once, watch_forks);
	trace->forks = forks;
	return trace;
}

int kvs_trace_open(const char *path, const struct kvs_trace_options *options, kvs_trace **out)
{
	kvs_trace *trace = new_trace(options);
	int err;

	if (!trace)
		return kvs_fail(-ENOMEM, "no memory for a trace");
	err = open_file(path, trace->options.append, &trace->fd);
	if (err) {
		free_trace(trace);
		return err;
	}
	err = start_thread(trace);
	if (err) {
		close(trace->fd);
		free_trace(trace);
		return err;
	}
	*out = trace;
	return 0;
}

/* ---- adding ---- */

void kvs_trace_add(kvs_trace *trace, const struct kvs_event *event)
{
	if (!is_ours(trace))
		return;
	pthread_mutex_lock(&trace->lock);
	if (!prof_chunk_add(trace->filling, &trace->told, event)) {
		if (!trace->full) {
			swap(trace);
			pthread_cond_signal(&trace->work);
		}
		if (!prof_chunk_add(trace->filling, &trace->told, event))
			trace->lost++;
	}
	pthread_mutex_unlock(&trace->lock);
}

void kvs_trace_lost(kvs_trace *trace, uint64_t events)
{
	if (!is_ours(trace))
		return;
	pthread_mutex_lock(&trace->lock);
	trace->lost += events;
	pthread_mutex_unlock(&trace->lock);
}

uint64_t kvs_trace_lost_so_far(const kvs_trace *trace)
{
	kvs_trace *locked = (kvs_trace *)trace;
	uint64_t lost;

	if (!is_ours(trace))
		return 0;
	pthread_mutex_lock(&locked->lock);
	lost = trace->lost;
	pthread_mutex_unlock(&locked->lock);
	return lost;
}

int kvs_trace_flush(kvs_trace *trace)
{
	int err;

	if (!is_ours(trace))
		return 0;
	pthread_mutex_lock(&trace->lock);
	while (trace->full)
		pthread_cond_wait(&trace->done, &trace->lock);
	if (trace->filling->used) {
		swap(trace);
		pthread_cond_signal(&trace->work);
		while (trace->full)
			pthread_cond_wait(&trace->done, &trace->lock);
	}
	err = trace->err;
	pthread_mutex_unlock(&trace->lock);
	return err ? kvs_fail(err, "the trace cannot be written: %s", strerror(-err)) : 0;
}

int kvs_trace_close(kvs_trace *trace)
{
	int err = 0;

	if (!trace)
		return 0;
	if (is_ours(trace)) {
		pthread_mutex_lock(&trace->lock);
		trace->closing = true;
		pthread_cond_signal(&trace->work);
		pthread_mutex_unlock(&trace->lock);
		pthread_join(trace->thread, NULL);
		err = trace->err;
	}
	close(trace->fd);
	if (is_ours(trace))
		free_trace(trace); /* in a child its locks may be held by threads that are not there */
	return err ? kvs_fail(err, "the trace cannot be written: %s", strerror(-err)) : 0;
}
