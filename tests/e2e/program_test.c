/*
 * tests/e2e/program_test.c: on the fixture kvshare-run gives the tokens and losses of transformers; and doctor works.
 *
 * tests/golden/eval/storyworld-3m.json has transformers' greedy tokens and losses (float32, CPU), full and with plans.
 */
#include "../support/process.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

/* A JSON array as "0,1,2,1". */
static void list_owners(const json_t *owners, char *out, size_t bytes)
{
	size_t used = 0;

	for (size_t l = 0; l < json_array_size(owners); l++)
		used += snprintf(out + used, bytes - used, "%s%d", l ? "," : "",
			(int)json_integer_value(json_array_get(owners, l)));
}

static json_t *golden(void)
{
	json_t *json = json_load_file("tests/golden/eval/storyworld-3m.json", 0, NULL);

	assert_non_null(json);
	return json;
}

static void generate_writes_the_tokens_of_transformers(void **state)
{
	json_t *json = golden(), *runs = json_object_get(json, "generate");

	(void)state;
	assert_true(json_array_size(runs) >= 2);
	for (size_t i = 0; i < json_array_size(runs); i++) {
		const json_t *run = json_array_get(runs, i);
		char owners[256], command[1024];
		list_owners(json_object_get(run, "k_owners"), owners, sizeof(owners));
		snprintf(command, sizeof(command),
			"kvshare-run generate -m " MODEL
			" -p '%s' -n %zu --device host --kv-dtype f32 --owners %s --json",
			json_string_value(json_object_get(json, "prompt")),
			json_array_size(json_object_get(run, "ids")), owners);
		json_t *report = run_json(command);
		if (!json_equal(json_object_get(report, "tokens"), json_object_get(run, "ids")))
			fail_msg("other tokens than transformers': %s", command);
		json_decref(report);
	}
	json_decref(json);
}

static void one_token_is_one_token(void **state)
{
	struct process process = run_shell("kvshare-run generate -m " MODEL " -p It -n 1 --device host", 60);

	(void)state;
	assert_non_null(strstr(process.err, "prompt    1 token, "));
	assert_non_null(strstr(process.err, "decode    1 token, "));
	process_free(&process);
}

static void eval_measures_the_loss_of_transformers(void **state)
{
	json_t *json = golden(), *cases = json_object_get(json, "cases");

	(void)state;
	for (size_t i = 0; i < json_array_size(cases); i++) {
		const json_t *expected = json_array_get(cases, i);
		const json_t *k = json_object_get(expected, "k_owners");
		char owners[256], command[1024];
		if (!json_equal(k, json_object_get(expected, "v_owners")))
			continue; /* --owners has one list for both */
		list_owners(k, owners, sizeof(owners));
		snprintf(command, sizeof(command),
			"kvshare-run eval -m " MODEL " --text " MODEL
			"/heldout.txt --max-tokens %zu --ctx %d --device host "
			"--kv-dtype f32 --owners %s --json",
			json_array_size(json_object_get(json, "ids")),
			(int)json_integer_value(json_object_get(expected, "ctx")), owners);
		json_t *report = run_json(command);
		double nll = json_number_value(json_object_get(report, "nll"));
		if (!(fabs(nll - json_number_value(json_object_get(expected, "mean_nll"))) <= 1e-4))
			fail_msg("loss %.6f, transformers has %.6f: %s", nll,
				json_number_value(json_object_get(expected, "mean_nll")), command);
		assert_int_equal(json_integer_value(json_object_get(report, "tokens")),
			json_array_size(json_object_get(expected, "nll")));
		assert_true(fabs(json_number_value(json_object_get(report, "ppl")) - exp(nll)) < 1e-9);
		json_decref(report);
	}
	json_decref(json);
}

/* What doctor says of `what`, whose state must be this; NULL if it says nothing of it. */
static const char *doctor_found(const json_t *report, const char *what, const char *state)
{
	const json_t *checks = json_object_get(report, "checks");

	for (size_t i = 0; i < json_array_size(checks); i++) {
		const json_t *check = json_array_get(checks, i);
		if (!strcmp(json_string_value(json_object_get(check, "what")), what) &&
			!strcmp(json_string_value(json_object_get(check, "state")), state))
			return json_string_value(json_object_get(check, "found"));
	}
	return NULL;
}

static void doctor_finds_the_host_device(void **state)
{
	json_t *report = run_json("kvshare-run doctor --json");
	const char *found = doctor_found(report, "host device", "ok");

	(void)state;
	assert_non_null(found);
	assert_non_null(strstr(found, "granule"));
	json_decref(report);
}

/* Both of the libraries that a profile through CUPTI needs. */
static void doctor_looks_for_cupti(void **state)
{
	json_t *report = run_json("KVSHARE_CUPTI=/nowhere/libcupti.so kvshare-run doctor --json");
	const char *found = doctor_found(report, "CUPTI", "optional");

	(void)state;
	assert_non_null(found);
	assert_non_null(strstr(found, "libcupti not found"));
	assert_int_equal(!strstr(found, "libkvshare-cupti.so not found"), !access(built("libkvshare-cupti.so"), F_OK));
	json_decref(report);
}

static void doctor_says_what_is_missing(void **state)
{
	struct process process = run_shell("KVSHARE_SOFTCUDA=/nowhere/libcuda.so.1 kvshare-run doctor", 60);

	(void)state;
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.out, "MISSING"));
	assert_non_null(strstr(process.out, "/nowhere"));
	assert_non_null(strstr(process.out, "or set KVSHARE_SOFTCUDA"));
	process_free(&process);
}

static void doctor_says_which_setting_is_wrong(void **state)
{
	struct process process = run_shell("SOFTCUDA_GRANULARITY=3 kvshare-run doctor", 60);

	(void)state;
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.out, "SOFTCUDA_GRANULARITY=3: must be a number from"));
	assert_null(strstr(process.out, "or set KVSHARE_SOFTCUDA"));
	process_free(&process);
}

/* softcuda under the name of NVIDIA's driver, which does not say that it is softcuda. */
#define WITH_GPU                                                                                                       \
	"d=$(mktemp -d); trap 'rm -rf $d' EXIT; sed s/softcuda_on_kernel/softcuda_no_kernel/ $KVSHARE_SOFTCUDA "       \
	">$d/libcuda.so.1; LD_LIBRARY_PATH=$d kvshare-run "
#define GENERATE "generate -q -m " MODEL " -p It -n 4 --device "

static bool has_gpu_kernels(void)
{
	json_t *report = run_json("kvshare-run doctor --json");
	bool has = doctor_found(report, "GPU kernels", "ok") != NULL;

	json_decref(report);
	return has;
}

static void a_gpu_without_kernels_is_none_for_auto(void **state)
{
	struct process host = run_shell("kvshare-run " GENERATE "host", 60), process;
	json_t *report;

	(void)state;
	if (has_gpu_kernels())
		skip();
	process = run_shell(WITH_GPU GENERATE "auto", 60);
	if (process.status)
		fail_msg("%s", process.err);
	assert_string_equal(process.out, host.out);
	assert_string_equal(process.err,
		"kvshare-run: warning: the GPU is not used, all runs on the CPU (--device host): "
		"this kvshare was built without GPU kernels: make build GPU=1\n");
	process_free(&process);
	process = run_shell(WITH_GPU GENERATE "cuda", 60);
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.err, "built without GPU kernels"));
	process_free(&process);
	report = run_json(WITH_GPU "doctor --json");
	assert_non_null(doctor_found(report, "GPU", "ok"));
	assert_string_equal(doctor_found(report, "GPU kernels", "optional"), "not built: make build GPU=1");
	json_decref(report);
	process_free(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(generate_writes_the_tokens_of_transformers),
		cmocka_unit_test(one_token_is_one_token),
		cmocka_unit_test(eval_measures_the_loss_of_transformers),
		cmocka_unit_test(doctor_finds_the_host_device),
		cmocka_unit_test(doctor_looks_for_cupti),
		cmocka_unit_test(doctor_says_what_is_missing),
		cmocka_unit_test(doctor_says_which_setting_is_wrong),
		cmocka_unit_test(a_gpu_without_kernels_is_none_for_auto),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
