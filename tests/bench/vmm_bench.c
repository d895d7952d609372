/*
 * The cost of the manager on top of the driver, and the gain from premapping: for one sequence in one region, and for a
 * token in the 64 regions of an 8B model. Ratios are of medians within one run, the two sides measured in turn.
 */
#include "../../vmm/kvshare.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCKS = 32, ROUNDS = 301, GROWTHS = 96, STEPS_PER_BLOCK = 8 };
enum { LAYERS = 32, TOKEN_BYTES = 2048, TOKENS = 2560 }; /* 8 KV heads of 128 dimensions in 16 bits */

static void check(int err)
{
	if (err) {
		fprintf(stderr, "vmm_bench: %s\n", kvs_error());
		exit(1);
	}
}

static void check_driver(const kvs_cu *cu, CUresult result)
{
	check(result ? kvs_cu_fail(cu, result, "a bare driver call") : 0);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(double *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare);
	return samples[count / 2];
}

/* The fewest driver calls that grow by BLOCKS blocks from a free list and give them up again safely. */
static double bare_us(
	const kvs_cu *cu, CUdeviceptr base, size_t block, const CUmemGenericAllocationHandle *handles, CUevent event)
{
	CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cu->device},
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	double start = now_us();

	for (size_t i = 0; i < BLOCKS; i++)
		check_driver(cu, cu->cuMemMap(base + i * block, block, 0, handles[i], 0));
	check_driver(cu, cu->cuMemSetAccess(base, BLOCKS * block, &access, 1));
	check_driver(cu, cu->cuEventRecord(event, NULL));
	check_driver(cu, cu->cuStreamSynchronize(NULL));
	check_driver(cu, cu->cuEventSynchronize(event));
	check_driver(cu, cu->cuMemUnmap(base, BLOCKS * block));
	return now_us() - start;
}

static double managed_us(kvs_vmm *vmm, kvs_region *region, size_t block)
{
	double start = now_us();

	check(kvs_region_resize(region, 0, BLOCKS * block));
	check(kvs_region_resize(region, 0, 0));
	check(kvs_vmm_settle(vmm));
	return now_us() - start;
}

static void bench_overhead(kvs_cu *cu)
{
	static double bare[ROUNDS], managed[ROUNDS];
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cu->device}};
	CUmemGenericAllocationHandle handles[BLOCKS];
	CUdeviceptr base;
	kvs_region *region;
	CUevent event;
	kvs_vmm *vmm;
	size_t block;

	check(kvs_vmm_create(cu, NULL, &vmm));
	block = kvs_vmm_block_bytes(vmm);
	check(kvs_region_reserve(vmm, BLOCKS * block, 1, &region));
	check_driver(cu, cu->cuMemAddressReserve(&base, BLOCKS * block, block, 0, 0));
	check_driver(cu, cu->cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	for (int i = 0; i < BLOCKS; i++)
		check_driver(cu, cu->cuMemCreate(&handles[i], block, &prop, 0));
	managed_us(vmm, region, block); /* fills the free list */
	for (int round = 0; round < ROUNDS; round++) {
		if (round % 2)
			managed[round] = managed_us(vmm, region, block);
		bare[round] = bare_us(cu, base, block, handles, event);
		if (round % 2 == 0)
			managed[round] = managed_us(vmm, region, block);
	}
	printf("grow and give up %d blocks of %zu bytes: manager %.1f us, bare driver %.1f us, ratio %.3f\n", BLOCKS,
		block, median(managed, ROUNDS), median(bare, ROUNDS), median(managed, ROUNDS) / median(bare, ROUNDS));
	for (int i = 0; i < BLOCKS; i++)
		cu->cuMemRelease(handles[i]);
	cu->cuEventDestroy(event);
	cu->cuMemAddressFree(base, BLOCKS * block);
	kvs_region_free(region);
	kvs_vmm_free(vmm);
}

/* As much other work as a decode step. */
static void step(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
}

/* The time of the resizes that enter a new block, for one sequence that grows by an eighth of a block a step. */
static double growth_us(kvs_vmm *vmm)
{
	static double samples[GROWTHS];
	size_t block = kvs_vmm_block_bytes(vmm), bytes = 0;
	kvs_region *region;

	check(kvs_region_reserve(vmm, (GROWTHS + 1) * block, 1, &region));
	for (int i = 0; i < GROWTHS * STEPS_PER_BLOCK; i++) {
		double start = now_us();

		check(kvs_region_resize(region, 0, bytes += block / STEPS_PER_BLOCK));
		if (i % STEPS_PER_BLOCK == 0)
			samples[i / STEPS_PER_BLOCK] = now_us() - start;
		step();
	}
	kvs_region_free(region);
	return median(samples, GROWTHS);
}

static void bench_premap(kvs_cu *cu)
{
	kvs_vmm *plain, *premapping;
	double without_us, with_us;

	check(kvs_vmm_create(cu, &(struct kvs_vmm_options){.no_free_list = true}, &plain));
	check(kvs_vmm_create(cu, &(struct kvs_vmm_options){.no_free_list = true, .premap = true}, &premapping));
	without_us = growth_us(plain);
	with_us = growth_us(premapping);
	printf("enter a new block: premapped %.2f us, mapped on demand %.2f us, ratio %.3f\n", with_us, without_us,
		with_us / without_us);
	kvs_vmm_free(premapping);
	kvs_vmm_free(plain);
}

/* Grows once a token, with `step` after each or nothing; prints the mean, the median and the worst. */
static void put_growth(const char *name, kvs_cache *cache, bool with_steps)
{
	static double samples[TOKENS];
	double sum = 0;

	for (size_t i = 0; i < TOKENS; i++) {
		double start = now_us();

		check(kvs_cache_resize(cache, 0, i + 1));
		samples[i] = now_us() - start;
		sum += samples[i];
		if (with_steps)
			step();
	}
	qsort(samples, TOKENS, sizeof(*samples), compare);
	printf("  %-28s mean %8.2f us, median %6.2f us, worst %9.1f us\n", name, sum / TOKENS, samples[TOKENS / 2],
		samples[TOKENS - 1]);
}

/* `ready`: everything is mapped before the timing starts. */
static void bench_cache(kvs_cu *cu, const char *name, bool premap, bool ready, bool with_steps)
{
	const struct kvs_cache_shape shape = {.layers = LAYERS,
		.slots = 1,
		.ctx_tokens = TOKENS,
		.k_token_bytes = TOKEN_BYTES,
		.v_token_bytes = TOKEN_BYTES};
	kvs_cache *cache;
	kvs_vmm *vmm;

	check(kvs_vmm_create(cu, &(struct kvs_vmm_options){.premap = premap}, &vmm));
	check(kvs_cache_create(vmm, &shape, NULL, &cache));
	check(kvs_cache_resize(cache, 0, ready ? TOKENS : 1));
	check(kvs_cache_resize(cache, 0, 1)); /* keeps the blocks mapped: no later operation trims them */
	put_growth(name, cache, with_steps);
	kvs_cache_free(cache);
	kvs_vmm_free(vmm);
}

static void bench_caches(kvs_cu *cu)
{
	printf("room for a token in %d regions:\n", 2 * LAYERS);
	bench_cache(cu, "all mapped, no steps", false, true, false);
	bench_cache(cu, "on demand, no steps", false, false, false);
	bench_cache(cu, "premapped, no steps", true, false, false);
	bench_cache(cu, "on demand, steps of 0.5 ms", false, false, true);
	bench_cache(cu, "premapped, steps of 0.5 ms", true, false, true);
}

int main(int argc, char **argv)
{
	kvs_cu *cu;

	check(kvs_cu_open(argc > 1 ? argv[1] : "auto", &cu));
	printf("vmm on %s\n", cu->name);
	bench_overhead(cu);
	bench_premap(cu);
	bench_caches(cu);
	kvs_cu_close(cu);
	return 0;
}
