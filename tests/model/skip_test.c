/*
 * tests/model/skip_test.c: a skip adds b (a x) behind the attention of a layer that takes both K and V of others, in every way
 * that tokens go through the engine; a patch that has one for another layer, of a wrong shape or by half is refused by name.
 *
 * KVS_TEST_DEVICE=cuda runs it on a GPU, where weights and activations are bf16.
 */
#include "../../model/model.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2" /* 6 layers, hidden 32, ff 64, 4 heads of 64, bf16 */
#define OWNERS "0,1,1,3,4,1"                 /* 2 and 5 share */
enum { HIDDEN = 32, FF = 64, RANK = 8, LAYER = 2, TOKENS = 24 };

static kvs_cu *cu;
static kvs_checkpoint *ckpt;
static kvs_plan *plan;
static int32_t ids[TOKENS + 1];
static float a[RANK * HIDDEN], b[HIDDEN * RANK];
static char path[] = "/tmp/skip-test-XXXXXX";

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static bool on_gpu(void)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	return device && strcmp(device, "host");
}

static kvs_engine *open_engine(const kvs_plan *with, int chunk, bool by_pointer)
{
	struct kvs_engine_options options = {.plan = with,
		.ctx_tokens = 2 * TOKENS,
		.chunk_tokens = chunk,
		.kv_dtype = KVS_F32,
		.kv_dtype_set = !on_gpu(),
		.share_by_pointer = by_pointer};
	kvs_engine *engine;

	must(kvs_engine_open(cu, ckpt, &options, &engine));
	return engine;
}

static void set_skip(kvs_engine *engine, int layer)
{
	must(kvs_engine_set_skip(engine, layer, RANK, KVS_BF16, a, b));
}

/* ---- what it computes ---- */

static void run_layer(kvs_engine *engine, int layer, const float *residual, float *normed, float *middle)
{
	struct kvs_batch batch = {.ids = ids, .sequences = 2, .tokens = TOKENS / 2};

	must(kvs_engine_run_layer(
		engine, &batch, layer, residual, &(struct kvs_layer_tap){.normed = normed, .middle = middle}));
}

/* In a batch of two sequences; the owner's K and V are what its own run left. */
static void it_adds_b_a_x(void **state)
{
	static float residual[TOKENS * HIDDEN], normed[TOKENS * HIDDEN], without[TOKENS * HIDDEN],
		with[TOKENS * HIDDEN];
	kvs_engine *engine = open_engine(plan, 0, true);
	double moved = 0, tolerance = on_gpu() ? 2e-2 : 1e-5;

	(void)state;
	for (int i = 0; i < TOKENS * HIDDEN; i++)
		residual[i] = sinf(i * i + 1);
	run_layer(engine, 1, residual, NULL, with);
	run_layer(engine, LAYER, residual, normed, without);
	set_skip(engine, LAYER);
	run_layer(engine, LAYER, residual, NULL, with);
	for (int t = 0; t < TOKENS; t++) {
		double low[RANK] = {0};
		for (int r = 0; r < RANK; r++)
			for (int c = 0; c < HIDDEN; c++)
				low[r] += (double)a[r * HIDDEN + c] * normed[t * HIDDEN + c];
		for (int c = 0; c < HIDDEN; c++) {
			double sum = without[t * HIDDEN + c];
			for (int r = 0; r < RANK; r++)
				sum += b[c * RANK + r] * low[r];
			moved = fmax(moved, fabs(sum - without[t * HIDDEN + c]));
			if (fabs(sum - with[t * HIDDEN + c]) > tolerance * fmax(1, fabs(sum)))
				fail_msg("token %d, column %d: %.7f, by hand %.7f", t, c, with[t * HIDDEN + c], sum);
		}
	}
	assert_true(moved > 0.5);
	kvs_engine_close(engine);
}

static double loss(kvs_engine *engine, int step)
{
	float nll[TOKENS];
	double sum = 0;

	must(kvs_engine_truncate(engine, 0, 0));
	for (int t = 0; t < TOKENS; t += step)
		must(kvs_engine_score(engine, 0, ids + t, ids + t + 1, step, nll + t, NULL));
	for (int t = 0; t < TOKENS; t++)
		sum += nll[t];
	return sum / TOKENS;
}

/* Prefill, chunks of it, and token by token. */
static void all_ways_through_give_one_loss(void **state)
{
	kvs_engine *engine = open_engine(plan, 0, false), *chunked = open_engine(plan, 5, false);
	double tolerance = on_gpu() ? 2e-2 : 1e-5, plain = loss(engine, TOKENS), expected;

	(void)state;
	set_skip(engine, LAYER);
	set_skip(engine, 5);
	set_skip(chunked, LAYER);
	set_skip(chunked, 5);
	expected = loss(engine, TOKENS);
	assert_true(fabs(expected - plain) > 0.05);
	assert_true(fabs(loss(engine, 1) - expected) < tolerance);
	assert_true(fabs(loss(engine, 8) - expected) < tolerance);
	assert_true(fabs(loss(chunked, TOKENS) - expected) < tolerance);
	kvs_engine_close(chunked);
	kvs_engine_close(engine);
}

/* It stands in for projections: where these run, under another plan or none, it does not. A skip of zeros changes nothing. */
static void it_runs_only_where_k_and_v_are_taken(void **state)
{
	kvs_engine *engine = open_engine(NULL, 0, true);
	float zeros[RANK * HIDDEN] = {0}, more[RANK * HIDDEN];
	kvs_plan *k_alone;
	double full = loss(engine, TOKENS), shared, k_shared;
	int k[] = {0, 1, 1, 3, 4, 5}, v[] = {0, 1, 2, 3, 4, 5};

	(void)state;
	must(kvs_plan_create(6, k, v, &k_alone));
	must(kvs_engine_set_plan(engine, plan));
	shared = loss(engine, TOKENS);
	must(kvs_engine_set_plan(engine, k_alone));
	k_shared = loss(engine, TOKENS);
	set_skip(engine, LAYER);
	assert_true(loss(engine, TOKENS) == k_shared);
	must(kvs_engine_set_plan(engine, NULL));
	assert_true(loss(engine, TOKENS) == full);
	must(kvs_engine_set_plan(engine, plan));
	assert_true(loss(engine, TOKENS) != shared);
	memcpy(more, a, sizeof(a));
	must(kvs_engine_set_skip(engine, LAYER, RANK, KVS_F32, more, zeros)); /* in place of the other */
	assert_true(loss(engine, TOKENS) == shared);
	kvs_plan_free(k_alone);
	kvs_engine_close(engine);
}

static void the_policy_last_has_none(void **state)
{
	struct kvs_engine_options options = {.plan = plan, .policy = KVS_POLICY_LAST, .ctx_tokens = TOKENS};
	kvs_engine *engine;

	(void)state;
	must(kvs_engine_open(cu, ckpt, &options, &engine));
	assert_int_equal(kvs_engine_set_skip(engine, LAYER, RANK, KVS_F32, a, b), -EINVAL);
	assert_non_null(strstr(kvs_error(), "policy last"));
	kvs_engine_close(engine);
}

/* ---- patches ---- */

static float values[80 * 80];

static struct kvs_patch_matrix matrix(const char *name, int rows, int cols)
{
	for (int i = 0; i < 80 * 80; i++)
		values[i] = 0.1f * sinf(3 * i);
	return (struct kvs_patch_matrix){name, rows, cols, KVS_BF16, values};
}

#define A "model.layers.2.self_attn.skip_a.weight"
#define B "model.layers.2.self_attn.skip_b.weight"

/* Writes and opens a patch of these two matrices (or of one), and checks it. */
static int try_patch(struct kvs_patch_matrix first, struct kvs_patch_matrix second, const kvs_plan *of, kvs_patch **out)
{
	struct kvs_patch_matrix both[] = {first, second};
	char digest[KVS_PATCH_DIGEST];

	must(kvs_patch_write(path, of, ckpt, both, second.name ? 2 : 1, digest));
	must(kvs_patch_open(path, out));
	return kvs_patch_check(*out, digest, of, ckpt);
}

static void refused(
	struct kvs_patch_matrix first, struct kvs_patch_matrix second, const kvs_plan *of, const char *words)
{
	kvs_patch *patch;

	assert_int_equal(try_patch(first, second, of, &patch), -EINVAL);
	if (!strstr(kvs_error(), words))
		fail_msg("\"%s\" does not say \"%s\"", kvs_error(), words);
	if (strncmp(kvs_error(), path, strlen(path)))
		fail_msg("\"%s\" does not begin with the file", kvs_error());
	kvs_patch_close(patch);
}

static void hostile_patches_are_refused_by_name(void **state)
{
	struct kvs_patch_matrix good_a = matrix(A, RANK, HIDDEN), good_b = matrix(B, HIDDEN, RANK), none = {0};
	int k[] = {0, 1, 1, 3, 4, 5}, v[] = {0, 1, 2, 3, 4, 5};
	kvs_plan *k_alone;

	(void)state;
	must(kvs_plan_create(6, k, v, &k_alone));
	refused(good_a, good_b, k_alone, "layers.2.self_attn.skip_a.weight: this layer does not take both K and V");
	refused(matrix("model.layers.3.self_attn.skip_a.weight", RANK, HIDDEN),
		matrix("model.layers.3.self_attn.skip_b.weight", HIDDEN, RANK), plan,
		"layers.3.self_attn.skip_a.weight: this");
	refused(matrix("model.layers.6.self_attn.skip_a.weight", RANK, HIDDEN), none, plan, "the model has 6 layers");
	refused(good_a, none, plan, "layer 2: its skip_a.weight has no skip_b");
	refused(good_b, none, plan, "layer 2: its skip_b.weight has no skip_a");
	refused(matrix(A, RANK, HIDDEN - 1), good_b, plan, "skip_a.weight is [8][31]");
	refused(matrix(A, HIDDEN + 1, HIDDEN), matrix(B, HIDDEN, HIDDEN + 1), plan, "skip_a.weight is [33][32]");
	refused(matrix(A, 0, HIDDEN), matrix(B, HIDDEN, 0), plan, "skip_a.weight is [0][32]");
	refused(good_a, matrix(B, HIDDEN, RANK - 1), plan, "skip_b.weight is [32][7]");
	refused(good_a, matrix(B, HIDDEN + 1, RANK), plan, "skip_b.weight is [33][8]");
	kvs_plan_free(k_alone);
}

#define Q "model.layers.2.self_attn.q_proj.weight" /* [4 * 64][32], more than `values`: its shapes are in down_proj */
#define DOWN "model.layers.2.mlp.down_proj.weight"

/* Names that are shorter than any other, almost those of a matrix, or of one that is not refitted; and shapes. */
static void other_matrices_are_refused_by_name(void **state)
{
	static const char *const names[] = {"", "x", "model.", "model.layers.2.", "lm_head.weight",
		"model.layers.6.mlp.down_proj.weight", "model.layers.02.mlp.down_proj.weight",
		"model.layers.-2.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weights",
		"model.layers.2.mlp.down_proj.bias", "model.layers.2.mlp.up_proj.weight",
		"model.layers.2.self_attn.k_proj.weight", "layers.2.mlp.down_proj.weight",
		"model.layers.02.self_attn.skip_a.weight", "model.layers.2.self_attn.skip_c.weight",
		"model.layers.2.self_attn.skip_a.weights", "model.layers.-2.self_attn.skip_a.weight",
		"model.layers.99999999999.self_attn.skip_a.weight", "model.layers.2.self_attn.skip_a.weight.weight"};
	struct kvs_patch_matrix none = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		refused(matrix(names[i], HIDDEN, FF), none, plan, "no matrix that a patch can replace");
	refused(matrix(DOWN, HIDDEN, FF - 1), none, plan, DOWN " is [32][63], the model's own is [32][64]");
	refused(matrix(DOWN, FF, HIDDEN), none, plan, "[64][32]");
	refused(matrix(Q, HIDDEN, FF), none, plan, Q " is [32][64], the model's own is [256][32]");
}

static void numbers_are_finite(void **state)
{
	struct kvs_patch_matrix down = matrix(DOWN, HIDDEN, FF), none = {0};
	kvs_patch *patch;

	(void)state;
	must(try_patch(down, none, plan, &patch));
	kvs_patch_close(patch);
	values[HIDDEN * FF - 1] = NAN;
	refused(down, none, plan, DOWN ": row 31, column 63 is not a finite number");
	values[HIDDEN * FF - 1] = INFINITY;
	refused(down, none, plan, "is not a finite number");
}

/* Bytes are read only of what fits: here a sparse file of 4 GiB, which would take that much memory. */
static void too_large_a_patch_is_not_read(void **state)
{
	static const char header[] =
		"{\"__metadata__\":{\"kvshare_patch\":\"1\",\"model\":\"%s\",\"owners\":\"%s\"},\"" DOWN
		"\":{\"dtype\":\"F32\",\"shape\":[32768,32768],\"data_offsets\":[0,4294967296]}}";
	struct kvs_patch_matrix down = matrix(DOWN, HIDDEN, FF);
	char digest[KVS_PATCH_DIGEST], text[1024], owners[KVS_PATCH_DIGEST] = "", start[600] = "";
	struct kvs_patch_matrix seen;
	kvs_patch *patch;
	FILE *file;
	uint64_t length;

	(void)state;
	must(kvs_patch_write(path, plan, ckpt, &down, 1, digest));
	file = fopen(path, "r+");
	assert_non_null(file);
	assert_true(fread(start, 1, sizeof(start) - 1, file) > 200);
	assert_int_equal(sscanf(strstr(start + 8, "\"owners\":\"") + 10, "%32[0-9a-f]", owners), 1);
	length = snprintf(text, sizeof(text), header, kvs_checkpoint_fingerprint(ckpt), owners);
	rewind(file);
	assert_int_equal(fwrite(&length, 8, 1, file), 1);
	assert_int_equal(fwrite(text, length, 1, file), 1);
	assert_int_equal(fflush(file), 0);
	assert_int_equal(ftruncate(fileno(file), 8 + length + 4294967296), 0);
	fclose(file);
	must(kvs_patch_open(path, &patch));
	assert_int_equal(kvs_patch_check(patch, digest, plan, ckpt), -EINVAL);
	assert_non_null(strstr(kvs_error(), "[32768][32768], the model's own"));
	kvs_patch_get(patch, 0, &seen);
	assert_null(seen.data);
	kvs_patch_close(patch);
	assert_int_equal(truncate(path, 0), 0);
}

/* Fitted for what the owners hold, which is not read under it. The checkpoint's may come back. */
static void the_policy_last_takes_no_matrices(void **state)
{
	struct kvs_engine_options options = {.plan = plan, .policy = KVS_POLICY_LAST, .ctx_tokens = TOKENS};
	kvs_engine *engine;
	kvs_patch *patch;

	(void)state;
	must(kvs_engine_open(cu, ckpt, &options, &engine));
	must(try_patch(matrix(DOWN, HIDDEN, FF), (struct kvs_patch_matrix){0}, plan, &patch));
	assert_int_equal(kvs_engine_set_patch(engine, patch, NULL), -EINVAL);
	assert_non_null(strstr(kvs_error(), "policy owner"));
	must(kvs_engine_set_patch(engine, patch, ckpt));
	kvs_patch_close(patch);
	kvs_engine_close(engine);
}

static void patches_come_and_go(void **state)
{
	kvs_engine *engine = open_engine(plan, 0, false);
	double plain = loss(engine, TOKENS), with;
	struct kvs_engine_memory before, after;
	kvs_patch *patch;

	(void)state;
	must(kvs_engine_memory(engine, &before));
	must(try_patch(matrix(B, HIDDEN, RANK), matrix(A, RANK, HIDDEN), plan, &patch));
	assert_true(kvs_patch_has_skip(patch));
	must(kvs_engine_set_patch(engine, patch, NULL));
	with = loss(engine, TOKENS);
	assert_true(with != plain);
	must(kvs_engine_memory(engine, &after));
	assert_true(after.weights_bytes > before.weights_bytes);
	must(kvs_engine_set_patch(engine, patch, ckpt));
	assert_true(loss(engine, TOKENS) == plain);
	must(kvs_engine_set_patch(engine, patch, NULL));
	assert_true(loss(engine, TOKENS) == with);
	must(kvs_engine_set_patch(engine, patch, ckpt));
	must(kvs_engine_memory(engine, &after));
	assert_int_equal(after.weights_bytes, before.weights_bytes);
	kvs_patch_close(patch);
	kvs_engine_close(engine);
}

static void ranks_and_layers_have_limits(void **state)
{
	kvs_engine *engine = open_engine(plan, 0, false);

	(void)state;
	assert_int_equal(kvs_engine_set_skip(engine, 6, RANK, KVS_F32, a, b), -EINVAL);
	assert_int_equal(kvs_engine_set_skip(engine, -1, RANK, KVS_F32, a, b), -EINVAL);
	assert_int_equal(kvs_engine_set_skip(engine, LAYER, 0, KVS_F32, a, b), -EINVAL);
	kvs_engine_close(engine);
}

static int set_up(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");
	unsigned seed = 5;
	int fd = mkstemp(path);

	(void)state;
	for (int i = 0; i <= TOKENS; i++)
		ids[i] = rand_r(&seed) % 256;
	for (int i = 0; i < RANK * HIDDEN; i++) {
		a[i] = sinf(7 * i);
		b[i] = cosf(5 * i);
	}
	if (fd < 0 || close(fd) || kvs_cu_open(device ? device : "host", &cu) || kvs_checkpoint_open(MODEL, &ckpt) ||
		kvs_plan_parse(OWNERS, &plan)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	kvs_plan_free(plan);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_adds_b_a_x),
		cmocka_unit_test(all_ways_through_give_one_loss),
		cmocka_unit_test(it_runs_only_where_k_and_v_are_taken),
		cmocka_unit_test(the_policy_last_has_none),
		cmocka_unit_test(hostile_patches_are_refused_by_name),
		cmocka_unit_test(other_matrices_are_refused_by_name),
		cmocka_unit_test(numbers_are_finite),
		cmocka_unit_test(too_large_a_patch_is_not_read),
		cmocka_unit_test(the_policy_last_takes_no_matrices),
		cmocka_unit_test(patches_come_and_go),
		cmocka_unit_test(ranks_and_layers_have_limits),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
