/*
 * tools/run/profile/report.c: `kvshare-run report` turns a trace into something to read.
 */
#include "../run.h"

#include "../../../profiler/profiler.h"

#include <stdlib.h>

struct env {
	const char *trace, *html;
	bool json;
};

enum { OPTION_JSON = 512, OPTION_HTML };

static const struct argp_option options[] = {
	{"json", OPTION_JSON, NULL, 0, "all figures as one JSON object on stdout", 0},
	{"html", OPTION_HTML, "FILE", 0,
		"the report as one HTML file that needs nothing else; \"-\" is standard output", 0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case OPTION_JSON:
		env->json = true;
		return 0;
	case OPTION_HTML:
		env->html = text;
		return 0;
	case ARGP_KEY_ARG:
		if (env->trace)
			argp_error(state, "one trace at a time: what is \"%s\"?", text);
		env->trace = text;
		return 0;
	case ARGP_KEY_END:
		if (!env->trace)
			argp_error(state, "which trace? One is written by `kvshare-run generate --profile TRACE`");
		if (env->json && env->html && run_is_stdout(env->html))
			argp_error(state, "--json and --html - both want standard output");
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
			  "  kvshare-run report run.trace --html run.html\n";

/* What goes to standard output is the one thing there, so the summary is printed only where nothing else is. */
static int print(const kvs_report *report, bool json)
{
	char *text;
	int err = json ? kvs_report_json(report, &text) : kvs_report_text(report, &text);

	if (err)
		return err;
	fputs(text, stdout);
	if (json)
		putchar('\n');
	free(text);
	return run_flush_stdout();
}

static int write_html(const kvs_report *report, const char *path)
{
	char *text;
	int err = kvs_report_html(report, &text);

	if (err)
		return err;
	err = run_write_output(path, text);
	free(text);
	return err;
}

static int print_all(const kvs_report *report, const struct env *env)
{
	int err = env->html ? write_html(report, env->html) : 0;

	if (!err && (env->json || !env->html))
		err = print(report, env->json);
	return err;
}

static const struct argp argp = {.options = options, .parser = parse, .args_doc = "TRACE", .doc = doc};

static int run(int argc, char **argv)
{
	struct env env = {0};
	kvs_report *report;
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = kvs_report_make(env.trace, &report);
	if (err)
		return run_complain();
	err = print_all(report, &env);
	kvs_report_free(report);
	return err ? run_complain() : EXIT_SUCCESS;
}

const struct run_subcommand run_report_command = {
	"report", "say what a trace holds: memory, sharing, leaks, time", &argp, run, NULL};
