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

bool run_watch_step(void *arg, const char *what, size_t done, size_t total)
{
	struct run_watch *watch = arg;
	char left[32] = "";

	if (total != watch->total || done < watch->done || !watch->started) {
		watch->total = total;
		watch->first = done;
		watch->start = run_now_s();
		watch->started = true;
	}
	watch->done = done;
	if (done > watch->first && done < total)
		format_left((run_now_s() - watch->start) * (total - done) / (done - watch->first), left, sizeof(left));
	if (!watch->quiet)
		run_progress_show(what, left, done, total);
	return !stop_wanted;
}
