/*
 * profiler/report/page.c: how the parts of the HTML report write: names, figures, headings, the room that a part has.
 */
#include "page.h"

#include "../../chart/chart.h"
#include "../../driver/cu.h"

#include <string.h>

/* ---- text ---- */

void prof_page_name(struct prof_page *page, const char *text)
{
	char shown[PROF_PAGE_NAME];

	kvs_chart_escape(page->to, kvs_visible(text, shown, sizeof(shown)));
}

void prof_page_size(struct prof_page *page, uint64_t bytes)
{
	char text[PROF_UNIT_TEXT];

	fputs(prof_size_text(bytes, text), page->to);
}

void prof_page_time(struct prof_page *page, uint64_t ns)
{
	char text[PROF_UNIT_TEXT];

	fputs(prof_duration_text(ns, text), page->to);
}

void prof_page_count(struct prof_page *page, uint64_t count)
{
	char digits[32];
	int length = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);

	for (int i = 0; i < length; i++) {
		if (i && (length - i) % 3 == 0)
			fputs("&#8239;", page->to); /* a narrow space that does not break */
		fputc(digits[i], page->to);
	}
}

void prof_page_cell(struct prof_page *page, uint64_t number, void (*show)(struct prof_page *, uint64_t))
{
	fprintf(page->to, "<td class=\"n\" data-n=\"%llu\">", (unsigned long long)number);
	show(page, number);
	fputs("</td>", page->to);
}

double prof_page_s(const struct prof_page *page, uint64_t time_ns)
{
	return 1e-9 * ((double)time_ns - page->report->start_ns);
}

/* ---- parts ---- */

void prof_page_begin(struct prof_page *page, const char *id, const char *title, bool wide)
{
	page->part_start = ftell(page->to);
	page->part_bytes = PROF_PAGE_PART;
	fprintf(page->to, "<section id=\"%s\"%s aria-labelledby=\"h-%s\"><h2 id=\"h-%s\">%s</h2>\n", id,
		wide ? " class=\"wide\"" : "", id, id, title);
}

void prof_page_end(struct prof_page *page)
{
	fputs("</section>\n", page->to);
}

bool prof_page_has_room(const struct prof_page *page)
{
	return ftell(page->to) - page->part_start < page->part_bytes;
}

void prof_page_rest(struct prof_page *page, size_t count, uint64_t bytes)
{
	if (!count)
		return;
	fputs("<p class=\"note\">", page->to);
	prof_page_count(page, count);
	fputs(" more", page->to);
	if (bytes) {
		fputs(", ", page->to);
		prof_page_size(page, bytes);
		fputs(" in all,", page->to);
	}
	fputs(count == 1 ? " is not shown; the JSON has it.</p>\n" : " are not shown; the JSON has them.</p>\n",
		page->to);
}
