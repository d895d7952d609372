/*
 * driver/softcuda/space.c: the address space of the device: ranges, sorted by address, and the mappings in them.
 *
 * The host's page tables are the device's: a reservation is PROT_NONE, a mapping is a shared mapping of the handle's
 * pages, access is mprotect. The tables here repeat this, for the rules of the API and for the checks of copies; a
 * kernel's accesses are checked by the MMU alone.
 */
#include "memory.h"
#include "module.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct sc_range **ranges; /* sorted by base */
static size_t range_count, range_capacity;
static uint64_t last_range_id;

/* The last unmaps, so that a fault can name the one that took the memory away. */
static struct unmap {
	uintptr_t base;
	size_t size;
	const char *call;
} unmaps[256];
static atomic_uint_fast64_t unmap_serial; /* written under sc_lock, read without it by launches */

static size_t round_up(size_t bytes, size_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

/* Index of the first range that ends behind `address`. */
static size_t range_index(uintptr_t address)
{
	size_t low = 0, high = range_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (ranges[middle]->base + ranges[middle]->size <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct sc_range *sc_range_find(uintptr_t address)
{
	size_t index = range_index(address);

	return index < range_count && ranges[index]->base <= address ? ranges[index] : NULL;
}

static CUresult range_add(const struct sc_range *what, struct sc_range **out)
{
	struct sc_range *range;
	size_t index = range_index(what->base);

	if (range_count == range_capacity) {
		size_t capacity = range_capacity ? 2 * range_capacity : 64;
		struct sc_range **grown = realloc(ranges, capacity * sizeof(*grown));

		if (!grown)
			return CUDA_ERROR_OUT_OF_MEMORY;
		ranges = grown;
		range_capacity = capacity;
	}
	range = malloc(sizeof(*range));
	if (!range)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*range = *what;
	range->id = ++last_range_id;
	memmove(&ranges[index + 1], &ranges[index], (range_count - index) * sizeof(*ranges));
	ranges[index] = range;
	range_count++;
	*out = range;
	return CUDA_SUCCESS;
}

/* Address space of `size` bytes whose base is a multiple of `alignment`; 0 where there is none. */
static uintptr_t space_take(size_t size, size_t alignment, uintptr_t hint)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uintptr_t start, base;
	void *at;

	if (hint && hint % alignment == 0) {
		at = mmap((void *)hint, size, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
		if (at == (void *)hint)
			return hint;
		if (at != MAP_FAILED)
			munmap(at, size); /* a kernel that does not know the flag takes the address for a hint */
	}
	if (size > SIZE_MAX - alignment)
		return 0;
	at = mmap(NULL, size + alignment, PROT_NONE, flags, -1, 0);
	if (at == MAP_FAILED)
		return 0;
	start = (uintptr_t)at;
	base = round_up(start, alignment);
	if (base > start)
		munmap(at, base - start);
	munmap((void *)(base + size), start + alignment - base);
	return base;
}

CUresult sc_range_reserve(size_t size, size_t alignment, uintptr_t hint, struct sc_range **out)
{
	struct sc_range what = {.kind = SC_RESERVED, .size = size, .footprint = size};
	CUresult error;

	what.base = space_take(size, alignment, hint);
	if (!what.base)
		return CUDA_ERROR_OUT_OF_MEMORY;
	error = range_add(&what, out);
	if (error)
		munmap((void *)what.base, size);
	return error;
}

CUresult sc_range_allocate(size_t size, struct sc_context *context, struct sc_range **out)
{
	CUmemAllocationProp properties = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location.type = CU_MEM_LOCATION_TYPE_DEVICE};
	struct sc_range what = {.kind = SC_ALLOCATED, .size = size, .context = context};
	size_t page = sc_page_bytes(), pages;
	struct sc_handle *handle;
	CUresult error;

	if (size > sc_settings.memory_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pages = round_up(size, page);
	what.footprint = pages + page; /* a guard page behind it: an overrun faults, and does not reach a neighbour */
	error = sc_handle_create(pages, &properties, &handle);
	if (error)
		return error;
	handle->references = 0; /* its mapping holds it */
	what.base = space_take(what.footprint, page, 0);
	error = what.base ? range_add(&what, out) : CUDA_ERROR_OUT_OF_MEMORY;
	if (error)
		goto out_space;
	error = sc_mapping_add(*out, what.base, pages, handle);
	if (error)
		goto out_range;
	error = sc_run_set_access(*out, 0, 1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	if (!error)
		return CUDA_SUCCESS;
	sc_range_free(*out);
	return error;

out_range:
	sc_range_free(*out);
	what.base = 0;
out_space:
	if (what.base)
		munmap((void *)what.base, what.footprint);
	sc_handle_put(handle);
	return error;
}

CUresult sc_range_allocate_host(size_t size, struct sc_context *context, struct sc_range **out)
{
	struct sc_range what = {.kind = SC_HOST, .size = size, .context = context};
	CUresult error;
	void *at;

	if (size > SIZE_MAX / 2)
		return CUDA_ERROR_OUT_OF_MEMORY;
	what.footprint = round_up(size, sc_page_bytes());
	at = mmap(NULL, what.footprint, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	what.base = (uintptr_t)at;
	error = range_add(&what, out);
	if (error)
		munmap(at, what.footprint);
	return error;
}

CUresult sc_range_register(uintptr_t base, size_t size, struct sc_context *context, struct sc_range **out)
{
	struct sc_range what = {.kind = SC_REGISTERED, .base = base, .size = size, .context = context};
	size_t index = range_index(base);

	if (index < range_count && ranges[index]->base < base + size)
		return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	return range_add(&what, out);
}

CUresult sc_range_add_global(uintptr_t base, size_t size, const void *image, struct sc_range **out)
{
	struct sc_range what = {.kind = SC_GLOBAL, .base = base, .size = size, .image = image};

	return range_add(&what, out);
}

size_t sc_pool_used(uint64_t pool)
{
	size_t used = 0;

	for (size_t i = 0; i < range_count; i++)
		used += ranges[i]->pool == pool ? ranges[i]->size : 0;
	return used;
}

void sc_globals_free_of(const struct sc_image *image)
{
	for (size_t i = range_count; i-- > 0;) {
		if (ranges[i]->kind == SC_GLOBAL && ranges[i]->image == image)
			sc_range_free(ranges[i]);
	}
}

static void mapping_drop(struct sc_mapping *mapping)
{
	mapping->handle->populated -= mapping->populated;
	mapping->handle->mappings--;
	sc_handle_put(mapping->handle);
}

void sc_range_free(struct sc_range *range)
{
	size_t index = range_index(range->base);

	for (size_t i = 0; i < range->mapping_count; i++)
		mapping_drop(&range->mappings[i]);
	if (range->footprint)
		munmap((void *)range->base, range->footprint);
	memmove(&ranges[index], &ranges[index + 1], (range_count - index - 1) * sizeof(*ranges));
	range_count--;
	free(range->mappings);
	free(range);
}

void sc_ranges_free_of(struct sc_context *context)
{
	for (size_t i = range_count; i-- > 0;) {
		if (ranges[i]->context == context)
			sc_range_free(ranges[i]);
	}
}

void sc_space_reset(void)
{
	struct sc_handle *handle;
	size_t cursor = 0;

	while (range_count)
		sc_range_free(ranges[range_count - 1]);
	while ((handle = sc_object_next(SC_HANDLE, &cursor))) {
		handle->references = 0;
		sc_handle_put(handle);
	}
}

void sc_space_abandon(void)
{
	for (size_t i = 0; i < range_count; i++) {
		if (ranges[i]->kind == SC_RESERVED || ranges[i]->kind == SC_ALLOCATED)
			munmap((void *)ranges[i]->base, ranges[i]->footprint);
	}
	range_count = 0; /* the tables are left as they are: nothing is called here any more */
}

void sc_space_count(struct softcuda_counters *out)
{
	for (size_t i = 0; i < range_count; i++) {
		if (ranges[i]->kind == SC_RESERVED) {
			out->reservations++;
			out->mappings += ranges[i]->mapping_count;
		}
		out->allocations += ranges[i]->kind == SC_ALLOCATED;
		out->host_allocations += ranges[i]->kind == SC_HOST;
	}
	out->physical_bytes = sc_physical_used();
}

/* ---- mappings ---- */

/* Index of the first mapping that ends behind `address`. */
static size_t mapping_index(const struct sc_range *range, uintptr_t address)
{
	size_t low = 0, high = range->mapping_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (range->mappings[middle].base + range->mappings[middle].size <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct sc_mapping *sc_mapping_find(struct sc_range *range, uintptr_t address)
{
	size_t index = mapping_index(range, address);

	return index < range->mapping_count && range->mappings[index].base <= address ? &range->mappings[index] : NULL;
}

CUresult sc_mapping_add(struct sc_range *range, uintptr_t base, size_t size, struct sc_handle *handle)
{
	size_t index = mapping_index(range, base);

	if (index < range->mapping_count && range->mappings[index].base < base + size)
		return CUDA_ERROR_INVALID_VALUE;
	if (range->mapping_count == range->mapping_capacity) {
		size_t capacity = range->mapping_capacity ? 2 * range->mapping_capacity : 1;
		struct sc_mapping *grown = realloc(range->mappings, capacity * sizeof(*grown));

		if (!grown)
			return CUDA_ERROR_OUT_OF_MEMORY;
		range->mappings = grown;
		range->mapping_capacity = capacity;
	}
	if (mmap((void *)base, size, PROT_NONE, MAP_SHARED | MAP_FIXED, handle->fd, handle->offset) == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memmove(&range->mappings[index + 1], &range->mappings[index],
		(range->mapping_count - index) * sizeof(*range->mappings));
	range->mappings[index] = (struct sc_mapping){
		.base = base, .size = size, .handle = handle, .access = CU_MEM_ACCESS_FLAGS_PROT_NONE};
	range->mapping_count++;
	handle->mappings++;
	return CUDA_SUCCESS;
}

/* Is [base, base + size) made of whole mappings with no hole between them? */
bool sc_run_is_whole(struct sc_range *range, uintptr_t base, size_t size, size_t *first, size_t *count)
{
	size_t index = mapping_index(range, base);
	uintptr_t at = base, end = base + size;

	*first = index;
	while (at < end) {
		if (index == range->mapping_count || range->mappings[index].base != at)
			return false;
		at += range->mappings[index++].size;
	}
	*count = index - *first;
	return at == end;
}

CUresult sc_run_unmap(struct sc_range *range, size_t first, size_t count)
{
	struct sc_mapping *run = &range->mappings[first];
	uintptr_t base = run[0].base, end = run[count - 1].base + run[count - 1].size;

	if (mmap((void *)base, end - base, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
		MAP_FAILED)
		return CUDA_ERROR_UNMAP_FAILED;
	for (size_t i = 0; i < count; i++)
		mapping_drop(&run[i]);
	memmove(run, run + count, (range->mapping_count - first - count) * sizeof(*run));
	range->mapping_count -= count;
	return CUDA_SUCCESS;
}

static int protection_of(CUmemAccess_flags access)
{
	return access == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? PROT_READ | PROT_WRITE
	       : access == CU_MEM_ACCESS_FLAGS_PROT_READ    ? PROT_READ
							    : PROT_NONE;
}

/*
 * The page tables are filled now, as a GPU's are, so that kernels take no minor faults; an older kernel fills them late. That
 * costs by the page, so it is done for one mapping of each block, which is also what PSS needs to count the block; others
 * take their faults.
 */
static void populate(struct sc_mapping *mapping)
{
	if (mapping->access == CU_MEM_ACCESS_FLAGS_PROT_NONE || mapping->handle->populated)
		return;
#ifdef MADV_POPULATE_WRITE
	madvise((void *)mapping->base, mapping->size,
		mapping->access == CU_MEM_ACCESS_FLAGS_PROT_READ ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
#endif
	mapping->populated = true;
	mapping->handle->populated++;
}

CUresult sc_run_set_access(struct sc_range *range, size_t first, size_t count, CUmemAccess_flags access)
{
	struct sc_mapping *run = &range->mappings[first];
	uintptr_t base = run[0].base;
	size_t size = run[count - 1].base + run[count - 1].size - base;

	if (mprotect((void *)base, size, protection_of(access)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t i = 0; i < count; i++) {
		run[i].access = access;
		populate(&run[i]);
	}
	return CUDA_SUCCESS;
}

/* ---- what an address is ---- */

bool sc_is_known(uintptr_t address)
{
	bool known;

	pthread_mutex_lock(&sc_lock);
	known = sc_range_find(address) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return known;
}

bool sc_is_pinned(uintptr_t address, size_t size)
{
	struct sc_range *range;
	bool pinned;

	pthread_mutex_lock(&sc_lock);
	range = sc_range_find(address);
	pinned = range && (range->kind == SC_HOST || range->kind == SC_REGISTERED) &&
		 size <= range->base + range->size - address;
	pthread_mutex_unlock(&sc_lock);
	return pinned;
}

static bool access_allows(CUmemAccess_flags access, bool write)
{
	return write ? access == CU_MEM_ACCESS_FLAGS_PROT_READWRITE : access != CU_MEM_ACCESS_FLAGS_PROT_NONE;
}

/* The first address in [at, end) that may not be accessed, or `end`. */
static uintptr_t first_forbidden(uintptr_t at, uintptr_t end, bool write)
{
	while (at < end) {
		struct sc_range *range = sc_range_find(at);
		struct sc_mapping *mapping = range ? sc_mapping_find(range, at) : NULL;

		if (!range)
			return at;
		if (range->kind == SC_HOST || range->kind == SC_REGISTERED || range->kind == SC_GLOBAL) {
			at = range->base + range->size;
		} else if (!mapping || !access_allows(mapping->access, write)) {
			return at;
		} else {
			/* An allocation ends where the program's size ends, not with its last page. */
			uintptr_t mapped = mapping->base + mapping->size, limit = range->base + range->size;

			at = mapped < limit ? mapped : limit;
		}
	}
	return end;
}

static void explain(uintptr_t address, uint64_t since, char *text, size_t bytes)
{
	struct sc_range *range = sc_range_find(address);
	struct sc_mapping *mapping = range ? sc_mapping_find(range, address) : NULL;
	uint64_t oldest = unmap_serial > 256 ? unmap_serial - 256 : 0;

	for (uint64_t i = unmap_serial; i > since && i > oldest; i--) {
		const struct unmap *gone = &unmaps[(i - 1) % 256];

		if (address - gone->base < gone->size) {
			snprintf(text, bytes, "memory that %s took away while this was pending", gone->call);
			return;
		}
	}
	if (!range)
		snprintf(text, bytes, "not an address of the device");
	else if (!mapping && range->kind == SC_RESERVED)
		snprintf(text, bytes, "reserved, not mapped (reservation of %zu bytes at %#zx)", range->size,
			(size_t)range->base);
	else if (!mapping)
		snprintf(text, bytes, "%s of %zu bytes at %#zx%s",
			range->kind == SC_GLOBAL ? "a module's variable" : "host memory", range->size,
			(size_t)range->base,
			range->kind == SC_REGISTERED ? " (if a file is mapped there, it has become shorter)" : "");
	else
		snprintf(text, bytes, "mapped %s",
			mapping->access == CU_MEM_ACCESS_FLAGS_PROT_NONE
				? "without access: cuMemSetAccess was not called"
			: mapping->access == CU_MEM_ACCESS_FLAGS_PROT_READ ? "read-only"
									   : "for reading and writing");
}

void sc_address_explain(uintptr_t address, uint64_t since, char *text, size_t bytes)
{
	pthread_mutex_lock(&sc_lock);
	explain(address, since, text, bytes);
	pthread_mutex_unlock(&sc_lock);
}

bool sc_space_check(uintptr_t address, size_t size, bool write, char *why, size_t why_bytes)
{
	uintptr_t forbidden;
	char text[160];

	if (size > UINTPTR_MAX - address) {
		snprintf(why, why_bytes, "%zu bytes at %#zx: past the end of the address space", size, (size_t)address);
		return false;
	}
	pthread_mutex_lock(&sc_lock);
	forbidden = first_forbidden(address, address + size, write);
	if (forbidden != address + size) {
		explain(forbidden, unmap_serial, text, sizeof(text));
		snprintf(why, why_bytes, "%s at %#zx: %s", write ? "write" : "read", (size_t)forbidden, text);
	}
	pthread_mutex_unlock(&sc_lock);
	return forbidden == address + size;
}

uint64_t sc_unmap_serial(void)
{
	return unmap_serial;
}

void sc_unmap_remember(uintptr_t base, size_t size, const char *call)
{
	unmaps[unmap_serial % 256] = (struct unmap){base, size, call};
	unmap_serial++;
}
