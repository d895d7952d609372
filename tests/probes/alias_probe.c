/*
 * When does a read through one address of a block see a write through another?
 *
 * Each row writes a new value into all words through one address, reads them through an address and counts the reads that
 * gave the old value, over many rounds. `address` is where the reads go: `other` is the question, `same` the control. Readers
 * have read the words before, so that they are cached where caches go by address. The CUDA Programming Guide (4.16.5.3)
 * promises what is ordered by launches; within a kernel, and between kernels that overlap, it asks for fence.proxy.alias.
 */
#include "probe_graph.h"

#include <stdio.h>

enum { BLOCKS = 32, THREADS = 128, WORDS = BLOCKS * THREADS, GRID_WORDS = 512, ROUNDS = 200, ROUNDS_QUICK = 4 };
enum { STALE, GAVE_UP, FLAG_READ, FLAG_WRITTEN, COUNTERS };

static struct range owner, alias;
static CUdeviceptr counters; /* [COUNTERS] words */
static CUstream stream;
static unsigned value; /* the last that was written; every round has one of its own */

/* What a round reads through: `owner` for the control. */
static CUdeviceptr reads_at;

static unsigned rounds_wanted(void)
{
	return quick ? ROUNDS_QUICK : ROUNDS;
}

/* ---- what rounds are made of ---- */

static CUresult read_through(CUstream on, unsigned expected)
{
	CUdeviceptr stale = counters;
	unsigned count = WORDS;
	int wait = 0;
	void *params[] = {&reads_at, &expected, &count, &wait, &stale};

	return launch(probe_kernel("probe_reader"), BLOCKS, THREADS, on, params);
}

static CUresult write_by_kernel(CUstream on)
{
	return launch_fill(on, owner.at, value, WORDS);
}

static CUresult write_by_memset(CUstream on)
{
	return cu->cuMemsetD32Async(owner.at, value, WORDS, on);
}

static CUresult write_by_copy(CUstream on)
{
	CUdeviceptr from = owner.at + WORDS * sizeof(unsigned);
	CUresult result = cu->cuMemsetD32Async(from, value, WORDS, on);

	return result ? result : cu->cuMemcpyDtoDAsync(owner.at, from, WORDS * sizeof(unsigned), on);
}

static CUresult (*writer)(CUstream on);

static CUresult round_in_stream(void)
{
	CUresult result;

	value++;
	result = writer(stream);
	return result ? result : read_through(stream, value);
}

/* The writer in another stream, an event between them. */
static CUresult round_by_event(void)
{
	static CUstream other;
	static CUevent written;
	CUresult result;

	if (!other) {
		must(cu->cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
		must(cu->cuEventCreate(&written, CU_EVENT_DISABLE_TIMING));
	}
	value++;
	must(cu->cuStreamSynchronize(stream)); /* the reader of the round before is through */
	result = write_by_kernel(other);
	if (!result)
		result = cu->cuEventRecord(written, other);
	if (!result)
		result = cu->cuStreamWaitEvent(stream, written, CU_EVENT_WAIT_DEFAULT);
	return result ? result : read_through(stream, value);
}

/* ---- within a kernel ---- */

static int fence, neighbour;

static CUresult round_in_block(void)
{
	CUdeviceptr stale = counters;
	void *params[] = {&owner.at, &reads_at, &value, &fence, &neighbour, &stale};

	value++;
	return launch(probe_kernel("probe_alias_block"), BLOCKS, THREADS, stream, params);
}

/* A cooperative launch, in which all blocks are there at once and so can wait for each other. */
static CUresult round_in_grid(void)
{
	__typeof__(cuLaunchCooperativeKernel) *launch_together = driver_function(cuLaunchCooperativeKernel);
	unsigned long long looks = cu->kind == KVS_DEVICE_HOST ? 1ull << 31 : 1ull << 21; /* some seconds */
	CUdeviceptr stale = counters, flags = counters + FLAG_READ * sizeof(unsigned);
	unsigned count = GRID_WORDS;
	void *params[] = {&owner.at, &reads_at, &value, &count, &fence, &flags, &looks, &stale};
	CUresult result = cu->cuMemsetD32Async(flags, 0, 2, stream);

	value++;
	if (!launch_together)
		return CUDA_ERROR_NOT_SUPPORTED;
	return result ? result : launch_together(probe_kernel("probe_alias_grid"), 2, 1, 1, 1, 1, 1, 0, stream, params);
}

/* ---- programmatic dependent launch ---- */

static int reader_waits;

static CUresult pdl_round_on(CUstream on)
{
	CUlaunchAttribute early = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
		.value.programmaticStreamSerializationAllowed = 1};
	/* Few enough blocks that both kernels fit on the device at once. */
	CUlaunchConfig config = {.gridDimX = BLOCKS,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = THREADS,
		.blockDimY = 1,
		.blockDimZ = 1,
		.hStream = on,
		.attrs = &early,
		.numAttrs = 1};
	__typeof__(cuLaunchKernelEx) *launch_early = driver_function(cuLaunchKernelEx);
	CUdeviceptr stale = counters;
	unsigned count = WORDS;
	void *writes[] = {&owner.at, &value, &count}, *reads[] = {&reads_at, &value, &count, &reader_waits, &stale};
	CUresult result = launch(probe_kernel("probe_early_writer"), BLOCKS, THREADS, on, writes);

	if (!launch_early)
		return CUDA_ERROR_NOT_SUPPORTED;
	return result ? result : launch_early(&config, probe_kernel("probe_reader"), reads, NULL);
}

static CUresult round_pdl(void)
{
	value++;
	return pdl_round_on(stream);
}

/* ---- graphs ---- */

static struct graph graph;

/* Two values in turn, so that each replay finds the other one cached. */
static CUresult record_plain(CUstream on, void *unused)
{
	CUresult result = CUDA_SUCCESS;

	(void)unused;
	for (int i = 0; i < 2 && !result; i++) {
		value++;
		result = write_by_kernel(on);
		if (!result)
			result = read_through(on, value);
	}
	return result;
}

static CUresult record_pdl(CUstream on, void *unused)
{
	CUresult result = CUDA_SUCCESS;

	(void)unused;
	for (int i = 0; i < 2 && !result; i++) {
		value++;
		result = pdl_round_on(on);
	}
	return result;
}

static CUresult round_replay(void)
{
	return graph_replay(&graph, stream);
}

/* ---- rows ---- */

static void ask_one(const char *how, const char *address, const char *fenced, size_t reads, CUresult (*round)(void))
{
	unsigned seen[COUNTERS] = {0}, rounds = 0, limit = rounds_wanted();
	CUresult result = CUDA_SUCCESS;

	must(cu->cuMemsetD32Async(counters, 0, COUNTERS, stream));
	must(cu->cuStreamSynchronize(stream));
	for (; rounds < limit && !result && !probe_time_is_short(); rounds++)
		result = round();
	if (!result)
		result = cu->cuStreamSynchronize(stream);
	if (!result)
		must(cu->cuMemcpyDtoH(seen, counters, sizeof(seen)));
	probe_row("%s\t%s\t%s\t%s\t%u\t%zu\t%u\t%s", how, address, fenced, error_name(result), rounds, rounds * reads,
		seen[STALE], seen[GAVE_UP] ? "blocks did not meet" : "");
}

static void ask(const char *how, const char *fenced, size_t reads, CUresult (*round)(void))
{
	reads_at = owner.at;
	ask_one(how, "same", fenced, reads, round);
	reads_at = alias.at;
	ask_one(how, "other", fenced, reads, round);
}

static void ask_graph(const char *how, const char *fenced, CUresult (*record)(CUstream on, void *unused))
{
	for (int other = 0; other < 2; other++) {
		CUresult result;

		reads_at = other ? alias.at : owner.at;
		result = graph_capture(&graph, stream, record, NULL);
		if (result)
			probe_row("%s\t%s\t%s\t%s", how, other ? "other" : "same", fenced, error_name(result));
		else
			ask_one(how, other ? "other" : "same", fenced, 2 * WORDS, round_replay);
		graph_free(&graph);
	}
}

static void ask_ordered(void)
{
	static const struct {
		const char *how;
		CUresult (*writer)(CUstream on);
	} ways[] = {
		{"stream order, written by a kernel", write_by_kernel},
		{"stream order, written by a memset", write_by_memset},
		{"stream order, written by a copy", write_by_copy},
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		writer = ways[i].writer;
		ask(ways[i].how, "", WORDS, round_in_stream);
	}
	ask("two streams and an event", "", WORDS, round_by_event);
}

static void ask_within(void)
{
	for (fence = 0; fence < 2; fence++) {
		const char *fenced = fence ? "fence.proxy.alias" : "none";

		neighbour = 0;
		ask("one kernel, the same thread", fenced, WORDS, round_in_block);
		neighbour = 1;
		ask("one kernel, a thread of the same block", fenced, WORDS, round_in_block);
		ask("one kernel, another block", fenced, GRID_WORDS, round_in_grid);
	}
}

static void ask_overlapping(bool graphs)
{
	char missing[64];

	if (cu->compute_capability < 90) {
		snprintf(missing, sizeof(missing), "not supported here (compute capability %d.%d)",
			cu->compute_capability / 10, cu->compute_capability % 10);
		probe_row("programmatic dependent launch\t\t\t%s", missing);
		return;
	}
	for (reader_waits = 1; reader_waits >= 0; reader_waits--) {
		const char *fenced = reader_waits ? "griddepcontrol.wait" : "none";

		ask("programmatic dependent launch", fenced, WORDS, round_pdl);
		if (graphs)
			ask_graph("programmatic dependent launch in a graph", fenced, record_pdl);
	}
}

static void run(void)
{
	bool graphs = graph_is_supported();

	owner = range_new(granule);
	alias = range_alias(&owner, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	must(cu->cuMemAlloc(&counters, COUNTERS * sizeof(unsigned)));
	must(cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	ask_ordered();
	if (graphs)
		ask_graph("captured graph", "", record_plain);
	else
		probe_row("captured graph\t\t\tnot supported here");
	ask_overlapping(graphs);
	ask_within();
	must(cu->cuStreamDestroy(stream));
	must(cu->cuMemFree(counters));
	range_unmap(&alias);
	range_free(&owner);
}

static const char *const columns[] = {
	"written_and_read_in", "address", "fence", "result", "rounds", "reads", "stale", "note", NULL};
static const struct probe probe = {
	.name = "alias",
	.question = "When does a read through one address of a block see a write through another?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
