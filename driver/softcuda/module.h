/*
 * driver/softcuda/module.h: modules of kernels: images, which threads may hold on to, and the functions a program sees.
 */
#ifndef SOFTCUDA_MODULE_H
#define SOFTCUDA_MODULE_H

#include "../simt/module.h"
#include "state.h"

/* A loaded shared object. Threads that ran its blocks keep stacks in it, so it goes once the last of them has let go. */
struct sc_image {
	atomic_uint references;
	atomic_bool unloaded; /* by the program: threads let go at the next chance */
	void *library;
	int fd; /* stays open: the loader knows the library by this name */
	const struct simt_module *simt;
};

struct sc_function {
	uint64_t key;
	struct sc_module *module;
	const struct simt_kernel *kernel;
	int max_dynamic_shared_bytes, carveout;
};

struct sc_module {
	uint64_t key;
	enum sc_kind kind;          /* SC_MODULE or SC_LIBRARY */
	struct sc_context *context; /* NULL: a library, of all contexts */
	struct sc_image *image;
	size_t function_count;
	struct sc_function functions[];
};

/* The function with this key, and its image referenced; NULL: no such function. */
struct sc_function *sc_function_get(CUfunction handle, struct sc_function *copy);
void sc_image_put(struct sc_image *image);

/* This thread runs, or has run its last, block of the image: see struct sc_image. */
void sc_image_enter(struct sc_image *image);
void sc_images_leave(bool unloaded_only);

#endif
