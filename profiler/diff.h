/*
 * profiler/diff.h: two reports side by side, as rows. Internal to profiler/.
 */
#ifndef KVS_PROFILER_DIFF_H
#define KVS_PROFILER_DIFF_H

#include "report.h"

enum prof_diff_section { PROF_DIFF_MEMORY, PROF_DIFF_PHASES, PROF_DIFF_KERNELS, PROF_DIFF_CALLS, PROF_DIFF_SECTIONS };
enum prof_diff_unit { PROF_BYTES, PROF_NANOSECONDS, PROF_TOKENS_PER_S };

struct prof_diff_row {
	enum prof_diff_section section;
	enum prof_diff_unit unit;
	const char *name;
	double values[2]; /* of A and B; 0 where one has none of it */
};

struct prof_diff {
	const kvs_report *reports[2];
	struct prof_diff_row *rows; /* by section; kernels and calls the longest first */
	size_t count;
	bool bad; /* there was no memory for a row */
};

/* Names of sections, as in the JSON. */
extern const char *const prof_diff_sections[];

/* The reports must outlive it. On success the caller owes prof_diff_clear(). -ENOMEM. */
int prof_diff_make(struct prof_diff *diff, const kvs_report *a, const kvs_report *b);
void prof_diff_clear(struct prof_diff *diff);
/* "63.7 MiB", "1.2 ms", "117.4 tok/s"; `out` has PROF_UNIT_TEXT bytes and is given back. */
const char *prof_diff_value(enum prof_diff_unit unit, double value, char *out);

#endif
