/*
 * tests/fuzz/plan_fuzz.c: any bytes as a plan, as a file and as a list of owners. Accepted text must give a valid plan,
 * which survives being saved.
 */
#include "../../vmm/kvshare.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(kvs_plan *plan)
{
	for (int layer = 0; layer < kvs_plan_layers(plan); layer++) {
		int k = kvs_plan_owner(plan, layer, KVS_K), v = kvs_plan_owner(plan, layer, KVS_V);

		assert(k >= 0 && k <= layer && kvs_plan_owner(plan, k, KVS_K) == k);
		assert(v >= 0 && v <= layer && kvs_plan_owner(plan, v, KVS_V) == v);
	}
}

static void try_file(const uint8_t *data, size_t size)
{
	char path[64], saved[64];
	int fd = memfd_create("plan", 0);
	kvs_plan *plan;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	snprintf(saved, sizeof(saved), "/dev/shm/kvs-plan-fuzz-%d", (int)getpid());
	if (!kvs_plan_load(path, &plan)) {
		check(plan);
		assert(!kvs_plan_save(plan, saved));
		kvs_plan_free(plan);
		assert(!kvs_plan_load(saved, &plan));
		check(plan);
		kvs_plan_free(plan);
		unlink(saved);
	} else {
		assert(strstr(kvs_error(), path));
	}
	close(fd);
}

static void try_list(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	kvs_plan *plan;

	if (!text)
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	if (!kvs_plan_parse(text, &plan)) {
		check(plan);
		kvs_plan_free(plan);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	try_file(data, size);
	try_list(data, size);
	return 0;
}
