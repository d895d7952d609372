/* attn/decode_bf16.cu: decode attention over K and V in bf16 (decode.cuh). */
#include "decode.cuh"

ATTN_DECODE_KERNELS(__nv_bfloat16, bf16)
