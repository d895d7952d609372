/*
 * tests/e2e/eval_golden_test.c: the engine computes what Hugging Face transformers computes, full and with sharing plans.
 *
 * tests/golden/eval/NAME.json holds token ids and, for each plan and window, the loss of every token and the likeliest
 * token from transformers (float32, CPU); tests/golden/make_models.py made it. The mean loss is within 1e-4 with f32 K
 * and V, and within 5e-3 with bf16 and f16. The likeliest tokens are equal, except that with bf16 and f16 either may be
 * likeliest if transformers itself has two tokens closer than rounding can move them (`margin`, in nats).
 *
 * The number of roundings depends on the device. On softcuda GEMM is f32, and only K and V are rounded: two tensors a
 * layer. A GPU multiplies in the checkpoint's type, so four more tensors a layer are rounded to that type (the outputs
 * of both norms, of attention and of the MLP), whatever the type of K and V. Roundings are independent, so their sum
 * grows with the root of their number: the root of 6 / 2, less than 2. So there the margin is twice that of the coarser
 * of the two types.
 */
#include "../../model/model.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OPERANDS_MARGIN 2 /* see above */

struct precision {
	enum kvs_dtype kv_dtype;
	double mean_error; /* of the loss, nats a token */
	double margin;     /* nats between the two likeliest, below which rounding may swap them */
};

static const struct precision precisions[] = {
	{KVS_F32, 1e-4, 0},
	{KVS_F16, 5e-3, 1e-2},
	{KVS_BF16, 5e-3, 1.5e-1},
};

static kvs_cu *cu;

static int *ints_of(const json_t *array, size_t *count)
{
	int *ints;

	*count = json_array_size(array);
	ints = malloc(sizeof(*ints) * (*count + 1));
	assert_non_null(ints);
	for (size_t i = 0; i < *count; i++)
		ints[i] = json_integer_value(json_array_get(array, i));
	return ints;
}

static double number_at(const json_t *array, size_t index)
{
	return json_number_value(json_array_get(array, index));
}

static kvs_plan *plan_of(const json_t *golden)
{
	size_t k_count, v_count;
	int *k = ints_of(json_object_get(golden, "k_owners"), &k_count);
	int *v = ints_of(json_object_get(golden, "v_owners"), &v_count);
	kvs_plan *plan;

	assert_int_equal(k_count, v_count);
	if (kvs_plan_create(k_count, k, v, &plan))
		fail_msg("%s", kvs_error());
	free(k);
	free(v);
	return plan;
}

/* Scores all windows of a case, as `kvshare-run eval` cuts them. */
static void score(kvs_engine *engine, const int *ids, size_t count, float *nll, int32_t *top)
{
	size_t ctx = kvs_engine_ctx(engine);

	for (size_t first = 0; first + 1 < count; first += ctx) {
		size_t now = count - 1 - first < ctx ? count - 1 - first : ctx;
		if (kvs_engine_truncate(engine, 0, 0) ||
			kvs_engine_score(engine, 0, ids + first, ids + first + 1, now, nll + first, top + first))
			fail_msg("%s", kvs_error());
	}
}

static double margin_of(enum kvs_dtype type)
{
	for (size_t i = 0; i < sizeof(precisions) / sizeof(*precisions); i++)
		if (precisions[i].kv_dtype == type)
			return precisions[i].margin;
	fail_msg("no margin for %s", kvs_dtype_name(type));
	return 0;
}

/* The distance below which rounding may swap two tokens, on this engine's device and with its types. */
static double engine_margin(kvs_engine *engine, const struct precision *precision)
{
	kvs_stream *stream = kvs_engine_stream(engine);
	enum kvs_dtype weights = kvs_gemm_dtype(stream, kvs_engine_config(engine)->dtype);
	enum kvs_dtype operands = kvs_gemm_x_dtype(stream, weights); /* those that are rounded */

	if (precision->kv_dtype == KVS_F32 || operands == KVS_F32)
		return precision->margin; /* with f32 K and V nothing else is rounded either */
	return OPERANDS_MARGIN * fmax(precision->margin, margin_of(operands));
}

static void compare(const json_t *golden, const char *name, const struct precision *precision, double margin_nats,
	const float *nll, const int32_t *top, size_t count)
{
	const json_t *expected_top = json_object_get(golden, "top"), *margin = json_object_get(golden, "margin");
	const char *plan = json_string_value(json_object_get(golden, "plan"));
	const char *type = kvs_dtype_name(precision->kv_dtype);
	double sum = 0, expected = json_number_value(json_object_get(golden, "mean_nll"));

	assert_int_equal(json_array_size(expected_top), count);
	for (size_t i = 0; i < count; i++) {
		sum += nll[i];
		if (top[i] != (int)number_at(expected_top, i) && number_at(margin, i) >= margin_nats)
			fail_msg("%s, plan %s, %s: token %zu: %d is likeliest, transformers says %d by %g nats", name,
				plan, type, i, top[i], (int)number_at(expected_top, i), number_at(margin, i));
	}
	if (!(fabs(sum / count - expected) <= precision->mean_error))
		fail_msg("%s, plan %s, %s: loss %.6f, transformers has %.6f", name, plan, type, sum / count, expected);
}

static void check_case(const kvs_checkpoint *ckpt, const json_t *golden, const char *name, const int *ids, size_t count,
	const struct precision *precision)
{
	kvs_plan *plan = plan_of(golden);
	struct kvs_engine_options options = {.plan = plan,
		.kv_dtype = precision->kv_dtype,
		.kv_dtype_set = true,
		.ctx_tokens = json_integer_value(json_object_get(golden, "ctx"))};
	float *nll = malloc(sizeof(*nll) * count);
	int32_t *top = malloc(sizeof(*top) * count);
	kvs_engine *engine;

	if (kvs_engine_open(cu, ckpt, &options, &engine))
		fail_msg("%s: %s", name, kvs_error());
	score(engine, ids, count, nll, top);
	compare(golden, name, precision, engine_margin(engine, precision), nll, top, count - 1);
	kvs_engine_close(engine);
	kvs_plan_free(plan);
	free(nll);
	free(top);
}

/* f32 runs every case; the other types, which differ only in rounding, run two plans at the longest window. */
static bool is_wanted(const json_t *cases, size_t index, const struct precision *precision)
{
	const json_t *golden = json_array_get(cases, index), *last = json_array_get(cases, json_array_size(cases) - 1);
	const char *plan = json_string_value(json_object_get(golden, "plan"));

	if (precision->kv_dtype == KVS_F32)
		return true;
	return json_equal(json_object_get(golden, "ctx"), json_object_get(last, "ctx")) &&
	       (!strcmp(plan, "full") || !strcmp(plan, "split"));
}

/* `model` NULL: the one that the golden file names. */
static void check_model(const char *path, const char *model, const struct precision *precision)
{
	json_error_t error;
	json_t *golden = json_load_file(path, 0, &error);
	const json_t *cases = json_object_get(golden, "cases");
	kvs_checkpoint *ckpt;
	size_t count;
	int *ids = ints_of(json_object_get(golden, "ids"), &count);

	if (kvs_checkpoint_open(model ? model : json_string_value(json_object_get(golden, "model")), &ckpt))
		fail_msg("%s: %s", path, kvs_error());
	assert_true(json_array_size(cases) > 0);
	for (size_t i = 0; i < json_array_size(cases); i++)
		if (is_wanted(cases, i, precision))
			check_case(ckpt, json_array_get(cases, i), path, ids, count, precision);
	kvs_checkpoint_close(ckpt);
	free(ids);
	json_decref(golden);
}

static void check_all(const struct precision *precision)
{
	DIR *dir = opendir("tests/golden/eval");
	struct dirent *entry;
	int checked = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		char path[512];
		if (!strstr(entry->d_name, ".json"))
			continue;
		snprintf(path, sizeof(path), "tests/golden/eval/%s", entry->d_name);
		check_model(path, NULL, precision);
		checked++;
	}
	closedir(dir);
	assert_true(checked >= 12);
}

static void f32_cache_gives_what_transformers_computes(void **state)
{
	(void)state;
	check_all(&precisions[0]);
}

static void f16_cache_stays_within_its_rounding(void **state)
{
	(void)state;
	check_all(&precisions[1]);
}

static void bf16_cache_stays_within_its_rounding(void **state)
{
	(void)state;
	check_all(&precisions[2]);
}

static int open_device(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	return kvs_cu_open(device ? device : "host", &cu);
}

static int close_device(void **state)
{
	(void)state;
	kvs_cu_close(cu);
	return 0;
}

/* tests/golden/gguf/make_qwen.py made the files with the gguf package, from the checkpoints of the golden files. */
static void qwen_in_gguf_is_the_same_model(void **state)
{
	(void)state;
	check_model("tests/golden/eval/qwen2.json", "tests/golden/gguf/qwen2.gguf", &precisions[0]);
	check_model("tests/golden/eval/qwen3.json", "tests/golden/gguf/qwen3.gguf", &precisions[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f32_cache_gives_what_transformers_computes),
		cmocka_unit_test(f16_cache_stays_within_its_rounding),
		cmocka_unit_test(bf16_cache_stays_within_its_rounding),
		cmocka_unit_test(qwen_in_gguf_is_the_same_model),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
