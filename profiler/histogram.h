/*
 * profiler/histogram.h: how long something took, for quantiles within one part in sixteen. Internal to profiler/.
 */
#ifndef KVS_PROFILER_HISTOGRAM_H
#define KVS_PROFILER_HISTOGRAM_H

#include <stdint.h>

/* Each power of two is cut into 16 steps; below 16 ns each value has its own. */
#define PROF_HISTOGRAM_STEPS 16
#define PROF_HISTOGRAM_BUCKETS (61 * PROF_HISTOGRAM_STEPS)

struct prof_histogram {
	uint64_t count, total_ns, max_ns;
	uint64_t buckets[PROF_HISTOGRAM_BUCKETS];
};

void prof_histogram_add(struct prof_histogram *histogram, uint64_t ns);
/* `count` values that lie somewhere from 2^power to 2^(power+1)-1: they are taken to be spread over it. */
void prof_histogram_add_power(struct prof_histogram *histogram, unsigned power, uint64_t count);
/* The value that `part` (0 to 1) of all are not above; the middle of its step. 0 where there are none. */
uint64_t prof_histogram_quantile(const struct prof_histogram *histogram, double part);
/* How many values were from 2^power to 2^(power+1)-1; 0 also counts 0. */
uint64_t prof_histogram_in_power(const struct prof_histogram *histogram, unsigned power);

#endif
