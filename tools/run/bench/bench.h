/*
 * tools/run/bench/bench.h: what the suites of `kvshare-run bench` share.
 */
#ifndef KVS_BENCH_H
#define KVS_BENCH_H

#include "../run.h"

/* A model's shape, all that speed depends on. Weights are random. */
struct bench_shape {
	const char *name;
	int layers, hidden, ff, heads, kv_heads, head_dim, vocab;
};

struct bench {
	kvs_cu *cu;
	struct bench_shape shape;
	enum kvs_dtype dtype; /* of weights, K and V */
	int ctx_tokens;
	bool quiet;
	double copy_gbs; /* device memory copied onto device memory: bytes read and written, 10^9 a second; the ceiling */
};

struct kvs_kv_format bench_kv_format(const struct bench *bench);

/* Each adds its object to `report` and prints a table. 0 or a negative errno with kvs_error(). */
int bench_copy(struct bench *bench, json_t *report);
int bench_attention(struct bench *bench, json_t *report);
int bench_decode(struct bench *bench, json_t *report);
int bench_vmm(struct bench *bench, json_t *report);

/*
 * Median seconds of `run`, which enqueues work on `stream`, between two events: three runs to warm up, then at least five
 * and half a second.
 */
int bench_time(struct bench *bench, CUstream stream, int (*run)(void *arg), void *arg, double *seconds);
double bench_median(double *values, size_t count);                             /* sorts */
double bench_percent(const struct bench *bench, double bytes, double seconds); /* of the copy ceiling */

#endif
