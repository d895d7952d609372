/*
 * profiler/report/scale.c: the two axes of a chart of memory over time.
 */
#include "page.h"

#include <math.h>

double prof_scale_x(const struct prof_scale *scale, uint64_t time_ns)
{
	double span = scale->end_ns > scale->start_ns ? scale->end_ns - scale->start_ns : 1;
	double at = ((double)time_ns - scale->start_ns) / span;

	return at < 0 ? 0 : at > 1 ? 1 : at;
}

int prof_scale_y(const struct prof_scale *scale, double bytes)
{
	return PROF_UNITS - (int)lround(PROF_UNITS * bytes / scale->top);
}

struct prof_scale prof_scale_make(uint64_t start_ns, uint64_t end_ns, double most)
{
	struct prof_scale scale = {start_ns, end_ns, kvs_axis_empty(false, false), 1, fmax(most, 1)};

	while (scale.top / scale.unit >= 1024)
		scale.unit *= 1024;
	kvs_axis_widen(&scale.bytes, 0);
	kvs_axis_widen(&scale.bytes, 1.02 * scale.top / scale.unit); /* so that the top line is seen */
	kvs_axis_round(&scale.bytes);
	scale.top = scale.bytes.high * scale.unit;
	return scale;
}

static void print_y_ticks(struct prof_page *page, const struct prof_scale *scale)
{
	char text[PROF_UNIT_TEXT];

	for (int i = 1; i <= kvs_axis_steps(&scale->bytes); i++) {
		double at = scale->bytes.low + i * scale->bytes.step;
		double y = PROF_PLOT_TOP + PROF_PLOT_HEIGHT * (1 - kvs_axis_part(&scale->bytes, at));
		fprintf(page->to,
			"<line class=\"grid\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"tick\" x=\"2\" "
			"y=\"%.1f\">%s</text>\n",
			y, y, y - 3, prof_size_text((uint64_t)fmin(at * scale->unit, 0x1p63), text));
	}
}

/* The axis ends where the trace does, and not at a round number. */
static void print_x_ticks(struct prof_page *page, const struct prof_scale *scale, int y)
{
	double seconds = fmax(1e-9 * (scale->end_ns - scale->start_ns), 1e-6);
	struct kvs_axis axis = kvs_axis_empty(false, false);
	char text[32];

	kvs_axis_widen(&axis, 0);
	kvs_axis_widen(&axis, seconds);
	kvs_axis_round(&axis);
	for (int i = 0; i <= kvs_axis_steps(&axis) && i * axis.step <= 0.97 * seconds; i++) {
		kvs_axis_tick(&axis, i, text, sizeof(text));
		fprintf(page->to, "<text class=\"tick\" x=\"%.2f%%\" y=\"%d\"%s>%s s</text>\n",
			100 * i * axis.step / seconds, y, i ? " text-anchor=\"middle\"" : "", text);
	}
}

void prof_scale_ticks(struct prof_page *page, const struct prof_scale *scale, int bottom)
{
	print_y_ticks(page, scale);
	print_x_ticks(page, scale, bottom - 4);
}
