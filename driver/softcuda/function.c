/*
 * driver/softcuda/function.c: attributes and names of functions and kernels, which are the same thing here: a kernel is a
 * function of a library, and both may be launched.
 */
#include "device.h"
#include "module.h"

CUresult sc_function_enter(const char *name, CUfunction handle, struct sc_function *function)
{
	CUresult error = sc_enter_alive(name);

	if (error)
		return error;
	return sc_function_get(handle, function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static int function_attribute(const struct sc_function *function, CUfunction_attribute attribute)
{
	switch (attribute) {
	case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
		return SC_MAX_THREADS;
	case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
		return (int)function->kernel->static_shared_bytes;
	case CU_FUNC_ATTRIBUTE_NUM_REGS:
		return 32;
	case CU_FUNC_ATTRIBUTE_PTX_VERSION:
	case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
		return SC_CAPABILITY;
	case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
		return function->max_dynamic_shared_bytes;
	case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
		return function->carveout;
	default: /* constant and local memory, clusters: it has none */
		return 0;
	}
}

static CUresult attribute_get(const char *call, int *pi, CUfunction_attribute attrib, CUfunction handle)
{
	struct sc_function function;
	CUresult error = sc_function_enter(call, handle, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!pi || attrib < 0 || attrib >= CU_FUNC_ATTRIBUTE_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	*pi = function_attribute(&function, attrib);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
	return attribute_get(__func__, pi, attrib, hfunc);
}

static CUresult attribute_set(uint64_t key, CUfunction_attribute attrib, int value)
{
	CUresult error = CUDA_SUCCESS;
	struct sc_function *function;

	pthread_mutex_lock(&sc_lock);
	function = sc_object_find(SC_FUNCTION, key);
	if (!function)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (attrib == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value >= 0 &&
		 (size_t)value + function->kernel->static_shared_bytes <= SC_SHARED_OPTIN)
		function->max_dynamic_shared_bytes = value;
	else if (attrib == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT && value >= -1 && value <= 100)
		function->carveout = value;
	else
		error = CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
	CUresult error = sc_enter_alive(__func__);

	return error ? error : attribute_set(sc_key(hfunc), attrib, value);
}

static CUresult name_get(const char *call, const char **name, CUfunction handle)
{
	struct sc_function function;
	CUresult error = sc_function_enter(call, handle, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!name)
		return CUDA_ERROR_INVALID_VALUE;
	*name = function.kernel->name;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetName(const char **name, CUfunction hfunc)
{
	return name_get(__func__, name, hfunc);
}

static CUresult param_info(const char *call, CUfunction handle, size_t index, size_t *offset, size_t *size)
{
	struct sc_function function;
	CUresult error = sc_function_enter(call, handle, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!offset || index >= function.kernel->param_count)
		return CUDA_ERROR_INVALID_VALUE;
	*offset = function.kernel->params[index].offset;
	if (size)
		*size = function.kernel->params[index].size;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset, size_t *paramSize)
{
	return param_info(__func__, func, paramIndex, paramOffset, paramSize);
}

CUresult CUDAAPI cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
	struct sc_function function;
	CUresult error = sc_function_enter(__func__, hfunc, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!hmod)
		return CUDA_ERROR_INVALID_VALUE;
	*hmod = (CUmodule)(uintptr_t)function.module->key;
	return CUDA_SUCCESS;
}

/* Hints for hardware that has a cache to divide. */
CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
	struct sc_function function;
	CUresult error = sc_function_enter(__func__, hfunc, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	return (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* Modules are loaded whole. */
CUresult CUDAAPI cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
	struct sc_function found;
	CUresult error = sc_function_enter(__func__, function, &found);

	if (error)
		return error;
	sc_image_put(found.module->image);
	if (!state)
		return CUDA_ERROR_INVALID_VALUE;
	*state = CU_FUNCTION_LOADING_STATE_LOADED;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncLoad(CUfunction function)
{
	struct sc_function found;
	CUresult error = sc_function_enter(__func__, function, &found);

	if (error)
		return error;
	sc_image_put(found.module->image);
	return CUDA_SUCCESS;
}

/* ---- kernels ---- */

CUresult CUDAAPI cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev)
{
	CUresult error = attribute_get(__func__, pi, attrib, (CUfunction)kernel);

	return !error && dev ? CUDA_ERROR_INVALID_DEVICE : error;
}

CUresult CUDAAPI cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev)
{
	CUresult error = sc_enter_alive(__func__);

	if (error)
		return error;
	return dev ? CUDA_ERROR_INVALID_DEVICE : attribute_set(sc_key(kernel), attrib, val);
}

CUresult CUDAAPI cuKernelGetName(const char **name, CUkernel hfunc)
{
	return name_get(__func__, name, (CUfunction)hfunc);
}

CUresult CUDAAPI cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset, size_t *paramSize)
{
	return param_info(__func__, (CUfunction)kernel, paramIndex, paramOffset, paramSize);
}

CUresult CUDAAPI cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
	struct sc_function function;
	CUresult error = sc_function_enter(__func__, (CUfunction)kernel, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (dev)
		return CUDA_ERROR_INVALID_DEVICE;
	return (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

#if CUDA_VERSION >= 12050
CUresult CUDAAPI cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
	struct sc_function function;
	CUresult error = sc_function_enter(__func__, (CUfunction)kernel, &function);

	if (error)
		return error;
	sc_image_put(function.module->image);
	if (!pLib)
		return CUDA_ERROR_INVALID_VALUE;
	if (function.module->kind != SC_LIBRARY)
		return CUDA_ERROR_INVALID_HANDLE;
	*pLib = (CUlibrary)(uintptr_t)function.module->key;
	return CUDA_SUCCESS;
}
#endif
