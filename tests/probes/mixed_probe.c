/*
 * A read-write and a read-only mapping of one block in one process: may both be, in which order, and does a change of one
 * leave the other as it is.
 *
 * Each row is a step; the steps follow one another on the same two addresses. What the mappings then do to writes is the
 * question of readonly_probe and, for the writer, of the last steps here.
 */
#include "probe.h"

static struct range owner, borrower;

static void row(const char *step, CUresult result)
{
	probe_row("%s\t%s\t%s\t%s", step, error_name(result), access_name(owner.at), access_name(borrower.at));
}

/* Write through the owner, read through the borrower. */
static void write_and_read(const char *step, unsigned value)
{
	CUresult result = launch_fill(NULL, owner.at, value, granule / 4);
	unsigned word = 0;

	if (!result)
		result = cu->cuCtxSynchronize();
	if (!result)
		result = cu->cuMemcpyDtoH(&word, borrower.at, sizeof(word));
	probe_row("%s\t%s\t%s\t%s\t%u\t%u", step, error_name(result), access_name(owner.at), access_name(borrower.at),
		value, word);
}

static void other_order(void)
{
	struct range first, second;

	first.bytes = second.bytes = granule;
	first.handle = second.handle = handle_new(granule);
	first.at = reservation_new(granule);
	second.at = reservation_new(granule);
	must(cu->cuMemMap(first.at, granule, 0, first.handle, 0));
	must(set_access(first.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
	must(cu->cuMemMap(second.at, granule, 0, second.handle, 0));
	owner = second;
	borrower = first;
	row("the read-only mapping first, then a read-write one",
		set_access(second.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	write_and_read("write through the read-write one, read through the other", 5);
	range_unmap(&first);
	range_free(&second);
}

static void run(void)
{
	owner = range_new(granule);
	borrower.bytes = granule;
	borrower.handle = owner.handle;
	borrower.at = reservation_new(granule);
	row("map the block a second time", cu->cuMemMap(borrower.at, granule, 0, owner.handle, 0));
	row("make the second read-only", set_access(borrower.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
	write_and_read("write through the first, read through the second", 1);
	row("make the second read-write too", set_access(borrower.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	row("make the second read-only again", set_access(borrower.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
	write_and_read("write through the first, read through the second", 2);
	row("take all access from the second", set_access(borrower.at, granule, CU_MEM_ACCESS_FLAGS_PROT_NONE));
	row("make the second read-only again", set_access(borrower.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
	write_and_read("write through the first, read through the second", 3);
	row("make the first read-only too", set_access(owner.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
	row("make the first read-write again", set_access(owner.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	write_and_read("write through the first, read through the second", 4);
	range_unmap(&borrower);
	range_free(&owner);
	other_order();
}

static const char *const columns[] = {"step", "result", "first", "second", "written", "read", NULL};
static const struct probe probe = {
	.name = "mixed",
	.question = "Can one block be mapped read-write and read-only in one process?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
