/*
 * A plain CUDA program to be watched: it opens the driver that it is told, and makes a known number of calls.
 *
 * usage: watched_client DRIVER MODE [N]
 *   rounds     N rounds, each of 5 calls: an allocation of 4096 bytes, a copy there and back, a wait, a free
 *   threads    the same on 4 threads at once
 *   late       half a second, or $LATE_MS, before it opens the driver, then N rounds
 *   family     N rounds; a child that makes 2 calls, which fail; a child that becomes another program, with N rounds
 *   forever    a line "ready" after the first round, then rounds until it is killed
 * After N rounds it prints how many calls softcuda has counted for them.
 */
#include "../../driver/softcuda/softcuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 4096
#define THREADS 4
#define TEXT(name) TEXT_OF(name)
#define TEXT_OF(name) #name
/* clang-format off */
#define FUNCTIONS(F) \
	F(cuInit) F(cuDeviceGet) F(cuDevicePrimaryCtxRetain) F(cuCtxSetCurrent) F(cuCtxSynchronize) \
	F(cuMemAlloc) F(cuMemFree) F(cuMemcpyHtoD) F(cuMemcpyDtoH)
/* clang-format on */

static struct {
#define MEMBER(name) __typeof__(name) *name;
	FUNCTIONS(MEMBER)
	softcuda_get_counters_fn *count;
} cu;
static CUcontext context;
static const char *driver;
static int rounds;

static void check(CUresult result, const char *what)
{
	if (result == CUDA_SUCCESS)
		return;
	fprintf(stderr, "watched_client: %s: %d\n", what, result);
	exit(1);
}

static void open_driver(void)
{
	void *library = dlopen(driver, RTLD_NOW);
	CUdevice device;

	if (!library) {
		fprintf(stderr, "watched_client: %s\n", dlerror());
		exit(1);
	}
#define FIND(name) cu.name = (__typeof__(cu.name))dlsym(library, TEXT(name));
	FUNCTIONS(FIND)
	cu.count = (softcuda_get_counters_fn *)dlsym(library, SOFTCUDA_GET_COUNTERS);
	check(cu.cuInit(0), "cuInit");
	check(cu.cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cu.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cu.cuCtxSetCurrent(context), "cuCtxSetCurrent");
}

static void run_round(void)
{
	static __thread char data[BYTES];
	CUdeviceptr memory;

	check(cu.cuMemAlloc(&memory, BYTES), "cuMemAlloc");
	check(cu.cuMemcpyHtoD(memory, data, BYTES), "cuMemcpyHtoD");
	check(cu.cuMemcpyDtoH(data, memory, BYTES / 2), "cuMemcpyDtoH");
	check(cu.cuCtxSynchronize(), "cuCtxSynchronize");
	check(cu.cuMemFree(memory), "cuMemFree");
}

static void run_rounds(void)
{
	struct softcuda_counters before, after;

	cu.count(&before);
	for (int i = 0; i < rounds; i++)
		run_round();
	cu.count(&after);
	printf("%zu\n", after.calls - before.calls);
	fflush(stdout);
}

static void *run_thread(void *arg)
{
	check(cu.cuCtxSetCurrent(context), "cuCtxSetCurrent");
	for (int i = 0; i < rounds; i++)
		run_round();
	return arg;
}

static void run_threads(void)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, run_thread, NULL))
			exit(1);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void run_child(char *const *command)
{
	pid_t child = fork();
	CUdeviceptr memory;

	if (child < 0)
		exit(1);
	if (child) {
		waitpid(child, NULL, 0);
		return;
	}
	if (command)
		execv("/proc/self/exe", command);
	cu.cuMemAlloc(&memory, BYTES); /* CUDA is not for children that were only forked */
	cu.cuMemFree(0);
	_exit(3);
}

static void run_forever(void)
{
	run_round();
	puts("ready");
	fflush(stdout);
	for (;;) {
		run_round();
		usleep(2000);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[2] : "";
	char *again[] = {argv[0], argc > 1 ? argv[1] : "", "rounds", argc > 3 ? argv[3] : "1", NULL};

	if (argc < 3)
		return 2;
	driver = argv[1];
	rounds = atoi(again[3]);
	if (!strcmp(mode, "late"))
		usleep(1000 * (getenv("LATE_MS") ? (unsigned)atoi(getenv("LATE_MS")) : 500));
	open_driver();
	if (!strcmp(mode, "forever"))
		run_forever();
	else if (!strcmp(mode, "threads"))
		run_threads();
	else
		run_rounds();
	if (!strcmp(mode, "family")) {
		run_child(NULL);
		run_child(again);
	}
	return 0;
}
