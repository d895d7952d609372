/*
 * tests/e2e/output_test.c: the output of kvshare-run is complete, or it reports an error: JSON with figures that are
 * not finite, standard output that is full or closed.
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

/* And the study continues from its file, which holds null. */
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

/* ---- a full standard output ---- */

#define TEXT " --text " MODEL "/heldout.txt --max-tokens 20 --ctx 10"

static const char *const writers[] = {
	"--help",
	"help",
	"help eval",
	"eval --help",
	"plan --help",
	"plan show --usage",
	"--version",
	"bench --version",
	"-m " MODEL " -p Anna -n 0",
	"-m " MODEL " -p Anna -n 0 --json",
	"-m " MODEL " -p Anna -n 3 -q",
	"eval -q -m " MODEL TEXT,
	"eval -m " MODEL TEXT " --json",
	"doctor",
	"doctor --json",
	"bench --suite copy --layers 1",
	"bench --suite copy --layers 1 --json",
	"plan show --owners 0,1,1",
	"plan show --owners 0,1,1 --json",
	"plan convert --owners 0,1,1 --to vllm",
	"plan check -m " MODEL " --owners 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,14",
	"calibrate -m " MODEL " --text " MODEL "/calib.txt --samples 2 --sample-tokens 8 --held-tokens 16 "
	"--method kvsharer --share 1 -o $T/p",
};

static void assert_says_output_is_lost(const char *writer, const char *where)
{
	char command[1024];
	struct process process;
	const char *said;

	snprintf(command, sizeof(command), "T=$(mktemp -d); kvshare-run %s %s; status=$?; rm -r $T; exit $status",
		writer, where);
	process = run_shell(command, 120);
	said = strstr(process.err, "kvshare-run: writing to stdout: ");
	if (process.status != 1 || !said)
		fail_msg("kvshare-run %s %s: status %d: %s", writer, where, process.status, process.err);
	if (strstr(said + 20, "writing to stdout"))
		fail_msg("kvshare-run %s %s says it twice: %s", writer, where, process.err);
	process_free(&process);
}

static void a_full_disk_is_an_error_of_every_command(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(writers) / sizeof(*writers); i++)
		assert_says_output_is_lost(writers[i], ">/dev/full");
}

static void a_closed_stdout_is_an_error_of_every_command(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(writers) / sizeof(*writers); i++)
		assert_says_output_is_lost(writers[i], ">&-");
}

/* Descriptors 0 to 2 must not become the program's own files or memory. */
static void closed_streams_stay_closed(void **state)
{
	static const struct {
		const char *command;
		int status;
	} runs[] = {
		{"kvshare-run -m " MODEL " -p Anna -n 3 <&- >&- 2>&-", 1},
		{"kvshare-run -m " MODEL " -p Anna -n 3 <&- 2>&- >/dev/null", 0},
		{"kvshare-run -m " MODEL " -f - -n 3 <&- >/dev/null", 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		struct process process = run_shell(runs[i].command, 60);
		if (process.status != runs[i].status)
			fail_msg("%s: status %d: %s", runs[i].command, process.status, process.err);
		process_free(&process);
	}
}

/* ---- -o ---- */

#define CONVERT "kvshare-run plan convert --owners 0,1,1 --to lckv "
#define CALIBRATE                                                                                                      \
	"kvshare-run calibrate -m " MODEL " --text " MODEL                                                             \
	"/calib.txt --samples 2 --sample-tokens 8 --held-tokens 16 "                                                   \
	"--method kvsharer --share 1 "

/* Each prints the result of `-o`: the notation, then the state of the file. */
static void output_goes_where_o_leads(void **state)
{
	static const struct {
		const char *command, *out;
	} rows[] = {
		{CONVERT "-o -", "0_1_1\n"},
		{CONVERT "-o /proc/self/fd/1", "0_1_1\n"},
		{CONVERT "-o $T/new; cat $T/new", "0_1_1\n"},
		{"echo old >$T/f; chmod 640 $T/f; " CONVERT "-o $T/f; cat $T/f; stat -c %a $T/f", "0_1_1\n640\n"},
		{"echo old >$T/f; ln -s f $T/l; " CONVERT "-o $T/l; cat $T/f; stat -c %F $T/l",
			"0_1_1\nsymbolic link\n"},
		{"mkfifo $T/p; cat $T/p & " CONVERT "-o $T/p; wait; stat -c %F $T/p", "0_1_1\nfifo\n"},
		{CALIBRATE "-o $T/f -q >/dev/null; grep -c kvshare_plan $T/f", "1\n"},
		{CALIBRATE "-o - 2>/dev/null | grep -c 'kvshare_plan\\|layers share'", "1\n"},
		{CALIBRATE "-o /proc/self/fd/1 -q >$T/f; grep -c kvshare_plan $T/f", "1\n"},
		{"mkfifo $T/p; grep -c kvshare_plan $T/p & " CALIBRATE "-o $T/p -q >/dev/null; wait; stat -c %F $T/p",
			"1\nfifo\n"},
		{"mkdir $T/s; echo old >$T/f; ln -s ../f $T/s/plan.json; " CALIBRATE
		 "--sweep -o $T/s -q >/dev/null; grep -c kvshare_plan $T/f",
			"1\n"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		char command[1024];
		struct process process;
		snprintf(command, sizeof(command), "T=$(mktemp -d); %s; rm -r $T", rows[i].command);
		process = run_shell(command, 60);
		if (strcmp(process.out, rows[i].out) || process.err[0])
			fail_msg("%s: \"%s\", %s", rows[i].command, process.out, process.err);
		process_free(&process);
	}
}

#define PROGRESS "T=$(mktemp -d); export KVSHARE_PROGRESS_SECONDS=0.000001; " /* a line for each step */

/* "what: 12 %, 3 s left": all of one work, whose parts have other names. Weights are loaded before it. */
static void check_growing(const char *said)
{
	int before = 0, part, lines = 0, with_time = 0;

	for (const char *line = said; line && *line; line = strchr(line, '\n'), line += line != NULL) {
		const char *percent = strstr(line, " %"), *end = strchrnul(line, '\n'), *colon;
		if (!percent || percent > end || !strncmp(line, "loading weights", 15))
			continue;
		colon = memrchr(line, ':', percent - line);
		assert_non_null(colon);
		assert_int_equal(sscanf(colon, ": %d", &part), 1);
		if (part < before || part > 100)
			fail_msg("%d %% after %d in: %s", part, before, said);
		before = part;
		lines++;
		with_time += memmem(line, end - line, " left", 5) != NULL;
	}
	if (lines < 10 || before < 90 || with_time < lines / 2)
		fail_msg("%d lines, %d with a time, up to %d %%: %s", lines, with_time, before, said);
}

static void progress_is_of_the_whole_work(void **state)
{
	static const char *const commands[] = {CALIBRATE "--method auto --share 3 -o $T/p",
		CALIBRATE "--method nll --split-kv --protect-last 2 -o $T/p",
		CALIBRATE "--method nll --compensate --samples 32 --sample-tokens 32 --held-tokens 64 -o $T/p.json",
		"kvshare-run study -m " MODEL " --calib " MODEL "/calib.txt --text " MODEL
		"/heldout.txt --max-tokens 64 "
		"--held-tokens 64 --ctx 32 --samples 4 --methods similar,nll,random,merge --seeds 2 -o $T/s"};

	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		char command[1024];
		struct process process;
		snprintf(command, sizeof(command), PROGRESS "%s; rm -r $T", commands[i]);
		process = run_shell(command, 120);
		check_growing(process.err);
		process_free(&process);
	}
}

/* Where stderr is a file, long work says how far it is, and how long it will take; short work and -q say nothing. */
static void progress_reaches_a_log(void **state)
{
	static const char *const told[] = {"loading weights: 100 %\n", "capturing: ", " s left\n"};
	static const char *const silent[] = {"KVSHARE_PROGRESS_SECONDS=0 ", "KVSHARE_PROGRESS_SECONDS=1000 ",
		"KVSHARE_PROGRESS_SECONDS=0.000001 Q=-q "};
	struct process process;

	(void)state;
	process = run_shell(PROGRESS CALIBRATE "--method nll -o $T/p; rm -r $T", 60);
	for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
		if (!strstr(process.err, told[i]))
			fail_msg("no \"%s\" in: %s", told[i], process.err);
	process_free(&process);
	for (size_t i = 0; i < sizeof(silent) / sizeof(*silent); i++) {
		char command[512];
		snprintf(command, sizeof(command), "T=$(mktemp -d); export %s; %s$Q -o $T/p; rm -r $T", silent[i],
			CALIBRATE);
		process = run_shell(command, 60);
		if (strstr(process.err, "capturing: "))
			fail_msg("%sstill tells: %s", silent[i], process.err);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_infinite_perplexity_is_null_in_json),
		cmocka_unit_test(a_study_of_infinite_perplexity_is_written_and_resumed),
		cmocka_unit_test(a_full_disk_is_an_error_of_every_command),
		cmocka_unit_test(a_closed_stdout_is_an_error_of_every_command),
		cmocka_unit_test(closed_streams_stay_closed),
		cmocka_unit_test(output_goes_where_o_leads),
		cmocka_unit_test(progress_reaches_a_log),
		cmocka_unit_test(progress_is_of_the_whole_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
