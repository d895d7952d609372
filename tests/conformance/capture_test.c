/*
 * Streams that are captured into graphs. Quotations are from the comments of cuda.h (CUDA 13.0) at the function named; "guide" is the
 * CUDA Programming Guide, Creating a Graph Using Stream Capture (cross-stream dependencies, prohibited and unhandled operations,
 * invalidation). That synchronising a capturing stream is CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and the end of that
 * capture CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, was measured by others on NVIDIA's driver.
 */
#include "conformance.h"

#include <pthread.h>
#include <string.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE
#define GLOBAL CU_STREAM_CAPTURE_MODE_GLOBAL
#define RELAXED CU_STREAM_CAPTURE_MODE_RELAXED

enum { WORDS = 256 };

static void begin(CUstream stream, CUstreamCaptureMode mode)
{
	must(driver_function(cuStreamBeginCapture)(stream, mode));
}

static CUgraph end(CUstream stream)
{
	CUgraph graph = NULL;

	must(driver_function(cuStreamEndCapture)(stream, &graph));
	assert_non_null(graph);
	return graph;
}

/* "If capture was invalidated [...] then a NULL graph will be returned." */
static void end_must_be(CUresult error, CUstream stream)
{
	CUgraph graph = (CUgraph)&graph;

	must_be(error, driver_function(cuStreamEndCapture)(stream, &graph));
	assert_null(graph);
}

static CUstreamCaptureStatus status_of(CUstream stream)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;

	must(driver_function(cuStreamIsCapturing)(stream, &status));
	return status;
}

/* Whatever a refused attempt to end it has left. */
static void end_somehow(CUstream stream)
{
	CUgraph graph = NULL;

	record("the end of a capture after a refused one", driver_function(cuStreamEndCapture)(stream, &graph));
	if (graph)
		must(driver_function(cuGraphDestroy)(graph));
	assert_int_equal(status_of(stream), CU_STREAM_CAPTURE_STATUS_NONE);
}

/* Runs it, and frees it. */
static void run(CUgraph graph, unsigned times)
{
	CUgraphExec exec = NULL;

	must(driver_function(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	must(driver_function(cuGraphDestroy)(graph));
	while (times--)
		must(driver_function(cuGraphLaunch)(exec, NULL));
	must(cu->cuCtxSynchronize());
	must(driver_function(cuGraphExecDestroy)(exec));
}

static size_t node_count(CUgraph graph)
{
	size_t count = 0;

	must(driver_function(cuGraphGetNodes)(graph, NULL, &count));
	return count;
}

static size_t edge_count(CUgraph graph)
{
	size_t count = 0;

	must(driver_function(cuGraphGetEdges)(graph, NULL, NULL, NULL, &count));
	return count;
}

/* ---- what is captured ---- */

static void CUDA_CB count_up(void *counter)
{
	__atomic_fetch_add((int *)counter, 1, __ATOMIC_ACQ_REL);
}

/* "all operations pushed into the stream will not be executed, but will instead be captured into a graph" */
static void work_is_captured_and_not_executed(void **state)
{
	struct range memory = range_new(1, RW);
	CUdeviceptr a = memory.at, b = memory.at + 4096;
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	unsigned *host = gate_new();
	int called = 0;
	CUgraph graph;

	(void)state;
	must(cu->cuMemsetD8(memory.at, 0, memory.bytes));
	must(cu->cuCtxSynchronize());
	begin(stream, GLOBAL);
	must(cu->cuMemsetD32Async(a, 5, WORDS, stream));
	launch_add(stream, b, a, 1, WORDS);
	must(cu->cuMemcpyDtoDAsync(a, b, WORDS * 4, stream));
	must(cu->cuMemcpyDtoHAsync(host, a, 4, stream));
	must(cu->cuLaunchHostFunc(stream, count_up, &called));
	graph = end(stream);
	assert_int_equal(node_count(graph), 5);
	assert_int_equal(edge_count(graph), 4); /* one behind the other */
	assert_int_equal(word_at(a), 0);
	assert_int_equal(called, 0);
	run(graph, 2);
	assert_int_equal(host[0], 6);
	assert_words(a, WORDS * 4, 6);
	assert_int_equal(called, 2);
	must(cu->cuStreamDestroy(stream));
	gate_free(host);
	range_free(&memory);
}

/* H200: parameters are read at the call, also at capture. */
static void arguments_are_copied_at_capture(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUdeviceptr out = memory.at;
	unsigned value = 3;
	unsigned long long count = WORDS;
	void *params[] = {&out, &value, &count};
	CUlaunchConfig config = {.gridDimX = 2,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = 64,
		.blockDimY = 1,
		.blockDimZ = 1,
		.hStream = stream};
	CUfunction fill = conformance_kernel("conformance_fill");

	(void)state;
	begin(stream, GLOBAL);
	must(driver_function(cuLaunchKernelEx)(&config, fill, params, NULL));
	value = 4;
	out = memory.at + 4096;
	must(driver_function(cuLaunchKernelEx)(&config, fill, params, NULL));
	out = 0;
	run(end(stream), 1);
	assert_words(memory.at, WORDS * 4, 3);
	assert_words(memory.at + 4096, WORDS * 4, 4);
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/* guide: a stream joins the capture by waiting for an event of it, and must be joined again to the first. */
static void other_streams_join_by_events(void **state)
{
	struct range memory = range_new(1, RW);
	CUdeviceptr a = memory.at, b = memory.at + 4096, c = memory.at + 8192;
	CUstream first = stream_new(CU_STREAM_NON_BLOCKING), second = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent fork = event_new(CU_EVENT_DISABLE_TIMING), join = event_new(CU_EVENT_DISABLE_TIMING);
	CUgraph graph;
	size_t roots = 0;

	(void)state;
	begin(first, GLOBAL);
	launch_fill(first, a, 7, WORDS);
	must(cu->cuEventRecord(fork, first));
	must(cu->cuStreamWaitEvent(second, fork, 0));
	assert_int_equal(status_of(second), CU_STREAM_CAPTURE_STATUS_ACTIVE);
	launch_add(second, b, a, 1, WORDS);
	launch_add(first, c, a, 2, WORDS);
	must(cu->cuEventRecord(join, second));
	must(cu->cuStreamWaitEvent(first, join, 0));
	launch_add(first, a, b, 10, WORDS);
	graph = end(first);
	assert_int_equal(status_of(second), CU_STREAM_CAPTURE_STATUS_NONE);
	assert_int_equal(node_count(graph), 4);
	assert_int_equal(edge_count(graph), 4); /* a to b, a to c; b and c to the last */
	must(driver_function(cuGraphGetRootNodes)(graph, NULL, &roots));
	assert_int_equal(roots, 1);
	run(graph, 1);
	assert_words(a, WORDS * 4, 18);
	assert_words(c, WORDS * 4, 9);
	must(cu->cuEventDestroy(fork));
	must(cu->cuEventDestroy(join));
	must(cu->cuStreamDestroy(first));
	must(cu->cuStreamDestroy(second));
	range_free(&memory);
}

/* CUDA_ERROR_STREAM_CAPTURE_UNJOINED: "a fork from the origin stream that was not joined to it" */
static void a_stream_that_was_not_joined_again_is_an_error(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream first = stream_new(CU_STREAM_NON_BLOCKING), second = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent fork = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	begin(first, GLOBAL);
	must(cu->cuEventRecord(fork, first));
	must(cu->cuStreamWaitEvent(second, fork, 0));
	launch_fill(second, memory.at, 1, WORDS);
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, first);
	assert_int_equal(status_of(first), CU_STREAM_CAPTURE_STATUS_NONE);
	assert_int_equal(status_of(second), CU_STREAM_CAPTURE_STATUS_NONE);
	/* CUDA_ERROR_STREAM_CAPTURE_UNMATCHED: "The capture was not initiated in this stream." */
	begin(first, GLOBAL);
	must(cu->cuEventRecord(fork, first));
	must(cu->cuStreamWaitEvent(second, fork, 0));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, second);
	end_somehow(first);
	must(cu->cuEventDestroy(fork));
	must(cu->cuStreamDestroy(first));
	must(cu->cuStreamDestroy(second));
	range_free(&memory);
}

/* cuStreamGetCaptureInfo: id, graph and "the next node to be captured in the stream will depend on this set of nodes" */
static void a_capture_tells_what_it_has(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
	CUresult (*info)(CUstream, CUstreamCaptureStatus *, cuuint64_t *, CUgraph *, const CUgraphNode **, size_t *) =
		driver_symbol("cuStreamGetCaptureInfo_v2");
	const CUgraphNode *nodes = NULL;
	cuuint64_t id = 0, second_id = 0;
	CUgraph graph = NULL, ended;
	CUgraphNode empty = NULL;
	size_t count = 9;

	(void)state;
	must(info(stream, &status, &id, &graph, &nodes, &count));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_NONE);
	begin(stream, GLOBAL);
	must(info(stream, &status, &id, &graph, &nodes, &count));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
	assert_int_not_equal(id, 0);
	assert_int_equal(count, 0);
	launch_fill(stream, memory.at, 1, WORDS);
	must(info(stream, &status, NULL, NULL, &nodes, &count));
	assert_int_equal(count, 1);
	/* cuStreamUpdateCaptureDependencies: a node of one's own between what is captured */
	must(driver_function(cuGraphAddEmptyNode)(&empty, graph, nodes, count));
	must(driver_function(cuStreamUpdateCaptureDependencies)(
		stream, &empty, NULL, 1, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
	launch_add(stream, memory.at, memory.at, 1, WORDS);
	ended = end(stream);
	assert_ptr_equal(ended, graph);
	assert_int_equal(node_count(graph), 3);
	assert_int_equal(edge_count(graph), 2);
	run(graph, 1);
	assert_words(memory.at, WORDS * 4, 2);
	/* "Returns CUDA_ERROR_ILLEGAL_STATE if the stream is not capturing." */
	must_be(CUDA_ERROR_ILLEGAL_STATE, driver_function(cuStreamUpdateCaptureDependencies)(stream, NULL, NULL, 0, 0));
	begin(stream, GLOBAL);
	must(info(stream, &status, &second_id, NULL, NULL, NULL));
	assert_int_not_equal(id, second_id); /* "unique over the lifetime of the process" */
	must(driver_function(cuGraphDestroy)(end(stream)));
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/* ---- what is forbidden ---- */

/* Not documented: NVIDIA's driver of CUDA 13.0 answers so (H200, 2026-11-27). A graph gets a child by its own call. */
static void a_graph_cannot_be_launched_into_a_capture(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec = NULL;
	CUgraph graph;

	(void)state;
	begin(stream, GLOBAL);
	launch_add(stream, memory.at, memory.at, 1, WORDS);
	graph = end(stream);
	must(driver_function(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	must(driver_function(cuGraphDestroy)(graph));
	begin(stream, GLOBAL);
	must_be(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, driver_function(cuGraphLaunch)(exec, stream));
	end_somehow(stream);
	must(driver_function(cuGraphExecDestroy)(exec));
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

static void begin_and_end_refuse_what_makes_no_sense(void **state)
{
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUgraph graph = NULL;

	(void)state;
	must_refuse(driver_function(cuStreamBeginCapture)(NULL, GLOBAL)); /* CU_STREAM_LEGACY */
	must_refuse(driver_function(cuStreamBeginCapture)(stream, (CUstreamCaptureMode)7));
	must_refuse(driver_function(cuStreamEndCapture)(stream, &graph));
	begin(stream, GLOBAL);
	must_refuse(driver_function(cuStreamBeginCapture)(stream, GLOBAL));
	end_somehow(stream);
	must(cu->cuStreamDestroy(stream));
}

/* guide: "It is invalid to synchronize or query the execution status of a stream which is being captured". Measured. */
static void synchronising_a_capturing_stream_invalidates_it(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	begin(stream, RELAXED);
	launch_fill(stream, memory.at, 1, WORDS);
	must_be(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cu->cuStreamSynchronize(stream));
	assert_int_equal(status_of(stream), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
	/* "further use of any streams which are being captured [...] is invalid and will return an error" */
	must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu->cuMemsetD8Async(memory.at, 0, 4, stream));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	launch_fill(stream, memory.at, 2, WORDS); /* it is an ordinary stream again */
	must(cu->cuStreamSynchronize(stream));
	assert_words(memory.at, WORDS * 4, 2);
	/* "or synchronize a broader handle which encompasses an active stream capture, such as a device or context" */
	begin(stream, RELAXED);
	must_be(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cu->cuCtxSynchronize());
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/* CUDA_ERROR_CAPTURED_EVENT: "not permitted on an event which was last recorded in a capturing stream" */
static void a_captured_event_cannot_be_asked_or_awaited(void **state)
{
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	begin(stream, RELAXED);
	must(cu->cuEventRecord(event, stream));
	must_be(CUDA_ERROR_CAPTURED_EVENT, cu->cuEventQuery(event));
	must_be(CUDA_ERROR_CAPTURED_EVENT, cu->cuEventSynchronize(event));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	must(cu->cuEventRecord(event, stream)); /* recorded anew, it is an ordinary one */
	must(cu->cuEventSynchronize(event));
	must(cu->cuEventDestroy(event));
	must(cu->cuStreamDestroy(stream));
}

/*
 * cuStreamIsCapturing: on the legacy stream "while a blocking stream in the same context is capturing, it will return
 * CUDA_ERROR_STREAM_CAPTURE_IMPLICIT [...]. The blocking stream capture is not invalidated."
 */
static void the_legacy_stream_is_of_no_use_while_a_blocking_stream_captures(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_DEFAULT);
	CUstreamCaptureStatus status;
	unsigned word = 0;

	(void)state;
	begin(stream, RELAXED);
	must_be(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, driver_function(cuStreamIsCapturing)(NULL, &status));
	assert_int_equal(status_of(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
	must(driver_function(cuGraphDestroy)(end(stream)));
	begin(stream, RELAXED);
	/* guide: "any attempted use of the legacy stream is invalid", and synchronous calls are such a use */
	must_be(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cu->cuMemsetD32Async(memory.at, 1, 4, NULL));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	begin(stream, RELAXED);
	must_be(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cu->cuMemcpyDtoH(&word, memory.at, sizeof(word)));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	must(cu->cuStreamDestroy(stream));
	/* A non-blocking stream has nothing to do with it. */
	stream = stream_new(CU_STREAM_NON_BLOCKING);
	begin(stream, RELAXED);
	must(cu->cuMemsetD32Async(memory.at, 1, 4, NULL));
	must(driver_function(cuGraphDestroy)(end(stream)));
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/* guide: "invalid to merge two separate capture graphs", and "to wait on a non-captured event from a stream which is being captured" */
static void dependencies_do_not_cross_the_edge_of_a_capture(void **state)
{
	CUstream one = stream_new(CU_STREAM_NON_BLOCKING), other = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventRecord(event, other));
	begin(one, RELAXED);
	must_be(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cu->cuStreamWaitEvent(one, event, 0));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, one);
	begin(one, RELAXED);
	begin(other, RELAXED);
	must(cu->cuEventRecord(event, one));
	must_be(CUDA_ERROR_STREAM_CAPTURE_MERGE, cu->cuStreamWaitEvent(other, event, 0));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, one);
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, other);
	must(cu->cuEventDestroy(event));
	must(cu->cuStreamDestroy(one));
	must(cu->cuStreamDestroy(other));
}

/* CU_EVENT_RECORD_EXTERNAL, CU_EVENT_WAIT_EXTERNAL: the node records or awaits, each time the graph runs. */
static void external_events_become_nodes(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent before = event_new(CU_EVENT_DISABLE_TIMING), after = event_new(CU_EVENT_DISABLE_TIMING);
	CUgraph graph;

	(void)state;
	must(cu->cuEventRecord(before, NULL));
	begin(stream, GLOBAL);
	must(cu->cuStreamWaitEvent(stream, before, CU_EVENT_WAIT_EXTERNAL));
	launch_fill(stream, memory.at, 1, WORDS);
	must(driver_function(cuEventRecordWithFlags)(after, stream, CU_EVENT_RECORD_EXTERNAL));
	graph = end(stream);
	assert_int_equal(node_count(graph), 3);
	run(graph, 1);
	must(cu->cuEventSynchronize(after));
	assert_words(memory.at, WORDS * 4, 1);
	must(cu->cuEventDestroy(before));
	must(cu->cuEventDestroy(after));
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/* cuThreadExchangeStreamCaptureMode: which calls of which thread a capture forbids */
static void the_modes_forbid_what_they_say(void **state)
{
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUstreamCaptureMode mode = RELAXED;
	CUdeviceptr memory = 0;

	(void)state;
	begin(stream, GLOBAL);
	must_be(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cu->cuMemAlloc(&memory, 64));
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	begin(stream, RELAXED);
	must(cu->cuMemAlloc(&memory, 64));
	must(cu->cuMemFree(memory));
	must(driver_function(cuGraphDestroy)(end(stream)));
	begin(stream, GLOBAL);
	must(driver_function(cuThreadExchangeStreamCaptureMode)(&mode));
	assert_int_equal(mode, GLOBAL); /* "This is the default mode." */
	must(cu->cuMemAlloc(&memory, 64));
	must(cu->cuMemFree(memory));
	must(driver_function(cuThreadExchangeStreamCaptureMode)(&mode));
	assert_int_equal(mode, RELAXED);
	must(driver_function(cuGraphDestroy)(end(stream)));
	must(cu->cuStreamDestroy(stream));
}

struct elsewhere {
	CUstream stream;
	CUresult allocated, ended;
	CUstreamCaptureMode mode;
};

static void *allocate_and_end(void *argument)
{
	struct elsewhere *elsewhere = argument;
	CUdeviceptr memory = 0;
	CUgraph graph = NULL;

	cu->cuCtxSetCurrent(cu->context);
	elsewhere->allocated = cu->cuMemAlloc(&memory, 64);
	if (!elsewhere->allocated)
		cu->cuMemFree(memory);
	elsewhere->ended = driver_function(cuStreamEndCapture)(elsewhere->stream, &graph);
	if (graph)
		driver_function(cuGraphDestroy)(graph);
	return NULL;
}

static struct elsewhere in_another_thread(CUstream stream, CUstreamCaptureMode mode)
{
	struct elsewhere elsewhere = {.stream = stream};
	pthread_t thread;

	begin(stream, mode);
	assert_int_equal(pthread_create(&thread, NULL, allocate_and_end, &elsewhere), 0);
	pthread_join(thread, NULL);
	return elsewhere;
}

/* "If mode is not CU_STREAM_CAPTURE_MODE_RELAXED, cuStreamEndCapture must be called on this stream from the same thread." */
static void other_threads_are_bound_by_global_captures_alone(void **state)
{
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	struct elsewhere elsewhere = in_another_thread(stream, GLOBAL);

	(void)state;
	assert_int_equal(elsewhere.allocated, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	assert_int_equal(elsewhere.ended, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
	end_must_be(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream);
	elsewhere = in_another_thread(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
	assert_int_equal(elsewhere.allocated, CUDA_SUCCESS);
	assert_int_equal(elsewhere.ended, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
	end_somehow(stream);
	elsewhere = in_another_thread(stream, RELAXED);
	assert_int_equal(elsewhere.allocated, CUDA_SUCCESS);
	assert_int_equal(elsewhere.ended, CUDA_SUCCESS);
	must(cu->cuStreamDestroy(stream));
}

/* "Begin graph capture on hStream, placing new nodes into an existing graph." */
static void a_capture_may_add_to_a_graph_that_there_is(void **state)
{
	struct range memory = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUgraph graph = NULL;
	CUgraphNode first = NULL;

	(void)state;
	must(driver_function(cuGraphCreate)(&graph, 0));
	must(driver_function(cuGraphAddEmptyNode)(&first, graph, NULL, 0));
	must(driver_function(cuStreamBeginCaptureToGraph)(stream, graph, &first, NULL, 1, GLOBAL));
	launch_fill(stream, memory.at, 6, WORDS);
	assert_ptr_equal(end(stream), graph);
	assert_int_equal(node_count(graph), 2);
	assert_int_equal(edge_count(graph), 1);
	run(graph, 1);
	assert_words(memory.at, WORDS * 4, 6);
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(work_is_captured_and_not_executed),
		conformance_test(arguments_are_copied_at_capture),
		conformance_test(other_streams_join_by_events),
		conformance_test(a_stream_that_was_not_joined_again_is_an_error),
		conformance_test(a_capture_tells_what_it_has),
		conformance_test(a_graph_cannot_be_launched_into_a_capture),
		conformance_test(begin_and_end_refuse_what_makes_no_sense),
		conformance_test(synchronising_a_capturing_stream_invalidates_it),
		conformance_test(a_captured_event_cannot_be_asked_or_awaited),
		conformance_test(the_legacy_stream_is_of_no_use_while_a_blocking_stream_captures),
		conformance_test(dependencies_do_not_cross_the_edge_of_a_capture),
		conformance_test(external_events_become_nodes),
		conformance_test(the_modes_forbid_what_they_say),
		conformance_test(other_threads_are_bound_by_global_captures_alone),
		conformance_test(a_capture_may_add_to_a_graph_that_there_is),
	};

	return conformance_main(argc, argv, tests);
}
