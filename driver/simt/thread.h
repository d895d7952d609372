/*
 * driver/simt/thread.h: what a thread of a block sees and does in the g++ build: its place, shared memory, barriers,
 * warp collectives, atomics.
 *
 * A warp collective is one round: each lane leaves a pointer to its operand and waits; the last one to arrive does the
 * work for all, as the stacks of the others do not move, and releases them.
 */
#ifndef KVS_SIMT_THREAD_H
#define KVS_SIMT_THREAD_H

#include "kernel.h"

#include <cstring>
#include <type_traits>
#include <vector_functions.h>
#include <vector_types.h>

/* These words of CUDA are for nvcc only; __host__ and __device__ are empty here already. */
#undef __shared__
#define __shared__ use_KVS_SHARED_or_KVS_DYNAMIC_SHARED_instead
#undef __launch_bounds__
#define __launch_bounds__(...)

#pragma GCC visibility push(hidden)

namespace simt
{

struct block_view {
	uint3 index;
	dim3 dim, grid_dim;
	void *dynamic_shared;
	char *static_shared;
	uint64_t *shared_opened; /* [slot] the serial of the last block that used the array */
	uint64_t serial;
};

struct thread_view {
	uint3 index;
	unsigned lane;
	block_view *block;
};

/*
 * Not initial-exec, though it is read often: modules come and go, and libc does not reclaim all of their static TLS. Nor by TLS
 * descriptors (-mtls-dialect=gnu2), a tenth faster: before 2.40, glibc does not keep vector registers when one is first used.
 */
extern __thread thread_view *self;

void open_shared(shared_slot &slot);

inline void *shared_address(shared_slot &slot)
{
	block_view *block = self->block;

	if (__builtin_expect(block->shared_opened[slot.index] != block->serial, 0))
		open_shared(slot);
	return block->static_shared + slot.offset;
}

/* Where in the source a thread waits, for the message of a deadlock. */
struct place {
	const char *file;
	int line;
};

enum class barrier { sync, count, all, any, grid };

/* Waits for all threads of the block and returns for how many `predicate` held. */
int barrier_wait(barrier kind, bool predicate, place where);

struct warp_op {
	const char *name;
	/* Operands of the lanes in `mask`, all of which wait. Returns NULL, or what is wrong with them. */
	const char *(*complete)(void *const *operands, uint32_t mask);
};

extern const warp_op op_sync, op_shfl, op_shfl_up, op_shfl_down, op_shfl_xor, op_ballot, op_any, op_all;

void warp_wait(const warp_op &op, uint32_t mask, void *operand, place where);
/* Lets every other thread that can run do so before the caller goes on. */
void yield();
[[noreturn]] void trap(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct shuffle_operand {
	uint64_t value; /* replaced by the source lane's */
	unsigned source;
};

template <typename T>
inline T shuffle(const warp_op &op, uint32_t mask, T value, unsigned source, place where)
{
	static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable<T>::value, "a shuffle moves 64 bits");
	shuffle_operand operand = {0, source};

	memcpy(&operand.value, &value, sizeof(T));
	warp_wait(op, mask, &operand, where);
	memcpy(&value, &operand.value, sizeof(T));
	return value;
}

struct vote_operand {
	bool predicate;
	uint32_t votes;
};

inline uint32_t vote(const warp_op &op, uint32_t mask, bool predicate, place where)
{
	vote_operand operand = {predicate, 0};

	warp_wait(op, mask, &operand, where);
	return operand.votes;
}

} // namespace simt

#define threadIdx (simt::self->index)
#define blockIdx (simt::self->block->index)
#define blockDim (simt::self->block->dim)
#define gridDim (simt::self->block->grid_dim)
constexpr int warpSize = 32;

#define KVS_SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(KVS_SIMT_HERE)
{
	simt::barrier_wait(simt::barrier::sync, false, {file, line});
}

inline int __syncthreads_count(int predicate, KVS_SIMT_HERE)
{
	return simt::barrier_wait(simt::barrier::count, predicate, {file, line});
}

inline int __syncthreads_and(int predicate, KVS_SIMT_HERE)
{
	return !simt::barrier_wait(simt::barrier::all, !predicate, {file, line});
}

inline int __syncthreads_or(int predicate, KVS_SIMT_HERE)
{
	return simt::barrier_wait(simt::barrier::any, predicate, {file, line}) > 0;
}

inline void kvs_grid_sync(KVS_SIMT_HERE)
{
	simt::barrier_wait(simt::barrier::grid, false, {file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffff, KVS_SIMT_HERE)
{
	simt::warp_wait(simt::op_sync, mask, nullptr, {file, line});
}

/*
 * CUDA C++ Programming Guide, "Warp Shuffle Functions": a source outside the segment of `width` lanes is the lane
 * itself.
 */
template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, KVS_SIMT_HERE)
{
	unsigned segment = simt::self->lane & ~(unsigned)(width - 1);

	return simt::shuffle(simt::op_shfl, mask, value, segment | (source & (width - 1)), {file, line});
}

template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, KVS_SIMT_HERE)
{
	unsigned lane = simt::self->lane, place = lane & (width - 1);

	return simt::shuffle(simt::op_shfl_up, mask, value, distance <= place ? lane - distance : lane, {file, line});
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, KVS_SIMT_HERE)
{
	unsigned lane = simt::self->lane, left = width - 1 - (lane & (width - 1));

	return simt::shuffle(simt::op_shfl_down, mask, value, distance <= left ? lane + distance : lane, {file, line});
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, KVS_SIMT_HERE)
{
	unsigned lane = simt::self->lane, source = lane ^ bits;

	return simt::shuffle(
		simt::op_shfl_xor, mask, value, source <= (lane | (width - 1)) ? source : lane, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, KVS_SIMT_HERE)
{
	return simt::vote(simt::op_ballot, mask, predicate, {file, line});
}

inline int __any_sync(unsigned mask, int predicate, KVS_SIMT_HERE)
{
	return simt::vote(simt::op_any, mask, predicate, {file, line}) != 0;
}

inline int __all_sync(unsigned mask, int predicate, KVS_SIMT_HERE)
{
	return simt::vote(simt::op_all, mask, predicate, {file, line}) == mask;
}

/* CUDA promises no convergence: that a lane is alone is always a right answer. */
inline unsigned __activemask()
{
	return 1u << simt::self->lane;
}

[[noreturn]] inline void __trap()
{
	simt::trap("__trap()");
}

/*
 * Atomics hold between OS threads, which run other blocks. Each lets the other threads of the block run first: a thread
 * that polls must not keep the one it waits for from running.
 */
template <typename T>
inline T atomicAdd(T *address, std::common_type_t<T> value)
{
	simt::yield();
	if constexpr (std::is_integral<T>::value) {
		return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
	} else {
		T old, sum;
		__atomic_load(address, &old, __ATOMIC_RELAXED);
		do {
			sum = old + value;
		} while (!__atomic_compare_exchange(address, &old, &sum, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
		return old;
	}
}

namespace simt
{
/* Replaces *address by `value` where that is ahead of it. */
template <typename T, typename Ahead>
inline T atomic_replace(T *address, T value, Ahead ahead)
{
	yield();
	T old = __atomic_load_n(address, __ATOMIC_SEQ_CST);

	while (ahead(value, old) &&
		!__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
	return old;
}
} // namespace simt

template <typename T>
inline T atomicMax(T *address, std::common_type_t<T> value)
{
	return simt::atomic_replace(address, value, [](T a, T b) { return a > b; });
}

template <typename T>
inline T atomicMin(T *address, std::common_type_t<T> value)
{
	return simt::atomic_replace(address, value, [](T a, T b) { return a < b; });
}

template <typename T>
inline T atomicExch(T *address, std::common_type_t<T> value)
{
	T old;

	simt::yield();
	__atomic_exchange(address, &value, &old, __ATOMIC_SEQ_CST);
	return old;
}

template <typename T>
inline T atomicCAS(T *address, std::common_type_t<T> expected, std::common_type_t<T> value)
{
	simt::yield();
	__atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return expected;
}

template <typename T>
inline T atomicOr(T *address, std::common_type_t<T> value)
{
	simt::yield();
	return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST);
}

template <typename T>
inline T atomicAnd(T *address, std::common_type_t<T> value)
{
	simt::yield();
	return __atomic_fetch_and(address, value, __ATOMIC_SEQ_CST);
}

inline void __threadfence()
{
#ifdef __SANITIZE_THREAD__ /* which knows no fences, but what an exchange orders */
	static int fence;
	__atomic_fetch_add(&fence, 1, __ATOMIC_SEQ_CST);
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
	simt::yield();
}

inline void __threadfence_block()
{
	__threadfence();
}

inline void __threadfence_system()
{
	__threadfence();
}

inline void __nanosleep(unsigned)
{
	simt::yield();
}

#pragma GCC visibility pop

#endif
