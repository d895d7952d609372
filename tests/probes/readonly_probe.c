/*
 * The error of a write through a read-only mapping, by kernel, copy and memset, and what is left of the process.
 *
 * Each way to write runs in a process of its own. What is left is asked in the order in which a program would notice: the
 * call itself, the next synchronisation, calls that need the context, and whether resetting the primary context gives a
 * working one back.
 */
#include "probe.h"

#include <string.h>

static CUresult write_by_kernel(CUdeviceptr at, CUdeviceptr other)
{
	(void)other;
	return launch_fill(NULL, at, 7, 1024);
}

static CUresult write_by_copy_from_host(CUdeviceptr at, CUdeviceptr other)
{
	static const unsigned words[1024] = {7};

	(void)other;
	return cu->cuMemcpyHtoD(at, words, sizeof(words));
}

static CUresult write_by_copy_on_device(CUdeviceptr at, CUdeviceptr other)
{
	return cu->cuMemcpyDtoDAsync(at, other, 4096, NULL);
}

static CUresult write_by_memset(CUdeviceptr at, CUdeviceptr other)
{
	(void)other;
	return cu->cuMemsetD8(at, 7, 4096);
}

static CUresult write_by_async_memset(CUdeviceptr at, CUdeviceptr other)
{
	(void)other;
	return cu->cuMemsetD32Async(at, 7, 1024, NULL);
}

static CUresult read_by_copy(CUdeviceptr at, CUdeviceptr other)
{
	return cu->cuMemcpyDtoDAsync(other, at, 4096, NULL);
}

static const struct {
	const char *name;
	CUresult (*write)(CUdeviceptr at, CUdeviceptr other);
} ways[] = {
	{"kernel", write_by_kernel}, {"copy-from-host", write_by_copy_from_host},
	{"copy-on-device", write_by_copy_on_device}, {"memset", write_by_memset},
	{"memset-async", write_by_async_memset},
	{"read-only-reads", read_by_copy}, /* what must work, to compare with */
};

/* Does the primary context work again once it was reset? That is this process's own context, in a child; no GPU is reset. */
static const char *after_reset(void)
{
	__typeof__(cuDevicePrimaryCtxReset) *reset = driver_function(cuDevicePrimaryCtxReset);
	CUcontext context = NULL;
	CUdeviceptr at = 0;
	CUresult result;

	if (!reset)
		return "not supported here";
	result = reset(cu->device);
	if (!result)
		result = cu->cuDevicePrimaryCtxRetain(&context, cu->device);
	if (!result)
		result = cu->cuCtxSetCurrent(context);
	if (!result)
		result = cu->cuMemAlloc(&at, granule);
	if (!result)
		result = cu->cuMemsetD8(at, 0, granule);
	if (!result)
		result = cu->cuCtxSynchronize();
	return error_name(result);
}

static void run_case(const char *name)
{
	struct range owner = range_new(granule), other = range_new(granule);
	struct range borrower = range_alias(&owner, CU_MEM_ACCESS_FLAGS_PROT_READ);
	const char *call = "no such case", *sync, *copy, *alloc, *info, *unmap;
	unsigned word = 0;
	CUdeviceptr extra = 0;
	size_t available, total;

	must(cu->cuMemsetD32Async(owner.at, 1, granule / 4, NULL));
	must(cu->cuCtxSynchronize());
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		if (!strcmp(ways[i].name, name))
			call = error_name(ways[i].write(borrower.at, other.at));
	sync = error_name(cu->cuCtxSynchronize());
	copy = error_name(cu->cuMemcpyDtoH(&word, owner.at, sizeof(word)));
	alloc = error_name(cu->cuMemAlloc(&extra, granule));
	info = error_name(cu->cuMemGetInfo(&available, &total));
	unmap = error_name(cu->cuMemUnmap(borrower.at, borrower.bytes));
	/* word: 1 where the memory is as it was, 0 where it could not be read. */
	probe_row(
		"%s\t%s\t%s\t%s\t%u\t%s\t%s\t%s\t%s", name, call, sync, copy, word, alloc, info, unmap, after_reset());
}

static void run(void)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		probe_case(ways[i].name);
}

static const char *const columns[] = {"write_by", "call", "synchronize", "copy_after", "word_after", "alloc_after",
	"memory_info_after", "unmap_after", "use_after_reset", NULL};
static const struct probe probe = {
	.name = "readonly",
	.question = "Which error does a write through a read-only mapping give, and what is left of the process?",
	.columns = columns,
	.run = run,
	.run_case = run_case,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
