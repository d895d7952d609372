/*
 * vmm/space.c: a space owns a range of addresses: one reservation of the driver, which can be neither split nor freed
 * in part. Regions lie in it, side by side, at any multiple of the granule; addresses between them have nothing mapped.
 */
#include "manager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static void space_link(kvs_vmm *vmm, kvs_space *space, size_t bytes)
{
	space->vmm = vmm;
	space->bytes = bytes;
	space->next = vmm->spaces;
	if (vmm->spaces)
		vmm->spaces->prev = space;
	vmm->spaces = space;
	vmm->virtual_bytes += bytes;
}

int vmm_space_reserve(kvs_vmm *vmm, size_t bytes, kvs_space *space)
{
	CUresult result = vmm_call_reserve(vmm, &space->base, bytes);

	if (result)
		return kvs_cu_fail(vmm->cu, result, "reserving %zu bytes of addresses", bytes);
	space_link(vmm, space, bytes);
	return 0;
}

void vmm_space_release(kvs_space *space)
{
	kvs_vmm *vmm = space->vmm;

	if (!space->adopted)
		vmm_call_address_free(vmm, space->base, space->bytes);
	if (space->prev)
		space->prev->next = space->next;
	else
		vmm->spaces = space->next;
	if (space->next)
		space->next->prev = space->prev;
	vmm->virtual_bytes -= space->bytes;
}

int kvs_space_reserve(kvs_vmm *vmm, size_t bytes, kvs_space **out)
{
	size_t granule = vmm->granule_bytes, rounded;
	kvs_space *space;
	int err;

	if (!bytes || __builtin_add_overflow(bytes, granule - 1, &rounded))
		return kvs_fail(-EINVAL, "a space of %zu bytes: none, or more than an address can say", bytes);
	space = calloc(1, sizeof(*space));
	if (!space)
		return kvs_fail(-ENOMEM, "no host memory for a space");
	vmm_begin(vmm);
	err = vmm_space_reserve(vmm, rounded - rounded % granule, space);
	vmm_end(vmm);
	if (err)
		free(space);
	else
		*out = space;
	return err;
}

int kvs_space_adopt(kvs_vmm *vmm, CUdeviceptr address, size_t bytes, kvs_space **out)
{
	kvs_space *space;

	if (!bytes || bytes % vmm->granule_bytes || address % vmm->granule_bytes)
		return kvs_fail(-EINVAL, "a space of %zu bytes at 0x%llx: not granules of %zu bytes", bytes,
			(unsigned long long)address, vmm->granule_bytes);
	space = calloc(1, sizeof(*space));
	if (!space)
		return kvs_fail(-ENOMEM, "no host memory for a space");
	space->base = address;
	space->adopted = true;
	vmm_begin(vmm);
	space_link(vmm, space, bytes);
	vmm_end(vmm);
	*out = space;
	return 0;
}

void kvs_space_free(kvs_space *space)
{
	kvs_vmm *vmm;

	if (!space)
		return;
	assert(!space->regions);
	vmm = space->vmm;
	vmm_begin(vmm);
	vmm_space_release(space);
	vmm_end(vmm);
	free(space);
}

CUdeviceptr kvs_space_address(const kvs_space *space)
{
	return space->base;
}

size_t kvs_space_bytes(const kvs_space *space)
{
	return space->bytes;
}

static size_t region_bytes(const kvs_region *region)
{
	return region->slot_count * region->stride;
}

int vmm_space_check(const kvs_space *space, size_t offset, size_t bytes)
{
	if (offset % space->vmm->granule_bytes)
		return kvs_fail(-EINVAL, "a region at offset %zu of a space: not a multiple of the granule, %zu bytes",
			offset, space->vmm->granule_bytes);
	if (offset > space->bytes || bytes > space->bytes - offset)
		return kvs_fail(-EINVAL, "a region of %zu bytes at offset %zu of a space of %zu: it does not fit",
			bytes, offset, space->bytes);
	for (const kvs_region *other = space->regions; other; other = other->next) {
		size_t start = other->base - space->base;

		if (offset < start + region_bytes(other) && start < offset + bytes)
			return kvs_fail(-EINVAL,
				"a region of %zu bytes at offset %zu of a space: one of %zu lies at %zu", bytes, offset,
				region_bytes(other), start);
	}
	return 0;
}

void vmm_space_link(kvs_space *space, kvs_region *region)
{
	kvs_region *before = NULL, *after = space->regions;

	while (after && after->base < region->base) {
		before = after;
		after = after->next;
	}
	region->space = space;
	region->prev = before;
	region->next = after;
	if (before)
		before->next = region;
	else
		space->regions = region;
	if (after)
		after->prev = region;
}

void vmm_space_unlink(kvs_region *region)
{
	if (region->prev)
		region->prev->next = region->next;
	else
		region->space->regions = region->next;
	if (region->next)
		region->next->prev = region->prev;
}
