/*
 * profiler/export/speedscope.c: stacks of what was held at the peak and at the end, for www.speedscope.app.
 */
#include "../report.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STACKS 10000 /* at the peak, and as many at the end; the rest is one */

struct scope {
	const kvs_report *report;
	struct prof_names names; /* of frames, by what is shown; a frame's index is its number - 1 */
	json_t *frames;
	bool bad;
};

static json_t *text_of(const char *text)
{
	char shown[2048];

	return json_string(kvs_visible(text, shown, sizeof(shown)));
}

static void add_frame(struct scope *s, json_t *sample, const char *text, const struct prof_frame *frame)
{
	uint32_t before = s->names.intern.count, number = prof_names_add(&s->names, *text ? text : "?");
	json_t *shown;

	s->bad |= !number || json_array_append_new(sample, json_integer((json_int_t)number - 1));
	if (!number || number <= before)
		return;
	shown = json_pack("{s:o}", "name", text_of(text));
	if (shown && frame && frame->file) {
		s->bad |= json_object_set_new(
				  shown, "file", text_of(prof_names_text(&s->report->names, frame->file))) != 0;
		s->bad |= json_object_set_new(shown, "line", json_integer(frame->line)) != 0;
	}
	s->bad |= json_array_append_new(s->frames, shown) != 0;
}

/* From the program down to the call, and what the memory was for. */
static json_t *sample_of(struct scope *s, const struct prof_holder *h)
{
	const struct prof_stack *stack = h->stack ? s->report->stacks[h->stack - 1] : NULL;
	json_t *sample = json_array();
	char text[PROF_FRAME_TEXT];

	for (unsigned i = stack ? stack->count : 0; i-- > 0;)
		add_frame(s, sample, prof_frame_text(s->report, &stack->frames[i], text), &stack->frames[i]);
	add_frame(s, sample, h->function ? h->function : "?", NULL);
	add_frame(s, sample, kvs_memory_kind_name(h->kind), NULL);
	return sample;
}

static json_t *profile_of(struct scope *s, const struct prof_holders *holders, const char *name)
{
	json_t *samples = json_array(), *weights = json_array();
	uint64_t all = 0, rest = 0;

	for (size_t i = 0; i < holders->count; i++) {
		all += holders->list[i].bytes;
		if (i >= MOST_STACKS) {
			rest += holders->list[i].bytes;
			continue;
		}
		s->bad |= json_array_append_new(samples, sample_of(s, &holders->list[i])) != 0;
		s->bad |= json_array_append_new(weights, json_integer((json_int_t)holders->list[i].bytes)) != 0;
	}
	if (rest) {
		json_t *sample = json_array();
		add_frame(s, sample, "smaller ones, not shown", NULL);
		s->bad |= json_array_append_new(samples, sample) != 0;
		s->bad |= json_array_append_new(weights, json_integer((json_int_t)rest)) != 0;
	}
	return json_pack("{s:s,s:s,s:s,s:i,s:I,s:o,s:o}", "type", "sampled", "name", name, "unit", "bytes",
		"startValue", 0, "endValue", (json_int_t)all, "samples", samples, "weights", weights);
}

int kvs_report_speedscope(const kvs_report *report, char **text)
{
	struct scope s = {.report = report, .frames = json_array()};
	json_t *profiles = json_array(), *root;

	s.bad |= json_array_append_new(profiles, profile_of(&s, &report->at_peak, "at the peak")) != 0;
	if (report->leaks.count)
		s.bad |= json_array_append_new(profiles, profile_of(&s, &report->leaks, "held at the end")) != 0;
	root = json_pack("{s:s,s:s,s:o,s:{s:o},s:o}", "$schema", "https://www.speedscope.app/file-format-schema.json",
		"exporter", "kvshare", "name", text_of(report->path), "shared", "frames", s.frames, "profiles",
		profiles);
	*text = root && !s.bad ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	prof_names_clear(&s.names);
	return *text ? 0 : kvs_fail(-ENOMEM, "no memory for the stacks");
}
