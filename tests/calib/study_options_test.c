/*
 * tests/calib/study_options_test.c: what a study takes beside its two texts: trials of an earlier search, methods to vary, further texts, a prompt.
 * With none of these options it is what it was before.
 */
#include "../../calib/calib.h"
#include "../support/process.h"

#include <errno.h>
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
#define CUT "--samples 2 --sample-tokens 8 --held-tokens 16 --ctx 16 --kv-dtype f32 -q "
#define TEXTS "head -c 200 " MODEL "/calib.txt >$T/calib; "
#define STUDY                                                                                                          \
	"kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib $T/calib -o $T/s " CUT                    \
	"--max-tokens 32 --seeds 2 --rates 0.125,0.25 "
#define SEARCH "kvshare-run calibrate -m " MODEL " --text $T/calib --method nll --rate 0.25 -o $T/p.json " CUT

/* ---- trials ---- */

/* The plan of `SEARCH`, with its trials, in a file of its own, whose path goes to `path`. */
static json_t *search(char *path)
{
	char command[512];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	snprintf(command, sizeof(command), TEXTS SEARCH ">/dev/null && cat $T/p.json");
	return run_json_in_directory(command);
}

static json_t *trials_of(json_t *plan)
{
	return json_object_get(json_object_get(plan, "calibration"), "trials");
}

/* What a study of nll gives with the trials of `plan`, which goes to `path`; NULL: without any. */
static json_t *study_with(const json_t *plan, const char *path)
{
	char command[1024];
	struct process process;
	json_t *study;

	if (plan)
		assert_int_equal(json_dump_file(plan, path, 0), 0);
	snprintf(command, sizeof(command), TEXTS STUDY "--methods nll --vary none --json %s %s", plan ? "--trials" : "",
		plan ? path : "");
	process = run_in_directory(command, 60);
	if (process.status)
		fail_msg("%s", process.err);
	study = json_loads(process.out, 0, NULL);
	process_free(&process);
	return study;
}

/* The pair that the search took first looks expensive. */
static void falsify(json_t *trials)
{
	size_t first = 0;

	while (!json_is_true(json_at(json_array_get(trials, first), "accepted")))
		first++;
	for (size_t i = 0; i < json_array_size(trials); i++)
		if (json_equal(json_at(json_array_get(trials, i), "layer"),
			    json_at(json_array_get(trials, first), "layer")))
			json_object_set_new(json_array_get(trials, i), "nll", json_real(99));
}

/*
 * The result is the same to the last bit with all trials and with a part of them. That they are believed, and not run
 * again, shows if they are falsified: the plans are others.
 */
static void trials_are_taken_and_change_nothing(void **state)
{
	char path[] = "/tmp/kvs-trials-XXXXXX";
	json_t *plan = search(path), *trials = trials_of(plan), *half, *without = study_with(NULL, path), *with;

	(void)state;
	with = study_with(plan, path);
	assert_true(json_equal(without, with));
	json_decref(with);
	half = json_deep_copy(plan);
	while (json_array_size(trials_of(half)) > json_array_size(trials) / 2)
		json_array_remove(trials_of(half), json_array_size(trials_of(half)) - 1);
	with = study_with(half, path);
	assert_true(json_equal(without, with));
	json_decref(with);
	json_decref(half);
	falsify(trials);
	with = study_with(plan, path);
	assert_false(json_equal(without, with));
	json_decref(with);
	json_decref(without);
	json_decref(plan);
	remove(path);
}

/* ---- methods that are varied ---- */

static size_t count_rows(const json_t *study, const char *method)
{
	const json_t *rows = json_at(study, "rows");
	size_t count = 0;

	for (size_t i = 0; i < json_array_size(rows); i++)
		count += !strcmp(json_string_value(json_at(json_array_get(rows, i), "method")), method);
	return count;
}

/* By default similar and not random; a study goes on with others, and keeps what it had. */
static void methods_are_varied_as_asked(void **state)
{
	struct process process = run_in_directory(TEXTS STUDY
		"--methods similar,random --json >$T/1 && " STUDY
		"--methods similar,random --vary random >$T/md && " STUDY
		"--methods similar,random --vary none --json >$T/2 && cmp $T/s/study.json $T/2 && rm -r $T/s && " STUDY
		"--methods similar,random --vary none --json >$T/3 && cat $T/md >&2 && ! grep -q 'How much' "
		"$T/s/study.md "
		"&& { echo '['; cat $T/1; echo ,; cat $T/2; echo ,; cat $T/3; echo ']'; }",
		120);
	json_t *all = json_loads(process.out, 0, NULL);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_int_equal(count_rows(json_array_get(all, 0), "similar"), 2);
	assert_int_equal(count_rows(json_array_get(all, 0), "random"), 2);
	assert_int_equal(count_rows(json_array_get(all, 1), "similar"), 2);
	assert_int_equal(count_rows(json_array_get(all, 1), "random"), 4);
	assert_int_equal(count_rows(json_array_get(all, 2), "similar"), 1);
	assert_int_equal(count_rows(json_array_get(all, 2), "random"), 2);
	assert_non_null(strstr(process.err, "| `similar`, 1 sample |"));
	assert_non_null(strstr(process.err, "| `random`, 1 sample |"));
	json_decref(all);
	process_free(&process);
}

/* A study of one search says what its plans lose, and has nothing on what was not compared: no section, no chart, no amounts "not run". */
static void one_search_is_compared_with_nothing(void **state)
{
	json_t *study = run_json_in_directory(
		TEXTS STUDY "--methods similar --samples 1 --vary none --json >$T/1 && "
			    "grep -q 'The plan of `similar` loses [+-]' $T/s/study.md && ! grep -q 'depends on\\|^Not "
			    "' $T/s/study.md && "
			    "[ -e $T/s/loss.svg ] && ! [ -e $T/s/samples.svg ] && ! [ -e $T/s/texts.svg ] && cat $T/1");

	(void)state;
	assert_int_equal(json_array_size(json_at(study, "not_run")), 0);
	json_decref(study);
}

/* Which plans come out of a search by loss does not depend on the walks' threshold, so neither does whether its trials fit. */
static void trials_by_loss_fit_any_threshold(void **state)
{
	struct process process = run_in_directory(TEXTS SEARCH
		">/dev/null && " STUDY
		"--methods similar,nll --vary none --threshold 0.3 --trials $T/p.json >/dev/null",
		60);

	(void)state;
	if (process.status)
		fail_msg("%s", process.err);
	process_free(&process);
}

/* ---- further texts ---- */

/* The figure of `eval` for the point's plan. */
static void check_text(const json_t *point, const char *text, int window_tokens, double nll)
{
	char *owners = json_dumps(json_at(point, "k_owners"), JSON_COMPACT), command[1024];
	json_t *eval;

	owners[strlen(owners) - 1] = 0;
	snprintf(command, sizeof(command),
		"kvshare-run eval -m " MODEL " --text %s --ctx %d --max-tokens 33 --kv-dtype f32 --json --owners %s",
		text, window_tokens, owners + 1);
	eval = run_json(command);
	if (fabs(json_number_at(eval, "nll") - nll) > 1e-4)
		fail_msg("%s in windows of %d: eval has %.6f, the study %.6f", text, window_tokens,
			json_number_at(eval, "nll"), nll);
	json_decref(eval);
	free(owners);
}

static double nll_of(const json_t *object, size_t text)
{
	return json_number_at(json_array_get(json_at(object, "also"), text), "nll");
}

/* A line of study.md of two further texts and, with matrices, the text held back. */
static void check_line(const char *markdown, const char *name, const json_t *study, const json_t *point,
	const char *fit_key, const json_t *fit)
{
	const json_t *full = json_at(study, "full");
	char line[256];

	snprintf(line, sizeof(line), "| %s | %+.4f | %+.4f | %+.4f | %+.4f |", name,
		json_number_at(point, "nll") - json_number_at(full, "nll"), nll_of(point, 0) - nll_of(full, 0),
		nll_of(point, 1) - nll_of(full, 1), json_number_at(fit, fit_key) - json_number_at(full, "held_nll"));
	if (!strstr(markdown, line))
		fail_msg("study.md lacks \"%s\":\n%s", line, markdown);
}

#define FURTHER                                                                                                        \
	TEXTS "cp LICENSE $T/a_b; kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib " MODEL          \
	      "/calib.txt -o $T/s --samples 4 --ctx 16 --kv-dtype f32 -q --max-tokens 32 --rates 0.25 --vary none "    \
	      "--also $T/a_b --also-ctx 32 "

/* Figures of further texts are those of eval; in pieces the study is the same, and none goes on without its texts. */
static void plans_are_measured_on_further_texts(void **state)
{
	struct process process = run_in_directory(FURTHER
		"--methods adjacent,merge --compensate o >$T/md || exit 10; " FURTHER
		"--methods adjacent --compensate o --json >$T/again || exit 11; cmp $T/again $T/s/study.json || exit "
		"12; "
		"mv $T/s $T/one; " FURTHER "--methods adjacent >/dev/null || exit 13; " FURTHER
		"--methods adjacent,merge --compensate o >/dev/null || exit 14; for d in one s; do "
		"sed 's/\"cpu_s\": .*//; s/\"peak_bytes\": .*//' $T/$d/study.json >$T/$d.json; done; cmp $T/one.json "
		"$T/s.json || exit "
		"15; " FURTHER "--also docs/plans.md --methods adjacent 2>$T/err && exit 16; grep -q 'its also is' "
		"$T/err || exit 17; " TEXTS "kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib " MODEL
		"/calib.txt -o $T/s --samples 4 --ctx 16 --kv-dtype f32 -q --max-tokens "
		"32 --rates 0.25 2>$T/err && exit 18; "
		"grep -q 'its also is .*, here it is missing' $T/err || exit 19; cat $T/md >&2; cat $T/again",
		120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *rows, *point, *with;

	(void)state;
	if (process.status)
		fail_msg("status %d: %s", process.status, process.err);
	rows = json_at(study, "rows");
	assert_int_equal(json_array_size(rows), 3);
	point = json_array_get(json_at(json_array_get(rows, 0), "points"), 0);
	with = json_array_get(json_at(json_array_get(rows, 1), "points"), 0);
	check_text(point, "LICENSE", 16, nll_of(point, 0));
	check_text(point, MODEL "/heldout.txt", 32, nll_of(point, 1));
	check_line(
		process.err, "neighbours, spread (CLA): `adjacent`", study, point, "plain_nll", json_at(with, "fit"));
	check_line(process.err, "neighbours, spread (CLA): `adjacent`, W_o", study, with, "nll", json_at(with, "fit"));
	assert_null(json_object_get(json_array_get(json_at(json_array_get(rows, 2), "points"), 0), "also"));
	assert_non_null(strstr(process.err, "| a\\_b | the text measured on, windows of 32 |"));
	assert_non_null(strstr(process.err, " | - | - | - |"));
	json_decref(study);
	process_free(&process);
}

/* As the text to measure on is, of which fewer tokens than a window may be asked for. */
static void a_text_shorter_than_a_window_is_one_window(void **state)
{
	json_t *study = run_json_in_directory(
		TEXTS "kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib $T/calib -o $T/s "
		      "--samples 2 --sample-tokens 8 --ctx 64 --max-tokens 32 --rates 0.25 --vary none --methods "
		      "adjacent --also LICENSE --json -q");

	(void)state;
	assert_int_equal(
		json_number_at(json_array_get(json_at(json_at(study, "settings"), "also"), 0), "measured_tokens"), 32);
	json_decref(study);
}

/* ---- a prompt ---- */

static void check_sample(const json_t *object, const char *owners)
{
	char command[512];
	struct process process;

	snprintf(command, sizeof(command),
		"kvshare-run generate -m " MODEL " -p 'The *king*' -n 12 --kv-dtype f32 -q %s %s",
		*owners ? "--owners" : "", owners);
	process = run_in_directory(command, 30);
	if (strncmp(process.out, json_string_value(json_at(object, "sample")), strlen(process.out) - 1))
		fail_msg("generate: %s, study: %s", process.out, json_string_value(json_at(object, "sample")));
	process_free(&process);
}

#define PROMPTED TEXTS STUDY "--vary none --prompt 'The *king*' --prompt-tokens 12 "

/* Texts are those of `generate`; in pieces the study is the same, and it does not go on with another prompt. */
static void models_go_on_with_a_prompt(void **state)
{
	struct process process = run_in_directory(PROMPTED
		"--methods similar,random,adjacent,merge >$T/md || exit 10; cp $T/s/study.json $T/1; rm -r "
		"$T/s; " PROMPTED "--methods adjacent >/dev/null || exit 11; " PROMPTED
		"--methods random,similar,adjacent,merge >/dev/null || exit 12; cmp $T/1 $T/s/study.json || exit 13; "
		"sed -i 's/\"sample\"/\"simple\"/' $T/s/study.json; " PROMPTED "2>$T/err && exit 14; "
		"grep -q 'full is damaged' $T/err || exit 15; cp $T/1 $T/s/study.json; " PROMPTED
		"--prompt The 2>$T/err && exit 16; grep -q 'its prompt is' $T/err || exit 17; cat $T/md >&2; cat $T/1",
		120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *rows;
	size_t samples = 0;

	(void)state;
	if (process.status)
		fail_msg("status %d: %s", process.status, process.err);
	rows = json_at(study, "rows");
	check_sample(json_at(study, "full"), "");
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *point = json_array_get(json_at(json_array_get(rows, i), "points"), 1);
		char *owners = json_dumps(json_at(point, "k_owners"), JSON_COMPACT);
		owners[strlen(owners) - 1] = 0;
		if (json_object_get(point, "sample")) {
			check_sample(point, owners + 1);
			samples++;
		}
		free(owners);
	}
	assert_int_equal(samples, 2); /* similar and adjacent */
	assert_non_null(strstr(process.err, "after: The \\*king\\*"));
	assert_non_null(strstr(process.err, "| prompt | The \\*king\\* |"));
	assert_non_null(strstr(process.err, "| neighbours, spread (CLA) | "));
	json_decref(study);
	process_free(&process);
}

/* ---- plans that were given ---- */

#define GIVEN                                                                                                          \
	"kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib " MODEL "/calib.txt -o $T/s "             \
	"--samples 4 --ctx 16 --kv-dtype f32 -q --max-tokens 32 --rates 0.25 --vary none --methods adjacent "          \
	"--also LICENSE --prompt 'The *king*' --prompt-tokens 12 "
#define REFITTED                                                                                                       \
	"kvshare-run calibrate -q -m " MODEL " --text " MODEL "/calib.txt --samples 24 --ctx 64 --held-tokens 256 "    \
	"--method kvsharer --order random:3 --threshold -1 --share 4 --compensate --refit o -o $T/a.json >/dev/null; "
#define OTHER "kvshare-run plan convert --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,5 --to json -o $T/b.json; "

/* What `eval` says of the plan with its matrices. */
static void check_with_matrices(const json_t *point)
{
	json_t *eval = run_json_in_directory(
		REFITTED "kvshare-run eval -m " MODEL " --text " MODEL
			 "/heldout.txt --ctx 16 --max-tokens 33 --kv-dtype f32 --json --plan $T/a.json");

	assert_float_equal(json_number_at(eval, "nll"), json_number_at(point, "nll"), 1e-4);
	json_decref(eval);
}

/* Alone, and with the matrices that lie beside it; a study that was begun with them goes on with the same ones alone. */
static void plans_of_ones_own_are_measured_too(void **state)
{
	struct process process = run_in_directory(REFITTED OTHER GIVEN
		"--plan $T/a.json --plan $T/b.json --json >$T/1 || exit 10; " GIVEN
		"--plan $T/a.json --plan $T/b.json >$T/md || exit 11; cmp $T/1 $T/s/study.json || exit 12; " GIVEN
		"--plan $T/a.json 2>$T/err && exit 13; grep -q 'its plans is' $T/err || exit 14; "
		"sed -i '/\"plans\": \\[/,$s/\"k_owners\"/\"k\"/' $T/s/study.json; " GIVEN
		"--plan $T/a.json --plan $T/b.json 2>$T/err && exit 15; grep -q 'plans is damaged' $T/err || exit 16; "
		"cat $T/md >&2; cat $T/1",
		120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *plans, *a, *b;

	(void)state;
	if (process.status)
		fail_msg("status %d: %s", process.status, process.err);
	plans = json_at(study, "plans");
	a = json_array_get(plans, 0);
	b = json_array_get(plans, 1);
	check_with_matrices(json_at(a, "with_matrices"));
	check_text(json_at(a, "alone"), MODEL "/heldout.txt", 16, json_number_at(json_at(a, "alone"), "nll"));
	check_text(json_at(a, "alone"), "LICENSE", 16, nll_of(json_at(a, "alone"), 0));
	check_text(json_at(b, "alone"), MODEL "/heldout.txt", 16, json_number_at(json_at(b, "alone"), "nll"));
	assert_null(json_object_get(b, "with_matrices"));
	check_sample(json_at(b, "alone"), "0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,5");
	assert_non_null(strstr(process.err, "| a.json, with its matrices | 4 | 75.0 % |"));
	json_decref(study);
	process_free(&process);
}

/* ---- bad input ---- */

static const struct bad_input inputs[] = {
	{"trials that are not there", "$S --trials $T/no.json", 1, "no.json"},
	{"trials of other samples", "$S --trials $T/p.json --samples 3", 1,
		"p.json: its trials are of none of the study's searches; of nll: the plan's search cannot be resumed: "
		"its "
		"samples is 2, this search's is 3"},
	{"trials of another text", "echo more >>$T/calib; $S --trials $T/p.json", 1, "its text_digest is"},
	{"trials of another method", "$N --methods similar --trials $T/p.json", 1, "its method is \"nll\""},
	{"other windows, said of the row of that method", "$S --methods similar,nll --ctx 8 --trials $T/p.json", 1,
		"of nll: the plan's search cannot be resumed: its windows is 1"},
	{"a plan that is not there", "$S --plan $T/no.json", 1, "no.json"},
	{"a plan of other layers", "kvshare-run plan convert --owners 0,0 --to json -o $T/q.json; $S --plan $T/q.json",
		1, "q.json: plan has 2 layers"},
	{"trials for no search", "$N --methods random,adjacent --trials $T/p.json", 1, "there is no search to take"},
	{"trials of another model", "sed -i 's/\"fingerprint\": *\"./&0/' $T/p.json; $S --trials $T/p.json", 1,
		"p.json: "},
	{"a plan without trials",
		"echo '{\"kvshare_plan\": 1, \"layers\": 16, \"k_owners\": [0,1,2,3,4,5,6,7,8,9,10,11,12,"
		"13,14,14], \"v_owners\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,14]}' >$T/q; $S --trials $T/q",
		1, "q: "},
	{"damaged trials", "sed -i 's/\"layer\": *1,/\"layer\": 99,/' $T/p.json; $S --trials $T/p.json", 1,
		"p.json: calibration.trials of the plan is damaged"},
	{"damaged trials that fit one row of two",
		"sed -i 's/\"layer\": *1,/\"layer\": 99,/' $T/p.json; $S --methods similar,nll --trials $T/p.json", 1,
		"p.json: calibration.trials of the plan is damaged"},
	{"a further text that is not there", "$S --also $T/no", 1, "no"},
	{"a further text that is too short", "echo >$T/x; $S --also $T/x", 1, "x: the text has "},
	{"a further text with no whole window", "echo one two three four five six >$T/x; $S --ctx 64 --also $T/x", 1,
		"x: the text has "},
	{"a further text that was searched on", "cp $T/calib $T/x; $S --also $T/x", 1, "is the same text as"},
	{"a further text that is measured on", "$S --also " MODEL "/heldout.txt", 1, "is the same text as"},
	{"a further text twice", "cp LICENSE $T/x; $S --also LICENSE --also $T/x", 1, "is the same text as"},
	{"too many further texts", "$S --also a --also b --also c --also d", 2, "3 texts are the most"},
	{"two texts from standard input", "$S --text - --also - </dev/null", 2, "only one text"},
	{"windows longer than the model's positions", "$S --also-ctx 4096", 1, "the model has 2048 positions"},
	{"windows longer than the text", "head -c 400 " MODEL "/heldout.txt >$T/x; $S --text $T/x --also-ctx 1024", 1,
		"a window takes 1024"},
	{"the same windows", "$S --also-ctx 16", 1, "in windows of 16 tokens anyhow"},
	{"no windows", "$S --also-ctx 1", 2, "--also-ctx"},
	{"an empty prompt", "$S --prompt ''", 1, "the prompt is empty"},
	{"a prompt that is no text", "$S --prompt $(printf '\\377')", 1, "is not UTF-8"},
	{"more text than the model has positions", "$S --prompt a --prompt-tokens 2048", 1,
		"the model has 2048 positions"},
	{"no text", "$S --prompt a --prompt-tokens 0", 2, "--prompt-tokens"},
	{"too many trials", "$S --trials a --trials b --trials c --trials d --trials e", 2, "4 plans are the most"},
	{"an unknown method to vary", "$S --vary luck", 2, "--vary is \"luck\""},
	{"a method to vary that is not run", "$S --vary similar", 2, "not among --methods"},
};

/* $T/p.json is a plan with its trials; $S would run a study of nll in $T/s, and $N is without methods. */
static void check_input(const struct bad_input *input, const char *plan)
{
	char command[4096];

	snprintf(command, sizeof(command),
		TEXTS "cp %s $T/p.json; N=\"" STUDY
		      "\"; S=\"$N --methods nll\"; (%s); status=$?; [ -e $T/s ] && ls $T/s; exit $status",
		plan, input->command);
	assert_refused(input, command);
}

/* The command line has a number of its own. */
static void a_prompt_without_a_number_of_tokens_is_refused(void **state)
{
	static char text[4096];
	FILE *file = fopen(MODEL "/calib.txt", "rb");
	struct kvs_study_options options = {.text = {"upper half", text + sizeof(text) / 2, sizeof(text) / 2},
		.calib = {{"lower half", text, sizeof(text) / 2}},
		.calib_count = 1,
		.cut = {.samples = 2, .sample_tokens = 8, .held_tokens = 16, .window_tokens = 16},
		.text_tokens = 32,
		.prompt = "The",
		.prompt_tokens = 1};
	kvs_checkpoint *ckpt;
	kvs_tokenizer *tok;
	kvs_study *study;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &options.cu), 0);
	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text), file), sizeof(text));
	fclose(file);
	assert_int_equal(kvs_checkpoint_open(MODEL, &ckpt), 0);
	assert_int_equal(kvs_tokenizer_open(MODEL, &tok), 0);
	if (kvs_study_create(ckpt, tok, &options, &study))
		fail_msg("%s", kvs_error());
	kvs_study_free(study);
	for (options.prompt_tokens = 0; options.prompt_tokens > -2; options.prompt_tokens--) {
		assert_int_equal(kvs_study_create(ckpt, tok, &options, &study), -EINVAL);
		assert_non_null(strstr(kvs_error(), "tokens should follow the prompt: 1 or more"));
	}
	kvs_tokenizer_close(tok);
	kvs_checkpoint_close(ckpt);
	kvs_cu_close(options.cu);
}

static void bad_input_is_named_before_anything_is_made(void **state)
{
	char path[] = "/tmp/kvs-trials-XXXXXX";
	json_t *plan = search(path);

	(void)state;
	assert_int_equal(json_dump_file(plan, path, 0), 0);
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		check_input(&inputs[i], path);
	json_decref(plan);
	remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trials_are_taken_and_change_nothing),
		cmocka_unit_test(methods_are_varied_as_asked),
		cmocka_unit_test(one_search_is_compared_with_nothing),
		cmocka_unit_test(trials_by_loss_fit_any_threshold),
		cmocka_unit_test(a_text_shorter_than_a_window_is_one_window),
		cmocka_unit_test(plans_of_ones_own_are_measured_too),
		cmocka_unit_test(plans_are_measured_on_further_texts),
		cmocka_unit_test(models_go_on_with_a_prompt),
		cmocka_unit_test(a_prompt_without_a_number_of_tokens_is_refused),
		cmocka_unit_test(bad_input_is_named_before_anything_is_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
