/*
 * tests/gpu/device_test.c: what must hold on a device beyond its driver's rules: the engine computes there what it
 * computes on the host, a search finds the same plan, and memory is what our statistics say it is, also when it runs
 * out.
 *
 * KVS_TEST_DEVICE is the device (default "host", where the comparison is of softcuda with itself and the rest is real).
 * Only the last two tests take more than half of the free memory, and they stop at the first refusal.
 */
#include "../../calib/calib.h"

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
#define PROMPT_TOKENS 64
#define STEPS 32
#define SCORED_TOKENS 512
#define NLL_TOLERANCE 5e-3 /* nats a token, of bf16 K and V: the rounding of either device */
#define MIB ((size_t)1 << 20)
/* What a driver may take for page tables and for its own use, beside what was asked for. */
#define DRIVER_MARGIN (64 * MIB)

/* cu is the device under test, host is softcuda. The GPU's driver is opened first: both are named libcuda.so.1. */
static kvs_cu *cu, *host;
static kvs_checkpoint *ckpt;
static int32_t *text; /* ids of text that the model has not been trained on */
static size_t text_tokens;

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

/* ---- the engine ---- */

static kvs_engine *engine_open(kvs_cu *device, enum kvs_dtype kv_dtype)
{
	struct kvs_engine_options options = {.kv_dtype = kv_dtype, .kv_dtype_set = true, .ctx_tokens = 512};
	kvs_plan *plan;
	kvs_engine *engine;

	must(kvs_cu_bind(device));
	must(kvs_plan_parse(OWNERS, &plan));
	options.plan = plan;
	must(kvs_engine_open(device, ckpt, &options, &engine));
	kvs_plan_free(plan);
	return engine;
}

/* The likeliest continuation of PROMPT_TOKENS tokens of the text, from token `first` on. */
static void continue_text(kvs_cu *device, size_t first, int32_t ids[STEPS])
{
	kvs_engine *engine = engine_open(device, KVS_F32);

	must(kvs_engine_append(engine, 0, text + first, PROMPT_TOKENS));
	for (int i = 0; i < STEPS; i++) {
		must(kvs_engine_argmax(engine, &ids[i]));
		must(kvs_engine_append(engine, 0, &ids[i], 1));
	}
	kvs_engine_close(engine);
}

static void f32_cache_gives_the_tokens_of_the_host(void **state)
{
	(void)state;
	for (size_t first = 0; first < 2 * PROMPT_TOKENS; first += PROMPT_TOKENS) {
		int32_t here[STEPS], there[STEPS];

		continue_text(host, first, here);
		continue_text(cu, first, there);
		for (int i = 0; i < STEPS; i++)
			if (here[i] != there[i])
				fail_msg("prompt at token %zu, step %d: token %d on %s, %d on the host", first, i,
					there[i], cu->name, here[i]);
	}
}

static double mean_nll(kvs_cu *device)
{
	kvs_engine *engine = engine_open(device, KVS_BF16);
	size_t ctx = kvs_engine_ctx(engine);
	float nll[SCORED_TOKENS];
	double sum = 0;

	for (size_t first = 0; first < SCORED_TOKENS; first += ctx) {
		must(kvs_engine_truncate(engine, 0, 0));
		must(kvs_engine_score(engine, 0, text + first, text + first + 1, ctx, nll + first, NULL));
	}
	for (int i = 0; i < SCORED_TOKENS; i++)
		sum += nll[i];
	kvs_engine_close(engine);
	return sum / SCORED_TOKENS;
}

static void bf16_cache_has_the_loss_of_the_host(void **state)
{
	double here = mean_nll(host), there = mean_nll(cu);

	(void)state;
	print_message("mean loss of %d tokens: %.6f on %s, %.6f on the host\n", SCORED_TOKENS, there, cu->name, here);
	assert_true(there > 0);
	if (!(fabs(here - there) <= NLL_TOLERANCE))
		fail_msg("they differ by %g, more than %g", fabs(here - there), NLL_TOLERANCE);
}

/* ---- searches ---- */

#define SAMPLES 6
#define WINDOWS 2
#define CUT_TOKENS 32 /* of a sample and of a window */

static struct kvs_search_result find_plan(kvs_cu *device, enum kvs_method method, enum kvs_order order)
{
	struct kvs_calib_text cut = {.samples = SAMPLES,
		.sample_tokens = CUT_TOKENS,
		.ids = text,
		.windows = WINDOWS,
		.window_tokens = CUT_TOKENS,
		.window_ids = text + SAMPLES * CUT_TOKENS,
		.window_targets = text + SAMPLES * CUT_TOKENS + 1,
		.held_back = true};
	struct kvs_engine_options engine_options = {.kv_dtype = KVS_F32, .kv_dtype_set = true};
	struct kvs_search_options options = {.method = method, .share = 3, .threshold = 0.5, .pairs = {.order = order}};
	struct kvs_search_result result;
	struct kvs_capture capture;
	kvs_engine *engine;

	must(kvs_cu_bind(device));
	must(kvs_calib_open_engine(device, ckpt, &engine_options, &cut, 1, &engine));
	must(kvs_capture_run(engine, &cut, NULL, &capture));
	must(kvs_search_run(engine, &cut, &capture, &options, &result));
	kvs_capture_clear(&capture);
	kvs_engine_close(engine);
	return result;
}

/* A walk's trials too; in which order nll tries pairs that cost nearly the same may turn on a rounding. */
static void assert_same_search(const struct kvs_search_result *here, const struct kvs_search_result *there, bool trials)
{
	if (trials)
		assert_int_equal(here->trial_count, there->trial_count);
	for (size_t i = 0; i < here->trial_count && trials; i++) {
		const struct kvs_trial *a = &here->trials[i], *b = &there->trials[i];
		if (a->layer != b->layer || a->owner != b->owner || a->accepted != b->accepted)
			fail_msg("trial %zu: %d reads %d on the host, %d reads %d on %s", i, a->layer, a->owner,
				b->layer, b->owner, cu->name);
	}
	assert_memory_equal(here->best.k_owners, there->best.k_owners, sizeof(int) * here->layers);
	assert_true(fabs(here->best.nll - there->best.nll) < 1e-3);
}

static void a_search_in_f32_finds_the_plan_of_the_host(void **state)
{
	static const struct {
		enum kvs_method method;
		enum kvs_order order;
	} searches[] = {{KVS_METHOD_KVSHARER, KVS_ORDER_DISSIMILAR}, {KVS_METHOD_KVSHARER, KVS_ORDER_SIMILAR},
		{KVS_METHOD_NLL, KVS_ORDER_DISSIMILAR}};

	(void)state;
	for (size_t i = 0; i < sizeof(searches) / sizeof(*searches); i++) {
		struct kvs_search_result here = find_plan(host, searches[i].method, searches[i].order),
					 there = find_plan(cu, searches[i].method, searches[i].order);
		assert_same_search(&here, &there, searches[i].method == KVS_METHOD_KVSHARER);
		kvs_search_result_clear(&here);
		kvs_search_result_clear(&there);
	}
}

/* ---- memory ---- */

static size_t free_memory(void)
{
	size_t available, total;

	must(kvs_cu_bind(cu));
	assert_int_equal(cu->cuMemGetInfo(&available, &total), CUDA_SUCCESS);
	return available;
}

static size_t physical_bytes(kvs_vmm *vmm)
{
	struct kvs_vmm_stats stats;

	kvs_vmm_get_stats(vmm, &stats);
	return stats.physical_bytes + stats.free_bytes;
}

static kvs_vmm *manager(size_t block_bytes)
{
	kvs_vmm *vmm;

	must(kvs_cu_bind(cu));
	must(kvs_vmm_create(cu, &(struct kvs_vmm_options){.block_bytes = block_bytes, .no_free_list = true}, &vmm));
	return vmm;
}

static kvs_region *region(kvs_vmm *vmm, size_t bytes)
{
	kvs_region *reserved;

	must(kvs_region_reserve(vmm, bytes, 1, &reserved));
	return reserved;
}

/* The driver's account, since `before` bytes were free, is `physical` and no more than its margin beside it. */
static void check_account(size_t before, size_t physical, const char *when)
{
	size_t after = free_memory(), used = before > after ? before - after : 0;
	size_t margin = cu->kind == KVS_DEVICE_HOST ? 0 : DRIVER_MARGIN;

	print_message("%s: the driver says %zu bytes, the manager %zu\n", when, used, physical);
	assert_true(used + margin >= physical && used <= physical + margin);
}

static void the_driver_counts_the_bytes_that_the_manager_counts(void **state)
{
	size_t before = free_memory(), bytes = before / 4 < 512 * MIB ? before / 4 / MIB * MIB : 512 * MIB;
	kvs_vmm *vmm = manager(0);
	kvs_region *owner = region(vmm, bytes), *borrower = region(vmm, bytes);
	size_t physical;

	(void)state;
	check_account(before, 0, "reserved");
	must(kvs_region_resize(owner, 0, bytes));
	physical = physical_bytes(vmm);
	assert_true(physical >= bytes);
	check_account(before, physical, "grown");
	must(kvs_region_share(borrower, owner));
	assert_int_equal(physical_bytes(vmm), physical);
	check_account(before, physical, "mapped a second time");
	must(kvs_region_unshare(borrower));
	must(kvs_region_resize(owner, 0, 0));
	must(kvs_vmm_settle(vmm));
	assert_int_equal(physical_bytes(vmm), 0);
	check_account(before, 0, "given back");
	kvs_region_free(borrower);
	kvs_region_free(owner);
	kvs_vmm_free(vmm);
}

/* What is left of memory can be written and read from end to end of `bytes` bytes. */
static void check_usable(CUdeviceptr at, size_t bytes)
{
	unsigned char first = 0, last = 0;

	if (!bytes)
		return;
	assert_int_equal(cu->cuMemsetD8(at, 0x5a, bytes), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(&first, at, 1), CUDA_SUCCESS);
	assert_int_equal(cu->cuMemcpyDtoH(&last, at + bytes - 1, 1), CUDA_SUCCESS);
	assert_int_equal(first, 0x5a);
	assert_int_equal(last, 0x5a);
}

static void growing_past_the_memory_is_refused_and_unwound(void **state)
{
	size_t before = free_memory(), room = (before + cu->memory_bytes) / MIB * MIB, held = 16 * MIB;
	kvs_vmm *vmm = manager(64 * MIB);
	kvs_region *grown = region(vmm, room);
	size_t physical;

	(void)state;
	must(kvs_region_resize(grown, 0, held));
	physical = physical_bytes(vmm);
	assert_int_equal(kvs_region_resize(grown, 0, room), -ENOMEM);
	print_message("refused: %s\n", kvs_error());
	assert_true(kvs_vmm_is_valid(vmm));
	assert_int_equal(kvs_region_slot_bytes(grown, 0), held);
	assert_int_equal(physical_bytes(vmm), physical);
	check_account(before, physical, "after the refusal");
	check_usable(kvs_region_address(grown, 0), held);
	kvs_region_free(grown);
	kvs_vmm_free(vmm);
	check_account(before, 0, "after the end");
}

static void growing_block_by_block_until_the_refusal_keeps_what_was_given(void **state)
{
	size_t before = free_memory(), step = 64 * MIB, bytes = 0;
	kvs_vmm *vmm = manager(step);
	kvs_region *grown = region(vmm, cu->memory_bytes + 2 * step);
	int err;

	(void)state;
	while (!(err = kvs_region_resize(grown, 0, bytes + step)))
		bytes += step;
	assert_int_equal(err, -ENOMEM);
	assert_true(kvs_vmm_is_valid(vmm));
	assert_int_equal(physical_bytes(vmm), bytes);
	assert_true(bytes >= before / 2); /* the refusal came of memory, and not of something else */
	print_message("%zu of %zu free bytes could be mapped\n", bytes, before);
	check_usable(kvs_region_address(grown, 0) + bytes - step, step);
	kvs_region_free(grown);
	kvs_vmm_free(vmm);
	check_account(before, 0, "after the end");
}

/* ---- the program ---- */

static int text_open(void)
{
	static char bytes[64 << 10];
	kvs_tokenizer *tok;
	FILE *file = fopen(MODEL "/heldout.txt", "r");
	size_t length;
	int err;

	if (!file)
		return kvs_fail(-errno, "%s: %s", MODEL "/heldout.txt", strerror(errno));
	length = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	err = kvs_tokenizer_open(MODEL, &tok);
	if (err)
		return err;
	err = kvs_tokenizer_encode(tok, bytes, length, false, &text, &text_tokens);
	kvs_tokenizer_close(tok);
	if (!err && text_tokens <= SCORED_TOKENS)
		err = kvs_fail(-EINVAL, "heldout.txt has %zu tokens, %d are scored", text_tokens, SCORED_TOKENS);
	return err;
}

static int open_all(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	setenv("SOFTCUDA_MEMORY", "1G", 0); /* to run out of it soon */
	if (kvs_cu_open(device ? device : "host", &cu) || kvs_cu_open("host", &host) ||
		kvs_checkpoint_open(MODEL, &ckpt) || text_open()) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	print_message("device %s, driver %d.%d, compute capability %d.%d, %zu MiB, %zu MiB free\n", cu->name,
		cu->driver_version / 1000, cu->driver_version % 1000 / 10, cu->compute_capability / 10,
		cu->compute_capability % 10, cu->memory_bytes / MIB, free_memory() / MIB);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	free(text);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(host);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f32_cache_gives_the_tokens_of_the_host),
		cmocka_unit_test(bf16_cache_has_the_loss_of_the_host),
		cmocka_unit_test(a_search_in_f32_finds_the_plan_of_the_host),
		cmocka_unit_test(the_driver_counts_the_bytes_that_the_manager_counts),
		cmocka_unit_test(growing_past_the_memory_is_refused_and_unwound),
		cmocka_unit_test(growing_block_by_block_until_the_refusal_keeps_what_was_given),
	};

	return cmocka_run_group_tests(tests, open_all, close_all);
}
