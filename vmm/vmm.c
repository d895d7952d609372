/*
 * vmm/vmm.c: the manager itself: its options, the streams that use its memory, its creation and end.
 *
 * All memory is pinned device memory on the device of `cu`, in blocks of one size, which is a multiple of the granule
 * that the driver asks for.
 */
#include "manager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static int read_options(kvs_vmm *vmm, const struct kvs_vmm_options *options)
{
	const size_t default_free_blocks = 64; /* 128 MiB of 2 MiB blocks: a decode step's worth for a large model */
	size_t block_bytes = options->block_bytes ? options->block_bytes : vmm->granule_bytes;

	if (__builtin_add_overflow(block_bytes, vmm->granule_bytes - 1, &block_bytes))
		return kvs_fail(-EINVAL, "blocks of %zu bytes", options->block_bytes);
	vmm->block_bytes = block_bytes - block_bytes % vmm->granule_bytes;
	vmm->budget_bytes = options->budget_bytes ? options->budget_bytes : SIZE_MAX;
	if (options->no_free_list)
		vmm->free_list_bytes = 0;
	else if (options->free_list_bytes)
		vmm->free_list_bytes = options->free_list_bytes;
	else if (__builtin_mul_overflow(vmm->block_bytes, default_free_blocks, &vmm->free_list_bytes))
		vmm->free_list_bytes = SIZE_MAX;
	vmm->premap = options->premap;
	vmm->write_borrowed = options->write_borrowed;
	return 0;
}

static int read_granule(kvs_vmm *vmm)
{
	CUresult result;

	vmm->prop = (CUmemAllocationProp){
		.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = vmm->cu->device},
	};
	result = vmm->cu->cuMemGetAllocationGranularity(
		&vmm->granule_bytes, &vmm->prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	if (result)
		return kvs_cu_fail(vmm->cu, result, "asking device %d for its allocation granularity", vmm->cu->device);
	return vmm->granule_bytes ? 0 : kvs_fail(-EIO, "device %d has a granularity of 0 bytes", vmm->cu->device);
}

int kvs_vmm_create(kvs_cu *cu, const struct kvs_vmm_options *options, kvs_vmm **out)
{
	static const struct kvs_vmm_options defaults;
	kvs_vmm *vmm = calloc(1, sizeof(*vmm));
	int err;

	if (!vmm)
		return kvs_fail(-ENOMEM, "no host memory for a memory manager");
	vmm->cu = cu;
	vmm->pending_tail = &vmm->pending;
	err = read_granule(vmm);
	if (!err)
		err = read_options(vmm, options ? options : &defaults);
	if (err)
		goto out_free;
	err = vmm_watch(cu);
	if (err)
		goto out_free;
	pthread_mutex_init(&vmm->lock, NULL);
	pthread_cond_init(&vmm->turn_free, NULL);
	pthread_cond_init(&vmm->premap_wanted, NULL);
	pthread_cond_init(&vmm->premap_idle, NULL);
	err = vmm->premap ? vmm_premap_start(vmm) : 0;
	if (err)
		goto out_destroy;
	*out = vmm;
	return 0;

out_destroy:
	pthread_cond_destroy(&vmm->premap_idle);
	pthread_cond_destroy(&vmm->premap_wanted);
	pthread_cond_destroy(&vmm->turn_free);
	pthread_mutex_destroy(&vmm->lock);
	vmm_unwatch(cu);
out_free:
	free(vmm);
	return err;
}

void kvs_vmm_free(kvs_vmm *vmm)
{
	if (!vmm)
		return;
	assert(!vmm->spaces);
	if (vmm->premap)
		vmm_premap_stop(vmm);
	vmm_begin(vmm);
	vmm_retire_wait(vmm); /* an error means that nothing runs any more */
	vmm_retire_free(vmm);
	vmm_block_drain(vmm);
	vmm_end(vmm);
	pthread_cond_destroy(&vmm->premap_idle);
	pthread_cond_destroy(&vmm->premap_wanted);
	pthread_cond_destroy(&vmm->turn_free);
	pthread_mutex_destroy(&vmm->lock);
	vmm_unwatch(vmm->cu);
	free(vmm->streams);
	free(vmm);
}

size_t kvs_vmm_granule_bytes(const kvs_vmm *vmm)
{
	return vmm->granule_bytes;
}

size_t kvs_vmm_block_bytes(const kvs_vmm *vmm)
{
	return vmm->block_bytes;
}

int kvs_vmm_attach_stream(kvs_vmm *vmm, CUstream stream)
{
	CUstream *streams;
	int err = 0;

	vmm_begin(vmm);
	streams = realloc(vmm->streams, (vmm->stream_count + 1) * sizeof(*streams));
	if (streams) {
		vmm->streams = streams;
		vmm->streams[vmm->stream_count++] = stream;
	} else {
		err = kvs_fail(-ENOMEM, "no host memory for stream %zu", vmm->stream_count + 1);
	}
	vmm_end(vmm);
	return err;
}

void kvs_vmm_detach_stream(kvs_vmm *vmm, CUstream stream)
{
	vmm_begin(vmm);
	for (size_t i = 0; i < vmm->stream_count; i++) {
		if (vmm->streams[i] == stream) {
			vmm->streams[i] = vmm->streams[--vmm->stream_count];
			break;
		}
	}
	vmm_end(vmm);
}

int kvs_vmm_settle(kvs_vmm *vmm)
{
	int err;

	pthread_mutex_lock(&vmm->lock);
	vmm_premap_wait(vmm);
	vmm_turn_take(vmm);
	err = vmm_retire_wait(vmm);
	vmm_trim_retired(vmm);
	vmm_end(vmm);
	return err;
}
