/*
 * model/tokenizer/charset.c: sets of characters for regular expressions, from the table of Unicode.
 */
#include "regex.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void tok_set_add(struct tok_set *set, uint32_t first, uint32_t last)
{
	while (first <= last) {
		uint32_t end = first | 63; /* last code of this word */
		uint64_t mask = ~0ULL << (first & 63);

		if (end >= last) {
			mask &= ~0ULL >> (63 - (last & 63));
			end = last;
		}
		set->bits[first >> 6] |= mask;
		first = end + 1;
	}
}

void tok_set_add_spaces(struct tok_set *set)
{
	for (uint32_t code = 0; code <= 0x3000; code++)
		if (tok_unicode_is_space(code))
			tok_set_add(set, code, code);
}

/* Categories whose name starts with these `len` letters. */
static bool add_categories(struct tok_set *set, const char *name, size_t len)
{
	bool any = false;

	for (size_t i = 0; i < tok_category_runs_count; i++) {
		const char *category = tok_category_names[tok_category_runs[i] & ((1 << TOK_CATEGORY_BITS) - 1)];
		uint32_t end =
			i + 1 < tok_category_runs_count ? tok_category_runs[i + 1] >> TOK_CATEGORY_BITS : TOK_CODES;

		if (strncasecmp(category, name, len))
			continue;
		tok_set_add(set, tok_category_runs[i] >> TOK_CATEGORY_BITS, end - 1);
		any = true;
	}
	return any;
}

static bool add_script(struct tok_set *set, const char *name, size_t len)
{
	for (size_t i = 0; i < tok_scripts_count; i++) {
		const struct tok_script *script = &tok_scripts[i];

		if (strlen(script->name) != len || strncasecmp(script->name, name, len))
			continue;
		for (uint32_t k = 0; k < script->count; k++)
			tok_set_add(set, tok_script_ranges[script->first + k].first,
				tok_script_ranges[script->first + k].last);
		return true;
	}
	return false;
}

bool tok_set_add_property(struct tok_set *set, const char *name, size_t len)
{
	if (len == 1 || len == 2)
		return add_categories(set, name, len);
	return add_script(set, name, len);
}

void tok_set_add_words(struct tok_set *set)
{
	add_categories(set, "L", 1);
	add_categories(set, "M", 1);
	add_categories(set, "Nd", 2);
	add_categories(set, "Nl", 2);
	add_categories(set, "Pc", 2);
	for (size_t i = 0; i < TOK_CIRCLED; i++)
		tok_set_add(set, tok_circled_letters[i].first, tok_circled_letters[i].last);
}

void tok_set_add_numbers(struct tok_set *set)
{
	add_categories(set, "N", 1);
	for (size_t i = 0; i < tok_later_numbers_count; i++)
		tok_set_add(set, tok_later_numbers[i].first, tok_later_numbers[i].last);
}

/* Two letters of ASCII have another case outside it. */
void tok_set_add_folds(struct tok_set *set)
{
	for (uint32_t low = 'a'; low <= 'z'; low++) {
		uint32_t up = low - 'a' + 'A';

		if (!tok_set_has(set, low) && !tok_set_has(set, up))
			continue;
		tok_set_add(set, low, low);
		tok_set_add(set, up, up);
		if (low == 'k')
			tok_set_add(set, 0x212a, 0x212a); /* KELVIN SIGN */
		if (low == 's')
			tok_set_add(set, 0x17f, 0x17f); /* LONG S */
	}
}

bool tok_set_has_only_ascii(const struct tok_set *set)
{
	for (size_t i = 2; i < TOK_SET_WORDS; i++)
		if (set->bits[i])
			return false;
	return true;
}

void tok_set_invert(struct tok_set *set)
{
	for (size_t i = 0; i < TOK_SET_WORDS; i++)
		set->bits[i] = ~set->bits[i];
}

void tok_set_unite(struct tok_set *set, const struct tok_set *with)
{
	for (size_t i = 0; i < TOK_SET_WORDS; i++)
		set->bits[i] |= with->bits[i];
}

void tok_set_intersect(struct tok_set *set, const struct tok_set *with)
{
	for (size_t i = 0; i < TOK_SET_WORDS; i++)
		set->bits[i] &= with->bits[i];
}

/* ---- the sets of a regex ---- */

int tok_sets_take(struct tok_sets *sets, struct tok_set *set)
{
	struct tok_set **grown;

	for (size_t i = 0; i < sets->count; i++) {
		if (!memcmp(sets->list[i], set, sizeof(*set))) {
			free(set);
			return (int)i;
		}
	}
	grown = sets->count < TOK_MAX_SETS ? tok_grow(sets->list, sets->count, &sets->cap, sizeof(*grown)) : NULL;
	if (!grown) {
		free(set);
		return sets->count < TOK_MAX_SETS ? -ENOMEM : -E2BIG;
	}
	sets->list = grown;
	grown[sets->count] = set;
	return (int)sets->count++;
}

int tok_sets_add_code(struct tok_sets *sets, uint32_t code, bool fold)
{
	struct tok_set *set = calloc(1, sizeof(*set));

	if (!set)
		return -ENOMEM;
	tok_set_add(set, code, code);
	if (fold)
		tok_set_add_folds(set);
	return tok_sets_take(sets, set);
}

void tok_sets_clear(struct tok_sets *sets)
{
	for (size_t i = 0; i < sets->count; i++)
		free(sets->list[i]);
	free(sets->list);
	memset(sets, 0, sizeof(*sets));
}
