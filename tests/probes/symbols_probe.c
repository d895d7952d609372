/*
 * dlsym against cuGetProcAddress, for every function that kvshare calls.
 *
 * An interposer that exports a symbol catches programs that link it or use dlsym; one that asks cuGetProcAddress gets
 * the driver's own address. The columns show whether both are the same function, for each flag, and for the version of
 * cuda.h that the probe was built with against the driver's own (a newer form of a function is another address).
 * per_thread: `legacy` where the function has no form of its own for per-thread default streams, `own` where it has and
 * dlsym finds the same, by the suffix _ptsz or _ptds.
 */
#include "probe.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static __typeof__(cuGetProcAddress) *get_proc_address;

static void *ask(const char *base, int version, cuuint64_t flags, const char **why)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;
	void *found = NULL;
	CUresult result = get_proc_address(base, &found, version, flags, &status);

	*why = result                                                 ? error_name(result)
	       : status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND       ? "not found"
	       : status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT ? "version too old"
								      : "no address";
	return result ? NULL : found;
}

static const char *compare(const char *base, int version, cuuint64_t flags, const void *with)
{
	const char *why;
	void *found = ask(base, version, flags, &why);

	return !found ? why : found == with ? "same" : "another";
}

static const char *per_thread(const char *base, const char *symbol, const void *legacy)
{
	static const char *const suffixes[] = {"_ptsz", "_ptds"};
	const char *why;
	char name[128];
	void *found = ask(base, CUDA_VERSION, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &why);

	if (!found)
		return why;
	for (size_t i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "%s%s", symbol, suffixes[i]);
		if (found == dlsym(cu->library, name))
			return "own";
	}
	return found == legacy ? "legacy" : "another";
}

static void row(const char *base, const char *symbol)
{
	void *plain = dlsym(cu->library, base), *versioned = dlsym(cu->library, symbol);

	probe_row("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", base, symbol, plain ? "yes" : "no", versioned ? "yes" : "no",
		compare(base, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, versioned),
		compare(base, CUDA_VERSION, CU_GET_PROC_ADDRESS_LEGACY_STREAM, versioned),
		per_thread(base, symbol, versioned),
		compare(base, cu->driver_version, CU_GET_PROC_ADDRESS_DEFAULT, versioned));
}

static void run(void)
{
	get_proc_address = driver_function(cuGetProcAddress);
	if (!get_proc_address)
		probe_fail("the driver has no cuGetProcAddress");
#define SYMBOL_ROW(name) row(#name, PROBE_TEXT(name));
	KVS_CU_FUNCTIONS(SYMBOL_ROW)
#undef SYMBOL_ROW
}

static const char *const columns[] = {
	"function", "symbol", "dlsym_base", "dlsym_symbol", "default", "legacy", "per_thread", "newest", NULL};
static const struct probe probe = {
	.name = "symbols",
	.question = "Does cuGetProcAddress give the function that dlsym finds, for each flag?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
