/*
 * driver/simt/fiber.h: stacks and the switch between them, over Boost's fcontext; tells the sanitizers of each switch.
 *
 * All of it belongs to one OS thread. Stacks come 32 at a time, each above a guard page, and are kept for later blocks.
 */
#ifndef KVS_SIMT_FIBER_H
#define KVS_SIMT_FIBER_H

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

#pragma GCC visibility push(hidden)

namespace simt
{

using boost::context::detail::transfer_t;

struct stack {
	char *base; /* the guard page is below */
	size_t bytes;
	void *tsan_fiber;
	stack *next_free;
};

class stack_pool
{
      public:
	stack_pool() = default;
	stack_pool(const stack_pool &) = delete;
	~stack_pool();
	stack *take(); /* NULL: no memory */
	void give(stack *stack);
	void take_back_all();                   /* after a block was abandoned on them */
	bool guards(const void *address) const; /* async-signal-safe */

      private:
	static constexpr size_t GROUP = 32;
	static constexpr size_t GROUPS_MAX = 64; /* for 2048 threads; a block has at most 1024 */

	bool grow();

	char *mappings_[GROUPS_MAX] = {};
	stack *groups_[GROUPS_MAX] = {};
	size_t group_count_ = 0;
	stack *free_ = nullptr;
};

/* A context that runs `entry` on `stack` when it is first jumped to. */
void *fiber_create(const stack *stack, void (*entry)(transfer_t));

/*
 * Jump to `to`, a context on `to_stack`. The current context is saved in *save, and the call returns when somebody
 * jumps there; with save NULL it is gone for good.
 */
void fiber_jump(void **save, void *to, const stack *to_stack);

/* The first thing on a new fiber. */
void fiber_enter(transfer_t from);

/* The OS thread's own stack, so that fibers can jump to it; false: no memory. */
bool fiber_find_home(stack *home);

/* Tells the sanitizers that a siglongjmp has left a fiber for the OS thread's own stack. */
void fiber_abandoned(const stack *home);

} // namespace simt

#pragma GCC visibility pop

#endif
