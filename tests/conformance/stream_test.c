/*
 * What the product relies on of streams, events, host functions and launches. Quotations are from the comments of cuda.h
 * (CUDA 13.0) at the function named; "sync behavior" is the page "Stream synchronization behavior" of the CUDA Driver
 * API. A gate (conformance.h) holds a kernel running, so that "before" and "after" can be told for certain.
 */
#include "conformance.h"

#include <unistd.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE

enum { WORDS = 256, PARTS = 8 };

/* A gate whose kernel runs in `stream`, and PARTS * WORDS words of device memory that later work writes. */
struct held {
	struct range memory;
	unsigned *gate;
	CUstream stream;
};

static struct held held_new(unsigned stream_flags)
{
	size_t granules = (PARTS * WORDS * sizeof(unsigned) + granule - 1) / granule;
	struct held h = {.memory = range_new(granules, RW), .gate = gate_new(), .stream = stream_new(stream_flags)};

	must(cu->cuMemsetD8(h.memory.at, 0, h.memory.bytes));
	must(cu->cuCtxSynchronize());
	gate_launch(h.stream, h.gate, 0);
	gate_await_start(h.gate);
	return h;
}

static void held_free(struct held *h)
{
	gate_open(h->gate);
	must(cu->cuCtxSynchronize());
	assert_int_equal(gate_outcome(h->gate), GATE_PASSED);
	must(cu->cuStreamDestroy(h->stream));
	gate_free(h->gate);
	range_free(&h->memory);
}

/* ---- events ---- */

/* cuEventQuery: "CUDA_ERROR_NOT_READY if any captured work is incomplete" */
static void an_event_completes_only_after_the_work_before_it(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventRecord(event, h.stream));
	must_be(CUDA_ERROR_NOT_READY, cu->cuEventQuery(event));
	usleep(20000);
	must_be(CUDA_ERROR_NOT_READY, cu->cuEventQuery(event));
	gate_open(h.gate);
	must(cu->cuEventSynchronize(event));
	assert_int_equal(gate_outcome(h.gate), GATE_PASSED);
	must(cu->cuEventQuery(event));
	must(cu->cuEventDestroy(event));
	held_free(&h);
}

/* cuEventRecord: "Before the first call to cuEventRecord(), an event represents an empty set of work" */
static void an_event_that_was_never_recorded_is_complete(void **state)
{
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventQuery(event));
	must(cu->cuEventSynchronize(event));
	must(cu->cuStreamWaitEvent(NULL, event, 0));
	must(cu->cuStreamSynchronize(NULL));
	must(cu->cuEventDestroy(event));
}

/* cuEventRecord: "Uses of hStream after this call do not modify hEvent." */
static void an_event_does_not_wait_for_work_that_comes_after_it(void **state)
{
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);
	unsigned *gate = gate_new();

	(void)state;
	must(cu->cuEventRecord(event, stream));
	gate_launch(stream, gate, 0);
	gate_await_start(gate);
	must(cu->cuEventSynchronize(event));
	assert_int_equal(gate_outcome(gate), 0);
	gate_open(gate);
	must(cu->cuStreamSynchronize(stream));
	must(cu->cuEventDestroy(event));
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
}

/* cuEventRecord: waits "use the most recently captured state at the time of the API call, and are not affected by later" */
static void a_wait_uses_the_record_before_it_and_not_a_later_one(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUstream waiter = stream_new(CU_STREAM_NON_BLOCKING), idle = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventRecord(event, idle));
	must(cu->cuStreamWaitEvent(waiter, event, 0));
	must(cu->cuEventRecord(event, h.stream)); /* overwrites what was captured; the wait above stays as it was */
	launch_fill(waiter, h.memory.at, 1, WORDS);
	must(cu->cuStreamSynchronize(waiter));
	must_be(CUDA_ERROR_NOT_READY, cu->cuEventQuery(event));
	must(cu->cuEventDestroy(event));
	must(cu->cuStreamDestroy(waiter));
	must(cu->cuStreamDestroy(idle));
	held_free(&h);
}

/* cuStreamWaitEvent: "Makes all future work submitted to hStream wait for all work captured in hEvent." */
static void a_stream_waits_for_the_event_and_the_host_does_not(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUstream waiter = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventRecord(event, h.stream));
	must(cu->cuStreamWaitEvent(waiter, event, 0));
	launch_fill(waiter, h.memory.at, 3, WORDS);
	usleep(20000);
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(waiter));
	gate_open(h.gate);
	must(cu->cuStreamSynchronize(waiter));
	assert_int_equal(gate_outcome(h.gate), GATE_PASSED);
	assert_words(h.memory.at, WORDS * sizeof(unsigned), 3);
	must(cu->cuEventDestroy(event));
	must(cu->cuStreamDestroy(waiter));
	held_free(&h);
}

/* cuEventDestroy: "An event may be destroyed before it is complete ... the call does not block"; the wait still holds. */
static void an_event_may_be_destroyed_before_it_completes(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUstream waiter = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent event = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	must(cu->cuEventRecord(event, h.stream));
	must(cu->cuStreamWaitEvent(waiter, event, 0));
	must(cu->cuEventDestroy(event));
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(h.stream));
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(waiter));
	gate_open(h.gate);
	must(cu->cuStreamSynchronize(waiter));
	must(cu->cuStreamDestroy(waiter));
	held_free(&h);
}

/* cuEventElapsedTime: the three results that its comment names, and a time. */
static void elapsed_time_needs_two_timed_recorded_and_complete_events(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUevent start = event_new(CU_EVENT_DEFAULT), end = event_new(CU_EVENT_DEFAULT);
	CUevent untimed = event_new(CU_EVENT_DISABLE_TIMING);
	CUstream other = stream_new(CU_STREAM_NON_BLOCKING);
	float ms = -1;

	(void)state;
	must_be(CUDA_ERROR_INVALID_HANDLE, cu->cuEventElapsedTime(&ms, start, end));
	must(cu->cuEventRecord(start, other));
	must(cu->cuEventRecord(untimed, other));
	must(cu->cuStreamSynchronize(other));
	must(cu->cuEventRecord(end, h.stream));
	must_be(CUDA_ERROR_INVALID_HANDLE, cu->cuEventElapsedTime(&ms, start, untimed));
	must_be(CUDA_ERROR_NOT_READY, cu->cuEventElapsedTime(&ms, start, end));
	usleep(20000);
	gate_open(h.gate);
	must(cu->cuEventSynchronize(end));
	must(cu->cuEventElapsedTime(&ms, start, end));
	assert_true(ms >= 15 && ms < 60000); /* the 20 ms that the gate was shut at least, less the clocks' slack */
	must(cu->cuEventDestroy(start));
	must(cu->cuEventDestroy(end));
	must(cu->cuEventDestroy(untimed));
	must(cu->cuStreamDestroy(other));
	held_free(&h);
}

/* ---- streams ---- */

/* cuStreamQuery: CUDA_SUCCESS "if all operations in the stream ... have completed, or CUDA_ERROR_NOT_READY if not" */
static void a_stream_is_ready_when_its_work_is_done(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(h.stream));
	gate_open(h.gate);
	must(cu->cuStreamSynchronize(h.stream));
	assert_int_equal(gate_outcome(h.gate), GATE_PASSED);
	must(cu->cuStreamQuery(h.stream));
	held_free(&h);
}

/* Guide, Asynchronous Execution: the operations of one stream run in the order in which they were submitted. */
static void work_of_one_stream_runs_in_order(void **state)
{
	struct range r = range_new(2, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	size_t count = r.bytes / sizeof(unsigned);

	(void)state;
	must(cu->cuMemsetD8Async(r.at, 0, r.bytes, stream));
	for (unsigned i = 1; i <= 20; i++) {
		launch_fill(stream, r.at, i, count);
		launch_add(stream, r.at, r.at, 1, count);
	}
	must(cu->cuMemsetD32Async(r.at, 5, count / 2, stream));
	launch_add(stream, r.at, r.at, 2, count);
	assert_words(r.at, r.bytes / 2, 7);
	assert_words(r.at + r.bytes / 2, r.bytes / 2, 23);
	must(cu->cuStreamDestroy(stream));
	range_free(&r);
}

/*
 * Sync behavior, Legacy default stream: k_1 in s, k_2 in the legacy stream, k_3 in s: "k_2 will block on k_1 and k_3 will
 * block on k_2". Each kernel's sum shows which had run before it.
 */
static void the_default_stream_waits_for_blocking_streams_and_they_for_it(void **state)
{
	struct held h = held_new(CU_STREAM_DEFAULT);
	CUstream other = stream_new(CU_STREAM_DEFAULT);
	CUdeviceptr at = h.memory.at;

	(void)state;
	launch_fill(h.stream, at, 1, WORDS);   /* k_1, behind the gate */
	launch_add(NULL, at, at, 10, WORDS);   /* k_2 */
	launch_add(other, at, at, 100, WORDS); /* k_3, in another blocking stream even */
	usleep(20000);
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(NULL));
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(other));
	gate_open(h.gate);
	must(cu->cuStreamSynchronize(other));
	assert_words(at, WORDS * sizeof(unsigned), 111);
	must(cu->cuStreamDestroy(other));
	held_free(&h);
}

/* cuStreamCreate, CU_STREAM_NON_BLOCKING: "should perform no implicit synchronization with stream 0" */
static void a_non_blocking_stream_and_the_default_stream_do_not_wait_for_each_other(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	launch_fill(NULL, h.memory.at, 8, WORDS);
	must(cu->cuStreamSynchronize(NULL));
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(h.stream));
	assert_int_equal(gate_outcome(h.gate), 0);
	held_free(&h);
}

/* The same the other way round: the gate is shut in the default stream. */
static void a_non_blocking_stream_runs_while_the_default_stream_is_held(void **state)
{
	struct range r = range_new(1, RW);
	unsigned *gate = gate_new();
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	gate_launch(NULL, gate, 0);
	gate_await_start(gate);
	launch_fill(stream, r.at, 8, WORDS);
	must(cu->cuStreamSynchronize(stream));
	assert_int_equal(gate_outcome(gate), 0);
	gate_open(gate);
	assert_words(r.at, WORDS * sizeof(unsigned), 8);
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
	range_free(&r);
}

/* cuCtxSynchronize: "Blocks until the current context has completed all preceding requested tasks" */
static void context_synchronisation_waits_for_every_stream(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	CUstream streams[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		CUevent event = event_new(CU_EVENT_DISABLE_TIMING);
		streams[i] = stream_new(CU_STREAM_NON_BLOCKING);
		must(cu->cuEventRecord(event, h.stream));
		must(cu->cuStreamWaitEvent(streams[i], event, 0));
		must(cu->cuEventDestroy(event));
		launch_fill(streams[i], h.memory.at + i * WORDS * sizeof(unsigned), 6, WORDS);
	}
	gate_open(h.gate);
	must(cu->cuCtxSynchronize());
	for (int i = 0; i < 3; i++) {
		must(cu->cuStreamQuery(streams[i]));
		must(cu->cuStreamDestroy(streams[i]));
	}
	assert_words(h.memory.at, 3 * WORDS * sizeof(unsigned), 6);
	held_free(&h);
}

/* cuStreamDestroy: "will return immediately and the resources ... released automatically once the device has completed" */
static void a_destroyed_stream_completes_its_work(void **state)
{
	struct range r = range_new(1, RW);
	unsigned *gate = gate_new();
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	gate_launch(stream, gate, 0);
	launch_fill(stream, r.at, 12, WORDS);
	gate_await_start(gate);
	must(cu->cuStreamDestroy(stream));
	assert_int_equal(gate_outcome(gate), 0); /* it did not wait */
	gate_open(gate);
	assert_words(r.at, WORDS * sizeof(unsigned), 12);
	gate_free(gate);
	range_free(&r);
}

/* ---- host functions, arguments, copies ---- */

struct witness {
	unsigned *gate;
	unsigned gate_outcome; /* as the host function found it */
	unsigned calls;
};

static void look_at_gate(void *data)
{
	struct witness *w = data;

	usleep(20000); /* long enough for work behind it to overtake it, if that could happen */
	w->gate_outcome = gate_outcome(w->gate);
	__atomic_fetch_add(&w->calls, 1, __ATOMIC_RELEASE);
}

/* cuLaunchHostFunc: "called after currently enqueued work and will block work added after it" */
static void a_host_function_runs_in_stream_order(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	struct witness w = {.gate = h.gate};
	unsigned *later = gate_new();

	(void)state;
	must(cu->cuLaunchHostFunc(h.stream, look_at_gate, &w));
	gate_launch(h.stream, later, 0);
	usleep(20000);
	assert_int_equal(__atomic_load_n(&w.calls, __ATOMIC_ACQUIRE), 0);
	gate_open(h.gate);
	gate_await_start(later);
	assert_int_equal(__atomic_load_n(&w.calls, __ATOMIC_ACQUIRE), 1);
	assert_int_equal(w.gate_outcome, GATE_PASSED);
	gate_open(later);
	must(cu->cuStreamSynchronize(h.stream));
	gate_free(later);
	held_free(&h);
}

/* cuLaunchKernel: kernelParams point to memory "from which the actual kernel parameter will be copied"; the launch may
 * still be pending when the caller's variables are gone. */
static void launch_arguments_are_copied_when_the_launch_is_submitted(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	for (unsigned i = 0; i < PARTS; i++) /* each call's arguments lie where the last call's lay */
		launch_fill(h.stream, h.memory.at + i * WORDS * sizeof(unsigned), 50 + i, WORDS);
	gate_open(h.gate);
	for (unsigned i = 0; i < PARTS; i++)
		assert_words(h.memory.at + i * WORDS * sizeof(unsigned), WORDS * sizeof(unsigned), 50 + i);
	held_free(&h);
}

/* Driver API, API synchronization behavior: a copy from pageable memory "will return once the pageable buffer has been
 * copied", so the caller may write it again. */
static void a_synchronous_copy_has_read_its_pageable_source_when_it_returns(void **state)
{
	struct range r = range_new(1, RW);
	unsigned *source = test_malloc(r.bytes);
	size_t count = r.bytes / sizeof(*source);

	(void)state;
	for (unsigned turn = 1; turn <= 4; turn++) {
		for (size_t i = 0; i < count; i++)
			source[i] = turn;
		must(cu->cuMemcpyHtoD(r.at, source, r.bytes));
		for (size_t i = 0; i < count; i++)
			source[i] = ~0u;
		assert_words(r.at, r.bytes, turn);
	}
	test_free(source);
	range_free(&r);
}

/* cuMemcpyDtoHAsync: behind the work of its stream, and "asynchronous" with pinned memory. */
static void an_asynchronous_copy_to_pinned_memory_runs_in_stream_order(void **state)
{
	struct held h = held_new(CU_STREAM_NON_BLOCKING);
	void *pinned = NULL;
	unsigned *word;

	(void)state;
	must(cu->cuMemAllocHost(&pinned, WORDS * sizeof(unsigned)));
	word = pinned;
	__atomic_store_n(word, 1, __ATOMIC_RELEASE);
	launch_fill(h.stream, h.memory.at, 99, WORDS);
	must(cu->cuMemcpyDtoHAsync(pinned, h.memory.at, WORDS * sizeof(unsigned), h.stream));
	assert_int_equal(__atomic_load_n(word, __ATOMIC_ACQUIRE), 1);
	gate_open(h.gate);
	must(cu->cuStreamSynchronize(h.stream));
	for (int i = 0; i < WORDS; i++)
		assert_int_equal(word[i], 99);
	must(cu->cuMemFreeHost(pinned));
	held_free(&h);
}

/*
 * Memory may be created, mapped and used while a kernel runs on other memory: no text forbids it, and growth relies on
 * it. Whether a driver makes the calls wait for that kernel is its own affair (note_sync) and is recorded.
 */
static void mapping_new_memory_does_not_disturb_a_kernel_that_runs_elsewhere(void **state)
{
	struct range busy = range_new(1, RW), grown;
	unsigned *gate = gate_new();
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING), other = stream_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	must(cu->cuMemsetD8(busy.at, 0, busy.bytes));
	must(cu->cuCtxSynchronize());
	gate_launch(stream, gate, busy.at);
	gate_await_start(gate);
	grown = range_new(2, RW);
	launch_fill(other, grown.at, 64, grown.bytes / sizeof(unsigned));
	must(cu->cuStreamSynchronize(other));
	print_message("recorded: mapping new memory %s for a running kernel\n",
		gate_outcome(gate) ? "waits" : "does not wait");
	gate_open(gate);
	must(cu->cuStreamSynchronize(stream));
	assert_int_equal(word_at(busy.at), 1);
	assert_words(grown.at, grown.bytes, 64);
	must(cu->cuStreamDestroy(stream));
	must(cu->cuStreamDestroy(other));
	gate_free(gate);
	range_free(&grown);
	range_free(&busy);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(an_event_completes_only_after_the_work_before_it),
		conformance_test(an_event_that_was_never_recorded_is_complete),
		conformance_test(an_event_does_not_wait_for_work_that_comes_after_it),
		conformance_test(a_wait_uses_the_record_before_it_and_not_a_later_one),
		conformance_test(a_stream_waits_for_the_event_and_the_host_does_not),
		conformance_test(an_event_may_be_destroyed_before_it_completes),
		conformance_test(elapsed_time_needs_two_timed_recorded_and_complete_events),
		conformance_test(a_stream_is_ready_when_its_work_is_done),
		conformance_test(work_of_one_stream_runs_in_order),
		conformance_test(the_default_stream_waits_for_blocking_streams_and_they_for_it),
		conformance_test(a_non_blocking_stream_and_the_default_stream_do_not_wait_for_each_other),
		conformance_test(a_non_blocking_stream_runs_while_the_default_stream_is_held),
		conformance_test(context_synchronisation_waits_for_every_stream),
		conformance_test(a_destroyed_stream_completes_its_work),
		conformance_test(a_host_function_runs_in_stream_order),
		conformance_test(launch_arguments_are_copied_when_the_launch_is_submitted),
		conformance_test(a_synchronous_copy_has_read_its_pageable_source_when_it_returns),
		conformance_test(an_asynchronous_copy_to_pinned_memory_runs_in_stream_order),
		conformance_test(mapping_new_memory_does_not_disturb_a_kernel_that_runs_elsewhere),
	};

	return conformance_main(argc, argv, tests);
}
