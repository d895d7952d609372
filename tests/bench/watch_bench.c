/*
 * tests/bench/watch_bench.c: the cost of being watched from the kernel: of one call of each kind, for the process that is watched and
 * for another one with the same driver; of a system call; and for decoding with storyworld-3m as a whole, which the program itself
 * watches too (--profile). Needs root, but for the last.
 *
 * A child makes the calls, once unwatched and once watched, in turn; medians are compared.
 */
#include "../../driver/cu.h"
#include "../../profiler/profiler.h"

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 7
#define DECODE_ROUNDS 15
#define CALLS 20000
#define GENERATE                                                                                                       \
	"%s/kvshare-run generate -m tests/models/storyworld-3m -p 'Anna put the red key' -n 128 --device host --json"

enum kind { TOLD, TOLD_WITH_STACK, COUNTED, SYSTEM_CALL, KINDS };
static const char *const kind_names[] = {"a call that is told", "a call that is told with its stack",
	"a call that is counted", "a system call (getppid)"};
enum state { UNWATCHED, BESIDE, WATCHED, STATES };

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

/* ---- single calls ---- */

/* softcuda refuses these at once, so that little else is timed. */
static void call(const kvs_cu *cu, enum kind kind)
{
	CUdeviceptr memory;

	if (kind == TOLD)
		cu->cuMemFree(1);
	else if (kind == TOLD_WITH_STACK)
		cu->cuMemAlloc(&memory, 0);
	else if (kind == COUNTED)
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
static void serve(int in, int out)
{
	unsigned char kind;
	kvs_cu *cu;

	if (kvs_cu_open("host", &cu))
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

struct server {
	pid_t pid;
	int to, from;
};

static bool server_start(struct server *server)
{
	int to[2], from[2];

	if (pipe(to) || pipe(from))
		return false;
	server->pid = fork();
	if (!server->pid) {
		close(to[1]);
		close(from[0]);
		serve(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	server->to = to[1];
	server->from = from[0];
	return server->pid > 0;
}

static void server_end(const struct server *server)
{
	kill(server->pid, SIGKILL); /* the other one has its pipe open, too */
	close(server->to);
	close(server->from);
	waitpid(server->pid, NULL, 0);
}

static double server_ask(const struct server *server, enum kind kind)
{
	unsigned char byte = kind;
	double ns = -1;

	if (write(server->to, &byte, 1) != 1 || read(server->from, &ns, sizeof(ns)) != sizeof(ns))
		ns = -1; /* shows as an absurd figure */
	return ns;
}

/* All kinds once, while `watched` (0: nobody) is watched. */
static bool ask_all(const struct server *server, pid_t watched, const char *trace_path, double ns[KINDS])
{
	kvs_trace *trace = NULL;
	kvs_watch *watch = NULL;
	bool good = true;

	if (watched)
		good = !kvs_trace_open(trace_path, NULL, &trace) && !kvs_watch_open(watched, trace, NULL, &watch);
	for (int kind = 0; good && kind < KINDS; kind++) {
		ns[kind] = server_ask(server, kind);
		if (watch)
			kvs_watch_poll(watch, 100);
	}
	kvs_watch_close(watch);
	kvs_trace_close(trace);
	return good;
}

static bool bench_calls(const char *trace)
{
	static double ns[STATES][KINDS][ROUNDS];
	struct server served, other;
	bool good = server_start(&served) && server_start(&other);

	for (int round = 0; good && round < ROUNDS; round++) {
		const pid_t watched[] = {0, other.pid, served.pid};
		for (int state = 0; good && state < STATES; state++) {
			double once[KINDS];
			server_ask(&served, TOLD);
			server_ask(&other, TOLD); /* both have opened their driver now */
			good = ask_all(&served, watched[state], trace, once);
			for (int kind = 0; kind < KINDS; kind++)
				ns[state][kind][round] = once[kind];
		}
	}
	for (int kind = 0; good && kind < KINDS; kind++) {
		double bare = median(ns[UNWATCHED][kind], ROUNDS), beside = median(ns[BESIDE][kind], ROUNDS),
		       with = median(ns[WATCHED][kind], ROUNDS);
		printf("%-35s %6.0f ns unwatched, %+6.0f ns watched, %+6.0f ns beside one that is watched\n",
			kind_names[kind], bare, with - bare, beside - bare);
	}
	server_end(&served);
	server_end(&other);
	return good;
}

/* ---- the engine ---- */

enum way { ALONE, BY_ITSELF, BY_KERNEL, WAYS };
static const char *const way_names[] = {"nobody", "itself", "the kernel"}, *const way_aims[] = {"1", "1.005", "1.02"};

static double decode_rate(const char *build, const char *watcher, const char *options)
{
	char command[2048];
	double rate;
	FILE *output;
	json_t *report;

	snprintf(command, sizeof(command), "%s" GENERATE "%s 2>/dev/null", watcher, build, options);
	output = popen(command, "r");
	if (!output)
		return 0;
	report = json_loadf(output, 0, NULL);
	pclose(output);
	rate = json_number_value(json_object_get(json_object_get(report, "latency"), "decode_tokens_per_s"));
	json_decref(report);
	return rate;
}

static double best(const double *values, int count)
{
	double most = 0;

	for (int i = 0; i < count; i++)
		most = values[i] > most ? values[i] : most;
	return most;
}

/* The best of each is compared: what else the machine does only ever takes away from it. */
static bool bench_decode(const char *build, const char *trace, bool can_watch)
{
	double rates[WAYS][DECODE_ROUNDS];
	char watcher[512], options[512];

	snprintf(watcher, sizeof(watcher), "%s/kvshare-run profile --source ebpf -o %s -- ", build, trace);
	snprintf(options, sizeof(options), " --profile %s", trace);
	for (int round = 0; round < DECODE_ROUNDS; round++) {
		for (int way = 0; way < (can_watch ? WAYS : BY_KERNEL); way++) {
			rates[way][round] =
				decode_rate(build, way == BY_KERNEL ? watcher : "", way == BY_ITSELF ? options : "");
			if (!rates[way][round])
				return false;
		}
	}
	for (int way = BY_ITSELF; way < (can_watch ? WAYS : BY_KERNEL); way++)
		printf("decode, storyworld-3m, watched by %-10s %6.1f tokens/s unwatched, %6.1f watched: %.3f times as "
		       "long "
		       "(aim: at most %s)\n",
			way_names[way], best(rates[ALONE], DECODE_ROUNDS), best(rates[way], DECODE_ROUNDS),
			best(rates[ALONE], DECODE_ROUNDS) / best(rates[way], DECODE_ROUNDS), way_aims[way]);
	return true;
}

/* Probes belong to a file: with one of our own, nobody else's are measured, and ours do not slow anybody else. */
static bool own_driver(char *path, size_t bytes)
{
	static char folder[] = "/tmp/kvshare-watch-bench-XXXXXX";
	const char *driver = getenv("KVSHARE_SOFTCUDA");
	char command[1024];

	if (!driver || !mkdtemp(folder))
		return false;
	snprintf(path, bytes, "%s/libcuda.so.1", folder);
	snprintf(command, sizeof(command), "cp '%s' %s", driver, path);
	return !system(command) && !setenv("KVSHARE_SOFTCUDA", path, 1);
}

int main(void)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
	char trace[] = "/tmp/kvshare-watch-bench-XXXXXX", driver[128];
	bool can_watch = !kvs_watch_check(), good;
	int fd;

	if (!can_watch)
		printf("watching from the kernel is not measured: %s\n", kvs_error());
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = mkstemp(trace);
	close(fd);
	good = fd >= 0 && own_driver(driver, sizeof(driver)) && (!can_watch || bench_calls(trace)) &&
	       bench_decode(build, trace, can_watch);
	unlink(trace);
	unlink(driver);
	*strrchr(driver, '/') = '\0';
	rmdir(driver);
	if (!good)
		fprintf(stderr, "watch_bench: %s\n", *kvs_error() ? kvs_error() : "kvshare-run failed");
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
