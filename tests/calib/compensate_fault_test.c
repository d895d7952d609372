/*
 * tests/calib/compensate_fault_test.c: a refit survives the failure of any driver call, and statistics that cannot be
 * solved are named.
 *
 * The Nth call fails, for rising N until a run needs fewer calls. The run then works nevertheless and fits the same matrices
 * to the bit, or ends in an error with a message and without matrices; softcuda holds nothing afterwards.
 */
#include "../../calib/calib.h"
#include "../support/faults.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define SAMPLES 16
#define TOKENS 32                   /* 512 in all: the least for 4 heads of 64 */
#define STRIDE(nth) (1 + (nth) / 5) /* a run makes thousands of calls, most of them alike */

static kvs_cu *holder; /* keeps softcuda loaded between runs, so that its counters can be read */
static kvs_checkpoint *ckpt;
static kvs_plan *plan;
static struct faults faults;
static int32_t ids[SAMPLES * TOKENS + 1];
static struct kvs_compensation expected;

static struct kvs_calib_text text_of(void)
{
	return (struct kvs_calib_text){.samples = SAMPLES,
		.sample_tokens = TOKENS,
		.ids = ids,
		.windows = 1,
		.window_tokens = TOKENS,
		.window_ids = ids,
		.window_targets = ids + 1,
		.held_back = true};
}

/* On a driver and an engine of its own; with `poison`, the first of these weights is one value all over. */
static int run_once(const char *poisoned, float poison, struct kvs_compensation *out)
{
	struct kvs_calib_text text = text_of();
	struct kvs_engine_options options = {.no_premap = true};
	float values[32 * 256];
	kvs_engine *engine;
	kvs_cu *cu;
	int err = kvs_cu_open("host", &cu);

	if (err)
		return err;
	err = kvs_calib_open_engine(cu, ckpt, &options, &text, 1, &engine);
	if (!err) {
		for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
			values[i] = poison;
		if (poisoned)
			assert_int_equal(kvs_engine_set_matrix(engine, poisoned, 128, 32, KVS_BF16, values), 0);
		err = kvs_compensate(engine, ckpt, &text, plan, &(struct kvs_compensate_options){.skip = 4}, NULL, out);
		assert_true(kvs_vmm_is_valid(kvs_engine_vmm(engine)));
		kvs_engine_close(engine);
	}
	kvs_cu_close(cu);
	return err;
}

static void assert_equal_fits(const struct kvs_compensation *a, const struct kvs_compensation *b)
{
	assert_int_equal(a->count, b->count);
	for (size_t i = 0; i < a->count; i++) {
		assert_string_equal(a->refits[i].name, b->refits[i].name);
		assert_memory_equal(a->refits[i].values, b->refits[i].values,
			sizeof(float) * a->refits[i].rows * a->refits[i].cols);
	}
}

static void any_call_may_fail(void **state)
{
	size_t failures = 0;

	(void)state;
	for (size_t nth = 1;; nth += STRIDE(nth)) {
		struct kvs_compensation fit = {0};
		faults.fail_nth("*", nth, CUDA_ERROR_OUT_OF_MEMORY);
		int err = run_once(NULL, 0, &fit);
		bool delivered = faults.failed();
		faults.fail_nth(NULL, 0, CUDA_SUCCESS);
		if (err && !*kvs_error())
			fail_msg("call %zu failed without a message", nth);
		if (err)
			assert_null(fit.refits);
		else
			assert_equal_fits(&fit, &expected);
		kvs_compensation_clear(&fit);
		faults_assert_nothing_left(&faults, "any function", nth);
		if (!delivered)
			break;
		failures++;
	}
	print_message("%zu runs with a call that failed\n", failures);
	assert_true(failures > 20);
}

static void assert_fails(const char *matrix, float value, const char *words)
{
	struct kvs_compensation fit;

	assert_int_equal(run_once(matrix, value, &fit), -EIO);
	if (!strstr(kvs_error(), words))
		fail_msg("\"%s\" does not say \"%s\"", kvs_error(), words);
	assert_null(fit.refits);
}

/* The owner's V is nothing: so is what the borrower attends to, and no W_o makes anything of it. */
static void sums_of_zeros_are_singular(void **state)
{
	(void)state;
	assert_fails("model.layers.1.self_attn.v_proj.weight", 0, "singular");
}

/* The owner's K is nothing, as is a pruned head: queries stay as they are, and the rest is fitted. */
static void a_dead_head_stays(void **state)
{
	struct kvs_compensation fit = {0};

	(void)state;
	assert_int_equal(run_once("model.layers.1.self_attn.k_proj.weight", 0, &fit), 0);
	assert_true(fit.count > 0);
	for (size_t i = 0; i < fit.count; i++)
		assert_false(fit.refits[i].kind == KVS_REFIT_QUERIES &&
			     kvs_plan_owner(plan, fit.refits[i].layer, KVS_K) == 1);
	kvs_compensation_clear(&fit);
}

static void values_that_are_no_numbers_are_named(void **state)
{
	(void)state;
	assert_fails("model.layers.1.self_attn.v_proj.weight", NAN, "not a number");
}

static int set_up(void **state)
{
	unsigned seed = 11;

	(void)state;
	if (kvs_cu_open("host", &holder) || kvs_checkpoint_open(MODEL, &ckpt) || kvs_plan_parse("0,1,1,3,4,1", &plan)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	for (int i = 0; i <= SAMPLES * TOKENS; i++)
		ids[i] = rand_r(&seed) % kvs_checkpoint_config(ckpt)->vocab;
	if (faults_open(holder->library, &faults) || run_once(NULL, 0, &expected)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	for (size_t i = 0; i < expected.count; i++)
		if (expected.refits[i].kind == KVS_REFIT_SKIP_B)
			return 0;
	fprintf(stderr, "no layer has a skip: its calls would not fail\n");
	return -1;
}

static int tear_down(void **state)
{
	(void)state;
	kvs_compensation_clear(&expected);
	kvs_plan_free(plan);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(holder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_call_may_fail),
		cmocka_unit_test(sums_of_zeros_are_singular),
		cmocka_unit_test(a_dead_head_stays),
		cmocka_unit_test(values_that_are_no_numbers_are_named),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
