/*
 * tests/clients/pairs.c: times calls of CUDA's driver API that go through a library in front of the driver, and, in turn with
 * them, the same calls to the driver itself: launches that touch no KV cache, launches that store into the last layer of a slab
 * of two layers, allocations with their frees.
 *
 * usage: pairs MODULE. Prints for each kind the driver's nanoseconds a call, and how many more it is through the library: medians
 * of many short rounds, and of the differences within each. The stream is held by a host function meanwhile, so that nothing
 * runs but the thread that calls. By itself the program compares the driver with itself: that should give 0 more.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 1001
#define CALLS 64                      /* of launches in a round */
#define ALLOCATIONS 4                 /* which take a thousand times as long */
#define LAYER_BYTES ((size_t)2 << 20) /* K, and V, of a layer */

struct calls {
	__typeof__(cuLaunchKernel) *launch;
	__typeof__(cuMemAlloc_v2) *allocate;
	__typeof__(cuMemFree_v2) *release;
};
static CUfunction project, store;
static CUdeviceptr x, row, cache;
static sem_t go;

static void check(CUresult result, const char *what)
{
	if (!result)
		return;
	fprintf(stderr, "pairs: %s: error %d\n", what, result);
	exit(1);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* By glibc's own dlsym, or by the one that the program is given. */
static void calls_find(struct calls *calls, int real)
{
	void *cuda = dlopen("libcuda.so.1", RTLD_LAZY), *libc = dlopen("libc.so.6", RTLD_LAZY);
	__typeof__(dlsym) *find = dlsym;

	if (real && libc)
		*(void **)&find = dlsym(libc, "dlsym");
	if (!cuda || !find) {
		fprintf(stderr, "pairs: no driver\n");
		exit(1);
	}
	*(void **)&calls->launch = find(cuda, "cuLaunchKernel");
	*(void **)&calls->allocate = find(cuda, "cuMemAlloc_v2");
	*(void **)&calls->release = find(cuda, "cuMemFree_v2");
}

static void launch_plain(const struct calls *calls, int through)
{
	unsigned seed = 1;
	int width = 1;
	CUdeviceptr out = x + 1024;

	(void)through;
	check(calls->launch(project, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x, &out, &seed, &width}, NULL),
		"cuLaunchKernel");
}

/* The driver itself would not store into memory of a layer that borrows; so it stores into the other. */
static void launch_store(const struct calls *calls, int through)
{
	int width = 1;
	CUdeviceptr k = cache + (through ? 2 * LAYER_BYTES : 0);

	check(calls->launch(store, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x, &row, &k, &width}, NULL),
		"cuLaunchKernel");
}

static void allocate(const struct calls *calls, int through)
{
	CUdeviceptr memory;

	(void)through;
	check(calls->allocate(&memory, 65536), "cuMemAlloc");
	check(calls->release(memory), "cuMemFree");
}

static void CUDA_CB hold(void *arg)
{
	(void)arg;
	while (sem_wait(&go))
		;
}

static double round_ns(const struct calls *calls, void (*call)(const struct calls *, int), int through, int held)
{
	int count = held ? CALLS : ALLOCATIONS;
	double start;

	if (held)
		check(cuLaunchHostFunc(NULL, hold, NULL), "cuLaunchHostFunc");
	start = now_ns();
	for (int i = 0; i < count; i++)
		call(calls, through);
	start = (now_ns() - start) / count;
	if (held)
		sem_post(&go);
	check(cuCtxSynchronize(), "cuCtxSynchronize");
	return start;
}

static void measure(const char *name, void (*call)(const struct calls *, int), int held)
{
	static double plain[ROUNDS], more[ROUNDS];
	struct calls calls[2];

	calls_find(&calls[0], 1);
	calls_find(&calls[1], 0);
	for (int round = -1; round < ROUNDS; round++) { /* the first is to warm up */
		int first = round & 1;                  /* so that neither always comes second */
		double ns[2];

		ns[first] = round_ns(&calls[first], call, first, held);
		ns[!first] = round_ns(&calls[!first], call, !first, held);
		if (round < 0)
			continue;
		plain[round] = ns[0];
		more[round] = ns[1] - ns[0];
	}
	qsort(plain, ROUNDS, sizeof(*plain), compare);
	qsort(more, ROUNDS, sizeof(*more), compare);
	printf("%s %.1f %.1f\n", name, plain[ROUNDS / 2], more[ROUNDS / 2]);
}

/* The thread stays on the processor that it is on; the driver's own threads, which exist already, go where they want. */
static void stay(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
	CUcontext context;
	CUdevice device;
	CUmodule module;

	if (argc != 2 || sem_init(&go, 0, 0))
		return 2;
	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuModuleLoad(&module, argv[1]), "cuModuleLoad");
	check(cuModuleGetFunction(&project, module, "client_project"), "client_project");
	check(cuModuleGetFunction(&store, module, "client_set_rows"), "client_set_rows");
	check(cuMemAlloc(&cache, 4 * LAYER_BYTES), "cuMemAlloc");
	check(cuMemAlloc(&x, 4096), "cuMemAlloc");
	row = x + 2048;
	check(cuMemsetD8(x, 0, 4096), "cuMemsetD8");
	check(cuCtxSynchronize(), "cuCtxSynchronize");
	stay();
	measure("launch", launch_plain, 1);
	measure("store", launch_store, 1);
	measure("allocate", allocate, 0);
	return 0;
}
