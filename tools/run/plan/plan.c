/*
 * tools/run/plan/plan.c: `kvshare-run plan` looks at a sharing plan, checks it against a model, and says it in other words.
 */
#include "plan.h"
#include "../../../calib/calib.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_OWNERS = 256, OPTION_JSON, OPTION_TO, OPTION_FROM };

struct env {
	const char *path, *owners; /* one of them says the plan */
	const char *dir, *output;
	bool json, from_lckv, to_set;
	enum plan_format to;
};

/* ---- options ---- */

static const struct {
	const char *name;
	enum plan_format format;
} formats[] = {{"json", PLAN_JSON}, {"lckv", PLAN_LCKV}, {"vllm", PLAN_VLLM}, {"transformers", PLAN_TRANSFORMERS}};

static void parse_to(struct argp_state *state, struct env *env, const char *text)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
		if (!strcmp(text, formats[i].name)) {
			env->to = formats[i].format;
			env->to_set = true;
			return;
		}
	}
	argp_error(state, "--to is \"%s\": json, lckv, vllm or transformers is wanted", text);
}

static void parse_from(struct argp_state *state, struct env *env, const char *text)
{
	if (strcmp(text, "lckv") && strcmp(text, "json"))
		argp_error(state, "--from is \"%s\": json (a plan's file) or lckv (its notation) is wanted", text);
	env->from_lckv = !strcmp(text, "lckv");
}

static void parse_path(struct argp_state *state, struct env *env, const char *text)
{
	if (env->path)
		argp_error(state, "one plan at a time: \"%s\" and \"%s\" are two", env->path, text);
	env->path = text;
}

static void check_source(struct argp_state *state, const struct env *env)
{
	if (!env->path && !env->owners)
		argp_error(state, "which plan? Name its file, or list the owners with --owners");
	if (env->path && env->owners)
		argp_error(state, "\"%s\" and --owners both say a plan: give one of them", env->path);
	if (env->from_lckv && env->owners)
		argp_error(state, "--from lckv takes its notation as an argument, not --owners");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case 'm':
		env->dir = text;
		return 0;
	case 'o':
		env->output = text;
		return 0;
	case OPTION_OWNERS:
		env->owners = text;
		return 0;
	case OPTION_JSON:
		env->json = true;
		return 0;
	case OPTION_TO:
		parse_to(state, env, text);
		return 0;
	case OPTION_FROM:
		parse_from(state, env, text);
		return 0;
	case ARGP_KEY_ARG:
		parse_path(state, env, text);
		return 0;
	case ARGP_KEY_END:
		check_source(state, env);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

#define OWNERS_OPTION                                                                                                  \
	{                                                                                                              \
		"owners", OPTION_OWNERS, "LIST", 0, "the plan as a list: the owner of each layer's K and V", 0         \
	}

static const struct argp_option show_options[] = {
	OWNERS_OPTION,
	{"json", OPTION_JSON, NULL, 0, "print one JSON object on stdout, and nothing else there", 0},
	{0},
};
static const struct argp_option check_options[] = {
	OWNERS_OPTION,
	{"model", 'm', "DIR", 0, "Hugging Face checkpoint directory (required)", 0},
	{0},
};
static const struct argp_option convert_options[] = {
	OWNERS_OPTION,
	{"to", OPTION_TO, "FORMAT", 0,
		"lckv: its notation, as in 0_1_2_1; vllm: a plug-in for vLLM; transformers: Python that runs the plan "
		"on "
		"a Hugging Face model; json: a plan's file (required)",
		0},
	{"from", OPTION_FROM, "json|lckv", 0, "what PLAN is: a file (json, default), or LCKV's notation itself", 0},
	{"output", 'o', "FILE", 0, "write there, whole or not at all (default: standard output)", 0},
	{0},
};

/* ---- show, check, convert ---- */

static int open_plan(const struct env *env, kvs_plan **plan)
{
	if (env->owners)
		return kvs_plan_parse(env->owners, plan);
	return env->from_lckv ? plan_from_lckv(env->path, plan) : kvs_plan_load(env->path, plan);
}

static const char *plan_name(const struct env *env)
{
	return env->path ? env->path : "the plan of --owners";
}

static int show(const struct env *env, const kvs_plan *plan)
{
	return plan_show(plan, plan_name(env), env->json);
}

static void put_window(FILE *out, int window)
{
	if (window)
		fprintf(out, "a window of %d tokens", window);
	else
		fputs("no window", out);
}

/* It runs, but a searched plan never does this: the layers were trained to look at different stretches of the text. */
static void warn_of_window(const char *what, int layer, int owner, const int *window)
{
	if (window[layer] == window[owner])
		return;
	fprintf(stderr, "kvshare-run: warning: layer %d has ", layer);
	put_window(stderr, window[layer]);
	fprintf(stderr, " and reads %s of layer %d, which has ", what, owner);
	put_window(stderr, window[owner]);
	fputc('\n', stderr);
}

static void warn_of_windows(const kvs_plan *plan, const int *window)
{
	for (int layer = 0; layer < kvs_plan_layers(plan); layer++) {
		int k = kvs_plan_owner(plan, layer, KVS_K), v = kvs_plan_owner(plan, layer, KVS_V);

		warn_of_window(k == v ? "K and V" : "K", layer, k, window);
		if (k != v)
			warn_of_window("V", layer, v, window);
	}
}

static int check(const struct env *env, const kvs_plan *plan)
{
	kvs_checkpoint *ckpt;
	const struct kvs_config *config;
	int err = kvs_checkpoint_open(env->dir, &ckpt);

	if (err)
		return err;
	config = kvs_checkpoint_config(ckpt);
	struct kvs_plan_model model = {.architecture = config->model_type,
		.layers = config->layers,
		.kv_heads = config->kv_heads,
		.head_dim = config->head_dim,
		.fingerprint = kvs_checkpoint_fingerprint(ckpt)};
	err = kvs_plan_check(plan, &model);
	if (err) {
		err = kvs_fail(err, "%s does not fit %s: %s", plan_name(env), env->dir, kvs_error());
	} else {
		warn_of_windows(plan, config->window);
		printf("%s fits %s: %s, %d layers\n", plan_name(env), env->dir, config->model_type, config->layers);
	}
	kvs_checkpoint_close(ckpt);
	return err;
}

static int convert(const struct env *env, const kvs_plan *plan)
{
	char *text;
	int err = plan_export(plan, env->to, &text);

	if (err)
		return err;
	if (env->output)
		err = kvs_text_write(env->output, text, strlen(text));
	else
		fputs(text, stdout);
	free(text);
	return err;
}

/* ---- which of them ---- */

static const char show_doc[] = "Show who shares with whom in a plan, as a table with a map, and how it was found.\v"
			       "Examples:\n"
			       "  kvshare-run plan show plan.json\n"
			       "  kvshare-run plan show --owners 0,1,2,1\n";
static const char check_doc[] =
	"Check that a plan fits a model.\v"
	"Exits 0 where it does, 1 where not. Layers with different sliding windows that share are "
	"allowed, with a warning.\n\n"
	"Example:\n"
	"  kvshare-run plan check plan.json -m DIR\n";
static const char convert_doc[] = "Say a plan in the words of another program.\v"
				  "Examples:\n"
				  "  kvshare-run plan convert plan.json --to transformers -o run_plan.py\n"
				  "  kvshare-run plan convert plan.json --to vllm -o kvshare_plan.py\n"
				  "  kvshare-run plan convert --from lckv 0_1_2_1 --to json -o plan.json\n";

static const struct verb {
	const char *name;
	int (*run)(const struct env *env, const kvs_plan *plan);
	struct argp argp;
} verbs[] = {
	{"show", show, {show_options, parse, "[PLAN]", show_doc, NULL, NULL, NULL}},
	{"check", check, {check_options, parse, "[PLAN]", check_doc, NULL, NULL, NULL}},
	{"convert", convert, {convert_options, parse, "[PLAN]", convert_doc, NULL, NULL, NULL}},
};

#define VERB_COUNT (sizeof(verbs) / sizeof(*verbs))

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < VERB_COUNT; i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static int usage(FILE *out, int status)
{
	fputs("Usage: kvshare-run plan show [PLAN] [--owners LIST] [--json]\n"
	      "   or: kvshare-run plan check [PLAN] [--owners LIST] -m DIR\n"
	      "   or: kvshare-run plan convert [PLAN] [--owners LIST] --to FORMAT [-o FILE]\n\n"
	      "`kvshare-run plan show --help`, and so on, explains each.\n",
		out);
	return status;
}

/* What argp cannot say: an option that one verb cannot do without. */
static int check_usage(const struct verb *verb, const struct env *env)
{
	const char *missing = NULL;

	if (verb->run == check && !env->dir)
		missing = "check: which model? Name its directory with -m DIR";
	if (verb->run == convert && !env->to_set)
		missing = "convert: into what? Say --to json, lckv, vllm or transformers";
	if (missing)
		fprintf(stderr, "kvshare-run plan %s\n", missing);
	return missing ? EXIT_USAGE : 0;
}

static int run_verb(const struct verb *verb, const struct env *env)
{
	kvs_plan *plan;
	int err = open_plan(env, &plan);

	if (err)
		return err;
	err = verb->run(env, plan);
	kvs_plan_free(plan);
	if (!err && (fflush(stdout) || ferror(stdout)))
		err = kvs_fail(-EIO, "writing to stdout: %s", strerror(errno));
	return err;
}

int command_plan(int argc, char **argv)
{
	const struct verb *verb = argc > 1 ? find_verb(argv[1]) : NULL;
	struct env env = {0};
	char name[64];

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "-?")))
		return usage(stdout, EXIT_SUCCESS);
	if (!verb)
		return usage(stderr, EXIT_USAGE);
	snprintf(name, sizeof(name), "kvshare-run plan %s", verb->name);
	argv[1] = name;
	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&verb->argp, argc - 1, argv + 1, 0, NULL, &env);
	if (check_usage(verb, &env))
		return EXIT_USAGE;
	return run_verb(verb, &env) ? complain() : EXIT_SUCCESS;
}
