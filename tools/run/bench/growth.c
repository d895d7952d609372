/*
 * tools/run/bench/growth.c: the cost per token of growing a cache, with memory mapped on demand, ahead of need, or all at
 * the start: growth alone, and in decode steps, while the device is busy with the step before.
 */
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

/* Seconds per token: mean over the context, and the longest wait of one token. */
struct growth {
	double mean_s, worst_s;
};

/* The cache grows a token at a time to the whole context; with `ahead` all of it is mapped before the first token. */
static int measure_growth(struct bench *bench, bool premap, bool ahead, struct growth *growth)
{
	const struct bench_shape *shape = &bench->shape;
	size_t token_bytes = kvs_kv_token_bytes(bench_kv_format(bench));
	struct kvs_cache_shape cache_shape = {.layers = shape->layers,
		.slots = 1,
		.ctx_tokens = bench->ctx_tokens,
		.k_token_bytes = token_bytes,
		.v_token_bytes = token_bytes};
	struct kvs_vmm_options options = {.premap = premap, .free_list_bytes = SIZE_MAX};
	kvs_vmm *vmm = NULL;
	kvs_cache *cache = NULL;
	int err = kvs_vmm_create(bench->cu, &options, &vmm);

	if (!err)
		err = kvs_cache_create(vmm, &cache_shape, NULL, &cache);
	if (!err && ahead)
		err = kvs_cache_resize(cache, 0, bench->ctx_tokens);
	*growth = (struct growth){0};
	for (int tokens = 1; tokens <= bench->ctx_tokens && !err; tokens++) {
		double start = run_now_s(), took;
		err = kvs_cache_resize(cache, 0, ahead ? bench->ctx_tokens : tokens);
		took = run_now_s() - start;
		growth->mean_s += took / bench->ctx_tokens;
		growth->worst_s = took > growth->worst_s ? took : growth->worst_s;
	}
	kvs_cache_free(cache);
	kvs_vmm_free(vmm);
	return err;
}

static const struct way {
	const char *name;
	bool premap, ahead;
} ways[] = {{"on_demand", false, false}, {"premapped", true, false}, {"preallocated", false, true}};
#define WAYS (sizeof(ways) / sizeof(*ways))

/*
 * Steps across block boundaries, which all regions reach at the same token. With `ahead` a block holds the whole context,
 * so that the first token maps everything.
 */
static int measure_decode(struct bench *bench, const struct way *way, struct growth *growth)
{
	size_t whole = kvs_kv_token_bytes(bench_kv_format(bench)) * bench->ctx_tokens;
	int prompt = bench->ctx_tokens / 16, steps = bench->ctx_tokens / 8;
	int32_t *ids = bench_ids(bench, prompt), id = 0;
	kvs_engine *engine = NULL;
	int err = ids ? bench_open_engine(bench, NULL, way->premap, way->ahead ? whole : 0, &engine) : -ENOMEM;

	*growth = (struct growth){0};
	if (!err)
		err = kvs_engine_append(engine, 0, ids, prompt);
	for (int step = -3; step < steps && !err; step++) { /* the first three warm up */
		double start = run_now_s(), took;
		err = kvs_engine_append(engine, 0, &id, 1);
		if (!err)
			err = kvs_engine_argmax(engine, &id);
		took = run_now_s() - start;
		if (step < 0)
			continue;
		growth->mean_s += took / steps;
		growth->worst_s = took > growth->worst_s ? took : growth->worst_s;
	}
	kvs_engine_close(engine);
	free(ids);
	return err;
}

/* "mean_us" and "worst_us" of a token by itself, and the same of decode steps. */
static int measure_way(struct bench *bench, const struct way *way, json_t *all)
{
	struct growth alone, step;
	int err = measure_growth(bench, way->premap, way->ahead, &alone);

	if (!err)
		err = measure_decode(bench, way, &step);
	if (err)
		return err;
	json_object_set_new(all, way->name,
		json_pack("{s:f,s:f,s:f,s:f}", "mean_us", 1e6 * alone.mean_s, "worst_us", 1e6 * alone.worst_s,
			"step_mean_us", 1e6 * step.mean_s, "step_worst_us", 1e6 * step.worst_s));
	if (!bench->quiet)
		printf("growth      %10.2f us a token, worst %.1f us; a step %.1f us, worst %.1f us   %s\n",
			1e6 * alone.mean_s, 1e6 * alone.worst_s, 1e6 * step.mean_s, 1e6 * step.worst_s, way->name);
	return 0;
}

int bench_vmm(struct bench *bench, json_t *report)
{
	json_t *all = json_object();
	int err = 0;

	for (size_t i = 0; i < WAYS && !err; i++)
		err = measure_way(bench, &ways[i], all);
	json_object_set_new(report, "vmm", all);
	return err;
}
