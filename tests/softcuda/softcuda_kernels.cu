/*
 * Kernels of the softcuda tests: what a launch hands over, and a kernel that never ends.
 */

KVS_KERNEL(softcuda_add, int *values, int addend)
{
	values[blockIdx.x * blockDim.x + threadIdx.x] += addend;
}

struct softcuda_pair {
	int *where;
	int value;
};

KVS_KERNEL(softcuda_store_pair, struct softcuda_pair pair)
{
	if (threadIdx.x == 0)
		*pair.where = pair.value;
}

/* Every block sees what all blocks wrote before the barrier. A block that is told to skips it, which is wrong. */
KVS_KERNEL(softcuda_meet, int *arrived, int *seen, int skipper)
{
	if (threadIdx.x == 0)
		atomicAdd(arrived, 1);
	if ((int)blockIdx.x == skipper)
		return;
	kvs_grid_sync();
	if (threadIdx.x == 0)
		seen[blockIdx.x] = *arrived;
}

/*
 * The host writes there meanwhile. ThreadSanitizer does not look: a plain read would be a race for it, and the watchdog's jump out of
 * one of its atomics would leave its lock behind.
 */
__attribute__((noinline, no_sanitize("thread"))) static int read_now(const int *at)
{
	return *(const volatile int *)at;
}

KVS_KERNEL(softcuda_spin, const int *end)
{
	while (!read_now(end))
		;
}
