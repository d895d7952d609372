/* attn/decode_f32.cu: decode attention over K and V in f32 (decode.cuh). */
#include "decode.cuh"

ATTN_DECODE_KERNELS(float, f32)
