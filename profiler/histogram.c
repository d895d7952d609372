/*
 * profiler/histogram.c: counts of durations in steps that grow with them.
 */
#include "histogram.h"

#define STEPS PROF_HISTOGRAM_STEPS

static unsigned power_of(uint64_t ns)
{
	return ns ? 63 - __builtin_clzll(ns) : 0;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned power = power_of(ns);

	if (ns < STEPS)
		return ns;
	return (power - 3) * STEPS + (ns >> (power - 4)) % STEPS;
}

static uint64_t low_of(unsigned bucket)
{
	unsigned power = bucket / STEPS + 3;

	return bucket < STEPS ? bucket : (uint64_t)(STEPS + bucket % STEPS) << (power - 4);
}

/* The step after the last one begins at 2^64. */
static uint64_t middle_of(unsigned bucket)
{
	uint64_t next = bucket + 1 < PROF_HISTOGRAM_BUCKETS ? low_of(bucket + 1) : UINT64_MAX;

	return low_of(bucket) + (next - low_of(bucket)) / 2;
}

void prof_histogram_add(struct prof_histogram *histogram, uint64_t ns)
{
	histogram->count++;
	histogram->total_ns += ns;
	histogram->max_ns = ns > histogram->max_ns ? ns : histogram->max_ns;
	histogram->buckets[bucket_of(ns)]++;
}

void prof_histogram_add_power(struct prof_histogram *histogram, unsigned power, uint64_t count)
{
	unsigned first = power < 4 ? (power ? 1u << power : 0) : bucket_of((uint64_t)1 << power);
	unsigned steps = power < 4 ? (power ? 1u << power : 2) : STEPS;

	for (unsigned i = 0; i < steps; i++)
		histogram->buckets[first + i] += count / steps + (i < count % steps);
	histogram->count += count;
	if (count && middle_of(first + steps - 1) > histogram->max_ns)
		histogram->max_ns = middle_of(first + steps - 1);
}

uint64_t prof_histogram_quantile(const struct prof_histogram *histogram, double part)
{
	uint64_t seen = 0, wanted = part * histogram->count;

	if (wanted >= histogram->count)
		wanted = histogram->count ? histogram->count - 1 : 0;
	for (unsigned b = 0; b < PROF_HISTOGRAM_BUCKETS; b++) {
		seen += histogram->buckets[b];
		if (seen > wanted)
			return b < STEPS ? b : middle_of(b) < histogram->max_ns ? middle_of(b) : histogram->max_ns;
	}
	return 0;
}

uint64_t prof_histogram_in_power(const struct prof_histogram *histogram, unsigned power)
{
	uint64_t count = 0;

	for (unsigned b = 0; b < PROF_HISTOGRAM_BUCKETS; b++)
		if (histogram->buckets[b] && power_of(low_of(b)) == power)
			count += histogram->buckets[b];
	return count;
}
