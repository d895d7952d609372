/*
 * model/tokenizer/unicode.c: characters.
 *
 * UTF-8 with the maximal-subpart rule for what is invalid (Unicode 3.9, table 3-8; Python and Rust do the same), the few
 * properties that added tokens need, and GPT-2's characters for bytes. What Unicode says of a character is in
 * unicode_table.c.
 */
#include "tokenizer.h"

#include <errno.h>
#include <string.h>

/* How many bytes follow this first byte, and the range in which the second must lie (Unicode table 3-7). */
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
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

int tok_utf8_repair(const char *bytes, size_t count, struct tok_text *out)
{
	size_t good = 0, len;

	if (!count) /* bytes may be NULL then, to which nothing may be added */
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

int tok_unicode_category(uint32_t code)
{
	size_t low = 0, high = tok_category_runs_count; /* the run that holds it lies from low to high - 1 */

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (tok_category_runs[middle] >> TOK_CATEGORY_BITS <= code)
			low = middle;
		else
			high = middle;
	}
	return (int)(tok_category_runs[low] & ((1 << TOK_CATEGORY_BITS) - 1));
}

const struct tok_range tok_circled_letters[TOK_CIRCLED] = {
	{0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};

/* Letters, marks, decimal digits, letter numbers, connectors, circled letters. */
bool tok_unicode_is_word(uint32_t code)
{
	const char *name = tok_category_names[tok_unicode_category(code)];

	if (name[0] == 'L' || name[0] == 'M' || !memcmp(name, "Nd", 2) || !memcmp(name, "Nl", 2) ||
		!memcmp(name, "Pc", 2))
		return true;
	for (size_t i = 0; i < TOK_CIRCLED; i++)
		if (code >= tok_circled_letters[i].first && code <= tok_circled_letters[i].last)
			return true;
	return false;
}

bool tok_unicode_is_word_or_joiner(uint32_t code)
{
	return tok_unicode_is_word(code) || code == 0x200c || code == 0x200d;
}

/* GPT-2 shows printable Latin-1 as itself and the other 68 bytes, in order, from U+0100 on. */
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
