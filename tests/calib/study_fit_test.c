/*
 * tests/calib/study_fit_test.c: `kvshare-run study --compensate` as a user runs it: its figures are those of `calibrate
 * --compensate` and `eval`, rows without matrices stay as they were, a stopped study ends like one that was not, bad
 * input changes nothing.
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
#define HELD "--held-tokens 64 --ctx 32 --kv-dtype f32 -q "
#define CUT "--samples 8 " HELD
#define STUDY                                                                                                          \
	"kvshare-run study -m " MODEL " --text " MODEL "/heldout.txt --calib " MODEL "/calib.txt -o $T/s " CUT         \
	"--max-tokens 64 --rates 0.25 "
/* What two runs do not have in common: the time and memory of fits. */
#define WITHOUT_TIME(FROM, TO)                                                                                         \
	"sed 's/\"cpu_s\": .*//; s/\"peak_bytes\": .*//' " FROM "/study.json >" TO                                     \
	".json; sed '/^### The time and memory of a fit/,/^## /d' " FROM "/study.md >" TO ".md; "

/* "" of a row without matrices. */
static const char *fit_of(const json_t *row)
{
	const char *name = json_string_value(json_object_get(row, "compensate"));

	return name ? name : "";
}

static const json_t *find(const json_t *study, const char *fit, int samples)
{
	const json_t *rows = json_at(study, "rows");

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);
		if (!strcmp(fit_of(row), fit) && json_integer_value(json_at(row, "samples")) == samples)
			return row;
	}
	fail_msg("no row with \"%s\" and %d samples", fit, samples);
	return NULL;
}

/* ---- figures ---- */

static int skips_of(const json_t *compensation)
{
	const json_t *layers = json_at(compensation, "layers");
	int count = 0;

	for (size_t i = 0; i < json_array_size(layers); i++)
		count += !strcmp(json_string_value(json_at(json_array_get(layers, i), "matrix")), "skip_a");
	return count;
}

/*
 * The same plan, fitted by calibrate and measured by eval. Where the matrices do not help, calibrate writes none, and
 * eval has the loss of the plan alone. Returns how many layers have a skip.
 */
static int check_against_eval(
	const json_t *study, const char *kind, int samples, const char *options, const char *fitted_on, int tokens)
{
	const json_t *point = json_array_get(json_at(find(study, kind, samples), "points"), 0),
		     *fit = json_at(point, "fit");
	const json_t *alone = json_array_get(json_at(find(study, "", samples), "points"), 0), *eval, *done;
	char *owners = json_dumps(json_at(point, "k_owners"), JSON_COMPACT), command[2048];
	bool applied = json_is_true(json_at(fit, "applied"));
	struct process process;
	json_t *both;
	int skips;

	snprintf(command, sizeof(command),
		"echo '{\"kvshare_plan\": 1, \"layers\": 16, \"k_owners\": %s, \"v_owners\": %s}' >$T/p.json; echo "
		"'['; "
		"kvshare-run calibrate -m " MODEL " --text " MODEL "/calib.txt " HELD
		"--compensate --plan $T/p.json -o $T/q.json %s %s --json; echo ','; "
		"kvshare-run eval -m " MODEL " --text " MODEL
		"/heldout.txt --ctx 32 --max-tokens 65 --kv-dtype f32 --plan $T/q.json --json && echo ']'",
		owners, owners, options, fitted_on);
	process = run_in_directory(command, 120);
	assert_int_equal(process.status, 0);
	both = json_loads(process.out, 0, NULL);
	done = json_at(json_array_get(both, 0), "compensation");
	eval = json_array_get(both, 1);
	if (fabs(json_number_at(eval, "nll") - json_number_at(applied ? point : alone, "nll")) > 1e-4)
		fail_msg("%s: eval has %.6f, the study %.6f", options, json_number_at(eval, "nll"),
			json_number_at(point, "nll"));
	assert_true(fabs(json_number_at(done, "plain_nll") - json_number_at(fit, "plain_nll")) < 1e-4);
	assert_true(fabs(json_number_at(done, "nll") - json_number_at(fit, "nll")) < 1e-4);
	assert_true(json_is_true(json_at(done, "applied")) == applied);
	assert_true(applied == (json_number_at(fit, "nll") < json_number_at(fit, "plain_nll")));
	assert_int_equal(json_number_at(fit, "matrices"), json_array_size(json_at(done, "layers")));
	assert_true(json_number_at(fit, "cpu_s") > 0 && json_number_at(fit, "tokens") == tokens);
	assert_true(json_number_at(fit, "peak_bytes") > 0 && json_number_at(fit, "peak_bytes") < 1e9);
	skips = skips_of(done);
	json_decref(both);
	process_free(&process);
	free(owners);
	return skips;
}

/* No command makes these matrices. They are of the same plan, with its bytes, and three for each of the four layers. */
static void check_linear(const json_t *study)
{
	const json_t *point = json_array_get(json_at(find(study, "linear", 8), "points"), 0),
		     *fit = json_at(point, "fit");
	const json_t *all = json_array_get(json_at(find(study, "all", 8), "points"), 0);

	assert_true(json_equal(json_at(point, "k_owners"), json_at(all, "k_owners")));
	assert_true(json_number_at(point, "kv_token_bytes") == json_number_at(all, "kv_token_bytes"));
	assert_true(json_number_at(point, "nll") != json_number_at(all, "nll"));
	assert_true(json_number_at(fit, "plain_nll") == json_number_at(json_at(all, "fit"), "plain_nll"));
	assert_true(json_number_at(fit, "matrices") >= 3 * 4);
	assert_true(json_number_at(fit, "nll") < json_number_at(fit, "plain_nll") + 1);
}

/* A loss in the table; a star for matrices that do not help on the held-back text. */
static void add_cell(char *line, size_t size, const json_t *study, const char *kind)
{
	const json_t *point = json_array_get(json_at(find(study, kind, 8), "points"), 0);
	const json_t *fit = json_object_get(point, "fit");
	size_t used = strlen(line);

	snprintf(line + used, size - used, " %+.4f%s |",
		json_number_at(point, "nll") - json_number_at(json_at(study, "full"), "nll"),
		fit && !json_is_true(json_at(fit, "applied")) ? "*" : "");
}

static void check_words(const char *markdown, const json_t *study)
{
	char line[256] = "| dissimilar first (KVSharer): `dissimilar` |";

	for (size_t i = 0; i < 6; i++)
		add_cell(line, sizeof(line), study, (const char *[]){"", "o", "qo", "all", "skip", "linear"}[i]);
	if (!strstr(markdown, line))
		fail_msg("study.md lacks \"%s\":\n%s", line, markdown);
	assert_non_null(strstr(markdown, "| `dissimilar`, 896 tokens |"));
	assert_non_null(strstr(markdown, " MB |"));
	assert_non_null(strstr(markdown, "Not compensated: 3 samples: compensation fits matrices of 128 columns"));
	assert_non_null(strstr(markdown, "compensated-dissimilar.svg <==\n<svg"));
}

/*
 * Rows without matrices are those of the study that has none, to the last digit; each kind of matrices is fitted as
 * calibrate does it; of other amounts of text only those get matrices that are enough, and all of them.
 */
static void figures_are_those_of_calibrate_and_eval(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods dissimilar --json >$T/plain || exit 10; ! grep -q -i compensate $T/plain $T/s/study.md || "
		"exit 11; "
		"rm -r $T/s; " STUDY
		"--methods dissimilar --compensate o,qo --compensate all,skip,linear >&2 || exit 12; "
		"head -c 4 $T/s/*.svg >&2; { echo '['; cat $T/plain; echo ','; cat $T/s/study.json; echo ']'; }",
		300);
	json_t *both = json_loads(process.out, 0, NULL);
	const json_t *plain = json_array_get(both, 0), *study = json_array_get(both, 1);
	const json_t *rows = json_at(study, "rows");
	size_t alone = 0;

	(void)state;
	assert_int_equal(process.status, 0);
	assert_true(json_equal(json_at(plain, "settings"), json_at(study, "settings")));
	for (size_t i = 0; i < json_array_size(rows); i++)
		if (!*fit_of(json_array_get(rows, i)))
			assert_true(
				json_equal(json_array_get(rows, i), json_array_get(json_at(plain, "rows"), alone++)));
	assert_int_equal(alone, json_array_size(json_at(plain, "rows")));
	assert_int_equal(json_array_size(rows), 3 + 5 + 1); /* 3, 8 and 14 samples; matrices with 8, and all with 14 */
	assert_int_equal(json_number_at(json_array_get(json_at(find(study, "all", 14), "points"), 0), "share"), 4);
	check_against_eval(study, "o", 8, "--refit o", "--samples 8", 512);
	check_against_eval(study, "qo", 8, "--refit qo", "--samples 8", 512);
	check_against_eval(study, "all", 8, "", "--samples 8", 512);
	check_against_eval(study, "skip", 8, "--skip auto", "--samples 8", 512);
	check_linear(study);
	check_words(process.err, study);
	json_decref(both);
	process_free(&process);
}

/* With so little text as above no layer takes a skip, and the row is that of all matrices. Here one does, and it is applied. */
static void a_skip_is_that_of_calibrate(void **state)
{
	struct process process = run_in_directory(
		STUDY "--samples 14 --methods dissimilar --compensate all,skip >/dev/null && cat $T/s/study.json", 300);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *skip = json_array_get(json_at(find(study, "skip", 14), "points"), 0), *all;

	(void)state;
	assert_int_equal(process.status, 0);
	all = json_array_get(json_at(find(study, "all", 14), "points"), 0);
	assert_true(json_is_true(json_at(json_at(skip, "fit"), "applied")));
	assert_true(fabs(json_number_at(skip, "nll") - json_number_at(all, "nll")) > 1e-3);
	assert_int_equal(check_against_eval(study, "all", 14, "", "--samples 14", 896), 0);
	assert_true(check_against_eval(study, "skip", 14, "--skip auto", "--samples 14", 896) > 0);
	json_decref(study);
	process_free(&process);
}

/* The plans are those of the search's samples, and only the fit's are others: of other amounts of text so many more or fewer. */
static void a_fit_may_have_samples_of_its_own(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods dissimilar >$T/plain && cp $T/s/study.json $T/without && rm -r $T/s && " STUDY
		"--methods dissimilar --compensate o --compensate all --fit-samples 6x64 >/dev/null && { echo "
		"'['; cat $T/without; echo ','; cat $T/s/study.json; echo ']'; grep Matrices $T/s/study.md >&2; }",
		300);
	json_t *both = json_loads(process.out, 0, NULL);
	const json_t *without = json_array_get(both, 0), *study = json_array_get(both, 1);

	(void)state;
	assert_int_equal(process.status, 0);
	assert_true(json_equal(json_at(find(without, "", 8), "points"), json_at(find(study, "", 8), "points")));
	assert_int_equal(json_number_at(json_at(study, "settings"), "fit_samples"), 6);
	assert_int_equal(json_number_at(json_at(study, "settings"), "fit_sample_tokens"), 64);
	check_against_eval(study, "o", 8, "--refit o", "--fit-samples 6x64", 384);
	check_against_eval(study, "all", 8, "", "--fit-samples 6x64", 384);
	check_against_eval(study, "all", 14, "", "--fit-samples 11x64", 704); /* 14 of 8 samples, so 10.5 of 6 */
	assert_non_null(
		strstr(process.err, "on 384 tokens of the text that it was searched on, in samples spread over it"));
	json_decref(both);
	process_free(&process);
}

/* A layer of theirs that takes one of K and V keeps the other, and so its attention. */
static void no_map_for_plans_that_split(void **state)
{
	struct process process = run_in_directory(
		STUDY "--methods adjacent,dissimilar-split --compensate linear >/dev/null && cat $T/s/study.json", 300);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *rows = json_at(study, "rows");

	(void)state;
	assert_int_equal(process.status, 0);
	assert_int_equal(json_array_size(rows), 2 + 1);
	assert_string_equal(json_string_value(json_at(find(study, "linear", 8), "method")), "adjacent");
	json_decref(study);
	process_free(&process);
}

/* ---- stopping and going on ---- */

/*
 * Plans first, matrices later, with a Ctrl-C between two kinds of them: the same bytes as in one run, except for time.
 */
static void a_study_in_pieces_is_a_study_in_one(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods adjacent --compensate o,all >/dev/null || exit 10; mv $T/s $T/first; " STUDY
		"--methods adjacent >/dev/null || exit 11; " STUDY
		"--methods adjacent --compensate o,all >/dev/null 2>$T/err & pid=$!; "
		"while ! grep -q compensate $T/s/study.json; do sleep 0.02; done; kill -INT $pid; wait $pid; "
		"stopped=$?; [ $stopped = 0 ] || { grep -q 'after 2 of 3 rows' $T/err || exit 12; }; cp "
		"$T/s/study.json $T/then; " STUDY
		"--methods adjacent --compensate o,all >/dev/null || exit 13; " WITHOUT_TIME(
			"$T/first", "$T/1") WITHOUT_TIME("$T/s",
			"$T/2") "cmp $T/1.json $T/2.json && cmp $T/1.md $T/2.md && "
				"cmp $T/first/compensated-adjacent.svg $T/s/compensated-adjacent.svg && cp "
				"$T/s/study.json $T/done && " STUDY "--methods adjacent >/dev/null && cmp $T/done "
				"$T/s/study.json && echo stopped with $stopped",
		300);

	(void)state;
	if (process.status)
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	assert_non_null(strstr(process.out, "stopped with 130"));
	process_free(&process);
}

/* ---- bad input ---- */

static const struct bad_input inputs[] = {
	{"an unknown kind", "$S --compensate o,luck", 2, "--compensate is \"luck\""},
	{"no plans", "$N --methods merge --compensate all", 2, "merge makes none"},
	{"no attention to take", "$N --methods merge,dissimilar-split --compensate linear", 1,
		"other methods than merge and those that split"},
	{"too little text", "$S --samples 3 --compensate all", 1,
		"calib.txt: compensation fits matrices of 128 columns"},
	{"a fit's samples without a fit", "$S --fit-samples 6x64", 2, "--fit-samples belongs to --compensate"},
	{"more samples to fit on than there is text", "$S --compensate o --fit-samples 4000", 1,
		"no room for 4000 samples of 1024 tokens to fit on"},
	{"other samples to fit on", "cp $J $T/s/study.json; $S --compensate o --fit-samples 6x64", 1,
		"its fit_samples is missing, here it is 6"},
	{"too little text of several", "$S --calib LICENSE --samples 3 --compensate o", 1, "takes 256 tokens or more"},
	{"matrices of no kind", "$E 's/\"compensate\": \"o\"/\"compensate\": \"alone\"/' >$T/s/study.json; $S", 1,
		"rows[1] is damaged"},
	{"matrices twice", "$E 's/\"compensate\": \"o\"/\"compensate\": null/' >$T/s/study.json; $S", 1,
		"rows[1] is damaged"},
	{"matrices of another plan",
		"awk '/^  \\{/ {n++} n == 2 && $1 == \"5,\" && ++seen % 2 == 0 {sub(\"5\", \"4\")} {print}' $J "
		">$T/s/study.json; $S",
		1, "rows[1] is damaged"},
	{"matrices of no plan", "awk '/^  \\{/ {n++} n != 1' $J >$T/s/study.json; $S", 1, "rows[0] is damaged"},
	{"matrices without figures", "$E 's/\"fit\": {/\"fat\": {/' >$T/s/study.json; $S", 1, "rows[1] is damaged"},
	{"a time that is none", "$E 's/\"cpu_s\": .*/\"cpu_s\": null/' >$T/s/study.json; $S", 1, "rows[1] is damaged"},
};

/*
 * $J is, and $E edits, a study of the plan of `adjacent`, alone and with W_o; $S would go on with it; $N is without
 * methods.
 */
static void check_input(const struct bad_input *input, const char *study)
{
	char command[4096];

	snprintf(command, sizeof(command),
		"mkdir $T/s; J=%s; E=\"sed $J -e\"; N=\"" STUDY "\"; S=\"$N --methods adjacent\"; (%s); status=$?; "
		"[ -e $T/s/study.md ] && echo study.md; ls $T/s | grep 'json\\.'; exit $status",
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
	snprintf(command, sizeof(command), STUDY "--methods adjacent --compensate o --json >%s", path);
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
		cmocka_unit_test(figures_are_those_of_calibrate_and_eval),
		cmocka_unit_test(a_skip_is_that_of_calibrate),
		cmocka_unit_test(a_fit_may_have_samples_of_its_own),
		cmocka_unit_test(no_map_for_plans_that_split),
		cmocka_unit_test(a_study_in_pieces_is_a_study_in_one),
		cmocka_unit_test(bad_input_is_named_and_leaves_what_there_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
