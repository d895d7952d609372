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

typedef float floats __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(16)));
typedef int32_t masks __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(8)));
enum { WIDTH = 4 };

/* `yes` where the mask is all ones, `no` where it is zero. */
static words choose(masks mask, words yes, words no)
{
	return (yes & (words)mask) | (no & ~(words)mask);
}

/*
 * To the nearest, ties to even, as the device rounds; four at a time, as a quantised model has all its weights come this way.
 * Comparisons are of numbers with a sign, which every processor has. A subnormal half is a multiple of 2^-24, which is the
 * unit of floats from 0.5 on: adding 0.5 rounds it. Rounding up to 1024 gives the bits of the smallest normal number.
 */
static words float_to_half(floats value)
{
	words bits = (words)value, magnitude = bits & 0x7fffffff;
	words normal = ((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112 << 10);
	words small = (words)((floats)magnitude + 0.5f) - 0x3f000000;
	words half = choose((masks)magnitude < 113 << 23, small, normal);

	half = choose((masks)half >= 0x7c00, (words){} + 0x7c00, half);
	half = choose((masks)magnitude > 255 << 23, (words){} + 0x7e00, half);
	return half | (bits >> 16 & 0x8000);
}

static inline void some_to_halves(char *out, const float *in, size_t count)
{
	floats value = {0};
	halves half;

	memcpy(&value, in, count * sizeof(*in));
	half = __builtin_convertvector(float_to_half(value), halves);
	memcpy(out, &half, count * sizeof(uint16_t));
}

static void floats_to_halves(char *out, const float *in, size_t count)
{
	size_t done = 0;

	for (; done + WIDTH <= count; done += WIDTH)
		some_to_halves(out + 2 * done, in + done, WIDTH);
	if (done < count)
		some_to_halves(out + 2 * done, in + done, count - done);
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
	if (dtype == KVS_F32)
		memcpy(out, in, count * sizeof(*in));
	else if (dtype == KVS_F16)
		floats_to_halves(out, in, count);
	for (size_t i = 0; i < count && dtype == KVS_BF16; i++) {
		uint16_t raw = float_to_bfloat(in[i]);

		memcpy((char *)out + 2 * i, &raw, 2);
	}
}

void model_round(float *values, enum kvs_dtype dtype, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char raw[4];
		model_from_f32(raw, &values[i], dtype, 1);
		model_to_f32(&values[i], raw, dtype, 0, 1);
	}
}
