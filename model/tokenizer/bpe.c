/*
 * model/tokenizer/bpe.c: byte-pair merging of one word.
 *
 * The word is a linked list of symbols. A heap holds every adjacent pair that can merge, ordered by rank, then from
 * left to right. A merge pushes the two pairs that it creates; an entry that another merge has made stale is dropped
 * when it is popped: O(n log n) for any word. Unknown characters become byte tokens, else unk, as in HF tokenizers.
 *
 * If a whole text is one word, as for SentencePiece, the heap would be as large as the text and fit no cache. So the
 * word is cut between characters that are neighbours in no token that merges make. No merge reaches across such a place
 * (in English, before each space), and the parts are merged one after another.
 */
#include "tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tok_symbol {
	int32_t id; /* -1: merged into the one before */
	uint32_t prev, next;
};
#define NOWHERE UINT32_MAX

struct tok_candidate {
	uint32_t rank, at;
	int32_t id; /* what the pair becomes */
};

static int push_symbol(struct tok_bpe *bpe, int32_t id)
{
	struct tok_symbol *grown = tok_grow(bpe->symbols, bpe->symbol_count, &bpe->symbol_cap, sizeof(*grown));
	uint32_t at = (uint32_t)bpe->symbol_count;

	if (!grown)
		return -ENOMEM;
	bpe->symbols = grown;
	if (at)
		grown[at - 1].next = at;
	grown[bpe->symbol_count++] = (struct tok_symbol){id, at ? at - 1 : NOWHERE, NOWHERE};
	return 0;
}

/* ---- characters to symbols ---- */

static bool has_byte_tokens(const struct kvs_tokenizer *tok, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (tok->byte_tokens[(unsigned char)text[i]] < 0)
			return false;
	return true;
}

/* `pending`: an unknown waits for the next known character, as in HF, where byte tokens in between do not emit it. */
static int push_unknown(struct tok_bpe *bpe, const char *text, size_t len, bool *pending)
{
	const struct kvs_tokenizer *tok = bpe->tok;
	int err = 0;

	if (tok->byte_fallback && has_byte_tokens(tok, text, len)) {
		for (size_t i = 0; i < len && !err; i++)
			err = push_symbol(bpe, tok->byte_tokens[(unsigned char)text[i]]);
		return err;
	}
	if (tok->unk < 0)
		return 0;
	if (*pending && !tok->fuse_unk)
		err = push_symbol(bpe, tok->unk);
	*pending = true;
	return err;
}

static int push_characters(struct tok_bpe *bpe, const char *word, size_t len)
{
	bool pending = false;
	size_t bytes;
	int err = 0;

	for (size_t i = 0; i < len && !err; i += bytes) {
		tok_utf8_look(word + i, len - i, &bytes);
		int32_t id = tok_vocab_find(&bpe->tok->vocab, word + i, bytes);

		if (id < 0) {
			err = push_unknown(bpe, word + i, bytes, &pending);
			continue;
		}
		if (pending)
			err = push_symbol(bpe, bpe->tok->unk);
		pending = false;
		if (!err)
			err = push_symbol(bpe, id);
	}
	if (!err && pending)
		err = push_symbol(bpe, bpe->tok->unk);
	return err;
}

/* ---- merging ---- */

static bool before(const struct tok_candidate *a, const struct tok_candidate *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static int push_candidate(struct tok_bpe *bpe, uint32_t at)
{
	const struct tok_symbol *left = &bpe->symbols[at], *right = &bpe->symbols[left->next];
	const struct tok_pair_slot *merge =
		tok_pair_map_find(&bpe->tok->merges, (uint32_t)left->id, (uint32_t)right->id);
	struct tok_candidate *heap, new;
	size_t i = bpe->heap_count;

	if (!merge)
		return 0;
	heap = tok_grow(bpe->heap, bpe->heap_count, &bpe->heap_cap, sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	bpe->heap = heap;
	bpe->heap_count++;
	new = (struct tok_candidate){merge->rank, at, merge->id};
	for (; i && before(&new, &heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = new;
	return 0;
}

static struct tok_candidate pop_candidate(struct tok_bpe *bpe)
{
	struct tok_candidate *heap = bpe->heap, top = heap[0], last = heap[--bpe->heap_count];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child + 1 < bpe->heap_count && before(&heap[child + 1], &heap[child]))
			child++;
		if (child >= bpe->heap_count || !before(&heap[child], &last))
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = last;
	return top;
}

static int merge_at(struct tok_bpe *bpe, const struct tok_candidate *top)
{
	struct tok_symbol *left = &bpe->symbols[top->at], *right;
	const struct tok_pair_slot *merge;
	int err = 0;

	if (left->id < 0 || left->next == NOWHERE)
		return 0;
	right = &bpe->symbols[left->next];
	merge = tok_pair_map_find(&bpe->tok->merges, (uint32_t)left->id, (uint32_t)right->id);
	if (!merge || merge->id != top->id) /* an earlier merge took one of the two */
		return 0;
	left->id = top->id;
	left->next = right->next;
	right->id = -1;
	if (left->next != NOWHERE)
		bpe->symbols[left->next].prev = top->at;
	if (left->prev != NOWHERE)
		err = push_candidate(bpe, left->prev);
	if (!err && left->next != NOWHERE)
		err = push_candidate(bpe, top->at);
	return err;
}

/* ---- parts ---- */

/* The token of a character at the start of `text`, or at its end. */
static int32_t end_character(const struct kvs_tokenizer *tok, int32_t id, bool last)
{
	size_t len = 0, at = 0, bytes = 0;
	const char *text = tok_vocab_text(&tok->vocab, id, &len);

	if (!text || !len)
		return -1;
	do {
		at += bytes;
		tok_utf8_look(text + at, len - at, &bytes);
	} while (last && at + bytes < len);
	return tok_vocab_find(&tok->vocab, text + at, bytes);
}

/* Whether a symbol stands for characters other than those of its text. */
static bool stands_for_unknown(const struct kvs_tokenizer *tok, int32_t id)
{
	size_t len;
	const char *text = tok_vocab_text(&tok->vocab, id, &len);

	return id == tok->unk || (text && len == 6 && tok->byte_fallback && !memcmp(text, "<0x", 3));
}

int tok_bpe_find_joints(struct kvs_tokenizer *tok)
{
	for (size_t i = 0; i < tok->merges.slot_count; i++) {
		const struct tok_pair_slot *merge = &tok->merges.slots[i];
		int32_t left = (int32_t)(merge->key >> 32), right = (int32_t)(merge->key & UINT32_MAX);

		if (merge->id < 0)
			continue;
		if (stands_for_unknown(tok, left) || stands_for_unknown(tok, right))
			return 0;
		left = end_character(tok, left, true);
		right = end_character(tok, right, false);
		/* a character without a token is never merged */
		if (left >= 0 && right >= 0 && tok_pair_map_put(&tok->joints, (uint32_t)left, (uint32_t)right, 0, 0))
			return -ENOMEM;
	}
	tok->has_joints = true;
	return 0;
}

/* Cuts the list of symbols at the first place after `start` that no merge reaches across; returns it. */
static size_t cut_part(struct tok_bpe *bpe, size_t start)
{
	const struct kvs_tokenizer *tok = bpe->tok;
	struct tok_symbol *symbols = bpe->symbols;
	size_t end = start + 1;

	while (end < bpe->symbol_count &&
		(!tok->has_joints ||
			tok_pair_map_find(&tok->joints, (uint32_t)symbols[end - 1].id, (uint32_t)symbols[end].id)))
		end++;
	symbols[end - 1].next = NOWHERE;
	if (end < bpe->symbol_count)
		symbols[end].prev = NOWHERE;
	return end;
}

static int merge_part(struct tok_bpe *bpe, size_t start, size_t end)
{
	int err = 0;

	for (size_t i = start; i + 1 < end && !err; i++)
		err = push_candidate(bpe, (uint32_t)i);
	while (bpe->heap_count && !err) {
		struct tok_candidate top = pop_candidate(bpe);

		err = merge_at(bpe, &top);
	}
	return err;
}

int tok_bpe_word(struct tok_bpe *bpe, const char *word, size_t len, struct tok_ids *out)
{
	int32_t whole = bpe->tok->ignore_merges ? tok_vocab_find(&bpe->tok->vocab, word, len) : -1;
	int err;

	if (whole >= 0)
		return tok_ids_append(out, &whole, 1);
	if (len >= NOWHERE)
		return -ENOMEM;
	bpe->symbol_count = bpe->heap_count = 0;
	err = push_characters(bpe, word, len);
	for (size_t start = 0, end; start < bpe->symbol_count && !err; start = end) {
		end = cut_part(bpe, start);
		err = merge_part(bpe, start, end);
	}
	for (size_t i = 0; i < bpe->symbol_count && !err; i++)
		if (bpe->symbols[i].id >= 0)
			err = tok_ids_append(out, &bpe->symbols[i].id, 1);
	return err;
}

void tok_bpe_clear(struct tok_bpe *bpe)
{
	free(bpe->symbols);
	free(bpe->heap);
}
