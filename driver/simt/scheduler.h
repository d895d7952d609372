/*
 * driver/simt/scheduler.h: the fibers of one block and the order in which they run. One scheduler an OS thread.
 *
 * Runnable threads are in a queue, in the order set by KVS_SIMT_SCHEDULE. A finished warp collective puts its lanes at
 * the front (the warp goes on while its data are in the cache), a yield puts the caller at the back. A thread that has
 * not started needs no stack: a thread that finishes runs the next such thread on its own stack, so a kernel that never
 * waits makes no switch at all.
 *
 * When the queue is empty the block is over: all threads have finished, or those that have not are deadlocked.
 */
#ifndef KVS_SIMT_SCHEDULER_H
#define KVS_SIMT_SCHEDULER_H

#include "fiber.h"
#include "shared.h"
#include "thread.h"

#include <cstdarg>
#include <memory>

#pragma GCC visibility push(hidden)

namespace simt
{

/*
 * A thread's cp.async copies in order (tile.cpp). 128 is more than our kernels keep in flight; when full the oldest
 * goes early.
 */
struct async_queue {
	static constexpr unsigned CAPACITY = 128;

	uint64_t serial = 0;          /* of the block that the rest is of */
	unsigned first, count, group; /* copies from now on belong to `group` */
	struct {
		void *to;
		const void *from; /* NULL: zeros */
		unsigned group;
	} copies[CAPACITY];
};

struct thread : thread_view {
	void *context; /* where it goes on, once it has started; NULL before and after */
	simt::stack *stack;
	struct {
		const char *name;
		uint32_t mask; /* 0: a barrier of the block */
		place where;
	} waits;
};

struct warp {
	uint32_t waiting; /* lanes */
	uint32_t mask[32];
	const warp_op *op[32];
	void *operand[32];
};

class scheduler
{
      public:
	scheduler() = default;
	scheduler(const scheduler &) = delete;

	enum simt_outcome run(const simt_launch *launch, simt_dim3 index, char *message, size_t message_bytes);
	/* A siglongjmp has left run(). */
	void abandon();
	const char *explain(const void *address) const; /* async-signal-safe */

	/* For the thread that runs: */
	int arrive(barrier kind, bool predicate, place where);
	void arrive(const warp_op &op, uint32_t mask, void *operand, place where);
	void yield();
	[[noreturn]] void end(const char *format, va_list values);
	async_queue &copies();
	shared_memory &shared()
	{
		return shared_;
	}

      private:
	bool prepare(const simt_launch *launch, simt_dim3 index);
	bool reserve(size_t thread_count);
	void place_threads();
	void fail(enum simt_outcome outcome, const char *format, ...) __attribute__((format(printf, 3, 4)));
	void fail_deadlocked();

	void order_anew();
	void enqueue_all();
	void push_front(thread *thread);
	void push_back(thread *thread);
	thread *pop();
	void wait(const char *name, uint32_t mask, place where);
	bool make_ready(thread *thread);
	void go_on(void **save, thread *next);
	[[noreturn]] void go_home();
	[[noreturn]] void run_threads();
	static void fiber_main(boost::context::detail::transfer_t from);
	bool threads_agree() const;
	void release(size_t warp_index, uint32_t mask);
	uint64_t random();

	/* The block that runs */
	const simt_launch *launch_ = nullptr;
	block_view view_ = {};
	size_t thread_count_ = 0, finished_ = 0;
	enum simt_outcome outcome_ = SIMT_DONE;
	char *message_ = nullptr;
	size_t message_bytes_ = 0;
	void *home_ = nullptr; /* the context of run() */

	/* The barrier that its threads gather at, and the result of the last one */
	size_t arrived_ = 0;
	int gathered_ = 0, result_ = 0;

	/* The threads that can run, a ring */
	std::unique_ptr<thread *[]> queue_;
	size_t queue_mask_ = 0, queue_first_ = 0, queue_count_ = 0;

	/* The order of the block's warps and of the lanes in each */
	uint64_t random_state_ = 0;
	std::unique_ptr<uint16_t[]> warp_order_;
	uint8_t lane_order_[32] = {};

	/* Kept between blocks */
	size_t capacity_ = 0; /* threads */
	std::unique_ptr<thread[]> threads_;
	std::unique_ptr<warp[]> warps_;
	std::unique_ptr<async_queue[]> copies_;
	dim3 placed_ = {0, 0, 0}; /* the block dimensions that threads_ are laid out for */
	stack_pool stacks_;
	stack home_stack_ = {};
	shared_memory shared_;
};

extern __thread scheduler *own;

} // namespace simt

#pragma GCC visibility pop

#endif
