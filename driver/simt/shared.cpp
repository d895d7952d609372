/*
 * driver/simt/shared.cpp: see shared.h.
 */
#include "shared.h"

#include "registry.h"

#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace simt
{

static constexpr int POISON = 0xff; /* NaN as a float of any width, -1 as an integer */
static constexpr int CANARY = 0xa5;

static size_t round_up(size_t bytes, size_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

static bool is_canary(const char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if ((unsigned char)bytes[i] != CANARY)
			return false;
	}
	return true;
}

shared_memory::~shared_memory()
{
	if (base_)
		munmap(base_, mapped_);
	delete[] opened_at_;
	delete[] opened_;
}

bool shared_memory::reserve(size_t bytes)
{
	size_t page = sysconf(_SC_PAGESIZE);
	size_t usable = round_up(bytes, page),
	       mapped = usable + 16 * page; /* a guard that a row's stride does not jump */

	if (!opened_at_) {
		opened_at_ = new (std::nothrow) uint64_t[shared_slot_count() + 1]();
		opened_ = new (std::nothrow) const shared_slot *[shared_slot_count() + 1];
		if (!opened_at_ || !opened_)
			return false;
	}
	if (base_ && usable <= usable_)
		return true;
	char *base = (char *)mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return false;
	if (usable && mprotect(base, usable, PROT_READ | PROT_WRITE)) {
		munmap(base, mapped);
		return false;
	}
	if (base_)
		munmap(base_, mapped_);
	base_ = base;
	usable_ = usable;
	mapped_ = mapped;
	return true;
}

bool shared_memory::start(block_view *view, size_t dynamic_bytes)
{
	size_t room = round_up(dynamic_bytes, 16);

	if (!reserve(shared_room() + CANARY_BYTES + room))
		return false;
	dynamic_bytes_ = dynamic_bytes;
	opened_count_ = 0;
	char *dynamic = base_ + usable_ - room;
	if (dynamic_bytes) {
		memset(dynamic - CANARY_BYTES, CANARY, CANARY_BYTES);
		memset(dynamic, POISON, dynamic_bytes);
		memset(dynamic + dynamic_bytes, CANARY, room - dynamic_bytes);
	}
	view->dynamic_shared = dynamic;
	view->static_shared = base_;
	view->shared_opened = opened_at_;
	view->serial = ++serial_;
	return true;
}

void shared_memory::open(const shared_slot &slot)
{
	char *array = base_ + slot.offset;

	memset(array - CANARY_BYTES, CANARY, CANARY_BYTES);
	memset(array, POISON, slot.bytes);
	memset(array + slot.bytes, CANARY, CANARY_BYTES);
	opened_at_[slot.index] = serial_;
	opened_[opened_count_++] = &slot;
}

const char *shared_memory::damaged(const char **how) const
{
	static const char *const BEFORE = "before its start", *const BEHIND = "past its end";

	for (size_t i = 0; i < opened_count_; i++) {
		const char *array = base_ + opened_[i]->offset;
		*how = is_canary(array - CANARY_BYTES, CANARY_BYTES) ? BEHIND : BEFORE;
		if (*how == BEFORE || !is_canary(array + opened_[i]->bytes, CANARY_BYTES))
			return opened_[i]->name;
	}
	if (!dynamic_bytes_)
		return nullptr;
	size_t room = round_up(dynamic_bytes_, 16);
	const char *dynamic = base_ + usable_ - room;
	*how = is_canary(dynamic - CANARY_BYTES, CANARY_BYTES) ? BEHIND : BEFORE;
	if (*how == BEFORE || !is_canary(dynamic + dynamic_bytes_, room - dynamic_bytes_))
		return "dynamic shared memory";
	return nullptr;
}

bool shared_memory::contains(const void *address, size_t bytes) const
{
	size_t offset = (const char *)address - base_;
	return offset < usable_ && bytes <= usable_ - offset;
}

bool shared_memory::guards(const void *address) const
{
	size_t offset = (const char *)address - base_;
	return offset >= usable_ && offset < mapped_;
}

} // namespace simt
