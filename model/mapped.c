/*
 * model/mapped.c: files with weights that stay where they are.
 *
 * Memory of the host device is memory of this process, so its kernels may as well read the pages of a file. Then nothing is
 * copied, a model takes its memory once and not twice, and processes with the same model share it. The file is registered with the
 * driver, as memory of the host's that the device uses. Only the weights that stay can be touched: Linux brings in a page
 * together with its neighbours, and those of weights that were copied would count as the process's.
 *
 * Nobody but the device reads there. Where the file becomes shorter meanwhile, softcuda's workers catch the signal, and the
 * call fails with a message, as reading the file does. The mapping is private: a matrix that gets other numbers gets pages of its
 * own.
 */
#include "engine.h"
#include "file.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int add(kvs_cu *cu, struct model_weights *weights, const struct model_file *file)
{
	const int flags = MAP_PRIVATE | MAP_NORESERVE; /* few pages will be written to, if any */
	struct model_mapping *grown = realloc(weights->mapping, (weights->mapping_count + 1) * sizeof(*grown)),
			     mapping = {.file = file, .bytes = file->bytes};
	CUresult result;

	if (!grown)
		return kvs_fail(-ENOMEM, "%s: no memory to map it", file->path);
	weights->mapping = grown;
	mapping.start = mmap(NULL, mapping.bytes, PROT_NONE, flags, file->fd, 0);
	if (mapping.start == MAP_FAILED)
		return kvs_fail(-ENOTSUP, "%s: cannot be mapped", file->path);
	result = cu->cuMemHostRegister(mapping.start, mapping.bytes, CU_MEMHOSTREGISTER_DEVICEMAP);
	if (result)
		goto out_unmap;
	result = cu->cuMemHostGetDevicePointer(&mapping.device, mapping.start, 0);
	if (result)
		goto out_unregister;
	madvise(mapping.start, mapping.bytes, MADV_WILLNEED); /* from a disk, while the rest is set up */
	weights->mapping[weights->mapping_count++] = mapping;
	return 0;

out_unregister:
	KVS_CU_GIVE_BACK(cu->cuMemHostUnregister, mapping.start);
out_unmap:
	munmap(mapping.start, mapping.bytes);
	return kvs_cu_fail(cu, result, "%s: for weights that stay there", file->path);
}

/* Whole pages, whose rest belongs to the neighbours. */
static int open_range(const struct model_mapping *mapping, size_t start, size_t bytes)
{
	size_t page = sysconf(_SC_PAGESIZE), first = start / page * page;

	if (!mprotect((char *)mapping->start + first, start + bytes - first, PROT_READ | PROT_WRITE))
		return 0;
	return kvs_fail(-ENOTSUP, "%s: cannot be mapped in part", mapping->file->path);
}

int model_map_weights(kvs_cu *cu, struct model_weights *weights, const struct model_file *file, uint64_t start,
	uint64_t bytes, CUdeviceptr *out)
{
	int i = 0, err = 0;

	while (i < weights->mapping_count && weights->mapping[i].file != file)
		i++;
	if (i == weights->mapping_count)
		err = add(cu, weights, file);
	if (!err)
		err = open_range(&weights->mapping[i], start, bytes);
	if (!err)
		*out = weights->mapping[i].device + start;
	return err;
}

void model_unmap_files(kvs_cu *cu, struct model_weights *weights)
{
	for (int i = 0; i < weights->mapping_count; i++) {
		KVS_CU_GIVE_BACK(cu->cuMemHostUnregister, weights->mapping[i].start);
		munmap(weights->mapping[i].start, weights->mapping[i].bytes);
	}
	free(weights->mapping);
}
