/*
 * Set-access on part of a mapping: which parts a driver takes, and how far the change then reaches.
 *
 * The range is two mappings of two granules each, read-write. `access` shows each granule as cuMemGetAccess tells it
 * (w: read-write, r: read, -: none). What it tells is compared with what the memory does in processes of their own, where
 * a kernel writes each granule in turn after the second alone was made read-only.
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>

enum { GRANULES = 4 };

static struct range first, second;
static CUdeviceptr base;

static void range_prepare(void)
{
	base = reservation_new(GRANULES * granule);
	first = (struct range){base, GRANULES / 2 * granule, handle_new(GRANULES / 2 * granule)};
	second = (struct range){base + first.bytes, first.bytes, handle_new(first.bytes)};
	must(cu->cuMemMap(first.at, first.bytes, 0, first.handle, 0));
	must(cu->cuMemMap(second.at, second.bytes, 0, second.handle, 0));
	must(set_access(base, GRANULES * granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
}

static void range_drop(void)
{
	must(cu->cuMemUnmap(base, GRANULES * granule));
	must(cu->cuMemRelease(first.handle));
	must(cu->cuMemRelease(second.handle));
	must(cu->cuMemAddressFree(base, GRANULES * granule));
}

static void ask(const char *part, size_t offset, size_t bytes)
{
	char access[GRANULES + 1] = {0};
	CUresult result;

	range_prepare();
	result = set_access(base + offset, bytes, CU_MEM_ACCESS_FLAGS_PROT_READ);
	for (int i = 0; i < GRANULES; i++) {
		const char *name = access_name(base + i * granule);

		access[i] = !strcmp(name, "read-write") ? 'w' : !strcmp(name, "read") ? 'r' : '-';
	}
	probe_row("%s\t%zu\t%zu\t%s\t%s", part, offset, bytes, error_name(result), access);
	range_drop();
}

/* Case "write-N": the second granule is made read-only, then granule N is written. */
static void run_case(const char *name)
{
	size_t index = strtoul(name + strlen("write-"), NULL, 10) % GRANULES;
	CUresult access, result;

	range_prepare();
	access = set_access(base + granule, granule, CU_MEM_ACCESS_FLAGS_PROT_READ);
	result = launch_fill(NULL, base + index * granule, 7, granule / 4);
	if (!result)
		result = cu->cuCtxSynchronize();
	probe_row("%s\t%zu\t%zu\t%s\t\t%s", name, granule, granule, error_name(access), error_name(result));
}

static void run(void)
{
	ask("the whole range", 0, GRANULES * granule);
	ask("the first mapping", 0, 2 * granule);
	ask("the first granule of a mapping", 0, granule);
	ask("the last granule of a mapping", granule, granule);
	ask("halves of both mappings", granule, 2 * granule);
	ask("half a granule", 0, granule / 2);
	ask("from half a granule", granule / 2, granule);
	ask("a host page", 0, 4096);
	probe_case("write-0");
	probe_case("write-1");
	probe_case("write-2");
}

static const char *const columns[] = {
	"part_made_read_only", "offset", "bytes", "set_access", "access", "kernel_write", NULL};
static const struct probe probe = {
	.name = "part_access",
	.question = "Can access be set on a part of a mapping, and how far does the change reach?",
	.columns = columns,
	.run = run,
	.run_case = run_case,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
