/*
 * driver/simt/module.h: the contract between softcuda and a module of kernels that was compiled for the CPU.
 *
 * A host module is a shared object that exports one `simt_module`. softcuda gets its bytes (cuModuleLoadData) or its
 * path (cuModuleLoad), dlopens it, and runs blocks of its kernels on worker threads by run_block(). The module holds
 * the fiber scheduler (driver/simt/simt.h gives it one); softcuda knows nothing about kernels beyond this header.
 */
#ifndef KVS_SIMT_MODULE_H
#define KVS_SIMT_MODULE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIMT_ABI 1

struct simt_dim3 {
	unsigned x, y, z;
};

struct simt_param {
	size_t offset, size; /* as cuFuncGetParamInfo reports them */
};

struct simt_launch {
	const struct simt_kernel *kernel;
	struct simt_dim3 grid, block;
	size_t dynamic_shared_bytes;
	void **params;      /* one pointer to each argument's value */
	void *grid_barrier; /* cooperative launches: softcuda's, for grid-wide sync; NULL otherwise */
	void (*grid_wait)(void *grid_barrier);
};

struct simt_kernel {
	const char *name;
	size_t param_count;
	const struct simt_param *params;
	void (*entry)(void **params); /* one thread's run */
	size_t static_shared_bytes;   /* an upper bound, reported by cuFuncGetAttribute */
};

enum simt_outcome {
	SIMT_DONE,
	SIMT_BARRIER_DEADLOCK, /* threads wait at a barrier that others left without reaching it */
	SIMT_SHARED_OVERRUN,   /* shared memory was accessed out of bounds */
	SIMT_TRAP,             /* the kernel trapped (a failed device-side assert) */
	SIMT_NO_MEMORY,        /* stacks or shared memory could not be had */
};

struct simt_module {
	unsigned abi; /* SIMT_ABI */
	size_t kernel_count;
	const struct simt_kernel *const *kernels;
	/*
	 * Run one block on the calling thread. Writes a sentence to `message` unless the outcome is SIMT_DONE. A fault
	 * in the kernel leaves it by softcuda's siglongjmp from its signal handler; the caller then calls abandon_block()
	 * on the same thread before it runs another.
	 */
	enum simt_outcome (*run_block)(
		const struct simt_launch *launch, struct simt_dim3 block_index, char *message, size_t message_bytes);
	/*
	 * Was `address` in the guard of the running block's shared memory or of a fiber's stack? Async-signal-safe.
	 * Returns NULL or what it is.
	 */
	const char *(*explain_address)(const void *address);
	void (*abandon_block)(void);
	void (*thread_exit)(void); /* frees what this thread keeps between blocks: stacks, shared memory */
};

#define SIMT_MODULE_SYMBOL "simt_module"

/*
 * A kernel's native body: C that does a whole block's work in one call, without threads, barriers or shared memory. The
 * launch is the same, so is what it writes, up to the order of its sums. Blocks run at the same time, in any order.
 */
struct simt_native {
	const char *kernel;
	void (*run_block)(const struct simt_launch *launch, struct simt_dim3 block_index);
};

/* A module may export a table of them, ended by a kernel of NULL. */
#define SIMT_NATIVES_SYMBOL "simt_natives"

#ifdef __cplusplus
}
#endif
#endif
