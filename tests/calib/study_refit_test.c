/*
 * tests/calib/study_refit_test.c: the row `refit` of `kvshare-run study`, the search by what compensation leaves: its plans are those of
 * `calibrate --method refit` for every number of layers, trials of such a search are taken, a study goes on behind it and within it,
 * and text or matrices that cannot be fitted are refused before anything is made.
 */
#include "../../calib/calib.h"
#include "../support/gguf.h"
#include "../support/process.h"

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
#define CUT "--samples 8 --sample-tokens 8 --held-tokens 64 --ctx 32 -q "
#define STUDY_OF(WHAT)                                                                                                 \
	"kvshare-run study -m " WHAT " --text " MODEL "/heldout.txt --calib " MODEL "/calib.txt -o $T/s " CUT          \
	"--max-tokens 64 --rates 0.125,0.25,0.5 "
#define STUDY STUDY_OF(MODEL)
#define SEARCH_OF(WHAT)                                                                                                \
	"kvshare-run calibrate -m " WHAT " --text " MODEL "/calib.txt " CUT                                            \
	"--method refit --compensate --refit qo --fit-samples 4x64 -o $T/p.json "
#define SEARCH SEARCH_OF(MODEL)

static const json_t *row_at(const json_t *study, size_t i)
{
	const json_t *row = json_array_get(json_at(study, "rows"), i);

	assert_non_null(row);
	return row;
}

static const json_t *point_at(const json_t *row, size_t p)
{
	return json_array_get(json_at(row, "points"), p);
}

static bool borrows(const json_t *point, int layer)
{
	return json_integer_value(json_array_get(json_at(point, "k_owners"), layer)) != layer;
}

/* A layer that is taken later lies below one that is taken earlier: layers do not come in their own order. */
static bool is_out_of_order(const json_t *few, const json_t *more)
{
	int highest = 15;

	while (!borrows(few, highest))
		highest--;
	for (int l = 0; l < highest; l++)
		if (borrows(more, l) && !borrows(few, l))
			return true;
	return false;
}

/* ---- plans ---- */

static void plans_are_those_of_calibrate(void **state)
{
	static const int shares[] = {2, 4, 8};
	json_t *study = run_json_in_directory(STUDY "--methods refit --json");
	const json_t *row = row_at(study, 0);
	char command[512];

	(void)state;
	assert_int_equal(json_array_size(json_at(study, "rows")), 1);
	assert_string_equal(json_string_value(json_at(row, "method")), "refit");
	for (size_t p = 0; p < 3; p++) {
		json_t *plan;
		snprintf(command, sizeof(command), SEARCH "--share %d >/dev/null; cat $T/p.json", shares[p]);
		plan = run_json_in_directory(command);
		assert_true(json_number_at(point_at(row, p), "shared") == shares[p]);
		assert_true(json_equal(json_at(plan, "k_owners"), json_at(point_at(row, p), "k_owners")));
		assert_true(json_equal(json_at(plan, "v_owners"), json_at(point_at(row, p), "v_owners")));
		json_decref(plan);
	}
	assert_true(is_out_of_order(point_at(row, 0), point_at(row, 1)));
	json_decref(study);
}

/* ---- trials ---- */

/* The model in GGUF with quantised matrices, in a file whose path goes to `path`. */
static void write_quantised(char *path)
{
	struct gguf_writer to;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	gguf_begin(&to);
	to.matrices = GGUF_Q8_0;
	gguf_storyworld_keys(&to);
	gguf_storyworld_tensors(&to, 0, 1);
	gguf_save(&to, path);
}

/* `path` takes the plan. */
static json_t *study_with(const char *model, const json_t *plan, const char *path)
{
	char command[1024];

	assert_int_equal(json_dump_file(plan, path, 0), 0);
	snprintf(command, sizeof(command), STUDY_OF("%s") "--methods refit --json --trials %s", model, path);
	return run_json_in_directory(command);
}

static void check_same(const json_t *without, json_t *with)
{
	assert_true(json_equal(without, with));
	json_decref(with);
}

static void drop_half(json_t *trials)
{
	size_t half = json_array_size(trials) / 2;

	while (json_array_size(trials) > half)
		json_array_remove(trials, half);
}

static json_t *trials_of(json_t *plan)
{
	return json_object_get(json_object_get(plan, "calibration"), "trials");
}

/*
 * The result is the same to the last bit with all trials and with a part of them, and so with the fits of all pairs, a part and none:
 * these leave nothing behind, even where matrices that are put back were quantised. All trials are
 * believed, and none is made again: if the last one says that its pair costs nothing, that pair is taken first.
 */
static void trials_are_taken_and_change_nothing(void **state)
{
	char path[] = "/tmp/kvs-refit-XXXXXX", model[] = "/tmp/kvs-refit-XXXXXX", command[1024];
	json_t *plan, *half, *last, *without, *with;
	int fd = mkstemp(path), layer;

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	write_quantised(model);
	snprintf(command, sizeof(command), SEARCH_OF("%s") "--rate 0.5 >/dev/null; cat $T/p.json", model);
	plan = run_json_in_directory(command);
	snprintf(command, sizeof(command), STUDY_OF("%s") "--methods refit --json", model);
	without = run_json_in_directory(command);
	check_same(without, study_with(model, plan, path));
	half = json_deep_copy(plan);
	drop_half(trials_of(half));
	check_same(without, study_with(model, half, path));
	last = json_array_get(trials_of(plan), json_array_size(trials_of(plan)) - 1);
	layer = (int)json_integer_value(json_at(last, "layer"));
	json_object_set_new(last, "kl", json_real(0));
	assert_false(borrows(point_at(row_at(without, 0), 0), layer));
	with = study_with(model, plan, path);
	assert_true(borrows(point_at(row_at(with, 0), 0), layer));
	json_decref(with);
	json_decref(without);
	json_decref(half);
	json_decref(plan);
	remove(path);
	remove(model);
}

/* Fits of pairs leave nothing behind in the engine that then measures the plan and fits to it: without them all is as with them. */
static void pairs_leave_a_quantised_model_as_it_was(void **state)
{
	char model[] = "/tmp/kvs-refit-XXXXXX", command[2048];
	struct process process;

	(void)state;
	write_quantised(model);
	snprintf(command, sizeof(command),
		SEARCH_OF("%s") "--share 2 >/dev/null && cp $T/p.json $T/first && " SEARCH_OF(
			"%s") "--share 2 --resume >/dev/null && cmp $T/first $T/p.json",
		model, model);
	process = run_in_directory(command, 120);
	if (process.status)
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	process_free(&process);
	remove(model);
}

/* ---- going on ---- */

/* Stopped within the row, and gone on with: the same bytes. A row that is done is taken as it is. */
static void a_study_goes_on(void **state)
{
	struct process process = run_in_directory(STUDY
		"--methods adjacent,refit --compensate qo --fit-samples 4x64 --json >$T/one || exit 10; mv $T/s "
		"$T/first; " STUDY
		"--methods adjacent,refit --compensate qo --fit-samples 4x64 >/dev/null 2>$T/err & pid=$!; "
		"while ! grep -sq qo $T/s/study.json; do sleep 0.02; done; kill -INT $pid; wait $pid; stopped=$?; "
		"grep -q 'after 2 of 4 rows' $T/err || exit 12; " STUDY
		"--methods refit,adjacent --compensate qo --fit-samples 4x64 >/dev/null || exit 13; for d in first s; "
		"do "
		"sed 's/\"cpu_s\": .*//; s/\"peak_bytes\": .*//' $T/$d/study.json >$T/$d.json; done; "
		"cmp $T/first.json $T/s.json || exit 14; cmp $T/first/loss.svg $T/s/loss.svg || exit 15; "
		"cp $T/s/study.json $T/done; sed -i '/\"refit\"/,$ s/\"kl\": .*/\"kl\": 9.5,/' $T/s/study.json; " STUDY
		"--methods refit --compensate qo --fit-samples 4x64 >/dev/null || exit 16; grep -c '\"kl\": 9.5' "
		"$T/s/study.json; "
		"grep 'matrices leave' $T/s/study.md; grep -o 'greedy by what matrices leave' $T/s/loss.svg; "
		"echo stopped with $stopped",
		120);

	(void)state;
	if (process.status)
		fail_msg("status %d: %s%s", process.status, process.out, process.err);
	assert_non_null(strstr(process.out, "stopped with 130"));
	assert_non_null(strstr(process.out, "| greedy by what matrices leave: `refit` |"));
	assert_int_equal(atoi(process.out), 6); /* three rates, alone and with matrices */
	process_free(&process);
}

/* ---- where it is run ---- */

static void it_is_run_by_default_with_matrices_only(void **state)
{
	struct kvs_study_options options = {0};
	unsigned refit = 1u << KVS_STUDY_REFIT, all = (1u << KVS_STUDY_METHODS) - 1;

	(void)state;
	assert_int_equal(kvs_study_methods(&options), all - refit);
	options.fits = 1u << KVS_STUDY_FIT_O;
	assert_int_equal(kvs_study_methods(&options), all);
	options.methods = 1u << KVS_STUDY_NLL;
	assert_int_equal(kvs_study_methods(&options), options.methods);
	options.methods = refit;
	options.fits = 0;
	assert_int_equal(kvs_study_methods(&options), refit);
}

#define WITH_MATRICES                                                                                                  \
	STUDY "--rates 0.0625 --sample-tokens 90 --held-tokens 32 --max-tokens 32 --seeds 1 --vary none --compensate " \
	      "o "

/* So a text that has too few samples for it alone is not refused: the other methods are run, and that is said. */
static void by_default_it_needs_no_samples(void **state)
{
	json_t *enough = run_json_in_directory(WITH_MATRICES "--samples 4 --json"),
	       *few = run_json_in_directory(WITH_MATRICES "--samples 3 --json");
	const json_t *rows = json_at(enough, "rows"), *missing = json_at(few, "not_run");
	const json_t *last = json_array_get(rows, json_array_size(rows) - 1);

	(void)state;
	assert_string_equal(json_string_value(json_at(last, "method")), "refit");
	assert_string_equal(json_string_value(json_at(last, "compensate")), "o");
	assert_int_equal(json_array_size(json_at(few, "rows")), json_array_size(rows) - 2);
	assert_string_equal(json_string_value(json_at(json_array_get(missing, 0), "method")), "refit");
	json_decref(few);
	json_decref(enough);
}

/* Of a third of the samples there are too few, which is said; of five thirds there are enough. */
static void amounts_without_enough_samples_are_named(void **state)
{
	struct process process = run_in_directory(
		STUDY "--methods refit --vary refit >$T/md && cat $T/md >&2 && cat $T/s/study.json", 120);
	json_t *study = json_loads(process.out, 0, NULL);
	const json_t *missing = json_at(study, "not_run");

	(void)state;
	assert_int_equal(process.status, 0);
	assert_int_equal(json_array_size(json_at(study, "rows")), 2);
	assert_int_equal(json_number_at(row_at(study, 1), "samples"), 14);
	assert_int_equal(json_array_size(missing), 1);
	assert_string_equal(json_string_value(json_at(json_array_get(missing, 0), "method")), "refit");
	assert_non_null(strstr(process.err, "Not searched by `refit`: 3 samples: fitting pairs takes 4 samples"));
	assert_non_null(strstr(process.err, "| `refit`, 14 samples |"));
	json_decref(study);
	process_free(&process);
}

/* ---- bad input ---- */

static const struct bad_input inputs[] = {
	{"too few samples", "$S --samples 3", 1, "calib.txt: fitting pairs takes 4 samples"},
	{"samples that are too short", "$S --sample-tokens 2", 1, "or more, these are 8 of 2"},
	{"too few samples of a further text", "$S --calib LICENSE --vary refit --samples 3", 1,
		"fitting pairs takes 4 samples"},
	{"a method to vary that is not run", "$N --vary refit", 2, "not among --methods"},
	{"trials of other samples", "$S --samples 9 --trials $T/p.json", 1,
		"of refit: the plan's search cannot be resumed: its samples is 8, this search's is 9"},
	{"trials of refit for other searches", "$N --methods nll --trials $T/p.json", 1, "its method is \"refit\""},
	{"trials of a layer without its KL",
		"sed -i 's/\"kl\": *[0-9][0-9.e-]*/\"kl\": null/g' $T/p.json; $S --trials $T/p.json", 1,
		"calibration.trials of the plan is damaged"},
	{"weights that are not numbers",
		"cp -r " MODEL " $T/m; head -c 2000000 /dev/zero | tr '\\0' '\\377' | dd of=$T/m/model.safetensors "
		"conv=notrunc bs=1000000 seek=3 2>/dev/null; $S -m $T/m",
		1, "row 0, column 0 is not a finite number"},
};

/* $T/p.json is a plan of `refit`; $S would run a study of refit in $T/s, and $N is without methods. */
static void check_input(const struct bad_input *input, const char *plan)
{
	char command[4096];

	snprintf(command, sizeof(command),
		"cp %s $T/p.json; N=\"" STUDY "\"; S=\"$N --methods refit\"; (%s); status=$?; "
		"[ -e $T/s/study.json ] && ls $T/s; exit $status",
		plan, input->command);
	assert_refused(input, command);
}

static void bad_input_is_named_before_anything_is_made(void **state)
{
	char path[] = "/tmp/kvs-refit-XXXXXX";
	json_t *plan = run_json_in_directory(SEARCH "--share 1 >/dev/null; cat $T/p.json");
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(json_dump_file(plan, path, 0), 0);
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		check_input(&inputs[i], path);
	json_decref(plan);
	remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plans_are_those_of_calibrate),
		cmocka_unit_test(trials_are_taken_and_change_nothing),
		cmocka_unit_test(pairs_leave_a_quantised_model_as_it_was),
		cmocka_unit_test(a_study_goes_on),
		cmocka_unit_test(it_is_run_by_default_with_matrices_only),
		cmocka_unit_test(by_default_it_needs_no_samples),
		cmocka_unit_test(amounts_without_enough_samples_are_named),
		cmocka_unit_test(bad_input_is_named_before_anything_is_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
