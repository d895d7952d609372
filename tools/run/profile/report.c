/*
 * tools/run/profile/report.c: `kvshare-run report` turns a trace into something to read.
 */
#include "../run.h"

#include "../../../profiler/profiler.h"

#include <stdlib.h>

enum output { HTML, PERFETTO, SPEEDSCOPE, CSV, OUTPUTS };

struct env {
	const char *trace, *other, *outputs[OUTPUTS]; /* paths; NULL: not wanted; other: of diff */
	bool json, diff;
};

enum { OPTION_JSON = 512, OPTION_DIFF, OPTION_OUTPUT }; /* OPTION_OUTPUT + enum output */

static const struct argp_option options[] = {
	{"json", OPTION_JSON, NULL, 0, "all figures as one JSON object on stdout", 0},
	{"diff", OPTION_DIFF, NULL, 0, "two traces side by side: memory, tokens a second, kernels, calls", 0},
	{"html", OPTION_OUTPUT + HTML, "FILE", 0,
		"the report as one HTML file that needs nothing else; \"-\" is standard output, here and below", 0},
	{"perfetto", OPTION_OUTPUT + PERFETTO, "FILE", 0, "the trace for ui.perfetto.dev (Chrome's JSON format)", 0},
	{"speedscope", OPTION_OUTPUT + SPEEDSCOPE, "FILE", 0, "the stacks of what was held, for www.speedscope.app", 0},
	{"csv", OPTION_OUTPUT + CSV, "FILE", 0, "allocations, in the columns of RAPIDS Memory Manager's log", 0},
	{0},
};

static void check_traces(struct argp_state *state, const struct env *env)
{
	if (!env->trace)
		argp_error(state, "which trace? One is written by `kvshare-run generate --profile TRACE`");
	if (!env->diff && env->other)
		argp_error(state, "one trace at a time, or --diff: what is \"%s\"?", env->other);
	if (env->diff && !env->other)
		argp_error(state, "--diff takes two traces");
	for (int o = 0; o < OUTPUTS; o++)
		if (env->diff && o != HTML && env->outputs[o])
			argp_error(state, "--diff makes text, --json or --html");
}

static void check_stdout(struct argp_state *state, const struct env *env)
{
	int wanted = env->json;

	for (int o = 0; o < OUTPUTS; o++)
		wanted += env->outputs[o] && run_is_stdout(env->outputs[o]);
	if (wanted > 1)
		argp_error(state, "standard output takes one of --json and the files named \"-\"");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case OPTION_JSON:
		env->json = true;
		return 0;
	case OPTION_OUTPUT + HTML:
	case OPTION_OUTPUT + PERFETTO:
	case OPTION_OUTPUT + SPEEDSCOPE:
	case OPTION_OUTPUT + CSV:
		env->outputs[key - OPTION_OUTPUT] = text;
		return 0;
	case OPTION_DIFF:
		env->diff = true;
		return 0;
	case ARGP_KEY_ARG:
		if (env->other)
			argp_error(state, "two traces at most: what is \"%s\"?", text);
		*(env->trace ? &env->other : &env->trace) = text;
		return 0;
	case ARGP_KEY_END:
		check_traces(state, env);
		check_stdout(state, env);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] = "Say what a trace holds: the peak of GPU memory and who held it, what sharing saved, leaks, "
			  "the slowest calls.\v"
			  "Examples:\n"
			  "  kvshare-run generate -m DIR -p 'Once upon a time' --profile run.trace\n"
			  "  kvshare-run report run.trace\n"
			  "  kvshare-run report run.trace --json >run.json\n"
			  "  kvshare-run report run.trace --html run.html\n"
			  "  kvshare-run report run.trace --perfetto run.json\n"
			  "  kvshare-run report --diff full.trace shared.trace --html both.html\n";

static int print_text(char *text, bool json)
{
	fputs(text, stdout);
	if (json)
		putchar('\n');
	free(text);
	return run_flush_stdout();
}

static int print(const kvs_report *report, bool json)
{
	char *text;
	int err = json ? kvs_report_json(report, &text) : kvs_report_text(report, &text);

	return err ? err : print_text(text, json);
}

static int write_diff_page(const kvs_report *a, const kvs_report *b, const char *path)
{
	char *text;
	int err = kvs_report_diff_html(a, b, NULL, &text);

	if (err)
		return err;
	err = run_write_output(path, text);
	free(text);
	return err;
}

static int print_diff(const kvs_report *a, const struct env *env)
{
	kvs_report *b;
	char *text;
	int err = kvs_report_make(env->other, &b);

	if (err)
		return err;
	if (env->outputs[HTML])
		err = write_diff_page(a, b, env->outputs[HTML]);
	if (!err && (env->json || !env->outputs[HTML])) {
		err = env->json ? kvs_report_diff_json(a, b, &text) : kvs_report_diff_text(a, b, &text);
		if (!err)
			err = print_text(text, env->json);
	}
	kvs_report_free(b);
	return err;
}

static int make(const kvs_report *report, enum output output, char **text, struct kvs_left_out *left_out)
{
	switch (output) {
	case HTML:
		return kvs_report_html(report, text);
	case PERFETTO:
		return kvs_report_perfetto(report, text, left_out);
	case SPEEDSCOPE:
		return kvs_report_speedscope(report, text);
	default:
		return kvs_report_csv(report, text, left_out);
	}
}

static void say_left_out(const char *path, const struct kvs_left_out *left_out)
{
	if (left_out->slices)
		fprintf(stderr, "%s: %llu slices shorter than %llu ns are left out\n", path,
			(unsigned long long)left_out->slices, (unsigned long long)left_out->shorter_than_ns);
	if (left_out->lifetimes)
		fprintf(stderr, "%s: the lifetimes of %llu small allocations are left out\n", path,
			(unsigned long long)left_out->lifetimes);
	if (left_out->rows)
		fprintf(stderr, "%s: the last %llu rows are left out\n", path, (unsigned long long)left_out->rows);
}

static int write_output(const kvs_report *report, enum output output, const char *path)
{
	struct kvs_left_out left_out = {0};
	char *text;
	int err = make(report, output, &text, &left_out);

	if (err)
		return err;
	err = run_write_output(path, text);
	free(text);
	if (!err)
		say_left_out(path, &left_out);
	return err;
}

/* The summary is for who asked for no file. */
static int write_all(const kvs_report *report, const struct env *env)
{
	bool any = false;
	int err = 0;

	for (int o = 0; o < OUTPUTS && !err; o++) {
		if (!env->outputs[o])
			continue;
		any = true;
		err = write_output(report, o, env->outputs[o]);
	}
	if (!err && (env->json || !any))
		err = print(report, env->json);
	return err;
}

static const struct argp argp = {
	.options = options, .parser = parse, .args_doc = "TRACE\n--diff TRACE TRACE", .doc = doc};

static int run(int argc, char **argv)
{
	struct env env = {0};
	kvs_report *report;
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = kvs_report_make(env.trace, &report);
	if (err)
		return run_complain();
	err = env.diff ? print_diff(report, &env) : write_all(report, &env);
	kvs_report_free(report);
	return err ? run_complain() : EXIT_SUCCESS;
}

const struct run_subcommand run_report_command = {
	"report", "say what a trace holds: memory, sharing, leaks, time", &argp, run, NULL};
