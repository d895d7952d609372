/*
 * driver/softcuda/module.c: the driver's calls on modules, libraries, kernels and functions.
 *
 * A library is a module that belongs to no context; its kernels are functions under another name, as they may be
 * launched like functions. Modules have no global variables that a program could ask for by name: requests for them
 * return "not found".
 */
#include "module.h"

#include "device.h"
#include "image.h"
#include "stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void module_free(struct sc_module *module)
{
	for (size_t i = 0; i < module->function_count; i++) {
		if (module->functions[i].key)
			sc_object_remove(SC_FUNCTION, module->functions[i].key);
	}
	if (module->key)
		sc_object_remove(module->kind, module->key);
	atomic_store(&module->image->unloaded, true);
	sc_image_put(module->image);
	free(module);
}

void sc_modules_free_of(struct sc_context *context)
{
	struct sc_module *module;
	size_t cursor = 0;

	while ((module = sc_object_next(SC_MODULE, &cursor))) {
		if (module->context == context)
			module_free(module);
	}
}

void sc_libraries_reset(void)
{
	struct sc_module *library;
	size_t cursor = 0;

	while ((library = sc_object_next(SC_LIBRARY, &cursor)))
		module_free(library);
}

static bool keys_add(struct sc_module *module)
{
	module->key = sc_object_add(module->kind, module);
	for (size_t i = 0; i < module->function_count; i++) {
		module->functions[i].key = sc_object_add(SC_FUNCTION, &module->functions[i]);
		if (!module->functions[i].key)
			return false;
	}
	return module->key != 0;
}

static CUresult module_load(enum sc_kind kind, struct sc_context *context, const void *bytes, uint64_t *key)
{
	struct sc_image *image;
	struct sc_module *module;
	CUresult error = sc_image_load(bytes, &image);
	size_t count;

	if (error)
		return error;
	count = image->simt->kernel_count;
	module = calloc(1, sizeof(*module) + count * sizeof(*module->functions));
	if (!module) {
		sc_image_put(image);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*module = (struct sc_module){.kind = kind, .context = context, .image = image, .function_count = count};
	for (size_t i = 0; i < count; i++) {
		const struct simt_kernel *kernel = image->simt->kernels[i];
		int left = SC_SHARED_STANDARD - (int)kernel->static_shared_bytes;

		module->functions[i] = (struct sc_function){.module = module,
			.kernel = kernel,
			.max_dynamic_shared_bytes = left > 0 ? left : 0,
			.carveout = -1};
	}
	pthread_mutex_lock(&sc_lock);
	if (keys_add(module)) {
		*key = module->key;
	} else {
		module_free(module);
		error = CUDA_ERROR_OUT_OF_MEMORY;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

static CUresult file_load(struct sc_context *context, const char *path, uint64_t *key)
{
	int fd = sc_descriptor(open(path, O_RDONLY | O_CLOEXEC));
	CUresult error = CUDA_ERROR_INVALID_IMAGE;
	struct stat file;
	void *bytes;

	if (fd < 0)
		return CUDA_ERROR_FILE_NOT_FOUND;
	if (!fstat(fd, &file) && file.st_size >= 64) { /* an ELF header's bytes: what image_load looks at */
		bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes != MAP_FAILED) {
			error = module_load(SC_MODULE, context, bytes, key);
			munmap(bytes, (size_t)file.st_size);
		}
	}
	close(fd);
	return error;
}

static struct sc_function *function_named(struct sc_module *module, const char *name)
{
	for (size_t i = 0; i < module->function_count; i++) {
		if (!strcmp(module->functions[i].kernel->name, name))
			return &module->functions[i];
	}
	return NULL;
}

static CUresult function_key(enum sc_kind kind, uint64_t module_key, const char *name, uint64_t *key)
{
	CUresult error = CUDA_SUCCESS;
	struct sc_function *function;
	struct sc_module *module;

	pthread_mutex_lock(&sc_lock);
	module = sc_object_find(kind, module_key);
	function = module ? function_named(module, name) : NULL;
	if (!module)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (!function)
		error = CUDA_ERROR_NOT_FOUND;
	else
		*key = function->key;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

struct sc_function *sc_function_get(CUfunction handle, struct sc_function *copy)
{
	struct sc_function *function;

	pthread_mutex_lock(&sc_lock);
	function = sc_object_find(SC_FUNCTION, sc_key(handle));
	if (function) {
		*copy = *function;
		atomic_fetch_add(&function->module->image->references, 1);
	}
	pthread_mutex_unlock(&sc_lock);
	return function ? copy : NULL;
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key = 0;

	if (error)
		return error;
	if (!module || !image)
		return CUDA_ERROR_INVALID_VALUE;
	error = module_load(SC_MODULE, context, image, &key);
	if (!error)
		*module = (CUmodule)(uintptr_t)key;
	return error;
}

/* Options are ignored: there is no compiler here. */
CUresult CUDAAPI cuModuleLoadDataEx(
	CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options, void **optionValues)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key = 0;

	if (error)
		return error;
	if (!module || !image || (numOptions && (!options || !optionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	error = module_load(SC_MODULE, context, image, &key);
	if (!error)
		*module = (CUmodule)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuModuleLoad(CUmodule *module, const char *fname)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key = 0;

	if (error)
		return error;
	if (!module || !fname)
		return CUDA_ERROR_INVALID_VALUE;
	error = file_load(context, fname, &key);
	if (!error)
		*module = (CUmodule)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuModuleUnload(CUmodule hmod)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_context *context = NULL;
	struct sc_module *module;

	if (error)
		return error;
	pthread_mutex_lock(&sc_lock);
	module = sc_object_find(SC_MODULE, sc_key(hmod));
	if (module)
		context = module->context;
	pthread_mutex_unlock(&sc_lock);
	if (!context)
		return CUDA_ERROR_INVALID_HANDLE;
	sc_context_drain(context); /* no launch may still name a function of it */
	pthread_mutex_lock(&sc_lock);
	module = sc_object_find(SC_MODULE, sc_key(hmod));
	if (module)
		module_free(module);
	pthread_mutex_unlock(&sc_lock);
	return module ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key = 0;

	if (error)
		return error;
	if (!hfunc || !name)
		return CUDA_ERROR_INVALID_VALUE;
	error = function_key(SC_MODULE, sc_key(hmod), name, &key);
	if (!error)
		*hfunc = (CUfunction)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuModuleGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	bool known;

	(void)dptr;
	(void)bytes;
	if (error)
		return error;
	if (!name)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	known = sc_object_find(SC_MODULE, sc_key(hmod)) != NULL;
	pthread_mutex_unlock(&sc_lock);
	return known ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
	void **jitOptionsValues, unsigned int numJitOptions, CUlibraryOption *libraryOptions,
	void **libraryOptionValues, unsigned int numLibraryOptions)
{
	CUresult error = sc_enter_alive(__func__);
	uint64_t key = 0;

	if (error)
		return error;
	if (!library || !code || (numJitOptions && (!jitOptions || !jitOptionsValues)) ||
		(numLibraryOptions && (!libraryOptions || !libraryOptionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	error = module_load(SC_LIBRARY, NULL, code, &key);
	if (!error)
		*library = (CUlibrary)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary library)
{
	CUresult error = sc_enter_initialized(__func__);
	struct sc_context *context = sc_context_current();
	struct sc_module *found;

	if (error)
		return error;
	if (context)
		sc_context_drain(context);
	pthread_mutex_lock(&sc_lock);
	found = sc_object_find(SC_LIBRARY, sc_key(library));
	if (found)
		module_free(found);
	pthread_mutex_unlock(&sc_lock);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
	CUresult error = sc_enter_alive(__func__);
	uint64_t key = 0;

	if (error)
		return error;
	if (!pKernel || !name)
		return CUDA_ERROR_INVALID_VALUE;
	error = function_key(SC_LIBRARY, sc_key(library), name, &key);
	if (!error)
		*pKernel = (CUkernel)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	bool known;

	if (error)
		return error;
	if (!pFunc)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	known = sc_object_find(SC_FUNCTION, sc_key(kernel)) != NULL;
	pthread_mutex_unlock(&sc_lock);
	if (known)
		*pFunc = (CUfunction)kernel;
	return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
