/*
 * tests/calib/rerun_test.c: batches of the engine with changing plans, on a small random model: reruns from the middle equal
 * whole runs, to the bit, whatever was run in between.
 */
#include "fixture.h"

/* ---- the engine's batches ---- */

static struct kvs_batch all_windows(const struct fixture *f)
{
	return (struct kvs_batch){
		.ids = f->text.window_ids, .sequences = f->text.windows, .tokens = f->text.window_tokens};
}

/* One more pair, or (as if the walk went back or took another one) new owners, K and V apart. */
static void change_owners(int *k, int *v, int layers, unsigned *seed)
{
	int layer = 1 + rand_r(seed) % (layers - 1), what = rand_r(seed) % 3;

	for (int l = 0; l < layers && rand_r(seed) % 3 == 0; l++)
		k[l] = v[l] = l;
	if (what != KVS_SHARE_V)
		kvs_owners_remap(k, layers, layer, rand_r(seed) % layer);
	if (what != KVS_SHARE_K)
		kvs_owners_remap(v, layers, layer, rand_r(seed) % layer);
	for (int l = 1; l < layers; l++) {
		k[l] = k[k[l]];
		v[l] = v[v[l]];
	}
}

static void assert_batch_is(struct fixture *f, const struct kvs_batch *batch, const float *whole)
{
	float part[WINDOWS * WINDOW_TOKENS];
	int rows = batch->sequences * batch->tokens;

	must(kvs_engine_batch_score(f->engine, f->text.window_targets + batch->first, part, NULL));
	assert_memory_equal(whole + batch->first, part, sizeof(*part) * rows);
}

/* Batch `b` of two windows, then of one; now and then the kept residuals are lost in between. */
static void rerun_at_random(struct fixture *f, int b, const float *whole, unsigned *seed)
{
	struct kvs_batch batch = {.ids = f->text.window_ids + 2 * b * WINDOW_TOKENS,
		.sequences = b ? 1 : 2,
		.tokens = WINDOW_TOKENS,
		.first = 2 * b * WINDOW_TOKENS};
	struct kvs_batch other = {.ids = f->text.window_targets, .sequences = 1, .tokens = 7, .first = batch.first + 9};
	static const float nothing[1024]; /* [kv_heads][head_dim] */

	if (rand_r(seed) % 8 == 0)
		must(kvs_engine_run_batch(f->engine, &other));
	if (rand_r(seed) % 16 == 0) {
		must(kvs_engine_truncate(f->engine, 0, 0));
		must(kvs_engine_append(f->engine, 0, other.ids, other.tokens));
	}
	if (rand_r(seed) % 8 == 0 && batch.first + 3 < kvs_engine_length(f->engine, 0))
		must(kvs_engine_write_kv(f->engine, rand_r(seed) % f->layers, batch.first + 3, 1, nothing, nothing));
	must(kvs_rerun_batch(f->rerun, &batch, 1 + rand_r(seed) % (f->layers - 1)));
	assert_batch_is(f, &batch, whole);
}

#define STEPS 96

/*
 * A walk of plans, and the losses of a whole run of each. It has an engine of its own, which is closed before reruns
 * are made: two engines at a time would change OpenBLAS's number of threads, and so the rounding.
 */
static void walk_plans(kvs_plan **plans, float (*whole)[WINDOWS * WINDOW_TOKENS], unsigned *seed)
{
	struct fixture f = open_fixture(MODEL, 2 * WINDOW_TOKENS);
	int k[KVS_PLAN_MAX_LAYERS], v[KVS_PLAN_MAX_LAYERS];
	double nll;

	for (int l = 0; l < f.layers; l++)
		k[l] = v[l] = l;
	for (int step = 0; step < STEPS; step++) {
		change_owners(k, v, f.layers, seed);
		must(kvs_plan_create(f.layers, k, v, &plans[step]));
		must(kvs_measure_nll(f.engine, &f.text, plans[step], whole[step], &nll));
	}
	close_fixture(&f);
}

/* A rerun equals a whole run to the last bit, whatever plans, layers and batches came before. */
static void a_rerun_from_the_middle_is_a_whole_run(void **state)
{
	static float whole[STEPS][WINDOWS * WINDOW_TOKENS];
	const char *given = getenv("KVS_TEST_SEED");
	unsigned seed = given ? strtoul(given, NULL, 10) : (unsigned)time(NULL);
	kvs_plan *plans[STEPS];
	struct fixture f;

	(void)state;
	printf("KVS_TEST_SEED=%u\n", seed);
	walk_plans(plans, whole, &seed);
	f = open_fixture(MODEL, 2 * WINDOW_TOKENS);
	for (int step = 0; step < STEPS; step++) {
		if (step % (STEPS / 8) == 0) /* 1 to 8 copies, but at most one for each layer */
			keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1 + step / (STEPS / 8));
		must(kvs_engine_set_plan(f.engine, plans[step]));
		for (int b = 0; b < 2; b++)
			if (rand_r(&seed) % 4)
				rerun_at_random(&f, b, whole[step], &seed);
		kvs_plan_free(plans[step]);
	}
	close_fixture(&f);
}

static void assert_generations(struct fixture *f, int first_new, int tokens, uint64_t before)
{
	for (int t = 0; t < tokens; t++)
		assert_int_equal(kvs_engine_token_generation(f->engine, t) > before, t >= first_new);
	assert_true(kvs_engine_generation(f->engine) > before);
}

/*
 * Every change of a token's K and V is counted for that token alone: batches, appends, scores, single writes,
 * truncation.
 */
static void each_run_and_cut_is_a_generation(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch batch = {.ids = f.text.window_ids, .sequences = 1, .tokens = 8, .first = 0};
	static const float row[1024]; /* [kv_heads][head_dim] */
	uint64_t before;
	float nll[2];

	(void)state;
	must(kvs_engine_truncate(f.engine, 0, 0));
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_run_batch(f.engine, &batch));
	assert_generations(&f, 0, 8, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_append(f.engine, 0, batch.ids, 4));
	assert_generations(&f, 8, 12, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_score(f.engine, 0, batch.ids, batch.ids, 2, nll, NULL));
	assert_generations(&f, 12, 14, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_write_kv(f.engine, 0, 13, 1, row, row));
	assert_generations(&f, 13, 14, before);
	before = kvs_engine_generation(f.engine);
	must(kvs_engine_truncate(f.engine, 0, 5));
	assert_generations(&f, 5, 14, before);
	close_fixture(&f);
}

/* With fewer rows at a time the rounding differs, and nothing else. */
static void batches_may_be_rerun_in_parts(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch all = all_windows(&f), second = all;
	float part[WINDOWS * WINDOW_TOKENS], whole[WINDOWS * WINDOW_TOKENS];
	kvs_plan *plan = plan_of("0,1,2,3,4,2");

	(void)state;
	second.ids += WINDOW_TOKENS;
	second.sequences = 1;
	second.first = WINDOW_TOKENS;
	must(kvs_engine_set_plan(f.engine, plan));
	must(kvs_engine_run_batch(f.engine, &all));
	must(kvs_engine_batch_score(f.engine, f.text.window_targets, whole, NULL));
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1);
	must(kvs_rerun_batch(f.rerun, &all, 3));
	must(kvs_rerun_batch(f.rerun, &second, 5));
	must(kvs_rerun_batch(f.rerun, &all, 5));
	must(kvs_engine_batch_score(f.engine, f.text.window_targets, part, NULL));
	for (int i = 0; i < WINDOWS * WINDOW_TOKENS; i++)
		assert_true(fabsf(part[i] - whole[i]) <= 1e-4f);
	kvs_plan_free(plan);
	close_fixture(&f);
}

/* The number of layers that ran, by the bytes that launches moved. */
static void assert_layers_run(struct fixture *f, const char *owners, int layer, int expected)
{
	struct kvs_batch batch = all_windows(f);
	kvs_plan *plan = plan_of(owners);
	uint64_t start = kvs_engine_bytes_moved(f->engine);
	double layers;

	must(kvs_engine_set_plan(f->engine, plan));
	must(kvs_rerun_batch(f->rerun, &batch, layer));
	layers = (double)(kvs_engine_bytes_moved(f->engine) - start);
	start = kvs_engine_bytes_moved(f->engine);
	batch.first = batch.sequences * batch.tokens; /* of these tokens nothing is kept */
	must(kvs_engine_run_batch(f->engine, &batch));
	layers *= (double)f->layers / (kvs_engine_bytes_moved(f->engine) - start);
	if (fabs(layers - expected) > 0.4)
		fail_msg("%s for layer %d: %.2f layers were run, not %d", owners, layer, layers, expected);
	kvs_plan_free(plan);
}

static void a_rerun_starts_as_high_as_it_can(void **state)
{
	static const struct {
		const char *owners;
		int layer, one_copy,
			three_copies; /* layers run; with three copies, the inputs of layers 2 and 4 are kept too */
	} rows[] = {
		{"0,1,2,3,4,5", 1, 6, 6},
		{"0,0,2,3,4,5", 1, 5, 5},
		{"0,1,0,3,4,5", 2, 5, 5},
		{"0,1,1,3,4,5", 2, 4, 4},
		{"0,1,2,3,4,0", 5, 4, 4},
		{"0,1,2,3,4,1", 5, 1, 1},
		{"0,1,2,0,4,5", 3, 6, 4},
		{"0,1,2,1,4,5", 3, 3, 3},
		{"0,1,2,1,4,0", 5, 3, 3}, /* the last pair was taken: that needs no run */
		{"0,1,1,3,4,0", 5, 6, 4},
	};
	struct fixture f = open_fixture(MODEL, 2 * WINDOWS * WINDOW_TOKENS);

	(void)state;
	for (int copies = 1; copies <= 3; copies += 2) {
		keep_residuals(&f, WINDOWS * WINDOW_TOKENS, copies);
		for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
			assert_layers_run(&f, rows[i].owners, rows[i].layer,
				copies == 1 ? rows[i].one_copy : rows[i].three_copies);
	}
	close_fixture(&f);
}

static size_t device_free(void)
{
	size_t left, total;

	assert_int_equal(cu->cuMemGetInfo(&left, &total), CUDA_SUCCESS);
	return left;
}

static void residuals_beyond_memory_leave_none_and_leak_nothing(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch batch = all_windows(&f);
	kvs_rerun *rerun;
	size_t before;

	(void)state;
	must(kvs_engine_run_batch(f.engine, &batch));
	before = device_free();
	assert_int_equal(kvs_rerun_create(f.engine, 1 << 30, 1, &rerun), -ENOMEM);
	assert_int_equal(kvs_rerun_create(f.engine, 1 << 30, 2, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, 1, 0, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, 0, 1, &rerun), -EINVAL);
	assert_int_equal(kvs_rerun_create(f.engine, -1, 1, &rerun), -EINVAL);
	assert_int_equal(device_free(), before);
	must(kvs_rerun_create(f.engine, WINDOWS * WINDOW_TOKENS, 2, &rerun));
	must(kvs_rerun_batch(rerun, &batch, 1));
	kvs_rerun_free(rerun);
	assert_int_equal(device_free(), before);
	close_fixture(&f);
}

/* Sequences of one batch do not see each other: each scores as it does alone in an engine of its own. */
static void a_batch_is_its_sequences(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	float together[WINDOWS * WINDOW_TOKENS], alone[WINDOW_TOKENS];
	kvs_plan *plan = plan_of("0,1,0,3,0,1");
	struct kvs_engine_options options = {
		.plan = plan, .kv_dtype = KVS_F32, .kv_dtype_set = true, .ctx_tokens = WINDOW_TOKENS};
	kvs_engine *engine;
	double nll;

	(void)state;
	must(kvs_measure_nll(f.engine, &f.text, plan, together, &nll));
	must(kvs_engine_open(cu, f.ckpt, &options, &engine));
	for (int w = 0; w < WINDOWS; w++) {
		size_t at = (size_t)w * WINDOW_TOKENS;
		must(kvs_engine_truncate(engine, 0, 0));
		must(kvs_engine_score(
			engine, 0, f.text.window_ids + at, f.text.window_targets + at, WINDOW_TOKENS, alone, NULL));
		for (int i = 0; i < WINDOW_TOKENS; i++)
			assert_true(fabsf(alone[i] - together[at + i]) <= 1e-4f);
	}
	kvs_engine_close(engine);
	kvs_plan_free(plan);
	close_fixture(&f);
}

static void another_plan_needs_no_new_engine(void **state)
{
	kvs_checkpoint *ckpt;
	struct kvs_engine_options options = {.ctx_tokens = 64};
	kvs_plan *plan = plan_of("0,1,0,3,0,1"), *foreign = plan_of("0,1,2,1");
	kvs_engine *swapped, *opened;
	int32_t *ids = random_ids(32, 200);
	float *a, *b;

	(void)state;
	must(kvs_checkpoint_open(MODEL, &ckpt));
	a = malloc(sizeof(*a) * kvs_checkpoint_config(ckpt)->vocab);
	b = malloc(sizeof(*b) * kvs_checkpoint_config(ckpt)->vocab);
	must(kvs_engine_open(cu, ckpt, &options, &swapped));
	must(kvs_engine_append(swapped, 0, ids, 32));
	must(kvs_engine_set_plan(swapped, plan));
	assert_int_equal(kvs_engine_length(swapped, 0), 0);
	assert_int_equal(kvs_engine_set_plan(swapped, foreign), -EINVAL);
	options.plan = plan;
	must(kvs_engine_open(cu, ckpt, &options, &opened));
	must(kvs_engine_append(swapped, 0, ids, 32));
	must(kvs_engine_append(opened, 0, ids, 32));
	must(kvs_engine_logits(swapped, a));
	must(kvs_engine_logits(opened, b));
	assert_memory_equal(a, b, sizeof(*a) * kvs_checkpoint_config(ckpt)->vocab);
	assert_true(kvs_vmm_is_valid(kvs_engine_vmm(swapped)));
	kvs_engine_close(swapped);
	kvs_engine_close(opened);
	kvs_plan_free(plan);
	kvs_plan_free(foreign);
	kvs_checkpoint_close(ckpt);
	free(ids);
	free(a);
	free(b);
}

/* Of a walk's plans, each one more pair or another; half of the sequences fit in a batch. */
static void cosines_by_reruns_are_those_of_whole_runs(void **state)
{
	static const char *const plans[] = {"0,1,2,3,4,4", "0,1,2,3,3,5", "0,1,2,3,3,3", "0,0,2,3,3,3", "0,1,2,3,3,3",
		"0,1,1,3,3,3", "0,1,1,3,1,1"};
	struct fixture f = open_fixture(MODEL, 2 * SAMPLE_TOKENS), g = open_fixture(MODEL, 2 * SAMPLE_TOKENS);

	(void)state;
	keep_residuals(&f, SAMPLES * SAMPLE_TOKENS, 3);
	for (size_t i = 0; i < sizeof(plans) / sizeof(*plans); i++) {
		kvs_plan *plan = plan_of(plans[i]);
		enum kvs_cosine kind = i % 2 ? KVS_COSINE_PAPER : KVS_COSINE_CODE;
		double whole, part;
		must(kvs_measure_cosine(f.engine, f.rerun, &f.text, &f.capture, plan, kind, &part));
		if (i == 3) /* whole runs in between are noticed */
			must(kvs_measure_cosine(f.engine, NULL, &f.text, &f.capture, NULL, kind, &whole));
		must(kvs_measure_cosine(g.engine, NULL, &g.text, &g.capture, plan, kind, &whole));
		assert_true(part == whole);
		kvs_plan_free(plan);
	}
	close_fixture(&f);
	close_fixture(&g);
}

static void batches_that_do_not_fit_are_refused(void **state)
{
	struct fixture f = open_fixture(MODEL, 0);
	struct kvs_batch good = all_windows(&f), wide = good, far = good, odd = good;
	int32_t id = f.vocab;

	(void)state;
	wide.sequences = kvs_engine_batch_rows(f.engine);
	assert_int_equal(kvs_engine_run_batch(f.engine, &wide), -EINVAL);
	far.first = 1 << 20;
	assert_int_equal(kvs_engine_run_batch(f.engine, &far), -EINVAL);
	odd = (struct kvs_batch){.ids = &id, .sequences = 1, .tokens = 1};
	assert_int_equal(kvs_engine_run_batch(f.engine, &odd), -EINVAL);
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS - 1, 1);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, 1), -EINVAL); /* nothing is kept of the last token */
	keep_residuals(&f, WINDOWS * WINDOW_TOKENS, 1);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, 0), -EINVAL);
	assert_int_equal(kvs_rerun_batch(f.rerun, &good, f.layers), -EINVAL);
	assert_int_equal(kvs_engine_add_k(f.engine, f.layers, 0, 1, NULL), -EINVAL);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rerun_from_the_middle_is_a_whole_run),
		cmocka_unit_test(each_run_and_cut_is_a_generation),
		cmocka_unit_test(batches_may_be_rerun_in_parts),
		cmocka_unit_test(a_rerun_starts_as_high_as_it_can),
		cmocka_unit_test(residuals_beyond_memory_leave_none_and_leak_nothing),
		cmocka_unit_test(a_batch_is_its_sequences),
		cmocka_unit_test(another_plan_needs_no_new_engine),
		cmocka_unit_test(cosines_by_reruns_are_those_of_whole_runs),
		cmocka_unit_test(batches_that_do_not_fit_are_refused),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
