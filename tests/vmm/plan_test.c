/* Plans: valid and invalid ones, and that a message names the file, the field and the reason. */
#include "fixture.h"

#include <sys/stat.h>
#include <unistd.h>

static char path[64];

static void write_text(const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void a_list_of_owners_is_a_plan_for_both(void **state)
{
	const int expected[] = {0, 1, 2, 1};
	kvs_plan *plan;

	(void)state;
	fixture_check(kvs_plan_parse(" 0, 1 ,2,1 ", &plan));
	assert_int_equal(kvs_plan_layers(plan), 4);
	for (int layer = 0; layer < 4; layer++) {
		assert_int_equal(kvs_plan_owner(plan, layer, KVS_K), expected[layer]);
		assert_int_equal(kvs_plan_owner(plan, layer, KVS_V), expected[layer]);
	}
	kvs_plan_free(plan);
}

static void a_layer_that_the_plan_has_not_has_no_owner(void **state)
{
	kvs_plan *plan;

	(void)state;
	fixture_check(kvs_plan_identity(2, &plan));
	assert_int_equal(kvs_plan_owner(plan, -1, KVS_K), -EINVAL);
	assert_int_equal(kvs_plan_owner(plan, 2, KVS_V), -EINVAL);
	kvs_plan_free(plan);
}

/* A copy equals the plan, to the byte, and changes to one do not affect the other. */
static void a_copy_is_a_plan_of_its_own(void **state)
{
	const int k[] = {0, 0, 2}, v[] = {0, 1, 1};
	struct kvs_plan_model model = {"llama", 3, 4, 64, "abcd"};
	char *before, *after;
	kvs_plan *plan, *copy;

	(void)state;
	fixture_check(kvs_plan_create(3, k, v, &plan));
	fixture_check(kvs_plan_copy(plan, &copy)); /* a plan made by hand */
	assert_int_equal(kvs_plan_owner(copy, 1, KVS_K), 0);
	assert_int_equal(kvs_plan_owner(copy, 2, KVS_V), 1);
	kvs_plan_free(copy);
	fixture_check(kvs_plan_set_model(plan, &model));
	fixture_check(kvs_plan_set_calibration(plan, "{\"cosine\": 0.5}"));
	fixture_check(kvs_plan_text(plan, &before));
	fixture_check(kvs_plan_copy(plan, &copy));
	fixture_check(kvs_plan_set_calibration(plan, "{\"cosine\": 0.25}"));
	kvs_plan_free(plan);
	fixture_check(kvs_plan_text(copy, &after));
	assert_string_equal(before, after);
	model.fingerprint = "abce";
	assert_int_equal(kvs_plan_check(copy, &model), -EINVAL);
	kvs_plan_free(copy);
	free(before);
	free(after);
}

static void a_bad_list_is_refused_with_the_place(void **state)
{
	static const struct {
		const char *owners, *message;
	} cases[] = {
		{"", "character 1: expected a layer number"},
		{"0,", "character 3: expected a layer number"},
		{"0,,1", "character 3: expected a layer number"},
		{"0,1x", "character 4: expected a comma"},
		{"0,-1", "character 3: expected a layer number"},
		{"0 1", "character 3: expected a comma"},
		{"0,99999999999999999999", "expected a layer number from 0 to 4095"},
		{"1,1", "owners[0] is 1: an owner may not lie above its layer (0)"},
		{"0,0,1", "owners[2] is 1: layer 1 itself borrows, from layer 0"},
	};
	kvs_plan *plan;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(kvs_plan_parse(cases[i].owners, &plan), -EINVAL);
		if (!strstr(kvs_error(), cases[i].message))
			fail_msg("\"%s\": %s", cases[i].owners, kvs_error());
	}
	assert_int_equal(kvs_plan_identity(0, &plan), -EINVAL);
	assert_int_equal(kvs_plan_identity(KVS_PLAN_MAX_LAYERS + 1, &plan), -EINVAL);
}

#define HEAD "{\"kvshare_plan\": 1, \"layers\": 2, \"k_owners\": [0, 0], \"v_owners\": [0, 1]"

static void a_damaged_file_is_refused_with_file_and_field(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"", "line 1"},
		{"[]", "not a JSON object"},
		{"{\"kvshare_plan\": 1, \"kvshare_plan\": 1}", "duplicate"},
		{"{}", "kvshare_plan is missing"},
		{"{\"kvshare_plan\": 2}", "kvshare_plan is 2"},
		{"{\"kvshare_plan\": 1}", "layers is missing"},
		{"{\"kvshare_plan\": 1, \"layers\": 1000000000}", "layers is 1000000000, must be from 1 to 4096"},
		{"{\"kvshare_plan\": 1, \"layers\": 2.0}", "layers is not an integer"},
		{"{\"kvshare_plan\": 1, \"layers\": NaN}", "line 1"},
		{"{\"kvshare_plan\": 1, \"layers\": 1}", "k_owners is missing"},
		{"{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": 0}", "k_owners is not an array"},
		{"{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": [0, 0]}", "k_owners has 2 entries, layers is 1"},
		{"{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": [0.5]}", "k_owners[0] is not an integer"},
		{"{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": [-1]}", "k_owners[0] is -1"},
		{"{\"kvshare_plan\": 1, \"layers\": 2, \"k_owners\": [0, 1], \"v_owners\": [1, 1]}",
			"v_owners[0] is 1: an owner may not lie above its layer (0)"},
		{HEAD ", \"model\": 3}", "model is not an object"},
		{HEAD ", \"model\": {\"architecture\": 3}}", "architecture is not a string"},
		{HEAD ", \"model\": {\"architecture\": \"llama\", \"layers\": 3, \"kv_heads\": 1, \"head_dim\": 1}}",
			"model.layers is 3, layers is 2"},
		{HEAD ", \"calibration\": 1}", "calibration is not an object"},
		{HEAD "} x", "line 1"},
	};
	kvs_plan *plan;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		write_text(cases[i].text);
		assert_int_equal(kvs_plan_load(path, &plan), -EINVAL);
		if (!strstr(kvs_error(), cases[i].message) || !strstr(kvs_error(), path))
			fail_msg("%s: %s", cases[i].text, kvs_error());
	}
	unlink(path);
	assert_int_equal(kvs_plan_load(path, &plan), -ENOENT);
	assert_true(kvs_plan_load("/", &plan) < 0);
}

static void saving_keeps_what_it_does_not_know(void **state)
{
	struct kvs_plan_model model = {"llama", 2, 4, 64, "abcd"};
	kvs_plan *plan;
	struct stat info;
	char text[4096] = "";
	FILE *file;

	(void)state;
	write_text(HEAD ", \"calibration\": {\"cosine\": 0.5}, \"mood\": [1]}");
	fixture_check(kvs_plan_load(path, &plan));
	fixture_check(kvs_plan_set_model(plan, &model));
	fixture_check(kvs_plan_save(plan, path));
	kvs_plan_free(plan);
	fixture_check(kvs_plan_load(path, &plan));
	assert_int_equal(kvs_plan_owner(plan, 1, KVS_K), 0);
	assert_int_equal(kvs_plan_owner(plan, 1, KVS_V), 1);
	fixture_check(kvs_plan_check(plan, &model));
	kvs_plan_free(plan);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
	fclose(file);
	assert_non_null(strstr(text, "\"mood\": [1]"));
	assert_non_null(strstr(text, "\"cosine\": 0.5"));
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 0400, 0400);
	unlink(path);
	fixture_check(kvs_plan_identity(2, &plan));
	assert_int_equal(kvs_plan_save(plan, "/nowhere/at/all"), -ENOENT);
	kvs_plan_free(plan);
}

static void a_plan_for_another_model_is_refused_with_both_sides(void **state)
{
	struct kvs_plan_model model = {"llama", 2, 4, 64, "abcd"}, other;
	kvs_plan *plan;

	(void)state;
	fixture_check(kvs_plan_identity(2, &plan));
	other = model;
	fixture_check(kvs_plan_check(plan, &other));
	other.layers = 3;
	assert_int_equal(kvs_plan_check(plan, &other), -EINVAL);
	assert_string_equal(kvs_error(), "plan has 2 layers, model has 3");
	fixture_check(kvs_plan_set_model(plan, &model));
	other = model;
	other.architecture = "qwen2";
	assert_int_equal(kvs_plan_check(plan, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "llama"));
	assert_non_null(strstr(kvs_error(), "qwen2"));
	other = model;
	other.head_dim = 32;
	assert_int_equal(kvs_plan_check(plan, &other), -EINVAL);
	other = model;
	other.kv_heads = 2;
	assert_int_equal(kvs_plan_check(plan, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "4 KV heads"));
	other = model;
	other.fingerprint = "abce"; /* the same shape, other weights */
	assert_int_equal(kvs_plan_check(plan, &other), -EINVAL);
	assert_non_null(strstr(kvs_error(), "abcd"));
	assert_non_null(strstr(kvs_error(), "abce"));
	other = model;
	other.fingerprint = NULL; /* an unknown one agrees with all */
	fixture_check(kvs_plan_check(plan, &other));
	kvs_plan_free(plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_of_owners_is_a_plan_for_both),
		cmocka_unit_test(a_layer_that_the_plan_has_not_has_no_owner),
		cmocka_unit_test(a_copy_is_a_plan_of_its_own),
		cmocka_unit_test(a_bad_list_is_refused_with_the_place),
		cmocka_unit_test(a_damaged_file_is_refused_with_file_and_field),
		cmocka_unit_test(saving_keeps_what_it_does_not_know),
		cmocka_unit_test(a_plan_for_another_model_is_refused_with_both_sides),
	};

	snprintf(path, sizeof(path), "/tmp/kvs-plan-test-%d.json", (int)getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
