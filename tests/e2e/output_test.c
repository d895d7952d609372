/*
 * tests/e2e/output_test.c: what kvshare-run writes is whole, or it says that it is not: JSON of figures that are not finite,
 * standard output that takes no more or is closed.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

/* ---- figures that are not finite ---- */

/* $T/m is the model with a last norm of 32768 (bf16 0x4700, "\0G"): its loss is finite, the perplexity is not. */
#define LOUD                                                                                                           \
	"T=$(mktemp -d); cp -r " MODEL " $T/m; head -c 128 /dev/zero | sed 's/\\x00/\\x00G/g' | "                      \
	"dd of=$T/m/model.safetensors bs=1 seek=6184288 conv=notrunc 2>/dev/null; "

static void an_infinite_perplexity_is_null_in_json(void **state)
{
	json_t *report = run_json(
		LOUD "kvshare-run eval -m $T/m --text " MODEL "/heldout.txt --max-tokens 65 --ctx 32 --json; rm -r $T");
	struct process process = run_shell(
		LOUD "kvshare-run eval -q -m $T/m --text " MODEL "/heldout.txt --max-tokens 65 --ctx 32; rm -r $T", 60);

	(void)state;
	assert_true(json_is_null(json_object_get(report, "ppl")));
	assert_true(json_number_value(json_object_get(report, "nll")) > 710);
	assert_int_equal(process.status, 0);
	assert_non_null(strstr(process.out, "ppl inf"));
	json_decref(report);
	process_free(&process);
}

/* And the study goes on from its file, null and all. */
static void a_study_of_infinite_perplexity_is_written_and_resumed(void **state)
{
	json_t *report = run_json(LOUD
		"S=\"kvshare-run study -m $T/m --calib " MODEL "/calib.txt --text " MODEL "/heldout.txt --samples 4 "
		"--sample-tokens 16 --held-tokens 32 --ctx 16 --max-tokens 32 --rates 0.25 -o $T/s\"; "
		"$S --methods adjacent -q >/dev/null && $S --methods adjacent,merge --json; rm -r $T");
	const json_t *rows = json_object_get(report, "rows");

	(void)state;
	assert_true(json_is_null(json_object_get(json_object_get(report, "full"), "ppl")));
	assert_int_equal(json_array_size(rows), 2);
	json_decref(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_infinite_perplexity_is_null_in_json),
		cmocka_unit_test(a_study_of_infinite_perplexity_is_written_and_resumed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
