/*
 * tools/preload/fault.c: a kernel that writes a borrower's memory, and is not known to, hits a page that can only be read.
 * The driver tells of it later and names nobody, so the shim names those that were handed such an address.
 */
#include "preload.h"

#include <stdio.h>
#include <string.h>

static atomic_bool told;

static void name_append(void *arg, const struct shim_kernel *kernel)
{
	char *list = arg;
	size_t used = strlen(list);

	snprintf(list + used, 600 - used, "%s%s", used ? ", " : "", kernel->name);
}

void shim_fault_tell(const struct shim_kernel *kernel)
{
	char list[600] = "";

	if (!shim_ranges() || atomic_exchange(&told, true))
		return;
	if (kernel) {
		shim_say(
			"kernel %s has written memory of a layer that borrows, or has failed otherwise; if it stores K "
			"or V, name it as a writer (--writer)",
			kernel->name);
		return;
	}
	shim_kernels_touched(name_append, list);
	shim_say("a kernel has failed, perhaps as it wrote memory of a layer that borrows; these were handed such "
		 "memory: "
		 "%s. If one of them stores K or V, name it as a writer (--writer); --sync tells which one failed",
		*list ? list : "none");
}

/* Whichever call told the program: those that report an error ask for its name or its text. */
CUresult CUDAAPI cuGetErrorName(CUresult error, const char **pStr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_QUERIES);
	const struct shim_real *driver = shim_real();

	shim_fault_check(error, NULL);
	return driver->cuGetErrorName ? driver->cuGetErrorName(error, pStr) : SHIM_ABSENT;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **pStr)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_QUERIES);
	const struct shim_real *driver = shim_real();

	shim_fault_check(error, NULL);
	return driver->cuGetErrorString ? driver->cuGetErrorString(error, pStr) : SHIM_ABSENT;
}
