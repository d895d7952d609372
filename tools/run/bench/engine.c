/*
 * tools/run/bench/engine.c: the engine's prefill and decode, full and shared, and the time of each part of a decode step.
 *
 * A part's time is the time that a step saves without it: that of its kernels and of the gaps around them that nothing
 * else fills.
 */
#include "../profile/profile.h"
#include "bench.h"

#include <errno.h>
#include <stdlib.h>

#define DECODE_STEPS 32
#define SHARED_EVERY 4 /* one layer in four borrows: 25 % */

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

static const struct {
	const char *name;
	enum kvs_part part;
} parts[] = {{"gemm", KVS_PART_GEMM}, {"attention", KVS_PART_ATTENTION}, {"rope_append", KVS_PART_ROPE_APPEND},
	{"rows", KVS_PART_ROWS}, {"logits", KVS_PART_LOGITS}};
#define PARTS (sizeof(parts) / sizeof(*parts))

struct speed {
	double prefill_s, step_s; /* of the whole prompt; median of one step */
	double enqueue_s;         /* of a step: until the host has enqueued it */
	double without_s[PARTS];  /* a step without that part; 0: not measured */
	int prompt;
	double prefill_bytes, step_bytes;
	struct kvs_engine_memory memory;
};

/* Steps after the prompt; the slot has its old length again afterwards. */
static int measure_steps(kvs_engine *engine, int prompt, double *step_s, double *enqueue_s)
{
	double steps[DECODE_STEPS], enqueued[DECODE_STEPS];
	int32_t id = 0;
	int err = kvs_engine_argmax(engine, &id);

	for (int step = 0; step < DECODE_STEPS && !err; step++) {
		double start = run_now_s();
		err = kvs_engine_append(engine, 0, &id, 1);
		enqueued[step] = run_now_s() - start;
		if (!err)
			err = kvs_engine_argmax(engine, &id);
		steps[step] = run_now_s() - start;
	}
	if (err)
		return err;
	*step_s = bench_median(steps, DECODE_STEPS);
	*enqueue_s = bench_median(enqueued, DECODE_STEPS);
	return kvs_engine_truncate(engine, 0, prompt);
}

static int measure_parts(kvs_engine *engine, struct speed *speed)
{
	kvs_stream *stream = kvs_engine_stream(engine);
	double enqueue_s;
	int err = 0;

	for (size_t i = 0; i < PARTS && !err; i++) {
		kvs_stream_leave_out(stream, parts[i].part);
		err = measure_steps(engine, speed->prompt, &speed->without_s[i], &enqueue_s);
	}
	kvs_stream_leave_out(stream, 0);
	return err;
}

static int measure_prompt(kvs_engine *engine, const int32_t *ids, struct speed *speed)
{
	uint64_t before = kvs_engine_bytes_moved(engine);
	double start = run_now_s();
	int err = kvs_engine_truncate(engine, 0, 0);

	if (!err)
		err = kvs_engine_append(engine, 0, ids, speed->prompt);
	if (!err)
		err = kvs_engine_wait(engine);
	speed->prefill_s = run_now_s() - start;
	speed->prefill_bytes = kvs_engine_bytes_moved(engine) - before;
	return err;
}

/* A prompt of half the context, twice (the first warms up), then steps. */
static int measure_engine(struct bench *bench, kvs_engine *engine, bool with_parts, struct speed *speed)
{
	int err = 0;

	speed->prompt = bench->ctx_tokens / 2;
	int32_t *ids = bench_ids(bench, speed->prompt);
	if (!ids)
		return -ENOMEM;
	for (int round = 0; round < 2 && !err; round++)
		err = measure_prompt(engine, ids, speed);
	free(ids);
	uint64_t before = kvs_engine_bytes_moved(engine);
	if (!err)
		err = measure_steps(engine, speed->prompt, &speed->step_s, &speed->enqueue_s);
	speed->step_bytes = (double)(kvs_engine_bytes_moved(engine) - before) / DECODE_STEPS;
	if (!err)
		err = kvs_engine_memory(engine, &speed->memory);
	return err || !with_parts ? err : measure_parts(engine, speed);
}

int32_t *bench_ids(const struct bench *bench, int count)
{
	int32_t *ids = malloc(sizeof(*ids) * count);

	if (!ids)
		kvs_fail(-ENOMEM, "no memory for a prompt of %d tokens", count);
	for (int i = 0; ids && i < count; i++)
		ids[i] = (i * 7919) % bench->shape.vocab;
	return ids;
}

/* The model's weights, with the plan's matrices if it is that plan. */
static int open_model(
	struct bench *bench, const struct kvs_engine_options *options, const kvs_plan *plan, kvs_engine **engine)
{
	int err = kvs_engine_open(bench->cu, bench->ckpt, options, engine);

	if (err || plan != bench->plan || !bench->patch)
		return err;
	err = kvs_engine_set_patch(*engine, bench->patch, NULL);
	if (!err)
		return 0;
	kvs_engine_close(*engine);
	*engine = NULL;
	return err;
}

int bench_open_engine(struct bench *bench, const kvs_plan *plan, bool premap, size_t block_bytes, kvs_engine **engine)
{
	int *window = calloc(bench->shape.layers, sizeof(*window)), err;
	struct kvs_config config = config_of(bench, window);
	struct kvs_engine_options options = {.plan = plan,
		.ctx_tokens = bench->ctx_tokens,
		.kv_dtype = bench->dtype,
		.kv_dtype_set = true,
		.no_premap = !premap,
		.block_bytes = block_bytes};

	if (!window)
		return kvs_fail(-ENOMEM, "no memory for %d layers", bench->shape.layers);
	run_profile_engine(bench->profile, &options);
	err = bench->ckpt ? open_model(bench, &options, plan, engine)
			  : kvs_engine_open_random(bench->cu, &config, &options, engine);
	free(window);
	return err;
}

static int measure_plan(struct bench *bench, const kvs_plan *plan, struct speed *speed)
{
	kvs_engine *engine = NULL;
	int err = bench_open_engine(bench, plan, true, 0, &engine);

	if (!err)
		err = measure_engine(bench, engine, !plan, speed);
	kvs_engine_close(engine);
	return err;
}

/* The time of each part, and "rest": the time that no part accounts for. NULL if parts were not measured. */
static json_t *json_parts(const struct speed *speed)
{
	json_t *all = speed->without_s[0] > 0 ? json_object() : NULL;
	double rest = speed->step_s;

	for (size_t i = 0; i < PARTS && all; i++) {
		double part_s = speed->step_s - speed->without_s[i];
		json_object_set_new(all, parts[i].name, json_real(1000 * part_s));
		rest -= part_s;
	}
	if (all)
		json_object_set_new(all, "rest", json_real(1000 * rest));
	return all;
}

static json_t *json_speed(const struct bench *bench, const struct speed *speed)
{
	return json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:o*,s:o}", "prompt_tokens", speed->prompt,
		"prefill_tokens_per_s", speed->prompt / speed->prefill_s, "prefill_percent_of_copy",
		bench_percent(bench, speed->prefill_bytes, speed->prefill_s), "step_ms", 1000 * speed->step_s,
		"enqueue_ms", 1000 * speed->enqueue_s, "decode_tokens_per_s", 1 / speed->step_s, "step_percent_of_copy",
		bench_percent(bench, speed->step_bytes, speed->step_s), "parts_ms", json_parts(speed), "memory",
		run_json_memory(&speed->memory));
}

static void print_speed(const struct bench *bench, const char *name, const struct speed *speed)
{
	printf("prefill     %10.1f tokens/s  %6.1f %% of copy   %s, %d tokens\n", speed->prompt / speed->prefill_s,
		bench_percent(bench, speed->prefill_bytes, speed->prefill_s), name, speed->prompt);
	printf("decode      %10.1f tokens/s  %6.1f %% of copy   %s, KV %.1f MiB\n", 1 / speed->step_s,
		bench_percent(bench, speed->step_bytes, speed->step_s), name,
		speed->memory.kv_physical_bytes / 1048576.0);
	if (speed->without_s[0] == 0)
		return;
	printf("  of a step of %.0f us (enqueued in %.0f):", 1e6 * speed->step_s, 1e6 * speed->enqueue_s);
	for (size_t i = 0; i < PARTS; i++)
		printf(" %s %.0f", parts[i].name, 1e6 * (speed->step_s - speed->without_s[i]));
	printf("\n");
}

int bench_decode(struct bench *bench, json_t *report)
{
	struct speed full = {0}, shared = {0};
	kvs_plan *quarter = NULL;
	int err = bench->plan ? 0 : quarter_plan(bench->shape.layers, &quarter);

	if (!err)
		err = measure_plan(bench, NULL, &full);
	if (!err)
		err = measure_plan(bench, bench->plan ? bench->plan : quarter, &shared);
	kvs_plan_free(quarter);
	if (err)
		return err;
	json_object_set_new(report, "decode",
		json_pack("{s:o,s:o,s:f,s:b}", "full", json_speed(bench, &full), "shared", json_speed(bench, &shared),
			"shared_to_full", full.step_s / shared.step_s, "compensated", bench->patch != NULL));
	if (!bench->quiet) {
		print_speed(bench, "full", &full);
		print_speed(bench,
			!bench->plan   ? "25 % shared"
			: bench->patch ? "with the plan and its matrices"
				       : "with the plan",
			&shared);
	}
	return 0;
}
