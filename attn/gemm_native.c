/*
 * attn/gemm_native.c: GEMM on the host device by the native body of our own kernel, on softcuda's workers.
 */
#include "kernels.h"
#include "native/processor.h"
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FEW_COLS 32 /* of a block where tokens are few: a block reads tens of KiB of w */
#define COLS 64

bool attn_gemm_native_is_wanted(void)
{
	const char *kernels = getenv("KVS_HOST_KERNELS");

	if (kernels && !strcmp(kernels, "simt"))
		return false;
#ifdef __aarch64__
	return true;
#else
	/* Without fused multiply-add in hardware the body is slower than OpenBLAS: it runs if it is asked for by name. */
	return attn_has_avx2() || (kernels && !strcmp(kernels, attn_set_name(ATTN_SET_PLAIN)));
#endif
}

static int run(struct attn_gemm_library *library, kvs_stream *s, const struct attn_gemm_call *call)
{
	bool few = call->tokens <= ATTN_PRODUCT_FEW;
	struct attn_product_params params = {.out = (float *)call->out,
		.x = (const void *)call->x,
		.w = (const void *)call->w,
		.tokens = call->tokens,
		.n = call->n,
		.k = call->k,
		.out_stride = call->out_stride,
		.cols = few ? FEW_COLS : COLS,
		.dtype = call->dtype,
		.accumulate = call->accumulate};
	struct attn_launch launch = {.kernel = ATTN_KERNEL_PRODUCT,
		.grid = {(call->n + params.cols - 1) / params.cols,
			(call->tokens + ATTN_PRODUCT_ROWS - 1) / ATTN_PRODUCT_ROWS, 1},
		.threads = ATTN_PRODUCT_THREADS};

	(void)library;
	return attn_launch(s, &launch, (void *[]){&params});
}

static void close_library(struct attn_gemm_library *library)
{
	free(library);
}

int attn_gemm_open_native(kvs_stream *s, struct attn_gemm_library **out)
{
	struct attn_gemm_library *library = calloc(1, sizeof(*library));

	(void)s;
	if (!library)
		return kvs_fail(-ENOMEM, "no memory for products");
	*library = (struct attn_gemm_library){.run = run, .close = close_library, .takes_any_w = true};
	*out = library;
	return 0;
}
