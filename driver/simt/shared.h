/*
 * driver/simt/shared.h: the shared memory of the block that runs: poisoned when it starts, checked when it ends.
 *
 * One mapping: every static array of the module at its fixed place, between canaries; then dynamic shared memory, its end
 * at the guard page (but for at most 15 bytes of canary, since its start is 16-byte aligned). Only what a block uses is
 * touched. Kept between blocks.
 */
#ifndef KVS_SIMT_SHARED_H
#define KVS_SIMT_SHARED_H

#include "thread.h"

#pragma GCC visibility push(hidden)

namespace simt
{

class shared_memory
{
      public:
	shared_memory() = default;
	shared_memory(const shared_memory &) = delete;
	~shared_memory();
	/* Room for a block; fills in its view. False: no memory. */
	bool start(block_view *view, size_t dynamic_bytes);
	/* The block's first use of an array. */
	void open(const shared_slot &slot);
	/* NULL, or what the block has damaged: the array's name and how. */
	const char *damaged(const char **how) const;
	bool contains(const void *address, size_t bytes) const;
	bool guards(const void *address) const; /* async-signal-safe */

      private:
	bool reserve(size_t bytes);

	char *base_ = nullptr;
	size_t usable_ = 0, mapped_ = 0; /* without and with the guard */
	size_t dynamic_bytes_ = 0;
	uint64_t serial_ = 0;
	uint64_t *opened_at_ = nullptr; /* [slot] serial of the last block that used it */
	const shared_slot **opened_ = nullptr;
	size_t opened_count_ = 0;
};

} // namespace simt

#pragma GCC visibility pop

#endif
