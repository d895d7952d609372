/*
 * tests/calib/fault_test.c: a search and its measures survive the failure of any driver call.
 *
 * The Nth call fails, for rising N until a run needs fewer calls. The run then either works nevertheless and finds the
 * same plan, or ends in an error with a message; afterwards softcuda holds nothing, and sanitizers find no leak.
 */
#include "../../calib/calib.h"
#include "../support/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define LAYERS 6
#define TOKENS 12
#define STRIDE(nth) (1 + (nth) / 6) /* a run makes thousands of calls, most of them alike */

static kvs_cu *holder; /* keeps softcuda loaded between runs, so that its counters can be read */
static kvs_checkpoint *ckpt;
static struct faults faults;
static int32_t ids[2 * TOKENS + 1];
static int expected[2][LAYERS]; /* by enum kvs_policy */
static int kept;                /* failures that left trials */

/* With `last` the walk alone, as each of its trials is several passes. */
static int search(kvs_engine *engine, const struct kvs_calib_text *text, int *owners)
{
	struct kvs_search_options options = {
		.method = KVS_METHOD_AUTO, .share = 2, .threshold = -1, .sweep = true, .drop_means = true};
	struct kvs_search_result result;
	struct kvs_capture capture;
	int err = kvs_capture_run(engine, text, NULL, &capture);

	options.policy = kvs_engine_policy(engine);
	options.pass_tokens = kvs_engine_pass_tokens(engine);
	if (options.policy == KVS_POLICY_LAST)
		options.method = KVS_METHOD_KVSHARER;
	if (err)
		return err;
	err = kvs_search_run(engine, text, &capture, &options, &result);
	if (!err) {
		memcpy(owners, result.best.k_owners, sizeof(*owners) * LAYERS);
	} else if (result.trial_count) { /* what was found before the failure is kept, to go on from */
		assert_int_equal(result.end, KVS_SEARCH_STOPPED);
		assert_non_null(result.best.k_owners);
		kept++;
	}
	kvs_search_result_clear(&result);
	kvs_capture_clear(&capture);
	return err;
}

static int measure(kvs_engine *engine, const struct kvs_calib_text *text, const int *owners)
{
	struct kvs_quality quality;
	kvs_reference *reference;
	kvs_plan *plan;
	int err = kvs_reference_create(engine, text, NULL, &reference);

	if (err)
		return err;
	err = kvs_plan_create(LAYERS, owners, owners, &plan);
	if (!err) {
		err = kvs_measure_quality(engine, text, reference, plan, NULL, &quality);
		kvs_plan_free(plan);
	}
	if (!err)
		err = kvs_measure_merged(engine, text, reference, owners, NULL, &quality);
	kvs_reference_free(reference);
	return err;
}

static int run_once(enum kvs_policy policy, int *owners)
{
	struct kvs_calib_text text = {.samples = 2,
		.sample_tokens = TOKENS,
		.ids = ids,
		.windows = 2,
		.window_tokens = TOKENS,
		.window_ids = ids,
		.window_targets = ids + 1};
	struct kvs_engine_options options = {.no_premap = true, .policy = policy, .pass_tokens = 5};
	kvs_engine *engine;
	kvs_cu *cu;
	int err = kvs_cu_open("host", &cu);

	if (err)
		return err;
	err = kvs_calib_open_engine(cu, ckpt, &options, &text, 1, &engine);
	if (!err) {
		err = search(engine, &text, owners);
		if (!err && policy == KVS_POLICY_OWNER)
			err = measure(engine, &text, owners);
		assert_true(kvs_vmm_is_valid(kvs_engine_vmm(engine)));
		kvs_engine_close(engine);
	}
	kvs_cu_close(cu);
	return err;
}

static void let_any_call_fail(enum kvs_policy policy)
{
	size_t failures = 0;

	kept = 0;
	for (size_t nth = 1;; nth += STRIDE(nth)) {
		int owners[LAYERS] = {0};
		faults.fail_nth("*", nth, CUDA_ERROR_OUT_OF_MEMORY);
		int err = run_once(policy, owners);
		bool delivered = faults.failed();
		faults.fail_nth(NULL, 0, CUDA_SUCCESS);
		if (err && !*kvs_error())
			fail_msg("call %zu failed without a message", nth);
		if (!err)
			assert_memory_equal(owners, expected[policy], sizeof(owners));
		faults_assert_nothing_left(&faults, "any function", nth);
		if (!delivered)
			break;
		failures++;
	}
	print_message("%zu runs with a call that failed, %d after a trial\n", failures, kept);
	assert_true(failures > 30);
	assert_true(kept > 2);
}

static void any_call_may_fail(void **state)
{
	(void)state;
	let_any_call_fail(KVS_POLICY_OWNER);
}

static void any_call_may_fail_with_the_policy_last(void **state)
{
	(void)state;
	let_any_call_fail(KVS_POLICY_LAST);
}

static int set_up(void **state)
{
	unsigned seed = 11;

	(void)state;
	if (kvs_cu_open("host", &holder) || kvs_checkpoint_open(MODEL, &ckpt)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	for (int i = 0; i <= 2 * TOKENS; i++)
		ids[i] = rand_r(&seed) % kvs_checkpoint_config(ckpt)->vocab;
	if (faults_open(holder->library, &faults) || run_once(KVS_POLICY_OWNER, expected[0]) ||
		run_once(KVS_POLICY_LAST, expected[1])) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(holder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_call_may_fail),
		cmocka_unit_test(any_call_may_fail_with_the_policy_last),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
