/*
 * Mapping a prefix of a handle: which sizes and offsets a driver takes, whether the prefix is the same memory as the start
 * of a whole mapping, and whether the rest of the handle can be mapped beside it.
 */
#include "probe.h"

enum { GRANULES = 4 };

static CUmemGenericAllocationHandle handle;

/* What a kernel writes into the last word of the prefix, read through a mapping of the whole handle. */
static const char *written_is_seen(CUdeviceptr at, size_t bytes)
{
	struct range prefix = {.handle = handle, .bytes = GRANULES * granule};
	struct range whole = range_alias(&prefix, CU_MEM_ACCESS_FLAGS_PROT_READ);
	static unsigned value = 100;
	CUresult result = launch_fill(NULL, at, ++value, bytes / 4);
	bool seen;

	if (!result)
		result = cu->cuCtxSynchronize();
	seen = !result && word_at(whole.at) == value && word_at(whole.at + bytes - 4) == value;
	range_unmap(&whole);
	return result ? error_name(result) : seen ? "yes" : "no";
}

static void ask(const char *what, size_t bytes, size_t offset)
{
	CUdeviceptr at = reservation_new((GRANULES + 1) * granule);
	CUresult result = cu->cuMemMap(at, bytes, offset, handle, 0), access, unmap;

	if (result) {
		probe_row("%s\t%zu\t%zu\t%s", what, bytes, offset, error_name(result));
	} else {
		const char *seen = "", *kept = "";
		CUmemGenericAllocationHandle retained = 0;

		access = set_access(at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
		if (!access && !offset)
			seen = written_is_seen(at, bytes);
		if (!cu->cuMemRetainAllocationHandle(&retained, (void *)at)) {
			kept = retained == handle ? "yes" : "no";
			must(cu->cuMemRelease(retained));
		}
		must(cu->cuCtxSynchronize());
		unmap = cu->cuMemUnmap(at, bytes);
		probe_row("%s\t%zu\t%zu\t%s\t%s\t%s\t%s\t%s", what, bytes, offset, error_name(result),
			error_name(access), seen, kept, error_name(unmap));
	}
	must(cu->cuMemAddressFree(at, (GRANULES + 1) * granule));
}

/* Growing a mapping within its handle: unmap the prefix, map a longer one at the same address, and find the same words. */
static void grow_in_place(void)
{
	CUdeviceptr at = reservation_new(GRANULES * granule);
	unsigned word = 0;
	CUresult result = CUDA_SUCCESS;

	for (size_t granules = 1; granules <= GRANULES && !result; granules++) {
		result = cu->cuMemMap(at, granules * granule, 0, handle, 0);
		if (result)
			break;
		must(set_access(at, granules * granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
		if (granules == 1)
			must(cu->cuMemsetD8(at, 0x55, granule));
		word = word_at(at);
		must(cu->cuMemUnmap(at, granules * granule));
	}
	probe_row("grow a prefix at one address\t%zu\t0\t%s\t\t%s", GRANULES * granule, error_name(result),
		word == 0x55555555 ? "yes" : "no");
	must(cu->cuMemAddressFree(at, GRANULES * granule));
}

static void run(void)
{
	handle = handle_new(GRANULES * granule);
	ask("the whole handle", GRANULES * granule, 0);
	ask("its first granule", granule, 0);
	ask("all but its last granule", (GRANULES - 1) * granule, 0);
	ask("half a granule", granule / 2, 0);
	ask("more than the handle", (GRANULES + 1) * granule, 0);
	ask("its second granule, by the offset", granule, granule);
	ask("its second half, by the offset", GRANULES / 2 * granule, GRANULES / 2 * granule);
	ask("half a granule into it", granule, granule / 2);
	grow_in_place();
	must(cu->cuMemRelease(handle));
}

static const char *const columns[] = {
	"mapped", "bytes", "offset", "map", "set_access", "same_memory", "retain_gives_handle", "unmap", NULL};
static const struct probe probe = {
	.name = "prefix",
	.question = "Can a part of a handle be mapped?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
