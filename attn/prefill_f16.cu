/* attn/prefill_f16.cu: prefill attention over K and V in f16 (prefill_mma.cuh). */
#include "prefill_mma.cuh"

ATTN_PREFILL_MMA_KERNELS(__half, f16)
