/*
 * driver/simt/block.cpp: one block from start to end: its memory is prepared, its threads run, errors are reported.
 */
#include "scheduler.h"

#include "registry.h"

#include <cstdio>
#include <new>

namespace simt
{

/* Room for `thread_count` threads of a block; the old room is freed only once all of the new one is allocated. */
bool scheduler::reserve(size_t thread_count)
{
	size_t capacity = 32;

	if (!home_stack_.base && !fiber_find_home(&home_stack_))
		return false;
	if (thread_count <= capacity_)
		return true;
	while (capacity < thread_count)
		capacity *= 2;
	std::unique_ptr<thread[]> threads(new (std::nothrow) thread[capacity]());
	std::unique_ptr<warp[]> warps(new (std::nothrow) warp[capacity / 32]());
	std::unique_ptr<async_queue[]> copies(new (std::nothrow) async_queue[capacity]);
	std::unique_ptr<thread *[]> queue(new (std::nothrow) thread *[capacity]);
	std::unique_ptr<uint16_t[]> order(new (std::nothrow) uint16_t[capacity / 32]);
	if (!threads || !warps || !copies || !queue || !order)
		return false;
	threads_ = std::move(threads);
	warps_ = std::move(warps);
	copies_ = std::move(copies);
	queue_ = std::move(queue);
	warp_order_ = std::move(order);
	queue_mask_ = capacity - 1;
	capacity_ = capacity;
	placed_ = {0, 0, 0};
	return true;
}

/* Threads count along x, then y, then z; 32 in a row are a warp. */
void scheduler::place_threads()
{
	size_t warps = (thread_count_ + 31) / 32;
	dim3 dim = view_.dim;
	size_t i = 0;

	for (unsigned z = 0; z < dim.z; z++) {
		for (unsigned y = 0; y < dim.y; y++) {
			for (unsigned x = 0; x < dim.x; x++, i++) {
				threads_[i].index = make_uint3(x, y, z);
				threads_[i].lane = i % 32;
				threads_[i].block = &view_;
				threads_[i].context = nullptr;
			}
		}
	}
	bool reverse = the_schedule.order == schedule::REVERSE;
	for (size_t w = 0; w < warps; w++)
		warp_order_[w] = reverse ? warps - 1 - w : w;
	for (unsigned lane = 0; lane < 32; lane++)
		lane_order_[lane] = reverse ? 31 - lane : lane;
	placed_ = dim;
}

bool scheduler::prepare(const simt_launch *launch, simt_dim3 index)
{
	simt_dim3 dim = launch->block, grid = launch->grid;

	launch_ = launch;
	thread_count_ = (size_t)dim.x * dim.y * dim.z;
	view_.index = make_uint3(index.x, index.y, index.z);
	view_.dim = {dim.x, dim.y, dim.z};
	view_.grid_dim = {grid.x, grid.y, grid.z};
	if (!reserve(thread_count_) || !shared_.start(&view_, launch->dynamic_shared_bytes))
		return false;
	/* A random order starts from the same one in every block, whatever this OS thread has run before. */
	bool is_placed = placed_.x == dim.x && placed_.y == dim.y && placed_.z == dim.z;
	if (!is_placed || the_schedule.order == schedule::RANDOM)
		place_threads();
	random_state_ = the_schedule.seed ^ ((((uint64_t)index.z * grid.y + index.y) * grid.x + index.x) << 32);
	finished_ = arrived_ = queue_first_ = queue_count_ = 0;
	gathered_ = 0;
	return true;
}

enum simt_outcome scheduler::run(const simt_launch *launch, simt_dim3 index, char *message, size_t message_bytes)
{
	const char *how;

	message_ = message;
	message_bytes_ = message_bytes;
	outcome_ = SIMT_DONE;
	if (!prepare(launch, index)) {
		fail(SIMT_NO_MEMORY, "no memory for %zu threads and their shared memory", thread_count_);
		return outcome_;
	}
	if (!the_schedule.is_valid) {
		fail(SIMT_TRAP, "KVS_SIMT_SCHEDULE=%s: must be forward, reverse or random:SEED (a number)",
			the_schedule.setting);
		return outcome_;
	}
	enqueue_all();
	thread *first = pop();
	if (make_ready(first))
		go_on(&home_, first);
	self = nullptr;
	if (outcome_ == SIMT_DONE && finished_ < thread_count_)
		fail_deadlocked();
	if (outcome_ != SIMT_DONE) {
		abandon();
		return outcome_;
	}
	const char *array = shared_.damaged(&how);
	if (array)
		fail(SIMT_SHARED_OVERRUN, "%s was written %s", array, how);
	return outcome_;
}

/* Forgets the threads that have started and not finished, with everything on their stacks. */
void scheduler::abandon()
{
	if (self)
		fiber_abandoned(&home_stack_);
	self = nullptr;
	placed_ = {0, 0, 0};
	for (size_t w = 0; w < capacity_ / 32; w++)
		warps_[w].waiting = 0;
	stacks_.take_back_all();
}

const char *scheduler::explain(const void *address) const
{
	if (shared_.guards(address))
		return "shared memory guard";
	if (stacks_.guards(address))
		return "stack guard of a kernel's thread (its stack overflowed)";
	return nullptr;
}

void scheduler::fail(enum simt_outcome outcome, const char *format, ...)
{
	int length = snprintf(message_, message_bytes_, "%s, block (%u,%u,%u): ", launch_->kernel->name, view_.index.x,
		view_.index.y, view_.index.z);
	va_list values;

	outcome_ = outcome;
	if (length < 0 || (size_t)length >= message_bytes_)
		return;
	va_start(values, format);
	vsnprintf(message_ + length, message_bytes_ - length, format, values);
	va_end(values);
}

void scheduler::end(const char *format, va_list values)
{
	thread *me = static_cast<thread *>(self);
	char text[256];

	vsnprintf(text, sizeof(text), format, values);
	fail(SIMT_TRAP, "thread (%u,%u,%u): %s", me->index.x, me->index.y, me->index.z, text);
	go_home();
}

static bool waits_alike(const thread &a, const thread &b)
{
	return a.waits.mask == b.waits.mask && a.waits.where.line == b.waits.where.line &&
	       !strcmp(a.waits.name, b.waits.name);
}

/*
 * "32 of 64 threads wait at __syncthreads (rows.cu:12), 1 at __shfl_sync of lanes 0xffffffff (rows.cu:20), 31 have
 * left"
 */
void scheduler::fail_deadlocked()
{
	char text[512];
	size_t length = 0;

	for (size_t i = 0; i < thread_count_ && length < sizeof(text); i++) {
		const thread &first = threads_[i];
		size_t alike = 0, earlier = 0;
		if (!first.context)
			continue;
		for (size_t j = 0; j < thread_count_; j++) {
			if (!threads_[j].context || !waits_alike(threads_[j], first))
				continue;
			alike++;
			earlier += j < i;
		}
		if (earlier)
			continue;
		length += snprintf(text + length, sizeof(text) - length, length ? ", %zu at %s" : "%zu wait at %s",
			alike, first.waits.name);
		if (first.waits.mask && length < sizeof(text))
			length += snprintf(text + length, sizeof(text) - length, " of lanes 0x%08x", first.waits.mask);
		if (length < sizeof(text))
			length += snprintf(text + length, sizeof(text) - length, " (%s:%d)", first.waits.where.file,
				first.waits.where.line);
	}
	fail(SIMT_BARRIER_DEADLOCK, "of %zu threads %s, %zu have left the kernel", thread_count_, text, finished_);
}

} // namespace simt

/* assert() in a kernel comes here, whatever header declared it: the module's own symbol goes before libc's. */
extern "C" __attribute__((visibility("hidden"))) void __assert_fail(
	const char *expression, const char *file, unsigned line, const char *function) noexcept
{
	if (!simt::self)
		__builtin_trap();
	simt::trap("%s:%u: %s: assertion `%s' failed", file, line, function, expression);
}
