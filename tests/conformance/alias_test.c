/*
 * One handle at several addresses: who sees whose writes, what survives what, and how a program can tell. Coherence is
 * guide 4.16.5.3, Virtual Aliasing Support: writes through one address are incoherent with the others "until the writing
 * device operation (grid launch, memcpy, memset, and so on) completes", so each test orders the reader behind the writer,
 * by a stream or an event. Handles that cross to another process are aliases too.
 */
#include "conformance.h"

#include <unistd.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE
#define RO CU_MEM_ACCESS_FLAGS_PROT_READ

static size_t words(const struct range *r)
{
	return r->bytes / sizeof(unsigned);
}

/* ---- coherence ---- */

/* Guide 4.16.5.3: foo1 writes through A, foo2 reads through B, "ordered monotonically (by streams or events)". */
static void a_launch_through_one_address_sees_an_earlier_launch_through_the_other(void **state)
{
	struct range a = range_new(2, RW), b = range_alias(&a, RW), result = range_new(2, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);

	(void)state;
	launch_fill(stream, a.at, 1000, words(&a));
	launch_add(stream, result.at, b.at, 7, words(&a));
	assert_words(result.at, result.bytes, 1007);
	launch_add(stream, b.at, b.at, 1, words(&a)); /* and the other way round */
	launch_add(stream, result.at, a.at, 0, words(&a));
	assert_words(result.at, result.bytes, 1001);
	must(cu->cuStreamDestroy(stream));
	range_free(&result);
	range_unmap(&b);
	range_free(&a);
}

/* The same over many turns: no turn may read what the turn before it left in a cache. */
static void addresses_that_take_turns_never_read_a_stale_word(void **state)
{
	struct range a = range_new(1, RW), b = range_alias(&a, RW);
	enum { TURNS = 50 };

	(void)state;
	must(cu->cuMemsetD8(a.at, 0, a.bytes));
	for (int turn = 0; turn < TURNS; turn++)
		launch_add(NULL, turn % 2 ? b.at : a.at, turn % 2 ? a.at : b.at, 1, words(&a));
	assert_words(a.at, a.bytes, TURNS);
	assert_words(b.at, b.bytes, TURNS);
	range_unmap(&b);
	range_free(&a);
}

/* The same ordering by an event, reader and writer in streams of their own. */
static void an_event_orders_a_reader_behind_a_writer_through_the_other_address(void **state)
{
	struct range a = range_new(2, RW), b = range_alias(&a, RO), result = range_new(2, RW);
	CUstream writer = stream_new(CU_STREAM_NON_BLOCKING), reader = stream_new(CU_STREAM_NON_BLOCKING);
	CUevent written = event_new(CU_EVENT_DISABLE_TIMING);

	(void)state;
	launch_fill(writer, a.at, 0xabcd, words(&a));
	must(cu->cuEventRecord(written, writer));
	must(cu->cuStreamWaitEvent(reader, written, 0));
	launch_add(reader, result.at, b.at, 1, words(&a));
	assert_words(result.at, result.bytes, 0xabce);
	must(cu->cuEventDestroy(written));
	must(cu->cuStreamDestroy(writer));
	must(cu->cuStreamDestroy(reader));
	range_free(&result);
	range_unmap(&b);
	range_free(&a);
}

/* Guide 4.16.5.3: a memcpyAsync through B, then foo1 through A: "Aliases are allowed at operation boundaries". */
static void copies_and_memsets_through_one_address_are_seen_through_the_other(void **state)
{
	struct range a = range_new(1, RW), b = range_alias(&a, RW), other = range_new(1, RW);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	unsigned word = 0x600d;

	(void)state;
	must(cu->cuMemsetD8Async(a.at, 0x0f, a.bytes, stream));
	launch_add(stream, other.at, b.at, 0, words(&a));
	assert_words(other.at, other.bytes, 0x0f0f0f0f);
	launch_fill(stream, other.at, 5, words(&a));
	must(cu->cuMemcpyDtoDAsync(b.at, other.at, other.bytes, stream));
	launch_add(stream, a.at, a.at, 1, words(&a));
	assert_words(b.at, b.bytes, 6);
	must(cu->cuMemcpyHtoD(a.at + 64, &word, sizeof(word)));
	assert_int_equal(word_at(b.at + 64), 0x600d);
	must(cu->cuStreamDestroy(stream));
	range_free(&other);
	range_unmap(&b);
	range_free(&a);
}

/* cuMemSetAccess grants access to an address range, not to a handle: owner and borrower may differ. */
static void an_owner_that_writes_and_a_borrower_that_only_reads_share_one_handle(void **state)
{
	struct range owner = range_new(1, RW), borrower = range_alias(&owner, RO), result = range_new(1, RW);

	(void)state;
	assert_int_equal(access_of(owner.at), RW);
	assert_int_equal(access_of(borrower.at), RO);
	launch_fill(NULL, owner.at, 31, words(&owner));
	launch_add(NULL, result.at, borrower.at, 0, words(&owner));
	assert_words(result.at, result.bytes, 31);
	assert_words(borrower.at, borrower.bytes, 31); /* a copy reads it too */
	must(set_access(owner.at, owner.bytes, RO));   /* and the owner can be sealed */
	launch_add(NULL, result.at, owner.at, 1, words(&owner));
	assert_words(result.at, result.bytes, 32);
	range_free(&result);
	range_unmap(&borrower);
	range_free(&owner);
}

/* "multiple virtual memory mappings ... to the same allocation", also within one reservation. */
static void one_handle_may_be_mapped_three_times_in_one_reservation(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(granule);
	CUdeviceptr at = reservation_new(3 * granule);
	size_t count = granule / sizeof(unsigned);

	(void)state;
	for (int i = 0; i < 3; i++)
		map(at + i * granule, granule, handle);
	must(set_access(at, 3 * granule, RW));
	for (unsigned i = 0; i < 3; i++) {
		launch_fill(NULL, at + i * granule, 100 + i, count);
		assert_words(at, 3 * granule, 100 + i);
	}
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 3 * granule));
	must(cu->cuMemRelease(handle));
}

/* cuMemRelease: memory is freed "when all outstanding mappings to the memory are unmapped", not when the first is. */
static void unmapping_one_address_leaves_data_and_access_of_the_other(void **state)
{
	struct range a = range_new(2, RW), b = range_alias(&a, RO);

	(void)state;
	launch_fill(NULL, a.at, 0x5eed, words(&a));
	must(cu->cuCtxSynchronize());
	range_unmap(&a);
	assert_words(b.at, b.bytes, 0x5eed);
	assert_int_equal(access_of(b.at), RO);
	range_unmap(&b);
	must(cu->cuMemRelease(a.handle));
}

/* One allocation is paid for once, however often it is mapped (cuMemMap creates mappings, cuMemCreate allocations). */
static void a_second_mapping_costs_no_device_memory(void **state)
{
	struct range a = range_new(32, RW);
	size_t was = free_memory();
	struct range b = range_alias(&a, RW);

	(void)state;
	assert_true(was - free_memory() < a.bytes / 2);
	range_unmap(&b);
	range_free(&a);
}

/* ---- cuPointerGetAttribute ---- */

static unsigned long long attribute(CUpointer_attribute which, CUdeviceptr at)
{
	unsigned long long value = 0; /* large enough for each of them, and zero where a type is shorter */

	must(cu->cuPointerGetAttribute(&value, which, at));
	return value;
}

/* CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: "A process-wide unique id corresponding to the physical allocation". */
static void block_id_is_equal_for_aliases_and_differs_between_handles(void **state)
{
	struct range a = range_new(2, RW), b = range_alias(&a, RO), other = range_new(2, RW);
	unsigned long long id = attribute(CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, a.at);

	(void)state;
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, b.at), id);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, b.at + b.bytes - 1), id);
	assert_int_not_equal(attribute(CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, other.at), id);
	range_free(&other);
	range_unmap(&b);
	range_free(&a);
}

/*
 * MAPPING_BASE_ADDR and MAPPING_SIZE are of "the mapping that the pointer belongs to"; RANGE_START_ADDR and RANGE_SIZE
 * are "the address [and size] of the mappable address range ptr references (e.g. from cuMemAddressReserve)".
 */
static void mapping_attributes_tell_the_mapping_and_range_attributes_the_reservation(void **state)
{
	CUmemGenericAllocationHandle one = handle_new(granule), two = handle_new(2 * granule);
	CUdeviceptr at = reservation_new(4 * granule), inside = at + 2 * granule + 12;

	(void)state;
	map(at, granule, one);
	map(at + granule, 2 * granule, two);
	must(set_access(at, 3 * granule, RW));
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, inside), at + granule);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MAPPING_SIZE, inside), 2 * granule);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, at + 4), at);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MAPPING_SIZE, at + 4), granule);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, inside), at);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_RANGE_SIZE, inside), 4 * granule);
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 4 * granule));
	must(cu->cuMemRelease(one));
	must(cu->cuMemRelease(two));
}

/* CU_POINTER_ATTRIBUTE_MAPPED: "1 if this pointer is in a valid address range that is mapped to a backing allocation". */
static void mapped_attribute_is_one_for_a_mapping_and_refused_for_a_bare_reservation(void **state)
{
	struct range r = range_new(1, RW);
	CUdeviceptr bare = reservation_new(granule);
	int mapped;

	(void)state;
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MAPPED, r.at), 1);
	must_be(CUDA_ERROR_INVALID_VALUE, cu->cuPointerGetAttribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, bare));
	must(cu->cuMemAddressFree(bare, granule));
	range_free(&r);
}

/* CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: what "the device associated with the current context has on the ... memory". */
static void access_attribute_tells_what_set_access_granted(void **state)
{
	struct range a = range_new(1, RW), b = range_alias(&a, RO);

	(void)state;
	assert_int_equal(
		attribute(CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, a.at), CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, b.at), CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ);
	range_unmap(&b);
	range_free(&a);
}

/* CU_POINTER_ATTRIBUTE_MEMORY_TYPE, DEVICE_ORDINAL, IS_MANAGED: device memory of the device in the properties. */
static void a_mapping_is_unmanaged_memory_of_its_device(void **state)
{
	struct range r = range_new(1, RW);

	(void)state;
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, r.at), CU_MEMORYTYPE_DEVICE);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, r.at), prop.location.id);
	assert_int_equal(attribute(CU_POINTER_ATTRIBUTE_IS_MANAGED, r.at), 0);
	range_free(&r);
}

/* ---- cuMemExportToShareableHandle, cuMemImportFromShareableHandle ---- */

static struct range exportable_new(size_t granules)
{
	CUmemAllocationProp exportable = prop;
	struct range r = {.at = reservation_new(granules * granule), .bytes = granules * granule};

	exportable.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	must(cu->cuMemCreate(&r.handle, r.bytes, &exportable, 0));
	map(r.at, r.bytes, r.handle);
	must(set_access(r.at, r.bytes, RW));
	return r;
}

static int export_fd(CUmemGenericAllocationHandle handle)
{
	int fd = -1;

	must(driver_function(cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	assert_true(fd >= 0);
	return fd;
}

static struct range import_fd(int fd, size_t bytes)
{
	struct range r = {.at = reservation_new(bytes), .bytes = bytes};

	must(driver_function(cuMemImportFromShareableHandle)(
		&r.handle, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	map(r.at, r.bytes, r.handle);
	must(set_access(r.at, r.bytes, RW));
	return r;
}

/* "The recipient ... can convert the shareable handle back into a CUDA memory handle ... and map it with cuMemMap." */
static void an_imported_handle_is_the_same_memory_also_when_its_descriptor_is_closed(void **state)
{
	struct range a = exportable_new(2), b;
	int fd = export_fd(a.handle);

	(void)state;
	b = import_fd(fd, a.bytes);
	assert_int_equal(close(fd), 0);
	launch_fill(NULL, a.at, 77, words(&a));
	assert_words(b.at, b.bytes, 77);
	launch_fill(NULL, b.at, 78, words(&b));
	assert_words(a.at, a.bytes, 78);
	range_free(&b);
	range_free(&a);
}

/* cuMemRelease: freed when "all outstanding references to the handle (including it's shareable counterparts) are". */
static void a_descriptor_keeps_the_memory_after_its_exporter_let_go(void **state)
{
	struct range a = exportable_new(1), b;
	int fd = export_fd(a.handle);

	(void)state;
	must(cu->cuMemsetD8(a.at, 0x21, a.bytes));
	range_free(&a);
	b = import_fd(fd, a.bytes);
	assert_words(b.at, b.bytes, 0x21212121);
	assert_int_equal(close(fd), 0);
	range_free(&b);
}

/* CUmemAllocationProp::requestedHandleTypes; CU_MEM_HANDLE_TYPE_NONE "Does not allow any export mechanism." */
static void export_refuses_a_handle_that_was_not_created_for_it(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(granule);
	struct range r = exportable_new(1);
	int fd = -1;

	(void)state;
	must_refuse(driver_function(cuMemExportToShareableHandle)(
		&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	must_refuse(driver_function(cuMemExportToShareableHandle)(
		&fd, r.handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 1)); /* "flags - Reserved, must be zero" */
	range_free(&r);
	must(cu->cuMemRelease(handle));
}

/* "create a shareable memory allocation handle that can be used to share the memory with other processes" */
static void another_process_writes_memory_it_imported(void **state)
{
	struct range r = exportable_new(1);
	int fd = export_fd(r.handle);

	(void)state;
	must(cu->cuMemsetD8(r.at, 1, r.bytes));
	must(cu->cuCtxSynchronize());
	if (in_child(__func__, fd)) { /* the descriptor it makes of its own is of no use here */
		struct range imported = import_fd(CHILD_FD, r.bytes);

		assert_int_equal(word_at(imported.at), 0x01010101);
		launch_fill(NULL, imported.at, 4711, words(&imported));
		must(cu->cuCtxSynchronize());
		range_free(&imported);
	} else {
		assert_words(r.at, r.bytes, 4711);
	}
	assert_int_equal(close(fd), 0);
	range_free(&r);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(a_launch_through_one_address_sees_an_earlier_launch_through_the_other),
		conformance_test(addresses_that_take_turns_never_read_a_stale_word),
		conformance_test(an_event_orders_a_reader_behind_a_writer_through_the_other_address),
		conformance_test(copies_and_memsets_through_one_address_are_seen_through_the_other),
		conformance_test(an_owner_that_writes_and_a_borrower_that_only_reads_share_one_handle),
		conformance_test(one_handle_may_be_mapped_three_times_in_one_reservation),
		conformance_test(unmapping_one_address_leaves_data_and_access_of_the_other),
		conformance_test(a_second_mapping_costs_no_device_memory),
		conformance_test(block_id_is_equal_for_aliases_and_differs_between_handles),
		conformance_test(mapping_attributes_tell_the_mapping_and_range_attributes_the_reservation),
		conformance_test(mapped_attribute_is_one_for_a_mapping_and_refused_for_a_bare_reservation),
		conformance_test(access_attribute_tells_what_set_access_granted),
		conformance_test(a_mapping_is_unmanaged_memory_of_its_device),
		conformance_test(an_imported_handle_is_the_same_memory_also_when_its_descriptor_is_closed),
		conformance_test(a_descriptor_keeps_the_memory_after_its_exporter_let_go),
		conformance_test(export_refuses_a_handle_that_was_not_created_for_it),
		conformance_test(another_process_writes_memory_it_imported),
	};

	return conformance_main(argc, argv, tests);
}
