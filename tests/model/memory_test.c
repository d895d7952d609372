/*
 * An engine's memory: truncating a slot frees its blocks, the remaining tokens keep theirs, and freed blocks are
 * reused; small blocks become larger for a long context; losses need no more rows of logits than two.
 */
#include "../../model/model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LAYERS = 2, TOKENS = 96, TOKEN_BYTES = 2 * 32 * 4 }; /* of K or V in a layer: 16 tokens a block of 4 KiB */

static size_t held(kvs_engine *engine)
{
	struct kvs_engine_memory memory;

	assert_int_equal(kvs_engine_memory(engine, &memory), 0);
	return memory.kv_physical_bytes;
}

static int windows[LAYERS];
static const int32_t ids[TOKENS];
static const struct kvs_config config = {.model_type = "llama",
	.layers = LAYERS,
	.hidden = 64,
	.ff = 64,
	.heads = 2,
	.kv_heads = 2,
	.head_dim = 32,
	.vocab = 64,
	.max_positions = 256,
	.rms_eps = 1e-5f,
	.dtype = KVS_F32,
	.rope = {.theta = 10000, .factor = 1},
	.window = windows};

static void cutting_gives_memory_back(void **state)
{
	const struct kvs_engine_options options = {.no_premap = true};
	kvs_engine *engine;
	kvs_cu *cu;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	if (kvs_engine_open_random(cu, &config, &options, &engine))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_engine_append(engine, 0, ids, TOKENS), 0);
	assert_int_equal(held(engine), 2 * LAYERS * TOKENS * TOKEN_BYTES);
	assert_int_equal(kvs_engine_truncate(engine, 0, TOKENS / 3), 0);
	assert_int_equal(kvs_engine_length(engine, 0), TOKENS / 3);
	assert_int_equal(held(engine), 2 * LAYERS * TOKENS / 3 * TOKEN_BYTES);
	assert_int_equal(kvs_engine_append(engine, 0, ids, TOKENS / 3), 0);
	assert_int_equal(held(engine), 2 * LAYERS * TOKENS / 3 * 2 * TOKEN_BYTES);
	assert_int_equal(kvs_engine_truncate(engine, 0, 0), 0);
	assert_int_equal(held(engine), 0);
	kvs_engine_close(engine);
	kvs_cu_close(cu);
}

/* What a full cache may have in blocks is bounded, as each may take one of the mappings of a process. */
static void blocks_of_a_long_context_are_larger(void **state)
{
	static const struct {
		int ctx_tokens;
		size_t block_bytes;
	} rows[] = {{1 << 20, 4 << 10}, {(1 << 20) + 64, 128 << 10}, {(1 << 21) + 64, 256 << 10}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		const struct kvs_engine_options options = {.no_premap = true, .ctx_tokens = rows[i].ctx_tokens};
		kvs_engine *engine;
		kvs_cu *cu;

		assert_int_equal(kvs_cu_open("host", &cu), 0);
		if (kvs_engine_open_random(cu, &config, &options, &engine))
			fail_msg("%s", kvs_error());
		assert_int_equal(kvs_engine_append(engine, 0, ids, 1), 0);
		assert_int_equal(held(engine), 2 * LAYERS * rows[i].block_bytes);
		kvs_engine_close(engine);
		kvs_cu_close(cu);
	}
}

static void score(int score_rows, float nll[TOKENS], size_t *workspace)
{
	const struct kvs_engine_options options = {.score_rows = score_rows};
	struct kvs_engine_memory memory;
	int32_t targets[TOKENS];
	kvs_engine *engine;
	kvs_cu *cu;

	for (int i = 0; i < TOKENS; i++)
		targets[i] = i % config.vocab;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	if (kvs_engine_open_random(cu, &config, &options, &engine))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_engine_score(engine, 0, targets, targets, TOKENS, nll, NULL), 0);
	assert_int_equal(kvs_engine_memory(engine, &memory), 0);
	*workspace = memory.workspace_bytes;
	kvs_engine_close(engine);
	kvs_cu_close(cu);
}

static void few_rows_of_logits_give_the_same_losses(void **state)
{
	const struct kvs_engine_options one = {.score_rows = 1};
	float all[TOKENS], few[TOKENS], odd[TOKENS];
	size_t most, least, between;
	kvs_engine *engine;
	kvs_cu *cu;

	(void)state;
	score(0, all, &most);
	score(2, few, &least);
	score(7, odd, &between);
	for (int i = 0; i < TOKENS; i++) { /* products of few rows are summed in another order */
		assert_float_equal(all[i], few[i], 1e-5);
		assert_float_equal(all[i], odd[i], 1e-5);
	}
	assert_true(least < between && between < most);
	assert_true(most - least >= 62 * sizeof(float) * (size_t)config.vocab);
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	assert_int_equal(kvs_engine_open_random(cu, &config, &one, &engine), -EINVAL);
	kvs_cu_close(cu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cutting_gives_memory_back),
		cmocka_unit_test(blocks_of_a_long_context_are_larger),
		cmocka_unit_test(few_rows_of_logits_give_the_same_losses),
	};

	setenv("SOFTCUDA_GRANULARITY", "4K", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
