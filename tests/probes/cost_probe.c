/*
 * What the five calls of a block's life cost, by its size and by how many there are, and whether one call over many
 * mappings is cheaper than a call for each.
 *
 * A round creates `blocks` handles, maps them side by side, sets access, unmaps and releases them, and times each of the
 * five loops; `call` tells whether set-access and unmap were called once for the range or once for each block. All figures
 * are of a block: the loop's time over the number of blocks.
 */
#include "probe.h"

#include <stdlib.h>

enum { BLOCKS_MAX = 256, ROUNDS_MAX = 200, ROUNDS_QUICK = 3 };
enum operation { CREATE, MAP, SET_ACCESS, UNMAP, RELEASE, OPERATIONS };

static const char *const operation_names[OPERATIONS] = {"create", "map", "set-access", "unmap", "release"};
static double samples[OPERATIONS][ROUNDS_MAX];

struct shape {
	size_t block_bytes, blocks;
	bool one_call; /* of set-access and of unmap, over all blocks */
};

static void round_run(const struct shape *shape, CUdeviceptr at, double *loop_us)
{
	static CUmemGenericAllocationHandle handles[BLOCKS_MAX];
	size_t bytes = shape->block_bytes, calls = shape->one_call ? 1 : shape->blocks;
	size_t call_bytes = bytes * shape->blocks / calls;
	double times[OPERATIONS + 1];

	times[CREATE] = now_us();
	for (size_t i = 0; i < shape->blocks; i++)
		handles[i] = handle_new(bytes);
	times[MAP] = now_us();
	for (size_t i = 0; i < shape->blocks; i++)
		must(cu->cuMemMap(at + i * bytes, bytes, 0, handles[i], 0));
	times[SET_ACCESS] = now_us();
	for (size_t i = 0; i < calls; i++)
		must(set_access(at + i * call_bytes, call_bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	times[UNMAP] = now_us();
	for (size_t i = 0; i < calls; i++)
		must(cu->cuMemUnmap(at + i * call_bytes, call_bytes));
	times[RELEASE] = now_us();
	for (size_t i = 0; i < shape->blocks; i++)
		must(cu->cuMemRelease(handles[i]));
	times[OPERATIONS] = now_us();
	for (int i = 0; i < OPERATIONS; i++)
		loop_us[i] = (times[i + 1] - times[i]) / shape->blocks;
}

static void shape_measure(const struct shape *shape, double budget_us)
{
	size_t bytes = shape->block_bytes * shape->blocks, rounds = 0;
	CUdeviceptr at = reservation_new(bytes);
	double start = now_us(), loop_us[OPERATIONS];

	round_run(shape, at, loop_us); /* the first builds page tables that the next ones find */
	do {
		round_run(shape, at, loop_us);
		for (int i = 0; i < OPERATIONS; i++)
			samples[i][rounds] = loop_us[i];
		rounds++;
	} while (rounds < (quick ? ROUNDS_QUICK : ROUNDS_MAX) && now_us() - start < budget_us);
	must(cu->cuMemAddressFree(at, bytes));
	for (int i = 0; i < OPERATIONS; i++) {
		const char *call = i == SET_ACCESS || i == UNMAP ? shape->one_call ? "one" : "each" : "each";

		probe_row("%s\t%g\t%zu\t%s\t%.2f\t%.2f\t%zu", operation_names[i], shape->block_bytes / 1048576.0,
			shape->blocks, call, percentile(samples[i], rounds, 50), percentile(samples[i], rounds, 99),
			rounds);
	}
}

static void run(void)
{
	static const size_t sizes[] = {2, 4, 8, 16, 32, 64, 128, 256}, counts[] = {1, 8, 64, BLOCKS_MAX};
	size_t most = free_memory() / 4;
	double budget_us = quick ? 1e4 : 2e5;

	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
			struct shape shape = {.block_bytes = sizes[s] << 20, .blocks = counts[c]};

			/* A block is whole granules, and all of them a quarter of the free memory at most. */
			if (shape.block_bytes % granule || shape.block_bytes * shape.blocks > most)
				continue;
			if (quick && (shape.block_bytes > 8 << 20 || shape.blocks > 8))
				continue;
			for (int one = 0; one <= (shape.blocks > 1); one++) {
				shape.one_call = one;
				if (probe_time_is_short())
					probe_row("all\t%zu\t%zu\t%s\tno time left", sizes[s], counts[c],
						one ? "one" : "each");
				else
					shape_measure(&shape, budget_us);
			}
		}
	}
}

static const char *const columns[] = {
	"operation", "block_mib", "blocks", "calls", "median_us", "p99_us", "rounds", NULL};
static const struct probe probe = {
	.name = "cost",
	.question = "What do create, map, set-access, unmap and release cost a block, by size, count and calls?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
