/*
 * tests/clients/remake.c: programs that make a cache of 8 tensors of one size, K and V of 4 layers, and free and make it again in
 * many ways, beside other memory of that size. Each stores a byte to every tensor, 1 to 8 in order, and prints what each shows then.
 *
 * usage: remake scratch|alone|order|moved|between|two|short|rounds|graph|relaxed|tail|small|cycles
 *   scratch  one more allocation, which stays while the cache is freed and made again; then it is freed, and the cache made once more
 *   alone    the first tensor is freed and made again; then all are
 *   order    two tensors are freed, and made again in the other order; then all are
 *   moved    each tensor is copied to a new one, and freed
 *   between  an allocation that is freed at once before each tensor
 *   two      a second cache; the first is freed and made again; then both are
 *   short    as many tensors as the device has memory for, each stored to when it is made, and once more at the end
 *   rounds   the cache is made and freed three times
 *   graph    six tensors and a graph that stores 17 to 22 to them; two more; zeros are stored to all; then the graph runs
 *   relaxed  six tensors; while a stream is captured, two more
 *   tail     tensors with room behind them, which the program uses too
 *   small    tensors of half a block
 *   cycles   the cache is made and freed 300 times: by how much the process grows
 */
#include <cuda.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define TENSORS 8

static size_t bytes = 2 * MIB;

static void check(CUresult result, const char *what)
{
	if (result == CUDA_SUCCESS)
		return;
	printf("%s: %d\n", what, result);
	exit(1);
}
#define CHECK(call) check(call, #call)

static void make(CUdeviceptr *tensor, int from, int to)
{
	for (int i = from; i < to; i++)
		CHECK(cuMemAlloc(&tensor[i], bytes));
}

static void end(CUdeviceptr *tensor, int count)
{
	for (int i = 0; i < count; i++)
		CHECK(cuMemFree(tensor[i]));
}

static unsigned shown(CUdeviceptr address)
{
	unsigned char byte = 0;

	CHECK(cuMemcpyDtoH(&byte, address, 1));
	return byte;
}

static void print(const CUdeviceptr *tensor, int count)
{
	for (int i = 0; i < count; i++)
		printf("%u%c", shown(tensor[i]), i + 1 < count ? ' ' : '\n');
}

static void store(const CUdeviceptr *tensor, int count, int first)
{
	for (int i = 0; i < count; i++)
		CHECK(cuMemsetD8(tensor[i], (unsigned char)(first + i), bytes));
}

static void store_and_print(const CUdeviceptr *tensor, int first)
{
	store(tensor, TENSORS, first);
	print(tensor, TENSORS);
}

static void scratch(void)
{
	CUdeviceptr tensor[TENSORS], other;

	make(tensor, 0, TENSORS);
	make(&other, 0, 1);
	end(tensor, TENSORS);
	make(tensor, 0, TENSORS);
	store(&other, 1, 99);
	store_and_print(tensor, 1);
	print(&other, 1);
	end(tensor, TENSORS);
	end(&other, 1);
	make(tensor, 0, TENSORS);
	store_and_print(tensor, 1);
}

static void alone(void)
{
	CUdeviceptr tensor[TENSORS];

	make(tensor, 0, TENSORS);
	for (int i = 0; i < 2; i++) {
		end(tensor, i ? TENSORS : 1);
		make(tensor, 0, i ? TENSORS : 1);
		store_and_print(tensor, 1);
	}
}

static void order(void)
{
	CUdeviceptr tensor[TENSORS];

	make(tensor, 0, TENSORS);
	store_and_print(tensor, 1);
	end(tensor + 4, 1);
	end(tensor + 6, 1);
	make(tensor, 6, 7);
	make(tensor, 4, 5);
	store_and_print(tensor, 1);
	end(tensor, TENSORS);
	make(tensor, 0, TENSORS);
	store_and_print(tensor, 1);
}

static void moved(void)
{
	CUdeviceptr tensor[TENSORS], made;

	make(tensor, 0, TENSORS);
	store(tensor, TENSORS, 1);
	for (int i = 0; i < TENSORS; i++) {
		make(&made, 0, 1);
		CHECK(cuMemcpyDtoD(made, tensor[i], bytes));
		end(&tensor[i], 1);
		tensor[i] = made;
	}
	store_and_print(tensor, 1);
	end(tensor, TENSORS);
	make(tensor, 0, TENSORS);
	store_and_print(tensor, 1);
}

static void between(void)
{
	CUdeviceptr tensor[TENSORS], other;

	for (int i = 0; i < TENSORS; i++) {
		make(&other, 0, 1);
		end(&other, 1);
		make(tensor, i, i + 1);
	}
	store_and_print(tensor, 1);
}

static void two(void)
{
	CUdeviceptr tensor[2][TENSORS];

	make(tensor[0], 0, TENSORS);
	make(tensor[1], 0, TENSORS);
	end(tensor[0], TENSORS);
	make(tensor[0], 0, TENSORS);
	for (int i = 0; i < 2; i++)
		store(tensor[i], TENSORS, 1 + 10 * i);
	for (int i = 0; i < 2; i++)
		print(tensor[i], TENSORS);
	end(tensor[0], TENSORS);
	end(tensor[1], TENSORS);
	make(tensor[0], 0, TENSORS);
	store_and_print(tensor[0], 1);
}

static void too_short(void)
{
	CUdeviceptr tensor[TENSORS];
	int count = 0;

	while (count < TENSORS && !cuMemAlloc(&tensor[count], bytes)) {
		store(&tensor[count], 1, count + 1);
		count++;
	}
	print(tensor, count);
	store(tensor, count, 11);
	print(tensor, count);
	end(tensor, count);
}

static void rounds(void)
{
	CUdeviceptr tensor[TENSORS];

	for (int i = 0; i < 3; i++) {
		for (int t = 0; t < TENSORS; t++) {
			make(tensor, t, t + 1);
			store(&tensor[t], 1, t + 1);
		}
		store_and_print(tensor, 1);
		end(tensor, TENSORS);
	}
}

static CUgraph captured(const CUdeviceptr *tensor, int count, CUstream stream)
{
	CUgraph graph;

	CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	for (int i = 0; i < count; i++)
		CHECK(cuMemsetD8Async(tensor[i], (unsigned char)(17 + i), bytes, stream));
	CHECK(cuStreamEndCapture(stream, &graph));
	return graph;
}

static void graph(void)
{
	CUdeviceptr tensor[TENSORS];
	CUgraphExec exec;
	CUstream stream;

	CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	make(tensor, 0, 6);
	CHECK(cuGraphInstantiate(&exec, captured(tensor, 6, stream), 0));
	make(tensor, 6, TENSORS);
	for (int i = 0; i < TENSORS; i++)
		store(&tensor[i], 1, 0);
	CHECK(cuCtxSynchronize());
	CHECK(cuGraphLaunch(exec, stream));
	CHECK(cuStreamSynchronize(stream));
	print(tensor, TENSORS);
}

static void relaxed(void)
{
	CUdeviceptr tensor[TENSORS];
	CUstream stream;
	CUgraph graph = NULL;

	CHECK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
	make(tensor, 0, 6);
	store(tensor, 6, 1);
	CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	CHECK(cuMemsetD8Async(tensor[0], 9, 16, stream));
	make(tensor, 6, TENSORS);
	printf("end %d\n", cuStreamEndCapture(stream, &graph));
	store_and_print(tensor, 1);
}

static void small(void)
{
	CUdeviceptr tensor[TENSORS];

	bytes = MIB;
	make(tensor, 0, TENSORS);
	store_and_print(tensor, 1);
	end(tensor, TENSORS);
}

static void tail(void)
{
	CUdeviceptr tensor[TENSORS], behind[TENSORS];

	bytes = 7 * MIB;
	make(tensor, 0, TENSORS);
	for (int i = 0; i < TENSORS; i++)
		behind[i] = tensor[i] + 5 * MIB;
	bytes = MIB;
	store_and_print(behind, 1);
	end(tensor, TENSORS);
}

static long resident_kib(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long size = 0, resident = 0;

	if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
		resident = 0;
	if (file)
		fclose(file);
	return resident * 4;
}

static void cycles(void)
{
	CUdeviceptr tensor[TENSORS];
	long before = 0;

	for (int i = 0; i < 400; i++) {
		if (i == 100)
			before = resident_kib();
		make(tensor, 0, TENSORS);
		end(tensor, TENSORS);
	}
	printf("%ld KiB more\n", resident_kib() - before);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} programs[] = {{"scratch", scratch}, {"alone", alone}, {"order", order}, {"moved", moved},
		{"between", between}, {"two", two}, {"short", too_short}, {"rounds", rounds}, {"graph", graph},
		{"relaxed", relaxed}, {"tail", tail}, {"small", small}, {"cycles", cycles}};
	CUcontext context;
	CUdevice device;

	CHECK(cuInit(0));
	CHECK(cuDeviceGet(&device, 0));
	CHECK(cuDevicePrimaryCtxRetain(&context, device));
	CHECK(cuCtxSetCurrent(context));
	for (size_t i = 0; argc == 2 && i < sizeof(programs) / sizeof(*programs); i++) {
		if (strcmp(argv[1], programs[i].name))
			continue;
		programs[i].run();
		return 0;
	}
	fprintf(stderr, "usage: remake PROGRAM\n");
	return 2;
}
