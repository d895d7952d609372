/*
 * tools/run/main.c: the entry point of kvshare-run: it finds the subcommand and runs it.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *argp_program_version = "kvshare-run " KVS_VERSION;

static const struct run_subcommand *const commands[] = {&run_generate_command, &run_eval_command,
	&run_calibrate_command, &run_study_command, &run_compare_command, &run_plan_command, &run_bench_command,
	&run_exec_command, &run_inspect_command, &run_probe_command, &run_profile_command, &run_attach_command,
	&run_top_command, &run_report_command, &run_doctor_command, NULL};

static void print_help(FILE *out)
{
	fputs("Usage: kvshare-run COMMAND [OPTION...]\n"
	      "   or: kvshare-run -m DIR -p TEXT [OPTION...]      (generate)\n\n"
	      "Runs Llama-family checkpoints with a KV cache whose layers share physical memory.\n\n"
	      "Commands:\n",
		out);
	for (size_t i = 0; commands[i]; i++)
		fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\n`kvshare-run help COMMAND` explains each; --version prints the version. Start with:\n\n"
	      "  kvshare-run doctor\n"
	      "  kvshare-run generate -m DIR -p 'Once upon a time' -n 64\n"
	      "  kvshare-run generate -m DIR -p 'Once upon a time' -n 64 --plan plan.json\n",
		out);
}

static void print_verbs(FILE *out, const struct run_subcommand *command)
{
	fprintf(out, "Usage: kvshare-run %s VERB [OPTION...]\n\n", command->name);
	for (const struct run_subcommand *verb = command->verbs; verb->name; verb++)
		fprintf(out, "  %-10s %s\n", verb->name, verb->summary);
	fprintf(out, "\n`kvshare-run help %s VERB` explains each.\n", command->name);
}

static const struct run_subcommand *find_command(const char *name)
{
	for (size_t i = 0; commands[i]; i++)
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static const struct run_subcommand *find_verb(const struct run_subcommand *command, const char *name)
{
	for (const struct run_subcommand *verb = command->verbs; verb->name; verb++)
		if (!strcmp(verb->name, name))
			return verb;
	return NULL;
}

static bool is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-?") || !strcmp(word, "-h");
}

/* argp and getopt take the program's name for their messages from argv[0]. */
static int run_as(const struct run_subcommand *command, char *name, int argc, char **argv)
{
	argv[0] = name;
	return command->run(argc, argv);
}

/* `argv` begins with the command's name. */
static int run_verb(const struct run_subcommand *command, int argc, char **argv)
{
	const struct run_subcommand *verb = argc > 1 ? find_verb(command, argv[1]) : NULL;
	bool help = argc > 1 && is_help(argv[1]);
	char name[64];

	if (argc > 1 && !verb && !help)
		fprintf(stderr, "kvshare-run %s: there is no \"%s\"\n", command->name, argv[1]);
	if (!verb) {
		print_verbs(help ? stdout : stderr, command);
		return help ? EXIT_SUCCESS : RUN_EXIT_USAGE;
	}
	snprintf(name, sizeof(name), "kvshare-run %s %s", command->name, verb->name);
	return run_as(verb, name, argc - 1, argv + 1);
}

/* `argv` begins with the command's name. */
static int run_command(int argc, char **argv)
{
	const struct run_subcommand *command = find_command(argv[0]);
	char name[64];

	if (!command) {
		fprintf(stderr, "kvshare-run: no command \"%s\": `kvshare-run --help` lists them\n", argv[0]);
		return RUN_EXIT_USAGE;
	}
	if (command->verbs)
		return run_verb(command, argc, argv);
	snprintf(name, sizeof(name), "kvshare-run %s", command->name);
	return run_as(command, name, argc, argv);
}

/* `help plan show` is `plan show --help`; `argv` begins after `help`. */
static int run_help(int argc, char **argv)
{
	char *words[4] = {0}, help[] = "--help";

	if (!argc) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (argc > 2) {
		fputs("kvshare-run: help takes the name of one command\n", stderr);
		return RUN_EXIT_USAGE;
	}
	if (!strcmp(argv[0], "completion")) { /* for shells, so it is none of the commands that are listed */
		puts("Usage: kvshare-run completion bash|zsh\n\n"
		     "Prints what the shell needs to complete commands and options.");
		return EXIT_SUCCESS;
	}
	memcpy(words, argv, sizeof(*argv) * argc);
	words[argc] = help;
	return run_command(argc + 1, words);
}

static int run(int argc, char **argv)
{
	char name[] = "kvshare-run";

	if (argc < 2) {
		print_help(stderr);
		return RUN_EXIT_USAGE;
	}
	if (is_help(argv[1]))
		return run_help(0, NULL);
	if (!strcmp(argv[1], "help"))
		return run_help(argc - 2, argv + 2);
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts(argp_program_version);
		return EXIT_SUCCESS;
	}
	if (!strcmp(argv[1], "completion"))
		return run_print_completion(commands, argv[2]);
	if (argv[1][0] == '-')
		return run_as(&run_generate_command, name, argc, argv);
	return run_command(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	int status;

	argp_err_exit_status = RUN_EXIT_USAGE;
	if (run_open_streams())
		return run_complain();
	status = run(argc, argv);
	if (run_flush_stdout())
		status = run_complain();
	if (status == RUN_EXIT_INTERRUPTED)
		_exit(status); /* without waiting for the device, which may still be at work */
	return status;
}
