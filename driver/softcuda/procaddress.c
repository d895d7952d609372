/*
 * driver/softcuda/procaddress.c: finding a driver function by its base name and the CUDA version that the caller was
 * built for: the newest form of the function that this version knew.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "names.h"

#include "state.h"

#include <string.h>

static const struct function {
	const char *base;
	int version; /* of CUDA that brought this form of it, as cudaTypedefs.h has it */
	bool per_thread;
	void *address;
} functions[] = {
#define SC_ADDRESS(base, version, is_per_thread, symbol) {base, version, is_per_thread, (void *)symbol},
#include "names.inc"
};

/* The newest form that this version knew, or NULL; *later tells that there are only newer ones. */
static const struct function *form_find(const char *base, int version, bool per_thread, bool *later)
{
	const struct function *newest = NULL;

	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		const struct function *function = &functions[i];

		if (function->per_thread != per_thread || strcmp(function->base, base))
			continue;
		if (function->version > version)
			*later |= !sc_is_absent(function->address);
		else if (!newest || function->version > newest->version)
			newest = function;
	}
	return newest;
}

/* A form that softcuda does not have is as one that does not exist: an older one would misread the caller's arguments. */
static CUdriverProcAddressQueryResult function_find(const char *base, int version, bool per_thread, void **address)
{
	const struct function *function = NULL;
	bool later = false;

	if (per_thread)
		function = form_find(base, version, true, &later);
	if (!function)
		function = form_find(base, version, false, &later);
	if (function && !sc_is_absent(function->address) && !sc_is_absent_per_thread(function->address)) {
		*address = function->address;
		return CU_GET_PROC_ADDRESS_SUCCESS;
	}
	return later ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
}

/*
 * A symbol that is not there is no error: *pfn is NULL. "If a per-thread version is not found, the API will return the
 * legacy version of the driver function" (cuda.h).
 */
static CUresult address_get(
	const char *symbol, void **pfn, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
	const cuuint64_t known = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
	CUdriverProcAddressQueryResult found;

	if (!symbol || !pfn || flags & ~known || version > CUDA_VERSION)
		return CUDA_ERROR_INVALID_VALUE;
	*pfn = NULL;
	found = function_find(symbol, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, pfn);
	if (status)
		*status = found;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	CUresult error = sc_enter(__func__);

	if (!error)
		error = address_get(symbol, pfn, cudaVersion, flags, NULL);
	/* It has no status to tell by: NVIDIA's driver of CUDA 13.0 answers so (H200, 2026-11-27). */
	return error || *pfn ? error : CUDA_ERROR_NOT_FOUND;
}

CUresult CUDAAPI cuGetProcAddress_v2(
	const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)
{
	CUresult error = sc_enter(__func__);

	return error ? error : address_get(symbol, pfn, cudaVersion, flags, symbolStatus);
}

/* The tables behind this call are undocumented; programs that need one, as the CUDA runtime does, cannot run here. */
CUresult CUDAAPI cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
	CUresult error = sc_enter(__func__);

	if (error)
		return error;
	if (!ppExportTable || !pExportTableId)
		return CUDA_ERROR_INVALID_VALUE;
	*ppExportTable = NULL;
	return CUDA_ERROR_NOT_FOUND;
}
