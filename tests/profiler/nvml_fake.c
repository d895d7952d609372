/*
 * tests/profiler/nvml_fake.c: a libnvidia-ml.so.1 of two devices. The file that $FAKE_NVML names has a line "DEVICE PID BYTES" for
 * each process, and is read anew for each question. A line "fail" makes questions fail, "no start" the start.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct process {
	unsigned int pid;
	unsigned long long used;
	unsigned int gpu_instance, compute_instance;
};

static int says(const char *word)
{
	FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
	char line[128];
	int found = 0;

	while (file && fgets(line, sizeof(line), file))
		found |= !strncmp(line, word, strlen(word));
	if (file)
		fclose(file);
	return found;
}

int nvmlInit_v2(void)
{
	return says("no start") ? 9 : 0;
}

int nvmlShutdown(void)
{
	return 0;
}

const char *nvmlErrorString(int error)
{
	return error == 9 ? "Driver Not Loaded" : "Unknown Error";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
	*count = 2;
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
	*device = (void *)(uintptr_t)(index + 1);
	return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *list)
{
	unsigned room = *count, index = (unsigned)(uintptr_t)device - 1, on, pid;
	unsigned long long used;
	FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
	char line[128];

	if (says("fail")) {
		if (file)
			fclose(file);
		return 999;
	}
	*count = 0;
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%u %u %llu", &on, &pid, &used) != 3 || on != index)
			continue;
		if (*count < room)
			list[*count] = (struct process){pid, used, 0, 0};
		++*count;
	}
	if (file)
		fclose(file);
	return *count > room ? 7 : 0;
}
