#include "call_cost.h"

#include "../../driver/cu.h"
#include "../../tools/run/profile/profile.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALLS 20000

const char *const call_kind_names[CALL_KINDS] = {"a call that is told", "a call that is told with its stack",
	"a call that is counted", "a system call (getppid)"};

/* softcuda refuses these at once, so that little else is timed. */
static void call(const kvs_cu *cu, enum call_kind kind)
{
	CUdeviceptr memory;

	if (kind == CALL_TOLD)
		cu->cuMemFree(1);
	else if (kind == CALL_TOLD_WITH_STACK)
		cu->cuMemAlloc(&memory, 0);
	else if (kind == CALL_COUNTED)
		cu->cuStreamQuery(NULL);
	else
		syscall(SYS_getppid);
}

/* This thread's, as other programs may want the processors meanwhile. */
static double cpu_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Answers each byte on `in`, a kind, with the nanoseconds of a call. */
static void serve(int in, int out, const char *trace)
{
	struct run_profile *profile = NULL;
	unsigned char kind;
	kvs_cu *cu;

	if (kvs_cu_open("host", &cu) || (trace && run_profile_open(trace, cu, &profile)))
		_exit(EXIT_FAILURE);
	while (read(in, &kind, 1) == 1) {
		double start = cpu_s(), ns;
		for (int i = 0; i < CALLS; i++)
			call(cu, kind);
		ns = 1e9 * (cpu_s() - start) / CALLS;
		if (write(out, &ns, sizeof(ns)) != sizeof(ns))
			break;
	}
	_exit(EXIT_SUCCESS);
}

bool call_server_start(struct call_server *server, const char *trace)
{
	int to[2], from[2];

	if (pipe(to) || pipe(from))
		return false;
	server->pid = fork();
	if (!server->pid) {
		close(to[1]);
		close(from[0]);
		serve(to[0], from[1], trace);
	}
	close(to[0]);
	close(from[1]);
	server->to = to[1];
	server->from = from[0];
	return server->pid > 0;
}

void call_server_end(const struct call_server *server)
{
	kill(server->pid, SIGKILL); /* another one may have its pipe open, too */
	close(server->to);
	close(server->from);
	waitpid(server->pid, NULL, 0);
}

double call_server_ask(const struct call_server *server, enum call_kind kind)
{
	unsigned char byte = kind;
	double ns = -1;

	if (write(server->to, &byte, 1) != 1 || read(server->from, &ns, sizeof(ns)) != sizeof(ns))
		ns = -1; /* shows as an absurd figure */
	return ns;
}
