/*
 * driver/simt/simt.h: what our kernels are written against, so that one .cu file gives two images.
 *
 * nvcc compiles it for GPUs; there the names below are CUDA's own. g++ (-x c++ -include driver/simt/simt.h) compiles it
 * for softcuda: each thread of a block is a fiber, and the fibers of a block run in turn on one OS thread. docs/simt.md
 * lists what is checked and what is not modelled.
 *
 *   KVS_KERNEL(name, type arg, ...) { body }      an entry point that cuModuleGetFunction finds as `name`
 *   KVS_KERNEL_BOUNDS(max_threads, min_blocks, name, type arg, ...) { body }      the same with __launch_bounds__
 *   KVS_SHARED(type, name, count);                a static shared array, 16-byte aligned; count is a constant
 *   KVS_DYNAMIC_SHARED(type, name);               type *name: the launch's dynamic shared memory, 16-byte aligned
 *   kvs_grid_sync();                              a barrier of all blocks of a cooperative launch
 */
#ifndef KVS_SIMT_H
#define KVS_SIMT_H

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#include <cooperative_groups.h>

#define KVS_KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define KVS_KERNEL_BOUNDS(max_threads, min_blocks, name, ...)                                                          \
	extern "C" __global__ void __launch_bounds__(max_threads, min_blocks) name(__VA_ARGS__)
#define KVS_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define KVS_DYNAMIC_SHARED(type, name)                                                                                 \
	extern __shared__ __align__(16) unsigned char kvs_dynamic_shared[];                                            \
	type *name = reinterpret_cast<type *>(kvs_dynamic_shared)

__device__ inline void kvs_grid_sync()
{
	cooperative_groups::this_grid().sync();
}

#else
#include "kernel.h"
#include "thread.h"
#include "arithmetic.h"

#define KVS_KERNEL(name, ...)                                                                                          \
	namespace                                                                                                      \
	{                                                                                                              \
	struct kvs_kernel_##name {                                                                                     \
		using kvs_simt_kernel = kvs_kernel_##name;                                                             \
		static const char *kernel_name()                                                                       \
		{                                                                                                      \
			return #name;                                                                                  \
		}                                                                                                      \
		static void run(__VA_ARGS__);                                                                          \
	};                                                                                                             \
	simt::kernel_entry<kvs_kernel_##name, decltype(&kvs_kernel_##name::run)> kvs_kernel_entry_##name;              \
	}                                                                                                              \
	void kvs_kernel_##name::run(__VA_ARGS__)
#define KVS_KERNEL_BOUNDS(max_threads, min_blocks, name, ...) KVS_KERNEL(name, __VA_ARGS__)
#define KVS_SHARED(type, name, count)                                                                                  \
	struct kvs_shared_##name {                                                                                     \
		static const char *kernel_name()                                                                       \
		{                                                                                                      \
			return kvs_simt_kernel::kernel_name();                                                         \
		}                                                                                                      \
		static const char *array_name()                                                                        \
		{                                                                                                      \
			return #name;                                                                                  \
		}                                                                                                      \
	};                                                                                                             \
	type(&name)[count] = *static_cast<type(*)[count]>(                                                             \
		simt::shared_address(simt::shared_storage<kvs_shared_##name, type[count]>::slot))
#define KVS_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(simt::self->block->dynamic_shared)
#endif

#endif
