/*
 * profiler/report/html.c: a report as one HTML file that needs nothing else: the head, and the parts in their order.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>

extern const char prof_page_css[], prof_page_js[]; /* assets.S */

void prof_page_head(struct prof_page *page, const char *title, const char *path)
{
	fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	      /* Nothing is asked for from anywhere, not even an icon. */
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
	      "script-src 'unsafe-inline'; img-src data:\">\n<link rel=\"icon\" href=\"data:,\">\n"
	      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
		page->to);
	fputs(title, page->to);
	prof_page_name(page, path);
	fprintf(page->to, "</title>\n<style>\n%s</style>\n</head>\n<body>\n", prof_page_css);
}

void prof_page_foot(struct prof_page *page)
{
	fprintf(page->to, "<script>\n%s</script>\n</body>\n</html>\n", prof_page_js);
}

static int print_parts(struct prof_page *page)
{
	int err;

	prof_page_cards(page);
	fputs("<main>\n", page->to);
	prof_page_memory(page);
	err = prof_page_kv_map(page, "kv", "KV map: which layer holds which physical block");
	prof_page_at_peak(page);
	if (!err)
		err = prof_page_stacks(page);
	if (!err)
		err = prof_page_kernels(page);
	if (!err)
		err = prof_page_calls(page);
	prof_page_phases(page);
	prof_page_leaks(page);
	prof_page_findings(page);
	prof_page_processes(page);
	prof_page_caveats(page);
	fputs("</main>\n", page->to);
	return err;
}

int kvs_report_html(const kvs_report *report, char **text)
{
	size_t bytes;
	struct prof_page page = {.report = report, .to = open_memstream(text, &bytes)};
	int err;

	if (!page.to)
		return kvs_fail(-ENOMEM, "no memory for the report");
	prof_page_head(&page, "kvshare report: ", report->path);
	err = print_parts(&page);
	prof_page_foot(&page);
	if (fclose(page.to) || err) {
		free(*text);
		*text = NULL;
		return kvs_fail(-ENOMEM, "no memory for the report");
	}
	return 0;
}
