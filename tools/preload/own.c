/*
 * tools/preload/own.c: memory that the program creates and maps itself (PyTorch's expandable segments, vLLM's sleep mode), with
 * memory=reserved in the layout.
 *
 * Where such memory is mapped decides whether it is needed at all, as a borrower has its owner's. So cuMemCreate gives the program a
 * ticket, and the memory is made when it is mapped: the driver's own for addresses that are none of a cache's, ours (cache.c) for
 * those that are. A mapping may have a part of each.
 */
#include "preload.h"

#include <pthread.h>
#include <stdlib.h>

#define PIECES 2 /* before and behind what is ours */

struct ticket {
	struct ticket *next;
	size_t bytes, granule;
	CUmemAllocationProp prop;
	unsigned long long flags;
	int references;
	CUmemGenericAllocationHandle piece[PIECES]; /* the driver's own memory, 0: none */
	size_t piece_bytes[PIECES];
	CUdeviceptr start;    /* of the mapping, of which a part is a cache's: */
	CUdeviceptr from, to; /* 0, 0: none */
	bool was_mapped;      /* to a cache, and is no more: its content is lost */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ticket *tickets;
static atomic_int reservations, ticket_count; /* for hooks that need not look */

static bool is_asked(void)
{
	const struct shim_settings *settings = shim_settings();

	return !settings->off && settings->layout.reserved && !settings->inspect_path;
}

/* Its address is the handle: the driver's are its own pointers, or small numbers. One that the program has released is none. */
static struct ticket *ticket_find(CUmemGenericAllocationHandle handle)
{
	struct ticket *ticket = tickets;

	while (ticket && (!ticket->references || (CUmemGenericAllocationHandle)(uintptr_t)ticket != handle))
		ticket = ticket->next;
	return ticket;
}

/* Once nobody has a reference, and nothing of it is mapped to a cache. */
static void ticket_settle(struct ticket *ticket)
{
	struct ticket **link = &tickets;

	if (ticket->references || ticket->to)
		return;
	while (*link != ticket)
		link = &(*link)->next;
	*link = ticket->next;
	free(ticket);
	atomic_fetch_sub(&ticket_count, 1);
}

/*
 * Some of it came from cuMemAlloc: whatever is behind it, to the program it is nothing that it mapped, and calls for such memory
 * are refused. What they did would reach the owner's blocks.
 */
static bool is_allocated(CUdeviceptr ptr, size_t size)
{
	const struct shim_ranges *ranges = shim_ranges();
	const struct shim_range *range;
	CUdeviceptr base;
	size_t bytes;

	if (!shim_cache_any())
		return false;
	if (shim_cache_find(ptr, &base, &bytes) || (size && shim_cache_find(ptr + size - 1, &base, &bytes)))
		return true;
	range = ranges ? shim_range_next(ranges, ptr) : NULL;
	return range && range->base > ptr && range->base - ptr < size && shim_cache_find(range->base, &base, &bytes);
}

/* ---- addresses ---- */

/* Some of it is mapped to a cache. */
static bool is_mapped(CUdeviceptr ptr, size_t size)
{
	bool mapped = false;

	pthread_mutex_lock(&lock);
	for (const struct ticket *ticket = tickets; ticket; ticket = ticket->next)
		mapped |= ticket->to && ptr < ticket->to && ptr + size > ticket->from;
	pthread_mutex_unlock(&lock);
	return mapped;
}

CUresult CUDAAPI cuMemAddressReserve(
	CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
	const struct shim_real *driver = shim_real();
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	CUresult result;

	if (!driver->cuMemAddressReserve)
		return SHIM_ABSENT;
	result = driver->cuMemAddressReserve(ptr, size, alignment, addr, flags);
	if (result)
		return result;
	if (shim_settings()->inspect_path)
		shim_inspect_allocated("cuMemAddressReserve", *ptr, size);
	if (shim_settings()->probe_path)
		shim_probe_reserved(*ptr, size);
	if (is_asked()) {
		atomic_fetch_add(&reservations, 1);
		shim_cache_reserve(*ptr, size);
	}
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
	const struct shim_real *driver = shim_real();
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);

	if (!driver->cuMemAddressFree)
		return SHIM_ABSENT;
	if (is_allocated(ptr, size))
		return CUDA_ERROR_INVALID_VALUE;
	if (shim_settings()->inspect_path)
		shim_inspect_freed(ptr);
	if (shim_settings()->probe_path)
		shim_probe_freed(ptr);
	if (is_asked() && is_mapped(ptr, size))
		return CUDA_ERROR_INVALID_VALUE;
	if (is_asked() && shim_cache_unreserve(ptr, size))
		return CUDA_SUCCESS;
	return driver->cuMemAddressFree(ptr, size);
}

/* ---- tickets ---- */

/* Memory of another kind than the device's own is passed through, and what would not fit is for the driver to refuse. */
static bool can_wait(size_t size, const CUmemAllocationProp *prop, size_t *granule, size_t *room)
{
	const struct shim_real *driver = shim_real();
	size_t total;

	return size && prop && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
	       prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && driver->cuMemGetAllocationGranularity &&
	       !driver->cuMemGetAllocationGranularity(granule, prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) && *granule &&
	       size % *granule == 0 && driver->cuMemGetInfo_v2 && !driver->cuMemGetInfo_v2(room, &total) &&
	       size <= *room;
}

/* What the tickets that are not mapped yet will take, as far as the program knows. Under the lock. */
static size_t bytes_to_come(void)
{
	size_t bytes = 0;

	for (const struct ticket *ticket = tickets; ticket; ticket = ticket->next)
		if (!ticket->to && !ticket->piece[0] && !ticket->was_mapped)
			bytes += ticket->bytes;
	return bytes;
}

static bool ticket_add(struct ticket *ticket, size_t room)
{
	bool fits;

	pthread_mutex_lock(&lock);
	fits = bytes_to_come() + ticket->bytes <= room;
	if (fits) {
		ticket->next = tickets;
		tickets = ticket;
		atomic_fetch_add(&ticket_count, 1);
	}
	pthread_mutex_unlock(&lock);
	return fits;
}

CUresult CUDAAPI cuMemCreate(
	CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	const struct shim_real *driver = shim_real();
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	size_t granule = 0, room = 0;
	struct ticket *ticket;

	if (!driver->cuMemCreate)
		return SHIM_ABSENT;
	if (!handle || !is_asked() || !can_wait(size, prop, &granule, &room))
		return driver->cuMemCreate(handle, size, prop, flags);
	ticket = calloc(1, sizeof(*ticket));
	if (!ticket)
		return driver->cuMemCreate(handle, size, prop, flags);
	ticket->bytes = size;
	ticket->granule = granule;
	ticket->prop = *prop;
	ticket->flags = flags;
	ticket->references = 1;
	if (!ticket_add(ticket, room)) { /* as the driver says, had it made the others */
		free(ticket);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*handle = (CUmemGenericAllocationHandle)(uintptr_t)ticket;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle)
{
	const struct shim_real *driver = shim_real();
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	struct ticket *ticket = NULL;

	if (!driver->cuMemRelease)
		return SHIM_ABSENT;
	if (atomic_load(&ticket_count)) {
		pthread_mutex_lock(&lock);
		ticket = ticket_find(handle);
		if (ticket && !--ticket->references) {
			for (int i = 0; i < PIECES; i++)
				if (ticket->piece[i]) {
					driver->cuMemRelease(ticket->piece[i]);
					ticket->piece[i] = 0; /* the ticket may stay, and be retained once more */
				}
			ticket_settle(ticket);
		}
		pthread_mutex_unlock(&lock);
	}
	return ticket ? CUDA_SUCCESS : driver->cuMemRelease(handle);
}

CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	struct ticket *ticket = NULL;

	if (!driver->cuMemGetAllocationPropertiesFromHandle)
		return SHIM_ABSENT;
	if (prop && atomic_load(&ticket_count)) {
		pthread_mutex_lock(&lock);
		ticket = ticket_find(handle);
		if (ticket)
			*prop = ticket->prop;
		pthread_mutex_unlock(&lock);
	}
	return ticket ? CUDA_SUCCESS : driver->cuMemGetAllocationPropertiesFromHandle(prop, handle);
}

/* The driver's own memory for `bytes` of it; the same as before if there is some. */
static CUresult piece_make(struct ticket *ticket, int i, size_t bytes)
{
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (ticket->piece[i])
		return ticket->piece_bytes[i] == bytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
	result = driver->cuMemCreate(&ticket->piece[i], bytes, &ticket->prop, ticket->flags);
	if (!result)
		ticket->piece_bytes[i] = bytes;
	else
		ticket->piece[i] = 0;
	return result;
}

/* What was made for a call that the driver then refused; else the handle could not be mapped to a cache any more. */
static void piece_drop(struct ticket *ticket, int i, bool was_there)
{
	if (!was_there && ticket->piece[i]) {
		shim_real()->cuMemRelease(ticket->piece[i]);
		ticket->piece[i] = 0;
	}
}

/* As the program asks, of memory of the driver's own. */
static CUresult ticket_pass(
	struct ticket *ticket, CUdeviceptr ptr, size_t size, size_t offset, unsigned long long flags)
{
	bool was_there = ticket->piece[0] != 0;
	CUresult result = piece_make(ticket, 0, ticket->bytes);

	if (!result)
		result = shim_real()->cuMemMap(ptr, size, offset, ticket->piece[0], flags);
	if (result)
		piece_drop(ticket, 0, was_there);
	return result;
}

CUresult CUDAAPI cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
	CUmemAllocationHandleType handleType, unsigned long long flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_EXPORTS);
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;
	struct ticket *ticket = NULL;

	if (!driver->cuMemExportToShareableHandle)
		return SHIM_ABSENT;
	if (atomic_load(&ticket_count)) {
		pthread_mutex_lock(&lock);
		ticket = ticket_find(handle);
		if (ticket && (ticket->to || ticket->was_mapped))
			result = CUDA_ERROR_NOT_SUPPORTED;
		else if (ticket)
			result = piece_make(ticket, 0, ticket->bytes);
		if (ticket && !result)
			handle = ticket->piece[0];
		pthread_mutex_unlock(&lock);
	}
	if (result == CUDA_ERROR_NOT_SUPPORTED)
		shim_say("the program shares its cache with another process (cuMemExportToShareableHandle), which is "
			 "refused for memory that layers share");
	return result ? result : driver->cuMemExportToShareableHandle(shareableHandle, handle, handleType, flags);
}

/* ---- mapping ---- */

static CUresult piece_map(struct ticket *ticket, int i, CUdeviceptr from, CUdeviceptr to)
{
	CUresult result = from == to ? CUDA_SUCCESS : piece_make(ticket, i, to - from);

	if (result || from == to)
		return result;
	result = shim_real()->cuMemMap(from, to - from, 0, ticket->piece[i], 0);
	if (result)
		piece_drop(ticket, i, false);
	return result;
}

/* [from, to) is ours, what lies before and behind it the driver's. */
static CUresult map_in_parts(struct ticket *ticket, CUdeviceptr start, CUdeviceptr from, CUdeviceptr to)
{
	CUdeviceptr end = start + ticket->bytes;
	CUresult result = piece_map(ticket, 0, start, from);

	if (result)
		return result;
	result = piece_map(ticket, 1, to, end);
	if (result && from > start) {
		shim_real()->cuMemUnmap(start, from - start);
		piece_drop(ticket, 0, false);
	}
	return result;
}

/* None of these addresses are of a cache and mapped. Under the lock. */
static bool is_free(CUdeviceptr start, size_t size)
{
	for (const struct ticket *ticket = tickets; ticket; ticket = ticket->next)
		if (ticket->to && start < ticket->start + ticket->bytes && start + size > ticket->start)
			return false;
	return true;
}

static CUresult ticket_map(
	struct ticket *ticket, CUdeviceptr start, size_t size, size_t offset, unsigned long long flags)
{
	CUdeviceptr from = start, to = start + size;
	bool ours = shim_cache_part(&from, &to, false);
	CUresult result;

	if (!is_free(start, size))
		return CUDA_ERROR_INVALID_VALUE;
	if (ticket->to || ticket->was_mapped || (ours && ticket->piece[0])) {
		shim_say("the program maps memory of its cache a second time, which is refused: layers share it");
		return CUDA_ERROR_NOT_SUPPORTED;
	}
	if (!ours || offset || flags || size != ticket->bytes || start % ticket->granule)
		return ticket_pass(ticket, start, size, offset, flags);
	if (!shim_cache_map(from, to, ticket->prop.location.id, &result)) /* which has been said: plain memory it is */
		return result ? result : ticket_pass(ticket, start, size, 0, 0);
	result = map_in_parts(ticket, start, from, to);
	if (result) {
		shim_cache_unmap(from, to);
		return result;
	}
	ticket->start = start;
	ticket->from = from;
	ticket->to = to;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemMap(
	CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;
	struct ticket *ticket = NULL;

	if (!driver->cuMemMap)
		return SHIM_ABSENT;
	if (atomic_load(&ticket_count)) {
		pthread_mutex_lock(&lock);
		ticket = ticket_find(handle);
		if (ticket)
			result = ticket_map(ticket, ptr, size, offset, flags);
		pthread_mutex_unlock(&lock);
	}
	return ticket ? result : driver->cuMemMap(ptr, size, offset, handle, flags);
}

/* Mappings are unmapped as a whole. */
static bool are_whole(CUdeviceptr ptr, size_t size)
{
	CUdeviceptr end = ptr + size;

	for (const struct ticket *ticket = tickets; ticket; ticket = ticket->next) {
		CUdeviceptr stop = ticket->start + ticket->bytes;

		if (ticket->to && ptr < stop && end > ticket->start && (ptr > ticket->start || end < stop))
			return false;
	}
	return true;
}

/* Of the part that is ours, some is mapped, but not all of [ptr, ptr + size). Under the lock. */
static bool has_holes(CUdeviceptr ptr, size_t size)
{
	CUdeviceptr end = ptr + size;

	while (ptr < end) {
		CUdeviceptr from = ptr, to = end;
		size_t mapped = 0;

		if (!shim_cache_part(&from, &to, true))
			return false;
		for (const struct ticket *ticket = tickets; ticket; ticket = ticket->next) {
			CUdeviceptr first = ticket->from > from ? ticket->from : from;
			CUdeviceptr last = ticket->to < to ? ticket->to : to;

			mapped += first < last ? last - first : 0;
		}
		if (mapped != to - from)
			return true;
		ptr = to;
	}
	return false;
}

/* Calls `plain` with each part of [ptr, ptr + size) that is not ours, and `ours` (NULL: nothing) with the others. */
static CUresult in_parts(CUdeviceptr ptr, size_t size, CUresult (*plain)(void *, CUdeviceptr, size_t), void *arg,
	void (*ours)(CUdeviceptr, CUdeviceptr))
{
	CUdeviceptr end = ptr + size;
	CUresult result = CUDA_SUCCESS;

	while (ptr < end && !result) {
		CUdeviceptr from = ptr, to = end;
		if (!shim_cache_part(&from, &to, true))
			return plain(arg, ptr, end - ptr);
		if (from > ptr)
			result = plain(arg, ptr, from - ptr);
		if (!result && ours)
			ours(from, to);
		ptr = to;
	}
	return result;
}

static CUresult unmap_plain(void *arg, CUdeviceptr ptr, size_t size)
{
	(void)arg;
	return shim_real()->cuMemUnmap(ptr, size);
}

static void unmap_ours(CUdeviceptr from, CUdeviceptr to)
{
	shim_cache_unmap(from, to);
	for (struct ticket *ticket = tickets, *next; ticket; ticket = next) {
		next = ticket->next;
		if (!ticket->to || ticket->from < from || ticket->to > to)
			continue;
		ticket->start = ticket->from = ticket->to = 0;
		ticket->was_mapped = true;
		ticket_settle(ticket);
	}
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	CUresult result;
	bool waits;

	if (!driver->cuMemUnmap)
		return SHIM_ABSENT;
	if (is_allocated(ptr, size))
		return CUDA_ERROR_INVALID_VALUE;
	if (!shim_cache_any() || !atomic_load(&reservations))
		return driver->cuMemUnmap(ptr, size);
	waits = shim_wait_begin();
	pthread_mutex_lock(&lock);
	result = are_whole(ptr, size) && !has_holes(ptr, size) ? in_parts(ptr, size, unmap_plain, NULL, unmap_ours)
							       : CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_unlock(&lock);
	shim_wait_end(waits);
	return result;
}

struct access {
	const CUmemAccessDesc *desc;
	size_t count;
};

static CUresult access_plain(void *arg, CUdeviceptr ptr, size_t size)
{
	const struct access *access = arg;

	return shim_real()->cuMemSetAccess(ptr, size, access->desc, access->count);
}

/* Ours may be read and written where the program may, since it was mapped. */
CUresult CUDAAPI cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	struct access access = {desc, count};
	bool holes;

	if (!driver->cuMemSetAccess)
		return SHIM_ABSENT;
	if (is_allocated(ptr, size))
		return CUDA_ERROR_INVALID_VALUE;
	if (!shim_cache_any() || !atomic_load(&reservations))
		return driver->cuMemSetAccess(ptr, size, desc, count);
	pthread_mutex_lock(&lock);
	holes = has_holes(ptr, size);
	pthread_mutex_unlock(&lock);
	return holes || !desc || !count ? CUDA_ERROR_INVALID_VALUE : in_parts(ptr, size, access_plain, &access, NULL);
}

CUresult CUDAAPI cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	CUdeviceptr from = ptr, to = ptr + 1;
	CUresult result;

	if (!driver->cuMemGetAccess)
		return SHIM_ABSENT;
	if (is_allocated(ptr, 1))
		return CUDA_ERROR_INVALID_VALUE;
	result = driver->cuMemGetAccess(flags, location, ptr);
	if (!result && *flags && shim_cache_any() && atomic_load(&reservations) && shim_cache_part(&from, &to, true))
		*flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	return result;
}

CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	CUdeviceptr address = (CUdeviceptr)(uintptr_t)addr;
	struct ticket *ticket = NULL;

	if (!driver->cuMemRetainAllocationHandle)
		return SHIM_ABSENT;
	if (is_allocated(address, 1))
		return CUDA_ERROR_INVALID_VALUE;
	if (handle && atomic_load(&ticket_count)) {
		pthread_mutex_lock(&lock);
		for (ticket = tickets; ticket && (address < ticket->from || address >= ticket->to);)
			ticket = ticket->next;
		if (ticket) {
			ticket->references++;
			*handle = (CUmemGenericAllocationHandle)(uintptr_t)ticket;
		}
		pthread_mutex_unlock(&lock);
	}
	return ticket ? CUDA_SUCCESS : driver->cuMemRetainAllocationHandle(handle, addr);
}

/* ---- where else such a handle may go ---- */

/* The driver's own handle for all of a ticket's memory; 0: it is mapped to a cache, or cannot be made. Others are as they are. */
static CUmemGenericAllocationHandle whole_of(CUmemGenericAllocationHandle handle, const char *call, CUresult *result)
{
	CUmemGenericAllocationHandle whole = handle;
	struct ticket *ticket = NULL;

	*result = CUDA_SUCCESS;
	if (!atomic_load(&ticket_count))
		return handle;
	pthread_mutex_lock(&lock);
	ticket = ticket_find(handle);
	if (ticket && (ticket->to || ticket->was_mapped))
		*result = CUDA_ERROR_NOT_SUPPORTED;
	else if (ticket)
		*result = piece_make(ticket, 0, ticket->bytes);
	if (ticket)
		whole = *result ? 0 : ticket->piece[0];
	pthread_mutex_unlock(&lock);
	if (*result == CUDA_ERROR_NOT_SUPPORTED)
		shim_say("the program binds memory of its cache a second time (%s), which is refused: layers share it",
			call);
	return whole;
}

CUresult CUDAAPI cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
	CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size, unsigned long long flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuMulticastBindMem)
		return SHIM_ABSENT;
	memHandle = whole_of(memHandle, "cuMulticastBindMem", &result);
	return result ? result : driver->cuMulticastBindMem(mcHandle, mcOffset, memHandle, memOffset, size, flags);
}

/* Of a sparse array or a mipmapped one; unmapping has no handle. */
static CUresult arrays_map(
	const CUarrayMapInfo *given, unsigned count, CUstream stream, __typeof__(cuMemMapArrayAsync) *call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_MAPPINGS);
	CUresult result = CUDA_SUCCESS;
	CUarrayMapInfo *infos;

	if (!call)
		return SHIM_ABSENT;
	if (!given || !count || !atomic_load(&ticket_count))
		return call((CUarrayMapInfo *)given, count, stream);
	infos = malloc(count * sizeof(*infos));
	if (!infos)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (unsigned i = 0; !result && i < count; i++) {
		infos[i] = given[i];
		if (given[i].memOperationType == CU_MEM_OPERATION_TYPE_MAP &&
			given[i].memHandleType == CU_MEM_HANDLE_TYPE_GENERIC)
			infos[i].memHandle.memHandle =
				whole_of(given[i].memHandle.memHandle, "cuMemMapArrayAsync", &result);
	}
	if (!result)
		result = call(infos, count, stream);
	free(infos);
	return result;
}

CUresult CUDAAPI cuMemMapArrayAsync(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return arrays_map(mapInfoList, count, hStream, shim_real()->cuMemMapArrayAsync);
}

CUresult CUDAAPI cuMemMapArrayAsync_ptsz(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return arrays_map(mapInfoList, count, hStream, shim_real()->cuMemMapArrayAsync_ptsz);
}

void shim_own_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	tickets = NULL;
	atomic_store(&ticket_count, 0);
	atomic_store(&reservations, 0);
}
