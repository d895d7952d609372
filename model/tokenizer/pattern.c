/*
 * model/tokenizer/pattern.c: a regular expression's text to its tree.
 *
 * The language is Oniguruma's for Ruby, as far as tokenizers use it; a construct that is not known, or that we could
 * read otherwise than Oniguruma, is refused by name.
 */
#include "regex.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 50     /* of groups and classes */
#define MAX_COUNT 100000 /* in braces: Oniguruma's own limit */

struct parse {
	const char *in; /* what is left */
	struct tok_tree *tree;
	struct tok_sets *sets;
	bool fold; /* inside (?i: */
	int depth;
	uint32_t folded; /* the letter before, if it was one inside (?i: */
	char *why;
	size_t room;
};

static int refuse(struct parse *p, size_t len)
{
	snprintf(p->why, p->room, ": \"%.*s\" in a regular expression: not supported", (int)len, p->in);
	return -EINVAL;
}

static int damaged(struct parse *p, const char *reason)
{
	snprintf(p->why, p->room, " is no regular expression that we can use: %s", reason);
	return -EINVAL;
}

static int add_node(struct parse *p, struct tok_node node)
{
	struct tok_tree *tree = p->tree;
	struct tok_node *grown = tok_grow(tree->nodes, tree->count, &tree->cap, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	tree->nodes = grown;
	grown[tree->count] = node;
	return (int)tree->count++;
}

static int add_leaf(struct parse *p, enum tok_node_kind kind, uint32_t value)
{
	return add_node(p, (struct tok_node){.kind = kind, .value = value, .child = -1, .next = -1});
}

/* The set belongs to the regex afterwards, or is freed. */
static int add_set(struct parse *p, struct tok_set *set)
{
	int index = tok_sets_take(p->sets, set);

	if (index == -E2BIG)
		return damaged(p, "it has too many sets of characters");
	return index < 0 ? index : add_leaf(p, TOK_NODE_SET, (uint32_t)index);
}

static uint32_t take_code(struct parse *p)
{
	size_t len;

	tok_utf8_look(p->in, strlen(p->in), &len);
	p->in += len;
	return tok_utf8_code(p->in - len, len);
}

/* ---- escapes ---- */

/* \p{NAME}, \P{NAME}, \p{^NAME} */
static int add_property(struct parse *p, struct tok_set *set)
{
	const char *close = strchr(p->in, '}'), *name = p->in + 3;
	bool negated = p->in[1] == 'P';
	struct tok_set *own;

	if (p->in[2] != '{' || !close || close - p->in > 30)
		return refuse(p, 3);
	if (*name == '^') {
		negated = !negated;
		name++;
	}
	own = calloc(1, sizeof(*own));
	if (!own)
		return -ENOMEM;
	if (!tok_set_add_property(own, name, (size_t)(close - name))) {
		free(own);
		return refuse(p, (size_t)(close - p->in) + 1);
	}
	if (negated)
		tok_set_invert(own);
	tok_set_unite(set, own);
	free(own);
	p->in = close + 1;
	return 0;
}

static int add_kind(struct parse *p, struct tok_set *set)
{
	struct tok_set *own = calloc(1, sizeof(*own));
	char c = p->in[1];

	if (!own)
		return -ENOMEM;
	if (c == 's' || c == 'S')
		tok_set_add_spaces(own);
	else if (c == 'd' || c == 'D')
		tok_set_add_property(own, "Nd", 2);
	else
		tok_set_add_words(own);
	if (strchr("SDW", c))
		tok_set_invert(own);
	tok_set_unite(set, own);
	free(own);
	p->in += 2;
	return 0;
}

/* An escape that stands for a set: \p, \s, \d, \w and their opposites. */
static bool is_set_escape(const char *in)
{
	return in[0] == '\\' && in[1] && strchr("pPsSdDwW", in[1]);
}

static int add_set_escape(struct parse *p, struct tok_set *set)
{
	return p->in[1] == 'p' || p->in[1] == 'P' ? add_property(p, set) : add_kind(p, set);
}

/* An escape that stands for one character. */
static int take_escape(struct parse *p, uint32_t *code)
{
	static const char letters[] = "rntfae", means[] = "\r\n\t\f\a\x1b";
	char c = p->in[1];
	const char *known = c ? strchr(letters, c) : NULL;

	if (c == 'x' && p->in[2] == '{') {
		size_t digits = strspn(p->in + 3, "0123456789abcdefABCDEF");

		*code = (uint32_t)strtoul(p->in + 3, NULL, 16);
		if (!digits || digits > 6 || p->in[3 + digits] != '}' || *code >= TOK_CODES ||
			(*code >= 0xd800 && *code < 0xe000))
			return refuse(p, 3);
		p->in += 4 + digits;
		return 0;
	}
	if (known) {
		*code = (unsigned char)means[known - letters];
		p->in += 2;
		return 0;
	}
	if (!c || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		return refuse(p, c ? 2 : 1);
	p->in++;
	*code = take_code(p);
	return 0;
}

/* ---- classes ---- */

static int parse_class(struct parse *p, struct tok_set *set);

static int parse_range(struct parse *p, struct tok_set *set)
{
	uint32_t first, last;
	int err = 0;

	if (*p->in == '\\')
		err = take_escape(p, &first);
	else
		first = take_code(p);
	if (err)
		return err;
	last = first;
	if (p->in[0] == '-' && p->in[1] != ']') {
		p->in++;
		if (!*p->in || *p->in == '[' || is_set_escape(p->in) || !strncmp(p->in, "&&", 2))
			return refuse(p, 2);
		err = 0;
		if (*p->in == '\\')
			err = take_escape(p, &last);
		else
			last = take_code(p);
		if (!err && last < first)
			err = damaged(p, "a range of characters is out of order");
		if (!err && p->in[0] == '-' && p->in[1] != ']') /* [a-b-c] */
			err = refuse(p, 2);
	}
	if (!err)
		tok_set_add(set, first, last);
	return err;
}

/* A class inside a class adds to it. */
static int parse_inner_class(struct parse *p, struct tok_set *set)
{
	struct tok_set *inner;
	int err;

	if (p->in[1] == ':')
		return refuse(p, 2);
	inner = calloc(1, sizeof(*inner));
	if (!inner)
		return -ENOMEM;
	err = parse_class(p, inner);
	if (!err)
		tok_set_unite(set, inner);
	free(inner);
	return err;
}

static int parse_item(struct parse *p, struct tok_set *set)
{
	int err;

	if (*p->in == '[')
		return parse_inner_class(p, set);
	if (!is_set_escape(p->in))
		return parse_range(p, set);
	err = add_set_escape(p, set);
	if (!err && p->in[0] == '-' && p->in[1] != ']')
		err = refuse(p, 2);
	return err;
}

/* Up to && or the closing bracket. */
static int parse_operand(struct parse *p, struct tok_set *set)
{
	const char *start = p->in;
	int err = 0;

	while (*p->in && *p->in != ']' && strncmp(p->in, "&&", 2) && !err)
		err = parse_item(p, set);
	if (!err && !*p->in)
		return damaged(p, "a class has no end");
	if (!err && p->in == start)
		return refuse(p, *p->in == ']' ? 1 : 2);
	return err;
}

/* From the opening bracket to behind the closing one; `set` is empty before. */
static int parse_class(struct parse *p, struct tok_set *set)
{
	bool negated = p->in[1] == '^';
	int err;

	if (++p->depth > MAX_DEPTH)
		return damaged(p, "it is nested too deep");
	p->in += negated ? 2 : 1;
	err = parse_operand(p, set);
	if (!err && negated && *p->in == '&') /* Oniguruma is not of one mind about what it means */
		return refuse(p, 2);
	while (!err && *p->in == '&') {
		struct tok_set *operand = calloc(1, sizeof(*operand));

		p->in += 2;
		err = operand ? parse_operand(p, operand) : -ENOMEM;
		if (!err)
			tok_set_intersect(set, operand);
		free(operand);
	}
	if (err)
		return err;
	p->in++;
	p->depth--;
	if (p->fold && (negated || !tok_set_has_only_ascii(set)))
		return damaged(p, "a class inside (?i: may hold only ASCII");
	if (p->fold)
		tok_set_add_folds(set);
	if (negated)
		tok_set_invert(set);
	return 0;
}

/* ---- atoms ---- */

static int parse_choice(struct parse *p);

static int parse_set(struct parse *p)
{
	struct tok_set *set = calloc(1, sizeof(*set));
	int err;

	if (!set)
		return -ENOMEM;
	if (*p->in == '[') {
		err = parse_class(p, set);
	} else if (*p->in == '.') {
		tok_set_add(set, '\n', '\n');
		tok_set_invert(set);
		p->in++;
		err = 0;
	} else {
		err = p->fold && strchr("pPwW", p->in[1]) ? refuse(p, 2) : add_set_escape(p, set);
	}
	if (err) {
		free(set);
		return err;
	}
	return add_set(p, set);
}

/* Inside (?i: a pair of letters can stand for one: U+00DF for ss, U+FB06 for st, U+FB00 to U+FB04 for ff, fi, fl. */
static bool folds_as_pair(uint32_t first, uint32_t second)
{
	return (first == 's' && (second == 's' || second == 't')) ||
	       (first == 'f' && (second == 'f' || second == 'i' || second == 'l'));
}

static int parse_code(struct parse *p)
{
	const char *start = p->in;
	uint32_t before = p->folded, code = 0;
	int err = 0, set;

	p->folded = 0;
	if (*p->in == '\\')
		err = take_escape(p, &code);
	else
		code = take_code(p);
	if (err || !p->fold)
		return err ? err : add_leaf(p, TOK_NODE_CODE, code);
	if (code >= 0x80 || folds_as_pair(before, code | 0x20)) {
		size_t len = (size_t)(p->in - start);

		p->in = start;
		return refuse(p, len);
	}
	if ((code | 0x20) < 'a' || (code | 0x20) > 'z')
		return add_leaf(p, TOK_NODE_CODE, code);
	p->folded = code | 0x20;
	set = tok_sets_add_code(p->sets, code, true);
	if (set == -E2BIG)
		return damaged(p, "it has too many sets of characters");
	return set < 0 ? set : add_leaf(p, TOK_NODE_SET, (uint32_t)set);
}

static int parse_group(struct parse *p)
{
	static const struct {
		const char *opens;
		enum tok_node_kind kind;
		bool negative;
	} known[] = {{"(?:", TOK_NODE_CHOICE, false}, {"(?i:", TOK_NODE_CHOICE, false}, {"(?=", TOK_NODE_AHEAD, false},
		{"(?!", TOK_NODE_AHEAD, true}, {"(?<=", TOK_NODE_BEHIND, false}, {"(?<!", TOK_NODE_BEHIND, true},
		{"(?>", TOK_NODE_ATOMIC, false}, {"(", TOK_NODE_CHOICE, false}};
	size_t i = 0;
	bool fold = p->fold;
	int inner;

	while (strncmp(p->in, known[i].opens, strlen(known[i].opens)))
		i++;
	if (!known[i].opens[1] && (p->in[1] == '?' || p->in[1] == '*'))
		return refuse(p, p->in[1] == '*' ? 2 : 4);
	if (++p->depth > MAX_DEPTH)
		return damaged(p, "it is nested too deep");
	p->in += strlen(known[i].opens);
	p->fold = fold || known[i].opens[2] == 'i';
	p->folded = 0;
	inner = parse_choice(p);
	if (inner < 0)
		return inner;
	if (*p->in != ')')
		return damaged(p, "a group has no end");
	p->in++;
	p->depth--;
	p->fold = fold;
	p->folded = 0;
	if (known[i].kind == TOK_NODE_CHOICE)
		return inner;
	return add_node(
		p, (struct tok_node){.kind = known[i].kind, .negative = known[i].negative, .child = inner, .next = -1});
}

static int parse_atom(struct parse *p)
{
	enum tok_op_kind op = TOK_OP_END;
	size_t len = 1;

	if (*p->in == '(')
		return parse_group(p);
	if (*p->in == '[' || *p->in == '.' || is_set_escape(p->in))
		return parse_set(p);
	if (*p->in == '*' || *p->in == '+' || *p->in == '?')
		return damaged(p, "nothing stands before a quantifier");
	if (*p->in == '^') {
		op = TOK_OP_LINE_START;
	} else if (*p->in == '$') {
		op = TOK_OP_LINE_END;
	} else if (p->in[0] == '\\' && (p->in[1] == 'A' || p->in[1] == 'z')) {
		op = p->in[1] == 'A' ? TOK_OP_TEXT_START : TOK_OP_TEXT_END;
		len = 2;
	}
	if (op == TOK_OP_END)
		return parse_code(p);
	p->in += len;
	return add_leaf(p, TOK_NODE_ASSERT, op);
}

/* ---- quantifiers ---- */

/* {n}, {n,} or {n,m}; a brace that starts none of these is a character. */
static bool is_interval(const char *in)
{
	size_t digits = *in == '{' ? strspn(in + 1, "0123456789") : 0, more = 0;
	const char *rest = in + 1 + digits;

	if (*in != '{' || (!digits && *rest != ','))
		return false;
	if (*rest == ',')
		rest += 1 + (more = strspn(rest + 1, "0123456789"));
	return *rest == '}' && digits + more;
}

static int take_interval(struct parse *p, struct tok_node *repeat)
{
	char *end;
	unsigned long min = strtoul(p->in + 1, &end, 10), max = min;
	size_t len = strcspn(p->in, "}") + 1;
	bool exact = *end == '}';

	if (!exact && end[1] == '}')
		max = TOK_FOREVER;
	else if (!exact)
		max = strtoul(end + 1, NULL, 10);
	/* {,n}, {m,n} with m > n, and + or ? behind {n} mean something of their own in Ruby */
	if (p->in[1] == ',' || max < min || p->in[len] == '+' || (exact && p->in[len] == '?'))
		return refuse(p, len + 1);
	if (min > MAX_COUNT || (max > MAX_COUNT && isdigit((unsigned char)p->in[len - 2])))
		return damaged(p, "a count is too large");
	p->in += len;
	repeat->min = (uint32_t)min;
	repeat->max = (uint32_t)max;
	return 0;
}

static int take_quantifier(struct parse *p, struct tok_node *repeat)
{
	int err = 0;

	if (*p->in == '{') {
		err = take_interval(p, repeat);
	} else {
		repeat->min = *p->in == '+';
		repeat->max = *p->in == '?' ? 1 : TOK_FOREVER;
		p->in++;
	}
	if (err)
		return err;
	if (*p->in == '?' || *p->in == '+') {
		repeat->how = *p->in == '?' ? TOK_LAZY : TOK_POSSESSIVE;
		p->in++;
	}
	if (*p->in && (strchr("*+?", *p->in) || is_interval(p->in)))
		return refuse(p, 1);
	return 0;
}

static int parse_repeated(struct parse *p)
{
	struct tok_node repeat = {.kind = TOK_NODE_REPEAT, .next = -1};
	int atom = parse_atom(p), err;

	if (atom < 0 || !*p->in || !(strchr("*+?", *p->in) || is_interval(p->in)))
		return atom;
	if (p->tree->nodes[atom].kind == TOK_NODE_ASSERT || p->tree->nodes[atom].kind == TOK_NODE_AHEAD ||
		p->tree->nodes[atom].kind == TOK_NODE_BEHIND)
		return refuse(p, 1);
	err = take_quantifier(p, &repeat);
	repeat.child = atom;
	p->folded = 0;
	return err ? err : add_node(p, repeat);
}

/* ---- sequences and choices ---- */

/* `parse` one after another until `end`, as children of a node of `kind`. */
static int add_child(struct parse *p, int parent, int *last, int child)
{
	if (child < 0)
		return child;
	if (*last < 0)
		p->tree->nodes[parent].child = child;
	else
		p->tree->nodes[*last].next = child;
	*last = child;
	return 0;
}

static int parse_sequence(struct parse *p)
{
	int parent = add_leaf(p, TOK_NODE_SEQUENCE, 0), last = -1, err = parent < 0 ? parent : 0;

	while (!err && *p->in && *p->in != '|' && *p->in != ')')
		err = add_child(p, parent, &last, parse_repeated(p));
	return err ? err : parent;
}

static int parse_choice(struct parse *p)
{
	int parent = add_leaf(p, TOK_NODE_CHOICE, 0), last = -1, err = parent < 0 ? parent : 0;

	for (;;) {
		if (!err)
			err = add_child(p, parent, &last, parse_sequence(p));
		if (err || *p->in != '|')
			break;
		p->in++;
		p->folded = 0;
	}
	return err ? err : parent;
}

int tok_pattern_parse(const char *pattern, struct tok_tree *tree, struct tok_sets *sets, char *why, size_t room)
{
	struct parse p = {.in = pattern, .tree = tree, .sets = sets, .why = why, .room = room};
	int root = parse_choice(&p);

	if (root >= 0 && *p.in)
		root = damaged(&p, "a group is closed that was not opened");
	tree->root = root;
	return root < 0 ? root : 0;
}
