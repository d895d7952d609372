/*
 * The rules of reserving, creating, mapping, granting access, unmapping and releasing, one test a rule; no kernel runs
 * here. Quotations are from the comments of cuda.h (CUDA 13.0) at the function named; "guide" is the CUDA Programming
 * Guide, section 4.16, Virtual Memory Management.
 */
#include "conformance.h"

#include <stdio.h>

#define RW CU_MEM_ACCESS_FLAGS_PROT_READWRITE
#define RO CU_MEM_ACCESS_FLAGS_PROT_READ
#define NONE CU_MEM_ACCESS_FLAGS_PROT_NONE

static size_t whole_granules(size_t bytes)
{
	return bytes / granule * granule;
}

/* ---- cuMemGetAllocationGranularity ---- */

/*
 * "This granularity can be used as a multiple for alignment, size, or address mapping", and an alignment "must be a
 * power of two" (cuMemAddressReserve). What is recommended must also be allowed.
 */
static void granularity_is_a_power_of_two_and_the_recommended_one_a_multiple_of_the_minimum(void **state)
{
	size_t minimum = 0, recommended = 0;

	(void)state;
	must(cu->cuMemGetAllocationGranularity(&minimum, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
	must(cu->cuMemGetAllocationGranularity(&recommended, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
	assert_true(minimum > 0 && (minimum & (minimum - 1)) == 0);
	assert_true(recommended > 0 && (recommended & (recommended - 1)) == 0);
	assert_int_equal(recommended % minimum, 0);
	assert_int_equal(minimum % page, 0);
	print_message("recorded: granularity: minimum %zu, recommended %zu\n", minimum, recommended);
}

/* "Calculates either the minimal or recommended granularity for a given allocation specification". */
static void granularity_for_given_properties_is_a_size_that_can_be_created_with_them(void **state)
{
	CUmemAllocationProp exportable = prop;
	CUmemGenericAllocationHandle handle;
	size_t bytes = 0;

	(void)state;
	exportable.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	must(cu->cuMemGetAllocationGranularity(&bytes, &exportable, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
	must(cu->cuMemCreate(&handle, bytes, &exportable, 0));
	must(cu->cuMemRelease(handle));
}

/* The allocation type CU_MEM_ALLOCATION_TYPE_INVALID is no "allocation specification"; an H200 answers all the same. */
static void granularity_of_an_invalid_allocation_type_is_refused_or_recorded(void **state)
{
	CUmemAllocationProp invalid = prop;
	size_t bytes = 0;

	(void)state;
	invalid.type = CU_MEM_ALLOCATION_TYPE_INVALID;
	passes_or_refused("granularity of an invalid allocation type",
		cu->cuMemGetAllocationGranularity(&bytes, &invalid, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
}

/* ---- cuMemAddressReserve, cuMemAddressFree ---- */

/* "the alignment must be a power of two or zero for default alignment" */
static void reserve_gives_ranges_that_are_aligned_as_asked_and_do_not_overlap(void **state)
{
	CUdeviceptr at[4];
	size_t bytes = 2 * granule;

	(void)state;
	for (int i = 0; i < 4; i++) {
		size_t alignment = i ? granule << i : 0;
		must(cu->cuMemAddressReserve(&at[i], bytes, alignment, 0, 0));
		if (alignment)
			assert_int_equal(at[i] % alignment, 0);
		for (int j = 0; j < i; j++)
			assert_true(at[i] >= at[j] + bytes || at[j] >= at[i] + bytes);
	}
	for (int i = 0; i < 4; i++)
		must(cu->cuMemAddressFree(at[i], bytes));
}

/*
 * "The size and address parameters must be a multiple of the host page size", but cuMemMap wants granules: an H200 refuses
 * a reservation that is not made of whole ones.
 */
static void reserve_takes_whole_granules_and_refuses_parts_of_one(void **state)
{
	CUdeviceptr at = 0;

	(void)state;
	must(cu->cuMemAddressReserve(&at, 3 * granule, 0, 0, 0));
	must(cu->cuMemAddressFree(at, 3 * granule));
	must_refuse(cu->cuMemAddressReserve(&at, granule + page, 0, 0, 0));
	must_refuse(cu->cuMemAddressReserve(&at, granule + 1, 0, 0, 0));
	must_refuse(cu->cuMemAddressReserve(&at, page / 2, 0, 0, 0));
	must_refuse(cu->cuMemAddressReserve(&at, granule, 0, page / 2, 0)); /* the address, too */
}

/* "the alignment must be a power of two or zero"; "flags - Currently unused, must be zero" */
static void reserve_refuses_other_alignments_and_flags(void **state)
{
	CUdeviceptr at = 0;

	(void)state;
	must_refuse(cu->cuMemAddressReserve(&at, granule, 3 * granule, 0, 0));
	must_refuse(cu->cuMemAddressReserve(&at, granule, 0, 0, 1));
}

/* "when it is non-zero then the driver treats it as a hint about where to place the reservation" */
static void reserve_treats_an_address_as_a_hint_and_never_gives_what_is_taken(void **state)
{
	CUdeviceptr taken = reservation_new(granule), at = 0;

	(void)state;
	must(cu->cuMemAddressReserve(&at, granule, granule, taken, 0));
	assert_true(at >= taken + granule || taken >= at + granule);
	must(cu->cuMemAddressFree(at, granule));
	must(cu->cuMemAddressFree(taken, granule));
	must(cu->cuMemAddressReserve(&at, granule, granule, taken, 0));
	print_message("recorded: a free address given as a hint is %s\n", at == taken ? "taken" : "not taken");
	must(cu->cuMemAddressFree(at, granule));
}

/*
 * Guide, Reserving a Virtual Address Range: a reservation "will not have any device or host physical memory associated
 * to it", so it may be larger than the device's memory.
 */
static void reserve_costs_no_device_memory(void **state)
{
	size_t bytes = whole_granules(2 * cu->memory_bytes), was = free_memory();
	CUdeviceptr at = reservation_new(bytes);

	(void)state;
	assert_int_equal(free_memory(), was);
	must(cu->cuMemAddressFree(at, bytes));
}

/* "The size must match what was given to memAddressReserve and the ptr given must match what was returned" */
static void address_free_refuses_another_size_or_address(void **state)
{
	CUdeviceptr at = reservation_new(4 * granule);

	(void)state;
	must_refuse(cu->cuMemAddressFree(at, 2 * granule));
	must_refuse(cu->cuMemAddressFree(at, 5 * granule));
	must_refuse(cu->cuMemAddressFree(at + granule, 3 * granule));
	must_refuse(cu->cuMemAddressFree(at + granule, 4 * granule));
	must(cu->cuMemAddressFree(at, 4 * granule));
	must_refuse(cu->cuMemAddressFree(at, 4 * granule));
}

/* "Frees a virtual address range reserved by cuMemAddressReserve": what cuMemAlloc gave is none, nor can it be mapped. */
static void memory_of_cuMemAlloc_is_no_reservation(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(granule);
	CUdeviceptr at = 0, inside;

	(void)state;
	must(cu->cuMemAlloc(&at, 2 * granule));
	inside = (at + granule - 1) / granule * granule;
	must_refuse(cu->cuMemAddressFree(at, 2 * granule));
	must_refuse(cu->cuMemMap(inside, granule, 0, handle, 0));
	must_refuse(cu->cuMemUnmap(at, 2 * granule));
	must(cu->cuMemFree(at));
	must(cu->cuMemRelease(handle));
}

/* Guide: "Users must ensure that the entire VA range is unmapped before calling cuMemAddressFree." */
static void address_free_refuses_a_range_with_a_mapping(void **state)
{
	CUdeviceptr at = reservation_new(2 * granule);
	CUmemGenericAllocationHandle handle = handle_new(granule);

	(void)state;
	map(at + granule, granule, handle);
	must_refuse(cu->cuMemAddressFree(at, 2 * granule));
	must(cu->cuMemUnmap(at + granule, granule));
	must(cu->cuMemAddressFree(at, 2 * granule));
	must(cu->cuMemRelease(handle));
}

/* ---- cuMemCreate ---- */

/* "The size of this allocation must be a multiple of the the value given via cuMemGetAllocationGranularity" */
static void create_refuses_sizes_that_are_no_whole_granules(void **state)
{
	CUmemGenericAllocationHandle handle;

	(void)state;
	must_refuse(cu->cuMemCreate(&handle, granule / 2, &prop, 0));
	must_refuse(cu->cuMemCreate(&handle, granule + page / 2, &prop, 0));
	must_refuse(cu->cuMemCreate(&handle, 0, &prop, 0));
}

/* "flags for future use, must be zero now"; "the target device specified through the prop structure" */
static void create_refuses_flags_unknown_devices_and_invalid_types(void **state)
{
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp other = prop;
	int devices = 0;

	(void)state;
	must_refuse(cu->cuMemCreate(&handle, granule, &prop, 1));
	must(cu->cuDeviceGetCount(&devices));
	other.location.id = devices;
	must_refuse(cu->cuMemCreate(&handle, granule, &other, 0));
	other = prop;
	other.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
	must_be(CUDA_ERROR_INVALID_VALUE, cu->cuMemCreate(&handle, granule, &other, 0));
	other = prop;
	other.type = CU_MEM_ALLOCATION_TYPE_INVALID;
	must_refuse(cu->cuMemCreate(&handle, granule, &other, 0));
}

/* CUDA_ERROR_OUT_OF_MEMORY is among its results; memory that is pinned (CU_MEM_ALLOCATION_TYPE_PINNED) has no more. */
static void create_of_more_than_the_device_has_is_out_of_memory_and_costs_nothing(void **state)
{
	CUmemGenericAllocationHandle handle;
	size_t was = free_memory();

	(void)state;
	must_be(CUDA_ERROR_OUT_OF_MEMORY, cu->cuMemCreate(&handle, whole_granules(2 * cu->memory_bytes), &prop, 0));
	assert_int_equal(free_memory(), was);
}

/* The one test that fills the device. It stops at the first refusal. */
static void create_is_refused_when_memory_has_run_out_and_succeeds_again_after_a_release(void **state)
{
	CUmemGenericAllocationHandle handles[9];
	size_t bytes = whole_granules(cu->memory_bytes / 8), count = 0;
	CUresult result = CUDA_SUCCESS;

	(void)state;
	while (count < 9 && !result) {
		result = cu->cuMemCreate(&handles[count], bytes, &prop, 0);
		count += !result;
	}
	must_be(CUDA_ERROR_OUT_OF_MEMORY, result);
	assert_true(count > 0);
	must(cu->cuMemRelease(handles[count - 1]));
	must(cu->cuMemCreate(&handles[count - 1], bytes, &prop, 0));
	while (count--)
		must(cu->cuMemRelease(handles[count]));
}

/* cuMemGetInfo: free is "the amount of memory on the device that is free according to the OS". */
static void free_memory_falls_at_create_and_rises_when_the_last_use_is_gone(void **state)
{
	size_t granules = 32, bytes = granules * granule, was = free_memory();
	struct range r = range_new(granules, RW);

	(void)state;
	assert_true(was - free_memory() >= bytes);
	must(cu->cuMemRelease(r.handle));
	assert_true(was - free_memory() >= bytes);
	range_unmap(&r);
	assert_true(free_memory() + bytes / 2 >= was);
}

/* cuMemGetAllocationPropertiesFromHandle: "the property structure defining properties for this handle" */
static void properties_of_a_handle_are_those_it_was_created_with(void **state)
{
	CUmemAllocationProp wanted = prop, found = {0};
	CUmemGenericAllocationHandle handle;

	(void)state;
	wanted.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	must(cu->cuMemCreate(&handle, granule, &wanted, 0));
	must(cu->cuMemGetAllocationPropertiesFromHandle(&found, handle));
	assert_int_equal(found.type, wanted.type);
	assert_int_equal(found.requestedHandleTypes, wanted.requestedHandleTypes);
	assert_int_equal(found.location.type, wanted.location.type);
	assert_int_equal(found.location.id, wanted.location.id);
	must(cu->cuMemRelease(handle));
}

/* ---- cuMemMap ---- */

/* "offset - Offset into the memory represented by handle from which to start mapping. Note: currently must be zero." */
static void map_refuses_an_offset_and_flags(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(2 * granule);
	CUdeviceptr at = reservation_new(2 * granule);

	(void)state;
	must_refuse(cu->cuMemMap(at, granule, granule, handle, 0));
	must_refuse(cu->cuMemMap(at, granule, 0, handle, 1)); /* "flags for future use, must be zero now" */
	must(cu->cuMemAddressFree(at, 2 * granule));
	must(cu->cuMemRelease(handle));
}

/* "Both ptr, size, and offset must be a multiple of the value given via cuMemGetAllocationGranularity" */
static void map_refuses_addresses_and_sizes_that_are_no_whole_granules(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(2 * granule);
	CUdeviceptr at = reservation_new(4 * granule);

	(void)state;
	must_refuse(cu->cuMemMap(at + granule / 2, granule, 0, handle, 0));
	must_refuse(cu->cuMemMap(at, granule + granule / 2, 0, handle, 0));
	must_refuse(cu->cuMemMap(at, 0, 0, handle, 0));
	must(cu->cuMemAddressFree(at, 4 * granule));
	must(cu->cuMemRelease(handle));
}

/* "cuMemMap can only create mappings on VA range reservations that are not currently mapped." */
static void map_refuses_a_range_that_is_mapped_wholly_or_in_part(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(2 * granule), other = handle_new(2 * granule);
	CUdeviceptr at = reservation_new(4 * granule);

	(void)state;
	map(at + granule, 2 * granule, handle);
	must_refuse(cu->cuMemMap(at + granule, 2 * granule, 0, other, 0));
	must_refuse(cu->cuMemMap(at + granule, 2 * granule, 0, handle, 0));
	must_refuse(cu->cuMemMap(at, 2 * granule, 0, other, 0));
	must_refuse(cu->cuMemMap(at + 2 * granule, 2 * granule, 0, other, 0));
	must(cu->cuMemUnmap(at + granule, 2 * granule)); /* the refusals have left the mapping whole */
	must(cu->cuMemAddressFree(at, 4 * granule));
	must(cu->cuMemRelease(handle));
	must(cu->cuMemRelease(other));
}

/*
 * "This range must be an address reservation previously reserved with cuMemAddressReserve". An H200 maps past the end of one;
 * the mapping then lies in the next reservation of that address, and keeps it from being freed. So nothing may be
 * left mapped here: neither test nor program can rely on a refusal.
 */
static void map_refuses_or_lets_pass_addresses_that_are_not_reserved(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(2 * granule);
	CUdeviceptr at = reservation_new(2 * granule);

	(void)state;
	if (passes_or_refused(
		    "map past the end of a reservation", cu->cuMemMap(at + granule, 2 * granule, 0, handle, 0)))
		must(cu->cuMemUnmap(at + granule, 2 * granule));
	must(cu->cuMemAddressFree(at, 2 * granule));
	if (passes_or_refused("map of a reservation that was freed", cu->cuMemMap(at, 2 * granule, 0, handle, 0)))
		must(cu->cuMemUnmap(at, 2 * granule));
	must(cu->cuMemRelease(handle));
}

/* "offset + size must be less than the size of the memory allocation" (equal is what all of NVIDIA's samples use) */
static void map_refuses_more_than_the_allocation_holds(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(granule);
	CUdeviceptr at = reservation_new(2 * granule);

	(void)state;
	must_refuse(cu->cuMemMap(at, 2 * granule, 0, handle, 0));
	must(cu->cuMemAddressFree(at, 2 * granule));
	must(cu->cuMemRelease(handle));
}

/*
 * The same sentence allows a size below the allocation's, which maps its beginning; an H200 does not support it, nor any
 * other part: what is mapped is a whole handle.
 */
static void map_takes_a_whole_allocation_and_no_part_of_it(void **state)
{
	CUmemGenericAllocationHandle handle = handle_new(3 * granule);
	CUdeviceptr at = reservation_new(3 * granule);

	(void)state;
	must_be(CUDA_ERROR_NOT_SUPPORTED, cu->cuMemMap(at, granule, 0, handle, 0));
	must_be(CUDA_ERROR_NOT_SUPPORTED, cu->cuMemMap(at, 2 * granule, 0, handle, 0));
	must_be(CUDA_ERROR_NOT_SUPPORTED, cu->cuMemMap(at, granule, granule, handle, 0));
	must_be(CUDA_ERROR_NOT_SUPPORTED, cu->cuMemMap(at, granule / 2, 0, handle, 0));
	map(at, 3 * granule, handle);
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 3 * granule));
	must(cu->cuMemRelease(handle));
}

/* Guide, Mapping Memory: allocations are placed anywhere in a reservation; the samples stripe one over several. */
static void map_places_allocations_side_by_side_as_one_array(void **state)
{
	CUdeviceptr at = reservation_new(3 * granule);
	size_t middle = granule / 2;

	(void)state;
	for (int i = 0; i < 3; i++) {
		CUmemGenericAllocationHandle handle = handle_new(granule);
		map(at + i * granule, granule, handle);
		must(cu->cuMemRelease(handle));
	}
	must(set_access(at, 3 * granule, RW));
	must(cu->cuMemsetD8(at, 0x55, 3 * granule));
	assert_words(at + middle, 2 * granule, 0x55555555); /* one copy over two borders */
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 3 * granule));
}

/* ---- cuMemSetAccess, cuMemGetAccess ---- */

/* cuMemUnmap: "all mappings start with no accessibility setup" */
static void mappings_start_without_access(void **state)
{
	struct range r = range_new(1, NONE);

	(void)state;
	assert_int_equal(access_of(r.at), NONE);
	range_free(&r);
}

/* "Get the access flags set for the given location and ptr": what cuMemSetAccess set last. */
static void set_access_may_be_changed_and_get_access_tells_the_last(void **state)
{
	const CUmemAccess_flags steps[] = {RW, RW, RO, RW, NONE, RO, NONE};
	struct range r = range_new(2, NONE);

	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		must(set_access(r.at, r.bytes, steps[i]));
		assert_int_equal(access_of(r.at), steps[i]);
		assert_int_equal(access_of(r.at + r.bytes - 1), steps[i]);
	}
	range_free(&r);
}

/* "The range must be a fully mapped address range containing all allocations created by cuMemMap / cuMemCreate." */
static void set_access_covers_several_mappings_and_leaves_their_neighbour(void **state)
{
	CUdeviceptr at = reservation_new(3 * granule);
	CUmemGenericAllocationHandle handle = handle_new(granule);

	(void)state;
	for (int i = 0; i < 3; i++)
		map(at + i * granule, granule, handle);
	must(set_access(at, 3 * granule, RO));
	must(set_access(at + granule, 2 * granule, RW));
	assert_int_equal(access_of(at), RO);
	assert_int_equal(access_of(at + granule), RW);
	assert_int_equal(access_of(at + 2 * granule), RW);
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 3 * granule));
	must(cu->cuMemRelease(handle));
}

/*
 * The same sentence: "a fully mapped address range". Where nothing is mapped it is refused. Over a hole an H200 answers success, and
 * yet not every mapping has the access: so that answer is worth nothing, and what it did is recorded alone.
 */
static void set_access_refuses_a_range_without_a_mapping_and_may_refuse_holes(void **state)
{
	CUdeviceptr at = reservation_new(4 * granule);
	CUmemGenericAllocationHandle handle = handle_new(granule);
	(void)state;
	must_refuse(set_access(at, granule, RW));
	map(at, granule, handle);
	map(at + 2 * granule, granule, handle);
	if (passes_or_refused("set access over a hole", set_access(at, 3 * granule, RW))) {
		printf("recorded: access before and behind the hole: %d, %d\n", access_of(at),
			access_of(at + 2 * granule));
	} else { /* a refusal changes nothing */
		assert_int_equal(access_of(at), NONE);
		assert_int_equal(access_of(at + 2 * granule), NONE);
	}
	passes_or_refused("set access on a mapping and what follows it", set_access(at + 2 * granule, 2 * granule, RW));
	must(cu->cuMemUnmap(at, granule));
	must(cu->cuMemUnmap(at + 2 * granule, granule));
	must(cu->cuMemAddressFree(at, 4 * granule));
	must(cu->cuMemRelease(handle));
}

/* CUDA_ERROR_INVALID_DEVICE is among the results of both: the location must be a device. */
static void set_access_and_get_access_refuse_an_unknown_device(void **state)
{
	struct range r = range_new(1, RW);
	CUmemAccessDesc access = {.location = prop.location, .flags = RO};
	unsigned long long flags;
	int devices = 0;

	(void)state;
	must(cu->cuDeviceGetCount(&devices));
	access.location.id = devices;
	must_refuse(cu->cuMemSetAccess(r.at, r.bytes, &access, 1));
	must_refuse(cu->cuMemGetAccess(&flags, &access.location, r.at));
	assert_int_equal(access_of(r.at), RW);
	range_free(&r);
}

/* Not documented, but "containing all allocations" suggests it. */
static void set_access_refuses_a_part_of_a_mapping(void **state)
{
	struct range r = range_new(2, RW);

	(void)state;
	must_be(CUDA_ERROR_INVALID_VALUE, set_access(r.at, granule, RO));
	must_be(CUDA_ERROR_INVALID_VALUE, set_access(r.at + granule, granule, RO));
	assert_int_equal(access_of(r.at), RW);
	assert_int_equal(access_of(r.at + granule), RW);
	range_free(&r);
}

/* ---- cuMemUnmap ---- */

/* "cuMemUnmap cannot unmap a sub-range of an address range mapped by cuMemCreate / cuMemMap." */
static void unmap_refuses_a_part_of_a_mapping(void **state)
{
	struct range r = range_new(3, RW);

	(void)state;
	must(cu->cuMemsetD8(r.at, 0x77, r.bytes));
	must_refuse(cu->cuMemUnmap(r.at, granule));
	must_refuse(cu->cuMemUnmap(r.at + granule, granule));
	must_refuse(cu->cuMemUnmap(r.at + granule, 2 * granule));
	assert_words(r.at, r.bytes, 0x77777777);
	range_free(&r);
}

/* "The range must be the entire contiguous address range that was mapped to": several mappings make one (vectorAddMMAP). */
static void unmap_takes_several_whole_mappings_in_one_call(void **state)
{
	CUdeviceptr at = reservation_new(3 * granule);
	CUmemGenericAllocationHandle one = handle_new(granule), two = handle_new(2 * granule);

	(void)state;
	map(at, granule, one);
	map(at + granule, 2 * granule, two);
	must_refuse(cu->cuMemUnmap(at, 2 * granule)); /* ends inside the second */
	must(cu->cuMemUnmap(at, 3 * granule));
	must(cu->cuMemAddressFree(at, 3 * granule));
	must(cu->cuMemRelease(one));
	must(cu->cuMemRelease(two));
}

/*
 * The same sentence, and "the address range is converted to an address reservation" once unmapped. An H200 answers success where nothing is
 * mapped too; softcuda refuses it, as an unmap of nothing is a mistake.
 */
static void unmap_of_a_hole_and_of_nothing_is_recorded(void **state)
{
	CUdeviceptr at = reservation_new(3 * granule);
	CUmemGenericAllocationHandle handle = handle_new(granule);

	(void)state;
	passes_or_refused("unmap where nothing is mapped", cu->cuMemUnmap(at, granule));
	map(at, granule, handle);
	map(at + 2 * granule, granule, handle);
	if (!passes_or_refused("unmap over a hole", cu->cuMemUnmap(at, 3 * granule))) {
		must(cu->cuMemUnmap(at, granule));
		must(cu->cuMemUnmap(at + 2 * granule, granule));
	}
	must(cu->cuMemAddressFree(at, 3 * granule)); /* refused while anything is mapped */
	must(cu->cuMemRelease(handle));
}

/*
 * "the address range is converted to an address reservation and can be used for a future calls to cuMemMap. Any new
 * mapping to this virtual address will need to have access granted through cuMemSetAccess"
 */
static void unmap_leaves_a_reservation_whose_next_mapping_needs_access_again(void **state)
{
	struct range r = range_new(1, RW);
	CUmemGenericAllocationHandle other = handle_new(granule);

	(void)state;
	must(cu->cuMemUnmap(r.at, granule));
	map(r.at, granule, other);
	assert_int_equal(access_of(r.at), NONE);
	must(set_access(r.at, granule, RW));
	must(cu->cuMemsetD8(r.at, 1, granule));
	must(cu->cuMemRelease(other));
	range_free(&r);
}

/* "Any backing memory allocations will be freed if there are no existing mappings and ... no unreleased memory handles" */
static void contents_survive_unmapping_while_the_handle_is_held(void **state)
{
	struct range r = range_new(2, RW);

	(void)state;
	must(cu->cuMemsetD8(r.at, 0x3c, r.bytes));
	must(cu->cuCtxSynchronize());
	must(cu->cuMemUnmap(r.at, r.bytes));
	map(r.at, r.bytes, r.handle);
	must(set_access(r.at, r.bytes, RO));
	assert_words(r.at, r.bytes, 0x3c3c3c3c);
	range_free(&r);
}

/* ---- cuMemRelease, cuMemRetainAllocationHandle ---- */

/* "The generic memory handle can be freed when there are still outstanding mappings made with this handle." */
static void release_while_mapped_leaves_the_memory_to_its_mappings(void **state)
{
	struct range a = range_new(2, RW), b = range_alias(&a, RW);

	(void)state;
	must(cu->cuMemRelease(a.handle));
	must(cu->cuMemsetD8(a.at, 0x42, a.bytes));
	range_unmap(&a);
	assert_words(b.at, b.bytes, 0x42424242);
	range_unmap(&b);
}

/* "guaranteed to be the same handle value used to map the memory"; "any address in a range previously mapped" */
static void retain_gives_the_handle_that_was_mapped_for_any_address_of_the_mapping(void **state)
{
	struct range r = range_new(2, RW);
	CUmemGenericAllocationHandle found = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		CUdeviceptr at = i < 2 ? r.at + i * granule : r.at + r.bytes - 1;
		must(cu->cuMemRetainAllocationHandle(&found, (void *)at));
		assert_int_equal(found, r.handle);
		must(cu->cuMemRelease(found));
	}
	range_free(&r);
}

/* "The returned handle must be released with corresponding number of calls to cuMemRelease." */
static void retain_counts_as_a_reference_to_the_memory(void **state)
{
	struct range r = range_new(1, RW);
	CUmemGenericAllocationHandle retained;

	(void)state;
	must(cu->cuMemsetD8(r.at, 0x66, r.bytes));
	must(cu->cuCtxSynchronize());
	must(cu->cuMemRetainAllocationHandle(&retained, (void *)r.at));
	must(cu->cuMemRelease(r.handle));
	must(cu->cuMemUnmap(r.at, r.bytes)); /* the retained reference is now the only one */
	map(r.at, r.bytes, retained);
	must(set_access(r.at, r.bytes, RO));
	assert_words(r.at, r.bytes, 0x66666666);
	range_unmap(&r);
	must(cu->cuMemRelease(retained));
}

/* "If the address requested is not mapped, the function will fail." */
static void retain_refuses_an_address_without_a_mapping(void **state)
{
	CUdeviceptr at = reservation_new(granule);
	CUmemGenericAllocationHandle found;

	(void)state;
	must_refuse(cu->cuMemRetainAllocationHandle(&found, (void *)at));
	must(cu->cuMemAddressFree(at, granule));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(granularity_is_a_power_of_two_and_the_recommended_one_a_multiple_of_the_minimum),
		conformance_test(granularity_for_given_properties_is_a_size_that_can_be_created_with_them),
		conformance_test(granularity_of_an_invalid_allocation_type_is_refused_or_recorded),
		conformance_test(reserve_gives_ranges_that_are_aligned_as_asked_and_do_not_overlap),
		conformance_test(reserve_takes_whole_granules_and_refuses_parts_of_one),
		conformance_test(reserve_refuses_other_alignments_and_flags),
		conformance_test(reserve_treats_an_address_as_a_hint_and_never_gives_what_is_taken),
		conformance_test(reserve_costs_no_device_memory),
		conformance_test(address_free_refuses_another_size_or_address),
		conformance_test(memory_of_cuMemAlloc_is_no_reservation),
		conformance_test(address_free_refuses_a_range_with_a_mapping),
		conformance_test(create_refuses_sizes_that_are_no_whole_granules),
		conformance_test(create_refuses_flags_unknown_devices_and_invalid_types),
		conformance_test(create_of_more_than_the_device_has_is_out_of_memory_and_costs_nothing),
		conformance_test(create_is_refused_when_memory_has_run_out_and_succeeds_again_after_a_release),
		conformance_test(free_memory_falls_at_create_and_rises_when_the_last_use_is_gone),
		conformance_test(properties_of_a_handle_are_those_it_was_created_with),
		conformance_test(map_refuses_an_offset_and_flags),
		conformance_test(map_refuses_addresses_and_sizes_that_are_no_whole_granules),
		conformance_test(map_refuses_a_range_that_is_mapped_wholly_or_in_part),
		conformance_test(map_refuses_or_lets_pass_addresses_that_are_not_reserved),
		conformance_test(map_refuses_more_than_the_allocation_holds),
		conformance_test(map_takes_a_whole_allocation_and_no_part_of_it),
		conformance_test(map_places_allocations_side_by_side_as_one_array),
		conformance_test(mappings_start_without_access),
		conformance_test(set_access_may_be_changed_and_get_access_tells_the_last),
		conformance_test(set_access_covers_several_mappings_and_leaves_their_neighbour),
		conformance_test(set_access_refuses_a_range_without_a_mapping_and_may_refuse_holes),
		conformance_test(set_access_and_get_access_refuse_an_unknown_device),
		conformance_test(set_access_refuses_a_part_of_a_mapping),
		conformance_test(unmap_refuses_a_part_of_a_mapping),
		conformance_test(unmap_takes_several_whole_mappings_in_one_call),
		conformance_test(unmap_of_a_hole_and_of_nothing_is_recorded),
		conformance_test(unmap_leaves_a_reservation_whose_next_mapping_needs_access_again),
		conformance_test(contents_survive_unmapping_while_the_handle_is_held),
		conformance_test(release_while_mapped_leaves_the_memory_to_its_mappings),
		conformance_test(retain_gives_the_handle_that_was_mapped_for_any_address_of_the_mapping),
		conformance_test(retain_counts_as_a_reference_to_the_memory),
		conformance_test(retain_refuses_an_address_without_a_mapping),
	};

	return conformance_main(argc, argv, tests);
}
