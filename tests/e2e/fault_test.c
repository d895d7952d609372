/*
 * tests/e2e/fault_test.c: generate survives the failure of any driver call.
 *
 * For every driver function that a run uses and every N until a run needs fewer calls, the Nth call fails. The run then
 * either succeeds with the same tokens, or ends in an error with a message. Afterwards softcuda holds nothing: no handle,
 * mapping, reservation, allocation, stream, event or module.
 */
#include "../../model/model.h"
#include "../support/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define OWNERS "0,1,2,1,4,0"
#define PROMPT 9
#define STEPS 2

static kvs_cu *holder; /* keeps softcuda loaded between runs, so that its counters can be read */
static kvs_checkpoint *ckpt;
static kvs_plan *plan;
static struct faults faults;
static int32_t expected[STEPS];

static int generate(kvs_engine *engine, int32_t *tokens)
{
	int32_t ids[PROMPT];
	int err;

	for (int i = 0; i < PROMPT; i++)
		ids[i] = 7 + 11 * i;
	err = kvs_engine_append(engine, 0, ids, PROMPT);
	for (int step = 0; step < STEPS && !err; step++) {
		err = kvs_engine_argmax(engine, &tokens[step]);
		if (!err)
			err = kvs_engine_append(engine, 0, &tokens[step], 1);
	}
	assert_true(kvs_vmm_is_valid(kvs_engine_vmm(engine)));
	return err;
}

static int run_once(int32_t *tokens)
{
	struct kvs_engine_options options = {.plan = plan, .ctx_tokens = 64, .chunk_tokens = 4, .no_premap = true};
	kvs_engine *engine;
	kvs_cu *cu;
	int err = kvs_cu_open("host", &cu);

	if (err)
		return err;
	err = kvs_engine_open(cu, ckpt, &options, &engine);
	if (!err) {
		err = generate(engine, tokens);
		kvs_engine_close(engine);
	}
	kvs_cu_close(cu);
	return err;
}

/* Sanitizers are slow: after the first calls they go on in strides that grow. */
static size_t stride(size_t nth)
{
#ifdef __SANITIZE_ADDRESS__
	return nth < 24 ? 1 : 1 + nth / 16;
#else
	(void)nth;
	return 1;
#endif
}

/* Fails a later call each time, until there is none left to fail. */
static size_t fail_each_call(const char *name)
{
	for (size_t nth = 1, failures = 0;; nth += stride(nth)) {
		int32_t tokens[STEPS] = {0};
		faults.fail_nth(name, nth, CUDA_ERROR_OUT_OF_MEMORY);
		int err = run_once(tokens);
		bool delivered = faults.failed();
		faults.fail_nth(NULL, 0, CUDA_SUCCESS);
		if (err && !*kvs_error())
			fail_msg("call %zu of %s failed without a message", nth, name);
		if (!err)
			assert_memory_equal(tokens, expected, sizeof(expected));
		faults_assert_nothing_left(&faults, name, nth);
		if (!delivered)
			return failures;
		failures++;
	}
}

static void every_function_may_fail_at_every_call(void **state)
{
	static const char *const names[] = {
#define NAME(name) #name,
		KVS_CU_FUNCTIONS(NAME)
#undef NAME
	};
	size_t failures = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		failures += fail_each_call(names[i]);
	assert_true(failures > 100);
}

static void any_call_may_fail(void **state)
{
	(void)state;
	assert_true(fail_each_call("*") > 50);
}

/* A kernel that faults loses the context; the process survives, reports it, and frees everything. */
static void a_lost_context_is_reported_and_leaks_nothing(void **state)
{
	int32_t tokens[STEPS];

	(void)state;
	faults.fail_nth("cuStreamSynchronize", 3, CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_not_equal(run_once(tokens), 0);
	faults.fail_nth(NULL, 0, CUDA_SUCCESS);
	assert_non_null(strstr(kvs_error(), "CUDA_ERROR_ILLEGAL_ADDRESS"));
	faults_assert_nothing_left(&faults, "cuStreamSynchronize", 3);
}

static int set_up(void **state)
{
	(void)state;
	if (kvs_cu_open("host", &holder) || kvs_checkpoint_open(MODEL, &ckpt) || kvs_plan_parse(OWNERS, &plan)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	if (faults_open(holder->library, &faults) || run_once(expected)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kvs_plan_free(plan);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(holder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_function_may_fail_at_every_call),
		cmocka_unit_test(any_call_may_fail),
		cmocka_unit_test(a_lost_context_is_reported_and_leaks_nothing),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
