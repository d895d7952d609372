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

/* Does not end; the volatile load keeps the compiler from proving that. */
KVS_KERNEL(softcuda_spin, const int *never)
{
	while (!*(const volatile int *)never)
		;
}
