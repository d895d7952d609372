/*
 * tests/e2e/bench_test.c: `kvshare-run bench` measures every suite that was asked for, and reports what it cannot do. The
 * figures themselves depend on the machine and are not tested.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BENCH "kvshare-run bench --device host --layers 4 --ctx 64 --json "

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static void every_suite_gives_figures(void **state)
{
	static const char *const ways[] = {"on_demand", "premapped", "preallocated"};
	json_t *report = run_json(BENCH), *attention = json_object_get(report, "attention");
	const json_t *decode = json_object_get(report, "decode"), *full = json_object_get(decode, "full");
	const json_t *shared = json_object_get(decode, "shared"), *growth = json_object_get(report, "vmm");

	(void)state;
	assert_true(number(json_object_get(report, "copy"), "gb_per_s") > 0);
	assert_int_equal(json_array_size(attention), 4); /* an eighth of the context, doubled up to all of it */
	for (size_t i = 0; i < json_array_size(attention); i++)
		assert_true(number(json_array_get(attention, i), "percent_of_copy") > 0);
	assert_true(number(json_object_get(report, "read"), "gb_per_s") > 0);
	assert_true(number(json_array_get(json_object_get(report, "prefill_attention"), 0), "tflops") > 0);
	assert_int_equal(json_array_size(json_object_get(report, "gemm")), 9); /* five for a token, four for a prompt */
	assert_true(number(json_object_get(json_object_get(report, "rows"), "argmax"), "us") > 0);
	assert_true(json_is_real(json_object_get(json_object_get(full, "parts_ms"), "gemm")));
	assert_true(number(full, "enqueue_ms") <= number(full, "step_ms"));
	assert_true(number(full, "prefill_tokens_per_s") > 0);
	assert_true(number(full, "decode_tokens_per_s") > 0);
	assert_true(number(decode, "shared_to_full") > 0);
	/* One layer in 4 borrows. */
	assert_int_equal(4 * (long)number(json_object_get(shared, "memory"), "kv_physical_bytes"),
		3 * (long)number(json_object_get(full, "memory"), "kv_physical_bytes"));
	for (int i = 0; i < 3; i++)
		assert_true(number(json_object_get(growth, ways[i]), "worst_us") > 0 &&
			    number(json_object_get(growth, ways[i]), "step_worst_us") > 0);
	json_decref(report);
}

static void only_what_was_asked_for_runs(void **state)
{
	json_t *report = run_json(BENCH "--suite vmm");

	(void)state;
	assert_non_null(json_object_get(report, "copy"));
	assert_non_null(json_object_get(report, "vmm"));
	assert_null(json_object_get(report, "attention"));
	assert_null(json_object_get(report, "decode"));
	json_decref(report);
}

#define MODEL "tests/models/storyworld-3m"
/* $T/p.json is a plan with its patch, $T/plain.json the same without. Then the command. */
#define WITH_PLAN                                                                                                      \
	"T=$(mktemp -d); trap 'rm -r $T' EXIT; owners=0,1,1,3,4,5,5,7,8,9,10,11,12,13,14,15; "                         \
	"echo \"{\\\"kvshare_plan\\\": 1, \\\"layers\\\": 16, \\\"k_owners\\\": [$owners], "                           \
	"\\\"v_owners\\\": [$owners]}\" >$T/plain.json; kvshare-run calibrate -q -m " MODEL " --text " MODEL           \
	"/calib.txt --samples 8 --held-tokens 64 --ctx 32 --compensate --refit o --skip 8 --plan $T/plain.json "       \
	"-o $T/p.json >/dev/null && [ -e $T/p.patch.safetensors ] || exit 9; "
#define RUN "kvshare-run bench --device host --ctx 64 --suite decode --json -m " MODEL " "

/* The model's weights, its layers, the plan's, and the skips that are in the plan's patch alone. */
static void a_plan_runs_with_its_matrices(void **state)
{
	struct process process = run_shell(WITH_PLAN "echo '['; " RUN "--plan $T/p.json && echo , && " RUN
						     "--plan $T/plain.json && echo ']'",
		120);
	json_t *both = json_loads(process.out, 0, NULL);
	const json_t *with = json_object_get(json_array_get(both, 0), "decode"),
		     *without = json_object_get(json_array_get(both, 1), "decode");
	const json_t *full = json_object_get(json_object_get(with, "full"), "memory"),
		     *shared = json_object_get(json_object_get(with, "shared"), "memory"),
		     *alone = json_object_get(json_object_get(without, "shared"), "memory");

	(void)state;
	if (process.status)
		fail_msg("status %d: %s", process.status, process.err);
	assert_true(json_is_true(json_object_get(with, "compensated")));
	assert_true(json_is_false(json_object_get(without, "compensated")));
	assert_int_equal(16 * (long)number(shared, "kv_physical_bytes"), 14 * (long)number(full, "kv_physical_bytes"));
	assert_int_equal((long)number(alone, "kv_physical_bytes"), (long)number(shared, "kv_physical_bytes"));
	assert_true(
		number(full, "weights_bytes") > 6e6 && number(alone, "weights_bytes") == number(full, "weights_bytes"));
	/* bf16: a skip has two halves of 8 x 128; a layer that it does not help has none. */
	assert_true(number(shared, "weights_bytes") > number(full, "weights_bytes"));
	assert_int_equal(
		(long)(number(shared, "weights_bytes") - number(full, "weights_bytes")) % (2 * 8 * 128 * 2), 0);
	json_decref(both);
	process_free(&process);
}

static void what_cannot_be_measured_is_said(void **state)
{
	static const struct {
		const char *command, *said;
		int status;
	} rows[] = {
		{BENCH "--suite speed", "--suite has \"speed\"", 2},
		{BENCH "--shape gpt", "--shape is \"gpt\"", 2},
		{BENCH "--dtype i8", "--dtype is \"i8\"", 2},
		{"SOFTCUDA_MEMORY=32M " BENCH, "CUDA_ERROR_OUT_OF_MEMORY", 1},
		{"SOFTCUDA_MEMORY=160M kvshare-run bench --device host --shape llama2-7b --suite decode",
			"CUDA_ERROR_OUT_OF_MEMORY", 1},
		{"kvshare-run bench --plan p.json", "name the model with -m DIR", 2},
		{"kvshare-run bench -m " MODEL " --dtype f16", "-m has a shape and types of its own", 2},
		{"kvshare-run bench -m nowhere", "nowhere", 1},
		{RUN "--plan nowhere.json", "nowhere.json", 1},
		{WITH_PLAN "rm $T/p.patch.safetensors; " RUN "--plan $T/p.json", "no such file: the plan goes with", 1},
		{WITH_PLAN "printf x | dd of=$T/p.patch.safetensors bs=1 seek=3000 conv=notrunc 2>/dev/null; " RUN
			   "--plan $T/p.json",
			"is not the file that the plan was made with", 1},
		{WITH_PLAN "cp $T/p.patch.safetensors $T/plain.patch.safetensors; " RUN "--plan $T/plain.json",
			"does not name it", 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct process process = run_shell(rows[i].command, 120);
		assert_int_equal(process.status, rows[i].status);
		if (!strstr(process.err, rows[i].said))
			fail_msg("`%s` said: %s", rows[i].command, process.err);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_suite_gives_figures),
		cmocka_unit_test(only_what_was_asked_for_runs),
		cmocka_unit_test(a_plan_runs_with_its_matrices),
		cmocka_unit_test(what_cannot_be_measured_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
