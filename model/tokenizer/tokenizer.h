/*
 * model/tokenizer/tokenizer.h: the inside of a kvs_tokenizer. Private to model/tokenizer/, as are all names with tok_.
 *
 * A tokenizer is data: a vocabulary, a table of merges, a flat list of stages that text passes through (added tokens,
 * normaliser, added tokens again, pre-tokeniser), the ids to put around the result, and a flat list of decoder steps.
 * The loader makes these from tokenizer.json. Nothing changes them afterwards, so any number of threads can use one
 * tokenizer.
 */
#ifndef TOK_TOKENIZER_H
#define TOK_TOKENIZER_H

#include "../model.h"

#include <stdint.h>

/* ---- growing buffers; every append is 0 or -ENOMEM ---- */

struct tok_text {
	char *data;
	size_t len, cap;
};
int tok_text_append(struct tok_text *text, const char *data, size_t len);

struct tok_ids {
	int32_t *list;
	size_t count, cap;
};
int tok_ids_append(struct tok_ids *ids, const int32_t *list, size_t count);

/* Text cut into pieces. A piece with an id is finished: it is that token. */
struct tok_piece {
	size_t at, len;
	int32_t id;    /* -1: still text */
	bool at_start; /* it begins where the caller's text begins */
};
struct tok_pieces {
	struct tok_text text;
	struct tok_piece *list;
	size_t count, cap;
};
int tok_pieces_append(struct tok_pieces *pieces, const char *text, size_t len, int32_t id, bool at_start);
void tok_pieces_clear(struct tok_pieces *pieces); /* frees */

/*
 * Room for one more element in a list of `count` elements and room for *cap; NULL: out of memory, the list is
 * unchanged.
 */
void *tok_grow(void *list, size_t count, size_t *cap, size_t element_bytes);

/* ---- UTF-8 ---- */

enum tok_utf8 { TOK_UTF8_OK, TOK_UTF8_INVALID, TOK_UTF8_CUT };
/*
 * Classify the character at the start of `bytes` (count > 0). OK: *len is its length. INVALID: *len is the length of the
 * maximal subpart that one U+FFFD replaces. CUT: valid so far, but `bytes` ends within it, and *len is `count`.
 */
enum tok_utf8 tok_utf8_look(const char *bytes, size_t count, size_t *len);
uint32_t tok_utf8_code(const char *bytes, size_t len); /* of a character that is OK */
size_t tok_utf8_put(uint32_t code, char out[4]);
int tok_utf8_repair(const char *bytes, size_t count, struct tok_text *out); /* appends, U+FFFD for what is invalid */
bool tok_unicode_is_space(uint32_t code);                                   /* White_Space */
bool tok_unicode_is_word(uint32_t code);                                    /* \w of Unicode TR 18 */

/*
 * Characters that PCRE2 and utf8proc may classify otherwise than Hugging Face tokenizers, which has Unicode 16.0.
 * `stand_in`, on which all agree, is matched in their place. Its category and length in bytes are the same
 * (stand_ins.c).
 */
struct tok_stand_in {
	uint32_t first, last, stand_in;
};
extern const struct tok_stand_in tok_stand_ins[], tok_later_numbers[];
extern const size_t tok_stand_ins_count, tok_later_numbers_count;
/* The character to match in place of `code`, mostly itself. `later_numbers`: with the numbers of Unicode 17.0. */
uint32_t tok_unicode_stand_in(uint32_t code, bool later_numbers);
/* A copy of a text with stand-ins, of the same length, which the caller frees; NULL if it needs none. -ENOMEM. */
int tok_unicode_stand_in_text(const char *text, size_t len, bool later_numbers, char **out);

#define TOK_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- vocabulary ---- */

/* Larger ids are refused: no model comes near, and a hostile file must not make us allocate for one. */
#define TOK_MAX_TOKEN_ID ((1 << 21) - 1)

struct tok_token {
	uint32_t at, len; /* of its text; at TOK_NO_TOKEN: no token has this id */
	bool special;     /* decode with skip_special leaves it out */
};
#define TOK_NO_TOKEN UINT32_MAX

struct tok_slot {
	uint32_t tag; /* of the text's hash: texts are compared only where it is equal */
	int32_t id;   /* -1: a free slot */
};
/* Text to id by open addressing, id to text by index; all texts in one arena. */
struct tok_vocab {
	struct tok_text arena;
	struct tok_token *tokens; /* [ids] */
	int32_t ids;
	struct tok_slot *slots; /* [slot_count], a power of two, at most half full */
	size_t slot_count, texts;
};
int tok_vocab_init(struct tok_vocab *vocab, size_t tokens, int32_t ids); /* -ENOMEM */
void tok_vocab_clear(struct tok_vocab *vocab);
/* -EEXIST: the id has a text. A text that is there already gets this id, and `texts` does not grow. */
int tok_vocab_add(struct tok_vocab *vocab, const char *text, size_t len, int32_t id);
int32_t tok_vocab_find(const struct tok_vocab *vocab, const char *text, size_t len); /* -1: none */
const char *tok_vocab_text(const struct tok_vocab *vocab, int32_t id, size_t *len);  /* NULL: none */

/* A pair of numbers to a pair of numbers: merges (left, right) -> (rank, id), and the edges of a trie. */
struct tok_pair_slot {
	uint64_t key;
	uint32_t rank;
	int32_t id; /* -1: a free slot */
};
struct tok_pair_map {
	struct tok_pair_slot *slots;
	size_t slot_count, used;
};
int tok_pair_map_reserve(struct tok_pair_map *pairs, size_t count); /* of an empty one; -ENOMEM */
int tok_pair_map_put(
	struct tok_pair_map *pairs, uint32_t a, uint32_t b, uint32_t rank, int32_t id); /* replaces; -ENOMEM */
const struct tok_pair_slot *tok_pair_map_find(
	const struct tok_pair_map *pairs, uint32_t a, uint32_t b); /* NULL: none */

/* ---- regular expressions ---- */

enum tok_pattern {
	TOK_PATTERN_LITERAL, /* a text, not an expression */
	TOK_PATTERN_REGEX,   /* written for Oniguruma, which Hugging Face uses */
	TOK_PATTERN_NUMBERS, /* the same, with the numbers of Unicode 17.0 */
};

typedef struct tok_regex tok_regex;
/*
 * Compile a pattern; `where` names the field. -EINVAL (it is damaged, or has a construct that PCRE2 reads otherwise),
 * -ENOMEM.
 */
int tok_regex_create(const char *pattern, enum tok_pattern kind, const char *file, const char *where, tok_regex **out);
void tok_regex_free(tok_regex *regex);
/*
 * Call `found` for every match in `text` and for the text between matches, in order; together the pieces are the text.
 * Stops at the first result that is not 0, and returns it. -EINVAL (the pattern needs more steps than we allow),
 * -ENOMEM.
 */
int tok_regex_each(const tok_regex *regex, const char *text, size_t len,
	int (*found)(void *arg, size_t start, size_t end, bool match), void *arg);

/* ---- added tokens ---- */

struct tok_added {
	char *content;
	int32_t id;
	bool single_word, lstrip, rstrip, normalized, special;
};
/* A trie over bytes: finding the longest token at a place takes time in proportion to its length. */
struct tok_trie {
	struct tok_pair_map edges; /* (node, byte) -> node */
	int32_t *ends;             /* [nodes] index of the token that ends here, -1 */
	size_t nodes, cap;
};
int tok_trie_add(struct tok_trie *trie, const char *text, size_t len, int32_t index); /* -EEXIST, -ENOMEM */
void tok_trie_clear(struct tok_trie *trie);
int32_t tok_trie_longest(const struct tok_trie *trie, const char *text, size_t len, size_t *matched); /* -1: none */

/* ---- stages of encode ---- */

enum tok_stage_kind {
	TOK_STAGE_ADDED,     /* cut out added tokens */
	TOK_STAGE_NFC,       /* normalise */
	TOK_STAGE_PREPEND,   /* put `text` in front */
	TOK_STAGE_REPLACE,   /* replace every match by `text` */
	TOK_STAGE_SPLIT,     /* cut at matches */
	TOK_STAGE_METASPACE, /* spaces become `text`, and one is put in front according to `prepend` */
	TOK_STAGE_SPACE,     /* put a space in front of a piece that has none */
	TOK_STAGE_BYTES,     /* each byte becomes GPT-2's character for it */
};
enum tok_behavior { TOK_ISOLATED, TOK_REMOVED, TOK_MERGED_WITH_PREVIOUS, TOK_MERGED_WITH_NEXT };
enum tok_prepend { TOK_PREPEND_NEVER, TOK_PREPEND_FIRST, TOK_PREPEND_ALWAYS };

struct tok_stage {
	enum tok_stage_kind kind;
	bool normalized; /* ADDED: which of the two tries */
	char *text;
	tok_regex *regex;
	bool invert;
	enum tok_behavior behavior;
	enum tok_prepend prepend;
};

/* ---- steps of decode ---- */

enum tok_step_kind {
	TOK_STEP_REPLACE,
	TOK_STEP_BYTE_FALLBACK,
	TOK_STEP_FUSE,
	TOK_STEP_STRIP,
	TOK_STEP_METASPACE,
	TOK_STEP_BYTES
};
struct tok_step {
	enum tok_step_kind kind;
	char *pattern, *text; /* REPLACE: `pattern` becomes `text`; STRIP, METASPACE: `pattern` is the one character */
	int start;            /* STRIP: the most to remove at the front */
	bool drop_first;      /* METASPACE: the first token loses every mark */
};
#define TOK_MAX_STEPS 8

struct kvs_tokenizer {
	char *file; /* its name in messages */
	struct tok_vocab vocab;
	struct tok_pair_map merges;
	struct tok_pair_map joints; /* pairs of characters that some merge may join; complete if has_joints */
	bool has_joints;
	bool ignore_merges, fuse_unk, byte_fallback;
	int32_t unk;              /* -1: none */
	int32_t byte_tokens[256]; /* of <0x00> .. <0xFF>; -1: none */

	struct tok_vocab display; /* the texts of added tokens for decode, in their normal form */
	struct tok_added *added;
	size_t added_count;
	struct tok_trie tries[2]; /* for raw text, for normalised text */

	struct tok_stage *stages;
	size_t stage_count, stage_cap, normalizer_first, normalizer_end;
	struct tok_ids before, after; /* put around a text by the post-processor */

	struct tok_step steps[TOK_MAX_STEPS];
	size_t step_count;
	bool decoder; /* false: tokens are joined by spaces, as in HF */
};

/* ---- loading ---- */

struct tok_span {
	const char *at;
	size_t len;
};
struct tok_merge {
	struct tok_span left, right; /* right.at NULL: not a merge, but the version in the first line of an old list */
};
/*
 * A vocabulary and its merges as texts, which are in the file or in `arena`. A GGUF file's vocabulary needs no texts: it is made
 * already, and handed over.
 */
struct tok_lists {
	bool read; /* false: they are still in the JSON */
	struct tok_span *tokens;
	int32_t *ids;
	size_t token_count;
	struct tok_merge *merges;
	size_t merge_count;
	char *arena;
	struct tok_vocab vocab;
};
void tok_lists_clear(struct tok_lists *lists);
bool tok_merge_split(struct tok_merge *merge); /* left is "a b" of an older file; false: it is not */

struct json_t;
/* tokenizer.json without the help of jansson where it is long (scan.c); false: nothing was read, parse the whole. */
bool tok_scan(const char *json, size_t bytes, const char *file, struct tok_lists *lists, struct json_t **out);

/* The parts of the loader, in the order in which they must run; each leaves a message. */
struct model_json;
int tok_load_model(struct kvs_tokenizer *tok, const struct model_json *root, struct tok_lists *lists);
int tok_load_stages(struct kvs_tokenizer *tok, const struct model_json *root);
int tok_load_template(struct kvs_tokenizer *tok, const struct model_json *root);
int tok_load_decoder(struct kvs_tokenizer *tok, const struct model_json *root);

/* The tokenizer.json that says what a GGUF file's keys say, and its lists. The caller decrefs *out. -EINVAL, -ENOMEM. */
struct model_gguf;
int tok_gguf_json(const struct model_gguf *gguf, struct tok_lists *lists, struct json_t **out);
int tok_gguf_parse(const struct model_gguf *gguf, struct kvs_tokenizer **out);

/* Run stages first .. end-1 on `pieces`. */
int tok_stages_run(const struct kvs_tokenizer *tok, size_t first, size_t end, struct tok_pieces *pieces);

/* NFC of `len` bytes of valid UTF-8, appended to `out`. */
int tok_unicode_nfc(const char *text, size_t len, struct tok_text *out);

/* Merges words; its buffers are reused from word to word. */
struct tok_bpe {
	const struct kvs_tokenizer *tok;
	struct tok_symbol *symbols;
	size_t symbol_count, symbol_cap;
	struct tok_candidate *heap;
	size_t heap_count, heap_cap;
};
int tok_bpe_find_joints(struct kvs_tokenizer *tok); /* for texts that are one word; -ENOMEM, without a message */
int tok_bpe_word(struct tok_bpe *bpe, const char *word, size_t len, struct tok_ids *out); /* -ENOMEM */
void tok_bpe_clear(struct tok_bpe *bpe);

/* The character that GPT-2 writes for a byte, and back (-1: for no byte). */
uint32_t tok_byte_to_code(unsigned char byte);
int tok_code_to_byte(uint32_t code);

#endif
