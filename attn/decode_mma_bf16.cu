/* attn/decode_mma_bf16.cu: decode attention over K and V in bf16, on tensor cores (decode_mma.cuh). */
#include "decode_mma.cuh"

ATTN_DECODE_MMA_KERNELS(__nv_bfloat16, bf16)
