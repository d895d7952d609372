/*
 * tests/bench/program_bench.c: kvshare-run as a whole on the host device: decode speed full and shared, time to the
 * first token, and the start-up time of the program. Not a test: nothing here fails because a machine is slow.
 *
 * Full and shared runs alternate in one run of this program, and medians are compared, so that a noisy machine is noisy
 * for both. Start-up is compared with /bin/true, the least time in which a program starts.
 */
#include <jansson.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS 7
#define STARTS 31
#define OWNERS "0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15"
#define GENERATE                                                                                                       \
	"%s/kvshare-run generate -m tests/models/storyworld-3m -p 'Anna put the red key' -n 64 --device host --json "

extern char **environ;

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

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

/* decode_tokens_per_s and prefill_s of one run; false if it failed. */
static bool generate(const char *build, const char *options, double *decode, double *prefill)
{
	char command[512];
	FILE *output;
	json_t *report;
	const json_t *latency;

	snprintf(command, sizeof(command), GENERATE "%s", build, options);
	output = popen(command, "r");
	if (!output)
		return false;
	report = json_loadf(output, 0, NULL);
	pclose(output);
	latency = json_object_get(report, "latency");
	*decode = json_number_value(json_object_get(latency, "decode_tokens_per_s"));
	*prefill = json_number_value(json_object_get(latency, "prefill_s"));
	json_decref(report);
	return *decode > 0;
}

static int bench_generate(const char *build)
{
	double full[ROUNDS], shared[ROUNDS], first[ROUNDS], ignored;

	for (int round = 0; round < ROUNDS; round++) {
		if (!generate(build, "", &full[round], &first[round]) ||
			!generate(build, "--owners " OWNERS, &shared[round], &ignored)) {
			fprintf(stderr, "program_bench: kvshare-run failed\n");
			return EXIT_FAILURE;
		}
	}
	double full_rate = median(full, ROUNDS), shared_rate = median(shared, ROUNDS);
	printf("decode, 16 layers own KV       %8.1f tokens/s   %5.2f of the aim (50)\n", full_rate, full_rate / 50);
	printf("decode, 12 of 16 own KV        %8.1f tokens/s   %5.2f of full\n", shared_rate, shared_rate / full_rate);
	printf("first token, 5-token prompt    %8.2f ms         %5.2f of a decode step\n", 1000 * median(first, ROUNDS),
		median(first, ROUNDS) * full_rate);
	return EXIT_SUCCESS;
}

static double start_s(char *const argv[])
{
	posix_spawn_file_actions_t quiet;
	double start = now_s();
	pid_t child;
	int status;

	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", 1, 0);
	if (posix_spawn(&child, argv[0], &quiet, NULL, argv, environ) || waitpid(child, &status, 0) != child)
		start = -1e9; /* shows as an absurd figure */
	posix_spawn_file_actions_destroy(&quiet);
	return now_s() - start;
}

static void bench_start(const char *build)
{
	char program[256];
	char *help[] = {program, "--help", NULL}, *nothing[] = {"/bin/true", NULL};
	double helps[STARTS], nothings[STARTS];

	snprintf(program, sizeof(program), "%s/kvshare-run", build);
	for (int i = 0; i < STARTS; i++) {
		helps[i] = start_s(help);
		nothings[i] = start_s(nothing);
	}
	double help_s = median(helps, STARTS), nothing_s = median(nothings, STARTS);
	printf("kvshare-run --help             %8.2f ms         %5.2f of /bin/true, %.2f of the aim (20 ms)\n",
		1000 * help_s, help_s / nothing_s, help_s / 0.020);
}

int main(void)
{
	const char *build = getenv("BUILD");
	int status = bench_generate(build ? build : "build");

	bench_start(build ? build : "build");
	return status;
}
