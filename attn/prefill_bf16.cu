/* attn/prefill_bf16.cu: prefill attention over K and V in bf16 (prefill_mma.cuh). */
#include "prefill_mma.cuh"

ATTN_PREFILL_MMA_KERNELS(__nv_bfloat16, bf16)
