/*
 * driver/softcuda/globals.c: the global variables of modules, by name. A `__device__` variable of a kernel's source is a
 * variable of the module's shared object; asked for, it becomes a range of the device's address space.
 */
#include "memory.h"
#include "module.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

/* The variable's address and size; false: there is none of this name in the module itself. */
static bool variable_find(const struct sc_image *image, const char *name, uintptr_t *address, size_t *size)
{
	void *found = strcmp(name, SIMT_MODULE_SYMBOL) ? dlsym(image->library, name) : NULL;
	struct link_map *loaded = NULL, *own = NULL;
	const ElfW(Sym) *symbol = NULL;
	Dl_info info;

	if (!found || dlinfo(image->library, RTLD_DI_LINKMAP, &own) ||
		!dladdr1(found, &info, (void **)&loaded, RTLD_DL_LINKMAP) || loaded != own ||
		!dladdr1(found, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol ||
		ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT || info.dli_saddr != found)
		return false;
	*address = (uintptr_t)found;
	*size = symbol->st_size;
	return *size != 0;
}

/* "One of the parameters dptr or bytes (not both) can be NULL in which case it is ignored." */
static CUresult variable_get(enum sc_kind kind, uint64_t key, const char *name, CUdeviceptr *address, size_t *bytes)
{
	CUresult error = CUDA_SUCCESS;
	struct sc_module *module;
	struct sc_range *range;
	uintptr_t at = 0;
	size_t size = 0;

	if (!name || (!address && !bytes))
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	module = sc_module_find(kind, key);
	if (!module)
		error = CUDA_ERROR_INVALID_HANDLE;
	else if (!variable_find(module->image, name, &at, &size))
		error = CUDA_ERROR_NOT_FOUND;
	else if (!sc_range_find(at))
		error = sc_range_add_global(at, size, module->image, &range);
	pthread_mutex_unlock(&sc_lock);
	if (error)
		return error;
	if (address)
		*address = at;
	if (bytes)
		*bytes = size;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : variable_get(SC_MODULE, sc_key(hmod), name, dptr, bytes);
}

CUresult CUDAAPI cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : variable_get(SC_LIBRARY, sc_key(library), name, dptr, bytes);
}

/* No module has managed variables. */
CUresult CUDAAPI cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
	CUresult error = sc_enter_alive(__func__);

	(void)dptr;
	(void)bytes;
	if (error)
		return error;
	if (!name)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_functions_list(SC_LIBRARY, sc_key(library), NULL, 0, NULL);
	return error ? error : CUDA_ERROR_NOT_FOUND;
}
