/*
 * calib/compensate/heads.c: the fits of all heads of a layer, on as many threads as the engine's host device has.
 *
 * A head's fit shares nothing with another's, so neither the number of threads nor the order of the heads changes a bit of the
 * result. The caller's thread takes its share and tells of the progress; the others ask only whether to stop.
 */
#include "queries.h"
#include "together.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_THREADS 16

struct team {
	const struct calib_queries *queries;
	double *matrices;
	struct calib_query_result *results;
	atomic_int next;
	atomic_bool stop;
};

struct worker {
	struct team *team;
	struct kvs_calib_progress progress;
	pthread_t thread;
	int err;
	char message[512]; /* kvs_error() is each thread's own */
};

static bool goes_on(void *arg, const char *what, size_t done, size_t total)
{
	struct team *team = arg;

	(void)what;
	(void)done;
	(void)total;
	return !atomic_load(&team->stop);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct team *team = worker->team;
	struct calib_queries queries = *team->queries;
	size_t square = (size_t)queries.head_dim * queries.head_dim;

	queries.progress = &worker->progress;
	while (!worker->err && !atomic_load(&team->stop)) {
		int head = atomic_fetch_add(&team->next, 1);
		if (head >= queries.heads)
			break;
		worker->err = calib_queries_fit(&queries, head, team->matrices + head * square, &team->results[head]);
	}
	if (worker->err) {
		snprintf(worker->message, sizeof(worker->message), "%s", kvs_error());
		atomic_store(&team->stop, true);
	}
	return NULL;
}

static int threads_of(const struct calib_queries *queries)
{
	int threads = calib_threads();

	threads = threads > MOST_THREADS ? MOST_THREADS : threads;
	return threads > queries->heads ? queries->heads : threads;
}

/* The caller's own error comes first: that of another may only be that it was stopped. */
static int result_of(const struct worker *workers, int count)
{
	const struct worker *failed = NULL;

	for (int i = count; i--;)
		if (workers[i].err && (!failed || workers[i].err != -ECANCELED || !i))
			failed = &workers[i];
	return failed ? kvs_fail(failed->err, "%s", failed->message) : 0;
}

int calib_queries_fit_all(const struct calib_queries *queries, double *matrices, struct calib_query_result *results)
{
	struct team team = {.queries = queries, .matrices = matrices, .results = results};
	int threads = threads_of(queries), count = 1, err;
	struct worker *workers = calloc(threads, sizeof(*workers));

	if (!workers)
		return kvs_fail(-ENOMEM, "no memory for %d threads", threads);
	workers[0].team = &team;
	workers[0].progress = queries->progress ? *queries->progress : (struct kvs_calib_progress){0};
	for (; count < threads; count++) {
		workers[count].team = &team;
		workers[count].progress = (struct kvs_calib_progress){goes_on, &team};
		if (pthread_create(&workers[count].thread, NULL, work, &workers[count]))
			break; /* the others do its part */
	}
	work(&workers[0]);
	for (int i = 1; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	err = result_of(workers, count);
	free(workers);
	return err;
}
