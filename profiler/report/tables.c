/*
 * profiler/report/tables.c: who held memory at the peak and at the end, what a program did wrong, and the processes.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <sys/wait.h>

#define MOST_ROWS 200
#define MOST_FRAMES 12 /* of a stack, in a table */

static void print_frame(struct prof_page *page, uint32_t stack, unsigned i)
{
	char text[PROF_FRAME_TEXT];

	prof_page_name(page, prof_frame_text(page->report, &page->report->stacks[stack - 1]->frames[i], text));
}

/* The place that called the driver; the whole stack on demand. */
static void print_stack(struct prof_page *page, uint32_t number)
{
	const struct prof_stack *stack = number ? page->report->stacks[number - 1] : NULL;

	fputs("<td>", page->to);
	if (!stack || !stack->count) {
		fputs("</td>", page->to);
		return;
	}
	if (stack->count > 1)
		fputs("<details><summary>", page->to);
	print_frame(page, number, prof_stack_place(page->report, stack));
	if (stack->count > 1) {
		fputs("</summary><ol>", page->to);
		for (unsigned i = 0; i < stack->count && i < MOST_FRAMES; i++) {
			fputs("<li>", page->to);
			print_frame(page, number, i);
			fputs("</li>", page->to);
		}
		fputs("</ol></details>", page->to);
	}
	fputs("</td>", page->to);
}

static void print_function(struct prof_page *page, const char *function)
{
	fputs("<td><code>", page->to);
	prof_page_name(page, function ? function : "");
	fputs("</code></td>", page->to);
}

/* ---- holders ---- */

static void print_share(struct prof_page *page, uint64_t bytes, uint64_t all, enum kvs_memory_kind kind)
{
	fprintf(page->to,
		"<td class=\"bar\"><svg width=\"100%%\" height=\"12\" aria-hidden=\"true\"><rect class=\"k%d\" "
		"width=\"%.2f%%\" height=\"12\"/></svg></td>",
		kind, all ? 100.0 * bytes / all : 0);
}

static void print_holder(struct prof_page *page, const struct prof_holder *h, uint64_t all)
{
	const kvs_report *r = page->report;

	fputs("<tr>", page->to);
	prof_page_cell(page, h->bytes, prof_page_size);
	print_share(page, h->bytes, all, h->kind);
	fprintf(page->to, "<td>%s</td><td class=\"n\" data-n=\"%d\">", kvs_memory_kind_name(h->kind), h->layer);
	if (h->layer >= 0)
		fprintf(page->to, "%d", h->layer);
	fputs("</td>", page->to);
	prof_page_cell(page, h->count, prof_page_count);
	print_function(page, h->function);
	if (r->process_count > 1)
		fprintf(page->to, "<td class=\"n\" data-n=\"%u\">%u</td>", r->processes[h->process]->pid,
			r->processes[h->process]->pid);
	fprintf(page->to, "<td class=\"n\" data-n=\"%llu\">%.3f s</td>", (unsigned long long)h->born_ns,
		prof_page_s(page, h->born_ns));
	if (r->stack_keys.count)
		print_stack(page, h->stack);
	fputs("</tr>\n", page->to);
}

static void print_heads(struct prof_page *page, const char *const *heads)
{
	fputs("<thead><tr>", page->to);
	for (; *heads; heads++)
		fprintf(page->to, "<th scope=\"col\">%s</th>", *heads);
	fputs("</tr></thead>\n<tbody>\n", page->to);
}

static void print_holders(struct prof_page *page, const struct prof_holders *holders, const char *id, const char *name)
{
	const kvs_report *r = page->report;
	const char *heads[12] = {"bytes", "share", "kind", "layer", "count", "function"};
	unsigned count = 6;
	uint64_t all = 0, shown = 0;
	size_t i;

	for (i = 0; i < holders->count; i++)
		all += holders->list[i].bytes;
	if (r->process_count > 1)
		heads[count++] = "process";
	heads[count++] = "since";
	if (r->stack_keys.count)
		heads[count++] = "place";
	fprintf(page->to,
		"<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"%s\"><table id=\"%s\" "
		"class=\"sortable\">",
		name, id);
	print_heads(page, heads);
	for (i = 0; i < holders->count && i < MOST_ROWS && prof_page_has_room(page); i++) {
		print_holder(page, &holders->list[i], all);
		shown += holders->list[i].bytes;
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, holders->count - i, all - shown);
}

void prof_page_at_peak(struct prof_page *page)
{
	prof_page_begin(page, "at-peak", "Who held it at the peak", false);
	if (page->report->at_peak.count)
		print_holders(page, &page->report->at_peak, "peak-table", "Who held memory at the peak");
	else
		fputs("<p class=\"note\">Nobody held device memory.</p>\n", page->to);
	prof_page_end(page);
}

void prof_page_leaks(struct prof_page *page)
{
	const kvs_report *r = page->report;
	bool ended = false;

	for (size_t i = 0; i < r->process_count; i++)
		ended |= r->processes[i]->ended;
	prof_page_begin(page, "leaks", "Leaks: held at the end", false);
	if (r->leaks.count)
		print_holders(page, &r->leaks, "leak-table", "What was held at the end");
	else
		fprintf(page->to, "<p class=\"note\">%s</p>\n",
			ended ? "All that was taken was given back." : "No process was seen to end.");
	prof_page_end(page);
}

/* ---- findings ---- */

static void print_finding(struct prof_page *page, const struct prof_process *p, const struct prof_finding *f)
{
	fprintf(page->to, "<tr><td class=\"bad\">%s</td>", prof_finding_name(f->kind));
	print_function(page, f->function);
	fprintf(page->to, "<td class=\"n\" data-n=\"%llu\"><code>0x%llx</code></td>", (unsigned long long)f->address,
		(unsigned long long)f->address);
	prof_page_cell(page, f->count, prof_page_count);
	fprintf(page->to, "<td class=\"n\" data-n=\"%llu\">%.3f s</td><td class=\"n\" data-n=\"%u\">%u</td>",
		(unsigned long long)f->time_ns, prof_page_s(page, f->time_ns), p->pid, p->pid);
	print_stack(page, f->stack);
	fputs("</tr>\n", page->to);
}

void prof_page_findings(struct prof_page *page)
{
	static const char *const heads[] = {"what", "function", "address", "count", "first", "process", "place", NULL};
	const kvs_report *r = page->report;
	size_t count = 0, shown = 0;

	for (size_t i = 0; i < r->process_count; i++)
		count += r->processes[i]->account.finding_count;
	prof_page_begin(page, "findings", "Findings: faults in the use of memory", false);
	if (!count) {
		fputs("<p class=\"note\">None: nothing was used after it was given back, given back twice or mapped "
		      "twice.</p>\n",
			page->to);
		prof_page_end(page);
		return;
	}
	fputs("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Findings\"><table class=\"sortable\">",
		page->to);
	print_heads(page, heads);
	for (size_t i = 0; i < r->process_count; i++) {
		const struct prof_account *account = &r->processes[i]->account;
		for (unsigned f = 0; f < account->finding_count && shown < MOST_ROWS && prof_page_has_room(page);
			f++, shown++)
			print_finding(page, r->processes[i], &account->findings[f]);
	}
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, count - shown, 0);
	prof_page_end(page);
}

/* ---- processes ---- */

static void print_end(struct prof_page *page, const struct prof_process *p)
{
	if (!p->ended)
		fputs("<td>not seen</td>", page->to);
	else if (p->status < 0)
		fputs("<td>ended</td>", page->to);
	else if (WIFSIGNALED(p->status))
		fprintf(page->to, "<td class=\"bad\">signal %d</td>", WTERMSIG(p->status));
	else
		fprintf(page->to, "<td>exit %d</td>", WEXITSTATUS(p->status));
}

static void print_process(struct prof_page *page, const struct prof_process *p)
{
	fprintf(page->to, "<tr><td class=\"n\" data-n=\"%u\">%u</td><td class=\"command\"><code>", p->pid, p->pid);
	prof_page_name(page, p->command);
	fputs("</code></td><td>", page->to);
	prof_page_name(page, p->device);
	fprintf(page->to, "</td><td>%s</td>", prof_source_name(p->source));
	prof_page_cell(page, p->peak.physical, prof_page_size);
	prof_page_cell(page, p->peak.saved, prof_page_size);
	prof_page_cell(page, p->untracked, prof_page_size);
	print_end(page, p);
	fputs("</tr>\n", page->to);
}

void prof_page_processes(struct prof_page *page)
{
	static const char *const heads[] = {
		"process", "command", "device", "source", "peak", "saved", "untracked", "end", NULL};
	const kvs_report *r = page->report;
	size_t i;

	prof_page_begin(page, "processes", "Processes", false);
	fputs("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Processes\"><table class=\"sortable\">",
		page->to);
	print_heads(page, heads);
	for (i = 0; i < r->process_count && i < MOST_ROWS && prof_page_has_room(page); i++)
		print_process(page, r->processes[i]);
	fputs("</tbody></table></div>\n", page->to);
	prof_page_rest(page, r->process_count - i, 0);
	prof_page_end(page);
}
