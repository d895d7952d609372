/*
 * tests/bench/shim_bench.c: what the shim adds to calls of a program: launches that touch no KV cache, launches that it
 * patches, allocations with their frees; and an end-to-end client. Not a test: nothing here fails because a machine is slow.
 *
 * The program runs with and without the shim in turn, and medians are compared, so that a noisy machine is noisy for both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 5
#define NAMES 4
static const char *const names[NAMES] = {"launch", "store", "allocate", "decoder"};
static double figures[2][NAMES][ROUNDS];

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static FILE *start(const char *build, int shared, const char *layout, const char *program)
{
	char command[2048], before[1024];

	if (shared)
		snprintf(before, sizeof(before), "%s/kvshare-run exec --device host %s -- ", build, layout);
	else
		snprintf(before, sizeof(before), "LD_LIBRARY_PATH=%s/softcuda ", build);
	snprintf(command, sizeof(command), "%s%s/tests/clients/%s %s/tests/clients/decoder_kernels.so 2>/dev/null",
		before, build, program, build);
	return popen(command, "r");
}

/* False: it failed. */
static int rates(const char *build, int shared, int round)
{
	FILE *output = start(build, shared, "--owners 0,0 --layout slab:layers=2,k=2MiB,v=2MiB", "rates");
	char name[32];
	double value;

	while (output && fscanf(output, "%31s %lf", name, &value) == 2)
		for (int i = 0; i < NAMES; i++)
			if (!strcmp(names[i], name))
				figures[shared][i][round] = value;
	return output && !pclose(output);
}

static int decoder(const char *build, int shared, int round)
{
	double begun = now_ns();
	FILE *output =
		start(build, shared, "--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB", "decoder tokens=64");
	char line[4096];

	while (output && fgets(line, sizeof(line), output))
		;
	figures[shared][NAMES - 1][round] = now_ns() - begun;
	return output && !pclose(output);
}

int main(void)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : "build";

	for (int round = 0; round < ROUNDS; round++) {
		for (int shared = 0; shared < 2; shared++) {
			if (!rates(build, shared, round) || !decoder(build, shared, round)) {
				fprintf(stderr, "shim_bench: a client failed\n");
				return 1;
			}
		}
	}
	printf("%-10s %14s %14s %10s %8s\n", "the shim", "without, ns", "with, ns", "more, ns", "ratio");
	for (int i = 0; i < NAMES; i++) {
		for (int shared = 0; shared < 2; shared++)
			qsort(figures[shared][i], ROUNDS, sizeof(double), compare);
		double plain = figures[0][i][ROUNDS / 2], with = figures[1][i][ROUNDS / 2];

		printf("%-10s %14.0f %14.0f %10.0f %8.3f\n", names[i], plain, with, with - plain, with / plain);
	}
	return 0;
}
