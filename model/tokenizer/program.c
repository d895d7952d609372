/*
 * model/tokenizer/program.c: a pattern's tree to a program.
 *
 * Most of what tokenizers repeat is one set of characters: that becomes one op, a span. Everything else repeats by
 * jumps, and counts by copies, so a program has a largest size.
 */
#include "regex.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_OPS 20000    /* the largest pattern in use needs about 100 */
#define MAX_EMITS 200000 /* copies of what makes no op count too */

struct make {
	const struct tok_tree *tree;
	struct tok_sets *sets;
	struct tok_program *program;
	long emits;
};

static int emit(struct make *m, int node);

static int put(struct make *m, struct tok_op op)
{
	struct tok_program *program = m->program;
	struct tok_op *grown;

	if (program->count >= MAX_OPS)
		return -E2BIG;
	grown = tok_grow(program->ops, program->count, &program->cap, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	program->ops = grown;
	grown[program->count++] = op;
	return 0;
}

static int put_kind(struct make *m, enum tok_op_kind kind, uint32_t a)
{
	return put(m, (struct tok_op){.kind = kind, .a = a});
}

static uint32_t here(const struct make *m)
{
	return (uint32_t)m->program->count;
}

/* ---- what a node can match ---- */

static bool can_be_empty(const struct tok_tree *tree, int at)
{
	const struct tok_node *node = &tree->nodes[at];

	switch (node->kind) {
	case TOK_NODE_CODE:
	case TOK_NODE_SET:
		return false;
	case TOK_NODE_SEQUENCE:
		for (int child = node->child; child >= 0; child = tree->nodes[child].next)
			if (!can_be_empty(tree, child))
				return false;
		return true;
	case TOK_NODE_CHOICE:
		for (int child = node->child; child >= 0; child = tree->nodes[child].next)
			if (can_be_empty(tree, child))
				return true;
		return false;
	case TOK_NODE_REPEAT:
		return !node->min || can_be_empty(tree, node->child);
	case TOK_NODE_ATOMIC:
		return can_be_empty(tree, node->child);
	default:
		return true;
	}
}

/* In characters; -1: not fixed, or too long. */
static long fixed_length(const struct tok_tree *tree, int at)
{
	const struct tok_node *node = &tree->nodes[at];
	long length = 0, part;

	switch (node->kind) {
	case TOK_NODE_CODE:
	case TOK_NODE_SET:
		return 1;
	case TOK_NODE_SEQUENCE:
		for (int child = node->child; child >= 0; child = tree->nodes[child].next) {
			part = fixed_length(tree, child);
			if (part < 0)
				return -1;
			length += part;
		}
		return length;
	case TOK_NODE_CHOICE:
		length = -1;
		for (int child = node->child; child >= 0; child = tree->nodes[child].next) {
			part = fixed_length(tree, child);
			if (part < 0 || (child != node->child && part != length))
				return -1;
			length = part;
		}
		return length;
	case TOK_NODE_REPEAT:
		part = fixed_length(tree, node->child);
		length = part * (long)node->min;
		return part < 0 || node->min != node->max || length > MAX_OPS ? -1 : length;
	case TOK_NODE_ATOMIC:
		return fixed_length(tree, node->child);
	default:
		return 0;
	}
}

/* The node behind groups that hold nothing else. */
static int unwrap(const struct tok_tree *tree, int at)
{
	for (;;) {
		const struct tok_node *node = &tree->nodes[at];

		if ((node->kind != TOK_NODE_CHOICE && node->kind != TOK_NODE_SEQUENCE) || node->child < 0 ||
			tree->nodes[node->child].next >= 0)
			return at;
		at = node->child;
	}
}

/* ---- repeats ---- */

static int emit_span(struct make *m, const struct tok_node *repeat, const struct tok_node *what)
{
	struct tok_op span = {.kind = TOK_OP_SPAN, .how = repeat->how, .min = repeat->min, .max = repeat->max};
	int set = (int)what->value;

	if (what->kind == TOK_NODE_CODE)
		set = tok_sets_add_code(m->sets, what->value, false);
	if (set < 0)
		return set;
	span.a = (uint32_t)set;
	return put(m, span);
}

static int put_split(struct make *m, const struct tok_node *repeat)
{
	return put(m, (struct tok_op){.kind = TOK_OP_SPLIT, .how = repeat->how});
}

/* The split at `at` goes into the body behind it, or out to here; the lazy one tries out first. */
static void aim_split(struct make *m, uint32_t at)
{
	struct tok_op *split = &m->program->ops[at];
	bool lazy = split->how == TOK_LAZY;

	split->a = lazy ? here(m) : at + 1;
	split->b = lazy ? at + 1 : here(m);
}

/* As often as it goes. An iteration that matched nothing is the last. */
static int emit_loop(struct make *m, const struct tok_node *repeat)
{
	bool may_stand = can_be_empty(m->tree, repeat->child);
	uint32_t mark = may_stand ? m->program->registers++ : 0, top = here(m), moved;
	int err = put_split(m, repeat);

	if (!err && may_stand)
		err = put_kind(m, TOK_OP_MARK, mark);
	if (!err)
		err = emit(m, repeat->child);
	moved = here(m);
	if (!err && may_stand)
		err = put_kind(m, TOK_OP_MOVED, mark);
	if (!err)
		err = put_kind(m, TOK_OP_JUMP, top);
	if (err)
		return err;
	aim_split(m, top);
	if (may_stand)
		m->program->ops[moved].b = here(m);
	return 0;
}

static int emit_optional(struct make *m, const struct tok_node *repeat)
{
	uint32_t first = here(m), copies = repeat->max - repeat->min, stride;
	int err = 0;

	for (uint32_t i = 0; i < copies && !err; i++) {
		err = put_split(m, repeat);
		if (!err)
			err = emit(m, repeat->child);
	}
	if (err || !copies)
		return err;
	stride = (here(m) - first) / copies; /* copies are of one size */
	for (uint32_t i = 0; i < copies; i++)
		aim_split(m, first + i * stride);
	return 0;
}

static int emit_copies(struct make *m, const struct tok_node *repeat)
{
	int err = 0;

	for (uint32_t i = 0; i < repeat->min && !err; i++)
		err = emit(m, repeat->child);
	if (err)
		return err;
	return repeat->max == TOK_FOREVER ? emit_loop(m, repeat) : emit_optional(m, repeat);
}

static int emit_repeat(struct make *m, const struct tok_node *repeat)
{
	const struct tok_node *what = &m->tree->nodes[unwrap(m->tree, repeat->child)];
	uint32_t held;
	int err;

	if (what->kind == TOK_NODE_CODE || what->kind == TOK_NODE_SET)
		return emit_span(m, repeat, what);
	if (repeat->max > 1 && repeat->max != TOK_FOREVER && can_be_empty(m->tree, repeat->child))
		return -ENOTSUP; /* Oniguruma counts what matched nothing in a way of its own */
	if (repeat->how != TOK_POSSESSIVE)
		return emit_copies(m, repeat);
	held = m->program->registers++;
	err = put_kind(m, TOK_OP_HOLD, held);
	if (!err)
		err = emit_copies(m, repeat);
	return err ? err : put_kind(m, TOK_OP_CUT, held);
}

/* ---- the rest ---- */

/* Characters that stand side by side are compared at once; `alone`: only the first. */
static int emit_codes(struct make *m, int *at, bool alone)
{
	struct tok_text *literals = &m->program->literals;
	struct tok_op op = {.kind = TOK_OP_BYTES, .a = (uint32_t)literals->len};
	int err = 0;

	while (*at >= 0 && m->tree->nodes[*at].kind == TOK_NODE_CODE && !err) {
		char bytes[4];

		err = tok_text_append(literals, bytes, tok_utf8_put(m->tree->nodes[*at].value, bytes));
		*at = alone ? -1 : m->tree->nodes[*at].next;
	}
	op.b = (uint32_t)literals->len - op.a;
	return err ? err : put(m, op);
}

static int emit_sequence(struct make *m, int child)
{
	int err = 0;

	while (child >= 0 && !err) {
		if (m->tree->nodes[child].kind == TOK_NODE_CODE) {
			err = emit_codes(m, &child, false);
			continue;
		}
		err = emit(m, child);
		child = m->tree->nodes[child].next;
	}
	return err;
}

/* One alternative of a choice; behind: it starts as many characters back as it is long. */
static int emit_alternative(struct make *m, int node, bool behind)
{
	long length = behind ? fixed_length(m->tree, node) : 0;
	int err = 0;

	if (length < 0)
		return -EINVAL;
	if (length)
		err = put_kind(m, TOK_OP_BACK, (uint32_t)length);
	return err ? err : emit(m, node);
}

static int emit_choice(struct make *m, int child, bool behind)
{
	uint32_t jumps[64], count = 0;
	int err = 0;

	for (; child >= 0 && m->tree->nodes[child].next >= 0 && !err; child = m->tree->nodes[child].next) {
		uint32_t split = here(m);

		if (count == sizeof(jumps) / sizeof(jumps[0])) /* the rest is a choice of its own */
			break;
		err = put_kind(m, TOK_OP_SPLIT, split + 1);
		if (!err)
			err = emit_alternative(m, child, behind);
		jumps[count++] = here(m);
		if (!err)
			err = put_kind(m, TOK_OP_JUMP, 0);
		if (!err)
			m->program->ops[split].b = here(m);
	}
	if (!err && m->tree->nodes[child].next >= 0)
		err = emit_choice(m, child, behind);
	else if (!err)
		err = emit_alternative(m, child, behind);
	for (uint32_t i = 0; i < count && !err; i++)
		m->program->ops[jumps[i]].a = here(m);
	return err;
}

/* A group that is tried on its own: nothing goes back into it once it has matched. */
static int emit_look(struct make *m, const struct tok_node *look)
{
	const struct tok_node *inner = &m->tree->nodes[look->child];
	uint32_t held = m->program->registers++, place = m->program->registers++, split;
	int err = put_kind(m, TOK_OP_HOLD, held);

	split = here(m);
	if (!err)
		err = look->negative ? put_kind(m, TOK_OP_SPLIT, split + 1) : put_kind(m, TOK_OP_MARK, place);
	if (!err)
		err = emit_choice(m, inner->child, look->kind == TOK_NODE_BEHIND);
	if (!err)
		err = put_kind(m, TOK_OP_CUT, held);
	if (!err)
		err = look->negative ? put_kind(m, TOK_OP_FAIL, 0) : put_kind(m, TOK_OP_RETURN, place);
	if (!err && look->negative)
		m->program->ops[split].b = here(m);
	return err;
}

static int emit_atomic(struct make *m, const struct tok_node *node)
{
	uint32_t held = m->program->registers++;
	int err = put_kind(m, TOK_OP_HOLD, held);

	if (!err)
		err = emit(m, node->child);
	return err ? err : put_kind(m, TOK_OP_CUT, held);
}

static int emit(struct make *m, int at)
{
	const struct tok_node *node = &m->tree->nodes[at];
	int one = at;

	if (++m->emits > MAX_EMITS)
		return -E2BIG;
	switch (node->kind) {
	case TOK_NODE_CODE:
		return emit_codes(m, &one, true);
	case TOK_NODE_SET:
		return put_kind(m, TOK_OP_SET, node->value);
	case TOK_NODE_ASSERT:
		return put_kind(m, (enum tok_op_kind)node->value, 0);
	case TOK_NODE_SEQUENCE:
		return emit_sequence(m, node->child);
	case TOK_NODE_CHOICE:
		return emit_choice(m, node->child, false);
	case TOK_NODE_REPEAT:
		return emit_repeat(m, node);
	case TOK_NODE_ATOMIC:
		return emit_atomic(m, node);
	case TOK_NODE_AHEAD:
	case TOK_NODE_BEHIND:
		return emit_look(m, node);
	}
	return 0;
}

/* ---- how a match starts ---- */

static void add_first(struct tok_program *program, unsigned byte)
{
	program->first[byte >> 6] |= 1ULL << (byte & 63);
}

static void add_first_of_set(struct tok_program *program, const struct tok_set *set)
{
	program->first[0] |= set->bits[0];
	program->first[1] |= set->bits[1];
	if (!tok_set_has_only_ascii(set))
		for (unsigned byte = 0xc2; byte <= 0xf4; byte++)
			add_first(program, byte);
}

/* What one op, reached before a byte has been read, says of the first byte; false: the path ends here. */
static bool look_at_first(const struct make *m, const struct tok_op *op)
{
	struct tok_program *program = m->program;

	switch (op->kind) {
	case TOK_OP_BYTES:
		add_first(program, (unsigned char)program->literals.data[op->a]);
		return false;
	case TOK_OP_SET:
	case TOK_OP_SPAN:
		add_first_of_set(program, m->sets->list[op->a]);
		return op->kind == TOK_OP_SPAN && !op->min;
	case TOK_OP_END:
	case TOK_OP_BACK:
		program->starts_anywhere = true;
		return false;
	default:
		return op->kind != TOK_OP_FAIL;
	}
}

/* Follows every path from the start; an op is looked at once. */
static int find_first(const struct make *m)
{
	size_t count = m->program->count, todo_count = 1;
	bool *seen = calloc(count, sizeof(*seen));
	uint32_t *todo = calloc(count + 1, sizeof(*todo)); /* each split and its like puts one in */
	int err;

	while (seen && todo && todo_count) {
		uint32_t at = todo[--todo_count];

		while (!seen[at]) {
			const struct tok_op *op = &m->program->ops[at];

			seen[at] = true;
			if (!look_at_first(m, op))
				break;
			if (op->kind == TOK_OP_SPLIT || op->kind == TOK_OP_MOVED)
				todo[todo_count++] = op->b;
			at = op->kind == TOK_OP_JUMP || op->kind == TOK_OP_SPLIT ? op->a : at + 1;
		}
	}
	err = seen && todo ? 0 : -ENOMEM;
	free(todo);
	free(seen);
	return err;
}

int tok_program_make(const struct tok_tree *tree, struct tok_sets *sets, struct tok_program *program)
{
	struct make m = {.tree = tree, .sets = sets, .program = program};
	int err = emit(&m, tree->root);

	if (!err)
		err = put_kind(&m, TOK_OP_END, 0);
	return err ? err : find_first(&m);
}

int tok_program_span(uint32_t set, uint32_t most, struct tok_sets *sets, struct tok_program *program)
{
	struct make m = {.sets = sets, .program = program};
	int err = put(&m, (struct tok_op){.kind = TOK_OP_SPAN, .a = set, .min = 1, .max = most});

	if (!err)
		err = put_kind(&m, TOK_OP_END, 0);
	return err ? err : find_first(&m);
}
