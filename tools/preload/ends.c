/*
 * tools/preload/ends.c: the ends of a program that its exit handlers do not see, for the statistics and what `inspect` and
 * `probe` have seen.
 *
 * _exit and _Exit are ours, in glibc's versions, and go on to the next library's. For SIGTERM and SIGABRT there is a handler,
 * only where one of them was asked for. It writes the file with open and write alone, and goes on to what was there
 * before: the program's handler as it was called, or the default, from which the program ends by the same signal. A
 * handler that the program installs later takes the place of ours, and most of those end in exit or _exit.
 */
#include "preload.h"

#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int watched[] = {SIGTERM, SIGABRT};
#define WATCHED_COUNT (sizeof(watched) / sizeof(*watched))
static struct sigaction before[WATCHED_COUNT];

static void all_write(void)
{
	shim_stats_write_now();
	shim_inspect_write_now();
	shim_probe_write_now();
}

static void go_on(const struct sigaction *action, int number, siginfo_t *info, void *context)
{
	if (action->sa_flags & SA_SIGINFO) {
		action->sa_sigaction(number, info, context);
	} else if (action->sa_handler != SIG_DFL) {
		action->sa_handler(number);
	} else {
		sigaction(number, action, NULL);
		raise(number); /* blocked until we return */
	}
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	all_write();
	for (size_t i = 0; i < WATCHED_COUNT; i++)
		if (watched[i] == number)
			go_on(&before[i], number, info, context);
}

/* The flags and the mask of the handler that was there are still its own; a signal that is ignored stays so. */
void shim_ends_watch(void)
{
	static atomic_flag watching = ATOMIC_FLAG_INIT;

	if (atomic_flag_test_and_set(&watching))
		return;
	for (size_t i = 0; i < WATCHED_COUNT; i++) {
		struct sigaction action;

		if (sigaction(watched[i], NULL, &before[i]))
			continue;
		action = before[i];
		if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN)
			continue;
		action.sa_sigaction = on_signal;
		action.sa_flags |= SA_SIGINFO;
		sigaction(watched[i], &action, NULL);
	}
}

/* The next library's, as a program would have called it; without one, what glibc does. */
__attribute__((noreturn)) static void end(const char *name, int status)
{
	void *found = shim_dlsym(RTLD_NEXT, name);
	void (*next)(int) = NULL;

	all_write();
	status = shim_stats_status(status);
	memcpy(&next, &found, sizeof(next));
	if (next)
		next(status);
	for (;;)
		syscall(SYS_exit_group, status);
}

__attribute__((noreturn, visibility("default"))) void shim_end_low(int status);
void shim_end_low(int status)
{
	end("_exit", status);
}

__attribute__((noreturn, visibility("default"))) void shim_end_high(int status);
void shim_end_high(int status)
{
	end("_Exit", status);
}

#ifdef __x86_64__
__asm__(".symver shim_end_low, _exit@@GLIBC_2.2.5");
__asm__(".symver shim_end_high, _Exit@@GLIBC_2.2.5");
#else
__asm__(".symver shim_end_low, _exit@@GLIBC_2.17");
__asm__(".symver shim_end_high, _Exit@@GLIBC_2.17");
#endif
