/*
 * driver/simt/scheduler.cpp: how the threads of a block take turns, meet at barriers and exchange values in warps.
 */
#include "scheduler.h"

#include "registry.h"

namespace simt
{

/* SplitMix64 (Steele, Lea, Flood 2014): any seed will do. */
uint64_t scheduler::random()
{
	uint64_t z = random_state_ += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Random order is drawn again at every barrier; warps and lanes each get one, so that a warp's lanes stay together. */
void scheduler::order_anew()
{
	size_t warps = (thread_count_ + 31) / 32;

	if (the_schedule.order != schedule::RANDOM)
		return;
	for (size_t i = warps - 1; i > 0; i--)
		std::swap(warp_order_[i], warp_order_[random() % (i + 1)]);
	for (size_t i = 31; i > 0; i--)
		std::swap(lane_order_[i], lane_order_[random() % (i + 1)]);
}

void scheduler::push_front(thread *thread)
{
	queue_first_ = (queue_first_ - 1) & queue_mask_;
	queue_[queue_first_] = thread;
	queue_count_++;
}

void scheduler::push_back(thread *thread)
{
	queue_[(queue_first_ + queue_count_++) & queue_mask_] = thread;
}

thread *scheduler::pop()
{
	if (!queue_count_)
		return nullptr;
	thread *first = queue_[queue_first_];
	queue_first_ = (queue_first_ + 1) & queue_mask_;
	queue_count_--;
	return first;
}

void scheduler::enqueue_all()
{
	size_t warps = (thread_count_ + 31) / 32;

	order_anew();
	for (size_t w = 0; w < warps; w++) {
		size_t first = (size_t)warp_order_[w] * 32;
		for (size_t i = 0; i < 32; i++) {
			size_t index = first + lane_order_[i];
			if (index < thread_count_)
				push_back(&threads_[index]);
		}
	}
}

/* All of `mask` may go on, ahead of every other thread. */
void scheduler::release(size_t warp_index, uint32_t mask)
{
	warps_[warp_index].waiting &= ~mask;
	order_anew();
	for (size_t i = 32; i-- > 0;) {
		unsigned lane = lane_order_[i];
		if (mask >> lane & 1)
			push_front(&threads_[warp_index * 32 + lane]);
	}
}

/* A thread that has not started gets a stack and a fiber. False: there is no memory for it, which is reported. */
bool scheduler::make_ready(thread *thread)
{
	if (thread->context)
		return true;
	thread->stack = stacks_.take();
	if (!thread->stack) {
		fail(SIMT_NO_MEMORY, "no memory for the stacks of %zu threads", thread_count_);
		return false;
	}
	thread->context = fiber_create(thread->stack, fiber_main);
	return true;
}

/* Leaves the running thread, or run(), for `next`; with save NULL for good. */
void scheduler::go_on(void **save, thread *next)
{
	self = next;
	fiber_jump(save, next->context, next->stack);
}

void scheduler::go_home()
{
	fiber_jump(nullptr, home_, &home_stack_);
	__builtin_unreachable();
}

/* The running thread stops until somebody has put it into the queue and its turn has come. */
void scheduler::wait(const char *name, uint32_t mask, place where)
{
	thread *me = static_cast<thread *>(self), *next = pop();

	if (next == me)
		return;
	me->waits = {name, mask, where};
	if (!next || !make_ready(next))
		go_home();
	go_on(&me->context, next);
}

/* A fiber: runs the thread that it was made for, and after that the next ones that have not started. */
void scheduler::run_threads()
{
	for (;;) {
		thread *me = static_cast<thread *>(self);
		launch_->kernel->entry(launch_->params);
		me->context = nullptr;
		finished_++;
		thread *next = pop();
		if (!next || next->context)
			stacks_.give(me->stack); /* nobody takes it before this fiber has switched away */
		if (!next)
			go_home();
		if (next->context)
			go_on(nullptr, next);
		next->context = home_; /* any context: it has started */
		next->stack = me->stack;
		self = next;
	}
}

void scheduler::fiber_main(boost::context::detail::transfer_t from)
{
	fiber_enter(from);
	own->run_threads();
}

void scheduler::yield()
{
	if (!queue_count_)
		return;
	push_back(static_cast<thread *>(self));
	wait("a yield", 0, {"", 0});
}

/* Do all threads wait at the same barrier of the block, at the same line? */
bool scheduler::threads_agree() const
{
	const thread &first = threads_[0];

	for (size_t i = 1; i < thread_count_; i++) {
		const thread &other = threads_[i];
		if (other.waits.where.line != first.waits.where.line || strcmp(other.waits.name, first.waits.name))
			return false;
	}
	return true;
}

static const char *barrier_name(barrier kind)
{
	static const char *const names[] = {
		"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or", "kvs_grid_sync"};

	return names[(int)kind];
}

int scheduler::arrive(barrier kind, bool predicate, place where)
{
	thread *me = static_cast<thread *>(self);
	const char *name = barrier_name(kind);

	me->waits = {name, 0, where};
	gathered_ += predicate;
	if (++arrived_ == thread_count_ && threads_agree()) {
		if (kind == barrier::grid) {
			if (!launch_->grid_wait)
				trap("kvs_grid_sync in a launch that is not cooperative");
			launch_->grid_wait(launch_->grid_barrier);
		}
		result_ = gathered_;
		arrived_ = 0;
		gathered_ = 0;
		enqueue_all();
	}
	wait(name, 0, where);
	return result_;
}

/* Are all lanes of `mask` here, for the same collective of the same lanes? */
static bool is_complete(const warp &warp, const warp_op &op, uint32_t mask)
{
	if ((warp.waiting & mask) != mask)
		return false;
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int lane = __builtin_ctz(rest);
		if (warp.mask[lane] != mask || warp.op[lane] != &op)
			return false;
	}
	return true;
}

void scheduler::arrive(const warp_op &op, uint32_t mask, void *operand, place where)
{
	thread *me = static_cast<thread *>(self);
	size_t warp_index = (me - &threads_[0]) / 32;
	warp &warp = warps_[warp_index];

	if (!(mask >> me->lane & 1))
		trap("lane %u calls %s for lanes 0x%08x (%s:%d), which do not include it", me->lane, op.name, mask,
			where.file, where.line);
	warp.waiting |= 1u << me->lane;
	warp.mask[me->lane] = mask;
	warp.op[me->lane] = &op;
	warp.operand[me->lane] = operand;
	if (is_complete(warp, op, mask)) {
		const char *wrong = op.complete(warp.operand, mask);
		if (wrong)
			trap("%s (%s:%d): %s", op.name, where.file, where.line, wrong);
		release(warp_index, mask);
	}
	wait(op.name, mask, where);
}

async_queue &scheduler::copies()
{
	async_queue &queue = copies_[static_cast<thread *>(self) - &threads_[0]];

	if (queue.serial != view_.serial) {
		queue.serial = view_.serial;
		queue.first = queue.count = queue.group = 0;
	}
	return queue;
}

int barrier_wait(barrier kind, bool predicate, place where)
{
	return own->arrive(kind, predicate, where);
}

void warp_wait(const warp_op &op, uint32_t mask, void *operand, place where)
{
	own->arrive(op, mask, operand, where);
}

void yield()
{
	own->yield();
}

void open_shared(shared_slot &slot)
{
	own->shared().open(slot);
}

void trap(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	own->end(format, values);
}

static const char *complete_sync(void *const *, uint32_t)
{
	return nullptr;
}

/* A lane outside the mask has no value to give: what CUDA leaves undefined is all ones here, a NaN. */
static const char *complete_shuffle(void *const *operands, uint32_t mask)
{
	uint64_t values[32];

	memset(values, 0xff, sizeof(values));
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int lane = __builtin_ctz(rest);
		values[lane] = static_cast<shuffle_operand *>(operands[lane])->value;
	}
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		auto *operand = static_cast<shuffle_operand *>(operands[__builtin_ctz(rest)]);
		operand->value = values[operand->source % 32];
	}
	return nullptr;
}

static const char *complete_vote(void *const *operands, uint32_t mask)
{
	uint32_t votes = 0;

	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int lane = __builtin_ctz(rest);
		votes |= (uint32_t) static_cast<vote_operand *>(operands[lane])->predicate << lane;
	}
	for (uint32_t rest = mask; rest; rest &= rest - 1)
		static_cast<vote_operand *>(operands[__builtin_ctz(rest)])->votes = votes;
	return nullptr;
}

const warp_op op_sync = {"__syncwarp", complete_sync};
const warp_op op_shfl = {"__shfl_sync", complete_shuffle};
const warp_op op_shfl_up = {"__shfl_up_sync", complete_shuffle};
const warp_op op_shfl_down = {"__shfl_down_sync", complete_shuffle};
const warp_op op_shfl_xor = {"__shfl_xor_sync", complete_shuffle};
const warp_op op_ballot = {"__ballot_sync", complete_vote};
const warp_op op_any = {"__any_sync", complete_vote};
const warp_op op_all = {"__all_sync", complete_vote};

} // namespace simt
