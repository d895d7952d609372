/*
 * model/tokenizer/nfc.c: canonical composition (NFC, Unicode Standard Annex 15), as of Unicode 9.0.
 *
 * Text is decomposed, runs of marks are sorted by class, and what composes is composed. Hugging Face's normaliser knows
 * Unicode 9.0, so the table does too: what came later is a character that nothing is known of. Marks are sorted in
 * n log n: a megabyte of them must not become a hang.
 */
#include "tokenizer.h"

#include <errno.h>
#include <stdlib.h>

/* Hangul syllables are computed (Unicode 3.12). */
#define SYLLABLE 0xac00u
#define LEAD 0x1100u
#define VOWEL 0x1161u
#define TAIL 0x11a7u /* itself no tail: it stands for none */
#define LEADS 19u
#define VOWELS 21u
#define TAILS 28u

struct codes {
	uint32_t *list;
	size_t count, cap;
};

static int put_code(struct codes *codes, uint32_t code)
{
	uint32_t *grown = tok_grow(codes->list, codes->count, &codes->cap, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	codes->list = grown;
	grown[codes->count++] = code;
	return 0;
}

/* 0: a starter. */
static unsigned combining_class(uint32_t code)
{
	size_t low = 0, high = tok_mark_ranges_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (code < tok_mark_ranges[middle].first)
			high = middle;
		else if (code > tok_mark_ranges[middle].last)
			low = middle + 1;
		else
			return tok_mark_ranges[middle].combining_class;
	}
	return 0;
}

/* ---- decomposing ---- */

static const struct tok_decomposition *find_decomposition(uint32_t code)
{
	size_t low = 0, high = tok_decompositions_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (code == tok_decompositions[middle].code)
			return &tok_decompositions[middle];
		if (code < tok_decompositions[middle].code)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

static int put_syllable(struct codes *out, uint32_t index)
{
	uint32_t tail = index % TAILS;
	int err = put_code(out, LEAD + index / TAILS / VOWELS);

	if (!err)
		err = put_code(out, VOWEL + index / TAILS % VOWELS);
	return err || !tail ? err : put_code(out, TAIL + tail);
}

/* The table goes one step at a time: at most four. */
static int put_decomposed(struct codes *out, uint32_t code)
{
	const struct tok_decomposition *parts;
	int err;

	if (code - SYLLABLE < LEADS * VOWELS * TAILS)
		return put_syllable(out, code - SYLLABLE);
	parts = code < 0xc0 ? NULL : find_decomposition(code);
	if (!parts)
		return put_code(out, code);
	err = put_decomposed(out, parts->first);
	return err || !parts->second ? err : put_decomposed(out, parts->second);
}

/* ---- sorting ---- */

static int compare_keys(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Stable sort of a run of marks by class: the key is class, place, code. */
static int sort_run(uint32_t *run, size_t count)
{
	uint64_t *keys = malloc(count * sizeof(*keys));

	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		keys[i] = (uint64_t)combining_class(run[i]) << 53 | (uint64_t)i << 21 | run[i];
	qsort(keys, count, sizeof(*keys), compare_keys);
	for (size_t i = 0; i < count; i++)
		run[i] = (uint32_t)(keys[i] & 0x1fffff);
	free(keys);
	return 0;
}

static int sort_marks(struct codes *codes)
{
	size_t start = 0;
	int err = 0;

	for (size_t i = 0; i <= codes->count && !err; i++) {
		if (i < codes->count && combining_class(codes->list[i]))
			continue;
		if (i - start > 1)
			err = sort_run(codes->list + start, i - start);
		start = i + 1;
	}
	return err;
}

/* ---- composing ---- */

/* What two characters make; 0: nothing. */
static uint32_t composition(uint32_t first, uint32_t second)
{
	size_t low = 0, high = tok_compositions_count;

	if (first - LEAD < LEADS && second - VOWEL < VOWELS)
		return SYLLABLE + ((first - LEAD) * VOWELS + second - VOWEL) * TAILS;
	if (first - SYLLABLE < LEADS * VOWELS * TAILS && !((first - SYLLABLE) % TAILS) && second > TAIL &&
		second < TAIL + TAILS)
		return first + second - TAIL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct tok_decomposition *parts = &tok_decompositions[tok_compositions[middle]];

		if (parts->first == first && parts->second == second)
			return parts->code;
		if (parts->first > first || (parts->first == first && parts->second > second))
			high = middle;
		else
			low = middle + 1;
	}
	return 0;
}

/* In place. A mark is blocked from its starter by one of its class, or by a starter, that stayed in between. */
static void compose(struct codes *codes)
{
	size_t starter = SIZE_MAX, kept = 0;
	unsigned last = 0; /* class of the character that was kept last */

	for (size_t i = 0; i < codes->count; i++) {
		uint32_t code = codes->list[i], made = 0;
		unsigned class = combining_class(code);
		bool next_to_it = starter != SIZE_MAX && kept == starter + 1;

		if (starter != SIZE_MAX && (next_to_it || (last && last < class)))
			made = composition(codes->list[starter], code);
		if (made) {
			codes->list[starter] = made;
			continue;
		}
		if (!class)
			starter = kept;
		last = class;
		codes->list[kept++] = code;
	}
	codes->count = kept;
}

static int put_normal(const char *text, size_t len, struct tok_text *out)
{
	struct codes codes = {0};
	size_t bytes;
	int err = 0;

	for (size_t i = 0; i < len && !err; i += bytes) {
		tok_utf8_look(text + i, len - i, &bytes);
		err = put_decomposed(&codes, tok_utf8_code(text + i, bytes));
	}
	if (!err)
		err = sort_marks(&codes);
	if (!err)
		compose(&codes);
	for (size_t i = 0; i < codes.count && !err; i++) {
		char character[4];

		err = tok_text_append(out, character, tok_utf8_put(codes.list[i], character));
	}
	free(codes.list);
	return err;
}

/* Nothing below U+0300 (whose first byte is 0xcc) composes with what stands before it, or decomposes for good. */
int tok_unicode_nfc(const char *text, size_t len, struct tok_text *out)
{
	size_t plain = 0;

	while (plain < len && (unsigned char)text[plain] < 0xcc)
		plain++;
	if (plain == len)
		return tok_text_append(out, text, len);
	return put_normal(text, len, out);
}
