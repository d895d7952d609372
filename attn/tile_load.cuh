/*
 * attn/tile_load.cuh: brings a tile of K or V into shared memory, 16 bytes at a time, asynchronously.
 *
 * Tiles start at multiples of their height, counted from position 0, whatever the launch covers, so that the division
 * of a prompt into calls cannot show in the result. Rows outside [first, end) are not read and are zero in the tile.
 */
#ifndef KVS_ATTN_TILE_LOAD_CUH
#define KVS_ATTN_TILE_LOAD_CUH

#include "../driver/simt/tile.cuh"
#include "element.cuh"
#include "kernels.h"

struct key_range {
	int first, end; /* positions that some query row of the block sees: [first, end) */
};

/* The first position that a query at `position` sees. */
__device__ inline int first_key(int position, int window)
{
	return window > 0 && position >= window ? position - window + 1 : 0;
}

/* Where KV head `kv_head` of K, or of V, begins: its row of token 0. */
__device__ inline const unsigned char *head_of(const struct attn_attention_params &p, const void *kv, unsigned kv_head)
{
	return (const unsigned char *)kv + (size_t)kv_head * (unsigned)p.head_bytes;
}

/*
 * tile[row][DIM] = token key + row of `head` (head_of()), rows attn_tile_stride() apart. All THREADS threads call it; the
 * caller commits, waits and synchronises.
 */
template <typename T, int DIM, int ROWS, int THREADS>
__device__ inline void load_tile(
	unsigned char *tile, const unsigned char *head, unsigned token_bytes, int key, struct key_range range)
{
	constexpr int CHUNKS = DIM * (int)sizeof(T) / 16;
	constexpr int STRIDE = attn_tile_stride(DIM * (int)sizeof(T));

	head += (size_t)(unsigned)key * token_bytes;
	for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
		int row = i / CHUNKS, chunk = i % CHUNKS;
		bool seen = key + row >= range.first && key + row < range.end;
		unsigned offset = row * token_bytes + chunk * 16; /* a tile of 65535 heads is below 4 GiB */
		kvs_cp_async16(tile + row * STRIDE + chunk * 16, head + offset, seen);
	}
}

#endif
