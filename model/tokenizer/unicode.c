/*
 * model/tokenizer/unicode.c: characters.
 *
 * UTF-8, with the maximal-subpart rule for invalid bytes (Unicode 3.9, table 3-8; also in Python and Rust), the few
 * properties that added tokens need, GPT-2's characters for bytes, and NFC. utf8proc's own NFC sorts combining marks in
 * quadratic time, so that a megabyte of them would hang; here utf8proc decomposes and composes, and we sort.
 */
#include "tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* The number of bytes that follow this first byte, and the range of the second (Unicode table 3-7); -1: invalid. */
static int lead(unsigned char first, unsigned char *low, unsigned char *high)
{
	*low = 0x80;
	*high = 0xbf;
	if (first >= 0xc2 && first <= 0xdf)
		return 1;
	if (first >= 0xe0 && first <= 0xef) {
		*low = first == 0xe0 ? 0xa0 : 0x80;
		*high = first == 0xed ? 0x9f : 0xbf; /* no surrogates */
		return 2;
	}
	if (first >= 0xf0 && first <= 0xf4) {
		*low = first == 0xf0 ? 0x90 : 0x80;
		*high = first == 0xf4 ? 0x8f : 0xbf;
		return 3;
	}
	return -1;
}

enum tok_utf8 tok_utf8_look(const char *bytes, size_t count, size_t *len)
{
	const unsigned char *s = (const unsigned char *)bytes;
	unsigned char low, high;
	int follow;

	*len = 1;
	if (s[0] < 0x80)
		return TOK_UTF8_OK;
	follow = lead(s[0], &low, &high);
	if (follow < 0)
		return TOK_UTF8_INVALID;
	for (size_t i = 1; i <= (size_t)follow; i++) {
		*len = i;
		if (i == count)
			return TOK_UTF8_CUT;
		if (s[i] < low || s[i] > high)
			return TOK_UTF8_INVALID;
		low = 0x80;
		high = 0xbf;
	}
	*len = (size_t)follow + 1;
	return TOK_UTF8_OK;
}

uint32_t tok_utf8_code(const char *bytes, size_t len)
{
	static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	uint32_t code = (unsigned char)bytes[0] & mask[len];

	for (size_t i = 1; i < len; i++)
		code = code << 6 | ((unsigned char)bytes[i] & 0x3f);
	return code;
}

size_t tok_utf8_put(uint32_t code, char out[4])
{
	return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

int tok_utf8_repair(const char *bytes, size_t count, struct tok_text *out)
{
	size_t good = 0, len;

	if (!count) /* bytes may be NULL then, and NULL + 0 is undefined */
		return 0;
	for (size_t i = 0; i < count; i += len) {
		if (tok_utf8_look(bytes + i, count - i, &len) == TOK_UTF8_OK)
			continue;
		if (tok_text_append(out, bytes + good, i - good) || tok_text_append(out, TOK_REPLACEMENT, 3))
			return -ENOMEM;
		good = i + len;
	}
	return tok_text_append(out, bytes + good, count - good);
}

bool tok_unicode_is_space(uint32_t code)
{
	return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
	       (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
	       code == 0x205f || code == 0x3000;
}

static uint32_t look_up(const struct tok_stand_in *table, size_t count, uint32_t code)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (table[middle].last < code)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && table[low].first <= code ? table[low].stand_in : code;
}

uint32_t tok_unicode_stand_in(uint32_t code, bool later_numbers)
{
	uint32_t number = later_numbers ? look_up(tok_later_numbers, tok_later_numbers_count, code) : code;

	return number != code ? number : look_up(tok_stand_ins, tok_stand_ins_count, code);
}

int tok_unicode_stand_in_text(const char *text, size_t len, bool later_numbers, char **out)
{
	size_t bytes;

	*out = NULL;
	for (size_t i = 0; i < len; i += bytes) {
		bytes = 1;
		if ((unsigned char)text[i] < 0x80)
			continue;
		tok_utf8_look(text + i, len - i, &bytes);
		uint32_t code = tok_utf8_code(text + i, bytes), stand_in = tok_unicode_stand_in(code, later_numbers);
		if (stand_in == code)
			continue;
		if (!*out) {
			*out = malloc(len);
			if (!*out)
				return -ENOMEM;
			memcpy(*out, text, len);
		}
		tok_utf8_put(stand_in, *out + i);
	}
	return 0;
}

bool tok_unicode_is_word(uint32_t code)
{
	switch (utf8proc_category((utf8proc_int32_t)tok_unicode_stand_in(code, false))) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_PC:
		return true;
	case UTF8PROC_CATEGORY_SO: /* the circled and squared letters are Other_Alphabetic */
		return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
		       (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
	default:
		return code == 0x200c || code == 0x200d; /* Join_Control */
	}
}

/* GPT-2 writes printable Latin-1 as itself and the other 68 bytes, in order, from U+0100 on. */
static bool byte_is_itself(uint32_t byte)
{
	return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

uint32_t tok_byte_to_code(unsigned char byte)
{
	if (byte_is_itself(byte))
		return byte;
	if (byte <= 0x20)
		return 0x100u + byte;
	return byte == 0xad ? 0x143 : 0x121u + byte - 0x7f; /* 0x7f .. 0xa0 follow the first 33 */
}

int tok_code_to_byte(uint32_t code)
{
	if (code < 0x100)
		return byte_is_itself(code) ? (int)code : -1;
	if (code <= 0x120)
		return (int)code - 0x100;
	if (code <= 0x142)
		return (int)code - 0x121 + 0x7f;
	return code == 0x143 ? 0xad : -1;
}

/* ---- NFC ---- */

struct codes {
	utf8proc_int32_t *list;
	size_t count, cap;
};

static int decompose(const char *text, size_t len, struct codes *out)
{
	utf8proc_int32_t parts[8]; /* canonical decompositions have at most four characters */
	size_t bytes;

	for (size_t i = 0; i < len; i += bytes) {
		tok_utf8_look(text + i, len - i, &bytes);
		utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)tok_utf8_code(text + i, bytes), parts, 8,
			UTF8PROC_STABLE | UTF8PROC_COMPOSE, NULL);

		for (utf8proc_ssize_t k = 0; k < n; k++) {
			utf8proc_int32_t *grown = tok_grow(out->list, out->count, &out->cap, sizeof(*grown));

			if (!grown)
				return -ENOMEM;
			out->list = grown;
			grown[out->count++] = parts[k];
		}
	}
	return 0;
}

static int compare_keys(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Stable sort of a run of marks by class: the key is class, place, code. */
static int sort_run(utf8proc_int32_t *run, size_t count)
{
	uint64_t *keys = malloc(count * sizeof(*keys));

	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		keys[i] = (uint64_t)utf8proc_get_property(run[i])->combining_class << 53 | (uint64_t)i << 21 |
			  (uint64_t)run[i];
	qsort(keys, count, sizeof(*keys), compare_keys);
	for (size_t i = 0; i < count; i++)
		run[i] = (utf8proc_int32_t)(keys[i] & 0x1fffff);
	free(keys);
	return 0;
}

static int sort_marks(struct codes *codes)
{
	size_t start = 0;
	int err = 0;

	for (size_t i = 0; i <= codes->count && !err; i++) {
		if (i < codes->count && utf8proc_get_property(codes->list[i])->combining_class)
			continue;
		if (i - start > 1)
			err = sort_run(codes->list + start, i - start);
		start = i + 1;
	}
	return err;
}

static int compose(struct codes *codes, struct tok_text *out)
{
	utf8proc_ssize_t count = utf8proc_normalize_utf32(
		codes->list, (utf8proc_ssize_t)codes->count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	int err = count < 0 ? -ENOMEM : 0;

	for (utf8proc_ssize_t i = 0; i < count && !err; i++) {
		char bytes[4];

		err = tok_text_append(out, bytes, tok_utf8_put((uint32_t)codes->list[i], bytes));
	}
	return err;
}

/* NFC of a stretch without characters that stand alone. */
static int nfc_stretch(const char *text, size_t len, struct tok_text *out)
{
	struct codes codes = {0};
	int err = decompose(text, len, &codes);

	if (!err)
		err = sort_marks(&codes);
	if (!err && codes.count)
		err = compose(&codes, out);
	free(codes.list);
	return err;
}

/*
 * Hugging Face normalises by Unicode 9.0. To it, later marks are starters, across which nothing is sorted or composed,
 * and the one later composition does not exist. The list is the result of comparing all characters (Unicode 15.0 here).
 * U+11A7 is included because utf8proc 2.8 takes it for a Hangul final, which it is not, and drops it.
 */
static bool stands_alone(uint32_t code)
{
	static const uint32_t ranges[][2] = {{0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe},
		{0xc3c, 0xc3c}, {0xd3b, 0xd3c}, {0xeba, 0xeba}, {0x11a7, 0x11a7}, {0x1715, 0x1715}, {0x1abf, 0x1ace},
		{0x1df6, 0x1dfa}, {0xa82c, 0xa82c}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
		{0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
		{0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
		{0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
		{0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f},
		{0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]) && ranges[i][0] <= code; i++)
		if (code <= ranges[i][1])
			return true;
	return false;
}

int tok_unicode_nfc(const char *text, size_t len, struct tok_text *out)
{
	size_t start = 0, bytes;
	int err = 0;

	for (size_t i = 0; i < len && !err; i += bytes) {
		tok_utf8_look(text + i, len - i, &bytes);
		if (!stands_alone(tok_utf8_code(text + i, bytes)))
			continue;
		err = nfc_stretch(text + start, i - start, out);
		if (!err)
			err = tok_text_append(out, text + i, bytes);
		start = i + bytes;
	}
	return err ? err : nfc_stretch(text + start, len - start, out);
}
