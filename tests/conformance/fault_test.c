/*
 * Accesses that a mapping does not allow, and what is left after one. A fault loses the context for good ("To continue
 * using CUDA, the process must be terminated and relaunched", cuda.h at CUDA_ERROR_ILLEGAL_ADDRESS), so each test runs in
 * a process of its own. Where no text of NVIDIA says what happens, a real driver's answer is recorded and softcuda's,
 * which promises the same fault as for a kernel, is asserted.
 */
#include "conformance.h"

#include <string.h>
#include <unistd.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE
#define RO CU_MEM_ACCESS_FLAGS_PROT_READ
#define NONE CU_MEM_ACCESS_FLAGS_PROT_NONE

static const size_t COUNT = 256; /* words that a faulting kernel goes over */

/*
 * A launch succeeds and its fault arrives with the next synchronisation: cuda.h, functions may "return error codes from
 * previous, asynchronous launches".
 */
static void write_must_fault(CUdeviceptr at)
{
	launch_fill(NULL, at, 1, COUNT);
	must_fault(cu->cuCtxSynchronize());
}

static void read_must_fault(CUdeviceptr at)
{
	struct range result = range_new(1, RW);

	launch_add(NULL, result.at, at, 0, COUNT);
	must_fault(cu->cuCtxSynchronize());
}

/* ---- what faults ---- */

/*
 * CU_MEM_ACCESS_FLAGS_PROT_READ is "read accessible" only; CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ: "writes to this memory
 * are considered invalid accesses". On a GPU the MMU reports FAULT_RO_VIOLATION.
 */
static void a_kernel_write_through_prot_read_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RO);
	write_must_fault(r.at);
}

/* The same where another address of that memory may be written: access belongs to the address. */
static void a_kernel_write_through_a_read_only_alias_faults(void **state)
{
	struct range owner, borrower;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	owner = range_new(1, RW);
	borrower = range_alias(&owner, RO);
	launch_fill(NULL, owner.at, 42, COUNT);
	assert_words(borrower.at, COUNT * sizeof(unsigned), 42);
	write_must_fault(borrower.at);
}

/* An owner that was writable and is sealed with PROT_READ faults from then on. */
static void a_kernel_write_after_access_was_reduced_to_prot_read_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	launch_fill(NULL, r.at, 1, COUNT);
	must(cu->cuCtxSynchronize());
	must(set_access(r.at, r.bytes, RO));
	write_must_fault(r.at);
}

/* cuMemMap: "calling cuMemMap does not make the address accessible" */
static void a_kernel_read_of_a_mapping_without_access_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, NONE);
	read_must_fault(r.at);
}

/* The same for a write, which no access was granted for either. */
static void a_kernel_write_to_a_mapping_without_access_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, NONE);
	write_must_fault(r.at);
}

/* CU_MEM_ACCESS_FLAGS_PROT_NONE: "make the address range not accessible" */
static void a_kernel_read_after_access_was_taken_away_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	must(set_access(r.at, r.bytes, NONE));
	read_must_fault(r.at);
}

/* cuMemUnmap: "all mappings start with no accessibility setup", also where an accessible one was before. */
static void a_kernel_read_of_a_second_mapping_without_new_access_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	must(cu->cuMemUnmap(r.at, r.bytes));
	map(r.at, r.bytes, r.handle);
	read_must_fault(r.at);
}

/* cuMemAddressReserve gives addresses without memory; CUDA_ERROR_ILLEGAL_ADDRESS: "an invalid memory address". */
static void a_kernel_read_of_a_bare_reservation_faults(void **state)
{
	(void)state;
	if (in_child(__func__, -1))
		read_must_fault(reservation_new(granule));
}

/* cuMemUnmap: "the address range is converted to an address reservation" */
static void a_kernel_read_of_unmapped_memory_faults(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	launch_fill(NULL, r.at, 1, COUNT);
	must(cu->cuCtxSynchronize());
	must(cu->cuMemUnmap(r.at, r.bytes));
	read_must_fault(r.at);
}

/* A kernel that runs over the end of what is mapped faults, although the reservation goes on. */
static void a_kernel_that_runs_past_the_last_mapping_faults(void **state)
{
	CUdeviceptr at;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	at = reservation_new(2 * granule);
	map(at, granule, handle_new(granule));
	must(set_access(at, granule, RW));
	launch_fill(NULL, at, 1, granule / sizeof(unsigned));
	must(cu->cuCtxSynchronize());
	launch_fill(NULL, at, 1, granule / sizeof(unsigned) + 1);
	must_fault(cu->cuCtxSynchronize());
}

/*
 * Copies and memsets are told at the call, and nothing is lost. Not documented but for "writes ... considered invalid
 * accesses" (ACCESS_FLAG_READ); an H200 does so.
 */
static void must_be_refused_at_the_call(CUresult result, const struct range *sealed)
{
	must_be(CUDA_ERROR_INVALID_VALUE, result);
	must(cu->cuCtxSynchronize());
	assert_words(sealed->at, COUNT * sizeof(unsigned), 7);
}

static struct range sealed_range(void)
{
	struct range r = range_new(1, RW);

	launch_fill(NULL, r.at, 7, COUNT);
	must(cu->cuCtxSynchronize());
	must(set_access(r.at, r.bytes, RO));
	return r;
}

static void a_memset_through_prot_read_is_refused(void **state)
{
	struct range r;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = sealed_range();
	must_be_refused_at_the_call(cu->cuMemsetD8(r.at, 1, r.bytes), &r);
	must_be_refused_at_the_call(cu->cuMemsetD8Async(r.at, 1, r.bytes, NULL), &r);
	range_free(&r);
}

static void a_copy_from_the_host_through_prot_read_is_refused(void **state)
{
	struct range r;
	unsigned word = 1;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = sealed_range();
	must_be_refused_at_the_call(cu->cuMemcpyHtoD(r.at, &word, sizeof(word)), &r);
	range_free(&r);
}

static void a_copy_on_the_device_through_prot_read_is_refused(void **state)
{
	struct range r, from;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = sealed_range();
	from = range_new(1, RW);
	must_be_refused_at_the_call(cu->cuMemcpyDtoDAsync(r.at, from.at, r.bytes, NULL), &r);
	range_free(&r);
	range_free(&from);
}

/* The same for memory without a mapping. */
static void a_copy_from_unmapped_memory_is_refused(void **state)
{
	CUdeviceptr bare;
	unsigned word;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	bare = reservation_new(granule);
	must_be(CUDA_ERROR_INVALID_VALUE, cu->cuMemcpyDtoH(&word, bare, sizeof(word)));
	must(cu->cuCtxSynchronize());
	must(cu->cuMemAddressFree(bare, granule));
}

/* ---- what is left ---- */

/* "any further CUDA work will return the same error" (cuda.h at CUDA_ERROR_ILLEGAL_ADDRESS) */
static void after_a_fault_every_call_that_works_on_the_context_fails_with_the_same_error(void **state)
{
	struct range r, sealed;
	CUstream stream;
	CUevent event;
	CUresult fault;
	unsigned word = 0;
	CUdeviceptr memory;
	unsigned *gate;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	sealed = range_new(1, RO);
	stream = stream_new(CU_STREAM_NON_BLOCKING);
	event = event_new(CU_EVENT_DISABLE_TIMING);
	gate = gate_new();
	gate_launch(stream, gate, 0); /* so that the fault cannot come before the event is recorded */
	launch_fill(stream, sealed.at, 1, COUNT);
	must(cu->cuEventRecord(event, stream));
	gate_open(gate);
	fault = must_fault(cu->cuStreamSynchronize(stream));
	must_be(fault, cu->cuStreamSynchronize(stream)); /* it is not forgotten once reported */
	must_be(fault, cu->cuCtxSynchronize());
	must_be(fault, cu->cuStreamQuery(stream));
	must_be(fault, cu->cuStreamSynchronize(NULL));
	must_be(fault, cu->cuEventQuery(event));
	must_be(fault, cu->cuEventSynchronize(event));
	must_be(fault, cu->cuMemAlloc(&memory, 4096));
	must_be(fault, cu->cuMemcpyHtoD(r.at, &word, sizeof(word)));
	must_be(fault, cu->cuMemcpyDtoH(&word, r.at, sizeof(word)));
	must_be(fault, cu->cuMemsetD8(r.at, 0, r.bytes));
	must_be(fault, cu->cuMemsetD8Async(r.at, 0, r.bytes, stream));
	must_be(fault, cu->cuEventRecord(event, stream));
	must_be(fault, cu->cuStreamCreate(&stream, 0));
}

/* A launch is such work too; its kernel does not run. */
static void after_a_fault_nothing_can_be_launched(void **state)
{
	struct range sealed;
	CUresult fault;
	unsigned *gate;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	sealed = range_new(1, RO);
	gate = gate_new();
	launch_fill(NULL, sealed.at, 1, COUNT);
	fault = must_fault(cu->cuCtxSynchronize());
	must_be(fault, gate_try_launch(NULL, gate, 0));
	usleep(50000);
	assert_int_equal(__atomic_load_n(&gate[GATE_STARTED], __ATOMIC_ACQUIRE), 0);
}

/*
 * Memory of cuMemCreate is "not associated with any CUDA context" (cuCtxDestroy), so what remains can be given back,
 * or the driver says the same error again; it never says another, crashes or hangs. softcuda gives it back.
 */
static void after_a_fault_memory_can_be_given_back_or_the_same_error_comes(void **state)
{
	struct range sealed;
	CUresult fault, results[3];

	(void)state;
	if (!in_child(__func__, -1))
		return;
	sealed = range_new(1, RO);
	launch_fill(NULL, sealed.at, 1, COUNT);
	fault = must_fault(cu->cuCtxSynchronize());
	results[0] = cu->cuMemUnmap(sealed.at, sealed.bytes);
	results[1] = cu->cuMemRelease(sealed.handle);
	results[2] = cu->cuMemAddressFree(sealed.at, sealed.bytes);
	record("unmap after a fault", results[0]);
	record("release after a fault", results[1]);
	record("address free after a fault", results[2]);
	for (int i = 0; i < 3; i++)
		if (results[i] != fault || cu->kind == KVS_DEVICE_HOST)
			must(results[i]);
}

static void set_word(void *word)
{
	__atomic_store_n((unsigned *)word, 1, __ATOMIC_RELEASE);
}

/* cuLaunchHostFunc: "the function will not be called in the event of an error in the CUDA context" */
static void a_host_function_behind_a_fault_is_not_called(void **state)
{
	static unsigned called;
	struct range sealed;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	sealed = range_new(1, RO);
	launch_fill(NULL, sealed.at, 1, COUNT);
	cu->cuLaunchHostFunc(NULL, set_word, &called); /* may already say that the launch before it faulted */
	must_fault(cu->cuCtxSynchronize());
	usleep(50000);
	assert_int_equal(__atomic_load_n(&called, __ATOMIC_ACQUIRE), 0);
}

/* "the process must be terminated and relaunched": a fault harms no other process, not even one with the same device. */
static void a_fault_in_one_process_leaves_the_others_alone(void **state)
{
	struct range r = range_new(1, RW);

	(void)state;
	launch_fill(NULL, r.at, 9, COUNT);
	a_kernel_write_through_prot_read_faults(state);
	launch_add(NULL, r.at, r.at, 1, COUNT);
	assert_words(r.at, COUNT * sizeof(unsigned), 10);
	range_free(&r);
}

/* ---- unmapping under a kernel ---- */

/*
 * cuMemUnmap waits for a kernel in flight, or pulls the memory from under it: its note_sync promises neither, and field
 * reports know both. A GPU's outcome is recorded. softcuda does not wait, counts the hazard, and faults.
 */
static void unmapping_under_a_running_kernel_is_a_hazard_and_ends_in_a_fault_or_in_completion(void **state)
{
	struct range r;
	unsigned *gate;
	size_t hazards;
	CUresult result;

	(void)state;
	if (!in_child(__func__, -1))
		return;
	r = range_new(1, RW);
	gate = gate_new();
	hazards = softcuda_counters_now().hazards;
	gate_launch(NULL, gate, r.at);
	gate_await_start(gate);
	must(cu->cuMemUnmap(r.at, r.bytes));
	gate_open(gate);
	result = cu->cuCtxSynchronize();
	record("synchronise with a kernel whose memory was unmapped", result);
	if (result || cu->kind == KVS_DEVICE_HOST)
		must_fault(result);
	if (cu->kind == KVS_DEVICE_HOST)
		assert_true(softcuda_counters_now().hazards > hazards);
}

/* The way to do it right: an event behind the last use, waited for, and then the unmapping. No hazard, no fault. */
static void unmapping_behind_an_event_that_follows_the_last_use_is_no_hazard(void **state)
{
	struct range r = range_new(1, RW);
	unsigned *gate = gate_new();
	CUevent used = event_new(CU_EVENT_DISABLE_TIMING);
	size_t hazards = softcuda_counters_now().hazards;

	(void)state;
	gate_launch(NULL, gate, r.at);
	must(cu->cuEventRecord(used, NULL));
	gate_await_start(gate);
	gate_open(gate);
	must(cu->cuEventSynchronize(used));
	range_free(&r);
	must(cu->cuCtxSynchronize());
	assert_int_equal(gate_outcome(gate), GATE_PASSED);
	assert_int_equal(softcuda_counters_now().hazards, hazards);
	must(cu->cuEventDestroy(used));
	gate_free(gate);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(a_kernel_write_through_prot_read_faults),
		conformance_test(a_kernel_write_through_a_read_only_alias_faults),
		conformance_test(a_kernel_write_after_access_was_reduced_to_prot_read_faults),
		conformance_test(a_kernel_read_of_a_mapping_without_access_faults),
		conformance_test(a_kernel_write_to_a_mapping_without_access_faults),
		conformance_test(a_kernel_read_after_access_was_taken_away_faults),
		conformance_test(a_kernel_read_of_a_second_mapping_without_new_access_faults),
		conformance_test(a_kernel_read_of_a_bare_reservation_faults),
		conformance_test(a_kernel_read_of_unmapped_memory_faults),
		conformance_test(a_kernel_that_runs_past_the_last_mapping_faults),
		conformance_test(a_memset_through_prot_read_is_refused),
		conformance_test(a_copy_from_the_host_through_prot_read_is_refused),
		conformance_test(a_copy_on_the_device_through_prot_read_is_refused),
		conformance_test(a_copy_from_unmapped_memory_is_refused),
		conformance_test(after_a_fault_every_call_that_works_on_the_context_fails_with_the_same_error),
		conformance_test(after_a_fault_nothing_can_be_launched),
		conformance_test(after_a_fault_memory_can_be_given_back_or_the_same_error_comes),
		conformance_test(a_host_function_behind_a_fault_is_not_called),
		conformance_test(a_fault_in_one_process_leaves_the_others_alone),
		conformance_test(unmapping_under_a_running_kernel_is_a_hazard_and_ends_in_a_fault_or_in_completion),
		conformance_test(unmapping_behind_an_event_that_follows_the_last_use_is_no_hazard),
	};

	return conformance_main(argc, argv, tests);
}
