/*
 * attn/native/quant.h: GGUF's quantised weights as floats, 32 at a time. Private to attn/native/.
 *
 * A weight is an integer times a scale, in some types plus an offset. The product has at most 24 bits, so it is exact, and
 * only the sum rounds: fused or not, each has the bits that model/gguf_types.c gives. So a product has the same bits as
 * one with the weights in f32.
 */
#ifndef KVS_ATTN_QUANT_H
#define KVS_ATTN_QUANT_H

#include "native.h"

#define QUANTS 32 /* that are read at once; rows are multiples of it */

/*
 * Sixteen integers with a sign. AVX2 holds them twice, as it shuffles within 16 bytes: a shuffle, which is cheaper than an
 * extension, puts eight of them into the upper bytes of eight words, and the scale takes the 2^24 back, exactly.
 */
#if defined(__AVX2__) && WIDTH == 8
#define UPPER
typedef uint8_t bytes __attribute__((vector_size(32)));
#else
typedef uint8_t bytes __attribute__((vector_size(16)));
#endif

INLINE bytes load_bytes(const uint8_t *from)
{
#ifdef UPPER
	__m128i all;

	memcpy(&all, from, sizeof(all));
	return (bytes)_mm256_broadcastsi128_si256(all);
#else
	bytes all;

	memcpy(&all, from, sizeof(all));
	return all;
#endif
}

/* The bytes of `from` at the sixteen places `at`, each below 16. */
INLINE bytes pick(bytes from, bytes at)
{
#ifdef UPPER
	return (bytes)_mm256_shuffle_epi8((__m256i)from, (__m256i)at);
#elif defined(__SSSE3__)
	return (bytes)_mm_shuffle_epi8((__m128i)from, (__m128i)at);
#else
	for (int i = 0; i < 16; i++)
		at[i] = from[at[i]];
	return at;
#endif
}

/* WIDTH of sixteen integers, from the constant `first` on; times 2^24 with UPPER. */
INLINE floats floats_of(bytes all, int first)
{
#if defined(UPPER)
	const __m256i from = _mm256_setr_epi32(0x00808080, 0x01808080, 0x02808080, 0x03808080, 0x04808080, 0x05808080,
		0x06808080, 0x07808080); /* 0x80: a zero */
	const __m256i further = _mm256_add_epi32(from, _mm256_set1_epi32(first << 24));

	return (floats)_mm256_cvtepi32_ps(_mm256_shuffle_epi8((__m256i)all, further));
#elif defined(__AVX512F__) && WIDTH == 16
	(void)first;
	return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)all));
#else
	floats some;

	for (int i = 0; i < WIDTH; i++)
		some[i] = (int8_t)all[first + i];
	return some;
#endif
}

/* The f16 at any address, in all floats. */
INLINE floats half_at(const uint8_t *at)
{
	uint16_t half;

	memcpy(&half, at, sizeof(half));
#if defined(__F16C__) && WIDTH == 8
	return (floats)_mm256_cvtph_ps(_mm_set1_epi16((short)half));
#elif defined(__F16C__)
	return every(_cvtsh_ss(half));
#else
	uint32_t bits = (half & 0x7fffu) << 13; /* as load_elements() has it */
	float value;

	memcpy(&value, &bits, sizeof(value));
	value *= 0x1p112f;
	memcpy(&bits, &value, sizeof(bits));
	bits |= ((half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0) | (half & 0x8000u) << 16;
	memcpy(&value, &bits, sizeof(value));
	return every(value);
#endif
}

/* Sixteen weights of one scale; `offset` is NULL in types without. */
INLINE void scale(floats to[PIECES], bytes quants, floats step, const floats *offset)
{
#ifdef UPPER
	step *= 0x1p-24f;
#endif
	for (int j = 0; j < PIECES; j++) {
		floats some = floats_of(quants, j * WIDTH);
		to[j] = offset ? fused(some, step, *offset) : some * step;
	}
}

/* ---- blocks of 32 ---- */

/* The low nibbles of sixteen bytes, then the high ones. */
INLINE void nibbles(bytes quants[2], const uint8_t *from)
{
	bytes both = load_bytes(from);

	quants[0] = both & 15;
	quants[1] = both >> 4;
}

/* 16 where a bit of two bytes, `first` and the next of sixteen, is 1: the fifth bits of sixteen numbers. */
INLINE bytes fifth_bits(bytes from, int first)
{
	static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
	static const uint8_t byte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
	bytes each = load_bytes(bit), one = pick(from, load_bytes(byte) + (uint8_t)first);

	return (bytes)((one & each) == each) & 16;
}

INLINE bytes iq4_values(bytes quants)
{
	static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

	return pick(load_bytes((const uint8_t *)values), quants);
}

INLINE void expand_32(floats to[2 * PIECES], const uint8_t *block, enum kvs_dtype dtype)
{
	floats step = half_at(block), least = dtype == KVS_Q4_1 || dtype == KVS_Q5_1 ? half_at(block + 2) : every(0);
	const floats *offset = dtype == KVS_Q4_1 || dtype == KVS_Q5_1 ? &least : NULL;
	bytes quants[2];

	if (dtype == KVS_Q8_0) {
		quants[0] = load_bytes(block + 2);
		quants[1] = load_bytes(block + 18);
	} else {
		nibbles(quants, block + attn_block_bytes(dtype) - 16);
	}
	for (int half = 0; half < 2; half++) {
		if (dtype == KVS_Q5_0 || dtype == KVS_Q5_1)
			quants[half] |= fifth_bits(load_bytes(block), (dtype == KVS_Q5_1 ? 4 : 2) + 2 * half);
		if (dtype == KVS_Q4_0 || dtype == KVS_Q5_0)
			quants[half] -= (uint8_t)(dtype == KVS_Q4_0 ? 8 : 16);
		if (dtype == KVS_IQ4_NL)
			quants[half] = iq4_values(quants[half]);
		scale(to + half * PIECES, quants[half], step, offset);
	}
}

/* ---- parts of blocks of 256 ---- */

/* As unpack_scales() in model/gguf_types.c. */
INLINE void part_scales(const uint8_t *packed, int part, int *scale, int *min)
{
	if (part < 4) {
		*scale = packed[part] & 63;
		*min = packed[part + 4] & 63;
	} else {
		*scale = (packed[part + 4] & 15) | (packed[part - 4] >> 2 & 48);
		*min = packed[part + 4] >> 4 | (packed[part] >> 2 & 48);
	}
}

/* Q4_K and Q5_K. */
INLINE void expand_k(floats to[2 * PIECES], const uint8_t *block, int part, enum kvs_dtype dtype)
{
	const uint8_t *quants = block + (dtype == KVS_Q5_K ? 48 : 16) + part / 2 * 32;
	int factor, min;
	floats step, offset;

	part_scales(block + 4, part, &factor, &min);
	step = half_at(block) * (float)factor;
	offset = half_at(block + 2) * (float)-min;
	for (int half = 0; half < 2; half++) {
		bytes both = load_bytes(quants + 16 * half), some = part % 2 ? both >> 4 : both & 15;

		if (dtype == KVS_Q5_K) {
			bytes fifths = load_bytes(block + 16 + 16 * half) & (uint8_t)(1 << part);
			some |= (bytes)(fifths != 0) & 16;
		}
		scale(to + half * PIECES, some, step, &offset);
	}
}

INLINE void expand_q6_k(floats to[2 * PIECES], const uint8_t *block, int part)
{
	const uint8_t *low = block + part / 4 * 64 + part % 2 * 32, *high = block + 128 + part / 4 * 32;
	floats d = half_at(block + 208);

	for (int half = 0; half < 2; half++) {
		bytes four = load_bytes(low + 16 * half), two = load_bytes(high + 16 * half);
		floats step = d * (float)(int8_t)block[192 + 2 * part + half];

		four = part % 4 / 2 ? four >> 4 : four & 15;
		two = part % 4 == 0 ? two << 4 : part % 4 == 1 ? two << 2 : part % 4 == 2 ? two : two >> 2;
		scale(to + half * PIECES, (four | (two & 48)) - 32, step, NULL);
	}
}

/* ---- rows ---- */

/* QUANTS weights of a row, from the `at`-th on, a multiple of QUANTS. `dtype` is a constant. */
INLINE void expand(floats to[2 * PIECES], const uint8_t *row, int at, enum kvs_dtype dtype)
{
	const uint8_t *block = row + attn_row_bytes(dtype, at);

	if (attn_block_elements(dtype) == QUANTS)
		expand_32(to, block, dtype);
	else if (dtype == KVS_Q6_K)
		expand_q6_k(to, block, at % 256 / QUANTS);
	else
		expand_k(to, block, at % 256 / QUANTS, dtype);
}

INLINE void expand_all(float *to, const uint8_t *row, int first, int count, enum kvs_dtype dtype)
{
	for (int c = 0; c < count; c += QUANTS) {
		floats some[2 * PIECES];

		expand(some, row, first + c, dtype);
		memcpy(to + c, some, sizeof(some));
	}
}

/* to[count] = the weights of a row from the `first`-th on; both are multiples of QUANTS. `dtype` is any quantised type. */
static void expand_row(float *to, const uint8_t *row, int first, int count, enum kvs_dtype dtype)
{
	switch (dtype) {
	case KVS_Q8_0:
		expand_all(to, row, first, count, KVS_Q8_0);
		return;
	case KVS_Q4_0:
		expand_all(to, row, first, count, KVS_Q4_0);
		return;
	case KVS_Q4_1:
		expand_all(to, row, first, count, KVS_Q4_1);
		return;
	case KVS_Q5_0:
		expand_all(to, row, first, count, KVS_Q5_0);
		return;
	case KVS_Q5_1:
		expand_all(to, row, first, count, KVS_Q5_1);
		return;
	case KVS_IQ4_NL:
		expand_all(to, row, first, count, KVS_IQ4_NL);
		return;
	case KVS_Q4_K:
		expand_all(to, row, first, count, KVS_Q4_K);
		return;
	case KVS_Q5_K:
		expand_all(to, row, first, count, KVS_Q5_K);
		return;
	default:
		expand_all(to, row, first, count, KVS_Q6_K);
		return;
	}
}

#endif
