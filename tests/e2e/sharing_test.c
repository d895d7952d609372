/*
 * tests/e2e/sharing_test.c: sharing by mapping gives, bit for bit, the results of passing the owner's addresses; slots
 * do not affect each other; a failed append leaves no trace.
 */
#include "../../model/model.h"
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

#define MODEL "tests/models/storyworld-3m"
#define OWNERS "0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15"
#define PROMPT 37
#define STEPS 12

static kvs_cu *cu;
static kvs_checkpoint *ckpt;
static int vocab;

static kvs_engine *engine_with(struct kvs_engine_options options, const char *owners)
{
	kvs_plan *plan = NULL;
	kvs_engine *engine;

	if (owners && kvs_plan_parse(owners, &plan))
		fail_msg("%s", kvs_error());
	options.plan = plan;
	options.ctx_tokens = 256;
	if (kvs_engine_open(cu, ckpt, &options, &engine))
		fail_msg("%s", kvs_error());
	kvs_plan_free(plan);
	return engine;
}

/* A prompt that depends on `seed`, then greedy steps; all logits on the way go to `logits` [STEPS][vocab]. */
static void run(kvs_engine *engine, unsigned slot, int seed, float *logits)
{
	int32_t ids[PROMPT], id;

	for (int i = 0; i < PROMPT; i++)
		ids[i] = 2 + (seed * 31 + i * i * 7) % (vocab - 2);
	assert_int_equal(kvs_engine_append(engine, slot, ids, PROMPT), 0);
	for (int step = 0; step < STEPS; step++) {
		assert_int_equal(kvs_engine_logits(engine, logits + (size_t)step * vocab), 0);
		assert_int_equal(kvs_engine_argmax(engine, &id), 0);
		assert_int_equal(kvs_engine_append(engine, slot, &id, 1), 0);
	}
}

static float *logits_of(struct kvs_engine_options options, unsigned slot, const char *owners)
{
	kvs_engine *engine = engine_with(options, owners);
	float *logits = malloc(sizeof(*logits) * STEPS * vocab);

	assert_non_null(logits);
	run(engine, slot, 1, logits);
	kvs_engine_close(engine);
	return logits;
}

static void assert_same_bits(const float *a, const float *b)
{
	assert_memory_equal(a, b, sizeof(*a) * STEPS * vocab);
}

static void mapping_gives_the_bits_of_the_owners_addresses(void **state)
{
	static const enum kvs_dtype types[] = {KVS_BF16, KVS_F16, KVS_F32};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct kvs_engine_options options = {.kv_dtype = types[i], .kv_dtype_set = true};
		float *mapped = logits_of(options, 0, OWNERS);
		options.share_by_pointer = true;
		float *pointed = logits_of(options, 0, OWNERS), *full = logits_of(options, 0, NULL);
		assert_same_bits(mapped, pointed);
		assert_memory_not_equal(mapped, full, sizeof(*mapped) * STEPS * vocab); /* sharing does something */
		free(mapped);
		free(pointed);
		free(full);
	}
}

static void slots_and_blocks_change_no_bit(void **state)
{
	float *plain = logits_of((struct kvs_engine_options){0}, 0, OWNERS);
	struct kvs_engine_options rows[] = {{.slots = 3}, {.no_premap = true}, {.block_bytes = 8 << 20}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		float *other = logits_of(rows[i], rows[i].slots ? rows[i].slots - 1 : 0, OWNERS);
		assert_same_bits(plain, other);
		free(other);
	}
	free(plain);
}

/* Three sequences, one step of each in turn, against each sequence alone. */
static void slots_do_not_see_each_other(void **state)
{
	kvs_engine *together = engine_with((struct kvs_engine_options){.slots = 3}, OWNERS);
	float *alone = malloc(sizeof(*alone) * STEPS * vocab), *shared = malloc(sizeof(*shared) * STEPS * vocab);

	(void)state;
	for (unsigned slot = 0; slot < 3; slot++) {
		kvs_engine *single = engine_with((struct kvs_engine_options){0}, OWNERS);
		run(single, 0, slot, alone);
		run(together, slot, slot, shared);
		assert_same_bits(alone, shared);
		kvs_engine_close(single);
	}
	kvs_engine_close(together);
	free(alone);
	free(shared);
}

/*
 * A tail that is truncated and appended again ends in the same token. The logits may differ by rounding: a GEMM of nine
 * rows sums in another order than one of 37.
 */
static void a_cut_tail_can_be_appended_again(void **state)
{
	kvs_engine *engine = engine_with((struct kvs_engine_options){0}, OWNERS);
	int32_t ids[PROMPT], before, after;
	float *first = malloc(sizeof(*first) * vocab), *again = malloc(sizeof(*again) * vocab);

	(void)state;
	for (int i = 0; i < PROMPT; i++)
		ids[i] = 2 + i * 5;
	assert_int_equal(kvs_engine_append(engine, 0, ids, PROMPT), 0);
	assert_int_equal(kvs_engine_logits(engine, first), 0);
	assert_int_equal(kvs_engine_argmax(engine, &before), 0);
	assert_int_equal(kvs_engine_truncate(engine, 0, PROMPT - 9), 0);
	assert_int_equal(kvs_engine_length(engine, 0), PROMPT - 9);
	assert_int_equal(kvs_engine_append(engine, 0, ids + PROMPT - 9, 9), 0);
	assert_int_equal(kvs_engine_logits(engine, again), 0);
	assert_int_equal(kvs_engine_argmax(engine, &after), 0);
	assert_int_equal(after, before);
	for (int i = 0; i < vocab; i++)
		assert_true(fabsf(first[i] - again[i]) < 0.1f);
	kvs_engine_close(engine);
	free(first);
	free(again);
}

/*
 * Scores the prompt PIECE tokens at a time; before each piece `reader`, if there is one, reads the prompt. The logits
 * of each piece's first token go to `logits` [PROMPT / PIECE][vocab].
 */
#define PIECE 12
static void score_beside(kvs_engine *reader, const int32_t *prompt, float *logits)
{
	float nll[PIECE];
	kvs_engine *scorer = engine_with((struct kvs_engine_options){.kv_dtype = KVS_F32, .kv_dtype_set = true},
		NULL); /* bf16 would hide the last bits */

	for (int first = 0; first + PIECE < PROMPT; first += PIECE) {
		if (reader) {
			assert_int_equal(kvs_engine_truncate(reader, 0, 0), 0);
			assert_int_equal(kvs_engine_append(reader, 0, prompt, PROMPT), 0);
			assert_int_equal(kvs_engine_wait(reader), 0);
		}
		assert_int_equal(kvs_engine_score(scorer, 0, prompt + first, prompt + first + 1, PIECE, nll, NULL), 0);
		assert_int_equal(kvs_engine_logits(scorer, logits + first / PIECE * vocab), 0);
	}
	kvs_engine_close(scorer);
}

/* Two engines in one process take turns: each gives the bits that it gives alone. */
static void engines_do_not_disturb_each_other(void **state)
{
	kvs_engine *reader = engine_with((struct kvs_engine_options){0}, NULL);
	size_t count = PROMPT / PIECE * vocab;
	float *alone = malloc(sizeof(*alone) * count), *beside = malloc(sizeof(*beside) * count);
	int32_t prompt[PROMPT];

	(void)state;
	assert_true(alone && beside);
	for (int i = 0; i < PROMPT; i++)
		prompt[i] = 2 + (i * i * 7) % (vocab - 2);
	score_beside(NULL, prompt, alone);
	score_beside(reader, prompt, beside);
	assert_memory_equal(alone, beside, sizeof(*alone) * count);
	kvs_engine_close(reader);
	free(alone);
	free(beside);
}

static void what_cannot_be_appended_changes_nothing(void **state)
{
	kvs_engine *engine = engine_with((struct kvs_engine_options){0}, NULL);
	int32_t good[4] = {5, 6, 7, 8}, bad[2] = {5, vocab}, long_one[300] = {0};

	(void)state;
	assert_int_equal(kvs_engine_append(engine, 0, good, 4), 0);
	assert_int_equal(kvs_engine_append(engine, 0, bad, 2), -EINVAL);
	assert_non_null(strstr(kvs_error(), "vocab_size"));
	assert_int_equal(kvs_engine_append(engine, 0, long_one, 300), -EINVAL);
	assert_non_null(strstr(kvs_error(), "--ctx"));
	assert_int_equal(kvs_engine_append(engine, 1, good, 4), -EINVAL);
	assert_int_equal(kvs_engine_append(engine, 0, good, 0), -EINVAL);
	assert_int_equal(kvs_engine_truncate(engine, 0, 5), -EINVAL);
	assert_int_equal(kvs_engine_length(engine, 0), 4);
	assert_true(kvs_vmm_is_valid(kvs_engine_vmm(engine)));
	kvs_engine_close(engine);
}

static size_t kv_bytes(kvs_engine *engine)
{
	struct kvs_engine_memory memory;

	assert_int_equal(kvs_engine_memory(engine, &memory), 0);
	return memory.kv_physical_bytes;
}

/* The cache grows before anything runs. If the run then fails, the cache is as it was before. */
static void an_append_that_fails_gives_its_room_back(void **state)
{
	kvs_engine *engine = engine_with((struct kvs_engine_options){.no_premap = true}, NULL);
	int32_t ids[4] = {5, 6, 7, 8};
	float nll[4];
	struct faults faults;
	size_t before = kv_bytes(engine);

	(void)state;
	if (faults_open(cu->library, &faults)) {
		kvs_engine_close(engine);
		skip(); /* a real driver cannot be told to fail */
	}
	faults.fail_nth("cuMemcpyHtoDAsync", 1, CUDA_ERROR_UNKNOWN);
	assert_int_equal(kvs_engine_append(engine, 0, ids, 4), -EIO);
	assert_int_equal(kv_bytes(engine), before);
	faults.fail_nth("cuMemcpyHtoDAsync", 1, CUDA_ERROR_UNKNOWN);
	assert_int_equal(kvs_engine_score(engine, 0, ids, ids, 4, nll, NULL), -EIO);
	assert_int_equal(kv_bytes(engine), before);
	assert_int_equal(kvs_engine_length(engine, 0), 0);
	faults.fail_nth(NULL, 0, CUDA_SUCCESS);
	assert_int_equal(kvs_engine_append(engine, 0, ids, 4), 0);
	assert_true(kv_bytes(engine) > before);
	kvs_engine_close(engine);
}

/* The least number of bytes that launches move for one token, with layer 1's K, V or both read from layer 0. */
static uint64_t bytes_of_a_token(int k_owner, int v_owner)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	int k[KVS_MAX_LAYERS], v[KVS_MAX_LAYERS];
	struct kvs_engine_options options = {.ctx_tokens = 64};
	kvs_engine *engine;
	kvs_plan *plan;
	int32_t id = 5;

	for (int l = 0; l < config->layers; l++)
		k[l] = v[l] = l;
	k[1] = k_owner;
	v[1] = v_owner;
	assert_int_equal(kvs_plan_create(config->layers, k, v, &plan), 0);
	options.plan = plan;
	if (kvs_engine_open(cu, ckpt, &options, &engine))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_engine_append(engine, 0, &id, 1), 0);
	uint64_t bytes = kvs_engine_bytes_moved(engine);
	kvs_engine_close(engine);
	kvs_plan_free(plan);
	return bytes;
}

/* The bytes saved are the rows of the weights that are not read, and a little more: nothing is projected in vain. */
static void what_is_borrowed_is_not_projected(void **state)
{
	const struct kvs_config *config = kvs_checkpoint_config(ckpt);
	kvs_engine *engine = engine_with((struct kvs_engine_options){0}, NULL);
	enum kvs_dtype type = kvs_gemm_dtype(kvs_engine_stream(engine), config->dtype);
	uint64_t part = (uint64_t)config->kv_heads * config->head_dim * config->hidden * kvs_dtype_bytes(type);
	uint64_t full = bytes_of_a_token(1, 1);
	static const struct {
		int k_owner, v_owner, parts;
	} rows[] = {{0, 1, 1}, {1, 0, 1}, {0, 0, 2}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t saved = full - bytes_of_a_token(rows[i].k_owner, rows[i].v_owner);
		assert_true(
			saved > rows[i].parts * part * 9 / 10); /* Q's input is read twice where K alone is left out */
		assert_true(saved < rows[i].parts * part * 11 / 10);
	}
	kvs_engine_close(engine);
}

static int open_model(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	if (kvs_cu_open(device ? device : "host", &cu) || kvs_checkpoint_open(MODEL, &ckpt)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	vocab = kvs_checkpoint_config(ckpt)->vocab;
	return 0;
}

static int close_model(void **state)
{
	(void)state;
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mapping_gives_the_bits_of_the_owners_addresses),
		cmocka_unit_test(slots_and_blocks_change_no_bit),
		cmocka_unit_test(slots_do_not_see_each_other),
		cmocka_unit_test(a_cut_tail_can_be_appended_again),
		cmocka_unit_test(engines_do_not_disturb_each_other),
		cmocka_unit_test(what_cannot_be_appended_changes_nothing),
		cmocka_unit_test(an_append_that_fails_gives_its_room_back),
		cmocka_unit_test(what_is_borrowed_is_not_projected),
	};

	return cmocka_run_group_tests(tests, open_model, close_model);
}
