/*
 * model/convert.c: numbers of the three types of weights, to f32 and back.
 */
#include "convert.h"

#include <math.h>
#include <string.h>

static float half_to_float(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
	union {
		uint32_t bits;
		float value;
	} out;

	if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
		out.value = (float)fraction * 0x1p-24f;
		out.bits |= sign;
	} else {
		out.bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
	}
	return out.value;
}

void model_to_f32(float *out, const void *in, enum kvs_dtype dtype, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (dtype == KVS_F32) {
			memcpy(&out[i], (const char *)in + 4 * (first + i), 4);
			continue;
		}
		uint16_t raw;
		memcpy(&raw, (const char *)in + 2 * (first + i), 2);
		if (dtype == KVS_F16) {
			out[i] = half_to_float(raw);
		} else {
			uint32_t bits = (uint32_t)raw << 16;
			memcpy(&out[i], &bits, 4);
		}
	}
}

/* To the nearest, ties to even, as the device rounds. */
static uint16_t float_to_half(float value)
{
	float magnitude = fabsf(value);
	uint32_t bits;
	uint16_t sign = signbit(value) ? 0x8000 : 0;

	if (isnan(value))
		return sign | 0x7e00;
	if (magnitude < 0x1p-14f) /* subnormals; rounding up to 1024 gives the bits of the smallest normal number */
		return sign | (uint16_t)lrintf(magnitude * 0x1p24f);
	memcpy(&bits, &magnitude, sizeof(bits));
	bits += 0xfff + (bits >> 13 & 1);
	return sign | (bits >= 143u << 23 ? 0x7c00 : (bits >> 13) - (112 << 10));
}

static uint16_t float_to_bfloat(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	if (isnan(value))
		return bits >> 16 | 0x40;
	return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void model_from_f32(void *out, const float *in, enum kvs_dtype dtype, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t raw;
		if (dtype == KVS_F32) {
			memcpy((char *)out + 4 * i, &in[i], 4);
			continue;
		}
		raw = dtype == KVS_F16 ? float_to_half(in[i]) : float_to_bfloat(in[i]);
		memcpy((char *)out + 2 * i, &raw, 2);
	}
}
