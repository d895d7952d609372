/* attn/decode_f16.cu: decode attention over K and V in f16 (decode.cuh). */
#include "decode.cuh"

ATTN_DECODE_KERNELS(__half, f16)
