/*
 * profiler/report/times.c: where time went: kernels by class and layer, the driver's functions, phases, copies.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS 60
#define MOST_CLASSES 16
#define MOST_LAYERS 200
#define FIRST_POWER 6 /* the axis of latencies: 64 ns to 2^36 ns, a minute */
#define LAST_POWER 36

static int slower(const void *left, const void *right)
{
	const struct prof_timing *a = *(struct prof_timing *const *)left, *b = *(struct prof_timing *const *)right;

	return a->latency.total_ns > b->latency.total_ns ? -1 : a->latency.total_ns < b->latency.total_ns;
}

/* The slowest first; the caller frees it. */
static struct prof_timing **sorted(struct prof_timing **list, size_t count)
{
	struct prof_timing **copy = malloc((count + 1) * sizeof(*copy));

	if (!copy)
		return NULL;
	if (count)
		memcpy(copy, list, count * sizeof(*copy));
	qsort(copy, count, sizeof(*copy), slower);
	return copy;
}

static void print_heads(struct prof_page *page, const char *name, const char *const *heads)
{
	fprintf(page->to,
		"<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"%s\"><table "
		"class=\"sortable\"><thead><tr>",
		name);
	for (; *heads; heads++)
		fprintf(page->to, "<th scope=\"col\">%s</th>", *heads);
	fputs("</tr></thead>\n<tbody>\n", page->to);
}

static void print_quantiles(struct prof_page *page, const struct prof_histogram *h)
{
	prof_page_cell(page, h->count, prof_page_count);
	prof_page_cell(page, h->total_ns, prof_page_time);
	prof_page_cell(page, prof_histogram_quantile(h, 0.5), prof_page_time);
	prof_page_cell(page, prof_histogram_quantile(h, 0.99), prof_page_time);
}

/* ---- kernels ---- */

struct sums {
	const char *classes[MOST_CLASSES];
	uint64_t class_ns[MOST_CLASSES], all_ns;
	int layers[MOST_LAYERS];
	uint64_t layer_ns[MOST_LAYERS][MOST_CLASSES];
	unsigned class_count, layer_count;
};

static unsigned class_of(struct sums *sums, const char *name)
{
	const char *class = prof_kernel_class(name);
	unsigned c = 0;

	while (c < sums->class_count && strcmp(sums->classes[c], class))
		c++;
	if (c == sums->class_count && c < MOST_CLASSES)
		sums->classes[sums->class_count++] = class;
	return c < MOST_CLASSES ? c : MOST_CLASSES - 1;
}

/* MOST_LAYERS: there is no place for one more. */
static unsigned layer_of(struct sums *sums, int layer)
{
	unsigned l = 0;

	while (l < sums->layer_count && sums->layers[l] != layer)
		l++;
	if (l == sums->layer_count && l < MOST_LAYERS)
		sums->layers[sums->layer_count++] = layer;
	return l;
}

static void sum_up(const kvs_report *r, struct sums *sums)
{
	for (size_t i = 0; i < r->kernel_names.intern.count; i++) {
		const struct prof_timing *t = r->kernels[i];
		unsigned class = class_of(sums, t->name), layer = layer_of(sums, t->layer);
		sums->class_ns[class] += t->latency.total_ns;
		sums->all_ns += t->latency.total_ns;
		if (layer < MOST_LAYERS)
			sums->layer_ns[layer][class] += t->latency.total_ns;
	}
}

static void print_classes(struct prof_page *page, const struct sums *sums)
{
	bool done[MOST_CLASSES] = {false};

	fputs("<table class=\"bars\"><caption>by class</caption><tbody>\n", page->to);
	for (unsigned n = 0; n < sums->class_count; n++) {
		unsigned best = MOST_CLASSES;
		double share;
		for (unsigned c = 0; c < sums->class_count; c++)
			if (!done[c] && (best == MOST_CLASSES || sums->class_ns[c] > sums->class_ns[best]))
				best = c;
		done[best] = true;
		share = sums->all_ns ? 100.0 * sums->class_ns[best] / sums->all_ns : 0;
		fprintf(page->to, "<tr><th scope=\"row\"><i class=\"c%u\"></i>%s</th><td class=\"n\">", best % 8,
			sums->classes[best]);
		prof_page_time(page, sums->class_ns[best]);
		fprintf(page->to,
			"</td><td class=\"n\">%.1f&nbsp;%%</td><td class=\"bar\"><svg width=\"100%%\" height=\"14\" "
			"aria-hidden=\"true\"><rect class=\"c%u\" width=\"%.2f%%\" height=\"14\"/></svg></td></tr>\n",
			share, best % 8, share);
	}
	fputs("</tbody></table>\n", page->to);
}

static uint64_t layer_sum(const struct sums *sums, unsigned layer)
{
	uint64_t sum = 0;

	for (unsigned c = 0; c < sums->class_count; c++)
		sum += sums->layer_ns[layer][c];
	return sum;
}

static void print_layer(struct prof_page *page, const struct sums *sums, unsigned layer, uint64_t most)
{
	double x = 0;

	fputs("<tr><th scope=\"row\">", page->to);
	if (sums->layers[layer] >= 0)
		fprintf(page->to, "layer %d", sums->layers[layer]);
	else
		fputs("no layer", page->to);
	fputs("</th><td class=\"n\">", page->to);
	prof_page_time(page, layer_sum(sums, layer));
	fputs("</td><td class=\"bar\"><svg width=\"100%\" height=\"14\" role=\"img\" aria-label=\"by class\">",
		page->to);
	for (unsigned c = 0; c < sums->class_count; c++) {
		double width = most ? 100.0 * sums->layer_ns[layer][c] / most : 0;
		if (width <= 0)
			continue;
		fprintf(page->to, "<rect class=\"c%u\" x=\"%.2f%%\" width=\"%.2f%%\" height=\"14\"><title>%s ", c % 8,
			x, width, sums->classes[c]);
		prof_page_time(page, sums->layer_ns[layer][c]);
		fputs("</title></rect>", page->to);
		x += width;
	}
	fputs("</svg></td></tr>\n", page->to);
}

static int by_number(const void *left, const void *right)
{
	const int *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

static void print_layers(struct prof_page *page, struct sums *sums)
{
	int order[MOST_LAYERS];
	uint64_t most = 0;

	if (sums->layer_count < 2 && (!sums->layer_count || sums->layers[0] < 0))
		return;
	memcpy(order, sums->layers, sizeof(order));
	qsort(order, sums->layer_count, sizeof(*order), by_number);
	for (unsigned l = 0; l < sums->layer_count; l++)
		most = layer_sum(sums, l) > most ? layer_sum(sums, l) : most;
	fputs("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Kernel time by layer\"><table "
	      "class=\"bars\"><caption>by layer</caption><tbody>\n",
		page->to);
	for (unsigned l = 0; l < sums->layer_count && prof_page_has_room(page); l++)
		print_layer(page, sums, layer_of(sums, order[l]), most);
	fputs("</tbody></table></div>\n", page->to);
}

static void print_kernels(struct prof_page *page, struct prof_timing **kernels, size_t count)
{
	static const char *const heads[] = {"kernel", "layer", "n", "total", "p50", "p99", NULL};
	size_t i;

	print_heads(page, "Kernels", heads);
	for (i = 0; i < count && i < MOST_ROWS && prof_page_has_room(page); i++) {
		fputs("<tr><td><code>", page->to);
		prof_page_name(page, kernels[i]->name);
		fprintf(page->to, "</code></td><td class=\"n\" data-n=\"%d\">", kernels[i]->layer);
		if (kernels[i]->layer >= 0)
			fprintf(page->to, "%d", kernels[i]->layer);
		fputs("</td>", page->to);
		print_quantiles(page, &kernels[i]->latency);
		fputs("</tr>\n", page->to);
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, count - i, 0);
}

int prof_page_kernels(struct prof_page *page)
{
	const kvs_report *r = page->report;
	size_t count = r->kernel_names.intern.count;
	struct sums *sums = calloc(1, sizeof(*sums));
	struct prof_timing **kernels = sorted(r->kernels, count);

	if (!sums || !kernels) {
		free(sums);
		free(kernels);
		return kvs_fail(-ENOMEM, "no memory for the report");
	}
	prof_page_begin(page, "kernels", "Kernel time", false);
	if (!count) {
		fputs("<p class=\"note\">No kernel was timed.</p>\n", page->to);
	} else {
		sum_up(r, sums);
		print_classes(page, sums);
		print_layers(page, sums);
		print_kernels(page, kernels, count);
	}
	prof_page_end(page);
	free(sums);
	free(kernels);
	return 0;
}

/* ---- calls ---- */

static double latency_x(uint64_t ns)
{
	double power = ns ? log2(ns) : 0, x = (power - FIRST_POWER) / (LAST_POWER - FIRST_POWER);

	return 100 * (x < 0 ? 0 : x > 1 ? 1 : x);
}

/* A bar for each power of two; heights are logarithmic, so that a single slow call shows beside a million. */
static void print_histogram(struct prof_page *page, const struct prof_histogram *h)
{
	uint64_t most = 1;

	for (unsigned p = 0; p < 61; p++)
		most = prof_histogram_in_power(h, p) > most ? prof_histogram_in_power(h, p) : most;
	fputs("<td class=\"histogram\"><svg width=\"100%\" height=\"26\" aria-hidden=\"true\">", page->to);
	for (unsigned p = 0; p < 61; p++) {
		uint64_t count = prof_histogram_in_power(h, p);
		double height = count ? 3 + 21 * log1p(count) / log1p(most) : 0;
		if (count)
			fprintf(page->to, "<rect x=\"%.2f%%\" width=\"%.2f%%\" y=\"%.1f\" height=\"%.1f\"/>",
				latency_x(1ull << p), 100.0 / (LAST_POWER - FIRST_POWER) - 0.3, 26 - height, height);
	}
	for (int q = 0; q < 2; q++) {
		double x = latency_x(prof_histogram_quantile(h, q ? 0.99 : 0.5));
		fprintf(page->to, "<line class=\"q%d\" x1=\"%.2f%%\" x2=\"%.2f%%\" y2=\"26\"/>", q, x, x);
	}
	fputs("</svg></td>", page->to);
}

static void print_axis(struct prof_page *page)
{
	static const struct {
		uint64_t ns;
		const char *text;
	} ticks[] = {{1000, "1 us"}, {1000000, "1 ms"}, {1000000000, "1 s"}};

	fputs("<th scope=\"col\" data-fixed class=\"histogram\"><svg width=\"100%\" height=\"16\" role=\"img\" "
	      "aria-label=\"latency, from 64 ns to a minute\">",
		page->to);
	for (size_t i = 0; i < sizeof(ticks) / sizeof(*ticks); i++)
		fprintf(page->to, "<text x=\"%.2f%%\" y=\"12\" text-anchor=\"middle\">%s</text>",
			latency_x(ticks[i].ns), ticks[i].text);
	fputs("</svg></th>", page->to);
}

static void print_calls(struct prof_page *page, struct prof_timing **functions, size_t count)
{
	size_t i;

	fputs("<p>A bar counts the calls of one power of two, on a logarithmic scale; the lines are "
	      "<b class=\"q0\">p50</b> and <b class=\"q1\">p99</b>.</p>\n<div class=\"scroll\" tabindex=\"0\" "
	      "role=\"group\" "
	      "aria-label=\"Calls of the driver\"><table id=\"call-table\" class=\"sortable\"><thead><tr>"
	      "<th scope=\"col\">function</th>",
		page->to);
	print_axis(page);
	fputs("<th scope=\"col\">n</th><th scope=\"col\">total</th><th "
	      "scope=\"col\">p50</th>"
	      "<th scope=\"col\">p99</th><th scope=\"col\">max</th><th "
	      "scope=\"col\">failed</th></tr></thead>\n<tbody>\n",
		page->to);
	for (i = 0; i < count && i < MOST_ROWS && prof_page_has_room(page); i++) {
		fputs("<tr><td><code>", page->to);
		prof_page_name(page, functions[i]->name);
		fputs("</code></td>", page->to);
		print_histogram(page, &functions[i]->latency);
		print_quantiles(page, &functions[i]->latency);
		prof_page_cell(page, functions[i]->latency.max_ns, prof_page_time);
		prof_page_cell(page, functions[i]->failures, prof_page_count);
		fputs("</tr>\n", page->to);
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, count - i, 0);
}

int prof_page_calls(struct prof_page *page)
{
	const kvs_report *r = page->report;
	size_t count = r->function_names.intern.count;
	struct prof_timing **functions = sorted(r->functions, count);

	if (!functions)
		return kvs_fail(-ENOMEM, "no memory for the report");
	prof_page_begin(page, "calls", "Calls of the driver", false);
	if (count)
		print_calls(page, functions, count);
	else
		fputs("<p class=\"note\">No call was seen.</p>\n", page->to);
	prof_page_end(page);
	free(functions);
	return 0;
}

/* ---- phases, copies, spans ---- */

static void print_phase_table(struct prof_page *page)
{
	static const char *const heads[] = {"phase", "n", "total", "p50", "p99", "tokens", "tokens/s", NULL};
	const kvs_report *r = page->report;
	size_t count = r->phase_names.intern.count, i;

	print_heads(page, "Phases", heads);
	for (i = 0; i < count && i < MOST_ROWS && prof_page_has_room(page); i++) {
		const struct prof_phase *p = r->phases[i];
		double rate = p->duration.total_ns ? 1e9 * p->tokens / p->duration.total_ns : 0;
		fputs("<tr><td>", page->to);
		prof_page_name(page, p->name);
		fputs("</td>", page->to);
		print_quantiles(page, &p->duration);
		prof_page_cell(page, p->tokens, prof_page_count);
		if (p->tokens)
			fprintf(page->to, "<td class=\"n\" data-n=\"%.3f\">%.1f</td></tr>\n", rate, rate);
		else
			fputs("<td></td></tr>\n", page->to);
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, count - i, 0);
}

static void print_copies(struct prof_page *page)
{
	static const char *const heads[] = {"copies", "n", "total", "p50", "p99", "bytes", NULL};
	const kvs_report *r = page->report;
	uint64_t count = 0;

	for (int k = 0; k < KVS_COPY_KINDS; k++)
		count += r->copies[k].duration.count;
	if (!count)
		return;
	print_heads(page, "Copies", heads);
	for (int k = 0; k < KVS_COPY_KINDS; k++) {
		if (!r->copies[k].duration.count)
			continue;
		fprintf(page->to, "<tr><td>%s</td>", prof_copy_name(k));
		print_quantiles(page, &r->copies[k].duration);
		prof_page_cell(page, r->copies[k].bytes, prof_page_size);
		fputs("</tr>\n", page->to);
	}
	fputs("</tbody></table></div>\n", page->to);
}

static void print_spans(struct prof_page *page)
{
	static const char *const heads[] = {"range or overhead", "kind", "n", "total", "max", NULL};
	const kvs_report *r = page->report;
	size_t count = r->span_names.intern.count, i;

	if (!count)
		return;
	print_heads(page, "Ranges and overheads", heads);
	for (i = 0; i < count && i < MOST_ROWS && prof_page_has_room(page); i++) {
		fputs("<tr><td>", page->to);
		prof_page_name(page, r->spans[i]->name);
		fprintf(page->to, "</td><td>%s</td>", prof_span_name(r->spans[i]->kind));
		prof_page_cell(page, r->spans[i]->count, prof_page_count);
		prof_page_cell(page, r->spans[i]->total_ns, prof_page_time);
		prof_page_cell(page, r->spans[i]->max_ns, prof_page_time);
		fputs("</tr>\n", page->to);
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, count - i, 0);
}

void prof_page_phases(struct prof_page *page)
{
	prof_page_begin(page, "phases", "Phases and copies", false);
	if (page->report->phase_names.intern.count)
		print_phase_table(page);
	else
		fputs("<p class=\"note\">No phase was named.</p>\n", page->to);
	print_copies(page);
	print_spans(page);
	prof_page_end(page);
}
