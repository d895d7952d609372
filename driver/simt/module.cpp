/*
 * driver/simt/module.cpp: the module as softcuda sees it: its kernels, and run_block on the calling thread's scheduler.
 *
 * Kernels and shared arrays register while the module is being loaded, in no particular order. After that nothing here
 * changes, so that OS threads share it without locks.
 */
#include "module.h"
#include "registry.h"
#include "scheduler.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

extern "C" __attribute__((visibility("default"))) struct simt_module simt_module;

namespace simt
{

__thread thread_view *self;
__thread scheduler *own;

static shared_slot *slots;
static size_t slot_count, room;

/* A local of a function, so that it exists before the first constructor that uses it. */
static std::vector<simt_kernel *> &kernels()
{
	static std::vector<simt_kernel *> list;
	return list;
}

/*
 * What a kernel needs at most: the arrays that it declares itself, and all that __device__ functions of the module
 * declare, for it may call any of them.
 */
static void count_shared_bytes(simt_kernel *kernel)
{
	kernel->static_shared_bytes = 0;
	for (shared_slot *slot = slots; slot; slot = slot->next) {
		if (!slot->kernel || !strcmp(slot->kernel, kernel->name))
			kernel->static_shared_bytes += (slot->bytes + 15) / 16 * 16;
	}
}

shared_slot::shared_slot(const char *name, const char *kernel, size_t bytes, size_t alignment)
    : name(name), kernel(kernel), bytes(bytes), index(slot_count++), next(slots)
{
	size_t unit = alignment > 16 ? alignment : 16;

	offset = (room + CANARY_BYTES + unit - 1) / unit * unit;
	room = offset + bytes + CANARY_BYTES;
	slots = this;
	for (simt_kernel *kernel : kernels())
		count_shared_bytes(kernel);
}

void register_kernel(simt_kernel *kernel)
{
	count_shared_bytes(kernel);
	kernels().push_back(kernel);
	simt_module.kernels = kernels().data();
	simt_module.kernel_count = kernels().size();
}

size_t shared_slot_count()
{
	return slot_count;
}

size_t shared_room()
{
	return room;
}

static schedule read_schedule()
{
	const char *setting = getenv("KVS_SIMT_SCHEDULE");
	schedule result = {schedule::FORWARD, 0, true, ""};
	char *end;

	if (!setting || !strcmp(setting, "forward"))
		return result;
	strncpy(result.setting, setting, sizeof(result.setting) - 1);
	if (!strcmp(setting, "reverse")) {
		result.order = schedule::REVERSE;
		return result;
	}
	result.order = schedule::RANDOM;
	result.is_valid = !strncmp(setting, "random:", 7) && setting[7] >= '0' && setting[7] <= '9';
	if (result.is_valid) {
		result.seed = strtoull(setting + 7, &end, 10);
		result.is_valid = *end == '\0';
	}
	return result;
}

const schedule the_schedule = read_schedule();

static enum simt_outcome run_block(
	const simt_launch *launch, simt_dim3 block_index, char *message, size_t message_bytes)
{
	if (!own)
		own = new (std::nothrow) scheduler;
	if (!own) {
		snprintf(message, message_bytes, "%s: no memory for a scheduler", launch->kernel->name);
		return SIMT_NO_MEMORY;
	}
	return own->run(launch, block_index, message, message_bytes);
}

static const char *explain_address(const void *address)
{
	return own ? own->explain(address) : nullptr;
}

static void abandon_block()
{
	if (own)
		own->abandon();
}

static void thread_exit()
{
	delete own;
	own = nullptr;
}

} // namespace simt

struct simt_module simt_module = {
	SIMT_ABI,
	0,
	nullptr,
	simt::run_block,
	simt::explain_address,
	simt::abandon_block,
	simt::thread_exit,
};
