/*
 * tests/calib/study_test.c: `kvshare-run study` as a user runs it: its figures are those of `eval`, a stopped study
 * ends like one that was not, its words and tables follow from its figures, bad input changes nothing.
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

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
/*
 * Sizes that take a second or two. Of this text's head, five thirds of the samples leave no more for nll than the rest.
 */
#define SMALL                                                                                                          \
	"--samples 2 --sample-tokens 8 --held-tokens 16 --ctx 16 --max-tokens 32 --kv-dtype f32 --seeds 3 "            \
	"--rates 0.125,0.25 "
#define STUDY                                                                                                          \
	"head -c 200 " MODEL "/calib.txt >$T/calib; kvshare-run study -m " MODEL " --text " MODEL                      \
	"/heldout.txt --calib $T/calib -o $T/s -q " SMALL

/* ---- figures ---- */

static void list_owners(const json_t *owners, char *text, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < json_array_size(owners); i++)
		used += snprintf(text + used, size - used, "%s%d", i ? "," : "",
			(int)json_integer_value(json_array_get(owners, i)));
}

static void check_against_eval(const json_t *point, const char *options)
{
	char command[512];
	json_t *eval;

	snprintf(command, sizeof(command),
		"kvshare-run eval -m " MODEL " --text " MODEL
		"/heldout.txt --ctx 16 --max-tokens 33 --kv-dtype f32 --json %s",
		options);
	eval = run_json(command);
	assert_true(fabs(json_number_at(eval, "nll") - json_number_at(point, "nll")) < 1e-4);
	assert_true(fabs(json_number_at(eval, "ppl") - json_number_at(point, "ppl")) < 1e-3);
	json_decref(eval);
}

/* One point of each plan-making kind, and the unshared model. */
static void check_rows(const json_t *study)
{
	const json_t *rows = json_at(study, "rows");
	char options[256] = "--owners ";

	check_against_eval(json_at(study, "full"), "");
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i), *point = json_array_get(json_at(row, "points"), 1);
		bool merged = !strcmp(json_string_value(json_at(row, "method")), "merge");
		assert_true(json_number_at(point, "shared") == 4);
		if (merged) { /* lengths are kept too: 2 of each 32 + 2 */
			assert_true(json_number_at(point, "kv_token_bytes") == 8192 * (0.75 + 0.25 * 2 / 32));
			continue;
		}
		assert_true(json_number_at(point, "kv_fraction") == 0.75 &&
			    json_number_at(point, "kv_token_bytes") == 6144);
		if (json_integer_value(json_at(row, "seed")) > 1)
			continue;
		if (!json_equal(json_at(point, "k_owners"), json_at(point, "v_owners")))
			continue; /* --owners cannot express it */
		list_owners(json_at(point, "k_owners"), options + 9, sizeof(options) - 9);
		check_against_eval(point, options);
	}
}

/* Mean and deviation over the seeds of "random" at one number of layers, as study.md must have them. */
static void check_random(const json_t *study, const char *markdown, size_t p)
{
	const json_t *rows = json_at(study, "rows");
	double sum = 0, squares = 0, nll[3], mean, full = json_number_at(json_at(study, "full"), "nll");
	size_t count = 0;
	char line[128];

	for (size_t i = 0; i < json_array_size(rows); i++)
		if (!strcmp(json_string_value(json_at(json_array_get(rows, i), "method")), "random"))
			nll[count++] =
				json_number_at(json_array_get(json_at(json_array_get(rows, i), "points"), p), "nll");
	assert_int_equal(count, 3);
	for (size_t i = 0; i < count; i++)
		sum += nll[i];
	mean = sum / count;
	for (size_t i = 0; i < count; i++)
		squares += (nll[i] - mean) * (nll[i] - mean);
	snprintf(line, sizeof(line), "| random: `random`, 3 seeds | %.4f ± %.4f | %+.4f |", mean, sqrt(squares / 2),
		mean - full);
	if (!strstr(markdown, line))
		fail_msg("study.md lacks \"%s\"", line);
}

/* Every method; the amount that the text has no room for is named. */
static void figures_are_those_of_eval(void **state)
{
	struct process process =
		run_in_directory(STUDY ">$T/said && cmp $T/said $T/s/study.md >&2; cat $T/s/study.md >&2; "
				       "head -c 4 $T/s/*.svg >&2; cat $T/s/study.json",
			300);
	json_t *study;

	(void)state;
	assert_int_equal(process.status, 0);
	study = json_loads(process.out, 0, NULL);
	assert_int_equal(json_array_size(json_at(study, "rows")), 7 + 2 * 3 + 3); /* and a third as much of the text */
	check_rows(study);
	check_random(study, process.err, 0);
	check_random(study, process.err, 1);
	assert_int_equal(json_array_size(json_at(study, "not_run")), 1);
	assert_non_null(strstr(process.err, "Not run: 4 samples: 16 tokens are left after 4 samples"));
	assert_non_null(strstr(process.err, "loses least"));
	assert_non_null(strstr(process.err, "top1.svg <==\n<svg"));
	json_decref(study);
	process_free(&process);
}

/* ---- stopping and going on ---- */

/* Some rows now, the others later, with a Ctrl-C in between: the same bytes as in one run. */
static void a_study_in_pieces_is_a_study_in_one(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods random,adjacent,similar --json >$T/one || exit 10; mv $T/s $T/first; " STUDY
		"--methods adjacent >/dev/null || exit 11; " STUDY
		"--methods random,adjacent,similar >/dev/null 2>$T/err & pid=$!; "
		"while ! grep -q random $T/s/study.json; do sleep 0.02; done; kill -INT $pid; wait $pid; stopped=$?; "
		"[ $stopped = 130 ] && { grep -q 'same command continues' $T/err || exit 12; "
		"grep -q 'Not finished' $T/s/study.md || exit 13; }; " STUDY
		"--methods random,adjacent,similar --json >$T/two || exit 14; "
		"cmp $T/one $T/two && cmp $T/first/study.md $T/s/study.md && cmp $T/first/loss.svg $T/s/loss.svg && "
		"echo stopped with $stopped",
		300);

	(void)state;
	if (process.status)
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	assert_non_null(strstr(process.out, "stopped with 130"));
	process_free(&process);
}

/* A finished study that is run again with any set of its methods is unchanged. */
static void a_finished_study_keeps_its_order(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods random,adjacent,similar >/dev/null && cp $T/s/study.json $T/s/study.md $T && " STUDY
		"--methods similar,adjacent >/dev/null && " STUDY "--methods similar --json >$T/said && "
		"cmp $T/s/study.json $T/said && cmp $T/s/study.md $T/study.md && cmp $T/s/study.json $T/study.json",
		120);

	(void)state;
	if (process.status)
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	process_free(&process);
}

/* The walks and nll also search on other texts, and none of these may be lost when the study goes on. */
static void other_texts_are_searched_too(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods similar,adjacent --calib LICENSE >/dev/null || exit 10; cat $T/s/study.md >&2; " STUDY
		"--methods similar 2>&1 | grep -o 'not among those to search on' >&2; cat $T/s/study.json",
		120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *rows = json_at(study, "rows");
	const json_t *first = json_array_get(rows, 0), *last = json_array_get(rows, 3);

	(void)state;
	assert_int_equal(json_array_size(rows), 4); /* similar and adjacent; similar on less text, and on LICENSE */
	assert_string_equal(json_string_value(json_at(last, "method")), "similar");
	assert_false(json_equal(json_at(first, "calib_digest"), json_at(last, "calib_digest")));
	assert_true(json_equal(json_at(first, "samples"), json_at(last, "samples")));
	assert_non_null(strstr(process.err, "| `similar`, text 2 |"));
	assert_non_null(strstr(process.err, "not among those to search on"));
	json_decref(study);
	process_free(&process);
}

/*
 * No pair passes a threshold of 1, and few pass one of 0.99: the walk ends early, which is said once, and is no error.
 * Even if it ends exactly at one of the numbers asked for, the next one has the number it reached.
 */
static void a_walk_that_runs_out_is_said(void **state)
{
	struct process process = run_in_directory(STUDY "--methods similar --threshold 1 --json", 120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *points = json_at(json_array_get(json_at(study, "rows"), 0), "points");

	(void)state;
	assert_true(json_number_at(json_array_get(points, 0), "shared") == 0);
	assert_true(json_number_at(json_array_get(points, 1), "shared") == 0);
	json_decref(study);
	process_free(&process);
	process = run_in_directory(STUDY
		"--methods similar --threshold 0.99 --rates 0.125,0.25,0.375,0.5,0.75 --json >$T/j && "
		"grep -c 'reached' $T/s/study.md >&2; grep -c '<svg' $T/s/loss.svg >&2; cat $T/j",
		120);
	study = json_loads(process.out, 0, NULL);
	points = json_at(json_array_get(json_at(study, "rows"), 0), "points");
	double reached = json_number_at(json_array_get(points, json_array_size(points) - 1), "shared");
	for (size_t p = 0; p < json_array_size(points); p++) {
		double share = json_number_at(json_array_get(points, p), "share"),
		       shared = json_number_at(json_array_get(points, p), "shared");
		assert_true(shared == fmin(share, reached));
	}
	assert_true(reached == 2);
	json_decref(study);
	process_free(&process);
}

static void two_studies_do_not_share_a_directory(void **state)
{
	struct process process = run_in_directory("mkdir $T/s; flock $T/s sleep 30 & lock=$!; sleep 0.3; " STUDY
						  "--methods adjacent; status=$?; kill $lock; ls $T/s; exit $status",
		60);

	(void)state;
	assert_int_equal(process.status, 1);
	assert_non_null(strstr(process.err, "another study is running there"));
	assert_string_equal(process.out, "");
	process_free(&process);
}

/* ---- bad input ---- */

static const struct bad_input inputs[] = {
	{"no text", "kvshare-run study -m $T/m --calib x -o $T/s", 2, "--text FILE"},
	{"no calibration text", "kvshare-run study -m $T/m --text x -o $T/s", 2, "--calib FILE"},
	{"no output", "kvshare-run study -m $T/m --text x --calib x", 2, "-o DIR"},
	{"an unknown method", "$S --methods nll,luck", 2, "luck"},
	{"a rate of all", "$S --rates 1", 2, "--rates is \"1\""},
	{"a rate of nothing", "$S --rates 0.01", 1, "less than one layer"},
	{"a rate of nearly all", "$S --rates 0.99", 1, "16 layers should share"},
	{"too many rates", "$S --rates .1,.2,.3,.4,.5,.6,.7,.8,.9", 2, "8 are the most"},
	{"no seeds", "$S --seeds 0", 2, "--seeds"},
	{"a plan", "$S --owners 0", 2, "--owners"},
	{"a file for a directory", "echo >$T/s; $S", 1, "is not a directory"},
	{"a directory that cannot be made", "$S -o $T/no/s", 1, "no/s"},
	{"a model that is not there",
		"kvshare-run study -m $T/no --text $T/text --calib $T/calib -o $T/s; ls $T/s 2>/dev/null; false", 1,
		"no"},
	{"two texts from standard input", "kvshare-run study -m $T/m --text - --calib - -o $T/s </dev/null", 2,
		"only one text"},
	{"the same text twice", "$S --text $T/calib", 1, "both searched and measured on"},
	{"the same text to search with twice", "cp $T/calib $T/c; $S --calib $T/c", 1, "is the same text as"},
	{"too many texts", "$S --calib a --calib b --calib c --calib d", 2, "4 texts are the most"},
	{"a text that is not there", "rm $T/text; $S", 1, "text"},
	{"an empty text", "echo >$T/text; $S", 1, "/text: the text has "},
	{"a short calibration text", "head -c 40 $T/text >$T/calib; $S", 1, "/calib: the text has "},
	{"a study that is no JSON", "mkdir $T/s; echo '{' >$T/s/study.json; $S", 1, "study.json: "},
	{"a file that is no study", "mkdir $T/s; echo '{}' >$T/s/study.json; $S", 1, "is no study of this version"},
	{"another study", "mkdir $T/s; cp $T/study.json $T/s; $S --sample-tokens 9", 1,
		"its sample_tokens is 8, here it is 9"},
	{"owners that are no plan", "mkdir $T/s; sed 's/^ *3,$/9,/' $T/study.json >$T/s/study.json; $S", 1,
		"rows[0] is damaged"},
	{"a figure that is none", "mkdir $T/s; sed 's/\"kl\": [^,]*/\"kl\": null/' $T/study.json >$T/s/study.json; $S",
		1, "rows[0] is damaged"},
	{"a row twice",
		"mkdir $T/s; sed 's/^ \"rows\": \\[$/ \"rows\": [ROW,/' $T/study.json | "
		"sed \"s/ROW/$(tr -d '\n' <$T/study.json | sed 's/.*\"rows\": .//; s/ .,  *\"not_run\".*//')/\" "
		">$T/s/study.json; "
		"$S",
		1, "rows[1] is damaged"},
	{"fewer borrowers than it says", "mkdir $T/s; sed 's/^ *13,$/      14,/' $T/study.json >$T/s/study.json; $S", 1,
		"rows[0] is damaged"},
	{"a seed where there is none",
		"mkdir $T/s; sed 's/\"seed\": 0/\"seed\": 1/' $T/study.json >$T/s/study.json; $S", 1,
		"rows[0] is damaged"},
	{"a study of a model that computes otherwise",
		"mkdir $T/s; sed '0,/\"nll\": [0-9.]*/s//\"nll\": 9.5/' $T/study.json >$T/s/study.json; $S --methods "
		"similar",
		1, "lost 9.5 when the study began"},
	{"damaged weights",
		"head -c 2000000 /dev/zero | tr '\\0' '\\377' | dd of=$T/m/model.safetensors conv=notrunc bs=1000000 "
		"seek=3 2>/dev/null; $S",
		1, "not a number"},
};

/* $T/m is a model, $T/text and $T/calib are texts, $T/study.json a study of them; $S would go on with it in $T/s. */
static void check_input(const struct bad_input *input, const char *study)
{
	char command[4096];

	snprintf(command, sizeof(command),
		"cp -r " MODEL " $T/m; head -c 400 " MODEL "/heldout.txt >$T/text; head -c 200 " MODEL
		"/calib.txt >$T/calib; cp %s $T/study.json; "
		"S=\"kvshare-run study -m $T/m --text $T/text --calib $T/calib -o $T/s -q " SMALL
		"--methods adjacent\"; (%s); status=$?; [ -e $T/s/study.md ] && echo study.md; "
		"ls $T/s 2>/dev/null | grep 'json\\.'; exit $status",
		study, input->command);
	assert_refused(input, command);
}

static void bad_input_is_named_and_leaves_what_there_was(void **state)
{
	char path[] = "/tmp/kvs-study-XXXXXX", command[1024];
	int fd = mkstemp(path);
	struct process process;

	(void)state;
	assert_true(fd >= 0);
	snprintf(command, sizeof(command),
		"head -c 400 " MODEL "/heldout.txt >$T/text; head -c 200 " MODEL "/calib.txt >$T/calib; "
		"kvshare-run study -m " MODEL " --text $T/text --calib $T/calib -o $T/s -q " SMALL
		"--methods adjacent --json >%s",
		path);
	process = run_in_directory(command, 60);
	assert_int_equal(process.status, 0);
	process_free(&process);
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		check_input(&inputs[i], path);
	remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(figures_are_those_of_eval),
		cmocka_unit_test(a_study_in_pieces_is_a_study_in_one),
		cmocka_unit_test(a_finished_study_keeps_its_order),
		cmocka_unit_test(other_texts_are_searched_too),
		cmocka_unit_test(a_walk_that_runs_out_is_said),
		cmocka_unit_test(two_studies_do_not_share_a_directory),
		cmocka_unit_test(bad_input_is_named_and_leaves_what_there_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
