/*
 * Uprobes on the driver's library: do they see every call, however the program came by the function?
 *
 * A counter of the kernel's uprobe PMU (perf_event_open, no BPF) stands on cuMemGetInfo_v2, while this program calls it in several
 * ways. `hits` should be `calls`. What a hit costs is the difference of the two times. Needs root or CAP_PERFMON.
 */
#include "probe.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALLS 1000

static __typeof__(cuMemGetInfo) *called; /* by the rows */

static int pmu_type(void)
{
	FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	int type = -1;

	if (file && fscanf(file, "%d", &type) != 1)
		type = -1;
	if (file)
		fclose(file);
	return type;
}

/* Where in the file `map` was loaded from the byte at `address` lies; 0 where it does not. */
static uint64_t file_offset(const struct link_map *map, const void *address)
{
	uint64_t at = (uintptr_t)address - map->l_addr, found = 0;
	FILE *file = fopen(map->l_name, "rb");
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (file && fread(&header, sizeof(header), 1, file) == 1)
		for (int i = 0; i < header.e_phnum && !found; i++) {
			if (fseek(file, (long)(header.e_phoff + i * sizeof(segment)), SEEK_SET) ||
				fread(&segment, sizeof(segment), 1, file) != 1)
				break;
			if (segment.p_type == PT_LOAD && at - segment.p_vaddr < segment.p_filesz)
				found = at - segment.p_vaddr + segment.p_offset;
		}
	if (file)
		fclose(file);
	return found;
}

/* A counter of calls of the function at `address`, by this process and its threads; -1 and errno. */
static int counter_open(const struct link_map *map, const void *address)
{
	struct perf_event_attr attr = {.size = sizeof(attr), .inherit = 1, .disabled = 1};

	attr.type = (unsigned)pmu_type();
	attr.config1 = (uintptr_t)map->l_name;
	attr.config2 = file_offset(map, address);
	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static uint64_t counter_read(int fd)
{
	uint64_t hits = 0;

	return read(fd, &hits, sizeof(hits)) == sizeof(hits) ? hits : 0;
}

static void *call_many(void *arg)
{
	size_t free_bytes, total_bytes;

	for (int i = 0; i < CALLS; i++)
		must(called(&free_bytes, &total_bytes));
	return arg;
}

static void *call_many_on_a_thread(void *arg)
{
	if (kvs_cu_bind(cu))
		probe_fail("%s", kvs_error());
	return call_many(arg);
}

static void row(const char *how, int counter, __typeof__(cuMemGetInfo) *function, bool on_a_thread)
{
	double start, bare_us, watched_us;
	uint64_t before = counter_read(counter);
	pthread_t thread;

	if (!function) {
		probe_row("%s\tnot supported here", how);
		return;
	}
	called = function;
	start = now_us();
	call_many(NULL);
	bare_us = (now_us() - start) / CALLS;
	ioctl(counter, PERF_EVENT_IOC_ENABLE, 0);
	start = now_us();
	if (!on_a_thread)
		call_many(NULL);
	else if (pthread_create(&thread, NULL, call_many_on_a_thread, NULL) || pthread_join(thread, NULL))
		probe_fail("no thread could be started");
	watched_us = (now_us() - start) / CALLS;
	ioctl(counter, PERF_EVENT_IOC_DISABLE, 0);
	probe_row("%s\t%d\t%llu\t%.3f\t%.3f", how, CALLS, (unsigned long long)(counter_read(counter) - before), bare_us,
		watched_us);
}

static void run(void)
{
	__typeof__(cuGetProcAddress) *ask = driver_function(cuGetProcAddress);
	CUdriverProcAddressQueryResult status;
	void *asked = NULL, *plain = dlsym(cu->library, PROBE_TEXT(cuMemGetInfo));
	struct link_map *map = NULL;
	int counter;

	if (!plain || dlinfo(cu->library, RTLD_DI_LINKMAP, &map))
		probe_fail("the driver's library does not tell where it lies");
	counter = counter_open(map, plain);
	if (counter < 0) {
		probe_row("a uprobe on %s\t%s", map->l_name, strerror(errno));
		return;
	}
	if (!ask || ask("cuMemGetInfo", &asked, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, &status))
		asked = NULL;
	row("found by dlsym", counter, plain, false);
	row("found by cuGetProcAddress", counter, asked, false);
	row("on another thread", counter, plain, true);
	close(counter);
}

static const char *const columns[] = {"function", "calls", "hits", "us_bare", "us_watched", NULL};
static const struct probe probe = {
	.name = "uprobe",
	.question = "Does a uprobe on the driver see every call, and what does a hit cost?",
	.columns = columns,
	.run = run,
};

int main(int argc, char **argv)
{
	return probe_main(argc, argv, &probe);
}
