/*
 * tests/e2e/compare_test.c: `kvshare-run compare` measures the memory and the loss that generate and eval measure, and its
 * ratios lie in their ranges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "../support/process.h"

#define MODEL "-m tests/models/storyworld-3m --device host -q --ctx 128 "
#define OWNERS "--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15 "
#define TEXT "--text tests/models/storyworld-3m/heldout.txt --max-tokens 200 "
#define SPEED "--prompt-tokens 24 -n 4 --rounds 3 "

static double real(json_t *object, const char *side, const char *key)
{
	json_t *value = json_object_get(json_object_get(object, side), key);

	if (!json_is_number(value))
		fail_msg("no number %s.%s", side, key);
	return json_number_value(value);
}

static double loss_of(const char *command)
{
	json_t *report = run_json(command);
	double nll = json_number_value(json_object_get(report, "nll"));

	json_decref(report);
	return nll;
}

static void losses_are_those_of_eval(void **state)
{
	json_t *report = run_json("kvshare-run compare --json " MODEL OWNERS TEXT SPEED);

	(void)state;
	assert_true(real(report, "full", "nll") == loss_of("kvshare-run eval --json " MODEL TEXT));
	assert_true(real(report, "shared", "nll") == loss_of("kvshare-run eval --json " MODEL OWNERS TEXT));
	assert_true(real(report, "ratio", "nll_delta") == real(report, "shared", "nll") - real(report, "full", "nll"));
	assert_true(real(report, "ratio", "kv_bytes") == 0.75);
	json_decref(report);
}

static void ratio_lies_in_its_range(json_t *report, const char *key)
{
	char name[64];
	json_t *range;

	snprintf(name, sizeof(name), "%s_range", key);
	range = json_object_get(json_object_get(report, "ratio"), name);
	assert_int_equal(json_array_size(range), 2);
	assert_true(json_number_value(json_array_get(range, 0)) > 0);
	assert_true(json_number_value(json_array_get(range, 0)) <= real(report, "ratio", key));
	assert_true(json_number_value(json_array_get(range, 1)) >= real(report, "ratio", key));
	assert_true(real(report, "full", key) > 0 && real(report, "shared", key) > 0);
}

static void without_a_text_there_is_no_loss(void **state)
{
	json_t *report = run_json("kvshare-run compare --json " MODEL OWNERS SPEED);

	(void)state;
	assert_true(json_is_null(json_object_get(json_object_get(report, "full"), "nll")));
	assert_true(json_is_null(json_object_get(json_object_get(report, "ratio"), "nll_delta")));
	ratio_lies_in_its_range(report, "prefill_tokens_per_s");
	ratio_lies_in_its_range(report, "decode_tokens_per_s");
	json_decref(report);
}

/* The page has what was measured, and what the traces of both tell. */
static void the_page_is_of_both(void **state)
{
	struct process process = run_shell("kvshare-run compare " MODEL OWNERS SPEED "--html -", 60);
	const char *page = process.out;

	(void)state;
	assert_int_equal(process.status, 0);
	assert_memory_equal(page, "<!doctype html>", 15);
	assert_non_null(strstr(page, "Rounds: 3"));
	assert_non_null(strstr(page, "At its peak shared held <b>"));
	assert_non_null(strstr(page, "<th scope=\"row\">prefill</th><td class=\"n\">"));
	assert_non_null(strstr(page, "Each of the 16 layers has blocks of its own"));
	assert_non_null(strstr(page, "4 of 16 layers read the blocks of another layer"));
	assert_null(strstr(page, ">loss<"));
	process_free(&process);
}

/* As the README has it. The traced runs open the device again, when softcuda is loaded already. */
static void the_page_needs_no_name_of_a_device(void **state)
{
	struct process process = run_shell("kvshare-run compare -m tests/models/storyworld-3m -q --ctx 128 " OWNERS
					   "--prompt-tokens 8 -n 4 --rounds 1 --html -",
		60);

	(void)state;
	if (process.status)
		fail_msg("%s", process.err);
	assert_memory_equal(process.out, "<!doctype html>", 15);
	process_free(&process);
}

static void refuses(const char *command, int status, const char *message)
{
	struct process process = run_shell(command, 60);

	assert_int_equal(process.status, status);
	if (!strstr(process.err, message))
		fail_msg("%s", process.err);
	process_free(&process);
}

static void what_makes_no_sense_is_refused(void **state)
{
	(void)state;
	refuses("kvshare-run compare " MODEL, 2, "compare with what?");
	refuses("kvshare-run compare " MODEL OWNERS "--rounds 0", 2, "--rounds");
	refuses("kvshare-run compare " MODEL OWNERS "--prompt-tokens 127 -n 2", 1, "has room for 128");
	refuses("printf 'Anna went.' | kvshare-run compare " MODEL OWNERS "--text -", 1, "--prompt-tokens, -n");
	refuses("kvshare-run compare " MODEL "--owners 0,1,2", 1, "3 layers");
	refuses("kvshare-run compare " MODEL OWNERS SPEED "--json --html -", 2, "standard output takes one");
	refuses("kvshare-run compare " MODEL OWNERS SPEED "--html /nowhere/page.html", 1, "/nowhere/page.html");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(losses_are_those_of_eval),
		cmocka_unit_test(without_a_text_there_is_no_loss),
		cmocka_unit_test(the_page_is_of_both),
		cmocka_unit_test(the_page_needs_no_name_of_a_device),
		cmocka_unit_test(what_makes_no_sense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
