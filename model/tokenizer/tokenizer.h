/*
 * model/tokenizer/tokenizer.h: the inside of a kvs_tokenizer. Private to model/tokenizer/.
 *
 * A tokenizer is data: a vocabulary, a table of merges, a flat list of stages that text goes through on its way to the
 * model (added tokens, normaliser, added tokens again, pre-tokeniser), the ids that go around the result, and a flat list
 * of decoder steps. The loader makes these from tokenizer.json; nothing changes them afterwards, so that one tokenizer
 * serves any number of threads.
 */
#ifndef KVS_TOKENIZER_H
#define KVS_TOKENIZER_H

#include "../model.h"

#include <stdint.h>

/* ---- growing buffers; every append is 0 or -ENOMEM ---- */

struct kvs_text {
	char *data;
	size_t len, cap;
};
int kvs_text_append(struct kvs_text *text, const char *data, size_t len);

struct kvs_ids {
	int32_t *list;
	size_t count, cap;
};
int kvs_ids_append(struct kvs_ids *ids, const int32_t *list, size_t count);

/* Text cut into pieces. A piece with an id is done: it is that token. */
struct kvs_piece {
	size_t at, len;
	int32_t id;    /* -1: still text */
	bool at_start; /* it begins where the caller's text begins */
};
struct kvs_pieces {
	struct kvs_text text;
	struct kvs_piece *list;
	size_t count, cap;
};
int kvs_pieces_append(struct kvs_pieces *pieces, const char *text, size_t len, int32_t id, bool at_start);
void kvs_pieces_clear(struct kvs_pieces *pieces); /* frees */

/* Room for one element more in a list of `count` with room for *cap; NULL when there is no memory (the list stays). */
void *kvs_grow(void *list, size_t count, size_t *cap, size_t element_bytes);

/* ---- UTF-8 ---- */

enum kvs_utf8 { KVS_UTF8_OK, KVS_UTF8_INVALID, KVS_UTF8_CUT };
/*
 * Look at the character that starts `bytes` (count > 0): OK and its length; INVALID and the length of the maximal subpart
 * that one U+FFFD stands for; CUT when it is right so far but `bytes` ends within it (*len is then `count`).
 */
enum kvs_utf8 kvs_utf8_look(const char *bytes, size_t count, size_t *len);
uint32_t kvs_utf8_code(const char *bytes, size_t len); /* of a character that is OK */
size_t kvs_utf8_put(uint32_t code, char out[4]);
int kvs_utf8_repair(const char *bytes, size_t count, struct kvs_text *out); /* appends, U+FFFD for what is invalid */
bool kvs_unicode_is_space(uint32_t code);                                   /* White_Space */
bool kvs_unicode_is_word(uint32_t code);                                    /* \w of Unicode TR 18 */

#define KVS_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- vocabulary ---- */

/* Ids above this are refused: no model comes near, and a hostile file must not make us reserve for it. */
#define KVS_MAX_TOKEN_ID ((1 << 21) - 1)

struct kvs_token {
	uint32_t at, len; /* of its text; at KVS_NO_TOKEN: nobody has this id */
	bool special;     /* left out by decode with skip_special */
};
#define KVS_NO_TOKEN UINT32_MAX

/* Text to id by open addressing, id to text by index; all texts in one arena. */
struct kvs_vocab {
	struct kvs_text arena;
	struct kvs_token *tokens; /* [ids] */
	int32_t ids;
	int32_t *slots; /* [slot_count], a power of two, at most half full; -1: free */
	size_t slot_count;
};
int kvs_vocab_init(struct kvs_vocab *vocab, size_t tokens, int32_t ids); /* -ENOMEM */
void kvs_vocab_clear(struct kvs_vocab *vocab);
int kvs_vocab_add(struct kvs_vocab *vocab, const char *text, size_t len, int32_t id); /* -EEXIST: the id has a text */
int32_t kvs_vocab_find(const struct kvs_vocab *vocab, const char *text, size_t len);  /* -1: none */
const char *kvs_vocab_text(const struct kvs_vocab *vocab, int32_t id, size_t *len);   /* NULL: none */

/* A pair of numbers to a pair of numbers: merges (left, right) -> (rank, id), and the edges of a trie. */
struct kvs_pair {
	uint64_t key;
	uint32_t rank;
	int32_t id; /* -1: a free slot */
};
struct kvs_pairs {
	struct kvs_pair *slots;
	size_t slot_count, used;
};
int kvs_pairs_put(struct kvs_pairs *pairs, uint32_t a, uint32_t b, uint32_t rank, int32_t id); /* replaces; -ENOMEM */
const struct kvs_pair *kvs_pairs_find(const struct kvs_pairs *pairs, uint32_t a, uint32_t b);  /* NULL: none */

/* ---- regular expressions ---- */

typedef struct kvs_regex kvs_regex;
/*
 * Compile a pattern that was written for Oniguruma (what Hugging Face uses); `where` names the field. -EINVAL when it is
 * damaged or has a construct that PCRE2 reads otherwise, -ENOMEM.
 */
int kvs_regex_create(const char *pattern, bool literal, const char *file, const char *where, kvs_regex **out);
void kvs_regex_free(kvs_regex *regex);
/*
 * Call `found` for every piece of `text` in order, matches and what lies between them; together they are the text.
 * Returns what `found` returned if that was not 0; -EINVAL (the pattern needs more steps than we allow), -ENOMEM.
 */
int kvs_regex_each(const kvs_regex *regex, const char *text, size_t len,
	int (*found)(void *arg, size_t start, size_t end, bool match), void *arg);

/* ---- added tokens ---- */

struct kvs_added {
	char *content;
	int32_t id;
	bool single_word, lstrip, rstrip, normalized, special;
};
/* A trie over bytes: the longest token at a place is found in time that its length bounds. */
struct kvs_trie {
	struct kvs_pairs edges; /* (node, byte) -> node */
	int32_t *ends;          /* [nodes] index of the token that ends here, -1 */
	size_t nodes, cap;
};
int kvs_trie_add(struct kvs_trie *trie, const char *text, size_t len, int32_t index); /* -EEXIST, -ENOMEM */
void kvs_trie_clear(struct kvs_trie *trie);
int32_t kvs_trie_longest(const struct kvs_trie *trie, const char *text, size_t len, size_t *matched); /* -1: none */

/* ---- stages of encode ---- */

enum kvs_stage_kind {
	KVS_STAGE_ADDED,     /* cut out added tokens */
	KVS_STAGE_NFC,       /* normalise */
	KVS_STAGE_PREPEND,   /* put `text` before */
	KVS_STAGE_REPLACE,   /* put `text` for every match */
	KVS_STAGE_SPLIT,     /* cut at matches */
	KVS_STAGE_METASPACE, /* space to `text`, and one before the piece as `prepend` says */
	KVS_STAGE_SPACE,     /* put a space before a piece that has none */
	KVS_STAGE_BYTES,     /* each byte becomes GPT-2's character for it */
};
enum kvs_behavior { KVS_ISOLATED, KVS_REMOVED, KVS_MERGED_WITH_PREVIOUS, KVS_MERGED_WITH_NEXT };
enum kvs_prepend { KVS_PREPEND_NEVER, KVS_PREPEND_FIRST, KVS_PREPEND_ALWAYS };

struct kvs_stage {
	enum kvs_stage_kind kind;
	bool normalized; /* ADDED: which of the two tries */
	char *text;
	kvs_regex *regex;
	bool invert;
	enum kvs_behavior behavior;
	enum kvs_prepend prepend;
};

/* ---- steps of decode ---- */

enum kvs_step_kind {
	KVS_STEP_REPLACE,
	KVS_STEP_BYTE_FALLBACK,
	KVS_STEP_FUSE,
	KVS_STEP_STRIP,
	KVS_STEP_METASPACE,
	KVS_STEP_BYTES
};
struct kvs_step {
	enum kvs_step_kind kind;
	char *pattern, *text; /* REPLACE: a string for a string; STRIP, METASPACE: the one character in `pattern` */
	int start;            /* STRIP: at most so many at the front */
	bool drop_first;      /* METASPACE: the first token loses it altogether */
};
#define KVS_MAX_STEPS 8

struct kvs_tokenizer {
	char *file; /* as messages call it */
	struct kvs_vocab vocab;
	struct kvs_pairs merges;
	bool ignore_merges, fuse_unk, byte_fallback;
	int32_t unk;              /* -1: none */
	int32_t byte_tokens[256]; /* of <0x00> .. <0xFF>; -1: none */

	struct kvs_vocab display; /* what decode makes of an id: the vocabulary's text, or the added token's */
	struct kvs_added *added;
	size_t added_count;
	struct kvs_trie tries[2]; /* on raw text, on normalised text */

	struct kvs_stage *stages;
	size_t stage_count, stage_cap, normalizer_first, normalizer_end;
	struct kvs_ids before, after; /* what the post-processor puts around a text */

	struct kvs_step steps[KVS_MAX_STEPS];
	size_t step_count;
	bool decoder; /* false: tokens are joined by spaces, as HF does */
};

/* The loader's parts, in the order in which they need each other; each leaves a message. */
struct kvs_json;
int kvs_tokenizer_load_model(struct kvs_tokenizer *tok, const struct kvs_json *root);
int kvs_tokenizer_load_stages(struct kvs_tokenizer *tok, const struct kvs_json *root);
int kvs_tokenizer_load_template(struct kvs_tokenizer *tok, const struct kvs_json *root);
int kvs_tokenizer_load_decoder(struct kvs_tokenizer *tok, const struct kvs_json *root);

/* Run stages first .. end-1 over what is in `pieces`. */
int kvs_stages_run(const struct kvs_tokenizer *tok, size_t first, size_t end, struct kvs_pieces *pieces);

/* NFC of `len` bytes of valid UTF-8, appended to `out`. */
int kvs_unicode_nfc(const char *text, size_t len, struct kvs_text *out);

/* Merges words; keeps its scratch from word to word. */
struct kvs_bpe {
	const struct kvs_tokenizer *tok;
	struct kvs_symbol *symbols;
	size_t symbol_count, symbol_cap;
	struct kvs_candidate *heap;
	size_t heap_count, heap_cap;
};
int kvs_bpe_word(struct kvs_bpe *bpe, const char *word, size_t len, struct kvs_ids *out); /* -ENOMEM */
void kvs_bpe_clear(struct kvs_bpe *bpe);

/* The character that GPT-2 writes for a byte, and back (-1: of no byte). */
uint32_t kvs_byte_to_code(unsigned char byte);
int kvs_code_to_byte(uint32_t code);

#endif
