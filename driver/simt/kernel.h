/*
 * driver/simt/kernel.h: how kernels and their shared arrays register with their module (g++ build).
 *
 * Both are objects with constructors that run when softcuda loads the module. A kernel's parameters are laid out as
 * nvcc lays them out: each at the next multiple of its alignment. What these templates define is hidden: GNU's unique
 * symbols would be one object for all loaded modules and would keep a module from being unloaded.
 */
#ifndef KVS_SIMT_KERNEL_H
#define KVS_SIMT_KERNEL_H

#include "module.h"

#include <utility>

/* In the body of a kernel this name is the kernel's own; elsewhere (a __device__ function) it is this one. */
struct __attribute__((visibility("hidden"))) kvs_simt_kernel {
	static const char *kernel_name()
	{
		return nullptr;
	}
};

#pragma GCC visibility push(hidden)

namespace simt
{

/* A shared array; the module has room for all of its arrays, each between canaries. */
struct shared_slot {
	const char *name;
	const char *kernel; /* that declares it; NULL: a __device__ function does */
	size_t bytes;
	size_t offset;  /* in the room for static arrays */
	unsigned index; /* among all slots of the module */
	shared_slot *next;

	shared_slot(const char *name, const char *kernel, size_t bytes, size_t alignment);
};

template <typename Tag, typename Array>
struct shared_storage {
	static shared_slot slot;
};

template <typename Tag, typename Array>
shared_slot shared_storage<Tag, Array>::slot(Tag::array_name(), Tag::kernel_name(), sizeof(Array), alignof(Array));

void register_kernel(simt_kernel *kernel);

template <typename Kernel, typename Function>
class kernel_entry;

template <typename Kernel, typename... Args>
class kernel_entry<Kernel, void (*)(Args...)>
{
      public:
	kernel_entry()
	{
		size_t index = 0, end = 0;

		((end = add_param(index++, end, sizeof(Args), alignof(Args))), ...);
		kernel_ = {Kernel::kernel_name(), sizeof...(Args), params_, call, 0};
		register_kernel(&kernel_);
	}

      private:
	size_t add_param(size_t index, size_t end, size_t bytes, size_t alignment)
	{
		size_t offset = (end + alignment - 1) / alignment * alignment;

		params_[index] = {offset, bytes};
		return offset + bytes;
	}

	static void call(void **params)
	{
		call_with(params, std::index_sequence_for<Args...>());
	}

	template <size_t... Index>
	static void call_with([[maybe_unused]] void **params, std::index_sequence<Index...>)
	{
		Kernel::run(*static_cast<Args *>(params[Index])...);
	}

	simt_param params_[sizeof...(Args) + 1];
	simt_kernel kernel_;
};

} // namespace simt

#pragma GCC visibility pop

#endif
