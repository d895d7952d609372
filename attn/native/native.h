/*
 * attn/native/native.h: what the native bodies share: vectors of floats, conversions, rows to columns, 2^x. Private to attn/native/.
 *
 * A native body does one block of a launch on a CPU (driver/simt/module.h). Each file is compiled once for each
 * instruction set (attn/build.mk), with NATIVE(name) its names in that set; table.c chooses when the module is loaded.
 * A sum over a row always has sixteen partial sums, folded in one order, however many of them a vector holds; products
 * are not fused with sums, and 2^x is our own: so every instruction set and every compiler gives the same bits.
 */
#ifndef KVS_ATTN_NATIVE_H
#define KVS_ATTN_NATIVE_H

#include "../../driver/simt/module.h"
#include "../kernels.h"

#include <math.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#ifndef NATIVE_SET
#define NATIVE_SET plain
#endif
#define NATIVE_JOIN_(name, set) attn_native_##name##_##set
#define NATIVE_JOIN(name, set) NATIVE_JOIN_(name, set)
#define NATIVE(name) NATIVE_JOIN(name, NATIVE_SET)

/* The bodies of a file in a set, and the kernels that they belong to: ended by a kernel of NULL. */
#define NATIVE_PARTS 4
#define NATIVE_TABLE(set)                                                                                              \
	{                                                                                                              \
		attn_native_attention_##set, attn_native_rows_##set, attn_native_rope_append_##set,                    \
			attn_native_product_##set                                                                      \
	}
#define NATIVE_DECLARE(set)                                                                                            \
	extern const struct simt_native attn_native_attention_##set[], attn_native_rows_##set[],                       \
		attn_native_rope_append_##set[], attn_native_product_##set[]
NATIVE_DECLARE(plain);
NATIVE_DECLARE(avx2);
NATIVE_DECLARE(avx512);
NATIVE_DECLARE(wide);

#define INLINE static inline __attribute__((always_inline))

/* Floats of a vector. The set "wide" has those of AVX-512 on any processor, in pieces: tests compare it. */
#ifdef NATIVE_WIDTH
#define WIDTH NATIVE_WIDTH
#elif defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define LANES 16 /* partial sums of a row */
#define PIECES (LANES / WIDTH)

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));

INLINE floats load_floats(const float *from)
{
	floats all;

	memcpy(&all, from, sizeof(all));
	return all;
}

INLINE void store_floats(float *to, floats all)
{
	memcpy(to, &all, sizeof(all));
}

INLINE floats every(float value)
{
	return value - (floats){};
}

INLINE floats fused(floats a, floats b, floats sum)
{
#if defined(__AVX512F__) && WIDTH == 16
	return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__) && WIDTH == 8
	return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
	for (int i = 0; i < WIDTH; i++)
		sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
	return sum;
#endif
}

/* A vector of elements from the `at`-th of an array of this type; exact. */
INLINE floats load_elements(const void *from, size_t at, enum kvs_dtype dtype)
{
	halves narrow;
	words bits, special;
	floats value;

	if (dtype == KVS_F32)
		return load_floats((const float *)from + at);
	memcpy(&narrow, (const uint16_t *)from + at, sizeof(narrow));
#if defined(__AVX512F__) && WIDTH == 16
	if (dtype == KVS_F16)
		return (floats)_mm512_cvtph_ps((__m256i)narrow);
#elif defined(__F16C__) && WIDTH == 8
	if (dtype == KVS_F16)
		return (floats)_mm256_cvtph_ps((__m128i)narrow);
#endif
	bits = __builtin_convertvector(narrow, words);
	if (dtype == KVS_BF16)
		return (floats)(bits << 16);
	/* A half's exponent moves by 112 in a float, subnormal or not; infinity and NaN keep all bits of theirs. */
	special = (words)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
	value = (floats)((bits & 0x7fff) << 13) * 0x1p112f;
	return (floats)((words)value | special | (bits & 0x8000) << 16);
}

/* Each transpose() swaps square[i][j] and square[j][i]. */
#if WIDTH == 8 && defined(__AVX2__)
INLINE void transpose(floats square[WIDTH])
{
	__m256 two[8], four[8];

	for (int i = 0; i < 8; i += 2) {
		two[i] = _mm256_unpacklo_ps((__m256)square[i], (__m256)square[i + 1]);
		two[i + 1] = _mm256_unpackhi_ps((__m256)square[i], (__m256)square[i + 1]);
	}
	for (int i = 0; i < 8; i += 4) {
		four[i] = _mm256_shuffle_ps(two[i], two[i + 2], 0x44);
		four[i + 1] = _mm256_shuffle_ps(two[i], two[i + 2], 0xee);
		four[i + 2] = _mm256_shuffle_ps(two[i + 1], two[i + 3], 0x44);
		four[i + 3] = _mm256_shuffle_ps(two[i + 1], two[i + 3], 0xee);
	}
	for (int i = 0; i < 4; i++) {
		square[i] = (floats)_mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
		square[i + 4] = (floats)_mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
	}
}
#elif WIDTH == 16
/* Eight numbers of each from the `first`-th on, in turn. */
INLINE floats deal(floats a, floats b, int first)
{
#ifdef __AVX512F__
	const __m512i turns = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);

	return (floats)_mm512_permutex2var_ps((__m512)a, _mm512_add_epi32(turns, _mm512_set1_epi32(first)), (__m512)b);
#else
	floats dealt;

	for (int i = 0; i < 8; i++) {
		dealt[2 * i] = a[first + i];
		dealt[2 * i + 1] = b[first + i];
	}
	return dealt;
#endif
}

/* Each deal of the upper half of the vectors between the lower moves the bits of all indices by one: after four, rows are columns. */
INLINE void transpose(floats square[WIDTH])
{
	floats from[WIDTH];

	for (int turn = 0; turn < 4; turn++) {
		memcpy(from, square, sizeof(from));
		for (int i = 0; i < WIDTH / 2; i++) {
			square[2 * i] = deal(from[i], from[i + WIDTH / 2], 0);
			square[2 * i + 1] = deal(from[i], from[i + WIDTH / 2], 8);
		}
	}
}
#else
INLINE void transpose(floats square[WIDTH])
{
	floats from[WIDTH];

	memcpy(from, square, sizeof(from));
	for (int i = 0; i < WIDTH; i++) {
		for (int j = 0; j < WIDTH; j++)
			square[i][j] = from[j][i];
	}
}
#endif

/* To the nearest, ties to even. */
INLINE uint16_t bf16_of(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	if (value != value)
		return 0x7fff;
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The same. By way of a float whose unit is the half's: the sum rounds where the half would. */
INLINE uint16_t f16_of(float value)
{
	uint32_t bits, sign, exponent;
	float magnitude = fabsf(value), unit;

	memcpy(&bits, &value, sizeof(bits));
	sign = bits >> 16 & 0x8000;
	if (value != value)
		return 0x7fff;
	if (magnitude >= 65520.0f)
		return (uint16_t)(sign | 0x7c00);
	memcpy(&bits, &magnitude, sizeof(bits));
	exponent = bits >> 23 < 113 ? 113 : bits >> 23;
	bits = (exponent + 13) << 23; /* 2^13 of it: adding rounds away thirteen bits */
	memcpy(&unit, &bits, sizeof(unit));
	magnitude += unit;
	memcpy(&bits, &magnitude, sizeof(bits));
	return (uint16_t)(sign | (((exponent - 113) << 10) + (bits & 0xfff)));
}

INLINE void store_element(void *to, size_t at, int dtype, float value)
{
	if (dtype == KVS_F32)
		((float *)to)[at] = value;
	else
		((uint16_t *)to)[at] = dtype == KVS_F16 ? f16_of(value) : bf16_of(value);
}

/*
 * 2^x for x of 0 and below; 0 below -126, NaN of NaN. The nearest integer goes to the exponent, the rest into the series
 * of 2^x, to the seventh power: within two units in the last place.
 */
INLINE floats exp2_floats(floats x)
{
	const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
	words seen = ~(words)(x < -126.0f);
	floats whole, rest, power;

	x = (floats)((words)x & seen);
	whole = x + shift;
	rest = x - (whole - shift);
	power = rest * 1.5252733804e-5f + 1.5403530394e-4f;
	power = power * rest + 1.3333558147e-3f;
	power = power * rest + 9.6181291077e-3f;
	power = power * rest + 5.5504108665e-2f;
	power = power * rest + 2.4022650696e-1f;
	power = power * rest + 6.9314718056e-1f;
	power = power * rest + 1.0f;
	power = (floats)(((words)power + ((words)whole << 23)) & seen);
	return power + (x - x);
}

INLINE float exp2_one(float x)
{
	return exp2_floats(every(x))[0];
}

/*
 * e^x for x of 0 and below; 0 below -87, NaN of NaN. As 2^whole * e^rest, with ln(2) in two parts, of which the first has
 * few enough bits that whole times it is exact: so the relative error does not grow with x.
 */
INLINE floats exp_floats(floats x)
{
	const float shift = 12582912.0f;
	words seen = ~(words)(x < -87.0f);
	floats whole, rest, power;

	x = (floats)((words)x & seen);
	whole = x * 1.44269504f + shift;
	rest = x - (whole - shift) * 0.693359375f;
	rest = rest - (whole - shift) * -2.12194440e-4f;
	power = rest * 1.9841270e-4f + 1.3888889e-3f;
	power = power * rest + 8.3333333e-3f;
	power = power * rest + 4.1666667e-2f;
	power = power * rest + 1.6666667e-1f;
	power = power * rest + 0.5f;
	power = power * rest + 1.0f;
	power = power * rest + 1.0f;
	power = (floats)(((words)power + ((words)whole << 23)) & seen);
	return power + (x - x);
}

/* Sixteen partial sums to four: i and i + 8 first, then i and i + 4. */
INLINE void fold_to_four(const floats sum[PIECES], float four[4])
{
#if WIDTH == 4
	store_floats(four, (sum[0] + sum[2]) + (sum[1] + sum[3]));
#else
	float all[LANES];

	memcpy(all, sum, sizeof(all));
	for (int i = 0; i < 4; i++)
		four[i] = (all[i] + all[i + 8]) + (all[i + 4] + all[i + 12]);
#endif
}

/* LANES elements from column `at` on of a row of `cols`; 0 beyond its end. */
INLINE void load_lanes(floats lanes[PIECES], const void *row, int at, int cols, enum kvs_dtype dtype)
{
	float padded[LANES] = {0};
	int bytes = dtype == KVS_F32 ? 4 : 2;

	if (at + LANES <= cols) {
		for (int j = 0; j < PIECES; j++)
			lanes[j] = load_elements(row, at + j * WIDTH, dtype);
		return;
	}
	memcpy(padded, (const char *)row + (size_t)at * bytes, (size_t)(cols - at) * bytes);
	for (int j = 0; j < PIECES; j++)
		lanes[j] = load_elements(padded, j * WIDTH, dtype);
}

/* The rest of the order. */
INLINE float fold_four(const float four[4])
{
	return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE float fold(const floats sum[PIECES])
{
	float four[4];

	fold_to_four(sum, four);
	return fold_four(four);
}

#endif
