/*
 * chart/axis.c: axes with round numbers, and text that is no markup.
 */
#include "chart.h"

#include <math.h>

struct kvs_axis kvs_axis_empty(bool log, bool whole)
{
	return (struct kvs_axis){INFINITY, -INFINITY, 1, log, whole};
}

double kvs_axis_along(const struct kvs_axis *axis, double value)
{
	return axis->log ? log10(value) : value;
}

void kvs_axis_widen(struct kvs_axis *axis, double value)
{
	double at = kvs_axis_along(axis, value);

	if (!isfinite(at))
		return;
	axis->low = fmin(axis->low, at);
	axis->high = fmax(axis->high, at);
}

void kvs_axis_round(struct kvs_axis *axis)
{
	double span, power;

	if (axis->low > axis->high)
		axis->low = axis->high = 0;
	if (axis->log) {
		double margin = 0.05 * fmax(axis->high - axis->low, 1);
		axis->low -= margin;
		axis->high += margin;
		return;
	}
	if (axis->low == axis->high) {
		double around = axis->low ? fabs(axis->low) / 2 : 1;
		axis->low -= around;
		axis->high += around;
	}
	span = (axis->high - axis->low) / 6;
	power = pow(10, floor(log10(span)));
	if (axis->whole && power < 1)
		span = power = 1;
	axis->step = power * (span / power <= 1 ? 1 : span / power <= 2 ? 2 : span / power <= 5 ? 5 : 10);
	axis->low = floor(axis->low / axis->step + 1e-9) * axis->step;
	axis->high = ceil(axis->high / axis->step - 1e-9) * axis->step;
}

double kvs_axis_part(const struct kvs_axis *axis, double value)
{
	return (kvs_axis_along(axis, value) - axis->low) / (axis->high - axis->low);
}

int kvs_axis_steps(const struct kvs_axis *axis)
{
	return (int)lround((axis->high - axis->low) / axis->step);
}

/* The rounding of `low + i * step` must not show as 0.30000000000000004 or -0. */
void kvs_axis_tick(const struct kvs_axis *axis, int i, char *text, size_t bytes)
{
	int digits = (int)fmax(0, -floor(log10(axis->step) + 1e-9));
	double value = axis->low + i * axis->step;

	snprintf(text, bytes, "%.*f", digits, fabs(value) < axis->step / 2 ? 0.0 : value);
}

void kvs_chart_escape(FILE *to, const char *text)
{
	static const struct {
		char mark;
		const char *text;
	} marks[] = {{'<', "&lt;"}, {'>', "&gt;"}, {'&', "&amp;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
	size_t m;

	for (; *text; text++) {
		for (m = 0; m < sizeof(marks) / sizeof(*marks) && marks[m].mark != *text; m++)
			;
		if (m < sizeof(marks) / sizeof(*marks))
			fputs(marks[m].text, to);
		else
			fputc(*text, to);
	}
}
