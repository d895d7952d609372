/*
 * tests/bench/watch_bench.c: the cost of being watched, by each source: of one call of each kind, for the process that is watched
 * and for another one with the same driver; of a system call; of decoding with storyworld-3m as a whole; and of a program that
 * does nothing but call the driver (tests/clients/rates). By the kernel it needs root. CUPTI is the fake of the tests,
 * which is fed with softcuda's real calls (cupti_feed.c): what it takes to feed is in the figure.
 *
 * Watched and unwatched take turns, and medians of the ratios of neighbours are told, with their quartiles: what else the machine
 * does changes more slowly than that.
 */
#include "../../driver/cu.h"
#include "../../profiler/profiler.h"
#include "../profiler/call_cost.h"

#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS 7
#define DECODE_ROUNDS 11

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* part: 0.5 for the median. Sorts them. */
static double quantile(double *values, int count, double part)
{
	qsort(values, count, sizeof(*values), compare);
	return values[(int)(part * (count - 1) + 0.5)];
}

/* ---- single calls ---- */

enum state { UNWATCHED, BESIDE, WATCHED, STATES };

/* All kinds once, while `watched` (0: nobody) is watched. */
static bool ask_all(const struct call_server *server, pid_t watched, const char *trace_path, double ns[CALL_KINDS])
{
	kvs_trace *trace = NULL;
	kvs_watch *watch = NULL;
	bool good = true;

	if (watched)
		good = !kvs_trace_open(trace_path, NULL, &trace) && !kvs_watch_open(watched, trace, NULL, &watch);
	for (int kind = 0; good && kind < CALL_KINDS; kind++) {
		ns[kind] = call_server_ask(server, kind);
		if (watch)
			kvs_watch_poll(watch, 100);
	}
	kvs_watch_close(watch);
	kvs_trace_close(trace);
	return good;
}

static bool bench_calls(const char *trace)
{
	static double ns[STATES][CALL_KINDS][ROUNDS];
	struct call_server served, other;
	bool good = call_server_start(&served, NULL) && call_server_start(&other, NULL);

	for (int round = 0; good && round < ROUNDS; round++) {
		const pid_t watched[] = {0, other.pid, served.pid};
		for (int state = 0; good && state < STATES; state++) {
			double once[CALL_KINDS];
			call_server_ask(&served, CALL_TOLD);
			call_server_ask(&other, CALL_TOLD); /* both have opened their driver now */
			good = ask_all(&served, watched[state], trace, once);
			for (int kind = 0; kind < CALL_KINDS; kind++)
				ns[state][kind][round] = once[kind];
		}
	}
	for (int kind = 0; good && kind < CALL_KINDS; kind++) {
		double bare = quantile(ns[UNWATCHED][kind], ROUNDS, 0.5),
		       beside = quantile(ns[BESIDE][kind], ROUNDS, 0.5),
		       with = quantile(ns[WATCHED][kind], ROUNDS, 0.5);
		printf("by the kernel, %-35s %6.0f ns unwatched, %+6.0f ns watched, %+6.0f ns beside one that is "
		       "watched\n",
			call_kind_names[kind], bare, with - bare, beside - bare);
	}
	call_server_end(&served);
	call_server_end(&other);
	return good;
}

static bool bench_own_calls(const char *trace)
{
	static double ns[2][CALL_SYSTEM][ROUNDS];
	struct call_server servers[2];
	bool good = call_server_start(&servers[0], NULL) && call_server_start(&servers[1], trace);

	for (int round = 0; good && round < ROUNDS; round++)
		for (int kind = 0; good && kind < CALL_SYSTEM; kind++)
			for (int s = 0; s < 2; s++)
				ns[s][kind][round] = call_server_ask(&servers[s], kind);
	for (int kind = 0; good && kind < CALL_SYSTEM; kind++)
		printf("by itself,     %-35s %6.0f ns unwatched, %+6.0f ns watched\n", call_kind_names[kind],
			quantile(ns[0][kind], ROUNDS, 0.5),
			quantile(ns[1][kind], ROUNDS, 0.5) - quantile(ns[0][kind], ROUNDS, 0.5));
	call_server_end(&servers[0]);
	call_server_end(&servers[1]);
	return good;
}

/* ---- programs ---- */

/* Who watches a program; before and behind is what stands around its command, with BUILD, TRACE and so on in the environment. */
struct way {
	const char *name, *before, *behind;
	const char *against; /* the same unwatched, where that is not plain; NULL: it is */
	double aim;          /* times as long, at most; 0: none is set */
	bool kernel, cupti;  /* it needs them */
};

#define FED "KVSHARE_SOFTCUDA=$FED LD_LIBRARY_PATH=$(dirname $FED) "
#define BY_CUPTI FED "KVSHARE_CUPTI=$FAKE $BUILD/kvshare-run profile --source cupti -o $TRACE -- "
#define BY_KERNEL "$BUILD/kvshare-run profile --source ebpf -o $TRACE -- "
#define SHIM "env LD_PRELOAD=$SHIM "
static const struct way decode_ways[] = {
	{"itself", "", "--profile $TRACE", NULL, 1.005, false, false},
	{"the kernel", BY_KERNEL, "", NULL, 1.02, true, false},
	{"CUPTI", BY_CUPTI, "", FED, 0, false, true},
};
static const struct way client_ways[] = {
	{"itself (shim)", "KVSHARE_PROFILE=$TRACE " SHIM, "", SHIM, 1.005, false, false},
	{"the kernel", BY_KERNEL, "", NULL, 1.02, true, false},
	{"CUPTI", BY_CUPTI, "", FED, 0, false, true},
};
#define WAYS (sizeof(decode_ways) / sizeof(*decode_ways))

static FILE *start(const char *before, const char *command, const char *behind)
{
	char line[2048];

	snprintf(line, sizeof(line), "%s%s %s 2>/dev/null", before, command, behind);
	unlink(getenv("TRACE")); /* some add to it */
	return popen(line, "r");
}

/* Nanoseconds a token of decoding, and seconds of processors that the program took in all. */
struct decoded {
	double token_ns, cpu_s;
};

static bool run_decode(const char *before, const char *behind, struct decoded *out)
{
	FILE *output = start(before,
		"bash -c 'TIMEFORMAT=\"cpu %U %S\"; { time \"$@\" 2>/dev/null; } 2>&1' - $BUILD/kvshare-run generate "
		"-m tests/models/storyworld-3m -p \"Anna put the red key\" -n 128 --device host --json",
		behind);
	json_t *report = output ? json_loadf(output, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
	double rate = json_number_value(json_object_get(json_object_get(report, "latency"), "decode_tokens_per_s")),
	       user = 0, system = 0;
	bool good = rate > 0 && fscanf(output, " cpu %lf %lf", &user, &system) == 2;

	if (output)
		pclose(output);
	json_decref(report);
	*out = (struct decoded){good ? 1e9 / rate : 0, user + system};
	return good;
}

#define KINDS 3 /* that rates prints: launch, store, allocate */
static char kinds[KINDS][16];

/* Nanoseconds a call, of each kind. */
static bool run_client(const char *before, const char *behind, double out[KINDS])
{
	FILE *output = start(before, "$BUILD/tests/clients/rates $BUILD/tests/clients/decoder_kernels.so", behind);
	bool good = output != NULL;

	for (int kind = 0; good && kind < KINDS; kind++)
		good = fscanf(output, "%15s %lf", kinds[kind], &out[kind]) == 2;
	if (output)
		pclose(output);
	return good;
}

/* Once each, now the one first and now the other: what a run leaves behind must not favour either. */
static bool run_both(const struct way *way, int round, struct decoded *bare, struct decoded *watched)
{
	const char *against = way->against ? way->against : "";

	if (round % 2)
		return run_decode(way->before, way->behind, watched) && run_decode(against, "", bare);
	return run_decode(against, "", bare) && run_decode(way->before, way->behind, watched);
}

/* Events that the source told one by one, and those that it counted. */
static uint64_t events_of(const char *trace)
{
	kvs_trace_reader *reader;
	struct kvs_event event;
	uint64_t events = 0;

	if (kvs_trace_read(trace, &reader))
		return 0;
	while (kvs_trace_next(reader, &event, NULL) > 0) {
		events += event.type != KVS_EVENT_CALLS;
		for (int b = 0; event.type == KVS_EVENT_CALLS && b < KVS_LATENCIES; b++)
			events += event.calls.latency[b];
	}
	kvs_trace_reader_close(reader);
	return events;
}

static void print_ratio(const char *what, const struct way *way, double *ratios, int rounds)
{
	char aim[32] = "no aim";

	if (way->aim)
		snprintf(aim, sizeof(aim), "aim: at most %g", way->aim);
	printf("%s, watched by %-13s %.3f times as long (quartiles %.3f to %.3f; %s)", what, way->name,
		quantile(ratios, rounds, 0.5), quantile(ratios, rounds, 0.25), quantile(ratios, rounds, 0.75), aim);
}

static bool bench_decode(const struct way *way)
{
	double ratios[DECODE_ROUNDS], cpu[DECODE_ROUNDS], more[DECODE_ROUNDS];
	struct decoded bare, watched;
	uint64_t events = 0;

	for (int round = 0; round < DECODE_ROUNDS; round++) {
		if (!run_both(way, round, &bare, &watched))
			return false;
		ratios[round] = watched.token_ns / bare.token_ns;
		cpu[round] = watched.cpu_s / bare.cpu_s;
		events = round % 2 ? events : events_of(getenv("TRACE")); /* it is removed before the next run */
		more[round] = 1e9 * (watched.cpu_s - bare.cpu_s) / (double)events;
	}
	print_ratio("decode, storyworld-3m", way, ratios, DECODE_ROUNDS);
	printf(", %.3f of the CPU time (%.3f to %.3f), %+.0f ns for each of %lu events\n",
		quantile(cpu, DECODE_ROUNDS, 0.5), quantile(cpu, DECODE_ROUNDS, 0.25),
		quantile(cpu, DECODE_ROUNDS, 0.75), quantile(more, DECODE_ROUNDS, 0.5), events);
	return true;
}

static bool bench_client(const struct way *way)
{
	double ratios[KINDS][ROUNDS], more[KINDS][ROUNDS], bare[KINDS], watched[KINDS];
	char what[80];

	for (int round = 0; round < ROUNDS; round++) {
		if (!run_client(way->against ? way->against : "", "", bare) ||
			!run_client(way->before, way->behind, watched))
			return false;
		for (int kind = 0; kind < KINDS; kind++) {
			ratios[kind][round] = watched[kind] / bare[kind];
			more[kind][round] = watched[kind] - bare[kind];
		}
	}
	for (int kind = 0; kind < KINDS; kind++) {
		snprintf(what, sizeof(what), "nothing but calls, %-8s", kinds[kind]);
		print_ratio(what, way, ratios[kind], ROUNDS);
		printf(", %+.0f ns for a call\n", /* of two, an allocation and its free */
			quantile(more[kind], ROUNDS, 0.5) / (!strcmp(kinds[kind], "allocate") ? 2 : 1));
	}
	return true;
}

static bool bench_programs(bool can_watch)
{
	bool has_cupti = !access(getenv("FED"), R_OK), good = true;

	for (size_t i = 0; good && i < 2 * WAYS; i++) {
		const struct way *way = i < WAYS ? &decode_ways[i] : &client_ways[i - WAYS];
		if ((way->kernel && !can_watch) || (way->cupti && !has_cupti))
			continue;
		good = i < WAYS ? bench_decode(way) : bench_client(way);
	}
	return good;
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
	return !system(command) && !setenv("KVSHARE_SOFTCUDA", path, 1) && !setenv("LD_LIBRARY_PATH", folder, 1);
}

/* What the commands above have in their environment. */
static void set_environment(const char *trace)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
	static const char *const paths[][2] = {{"BUILD", ""}, {"FED", "tests/profiler/fed/libcuda.so.1"},
		{"FAKE", "tests/profiler/fake-cupti/full/libcupti.so.13"}, {"SHIM", "libkvshare-preload.so"}};
	char folder[PATH_MAX - 64], path[PATH_MAX];

	if (!realpath(build, folder))
		return; /* nothing will run */
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, paths[i][1]);
		setenv(paths[i][0], path, 1);
	}
	setenv("TRACE", trace, 1);
}

int main(void)
{
	char trace[] = "/tmp/kvshare-watch-bench-XXXXXX", driver[128];
	bool can_watch = !kvs_watch_check(), good;
	int fd;

	if (!can_watch)
		printf("watching from the kernel is not measured: %s\n", kvs_error());
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = mkstemp(trace);
	close(fd);
	set_environment(trace);
	good = fd >= 0 && own_driver(driver, sizeof(driver)) && (!can_watch || bench_calls(trace)) &&
	       bench_own_calls(trace) && bench_programs(can_watch);
	unlink(trace);
	unlink(driver);
	*strrchr(driver, '/') = '\0';
	rmdir(driver);
	if (!good)
		fprintf(stderr, "watch_bench: %s\n", *kvs_error() ? kvs_error() : "kvshare-run failed");
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
