/*
 * profiler/report/stacks.c: an icicle of the places that took memory: the program on top, what it called below, each as
 * wide as the bytes that came from there.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NODES 4096
#define MOST_DRAWN 500
#define ROW_HEIGHT 20
#define LEAST_PERCENT 0.2 /* narrower ones are not drawn */
#define NONE 0            /* the root is nobody's child */

struct node {
	char text[PROF_FRAME_TEXT];
	uint64_t bytes;
	uint32_t first_child, next;
	unsigned depth;
};

struct tree {
	struct node *nodes; /* [0]: the root */
	uint32_t count;
	unsigned deepest, drawn;
	bool left_out;
};

/* The child of that name. Where there is no room for one its bytes stay with the parent. */
static uint32_t child_of(struct tree *tree, uint32_t parent, const char *text, uint64_t bytes)
{
	struct node *node;
	uint32_t at;

	for (at = tree->nodes[parent].first_child; at != NONE; at = tree->nodes[at].next)
		if (!strcmp(tree->nodes[at].text, text))
			break;
	if (at == NONE) {
		if (tree->count == MOST_NODES) {
			tree->left_out = true;
			return parent;
		}
		at = tree->count++;
		node = &tree->nodes[at];
		*node = (struct node){.next = tree->nodes[parent].first_child, .depth = tree->nodes[parent].depth + 1};
		snprintf(node->text, sizeof(node->text), "%s", text);
		tree->nodes[parent].first_child = at;
	}
	tree->nodes[at].bytes += bytes;
	return at;
}

static void add_holder(struct tree *tree, const kvs_report *r, const struct prof_holder *h)
{
	const struct prof_stack *stack = h->stack ? r->stacks[h->stack - 1] : NULL;
	char text[PROF_FRAME_TEXT];
	uint32_t at = 0;

	tree->nodes[0].bytes += h->bytes;
	for (unsigned i = stack ? stack->count : 0; i-- > 0;)
		at = child_of(tree, at, prof_frame_text(r, &stack->frames[i], text), h->bytes);
	at = child_of(tree, at, h->function ? h->function : "?", h->bytes);
	child_of(tree, at, kvs_memory_kind_name(h->kind), h->bytes);
}

static int wider(const void *left, const void *right, void *arg)
{
	const struct tree *tree = arg;
	const struct node *a = &tree->nodes[*(const uint32_t *)left], *b = &tree->nodes[*(const uint32_t *)right];

	return a->bytes != b->bytes ? (a->bytes > b->bytes ? -1 : 1) : strcmp(a->text, b->text);
}

static void print_node(struct prof_page *page, const struct tree *tree, const struct node *node, double x, double width)
{
	const uint64_t all = tree->nodes[0].bytes;

	fprintf(page->to,
		"<svg x=\"%.3f%%\" y=\"%u\" width=\"%.3f%%\" height=\"%d\" class=\"frame d%u\" data-r=\"%u\" "
		"data-bytes=\"%llu\"><rect width=\"100%%\" height=\"100%%\"/><text x=\"4\" y=\"14\">",
		x, node->depth * ROW_HEIGHT, width, ROW_HEIGHT - 1, node->depth % 4, node->depth,
		(unsigned long long)node->bytes);
	prof_page_name(page, node->text);
	fputs("</text><title>", page->to);
	prof_page_name(page, node->text);
	fputs(": ", page->to);
	prof_page_size(page, node->bytes);
	fprintf(page->to, ", %.1f %%</title></svg>\n", all ? 100.0 * node->bytes / all : 0);
}

/* As deep as a stack: KVS_MAX_FRAMES and three more. */
static int draw(struct prof_page *page, struct tree *tree, uint32_t at, double x, double width)
{
	const struct node *node = &tree->nodes[at];
	uint32_t count = 0, i = 0, *children;
	int err = 0;

	if (width < LEAST_PERCENT || tree->drawn == MOST_DRAWN || !prof_page_has_room(page)) {
		tree->left_out = true;
		return 0;
	}
	tree->drawn++;
	tree->deepest = node->depth > tree->deepest ? node->depth : tree->deepest;
	print_node(page, tree, node, x, width);
	for (uint32_t child = node->first_child; child != NONE; child = tree->nodes[child].next)
		count++;
	children = calloc(count + 1, sizeof(*children));
	if (!children)
		return -ENOMEM;
	for (uint32_t child = node->first_child; child != NONE; child = tree->nodes[child].next)
		children[i++] = child;
	qsort_r(children, count, sizeof(*children), wider, tree);
	for (i = 0; i < count && !err; i++) {
		double part = node->bytes ? width * tree->nodes[children[i]].bytes / node->bytes : 0;
		err = draw(page, tree, children[i], x, part);
		x += part;
	}
	free(children);
	return err;
}

static unsigned depth_of(const struct tree *tree)
{
	unsigned deepest = 0;

	for (uint32_t i = 0; i < tree->count; i++)
		deepest = tree->nodes[i].depth > deepest ? tree->nodes[i].depth : deepest;
	return deepest;
}

static int print_icicle(struct prof_page *page, const struct prof_holders *holders, const char *title)
{
	struct tree tree = {.nodes = calloc(MOST_NODES, sizeof(*tree.nodes)), .count = 1};
	int err;

	if (!tree.nodes)
		return kvs_fail(-ENOMEM, "no memory for the report");
	snprintf(tree.nodes[0].text, sizeof(tree.nodes[0].text), "%s", title);
	for (size_t i = 0; i < holders->count; i++)
		add_holder(&tree, page->report, &holders->list[i]);
	fprintf(page->to,
		"<svg class=\"icicle\" width=\"100%%\" height=\"%u\" data-frames role=\"group\" aria-label=\"%s, by "
		"place\">\n",
		(depth_of(&tree) + 1) * ROW_HEIGHT, title);
	err = draw(page, &tree, 0, 0, 100);
	fputs("</svg>\n<p class=\"readout\" aria-live=\"polite\">&nbsp;</p>\n", page->to);
	if (tree.left_out)
		fputs("<p class=\"note\">The narrowest places are not drawn.</p>\n", page->to);
	free(tree.nodes);
	return err;
}

int prof_page_stacks(struct prof_page *page)
{
	const kvs_report *r = page->report;
	int err = 0;

	prof_page_begin(page, "stacks", "Where it was taken", false);
	if (!r->at_peak.count && !r->leaks.count)
		fputs("<p class=\"note\">Nobody held device memory.</p>\n", page->to);
	if (r->at_peak.count)
		err = print_icicle(page, &r->at_peak, "at the peak");
	if (r->leaks.count && !err)
		err = print_icicle(page, &r->leaks, "leaked");
	prof_page_end(page);
	return err;
}
