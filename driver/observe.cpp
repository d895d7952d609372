/*
 * driver/observe.cpp: callbacks around the calls of the table that somebody observes.
 *
 * A function of the table is a pointer, so it is observed by replacing the pointer: with a thunk of the function's own
 * type, which tells the observers, calls the driver and tells them again. The thunk's arguments are the driver's, so it
 * must know its table by itself: there is one thunk for each function and each of a few numbered slots, made by
 * templates. That is the only reason for C++ here: no exceptions, no RTTI, nothing that needs libstdc++ or runs before
 * main.
 *
 * Callers take no lock. An observer has a generation, odd while it is alive, and a count of running callbacks. A caller
 * increments the count, checks that the generation is still the one that it saw, and only then uses the rest; removal
 * first makes the generation even and then waits for the count to fall to zero.
 */
#include "internal.h"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <pthread.h>

struct kvs_cu_observer {
	unsigned long generation; /* atomic */
	unsigned long running;    /* atomic: callbacks that run, and callers that look whether they should */
	bool taken;               /* under `lock`: alive, or waited for */
	unsigned slot;
	bool wants[KVS_FN_COUNT];
	kvs_cu_callback *callback;
	void *arg;
};

namespace
{

struct observed {
	kvs_cu *table; /* NULL: free */
	void *real[KVS_FN_COUNT];
	kvs_cu_observer observers[KVS_CU_MAX_OBSERVERS];
};

/*
 * A slot stays with its table until that is closed, even when its last observer goes: a thread may have read a thunk's
 * address and not called it yet.
 */
observed tables[KVS_CU_MAX_OBSERVED];
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
__thread bool in_callback;

constexpr size_t offsets[] = {
#define OFFSET(name) offsetof(kvs_cu, name),
	KVS_CU_FUNCTIONS(OFFSET)
#undef OFFSET
};

void **pointer_at(kvs_cu *cu, unsigned function)
{
	return reinterpret_cast<void **>(reinterpret_cast<char *>(cu) + offsets[function]);
}

uint64_t now_ns()
{
	timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return uint64_t(time.tv_sec) * 1000000000 + uint64_t(time.tv_nsec);
}

/* ---- thunks ---- */

/* The observers that heard a call begin: their generations then, 0 for the others. */
struct told {
	unsigned long generation[KVS_CU_MAX_OBSERVERS];
};

unsigned long generation_of(const kvs_cu_observer &observer)
{
	return __atomic_load_n(&observer.generation, __ATOMIC_SEQ_CST);
}

bool tell(kvs_cu_observer &observer, unsigned long generation, const kvs_cu_call &call)
{
	bool heard = false;

	__atomic_add_fetch(&observer.running, 1, __ATOMIC_SEQ_CST);
	if (generation_of(observer) == generation && observer.wants[call.function]) {
		in_callback = true;
		observer.callback(observer.arg, &call);
		in_callback = false;
		heard = true;
	}
	__atomic_sub_fetch(&observer.running, 1, __ATOMIC_SEQ_CST);
	return heard;
}

void tell_before(observed &table, const kvs_cu_call &call, told &who)
{
	for (unsigned i = 0; i < KVS_CU_MAX_OBSERVERS; i++) {
		unsigned long generation = generation_of(table.observers[i]);

		who.generation[i] = generation & 1 && tell(table.observers[i], generation, call) ? generation : 0;
	}
}

void tell_after(observed &table, const kvs_cu_call &call, const told &who)
{
	for (unsigned i = 0; i < KVS_CU_MAX_OBSERVERS; i++) {
		if (who.generation[i])
			tell(table.observers[i], who.generation[i], call);
	}
}

/*
 * Callers read a table's pointers as C does, without ordering; what was written before the pointer must still be seen after
 * it. (ThreadSanitizer knows no fences; x86 needs none.)
 */
void *real_of(const observed &table, unsigned function)
{
#ifndef __SANITIZE_THREAD__
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
	return __atomic_load_n(&table.real[function], __ATOMIC_RELAXED);
}

template <unsigned slot, kvs_cu_function function, typename Type>
struct thunk;
template <unsigned slot, kvs_cu_function function, typename... Args>
struct thunk<slot, function, CUresult(Args...)> {
	static CUresult call(Args... args)
	{
		auto real = reinterpret_cast<CUresult (*)(Args...)>(real_of(tables[slot], function));
		const void *const pointers[] = {&args..., nullptr};
		kvs_cu_call seen = {};
		told who;

		if (in_callback)
			return real(args...);
		seen.function = function;
		seen.args = pointers;
		seen.arg_count = sizeof...(args);
		seen.start_ns = now_ns();
		tell_before(tables[slot], seen, who);
		/*
		 * Callbacks do not count as time in the driver; start_ns stays the same, as it pairs the two callbacks.
		 */
		uint64_t called_ns = now_ns();
		seen.result = real(args...);
		seen.nanoseconds = now_ns() - called_ns;
		seen.after = true;
		tell_after(tables[slot], seen, who);
		return seen.result;
	}
};

template <unsigned slot>
void *thunk_of(unsigned function)
{
	switch (function) {
#define CASE(name)                                                                                                     \
	case KVS_FN_##name:                                                                                            \
		return reinterpret_cast<void *>(&thunk<slot, KVS_FN_##name, decltype(name)>::call);
		KVS_CU_FUNCTIONS(CASE)
#undef CASE
	}
	return nullptr;
}

constexpr void *(*const thunks[])(unsigned) = {
	thunk_of<0>, thunk_of<1>, thunk_of<2>, thunk_of<3>, thunk_of<4>, thunk_of<5>, thunk_of<6>, thunk_of<7>};
static_assert(sizeof(thunks) / sizeof(*thunks) == KVS_CU_MAX_OBSERVED, "a maker of thunks for each slot");

/* ---- coming and going; all under `lock` ---- */

int slot_of(kvs_cu *cu)
{
	int unused = -1;

	for (int i = 0; i < KVS_CU_MAX_OBSERVED; i++) {
		if (tables[i].table == cu)
			return i;
		if (!tables[i].table && unused < 0)
			unused = i;
	}
	if (unused < 0)
		return -1;
	for (unsigned function = 0; function < KVS_FN_COUNT; function++)
		__atomic_store_n(&tables[unused].real[function], *pointer_at(cu, function), __ATOMIC_RELAXED);
	tables[unused].table = cu;
	return unused;
}

bool is_wanted(const observed &table, unsigned function)
{
	for (const kvs_cu_observer &observer : table.observers) {
		if (observer.generation & 1 && observer.wants[function])
			return true;
	}
	return false;
}

/*
 * Other threads may be reading these pointers, by plain loads, so that calls that nobody observes cost nothing. A pointer is
 * one aligned word, old or new; ThreadSanitizer can't know that this is enough.
 */
__attribute__((no_sanitize("thread"))) void pointers_set(unsigned slot)
{
	observed &table = tables[slot];

	for (unsigned function = 0; function < KVS_FN_COUNT; function++) {
		void *pointer = is_wanted(table, function) ? thunks[slot](function) : table.real[function];

		__atomic_store_n(pointer_at(table.table, function), pointer, __ATOMIC_SEQ_CST);
	}
}

kvs_cu_observer *unused_observer(observed &table)
{
	for (kvs_cu_observer &observer : table.observers) {
		if (!observer.taken)
			return &observer;
	}
	return nullptr;
}

int observer_add(kvs_cu *cu, const kvs_cu_observer &wanted, kvs_cu_observer **out)
{
	int slot = slot_of(cu);
	kvs_cu_observer *observer;

	if (slot < 0)
		return kvs_fail(
			-ENOSPC, "%d tables are observed already; close one of them first", KVS_CU_MAX_OBSERVED);
	observer = unused_observer(tables[slot]);
	if (!observer)
		return kvs_fail(-ENOSPC, "the table has %d observers already; remove one first", KVS_CU_MAX_OBSERVERS);
	memcpy(observer->wants, wanted.wants, sizeof(wanted.wants));
	observer->callback = wanted.callback;
	observer->arg = wanted.arg;
	observer->slot = unsigned(slot);
	observer->taken = true;
	__atomic_add_fetch(&observer->generation, 1, __ATOMIC_SEQ_CST);
	pointers_set(observer->slot);
	*out = observer;
	return 0;
}

} // namespace

int kvs_cu_observe(kvs_cu *cu, const enum kvs_cu_function *functions, size_t count, kvs_cu_callback *callback,
	void *arg, kvs_cu_observer **out)
{
	kvs_cu_observer wanted = {};
	int err;

	*out = nullptr;
	for (size_t i = 0; functions && i < count; i++) {
		if (unsigned(functions[i]) >= KVS_FN_COUNT)
			return kvs_fail(-EINVAL, "the table has no function number %d", int(functions[i]));
		wanted.wants[functions[i]] = true;
	}
	if (!functions)
		memset(wanted.wants, true, sizeof(wanted.wants));
	wanted.callback = callback;
	wanted.arg = arg;
	pthread_mutex_lock(&lock);
	err = observer_add(cu, wanted, out);
	pthread_mutex_unlock(&lock);
	return err;
}

int kvs_cu_unobserve(kvs_cu_observer *observer)
{
	const timespec moment = {0, 20000};

	if (!observer)
		return 0;
	if (in_callback)
		return kvs_fail(-EDEADLK, "an observer cannot be removed from a callback, which it would wait for");
	pthread_mutex_lock(&lock);
	__atomic_add_fetch(&observer->generation, 1, __ATOMIC_SEQ_CST);
	pointers_set(observer->slot);
	pthread_mutex_unlock(&lock);
	/* Callbacks are short and removals rare: looking again costs callers less than being woken would. */
	while (__atomic_load_n(&observer->running, __ATOMIC_SEQ_CST))
		nanosleep(&moment, nullptr);
	pthread_mutex_lock(&lock);
	observer->taken = false;
	pthread_mutex_unlock(&lock);
	return 0;
}

void driver_forget_observers(kvs_cu *cu)
{
	pthread_mutex_lock(&lock);
	for (observed &table : tables) {
		if (table.table != cu)
			continue;
		for (kvs_cu_observer &observer : table.observers) {
			observer.generation += observer.generation & 1;
			observer.taken = false;
		}
		table.table = nullptr;
	}
	pthread_mutex_unlock(&lock);
}

const char *kvs_cu_function_name(enum kvs_cu_function function)
{
	static const char *const names[] = {
#define NAME(name) #name,
		KVS_CU_FUNCTIONS(NAME)
#undef NAME
	};

	return unsigned(function) < KVS_FN_COUNT ? names[function] : "no function of the table";
}
