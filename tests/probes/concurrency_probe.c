/*
 * Do the calls of a block's life wait for kernels that run on other addresses, and do they slow them down?
 *
 * Waiting: with a kernel held at a gate, a call is made and timed; a timer opens the gate, so that a call which waits for
 * the kernel ends too. It waited if it came back after that. Slowing: the time of a kernel that does nothing but traffic,
 * alone and beside a loop of the calls, measured in turn.
 */
#include "probe.h"

enum { WAIT_MS = 500, PAIRS = 40, PAIRS_QUICK = 3, BLOCKS = 64 };
enum {
	TRAFFIC_MS = 20,
	ROUNDS_MAX = 1000,
	BUDGET_US = 5000000
}; /* long beside the calls, short beside the probe's limit */
enum operation { CREATE, RESERVE, MAP, SET_ACCESS, SET_READ_ONLY, UNMAP, RELEASE, ALLOC, FREE, OPERATIONS };

static const char *const operation_names[OPERATIONS] = {
	"create", "reserve", "map", "set-access", "set read-only", "unmap", "release", "cuMemAlloc", "cuMemFree"};

static CUmemGenericAllocationHandle handle;
static CUdeviceptr at, plain;

/* The steps of one life, in the order of enum operation; each makes what the next one needs. */
static CUresult call(enum operation operation)
{
	switch (operation) {
	case CREATE:
		return cu->cuMemCreate(&handle, granule, &prop, 0);
	case RESERVE:
		return cu->cuMemAddressReserve(&at, granule, granule, 0, 0);
	case MAP:
		return cu->cuMemMap(at, granule, 0, handle, 0);
	case SET_ACCESS:
		return set_access(at, granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	case SET_READ_ONLY:
		return set_access(at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ);
	case UNMAP:
		return cu->cuMemUnmap(at, granule);
	case RELEASE:
		return cu->cuMemRelease(handle);
	case ALLOC:
		return cu->cuMemAlloc(&plain, granule);
	default:
		return cu->cuMemFree(plain);
	}
}

static double call_us(enum operation operation)
{
	double start = now_us();

	must(call(operation));
	return now_us() - start;
}

/* Does `operation` come back while a kernel is held? Leaves its time in *us. */
static bool waits(enum operation operation, CUstream stream, struct gate *gate, CUdeviceptr word, double *us)
{
	struct gate_timer *timer;
	bool in_time;

	must(gate_launch(gate, stream, word, GATE_TOUCH_READING));
	gate_await_start(gate);
	timer = gate_open_later(gate, WAIT_MS);
	*us = call_us(operation);
	in_time = gate_timer_join(timer);
	gate_open(gate);
	must(cu->cuStreamSynchronize(stream));
	return !in_time;
}

static void ask_waiting(CUdeviceptr word, CUstream stream)
{
	struct gate gate = gate_new();
	double idle_us[OPERATIONS];

	for (int i = 0; i < OPERATIONS; i++)
		idle_us[i] = call_us(i);
	must(cu->cuMemAddressFree(at, granule));
	for (int i = 0; i < OPERATIONS; i++) {
		double us;
		bool has_waited = waits(i, stream, &gate, word, &us);

		probe_row("waits for a kernel\t%s\t%s\t%.1f\t%.1f", operation_names[i], has_waited ? "yes" : "no",
			idle_us[i], us);
	}
	must(cu->cuMemAddressFree(at, granule));
	gate_free(&gate);
}

/* ---- slowing ---- */

struct traffic {
	CUdeviceptr words;
	unsigned long long count;
	unsigned rounds;
	CUstream stream;
	CUevent start, end;
};

static void traffic_launch(struct traffic *traffic)
{
	void *params[] = {&traffic->words, &traffic->count, &traffic->rounds};

	must(cu->cuEventRecord(traffic->start, traffic->stream));
	must(launch(probe_kernel("probe_traffic"), 2 * cu->multiprocessors, 256, traffic->stream, params));
	must(cu->cuEventRecord(traffic->end, traffic->stream));
}

static double traffic_ms(struct traffic *traffic)
{
	float ms = 0;

	must(cu->cuEventSynchronize(traffic->end));
	must(cu->cuEventElapsedTime(&ms, traffic->start, traffic->end));
	return ms;
}

/* As many rounds as make the kernel as long as it should be; the first launch is not counted. */
static void traffic_calibrate(struct traffic *traffic)
{
	double round_ms = 0;

	for (int i = 0; i < 2; i++) {
		traffic_launch(traffic);
		round_ms = traffic_ms(traffic);
	}
	if (round_ms * ROUNDS_MAX < TRAFFIC_MS)
		traffic->rounds = ROUNDS_MAX;
	else if (round_ms < TRAFFIC_MS && !quick)
		traffic->rounds = (unsigned)(TRAFFIC_MS / round_ms);
}

/* What is done beside the traffic; each leaves everything as it was. */
static CUmemGenericAllocationHandle handles[BLOCKS];
static CUdeviceptr blocks_at;

static void beside_map(void)
{
	for (int i = 0; i < BLOCKS; i++)
		must(cu->cuMemMap(blocks_at + i * granule, granule, 0, handles[i], 0));
	must(set_access(blocks_at, BLOCKS * granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	must(cu->cuMemUnmap(blocks_at, BLOCKS * granule));
}

static void beside_create(void)
{
	CUmemGenericAllocationHandle made = handle_new(granule);

	must(cu->cuMemRelease(made));
}

static void beside_nothing(void)
{
	sleep_ms(1);
}

static void ask_slowing(const char *what, void (*beside)(void), struct traffic *traffic, size_t pairs)
{
	double alone[PAIRS], together[PAIRS];
	size_t calls = 0, done = 0;
	double start = now_us();

	for (; done < PAIRS_QUICK || (done < pairs && now_us() - start < BUDGET_US); done++) {
		traffic_launch(traffic);
		alone[done] = traffic_ms(traffic);
		traffic_launch(traffic);
		do {
			beside();
			calls++;
		} while (cu->cuEventQuery(traffic->end) == CUDA_ERROR_NOT_READY);
		together[done] = traffic_ms(traffic);
	}
	probe_row("slows a kernel\t%s\t%.3f\t%.1f\t%.1f\t%.1f\t%zu", what,
		percentile(together, done, 50) / percentile(alone, done, 50), 1000 * percentile(alone, done, 50),
		1000 * percentile(together, done, 50), 1000 * percentile(together, done, 99), calls);
}

static void run(void)
{
	size_t bytes = (quick ? 1 : 64) * granule, pairs = quick ? PAIRS_QUICK : PAIRS;
	struct range word = range_new(granule), buffer;
	struct traffic traffic = {.count = bytes / 4, .rounds = 1};

	must(cu->cuStreamCreate(&traffic.stream, CU_STREAM_NON_BLOCKING));
	must(cu->cuEventCreate(&traffic.start, CU_EVENT_DEFAULT));
	must(cu->cuEventCreate(&traffic.end, CU_EVENT_DEFAULT));
	ask_waiting(word.at, traffic.stream);
	range_free(&word);

	buffer = range_new(bytes);
	traffic.words = buffer.at;
	traffic_calibrate(&traffic);

	blocks_at = reservation_new(BLOCKS * granule);
	for (int i = 0; i < BLOCKS; i++)
		handles[i] = handle_new(granule);
	ask_slowing("nothing but waiting", beside_nothing, &traffic, pairs);
	ask_slowing("64 maps, set-access, unmap", beside_map, &traffic, pairs);
	ask_slowing("create, release", beside_create, &traffic, pairs);
	for (int i = 0; i < BLOCKS; i++)
		must(cu->cuMemRelease(handles[i]));
	must(cu->cuMemAddressFree(blocks_at, BLOCKS * granule));
	must(cu->cuEventDestroy(traffic.start));
	must(cu->cuEventDestroy(traffic.end));
	must(cu->cuStreamDestroy(traffic.stream));
	range_free(&buffer);
}

static const char *const columns[] = {
	"question", "call", "answer", "idle_us", "beside_us", "beside_p99_us", "calls", NULL};
static const struct probe probe = {
	.name = "concurrency",
	.question = "Do the memory calls wait for kernels on other addresses (yes, no), or slow them (times as long)?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
