/*
 * model/tokenizer/regex.h: the inside of a tok_regex. Private to pattern.c, program.c, charset.c and regex.c.
 *
 * A pattern becomes a tree (pattern.c), the tree a program (program.c), and the program runs on text by backtracking
 * (regex.c). A set of characters is one bit for each code point, so that every property, negation and intersection
 * is exact and costs one look.
 */
#ifndef TOK_REGEX_H
#define TOK_REGEX_H

#include "tokenizer.h"

/* ---- sets ---- */

#define TOK_SET_WORDS (TOK_CODES / 64)
struct tok_set {
	uint64_t bits[TOK_SET_WORDS];
};

static inline bool tok_set_has(const struct tok_set *set, uint32_t code)
{
	return set->bits[code >> 6] >> (code & 63) & 1;
}
void tok_set_add(struct tok_set *set, uint32_t first, uint32_t last);
void tok_set_add_spaces(struct tok_set *set);  /* White_Space */
void tok_set_add_words(struct tok_set *set);   /* \w */
void tok_set_add_numbers(struct tok_set *set); /* of Unicode 17 */
void tok_set_add_folds(struct tok_set *set);   /* the other case of every ASCII letter in it */
bool tok_set_has_only_ascii(const struct tok_set *set);
/* A category ("L", "Lu") or a script ("Han") in any case; false: neither. */
bool tok_set_add_property(struct tok_set *set, const char *name, size_t len);
void tok_set_invert(struct tok_set *set);
void tok_set_unite(struct tok_set *set, const struct tok_set *with);
void tok_set_intersect(struct tok_set *set, const struct tok_set *with);

/* Sets of one regex; equal ones are one. */
struct tok_sets {
	struct tok_set **list;
	size_t count, cap;
};
#define TOK_MAX_SETS 256                                                /* 35 MB; patterns in use have under 30 */
int tok_sets_take(struct tok_sets *sets, struct tok_set *set);          /* index; set is theirs now. -ENOMEM, -E2BIG */
int tok_sets_add_code(struct tok_sets *sets, uint32_t code, bool fold); /* the set of one character */
void tok_sets_clear(struct tok_sets *sets);

/* ---- trees ---- */

enum tok_node_kind {
	TOK_NODE_CODE, /* one character */
	TOK_NODE_SET,
	TOK_NODE_ASSERT, /* a place; `value` is the op */
	TOK_NODE_SEQUENCE,
	TOK_NODE_CHOICE,
	TOK_NODE_REPEAT,
	TOK_NODE_ATOMIC,
	TOK_NODE_AHEAD,
	TOK_NODE_BEHIND,
};
enum tok_repeat { TOK_GREEDY, TOK_LAZY, TOK_POSSESSIVE };
#define TOK_FOREVER UINT32_MAX

struct tok_node {
	enum tok_node_kind kind;
	uint32_t value;      /* code, set or op */
	int child, next;     /* places in the tree; -1: none */
	uint32_t min, max;   /* REPEAT */
	enum tok_repeat how; /* REPEAT */
	bool negative;       /* AHEAD, BEHIND */
};
struct tok_tree {
	struct tok_node *nodes;
	size_t count, cap;
	int root;
};
/* -EINVAL with the reason in `why` (at most `room` bytes), -ENOMEM. Tree and sets are the caller's to free, also then. */
int tok_pattern_parse(const char *pattern, struct tok_tree *tree, struct tok_sets *sets, char *why, size_t room);

/* ---- programs ---- */

enum tok_op_kind {
	TOK_OP_END,
	TOK_OP_BYTES,  /* `b` bytes of the literals from `a` on */
	TOK_OP_SET,    /* a character of set `a` */
	TOK_OP_SPAN,   /* `min` to `max` characters of set `a` */
	TOK_OP_SPLIT,  /* go on at `a`, and if that fails at `b` */
	TOK_OP_JUMP,   /* to `a` */
	TOK_OP_BACK,   /* `a` characters back */
	TOK_OP_HOLD,   /* register `a` becomes the height of the stack */
	TOK_OP_CUT,    /* the stack falls to the height in register `a` */
	TOK_OP_MARK,   /* register `a` becomes the place in the text */
	TOK_OP_RETURN, /* to the place in register `a` */
	TOK_OP_MOVED,  /* to `b` where the place is still that in register `a` */
	TOK_OP_FAIL,
	TOK_OP_LINE_START,
	TOK_OP_LINE_END,
	TOK_OP_TEXT_START,
	TOK_OP_TEXT_END,
};
struct tok_op {
	enum tok_op_kind kind;
	enum tok_repeat how;
	uint32_t a, b, min, max;
};
struct tok_program {
	struct tok_op *ops;
	size_t count, cap;
	struct tok_text literals;
	uint32_t registers;
	uint64_t first[4];    /* bytes that a match can start with, one bit each */
	bool starts_anywhere; /* it can be empty, or its first byte is not known */
};
/* -E2BIG, -EINVAL (a look behind whose length is not fixed), -ENOTSUP (a count of what can be empty), -ENOMEM. */
int tok_program_make(const struct tok_tree *tree, struct tok_sets *sets, struct tok_program *program);
/* One to `most` characters of a set, and nothing else. */
int tok_program_span(uint32_t set, uint32_t most, struct tok_sets *sets, struct tok_program *program);

#endif
