/*
 * driver/softcuda/image.c: from the bytes of a module to a loaded shared object, and back.
 */
#include "image.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FATBIN_MAGIC 0xba55ed50u
#define FATBIN_WRAPPER_MAGIC 0x466243b1u
#define MACHINE_CUDA 190 /* ELF's number for cubins */

/* Code for another device; anything else is no image at all. */
static CUresult foreign_image(const void *bytes)
{
	uint32_t magic;

	memcpy(&magic, bytes, sizeof(magic));
	if (magic == FATBIN_MAGIC || magic == FATBIN_WRAPPER_MAGIC || !strncmp(bytes, ".version", 8) ||
		!strncmp(bytes, "//", 2))
		return CUDA_ERROR_NO_BINARY_FOR_GPU;
	return CUDA_ERROR_INVALID_IMAGE;
}

/*
 * cuModuleLoadData is given no size. The section headers are the last thing that linkers write, so they end the file.
 */
CUresult sc_image_size(const void *bytes, size_t *size)
{
	const Elf64_Ehdr *header = bytes;

	if (memcmp(bytes, ELFMAG, SELFMAG))
		return foreign_image(bytes);
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_type != ET_DYN || !header->e_shoff)
		return header->e_machine == MACHINE_CUDA ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE;
	*size = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
	return CUDA_SUCCESS;
}

static bool bytes_write(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t written = write(fd, bytes, size);

		if (written <= 0)
			return false;
		bytes += written;
		size -= (size_t)written;
	}
	return true;
}

static CUresult library_open(struct sc_image *image)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", image->fd);
	image->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!image->library) {
		fprintf(stderr, "softcuda: a module does not load: %s\n", dlerror());
		return CUDA_ERROR_INVALID_IMAGE;
	}
	image->simt = dlsym(image->library, SIMT_MODULE_SYMBOL);
	if (image->simt && image->simt->abi == SIMT_ABI) {
		image->natives = dlsym(image->library, SIMT_NATIVES_SYMBOL);
		return CUDA_SUCCESS;
	}
	dlclose(image->library);
	return image->simt ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE;
}

CUresult sc_image_load(const void *bytes, struct sc_image **out)
{
	struct sc_image *image;
	size_t size = 0;
	CUresult error = sc_image_size(bytes, &size);

	if (error)
		return error;
	image = calloc(1, sizeof(*image));
	if (!image)
		return CUDA_ERROR_OUT_OF_MEMORY;
	atomic_init(&image->references, 1);
	image->fd = sc_descriptor(memfd_create("softcuda-module", MFD_CLOEXEC));
	if (image->fd < 0) {
		error = CUDA_ERROR_OPERATING_SYSTEM;
		goto out_free;
	}
	error = bytes_write(image->fd, bytes, size) ? library_open(image) : CUDA_ERROR_OUT_OF_MEMORY;
	if (error)
		goto out_close;
	*out = image;
	return CUDA_SUCCESS;

out_close:
	close(image->fd);
out_free:
	free(image);
	return error;
}

void sc_image_put(struct sc_image *image)
{
	if (atomic_fetch_sub(&image->references, 1) != 1)
		return;
	dlclose(image->library);
	close(image->fd);
	free(image);
}

/* ---- what a thread keeps in images ---- */

/* The images whose blocks this thread has run, each referenced. */
struct kept {
	struct kept *next;
	struct sc_image *image;
};

static __thread struct kept *kept;

void sc_image_enter(struct sc_image *image)
{
	struct kept *entry;

	for (entry = kept; entry; entry = entry->next) {
		if (entry->image == image)
			return;
	}
	sc_images_leave(true);
	entry = malloc(sizeof(*entry));
	if (!entry)
		return; /* the image then outlives what this thread keeps in it only as long as the launch itself */
	atomic_fetch_add(&image->references, 1);
	entry->image = image;
	entry->next = kept;
	kept = entry;
}

void sc_images_leave(bool unloaded_only)
{
	struct kept **link = &kept;

	while (*link) {
		struct kept *entry = *link;

		if (unloaded_only && !atomic_load(&entry->image->unloaded)) {
			link = &entry->next;
			continue;
		}
		*link = entry->next;
		entry->image->simt->thread_exit();
		sc_image_put(entry->image);
		free(entry);
	}
}
