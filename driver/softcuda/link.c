/*
 * driver/softcuda/link.c: the linker of the driver. There is no compiler here, so it takes one module for this device and
 * gives it back; code for other devices and PTX are refused as cuModuleLoadData refuses them.
 */
#include "image.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct link {
	uint64_t key;
	void *image; /* what was added; NULL: nothing yet */
	size_t size;
};

void sc_links_reset(void)
{
	struct link *link;
	size_t cursor = 0;

	while ((link = sc_object_next(SC_LINK, &cursor))) {
		sc_object_remove(SC_LINK, link->key);
		free(link->image);
		free(link);
	}
}

CUresult CUDAAPI cuLinkCreate(
	unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	struct link *link;
	uint64_t key;

	if (error)
		return error;
	if (!stateOut || (numOptions && (!options || !optionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	link = calloc(1, sizeof(*link));
	if (!link)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_lock(&sc_lock);
	key = link->key = sc_object_add(SC_LINK, link);
	pthread_mutex_unlock(&sc_lock);
	if (!key) {
		free(link);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*stateOut = (CUlinkState)(uintptr_t)key;
	return CUDA_SUCCESS;
}

static CUresult link_add(CUlinkState state, const void *data, size_t size)
{
	CUresult error = CUDA_ERROR_INVALID_HANDLE;
	struct link *link;
	size_t image_size = 0;

	if (!data || size < 4)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	link = sc_object_find(SC_LINK, sc_key(state));
	if (link)
		error = size < SC_IMAGE_LEAST ? CUDA_ERROR_INVALID_IMAGE : sc_image_size(data, &image_size);
	if (!error && image_size > size)
		error = CUDA_ERROR_INVALID_IMAGE;
	if (!error && link->image)
		error = CUDA_ERROR_NOT_SUPPORTED; /* two modules cannot be made one */
	if (!error) {
		link->image = malloc(image_size);
		link->size = image_size;
		if (link->image)
			memcpy(link->image, data, image_size);
		else
			error = CUDA_ERROR_OUT_OF_MEMORY;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name,
	unsigned int numOptions, CUjit_option *options, void **optionValues)
{
	CUresult error = sc_enter_alive(__func__);

	(void)name;
	if (error)
		return error;
	if ((unsigned)type >= CU_JIT_NUM_INPUT_TYPES || (numOptions && (!options || !optionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	return link_add(state, data, size);
}

static CUresult file_add(CUlinkState state, const char *path)
{
	int fd = sc_descriptor(open(path, O_RDONLY | O_CLOEXEC));
	CUresult error = CUDA_ERROR_INVALID_IMAGE;
	struct stat file;
	void *bytes;

	if (fd < 0)
		return CUDA_ERROR_FILE_NOT_FOUND;
	if (!fstat(fd, &file) && file.st_size > 0) {
		bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes != MAP_FAILED) {
			error = link_add(state, bytes, (size_t)file.st_size);
			munmap(bytes, (size_t)file.st_size);
		}
	}
	close(fd);
	return error;
}

CUresult CUDAAPI cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path, unsigned int numOptions,
	CUjit_option *options, void **optionValues)
{
	CUresult error = sc_enter_alive(__func__);

	if (error)
		return error;
	if (!path || (unsigned)type >= CU_JIT_NUM_INPUT_TYPES || (numOptions && (!options || !optionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	return file_add(state, path);
}

/* The output is the linker's: it is freed by cuLinkDestroy(). */
CUresult CUDAAPI cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
	CUresult error = sc_enter_alive(__func__);
	struct link *link;

	if (error)
		return error;
	if (!cubinOut)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	link = sc_object_find(SC_LINK, sc_key(state));
	if (!link)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (!link->image)
		error = CUDA_ERROR_INVALID_VALUE;
	if (!error)
		*cubinOut = link->image;
	if (!error && sizeOut)
		*sizeOut = link->size;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuLinkDestroy(CUlinkState state)
{
	CUresult error = sc_enter_initialized(__func__);
	struct link *link;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	link = sc_object_remove(SC_LINK, sc_key(state));
	pthread_mutex_unlock(&sc_lock);
	if (!link)
		return CUDA_ERROR_INVALID_HANDLE;
	free(link->image);
	free(link);
	return CUDA_SUCCESS;
}
