/*
 * tests/plan_export/plan_test.c: `kvshare-run plan` shows, checks and converts plans, and refuses files that are none.
 *
 * tests/golden/exports/ holds the output of convert, byte for byte. tests/golden/check_transformers_export.py and
 * check_vllm_export.py checked it, with versions and date, and must be run again when it changes.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SECONDS 60
#define EXPORTS "tests/golden/exports/"
#define SHARED "--owners 0,1,0,3,1,3"

static char dir[] = "/tmp/kvs-plan-XXXXXX";

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct process process;
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	process = run_shell(command, SECONDS);
	process_free(&process);
	return 0;
}

/* Runs `kvshare-run plan ARGUMENTS`, in which @ stands for the test's own directory. */
static struct process run_plan(const char *arguments)
{
	char command[2048];
	int used = snprintf(command, sizeof(command), "kvshare-run plan ");

	for (; *arguments; arguments++)
		used += *arguments == '@' ? snprintf(command + used, sizeof(command) - used, "%s", dir)
					  : snprintf(command + used, sizeof(command) - used, "%c", *arguments);
	return run_shell(command, SECONDS);
}

static void assert_says(const char *text, const char *words)
{
	if (!strstr(text, words))
		fail_msg("\"%s\" is not in:\n%s", words, text);
}

static void assert_fails(const char *arguments, int status, const char *words)
{
	struct process process = run_plan(arguments);

	if (process.status != status)
		fail_msg("`plan %s` exited %d, not %d: %s", arguments, process.status, status, process.err);
	assert_string_equal(process.out, "");
	assert_says(process.err, words);
	process_free(&process);
}

static void assert_prints(const char *arguments, const char *wanted)
{
	struct process process = run_plan(arguments);

	if (process.status)
		fail_msg("`plan %s` exited %d: %s", arguments, process.status, process.err);
	assert_string_equal(process.out, wanted);
	process_free(&process);
}

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	char *text = calloc(1, 1 << 16);

	if (!file || !text)
		fail_msg("%s cannot be read", path);
	assert_in_range(fread(text, 1, 1 << 16, file), 1, (1 << 16) - 1);
	fclose(file);
	return text;
}

static void assert_prints_file(const char *arguments, const char *path)
{
	char *wanted = read_file(path);

	assert_prints(arguments, wanted);
	free(wanted);
}

static void write_file(const char *name, const char *text)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

/* ---- show ---- */

static void show_joins_owners_and_borrowers_with_lines(void **state)
{
	struct process process = run_shell("LC_ALL=C.UTF-8 kvshare-run plan show --owners 0,1,0,3,1,3", SECONDS);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_string_equal(process.out, "the plan of --owners: 6 layers\n"
					 "  K          3 of 6 layers own theirs\n"
					 "  V          3 of 6\n"
					 "  KV memory  50.0 % of what it is without sharing\n\n"
					 "layer      K      V  map   read by\n"
					 "    0    own    own  ●─╮   2\n"
					 "    1    own    own  ●─┼╮  4\n"
					 "    2      0      0  ○─╯│\n"
					 "    3    own    own  ●─╮│  5\n"
					 "    4      1      1  ○─┼╯\n"
					 "    5      3      3  ○─╯ \n");
	process_free(&process);
}

static void show_does_without_utf8(void **state)
{
	struct process process = run_shell("LC_ALL=C kvshare-run plan show " EXPORTS "split.json", SECONDS);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_string_equal(process.out, EXPORTS "split.json: 6 layers\n"
						 "  K          4 of 6 layers own theirs\n"
						 "  V          4 of 6\n"
						 "  KV memory  66.7 % of what it is without sharing\n\n"
						 "layer      K      V  K    V    read by\n"
						 "    0    own    own  @-.  @    K: 1\n"
						 "    1      0    own  o-'  @-.  V: 2\n"
						 "    2    own      1  @-.  o-'  K: 4\n"
						 "    3    own    own  @ |  @-.  V: 5\n"
						 "    4      2    own  o-'  @ |\n"
						 "    5    own      3  @    o-'\n");
	process_free(&process);
}

/* Lanes are reused, so 80 layers whose neighbours share take one; and 40 lanes at once still fit in a terminal. */
static void show_stays_narrow_with_80_layers(void **state)
{
	char neighbours[512] = "", halves[512] = "", command[600];

	(void)state;
	for (int layer = 0; layer < 80; layer++) {
		snprintf(neighbours + strlen(neighbours), 8, "%s%d", layer ? "," : "", layer - layer % 2);
		snprintf(halves + strlen(halves), 8, "%s%d", layer ? "," : "", layer % 40);
	}
	for (int i = 0; i < 2; i++) {
		struct process process;
		size_t widest = 0, rows = 0;

		snprintf(command, sizeof(command), "LC_ALL=C kvshare-run plan show --owners %s",
			i ? halves : neighbours);
		process = run_shell(command, SECONDS);
		assert_int_equal(process.status, 0);
		for (char *row = strstr(process.out, "layer      K"); *row; row = strchr(row, '\n') + 1, rows++)
			if (strcspn(row, "\n") > widest)
				widest = strcspn(row, "\n");
		assert_int_equal(rows, 81);
		assert_in_range(widest, 30, i ? 80 : 34);
		process_free(&process);
	}
}

static void show_says_how_a_plan_was_found(void **state)
{
	struct process process;

	(void)state;
	write_file("found.json",
		"{\"kvshare_plan\": 1, \"layers\": 3, \"k_owners\": [0, 1, 1], \"v_owners\": [0, 1, 1], \"model\": "
		"{\"architecture\": \"qwen3\", \"layers\": 3, \"kv_heads\": 4, \"head_dim\": 64}, \"calibration\": "
		"{\"method\": \"kvsharer\", \"order\": \"dissimilar\", \"threshold\": 0.5, \"end\": \"complete\", "
		"\"hidden_cosine\": 0.75, \"nll\": {\"full\": 2.5, \"shared\": 2.625}, \"trials\": [{}, {}]}}");
	process = run_plan("show @/found.json");
	assert_int_equal(process.status, 0);
	assert_says(process.out, "made for   qwen3, 4 KV heads of 64 dimensions\n");
	assert_says(process.out, "method     kvsharer\n");
	assert_says(process.out, "order      dissimilar\n");
	assert_says(process.out, "threshold  0.5\n");
	assert_says(process.out, "cosine     0.7500 ");
	assert_says(process.out, "loss       2.6250 nats a token, +0.1250 against 2.5000 without sharing\n");
	assert_says(process.out, "trials     2\n");
	process_free(&process);
}

/* The plan's loader leaves the calibration as it is, so that anything may be in it. */
static void show_passes_over_what_it_does_not_know(void **state)
{
	struct process process;

	(void)state;
	write_file("odd.json", "{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": [0], \"v_owners\": [0], "
			       "\"calibration\": {\"method\": "
			       "7, \"threshold\": \"%s%n\", \"order\": \"%s%n\", \"nll\": [], \"trials\": {}}}");
	process = run_plan("show @/odd.json");
	assert_int_equal(process.status, 0);
	assert_says(process.out, "order      %s%n\n");
	assert_null(strstr(process.out, "method"));
	assert_null(strstr(process.out, "threshold"));
	assert_null(strstr(process.out, "loss"));
	process_free(&process);
}

static void show_gives_json(void **state)
{
	json_t *object = run_json("kvshare-run plan show " EXPORTS "split.json --json");

	(void)state;
	assert_int_equal(json_integer_value(json_object_get(object, "layers")), 6);
	assert_int_equal(json_integer_value(json_object_get(object, "k_owned")), 4);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(object, "v_owners"), 5)), 3);
	assert_float_equal(json_number_value(json_object_get(object, "kv_fraction")), 8 / 12.0, 1e-9);
	json_decref(object);
}

/* ---- check ---- */

static void check_knows_the_model(void **state)
{
	struct process process = run_plan("check --owners 0,1,2,1 -m tests/golden/models/llama2");

	(void)state;
	assert_int_equal(process.status, 0);
	assert_says(process.out, "fits tests/golden/models/llama2: llama, 4 layers\n");
	assert_string_equal(process.err, "");
	process_free(&process);
	assert_fails("check --owners 0,1,2 -m tests/golden/models/llama2", 1,
		"does not fit tests/golden/models/llama2: plan has 3 layers, model has 4");
	write_file("other.json", "{\"kvshare_plan\": 1, \"layers\": 4, \"k_owners\": [0, 1, 2, 3], \"v_owners\": [0, "
				 "1, 2, 3], \"model\": "
				 "{\"architecture\": \"qwen3\", \"layers\": 4, \"kv_heads\": 2, \"head_dim\": 32}}");
	assert_fails("check @/other.json -m tests/golden/models/llama2", 1, "architecture qwen3, this one has llama");
	assert_fails("check --owners 0,1 -m @", 1, "config.json");
}

static void check_warns_where_windows_differ(void **state)
{
	struct process process = run_plan("check --owners 0,1,2,1,4,5 -m tests/golden/models/qwen2-window");

	(void)state;
	assert_int_equal(process.status, 0);
	assert_string_equal(process.err,
		"kvshare-run: warning: layer 3 has a window of 20 tokens and reads K and V of layer 1, which has no "
		"window\n");
	process_free(&process);
	write_file("v.json", "{\"kvshare_plan\": 1, \"layers\": 6, \"k_owners\": [0, 1, 2, 3, 4, 5], \"v_owners\": [0, "
			     "1, 2, 3, 1, 3]}");
	process = run_plan("check @/v.json -m tests/golden/models/qwen2-window");
	assert_int_equal(process.status, 0);
	assert_string_equal(process.err, "kvshare-run: warning: layer 4 has a window of 20 tokens and reads V of layer "
					 "1, which has no window\n");
	process_free(&process);
}

/* ---- convert ---- */

static void lckv_goes_there_and_back(void **state)
{
	(void)state;
	assert_prints("convert --owners 0,1,2,1 --to lckv", "0_1_2_1\n");
	assert_prints("convert --from lckv 0_1_2_1 --to lckv", "0_1_2_1\n");
	assert_prints("convert --from lckv 0_1_2_1 --to json",
		"{\n  \"kvshare_plan\": 1,\n  \"layers\": 4,\n  \"k_owners\": "
		"[0, 1, 2, 1],\n  \"v_owners\": [0, 1, 2, 1]\n}\n");
	assert_prints("convert --from lckv 0 --to lckv", "0\n");
}

static void lckv_that_is_no_plan_is_refused(void **state)
{
	static const struct {
		const char *notation, *words;
	} rows[] = {
		{"0_1s_2", "character 4: layer numbers with _ between them"},
		{"0_1s_2", "has no sliding windows"},
		{"0,1", "character 2"},
		{"0_3_1", "owners[1] is 3: an owner may not lie above its layer"},
		{"0_0_1", "layer 1 itself borrows"},
		{"0__1", "character 3"},
		{"0_1_", "character 5"},
		{"''", "character 1"},
		{"0_9999999999", "character"},
	};
	char arguments[64];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		snprintf(arguments, sizeof(arguments), "convert --from lckv %s --to json", rows[i].notation);
		assert_fails(arguments, 1, rows[i].words);
	}
}

static void python_is_what_was_verified(void **state)
{
	(void)state;
	assert_prints_file("convert " SHARED " --to transformers", EXPORTS "transformers-shared.py");
	assert_prints_file("convert " EXPORTS "split.json --to transformers", EXPORTS "transformers-split.py");
	assert_prints_file("convert " SHARED " --to vllm", EXPORTS "vllm-shared.py");
}

static void who_has_one_owner_for_both_refuses_two(void **state)
{
	(void)state;
	assert_fails("convert " EXPORTS "split.json --to lckv", 1,
		"layer 1 reads K of layer 0 and V of layer 1: LCKV's notation can only express");
	assert_fails("convert " EXPORTS "split.json --to vllm", 1,
		"layer 1 reads K of layer 0 and V of layer 1: vLLM can only express");
}

static void json_keeps_what_it_does_not_know(void **state)
{
	(void)state;
	write_file("notes.json", "{\"kvshare_plan\": 1, \"layers\": 1, \"k_owners\": [0], \"v_owners\": [0], "
				 "\"notes\": {\"by\": \"hand\"}}");
	assert_prints("convert @/notes.json --to json",
		"{\n  \"kvshare_plan\": 1,\n  \"layers\": 1,\n  \"k_owners\": [0],\n  \"v_owners\": [0],\n  \"notes\": "
		"{\"by\": \"hand\"}\n}\n");
}

static void output_is_whole_or_as_it_was(void **state)
{
	struct process process;
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/out.json", dir);
	assert_prints("convert --owners 0,0 --to json -o @/out.json", "");
	char *first = read_file(path);
	assert_says(first, "\"k_owners\": [0, 0]");
	assert_fails("convert " EXPORTS "split.json --to lckv -o @/out.json", 1, "layer 1");
	char *after = read_file(path);
	assert_string_equal(after, first);
	free(first);
	free(after);

	assert_fails("convert --owners 0,0 --to json -o @/nowhere/out.json", 1, "nowhere/out.json: cannot write");
	assert_fails("convert --owners 0,0 --to json -o @", 1, "cannot write");
	snprintf(path, sizeof(path), "ls -d %s.* %s/*.json.*", dir, dir);
	process = run_shell(path, SECONDS);
	assert_string_equal(process.out, ""); /* no temporary file is left */
	process_free(&process);
}

static void full_stdout_is_an_error(void **state)
{
	static const char *const rows[] = {"show --owners 0,1", "show --owners 0,1 --json",
		"convert --owners 0,1 --to vllm", "convert --owners 0,1 --to lckv",
		"check --owners 0,1,2,3 -m tests/golden/models/llama2"};
	char arguments[128];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		snprintf(arguments, sizeof(arguments), "%s >/dev/full", rows[i]);
		assert_fails(arguments, 1, "writing to stdout");
	}
}

/* ---- wrong usage ---- */

static void wrong_usage_says_what_is_wanted(void **state)
{
	static const struct {
		const char *arguments, *words;
	} rows[] = {
		{"", "Usage: kvshare-run plan VERB"},
		{"paint", "Usage: kvshare-run plan VERB"},
		{"show", "which plan?"},
		{"show a b", "one plan at a time"},
		{"show a --owners 0", "both give a plan"},
		{"check --owners 0,1", "-m DIR"},
		{"check --owners 0,1 --to lckv -m .", "unrecognized option"},
		{"convert --owners 0,1", "--to json, lckv, vllm, transformers or checkpoint"},
		{"convert --owners 0,1 --to tensorrt", "--to is \"tensorrt\""},
		{"convert --owners 0,1 --from lckv --to json", "not --owners"},
		{"convert 0_1 --from yaml --to json", "--from is \"yaml\""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		assert_fails(rows[i].arguments, 2, rows[i].words);
}

static void bad_plans_are_refused_with_the_place(void **state)
{
	(void)state;
	write_file("cut.json", "{\"kvshare_plan\": 1,");
	write_file(
		"chain.json", "{\"kvshare_plan\": 1, \"layers\": 3, \"k_owners\": [0, 0, 1], \"v_owners\": [0, 1, 2]}");
	assert_fails("show @/missing.json", 1, "missing.json: No such file");
	assert_fails("show @/cut.json", 1, "cut.json: line 1");
	assert_fails("convert @/chain.json --to vllm", 1, "k_owners[2] is 1: layer 1 itself borrows");
	assert_fails("show --owners 0,2", 2, "owners[1] is 2");
}

/* The text in a plan comes from a file, so none of it may control the terminal. */
static void escape_sequences_of_a_plan_are_made_visible(void **state)
{
	char path[] = "/tmp/kvs-plan-XXXXXX", command[128];
	int fd = mkstemp(path);
	FILE *file = fdopen(fd, "w");

	(void)state;
	assert_non_null(file);
	fprintf(file,
		"{\"kvshare_plan\": 1, \"layers\": 2, \"k_owners\": [0, 0], \"v_owners\": [0, 0], "
		"\"model\": {\"architecture\": \"\\u001b[31mllama\", \"layers\": 2, \"kv_heads\": 1, \"head_dim\": 8}, "
		"\"calibration\": {\"method\": \"\\u001b]0;title\\u0007nll\"}}");
	fclose(file);
	snprintf(command, sizeof(command), "kvshare-run plan show %s", path);
	struct process process = run_shell(command, SECONDS);
	unlink(path);
	assert_int_equal(process.status, 0);
	assert_null(strchr(process.out, '\x1b'));
	assert_null(strchr(process.out, '\a'));
	assert_non_null(strstr(process.out, "\\x1b[31mllama"));
	assert_non_null(strstr(process.out, "\\x1b]0;title\\x07nll"));
	process_free(&process);
}

/* A plan whose refitted matrices (calibrate --compensate) the output does not take along. */
static void what_is_left_out_is_said(void **state)
{
	struct process process;
	char command[512];

	(void)state;
	snprintf(command, sizeof(command),
		"kvshare-run plan convert --owners 0,1,1 --to json | sed '1s/{/{ \"calibration\": {\"compensation\": "
		"{\"patch\": \"00\"}},/' >%s/refitted.json; kvshare-run plan convert %s/refitted.json --to lckv",
		dir, dir);
	process = run_shell(command, SECONDS);
	assert_string_equal(process.out, "0_1_1\n");
	assert_says(process.err, "warning: ");
	assert_says(process.err, "refitted.json goes with refitted matrices");
	process_free(&process);
	process = run_plan("convert --owners 0,1,1 --to lckv");
	assert_string_equal(process.err, "");
	process_free(&process);
}

/* A plan for a model that has its matrices in the weights: the output asks for that model, and takes nothing else for a digest. */
static void exports_ask_for_the_matrices(void **state)
{
	static const char *const formats[] = {"transformers", "vllm"};
	struct process process;

	(void)state;
	write_file("weights.json", "{\"kvshare_plan\":1,\"layers\":3,\"k_owners\":[0,1,1],\"v_owners\":[0,1,1],"
				   "\"calibration\":{\"compensation\":{\"applied\":true,\"in_weights\":"
				   "\"00112233445566778899aabbccddeeff\"}}}");
	write_file("hostile.json", "{\"kvshare_plan\":1,\"layers\":3,\"k_owners\":[0,1,1],\"v_owners\":[0,1,1],"
				   "\"calibration\":{\"compensation\":{\"applied\":true,\"in_weights\":"
				   "\"0\\\";import os#2345678901234567890\"}}}");
	for (size_t i = 0; i < 2; i++) {
		char arguments[64];
		snprintf(arguments, sizeof(arguments), "convert @/weights.json --to %s", formats[i]);
		process = run_plan(arguments);
		assert_says(process.out, "\nMATRICES = \"00112233445566778899aabbccddeeff\" ");
		assert_string_equal(process.err, "");
		process_free(&process);
		snprintf(arguments, sizeof(arguments), "convert @/hostile.json --to %s", formats[i]);
		process = run_plan(arguments);
		assert_says(process.out, "\nMATRICES = None ");
		assert_says(process.err, "hostile.json goes with refitted matrices");
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(show_joins_owners_and_borrowers_with_lines),
		cmocka_unit_test(show_does_without_utf8),
		cmocka_unit_test(show_stays_narrow_with_80_layers),
		cmocka_unit_test(show_says_how_a_plan_was_found),
		cmocka_unit_test(show_passes_over_what_it_does_not_know),
		cmocka_unit_test(show_gives_json),
		cmocka_unit_test(check_knows_the_model),
		cmocka_unit_test(check_warns_where_windows_differ),
		cmocka_unit_test(lckv_goes_there_and_back),
		cmocka_unit_test(lckv_that_is_no_plan_is_refused),
		cmocka_unit_test(python_is_what_was_verified),
		cmocka_unit_test(who_has_one_owner_for_both_refuses_two),
		cmocka_unit_test(json_keeps_what_it_does_not_know),
		cmocka_unit_test(output_is_whole_or_as_it_was),
		cmocka_unit_test(full_stdout_is_an_error),
		cmocka_unit_test(wrong_usage_says_what_is_wanted),
		cmocka_unit_test(bad_plans_are_refused_with_the_place),
		cmocka_unit_test(escape_sequences_of_a_plan_are_made_visible),
		cmocka_unit_test(what_is_left_out_is_said),
		cmocka_unit_test(exports_ask_for_the_matrices),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
