/*
 * driver/softcuda/memory.h: physical memory and the address space of the device.
 *
 * Physical memory is pages of memfds. An address range is what one call gave out (a reservation, an allocation of device
 * or host memory); a mapping puts a handle's pages at a part of a range. cuMemAlloc's memory is a range with a single
 * mapping of a handle that no program sees, so that every look-up has one form. All functions need sc_lock held,
 * except sc_space_check and sc_address_explain, which take it.
 */
#ifndef SOFTCUDA_MEMORY_H
#define SOFTCUDA_MEMORY_H

#include "state.h"

#include <sys/types.h>

struct sc_handle {
	uint64_t key; /* 0: behind an allocation, not cuMemCreate's */
	CUmemAllocationProp properties;
	size_t size;
	int fd; /* the arena's, or its own where it can be exported */
	bool own_fd, imported;
	off_t offset;
	size_t references, mappings;
	size_t populated; /* mappings whose page tables were filled: at most one needs to be */
	uint64_t block_id;
};

struct sc_mapping {
	uintptr_t base;
	size_t size;
	struct sc_handle *handle;
	CUmemAccess_flags access;
	bool populated;
};

enum sc_range_kind {
	SC_RESERVED,   /* cuMemAddressReserve */
	SC_ALLOCATED,  /* cuMemAlloc and its async and pool forms */
	SC_HOST,       /* cuMemAllocHost, cuMemHostAlloc */
	SC_REGISTERED, /* cuMemHostRegister */
	SC_GLOBAL,     /* a variable of a module */
};

struct sc_range {
	enum sc_range_kind kind;
	uintptr_t base;
	size_t size;      /* as the program asked for it */
	size_t footprint; /* whole pages, with the guard page behind an allocation */
	uint64_t id;
	struct sc_context *context;  /* the owner of an allocation; NULL for a reservation */
	uint64_t pool;               /* key of the pool that it came from, or 0 */
	unsigned flags;              /* cuMemHostAlloc's */
	bool managed;                /* cuMemAllocManaged's */
	const void *image;           /* the module's that a variable belongs to */
	struct sc_mapping *mappings; /* sorted by base */
	size_t mapping_count, mapping_capacity;
};

size_t sc_page_bytes(void);
size_t sc_physical_used(void);
size_t sc_pool_used(uint64_t pool); /* by allocations from the pool of this key */
void sc_space_count(struct softcuda_counters *out);
void sc_space_reset(void);
void sc_space_abandon(void); /* in a child: unmaps the device's memory */

/* Handles. What create gives has one reference; a handle goes with its last reference and mapping. */
CUresult sc_handle_create(size_t size, const CUmemAllocationProp *properties, struct sc_handle **out);
CUresult sc_handle_import(int fd, struct sc_handle **out);
void sc_handle_put(struct sc_handle *handle);

/* Ranges. */
CUresult sc_range_reserve(size_t size, size_t alignment, uintptr_t hint, struct sc_range **out);
CUresult sc_range_allocate(size_t size, struct sc_context *context, struct sc_range **out);
CUresult sc_range_allocate_host(size_t size, struct sc_context *context, struct sc_range **out);
CUresult sc_range_register(uintptr_t base, size_t size, struct sc_context *context, struct sc_range **out);
CUresult sc_range_add_global(uintptr_t base, size_t size, const void *image, struct sc_range **out);
void sc_range_free(struct sc_range *range); /* unmaps what is mapped */
struct sc_range *sc_range_find(uintptr_t address);
void sc_ranges_free_of(struct sc_context *context);

/* Mappings of a range. A run is the mappings that lie in [base, base + size). */
CUresult sc_mapping_add(struct sc_range *range, uintptr_t base, size_t size, struct sc_handle *handle);
struct sc_mapping *sc_mapping_find(struct sc_range *range, uintptr_t address);
bool sc_run_is_whole(struct sc_range *range, uintptr_t base, size_t size, size_t *first, size_t *count);
CUresult sc_run_unmap(struct sc_range *range, size_t first, size_t count);
CUresult sc_run_set_access(struct sc_range *range, size_t first, size_t count, CUmemAccess_flags access);

/*
 * May the device read, or write, [address, address + size)? Says why not in `why`. Memory that softcuda did not give out
 * is none of the device's.
 */
bool sc_space_check(uintptr_t address, size_t size, bool write, char *why, size_t why_bytes);
bool sc_is_known(uintptr_t address);               /* lies in a range of any kind */
bool sc_is_pinned(uintptr_t address, size_t size); /* all of it lies in page-locked host memory */

/*
 * What an address is, for the message of a fault. `since` is sc_unmap_serial() when the launch was queued: an unmap
 * that came later is named.
 */
void sc_address_explain(uintptr_t address, uint64_t since, char *text, size_t bytes);
uint64_t sc_unmap_serial(void);
void sc_unmap_remember(uintptr_t base, size_t size, const char *call);

#endif
