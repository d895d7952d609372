/*
 * tools/run/bench/engine.c: the suites of the engine and of its memory: prefill and decode, full and shared, and what
 * growing a cache costs a token when memory is mapped on demand, ahead of need, or beforehand.
 */
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

#define DECODE_STEPS 32
#define SHARED_EVERY 4 /* one layer of four borrows: 25 % */

/* Every fourth layer reads the one before it. */
static int quarter_plan(int layers, kvs_plan **plan)
{
	int *owners = malloc(sizeof(*owners) * layers), err;

	if (!owners)
		return kvs_fail(-ENOMEM, "no memory for a plan");
	for (int l = 0; l < layers; l++)
		owners[l] = l % SHARED_EVERY == SHARED_EVERY - 1 ? l - 1 : l;
	err = kvs_plan_create(layers, owners, owners, plan);
	free(owners);
	return err;
}

static struct kvs_config config_of(const struct bench *bench, int *window)
{
	const struct bench_shape *shape = &bench->shape;
	struct kvs_config config = {.model_type = "llama",
		.layers = shape->layers,
		.hidden = shape->hidden,
		.ff = shape->ff,
		.heads = shape->heads,
		.kv_heads = shape->kv_heads,
		.head_dim = shape->head_dim,
		.vocab = shape->vocab,
		.max_positions = bench->ctx_tokens,
		.rms_eps = 1e-5f,
		.window = window,
		.dtype = bench->dtype,
		.bos = -1};

	config.rope.theta = 500000;
	return config;
}

struct speed {
	double prefill_s, step_s; /* of the whole prompt; median of one step */
	int prompt;
	double prefill_bytes, step_bytes;
	struct kvs_engine_memory memory;
};

static int measure_steps(kvs_engine *engine, struct speed *speed)
{
	double steps[DECODE_STEPS];
	int32_t id;
	int err = kvs_engine_argmax(engine, &id);
	uint64_t before = kvs_engine_bytes_moved(engine);

	for (int step = 0; step < DECODE_STEPS && !err; step++) {
		double start = now_s();
		err = kvs_engine_append(engine, 0, &id, 1);
		if (!err)
			err = kvs_engine_argmax(engine, &id);
		steps[step] = now_s() - start;
	}
	speed->step_s = bench_median(steps, DECODE_STEPS);
	speed->step_bytes = (double)(kvs_engine_bytes_moved(engine) - before) / DECODE_STEPS;
	return err;
}

/* A prompt of half the context, twice (the first warms up), then steps. */
static int measure_engine(kvs_engine *engine, int ctx, int vocab, struct speed *speed)
{
	int prompt = ctx / 2, err = 0;
	int32_t *ids = malloc(sizeof(*ids) * prompt);

	if (!ids)
		return kvs_fail(-ENOMEM, "no memory for a prompt of %d tokens", prompt);
	for (int i = 0; i < prompt; i++)
		ids[i] = (i * 7919) % vocab;
	speed->prompt = prompt;
	for (int round = 0; round < 2 && !err; round++) {
		uint64_t before = kvs_engine_bytes_moved(engine);
		double start = now_s();
		err = kvs_engine_truncate(engine, 0, 0);
		if (!err)
			err = kvs_engine_append(engine, 0, ids, prompt);
		if (!err)
			err = kvs_engine_wait(engine);
		speed->prefill_s = now_s() - start;
		speed->prefill_bytes = kvs_engine_bytes_moved(engine) - before;
	}
	free(ids);
	if (!err)
		err = measure_steps(engine, speed);
	return err ? err : kvs_engine_memory(engine, &speed->memory);
}

static int measure_plan(struct bench *bench, const kvs_plan *plan, struct speed *speed)
{
	int *window = calloc(bench->shape.layers, sizeof(*window)), err;
	struct kvs_config config = config_of(bench, window);
	struct kvs_engine_options options = {
		.plan = plan, .ctx_tokens = bench->ctx_tokens, .kv_dtype = bench->dtype, .kv_dtype_set = true};
	kvs_engine *engine = NULL;

	err = window ? kvs_engine_open_random(bench->cu, &config, &options, &engine)
		     : kvs_fail(-ENOMEM, "no memory for %d layers", bench->shape.layers);
	if (!err)
		err = measure_engine(engine, bench->ctx_tokens, bench->shape.vocab, speed);
	kvs_engine_close(engine);
	free(window);
	return err;
}

static json_t *json_speed(const struct bench *bench, const struct speed *speed)
{
	return json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:o}", "prompt_tokens", speed->prompt, "prefill_tokens_per_s",
		speed->prompt / speed->prefill_s, "prefill_percent_of_copy",
		bench_percent(bench, speed->prefill_bytes, speed->prefill_s), "step_ms", 1000 * speed->step_s,
		"decode_tokens_per_s", 1 / speed->step_s, "step_percent_of_copy",
		bench_percent(bench, speed->step_bytes, speed->step_s), "memory", json_memory(&speed->memory));
}

static void print_speed(const struct bench *bench, const char *name, const struct speed *speed)
{
	printf("prefill     %10.1f tokens/s  %6.1f %% of copy   %s, %d tokens\n", speed->prompt / speed->prefill_s,
		bench_percent(bench, speed->prefill_bytes, speed->prefill_s), name, speed->prompt);
	printf("decode      %10.1f tokens/s  %6.1f %% of copy   %s, KV %.1f MiB\n", 1 / speed->step_s,
		bench_percent(bench, speed->step_bytes, speed->step_s), name,
		speed->memory.kv_physical_bytes / 1048576.0);
}

int bench_decode(struct bench *bench, json_t *report)
{
	struct speed full = {0}, shared = {0};
	kvs_plan *plan = NULL;
	int err = quarter_plan(bench->shape.layers, &plan);

	if (!err)
		err = measure_plan(bench, NULL, &full);
	if (!err)
		err = measure_plan(bench, plan, &shared);
	kvs_plan_free(plan);
	if (err)
		return err;
	json_object_set_new(report, "decode",
		json_pack("{s:o,s:o,s:f}", "full", json_speed(bench, &full), "shared", json_speed(bench, &shared),
			"shared_to_full", full.step_s / shared.step_s));
	if (!bench->quiet) {
		print_speed(bench, "full", &full);
		print_speed(bench, "25 % shared", &shared);
	}
	return 0;
}

/* Seconds a token: mean over the context, and the longest that one token waited. */
struct growth {
	double mean_s, worst_s;
};

/* The cache grows a token at a time to the whole context; with `ahead` all of it is there before the first token. */
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
		double start = now_s(), took;
		err = kvs_cache_resize(cache, 0, ahead ? bench->ctx_tokens : tokens);
		took = now_s() - start;
		growth->mean_s += took / bench->ctx_tokens;
		growth->worst_s = took > growth->worst_s ? took : growth->worst_s;
	}
	kvs_cache_free(cache);
	kvs_vmm_free(vmm);
	return err;
}

int bench_vmm(struct bench *bench, json_t *report)
{
	static const struct {
		const char *name;
		bool premap, ahead;
	} ways[] = {{"on_demand", false, false}, {"premapped", true, false}, {"preallocated", false, true}};
	json_t *all = json_object();
	int err = 0;

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways) && !err; i++) {
		struct growth growth;
		err = measure_growth(bench, ways[i].premap, ways[i].ahead, &growth);
		if (err)
			break;
		json_object_set_new(all, ways[i].name,
			json_pack("{s:f,s:f}", "mean_us", 1e6 * growth.mean_s, "worst_us", 1e6 * growth.worst_s));
		if (!bench->quiet)
			printf("growth      %10.2f us a token, worst %.1f us   %s\n", 1e6 * growth.mean_s,
				1e6 * growth.worst_s, ways[i].name);
	}
	json_object_set_new(report, "vmm", all);
	return err;
}
