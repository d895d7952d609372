/*
 * driver/softcuda/library.c: libraries. A library is a module that belongs to no context; its kernels are functions under
 * another name, as they may be launched like functions.
 */
#include "module.h"
#include "stream.h"

void sc_libraries_reset(void)
{
	struct sc_module *library;
	size_t cursor = 0;

	while ((library = sc_object_next(SC_LIBRARY, &cursor)))
		sc_module_free(library);
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
	error = sc_module_load(SC_LIBRARY, NULL, code, &key);
	if (!error)
		*library = (CUlibrary)(uintptr_t)key;
	return error;
}

CUresult CUDAAPI cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
	void **jitOptionsValues, unsigned int numJitOptions, CUlibraryOption *libraryOptions,
	void **libraryOptionValues, unsigned int numLibraryOptions)
{
	CUresult error = sc_enter_alive(__func__);
	uint64_t key = 0;

	if (error)
		return error;
	if (!library || !fileName || (numJitOptions && (!jitOptions || !jitOptionsValues)) ||
		(numLibraryOptions && (!libraryOptions || !libraryOptionValues)))
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_module_load_file(SC_LIBRARY, NULL, fileName, &key);
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
		sc_module_free(found);
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
	error = sc_function_key(SC_LIBRARY, sc_key(library), name, &key);
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

/* "The module handle associated with the current context": here the library itself, of which there is one for all. */
CUresult CUDAAPI cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!pMod)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_functions_list(SC_LIBRARY, sc_key(library), NULL, 0, NULL);
	if (!error)
		*pMod = (CUmodule)library;
	return error;
}

#if CUDA_VERSION >= 12040
CUresult CUDAAPI cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
	CUresult error = sc_enter_alive(__func__);

	if (error)
		return error;
	return count ? sc_functions_list(SC_LIBRARY, sc_key(lib), NULL, 0, count) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
	CUresult error = sc_enter_alive(__func__);

	if (error)
		return error;
	if (!kernels)
		return CUDA_ERROR_INVALID_VALUE;
	return sc_functions_list(SC_LIBRARY, sc_key(lib), (uint64_t *)kernels, numKernels, NULL);
}
#endif
