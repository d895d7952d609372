/*
 * tools/run/bench/bench.h: what the suites of `kvshare-run bench` share.
 */
#ifndef KVS_RUN_BENCH_H
#define KVS_RUN_BENCH_H

#include "../run.h"

/* A model's shape: all that speed depends on. Weights are random, unless a model was named. */
struct bench_shape {
	const char *name;
	int layers, hidden, ff, heads, kv_heads, head_dim, vocab;
};

struct bench {
	kvs_cu *cu;
	struct run_profile *profile; /* NULL: nobody asked for one */
	struct bench_shape shape;
	kvs_checkpoint *ckpt; /* whose weights engines get, and its shape; NULL: random ones */
	kvs_plan *plan;       /* of --plan; NULL: a quarter of the layers share */
	kvs_patch *patch;     /* the plan's matrices, NULL: it has none; engines with that plan get them */
	enum kvs_dtype dtype; /* of weights, K and V */
	int ctx_tokens;
	bool quiet;
	CUdeviceptr from, to; /* source and target of the copy; suites may overwrite `from` */
	size_t copy_bytes;
	double copy_gbs; /* device-to-device copy: bytes read and written, 10^9 a second; the ceiling */
	double read_gbs; /* reading device memory only */
};

struct kvs_kv_format bench_kv_format(const struct bench *bench);

/* Each adds its object to `report` and, unless quiet, prints its figures. 0, or a negative errno with kvs_error(). */
int bench_ceiling(struct bench *bench, json_t *report);
int bench_attention(struct bench *bench, json_t *report);
int bench_gemm(struct bench *bench, json_t *report);
int bench_rows(struct bench *bench, json_t *report);
int bench_decode(struct bench *bench, json_t *report);
int bench_vmm(struct bench *bench, json_t *report);

/* Runs between two events: enough to make the start of the first one negligible. */
#define BENCH_RUNS 32

/*
 * Median seconds of one `run`, which enqueues work on `stream`. A sample is `runs` of them between two events, after work
 * that keeps the device busy until all are enqueued. Warms up, then takes samples: at least five, for half a second.
 */
int bench_time(struct bench *bench, CUstream stream, int (*run)(void *arg), void *arg, int runs, double *seconds);
double bench_median(double *values, size_t count);                             /* sorts */
double bench_percent(const struct bench *bench, double bytes, double seconds); /* of the copy ceiling */

/* Fill device memory with numbers of random sign and mantissa between 1/2 and 1. */
int bench_fill_random(struct bench *bench, CUdeviceptr to, size_t bytes, enum kvs_dtype dtype);

/*
 * An engine of the bench's shape with random weights, or those of the model, in blocks of `block_bytes` (0: a granule). With
 * the bench's own plan it has the plan's matrices. Close with kvs_engine_close().
 */
int bench_open_engine(struct bench *bench, const kvs_plan *plan, bool premap, size_t block_bytes, kvs_engine **engine);
/* `count` arbitrary ids; the caller frees them. NULL: out of memory, with a message. */
int32_t *bench_ids(const struct bench *bench, int count);

#endif
