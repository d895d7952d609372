/*
 * attn/native/table.c: the module's table of native bodies, of the best instruction set that this processor has.
 */
#include "native.h"

#define ROOM 64 /* more than the bodies of a set, and the end */

__attribute__((visibility("default"))) struct simt_native simt_natives[ROOM];

static const struct simt_native *bodies_of_this_processor(void)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return NATIVE_TABLE(avx2);
#endif
	return NATIVE_TABLE(plain);
}

/* Before dlopen returns, so that nobody sees it change. */
__attribute__((constructor)) static void table_fill(void)
{
	const struct simt_native *bodies = bodies_of_this_processor();

	for (int i = 0; i < ROOM - 1 && bodies[i].kernel; i++)
		simt_natives[i] = bodies[i];
}
