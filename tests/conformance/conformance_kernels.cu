/*
 * Kernels of the conformance tests: the plainest reads and writes of global memory, and a kernel that the host holds
 * running for as long as it likes.
 */

KVS_KERNEL(conformance_fill, unsigned *out, unsigned value, unsigned long long count)
{
	unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;

	for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		out[i] = value;
}

/* out[i] = in[i] + addend */
KVS_KERNEL(conformance_add, unsigned *out, const unsigned *in, unsigned addend, unsigned long long count)
{
	unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;

	for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		out[i] = in[i] + addend;
}

/* The words of a gate are shared with the host while the kernel runs. */
#ifdef __CUDACC__
static __device__ unsigned gate_load(const unsigned *word)
{
	return *(const volatile unsigned *)word;
}
static __device__ void gate_store(unsigned *word, unsigned value)
{
	__threadfence_system();
	*(volatile unsigned *)word = value;
}
#else
static unsigned gate_load(const unsigned *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static void gate_store(unsigned *word, unsigned value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}
#endif

/* gate: [0] started, [1] the host opened it, [2] outcome: 1 passed, 2 gave up after `limit` looks (conformance.h) */
KVS_KERNEL(conformance_gate, unsigned *gate, unsigned long long limit, unsigned *touch)
{
	unsigned long long looks = 0;

	gate_store(&gate[0], 1);
	while (!gate_load(&gate[1]) && looks < limit)
		looks++;
	if (touch)
		*touch += 1;
	gate_store(&gate[2], looks < limit ? 1 : 2);
}

/* A variable of the module, which the host finds by name. */
__device__ unsigned conformance_variable = 7;

KVS_KERNEL(conformance_read_variable, unsigned *out)
{
	*out = conformance_variable;
}
