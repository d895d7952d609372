/*
 * profiler/report/cards.c: the head of the page, which is the answer in one glance, and the caveats, which say what the
 * figures leave out.
 */
#include "page.h"

#include "../../driver/cu.h"

#include <string.h>

/* ---- head ---- */

static void print_title(struct prof_page *page)
{
	const kvs_report *r = page->report;
	const struct prof_process *first = r->process_count ? r->processes[0] : NULL;

	fputs("<header><h1>Where the GPU memory went</h1>\n<p class=\"run\"><code>", page->to);
	prof_page_name(page, first ? first->command : "");
	fputs("</code>", page->to);
	if (r->process_count > 1)
		fprintf(page->to, " and %zu more %s", r->process_count - 1,
			r->process_count == 2 ? "process" : "processes");
	fputs("</p>\n<p class=\"run\">", page->to);
	if (first && *first->device) {
		prof_page_name(page, first->device);
		fputs(" · ", page->to);
	}
	prof_page_time(page, r->end_ns - r->start_ns);
	fputs(" · ", page->to);
	prof_page_count(page, r->health.events);
	fputs(" events · ", page->to);
	prof_page_name(page, r->path);
	fputs("</p>\n", page->to);
}

static uint64_t kv_bytes(const struct prof_totals *totals)
{
	return totals->by_kind[KVS_MEMORY_K] + totals->by_kind[KVS_MEMORY_V];
}

/* The kind that holds most, K and V being one. */
static const char *largest_kind(const struct prof_totals *peak, uint64_t *bytes)
{
	const char *name = "KV cache";

	*bytes = kv_bytes(peak);
	for (int k = 0; k < KVS_MEMORY_KINDS; k++) {
		if (k == KVS_MEMORY_K || k == KVS_MEMORY_V || peak->by_kind[k] <= *bytes)
			continue;
		*bytes = peak->by_kind[k];
		name = k == KVS_MEMORY_UNKNOWN ? "memory that nobody named" : kvs_memory_kind_name(k);
	}
	return name;
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * part / whole : 0;
}

static void print_verdict(struct prof_page *page)
{
	const struct prof_totals *peak = &page->report->peak;
	uint64_t bytes;
	const char *kind = largest_kind(peak, &bytes);

	fputs("<p class=\"verdict\">", page->to);
	if (!peak->physical) {
		fputs("No device memory was seen.</p>\n", page->to);
		return;
	}
	fputs("The peak was <b>", page->to);
	prof_page_size(page, peak->physical);
	fprintf(page->to, "</b>, %.0f&nbsp;%% of it %s. ", percent(bytes, peak->physical), kind);
	if (peak->saved) {
		fputs("Without sharing it would have been ", page->to);
		prof_page_size(page, peak->physical + peak->saved);
		fputs(": <b class=\"saved\">", page->to);
		prof_page_size(page, peak->saved);
		fprintf(page->to, " saved</b>.");
	} else {
		fputs("Nothing was shared.", page->to);
	}
	fputs("</p>\n", page->to);
}

/* ---- cards ---- */

static void begin_card(struct prof_page *page, const char *title, const char *class, const char *path, uint64_t value)
{
	fprintf(page->to,
		"<div class=\"card %s\"><dt>%s</dt><dd><span class=\"big\" data-json=\"%s\" data-value=\"%llu\">",
		class, title, path, (unsigned long long)value);
}

/* Below the figure, in small: what it is to be compared with. */
static void end_card(struct prof_page *page, const char *note)
{
	fprintf(page->to, "</span><small>%s</small></dd></div>\n", note);
}

static void size_card(struct prof_page *page, const char *title, const char *class, const char *path, uint64_t value,
	const char *note)
{
	begin_card(page, title, class, path, value);
	prof_page_size(page, value);
	end_card(page, note);
}

static void peak_card(struct prof_page *page)
{
	const kvs_report *r = page->report;
	char note[64] = "no memory was seen";

	if (r->peak_event)
		snprintf(note, sizeof(note), "of the device, at %.2f s", prof_page_s(page, r->peak_ns));
	size_card(page, "Peak physical", "", "memory.peak_physical_bytes", r->peak.physical, note);
}

static void saved_card(struct prof_page *page)
{
	const struct prof_totals *peak = &page->report->peak;
	char note[64] = "no block is mapped twice";

	if (peak->saved)
		snprintf(note, sizeof(note), "%.1f&nbsp;%% of what it would have been",
			percent(peak->saved, peak->physical + peak->saved));
	size_card(page, "Saved by sharing", peak->saved ? "accent" : "", "memory.saved_bytes", peak->saved, note);
}

static void kv_card(struct prof_page *page)
{
	const struct prof_totals *peak = &page->report->peak;
	char note[64];

	snprintf(note, sizeof(note), "%.1f&nbsp;%% of the peak", percent(kv_bytes(peak), peak->physical));
	size_card(page, "KV cache", "", "memory.kv_bytes", kv_bytes(peak), note);
}

/* The two kinds with most of it by name. */
static void unfilled_card(struct prof_page *page)
{
	const struct prof_totals *peak = &page->report->peak;
	int most = -1, next = -1;
	char note[128], a[PROF_UNIT_TEXT], b[PROF_UNIT_TEXT];
	uint64_t of_most, of_next;

	for (int k = 0; k < KVS_MEMORY_KINDS; k++) {
		if (most < 0 || prof_unfilled(peak, k) > prof_unfilled(peak, most)) {
			next = most;
			most = k;
		} else if (next < 0 || prof_unfilled(peak, k) > prof_unfilled(peak, next)) {
			next = k;
		}
	}
	of_most = prof_unfilled(peak, most);
	of_next = prof_unfilled(peak, next);
	if (!of_most)
		snprintf(note, sizeof(note), "blocks are full, as far as was told");
	else if (!of_next)
		snprintf(note, sizeof(note), "inside of blocks: all %s", kvs_memory_kind_name(most));
	else
		snprintf(note, sizeof(note), "inside of blocks: %s %s, %s %s", kvs_memory_kind_name(most),
			prof_size_text(of_most, a), kvs_memory_kind_name(next), prof_size_text(of_next, b));
	size_card(page, "Unfilled", "", "memory.unfilled_bytes", prof_unfilled(peak, KVS_MEMORY_KINDS), note);
}

static bool was_asked(const kvs_report *r)
{
	for (size_t i = 0; i < r->process_count; i++)
		if (r->processes[i]->asked)
			return true;
	return false;
}

static void untracked_card(struct prof_page *page)
{
	const kvs_report *r = page->report;
	uint64_t nvml, beyond;
	char note[128], a[PROF_UNIT_TEXT], b[PROF_UNIT_TEXT];

	snprintf(note, sizeof(note), "%s", was_asked(r) ? "used, and no call tells of it" : "the driver was not asked");
	if (prof_nvml(r, &nvml, &beyond))
		snprintf(note, sizeof(note), "by the driver; by NVML %s of %s", prof_size_text(beyond, a),
			prof_size_text(nvml, b));
	size_card(page, "Untracked", "", "memory.untracked_bytes", prof_untracked(r), note);
}

void prof_page_cards(struct prof_page *page)
{
	const kvs_report *r = page->report;
	char note[96], size[PROF_UNIT_TEXT];

	print_title(page);
	print_verdict(page);
	fputs("<dl class=\"cards\">\n", page->to);
	peak_card(page);
	saved_card(page);
	kv_card(page);
	snprintf(note, sizeof(note), "addresses; %s mapped", prof_size_text(r->peak.mapped, size));
	size_card(page, "Virtual", "", "memory.virtual_bytes", r->peak.reserved, note);
	unfilled_card(page);
	untracked_card(page);
	begin_card(page, "Overhead", "", "overhead.ns", r->overhead_ns);
	prof_page_time(page, r->overhead_ns);
	snprintf(note, sizeof(note), "%s; %s of the device", r->overhead_ns ? "as told" : "none was told",
		prof_size_text(prof_overhead(r), size));
	end_card(page, note);
	begin_card(page, "Dropped", r->health.lost_events ? "bad" : "", "dropped", r->health.lost_events);
	prof_page_count(page, r->health.lost_events);
	snprintf(note, sizeof(note), "events, of %llu", (unsigned long long)(r->health.events + r->health.lost_events));
	end_card(page, note);
	fputs("</dl>\n</header>\n", page->to);
}

/* ---- caveats ---- */

static void say(struct prof_page *page, bool bad, const char *text)
{
	fprintf(page->to, "<li%s>%s</li>\n", bad ? " class=\"bad\"" : "", text);
}

void prof_page_health(struct prof_page *page)
{
	const struct kvs_trace_health *health = &page->report->health;
	char text[160], size[PROF_UNIT_TEXT];

	if (!health->lost_events && !health->damaged_bytes && !health->missing_chunks) {
		say(page, false, "The trace is whole: no event was lost, no byte is damaged.");
		return;
	}
	snprintf(text, sizeof(text),
		"The trace is not whole: %llu events were lost, %llu chunks are missing, %s are damaged. Figures may "
		"be too "
		"low.",
		(unsigned long long)health->lost_events, (unsigned long long)health->missing_chunks,
		prof_size_text(health->damaged_bytes, size));
	say(page, true, text);
}

static void say_sources(struct prof_page *page)
{
	static const char *const told[] = {
		[0] = "nobody introduced this process: what came before is not known",
		[KVS_SOURCE_OURS] = "calls as the program itself made them (kvshare)",
		[KVS_SOURCE_EBPF] = "calls as the kernel saw them (eBPF)",
		[KVS_SOURCE_CUPTI] = "calls and kernels as CUPTI told them",
	};
	const kvs_report *r = page->report;

	for (size_t i = 0; i < r->process_count && i < 8; i++) {
		const struct prof_process *p = r->processes[i];
		fprintf(page->to, "<li>Process %u: %s.", p->pid, told[p->source <= KVS_SOURCE_CUPTI ? p->source : 0]);
		if (!p->ended)
			fputs(" Its end was not seen, so it has no leaks here.", page->to);
		fputs("</li>\n", page->to);
	}
}

static bool has_stacks(const kvs_report *r)
{
	return r->stack_keys.count > 0;
}

static void say_missing(struct prof_page *page)
{
	const kvs_report *r = page->report;
	char text[160], step[PROF_UNIT_TEXT];
	uint64_t nvml, beyond;

	if (prof_nvml(r, &nvml, &beyond))
		say(page, false,
			"NVML counts what a process has with all that CUDA itself takes: contexts, code, workspaces of "
			"libraries.");
	if (!was_asked(r))
		say(page, false, "The driver was not asked for its free memory, so the untracked part is not known.");
	if (!r->kernel_names.intern.count)
		say(page, false, "No kernel was timed: on a GPU only CUPTI can.");
	if (!has_stacks(r))
		say(page, false, "No stacks were taken, so places in the program are not named.");
	if (r->peak.physical && r->peak.by_kind[KVS_MEMORY_UNKNOWN] == r->peak.physical)
		say(page, false, "Nobody said what memory is for, so all of it is \"other\".");
	if (!r->overhead_ns)
		say(page, false, "No source told of an overhead of its own.");
	snprintf(text, sizeof(text),
		"A point of the memory chart is the highest moment within %s. Quantiles are right to one part in "
		"sixteen.",
		prof_duration_text(r->series->step_ns, step));
	say(page, false, text);
}

void prof_page_caveats(struct prof_page *page)
{
	prof_page_begin(page, "caveats", "What to know about these figures", false);
	fputs("<ul>\n", page->to);
	prof_page_health(page);
	say_sources(page);
	say_missing(page);
	say(page, false,
		"Physical memory is counted by handle and by allocation, virtual memory by reservation; saved is each "
		"handle's "
		"bytes for every mapping but its first.");
	say(page, false, "1 KiB is 1024 bytes.");
	fputs("</ul>\n", page->to);
	prof_page_end(page);
}
