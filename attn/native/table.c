/*
 * attn/native/table.c: the module's table of native bodies, of the best instruction set that this processor has, or of
 * the one that KVS_HOST_KERNELS names.
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

/* Before dlopen returns, so that nobody sees it change. A set that the processor lacks is refused by kvs_stream_open(). */
__attribute__((constructor)) static void choose_set(void)
{
	static const struct simt_native *const sets[][NATIVE_PARTS] = {
		NATIVE_TABLE(plain),
#ifdef __x86_64__
		NATIVE_TABLE(avx2),
		NATIVE_TABLE(avx512),
#endif
	};
	enum attn_set best = attn_set_best(), wanted = attn_set_wanted();

	table_fill(sets[wanted < best ? wanted : best]);
}
