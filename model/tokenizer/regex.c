/*
 * model/tokenizer/regex.c: regular expressions as Oniguruma (Ruby syntax, Unicode 16) reads them, by backtracking.
 *
 * Hugging Face compiles patterns with Oniguruma. A pattern is refused by name where it has what we do not know; what is
 * taken matches as it does there. Every match is bounded in steps and memory, so that a hostile pattern ends in an error.
 */
#include "regex.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATTERN 4096  /* the longest in use has some 400 characters */
#define STEPS_BASE 100000 /* of one match; with so many a byte, \s+ over a whole text of spaces still passes */
#define STEPS_A_BYTE 64
#define MAX_FRAMES ((size_t)8 << 20) /* 256 MiB of what can be gone back to */

struct tok_regex {
	char *literal; /* the pattern is this text; the rest is empty */
	struct tok_sets sets;
	struct tok_program program;
};

/* ---- compiling ---- */

static int compile(tok_regex *regex, const char *pattern, const char *file, const char *where)
{
	struct tok_tree tree = {0};
	char why[160] = "";
	int err = tok_pattern_parse(pattern, &tree, &regex->sets, why, sizeof(why));

	if (err == -EINVAL)
		err = kvs_fail(-EINVAL, "%s: %s%s", file, where, why);
	if (!err) {
		err = tok_program_make(&tree, &regex->sets, &regex->program);
		if (err == -EINVAL)
			err = kvs_fail(-EINVAL,
				"%s: %s looks behind for what has no fixed length in a regular expression: not "
				"supported",
				file, where);
		if (err == -ENOTSUP)
			err = kvs_fail(-EINVAL,
				"%s: %s counts a group that can match nothing in a regular expression: not supported",
				file, where);
		if (err == -E2BIG)
			err = kvs_fail(-EINVAL, "%s: %s is no regular expression that we can use: it is too large",
				file, where);
	}
	free(tree.nodes);
	return err == -ENOMEM ? kvs_fail(-ENOMEM, "%s: no memory for %s", file, where) : err;
}

int tok_regex_create(const char *pattern, bool literal, const char *file, const char *where, tok_regex **out)
{
	tok_regex *regex;
	int err = 0;

	if (strlen(pattern) > MAX_PATTERN)
		return kvs_fail(-EINVAL, "%s: %s has %zu characters, at most %d are read", file, where, strlen(pattern),
			MAX_PATTERN);
	regex = calloc(1, sizeof(*regex));
	if (regex && literal)
		regex->literal = strdup(pattern);
	if (!regex || (literal && !regex->literal))
		err = kvs_fail(-ENOMEM, "%s: no memory for %s", file, where);
	else if (!literal)
		err = compile(regex, pattern, file, where);
	if (err) {
		tok_regex_free(regex);
		return err;
	}
	*out = regex;
	return 0;
}

int tok_regex_create_numbers(bool each, tok_regex **out)
{
	tok_regex *regex = calloc(1, sizeof(*regex));
	struct tok_set *set = calloc(1, sizeof(*set));
	int err = regex && set ? 0 : -ENOMEM;

	if (!err) {
		tok_set_add_numbers(set);
		err = tok_sets_take(&regex->sets, set);
		set = NULL;
	}
	if (err >= 0)
		err = tok_program_span(0, each ? 1 : TOK_FOREVER, &regex->sets, &regex->program);
	free(set);
	if (err) {
		tok_regex_free(regex);
		return err;
	}
	*out = regex;
	return 0;
}

void tok_regex_free(tok_regex *regex)
{
	if (!regex)
		return;
	free(regex->literal);
	tok_sets_clear(&regex->sets);
	free(regex->program.ops);
	free(regex->program.literals.data);
	free(regex);
}

/* ---- matching at one place ---- */

/* What can be gone back to. */
struct frame {
	const struct tok_op *op; /* SPLIT: go on at its `b`; SPAN: give one up, or take one more; MARK: restore */
	size_t at, bound;        /* SPAN: the least place, greedy, or how many more may be taken, lazy */
};

struct search {
	const tok_regex *regex;
	const char *text;
	size_t len;
	struct frame *frames;
	size_t frame_count, frame_cap;
	size_t *registers;
	size_t steps;      /* left for this match */
	size_t start, end; /* of the match found */
};

/* One character at `at` (< len), which is valid UTF-8; its length is added to *at. */
static inline uint32_t next_code(const char *text, size_t *at)
{
	const unsigned char *s = (const unsigned char *)text + *at;

	if (s[0] < 0x80) {
		*at += 1;
		return s[0];
	}
	if (s[0] < 0xe0) {
		*at += 2;
		return (s[0] & 0x1fu) << 6 | (s[1] & 0x3f);
	}
	if (s[0] < 0xf0) {
		*at += 3;
		return (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3f);
	}
	*at += 4;
	return (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3f);
}

static size_t place_before(const char *text, size_t at)
{
	at--;
	while (((unsigned char)text[at] & 0xc0) == 0x80)
		at--;
	return at;
}

static int push(struct search *s, const struct tok_op *op, size_t at, size_t bound)
{
	struct frame *grown;

	if (s->frame_count == s->frame_cap) {
		if (s->frame_count >= MAX_FRAMES)
			return -E2BIG;
		grown = tok_grow(s->frames, s->frame_count, &s->frame_cap, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		s->frames = grown;
	}
	s->frames[s->frame_count++] = (struct frame){op, at, bound};
	return 0;
}

/* One character of `set` if it stands at *at. */
static inline bool take_one(const struct search *s, const struct tok_set *set, size_t *at)
{
	size_t next = *at;

	if (next == s->len || !tok_set_has(set, next_code(s->text, &next)))
		return false;
	*at = next;
	return true;
}

/* 1: *at is behind the span; 0: it does not match; or an error. */
static int run_span(struct search *s, const struct tok_op *op, size_t *at)
{
	const struct tok_set *set = s->regex->sets.list[op->a];
	uint32_t taken = 0, most = op->how == TOK_LAZY ? op->min : op->max;
	size_t least = *at, end = *at;
	int err = 0;

	while (taken < most && take_one(s, set, &end)) {
		if (++taken == op->min)
			least = end;
	}
	s->steps -= taken < s->steps ? taken : s->steps;
	if (taken < op->min)
		return 0;
	if (op->how == TOK_GREEDY && end > least)
		err = push(s, op, end, least);
	if (op->how == TOK_LAZY && op->max > op->min)
		err = push(s, op, end, op->max - op->min);
	*at = end;
	return err ? err : 1;
}

static bool holds(const struct search *s, enum tok_op_kind kind, size_t at)
{
	switch (kind) {
	case TOK_OP_LINE_START:
		return !at || (s->text[at - 1] == '\n' && at < s->len);
	case TOK_OP_LINE_END:
		return at == s->len || s->text[at] == '\n';
	case TOK_OP_TEXT_START:
		return !at;
	default:
		return at == s->len;
	}
}

static bool go_back(const struct search *s, uint32_t count, size_t *at)
{
	for (; count; count--) {
		if (!*at)
			return false;
		*at = place_before(s->text, *at);
	}
	return true;
}

/* Run `op` at *at. 1: go on at *next; 0: go back; or an error. */
static int run_op(struct search *s, const struct tok_op *op, const struct tok_op **next, size_t *at)
{
	const struct tok_program *program = &s->regex->program;
	int err;

	*next = op + 1;
	switch (op->kind) {
	case TOK_OP_BYTES:
		if (op->b > s->len - *at || memcmp(s->text + *at, program->literals.data + op->a, op->b))
			return 0;
		*at += op->b;
		return 1;
	case TOK_OP_SET:
		return take_one(s, s->regex->sets.list[op->a], at);
	case TOK_OP_SPAN:
		return run_span(s, op, at);
	case TOK_OP_SPLIT:
		err = push(s, op, *at, 0);
		*next = program->ops + op->a;
		return err ? err : 1;
	case TOK_OP_JUMP:
		*next = program->ops + op->a;
		return 1;
	case TOK_OP_BACK:
		return go_back(s, op->a, at);
	case TOK_OP_HOLD:
		s->registers[op->a] = s->frame_count;
		return 1;
	case TOK_OP_CUT:
		s->frame_count = s->registers[op->a];
		return 1;
	case TOK_OP_MARK:
		err = push(s, op, s->registers[op->a], 0);
		s->registers[op->a] = *at;
		return err ? err : 1;
	case TOK_OP_RETURN:
		*at = s->registers[op->a];
		return 1;
	case TOK_OP_MOVED:
		if (*at == s->registers[op->a])
			*next = program->ops + op->b;
		return 1;
	case TOK_OP_FAIL:
		return 0;
	default:
		return holds(s, op->kind, *at);
	}
}

/* Go back to the last frame that leads on. False: none does. */
static bool backtrack(struct search *s, const struct tok_op **next, size_t *at)
{
	while (s->frame_count) {
		struct frame *frame = &s->frames[s->frame_count - 1];
		const struct tok_op *op = frame->op;

		*at = frame->at;
		*next = op + 1;
		if (op->kind == TOK_OP_SPLIT) {
			*next = s->regex->program.ops + op->b;
			s->frame_count--;
			return true;
		}
		if (op->kind == TOK_OP_MARK) {
			s->registers[op->a] = frame->at;
			s->frame_count--;
			continue;
		}
		if (op->how == TOK_GREEDY) {
			*at = frame->at = place_before(s->text, frame->at);
			if (frame->at == frame->bound)
				s->frame_count--;
			return true;
		}
		if (take_one(s, s->regex->sets.list[op->a], at)) {
			frame->at = *at;
			if (op->max != TOK_FOREVER && !--frame->bound)
				s->frame_count--;
			return true;
		}
		s->frame_count--;
	}
	return false;
}

/* 1: a match that starts at `from`, 0: none, or an error. */
static int match_at(struct search *s, size_t from)
{
	const struct tok_op *op = s->regex->program.ops, *next;
	size_t at = from;
	int rc;

	s->frame_count = 0;
	while (op->kind != TOK_OP_END) {
		if (!s->steps)
			return -E2BIG;
		s->steps--;
		rc = run_op(s, op, &next, &at);
		if (rc < 0)
			return rc;
		if (!rc && !backtrack(s, &next, &at))
			return 0;
		op = next;
	}
	s->start = from;
	s->end = at;
	return 1;
}

/* ---- searching ---- */

static bool can_start(const struct tok_program *program, const struct search *s, size_t at)
{
	unsigned char byte;

	if (program->starts_anywhere)
		return true;
	if (at == s->len)
		return false;
	byte = (unsigned char)s->text[at];
	return program->first[byte >> 6] >> (byte & 63) & 1;
}

static int find_literal(struct search *s, size_t from)
{
	size_t len = strlen(s->regex->literal);
	const char *found = memmem(s->text + from, s->len - from, s->regex->literal, len);

	if (!found)
		return 0;
	s->start = (size_t)(found - s->text);
	s->end = s->start + len;
	return 1;
}

/* 1: found, 0: none, or an error. */
static int search_from(struct search *s, size_t from)
{
	size_t steps = STEPS_BASE + STEPS_A_BYTE * s->len;

	if (s->regex->literal)
		return find_literal(s, from);
	s->steps = steps;
	for (size_t at = from; at <= s->len; at++) {
		int rc;

		/* continuation bytes start nothing */
		if ((at < s->len && ((unsigned char)s->text[at] & 0xc0) == 0x80) ||
			!can_start(&s->regex->program, s, at))
			continue;
		rc = match_at(s, at);
		if (rc == -E2BIG)
			return kvs_fail(-EINVAL,
				"splitting %zu bytes of text at byte %zu: the tokenizer's regular expression gave up "
				"after %zu steps",
				s->len, from, steps - s->steps);
		if (rc)
			return rc;
	}
	return 0;
}

/* Like Oniguruma's iterator: an empty match right behind the last match does not count. */
static int each_match(struct search *s, int (*found)(void *, size_t, size_t, bool), void *arg)
{
	size_t from = 0, covered = 0, skip;
	bool any = false;
	int err = 0;

	while (from <= s->len && !err) {
		int hit = search_from(s, from);

		if (hit < 0)
			return hit;
		if (!hit)
			break;
		if (s->start == s->end && any && s->end == covered) {
			if (s->end == s->len)
				break;
			tok_utf8_look(s->text + s->end, s->len - s->end, &skip);
			from = s->end + skip;
			continue;
		}
		if (s->start > covered)
			err = found(arg, covered, s->start, false);
		if (!err)
			err = found(arg, s->start, s->end, true);
		any = true;
		from = covered = s->end;
	}
	if (!err && covered < s->len)
		err = found(arg, covered, s->len, false);
	return err;
}

int tok_regex_each(const tok_regex *regex, const char *text, size_t len,
	int (*found)(void *arg, size_t start, size_t end, bool match), void *arg)
{
	struct search s = {.regex = regex, .text = text, .len = len};
	int err = -ENOMEM;

	s.registers = calloc((size_t)regex->program.registers + 1, sizeof(*s.registers));
	if (s.registers)
		err = each_match(&s, found, arg);
	free(s.frames);
	free(s.registers);
	return err;
}
