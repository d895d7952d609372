/*
 * tools/run/plan/plan.c: `kvshare-run plan` shows a sharing plan, checks it against a model, and converts it.
 */
#include "plan.h"
#include "../../../calib/calib.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_OWNERS = 256, OPTION_JSON, OPTION_TO, OPTION_FROM };

struct env {
	const struct argp *argp;   /* the verb's */
	const char *path, *owners; /* one of them gives the plan */
	const char *dir, *output;
	bool json, from_lckv, to_set;
	enum plan_format to;
};

/* ---- options ---- */

static void parse_to(struct argp_state *state, struct env *env, const char *text)
{
	static const char *const formats[] = {
		"json", "lckv", "vllm", "transformers", "checkpoint", NULL}; /* enum plan_format */

	env->to = run_parse_word(state, "--to", text, formats);
	env->to_set = true;
}

static void parse_from(struct argp_state *state, struct env *env, const char *text)
{
	static const char *const formats[] = {"json", "lckv", NULL};

	env->from_lckv = run_parse_word(state, "--from", text, formats);
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
		argp_error(state, "\"%s\" and --owners both give a plan: use only one", env->path);
	if (env->from_lckv && env->owners)
		argp_error(state, "--from lckv takes its notation as an argument, not --owners");
}

static const struct argp check_argp, convert_argp;

static void check_verb(struct argp_state *state, const struct env *env)
{
	if (env->argp == &check_argp && !env->dir)
		argp_error(state, "which model? Name its directory with -m DIR");
	if (env->argp == &convert_argp && !env->to_set)
		argp_error(state, "into what? Say --to json, lckv, vllm, transformers or checkpoint");
	if (env->argp != &convert_argp)
		return;
	if (env->to == PLAN_CHECKPOINT && (!env->path || env->from_lckv || !env->dir || !env->output))
		argp_error(state,
			"--to checkpoint takes the plan's file, the model with -m DIR, and a new directory with -o");
	if (env->to != PLAN_CHECKPOINT && env->dir)
		argp_error(state, "-m belongs to --to checkpoint");
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
		env->owners = run_parse_owners(state, text);
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
		check_verb(state, env);
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
	{"json", OPTION_JSON, NULL, 0, "print one JSON object to stdout, and nothing else", 0},
	{0},
};
static const struct argp_option check_options[] = {
	OWNERS_OPTION,
	{"model", 'm', "DIR", 0, "Hugging Face checkpoint directory, or a GGUF file (required)", 0},
	{0},
};
static const struct argp_option convert_options[] = {
	OWNERS_OPTION,
	{"to", OPTION_TO, "json|lckv|vllm|transformers|checkpoint", 0,
		"json: a plan file; lckv: LCKV's notation, as in 0_1_2_1; vllm: a plug-in for vLLM; transformers: "
		"Python that runs the plan on a Hugging Face model; checkpoint: a directory with the plan's refitted "
		"matrices in its weights (required)",
		0},
	{"model", 'm', "DIR", 0, "with --to checkpoint: the Hugging Face directory that the plan is for", 0},
	{"from", OPTION_FROM, "json|lckv", 0, "the form of PLAN: a file (json, default), or LCKV's notation itself", 0},
	{"output", 'o', "FILE", 0, "write to FILE (default: -, standard output); a new directory with --to checkpoint",
		0},
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

/* It runs, but the search never makes such a plan: the two layers were trained to see different stretches of the text. */
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
	err = run_plan_check(plan, ckpt);
	if (err) {
		err = kvs_fail(err, "%s does not fit %s: %s", plan_name(env), env->dir, kvs_error());
	} else {
		warn_of_windows(plan, config->window);
		printf("%s fits %s: %s, %d layers\n", plan_name(env), env->dir, config->model_type, config->layers);
	}
	kvs_checkpoint_close(ckpt);
	return err;
}

/* The notation has no place for which model it is for. */
static void warn_of_weights(const struct env *env, const kvs_plan *plan)
{
	char digest[KVS_PATCH_DIGEST];

	if (!run_patch_in_weights(plan, digest) && *digest)
		fprintf(stderr,
			"kvshare-run: warning: %s is for the checkpoint with its refitted matrices in the weights: "
			"with "
			"another model these owners lose more\n",
			plan_name(env));
}

static int convert(const struct env *env, const kvs_plan *plan)
{
	char *text;
	int err;

	if (env->to == PLAN_CHECKPOINT)
		return plan_write_checkpoint(plan, env->path, env->dir, env->output);
	err = plan_export(plan, env->to, &text);
	if (err)
		return err;
	run_patch_warn_left_out(env->path, plan);
	if (env->to == PLAN_LCKV)
		warn_of_weights(env, plan);
	err = run_write_output(env->output ? env->output : "-", text);
	free(text);
	return err;
}

/* ---- the verbs ---- */

static int run_verb(const struct argp *argp, int argc, char **argv, int (*run)(const struct env *, const kvs_plan *))
{
	struct env env = {.argp = argp};
	kvs_plan *plan;
	int err;

	argp_parse(argp, argc, argv, 0, NULL, &env);
	err = open_plan(&env, &plan);
	if (!err) {
		err = run(&env, plan);
		kvs_plan_free(plan);
	}
	return err ? run_complain() : EXIT_SUCCESS;
}

static const struct argp show_argp = {show_options, parse, "[PLAN]",
	"Show which layers share in a plan, as a table with a map, and how the plan was found.\v"
	"Examples:\n"
	"  kvshare-run plan show plan.json\n"
	"  kvshare-run plan show --owners 0,1,2,1\n",
	NULL, NULL, NULL};

static int run_show(int argc, char **argv)
{
	return run_verb(&show_argp, argc, argv, show);
}

static const struct argp check_argp = {check_options, parse, "[PLAN]",
	"Check that a plan fits a model.\v"
	"Exits with 0 if it does, 1 if it does not. Layers with different sliding windows "
	"may share; a warning names them.\n\n"
	"Example:\n"
	"  kvshare-run plan check plan.json -m DIR\n",
	NULL, NULL, NULL};

static int run_check(int argc, char **argv)
{
	return run_verb(&check_argp, argc, argv, check);
}

static const struct argp convert_argp = {convert_options, parse, "[PLAN]",
	"Write a plan in the notation of another program.\v"
	"Examples:\n"
	"  kvshare-run plan convert plan.json --to transformers -o run_plan.py\n"
	"  kvshare-run plan convert plan.json --to vllm -o kvshare_plan.py\n"
	"  kvshare-run plan convert plan.json --to checkpoint -m DIR -o NEW-DIR\n"
	"  kvshare-run plan convert --from lckv 0_1_2_1 --to json -o plan.json\n",
	NULL, NULL, NULL};

static int run_convert(int argc, char **argv)
{
	return run_verb(&convert_argp, argc, argv, convert);
}

static const struct run_subcommand verbs[] = {
	{"show", "which layers share, as a table with a map", &show_argp, run_show, NULL},
	{"check", "whether a plan fits a model", &check_argp, run_check, NULL},
	{"convert", "a plan for vLLM or transformers, in LCKV's notation, or back", &convert_argp, run_convert, NULL},
	{0},
};

const struct run_subcommand run_plan_command = {
	"plan", "show a plan, check it against a model, or convert it for other programs", NULL, NULL, verbs};
