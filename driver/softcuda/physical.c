/*
 * driver/softcuda/physical.c: physical device memory, which is pages of memfds.
 *
 * All handles but the exportable ones are extents of one sparse file, so that a handle costs no descriptor. Offsets are
 * never used twice: a file has 2^63 of them, and a hole costs nothing, so there is no fragmentation to manage. Pages are
 * allocated at create (out of memory is real) and punched out when the last user of a handle is gone.
 */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT_NAME "softcuda-export" /* how an importer knows that a memfd is ours */
#define EXPORT_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int arena_fd = -1;
static off_t arena_end;
static size_t used_bytes;
static uint64_t last_block_id;

int sc_descriptor(int fd)
{
	int moved;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fd);
	return moved;
}

size_t sc_page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

size_t sc_physical_used(void)
{
	return used_bytes;
}

static CUresult arena_take(struct sc_handle *handle)
{
	if (arena_fd < 0)
		arena_fd = sc_descriptor(memfd_create("softcuda-device-memory", MFD_CLOEXEC));
	if (arena_fd < 0 || fallocate(arena_fd, 0, arena_end, (off_t)handle->size))
		return CUDA_ERROR_OUT_OF_MEMORY;
	handle->fd = arena_fd;
	handle->offset = arena_end;
	arena_end += (off_t)handle->size;
	return CUDA_SUCCESS;
}

/* The seals keep an importer from shrinking the file under our mappings. */
static CUresult own_file_take(struct sc_handle *handle)
{
	handle->fd = sc_descriptor(memfd_create(EXPORT_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING));
	if (handle->fd < 0)
		return CUDA_ERROR_OPERATING_SYSTEM;
	if (fallocate(handle->fd, 0, 0, (off_t)handle->size)) {
		close(handle->fd);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	fcntl(handle->fd, F_ADD_SEALS, EXPORT_SEALS);
	handle->own_fd = true;
	return CUDA_SUCCESS;
}

CUresult sc_handle_create(size_t size, const CUmemAllocationProp *properties, struct sc_handle **out)
{
	struct sc_handle *handle;
	CUresult error;

	if (size > sc_settings.memory_bytes || used_bytes > sc_settings.memory_bytes - size)
		return CUDA_ERROR_OUT_OF_MEMORY;
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return CUDA_ERROR_OUT_OF_MEMORY;
	handle->properties = *properties;
	handle->size = size;
	error = properties->requestedHandleTypes ? own_file_take(handle) : arena_take(handle);
	if (error) {
		free(handle);
		return error;
	}
	used_bytes += size;
	sc_tally_memory((int64_t)size);
	handle->references = 1;
	handle->block_id = ++last_block_id;
	*out = handle;
	return CUDA_SUCCESS;
}

void sc_handle_put(struct sc_handle *handle)
{
	if (handle->references || handle->mappings)
		return;
	if (handle->own_fd)
		close(handle->fd);
	else
		fallocate(handle->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, handle->offset, (off_t)handle->size);
	if (!handle->imported) {
		used_bytes -= handle->size;
		sc_tally_memory(-(int64_t)handle->size);
	}
	if (handle->key)
		sc_object_remove(SC_HANDLE, handle->key);
	free(handle);
}

static struct sc_handle *handle_with_inode(const struct stat *file)
{
	struct sc_handle *handle;
	struct stat other;
	size_t cursor = 0;

	while ((handle = sc_object_next(SC_HANDLE, &cursor))) {
		if (handle->own_fd && !fstat(handle->fd, &other) && other.st_ino == file->st_ino &&
			other.st_dev == file->st_dev)
			return handle;
	}
	return NULL;
}

/* A sealed memfd of our name and of a size that a handle can have. */
static bool is_exported_handle(int fd, const struct stat *file)
{
	char link[64], name[256];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, name, sizeof(name) - 1);
	if (length < 0 || file->st_size <= 0 || (size_t)file->st_size % sc_settings.granularity)
		return false;
	name[length] = '\0';
	return !strncmp(name, "/memfd:" EXPORT_NAME, strlen("/memfd:" EXPORT_NAME)) &&
	       (fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK);
}

CUresult sc_handle_import(int fd, struct sc_handle **out)
{
	struct sc_handle *handle;
	struct stat file;

	if (fstat(fd, &file) || !is_exported_handle(fd, &file))
		return CUDA_ERROR_INVALID_VALUE;
	handle = handle_with_inode(&file);
	if (handle) {
		handle->references++;
		*out = handle;
		return CUDA_SUCCESS;
	}
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return CUDA_ERROR_OUT_OF_MEMORY;
	handle->fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (handle->fd < 0) {
		free(handle);
		return CUDA_ERROR_OPERATING_SYSTEM;
	}
	handle->properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	handle->properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	handle->properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	handle->size = (size_t)file.st_size;
	handle->own_fd = handle->imported = true;
	handle->references = 1;
	handle->block_id = ++last_block_id;
	*out = handle;
	return CUDA_SUCCESS;
}
