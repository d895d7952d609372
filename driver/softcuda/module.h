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
	const struct simt_native *natives; /* ended by a kernel of NULL; NULL: the module has none */
};

struct sc_function {
	uint64_t key;
	struct sc_module *module;
	const struct simt_kernel *kernel;
	const struct simt_native *native; /* NULL: there is none, or it is not wanted */
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

/* A module, or a library (context NULL), from its bytes or a file. */
CUresult sc_module_load(enum sc_kind kind, struct sc_context *context, const void *bytes, uint64_t *key);
CUresult sc_module_load_file(enum sc_kind kind, struct sc_context *context, const char *path, uint64_t *key);
void sc_module_free(struct sc_module *module);                     /* needs sc_lock held, as the next does */
struct sc_module *sc_module_find(enum sc_kind kind, uint64_t key); /* of kind SC_MODULE: libraries too */
CUresult sc_function_key(enum sc_kind kind, uint64_t module_key, const char *name, uint64_t *key);
CUresult sc_functions_list(enum sc_kind kind, uint64_t key, uint64_t *keys, unsigned count, unsigned *total);
void sc_globals_free_of(const struct sc_image *image); /* the ranges of its variables; needs sc_lock held (globals.c) */

/* The function with this key, and its image referenced; NULL: no such function. */
struct sc_function *sc_function_get(CUfunction handle, struct sc_function *copy);
void sc_image_put(struct sc_image *image);
/* The start of every call on an existing function; on success the caller owes sc_image_put(). */
CUresult sc_function_enter(const char *call, CUfunction handle, struct sc_function *function);
unsigned sc_blocks_per_multiprocessor(const struct sc_function *function, size_t threads, size_t dynamic_bytes);

/* This thread runs, or has run its last, block of the image: see struct sc_image. */
void sc_image_enter(struct sc_image *image);
void sc_images_leave(bool unloaded_only);

#endif
