/*
 * driver/softcuda/module.c: modules and their functions. library.c has libraries, which are modules too; globals.c has the
 * variables of both.
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

void sc_module_free(struct sc_module *module)
{
	for (size_t i = 0; i < module->function_count; i++) {
		if (module->functions[i].key)
			sc_object_remove(SC_FUNCTION, module->functions[i].key);
	}
	if (module->key)
		sc_object_remove(module->kind, module->key);
	sc_globals_free_of(module->image);
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
			sc_module_free(module);
	}
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

static const struct simt_native *native_of(const struct sc_image *image, const struct simt_kernel *kernel)
{
	const struct simt_native *native = sc_native_wanted() ? image->natives : NULL;

	while (native && native->kernel && strcmp(native->kernel, kernel->name))
		native++;
	return native && native->kernel ? native : NULL;
}

CUresult sc_module_load(enum sc_kind kind, struct sc_context *context, const void *bytes, uint64_t *key)
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
			.native = native_of(image, kernel),
			.max_dynamic_shared_bytes = left > 0 ? left : 0,
			.carveout = -1};
	}
	pthread_mutex_lock(&sc_lock);
	if (keys_add(module)) {
		*key = module->key;
	} else {
		sc_module_free(module);
		error = CUDA_ERROR_OUT_OF_MEMORY;
	}
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult sc_module_load_file(enum sc_kind kind, struct sc_context *context, const char *path, uint64_t *key)
{
	int fd = sc_descriptor(open(path, O_RDONLY | O_CLOEXEC));
	CUresult error = CUDA_ERROR_INVALID_IMAGE;
	struct stat file;
	void *bytes;

	if (fd < 0)
		return CUDA_ERROR_FILE_NOT_FOUND;
	if (!fstat(fd, &file) && file.st_size >= SC_IMAGE_LEAST) {
		bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes != MAP_FAILED) {
			error = sc_module_load(kind, context, bytes, key);
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

/* A library is also found as a module, which cuLibraryGetModule gives out under the same key. */
struct sc_module *sc_module_find(enum sc_kind kind, uint64_t key)
{
	struct sc_module *module = sc_object_find(kind, key);

	return !module && kind == SC_MODULE ? sc_object_find(SC_LIBRARY, key) : module;
}

CUresult sc_function_key(enum sc_kind kind, uint64_t module_key, const char *name, uint64_t *key)
{
	CUresult error = CUDA_SUCCESS;
	struct sc_function *function;
	struct sc_module *module;

	pthread_mutex_lock(&sc_lock);
	module = sc_module_find(kind, module_key);
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
	error = sc_module_load(SC_MODULE, context, image, &key);
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
	error = sc_module_load(SC_MODULE, context, image, &key);
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
	error = sc_module_load_file(SC_MODULE, context, fname, &key);
	if (!error)
		*module = (CUmodule)(uintptr_t)key;
	return error;
}

/* A fat binary may hold a module for this device as it is; what it usually holds is for others. */
CUresult CUDAAPI cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	uint64_t key = 0;

	if (error)
		return error;
	if (!module || !fatCubin)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_module_load(SC_MODULE, context, fatCubin, &key);
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
		sc_module_free(module);
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
	error = sc_function_key(SC_MODULE, sc_key(hmod), name, &key);
	if (!error)
		*hfunc = (CUfunction)(uintptr_t)key;
	return error;
}

/* The keys of the first `count` functions, or only how many there are. */
CUresult sc_functions_list(enum sc_kind kind, uint64_t key, uint64_t *keys, unsigned count, unsigned *total)
{
	struct sc_module *module;

	pthread_mutex_lock(&sc_lock);
	module = sc_module_find(kind, key);
	for (size_t i = 0; module && keys && i < count; i++)
		keys[i] = i < module->function_count ? module->functions[i].key : 0;
	if (module && total)
		*total = (unsigned)module->function_count;
	pthread_mutex_unlock(&sc_lock);
	return module ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

#if CUDA_VERSION >= 12040
CUresult CUDAAPI cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	return count ? sc_functions_list(SC_MODULE, sc_key(mod), NULL, 0, count) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions, CUmodule mod)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!functions)
		return CUDA_ERROR_INVALID_VALUE;
	return sc_functions_list(SC_MODULE, sc_key(mod), (uint64_t *)functions, numFunctions, NULL);
}
#endif

CUresult CUDAAPI cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!mode)
		return CUDA_ERROR_INVALID_VALUE;
	*mode = CU_MODULE_EAGER_LOADING;
	return CUDA_SUCCESS;
}
