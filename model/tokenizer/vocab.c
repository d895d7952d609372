/*
 * model/tokenizer/vocab.c: the tables of a tokenizer.
 *
 * Text to id, pair to merge, and the trie of added tokens, all by open addressing in tables that are at most half full.
 * Also the growing buffers that the tokenizer's other files use. Sizes are checked before they are multiplied; nothing
 * is ever removed.
 */
#include "tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *tok_grow(void *list, size_t count, size_t *cap, size_t element_bytes)
{
	size_t cap_new = *cap ? *cap + *cap / 2 : 16;
	void *grown;

	if (count < *cap)
		return list;
	grown = reallocarray(list, cap_new, element_bytes);
	if (grown)
		*cap = cap_new;
	return grown;
}

int tok_text_append(struct tok_text *text, const char *data, size_t len)
{
	if (len > text->cap - text->len) {
		size_t cap = text->cap + text->cap / 2 > text->len + len ? text->cap + text->cap / 2 : text->len + len;
		char *grown = realloc(text->data, cap);

		if (!grown)
			return -ENOMEM;
		text->data = grown;
		text->cap = cap;
	}
	if (len)
		memcpy(text->data + text->len, data, len);
	text->len += len;
	return 0;
}

int tok_ids_append(struct tok_ids *ids, const int32_t *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int32_t *grown = tok_grow(ids->list, ids->count, &ids->cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		ids->list = grown;
		ids->list[ids->count++] = list[i];
	}
	return 0;
}

int tok_pieces_append(struct tok_pieces *pieces, const char *text, size_t len, int32_t id, bool at_start)
{
	struct tok_piece *grown;

	if (!len && id < 0) /* an empty piece has no tokens */
		return 0;
	grown = tok_grow(pieces->list, pieces->count, &pieces->cap, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	pieces->list = grown;
	grown[pieces->count++] = (struct tok_piece){pieces->text.len, len, id, at_start};
	return tok_text_append(&pieces->text, text, len);
}

void tok_pieces_clear(struct tok_pieces *pieces)
{
	free(pieces->text.data);
	free(pieces->list);
	memset(pieces, 0, sizeof(*pieces));
}

/* ---- text to id ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15u; /* 2^64 over the golden ratio: odd, bits evenly spread */
	return x ^ (x >> 29);
}

static uint64_t hash_text(const char *text, size_t len)
{
	uint64_t hash = len, word;

	for (; len >= 8; text += 8, len -= 8) {
		memcpy(&word, text, 8);
		hash = mix(hash ^ word);
	}
	word = 0;
	memcpy(&word, text, len);
	return mix(mix(hash ^ word));
}

int tok_vocab_init(struct tok_vocab *vocab, size_t tokens, int32_t ids)
{
	size_t slots = 16;

	while (slots < 2 * tokens)
		slots *= 2;
	memset(vocab, 0, sizeof(*vocab));
	vocab->slots = malloc(slots * sizeof(*vocab->slots));
	vocab->tokens = malloc(((size_t)ids + 1) * sizeof(*vocab->tokens));
	if (!vocab->slots || !vocab->tokens) {
		tok_vocab_clear(vocab);
		return -ENOMEM;
	}
	vocab->slot_count = slots;
	vocab->ids = ids;
	memset(vocab->slots, 0xff, slots * sizeof(*vocab->slots));
	for (int32_t id = 0; id < ids; id++)
		vocab->tokens[id] = (struct tok_token){.at = TOK_NO_TOKEN};
	return 0;
}

void tok_vocab_clear(struct tok_vocab *vocab)
{
	free(vocab->arena.data);
	free(vocab->slots);
	free(vocab->tokens);
	memset(vocab, 0, sizeof(*vocab));
}

/* The slot that holds `text`, or the free one where it would go. */
static struct tok_slot *vocab_slot(const struct tok_vocab *vocab, const char *text, size_t len, uint32_t *tag)
{
	uint64_t hash = hash_text(text, len);
	size_t at = hash & (vocab->slot_count - 1);

	*tag = (uint32_t)(hash >> 32);
	for (; vocab->slots[at].id >= 0; at = (at + 1) & (vocab->slot_count - 1)) {
		if (vocab->slots[at].tag != *tag)
			continue;
		const struct tok_token *token = &vocab->tokens[vocab->slots[at].id];
		if (token->len == len && !memcmp(vocab->arena.data + token->at, text, len))
			break;
	}
	return &vocab->slots[at];
}

int tok_vocab_add(struct tok_vocab *vocab, const char *text, size_t len, int32_t id)
{
	size_t at = vocab->arena.len;
	struct tok_slot *slot;
	uint32_t tag;

	if (vocab->tokens[id].at != TOK_NO_TOKEN)
		return -EEXIST;
	if (len > UINT32_MAX - 2 - at || tok_text_append(&vocab->arena, text, len) ||
		tok_text_append(&vocab->arena, "", 1))
		return -ENOMEM;
	slot = vocab_slot(vocab, text, len, &tag);
	vocab->texts += slot->id < 0;
	*slot = (struct tok_slot){tag, id};
	vocab->tokens[id] = (struct tok_token){.at = (uint32_t)at, .len = (uint32_t)len};
	return 0;
}

int32_t tok_vocab_find(const struct tok_vocab *vocab, const char *text, size_t len)
{
	uint32_t tag;

	return vocab_slot(vocab, text, len, &tag)->id;
}

const char *tok_vocab_text(const struct tok_vocab *vocab, int32_t id, size_t *len)
{
	if (id < 0 || id >= vocab->ids || vocab->tokens[id].at == TOK_NO_TOKEN)
		return NULL;
	*len = vocab->tokens[id].len;
	return vocab->arena.data + vocab->tokens[id].at;
}

/* ---- pairs ---- */

static size_t pair_slot(const struct tok_pair_map *pairs, uint64_t key)
{
	size_t slot = mix(mix(key)) & (pairs->slot_count - 1);

	while (pairs->slots[slot].id >= 0 && pairs->slots[slot].key != key)
		slot = (slot + 1) & (pairs->slot_count - 1);
	return slot;
}

static int pairs_resize(struct tok_pair_map *pairs, size_t slot_count)
{
	struct tok_pair_map larger = {.slot_count = slot_count, .used = pairs->used};

	larger.slots = reallocarray(NULL, slot_count, sizeof(*larger.slots));
	if (!larger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < larger.slot_count; i++)
		larger.slots[i].id = -1;
	for (size_t i = 0; i < pairs->slot_count; i++)
		if (pairs->slots[i].id >= 0)
			larger.slots[pair_slot(&larger, pairs->slots[i].key)] = pairs->slots[i];
	free(pairs->slots);
	*pairs = larger;
	return 0;
}

int tok_pair_map_reserve(struct tok_pair_map *pairs, size_t count)
{
	size_t slots = 64;

	while (slots / 2 < count)
		slots *= 2;
	return pairs_resize(pairs, slots);
}

int tok_pair_map_put(struct tok_pair_map *pairs, uint32_t a, uint32_t b, uint32_t rank, int32_t id)
{
	uint64_t key = (uint64_t)a << 32 | b;
	size_t slot;

	if (2 * pairs->used >= pairs->slot_count && pairs_resize(pairs, pairs->slot_count ? 2 * pairs->slot_count : 64))
		return -ENOMEM;
	slot = pair_slot(pairs, key);
	pairs->used += pairs->slots[slot].id < 0;
	pairs->slots[slot] = (struct tok_pair_slot){key, rank, id};
	return 0;
}

const struct tok_pair_slot *tok_pair_map_find(const struct tok_pair_map *pairs, uint32_t a, uint32_t b)
{
	const struct tok_pair_slot *pair;

	if (!pairs->slot_count)
		return NULL;
	pair = &pairs->slots[pair_slot(pairs, (uint64_t)a << 32 | b)];
	return pair->id >= 0 ? pair : NULL;
}

/* ---- trie ---- */

static int trie_node(struct tok_trie *trie)
{
	int32_t *grown = tok_grow(trie->ends, trie->nodes, &trie->cap, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	trie->ends = grown;
	trie->ends[trie->nodes++] = -1;
	return 0;
}

int tok_trie_add(struct tok_trie *trie, const char *text, size_t len, int32_t index)
{
	uint32_t node = 0;

	if (!trie->nodes && trie_node(trie))
		return -ENOMEM;
	for (size_t i = 0; i < len; i++) {
		const struct tok_pair_slot *edge = tok_pair_map_find(&trie->edges, node, (unsigned char)text[i]);
		uint32_t next = edge ? (uint32_t)edge->id : (uint32_t)trie->nodes;

		if (!edge && (trie_node(trie) ||
				     tok_pair_map_put(&trie->edges, node, (unsigned char)text[i], 0, (int32_t)next)))
			return -ENOMEM;
		node = next;
	}
	if (trie->ends[node] >= 0)
		return -EEXIST;
	trie->ends[node] = index;
	return 0;
}

void tok_trie_clear(struct tok_trie *trie)
{
	free(trie->edges.slots);
	free(trie->ends);
	memset(trie, 0, sizeof(*trie));
}

int32_t tok_trie_longest(const struct tok_trie *trie, const char *text, size_t len, size_t *matched)
{
	uint32_t node = 0;
	int32_t best = -1;

	for (size_t i = 0; i < len; i++) {
		const struct tok_pair_slot *edge = tok_pair_map_find(&trie->edges, node, (unsigned char)text[i]);

		if (!edge)
			break;
		node = (uint32_t)edge->id;
		if (trie->ends[node] >= 0) {
			best = trie->ends[node];
			*matched = i + 1;
		}
	}
	return best;
}

int kvs_tokenizer_vocab(const kvs_tokenizer *tok)
{
	int32_t ids = tok->vocab.ids;

	for (size_t i = 0; i < tok->added_count; i++)
		if (tok->added[i].id >= ids)
			ids = tok->added[i].id + 1;
	return ids;
}
