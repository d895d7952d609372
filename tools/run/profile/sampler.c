/*
 * tools/run/profile/sampler.c: a thread that asks NVML what the watched processes have.
 *
 * It stands in the process that watches, and not in the one that is watched, so that it serves every source alike.
 */
#include "sampler.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define PERIOD_NS 250000000
#define MOST_PROCESSES 256
#define MOST_GENERATIONS 64

struct run_sampler {
	kvs_trace *trace;
	pid_t root;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
};

static bool is_watched(const struct run_sampler *s, pid_t pid)
{
	for (int i = 0; i < MOST_GENERATIONS && pid > 1; i++) {
		if (pid == s->root)
			return true;
		pid = (pid_t)kvs_process_parent(pid);
	}
	return false;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What a process has of several devices is one figure. */
static void write_down(struct run_sampler *s, const struct kvs_nvml_process *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct kvs_event event = {
			.type = KVS_EVENT_NVML, .pid = list[i].pid, .time_ns = now_ns(CLOCK_MONOTONIC)};
		bool told = list[i].bytes == KVS_EVENT_NONE;
		for (size_t j = 0; j < i; j++)
			told |= list[j].pid == list[i].pid && list[j].bytes != KVS_EVENT_NONE;
		if (told || !is_watched(s, list[i].pid))
			continue;
		for (size_t j = i; j < count; j++)
			if (list[j].pid == list[i].pid && list[j].bytes != KVS_EVENT_NONE)
				event.nvml.bytes += list[j].bytes;
		kvs_trace_add(s->trace, &event);
	}
}

/* True: it is time to end. */
static bool wait_for_stop(struct run_sampler *s)
{
	uint64_t until = now_ns(CLOCK_REALTIME) + PERIOD_NS;
	struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
	bool stop;

	pthread_mutex_lock(&s->lock);
	while (!s->stop && !pthread_cond_timedwait(&s->wake, &s->lock, &at))
		;
	stop = s->stop;
	pthread_mutex_unlock(&s->lock);
	return stop;
}

static void *sample(void *arg)
{
	struct kvs_nvml_process list[MOST_PROCESSES];
	struct run_sampler *s = arg;
	size_t count;
	kvs_nvml *nvml;

	if (kvs_nvml_open(&nvml))
		return NULL;
	do {
		if (kvs_nvml_list(nvml, list, MOST_PROCESSES, &count))
			break;
		write_down(s, list, count);
	} while (!wait_for_stop(s));
	kvs_nvml_close(nvml);
	return NULL;
}

struct run_sampler *run_sampler_start(kvs_trace *trace, pid_t pid)
{
	struct run_sampler *s = calloc(1, sizeof(*s));
	sigset_t all, before;
	int err;

	if (!s)
		return NULL;
	s->trace = trace;
	s->root = pid;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	sigfillset(&all); /* signals are for the thread that waits */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&s->thread, NULL, sample, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!err)
		return s;
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

void run_sampler_stop(struct run_sampler *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
