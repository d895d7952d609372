/*
 * tools/run/search/watch.c: what long work owes a person: its progress, the time left, and a Ctrl-C that
 * loses nothing.
 */
#include "../run.h"

#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t stop_wanted;

static void want_stop(int signal)
{
	(void)signal;
	stop_wanted = 1;
}

bool run_watch_stopped(void)
{
	return stop_wanted;
}

void run_watch_signals(void)
{
	struct sigaction action = {.sa_handler = want_stop, .sa_flags = SA_RESETHAND | SA_RESTART}, hangup;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN) /* nohup ignores it */
		sigaction(SIGHUP, &action, NULL);
}

static void format_left(double seconds, char *text, size_t size)
{
	if (seconds < 100)
		snprintf(text, size, "%.0f s left", seconds);
	else
		snprintf(text, size, "%.0f min left", seconds / 60);
}

void run_watch_part(struct run_watch *watch, double cost)
{
	watch->before += watch->part;
	watch->part = cost;
}

/* What took no time was known from an earlier run: it says nothing of the speed. */
#define NO_TIME_S 0.001

static void hear(struct run_watch *watch, double done, double total)
{
	double now = run_now_s();

	if (total != watch->total || done < watch->done || !watch->started) {
		watch->total = total;
		watch->first = done;
		watch->start = now;
		watch->started = true;
	} else if (now - watch->latest < NO_TIME_S) {
		watch->first += done - watch->done;
	}
	watch->done = done;
	watch->latest = now;
}

bool run_watch_step(void *arg, const char *what, size_t done, size_t total)
{
	struct run_watch *watch = arg;
	char left[32] = "";

	if (watch->whole > 0)
		hear(watch, watch->before + (total ? watch->part * done / total : 0), watch->whole);
	else
		hear(watch, done, total);
	if (watch->done > watch->first && watch->done < watch->total)
		format_left(
			(watch->latest - watch->start) * (watch->total - watch->done) / (watch->done - watch->first),
			left, sizeof(left));
	if (!watch->quiet)
		run_progress_show(what, left, (size_t)watch->done, (size_t)watch->total);
	return !stop_wanted;
}
