/*
 * profiler/units.c: bytes and times as people read them. A KiB is 1024 bytes everywhere in a report.
 */
#include "report.h"

#include <stdio.h>

const char *prof_size_text(uint64_t bytes, char *out)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = bytes;
	int unit = 0;

	for (; value >= 1024 && unit < 5; unit++)
		value /= 1024;
	snprintf(out, PROF_UNIT_TEXT, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}

const char *prof_duration_text(uint64_t ns, char *out)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double value = ns;
	int unit = 0;

	for (; value >= 1000 && unit < 3; unit++)
		value /= 1000;
	snprintf(out, PROF_UNIT_TEXT, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}
