/*
 * driver/simt/fiber.cpp: see fiber.h.
 */
#include "fiber.h"

#include <new>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace simt
{

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static constexpr size_t STACK_BYTES = 256 << 10; /* red zones and unshared slots make frames several times larger */
#else
static constexpr size_t STACK_BYTES = 64 << 10;
#endif

static size_t guard_bytes()
{
	static const size_t bytes = sysconf(_SC_PAGESIZE);
	return bytes;
}

static size_t stack_stride()
{
	return guard_bytes() + STACK_BYTES;
}

stack_pool::~stack_pool()
{
	for (size_t group = 0; group < group_count_; group++) {
#ifdef __SANITIZE_THREAD__
		for (size_t i = 0; i < GROUP; i++)
			__tsan_destroy_fiber(groups_[group][i].tsan_fiber);
#endif
#ifdef __SANITIZE_ADDRESS__
		/* The next user of these addresses must not run into red zones of frames that never returned. */
		__asan_unpoison_memory_region(mappings_[group], GROUP * stack_stride());
#endif
		munmap(mappings_[group], GROUP * stack_stride());
		delete[] groups_[group];
	}
}

bool stack_pool::grow()
{
	if (group_count_ == GROUPS_MAX)
		return false;
	stack *group = new (std::nothrow) stack[GROUP];
	if (!group)
		return false;
	size_t bytes = GROUP * stack_stride();
	char *mapping = (char *)mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mapping == MAP_FAILED)
		goto out_delete;
	for (size_t i = 0; i < GROUP; i++) {
		char *base = mapping + i * stack_stride() + guard_bytes();
		if (mprotect(base, STACK_BYTES, PROT_READ | PROT_WRITE))
			goto out_unmap;
		group[i] = {base, STACK_BYTES, nullptr, nullptr};
	}
	for (size_t i = GROUP; i-- > 0;) {
#ifdef __SANITIZE_THREAD__
		group[i].tsan_fiber = __tsan_create_fiber(0);
#endif
		give(&group[i]);
	}
	mappings_[group_count_] = mapping;
	groups_[group_count_++] = group;
	return true;

out_unmap:
	munmap(mapping, bytes);
out_delete:
	delete[] group;
	return false;
}

stack *stack_pool::take()
{
	if (!free_ && !grow())
		return nullptr;
	stack *taken = free_;
	free_ = taken->next_free;
	return taken;
}

void stack_pool::give(stack *stack)
{
	stack->next_free = free_;
	free_ = stack;
}

void stack_pool::take_back_all()
{
	free_ = nullptr;
	for (size_t group = group_count_; group-- > 0;) {
		for (size_t i = GROUP; i-- > 0;) {
			stack *stack = &groups_[group][i];
#ifdef __SANITIZE_ADDRESS__
			__asan_unpoison_memory_region(stack->base, stack->bytes); /* frames that nobody returned from */
#endif
			give(stack);
		}
	}
}

bool stack_pool::guards(const void *address) const
{
	for (size_t group = 0; group < group_count_; group++) {
		size_t offset = (const char *)address - mappings_[group];
		if (offset < GROUP * stack_stride())
			return offset % stack_stride() < guard_bytes();
	}
	return false;
}

void *fiber_create(const stack *stack, void (*entry)(transfer_t))
{
	/* Staggered over a page, or the tops of all stacks would fall into the same few lines of the L1 cache. */
	size_t stagger = (uintptr_t)stack->base / stack_stride() % 32 * 128;

	return boost::context::detail::make_fcontext(
		stack->base + stack->bytes - stagger, stack->bytes - stagger, entry);
}

static void keep_left(transfer_t from)
{
	if (from.data)
		*(void **)from.data = from.fctx;
}

void fiber_jump(void **save, void *to, [[maybe_unused]] const stack *to_stack)
{
#ifdef __SANITIZE_ADDRESS__
	void *fake = nullptr;
	__sanitizer_start_switch_fiber(save ? &fake : nullptr, to_stack->base, to_stack->bytes);
#endif
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(to_stack->tsan_fiber, 0);
#endif
	transfer_t from = boost::context::detail::jump_fcontext(to, save);
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
	keep_left(from);
}

void fiber_enter(transfer_t from)
{
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
	keep_left(from);
}

bool fiber_find_home(stack *home)
{
	pthread_attr_t attributes;
	void *base;

	if (pthread_getattr_np(pthread_self(), &attributes))
		return false;
	pthread_attr_getstack(&attributes, &base, &home->bytes);
	pthread_attr_destroy(&attributes);
	home->base = (char *)base;
	home->tsan_fiber = nullptr;
#ifdef __SANITIZE_THREAD__
	home->tsan_fiber = __tsan_get_current_fiber();
#endif
	return true;
}

void fiber_abandoned([[maybe_unused]] const stack *home)
{
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_start_switch_fiber(nullptr, home->base, home->bytes);
	__sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(home->tsan_fiber, 0);
#endif
}

} // namespace simt
