/*
 * tests/e2e/usage_test.c: kvshare-run explains its own use: the examples in help can be pasted, and wrong usage exits
 * with 2 before anything is loaded, with the valid values.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HELP_COLUMNS 79
#define MODEL "tests/models/storyworld-3m"

static const char *const commands[] = {"generate", "eval", "calibrate", "study", "plan show", "plan check",
	"plan convert", "bench", "profile", "attach", "doctor"};

static struct process run_ok(const char *format, const char *word)
{
	char command[1024];
	struct process process;

	snprintf(command, sizeof(command), format, word);
	process = run_shell(command, 60);
	if (process.status || process.err[0])
		fail_msg("%s: status %d: %s", command, process.status, process.err);
	return process;
}

/* ---- help ---- */

static void help_is_the_same_both_ways(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		struct process help = run_ok("kvshare-run help %s", commands[i]),
			       option = run_ok("kvshare-run %s --help", commands[i]);
		assert_string_equal(help.out, option.out);
		process_free(&help);
		process_free(&option);
	}
}

/*
 * An example is a line of its own. With --help after it, or after its options where another program's command follows, it is
 * parsed to its end but not run.
 */
static void check_example(const char *line, const char *command)
{
	const char *other = strstr(line, " -- ");
	char asked[512];
	struct process process;

	if (strncmp(line, "  kvshare-run ", 14)) {
		fail_msg("help %s: not one example a line: \"%s\"", command, line);
		return;
	}
	snprintf(asked, sizeof(asked), "%.*s --help%s", other ? (int)(other - line) : (int)strlen(line), line,
		other ? other : "");
	process = run_ok("%s", asked);
	process_free(&process);
}

static void check_examples(const char *command)
{
	struct process help = run_ok("kvshare-run help %s", command);
	bool examples = false;
	size_t count = 0;
	char *rest = help.out;

	for (char *line; (line = strsep(&rest, "\n"));) {
		if (strlen(line) > HELP_COLUMNS)
			fail_msg("help %s: over %d columns: \"%s\"", command, HELP_COLUMNS, line);
		if (examples && *line)
			check_example(line, command);
		count += examples && *line;
		examples |= !strncmp(line, "Example", 7);
	}
	if (!count && strcmp(command, "doctor"))
		fail_msg("help %s: no examples", command);
	process_free(&help);
}

static void examples_can_be_pasted(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		check_examples(commands[i]);
}

static void help_shows_a_commands_own_options_first(void **state)
{
	struct process help = run_ok("kvshare-run help %s", "generate");
	const char *prompt = strstr(help.out, "--prompt"), *plan = strstr(help.out, "--plan"),
		   *device = strstr(help.out, "--device");

	(void)state;
	assert_non_null(prompt);
	assert_true(prompt < plan && plan < device);
	process_free(&help);
}

static void options_that_are_refused_are_not_shown(void **state)
{
	static const char *const finders[] = {"calibrate", "study"};

	(void)state;
	for (size_t i = 0; i < sizeof(finders) / sizeof(*finders); i++) {
		struct process help = run_ok("kvshare-run help %s", finders[i]);
		assert_null(strstr(help.out, "--owners=")); /* they take plans, for ends of their own */
		process_free(&help);
	}
}

/* ---- version ---- */

static void every_command_tells_the_version_of_the_file(void **state)
{
	struct process file = run_ok("printf 'kvshare-run %s\\n' $(cat VERSION)", "%s");

	(void)state;
	for (size_t i = 0; i <= sizeof(commands) / sizeof(*commands); i++) {
		struct process said = run_ok("kvshare-run %s --version", i ? commands[i - 1] : "");
		assert_string_equal(said.out, file.out);
		process_free(&said);
	}
	process_free(&file);
}

/* ---- completion ---- */

/* The completions of the last word of `line`, by the function that `complete` names. */
static void assert_completes(const char *line, const char *expected)
{
	char command[1024];
	struct process process;

	snprintf(command, sizeof(command),
		"bash -c 'source <(kvshare-run completion bash); COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - "
		"1)); "
		"_kvshare_run; echo ${COMPREPLY[@]}'",
		line);
	process = run_shell(command, 60);
	if (strcmp(process.out, expected) || process.err[0])
		fail_msg("%s: \"%s\", not \"%s\": %s", line, process.out, expected, process.err);
	process_free(&process);
}

static void bash_completes_commands_options_and_words(void **state)
{
	(void)state;
	assert_completes("kvshare-run st", "study\n");
	assert_completes("kvshare-run help ca", "calibrate\n");
	assert_completes("kvshare-run plan c", "check convert\n");
	assert_completes("kvshare-run plan convert --t", "--to\n");
	assert_completes("kvshare-run plan convert --to l", "lckv\n");
	assert_completes("kvshare-run eval --own", "--owners\n");
	assert_completes("kvshare-run calibrate --own", "\n");
	assert_completes("kvshare-run calibrate --method = k", "kvsharer\n");
	assert_completes("kvshare-run generate --kv-dtype \"\"", "f16 bf16 f32\n");
	assert_completes("kvshare-run -m tests/models/story", MODEL "\n");
	assert_completes("kvshare-run generate -f READ", "README.md\n");
	assert_completes("kvshare-run profile --source c", "cupti\n");
	assert_completes("kvshare-run attach --sec", "--seconds\n");
}

/* zsh may not be installed: the text must at least have balanced quotes and the expected options. */
static void zsh_has_every_option(void **state)
{
	struct process bash = run_ok("kvshare-run completion %s", "bash"),
		       zsh = run_ok("kvshare-run completion %s", "zsh");
	size_t quotes = 0;

	(void)state;
	assert_non_null(strstr(zsh.out, "'--method=[kvsharer\\: the paper'\\''s walk; nll\\: greedy"));
	assert_non_null(strstr(zsh.out, ":value:(f16 bf16 f32)'"));
	assert_non_null(strstr(zsh.out, "'plan convert')"));
	assert_null(strstr(bash.out, "(null)"));
	assert_null(strstr(zsh.out, "(null)"));
	for (const char *c = zsh.out; *c; c++) {
		if (!strncmp(c, "'\\''", 4)) /* an apostrophe inside quotes */
			c += 3;
		else
			quotes += *c == '\'';
	}
	assert_int_equal(quotes % 2, 0);
	process_free(&bash);
	process_free(&zsh);
}

/* ---- wrong usage ---- */

/* No file named here exists: the program exits before it opens any. */
#define GENERATE "kvshare-run generate -m /nowhere -p x "
#define CALIBRATE "kvshare-run calibrate -m /nowhere --text /nowhere -o /nowhere/p "

static const struct {
	const char *command, *said;
} wrong[] = {
	{GENERATE "--temperature -1", "--temperature is \"-1\": a number from 0 (the likeliest token) to 1000"},
	{GENERATE "--temperature 1e30", "to 1000"},
	{GENERATE "--temperature nan", "to 1000"},
	{GENERATE "--top-p 0", "--top-p is \"0\": a number above 0 and at most 1"},
	{GENERATE "--top-p 1.5", "at most 1"},
	{GENERATE "--top-k -1", "--top-k is \"-1\": a whole number from 0"},
	{GENERATE "-n 12x", "-n is \"12x\": a whole number from 0"},
	{GENERATE "-n ''", "whole number"},
	{GENERATE "--ctx 0", "--ctx is \"0\": a whole number from 1"},
	{GENERATE "--plan p --owners 0,0", "give one of them"},
	{GENERATE "--device gpu", "--device is \"gpu\": auto, cuda, cuda:N or host"},
	{GENERATE "--device cuda:", "cuda:N"},
	{GENERATE "--device cuda:1x", "cuda:N"},
	{GENERATE "--kv-dtype i32", "f16, bf16 or f32"},
	{GENERATE "--owners 0,one", "owners: character 3"},
	{GENERATE "--owners 0,2,2", "owners[1] is 2"},
	{GENERATE "--owners ''", "owners"},
	{"kvshare-run eval -m /nowhere --text /nowhere --owners 0,,1", "owners"},
	{CALIBRATE "--rate 1", "between 0 and 1"},
	{CALIBRATE "--threshold 2", "from -1 to 1"},
	{CALIBRATE "--share 1 --rate 0.2", "give one of them"},
	{CALIBRATE "--method luck", "kvsharer, nll, auto or refit"},
	{CALIBRATE "--method refit", "--method refit chooses layers for --compensate"},
	{CALIBRATE "--device gpu", "cuda:N"},
	{"kvshare-run calibrate -m /nowhere --text /nowhere --sweep -o -", "--sweep writes a directory"},
	{"kvshare-run calibrate -m /nowhere --text /nowhere --json -o -", "both write to standard output"},
	{"kvshare-run study -m /nowhere --text a --calib b -o -", "a study writes a directory"},
	{CALIBRATE "--plan p", "--plan, --refit, --skip and --fit-samples belong to --compensate"},
	{CALIBRATE "--compensate --skip much", "--skip"},
	{CALIBRATE "--compensate --skip 0", "--skip"},
	{CALIBRATE "--owners 0", "belong to generate and eval"},
	{"kvshare-run study -m /nowhere --text a --calib b -o /nowhere/s --rates 0.1,2", "between 0 and 1"},
	{"kvshare-run study -m /nowhere --text a --calib b -o /nowhere/s --owners 0", "belong to generate and eval"},
	{"kvshare-run study -m /nowhere --text - --calib - -o /nowhere/s",
		"only one text can come from standard input"},
	{"kvshare-run bench --device gpu", "cuda:N"},
	{"kvshare-run bench --dtype i32", "f16, bf16 or f32"},
	{"kvshare-run bench --suite copy,dec", "\"dec\""},
	{"kvshare-run plan show --owners 0,one", "owners: character 3"},
	{"kvshare-run plan convert /nowhere --to pytorch", "json, lckv, vllm, transformers or checkpoint"},
	{"kvshare-run plan convert /nowhere", "--to"},
	{"kvshare-run plan check /nowhere", "-m DIR"},
	{"kvshare-run plan draw", "no \"draw\""},
	{"kvshare-run profile", "which program? Put it behind --"},
	{"kvshare-run profile --source bpf -- true", "ebpf, ours, cupti or auto"},
	{"kvshare-run profile --max-size 5X -- true", "--max-size is \"5X\": a number of bytes"},
	{"kvshare-run profile --max-size -1 -- true", "a number of bytes"},
	{"kvshare-run attach", "which process? Name it with -p PID"},
	{"kvshare-run attach -p one", "--pid is \"one\": a whole number from 1"},
	{"kvshare-run attach -p 1 --seconds 0", "--seconds is \"0\": a number above 0"},
	{"kvshare-run attach 4711", "A process goes behind -p"},
	{"kvshare-run completion fish", "bash or zsh"},
	{"kvshare-run help draw", "no command \"draw\""},
};

static void wrong_usage_ends_in_2_with_what_is_right(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct process process = run_shell(wrong[i].command, 60);
		if (process.status != 2 || !strstr(process.err, wrong[i].said) || process.out[0])
			fail_msg("%s: status %d: %s%s", wrong[i].command, process.status, process.err, process.out);
		process_free(&process);
	}
}

static void messages_name_the_program_not_its_path(void **state)
{
	static const char *const calls[] = {"--frobnicate", "eval --frobnicate", "-m /nowhere -p x", "doctor x"};

	(void)state;
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		char command[256];
		struct process process;
		snprintf(command, sizeof(command), "\"$(command -v kvshare-run)\" %s", calls[i]);
		process = run_shell(command, 60);
		if (strncmp(process.err, "kvshare-run", 11) || strstr(process.err, "/kvshare-run"))
			fail_msg("%s: %s", command, process.err);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(help_is_the_same_both_ways),
		cmocka_unit_test(examples_can_be_pasted),
		cmocka_unit_test(help_shows_a_commands_own_options_first),
		cmocka_unit_test(options_that_are_refused_are_not_shown),
		cmocka_unit_test(every_command_tells_the_version_of_the_file),
		cmocka_unit_test(bash_completes_commands_options_and_words),
		cmocka_unit_test(zsh_has_every_option),
		cmocka_unit_test(wrong_usage_ends_in_2_with_what_is_right),
		cmocka_unit_test(messages_name_the_program_not_its_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
