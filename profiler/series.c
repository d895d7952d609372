/*
 * profiler/series.c: memory over time in a bounded number of points, however long a run takes. When time runs past the last
 * point, two neighbours become one, and a point stands for twice the time.
 */
#include "report.h"

#define FIRST_STEP_NS 1000

static void halve(struct prof_series *series)
{
	unsigned count = 0;

	for (unsigned i = 0; i < series->count; i += 2) {
		const struct prof_point *first = &series->points[i];
		const struct prof_point *second = i + 1 < series->count ? &series->points[i + 1] : first;
		bool later = second->time_ns && (!first->time_ns || second->totals.physical >= first->totals.physical);
		series->points[count++] = later ? *second : *first;
	}
	series->count = count;
	series->step_ns *= 2;
}

void prof_series_add(struct prof_series *series, uint64_t time_ns, const struct prof_totals *totals)
{
	struct prof_point *point;
	uint64_t index;

	if (!series->count) {
		series->start_ns = time_ns;
		series->step_ns = FIRST_STEP_NS;
	}
	if (time_ns < series->start_ns) /* of another writer, a little late */
		time_ns = series->start_ns;
	while ((index = (time_ns - series->start_ns) / series->step_ns) >= PROF_MAX_POINTS)
		halve(series);
	for (; series->count <= index; series->count++)
		series->points[series->count] = (struct prof_point){0};
	point = &series->points[index];
	if (!point->time_ns || totals->physical >= point->totals.physical)
		*point = (struct prof_point){time_ns, *totals};
}
