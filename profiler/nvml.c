/*
 * profiler/nvml.c: which process has how much of which GPU, from NVIDIA's management library.
 *
 * It is opened at run time, as it comes with the driver. Its functions and the one structure are declared here after the NVML API
 * Reference (nvmlProcessInfo_t of nvmlDeviceGetComputeRunningProcesses_v3), so that no header of NVIDIA's is needed.
 */
#include "profiler.h"

#include "../driver/cu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#define NVML_SUCCESS 0
#define NVML_ERROR_INSUFFICIENT_SIZE 7
#define NVML_VALUE_NOT_AVAILABLE UINT64_MAX
#define MOST_DEVICES 64

_Static_assert(KVS_EVENT_NONE == NVML_VALUE_NOT_AVAILABLE, "not known is the same here and there");

struct nvml_process {
	unsigned int pid;
	unsigned long long used_bytes;
	unsigned int gpu_instance, compute_instance;
};
typedef struct nvml_device *nvml_device;

struct kvs_nvml {
	void *library;
	nvml_device devices[MOST_DEVICES];
	unsigned device_count;
	struct nvml_process *found;
	unsigned found_room;
	int (*init)(void);
	int (*shutdown)(void);
	const char *(*error_text)(int);
	int (*count)(unsigned *);
	int (*device)(unsigned, nvml_device *);
	int (*processes)(nvml_device, unsigned *, struct nvml_process *);
};

static int find_functions(kvs_nvml *nvml)
{
	const struct {
		const char *name;
		void **place;
	} wanted[] = {
		{"nvmlInit_v2", (void **)&nvml->init}, {"nvmlShutdown", (void **)&nvml->shutdown},
		{"nvmlErrorString", (void **)&nvml->error_text}, {"nvmlDeviceGetCount_v2", (void **)&nvml->count},
		{"nvmlDeviceGetHandleByIndex_v2", (void **)&nvml->device},
		{"nvmlDeviceGetComputeRunningProcesses_v3", (void **)&nvml->processes}, /* since driver 510 */
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
		*wanted[i].place = dlsym(nvml->library, wanted[i].name);
		if (!*wanted[i].place)
			return kvs_fail(-ENODEV, "NVML has no %s", wanted[i].name);
	}
	return 0;
}

/* Devices that another user's permissions or a fault keep away are passed over. */
static int find_devices(kvs_nvml *nvml)
{
	unsigned count = 0;
	int answer = nvml->count(&count);

	if (answer)
		return kvs_fail(-ENODEV, "NVML counts no devices: %s", nvml->error_text(answer));
	for (unsigned i = 0; i < count && nvml->device_count < MOST_DEVICES; i++)
		nvml->device_count += nvml->device(i, &nvml->devices[nvml->device_count]) == NVML_SUCCESS;
	return 0;
}

static int start(kvs_nvml *nvml)
{
	int err = find_functions(nvml), answer;

	if (err)
		return err;
	answer = nvml->init();
	if (answer)
		return kvs_fail(-ENODEV, "NVML does not start: %s", nvml->error_text(answer));
	err = find_devices(nvml);
	if (err)
		nvml->shutdown();
	return err;
}

int kvs_nvml_open(kvs_nvml **out)
{
	const char *asked = getenv("KVSHARE_NVML");
	kvs_nvml *nvml = calloc(1, sizeof(*nvml));
	int err = 0;

	*out = NULL;
	if (!nvml)
		return kvs_fail(-ENOMEM, "no memory for NVML");
	nvml->library = dlopen(asked && *asked ? asked : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!nvml->library)
		err = kvs_fail(-ENOENT, "NVML is not there: %s", dlerror());
	if (!err)
		err = start(nvml);
	if (!err) {
		*out = nvml;
		return 0;
	}
	if (nvml->library)
		dlclose(nvml->library);
	free(nvml);
	return err;
}

/* Of one device into nvml->found; the list may grow between two questions. */
static int ask(kvs_nvml *nvml, nvml_device device, unsigned *count)
{
	int answer;

	for (int tries = 0; tries < 4; tries++) {
		*count = nvml->found_room;
		answer = nvml->processes(device, count, nvml->found);
		if (answer != NVML_ERROR_INSUFFICIENT_SIZE)
			break;
		struct nvml_process *larger = realloc(nvml->found, (*count + 16) * sizeof(*larger));
		if (!larger)
			return kvs_fail(-ENOMEM, "no memory for %u processes", *count);
		nvml->found = larger;
		nvml->found_room = *count + 16;
	}
	return answer ? kvs_fail(-EIO, "NVML lists no processes: %s", nvml->error_text(answer)) : 0;
}

int kvs_nvml_list(kvs_nvml *nvml, struct kvs_nvml_process *list, size_t room, size_t *count)
{
	*count = 0;
	for (unsigned d = 0; d < nvml->device_count; d++) {
		unsigned found;
		int err = ask(nvml, nvml->devices[d], &found);
		if (err)
			return err;
		for (unsigned i = 0; i < found && i < nvml->found_room && *count < room; i++)
			list[(*count)++] = (struct kvs_nvml_process){nvml->found[i].pid, d, nvml->found[i].used_bytes};
	}
	return 0;
}

unsigned kvs_nvml_devices(const kvs_nvml *nvml)
{
	return nvml->device_count;
}

void kvs_nvml_close(kvs_nvml *nvml)
{
	if (!nvml)
		return;
	nvml->shutdown();
	dlclose(nvml->library);
	free(nvml->found);
	free(nvml);
}
