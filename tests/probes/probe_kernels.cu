/*
 * Kernels of the probes: plain reads and writes of global memory, kernels that the host holds running, traffic to be
 * slowed down, and reads and writes of one block of memory through two addresses.
 */

#ifdef __CUDACC__
#define PROBE_DEVICE static __device__
/* The words of a gate are shared with the host, or another block, while the kernel runs. */
PROBE_DEVICE unsigned word_load(const unsigned *word)
{
	return *(const volatile unsigned *)word;
}
PROBE_DEVICE void word_store(unsigned *word, unsigned value)
{
	__threadfence_system();
	*(volatile unsigned *)word = value;
}
/* Plain accesses that the compiler neither drops nor moves, cached in L1 as most of a kernel's are. */
PROBE_DEVICE unsigned cached_load(const unsigned *word)
{
	unsigned value;

	asm volatile("ld.global.ca.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
	return value;
}
PROBE_DEVICE void plain_store(unsigned *word, unsigned value)
{
	asm volatile("st.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
/* PTX ISA, membar/fence: a proxy fence is what orders accesses to one memory through different addresses. */
PROBE_DEVICE void alias_fence()
{
	asm volatile("fence.proxy.alias;" ::: "memory");
}
PROBE_DEVICE void dependents_launch()
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
PROBE_DEVICE void dependency_wait()
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
PROBE_DEVICE void pause_a_while()
{
	for (int i = 0; i < 100; i++)
		__nanosleep(1000);
}
#else
#define PROBE_DEVICE static
PROBE_DEVICE unsigned word_load(const unsigned *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
PROBE_DEVICE void word_store(unsigned *word, unsigned value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}
PROBE_DEVICE unsigned cached_load(const unsigned *word)
{
	return *(const volatile unsigned *)word;
}
PROBE_DEVICE void plain_store(unsigned *word, unsigned value)
{
	*(volatile unsigned *)word = value;
}
/* Aliases are coherent on a CPU, and a launch waits for the one before it. */
PROBE_DEVICE void alias_fence()
{
}
PROBE_DEVICE void dependents_launch()
{
}
PROBE_DEVICE void dependency_wait()
{
}
PROBE_DEVICE void pause_a_while()
{
}
#endif

KVS_KERNEL(probe_fill, unsigned *out, unsigned value, unsigned long long count)
{
	unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;

	for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		out[i] = value;
}

/* Adds one to each of `count` words, `rounds` times: traffic whose time tells whether something is in its way. */
KVS_KERNEL(probe_traffic, unsigned *words, unsigned long long count, unsigned rounds)
{
	unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;

	for (unsigned round = 0; round < rounds; round++)
		for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count;
			i += stride)
			words[i] += 1;
}

/* gate: [0] started, [1] the host opened it, [2] 1: passed, 2: gave up after `limit` looks. touch: enum gate_touch */
KVS_KERNEL(probe_gate, unsigned *gate, unsigned long long limit, unsigned *word, int touch)
{
	unsigned long long looks = 0;

	word_store(&gate[0], 1);
	while (!word_load(&gate[1]) && looks < limit) {
		looks++;
		if (touch == 2)
			(void)word_load(word);
		else if (touch == 3)
			*(volatile unsigned *)word = (unsigned)looks;
	}
	if (touch == 1)
		*(volatile unsigned *)word += 1;
	word_store(&gate[2], looks < limit ? 1 : 2);
}

/*
 * Each thread reads a word through `b`, so that it is cached, writes it through `a` and reads it through `b` again;
 * stale counts the reads that gave the old word. neighbour: the word that the next thread of the block has written.
 */
KVS_KERNEL(probe_alias_block, unsigned *a, const unsigned *b, unsigned value, int fence, int neighbour, unsigned *stale)
{
	unsigned own = blockIdx.x * blockDim.x + threadIdx.x;
	unsigned read = neighbour ? blockIdx.x * blockDim.x + (threadIdx.x + 1) % blockDim.x : own;

	(void)cached_load(&b[read]);
	__syncthreads();
	plain_store(&a[own], value);
	if (fence)
		alias_fence();
	__syncthreads();
	if (fence)
		alias_fence();
	if (cached_load(&b[read]) != value)
		atomicAdd(stale, 1u);
}

/*
 * Two blocks of one kernel: block 0 writes `count` words through `a` and raises the flag, block 1, which has read the words
 * before, then reads them through `b`. flag: [0] block 1 has read, [1] block 0 has written. stale: [0] old words, [1] gave up
 */
KVS_KERNEL(probe_alias_grid, unsigned *a, const unsigned *b, unsigned value, unsigned count, int fence, unsigned *flag,
	unsigned long long limit, unsigned *stale)
{
	unsigned *mine = &flag[blockIdx.x ? 0 : 1], *other = &flag[blockIdx.x ? 1 : 0];
	unsigned long long looks = 0;

	for (unsigned i = 0; blockIdx.x && i < count; i++)
		(void)cached_load(&b[i]);
	if (blockIdx.x)
		word_store(mine, 1);
	while (!word_load(other) && looks < limit)
		looks++;
	if (looks == limit)
		atomicAdd(&stale[1], 1u);
	__threadfence();
	for (unsigned i = 0; !blockIdx.x && i < count; i++)
		plain_store(&a[i], value);
	if (fence)
		alias_fence();
	if (!blockIdx.x)
		word_store(mine, 1);
	for (unsigned i = 0; blockIdx.x && i < count; i++)
		if (cached_load(&b[i]) != value)
			atomicAdd(&stale[0], 1u);
}

/* The first of two launches with programmatic dependent launch: lets the second start, and only then writes. */
KVS_KERNEL(probe_early_writer, unsigned *a, unsigned value, unsigned count)
{
	unsigned stride = gridDim.x * blockDim.x;

	dependents_launch();
	pause_a_while();
	for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		plain_store(&a[i], value);
}

/* Reads `count` words, so that they are cached, waits for the launch before if it is told to, and counts what is stale. */
KVS_KERNEL(probe_reader, const unsigned *b, unsigned value, unsigned count, int wait, unsigned *stale)
{
	unsigned stride = gridDim.x * blockDim.x;

	for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		(void)cached_load(&b[i]);
	if (wait)
		dependency_wait();
	for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		if (cached_load(&b[i]) != value)
			atomicAdd(stale, 1u);
}
