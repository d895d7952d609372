/*
 * tests/calib/program_test.c: `kvshare-run calibrate` as a user runs it: the same plan in any division into batches,
 * clear errors that leave no files, Ctrl-C, and the files of a sweep.
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
#define TEXT MODEL "/calib.txt"
#define SMALL "--samples 4 --sample-tokens 16 --held-tokens 32 --ctx 16 --kv-dtype f32 "
#define CALIBRATE "kvshare-run calibrate -m " MODEL " --text " TEXT " " SMALL

/* ---- the same plan ---- */

static void assert_same_search(const json_t *a, const json_t *b, const char *how)
{
	const json_t *trials = json_at(a, "trials"), *others = json_at(b, "trials");

	if (!json_equal(json_at(a, "k_owners"), json_at(b, "k_owners")) ||
		!json_equal(json_at(a, "v_owners"), json_at(b, "v_owners")))
		fail_msg("%s: another plan", how);
	assert_int_equal(json_array_size(trials), json_array_size(others));
	for (size_t i = 0; i < json_array_size(trials); i++) {
		const json_t *one = json_array_get(trials, i), *two = json_array_get(others, i);
		assert_true(json_equal(json_at(one, "layer"), json_at(two, "layer")));
		assert_true(json_equal(json_at(one, "owner"), json_at(two, "owner")));
		assert_true(json_equal(json_at(one, "accepted"), json_at(two, "accepted")));
		if (fabs(json_number_value(json_at(one, "cosine")) - json_number_value(json_at(two, "cosine"))) > 1e-5)
			fail_msg("%s: trial %zu has another cosine", how, i);
	}
	assert_true(fabs(json_number_value(json_at(a, "nll")) - json_number_value(json_at(b, "nll"))) < 1e-5);
}

/* Each way to run it: the text before the command, and after it. */
static void assert_same_plan(const char *method, const char *const (*ways)[2], size_t count)
{
	char command[1024];
	json_t *plain = NULL;

	for (size_t i = 0; i < count; i++) {
		json_t *result;
		snprintf(command, sizeof(command), "T=$(mktemp -d); %s " CALIBRATE "%s -o $T/p --json %s; rm -r $T",
			ways[i][0], method, ways[i][1]);
		result = run_json(command);
		if (!plain)
			plain = json_incref(result);
		assert_same_search(plain, result, ways[i][0][0] ? ways[i][0] : ways[i][1]);
		json_decref(result);
	}
	json_decref(plain);
}

static void batch_schedule_threads_and_blocks_change_no_plan(void **state)
{
	static const char *const ways[][2] = {
		{"", ""},
		{"", "--batch 1"},
		{"", "--batch 3"},
		{"KVS_SIMT_SCHEDULE=reverse", "--batch 2"},
		{"KVS_SIMT_SCHEDULE=random:3", ""},
		{"OPENBLAS_NUM_THREADS=1 SOFTCUDA_WORKERS=1", ""},
		{"SOFTCUDA_GRANULARITY=65536", "--no-premap"},
		{"SOFTCUDA_GRANULARITY=4194304", ""},
	};

	(void)state;
	assert_same_plan("--method kvsharer --share 3", ways, sizeof(ways) / sizeof(*ways));
	assert_same_plan("--method nll --share 2", ways + 2, 4); /* expensive: a trial for each pair */
}

/* ---- bad input ---- */

/* $T is a fresh directory with a copy of the model in $T/m; $C is calibrate with small samples, on it. */
static const struct bad_input inputs[] = {
	{"no text", "kvshare-run calibrate -m $T/m -o $T/p", 2, "--text FILE"},
	{"no output", "kvshare-run calibrate -m $T/m --text x", 2, "-o PLAN"},
	{"no layers", "$C --share 0 -o $T/p", 2, "--share is \"0\""},
	{"all layers", "$C --share 16 -o $T/p", 1, "16 layers should share"},
	{"a rate of nothing", "$C --rate 0 -o $T/p", 2, "--rate"},
	{"a rate that is no layer", "$C --rate 0.01 -o $T/p", 1, "less than one layer"},
	{"both of them", "$C --share 1 --rate 0.5 -o $T/p", 2, "--share and --rate"},
	{"an unknown method", "$C --method luck -o $T/p", 2, "luck"},
	{"an unknown distance", "$C --distance manhattan -o $T/p", 2, "manhattan"},
	{"a seed that is none", "$C --method kvsharer --order random:x -o $T/p", 2, "random:x"},
	{"an order that would do nothing", "$C --method nll --order similar -o $T/p", 2, "--order"},
	{"pairs for matrices that nobody asked for", "$C --method refit -o $T/p", 2, "--compensate"},
	{"fits to two owners at once", "$C --method refit --compensate --split-kv -o $T/p", 2, "--split-kv"},
	{"a threshold that no cosine has", "$C --threshold 2 -o $T/p", 2, "--threshold"},
	{"a plan to start with", "$C --owners 0 -o $T/p", 2, "--owners"},
	{"all layers protected", "$C --protect-last 16 -o $T/p", 1, "16"},
	{"more than is not protected", "$C --share 4 --protect-last 13 -o $T/p", 1, "only 2 can"},
	{"a text shorter than the samples",
		"head -c 500 " TEXT " >$T/t; kvshare-run calibrate -m $T/m --text $T/t -o $T/p", 1,
		"30 samples of 64 take 1920"},
	{"too few lines of that length", "$C --sample-by line --sample-tokens 500 -o $T/p", 1, "lines of at least 500"},
	{"nothing held back for nll",
		"head -c 100 " TEXT " >$T/t; kvshare-run calibrate -m $T/m --text $T/t "
		"--samples 1 --sample-tokens 20 -o $T/p",
		1, "left after the samples"},
	{"a text that is not there", "kvshare-run calibrate -m $T/m --text $T/none -o $T/p", 1, "none"},
	{"an empty text", "kvshare-run calibrate -m $T/m --text /dev/null -o $T/p", 1, "0 tokens"},
	{"a directory that is not there", "$C -o $T/none/p", 1, "none/p"},
	{"a directory for a plan", "mkdir $T/d; $C -o $T/d", 1, "is a directory"},
	{"a file for a sweep", "echo >$T/f; $C --sweep -o $T/f", 1, "is not a directory"},
	{"nothing to go on from", "$C --resume -o $T/p", 1, "/p"},
	{"a plan by hand to go on from",
		"echo '{\"kvshare_plan\":1,\"layers\":16,\"k_owners\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],"
		"\"v_owners\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]}' >$T/q; $C --resume -o $T/q",
		1, "no calibration"},
	{"a plan of another model to go on from",
		"echo '{\"kvshare_plan\":1,\"layers\":2,\"k_owners\":[0,1],\"v_owners\":[0,1]}' >$T/q; $C --resume -o "
		"$T/q",
		1, "2 layers"},
	{"damaged trials to go on from",
		"$C --method nll --share 1 -o $T/q -q >/dev/null; sed -i 's/\"layer\": [0-9]*/\"layer\": 999/' $T/q; "
		"$C --method nll --share 1 --resume -o $T/q",
		1, "damaged"},
	{"trials that are no list",
		"$C --method nll --share 1 -o $T/q -q >/dev/null; sed -i 's/\"trials\": \\[/\"trials\": {}, \"were\": "
		"[/' $T/q; "
		"$C --method nll --share 1 --resume -o $T/q",
		1, "damaged"},
	{"trials with K and V in another type",
		"$C --method nll --share 1 -o $T/q -q >/dev/null; cp $T/q $T/r; "
		"$C --method nll --share 1 --kv-dtype f16 --resume -o $T/q; status=$?; cmp $T/q $T/r; exit $status",
		1, "loss without sharing was 1.2105"},
	{"damaged trials of a sweep",
		"$C --method nll --share 1 --sweep -o $T/d -q >/dev/null; "
		"sed -i 's/\"layer\": [0-9]*/\"layer\": 999/' $T/d/plan.json; "
		"$C --method nll --share 1 --sweep --resume -o $T/d",
		1, "damaged"},
	{"a model of one layer",
		"sed -i 's/\"num_hidden_layers\": 16/\"num_hidden_layers\": 1/' $T/m/config.json; $C --share 1 -o $T/p",
		1, "one layer"},
	{"weights that are no numbers",
		"head -c 2000000 /dev/zero | tr '\\0' '\\377' | dd of=$T/m/model.safetensors conv=notrunc bs=1000000 "
		"seek=3 "
		"2>/dev/null; $C -o $T/p",
		1, "not a number"},
	{"a directory that goes away meanwhile",
		"mkfifo $T/f; mkdir $T/d; (exec 3>$T/f; rmdir $T/d; cat " TEXT " >&3) & "
		"kvshare-run calibrate -m $T/m --text $T/f " SMALL "--method kvsharer --share 1 -o $T/d/p",
		1, "d/p: cannot write"},
};

/* One line that names the mistake, nothing on stdout, and no new file. */
static void check_input(const struct bad_input *input)
{
	char command[2048];

	snprintf(command, sizeof(command),
		"cp -r " MODEL " $T/m; C=\"kvshare-run calibrate -m $T/m --text " TEXT " " SMALL "\"\n"
		"(%s); status=$?; [ -e $T/p ] && echo left behind; ls $T | grep 'p\\.'; exit $status",
		input->command);
	assert_refused(input, command);
}

static void bad_input_is_named_and_leaves_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		check_input(&inputs[i]);
}

/* ---- ends ---- */

/* Layers 1 to 3 of 16 may share, but none passes a threshold of 1: status 3, and a plan that says so. */
static void pairs_that_run_out_leave_a_partial_plan(void **state)
{
	struct process process =
		run_shell("T=$(mktemp -d); " CALIBRATE
			  "--method kvsharer --share 3 --protect-last 12 --threshold 1 -o $T/p; status=$?; "
			  "grep -c '\"end\": \"exhausted\"' $T/p; rm -r $T; exit $status",
			60);

	(void)state;
	assert_int_equal(process.status, 3);
	assert_non_null(strstr(process.out, "\n1\n"));
	assert_non_null(strstr(process.err, "the pairs ran out: 0 layers share, 3 were asked for"));
	process_free(&process);
}

/*
 * The text comes through a pipe, so that the signal meets the program at work; if it was still capturing, the wait is
 * longer.
 */
static void assert_leaves_a_plan(const char *signal)
{
	struct process process = {0};
	char command[1024];

	for (int wait = 2; wait <= 32; wait *= 2) {
		snprintf(command, sizeof(command),
			"T=$(mktemp -d); mkfifo $T/f; kvshare-run calibrate -m " MODEL " --text $T/f " SMALL
			"--held-tokens 2000 --method nll --share 9 -o $T/p & pid=$!; cat " TEXT
			" >$T/f; sleep %d; kill -%s $pid; wait $pid; status=$?; "
			"[ ! -e $T/p ] || kvshare-run -m " MODEL " -p Anna -n 2 --plan $T/p -q || status=1; "
			"rm -r $T; exit $status",
			wait, signal);
		process = run_shell(command, 120);
		assert_int_equal(process.status, 130);
		if (strstr(process.err, "--resume"))
			break;
		process_free(&process);
	}
	assert_non_null(process.err);
	assert_non_null(strstr(process.err, "stopped after"));
	process_free(&process);
}

static void interrupting_leaves_a_plan_that_runs(void **state)
{
	(void)state;
	assert_leaves_a_plan("INT");
	assert_leaves_a_plan("TERM");
	assert_leaves_a_plan("HUP");
}

/* The device fails in the middle: what was found is kept, and going on from it gives the plan of a search that did not fail. */
static void a_failure_leaves_its_trials(void **state)
{
	struct process process =
		run_shell("T=$(mktemp -d); C='kvshare-run calibrate -q -m " MODEL " --text " TEXT
			  " --samples 2 --sample-tokens 16 --held-tokens 64 --ctx 32 --method nll --share 2'\n"
			  "SOFTCUDA_FAIL=cuLaunchKernel:8000:700 $C -o $T/p && echo it did not fail\n"
			  "SOFTCUDA_FAIL=cuLaunchKernel:8000:700 $C -o - | grep . && echo half a plan on stdout\n"
			  "$C --resume --json -o $T/p >$T/json; grep -o '\"replayed\": [1-9]' $T/json | cut -c 1-12\n"
			  "$C -o $T/whole >/dev/null; cmp $T/p $T/whole && echo the same; rm -r $T",
			120);

	(void)state;
	assert_string_equal(process.out, "\"replayed\": \nthe same\n");
	assert_non_null(strstr(process.err, "CUDA_ERROR_ILLEGAL_ADDRESS"));
	assert_non_null(strstr(process.err, "/p keeps the "));
	assert_non_null(strstr(process.err, "with --resume goes on\n"));
	process_free(&process);
}

/*
 * One sample takes over a minute by the SIMT kernels on one thread, on a fast machine too: the signal ends the wait for it. The
 * text comes through a pipe, as above.
 */
static void an_interrupt_does_not_wait_for_a_long_pass(void **state)
{
	struct process process = run_shell(
		"T=$(mktemp -d); mkfifo $T/f; KVS_HOST_KERNELS=simt SOFTCUDA_WORKERS=1 OPENBLAS_NUM_THREADS=1 "
		"kvshare-run calibrate -m " MODEL
		" --text $T/f --samples 1 --sample-tokens 6000 --method kvsharer --share 1 "
		"-o $T/p & pid=$!; cat " TEXT " >$T/f; sleep 2; "
		"kill -INT $pid; (sleep 5; kill -KILL $pid) >/dev/null 2>&1 & wait $pid; status=$?; kill $!; "
		"rm -r $T; exit $status",
		120);

	(void)state;
	if (process.status != 130 || !strstr(process.err, "stopped while capturing"))
		fail_msg("status %d: %s", process.status, process.err);
	process_free(&process);
}

/* nohup ignores the hangup, and the program leaves it so. */
static void a_hangup_under_nohup_stops_nothing(void **state)
{
	struct process process = run_shell(
		"T=$(mktemp -d); mkfifo $T/f; trap '' HUP; kvshare-run calibrate -m " MODEL " --text $T/f " SMALL
		"--method kvsharer --share 1 -o $T/p >/dev/null 2>&1 & pid=$!; cat " TEXT
		" >$T/f; while kill -HUP $pid 2>/dev/null; do sleep 0.1; done; wait $pid; status=$?; rm -r $T; "
		"exit $status",
		60);

	(void)state;
	assert_int_equal(process.status, 0);
	process_free(&process);
}

/* As soon as one row is done, study.md is there too, and the same command goes on. */
static void a_study_that_is_stopped_leaves_its_study_md(void **state)
{
	static const char *const signals[] = {"INT", "TERM", "HUP"};

	(void)state;
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
		char command[1024];
		struct process process;
		snprintf(command, sizeof(command),
			"T=$(mktemp -d); kvshare-run study -m " MODEL " --calib " TEXT " --text " MODEL
			"/heldout.txt --samples 4 --sample-tokens 16 --held-tokens 512 --ctx 256 --max-tokens 64 "
			"--rates 0.5 "
			"--methods adjacent,nll -o $T/s >/dev/null & pid=$!; "
			"while [ ! -e $T/s/study.json ]; do sleep 0.1; done; kill -%s $pid; wait $pid; status=$?; "
			"ls $T/s; rm -r $T; exit $status",
			signals[i]);
		process = run_shell(command, 120);
		if (process.status != 130 || !strstr(process.out, "study.json\nstudy.md\n") ||
			!strstr(process.err, "the same command continues from here"))
			fail_msg("%s: status %d: %s%s", signals[i], process.status, process.out, process.err);
		process_free(&process);
	}
}

static void a_sweep_writes_plans_and_a_curve(void **state)
{
	struct process process =
		run_shell("T=$(mktemp -d); " CALIBRATE
			  "--method kvsharer --share 3 --threshold -1 --sweep -o $T/s -q >$T/said && ls $T/s && "
			  "kvshare-run -m " MODEL " -p Anna -n 2 --plan $T/s/plan-03.json -q >/dev/null && "
			  "grep -c '<svg' $T/s/sweep.svg && cat $T/s/sweep.json; rm -r $T",
			60);
	json_t *sweep;
	const json_t *points;

	(void)state;
	assert_int_equal(process.status, 0);
	assert_ptr_equal(
		strstr(process.out, "plan-01.json\nplan-02.json\nplan-03.json\nplan.json\nsweep.json\nsweep.svg\n1\n{"),
		process.out);
	sweep = json_loads(strchr(process.out, '{'), 0, NULL);
	points = json_at(sweep, "points");
	assert_int_equal(json_array_size(points), 3);
	for (size_t i = 0; i < 3; i++) {
		const json_t *point = json_array_get(points, i);
		assert_int_equal(json_integer_value(json_at(point, "share")), i + 1);
		assert_true(json_number_value(json_at(point, "kv_fraction")) == 1 - (i + 1) / 16.0);
		assert_true(json_number_value(json_at(point, "nll")) > 0);
	}
	json_decref(sweep);
	process_free(&process);
}

/* The contract of the JSON report, and the plan's record of its search. */
static void the_report_and_the_plan_agree(void **state)
{
	json_t *both = run_json("T=$(mktemp -d); " CALIBRATE "--share 2 -o $T/p --json >$T/r && "
				"printf '{\"report\":%s,\"plan\":%s}' \"$(cat $T/r)\" \"$(cat $T/p)\"; rm -r $T");
	const json_t *report = json_at(both, "report"), *plan = json_at(both, "plan"),
		     *calibration = json_at(plan, "calibration");

	(void)state;
	assert_true(json_equal(json_at(report, "owners"), json_at(plan, "k_owners")));
	assert_true(json_equal(json_at(report, "v_owners"), json_at(plan, "v_owners")));
	assert_true(json_equal(json_at(report, "trials"), json_at(calibration, "trials")));
	assert_true(json_number_value(json_at(report, "seconds")) > 0);
	assert_true(json_is_real(json_at(report, "cosine")));
	assert_int_equal(json_object_size(json_at(report, "walks")), 3);
	assert_true(json_equal(json_at(report, "nll"), json_at(json_at(calibration, "nll"), "shared")));
	assert_true(json_equal(json_at(report, "full_nll"), json_at(json_at(calibration, "nll"), "full")));
	assert_int_equal(json_integer_value(json_at(calibration, "samples")), 4);
	assert_int_equal(json_integer_value(json_at(calibration, "tokens")), 16);
	assert_int_equal(json_integer_value(json_at(json_at(plan, "model"), "layers")), 16);
	json_decref(both);
}

/* ---- the hint ---- */

/* Who has a plan that costs much is told of --compensate, where that would take this model, text and policy. */
static void compensation_is_hinted_at_where_it_would_help(void **state)
{
#define LOSSY                                                                                                          \
	"kvshare-run calibrate -m " MODEL " --text " TEXT                                                              \
	" --method kvsharer --threshold -1 --order random:3 --samples 8 "                                              \
	"--held-tokens 64 --ctx 64 --share 8 -o $T/p.json "
	static const struct {
		const char *command;
		bool hinted;
	} rows[] = {
		{LOSSY, true},
		{LOSSY "-q", false},
		{LOSSY "--json", false},
		{LOSSY "--compensate --refit o", false},
		{LOSSY "--policy last --chunk 16", false},
		{LOSSY "--samples 3", true}, /* the fit has samples of its own */
		{LOSSY "--samples 3 --text $T/short", false},
		{LOSSY "--order similar --protect-last 9 --share 1", false}, /* costs little */
		{LOSSY "-o - >$T/p", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		char command[512];
		snprintf(command, sizeof(command), "head -c 1000 " TEXT " >$T/short; %s", rows[i].command);
		struct process process = run_in_directory(command, 120);
		const char *hint = strstr(process.err, "kvshare-run: refitted matrices can undo most of the +");
		if (process.status || (hint != NULL) != rows[i].hinted)
			fail_msg("`%s`: status %d: %s", rows[i].command, process.status, process.err);
		if (hint && !strstr(hint, " nats: calibrate -m " MODEL " --text " TEXT " --compensate --plan "))
			fail_msg("not the command: %s", hint);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batch_schedule_threads_and_blocks_change_no_plan),
		cmocka_unit_test(bad_input_is_named_and_leaves_nothing),
		cmocka_unit_test(pairs_that_run_out_leave_a_partial_plan),
		cmocka_unit_test(interrupting_leaves_a_plan_that_runs),
		cmocka_unit_test(a_failure_leaves_its_trials),
		cmocka_unit_test(an_interrupt_does_not_wait_for_a_long_pass),
		cmocka_unit_test(a_hangup_under_nohup_stops_nothing),
		cmocka_unit_test(a_study_that_is_stopped_leaves_its_study_md),
		cmocka_unit_test(a_sweep_writes_plans_and_a_curve),
		cmocka_unit_test(the_report_and_the_plan_agree),
		cmocka_unit_test(compensation_is_hinted_at_where_it_would_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
