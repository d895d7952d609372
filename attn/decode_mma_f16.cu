/* attn/decode_mma_f16.cu: decode attention over K and V in f16, on tensor cores (decode_mma.cuh). */
#include "decode_mma.cuh"

ATTN_DECODE_MMA_KERNELS(__half, f16)
