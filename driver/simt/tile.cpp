/*
 * driver/simt/tile.cpp: cp.async, ldmatrix and mma, by their definitions in the PTX ISA.
 */
#include "tile.cuh"

#include "scheduler.h"

namespace simt
{

static void copy_oldest(async_queue &queue)
{
	auto &copy = queue.copies[queue.first];

	queue.first = (queue.first + 1) % async_queue::CAPACITY;
	queue.count--;
	if (copy.from)
		memcpy(copy.to, copy.from, 16);
	else
		memset(copy.to, 0, 16);
}

void copy_later(void *shared, const void *global)
{
	async_queue &queue = own->copies();

	if ((uintptr_t)shared % 16 || (uintptr_t)global % 16)
		trap("kvs_cp_async16 from %p to %p: not 16-byte aligned", global, shared);
	if (!own->shared().contains(shared, 16))
		trap("kvs_cp_async16 to %p: not shared memory", shared);
	if (queue.count == async_queue::CAPACITY)
		copy_oldest(queue);
	queue.copies[(queue.first + queue.count++) % async_queue::CAPACITY] = {shared, global, queue.group};
}

void commit_copies()
{
	own->copies().group++;
}

void wait_for_copies(unsigned pending_groups)
{
	async_queue &queue = own->copies();

	/* Group g is due when pending_groups younger ones have been committed; what is not committed is never due. */
	while (queue.count && queue.group - queue.copies[queue.first].group > pending_groups)
		copy_oldest(queue);
}

/* r[m] of every lane from the COUNT matrices whose rows lanes 0 to 8 * COUNT - 1 point at. */
template <int COUNT, bool TRANSPOSED>
static const char *complete_load(void *const *operands, uint32_t)
{
	uint16_t matrix[COUNT][8][8];

	for (int i = 0; i < COUNT * 8; i++) {
		const void *row = static_cast<load_operand *>(operands[i])->row;
		if ((uintptr_t)row % 16)
			return "a row's address is not 16-byte aligned";
		if (!own->shared().contains(row, 16))
			return "a row's address is not in shared memory";
		memcpy(matrix[i / 8][i % 8], row, 16);
	}
	for (int lane = 0; lane < 32; lane++) {
		unsigned *r = static_cast<load_operand *>(operands[lane])->registers;
		int g = lane / 4, t = lane % 4 * 2;
		for (int m = 0; m < COUNT; m++) {
			if (TRANSPOSED)
				r[m] = matrix[m][t][g] | (unsigned)matrix[m][t + 1][g] << 16;
			else
				r[m] = matrix[m][g][t] | (unsigned)matrix[m][g][t + 1] << 16;
		}
	}
	return nullptr;
}

/* Without a branch, so that loops over it become vector code: halves' exponents are moved up by a multiplication. */
static float from_f16(unsigned bits)
{
	unsigned rest = (bits & 0x7fff) << 13;
	unsigned scaled = bits_as<unsigned>(bits_as<float>(rest) * 0x1p112f);
	unsigned exponent = rest >= 0x0f800000 ? 0x7f800000 : 0; /* infinities and NaN keep the largest one */

	return bits_as<float>(scaled | exponent | (bits & 0x8000) << 16);
}

static float from_bf16(unsigned bits)
{
	return bits_as<float>(bits << 16);
}

template <float (*FROM)(unsigned)>
static const char *complete_multiply(void *const *operands, uint32_t)
{
	float a[16][16], b[16][8], d[16][8];

	for (int lane = 0; lane < 32; lane++) {
		auto *operand = static_cast<multiply_operand *>(operands[lane]);
		int g = lane / 4, t = lane % 4 * 2;
		for (int i = 0; i < 4; i++) {
			a[g + i % 2 * 8][t + i / 2 * 8] = FROM(operand->a[i] & 0xffff);
			a[g + i % 2 * 8][t + i / 2 * 8 + 1] = FROM(operand->a[i] >> 16);
			d[g + i / 2 * 8][t + i % 2] = operand->d[i];
		}
		for (int i = 0; i < 2; i++) {
			b[t + i * 8][g] = FROM(operand->b[i] & 0xffff);
			b[t + i * 8 + 1][g] = FROM(operand->b[i] >> 16);
		}
	}
	for (int row = 0; row < 16; row++) {
		for (int k = 0; k < 16; k++) {
			for (int column = 0; column < 8; column++)
				d[row][column] += a[row][k] * b[k][column];
		}
	}
	for (int lane = 0; lane < 32; lane++) {
		auto *operand = static_cast<multiply_operand *>(operands[lane]);
		int g = lane / 4, t = lane % 4 * 2;
		for (int i = 0; i < 4; i++)
			operand->d[i] = d[g + i / 2 * 8][t + i % 2];
	}
	return nullptr;
}

const warp_op op_ldmatrix_x4 = {"kvs_ldmatrix_x4", complete_load<4, false>};
const warp_op op_ldmatrix_x4_trans = {"kvs_ldmatrix_x4_trans", complete_load<4, true>};
const warp_op op_ldmatrix_x2 = {"kvs_ldmatrix_x2", complete_load<2, false>};
const warp_op op_ldmatrix_x2_trans = {"kvs_ldmatrix_x2_trans", complete_load<2, true>};
const warp_op op_mma_f16 = {"kvs_mma_16816<__half>", complete_multiply<from_f16>};
const warp_op op_mma_bf16 = {"kvs_mma_16816<__nv_bfloat16>", complete_multiply<from_bf16>};

} // namespace simt
