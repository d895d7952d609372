/*
 * The minimum and recommended granularity for each kind of memory that a handle can be made of, and whether one granule of
 * it can be created. An attribute of the device says what it should support.
 */
#include "probe.h"

static void row(const char *what, const CUmemAllocationProp *asked)
{
	CUmemAllocationProp got = {0};
	CUmemGenericAllocationHandle handle = 0;
	size_t minimum = 0, recommended = 0;
	CUresult least = cu->cuMemGetAllocationGranularity(&minimum, asked, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	CUresult best = cu->cuMemGetAllocationGranularity(&recommended, asked, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
	CUresult create = least ? least : cu->cuMemCreate(&handle, minimum, asked, 0);

	if (!create) {
		must(cu->cuMemGetAllocationPropertiesFromHandle(&got, handle));
		must(cu->cuMemRelease(handle));
	}
	probe_row("%s\t%s\t%zu\t%s\t%zu\t%s\t%s\t%s", what, error_name(least), minimum, error_name(best), recommended,
		least ? "" : error_name(create),
		create                           ? ""
		: got.allocFlags.compressionType ? "yes"
						 : "no",
		create                                ? ""
		: got.allocFlags.gpuDirectRDMACapable ? "yes"
						      : "no");
}

static void ask_locations(void)
{
	static const struct {
		const char *name;
		CUmemLocationType type;
		int id;
	} places[] = {
		{"host", CU_MEM_LOCATION_TYPE_HOST, 0},
		{"host NUMA node 0", CU_MEM_LOCATION_TYPE_HOST_NUMA, 0},
		{"current host NUMA node", CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT, 0},
		{"a device that is not there", CU_MEM_LOCATION_TYPE_DEVICE, 4096},
	};

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		CUmemAllocationProp asked = prop;

		asked.location.type = places[i].type;
		asked.location.id = places[i].id;
		row(places[i].name, &asked);
	}
}

static void ask_handle_types(void)
{
	static const struct {
		const char *name;
		int types;
	} kinds[] = {
		{"device, for POSIX descriptors", CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR},
		{"device, for fabric handles", CU_MEM_HANDLE_TYPE_FABRIC},
		{"device, for Win32 handles", CU_MEM_HANDLE_TYPE_WIN32},
		{"device, for descriptors and fabric",
			CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | CU_MEM_HANDLE_TYPE_FABRIC},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		CUmemAllocationProp asked = prop;

		asked.requestedHandleTypes = (CUmemAllocationHandleType)kinds[i].types;
		row(kinds[i].name, &asked);
	}
}

static void ask_flags(void)
{
	CUmemAllocationProp asked = prop;

	asked.allocFlags.gpuDirectRDMACapable = 1;
	row("device, for RDMA", &asked);
	asked.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_GENERIC;
	row("device, for RDMA, compressible", &asked);
	asked.allocFlags.gpuDirectRDMACapable = 0;
	row("device, compressible", &asked);
}

static void ask_attribute(const char *what, CUdevice_attribute attribute)
{
	int value = -1;
	CUresult result = cu->cuDeviceGetAttribute(&value, attribute, cu->device);

	probe_row("attribute: %s\t%s\t%d", what, error_name(result), value);
}

static void run(void)
{
	row("device", &prop);
	ask_handle_types();
	ask_flags();
	ask_locations();
	ask_attribute("virtual memory management", CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
	ask_attribute("POSIX descriptors", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
	ask_attribute("fabric handles", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED);
	ask_attribute("RDMA", CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
	ask_attribute("compression", CU_DEVICE_ATTRIBUTE_GENERIC_COMPRESSION_SUPPORTED);
	ask_attribute("host NUMA id", CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
}

static const char *const columns[] = {
	"memory", "minimum", "minimum_bytes", "recommended", "recommended_bytes", "create", "compressed", "rdma", NULL};
static const struct probe probe = {
	.name = "granularity",
	.question = "What are the smallest and the recommended granularity for each kind of memory?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
