/*
 * tests/clients/ends.c: a program on CUDA's driver API that allocates BYTES, and ends in one of many ways.
 *
 * usage: ends BYTES return|_exit|_Exit|abort|term|handler|info|later|ignored|child
 *   handler, info: SIGTERM with a handler of its own, which was there before cuInit (info: with SA_SIGINFO); status 3
 *   later: with one that was not there yet; status 4
 *   ignored: SIGTERM and SIGABRT were ignored before; status 5
 *   child: a child of fork() ends by _exit, and its parent by SIGKILL, so that neither leaves anything
 */
#include <cuda.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *way;

static void on_signal(int number)
{
	_exit(number == SIGTERM ? 3 : 9);
}

static void on_signal_info(int number, siginfo_t *info, void *context)
{
	_exit(number == SIGTERM && info->si_pid == getpid() && context ? 3 : 9);
}

static void on_signal_later(int number)
{
	(void)number;
	_exit(4);
}

static int is(const char *name)
{
	return !strcmp(way, name);
}

static void handlers_install(void)
{
	struct sigaction info = {.sa_sigaction = on_signal_info, .sa_flags = SA_SIGINFO};

	if (is("handler"))
		signal(SIGTERM, on_signal);
	else if (is("info"))
		sigaction(SIGTERM, &info, NULL);
	else if (is("ignored"))
		signal(SIGTERM, SIG_IGN);
}

static void parent_and_child(void)
{
	int status;

	if (!fork())
		_exit(0);
	wait(&status);
	kill(getpid(), SIGKILL);
}

static int end(void)
{
	if (is("_exit"))
		_exit(0);
	if (is("_Exit"))
		_Exit(0);
	if (is("abort"))
		abort();
	if (is("later"))
		signal(SIGTERM, on_signal_later);
	if (is("child"))
		parent_and_child();
	if (!is("return"))
		raise(SIGTERM);
	return is("ignored") ? 5 : 0;
}

int main(int argc, char **argv)
{
	CUdeviceptr memory;
	CUcontext context;
	CUdevice device;

	if (argc != 3)
		return 2;
	way = argv[2];
	handlers_install();
	if (cuInit(0) || cuDeviceGet(&device, 0) || cuDevicePrimaryCtxRetain(&context, device) ||
		cuCtxSetCurrent(context) || cuMemAlloc(&memory, strtoull(argv[1], NULL, 10)))
		return 1;
	return end();
}
