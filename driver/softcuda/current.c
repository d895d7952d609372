/*
 * driver/softcuda/current.c: each thread's stack of contexts, whose top is current, and whether a context is lost.
 *
 * The stack holds keys, so a context that was destroyed elsewhere is no longer found, and nothing dangles.
 */
#include "state.h"

#include <string.h>

#define STACK_DEPTH 64

static __thread struct {
	uint64_t keys[STACK_DEPTH]; /* keys[depth - 1] is current; 0 there means none */
	int depth;
} stack;

bool sc_current_push(uint64_t key)
{
	if (stack.depth == STACK_DEPTH)
		return false;
	stack.keys[stack.depth++] = key;
	return true;
}

bool sc_current_pop(uint64_t *key)
{
	if (!stack.depth)
		return false;
	*key = stack.keys[--stack.depth];
	return true;
}

void sc_current_replace(uint64_t key)
{
	if (!stack.depth)
		stack.depth = 1;
	stack.keys[stack.depth - 1] = key;
}

uint64_t sc_current_key(void)
{
	return stack.depth ? stack.keys[stack.depth - 1] : 0;
}

void sc_current_reset(void)
{
	memset(&stack, 0, sizeof(stack));
}

/* Each driver call of this thread that names no stream means the thread's own; the forms in perthread.c set it. */
static __thread bool default_per_thread;

bool sc_default_per_thread(bool now)
{
	bool before = default_per_thread;

	default_per_thread = now;
	return before;
}

bool sc_is_default_per_thread(void)
{
	return default_per_thread;
}

struct sc_context *sc_context_current(void)
{
	struct sc_context *context;

	if (!sc_current_key())
		return NULL;
	pthread_mutex_lock(&sc_lock);
	context = sc_object_find(SC_CONTEXT, sc_current_key());
	pthread_mutex_unlock(&sc_lock);
	return context;
}

CUresult sc_context_error(struct sc_context *context)
{
	return (CUresult)atomic_load(&context->lost);
}

void sc_context_lose(struct sc_context *context, CUresult error)
{
	int none = CUDA_SUCCESS;

	sc_fault_count();
	atomic_compare_exchange_strong(&context->lost, &none, (int)error); /* the first error stays */
}
