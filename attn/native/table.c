/*
 * attn/native/table.c: the module's table of native bodies, of the best instruction set that this processor has.
 */
#include "native.h"
#include "processor.h"

#define ROOM 128 /* more than the bodies of a set, and the end */

__attribute__((visibility("default"))) struct simt_native simt_natives[ROOM];

static void table_fill(const struct simt_native *const parts[NATIVE_PARTS])
{
	int count = 0;

	for (int part = 0; part < NATIVE_PARTS; part++) {
		for (const struct simt_native *body = parts[part]; body->kernel && count < ROOM - 1; body++)
			simt_natives[count++] = *body;
	}
}

/* Before dlopen returns, so that nobody sees it change. */
__attribute__((constructor)) static void choose_set(void)
{
#ifdef __x86_64__
	if (attn_has_avx512()) {
		table_fill((const struct simt_native *const[])NATIVE_TABLE(avx512));
		return;
	}
	if (attn_has_avx2()) {
		table_fill((const struct simt_native *const[])NATIVE_TABLE(avx2));
		return;
	}
#endif
	table_fill((const struct simt_native *const[])NATIVE_TABLE(plain));
}
