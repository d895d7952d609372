/*
 * tools/run/main.c: kvshare-run finds the subcommand and hands over.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

static const struct command {
	const char *name, *summary;
	command_fn *run;
} commands[] = {
	{"generate", "continue a text with a model whose layers share KV memory", command_generate},
	{"eval", "mean next-token loss and perplexity on a text", command_eval},
	{"calibrate", "find a plan: which layers can share, and what it costs", command_calibrate},
	{"study", "compare ways to share on a model: loss against memory, as tables and charts", command_study},
	{"plan", "look at a plan, check it against a model, or hand it to other programs", command_plan},
	{"bench", "kernels and engine on a model's shape, against the device's measured ceiling", command_bench},
	{"doctor", "what this machine has for kvshare, and what to do about what it lacks", command_doctor},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(*commands))

static void print_help(FILE *out)
{
	fputs("Usage: kvshare-run COMMAND [OPTION...]\n"
	      "   or: kvshare-run -m DIR -p TEXT [OPTION...]      (generate)\n\n"
	      "Runs Llama-family checkpoints with a KV cache whose layers share physical memory.\n\n"
	      "Commands:\n",
		out);
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fputs("\n`kvshare-run COMMAND --help` explains each. Start with:\n\n"
	      "  kvshare-run doctor\n"
	      "  kvshare-run generate -m DIR -p 'Once upon a time' -n 64\n"
	      "  kvshare-run generate -m DIR -p 'Once upon a time' -n 64 --owners 0,1,2,1\n",
		out);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct command *command = argc > 1 ? find_command(argv[1]) : NULL;
	char name[64];

	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (command) { /* argp takes the program's name for its messages from argv[0] */
		snprintf(name, sizeof(name), "kvshare-run %s", command->name);
		argv[1] = name;
		return command->run(argc - 1, argv + 1);
	}
	if (argv[1][0] == '-')
		return command_generate(argc, argv);
	fprintf(stderr, "kvshare-run: no command \"%s\": `kvshare-run --help` lists them\n", argv[1]);
	return EXIT_USAGE;
}
