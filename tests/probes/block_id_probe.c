/*
 * CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: does it tell that two addresses are one memory? The id is given relative to that
 * of a first mapping (same, another), as its number means nothing.
 */
#include "probe.h"

static unsigned long long first_id;

static void row(const char *address, CUdeviceptr at, const char *same_memory)
{
	unsigned long long id = 0;
	CUresult result = cu->cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, at);
	CUdeviceptr base = 0;
	size_t bytes = 0;
	CUresult attribute = cu->cuPointerGetAttribute(&base, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, at);

	if (!attribute)
		attribute = cu->cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, at);
	if (!first_id)
		first_id = id;
	probe_row("%s\t%s\t%s\t%s\t%s\t%zu", address, same_memory, error_name(result),
		result           ? ""
		: id == first_id ? "same"
				 : "another",
		error_name(attribute), bytes);
}

static void run(void)
{
	struct range owner = range_new(2 * granule), other = range_new(2 * granule);
	struct range borrower = range_alias(&owner, CU_MEM_ACCESS_FLAGS_PROT_READ);
	struct range prefix = {.handle = owner.handle, .bytes = granule, .at = reservation_new(2 * granule)};
	CUdeviceptr plain = 0;

	row("a mapping", owner.at, "itself");
	row("its second granule", owner.at + granule, "yes");
	row("a read-only alias", borrower.at, "yes");
	row("the alias's second granule", borrower.at + granule, "yes");
	if (!cu->cuMemMap(prefix.at, granule, 0, owner.handle, 0)) {
		row("an alias of the first granule, before access", prefix.at, "yes");
		must(set_access(prefix.at, granule, CU_MEM_ACCESS_FLAGS_PROT_READ));
		row("an alias of the first granule", prefix.at, "yes");
		must(cu->cuMemUnmap(prefix.at, granule));
	}
	row("reserved and not mapped", prefix.at, "no");
	row("another handle", other.at, "no");
	must(cu->cuMemAlloc(&plain, granule));
	row("cuMemAlloc", plain, "no");
	must(cu->cuMemFree(plain));
	range_unmap(&borrower);
	borrower = range_alias(&owner, CU_MEM_ACCESS_FLAGS_PROT_READ);
	row("the alias, mapped once more", borrower.at, "yes");
	range_unmap(&owner);
	row("the alias, after the first mapping went", borrower.at, "yes");
	must(cu->cuMemAddressFree(prefix.at, 2 * granule));
	range_free(&borrower);
	range_free(&other);
}

static const char *const columns[] = {
	"address", "same_memory", "block_id", "id", "mapping_attributes", "mapping_bytes", NULL};
static const struct probe probe = {
	.name = "block_id",
	.question = "Does CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID tell aliases from other memory?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
