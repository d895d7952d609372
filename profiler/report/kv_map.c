/*
 * profiler/report/kv_map.c: the KV map. A line is a layer, a cell a block of its K or V, and the same colour the same physical
 * memory: a borrower has its owner's colour, and a border where the owner is filled.
 *
 * Layers that share nothing are grey, so that what is shared is seen at once. Where there are more blocks than a line can
 * show, a cell stands for several that follow each other.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>

#define MOST_LINES 160
#define MOST_COLUMNS 64
#define MOST_CELLS 4000 /* of a map: with many layers a cell stands for more blocks */
#define MOST_ARCS 32    /* more cannot be told apart: owners are then named */
#define LINE_HEIGHT 18
#define ARCS_WIDTH 56
#define COLOURS 7

struct line {
	const struct prof_kv_range *k, *v; /* NULL: the layer has none */
	int layer;
	int k_owner, v_owner; /* the line that the blocks are of; -1: its own */
	int colour;           /* of those that share; -1: nothing is shared */
};

struct map {
	struct prof_page *page;
	struct line *lines;
	size_t count, columns, per_cell, cells; /* columns: blocks of the longest line; cells: of a line */
	size_t borrowers;
	int colours;
	bool sides[2]; /* whether any layer has a K, a V */
};

/* ---- lines ---- */

static int add_lines(struct map *map, uint32_t process)
{
	const struct prof_kv_map *kv = &map->page->report->kv;

	map->count = 0;
	map->lines = calloc(kv->count + 1, sizeof(*map->lines));
	if (!map->lines)
		return kvs_fail(-ENOMEM, "no memory for the report");
	for (size_t i = 0; i < kv->count; i++) {
		const struct prof_kv_range *range = &kv->list[i];
		struct line *line = &map->lines[map->count ? map->count - 1 : 0];
		if (range->process != process)
			continue;
		/* K comes before V. A layer with several ranges has a line for each. */
		if (!map->count || line->layer != range->layer || !range->is_v || line->v) {
			line = &map->lines[map->count++];
			*line = (struct line){.layer = range->layer, .k_owner = -1, .v_owner = -1, .colour = -1};
		}
		*(range->is_v ? &line->v : &line->k) = range;
	}
	return 0;
}

static const struct prof_kv_range *side(const struct line *line, bool is_v)
{
	return is_v ? line->v : line->k;
}

static bool same_memory(const struct prof_kv_range *a, const struct prof_kv_range *b)
{
	return a && b && a->block_count && b->block_count && a->blocks[0] == b->blocks[0];
}

/* By what is mapped; a label alone shares nothing. The owner is the line that no label calls a borrower. */
static int owner_of(const struct map *map, size_t at, bool is_v)
{
	const struct prof_kv_range *range = side(&map->lines[at], is_v);

	for (size_t i = 0; range && i < map->count; i++) {
		const struct prof_kv_range *other = side(&map->lines[i], is_v);
		if (i != at && same_memory(range, other) &&
			(range->owner < 0 ? i < at : map->lines[i].layer == range->owner))
			return (int)i;
	}
	return -1;
}

static void colour_lines(struct map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		struct line *line = &map->lines[i];
		line->k_owner = owner_of(map, i, false);
		line->v_owner = owner_of(map, i, true);
	}
	for (size_t i = 0; i < map->count; i++) {
		struct line *line = &map->lines[i];
		int owner = line->k_owner >= 0 ? line->k_owner : line->v_owner;
		if (owner < 0)
			continue;
		if (map->lines[owner].colour < 0)
			map->lines[owner].colour = map->colours++ % COLOURS;
		line->colour = map->lines[owner].colour;
	}
}

static void measure(struct map *map)
{
	size_t most;

	map->columns = 1;
	for (size_t i = 0; i < map->count; i++) {
		map->borrowers += map->lines[i].k_owner >= 0 || map->lines[i].v_owner >= 0;
		for (int v = 0; v < 2; v++) {
			const struct prof_kv_range *range = side(&map->lines[i], v);
			map->sides[v] |= range != NULL;
			if (range && range->block_count > map->columns)
				map->columns = range->block_count;
		}
	}
	most = MOST_CELLS / (map->count * (map->sides[0] + map->sides[1]));
	most = most > MOST_COLUMNS ? MOST_COLUMNS : most;
	map->per_cell = (map->columns + most - 1) / most;
	map->cells = (map->columns + map->per_cell - 1) / map->per_cell;
}

/* ---- cells ---- */

static void print_cell_text(const struct map *map, const struct prof_kv_range *range, size_t cell, int owner)
{
	if (map->cells > 6)
		return;
	fprintf(map->page->to, "<text x=\"%.2f%%\" y=\"13\">#%u", 100 * (cell + 0.5) / map->cells, range->blocks[cell]);
	if (owner >= 0 && map->cells <= 2)
		fprintf(map->page->to, ", layer %d&#39;s", map->lines[owner].layer);
	fputs("</text>\n", map->page->to);
}

/* A cell is `per_cell` blocks that follow each other: the first is what it is known by. */
static void print_cells(const struct map *map, size_t at, bool is_v)
{
	const struct line *line = &map->lines[at];
	const struct prof_kv_range *range = side(line, is_v);
	int owner = is_v ? line->v_owner : line->k_owner;

	if (!range)
		return;
	fprintf(map->page->to, "<g transform=\"translate(0 %zu)\" class=\"%s g%d\" data-r=\"%zu\">\n", at * LINE_HEIGHT,
		owner < 0 ? "own" : "borrow", line->colour + 1, at);
	for (size_t c = 0; c * map->per_cell < range->block_count && prof_page_has_room(map->page); c++) {
		size_t first = c * map->per_cell, end = first + map->per_cell;
		end = end > range->block_count ? range->block_count : end;
		fprintf(map->page->to,
			"<rect x=\"%.2f%%\" y=\"1\" width=\"%.2f%%\" height=\"%d\" data-h=\"%u\" data-b=\"%zu\"",
			100.0 * c / map->cells, 100.0 / map->cells, LINE_HEIGHT - 2, range->blocks[first], first);
		if (end - first > 1)
			fprintf(map->page->to, " data-e=\"%zu\"", end - 1);
		fputs("/>\n", map->page->to);
		if (map->per_cell == 1)
			print_cell_text(map, range, c, owner);
	}
	fputs("</g>\n", map->page->to);
}

/* K or V of all layers. */
static void print_side(const struct map *map, bool is_v)
{
	fprintf(map->page->to,
		"<svg class=\"cells%s\" width=\"100%%\" height=\"%zu\" data-side=\"%s\" role=\"group\" aria-label=\"%s "
		"of "
		"each layer, by block\">\n",
		map->cells > 16 ? " fine" : "", map->count * LINE_HEIGHT, is_v ? "V" : "K", is_v ? "V" : "K");
	for (size_t i = 0; i < map->count; i++)
		print_cells(map, i, is_v);
	fputs("</svg>\n", map->page->to);
}

/* ---- around the cells ---- */

static void print_labels(const struct map *map)
{
	fputs("<div class=\"lines\">", map->page->to);
	for (size_t i = 0; i < map->count; i++) {
		const struct line *line = &map->lines[i];
		const struct prof_kv_range *range = line->k ? line->k : line->v;
		fprintf(map->page->to, "<span data-layer=\"%d\" data-bytes=\"%llu\"%s>", line->layer,
			(unsigned long long)range->first_block_bytes, line->colour < 0 ? "" : " class=\"shares\"");
		if (line->layer >= 0)
			fprintf(map->page->to, "layer %d</span>", line->layer);
		else
			fputs("no layer</span>", map->page->to);
	}
	fputs("</div>\n", map->page->to);
}

static void print_arc(const struct map *map, size_t from, int owner, bool dashed)
{
	double y1 = LINE_HEIGHT * (owner + 0.5), y2 = LINE_HEIGHT * (from + 0.5);
	double far = 8 + (ARCS_WIDTH - 12) * 2.0 * (y2 > y1 ? y2 - y1 : y1 - y2) / (LINE_HEIGHT * (map->count + 1));

	far = far > ARCS_WIDTH - 4 ? ARCS_WIDTH - 4 : far;
	fprintf(map->page->to,
		"<path class=\"arc g%d\"%s d=\"M2 %.0fC%.0f %.0f %.0f %.0f 2 %.0f\"/><circle class=\"g%d\" cx=\"2\" "
		"cy=\"%.0f\" "
		"r=\"3\"/>\n",
		map->lines[from].colour + 1, dashed ? " stroke-dasharray=\"3 2\"" : "", y1, far * 1.3, y1, far * 1.3,
		y2, y2, map->lines[from].colour + 1, y1);
}

/* From each borrower to its owner; V's own where it differs from K's. */
static void print_arcs(const struct map *map)
{
	fprintf(map->page->to, "<svg class=\"arcs\" width=\"%d\" height=\"%zu\" aria-hidden=\"true\">\n", ARCS_WIDTH,
		map->count * LINE_HEIGHT);
	for (size_t i = 0; i < map->count; i++) {
		const struct line *line = &map->lines[i];
		if (line->k_owner >= 0)
			print_arc(map, i, line->k_owner, false);
		if (line->v_owner >= 0 && line->v_owner != line->k_owner)
			print_arc(map, i, line->v_owner, true);
	}
	fputs("</svg>\n", map->page->to);
}

/* Where arcs would be a tangle. */
static void print_owners(const struct map *map)
{
	fputs("<div class=\"lines\">", map->page->to);
	for (size_t i = 0; i < map->count; i++) {
		const struct line *line = &map->lines[i];
		int owner = line->k_owner >= 0 ? line->k_owner : line->v_owner;
		if (owner >= 0)
			fprintf(map->page->to, "<span>of %d</span>", map->lines[owner].layer);
		else
			fputs("<span>&nbsp;</span>", map->page->to);
	}
	fputs("</div>\n", map->page->to);
}

static void print_summary(const struct map *map)
{
	if (map->borrowers)
		fprintf(map->page->to,
			"<p>%zu of %zu layers read the blocks of another layer. The same colour is the same physical "
			"memory: "
			"filled where it is owned, framed where it is borrowed.",
			map->borrowers, map->count);
	else
		fprintf(map->page->to, "<p>Each of the %zu layers has blocks of its own: nothing is shared.",
			map->count);
	if (map->per_cell > 1)
		fprintf(map->page->to, " A cell is %zu blocks.", map->per_cell);
	fputs("</p>\n", map->page->to);
}

static void print_map(const struct map *map)
{
	print_summary(map);
	fprintf(map->page->to, "<div class=\"map%s\" data-cells><b></b>", map->sides[0] && map->sides[1] ? "" : " one");
	for (int v = 0; v < 2; v++)
		if (map->sides[v])
			fprintf(map->page->to, "<b>%s</b>", v ? "V" : "K");
	fputs("<b></b>\n", map->page->to);
	print_labels(map);
	for (int v = 0; v < 2; v++)
		if (map->sides[v])
			print_side(map, v);
	if (map->borrowers <= MOST_ARCS)
		print_arcs(map);
	else
		print_owners(map);
	fputs("</div>\n<p class=\"readout\" aria-live=\"polite\">Point at a block, or move to it with the arrow "
	      "keys.</p>\n",
		map->page->to);
}

static int print_process(struct prof_page *page, uint32_t process, size_t *lines_left)
{
	struct map map = {.page = page};
	size_t rest = 0;
	int err = add_lines(&map, process);

	if (err)
		return err;
	if (map.count > *lines_left) {
		rest = map.count - *lines_left;
		map.count = *lines_left;
	}
	*lines_left -= map.count;
	if (map.count) {
		colour_lines(&map);
		measure(&map);
		if (page->report->process_count > 1)
			fprintf(page->to, "<h3>Process %u</h3>\n", page->report->processes[process]->pid);
		print_map(&map);
	}
	prof_page_rest(page, rest, 0);
	free(map.lines);
	return 0;
}

int prof_page_kv_map(struct prof_page *page, const char *id, const char *title)
{
	const kvs_report *r = page->report;
	size_t lines_left = MOST_LINES;
	int err = 0;

	prof_page_begin(page, id, title, false);
	page->part_bytes = PROF_PAGE_MAP;
	if (!r->kv.count)
		fputs("<p class=\"note\">No memory was named as a layer's K or V.</p>\n", page->to);
	for (size_t i = 0; i < r->kv.count && !err; i++)
		if (!i || r->kv.list[i].process != r->kv.list[i - 1].process)
			err = print_process(page, r->kv.list[i].process, &lines_left);
	prof_page_end(page);
	return err;
}
