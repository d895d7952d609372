/*
 * tests/calib/compensate_test.c: refitted matrices are those of an independent NumPy computation
 * (tests/golden/make_compensation.py), whatever the batches; memory does not grow with the text; a patch that was cut,
 * changed, or made for something else is refused.
 */
#include "../../calib/calib.h"
#include "../../calib/compensate/queries.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define OTHER "tests/golden/models/llama2"
#define MATRICES 1e-3 /* relative; and of losses, errors and KL */
#define LOSSES 1e-4
#define MOST_BYTES (4 << 20)

static kvs_cu *cu;
static kvs_checkpoint *ckpt;
static kvs_engine *engine;
static kvs_plan *plan;
static struct kvs_calib_text text;
static struct kvs_compensation fit;
static char folder[] = "/tmp/compensate-test-XXXXXX", patch_path[64], digest[KVS_PATCH_DIGEST];

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static double number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	assert_non_null(value);
	return json_number_value(value);
}

static char *read_all(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "r");
	char *out = malloc(MOST_BYTES);

	assert_non_null(file);
	*bytes = fread(out, 1, MOST_BYTES, file);
	assert_int_equal(fclose(file), 0);
	return out;
}

static struct kvs_compensate_options outputs_alone = {.matrices = KVS_REFIT_OUTPUTS, .ridge = 0.03};

/* ---- NumPy ---- */

static void check_figure(const json_t *expected, const char *key, double ours, const char *name)
{
	double numpy = number(expected, key);

	if (fabs(ours - numpy) > LOSSES * fmax(1, numpy))
		fail_msg("%s: %s is %.6f, NumPy has %.6f", name, key, ours, numpy);
}

/* The norm of [rows][cols] and the rows that NumPy has of it. */
static void check_values(const json_t *expected, const char *name, const float *values, int rows, int cols)
{
	const char *row;
	const json_t *numbers;
	double norm = 0, off = 0, sum = 0;

	for (size_t i = 0; i < (size_t)rows * cols; i++)
		norm += (double)values[i] * values[i];
	assert_true(fabs(sqrt(norm) - number(expected, "norm")) <= MATRICES * number(expected, "norm"));
	json_object_foreach(json_object_get(expected, "rows"), row, numbers)
	{
		assert_int_equal(json_array_size(numbers), cols);
		for (int c = 0; c < cols; c++) {
			double numpy = json_number_value(json_array_get(numbers, c));
			double ours = values[(size_t)atoi(row) * cols + c];
			off += (ours - numpy) * (ours - numpy);
			sum += numpy * numpy;
		}
	}
	if (sqrt(off / sum) > MATRICES)
		fail_msg("%s differs from NumPy by %.2e", name, sqrt(off / sum));
}

/* Of a skip's two matrices the product: nothing determines their signs. */
static void check_product(const json_t *expected, const struct kvs_refit *a, const struct kvs_refit *b)
{
	float *product = calloc((size_t)b->rows * a->cols, sizeof(*product));

	assert_int_equal(a->kind, KVS_REFIT_SKIP_A);
	assert_int_equal(a->rows, b->cols);
	for (int r = 0; r < b->rows; r++)
		for (int k = 0; k < b->cols; k++)
			for (int c = 0; c < a->cols; c++)
				product[(size_t)r * a->cols + c] +=
					b->values[(size_t)r * b->cols + k] * a->values[(size_t)k * a->cols + c];
	check_values(expected, b->name, product, b->rows, a->cols);
	free(product);
}

static void check_matrix(const json_t *expected, const struct kvs_refit *refit)
{
	assert_string_equal(refit->name, json_string_value(json_object_get(expected, "name")));
	assert_int_equal(refit->dtype, KVS_F32);
	if (json_object_get(expected, "strength"))
		assert_true(refit->strength == number(expected, "strength"));
	check_figure(expected, "before", refit->before, refit->name);
	check_figure(expected, "after", refit->after, refit->name);
	if (refit->kind == KVS_REFIT_SKIP_B)
		check_product(expected, refit - 1, refit);
	else if (refit->kind != KVS_REFIT_SKIP_A)
		check_values(expected, refit->name, refit->values, refit->rows, refit->cols);
}

/* The case's text, whose ids the caller frees. */
static struct kvs_calib_text text_of(const json_t *expected)
{
	const json_t *list = json_object_get(expected, "ids");
	int samples = number(expected, "samples"), tokens = number(expected, "tokens"), count = json_array_size(list);
	int32_t *ids = malloc(sizeof(*ids) * count);

	for (int i = 0; i < count; i++)
		ids[i] = json_integer_value(json_array_get(list, i));
	return (struct kvs_calib_text){.samples = samples,
		.sample_tokens = tokens,
		.ids = ids,
		.windows = number(expected, "windows"),
		.window_tokens = tokens,
		.window_ids = ids + samples * tokens,
		.window_targets = ids + samples * tokens + 1,
		.held_back = true};
}

static kvs_plan *plan_of(const json_t *owners)
{
	int layers = json_array_size(owners), of[16];
	kvs_plan *made;

	for (int l = 0; l < layers; l++)
		of[l] = json_integer_value(json_array_get(owners, l));
	must(kvs_plan_create(layers, of, of, &made));
	return made;
}

/* With batches of `sequences` samples. */
static void fit_case(const json_t *expected, int sequences, struct kvs_compensation *out)
{
	struct kvs_calib_text words = text_of(expected);
	struct kvs_engine_options options = {
		.kv_dtype = KVS_F32, .kv_dtype_set = true, .chunk_tokens = sequences * words.sample_tokens};
	kvs_plan *owners = plan_of(json_object_get(expected, "owners"));
	kvs_checkpoint *model;
	kvs_engine *runner;

	must(kvs_checkpoint_open(json_string_value(json_object_get(expected, "model")), &model));
	must(kvs_calib_open_engine(cu, model, &options, &words, 1, &runner));
	must(kvs_compensate(runner, model, &words, owners,
		&(struct kvs_compensate_options){
			.skip = number(expected, "skip"), .linear = json_is_true(json_object_get(expected, "linear"))},
		NULL, out));
	kvs_engine_close(runner);
	kvs_checkpoint_close(model);
	kvs_plan_free(owners);
	free(words.ids);
}

static void matrices_and_losses_are_numpys(void **state)
{
	json_t *golden = json_load_file("tests/golden/calib/compensation.json", 0, NULL), *expected;
	size_t i;

	(void)state;
	assert_non_null(golden);
	json_array_foreach(json_object_get(golden, "cases"), i, expected)
	{
		const json_t *matrices = json_object_get(expected, "matrices"), *nll = json_object_get(expected, "nll");
		for (int sequences = 1; sequences <= 5; sequences += 4) {
			struct kvs_compensation ours;
			fit_case(expected, sequences, &ours);
			assert_int_equal(ours.count, json_array_size(matrices));
			for (size_t m = 0; m < ours.count; m++)
				check_matrix(json_array_get(matrices, m), &ours.refits[m]);
			check_figure(nll, "plain", ours.plain_nll, "loss");
			check_figure(nll, "compensated", ours.nll, "loss");
			assert_true(ours.applied == (ours.nll < ours.plain_nll));
			kvs_compensation_clear(&ours);
		}
	}
	json_decref(golden);
}

/* ---- what it promises ---- */

/* Another run gives the same bits. */
static void fits_are_repeatable(void **state)
{
	json_t *golden = json_load_file("tests/golden/calib/compensation.json", 0, NULL);
	const json_t *expected = json_array_get(json_object_get(golden, "cases"), 3);
	struct kvs_compensation a, b;

	(void)state;
	fit_case(expected, 2, &a);
	fit_case(expected, 2, &b);
	assert_int_equal(a.count, b.count);
	assert_true(a.nll == b.nll);
	for (size_t i = 0; i < a.count; i++)
		assert_memory_equal(
			a.refits[i].values, b.refits[i].values, sizeof(float) * a.refits[i].rows * a.refits[i].cols);
	kvs_compensation_clear(&a);
	kvs_compensation_clear(&b);
	json_decref(golden);
}

/* A norm stands between W_q and the rotation: a matrix in front of it would not do what the fit computes. */
static void normalised_queries_are_left(void **state)
{
	int32_t ids[17 * 32];
	struct kvs_calib_text words = {.samples = 16,
		.sample_tokens = 32,
		.ids = ids,
		.windows = 1,
		.window_tokens = 31,
		.window_ids = ids + 16 * 32,
		.window_targets = ids + 16 * 32 + 1,
		.held_back = true};
	struct kvs_compensation out;
	kvs_checkpoint *model;
	kvs_engine *runner;
	kvs_plan *owners;

	(void)state;
	for (int i = 0; i < 17 * 32; i++)
		ids[i] = (i * i * 31 + 7 * i) % 251;
	must(kvs_checkpoint_open("tests/golden/models/qwen3", &model));
	must(kvs_plan_parse("0,0,2,2", &owners));
	must(kvs_calib_open_engine(cu, model, NULL, &words, 1, &runner));
	must(kvs_compensate(runner, model, &words, owners, &(struct kvs_compensate_options){0}, NULL, &out));
	assert_true(out.queries_normalised && out.count > 0);
	for (size_t i = 0; i < out.count; i++)
		assert_int_not_equal(out.refits[i].kind, KVS_REFIT_QUERIES);
	kvs_compensation_clear(&out);
	kvs_engine_close(runner);
	kvs_checkpoint_close(model);
	kvs_plan_free(owners);
}

/* What it would do without W_o, beside a skip, after a stop, or where the engine has no room for it, is refused by name. */
static void a_linear_map_has_limits(void **state)
{
	static const struct {
		struct kvs_compensate_options options;
		const char *model, *words;
	} cases[] = {
		{{.linear = true}, MODEL, NULL},
		{{.linear = true, .matrices = KVS_REFIT_QUERIES}, MODEL, "without W_o"},
		{{.linear = true, .skip = 4}, MODEL, "with a skip"},
		{{.linear = true, .stopped = "x"}, MODEL, "a stopped fit"},
		{{.linear = true}, "tests/golden/calib/compensation-window", "a map of 40 columns"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		kvs_checkpoint *model;
		int err;
		must(kvs_checkpoint_open(cases[i].model, &model));
		err = kvs_compensate_check(kvs_checkpoint_config(model), &text, &cases[i].options);
		assert_int_equal(err, cases[i].words ? -EINVAL : 0);
		if (err)
			assert_non_null(strstr(kvs_error(), cases[i].words));
		kvs_checkpoint_close(model);
	}
}

/* The peak of the tool, in KiB, as it fits this many samples of the story for the plan in `path`. */
static long peak_of(const char *path, int samples)
{
	const char *build = getenv("BUILD");
	struct rusage usage;
	char command[512];
	int status;
	pid_t child;

	snprintf(command, sizeof(command),
		"exec %s/kvshare-run calibrate -m " MODEL " --text " MODEL "/heldout.txt --compensate --plan %s "
		"--samples %d --ctx 64 --held-tokens 64 --batch 4 -q -o %s/out.json >%s/said 2>&1",
		build ? build : "build", path, samples, folder, folder);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	assert_int_equal(wait4(child, &status, 0, &usage), child);
	assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
	return usage.ru_maxrss;
}

/* One query in three, of longer texts fewer, down to one in six; at least one of a sample. */
static void queries_of_long_texts_are_fewer(void **state)
{
	static const struct {
		int samples, tokens, stride, used;
	} texts[] = {{16, 32, 3, 10}, {32, 256, 3, 85}, {64, 256, 6, 42}, {16, 1024, 6, 170}, {64, 1024, 6, 170},
		{4000, 4, 4, 1}};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct kvs_calib_text of = {.samples = texts[i].samples, .sample_tokens = texts[i].tokens};
		struct calib_queries queries = {0};
		must(calib_queries_open(&queries, kvs_engine_config(engine), &of));
		assert_int_equal(queries.stride, texts[i].stride);
		assert_int_equal(queries.used, texts[i].used);
		calib_queries_close(&queries);
	}
	(void)state;
}

/* Four times the text, 4 MiB of residuals and more, takes hardly more memory: what grows is in files without a name. */
static void memory_does_not_grow_with_the_text(void **state)
{
	static const char *const names[] = {"plan.json", "out.json", "out.patch.safetensors", "said"};
	char path[80];
	long few, many;

	(void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip(); /* a sanitizer keeps what was freed */
#endif
	snprintf(path, sizeof(path), "%s/plan.json", folder);
	must(kvs_plan_save(plan, path));
	few = peak_of(path, 16);
	many = peak_of(path, 64);
	if (many > few + 1536)
		fail_msg("%ld KiB for 16 samples, %ld KiB for 64", few, many);
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		unlink(path);
	}
}

/* ---- patches ---- */

/* The engine that loads the patch has the loss of the one that made it, and gives the matrices back. */
static void patch_gives_the_same_loss(void **state)
{
	kvs_patch *patch;
	double nll;

	(void)state;
	must(kvs_patch_open(patch_path, &patch));
	must(kvs_patch_check(patch, digest, plan, ckpt));
	assert_int_equal(kvs_patch_count(patch), fit.count);
	must(kvs_engine_set_patch(engine, patch, ckpt));
	must(kvs_measure_nll(engine, &text, plan, NULL, &nll));
	assert_true(nll == fit.plain_nll);
	must(kvs_engine_set_patch(engine, patch, NULL));
	must(kvs_measure_nll(engine, &text, plan, NULL, &nll));
	assert_true(nll == fit.nll);
	kvs_patch_close(patch);
}

static void assert_refused(const char *path, const kvs_plan *of, const kvs_checkpoint *model, const char *words)
{
	kvs_patch *patch = NULL;
	int err = kvs_patch_open(path, &patch);

	if (!err)
		err = kvs_patch_check(patch, digest, of, model);
	assert_int_equal(err, -EINVAL);
	if (!strstr(kvs_error(), words))
		fail_msg("\"%s\" does not say \"%s\"", kvs_error(), words);
	kvs_patch_close(patch);
}

static void damaged_patches_are_refused(void **state)
{
	size_t bytes;
	char path[80], *whole = read_all(patch_path, &bytes);
	FILE *file;

	(void)state;
	snprintf(path, sizeof(path), "%s/damaged", folder);
	for (int cut = 1; cut >= 0; cut--) {
		whole[bytes - 7] ^= !cut;
		file = fopen(path, "w");
		fwrite(whole, 1, bytes - cut, file);
		fclose(file);
		assert_refused(path, plan, ckpt, cut ? "truncated" : "is not the file that the plan was made with");
	}
	unlink(path);
	free(whole);
}

static void patches_of_others_are_refused(void **state)
{
	kvs_checkpoint *other;
	kvs_plan *another;

	(void)state;
	must(kvs_checkpoint_open(OTHER, &other));
	must(kvs_plan_parse("0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,14", &another));
	assert_refused(patch_path, plan, other, "another model");
	assert_refused(patch_path, another, ckpt, "another plan");
	kvs_plan_free(another);
	kvs_checkpoint_close(other);
}

static void too_little_text_is_refused(void **state)
{
	struct kvs_calib_text little = text;
	struct kvs_compensation out;

	(void)state;
	little.samples = 3; /* 192 tokens, and W_o has 128 columns */
	assert_int_equal(kvs_compensate(engine, ckpt, &little, plan, &outputs_alone, NULL, &out), -EINVAL);
	assert_non_null(strstr(kvs_error(), "takes 256 tokens"));
}

/* The least text with hardly a ridge is learnt by heart. It comes last: the engine keeps these matrices. */
static void where_it_hurts_it_is_not_applied(void **state)
{
	struct kvs_calib_text least = text;
	struct kvs_compensation out;
	kvs_patch *patch;

	(void)state;
	must(kvs_patch_open(patch_path, &patch));
	must(kvs_engine_set_patch(engine, patch, ckpt)); /* the checkpoint's matrices, of which targets are taken */
	least.samples = 4;
	outputs_alone.ridge = 1e-9;
	must(kvs_compensate(engine, ckpt, &least, plan, &outputs_alone, NULL, &out));
	assert_true(out.plain_nll == fit.plain_nll && out.nll > out.plain_nll + 0.05);
	assert_false(out.applied);
	kvs_compensation_clear(&out);
	kvs_patch_close(patch);
}

static int set_up(void **state)
{
	struct kvs_calib_text_options cut = {0};
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true};
	struct kvs_patch_matrix matrices[16];
	kvs_tokenizer *tokenizer;
	char *story;
	size_t bytes;
	int layers[16] = {0, 1, 2, 3, 4, 5, 2, 7, 8, 3, 10, 11, 1, 13, 5, 15};

	(void)state;
	cut.samples = 24;
	cut.sample_tokens = cut.window_tokens = 64;
	cut.held_tokens = 256;
	story = read_all(MODEL "/calib.txt", &bytes);
	must(kvs_tokenizer_open(MODEL, &tokenizer));
	must(kvs_calib_text_cut(tokenizer, story, bytes, &cut, &text));
	kvs_tokenizer_close(tokenizer);
	free(story);
	must(kvs_plan_create(16, layers, layers, &plan));
	must(kvs_cu_open("host", &cu));
	must(kvs_checkpoint_open(MODEL, &ckpt));
	must(kvs_calib_open_engine(cu, ckpt, &options, &text, 1, &engine));
	must(kvs_compensate(engine, ckpt, &text, plan, &outputs_alone, NULL, &fit));
	assert_true(fit.applied && fit.nll < fit.plain_nll - 0.05); /* a quarter of the damage */
	for (size_t i = 0; i < fit.count; i++)
		matrices[i] = (struct kvs_patch_matrix){fit.refits[i].name, fit.refits[i].rows, fit.refits[i].cols,
			fit.refits[i].dtype, fit.refits[i].values};
	assert_non_null(mkdtemp(folder));
	snprintf(patch_path, sizeof(patch_path), "%s/patch", folder);
	must(kvs_patch_write(patch_path, plan, ckpt, matrices, fit.count, digest));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(patch_path);
	rmdir(folder);
	kvs_compensation_clear(&fit);
	kvs_engine_close(engine);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(cu);
	kvs_plan_free(plan);
	kvs_calib_text_clear(&text);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(matrices_and_losses_are_numpys),
		cmocka_unit_test(fits_are_repeatable),
		cmocka_unit_test(normalised_queries_are_left),
		cmocka_unit_test(a_linear_map_has_limits),
		cmocka_unit_test(queries_of_long_texts_are_fewer),
		cmocka_unit_test(memory_does_not_grow_with_the_text),
		cmocka_unit_test(patch_gives_the_same_loss),
		cmocka_unit_test(damaged_patches_are_refused),
		cmocka_unit_test(patches_of_others_are_refused),
		cmocka_unit_test(too_little_text_is_refused),
		cmocka_unit_test(where_it_hurts_it_is_not_applied),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
