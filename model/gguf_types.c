/*
 * model/gguf_types.c: ggml's types of tensors, and their blocks as f32.
 *
 * The layouts are those of ggml-quants.c. Each product and sum is in f32 and in the order of the gguf Python package, so
 * that the results are the same bits; the tests compare them.
 */
#include "convert.h"
#include "gguf.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_BLOCK 256

static float half_at(const uint8_t *at)
{
	float value;

	model_to_f32(&value, at, KVS_F16, 0, 1);
	return value;
}

static void from_f32(const uint8_t *block, float *out)
{
	memcpy(out, block, 4);
}

static void from_f16(const uint8_t *block, float *out)
{
	*out = half_at(block);
}

static void from_bf16(const uint8_t *block, float *out)
{
	model_to_f32(out, block, KVS_BF16, 0, 1);
}

/* ---- blocks of 32: a scale, maybe a minimum, maybe fifth bits, then nibbles: first the low ones, then the high ---- */

static int nibble(const uint8_t *quants, int i)
{
	return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}

static int fifth_bit(const uint8_t *bits, int i)
{
	return (bits[i / 8] >> (i % 8) & 1) << 4;
}

static void from_q4_0(const uint8_t *block, float *out)
{
	float d = half_at(block);

	for (int i = 0; i < 32; i++)
		out[i] = d * (float)(nibble(block + 2, i) - 8);
}

static void from_q4_1(const uint8_t *block, float *out)
{
	float d = half_at(block), min = half_at(block + 2);

	for (int i = 0; i < 32; i++) {
		float product = d * (float)nibble(block + 4, i);
		out[i] = product + min;
	}
}

static void from_q5_0(const uint8_t *block, float *out)
{
	float d = half_at(block);

	for (int i = 0; i < 32; i++)
		out[i] = d * (float)((nibble(block + 6, i) | fifth_bit(block + 2, i)) - 16);
}

static void from_q5_1(const uint8_t *block, float *out)
{
	float d = half_at(block), min = half_at(block + 2);

	for (int i = 0; i < 32; i++) {
		float product = d * (float)(nibble(block + 8, i) | fifth_bit(block + 4, i));
		out[i] = product + min;
	}
}

static void from_q8_0(const uint8_t *block, float *out)
{
	float d = half_at(block);

	for (int i = 0; i < 32; i++)
		out[i] = (float)(int8_t)block[2 + i] * d;
}

static void from_iq4_nl(const uint8_t *block, float *out)
{
	static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
	float d = half_at(block);

	for (int i = 0; i < 32; i++)
		out[i] = d * (float)values[nibble(block + 2, i)];
}

/* ---- blocks of 256: eight parts of 32, or 16 of 16, each with a scale of its own ---- */

/* Twelve bytes hold eight scales and eight minima of 6 bits; the last four of each have their high bits apart. */
static void unpack_scales(const uint8_t *packed, int part, int *scale, int *min)
{
	if (part < 4) {
		*scale = packed[part] & 63;
		*min = packed[part + 4] & 63;
	} else {
		*scale = (packed[part + 4] & 15) | (packed[part - 4] >> 2 & 48);
		*min = packed[part + 4] >> 4 | (packed[part] >> 2 & 48);
	}
}

/* Q4_K and Q5_K; `bits` has the fifth bits, NULL: there are none. */
static void from_k(const uint8_t *block, const uint8_t *quants, const uint8_t *bits, float *out)
{
	float d = half_at(block), d_min = half_at(block + 2);

	for (int part = 0; part < 8; part++) {
		int scale, min;
		unpack_scales(block + 4, part, &scale, &min);
		float step = d * (float)scale, least = d_min * (float)min;
		for (int i = 0; i < 32; i++) {
			int q = quants[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
			if (bits)
				q |= (bits[i] >> part & 1) << 4;
			float product = step * (float)q;
			out[part * 32 + i] = product - least;
		}
	}
}

static void from_q4_k(const uint8_t *block, float *out)
{
	from_k(block, block + 16, NULL, out);
}

static void from_q5_k(const uint8_t *block, float *out)
{
	from_k(block, block + 48, block + 16, out);
}

static void from_q6_k(const uint8_t *block, float *out)
{
	const uint8_t *low = block, *high = block + 128, *scales = block + 192;
	float d = half_at(block + 208);

	for (int i = 0; i < 256; i++) {
		int half = i / 128, quarter = i / 32 % 4, j = i % 32;
		int q = low[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
		q |= (high[half * 32 + j] >> (2 * quarter) & 3) << 4;
		float step = d * (float)(int8_t)scales[i / 16];
		out[i] = step * (float)(q - 32);
	}
}

/* By the numbers of enum ggml_type; those without a function are known by name only, to refuse them. */
static const struct gguf_type types[] = {
	[0] = {"F32", 1, 4, from_f32, KVS_F32},
	[1] = {"F16", 1, 2, from_f16, KVS_F16},
	[2] = {"Q4_0", 32, 18, from_q4_0, KVS_Q4_0},
	[3] = {"Q4_1", 32, 20, from_q4_1, KVS_Q4_1},
	[6] = {"Q5_0", 32, 22, from_q5_0, KVS_Q5_0},
	[7] = {"Q5_1", 32, 24, from_q5_1, KVS_Q5_1},
	[8] = {"Q8_0", 32, 34, from_q8_0, KVS_Q8_0},
	[9] = {"Q8_1", 32, 40, NULL, 0},
	[10] = {"Q2_K", 256, 84, NULL, 0},
	[11] = {"Q3_K", 256, 110, NULL, 0},
	[12] = {"Q4_K", 256, 144, from_q4_k, KVS_Q4_K},
	[13] = {"Q5_K", 256, 176, from_q5_k, KVS_Q5_K},
	[14] = {"Q6_K", 256, 210, from_q6_k, KVS_Q6_K},
	[15] = {"Q8_K", 256, 292, NULL, 0},
	[16] = {"IQ2_XXS", 256, 66, NULL, 0},
	[17] = {"IQ2_XS", 256, 74, NULL, 0},
	[18] = {"IQ3_XXS", 256, 98, NULL, 0},
	[19] = {"IQ1_S", 256, 50, NULL, 0},
	[20] = {"IQ4_NL", 32, 18, from_iq4_nl, KVS_IQ4_NL},
	[21] = {"IQ3_S", 256, 110, NULL, 0},
	[22] = {"IQ2_S", 256, 82, NULL, 0},
	[23] = {"IQ4_XS", 256, 136, NULL, 0},
	[24] = {"I8", 1, 1, NULL, 0},
	[25] = {"I16", 1, 2, NULL, 0},
	[26] = {"I32", 1, 4, NULL, 0},
	[27] = {"I64", 1, 8, NULL, 0},
	[28] = {"F64", 1, 8, NULL, 0},
	[29] = {"IQ1_M", 256, 56, NULL, 0},
	[30] = {"BF16", 1, 2, from_bf16, KVS_BF16},
	[34] = {"TQ1_0", 256, 54, NULL, 0},
	[35] = {"TQ2_0", 256, 66, NULL, 0},
	[39] = {"MXFP4", 32, 17, NULL, 0},
};

const struct gguf_type *model_gguf_type(uint32_t number)
{
	return number < sizeof(types) / sizeof(types[0]) && types[number].name ? &types[number] : NULL;
}

void model_gguf_dequantize(enum kvs_dtype dtype, const void *blocks, float *out, size_t count)
{
	const struct gguf_type *type = NULL;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].dequantize && types[i].dtype == dtype)
			type = &types[i];
	for (size_t at = 0; at * type->elements < count; at++)
		type->dequantize((const uint8_t *)blocks + at * type->bytes, out + at * type->elements);
}

/* All blocks of elements first .. end - 1 are read at once; the first and the last may be needed in part. */
int model_gguf_read(
	const struct model_file *file, const struct gguf_tensor *tensor, uint64_t first, float *out, size_t count)
{
	const struct gguf_type *type = tensor->type;
	uint64_t block = first / type->elements, end = (first + count + type->elements - 1) / type->elements;
	float values[LONGEST_BLOCK];
	uint8_t *raw = malloc((end - block) * type->bytes + 1);
	int err = raw ? model_file_read(file, tensor->offset + block * type->bytes, raw, (end - block) * type->bytes)
		      : kvs_fail(-ENOMEM, "%s: no memory to read a tensor", file->path);

	for (size_t done = 0, at = 0; done < count && !err; at++) {
		size_t skip = first + done - (block + at) * type->elements, now = type->elements - skip;
		if (now > count - done)
			now = count - done;
		type->dequantize(raw + at * type->bytes, values);
		memcpy(out + done, values + skip, now * sizeof(*out));
		done += now;
	}
	free(raw);
	return err;
}
