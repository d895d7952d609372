/*
 * tests/bench/shim_bench.c: what the shim adds to calls of a program: launches that touch no KV cache, launches that it
 * patches, allocations with their frees; and an end-to-end client. Not a test: nothing here fails because a machine is slow.
 *
 * Calls through the shim and past it take turns within one process (tests/clients/pairs), and differences are compared, so
 * that a noisy machine is noisy for both; without a shim that program compares the driver with itself, which shows the error.
 * The client runs with and without the shim in turn, and each run is compared with the one beside it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 5
#define NAMES 3
#define CLIENT_ROUNDS 15
static const char *const names[NAMES] = {"launch", "store", "allocate"};
static double driver[NAMES][ROUNDS], more[2][NAMES][ROUNDS]; /* the driver's time; with and without a shim */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
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
static int pairs(const char *build, int shared, int round)
{
	FILE *output = start(build, shared, "--owners 0,0 --layout slab:layers=2,k=2MiB,v=2MiB", "pairs");
	char name[32];
	double plain, difference;

	while (output && fscanf(output, "%31s %lf %lf", name, &plain, &difference) == 3) {
		for (int i = 0; i < NAMES; i++) {
			if (strcmp(names[i], name) != 0)
				continue;
			driver[i][round] = plain;
			more[shared][i][round] = difference;
		}
	}
	return output && !pclose(output);
}

/* Its time; 0: it failed. */
static double decoder(const char *build, int shared)
{
	double begun = now_ns();
	FILE *output =
		start(build, shared, "--owners 0,1,0,1 --layout slab:layers=4,k=4MiB,v=4MiB", "decoder tokens=64");
	char line[4096];

	while (output && fgets(line, sizeof(line), output))
		;
	return output && !pclose(output) ? now_ns() - begun : 0;
}

static void calls_print(void)
{
	printf("%-10s %16s %12s %10s   (with no shim at all)\n", "the shim", "the driver, ns", "more, ns", "ratio");
	for (int i = 0; i < NAMES; i++) {
		double plain = median(driver[i], ROUNDS), with = median(more[1][i], ROUNDS);

		printf("%-10s %16.0f %12.1f %10.3f   %.1f; runs:", names[i], plain, with, (plain + with) / plain,
			median(more[0][i], ROUNDS));
		for (int round = 0; round < ROUNDS; round++)
			printf(" %.1f", more[1][i][round]);
		printf("\n");
	}
}

int main(void)
{
	const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
	double plain[CLIENT_ROUNDS], ratio[CLIENT_ROUNDS];

	for (int round = 0; round < ROUNDS; round++) {
		if (!pairs(build, 0, round) || !pairs(build, 1, round)) {
			fprintf(stderr, "shim_bench: a client failed\n");
			return 1;
		}
	}
	calls_print();
	for (int round = 0; round < CLIENT_ROUNDS; round++) {
		int first = round & 1; /* so that neither always comes second */
		double ns[2];

		ns[first] = decoder(build, first);
		ns[!first] = decoder(build, !first);
		if (ns[0] <= 0 || ns[1] <= 0) {
			fprintf(stderr, "shim_bench: the decoder failed\n");
			return 1;
		}
		plain[round] = ns[0];
		ratio[round] = ns[1] / ns[0];
	}
	printf("%-10s %16.0f %12s %10.3f   runs: %.3f to %.3f\n", "decoder", median(plain, CLIENT_ROUNDS), "",
		median(ratio, CLIENT_ROUNDS), ratio[0], ratio[CLIENT_ROUNDS - 1]);
	return 0;
}
