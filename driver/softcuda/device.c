/*
 * driver/softcuda/device.c: the one device and its attributes, which do not depend on the machine: what runs here runs
 * with the same launch shapes everywhere. Only its memory is a setting.
 */
#include "device.h"

#include "capture.h"
#include "memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_NAME "softcuda (host memory)"

/* The library that CUDA_INJECTION64_PATH names is loaded by the first cuInit, as CUPTI's tools need it; failures are ignored. */
static void load_injection(void)
{
	static atomic_flag loaded = ATOMIC_FLAG_INIT;
	const char *path = getenv("CUDA_INJECTION64_PATH");
	int (*initialize)(void);
	void *library;

	if (atomic_flag_test_and_set(&loaded) || !path || !*path)
		return;
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	initialize = library ? (int (*)(void))dlsym(library, "InitializeInjection") : NULL;
	if (initialize)
		initialize();
}

CUresult CUDAAPI cuInit(unsigned int Flags)
{
	static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
	static bool settings_read, fork_watched;
	CUresult error = sc_enter(__func__);

	if (error)
		return error;
	if (Flags)
		return CUDA_ERROR_INVALID_VALUE;
	load_injection();
	pthread_mutex_lock(&starting);
	if (!settings_read) {
		error = sc_settings_read();
		if (!error && !fork_watched) {
			fork_watched = sc_fork_watch();
			error = fork_watched ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
		}
		settings_read = !error;
		sc_initialized_set(!error);
	}
	pthread_mutex_unlock(&starting);
	return error;
}

void softcuda_reset(void)
{
	sc_captures_reset();
	sc_contexts_reset();
	pthread_mutex_lock(&sc_lock);
	sc_space_reset();
	sc_libraries_reset();
	sc_links_reset();
	sc_execs_reset();
	sc_graphs_reset();
	sc_pools_reset();
	pthread_mutex_unlock(&sc_lock);
	sc_faults_reset();
	softcuda_fail_nth(NULL, 0, CUDA_SUCCESS);
	sc_settings_read();
}

CUresult CUDAAPI cuDriverGetVersion(int *driverVersion)
{
	CUresult error = sc_enter(__func__);

	if (error)
		return error;
	if (!driverVersion)
		return CUDA_ERROR_INVALID_VALUE;
	*driverVersion = CUDA_VERSION;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!device)
		return CUDA_ERROR_INVALID_VALUE;
	if (ordinal != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*device = 0;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!count)
		return CUDA_ERROR_INVALID_VALUE;
	*count = 1;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char *name, int len, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!name || len <= 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	snprintf(name, (size_t)len, "%s", DEVICE_NAME);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!uuid)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	memcpy(uuid->bytes, "softcuda-device0", sizeof(uuid->bytes));
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!pciBusId || len < 13)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	snprintf(pciBusId, (size_t)len, "0000:00:00.0");
	return CUDA_SUCCESS;
}

/* "[domain]:[bus]:[device].[function], [domain]:[bus]:[device], [bus]:[device].[function]" (cuda.h) */
CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId)
{
	static const char *const forms[] = {"0000:00:00.0", "0000:00:00", "00:00.0"};
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!dev || !pciBusId)
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		if (!strcmp(pciBusId, forms[i])) {
			*dev = 0;
			return CUDA_SUCCESS;
		}
	}
	return CUDA_ERROR_INVALID_DEVICE;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*bytes = sc_settings.memory_bytes;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!canAccessPeer)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0 || peerDev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*canAccessPeer = 0;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!free_bytes || !total)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&sc_lock);
	*free_bytes = sc_settings.memory_bytes - sc_physical_used();
	pthread_mutex_unlock(&sc_lock);
	*total = sc_settings.memory_bytes;
	return CUDA_SUCCESS;
}

/* An attribute that is not here is 0: what it names, the device has none of. */
static const struct {
	CUdevice_attribute attribute;
	int value;
} attributes[] = {
	{CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, SC_MAX_THREADS},
	{CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, SC_MAX_BLOCK_X},
	{CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, SC_MAX_BLOCK_Y},
	{CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, SC_MAX_BLOCK_Z},
	{CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, SC_MAX_GRID_X},
	{CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, SC_MAX_GRID_YZ},
	{CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, SC_MAX_GRID_YZ},
	{CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, SC_SHARED_STANDARD},
	{CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, SC_SHARED_OPTIN},
	{CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, SC_SHARED_MULTIPROCESSOR},
	{CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, SC_SHARED_RESERVED},
	{CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 * 1024},
	{CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
	{CU_DEVICE_ATTRIBUTE_MAX_PITCH, 0x7fffffff},
	{CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
	{CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
	{CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
	{CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
	{CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 64},
	{CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 4 << 20},
	{CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, SC_THREADS_MULTIPROCESSOR},
	{CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, SC_BLOCKS_MULTIPROCESSOR},
	{CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, SC_MULTIPROCESSORS},
	{CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
	{CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
	{CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
	{CU_DEVICE_ATTRIBUTE_INTEGRATED, 1},
	{CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
	{CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
	{CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
	{CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
	{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, SC_CAPABILITY / 10},
	{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, SC_CAPABILITY % 10},
	{CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
	{CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
	{CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
	{CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
	{CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
	{CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
	{CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
	{CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
	{CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
	{CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
	{CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1},
};

CUresult CUDAAPI cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!pi || attrib < 1 || attrib >= CU_DEVICE_ATTRIBUTE_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*pi = 0;
	for (size_t i = 0; i < sizeof(attributes) / sizeof(*attributes); i++) {
		if (attributes[i].attribute == attrib)
			*pi = attributes[i].value;
	}
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
	CUresult error = sc_enter_initialized(__func__);

	if (error)
		return error;
	if (!major || !minor)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*major = SC_CAPABILITY / 10;
	*minor = SC_CAPABILITY % 10;
	return CUDA_SUCCESS;
}
