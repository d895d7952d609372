/*
 * driver/simt/tile.cuh: moving tiles into shared memory and multiplying them with tensor cores, for both builds.
 *
 * Under nvcc each is one PTX instruction of sm_80 (PTX ISA: cp.async, ldmatrix, mma.m16n8k16). The g++ build has a body
 * that does the same by its definition (tile.cpp); a copy is made no sooner than it is waited for, so that a missing wait
 * shows. Except for cp.async, all 32 lanes of the warp take part.
 */
#ifndef KVS_SIMT_TILE_CUH
#define KVS_SIMT_TILE_CUH

#include "simt.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifdef __CUDACC__

__device__ inline unsigned kvs_shared_address(const void *shared)
{
	return (unsigned)__cvta_generic_to_shared(shared);
}

/* Starts a copy of 16 bytes into shared memory, both sides 16-byte aligned; zeros, and no read, where `valid` is false. */
__device__ inline void kvs_cp_async16(void *shared, const void *global, bool valid = true)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(kvs_shared_address(shared)),
		     "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
		     : "memory");
}

/* The copies that the thread has started since its last commit are a group. */
__device__ inline void kvs_cp_async_commit()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most the PENDING latest groups of this thread are in flight. Other threads see the data after a barrier. */
template <int PENDING>
__device__ inline void kvs_cp_async_wait()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/*
 * Loads 8x8 matrices of 16-bit elements from shared memory: lane 8 * m + i has the address of row i of matrix m. r[m] gets
 * elements (lane / 4, lane % 4 * 2) and the next one of matrix m; _trans: of its transpose.
 */
__device__ inline void kvs_ldmatrix_x4(unsigned r[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(kvs_shared_address(row))
		     : "memory");
}

__device__ inline void kvs_ldmatrix_x4_trans(unsigned r[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(kvs_shared_address(row))
		     : "memory");
}

/* Two matrices; the addresses of lanes 16 to 31 do not matter. */
__device__ inline void kvs_ldmatrix_x2(unsigned r[2], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
		     : "=r"(r[0]), "=r"(r[1])
		     : "r"(kvs_shared_address(row))
		     : "memory");
}

__device__ inline void kvs_ldmatrix_x2_trans(unsigned r[2], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
		     : "=r"(r[0]), "=r"(r[1])
		     : "r"(kvs_shared_address(row))
		     : "memory");
}

/*
 * d += a * b: a is 16 x 16 and b 16 x 8 of T (__half or __nv_bfloat16), d 16 x 8 of float. With g = lane / 4 and
 * t = lane % 4 * 2 a lane holds, two elements a register:
 *   a[0] (g, t), a[1] (g + 8, t), a[2] (g, t + 8), a[3] (g + 8, t + 8) and the next column's
 *   b[0] (t, g), b[1] (t + 8, g) and the next row's;   d[0], d[1] (g, t), (g, t + 1), d[2], d[3] (g + 8, t), (g + 8, t + 1)
 */
template <typename T>
__device__ inline void kvs_mma_16816(float d[4], const unsigned a[4], const unsigned b[2]);

template <>
__device__ inline void kvs_mma_16816<__half>(float d[4], const unsigned a[4], const unsigned b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
		     "{%0, %1, %2, %3};"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void kvs_mma_16816<__nv_bfloat16>(float d[4], const unsigned a[4], const unsigned b[2])
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
		"{%0, %1, %2, %3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

#pragma GCC visibility push(hidden)

namespace simt
{

void copy_later(void *shared, const void *global);
void commit_copies();
void wait_for_copies(unsigned pending_groups);

struct load_operand {
	unsigned *registers;
	const void *row;
};

struct multiply_operand {
	float *d;
	const unsigned *a, *b;
};

extern const warp_op op_ldmatrix_x4, op_ldmatrix_x4_trans, op_ldmatrix_x2, op_ldmatrix_x2_trans;
extern const warp_op op_mma_f16, op_mma_bf16;

template <typename Operand>
inline void whole_warp(const warp_op &op, Operand operand, place where)
{
	warp_wait(op, 0xffffffff, &operand, where);
}

} // namespace simt

inline void kvs_cp_async16(void *shared, const void *global, bool valid = true)
{
	simt::copy_later(shared, valid ? global : nullptr);
}

inline void kvs_cp_async_commit()
{
	simt::commit_copies();
}

template <int PENDING>
inline void kvs_cp_async_wait()
{
	simt::wait_for_copies(PENDING);
}

inline void kvs_ldmatrix_x4(unsigned *r, const void *row, KVS_SIMT_HERE)
{
	simt::whole_warp(simt::op_ldmatrix_x4, simt::load_operand{r, row}, {file, line});
}

inline void kvs_ldmatrix_x4_trans(unsigned *r, const void *row, KVS_SIMT_HERE)
{
	simt::whole_warp(simt::op_ldmatrix_x4_trans, simt::load_operand{r, row}, {file, line});
}

inline void kvs_ldmatrix_x2(unsigned *r, const void *row, KVS_SIMT_HERE)
{
	simt::whole_warp(simt::op_ldmatrix_x2, simt::load_operand{r, row}, {file, line});
}

inline void kvs_ldmatrix_x2_trans(unsigned *r, const void *row, KVS_SIMT_HERE)
{
	simt::whole_warp(simt::op_ldmatrix_x2_trans, simt::load_operand{r, row}, {file, line});
}

template <typename T>
inline void kvs_mma_16816(float *d, const unsigned *a, const unsigned *b, KVS_SIMT_HERE)
{
	static_assert(std::is_same<T, __half>::value || std::is_same<T, __nv_bfloat16>::value, "f16 or bf16");
	const simt::warp_op &op = std::is_same<T, __half>::value ? simt::op_mma_f16 : simt::op_mma_bf16;

	simt::whole_warp(op, simt::multiply_operand{d, a, b}, {file, line});
}

#pragma GCC visibility pop

#endif

#endif
